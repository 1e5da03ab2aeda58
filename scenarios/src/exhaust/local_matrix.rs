//! The matrix of partial local failure, every cell of it: each file of a local copy, damaged in each way, at each step between the
//! completion of its checkpoint and the restore from it, and in each company of other trouble; every write of the copy
//! refused; the whole copy lost; the copy on another device. For heap state, full snapshots of RocksDB, and incremental ones.
//!
//! Pure: from a clean run of each setup to the plans. A cell counts as reached only if the damage was in place and somebody came
//! across it: a damaged file must have been read afterwards, a refused operation asked for.

use std::collections::BTreeMap;

use runtime::{
    checkpoint::types::SubtaskKey,
    journal::{Event, EventKind},
    state::BackendKind,
};

use crate::plan::{
    ClusterShape, Damage, DiskErrorKind, DiskOperation, FaultKind, FaultSpec, Plan, Profile, Trigger, generate,
    model::JOB_MANAGER,
};

/// How state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setup {
    Heap,
    RocksDbFull,
    RocksDbIncremental,
}

impl Setup {
    pub const ALL: [Setup; 3] = [Setup::Heap, Setup::RocksDbFull, Setup::RocksDbIncremental];

    pub fn name(self) -> &'static str {
        match self {
            Setup::Heap => "heap",
            Setup::RocksDbFull => "rocksdb-full",
            Setup::RocksDbIncremental => "rocksdb-incremental",
        }
    }
}

/// What is done to a file of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    Missing,
    Empty,
    Torn,
    Truncated,
    BitFlipped,
    Older,
    OtherSubtask,
    Denied,
    Vanishing,
}

impl Harm {
    pub const ALL: [Harm; 9] = [
        Harm::Missing,
        Harm::Empty,
        Harm::Torn,
        Harm::Truncated,
        Harm::BitFlipped,
        Harm::Older,
        Harm::OtherSubtask,
        Harm::Denied,
        Harm::Vanishing,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Harm::Missing => "missing",
            Harm::Empty => "empty",
            Harm::Torn => "torn",
            Harm::Truncated => "truncated",
            Harm::BitFlipped => "one bit flipped",
            Harm::Older => "older version",
            Harm::OtherSubtask => "other subtask's",
            Harm::Denied => "permission denied",
            Harm::Vanishing => "disappears while read",
        }
    }

    fn fault(self, copy: &Copy, file: &str) -> FaultKind {
        let damaged = |damage| FaultKind::LocalFile { copy: copy.directory(), file: file.to_string(), damage };
        let unreadable = |error| FaultKind::LocalFileErrors {
            path_contains: copy.path_of(file),
            operation: DiskOperation::Read,
            error,
            // However often it is tried.
            count: 1_000,
        };
        match self {
            Harm::Missing => damaged(Damage::Missing),
            Harm::Empty => damaged(Damage::Empty),
            Harm::Torn => damaged(Damage::Torn),
            Harm::Truncated => damaged(Damage::Truncated),
            Harm::BitFlipped => damaged(Damage::BitFlipped),
            Harm::Older => damaged(Damage::Stale),
            Harm::OtherSubtask => damaged(Damage::Foreign),
            Harm::Denied => unreadable(DiskErrorKind::Denied),
            Harm::Vanishing => unreadable(DiskErrorKind::Vanished),
        }
    }
}

/// At which step of the life of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// When its checkpoint completes. Older copies are still there.
    Completed,
    /// Between its confirmation and the restore from it.
    Confirmed,
    /// When the restore begins.
    Restoring,
}

/// What else goes wrong, so that the copy is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Company {
    /// Another TaskManager crashes, and comes back: the copy's own process lives on.
    OtherCrashes,
    /// The copy's own process crashes, and comes back on its disk.
    OwnCrashes,
    /// The machine of another TaskManager is lost with its disk.
    OtherMachineLost,
    /// Another TaskManager stands still for longer than its heartbeat, and comes back as a zombie.
    Zombie,
    /// Primary storage cannot be reached while the restore begins.
    PrimaryOutage,
    /// The JobManager dies in the middle of the restore.
    LeaderFailover,
    /// The restore fails in its middle, and is made again on the same machine.
    SecondAttempt,
}

impl Company {
    pub const ALL: [Company; 7] = [
        Company::OtherCrashes,
        Company::OwnCrashes,
        Company::OtherMachineLost,
        Company::Zombie,
        Company::PrimaryOutage,
        Company::LeaderFailover,
        Company::SecondAttempt,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Company::OtherCrashes => "another process crashes",
            Company::OwnCrashes => "its own process crashes",
            Company::OtherMachineLost => "another machine is lost",
            Company::Zombie => "another process is taken for dead",
            Company::PrimaryOutage => "primary is away during the restore",
            Company::LeaderFailover => "the JobManager dies during the restore",
            Company::SecondAttempt => "the restore is made twice",
        }
    }

    /// Its faults, with what makes somebody restore from the copy so much after the completion of its checkpoint.
    fn faults(self, plan: &Plan, copy: &Copy) -> Vec<FaultSpec> {
        let after = |delay_ms| copy.completes(delay_ms);
        let restart_after_ms = Some(COMEBACK_MS);
        let fault = |target: &str, trigger, duration_ms, fault| FaultSpec {
            target: target.to_string(),
            trigger,
            duration_ms,
            fault,
        };
        let crash = |target: &str, trigger| fault(target, trigger, 0, FaultKind::Crash { restart_after_ms });
        let restoring = |delay_ms| Trigger::On { event: EventKind::RestoreStarted, entity: None, ordinal: 1, delay_ms };
        let other_crashes = || crash(&copy.other, after(WITNESS_MS));
        match self {
            Company::OtherCrashes => vec![other_crashes()],
            Company::OwnCrashes => vec![crash(&copy.holder, after(WITNESS_MS))],
            Company::OtherMachineLost => {
                vec![fault(&copy.other, after(WITNESS_MS), 0, FaultKind::LoseMachine { restart_after_ms })]
            }
            Company::Zombie => {
                let duration_ms = plan.settings.heartbeat_timeout_ms + 1_000;
                vec![fault(&copy.other, after(WITNESS_MS), duration_ms, FaultKind::Freeze {})]
            }
            Company::PrimaryOutage => {
                vec![other_crashes(), fault("store", restoring(0), OUTAGE_MS, FaultKind::StoreOutage {})]
            }
            Company::LeaderFailover => vec![other_crashes(), crash(JOB_MANAGER, restoring(0))],
            Company::SecondAttempt => vec![other_crashes(), crash(&copy.other, restoring(1))],
        }
    }
}

/// Enough for the confirmation to come, and less than until the next checkpoint.
const WITNESS_MS: u64 = 40;
const COMEBACK_MS: u64 = 200;
const OUTAGE_MS: u64 = 800;

/// The copy that is harmed: of the checkpoint in the middle of the run, on a machine with several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// `fold[0]`.
    pub subtask: String,
    pub key: SubtaskKey,
    pub checkpoint: u64,
    /// The TaskManager that has it.
    pub holder: String,
    /// One that runs tasks too.
    pub other: String,
    /// Its files, the manifest last.
    pub files: Vec<String>,
    /// Which completion of a checkpoint this one's is, from 1.
    completion: u32,
    /// Which of the subtask's confirmations and asynchronous parts are this checkpoint's, from 1.
    confirmation: u32,
    snapshot: u32,
}

impl Copy {
    fn directory(&self) -> String {
        format!("vtx_{}_sti_{}", self.key.0, self.key.1)
    }

    fn path_of(&self, file: &str) -> String {
        format!("/{}/chk_{}/{file}", self.directory(), self.checkpoint)
    }

    fn completes(&self, delay_ms: u64) -> Trigger {
        let (event, ordinal) = (EventKind::CheckpointCompleted, self.completion);
        Trigger::On { event, entity: None, ordinal, delay_ms }
    }

    fn at(&self, site: Site) -> Trigger {
        let of_subtask =
            |event, ordinal| Trigger::On { event, entity: Some(self.subtask.clone()), ordinal, delay_ms: 0 };
        match site {
            Site::Completed => self.completes(0),
            Site::Confirmed => of_subtask(EventKind::LocalCopyConfirmed, self.confirmation),
            Site::Restoring => of_subtask(EventKind::RestoreStarted, 1),
        }
    }

    /// Before its first byte is written.
    fn begins(&self) -> Trigger {
        let (event, entity) = (EventKind::SnapshotAsyncStarted, Some(self.subtask.clone()));
        Trigger::On { event, entity, ordinal: self.snapshot, delay_ms: 0 }
    }
}

/// An event of a clean run: who emitted it, and what.
pub type Told = (String, Event);

/// Finds the copy to harm in what a clean run told. `keys`: subtasks by name.
///
/// # Errors
/// What the run lacks.
pub fn copy_to_harm(told: &[Told], keys: &BTreeMap<String, SubtaskKey>) -> Result<Copy, String> {
    let completed: Vec<u64> = told
        .iter()
        .filter_map(|(_, event)| match event {
            Event::CheckpointCompleted { checkpoint, .. } => Some(checkpoint.0),
            _ => None,
        })
        .collect();
    let middle = completed.len() / 2;
    let checkpoint = *completed.get(middle).ok_or("the clean run completed no checkpoint")?;
    let mut parts: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (process, event) in told {
        if let Event::LocalPartStored { subtask, checkpoint: of, part, .. } = event
            && of.0 == checkpoint
        {
            parts.entry((process, subtask)).or_default().push(part.clone());
        }
    }
    // Where several lie side by side, one can be taken for another.
    let on = |holder: &str| parts.keys().filter(|(process, _)| *process == holder).count();
    let ((holder, subtask), files) = parts
        .iter()
        .max_by_key(|((process, _), files)| (on(process), files.len()))
        .ok_or("the clean run stored no local copy")?;
    let other = told.iter().find_map(|(_, event)| match event {
        Event::TaskDeployed { task_manager, .. } if task_manager != holder => Some(task_manager.clone()),
        _ => None,
    });
    // How many events of a kind the subtask had up to this checkpoint's.
    let ordinal = |wanted: &dyn Fn(&Event) -> Option<(&str, u64)>| {
        let of_subtask = told.iter().filter_map(|(_, event)| wanted(event)).filter(|(who, _)| who == subtask);
        let position = of_subtask.map(|(_, of)| of).position(|of| of == checkpoint);
        position.and_then(|position| u32::try_from(position + 1).ok()).ok_or("the copy was never confirmed")
    };
    let mut files = files.clone();
    files.push("_manifest".to_string());
    Ok(Copy {
        subtask: (*subtask).to_string(),
        key: *keys.get(*subtask).ok_or_else(|| format!("no subtask is called {subtask}"))?,
        checkpoint,
        holder: (*holder).to_string(),
        other: other.ok_or("all tasks run on one TaskManager")?,
        files,
        completion: u32::try_from(middle + 1).map_err(|error| error.to_string())?,
        confirmation: ordinal(&|event| match event {
            Event::LocalCopyConfirmed { subtask, checkpoint } => Some((subtask, checkpoint.0)),
            _ => None,
        })?,
        snapshot: ordinal(&|event| match event {
            Event::SnapshotAsyncStarted { subtask, checkpoint } => Some((subtask, checkpoint.0)),
            _ => None,
        })?,
    })
}

/// A small job without faults that keeps local copies in this way.
pub fn base(seed: u64, setup: Setup) -> Plan {
    let profile = Profile::named("local-recovery").unwrap_or(&crate::plan::profile::DEFAULT);
    let mut plan = generate(profile, seed);
    plan.faults.clear();
    plan.workload.name = "audit".to_string();
    plan.workload.parameters.clear();
    plan.cluster = ClusterShape { task_managers: 3, slots: 2 };
    // One machine has two subtasks with state.
    plan.workload.parallelism = 4;
    plan.workload.splits = 4;
    plan.workload.keys = 24;
    plan.workload.records = 360;
    plan.workload.records_per_second = 120;
    let settings = &mut plan.settings;
    settings.checkpoint_interval_ms = 400;
    settings.checkpoint_timeout_ms = 3_000;
    settings.min_pause_ms = 0;
    settings.max_concurrent = 1;
    settings.retained = 3;
    settings.heartbeat_interval_ms = 200;
    settings.heartbeat_timeout_ms = 1_200;
    settings.restart_delay_ms = 20;
    settings.local_recovery = true;
    settings.local_roots = 0;
    settings.local_memory_bytes = 0;
    settings.parts_per_snapshot = 2;
    settings.small_state_threshold_bytes = 0;
    settings.compression = false;
    settings.store_operation_timeout_ms = 500;
    settings.store_total_timeout_ms = 4_000;
    settings.connect_timeout_ms = 1_000;
    (settings.backend, settings.incremental) = match setup {
        Setup::Heap => (BackendKind::Filesystem, false),
        Setup::RocksDbFull => (BackendKind::RocksDb, false),
        Setup::RocksDbIncremental => (BackendKind::RocksDb, true),
    };
    plan.run_on_quick_machines();
    let input_ms = plan.workload.records * 1_000 / plan.workload.records_per_second;
    plan.healed_by_ms = input_ms + 8_000;
    plan.time_limit_ms = plan.healed_by_ms + 60_000;
    plan
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    pub setup: Setup,
    /// What all that are shown in one line have in common.
    pub row: String,
    /// Everything that is particular to it.
    pub name: String,
    pub plan: Plan,
    /// Positions of the faults that must have taken effect.
    pub placed: Vec<usize>,
    /// An event that must have been told besides.
    pub told: Option<&'static str>,
}

struct Cells<'a> {
    setup: Setup,
    base: &'a Plan,
    copy: &'a Copy,
    cells: Vec<Cell>,
}

impl Cells<'_> {
    fn add(&mut self, row: &str, name: &str, harm: FaultSpec, company: Company, told: Option<&'static str>) {
        let mut plan = self.base.clone();
        plan.faults = vec![harm];
        plan.faults.extend(company.faults(self.base, self.copy));
        let name = format!("{}: {name}, and {}", self.setup.name(), company.name());
        let (setup, row) = (self.setup, row.to_string());
        self.cells.push(Cell { setup, row, name, plan, placed: vec![0], told });
    }

    fn harm(&self, trigger: Trigger, fault: FaultKind) -> FaultSpec {
        FaultSpec { target: self.copy.holder.clone(), trigger, duration_ms: 0, fault }
    }

    fn file(&mut self, file: &str, harm: Harm, site: Site, company: Company) {
        let spec = self.harm(self.copy.at(site), harm.fault(self.copy, file));
        let name = format!("{file} of {} {} ({site:?})", self.copy.subtask, harm.name());
        self.add(&format!("file {}", harm.name()), &name, spec, company, None);
    }

    fn write(&mut self, path_contains: String, operation: DiskOperation) {
        let name = format!("no space at {operation:?} of {path_contains}");
        let fault = FaultKind::LocalFileErrors { path_contains, operation, error: DiskErrorKind::NoSpace, count: 1 };
        let spec = self.harm(self.copy.begins(), fault);
        self.add("disk full at a write", &name, spec, Company::OtherCrashes, None);
    }
}

/// All cells of one setup.
pub fn cells(setup: Setup, base: &Plan, copy: &Copy) -> Vec<Cell> {
    let mut all = Cells { setup, base, copy, cells: Vec::new() };
    for file in &copy.files {
        for harm in Harm::ALL {
            for company in Company::ALL {
                all.file(file, harm, Site::Completed, company);
            }
            for site in [Site::Confirmed, Site::Restoring] {
                all.file(file, harm, site, Company::OtherCrashes);
            }
        }
    }
    let is_linked = |file: &str| setup == Setup::RocksDbIncremental && is_native(file);
    for file in &copy.files {
        if is_linked(file) {
            // It comes in with the others, under its own name, and gets the name of its part then.
            let own = file.rsplit('-').next().unwrap_or(file);
            all.write(format!("/{}/chk_{}/_entrance/{own}", copy.directory(), copy.checkpoint), DiskOperation::Rename);
        } else {
            for operation in [DiskOperation::Create, DiskOperation::Write, DiskOperation::Sync] {
                all.write(copy.path_of(file), operation);
            }
        }
    }
    if copy.files.iter().any(|file| is_linked(file)) {
        all.write(format!("/{}/chk_{}/_entrance", copy.directory(), copy.checkpoint), DiskOperation::Adopt);
    }
    for directory in [format!("/{}/chk_{}", copy.directory(), copy.checkpoint), format!("/{}", copy.directory())] {
        all.write(directory, DiskOperation::SyncDirectory);
    }
    for company in Company::ALL {
        for site in [Site::Completed, Site::Confirmed, Site::Restoring] {
            let fault = FaultKind::LocalFiles { damage: Damage::Missing, files: 1_000, newest_only: true };
            let spec = all.harm(copy.at(site), fault);
            all.add(
                "copies lost as a whole",
                &format!("all copies of {} ({site:?})", copy.holder),
                spec,
                company,
                None,
            );
        }
        if setup == Setup::RocksDbIncremental {
            let spec = all.harm(Trigger::AtMs(0), FaultKind::SeparateDevice {});
            let told = Some(EventKind::LocalFilesCopied.name());
            all.add("another device", &format!("{} on another device", copy.holder), spec, company, told);
        }
    }
    all.cells
}

/// Whether a part is a file of a native checkpoint, which is linked and not written.
fn is_native(part: &str) -> bool {
    part.ends_with(".sst") || part.contains("MANIFEST-") || part.ends_with("CURRENT")
}

#[cfg(test)]
mod tests {
    use runtime::ids::{AllocationId, AttemptId, CheckpointId};

    use super::*;

    fn told() -> Vec<Told> {
        let mut told: Vec<Told> = ["tm-1", "tm-2"]
            .iter()
            .zip(["fold[0]", "fold[1]"])
            .map(|(task_manager, subtask)| {
                let (attempt, allocation) = (AttemptId::default(), AllocationId(1));
                let (subtask, task_manager) = (subtask.to_string(), (*task_manager).to_string());
                let event =
                    Event::TaskDeployed { subtask, attempt, task_manager: task_manager.clone(), slot: 0, allocation };
                (task_manager, event)
            })
            .collect();
        for id in 1..=3 {
            let checkpoint = CheckpointId(id);
            for (process, subtask) in [("tm-1", "fold[0]"), ("tm-2", "fold[1]"), ("tm-2", "fold[2]")] {
                let subtask = subtask.to_string();
                told.push((process.into(), Event::SnapshotAsyncStarted { subtask: subtask.clone(), checkpoint }));
                for part in ["fold-0-31", "fold-32-63"] {
                    let part = part.to_string();
                    let stored = Event::LocalPartStored { subtask: subtask.clone(), checkpoint, part, bytes: 1 };
                    told.push((process.into(), stored));
                }
                told.push((process.into(), Event::LocalCopyConfirmed { subtask, checkpoint }));
            }
            told.push(("jobmanager".into(), Event::CheckpointCompleted { checkpoint, sequence: id }));
        }
        told
    }

    fn keys() -> BTreeMap<String, SubtaskKey> {
        (0..3).map(|index| (format!("fold[{index}]"), (1, index))).collect()
    }

    #[test]
    fn the_copy_to_harm_is_one_among_several_of_the_middle_checkpoint() {
        let copy = copy_to_harm(&told(), &keys()).expect("there is one");
        assert_eq!((copy.holder.as_str(), copy.other.as_str(), copy.checkpoint), ("tm-2", "tm-1", 2));
        assert_eq!(copy.files, ["fold-0-31", "fold-32-63", "_manifest"]);
        assert_eq!((copy.completion, copy.confirmation, copy.snapshot), (2, 2, 2));
        assert!(copy_to_harm(&[], &keys()).is_err());
    }

    /// Nothing is left out, nothing is there twice, and every plan is one.
    #[test]
    fn every_cell_is_there_once_and_valid() {
        let copy = copy_to_harm(&told(), &keys()).expect("there is one");
        for setup in Setup::ALL {
            let base = base(7, setup);
            assert_eq!(base.check(), Ok(()));
            let cells = cells(setup, &base, &copy);
            let files = copy.files.len();
            let harmed = files * Harm::ALL.len() * (Company::ALL.len() + 2);
            let writes = cells.iter().filter(|cell| cell.row.contains("write")).count();
            assert_eq!(writes, files * 3 + 2);
            let lost = Company::ALL.len() * 3;
            let moved = if setup == Setup::RocksDbIncremental { Company::ALL.len() } else { 0 };
            assert_eq!(cells.len(), harmed + writes + lost + moved, "{}", setup.name());
            let plans: std::collections::BTreeSet<String> = cells.iter().map(|cell| cell.plan.to_toml()).collect();
            assert_eq!(plans.len(), cells.len());
            for cell in &cells {
                assert_eq!(cell.plan.check(), Ok(()), "{}", cell.name);
            }
        }
    }
}
