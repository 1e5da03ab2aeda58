//! One plan, run in this process. Deterministic: whatever it gives is a function of the plan and the build, its wall-clock
//! timing aside.

use std::panic::{AssertUnwindSafe, catch_unwind};

use reports::RunRecord;

use crate::{
    blame, cluster_runner,
    plan::Plan,
    record::Observer,
    rehearsal,
    worker::{crash_record, panic_message},
    workloads::WorkloadParams,
};

/// Events per segment of a trace hash.
pub const SEGMENT_EVENTS: u64 = 1_024;

/// The jobs a plan may name.
pub fn jobs() -> String {
    let names: Vec<&str> = WorkloadParams::NAMES.iter().copied().chain([rehearsal::NAME]).collect();
    names.join(", ")
}

/// Why a plan cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("no job is called {name:?}; there are {}", jobs())]
    NoSuchJob { name: String },
    #[error("job {name}: {reason}")]
    Unusable { name: String, reason: String },
}

/// # Errors
/// [`RunError`] if the plan asks for what does not exist.
pub fn check_job(name: &str) -> Result<(), RunError> {
    if name == rehearsal::NAME || WorkloadParams::NAMES.contains(&name) {
        Ok(())
    } else {
        Err(RunError::NoSuchJob { name: name.to_string() })
    }
}

/// Whether `plan` can be run, without running it.
///
/// # Errors
/// [`RunError`] if the plan asks for what does not exist.
pub fn check_plan(plan: &Plan) -> Result<(), RunError> {
    check_job(&plan.workload.name)?;
    if plan.workload.name != rehearsal::NAME {
        cluster_runner::workload_of(plan)?;
    }
    Ok(())
}

/// Runs `plan` to its end, telling `observer` every event. A panic becomes a record.
///
/// # Errors
/// [`RunError`] if the plan asks for what does not exist.
pub fn run_plan(plan: &Plan, mut observer: Box<dyn Observer + Send>) -> Result<RunRecord, RunError> {
    check_job(&plan.workload.name)?;
    let started = std::time::Instant::now();
    blame::take();
    let result = catch_unwind(AssertUnwindSafe(|| {
        if plan.workload.name == rehearsal::NAME {
            Ok(rehearsal::run(plan, observer.as_mut()))
        } else {
            cluster_runner::run(plan, observer)
        }
    }));
    let mut record = match result {
        Ok(record) => record?,
        Err(panic) => crash_record(plan, &panic_message(panic.as_ref())),
    };
    blame::judge(&mut record, &blame::take(), &|| plan.to_toml());
    record.class = record.failure_class();
    record.timings.wall_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(record)
}
