//! The whole story of a run, kept: what shrinking and explaining look up.

use std::sync::{Arc, Mutex};

use reports::RunRecord;
use runtime::journal::EventKind;

use crate::{
    plan::Plan,
    record::{Observer, Story},
    run::run_plan,
};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at_ms: u64,
    pub kind: EventKind,
    pub process: String,
    /// What it happened to.
    pub entity: String,
    /// As `./weir replay` tells it.
    pub text: String,
}

struct Keeper(Arc<Mutex<Vec<Moment>>>);

impl Observer for Keeper {
    fn event(&mut self, story: &Story<'_>) {
        // Nobody panics while holding it.
        if let Ok(mut moments) = self.0.lock() {
            moments.push(Moment {
                at_ms: story.at_ms,
                kind: story.event.kind(),
                process: story.process.to_string(),
                entity: story.event.entity(),
                text: story.to_string(),
            });
        }
    }
}

/// From here on a panic in this process says nothing by itself. Those of user code are planned, and those of a run are in its record.
pub fn hush_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Runs the plan in this process. Only for a plan whose run is known to come to its end.
///
/// # Errors
/// A line that says why it cannot be run.
pub fn tell(plan: &Plan) -> Result<(RunRecord, Vec<Moment>), String> {
    let moments = Arc::new(Mutex::new(Vec::new()));
    let record = run_plan(plan, Box::new(Keeper(moments.clone()))).map_err(|error| error.to_string())?;
    let moments = moments.lock().map(|mut moments| std::mem::take(&mut *moments)).unwrap_or_default();
    Ok((record, moments))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Reseed, generate, profile};

    fn texts(plan: &Plan) -> Vec<String> {
        tell(plan).expect("a sound plan").1.into_iter().map(|moment| moment.text).collect()
    }

    #[test]
    fn a_reseeded_run_keeps_its_past_and_gets_another_future() {
        let plan = generate(&profile::DEFAULT, 5);
        let own = texts(&plan);
        let after_event = own.len() as u64 / 2;
        let kept = own.len() / 2 + 1;
        let future = |seed| texts(&Plan { reseed: Some(Reseed { after_event, seed }), ..plan.clone() });
        let (one, other) = (future(1), future(2));
        assert_eq!(one[..kept], own[..kept]);
        assert_eq!(other[..kept], own[..kept]);
        assert!(one != own && other != own && one != other, "the future is the same");
        assert_eq!(future(1), one, "it is no function of the plan");
        // The seed that it has already changes nothing.
        assert_eq!(future(plan.seed), own);
    }

    #[test]
    fn another_schedule_is_another_run_of_the_same_input() {
        let plan = generate(&profile::DEFAULT, 5);
        let other = Plan { schedule_seed: Some(77), ..plan.clone() };
        let (own, other) = (tell(&plan).expect("sound"), tell(&other).expect("sound"));
        assert_ne!(own.0.trace, other.0.trace);
        assert_eq!(own.0.counters.records, other.0.counters.records);
        let same = Plan { schedule_seed: Some(plan.seed), ..plan };
        assert_eq!(tell(&same).expect("sound").0.trace, own.0.trace);
    }
}
