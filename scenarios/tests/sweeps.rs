//! Long sweeps: interrupted and resumed, shared between machines and merged. Runs are rehearsals, so that hundreds of them take
//! a second; what is compared is all that a sweep leaves.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "starts the real program on real files")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use reports::{RunRecord, Summary};

fn chaos_with(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(arguments)
        .env_remove("JOB_COMPLETION_INDEX")
        .env_remove("WEIR_SHARDS")
        .env_remove("GITHUB_STEP_SUMMARY")
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts")
}

fn chaos(arguments: &[&str]) -> Output {
    chaos_with(arguments, &[])
}

fn ends(arguments: &[&str], expected: i32) -> String {
    let output = chaos(arguments);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {text}");
    text
}

/// Refused in one line.
fn refused(arguments: &[&str], expected: i32, says: &str) {
    let output = chaos(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.contains(says), "{arguments:?}: {text}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

/// The records of a sweep, without the one field that differs between equal runs.
fn records(directory: &Path) -> BTreeMap<u64, RunRecord> {
    let text = std::fs::read_to_string(directory.join("records.jsonl")).expect("records");
    let mut records = BTreeMap::new();
    for line in text.lines() {
        let mut record: RunRecord = serde_json::from_str(line).expect("a record");
        record.timings.wall_us = 0;
        assert!(records.insert(record.seed, record).is_none(), "a seed was run twice");
    }
    records
}

fn summary(directory: &Path) -> Summary {
    let text = std::fs::read_to_string(directory.join("summary.json")).expect("a summary");
    let mut summary: Summary = serde_json::from_str(&text).expect("a summary");
    (summary.elapsed_ms, summary.cores) = (0, 0);
    summary
}

const SWEEP: [&str; 5] = ["chaos", "--job", "rehearsal", "--jobs", "2"];

fn sweep(more: &[&str]) -> Vec<String> {
    SWEEP.iter().chain(more).map(ToString::to_string).collect()
}

fn run(more: &[&str], expected: i32) -> String {
    let arguments = sweep(more);
    ends(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), expected)
}

/// Runs a sweep and kills it, without any warning, when it has left some records.
fn run_and_kill(more: &[&str], directory: &Path, after: usize) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(sweep(more))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    let lines = || {
        let bytes = std::fs::read(directory.join("records.jsonl")).unwrap_or_default();
        bytes.iter().filter(|byte| **byte == b'\n').count()
    };
    while lines() < after {
        assert!(Instant::now() < deadline, "the sweep does not get on");
        assert!(process.try_wait().expect("a status").is_none(), "the sweep ended before it could be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    process.kill().expect("it is killed");
    process.wait().expect("it is gone");
}

#[test]
fn a_sweep_that_is_killed_and_resumed_leaves_what_one_left_alone_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let (whole, killed) = (directory.path().join("whole"), directory.path().join("killed"));
    let seeds = ["--seeds", "0..1500"];
    run(&[&seeds[..], &["--out", text(&whole)]].concat(), 0);
    run_and_kill(&[&seeds[..], &["--out", text(&killed)]].concat(), &killed, 40);
    assert!(!killed.join("closing.jsonl").exists(), "it has not ended");
    // Killed once more while it goes on, and in the middle of a line, with other jobs and another batch.
    let resume = ["--resume", text(&killed), "--batch", "3"];
    run_and_kill(&resume, &killed, 200);
    let path = killed.join("records.jsonl");
    let mut bytes = std::fs::read(&path).expect("records");
    assert!(bytes.iter().filter(|byte| **byte == b'\n').count() < 1_500, "it was killed in the middle");
    bytes.extend_from_slice(b"{\"schema\":1,\"seed\":1499,\"profile\":\"def");
    std::fs::write(&path, bytes).expect("written");
    let said = ends(&["chaos", "--resume", text(&killed)], 0);
    assert!(said.contains("of 1500 seeds were run already"), "{said}");
    assert_eq!(records(&killed), records(&whole));
    assert_eq!(summary(&killed), summary(&whole));
    // There is nothing left to do, and nothing is done.
    let before = std::fs::read(&path).expect("records");
    ends(&["chaos", "--resume", text(&killed)], 0);
    assert_eq!(std::fs::read(&path).expect("records"), before);
}

#[test]
fn failures_found_before_the_interruption_are_not_forgotten() {
    let directory = tempfile::tempdir().expect("a directory");
    let killed = directory.path().join("killed");
    let more = ["--seeds", "0..40", "--set", "violate_at=4", "--out", text(&killed)];
    run_and_kill(&more, &killed, 5);
    let said = ends(&["chaos", "--resume", text(&killed)], 10);
    assert!(said.contains("rehearsed/planted/checkpoint # in 40 of 40 runs"), "{said}");
}

#[test]
fn results_are_written_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let arguments = ["chaos", "--job", "rehearsal", "--seeds", "0..4", "--out", text(&out)];
    ends(&arguments, 0);
    let before = std::fs::read(out.join("records.jsonl")).expect("records");
    refused(&arguments, 64, "holds a sweep already");
    refused(&["merge", text(&out), "--out", text(&out)], 64, "holds a sweep already");
    assert_eq!(std::fs::read(out.join("records.jsonl")).expect("records"), before);
    refused(&["chaos", "--resume", text(&directory.path().join("none"))], 64, "holds no sweep");
    // In the pods of a job that may be started again: begin, or go on.
    let pod = directory.path().join("pod");
    let again = ["chaos", "--job", "rehearsal", "--seeds", "0..4", "--out", text(&pod), "--resume", text(&pod)];
    ends(&again, 0);
    assert!(ends(&again, 0).contains("4 of 4 seeds were run already"));
}

#[test]
fn a_resume_with_other_options_is_refused_and_says_which() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    ends(&["chaos", "--job", "rehearsal", "--seeds", "0..4", "--out", text(&out)], 0);
    for (more, says) in [
        (&["--seeds", "0..5"][..], "seeds 0..4 there, 0..5 here"),
        (&["--profile", "quiet"], "profile default there, quiet here"),
        (&["--job", "audit"], "job rehearsal there, audit here"),
        (&["--set", "violate_at=4"], "parameters none there, violate_at=4 here"),
        (&["--shard", "0/2"], "shard none there, 0/2 here"),
        (&["--run-limit", "7s"], "run limit 30000 ms there, 7000 ms here"),
        (&["--memory-limit", "1GiB"], "memory limit 4096 MiB there, 1024 MiB here"),
        (&["--audit"], "audit false there, true here"),
    ] {
        refused(&[&["chaos", "--resume", text(&out)], more].concat(), 64, says);
    }
    let path = out.join("sweep.json");
    let stored = std::fs::read_to_string(&path).expect("options");
    let at = stored.find("\"build\"").expect("the build is kept");
    std::fs::write(&path, format!("{}\"build\": \"0\"}}", &stored[..at])).expect("written");
    refused(&["chaos", "--resume", text(&out)], 64, "program 0 there");
}

#[test]
fn a_budget_ends_a_sweep_and_a_resume_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let said = run(&["--seeds", "0..1000000", "--budget", "1s", "--out", text(&out)], 0);
    assert!(said.contains("of 1000000 seeds were run; go on with ./weir chaos --resume"), "{said}");
    let first = records(&out).len();
    let closing = std::fs::read_to_string(out.join("closing.jsonl")).expect("it ended");
    assert!(closing.contains("\"ended\":true,\"complete\":false"), "{closing}");
    run(&["--resume", text(&out), "--budget", "1s"], 0);
    assert!(records(&out).len() > first);
}

/// Runs shards of a sweep; gives their directories.
fn shards(directory: &Path, total: u64, more: &[&str], expected: i32) -> Vec<PathBuf> {
    (0..total)
        .map(|index| {
            let path = directory.join(format!("shard-{index}-of-{total}"));
            let share = format!("{index}/{total}");
            run(&[more, &["--shard", &share, "--out", text(&path)]].concat(), expected);
            path
        })
        .collect()
}

fn merge(directories: &[&Path], out: &Path, expected: i32) -> String {
    let mut arguments = vec!["merge"];
    arguments.extend(directories.iter().map(|path| text(path)));
    arguments.extend(["--out", text(out)]);
    ends(&arguments, expected)
}

/// All files of a directory but those that say how long it took.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let entries = entries.map(|entry| entry.expect("an entry").path());
    entries.map(|path| (text(&path).replace(text(directory), ""), std::fs::read(&path).expect("a file"))).collect()
}

#[test]
fn shards_merged_are_one_run_in_any_order_and_any_number_of_times() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let seeds = ["--seeds", "100..220"];
    let parts = shards(directory.path(), 3, &seeds, 0);
    let parts: Vec<&Path> = parts.iter().map(PathBuf::as_path).collect();
    let whole = at("whole");
    run(&[&seeds[..], &["--out", text(&whole)]].concat(), 0);
    merge(&parts, &at("merged"), 0);
    assert_eq!(records(&at("merged")), records(&whole));
    assert_eq!(summary(&at("merged")), summary(&whole));

    let merged = files(&at("merged"));
    assert!(merged.contains_key("/junit.xml") && merged.contains_key("/closing.jsonl"));
    merge(&[parts[2], parts[0], parts[1]], &at("reordered"), 0);
    assert_eq!(files(&at("reordered")), merged);
    merge(&[parts[0], parts[1], parts[2], parts[0], &at("merged")], &at("again"), 0);
    assert_eq!(files(&at("again")), merged);
    merge(&[&at("merged")], &at("alone"), 0);
    assert_eq!(files(&at("alone")), merged);
    // Two at first, then the third.
    merge(&[parts[2], parts[1]], &at("two"), 12);
    merge(&[&at("two"), parts[0]], &at("three"), 0);
    assert_eq!(files(&at("three")), merged);
}

/// Not rehearsals, but whole clusters under faults.
#[test]
fn a_seed_is_the_same_run_however_it_is_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let run = |name: &str, more: &[&str]| {
        let path = at(name);
        let all = [&["chaos", "--seeds", "40..46", "--out", text(&path)], more].concat();
        let said = ends(&all, 0);
        assert!(said.contains("proof  sabotaged run (never-restart): violation, as it must"), "{said}");
        records(&path)
    };
    let alone = run("alone", &["--jobs", "1", "--batch", "100"]);
    assert_eq!(alone.len(), 6);
    assert!(alone.values().all(|record| record.counters.events > 500), "they do next to nothing");
    assert_eq!(run("fresh", &["--jobs", "3", "--batch", "1"]), alone);
    run("even", &["--shard", "0/2"]);
    run("odd", &["--shard", "1/2", "--jobs", "1"]);
    merge(&[&at("odd"), &at("even")], &at("merged"), 0);
    assert_eq!(records(&at("merged")), alone);
    assert_eq!(summary(&at("merged")), summary(&at("alone")));
}

#[test]
fn failures_of_shards_are_grouped_as_those_of_one_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let more = ["--seeds", "0..6", "--set", "violate_at=4"];
    let parts = shards(directory.path(), 2, &more, 10);
    run(&[&more[..], &["--out", text(&at("whole"))]].concat(), 10);
    let said = merge(&[&parts[1], &parts[0]], &at("merged"), 10);
    assert!(said.contains("in 6 of 6 runs: seeds 0, 1, 2, 3, 4, 5"), "{said}");
    assert_eq!(said.matches("FAILED").count(), 1, "one screen per signature: {said}");
    assert_eq!(summary(&at("merged")), summary(&at("whole")));
    let junit = std::fs::read_to_string(at("merged").join("junit.xml")).expect("a report");
    assert!(junit.contains("<failure") && junit.contains("type=\"safety\""), "{junit}");
}

#[test]
fn a_shard_that_is_missing_or_was_killed_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let parts = shards(directory.path(), 3, &["--seeds", "0..30"], 0);
    let said = merge(&[&parts[0], &parts[2]], &at("two"), 12);
    assert!(said.contains("blind  no records of shard 1/3"), "{said}");
    std::fs::remove_file(parts[1].join("closing.jsonl")).expect("removed");
    let said = merge(&[&parts[0], &parts[1], &parts[2]], &at("three"), 12);
    assert!(said.contains("blind  shard 1/3 has no closing record: it was killed after 10 runs"), "{said}");
    // Resumed, it closes.
    ends(&["chaos", "--resume", text(&parts[1])], 0);
    merge(&[&at("three"), &parts[1]], &at("whole"), 0);
}

#[test]
fn a_closing_that_tells_of_more_runs_than_there_are_is_not_believed() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    run(&["--seeds", "0..10", "--out", text(&out)], 0);
    let path = out.join("records.jsonl");
    let lines = std::fs::read_to_string(&path).expect("records");
    let kept: String = lines.lines().take(9).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, kept).expect("written");
    let said = merge(&[&out], &directory.path().join("merged"), 12);
    assert!(said.contains("its closing says 10 runs, its records are 9"), "{said}");
}

#[test]
fn a_seed_with_two_traces_is_nondeterminism() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for name in ["one", "other"] {
        run(&["--seeds", "0..3", "--set", "drift_at=4", "--out", text(&at(name))], 0);
    }
    let said = merge(&[&at("one"), &at("other")], &at("merged"), 11);
    assert!(said.contains("3 nondeterminism") && said.contains("the same plan gave clean"), "{said}");
    let merged = files(&at("merged"));
    merge(&[&at("other"), &at("one"), &at("merged")], &at("again"), 11);
    assert_eq!(files(&at("again"))["/records.jsonl"], merged["/records.jsonl"]);
}

#[test]
fn directories_of_different_sweeps_are_not_merged() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    run(&["--seeds", "0..4", "--out", text(&at("one"))], 0);
    run(&["--seeds", "0..5", "--out", text(&at("other"))], 0);
    let (one, other) = (at("one"), at("other"));
    let merged = at("merged");
    refused(
        &["merge", text(&one), text(&other), "--out", text(&merged)],
        64,
        "seeds 0..4 in the first, 0..5 in the second",
    );
    assert!(!merged.exists(), "nothing was begun");
    let halves = shards(directory.path(), 2, &["--seeds", "0..4"], 0);
    let thirds = shards(directory.path(), 3, &["--seeds", "0..4"], 0);
    refused(
        &["merge", text(&halves[0]), text(&thirds[0]), "--out", text(&merged)],
        64,
        "different divisions: of 2 and of 3",
    );
}

#[test]
fn the_shard_comes_from_the_environment_of_an_indexed_job() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let arguments = ["chaos", "--job", "rehearsal", "--seeds", "0..9", "--out", text(&out)];
    let output = chaos_with(&arguments, &[("JOB_COMPLETION_INDEX", "2")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("JOB_COMPLETION_INDEX=2, but of how many?"), "{said}");
    let output = chaos_with(&arguments, &[("JOB_COMPLETION_INDEX", "2"), ("WEIR_SHARDS", "4")]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(records(&out).keys().copied().collect::<Vec<_>>(), [2, 6]);
}

#[test]
fn a_step_of_github_gets_its_summary() {
    let directory = tempfile::tempdir().expect("a directory");
    let page = directory.path().join("summary.md");
    let arguments = ["chaos", "--job", "rehearsal", "--seeds", "0..2", "--set", "violate_at=4"];
    let output = chaos_with(&arguments, &[("GITHUB_STEP_SUMMARY", text(&page))]);
    assert_eq!(output.status.code(), Some(10));
    let written = std::fs::read_to_string(&page).expect("a page");
    assert!(written.contains(": violation") && written.contains("| safety | `rehearsed/planted/"), "{written}");
}
