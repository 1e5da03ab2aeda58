//! The shell of the search: worker processes, a budget, a progress bar.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::{RunRecord, Verdict};

use super::{
    case::{Case, Mishap, mishaps},
    machine::{Shrink, Step},
    pool::{Pool, signature},
    story,
};
use crate::{
    confirm::Runner,
    plan::Plan,
    worker::{Request, What},
};

/// What came of shrinking.
pub struct Shrunk {
    pub before: Plan,
    pub after: Plan,
    /// The run of `after`, repeated in a fresh process.
    pub record: RunRecord,
    pub signature: String,
    /// Candidates run.
    pub runs: u64,
    pub took: Duration,
    /// Whether the search came to its end within the budget: then no single fault can be left out.
    pub is_finished: bool,
    /// Other failures met on the way, by signature: the smallest plan of each.
    pub others: BTreeMap<String, Plan>,
}

/// Why there is nothing to shrink.
pub enum Unfit {
    /// The plan does not fail.
    Clean(Box<RunRecord>),
    /// It fails differently each time.
    Shaken(Box<RunRecord>),
}

/// Runs `plan` and, if it fails, makes it smaller for at most `budget`.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn shrink(plan: &Plan, jobs: u32, budget: Duration, run_limit: Duration) -> Result<Result<Shrunk, Unfit>, String> {
    let began = Instant::now();
    let request = Request { what: What::Plan(plan.to_toml()), segment: None };
    let record = Runner::new(1, run_limit).confirmed(&request)?;
    if record.verdict == Verdict::Environment {
        return Err(record.message.unwrap_or_else(|| "a worker could not run".to_string()));
    }
    if record.verdict == Verdict::Nondeterminism {
        return Ok(Err(Unfit::Shaken(Box::new(record))));
    }
    let Some(wanted) = signature(&record).map(str::to_string) else {
        return Ok(Err(Unfit::Clean(Box::new(record))));
    };
    let case = Case::of(plan.clone()).ok_or("the plan makes no sense")?;
    let mut search = Search {
        shrink: Shrink::new(case, fired_before_the_end(plan, &record)),
        wanted,
        under_way: BTreeMap::new(),
        given: 0,
        runs: 0,
        others: BTreeMap::new(),
    };
    // A candidate takes about as long as the plan itself; one that takes much longer fails in another way.
    let usual = Duration::from_micros(record.timings.wall_us).saturating_mul(20).max(Duration::from_secs(5));
    let limit = if record.verdict == Verdict::Hang { run_limit } else { usual.min(run_limit) };
    let tellable = !matches!(record.verdict, Verdict::Hang | Verdict::Crash | Verdict::Memory);
    let mut pool = Pool::start(jobs, limit);
    let bar = bar(budget)?;
    let is_finished = search.go(&mut pool, began + budget, tellable, &bar)?;
    drop(pool);
    bar.finish_and_clear();
    let after = search.shrink.current().plan.clone();
    let request = Request { what: What::Plan(after.to_toml()), segment: None };
    let last = Runner::new(1, run_limit).confirmed(&request)?;
    if signature(&last) != Some(&search.wanted) {
        return Ok(Err(Unfit::Shaken(Box::new(last))));
    }
    Ok(Ok(Shrunk {
        before: plan.clone(),
        after,
        record: last,
        signature: search.wanted,
        runs: search.runs,
        took: began.elapsed(),
        is_finished,
        others: search.others,
    }))
}

/// Mishaps that took effect, by place. What did not, or only after the failure was seen, is hardly its cause.
fn fired_before_the_end(plan: &Plan, record: &RunRecord) -> Vec<usize> {
    let end = record.broken_at.unwrap_or(u64::MAX);
    let fired = |index: usize| record.coverage.fired.iter().any(|f| f.index == Some(index) && f.event <= end);
    let user = record.coverage.fired.iter().any(|f| f.index.is_none() && f.event <= end);
    let all = mishaps(plan).into_iter().enumerate();
    all.filter(|(_, mishap)| match mishap {
        Mishap::Fault(index) => fired(*index),
        Mishap::User(_) => user,
    })
    .map(|(place, _)| place)
    .collect()
}

fn bar(budget: Duration) -> Result<ProgressBar, String> {
    let bar = ProgressBar::with_draw_target(Some(budget.as_secs()), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:30} {elapsed} of at most {len} s  {msg}").map_err(|e| e.to_string())?;
    bar.set_style(style);
    Ok(bar)
}

struct Search {
    shrink: Shrink,
    wanted: String,
    under_way: BTreeMap<usize, Case>,
    given: usize,
    runs: u64,
    others: BTreeMap<String, Plan>,
}

impl Search {
    /// Whether it came to its end before `deadline`.
    fn go(&mut self, pool: &mut Pool, deadline: Instant, tellable: bool, bar: &ProgressBar) -> Result<bool, String> {
        let began = Instant::now();
        loop {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            while !pool.is_full() {
                match self.shrink.step() {
                    Step::Try(case) => {
                        pool.give(self.given, case.text())?;
                        self.under_way.insert(self.given, case);
                        self.given += 1;
                    }
                    // A run that takes its process with it cannot be told here; its times stay times.
                    Step::Story(case) => {
                        let told = if tellable { story::tell(&case.plan)?.1 } else { Vec::new() };
                        self.shrink.told(&told);
                    }
                    Step::Wait => break,
                    Step::Done => return Ok(true),
                }
            }
            if let Some((number, record)) = pool.take(Duration::from_millis(200))?
                && let Some(case) = self.under_way.remove(&number)
            {
                self.runs += 1;
                self.hear(&case, &record);
            }
            bar.set_position(began.elapsed().as_secs());
            bar.set_message(format!(
                "{} runs, {} faults left, shrinking the {}",
                self.runs,
                self.shrink.mishaps(),
                self.shrink.stage().name()
            ));
        }
    }

    fn hear(&mut self, case: &Case, record: &RunRecord) {
        let found = signature(record);
        self.shrink.tell(case, found == Some(self.wanted.as_str()));
        if let Some(found) = found.filter(|found| *found != self.wanted) {
            let smaller = self.others.get(found).is_none_or(|known| mishaps(&case.plan).len() < mishaps(known).len());
            if smaller {
                self.others.insert(found.to_string(), case.plan.clone());
            }
        }
    }
}
