use runtime::journal::Event;

use crate::invariants::testing::Story;

/// A name that nobody declared is reported under the invariant's own.
#[test]
fn an_assertion_that_was_not_declared_counts_too() {
    let mut story = Story::begin();
    story.event("tm-1", Event::AssertionBroken { assertion: "new".into(), detail: String::new() });
    story.breaks("assertions", "broken");
}
