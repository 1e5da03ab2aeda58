//! Each deliberate defect of the runtime is caught, by the invariant that is there for it, within a few seeds; and the same plan
//! without the defect is clean, so that it was the defect that was caught.

use std::collections::BTreeSet;

use runtime::{journal::EventKind, sabotage::Sabotage};
use scenarios::plan::{FaultKind, Plan};
use weir_tests::{
    defects::{is_caught, is_caught_in},
    tales::{calm, lasting, when},
};

/// Invariant 8: a snapshot at the first barrier lacks what comes before the others.
#[test]
fn skipping_alignment_is_caught() {
    is_caught(Sabotage::SkipAlignment, "quiet", 4, &["barrier-side"]);
}

/// Invariant 2, R205: the checkpoint completes with a part that primary does not have.
#[test]
fn acknowledging_without_an_upload_is_caught() {
    is_caught(Sabotage::AckWithoutUpload, "quiet", 2, &["primary-superset"]);
}

/// Invariant 3: a key group is gone after the restore. (Under a replay behind a commit invariant 5 sees it first, by the digests;
/// this profile loses no object, so there is no such replay.)
#[test]
fn restoring_without_a_key_group_is_caught() {
    is_caught(Sabotage::RestoreDropsKeyGroup, "local-recovery", 8, &["restored-state"]);
}

/// Invariant 3, R194: a rotten local copy is believed.
#[test]
fn trusting_local_parts_is_caught() {
    is_caught(Sabotage::TrustLocalPart, "local-recovery", 24, &["restored-state"]);
}

/// Invariant 15: a restore reads from primary what lies on its own disk.
#[test]
fn reading_primary_in_spite_of_a_local_copy_is_caught() {
    is_caught(Sabotage::PrimaryThoughLocal, "local-recovery", 8, &["needless-read"]);
}

/// Invariant 4, R203: an old checkpoint is restored although the newest is whole.
#[test]
fn restoring_the_oldest_is_caught() {
    is_caught(Sabotage::RestoreOldest, "local-recovery", 6, &["correct-fallback"]);
}

/// Invariant 5: a replay behind a commit writes its output a second time. The duplicates are visible in the committed output
/// itself, which is invariant 1's to judge and comes before invariant 5's own bookkeeping.
#[test]
fn replaying_aloud_is_caught() {
    is_caught(Sabotage::ReplayUnmuted, "fallback", 12, &["exactly-once", "fallback-behind-commit"]);
}

/// Invariant 5: the replay does not reach the newest commit. Nothing is doubled yet when it is ordered.
#[test]
fn a_replay_that_is_too_short_is_caught() {
    is_caught(Sabotage::ReplayTooShort, "fallback", 12, &["fallback-behind-commit"]);
}

/// Invariant 5: the replay merges records in another order than was recorded, so that an epoch has other output.
#[test]
fn a_replay_in_another_order_is_caught() {
    is_caught(Sabotage::ReplayOutOfOrder, "fallback", 12, &["fallback-behind-commit"]);
}

/// Invariant 5: the first commit after a replay does not wait for its verification. The output is right, and only luck made it so.
#[test]
fn a_commit_that_does_not_wait_for_the_replay_is_caught() {
    is_caught(Sabotage::ReplayUnverified, "fallback", 12, &["fallback-behind-commit"]);
}

/// Invariant 5: a replay that leaves event time and processing time where they are fires other timers and closes other windows.
#[test]
fn a_replay_that_forgets_the_times_is_caught() {
    is_caught(Sabotage::ReplayForgetsTimes, "fallback", 20, &["fallback-behind-commit"]);
}

/// Invariant 1: the input has ended, and no watermark says so: what waits for event time is never put out.
#[test]
fn an_end_without_a_watermark_is_caught() {
    is_caught(Sabotage::EndWithoutWatermark, "fallback", 8, &["exactly-once"]);
}

/// Invariant 6: a file of a retained checkpoint is deleted.
#[test]
fn deleting_what_is_retained_is_caught() {
    is_caught(Sabotage::DeleteRetained, "quiet", 2, &["file-lifetime"]);
}

/// Invariant 7: a restart uses checkpoint ids again.
#[test]
fn reusing_checkpoint_ids_is_caught() {
    is_caught(Sabotage::ReuseCheckpointIds, "network", 6, &["checkpoint-ids"]);
}

/// Invariant 10, R222: tasks do not come back to the slots they had.
#[test]
fn forgetting_allocations_is_caught() {
    is_caught(Sabotage::ForgetAllocations, "network", 8, &["previous-slot"]);
}

/// A fast source, small windows, and a barrier that does not come: what is behind the other barriers piles up in front of the
/// subtask that aligns, as far as credit allows.
fn congested() -> Plan {
    let mut plan = calm();
    plan.settings.buffer_bytes = 64;
    plan.settings.channel_window_bytes = 64;
    plan.workload.records = 20_000;
    plan.workload.records_per_second = 4_000;
    let held = lasting(
        2_500,
        "entity",
        when(EventKind::BarrierSent, "audit-source[0]->fold[1]", 2),
        FaultKind::HoldChannel {},
    );
    plan.faults = vec![held];
    plan
}

/// Invariant 11: a consumer grants credit without bound. A simulated consumer takes no time for a record, so only a channel
/// that must not be consumed lets data pile up: generated plans have that for moments only, this one for seconds.
#[test]
fn unlimited_credit_is_caught() {
    let caught = is_caught_in(&congested(), Sabotage::UnlimitedCredit, &["bounded-in-flight"]);
    assert!(caught, "unlimited credit was not caught");
}

/// Invariant 1: the sink commits before its checkpoint is completed.
#[test]
fn committing_early_is_caught() {
    is_caught(Sabotage::CommitEarly, "quiet", 2, &["exactly-once"]);
}

/// Invariant 13: the job gives up at the first failure.
#[test]
fn never_restarting_is_caught() {
    is_caught(Sabotage::NeverRestart, "network", 4, &["liveness"]);
}

/// The runtime's own assertions: it sees by itself that it retains more than it was told to.
#[test]
fn retaining_too_much_is_caught() {
    is_caught(Sabotage::RetainsOneMore, "quiet", 2, &["retains-as-configured"]);
}

/// Invariant 12: a restarted JobManager leads under the epoch of its predecessor.
#[test]
fn a_reused_leader_epoch_is_caught() {
    is_caught(Sabotage::ReuseLeaderEpoch, "default", 8, &["one-leader"]);
}

/// Invariants 1 and 3: after a change of parallelism a split is read again from its start, or from where another was.
#[test]
fn forgetting_the_positions_of_others_is_caught() {
    is_caught(Sabotage::PositionsStayBehind, "rescale", 20, &["exactly-once", "barrier-side", "restored-state"]);
}

/// Invariant 3: a database that was clipped too little hands state on that is another subtask's.
#[test]
fn keeping_the_key_groups_of_others_is_caught() {
    let defect = Sabotage::KeepsForeignKeyGroups.defect();
    is_caught(Sabotage::KeepsForeignKeyGroups, defect.profile, 40, defect.expected);
}

/// Invariant 10: a new leader, or one that had lost a TaskManager, forgets what the slots that are offered to it hold.
#[test]
fn forgetting_what_offered_slots_hold_is_caught() {
    let defect = Sabotage::ReoffersForgotten.defect();
    is_caught(Sabotage::ReoffersForgotten, defect.profile, 20, defect.expected);
}

/// No defect is forgotten: each has its test above.
#[test]
fn every_sabotage_has_its_test() {
    let source = concat!(include_str!("negative.rs"), include_str!("planted.rs"));
    let missing: BTreeSet<String> = Sabotage::ALL
        .iter()
        .map(|sabotage| format!("{sabotage:?}"))
        .filter(|name| !source.contains(&format!("Sabotage::{name},")) && !source.contains(&format!(": {name} within")))
        .collect();
    assert!(missing.is_empty(), "no test for {missing:?}");
}
