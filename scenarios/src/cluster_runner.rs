//! A plan on the real runtime in the simulated world: builds the world and the cluster, lets nemesis and invariants watch every
//! event, and waits until the job has ended or its time is up.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::FutureExt;
use reports::{RunRecord, TraceHash, Verdict};
use runtime::{
    api::JobError,
    cluster::{
        config::{CheckpointConfig, ClusterConfig},
        jobmanager::{self, JobManagerConfig, JobOutcome},
        taskmanager::{self, TaskManagerConfig},
    },
    dataflow::task::TaskSettings,
    graph::Job,
    platform::Address,
    sabotage::SabotageSet,
    state::{BackendSettings, RocksDbSettings},
};
use sim::{DiskConfig, Effect, Entry, FailureKind, NetworkConfig, ProcessStatus, StoreConfig, World, WorldConfig};

use crate::{
    invariants::{self, End, FallbackPolicy, InvariantSuite, RuntimeFormats, Seen, SuiteConfig, Timing},
    nemesis::Nemesis,
    plan::{
        FallbackBehindCommit, FaultKind, FaultSpec, Plan, Span,
        model::{JOB_MANAGER, SECOND_JOB_MANAGER, machine_of},
    },
    record::{Observer, Recorder, RunEnd, Story},
    run::RunError,
    worker::crash_record,
    workloads::{Workload, WorkloadParams},
    world_verbs::{WorldTruth, WorldVerbs},
};

/// After the job has ended, so much longer is watched for effects of zombies.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How often the end of the job is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// So long after the death of their process requests to the store may still land.
const LATE_REQUESTS: Duration = Duration::from_millis(1_500);
/// A leader that finds the job ended and only sweeps is done within this.
const SWEEP: Duration = Duration::from_secs(60);

type JobEnd = Arc<Mutex<Option<Result<JobOutcome, String>>>>;

struct Watch {
    recorder: Recorder,
    observer: Box<dyn Observer + Send>,
    broken_at: Option<u64>,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn range(span: Span) -> std::ops::Range<Duration> {
    span.minimum()..span.maximum()
}

/// The world of a plan.
pub fn world_config(plan: &Plan) -> WorldConfig {
    WorldConfig {
        seed: plan.schedule(),
        network: NetworkConfig {
            latency: range(plan.network.latency),
            jitter: Duration::from_micros(plan.network.jitter_us),
            bandwidth_bytes_per_second: plan.network.bytes_per_second,
            window_bytes: plan.network.window_bytes,
            dead_peer_timeout: ms(plan.network.dead_peer_timeout_ms),
        },
        disk: DiskConfig {
            latency: range(plan.disk.latency),
            bytes_per_second: plan.disk.bytes_per_second,
            capacity_bytes: plan.disk.capacity_bytes,
        },
        store: StoreConfig { latency: range(plan.store.latency), bytes_per_second: plan.store.bytes_per_second },
        // The harness ends the run itself; this is for a world that stands still.
        time_limit: ms(plan.time_limit_ms) + Duration::from_secs(60),
        reseed: plan.reseed.map(|reseed| sim::Reseed { after_event: reseed.after_event, seed: reseed.seed }),
    }
}

/// The runtime's settings of a plan.
pub fn cluster_config(plan: &Plan) -> ClusterConfig {
    let s = &plan.settings;
    ClusterConfig {
        heartbeat_interval: ms(s.heartbeat_interval_ms),
        heartbeat_timeout: ms(s.heartbeat_timeout_ms),
        restart_delay: ms(s.restart_delay_ms),
        restart_attempts: None,
        cancellation_timeout: ms(10_000),
        slot_request_timeout: ms(plan.time_limit_ms),
        checkpoint: CheckpointConfig {
            interval: ms(s.checkpoint_interval_ms),
            min_pause: ms(s.min_pause_ms),
            timeout: ms(s.checkpoint_timeout_ms),
            max_concurrent: s.max_concurrent,
            retained: s.retained,
            tolerable_failures: s.tolerable_failures,
        },
        fallback_behind_commit: match s.fallback_behind_commit {
            FallbackBehindCommit::Replay => runtime::recovery::choice::FallbackBehindCommit::Replay,
            FallbackBehindCommit::Fail => runtime::recovery::choice::FallbackBehindCommit::Fail,
            FallbackBehindCommit::Duplicate => runtime::recovery::choice::FallbackBehindCommit::Duplicate,
        },
        task: TaskSettings {
            buffer_bytes: s.buffer_bytes,
            buffer_timeout: ms(s.buffer_timeout_ms),
            channel_window_bytes: s.channel_window_bytes,
            parts_per_snapshot: s.parts_per_snapshot,
            local_recovery: s.local_recovery,
            store_operation_timeout: ms(s.store_operation_timeout_ms),
            store_total_timeout: ms(s.store_total_timeout_ms),
            connect_timeout: ms(s.connect_timeout_ms),
            source_batch_records: s.source_batch_records,
            watermark_interval: TaskSettings::default().watermark_interval,
            frame_bytes: TaskSettings::default().frame_bytes,
            backend: BackendSettings {
                kind: s.backend,
                incremental: s.incremental,
                small_state_threshold: s.small_state_threshold_bytes,
                compression: s.compression,
                // Compaction at its own times would differ from run to run. Little state needs little memory.
                rocksdb: RocksDbSettings {
                    auto_compaction: false,
                    write_buffer_bytes: 1 << 20,
                    ..RocksDbSettings::default()
                },
                ..BackendSettings::default()
            },
            sabotage: SabotageSet(plan.sabotage.iter().copied().collect()),
        },
        ..ClusterConfig::default()
    }
}

/// The job of a plan, at each parallelism that it ever has.
#[derive(Clone)]
pub struct Jobs {
    by_parallelism: Rc<BTreeMap<u32, Job>>,
    /// What a process that starts now is started with.
    pub parallelism: Rc<Cell<u32>>,
}

impl Jobs {
    /// # Errors
    /// If the workload makes no job at one of them.
    pub fn of(plan: &Plan, params: &WorkloadParams, first: &Job) -> Result<Jobs, JobError> {
        let own = plan.workload.parallelism;
        let mut jobs = BTreeMap::from([(own, first.clone())]);
        for fault in &plan.faults {
            if let FaultKind::Rescale { parallelism, .. } = fault.fault
                && !jobs.contains_key(&parallelism)
            {
                jobs.insert(parallelism, params.at_parallelism(parallelism).build()?.job);
            }
        }
        Ok(Jobs { by_parallelism: Rc::new(jobs), parallelism: Rc::new(Cell::new(own)) })
    }

    fn current(&self) -> Job {
        self.by_parallelism.get(&self.parallelism.get()).expect("each parallelism of the plan has its job").clone()
    }

    fn all(&self) -> impl Iterator<Item = &Job> {
        self.by_parallelism.values()
    }
}

/// The program of a JobManager. How the job ended, by the first that knows, goes to `end`.
fn job_manager(jobs: &Jobs, cluster: &ClusterConfig, process: &str, end: &JobEnd) -> Entry {
    let config = JobManagerConfig { rpc_address: Address(format!("{process}/rpc")), cluster: cluster.clone() };
    let (jobs, end) = (jobs.clone(), end.clone());
    Rc::new(move |platform| {
        let (job, config, end) = (jobs.current(), config.clone(), end.clone());
        async move {
            let outcome = jobmanager::run(platform, job, config).await.map_err(|error| error.to_string());
            if let Ok(mut end) = end.lock() {
                end.get_or_insert(outcome);
            }
        }
        .boxed()
    })
}

/// Adds machines and processes of the plan to the world and starts them. The job's end appears in what is given back.
pub fn start_cluster(world: &World, plan: &Plan, jobs: &Jobs) -> JobEnd {
    let end: JobEnd = Arc::default();
    let cluster = cluster_config(plan);
    let rpc = Address(format!("{JOB_MANAGER}/rpc"));
    let contends = |fault: &FaultSpec| matches!(fault.fault, FaultKind::SecondJobManager { .. });
    if plan.faults.iter().any(contends) {
        // Started, perhaps, by the nemesis.
        let machine = machine_of(SECOND_JOB_MANAGER);
        world.add_machine(&machine);
        let entry = job_manager(jobs, &cluster, SECOND_JOB_MANAGER, &end);
        world.add_process(SECOND_JOB_MANAGER, &machine, entry);
    }
    for process in plan.cluster.process_names() {
        let machine = machine_of(&process);
        world.add_machine(&machine);
        if process == JOB_MANAGER {
            world.add_process(&process, &machine, job_manager(jobs, &cluster, &process, &end));
        } else {
            let config = TaskManagerConfig {
                job_manager: rpc.clone(),
                data_address: Address(format!("{process}/data")),
                slots: plan.cluster.slots,
                cluster: cluster.clone(),
            };
            let jobs = jobs.clone();
            let entry = move |platform| {
                let (job, config) = (jobs.current(), config.clone());
                async move {
                    // Returns only if it cannot run; to the cluster that is a dead process like any other.
                    let _ = taskmanager::run(platform, job, config).await;
                }
                .boxed()
            };
            world.add_process(&process, &machine, Rc::new(entry));
        }
        // Who joins late is started by the nemesis.
        let late = |fault: &FaultSpec| matches!(fault.fault, FaultKind::JoinLate { .. }) && fault.target == process;
        if !plan.faults.iter().any(late) {
            world.start(&process);
        }
    }
    end
}

fn suite(plan: &Plan, workload: Workload, jobs: &Jobs) -> InvariantSuite {
    let s = &plan.settings;
    let mut config = SuiteConfig::for_job(&workload.job, Rc::new(RuntimeFormats), workload.oracle);
    // A vertex has its place in the graph at every parallelism.
    for Job { graph, .. } in jobs.all() {
        config.subtasks.extend(graph.subtasks().map(|id| (graph.subtask_name(id), id.into())));
    }
    config.local_recovery = s.local_recovery;
    config.fallback = match s.fallback_behind_commit {
        FallbackBehindCommit::Replay => FallbackPolicy::Replay,
        FallbackBehindCommit::Fail => FallbackPolicy::Fail,
        FallbackBehindCommit::Duplicate => FallbackPolicy::Duplicate,
    };
    config.timing = Timing {
        interval: ms(s.checkpoint_interval_ms),
        min_pause: ms(s.min_pause_ms),
        timeout: ms(s.checkpoint_timeout_ms),
        max_concurrent: s.max_concurrent,
        ..config.timing
    };
    config.channel_window_bytes = s.channel_window_bytes.into();
    config.buffer_bytes = s.buffer_bytes.into();
    config.liveness_bound = ms(plan.time_limit_ms - plan.healed_by_ms);
    InvariantSuite::new(config)
}

async fn in_world(world: World, plan: Plan, params: WorkloadParams, observer: Box<dyn Observer + Send>) -> RunRecord {
    let built = params.build().and_then(|workload| Ok((Jobs::of(&plan, &params, &workload.job)?, workload)));
    let (jobs, workload) = built.expect("it was built a moment ago");
    for (path, bytes) in &workload.inputs {
        world.inputs().put(path, bytes.clone());
    }
    let suite = Rc::new(RefCell::new(suite(&plan, workload, &jobs)));
    let told = suite.clone();
    let verbs = WorldVerbs::new(
        world.clone(),
        Rc::new(move |world, notice| told.borrow_mut().on_fault(&WorldTruth(world), notice)),
        jobs.parallelism.clone(),
    );
    let nemesis = Nemesis::new(&plan, Rc::new(verbs));
    let watch = Rc::new(RefCell::new(Watch { recorder: Recorder::new(&plan), observer, broken_at: None }));

    let (judge, hand, eyes) = (suite.clone(), nemesis.clone(), watch.clone());
    world.set_listener(Rc::new(move |world, stamped| {
        let at = stamped.at.elapsed();
        let story = Story {
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            sequence: stamped.sequence,
            process: &stamped.process,
            incarnation: stamped.incarnation,
            event: &stamped.event,
        };
        {
            let mut eyes = eyes.borrow_mut();
            let eyes = &mut *eyes;
            eyes.recorder.on_event(&story, hand.phase());
            eyes.observer.event(&story);
        }
        let seen = Seen { at, process: &stamped.process, incarnation: stamped.incarnation, event: &stamped.event };
        judge.borrow_mut().on_event(&WorldTruth(world), seen);
        if !judge.borrow().violations().is_empty() {
            eyes.borrow_mut().broken_at.get_or_insert(stamped.sequence);
        }
        // Last: it may kill the very process that emits.
        hand.on_event(&stamped.process, &stamped.event);
    }));
    let judge = suite.clone();
    world.store().subscribe(Rc::new(move |world, effect| {
        let kind = match effect.effect {
            Effect::Created => invariants::EffectKind::Created,
            Effect::Deleted => invariants::EffectKind::Deleted,
            Effect::Misread => {
                let name = effect.name.as_str().to_string();
                return judge.borrow_mut().on_fault(&WorldTruth(world), &invariants::FaultNotice::Misread { name });
            }
            Effect::Refused | Effect::NothingToDelete | Effect::Lost | Effect::Corrupted | Effect::Faded => return,
        };
        let effect = invariants::Effect {
            at: effect.at.elapsed(),
            kind,
            object: effect.name.as_str(),
            process: &effect.process,
            incarnation: effect.incarnation,
        };
        judge.borrow_mut().on_store_effect(&WorldTruth(world), effect);
    }));

    nemesis.start();
    let end = start_cluster(&world, &plan, &jobs);
    let limit = ms(plan.time_limit_ms);
    let outcome = loop {
        let outcome = end.lock().map_or(None, |end| end.clone());
        if outcome.is_some() || world.now().elapsed() >= limit || !suite.borrow().violations().is_empty() {
            break outcome;
        }
        world.sleep(LOOK).await;
    };
    let mut swept = false;
    if outcome.is_some() {
        world.sleep(AFTERMATH).await;
        if suite.borrow().violations().is_empty() {
            swept = sweep_in_quiet(&world, &plan).await;
        }
    }
    let outcome = outcome.map(|outcome| match outcome {
        Ok(JobOutcome::Finished) => Ok(()),
        Ok(JobOutcome::Failed { reason }) => Err(reason),
        Err(error) => Err(error),
    });
    let found = suite.borrow().violations().to_vec();
    let violations = if found.is_empty() || outcome.is_some() {
        suite.borrow_mut().at_end(&WorldTruth(&world), &End { outcome: outcome.clone(), swept })
    } else {
        // The run was cut short by what was found: that the job did not end says nothing.
        found
    };
    let excuse = match outcome {
        // No invariant objected to the failure: it was proved to be the plan's doing.
        Some(Err(reason)) => Some(reason),
        _ => None,
    };
    let run_end = RunEnd {
        broken_at: watch.borrow().broken_at,
        simulated_ms: u64::try_from(world.now().elapsed().as_millis()).unwrap_or(u64::MAX),
        trace: TraceHash::default(),
        violations,
        excuse,
        points: world.points().into_iter().map(|(point, count)| (point.name().to_string(), count)).collect(),
    };
    let recorder = std::mem::take(&mut watch.borrow_mut().recorder);
    recorder.finish(&plan, run_end, &nemesis)
}

/// After the end of the job: all faults heal, every process dies, what they had sent to the store lands. Then one leader starts
/// over, finds that the job has ended, and sweeps what nobody refers to. Says whether it did.
async fn sweep_in_quiet(world: &World, plan: &Plan) -> bool {
    world.sleep(ms(plan.healed_by_ms).saturating_sub(world.now().elapsed())).await;
    for process in plan.cluster.process_names() {
        world.crash(&process);
    }
    world.heal_network();
    world.sleep(LATE_REQUESTS).await;
    world.restart(JOB_MANAGER);
    let until = world.now() + SWEEP;
    while world.now() < until {
        if world.status(JOB_MANAGER) == ProcessStatus::Exited {
            return true;
        }
        world.sleep(LOOK).await;
    }
    false
}

/// The plan's workload, known to make a job.
///
/// # Errors
/// [`RunError`] if it makes none.
pub fn workload_of(plan: &Plan) -> Result<WorkloadParams, RunError> {
    let unusable = |reason: String| RunError::Unusable { name: plan.workload.name.clone(), reason };
    let mut parameters = plan.workload.clone();
    parameters.parameters.remove(crate::record::CANARY_AT);
    let params = WorkloadParams::of_plan(&parameters, plan.seed).map_err(unusable)?;
    let workload = params.build().map_err(|error| unusable(error.to_string()))?;
    Jobs::of(plan, &params, &workload.job).map_err(|error| unusable(error.to_string()))?;
    Ok(params)
}

/// Runs the plan.
///
/// # Errors
/// [`RunError`] if the plan's workload makes no job.
pub fn run(plan: &Plan, observer: Box<dyn Observer + Send>) -> Result<RunRecord, RunError> {
    // Built there once to report what is wrong; the world builds its own, on its own thread.
    let params = workload_of(plan)?;
    let own = plan.clone();
    let outcome = sim::run(world_config(plan), move |world| in_world(world, own, params, observer).boxed_local());
    let mut record = match outcome.value {
        Ok(record) => record,
        Err(failure) => {
            let mut record = crash_record(plan, &failure.message);
            if failure.kind == FailureKind::TimeLimit {
                record.verdict = Verdict::Violation;
                record.invariant = Some("liveness".to_string());
                record.signature = Some("liveness/stalled/world".to_string());
            }
            record.timings.simulated_ms = u64::try_from(outcome.end.elapsed().as_millis()).unwrap_or(u64::MAX);
            record.counters.events = outcome.events;
            record
        }
    };
    record.trace = TraceHash {
        segments: outcome.trace.segments.iter().map(|hash| format!("{hash:016x}")).collect(),
        last: format!("{:016x}", outcome.trace.final_hash),
    };
    Ok(record)
}
