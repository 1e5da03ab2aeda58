//! Steering: after its range of seeds a sweep aims further runs at what the runs before have hit least.
//!
//! It works in rounds of a fixed size. The counts at the end of a round decide the goals of the next, and counts do not depend
//! on the order in which runs end; so one range of seeds gives one set of steered runs, with any number of jobs and at any
//! speed. (A budget of time that is spent ends the steering between two rounds.) A steered run is its seed and its goal, and
//! is repeated by these two.

use std::{collections::BTreeMap, fmt, str::FromStr};

use reports::{RunRecord, Steered, Summary};

use super::Path;
use crate::{
    phase::Phase,
    plan::{FaultClass, Profile},
    worker::What,
};

/// Runs per round.
pub const ROUND: usize = 32;

/// In which phase a fault is to fall, or by which path the job is to come back from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aim {
    Phase(Phase),
    Path(Path),
}

/// A cell of one of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Goal {
    pub class: FaultClass,
    pub aim: Aim,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.aim {
            Aim::Phase(phase) => write!(f, "{}@phase-{}", self.class.name(), phase.name()),
            Aim::Path(path) => write!(f, "{}@path-{}", self.class.name(), path.name()),
        }
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Goal, String> {
        let wrong = || {
            format!(
                "{text:?} is no goal; write a fault and where it is to fall: freeze@phase-align, freeze@path-replay"
            )
        };
        let (class, aim) = text.split_once('@').ok_or_else(wrong)?;
        let class = FaultClass::ALL
            .iter()
            .find(|known| known.name() == class)
            .ok_or_else(|| format!("no fault is called {class:?}"))?;
        let aim = if let Some(name) = aim.strip_prefix("phase-") {
            let phase = Phase::ALL.iter().find(|phase| phase.name() == name);
            Aim::Phase(
                *phase
                    .ok_or_else(|| format!("no phase is called {name:?}; there are {}", Phase::names().join(", ")))?,
            )
        } else if let Some(name) = aim.strip_prefix("path-") {
            let path = Path::ALL.iter().find(|path| path.name() == name);
            Aim::Path(
                *path.ok_or_else(|| format!("no path is called {name:?}; there are {}", Path::names().join(", ")))?,
            )
        } else {
            return Err(wrong());
        };
        Ok(Goal { class: *class, aim })
    }
}

/// The run of a seed aimed at a goal.
pub fn steered_run(seed: u64, profile: &Profile, goal: Goal) -> What {
    What::Steered { seed, profile: profile.name.to_string(), goal: goal.to_string() }
}

/// Paths that plans are steered to. An older checkpoint without a replay needs a setting that no profile draws, and that a run
/// ended too early is nothing to aim at.
const AIMED: &[Path] = &[
    Path::None,
    Path::Start,
    Path::Local,
    Path::PartlyLocal,
    Path::Primary,
    Path::Replay,
    Path::Takeover,
    Path::TakeoverOlder,
];

struct Tried {
    goal: Goal,
    tries: u64,
    /// What became of the last try that missed.
    instead: String,
}

/// Decides where to aim.
pub struct Steering {
    goals: Vec<Tried>,
    rounds: u64,
    runs: u64,
    empty_before: Vec<Goal>,
}

fn count(summary: &Summary, goal: Goal) -> u64 {
    let class = goal.class.name();
    match goal.aim {
        Aim::Phase(phase) => summary.fault_phase.get(class).and_then(|cells| cells.get(phase.name())).copied(),
        Aim::Path(path) => summary.fault_path().get(class).and_then(|cells| cells.get(path.name())).copied(),
    }
    .unwrap_or(0)
}

impl Steering {
    /// For the faults of `profile`, after the runs in `summary`.
    pub fn new(profile: &Profile, summary: &Summary) -> Steering {
        let aims = Phase::ALL.iter().map(|phase| Aim::Phase(*phase)).chain(AIMED.iter().map(|path| Aim::Path(*path)));
        let goals: Vec<Goal> =
            aims.flat_map(|aim| profile.faults.iter().map(move |class| Goal { class: *class, aim })).collect();
        let empty_before = goals.iter().copied().filter(|goal| count(summary, *goal) == 0).collect();
        let goals = goals.into_iter().map(|goal| Tried { goal, tries: 0, instead: String::new() }).collect();
        Steering { goals, rounds: 0, runs: 0, empty_before }
    }

    /// The next `most` goals at the most: the cells with the fewest hits and tries.
    pub fn next_round(&mut self, summary: &Summary, most: usize) -> Vec<Goal> {
        let mut order: Vec<usize> = (0..self.goals.len()).collect();
        order.sort_by_key(|index| {
            let tried = &self.goals[*index];
            (count(summary, tried.goal) + tried.tries, *index)
        });
        order.truncate(most.min(ROUND));
        self.rounds += u64::from(!order.is_empty());
        self.runs += order.len() as u64;
        for index in &order {
            self.goals[*index].tries += 1;
        }
        order.into_iter().map(|index| self.goals[index].goal).collect()
    }

    /// Takes in how a steered run went.
    pub fn ended(&mut self, goal: Goal, record: &RunRecord) {
        let Some(tried) = self.goals.iter_mut().find(|tried| tried.goal == goal) else { return };
        let class = goal.class.name();
        let of_class = || record.coverage.fired.iter().filter(|fired| fired.class == class);
        let fell = of_class().next().map(|fired| match goal.aim {
            Aim::Phase(_) => format!("fell into {}", fired.phase),
            Aim::Path(_) => format!("came back by {}", fired.path),
        });
        let unfired = record.coverage.unfired.iter().find(|unfired| unfired.class == class);
        let instead = fell.or_else(|| unfired.map(|unfired| unfired.reason.clone()));
        // The one with the smallest text, whichever run ends first.
        let instead = instead.unwrap_or_else(|| "it was not placed".to_string());
        if tried.instead.is_empty() || instead < tried.instead {
            tried.instead = instead;
        }
    }

    /// What came of it.
    pub fn outcome(&self, summary: &Summary) -> Steered {
        let (reached, unreached): (Vec<Goal>, Vec<Goal>) =
            self.empty_before.iter().partition(|goal| count(summary, **goal) > 0);
        let tried: BTreeMap<Goal, &Tried> = self.goals.iter().map(|tried| (tried.goal, tried)).collect();
        let why = |goal: &Goal| match tried.get(goal) {
            Some(tried) if tried.tries > 0 => format!("{} tries: {}", tried.tries, tried.instead),
            _ => "not tried".to_string(),
        };
        Steered {
            rounds: self.rounds,
            runs: self.runs,
            empty_before: self.empty_before.len() as u64,
            reached: reached.len() as u64,
            unreached: unreached.iter().map(|goal| (goal.to_string(), why(goal))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use reports::{Expectation, FiredFault, Verdict};

    use super::*;
    use crate::plan::profile::DEFAULT;

    fn hit(class: FaultClass, phase: Phase, path: Path) -> RunRecord {
        let mut record = RunRecord::empty(1, "default", Verdict::Clean);
        record.coverage.fired.push(FiredFault {
            index: Some(0),
            class: class.name().into(),
            target: "tm-1".into(),
            phase: phase.name().into(),
            at_ms: 1,
            event: 1,
            path: path.name().into(),
        });
        record
    }

    #[test]
    fn a_goal_is_read_as_it_is_written() {
        for goal in Steering::new(&DEFAULT, &Summary::new(Expectation::default())).goals {
            assert_eq!(goal.goal.to_string().parse(), Ok(goal.goal));
        }
        for wrong in ["", "freeze", "freeze@", "thaw@phase-align", "freeze@phase-never", "freeze@path-home"] {
            assert!(wrong.parse::<Goal>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_was_hit_least_comes_next_whatever_the_order_of_the_records() {
        let records = [
            hit(FaultClass::CrashTaskManager, Phase::Start, Path::None),
            hit(FaultClass::CrashTaskManager, Phase::Flow, Path::Primary),
        ];
        let rounds = |records: &[RunRecord]| {
            let mut summary = Summary::new(Expectation::default());
            records.iter().for_each(|record| summary.add(record));
            let mut steering = Steering::new(&DEFAULT, &summary);
            (steering.next_round(&summary, 500), steering.next_round(&summary, 10))
        };
        let (first, second) = rounds(&records);
        assert_eq!((first.clone(), second.clone()), rounds(&[records[1].clone(), records[0].clone()]));
        assert_eq!((first.len(), second.len()), (ROUND, 10));
        assert!(!first.contains(&Goal { class: FaultClass::CrashTaskManager, aim: Aim::Phase(Phase::Start) }));
        assert!(second.iter().all(|goal| !first.contains(goal)), "what was tried waits for its turn");
    }

    #[test]
    fn what_could_not_be_reached_is_said_with_what_came_instead() {
        let mut summary = Summary::new(Expectation::default());
        let mut steering = Steering::new(&DEFAULT, &summary);
        let goals = steering.next_round(&summary, 2);
        let reached = match goals[0].aim {
            Aim::Phase(phase) => hit(goals[0].class, phase, Path::None),
            Aim::Path(path) => hit(goals[0].class, Phase::Flow, path),
        };
        let missed = hit(goals[1].class, Phase::End, Path::Unsettled);
        for (goal, record) in goals.iter().zip([&reached, &missed]) {
            summary.add(record);
            steering.ended(*goal, record);
        }
        let outcome = steering.outcome(&summary);
        assert!(!outcome.unreached.contains_key(&goals[0].to_string()));
        assert_eq!(outcome.unreached[&goals[1].to_string()], "1 tries: fell into end");
        assert_eq!((outcome.rounds, outcome.runs), (1, 2));
    }
}
