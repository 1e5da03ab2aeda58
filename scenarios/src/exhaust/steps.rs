//! The steps of one run, and which of them stand for all.
//!
//! Two steps are alike when they are events of one kind and one role: the same vertex (whatever the subtask), the same pair of
//! vertices (whatever the channel), the same sort of object, the same state of job or task, on the same kind of process. Of
//! those that are alike, the first, the one in the middle and the last of the run stand for all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use runtime::journal::{Event, EventKind};

use crate::{
    plan::{Trigger, model::JOB_MANAGER, singles::Sites},
    record::{Observer, Story},
};

/// An event of the run that faults can be placed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: EventKind,
    pub role: String,
    pub emitter: String,
    pub entity: String,
    /// The process at the other end, if the event says so.
    pub other_end: Option<String>,
    /// Which event of its kind it is, over all entities, from 1.
    pub ordinal: u32,
    /// Which event of the run it is, from 0.
    pub number: u64,
}

impl Step {
    pub fn is_of_job_manager(&self) -> bool {
        self.emitter == JOB_MANAGER
    }

    /// Fires inside exactly this event, as long as nothing before it changes.
    pub fn trigger(&self) -> Trigger {
        Trigger::On { event: self.kind, entity: None, ordinal: self.ordinal, delay_ms: 0 }
    }
}

/// Listens to a run and keeps its steps.
#[derive(Clone)]
pub struct Tracer {
    seen: Arc<Mutex<Seen>>,
    end_ms: u64,
}

#[derive(Default)]
struct Seen {
    counts: BTreeMap<EventKind, u32>,
    steps: Vec<Step>,
}

impl Tracer {
    /// Keeps the steps before `end_ms`.
    pub fn until(end_ms: u64) -> Tracer {
        Tracer { seen: Arc::default(), end_ms }
    }

    pub fn steps(&self) -> Vec<Step> {
        // Nobody panics while holding it.
        self.seen.lock().map_or_else(|_| Vec::new(), |mut seen| std::mem::take(&mut seen.steps))
    }
}

impl Observer for Tracer {
    fn event(&mut self, story: &Story<'_>) {
        if story.at_ms >= self.end_ms {
            return;
        }
        let Ok(mut seen) = self.seen.lock() else { return };
        let kind = story.event.kind();
        let count = seen.counts.entry(kind).or_default();
        *count += 1;
        let ordinal = *count;
        seen.steps.push(Step {
            kind,
            role: role(story.event),
            emitter: story.process.to_string(),
            entity: story.event.entity(),
            other_end: match story.event {
                Event::BarrierSent { to, .. } => Some(to.clone()),
                _ => None,
            },
            ordinal,
            number: story.sequence,
        });
    }
}

fn vertex(subtask: &str) -> &str {
    subtask.split_once('[').map_or(subtask, |(vertex, _)| vertex)
}

/// What an object is for, by its name.
fn object_class(name: &str) -> &'static str {
    let classes = [
        ("/probe-", "probe"),
        ("ha/", "head entry"),
        ("/_metadata", "metadata"),
        ("/_committed/", "manifest"),
        ("/data/", "sink data"),
        ("/chk-", "state part"),
        ("/shared/", "state part"),
    ];
    classes.iter().find(|(part, _)| name.contains(part)).map_or("object", |(_, class)| class)
}

/// What of an event's entity is the same for all that are alike.
fn role(event: &Event) -> String {
    match event {
        Event::JobStateChanged { to, .. } | Event::TaskStateChanged { to, .. } => return to.clone(),
        Event::HeadEntryAppended { entry, .. } => {
            return entry.split(' ').next().unwrap_or_default().to_string();
        }
        Event::ObjectCreated { object, .. }
        | Event::ObjectDeleted { object }
        | Event::UploadDiscarded { object }
        | Event::OrphanSwept { object }
        | Event::PrimaryRetried { object, .. } => return object_class(object).to_string(),
        _ => {}
    }
    let entity = event.entity();
    match entity.split_once("->") {
        Some((from, to)) => format!("{}->{}", vertex(from), vertex(to)),
        None if entity.ends_with(']') => vertex(&entity).to_string(),
        None => String::new(),
    }
}

/// Events of TaskManagers soon after which they use their disk.
const DISK_USE: &[EventKind] = &[
    EventKind::ProcessStarted,
    EventKind::TaskDeployed,
    EventKind::RestoreStarted,
    EventKind::SnapshotAsyncStarted,
    EventKind::NativeCheckpointTaken,
    EventKind::PartPieceUploaded,
    EventKind::LocalPartStored,
    EventKind::LocalCopyStored,
    EventKind::TaskNotifiedComplete,
];

/// Events after which every sort of access to primary storage comes once.
const STORE_USE: &[EventKind] = &[
    EventKind::ProcessStarted,
    EventKind::JobStateChanged,
    EventKind::TaskManagerLost,
    EventKind::CheckpointTriggered,
    EventKind::CheckpointCompleted,
];

/// Whether faults placed at such sites are placed at `step`.
fn suits(sites: Sites, step: &Step) -> bool {
    match sites {
        Sites::AnyStep | Sites::AnyKind => true,
        Sites::TaskManagerStep => !step.is_of_job_manager(),
        Sites::Channel => step.entity.contains("->"),
        Sites::DiskUse => !step.is_of_job_manager() && DISK_USE.contains(&step.kind),
        Sites::StoreUse => step.is_of_job_manager() && STORE_USE.contains(&step.kind),
        Sites::Completion => step.kind == EventKind::CheckpointCompleted,
        Sites::Record | Sites::Beginning => false,
    }
}

/// The steps of `steps` that stand for all at such sites, in the order of the run.
pub fn representatives(steps: &[Step], sites: Sites) -> Vec<&Step> {
    let by_role = matches!(sites, Sites::AnyStep | Sites::TaskManagerStep | Sites::Channel | Sites::StoreUse);
    let mut alike: BTreeMap<(EventKind, &str, bool), Vec<usize>> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate().filter(|(_, step)| suits(sites, step)) {
        let role = if by_role { step.role.as_str() } else { "" };
        alike.entry((step.kind, role, step.is_of_job_manager())).or_default().push(index);
    }
    let chosen: BTreeSet<usize> =
        alike.values().flat_map(|same| [same[0], same[same.len() / 2], same[same.len() - 1]]).collect();
    chosen.into_iter().map(|index| &steps[index]).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use runtime::ids::CheckpointId;

    use super::*;

    pub(in crate::exhaust) fn trace(events: &[(&str, Event)]) -> Vec<Step> {
        let mut tracer = Tracer::until(u64::MAX);
        for (sequence, (process, event)) in (0..).zip(events) {
            tracer.event(&Story { at_ms: sequence, sequence, process, incarnation: 1, event });
        }
        tracer.steps()
    }

    pub(in crate::exhaust) fn barrier(channel: &str, checkpoint: u64) -> Event {
        Event::BarrierSent { channel: channel.into(), checkpoint: CheckpointId(checkpoint), to: "tm-2".into() }
    }

    #[test]
    fn channels_between_the_same_vertices_are_alike_and_three_stand_for_all() {
        let mut events = Vec::new();
        for checkpoint in 1..=5 {
            for channel in ["read[0]->fold[0]", "read[0]->fold[1]", "fold[1]->sink[0]"] {
                events.push(("tm-1", barrier(channel, checkpoint)));
            }
        }
        let steps = trace(&events);
        let chosen = representatives(&steps, Sites::Channel);
        let shown: Vec<_> = chosen.iter().map(|step| (step.role.as_str(), step.ordinal)).collect();
        assert_eq!(
            shown,
            [
                ("read->fold", 1),
                ("fold->sink", 3),
                ("read->fold", 8),
                ("fold->sink", 9),
                ("read->fold", 14),
                ("fold->sink", 15)
            ]
        );
        assert_eq!(chosen[0].other_end.as_deref(), Some("tm-2"));
        assert_eq!(representatives(&steps, Sites::AnyKind).len(), 3, "by kind alone");
        assert!(representatives(&steps, Sites::Completion).is_empty());
    }

    #[test]
    fn objects_are_alike_by_what_they_are_for() {
        let created = |object: &str| Event::ObjectCreated { object: object.into(), bytes: 1 };
        assert_eq!(role(&created("ha/00ff/0000000000000000007")), "head entry");
        assert_eq!(role(&created("checkpoints/00ff/chk-7/_metadata-1.2-aa")), "metadata");
        assert_eq!(role(&created("checkpoints/00ff/chk-7/v1[0]-fold-32-47-1.2-41c1")), "state part");
        assert_eq!(role(&created("output/records/_committed/0000000007")), "manifest");
    }
}
