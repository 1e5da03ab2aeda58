//! What a world is made of. Plain data, so that a plan can hold it.

use std::{ops::Range, time::Duration};

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::time::nanos;

/// A simulated world. `Default` is a healthy small data centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorldConfig {
    /// Decides everything that is left to chance.
    pub seed: u64,
    pub network: NetworkConfig,
    pub disk: DiskConfig,
    pub store: StoreConfig,
    /// The run fails once this much simulated time has passed.
    pub time_limit: Duration,
    /// Another future for the same past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed: Option<Reseed>,
}

/// After one event, everything that is left to chance is drawn from another seed. Up to and including that event the run is the
/// one of the first seed, event by event. What was drawn before stays: the base latency of a link, the delay of what is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reseed {
    /// The number of the event, from 0.
    pub after_event: u64,
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// One way; drawn once for each ordered pair of processes.
    pub latency: Range<Duration>,
    /// Added anew to each batch of frames, uniformly from zero to this.
    pub jitter: Duration,
    /// Of each ordered pair of processes; 0 means unlimited.
    pub bandwidth_bytes_per_second: u64,
    /// How much a connection holds in one direction that was sent and not yet read.
    pub window_bytes: u64,
    /// How long a silent peer is taken for alive.
    pub dead_peer_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Of each operation.
    pub latency: Range<Duration>,
    /// 0 means unlimited.
    pub bytes_per_second: u64,
    pub capacity_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled: Option<Modelled>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreConfig {
    /// Of each request, there and back.
    pub latency: Range<Duration>,
    /// Of each request by itself; 0 means unlimited.
    pub bytes_per_second: u64,
    /// Of each process's link to the store, each way, which its requests share; 0 means unlimited.
    #[serde(default)]
    pub link_bytes_per_second: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled: Option<Modelled>,
}

/// Bytes that stand for many: what is read and written under some names takes as long as if it were so many times as large. So
/// terabytes can be simulated with kilobytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modelled {
    pub times: u64,
    /// Names that contain one of these …
    pub names: Vec<String>,
    /// … and none of these.
    pub but_not: Vec<String>,
}

impl Modelled {
    /// How many bytes have to be paid for.
    pub(crate) fn weigh(modelled: Option<&Modelled>, name: &str, bytes: u64) -> u64 {
        let applies = |modelled: &&Modelled| {
            modelled.names.iter().any(|part| name.contains(part))
                && !modelled.but_not.iter().any(|part| name.contains(part))
        };
        modelled.filter(applies).map_or(bytes, |modelled| bytes.saturating_mul(modelled.times))
    }
}

impl Default for WorldConfig {
    fn default() -> Self {
        WorldConfig {
            seed: 0,
            network: NetworkConfig::default(),
            disk: DiskConfig::default(),
            store: StoreConfig::default(),
            time_limit: Duration::from_secs(3600),
            reseed: None,
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            latency: Duration::from_micros(100)..Duration::from_micros(500),
            jitter: Duration::from_micros(50),
            bandwidth_bytes_per_second: 1_250_000_000,
            window_bytes: 256 << 10,
            dead_peer_timeout: Duration::from_secs(20),
        }
    }
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig {
            latency: Duration::from_micros(20)..Duration::from_micros(200),
            bytes_per_second: 500_000_000,
            capacity_bytes: 1 << 40,
            modelled: None,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        let latency = Duration::from_millis(2)..Duration::from_millis(20);
        StoreConfig { latency, bytes_per_second: 200_000_000, link_bytes_per_second: 0, modelled: None }
    }
}

/// A draw from `range`, in nanoseconds; its start if it is empty.
pub(crate) fn draw(range: &Range<Duration>, rng: &mut impl Rng) -> u64 {
    let (from, to) = (nanos(range.start), nanos(range.end));
    if from < to { rng.random_range(from..to) } else { from }
}
