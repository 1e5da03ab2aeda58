//! All local copies of one TaskManager, whichever allocation and subtask they are of.
//!
//! What is remembered here of copies on the disk is a hint: where to look, and what to say to those who decide where tasks go.
//! It may be wrong, and what is read is checked as if nothing were known. What is *kept* in memory is another thing: with
//! [`CopyFormat::Memory`] the copies themselves are here, and end with the process.
//!
//! An allocation that is given up is retired first: its copies may be wanted by whoever gets its key groups now. They go when
//! a later execution has completed a checkpoint, for then nobody restores from an older one any more, or when the job ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    allocations,
    local_inventory::{HeldCopy, LocalInventory},
    local_manifest::{LocalManifest, MANIFEST, parse_copy},
    local_store::LocalStateStore,
};
use crate::{
    checkpoint::types::{StatePart, SubtaskKey},
    graph::ProgramId,
    ids::{AllocationId, AttemptId, CheckpointId, JobId, SubtaskId, VertexId},
    journal::Event,
    layout::LocalLayout,
    platform::{Held, Mono, Platform, RelPath},
    sabotage::SabotageSet,
};

/// As what local copies are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyFormat {
    /// Files on the TaskManager's disk. They survive its process.
    #[default]
    Files,
    /// Objects in the TaskManager's memory, so many bytes in all at most; then the oldest goes. No file is written; nothing
    /// survives the process. Files of native checkpoints stay files.
    Memory { limit_bytes: u64 },
}

/// Which copy. In order of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CopyKey {
    pub checkpoint: CheckpointId,
    pub subtask: SubtaskKey,
    pub allocation: AllocationId,
}

/// A copy in memory.
struct HeapCopy {
    manifest: LocalManifest,
    parts: Arc<BTreeMap<String, Bytes>>,
    /// Counted as long as it is kept.
    held: Held,
}

/// The manifest of a copy in memory, and its parts by name.
pub(super) type InMemory = (LocalManifest, Arc<BTreeMap<String, Bytes>>);

#[derive(Default)]
struct State {
    known: BTreeMap<CopyKey, LocalManifest>,
    in_memory: BTreeMap<CopyKey, HeapCopy>,
    memory_bytes: u64,
    /// Given up: the last attempt that ran then, and when it was.
    retired: BTreeMap<AllocationId, (AttemptId, Mono)>,
    /// Roots across whose border files had to be copied instead of linked.
    copying_roots: BTreeSet<RelPath>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct LocalShelf(Arc<Inner>);

struct Inner {
    platform: Platform,
    job: JobId,
    program: ProgramId,
    roots: Vec<RelPath>,
    state: Mutex<State>,
}

impl LocalShelf {
    /// `roots`: how many directories are configured for copies, which lie in them by turns. Touches nothing.
    pub fn new(platform: &Platform, job: JobId, program: ProgramId, roots: u32) -> LocalShelf {
        let roots = LocalLayout::roots(roots);
        LocalShelf(Arc::new(Inner { platform: platform.clone(), job, program, roots, state: Mutex::default() }))
    }

    /// The store of one subtask, called `name`, in one allocation.
    pub fn store(
        &self,
        allocation: AllocationId,
        subtask: SubtaskId,
        name: &str,
        format: CopyFormat,
        sabotage: SabotageSet,
    ) -> LocalStateStore {
        LocalStateStore::on_shelf(self, allocation, subtask, name, format, sabotage)
    }

    pub(super) fn platform(&self) -> &Platform {
        &self.0.platform
    }

    pub(super) fn job(&self) -> JobId {
        self.0.job
    }

    pub(super) fn program(&self) -> ProgramId {
        self.0.program
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.0.state.lock().expect("local shelf: a holder panicked"))
    }

    /// The directories that may hold a copy, the one whose turn it was first (Flink takes the id modulo their number).
    pub(super) fn roots_for(&self, checkpoint: CheckpointId) -> Vec<RelPath> {
        let mut roots = self.0.roots.clone();
        let turn = usize::try_from(checkpoint.0 % roots.len() as u64).unwrap_or(0);
        roots.rotate_left(turn);
        roots
    }

    pub(super) fn roots(&self) -> &[RelPath] {
        &self.0.roots
    }

    /// Where native files of a copy go: by turns too, but among the roots that can hold links, as far as that is known.
    pub(super) fn native_root_for(&self, checkpoint: CheckpointId) -> RelPath {
        let copying = self.state(|state| state.copying_roots.clone());
        let mut roots = self.roots_for(checkpoint);
        let linking = roots.iter().position(|root| !copying.contains(root)).unwrap_or(0);
        roots.swap_remove(linking)
    }

    /// Files came into `root` by copying them. True: for the first time.
    pub(super) fn copied_into(&self, root: &RelPath) -> bool {
        self.state(|state| state.copying_roots.insert(root.clone()))
    }

    /// There is a copy.
    pub(super) fn add(&self, manifest: &LocalManifest) {
        self.state(|state| state.known.insert(key_of(manifest), manifest.clone()));
    }

    /// There is none any more, or it cannot be believed.
    pub(super) fn forget(&self, key: CopyKey) {
        self.state(|state| {
            state.known.remove(&key);
            state.drop_from_memory(key);
        });
    }

    /// Keeps a copy in memory. The oldest go until it fits.
    ///
    /// # Errors
    /// If it is larger than all of them together may be.
    pub(super) fn keep_in_memory(
        &self,
        manifest: LocalManifest,
        parts: BTreeMap<String, Bytes>,
        limit_bytes: u64,
    ) -> Result<(), String> {
        let bytes: u64 = parts.values().map(|part| part.len() as u64).sum();
        if bytes > limit_bytes {
            return Err(format!("it has {bytes} bytes, and local copies in memory may have {limit_bytes} together"));
        }
        let key = key_of(&manifest);
        let dropped = self.state(|state| {
            state.drop_from_memory(key);
            let mut dropped = Vec::new();
            while state.memory_bytes + bytes > limit_bytes {
                let Some(oldest) = state.in_memory.keys().next().copied() else { break };
                state.drop_from_memory(oldest);
                state.known.remove(&oldest);
                dropped.push(oldest);
            }
            state.memory_bytes += bytes;
            state.known.insert(key, manifest.clone());
            let held = Held::new(&self.0.platform.memory, bytes);
            state.in_memory.insert(key, HeapCopy { manifest, parts: Arc::new(parts), held });
            dropped
        });
        for CopyKey { checkpoint, subtask, .. } in dropped {
            let subtask = format!("v{}[{}]", subtask.0, subtask.1);
            let reason = format!("local copies in memory may have {limit_bytes} bytes together, and it was the oldest");
            self.0.platform.journal.emit(Event::LocalCopyDiscarded { subtask, checkpoint, reason });
        }
        Ok(())
    }

    pub(super) fn in_memory(&self, key: CopyKey) -> Option<InMemory> {
        self.state(|state| state.in_memory.get(&key).map(|copy| (copy.manifest.clone(), Arc::clone(&copy.parts))))
    }

    /// Checkpoints of which this subtask has a copy in memory.
    pub(super) fn checkpoints_in_memory(&self, allocation: AllocationId, subtask: SubtaskKey) -> Vec<CheckpointId> {
        self.state(|state| {
            let keys = state.in_memory.keys().filter(|key| (key.allocation, key.subtask) == (allocation, subtask));
            keys.map(|key| key.checkpoint).collect()
        })
    }

    /// Bytes of all copies in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.state(|state| state.memory_bytes)
    }

    /// What is here, as far as known.
    pub fn inventory(&self) -> LocalInventory {
        self.state(|state| LocalInventory { copies: state.known.values().map(HeldCopy::of).collect() })
    }

    /// Copies of `checkpoint` that say they have exactly one of `parts`, other than the one of `own`; those with most bytes of
    /// them first, so that few are opened.
    pub(super) fn others_with(
        &self,
        checkpoint: CheckpointId,
        parts: &[&StatePart],
        own: (AllocationId, SubtaskId),
    ) -> Vec<(AllocationId, SubtaskId)> {
        let own = (own.0, SubtaskKey::from(own.1));
        self.state(|state| {
            let mut found: Vec<(u64, AllocationId, SubtaskId)> = state
                .known
                .iter()
                .filter(|(key, _)| key.checkpoint == checkpoint && (key.allocation, key.subtask) != own)
                .filter_map(|(key, manifest)| {
                    let has = |part: &&&StatePart| {
                        manifest.parts.iter().any(|held| held.name == part.name && held.mirrors(part))
                    };
                    let bytes: u64 = parts.iter().filter(has).map(|part| part.length).sum();
                    let subtask = SubtaskId { vertex: VertexId(key.subtask.0), index: key.subtask.1 };
                    (bytes > 0).then_some((bytes, key.allocation, subtask))
                })
                .collect();
            found.sort_by_key(|(bytes, allocation, subtask)| (std::cmp::Reverse(*bytes), *allocation, *subtask));
            found.into_iter().map(|(_, allocation, subtask)| (allocation, subtask)).collect()
        })
    }

    /// Bytes of this subtask's copies that the newest of them does not have: links keep files alive that the database has
    /// compacted away, and these bytes are the copies' own.
    pub(super) fn exclusive_bytes(&self, allocation: AllocationId, subtask: SubtaskKey) -> u64 {
        self.state(|state| {
            let mut copies: Vec<&LocalManifest> = state
                .known
                .iter()
                .filter(|(key, _)| (key.allocation, key.subtask) == (allocation, subtask))
                .map(|(_, manifest)| manifest)
                .collect();
            let Some(newest) = copies.pop() else { return 0 };
            let mut counted: BTreeSet<&str> = newest.parts.iter().map(|part| part.object.as_str()).collect();
            let older = copies.into_iter().flat_map(|manifest| &manifest.parts);
            older.filter(|part| counted.insert(&part.object)).map(|part| part.length).sum()
        })
    }

    /// The allocation is given up. Its copies stay until a later execution has a checkpoint of its own.
    pub async fn retire(&self, allocation: AllocationId, last: AttemptId) {
        let now = self.0.platform.clock.now();
        self.state(|state| state.retired.insert(allocation, (last, now)));
        // So that a process that starts here does not offer the slot again. What cannot be removed is sorted out then.
        let _ = allocations::forget_slot(&*self.0.platform.disk, allocation).await;
    }

    /// Whether some allocation is retired that `attempt`, which has completed a checkpoint, does not need.
    pub fn has_retired(&self, attempt: AttemptId) -> bool {
        self.state(|state| state.retired.values().any(|(last, _)| *last < attempt))
    }

    /// Removes what was given up so long ago and wanted by nobody since.
    pub async fn clear_forgotten(&self, after: Duration) {
        let now = self.0.platform.clock.now();
        for allocation in self.retired_where(|_, since| now.since(since) > after) {
            self.release(allocation).await;
        }
    }

    /// Whether something was given up so long ago.
    pub fn has_forgotten(&self, after: Duration) -> bool {
        let now = self.0.platform.clock.now();
        !self.retired_where(|_, since| now.since(since) > after).is_empty()
    }

    fn retired_where(&self, which: impl Fn(AttemptId, Mono) -> bool) -> Vec<AllocationId> {
        self.state(|state| {
            let found = state.retired.iter().filter(|(_, (last, since))| which(*last, *since));
            found.map(|(allocation, _)| *allocation).collect()
        })
    }

    /// `attempt` has completed a checkpoint: what was given up before it goes.
    pub async fn clear_retired(&self, attempt: AttemptId) {
        for allocation in self.retired_where(|last, _| last < attempt) {
            self.release(allocation).await;
        }
    }

    /// Removes all local state of an allocation, now.
    pub async fn release(&self, allocation: AllocationId) {
        self.state(|state| {
            state.retired.remove(&allocation);
            let gone: Vec<CopyKey> = state.known.keys().filter(|key| key.allocation == allocation).copied().collect();
            for key in gone {
                state.known.remove(&key);
                state.drop_from_memory(key);
            }
        });
        // What cannot be removed now is found and removed at the next start.
        let _ = allocations::release(&*self.0.platform.disk, &self.0.roots, allocation).await;
    }

    /// At start: looks at what an earlier process left in the allocations that are held again. Whole copies of this job and
    /// program are known from now on; everything else is removed.
    pub async fn adopt_left_overs(&self, held: &BTreeSet<AllocationId>) {
        let disk = &self.0.platform.disk;
        let records = LocalLayout::root();
        let others = self.0.roots.iter().filter(|root| **root != records);
        for root in std::iter::once(&records).chain(others) {
            for name in disk.list(root).await.unwrap_or_default() {
                let Ok(directory) = RelPath::new(format!("{root}/{name}")) else { continue };
                let allocation = held.iter().find(|held| LocalLayout::allocation_name(**held) == name);
                match allocation {
                    Some(allocation) => self.adopt_allocation(*allocation, &directory).await,
                    // A slot that is not held any more, or something else.
                    None => drop(disk.remove_tree(&directory).await),
                }
            }
        }
    }

    async fn adopt_allocation(&self, allocation: AllocationId, directory: &RelPath) {
        let disk = &self.0.platform.disk;
        for name in disk.list(directory).await.unwrap_or_default() {
            if !name.starts_with("jid_") {
                continue;
            }
            let Ok(of_job) = RelPath::new(format!("{directory}/{name}")) else { continue };
            if name != LocalLayout::job_name(self.0.job) {
                self.drop_left_over(&of_job, CheckpointId(0), "of another job").await;
                continue;
            }
            for name in disk.list(&of_job).await.unwrap_or_default() {
                let Ok(of_subtask) = RelPath::new(format!("{of_job}/{name}")) else { continue };
                let Some(subtask) = LocalLayout::parse_subtask(&name) else {
                    self.drop_left_over(&of_subtask, CheckpointId(0), "of no subtask").await;
                    continue;
                };
                for name in disk.list(&of_subtask).await.unwrap_or_default() {
                    let Ok(copy) = RelPath::new(format!("{of_subtask}/{name}")) else { continue };
                    let checkpoint = parse_copy(&name);
                    match self.look_at(&copy, checkpoint, allocation, subtask).await {
                        Ok(()) => {}
                        Err(reason) => self.drop_left_over(&copy, checkpoint.unwrap_or_default(), &reason).await,
                    }
                }
            }
        }
    }

    /// Takes note of one copy, if it is whole.
    async fn look_at(
        &self,
        directory: &RelPath,
        checkpoint: Option<CheckpointId>,
        allocation: AllocationId,
        subtask: SubtaskId,
    ) -> Result<(), String> {
        let checkpoint = checkpoint.ok_or("no local copy")?;
        let bytes = match self.0.platform.disk.read(&directory.join(MANIFEST), None).await {
            Ok(bytes) => bytes,
            Err(crate::platform::DiskError::NotFound(_)) => return Err("never finished".to_string()),
            // Perhaps it can be read when it is wanted.
            Err(_) => return Ok(()),
        };
        let manifest = LocalManifest::decode(&bytes).map_err(|error| format!("its manifest: {error}"))?;
        let wanted = CopyKey { checkpoint, subtask: subtask.into(), allocation };
        if key_of(&manifest) != wanted || manifest.job != self.0.job {
            return Err("its manifest is of something else".to_string());
        }
        if manifest.program != self.0.program {
            return Err("it was written by another program".to_string());
        }
        self.add(&manifest);
        Ok(())
    }

    async fn drop_left_over(&self, directory: &RelPath, checkpoint: CheckpointId, reason: &str) {
        // What cannot be removed is not used either.
        let _ = self.0.platform.disk.remove_tree(directory).await;
        let subtask = directory.parent().map_or_else(String::new, |parent| parent.name().to_string());
        let reason = format!("left over at {directory}: {reason}");
        self.0.platform.journal.emit(Event::LocalCopyDiscarded { subtask, checkpoint, reason });
    }
}

impl State {
    fn drop_from_memory(&mut self, key: CopyKey) {
        if let Some(copy) = self.in_memory.remove(&key) {
            self.memory_bytes -= copy.parts.values().map(|part| part.len() as u64).sum::<u64>();
            drop(copy.held);
        }
    }
}

fn key_of(manifest: &LocalManifest) -> CopyKey {
    CopyKey { checkpoint: manifest.checkpoint, subtask: manifest.subtask, allocation: manifest.allocation }
}
