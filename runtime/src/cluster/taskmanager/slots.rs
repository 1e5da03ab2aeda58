//! The slots of a TaskManager and what belongs to them: the record on disk, local copies, memory of databases.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use futures::FutureExt;

#[cfg(feature = "rocksdb")]
use super::SlotMemory;
use super::{
    AllocationId, AttemptId, Event, HeldSlot, LocalShelf, LocalStateStore, Platform, Point, SubtaskSpec, TaskManager,
    TaskManagerConfig,
};
#[cfg(feature = "rocksdb")]
use crate::state::BackendKind;
use crate::{
    recovery::allocations::{self, StoredAllocation},
    state::rocksdb_options::host::DatabaseHost,
};

/// Slots remembered by a former run of this process on the same disk are offered again, with their local copies as far as they
/// are whole; what else lies there is removed.
pub(super) async fn recall_slots(
    platform: &Platform,
    config: &TaskManagerConfig,
    shelf: &LocalShelf,
) -> Vec<Option<HeldSlot>> {
    let mut slots = vec![None; config.slots as usize];
    // An unreadable disk only means that nothing is remembered.
    let mut found = allocations::scan(&*platform.disk).await.unwrap_or_default();
    // Of two records of one slot, of which one could not be removed in time, the later one is right.
    found.allocations.sort_by_key(|stored| Reverse(stored.since));
    for stored in found.allocations {
        if let Some(slot @ None) = slots.get_mut(stored.slot as usize)
            && config.cluster.task.local_recovery
        {
            let StoredAllocation { allocation, shared, since, .. } = stored;
            *slot = Some(HeldSlot { allocation, shared, since });
            platform.journal.reached(Point::SlotsRemembered);
        }
    }
    let held: BTreeSet<AllocationId> = slots.iter().flatten().map(|held: &HeldSlot| held.allocation).collect();
    shelf.adopt_left_overs(&held).await;
    slots
}

impl TaskManager {
    /// What databases of a slot have in common.
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_variables, reason = "there are no databases without it"))]
    pub(super) fn database_host(&mut self, spec: &SubtaskSpec) -> DatabaseHost {
        DatabaseHost {
            #[cfg(feature = "rocksdb")]
            memory: match spec.settings.backend.kind {
                BackendKind::RocksDb => self
                    .memories
                    .entry(spec.allocation)
                    .or_insert_with(|| SlotMemory::new(&spec.settings.backend.rocksdb.memory))
                    .clone(),
                _ => None,
            },
            journal: Some(self.platform.journal.clone()),
            ..self.config.cluster.task.backend.rocksdb.host.clone()
        }
    }

    pub(super) fn local_store(&mut self, spec: &SubtaskSpec) -> Arc<LocalStateStore> {
        let key = (spec.allocation, spec.subtask);
        let store = self.local.entry(key).or_insert_with(|| {
            let name = self.job.graph.subtask_name(spec.subtask);
            let (format, sabotage) = (spec.settings.local_copies, spec.settings.sabotage.clone());
            Arc::new(self.shelf.store(spec.allocation, spec.subtask, &name, format, sabotage))
        });
        Arc::clone(store)
    }

    /// An execution that runs here has a checkpoint of its own: nobody restores any more from what was given up before it.
    pub(super) fn clear_retired(&self, attempt: AttemptId) {
        if self.shelf.has_retired(attempt) {
            let shelf = self.shelf.clone();
            let body = async move { shelf.clear_retired(attempt).await };
            // Detached: nobody waits for it.
            drop(self.platform.spawner.control("clear-retired-copies", body.boxed()));
        }
    }

    /// Frees a slot. `keep_copies`: its local state may be wanted by others, to whom its key groups go now.
    pub(super) async fn release(&mut self, slot: u32, allocation: AllocationId, keep_copies: bool) {
        let Some(held) = self.slots.get_mut(slot as usize) else { return };
        if held.is_none_or(|h| h.allocation != allocation) {
            return;
        }
        *held = None;
        self.local.retain(|(owner, _), _| *owner != allocation);
        #[cfg(feature = "rocksdb")]
        self.memories.remove(&allocation);
        if keep_copies && self.config.cluster.task.local_recovery {
            self.shelf.retire(allocation, self.cancelled_up_to).await;
        } else {
            self.shelf.release(allocation).await;
        }
        self.platform.journal.emit(Event::SlotReleased {
            task_manager: self.platform.process.to_string(),
            slot,
            allocation,
        });
    }
}
