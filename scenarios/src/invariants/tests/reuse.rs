use runtime::{checkpoint::types::PartLocation, platform::ObjectName};

use crate::invariants::{Truth, testing::Story};

/// Only what is below the job's own checkpoints is somebody's; the rest of the rule is for other invariants.
#[test]
fn parts_elsewhere_are_nobodys() {
    let mut story = Story::begin();
    let first = story.prepare(1, &[10, 10]);
    let bytes = story.truth.object(&first.parts[0]).expect("it is there");
    story.create("elsewhere/chk-7/part-0", bytes);
    story.bend(&first, |list| {
        let elsewhere = ObjectName::new("elsewhere/chk-7/part-0").expect("a plain name");
        list[0].1.parts[0].location = PartLocation::Object(elsewhere);
    });
    story.complete_prepared(&first);
    story.holds();
}
