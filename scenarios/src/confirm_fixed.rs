//! Whether a failure is gone: first the runs that showed it, then as many fresh seeds as it takes to be sure.

use std::{
    collections::BTreeSet,
    io::Write,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::{
    RunRecord, Verdict,
    findability::{clean_runs_needed, confidence, wilson},
};

use crate::{
    confirm::command,
    exit::Exit,
    plan::Plan,
    shrink::pool::signature,
    sweep::Engine,
    trouble::Trouble,
    worker::{Request, What},
};

/// How sure is sure.
const SURE: f64 = 0.99;

pub struct Options {
    pub signature: String,
    pub jobs: u32,
    pub budget: Option<Duration>,
    pub run_limit: Duration,
    /// The job and its parameters of fresh seeds, where they are not the profile's.
    pub job: Option<String>,
    pub parameters: Vec<(String, u64)>,
}

/// What the records say about a signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    pub runs: u64,
    pub seen: u64,
    /// Lowest and highest rate that are no surprise.
    pub interval: (f64, f64),
    /// Clean runs that make it sure, at the lowest rate.
    pub needed: u64,
    pub profile: String,
    /// Of the runs that showed it: the plans as they were, each once.
    pub plans: Vec<String>,
    pub first_fresh_seed: u64,
}

/// # Errors
/// A line that says why the records are no ground to judge from.
pub fn evidence(records: &[RunRecord], wanted: &str) -> Result<Evidence, String> {
    let showed: Vec<&RunRecord> = records.iter().filter(|record| signature(record) == Some(wanted)).collect();
    let Some(profile) = showed.first().map(|record| record.profile.clone()) else {
        let known: BTreeSet<&str> = records.iter().filter_map(signature).collect();
        let known: Vec<&str> = known.into_iter().collect();
        let there =
            if known.is_empty() { "no run failed".to_string() } else { format!("there are {}", known.join(", ")) };
        return Err(format!("{wanted:?} was not seen in these {} runs; {there}", records.len()));
    };
    if let Some(other) = showed.iter().find(|record| record.profile != profile) {
        return Err(format!("it was seen under the profiles {profile} and {}; give the records of one", other.profile));
    }
    // Runs of other profiles say nothing about the rate under this one. A seed counts once, however often it was run.
    let seeds = |only: &dyn Fn(&RunRecord) -> bool| -> u64 {
        let seeds: BTreeSet<u64> =
            records.iter().filter(|r| r.profile == profile && only(r)).map(|record| record.seed).collect();
        seeds.len() as u64
    };
    let (runs, seen) = (seeds(&|_| true), seeds(&|record| signature(record) == Some(wanted)));
    let interval = wilson(seen, runs);
    let needed = clean_runs_needed(interval.0, SURE).ok_or("a rate of zero can never be confirmed")?;
    let plans: BTreeSet<String> = showed.iter().filter_map(|record| record.plan.clone()).collect();
    let last = records.iter().map(|record| record.seed).max().unwrap_or(0);
    Ok(Evidence {
        runs,
        seen,
        interval,
        needed,
        profile,
        plans: plans.into_iter().collect(),
        first_fresh_seed: last + 1,
    })
}

/// Runs what the evidence asks for. [`Exit::Clean`] if the failure is gone for sure, [`Exit::Violation`] if anything fails,
/// [`Exit::Blind`] if the budget ended first.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn confirm_fixed(evidence: &Evidence, options: &Options, out: &mut dyn Write) -> Result<Exit, String> {
    let mut say =
        |text: &str| writeln!(out, "{text}").map_err(|error| format!("cannot write to standard output: {error}"));
    let Evidence { runs, seen, interval, needed, profile, plans, first_fresh_seed } = evidence;
    say(&format!(
        "seen   {seen} of {runs} runs of profile {profile}: {:.3} % (95 %: {:.3} to {:.3} %)",
        100.0 * *seen as f64 / (*runs).max(1) as f64,
        100.0 * interval.0,
        100.0 * interval.1
    ))?;
    say(&format!(
        "plan   {} that showed it, then seeds {first_fresh_seed}..{}: {needed} clean runs make it 99 % sure",
        match plans.len() {
            1 => "the run".to_string(),
            many => format!("the {many} runs"),
        },
        first_fresh_seed + needed
    ))?;
    let job = options.job.clone().or_else(|| job_of(plans));
    let old = plans.iter().map(|plan| What::Plan(plan.clone()));
    let fresh = (*first_fresh_seed..first_fresh_seed + needed).map(|seed| What::Seed {
        seed,
        profile: profile.clone(),
        job: job.clone(),
        parameters: options.parameters.clone(),
    });
    let engine =
        Engine { jobs: options.jobs, batch: 8, limits: options.run_limit.into(), budget: options.budget, audit: false };
    let bar = bar(plans.len() as u64 + needed)?;
    let mut again: Option<(String, RunRecord)> = None;
    let mut others: BTreeSet<String> = BTreeSet::new();
    let mut clean_fresh = 0;
    let mut old_done = 0;
    let began = Instant::now();
    let outcome =
        engine.run(&mut old.chain(fresh).map(|what| Request { what, segment: None }), &mut |request, record| {
            if record.verdict == Verdict::Environment {
                let message = record.message.clone().unwrap_or_else(|| "a worker could not run".to_string());
                return Err(Trouble::Environment(message));
            }
            bar.inc(1);
            let is_old = matches!(request.what, What::Plan(_));
            old_done += u64::from(is_old);
            match signature(&record) {
                None => clean_fresh += u64::from(!is_old),
                Some(found) if found == options.signature => {
                    if again.is_none() {
                        again = Some((command(&request.what, profile, None), record));
                        // One is enough; the engine ends at an error, and this one is taken back below.
                        return Err(Trouble::Environment(String::new()));
                    }
                }
                Some(found) => {
                    others.insert(format!("{found} ({})", command(&request.what, profile, None)));
                }
            }
            Ok(())
        });
    bar.finish_and_clear();
    if let Some((command, record)) = again {
        say(&reports::failure_screen(&record, &command))?;
        say(&format!("again  it is not fixed: seen again after {} runs", clean_fresh + old_done))?;
        return Ok(Exit::Violation);
    }
    outcome.map_err(|trouble| trouble.to_string())?;
    for other in &others {
        say(&format!("other  {other}"))?;
    }
    let sure = 100.0 * confidence(interval.0, clean_fresh);
    let done = format!("{clean_fresh} fresh clean runs in {:.1} s", began.elapsed().as_secs_f64());
    if !others.is_empty() {
        say(&format!("fails  {done}, but others fail in another way: nothing is confirmed"))?;
        return Ok(Exit::Violation);
    }
    if clean_fresh < *needed || old_done < plans.len() as u64 {
        say(&format!("open   {done}: {sure:.1} % sure; the budget ended before the proof"))?;
        return Ok(Exit::Blind);
    }
    say(&format!("fixed  {done}, and what showed it is clean: {sure:.1} % sure"))?;
    Ok(Exit::Clean)
}

/// The job of the runs that showed it, if it is not the one that plans are drawn for.
fn job_of(plans: &[String]) -> Option<String> {
    let name = Plan::from_toml(plans.first()?).ok()?.workload.name;
    (name != crate::plan::generate::DEFAULT_WORKLOAD).then_some(name)
}

fn bar(runs: u64) -> Result<ProgressBar, String> {
    let bar = ProgressBar::with_draw_target(Some(runs), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} runs  {per_sec}  {eta} left").map_err(|e| e.to_string())?;
    bar.set_style(style);
    Ok(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seed: u64, profile: &str, signature: Option<&str>) -> RunRecord {
        let verdict = if signature.is_some() { Verdict::Violation } else { Verdict::Clean };
        let mut record = RunRecord::empty(seed, profile, verdict);
        record.signature = signature.map(str::to_string);
        record.plan = signature.map(|_| format!("plan of {seed}"));
        record
    }

    #[test]
    fn the_evidence_is_about_one_signature_under_one_profile() {
        let mut records: Vec<RunRecord> = (0..200).map(|seed| record(seed, "default", None)).collect();
        for seed in [3, 50, 77, 90, 120, 133, 198] {
            records[seed as usize] = record(seed, "default", Some("a/b/c"));
        }
        records[60] = record(60, "default", Some("x/y/z"));
        records.push(record(900, "quiet", None));
        let found = evidence(&records, "a/b/c").expect("seen");
        assert_eq!((found.runs, found.seen, found.plans.len(), found.first_fresh_seed), (200, 7, 7, 901));
        // Wilson's lower bound of 7 in 200 is 1.71 %: 267 clean runs.
        assert!((found.interval.0 - 0.0171).abs() < 0.0001, "{:?}", found.interval);
        assert_eq!(found.needed, clean_runs_needed(found.interval.0, 0.99).expect("a rate"));
        assert!((265..=270).contains(&found.needed), "{}", found.needed);
        let unknown = evidence(&records, "nope").expect_err("not seen");
        assert!(unknown.contains("a/b/c, x/y/z"), "{unknown}");
        records.push(record(901, "quiet", Some("a/b/c")));
        assert!(evidence(&records, "a/b/c").expect_err("two profiles").contains("default and quiet"));
    }
}
