//! Plans that once found something: a defect of the runtime, or an invariant that judged too hard. Each must be clean now under all
//! the schedules it was kept with, and what made it interesting must still happen under one of them; if that does not, the entry is
//! stale and says nothing any more, which fails too.

use weir_tests::kept::{corpus, entry, holds, names, stays_fixed};

/// The task that finds its state lost is heard after its neighbours, which failed because of it. The JobManager did not
/// listen any more, and restored the same lost checkpoint for ever.
#[test]
fn state_lost_is_heard_even_when_heard_last() {
    stays_fixed("state-lost-heard-last");
}

/// A thawed TaskManager obeys a deployment that was given up long ago: no fault of the JobManager's.
#[test]
fn a_straggler_may_obey_an_old_order() {
    stays_fixed("late-deployment-of-a-straggler");
}

/// A thawed TaskManager goes on with the restore of a checkpoint whose files are rightly gone.
#[test]
fn a_straggler_may_restore_what_is_gone() {
    stays_fixed("straggler-restores-deleted-files");
}

/// The manifest of a local copy is torn: the whole copy is in doubt, however good its files look.
#[test]
fn a_torn_manifest_spoils_the_copy() {
    stays_fixed("torn-local-manifest");
}

/// One bit flipped on the way back when a starting JobManager read its probe of the store. It took the store for one that
/// lets two writers create the same object, and gave the job up for good.
#[test]
fn a_damaged_probe_condemns_no_store() {
    stays_fixed("probe-read-back-damaged");
}

/// A JobManager was replaced while it stood still, and came back when its successor had gone. The TaskManagers ignored its
/// orders, which were of an older term than they had obeyed; without them it had nothing to write and never met the
/// entry that would have told it. The job stood still for ever.
#[test]
fn a_replaced_leader_hears_of_it_from_the_task_managers() {
    stays_fixed("replaced-leader-never-hears-of-it");
}

/// A replaced JobManager judges by the log as it knows it: that nothing can be restored any more is true of that log.
#[test]
fn a_replaced_leader_judges_by_an_old_log() {
    stays_fixed("replaced-leader-judges-by-an-old-log");
}

/// A TaskManager came back with a slot that it held since a later attempt than the first one of the slot in which the job runs again:
/// the slot of the running task was released, and its local copies with it.
#[test]
fn who_comes_back_takes_no_slot_of_a_running_task() {
    stays_fixed("returned-slot-takes-that-of-a-running-task");
}

/// A JobManager stood still while the log took its choice of a checkpoint, and tells of it when its successor has completed newer ones.
#[test]
fn a_replaced_leader_hears_late_of_its_choice() {
    stays_fixed("replaced-leader-hears-late-of-its-choice");
}

/// The same with a replay in it: that which the successor has verified is not the one that the replaced leader ordered.
#[test]
fn a_replaced_leader_orders_another_replay() {
    stays_fixed("replaced-leader-orders-another-replay");
}

/// A replaced JobManager says that the job fails over while its successor has dealt out the slots already.
#[test]
fn a_replaced_leader_deals_out_no_slots() {
    stays_fixed("replaced-leader-says-it-deals-out-slots");
}

/// A replaced JobManager hears a late acknowledgement and steps down at once, to be elected again in the same process: what it had
/// still to delete is the next sweep's to find.
#[test]
fn a_leader_that_steps_down_leaves_late_files_to_the_sweep() {
    stays_fixed("late-files-of-a-leader-that-steps-down");
}

/// A file that was dropped into the corpus counts, with or without a test of its own.
#[test]
fn whatever_else_was_kept_stays_fixed() {
    let tested = include_str!("regressions.rs");
    for name in names(&corpus()) {
        if !tested.contains(&format!("\"{name}\"")) {
            stays_fixed(&name);
        }
    }
}

/// Without its faults a plan is as clean as can be, and proves nothing.
#[test]
fn an_entry_in_which_nothing_happens_any_more_is_stale() {
    let mut entry = entry(&corpus(), "state-lost-heard-last");
    entry.plan.faults.clear();
    let stale = holds(&entry).expect_err("it says nothing");
    assert!(stale.contains("stale") && stale.contains("RestorePartLost, CheckpointCondemned"), "{stale}");
}
