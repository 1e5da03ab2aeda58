use runtime::{ids::CheckpointId, journal::Event};

use crate::invariants::testing::Story;

/// The metadata says that a part is longer than what lies in primary.
#[test]
fn a_part_of_another_length_is_found() {
    let mut story = Story::begin();
    let prepared = story.prepare(1, &[10, 10]);
    story.bend(&prepared, |list| list[0].1.parts[0].length += 1);
    story.complete_prepared(&prepared);
    story.breaks("primary-superset", "part-length");
}

fn stored(story: &mut Story, checkpoint: u64) {
    let (subtask, checkpoint) = ("fold[0]".to_string(), CheckpointId(checkpoint));
    story.event("tm-1", Event::LocalCopyStored { subtask, checkpoint, parts: 1 });
}

/// A local copy that comes later than its checkpoint is looked at when it is announced, and no other is.
#[test]
fn a_copy_is_looked_at_when_it_is_stored() {
    for (announced, found) in [(1, true), (2, false)] {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]).local_copy("machine-1", 1).local_copy("machine-1", 2);
        story.truth.write_local_part("machine-1", 1, b"something else");
        stored(&mut story, announced);
        if found { story.breaks("primary-superset", "local-differs") } else { story.holds() }
    }
}

/// A copy of a dropped checkpoint, one that the plan has damaged, one whose object the plan has damaged: each promises
/// nothing.
#[test]
fn copies_of_what_is_dropped_or_damaged_pass() {
    let dropped: &dyn Fn(&mut Story) = &|story| {
        story.retain = 1;
        story.checkpoint(2, &[20, 20]);
        story.truth.write_local_part("machine-1", 1, b"something else");
    };
    let local: &dyn Fn(&mut Story) = &|story| story.rot_local("machine-1", 1);
    let primary: &dyn Fn(&mut Story) = &|story| story.lose_part(1);
    for what in [dropped, local, primary] {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).local_copy("machine-1", 1);
        what(&mut story);
        story.checkpoint(3, &[30, 30]);
        story.holds();
    }
}
