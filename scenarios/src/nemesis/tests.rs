use std::{cell::RefCell, rc::Rc, time::Duration};

use runtime::{
    ids::CheckpointId,
    journal::{Event, EventKind},
    state::BackendKind,
};

use super::{Nemesis, Notice, Resume, StoreTrouble, Trouble, Verbs};
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
    /// What is on every disk, if not the usual.
    files: RefCell<Option<Vec<String>>>,
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
    fn power_loss(&self, machine: &str) {
        self.write(format!("power {machine}"));
    }
    fn second_job_manager(&self, there: bool) {
        self.write(format!("second {there}"));
    }
    fn rescale(&self, parallelism: u32) {
        self.write(format!("rescale {parallelism}"));
    }
    fn ask_for_savepoint(&self, resume: Option<Resume>) -> Result<(), String> {
        self.write(format!("savepoint {resume:?}"));
        Ok(())
    }
    fn limit_memory(&self, process: &str, headroom_bytes: u64, killed: Box<dyn Fn()>) {
        self.write(format!("limit {process} {headroom_bytes}"));
        if headroom_bytes == 0 {
            killed();
            self.dead.borrow_mut().push(process.to_string());
        }
    }
    fn lift_memory_limit(&self, process: &str) {
        self.write(format!("lift {process}"));
    }
    fn begin(&self, trouble: &Trouble) {
        self.write(format!("begin {trouble:?}"));
    }
    fn end(&self, trouble: &Trouble) {
        self.write(format!("end {trouble:?}"));
    }
    fn connections(&self, _: &str, b: &str) -> usize {
        usize::from(b != "tm-3")
    }
    fn reset_connections(&self, a: &str, b: &str) {
        self.write(format!("reset {a} {b}"));
    }
    fn arm_messages(&self, from: &str, to: &str, channel: &str, count: u32, delay: Duration) -> u64 {
        self.write(format!("twice {from} {to} {channel} {count} {delay:?}"));
        1
    }
    fn messages_met(&self, _: u64) -> u64 {
        1
    }
    fn disarm_messages(&self, _: u64) {}
    fn put_in_place(&self, machine: &str, path: &str, other: &str) -> bool {
        self.write(format!("{machine} {path} holds {other}"));
        true
    }
    fn stall_disk(&self, machine: &str, duration: Duration) {
        self.write(format!("stall {machine} {duration:?}"));
    }
    fn separate_device(&self, machine: &str) {
        self.write(format!("device {machine}"));
    }
    fn arm_store_trouble(&self, _: StoreOperation, contains: &str, trouble: StoreTrouble, count: u32) -> u64 {
        self.write(format!("arm store {contains} {trouble:?} {count}"));
        1
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
        let usual = || ["a/chk_3/x", "a/chk_4/x", "a/chk_4/y", "a/slot"].map(String::from).to_vec();
        self.files.borrow().clone().unwrap_or_else(usual)
    }
    fn damage_file(&self, machine: &str, path: &str, damage: Damage) -> bool {
        self.write(format!("{damage:?} {machine} {path}"));
        true
    }
    fn watch_file(&self, machine: &str, path: &str) -> u64 {
        self.write(format!("watch {machine} {path}"));
        1
    }
    fn fill_disk(&self, machine: &str, full: bool) {
        self.write(format!("full {machine} {full}"));
    }
    fn arm_disk_errors(&self, machine: &str, contains: &str, _: DiskOperation, _: DiskErrorKind, count: u32) -> u64 {
        self.write(format!("arm {machine} {contains}{}{count}", if contains.is_empty() { "" } else { " " }));
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
    fn needed_by(&self, checkpoint: u64) -> Vec<String> {
        // Of each checkpoint an object of its own, one that it shares with the one before, and one that all share.
        let shared = [checkpoint, checkpoint.saturating_sub(1), 0].map(|n| format!("checkpoints/j/shared/{n}-part"));
        shared.into()
    }
    fn put_back(&self, name: &str) {
        self.write(format!("put back {name}"));
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

/// Of the shared objects that the newest refers to, the first may go whose loss leaves a whole checkpoint; all that refer to it are
/// ruined by it. Before a completion leaves none that is whole, what was destroyed is put back.
#[test]
fn a_shared_object_ruins_all_that_refer_to_it_and_never_the_last() {
    let lose = |ordinal| {
        let object = FaultKind::LoseObject { object: ObjectChoice::Shared, index: 0 };
        fault("store", on(EventKind::CheckpointCompleted, None, ordinal), 0, object)
    };
    let (notebook, nemesis) = with_retained(vec![lose(1), lose(2), lose(4)], 2);
    nemesis.on_event("jobmanager", &completed(1));
    assert!(nemesis.account().1[0].reason.contains("last whole checkpoint"));
    nemesis.on_event("jobmanager", &completed(2));
    let lost = "lose checkpoints/j/shared/2-part";
    assert_eq!(notebook.log(), [lost], "what 1 refers to as well is left alone");
    // It refers to what was destroyed, and only 2 and 3 are retained now.
    nemesis.on_event("jobmanager", &completed(3));
    let put_back = "put back checkpoints/j/shared/2-part";
    assert_eq!(notebook.log(), [lost, put_back]);
    // Whole again: 3. Of 4 there may go what 3 does not refer to.
    nemesis.on_event("jobmanager", &completed(4));
    assert_eq!(notebook.log(), [lost, put_back, "lose checkpoints/j/shared/4-part"]);
}

/// Tables of databases are damaged, and nothing else of the copy.
#[test]
fn damage_to_tables_hits_tables_only() {
    let damage = FaultKind::LocalTables { damage: Damage::Corrupt, files: 9 };
    let (notebook, nemesis) = with(vec![fault("tm-1", Trigger::AtMs(5), 0, damage)]);
    notebook.advance_to(5);
    // The copies of the notebook have none.
    assert!(notebook.log().is_empty());
    assert!(nemesis.account().1[0].reason.contains("no local copy"));
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

/// One file of one subtask's newest copy is hit, and no other; where there is none, that is said.
#[test]
fn damage_hits_the_file_that_is_named() {
    let damage = |copy: &str, file: &str, damage| FaultKind::LocalFile { copy: copy.into(), file: file.into(), damage };
    let read = FaultKind::LocalFileErrors {
        path_contains: "/chk_4/y".into(),
        operation: DiskOperation::Read,
        error: DiskErrorKind::Denied,
        count: 3,
    };
    let (notebook, nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(5), 0, damage("vtx_1_sti_0", "x", Damage::BitFlipped)),
        fault("tm-1", Trigger::AtMs(6), 0, damage("vtx_1_sti_1", "x", Damage::Empty)),
        fault("tm-1", Trigger::AtMs(7), 0, damage("vtx_1_sti_0", "z", Damage::Missing)),
        fault("tm-1", Trigger::AtMs(8), 0, damage("vtx_1_sti_0", "x", Damage::Stale)),
        fault("tm-1", Trigger::AtMs(9), 0, read),
    ]);
    let files = ["3/x", "4/x", "4/y"].map(|file| format!("a/vtx_1_sti_0/chk_{file}"));
    *notebook.files.borrow_mut() = Some(files.to_vec());
    notebook.advance_to(10);
    let of = |file: &str| format!("machine-tm-1 a/vtx_1_sti_0/chk_{file}");
    let expected = [
        format!("BitFlipped {}", of("4/x")),
        format!("watch {}", of("4/x")),
        format!("{} holds a/vtx_1_sti_0/chk_3/x", of("4/x")),
        format!("watch {}", of("4/x")),
        "arm machine-tm-1 /chk_4/y 3".to_string(),
    ];
    assert_eq!(notebook.log(), expected);
    let (_, unfired) = nemesis.account();
    let reasons: Vec<&str> = unfired.iter().map(|unfired| unfired.reason.as_str()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "no such file in a local copy there").count(), 2);
    assert_eq!(reasons.iter().filter(|reason| **reason == "armed, met no operation").count(), 3, "nobody has looked");
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

fn peer(name: &str) -> String {
    name.to_string()
}

#[test]
fn what_lasts_ends_with_its_duration_and_with_the_healing() {
    let (notebook, nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(10), 20, FaultKind::JitterStorm { peer: peer("tm-2"), up_to_ms: 7 }),
        fault("tm-1", Trigger::AtMs(15), 80_000, FaultKind::HalfOpen { peer: peer("jobmanager") }),
        fault("tm-2", Trigger::AtMs(16), 80_000, FaultKind::ClockDrift { parts_per_million: -500 }),
        fault("tm-2", Trigger::AtMs(17), 80_000, FaultKind::StalledDisk {}),
    ]);
    notebook.advance_to(100);
    let jitter = r#"Jitter { a: "tm-1", b: "tm-2", up_to_ms: 7 }"#;
    let half_open = r#"HalfOpen { lost: "tm-1", believing: "jobmanager" }"#;
    let drift = r#"Drift { machine: "machine-tm-2", process: "tm-2", parts_per_million: -500 }"#;
    assert_eq!(
        notebook.log(),
        [
            format!("begin {jitter}"),
            format!("begin {half_open}"),
            format!("begin {drift}"),
            // Not beyond the healing at 5 s.
            "stall machine-tm-2 4.983s".to_string(),
            format!("end {jitter}"),
        ]
    );
    notebook.advance_to(100_000);
    assert_eq!(notebook.log()[5..], [format!("end {half_open}"), format!("end {drift}"), "healed".to_string()]);
    assert_eq!(nemesis.account().0.len(), 4);
}

#[test]
fn without_a_connection_there_is_none_to_break() {
    let (notebook, nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(10), 0, FaultKind::ResetConnections { peer: peer("tm-3") }),
        fault("tm-1", Trigger::AtMs(11), 0, FaultKind::ResetConnections { peer: peer("tm-2") }),
        fault("tm-1", Trigger::AtMs(12), 50, FaultKind::HalfOpen { peer: peer("tm-3") }),
    ]);
    notebook.advance_to(1_000);
    assert_eq!(notebook.log(), ["reset tm-1 tm-2"]);
    assert!(nemesis.account().1.iter().all(|unfired| unfired.reason == "no connection between the two"));
}

#[test]
fn a_flapping_link_is_mended_at_the_end_of_its_duration() {
    let flap = FaultKind::FlappingLink { peer: peer("tm-2"), down_ms: 10, up_ms: 20 };
    let (notebook, _nemesis) = with(vec![fault("tm-1", Trigger::AtMs(100), 65, flap)]);
    notebook.advance_to(1_000);
    let cut = ["cut tm-1 tm-2", "cut tm-2 tm-1", "mend tm-1 tm-2", "mend tm-2 tm-1"];
    assert_eq!(notebook.log(), [cut, cut, cut].concat());
}

#[test]
fn messages_come_twice_on_the_control_connection_only() {
    let twice = |to: &str| FaultKind::DuplicateMessages { peer: peer(to), count: 3, delay_ms: 40 };
    let (notebook, nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(10), 0, twice("jobmanager")),
        fault("jobmanager", Trigger::AtMs(11), 0, twice("tm-2")),
        fault("tm-1", Trigger::AtMs(12), 0, twice("tm-2")),
        fault("tm-2", Trigger::AtMs(13), 5, FaultKind::LateMessages {}),
    ]);
    notebook.advance_to(1_000);
    assert_eq!(
        notebook.log(),
        [
            "twice tm-1 jobmanager tm-1->jobmanager 3 40ms",
            "twice jobmanager tm-2 tm-2->jobmanager 3 40ms",
            "hold tm-2->jobmanager",
            "release tm-2->jobmanager",
        ]
    );
    assert_eq!(nemesis.account().1[0].reason, "neither is the JobManager");
}

#[test]
fn a_rack_goes_down_and_comes_back_together() {
    let members = vec![peer("tm-1"), peer("tm-2")];
    let (notebook, _nemesis) = with(vec![
        fault("tm-2", Trigger::AtMs(5), 0, FaultKind::Crash { restart_after_ms: Some(500) }),
        fault(
            "rack-a",
            Trigger::AtMs(10),
            0,
            FaultKind::LoseRack { members: members.clone(), keep_disks: true, restart_after_ms: Some(20) },
        ),
        fault("rack-a", Trigger::AtMs(1_000), 30, FaultKind::CutRack { members: vec![peer("tm-1")] }),
    ]);
    notebook.advance_to(900);
    assert_eq!(
        notebook.log(),
        ["crash tm-2", "power machine-tm-1", "restart tm-2"],
        "what was dead already comes back when it would have; the notebook never killed tm-1"
    );
    notebook.advance_to(2_000);
    let cuts = notebook.log().iter().filter(|line| line.starts_with("cut tm-1 ") || line.ends_with(" tm-1")).count();
    let all = notebook.log().iter().filter(|line| line.starts_with("cut ") || line.starts_with("mend ")).count();
    assert!(cuts > 0 && all.is_multiple_of(4), "both ways, to each of the others: {:?}", notebook.log());
}

#[test]
fn who_joins_late_is_started_then_and_at_the_healing_at_the_latest() {
    let late = |after_ms| FaultKind::JoinLate { after_ms };
    let (notebook, _nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(0), 0, late(Some(300))),
        fault("tm-2", Trigger::AtMs(0), 0, late(Some(60_000))),
        fault("tm-3", Trigger::AtMs(0), 0, late(None)),
    ]);
    for process in ["tm-1", "tm-2", "tm-3"] {
        notebook.dead.borrow_mut().push(process.to_string());
    }
    notebook.advance_to(100_000);
    assert_eq!(notebook.log(), ["restart tm-1", "restart tm-2", "healed"]);
}

#[test]
fn a_file_is_given_the_bytes_of_its_older_version_or_of_another_subtask() {
    let swap = |damage| FaultKind::LocalFiles { damage, files: 9, newest_only: true };
    let (notebook, nemesis) = with(vec![
        fault("tm-1", Trigger::AtMs(5), 0, swap(Damage::Stale)),
        fault("tm-1", Trigger::AtMs(6), 0, swap(Damage::Foreign)),
    ]);
    notebook.advance_to(10);
    // Of `y` there is no older version, and no other subtask has a copy of checkpoint 4.
    assert_eq!(notebook.log(), ["machine-tm-1 a/chk_4/x holds a/chk_3/x"]);
    assert_eq!(nemesis.account().1[0].reason, "no file there that another could stand in for");
}

#[test]
fn a_second_job_manager_takes_over_contends_and_goes() {
    let second = |isolated| FaultKind::SecondJobManager { isolated, takeover_after_ms: 50, contend_ms: 30 };
    let (notebook, nemesis) = with(vec![
        fault("jobmanager", Trigger::AtMs(100), 200, second(false)),
        fault("jobmanager", Trigger::AtMs(4_980), 900, second(false)),
    ]);
    notebook.advance_to(1_000);
    assert_eq!(notebook.log(), ["freeze jobmanager", "second true", "thaw jobmanager", "second false"]);
    // What takes over only after the healing does not take over.
    notebook.advance_to(100_000);
    assert_eq!(notebook.log()[4..], ["freeze jobmanager", "thaw jobmanager", "healed"]);
    assert_eq!(nemesis.account().0[0].class, "two-leaders");
}

#[test]
fn who_needs_too_much_memory_is_killed_and_comes_back() {
    let limit = |headroom_bytes| FaultKind::MemoryLimit { headroom_bytes, restart_after_ms: 40 };
    let (notebook, nemesis) =
        with(vec![fault("tm-1", Trigger::AtMs(10), 100, limit(0)), fault("tm-2", Trigger::AtMs(11), 50, limit(9))]);
    notebook.advance_to(4_000);
    assert_eq!(notebook.log(), ["limit tm-1 0", "limit tm-2 9", "restart tm-1", "lift tm-2", "lift tm-1"]);
    let (fired, unfired) = nemesis.account();
    assert_eq!(fired.iter().map(|f| f.target.as_str()).collect::<Vec<_>>(), ["tm-1"]);
    assert_eq!(unfired[0].reason, "armed, met no operation");
}

#[test]
fn a_job_is_stopped_as_a_whole_and_comes_back_at_another_parallelism() {
    let rescale = FaultKind::Rescale { parallelism: 5, restart_after_ms: 40 };
    let (notebook, nemesis) = with(vec![fault("jobmanager", Trigger::AtMs(10), 0, rescale)]);
    notebook.dead.borrow_mut().push("tm-2".to_string());
    notebook.advance_to(100);
    let log = notebook.log();
    assert_eq!(log[0], "rescale 5");
    assert!(
        log.contains(&"crash jobmanager".to_string()) && log.contains(&"restart jobmanager".to_string()),
        "{log:?}"
    );
    assert!(log.contains(&"restart tm-1".to_string()) && !log.contains(&"crash tm-2".to_string()), "{log:?}");
    assert_eq!(nemesis.account().0[0].class, "rescale");
}

#[test]
fn a_savepoint_is_asked_for_and_the_job_resumed_when_it_has_ended_with_it() {
    let resume = FaultKind::StopAndResume {
        parallelism: 5,
        backend: Some(BackendKind::Memory),
        next_version: true,
        restart_after_ms: 40,
    };
    let (notebook, nemesis) = with(vec![
        fault("jobmanager", Trigger::AtMs(10), 0, FaultKind::Savepoint {}),
        fault("jobmanager", Trigger::AtMs(20), 0, resume),
    ]);
    notebook.advance_to(100);
    let asked =
        "savepoint Some(Resume { parallelism: 5, backend: Some(Memory), next_version: true, restart_after_ms: 40 })";
    assert_eq!(notebook.log(), ["savepoint None", asked], "nothing is stopped before the savepoint is there");
    let classes: Vec<_> = nemesis.account().0.into_iter().map(|fired| fired.class).collect();
    assert_eq!(classes, ["savepoint", "stop-and-resume"]);
    notebook.dead.borrow_mut().push("jobmanager".to_string());
    nemesis.resume_everything(40);
    notebook.advance_to(200);
    let log = notebook.log()[2..].to_vec();
    assert!(log.contains(&"crash tm-1".to_string()) && log.contains(&"restart tm-1".to_string()), "{log:?}");
    assert!(log.contains(&"restart jobmanager".to_string()), "{log:?}");
}
