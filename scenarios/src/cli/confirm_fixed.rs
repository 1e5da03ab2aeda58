//! `confirm-fixed`: whether a failure that sweeps have seen is gone.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    arguments::{Effort, Workload, parse_duration},
    ended, usage_error,
};
use crate::{
    confirm_fixed::{Options, confirm_fixed, evidence},
    past::records,
    sweep::Exit,
};

#[derive(Args)]
pub(super) struct ConfirmFixed {
    /// The signature, as a sweep prints it: `liveness/stalled/job`.
    signature: String,
    /// The records of the sweep that saw it: its `records.jsonl`, or the directory of its `--out`.
    #[arg(long, value_name = "FILE|DIR")]
    records: PathBuf,
    #[command(flatten)]
    effort: Effort,
    /// Begin no run after this time; what is not proved by then stays open (status 12).
    #[arg(long, value_parser = parse_duration)]
    budget: Option<Duration>,
    #[command(flatten)]
    workload: Workload,
}

pub(super) fn run(options: ConfirmFixed) -> Result<Exit, String> {
    let past = match records(&options.records) {
        Ok(past) => past,
        Err(trouble) => return ended(Err(trouble)),
    };
    let evidence = match evidence(&past, &options.signature) {
        Ok(evidence) => evidence,
        Err(error) => return usage_error(&error),
    };
    let jobs = options.effort.jobs();
    let options = Options {
        signature: options.signature,
        jobs,
        budget: options.budget,
        run_limit: options.effort.run_limit,
        job: options.workload.job,
        parameters: options.workload.parameters,
    };
    confirm_fixed(&evidence, &options, &mut std::io::stdout())
}
