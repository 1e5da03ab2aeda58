//! `weir coverage`: what the records of a sweep covered, in full.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path as FilePath,
};

use reports::{Expectation, RunRecord, Summary, coverage_text};

use super::Path;
use crate::{phase::Phase, plan::Profile, sweep::expectation};

/// Files of a sweep's directory that hold records: those of its range, and those of its steered runs.
const FILES: &[&str] = &["records.jsonl", "steered.jsonl"];

/// Folds the records in `directory`.
///
/// # Errors
/// One line that says which file is missing, or which line is no record.
pub fn fold(directory: &FilePath) -> Result<Summary, String> {
    let mut summary = None;
    for name in FILES {
        let path = directory.join(name);
        // There need not have been steered runs.
        if *name == FILES[0] || path.exists() {
            fold_file(&path, &mut summary)?;
        }
    }
    summary.ok_or_else(|| format!("{} holds no record", directory.display()))
}

fn fold_file(path: &FilePath, summary: &mut Option<Summary>) -> Result<(), String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| {
        format!("cannot read {shown}: {error}; give a directory that `./weir chaos --out DIR` has written")
    })?;
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|error| format!("cannot read {shown}: {error}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let record: RunRecord =
            serde_json::from_str(&line).map_err(|error| format!("{shown}, line {number}: no record: {error}"))?;
        let summary = summary.get_or_insert_with(|| {
            // What this build declares; records of a profile that it does not know are only counted.
            let unknown = || Expectation { profile: record.profile.clone(), ..Expectation::default() };
            Summary::new(Profile::named(&record.profile).map_or_else(unknown, expectation))
        });
        if record.profile != summary.expectation.profile {
            let first = &summary.expectation.profile;
            return Err(format!("{shown}, line {number}: profile {}, the others are of {first}", record.profile));
        }
        summary.add(&record);
    }
    Ok(())
}

/// The full report.
///
/// # Errors
/// As [`fold`].
pub fn text(directory: &FilePath) -> Result<String, String> {
    Ok(coverage_text(&fold(directory)?, &Phase::names(), &Path::names()))
}

#[cfg(test)]
mod tests {
    use reports::Verdict;

    use super::*;

    #[test]
    fn records_are_folded_and_what_is_none_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("records.jsonl");
        let record = |profile: &str| {
            serde_json::to_string(&RunRecord::empty(3, profile, Verdict::Clean)).expect("records are JSON")
        };
        assert!(fold(directory.path()).expect_err("nothing there").contains("records.jsonl"));
        std::fs::write(&file, format!("{}\n{}\n", record("default"), record("default"))).expect("written");
        let summary = fold(directory.path()).expect("records");
        assert_eq!(summary.runs, 2);
        assert!(text(directory.path()).expect("records").contains("completes-upwards"));
        std::fs::write(&file, format!("{}\nnonsense\n", record("default"))).expect("written");
        assert!(fold(directory.path()).expect_err("no record").contains("line 2"));
        std::fs::write(&file, format!("{}\n{}\n", record("default"), record("quiet"))).expect("written");
        assert!(fold(directory.path()).expect_err("two profiles").contains("profile quiet"));
    }
}
