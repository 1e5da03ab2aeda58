//! `replay`: runs one plan and tells its story.

use std::{io::IsTerminal, path::PathBuf};

use clap::Args;

use super::{arguments::Subject, usage_error};
use crate::{replay, sweep::Exit};

#[derive(Args)]
pub(super) struct Replay {
    #[command(flatten)]
    subject: Subject,
    /// Neither the plan nor the story, only how it ended.
    #[arg(long)]
    quiet: bool,
    /// At the end, draw which task wrote what of the newest checkpoint where, to primary storage and to local stores: an SVG file.
    #[arg(long, value_name = "FILE")]
    local_recovery_figure: Option<PathBuf>,
}

pub(super) fn run(options: &Replay) -> Result<Exit, String> {
    let read = match options.subject.read() {
        Ok(read) => read,
        Err(error) => return usage_error(&error),
    };
    let told = replay::Told {
        quiet: options.quiet,
        colour: std::io::stdout().is_terminal(),
        local_recovery_figure: options.local_recovery_figure.as_deref(),
    };
    replay::replay(&read.plan, &read.what, read.file.as_deref(), &told)
}
