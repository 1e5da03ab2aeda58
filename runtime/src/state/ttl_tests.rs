//! States with a time to live, as an operator sees them, in snapshots and under cleanup.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{BackendSettings, KeyedBackend, OpenContext, TtlUpdate, TtlVisibility, ttl::Ttl};
use super::*;
use crate::{
    checkpoint::types::Times,
    ids::{KeyGroup, KeyGroupRange, OperatorUid},
};

type Parts = Vec<(KeyGroupRange, Bytes)>;

const TTL_MILLIS: i64 = 10;

fn ttl() -> Ttl {
    Ttl::new(Duration::from_millis(TTL_MILLIS.unsigned_abs()))
}

struct Operator {
    backend: KeyedBackend<u32>,
    value: TtlValueState<u32>,
    list: TtlListState<u32>,
    map: TtlMapState<u8, u32>,
    sum: TtlReducingState<u32>,
}

fn restore(parts: &Parts) -> KeyedBackend<u32> {
    let range = KeyGroupRange { first: KeyGroup(0), last: KeyGroup(7) };
    let settings = BackendSettings::default();
    KeyedBackend::restore(OperatorUid("op".into()), range, 8, parts, None, &settings).unwrap()
}

impl Operator {
    fn open(ttl: Ttl, parts: &Parts) -> Operator {
        let mut backend = restore(parts);
        let mut ctx: OpenContext<'_, u32> = backend.open_context();
        let value = ctx.ttl_value_state("value", ttl).unwrap();
        let list = ctx.ttl_list_state("list", ttl).unwrap();
        let map = ctx.ttl_map_state("map", ttl).unwrap();
        let sum = ctx.ttl_reducing_state("sum", ttl, |sum, more| *sum += more).unwrap();
        backend.opened();
        Operator { backend, value, list, map, sum }
    }

    fn at(&mut self, now: i64) -> &mut Self {
        self.backend.set_times(Times { processing: now, ..Times::default() });
        self
    }

    fn with<R>(&mut self, key: u32, act: impl FnOnce(&Handles, &mut KeyedContext<'_, u32>) -> R) -> R {
        let handles = Handles { value: self.value, list: self.list, map: self.map, sum: self.sum };
        act(&handles, &mut self.backend.context(&key).unwrap().unwrap())
    }

    fn snapshot(&mut self) -> Parts {
        let parts = self.backend.snapshot().unwrap().into_iter();
        parts.map(|part| (part.key_groups, part.data.encoded().unwrap())).collect()
    }
}

struct Handles {
    value: TtlValueState<u32>,
    list: TtlListState<u32>,
    map: TtlMapState<u8, u32>,
    sum: TtlReducingState<u32>,
}

#[derive(Clone, Debug)]
enum Step {
    Pass(i64),
    Set(u32, u32),
    Push(u32, u32),
    Insert(u32, u8, u32),
    Add(u32, u32),
    Read(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8i64).prop_map(Step::Pass),
        (0..3u32, any::<u32>()).prop_map(|(k, v)| Step::Set(k, v)),
        (0..3u32, any::<u32>()).prop_map(|(k, v)| Step::Push(k, v)),
        (0..3u32, 0..3u8, any::<u32>()).prop_map(|(k, m, v)| Step::Insert(k, m, v)),
        (0..3u32, 0..1000u32).prop_map(|(k, v)| Step::Add(k, v)),
        (0..3u32).prop_map(Step::Read),
    ];
    proptest::collection::vec(step, 0..60)
}

/// What a key should have: everything with its last access.
#[derive(Clone, Debug, Default)]
struct Model {
    value: Option<(i64, u32)>,
    list: Vec<(i64, u32)>,
    map: BTreeMap<u8, (i64, u32)>,
    sum: Option<(i64, u32)>,
}

impl Model {
    fn forget(&mut self, now: i64) {
        let alive = |at: i64| at + TTL_MILLIS > now;
        self.value = self.value.filter(|(at, _)| alive(*at));
        self.sum = self.sum.filter(|(at, _)| alive(*at));
        self.list.retain(|(at, _)| alive(*at));
        self.map.retain(|_, (at, _)| alive(*at));
    }

    fn touch(&mut self, now: i64) {
        let stamps = self.value.iter_mut().chain(&mut self.sum).chain(&mut self.list).chain(self.map.values_mut());
        stamps.for_each(|(at, _)| *at = now);
    }
}

proptest! {
    /// R: A.12. What is read is what was accessed within the time to live, whatever cleanup there is, through a restore,
    /// which takes no time to live away.
    #[test]
    fn only_what_lives_is_seen(
        before in steps(),
        after in steps(),
        on_read in any::<bool>(),
        filter in any::<bool>(),
        incremental in 0..4u32,
        per_record in any::<bool>(),
    ) {
        let mut config = ttl();
        if on_read {
            config = config.update(TtlUpdate::OnReadAndWrite);
        }
        if filter {
            config = config.cleanup_in_full_snapshot();
        }
        config = config.cleanup_incrementally(incremental, per_record);
        let mut operator = Operator::open(config, &Parts::new());
        let mut models: BTreeMap<u32, Model> = BTreeMap::new();
        let mut now = 1_000;
        for (part, steps) in [before, after].into_iter().enumerate() {
            if part == 1 {
                let parts = operator.snapshot();
                operator = Operator::open(config, &parts);
            }
            for step in steps {
                operator.at(now);
                models.values_mut().for_each(|model| model.forget(now));
                match step {
                    Step::Pass(millis) => now += millis,
                    Step::Set(key, value) => {
                        operator.with(key, |h, ctx| h.value.update(ctx, value)).unwrap();
                        models.entry(key).or_default().value = Some((now, value));
                    }
                    Step::Push(key, value) => {
                        operator.with(key, |h, ctx| h.list.push(ctx, value)).unwrap();
                        models.entry(key).or_default().list.push((now, value));
                    }
                    Step::Insert(key, entry, value) => {
                        operator.with(key, |h, ctx| h.map.insert(ctx, entry, value)).unwrap();
                        models.entry(key).or_default().map.insert(entry, (now, value));
                    }
                    Step::Add(key, value) => {
                        operator.with(key, |h, ctx| h.sum.add(ctx, value)).unwrap();
                        let model = models.entry(key).or_default();
                        model.sum = Some((now, model.sum.map_or(0, |(_, sum)| sum) + value));
                    }
                    Step::Read(key) => {
                        let model = models.entry(key).or_default();
                        operator.with(key, |h, ctx| {
                            assert_eq!(h.value.get(ctx).unwrap(), model.value.map(|(_, v)| v));
                            assert_eq!(h.list.get(ctx).unwrap(), model.list.iter().map(|(_, v)| *v).collect::<Vec<_>>());
                            let entries: Vec<(u8, u32)> = model.map.iter().map(|(k, (_, v))| (*k, *v)).collect();
                            assert_eq!(h.map.entries(ctx).unwrap(), entries);
                            assert_eq!(h.sum.get(ctx).unwrap(), model.sum.map(|(_, v)| v));
                        });
                        if on_read {
                            model.touch(now);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn expired_state_may_be_seen_once_if_that_is_asked_for() {
    let lax = ttl().visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp);
    let mut operator = Operator::open(lax, &Parts::new());
    operator.at(0).with(1, |h, ctx| h.value.update(ctx, 7)).unwrap();
    operator.at(0).with(1, |h, ctx| h.list.push(ctx, 8)).unwrap();
    operator.at(50);
    assert_eq!(operator.with(1, |h, ctx| h.value.get(ctx)).unwrap(), Some(7));
    assert_eq!(operator.with(1, |h, ctx| h.value.get(ctx)).unwrap(), None, "it was met, and is gone");
    assert_eq!(operator.with(1, |h, ctx| h.list.get(ctx)).unwrap(), [8]);
    assert_eq!(operator.with(1, |h, ctx| h.list.get(ctx)).unwrap(), Vec::<u32>::new());
    // What is added to does not go on from what has expired, even so.
    operator.at(50).with(2, |h, ctx| h.sum.add(ctx, 5)).unwrap();
    operator.at(90).with(2, |h, ctx| h.sum.add(ctx, 6)).unwrap();
    assert_eq!(operator.with(2, |h, ctx| h.sum.get(ctx)).unwrap(), Some(6));
}

#[test]
fn cleanup_comes_to_every_entry_and_takes_what_has_expired() {
    let mut operator = Operator::open(ttl().cleanup_incrementally(5, true), &Parts::new());
    for key in 0..200 {
        operator.at(0).with(key, |h, ctx| h.value.update(ctx, key)).unwrap();
    }
    assert_eq!(operator.backend.entries().unwrap(), 200);
    operator.at(8).with(1_000, |h, ctx| h.value.update(ctx, 1)).unwrap();
    operator.at(12);
    for _ in 0..200 {
        // Another key's state is used; nobody asks for those that have expired.
        operator.with(1_000, |h, ctx| h.value.get(ctx)).unwrap();
    }
    assert_eq!(operator.backend.entries().unwrap(), 1);
}

#[test]
fn a_full_snapshot_leaves_out_what_has_expired_and_the_working_state_keeps_it() {
    let mut operator = Operator::open(ttl().cleanup_in_full_snapshot(), &Parts::new());
    operator.at(0).with(1, |h, ctx| h.map.insert(ctx, 1, 1)).unwrap();
    operator.at(5).with(1, |h, ctx| h.map.insert(ctx, 2, 2)).unwrap();
    operator.at(0).with(2, |h, ctx| h.value.update(ctx, 1)).unwrap();
    operator.at(11);
    let parts = operator.snapshot();
    assert_eq!(operator.backend.entries().unwrap(), 2);
    let mut restored = Operator::open(ttl(), &parts);
    assert_eq!(restored.backend.entries().unwrap(), 1);
    // A clock that was set back does not bring it back.
    restored.at(6);
    assert_eq!(restored.with(1, |h, ctx| h.map.entries(ctx)).unwrap(), [(2, 2)]);
}

#[test]
fn a_state_cannot_be_given_a_time_to_live_later() {
    let mut operator = Operator::open(ttl(), &Parts::new());
    operator.at(0).with(1, |h, ctx| h.value.update(ctx, 7)).unwrap();
    let parts = operator.snapshot();
    let mut backend = restore(&parts);
    let error = backend.open_context().value_state::<u32>("value").err().unwrap();
    assert!(error.message().contains("Expiring"), "{error}");
}
