use runtime::checkpoint::types::PrecommittedObject;

use crate::invariants::{FaultNotice, HeadRecord, testing::Story};

/// An epoch without output has nothing to make visible: the next one need not wait for its manifest.
#[test]
fn an_epoch_without_output_need_not_be_committed() {
    let mut story = Story::begin();
    story.checkpoint(1, &[0, 0]).checkpoint(2, &[20, 20]).commit(2);
    story.holds();
}

/// The object is as it was written, and both manifest and head log say otherwise about its length, or its records.
#[test]
fn output_that_is_not_as_it_was_decided_is_found() {
    let longer: &dyn Fn(&mut PrecommittedObject) = &|object| object.length += 1;
    let more: &dyn Fn(&mut PrecommittedObject) = &|object| object.records += 1;
    for wrong in [longer, more] {
        let mut story = Story::begin();
        let mut prepared = story.prepare(1, &[10, 10]);
        wrong(&mut prepared.objects[0]);
        story.complete_prepared(&prepared);
        story.commit_prepared(&prepared);
        story.breaks("exactly-once", "unreadable");
    }
}

/// Inputs are missing. The head log says that the job is finished, or only the job's outcome does, or nobody; or the plan has
/// destroyed output, and nobody can tell.
#[test]
fn a_job_that_is_done_has_put_out_everything() {
    for (logged, outcome, destroyed, found) in [
        (true, None, false, true),
        (false, Some(Ok(())), false, true),
        (false, None, false, false),
        (false, Some(Err("given up".to_string())), false, false),
        (true, Some(Ok(())), true, false),
    ] {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        if destroyed {
            let name = story.data_of(1);
            story.truth.rot(&name);
            story.fault(&FaultNotice::Object { name });
        }
        story.commit(1);
        if logged {
            story.head(&HeadRecord::Finished);
        }
        story.end(outcome.clone());
        if found { story.breaks("exactly-once", "missing") } else { story.holds_but_unfinished() }
    }
}
