//! `replay`: runs one plan and tells its story.

use std::io::IsTerminal;

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
}

pub(super) fn run(options: &Replay) -> Result<Exit, String> {
    let read = match options.subject.read() {
        Ok(read) => read,
        Err(error) => return usage_error(&error),
    };
    replay::replay(&read.plan, &read.what, read.file.as_deref(), options.quiet, std::io::stdout().is_terminal())
}
