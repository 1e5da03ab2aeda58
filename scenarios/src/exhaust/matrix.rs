//! Runs a matrix, cell by cell, and says what came of it: of how many cells nothing was found, which were not reached, and why.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reports::{RunRecord, Verdict};
use runtime::checkpoint::types::SubtaskKey;

use super::{
    ExhaustOptions, Output,
    local_matrix::{Cell, Setup, Told, base, cells, copy_to_harm},
    placements::Placement,
    run_all, screen,
};
use crate::{
    cluster_runner::workload_of,
    exit::Exit,
    plan::Plan,
    record::{Observer, Story},
    run::run_plan,
    trouble::Trouble,
};

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<Told>>>);

impl Observer for Listener {
    fn event(&mut self, story: &Story<'_>) {
        if let Ok(mut told) = self.0.lock() {
            told.push((story.process.to_string(), story.event.clone()));
        }
    }
}

/// Why there is no matrix: a clean run that is not clean, with its record, or what such a run lacks.
pub type NoMatrix = (Option<Box<(Plan, RunRecord)>>, String);

/// Runs a plan in this process and gives its record and its events.
fn told(plan: &Plan) -> Result<(RunRecord, Vec<Told>), String> {
    let listener = Listener::default();
    let record = run_plan(plan, Box::new(listener.clone())).map_err(|error| error.to_string())?;
    let told = listener.0.lock().map(|mut told| std::mem::take(&mut *told)).unwrap_or_default();
    Ok((record, told))
}

/// All cells of the matrix of local copies.
///
/// # Errors
/// A clean run that is not clean, with its record; or what it lacks.
pub fn local_cells(seed: u64) -> Result<Vec<Cell>, NoMatrix> {
    let mut all = Vec::new();
    for setup in Setup::ALL {
        let plan = base(seed, setup);
        let (record, told) = told(&plan).map_err(|reason| (None, reason))?;
        if record.verdict.is_failure() {
            let reason = format!("the clean run of {} fails", setup.name());
            return Err((Some(Box::new((plan, record))), reason));
        }
        let of_setup = |reason: String| (None, format!("{}: {reason}", setup.name()));
        let workload = workload_of(&plan).map_err(|error| of_setup(error.to_string()))?;
        let job = workload.build().map_err(|error| of_setup(error.to_string()))?.job;
        let keys: BTreeMap<String, SubtaskKey> =
            job.graph.subtasks().map(|id| (job.graph.subtask_name(id), id.into())).collect();
        let copy = copy_to_harm(&told, &keys).map_err(of_setup)?;
        all.extend(cells(setup, &plan, &copy));
    }
    Ok(all)
}

/// What became of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The harm was met, and the run is clean.
    Clean,
    /// The run is clean, but nobody came across the harm.
    Unreached(String),
    /// With the signature of the failure.
    Failed(String),
}

/// Judges the run of a cell.
pub fn judge(cell: &Cell, record: &RunRecord) -> Reached {
    if record.verdict.is_failure() {
        return Reached::Failed(record.signature.clone().unwrap_or_else(|| record.verdict.name().to_string()));
    }
    let unfired =
        record.coverage.unfired.iter().find(|unfired| unfired.index.is_some_and(|i| cell.placed.contains(&i)));
    if let Some(unfired) = unfired {
        return Reached::Unreached(unfired.reason.clone());
    }
    match cell.told {
        Some(told) if !record.coverage.events.contains_key(told) => Reached::Unreached(format!("{told} was not told")),
        _ => Reached::Clean,
    }
}

#[derive(Default)]
struct Row {
    clean: u64,
    unreached: u64,
    failed: u64,
}

/// Adds up what became of the cells.
#[derive(Default)]
pub struct MatrixStatement {
    seed: u64,
    cells: usize,
    run: usize,
    rows: BTreeMap<(&'static str, String), Row>,
    unreached: BTreeMap<(&'static str, String, String), u64>,
    failures: BTreeMap<String, Vec<String>>,
    elapsed: Duration,
}

impl MatrixStatement {
    pub fn new(seed: u64, cells: usize) -> MatrixStatement {
        MatrixStatement { seed, cells, ..MatrixStatement::default() }
    }

    pub fn add(&mut self, cell: &Cell, reached: Reached) {
        self.run += 1;
        let setup = cell.setup.name();
        let row = self.rows.entry((setup, cell.row.clone())).or_default();
        match reached {
            Reached::Clean => row.clean += 1,
            Reached::Unreached(reason) => {
                row.unreached += 1;
                *self.unreached.entry((setup, cell.row.clone(), reason)).or_default() += 1;
            }
            Reached::Failed(signature) => {
                row.failed += 1;
                self.failures.entry(signature).or_default().push(cell.name.clone());
            }
        }
    }

    pub fn failed(&self) -> u64 {
        self.rows.values().map(|row| row.failed).sum()
    }

    fn clean(&self) -> u64 {
        self.rows.values().map(|row| row.clean).sum()
    }

    pub fn exit(&self) -> Exit {
        match (self.failed(), self.run == self.cells && self.clean() > 0) {
            (0, true) => Exit::Clean,
            (0, false) => Exit::Blind,
            _ => Exit::Violation,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |text_of: std::fmt::Arguments<'_>| writeln!(text, "{text_of}").expect("text");
        line(format_args!("{:<20} {:<28} {:>7} {:>10} {:>7}", "state", "harm", "clean", "unreached", "failed"));
        for ((setup, row), of_row) in &self.rows {
            let Row { clean, unreached, failed } = of_row;
            line(format_args!("{setup:<20} {row:<28} {clean:>7} {unreached:>10} {failed:>7}"));
        }
        for ((setup, row, reason), count) in &self.unreached {
            line(format_args!("unreached  {setup}, {row}: {reason} ({count})"));
        }
        for (signature, names) in &self.failures {
            line(format_args!("FAILED {signature} in {} cells", names.len()));
            for name in names.iter().take(5) {
                line(format_args!("       {name}"));
            }
        }
        line(format_args!("speed    {} runs in {:.0} s", self.run, self.elapsed.as_secs_f64()));
        let (unreached, failed) = (self.rows.values().map(|row| row.unreached).sum::<u64>(), self.failed());
        let about = format!("the matrix of local copies (seed {})", self.seed);
        if self.run < self.cells {
            line(format_args!("NOT complete: {} of {} cells of {about} were run", self.run, self.cells));
        }
        let verdict = if failed == 0 { "clean".to_string() } else { format!("{failed} FAILED") };
        let all = if self.run == self.cells { "all " } else { "" };
        line(format_args!(
            "{all}{} cells of {about}: {} reached, {unreached} not reached: {verdict}",
            self.run,
            self.clean() + failed,
        ));
        text
    }
}

/// Runs the whole matrix of local copies. What it finds goes to `out`, progress to standard error.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn exhaust_local_matrix(options: &ExhaustOptions, out: &mut dyn Write) -> Result<Exit, Trouble> {
    let say = |out: &mut dyn Write, text: &str| {
        writeln!(out, "{text}").map_err(|error| format!("cannot write to standard output: {error}"))
    };
    let mut output = Output::new(options)?;
    let all = match local_cells(options.seed) {
        Ok(all) => all,
        Err((None, reason)) => return Err(reason.into()),
        Err((Some(failed), reason)) => {
            let (plan, record) = *failed;
            say(out, &format!("{reason}\n{}", screen(&record, &plan, 0, &output)?))?;
            return Ok(Exit::Violation);
        }
    };
    let of = |setup: Setup| all.iter().filter(|cell| cell.setup == setup).count();
    let sizes: Vec<String> = Setup::ALL.iter().map(|setup| format!("{} {}", of(*setup), setup.name())).collect();
    say(out, &format!("matrix   local copies, seed {}: {} cells ({})", options.seed, all.len(), sizes.join(", ")))?;
    let placements: Vec<Placement> = all
        .iter()
        .map(|cell| Placement {
            class: cell.plan.faults[cell.placed[0]].class(),
            name: cell.name.clone(),
            plan: cell.plan.clone(),
            placed: cell.placed.clone(),
        })
        .collect();
    let mut statement = MatrixStatement::new(options.seed, all.len());
    let mut screens = Vec::new();
    let started = Instant::now();
    run_all(options, &placements, placements.len(), &mut |number, record, bar| {
        if record.verdict == Verdict::Environment {
            return Err(record.message.clone().unwrap_or_else(|| "a worker could not run".to_string()));
        }
        output.add(&record)?;
        let cell = &all[number];
        let reached = judge(cell, &record);
        if let Reached::Failed(signature) = &reached {
            bar.println(format!("{}: {signature}", cell.name));
            if !statement.failures.contains_key(signature) {
                screens.push(format!("{}\n{}", cell.name, screen(&record, &cell.plan, number + 1, &output)?));
            }
        }
        statement.add(cell, reached);
        Ok(statement.failed())
    })?;
    statement.elapsed = started.elapsed();
    for screen in &screens {
        say(out, &format!("\n{screen}"))?;
    }
    say(out, &format!("\n{}", statement.text().trim_end()))?;
    if let Some(directory) = output.finish()? {
        say(out, &format!("wrote  {}", directory.display()))?;
    }
    Ok(statement.exit())
}
