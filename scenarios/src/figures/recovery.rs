//! Real processes, one TaskManager killed: how long until all subtasks run again, and until the next checkpoint is complete.
//!
//! A JobManager and some TaskManagers, each a process of its own on this machine, run a word count over a generated text; each
//! round one TaskManager that runs subtasks is killed (SIGKILL), and another is started in its place right after the recovery.
//! What happened when is read off the JobManager's journal, as it is printed. One row for each size, backend, and with or
//! without local copies; what the second copy costs is the difference of two rows in the time of a checkpoint and, with
//! `--throughput-lines`, in the records per second of a run without a limit.

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
    /// Different words, which is the number of keys; one or several, such as 100000,1000000.
    #[arg(long, default_value = "100000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    keys: Vec<u32>,
    /// Where working state lives: hashmap, rocksdb, or both.
    #[arg(long, default_value = "hashmap", value_delimiter = ',', value_parser = ["hashmap", "rocksdb"])]
    backends: Vec<String>,
    /// With local copies of state, without, or both: true,false.
    #[arg(long, default_value = "true", value_delimiter = ',', action = clap::ArgAction::Set)]
    local_recovery: Vec<bool>,
    /// Incremental checkpoints.
    #[arg(long)]
    incremental: bool,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallelism: u32,
    /// TaskManagers of two slots each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    task_managers: u32,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..))]
    checkpoint_interval_ms: u64,
    /// Lines that the source reads per second, of ten words each. By default as many as give it all keys in 20 seconds, but 5000 at
    /// least.
    #[arg(long)]
    lines_per_second: Option<u64>,
    /// Also count so many lines without a limit, in one process: records per second. 0: do not.
    #[arg(long, default_value_t = 0)]
    throughput_lines: u64,
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Case<'a> {
    options: &'a Options,
    keys: u32,
    backend: &'a str,
    local_recovery: bool,
}

impl Case<'_> {
    fn lines_per_second(&self) -> u64 {
        let all_keys_in = u64::from(self.keys) / (WORDS_PER_LINE * FILL_SECONDS);
        self.options.lines_per_second.unwrap_or_else(|| all_keys_in.max(5_000)).max(1)
    }

    /// Until the state has all its keys.
    fn fill(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.keys) / (self.lines_per_second() * WORDS_PER_LINE) as f64)
    }

    fn configuration(&self) -> Vec<String> {
        let said = [
            format!("state.backend.type={}", self.backend),
            // Without it state on the heap would travel in messages, and there would be nothing to have local copies of.
            "execution.checkpointing.storage=filesystem".to_string(),
            format!("execution.checkpointing.incremental={}", self.options.incremental),
            format!("execution.checkpointing.local-backup.enabled={}", self.local_recovery),
            format!("execution.state-recovery.from-local={}", self.local_recovery),
        ];
        said.into_iter().flat_map(|line| ["-D".to_string(), line]).collect()
    }
}

const WORDS_PER_LINE: u64 = 10;
const FILL_SECONDS: u64 = 20;
/// Longer than this is not waited for anything.
const PATIENCE: Duration = Duration::from_secs(300);

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
    case: Case<'a>,
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
    fn start(case: Case<'a>, root: &'a Path, input: &'a Path) -> Result<Cluster<'a>, String> {
        let options = case.options;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = port.map_err(|error| format!("no free port: {error}"))?.to_string();
        let interval = options.checkpoint_interval_ms.to_string();
        let mut arguments = vec!["jobmanager"];
        let job = job_arguments(case, root, input);
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
            case,
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
        let job = job_arguments(self.case, self.root, self.input);
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

/// The number of bytes behind `name`, in megabytes.
fn megabytes(text: &str, name: &str) -> Result<f64, String> {
    let bytes = text.split_once(name).and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    bytes.map(|bytes| bytes as f64 / 1e6).ok_or_else(|| format!("no{name} in: {text}"))
}

fn job_arguments(case: Case<'_>, root: &Path, input: &Path) -> Vec<String> {
    let mut arguments = counted(case, root, input);
    arguments.extend(["--records-per-second".to_string(), case.lines_per_second().to_string()]);
    arguments
}

/// The job without a limit.
fn counted(case: Case<'_>, root: &Path, input: &Path) -> Vec<String> {
    let mut arguments = vec![
        "wordcount".to_string(),
        "--output".to_string(),
        root.display().to_string(),
        "--input".to_string(),
        input.display().to_string(),
        "--parallelism".to_string(),
        case.options.parallelism.to_string(),
        "--splits".to_string(),
        case.options.parallelism.to_string(),
    ];
    arguments.extend(case.configuration());
    arguments
}

/// A text of so many different words and so many lines.
fn write_text(path: &Path, keys: u32, lines: u64) -> Result<(), String> {
    let words = WORDS_PER_LINE * lines;
    let file = fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut file = std::io::BufWriter::new(file);
    let mut state = 1_u64;
    for number in 0..words {
        // Every word once, then any of them.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = if number < u64::from(keys) { number } else { (state >> 33) % u64::from(keys) };
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
    println!(
        "recovery  parallelism {}, {} TaskManagers, a checkpoint each {} ms, one TaskManager killed, {} rounds, {}",
        options.parallelism,
        options.task_managers,
        options.checkpoint_interval_ms,
        options.rounds,
        load()
    );
    println!(
        "          seconds, by median: a checkpoint; from the kill until it is noticed, until all subtasks run, until the"
    );
    println!("          next checkpoint is complete; megabytes that were restored from local copies, and from primary");
    println!(
        "  {:>10}  {:<8} {:<5} {:>10} {:>8} {:>8} {:>15} {:>8} {:>10} {:>12}",
        "keys",
        "backend",
        "local",
        "checkpoint",
        "noticed",
        "running",
        "next checkpoint",
        "local MB",
        "primary MB",
        "records/s"
    );
    for keys in &options.keys {
        for backend in &options.backends {
            for local_recovery in &options.local_recovery {
                let case = Case { options, keys: *keys, backend, local_recovery: *local_recovery };
                println!("{}", row(case)?);
            }
        }
    }
    Ok(())
}

fn row(case: Case<'_>) -> Result<String, String> {
    let times = Times::of(case)?;
    let throughput =
        if case.options.throughput_lines == 0 { "-".to_string() } else { format!("{:.0}", throughput(case)?) };
    Ok(format!(
        "  {:>10}  {:<8} {:<5} {:>10.3} {:>8.2} {:>8.2} {:>15.2} {:>8.2} {:>10.2} {:>12}",
        case.keys,
        case.backend,
        case.local_recovery,
        times.checkpoint.median(),
        times.noticed.median(),
        times.running.median(),
        times.complete.median(),
        times.local.median(),
        times.primary.median(),
        throughput
    ))
}

/// Words per second of a run without a limit, the writing of its output included.
fn throughput(case: Case<'_>) -> Result<f64, String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let input = directory.path().join("words.txt");
    let lines = case.options.throughput_lines;
    write_text(&input, case.keys, lines)?;
    let mut rounds = Rounds::default();
    for round in 0..case.options.rounds {
        let root = directory.path().join(format!("run-{round}"));
        let interval = case.options.checkpoint_interval_ms.to_string();
        let mut arguments = vec!["run".to_string()];
        arguments.extend(counted(case, &root, &input));
        arguments.extend(["--quiet".into(), "--checkpoint-interval-ms".into(), interval]);
        let begun = Instant::now();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let status =
            start(&arguments, false)?.wait().map_err(|error| format!("a run cannot be waited for: {error}"))?;
        if !status.success() {
            return Err(format!("a run without a limit failed: {status}"));
        }
        rounds.add((lines * WORDS_PER_LINE) as f64 / begun.elapsed().as_secs_f64());
    }
    Ok(rounds.median())
}

/// What the rounds of one case gave, in seconds and megabytes.
#[derive(Default)]
struct Times {
    checkpoint: Rounds,
    noticed: Rounds,
    running: Rounds,
    complete: Rounds,
    local: Rounds,
    primary: Rounds,
}

impl Times {
    fn of(case: Case<'_>) -> Result<Times, String> {
        let options = case.options;
        let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let (input, root) = (directory.path().join("words.txt"), directory.path().join("run"));
        let seconds = 30 + 2 * case.fill().as_secs() + 15 * u64::from(options.rounds);
        write_text(&input, case.keys, case.lines_per_second() * seconds)?;
        let mut cluster = Cluster::start(case, &root, &input)?;
        let (begun, mut used) = cluster.all_run()?;
        let mut times = Times::default();
        let completed = |text: &str| text.contains(" CheckpointCompleted ");
        // With all of the state to come back to.
        while begun.at.elapsed() < case.fill() {
            cluster.wait(completed, |_| {})?;
        }
        for _ in 0..options.rounds {
            // Not in the middle of the last recovery.
            for _ in 0..3 {
                let triggered = cluster.wait(|text| text.contains(" CheckpointTriggered "), |_| {})?;
                let complete = cluster.wait(completed, |_| {})?;
                times.checkpoint.add(complete.at.saturating_duration_since(triggered.at).as_secs_f64());
            }
            let victim = used.first().cloned().ok_or("no TaskManager runs anything")?;
            let position = cluster.task_managers.iter().position(|(name, _)| *name == victim);
            let (_, process) = cluster.task_managers.remove(position.ok_or("the TaskManager is not one of ours")?);
            let killed = Instant::now();
            drop(process);
            let lost = cluster.wait(|text| text.contains(" TaskManagerLost "), |_| {})?;
            let (all, now_used) = cluster.all_run()?;
            // It is told right before or right after the checkpoint that ends it.
            let finished = |text: &str| text.contains(" RecoveryFinished ");
            let mut told = None;
            let next =
                cluster.wait(completed, |text| told = told.take().or(finished(text).then(|| text.to_string())))?;
            let told = match told {
                Some(told) => told,
                None => cluster.wait(finished, |_| {})?.text,
            };
            times.local.add(megabytes(&told, " local_bytes=")?);
            times.primary.add(megabytes(&told, " primary_bytes=")?);
            times.noticed.add(lost.at.saturating_duration_since(killed).as_secs_f64());
            times.running.add(all.at.saturating_duration_since(killed).as_secs_f64());
            times.complete.add(next.at.saturating_duration_since(killed).as_secs_f64());
            used = now_used;
            cluster.add_task_manager()?;
            let name = format!("tm-{}", cluster.next_name - 1);
            cluster.wait(|text| text.contains(" TaskManagerRegistered ") && text.contains(&name), |_| {})?;
        }
        Ok(times)
    }
}
