//! A JobManager and TaskManagers, each a process of its own on this machine, and what their journals say.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// In real time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process whose journal is read; killed when it is dropped.
pub struct Process {
    child: Child,
    events: Arc<Mutex<Vec<String>>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(mut command: Command) -> Process {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the worker starts");
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = events.clone();
        // Until its end: whoever writes into a closed pipe dies of it.
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                into.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Process { child, events }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has told so far, a line each.
    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// SIGKILL: nothing is tidied up.
    ///
    /// # Panics
    /// If it had ended already.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is dead");
    }

    /// Waits until more than `seen` of its lines contain `what`; gives how many do.
    ///
    /// # Panics
    /// With all that it told, if they do not come.
    pub fn wait_for(&mut self, what: &str, seen: usize) -> usize {
        self.wait_until(what, |events| {
            let found = events.iter().filter(|line| line.contains(what)).count();
            (found > seen).then_some(found)
        })
    }

    /// Waits until `found` finds what it looks for in its lines.
    ///
    /// # Panics
    /// As [`Process::wait_for`].
    #[track_caller]
    pub fn wait_until<T>(&mut self, what: &str, found: impl Fn(&[String]) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = found(&self.events()) {
                return found;
            }
            let ended = self.child.try_wait().expect("it can be asked").is_some();
            if ended || started.elapsed() > PATIENCE {
                // What is on its way when a process ends.
                std::thread::sleep(Duration::from_millis(200));
                if let Some(found) = found(&self.events()) {
                    return found;
                }
                panic!("never: {what} (ended: {ended}):\n{}", self.events().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, which must be a good one.
    ///
    /// # Panics
    /// If it is none, or does not come.
    pub fn ends_well(&mut self) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be asked") {
                return assert!(status.success(), "{status}:\n{}", self.events().join("\n"));
            }
            assert!(started.elapsed() < PATIENCE, "it does not end:\n{}", self.events().join("\n"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// An address of this machine that nobody listens on.
///
/// Below the ports that the system gives to connections: between the death of a JobManager and the start of the next nobody can
/// be given its port by chance, not even a TaskManager that tries to reach it.
fn free_address() -> String {
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

/// How the processes of a cluster are started.
pub struct RealCluster {
    worker: PathBuf,
    address: String,
    job: Vec<String>,
}

impl RealCluster {
    /// `job`: the job and its settings, which all processes are given. `root` is the primary storage.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn new(worker: &Path, root: &Path, job: &[&str]) -> RealCluster {
        let root = root.display().to_string();
        let (name, settings) = job.split_first().expect("a job has a name");
        let job = [&[*name, "--output", &root, "--events"][..], settings].concat();
        let job = job.into_iter().map(str::to_string).collect();
        RealCluster { worker: worker.to_path_buf(), address: free_address(), job }
    }

    /// Where its JobManager listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn command(&self, kind: &str, own: &[&str]) -> Command {
        // A file that must not grow is an error for whoever writes to it, and not his end.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(&self.worker);
        command.args(["weir", kind]).args(&self.job).args(own);
        command
    }

    pub fn job_manager(&self, more: &[&str]) -> Process {
        Process::start(self.command("jobmanager", &[&["--listen", &self.address][..], more].concat()))
    }

    pub fn task_manager(&self, name: &str, slots: u32) -> Process {
        let slots = slots.to_string();
        Process::start(
            self.command("taskmanager", &["--job-manager", &self.address, "--name", name, "--slots", &slots]),
        )
    }
}
