//! `worker`: the other side of a sweep, started by the harness itself.

use clap::Args;

use crate::{
    sweep::Exit,
    worker::{ServeOptions, serve},
};

#[derive(Args)]
pub(super) struct Worker {
    /// Bytes of address space that this process may have.
    #[arg(long)]
    memory_limit: Option<u64>,
    /// What each answer begins with, besides its first word.
    #[arg(long, default_value = "")]
    word: String,
}

pub(super) fn run(worker: Worker) -> Result<Exit, String> {
    let options = ServeOptions { memory_limit: worker.memory_limit, word: worker.word };
    serve(&options, std::io::stdin().lock(), std::io::stdout().lock())
        .map(|()| Exit::Clean)
        .map_err(|error| format!("worker: {error}"))
}
