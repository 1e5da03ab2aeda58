//! The runs of a few seeds, pinned by their trace hashes: every machine, toolchain and build must give these runs, event by
//! event. A difference is either a change of what a run does, or a run that depends on more than its plan.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "reads and writes a file of the repository")]

use std::{fmt::Write as _, path::Path};

use scenarios::{
    record::Nobody,
    run::run_plan,
    worker::{Request, What},
};

const FILE: &str = "tests/golden_traces.txt";

const HEADER: &str = "\
# Trace hashes of a few seeds: profile, seed, events, hash over all events. Compared by
# `cargo test -p scenarios --test golden_traces`; written anew by `./weir golden`.
# A change that makes runs go otherwise (a new draw, another order of events, a new event) writes this file anew in the same
# commit. If you did not mean to change what a run does, do not: look for what differs.
";

const WHAT_TO_DO: &str = "\
Did you change what a run does (the generator, a protocol step, an event, the simulated world)? Then write the file anew, in the
same commit:     ./weir golden
If not, a run depends on something besides its plan. See whether two processes of this machine agree:
                 ./weir chaos --seeds <seed> --profile <profile> --audit
and compare the story of the seed with that of a build or a machine where the hash is the one in the file:
                 ./weir replay --seed <seed> --profile <profile>";

const SEEDS: &[(&str, &[u64])] = &[
    ("default", &[0, 1, 7, 19, 41, 82, 123, 205, 1_000_003]),
    ("quiet", &[0, 5]),
    ("local-recovery", &[2, 11, 33]),
    ("fallback", &[3, 12, 34]),
    ("store", &[4, 13]),
    ("network", &[6, 17]),
    ("clocks", &[8, 14]),
    ("processes", &[9, 15]),
];

/// User code of some seeds panics, as planned; the test's own panics are still told.
fn hush_runs() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let of_run = std::thread::current().name().is_some_and(|name| name.starts_with("sim-"));
        if !of_run {
            usual(info);
        }
    }));
}

fn traces() -> String {
    hush_runs();
    let mut text = HEADER.to_string();
    for (profile, seeds) in SEEDS {
        for seed in *seeds {
            let what = What::Seed { seed: *seed, profile: profile.to_string(), job: None, parameters: Vec::new() };
            let request = Request { what, segment: None };
            let plan = request.what.plan().expect("a plan");
            let record = run_plan(&plan, Box::new(Nobody)).expect("it can be run");
            let events = record.counters.events;
            assert!(events > 300, "{profile} {seed} does next to nothing: {events} events");
            writeln!(text, "{profile} {seed} {events} {}", record.trace.last).expect("strings take everything");
        }
    }
    text
}

#[test]
fn seeds_give_the_runs_that_they_gave() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let now = traces();
    if std::env::var("WEIR_GOLDEN").is_ok_and(|wish| wish == "write") {
        std::fs::write(&path, now).expect("the file is written");
        return;
    }
    let then = std::fs::read_to_string(&path).unwrap_or_default();
    let differing: Vec<String> = now
        .lines()
        .filter(|line| !then.lines().any(|old| old == *line))
        .map(|line| {
            let seed = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
            let old = then.lines().find(|old| old.starts_with(&format!("{seed} "))).unwrap_or("nothing");
            format!("now  {line}\nfile {old}")
        })
        .collect();
    let (count, shown) = (differing.len(), differing.join("\n"));
    assert!(count == 0, "{count} seeds give another run than {FILE} says:\n{shown}\n\n{WHAT_TO_DO}");
    assert_eq!(now.lines().count(), then.lines().count(), "{FILE} holds other seeds\n\n{WHAT_TO_DO}");
}
