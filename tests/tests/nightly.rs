//! What takes minutes: run by `cargo test -p weir-tests --test nightly -- --ignored`. `WEIR_SEEDS=A..B` chooses the seeds.

use std::path::Path;

use weir_tests::processes::{failures_of_seeds, seeds_of_environment};

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");

fn hold(profile: &str, default: std::ops::Range<u64>) {
    let seeds = seeds_of_environment(default).unwrap_or_else(|error| panic!("{error}"));
    let failures = failures_of_seeds(Path::new(WORKER), profile, &seeds, "nightly -- --ignored");
    assert!(failures.is_empty(), "{} of {} seeds failed\n{}", failures.len(), seeds.len(), failures.join("\n"));
}

#[test]
#[ignore = "some minutes: 2,000 seeds of the default profile"]
fn two_thousand_seeds_of_the_default_profile() {
    hold("default", 10_000..12_000);
}

#[test]
#[ignore = "some minutes: 400 seeds of each other profile"]
fn seeds_of_the_other_profiles() {
    for profile in ["quiet", "local-recovery", "fallback", "store", "network", "clocks", "processes"] {
        hold(profile, 20_000..20_400);
    }
}
