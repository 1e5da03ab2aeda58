//! The runtime's own assertions: what it says must always hold, at the places where it can see it.
//!
//! Rule: no condition declared `always` in [`runtime::points`] is ever false. Each is reported under its own name.
//!
//! Truth: none but the runtime's word against itself. That can only add a finding, never hide one.
//!
//! Excuse: none.

use runtime::{journal::Event, points::Point};

use super::{Check, Findings, Look, Seen};

pub(super) struct Assertions;

impl Check for Assertions {
    fn name(&self) -> &'static str {
        "assertions"
    }

    fn on_event(&mut self, _look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        let Event::AssertionBroken { assertion, detail } = seen.event else { return };
        let declared = Point::ALL.iter().find(|point| point.name() == assertion);
        let invariant = declared.map_or("assertions", |point| point.name());
        let mut out = Findings { invariant, found: out.found };
        out.report(seen.process, "broken", detail);
    }
}

#[cfg(test)]
mod tests {
    use runtime::{journal::Event, points::Point};

    use crate::invariants::testing::Story;

    #[test]
    fn an_assertion_that_does_not_hold_is_a_violation_of_its_own_name() {
        let mut story = Story::begin();
        story.event(
            "jobmanager",
            Event::AssertionBroken { assertion: Point::CompletesUpwards.name().into(), detail: "3 after 4".into() },
        );
        story.breaks("completes-upwards", "broken");
    }
}
