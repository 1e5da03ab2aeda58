use std::{cell::RefCell, rc::Rc, time::Duration};

use runtime::{
    ids::CheckpointId,
    journal::{Event, EventKind},
};

use super::{Nemesis, Notice, Verbs};
use crate::plan::{
    Damage, DiskErrorKind, DiskOperation, FaultKind, FaultSpec, ObjectChoice, Plan, Profile, Side, StoreErrorKind,
    StoreOperation, Trigger, generate,
};

type Action = Box<dyn FnOnce()>;

/// Notes every verb. Time moves by hand.
#[derive(Default)]
struct Notebook {
    now_ms: RefCell<u64>,
    pending: RefCell<Vec<(u64, Action)>>,
    log: RefCell<Vec<String>>,
    dead: RefCell<Vec<String>>,
    /// Emitted inside `crash`, as a world might.
    echo: RefCell<Option<(Nemesis, Event)>>,
}

impl Notebook {
    fn write(&self, line: String) {
        self.log.borrow_mut().push(line);
    }

    fn advance_to(&self, ms: u64) {
        loop {
            let next = {
                let mut pending = self.pending.borrow_mut();
                let first = (0..pending.len()).filter(|i| pending[*i].0 <= ms).min_by_key(|i| (pending[*i].0, *i));
                first.map(|index| pending.remove(index))
            };
            let Some((at, action)) = next else { break };
            *self.now_ms.borrow_mut() = at;
            action();
        }
        *self.now_ms.borrow_mut() = ms;
    }

    fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }
}

impl Verbs for Notebook {
    fn now_ms(&self) -> u64 {
        *self.now_ms.borrow()
    }
    fn after(&self, delay: Duration, action: Action) {
        let at = self.now_ms() + u64::try_from(delay.as_millis()).expect("short");
        self.pending.borrow_mut().push((at, action));
    }
    fn notice(&self, notice: Notice) {
        if notice == Notice::Healed {
            self.write("healed".into());
        }
    }
    fn is_alive(&self, process: &str) -> bool {
        !self.dead.borrow().iter().any(|dead| dead == process)
    }
    fn crash(&self, process: &str) {
        self.write(format!("crash {process}"));
        self.dead.borrow_mut().push(process.to_string());
        let echo = self.echo.borrow_mut().take();
        if let Some((nemesis, event)) = echo {
            nemesis.on_event("tm-2", &event);
            self.write("after the echo".into());
        }
    }
    fn restart(&self, process: &str) {
        self.write(format!("restart {process}"));
        self.dead.borrow_mut().retain(|dead| dead != process);
    }
    fn lose_machine(&self, machine: &str) {
        self.write(format!("lose {machine}"));
    }
    fn freeze(&self, process: &str) {
        self.write(format!("freeze {process}"));
    }
    fn thaw(&self, process: &str) {
        self.write(format!("thaw {process}"));
    }
    fn cut(&self, from: &str, to: &str) {
        self.write(format!("cut {from} {to}"));
    }
    fn mend(&self, from: &str, to: &str) {
        self.write(format!("mend {from} {to}"));
    }
    fn hold_channel(&self, channel: &str) {
        self.write(format!("hold {channel}"));
    }
    fn slow_channel(&self, channel: &str, extra: Duration) {
        self.write(format!("slow {channel} {extra:?}"));
    }
    fn release_channel(&self, channel: &str) {
        self.write(format!("release {channel}"));
    }
    fn files(&self, _machine: &str) -> Vec<String> {
        ["a/chk_3/x", "a/chk_4/x", "a/chk_4/y", "a/slot"].map(String::from).to_vec()
    }
    fn damage_file(&self, machine: &str, path: &str, damage: Damage) {
        self.write(format!("{damage:?} {machine} {path}"));
    }
    fn fill_disk(&self, machine: &str, full: bool) {
        self.write(format!("full {machine} {full}"));
    }
    fn arm_disk_errors(&self, machine: &str, _: DiskOperation, _: DiskErrorKind, count: u32) -> u64 {
        self.write(format!("arm {machine} {count}"));
        1
    }
    fn disk_errors_met(&self, _: &str, _: u64) -> u64 {
        0
    }
    fn disarm_disk_errors(&self, machine: &str, _: u64) {
        self.write(format!("disarm {machine}"));
    }
    fn objects(&self, _prefix: &str) -> Vec<String> {
        ["checkpoints/j/chk-1/p", "checkpoints/j/chk-2/_metadata-x", "checkpoints/j/chk-2/p"].map(String::from).to_vec()
    }
    fn lose_object(&self, name: &str) {
        self.write(format!("lose {name}"));
    }
    fn corrupt_object(&self, name: &str) {
        self.write(format!("corrupt {name}"));
    }
    fn arm_store_errors(&self, _: StoreOperation, contains: &str, _: StoreErrorKind, count: u32) -> u64 {
        self.write(format!("arm store {contains:?} {count}"));
        2
    }
    fn store_errors_met(&self, _: u64) -> u64 {
        1
    }
    fn disarm_store_errors(&self, _: u64) {
        self.write("disarm store".into());
    }
    fn store_outage(&self, duration: Duration) {
        self.write(format!("outage {duration:?}"));
    }
}

fn on(event: EventKind, entity: Option<&str>, ordinal: u32) -> Trigger {
    Trigger::On { event, entity: entity.map(String::from), ordinal, delay_ms: 0 }
}

fn fault(target: &str, trigger: Trigger, duration_ms: u64, fault: FaultKind) -> FaultSpec {
    FaultSpec { target: target.into(), trigger, duration_ms, fault }
}

fn with(faults: Vec<FaultSpec>) -> (Rc<Notebook>, Nemesis) {
    with_retained(faults, 3)
}

fn with_retained(faults: Vec<FaultSpec>, retained: u32) -> (Rc<Notebook>, Nemesis) {
    let quiet = Profile::named("quiet").expect("declared");
    let mut plan = Plan { healed_by_ms: 5_000, faults, ..generate(quiet, 1) };
    plan.settings.retained = retained;
    let notebook = Rc::new(Notebook::default());
    let nemesis = Nemesis::new(&plan, notebook.clone());
    nemesis.start();
    (notebook, nemesis)
}

fn barrier(channel: &str) -> Event {
    Event::BarrierSent { channel: channel.into(), checkpoint: CheckpointId(1), to: "x".into() }
}

fn completed(checkpoint: u64) -> Event {
    Event::CheckpointCompleted { checkpoint: CheckpointId(checkpoint), sequence: checkpoint }
}

#[test]
fn a_trigger_counts_the_events_of_its_entity_and_fires_once() {
    let (notebook, nemesis) =
        with(vec![fault("entity", on(EventKind::BarrierSent, Some("a->b"), 2), 100, FaultKind::HoldChannel {})]);
    for channel in ["a->b", "c->d", "c->d", "a->b", "a->b"] {
        nemesis.on_event("tm-1", &barrier(channel));
    }
    assert_eq!(notebook.log(), ["hold a->b"]);
    notebook.advance_to(100);
    assert_eq!(notebook.log(), ["hold a->b", "release a->b"]);
    assert_eq!(nemesis.account().0.len(), 1);
}

#[test]
fn actions_never_nest_and_keep_their_order() {
    let crash = |ordinal| {
        fault("emitter", on(EventKind::BarrierSent, None, ordinal), 0, FaultKind::Crash { restart_after_ms: None })
    };
    let (notebook, nemesis) = with(vec![crash(1), crash(2)]);
    *notebook.echo.borrow_mut() = Some((nemesis.clone(), barrier("x->y")));
    nemesis.on_event("tm-1", &barrier("a->b"));
    assert_eq!(notebook.log(), ["crash tm-1", "after the echo", "crash tm-2"]);
}

#[test]
fn a_crashed_process_comes_back_and_one_without_a_restart_does_not() {
    let (notebook, nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(10), 0, FaultKind::Crash { restart_after_ms: Some(50) }),
        fault("tm-2", Trigger::AtMs(10), 0, FaultKind::Crash { restart_after_ms: None }),
        fault("tm-2", Trigger::AtMs(20), 0, FaultKind::Freeze {}),
    ]);
    notebook.advance_to(6_000);
    assert_eq!(notebook.log(), ["crash tm-1", "crash tm-2", "restart tm-1", "healed"]);
    let (_, unfired) = nemesis.account();
    assert_eq!(unfired.len(), 1);
    assert_eq!(unfired[0].reason, "the process was dead already");
}

#[test]
fn overlapping_partitions_end_with_the_later_one() {
    let cut = |at, duration| {
        let partition = FaultKind::Partition { peer: "tm-2".into(), side: Side::TargetToPeer };
        fault("tm-1", Trigger::AtMs(at), duration, partition)
    };
    let (notebook, _nemesis) = with(vec![cut(10, 100), cut(50, 200)]);
    notebook.advance_to(200);
    assert_eq!(notebook.log(), ["cut tm-1 tm-2"]);
    notebook.advance_to(250);
    assert_eq!(notebook.log(), ["cut tm-1 tm-2", "mend tm-1 tm-2"]);
}

#[test]
fn the_healing_ends_everything_and_nothing_begins_after_it() {
    let (notebook, nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(10), 80_000, FaultKind::Freeze {}),
        fault("tm-2", Trigger::AtMs(20), 0, FaultKind::Crash { restart_after_ms: Some(70_000) }),
        fault("tm-2", on(EventKind::BarrierSent, None, 1), 5, FaultKind::Freeze {}),
    ]);
    notebook.advance_to(5_000);
    assert_eq!(notebook.log(), ["freeze tm-1", "crash tm-2", "thaw tm-1", "restart tm-2", "healed"]);
    nemesis.on_event("tm-1", &barrier("a->b"));
    notebook.advance_to(100_000);
    assert_eq!(notebook.log().len(), 5);
    assert_eq!(nemesis.account().1[0].reason, "due after the healing");
}

#[test]
fn the_last_whole_checkpoint_is_never_destroyed() {
    let lose = |ordinal| {
        let object = FaultKind::LoseObject { object: ObjectChoice::Part, index: 7 };
        fault("store", on(EventKind::CheckpointCompleted, None, ordinal), 0, object)
    };
    let (notebook, nemesis) = with(vec![lose(1), lose(2)]);
    nemesis.on_event("jobmanager", &completed(1));
    assert!(notebook.log().is_empty());
    nemesis.on_event("jobmanager", &completed(2));
    assert_eq!(notebook.log(), ["lose checkpoints/j/chk-2/p"]);
    assert!(nemesis.account().1[0].reason.contains("last whole checkpoint"));
}

#[test]
fn where_one_checkpoint_is_retained_nothing_is_destroyed() {
    let object = FaultKind::LoseObject { object: ObjectChoice::Part, index: 0 };
    let lose = fault("store", on(EventKind::CheckpointCompleted, None, 2), 0, object);
    let (notebook, nemesis) = with_retained(vec![lose], 1);
    nemesis.on_event("jobmanager", &completed(1));
    // The completion of 2 has dropped 1 already, although nothing has said so yet.
    nemesis.on_event("jobmanager", &completed(2));
    assert!(notebook.log().is_empty());
    assert!(nemesis.account().1[0].reason.contains("last whole checkpoint"));
}

#[test]
fn local_damage_hits_the_newest_copy_only() {
    let damage = FaultKind::LocalFiles { damage: Damage::Torn, files: 9, newest_only: true };
    let (notebook, _nemesis) = with(vec![fault("tm-1", Trigger::AtMs(5), 0, damage)]);
    notebook.advance_to(5);
    let mut log = notebook.log();
    log.sort();
    assert_eq!(log, ["Torn machine-tm-1 a/chk_4/x", "Torn machine-tm-1 a/chk_4/y"]);
}

#[test]
fn armed_errors_that_met_no_operation_did_not_fire() {
    let disk = FaultKind::DiskErrors { operation: DiskOperation::Write, error: DiskErrorKind::NoSpace, count: 2 };
    let store = FaultKind::StoreErrors {
        operation: StoreOperation::Create,
        name_contains: "ha/".into(),
        error: StoreErrorKind::ErrorAfter,
        count: 1,
    };
    let (notebook, nemesis) =
        with(vec![fault("tm-1", Trigger::AtMs(5), 0, disk), fault("store", Trigger::AtMs(6), 0, store)]);
    notebook.advance_to(5_000);
    let (fired, unfired) = nemesis.account();
    assert_eq!(fired.iter().map(|f| f.class.as_str()).collect::<Vec<_>>(), ["store-error-after"]);
    assert_eq!(unfired.iter().map(|u| u.reason.as_str()).collect::<Vec<_>>(), ["armed, met no operation"]);
    assert_eq!(notebook.log().last().map(String::as_str), Some("healed"));
}
