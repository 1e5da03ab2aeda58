//! A keyed running count on a real cluster in this process: generator, exchange by key over loopback TCP, one counter per key,
//! exactly-once checkpoints to the disk, and a sink that keeps nothing.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use futures::{FutureExt, channel::oneshot};
use runtime::{
    api::{JobBuilder, KeyedContext, KeyedProcess, OpenContext, UserError, ValueState},
    cluster::{
        config::{CheckpointConfig, ClusterConfig},
        jobmanager::{self, JobManagerConfig, JobOutcome},
        taskmanager::{self, TaskManagerConfig},
    },
    connectors::GeneratorSource,
    graph::Job,
    journal::{Event, JournalListener},
    platform::{
        Address,
        real::{RealConfig, RealWorld},
    },
    state::{BackendKind, BackendSettings},
};

use super::{
    Rounds,
    usage::{Meter, load},
};

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value_t = 20_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallelism: u32,
    /// Processes that the subtasks are spread over, as far as the runtime can tell.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    task_managers: u32,
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    checkpoint_interval_ms: u64,
    /// Where the counts are kept.
    #[arg(long, value_enum, default_value_t = Backend::Filesystem)]
    backend: Backend,
    /// Checkpoints of RocksDB write its new files only.
    #[arg(long)]
    incremental: bool,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// The state backends that this job's state fits into.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Backend {
    Filesystem,
    Rocksdb,
}

impl Options {
    fn backend(&self) -> BackendSettings {
        let kind = match self.backend {
            Backend::Filesystem => BackendKind::Filesystem,
            Backend::Rocksdb => BackendKind::RocksDb,
        };
        BackendSettings { kind, incremental: self.incremental, ..BackendSettings::default() }
    }
}

/// Counts the records of each key.
struct Count {
    count: ValueState<u64>,
    seen: u64,
    /// Of all subtasks, once they have ended: proof that the figure is about the records it claims.
    all_seen: Arc<AtomicU64>,
}

impl Drop for Count {
    fn drop(&mut self) {
        self.all_seen.fetch_add(self.seen, Ordering::Relaxed);
    }
}

impl KeyedProcess for Count {
    type Key = u64;
    type In = u64;
    type Out = u64;

    fn open(&mut self, ctx: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.count = ctx.value_state("count")?;
        Ok(())
    }

    fn process(&mut self, _key: u64, ctx: &mut KeyedContext<'_, u64>, out: &mut Vec<u64>) -> Result<(), UserError> {
        let count = self.count.get(ctx)?.copied().unwrap_or(0) + 1;
        self.count.update(ctx, count)?;
        self.seen += 1;
        out.push(count);
        Ok(())
    }
}

/// As even as any generator of its price.
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn job(options: &Options, all_seen: &Arc<AtomicU64>) -> Result<Job, String> {
    let Options { records, keys, parallelism, .. } = *options;
    let per_split = records / u64::from(parallelism);
    let generate = move |split: u32, offset: u64| {
        (offset < per_split).then(|| mixed(offset.wrapping_add((u64::from(split) + 1) << 48)) % keys)
    };
    let all_seen = all_seen.clone();
    let builder = JobBuilder::new("keyed-count").parallelism(parallelism);
    builder
        .source("keys", GeneratorSource::new("keys", parallelism, generate))
        .key_by(|key| *key)
        .process("count", move || Count { count: ValueState::default(), seen: 0, all_seen: all_seen.clone() })
        .discard_sink("discard");
    builder.build().map_err(|error| error.to_string())
}

/// Checkpoints that completed.
#[derive(Default)]
struct Completed(AtomicU64);

impl JournalListener for Completed {
    fn on_event(&self, _process: &str, event: &Event) {
        if matches!(event, Event::CheckpointCompleted { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs the job once, to its end. A job that fails is not started again: that would be no measurement. Gives the number of
/// completed checkpoints.
fn run_once(options: &Options, all_seen: &Arc<AtomicU64>, root: &Path) -> Result<u64, String> {
    let job = job(options, all_seen)?;
    let completed = Arc::new(Completed::default());
    let world = |process: &str| {
        let config = RealConfig {
            journal_capacity: 64,
            journal_listener: Some(completed.clone() as Arc<dyn JournalListener>),
            ..RealConfig::below(root, process)
        };
        RealWorld::new(process, config).map_err(|error| error.to_string())
    };
    let interval = Duration::from_millis(options.checkpoint_interval_ms);
    let checkpoint = CheckpointConfig { interval, ..CheckpointConfig::default() };
    let mut cluster = ClusterConfig { checkpoint, restart_attempts: Some(0), ..ClusterConfig::default() };
    cluster.task.backend = options.backend();
    let any = Address("127.0.0.1:0".to_string());
    let leader = world("jobmanager")?;
    let platform = leader.platform();
    // The port is given up again and taken by the JobManager, once its TaskManagers know it.
    let free = leader.block_on(platform.transport.listen(&any)).map_err(|error| error.to_string())?;
    let rpc_address = free.address();
    drop(free);
    let mut workers = Vec::new();
    for number in 1..=options.task_managers {
        let worker = world(&format!("tm-{number}"))?;
        let config = TaskManagerConfig {
            job_manager: rpc_address.clone(),
            data_address: any.clone(),
            slots: job.graph.slots_needed().div_ceil(options.task_managers),
            cluster: cluster.clone(),
        };
        let platform = worker.platform();
        let body = taskmanager::run(platform.clone(), job.clone(), config).map(|_| ());
        platform.spawner.control("taskmanager", body.boxed());
        workers.push(worker);
    }
    let (answer, outcome) = oneshot::channel();
    let body = jobmanager::run(platform.clone(), job, JobManagerConfig { rpc_address, cluster, from_savepoint: None })
        .map(|outcome| {
            // The receiver waits below.
            let _ = answer.send(outcome);
        });
    platform.spawner.control("jobmanager", body.boxed());
    let outcome = leader.block_on(outcome).map_err(|_| "the JobManager ended without an outcome".to_string())?;
    match outcome.map_err(|error| error.to_string())? {
        JobOutcome::Finished => Ok(completed.0.load(Ordering::Relaxed)),
        JobOutcome::Failed { reason } => Err(format!("the job failed: {reason}")),
        JobOutcome::Stopped { savepoint } => Err(format!("the job was stopped with savepoint {savepoint}")),
    }
}

/// The subtasks end shortly after their job.
fn ended_with(all_seen: &AtomicU64, records: u64) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while all_seen.load(Ordering::Relaxed) != records {
        if Instant::now() > deadline {
            let seen = all_seen.load(Ordering::Relaxed);
            return Err(format!("the job counted {seen} records of {records}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub fn measure(options: &Options) -> Result<(), String> {
    let Options { keys, parallelism, checkpoint_interval_ms, .. } = *options;
    // Every split has as many.
    let records = options.records / u64::from(parallelism) * u64::from(parallelism);
    println!(
        "count  {records} records, {keys} keys, parallelism {parallelism}, {} TaskManagers, state in {}{}, a checkpoint every \
         {checkpoint_interval_ms} ms, {}",
        options.task_managers,
        options.backend().kind,
        if options.incremental { " (incremental)" } else { "" },
        load()
    );
    let (mut by_clock, mut by_processor) = (Rounds::default(), Rounds::default());
    let mut checkpoints = Rounds::default();
    for _ in 0..options.rounds {
        let root = tempfile::tempdir().map_err(|error| format!("cannot make a directory: {error}"))?;
        let meter = Meter::start();
        let all_seen = Arc::new(AtomicU64::new(0));
        let completed = run_once(options, &all_seen, root.path())?;
        let used = meter.read();
        ended_with(&all_seen, records)?;
        by_clock.add(records as f64 / used.wall_seconds);
        by_processor.add(records as f64 / used.processor_seconds.max(0.01));
        checkpoints.add(completed as f64);
    }
    println!("  records/s, by the clock            {by_clock}");
    println!("  records/s of processor time        {by_processor}");
    println!("  completed checkpoints of a round   {checkpoints}");
    Ok(())
}
