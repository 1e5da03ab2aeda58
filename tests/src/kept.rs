//! The corpus: plans that once failed, in `regressions/` beside this crate's manifest.

use std::path::{Path, PathBuf};

use reports::{RunRecord, failure_screen};
use scenarios::{kept::Entry, plan::Plan, record::Nobody, run::run_plan};

/// The directory of the corpus.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

/// Names of all entries of a directory, without their ending, in order.
///
/// # Panics
/// If it cannot be read.
pub fn names(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<String> = files
        .map(|file| file.unwrap_or_else(|error| panic!("{}: {error}", directory.display())).path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// # Panics
/// If there is no such entry, or it is none.
pub fn entry(directory: &Path, name: &str) -> Entry {
    let path = directory.join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Entry::from_toml(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// # Panics
/// If the plan cannot be run.
pub fn run(plan: &Plan) -> RunRecord {
    run_plan(plan, Box::new(Nobody)).unwrap_or_else(|error| panic!("{error}"))
}

/// Replays an entry of the corpus under all its schedules.
///
/// # Panics
/// If it fails again, or has gone stale.
pub fn stays_fixed(name: &str) {
    let entry = entry(&corpus(), name);
    if let Err(message) = holds(&entry) {
        panic!("{name}: {message}");
    }
}

/// # Errors
/// Why the entry does not hold; with the failure's screen if it fails.
pub fn holds(entry: &Entry) -> Result<(), String> {
    let records: Vec<RunRecord> = entry.plans().iter().map(run).collect();
    entry.judge(&records).map_err(|message| match records.iter().find(|record| record.verdict.is_failure()) {
        Some(failed) => format!("{message}\n{}", failure_screen(failed, "the plan, with `schedule_seed` set to that")),
        None => message,
    })
}
