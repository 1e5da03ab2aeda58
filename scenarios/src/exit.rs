//! How a command of the harness ends.

/// What the exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Clean = 0,
    Violation = 10,
    Nondeterminism = 11,
    /// The sweep could not have seen a violation, or did not see what its profile declares.
    Blind = 12,
    Environment = 20,
    Usage = 64,
}
