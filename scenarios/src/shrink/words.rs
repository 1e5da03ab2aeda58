//! A plan in plain words, a line each.

use runtime::state::BackendKind;

use crate::plan::{
    Damage, DiskOperation, FaultKind, FaultSpec, ObjectChoice, Plan, Side, StoreErrorKind, StoreOperation, Trigger,
    faults::{EMITTER, ENTITY, STORE},
    model::{USER_ERROR_AT, USER_PANIC_AT},
};

/// `1st`, `2nd`, `13th`, ….
pub fn ordinal(n: u32) -> String {
    let ending = match (n % 10, n % 100) {
        (1, last) if last != 11 => "st",
        (2, last) if last != 12 => "nd",
        (3, last) if last != 13 => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

fn when(trigger: &Trigger) -> String {
    match trigger {
        Trigger::AtMs(at) => format!("at {at} ms"),
        Trigger::On { event, entity, ordinal: nth, delay_ms } => {
            let of = entity.as_ref().map(|entity| format!(" of {entity}")).unwrap_or_default();
            let event = format!("the {} {}{of}", ordinal(*nth), event.name());
            if *delay_ms == 0 { format!("inside {event}") } else { format!("{delay_ms} ms after {event}") }
        }
    }
}

fn whom(target: &str) -> &str {
    match target {
        EMITTER => "whoever emits it",
        ENTITY => "the channel it is about",
        STORE => "the store",
        other => other,
    }
}

fn comes_back(after_ms: Option<u64>) -> String {
    match after_ms {
        None => "for good".to_string(),
        Some(0) => "and comes back at once".to_string(),
        Some(after) => format!("and comes back after {after} ms"),
    }
}

fn object(choice: ObjectChoice) -> &'static str {
    match choice {
        ObjectChoice::Part => "a state part",
        ObjectChoice::Metadata => "the metadata",
        ObjectChoice::Shared => "a shared object",
    }
}

/// What a fault does, to whom.
#[allow(unreachable_patterns, reason = "a kind of fault without words of its own is told by its class")]
fn what(fault: &FaultSpec) -> String {
    let target = whom(&fault.target);
    let lasting = fault.duration_ms;
    match &fault.fault {
        FaultKind::Crash { restart_after_ms } => format!("{target} dies {}", comes_back(*restart_after_ms)),
        FaultKind::LoseMachine { restart_after_ms: None } => format!("{target} is lost with its machine and disk"),
        FaultKind::LoseMachine { restart_after_ms: Some(after) } => {
            format!("{target} is lost with its machine and disk; an empty one takes its place after {after} ms")
        }
        FaultKind::Freeze {} => format!("{target} stands still for {lasting} ms"),
        FaultKind::Partition { peer, side: Side::Both } => {
            format!("{target} and {peer} cannot hear each other for {lasting} ms")
        }
        FaultKind::Partition { peer, side: Side::TargetToPeer } => {
            format!("{peer} cannot hear {target} for {lasting} ms")
        }
        FaultKind::Partition { peer, side: Side::PeerToTarget } => {
            format!("{target} cannot hear {peer} for {lasting} ms")
        }
        FaultKind::HoldChannel {} => format!("{target} delivers nothing for {lasting} ms"),
        FaultKind::SlowChannel { extra_ms } => format!("{target} is {extra_ms} ms slower for {lasting} ms"),
        FaultKind::LocalFiles { damage, files, newest_only } => {
            let damage = match damage {
                Damage::Missing => "vanish",
                Damage::Torn => "are torn",
                Damage::Corrupt => "rot",
                Damage::Stale => "are as they were before",
                Damage::Foreign => "are somebody else's",
                Damage::Empty => "are empty",
                Damage::Truncated => "lack their last byte",
                Damage::BitFlipped => "have one bit flipped",
            };
            let of = if *newest_only { "the newest local copy" } else { "any local copy" };
            format!("up to {files} files of {of} on {target}'s disk {damage}")
        }
        FaultKind::LocalFile { copy, file, damage } => {
            let damage = match damage {
                Damage::Missing => "vanishes",
                Damage::Torn => "is torn",
                Damage::Corrupt => "rots",
                Damage::Stale => "is as it was before",
                Damage::Foreign => "is somebody else's",
                Damage::Empty => "is empty",
                Damage::Truncated => "lacks its last byte",
                Damage::BitFlipped => "has one bit flipped",
            };
            format!("{file} of the newest local copy of {copy} on {target}'s disk {damage}")
        }
        FaultKind::LocalFileErrors { path_contains, operation, count, .. } => {
            let operation = format!("{operation:?}").to_lowercase();
            format!("the next {count} {operation} of {path_contains} on the disk of {target} fails")
        }
        FaultKind::LocalTables { damage, files } => {
            let damage = match damage {
                Damage::Missing => "vanish",
                Damage::Torn => "are torn",
                _ => "rot",
            };
            format!("up to {files} table files of the newest local copy on {target}'s disk {damage}")
        }
        FaultKind::DiskFull {} => format!("the disk of {target} is full for {lasting} ms"),
        FaultKind::DiskErrors { operation, count, .. } => {
            let operation = match operation {
                DiskOperation::Create => "creation of a file",
                DiskOperation::Write => "write",
                DiskOperation::Sync => "sync",
                DiskOperation::Read => "read",
                DiskOperation::Rename => "rename",
                DiskOperation::Remove => "removal of a file",
                DiskOperation::List => "listing",
                DiskOperation::NativeRead => "read of a native file",
                DiskOperation::NativeWrite => "write of a native file",
                DiskOperation::Adopt => "adoption of native files",
                DiskOperation::DatabaseOpen => "opening of a database",
                DiskOperation::DatabaseFlush => "flush of a database",
                DiskOperation::DatabaseCompact => "compaction of a database",
                DiskOperation::DatabaseCheckpoint => "native checkpoint of a database",
                other => &format!("{other:?} operation").to_lowercase(),
            };
            format!("the next {count} {operation} on the disk of {target} fails")
        }
        FaultKind::StoreErrors { operation, name_contains, error, count } => {
            let operation = match operation {
                StoreOperation::Create => "create",
                StoreOperation::Upload => "upload of a piece",
                StoreOperation::Read => "read",
                StoreOperation::List => "list",
                StoreOperation::Delete => "delete",
            };
            let about = if name_contains.is_empty() { String::new() } else { format!(" of {name_contains:?}") };
            let how = match error {
                StoreErrorKind::ErrorBefore => "fails",
                StoreErrorKind::ErrorAfter => "is done, but answered with an error",
                StoreErrorKind::TimeoutBefore => "gets no answer and is not done",
                StoreErrorKind::TimeoutAfter => "gets no answer, but is done",
            };
            let next = if *count == 1 { "next".to_string() } else { format!("next {count}") };
            format!("the store's {next} {operation}{about} {how}")
        }
        FaultKind::StoreOutage {} => format!("the store refuses everything for {lasting} ms"),
        FaultKind::LoseObject { object: choice, .. } => {
            format!("{} of the newest checkpoint vanishes from the store", object(*choice))
        }
        FaultKind::CorruptObject { object: choice, .. } => {
            format!("{} of the newest checkpoint rots in the store", object(*choice))
        }
        _ => format!("{} on {target}", fault.class().name()),
    }
}

/// A fault as one line.
pub fn fault_line(fault: &FaultSpec) -> String {
    format!("{}: {}", when(&fault.trigger), what(fault))
}

/// Each thing that goes wrong by the plan's will, as one line, in the order of [`super::case::mishaps`].
pub fn mishap_lines(plan: &Plan) -> Vec<String> {
    let user =
        [(USER_PANIC_AT, "panics"), (USER_ERROR_AT, "returns an error")].into_iter().filter_map(|(name, does)| {
            let record = plan.workload.parameters.get(name)?;
            Some(format!("at record {record}: the user function {does}"))
        });
    // The order of `mishaps` is that of the parameters' list there: panic first.
    plan.faults.iter().map(fault_line).chain(user).collect()
}

fn count(n: impl Into<u64>, one: &str, many: &str) -> String {
    let n = n.into();
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The job and the cluster in one line.
pub fn setting_line(plan: &Plan) -> String {
    let w = &plan.workload;
    let mut line = format!(
        "job {}: {} over {} and {}, parallelism {}, on {} with {}",
        w.name,
        count(w.records, "record", "records"),
        count(w.keys, "key", "keys"),
        count(w.splits, "split", "splits"),
        w.parallelism,
        count(plan.cluster.task_managers, "TaskManager", "TaskManagers"),
        count(plan.cluster.slots, "slot", "slots"),
    );
    if plan.cluster.task_managers > 1 {
        line.push_str(" each");
    }
    if plan.settings.local_recovery {
        line.push_str(", local copies");
    }
    let (backend, incremental) = (plan.settings.backend, plan.settings.incremental);
    if backend != BackendKind::Filesystem {
        line.push_str(&format!(", {backend} state"));
    }
    if incremental {
        line.push_str(", incremental checkpoints");
    }
    if !plan.sabotage.is_empty() {
        let names: Vec<String> = plan.sabotage.iter().filter_map(|bug| serde_json::to_string(bug).ok()).collect();
        line.push_str(&format!(", planted bug {}", names.join(", ").replace('"', "")));
    }
    line
}

/// What happens, in at most `most` lines: the setting, then the faults.
pub fn schedule_lines(plan: &Plan, most: usize) -> Vec<String> {
    let mut lines = vec![setting_line(plan)];
    let faults = mishap_lines(plan);
    if faults.is_empty() {
        lines.push("nothing goes wrong by the plan's will".to_string());
    }
    let room = most.saturating_sub(1);
    if faults.len() <= room {
        lines.extend(faults);
    } else {
        let shown = room.saturating_sub(1);
        let left = faults.len() - shown;
        lines.extend(faults.into_iter().take(shown));
        lines.push(format!("and {left} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_as_people_say_them() {
        let said: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].map(ordinal).to_vec();
        assert_eq!(said, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]);
    }

    #[test]
    fn a_plan_in_words() {
        let mut plan = crate::plan::generate(&crate::plan::profile::DEFAULT, 3);
        let text = r#"
            target = "tm-1"
            trigger = { at_ms = 2155 }
            fault = { crash = { restart_after_ms = 50 } }
            target = "emitter"
            trigger = { on = { event = "TaskNotifiedComplete", ordinal = 39 } }
            duration_ms = 1916
            fault = { freeze = {} }
            target = "entity"
            trigger = { on = { event = "BarrierSent", ordinal = 23 } }
            duration_ms = 3498
            fault = { slow-channel = { extra_ms = 233 } }
            target = "store"
            trigger = { on = { event = "CheckpointCompleted", ordinal = 1, delay_ms = 20 } }
            fault = { lose-object = { object = "part", index = 8 } }
            target = "store"
            trigger = { on = { event = "CheckpointTriggered", entity = "checkpoint 2", ordinal = 1 } }
            fault = { store-errors = { operation = "create", name_contains = "_metadata", error = "timeout-after", count = 2 } }
            target = "tm-2"
            trigger = { at_ms = 7 }
            duration_ms = 600
            fault = { partition = { peer = "jobmanager", side = "target-to-peer" } }
            target = "tm-3"
            trigger = { at_ms = 7 }
            fault = { local-files = { damage = "torn", files = 2, newest_only = true } }
            target = "tm-3"
            trigger = { at_ms = 9 }
            fault = { disk-errors = { operation = "sync", error = "input-output", count = 1 } }
            target = "tm-3"
            trigger = { at_ms = 9 }
            fault = { lose-machine = { } }
        "#;
        let faults: Vec<String> = text.split("target =").skip(1).map(|fault| format!("target ={fault}")).collect();
        plan.faults = faults.iter().map(|fault| toml::from_str(fault).expect("a fault")).collect();
        plan.workload.parameters.insert(USER_PANIC_AT.into(), 77);
        let all = mishap_lines(&plan).join("\n");
        let short = schedule_lines(&plan, 4).join("\n");
        insta::assert_snapshot!(format!("{all}\n\n{short}"));
    }
}
