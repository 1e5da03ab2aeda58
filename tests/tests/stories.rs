//! Hand-written plans. Each is a story about one thing that goes wrong at the worst moment; the output is exact in the end,
//! which the invariants judge, and what the story is about has really happened, which the journal tells.

use std::collections::BTreeMap;

use runtime::{
    ids::CheckpointId,
    journal::{Event, EventKind},
};
use scenarios::plan::{
    Damage, DiskErrorKind, DiskOperation, FaultKind, FaultSpec, ObjectChoice, Plan, StoreErrorKind, StoreOperation,
    model::USER_PANIC_AT,
};
use weir_tests::tales::{Tale, calm, deployments, fault, lasting, later, of_kind, tell, when};

const STORE: &str = "store";

fn told(faults: Vec<FaultSpec>) -> Tale {
    tell(&Plan { faults, ..calm() })
}

fn crash() -> FaultKind {
    FaultKind::Crash { restart_after_ms: Some(300) }
}

fn damaged(damage: Damage, files: u32) -> FaultKind {
    FaultKind::LocalFiles { damage, files, newest_only: true }
}

fn store_errors(name_contains: &str, operation: StoreOperation, error: StoreErrorKind, count: u32) -> FaultKind {
    FaultKind::StoreErrors { operation, name_contains: name_contains.to_string(), error, count }
}

/// The restores of a run: what was chosen, and what was the newest then.
fn restores(tale: &Tale) -> Vec<(Option<u64>, Option<u64>)> {
    let restores = tale.events.iter().filter_map(|told| match &told.event {
        Event::RestoreChosen { checkpoint, newest, .. } => Some((checkpoint.map(|c| c.0), newest.map(|c| c.0))),
        _ => None,
    });
    restores.collect()
}

fn completed(tale: &Tale) -> Vec<u64> {
    let completed = tale.events.iter().filter_map(|told| match &told.event {
        Event::CheckpointCompleted { checkpoint, .. } => Some(checkpoint.0),
        _ => None,
    });
    completed.collect()
}

/// Keyed state is written in as many parts as the plan says.
#[test]
fn snapshots_have_the_parts_of_the_plan() {
    for said in [1, 2, 4] {
        let mut plan = calm();
        plan.settings.parts_per_snapshot = said;
        let tale = tell(&plan);
        tale.ends_well();
        let mut parts: BTreeMap<(String, CheckpointId), Vec<String>> = BTreeMap::new();
        for told in &tale.events {
            if let Event::LocalPartStored { subtask, checkpoint, part, .. } = &told.event
                && part.starts_with("fold-")
            {
                parts.entry((subtask.to_string(), *checkpoint)).or_default().push(part.clone());
            }
        }
        assert!(
            !parts.is_empty(),
            "{:?}",
            tale.lines(&[EventKind::LocalPartStored]).lines().take(5).collect::<Vec<_>>()
        );
        for ((subtask, checkpoint), parts) in parts {
            assert_eq!(parts.len(), said as usize, "{subtask} at {checkpoint}: {parts:?}");
        }
    }
}

/// Nothing goes wrong: what the other stories differ from.
#[test]
fn a_calm_day() {
    let tale = told(vec![]);
    tale.ends_well();
    assert_eq!(restores(&tale), [(None, None)], "one fresh start");
    assert!(completed(&tale).len() >= 15);
    assert_eq!(tale.count(of_kind(EventKind::CheckpointAborted)), 0);
    assert_eq!(tale.count(of_kind(EventKind::PrimaryRetried)), 0);
}

/// tm-2's local copy of checkpoint 3 lacks a part; tm-2's process dies. Everybody else restores checkpoint 3 from the own disk
/// alone, tm-2 takes from primary what it lacks, and from its disk the rest. (R184, R200, R201, R204)
#[test]
fn a_local_copy_lacks_a_part() {
    let tale = told(vec![
        fault("tm-2", when(EventKind::CheckpointNotified, "3", 1), damaged(Damage::Missing, 1)),
        fault("tm-2", later(60, EventKind::CheckpointNotified, "3", 1), crash()),
    ]);
    tale.ends_well();
    assert_eq!(restores(&tale), [(None, None), (Some(3), Some(3))]);
    let mut from_primary = BTreeMap::new();
    let mut local = 0;
    for told in &tale.events {
        if let Event::RestoreFinished { subtask, local_parts, primary_parts, .. } = &told.event {
            local += local_parts;
            if *primary_parts > 0 {
                from_primary.insert((told.process.clone(), subtask.clone()), (*local_parts, *primary_parts));
            }
        }
    }
    assert!(local > 0);
    let lines = tale.lines(&[EventKind::RestoreFinished, EventKind::LocalPartRejected]);
    assert_eq!(from_primary.len(), 1, "one subtask misses something:\n{lines}");
    let ((process, _), (here, there)) = from_primary.first_key_value().expect("counted");
    assert_eq!(process, "tm-2");
    assert!(*here > 0 && *there == 1, "partly from here, one part from there:\n{lines}");
}

/// All of checkpoint 7 is lost on every disk, and a part of it in primary, after its output was committed. The job goes back
/// to 6 and replays muted what lies between; nothing is written twice. (R202, R203)
#[test]
fn a_committed_checkpoint_is_lost() {
    let lost =
        |process: &str| fault(process, later(20, EventKind::SinkCommitted, "audit", 7), damaged(Damage::Missing, 99));
    let tale = told(vec![
        fault(
            STORE,
            later(20, EventKind::SinkCommitted, "audit", 7),
            FaultKind::LoseObject { object: ObjectChoice::Part, index: 3 },
        ),
        lost("tm-1"),
        lost("tm-2"),
        lost("tm-3"),
        fault("tm-1", later(30, EventKind::SinkCommitted, "audit", 7), crash()),
    ]);
    tale.ends_well();
    assert_eq!(restores(&tale), [(None, None), (Some(7), Some(7)), (Some(6), Some(7))]);
    let near = [EventKind::CheckpointCondemned, EventKind::ReplayEpochVerified, EventKind::SinkCommitted];
    let condemned = tale.first("checkpoint 7 is condemned", &near, |told| {
        matches!(told.event, Event::CheckpointCondemned { checkpoint: CheckpointId(7), .. })
    });
    let verified = tale.first_after(condemned, "epoch 7 is verified", &near, |told| {
        matches!(told.event, Event::ReplayEpochVerified { epoch: CheckpointId(7) })
    });
    tale.first_after(
        verified,
        "the output goes on",
        &near,
        |told| matches!(told.event, Event::SinkCommitted { checkpoint, .. } if checkpoint > CheckpointId(7)),
    );
}

/// The JobManager dies with the metadata of checkpoint 4 written and no entry in the head log: there is no checkpoint 4. The next
/// leader restores 3, voids what was prepared for 4, and never uses the number again.
#[test]
fn a_leader_dies_before_the_head_entry() {
    let tale = told(vec![fault("jobmanager", when(EventKind::MetadataWritten, "4", 1), crash())]);
    tale.ends_well();
    assert_eq!(restores(&tale), [(None, None), (Some(3), Some(3))]);
    assert!(!completed(&tale).contains(&4), "{:?}", completed(&tale));
    tale.first("epoch 4 is voided", &[EventKind::SinkVoided, EventKind::SinkCommitted], |told| {
        matches!(told.event, Event::SinkVoided { checkpoint: CheckpointId(4), .. })
    });
    let triggered =
        tale.count(|told| matches!(told.event, Event::CheckpointTriggered { checkpoint: CheckpointId(4), .. }));
    assert_eq!(triggered, 1);
}

/// The JobManager dies with checkpoint 4 in the head log and its output not committed. The next leader restores 4 and commits
/// it: once.
#[test]
fn a_leader_dies_between_the_head_entry_and_the_commit() {
    let tale = told(vec![fault("jobmanager", when(EventKind::CheckpointCompleted, "4", 1), crash())]);
    tale.ends_well();
    assert_eq!(restores(&tale), [(None, None), (Some(4), Some(4))]);
    let committers = tale.events.iter().filter_map(|told| match told.event {
        Event::SinkCommitted { checkpoint: CheckpointId(4), .. } => Some(told.incarnation),
        _ => None,
    });
    assert_eq!(committers.collect::<Vec<_>>(), [2], "committed by the second leader alone");
}

/// The TaskManager of fold[0] stands still in the middle of a snapshot, is given up for dead, and its slot's tasks go to a spare
/// one. When it goes on as if nothing had been, its acknowledgement and what it uploads change nothing. (R208, R223)
#[test]
fn a_zombie_thaws() {
    let mut plan = calm();
    plan.cluster.task_managers = 4;
    let frozen = lasting(4_000, "emitter", when(EventKind::SnapshotAsyncStarted, "fold[0]", 4), FaultKind::Freeze {});
    plan.faults = vec![frozen];
    let tale = tell(&plan);
    tale.ends_well();
    let near = [EventKind::TaskManagerLost, EventKind::TaskManagerRegistered, EventKind::JobStateChanged];
    let lost = tale.first("the frozen one is given up", &near, of_kind(EventKind::TaskManagerLost));
    let Event::TaskManagerLost { task_manager: zombie, .. } = tale.events[lost].event.clone() else { unreachable!() };
    let again = tale.first_after(
        lost,
        "its task runs elsewhere",
        &[EventKind::TaskDeployed],
        |told| matches!(&told.event, Event::TaskDeployed { subtask, .. } if subtask == "fold[0]"),
    );
    assert_ne!(tale.events[again].process, zombie);
    let awake = tale.first_after(
        again,
        "it comes back",
        &near,
        |told| matches!(&told.event, Event::TaskManagerRegistered { task_manager, .. } if *task_manager == zombie),
    );
    assert_eq!(tale.events[awake].incarnation, 1);
    // What it had begun it may finish, under names that nothing references (an invariant looks at each).
    assert_eq!(restores(&tale).len(), 2, "and nobody restarts because of it");
}

/// A barrier is held up on one channel. The subtask behind it aligns and aligns; the checkpoint expires, the subtask goes on
/// without it, and once the channel delivers again so do the checkpoints. Nothing restarts.
#[test]
fn a_barrier_that_does_not_come() {
    let held = when(EventKind::BarrierSent, "audit-source[0]->fold[1]", 4);
    let tale = told(vec![lasting(3_500, "entity", held, FaultKind::HoldChannel {})]);
    tale.ends_well();
    assert_eq!(restores(&tale), [(None, None)]);
    let near = [EventKind::AlignmentStarted, EventKind::AlignmentAborted, EventKind::CheckpointExpired];
    let started = tale.first("fold[1] aligns checkpoint 4", &near, |told| {
        matches!(&told.event, Event::AlignmentStarted { subtask, checkpoint: CheckpointId(4) } if subtask == "fold[1]")
    });
    let expired = tale.first_after(started, "checkpoint 4 expires", &near, |told| {
        matches!(told.event, Event::CheckpointExpired { checkpoint: CheckpointId(4) })
    });
    assert!(tale.events[expired].at_ms >= tale.events[started].at_ms + 2_900);
    tale.first_after(expired, "fold[1] gives the alignment up", &near, |told| {
        matches!(&told.event, Event::AlignmentAborted { subtask, checkpoint: CheckpointId(4) } if subtask == "fold[1]")
    });
    assert!(completed(&tale).iter().any(|checkpoint| *checkpoint > 4) && !completed(&tale).contains(&4));
}

/// The entry that completes checkpoint 4 is written, and the store says it failed. The leader reads back, finds its own
/// entry, and goes on; nobody steps down, nothing is done twice.
#[test]
fn an_ambiguous_answer_to_the_completing_entry() {
    for error in [StoreErrorKind::ErrorAfter, StoreErrorKind::TimeoutAfter] {
        let errors = store_errors("ha/", StoreOperation::Create, error, 1);
        let tale = told(vec![fault(STORE, when(EventKind::MetadataWritten, "4", 1), errors)]);
        tale.ends_well();
        assert_eq!(restores(&tale), [(None, None)], "{error:?}");
        assert_eq!(tale.count(of_kind(EventKind::LeaderSteppedDown)), 0);
        assert_eq!(completed(&tale).iter().filter(|checkpoint| **checkpoint == 4).count(), 1);
    }
}

/// A machine goes up in smoke and a spare slot is there: exactly the tasks that were on it move, all others return to their
/// slots and their local state. (R189, R208, R222, R224)
#[test]
fn a_machine_is_lost_and_a_slot_is_spare() {
    let mut plan = calm();
    plan.cluster.task_managers = 4;
    let trigger = later(40, EventKind::CheckpointNotified, "5", 1);
    plan.faults = vec![fault("tm-2", trigger, FaultKind::LoseMachine { restart_after_ms: None })];
    let tale = tell(&plan);
    tale.ends_well();
    let attempts: Vec<_> = deployments(&tale).into_values().collect();
    let [before, after] = attempts.as_slice() else { panic!("{} attempts", attempts.len()) };
    assert!(before.values().any(|(task_manager, ..)| task_manager == "tm-2"), "it had work: {before:?}");
    for (subtask, place) in before {
        if place.0 == "tm-2" {
            assert_eq!(after[subtask].0, "tm-4", "{subtask} moves to the spare slot");
        } else {
            assert_eq!(&after[subtask], place, "{subtask} stays");
        }
    }
    for told in &tale.events {
        if let Event::RestoreFinished { subtask, local_parts, primary_parts, .. } = &told.event {
            let moved = told.process == "tm-4";
            assert!(if moved { *local_parts == 0 } else { *primary_parts == 0 }, "{subtask} on {}", told.process);
        }
    }
}

/// User code panics once. The job restarts from its newest checkpoint, on the same slots, and goes on.
#[test]
fn user_code_panics_once() {
    let mut plan = calm();
    plan.workload.parameters.insert(USER_PANIC_AT.to_string(), 400);
    let tale = tell(&plan);
    tale.ends_well();
    let restores = restores(&tale);
    assert_eq!(restores.len(), 2, "{restores:?}");
    assert!(restores[1].0.is_some() && restores[1].0 == restores[1].1);
    assert_eq!(tale.count(of_kind(EventKind::TaskManagerLost)), 0, "a panic takes no process with it");
    let attempts: Vec<_> = deployments(&tale).into_values().collect();
    assert_eq!(attempts[0], attempts[1]);
    assert_eq!(tale.count(of_kind(EventKind::PartRestoredFromPrimary)), 0, "and the local copies are all there");
}

/// The store refuses everything while the tasks restore. An outage is no loss: they wait and try again, and the newest
/// checkpoint is the one restored.
#[test]
fn primary_is_out_during_a_restore() {
    let mut plan = calm();
    plan.settings.local_recovery = false;
    plan.faults = vec![
        fault("tm-1", when(EventKind::CheckpointNotified, "6", 1), crash()),
        lasting(1_500, STORE, when(EventKind::RestoreStarted, "fold[0]", 1), FaultKind::StoreOutage {}),
    ];
    let tale = tell(&plan);
    tale.ends_well();
    assert!(restores(&tale)[1..].iter().all(|chosen| *chosen == (Some(6), Some(6))), "{:?}", restores(&tale));
    assert_eq!(tale.count(of_kind(EventKind::CheckpointCondemned)), 0);
    let near = [EventKind::PrimaryRetried, EventKind::RestoreStarted, EventKind::RestoreFinished];
    let retried = tale.first(
        "a read is tried again",
        &near,
        |told| matches!(&told.event, Event::PrimaryRetried { object, .. } if object.contains("/chk-6/")),
    );
    tale.first_after(retried, "the restore comes to its end", &near, of_kind(EventKind::RestoreFinished));
}

/// The newest checkpoint rots in primary and on all disks at once. Each copy is looked at and refused, and the job falls back
/// to the one before. (R194, R201, R202, R203)
#[test]
fn both_copies_are_corrupt() {
    let rot =
        |process: &str| fault(process, later(20, EventKind::SinkCommitted, "audit", 6), damaged(Damage::Corrupt, 99));
    let tale = told(vec![
        fault(
            STORE,
            later(20, EventKind::SinkCommitted, "audit", 6),
            FaultKind::CorruptObject { object: ObjectChoice::Part, index: 1 },
        ),
        rot("tm-1"),
        rot("tm-2"),
        rot("tm-3"),
        fault("tm-3", later(30, EventKind::SinkCommitted, "audit", 6), crash()),
    ]);
    tale.ends_well();
    assert_eq!(restores(&tale), [(None, None), (Some(6), Some(6)), (Some(5), Some(6))]);
    let near = [EventKind::LocalPartRejected, EventKind::RestorePartLost];
    let rejected = tale.first("a local part is refused", &near, of_kind(EventKind::LocalPartRejected));
    tale.first_after(rejected, "and then the one in primary", &near, of_kind(EventKind::RestorePartLost));
}

/// R92: the JobManager dies at each step in which checkpoint 4 completes. What counts is the entry of the head log, which points to the
/// metadata: the next leader finds the checkpoint and restores it from there on, and the one before until then, also when the metadata is
/// written already.
#[test]
fn a_new_leader_finds_what_the_head_log_points_to() {
    for (step, entity, ordinal, found) in [
        (EventKind::CheckpointTriggered, "4", 1, 3),
        (EventKind::MetadataWritten, "4", 1, 3),
        (EventKind::CheckpointCompleted, "4", 1, 4),
        (EventKind::SinkCommitted, "audit", 4, 4),
        (EventKind::CheckpointNotified, "4", 1, 4),
    ] {
        let tale = told(vec![fault("jobmanager", when(step, entity, ordinal), crash())]);
        tale.ends_well();
        assert_eq!(restores(&tale), [(None, None), (Some(found), Some(found))], "it died at {step:?}");
    }
}

/// A disk takes no more writes. The local copies on it come to nothing, no checkpoint fails for it, and later the tasks there
/// restore from primary. (R187, R195, R201)
#[test]
fn a_disk_takes_no_more_writes() {
    let errors =
        FaultKind::DiskErrors { operation: DiskOperation::Write, error: DiskErrorKind::NoSpace, count: 10_000 };
    let tale = told(vec![
        fault("tm-3", when(EventKind::CheckpointNotified, "2", 1), errors),
        fault("tm-1", later(40, EventKind::CheckpointNotified, "6", 1), crash()),
    ]);
    tale.ends_well();
    let aborted = tale.lines(&[EventKind::CheckpointAborted, EventKind::CheckpointDeclined]);
    assert!(!aborted.contains("SnapshotFailed") && completed(&tale).starts_with(&[1, 2, 3, 4, 5, 6]), "{aborted}");
    assert!(tale.count(|told| told.process == "tm-3" && of_kind(EventKind::LocalCopyFailed)(told)) > 0);
    assert_eq!(restores(&tale), [(None, None), (Some(6), Some(6))]);
    for told in &tale.events {
        if let Event::RestoreFinished { subtask, local_parts, primary_parts, .. } = &told.event {
            let spoilt = told.process == "tm-3";
            assert!(if spoilt { *local_parts == 0 } else { *primary_parts == 0 }, "{subtask} on {}", told.process);
        }
    }
}

/// The store is so slow with the parts of one subtask that the checkpoint expires. What is still to be written of it is not written any
/// more, what was written is taken away by the subtask, and the next checkpoint has the store to itself.
#[test]
fn a_checkpoint_expires_while_it_is_uploaded() {
    let mut plan = calm();
    plan.settings.transfer_piece_bytes = 60;
    plan.settings.checkpoint_timeout_ms = 1_000;
    let (operation, name_contains) = (StoreOperation::Upload, "/chk-3/v1[1]".to_string());
    let slow = FaultKind::StoreSlow { operation, name_contains, delay_ms: 400, count: 1_000 };
    plan.faults = vec![fault(STORE, when(EventKind::CheckpointTriggered, "3", 1), slow)];
    let tale = tell(&plan);
    tale.ends_well();
    let near = [EventKind::CheckpointExpired, EventKind::SnapshotGivenUp, EventKind::PartUploaded];
    let expired = tale.first("checkpoint 3 expires", &near, of_kind(EventKind::CheckpointExpired));
    let given_up = tale.first_after(expired, "a subtask gives it up", &near, of_kind(EventKind::SnapshotGivenUp));
    let is_of_it = |object: &str| object.contains("/chk-3/v1[1]");
    let later = &tale.events[given_up..];
    let writes =
        later.iter().filter(|told| matches!(&told.event, Event::PartPieceUploaded { object, .. } if is_of_it(object)));
    assert_eq!(writes.count(), 0, "{}", tale.lines(&near));
    let deleted = tale.events[expired..].iter().filter(|told| {
        let is_own = matches!(&told.event, Event::ObjectDeleted { object } if is_of_it(object));
        is_own && told.process != "jobmanager"
    });
    let created = tale.count(|told| matches!(&told.event, Event::ObjectCreated { object, .. } if is_of_it(object)));
    assert!(deleted.count() >= created, "{created} were there");
    let next = tale.first_after(expired, "the next one completes", &near, of_kind(EventKind::CheckpointCompleted));
    assert!(
        tale.events[next].at_ms < tale.events[expired].at_ms + 1_000,
        "{}",
        tale.lines(&[EventKind::CheckpointCompleted])
    );
    assert_eq!(restores(&tale), [(None, None)], "nothing fails for it");
}
