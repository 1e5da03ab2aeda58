//! A few seeds of the default profile, each in a process of its own, and the promise that a seed is a run: the same one in
//! any process, however many run beside it.
//!
//! `WEIR_SEED=7` runs one seed, `WEIR_SEEDS=100..200` a range.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test prepares and inspects the real machine; the law holds for the runtime"
)]

use std::{collections::BTreeMap, path::Path};

use reports::RunRecord;
use weir_tests::processes::{failures_of_seeds, program, run_in_child, seed, seeds_of_environment};

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");

#[test]
fn seeds_of_the_default_profile_hold_every_invariant() {
    // Spread over the seeds that a long sweep runs too.
    let seeds = seeds_of_environment((0..24).map(|n| n * 41)).unwrap_or_else(|error| panic!("{error}"));
    let failures = failures_of_seeds(Path::new(WORKER), "default", &seeds, "fast_seeds");
    assert!(failures.is_empty(), "{} of {} seeds failed\n{}", failures.len(), seeds.len(), failures.join("\n"));
}

/// Each profile draws its own faults; a couple of seeds of each show that none is broken as a whole.
#[test]
fn seeds_of_the_other_profiles_hold_every_invariant() {
    for profile in ["quiet", "local-recovery", "fallback", "store", "network", "clocks", "processes"] {
        let failures = failures_of_seeds(Path::new(WORKER), profile, &[3, 104, 1_005], "fast_seeds");
        assert!(failures.is_empty(), "profile {profile}\n{}", failures.join("\n"));
    }
}

#[test]
fn a_seed_is_the_same_run_in_another_process() {
    for number in [0, 7, 19] {
        let run =
            || run_in_child(Path::new(WORKER), &seed(number, "default")).unwrap_or_else(|error| panic!("{error}"));
        let (one, other) = (run(), run());
        assert!(one.counters.events > 500, "seed {number} did next to nothing: {:?}", one.counters);
        assert_eq!(one.trace, other.trace, "seed {number}");
        let timeless = |mut record: RunRecord| {
            record.timings.wall_us = 0;
            record
        };
        assert_eq!(timeless(one), timeless(other), "seed {number}");
    }
}

/// The trace hash of each seed of a sweep.
fn traces(jobs: &str, batch: &str) -> BTreeMap<u64, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let out = out.to_str().expect("the path is text");
    let arguments =
        ["chaos", "--seeds", "40..48", "--profile", "network", "--jobs", jobs, "--batch", batch, "--out", out];
    let output = program(Path::new(WORKER), &arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let records =
        std::fs::read_to_string(directory.path().join("out/records.jsonl")).expect("the sweep left its records");
    let records = records.lines().map(|line| serde_json::from_str::<RunRecord>(line).expect("a record"));
    records.map(|record| (record.seed, record.trace.last)).collect()
}

/// One worker that runs all seeds one after the other, and three that share them, each run in a fresh process.
#[test]
fn a_seed_is_the_same_run_whatever_runs_beside_it() {
    let alone = traces("1", "100");
    assert_eq!(alone.keys().copied().collect::<Vec<_>>(), (40..48).collect::<Vec<_>>());
    assert_eq!(alone, traces("3", "1"));
}
