use std::time::Duration;

use runtime::{
    ids::{CheckpointId, SubtaskId, VertexId},
    journal::Event,
};

use crate::invariants::{FaultNotice, testing::Story};

/// Two seconds are enough, to the instant.
#[test]
fn soon_is_two_seconds() {
    for (at_ms, found) in [(3_099, false), (3_100, true)] {
        let mut story = Story::begin();
        story.truth.set_now(Duration::from_millis(1_100));
        story.prepare(1, &[10, 10]);
        late(&mut story, "fold[0]");
        story.truth.set_now(Duration::from_millis(at_ms));
        story.event("jobmanager", Event::CheckpointCompleted { checkpoint: CheckpointId(2), sequence: 2 });
        if found {
            story.breaks("file-lifetime", "late-ack-left-behind");
            story.says("fold[0] acknowledged it too late, 2s ago");
        } else {
            story.holds();
        }
    }
}

fn late(story: &mut Story, subtask: &str) {
    let (subtask, checkpoint) = (subtask.to_string(), CheckpointId(1));
    story.event("jobmanager", Event::LateAckDiscarded { subtask, checkpoint });
}

/// The JobManager was hit since it heard of it, or before, or another process was; it died, or the subtask is none of the job's.
#[test]
fn only_what_keeps_the_job_manager_from_deleting_excuses() {
    let fault =
        |process: &'static str| move |story: &mut Story| story.fault(&FaultNotice::Process { process: process.into() });
    let (own, other) = (fault("jobmanager"), fault("tm-1"));
    let nothing = |_: &mut Story| {};
    let died = |story: &mut Story| story.incarnation += 1;
    type Step<'a> = &'a dyn Fn(&mut Story);
    let cases: [(&str, Step, Step, bool); 6] = [
        ("fold[0]", &nothing, &nothing, false),
        ("fold[0]", &nothing, &own, true),
        ("fold[0]", &own, &nothing, false),
        ("fold[0]", &nothing, &other, false),
        ("fold[0]", &nothing, &died, true),
        ("nobody[0]", &nothing, &nothing, true),
    ];
    for (number, (subtask, before, since, right)) in cases.into_iter().enumerate() {
        let mut story = Story::begin();
        story.prepare(1, &[10, 10]);
        before(&mut story);
        story.truth.set_now(Duration::from_secs(1));
        late(&mut story, subtask);
        since(&mut story);
        story.truth.set_now(Duration::from_secs(9));
        story.event("jobmanager", Event::CheckpointCompleted { checkpoint: CheckpointId(2), sequence: 2 });
        assert_eq!(story.found().is_empty(), right, "case {number}: {:?}", story.found());
    }
}

/// What may be shared lies elsewhere and goes as soon. What other subtasks and other checkpoints wrote may stay.
#[test]
fn late_files_are_those_of_the_subtask_and_the_checkpoint() {
    let layout = Story::begin().layout();
    let attempt = Story::begin().attempt;
    let fold = |index| SubtaskId { vertex: VertexId(1), index };
    let shared = |id, index| layout.shared_part(CheckpointId(id), attempt, fold(index), "part-0", 9);
    let own = |id, index| layout.state_part(CheckpointId(id), attempt, fold(index), "part-0", 9);
    for (object, right) in [
        (shared(1, 0), false),
        (own(1, 0), false),
        (shared(2, 0), true),
        (own(2, 0), true),
        (shared(1, 1), true),
        (own(1, 1), true),
    ] {
        let mut story = Story::begin();
        story.create(object.as_str(), "state");
        late(&mut story, "fold[0]");
        story.truth.set_now(Duration::from_secs(9));
        story.event("jobmanager", Event::CheckpointCompleted { checkpoint: CheckpointId(3), sequence: 2 });
        if right { story.holds() } else { story.breaks("file-lifetime", "late-ack-left-behind") }
    }
}

/// Beside the head log lie leases and probes, which come and go.
#[test]
fn only_entries_of_the_log_must_stay() {
    let prefix = Story::begin().layout().head_prefix();
    for name in ["lease", "xxxxxxxxxxxxxxxxxxx", "000000000000000001x", "00000000000000000012", "1"] {
        let mut story = Story::begin();
        story.create(&format!("{prefix}{name}"), "lease");
        let before = story.found().len();
        story.delete(&format!("{prefix}{name}"));
        assert_eq!(story.found().len(), before, "{name}: {:?}", story.found());
    }
}

/// Output that was given up, and output of a checkpoint that is retained no more and was never committed, may go.
#[test]
fn output_that_will_never_be_committed_may_go() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1);
    let given_up = story.prepare(2, &[20, 20]);
    // Another checkpoint has its output still to commit; that is not this.
    story.checkpoint(3, &[25, 25]);
    story.delete(given_up.objects[0].object.as_str());
    story.holds();
}

/// As long as the orphan sweep has not been, anything may be left.
#[test]
fn leftovers_are_counted_after_the_sweep_only() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1);
    story.prepare(2, &[20, 20]);
    story.end(None);
    story.holds_but_unfinished();
}
