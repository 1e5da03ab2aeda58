//! Hand-written plans, and what happened in their runs: the journal is collected whole, so that a test can say what must have
//! happened besides a clean verdict.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use reports::{RunRecord, failure_screen};
use runtime::{
    ids::AttemptId,
    journal::{Event, EventKind},
};
use scenarios::{
    plan::{FaultKind, FaultSpec, Plan, Trigger},
    record::{Observer, Story},
    run::run_plan,
};

/// An event of a run.
#[derive(Clone, Debug)]
pub struct Told {
    pub at_ms: u64,
    pub process: String,
    pub incarnation: u64,
    pub event: Event,
}

/// A run and everything it told.
pub struct Tale {
    pub plan: Plan,
    pub record: RunRecord,
    pub events: Vec<Told>,
}

struct Listener(Arc<Mutex<Vec<Told>>>);

impl Observer for Listener {
    fn event(&mut self, story: &Story<'_>) {
        if let Ok(mut events) = self.0.lock() {
            events.push(Told {
                at_ms: story.at_ms,
                process: story.process.to_string(),
                incarnation: story.incarnation,
                event: story.event.clone(),
            });
        }
    }
}

/// Runs the plan in this process (its world lives on a thread of its own).
///
/// # Panics
/// If the plan makes no sense.
pub fn tell(plan: &Plan) -> Tale {
    plan.check().unwrap_or_else(|complaint| panic!("not a plan: {complaint:?}"));
    let events = Arc::new(Mutex::new(Vec::new()));
    let record = run_plan(plan, Box::new(Listener(events.clone()))).expect("the plan's job exists");
    let events = events.lock().map(|mut events| std::mem::take(&mut *events)).unwrap_or_default();
    Tale { plan: plan.clone(), record, events }
}

impl Tale {
    /// # Panics
    /// If an invariant was broken, the job did not end well, or a fault of the plan never came to pass.
    #[track_caller]
    pub fn ends_well(&self) -> &Tale {
        let screen = failure_screen(&self.record, "the plan above");
        assert_eq!(self.record.verdict.name(), "clean", "{}\n{screen}", self.plan.to_toml());
        let unfired = &self.record.coverage.unfired;
        assert!(unfired.is_empty(), "this did not come to pass: {unfired:?}");
        self
    }

    /// How often something happened.
    pub fn count(&self, what: impl Fn(&Told) -> bool) -> usize {
        self.events.iter().filter(|told| what(told)).count()
    }

    /// Where something happened first, as an index into the events.
    ///
    /// # Panics
    /// If it never happened: with the events of the kinds that `near` names, which a reader will want to see.
    #[track_caller]
    pub fn first(&self, what: &str, near: &[EventKind], matches: impl Fn(&Told) -> bool) -> usize {
        self.first_after(0, what, near, matches)
    }

    /// As [`Tale::first`], from the given index on.
    ///
    /// # Panics
    /// As [`Tale::first`].
    #[track_caller]
    pub fn first_after(&self, from: usize, what: &str, near: &[EventKind], matches: impl Fn(&Told) -> bool) -> usize {
        let rest = self.events.get(from..).unwrap_or_default();
        match rest.iter().position(matches) {
            Some(position) => from + position,
            None => panic!("it never happened that {what}; what did:\n{}", self.lines(near)),
        }
    }

    /// The events of some kinds, a line each.
    pub fn lines(&self, kinds: &[EventKind]) -> String {
        let wanted = self.events.iter().filter(|told| kinds.contains(&told.event.kind()));
        let lines: Vec<String> =
            wanted.map(|t| format!("[s{}] {}#{} {}", t.at_ms, t.process, t.incarnation, t.event)).collect();
        lines.join("\n")
    }
}

/// Three TaskManagers with a slot each, three subtasks of each vertex, nine seconds of input, a checkpoint each half
/// second, local copies. Nothing breaks by itself; a story adds what does.
const CALM: &str = r#"
version = 1
seed = 1
profile = "default"
healed_by_ms = 12000
time_limit_ms = 72000
[cluster]
task_managers = 3
slots = 1
[settings]
checkpoint_interval_ms = 500
checkpoint_timeout_ms = 3000
min_pause_ms = 0
max_concurrent = 1
retained = 3
heartbeat_interval_ms = 200
heartbeat_timeout_ms = 1500
restart_delay_ms = 50
fallback_behind_commit = "replay"
local_recovery = true
parts_per_snapshot = 4
buffer_bytes = 256
buffer_timeout_ms = 5
channel_window_bytes = 1024
source_batch_records = 16
store_operation_timeout_ms = 500
store_total_timeout_ms = 4000
connect_timeout_ms = 1000
[network]
latency = { min_us = 100, max_us = 300 }
jitter_us = 20
bytes_per_second = 100000000
window_bytes = 65536
dead_peer_timeout_ms = 4000
[disk]
latency = { min_us = 50, max_us = 200 }
bytes_per_second = 100000000
capacity_bytes = 1073741824
[store]
latency = { min_us = 1000, max_us = 4000 }
bytes_per_second = 100000000
[workload]
name = "audit"
records = 900
keys = 24
splits = 3
parallelism = 3
records_per_second = 100
"#;

/// The plan in which nothing happens.
///
/// # Panics
/// Never; the text is right.
pub fn calm() -> Plan {
    Plan::from_toml(CALM).unwrap_or_else(|error| panic!("{error}"))
}

/// At the `ordinal`-th event of a kind on an entity, synchronously.
pub fn when(event: EventKind, entity: &str, ordinal: u32) -> Trigger {
    later(0, event, entity, ordinal)
}

/// So many milliseconds after the `ordinal`-th event of a kind on an entity.
pub fn later(delay_ms: u64, event: EventKind, entity: &str, ordinal: u32) -> Trigger {
    Trigger::On { event, entity: Some(entity.to_string()), ordinal, delay_ms }
}

/// A fault that takes effect at once.
pub fn fault(target: &str, trigger: Trigger, fault: FaultKind) -> FaultSpec {
    lasting(0, target, trigger, fault)
}

/// A fault that lasts.
pub fn lasting(duration_ms: u64, target: &str, trigger: Trigger, fault: FaultKind) -> FaultSpec {
    FaultSpec { target: target.to_string(), trigger, duration_ms, fault }
}

/// Whether what is told is an event of this kind.
pub fn of_kind(kind: EventKind) -> impl Fn(&Told) -> bool {
    move |told| told.event.kind() == kind
}

/// Where a subtask was deployed: TaskManager, slot, allocation.
pub type Place = (String, u32, String);

/// Where each subtask was deployed in each attempt.
pub fn deployments(tale: &Tale) -> BTreeMap<AttemptId, BTreeMap<String, Place>> {
    let mut deployments: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for told in &tale.events {
        if let Event::TaskDeployed { subtask, attempt, task_manager, slot, allocation } = &told.event {
            let place = (task_manager.clone(), *slot, allocation.to_string());
            deployments.entry(*attempt).or_default().insert(subtask.clone(), place);
        }
    }
    deployments
}
