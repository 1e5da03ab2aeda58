//! What a sweep is asked to do, and what its profile lets expect of it.

use std::{path::PathBuf, time::Duration};

use reports::{Expectation, FloorExpectation};

use super::{
    Shard,
    stored::{self, Stored},
};
use crate::{
    confirm::Limits,
    coverage,
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
    pub limits: Limits,
    pub batch: u32,
    /// Run only this share of the seeds.
    pub shard: Option<Shard>,
    pub output: Output,
    pub audit: bool,
    /// So many runs more, aimed at what the runs before have hit least.
    pub steer: u32,
}

/// Where the records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Nowhere,
    /// A directory that holds no sweep yet.
    New(PathBuf),
    /// A directory whose sweep goes on.
    Resumed(PathBuf),
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

    /// What is kept beside the records.
    ///
    /// # Errors
    /// A line that says why the program cannot be read.
    pub fn stored(&self) -> Result<Stored, String> {
        Ok(Stored {
            version: stored::VERSION,
            first_seed: self.seeds.0,
            end_seed: self.seeds.1,
            profile: self.profile.name.to_string(),
            job: self.job.clone(),
            parameters: self.parameters.clone(),
            shard: self.shard,
            audit: self.audit,
            run_limit_ms: stored::milliseconds(self.limits.run),
            memory_limit_bytes: self.limits.memory,
            build: stored::build()?,
        })
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
        points: coverage::points::declared(profile),
    }
}

/// What a sweep with these options must have seen. A rehearsal has no protocol of its own to cover.
pub(super) fn expectation_of(stored: &Stored) -> Expectation {
    match Profile::named(&stored.profile) {
        Some(profile) if stored.job.as_deref() != Some(rehearsal::NAME) => expectation(profile),
        _ => Expectation { profile: rehearsal::NAME.to_string(), ..Expectation::default() },
    }
}
