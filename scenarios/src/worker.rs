//! The other side of a sweep: a process that reads requests, one line of JSON each, runs them, and answers each with one line.
//!
//! User code may print what it likes: an answer is told from it by its first word.

use std::{
    cell::RefCell,
    io::{BufRead, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use reports::{RunRecord, Verdict};
use serde::{Deserialize, Serialize};

use crate::{
    plan::{Plan, Profile, generate},
    record::{Observer, Story},
    run::{SEGMENT_EVENTS, run_plan},
    violation::normalise,
};

/// The first word of an answer.
pub const ANSWER: &str = "WEIR-RUN ";

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub what: What,
    /// Also give the events of this segment of the trace.
    #[serde(default)]
    pub segment: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The generated plan of a seed, with what the command line changes about it.
    Seed { seed: u64, profile: String, job: Option<String>, parameters: Vec<(String, u64)> },
    /// A plan as TOML.
    Plan(String),
}

impl What {
    /// # Errors
    /// A line that says what is wrong.
    pub fn plan(&self) -> Result<Plan, String> {
        match self {
            What::Plan(text) => Plan::from_toml(text).map_err(|error| error.to_string()),
            What::Seed { seed, profile, job, parameters } => {
                let profile = Profile::named(profile)
                    .ok_or_else(|| format!("no profile {profile:?}; there are {}", Profile::names()))?;
                let mut plan = generate(profile, *seed);
                if let Some(job) = job {
                    plan.workload.name.clone_from(job);
                }
                plan.workload.parameters.extend(parameters.iter().cloned());
                Ok(plan)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub record: RunRecord,
    #[serde(default)]
    pub segment: Vec<String>,
}

struct SegmentObserver {
    segment: Option<u64>,
    lines: Rc<RefCell<Vec<String>>>,
}

impl Observer for SegmentObserver {
    fn event(&mut self, story: &Story<'_>) {
        if self.segment == Some(story.sequence / SEGMENT_EVENTS) {
            self.lines.borrow_mut().push(story.to_string());
        }
    }
}

/// Runs one request. A panic becomes a record.
pub fn answer(request: &Request) -> Answer {
    let plan = match request.what.plan() {
        Ok(plan) => plan,
        Err(message) => return environment(0, "", message),
    };
    let lines = Rc::new(RefCell::new(Vec::new()));
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut observer = SegmentObserver { segment: request.segment, lines: lines.clone() };
        run_plan(&plan, &mut observer)
    }));
    let record = match result {
        Ok(Ok(record)) => record,
        Ok(Err(error)) => return environment(plan.seed, &plan.profile, error.to_string()),
        Err(panic) => {
            let message = panic_message(panic.as_ref());
            crash_record(&plan, &message)
        }
    };
    Answer { record, segment: lines.take() }
}

fn environment(seed: u64, profile: &str, message: String) -> Answer {
    let mut record = RunRecord::empty(seed, profile, Verdict::Environment);
    record.message = Some(message);
    Answer { record, segment: Vec::new() }
}

/// The record of a run that panicked or took its process with it.
pub fn crash_record(plan: &Plan, message: &str) -> RunRecord {
    let mut record = RunRecord::empty(plan.seed, plan.profile.clone(), Verdict::Crash);
    record.signature = Some(format!("crash/{}", normalise(message.lines().next().unwrap_or_default())));
    record.message = Some(message.to_string());
    record.plan = Some(plan.to_toml());
    record
}

/// Serves requests until the input ends.
///
/// # Errors
/// If the pipes break; the parent is gone then.
pub fn serve(input: impl BufRead, mut output: impl Write) -> std::io::Result<()> {
    // One line per panic, no backtrace: the parent keeps the end of what is written here.
    std::panic::set_hook(Box::new(|info| eprintln!("{}", info.to_string().replace('\n', " "))));
    for line in input.lines() {
        let line = line?;
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => answer(&request),
            Err(error) => environment(0, "", format!("not a request: {error}")),
        };
        let text = serde_json::to_string(&answer).map_err(std::io::Error::other)?;
        // User code may have left a line unfinished.
        writeln!(output, "\n{ANSWER}{text}")?;
        output.flush()?;
    }
    Ok(())
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_string())
}
