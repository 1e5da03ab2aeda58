use runtime::{
    ids::{AllocationId, CheckpointId},
    journal::Event,
};

use crate::invariants::{FaultNotice, Truth, testing::Story};

fn chosen(story: &mut Story, checkpoint: u64) {
    let (job, attempt, checkpoint) = ("job".to_string(), story.next_attempt(), Some(CheckpointId(checkpoint)));
    let event = Event::RestoreChosen { job, checkpoint, newest: checkpoint, replay_to: None, attempt };
    story.event("jobmanager", event);
}

/// The newest checkpoint's part is lost in primary; a local copy that would do does not count if local recovery is off, if it is
/// on another machine, or if the plan had its hands on it or on its manifest.
#[test]
fn a_local_copy_counts_where_it_can_be_taken() {
    let nothing: &dyn Fn(&mut Story) = &|_| {};
    let elsewhere: &dyn Fn(&mut Story) = &|story| {
        story.drop_local("machine-1", 2);
        story.local_copy("machine-2", 2);
    };
    let reallocated: &dyn Fn(&mut Story) = &|story| {
        let (subtask, attempt, task_manager) = ("fold[0]".to_string(), story.next_attempt(), "tm-1".to_string());
        let allocation = AllocationId(6);
        story.event("jobmanager", Event::TaskDeployed { subtask, attempt, task_manager, slot: 0, allocation });
    };
    let rotten: &dyn Fn(&mut Story) = &|story| story.truth.write_local_part("machine-1", 2, b"rot");
    let hit = |story: &mut Story, file: &str| {
        let files = story.truth.files("machine-1");
        let (path, _) = files.into_iter().find(|(path, _)| path.ends_with(file)).expect("it is there");
        story.fault(&FaultNotice::LocalFile { machine: "machine-1".into(), path });
    };
    let file: &dyn Fn(&mut Story) = &|story| hit(story, "/part-0");
    let manifest: &dyn Fn(&mut Story) = &|story| hit(story, "/manifest");
    for (local_recovery, change, counts) in [
        (true, nothing, true),
        (false, nothing, false),
        (true, elsewhere, false),
        (true, reallocated, true),
        (true, rotten, false),
        (true, file, false),
        (true, manifest, false),
    ] {
        let mut story = Story::configured(|config| config.local_recovery = local_recovery);
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]).local_copy("machine-1", 2);
        change(&mut story);
        story.lose_part(2);
        story.part_lost("tm-1", 2);
        if counts { story.breaks("correct-fallback", "given-up-though-local") } else { story.holds() }
    }
}

/// What was rightly given up stays so, whatever becomes of the object or a copy of it.
#[test]
fn a_part_given_up_rightly_condemns_its_checkpoint() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]).local_copy("machine-2", 2);
    story.lose_part(2);
    story.part_lost("tm-1", 2);
    story.restore(Some(1), Some(2));
    story.holds();
}

/// The choice is made by the JobManager: a lost part is no reason while a local copy somewhere has it, unless nobody looks there.
#[test]
fn a_checkpoint_with_a_local_copy_is_whole() {
    for (local_recovery, right) in [(true, false), (false, true)] {
        let mut story = Story::configured(|config| config.local_recovery = local_recovery);
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]).local_copy("machine-2", 2);
        story.lose_part(2);
        story.restore(Some(1), Some(2));
        if right { story.holds() } else { story.breaks("correct-fallback", "not-the-newest-whole") }
    }
}

/// Reads of the part, or of the metadata, give wrong bytes while the object is whole: who takes it for lost is right.
#[test]
fn what_was_misread_may_be_taken_for_lost() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]);
    let second = story.prepare(2, &[20, 20]);
    story.complete_prepared(&second);
    story.fault(&FaultNotice::Misread { name: second.parts[0].clone() });
    story.part_lost("tm-1", 2);
    story.restore(Some(1), Some(2));
    story.holds();
    let third = story.prepare(3, &[30, 30]);
    story.complete_prepared(&third);
    story.fault(&FaultNotice::Misread { name: third.metadata_name() });
    chosen(&mut story, 1);
    let first = story.found().into_iter().find(|(invariant, ..)| *invariant == "correct-fallback");
    assert_eq!(first, None, "2 is condemned, 3 cannot be read");
}

/// The job starts from nothing although something is retained and whole.
#[test]
fn a_start_from_nothing_is_right_only_if_nothing_is_whole() {
    for (lost, right) in [(vec![], false), (vec![2], false), (vec![1, 2], true)] {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]);
        lost.iter().for_each(|id| story.lose_part(*id));
        story.restore(None, None);
        if right { story.holds() } else { story.breaks("correct-fallback", "not-the-newest-whole") }
    }
}
