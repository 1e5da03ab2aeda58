//! One plan, run in this process. Deterministic: whatever it gives is a function of the plan and the build, its wall-clock
//! timing aside.

use reports::RunRecord;

use crate::{plan::Plan, record::Observer, rehearsal};

/// Events per segment of a trace hash.
pub const SEGMENT_EVENTS: u64 = 1_024;

/// The jobs a plan may name.
pub const JOBS: &[&str] = &[rehearsal::NAME];

/// Why a plan cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("no job is called {name:?}; there are {}", JOBS.join(", "))]
    NoSuchJob { name: String },
}

/// # Errors
/// [`RunError`] if the plan asks for what does not exist.
pub fn check_job(name: &str) -> Result<(), RunError> {
    if JOBS.contains(&name) { Ok(()) } else { Err(RunError::NoSuchJob { name: name.to_string() }) }
}

/// Runs `plan` to its end, telling `observer` every event.
///
/// # Errors
/// [`RunError`] if the plan asks for what does not exist.
pub fn run_plan(plan: &Plan, observer: &mut dyn Observer) -> Result<RunRecord, RunError> {
    check_job(&plan.workload.name)?;
    let started = std::time::Instant::now();
    let mut record = rehearsal::run(plan, observer);
    record.timings.wall_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(record)
}
