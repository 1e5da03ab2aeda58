//! The two worlds agree, and both agree with an independent computation: the same job over the same input, for real (files,
//! sockets, threads) and simulated. Also: a real run that is killed and resumed.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test prepares and inspects the real machine; the law holds for the runtime"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use scenarios::plan::Plan;
use serde::Deserialize;
use weir_tests::{
    objects::{Objects, committed_lines, of_directory, of_simulated},
    processes::program,
    real_cluster::{Process, RealCluster},
    tales::calm,
};

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-2013-01.csv");
/// Rows of the slice that is run in both worlds.
const SLICE: usize = 1_500;

/// What is known of a carrier or a route at last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Figures {
    rows: u64,
    delayed: u64,
    cancelled: u64,
    delay_sum: i64,
}

/// By output, then by key.
type Results = BTreeMap<&'static str, BTreeMap<String, Figures>>;

/// The sample's columns by name, as far as they matter.
#[derive(Deserialize)]
struct Row {
    dep_time: String,
    dep_delay: String,
    carrier: String,
    origin: String,
    dest: String,
}

/// The figures by a computation that shares no code with the job: another CSV reader, columns by name, all at once.
fn independent(csv: &str) -> Results {
    let mut results = Results::new();
    for row in csv::Reader::from_reader(csv.as_bytes()).deserialize::<Row>() {
        let row = row.expect("the sample is sound");
        let keys = [("carriers", row.carrier.clone()), ("routes", format!("{}-{}", row.origin, row.dest))];
        for (output, key) in keys {
            let figures = results.entry(output).or_default().entry(key).or_default();
            figures.rows += 1;
            figures.cancelled += u64::from(row.dep_time == "NA");
            if row.dep_delay != "NA" {
                figures.delayed += 1;
                figures.delay_sum += row.dep_delay.parse::<i64>().expect("whole minutes");
            }
        }
    }
    results
}

#[derive(Deserialize)]
struct Line {
    key: String,
    sequence: u64,
    count: u64,
    cancelled: u64,
    delay_sum: i64,
}

/// The final figures of what was committed. Every row of a key must be there once: its lines count from 1 without a gap.
fn results_of(objects: &Objects) -> Results {
    let mut results = Results::new();
    let mut committed = committed_lines(objects);
    for output in ["carriers", "routes"] {
        let mut lines: BTreeMap<String, BTreeMap<u64, Figures>> = BTreeMap::new();
        for line in committed.remove(output).unwrap_or_default() {
            let line: Line = serde_json::from_str(&line).expect("a line of output");
            let figures = Figures {
                rows: line.sequence,
                delayed: line.count,
                cancelled: line.cancelled,
                delay_sum: line.delay_sum,
            };
            let twice = lines.entry(line.key.clone()).or_default().insert(line.sequence, figures);
            assert!(twice.is_none(), "{output} {}: sequence {} is there twice", line.key, line.sequence);
        }
        for (key, by_sequence) in lines {
            let whole = by_sequence.keys().copied().eq(1..=by_sequence.len() as u64);
            assert!(whole, "{output} {key}: sequences have a gap: {:?}", by_sequence.keys());
            let (_, last) = by_sequence.into_iter().next_back().expect("made with a line in it");
            results.entry(output).or_default().insert(key, last);
        }
    }
    assert!(committed.is_empty(), "outputs that the job does not have: {:?}", committed.keys());
    results
}

/// How many epochs of an output are committed: files named by ten digits.
fn committed_epochs(root: &Path, output: &str) -> usize {
    let directory = root.join("output").join(output).join("_committed");
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.len() == 10 && name.bytes().all(|byte| byte.is_ascii_digit())).count()
}

fn real_results(root: &Path) -> Results {
    results_of(&of_directory(root))
}

fn run_for_real(root: &Path, more: &[&str]) {
    let root = root.to_str().expect("the path is text");
    let mut arguments = vec!["weir", "run", "flights", "--quiet", "--output", root];
    arguments.extend(more);
    let output = program(Path::new(WORKER), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The flights job over the first rows of the sample in the simulated world, without faults and rates.
fn simulated(rows: usize) -> Results {
    let mut plan: Plan = calm();
    plan.workload.name = "flights".to_string();
    plan.workload.records = rows as u64;
    plan.workload.records_per_second = 1_000;
    results_of(&of_simulated(&plan, |_| ()))
}

fn sample() -> String {
    std::fs::read_to_string(SAMPLE).expect("the sample is in the repository")
}

/// All 27,004 departures, for real: what comes out is what another program computes.
#[test]
fn flights_of_january_are_counted_right() {
    let expected = independent(&sample());
    let cancelled: u64 = expected["carriers"].values().map(|figures| figures.cancelled).sum();
    let rows: u64 = expected["carriers"].values().map(|figures| figures.rows).sum();
    assert_eq!((rows, cancelled), (27_004, 521), "the sample is the one that its README describes");
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("run");
    run_for_real(&root, &["--parallelism", "3", "--splits", "3"]);
    assert_eq!(real_results(&root), expected);
}

/// The same rows in both worlds, and computed by hand.
#[test]
fn both_worlds_give_the_same_figures() {
    let slice: String = sample().split_inclusive('\n').take(SLICE + 1).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let (input, root) = (directory.path().join("slice.csv"), directory.path().join("run"));
    std::fs::write(&input, &slice).expect("written");
    run_for_real(&root, &["--input", input.to_str().expect("the path is text")]);
    let real = real_results(&root);
    assert_eq!(real, simulated(SLICE));
    assert_eq!(real, independent(&slice));
}

/// The process is killed in the middle (SIGKILL: nothing is tidied up) when some epochs are committed, and the run resumed. (R2)
#[test]
fn a_killed_run_is_resumed_exactly() {
    killed_and_resumed(&[]);
}

/// The same, and the job comes back with more subtasks than it had, or with fewer. (R2)
#[test]
fn a_killed_run_is_resumed_exactly_at_another_parallelism() {
    killed_and_resumed(&["--parallelism", "5"]);
    killed_and_resumed(&["--parallelism", "1"]);
}

fn killed_and_resumed(resumed_with: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("run");
    let text = root.to_str().expect("the path is text");
    let mut child = Command::new(WORKER)
        .args(["weir", "run", "flights", "--quiet", "--output", text, "--records-per-second", "9000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the worker starts");
    let committed = || committed_epochs(&root, "routes");
    let deadline = Instant::now() + Duration::from_secs(60);
    while committed() < 3 && Instant::now() < deadline {
        assert!(child.try_wait().expect("it can be asked").is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it was running");
    child.wait().expect("it is dead");
    let before = committed();
    assert!(before >= 3, "nothing was committed within a minute");
    let so_far = real_results(&root);
    let rows = |results: &Results| results["carriers"].values().map(|figures| figures.rows).sum::<u64>();
    assert!((1..27_004).contains(&rows(&so_far)), "it was killed in the middle");
    run_for_real(&root, &[&["--resume"], resumed_with].concat());
    assert_eq!(real_results(&root), independent(&sample()));
    assert!(committed() > before);
}

/// A JobManager and three TaskManagers, each a process of its own. One of them is killed when some epochs are committed; its
/// subtasks move to the slots of the others, and the output is exact.
#[test]
fn a_cluster_of_processes_survives_the_loss_of_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("run");
    let cluster = RealCluster::new(Path::new(WORKER), &root, &["flights", "--records-per-second", "9000"]);
    // They wait for their JobManager.
    let mut task_managers: Vec<Process> = ["tm-1", "tm-2", "tm-3"].map(|name| cluster.task_manager(name, 1)).into();
    let mut job_manager = cluster.job_manager(&["--checkpoint-interval-ms", "100"]);
    let committed = || committed_epochs(&root, "routes");
    let mut wait_for = |epochs: usize| {
        job_manager.wait_until("enough epochs are committed", |_| (committed() >= epochs).then_some(()));
    };
    wait_for(3);
    // Two of the three have the job's two slots, so one of any two does.
    for number in 0..2 {
        task_managers.remove(0).kill();
        task_managers.push(cluster.task_manager(&format!("tm-{}", 4 + number), 1));
        let before = committed();
        wait_for(before + 2);
    }
    job_manager.ends_well();
    assert_eq!(real_results(&root), independent(&sample()));
}
