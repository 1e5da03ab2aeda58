//! Runs in processes of their own, through the entry by which `./weir replay` and the sweep run them.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use reports::{RunRecord, Verdict, failure_screen};
use scenarios::worker::{ANSWER, Answer, Request, What};

/// In real time; a seed takes a twentieth of a second.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Runs one request in a fresh process.
///
/// # Errors
/// What went wrong between here and there, the end of its standard error included.
pub fn run_in_child(worker: &Path, what: &What) -> Result<RunRecord, String> {
    let request = Request { what: what.clone(), segment: None };
    let text = serde_json::to_string(&request).map_err(|error| error.to_string())?;
    let mut child = Command::new(worker)
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", worker.display()))?;
    let (Some(mut input), Some(mut output), Some(mut errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("a child without pipes".to_string());
    };
    writeln!(input, "{text}").map_err(|error| format!("the worker does not listen: {error}"))?;
    // The end of its input is the end of its work.
    drop(input);
    let answers = std::thread::spawn(move || {
        let mut text = Vec::new();
        output.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let complaints = std::thread::spawn(move || {
        let mut text = Vec::new();
        errors.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let deadline = Instant::now() + RUN_LIMIT;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status.to_string(),
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no end within {RUN_LIMIT:?}"));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let (answers, complaints) = (answers.join(), complaints.join());
    let text = answers.map_err(|_| "the reader panicked")?.map_err(|error| error.to_string())?;
    let complaints = complaints.map_err(|_| "the reader panicked")?.map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(ANSWER));
    let line = line.ok_or_else(|| format!("the run took its process with it ({status}): {}", complaints.trim()))?;
    let answer: Answer = serde_json::from_str(line).map_err(|error| format!("not an answer: {error}"))?;
    Ok(answer.record)
}

/// The generated plan of a seed.
pub fn seed(seed: u64, profile: &str) -> What {
    What::Seed { seed, profile: profile.to_string(), job: None, parameters: Vec::new() }
}

/// Runs each seed of a profile in a process of its own, as many at a time as there are cores, and gives what went wrong: the
/// failure screen, with the commands that repeat it.
pub fn failures_of_seeds(worker: &Path, profile: &str, seeds: &[u64], test: &str) -> Vec<String> {
    let next = Mutex::new(seeds.iter().copied());
    let take = || next.lock().ok().and_then(|mut next| next.next());
    let failures = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(number) = take() {
                    let replay = format!("./weir replay --seed {number} --profile {profile}");
                    let command =
                        format!("{replay}\n        WEIR_SEED={number} cargo test -p weir-tests --test {test}");
                    let failure = match run_in_child(worker, &seed(number, profile)) {
                        Ok(record) if !record.verdict.is_failure() => continue,
                        Ok(record) => failure_screen(&record, &command),
                        Err(message) => {
                            let mut record = RunRecord::empty(number, profile, Verdict::Crash);
                            record.message = Some(message);
                            failure_screen(&record, &command)
                        }
                    };
                    if let Ok(mut failures) = failures.lock() {
                        failures.push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_default()
}

/// The seeds that the environment asks for: `WEIR_SEED=7`, `WEIR_SEEDS=100..200`; else `default`.
///
/// # Errors
/// What of the environment makes no sense.
pub fn seeds_of_environment(default: impl IntoIterator<Item = u64>) -> Result<Vec<u64>, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{text:?} is no seed"));
    if let Some(one) = variable("WEIR_SEED") {
        return Ok(vec![number(&one).map_err(|error| format!("WEIR_SEED: {error}"))?]);
    }
    let Some(range) = variable("WEIR_SEEDS") else { return Ok(default.into_iter().collect()) };
    let (first, end) = range.split_once("..").ok_or_else(|| format!("WEIR_SEEDS: {range:?} is no range A..B"))?;
    let (first, end) =
        number(first).and_then(|f| number(end).map(|e| (f, e))).map_err(|e| format!("WEIR_SEEDS: {e}"))?;
    if first >= end { Err(format!("WEIR_SEEDS: {range} holds no seed")) } else { Ok((first..end).collect()) }
}

/// Runs the worker as a program and waits for its end.
///
/// # Panics
/// If it cannot be started.
pub fn program(worker: &Path, arguments: &[&str]) -> Output {
    Command::new(worker).args(arguments).output().expect("the worker starts")
}
