//! The record of one run, one line of JSON. Everything but the wall-clock timing is a function of the plan and the build.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Clean,
    /// The run could not succeed, and it was proved why: the plan destroyed the last whole copy.
    Excused,
    Violation,
    /// The run did not end within its wall-clock time.
    Hang,
    /// The run panicked, or its process died.
    Crash,
    /// The run needed more memory than it may have.
    Memory,
    /// The harness itself is broken: this says nothing about the runtime.
    Harness,
    /// The same plan gave different runs in different processes.
    Nondeterminism,
    /// The run could not be started.
    Environment,
}

impl Verdict {
    pub fn is_failure(self) -> bool {
        !matches!(self, Verdict::Clean | Verdict::Excused)
    }

    pub fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Excused => "excused",
            Verdict::Violation => "violation",
            Verdict::Hang => "hang",
            Verdict::Crash => "crash",
            Verdict::Memory => "memory",
            Verdict::Harness => "harness",
            Verdict::Nondeterminism => "nondeterminism",
            Verdict::Environment => "environment",
        }
    }
}

/// What kind of failure a run is: coarser than the invariant, finer than the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// Something happened that must never happen.
    Safety,
    /// Something that must happen did not.
    Liveness,
    Crash,
    Hang,
    Memory,
    Determinism,
    /// A defect of the harness, never a finding about the runtime.
    Harness,
    Environment,
}

impl FailureClass {
    pub fn name(self) -> &'static str {
        match self {
            FailureClass::Safety => "safety",
            FailureClass::Liveness => "liveness",
            FailureClass::Crash => "crash",
            FailureClass::Hang => "hang",
            FailureClass::Memory => "memory",
            FailureClass::Determinism => "determinism",
            FailureClass::Harness => "harness",
            FailureClass::Environment => "environment",
        }
    }
}

/// The one invariant that is about what must happen; all others are about what must not.
pub const LIVENESS: &str = "liveness";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViolationRecord {
    pub invariant: String,
    pub entity: String,
    pub kind: String,
    pub message: String,
    pub signature: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub task_managers: u64,
    pub subtasks: u64,
    pub records: u64,
    pub completed_checkpoints: u64,
    pub aborted_checkpoints: u64,
    pub fired_faults: u64,
    /// Restarts of the job from a checkpoint.
    pub restores: u64,
    /// Of these, from an older checkpoint than the newest.
    pub older_restores: u64,
    pub events: u64,
    /// Databases that keyed operators opened.
    #[serde(default)]
    pub opened_databases: u64,
    /// Databases that the invariants opened, to read what checkpoints hold.
    #[serde(default)]
    pub judged_databases: u64,
}

/// A fault that took effect, and where in the protocol the job was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiredFault {
    /// Position in the plan's list; None for a fault of the workload.
    pub index: Option<usize>,
    pub class: String,
    pub target: String,
    pub phase: String,
    pub at_ms: u64,
    /// Number of the event at which it fired.
    pub event: u64,
    /// By which path the job came back from it.
    #[serde(default)]
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfired {
    pub index: Option<usize>,
    pub class: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Event kinds seen, with counts.
    pub events: BTreeMap<String, u64>,
    pub fired: Vec<FiredFault>,
    pub unfired: Vec<Unfired>,
    /// Points of the protocol that were passed, with how often.
    #[serde(default)]
    pub points: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    pub simulated_ms: u64,
    /// From the first failure noticed until records flowed again, the longest of the run.
    pub longest_outage_ms: u64,
    /// Real time; the one field that differs between equal runs.
    pub wall_us: u64,
}

/// One hash per 1,024 events, and one over all. Hexadecimal, because JSON readers round large numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHash {
    pub segments: Vec<String>,
    pub last: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub schema: u32,
    pub seed: u64,
    pub profile: String,
    /// The cell of the coverage tables that the seed's plan was aimed at, of a steered run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    pub verdict: Verdict,
    /// Of a failed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// Of the first violation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invariant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<ViolationRecord>,
    pub counters: Counters,
    pub coverage: Coverage,
    pub timings: Timings,
    pub trace: TraceHash,
    /// The number of the event at which the first violation was seen; None if it was seen at the end, or there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<u64>,
    /// The last events before the end, of a failed run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_events: Vec<String>,
    /// The plan as TOML, of a failed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What the process of a failed run wrote last to its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
}

impl RunRecord {
    /// A record with nothing in it but what it is about.
    pub fn empty(seed: u64, profile: impl Into<String>, verdict: Verdict) -> RunRecord {
        RunRecord {
            schema: SCHEMA_VERSION,
            seed,
            profile: profile.into(),
            goal: None,
            verdict,
            class: None,
            invariant: None,
            signature: None,
            message: None,
            violations: Vec::new(),
            counters: Counters::default(),
            coverage: Coverage::default(),
            timings: Timings::default(),
            trace: TraceHash::default(),
            broken_at: None,
            last_events: Vec::new(),
            plan: None,
            stderr_tail: None,
        }
    }

    /// The class that the rest of the record amounts to. A run that broke both kinds of invariant is a matter of safety.
    pub fn failure_class(&self) -> Option<FailureClass> {
        Some(match self.verdict {
            Verdict::Clean | Verdict::Excused => return None,
            Verdict::Violation => {
                let first = self.invariant.as_deref();
                let mut names = self.violations.iter().map(|violation| violation.invariant.as_str()).chain(first);
                if names.all(|name| name == LIVENESS) { FailureClass::Liveness } else { FailureClass::Safety }
            }
            Verdict::Hang => FailureClass::Hang,
            Verdict::Crash => FailureClass::Crash,
            Verdict::Memory => FailureClass::Memory,
            Verdict::Harness => FailureClass::Harness,
            Verdict::Nondeterminism => FailureClass::Determinism,
            Verdict::Environment => FailureClass::Environment,
        })
    }

    /// Whether two runs of the same plan went the same way.
    pub fn is_same_run(&self, other: &RunRecord) -> bool {
        self.verdict == other.verdict && self.signature == other.signature && self.trace == other.trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(invariants: &[&str]) -> RunRecord {
        let mut record = RunRecord::empty(1, "p", Verdict::Violation);
        record.invariant = invariants.first().map(ToString::to_string);
        record.violations = invariants
            .iter()
            .map(|name| ViolationRecord {
                invariant: name.to_string(),
                entity: "job".into(),
                kind: "k".into(),
                message: "m".into(),
                signature: "s".into(),
            })
            .collect();
        record
    }

    #[test]
    fn a_run_that_broke_both_kinds_of_invariant_is_a_matter_of_safety() {
        assert_eq!(broken(&["liveness"]).failure_class(), Some(FailureClass::Liveness));
        assert_eq!(broken(&["exactly-once"]).failure_class(), Some(FailureClass::Safety));
        assert_eq!(broken(&["liveness", "exactly-once"]).failure_class(), Some(FailureClass::Safety));
        assert_eq!(RunRecord::empty(1, "p", Verdict::Clean).failure_class(), None);
    }

    /// A line of an older build has no class.
    #[test]
    fn a_record_without_a_class_can_still_be_read() {
        let mut record = broken(&["liveness"]);
        let text = serde_json::to_string(&record).expect("written");
        assert!(!text.contains("\"class\""), "{text}");
        assert_eq!(serde_json::from_str::<RunRecord>(&text).expect("read"), record);
        record.class = record.failure_class();
        let text = serde_json::to_string(&record).expect("written");
        assert!(text.contains("\"class\":\"liveness\""), "{text}");
        assert_eq!(serde_json::from_str::<RunRecord>(&text).expect("read"), record);
    }
}
