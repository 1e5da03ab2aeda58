//! How often a plan fails over several schedules, and what a fault has to do with it.

use std::fmt;

/// So many of so many runs failed in the way that is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    pub failed: usize,
    pub runs: usize,
}

impl Rate {
    pub fn of(verdicts: &[bool]) -> Rate {
        Rate { failed: verdicts.iter().filter(|failed| **failed).count(), runs: verdicts.len() }
    }

    pub fn share(self) -> f64 {
        if self.runs == 0 { 0.0 } else { self.failed as f64 / self.runs as f64 }
    }

    pub fn is_always(self) -> bool {
        self.failed == self.runs && self.runs > 0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.failed, self.runs)
    }
}

/// What a fault has to do with a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Without it nothing fails, under no schedule.
    Necessary,
    /// Without it less fails.
    Contributing,
    /// Without it as much fails.
    Noise,
}

impl Role {
    /// `with` and `without` the fault, over the same schedules.
    pub fn of(with: Rate, without: Rate) -> Role {
        if without.failed == 0 {
            Role::Necessary
        } else if without.share() < with.share() {
            Role::Contributing
        } else {
            Role::Noise
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Necessary => "necessary",
            Role::Contributing => "contributing",
            Role::Noise => "noise",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_follows_from_what_is_left_without_the_fault() {
        let rate = |failed, runs| Rate { failed, runs };
        assert_eq!(Role::of(rate(3, 10), rate(0, 10)), Role::Necessary);
        assert_eq!(Role::of(rate(9, 10), rate(2, 10)), Role::Contributing);
        assert_eq!(Role::of(rate(9, 10), rate(9, 10)), Role::Noise);
        assert_eq!(Role::of(rate(3, 10), rate(5, 10)), Role::Noise);
    }
}
