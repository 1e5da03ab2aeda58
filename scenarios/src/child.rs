//! A worker process as its parent sees it: one request at a time, with a wall-clock limit, and the end of its standard error.
//!
//! Real time and real processes are allowed here: nothing of it reaches a run.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::worker::{ANSWER, Answer, Request};

/// Bytes of standard error that are kept.
const TAIL_BYTES: usize = 4_096;

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
}

/// A worker. Killed when dropped.
pub struct Child {
    process: Process,
    input: ChildStdin,
    lines: Receiver<String>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Child {
    /// Starts this program anew as a worker.
    ///
    /// # Errors
    /// A line that says what failed.
    pub fn start() -> Result<Child, String> {
        let program = std::env::current_exe().map_err(|error| format!("cannot find my own program: {error}"))?;
        let mut process = Command::new(&program)
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start a worker ({}): {error}", program.display()))?;
        let (Some(input), Some(output), Some(mut errors)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err("a worker was started without pipes".to_string());
        };
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            // Bytes, not text: user code may print anything.
            while let Ok(1..) = reader.read_until(b'\n', &mut line) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
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
        Ok(Child { process, input, lines, tail, stderr_reader: Some(stderr_reader) })
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
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let Some(text) = line.strip_prefix(ANSWER) else { continue };
                    return serde_json::from_str(text)
                        .map(|answer| Reply::Answer(Box::new(answer)))
                        .map_err(|error| format!("a worker answered nonsense: {error}"));
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
