//! The steered part of a sweep, after its range of seeds.
//!
//! It belongs to one sweep: its records stand in a file of their own, which no merge reads, and a sweep that goes on makes
//! these runs anew, for what they aim at follows from all records of the range.

use std::{fs::File, io::Write, path::PathBuf, time::Instant};

use reports::{RunRecord, Verdict};

use super::{
    Engine, SweepOptions, closing::Closing, conclusion::Fold, directory::Directory, environment, progress, stored,
};
use crate::{
    coverage::steer::{Steering, steered_run},
    trouble::Trouble,
    worker::{Request, What},
};

/// The records of steered runs, beside those of the range.
const FILE: &str = "steered.jsonl";

/// Seeds of steered runs, by the end of the range: far from it, so that sweeps of neighbouring ranges share none.
fn first_seed(options: &SweepOptions) -> u64 {
    options.seeds.1.saturating_add(1).saturating_mul(1 << 24).min(i64::MAX.cast_unsigned() - (1 << 24))
}

struct Records(Option<(PathBuf, File)>);

impl Records {
    fn create(directory: Option<&Directory>) -> Result<Records, Trouble> {
        let Some(directory) = directory else { return Ok(Records(None)) };
        let path = directory.path().join(FILE);
        let file = File::create(&path).map_err(|error| Trouble::file("write", &path, &error))?;
        Ok(Records(Some((path, file))))
    }

    fn add(&mut self, record: &RunRecord) -> Result<(), Trouble> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        let text = serde_json::to_string(record).map_err(|error| Trouble::Environment(error.to_string()))?;
        writeln!(file, "{text}").map_err(|error| Trouble::file("write", path, &error))
    }
}

/// Runs rounds until as many runs were made as were asked for, or the budget is spent. Does nothing after a range that was not
/// run to its end: what its rounds aimed at would depend on when it stopped.
///
/// # Errors
/// As [`Engine::run`].
pub(super) fn steer(
    options: &SweepOptions,
    closing: &Closing,
    fold: &mut Fold,
    directory: Option<&Directory>,
) -> Result<(), Trouble> {
    if options.steer == 0 || !closing.complete {
        return Ok(());
    }
    let started = Instant::now();
    let spent = std::time::Duration::from_millis(closing.elapsed_ms);
    let mut records = Records::create(directory)?;
    let mut steering = Steering::new(options.profile, &fold.summary);
    let mut left = options.steer as usize;
    let mut seed = first_seed(options);
    let bar = progress(options.steer.into(), 0)?;
    while left > 0 {
        let budget = options.budget.map(|budget| budget.saturating_sub(spent + started.elapsed()));
        if budget.is_some_and(|budget| budget.is_zero()) {
            break;
        }
        let goals = steering.next_round(&fold.summary, left);
        if goals.is_empty() {
            break;
        }
        left -= goals.len();
        let engine = Engine {
            jobs: options.jobs,
            batch: options.batch,
            limits: options.limits,
            // A round is run to its end, or the next one would depend on when this one stopped.
            budget: None,
            audit: options.audit,
        };
        let runs: Vec<Request> = goals
            .iter()
            .zip(seed..)
            .map(|(goal, seed)| Request { what: steered_run(seed, options.profile, *goal), segment: None })
            .collect();
        seed += runs.len() as u64;
        engine.run(&mut runs.into_iter(), &mut |request, record| {
            if record.verdict == Verdict::Environment {
                return Err(environment(record));
            }
            if let What::Steered { goal, .. } = &request.what {
                steering.ended(goal.parse()?, &record);
            }
            records.add(&record)?;
            if fold.add(&record, &request.what, directory)? {
                bar.println(format!("seed {}: {}", record.seed, record.signature.as_deref().unwrap_or("failed")));
            }
            bar.inc(1);
            Ok(())
        })?;
    }
    bar.finish_and_clear();
    let outcome = steering.outcome(&fold.summary);
    fold.summary.steered = Some(outcome);
    fold.summary.elapsed_ms += stored::milliseconds(started.elapsed());
    Ok(())
}
