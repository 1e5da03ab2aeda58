//! Incremental checkpoints over a long time: what is referred to stays bounded, and nothing is left that nobody refers to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use runtime::{
    checkpoint::types::PartKind,
    journal::{Event, EventKind},
    state::BackendKind,
};
use scenarios::{
    invariants::{Formats, RuntimeFormats},
    plan::{FaultKind, Plan, Settings, Trigger},
};
use weir_tests::{
    objects::{of_simulated, place_in_checkpoints},
    tales::{Tale, calm, fault, later, tell},
};

/// A simulated hour, a checkpoint every seven seconds, few keys and few records: some parts of the state change between two
/// checkpoints, others do not.
fn an_hour() -> Plan {
    let mut plan = calm();
    plan.settings = Settings {
        checkpoint_interval_ms: 7_000,
        incremental: true,
        local_recovery: false,
        heartbeat_interval_ms: 5_000,
        heartbeat_timeout_ms: 20_000,
        ..plan.settings
    };
    plan.workload.keys = 12;
    plan.workload.records = 3_600;
    plan.workload.records_per_second = 1;
    plan.healed_by_ms = 3_700_000;
    plan.time_limit_ms = 3_900_000;
    plan
}

/// A part of a subtask, by the name of one of its objects: `…/<checkpoint>-<subtask>-<part>-<attempt>-<nonce>`.
fn part_of(object: &str) -> String {
    let name = object.rsplit('/').next().unwrap_or_default();
    let mut fields: Vec<&str> = name.split('-').collect();
    fields.truncate(fields.len().saturating_sub(2));
    if object.contains("/shared/") {
        fields.remove(0);
    }
    fields.join("-")
}

/// What the store holds below the checkpoints, compared with what the retained checkpoints refer to, at each trigger: by then all
/// that the completion before has dropped is gone.
#[derive(Default)]
struct Stock {
    live: BTreeSet<String>,
    /// The newest object of each part.
    newest: BTreeMap<String, String>,
    /// What each of the retained checkpoints refers to, its metadata included, oldest first.
    referred: VecDeque<BTreeSet<String>>,
    metadata: Option<String>,
    completed: u64,
    written: u64,
    most: usize,
    swept: Vec<String>,
}

impl Stock {
    fn of(tale: &Tale) -> Stock {
        let retained = tale.plan.settings.retained as usize;
        let mut stock = Stock::default();
        for told in &tale.events {
            stock.tell(&told.event, retained);
        }
        stock
    }

    fn needed(&self) -> BTreeSet<String> {
        self.referred.iter().flatten().cloned().collect()
    }

    fn tell(&mut self, event: &Event, retained: usize) {
        match event {
            Event::ObjectCreated { object, .. } if object.starts_with("checkpoints/") => {
                self.live.insert(object.clone());
            }
            Event::ObjectDeleted { object } => {
                self.live.remove(object);
            }
            Event::PartUploaded { object, .. } => {
                self.newest.insert(part_of(object), object.clone());
                self.written += 1;
            }
            Event::MetadataWritten { object, .. } => self.metadata = Some(object.clone()),
            Event::CheckpointTriggered { checkpoint, .. } => {
                assert_eq!(self.live, self.needed(), "before checkpoint {checkpoint}");
                self.most = self.most.max(self.live.len());
            }
            Event::CheckpointCompleted { .. } => {
                self.completed += 1;
                if self.referred.len() == retained {
                    self.referred.pop_front();
                }
                self.referred.push_back(self.newest.values().chain(&self.metadata).cloned().collect());
            }
            Event::OrphanSwept { object } => self.swept.push(object.clone()),
            _ => {}
        }
    }
}

/// R23: five hundred incremental checkpoints of heap state in a simulated hour, which nobody looks after: before each of them the store holds
/// what the retained ones refer to and nothing else, and that stays bounded. The sweep at the end finds at most what the last completion
/// dropped.
#[test]
fn five_hundred_checkpoints_leave_nothing_behind() {
    let plan = an_hour();
    let tale = tell(&plan);
    tale.ends_well();
    assert_eq!(tale.lines(&[EventKind::CheckpointAborted]), "");
    let stock = Stock::of(&tale);
    assert!(stock.completed >= 500, "{} checkpoints", stock.completed);
    let parts = stock.newest.len() as u64;
    let full = parts * stock.completed;
    println!(
        "{} checkpoints, {} parts written of {full}, at most {} objects",
        stock.completed, stock.written, stock.most
    );
    assert!(stock.written * 10 < full * 9, "{} of {full} parts were written: nothing was reused", stock.written);
    // A retained checkpoint has its metadata, and no more state objects than a full one.
    let bound = u64::from(plan.settings.retained) * (parts + 1);
    assert!(stock.most as u64 <= bound, "{} objects at a time, {bound} are allowed", stock.most);
    let needed = stock.needed();
    assert!(stock.swept.iter().all(|object| !needed.contains(object)), "{:?}", stock.swept);
    assert!(stock.swept.len() as u64 <= parts, "{:?}", stock.swept);
}

/// What the store holds below the checkpoints of a job with databases, by its objects' lengths.
#[derive(Default)]
struct NativeStock {
    live: BTreeMap<String, u64>,
    completed: u64,
    most_objects: usize,
    most_bytes: u64,
    written_bytes: u64,
    /// Files of each native checkpoint, and how many of them an earlier one wrote.
    files: Vec<(u32, u32)>,
    /// Parts that each checkpoint uploaded.
    uploaded: BTreeMap<u64, u64>,
    swept: Vec<String>,
}

impl NativeStock {
    fn tell(&mut self, event: &Event) {
        match event {
            Event::ObjectCreated { object, bytes } if object.starts_with("checkpoints/") => {
                self.live.insert(object.clone(), *bytes);
                self.written_bytes += bytes;
            }
            Event::ObjectDeleted { object } => {
                self.live.remove(object);
            }
            Event::PartUploaded { checkpoint, .. } => *self.uploaded.entry(checkpoint.0).or_default() += 1,
            Event::NativeCheckpointWritten { files, reused, .. } => self.files.push((*files, *reused)),
            // By now all that the completion before has dropped is gone.
            Event::CheckpointTriggered { .. } => {
                self.most_objects = self.most_objects.max(self.live.len());
                self.most_bytes = self.most_bytes.max(self.live.values().sum());
            }
            Event::CheckpointCompleted { .. } => self.completed += 1,
            Event::OrphanSwept { object } => self.swept.push(object.clone()),
            _ => {}
        }
    }
}

/// R23: five hundred native checkpoints of RocksDB in a simulated hour: compaction folds old increments away, so that what is referred
/// to stays bounded; and nothing is left that nobody refers to (that it is so at the end is an invariant of the run itself).
#[test]
fn five_hundred_native_checkpoints_fold_their_increments_away() {
    let mut plan = an_hour();
    plan.settings.backend = BackendKind::RocksDb;
    plan.settings.transfer_piece_bytes = 700;
    plan.workload.parallelism = 1;
    let tale = tell(&plan);
    tale.ends_well();
    assert_eq!(tale.lines(&[EventKind::CheckpointAborted]), "");
    let mut stock = NativeStock::default();
    tale.events.iter().for_each(|told| stock.tell(&told.event));
    assert!(stock.completed >= 500, "{} checkpoints", stock.completed);
    let files = |range: std::ops::Range<usize>| stock.files[range].iter().map(|(files, _)| *files).max().unwrap_or(0);
    let all = stock.files.len();
    let (early, late) = (files(0..50), files(all - 50..all));
    let reused = stock.files.iter().filter(|(_, reused)| *reused > 0).count();
    println!(
        "{} checkpoints, {} bytes written; at most {} objects with {} bytes referred to; at most {early} files in each of the \
         first native checkpoints and {late} in each of the last, {reused} of {all} use files of earlier ones",
        stock.completed, stock.written_bytes, stock.most_objects, stock.most_bytes
    );
    assert!(reused * 2 > all, "{reused} of {all} native checkpoints use files of earlier ones");
    assert!(late <= early + 2, "{early} files at first, {late} in the end: increments do not fold away");
    // A retained checkpoint refers to its files, its metadata, and at most as many other parts as one uploads.
    let of_one = u64::from(files(0..all)) + stock.uploaded.values().max().copied().unwrap_or(0) + 1;
    let bound = u64::from(plan.settings.retained) * of_one;
    assert!(stock.most_objects as u64 <= bound, "{} objects at a time, {bound} are allowed", stock.most_objects);
    assert!(stock.most_bytes * 20 < stock.written_bytes, "{} bytes stay", stock.most_bytes);
    assert!(stock.swept.len() as u64 <= of_one, "{:?}", stock.swept);
    assert!(tale.count(|told| matches!(told.event, Event::PartPieceUploaded { .. })) > 100, "some travel in pieces");
}

/// R23: processes die all the time, and nobody tidies up after them. What each has left behind is gone soon, so that the store holds, before each
/// checkpoint, no more than what the retained ones refer to, and what one that was under way had written.
#[test]
fn storage_stays_bounded_while_processes_die() {
    let mut plan = an_hour();
    plan.workload.records = 3_000;
    let dies = |number: u64| {
        let target = ["tm-1", "jobmanager", "tm-2"][number as usize % 3];
        fault(target, Trigger::AtMs(number * 250_000), FaultKind::Crash { restart_after_ms: Some(300) })
    };
    plan.faults = (1..=9).map(dies).collect();
    let tale = tell(&plan);
    tale.ends_well();
    let mut stock = NativeStock::default();
    tale.events.iter().for_each(|told| stock.tell(&told.event));
    let uploaded = tale.events.iter().filter_map(|told| match &told.event {
        Event::PartUploaded { object, .. } => Some(part_of(object)),
        _ => None,
    });
    let parts = uploaded.collect::<BTreeSet<String>>().len();
    assert!(stock.completed >= 300, "{} checkpoints", stock.completed);
    let bound = (plan.settings.retained as usize + 1) * (parts + 1);
    assert!(stock.most_objects <= bound, "{} objects at a time, {bound} are allowed", stock.most_objects);
}

/// R113: whatever is written for a checkpoint lies in `<job>/chk-N` or in `<job>/shared`, also when processes die: the metadata as
/// `_metadata` in `chk-N`, beside it what is of this checkpoint alone, and what later ones may refer to in `shared`.
#[test]
fn every_object_of_a_checkpoint_lies_where_the_layout_says() {
    let (metadata, exclusive, shared) = ("metadata", "exclusive", "shared");
    for (backend, incremental, expected) in [
        (BackendKind::Memory, false, vec![metadata]),
        (BackendKind::Filesystem, false, vec![exclusive, metadata]),
        (BackendKind::Filesystem, true, vec![metadata, shared]),
        (BackendKind::RocksDb, false, vec![exclusive, metadata]),
        (BackendKind::RocksDb, true, vec![exclusive, metadata, shared]),
    ] {
        let crash = FaultKind::Crash { restart_after_ms: Some(300) };
        let dies = fault("tm-2", later(30, EventKind::CheckpointCompleted, "4", 1), crash);
        let mut plan = Plan { faults: vec![dies], ..calm() };
        (plan.settings.backend, plan.settings.incremental) = (backend, incremental);
        let tale = tell(&plan);
        tale.ends_well();
        let created = tale.events.iter().filter_map(|told| match &told.event {
            Event::ObjectCreated { object, .. } => Some(object.as_str()),
            _ => None,
        });
        let places: BTreeSet<&str> = created.filter_map(place_in_checkpoints).collect();
        assert_eq!(places.into_iter().collect::<Vec<_>>(), expected, "{backend:?} incremental {incremental}");
        // What the checkpoints that are left refer to.
        let objects = of_simulated(&Plan { faults: Vec::new(), ..plan }, |_| {});
        let mut parts = 0;
        for (name, bytes) in &objects {
            if place_in_checkpoints(name) != Some(metadata) {
                continue;
            }
            let own = name.trim_end_matches("_metadata");
            let snapshots = RuntimeFormats.metadata(bytes).expect("it decodes");
            for part in snapshots.values().flat_map(|snapshot| &snapshot.parts) {
                let Some(object) = part.object() else { continue };
                let may_be_shared = match part.kind {
                    PartKind::Shared { .. } => true,
                    PartKind::Private { .. } => false,
                    _ => incremental && backend == BackendKind::Filesystem,
                };
                let object = object.as_str();
                let place = place_in_checkpoints(object);
                assert_eq!(place, Some(if may_be_shared { shared } else { exclusive }), "{object}");
                assert!(may_be_shared || object.starts_with(own), "{object} is not of {name}");
                parts += 1;
            }
        }
        assert_eq!(parts > 0, backend != BackendKind::Memory, "{backend:?} incremental {incremental}");
    }
}
