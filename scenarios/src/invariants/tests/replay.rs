use runtime::{ids::CheckpointId, journal::Event};

use crate::invariants::testing::Story;

fn ordered(story: &mut Story, checkpoint: Option<u64>, replay_to: Option<u64>) {
    let [checkpoint, replay_to] = [checkpoint, replay_to].map(|id| id.map(CheckpointId));
    let (job, attempt) = ("job".to_string(), story.next_attempt());
    story.event("jobmanager", Event::RestoreChosen { job, checkpoint, newest: replay_to, replay_to, attempt });
}

fn verified(story: &mut Story, epoch: u64) {
    story.event("jobmanager", Event::ReplayEpochVerified { epoch: CheckpointId(epoch) });
}

/// Checkpoints 1 to 3 with their output, of which the newest two are lost.
fn three() -> Story {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[15, 15]).commit(2).checkpoint(3, &[20, 20]).commit(3);
    story.lose_part(2);
    story.lose_part(3);
    story
}

/// Each epoch between the checkpoint restored and the newest must be verified, and that of the checkpoint itself need not.
#[test]
fn every_epoch_of_a_replay_is_verified() {
    for (epochs, right) in [(&[2, 3][..], true), (&[3], false), (&[2], false)] {
        let mut story = three();
        ordered(&mut story, Some(1), Some(3));
        epochs.iter().for_each(|epoch| verified(&mut story, *epoch));
        story.checkpoint(4, &[30, 30]).commit(4);
        if right { story.holds() } else { story.breaks("fallback-behind-commit", "commit-before-verification") }
    }
}

/// A start from nothing repeats everything, from the first epoch on.
#[test]
fn a_start_from_nothing_replays_everything() {
    for (epochs, right) in [(&[1, 2, 3][..], true), (&[2, 3], false)] {
        let mut story = three();
        story.lose_part(1);
        ordered(&mut story, None, Some(3));
        epochs.iter().for_each(|epoch| verified(&mut story, *epoch));
        story.checkpoint(4, &[30, 30]).commit(4);
        if right { story.holds() } else { story.breaks("fallback-behind-commit", "commit-before-verification") }
    }
    let mut story = three();
    story.lose_part(1);
    ordered(&mut story, None, None);
    story.breaks("fallback-behind-commit", "replay-too-short");
}

/// The newest checkpoint is complete, and its output was decided but not visible yet when its state was lost. The commit that
/// was still to come does not wait for the replay of the same epoch; the next one does.
#[test]
fn a_commit_decided_before_the_replay_may_come() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[15, 15]).commit(2).checkpoint(3, &[20, 20]);
    story.lose_part(2);
    story.lose_part(3);
    ordered(&mut story, Some(1), Some(3));
    story.commit(3);
    story.holds();
    story.checkpoint(4, &[30, 30]).commit(4);
    story.breaks("fallback-behind-commit", "commit-before-verification");
}

/// The next restore begins with a clean slate: it is of the newest checkpoint, which needs no replay.
#[test]
fn another_restore_needs_another_replay() {
    let mut story = three();
    ordered(&mut story, Some(1), Some(3));
    ordered(&mut story, Some(3), None);
    let other = story.found().iter().any(|(invariant, ..)| *invariant == "fallback-behind-commit");
    assert!(!other, "{:?}", story.found());
    story.checkpoint(4, &[30, 30]).commit(4);
    assert!(story.found().iter().all(|(_, kind, _)| *kind != "commit-before-verification"), "{:?}", story.found());
}

/// A void marker makes nothing visible: who restores behind it repeats nothing, and no replay is waited for.
#[test]
fn a_void_marker_is_no_commit() {
    let mut story = three();
    let void = |story: &mut Story, epoch: u64| {
        let name = story.layout().sink_commit("audit", CheckpointId(epoch));
        story.create(name.as_str(), format!(r#"{{"kind": "void", "checkpoint": {epoch}, "objects": []}}"#));
    };
    ordered(&mut story, Some(1), Some(3));
    void(&mut story, 4);
    story.holds();
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1);
    void(&mut story, 2);
    ordered(&mut story, Some(1), None);
    story.holds();
}

/// As many records as the ledger says, and others; or fewer, with the same sum.
#[test]
fn both_halves_of_a_digest_count() {
    let mut story = Story::begin();
    let mut prepared = story.prepare(1, &[10, 10]);
    prepared.digest.records += 1;
    story.complete_prepared(&prepared);
    story.commit(1);
    story.breaks("fallback-behind-commit", "ledger-digest");
}
