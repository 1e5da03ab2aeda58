//! A share of a sweep: of `total` machines, this one runs the seeds that leave `index` when divided by `total`.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    pub index: u64,
    pub total: u64,
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.total)
    }
}

/// Set by Kubernetes in the pods of an indexed job.
pub const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// How many shards there are, where the index comes from [`INDEX_VARIABLE`].
pub const TOTAL_VARIABLE: &str = "WEIR_SHARDS";

impl Shard {
    /// # Errors
    /// A line that says what is wrong.
    pub fn new(index: u64, total: u64) -> Result<Shard, String> {
        if total == 0 {
            Err("there must be at least one shard".to_string())
        } else if index >= total {
            Err(format!("shard {index} of {total}: shards count from 0 to {}", total - 1))
        } else {
            Ok(Shard { index, total })
        }
    }

    /// `i/n`.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub fn parse(text: &str) -> Result<Shard, String> {
        let wrong = || format!("{text:?} is no shard; write 0/4, 1/4, 2/4, 3/4");
        let (index, total) = text.split_once('/').ok_or_else(wrong)?;
        Shard::new(index.trim().parse().map_err(|_| wrong())?, total.trim().parse().map_err(|_| wrong())?)
    }

    /// The shard of this machine, from the environment. `total` is what the command line says of it.
    ///
    /// # Errors
    /// If only one of index and total is known: each machine would run everything, or the same.
    pub fn of_environment(
        total: Option<u64>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Shard>, String> {
        let read = |name: &str| match variable(name).filter(|text| !text.trim().is_empty()) {
            None => Ok(None),
            Some(text) => text.trim().parse::<u64>().map(Some).map_err(|_| format!("{name}={text:?} is no number")),
        };
        match (read(INDEX_VARIABLE)?, total.map_or_else(|| read(TOTAL_VARIABLE), |total| Ok(Some(total)))?) {
            (Some(index), Some(total)) => Shard::new(index, total).map(Some),
            (Some(index), None) => Err(format!(
                "{INDEX_VARIABLE}={index}, but of how many? Say --shards N, set {TOTAL_VARIABLE}, or unset {INDEX_VARIABLE}"
            )),
            (None, Some(total)) => {
                Err(format!("{total} shards, but which one is this? Say --shard I/{total}, or set {INDEX_VARIABLE}"))
            }
            (None, None) => Ok(None),
        }
    }

    pub fn holds(&self, seed: u64) -> bool {
        seed % self.total == self.index
    }

    /// How many seeds of `first..end` are this shard's.
    pub fn count(&self, first: u64, end: u64) -> u64 {
        let below = |bound: u64| bound / self.total + u64::from(bound % self.total > self.index);
        below(end).saturating_sub(below(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_part_the_seeds() {
        for total in 1..7 {
            for (first, end) in [(0, 0), (0, 1), (3, 50), (7, 8), (100, 137)] {
                let shards: Vec<Shard> = (0..total).map(|index| Shard { index, total }).collect();
                for seed in first..end {
                    assert_eq!(shards.iter().filter(|shard| shard.holds(seed)).count(), 1);
                }
                for shard in &shards {
                    let held = (first..end).filter(|seed| shard.holds(*seed)).count() as u64;
                    assert_eq!(shard.count(first, end), held, "{shard} of {first}..{end}");
                }
            }
        }
    }

    #[test]
    fn an_index_without_a_total_is_refused_and_the_other_way_round() {
        let environment = |index: Option<&str>, total: Option<&str>, flag: Option<u64>| {
            let (index, total) = (index.map(String::from), total.map(String::from));
            Shard::of_environment(flag, &move |name| if name == INDEX_VARIABLE { index.clone() } else { total.clone() })
        };
        assert_eq!(environment(None, None, None), Ok(None));
        assert_eq!(environment(Some("2"), Some("4"), None), Ok(Some(Shard { index: 2, total: 4 })));
        assert_eq!(environment(Some("2"), Some("4"), Some(8)), Ok(Some(Shard { index: 2, total: 8 })));
        assert!(environment(Some("2"), None, None).is_err());
        assert!(environment(None, Some("4"), None).is_err());
        assert!(environment(None, None, Some(4)).is_err());
        assert!(environment(Some("4"), Some("4"), None).is_err());
        assert!(environment(Some("x"), Some("4"), None).is_err());
    }

    #[test]
    fn a_shard_is_read_as_it_is_written() {
        assert_eq!(Shard::parse("1/4"), Ok(Shard { index: 1, total: 4 }));
        assert_eq!(Shard { index: 1, total: 4 }.to_string(), "1/4");
        for wrong in ["", "1", "4/4", "0/0", "-1/4", "1/4/2", "a/b"] {
            assert!(Shard::parse(wrong).is_err(), "{wrong}");
        }
    }
}
