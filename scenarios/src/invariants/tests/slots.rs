use runtime::{
    ids::{AllocationId, AttemptId, Execution, LeaderEpoch, SharedSlot},
    journal::Event,
};

use crate::invariants::{FaultNotice, formats::SlotRecord, testing::Story};

fn shared(index: u32) -> SharedSlot {
    SharedSlot { group: 0, index, parallelism: 2 }
}

fn attempt(execution: u32) -> AttemptId {
    AttemptId { leader: LeaderEpoch(1), execution: Execution(execution) }
}

fn offer(story: &mut Story, task_manager: &str) {
    story.event("jobmanager", Event::SlotsOffered { task_manager: task_manager.into(), slots: 2 });
}

fn lose(story: &mut Story, task_manager: &str) {
    let (task_manager, reason) = (task_manager.to_string(), String::new());
    story.event("jobmanager", Event::TaskManagerLost { task_manager, reason });
}

/// The allocation of slot `slot` on machine `machine`.
fn allocation(machine: u32, slot: u32) -> AllocationId {
    AllocationId(u128::from(10 * machine + slot))
}

/// The record that a TaskManager has on its disk.
fn record(story: &mut Story, machine: u32, slot: u32, index: u32, since: u32) {
    let record = SlotRecord { slot, shared: shared(index), since: attempt(since) };
    story.slot_record(&format!("machine-{machine}"), allocation(machine, slot), &record);
}

fn give(story: &mut Story, index: u32, machine: u32, slot: u32) {
    story.event(
        "jobmanager",
        Event::SlotAllocated {
            task_manager: format!("tm-{machine}"),
            slot,
            allocation: allocation(machine, slot),
            shared: shared(index),
            previous: false,
        },
    );
}

fn run(story: &mut Story) {
    let (job, from, to, reason) = ("job".into(), "CREATED".into(), "RUNNING".into(), String::new());
    story.event("jobmanager", Event::JobStateChanged { job, from, to, reason });
}

/// Both get the slots of [`two_with_slots`] again.
fn all_return(story: &mut Story) {
    give(story, 0, 1, 0);
    give(story, 1, 1, 1);
    run(story);
}

/// Both have a slot on the first TaskManager, and the second TaskManager has two spare ones.
fn two_with_slots() -> Story {
    let mut story = Story::begin();
    record(&mut story, 1, 0, 0, 1);
    record(&mut story, 1, 1, 1, 1);
    offer(&mut story, "tm-1");
    offer(&mut story, "tm-2");
    story.restore(None, None);
    story
}

#[test]
fn the_same_slots_again_pass() {
    let mut story = two_with_slots();
    all_return(&mut story);
    story.holds();
}

/// It gets a spare slot although its own lives; and so one more has moved than had to.
#[test]
fn a_slot_that_is_not_used_is_found() {
    let mut story = two_with_slots();
    give(&mut story, 0, 2, 0);
    story.breaks("previous-slot", "previous-slot-not-used");
    give(&mut story, 1, 1, 1);
    run(&mut story);
    let kinds: Vec<_> = story.found().iter().map(|(_, kind, _)| kind.to_string()).collect();
    assert_eq!(kinds, ["previous-slot-not-used", "needless-move"]);
    story.says("1 of 2 returned to their slots, 2 could have");
}

/// A slot that another one later proves stale is given back at once: it does not live again when that one is lost.
#[test]
fn a_stale_slot_stays_given_back() {
    let mut story = two_with_slots();
    record(&mut story, 2, 0, 0, 2);
    offer(&mut story, "tm-2");
    lose(&mut story, "tm-2");
    offer(&mut story, "tm-3");
    give(&mut story, 0, 3, 0);
    give(&mut story, 1, 1, 1);
    run(&mut story);
    story.holds();
}

/// A new leader knows of no slots until they are offered to it.
#[test]
fn a_new_leader_begins_without_slots() {
    let mut story = two_with_slots();
    let (process, leader, entries) = ("jobmanager".to_string(), LeaderEpoch(2), 1);
    story.event("jobmanager", Event::LeaderElected { process, leader, entries });
    offer(&mut story, "tm-2");
    give(&mut story, 0, 2, 0);
    give(&mut story, 1, 2, 1);
    run(&mut story);
    story.holds();
}

/// What a leader deals out that leads no more, nobody obeys.
#[test]
fn a_deposed_leader_deals_for_nobody() {
    let mut story = two_with_slots();
    let before = story.incarnation;
    story.claim(2);
    let now = std::mem::replace(&mut story.incarnation, before);
    give(&mut story, 0, 2, 0);
    story.holds();
    story.incarnation = now;
    give(&mut story, 0, 2, 0);
    story.breaks("previous-slot", "previous-slot-not-used");
}

/// Somebody without a living slot takes the slot of one that has.
#[test]
fn the_slot_of_another_is_not_free() {
    let mut story = Story::begin();
    record(&mut story, 1, 1, 1, 1);
    offer(&mut story, "tm-1");
    offer(&mut story, "tm-2");
    story.restore(None, None);
    give(&mut story, 0, 1, 1);
    story.breaks("previous-slot", "slot-of-another");
}

/// Lost and found again before slots are dealt out, or found by a new leader: the slot lives.
#[test]
fn a_slot_that_was_offered_again_lives() {
    for by_new_leader in [false, true] {
        let mut story = two_with_slots();
        if by_new_leader {
            let (process, leader, entries) = ("jobmanager".to_string(), LeaderEpoch(2), 1);
            story.event("jobmanager", Event::LeaderElected { process, leader, entries });
            offer(&mut story, "tm-2");
        } else {
            lose(&mut story, "tm-1");
        }
        offer(&mut story, "tm-1");
        give(&mut story, 0, 2, 0);
        story.breaks("previous-slot", "previous-slot-not-used");
    }
}

/// The copies of a task that runs go with its slot. What was given back because the job runs elsewhere, or not at all, may go.
#[test]
fn a_slot_that_is_released_while_in_use_is_found() {
    for (is_in_use, ends) in [(true, false), (true, true), (false, false)] {
        let mut story = two_with_slots();
        all_return(&mut story);
        if ends {
            let (job, from, to) = ("job".into(), "RUNNING".into(), "RESTARTING".into());
            story.event("jobmanager", Event::JobStateChanged { job, from, to, reason: String::new() });
        }
        let released = if is_in_use { vec![(1, 0)] } else { vec![(2, 0), (1, 2)] };
        for (machine, slot) in released {
            let (task_manager, allocation) = (format!("tm-{machine}"), allocation(machine, slot));
            story.event(&task_manager.clone(), Event::SlotReleased { task_manager, slot, allocation });
        }
        if is_in_use && !ends {
            story.breaks("previous-slot", "released-in-use");
        } else {
            story.holds();
        }
    }
}

/// A leader deals a slot whose record tells of an earlier deployment; before the order arrives, somebody comes back who says to
/// hold the same since later. The leader knows better.
#[test]
fn what_was_dealt_last_is_later_than_any_record() {
    let mut story = two_with_slots();
    all_return(&mut story);
    record(&mut story, 2, 0, 0, 2);
    offer(&mut story, "tm-2");
    story.restore(None, None);
    all_return(&mut story);
    story.holds();
}

/// What a leader has dealt it takes for the latest only as long as the TaskManager was not lost in between: when that one comes
/// back, its records count, and they tell of an earlier deployment than another's do.
#[test]
fn what_was_dealt_to_one_that_was_lost_is_as_late_as_its_record() {
    let mut story = two_with_slots();
    story.restore(None, None);
    all_return(&mut story);
    lose(&mut story, "tm-1");
    record(&mut story, 2, 0, 0, 2);
    offer(&mut story, "tm-2");
    offer(&mut story, "tm-1");
    story.restore(None, None);
    give(&mut story, 0, 2, 0);
    give(&mut story, 1, 1, 1);
    run(&mut story);
    story.holds();
}

/// The slot that was dealt is the latest, not every slot of that TaskManager that holds the same.
#[test]
fn an_older_record_beside_the_slot_that_was_dealt_is_no_later() {
    let mut story = two_with_slots();
    all_return(&mut story);
    record(&mut story, 1, 5, 0, 1);
    story.restore(None, None);
    all_return(&mut story);
    story.holds();
}

/// Lost and not offered again, given back, damaged, or somewhere else since: any slot is right.
#[test]
fn a_slot_that_does_not_live_binds_nobody() {
    let cases: [&dyn Fn(&mut Story); 4] = [
        &|story| lose(story, "tm-1"),
        &|story| {
            for slot in 0..2 {
                let (task_manager, allocation) = ("tm-1".to_string(), allocation(1, slot));
                story.event("tm-1", Event::SlotReleased { task_manager, slot, allocation });
            }
        },
        &|story| story.fault(&FaultNotice::Disk { machine: "machine-1".into() }),
        &|story| {
            record(story, 2, 0, 0, 2);
            record(story, 2, 1, 1, 2);
            offer(story, "tm-2");
        },
    ];
    for case in cases {
        let mut story = two_with_slots();
        case(&mut story);
        give(&mut story, 0, 2, 0);
        give(&mut story, 1, 2, 1);
        run(&mut story);
        story.holds();
    }
}

/// A task was dealt a slot whose record lies on a touched disk; what another TaskManager holds of it since earlier is stale,
/// as the leader knows, and may be given away.
#[test]
fn an_older_record_says_nothing_beside_one_that_cannot_be_read() {
    for is_damaged in [true, false] {
        let mut story = two_with_slots();
        lose(&mut story, "tm-1");
        give(&mut story, 0, 2, 0);
        give(&mut story, 1, 2, 1);
        run(&mut story);
        if is_damaged {
            story.fault(&FaultNotice::Disk { machine: "machine-2".into() });
        }
        offer(&mut story, "tm-1");
        story.restore(None, None);
        give(&mut story, 0, 2, 0);
        give(&mut story, 1, 2, 1);
        run(&mut story);
        if is_damaged {
            story.holds();
        } else {
            // No record was ever written on the second TaskManager: what the first one holds is theirs.
            story.breaks("previous-slot", "previous-slot-not-used");
        }
    }
}

/// The later slot was given back, and an intact record of it is still there; or another file of its machine was hit. That casts no
/// doubt on it: the older slot is its own again. It does if the record itself was hit.
#[test]
fn only_damage_to_the_record_casts_doubt_on_it() {
    for (hit, in_doubt) in [(None, false), (Some("localState/elsewhere"), false), (Some("record"), true)] {
        let mut story = two_with_slots();
        lose(&mut story, "tm-1");
        give(&mut story, 0, 2, 0);
        give(&mut story, 1, 2, 1);
        run(&mut story);
        record(&mut story, 2, 0, 0, 2);
        let of_record = format!("localState/aid_{}/slot", allocation(2, 0));
        if let Some(path) = hit {
            story.truth.put_file("machine-2", "localState/elsewhere", b"bytes");
            let path = if path == "record" { of_record } else { path.to_string() };
            story.fault(&FaultNotice::LocalFile { machine: "machine-2".into(), path });
        }
        let (task_manager, allocation) = ("tm-2".to_string(), allocation(2, 0));
        crate::invariants::telling::changed(&mut story, "RESTARTING");
        story.event("tm-2", Event::SlotReleased { task_manager, slot: 0, allocation });
        offer(&mut story, "tm-1");
        story.restore(None, None);
        give(&mut story, 0, 2, 2);
        if in_doubt { story.holds() } else { story.breaks("previous-slot", "previous-slot-not-used") }
    }
}

fn deploy(story: &mut Story, subtask: &str, execution: u32, machine: u32, slot: u32) {
    let (subtask, task_manager) = (subtask.to_string(), format!("tm-{machine}"));
    let (attempt, allocation) = (attempt(execution), allocation(machine, slot));
    story.event(&task_manager.clone(), Event::TaskDeployed { subtask, attempt, task_manager, slot, allocation });
}

/// The JobManager dealt out one slot, and the subtask runs in another, be it that of another subtask. A straggler that obeys
/// an older order is not judged here.
#[test]
fn a_subtask_that_runs_elsewhere_is_found() {
    for (execution, machine, slot, fine) in [(2, 1, 0, true), (2, 1, 1, false), (2, 2, 0, false), (1, 2, 0, true)] {
        let mut story = two_with_slots();
        give(&mut story, 0, 1, 0);
        give(&mut story, 1, 1, 1);
        deploy(&mut story, "fold[0]", execution, machine, slot);
        if fine { story.holds() } else { story.breaks("previous-slot", "deployed-elsewhere") }
    }
    let mut story = two_with_slots();
    give(&mut story, 0, 1, 0);
    give(&mut story, 1, 1, 1);
    deploy(&mut story, "fold[1]", 2, 1, 1);
    story.holds();
    deploy(&mut story, "fold[1]", 2, 1, 0);
    story.breaks("previous-slot", "deployed-elsewhere");
}

/// The process is dead, whatever its disk says, or the plan broke the disk: no slot of it lives.
#[test]
fn a_slot_dies_with_its_process_or_disk() {
    for breaks in [false, true] {
        let mut story = two_with_slots();
        if breaks {
            story.fault(&FaultNotice::Disk { machine: "machine-1".into() });
        } else {
            story.truth.kill("tm-1");
        }
        give(&mut story, 0, 2, 0);
        give(&mut story, 1, 2, 1);
        run(&mut story);
        story.holds();
    }
}

/// Without local recovery it may be another slot, but not on another TaskManager, unless the JobManager had lost that one.
#[test]
fn without_local_recovery_the_location_counts() {
    for (machine, lost, breaks) in [(1, false, false), (2, false, true), (2, true, false)] {
        let mut story = Story::configured(|config| config.local_recovery = false);
        offer(&mut story, "tm-1");
        offer(&mut story, "tm-2");
        story.restore(None, None);
        give(&mut story, 0, 1, 0);
        run(&mut story);
        if lost {
            lose(&mut story, "tm-1");
            offer(&mut story, "tm-1");
        }
        story.restore(None, None);
        give(&mut story, 0, machine, 1);
        run(&mut story);
        if breaks {
            story.breaks("previous-slot", "left-its-task-manager");
        } else {
            story.holds();
        }
    }
}
