//! Real time and processor time, of this process and of the children it has waited for, as the kernel counts them.

use std::time::Instant;

/// Since a measurement began.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub wall_seconds: f64,
    /// User and system time of all threads and of ended children.
    pub processor_seconds: f64,
}

pub struct Meter {
    started: Instant,
    ticks: Option<u64>,
}

impl Meter {
    pub fn start() -> Meter {
        Meter { started: Instant::now(), ticks: ticks() }
    }

    pub fn read(&self) -> Used {
        let spent = ticks().zip(self.ticks).map_or(0, |(now, then)| now.saturating_sub(then));
        // The kernel's unit towards programs is 10 ms on every Linux there is.
        Used { wall_seconds: self.started.elapsed().as_secs_f64(), processor_seconds: spent as f64 / 100.0 }
    }
}

/// Fields 14 to 17 of `/proc/self/stat`; none where there is no such file.
fn ticks() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold anything; it ends with the last parenthesis.
    let (_, fields) = text.rsplit_once(')')?;
    let numbers = fields.split_whitespace().skip(11).take(4);
    numbers.map(|field| field.parse::<u64>().ok()).sum()
}

/// The machine's load before a measurement, for those who read it later.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let recent = text.split_whitespace().next().unwrap_or("unknown");
    format!("load {recent} on {cores} cores")
}
