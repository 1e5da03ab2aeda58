//! `merge`: puts the directories of several shards together.

use std::path::PathBuf;

use clap::Args;

use super::ended;
use crate::sweep::{Exit, merge};

#[derive(Args)]
pub(super) struct Merge {
    /// What `chaos --out` or `merge --out` left.
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Where the whole goes. It must not hold a sweep yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(options: &Merge) -> Result<Exit, String> {
    ended(merge(&options.directories, &options.out, &mut std::io::stdout()))
}
