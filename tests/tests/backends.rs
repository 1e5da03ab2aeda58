//! The three state backends under one job, and the databases of RocksDB on machines where something goes wrong: processes die, disks are
//! full, files rot. Simulated, by hand-written plans, and with real processes.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a harness prepares and inspects the real machine; the law holds for the runtime"
)]

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use runtime::{
    ids::AttemptId,
    journal::{Event, EventKind},
    state::BackendKind,
};
use scenarios::plan::{DiskErrorKind, DiskOperation, FaultKind, Plan, model::machine_of};
use weir_tests::{
    objects::{Entry, Objects, committed_lines, newest_state, of_directory, of_simulated, place_in_checkpoints},
    processes::program,
    real_cluster::{Process, RealCluster},
    tales::{Tale, Told, calm, fault, lasting, later, of_kind, tell, when},
};

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");

const BACKENDS: [BackendKind; 3] = [BackendKind::Memory, BackendKind::Filesystem, BackendKind::RocksDb];

/// State, or a line, that depends on when a record came by in processing time, or on the order of two inputs.
fn is_of_the_moment((operator, state, _, _): &Entry) -> bool {
    (operator == "echo" && state != "count") || operator == "window" || operator.contains("rules")
}

/// R76: one job on the three backends, with full and with incremental snapshots: the same lines are committed, and the last checkpoint
/// holds the same state, decoded from the metadata, from parts, or from files of databases.
#[test]
fn a_job_gives_the_same_and_keeps_the_same_on_each_backend() {
    for workload in ["audit", "states"] {
        let mut runs: BTreeMap<String, (Vec<String>, BTreeSet<Entry>)> = BTreeMap::new();
        for (backend, incremental) in BACKENDS.into_iter().map(|b| (b, false)).chain([(BackendKind::RocksDb, true)]) {
            let mut plan = calm();
            plan.workload.name = workload.to_string();
            // In the order of one split nothing depends on what was faster.
            (plan.workload.splits, plan.workload.records) = (1, 400);
            (plan.settings.backend, plan.settings.incremental) = (backend, incremental);
            plan.settings.local_recovery = false;
            let objects = of_simulated(&plan, |_| {});
            let mut lines = committed_lines(&objects).remove(workload).expect("there is output");
            if workload == "states" {
                // A record; what comes last is of the moment.
                lines.retain(|line| line.starts_with('r'));
                lines.iter_mut().for_each(|line| *line = line.split('\t').take(12).collect::<Vec<_>>().join("\t"));
            }
            assert_eq!(lines.len(), 400);
            let mut state = newest_state(&objects);
            state.retain(|entry| !is_of_the_moment(entry));
            let keys = plan.workload.keys as usize;
            let kinds: BTreeSet<_> = state.iter().map(|(operator, state, ..)| (operator, state)).collect();
            assert!(state.len() > keys && kinds.len() >= if workload == "states" { 8 } else { 2 }, "{kinds:?}");
            runs.insert(format!("{backend:?} incremental {incremental}"), (lines, state));
        }
        let mut runs = runs.into_iter();
        let (first, expected) = runs.next().expect("the first");
        for (name, (lines, state)) in runs {
            assert!(lines == expected.0, "{workload}: output of {name} and {first}");
            let differs: Vec<_> = state.symmetric_difference(&expected.1).take(4).collect();
            assert!(differs.is_empty(), "{workload}: state of {name} and {first}: {differs:?}");
        }
    }
}

/// R76, R95, R113, for real: files, threads, sockets. It is the example of each backend that the guide names.
#[test]
fn a_real_run_gives_the_same_and_keeps_the_same_on_each_backend() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |name: &str, backend: &str, incremental: bool| -> Objects {
        let root = directory.path().join(name);
        let settings = [format!("state.backend={backend}"), format!("state.backend.incremental={incremental}")];
        let root_text = root.display().to_string();
        let mut arguments = vec!["weir", "run", "flights", "--quiet", "--output", &root_text, "--splits", "1"];
        settings.iter().for_each(|setting| arguments.extend(["-D", setting]));
        let output = program(Path::new(WORKER), &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        of_directory(&root)
    };
    let expected = run("memory", "jobmanager", false);
    let (lines, state) = (committed_lines(&expected), newest_state(&expected));
    assert_eq!(lines["carriers"].len(), 27_004);
    assert!(state.iter().filter(|(operator, ..)| operator == "by-route").count() > 100);
    for (name, backend, incremental) in
        [("files", "filesystem", false), ("full", "rocksdb", false), ("incremental", "rocksdb", true)]
    {
        let objects = run(name, backend, incremental);
        assert!(committed_lines(&objects) == lines, "{name}: other output");
        let state_of_it = newest_state(&objects);
        let differs: Vec<_> = state_of_it.symmetric_difference(&state).take(4).collect();
        assert!(differs.is_empty(), "{name}: {differs:?}");
        let places: BTreeSet<_> = objects.keys().filter_map(|object| place_in_checkpoints(object)).collect();
        let is_right = places.contains("metadata") && places.contains("shared") == incremental;
        assert!(is_right, "{name}: {places:?}");
    }
}

/// R90: with the filesystem backend working state is in memory: between two checkpoints nothing is written or read anywhere. State becomes
/// files, below the directory of checkpoints, when one is taken. (Local copies are files on the disks; with them it shows that looking there
/// finds what is written.)
#[test]
fn the_filesystem_backend_has_files_of_checkpoints_only() {
    for local_recovery in [false, true] {
        let mut plan = calm();
        (plan.settings.backend, plan.settings.local_recovery) = (BackendKind::Filesystem, local_recovery);
        let seen: Arc<Mutex<FilesSeen>> = Arc::default();
        let (told, machines) = (seen.clone(), plan.cluster.task_managers);
        of_simulated(&plan, move |world| look_at_files(world, machines, told));
        let seen = seen.lock().expect("nobody panics with it");
        assert!(seen.parts > 100, "{} parts were uploaded", seen.parts);
        assert_eq!(seen.outside, Vec::<String>::new(), "written while no checkpoint was taken");
        let (first, last) = (seen.disks.first().expect("checkpoints"), seen.disks.last().expect("checkpoints"));
        assert!(seen.disks.len() > 15);
        assert_eq!(first < last, local_recovery, "bytes on local disks at each completed checkpoint: {:?}", seen.disks);
    }
}

/// What was written by whom, and when.
#[derive(Default)]
struct FilesSeen {
    /// Bytes that all local disks had moved when a checkpoint completed.
    disks: Vec<u64>,
    /// Parts of state in primary storage.
    parts: usize,
    /// What was created in primary storage below the checkpoints while none was under way.
    outside: Vec<String>,
}

fn look_at_files(world: &sim::World, machines: u32, seen: Arc<Mutex<FilesSeen>>) {
    let under_way = Cell::new(false);
    world.set_listener(Rc::new(move |world, stamped| {
        let mut seen = seen.lock().expect("nobody panics with it");
        match &stamped.event {
            Event::CheckpointTriggered { .. } => under_way.set(true),
            Event::CheckpointCompleted { .. } => {
                under_way.set(false);
                let disks = (1..=machines).map(|number| world.disk(&machine_of(&format!("tm-{number}"))));
                let moved =
                    |disk: sim::SimDisk| disk.moved(sim::DiskOperation::Append) + disk.moved(sim::DiskOperation::Read);
                seen.disks.push(disks.map(moved).sum());
            }
            Event::PartUploaded { object, .. } => {
                assert_eq!(place_in_checkpoints(object), Some("exclusive"), "{object}");
                seen.parts += 1;
            }
            Event::ObjectCreated { object, .. } if object.starts_with("checkpoints/") && !under_way.get() => {
                seen.outside.push(object.clone());
            }
            _ => {}
        }
    }));
}

/// R146, R79: state of every kind, windows and timers among it, on each backend: a process dies while snapshots are written beside the stream. The
/// job goes back into the middle of windows, and they and the timers fire as if nothing had been (the oracle looks at every line).
#[test]
fn a_process_that_dies_beside_its_snapshots_harms_no_kind_of_state() {
    for (backend, incremental) in BACKENDS.into_iter().map(|b| (b, false)).chain([(BackendKind::RocksDb, true)]) {
        let begun = when(EventKind::SnapshotAsyncStarted, "fold[0]", 5);
        let dies = fault("emitter", begun, FaultKind::Crash { restart_after_ms: Some(300) });
        let mut plan = Plan { faults: vec![dies], ..calm() };
        plan.workload.name = "states".to_string();
        (plan.settings.backend, plan.settings.incremental) = (backend, incremental);
        let tale = tell(&plan);
        tale.ends_well();
        let near = tale.lines(NEAR);
        let restored = tale.events.iter().filter_map(|told| match &told.event {
            Event::RestoreChosen { checkpoint, .. } => *checkpoint,
            _ => None,
        });
        assert_eq!(restored.count(), 1, "{backend:?} incremental {incremental}: it goes back to a checkpoint\n{near}");
    }
}

/// R85, for real: state that does not fit into a message is not sent. Each checkpoint is declined by those who have too much, with the key and
/// the sizes; no connection is cut, no TaskManager lost, and the job goes on, again and again.
#[test]
fn a_real_job_declines_what_no_message_can_carry() {
    let scratch = tempfile::tempdir().expect("a directory");
    let job = ["flights", "--splits", "1", "--records-per-second", "3000", "-D", "state.backend=jobmanager"];
    let job = [&job[..], &["-D", "akka.framesize=1024b"]].concat();
    let cluster = RealCluster::new(Path::new(WORKER), &scratch.path().join("data"), &job);
    let mut job_manager = cluster.job_manager(&["--checkpoint-interval-ms", "200"]);
    let _task_manager = cluster.task_manager("tm", 2);
    job_manager.wait_for("CheckpointAborted", 4);
    let events = job_manager.events();
    let declined: Vec<&String> = events.iter().filter(|line| line.contains("CheckpointDeclined")).collect();
    let says = |line: &str| line.contains("akka.framesize") && line.contains("a message at most 1024");
    assert!(!declined.is_empty() && declined.iter().all(|line| says(line)), "{declined:?}");
    for bad in ["TaskManagerLost", "to=\"FAILING\"", "CheckpointExpired"] {
        assert!(!events.iter().any(|line| line.contains(bad)), "{bad}:\n{}", events.join("\n"));
    }
}

// ---- processes that are gone

/// R81, R92, R96: the JobManager dies. On each backend the next leader restores the newest checkpoint, also where state travels to the
/// JobManager and lies in no file of its own: metadata is in primary storage, always.
#[test]
fn a_new_leader_restores_whatever_the_backend() {
    for backend in BACKENDS {
        let mut plan = calm();
        plan.settings.backend = backend;
        let dies = FaultKind::Crash { restart_after_ms: Some(300) };
        plan.faults = vec![fault("jobmanager", when(EventKind::CheckpointCompleted, "4", 1), dies)];
        let tale = tell(&plan);
        tale.ends_well();
        let restored = tale.events.iter().filter_map(|told| match told.event {
            Event::RestoreChosen { checkpoint, .. } => Some(checkpoint.map(|checkpoint| checkpoint.0)),
            _ => None,
        });
        assert_eq!(restored.collect::<Vec<_>>(), [None, Some(4)], "{backend:?}");
        let has_files = tale.count(of_kind(EventKind::PartUploaded)) > 0;
        assert_eq!(has_files, backend != BackendKind::Memory, "{backend:?}");
    }
}

/// R81, R92, for real: the JobManager that state has travelled to is killed (SIGKILL). The next one goes on with what it had, and the output
/// is exact.
#[test]
fn a_killed_job_manager_takes_no_state_with_it() {
    let scratch = tempfile::tempdir().expect("a directory");
    let job = ["flights", "--splits", "1", "--records-per-second", "3000", "-D", "state.backend=jobmanager"];
    let cluster = RealCluster::new(Path::new(WORKER), &scratch.path().join("data"), &job);
    let mut killed = cluster.job_manager(&["--checkpoint-interval-ms", "300"]);
    let task_manager = cluster.task_manager("tm", 2);
    killed.wait_for("CheckpointCompleted", 1);
    killed.kill();
    let mut job_manager = cluster.job_manager(&["--checkpoint-interval-ms", "300", "--resume"]);
    job_manager.wait_until("it restores a checkpoint", |events| {
        let restores = |line: &&String| line.contains(" RestoreChosen ") && line.contains(" checkpoint=Some(");
        events.iter().find(restores).cloned()
    });
    Running { scratch, job_manager, task_manager }.gives_what_it_should();
}

/// R165: a TaskManager that needs more memory than it may have is killed for it. To the job it is a process that is gone: it restores its
/// newest checkpoint, and its output is exact.
#[test]
fn a_task_manager_that_is_killed_for_its_memory_comes_back() {
    let limit = FaultKind::MemoryLimit { headroom_bytes: 0, restart_after_ms: 300 };
    let at = later(10, EventKind::CheckpointCompleted, "3", 1);
    let tale = tell(&Plan { faults: vec![lasting(4_000, "tm-2", at, limit)], ..calm() });
    tale.ends_well();
    let fails = |told: &Told| matches!(&told.event, Event::JobStateChanged { to, .. } if to == "FAILING");
    let failed = tale.first("the job loses it", NEAR, fails);
    let restored = tale.first_after(failed, "the job goes back", NEAR, |told| {
        matches!(told.event, Event::RestoreChosen { checkpoint: Some(_), .. })
    });
    tale.first_after(restored, "checkpoints go on", NEAR, of_kind(EventKind::CheckpointCompleted));
    assert!(tale.count(|told| told.process == "tm-2" && told.incarnation > 1) > 0, "it comes back");
}

// ---- what is left of databases

const SCRATCH: &str = "WEIR_BACKENDS_SCRATCH";

/// R97: whatever step a process dies in, when the job runs again there are as many directories of databases as there are databases, and none
/// when it has ended. The directories of the simulated world are real ones; here they are in a place of their own, which only a process
/// that was started with it has.
#[test]
fn no_directory_of_a_database_is_left_behind() {
    const TEST: &str = "no_directory_of_a_database_is_left_behind";
    let Some(scratch) = std::env::var_os(SCRATCH).map(PathBuf::from) else {
        let scratch = tempfile::tempdir().expect("a directory");
        let itself = std::env::current_exe().expect("this test is a program");
        let output = Command::new(itself)
            .args(["--exact", TEST, "--nocapture"])
            .env(SCRATCH, scratch.path())
            .env(sim::SCRATCH_VARIABLE, scratch.path())
            .output()
            .expect("the test runs itself");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        return;
    };
    let directories = move || {
        let entries = std::fs::read_dir(&scratch).expect("it is there");
        entries
            .filter(|entry| entry.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("weir-sim-")))
            .count()
    };
    for kind in [
        EventKind::DatabaseOpened,
        EventKind::SnapshotAsyncStarted,
        EventKind::NativeCheckpointTaken,
        EventKind::PartUploaded,
        EventKind::NativeCheckpointWritten,
        EventKind::CheckpointNotified,
        EventKind::PartRestoredFromPrimary,
    ] {
        let mut plan = calm();
        (plan.settings.backend, plan.settings.incremental) = (BackendKind::RocksDb, true);
        // So that there is something to restore from primary.
        plan.settings.local_recovery = false;
        plan.workload.records = 400;
        let looks = Arc::new(Mutex::new(Vec::new()));
        let (seen, count) = (looks.clone(), directories.clone());
        of_simulated(&plan, move |world| watch(world, kind, count, seen));
        let looks = looks.lock().expect("nobody panics with it").clone();
        assert!(looks.len() > 3, "{kind:?}: {looks:?}");
        for (running, expected) in &looks {
            assert_eq!(running, expected, "{kind:?}: directories and databases: {looks:?}");
        }
        assert_eq!(directories(), 0, "{kind:?}: the job has ended");
    }
}

type Looks = Arc<Mutex<Vec<(usize, usize)>>>;

/// Kills two processes that say this, and looks at each completed checkpoint how many directories and how many databases there are.
fn watch(world: &sim::World, kind: EventKind, directories: impl Fn() -> usize + 'static, looks: Looks) {
    let open: RefCell<BTreeMap<AttemptId, BTreeSet<(String, String)>>> = RefCell::default();
    // Of a restore the first are of the one before.
    let mut ordinals = BTreeSet::from([3, 9]);
    if kind == EventKind::PartRestoredFromPrimary {
        ordinals = BTreeSet::from([2, 5]);
        world.after(Duration::from_secs(2), |world| crash(world, "tm-1"));
    }
    let (met, ordinals) = (RefCell::new(0), RefCell::new(ordinals));
    world.set_listener(Rc::new(move |world, stamped| {
        if let Event::DatabaseOpened { subtask, operator, attempt } = &stamped.event {
            open.borrow_mut().entry(*attempt).or_default().insert((subtask.clone(), operator.clone()));
        }
        if stamped.event.kind() == EventKind::CheckpointCompleted {
            let databases = open.borrow().last_key_value().map_or(0, |(_, databases)| databases.len());
            looks.lock().expect("nobody panics with it").push((directories(), databases));
        }
        if stamped.event.kind() == kind {
            let ordinal = {
                let mut met = met.borrow_mut();
                *met += 1;
                *met
            };
            if ordinals.borrow_mut().remove(&ordinal) && stamped.process.starts_with("tm-") {
                crash(world, &stamped.process);
            }
        }
    }));
}

fn crash(world: &sim::World, process: &str) {
    world.crash(process);
    let process = process.to_string();
    world.after(Duration::from_millis(300), move |world| world.restart(&process));
}

/// The directories of databases below `directory`, whoever they are of.
fn databases_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("db-")) {
            found.insert(path);
        } else if path.is_dir() {
            found.extend(databases_below(&path));
        }
    }
    found
}

const ON_ROCKSDB: [&str; 4] = ["-D", "state.backend=rocksdb", "-D", "state.backend.incremental=true"];

/// R97, for real: a TaskManager is killed (SIGKILL) and leaves its databases behind; started again it removes them before it makes new
/// ones. When the job ends they are closed, and nothing is left.
#[test]
fn a_killed_task_manager_leaves_no_database_for_good() {
    let scratch = tempfile::tempdir().expect("a directory");
    let databases = scratch.path().join("databases");
    let place = format!("state.backend.rocksdb.localdir={}", databases.display());
    let job = [&["flights", "--records-per-second", "5000", "-D", &place][..], &ON_ROCKSDB].concat();
    let cluster = RealCluster::new(Path::new(WORKER), &scratch.path().join("data"), &job);
    let mut job_manager = cluster.job_manager(&["--checkpoint-interval-ms", "100"]);
    let mut task_manager = cluster.task_manager("tm", 2);
    let completed = job_manager.wait_for("CheckpointCompleted", 1);
    // Two operators, two subtasks each.
    let before = databases_below(&databases);
    assert_eq!(before.len(), 4, "{before:?}");
    task_manager.kill();
    assert_eq!(databases_below(&databases), before, "nobody tidies up");
    let mut task_manager = cluster.task_manager("tm", 2);
    task_manager.wait_for("DatabaseOpened", 3);
    job_manager.wait_for("CheckpointCompleted", completed);
    let after = databases_below(&databases);
    assert_eq!(after.len(), 4, "{after:?}");
    assert!(after.is_disjoint(&before), "{after:?} and before {before:?}");
    job_manager.ends_well();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !databases_below(&databases).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", databases_below(&databases));
        std::thread::sleep(Duration::from_millis(20));
    }
    task_manager.kill();
}

// ---- broken disks and files

const NEAR: &[EventKind] = &[
    EventKind::DatabaseBroken,
    EventKind::SnapshotFailed,
    EventKind::CheckpointCompleted,
    EventKind::CheckpointAborted,
    EventKind::RestoreChosen,
    EventKind::JobStateChanged,
    EventKind::TaskStateChanged,
];

fn on_rocksdb() -> Plan {
    let mut plan = calm();
    (plan.settings.backend, plan.settings.incremental) = (BackendKind::RocksDb, true);
    plan
}

fn failing(tale: &Tale) -> Vec<String> {
    let reasons = tale.events.iter().filter_map(|told| match &told.event {
        Event::JobStateChanged { to, reason, .. } if to == "FAILING" => Some(reason.clone()),
        _ => None,
    });
    reasons.collect()
}

/// R102, R148: a flush or a compaction of a database fails in the background, because the disk is broken or full: the task fails and says so,
/// the job goes back to its last checkpoint, what is restored equals the snapshot (the invariants look), and checkpoints go on.
#[test]
fn a_database_that_breaks_in_the_background_fails_its_task() {
    for operation in [DiskOperation::DatabaseFlush, DiskOperation::DatabaseCompact] {
        for (error, says) in [
            (DiskErrorKind::NoSpace, "IO error: No space left on device"),
            (DiskErrorKind::InputOutput, "IO error: Input/output error"),
        ] {
            let errors = FaultKind::DiskErrors { operation, error, count: 1 };
            let at = later(10, EventKind::CheckpointCompleted, "3", 1);
            let tale = tell(&Plan { faults: vec![fault("tm-2", at, errors)], ..on_rocksdb() });
            tale.ends_well();
            let near = tale.lines(NEAR);
            let broken = tale.first("its database breaks", NEAR, of_kind(EventKind::DatabaseBroken));
            let Event::DatabaseBroken { reason, .. } = &tale.events[broken].event else { panic!() };
            assert!(reason.contains("fold: its database is broken") && reason.contains(says), "{reason}");
            let reasons = failing(&tale);
            assert!(reasons.len() == 1 && reasons[0].contains(says), "{reasons:?}\n{near}");
            let restored = tale.first_after(broken, "it goes back", NEAR, |told| {
                matches!(told.event, Event::RestoreChosen { checkpoint: Some(_), .. })
            });
            tale.first_after(restored, "checkpoints go on", NEAR, of_kind(EventKind::CheckpointCompleted));
        }
    }
}

/// R102: the disk is full when the native checkpoint is made: that checkpoint fails and says so, the job does not, and the next one that
/// finds room completes.
#[test]
fn a_native_checkpoint_without_room_fails_alone() {
    let (operation, error) = (DiskOperation::DatabaseCheckpoint, DiskErrorKind::NoSpace);
    let errors = FaultKind::DiskErrors { operation, error, count: 1 };
    let at = later(10, EventKind::CheckpointCompleted, "3", 1);
    let tale = tell(&Plan { faults: vec![fault("tm-2", at, errors)], ..on_rocksdb() });
    tale.ends_well();
    let failed = tale.first("a snapshot fails", NEAR, of_kind(EventKind::SnapshotFailed));
    let Event::SnapshotFailed { reason, .. } = &tale.events[failed].event else { panic!() };
    assert!(reason.starts_with("fold: ") && reason.contains("No space left on device"), "{reason}");
    assert_eq!(failing(&tale), Vec::<String>::new(), "{}", tale.lines(NEAR));
    tale.first_after(failed, "the next completes", NEAR, of_kind(EventKind::CheckpointCompleted));
}

/// R102: the whole disk of a machine is full for two seconds, so that not even a new database opens there; when there is room again, the job
/// recovers by itself.
#[test]
fn the_job_recovers_when_a_full_disk_has_room_again() {
    let at = later(10, EventKind::CheckpointCompleted, "3", 1);
    let tale = tell(&Plan { faults: vec![lasting(2_000, "tm-2", at, FaultKind::DiskFull {})], ..on_rocksdb() });
    tale.ends_well();
    let reasons = failing(&tale);
    assert!(
        reasons.iter().any(|reason| reason.contains("No space left on device")),
        "{reasons:?}\n{}",
        tale.lines(NEAR)
    );
    let broken = tale.first("its database breaks", NEAR, of_kind(EventKind::DatabaseBroken));
    let full_until = tale.events[broken].at_ms + 2_000;
    let completed = |told: &Told| told.at_ms > full_until && told.event.kind() == EventKind::CheckpointCompleted;
    tale.first_after(broken, "checkpoints go on", NEAR, completed);
}

/// A job with a database of each operator on one TaskManager, and its processes.
struct Running {
    scratch: tempfile::TempDir,
    job_manager: Process,
    task_manager: Process,
}

impl Running {
    fn start(more: &[&str]) -> Running {
        let scratch = tempfile::tempdir().expect("a directory");
        let place = format!("state.backend.rocksdb.localdir={}", scratch.path().join("databases").display());
        let job = ["flights", "--splits", "1", "--records-per-second", "3000", "-D", &place];
        let job = [&job[..], &ON_ROCKSDB, more].concat();
        let cluster = RealCluster::new(Path::new(WORKER), &scratch.path().join("data"), &job);
        let mut job_manager = cluster.job_manager(&["--checkpoint-interval-ms", "300"]);
        let task_manager = cluster.task_manager("tm", 2);
        job_manager.wait_for("CheckpointCompleted", 1);
        Running { scratch, job_manager, task_manager }
    }

    /// To its end: what it has committed is what an undisturbed run commits.
    fn gives_what_it_should(mut self) {
        self.job_manager.ends_well();
        let undisturbed = self.scratch.path().join("undisturbed");
        let text = undisturbed.display().to_string();
        let output =
            program(Path::new(WORKER), &["weir", "run", "flights", "--quiet", "--output", &text, "--splits", "1"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = |root: &Path| committed_lines(&of_directory(root));
        assert!(lines(&self.scratch.path().join("data")) == lines(&undisturbed), "another output");
    }
}

/// R102, for real: the files of a TaskManager cannot grow any more for a while, as on a full disk: flushes fail, the task fails with what the
/// system says, and so does every attempt to open a database anew. Once there is room the job recovers by itself, and its output is exact.
#[test]
fn a_real_job_recovers_when_there_is_room_again() {
    let mut running = Running::start(&[
        "-D",
        "restart-strategy.type=fixed-delay",
        "-D",
        "restart-strategy.fixed-delay.attempts=1000",
    ]);
    let process = running.task_manager.id().to_string();
    let limit = |size: &str| {
        let set = Command::new("prlimit").args(["--pid", &process, &format!("--fsize={size}")]).status();
        assert!(set.expect("util-linux is there").success(), "the limit was not set");
    };
    limit("64:unlimited");
    // The first failure that the JobManager hears of may be that of a neighbour, whose connection closed.
    running.job_manager.wait_until("the task fails and says why", |events| {
        let failures = events.iter().filter(|line| line.contains("JobStateChanged") && line.contains("to=\"FAILING\""));
        failures.into_iter().find(|line| line.contains("File too large") || line.contains("background")).cloned()
    });
    // And again, as nothing has changed.
    running.job_manager.wait_for("to=\"FAILING\"", 1);
    limit("unlimited:unlimited");
    let seen = running.job_manager.events().iter().filter(|line| line.contains("CheckpointCompleted")).count();
    running.job_manager.wait_for("CheckpointCompleted", seen);
    running.gives_what_it_should();
}
