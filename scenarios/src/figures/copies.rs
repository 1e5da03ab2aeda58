//! What the second copy of state costs, by backend: bytes written, disk space, the time of a checkpoint, and throughput, with and
//! without; in simulated time, for a modelled size of state. For real: `figures recovery`.

use clap::Args;

use crate::{
    exhaust::local_matrix::Setup,
    modelled::{DISK_BYTES_PER_SECOND, LINK_BYTES_PER_SECOND, checkpoints},
};

#[derive(Args)]
pub struct Options {
    /// What a checkpoint writes to primary storage, in gigabytes.
    #[arg(long, value_delimiter = ',', default_value = "1,10")]
    gigabytes: Vec<u64>,
}

pub fn measure(options: &Options) -> Result<(), String> {
    println!(
        "copies  checkpoints with and without local copies, simulated; link {} MB/s, disk {} MB/s, two machines",
        LINK_BYTES_PER_SECOND / 1_000_000,
        DISK_BYTES_PER_SECOND / 1_000_000
    );
    println!(
        "  {:<20} {:>4}  {:<7} {:>12} {:>11} {:>10} {:>13} {:>10}",
        "state", "GB", "copies", "checkpoint s", "primary GB", "local GB", "disk space GB", "records/s"
    );
    for setup in Setup::ALL {
        for gigabytes in &options.gigabytes {
            for local in [false, true] {
                let cost = checkpoints(setup, gigabytes * 1_000_000_000, local)?;
                let per_checkpoint = |bytes: u64| bytes as f64 / 1e9 / cost.checkpoints as f64;
                println!(
                    "  {:<20} {gigabytes:>4}  {:<7} {:>12.2} {:>11.3} {:>10.3} {:>13.3} {:>10.3}",
                    setup.name(),
                    if local { "local" } else { "none" },
                    cost.checkpoint_seconds,
                    per_checkpoint(cost.primary_bytes),
                    per_checkpoint(cost.local_bytes),
                    cost.space_bytes as f64 / 1e9,
                    cost.records_per_second
                );
            }
        }
    }
    println!(
        "  primary and local: bytes written for a checkpoint, on average; disk space: what copies alone held at most"
    );
    Ok(())
}
