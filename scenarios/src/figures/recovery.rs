//! Real processes, one TaskManager killed: how long until all subtasks run again, and until the next checkpoint is complete.
//!
//! A JobManager and some TaskManagers, each a process of its own on this machine, run a word count over a generated text; each
//! round one TaskManager that runs subtasks is killed (SIGKILL), and another is started in its place right after the recovery.
//! What happened when is read off the JobManager's journal, as it is printed.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use clap::Args;

use super::{Rounds, usage::load};

#[derive(Args)]
pub struct Options {
    /// Different words, which is the number of keys.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallelism: u32,
    /// TaskManagers of two slots each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    task_managers: u32,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    checkpoint_interval_ms: u64,
    /// Lines that the source reads per second, of ten words each.
    #[arg(long, default_value_t = 5_000)]
    lines_per_second: u64,
}

const WORDS_PER_LINE: u64 = 10;
/// Longer than this is not waited for anything.
const PATIENCE: Duration = Duration::from_secs(120);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of the JobManager's journal and when it came.
struct Line {
    at: Instant,
    text: String,
}

struct Cluster<'a> {
    options: &'a Options,
    root: &'a Path,
    input: &'a Path,
    address: String,
    _job_manager: Process,
    task_managers: Vec<(String, Process)>,
    lines: Receiver<Line>,
    next_name: u32,
}

fn start(arguments: &[&str], watched: bool) -> Result<Child, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program has no path: {error}"))?;
    let errors = if watched { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.arg("weir").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    command.spawn().map_err(|error| format!("cannot start a process: {error}"))
}

impl<'a> Cluster<'a> {
    fn start(options: &'a Options, root: &'a Path, input: &'a Path) -> Result<Cluster<'a>, String> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = port.map_err(|error| format!("no free port: {error}"))?.to_string();
        let interval = options.checkpoint_interval_ms.to_string();
        let mut arguments = vec!["jobmanager"];
        let job = job_arguments(options, root, input);
        arguments.extend(job.iter().map(String::as_str));
        arguments.extend(["--listen", &address, "--checkpoint-interval-ms", &interval, "--events"]);
        let mut child = start(&arguments, true)?;
        let errors = child.stderr.take().ok_or("the JobManager has no standard error")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(errors).lines().map_while(Result::ok) {
                if send.send(Line { at: Instant::now(), text }).is_err() {
                    return;
                }
            }
        });
        let mut cluster = Cluster {
            options,
            root,
            input,
            address,
            _job_manager: Process(child),
            task_managers: Vec::new(),
            lines,
            next_name: 1,
        };
        for _ in 0..options.task_managers {
            cluster.add_task_manager()?;
        }
        Ok(cluster)
    }

    fn add_task_manager(&mut self) -> Result<(), String> {
        let name = format!("tm-{}", self.next_name);
        self.next_name += 1;
        let mut arguments = vec!["taskmanager"];
        let job = job_arguments(self.options, self.root, self.input);
        arguments.extend(job.iter().map(String::as_str));
        arguments.extend(["--job-manager", &self.address, "--name", &name, "--slots", "2", "--quiet"]);
        let child = start(&arguments, false)?;
        self.task_managers.push((name, Process(child)));
        Ok(())
    }

    /// The next line for which `wanted` says yes; all on the way are shown to `seen`.
    fn wait(&self, wanted: impl Fn(&str) -> bool, mut seen: impl FnMut(&str)) -> Result<Line, String> {
        let until = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    seen(&line.text);
                    if wanted(&line.text) {
                        return Ok(line);
                    }
                    last = line.text;
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("nothing within {PATIENCE:?}; the last: {last}")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the JobManager has ended; its last words: {last}"));
                }
            }
        }
    }

    /// Waits until all subtasks run; says on which TaskManagers they are.
    fn all_run(&self) -> Result<(Line, Vec<String>), String> {
        let mut used = Vec::new();
        let line = self.wait(
            |text| text.contains(" ExecutionRunning "),
            |text| {
                if text.contains(" SlotAllocated ")
                    && let Some(name) = field(text, "task_manager=")
                    && !used.contains(&name)
                {
                    used.push(name);
                }
            },
        )?;
        Ok((line, used))
    }
}

/// The quoted value behind `name`.
fn field(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(name)?;
    rest.strip_prefix('"')?.split('"').next().map(str::to_string)
}

fn job_arguments(options: &Options, root: &Path, input: &Path) -> Vec<String> {
    vec![
        "wordcount".to_string(),
        "--output".to_string(),
        root.display().to_string(),
        "--input".to_string(),
        input.display().to_string(),
        "--parallelism".to_string(),
        options.parallelism.to_string(),
        "--splits".to_string(),
        options.parallelism.to_string(),
        "--records-per-second".to_string(),
        options.lines_per_second.to_string(),
    ]
}

/// A text of so many different words, long enough for the whole measurement.
fn write_text(path: &Path, options: &Options) -> Result<(), String> {
    let seconds = 30 + 10 * u64::from(options.rounds);
    let words = (WORDS_PER_LINE * options.lines_per_second * seconds).max(2 * u64::from(options.keys));
    let file = fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut file = std::io::BufWriter::new(file);
    let mut state = 1_u64;
    for number in 0..words {
        // Every word once, then any of them.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = if number < u64::from(options.keys) { number } else { (state >> 33) % u64::from(options.keys) };
        let end = if number % WORDS_PER_LINE == WORDS_PER_LINE - 1 { '\n' } else { ' ' };
        write!(file, "w{word}{end}").map_err(|error| format!("{}: {error}", path.display()))?;
    }
    file.flush().map_err(|error| format!("{}: {error}", path.display()))
}

pub fn measure(options: &Options) -> Result<(), String> {
    if options.parallelism > 2 * (options.task_managers - 1) {
        return Err(format!(
            "parallelism {} does not fit {} TaskManagers of 2 slots when one is gone",
            options.parallelism, options.task_managers
        ));
    }
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let (input, root) = (directory.path().join("words.txt"), directory.path().join("run"));
    write_text(&input, options)?;
    println!(
        "recovery  {} keys, parallelism {}, {} TaskManagers, a checkpoint each {} ms, one TaskManager killed, {}",
        options.keys,
        options.parallelism,
        options.task_managers,
        options.checkpoint_interval_ms,
        load()
    );
    let mut cluster = Cluster::start(options, &root, &input)?;
    let (_, mut used) = cluster.all_run()?;
    let (mut noticed, mut running, mut complete) = (Rounds::default(), Rounds::default(), Rounds::default());
    let completed = |text: &str| text.contains(" CheckpointCompleted ");
    for _ in 0..options.rounds {
        // Not in the middle of the last recovery, and with state to come back to.
        for _ in 0..3 {
            cluster.wait(completed, |_| {})?;
        }
        let victim = used.first().cloned().ok_or("no TaskManager runs anything")?;
        let position = cluster.task_managers.iter().position(|(name, _)| *name == victim);
        let (_, process) = cluster.task_managers.remove(position.ok_or("the TaskManager is not one of ours")?);
        let killed = Instant::now();
        drop(process);
        let lost = cluster.wait(|text| text.contains(" TaskManagerLost "), |_| {})?;
        let (all, now_used) = cluster.all_run()?;
        let next = cluster.wait(completed, |_| {})?;
        noticed.add(lost.at.saturating_duration_since(killed).as_secs_f64());
        running.add(all.at.saturating_duration_since(killed).as_secs_f64());
        complete.add(next.at.saturating_duration_since(killed).as_secs_f64());
        used = now_used;
        cluster.add_task_manager()?;
        let name = format!("tm-{}", cluster.next_name - 1);
        cluster.wait(|text| text.contains(" TaskManagerRegistered ") && text.contains(&name), |_| {})?;
    }
    println!("  seconds from the kill until it is noticed            {noticed}");
    println!("  seconds from the kill until all subtasks run         {running}");
    println!("  seconds from the kill until a checkpoint completes   {complete}");
    Ok(())
}
