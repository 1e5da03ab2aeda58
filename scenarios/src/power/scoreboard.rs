//! The scoreboard of planted bugs: how soon the harness sees each, as a file that can be compared with a later one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of the file's layout.
pub const SCOREBOARD_VERSION: u32 = 1;

/// How much worse a median may be than the highest sweep recorded before it counts as power lost.
pub const TOLERATED_FACTOR: u64 = 3;

/// What became of a planted bug, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// In most sweeps, first by an invariant that is there for it.
    Found,
    /// In most sweeps, mostly by another invariant first: the one meant for it may be blind.
    FoundByAnother,
    /// In most sweeps the wrong code ran, and nobody objected: an invariant is missing or blind.
    Silent,
    /// The wrong code never ran: the workload or the faults do not lead there.
    NeverHit,
}

impl Rung {
    pub fn name(self) -> &'static str {
        match self {
            Rung::Found => "found",
            Rung::FoundByAnother => "found-by-another",
            Rung::Silent => "silent",
            Rung::NeverHit => "never-hit",
        }
    }

    pub fn is_found(self) -> bool {
        matches!(self, Rung::Found | Rung::FoundByAnother)
    }
}

/// One sweep for one bug: seeds in order until the bug was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hunt {
    /// Runs that were looked at; with a finding, the last one is it.
    pub runs: u64,
    /// In so many of them the wrong code ran.
    pub hit: u64,
    pub found: Option<Finding>,
    /// Runs that failed with and without the bug: not the bug's doing.
    pub broken_without: Vec<u64>,
    /// Working time of one core.
    pub core_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub seed: u64,
    pub invariant: String,
    /// The violation without its numbers.
    pub signature: String,
    /// Whether the marker had been left before.
    pub marked: bool,
}

/// Median and extremes of the sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    pub median: u64,
    pub lowest: u64,
    pub highest: u64,
}

impl Spread {
    /// Of an odd number of values the middle one; of an even number the higher of the two in the middle.
    pub fn of(mut values: Vec<u64>) -> Spread {
        values.sort_unstable();
        let at = |position: usize| values.get(position).copied().unwrap_or_default();
        Spread { median: at(values.len() / 2), lowest: at(0), highest: at(values.len().saturating_sub(1)) }
    }
}

/// A bug's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bug: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jira: String,
    pub rung: Rung,
    /// Sweeps in which it was found.
    pub found_in: u64,
    /// Runs up to and with the one that found it. A sweep that did not find it counts as one run more than the limit.
    pub seeds: Spread,
    pub core_ms: Spread,
    /// Of 100 runs, in so many the wrong code ran.
    pub hit_percent: u64,
    pub expected: Vec<String>,
    /// Which invariant saw it first, by sweeps.
    pub by: BTreeMap<String, u64>,
}

impl Score {
    /// What several sweeps say together. `limit`: runs per sweep at most.
    pub fn of(name: &str, bug: (&str, &str), expected: &[&str], hunts: &[Hunt], limit: u64) -> Score {
        let mut by: BTreeMap<String, u64> = BTreeMap::new();
        for finding in hunts.iter().filter_map(|hunt| hunt.found.as_ref()) {
            *by.entry(finding.invariant.clone()).or_default() += 1;
        }
        let found_in: u64 = by.values().sum();
        let meant: u64 = by.iter().filter(|(name, _)| expected.contains(&name.as_str())).map(|(_, count)| count).sum();
        let (runs, hit) = hunts.iter().fold((0, 0), |(runs, hit), hunt| (runs + hunt.runs, hit + hunt.hit));
        let rung = match (found_in * 2 > hunts.len() as u64, meant * 2 > found_in, hit > 0) {
            (true, true, _) => Rung::Found,
            (true, false, _) => Rung::FoundByAnother,
            (false, _, true) => Rung::Silent,
            (false, _, false) => Rung::NeverHit,
        };
        let seeds = hunts.iter().map(|hunt| if hunt.found.is_some() { hunt.runs } else { limit + 1 });
        Score {
            name: name.to_string(),
            bug: bug.0.to_string(),
            jira: bug.1.to_string(),
            rung,
            found_in,
            seeds: Spread::of(seeds.collect()),
            core_ms: Spread::of(hunts.iter().map(|hunt| hunt.core_ms).collect()),
            hit_percent: (hit * 100).checked_div(runs).unwrap_or_default(),
            expected: expected.iter().map(|name| (*name).to_string()).collect(),
            by,
        }
    }

    /// Why this is worse than what was recorded; None if it is not.
    pub fn loss(&self, recorded: &Score) -> Option<String> {
        if !recorded.rung.is_found() {
            return None;
        }
        if !self.rung.is_found() {
            return Some(format!("{}: it was {}, now it is {}", self.name, recorded.rung.name(), self.rung.name()));
        }
        let most = recorded.seeds.highest.max(1) * TOLERATED_FACTOR;
        (self.seeds.median > most).then(|| {
            format!(
                "{}: {} seeds to find it, more than {TOLERATED_FACTOR} times the {} recorded",
                self.name, self.seeds.median, recorded.seeds.highest
            )
        })
    }
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scoreboard {
    pub version: u32,
    pub profile: String,
    pub sweeps: u64,
    pub limit: u64,
    #[serde(rename = "planted")]
    pub scores: Vec<Score>,
}

impl Scoreboard {
    pub fn score(&self, name: &str) -> Option<&Score> {
        self.scores.iter().find(|score| score.name == name)
    }

    /// # Errors
    /// A line that says what is wrong with the text.
    pub fn from_toml(text: &str) -> Result<Scoreboard, String> {
        let board: Scoreboard = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        match board.version {
            SCOREBOARD_VERSION => Ok(board),
            other => Err(format!("version {other} of a scoreboard; this harness writes {SCOREBOARD_VERSION}")),
        }
    }

    /// # Errors
    /// If a number does not fit TOML.
    pub fn to_toml(&self) -> Result<String, String> {
        let text = toml::to_string(self).map_err(|error| format!("the scoreboard cannot be written: {error}"))?;
        Ok(format!(
            "# How soon the harness finds each planted bug. Written by `./weir power --out`, compared by `./weir power --check`.\n\
             # A sweep goes through seeds in order until the bug is found; each sweep has seeds of its own.\n{text}"
        ))
    }

    /// For people: a line a bug.
    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "{:<28} {:<5} {:<12} {:<16} {:>13} {:>8} {:>5}  first seen by",
            "planted", "bug", "issue", "verdict", "seeds", "core s", "hit %"
        )];
        lines.extend(self.scores.iter().map(Score::line));
        lines.join("\n")
    }
}

impl Score {
    pub fn line(&self) -> String {
        let by: Vec<String> = self.by.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let seeds = if self.rung.is_found() {
            format!("{} ({}-{})", self.seeds.median, self.seeds.lowest, self.seeds.highest)
        } else {
            "-".to_string()
        };
        let core_ms = self.core_ms.median;
        format!(
            "{:<28} {:<5} {:<12} {:<16} {:>13} {:>8} {:>5}  {}",
            self.name,
            self.bug,
            self.jira,
            self.rung.name(),
            seeds,
            format!("{}.{}", core_ms / 1_000, core_ms % 1_000 / 100),
            self.hit_percent,
            by.join(", ")
        )
        .trim_end()
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(runs: u64, by: &str) -> Hunt {
        let finding = Finding { seed: runs - 1, invariant: by.into(), signature: by.into(), marked: true };
        Hunt { runs, hit: 1, found: Some(finding), core_ms: runs * 100, ..Hunt::default() }
    }

    fn missed(hit: u64) -> Hunt {
        Hunt { runs: 200, hit, ..Hunt::default() }
    }

    fn score(hunts: &[Hunt]) -> Score {
        Score::of("never-restart", ("B00", ""), &["liveness"], hunts, 200)
    }

    /// The rungs of the ladder, one after the other.
    #[test]
    fn the_verdict_goes_by_most_sweeps() {
        let cases = [
            (vec![found(3, "liveness"), found(9, "liveness"), missed(0)], Rung::Found),
            (vec![found(3, "exactly-once"), found(9, "liveness"), found(4, "exactly-once")], Rung::FoundByAnother),
            (vec![found(3, "liveness"), missed(1), missed(0)], Rung::Silent),
            (vec![missed(0), missed(0), missed(0)], Rung::NeverHit),
        ];
        for (hunts, rung) in cases {
            assert_eq!(score(&hunts).rung, rung);
        }
    }

    #[test]
    fn a_sweep_that_missed_counts_as_more_than_the_limit() {
        let seeds = score(&[found(3, "liveness"), missed(0), found(7, "liveness")]).seeds;
        assert_eq!(seeds, Spread { median: 7, lowest: 3, highest: 201 });
        assert_eq!(Spread::of(vec![4, 1, 3, 2]).median, 3, "of two in the middle the higher one");
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn power_is_lost_when_it_is_missed_or_takes_much_longer() {
        let recorded = score(&[found(2, "liveness"), found(4, "liveness"), found(3, "liveness")]);
        assert_eq!(score(&[found(12, "liveness")]).loss(&recorded), None);
        let slower = score(&[found(13, "liveness")]).loss(&recorded).unwrap();
        assert!(slower.contains("13 seeds") && slower.contains("the 4 recorded"), "{slower}");
        assert!(score(&[missed(5)]).loss(&recorded).unwrap().contains("now it is silent"));
        assert_eq!(score(&[missed(5)]).loss(&score(&[missed(0)])), None, "what was never found cannot be lost");
    }

    #[test]
    fn a_scoreboard_survives_its_file() {
        let scores = vec![score(&[found(2, "liveness"), missed(3)])];
        let board =
            Scoreboard { version: SCOREBOARD_VERSION, profile: "default".into(), sweeps: 2, limit: 200, scores };
        let text = board.to_toml().unwrap();
        assert_eq!(Scoreboard::from_toml(&text), Ok(board));
        let wrong = text.replace("sweeps = 2", "sweeps = \"two\"");
        assert!(Scoreboard::from_toml(&wrong).unwrap_err().starts_with("line 5: "), "{wrong}");
        assert!(Scoreboard::from_toml(&text.replace("version = 1", "version = 7")).unwrap_err().contains("version 7"));
    }

    /// Half of the sweeps are not most of them, and half of what was seen is not most of it.
    #[test]
    fn half_is_not_most() {
        assert_eq!(score(&[found(3, "liveness"), missed(1)]).rung, Rung::Silent);
        assert_eq!(score(&[found(3, "liveness"), found(4, "exactly-once")]).rung, Rung::FoundByAnother);
    }

    /// Of all runs of all sweeps, in so many of a hundred the wrong code ran.
    #[test]
    fn hits_are_counted_over_all_sweeps() {
        let hunt = |runs, hit| Hunt { runs, hit, ..Hunt::default() };
        let score = score(&[hunt(5, 2), hunt(3, 1)]);
        assert_eq!((score.hit_percent, score.found_in, score.rung), (37, 0, Rung::Silent));
        assert_eq!(super::Score::of("a", ("", ""), &[], &[], 200).hit_percent, 0);
    }

    /// A bug that was found in the first seed of each sweep may take three, and no more.
    #[test]
    fn what_was_found_at_once_may_take_three_times_as_long() {
        let recorded = score(&[found(1, "liveness")]);
        assert_eq!(score(&[found(3, "liveness")]).loss(&recorded), None);
        assert!(score(&[found(4, "liveness")]).loss(&recorded).is_some());
    }

    /// A line a bug below a heading; what was not found has no seeds to show.
    #[test]
    fn a_scoreboard_for_people() {
        let slow = Hunt { core_ms: 12_345, ..found(3, "liveness") };
        let mut scores = vec![score(&[slow]), score(&[missed(0)])];
        scores[1].name = "other".into();
        let board = Scoreboard { version: 1, profile: "default".into(), sweeps: 1, limit: 200, scores };
        let text = board.text();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..4], ["planted", "bug", "issue", "verdict"]);
        assert_eq!(lines[1], ["never-restart", "B00", "found", "3", "(3-3)", "12.3", "33", "liveness", "1"]);
        assert_eq!(lines[2], ["other", "B00", "never-hit", "-", "0.0", "0"]);
        assert_eq!(board.score("other").map(|score| score.rung), Some(Rung::NeverHit));
        assert_eq!(board.score("neither"), None);
    }
}
