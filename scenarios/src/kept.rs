//! A plan that once failed, kept for ever: the plan, why it is kept, what must happen in it, and other schedules under which it is
//! run too, so that it does not hang on one lucky interleaving.
//!
//! An entry is a plan with one more section, so every command that takes a plan takes an entry:
//!
//! ```toml
//! [kept]
//! format = 1
//! signature = "liveness/stalled/job"
//! why = "tm-1 dies; …"
//! needed = ["RestorePartLost", "CheckpointCondemned"]
//! schedule_seeds = [11, 12, …]
//! ```
//!
//! It holds if every schedule is clean and all needed events happen under one of them. If they happen under none, it is *stale*: it
//! says nothing any more, and that is an error too.

use std::collections::BTreeMap;

use reports::RunRecord;
use runtime::journal::EventKind;
use serde::{Deserialize, Serialize};

use crate::plan::{
    Plan, PlanError,
    draw::Draw,
    faults::event_kind,
    text::{KEPT, apart, toml_error},
};

/// The version of the format written by this build, and the only one it reads.
pub const KEPT_FORMAT: u32 = 1;
/// An entry names at least so many schedules besides its plan's own.
pub const FEWEST_SCHEDULES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Needed(#[serde(with = "event_kind")] pub EventKind);

/// The section of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub format: u32,
    /// How it failed; None if that was not written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// In one line, for people.
    pub why: String,
    /// Kinds of events without which the plan says nothing.
    pub needed: Vec<Needed>,
    /// Other schedules of the same plan.
    pub schedule_seeds: Vec<u64>,
}

/// A kept plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub plan: Plan,
    pub kept: Kept,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    kept: Kept,
}

impl Entry {
    /// # Errors
    /// [`PlanError`] if the text is no entry, or one that makes no sense.
    pub fn from_toml(text: &str) -> Result<Entry, PlanError> {
        let plan = Plan::from_toml(text)?;
        let (_, section) = apart(text, KEPT);
        if section.trim().is_empty() {
            let message = "there is no section [kept]: this is a plan, not a kept one".to_string();
            return Err(PlanError { line: None, field: KEPT.to_string(), message });
        }
        let Section { kept } = toml::from_str(&section).map_err(|error| toml_error(&section, &error))?;
        let entry = Entry { plan, kept };
        entry.check().map_err(|(field, message)| {
            let line = section.lines().position(|line| line.split('=').next().is_some_and(|name| name.trim() == field));
            PlanError { line: line.map(|line| line + 1), field: format!("{KEPT}.{field}"), message }
        })?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let kept = &self.kept;
        if kept.format != KEPT_FORMAT {
            return Err(("format", format!("this build reads format {KEPT_FORMAT}, not {}", kept.format)));
        }
        if kept.signature.as_ref().is_some_and(|signature| signature.trim().is_empty()) {
            return Err(("signature", "it is empty".to_string()));
        }
        if kept.needed.is_empty() {
            return Err(("needed", "without needed events nobody would notice when the plan goes stale".to_string()));
        }
        let mut seeds = kept.schedule_seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.len() != kept.schedule_seeds.len() {
            return Err(("schedule_seeds", "one stands there twice".to_string()));
        }
        if seeds.len() < FEWEST_SCHEDULES {
            return Err(("schedule_seeds", format!("{} are too few; {FEWEST_SCHEDULES} are needed", seeds.len())));
        }
        if let Some(large) = seeds.iter().find(|seed| i64::try_from(**seed).is_err()) {
            return Err(("schedule_seeds", format!("{large} is not within 0..={}", i64::MAX)));
        }
        Ok(())
    }

    pub fn to_toml(&self) -> String {
        let Kept { format, signature, why, needed, schedule_seeds } = &self.kept;
        let string = |text: &str| toml::Value::String(text.to_string()).to_string();
        let mut text = self.plan.to_toml();
        text.push_str(&format!("\n[{KEPT}]\nformat = {format}\n"));
        if let Some(signature) = signature {
            text.push_str(&format!("signature = {}\n", string(signature)));
        }
        let needed: Vec<String> = needed.iter().map(|kind| string(kind.0.name())).collect();
        let seeds: Vec<String> = schedule_seeds.iter().map(u64::to_string).collect();
        text.push_str(&format!(
            "why = {}\nneeded = [{}]\nschedule_seeds = [{}]\n",
            string(why),
            needed.join(", "),
            seeds.join(", ")
        ));
        text
    }

    /// The plan under each of its schedules; its own first.
    pub fn plans(&self) -> Vec<Plan> {
        let other = self.kept.schedule_seeds.iter().map(|seed| under(&self.plan, *seed));
        std::iter::once(self.plan.clone()).chain(other).collect()
    }

    /// Whether the entry holds, by the records of [`Entry::plans`] in their order.
    ///
    /// # Errors
    /// A line that says under which schedule it fails, or that it is stale.
    pub fn judge(&self, records: &[RunRecord]) -> Result<(), String> {
        let plans = self.plans();
        assert_eq!(plans.len(), records.len(), "a record for each schedule");
        for (plan, record) in plans.iter().zip(records) {
            if record.verdict.is_failure() {
                return Err(format!(
                    "it fails under schedule seed {}: {} ({})",
                    plan.schedule(),
                    record.signature.as_deref().unwrap_or(record.verdict.name()),
                    record.message.as_deref().unwrap_or("no message"),
                ));
            }
        }
        self.fresh(records)
    }

    /// Whether all that makes it interesting happens under one of its schedules.
    ///
    /// # Errors
    /// A line that says that it is stale, and what is missing.
    pub fn fresh(&self, records: &[RunRecord]) -> Result<(), String> {
        let missing = |record: &RunRecord| -> Vec<&'static str> {
            let kinds = self.kept.needed.iter().map(|kind| kind.0.name());
            kinds.filter(|name| record.coverage.events.get(*name).is_none_or(|count| *count == 0)).collect()
        };
        match records.iter().map(missing).min_by_key(Vec::len) {
            Some(missing) if missing.is_empty() => Ok(()),
            Some(missing) => Err(format!(
                "it is stale: under none of its {} schedules do all needed events happen; the closest lacks {}",
                records.len(),
                missing.join(", ")
            )),
            None => Err("it was not run".to_string()),
        }
    }

    /// The name of its file, without the directory.
    pub fn file_name(&self) -> String {
        let name = safe_name(self.kept.signature.as_deref().unwrap_or("kept"));
        format!("{name}.toml")
    }
}

/// The same plan and faults under another schedule.
pub fn under(plan: &Plan, schedule_seed: u64) -> Plan {
    Plan { schedule_seed: Some(schedule_seed), ..plan.clone() }
}

/// `count` other schedules for a plan; always the same ones.
pub fn schedules(plan: &Plan, count: usize) -> Vec<u64> {
    let mut draw = Draw::new(plan.seed, "schedules");
    let mut seeds = Vec::with_capacity(count);
    while seeds.len() < count {
        // Short enough to be read; never the plan's own.
        let seed = draw.within(1, 999_999);
        if seed != plan.schedule() && !seeds.contains(&seed) {
            seeds.push(seed);
        }
    }
    seeds
}

/// A signature as a name of a file, and of a test with `_` for `-`: lower-case letters, digits and single dashes.
pub fn safe_name(signature: &str) -> String {
    let mut name = String::new();
    for c in signature.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
    }
    name.truncate(80);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "failure".to_string() } else { name.to_string() }
}

/// What must happen for a failure to be possible, as far as its runs show: kinds of events that every failing run has, that a run
/// of the same plan without any fault lacks, and those that the faults wait for. `quiet` is that run; `healthy` are runs without the
/// defect, if there are any: what never happens in those cannot be asked for.
pub fn needed_events(
    plan: &Plan,
    failing: &[&RunRecord],
    quiet: Option<&RunRecord>,
    healthy: &[&RunRecord],
) -> Vec<Needed> {
    let count = |record: &RunRecord, kind: EventKind| record.coverage.events.get(kind.name()).copied().unwrap_or(0);
    let in_all = |kind: EventKind| failing.iter().all(|record| count(record, kind) > 0);
    // A planted bug's own mark goes with the bug.
    let askable = |kind: EventKind| {
        kind != EventKind::PlantedBugRan && (healthy.is_empty() || healthy.iter().any(|record| count(record, kind) > 0))
    };
    let waited_for = plan.faults.iter().filter_map(|fault| match fault.trigger {
        crate::plan::Trigger::On { event, .. } => Some(event),
        crate::plan::Trigger::AtMs(_) => None,
    });
    let mut needed: Vec<EventKind> = waited_for.filter(|kind| in_all(*kind) && askable(*kind)).collect();
    let mut rare: BTreeMap<(u64, EventKind), ()> = BTreeMap::new();
    for kind in EventKind::ALL.iter().copied().filter(|kind| in_all(*kind) && askable(*kind)) {
        if quiet.is_none_or(|quiet| count(quiet, kind) == 0) {
            let most = failing.iter().map(|record| count(record, kind)).max().unwrap_or(0);
            rare.insert((most, kind), ());
        }
    }
    // The rarest say the most.
    needed.extend(rare.into_keys().map(|(_, kind)| kind).take(4));
    if needed.is_empty() {
        // It fails all by itself: then it must at least get as far as it did.
        let far = [EventKind::CheckpointCompleted, EventKind::CheckpointTriggered, EventKind::TaskDeployed];
        needed.extend(far.into_iter().find(|kind| in_all(*kind) && askable(*kind)));
    }
    if needed.is_empty() {
        needed.push(EventKind::ProcessStarted);
    }
    needed.sort_unstable();
    needed.dedup();
    needed.into_iter().map(Needed).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reports::Verdict;

    use super::*;
    use crate::plan::{generate, profile};

    fn entry(seed: u64) -> Entry {
        let plan = generate(&profile::DEFAULT, seed);
        let kept = Kept {
            format: KEPT_FORMAT,
            signature: Some("exactly-once/lost/count[#] key #".into()),
            why: "tm-1 dies \"twice\"".into(),
            needed: vec![Needed(EventKind::RestoreChosen), Needed(EventKind::CheckpointCondemned)],
            schedule_seeds: schedules(&plan, 16),
        };
        Entry { plan, kept }
    }

    fn run(verdict: Verdict, kinds: &[EventKind]) -> RunRecord {
        let mut record = RunRecord::empty(1, "default", verdict);
        record.coverage.events = kinds.iter().map(|kind| (kind.name().to_string(), 1)).collect();
        record
    }

    fn refused(from: &str, to: &str) -> String {
        let text = entry(3).to_toml();
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        let message = Entry::from_toml(&text.replacen(from, to, 1)).expect_err("must be refused").to_string();
        assert_eq!(message.lines().count(), 1, "{message:?}");
        let line = text.lines().position(|line| line.contains(from.trim())).expect("there") + 1;
        assert!(message.starts_with(&format!("line {line}: ")), "not line {line}: {message}");
        message
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_entry_survives_the_way_through_toml_and_is_a_plan_too(seed in 0..1_000u64) {
            let entry = entry(seed);
            let text = entry.to_toml();
            prop_assert_eq!(Plan::from_toml(&text), Ok(entry.plan.clone()));
            prop_assert_eq!(Entry::from_toml(&text), Ok(entry));
        }

        #[test]
        fn any_signature_makes_a_file_name(signature in ".{0,120}") {
            let name = safe_name(&signature);
            prop_assert!(!name.is_empty() && name.len() <= 80);
            prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_field() {
        assert!(refused("format = 1", "format = 2").contains("kept.format: this build reads format 1, not 2"));
        assert!(refused("needed = [\"RestoreChosen\"", "needed = [\"RestoreChose\"").contains("did you mean"));
        assert!(refused("why = ", "because = ").contains("because"));
        assert!(refused("schedule_seeds = [", "schedule_seeds = [5, 5, ").contains("twice"));
        assert!(refused("slots = ", "slots = \"two\" # ").contains("cluster.slots"));
        let plan = entry(3).plan.to_toml();
        assert!(Entry::from_toml(&plan).expect_err("a plan").to_string().contains("there is no section [kept]"));
        let mut few = entry(3);
        few.kept.schedule_seeds.truncate(15);
        assert!(Entry::from_toml(&few.to_toml()).expect_err("few").to_string().contains("15 are too few"));
        few = entry(3);
        few.kept.needed.clear();
        assert!(Entry::from_toml(&few.to_toml()).expect_err("none").to_string().contains("stale"));
    }

    #[test]
    fn an_entry_holds_if_all_is_clean_and_one_schedule_has_what_is_needed() {
        let entry = entry(3);
        let both = [EventKind::RestoreChosen, EventKind::CheckpointCondemned];
        let mut records = vec![run(Verdict::Clean, &[]); 17];
        let stale = entry.judge(&records).expect_err("nothing happens");
        assert!(stale.contains("stale") && stale.contains("RestoreChosen, CheckpointCondemned"), "{stale}");
        // Each under another schedule is not enough.
        records[0] = run(Verdict::Clean, &both[..1]);
        records[1] = run(Verdict::Clean, &both[1..]);
        assert!(entry.judge(&records).expect_err("not together").contains("stale"));
        records[16] = run(Verdict::Excused, &both);
        assert_eq!(entry.judge(&records), Ok(()));
        records[9] = run(Verdict::Violation, &both);
        let failed = entry.judge(&records).expect_err("it fails");
        assert!(failed.contains(&format!("schedule seed {}", entry.kept.schedule_seeds[8])), "{failed}");
    }

    #[test]
    fn needed_are_the_rare_events_that_all_failing_runs_share() {
        use EventKind::{CheckpointCompleted, CheckpointCondemned, RestoreChosen, RestorePartLost, TaskDeployed};
        let mut plan = generate(&profile::DEFAULT, 3);
        plan.faults.clear();
        let quiet = run(Verdict::Clean, &[TaskDeployed, CheckpointCompleted]);
        let one = run(Verdict::Violation, &[TaskDeployed, CheckpointCompleted, RestoreChosen, RestorePartLost]);
        let two = run(Verdict::Violation, &[TaskDeployed, CheckpointCompleted, RestoreChosen, CheckpointCondemned]);
        let names = |needed: Vec<Needed>| needed.into_iter().map(|kind| kind.0).collect::<Vec<_>>();
        assert_eq!(names(needed_events(&plan, &[&one, &two], Some(&quiet), &[])), [RestoreChosen]);
        // What never happens without the defect cannot be asked for.
        assert_eq!(names(needed_events(&plan, &[&one], Some(&quiet), &[&two])), [RestoreChosen]);
        assert_eq!(names(needed_events(&plan, &[&quiet], Some(&quiet), &[])), [CheckpointCompleted]);
    }
}
