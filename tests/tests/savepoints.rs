//! Savepoints: hand-written plans, and the typed commands on a cluster of processes.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a harness prepares and inspects the real machine; the law holds for the runtime"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use runtime::{
    ids::CheckpointId,
    journal::{Event, EventKind},
    state::BackendKind,
};
use scenarios::plan::{FaultKind, FaultSpec, ModelledState, Plan, StoreErrorKind, StoreOperation, Trigger};
use weir_tests::{
    objects::{committed_lines, of_directory},
    real_cluster::{Process, RealCluster},
    tales::{Tale, Told, calm, fault, later, of_kind, tell, when},
};

fn told(faults: Vec<FaultSpec>) -> Tale {
    tell(&Plan { faults, ..calm() })
}

const NEAR: &[EventKind] = &[
    EventKind::SavepointTriggered,
    EventKind::SavepointCompleted,
    EventKind::SavepointFailed,
    EventKind::SavepointAnswered,
    EventKind::SavepointReleased,
    EventKind::CheckpointCompleted,
    EventKind::CheckpointAborted,
    EventKind::RestoreChosen,
    EventKind::StateImported,
    EventKind::JobStateChanged,
];

fn savepoint_after(checkpoint: &str) -> FaultSpec {
    fault("jobmanager", later(100, EventKind::CheckpointCompleted, checkpoint, 1), FaultKind::Savepoint {})
}

/// Somebody takes a savepoint in between. It holds what the output up to its barrier implies (the invariants look), whoever asked gets
/// its path, checkpoints go on as if nothing had been, and it is never touched again. (R17, R27)
#[test]
fn a_savepoint_on_a_calm_day() {
    let tale = told(vec![savepoint_after("3")]);
    tale.ends_well();
    assert_eq!(tale.count(of_kind(EventKind::SavepointCompleted)), 1, "{}", tale.lines(NEAR));
    let answered = tale.first("it is answered", NEAR, of_kind(EventKind::SavepointAnswered));
    let Event::SavepointAnswered { answer, .. } = &tale.events[answered].event else { panic!() };
    assert!(answer.starts_with("savepoints/savepoint-"), "{answer}");
    assert_eq!(tale.count(of_kind(EventKind::CheckpointAborted)), 0);
    assert_eq!(tale.count(of_kind(EventKind::SavepointReleased)), 1);
}

/// A TaskManager dies right after the savepoint committed its output, before any checkpoint: the job goes back to the savepoint.
/// (R52)
#[test]
fn a_failure_right_after_a_savepoint() {
    let tale = told(vec![
        savepoint_after("3"),
        fault("tm-2", when(EventKind::SavepointAnswered, "audit", 1), FaultKind::Crash { restart_after_ms: Some(300) }),
    ]);
    tale.ends_well();
    let completed = tale.first("a savepoint completes", NEAR, of_kind(EventKind::SavepointCompleted));
    let Event::SavepointCompleted { checkpoint: savepoint, .. } = tale.events[completed].event else { panic!() };
    let back = tale.first_after(
        completed,
        "the job restores it",
        NEAR,
        |told| matches!(told.event, Event::RestoreChosen { checkpoint, .. } if checkpoint == Some(savepoint)),
    );
    assert!(back > completed);
}

/// The store refuses a part of the savepoint for good: whoever asked hears why, nothing is left of it (the invariants look), and the job
/// does not notice. (R44, R46, R53)
#[test]
fn a_target_that_cannot_be_written() {
    let refused = FaultKind::StoreErrors {
        operation: StoreOperation::Create,
        name_contains: "savepoints/".to_string(),
        error: StoreErrorKind::ErrorBefore,
        count: 10_000,
    };
    let tale = told(vec![fault("store", when(EventKind::CheckpointCompleted, "3", 1), refused), savepoint_after("3")]);
    tale.ends_well();
    assert_eq!(tale.count(of_kind(EventKind::SavepointCompleted)), 0, "{}", tale.lines(NEAR));
    let answered = tale.first("it is answered", NEAR, of_kind(EventKind::SavepointAnswered));
    let Event::SavepointAnswered { answer, .. } = &tale.events[answered].event else { panic!() };
    assert!(answer.starts_with("error: savepoint savepoints/savepoint-"), "{answer}");
    assert_eq!(
        tale.count(of_kind(EventKind::JobStateChanged)),
        told(vec![]).count(of_kind(EventKind::JobStateChanged))
    );
}

/// R24: a checkpoint is lighter than a savepoint of the same state: of state that changes little from one to the next it writes less than half,
/// and takes less time, over a link to which bytes matter. It costs the stream nothing: a job with many checkpoints is done when one is that
/// has none before its end.
#[test]
fn a_checkpoint_is_lighter_than_a_savepoint_of_the_same_state() {
    let plan = |checkpoint_interval_ms, faults| {
        let mut plan = Plan { faults, ..calm() };
        plan.settings.checkpoint_interval_ms = checkpoint_interval_ms;
        (plan.settings.incremental, plan.settings.local_recovery) = (true, false);
        (plan.workload.records, plan.workload.records_per_second) = (36, 4);
        plan.modelled = Some(ModelledState { times: 10_000, link_bytes_per_second: 125_000_000 });
        plan
    };
    let tale = tell(&plan(500, vec![savepoint_after("8")]));
    tale.ends_well();
    let completed = tale.first("a savepoint completes", NEAR, of_kind(EventKind::SavepointCompleted));
    let Event::SavepointCompleted { checkpoint: savepoint, .. } = tale.events[completed].event else { panic!() };
    let (mut begun, mut written, mut took) = (BTreeMap::new(), BTreeMap::<CheckpointId, u64>::new(), BTreeMap::new());
    for told in &tale.events {
        match &told.event {
            Event::CheckpointTriggered { checkpoint, .. } => drop(begun.insert(*checkpoint, told.at_ms)),
            Event::PartUploaded { checkpoint, bytes, .. } => *written.entry(*checkpoint).or_default() += bytes,
            Event::CheckpointCompleted { checkpoint, .. } | Event::SavepointCompleted { checkpoint, .. } => {
                took.entry(*checkpoint).or_insert(told.at_ms - begun[checkpoint]);
            }
            _ => {}
        }
    }
    let median = |of: &BTreeMap<CheckpointId, u64>| {
        // The first has nothing to refer to.
        let mut all: Vec<u64> =
            of.range(CheckpointId(2)..).filter(|(id, _)| **id != savepoint).map(|(_, n)| *n).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    assert!(took.len() > 12, "{}", tale.lines(NEAR));
    let (bytes, ms) = (median(&written), median(&took));
    assert!(bytes * 2 < written[&savepoint], "{bytes} bytes, a savepoint has {}", written[&savepoint]);
    assert!(ms < took[&savepoint], "{ms} ms, a savepoint takes {}", took[&savepoint]);
    let rare = tell(&plan(3_600_000, vec![]));
    rare.ends_well();
    let ended = |tale: &Tale| {
        let exhausted = tale.events.iter().rfind(|told| told.event.kind() == EventKind::SourceExhausted);
        exhausted.expect("all is read").at_ms
    };
    let (often, rarely) = (ended(&tale), ended(&rare));
    assert!(often <= rarely + 50, "all is read after {often} ms, without checkpoints after {rarely} ms");
}

fn stop_and_resume(parallelism: u32, backend: Option<BackendKind>) -> FaultSpec {
    let fault_kind = FaultKind::StopAndResume { parallelism, backend, next_version: false, restart_after_ms: 200 };
    fault("jobmanager", later(100, EventKind::CheckpointCompleted, "4", 1), fault_kind)
}

/// The job is stopped with a savepoint, and another one goes on from it: at the same parallelism, at fewer and more, with each backend
/// from each. The output of both together is exact. (R14, R18, R31, R71, R76)
#[test]
fn a_job_is_stopped_and_goes_on_elsewhere() {
    let kinds = [BackendKind::Memory, BackendKind::Filesystem, BackendKind::RocksDb];
    let changes = kinds.iter().flat_map(|from| kinds.iter().map(move |to| (*from, *to)));
    for ((from, to), parallelism) in changes.zip([3, 1, 2].into_iter().cycle()) {
        let mut plan = Plan { faults: vec![stop_and_resume(parallelism, Some(to))], ..calm() };
        plan.settings.backend = from;
        plan.settings.incremental = from != BackendKind::Memory;
        let tale = tell(&plan);
        tale.ends_well();
        let what = format!("{from:?} to {to:?} at {parallelism}:\n{}", tale.lines(NEAR));
        assert_eq!(tale.count(of_kind(EventKind::StateImported)), 1, "{what}");
        let imported = tale.first("another job begins with it", NEAR, of_kind(EventKind::StateImported));
        let completed = |told: &&Told| matches!(told.event, Event::CheckpointCompleted { .. });
        let ids: Vec<_> = tale.events.iter().filter(completed).map(|told| told.event.entity()).collect();
        let mut sorted = ids.clone();
        sorted.sort_by_key(|id| id.parse::<u64>().ok());
        assert_eq!(ids, sorted, "ids go on rising, {what}");
        assert!(
            tale.events[..imported]
                .iter()
                .any(|t| matches!(&t.event, Event::JobStateChanged { to, .. } if to == "CANCELED"))
        );
    }
}

/// The job is stopped with a savepoint, and its next version goes on from it, in which a type of its state has grown: on the heap and in
/// a database, from one to the other, at another parallelism. Its state is encoded anew, once, and timers find what the first version
/// noted; the output of both together is exact, and so is what the savepoint implies. (R20)
#[test]
fn the_next_version_of_a_job_goes_on_with_grown_types() {
    let (heap, rocksdb) = (BackendKind::Filesystem, BackendKind::RocksDb);
    for (from, to, parallelism) in [(heap, heap, 3), (rocksdb, rocksdb, 2), (heap, rocksdb, 1), (rocksdb, heap, 3)] {
        let mut resumed = stop_and_resume(parallelism, Some(to));
        let FaultKind::StopAndResume { next_version, .. } = &mut resumed.fault else { panic!() };
        *next_version = true;
        // And dies, so that it is restored again, from a checkpoint of its own.
        let dies = fault("tm-1", Trigger::AtMs(7_000), FaultKind::Crash { restart_after_ms: Some(300) });
        let mut plan = Plan { faults: vec![resumed, dies], ..calm() };
        plan.workload.name = "states".to_string();
        (plan.settings.backend, plan.settings.incremental) = (from, from == rocksdb);
        let tale = tell(&plan);
        tale.ends_well();
        let what = format!("{from:?} to {to:?} at {parallelism}:\n{}", tale.lines(NEAR));
        let imported = tale.first("another job begins with it", NEAR, of_kind(EventKind::StateImported));
        let upgraded = |told: &&Told| matches!(told.event, Event::StateUpgraded { .. });
        let mut values = 0;
        for told in tale.events.iter().filter(upgraded) {
            let Event::StateUpgraded { operator, state, values: more, .. } = &told.event else { panic!() };
            assert_eq!((operator.as_str(), state.as_str()), ("echo", "asked"), "{what}");
            values += more;
        }
        assert!(values > 0, "{what}");
        assert_eq!(tale.events[..imported].iter().filter(upgraded).count(), 0, "{what}");
        let again = tale.first_after(imported, "it is restored again", NEAR, of_kind(EventKind::RestoreChosen));
        let after = tale.events[again..].iter().filter(|told| told.event.kind() == EventKind::RestoreChosen).count();
        assert!(after > 1, "the next version was restored twice: {what}");
    }
}

// ---- processes

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");

fn weir(arguments: &[&str]) -> Output {
    Command::new(WORKER).arg("weir").args(arguments).output().expect("the worker starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A JobManager and a TaskManager of a job that runs.
struct Cluster {
    processes: RealCluster,
    /// The JobManager comes first.
    running: [Process; 2],
}

impl Cluster {
    fn start(output: &Path, more: &[&str]) -> Cluster {
        let job = [&["flights", "--parallelism", "2"][..], more].concat();
        let processes = RealCluster::new(Path::new(WORKER), output, &job);
        let mut job_manager = processes.job_manager(&["--checkpoint-interval-ms", "3600000"]);
        let task_manager = processes.task_manager("tm", 2);
        job_manager.wait_for(" ExecutionRunning ", 0);
        Cluster { processes, running: [job_manager, task_manager] }
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a command");
        weir(&[&[*command, "--job-manager", self.processes.address()][..], rest].concat())
    }
}

/// The directory that the command printed.
fn path_in(output: &Output) -> PathBuf {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let text = text(&output.stdout);
    let word = text.split_whitespace().find(|word| word.contains("/savepoint-")).expect("a path");
    PathBuf::from(word.trim_end_matches('.'))
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(&path).expect("a file"))
        })
        .collect()
}

/// R45, R47, R53, R60, R61: the trigger's target counts, then the key; with neither it fails at once and the job runs on; an id that is
/// none or of another job is an error, with status 64 and 1.
#[test]
fn savepoints_go_where_the_trigger_or_the_key_says() {
    let scratch = tempfile::tempdir().expect("a directory");
    let place = |name: &str| scratch.path().join(name).display().to_string();
    let cluster = Cluster::start(&scratch.path().join("data"), &["--records-per-second", "200"]);
    let refused = cluster.ask(&["savepoint"]);
    let says = text(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && says.contains("state.savepoints.dir") && says.contains("target"),
        "{says}"
    );
    let malformed = cluster.ask(&["savepoint", "--job", "12", &place("a")]);
    assert_eq!(malformed.status.code(), Some(64), "{}", text(&malformed.stderr));
    let unknown = cluster.ask(&["savepoint", "--job", &"0".repeat(32), &place("a")]);
    assert!(
        unknown.status.code() == Some(1) && text(&unknown.stderr).contains("there is no job"),
        "{}",
        text(&unknown.stderr)
    );
    let inside = path_in(&cluster.ask(&["savepoint", "kept"]));
    assert!(inside.starts_with(scratch.path().canonicalize().expect("real").join("data/kept")), "{}", inside.display());
    let outside = path_in(&cluster.ask(&["savepoint", &place("elsewhere")]));
    let name = outside.file_name().expect("a name").to_string_lossy().into_owned();
    let [kind, job, random] = name.split('-').collect::<Vec<_>>()[..] else { panic!("{name}") };
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(kind == "savepoint" && hex(job, 6) && hex(random, 12), "{name}");
    assert!(files(&outside).contains_key("_metadata"));
    drop(cluster);
    let key = format!("state.savepoints.dir={}", place("by-key"));
    let define = ["--records-per-second", "200", "-D", &key];
    let cluster = Cluster::start(&scratch.path().join("other"), &define);
    let by_key = path_in(&cluster.ask(&["savepoint"]));
    assert!(by_key.to_string_lossy().contains("/by-key/savepoint-"), "{}", by_key.display());
}

/// The newest complete checkpoint of the only job below `output`.
fn newest_checkpoint(output: &Path) -> PathBuf {
    let below = |directory: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).expect("a directory");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    let jobs = below(&output.join("checkpoints"));
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    let number = |path: &PathBuf| -> Option<u64> { path.file_name()?.to_str()?.strip_prefix("chk-")?.parse().ok() };
    let complete = below(&jobs[0]).into_iter().filter(|path| path.join("_metadata").is_file());
    complete.max_by_key(number).expect("a checkpoint has completed")
}

/// R12, R13, R33, for real: `inspect` shows that an incremental checkpoint is files of a database, and a savepoint of the same job is not. When
/// all checkpoints are gone a job begins with the savepoint all the same. R72: of a savepoint of before Flink 1.3 both commands say which
/// release takes it over.
#[test]
fn a_savepoint_of_a_job_on_rocksdb_is_in_no_database_s_format() {
    let scratch = tempfile::tempdir().expect("a directory");
    let output = scratch.path().join("data");
    let job = [
        &["flights", "--parallelism", "2", "--records-per-second", "2000"][..],
        &["-D", "state.backend=rocksdb", "-D", "state.backend.incremental=true"],
    ];
    let processes = RealCluster::new(Path::new(WORKER), &output, &job.concat());
    let mut job_manager = processes.job_manager(&["--checkpoint-interval-ms", "200"]);
    let task_manager = processes.task_manager("tm", 2);
    job_manager.wait_for("CheckpointCompleted", 2);
    let place = scratch.path().join("kept").display().to_string();
    let savepoint = path_in(&weir(&["stop", "--job-manager", processes.address(), &place]));
    job_manager.ends_well();
    drop(task_manager);
    let inspected = |path: &Path| {
        let output = weir(&["inspect", "--check", &path.display().to_string()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let (of_checkpoint, of_savepoint) = (inspected(&newest_checkpoint(&output)), inspected(&savepoint));
    let is_native = of_checkpoint.contains("by-route, file of a database");
    assert!(is_native && of_checkpoint.contains("keyed state: incremental"), "{of_checkpoint}");
    assert!(!of_checkpoint.contains("by-route, canonical"), "{of_checkpoint}");
    assert!(of_savepoint.contains("by-route, canonical") && !of_savepoint.contains("database"), "{of_savepoint}");
    assert!(!of_savepoint.contains("keyed state: incremental"), "{of_savepoint}");
    std::fs::remove_dir_all(output.join("checkpoints")).expect("they are there");
    let path = |path: &Path| path.display().to_string();
    let resumed = weir(&["run", "flights", "--quiet", "--output", &path(&output), "-s", &path(&savepoint)]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    // It never had slots that could come back: it waits for none, least of all as long as a heartbeat times out.
    let says = text(&resumed.stdout);
    let scheduling = says.split_once("schedule ").and_then(|(_, rest)| rest.split_once(',')?.0.parse::<f64>().ok());
    assert!(scheduling.is_some_and(|ms| ms < 5_000.0), "{says}");
    for version in [0_u8, 1] {
        let old = scratch.path().join(format!("of-version-{version}"));
        std::fs::create_dir(&old).expect("it is new");
        let bytes = [0x49, 0x60, 0x67, 0x2d, 0, 0, 0, version].into_iter().chain([0; 32]).collect::<Vec<u8>>();
        std::fs::write(old.join("_metadata"), bytes).expect("a file");
        let fresh = scratch.path().join(format!("output-{version}"));
        let inspected = weir(&["inspect", &path(&old)]);
        let begun = weir(&["run", "flights", "--quiet", "--output", &path(&fresh), "-s", &path(&old)]);
        for refused in [inspected, begun] {
            let says = text(&refused.stderr);
            assert!(!refused.status.success() && says.contains("restore it with Flink 1.3"), "{version}: {says}");
        }
    }
}

/// R30: a savepoint is taken of a job, and its next version begins with it, in a directory of its own, and runs to its end while the first runs on,
/// which is stopped afterwards. What the first had committed by the savepoint is, with what the second commits, the output of one undisturbed
/// run. The first commits what such a run commits, as far as it gets, and the savepoint stays as it is. R56: it is named by the URL of its
/// `_metadata` file.
#[test]
fn the_next_version_runs_beside_the_first() {
    let scratch = tempfile::tempdir().expect("a directory");
    let place = |name: &str| scratch.path().join(name).display().to_string();
    let committed = |name: &str| committed_lines(&of_directory(&scratch.path().join(name)));
    let run = |output: &str, more: &[&str]| {
        let output = place(output);
        let finished = weir(&[&["run", "flights", "--quiet", "--splits", "1", "--output", &output][..], more].concat());
        assert!(finished.status.success(), "{}", text(&finished.stderr));
    };
    let slowly = ["--splits", "1", "--records-per-second", "300"];
    let mut first = Cluster::start(&scratch.path().join("first"), &slowly);
    // So that there is something in it.
    std::thread::sleep(Duration::from_secs(2));
    let savepoint = path_in(&first.ask(&["savepoint", &place("kept")]));
    // There are two outputs.
    first.running[0].wait_for("SinkCommitted", 1);
    let (by_savepoint, kept) = (committed("first"), files(&savepoint));
    run("second", &["-s", &format!("file://{}/_metadata", savepoint.display())]);
    assert!(committed("first") == by_savepoint, "the second version has put out where the first does");
    path_in(&first.ask(&["stop", &place("kept")]));
    first.running[0].ends_well();
    assert!(files(&savepoint) == kept, "it was changed");
    run("undisturbed", &[]);
    let (by_stop, second, whole) = (committed("first"), committed("second"), committed("undisturbed"));
    for output in ["carriers", "routes"] {
        let (by_savepoint, by_stop, whole) = (&by_savepoint[output], &by_stop[output], &whole[output]);
        let mut together = [&by_savepoint[..], &second[output][..]].concat();
        together.sort_unstable();
        assert!(together == *whole, "{output}: of both {} lines, undisturbed {}", together.len(), whole.len());
        assert!(by_savepoint.len() < by_stop.len() && by_stop.len() < whole.len(), "{output}: the first ran on");
        let lines: BTreeSet<&String> = whole.iter().collect();
        let own: BTreeSet<&String> = by_stop.iter().collect();
        assert!(own.len() == by_stop.len() && own.is_subset(&lines), "{output}: of the first");
    }
}
