//! Builds the [`RunRecord`] of a run: counts what it sees, keeps the last events, and puts the ends together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reports::{RunRecord, TraceHash, Verdict, ViolationRecord};
use runtime::journal::{Event, EventKind};

use crate::{
    coverage::{PathFold, Watch},
    nemesis::Nemesis,
    phase::Phase,
    plan::{
        FaultClass, Plan,
        model::{USER_ERROR_AT, USER_PANIC_AT},
    },
    violation::Violation,
};

/// Events kept for the end of a failed run.
const LAST_EVENTS: usize = 40;

/// Workload parameter of the canary: the run is declared broken at this completed checkpoint. A run that gets there and is
/// not reported as broken proves that the sweep cannot see.
pub const CANARY_AT: &str = "canary_at_checkpoint";
/// The invariant a canary breaks.
pub const CANARY: &str = "canary";

/// What a planned panic or error of user code says, so that its effect can be told from any other failure.
pub const PLANNED_PANIC: &str = "planned panic at";
pub const PLANNED_ERROR: &str = "planned error at";

/// One event as the harness tells it.
#[derive(Clone, Debug)]
pub struct Story<'a> {
    pub at_ms: u64,
    pub sequence: u64,
    pub process: &'a str,
    pub incarnation: u64,
    pub event: &'a Event,
}

impl std::fmt::Display for Story<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[s{} e{}] {}", self.at_ms, self.sequence, self.process)?;
        if self.incarnation > 1 {
            write!(f, "#{}", self.incarnation)?;
        }
        write!(f, " {}", self.event)
    }
}

/// A story that is told only if the run fails: most are not, and telling costs more than keeping.
struct Kept {
    at_ms: u64,
    sequence: u64,
    process: String,
    incarnation: u64,
    event: Event,
}

impl Kept {
    fn of(story: &Story<'_>) -> Kept {
        let &Story { at_ms, sequence, process, incarnation, event } = story;
        Kept { at_ms, sequence, process: process.to_string(), incarnation, event: event.clone() }
    }

    fn text(&self) -> String {
        let Kept { at_ms, sequence, process, incarnation, event } = self;
        let (at_ms, sequence, incarnation) = (*at_ms, *sequence, *incarnation);
        Story { at_ms, sequence, process, incarnation, event }.to_string()
    }
}

/// Told every event of a run, in order.
pub trait Observer {
    fn event(&mut self, story: &Story<'_>);
}

/// Sees nothing.
pub struct Nobody;

impl Observer for Nobody {
    fn event(&mut self, _story: &Story<'_>) {}
}

/// Folds the events of one run.
#[derive(Default)]
pub struct Recorder {
    events: BTreeMap<&'static str, u64>,
    total: u64,
    subtasks: BTreeSet<String>,
    completed: u64,
    aborted: u64,
    restores: u64,
    older_restores: u64,
    last: VecDeque<Kept>,
    interrupted_at_ms: Option<u64>,
    longest_outage_ms: u64,
    was_running: bool,
    planned: BTreeMap<FaultClass, (u64, u64, &'static str)>,
    canary_at: Option<u64>,
    canary: Option<Violation>,
    paths: PathFold,
    watch: Watch,
}

impl Recorder {
    pub fn new(plan: &Plan) -> Recorder {
        Recorder { canary_at: plan.workload.parameters.get(CANARY_AT).copied(), ..Recorder::default() }
    }

    /// `phase` is the job's phase before the event.
    pub fn on_event(&mut self, story: &Story<'_>, phase: Phase) {
        self.total += 1;
        self.paths.on_event(self.total, story.event);
        self.watch.on_event(story.process, story.event, phase);
        *self.events.entry(story.event.kind().name()).or_default() += 1;
        if self.last.len() == LAST_EVENTS {
            self.last.pop_front();
        }
        self.last.push_back(Kept::of(story));
        match story.event {
            Event::TaskDeployed { subtask, .. } => {
                self.subtasks.insert(subtask.clone());
            }
            Event::CheckpointCompleted { checkpoint, .. } => {
                self.completed += 1;
                if self.canary_at == Some(self.completed) {
                    self.canary = Some(Violation::new(
                        CANARY,
                        format!("checkpoint {checkpoint}"),
                        "planted",
                        "this run was declared broken here, to prove that a broken run is seen",
                    ));
                }
            }
            Event::CheckpointAborted { .. } => self.aborted += 1,
            Event::RestoreChosen { checkpoint: Some(chosen), newest, .. } => {
                self.restores += 1;
                self.older_restores += u64::from(newest.is_some_and(|newest| *chosen < newest));
            }
            Event::JobStateChanged { to, .. } => self.job_state(to, story.at_ms),
            Event::TaskStateChanged { reason, .. } => {
                for (marker, class) in [(PLANNED_PANIC, FaultClass::UserPanic), (PLANNED_ERROR, FaultClass::UserError)]
                {
                    if reason.contains(marker) {
                        self.planned.entry(class).or_insert((story.at_ms, story.sequence, phase.name()));
                    }
                }
            }
            _ => {}
        }
    }

    fn job_state(&mut self, to: &str, at_ms: u64) {
        if to.eq_ignore_ascii_case("running") {
            self.was_running = true;
            if let Some(since) = self.interrupted_at_ms.take() {
                self.longest_outage_ms = self.longest_outage_ms.max(at_ms - since);
            }
        } else if self.was_running && !to.eq_ignore_ascii_case("finished") {
            self.interrupted_at_ms.get_or_insert(at_ms);
        }
    }

    /// The record. `found` are the violations in the order in which they were found.
    pub fn finish(self, plan: &Plan, end: RunEnd, nemesis: &Nemesis) -> RunRecord {
        let mut record = RunRecord::empty(plan.seed, plan.profile.clone(), Verdict::Clean);
        let mut violations = end.violations;
        violations.extend(self.canary);
        if let Some(first) = violations.first() {
            record.verdict = Verdict::Violation;
            record.invariant = Some(first.invariant.clone());
            record.signature = Some(first.signature());
            record.message = Some(first.message.clone());
            record.broken_at = end.broken_at;
        } else if let Some(reason) = end.excuse {
            record.verdict = Verdict::Excused;
            record.message = Some(reason);
        }
        record.violations = violations
            .into_iter()
            .map(|v| ViolationRecord {
                signature: v.signature(),
                invariant: v.invariant,
                entity: v.entity,
                kind: v.kind,
                message: v.message,
            })
            .collect();
        let (mut fired, mut unfired) = nemesis.account();
        for (class, parameter) in [(FaultClass::UserPanic, USER_PANIC_AT), (FaultClass::UserError, USER_ERROR_AT)] {
            if !plan.workload.parameters.contains_key(parameter) {
                continue;
            }
            let class_name = class.name().to_string();
            match self.planned.get(&class) {
                Some((at_ms, event, phase)) => fired.push(reports::FiredFault {
                    index: None,
                    class: class_name,
                    target: "user function".to_string(),
                    phase: (*phase).to_string(),
                    at_ms: *at_ms,
                    event: *event,
                    path: String::new(),
                }),
                None => unfired.push(reports::Unfired {
                    index: None,
                    class: class_name,
                    reason: "the record was never reached".to_string(),
                }),
            }
        }
        for fault in &mut fired {
            fault.path = self.paths.path(fault.event).name().to_string();
        }
        record.counters = reports::Counters {
            task_managers: plan.cluster.task_managers.into(),
            subtasks: self.subtasks.len() as u64,
            records: plan.workload.records,
            completed_checkpoints: self.completed,
            aborted_checkpoints: self.aborted,
            fired_faults: fired.len() as u64,
            restores: self.restores,
            older_restores: self.older_restores,
            events: self.total,
            opened_databases: self.events.get(EventKind::DatabaseOpened.name()).copied().unwrap_or(0),
            judged_databases: end.judged_databases,
        };
        record.coverage.fired = fired;
        record.coverage.unfired = unfired;
        record.coverage.points = end.points;
        record.coverage.points.extend(self.watch.passed().map(|(name, count)| (name.to_string(), count)));
        record.coverage.events = self.events.into_iter().map(|(name, count)| (name.to_string(), count)).collect();
        record.timings.simulated_ms = end.simulated_ms;
        record.timings.longest_outage_ms = self.longest_outage_ms;
        record.trace = end.trace;
        if record.verdict.is_failure() {
            record.last_events = self.last.iter().map(Kept::text).collect();
            record.plan = Some(plan.to_toml());
        }
        record
    }
}

/// What the world and the invariants say at the end of a run.
#[derive(Default)]
pub struct RunEnd {
    /// The event at which the first violation was seen.
    pub broken_at: Option<u64>,
    pub simulated_ms: u64,
    pub trace: TraceHash,
    pub violations: Vec<Violation>,
    /// Databases that the invariants opened.
    pub judged_databases: u64,
    /// Why the run could not succeed, proved.
    pub excuse: Option<String>,
    /// Points that the processes passed, with how often.
    pub points: BTreeMap<String, u64>,
}
