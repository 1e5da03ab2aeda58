//! A cluster of real processes as the journal of its JobManager tells of it: who got which slot, and who returned to his. Its
//! processes can be killed (SIGKILL: nothing is tidied up) and started again where they were.
//!
//! Nothing here waits for a time to pass: what a test waits for is an event of the JobManager.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::real_cluster::{Process, RealCluster};

/// Where the subtasks that share a slot were put: TaskManager, slot, allocation; and whether it is what they had before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub task_manager: String,
    pub slot: String,
    pub allocation: String,
    pub previous: bool,
}

/// By what shares the slot.
pub type Deal = BTreeMap<String, Place>;

/// The value behind `name=` in an event's line, quotes taken off.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut from = 0;
    loop {
        let at = from + line[from..].find(name)?;
        from = at + name.len();
        let is_whole = line[..at].ends_with(' ');
        if let Some(value) = line[from..].strip_prefix('=').filter(|_| is_whole) {
            return match value.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => value.split(' ').next(),
            };
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Shape<'a> {
    /// The program that is `weir` after the word `weir`.
    pub program: &'a Path,
    /// The job and its settings; all processes get them.
    pub job: Vec<String>,
    /// Where everything goes.
    pub output: PathBuf,
    pub task_managers: u32,
    pub slots: u32,
}

pub struct Cluster {
    processes: RealCluster,
    slots: u32,
    job_manager: Process,
    /// Lines of the JobManager that were waited for already.
    read: usize,
    task_managers: BTreeMap<String, Process>,
}

const JOB_MANAGER: [&str; 2] = ["--checkpoint-interval-ms", "100"];

impl Cluster {
    /// Starts a JobManager and the TaskManagers `tm-1`, `tm-2`, ….
    ///
    /// # Panics
    /// If a process cannot be started.
    pub fn start(shape: &Shape<'_>) -> Cluster {
        let job: Vec<&str> = shape.job.iter().map(String::as_str).collect();
        let processes = RealCluster::new(shape.program, &shape.output, &job);
        let job_manager = processes.job_manager(&JOB_MANAGER);
        let mut cluster =
            Cluster { processes, slots: shape.slots, job_manager, read: 0, task_managers: BTreeMap::new() };
        for number in 1..=shape.task_managers {
            cluster.start_task_manager(&format!("tm-{number}"));
        }
        cluster
    }

    /// Kills the JobManager, and starts another one in its place, which goes on with the job.
    pub fn replace_job_manager(&mut self) {
        self.job_manager.kill();
        self.job_manager = self.processes.job_manager(&[&JOB_MANAGER[..], &["--resume"]].concat());
        self.read = 0;
    }

    /// Starts a TaskManager: a new one, or one that was killed, on what its disk holds.
    ///
    /// # Panics
    /// If it runs already.
    pub fn start_task_manager(&mut self, name: &str) {
        let process = self.processes.task_manager(name, self.slots);
        assert!(self.task_managers.insert(name.to_string(), process).is_none(), "{name} runs already");
    }

    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, task_manager: &str) {
        let process = self.task_managers.remove(task_manager);
        process.unwrap_or_else(|| panic!("{task_manager} does not run")).kill();
    }

    /// Waits for an event of the JobManager behind those that were waited for.
    ///
    /// # Panics
    /// If it does not come: with what came instead.
    #[track_caller]
    pub fn wait(&mut self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let read = self.read;
        let (at, line) = self.job_manager.wait_until(what, |events| {
            let found = events.iter().enumerate().skip(read).find(|(_, line)| matches(line));
            found.map(|(at, line)| (at, line.clone()))
        });
        self.read = at + 1;
        line
    }

    /// Waits for the next event of a kind.
    #[track_caller]
    pub fn wait_for(&mut self, kind: &str) -> String {
        self.wait(kind, |line| line.split_whitespace().nth(1) == Some(kind))
    }

    /// Waits until everything runs; where it was put.
    #[track_caller]
    pub fn wait_until_it_runs(&mut self) -> Deal {
        self.wait_for("ExecutionRunning");
        let heard = &self.job_manager.events()[..self.read];
        let since = heard.iter().rposition(|line| line.contains(" RestoreChosen ")).unwrap_or(0);
        let dealt = heard[since..].iter().filter(|line| line.contains(" SlotAllocated "));
        let place = |line: &String| {
            let value = |name| field(line, name).unwrap_or_else(|| panic!("no {name} in {line:?}")).to_string();
            let place = Place {
                task_manager: value("task_manager"),
                slot: value("slot"),
                allocation: value("allocation"),
                previous: value("previous") == "true",
            };
            (value("shared"), place)
        };
        let deal: Deal = dealt.map(place).collect();
        assert!(!deal.is_empty(), "no slot was dealt out:\n{}", heard.join("\n"));
        deal
    }

    /// Waits until the local copies of a checkpoint are there to come back to: two more are complete, so that the first of them
    /// was confirmed.
    #[track_caller]
    pub fn wait_for_checkpoints(&mut self) {
        self.wait_for("CheckpointCompleted");
        self.wait_for("CheckpointCompleted");
    }
}
