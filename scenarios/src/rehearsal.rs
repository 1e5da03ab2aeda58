//! A rehearsal: a made-up run of the checkpoint protocol, without a cluster and without a world, that can be told to break
//! in every way in which a run can break. With it the sweep's own machinery (watchdog, crash containment, confirmation,
//! audit, canary, blindness) is tested, and timed without the runtime.
//!
//! It obeys the nemesis only so far that a crashed process leads to a restore. It proves nothing about the runtime.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reports::TraceHash;
use runtime::{
    ids::{AllocationId, AttemptId, CheckpointId, Execution, LeaderEpoch},
    journal::Event,
};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    blame,
    nemesis::{Nemesis, Notice, Resume, StoreTrouble, Trouble, Verbs},
    plan::{
        Damage, DiskErrorKind, DiskOperation, Plan, StoreErrorKind, StoreOperation, draw::Draw, model::JOB_MANAGER,
    },
    record::{Observer, Recorder, RunEnd, Story},
    violation::Violation,
};

pub const NAME: &str = "rehearsal";

/// Parameters: at this checkpoint …
const VIOLATE_AT: &str = "violate_at";
const PANIC_AT: &str = "panic_at";
const ABORT_AT: &str = "abort_at";
const HANG_AT: &str = "hang_at";
/// … memory is taken without end.
const EAT_MEMORY_AT: &str = "eat_memory_at";
/// … the harness itself panics.
const BLUNDER_AT: &str = "blunder_at";
/// … the run is broken, but only in a process that has run before.
const VIOLATE_LATER_AT: &str = "violate_later_at";
/// … an event says something that differs from process to process.
const DRIFT_AT: &str = "drift_at";

pub const PARAMETERS: &[&str] =
    &[VIOLATE_AT, PANIC_AT, ABORT_AT, HANG_AT, EAT_MEMORY_AT, BLUNDER_AT, VIOLATE_LATER_AT, DRIFT_AT];

/// Runs that this process has seen the beginning of.
static RUNS: AtomicU64 = AtomicU64::new(0);

type Action = Box<dyn FnOnce()>;

#[derive(Default)]
struct Stage {
    now_ms: Cell<u64>,
    order: Cell<u64>,
    pending: RefCell<BTreeMap<(u64, u64), Action>>,
    dead: RefCell<BTreeSet<String>>,
    disturbed: Cell<bool>,
    objects: RefCell<Vec<String>>,
}

impl Stage {
    fn advance_to(&self, ms: u64) {
        loop {
            let next = {
                let mut pending = self.pending.borrow_mut();
                let due = pending.first_entry().filter(|entry| entry.key().0 <= ms);
                due.map(|entry| (entry.key().0, entry.remove()))
            };
            let Some((at, action)) = next else { break };
            self.now_ms.set(at);
            action();
        }
        self.now_ms.set(ms);
    }
}

impl Verbs for Stage {
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
    fn after(&self, delay: Duration, action: Action) {
        let at = self.now_ms.get() + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2);
        self.order.set(self.order.get() + 1);
        self.pending.borrow_mut().insert((at, self.order.get()), action);
    }
    fn notice(&self, _notice: Notice) {}
    fn is_alive(&self, process: &str) -> bool {
        !self.dead.borrow().contains(process)
    }
    fn crash(&self, process: &str) {
        self.dead.borrow_mut().insert(process.to_string());
        self.disturbed.set(true);
    }
    fn restart(&self, process: &str) {
        self.dead.borrow_mut().remove(process);
    }
    fn lose_machine(&self, machine: &str) {
        self.crash(machine.trim_start_matches("machine-"));
    }
    fn power_loss(&self, machine: &str) {
        self.lose_machine(machine);
    }
    fn rescale(&self, _parallelism: u32) {}
    fn ask_for_savepoint(&self, _: Option<Resume>) -> Result<(), String> {
        Ok(())
    }
    fn second_job_manager(&self, _there: bool) {}
    fn limit_memory(&self, _: &str, _: u64, _: Box<dyn Fn()>) {}
    fn lift_memory_limit(&self, _: &str) {}
    fn begin(&self, _trouble: &Trouble) {}
    fn end(&self, _trouble: &Trouble) {}
    fn connections(&self, _: &str, _: &str) -> usize {
        0
    }
    fn reset_connections(&self, _: &str, _: &str) {}
    fn arm_messages(&self, _: &str, _: &str, _: &str, _: u32, _: Duration) -> u64 {
        0
    }
    fn messages_met(&self, _: u64) -> u64 {
        0
    }
    fn disarm_messages(&self, _: u64) {}
    fn put_in_place(&self, _: &str, _: &str, _: &str) -> bool {
        false
    }
    fn stall_disk(&self, _: &str, _: Duration) {}
    fn separate_device(&self, _: &str) {}
    fn arm_store_trouble(&self, _: StoreOperation, _: &str, _: StoreTrouble, _: u32) -> u64 {
        0
    }
    fn freeze(&self, _process: &str) {
        self.disturbed.set(true);
    }
    fn thaw(&self, _process: &str) {}
    fn cut(&self, _from: &str, _to: &str) {}
    fn mend(&self, _from: &str, _to: &str) {}
    fn hold_channel(&self, _channel: &str) {}
    fn slow_channel(&self, _channel: &str, _extra: Duration) {}
    fn release_channel(&self, _channel: &str) {}
    fn files(&self, _machine: &str) -> Vec<String> {
        Vec::new()
    }
    fn damage_file(&self, _machine: &str, _path: &str, _damage: Damage) -> bool {
        true
    }
    fn watch_file(&self, _machine: &str, _path: &str) -> u64 {
        0
    }
    fn fill_disk(&self, _machine: &str, _full: bool) {}
    fn arm_disk_errors(&self, _: &str, _: &str, _: DiskOperation, _: DiskErrorKind, _: u32) -> u64 {
        0
    }
    fn disk_errors_met(&self, _: &str, _: u64) -> u64 {
        0
    }
    fn disarm_disk_errors(&self, _: &str, _: u64) {}
    fn objects(&self, prefix: &str) -> Vec<String> {
        self.objects.borrow().iter().filter(|name| name.starts_with(prefix)).cloned().collect()
    }
    fn needed_by(&self, _checkpoint: u64) -> Vec<String> {
        Vec::new()
    }
    fn put_back(&self, _name: &str) {}
    fn lose_object(&self, name: &str) {
        self.objects.borrow_mut().retain(|object| object != name);
    }
    fn corrupt_object(&self, name: &str) {
        self.lose_object(name);
    }
    fn arm_store_errors(&self, _: StoreOperation, _: &str, _: StoreErrorKind, _: u32) -> u64 {
        0
    }
    fn store_errors_met(&self, _: u64) -> u64 {
        0
    }
    fn disarm_store_errors(&self, _: u64) {}
    fn store_outage(&self, _duration: Duration) {}
}

/// Hashes as the simulated world does: one hash per 1,024 events.
#[derive(Default)]
struct Hasher {
    segment: Xxh3,
    all: Xxh3,
    events: u64,
    segments: Vec<String>,
}

impl Hasher {
    fn add(&mut self, line: &str) {
        self.segment.update(line.as_bytes());
        self.all.update(line.as_bytes());
        self.events += 1;
        if self.events.is_multiple_of(crate::run::SEGMENT_EVENTS) {
            self.close();
        }
    }

    fn close(&mut self) {
        self.segments.push(format!("{:016x}", std::mem::take(&mut self.segment).digest()));
    }

    fn finish(mut self) -> TraceHash {
        if !self.events.is_multiple_of(crate::run::SEGMENT_EVENTS) {
            self.close();
        }
        TraceHash { last: format!("{:016x}", self.all.digest()), segments: self.segments }
    }
}

struct Play<'a> {
    stage: Rc<Stage>,
    nemesis: Nemesis,
    recorder: Recorder,
    hasher: Hasher,
    observer: &'a mut dyn Observer,
    sequence: u64,
}

impl Play<'_> {
    fn emit(&mut self, process: &str, event: Event) {
        let story =
            Story { at_ms: self.stage.now_ms(), sequence: self.sequence, process, incarnation: 1, event: &event };
        self.sequence += 1;
        self.hasher.add(&story.to_string());
        self.recorder.on_event(&story, self.nemesis.phase());
        self.observer.event(&story);
        self.nemesis.on_event(process, &event);
    }

    fn job_state(&mut self, from: &str, to: &str) {
        let event = Event::JobStateChanged {
            job: NAME.to_string(),
            from: from.to_string(),
            to: to.to_string(),
            reason: String::new(),
        };
        self.emit(JOB_MANAGER, event);
    }
}

/// Plays the plan.
pub fn run(plan: &Plan, observer: &mut dyn Observer) -> reports::RunRecord {
    RUNS.fetch_add(1, Ordering::Relaxed);
    let stage = Rc::new(Stage::default());
    let nemesis = Nemesis::new(plan, stage.clone());
    nemesis.start();
    let mut play =
        Play { stage, nemesis, recorder: Recorder::new(plan), hasher: Hasher::default(), observer, sequence: 0 };
    let attempt = AttemptId { leader: LeaderEpoch(1), execution: Execution(1) };
    let mut draw = Draw::new(plan.seed, NAME);
    let task_managers: Vec<String> = plan.cluster.task_manager_names().collect();
    let subtasks: Vec<(String, String)> = (0..plan.workload.parallelism)
        .flat_map(|index| ["read", "count", "write"].map(|vertex| (vertex, index)))
        .map(|(vertex, index)| {
            (format!("{vertex}[{index}]"), task_managers[index as usize % task_managers.len()].clone())
        })
        .collect();
    for process in plan.cluster.process_names() {
        play.emit(&process, Event::ProcessStarted { process: process.clone() });
    }
    for (subtask, task_manager) in &subtasks {
        let event = Event::TaskDeployed {
            subtask: subtask.clone(),
            attempt,
            task_manager: task_manager.clone(),
            slot: 0,
            allocation: AllocationId(u128::from(draw.within(0, u64::MAX))),
        };
        play.emit(JOB_MANAGER, event);
    }
    play.job_state("CREATED", "RUNNING");
    let mut violations = Vec::new();
    let end_ms = plan.workload.records * 1_000 / plan.workload.records_per_second;
    let mut checkpoint = CheckpointId(0);
    while play.stage.now_ms() < end_ms {
        checkpoint = checkpoint.next();
        let next = play.stage.now_ms() + plan.settings.checkpoint_interval_ms;
        let stage = play.stage.clone();
        stage.advance_to(next);
        misbehave(plan, checkpoint, &mut play, &mut violations);
        take_checkpoint(checkpoint, attempt, &subtasks, &mut play, &mut draw);
        if play.stage.disturbed.replace(false) {
            restore(checkpoint, attempt, &subtasks, &mut play);
        }
    }
    play.job_state("RUNNING", "FINISHED");
    let simulated_ms = play.stage.now_ms();
    play.recorder.finish(
        plan,
        RunEnd { simulated_ms, trace: play.hasher.finish(), violations, ..RunEnd::default() },
        &play.nemesis,
    )
}

fn misbehave(plan: &Plan, checkpoint: CheckpointId, play: &mut Play<'_>, violations: &mut Vec<Violation>) {
    let is_due = |parameter: &str| plan.workload.parameters.get(parameter) == Some(&checkpoint.0);
    if is_due(VIOLATE_AT) {
        let message = format!("told to break at checkpoint {checkpoint}");
        violations.push(Violation::new("rehearsed", format!("checkpoint {checkpoint}"), "planted", message));
    }
    if is_due(VIOLATE_LATER_AT) && RUNS.load(Ordering::Relaxed) > 1 {
        violations.push(Violation::new("rehearsed", "process", "planted", "told to break in a used process"));
    }
    if is_due(EAT_MEMORY_AT) {
        let mut eaten = Vec::new();
        loop {
            eaten.push(vec![0u8; 64 << 20]);
        }
    }
    if is_due(BLUNDER_AT) {
        blame::blunder();
    }
    if is_due(DRIFT_AT) {
        let task_manager = format!("tm-{}", std::process::id());
        play.emit(JOB_MANAGER, Event::TaskManagerLost { task_manager, reason: "drift".to_string() });
    }
    if is_due(HANG_AT) {
        loop {
            std::thread::park();
        }
    }
    assert!(!is_due(PANIC_AT), "told to panic at checkpoint {checkpoint}");
    if is_due(ABORT_AT) {
        std::process::abort();
    }
}

fn take_checkpoint(
    checkpoint: CheckpointId,
    attempt: AttemptId,
    subtasks: &[(String, String)],
    play: &mut Play<'_>,
    draw: &mut Draw,
) {
    play.emit(JOB_MANAGER, Event::CheckpointTriggered { checkpoint, attempt });
    for (subtask, task_manager) in subtasks {
        let stage = play.stage.clone();
        stage.advance_to(stage.now_ms() + draw.within(0, 3));
        if !play.stage.is_alive(task_manager) {
            continue;
        }
        let subtask = subtask.clone();
        let channel = format!("{subtask}->sink[0]");
        play.emit(task_manager, Event::BarrierEmitted { subtask: subtask.clone(), checkpoint, attempt });
        play.emit(task_manager, Event::BarrierSent { channel, checkpoint, to: "tm-1".to_string() });
        play.emit(task_manager, Event::SnapshotSyncDone { subtask: subtask.clone(), checkpoint });
        play.emit(task_manager, Event::SnapshotAsyncDone { subtask: subtask.clone(), checkpoint });
        play.emit(JOB_MANAGER, Event::CheckpointAcked { subtask, checkpoint });
    }
    let part = format!("checkpoints/{NAME}/chk-{checkpoint}/part");
    play.stage.objects.borrow_mut().push(part);
    play.emit(JOB_MANAGER, Event::MetadataWritten { checkpoint, object: String::new() });
    play.emit(JOB_MANAGER, Event::CheckpointCompleted { checkpoint, sequence: checkpoint.0 });
    play.emit(JOB_MANAGER, Event::CheckpointNotified { checkpoint });
}

fn restore(checkpoint: CheckpointId, attempt: AttemptId, subtasks: &[(String, String)], play: &mut Play<'_>) {
    play.job_state("RUNNING", "RESTARTING");
    let part = format!("checkpoints/{NAME}/chk-{checkpoint}/part");
    let is_whole = play.stage.objects.borrow().contains(&part);
    let chosen = if is_whole || checkpoint.0 == 1 { checkpoint } else { CheckpointId(checkpoint.0 - 1) };
    let job = NAME.to_string();
    play.emit(
        JOB_MANAGER,
        Event::RestoreChosen { job, checkpoint: Some(chosen), newest: Some(checkpoint), replay_to: None, attempt },
    );
    for (subtask, task_manager) in subtasks {
        if play.stage.is_alive(task_manager) {
            let subtask = subtask.clone();
            play.emit(task_manager, Event::RestoreStarted { subtask, checkpoint: chosen, attempt });
        }
    }
    let stage = play.stage.clone();
    stage.advance_to(stage.now_ms() + 100);
    play.job_state("RESTARTING", "RUNNING");
}
