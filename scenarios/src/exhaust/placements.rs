//! Every placement of one fault in a run. Pure: from the steps of a run to plans.

use std::collections::BTreeSet;

use runtime::journal::EventKind;

use super::steps::{Step, representatives};
use crate::plan::{
    FaultClass, FaultKind, FaultSpec, Plan, Trigger,
    draw::Draw,
    model::JOB_MANAGER,
    singles::{SingleFault, Sites, Strike, Victim},
};

/// One fault at one step, or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub class: FaultClass,
    /// `crash-job-manager at BarrierSent of read->fold on tm-1 (event 312)`.
    pub name: String,
    pub plan: Plan,
    /// Positions of the faults that are placed, in the plan's list; what else is there was given or makes somebody look. Empty
    /// for a parameter of the workload.
    pub placed: Vec<usize>,
}

fn at(step: &Step) -> String {
    let of = if step.role.is_empty() { String::new() } else { format!(" of {}", step.role) };
    format!("{}{of} on {} (event {})", step.kind.name(), step.emitter, step.number)
}

/// Who can be hit by `single` at `step`, with the peer where there is one.
fn victims(single: &SingleFault, plan: &Plan, step: &Step) -> Vec<(String, String)> {
    let none = String::new;
    match single.victim {
        Victim::Emitter | Victim::JobManager | Victim::Store => vec![(step.emitter.clone(), none())],
        Victim::Channel => vec![(none(), none())],
        Victim::EachTaskManager => plan.cluster.task_manager_names().map(|name| (name, none())).collect(),
        Victim::Rack => vec![(none(), none())],
        Victim::EmitterAndJobManager(_) | Victim::EmitterAndPeer if step.is_of_job_manager() => {
            plan.cluster.task_manager_names().take(1).map(|peer| (JOB_MANAGER.to_string(), peer)).collect()
        }
        Victim::EmitterAndJobManager(_) | Victim::EmitterAndPeer => {
            vec![(step.emitter.clone(), JOB_MANAGER.to_string())]
        }
        Victim::EmitterAndOtherEnd(_) => {
            let other = step.other_end.clone().filter(|other| *other != step.emitter);
            other.map(|other| (step.emitter.clone(), other)).into_iter().collect()
        }
    }
}

fn specs_at(single: &SingleFault, plan: &Plan, step: &Step) -> Vec<Vec<FaultSpec>> {
    victims(single, plan, step)
        .iter()
        .filter_map(|(victim, peer)| single.specs(plan, &step.trigger(), victim, peer))
        .collect()
}

/// Adds placements whose plan is not there yet: what two ways of counting find twice is run once.
struct Adding {
    known: BTreeSet<String>,
    placements: Vec<Placement>,
}

impl Adding {
    fn add(&mut self, placement: Placement) {
        if self.known.insert(placement.plan.to_toml()) {
            self.placements.push(placement);
        }
    }
}

/// Every fault at every step of `steps` that stands for others, on top of what `base` holds. In a whole run also faults of
/// user code, near the first record, the one in the middle and the last; and those that only a restore shows.
pub fn singles(base: &Plan, steps: &[Step], is_whole_run: bool) -> Vec<Placement> {
    let mut adding = Adding { known: BTreeSet::new(), placements: Vec::new() };
    for single in FaultKind::single_faults(base) {
        if let Strike::Parameter(parameter) = single.strike {
            let records = base.workload.records;
            for record in [1, records / 2, records - 1].into_iter().filter(|_| is_whole_run) {
                let mut plan = base.clone();
                plan.workload.parameters.insert(parameter.to_string(), record);
                let name = format!("{} at record {record}", single.name());
                adding.add(Placement { class: single.class, name, plan, placed: Vec::new() });
            }
            continue;
        }
        if single.sites == Sites::Completion && !is_whole_run {
            continue;
        }
        if single.sites == Sites::Beginning {
            for victim in base.cluster.task_manager_names().filter(|_| is_whole_run) {
                let Some(specs) = single.specs(base, &Trigger::AtMs(0), &victim, "") else { continue };
                let mut plan = base.clone();
                let placed = vec![plan.faults.len()];
                plan.faults.extend(specs);
                let name = format!("{} of {victim} from the beginning", single.name());
                adding.add(Placement { class: single.class, name, plan, placed });
            }
            continue;
        }
        for step in representatives(steps, single.sites) {
            for specs in specs_at(&single, base, step) {
                let mut plan = base.clone();
                let placed = vec![plan.faults.len()];
                plan.faults.extend(specs);
                let name = format!("{} at {}", single.name(), at(step));
                adding.add(Placement { class: single.class, name, plan, placed });
            }
        }
    }
    adding.placements
}

/// The steps of the checkpoint in the middle of the run: from its trigger to the last that hears of its completion.
pub fn middle_checkpoint(steps: &[Step]) -> &[Step] {
    let completed: Vec<&Step> = steps.iter().filter(|s| s.kind == EventKind::CheckpointCompleted).collect();
    let Some(middle) = completed.get(completed.len() / 2) else { return &[] };
    let is = |kind: EventKind| move |step: &Step| step.kind == kind && step.entity == middle.entity;
    let first = steps.iter().position(is(EventKind::CheckpointTriggered)).unwrap_or(0);
    let next = steps[first + 1..].iter().position(|s| s.kind == EventKind::CheckpointTriggered);
    let end = next.map_or(steps.len(), |next| first + 1 + next);
    &steps[first..end]
}

/// `count` pairs of faults at steps of one checkpoint, drawn by the plan's seed. The second strikes at a later step, if that
/// still comes.
pub fn pairs(base: &Plan, steps: &[Step], count: u32) -> Vec<Placement> {
    let window = middle_checkpoint(steps);
    let candidates: Vec<(SingleFault, &Step)> = FaultKind::single_faults(base)
        .into_iter()
        .flat_map(|single| {
            let steps = representatives(window, single.sites);
            steps.into_iter().map(move |step| (single.clone(), step))
        })
        .filter(|(single, step)| !specs_at(single, base, step).is_empty())
        .collect();
    let mut adding = Adding { known: BTreeSet::new(), placements: Vec::new() };
    if candidates.is_empty() {
        return Vec::new();
    }
    for number in 0..count {
        let mut draw = Draw::new(base.seed, &format!("exhaust/pair/{number}"));
        let (one, other) = (draw.pick(&candidates), draw.pick(&candidates));
        let (first, second) = if one.1.number <= other.1.number { (one, other) } else { (other, one) };
        let mut plan = base.clone();
        let mut placed = Vec::new();
        for (single, step) in [first, second] {
            let choices = specs_at(single, base, step);
            placed.push(plan.faults.len());
            plan.faults.extend(draw.pick(&choices).clone());
        }
        let name = format!("{} at {}, and {} at {}", first.0.name(), at(first.1), second.0.name(), at(second.1));
        adding.add(Placement { class: first.0.class, name, plan, placed });
    }
    adding.placements
}

#[cfg(test)]
mod tests {
    use runtime::{
        ids::{AttemptId, CheckpointId},
        journal::Event,
    };

    use super::{
        super::steps::tests::{barrier, trace},
        *,
    };
    use crate::plan::{generate, profile::DEFAULT};

    fn base() -> Plan {
        let mut plan = generate(&DEFAULT, 7);
        plan.faults.clear();
        plan
    }

    fn checkpoint(id: u64) -> Vec<(&'static str, Event)> {
        let checkpoint = CheckpointId(id);
        vec![
            ("jobmanager", Event::CheckpointTriggered { checkpoint, attempt: AttemptId::default() }),
            ("tm-1", barrier("read[0]->fold[0]", id)),
            ("tm-1", barrier("read[0]->fold[1]", id)),
            ("jobmanager", Event::CheckpointCompleted { checkpoint, sequence: id }),
        ]
    }

    fn steps() -> Vec<Step> {
        trace(&(1..=5).flat_map(checkpoint).collect::<Vec<_>>())
    }

    #[test]
    fn every_class_is_placed_and_every_plan_is_valid_and_differs() {
        let placements = singles(&base(), &steps(), true);
        let classes: BTreeSet<_> = placements.iter().map(|p| p.class).collect();
        let needs_disk = [
            FaultClass::DiskFull,
            FaultClass::DiskError,
            FaultClass::DiskDenied,
            FaultClass::DiskSlow,
            FaultClass::DiskStall,
            FaultClass::UploadError,
            FaultClass::DatabaseError,
            FaultClass::DatabaseFull,
            FaultClass::NativeFileError,
        ];
        let expected: BTreeSet<_> = FaultClass::ALL.iter().copied().filter(|c| !needs_disk.contains(c)).collect();
        assert_eq!(classes, expected, "no event of this story comes before a use of the disk");
        let plans: BTreeSet<_> = placements.iter().map(|p| p.plan.to_toml()).collect();
        assert_eq!(plans.len(), placements.len());
        for placement in &placements {
            assert_eq!(placement.plan.check(), Ok(()), "{}", placement.name);
        }
    }

    #[test]
    fn a_crash_is_placed_at_the_first_the_middle_and_the_last_of_what_is_alike() {
        let placements = singles(&base(), &steps(), true);
        let crashes: Vec<_> = placements
            .iter()
            .filter(|p| p.class == FaultClass::CrashTaskManager)
            .map(|p| match &p.plan.faults[p.placed[0]].trigger {
                Trigger::On { event, ordinal, .. } => (*event, *ordinal),
                Trigger::AtMs(_) => unreachable!("placed at an event"),
            })
            .collect();
        let sent = EventKind::BarrierSent;
        assert_eq!(crashes, [(sent, 1), (sent, 6), (sent, 10)]);
    }

    #[test]
    fn pairs_fall_into_one_checkpoint_and_are_drawn_alike_each_time() {
        let steps = steps();
        let window = middle_checkpoint(&steps);
        assert_eq!(window.iter().map(|s| s.number).collect::<Vec<_>>(), [8, 9, 10, 11]);
        let drawn = pairs(&base(), &steps, 20);
        assert_eq!(drawn, pairs(&base(), &steps, 20));
        assert!(drawn.len() > 15, "few are drawn twice: {}", drawn.len());
        for pair in &drawn {
            assert_eq!(pair.placed.len(), 2);
            assert_eq!(pair.plan.check(), Ok(()), "{}", pair.name);
        }
        assert!(pairs(&base(), &[], 20).is_empty());
    }
}
