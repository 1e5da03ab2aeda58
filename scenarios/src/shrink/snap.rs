//! From a time to an event: a fault "at 4,146 ms" becomes a fault "at the 3rd CheckpointCompleted", which still means the same when
//! the schedule is another.

use std::collections::BTreeMap;

use runtime::journal::EventKind;

use super::{case::Case, story::Moment};
use crate::plan::Trigger;

/// Further away than this from its time a fault is not next to an event.
const NEAR_MS: u64 = 400;
/// Events tried for one fault.
const MOST: usize = 8;

/// The plan with the fault of this place at an event near its time instead: inside of one, the nearest first, and at last so much
/// later than the one before it. Empty for a fault that waits for an event already.
pub fn at_events(case: &Case, index: usize, story: &[Moment]) -> Vec<Case> {
    let Some(Trigger::AtMs(at_ms)) = case.plan.faults.get(index).map(|fault| fault.trigger.clone()) else {
        return Vec::new();
    };
    // How many of its kind there were up to each event.
    let mut counts = BTreeMap::new();
    let mut near = Vec::new();
    let mut before = None;
    for moment in story {
        let count = counts.entry(moment.kind).or_insert(0u32);
        *count += 1;
        // What only a planted bug tells is no protocol step to wait for.
        if moment.kind == EventKind::PlantedBugRan {
            continue;
        }
        let distance = moment.at_ms.abs_diff(at_ms);
        let on = |delay_ms| Trigger::On { event: moment.kind, entity: None, ordinal: *count, delay_ms };
        if moment.at_ms <= at_ms {
            before = Some(on(at_ms - moment.at_ms));
        }
        if distance <= NEAR_MS {
            near.push((distance, *count, moment.kind, on(0)));
        }
    }
    near.sort_by_key(|(distance, count, kind, _)| (*distance, *count, *kind));
    let mut kinds = std::collections::BTreeSet::new();
    near.retain(|(_, _, kind, _)| kinds.insert(*kind));
    near.truncate(MOST);
    near.into_iter()
        .map(|(_, _, _, trigger)| trigger)
        .chain(before)
        .filter_map(|trigger| {
            let mut plan = case.plan.clone();
            plan.faults[index].trigger = trigger;
            Case::of(plan)
        })
        .collect()
}
