//! Why a plan fails: which faults it takes, from where on nothing could help, where a run that ends well takes another way.
//!
//! All of it is measured by other runs of nearly the same plan: without one fault, under other schedules, with another future from
//! some event on. [`rate`], [`inevitable`], [`involved`] and [`parting`] are what is concluded, this file runs what they need.

pub mod inevitable;
pub mod involved;
pub mod parting;
pub mod rate;

use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::{RunRecord, Verdict};

use self::{
    inevitable::{Inevitable, bisect},
    parting::{Parting, part},
    rate::{Rate, Role},
};
use crate::{
    kept::{FEWEST_SCHEDULES, Needed, needed_events, schedules, under},
    plan::{Plan, Reseed},
    shrink::{
        case::{mishaps, with_mishaps},
        pool::{Pool, signature},
        story::{self, Moment},
        words::mishap_lines,
    },
};

/// Other schedules under which a plan without one fault is run.
const WITHOUT: usize = 10;
/// Other futures of an event that must all fail before it counts as too late.
const FUTURES: u64 = 12;
/// Other futures of the last open event, to say how open it was.
const MEASURED: u64 = 20;
/// Events told about what broke.
const LAST: usize = 6;

/// A fault of the plan in words, how much fails without it, and what that makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub what: String,
    pub without: Rate,
    pub role: Role,
}

/// What was found out. Parts for which the time was too short are missing.
pub struct Explanation {
    /// Over the plan's own schedule and others.
    pub with: Rate,
    pub causes: Vec<Cause>,
    /// And how many futures of the last open event fail.
    pub inevitable: Option<(Inevitable, Rate)>,
    pub parting: Option<Parting>,
    pub last: Vec<String>,
    /// Schedules to keep the plan with, those under which it fails first.
    pub schedule_seeds: Vec<u64>,
    pub needed: Vec<Needed>,
}

/// Explains the failure that `record` is the run of.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn explain(plan: &Plan, record: &RunRecord, pool: &mut Pool, deadline: Instant) -> Result<Explanation, String> {
    let wanted = signature(record).ok_or("the plan does not fail: there is nothing to explain")?.to_string();
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed}  {msg}, {pos} runs").map_err(|e| e.to_string())?);
    let mut asker = Asker { plan, wanted, pool, deadline, bar };
    let result = asker.explain(record);
    asker.bar.finish_and_clear();
    result
}

struct Asker<'a> {
    plan: &'a Plan,
    wanted: String,
    pool: &'a mut Pool,
    deadline: Instant,
    bar: ProgressBar,
}

impl Asker<'_> {
    fn explain(&mut self, record: &RunRecord) -> Result<Explanation, String> {
        let plan = self.plan;
        let seeds = schedules(plan, 2 * FEWEST_SCHEDULES);
        self.bar.set_message("other schedules");
        let own = std::iter::once(plan.clone());
        let records = self.run(own.chain(seeds.iter().map(|seed| under(plan, *seed))).collect())?;
        let failing: Vec<&RunRecord> = records.iter().filter(|record| self.is_same(record)).collect();
        let fails: Vec<bool> = records.iter().map(|record| self.is_same(record)).collect();
        let with = Rate::of(&fails);
        let needed = self.needed(&failing)?;
        let (bad, good): (Vec<_>, Vec<_>) = seeds.iter().zip(&fails[1..]).partition(|(_, failed)| **failed);
        let schedule_seeds = bad.into_iter().chain(good).map(|(seed, _)| *seed).take(FEWEST_SCHEDULES).collect();

        let tellable = !matches!(record.verdict, Verdict::Hang | Verdict::Crash | Verdict::Memory);
        let story = if tellable { story::tell(plan)?.1 } else { Vec::new() };
        let last = involved::last_events(&story, record, LAST);
        let mut neighbours = Vec::new();
        let causes = self.causes(&seeds[..WITHOUT], Rate::of(&fails[..=WITHOUT]), &mut neighbours)?;
        let inevitable = self.inevitable(record, with, &mut neighbours)?;
        let parting = if tellable { nearest(&story, neighbours)? } else { None };
        Ok(Explanation { with, causes, inevitable, parting, last, schedule_seeds, needed })
    }

    fn is_same(&self, record: &RunRecord) -> bool {
        signature(record) == Some(self.wanted.as_str())
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn run(&mut self, plans: Vec<Plan>) -> Result<Vec<RunRecord>, String> {
        let texts: Vec<String> = plans.iter().map(Plan::to_toml).collect();
        let bar = self.bar.clone();
        self.pool.all(&texts, &mut || bar.inc(1))
    }

    fn needed(&mut self, failing: &[&RunRecord]) -> Result<Vec<Needed>, String> {
        let quiet = with_mishaps(self.plan, &[]);
        let mut plans = vec![Plan { sabotage: Vec::new(), ..quiet }];
        if !self.plan.sabotage.is_empty() {
            let healthy = Plan { sabotage: Vec::new(), ..self.plan.clone() };
            plans.extend(schedules(&healthy, 4).into_iter().map(|seed| under(&healthy, seed)));
            plans.push(healthy);
        }
        let records = self.run(plans)?;
        let healthy: Vec<&RunRecord> = records[1..].iter().filter(|record| !record.verdict.is_failure()).collect();
        let quiet = records.first().filter(|record| !record.verdict.is_failure());
        Ok(needed_events(self.plan, failing, quiet, &healthy))
    }

    /// Plans that end well and are next to the failing one go to `neighbours`, with how they differ.
    fn causes(
        &mut self,
        seeds: &[u64],
        with: Rate,
        neighbours: &mut Vec<(String, Plan)>,
    ) -> Result<Vec<Cause>, String> {
        let count = mishaps(self.plan).len();
        let mut causes = Vec::new();
        for (place, what) in mishap_lines(self.plan).into_iter().enumerate() {
            if self.is_late() {
                break;
            }
            self.bar.set_message(format!("without fault {} of {count}", place + 1));
            let others: Vec<usize> = (0..count).filter(|other| *other != place).collect();
            let without = with_mishaps(self.plan, &others);
            let own = std::iter::once(without.clone());
            let records = self.run(own.chain(seeds.iter().map(|seed| under(&without, *seed))).collect())?;
            if records.first().is_some_and(|record| !record.verdict.is_failure()) {
                neighbours.push((format!("the run without fault {}", place + 1), without));
            }
            let without = Rate::of(&records.iter().map(|record| self.is_same(record)).collect::<Vec<_>>());
            causes.push(Cause { what, without, role: Role::of(with, without) });
        }
        Ok(causes)
    }

    fn inevitable(
        &mut self,
        record: &RunRecord,
        with: Rate,
        neighbours: &mut Vec<(String, Plan)>,
    ) -> Result<Option<(Inevitable, Rate)>, String> {
        // Every schedule fails: so does every future of every event.
        if with.is_always() {
            return Ok(Some((Inevitable::FromTheStart, with)));
        }
        let broken = record.broken_at.unwrap_or(record.counters.events.saturating_sub(1));
        let mut late = false;
        let found = bisect(broken, |event| {
            late |= self.is_late();
            // What is found then is thrown away.
            if late { Ok(true) } else { self.all_futures_fail(event) }
        })?;
        if late {
            return Ok(None);
        }
        let Inevitable::After { open } = found else { return Ok(Some((found, with))) };
        self.bar.set_message(format!("futures of event {open}"));
        let plans: Vec<Plan> = (0..MEASURED).map(|future| self.future(open, future)).collect();
        let records = self.run(plans.clone())?;
        let passing = records.iter().position(|record| !record.verdict.is_failure());
        neighbours.extend(
            passing.map(|place| (format!("the same run with another future from e{open} on"), plans[place].clone())),
        );
        let rate = Rate::of(&records.iter().map(|record| self.is_same(record)).collect::<Vec<_>>());
        Ok(Some((found, rate)))
    }

    fn future(&self, event: u64, future: u64) -> Plan {
        let reseed = Reseed { after_event: event, seed: future + 1 };
        Plan { reseed: Some(reseed), ..self.plan.clone() }
    }

    fn all_futures_fail(&mut self, event: u64) -> Result<bool, String> {
        self.bar.set_message(format!("futures of event {event}"));
        let futures: Vec<u64> = (0..FUTURES).collect();
        // A few at a time: one that ends well is enough.
        for some in futures.chunks(4) {
            let plans = some.iter().map(|future| self.future(event, *future)).collect();
            if !self.run(plans)?.iter().all(|record| self.is_same(record)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Of the runs that end well the one that goes along with the failing one the longest.
fn nearest(failing: &[Moment], neighbours: Vec<(String, Plan)>) -> Result<Option<Parting>, String> {
    let mut nearest: Option<Parting> = None;
    for (how, plan) in neighbours {
        let (_, passing) = story::tell(&plan)?;
        if let Some(parting) = part(how, failing, &passing)
            && nearest.as_ref().is_none_or(|known| parting.common > known.common)
        {
            nearest = Some(parting);
        }
    }
    Ok(nearest)
}

/// What was found, in a few lines.
pub fn why_lines(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, cause) in explanation.causes.iter().enumerate() {
        lines.push(format!(
            "fault {} is {}: without it {} schedules fail",
            number + 1,
            cause.role.name(),
            cause.without
        ));
    }
    match explanation.inevitable {
        Some((Inevitable::FromTheStart, rate)) if rate.is_always() => {
            lines.push(format!("inevitable from the start: {rate} schedules fail"));
        }
        Some((Inevitable::FromTheStart, rate)) => {
            lines.push(format!("inevitable in this run from its first event on; {rate} schedules fail"));
        }
        Some((Inevitable::After { open }, rate)) => lines.push(format!(
            "became inevitable between e{open} and e{} (P {:.2} -> 1.00, {MEASURED} futures each side at most)",
            open + 1,
            rate.share()
        )),
        None => {}
    }
    lines
}
