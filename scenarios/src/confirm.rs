//! Runs a request in a worker, turns whatever happens into a record, and believes a failure only when a fresh process
//! repeats it.

use std::time::Duration;

use reports::{RunRecord, Verdict};

use crate::{
    child::{Child, Reply},
    worker::{Answer, Request, What, crash_record},
};

/// A worker that is replaced after some runs, and whenever a run did not end well.
pub struct Runner {
    child: Option<(Child, u32)>,
    batch: u32,
    limit: Duration,
}

impl Runner {
    pub fn new(batch: u32, limit: Duration) -> Runner {
        Runner { child: None, batch: batch.max(1), limit }
    }

    /// Runs one request once. A failure always ends the worker, so that nothing of it reaches the next run.
    ///
    /// # Errors
    /// A line that says why nothing could be run.
    pub fn once(&mut self, request: &Request) -> Result<Answer, String> {
        let (mut child, used) = match self.child.take() {
            Some(used) => used,
            None => (Child::start()?, 0),
        };
        let mut answer = match child.run(request, self.limit)? {
            Reply::Answer(answer) => *answer,
            Reply::Hang => {
                let message = format!("no end within {:.0} s of real time", self.limit.as_secs_f64());
                Answer { record: lost(request, Verdict::Hang, &message)?, segment: Vec::new() }
            }
            Reply::Died { status } => {
                let tail = child.stderr_tail();
                let last = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                let message = format!("the process was lost ({status}) {last}");
                Answer { record: lost(request, Verdict::Crash, &message)?, segment: Vec::new() }
            }
        };
        if answer.record.verdict.is_failure() {
            let tail = child.stderr_tail();
            answer.record.stderr_tail = (!tail.is_empty()).then_some(tail);
        } else if used + 1 < self.batch {
            self.child = Some((child, used + 1));
        }
        Ok(answer)
    }

    /// Runs one request; a failure is repeated in a fresh process. If that goes another way, the record says nondeterminism.
    ///
    /// # Errors
    /// A line that says why nothing could be run.
    pub fn confirmed(&mut self, request: &Request) -> Result<RunRecord, String> {
        let first = self.once(request)?.record;
        if !first.verdict.is_failure() || first.verdict == Verdict::Environment {
            return Ok(first);
        }
        let again = self.once(request)?.record;
        Ok(if first.is_same_run(&again) { first } else { nondeterminism(first, &again) })
    }
}

/// What both runs said, as one record.
pub fn nondeterminism(first: RunRecord, again: &RunRecord) -> RunRecord {
    let told = |record: &RunRecord| {
        let signature = record.signature.as_deref().unwrap_or("no signature");
        format!("{} ({signature}, trace {})", record.verdict.name(), short(&record.trace.last))
    };
    let message = format!("the same plan gave {} and, in a fresh process, {}", told(&first), told(again));
    RunRecord {
        verdict: Verdict::Nondeterminism,
        invariant: Some("determinism".to_string()),
        signature: Some("nondeterminism".to_string()),
        message: Some(message),
        violations: Vec::new(),
        ..first
    }
}

fn short(hash: &str) -> &str {
    if hash.is_empty() { "none" } else { hash }
}

fn lost(request: &Request, verdict: Verdict, message: &str) -> Result<RunRecord, String> {
    let plan = request.what.plan()?;
    let mut record = crash_record(&plan, message);
    record.verdict = verdict;
    if verdict == Verdict::Hang {
        record.signature = Some("hang".to_string());
        record.invariant = Some("ends".to_string());
    }
    Ok(record)
}

/// The command that repeats a request, for people.
pub fn command(what: &What, profile: &str, plan_file: Option<&str>) -> String {
    match (what, plan_file) {
        (_, Some(file)) => format!("./weir replay --plan {file}"),
        (What::Plan(_), None) => "./weir replay --plan <the plan>".to_string(),
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
