//! Task-local state: second copies of snapshots on the machine that took them (Flink `TaskLocalStateStoreImpl`).
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

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        frame::{self, FrameError},
        types::{StatePart, SubtaskKey},
    },
    ids::{AllocationId, CheckpointId, JobId, KeyGroupRange, OperatorUid, SubtaskId},
    journal::Event,
    layout::LocalLayout,
    platform::{DiskError, NativeDir, Platform, RelPath},
    points::Point,
    sabotage::{Sabotage, SabotageSet},
};

const MAGIC: [u8; 4] = *b"WELM";
const VERSION: u16 = 1;
/// Without numbers, which say nothing, and differ from run to run where a database has written the file.
pub(super) const WRONG_CHECKSUM: &str = "its checksum is wrong";
const MANIFEST: &str = "_manifest";
/// Where adopted files come in, before they get the names of their parts.
const ENTRANCE: &str = "_entrance";

/// One part in a local copy, and which object of primary storage it mirrors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPart {
    pub operator: OperatorUid,
    pub key_groups: KeyGroupRange,
    pub name: String,
    pub object: String,
    pub length: u64,
    /// Of one length, as in [`StatePart`].
    #[serde(with = "postcard::fixint::le")]
    pub crc32c: u32,
}

/// What a local copy is a copy of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalManifest {
    pub job: JobId,
    pub allocation: AllocationId,
    pub subtask: SubtaskKey,
    pub checkpoint: CheckpointId,
    /// The parts that were written whole; perhaps not all of the snapshot.
    pub parts: Vec<LocalPart>,
}

impl LocalManifest {
    /// # Errors
    /// [`FrameError::Content`] if it cannot be serialized.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        frame::encode_value(MAGIC, VERSION, self)
    }

    /// # Errors
    /// [`FrameError`] for bytes that are not exactly one manifest.
    pub fn decode(bytes: &[u8]) -> Result<LocalManifest, FrameError> {
        frame::decode_value(MAGIC, VERSION, bytes)
    }
}

/// A name that can be a file in a copy's directory: names come back from disks and stores.
fn is_file_name(name: &str) -> bool {
    !name.contains('/') && name != MANIFEST && name != ENTRANCE && RelPath::new(name).is_ok()
}

fn parse_copy(name: &str) -> Option<CheckpointId> {
    let id = CheckpointId(name.strip_prefix("chk_")?.parse().ok()?);
    (name == format!("chk_{id}")).then_some(id)
}

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
    platform: Platform,
    allocation: AllocationId,
    job: JobId,
    subtask: SubtaskId,
    /// `count[1]`, for the journal.
    name: String,
    sabotage: SabotageSet,
    dropped: Mutex<Dropped>,
}

impl LocalStateStore {
    /// The store of `subtask`, called `name`, in `allocation`. Touches nothing.
    pub fn new(platform: &Platform, allocation: AllocationId, job: JobId, subtask: SubtaskId, name: &str) -> Self {
        Self::sabotaged(platform, allocation, job, subtask, name, SabotageSet::default())
    }

    /// [`Self::new`], with deliberate faults.
    pub fn sabotaged(
        platform: &Platform,
        allocation: AllocationId,
        job: JobId,
        subtask: SubtaskId,
        name: &str,
        sabotage: SabotageSet,
    ) -> Self {
        LocalStateStore(Arc::new(Inner {
            platform: platform.clone(),
            allocation,
            job,
            subtask,
            name: name.to_string(),
            sabotage,
            dropped: Mutex::default(),
        }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn directory(&self, checkpoint: CheckpointId) -> RelPath {
        LocalLayout::checkpoint(self.0.allocation, self.0.job, self.0.subtask, checkpoint)
    }

    fn home(&self) -> RelPath {
        LocalLayout::subtask(self.0.allocation, self.0.job, self.0.subtask)
    }

    fn dropped<T>(&self, with: impl FnOnce(&mut Dropped) -> T) -> T {
        with(&mut self.0.dropped.lock().expect("local state store: a holder panicked"))
    }

    pub(super) fn is_dropped(&self, checkpoint: CheckpointId) -> bool {
        self.dropped(|d| d.contains(checkpoint))
    }

    fn emit(&self, event: Event) {
        self.0.platform.journal.emit(event);
    }

    /// Starts a copy of `checkpoint`.
    pub fn begin(&self, checkpoint: CheckpointId) -> LocalWriter {
        LocalWriter {
            store: self.clone(),
            checkpoint,
            clean: false,
            broken: None,
            parts: Vec::new(),
            lacks_parts: false,
        }
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
            let _ = self.0.platform.disk.remove_tree(&self.directory(checkpoint)).await;
        }
        self.emit(Event::LocalCopyConfirmed { subtask: self.0.name.clone(), checkpoint });
    }

    /// `checkpoint` was aborted: its copy goes.
    pub async fn abort(&self, checkpoint: CheckpointId) {
        self.dropped(|d| d.exactly.insert(checkpoint));
        self.remove_where("aborted", |id| id == checkpoint).await;
    }

    /// Keeps only the copy of `keep`, if any: that of the checkpoint being restored.
    pub async fn prune(&self, keep: Option<CheckpointId>) {
        self.remove_where("not the checkpoint being restored", |id| Some(id) != keep).await;
    }

    /// Removes everything; nothing is stored any more.
    pub async fn dispose(&self) {
        self.dropped(|d| d.all = true);
        // What cannot be removed goes with the allocation's directory, or is found at the next start.
        let _ = self.0.platform.disk.remove_tree(&self.home()).await;
    }

    async fn remove_where(&self, reason: &str, which: impl Fn(CheckpointId) -> bool) {
        let Ok(names) = self.0.platform.disk.list(&self.home()).await else { return };
        for checkpoint in names.iter().filter_map(|n| parse_copy(n)).filter(|id| which(*id)) {
            self.remove(checkpoint, reason).await;
        }
    }

    async fn remove(&self, checkpoint: CheckpointId, reason: &str) {
        let reason = match self.0.platform.disk.remove_tree(&self.directory(checkpoint)).await {
            Ok(()) => reason.to_string(),
            Err(error) => format!("{reason}; its files could not be removed: {error}"),
        };
        self.emit(Event::LocalCopyDiscarded { subtask: self.0.name.clone(), checkpoint, reason });
    }

    /// Gives up the copy of `checkpoint` that is perhaps still being written; removes it in the background.
    pub fn give_up(&self, checkpoint: CheckpointId, reason: &str) {
        self.dropped(|d| d.exactly.insert(checkpoint));
        let reason = reason.to_string();
        self.emit(Event::LocalCopyFailed { subtask: self.0.name.clone(), checkpoint, reason: reason.clone() });
        let store = self.clone();
        let name = format!("discard local copy {checkpoint} of {}", self.0.name);
        // Detached: nobody waits for it.
        drop(self.0.platform.spawner.control(&name, Box::pin(async move { store.remove(checkpoint, &reason).await })));
    }

    /// The newest checkpoint of which there is a whole copy: what a planted bug restores from.
    #[cfg(feature = "sabotage")]
    pub(super) async fn newest(&self) -> Option<CheckpointId> {
        let names = self.0.platform.disk.list(&self.home()).await.ok()?;
        let mut copies: Vec<_> = names.iter().filter_map(|name| parse_copy(name)).collect();
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
    pub async fn retrieve(&self, checkpoint: CheckpointId) -> Result<LocalCopy, String> {
        if self.is_dropped(checkpoint) {
            return Err("the local copy was discarded".to_string());
        }
        let path = self.directory(checkpoint).join(MANIFEST);
        let bytes = match self.0.platform.disk.read(&path, None).await {
            Ok(bytes) => bytes,
            Err(DiskError::NotFound(_)) => return Err("there is no local copy".to_string()),
            Err(error) => return Err(format!("local manifest: {error}")),
        };
        let manifest = LocalManifest::decode(&bytes).map_err(|e| {
            self.0.platform.journal.reached(Point::LocalManifestWrong);
            format!("local manifest: {e}")
        })?;
        let ours = (self.0.job, self.0.allocation, SubtaskKey::from(self.0.subtask), checkpoint);
        let found = (manifest.job, manifest.allocation, manifest.subtask, manifest.checkpoint);
        if ours != found {
            return Err(format!(
                "local manifest is of checkpoint {} of subtask v{}[{}], job {}, allocation {}",
                found.3, found.2.0, found.2.1, found.0, found.1
            ));
        }
        Ok(LocalCopy { store: self.clone(), manifest })
    }
}

/// Writes one copy. Never fails the snapshot: what goes wrong is journalled.
pub struct LocalWriter {
    store: LocalStateStore,
    checkpoint: CheckpointId,
    clean: bool,
    /// Why the copy as a whole cannot be.
    broken: Option<String>,
    parts: Vec<LocalPart>,
    /// Some part could not be stored.
    lacks_parts: bool,
}

impl LocalWriter {
    pub fn store(&self) -> &LocalStateStore {
        &self.store
    }

    pub fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), DiskError> {
        let path = self.store.directory(self.checkpoint).join(name);
        let mut file = self.store.0.platform.disk.create_new(&path).await?;
        file.append(bytes).await?;
        file.sync().await
    }

    /// Stores one part. If it cannot be stored, the copy goes on without it.
    pub async fn put(&mut self, part: &StatePart, bytes: Bytes) {
        let store = self.store.clone();
        let checkpoint = self.checkpoint;
        if store.is_dropped(checkpoint) || self.broken.is_some() {
            return;
        }
        if !self.clean_up().await {
            return;
        }
        let length = bytes.len() as u64;
        let result = if is_file_name(&part.name) {
            self.write(&part.name, bytes).await.map_err(|e| e.to_string())
        } else {
            Err("not a file name".to_string())
        };
        match result {
            Ok(()) => self.stored(part, length),
            Err(reason) => self.failed(part, reason),
        }
    }

    /// Takes over files of a native checkpoint, by link where the disk can. If it cannot, the copy goes on without them.
    pub async fn adopt_native(&mut self, from: &NativeDir, subdirectory: &str, files: &[(String, &StatePart)]) {
        let store = self.store.clone();
        let checkpoint = self.checkpoint;
        if store.is_dropped(checkpoint) || self.broken.is_some() || files.is_empty() || !self.clean_up().await {
            return;
        }
        let disk = &store.0.platform.disk;
        let directory = store.directory(checkpoint);
        // Under their own names first, which may be those of another database's files too.
        let entrance = directory.join(ENTRANCE);
        let names: Vec<String> = files.iter().map(|(file, _)| file.clone()).collect();
        let entered = match disk.adopt(from, subdirectory, &names, &entrance).await {
            Ok(entered) => entered,
            Err(error) => {
                for (_, part) in files {
                    self.failed(part, error.to_string());
                }
                return;
            }
        };
        for ((file, part), linked) in files.iter().zip(entered) {
            if !is_file_name(&part.name) {
                self.failed(part, "not a file name".to_string());
                continue;
            }
            match disk.rename(&entrance.join(file), &directory.join(&part.name)).await {
                Ok(()) => self.stored(part, linked.length),
                Err(error) => self.failed(part, error.to_string()),
            }
        }
    }

    /// Takes over a part that a checkpoint before wrote; `bytes`: from its local copy, or why they are not to be had there.
    pub async fn adopt(&mut self, part: &StatePart, bytes: Result<Bytes, String>) {
        match bytes {
            Ok(bytes) => self.put(part, bytes).await,
            Err(reason) => self.failed(part, reason),
        }
    }

    /// Whether some part is stored.
    pub fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    fn stored(&mut self, part: &StatePart, bytes: u64) {
        self.parts.push(LocalPart {
            operator: part.operator.clone(),
            key_groups: part.key_groups,
            name: part.name.clone(),
            object: part.location.to_string(),
            length: part.length,
            crc32c: part.crc32c,
        });
        let (subtask, part) = (self.store.0.name.clone(), part.name.clone());
        self.store.emit(Event::LocalPartStored { subtask, checkpoint: self.checkpoint, part, bytes });
    }

    fn failed(&mut self, part: &StatePart, reason: String) {
        self.lacks_parts = true;
        let (subtask, part) = (self.store.0.name.clone(), part.name.clone());
        self.store.emit(Event::LocalPartFailed { subtask, checkpoint: self.checkpoint, part, reason });
    }

    /// Before each part. False: there can be no copy.
    async fn clean_up(&mut self) -> bool {
        let store = self.store.clone();
        if !self.clean {
            // Left over from an earlier process, which died while it wrote.
            if let Err(error) = store.0.platform.disk.remove_tree(&store.directory(self.checkpoint)).await {
                self.broken = Some(format!("left-over files cannot be removed: {error}"));
                return false;
            }
            self.clean = !store.0.sabotage.is(Sabotage::LocalPartsOverwrite);
            if !self.clean && !self.parts.is_empty() {
                store.emit(Sabotage::LocalPartsOverwrite.marker());
            }
        }
        true
    }

    /// Makes the copy whole: manifest, then names. True: it is there.
    pub async fn finish(mut self) -> bool {
        let (store, checkpoint) = (self.store.clone(), self.checkpoint);
        let parts = std::mem::take(&mut self.parts);
        let lacks_parts = self.lacks_parts;
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let result = match self.broken.take() {
            Some(reason) => Err(reason),
            None if parts.is_empty() => Err("no part could be stored".to_string()),
            None => self.finish_with(parts).await,
        };
        match result {
            // An abort or a confirmation may have come while the last bytes were written.
            Ok(()) if store.is_dropped(checkpoint) => {
                store.0.platform.journal.reached(Point::LocalDroppedWhileWritten);
                store.remove(checkpoint, "aborted or subsumed while it was written").await;
                false
            }
            Ok(()) => {
                store.0.platform.journal.sometimes(Point::LocalStoredPartly, lacks_parts);
                store.emit(Event::LocalCopyStored { subtask: store.0.name.clone(), checkpoint, parts: count });
                true
            }
            Err(reason) => {
                store.emit(Event::LocalCopyFailed {
                    subtask: store.0.name.clone(),
                    checkpoint,
                    reason: reason.clone(),
                });
                store.remove(checkpoint, &reason).await;
                false
            }
        }
    }

    async fn finish_with(&self, parts: Vec<LocalPart>) -> Result<(), String> {
        let inner = &self.store.0;
        let manifest = LocalManifest {
            job: inner.job,
            allocation: inner.allocation,
            subtask: inner.subtask.into(),
            checkpoint: self.checkpoint,
            parts,
        };
        let bytes = manifest.encode().map_err(|e| e.to_string())?;
        self.write(MANIFEST, bytes).await.map_err(|e| format!("manifest: {e}"))?;
        let directory = self.store.directory(self.checkpoint);
        inner.platform.disk.sync_dir(&directory).await.map_err(|e| format!("directory: {e}"))?;
        inner.platform.disk.sync_dir(&self.store.home()).await.map_err(|e| format!("directory: {e}"))
    }
}

/// A copy whose manifest was read and is of the right checkpoint. Its parts are verified as they are read.
pub struct LocalCopy {
    store: LocalStateStore,
    manifest: LocalManifest,
}

impl LocalCopy {
    pub fn manifest(&self) -> &LocalManifest {
        &self.manifest
    }

    /// Whether the copy has a part of this name at all.
    pub fn has(&self, part: &StatePart) -> bool {
        self.manifest.parts.iter().any(|p| p.name == part.name)
    }

    /// The bytes of `part`, if the copy has exactly it. `trust` skips all verification and is only for a sabotaged run.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn read(&self, part: &StatePart, trust: bool) -> Result<Bytes, String> {
        let found = self.manifest.parts.iter().find(|p| p.name == part.name).ok_or("not in the local copy")?;
        let same = found.operator == part.operator
            && found.key_groups == part.key_groups
            && part.object().is_some_and(|object| found.object == object.as_str())
            && (found.length, found.crc32c) == (part.length, part.crc32c);
        if !same && !trust {
            return Err(format!("mirrors {} ({} bytes), not {}", found.object, found.length, part.location));
        }
        if !is_file_name(&part.name) {
            return Err(format!("{:?} is not a file name", part.name));
        }
        let path = self.store.directory(self.manifest.checkpoint).join(&part.name);
        let journal = &self.store.0.platform.journal;
        let bytes = self.store.0.platform.disk.read(&path, None).await.map_err(|e| {
            journal.sometimes(Point::LocalPartMissing, matches!(e, DiskError::NotFound(_)));
            e.to_string()
        })?;
        if trust {
            return Ok(bytes);
        }
        if bytes.len() as u64 != part.length {
            journal.reached(Point::LocalLengthWrong);
            return Err(format!("has {} bytes, {} were expected", bytes.len(), part.length));
        }
        if crc32c::crc32c(&bytes) != part.crc32c {
            journal.reached(Point::LocalChecksumWrong);
            return Err(WRONG_CHECKSUM.to_string());
        }
        Ok(bytes)
    }
}
