//! Runs a request in a worker, turns whatever happens into a record, and believes a failure only when a fresh process
//! repeats it.

use std::time::Duration;

use reports::{RunRecord, Verdict};

use crate::{
    blame::{Blame, accuse_harness, blame_of_file},
    child::{Child, Reply},
    worker::{Answer, Request, What, crash_record},
};

/// What a run may use of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Real time.
    pub run: Duration,
    /// Bytes of address space of its process.
    pub memory: u64,
}

impl Limits {
    pub const MEMORY: u64 = 4 << 30;
}

impl From<Duration> for Limits {
    fn from(run: Duration) -> Limits {
        Limits { run, memory: Limits::MEMORY }
    }
}

/// A worker that is replaced after some runs, and whenever a run did not end well.
pub struct Runner {
    child: Option<(Child, u32)>,
    batch: u32,
    limits: Limits,
}

impl Runner {
    pub fn new(batch: u32, limits: impl Into<Limits>) -> Runner {
        Runner { child: None, batch: batch.max(1), limits: limits.into() }
    }

    /// Runs one request once. A failure always ends the worker, so that nothing of it reaches the next run.
    ///
    /// # Errors
    /// A line that says why nothing could be run.
    pub fn once(&mut self, request: &Request) -> Result<Answer, String> {
        let (mut child, used) = match self.child.take() {
            Some(used) => used,
            None => (Child::start(self.limits.memory)?, 0),
        };
        let mut answer = match child.run(request, self.limits.run)? {
            Reply::Answer(answer) => *answer,
            Reply::Hang => {
                let message = format!("no end within {:.0} s of real time", self.limits.run.as_secs_f64());
                let mut record = lost(request, &message)?;
                record.verdict = Verdict::Hang;
                record.signature = Some("hang".to_string());
                record.invariant = Some("ends".to_string());
                Answer { record, segment: Vec::new() }
            }
            Reply::Died { status } => {
                let tail = child.stderr_tail();
                Answer { record: died(request, &status, &tail, self.limits)?, segment: Vec::new() }
            }
            Reply::Nonsense(message) => {
                let mut record = lost(request, &message)?;
                accuse_harness(&mut record, &message, None);
                Answer { record, segment: Vec::new() }
            }
        };
        answer.record.class = answer.record.failure_class();
        if let What::Steered { goal, .. } = &request.what {
            answer.record.goal = Some(goal.clone());
        }
        if answer.record.verdict.is_failure() {
            let tail = child.stderr_tail();
            answer.record.stderr_tail = (!tail.is_empty()).then_some(tail);
        } else if used + 1 < self.batch {
            self.child = Some((child, used + 1));
        }
        Ok(answer)
    }

    /// Runs one request; a failure is repeated in a fresh process. If that goes another way, the record says so: what failed
    /// once is never retried away.
    ///
    /// # Errors
    /// A line that says why nothing could be run.
    pub fn confirmed(&mut self, request: &Request) -> Result<RunRecord, String> {
        let first = self.once(request)?.record;
        if !first.verdict.is_failure() || first.verdict == Verdict::Environment {
            return Ok(first);
        }
        let again = self.once(request)?.record;
        Ok(if first.is_same_run(&again) { first } else { conflict(first, again) })
    }
}

/// Two runs of one plan that went different ways, as one record.
pub fn conflict(first: RunRecord, again: RunRecord) -> RunRecord {
    let told = |record: &RunRecord| {
        let signature = record.signature.as_deref().unwrap_or("no signature");
        format!("{} ({signature}, trace {})", record.verdict.name(), short(&record.trace.last))
    };
    let message = format!("the same plan gave {} and, in a fresh process, {}", told(&first), told(&again));
    // The machine's share in a hang, in lost memory and in a process that does not start is no function of the plan, and what
    // a broken harness says is no evidence: none of them shows nondeterminism of the run.
    let of_harness = |record: &RunRecord| record.verdict == Verdict::Harness;
    let of_machine =
        |record: &RunRecord| matches!(record.verdict, Verdict::Hang | Verdict::Memory | Verdict::Environment);
    let mut record = if of_harness(&again) && !of_harness(&first) {
        RunRecord { message: Some(message), ..again }
    } else if of_harness(&first) || of_machine(&first) || of_machine(&again) {
        let failed = if first.verdict.is_failure() { first } else { again };
        RunRecord { message: Some(message), ..failed }
    } else {
        RunRecord {
            verdict: Verdict::Nondeterminism,
            invariant: Some("determinism".to_string()),
            signature: Some("nondeterminism".to_string()),
            message: Some(message),
            // What broke in one of them is told, although the other did not repeat it.
            violations: if first.violations.is_empty() { again.violations } else { first.violations },
            plan: first.plan.or(again.plan),
            ..first
        }
    };
    record.class = record.failure_class();
    record
}

fn short(hash: &str) -> &str {
    if hash.is_empty() { "none" } else { hash }
}

fn lost(request: &Request, message: &str) -> Result<RunRecord, String> {
    Ok(crash_record(&request.what.plan()?, message))
}

/// The record of a run that took its process with it, by what the process left behind.
fn died(request: &Request, status: &str, tail: &str, limits: Limits) -> Result<RunRecord, String> {
    let last = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let mut record = lost(request, &format!("the process was lost ({status}) {last}"))?;
    // What Rust says when an allocation fails or there is no room for a thread's stack, and what the kernel does when there is
    // no memory at all.
    let is_refusal = |line: &&str| {
        let refused = line.contains("memory allocation of ") && line.contains(" bytes failed");
        refused || line.contains("failed to spawn thread")
    };
    let refused = tail.lines().find(is_refusal);
    if refused.is_some() || status == KILLED {
        record.verdict = Verdict::Memory;
        record.signature = Some("memory".to_string());
        let mebibytes = limits.memory >> 20;
        record.message = Some(if let Some(line) = refused {
            format!("{line}: the limit is {mebibytes} MiB of address space")
        } else {
            format!(
                "{status}, not by the harness: the system's memory killer, or a person ({mebibytes} MiB were allowed)"
            )
        });
    } else if let Some(place) = last_panic(tail)
        && blame_of_file(place) == Blame::Harness
    {
        let message = format!("the process was lost ({status}) after a panic of the harness; {last}");
        accuse_harness(&mut record, &message, Some(place));
    }
    Ok(record)
}

/// How a process ends that was sent what it cannot catch.
const KILLED: &str = "killed by signal 9";

/// The place of the last panic that a process told of.
fn last_panic(tail: &str) -> Option<&str> {
    let (_, after) = tail.rsplit_once("panicked at ")?;
    let end = after.find(['\n', ' ']).unwrap_or(after.len());
    Some(after[..end].trim_end_matches(':'))
}

/// The command that repeats a request, for people.
pub fn command(what: &What, profile: &str, plan_file: Option<&str>) -> String {
    match (what, plan_file) {
        (_, Some(file)) => format!("./weir replay --plan {file}"),
        (What::Plan(_), None) => "./weir replay --plan <the plan>".to_string(),
        (What::Steered { seed, goal, .. }, None) => {
            format!("./weir replay --seed {seed} --profile {profile} --steer {goal}")
        }
        (What::Seed { seed, job, parameters, .. }, None) => {
            let mut command = format!("./weir replay --seed {seed} --profile {profile}");
            if let Some(job) = job {
                command.push_str(&format!(" --job {job}"));
            }
            for (name, value) in parameters {
                command.push_str(&format!(" --set {name}={value}"));
            }
            command
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(verdict: Verdict, trace: &str) -> RunRecord {
        let mut record = RunRecord::empty(7, "default", verdict);
        record.trace.last = trace.to_string();
        if verdict == Verdict::Violation {
            record.violations.push(reports::ViolationRecord {
                invariant: "exactly-once".into(),
                entity: "out".into(),
                kind: "lost".into(),
                message: "m".into(),
                signature: "s".into(),
            });
        }
        record
    }

    /// The table of what two runs of one plan amount to. No row that holds a failure is clean.
    #[test]
    fn what_failed_once_is_never_retried_away() {
        use Verdict::*;
        for (first, again, expected) in [
            (Violation, Clean, Nondeterminism),
            (Clean, Violation, Nondeterminism),
            (Violation, Violation, Nondeterminism),
            (Crash, Clean, Nondeterminism),
            (Hang, Clean, Hang),
            (Clean, Hang, Hang),
            (Memory, Clean, Memory),
            (Memory, Hang, Memory),
            (Violation, Environment, Violation),
            (Violation, Hang, Violation),
            (Harness, Clean, Harness),
            (Clean, Harness, Harness),
            (Violation, Harness, Harness),
        ] {
            let merged = conflict(record(first, "a"), record(again, "b"));
            assert_eq!(merged.verdict, expected, "{first:?} then {again:?}");
            assert!(merged.verdict.is_failure());
            assert_eq!(merged.class, merged.failure_class());
            let message = merged.message.expect("both are told");
            assert!(message.contains(first.name()) && message.contains(again.name()), "{message}");
        }
        let merged = conflict(record(Clean, "a"), record(Violation, "b"));
        assert_eq!(merged.violations.len(), 1, "what broke is still told");
    }

    fn died_with(status: &str, tail: &str) -> RunRecord {
        let what = What::Seed { seed: 7, profile: "default".into(), job: None, parameters: Vec::new() };
        died(&Request { what, segment: None }, status, tail, Duration::from_secs(1).into()).expect("a record")
    }

    #[test]
    fn a_lost_process_is_classified_by_what_it_left() {
        let refused = "memory allocation of 1073741824 bytes failed\n";
        assert_eq!(died_with("killed by signal 6", refused).verdict, Verdict::Memory);
        assert_eq!(died_with("killed by signal 9", "").verdict, Verdict::Memory);
        assert_eq!(died_with("killed by signal 11", "stack overflow").verdict, Verdict::Crash);
        assert_eq!(died_with("exited with status 0", "").verdict, Verdict::Crash);
        let harness = "panicked at runtime/src/a.rs:1:2: x\nthread panicked at sim/src/disk.rs:10:5: again\n";
        let record = died_with("killed by signal 6", harness);
        assert_eq!(record.verdict, Verdict::Harness);
        assert!(record.signature.as_deref().is_some_and(|s| s.starts_with("harness/sim/src/disk.rs/")), "{record:?}");
        let runtime = "panicked at sim/src/disk.rs:10:5: x\npanicked at runtime/src/a.rs:1:2: y";
        assert_eq!(died_with("killed by signal 6", runtime).verdict, Verdict::Crash);
    }
}
