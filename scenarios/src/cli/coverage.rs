//! `coverage`: shows in full what the records of a sweep covered.

use std::path::PathBuf;

use clap::Args;

use super::{print, usage_error};
use crate::{coverage::report, exit::Exit};

#[derive(Args)]
pub(super) struct Records {
    /// The directory that `chaos --out` wrote.
    #[arg(long, value_name = "DIR")]
    records: PathBuf,
}

pub(super) fn run(options: &Records) -> Result<Exit, String> {
    match report::text(&options.records) {
        Ok(text) => print(text.trim_end()),
        Err(error) => usage_error(&error),
    }
}
