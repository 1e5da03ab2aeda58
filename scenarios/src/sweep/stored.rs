//! What is kept of a sweep's options beside its records: all that decides what the records say.

use std::{fs::File, io::Read, time::Duration};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::Shard;
use crate::plan::Profile;

pub const VERSION: u32 = 1;

/// Not the number of jobs, the batch and the budget: they decide how fast the records come, and may change on the way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stored {
    pub version: u32,
    pub first_seed: u64,
    /// One past the last.
    pub end_seed: u64,
    pub profile: String,
    pub job: Option<String>,
    pub parameters: Vec<(String, u64)>,
    pub shard: Option<Shard>,
    pub audit: bool,
    pub run_limit_ms: u64,
    pub memory_limit_bytes: u64,
    /// A hash of the program that ran it.
    pub build: String,
}

impl Stored {
    /// # Errors
    /// A line that says what makes no sense.
    pub fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version {} of a sweep; this program knows version {VERSION}", self.version));
        }
        if self.first_seed >= self.end_seed || i64::try_from(self.end_seed - 1).is_err() {
            return Err(format!("the range {}..{} holds no seed", self.first_seed, self.end_seed));
        }
        if Profile::named(&self.profile).is_none() {
            return Err(format!("no profile is called {:?}; there are {}", self.profile, Profile::names()));
        }
        if let Some(shard) = self.shard {
            Shard::new(shard.index, shard.total)?;
        }
        Ok(())
    }

    pub fn holds(&self, seed: u64) -> bool {
        (self.first_seed..self.end_seed).contains(&seed) && self.shard.is_none_or(|shard| shard.holds(seed))
    }

    /// How many seeds the sweep has.
    pub fn seeds(&self) -> u64 {
        let all = self.end_seed - self.first_seed;
        self.shard.map_or(all, |shard| shard.count(self.first_seed, self.end_seed))
    }

    /// What differs, in words; `self` is what is there. None if nothing does.
    pub fn difference(&self, wanted: &Stored) -> Option<String> {
        let shown_shard = |shard: Option<Shard>| shard.map_or("none".to_string(), |shard| shard.to_string());
        let parameters = |stored: &Stored| {
            let shown: Vec<String> = stored.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if shown.is_empty() { "none".to_string() } else { shown.join(" ") }
        };
        let rows = [
            ("seeds", self.range(), wanted.range()),
            ("profile", self.profile.clone(), wanted.profile.clone()),
            ("job", self.shown_job(), wanted.shown_job()),
            ("parameters", parameters(self), parameters(wanted)),
            ("shard", shown_shard(self.shard), shown_shard(wanted.shard)),
            ("audit", self.audit.to_string(), wanted.audit.to_string()),
            ("run limit", shown_ms(self.run_limit_ms), shown_ms(wanted.run_limit_ms)),
            ("memory limit", shown_bytes(self.memory_limit_bytes), shown_bytes(wanted.memory_limit_bytes)),
            ("program", self.build.clone(), wanted.build.clone()),
        ];
        let differing: Vec<String> = rows
            .iter()
            .filter(|(_, there, wanted)| there != wanted)
            .map(|(name, there, wanted)| format!("{name} {there} there, {wanted} here"))
            .collect();
        (!differing.is_empty()).then(|| differing.join("; "))
    }

    fn range(&self) -> String {
        format!("{}..{}", self.first_seed, self.end_seed)
    }

    fn shown_job(&self) -> String {
        self.job.clone().unwrap_or_else(|| "the profile's".to_string())
    }
}

fn shown_ms(ms: u64) -> String {
    format!("{ms} ms")
}

fn shown_bytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A hash of this program's file: another build gives other runs.
///
/// # Errors
/// A line that says why it cannot be read.
pub fn build() -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot read my own program: {error}");
    let mut file = std::env::current_exe().and_then(File::open).map_err(cannot)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(cannot)? {
            0 => return Ok(format!("{:016x}", hasher.digest())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Stored {
        Stored {
            version: VERSION,
            first_seed: 0,
            end_seed: 10,
            profile: "default".into(),
            job: None,
            parameters: Vec::new(),
            shard: None,
            audit: false,
            run_limit_ms: 30_000,
            memory_limit_bytes: 4 << 30,
            build: "a".into(),
        }
    }

    #[test]
    fn every_option_that_differs_is_named() {
        assert_eq!(stored().difference(&stored()), None);
        let other = Stored {
            end_seed: 20,
            profile: "quiet".into(),
            job: Some("audit".into()),
            parameters: vec![("groups".into(), 2)],
            shard: Some(Shard { index: 1, total: 2 }),
            audit: true,
            run_limit_ms: 5,
            memory_limit_bytes: 1 << 20,
            build: "b".into(),
            ..stored()
        };
        let said = stored().difference(&other).expect("they differ");
        assert_eq!(
            said,
            "seeds 0..10 there, 0..20 here; profile default there, quiet here; job the profile's there, audit here; \
             parameters none there, groups=2 here; shard none there, 1/2 here; audit false there, true here; run limit \
             30000 ms there, 5 ms here; memory limit 4096 MiB there, 1 MiB here; program a there, b here"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(stored().check(), Ok(()));
        assert!(Stored { first_seed: 10, ..stored() }.check().is_err());
        assert!(Stored { end_seed: u64::MAX, ..stored() }.check().is_err());
        assert!(Stored { profile: "../x".into(), ..stored() }.check().is_err());
        assert!(Stored { version: 9, ..stored() }.check().is_err());
        assert!(Stored { shard: Some(Shard { index: 0, total: 0 }), ..stored() }.check().is_err());
    }
}
