use crate::invariants::testing::Story;

/// A key is lost by a restore. The first checkpoint after it is invariant 3's to judge; where nothing was restored, and from the
/// second one on, it is this one's.
#[test]
fn state_after_a_restore_is_judged_from_the_second_checkpoint_on() {
    let lost = |restored: Option<u64>, later: &[u64]| {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        story.restore(restored, restored);
        later.iter().zip(2..).for_each(|(position, id)| {
            story.checkpoint(id, &[*position, *position]).commit(id);
        });
        story
    };
    let mut story = lost(Some(1), &[]);
    story.model.keys.remove(&0);
    story.checkpoint(2, &[10, 10]);
    assert!(story.found().iter().all(|(invariant, ..)| *invariant == "restored-state"), "{:?}", story.found());
    let mut story = lost(Some(1), &[20]);
    story.holds();
    story.model.keys.remove(&0);
    story.checkpoint(3, &[20, 20]);
    story.breaks("barrier-side", "state-missing");
    let mut story = Story::begin();
    story.restore(None, None);
    story.checkpoint(1, &[10, 10]);
    story.model.keys.remove(&0);
    story.checkpoint(2, &[10, 10]);
    story.breaks("barrier-side", "state-missing");
}
