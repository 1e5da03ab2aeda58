//! At which parallelism a job runs that takes what slots there are (`scheduler-mode: reactive`): a plain state machine. What
//! the slots allow and what time it is go in, decisions come out.
//!
//! While the job waits for slots: it starts as soon as everything that it could use is there, or what is there has not changed for
//! the stabilization timeout; with nothing at all it waits, and gives up after the wait timeout if there is one. A job that ran
//! before waits a moment longer for what it had (a TaskManager that comes back has the state of its tasks).
//!
//! While it runs: slots that join are used once the cooldown since the last start is over, a checkpoint has completed since then (so
//! that nothing is repeated twice), what is there has been stable, and the gain is worth it. Slots that go are no business of
//! this machine: if they were in use, the job fails over and waits again.
//!
//! It never decides anything while the job is being stopped or started: nobody asks then.
//!
//! Flink: `AdaptiveScheduler`, states `WaitingForResources` and `Executing`, `DefaultStateTransitionManager`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::platform::Mono;

/// Whether a job's parallelism is what it says, or what the slots allow (`scheduler-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerMode {
    #[default]
    Default,
    /// As many subtasks as there are slots, at most the max parallelism.
    Reactive,
}

/// When a reactive job is started and rescaled. Flink's names and, of the reactive mode, its defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElasticityConfig {
    pub mode: SchedulerMode,
    /// `jobmanager.adaptive-scheduler.resource-wait-timeout`; None: without end.
    pub resource_wait_timeout: Option<Duration>,
    /// `jobmanager.adaptive-scheduler.resource-stabilization-timeout`: so long what is there must not have changed before the job
    /// starts with less than it could use.
    pub resource_stabilization_timeout: Duration,
    /// `jobmanager.adaptive-scheduler.executing.cooldown-after-rescaling`: so long after a start the job is not rescaled.
    pub cooldown_after_rescaling: Duration,
    /// `jobmanager.adaptive-scheduler.executing.resource-stabilization-timeout`: the same for a running job.
    pub executing_stabilization_timeout: Duration,
    /// `jobmanager.adaptive-scheduler.min-parallelism-increase`: a running job is not rescaled for less.
    pub min_parallelism_increase: u32,
}

impl Default for ElasticityConfig {
    fn default() -> ElasticityConfig {
        ElasticityConfig {
            mode: SchedulerMode::Default,
            resource_wait_timeout: None,
            resource_stabilization_timeout: Duration::ZERO,
            cooldown_after_rescaling: Duration::from_secs(30),
            executing_stabilization_timeout: Duration::ZERO,
            min_parallelism_increase: 1,
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start at this parallelism.
    Start(u32),
    /// Stop at the next opportunity, and start again.
    Rescale { from: u32, to: u32 },
    /// There was nothing to start with for all of the wait timeout.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Being started or stopped.
    Busy,
    Waiting {
        since: Mono,
        /// What it had before is waited for until then.
        settled: Mono,
        /// Its parallelism before; None: not known.
        before: Option<u32>,
    },
    Running {
        parallelism: u32,
        since: Mono,
        has_checkpoint: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Elasticity {
    config: ElasticityConfig,
    /// The highest parallelism that the job can have.
    highest: u32,
    state: State,
    /// The parallelism that the slots allow, and since when.
    allowed: u32,
    allowed_since: Mono,
}

impl Elasticity {
    pub fn new(config: ElasticityConfig, highest: u32, now: Mono) -> Elasticity {
        Elasticity { config, highest, state: State::Busy, allowed: 0, allowed_since: now }
    }

    pub fn is_reactive(&self) -> bool {
        self.config.mode == SchedulerMode::Reactive
    }

    /// The job is stopped and wants slots. Those that it had at `before` (None: not known) are waited for until `settled`.
    pub fn wait(&mut self, now: Mono, settled: Mono, before: Option<u32>) {
        self.state = State::Waiting { since: now, settled, before };
    }

    /// The slots that there are allow this parallelism (0: they are too few for any).
    pub fn allows(&mut self, parallelism: u32, now: Mono) {
        let parallelism = parallelism.min(self.highest);
        if self.allowed != parallelism {
            self.allowed = parallelism;
            self.allowed_since = now;
        }
    }

    /// The job runs.
    pub fn running(&mut self, parallelism: u32, now: Mono) {
        self.state = State::Running { parallelism, since: now, has_checkpoint: false };
    }

    /// A checkpoint of the running job is complete.
    pub fn checkpointed(&mut self) {
        if let State::Running { has_checkpoint, .. } = &mut self.state {
            *has_checkpoint = true;
        }
    }

    /// What is to be done now. With a decision the job counts as being started or stopped, until [`Self::running`] or
    /// [`Self::wait`] says otherwise.
    pub fn decide(&mut self, now: Mono) -> Option<Decision> {
        let decision = self.decision(now).filter(|_| self.is_reactive())?;
        self.state = State::Busy;
        Some(decision)
    }

    fn decision(&self, now: Mono) -> Option<Decision> {
        let stable_for = |timeout| now >= self.allowed_since + timeout;
        match self.state {
            State::Busy => None,
            State::Waiting { .. } if self.allowed >= self.highest && self.allowed > 0 => {
                Some(Decision::Start(self.allowed))
            }
            State::Waiting { since, settled, before } => {
                let has_what_it_had = before.is_some_and(|before| self.allowed >= before);
                if self.allowed > 0
                    && (now >= settled || has_what_it_had)
                    && stable_for(self.config.resource_stabilization_timeout)
                {
                    return Some(Decision::Start(self.allowed));
                }
                let over = self.config.resource_wait_timeout.is_some_and(|timeout| now >= since + timeout);
                (over && self.allowed == 0).then_some(Decision::GiveUp)
            }
            State::Running { parallelism, since, has_checkpoint } => {
                let gain = self.allowed.saturating_sub(parallelism);
                let is_worth_it = gain >= self.config.min_parallelism_increase.max(1);
                let may = has_checkpoint && now >= since + self.config.cooldown_after_rescaling;
                (is_worth_it && may && stable_for(self.config.executing_stabilization_timeout))
                    .then_some(Decision::Rescale { from: parallelism, to: self.allowed })
            }
        }
    }

    /// When to ask again if nothing changes until then.
    pub fn next_deadline(&self, now: Mono) -> Option<Mono> {
        let moments = match self.state {
            _ if !self.is_reactive() => [None, None, None],
            State::Busy => [None, None, None],
            State::Waiting { since, settled, .. } => [
                Some(settled),
                Some(self.allowed_since + self.config.resource_stabilization_timeout),
                self.config.resource_wait_timeout.map(|timeout| since + timeout),
            ],
            State::Running { since, .. } => [
                Some(since + self.config.cooldown_after_rescaling),
                Some(self.allowed_since + self.config.executing_stabilization_timeout),
                None,
            ],
        };
        moments.into_iter().flatten().filter(|moment| *moment > now).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Mono {
        Mono(0) + seconds * SECOND
    }

    fn config() -> ElasticityConfig {
        ElasticityConfig {
            mode: SchedulerMode::Reactive,
            resource_wait_timeout: Some(60 * SECOND),
            resource_stabilization_timeout: 5 * SECOND,
            cooldown_after_rescaling: 30 * SECOND,
            executing_stabilization_timeout: 10 * SECOND,
            min_parallelism_increase: 2,
        }
    }

    fn waiting() -> Elasticity {
        let mut elasticity = Elasticity::new(config(), 8, at(0));
        elasticity.wait(at(0), at(0), None);
        elasticity
    }

    #[test]
    fn it_starts_with_what_is_stable_or_at_once_with_all() {
        let mut elasticity = waiting();
        assert_eq!(elasticity.decide(at(0)), None, "nothing is there");
        elasticity.allows(2, at(1));
        assert_eq!(elasticity.decide(at(5)), None);
        elasticity.allows(3, at(5));
        assert_eq!(elasticity.next_deadline(at(6)), Some(at(10)));
        assert_eq!(elasticity.decide(at(9)), None, "it has changed");
        assert_eq!(elasticity.decide(at(10)), Some(Decision::Start(3)));
        assert_eq!(elasticity.decide(at(50)), None, "one start is enough");
        let mut elasticity = waiting();
        elasticity.allows(11, at(1));
        assert_eq!(elasticity.decide(at(1)), Some(Decision::Start(8)), "no more than it can use");
    }

    #[test]
    fn it_waits_for_what_it_had() {
        let mut elasticity = Elasticity::new(config(), 8, at(0));
        elasticity.wait(at(0), at(20), Some(4));
        elasticity.allows(3, at(0));
        assert_eq!(elasticity.decide(at(19)), None, "its slots may come back");
        assert_eq!(elasticity.clone().decide(at(20)), Some(Decision::Start(3)));
        elasticity.allows(4, at(10));
        assert_eq!(elasticity.decide(at(15)), Some(Decision::Start(4)));
    }

    #[test]
    fn with_nothing_it_gives_up_in_the_end() {
        let mut elasticity = waiting();
        assert_eq!(elasticity.decide(at(59)), None);
        assert_eq!(elasticity.next_deadline(at(59)), Some(at(60)));
        assert_eq!(elasticity.clone().decide(at(60)), Some(Decision::GiveUp));
        elasticity.config.resource_wait_timeout = None;
        assert_eq!(elasticity.decide(at(100_000)), None);
    }

    #[test]
    fn it_is_rescaled_when_that_is_worth_it() {
        let mut elasticity = waiting();
        elasticity.running(3, at(0));
        elasticity.allows(4, at(1));
        elasticity.checkpointed();
        assert_eq!(elasticity.decide(at(100)), None, "one more is too little");
        elasticity.allows(5, at(101));
        assert_eq!(elasticity.decide(at(110)), None, "it may not last");
        assert_eq!(elasticity.decide(at(111)), Some(Decision::Rescale { from: 3, to: 5 }));
        assert_eq!(elasticity.decide(at(200)), None, "it is being done");
        elasticity.running(5, at(120));
        elasticity.allows(8, at(121));
        assert_eq!(elasticity.decide(at(149)), None, "so soon after the last time");
        assert_eq!(elasticity.decide(at(150)), None, "what it has done since would be repeated");
        elasticity.checkpointed();
        assert_eq!(elasticity.decide(at(150)), Some(Decision::Rescale { from: 5, to: 8 }));
        elasticity.running(8, at(160));
        elasticity.checkpointed();
        elasticity.allows(2, at(161));
        assert_eq!(elasticity.decide(at(1_000)), None, "slots that go are noticed by those who use them");
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Pass(u32),
        Allows(u32),
        Checkpoint,
        Fails,
        Starts,
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u32..20).prop_map(Step::Pass),
            (0u32..12).prop_map(Step::Allows),
            Just(Step::Checkpoint),
            Just(Step::Fails),
            Just(Step::Starts),
        ]
    }

    proptest! {
        /// Whatever comes: no decision while one is carried out; never more than the slots allow or the job can use; a running job is
        /// only ever made larger, by what is worth it, and at most once in each cooldown; what was decided on had been stable.
        #[test]
        fn it_does_not_flap(steps in proptest::collection::vec(a_step(), 1..200)) {
            let mut elasticity = waiting();
            let (mut now, mut allowed, mut changed) = (0, 0, 0);
            let mut running: Option<(u32, u32, bool)> = None;
            let mut under_way: Option<u32> = None;
            for step in steps {
                match step {
                    Step::Pass(seconds) => now += seconds,
                    Step::Allows(slots) => {
                        let capped = slots.min(8);
                        if capped != allowed {
                            (allowed, changed) = (capped, now);
                        }
                        elasticity.allows(slots, at(now));
                    }
                    Step::Checkpoint => {
                        elasticity.checkpointed();
                        running = running.map(|(parallelism, since, _)| (parallelism, since, true));
                    }
                    Step::Fails => {
                        elasticity.wait(at(now), at(now), running.map(|(parallelism, ..)| parallelism));
                        (running, under_way) = (None, None);
                    }
                    Step::Starts => if let Some(parallelism) = under_way.take() {
                        elasticity.running(parallelism, at(now));
                        running = Some((parallelism, now, false));
                    },
                }
                let deadline = elasticity.next_deadline(at(now));
                prop_assert!(deadline.is_none_or(|deadline| deadline > at(now)));
                match elasticity.decide(at(now)) {
                    None => {}
                    Some(Decision::Start(parallelism)) => {
                        prop_assert!(running.is_none() && under_way.is_none());
                        prop_assert!(parallelism == allowed && parallelism > 0 && parallelism <= 8);
                        prop_assert!(parallelism == 8 || now >= changed + 5);
                        under_way = Some(parallelism);
                    }
                    Some(Decision::Rescale { from, to }) => {
                        let (parallelism, since, has_checkpoint) = running.expect("a job that does not run is not rescaled");
                        prop_assert!(under_way.is_none() && from == parallelism && to == allowed);
                        prop_assert!(to >= from + 2 && now >= since + 30 && now >= changed + 10 && has_checkpoint);
                        (running, under_way) = (None, Some(to));
                    }
                    Some(Decision::GiveUp) => {
                        prop_assert!(running.is_none() && allowed == 0);
                        elasticity.wait(at(now), at(now), None);
                    }
                }
            }
        }
    }
}
