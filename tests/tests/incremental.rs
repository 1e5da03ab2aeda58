//! Incremental checkpoints over a long time: what is referred to stays bounded, and nothing is left that nobody refers to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use runtime::journal::{Event, EventKind};
use scenarios::plan::{Plan, Settings};
use weir_tests::tales::{Tale, calm, tell};

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

/// Five hundred incremental checkpoints of heap state in a simulated hour: before each of them the store holds what the retained
/// ones refer to and nothing else, and that stays bounded. The sweep at the end finds at most what the last completion dropped.
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
