//! `shrink`: makes a failing plan as small as it gets, explains it, and keeps it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use reports::{RunRecord, findability::by_signature};

use super::{
    arguments::{Effort, Subject, parse_duration},
    ended, print, usage_error,
};
use crate::{
    explain::{Explanation, explain},
    kept::{Entry, KEPT_FORMAT, Kept, safe_name},
    past::records,
    screen::{Told, screen},
    shrink::{
        Shrunk,
        case::mishaps,
        pool::Pool,
        run::Unfit,
        shrink,
        story::hush_panics,
        words::{mishap_lines, setting_line},
    },
    sweep::Exit,
};

#[derive(Args)]
pub(super) struct Shrink {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    effort: Effort,
    /// Try nothing smaller after this time; explaining may take as long again.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    budget: Duration,
    /// Records of sweeps, for how often this failure was seen: a `records.jsonl`, or the directory of an `--out`.
    #[arg(long, value_name = "FILE|DIR")]
    records: Option<PathBuf>,
    /// Where the kept plan goes; beside it, the plans of other failures that were met on the way.
    #[arg(long, value_name = "DIR", default_value = "regressions")]
    out: PathBuf,
}

pub(super) fn run(options: &Shrink) -> Result<Exit, String> {
    hush_panics();
    let read = match options.subject.read() {
        Ok(read) => read,
        Err(error) => return usage_error(&error),
    };
    if let Err(error) = std::fs::create_dir_all(&options.out) {
        return Err(format!("--out: cannot write {}: {error}", options.out.display()));
    }
    let past = match options.records.as_deref().map(records).transpose() {
        Ok(past) => past,
        Err(trouble) => return ended(Err(trouble)),
    };
    let jobs = options.effort.jobs();
    let shrunk = match shrink(&read.plan, jobs, options.budget, options.effort.run_limit)? {
        Ok(shrunk) => shrunk,
        Err(Unfit::Clean(record)) => {
            let verdict = record.verdict.name();
            return usage_error(&format!("the plan does not fail ({verdict}): there is nothing to shrink"));
        }
        Err(Unfit::Shaken(record)) => {
            let message = record.message.as_deref().unwrap_or("the plan fails differently each time");
            print(&format!("nondeterminism: {message}"))?;
            return Ok(Exit::Nondeterminism);
        }
    };
    let mut pool = Pool::start(jobs, options.effort.run_limit);
    let explanation = explain(&shrunk.after, &shrunk.record, &mut pool, Instant::now() + options.budget)?;
    drop(pool);
    let entry = entry(&shrunk, &explanation);
    let path = write(&options.out, &entry)?;
    let shown = path.display().to_string();
    let mut files = vec![format!("{shown} (kept with {} schedules)", entry.kept.schedule_seeds.len())];
    for (signature, plan) in &shrunk.others {
        let path = options.out.join(format!("also-{}.toml", safe_name(signature)));
        write_file(&path, &plan.to_toml())?;
        files.push(format!("{} (another failure met on the way: {signature})", path.display()));
    }
    let told = Told { plan: &shrunk.after, record: &shrunk.record, explanation: &explanation };
    let mut screen = screen(&told, format!("./weir replay --plan {shown}"));
    if let Some(past) = &past {
        screen.seen.push_str(&format!(", {}", seen(past, &shrunk.signature)));
    }
    screen.shrunk = Some(summary(&shrunk));
    screen.files = files;
    print(&reports::shrunk_screen(&screen))?;
    print(&format!("\n{}", test(&entry, &path)))?;
    Ok(Exit::Violation)
}

fn seen(past: &[RunRecord], wanted: &str) -> String {
    let groups = by_signature(past);
    match groups.iter().find(|group| group.signature == wanted) {
        Some(group) => format!(
            "in {} of {} recorded runs (first seed {}, fastest seed {})",
            group.seeds.len(),
            past.len(),
            group.seeds.first().copied().unwrap_or_default(),
            group.fastest.0
        ),
        None => format!("in none of {} recorded runs", past.len()),
    }
}

fn summary(shrunk: &Shrunk) -> String {
    let (before, after) = (mishaps(&shrunk.before).len(), mishaps(&shrunk.after).len());
    let end = match (shrunk.is_finished, after) {
        (false, _) => "; the budget ended before the search",
        (true, 0) => "; it takes no fault at all",
        (true, _) => "; no fault can be left out",
    };
    let (runs, seconds) = (shrunk.runs, shrunk.took.as_secs_f64());
    format!("{before} faults to {after} in {seconds:.1} s ({runs} runs){end}")
}

fn entry(shrunk: &Shrunk, explanation: &Explanation) -> Entry {
    let mut why = mishap_lines(&shrunk.after).join("; ");
    if why.is_empty() {
        why = setting_line(&shrunk.after);
    }
    let kept = Kept {
        format: KEPT_FORMAT,
        signature: Some(shrunk.signature.clone()),
        why,
        needed: explanation.needed.clone(),
        schedule_seeds: explanation.schedule_seeds.clone(),
    };
    Entry { plan: shrunk.after.clone(), kept }
}

/// Another plan of the same signature is not overwritten: the new one gets a number.
fn write(directory: &Path, entry: &Entry) -> Result<PathBuf, String> {
    let name = safe_name(entry.kept.signature.as_deref().unwrap_or("kept"));
    let mut number = 1;
    loop {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let path = directory.join(format!("{name}{suffix}.toml"));
        match std::fs::read_to_string(&path) {
            Ok(text) if Entry::from_toml(&text).is_ok_and(|known| known.plan != entry.plan) => number += 1,
            Ok(text) if Entry::from_toml(&text).is_err() => number += 1,
            _ => {
                write_file(&path, &entry.to_toml())?;
                return Ok(path);
            }
        }
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("--out: cannot write {}: {error}", path.display()))
}

/// A test to copy, for an entry that lies in tests/regressions.
fn test(entry: &Entry, path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = stem.replace('-', "_");
    let name = if name.starts_with(|c: char| c.is_ascii_digit()) { format!("failure_{name}") } else { name };
    format!(
        "/// {}\n#[test]\nfn {name}() {{\n    weir_tests::kept::stays_fixed(\"{stem}\");\n}}",
        entry.kept.why.replace('\n', " ")
    )
}
