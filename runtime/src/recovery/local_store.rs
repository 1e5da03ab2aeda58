//! Task-local state: second copies of snapshots on the machine that took them (Flink `TaskLocalStateStoreImpl`). This file is
//! about the life of the copies of one subtask; writing them, reading them and keeping all of a TaskManager's together have
//! files of their own.
//!
//! A copy is a cache of what primary storage holds. Everything here may fail, lag or be lost, and nothing else suffers: a
//! part that cannot be written is left out, a copy that cannot be finished is removed, and what is read back is believed
//! only if its manifest names exactly what is being restored and length and checksum agree.
//!
//! On disk, per (allocation, job, subtask): `chk_<id>/` with one file per part and, written last, `_manifest`. A directory
//! without a whole manifest is no copy.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use super::{
    local_copy::{LocalCopy, NotLocal, Shelved},
    local_manifest::{LocalManifest, MANIFEST, parse_copy},
    local_shelf::{CopyFormat, CopyKey, LocalShelf},
    local_writer::LocalWriter,
};
use crate::{
    checkpoint::types::SubtaskKey,
    graph::ProgramId,
    ids::{AllocationId, CheckpointId, JobId, SubtaskId},
    journal::Event,
    layout::LocalLayout,
    platform::{DiskError, Platform, RelPath},
    points::Point,
    sabotage::{Sabotage, SabotageSet},
};

/// Which copies must not exist, whatever is still being written.
#[derive(Default)]
struct Dropped {
    below: CheckpointId,
    exactly: BTreeSet<CheckpointId>,
    all: bool,
}

impl Dropped {
    fn contains(&self, checkpoint: CheckpointId) -> bool {
        self.all || checkpoint < self.below || self.exactly.contains(&checkpoint)
    }
}

/// The local copies of one subtask in one allocation. Cheap to clone.
#[derive(Clone)]
pub struct LocalStateStore(Arc<Inner>);

struct Inner {
    shelf: LocalShelf,
    allocation: AllocationId,
    subtask: SubtaskId,
    /// `count[1]`, for the journal.
    name: String,
    format: CopyFormat,
    sabotage: SabotageSet,
    dropped: Mutex<Dropped>,
}

impl LocalStateStore {
    /// The store of `subtask`, called `name`, in `allocation`, on a shelf of its own: without the copies of others. Touches
    /// nothing.
    pub fn new(platform: &Platform, allocation: AllocationId, job: JobId, subtask: SubtaskId, name: &str) -> Self {
        let shelf = LocalShelf::new(platform, job, ProgramId::default(), 0);
        shelf.store(allocation, subtask, name, CopyFormat::Files, SabotageSet::default())
    }

    pub(super) fn on_shelf(
        shelf: &LocalShelf,
        allocation: AllocationId,
        subtask: SubtaskId,
        name: &str,
        format: CopyFormat,
        sabotage: SabotageSet,
    ) -> Self {
        let (shelf, name, dropped) = (shelf.clone(), name.to_string(), Mutex::default());
        LocalStateStore(Arc::new(Inner { shelf, allocation, subtask, name, format, sabotage, dropped }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn shelf(&self) -> &LocalShelf {
        &self.0.shelf
    }

    pub(super) fn platform(&self) -> &Platform {
        self.0.shelf.platform()
    }

    pub(super) fn format(&self) -> CopyFormat {
        self.0.format
    }

    pub(super) fn sabotage(&self) -> &SabotageSet {
        &self.0.sabotage
    }

    pub(super) fn owner(&self) -> (AllocationId, SubtaskId) {
        (self.0.allocation, self.0.subtask)
    }

    pub(super) fn key(&self, checkpoint: CheckpointId) -> CopyKey {
        CopyKey { checkpoint, subtask: self.0.subtask.into(), allocation: self.0.allocation }
    }

    /// What a copy of `checkpoint` by this store says of itself.
    pub(super) fn manifest(&self, checkpoint: CheckpointId) -> LocalManifest {
        LocalManifest {
            job: self.0.shelf.job(),
            program: self.0.shelf.program(),
            allocation: self.0.allocation,
            subtask: self.0.subtask.into(),
            checkpoint,
            parts: Vec::new(),
        }
    }

    /// The subtask's directory below one root.
    pub(super) fn home(&self, root: &RelPath) -> RelPath {
        LocalLayout::subtask_below(root, self.0.allocation, self.0.shelf.job(), self.0.subtask)
    }

    pub(super) fn directory(&self, root: &RelPath, checkpoint: CheckpointId) -> RelPath {
        self.home(root).join(&format!("chk_{checkpoint}"))
    }

    fn dropped<T>(&self, with: impl FnOnce(&mut Dropped) -> T) -> T {
        with(&mut self.0.dropped.lock().expect("local state store: a holder panicked"))
    }

    pub(super) fn is_dropped(&self, checkpoint: CheckpointId) -> bool {
        self.dropped(|d| d.contains(checkpoint))
    }

    pub(super) fn emit(&self, event: Event) {
        self.platform().journal.emit(event);
    }

    /// Starts a copy of `checkpoint`.
    pub fn begin(&self, checkpoint: CheckpointId) -> LocalWriter {
        LocalWriter::new(self, checkpoint)
    }

    /// `checkpoint` completed: the copies of all older ones go.
    pub async fn confirm(&self, checkpoint: CheckpointId) {
        self.dropped(|d| {
            d.below = d.below.max(checkpoint);
            let below = d.below;
            d.exactly.retain(|id| *id >= below);
        });
        self.remove_where("subsumed", |id| id < checkpoint).await;
        if self.0.sabotage.is(Sabotage::ConfirmDropsCopy) && self.retrieve(checkpoint).await.is_ok() {
            self.emit(Sabotage::ConfirmDropsCopy.marker());
            self.0.shelf.forget(self.key(checkpoint));
            for root in self.0.shelf.roots() {
                let _ = self.platform().disk.remove_tree(&self.directory(root, checkpoint)).await;
            }
        }
        self.emit(Event::LocalCopyConfirmed { subtask: self.0.name.clone(), checkpoint });
    }

    /// `checkpoint` was aborted: its copy goes.
    pub async fn abort(&self, checkpoint: CheckpointId) {
        self.dropped(|d| d.exactly.insert(checkpoint));
        self.remove_where("aborted", |id| id == checkpoint).await;
    }

    /// Keeps only the copy of `keep`, if any: that of the checkpoint being restored. One that a later checkpoint had subsumed is
    /// wanted again, as far as it is still there.
    pub async fn prune(&self, keep: Option<CheckpointId>) {
        if let Some(keep) = keep {
            self.dropped(|d| d.below = d.below.min(keep));
        }
        self.remove_where("not the checkpoint being restored", |id| Some(id) != keep).await;
    }

    /// Removes everything; nothing is stored any more.
    pub async fn dispose(&self) {
        self.dropped(|d| d.all = true);
        for checkpoint in self.0.shelf.checkpoints_in_memory(self.0.allocation, self.0.subtask.into()) {
            self.0.shelf.forget(self.key(checkpoint));
        }
        for root in self.0.shelf.roots() {
            // What cannot be removed goes with the allocation's directory, or is found at the next start.
            let _ = self.platform().disk.remove_tree(&self.home(root)).await;
        }
    }

    async fn remove_where(&self, reason: &str, which: impl Fn(CheckpointId) -> bool) {
        let mut found: BTreeSet<CheckpointId> =
            self.0.shelf.checkpoints_in_memory(self.0.allocation, self.0.subtask.into()).into_iter().collect();
        for root in self.0.shelf.roots() {
            let names = self.platform().disk.list(&self.home(root)).await.unwrap_or_default();
            found.extend(names.iter().filter_map(|name| parse_copy(name)));
        }
        for checkpoint in found.into_iter().filter(|id| which(*id)) {
            self.remove(checkpoint, reason).await;
        }
    }

    pub(super) async fn remove(&self, checkpoint: CheckpointId, reason: &str) {
        self.0.shelf.forget(self.key(checkpoint));
        let mut said = reason.to_string();
        for root in self.0.shelf.roots() {
            if let Err(error) = self.platform().disk.remove_tree(&self.directory(root, checkpoint)).await {
                said = format!("{said}; its files could not be removed: {error}");
            }
        }
        self.emit(Event::LocalCopyDiscarded { subtask: self.0.name.clone(), checkpoint, reason: said });
    }

    /// Gives up the copy of `checkpoint` that is perhaps still being written; removes it in the background.
    pub fn give_up(&self, checkpoint: CheckpointId, reason: &str) {
        self.dropped(|d| d.exactly.insert(checkpoint));
        let reason = reason.to_string();
        self.emit(Event::LocalCopyFailed { subtask: self.0.name.clone(), checkpoint, reason: reason.clone() });
        let store = self.clone();
        let name = format!("discard local copy {checkpoint} of {}", self.0.name);
        // Detached: nobody waits for it.
        let body = Box::pin(async move { store.remove(checkpoint, &reason).await });
        drop(self.platform().spawner.control(&name, body));
    }

    /// The newest checkpoint of which there is a whole copy: what a planted bug restores from.
    #[cfg(feature = "sabotage")]
    pub(super) async fn newest(&self) -> Option<CheckpointId> {
        let mut copies = Vec::new();
        for root in self.0.shelf.roots() {
            let names = self.platform().disk.list(&self.home(root)).await.ok()?;
            copies.extend(names.iter().filter_map(|name| parse_copy(name)));
        }
        copies.sort_unstable();
        while let Some(checkpoint) = copies.pop() {
            if self.retrieve(checkpoint).await.is_ok() {
                return Some(checkpoint);
            }
        }
        None
    }

    /// The copy of exactly `checkpoint`, if there is one that can be believed.
    ///
    /// # Errors
    /// Why there is none: absent, damaged, or of something else.
    pub async fn retrieve(&self, checkpoint: CheckpointId) -> Result<LocalCopy, NotLocal> {
        if self.is_dropped(checkpoint) {
            return Err(NotLocal::Discarded);
        }
        let key = self.key(checkpoint);
        if let Some((manifest, parts)) = self.0.shelf.in_memory(key) {
            let directory = self.directory(&self.0.shelf.roots()[0], checkpoint);
            return Ok(LocalCopy { store: self.clone(), directory, manifest, shelved: Shelved::Memory(parts) });
        }
        let found = self.read_manifest(checkpoint).await;
        match &found {
            Ok((_, manifest)) => self.0.shelf.add(manifest),
            Err(_) => self.0.shelf.forget(key),
        }
        let (directory, manifest) = found?;
        Ok(LocalCopy { store: self.clone(), directory, manifest, shelved: Shelved::Files })
    }

    async fn read_manifest(&self, checkpoint: CheckpointId) -> Result<(RelPath, LocalManifest), NotLocal> {
        let platform = self.platform();
        for root in self.0.shelf.roots_for(checkpoint) {
            let directory = self.directory(&root, checkpoint);
            let bytes = match platform.disk.read(&directory.join(MANIFEST), None).await {
                Ok(bytes) => bytes,
                Err(DiskError::NotFound(_)) => continue,
                Err(error) => return Err(NotLocal::Manifest(error.to_string())),
            };
            let manifest = LocalManifest::decode(&bytes).map_err(|error| {
                platform.journal.reached(Point::LocalManifestWrong);
                NotLocal::Manifest(error.to_string())
            })?;
            let ours = self.manifest(checkpoint);
            let LocalManifest { job, allocation, subtask, checkpoint, program, .. } = manifest;
            if (job, allocation, subtask, checkpoint) != (ours.job, ours.allocation, ours.subtask, ours.checkpoint) {
                return Err(NotLocal::OfSomethingElse { checkpoint, subtask, job, allocation });
            }
            if program != ours.program {
                return Err(NotLocal::OtherProgram);
            }
            return Ok((directory, manifest));
        }
        Err(NotLocal::NoCopy)
    }

    pub(super) fn exclusive_bytes(&self) -> u64 {
        self.0.shelf.exclusive_bytes(self.0.allocation, SubtaskKey::from(self.0.subtask))
    }
}
