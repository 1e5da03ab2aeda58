use runtime::{
    checkpoint::types::PartLocation,
    ids::{AttemptId, CheckpointId, Execution, LeaderEpoch, SubtaskId, VertexId},
};

use crate::invariants::{HeadRecord, Truth, testing::Story};

/// Whatever is written before anybody claims the leadership is nobody's.
#[test]
fn an_entry_without_a_leader_is_found() {
    let mut story = Story::unclaimed();
    story.head(&HeadRecord::Finished);
    story.breaks("one-leader", "unclaimed");
}

/// Every kind of entry has an author and an epoch.
#[test]
fn every_entry_is_its_leaders() {
    let block = HeadRecord::IdBlock { from: CheckpointId(1), to: CheckpointId(9) };
    let failed = HeadRecord::Failed { reason: "given up".into() };
    for record in [block, HeadRecord::Finished, failed] {
        let mut story = Story::begin();
        story.claim(2);
        story.head(&record);
        story.holds();
        story.incarnation = 1;
        story.head(&record);
        story.breaks("one-leader", "foreign-author");
    }
    let mut story = Story::begin();
    let prepared = story.prepare(1, &[10, 10]);
    story.attempt.leader = LeaderEpoch(7);
    story.complete_prepared(&prepared);
    story.breaks("one-leader", "foreign-epoch");
    let mut story = Story::begin();
    let prepared = story.prepare(1, &[10, 10]);
    story.incarnation = 7;
    story.complete_prepared(&prepared);
    story.breaks("one-leader", "foreign-author");
    let mut story = Story::begin();
    story.incarnation = 7;
    story.restore(None, None);
    story.breaks("one-leader", "foreign-author");
}

/// What the store did not report has no author that could be a wrong one.
#[test]
fn an_unknown_author_is_no_offence() {
    let mut story = Story::begin();
    let name = story.layout().head_entry(1);
    story.truth.put(name.as_str(), &serde_json::to_vec(&HeadRecord::Finished).expect("encodes"));
    // It is read when the next one comes.
    let name = story.layout().head_entry(2);
    story.create(name.as_str(), serde_json::to_vec(&HeadRecord::Finished).expect("encodes"));
    story.holds();
}

/// A later claim must be of a later epoch.
#[test]
fn epochs_rise() {
    let mut story = Story::begin();
    story.claim(5);
    story.holds();
    story.claim(4);
    story.breaks("one-leader", "epoch-reused");
}

/// An execution of the same leader comes after an older one of it.
#[test]
fn executions_rise() {
    let mut story = Story::begin();
    story.restore(None, None);
    story.restore(None, None);
    story.holds();
    story.attempt.execution = Execution(1);
    story.restore(None, None);
    story.breaks("one-leader", "attempt-reused");
}

/// A checkpoint refers to what an older attempt wrote. That is right where a complete checkpoint had it already, and wrong for
/// what no other ever had; its output must be of the attempt, too.
#[test]
fn what_a_complete_checkpoint_had_may_be_older() {
    let mut story = Story::begin();
    let first = story.prepare(1, &[10, 10]);
    story.complete_prepared(&first);
    story.commit(1).restore(Some(1), Some(1));
    story.reusing(2, &first);
    story.holds();
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1);
    let mut stale = story.prepare(2, &[20, 20]);
    story.restore(Some(1), Some(1));
    let fresh = story.prepare(2, &[20, 20]);
    stale.metadata_of(&fresh);
    story.complete_prepared(&stale);
    let stale = story.found().into_iter().filter(|(invariant, ..)| *invariant == "one-leader").collect::<Vec<_>>();
    assert_eq!(stale, [("one-leader", "stale-ack", "checkpoint 2")]);
}

/// Before any attempt is recorded all parts must at least be of the same one.
#[test]
fn without_a_recorded_attempt_all_must_agree() {
    let mut story = Story::begin();
    let prepared = story.prepare(1, &[10, 10]);
    let bytes = story.truth.object(&prepared.parts[0]).expect("it is there");
    let other = AttemptId { leader: LeaderEpoch(1), execution: Execution(9) };
    let subtask = SubtaskId { vertex: VertexId(1), index: 0 };
    let part = story.layout().state_part(CheckpointId(1), other, subtask, "part-1", 1);
    story.truth.put(part.as_str(), &bytes);
    story.bend(&prepared, |list| list[0].1.parts[0].location = PartLocation::Object(part));
    story.complete_prepared(&prepared);
    story.breaks("one-leader", "stale-ack");
}

/// A replaced JobManager makes less visible than was decided; a void marker of its own time is no offence, nor is a manifest
/// whose author the store did not report.
#[test]
fn a_fenced_leader_may_only_repeat() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]);
    story.claim(2);
    story.incarnation = 1;
    let name = story.layout().sink_commit("audit", CheckpointId(1));
    story.create(name.as_str(), r#"{"kind": "commit", "checkpoint": 1, "objects": []}"#);
    story.breaks("one-leader", "zombie-commit");
    let mut story = Story::begin();
    story.claim(2);
    story.incarnation = 1;
    let name = story.layout().sink_commit("audit", CheckpointId(4));
    story.create(name.as_str(), r#"{"kind": "void", "checkpoint": 4, "objects": []}"#);
    story.holds();
}

/// The leader itself is judged by other invariants.
#[test]
fn the_leader_is_no_zombie() {
    let mut story = Story::begin();
    let prepared = story.prepare(1, &[10, 10]);
    story.commit_prepared(&prepared);
    assert!(story.found().iter().all(|(invariant, ..)| *invariant != "one-leader"), "{:?}", story.found());
}
