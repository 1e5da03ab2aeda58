//! A sweep: many seeds in worker processes, a summary, and the proof that the sweep could have failed.

mod engine;
mod options;
mod output;
mod proofs;

use std::{io::Write, time::Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::{Expectation, Judgement, RunRecord, Summary, Verdict, failure_screen, tables};

pub use self::{
    engine::Engine,
    options::{SweepOptions, expectation},
};
use self::{output::Output, proofs::proofs};
pub use crate::exit::Exit;
use crate::{
    confirm::{Runner, command},
    phase::Phase,
    rehearsal,
    worker::{Request, What},
};

/// Runs the sweep. What it finds goes to `out`, progress to standard error.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn sweep(options: &SweepOptions, out: &mut dyn Write) -> Result<Exit, String> {
    let mut output = options.out.as_deref().map(Output::create).transpose()?;
    let say = |out: &mut dyn Write, text: &str| {
        writeln!(out, "{text}").map_err(|error| format!("cannot write to standard output: {error}"))
    };
    let mut blind = Vec::new();
    let mut broken = false;
    let mut shaken = false;
    for proof in proofs(options) {
        let mut runner = Runner::new(1, options.run_limit);
        let request = Request { what: What::Plan(proof.plan.clone()), segment: None };
        let record = runner.confirmed(&request)?;
        if record.verdict == Verdict::Environment {
            return Err(record.message.unwrap_or_else(|| "a worker could not run".to_string()));
        }
        shaken |= record.verdict == Verdict::Nondeterminism;
        let failed = record.verdict.is_failure();
        let verdict = record.verdict.name();
        if proof.must_fail {
            let seen = record.verdict == Verdict::Violation;
            say(out, &format!("proof  {}: {verdict}, {}", proof.name, if seen { "as it must" } else { "NOT SEEN" }))?;
            if !seen {
                blind.push(format!("the {} must be a violation and was {verdict}", proof.name));
            }
        } else {
            say(out, &format!("proof  {}: {verdict}", proof.name))?;
            if failed {
                broken |= record.verdict != Verdict::Nondeterminism;
                let plan = plan_file(output.as_ref(), &record)?;
                say(out, &failure_screen(&record, &command(&request.what, &record.profile, plan.as_deref())))?;
            }
        }
    }
    // A rehearsal has no protocol of its own to cover.
    let declared = if options.is_rehearsal() {
        Expectation { profile: rehearsal::NAME.to_string(), ..Expectation::default() }
    } else {
        expectation(options.profile)
    };
    let mut summary = Summary::new(declared);
    summary.cores = u64::from(options.jobs);
    let started = Instant::now();
    let mut screens = Vec::new();
    let (first, end) = options.seeds;
    let bar = progress(end - first)?;
    let engine = Engine {
        jobs: options.jobs,
        batch: options.batch,
        run_limit: options.run_limit,
        budget: options.budget,
        audit: options.audit,
    };
    let outcome = engine.run(&mut (first..end).map(|seed| options.request(seed)), &mut |request, record| {
        if record.verdict == Verdict::Environment {
            return Err(record.message.clone().unwrap_or_else(|| "a worker could not run".to_string()));
        }
        let known = summary.failures.len();
        summary.add(&record);
        if let Some(output) = &mut output {
            output.add(&record)?;
        }
        if summary.failures.len() > known {
            let plan = plan_file(output.as_ref(), &record)?;
            let screen = failure_screen(&record, &command(&request.what, options.profile.name, plan.as_deref()));
            // At once, where somebody watches; in any case at the end.
            bar.println(format!("seed {}: {}", record.seed, record.signature.as_deref().unwrap_or("failed")));
            screens.push(screen);
        }
        let failures = summary.failed_runs();
        bar.set_message(format!("{failures} {}", if failures == 1 { "failure" } else { "failures" }));
        bar.inc(1);
        Ok(())
    });
    bar.finish_and_clear();
    outcome?;
    summary.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    for screen in &screens {
        say(out, &format!("\n{screen}"))?;
    }
    say(out, &format!("\n{}", tables::summary_text(&summary, &Phase::names()).trim_end()))?;
    if let Some(output) = &output {
        let text = serde_json::to_string_pretty(&summary).map_err(|error| format!("--out: {error}"))?;
        output.file("summary.json", &text)?;
        say(out, &format!("wrote  {}", output.directory.display()))?;
    }
    if let Judgement::Blind(missing) = summary.judgement() {
        blind.extend(missing);
    }
    for reason in &blind {
        say(out, &format!("blind  {reason}"))?;
    }
    let violations = summary.failed_runs() - summary.count(Verdict::Nondeterminism);
    Ok(if broken || violations > 0 {
        Exit::Violation
    } else if shaken || summary.count(Verdict::Nondeterminism) > 0 {
        Exit::Nondeterminism
    } else if blind.is_empty() {
        Exit::Clean
    } else {
        Exit::Blind
    })
}

fn plan_file(output: Option<&Output>, record: &RunRecord) -> Result<Option<String>, String> {
    output.map_or(Ok(None), |output| output.plan(record))
}

fn progress(seeds: u64) -> Result<ProgressBar, String> {
    let bar = ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds  {per_sec}  {msg}  {eta} left")
        .map_err(|error| error.to_string())?;
    bar.set_style(style);
    bar.set_message("0 failures");
    Ok(bar)
}
