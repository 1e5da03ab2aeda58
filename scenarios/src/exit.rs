//! How a command of the harness ends.

use reports::Verdict;

/// What the exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Clean = 0,
    Violation = 10,
    Nondeterminism = 11,
    /// The sweep could not have seen a violation, or did not see what its profile declares, or the harness is broken.
    Blind = 12,
    Environment = 20,
    Usage = 64,
}

impl Exit {
    /// The status that a run of this verdict asks for.
    pub fn of(verdict: Verdict) -> Exit {
        match verdict {
            Verdict::Clean | Verdict::Excused => Exit::Clean,
            Verdict::Violation | Verdict::Hang | Verdict::Crash | Verdict::Memory => Exit::Violation,
            Verdict::Nondeterminism => Exit::Nondeterminism,
            Verdict::Harness => Exit::Blind,
            Verdict::Environment => Exit::Environment,
        }
    }

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Exit::Clean => "clean",
            Exit::Violation => "violation",
            Exit::Nondeterminism => "nondeterminism",
            Exit::Blind => "blind",
            Exit::Environment => "environment",
            Exit::Usage => "usage",
        }
    }
}
