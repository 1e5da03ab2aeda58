//! A worker process as its parent sees it: one request at a time, with a wall-clock limit, and the end of its standard error.
//!
//! Real time and real processes are allowed here: nothing of it reaches a run.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader, Read, Write},
    process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use reports::Verdict;

use crate::worker::{ANSWER, Answer, Request, What};

/// Bytes of standard error that are kept.
const TAIL_BYTES: usize = 4_096;
/// Bytes of a line of standard output that are kept; an answer is far shorter, user code may print without end.
const LINE_BYTES: usize = 64 << 20;
/// Lines that may wait for the parent.
const LINES: usize = 64;

/// How a request ended.
#[derive(Debug)]
pub enum Reply {
    Answer(Box<Answer>),
    /// Nothing came within the limit. The process was killed.
    Hang,
    /// The process died by itself.
    Died {
        status: String,
    },
    /// What came is no answer to the request: the harness is broken.
    Nonsense(String),
}

/// A worker. Killed when dropped, and what it left behind is removed.
pub struct Child {
    process: Process,
    /// Where its native code works. A process that dies removes nothing.
    _scratch: tempfile::TempDir,
    /// What its answers begin with.
    prefix: String,
    input: ChildStdin,
    lines: Receiver<String>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Child {
    /// Starts this program anew as a worker that may have `memory_limit` bytes of address space.
    ///
    /// # Errors
    /// A line that says what failed.
    pub fn start(memory_limit: u64) -> Result<Child, String> {
        let program = std::env::current_exe().map_err(|error| format!("cannot find my own program: {error}"))?;
        // What it is does not matter, only that user code does not know it.
        let word = format!("{:016x} ", RandomState::new().hash_one(std::process::id()));
        let mut command = Command::new(&program);
        // The panic hook says what is needed; a trace costs time, and memory where there is none.
        command.env("RUST_BACKTRACE", "0");
        command.arg("worker").args(["--memory-limit", &memory_limit.to_string(), "--word", &word]);
        Child::of(command, &word)
    }

    fn of(mut command: Command, word: &str) -> Result<Child, String> {
        let program = command.get_program().display().to_string();
        let scratch = sim::scratch_directory("weir-worker-")
            .map_err(|error| format!("cannot make a directory for a worker's scratch files: {error}"))?;
        command.env(sim::SCRATCH_VARIABLE, scratch.path());
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start a worker ({program}): {error}"))?;
        let (Some(input), Some(output), Some(mut errors)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err("a worker was started without pipes".to_string());
        };
        let (send, lines) = sync_channel(LINES);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(output);
            // Bytes, not text: user code may print anything.
            while let Some(line) = read_line(&mut reader) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = tail.clone();
        let stderr_reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 1_024];
            while let Ok(read @ 1..) = errors.read(&mut buffer) {
                if let Ok(mut kept) = kept.lock() {
                    kept.extend(&buffer[..read]);
                    let surplus = kept.len().saturating_sub(TAIL_BYTES);
                    kept.drain(..surplus);
                }
            }
        });
        let (prefix, stderr_reader) = (format!("{ANSWER}{word}"), Some(stderr_reader));
        Ok(Child { process, _scratch: scratch, prefix, input, lines, tail, stderr_reader })
    }

    /// Runs one request. After anything but an answer the child is of no use any more.
    ///
    /// # Errors
    /// A line that says what failed between parent and child, as opposed to in the run.
    pub fn run(&mut self, request: &Request, limit: Duration) -> Result<Reply, String> {
        let text = serde_json::to_string(request).map_err(|error| format!("cannot write a request: {error}"))?;
        if writeln!(self.input, "{text}").and_then(|()| self.input.flush()).is_err() {
            return Ok(Reply::Died { status: self.end_status() });
        }
        let deadline = std::time::Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                // Not left to the channel: a worker that prints without end always has a line ready.
                self.kill();
                return Ok(Reply::Hang);
            }
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let Some(text) = line.strip_prefix(&self.prefix) else { continue };
                    return Ok(match serde_json::from_str::<Answer>(text) {
                        Ok(answer) if is_about(&answer, request) => Reply::Answer(Box::new(answer)),
                        Ok(answer) => Reply::Nonsense(format!("a worker answered for seed {}", answer.record.seed)),
                        Err(error) => Reply::Nonsense(format!("a worker answered nonsense: {error}")),
                    });
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.kill();
                    return Ok(Reply::Hang);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Reply::Died { status: self.end_status() }),
            }
        }
    }

    fn kill(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn end_status(&mut self) -> String {
        self.process.wait().map_or_else(|error| error.to_string(), describe)
    }

    /// The end of what it wrote to its standard error. Ends the process, so that all of it has arrived.
    pub fn stderr_tail(&mut self) -> String {
        self.kill();
        if let Some(reader) = self.stderr_reader.take() {
            let _ = reader.join();
        }
        let Ok(tail) = self.tail.lock() else { return String::new() };
        String::from_utf8_lossy(&tail.iter().copied().collect::<Vec<u8>>()).trim().to_string()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether an answer is one to the request. A record of the environment knows no seed.
fn is_about(answer: &Answer, request: &Request) -> bool {
    match &request.what {
        What::Seed { seed, .. } | What::Steered { seed, .. } => {
            answer.record.seed == *seed || answer.record.verdict == Verdict::Environment
        }
        What::Plan(_) => true,
    }
}

/// The next line without its end, cut to [`LINE_BYTES`]. None at the end of the input.
fn read_line(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut began = false;
    loop {
        let chunk = reader.fill_buf().ok()?;
        if chunk.is_empty() {
            return began.then_some(line);
        }
        began = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        let room = LINE_BYTES.saturating_sub(line.len());
        line.extend_from_slice(&chunk[..taken.min(room)]);
        reader.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Some(line);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if let Some(signal) = status.signal() {
            return format!("killed by signal {signal}");
        }
    }
    status.code().map_or_else(|| "ended without a status".to_string(), |code| format!("exited with status {code}"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    /// A worker that is a line of shell. It reads the request first.
    fn reply(script: &str) -> Reply {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read request; {script}")]);
        let what = What::Seed { seed: 7, profile: "default".into(), job: None, parameters: Vec::new() };
        let mut child = Child::of(command, "word ").expect("a shell");
        child.run(&Request { what, segment: None }, LIMIT).expect("a reply")
    }

    #[test]
    fn what_is_no_answer_is_nonsense() {
        assert!(matches!(reply("echo 'WEIR-RUN word {\"record\":'"), Reply::Nonsense(_)));
        assert!(matches!(reply("echo 'WEIR-RUN word '"), Reply::Nonsense(_)));
        let deep = format!("echo 'WEIR-RUN word {}'", "[".repeat(20_000));
        assert!(matches!(reply(&deep), Reply::Nonsense(_)));
    }

    #[test]
    fn an_answer_for_another_seed_is_nonsense() {
        let record = reports::RunRecord::empty(8, "default", Verdict::Clean);
        let text = serde_json::to_string(&Answer { record, segment: Vec::new() }).expect("written");
        let Reply::Nonsense(said) = reply(&format!("echo 'WEIR-RUN word {text}'")) else { panic!("it was believed") };
        assert!(said.contains("seed 8"), "{said}");
    }

    #[test]
    fn what_user_code_prints_passes_for_no_answer() {
        assert!(matches!(reply("echo 'WEIR-RUN {}'; exit 3"), Reply::Died { status } if status.contains("status 3")));
    }

    /// A database of a run that was killed half-way is no use to anybody.
    #[test]
    fn what_a_dead_worker_left_is_removed() {
        for end in ["kill -9 $$", "exit 3", "sleep 100"] {
            let mut command = Command::new("sh");
            let script =
                format!("read request; mkdir $WEIR_SCRATCH/weir-sim-1; touch $WEIR_SCRATCH/weir-sim-1/db; {end}");
            command.args(["-c", &script]);
            let what = What::Seed { seed: 7, profile: "default".into(), job: None, parameters: Vec::new() };
            let mut child = Child::of(command, "word ").expect("a shell");
            let scratch = child._scratch.path().to_path_buf();
            child.run(&Request { what, segment: None }, LIMIT).expect("a reply");
            assert!(scratch.join("weir-sim-1/db").exists(), "{end}");
            drop(child);
            assert!(!scratch.exists(), "{end}");
        }
    }

    #[test]
    fn a_worker_that_prints_without_end_hangs() {
        assert!(matches!(reply("yes"), Reply::Hang));
        assert!(matches!(reply("yes | tr -d '\\n'"), Reply::Hang));
        assert!(matches!(reply("yes 1>&2"), Reply::Hang));
    }
}
