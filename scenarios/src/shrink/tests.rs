//! The search against synthetic oracles: what it gives fails, is as small as promised, and does not depend on the order in which
//! verdicts arrive.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    case::{Case, mishaps, with_mishaps},
    ddmin::{Ddmin, List},
    machine::{Shrink, Step},
    search::{Next, Pass, Search},
};
use crate::plan::{Trigger, generate, profile};

type Items = Vec<u32>;

struct Whole;

impl List<Items> for Whole {
    fn len(&self, of: &Items) -> usize {
        of.len()
    }

    fn keep(&self, of: &Items, items: &[usize]) -> Option<Items> {
        Some(items.iter().map(|item| of[*item]).collect())
    }
}

/// Answers in an order of its own, several under way at a time.
fn drive<C: Clone + Ord + std::fmt::Debug>(
    search: &mut Search<C>,
    pass: &mut dyn Pass<C>,
    at_a_time: usize,
    order: u64,
    fails: impl Fn(&C) -> bool,
) {
    let (mut under_way, mut bits): (Vec<C>, u64) = (Vec::new(), order | 1);
    loop {
        let next = search.next(pass);
        let waits = next == Next::Wait;
        match next {
            Next::Try(candidate) => under_way.push(candidate),
            Next::Done => return,
            Next::Wait => assert!(!under_way.is_empty(), "it waits for nothing"),
        }
        if (waits || under_way.len() >= at_a_time) && !under_way.is_empty() {
            bits = bits.rotate_right(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let chosen = (bits >> 33) as usize % under_way.len();
            let candidate = under_way.swap_remove(chosen);
            search.tell(&candidate, fails(&candidate));
        }
    }
}

/// An oracle that fails when one of some combinations is there; in a way that need not be monotone.
#[derive(Clone, Debug)]
struct Oracle {
    combinations: Vec<BTreeSet<u32>>,
    /// With this one there, it fails only if this many items are.
    spoiler: (u32, usize),
}

impl Oracle {
    fn fails(&self, items: &Items) -> bool {
        let spoiled = items.contains(&self.spoiler.0) && !items.len().is_multiple_of(self.spoiler.1);
        !spoiled && self.combinations.iter().any(|wanted| wanted.iter().all(|item| items.contains(item)))
    }
}

fn oracle() -> impl Strategy<Value = (Items, Oracle)> {
    (1usize..20).prop_flat_map(|length| {
        let items: Items = (0..length as u32).collect();
        let combination = prop::collection::btree_set(0..length as u32, 0..4);
        let combinations = prop::collection::vec(combination, 1..3);
        (Just(items), combinations, 0..30u32, 1..4usize).prop_map(|(items, combinations, spoiler, modulus)| {
            (items, Oracle { combinations, spoiler: (spoiler, modulus) })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_left_fails_is_minimal_and_the_same_in_any_order(
        (items, oracle) in oracle(), order in any::<u64>(), at_a_time in 1usize..6,
    ) {
        prop_assume!(oracle.fails(&items));
        let run = |at_a_time, order| {
            let mut search = Search::new(items.clone());
            let mut pass = Ddmin::new(Whole).guess(vec![0]);
            drive(&mut search, &mut pass, at_a_time, order, |items| oracle.fails(items));
            search.current().clone()
        };
        let left = run(at_a_time, order);
        prop_assert!(oracle.fails(&left));
        for index in 0..left.len() {
            let mut without = left.clone();
            without.remove(index);
            prop_assert!(!oracle.fails(&without), "{left:?} is not minimal: {without:?} fails");
        }
        prop_assert_eq!(left, run(1, 1), "one at a time gives another result");
    }

    #[test]
    fn a_plan_is_shrunk_to_what_the_oracle_needs(seed in 0..400u64, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let plan = generate(&profile::DEFAULT, seed);
        let count = mishaps(&plan).len();
        prop_assume!(count > 0);
        let needed: BTreeSet<usize> = picks.iter().map(|pick| pick.index(count)).collect();
        let items: Vec<usize> = needed.iter().copied().collect();
        let wanted = with_mishaps(&plan, &items);
        let holds = |case: &Case| {
            // Each needed fault is there, whatever became of its numbers; and the features that this failure needs.
            let kinds = |plan: &crate::plan::Plan| {
                let mut kinds: Vec<String> = plan.faults.iter().map(|f| format!("{}{:?}", f.target, f.fault)).collect();
                kinds.extend(plan.workload.parameters.keys().filter(|name| name.starts_with("user_")).cloned());
                kinds
            };
            let there = kinds(&case.plan);
            kinds(&wanted).iter().all(|kind| there.contains(kind))
                && case.plan.settings.local_recovery == plan.settings.local_recovery
                && case.plan.workload.records >= 100
        };
        let start = Case::of(plan.clone()).expect("sound");
        let mut shrink = Shrink::new(start, items.clone());
        let mut steps = 0;
        loop {
            match shrink.step() {
                Step::Try(case) => {
                    let fails = holds(&case);
                    shrink.tell(&case, fails);
                }
                Step::Story(_) => shrink.told(&[]),
                Step::Wait => prop_assert!(false, "nothing is under way"),
                Step::Done => break,
            }
            steps += 1;
            prop_assert!(steps < 5_000, "it does not end");
        }
        let result = shrink.current();
        prop_assert!(holds(result));
        for gone in 0..shrink.mishaps() {
            let kept: Vec<usize> = (0..shrink.mishaps()).filter(|place| *place != gone).collect();
            let without = Case::of(with_mishaps(&result.plan, &kept)).expect("sound");
            prop_assert!(!holds(&without), "a fault can be left out");
        }
        prop_assert!(result.plan.workload.records < 130, "{} records", result.plan.workload.records);
        prop_assert_eq!(result.plan.workload.parallelism, 1);
        let unusual = super::case::deviation_count(&result.plan);
        prop_assert!(unusual <= 1, "{unusual} fields of the configuration are left unusual");
    }
}

/// A time becomes the event next to it, if the failure stays.
#[test]
fn a_time_becomes_an_event() {
    use runtime::journal::EventKind;
    let moment = |at_ms, kind| super::story::Moment {
        at_ms,
        kind,
        process: "jobmanager".into(),
        entity: "job".into(),
        text: String::new(),
    };
    let story = [
        moment(500, EventKind::CheckpointCompleted),
        moment(900, EventKind::CheckpointTriggered),
        moment(1_010, EventKind::CheckpointCompleted),
        moment(4_000, EventKind::CheckpointCompleted),
    ];
    let mut plan = generate(&profile::DEFAULT, 3);
    plan.faults.truncate(1);
    plan.faults[0] = crate::plan::FaultSpec {
        target: "tm-1".into(),
        trigger: Trigger::AtMs(1_000),
        duration_ms: 0,
        fault: crate::plan::FaultKind::Crash { restart_after_ms: None },
    };
    let case = Case::of(plan).expect("sound");
    let triggers: Vec<Trigger> =
        super::snap::at_events(&case, 0, &story).into_iter().map(|case| case.plan.faults[0].trigger.clone()).collect();
    let on = |event, ordinal, delay_ms| Trigger::On { event, entity: None, ordinal, delay_ms };
    assert_eq!(
        triggers,
        [
            on(EventKind::CheckpointCompleted, 2, 0),
            on(EventKind::CheckpointTriggered, 1, 0),
            // The exact time, said by the event before it.
            on(EventKind::CheckpointTriggered, 1, 100),
        ]
    );
    assert!(super::snap::at_events(&super::snap::at_events(&case, 0, &story)[0], 0, &story).is_empty());
}
