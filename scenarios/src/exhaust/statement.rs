//! What an exhaustive run may say at its end, and what it may not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use super::placements::Placement;
use crate::exit::Exit;

/// What became of a placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The fault took effect and the run was clean.
    Hit,
    /// The run was clean, but there was nothing that the fault could have hit.
    NothingToHit(String),
    /// With the signature of the failure.
    Failed(String),
}

#[derive(Default)]
pub(super) struct Row {
    hit: u64,
    nothing: u64,
    failed: u64,
}

#[derive(Default)]
pub struct Statement {
    pub profile: String,
    pub seed: u64,
    pub shape: String,
    pub clean_steps: usize,
    pub recovery_steps: usize,
    pub in_clean_run: usize,
    pub in_recovery: usize,
    pub pairs: usize,
    pub elapsed: Duration,
    pub budget: Option<Duration>,
    pub(super) rows: BTreeMap<&'static str, Row>,
    /// Faults that had nothing to hit, with reasons.
    pub(super) nothing: BTreeMap<(&'static str, String), u64>,
    /// Placements by the signature of their failure.
    pub failures: BTreeMap<String, Vec<String>>,
    pub(super) singles_run: usize,
    pub(super) pairs_run: usize,
    pub(super) witnessed: BTreeSet<&'static str>,
    /// Singles whose trigger never came, although the run up to it was the same.
    pub(super) lost: Vec<String>,
}

/// Of so many placements that failed alike the names are shown.
const SHOWN: usize = 5;

impl Statement {
    pub fn add(&mut self, placement: &Placement, is_single: bool, outcome: Outcome) {
        *(if is_single { &mut self.singles_run } else { &mut self.pairs_run }) += 1;
        let class = placement.class.name();
        if is_single
            && let Some(placed) = placement.placed.last()
            && placement.plan.faults.len() > placed + 1
        {
            self.witnessed.insert(class);
        }
        let row = self.rows.entry(class).or_default();
        match outcome {
            Outcome::Hit => row.hit += 1,
            Outcome::NothingToHit(reason) => {
                row.nothing += 1;
                if is_single && reason == crate::nemesis::NEVER_CAME {
                    self.lost.push(placement.name.clone());
                }
                *self.nothing.entry((class, reason)).or_default() += 1;
            }
            Outcome::Failed(signature) => {
                row.failed += 1;
                self.failures.entry(signature).or_default().push(placement.name.clone());
            }
        }
    }

    pub fn failed(&self) -> u64 {
        self.rows.values().map(|row| row.failed).sum()
    }

    fn singles(&self) -> usize {
        self.in_clean_run + self.in_recovery
    }

    fn is_complete(&self) -> bool {
        self.singles_run == self.singles() && self.pairs_run == self.pairs
    }

    pub fn exit(&self) -> Exit {
        if self.failed() > 0 {
            Exit::Violation
        } else if self.is_complete() && self.lost.is_empty() {
            Exit::Clean
        } else {
            Exit::Blind
        }
    }

    /// What is about to be run.
    pub fn heading(&self) -> String {
        let mut text = String::new();
        writeln!(text, "exhaust  profile {}, seed {}: {}", self.profile, self.seed, self.shape).expect("text");
        writeln!(
            text,
            "steps    {} of a clean run, {} of the recovery from one crash in its middle; of those with the same kind of event, role\n         \
             (vertex, pair of vertices, sort of object, state) and sort of process, the first, the middle one and the last",
            self.clean_steps, self.recovery_steps
        )
        .expect("text");
        writeln!(
            text,
            "placed   {} single faults in the clean run, {} in the recovery, {} pairs within one checkpoint",
            self.in_clean_run, self.in_recovery, self.pairs
        )
        .expect("text");
        text
    }

    /// What came of it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        writeln!(text, "{:<22} {:>7} {:>15} {:>7}", "fault", "hit", "nothing to hit", "failed").expect("text");
        for (class, row) in &self.rows {
            writeln!(text, "{class:<22} {:>7} {:>15} {:>7}", row.hit, row.nothing, row.failed).expect("text");
        }
        for ((class, reason), count) in &self.nothing {
            writeln!(text, "nothing to hit  {class}: {reason} ({count})").expect("text");
        }
        for name in &self.lost {
            writeln!(text, "LOST   {name}: its event never came, although the run up to it was the same")
                .expect("text");
        }
        for (signature, names) in &self.failures {
            writeln!(text, "FAILED {signature} in {} placements", names.len()).expect("text");
            for name in names.iter().take(SHOWN) {
                writeln!(text, "       {name}").expect("text");
            }
        }
        if !self.witnessed.is_empty() {
            let witnessed: Vec<_> = self.witnessed.iter().copied().collect();
            writeln!(
                text,
                "placed together with the crash of another process, so that a restore looks: {}",
                witnessed.join(", ")
            )
            .expect("text");
        }
        let run = self.singles_run + self.pairs_run;
        let seconds = self.elapsed.as_secs_f64();
        let rate = run as f64 / seconds.max(0.001);
        writeln!(text, "speed    {run} runs in {seconds:.0} s, {rate:.1} a second").expect("text");
        let about = format!("profile {} (seed {})", self.profile, self.seed);
        let verdict = match self.failed() {
            0 => "clean".to_string(),
            failed => format!("{failed} FAILED"),
        };
        if self.is_complete() {
            let pairs = if self.pairs > 0 { format!(" and {} sampled pairs", self.pairs) } else { String::new() };
            writeln!(text, "all {} single placements{pairs} of {about}: {verdict}", self.singles()).expect("text");
        } else {
            let budget = self.budget.map_or_else(|| "stopped".to_string(), |b| format!("budget {b:?} spent"));
            writeln!(
                text,
                "NOT complete: {} of {} single placements and {} of {} pairs of {about} were run ({budget}): {verdict}",
                self.singles_run,
                self.singles(),
                self.pairs_run,
                self.pairs
            )
            .expect("text");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{FaultClass, generate, profile::DEFAULT};

    fn placement(class: FaultClass) -> Placement {
        let mut plan = generate(&DEFAULT, 7);
        plan.faults.clear();
        Placement { class, name: format!("{} at CheckpointAcked", class.name()), plan, placed: Vec::new() }
    }

    fn statement(singles: usize) -> Statement {
        Statement {
            profile: "default".into(),
            seed: 7,
            in_clean_run: singles,
            elapsed: Duration::from_secs(2),
            ..Statement::default()
        }
    }

    #[test]
    fn only_what_was_run_to_the_end_is_called_complete() {
        let mut statement = statement(2);
        statement.add(&placement(FaultClass::CrashTaskManager), true, Outcome::Hit);
        assert!(statement.text().contains("NOT complete: 1 of 2 single placements"));
        assert_eq!(statement.exit(), Exit::Blind);
        let reason = "no local copy there".to_string();
        statement.add(&placement(FaultClass::LocalTorn), true, Outcome::NothingToHit(reason));
        assert!(statement.text().contains("all 2 single placements of profile default (seed 7): clean"));
        assert!(statement.text().contains("nothing to hit  local-torn: no local copy there (1)"));
        assert_eq!(statement.exit(), Exit::Clean);
    }

    #[test]
    fn a_failure_is_named_and_a_trigger_that_never_came_makes_it_blind() {
        let mut failed = statement(1);
        failed.add(&placement(FaultClass::Freeze), true, Outcome::Failed("liveness/stalled/job".into()));
        assert!(failed.text().contains("FAILED liveness/stalled/job in 1 placements"));
        assert_eq!(failed.exit(), Exit::Violation);
        let mut lost = statement(1);
        lost.add(&placement(FaultClass::Freeze), true, Outcome::NothingToHit(crate::nemesis::NEVER_CAME.into()));
        assert_eq!(lost.exit(), Exit::Blind);
    }
}
