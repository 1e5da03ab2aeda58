//! The nemesis: carries out the faults of a plan.
//!
//! A trigger by event fires synchronously inside the emit of that event. Whatever a fault makes the world emit in turn is
//! counted, but its own triggers wait in the queue: actions never nest, and they run in the order in which they became due.
//!
//! What it must never do: destroy the last whole checkpoint (it withholds such a fault and says so), break anything after
//! the plan's `healed_by_ms`, or leave anything broken beyond it except processes that the plan never restarts.

mod act;
mod act_world;
#[cfg(test)]
mod tests;
pub mod verbs;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use reports::{FiredFault, Unfired};
use runtime::{journal::Event, state::BackendKind};

pub use verbs::{Notice, Resume, StoreTrouble, Trouble, Verbs};

use crate::{
    phase::Phase,
    plan::{
        FaultClass, FaultSpec, Plan, Trigger,
        model::{JOB_MANAGER, SECOND_JOB_MANAGER},
    },
};

/// Why a fault did not fire whose trigger did not.
pub const NEVER_CAME: &str = "its trigger never came";

/// A fault whose trigger has fired.
#[derive(Clone, Debug)]
struct Due {
    index: usize,
    emitter: Option<String>,
    entity: Option<String>,
}

/// Something that lasts. Two faults may ask for the same; it ends with the later one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    Cut {
        from: String,
        to: String,
    },
    Held(String),
    Slowed(String),
    Frozen(String),
    Full(String),
    Troubled(Trouble),
    SecondJobManager,
    /// Ended by the killing, too.
    ShortOfMemory(String),
}

/// Where errors wait for an operation to hit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ambush {
    /// On a machine's disk.
    Disk(String),
    Store,
    Network,
    /// For a process that needs more memory than it may.
    Memory,
}

/// Errors that wait for an operation to hit.
#[derive(Clone, Debug)]
struct Armed {
    ambush: Ambush,
    number: u64,
    fired: FiredFault,
}

#[derive(Default)]
struct State {
    /// Matching events so far, per fault.
    matched: Vec<u32>,
    queue: VecDeque<Due>,
    fired: Vec<FiredFault>,
    armed: Vec<Armed>,
    withheld: BTreeMap<usize, String>,
    done: BTreeSet<usize>,
    conditions: BTreeMap<Condition, u32>,
    /// Dead by a fault; true: for good.
    down: BTreeMap<String, bool>,
    phase: Phase,
    events: u64,
    /// Completed and not subsumed.
    retained: BTreeSet<u64>,
    ruined: BTreeSet<u64>,
    savepoints: BTreeSet<u64>,
    /// Objects that were destroyed although several checkpoints may refer to them, and later ones may come to.
    destroyed_shared: BTreeSet<String>,
    /// Faults that killed somebody for his need of memory.
    killed: BTreeSet<u64>,
    healed: bool,
}

struct Inner {
    seed: u64,
    healed_by_ms: u64,
    /// How many completed checkpoints the job keeps.
    retained: usize,
    /// The job's working state is in databases, which take room on the disk.
    databases: bool,
    faults: Vec<FaultSpec>,
    /// All processes of the plan.
    processes: Vec<String>,
    verbs: Rc<dyn Verbs>,
    state: RefCell<State>,
    busy: Cell<bool>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Nemesis(Rc<Inner>);

impl Nemesis {
    pub fn new(plan: &Plan, verbs: Rc<dyn Verbs>) -> Nemesis {
        let state = State { matched: vec![0; plan.faults.len()], ..State::default() };
        Nemesis(Rc::new(Inner {
            seed: plan.seed,
            healed_by_ms: plan.healed_by_ms,
            retained: plan.settings.retained as usize,
            databases: plan.settings.backend == BackendKind::RocksDb,
            faults: plan.faults.clone(),
            processes: plan.cluster.process_names().collect(),
            verbs,
            state: RefCell::new(state),
            busy: Cell::new(false),
        }))
    }

    /// Arms the triggers by time, and the healing.
    pub fn start(&self) {
        for (index, fault) in self.0.faults.iter().enumerate() {
            if let Trigger::AtMs(at) = fault.trigger {
                self.later(at, move |nemesis| {
                    nemesis.enqueue(Due { index, emitter: None, entity: None });
                });
            }
        }
        self.later(self.0.healed_by_ms, Nemesis::heal);
    }

    fn later(&self, delay_ms: u64, action: impl FnOnce(&Nemesis) + 'static) {
        let nemesis = self.clone();
        self.0.verbs.after(Duration::from_millis(delay_ms), Box::new(move || action(&nemesis)));
    }

    /// To be called for every event, inside its emit.
    pub fn on_event(&self, process: &str, event: &Event) {
        let mut due = Vec::new();
        let mut completed = None;
        {
            let mut state = self.0.state.borrow_mut();
            state.events += 1;
            state.phase = state.phase.after(event);
            match event {
                // Who lays hands on a savepoint destroys what somebody owns: that is no fault of this kind.
                Event::SavepointTriggered { checkpoint, .. } => {
                    state.savepoints.insert(checkpoint.0);
                }
                Event::StateImported { .. } => {
                    state.retained.clear();
                    state.ruined.clear();
                }
                Event::CheckpointCompleted { checkpoint, .. } if state.savepoints.contains(&checkpoint.0) => {}
                Event::CheckpointCompleted { checkpoint, .. } => {
                    state.retained.insert(checkpoint.0);
                    completed = (!state.destroyed_shared.is_empty()).then_some(checkpoint.0);
                    // The entry that completes a checkpoint drops the oldest: what the event of that says comes later.
                    while state.retained.len() > self.0.retained {
                        state.retained.pop_first();
                    }
                }
                Event::CheckpointSubsumed { checkpoint } | Event::CheckpointDiscarded { checkpoint, .. } => {
                    state.retained.remove(&checkpoint.0);
                }
                Event::CheckpointCondemned { checkpoint, .. } => {
                    state.ruined.insert(checkpoint.0);
                }
                _ => {}
            }
            let kind = event.kind();
            let mut entity_of_event = None;
            for (index, fault) in self.0.faults.iter().enumerate() {
                let Trigger::On { event: wanted, entity, ordinal, delay_ms } = &fault.trigger else { continue };
                if *wanted != kind || state.matched[index] >= *ordinal {
                    continue;
                }
                let actual = entity_of_event.get_or_insert_with(|| event.entity());
                if entity.as_ref().is_some_and(|entity| entity != actual) {
                    continue;
                }
                state.matched[index] += 1;
                if state.matched[index] == *ordinal {
                    let emitter = Some(process.to_string());
                    due.push((*delay_ms, Due { index, emitter, entity: Some(actual.clone()) }));
                }
            }
        }
        if let Some(completed) = completed {
            self.completed_with_damage(completed);
        }
        for (delay_ms, due) in due {
            if delay_ms == 0 {
                self.0.state.borrow_mut().queue.push_back(due);
            } else {
                self.later(delay_ms, move |nemesis| nemesis.enqueue(due));
            }
        }
        self.drain();
    }

    fn enqueue(&self, due: Due) {
        self.0.state.borrow_mut().queue.push_back(due);
        self.drain();
    }

    fn drain(&self) {
        if self.0.busy.replace(true) {
            return;
        }
        loop {
            let Some(due) = self.0.state.borrow_mut().queue.pop_front() else { break };
            self.carry_out(&due);
        }
        self.0.busy.set(false);
    }

    fn carry_out(&self, due: &Due) {
        let spec = &self.0.faults[due.index];
        let (phase, event, healed) = {
            let state = self.0.state.borrow();
            (state.phase, state.events, state.healed)
        };
        let at_ms = self.0.verbs.now_ms();
        let outcome = if healed { Err("due after the healing".to_string()) } else { self.act(spec, due) };
        let mut state = self.0.state.borrow_mut();
        state.done.insert(due.index);
        match outcome {
            Ok(done) => {
                let class = match (spec.class(), done.target.as_str()) {
                    // An emitter that turned out to be the other kind of process.
                    (FaultClass::CrashTaskManager, JOB_MANAGER | SECOND_JOB_MANAGER) => FaultClass::CrashJobManager,
                    (FaultClass::Freeze, JOB_MANAGER | SECOND_JOB_MANAGER) => FaultClass::FreezeJobManager,
                    (class, _) => class,
                };
                let fired = FiredFault {
                    index: Some(due.index),
                    class: class.name().to_string(),
                    target: done.target,
                    phase: phase.name().to_string(),
                    at_ms,
                    event,
                    // Told from what comes after it.
                    path: String::new(),
                };
                match done.armed {
                    Some((ambush, number)) => state.armed.push(Armed { ambush, number, fired }),
                    None => state.fired.push(fired),
                }
            }
            Err(reason) => {
                state.withheld.insert(due.index, reason);
            }
        }
    }

    fn begin(&self, condition: Condition, duration_ms: u64) {
        let first = {
            let mut state = self.0.state.borrow_mut();
            let holders = state.conditions.entry(condition.clone()).or_default();
            *holders += 1;
            *holders == 1
        };
        if first {
            self.switch(&condition, true);
        }
        self.later(duration_ms, move |nemesis| nemesis.end(&condition));
    }

    fn end(&self, condition: &Condition) {
        {
            let mut state = self.0.state.borrow_mut();
            // The healing may have ended it already.
            let Some(holders) = state.conditions.get_mut(condition) else { return };
            *holders -= 1;
            if *holders > 0 {
                return;
            }
            state.conditions.remove(condition);
        }
        self.switch(condition, false);
    }

    fn switch(&self, condition: &Condition, on: bool) {
        let verbs = &self.0.verbs;
        match (condition, on) {
            (Condition::Cut { from, to }, true) => verbs.cut(from, to),
            (Condition::Cut { from, to }, false) => verbs.mend(from, to),
            (Condition::Held(channel), true) => verbs.hold_channel(channel),
            // How much slower is said where it begins.
            (Condition::Slowed(_), true) => {}
            (Condition::Held(channel) | Condition::Slowed(channel), false) => verbs.release_channel(channel),
            (Condition::Frozen(process), true) => verbs.freeze(process),
            (Condition::Frozen(process), false) => verbs.thaw(process),
            // How much is said where it begins.
            (Condition::ShortOfMemory(_), true) => {}
            (Condition::ShortOfMemory(process), false) => verbs.lift_memory_limit(process),
            (Condition::SecondJobManager, there) => {
                // Nobody starts it again once it was taken away.
                self.0.state.borrow_mut().down.remove(SECOND_JOB_MANAGER);
                verbs.second_job_manager(there);
            }
            (Condition::Full(machine), full) => verbs.fill_disk(machine, full),
            (Condition::Troubled(trouble), on) => {
                if let Trouble::Drift { process, .. } = trouble {
                    verbs.notice(Notice::Clock { process: process.clone(), wrong: on });
                }
                if on { verbs.begin(trouble) } else { verbs.end(trouble) }
            }
        }
    }

    /// Mends everything; only processes that never come back stay away.
    fn heal(&self) {
        let (conditions, down, armed) = {
            let mut state = self.0.state.borrow_mut();
            if std::mem::replace(&mut state.healed, true) {
                return;
            }
            let conditions = std::mem::take(&mut state.conditions);
            let down: Vec<String> =
                state.down.iter().filter(|(_, for_good)| !**for_good).map(|(process, _)| process.clone()).collect();
            (conditions, down, state.armed.clone())
        };
        for condition in conditions.keys() {
            self.switch(condition, false);
        }
        for armed in armed {
            match &armed.ambush {
                Ambush::Disk(machine) => self.0.verbs.disarm_disk_errors(machine, armed.number),
                Ambush::Store => self.0.verbs.disarm_store_errors(armed.number),
                Ambush::Network => self.0.verbs.disarm_messages(armed.number),
                // Its limit ends as a condition.
                Ambush::Memory => {}
            }
        }
        for process in down {
            self.come_back(&process);
        }
        self.0.verbs.notice(Notice::Healed);
    }

    fn come_back(&self, process: &str) {
        if self.0.state.borrow_mut().down.remove(process).is_some() && !self.0.verbs.is_alive(process) {
            self.0.verbs.restart(process);
        }
    }

    pub fn phase(&self) -> Phase {
        self.0.state.borrow().phase
    }

    /// Whether the faults are over.
    pub fn is_healed(&self) -> bool {
        self.0.state.borrow().healed
    }

    /// What took effect and what did not, and why not.
    pub fn account(&self) -> (Vec<FiredFault>, Vec<Unfired>) {
        let state = self.0.state.borrow();
        let mut fired = state.fired.clone();
        let mut unfired = Vec::new();
        let mut miss = |index: usize, reason: String| {
            let class = self.0.faults[index].class().name().to_string();
            unfired.push(Unfired { index: Some(index), class, reason });
        };
        for armed in &state.armed {
            let met = match &armed.ambush {
                Ambush::Disk(machine) => self.0.verbs.disk_errors_met(machine, armed.number),
                Ambush::Store => self.0.verbs.store_errors_met(armed.number),
                Ambush::Network => self.0.verbs.messages_met(armed.number),
                Ambush::Memory => u64::from(state.killed.contains(&armed.number)),
            };
            match (met, armed.fired.index) {
                (0, Some(index)) => miss(index, "armed, met no operation".to_string()),
                _ => fired.push(armed.fired.clone()),
            }
        }
        for index in 0..self.0.faults.len() {
            if let Some(reason) = state.withheld.get(&index) {
                miss(index, reason.clone());
            } else if !state.done.contains(&index) {
                miss(index, NEVER_CAME.to_string());
            }
        }
        fired.sort_by_key(|fired| (fired.at_ms, fired.event, fired.index));
        (fired, unfired)
    }
}
