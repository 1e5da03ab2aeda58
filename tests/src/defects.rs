//! Runs a plan with a deliberate defect of the runtime and without, and sees what the invariants say.

use runtime::{journal::EventKind, sabotage::Sabotage};
use scenarios::plan::{Plan, Profile, generate};

use crate::tales::tell;

/// Runs the plan with and without the defect. Gives whether it was caught.
///
/// # Panics
/// If it was caught by none of the invariants named, before it left its marker, or if the plan fails without it too.
#[track_caller]
pub fn is_caught_in(plan: &Plan, sabotage: Sabotage, by: &[&str]) -> bool {
    let mut sabotaged = plan.clone();
    sabotaged.sabotage = vec![sabotage];
    let tale = tell(&sabotaged);
    let Some(invariant) = tale.record.invariant.as_deref() else {
        assert!(!tale.record.verdict.is_failure(), "{sabotage:?}, seed {}: {:?}", plan.seed, tale.record.message);
        return false;
    };
    let message = tale.record.message.as_deref().unwrap_or_default();
    assert!(
        by.contains(&invariant),
        "{sabotage:?}, seed {}: caught by {invariant} instead of {by:?}: {message}",
        plan.seed
    );
    let marker = EventKind::PlantedBugRan.name();
    assert!(tale.record.coverage.events.contains_key(marker), "{sabotage:?}, seed {}: no {marker}", plan.seed);
    let whole = tell(plan).record;
    assert!(!whole.verdict.is_failure(), "seed {} fails without the defect too: {:?}", plan.seed, whole.message);
    assert!(!whole.coverage.events.contains_key(marker), "seed {}: {marker} without a defect", plan.seed);
    println!("{sabotage:?}: caught by {invariant} at seed {} of profile {}: {message}", plan.seed, plan.profile);
    true
}

/// Sweeps seeds of a profile until the defect is caught; `most` seeds must do.
///
/// # Panics
/// If they do not, and as [`is_caught_in`].
#[track_caller]
pub fn is_caught(sabotage: Sabotage, profile: &str, most: u64, by: &[&str]) {
    let profile = Profile::named(profile).expect("a declared profile");
    let caught = (0..most).any(|seed| is_caught_in(&generate(profile, seed), sabotage, by));
    assert!(caught, "{sabotage:?} was not caught in {most} seeds of profile {}", profile.name);
}
