//! The program as a user meets it: what it says and how it ends. Runs are rehearsals, so that only the harness is tested.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "starts the real program on real files")]

use std::{
    path::Path,
    process::{Command, Output},
};

fn chaos(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chaos")).args(arguments).output().expect("the program starts")
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn refused(arguments: &[&str], expected: i32, says: &str) {
    let output = chaos(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status(&output), expected, "{arguments:?}: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.contains(says), "{arguments:?}: {text}");
}

fn sweep(parameter: &str, more: &[&str]) -> (i32, String) {
    let mut arguments = vec!["chaos", "--seeds", "0..2", "--job", "rehearsal", "--run-limit", "2s"];
    if !parameter.is_empty() {
        arguments.extend(["--set", parameter]);
    }
    arguments.extend(more);
    let output = chaos(&arguments);
    (status(&output), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn bad_input_is_one_line_and_the_usage_status() {
    refused(&["chaos", "--seeds", "5..5"], 64, "5..5 holds no seed");
    refused(&["chaos", "--seeds", "x..y"], 64, "\"x\" is no seed");
    refused(&["chaos", "--seeds", "0..2", "--profile", "nope"], 64, "no profile is called \"nope\"");
    refused(&["chaos", "--seeds", "0..2", "--job", "nope"], 64, "no job is called \"nope\"");
    refused(&["chaos", "--seeds", "0..2", "--frobnicate"], 64, "--frobnicate");
    refused(&["chaos"], 64, "--seeds");
    refused(&[], 64, "say what to do");
    refused(&["replay", "--plan", "/does/not/exist"], 64, "cannot read /does/not/exist");
    refused(&["chaos", "--seeds", "0..2", "--set", "grops=2"], 64, "has no parameter \"grops\"");
    refused(&["replay", "--seed", "0", "--job", "rehearsal", "--set", "x=2"], 64, "has no parameter \"x\"");
    refused(&["plan", "--seed", "99999999999999999999"], 64, "is no seed");
    refused(&["replay", "--seed", "0", "--steer", "thaw@phase-align"], 64, "no fault is called \"thaw\"");
    refused(&["coverage", "--records", "/does/not/exist"], 64, "records.jsonl");
    refused(&["exhaust", "--budget", "soon"], 64, "\"soon\" is no duration");
}

#[test]
fn a_malformed_plan_is_named_with_line_and_field() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("plan.toml");
    let plan = String::from_utf8(chaos(&["plan", "--seed", "3"]).stdout).expect("text");
    std::fs::write(&path, plan.replace("slots = ", "slots = \"two\" #")).expect("written");
    refused(&["replay", "--plan", path.to_str().expect("text")], 64, "cluster.slots");
}

#[test]
fn an_unwritable_output_is_the_environments_fault() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let below = file.path().join("out");
    refused(&["chaos", "--seeds", "0..1", "--job", "rehearsal", "--out", below.to_str().expect("text")], 20, "--out");
}

#[test]
fn a_whole_sweep_is_clean_and_leaves_one_record_per_seed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (status, text) = sweep("", &["--out", directory.path().to_str().expect("text")]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("canary: violation, as it must"), "{text}");
    let records = std::fs::read_to_string(directory.path().join("records.jsonl")).expect("records");
    assert_eq!(records.lines().count(), 2);
}

#[test]
fn every_way_to_fail_is_told_apart() {
    for (parameter, expected, says) in [
        ("violate_at=4", 10, "invariant rehearsed"),
        ("panic_at=4", 10, "crash/told to panic at checkpoint #"),
        ("abort_at=4", 10, "killed by signal"),
        ("hang_at=4", 10, "FAILED  hang"),
        ("eat_memory_at=4", 10, "FAILED  memory"),
        // A broken harness is no finding about the runtime.
        ("blunder_at=4", 12, "harness/scenarios/src/blame.rs/told to break the harness"),
    ] {
        let (status, text) = sweep(parameter, &["--memory-limit", "1GiB"]);
        assert_eq!(status, expected, "{parameter}: {text}");
        assert!(text.contains(says), "{parameter}: {text}");
        assert!(text.contains("./weir replay --seed"), "{parameter}: {text}");
    }
}

#[test]
fn an_audit_shows_the_first_event_that_differs() {
    let (status, text) = sweep("drift_at=4", &["--audit"]);
    assert_eq!(status, 11, "{text}");
    assert!(text.contains("first difference in segment 0") && text.contains("TaskManagerLost"), "{text}");
    let (status, text) = sweep("", &["--audit"]);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn a_plan_printed_and_replayed_is_the_seed_replayed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("plan.toml");
    let plan = chaos(&["plan", "--seed", "9", "--job", "rehearsal"]);
    std::fs::write(&path, &plan.stdout).expect("written");
    let by_plan = chaos(&["replay", "--plan", path.to_str().expect("text"), "--quiet"]);
    let by_seed = chaos(&["replay", "--seed", "9", "--job", "rehearsal", "--quiet"]);
    assert_eq!(by_plan.stdout, by_seed.stdout);
    assert_eq!(status(&by_plan), 0);
}

/// The second run of a process breaks; the fresh process that repeats it does not.
#[test]
fn what_broke_once_is_never_retried_away() {
    let (status, text) = sweep("violate_later_at=4", &["--jobs", "1", "--batch", "8"]);
    assert_eq!(status, 11, "{text}");
    assert!(text.contains("the same plan gave violation (rehearsed/planted/process"), "{text}");
    assert!(text.contains("broken  process (planted): told to break in a used process"), "{text}");
}

/// Whatever goes wrong in a run, its replay tells it the same way.
#[test]
fn a_failure_is_repeated_by_its_command() {
    for (parameter, says) in [("panic_at=4", "told to panic"), ("blunder_at=4", "told to break the harness")] {
        let output = chaos(&["replay", "--seed", "0", "--job", "rehearsal", "--set", parameter, "--quiet"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(says), "{text}");
        assert_eq!(status(&output), if parameter.starts_with("panic") { 10 } else { 12 }, "{text}");
    }
}

/// Runs of a rehearsal that breaks at a checkpoint: it takes one parameter of the job and no fault.
#[test]
fn a_failure_is_shrunk_explained_and_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().to_str().expect("text");
    let shrunk = chaos(&["shrink", "--seed", "4", "--job", "rehearsal", "--set", "violate_at=4", "--out", out]);
    let text = String::from_utf8_lossy(&shrunk.stdout).into_owned();
    assert_eq!(status(&shrunk), 10, "{text}{}", String::from_utf8_lossy(&shrunk.stderr));
    let (screen, test) = text.split_once("\n\n").expect("the screen, then the test");
    assert!(screen.lines().count() <= 25, "{screen}");
    let labels: Vec<&str> =
        screen.lines().filter_map(|line| line.split("  ").next()).filter(|label| !label.is_empty()).collect();
    let order = ["FAILED", "repeat", "as", "seen", "shrunk", "what", "broken", "last", "why", "files"];
    let mut wanted = order.iter();
    assert!(order.iter().all(|label| labels.contains(label)), "{labels:?}");
    assert!(labels.iter().filter(|label| **label != "parts").all(|label| wanted.next() == Some(label)), "{labels:?}");
    assert!(screen.contains(" to 0 in ") && screen.contains("it takes no fault at all"), "{screen}");
    assert!(test.contains("#[test]\nfn rehearsed_") && test.contains("stays_fixed(\"rehearsed-"), "{test}");
    let command = screen.lines().find_map(|line| line.strip_prefix("repeat  ./weir ")).expect("a command");
    let again = chaos(&command.split(' ').chain(["--quiet"]).collect::<Vec<_>>());
    assert_eq!(status(&again), 10, "{}", String::from_utf8_lossy(&again.stderr));
    // A second time nothing is added: it is the same plan.
    let files = || std::fs::read_dir(directory.path()).expect("there").count();
    let before = files();
    chaos(&["shrink", "--seed", "4", "--job", "rehearsal", "--set", "violate_at=4", "--out", out]);
    assert_eq!(files(), before);
    let kept = command.split(' ').next_back().expect("its file");
    let explained = chaos(&["explain", "--plan", kept]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert_eq!(status(&explained), 10, "{text}");
    assert!(text.contains("inevitable from the start"), "{text}");
    refused(&["shrink", "--seed", "4", "--job", "rehearsal", "--out", out], 64, "there is nothing to shrink");
    refused(&["explain", "--seed", "4", "--job", "rehearsal"], 64, "there is nothing to explain");
    let text = std::fs::read_to_string(kept).expect("kept");
    std::fs::write(kept, text.replace("needed = [", "needed = [\"Nonsense\", ")).expect("written");
    // Replaying needs the plan alone.
    assert_eq!(status(&chaos(&["replay", "--quiet", "--plan", kept])), 10);
}

#[test]
fn a_failure_is_confirmed_as_gone_or_seen_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let out = out.to_str().expect("text");
    let (_, text) = sweep("violate_at=4", &["--out", out]);
    let signature = text.lines().find_map(|line| line.strip_prefix("as      ")).expect("a signature").to_string();
    let confirm = |signature: &str| chaos(&["confirm-fixed", signature, "--records", out]);
    let again = confirm(&signature);
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert_eq!(status(&again), 10, "{text}");
    assert!(text.contains("seen   2 of 2 runs") && text.contains("it is not fixed: seen again"), "{text}");
    // As if it had been mended: the plans that showed it are harmless now.
    let records = Path::new(out).join("records.jsonl");
    let text = std::fs::read_to_string(&records).expect("records");
    std::fs::write(&records, text.replace("violate_at = 4", "drift_at = 4000")).expect("written");
    let gone = confirm(&signature);
    let text = String::from_utf8_lossy(&gone.stdout).into_owned();
    assert_eq!(status(&gone), 0, "{text}{}", String::from_utf8_lossy(&gone.stderr));
    assert!(text.contains("and what showed it is clean: 99."), "{text}");
    refused(&["confirm-fixed", "a/b/c", "--records", out], 64, "was not seen in these 2 runs");
    refused(&["confirm-fixed", "a/b/c", "--records", "/does/not/exist"], 20, "/does/not/exist");
}

/// With one defect gone the other shows; that is no smaller version of the same failure, but a finding of its own.
#[test]
fn shrinking_keeps_to_the_failure_it_began_with() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().to_str().expect("text");
    let two = ["--set", "panic_at=4", "--set", "abort_at=6"];
    let shrunk = chaos(&[&["shrink", "--seed", "4", "--job", "rehearsal", "--out", out], &two[..]].concat());
    let text = String::from_utf8_lossy(&shrunk.stdout).into_owned();
    assert_eq!(status(&shrunk), 10, "{text}{}", String::from_utf8_lossy(&shrunk.stderr));
    assert!(text.contains("as      crash/told to panic at checkpoint #"), "{text}");
    let kept = text.lines().find_map(|line| line.strip_prefix("repeat  ./weir replay --plan ")).expect("its file");
    let plan = std::fs::read_to_string(kept).expect("kept");
    assert!(plan.contains("panic_at = 4") && !plan.contains("abort_at"), "{plan}");
    let other = text.lines().find(|line| line.contains("also-crash-")).unwrap_or_else(|| panic!("{text}"));
    let other = other.trim_start_matches("files").trim().split(' ').next().expect("its file");
    let plan = std::fs::read_to_string(other).expect("written");
    assert!(plan.contains("abort_at = 6") && !plan.contains("panic_at"), "{plan}");
}

#[test]
fn an_exhaustive_run_says_what_it_has_run_and_what_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().to_str().expect("text");
    let run = |more: &[&str]| {
        let output = chaos(&[&["exhaust", "--job", "rehearsal", "--seed", "3", "--pairs", "4"], more].concat());
        (status(&output), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, text) = run(&["--out", out]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("single placements and 4 sampled pairs of profile default (seed 3): clean"), "{text}");
    let covered = chaos(&["coverage", "--records", out]);
    assert!(String::from_utf8_lossy(&covered.stdout).contains("crash-task-manager"));
    let (status, text) = run(&["--budget", "1ms"]);
    assert_eq!(status, 12, "{text}");
    assert!(text.contains("NOT complete"), "{text}");
    let (status, text) = run(&["--set", "violate_at=4"]);
    assert_eq!(status, 10, "{text}");
    assert!(text.contains("invariant rehearsed") && text.contains("./weir replay --plan"), "{text}");
}
