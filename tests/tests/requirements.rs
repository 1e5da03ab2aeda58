//! The requirements that Weir is built to are numbered, R1 to R226. Each is proven by a test whose comment names it, or named on the page that
//! says where Weir differs, and why.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test reads the sources and the documentation; the law holds for the runtime"
)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const LAST: u32 = 226;

/// The numbers that a text names: `R` and digits, and nothing before or behind that would make it another word.
fn named_in(text: &str) -> BTreeSet<u32> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter_map(|word| word.strip_prefix('R')?.parse().ok()).collect()
}

fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// R1: what the notes that Weir follows say of Flink's checkpoints, savepoints, state backends and large state, point by point: none is without
/// a proof and without a word on the page of differences, and no number is named that there is not.
#[test]
fn each_requirement_is_proven_or_listed_as_a_difference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for part in ["runtime", "sim", "scenarios", "reports", "tests"] {
        sources(&root.join(part), &mut files);
    }
    assert!(files.len() > 300, "{} files", files.len());
    let mut proven = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        for comment in text.lines().filter(|line| line.trim_start().starts_with("//")) {
            proven.append(&mut named_in(comment));
        }
    }
    let page = std::fs::read_to_string(root.join("docs/differences.md")).expect("the page is there");
    let listed = named_in(&page);
    let known: BTreeSet<u32> = proven.union(&listed).copied().collect();
    let missing: Vec<u32> = (1..=LAST).filter(|number| !known.contains(number)).collect();
    assert!(missing.is_empty(), "neither proven nor listed: {missing:?}");
    let unknown: Vec<&u32> = known.iter().filter(|number| !(1..=LAST).contains(*number)).collect();
    assert!(unknown.is_empty(), "there are no such requirements: {unknown:?}");
    assert!(proven.len() > listed.len(), "{} are proven, {} listed", proven.len(), listed.len());
}

#[test]
fn a_number_is_named_by_a_word_of_its_own() {
    let text = "/// R12, R9: keyed (R200). FOR7, R, Rx, R1x and `R30` besides.";
    assert_eq!(named_in(text).into_iter().collect::<Vec<_>>(), [9, 12, 30, 200]);
}
