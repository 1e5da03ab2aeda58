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
        client,
        config::{CheckpointConfig, ClusterConfig},
        elasticity::{ElasticityConfig, SchedulerMode},
        jobmanager::{self, JobManagerConfig, JobOutcome},
        rpc::{ClientRequest, ClientResponse},
        taskmanager::{self, TaskManagerConfig},
    },
    dataflow::task::TaskSettings,
    graph::Job,
    ids::JobId,
    platform::{Address, ObjectName},
    recovery::{import::SavepointRestore, local_shelf::CopyFormat},
    sabotage::SabotageSet,
    state::{BackendKind, BackendSettings, RocksDbSettings, TimersPlace, rocksdb_options::host::DatabaseHost},
};
use sim::{
    DiskConfig, Effect, Entry, FailureKind, Modelled, NetworkConfig, ProcessStatus, StoreConfig, World, WorldConfig,
};

use crate::{
    invariants::{self, End, FallbackPolicy, InvariantSuite, RuntimeFormats, Seen, SuiteConfig, Timing},
    nemesis::{Nemesis, Resume},
    plan::{
        FallbackBehindCommit, FaultKind, FaultSpec, Plan, Span,
        model::{CLIENT, JOB_MANAGER, SECOND_JOB_MANAGER, machine_of},
    },
    record::{Observer, Recorder, RunEnd, Story},
    run::RunError,
    worker::crash_record,
    workloads::{Workload, WorkloadParams},
    world_verbs::{Wishes, WorldTruth, WorldVerbs},
};

/// After the job has ended, so much longer is watched for effects of zombies.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How often the end of the job is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// So long after the death of their process requests to the store may still land.
const LATE_REQUESTS: Duration = Duration::from_millis(1_500);
/// Below this savepoints lie.
pub const SAVEPOINTS: &str = "savepoints";
/// So often somebody asks for a savepoint who gets none, and so long he waits in between.
const CLIENT_ATTEMPTS: u32 = 4;
const CLIENT_PAUSE: Duration = Duration::from_millis(400);
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

fn modelled(plan: &Plan, names: &[&str], but_not: &[&str]) -> Option<Modelled> {
    let all = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
    plan.modelled.map(|state| Modelled { times: state.times, names: all(names), but_not: all(but_not) })
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
            // Parts of local copies, and the files of databases; the manifests of copies stay as they are.
            modelled: modelled(plan, &["/chk_", "native"], &["/_manifest"]),
        },
        store: StoreConfig {
            latency: range(plan.store.latency),
            bytes_per_second: plan.store.bytes_per_second,
            link_bytes_per_second: plan.modelled.map_or(0, |modelled| modelled.link_bytes_per_second),
            // The names of state parts have a subtask in them.
            modelled: modelled(plan, &["]-"], &[]),
        },
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
        restart_attempts: s.restart_attempts,
        cancellation_timeout: ms(10_000),
        slot_request_timeout: ms(plan.time_limit_ms),
        checkpoint: CheckpointConfig {
            interval: ms(s.checkpoint_interval_ms),
            min_pause: ms(s.min_pause_ms),
            timeout: ms(s.checkpoint_timeout_ms),
            max_concurrent: s.max_concurrent,
            retained: s.retained,
            tolerable_failures: s.tolerable_failures,
            ..CheckpointConfig::default()
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
            local_recovery: s.local_recovery,
            local_roots: s.local_roots,
            local_copies: match s.local_memory_bytes {
                0 => CopyFormat::Files,
                limit_bytes => CopyFormat::Memory { limit_bytes },
            },
            store_operation_timeout: ms(s.store_operation_timeout_ms),
            store_total_timeout: ms(s.store_total_timeout_ms),
            transfer_piece_bytes: match s.transfer_piece_bytes {
                0 => TaskSettings::default().transfer_piece_bytes,
                bytes => bytes,
            },
            connect_timeout: ms(s.connect_timeout_ms),
            source_batch_records: s.source_batch_records,
            watermark_interval: TaskSettings::default().watermark_interval,
            frame_bytes: TaskSettings::default().frame_bytes,
            backend: BackendSettings {
                kind: s.backend,
                incremental: s.incremental,
                small_state_threshold: s.small_state_threshold_bytes,
                compression: s.compression,
                parts_per_snapshot: s.parts_per_snapshot,
                timers: if s.timers_in_rocksdb { TimersPlace::RocksDb } else { TimersPlace::Heap },
                // Compaction at its own times would differ from run to run. Little state needs little memory; and so little in
                // front of the databases that entries come and go.
                rocksdb: RocksDbSettings {
                    auto_compaction: false,
                    ttl_compaction_filter: s.ttl_compaction_filter,
                    host: DatabaseHost { fleeting: true, ..DatabaseHost::default() },
                    write_buffer_bytes: 1 << 20,
                    recent_bytes: Some(4 << 10),
                    ..RocksDbSettings::default()
                },
                ..BackendSettings::default()
            },
            sabotage: SabotageSet(plan.sabotage.iter().copied().collect()),
        },
        evenly_spread_out_slots: s.spread_out_slots,
        elasticity: ElasticityConfig {
            mode: if s.reactive { SchedulerMode::Reactive } else { SchedulerMode::Default },
            resource_wait_timeout: None,
            resource_stabilization_timeout: ms(s.stabilization_ms),
            cooldown_after_rescaling: ms(s.cooldown_ms),
            executing_stabilization_timeout: ms(s.stabilization_ms),
            min_parallelism_increase: 1,
        },
        ..ClusterConfig::default()
    }
}

/// A parallelism, and whether it is the next version of the job.
type Shape = (u32, bool);

/// The job of a plan, at each parallelism that it ever has, in each version.
#[derive(Clone)]
pub struct Jobs {
    by_shape: Rc<BTreeMap<Shape, Job>>,
    /// What a process that starts now is started with.
    pub parallelism: Rc<Cell<u32>>,
    next_version: Rc<Cell<bool>>,
    backend: Rc<Cell<BackendKind>>,
    /// What the job begins with. None: it is the first.
    savepoint: Rc<RefCell<Option<String>>>,
    /// Jobs that ended with a savepoint.
    before: Rc<Cell<u32>>,
    pub wishes: Rc<Wishes>,
}

impl Jobs {
    /// # Errors
    /// If the workload makes no job at one of them.
    pub fn of(plan: &Plan, params: &WorkloadParams, first: &Job) -> Result<Jobs, JobError> {
        let own = plan.workload.parallelism;
        let mut jobs = BTreeMap::from([((own, false), first.clone())]);
        if plan.settings.reactive {
            // The runtime scales it itself; what subtasks it may have must be known.
            for parallelism in 1..=plan.cluster.task_managers * plan.cluster.slots {
                let scaled = first.at_parallelism(parallelism).map_err(JobError::Parameters)?;
                jobs.entry((parallelism, false)).or_insert(scaled);
            }
        }
        for fault in &plan.faults {
            if let FaultKind::Rescale { parallelism, .. } | FaultKind::StopAndResume { parallelism, .. } = fault.fault
                && !jobs.contains_key(&(parallelism, false))
            {
                jobs.insert((parallelism, false), params.at_parallelism(parallelism).build()?.job);
            }
        }
        if plan.faults.iter().any(|fault| matches!(fault.fault, FaultKind::StopAndResume { next_version: true, .. })) {
            for (parallelism, _) in jobs.keys().copied().collect::<Vec<_>>() {
                let next = params.at_parallelism(parallelism).next_version().build()?.job;
                jobs.insert((parallelism, true), next);
            }
        }
        Ok(Jobs {
            by_shape: Rc::new(jobs),
            parallelism: Rc::new(Cell::new(own)),
            next_version: Rc::default(),
            backend: Rc::new(Cell::new(plan.settings.backend)),
            savepoint: Rc::default(),
            before: Rc::default(),
            wishes: Rc::default(),
        })
    }

    /// A job that begins with a savepoint is another job, with an id of its own.
    fn current(&self) -> Job {
        let job = self.by_shape.get(&(self.parallelism.get(), self.next_version.get()));
        let mut job = job.expect("each parallelism and version of the plan has its job").clone();
        job.id = JobId(job.id.0.wrapping_add(u128::from(self.before.get())));
        job
    }

    fn settings(&self, cluster: &ClusterConfig) -> ClusterConfig {
        let mut cluster = cluster.clone();
        cluster.task.backend.kind = self.backend.get();
        cluster
    }

    fn savepoint_to_restore(&self) -> Option<SavepointRestore> {
        let path = self.savepoint.borrow().clone()?;
        Some(SavepointRestore { path, allow_non_restored_state: false })
    }

    /// The job has ended with this savepoint; the next one begins with it.
    fn resume(&self, savepoint: &ObjectName, resume: Resume) -> JobId {
        self.before.set(self.before.get() + 1);
        self.parallelism.set(resume.parallelism);
        // Nobody goes back to an older version.
        self.next_version.set(self.next_version.get() || resume.next_version);
        if let Some(backend) = resume.backend {
            self.backend.set(backend);
        }
        *self.savepoint.borrow_mut() = Some(savepoint.to_string());
        self.current().id
    }

    fn all(&self) -> impl Iterator<Item = &Job> {
        self.by_shape.values()
    }
}

/// The program of a JobManager. How the job ended, by the first that knows, goes to `end`.
fn job_manager(jobs: &Jobs, cluster: &ClusterConfig, process: &str, end: &JobEnd) -> Entry {
    let (jobs, end, cluster, rpc_address) =
        (jobs.clone(), end.clone(), cluster.clone(), Address(format!("{process}/rpc")));
    Rc::new(move |platform| {
        let (job, end) = (jobs.current(), end.clone());
        let config = JobManagerConfig {
            rpc_address: rpc_address.clone(),
            cluster: jobs.settings(&cluster),
            from_savepoint: jobs.savepoint_to_restore(),
        };
        async move {
            let outcome = jobmanager::run(platform, job, config).await.map_err(|error| error.to_string());
            if let Ok(mut end) = end.lock() {
                end.get_or_insert(outcome);
            }
        }
        .boxed()
    })
}

/// The program of somebody who asks for a savepoint, until he is answered. What became of it the savepoints themselves say.
fn client(jobs: &Jobs) -> Entry {
    let jobs = jobs.clone();
    Rc::new(move |platform| {
        let stop = jobs.wishes.stop.get();
        async move {
            for _ in 0..CLIENT_ATTEMPTS {
                let request = ClientRequest::Savepoint { job: None, target: Some(SAVEPOINTS.to_string()), stop };
                let address = Address(format!("{JOB_MANAGER}/rpc"));
                match client::ask(&platform, &address, request, ms(1_000)).await {
                    Ok(ClientResponse::Savepoint(Ok(_))) => return,
                    // It may be taken all the same; who asks again may get two.
                    Ok(ClientResponse::Savepoint(Err(_))) | Err(_) => platform.clock.sleep(CLIENT_PAUSE).await,
                }
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
    if plan.faults.iter().any(|fault| fault.class().is_of_the_owner()) {
        // Started by the nemesis.
        let machine = machine_of(CLIENT);
        world.add_machine(&machine);
        world.add_process(CLIENT, &machine, client(jobs));
    }
    for process in plan.cluster.process_names() {
        let machine = machine_of(&process);
        world.add_machine(&machine);
        if process == JOB_MANAGER {
            world.add_process(&process, &machine, job_manager(jobs, &cluster, &process, &end));
        } else {
            let (jobs, rpc, cluster, slots) = (jobs.clone(), rpc.clone(), cluster.clone(), plan.cluster.slots);
            let data_address = Address(format!("{process}/data"));
            let entry = move |platform| {
                let job = jobs.current();
                let config = TaskManagerConfig {
                    job_manager: rpc.clone(),
                    data_address: data_address.clone(),
                    slots,
                    cluster: jobs.settings(&cluster),
                };
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
    config.local_in_memory = s.local_memory_bytes > 0;
    config.restart_limit = s.restart_attempts;
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
        jobs.wishes.clone(),
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
            Effect::Read => invariants::EffectKind::Read,
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
        if let Some(Ok(JobOutcome::Stopped { savepoint })) = &outcome
            && suite.borrow().violations().is_empty()
            && let Some(resume) = jobs.wishes.resume.take()
        {
            // Nothing of the old job runs on, and the new one has another id. Nor does anybody go on asking for what has come
            // to pass: a request on its way would stop the new job, and nobody would resume that.
            world.crash(CLIENT);
            nemesis.resume_everything(resume.restart_after_ms);
            suite.borrow_mut().resumed(jobs.resume(savepoint, resume));
            if let Ok(mut end) = end.lock() {
                *end = None;
            }
            continue;
        }
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
        Ok(JobOutcome::Stopped { savepoint }) => Err(format!("it was stopped with {savepoint} and not resumed")),
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
        judged_databases: suite.borrow().judged_databases(),
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
