//! A cluster of real processes on this machine: a JobManager whose journal is read line by line, and TaskManagers that can be killed
//! (SIGKILL: nothing is tidied up) and started again where they were.
//!
//! Nothing here waits for a time to pass: what a test waits for is an event of the JobManager, and [`PATIENCE`] only bounds how
//! long a broken cluster can keep it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

/// Longer than this is not waited for any event.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address of this machine that nobody listens on.
///
/// Below the ports that the system gives to connections: between the death of a JobManager and the start of the next nobody can
/// be given its port by chance, not even a TaskManager that tries to reach it.
pub(crate) fn free_address() -> String {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests run in several processes at a time: each begins somewhere else.
    let start = std::process::id().wrapping_mul(7_919);
    for _ in 0..COUNT {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = start.wrapping_add(step) % u32::from(COUNT);
        let address = format!("127.0.0.1:{}", u32::from(FIRST) + offset);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}

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
    /// The job and its arguments, without `--output`; all processes get them.
    pub job: Vec<String>,
    /// Where everything goes.
    pub output: PathBuf,
    pub task_managers: u32,
    pub slots: u32,
}

pub struct Cluster<'a> {
    shape: Shape<'a>,
    address: String,
    job_manager: Option<Process>,
    lines: Receiver<String>,
    task_managers: BTreeMap<String, Process>,
    /// All that the JobManagers said.
    heard: Vec<String>,
}

impl<'a> Cluster<'a> {
    /// Starts a JobManager and the TaskManagers `tm-1`, `tm-2`, ….
    ///
    /// # Panics
    /// If a process cannot be started.
    pub fn start(shape: Shape<'a>) -> Cluster<'a> {
        let count = shape.task_managers;
        let (_, lines) = channel();
        let mut cluster = Cluster {
            shape,
            address: free_address(),
            job_manager: None,
            lines,
            task_managers: BTreeMap::new(),
            heard: Vec::new(),
        };
        cluster.start_job_manager(&[]);
        for number in 1..=count {
            cluster.start_task_manager(&format!("tm-{number}"));
        }
        cluster
    }

    fn spawn(&self, what: &str, more: &[&str], errors: Stdio) -> Process {
        let mut command = Command::new(self.shape.program);
        command.args(["weir", what]).args(&self.shape.job).arg("--output").arg(&self.shape.output).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Process(command.spawn().expect("the process starts"))
    }

    fn start_job_manager(&mut self, more: &[&str]) {
        let own = ["--listen", &self.address, "--checkpoint-interval-ms", "100", "--events"];
        let mut process = self.spawn("jobmanager", &[&own, more].concat(), Stdio::piped());
        let errors = process.0.stderr.take().expect("piped");
        let (send, lines) = channel();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                // Read on, also if nobody listens: whoever writes into a closed pipe dies of it.
                let _ = send.send(line);
            }
        });
        self.job_manager = Some(process);
        self.lines = lines;
    }

    /// Kills the JobManager, and starts another one in its place, which goes on with the job.
    pub fn replace_job_manager(&mut self) {
        self.job_manager = None;
        self.heard.extend(self.lines.iter());
        self.start_job_manager(&["--resume"]);
    }

    /// Starts a TaskManager: a new one, or one that was killed, on what its disk holds.
    pub fn start_task_manager(&mut self, name: &str) {
        let slots = self.shape.slots.to_string();
        let own = ["--job-manager", &self.address, "--name", name, "--slots", &slots, "--quiet"];
        let process = self.spawn("taskmanager", &own, Stdio::null());
        assert!(self.task_managers.insert(name.to_string(), process).is_none(), "{name} runs already");
    }

    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, task_manager: &str) {
        let process = self.task_managers.remove(task_manager);
        assert!(process.is_some(), "{task_manager} does not run");
    }

    /// Waits for an event of the JobManager.
    ///
    /// # Panics
    /// If it does not come: with what came instead.
    #[track_caller]
    pub fn wait(&mut self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.heard.push(line.clone());
                    if matches(&line) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{what}: not within {PATIENCE:?}; {}", self.said()),
                Err(RecvTimeoutError::Disconnected) => panic!("{what}: the JobManager has ended; {}", self.said()),
            }
        }
    }

    /// Waits for the next event of a kind.
    #[track_caller]
    pub fn wait_for(&mut self, kind: &str) -> String {
        self.wait(kind, |line| line.split_whitespace().nth(1) == Some(kind))
    }

    fn said(&self) -> String {
        format!("the JobManagers said:\n{}", self.heard.join("\n"))
    }

    /// Waits until everything runs; where it was put.
    #[track_caller]
    pub fn wait_until_it_runs(&mut self) -> Deal {
        self.wait_for("ExecutionRunning");
        let since = self.heard.iter().rposition(|line| line.contains(" RestoreChosen ")).unwrap_or(0);
        let dealt = self.heard[since..].iter().filter(|line| line.contains(" SlotAllocated "));
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
        assert!(!deal.is_empty(), "no slot was dealt out; {}", self.said());
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
