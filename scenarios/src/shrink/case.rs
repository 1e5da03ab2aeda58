//! A plan as something that can be made smaller: its faults, what of its configuration is unusual, its numbers.

use std::cmp::Ordering;

use runtime::journal::EventKind;
use serde::Deserialize;

use super::{baseline::baseline, ddmin::List, numbers::Number};
use crate::plan::{
    Plan, Trigger,
    model::{USER_ERROR_AT, USER_PANIC_AT},
};

/// Workload parameters that are faults.
const USER_FAULTS: [&str; 2] = [USER_PANIC_AT, USER_ERROR_AT];

/// Sections of a plan that are configuration.
const CONFIGURATION: [&str; 4] = ["settings", "network", "disk", "store"];

/// A sound plan, ordered by its text.
#[derive(Clone, Debug)]
pub struct Case {
    pub plan: Plan,
    text: String,
}

impl Case {
    /// None if the plan makes no sense.
    pub fn of(plan: Plan) -> Option<Case> {
        plan.check().ok()?;
        let text = plan.to_toml();
        Some(Case { plan, text })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    fn changed(&self, change: impl FnOnce(&mut Plan)) -> Option<Case> {
        let mut plan = self.plan.clone();
        change(&mut plan);
        Case::of(plan)
    }
}

impl PartialEq for Case {
    fn eq(&self, other: &Case) -> bool {
        self.text == other.text
    }
}

impl Eq for Case {}

impl PartialOrd for Case {
    fn partial_cmp(&self, other: &Case) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Case {
    fn cmp(&self, other: &Case) -> Ordering {
        self.text.cmp(&other.text)
    }
}

/// What may go wrong in a run by the plan's will: its faults, and the planned failures of user code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// By its place in the plan's list.
    Fault(usize),
    /// A parameter of the workload.
    User(&'static str),
}

pub fn mishaps(plan: &Plan) -> Vec<Mishap> {
    let user = USER_FAULTS.iter().filter(|name| plan.workload.parameters.contains_key(**name));
    (0..plan.faults.len()).map(Mishap::Fault).chain(user.map(|name| Mishap::User(name))).collect()
}

/// The plan with these of its mishaps only, by their places in [`mishaps`].
pub fn with_mishaps(plan: &Plan, items: &[usize]) -> Plan {
    let mut smaller = plan.clone();
    smaller.faults.clear();
    for name in USER_FAULTS {
        smaller.workload.parameters.remove(name);
    }
    let all = mishaps(plan);
    for mishap in items.iter().filter_map(|item| all.get(*item)) {
        match mishap {
            Mishap::Fault(index) => smaller.faults.push(plan.faults[*index].clone()),
            Mishap::User(name) => {
                let value = plan.workload.parameters[*name];
                smaller.workload.parameters.insert((*name).to_string(), value);
            }
        }
    }
    smaller
}

/// The list of mishaps.
pub struct Mishaps;

impl List<Case> for Mishaps {
    fn len(&self, of: &Case) -> usize {
        mishaps(&of.plan).len()
    }

    fn keep(&self, of: &Case, items: &[usize]) -> Option<Case> {
        Case::of(with_mishaps(&of.plan, items))
    }
}

/// A field of the configuration, as a path in the plan's text.
type Path = Vec<String>;

/// What of the configuration is not as in [`baseline`]: features that are on, numbers that are unusual.
pub struct Deviations;

fn table(plan: &Plan) -> toml::Table {
    toml::Table::try_from(plan).unwrap_or_default()
}

fn parameters(table: &toml::Table) -> Option<&toml::Table> {
    table.get("workload")?.as_table()?.get("parameters")?.as_table()
}

fn deviations(plan: &Plan) -> Vec<Path> {
    let (own, usual) = (table(plan), table(&baseline()));
    let mut found = Vec::new();
    for section in CONFIGURATION {
        let (Some(own), Some(usual)) = (own.get(section), usual.get(section)) else { continue };
        let fields = own.as_table().into_iter().flat_map(|own| own.keys());
        let absent = usual.as_table().into_iter().flat_map(|usual| usual.keys()).filter(|key| own.get(key).is_none());
        for field in fields.chain(absent) {
            if own.get(field) != usual.get(field) {
                found.push(vec![section.to_string(), field.clone()]);
            }
        }
    }
    // All switches of a workload but the faults are features; without them it is the plain job.
    for name in parameters(&own).into_iter().flat_map(toml::Table::keys) {
        if !USER_FAULTS.contains(&name.as_str()) {
            found.push(vec!["workload".to_string(), "parameters".to_string(), name.clone()]);
        }
    }
    found
}

fn reset(own: &mut toml::Table, usual: &toml::Table, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        match usual.get(first) {
            Some(value) => own.insert(first.clone(), value.clone()),
            None => own.remove(first),
        };
        return;
    }
    let empty = toml::Table::new();
    let usual = usual.get(first).and_then(toml::Value::as_table).unwrap_or(&empty);
    if let Some(inner) = own.get_mut(first).and_then(toml::Value::as_table_mut) {
        reset(inner, usual, rest);
    }
}

impl List<Case> for Deviations {
    fn len(&self, of: &Case) -> usize {
        deviations(&of.plan).len()
    }

    fn keep(&self, of: &Case, items: &[usize]) -> Option<Case> {
        let (mut own, usual) = (table(&of.plan), table(&baseline()));
        for (place, path) in deviations(&of.plan).iter().enumerate() {
            if !items.contains(&place) {
                reset(&mut own, &usual, path);
            }
        }
        Case::of(Plan::deserialize(own).ok()?)
    }
}

/// How many fields are unusual.
pub fn deviation_count(plan: &Plan) -> usize {
    deviations(plan).len()
}

fn number(
    least: u64,
    get: impl Fn(&Plan) -> Option<u64> + 'static,
    set: impl Fn(&mut Plan, u64) + 'static,
) -> Number<Case> {
    Number {
        least,
        get: Box::new(move |case: &Case| get(&case.plan)),
        set: Box::new(move |case: &Case, value| case.changed(|plan| set(plan, value))),
    }
}

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The record at which user code fails.
fn user_fault(name: &'static str) -> Number<Case> {
    let get = move |plan: &Plan| plan.workload.parameters.get(name).copied();
    number(1, get, move |plan, n| {
        plan.workload.parameters.insert(name.to_string(), n);
    })
}

/// The sizes of the workload and of the cluster, those first that make a run simpler to read.
pub fn sizes() -> Vec<Number<Case>> {
    vec![
        number(1, |p| Some(p.workload.parallelism.into()), |p, n| p.workload.parallelism = small(n)),
        number(1, |p| Some(p.cluster.task_managers.into()), |p, n| p.cluster.task_managers = small(n)),
        number(1, |p| Some(p.cluster.slots.into()), |p, n| p.cluster.slots = small(n)),
        number(1, |p| Some(p.workload.splits.into()), |p, n| p.workload.splits = small(n)),
        user_fault(USER_PANIC_AT),
        user_fault(USER_ERROR_AT),
        number(1, |p| Some(p.workload.keys), |p, n| p.workload.keys = n),
        number(10, |p| Some(p.workload.records), |p, n| p.workload.records = n),
        // The time that the job has after the healing stays: less of it would make a stall of any slow job.
        number(
            1_000,
            |p| Some(p.healed_by_ms),
            |p, n| {
                p.time_limit_ms = p.time_limit_ms - p.healed_by_ms + n;
                p.healed_by_ms = n;
            },
        ),
    ]
}

/// The event that a fault waits for, if it waits for one.
fn awaited(plan: &Plan, index: usize) -> Option<(EventKind, Option<String>, u32)> {
    match &plan.faults.get(index)?.trigger {
        Trigger::On { event, entity, ordinal, .. } => Some((*event, entity.clone(), *ordinal)),
        Trigger::AtMs(_) => None,
    }
}

/// How long each fault lasts, how late it comes, at which of many equal events. Faults that wait for the same event are first moved
/// together: apart they would often mean nothing.
pub fn fault_numbers(plan: &Plan) -> Vec<Number<Case>> {
    let mut numbers = Vec::new();
    for index in 0..plan.faults.len() {
        let own = awaited(plan, index);
        let shares = |other: usize| own.is_some() && awaited(plan, other) == own;
        if (0..index).any(shares) || !(index + 1..plan.faults.len()).any(shares) {
            continue;
        }
        let get = move |plan: &Plan| awaited(plan, index).map(|(_, _, ordinal)| u64::from(ordinal));
        numbers.push(number(1, get, move |plan, n| {
            let shared = awaited(plan, index);
            for other in 0..plan.faults.len() {
                if awaited(plan, other) == shared
                    && let Trigger::On { ordinal, .. } = &mut plan.faults[other].trigger
                {
                    *ordinal = small(n);
                }
            }
        }));
    }
    for index in 0..plan.faults.len() {
        let ordinal = move |plan: &Plan| awaited(plan, index).map(|(_, _, ordinal)| u64::from(ordinal));
        let delay = move |plan: &Plan| match plan.faults.get(index)?.trigger {
            Trigger::On { delay_ms, .. } => Some(delay_ms),
            Trigger::AtMs(_) => None,
        };
        numbers.push(number(1, ordinal, move |plan, n| {
            if let Trigger::On { ordinal, .. } = &mut plan.faults[index].trigger {
                *ordinal = small(n);
            }
        }));
        numbers.push(number(0, delay, move |plan, n| {
            if let Trigger::On { delay_ms, .. } = &mut plan.faults[index].trigger {
                *delay_ms = n;
            }
        }));
        let duration = move |plan: &Plan| plan.faults.get(index).map(|fault| fault.duration_ms);
        numbers.push(number(0, duration, move |plan, n| plan.faults[index].duration_ms = n));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{generate, profile};

    #[test]
    fn every_mishap_can_be_kept_and_dropped() {
        for seed in 0..40 {
            let plan = generate(&profile::DEFAULT, seed);
            let all: Vec<usize> = (0..mishaps(&plan).len()).collect();
            assert_eq!(with_mishaps(&plan, &all), plan);
            let none = with_mishaps(&plan, &[]);
            assert!(mishaps(&none).is_empty());
            assert_eq!((&none.settings, none.workload.records), (&plan.settings, plan.workload.records));
        }
    }

    /// A lost object and the death that makes somebody look for it belong together.
    #[test]
    fn faults_that_wait_for_the_same_event_are_moved_together() {
        let mut plan = generate(&profile::DEFAULT, 3);
        plan.faults.truncate(1);
        plan.faults[0].target = "jobmanager".into();
        plan.faults[0].fault = crate::plan::FaultKind::Freeze {};
        plan.faults[0].trigger =
            Trigger::On { event: EventKind::CheckpointCompleted, entity: None, ordinal: 8, delay_ms: 0 };
        plan.faults.push(plan.faults[0].clone());
        let numbers = fault_numbers(&plan);
        let case = Case::of(plan).expect("sound");
        let moved = (numbers[0].set)(&case, 2).expect("sound").plan;
        assert_eq!(
            (awaited(&moved, 0), awaited(&moved, 1)),
            (Some((EventKind::CheckpointCompleted, None, 2)), awaited(&moved, 0))
        );
        let alone = (numbers[1].set)(&case, 2).expect("sound").plan;
        assert_ne!(awaited(&alone, 0), awaited(&alone, 1));
    }

    #[test]
    fn without_its_deviations_a_plan_is_configured_as_the_baseline() {
        for seed in 0..40 {
            let case = Case::of(generate(&profile::DEFAULT, seed)).expect("sound");
            let plain = Deviations.keep(&case, &[]).expect("sound").plan;
            let usual = baseline();
            assert_eq!((&plain.settings, &plain.network), (&usual.settings, &usual.network));
            assert_eq!((&plain.disk, &plain.store), (&usual.disk, &usual.store));
            assert_eq!(deviation_count(&plain), 0);
            assert_eq!(plain.faults, case.plan.faults);
            assert_eq!(mishaps(&plain), mishaps(&case.plan));
            let all: Vec<usize> = (0..Deviations.len(&case)).collect();
            assert_eq!(Deviations.keep(&case, &all).expect("sound"), case);
        }
    }
}
