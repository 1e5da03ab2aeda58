use std::time::Duration;

use runtime::{
    ids::{CheckpointId, LeaderEpoch},
    journal::Event,
};

use crate::invariants::{
    telling::{aborted, changed, completed, triggered},
    testing::Story,
};

fn chosen(story: &mut Story) {
    story.attempt = story.next_attempt();
    let (job, attempt) = ("job".to_string(), story.attempt);
    let event = Event::RestoreChosen { job, checkpoint: None, newest: None, replay_to: None, attempt };
    story.event("jobmanager", event);
}

/// The pause is half a second, and ten milliseconds are no offence. The last checkpoint, which the sources' end asks for, does
/// not wait.
#[test]
fn a_pause_ends_when_it_ends() {
    for (at_ms, exhausted, right) in [(990, false, true), (989, false, false), (501, true, true)] {
        let mut story = Story::begin();
        triggered(&mut story, 1, 100);
        completed(&mut story, 1, 500);
        if exhausted {
            let (subtask, attempt) = ("read[0]".to_string(), story.attempt);
            story.event("jobmanager", Event::SourceExhausted { subtask, attempt });
        }
        triggered(&mut story, 2, at_ms);
        if right { story.holds() } else { story.breaks("checkpoint-ids", "pause-too-short") }
    }
}

/// Ten seconds, to the millisecond, counted from the trigger.
#[test]
fn a_timeout_ends_when_it_ends() {
    for (at_ms, right) in [(13_010, true), (13_011, false)] {
        let mut story = Story::begin();
        triggered(&mut story, 1, 3_000);
        story.truth.set_now(Duration::from_millis(at_ms));
        let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(1));
        story.event("jobmanager", Event::CheckpointAcked { subtask, checkpoint });
        if right {
            story.holds();
        } else {
            story.breaks("checkpoint-ids", "timeout-ignored");
            story.says("acknowledged 10.011s after the trigger");
        }
    }
}

/// Two are allowed: the third is one too many, unless one of them has ended somehow.
#[test]
fn as_many_as_allowed_may_be_under_way() {
    let nothing: &dyn Fn(&mut Story) = &|_| {};
    let aborts: &dyn Fn(&mut Story) = &|story| aborted(story, 1);
    let expires: &dyn Fn(&mut Story) =
        &|story| story.event("jobmanager", Event::CheckpointExpired { checkpoint: CheckpointId(1) });
    let completes: &dyn Fn(&mut Story) = &|story| completed(story, 1, 2_000);
    for (ends, right) in [(nothing, false), (aborts, true), (expires, true), (completes, true)] {
        let mut story = Story::configured(|config| config.timing.max_concurrent = 2);
        triggered(&mut story, 1, 100);
        triggered(&mut story, 2, 1_000);
        story.holds();
        ends(&mut story);
        triggered(&mut story, 3, 9_000);
        if right { story.holds() } else { story.breaks("checkpoint-ids", "too-many-concurrent") }
    }
}

/// What an attempt before had under way is not any more, also where nobody said so.
#[test]
fn the_checkpoints_of_the_attempt_before_are_over() {
    let mut story = Story::begin();
    triggered(&mut story, 1, 100);
    story.attempt = story.next_attempt();
    triggered(&mut story, 2, 9_000);
    story.holds();
    triggered(&mut story, 3, 18_000);
    story.breaks("checkpoint-ids", "too-many-concurrent");
}

/// Another leader, or the same process in another life, counts for itself.
#[test]
fn leaders_are_counted_apart() {
    let mut story = Story::begin();
    triggered(&mut story, 5, 100);
    story.incarnation += 1;
    triggered(&mut story, 4, 200);
    story.holds();
    triggered(&mut story, 3, 300);
    story.breaks("checkpoint-ids", "id-not-increasing");
}

/// One leader triggers the same checkpoint twice.
#[test]
fn an_id_triggered_twice_is_found() {
    let mut story = Story::begin();
    triggered(&mut story, 1, 100);
    aborted(&mut story, 1);
    triggered(&mut story, 1, 9_000);
    story.breaks("checkpoint-ids", "id-not-increasing");
}

/// With a new attempt nothing is under way and no pause is asked for, sources have input again; ids go on, and so does the state
/// of the job as it was told.
#[test]
fn a_restart_forgets_what_was_under_way_and_no_more() {
    let mut story = Story::begin();
    triggered(&mut story, 1, 100);
    completed(&mut story, 1, 500);
    triggered(&mut story, 2, 9_000);
    chosen(&mut story);
    triggered(&mut story, 3, 9_001);
    story.holds();
    let mut story = Story::begin();
    triggered(&mut story, 5, 100);
    chosen(&mut story);
    triggered(&mut story, 4, 9_000);
    story.breaks("checkpoint-ids", "id-not-increasing");
    let mut story = Story::begin();
    changed(&mut story, "RESTARTING");
    chosen(&mut story);
    triggered(&mut story, 1, 9_000);
    story.breaks("checkpoint-ids", "triggered-while-not-running");
    let mut story = Story::begin();
    let (subtask, attempt) = ("read[0]".to_string(), story.attempt);
    story.event("jobmanager", Event::SourceExhausted { subtask, attempt });
    chosen(&mut story);
    triggered(&mut story, 1, 9_000);
    completed(&mut story, 1, 9_500);
    triggered(&mut story, 2, 9_501);
    story.breaks("checkpoint-ids", "pause-too-short");
}

/// A new leader has not said yet how the job is.
#[test]
fn a_new_leader_says_the_state_anew() {
    let mut story = Story::begin();
    changed(&mut story, "FAILING");
    let (process, leader) = ("jobmanager".to_string(), LeaderEpoch(2));
    story.event("jobmanager", Event::LeaderElected { process, leader, entries: 9 });
    triggered(&mut story, 1, 100);
    story.holds();
}

/// The files of a checkpoint belong to one attempt, and nobody said that they were written.
#[test]
fn an_id_used_again_shows_in_the_names_of_files() {
    let mut story = Story::begin();
    story.prepare(1, &[10, 10]);
    story.restore(None, None);
    story.prepare(1, &[10, 10]);
    story.breaks("checkpoint-ids", "id-reused");
}

/// The same checkpoint completes a second time, after nothing or after newer ones.
#[test]
fn a_checkpoint_completes_once() {
    let mut story = Story::begin();
    let first = story.prepare(1, &[10, 10]);
    story.complete_prepared(&first);
    story.complete_prepared(&first);
    story.breaks("checkpoint-ids", "id-not-increasing");
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).checkpoint(5, &[20, 20]).checkpoint(3, &[20, 20]);
    story.breaks("checkpoint-ids", "id-not-increasing");
    story.says("completed after checkpoint 5");
}

/// A savepoint may run beside as many checkpoints as are allowed, and does not keep to the pause. One that is behind a later checkpoint
/// when it is complete ends nobody's pause.
#[test]
fn a_savepoint_does_not_wait_its_turn() {
    let savepoint = |story: &mut Story, id, at_ms| {
        let (checkpoint, directory) = (CheckpointId(id), "savepoints/savepoint-1".to_string());
        story.event("jobmanager", Event::SavepointTriggered { checkpoint, directory });
        triggered(story, id, at_ms);
    };
    let mut story = Story::begin();
    triggered(&mut story, 1, 100);
    savepoint(&mut story, 2, 200);
    story.holds();
    completed(&mut story, 1, 900);
    savepoint(&mut story, 3, 1_000);
    story.holds();
    for id in [2, 3] {
        story.truth.set_now(Duration::from_millis(1_390));
        let (checkpoint, directory) = (CheckpointId(id), "savepoints/savepoint-1".to_string());
        story.event("jobmanager", Event::SavepointCompleted { checkpoint, directory, overtaken: true });
    }
    triggered(&mut story, 4, 1_400);
    story.holds();
    triggered(&mut story, 5, 1_500);
    story.breaks("checkpoint-ids", "too-many-concurrent");
}
