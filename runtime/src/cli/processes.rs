//! `weir jobmanager` and `weir taskmanager`: one process of a cluster each, as many machines as you like. They share primary
//! storage (a directory) and are started with the same job; which of them comes first does not matter.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use futures::{FutureExt, channel::oneshot};

use super::{
    configuration::{self, PROCESS_DEFAULTS, Prepared, mounts, native_root},
    progress::Progress,
    run::{JobArguments, RunError, ended, interval_flag, prepare_output},
};
use crate::{
    cluster::{
        jobmanager::{self, JobManagerConfig},
        taskmanager::{self, TaskManagerConfig},
    },
    journal::JournalListener,
    platform::{
        Address,
        real::{RealConfig, RealWorld},
    },
};

/// Events a process remembers, for the report of a failure.
const JOURNAL_CAPACITY: usize = 256;

/// What both kinds of processes are told alike.
#[derive(Args, Debug)]
struct ProcessArguments {
    /// The host under which others reach this process, if it is not the one it listens on.
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// The directory of this process alone: local copies of state, scratch. Default: below the output directory, named
    /// after the process.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Print every journal event of this process to standard error.
    #[arg(long)]
    events: bool,
    /// No progress line.
    #[arg(long)]
    quiet: bool,
}

#[derive(Args, Debug)]
pub struct JobManagerArguments {
    #[command(flatten)]
    job: JobArguments,
    #[command(flatten)]
    process: ProcessArguments,
    /// Where TaskManagers reach it.
    #[arg(long, default_value = "127.0.0.1:6123", value_name = "HOST:PORT")]
    listen: String,
    /// `execution.checkpointing.interval` unless said otherwise.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    checkpoint_interval_ms: Option<u64>,
    /// Go on with the job that the output directory holds, from its last checkpoint.
    #[arg(long)]
    resume: bool,
}

#[derive(Args, Debug)]
pub struct TaskManagerArguments {
    #[command(flatten)]
    job: JobArguments,
    #[command(flatten)]
    process: ProcessArguments,
    /// Where the JobManager listens.
    #[arg(long, default_value = "127.0.0.1:6123", value_name = "HOST:PORT")]
    job_manager: String,
    /// Its name, which no other TaskManager has. A process that comes back under the name and in the working directory of one
    /// that died finds the local copies of state that it left.
    #[arg(long)]
    name: String,
    /// Subtasks of each operator that it can run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// Where other TaskManagers reach it; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    listen: String,
}

fn world(
    name: &str,
    root: &std::path::Path,
    arguments: &ProcessArguments,
    local_directories: &[String],
    local_roots: &[String],
    progress: &Arc<Progress>,
) -> Result<RealWorld, RunError> {
    let below = RealConfig::below(root, name);
    let listener = Arc::clone(progress) as Arc<dyn JournalListener>;
    let config = RealConfig {
        primary_root: root.to_path_buf(),
        disk_root: arguments.work.clone().unwrap_or(below.disk_root),
        // Each process has some of its own choice: which, follows from its name.
        native_root: native_root(local_directories, root, name, xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as usize),
        mounts: mounts(local_roots, root, name),
        advertised_host: arguments.advertise.clone(),
        journal_capacity: JOURNAL_CAPACITY,
        journal_listener: Some(listener),
    };
    RealWorld::new(name, config).map_err(|error| RunError::Environment(error.to_string()))
}

/// Leads the job to its end and reports on it.
///
/// # Errors
/// [`RunError`].
pub fn job_manager(arguments: &JobManagerArguments) -> Result<String, RunError> {
    let flags = interval_flag(arguments.checkpoint_interval_ms);
    let Prepared { job, cluster, output, local_directories, from_savepoint, .. } =
        configuration::prepare(&arguments.job, PROCESS_DEFAULTS, flags)?;
    let root = prepare_output(&output, arguments.resume || from_savepoint.is_some())?;
    let process = &arguments.process;
    let progress = Arc::new(Progress::new(process.quiet || process.events, process.events));
    let world = world("jobmanager", &root, process, &local_directories, &[], &progress)?;
    let rpc_address = Address(arguments.listen.clone());
    let config = JobManagerConfig { rpc_address, cluster: cluster.clone(), from_savepoint };
    let (answer, outcome) = oneshot::channel();
    let body = jobmanager::run(world.platform(), job.clone(), config).map(|outcome| {
        // The receiver waits below.
        let _ = answer.send(outcome);
    });
    world.platform().spawner.control("jobmanager", body.boxed());
    let outcome =
        world.block_on(outcome).map_err(|_| RunError::Job("the JobManager ended without an outcome".to_string()))??;
    ended(&world, &job, outcome, &cluster, &progress, "a cluster of processes", &root)
}

/// Serves a JobManager until it is killed.
///
/// # Errors
/// [`RunError`] if it cannot start, or loses its port.
pub fn task_manager(arguments: &TaskManagerArguments) -> Result<String, RunError> {
    let Prepared { job, cluster, output, local_directories, local_roots, .. } =
        configuration::prepare(&arguments.job, PROCESS_DEFAULTS, Vec::new())?;
    // The JobManager says whether the directory may be used.
    let root = prepare_output(&output, true)?;
    let process = &arguments.process;
    let progress = Arc::new(Progress::new(process.quiet || process.events, process.events));
    let world = world(&arguments.name, &root, process, &local_directories, &local_roots, &progress)?;
    let config = TaskManagerConfig {
        job_manager: Address(arguments.job_manager.clone()),
        data_address: Address(arguments.listen.clone()),
        slots: arguments.slots,
        cluster,
    };
    let (answer, ending) = oneshot::channel();
    let body = taskmanager::run(world.platform(), job, config).map(|ended| {
        // The receiver waits below.
        let _ = answer.send(ended);
    });
    world.platform().spawner.control("taskmanager", body.boxed());
    match world.block_on(ending) {
        Ok(Ok(())) => Ok(format!("{} has ended", arguments.name)),
        Ok(Err(error)) => Err(RunError::Environment(error.to_string())),
        Err(_) => Err(RunError::Environment(format!("{} ended without a word", arguments.name))),
    }
}
