//! `weir run`: a job on an in-process cluster. Every JobManager and TaskManager has a platform of its own, and they talk
//! over loopback TCP as they would over any network.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use futures::{FutureExt, channel::oneshot};

use super::{
    configuration::{self, ConfigurationArguments, Prepared},
    progress::Progress,
    summary::summarise,
};
use crate::{
    checkpoint::primary::Primary,
    cluster::{
        config::ClusterConfig,
        jobmanager::{self, JobManagerConfig, JobManagerError, JobOutcome},
        taskmanager::{self, TaskManagerConfig},
    },
    config::{Configured, Origin},
    graph::Job,
    jobs::{self, InputFile, JobParams},
    journal::JournalListener,
    layout::Layout,
    platform::{
        Address, Platform,
        real::{RealConfig, RealWorld},
    },
    recovery::import::SavepointRestore,
};

/// Events a process remembers, for the report of a failure.
const JOURNAL_CAPACITY: usize = 256;

/// What makes a job the job it is: all processes of a cluster must be given the same.
#[derive(Args, Debug)]
pub struct JobArguments {
    /// The job; see `weir jobs`.
    pub job: String,
    /// Where checkpoints and output go; `state.checkpoints.dir` unless said otherwise. The output is below `output/<sink>`; only
    /// what `_committed` lists counts.
    #[arg(long)]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub configuration: ConfigurationArguments,
    /// An input file; may be given several times. Default for `flights`: the sample that comes with Weir.
    #[arg(long)]
    pub input: Vec<PathBuf>,
    /// `parallelism.default` unless said otherwise.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub parallelism: Option<u32>,
    /// Splits each input file is read in.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub splits: u32,
    /// Limit the source, to watch checkpoints go by.
    #[arg(long)]
    pub records_per_second: Option<f64>,
    /// Begin with the state of this savepoint or retained checkpoint, given by its directory or the `_metadata` file in it, as a path or a
    /// `file:` URL. It is never changed or deleted, and any number of jobs may begin with it, each with an output directory of its own
    /// (or in that of a job that has ended, whose output then goes on).
    #[arg(short = 's', long = "fromSavepoint", alias = "from-savepoint", value_name = "PATH")]
    pub from_savepoint: Option<PathBuf>,
    /// Leave state behind that belongs to no operator of the job; without this it is refused.
    #[arg(short = 'n', long = "allowNonRestoredState", alias = "allow-non-restored-state")]
    pub allow_non_restored_state: bool,
}

impl JobArguments {
    /// What the job begins with.
    ///
    /// # Errors
    /// [`RunError::Usage`] if the path is none.
    pub(super) fn restore(&self) -> Result<Option<SavepointRestore>, RunError> {
        let Some(path) = &self.from_savepoint else { return Ok(None) };
        let absolute = match path.to_str() {
            // A URL is the same wherever it is typed; whether its scheme is known is for the storage to say.
            Some(url) if url.starts_with("file:") || url.contains("://") => Some(url.to_string()),
            _ => std::path::absolute(path).ok().and_then(|path| path.to_str().map(str::to_string)),
        };
        let path = absolute.ok_or_else(|| RunError::Usage(format!("--fromSavepoint {}: no path", path.display())))?;
        Ok(Some(SavepointRestore { path, allow_non_restored_state: self.allow_non_restored_state }))
    }
}

#[derive(Args, Debug)]
pub struct RunArguments {
    #[command(flatten)]
    pub job: JobArguments,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub task_managers: u32,
    /// `execution.checkpointing.interval` unless said otherwise.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub checkpoint_interval_ms: Option<u64>,
    /// Go on with a run that was interrupted, from its last checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Print every journal event to standard error.
    #[arg(long)]
    pub events: bool,
    /// No progress line.
    #[arg(long)]
    pub quiet: bool,
    /// At the end, draw which task wrote what of the newest checkpoint where, to primary storage and to local stores: an SVG file.
    #[arg(long, value_name = "FILE")]
    pub local_recovery_figure: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Environment(String),
    #[error("the job failed: {0}")]
    Job(String),
    /// What was asked for was not done, and nothing was changed.
    #[error("{0}")]
    Refused(String),
}

impl From<JobManagerError> for RunError {
    fn from(error: JobManagerError) -> RunError {
        match error {
            JobManagerError::Savepoint { .. } => RunError::Refused(error.to_string()),
            _ => RunError::Environment(error.to_string()),
        }
    }
}

/// Runs a job to its end and reports on it.
///
/// # Errors
/// [`RunError`].
pub fn run(arguments: &RunArguments) -> Result<String, RunError> {
    let flags = interval_flag(arguments.checkpoint_interval_ms);
    let Prepared { job, cluster, output, local_directories, local_roots, from_savepoint } =
        configuration::prepare(&arguments.job, configuration::RUN_DEFAULTS, flags)?;
    let root = prepare_output(&output, arguments.resume || from_savepoint.is_some())?;
    let progress = Arc::new(Progress::new(arguments.quiet || arguments.events, arguments.events));
    let world = |process: &str, number: usize| {
        let listener = Arc::clone(&progress) as Arc<dyn JournalListener>;
        let config = RealConfig {
            // What a reader looks for lies directly in the directory that was asked for.
            primary_root: root.clone(),
            journal_capacity: JOURNAL_CAPACITY,
            journal_listener: Some(listener),
            native_root: configuration::native_root(&local_directories, &root, process, number),
            mounts: configuration::mounts(&local_roots, &root, process),
            ..RealConfig::below(&root, process)
        };
        RealWorld::new(process, config).map_err(|e| RunError::Environment(e.to_string()))
    };
    let jm_world = world("jobmanager", 0)?;
    let jm_platform = jm_world.platform();
    let rpc_address = free_address(&jm_world, &jm_platform)?;
    let mut task_managers = Vec::new();
    let slots = job.graph.slots_needed().div_ceil(arguments.task_managers);
    for number in 1..=arguments.task_managers {
        let world = world(&format!("tm-{number}"), number as usize)?;
        let platform = world.platform();
        let config = TaskManagerConfig {
            job_manager: rpc_address.clone(),
            data_address: Address("127.0.0.1:0".to_string()),
            slots,
            cluster: cluster.clone(),
        };
        let body = taskmanager::run(platform.clone(), job.clone(), config).map(|_| ());
        platform.spawner.control("taskmanager", body.boxed());
        task_managers.push(world);
    }
    let (answer, outcome) = oneshot::channel();
    let body = jobmanager::run(
        jm_platform.clone(),
        job.clone(),
        JobManagerConfig { rpc_address, cluster: cluster.clone(), from_savepoint },
    )
    .map(|outcome| {
        // The receiver waits below.
        let _ = answer.send(outcome);
    });
    jm_platform.spawner.control("jobmanager", body.boxed());
    let outcome = jm_world
        .block_on(outcome)
        .map_err(|_| RunError::Job("the JobManager ended without an outcome".to_string()))??;
    if let Some(path) = &arguments.local_recovery_figure {
        crate::platform::real::write_file(path, &progress.figure().to_svg()).map_err(RunError::Environment)?;
    }
    let with = format!("{} TaskManagers", arguments.task_managers);
    ended(&jm_world, &job, outcome, &cluster, &progress, &with, &root)
}

/// What there is to say of a job that has ended.
///
/// # Errors
/// Why it failed, or that its output cannot be read back.
pub(super) fn ended(
    world: &RealWorld,
    job: &Job,
    outcome: JobOutcome,
    cluster: &ClusterConfig,
    progress: &Progress,
    with: &str,
    root: &Path,
) -> Result<String, RunError> {
    progress.finish();
    match outcome {
        JobOutcome::Failed { reason } => return Err(RunError::Job(reason)),
        JobOutcome::Stopped { savepoint } => {
            let path = world.platform().primary.describe(&savepoint);
            return Ok(format!("{} stopped. Savepoint stored in {path}.", job.name));
        }
        JobOutcome::Finished => {}
    }
    let settings = &cluster.task;
    let primary = Primary::new(&world.platform(), settings.store_operation_timeout, settings.store_total_timeout);
    let summary = world
        .block_on(summarise(&primary, Layout { job: job.id }, job))
        .map_err(|e| RunError::Environment(format!("the output cannot be read back: {e}")))?;
    Ok(format!(
        "{} finished in {:.2} s: {} checkpoints, {} restarts, {with}, {} subtasks\n{}\n{}output: {}\n{summary}",
        job.name,
        progress.elapsed().as_secs_f64(),
        progress.checkpoints(),
        progress.restarts(),
        job.graph.subtasks().count(),
        progress.statistics(),
        progress.recoveries(),
        root.join("output").display(),
    ))
}

pub(super) fn build_job(arguments: &JobArguments, configured: &Configured) -> Result<Job, RunError> {
    let registered = jobs::by_name(&arguments.job).ok_or_else(|| {
        let names: Vec<_> = jobs::ALL.iter().map(|j| j.name).collect();
        RunError::Usage(format!("no job named {:?}; there are: {}", arguments.job, names.join(", ")))
    })?;
    let mut inputs = arguments.input.clone();
    if inputs.is_empty() && registered.name == "flights" {
        inputs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/flights-2013-01.csv"));
    }
    if inputs.is_empty() {
        return Err(RunError::Usage(format!("job {} needs at least one --input FILE", registered.name)));
    }
    let inputs = inputs.iter().map(|path| input_file(path)).collect::<Result<Vec<_>, _>>()?;
    if arguments.records_per_second.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(RunError::Usage("--records-per-second must be a positive number".to_string()));
    }
    let params = JobParams {
        inputs,
        splits_per_file: arguments.splits,
        parallelism: configured.settings.job.parallelism.unwrap_or(1),
        max_parallelism: configured.settings.job.max_parallelism,
        records_per_second: arguments.records_per_second,
        ..JobParams::default()
    };
    (registered.job)(&params).map_err(|e| RunError::Usage(e.to_string()))
}

fn input_file(path: &Path) -> Result<InputFile, RunError> {
    let cannot = |e: String| RunError::Environment(format!("cannot read input {}: {e}", path.display()));
    let (path_text, length) = crate::platform::real::probe_input(path).map_err(cannot)?;
    Ok(InputFile { path: path_text, length })
}

/// The output directory, created; refused if another run's state is in it and that was not asked for.
pub(super) fn prepare_output(path: &Path, resume: bool) -> Result<PathBuf, RunError> {
    let used = crate::platform::real::prepare_root(path)
        .map_err(|e| RunError::Environment(format!("cannot use output directory {}: {e}", path.display())))?;
    if used && !resume {
        let path = path.display();
        return Err(RunError::Usage(format!(
            "{path} holds an earlier run; choose an empty directory, go on with that run by --resume, or with a savepoint of it by \
             --fromSavepoint"
        )));
    }
    Ok(path.to_path_buf())
}

/// A free port for the JobManager, which its TaskManagers must know before it listens.
fn free_address(world: &RealWorld, platform: &Platform) -> Result<Address, RunError> {
    let any = Address("127.0.0.1:0".to_string());
    let listening = world.block_on(platform.transport.listen(&any));
    listening
        .map(|listener| listener.address())
        .map_err(|e| RunError::Environment(format!("cannot open a port on 127.0.0.1: {e}")))
}

/// The option that means the same as `execution.checkpointing.interval`.
pub(super) fn interval_flag(milliseconds: Option<u64>) -> Vec<(&'static str, String, Origin)> {
    let flag = Origin::Flag("--checkpoint-interval-ms");
    milliseconds.map(|ms| ("execution.checkpointing.interval", format!("{ms} ms"), flag)).into_iter().collect()
}
