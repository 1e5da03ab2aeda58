//! The fold of a sweep's records: counts, medians, coverage, and the judgement whether the sweep could see anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::{FailureClass, RunRecord, Verdict};

/// By median, what the runs of a profile must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorExpectation {
    pub task_managers: u64,
    pub subtasks: u64,
    pub records: u64,
    pub completed_checkpoints: u64,
    pub fired_faults: u64,
    pub restores: u64,
    pub older_restores_percent: u64,
}

/// A point of the protocol, and from how many runs on it must have been passed (None: it need not be).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredPoint {
    pub name: String,
    /// `always`, `sometimes` or `reachable`.
    pub kind: String,
    pub about: String,
    pub from_runs: Option<u64>,
}

/// How often a point was passed, and in how many runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointCount {
    pub runs: u64,
    pub passed: u64,
}

/// What a profile declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    pub profile: String,
    pub minimum_seeds: u64,
    pub faults: Vec<String>,
    pub phases: Vec<String>,
    pub floor: FloorExpectation,
    #[serde(default)]
    pub points: Vec<DeclaredPoint>,
}

/// What came of the runs that were aimed at empty and rare cells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steered {
    pub rounds: u64,
    pub runs: u64,
    /// Cells without a hit before, and how many of them have one now.
    pub empty_before: u64,
    pub reached: u64,
    /// Cells still without a hit, and why.
    pub unreached: BTreeMap<String, String>,
}

/// The run of a signature that shows it the soonest: the one with the fewest events, and of equal ones the lowest seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fastest {
    pub events: u64,
    pub seed: u64,
}

/// One signature with its seeds, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureGroup {
    pub verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    pub signature: String,
    pub seeds: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fastest: Option<Fastest>,
}

/// How often each value occurred. Of a hundred thousand runs it is as small as of ten, and the order of adding leaves no trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    pub fn add(&mut self, value: u64) {
        *self.0.entry(value).or_default() += 1;
    }

    /// The greatest value; 0 if there is none.
    pub fn most(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(value, _)| *value)
    }

    /// The median; of an even number of values the lower one, so that it is a value that occurred. 0 if there is none.
    pub fn median(&self) -> u64 {
        let total: u64 = self.0.values().sum();
        let wanted = total.saturating_sub(1) / 2;
        let mut before = 0;
        for (value, count) in &self.0 {
            before += count;
            if before > wanted {
                return *value;
            }
        }
        0
    }
}

/// Whether the sweep saw what its profile declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// Fewer runs than the profile's minimum.
    NotJudged,
    Seen,
    /// What was declared and did not happen.
    Blind(Vec<String>),
}

/// A function of the set of records: neither their order nor how they were spread over shards shows, the two timings of the
/// machine (`elapsed_ms`, `cores`) aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub expectation: Expectation,
    pub runs: u64,
    pub verdicts: BTreeMap<String, u64>,
    pub failures: Vec<FailureGroup>,
    pub events: BTreeMap<String, u64>,
    /// Fault, then phase.
    pub fault_phase: BTreeMap<String, BTreeMap<String, u64>>,
    /// Fault, phase, then the path by which the job came back.
    #[serde(default)]
    pub fault_phase_path: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>>,
    #[serde(default)]
    pub points: BTreeMap<String, PointCount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered: Option<Steered>,
    /// Faults that a plan held and that did not take effect, by class and reason.
    pub unfired: BTreeMap<String, BTreeMap<String, u64>>,
    pub simulated_ms: u64,
    pub elapsed_ms: u64,
    pub cores: u64,
    pub runs_with_older_restore: u64,
    task_managers: Histogram,
    subtasks: Histogram,
    records: Histogram,
    completed_checkpoints: Histogram,
    fired_faults: Histogram,
    restores: Histogram,
    #[serde(default)]
    opened_databases: Histogram,
    #[serde(default)]
    judged_databases: Histogram,
}

impl Summary {
    pub fn new(expectation: Expectation) -> Summary {
        Summary { expectation, cores: 1, ..Summary::default() }
    }

    pub fn add(&mut self, record: &RunRecord) {
        self.runs += 1;
        *self.verdicts.entry(record.verdict.name().to_string()).or_default() += 1;
        if record.verdict.is_failure() {
            let signature = record.signature.clone().unwrap_or_else(|| record.verdict.name().to_string());
            let at = self.failures.binary_search_by(|group| {
                (group.verdict, group.signature.as_str()).cmp(&(record.verdict, signature.as_str()))
            });
            let group = match at {
                Ok(at) => &mut self.failures[at],
                Err(at) => {
                    let group = FailureGroup {
                        verdict: record.verdict,
                        class: None,
                        signature,
                        seeds: Vec::new(),
                        fastest: None,
                    };
                    self.failures.insert(at, group);
                    &mut self.failures[at]
                }
            };
            // One signature may come with and without a second violation: the gravest counts.
            group.class = group.class.into_iter().chain(record.failure_class()).min();
            let this = Fastest { events: record.counters.events, seed: record.seed };
            group.fastest = group.fastest.into_iter().chain([this]).min();
            let place = group.seeds.partition_point(|seed| *seed < record.seed);
            group.seeds.insert(place, record.seed);
        }
        for (event, count) in &record.coverage.events {
            let known = self.events.entry(event.clone()).or_default();
            // Saturating: a damaged record may hold any number.
            *known = known.saturating_add(*count);
        }
        for fired in &record.coverage.fired {
            *self.fault_phase.entry(fired.class.clone()).or_default().entry(fired.phase.clone()).or_default() += 1;
            let phases = self.fault_phase_path.entry(fired.class.clone()).or_default();
            *phases.entry(fired.phase.clone()).or_default().entry(fired.path.clone()).or_default() += 1;
        }
        for (point, passed) in &record.coverage.points {
            let count = self.points.entry(point.clone()).or_default();
            count.runs += 1;
            count.passed += passed;
        }
        for unfired in &record.coverage.unfired {
            *self.unfired.entry(unfired.class.clone()).or_default().entry(unfired.reason.clone()).or_default() += 1;
        }
        self.simulated_ms = self.simulated_ms.saturating_add(record.timings.simulated_ms);
        let counters = &record.counters;
        self.task_managers.add(counters.task_managers);
        self.subtasks.add(counters.subtasks);
        self.records.add(counters.records);
        self.completed_checkpoints.add(counters.completed_checkpoints);
        self.fired_faults.add(counters.fired_faults);
        self.restores.add(counters.restores);
        self.opened_databases.add(counters.opened_databases);
        self.judged_databases.add(counters.judged_databases);
        self.runs_with_older_restore += u64::from(counters.older_restores > 0);
    }

    /// Name, median (or percentage), and floor of each line of the profile floor.
    pub fn floor_lines(&self) -> Vec<(&'static str, u64, u64)> {
        let floor = &self.expectation.floor;
        vec![
            ("TaskManagers", self.task_managers.median(), floor.task_managers),
            ("subtasks", self.subtasks.median(), floor.subtasks),
            ("records", self.records.median(), floor.records),
            ("completed checkpoints", self.completed_checkpoints.median(), floor.completed_checkpoints),
            ("fired faults", self.fired_faults.median(), floor.fired_faults),
            ("restores", self.restores.median(), floor.restores),
            ("% restoring an older checkpoint", self.older_percent(), floor.older_restores_percent),
        ]
    }

    /// Databases that a run opened, and that its invariants did, by median. None: no run has a database.
    pub fn databases(&self) -> Option<(u64, u64)> {
        let found = (self.opened_databases.median(), self.judged_databases.median());
        (self.opened_databases.most() > 0).then_some(found)
    }

    fn older_percent(&self) -> u64 {
        (self.runs_with_older_restore * 100).checked_div(self.runs).unwrap_or(0)
    }

    pub fn failed_runs(&self) -> u64 {
        self.failures.iter().map(|group| group.seeds.len() as u64).sum()
    }

    pub fn count(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict.name()).copied().unwrap_or(0)
    }

    /// Declared faults that never fired.
    pub fn silent_faults(&self) -> Vec<&str> {
        self.expectation
            .faults
            .iter()
            .map(String::as_str)
            .filter(|name| !self.fault_phase.contains_key(*name))
            .collect()
    }

    /// Declared phases that were never reached.
    pub fn silent_phases(&self) -> Vec<&str> {
        self.expectation.phases.iter().map(String::as_str).filter(|name| !self.events.contains_key(*name)).collect()
    }

    /// Points that must have been passed by now and were not.
    pub fn missed_points(&self) -> impl Iterator<Item = &DeclaredPoint> {
        let due = |point: &&DeclaredPoint| point.from_runs.is_some_and(|from| from <= self.runs);
        self.expectation.points.iter().filter(due).filter(|point| !self.points.contains_key(&point.name))
    }

    /// Faults by the path by which the job came back, over all phases.
    pub fn fault_path(&self) -> BTreeMap<&str, BTreeMap<&str, u64>> {
        let mut counts: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
        for (fault, phases) in &self.fault_phase_path {
            for (path, count) in phases.values().flatten() {
                *counts.entry(fault).or_default().entry(path).or_default() += count;
            }
        }
        counts
    }

    pub fn judgement(&self) -> Judgement {
        if self.runs < self.expectation.minimum_seeds {
            return Judgement::NotJudged;
        }
        let mut missing: Vec<String> =
            self.silent_faults().iter().map(|name| format!("fault {name} never fired")).collect();
        missing.extend(self.silent_phases().iter().map(|name| format!("phase {name} never reached")));
        missing.extend(self.missed_points().map(|point| format!("{} point {} never passed", point.kind, point.name)));
        missing.extend(
            self.floor_lines()
                .into_iter()
                .filter(|(_, seen, floor)| seen < floor)
                .map(|(name, seen, floor)| format!("floor: {name} {seen}, declared {floor}")),
        );
        if missing.is_empty() { Judgement::Seen } else { Judgement::Blind(missing) }
    }

    /// Runs per second and core.
    pub fn speed(&self) -> f64 {
        if self.elapsed_ms == 0 {
            return 0.0;
        }
        self.runs as f64 * 1_000.0 / self.elapsed_ms as f64 / self.cores.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FiredFault;

    fn expectation() -> Expectation {
        Expectation {
            profile: "p".into(),
            minimum_seeds: 2,
            faults: vec!["crash".into(), "freeze".into()],
            phases: vec!["CheckpointCompleted".into()],
            floor: FloorExpectation::default(),
            points: Vec::new(),
        }
    }

    fn run(seed: u64, fault: &str) -> RunRecord {
        let mut record = RunRecord::empty(seed, "p", Verdict::Clean);
        record.coverage.fired.push(FiredFault {
            index: Some(0),
            class: fault.into(),
            target: "tm-1".into(),
            phase: "running".into(),
            at_ms: 1,
            event: 1,
            path: "primary".into(),
        });
        record.coverage.events.insert("CheckpointCompleted".into(), 1);
        record
    }

    #[test]
    fn below_the_minimum_nothing_is_judged() {
        let mut summary = Summary::new(expectation());
        summary.add(&run(1, "crash"));
        assert_eq!(summary.judgement(), Judgement::NotJudged);
    }

    #[test]
    fn a_declared_fault_that_never_fired_makes_the_sweep_blind() {
        let mut summary = Summary::new(expectation());
        summary.add(&run(1, "crash"));
        summary.add(&run(2, "crash"));
        assert_eq!(summary.judgement(), Judgement::Blind(vec!["fault freeze never fired".into()]));
        summary.add(&run(3, "freeze"));
        assert_eq!(summary.judgement(), Judgement::Seen);
    }

    #[test]
    fn a_floor_that_is_not_kept_makes_the_sweep_blind() {
        let mut expectation = expectation();
        expectation.floor.records = 10;
        let mut summary = Summary::new(expectation);
        summary.add(&run(1, "crash"));
        summary.add(&run(2, "freeze"));
        assert_eq!(summary.judgement(), Judgement::Blind(vec!["floor: records 0, declared 10".into()]));
    }

    #[test]
    fn a_point_that_is_due_and_was_never_passed_makes_the_sweep_blind() {
        let mut expectation = expectation();
        let point = |name: &str, from_runs| DeclaredPoint {
            name: name.into(),
            kind: "sometimes".into(),
            about: "it happens".into(),
            from_runs,
        };
        expectation.points = vec![point("seen", Some(2)), point("not-due", Some(3)), point("optional", None)];
        let mut summary = Summary::new(expectation);
        summary.add(&run(1, "crash"));
        summary.add(&run(2, "freeze"));
        assert_eq!(summary.judgement(), Judgement::Blind(vec!["sometimes point seen never passed".into()]));
        let mut record = run(3, "freeze");
        record.coverage.points.extend([("seen".to_string(), 4), ("not-due".to_string(), 1)]);
        summary.add(&record);
        assert_eq!(summary.judgement(), Judgement::Seen);
        assert_eq!(summary.points["seen"], PointCount { runs: 1, passed: 4 });
    }

    #[test]
    fn paths_are_counted_per_fault_and_phase() {
        let mut summary = Summary::new(expectation());
        summary.add(&run(1, "crash"));
        summary.add(&run(2, "crash"));
        assert_eq!(summary.fault_phase_path["crash"]["running"]["primary"], 2);
        assert_eq!(summary.fault_path()["crash"]["primary"], 2);
    }

    #[test]
    fn failures_are_grouped_by_signature() {
        let mut summary = Summary::new(expectation());
        for seed in 0..3 {
            let mut record = run(seed, "crash");
            record.verdict = Verdict::Violation;
            record.signature = Some(if seed == 1 { "b" } else { "a" }.into());
            summary.add(&record);
        }
        let groups: Vec<_> = summary.failures.iter().map(|g| (g.signature.as_str(), g.seeds.clone())).collect();
        assert_eq!(groups, [("a", vec![0, 2]), ("b", vec![1])]);
        let mut short = run(7, "crash");
        (short.verdict, short.signature) = (Verdict::Violation, Some("a".into()));
        let mut long = short.clone();
        (long.seed, long.counters.events) = (8, 900);
        summary.failures.clear();
        summary.add(&long);
        assert_eq!(summary.failures[0].fastest, Some(Fastest { events: 900, seed: 8 }));
        summary.add(&short);
        assert_eq!(summary.failures[0].fastest, Some(Fastest { events: 0, seed: 7 }));
    }

    #[test]
    fn the_order_of_the_records_leaves_no_trace() {
        let mut records: Vec<RunRecord> = (0..40)
            .map(|seed| {
                let mut record = run(seed, if seed % 3 == 0 { "crash" } else { "freeze" });
                record.counters.records = seed * 7 % 11;
                if seed % 5 == 0 {
                    record.verdict = Verdict::Violation;
                    record.signature = Some(format!("broken/{}", seed % 2));
                }
                record
            })
            .collect();
        let summarised = |records: &[RunRecord]| {
            let mut summary = Summary::new(expectation());
            records.iter().for_each(|record| summary.add(record));
            summary
        };
        let forwards = summarised(&records);
        records.reverse();
        records.swap(3, 30);
        assert_eq!(summarised(&records), forwards);
        assert_eq!(forwards.failures.len(), 2);
        assert_eq!(forwards.failures[0].seeds, [0, 10, 20, 30]);
    }

    #[test]
    fn the_median_is_a_value_that_occurred() {
        let median = |values: &[u64]| {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            histogram.median()
        };
        assert_eq!(median(&[]), 0);
        assert_eq!(median(&[5]), 5);
        assert_eq!(median(&[9, 1]), 1);
        assert_eq!(median(&[9, 1, 3]), 3);
        assert_eq!(median(&[7, 7, 1, 7]), 7);
    }
}
