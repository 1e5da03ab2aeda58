//! Local copies in whole simulated clusters: what they save, what they cost, and that a bad one costs nobody anything.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use runtime::{
    checkpoint::metadata::CheckpointMetadata,
    figure::{Arrow, LocalRecoveryFigure, Node},
    graph::ExecutionGraph,
    ids::{CheckpointId, SubtaskId, VertexId},
    journal::{Event, EventKind},
    layout::LocalLayout,
    platform::ObjectName,
    recovery::restore_report::{RecoveryPhase, RecoveryReport},
    state::BackendKind,
};
use scenarios::{
    cluster_runner::{Jobs, start_cluster, world_config},
    exhaust::{
        local_matrix::{Harm, Setup},
        matrix::{Reached, judge, local_cells},
    },
    modelled::{checkpoints, recovery},
    plan::{
        ClusterShape, FaultKind, Plan, Trigger,
        model::{USER_PANIC_AT, machine_of},
    },
    record::Nobody,
    run::run_plan,
    workloads::WorkloadParams,
};
use sim::World;
use weir_tests::tales::{Tale, calm, fault, lasting, later, tell, when};

fn crash() -> FaultKind {
    FaultKind::Crash { restart_after_ms: Some(300) }
}

/// Bytes that all subtasks restored, by the process: from local copies, and from primary.
fn restored(tale: &Tale) -> BTreeMap<String, (u64, u64)> {
    let mut bytes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for told in &tale.events {
        if let Event::SubtaskRestored { local_bytes, primary_bytes, .. } = &told.event {
            let of_process = bytes.entry(told.process.clone()).or_default();
            of_process.0 += local_bytes;
            of_process.1 += primary_bytes;
        }
    }
    bytes
}

fn recoveries(tale: &Tale) -> Vec<RecoveryReport> {
    tale.events.iter().filter_map(|told| RecoveryReport::of_event(&told.event)).collect()
}

/// How long each completed checkpoint took from its trigger, in milliseconds, by its number.
fn durations(tale: &Tale) -> BTreeMap<u64, u64> {
    let mut triggered = BTreeMap::new();
    let mut took = BTreeMap::new();
    for told in &tale.events {
        match &told.event {
            Event::CheckpointTriggered { checkpoint, .. } => drop(triggered.insert(checkpoint.0, told.at_ms)),
            Event::CheckpointCompleted { checkpoint, .. } => {
                took.insert(checkpoint.0, told.at_ms - triggered[&checkpoint.0]);
            }
            _ => {}
        }
    }
    took
}

/// R188, R190, R25. Over a link of 1 Gbit/s a recovery of 10 GB from local copies is at least ten times as fast as one from
/// primary, of which it reads nothing; and the phases of both sum to the whole.
#[test]
fn local_recovery_is_ten_times_as_fast_as_primary() {
    for setup in [Setup::Heap, Setup::RocksDbIncremental] {
        let bytes = 10_000_000_000;
        let primary = recovery(setup, bytes, false).expect("a clean run");
        let local = recovery(setup, bytes, true).expect("a clean run");
        assert_eq!(local.report.primary_bytes, 0, "{}: {}", setup.name(), local.report);
        assert_eq!(primary.report.local_bytes, 0, "{}: {}", setup.name(), primary.report);
        assert!(local.state_bytes > bytes * 8 / 10 && primary.state_bytes > bytes * 8 / 10);
        let (slow, fast) = (primary.seconds_until_running(), local.seconds_until_running());
        assert!(
            slow >= 10.0 * fast,
            "{}: {slow} s against {fast} s\n{}\n{}",
            setup.name(),
            primary.report,
            local.report
        );
    }
}

/// R169. How long a recovery of much state takes can be told from one of less: by its bytes over the same link, or from the same disks.
#[test]
fn a_recovery_takes_as_long_as_its_bytes_need() {
    for local in [false, true] {
        let [little, much] = [10_000_000_000, 100_000_000_000].map(|bytes| {
            let measured = recovery(Setup::Heap, bytes, local).expect("a clean run");
            (measured.seconds_until_running(), measured.state_bytes as f64)
        });
        let predicted = little.0 * much.1 / little.1;
        assert!((predicted / much.0 - 1.0).abs() < 0.1, "local: {local}: {predicted} s predicted, {} s taken", much.0);
    }
}

/// R25. Each recovery is reported once, with the phases that it had, and they sum to the time from the last sign of life to the first
/// checkpoint after it.
#[test]
fn a_recovery_is_told_phase_by_phase() {
    let tale = tell(&Plan {
        faults: vec![fault("tm-2", later(30, EventKind::CheckpointCompleted, "4", 1), crash())],
        ..calm()
    });
    tale.ends_well();
    let reports = recoveries(&tale);
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    assert!(report.cause.contains("tm-2 lost") && report.checkpoint.is_some(), "{report}");
    assert_eq!(report.primary_bytes, 0, "{report}");
    assert!(report.local_bytes > 0);
    let lost = tale.first("tm-2 is lost", &[], |told| told.event.kind() == EventKind::TaskManagerLost);
    let done = tale.first("it is told", &[], |told| told.event.kind() == EventKind::RecoveryFinished);
    let between = u128::from(tale.events[done].at_ms - tale.events[lost].at_ms);
    let without_detection = (report.whole() - report.phase(RecoveryPhase::Detect)).as_millis();
    assert!(without_detection.abs_diff(between) <= 1, "{without_detection} of {between} ms: {report}");
    assert!(report.phase(RecoveryPhase::Delay).as_millis() >= 50, "{report}");
    for phase in [RecoveryPhase::Schedule, RecoveryPhase::Read, RecoveryPhase::CatchUp] {
        assert!(!report.phase(phase).is_zero(), "{}: {report}", phase.name());
    }
}

/// R185. Without local recovery the same failure costs a read of all state over the network.
#[test]
fn without_local_copies_all_state_is_read_from_primary() {
    let mut plan = calm();
    plan.settings.local_recovery = false;
    plan.faults = vec![fault("tm-2", later(30, EventKind::CheckpointCompleted, "4", 1), crash())];
    let tale = tell(&plan);
    tale.ends_well();
    let report = &recoveries(&tale)[0];
    let checkpoint = report.checkpoint.expect("there was one");
    let written: u64 = tale
        .events
        .iter()
        .filter_map(|told| match &told.event {
            Event::PartUploaded { checkpoint: of, bytes, .. } if *of == checkpoint => Some(*bytes),
            _ => None,
        })
        .sum();
    assert_eq!((report.local_bytes, report.primary_bytes), (0, written));
    assert!(written > 0 && report.reasons.keys().all(|reason| reason == "local recovery is off"), "{report}");
}

/// R195. The second copy costs a checkpoint no time while the disk is well. While it is slow, a checkpoint waits for it as long as
/// primary took, or 100 ms, and no longer; none fails for it.
#[test]
fn a_local_copy_holds_up_no_checkpoint() {
    let mut without = calm();
    without.settings.local_recovery = false;
    let (with, without) = (tell(&calm()), tell(&without));
    let (with, without) = (durations(&with), durations(&without));
    assert!(with.len() >= 15 && without.len() >= 15);
    let median = |of: &BTreeMap<u64, u64>| {
        let mut all: Vec<u64> = of.values().copied().collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    assert!(median(&with) <= median(&without) + 5, "{} ms with, {} ms without", median(&with), median(&without));
    let slow = |process: &str| {
        let trouble = FaultKind::SlowDisk { factor: 2_000 };
        lasting(6_000, process, when(EventKind::CheckpointCompleted, "3", 1), trouble)
    };
    let tale = tell(&Plan { faults: vec![slow("tm-1"), slow("tm-2"), slow("tm-3")], ..calm() });
    tale.ends_well();
    assert!(tale.count(|told| told.event.kind() == EventKind::LocalCopyFailed) > 0, "the disk was slow");
    assert_eq!(tale.count(|told| told.event.kind() == EventKind::CheckpointAborted), 0);
    let slowest = durations(&tale).into_values().max().expect("there are some");
    assert!(slowest <= 2 * median(&without) + 105, "{slowest} ms, usually {}", median(&without));
}

/// What a run of `plan` wrote for a checkpoint, by its journals and by what lies in the world at that moment.
struct Seen {
    text: String,
    arrows: Vec<Arrow>,
    /// What the metadata of the checkpoint refers to in primary storage: by subtask, the objects that it wrote, and their lengths.
    referenced: BTreeMap<String, BTreeMap<String, u64>>,
    /// Objects that it refers to that are not there, with this length.
    absent: Vec<String>,
    /// The files of local copies of the checkpoint, without manifests: by TaskManager and subtask, and their lengths.
    local: BTreeMap<(String, String), BTreeMap<String, u64>>,
}

/// Runs `plan` until its sixth checkpoint is confirmed on all machines, and looks around.
fn seen(plan: &Plan) -> Seen {
    let params = WorkloadParams::of_plan(&plan.workload, plan.seed).expect("a workload");
    let (config, plan) = (world_config(plan), plan.clone());
    let outcome = sim::run(config, move |world| {
        Box::pin(async move {
            let workload = params.build().expect("a job");
            for (path, bytes) in &workload.inputs {
                world.inputs().put(path, bytes.clone());
            }
            let figure = Rc::new(RefCell::new(LocalRecoveryFigure::default()));
            let told = Rc::clone(&figure);
            world.set_listener(Rc::new(move |_, stamped| told.borrow_mut().event(&stamped.process, &stamped.event)));
            let jobs = Jobs::of(&plan, &params, &workload.job).expect("one job");
            start_cluster(&world, &plan, &jobs);
            while !(figure.borrow().checkpoint() >= Some(CheckpointId(6)) && figure.borrow().is_confirmed()) {
                world.sleep(Duration::from_millis(2)).await;
            }
            look_around(&world, &figure.borrow(), &workload.job.graph)
        })
    });
    outcome.value.expect("the world ended well")
}

fn look_around(world: &World, figure: &LocalRecoveryFigure, graph: &ExecutionGraph) -> Seen {
    let checkpoint = figure.checkpoint().expect("one is complete");
    let objects: BTreeMap<String, (ObjectName, u64)> =
        world.store().list("").into_iter().map(|meta| (meta.name.to_string(), (meta.name, meta.length))).collect();
    let (name, _) = objects
        .values()
        .find(|(name, _)| name.as_str().ends_with(&format!("/chk-{checkpoint}/_metadata")))
        .expect("its metadata is in primary storage");
    let metadata = CheckpointMetadata::decode(&world.store().peek(name).expect("listed")).expect("whole");
    let (mut referenced, mut absent) = (BTreeMap::<_, BTreeMap<_, _>>::new(), Vec::new());
    for (subtask, snapshot) in &metadata.subtasks {
        let subtask = graph.subtask_name(SubtaskId { vertex: VertexId(subtask.0), index: subtask.1 });
        for part in &snapshot.parts {
            let object = part.object().expect("nothing is inline").to_string();
            if objects.get(&object).is_none_or(|(_, length)| *length != part.length) {
                absent.push(object.clone());
            }
            if part.written_by == checkpoint {
                referenced.entry(subtask.clone()).or_default().insert(object, part.length);
            }
        }
    }
    let mut local = BTreeMap::<_, BTreeMap<_, _>>::new();
    for number in 1..=3 {
        let task_manager = format!("tm-{number}");
        for (path, length) in world.disk(&machine_of(&task_manager)).list_all() {
            let parts: Vec<&str> = path.as_str().split('/').collect();
            let [.., subtask, copy, file] = parts[..] else { continue };
            if copy != format!("chk_{checkpoint}") || file == "_manifest" {
                continue;
            }
            let subtask = graph.subtask_name(LocalLayout::parse_subtask(subtask).expect("a subtask"));
            local.entry((task_manager.clone(), subtask)).or_default().insert(file.to_string(), length);
        }
    }
    Seen { text: figure.to_text(), arrows: figure.arrows(), referenced, absent, local }
}

/// R193. The figure 'local_recovery', drawn from a run: its arrows are what lies in the world. Each part that a subtask acknowledged has
/// an arrow to primary storage, and each that is stored locally one to the local store of the TaskManager where the subtask runs; there
/// are no others, and the JobManager has none but to primary storage, where all is that its checkpoint refers to.
#[test]
fn the_figure_shows_who_wrote_what_where() {
    for (backend, incremental) in [(BackendKind::Filesystem, false), (BackendKind::RocksDb, true)] {
        let mut plan = calm();
        (plan.settings.backend, plan.settings.incremental) = (backend, incremental);
        let seen = seen(&plan);
        assert!(seen.absent.is_empty(), "{:?} are not in primary storage\n{}", seen.absent, seen.text);
        let (mut primary, mut local) = (BTreeMap::new(), BTreeMap::new());
        for Arrow { from, to, files, bytes } in &seen.arrows {
            let files: std::collections::BTreeSet<String> = files.iter().cloned().collect();
            match (from, to) {
                (Node::JobManager { .. }, Node::Primary) => {
                    assert!(files.iter().all(|file| file.ends_with("/_metadata")), "{}", seen.text);
                }
                (Node::Task { subtask, .. }, Node::Primary) => {
                    primary.insert(subtask.clone(), (files, *bytes));
                }
                (Node::Task { task_manager, subtask }, Node::LocalStore { task_manager: there }) => {
                    assert_eq!(task_manager, there, "{}", seen.text);
                    local.insert((there.clone(), subtask.clone()), (files, *bytes));
                }
                _ => panic!("an arrow from {from} to {to}\n{}", seen.text),
            }
        }
        let lies = |files: &BTreeMap<String, u64>| (files.keys().cloned().collect(), files.values().sum::<u64>());
        assert_eq!(primary, seen.referenced.iter().map(|(of, files)| (of.clone(), lies(files))).collect());
        assert_eq!(local, seen.local.iter().map(|(of, files)| (of.clone(), lies(files))).collect());
        assert!(primary.len() >= 3 && local.len() >= 3, "{}", seen.text);
        if backend == BackendKind::Filesystem {
            insta::assert_snapshot!("local-recovery-figure", seen.text);
        }
    }
}

/// R191. What the second copy costs, by how state is kept: heap state and full snapshots of RocksDB write every byte twice, and need
/// the space for it; incremental snapshots of RocksDB, which are linked, write nothing more. A checkpoint takes no longer, as long
/// as the disk is faster than the link to primary storage, and the stream is no slower.
#[test]
fn the_second_copy_costs_bytes_and_no_time() {
    for setup in Setup::ALL {
        let cost = |local| checkpoints(setup, 1_000_000_000, local).expect("a run that ends");
        let (without, with) = (cost(false), cost(true));
        let what = format!("{}: without {without:?}\nwith {with:?}", setup.name());
        assert!(without.checkpoints >= 4 && with.checkpoints >= 4, "{what}");
        assert_eq!((without.local_bytes, without.space_bytes), (0, 0), "{what}");
        let extra = with.local_bytes as f64 / with.primary_bytes as f64;
        if setup == Setup::RocksDbIncremental {
            assert!(extra < 0.01, "{extra}, {what}");
        } else {
            assert!((1.0..1.01).contains(&extra), "{extra}, {what}");
            assert!(with.space_bytes >= 900_000_000, "{what}");
        }
        assert!(with.checkpoint_seconds <= without.checkpoint_seconds * 1.05 + 0.1, "{what}");
        assert!(with.records_per_second >= without.records_per_second * 0.98, "{what}");
    }
}

/// R192, R213, R215. Heap state and full snapshots of RocksDB are written twice, byte for byte, from one serialization.
#[test]
fn full_snapshots_are_written_twice() {
    for backend in [BackendKind::Filesystem, BackendKind::RocksDb] {
        let mut plan = calm();
        plan.settings.backend = backend;
        plan.workload.records = 300;
        let tale = tell(&plan);
        tale.ends_well();
        let mut bytes: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for told in &tale.events {
            match &told.event {
                Event::PartUploaded { checkpoint, bytes: more, .. } => bytes.entry(checkpoint.0).or_default().0 += more,
                Event::LocalPartStored { checkpoint, bytes: more, .. } => {
                    bytes.entry(checkpoint.0).or_default().1 += more
                }
                _ => {}
            }
        }
        assert!(bytes.len() >= 4);
        assert!(bytes.values().all(|(primary, local)| primary == local && *local > 0), "{backend:?}: {bytes:?}");
    }
}

/// R216, R219. Incremental snapshots of RocksDB are linked into the local copy; on another device they are copied, which each process
/// says once, and restored from there as from anywhere.
#[test]
fn incremental_snapshots_are_linked_or_copied() {
    for elsewhere in [false, true] {
        let mut plan = calm();
        plan.settings.backend = BackendKind::RocksDb;
        plan.settings.incremental = true;
        plan.workload.records = 300;
        plan.faults = vec![fault("tm-1", later(30, EventKind::CheckpointCompleted, "3", 1), crash())];
        if elsewhere {
            let device = |process: &str| fault(process, Trigger::AtMs(0), FaultKind::SeparateDevice {});
            plan.faults.extend([device("tm-2"), device("tm-3")]);
        }
        let tale = tell(&plan);
        tale.ends_well();
        let copied = |process: &str| {
            tale.count(|told| told.process == process && told.event.kind() == EventKind::LocalFilesCopied)
        };
        let expected = usize::from(elsewhere);
        assert_eq!((copied("tm-1"), copied("tm-2"), copied("tm-3")), (0, expected, expected));
        assert!(tale.record.coverage.points.contains_key("local-file-linked"), "and linked back");
        assert!(restored(&tale).values().all(|(local, primary)| *local > 0 && *primary == 0), "{:?}", restored(&tale));
    }
}

/// R212. State without keys and timers have local copies, too: nothing of a job that has all of it is read from primary.
#[test]
fn every_kind_of_state_is_restored_locally() {
    for backend in [BackendKind::Filesystem, BackendKind::RocksDb] {
        let mut plan = calm();
        plan.settings.backend = backend;
        plan.workload.name = "states".to_string();
        // Of union state every subtask gets what all have written: it is local only where all are.
        plan.cluster = ClusterShape { task_managers: 1, slots: 4 };
        plan.workload.records = 400;
        plan.faults = vec![fault("tm-1", later(30, EventKind::CheckpointCompleted, "4", 1), crash())];
        let tale = tell(&plan);
        tale.ends_well();
        let restored = restored(&tale);
        assert!(restored.values().any(|(local, _)| *local > 0));
        assert!(restored.values().all(|(_, primary)| *primary == 0), "{backend:?}: {restored:?}");
    }
}

/// R207. Copies in memory: after the failure of a task everybody has his own; after the end of a process what it had is gone.
#[test]
fn copies_in_memory_outlive_tasks_and_not_processes() {
    let mut plan = calm();
    plan.settings.local_memory_bytes = 1 << 20;
    plan.workload.parameters.insert(USER_PANIC_AT.to_string(), 400);
    let tale = tell(&plan);
    assert_eq!(tale.record.verdict.name(), "clean");
    assert!(restored(&tale).values().all(|(local, primary)| *local > 0 && *primary == 0), "{:?}", restored(&tale));
    let mut plan = calm();
    plan.settings.local_memory_bytes = 1 << 20;
    plan.faults = vec![fault("tm-2", later(30, EventKind::CheckpointCompleted, "4", 1), crash())];
    let tale = tell(&plan);
    tale.ends_well();
    for (process, (local, primary)) in restored(&tale) {
        let is_new = process == "tm-2";
        assert_eq!((local == 0, primary > 0), (is_new, is_new), "{process}");
    }
}

/// After a change of parallelism the copies of the old subtasks are used by the new ones, whose key groups overlap: with all slots on
/// one machine nothing is read from primary, upwards and downwards.
#[test]
fn local_copies_are_used_at_another_parallelism() {
    for (before, after) in [(2, 3), (3, 2)] {
        let mut plan = calm();
        plan.profile = "rescale".to_string();
        plan.cluster = ClusterShape { task_managers: 1, slots: 4 };
        plan.workload.parallelism = before;
        let rescale = FaultKind::Rescale { parallelism: after, restart_after_ms: 200 };
        plan.faults = vec![fault("jobmanager", later(30, EventKind::CheckpointCompleted, "5", 1), rescale)];
        let tale = tell(&plan);
        tale.ends_well();
        let restored = restored(&tale);
        let lines =
            tale.lines(&[EventKind::SubtaskRestored, EventKind::LocalPartRejected, EventKind::LocalCopyDiscarded]);
        assert!(restored.values().all(|(local, primary)| *local > 0 && *primary == 0), "{restored:?}\n{lines}");
        assert!(tale.record.coverage.points.contains_key("local-of-others"), "{before} -> {after}");
    }
}

/// R201, R204, R208. A cut of the matrix of partial failure: each harm to one part and to the manifest of a copy of heap state, and to
/// one file of each of RocksDB's. All are reached, and clean. (The whole: `./weir exhaust --matrix local`.)
#[test]
fn a_cut_of_the_matrix_is_clean() {
    let cells = local_cells(7).unwrap_or_else(|(_, reason)| panic!("{reason}"));
    assert!(cells.len() > 500, "{}", cells.len());
    let mut seen = std::collections::BTreeSet::new();
    let (mut reached, mut unreached) = (0, Vec::new());
    for cell in cells {
        let harm = Harm::ALL.iter().find(|harm| cell.row == format!("file {}", harm.name()));
        let is_manifest = cell.name.contains("_manifest");
        // The first cell of a kind: at the completion, while another process crashes.
        if harm.is_none() || (is_manifest && cell.setup != Setup::Heap) {
            continue;
        }
        if !seen.insert((cell.setup, harm.copied(), is_manifest)) {
            continue;
        }
        let record = run_plan(&cell.plan, Box::new(Nobody)).expect("a plan");
        match judge(&cell, &record) {
            Reached::Clean => reached += 1,
            Reached::Unreached(reason) => unreached.push(format!("{}: {reason}", cell.name)),
            Reached::Failed(signature) => panic!("{}: {signature}\n{}", cell.name, cell.plan.to_toml()),
        }
    }
    assert!(reached >= 30, "{reached} reached; not: {unreached:#?}");
    // Files of RocksDB have no older version under their name.
    assert!(unreached.iter().all(|name| name.contains("older version")), "{unreached:#?}");
}
