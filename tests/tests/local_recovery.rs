//! Local copies in whole simulated clusters: what they save, what they cost, and that a bad one costs nobody anything.

use std::collections::BTreeMap;

use runtime::{
    journal::{Event, EventKind},
    recovery::restore_report::{RecoveryPhase, RecoveryReport},
    state::BackendKind,
};
use scenarios::{
    exhaust::{
        local_matrix::{Harm, Setup},
        matrix::{Reached, judge, local_cells},
    },
    modelled::recovery,
    plan::{ClusterShape, FaultKind, Plan, Trigger, model::USER_PANIC_AT},
    record::Nobody,
    run::run_plan,
};
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
