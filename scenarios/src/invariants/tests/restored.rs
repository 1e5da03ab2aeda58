use std::time::Duration;

use runtime::{
    ids::{AllocationId, CheckpointId, SubtaskId, VertexId},
    journal::Event,
    layout::LocalLayout,
};

use crate::invariants::{FaultNotice, Truth, testing::Story};

fn taken_locally(story: &mut Story) {
    let (subtask, checkpoint, part) = ("fold[0]".to_string(), CheckpointId(1), "part-0".to_string());
    story.event("tm-1", Event::PartRestoredLocally { subtask, checkpoint, part, bytes: 0 });
}

fn taken_from_primary(story: &mut Story, part: &str) {
    let (subtask, checkpoint, part) = ("fold[0]".to_string(), CheckpointId(1), part.to_string());
    story.event("tm-1", Event::PartRestoredFromPrimary { subtask, checkpoint, part, bytes: 0 });
}

fn restoring() -> Story {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1).local_copy("machine-1", 1);
    story.restore(Some(1), Some(1));
    story
}

/// The local copy is damaged before the subtask begins to restore, at that very instant, or while it reads; or another
/// machine's is. A disk that fails while it is read, and a file that goes, excuse in the same way.
#[test]
fn only_damage_to_this_copy_while_it_is_read_excuses() {
    let rot: &dyn Fn(&mut Story) = &|story| story.rot_local("machine-1", 1);
    let removed: &dyn Fn(&mut Story) = &|story| {
        story.drop_local("machine-1", 1);
        story.fault(&FaultNotice::LocalFile { machine: "machine-1".into(), path: "whichever".into() });
    };
    let wiped: &dyn Fn(&mut Story) = &|story| {
        story.drop_local("machine-1", 1);
        story.fault(&FaultNotice::Disk { machine: "machine-1".into() });
    };
    let elsewhere: &dyn Fn(&mut Story) = &|story| {
        story.drop_local("machine-1", 1);
        story.fault(&FaultNotice::Disk { machine: "machine-2".into() });
        story.fault(&FaultNotice::LocalFile { machine: "machine-2".into(), path: "whichever".into() });
    };
    for (number, (damage, can_excuse)) in
        [(rot, true), (removed, true), (wiped, true), (elsewhere, false)].iter().enumerate()
    {
        for (begins, excused) in [("after", false), ("with", true), ("before", true), ("unknown", true)] {
            let mut story = restoring();
            if begins == "with" || begins == "before" {
                story.event_restore_started("tm-1", 1);
            }
            if begins == "before" {
                story.truth.set_now(Duration::from_secs(1));
            }
            damage(&mut story);
            if begins == "after" {
                story.event_restore_started("tm-1", 1);
            }
            taken_locally(&mut story);
            let fine = *can_excuse && excused;
            assert_eq!(story.found().is_empty(), fine, "damage {number}, restore begun {begins}: {:?}", story.found());
            if !fine {
                story.breaks("restored-state", "wrong-local-bytes");
            }
        }
    }
}

/// The same bytes lie in the copy of another checkpoint, of another subtask, under another name: none of them is the part.
#[test]
fn the_bytes_of_another_copy_are_not_the_parts() {
    let mut story = Story::begin();
    let first = story.prepare(1, &[10, 10]);
    story.complete_prepared(&first);
    story.commit(1);
    story.reusing(2, &first);
    story.local_copy("machine-1", 2);
    let bytes = story.truth.object(&first.parts[0]).expect("it is there");
    story.truth.write_local("machine-1", 1, "part-1", &bytes);
    let other = SubtaskId { vertex: VertexId(1), index: 1 };
    let directory = LocalLayout::checkpoint(AllocationId(5), story.layout().job, other, CheckpointId(1));
    story.truth.put_file("machine-1", &format!("{directory}/part-0"), &bytes);
    story.holds();
    taken_locally(&mut story);
    story.breaks("restored-state", "wrong-local-bytes");
}

/// A subtask that restores for an attempt which is over may take what it likes; nobody will use it.
#[test]
fn a_straggler_may_restore_anything() {
    for straggles in [true, false] {
        let mut story = restoring();
        story.rot_local("machine-1", 1);
        story.lose_part(1);
        story.truth.set_now(Duration::from_secs(1));
        story.event_restore_started("tm-1", 1);
        if straggles {
            story.restore(Some(1), Some(1));
        }
        let before = story.found().len();
        taken_locally(&mut story);
        taken_from_primary(&mut story, "part-0");
        assert_eq!(story.found().len() - before, if straggles { 0 } else { 2 }, "{:?}", story.found());
    }
}

/// A part that the checkpoint does not have cannot come from a local copy either.
#[test]
fn a_foreign_local_part_is_found() {
    let mut story = restoring();
    let (subtask, checkpoint, part) = ("fold[0]".to_string(), CheckpointId(1), "part-7".to_string());
    story.event("tm-1", Event::PartRestoredLocally { subtask, checkpoint, part, bytes: 0 });
    story.breaks("restored-state", "foreign-part");
}

/// The object is gone and the plan did not do it; or it did, and nobody saw the restore begin, or it began at that very
/// instant.
#[test]
fn only_the_plan_excuses_a_part_that_is_gone() {
    for (by_plan, begun) in [(false, true), (true, false), (true, true)] {
        let mut story = Story::begin();
        let first = story.prepare(1, &[10, 10]);
        story.complete_prepared(&first);
        story.commit(1).restore(Some(1), Some(1));
        if begun {
            story.event_restore_started("tm-1", 1);
        }
        if by_plan {
            story.lose_part(1)
        } else {
            story.truth.remove(&first.parts[0])
        }
        taken_from_primary(&mut story, "part-0");
        if by_plan { story.holds() } else { story.breaks("restored-state", "wrong-primary-bytes") }
    }
}

/// What follows is judged by others: state lost later than at the first checkpoint after a restore, or without one.
#[test]
fn only_the_first_checkpoint_after_a_restore_tells_of_it() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1);
    story.restore(Some(1), Some(1));
    story.checkpoint(2, &[20, 20]).commit(2);
    story.model.keys.remove(&0);
    story.checkpoint(3, &[20, 20]);
    assert!(story.found().iter().all(|(invariant, ..)| *invariant != "restored-state"), "{:?}", story.found());
    let mut story = Story::begin();
    story.restore(None, None);
    story.model.keys.insert(77, (1, 1, 5, 5));
    story.checkpoint(1, &[10, 10]);
    assert!(story.found().iter().all(|(invariant, ..)| *invariant != "restored-state"), "{:?}", story.found());
    assert!(!story.found().is_empty());
}

/// A restore that adds what was not there shows against the output, as one that loses something shows against the checkpoint.
#[test]
fn state_that_the_restore_invented_is_found() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).commit(1);
    story.restore(Some(1), Some(1));
    let fold = story.model.keys[&0];
    story.model.keys.insert(77, fold);
    story.checkpoint(2, &[10, 10]);
    story.breaks("restored-state", "state-extra");
}
