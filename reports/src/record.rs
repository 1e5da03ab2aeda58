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
            Verdict::Nondeterminism => "nondeterminism",
            Verdict::Environment => "environment",
        }
    }
}

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
    pub verdict: Verdict,
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
            verdict,
            invariant: None,
            signature: None,
            message: None,
            violations: Vec::new(),
            counters: Counters::default(),
            coverage: Coverage::default(),
            timings: Timings::default(),
            trace: TraceHash::default(),
            last_events: Vec::new(),
            plan: None,
            stderr_tail: None,
        }
    }

    /// Whether two runs of the same plan went the same way.
    pub fn is_same_run(&self, other: &RunRecord) -> bool {
        self.verdict == other.verdict && self.signature == other.signature && self.trace == other.trace
    }
}
