use std::time::Duration;

use crate::invariants::{FallbackPolicy, FaultNotice, testing::Story};

/// The bound itself is no offence; a message says how late it was.
#[test]
fn the_bound_is_the_last_moment() {
    for (at_ms, right) in [(70_000, true), (70_001, false)] {
        let mut story = Story::begin();
        story.checkpoint(1, &[30, 30]).commit(1);
        story.truth.set_now(Duration::from_secs(10));
        story.fault(&FaultNotice::Healed);
        story.truth.set_now(Duration::from_millis(at_ms));
        story.finish();
        if right {
            story.holds();
        } else {
            story.breaks("liveness", "too-late");
            story.says("finished 60.001s after healing");
        }
    }
}

/// A stalled job tells when it last got on.
#[test]
fn a_stall_says_when_it_began() {
    let mut story = Story::begin();
    story.truth.set_now(Duration::from_secs(7));
    story.checkpoint(1, &[10, 10]).commit(1);
    story.truth.set_now(Duration::from_secs(90));
    story.end(None);
    story.breaks("liveness", "stalled");
    story.says("last completed checkpoint at Some(7s), now 90s");
}

/// Nothing was ever completed: from nothing the job can always start.
#[test]
fn a_job_without_a_checkpoint_has_no_excuse() {
    let mut story = Story::begin();
    story.end(Some(Err("given up".into())));
    story.breaks("liveness", "failed");
}

/// The last checkpoint is lost in primary, and a local copy still has all of it: no proof.
#[test]
fn a_local_copy_is_a_whole_copy() {
    for kept in [true, false] {
        let mut story = Story::begin();
        story.retain = 1;
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2).local_copy("machine-1", 2);
        story.lose_part(2);
        if !kept {
            story.rot_local("machine-1", 2);
        }
        story.end(Some(Err("nothing to restore".into())));
        if kept { story.breaks("liveness", "failed") } else { story.holds() }
    }
}

/// Under the policy `fail` everything retained must be lost, the newest with it.
#[test]
fn the_newest_checkpoint_is_a_way_back_under_fail() {
    let mut story = Story::configured(|config| config.fallback = FallbackPolicy::Fail);
    story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2);
    story.lose_part(1);
    story.end(Some(Err("nothing to restore".into())));
    story.breaks("liveness", "failed");
}
