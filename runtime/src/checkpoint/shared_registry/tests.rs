//! The registry against a model that knows a store, who has which base, and which names were deleted.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::{
        head::{HeadEntry, HeadState},
        types::{LedgerEpoch, PartKind, PartLocation},
    },
    ids::{AttemptId, JobId, KeyGroup, KeyGroupRange, OperatorUid, SubtaskId, VertexId},
};

const LAYOUT: Layout = Layout { job: JobId(7) };
const SUBTASKS: u32 = 2;

fn part(name: &str, object: ObjectName, written_by: u64) -> StatePart {
    StatePart {
        operator: OperatorUid("count".into()),
        key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(1) },
        name: name.to_string(),
        kind: PartKind::Keyed,
        location: PartLocation::Object(object),
        length: 1,
        crc32c: 0,
        written_by: CheckpointId(written_by),
        backend: None,
    }
}

fn shared(checkpoint: u64, subtask: u32, name: &str) -> ObjectName {
    let subtask = SubtaskId { vertex: VertexId(0), index: subtask };
    LAYOUT.shared_part(CheckpointId(checkpoint), AttemptId::default(), subtask, name, 0)
}

fn metadata(checkpoint: u64) -> ObjectName {
    ObjectName::new(format!("{}_metadata", LAYOUT.checkpoint_prefix(CheckpointId(checkpoint)))).unwrap()
}

fn snapshot(parts: Vec<StatePart>) -> SubtaskSnapshot {
    SubtaskSnapshot { parts, inline: BTreeMap::new() }
}

fn new_registry() -> SharedRegistry {
    SharedRegistry::rebuilt(LAYOUT, &HeadState::default())
}

/// Checkpoint `id` of one subtask completes with these objects.
fn complete(registry: &mut SharedRegistry, id: u64, parts: Vec<StatePart>) -> Vec<ObjectName> {
    let id = CheckpointId(id);
    registry.triggered(id);
    let snapshot = snapshot(parts);
    registry.acknowledged(id, &snapshot).unwrap();
    registry.completed(id, metadata(id.0), snapshot.objects().cloned())
}

/// What a dropped checkpoint wrote stays as long as another one refers to it.
#[test]
fn a_reused_object_outlives_the_checkpoint_that_wrote_it() {
    let mut registry = new_registry();
    let (a, b) = (shared(1, 0, "a"), shared(1, 0, "b"));
    assert!(complete(&mut registry, 1, vec![part("a", a.clone(), 1), part("b", b.clone(), 1)]).is_empty());
    assert!(complete(&mut registry, 2, vec![part("a", a.clone(), 1)]).is_empty());
    assert_eq!(registry.dropped(CheckpointId(1)), [metadata(1), b]);
    assert!(complete(&mut registry, 3, vec![]).is_empty());
    assert_eq!(registry.dropped(CheckpointId(2)), [metadata(2), a]);
}

/// A checkpoint that was triggered before the drop may be based on the dropped one: until it is settled nothing goes.
#[test]
fn what_one_under_way_may_need_is_held() {
    for needs_it in [false, true] {
        let mut registry = new_registry();
        let a = shared(1, 0, "a");
        let _ = complete(&mut registry, 1, vec![part("a", a.clone(), 1)]);
        registry.triggered(CheckpointId(3));
        let _ = complete(&mut registry, 2, vec![]);
        assert_eq!(registry.dropped(CheckpointId(1)), [metadata(1)]);
        assert!(registry.is_needed(&a));
        let late = snapshot(if needs_it { vec![part("a", a.clone(), 1)] } else { Vec::new() });
        registry.acknowledged(CheckpointId(3), &late).unwrap();
        let gone = registry.completed(CheckpointId(3), metadata(3), late.objects().cloned());
        assert_eq!(gone, if needs_it { vec![] } else { vec![a.clone()] });
        assert_eq!(registry.is_needed(&a), needs_it);
    }
}

/// A subtask that heard nothing of newer checkpoints bases a snapshot on what is gone.
#[test]
fn a_base_that_is_gone_is_refused() {
    let mut registry = new_registry();
    let a = shared(1, 0, "a");
    let _ = complete(&mut registry, 1, vec![part("a", a.clone(), 1)]);
    let _ = complete(&mut registry, 2, vec![]);
    let _ = registry.dropped(CheckpointId(1));
    registry.triggered(CheckpointId(3));
    let own = shared(3, 0, "b");
    let error = registry
        .acknowledged(CheckpointId(3), &snapshot(vec![part("b", own.clone(), 3), part("a", a.clone(), 1)]))
        .unwrap_err();
    assert_eq!((error.object, error.written_by), (a, CheckpointId(1)));
    assert_eq!(registry.aborted(CheckpointId(3)), [own], "what it wrote itself goes all the same");
    // Neither are files that belong to one checkpoint alone for others to refer to.
    registry.triggered(CheckpointId(4));
    let alone = ObjectName::new(format!("{}x", LAYOUT.checkpoint_prefix(CheckpointId(2)))).unwrap();
    assert!(registry.acknowledged(CheckpointId(4), &snapshot(vec![part("x", alone, 2)])).is_err());
}

/// A subtask that is asked for an older checkpoint cannot have a newer one to build on, though that one is whole and there.
#[test]
fn a_later_checkpoint_is_no_base() {
    let mut registry = new_registry();
    registry.triggered(CheckpointId(1));
    let a = shared(2, 0, "a");
    let _ = complete(&mut registry, 2, vec![part("a", a.clone(), 2)]);
    let error = registry.acknowledged(CheckpointId(1), &snapshot(vec![part("a", a.clone(), 2)])).unwrap_err();
    let expected = format!("part a refers to {a} of checkpoint 2, which is a later one");
    assert_eq!(error.to_string(), expected);
}

#[derive(Clone, Debug)]
enum Step {
    Trigger,
    /// Subtask acknowledges the n-th checkpoint under way; of its parts those whose bit is set are new.
    Ack {
        pending: u8,
        subtask: u8,
        new: u8,
    },
    /// The subtask hears of all that has completed.
    Confirm(u8),
    Complete {
        pending: u8,
        retain: u8,
    },
    Abort(u8),
    /// An acknowledgement of a checkpoint that is settled already.
    Late {
        subtask: u8,
        back: u8,
    },
    /// A failover: everything under way is aborted, bases are forgotten.
    Restart,
    /// Another leader, which reads the head log and sweeps.
    NewLeader,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Trigger),
        10 => (any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(pending, subtask, new)| Step::Ack { pending, subtask, new }),
        4 => any::<u8>().prop_map(Step::Confirm),
        5 => (any::<u8>(), 1u8..3).prop_map(|(pending, retain)| Step::Complete { pending, retain }),
        1 => any::<u8>().prop_map(Step::Abort),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(subtask, back)| Step::Late { subtask, back }),
        1 => Just(Step::Restart),
        1 => Just(Step::NewLeader),
    ];
    proptest::collection::vec(step, 1..120)
}

const PARTS: u8 = 3;

struct Model {
    registry: SharedRegistry,
    head: HeadState,
    next: u64,
    store: BTreeSet<ObjectName>,
    deleted: BTreeSet<ObjectName>,
    /// Under way, with the snapshots acknowledged.
    open: BTreeMap<u64, BTreeMap<u32, SubtaskSnapshot>>,
    /// What each subtask wrote, per checkpoint.
    written: BTreeMap<(u32, u64), SubtaskSnapshot>,
    /// The checkpoint that each subtask was told of last.
    base: BTreeMap<u32, u64>,
}

impl Model {
    fn delete(&mut self, objects: Vec<ObjectName>) {
        for object in objects {
            assert!(self.store.remove(&object), "{object} is not there, or is deleted twice");
            for retained in self.head.retained.values() {
                assert!(retained.all_objects().all(|needed| *needed != object), "{object} is retained");
            }
            self.deleted.insert(object);
        }
    }

    fn nth_open(&self, n: u8) -> Option<u64> {
        (!self.open.is_empty()).then(|| *self.open.keys().nth(usize::from(n) % self.open.len()).unwrap())
    }

    /// Parts come from the base where they are not new.
    fn take(&mut self, checkpoint: u64, subtask: u32, new: u8) -> SubtaskSnapshot {
        let base = self.base.get(&subtask).and_then(|base| self.written.get(&(subtask, *base))).cloned();
        let parts = (0..PARTS).map(|n| {
            let name = format!("part-{n}");
            let reused = base.iter().flat_map(|base| &base.parts).find(|part| part.name == name);
            match reused.filter(|_| new & (1 << n) == 0) {
                Some(part) => part.clone(),
                None => {
                    let object = shared(checkpoint, subtask, &name);
                    self.store.insert(object.clone());
                    part(&name, object, checkpoint)
                }
            }
        });
        let snapshot = snapshot(parts.collect());
        self.written.insert((subtask, checkpoint), snapshot.clone());
        snapshot
    }

    fn abort(&mut self, checkpoint: u64) {
        self.open.remove(&checkpoint);
        let gone = self.registry.aborted(CheckpointId(checkpoint));
        self.delete(gone);
    }

    fn complete(&mut self, checkpoint: u64, retain: u8) {
        let snapshots = self.open.remove(&checkpoint).unwrap();
        let objects: Vec<_> = snapshots.values().flat_map(SubtaskSnapshot::objects).cloned().collect();
        for object in &objects {
            assert!(self.store.contains(object), "{object} of checkpoint {checkpoint} is gone");
        }
        self.store.insert(metadata(checkpoint));
        let id = CheckpointId(checkpoint);
        let mut retained: Vec<_> = self.head.retained.keys().copied().chain([id]).collect();
        let dropped: Vec<_> = retained.drain(..retained.len().saturating_sub(retain.into())).collect();
        let entry = HeadEntry::Completed {
            attempt: AttemptId::default(),
            checkpoint: id,
            metadata: metadata(checkpoint),
            objects: objects.clone(),
            ledger: LedgerEpoch::default(),
            sinks: BTreeMap::new(),
            exhausted: false,
            retained,
            dropped: dropped.clone(),
        };
        self.head.apply(self.head.next_sequence, &entry);
        let gone = self.registry.completed(id, metadata(checkpoint), objects);
        self.delete(gone);
        // Older ones under way are overtaken.
        for other in self.open.keys().copied().filter(|other| *other < checkpoint).collect::<Vec<_>>() {
            self.abort(other);
        }
        for id in dropped {
            let gone = self.registry.dropped(id);
            self.delete(gone);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Trigger if self.open.len() < 3 => {
                self.next += 1;
                self.registry.triggered(CheckpointId(self.next));
                self.open.insert(self.next, BTreeMap::new());
            }
            Step::Trigger => {}
            Step::Ack { pending, subtask, new } => {
                let (Some(checkpoint), subtask) = (self.nth_open(*pending), u32::from(*subtask) % SUBTASKS) else {
                    return;
                };
                if self.open[&checkpoint].contains_key(&subtask) {
                    return;
                }
                let snapshot = self.take(checkpoint, subtask, *new);
                match self.registry.acknowledged(CheckpointId(checkpoint), &snapshot) {
                    Ok(()) => drop(self.open.get_mut(&checkpoint).unwrap().insert(subtask, snapshot)),
                    Err(bad) => {
                        assert!(self.deleted.contains(&bad.object), "{bad} although it is there");
                        self.abort(checkpoint);
                    }
                }
            }
            Step::Confirm(subtask) => {
                if let Some(newest) = self.head.newest {
                    self.base.insert(u32::from(*subtask) % SUBTASKS, newest.0);
                }
            }
            Step::Complete { pending, retain } => {
                let whole: Vec<_> =
                    self.open.iter().filter(|(_, acks)| acks.len() == SUBTASKS as usize).map(|(id, _)| *id).collect();
                if !whole.is_empty() {
                    self.complete(whole[usize::from(*pending) % whole.len()], *retain);
                }
            }
            Step::Abort(pending) => {
                if let Some(checkpoint) = self.nth_open(*pending) {
                    self.abort(checkpoint);
                }
            }
            Step::Late { subtask, back } => {
                let subtask = u32::from(*subtask) % SUBTASKS;
                let checkpoint = self.next.saturating_sub(u64::from(*back) % 8);
                let settled =
                    !self.open.contains_key(&checkpoint) && !self.head.ledger.contains_key(&CheckpointId(checkpoint));
                if checkpoint > 0 && settled && !self.written.contains_key(&(subtask, checkpoint)) {
                    let snapshot = self.take(checkpoint, subtask, 1);
                    let gone = self.registry.unneeded(CheckpointId(checkpoint), &snapshot).cloned().collect();
                    self.delete(gone);
                }
            }
            Step::Restart => {
                for checkpoint in self.open.keys().copied().collect::<Vec<_>>() {
                    self.abort(checkpoint);
                }
                self.base.clear();
            }
            Step::NewLeader => {
                self.open.clear();
                self.base.clear();
                self.registry = SharedRegistry::rebuilt(LAYOUT, &self.head);
                let needed: BTreeSet<_> = self.head.retained.values().flat_map(|c| c.all_objects()).cloned().collect();
                let orphans = self.store.difference(&needed).cloned().collect();
                self.delete(orphans);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Nothing that a retained checkpoint refers to is deleted, nothing twice, no checkpoint completes with an object that is gone;
    /// and once nothing is under way, the store holds what is retained and nothing else.
    #[test]
    fn what_is_needed_stays_and_the_rest_goes(steps in steps()) {
        let mut model = Model {
            registry: new_registry(),
            head: HeadState::default(),
            next: 0,
            store: BTreeSet::new(),
            deleted: BTreeSet::new(),
            open: BTreeMap::new(),
            written: BTreeMap::new(),
            base: BTreeMap::new(),
        };
        for step in &steps {
            model.step(step);
        }
        model.step(&Step::Restart);
        let retained: BTreeSet<_> = model.head.retained.values().flat_map(|c| c.all_objects()).cloned().collect();
        prop_assert_eq!(&retained, &model.store);
        for id in model.head.retained.keys() {
            let of_head: BTreeSet<_> = model.head.retained[id].all_objects().collect();
            prop_assert_eq!(of_head, model.registry.objects_of(*id).collect());
        }
    }
}
