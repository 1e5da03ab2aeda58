//! Who panicked: the runtime under test, the code of a user, or the harness itself. A defect of the harness must never be
//! reported as a finding about the runtime, and a panic of the runtime that was contained must not be overlooked.
//!
//! A panic is told by the file in which it was raised; one raised inside a library by the innermost frame of this workspace.

use std::{
    backtrace::Backtrace,
    sync::{Mutex, PoisonError},
};

use reports::{RunRecord, Verdict};

use crate::violation::normalise;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Runtime,
    /// A job's own functions, of which panics are expected.
    User,
    Harness,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    pub blame: Blame,
    pub message: String,
    /// File, line and column.
    pub place: String,
}

/// Panics kept; a job may be planned to panic again and again.
const KEPT: usize = 64;

static SEEN: Mutex<Vec<Panic>> = Mutex::new(Vec::new());

/// From here on each panic of this process is one line on standard error, and is remembered. For processes that run one plan
/// at a time.
pub fn watch() {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{}", info.to_string().replace('\n', " "));
        let Some(location) = info.location() else { return };
        let blame = match blame_of_file(location.file()) {
            // Slow, and rare: a panic of std is given the place of its caller.
            Blame::Unknown => blame_of_trace(&Backtrace::force_capture().to_string()),
            known => known,
        };
        let message = info.payload_as_str().unwrap_or("panic without a message").to_string();
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == KEPT {
            seen.remove(0);
        }
        seen.push(Panic { blame, message, place: location.to_string() });
    }));
}

/// What panicked since the last call.
pub fn take() -> Vec<Panic> {
    std::mem::take(&mut *SEEN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whose file it is, by its path from the root of the workspace.
pub fn blame_of_file(file: &str) -> Blame {
    let file = file.replace('\\', "/");
    let is_in = |folder: &str| file.starts_with(folder) || file.contains(&format!("/{folder}"));
    if file.contains("/registry/src/") || file.contains("/rustc/") {
        Blame::Unknown
    } else if is_in("scenarios/src/workloads/") || is_in("runtime/src/jobs/") {
        Blame::User
    } else if is_in("runtime/src/") || is_in("scenarios/src/rehearsal.rs") {
        // A rehearsal plays the runtime.
        Blame::Runtime
    } else if ["scenarios/", "sim/", "reports/", "tests/"].into_iter().any(is_in) {
        Blame::Harness
    } else {
        Blame::Unknown
    }
}

/// The innermost frame that is not a library's.
fn blame_of_trace(trace: &str) -> Blame {
    for line in trace.lines() {
        let Some((number, symbol)) = line.trim_start().split_once(": ") else { continue };
        if number.parse::<u32>().is_err() {
            continue;
        }
        let symbol = symbol.trim_start_matches(['<', '&']);
        if symbol.starts_with("scenarios::blame::") {
            continue;
        } else if symbol.starts_with("scenarios::workloads::") || symbol.starts_with("runtime::jobs::") {
            return Blame::User;
        } else if symbol.starts_with("runtime::") || symbol.starts_with("scenarios::rehearsal::") {
            return Blame::Runtime;
        } else if ["scenarios::", "sim::", "reports::"].into_iter().any(|name| symbol.starts_with(name)) {
            return Blame::Harness;
        }
    }
    Blame::Unknown
}

/// What the panics of a run make of its record: a panic that ended the run is the harness's if the harness raised it, and a
/// run that looks whole although code of the runtime panicked in it is not.
pub fn judge(record: &mut RunRecord, panics: &[Panic], plan: &dyn Fn() -> String) {
    let ended = |panic: &&Panic| record.message.as_deref() == Some(panic.message.as_str());
    if record.verdict == Verdict::Crash {
        if let Some(panic) = panics.iter().rev().find(ended).filter(|panic| panic.blame == Blame::Harness) {
            let panic = panic.clone();
            accuse_harness(record, &panic.message, Some(&panic.place));
        }
    } else if !record.verdict.is_failure()
        && let Some(panic) = panics.iter().find(|panic| panic.blame == Blame::Runtime)
    {
        record.verdict = Verdict::Crash;
        record.signature = Some(format!("crash/{}", normalise(first_line(&panic.message))));
        record.message = Some(format!("the runtime panicked at {}: {}", panic.place, panic.message));
        record.plan = Some(plan());
    }
}

/// Makes a record say that the harness is broken.
pub fn accuse_harness(record: &mut RunRecord, message: &str, place: Option<&str>) {
    let file = place.and_then(|place| place.split(':').next()).unwrap_or("worker");
    record.verdict = Verdict::Harness;
    record.invariant = None;
    record.signature = Some(format!("harness/{file}/{}", normalise(first_line(message))));
    record.message = Some(match place {
        Some(place) => format!("the harness panicked at {place}: {message}"),
        None => message.to_string(),
    });
}

/// For rehearsals: a defect of the harness.
pub fn blunder() {
    panic!("told to break the harness");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panic(blame: Blame, message: &str) -> Panic {
        Panic { blame, message: message.into(), place: "sim/src/disk.rs:7:9".into() }
    }

    fn judged(verdict: Verdict, message: Option<&str>, panics: &[Panic]) -> RunRecord {
        let mut record = RunRecord::empty(1, "p", verdict);
        record.message = message.map(String::from);
        judge(&mut record, panics, &|| "plan".to_string());
        record
    }

    #[test]
    fn a_file_tells_whose_panic_it_is() {
        assert_eq!(blame_of_file("runtime/src/checkpoint/commit.rs"), Blame::Runtime);
        assert_eq!(blame_of_file("/build/weir/runtime/src/checkpoint/commit.rs"), Blame::Runtime);
        assert_eq!(blame_of_file("scenarios/src/nemesis/mod.rs"), Blame::Harness);
        assert_eq!(blame_of_file("sim/src/disk.rs"), Blame::Harness);
        assert_eq!(blame_of_file("scenarios/src/workloads/mod.rs"), Blame::User);
        assert_eq!(blame_of_file("/root/.cargo/registry/src/index/madsim-0.2.34/sim/src/task.rs"), Blame::Unknown);
        assert_eq!(blame_of_file("/rustc/abc/library/alloc/src/vec.rs"), Blame::Unknown);
    }

    #[test]
    fn the_innermost_frame_of_the_workspace_decides() {
        let trace = "   0: std::backtrace::force_capture\n             at /rustc/x\n   1: scenarios::blame::watch::{{closure}}\n   \
                     9: bytes::bytes::slice\n  10: <sim::disk::Disk as x>::read\n  11: runtime::state::load\n";
        assert_eq!(blame_of_trace(trace), Blame::Harness);
        assert_eq!(
            blame_of_trace("  3: bytes::x\n  4: runtime::state::load::{{closure}}\n  5: sim::y"),
            Blame::Runtime
        );
        assert_eq!(blame_of_trace("nothing of use"), Blame::Unknown);
    }

    #[test]
    fn a_panic_of_the_harness_is_no_finding() {
        let record = judged(Verdict::Crash, Some("boom 7"), &[panic(Blame::Harness, "boom 7")]);
        assert_eq!(record.verdict, Verdict::Harness);
        assert_eq!(record.signature.as_deref(), Some("harness/sim/src/disk.rs/boom #"));
        let other =
            judged(Verdict::Crash, Some("boom 7"), &[panic(Blame::Harness, "before"), panic(Blame::Runtime, "boom 7")]);
        assert_eq!(other.verdict, Verdict::Crash);
    }

    #[test]
    fn a_contained_panic_of_the_runtime_is_a_crash_and_one_of_user_code_is_not() {
        let record = judged(Verdict::Clean, None, &[panic(Blame::User, "planned"), panic(Blame::Runtime, "boom 7")]);
        assert_eq!((record.verdict, record.signature.as_deref()), (Verdict::Crash, Some("crash/boom #")));
        assert_eq!(record.plan.as_deref(), Some("plan"));
        assert_eq!(judged(Verdict::Clean, None, &[panic(Blame::User, "planned")]).verdict, Verdict::Clean);
    }

    #[test]
    fn a_violation_stays_one_whatever_panicked_besides() {
        let record =
            judged(Verdict::Violation, Some("lost"), &[panic(Blame::Harness, "lost"), panic(Blame::Runtime, "x")]);
        assert_eq!(record.verdict, Verdict::Violation);
    }
}
