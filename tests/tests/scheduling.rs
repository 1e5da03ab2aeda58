//! Stories of slots: who returns where, what is waited for, and a job that takes what slots there are. The output is exact in the
//! end, which the invariants judge; what the stories are about is told by the journal.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test prepares and inspects the real machine; the law holds for the runtime"
)]

use std::collections::{BTreeMap, BTreeSet};

use runtime::{
    ids::AttemptId,
    journal::{Event, EventKind},
};
use scenarios::plan::{DiskErrorKind, DiskOperation, FaultKind, FaultSpec, Plan, Side, Trigger, model::USER_PANIC_AT};
use weir_tests::tales::{Place, Tale, Told, calm, deployments, fault, lasting, later, of_kind, tell, when};

/// Ten TaskManagers of a slot each run ten subtasks of each vertex, two more have spare slots.
fn ten_and_two() -> Plan {
    let mut plan = calm();
    plan.cluster.task_managers = 12;
    plan.workload.parallelism = 10;
    plan.workload.splits = 10;
    plan.workload.records = 1_200;
    plan
}

fn gone_for_good(task_manager: &str, trigger: Trigger) -> FaultSpec {
    fault(task_manager, trigger, FaultKind::LoseMachine { restart_after_ms: None })
}

/// Exactly the subtasks that were on one of `lost` have moved since the first attempt.
#[track_caller]
fn only_these_moved(tale: &Tale, lost: &[&str]) {
    let attempts: Vec<_> = deployments(tale).into_values().collect();
    let (Some(before), Some(after)) = (attempts.first(), attempts.last()) else { panic!("nothing was deployed") };
    assert!(attempts.len() > 1, "nothing was deployed again");
    let moved: BTreeSet<&String> =
        before.iter().filter(|(name, place)| after[*name] != **place).map(|(n, _)| n).collect();
    let must: BTreeSet<&String> =
        before.iter().filter(|(_, place)| lost.contains(&place.0.as_str())).map(|(n, _)| n).collect();
    assert!(!must.is_empty(), "there was nothing on {lost:?}: {before:?}");
    assert_eq!(moved, must, "before {before:?}\nafter {after:?}");
}

/// One TaskManager of ten is lost, and there are spare slots: exactly its tasks move, whichever it is. (R224, R226)
#[test]
fn one_of_ten_is_lost() {
    for lost in ["tm-1", "tm-5", "tm-10"] {
        let mut plan = ten_and_two();
        plan.faults = vec![gone_for_good(lost, later(40, EventKind::CheckpointNotified, "4", 1))];
        let tale = tell(&plan);
        tale.ends_well();
        only_these_moved(&tale, &[lost]);
    }
}

/// The JobManager dies with one of the ten, and the next leader is offered the slots in whichever order the network brings: the
/// spare ones first, or last. It waits for those that may come, and exactly the lost tasks move. (R224, R225, R226)
#[test]
fn one_of_ten_is_lost_with_the_job_manager() {
    let mut orders = BTreeSet::new();
    for schedule in 1..=5 {
        let mut plan = ten_and_two();
        plan.schedule_seed = Some(schedule);
        // So that the order in which they find the new leader is a matter of chance.
        plan.network.jitter_us = 150_000;
        plan.faults = vec![
            gone_for_good("tm-5", later(40, EventKind::CheckpointNotified, "4", 1)),
            fault(
                "jobmanager",
                later(50, EventKind::CheckpointNotified, "4", 1),
                FaultKind::Crash { restart_after_ms: Some(400) },
            ),
        ];
        let tale = tell(&plan);
        tale.ends_well();
        only_these_moved(&tale, &["tm-5"]);
        let offers = tale.events.iter().filter(|told| told.incarnation == 2).filter_map(|told| match &told.event {
            Event::SlotsOffered { task_manager, .. } => Some(task_manager.clone()),
            _ => None,
        });
        orders.insert(offers.collect::<Vec<_>>());
    }
    assert!(orders.len() > 1, "the slots were always offered in the same order: {orders:?}");
}

/// A second TaskManager is lost while the job recovers from the loss of the first. In the end the tasks of both have moved, and
/// nobody else. (R224, R226)
#[test]
fn a_second_one_is_lost_during_the_recovery() {
    let moments = [
        later(600, EventKind::CheckpointNotified, "4", 1),
        when(EventKind::SlotAllocated, "tm-7", 2),
        when(EventKind::RestoreStarted, "fold[2]", 1),
    ];
    for second in moments {
        let mut plan = ten_and_two();
        plan.faults = vec![
            gone_for_good("tm-5", later(40, EventKind::CheckpointNotified, "4", 1)),
            gone_for_good("tm-8", second),
        ];
        let tale = tell(&plan);
        tale.ends_well();
        only_these_moved(&tale, &["tm-5", "tm-8"]);
    }
}

/// Restart delays longer than Flink's `slot.idle.timeout` (50 s), and a JobManager that dies in the middle of one: the tasks find the
/// same slots, and in them their state. (R221, R222, R225)
#[test]
fn slots_outlast_a_long_restart_delay() {
    for dies in [false, true] {
        let mut plan = calm();
        plan.cluster.task_managers = 5;
        plan.settings.restart_delay_ms = 60_000;
        plan.time_limit_ms = 400_000;
        plan.workload.parameters.insert(USER_PANIC_AT.to_string(), 400);
        if dies {
            let trigger = Trigger::AtMs(40_000);
            plan.faults = vec![fault("jobmanager", trigger, FaultKind::Crash { restart_after_ms: Some(300) })];
            plan.healed_by_ms = 45_000;
        }
        let tale = tell(&plan);
        tale.ends_well();
        let attempts: Vec<_> = deployments(&tale).into_values().collect();
        assert_eq!(attempts.len(), 2);
        assert_eq!(attempts[0], attempts[1]);
        assert_eq!(tale.count(of_kind(EventKind::PartRestoredFromPrimary)), 0, "the local copies are all there");
    }
}

/// Without local recovery nothing is kept for a slot: no local copy is written, no slot is waited for, each deployment has an
/// allocation of its own. The task of a TaskManager that will be back in a moment goes to a spare one at once; with local recovery
/// it waits for its slot. (R210, R221)
#[test]
fn without_local_recovery_nobody_waits_for_a_slot() {
    for local_recovery in [false, true] {
        let mut plan = calm();
        plan.cluster.task_managers = 4;
        plan.settings.local_recovery = local_recovery;
        let trigger = later(40, EventKind::CheckpointNotified, "5", 1);
        plan.faults = vec![fault("tm-2", trigger, FaultKind::Crash { restart_after_ms: Some(250) })];
        let tale = tell(&plan);
        tale.ends_well();
        let attempts: Vec<_> = deployments(&tale).into_values().collect();
        let [before, after] = attempts.as_slice() else { panic!("{} attempts", attempts.len()) };
        if local_recovery {
            assert_eq!(before, after);
        } else {
            let allocations = |places: &BTreeMap<String, Place>| -> BTreeSet<String> {
                places.values().map(|(.., allocation)| allocation.clone()).collect()
            };
            assert!(allocations(before).is_disjoint(&allocations(after)));
            for (subtask, place) in before {
                let expected = if place.0 == "tm-2" { "tm-4" } else { &place.0 };
                assert_eq!(after[subtask].0, expected, "{subtask}");
            }
        }
        let local = [EventKind::LocalPartStored, EventKind::LocalCopyStored, EventKind::PartRestoredLocally];
        assert_eq!(tale.count(|told| local.contains(&told.event.kind())) > 0, local_recovery);
    }
}

/// There is no spare slot: the job waits for one, and goes on when a TaskManager joins. (R223)
#[test]
fn a_job_without_slots_waits_for_a_task_manager() {
    let mut plan = calm();
    plan.cluster.task_managers = 4;
    plan.faults = vec![
        fault("tm-4", Trigger::AtMs(0), FaultKind::JoinLate { after_ms: Some(8_000) }),
        gone_for_good("tm-2", later(40, EventKind::CheckpointNotified, "5", 1)),
    ];
    let tale = tell(&plan);
    tale.ends_well();
    only_these_moved(&tale, &["tm-2"]);
    let near = [EventKind::SlotsOffered, EventKind::TaskManagerLost, EventKind::RestoreChosen];
    let joined = tale.first(
        "tm-4 offers its slot",
        &near,
        |told| matches!(&told.event, Event::SlotsOffered { task_manager, .. } if task_manager == "tm-4"),
    );
    assert!(tale.events[joined].at_ms >= 8_000);
    tale.first_after(
        joined,
        "its slot is used",
        &near,
        |told| matches!(&told.event, Event::SlotAllocated { task_manager, .. } if task_manager == "tm-4"),
    );
}

/// The only restart that is allowed goes to a machine that has just gone silent: that was no try. The job restarts once more, and
/// succeeds. If the process was there, it was one.
#[test]
fn no_restart_is_used_up_on_a_slot_that_is_gone() {
    let mut plan = calm();
    plan.cluster.task_managers = 4;
    plan.settings.restart_attempts = Some(1);
    plan.workload.parameters.insert(USER_PANIC_AT.to_string(), 400);
    let second = |entity: &str| when(EventKind::SlotAllocated, entity, 2);
    plan.faults = vec![gone_for_good("tm-2", second("tm-2"))];
    let tale = tell(&plan);
    tale.ends_well();
    assert_eq!(deployments(&tale).len(), 3, "the first, the restart, and the one that did not count");
    assert!(tale.record.coverage.points.contains_key("deployed-to-the-dead"), "{:?}", tale.record.coverage.points);

    // All subtasks have begun: the process is there, and then it is not.
    let trigger = later(20, EventKind::ExecutionRunning, "audit", 2);
    plan.faults = vec![fault("tm-2", trigger, FaultKind::Crash { restart_after_ms: Some(100) })];
    let tale = tell(&plan);
    let failed = |told: &Told| matches!(&told.event, Event::JobStateChanged { to, .. } if to == "FAILED");
    assert!(tale.count(failed) > 0, "{}", tale.lines(&[EventKind::JobStateChanged]));
}

/// Bytes that the subtasks of each attempt read, by TaskManager: from local copies, and from primary.
fn restored(tale: &Tale) -> BTreeMap<AttemptId, BTreeMap<String, (u64, u64)>> {
    let mut bytes: BTreeMap<_, BTreeMap<String, (u64, u64)>> = BTreeMap::new();
    for told in &tale.events {
        if let Event::SubtaskRestored { attempt, local_bytes, primary_bytes, .. } = told.event {
            let there = bytes.entry(attempt).or_default().entry(told.process.clone()).or_default();
            (there.0, there.1) = (there.0 + local_bytes, there.1 + primary_bytes);
        }
    }
    bytes
}

/// A TaskManager comes back after its task has gone elsewhere, where it reads all its state from primary. Before there is another
/// checkpoint that one is lost, too: of the two spare slots the task gets the one where copies of its state are, and nothing is read
/// from primary.
#[test]
fn a_task_goes_where_copies_of_its_state_are() {
    let mut plan = calm();
    plan.cluster.task_managers = 5;
    plan.settings.checkpoint_interval_ms = 1_500;
    let joins = |name: &str| fault(name, Trigger::AtMs(0), FaultKind::JoinLate { after_ms: Some(1_500) });
    plan.faults = vec![
        // So that the job begins on the others, and these two come first where slots are taken by their names.
        joins("tm-1"),
        joins("tm-2"),
        fault(
            "tm-5",
            later(40, EventKind::CheckpointNotified, "2", 1),
            FaultKind::Crash { restart_after_ms: Some(900) },
        ),
        fault("tm-1", later(20, EventKind::SlotsOffered, "tm-5", 2), FaultKind::Crash { restart_after_ms: None }),
    ];
    let tale = tell(&plan);
    tale.ends_well();
    let attempts: Vec<_> = deployments(&tale).into_values().collect();
    let [first, second, third] = attempts.as_slice() else { panic!("{} attempts", attempts.len()) };
    for (subtask, (before, ..)) in first {
        let elsewhere = if before == "tm-5" { "tm-1" } else { before };
        assert_eq!((&*second[subtask].0, &third[subtask].0), (elsewhere, before), "{subtask}");
    }
    let read: Vec<_> = restored(&tale).into_values().collect();
    let [_, second, third] = read.as_slice() else { panic!("{read:?}") };
    assert!(second["tm-1"].0 == 0 && second["tm-1"].1 > 0, "{second:?}");
    assert!(third.values().all(|(local, primary)| *local > 0 && *primary == 0), "{third:?}");
}

/// Four subtasks become two, and one of the four TaskManagers has no local copy, because its disk takes no writes. Each of the two goes
/// where it finds half of its state, and nobody to the one that has nothing.
#[test]
fn a_rescaled_task_goes_where_copies_are_and_not_where_they_should_be() {
    for without in ["tm-1", "tm-3"] {
        let mut plan = calm();
        plan.profile = "rescale".to_string();
        plan.cluster.task_managers = 4;
        (plan.workload.parallelism, plan.workload.splits) = (4, 4);
        let full =
            FaultKind::DiskErrors { operation: DiskOperation::Write, error: DiskErrorKind::NoSpace, count: 10_000 };
        let rescale = FaultKind::Rescale { parallelism: 2, restart_after_ms: 200 };
        plan.faults = vec![
            fault(without, when(EventKind::CheckpointNotified, "2", 1), full),
            fault("jobmanager", later(30, EventKind::CheckpointCompleted, "5", 1), rescale),
        ];
        let tale = tell(&plan);
        tale.ends_well();
        let (_, after) = deployments(&tale).pop_last().expect("it was deployed");
        let (_, read) = restored(&tale).pop_last().expect("it was restored");
        let what = format!("{after:?}\n{read:?}");
        assert!(!after.values().any(|place| place.0 == without), "{what}");
        let total: u64 = read.values().map(|(local, primary)| local + primary).sum();
        assert!(read.values().all(|(local, _)| *local * 10 >= total), "{what}");
        assert!(tale.record.coverage.points.contains_key("placed-by-state"));
    }
}

/// Flink's default heartbeats (10 s, given up after 50 s).
fn with_default_heartbeats(plan: &mut Plan) {
    plan.settings.heartbeat_interval_ms = 10_000;
    plan.settings.heartbeat_timeout_ms = 50_000;
    plan.settings.checkpoint_timeout_ms = 60_000;
    plan.network.dead_peer_timeout_ms = 120_000;
}

/// A process that dies is noticed by its broken connection, long before its heartbeats are missed; a machine that goes silent by
/// those.
#[test]
fn a_broken_connection_is_noticed_at_once() {
    let lost_after = |kind: FaultKind| {
        let mut plan = calm();
        plan.cluster.task_managers = 4;
        with_default_heartbeats(&mut plan);
        plan.time_limit_ms = 400_000;
        plan.faults = vec![fault("tm-2", Trigger::AtMs(3_000), kind)];
        let tale = tell(&plan);
        tale.ends_well();
        let near = [EventKind::TaskManagerLost, EventKind::JobStateChanged];
        let lost = tale.first(
            "tm-2 is lost",
            &near,
            |told| matches!(&told.event, Event::TaskManagerLost { task_manager, .. } if task_manager == "tm-2"),
        );
        tale.events[lost].at_ms - 3_000
    };
    let crash = lost_after(FaultKind::Crash { restart_after_ms: None });
    assert!(crash <= 10, "{crash} ms");
    let silence = lost_after(FaultKind::LoseMachine { restart_after_ms: None });
    assert!((40_000..=70_000).contains(&silence), "{silence} ms");
}

/// Links that are slow and jump about, and TaskManagers that get no processor for half a minute, are no reason to give anybody up
/// at default timeouts: nothing restarts.
#[test]
fn a_slow_cluster_raises_no_alarm() {
    for schedule in 1..=3 {
        let mut plan = calm();
        plan.schedule_seed = Some(schedule);
        with_default_heartbeats(&mut plan);
        plan.workload.records = 600;
        plan.workload.records_per_second = 5;
        plan.healed_by_ms = 120_000;
        plan.time_limit_ms = 500_000;
        let jitter = |target: &str| {
            let storm = FaultKind::JitterStorm { peer: "jobmanager".into(), up_to_ms: 8_000 };
            lasting(110_000, target, Trigger::AtMs(1_000), storm)
        };
        let starved = |target: &str, at: u64| lasting(30_000, target, Trigger::AtMs(at), FaultKind::Freeze {});
        let collapse = FaultKind::BandwidthCollapse { peer: "tm-3".into(), divided_by: 2_000 };
        plan.faults = vec![
            jitter("tm-1"),
            jitter("tm-2"),
            starved("tm-1", 5_000),
            starved("tm-2", 20_000),
            starved("tm-3", 55_000),
            starved("jobmanager", 60_000),
            lasting(100_000, "tm-2", Trigger::AtMs(2_000), collapse),
        ];
        let tale = tell(&plan);
        tale.ends_well();
        let near = [EventKind::TaskManagerLost, EventKind::JobManagerLost, EventKind::JobStateChanged];
        let finished = tale.first(
            "the job finishes",
            &near,
            |told| matches!(&told.event, Event::JobStateChanged { to, .. } if to == "FINISHED"),
        );
        let alarm = tale.events[..finished].iter().find(|told| near[..2].contains(&told.event.kind()));
        assert!(alarm.is_none(), "{alarm:?}");
        assert_eq!(deployments(&tale).len(), 1, "nothing restarts");
    }
}

/// A job that takes what slots there are, on up to four TaskManagers.
fn reactive() -> Plan {
    let mut plan = calm();
    plan.cluster.task_managers = 4;
    plan.settings.reactive = true;
    plan.settings.stabilization_ms = 300;
    plan.settings.cooldown_ms = 1_000;
    plan
}

/// How many subtasks each attempt had of the vertex that scales.
fn parallelism(tale: &Tale) -> Vec<usize> {
    let of_fold = |places: BTreeMap<String, Place>| places.keys().filter(|name| name.starts_with("fold[")).count();
    deployments(tale).into_values().map(of_fold).collect()
}

/// TaskManagers join one after the other: the job starts with what is there, and grows, each time from a checkpoint that has
/// completed since the last time.
#[test]
fn a_reactive_job_grows_with_its_cluster() {
    let mut plan = reactive();
    let joins = |name: &str, after: u64| fault(name, Trigger::AtMs(0), FaultKind::JoinLate { after_ms: Some(after) });
    plan.faults = vec![joins("tm-3", 2_500), joins("tm-4", 5_000)];
    let tale = tell(&plan);
    tale.ends_well();
    assert_eq!(parallelism(&tale), [2, 3, 4]);
    let decided: Vec<_> = tale
        .events
        .iter()
        .filter_map(|told| match told.event {
            Event::RescaleDecided { from, to, .. } => Some((from, to)),
            _ => None,
        })
        .collect();
    assert_eq!(decided, [(2, 3), (3, 4)]);
    let restored = tale.events.iter().filter_map(|told| match &told.event {
        Event::RestoreChosen { checkpoint, newest, .. } => Some((*checkpoint, *newest)),
        _ => None,
    });
    assert!(restored.skip(1).all(|(checkpoint, newest)| checkpoint.is_some() && checkpoint == newest));
}

/// A TaskManager leaves for good: the job goes on with the slots that are left, and grows again when another one comes.
#[test]
fn a_reactive_job_shrinks_with_its_cluster() {
    let mut plan = reactive();
    plan.faults = vec![
        fault("tm-4", Trigger::AtMs(0), FaultKind::JoinLate { after_ms: Some(7_500) }),
        gone_for_good("tm-2", later(40, EventKind::CheckpointNotified, "5", 1)),
    ];
    let tale = tell(&plan);
    tale.ends_well();
    assert_eq!(parallelism(&tale), [3, 2, 3]);
}

/// Slots that come and go faster than the stabilization timeout change nothing, and neither does a TaskManager that is back before the
/// job has started without it.
#[test]
fn a_reactive_job_does_not_flap() {
    let mut plan = reactive();
    plan.settings.stabilization_ms = 2_000;
    plan.faults = vec![fault("tm-4", Trigger::AtMs(0), FaultKind::JoinLate { after_ms: Some(2_500) })];
    for at in [4_000, 5_500, 7_000] {
        plan.faults.push(fault("tm-4", Trigger::AtMs(at), FaultKind::Crash { restart_after_ms: Some(400) }));
    }
    let tale = tell(&plan);
    tale.ends_well();
    let rescaled = tale.count(of_kind(EventKind::RescaleDecided));
    assert!(rescaled <= 1, "{}", tale.lines(&[EventKind::RescaleDecided, EventKind::SlotsOffered]));
}

/// A partition between two TaskManagers is no loss of either: a reactive job restarts at the parallelism that it had.
#[test]
fn a_reactive_job_keeps_its_parallelism_through_failures() {
    let mut plan = reactive();
    let cut = FaultKind::Partition { peer: "tm-2".into(), side: Side::Both };
    plan.faults = vec![lasting(400, "tm-1", Trigger::AtMs(3_000), cut)];
    plan.workload.parameters.insert(USER_PANIC_AT.to_string(), 600);
    let tale = tell(&plan);
    tale.ends_well();
    assert!(parallelism(&tale).iter().all(|parallelism| *parallelism == 4), "{:?}", parallelism(&tale));
}

/// No TaskManager comes: the job fails after `slot.request.timeout`, and says how many slots are missing. (R223)
#[test]
fn a_request_for_slots_times_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("run");
    let output = weir_tests::processes::program(
        std::path::Path::new(env!("CARGO_BIN_EXE_weir-test-worker")),
        &[
            "weir",
            "jobmanager",
            "flights",
            "--quiet",
            "--output",
            root.to_str().expect("text"),
            "--listen",
            "127.0.0.1:0",
            "-D",
            "slot.request.timeout=300ms",
        ],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let expected = "2 slots are needed, 0 are offered, 2 are missing after 300 ms (slot.request.timeout)";
    assert!(errors.contains(expected), "{errors}");
}
