//! The jobs that are put through the chaos, with their inputs and their oracles.

use std::sync::{Arc, atomic::AtomicU32};

use bytes::Bytes;
use runtime::{
    api::JobError,
    graph::Job,
    jobs::{self, InputFile, JobParams},
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    oracle::{AuditOracle, LineJobOracle, OutputOracle, StatesOracle},
    plan::model::{USER_ERROR_AT, USER_PANIC_AT, WorkloadPlan},
};

#[cfg(test)]
mod agreement_tests;
mod audit;
mod audit_input;
pub(crate) mod states;
#[cfg(test)]
pub(crate) mod testing;

pub use audit::Trap;
pub use audit_input::{AuditInput, AuditRecord};
pub use states::NAME as STATES;

/// All departures from New York's airports in January 2013, with a header.
const FLIGHTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/flights-2013-01.csv"));

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    Audit,
    Flights,
    WordCount,
    /// Every kind of managed state, timers and windows.
    States,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserFaultKind {
    Error,
    Panic,
}

/// User code of the audit job fails at one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFault {
    pub kind: UserFaultKind,
    pub split: u32,
    pub offset: u64,
    /// So many times over the whole run, each time the record comes by.
    pub times: u32,
}

/// A workload as data, part of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadParams {
    pub kind: WorkloadKind,
    pub seed: u64,
    /// Splits of the source, at least 2 to be worth anything.
    pub splits: u32,
    /// About so many input records.
    pub records: u64,
    pub keys: u32,
    /// 1: records spread evenly over the keys; more: the first keys have more of them.
    pub skew: f64,
    /// Audit: a second keyed stage over so many groups.
    pub groups: Option<u32>,
    pub parallelism: u32,
    /// Audit: of the source.
    pub source_parallelism: u32,
    pub max_parallelism: Option<u16>,
    pub records_per_second: Option<f64>,
    pub user_faults: Vec<UserFault>,
    /// States: the job as its author has developed it: types of its state have grown.
    pub next_version: bool,
}

impl Default for WorkloadParams {
    fn default() -> WorkloadParams {
        WorkloadParams {
            kind: WorkloadKind::Audit,
            seed: 1,
            splits: 4,
            records: 1_000,
            keys: 50,
            skew: 1.5,
            groups: None,
            parallelism: 2,
            source_parallelism: 2,
            max_parallelism: None,
            records_per_second: None,
            user_faults: Vec::new(),
            next_version: false,
        }
    }
}

/// A workload ready to run: the job, the files it reads, the oracle of its output.
pub struct Workload {
    pub job: Job,
    /// To be put into the world before the start: path and content.
    pub inputs: Vec<(String, Bytes)>,
    pub oracle: Box<dyn OutputOracle>,
    /// Input records.
    pub records: u64,
    /// The planned faults of user code, each with how often it may still fire.
    pub user_faults: Vec<Trap>,
}

/// Plan parameters beyond those that the plan's own file names: groups of the second keyed stage (0: one stage), skew in
/// percent, parallelism of the source, how often the planned user faults fire, and the number of key groups.
pub const GROUPS: &str = "groups";
pub const SKEW_PERCENT: &str = "skew_percent";
pub const SOURCE_PARALLELISM: &str = "source_parallelism";
pub const USER_FAULT_TIMES: &str = "user_fault_times";
pub const MAX_PARALLELISM: &str = "max_parallelism";

impl WorkloadParams {
    /// The names that a plan may use.
    pub const NAMES: &'static [&'static str] = &["audit", "flights", "wordcount", "states"];

    /// The workload that a plan asks for.
    ///
    /// # Errors
    /// What the plan names and is not known here.
    pub fn of_plan(plan: &WorkloadPlan, seed: u64) -> Result<WorkloadParams, String> {
        let kind = match plan.name.as_str() {
            "audit" => WorkloadKind::Audit,
            "flights" => WorkloadKind::Flights,
            "wordcount" => WorkloadKind::WordCount,
            "states" => WorkloadKind::States,
            other => return Err(format!("no workload is called {other:?}; there are {}", Self::NAMES.join(", "))),
        };
        let known =
            [GROUPS, SKEW_PERCENT, SOURCE_PARALLELISM, USER_FAULT_TIMES, MAX_PARALLELISM, USER_PANIC_AT, USER_ERROR_AT];
        if let Some(unknown) = plan.parameters.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("workload {} has no parameter {unknown:?}; there are {}", plan.name, known.join(", ")));
        }
        let parameter = |name: &str| plan.parameters.get(name).copied();
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let splits = plan.splits.max(1);
        let mut user_faults = Vec::new();
        for (name, fault) in [(USER_PANIC_AT, UserFaultKind::Panic), (USER_ERROR_AT, UserFaultKind::Error)] {
            if let Some(record) = parameter(name) {
                // Records are counted over the whole job: the splits in turn.
                let (split, offset) = (small(record % u64::from(splits)), record / u64::from(splits));
                let times = small(parameter(USER_FAULT_TIMES).unwrap_or(1));
                user_faults.push(UserFault { kind: fault, split, offset, times });
            }
        }
        Ok(WorkloadParams {
            kind,
            seed,
            splits,
            records: plan.records,
            keys: small(plan.keys),
            skew: parameter(SKEW_PERCENT).map_or(1.5, |percent| f64::from(small(percent)) / 100.0),
            groups: parameter(GROUPS).filter(|groups| *groups > 0).map(small),
            parallelism: plan.parallelism,
            source_parallelism: parameter(SOURCE_PARALLELISM).map_or(plan.parallelism, small).min(splits),
            max_parallelism: parameter(MAX_PARALLELISM).map(|max| u16::try_from(max).unwrap_or(u16::MAX)),
            records_per_second: (plan.records_per_second > 0).then_some(plan.records_per_second as f64),
            user_faults,
            next_version: false,
        })
    }

    /// The same in its next version.
    #[must_use]
    pub fn next_version(&self) -> WorkloadParams {
        WorkloadParams { next_version: true, ..self.clone() }
    }

    /// The same at another parallelism.
    #[must_use]
    pub fn at_parallelism(&self, parallelism: u32) -> WorkloadParams {
        // The source goes along where it had what the job had.
        let of_source = if self.source_parallelism == self.parallelism.min(self.splits) {
            parallelism.min(self.splits)
        } else {
            self.source_parallelism
        };
        WorkloadParams { parallelism, source_parallelism: of_source, ..self.clone() }
    }

    /// # Errors
    /// If the parameters make no job.
    pub fn build(&self) -> Result<Workload, JobError> {
        match self.kind {
            WorkloadKind::Audit => self.audit(),
            WorkloadKind::States => self.states(),
            WorkloadKind::Flights => {
                // The header and so many rows.
                let rows = usize::try_from(self.records).unwrap_or(usize::MAX).saturating_add(1);
                let csv: String = FLIGHTS.split_inclusive('\n').take(rows).collect();
                let oracle = LineJobOracle::flights(&csv, "flights.csv", self.splits);
                self.line_job("flights.csv", csv, jobs::flights::job, oracle)
            }
            WorkloadKind::WordCount => {
                let text = self.text();
                let oracle = LineJobOracle::words(&text, "text.txt", self.splits);
                self.line_job("text.txt", text, jobs::wordcount::job, oracle)
            }
        }
    }

    fn audit(&self) -> Result<Workload, JobError> {
        let input = AuditInput::new(self.seed, self.splits, self.records, self.keys, self.skew);
        let traps = self.traps();
        let operators = match self.groups {
            None => vec![audit::FIRST.to_string()],
            Some(_) => vec![audit::FIRST.to_string(), audit::SECOND.to_string()],
        };
        Ok(Workload {
            job: audit::job(self, &input, traps.clone())?,
            inputs: Vec::new(),
            records: input.total(),
            oracle: Box::new(AuditOracle::new(input, audit::SINK, operators, self.groups)),
            user_faults: traps,
        })
    }

    fn states(&self) -> Result<Workload, JobError> {
        let input = AuditInput::named(states::NAME, self.seed, self.splits, self.records, self.keys, self.skew);
        let traps = self.traps();
        Ok(Workload {
            job: states::job(self, &input, &traps)?,
            inputs: Vec::new(),
            records: input.total(),
            oracle: Box::new(StatesOracle::new(input)),
            user_faults: traps,
        })
    }

    fn traps(&self) -> Vec<Trap> {
        let trap = |fault: &UserFault| Trap { fault: fault.clone(), left: Arc::new(AtomicU32::new(fault.times)) };
        self.user_faults.iter().map(trap).collect()
    }

    fn line_job(
        &self,
        path: &str,
        content: String,
        job: fn(&JobParams) -> Result<Job, JobError>,
        oracle: LineJobOracle,
    ) -> Result<Workload, JobError> {
        let job = job(&JobParams {
            name: None,
            inputs: vec![InputFile { path: path.to_string(), length: content.len() as u64 }],
            splits_per_file: self.splits,
            parallelism: self.parallelism,
            max_parallelism: self.max_parallelism,
            records_per_second: self.records_per_second,
        })?;
        Ok(Workload {
            job,
            records: oracle.inputs(),
            inputs: vec![(path.to_string(), Bytes::from(content))],
            oracle: Box::new(oracle),
            user_faults: Vec::new(),
        })
    }

    /// A text of about `records` words out of `keys` different ones.
    fn text(&self) -> String {
        let mut text = String::new();
        for number in 0..self.records {
            let bits = xxh3_64_with_seed(&number.to_le_bytes(), self.seed);
            let unit = (bits >> 11) as f64 / (1u64 << 53) as f64;
            let word = (f64::from(self.keys.max(1)) * unit.powf(self.skew.max(0.01))) as u32;
            text.push_str(&format!("word{word}"));
            // Lines of different lengths, some of them empty.
            text.push(if bits.is_multiple_of(7) { '\n' } else { ' ' });
            if bits.is_multiple_of(49) {
                text.push('\n');
            }
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of workload makes a job with the sinks and splits that its oracle expects.
    #[test]
    fn every_workload_builds() {
        for kind in [WorkloadKind::Audit, WorkloadKind::Flights, WorkloadKind::WordCount, WorkloadKind::States] {
            for groups in [None, Some(3)] {
                let params = WorkloadParams { kind, groups, ..WorkloadParams::default() };
                let workload = params.build().expect("sound parameters");
                assert!(workload.records >= 1_000, "{kind:?}: {}", workload.records);
                let splits = workload.job.graph.vertices.iter().flat_map(|v| v.splits.clone().unwrap_or_default());
                let nothing = splits.map(|id| (id, 0)).collect();
                workload.oracle.covers(&nothing).expect("nothing read, nothing written, and all splits known");
                assert_eq!(workload.oracle.complete().expect_err("nothing written yet").kind, "missing");
            }
        }
    }

    /// A plan's words become parameters; what it misspells is named.
    #[test]
    fn plans_are_understood() {
        let mut plan = WorkloadPlan {
            name: "audit".into(),
            records: 100,
            keys: 7,
            splits: 4,
            parallelism: 3,
            records_per_second: 50,
            parameters: [(USER_PANIC_AT.to_string(), 10), (GROUPS.to_string(), 2)].into(),
        };
        let params = WorkloadParams::of_plan(&plan, 9).expect("all known");
        assert_eq!(params.groups, Some(2));
        assert_eq!((params.user_faults[0].split, params.user_faults[0].offset), (2, 2), "record 10 of 4 splits");
        plan.parameters.insert("user_panik_at".into(), 1);
        assert!(WorkloadParams::of_plan(&plan, 9).expect_err("misspelt").contains("user_panik_at"));
    }
}
