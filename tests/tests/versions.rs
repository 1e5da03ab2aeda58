//! A job that its author changes: stopped with a savepoint, and gone on with by another version, with other operators, or the same in another
//! order. And a savepoint that somebody takes away from the job that needs it. All in the simulated world, with real versions of a real job.
#![allow(
    clippy::disallowed_types,
    reason = "what versions of a job have put out is looked at outside of the simulation"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use runtime::{
    api::{GeneratorSource, JobBuilder, KeyedProcess},
    checkpoint::types::PartKind,
    cluster::{
        client,
        config::ClusterConfig,
        jobmanager::{self, JobManagerConfig, JobOutcome},
        rpc::{ClientRequest, ClientResponse},
        taskmanager::{self, TaskManagerConfig},
    },
    graph::Job,
    ids::JobId,
    journal::Event,
    platform::{Address, ObjectName},
    recovery::{choice::FallbackBehindCommit, import::SavepointRestore},
    state::{BackendKind, KeyedContext, OpenContext, UserError, ValueState},
};
use scenarios::{
    cluster_runner::{cluster_config, world_config},
    invariants::{Formats, RuntimeFormats},
};
use serde::{Deserialize, Serialize};
use sim::World;
use weir_tests::{
    objects::{Objects, committed_lines, state_of},
    tales::calm,
};

const KEYS: u64 = 7;
const SPLITS: u32 = 2;
/// Of each split.
const RECORDS: u64 = 300;

/// What a number has been told on its way, by operator: how many numbers of its key came by there, and whether the operator says that
/// it was restored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Traveller {
    number: u64,
    told: BTreeMap<String, (u64, bool)>,
}

struct Count {
    name: String,
    count: ValueState<u64>,
    restored: bool,
    /// Output that is committed must come again when it is replayed; whether it was restored is not what a job should tell then.
    is_quiet: bool,
}

impl KeyedProcess for Count {
    type Key = u64;
    type In = Traveller;
    type Out = Traveller;

    fn open(&mut self, ctx: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.restored = ctx.is_restored() && !self.is_quiet;
        self.count = ctx.value_state("count")?;
        Ok(())
    }

    fn process(
        &mut self,
        mut record: Traveller,
        ctx: &mut KeyedContext<'_, u64>,
        out: &mut Vec<Traveller>,
    ) -> Result<(), UserError> {
        let count = self.count.get_or_default_mut(ctx)?;
        *count += 1;
        record.told.insert(self.name.clone(), (*count, self.restored));
        out.push(record);
        Ok(())
    }
}

/// A version of the job: these operators, in this order.
fn job(version: u128, operators: &[&str]) -> Job {
    job_that_tells(version, operators, true)
}

fn job_that_tells(version: u128, operators: &[&str], restored: bool) -> Job {
    let source = GeneratorSource::new("numbers", SPLITS, |split, offset| {
        let number = u64::from(split) * RECORDS + offset;
        (offset < RECORDS).then(|| Traveller { number, told: BTreeMap::new() })
    });
    let builder = JobBuilder::new("versions").parallelism(2);
    let mut stream = builder.source("numbers", source.records_per_second(50.0));
    for name in operators {
        let make = {
            let name = (*name).to_string();
            move || Count { name: name.clone(), count: ValueState::default(), restored: false, is_quiet: !restored }
        };
        stream = stream.key_by(|record: &Traveller| record.number % KEYS).process(*name, make);
    }
    stream.sink("out", |record, line| line.extend_from_slice(&serde_json::to_vec(record).expect("plain")));
    let mut job = builder.build().expect("a job");
    job.id = JobId(version);
    job
}

type JobEnd = Arc<Mutex<Option<Result<JobOutcome, String>>>>;

/// Processes of one version, on machines of their own.
struct Version {
    world: World,
    name: String,
    end: JobEnd,
}

impl Version {
    fn start(world: &World, job: &Job, cluster: &ClusterConfig, from_savepoint: Option<SavepointRestore>) -> Version {
        let name = format!("v{}", job.id.0);
        let end = JobEnd::default();
        let rpc = Address(format!("{name}-jm/rpc"));
        let process = |process: String, entry: sim::Entry| {
            world.add_machine(&format!("of-{process}"));
            world.add_process(&process, &format!("of-{process}"), entry);
            world.start(&process);
        };
        let (told, of_job, of_cluster, of_rpc) = (end.clone(), job.clone(), cluster.clone(), rpc.clone());
        let job_manager = move |platform| {
            let (cluster, rpc_address) = (of_cluster.clone(), of_rpc.clone());
            let config = JobManagerConfig { rpc_address, cluster, from_savepoint: from_savepoint.clone() };
            let (job, told) = (of_job.clone(), told.clone());
            async move {
                let outcome = jobmanager::run(platform, job, config).await.map_err(|error| error.to_string());
                told.lock().expect("nobody panics with it").get_or_insert(outcome);
            }
            .boxed()
        };
        process(format!("{name}-jm"), Rc::new(job_manager));
        for number in 1..=2 {
            let (job, cluster, job_manager) = (job.clone(), cluster.clone(), rpc.clone());
            let data_address = Address(format!("{name}-tm-{number}/data"));
            let task_manager = move |platform| {
                let (job_manager, data_address) = (job_manager.clone(), data_address.clone());
                let config = TaskManagerConfig { job_manager, data_address, slots: 1, cluster: cluster.clone() };
                let job = job.clone();
                // Returns only if it cannot run.
                async move { drop(taskmanager::run(platform, job, config).await) }.boxed()
            };
            process(format!("{name}-tm-{number}"), Rc::new(task_manager));
        }
        Version { world: world.clone(), name, end }
    }

    /// Somebody asks for a savepoint, and is told its path.
    async fn savepoint(&self, stop: bool) -> String {
        let answer: Arc<Mutex<Option<ClientResponse>>> = Arc::default();
        let (told, address) = (answer.clone(), Address(format!("{}-jm/rpc", self.name)));
        let entry = move |platform| {
            let (told, address) = (told.clone(), address.clone());
            async move {
                let request = ClientRequest::Savepoint { job: None, target: Some("savepoints".to_string()), stop };
                let response = client::ask(&platform, &address, request, Duration::from_secs(1)).await;
                *told.lock().expect("nobody panics with it") = Some(response.expect("it is answered"));
            }
            .boxed()
        };
        let client = format!("{}-client", self.name);
        self.world.add_machine(&client);
        self.world.add_process(&client, &client, Rc::new(entry));
        self.world.start(&client);
        loop {
            if let Some(ClientResponse::Savepoint(path)) = answer.lock().expect("nobody panics with it").take() {
                return path.expect("a savepoint");
            }
            self.world.sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(&self) -> Result<JobOutcome, String> {
        loop {
            if let Some(end) = self.end.lock().expect("nobody panics with it").take() {
                return end;
            }
            self.world.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs for a while and is stopped with a savepoint.
    async fn stopped_after(&self, seconds: u64) -> String {
        self.world.sleep(Duration::from_secs(seconds)).await;
        let path = self.savepoint(true).await;
        assert!(matches!(self.end().await, Ok(JobOutcome::Stopped { .. })));
        path
    }

    async fn finished(&self) {
        assert_eq!(self.end().await, Ok(JobOutcome::Finished));
    }
}

fn objects_of(world: &World) -> Objects {
    let store = world.store();
    let content = |name| store.peek(name).expect("it was listed");
    store.list("").iter().map(|meta| (meta.name.to_string(), content(&meta.name))).collect()
}

/// Every number was put out once; gives what they were told.
fn all_once(objects: &Objects) -> Vec<Traveller> {
    let lines = committed_lines(objects).remove("out").unwrap_or_default();
    let told: Vec<Traveller> = lines.iter().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let numbers: BTreeSet<u64> = told.iter().map(|traveller| traveller.number).collect();
    assert_eq!((numbers.len(), told.len()), (told.len(), (RECORDS * u64::from(SPLITS)) as usize), "each number once");
    told
}

/// Those that an operator saw were counted by key from 1 without a gap.
fn assert_counted_from_one(told: &[&Traveller], operator: &str) {
    let mut counts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for traveller in told {
        counts.entry(traveller.number % KEYS).or_default().push(traveller.told[operator].0);
    }
    for (key, mut counts) in counts {
        counts.sort_unstable();
        let expected: Vec<u64> = (1..=counts.len() as u64).collect();
        assert_eq!(counts, expected, "{operator}, key {key}");
    }
}

fn in_world<T: Send + 'static, F: Future<Output = T> + 'static>(
    seed: u64,
    story: impl FnOnce(World) -> F + Send + 'static,
) -> T {
    let mut plan = calm();
    (plan.seed, plan.time_limit_ms) = (seed, 600_000);
    sim::run(world_config(&plan), move |world| Box::pin(story(world))).value.expect("the world ended well")
}

/// On heap and database in turn.
fn cluster(seed: u64) -> ClusterConfig {
    let mut plan = calm();
    if seed.is_multiple_of(2) {
        (plan.settings.backend, plan.settings.incremental) = (BackendKind::RocksDb, true);
    }
    cluster_config(&plan)
}

fn from(path: &str, allow_non_restored_state: bool) -> Option<SavepointRestore> {
    Some(SavepointRestore { path: path.to_string(), allow_non_restored_state })
}

/// A shuffled copy.
fn shuffled<'a>(operators: &[&'a str], seed: u64) -> Vec<&'a str> {
    let mut left = operators.to_vec();
    let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::new();
    while !left.is_empty() {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push(left.remove((number >> 33) as usize % left.len()));
    }
    out
}

/// R29, R64, R67: a version with its operators in another order, and with new ones among them: each operator that was there goes on with its own
/// state, wherever it is now; a new one begins without, and is told so.
#[test]
fn reordered_operators_keep_their_state_and_new_ones_begin_without() {
    for seed in 1..=6 {
        let old = shuffled(&["a", "b", "c"], seed);
        let (added, all): (&[&str], &[&str]) = match seed % 3 {
            0 => (&[], &["a", "b", "c"]),
            1 => (&["x"], &["a", "b", "c", "x"]),
            _ => (&["x", "y"], &["a", "b", "c", "x", "y"]),
        };
        let new = shuffled(all, seed + 100);
        let (first, second) = (job(1, &old), job(2, &new));
        let objects = in_world(seed, move |world| async move {
            let cluster = cluster(seed);
            let savepoint = Version::start(&world, &first, &cluster, None).stopped_after(2).await;
            Version::start(&world, &second, &cluster, from(&savepoint, false)).finished().await;
            objects_of(&world)
        });
        let told = all_once(&objects);
        let of_second: Vec<&Traveller> = told.iter().filter(|t| t.told["a"].1).collect();
        assert!(of_second.len() > 100 && of_second.len() + 50 < told.len(), "{} of {}", of_second.len(), told.len());
        let what = format!("seed {seed}: {old:?}, then {new:?}");
        for operator in &old {
            assert_counted_from_one(&told.iter().collect::<Vec<_>>(), operator);
            assert!(of_second.iter().all(|t| t.told[*operator].1), "{what}: {operator} is restored");
        }
        for operator in added {
            assert_counted_from_one(&of_second, operator);
            assert!(of_second.iter().all(|t| !t.told[*operator].1), "{what}: {operator} is not restored");
        }
    }
}

/// R13, R33: checkpoints are incremental and share files of the databases; a savepoint of the same job is whole, in no database's format. All
/// that the checkpoints ever wrote is deleted, and the next job begins with the savepoint all the same: nothing is lost or doubled.
#[test]
fn a_savepoint_needs_nothing_of_incremental_checkpoints() {
    let (at_work, path, objects) = in_world(6, |world| async move {
        let cluster = cluster(6);
        let version = Version::start(&world, &job(1, &["a", "b"]), &cluster, None);
        world.sleep(Duration::from_secs(3)).await;
        let at_work = objects_of(&world);
        let path = version.stopped_after(0).await;
        let store = world.store();
        for meta in store.list("checkpoints/") {
            assert!(store.lose(&meta.name), "{}", meta.name);
        }
        Version::start(&world, &job(2, &["a", "b"]), &cluster, from(&path, false)).finished().await;
        (at_work, path, objects_of(&world))
    });
    let kinds = |objects: &Objects, metadata: &str| -> Vec<PartKind> {
        let snapshots = RuntimeFormats.metadata(&objects[metadata]).expect("it decodes");
        snapshots.values().flat_map(|snapshot| &snapshot.parts).map(|part| part.kind.clone()).collect()
    };
    let is_of_checkpoint = |name: &&String| name.starts_with("checkpoints/") && name.ends_with("/_metadata");
    let checkpoints: Vec<&String> = at_work.keys().filter(is_of_checkpoint).collect();
    assert!(checkpoints.len() > 1 && at_work.keys().any(|name| name.contains("/shared/")), "{checkpoints:?}");
    for metadata in checkpoints {
        let kinds = kinds(&at_work, metadata);
        let tables = kinds.iter().filter(|kind| matches!(kind, PartKind::Shared { .. })).count();
        assert!(tables > 0 && !kinds.contains(&PartKind::Keyed), "{metadata}: {kinds:?}");
    }
    let of_savepoint = kinds(&objects, &format!("{path}/_metadata"));
    assert!(!of_savepoint.is_empty(), "there is state");
    assert!(of_savepoint.iter().all(|kind| *kind == PartKind::Keyed), "{of_savepoint:?}");
    let told = all_once(&objects);
    ["a", "b"].iter().for_each(|of| assert_counted_from_one(&told.iter().collect::<Vec<_>>(), of));
    let restored = told.iter().filter(|traveller| traveller.told["a"].1).count();
    assert!(restored > 50 && told.len() - restored > 50, "{restored} of {} were put out by the second job", told.len());
}

/// R66: an operator is taken out, and its state left behind, as was allowed. It is not in the next savepoint, and when the operator
/// comes back it begins without; unless the job begins with the old savepoint again.
#[test]
fn state_that_was_left_behind_does_not_come_back() {
    for seed in 1..=2 {
        let (first, without, again, old) =
            (job(1, &["a", "b"]), job(2, &["a"]), job(3, &["b", "a"]), job(4, &["b", "a"]));
        let (objects, late) = in_world(seed, move |world| async move {
            let cluster = cluster(seed);
            let with_b = Version::start(&world, &first, &cluster, None).stopped_after(2).await;
            // Without leave it is refused.
            let refused = Version::start(&world, &job(9, &["a"]), &cluster, from(&with_b, false)).end().await;
            let refused = format!("{refused:?}");
            assert!(refused.contains('b') && refused.contains("allowNonRestoredState"), "{refused}");
            let without_b = Version::start(&world, &without, &cluster, from(&with_b, true)).stopped_after(2).await;
            Version::start(&world, &again, &cluster, from(&without_b, false)).finished().await;
            let objects = objects_of(&world);
            for (path, has_b) in [(&with_b, true), (&without_b, false)] {
                let metadata = format!("{path}/_metadata");
                let state = state_of(&objects, &metadata);
                assert_eq!(state.iter().any(|(operator, ..)| operator == "b"), has_b, "{path}");
                assert!(state.iter().any(|(operator, ..)| operator == "a"), "{path}");
            }
            // With the output as it was then.
            for meta in world.store().list("output/") {
                world.store().lose(&meta.name);
            }
            Version::start(&world, &old, &cluster, from(&with_b, false)).finished().await;
            (objects, committed_lines(&objects_of(&world)))
        });
        let told = all_once(&objects);
        assert_counted_from_one(&told.iter().collect::<Vec<_>>(), "a");
        let first: Vec<&Traveller> = told.iter().filter(|t| t.told.contains_key("b") && !t.told["a"].1).collect();
        let third: Vec<&Traveller> = told.iter().filter(|t| t.told.contains_key("b") && t.told["a"].1).collect();
        let lines = (first.len(), told.len() - first.len() - third.len(), third.len());
        assert!(lines.0 > 30 && lines.1 > 10 && lines.2 > 30, "lines of each version: {lines:?}");
        assert_counted_from_one(&first, "b");
        assert_counted_from_one(&third, "b");
        assert!(third.iter().all(|t| !t.told["b"].1));
        let late: Vec<Traveller> = late["out"].iter().map(|line| serde_json::from_str(line).expect("a line")).collect();
        assert!(
            late.len() > 50 && late.iter().all(|t| t.told["b"].1 && t.told["b"].0 > 1),
            "it goes on with its old state"
        );
        let both: Vec<&Traveller> = first.into_iter().chain(&late).collect();
        assert_counted_from_one(&both, "b");
    }
}

/// The retained checkpoints in the store, by their directories, oldest first.
fn checkpoints_in(world: &World) -> Vec<String> {
    let names = world.store().list("checkpoints/").into_iter().map(|meta| meta.name.to_string());
    let directories = names.filter_map(|name| Some(name.strip_suffix("/_metadata")?.to_string()));
    let number = |name: &String| name.rsplit_once("/chk-").and_then(|(_, number)| number.parse::<u64>().ok());
    let mut found: Vec<String> = directories.collect();
    found.sort_by_key(number);
    found
}

/// R5, R6: what a job has retained when it is stopped stays, and jobs that begin with it delete nothing of it. Of three incremental checkpoints
/// somebody deletes the oldest by its directory. The others need nothing in there: a job begins with each of them.
#[test]
fn retained_checkpoints_outlive_their_job_and_each_other() {
    for backend in [BackendKind::Filesystem, BackendKind::RocksDb] {
        let outputs = in_world(7, move |world| async move {
            let mut plan = calm();
            (plan.settings.backend, plan.settings.incremental) = (backend, true);
            let cluster = cluster_config(&plan);
            Version::start(&world, &job(1, &["a", "b"]), &cluster, None).stopped_after(4).await;
            let retained = checkpoints_in(&world);
            assert_eq!(retained.len(), 3, "{retained:?}");
            for meta in world.store().list(&format!("{}/", retained[0])) {
                assert!(world.store().lose(&meta.name), "{}", meta.name);
            }
            let is_of_checkpoint = |(name, _): &(String, Bytes)| name.starts_with("checkpoints/");
            let left: Vec<(String, Bytes)> = objects_of(&world).into_iter().filter(is_of_checkpoint).collect();
            let mut outputs = Vec::new();
            for (directory, version) in retained[1..].iter().zip(2..) {
                // With the output as it was before there was any.
                for meta in world.store().list("output/") {
                    assert!(world.store().lose(&meta.name));
                }
                let next = job(version, &["a", "b"]);
                Version::start(&world, &next, &cluster, from(directory, false)).finished().await;
                let objects = objects_of(&world);
                assert!(left.iter().all(|(name, bytes)| objects.get(name) == Some(bytes)), "it was deleted from");
                outputs.push(committed_lines(&objects).remove("out").unwrap_or_default());
            }
            outputs
        });
        assert_eq!(outputs.len(), 2);
        for lines in outputs {
            let told: Vec<Traveller> = lines.iter().map(|line| serde_json::from_str(line).expect("a line")).collect();
            assert!(told.len() > 100 && told.iter().all(|traveller| traveller.told["b"].1), "{} lines", told.len());
            let mut counted: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            for traveller in &told {
                counted.entry(traveller.number % KEYS).or_default().insert(traveller.told["b"].0);
            }
            // From where the checkpoint was to the end, for each key.
            let last: u64 = counted.values().filter_map(BTreeSet::last).sum();
            assert_eq!(last, RECORDS * u64::from(SPLITS), "{backend:?}");
            assert!(counted.values().all(|counts| counts.first() > Some(&1)), "{backend:?}: {counted:?}");
        }
    }
}

/// R5, R7: a job that fails for good leaves its checkpoints where they are. Another one begins with the newest and goes on with the output: nothing
/// is lost or doubled.
#[test]
fn the_checkpoints_of_a_job_that_failed_are_kept() {
    for seed in 1..=2 {
        let objects = in_world(seed, move |world| async move {
            let cluster = cluster(seed);
            let strict = ClusterConfig { restart_attempts: Some(0), ..cluster.clone() };
            let version = Version::start(&world, &job(1, &["a", "b"]), &strict, None);
            world.sleep(Duration::from_millis(3_250)).await;
            world.crash("v1-tm-1");
            let end = version.end().await;
            assert!(matches!(end, Ok(JobOutcome::Failed { .. })), "{end:?}");
            let newest = checkpoints_in(&world).pop().expect("a checkpoint is left");
            Version::start(&world, &job(2, &["a", "b"]), &cluster, from(&newest, false)).finished().await;
            objects_of(&world)
        });
        let told = all_once(&objects);
        ["a", "b"].iter().for_each(|of| assert_counted_from_one(&told.iter().collect::<Vec<_>>(), of));
        let restored = told.iter().filter(|traveller| traveller.told["a"].1).count();
        assert!(restored > 100 && told.len() - restored > 100, "{restored} of {} are the second job's", told.len());
    }
}

/// What becomes of the objects of a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Deleted,
    MovedAway,
}

/// How a job ended from which its newest savepoint was taken, what it told, and its path.
fn savepoint_taken_away(
    harm: Harm,
    later_checkpoint: bool,
    fallback: FallbackBehindCommit,
) -> (Result<JobOutcome, String>, Vec<Event>, String, Objects) {
    in_world(3, move |world| async move {
        let events: Rc<std::cell::RefCell<Vec<Event>>> = Rc::default();
        let told = events.clone();
        world.set_listener(Rc::new(move |_, stamped| told.borrow_mut().push(stamped.event.clone())));
        let cluster = ClusterConfig { fallback_behind_commit: fallback, ..cluster(1) };
        let version = Version::start(&world, &job_that_tells(1, &["a", "b"], false), &cluster, None);
        world.sleep(Duration::from_millis(1_900)).await;
        let path = version.savepoint(false).await;
        let completed = || events.borrow().iter().filter(|e| matches!(e, Event::CheckpointCompleted { .. })).count();
        let before = completed();
        while later_checkpoint && completed() == before {
            world.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(completed() > before, later_checkpoint);
        for meta in world.store().list(&format!("{path}/")) {
            let bytes = world.store().peek(&meta.name).expect("it was listed");
            if harm == Harm::MovedAway {
                let name = meta.name.to_string().replace("savepoints/", "elsewhere/");
                world.store().put(&ObjectName::new(&name).expect("a name"), bytes);
            }
            assert!(world.store().lose(&meta.name));
        }
        world.crash("v1-tm-1");
        world.sleep(Duration::from_millis(200)).await;
        world.start("v1-tm-1");
        let end = version.end().await;
        let events = events.borrow().clone();
        (end, events, path, objects_of(&world))
    })
}

/// R51: the newest savepoint of a running job is deleted, or moved, and then the job fails. If a later checkpoint is complete, nobody asks
/// for the savepoint. If it was the newest restore point, the job goes back to an older checkpoint and replays what is committed behind it, or,
/// where that is not wanted, fails with an error that names what is lost and what was tried. Nothing is lost or doubled.
#[test]
fn a_savepoint_that_is_taken_away_loses_and_doubles_nothing() {
    let restores = |events: &[Event]| -> Vec<(Option<u64>, Option<u64>, bool)> {
        let chosen = events.iter().filter_map(|event| match event {
            Event::RestoreChosen { checkpoint, newest, replay_to, .. } => {
                Some((checkpoint.map(|id| id.0), newest.map(|id| id.0), replay_to.is_some()))
            }
            _ => None,
        });
        chosen.collect()
    };
    for harm in [Harm::Deleted, Harm::MovedAway] {
        for fallback in [FallbackBehindCommit::Replay, FallbackBehindCommit::Fail] {
            let (end, events, _, objects) = savepoint_taken_away(harm, true, fallback);
            assert_eq!(end, Ok(JobOutcome::Finished), "{harm:?} {fallback:?}");
            let chosen = restores(&events);
            assert!(chosen.len() == 2 && chosen[1].0 == chosen[1].1 && !chosen[1].2, "{chosen:?}");
            let told = all_once(&objects);
            ["a", "b"].iter().for_each(|of| assert_counted_from_one(&told.iter().collect::<Vec<_>>(), of));
        }
        let (end, events, path, objects) = savepoint_taken_away(harm, false, FallbackBehindCommit::Replay);
        assert_eq!(end, Ok(JobOutcome::Finished), "{harm:?}");
        let chosen = restores(&events);
        let (back, newest, replays) = *chosen.last().expect("it was restored");
        assert!(back < newest && replays, "{chosen:?}");
        assert!(!objects.keys().any(|name| name.starts_with(&path)), "nobody makes it anew");
        let told = all_once(&objects);
        ["a", "b"].iter().for_each(|of| assert_counted_from_one(&told.iter().collect::<Vec<_>>(), of));

        let (end, _, path, objects) = savepoint_taken_away(harm, false, FallbackBehindCommit::Fail);
        let Ok(JobOutcome::Failed { reason }) = end else { panic!("{harm:?}: {end:?}") };
        assert!(reason.contains(&path) && reason.contains("recovery.fallback-behind-commit"), "{reason}");
        // What was committed stays, each number once.
        let lines = committed_lines(&objects).remove("out").unwrap_or_default();
        let numbers: BTreeSet<u64> =
            lines.iter().map(|line| serde_json::from_str::<Traveller>(line).expect("a line").number).collect();
        assert!(lines.len() > 50 && numbers.len() == lines.len());
    }
}
