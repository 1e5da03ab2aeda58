//! The other side of a sweep: a process that reads requests, one line of JSON each, runs them, and answers each with one line.
//!
//! User code may print what it likes: an answer is told from it by its first word.

use std::{
    io::{BufRead, Write},
    sync::{Arc, Mutex},
};

use reports::{RunRecord, Verdict};
use serde::{Deserialize, Serialize};

use crate::{
    blame,
    coverage::steered_plan::steered,
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
    /// The plan of a seed, aimed at a goal: `freeze@phase-align`.
    Steered { seed: u64, profile: String, goal: String },
    /// A plan as TOML.
    Plan(String),
}

impl What {
    /// # Errors
    /// A line that says what is wrong.
    pub fn plan(&self) -> Result<Plan, String> {
        match self {
            What::Plan(text) => Plan::from_toml(text).map_err(|error| error.to_string()),
            What::Steered { seed, profile, goal } => steered(named(profile)?, *seed, goal.parse()?),
            What::Seed { seed, profile, job, parameters } => {
                let mut plan = generate(named(profile)?, *seed);
                if let Some(job) = job {
                    plan.workload.name.clone_from(job);
                }
                plan.workload.parameters.extend(parameters.iter().cloned());
                Ok(plan)
            }
        }
    }
}

fn named(profile: &str) -> Result<&'static Profile, String> {
    Profile::named(profile).ok_or_else(|| format!("no profile {profile:?}; there are {}", Profile::names()))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub record: RunRecord,
    #[serde(default)]
    pub segment: Vec<String>,
}

struct SegmentObserver {
    segment: Option<u64>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Observer for SegmentObserver {
    fn event(&mut self, story: &Story<'_>) {
        if self.segment == Some(story.sequence / SEGMENT_EVENTS) {
            // Nobody panics while holding it.
            if let Ok(mut lines) = self.lines.lock() {
                lines.push(story.to_string());
            }
        }
    }
}

/// Runs one request.
pub fn answer(request: &Request) -> Answer {
    let plan = match request.what.plan() {
        Ok(plan) => plan,
        Err(message) => return environment(0, "", message),
    };
    let lines = Arc::new(Mutex::new(Vec::new()));
    let observer = SegmentObserver { segment: request.segment, lines: lines.clone() };
    let record = match run_plan(&plan, Box::new(observer)) {
        Ok(record) => record,
        Err(error) => return environment(plan.seed, &plan.profile, error.to_string()),
    };
    Answer { record, segment: lines.lock().map(|mut lines| std::mem::take(&mut *lines)).unwrap_or_default() }
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

/// What a worker is told when it is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeOptions {
    /// Bytes of address space that this process may have, besides what it starts with.
    pub memory_limit: Option<u64>,
    /// Follows the first word of each answer, so that nothing that user code prints passes for one.
    pub word: String,
}

/// Serves requests until the input ends.
///
/// # Errors
/// If the pipes break, the parent is gone then; or if the limits cannot be set.
pub fn serve(options: &ServeOptions, input: impl BufRead, mut output: impl Write) -> std::io::Result<()> {
    // One line per panic, no backtrace: the parent keeps the end of what is written here.
    blame::watch();
    confine(options)?;
    end_with_parent();
    for line in input.lines() {
        let line = line?;
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => answer(&request),
            Err(error) => environment(0, "", format!("not a request: {error}")),
        };
        let text = serde_json::to_string(&answer).map_err(std::io::Error::other)?;
        // User code may have left a line unfinished.
        writeln!(output, "\n{ANSWER}{}{text}", options.word)?;
        output.flush()?;
    }
    Ok(())
}

/// An allocation beyond the limit fails, and Rust ends the process with a line that says so.
#[cfg(unix)]
fn confine(options: &ServeOptions) -> std::io::Result<()> {
    let Some(limit) = options.memory_limit else { return Ok(()) };
    let (_, hard) = rlimit::getrlimit(rlimit::Resource::AS)?;
    // What an allocator reserves at its start and never uses is no fault of the runs.
    let wanted = limit.saturating_add(address_space());
    rlimit::setrlimit(rlimit::Resource::AS, wanted.min(hard), hard)
}

/// Bytes of address space that this process has. 0 where the system does not say.
#[cfg(unix)]
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or_default().saturating_mul(1_024)
}

#[cfg(not(unix))]
fn confine(_options: &ServeOptions) -> std::io::Result<()> {
    Ok(())
}

/// A run that hangs would outlive a parent that was killed, and burn a core for ever.
fn end_with_parent() {
    #[cfg(unix)]
    {
        let parent = std::os::unix::process::parent_id();
        std::thread::spawn(move || {
            while std::os::unix::process::parent_id() == parent {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
            std::process::exit(1);
        });
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_string())
}
