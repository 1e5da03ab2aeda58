//! What a sweep is asked to do, and what its profile lets expect of it.

use std::{path::PathBuf, time::Duration};

use reports::{Expectation, FloorExpectation};

use crate::{
    plan::Profile,
    rehearsal,
    worker::{Request, What},
};

pub struct SweepOptions {
    /// First and one past the last.
    pub seeds: (u64, u64),
    pub jobs: u32,
    pub profile: &'static Profile,
    pub job: Option<String>,
    pub parameters: Vec<(String, u64)>,
    pub budget: Option<Duration>,
    pub run_limit: Duration,
    pub batch: u32,
    pub out: Option<PathBuf>,
    pub audit: bool,
}

impl SweepOptions {
    /// The run of a seed.
    pub fn request(&self, seed: u64) -> Request {
        let what = What::Seed {
            seed,
            profile: self.profile.name.to_string(),
            job: self.job.clone(),
            parameters: self.parameters.clone(),
        };
        Request { what, segment: None }
    }

    pub fn is_rehearsal(&self) -> bool {
        self.job.as_deref() == Some(rehearsal::NAME)
    }
}

/// What a sweep of `profile` must have seen.
pub fn expectation(profile: &Profile) -> Expectation {
    let floor = &profile.floor;
    Expectation {
        profile: profile.name.to_string(),
        minimum_seeds: profile.minimum_seeds,
        faults: profile.faults.iter().map(|class| class.name().to_string()).collect(),
        phases: profile.phases.iter().map(|kind| kind.name().to_string()).collect(),
        floor: FloorExpectation {
            task_managers: floor.task_managers,
            subtasks: floor.subtasks,
            records: floor.records,
            completed_checkpoints: floor.completed_checkpoints,
            fired_faults: floor.fired_faults,
            restores: floor.restores,
            older_restores_percent: floor.older_restores_percent,
        },
    }
}
