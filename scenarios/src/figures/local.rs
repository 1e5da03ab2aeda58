//! Recovery from local copies against recovery from primary storage, for state of 1 GB to 1 TB: in simulated time.

use clap::Args;

use crate::{
    exhaust::local_matrix::Setup,
    modelled::{DISK_BYTES_PER_SECOND, LINK_BYTES_PER_SECOND, recovery},
};

#[derive(Args)]
pub struct Options {
    /// Sizes of all state together, in gigabytes.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    gigabytes: Vec<u64>,
}

pub fn measure(options: &Options) -> Result<(), String> {
    println!(
        "local  recovery after the crash of one of two processes, simulated; link {} MB/s, disk {} MB/s, per machine",
        LINK_BYTES_PER_SECOND / 1_000_000,
        DISK_BYTES_PER_SECOND / 1_000_000
    );
    println!("  {:<20} {:>9}  {:>12} {:>12} {:>8}", "state", "GB", "primary s", "local s", "times");
    for setup in [Setup::Heap, Setup::RocksDbIncremental] {
        for gigabytes in &options.gigabytes {
            let bytes = gigabytes * 1_000_000_000;
            let (primary, local) = (recovery(setup, bytes, false)?, recovery(setup, bytes, true)?);
            let (slow, fast) = (primary.seconds_until_running(), local.seconds_until_running());
            println!(
                "  {:<20} {gigabytes:>9}  {slow:>12.2} {fast:>12.2} {:>8.1}",
                setup.name(),
                slow / fast.max(0.001)
            );
        }
    }
    Ok(())
}
