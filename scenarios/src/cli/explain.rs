//! `explain`: says why a plan fails.

use std::time::{Duration, Instant};

use clap::Args;

use super::{
    arguments::{Effort, Subject, parse_duration},
    print, usage_error,
};
use crate::{
    confirm::{Runner, command},
    explain::explain,
    screen::{Told, screen},
    shrink::{
        pool::{Pool, signature},
        story::hush_panics,
    },
    sweep::Exit,
    worker::{Request, What},
};

#[derive(Args)]
pub(super) struct Explain {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    effort: Effort,
    /// Ask no further question after this time.
    #[arg(long, default_value = "2m", value_parser = parse_duration)]
    budget: Duration,
}

pub(super) fn run(options: &Explain) -> Result<Exit, String> {
    hush_panics();
    let read = match options.subject.read() {
        Ok(read) => read,
        Err(error) => return usage_error(&error),
    };
    let request = Request { what: What::Plan(read.plan.to_toml()), segment: None };
    let record = Runner::new(1, options.effort.run_limit).confirmed(&request)?;
    if signature(&record).is_none() {
        return match record.message {
            Some(message) if record.verdict.is_failure() => Err(message),
            _ => {
                usage_error(&format!("the plan does not fail ({}): there is nothing to explain", record.verdict.name()))
            }
        };
    }
    if record.verdict == reports::Verdict::Nondeterminism {
        print(&record.message.unwrap_or_default())?;
        return Ok(Exit::Nondeterminism);
    }
    let mut pool = Pool::start(options.effort.jobs(), options.effort.run_limit);
    let explanation = explain(&read.plan, &record, &mut pool, Instant::now() + options.budget)?;
    let told = Told { plan: &read.plan, record: &record, explanation: &explanation };
    let repeat = command(&read.what, &read.plan.profile, read.file.as_deref());
    print(&reports::shrunk_screen(&screen(&told, repeat)))?;
    Ok(Exit::Violation)
}
