//! `weir savepoint` and `weir stop`: asks the JobManager of a running job for a savepoint; disposes of one.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::run::RunError;
use crate::{
    checkpoint::{primary::Primary, savepoint},
    cluster::{
        client::{self, ClientError},
        rpc::{ClientRequest, ClientResponse},
    },
    dataflow::task::TaskSettings,
    ids::JobId,
    platform::{
        Address,
        real::{RealConfig, RealWorld},
    },
};

/// Connecting takes at most so long; the answer as long as it takes, as with Flink.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to ask, and where the savepoint goes.
#[derive(Args, Debug)]
pub struct TriggerArguments {
    /// Where the JobManager listens.
    #[arg(long, default_value = "127.0.0.1:6123", value_name = "HOST:PORT")]
    job_manager: String,
    /// The job, by its id: 32 hexadecimal digits. Without it whatever job the JobManager leads.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// The directory below which the savepoint gets one of its own: an absolute path, a file: URL, or a path below the job's primary
    /// storage. Without it `state.savepoints.dir`.
    #[arg(value_name = "TARGET")]
    target: Option<String>,
}

#[derive(Args, Debug)]
pub struct SavepointArguments {
    #[command(flatten)]
    trigger: TriggerArguments,
    /// Delete this savepoint, given by its directory or its `_metadata` file, and nothing else.
    #[arg(short = 'd', long, value_name = "PATH", conflicts_with_all = ["target", "job"])]
    dispose: Option<PathBuf>,
}

/// `weir savepoint`.
///
/// # Errors
/// [`RunError`].
pub fn savepoint(arguments: &SavepointArguments) -> Result<String, RunError> {
    match &arguments.dispose {
        Some(path) => dispose(path),
        None => {
            let path = trigger(&arguments.trigger, false)?;
            Ok(format!("Savepoint completed. Path: {path}\nGo on from it with: weir run JOB --fromSavepoint {path}"))
        }
    }
}

/// `weir stop`: the job ends with a savepoint.
///
/// # Errors
/// [`RunError`].
pub fn stop(arguments: &TriggerArguments) -> Result<String, RunError> {
    let path = trigger(arguments, true)?;
    Ok(format!("Stopped. Savepoint stored in {path}.\nGo on from it with: weir run JOB --fromSavepoint {path}"))
}

fn trigger(arguments: &TriggerArguments, stop: bool) -> Result<String, RunError> {
    let job = arguments.job.clone().map(JobId::try_from).transpose();
    let job = job.map_err(|error| RunError::Usage(format!("--job: {error}")))?;
    let of = job.map_or_else(|| format!("the job at {}", arguments.job_manager), |job| format!("job {job}"));
    eprintln!("Triggering savepoint for {of}.\nWaiting for response...");
    let request = ClientRequest::Savepoint { job, target: arguments.target.clone(), stop };
    let address = Address(arguments.job_manager.clone());
    let (world, _scratch) = world()?;
    let platform = world.platform();
    match world.block_on(client::ask(&platform, &address, request, CONNECT_TIMEOUT)) {
        Ok(ClientResponse::Savepoint(Ok(path))) => Ok(path),
        Ok(ClientResponse::Savepoint(Err(reason))) => {
            Err(RunError::Refused(format!("triggering a savepoint for {of} failed: {reason}")))
        }
        Err(error @ ClientError::Unreachable { .. }) => Err(RunError::Environment(error.to_string())),
        Err(error @ ClientError::Broken { .. }) => Err(RunError::Refused(format!(
            "triggering a savepoint for {of} failed: {error}; it may be there all the same"
        ))),
    }
}

fn dispose(path: &std::path::Path) -> Result<String, RunError> {
    let absolute = std::path::absolute(path).map_err(|e| RunError::Usage(format!("{}: {e}", path.display())))?;
    let (world, _scratch) = world()?;
    let settings = TaskSettings::default();
    let primary = Primary::new(&world.platform(), settings.store_operation_timeout, settings.store_total_timeout);
    let path = path.display();
    eprintln!("Disposing savepoint '{path}'.");
    world
        .block_on(savepoint::dispose(&primary, &absolute.to_string_lossy()))
        .map_err(|error| RunError::Refused(format!("disposing the savepoint '{path}' failed: {error}")))?;
    Ok(format!("Savepoint '{path}' disposed."))
}

/// A process that only asks: what it needs of a disk goes with it.
#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "there is no platform yet: this makes its directory"
)]
fn world() -> Result<(RealWorld, tempfile::TempDir), RunError> {
    let scratch = tempfile::tempdir().map_err(|error| RunError::Environment(error.to_string()))?;
    let config = RealConfig::below(scratch.path(), "client");
    let world = RealWorld::new("client", config).map_err(|error| RunError::Environment(error.to_string()))?;
    Ok((world, scratch))
}
