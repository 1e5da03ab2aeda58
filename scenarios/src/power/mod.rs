//! The power of the harness: each planted bug of the runtime is hunted in several sweeps over seeds of their own, and what it
//! took to find it goes on the scoreboard.
//!
//! Plans are those of any sweep, drawn by the same generator and without a look at the bug. A run counts as a finding when
//! it fails with the bug, does so again in a fresh process, and is clean without the bug. What a marker in the journal says
//! ([`EventKind::PlantedBugRan`]) never makes a finding; it tells a bug that nobody saw from one that never ran.

mod scoreboard;

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reports::{RunRecord, Verdict};
use runtime::{journal::EventKind, sabotage::Sabotage};

pub use scoreboard::{Finding, Hunt, Rung, SCOREBOARD_VERSION, Score, Scoreboard, Spread, TOLERATED_FACTOR};

use crate::{
    confirm::Runner,
    plan::{Profile, generate},
    sweep::Exit,
    worker::{Request, What},
};

pub struct PowerOptions {
    /// What to hunt; all of them if empty.
    pub bugs: Vec<Sabotage>,
    pub sweeps: u64,
    /// Runs per sweep at most.
    pub limit: u64,
    /// None: for each bug the one in which it can show.
    pub profile: Option<&'static Profile>,
    pub jobs: u32,
    pub run_limit: Duration,
    /// Where the scoreboard is written.
    pub out: Option<PathBuf>,
    /// A scoreboard to be compared with.
    pub check: Option<PathBuf>,
}

/// Seeds of a sweep: the `number`-th stretch of `limit` seeds.
fn first_seed(number: u64, limit: u64) -> u64 {
    number * limit
}

fn request(profile: &Profile, seed: u64, bug: Option<Sabotage>) -> Request {
    let mut plan = generate(profile, seed);
    plan.sabotage = bug.into_iter().collect();
    Request { what: What::Plan(plan.to_toml()), segment: None }
}

/// A record tells kinds of events, not which bug; a plan of a hunt has one.
fn is_marked(record: &RunRecord) -> bool {
    record.coverage.events.contains_key(EventKind::PlantedBugRan.name())
}

/// What one run of a hunt gave.
struct Shot {
    hit: bool,
    core_ms: u64,
    found: Option<Finding>,
    broken_without: bool,
}

fn shoot(runner: &mut Runner, profile: &Profile, seed: u64, bug: Sabotage) -> Result<Shot, String> {
    let usable = |record: RunRecord| match record.verdict {
        Verdict::Environment => Err(record.message.unwrap_or_else(|| "a worker could not run".to_string())),
        _ => Ok(record),
    };
    let record = usable(runner.confirmed(&request(profile, seed, Some(bug)))?)?;
    let mut shot =
        Shot { hit: is_marked(&record), core_ms: record.timings.wall_us / 1_000, found: None, broken_without: false };
    if !record.verdict.is_failure() {
        return Ok(shot);
    }
    let whole = usable(runner.once(&request(profile, seed, None))?.record)?;
    shot.broken_without = whole.verdict.is_failure();
    if !shot.broken_without {
        let name = || record.verdict.name().to_string();
        shot.found = Some(Finding {
            seed,
            invariant: record.invariant.clone().unwrap_or_else(name),
            signature: record.signature.clone().unwrap_or_else(name),
            marked: shot.hit,
        });
    }
    Ok(shot)
}

/// Runs seeds in order until one finds the bug. What is given does not depend on the number of jobs.
fn hunt(options: &PowerOptions, bug: Sabotage, first: u64, limit: u64) -> Result<Hunt, String> {
    let own = || {
        Profile::named(bug.defect().profile).ok_or_else(|| format!("no profile is called {:?}", bug.defect().profile))
    };
    let profile = options.profile.map_or_else(own, Ok)?;
    let next = AtomicU64::new(0);
    let best = AtomicU64::new(limit);
    let stop = AtomicBool::new(false);
    let shots: Mutex<BTreeMap<u64, Result<Shot, String>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                let mut runner = Runner::new(16, options.run_limit);
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    // Everything before the best finding must be known, nothing behind it.
                    if position >= best.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let shot = shoot(&mut runner, profile, first + position, bug);
                    match &shot {
                        Ok(shot) if shot.found.is_some() => {
                            best.fetch_min(position, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        Err(_) => stop.store(true, Ordering::Relaxed),
                    }
                    shots.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(position, shot);
                }
            });
        }
    });
    let mut hunt = Hunt::default();
    for (position, shot) in shots.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        let shot = shot?;
        if hunt.found.is_some() {
            continue;
        }
        hunt.runs += 1;
        hunt.hit += u64::from(shot.hit);
        hunt.core_ms += shot.core_ms;
        hunt.found = shot.found;
        if shot.broken_without {
            hunt.broken_without.push(first + position);
        }
    }
    Ok(hunt)
}

fn read(path: &Path) -> Result<Scoreboard, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("--check: cannot read {shown}: {error}"))?;
    Scoreboard::from_toml(&text).map_err(|error| format!("--check: {shown}: {error}"))
}

/// Hunts the bugs, says what came of it, and compares.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn power(options: &PowerOptions, out: &mut dyn Write) -> Result<Exit, String> {
    let mut say = |text: &str| {
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| format!("cannot write to standard output: {e}"))
    };
    let recorded = options.check.as_deref().map(read).transpose()?;
    let bugs = if options.bugs.is_empty() { Sabotage::ALL } else { &options.bugs };
    let mut board = Scoreboard {
        version: SCOREBOARD_VERSION,
        profile: options.profile.map_or("default", |profile| profile.name).to_string(),
        sweeps: options.sweeps,
        limit: options.limit,
        scores: Vec::new(),
    };
    let (mut lost, mut missed, mut shaken) = (Vec::new(), Vec::new(), false);
    say(&board.text())?;
    for bug in bugs {
        let (name, defect) = (bug.name(), bug.defect());
        let before = recorded.as_ref().and_then(|board| board.score(&name));
        // What one sweep in five may miss, one sweep cannot judge.
        if let (Some(before), Some(board)) = (before, &recorded)
            && before.rung.is_found()
            && before.found_in < board.sweeps
            && options.sweeps < board.sweeps
        {
            say(&format!(
                "{name:<28} left out: the record has it found in {} of {} sweeps",
                before.found_in, board.sweeps
            ))?;
            continue;
        }
        // Against a record, no more runs than it takes to be certain of a loss.
        let limit = match before {
            Some(before) if before.rung.is_found() => options.limit.min(before.seeds.highest.max(1) * TOLERATED_FACTOR),
            _ => options.limit,
        };
        let mut hunts = Vec::new();
        for sweep in 0..options.sweeps {
            hunts.push(hunt(options, *bug, first_seed(sweep, options.limit), limit)?);
        }
        let score = Score::of(&name, (defect.bug, defect.jira), defect.expected, &hunts, limit);
        say(&score.line())?;
        for hunt in &hunts {
            for seed in &hunt.broken_without {
                shaken = true;
                say(&format!("broken  seed {seed} fails without {name} too: ./weir replay --seed {seed}"))?;
            }
            if let Some(unmarked) = hunt.found.as_ref().filter(|finding| !finding.marked) {
                say(&format!("unmarked  seed {}: {name} was found before it left its marker", unmarked.seed))?;
                missed.push(format!("{name}: its marker is at the wrong place"));
            }
        }
        match before {
            Some(before) => lost.extend(score.loss(before)),
            None if !score.rung.is_found() => missed.push(format!("{name}: {}", score.rung.name())),
            None => {}
        }
        board.scores.push(score);
    }
    if let Some(path) = &options.out {
        let text = board.to_toml()?;
        std::fs::write(path, text).map_err(|error| format!("--out: cannot write {}: {error}", path.display()))?;
        say(&format!("wrote  {}", path.display()))?;
    }
    let found = board.scores.iter().filter(|score| score.rung.is_found()).count();
    say(&format!("power  {found} of {} planted bugs found", board.scores.len()))?;
    for line in lost.iter().chain(&missed) {
        say(&format!("blind  {line}"))?;
    }
    Ok(if shaken {
        Exit::Violation
    } else if lost.is_empty() && missed.is_empty() {
        Exit::Clean
    } else {
        Exit::Blind
    })
}
