//! Writing one local copy. It never fails the snapshot: what goes wrong is journalled, and costs a part or the copy.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    local_copy::NotLocal,
    local_manifest::{ENTRANCE, LocalManifest, LocalPart, MANIFEST, is_file_name},
    local_shelf::CopyFormat,
    local_store::LocalStateStore,
};
use crate::{
    checkpoint::types::StatePart,
    ids::CheckpointId,
    journal::Event,
    platform::{AdoptMethod, DiskError, NativeDir, RelPath},
    points::Point,
    sabotage::Sabotage,
};

pub struct LocalWriter {
    store: LocalStateStore,
    checkpoint: CheckpointId,
    /// The root it is written below: the one whose turn it is, unless its files are native ones, which go where they can be
    /// linked.
    root: RelPath,
    clean: bool,
    /// Why the copy as a whole cannot be.
    broken: Option<String>,
    manifest: LocalManifest,
    /// Parts that are kept in memory and not written.
    in_memory: BTreeMap<String, Bytes>,
    has_files: bool,
    /// Some part could not be stored.
    lacks_parts: bool,
}

impl LocalWriter {
    pub(super) fn new(store: &LocalStateStore, checkpoint: CheckpointId) -> LocalWriter {
        let root = store.shelf().roots_for(checkpoint).swap_remove(0);
        LocalWriter {
            root,
            checkpoint,
            clean: false,
            broken: None,
            manifest: store.manifest(checkpoint),
            in_memory: BTreeMap::new(),
            has_files: false,
            lacks_parts: false,
            store: store.clone(),
        }
    }

    pub fn store(&self) -> &LocalStateStore {
        &self.store
    }

    pub fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    fn directory(&self) -> RelPath {
        self.store.directory(&self.root, self.checkpoint)
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), DiskError> {
        let path = self.directory().join(name);
        let mut file = self.store.platform().disk.create_new(&path).await?;
        file.append(bytes).await?;
        file.sync().await
    }

    /// Whether parts are kept as objects in memory; not beside files of a native checkpoint, for a copy is of one kind.
    fn is_in_memory(&self) -> bool {
        matches!(self.store.format(), CopyFormat::Memory { .. }) && !self.has_files
    }

    /// Stores one part. If it cannot be stored, the copy goes on without it.
    pub async fn put(&mut self, part: &StatePart, bytes: Bytes) {
        if self.store.is_dropped(self.checkpoint) || self.broken.is_some() {
            return;
        }
        let length = bytes.len() as u64;
        if !is_file_name(&part.name) {
            return self.failed(part, "not a file name".to_string());
        }
        if self.is_in_memory() {
            self.in_memory.insert(part.name.clone(), bytes);
            return self.stored(part, length);
        }
        if !self.clean_up().await {
            return;
        }
        match self.write(&part.name, bytes).await {
            Ok(()) => {
                self.has_files = true;
                self.stored(part, length);
            }
            Err(error) => self.failed(part, error.to_string()),
        }
    }

    /// Takes over files of a native checkpoint, by link where the disk can. If it cannot, the copy goes on without them.
    pub async fn adopt_native(&mut self, from: &NativeDir, subdirectory: &str, files: &[(String, &StatePart)]) {
        let store = self.store.clone();
        if store.is_dropped(self.checkpoint) || self.broken.is_some() || files.is_empty() {
            return;
        }
        if self.manifest.parts.is_empty() {
            self.root = store.shelf().native_root_for(self.checkpoint);
        }
        if !self.clean_up().await {
            return;
        }
        let disk = &store.platform().disk;
        let directory = self.directory();
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
        let copied: u64 = entered.iter().filter(|file| file.method == AdoptMethod::Copy).map(|file| file.length).sum();
        if copied > 0 && store.shelf().copied_into(&self.root) {
            let (task_manager, root) = (store.platform().process.to_string(), self.root.to_string());
            store.emit(Event::LocalFilesCopied { task_manager, root, bytes: copied });
        }
        for ((file, part), linked) in files.iter().zip(entered) {
            if !is_file_name(&part.name) {
                self.failed(part, "not a file name".to_string());
                continue;
            }
            match disk.rename(&entrance.join(file), &directory.join(&part.name)).await {
                Ok(()) => {
                    self.has_files = true;
                    self.stored(part, linked.length);
                }
                Err(error) => self.failed(part, error.to_string()),
            }
        }
    }

    /// Takes over a part that a checkpoint before wrote; `bytes`: from its local copy, or why they are not to be had there.
    pub async fn adopt(&mut self, part: &StatePart, bytes: Result<Bytes, NotLocal>) {
        match bytes {
            Ok(bytes) => self.put(part, bytes).await,
            Err(reason) => self.failed(part, reason.to_string()),
        }
    }

    /// Whether some part is stored.
    pub fn has_parts(&self) -> bool {
        !self.manifest.parts.is_empty()
    }

    fn stored(&mut self, part: &StatePart, bytes: u64) {
        self.manifest.parts.push(LocalPart::of(part));
        let (subtask, part) = (self.store.name().to_string(), part.name.clone());
        self.store.emit(Event::LocalPartStored { subtask, checkpoint: self.checkpoint, part, bytes });
    }

    fn failed(&mut self, part: &StatePart, reason: String) {
        self.lacks_parts = true;
        let (subtask, part) = (self.store.name().to_string(), part.name.clone());
        self.store.emit(Event::LocalPartFailed { subtask, checkpoint: self.checkpoint, part, reason });
    }

    /// Before each part. False: there can be no copy.
    async fn clean_up(&mut self) -> bool {
        if !self.clean {
            // Left over from an earlier process, which died while it wrote.
            if let Err(error) = self.store.platform().disk.remove_tree(&self.directory()).await {
                self.broken = Some(format!("left-over files cannot be removed: {error}"));
                return false;
            }
            self.clean = !self.store.sabotage().is(Sabotage::LocalPartsOverwrite);
            if !self.clean && !self.manifest.parts.is_empty() {
                self.store.emit(Sabotage::LocalPartsOverwrite.marker());
            }
        }
        true
    }

    /// Makes the copy whole: manifest, then names. True: it is there.
    pub async fn finish(mut self) -> bool {
        let (store, checkpoint) = (self.store.clone(), self.checkpoint);
        let lacks_parts = self.lacks_parts;
        let count = u32::try_from(self.manifest.parts.len()).unwrap_or(u32::MAX);
        let result = match self.broken.take() {
            Some(reason) => Err(reason),
            None if self.manifest.parts.is_empty() => Err("no part could be stored".to_string()),
            None => self.finish_whole().await,
        };
        match result {
            // An abort or a confirmation may have come while the last bytes were written.
            Ok(()) if store.is_dropped(checkpoint) => {
                store.platform().journal.reached(Point::LocalDroppedWhileWritten);
                store.remove(checkpoint, "aborted or subsumed while it was written").await;
                false
            }
            Ok(()) => {
                let subtask = store.name().to_string();
                store.platform().journal.sometimes(Point::LocalStoredPartly, lacks_parts);
                store.emit(Event::LocalCopyStored { subtask: subtask.clone(), checkpoint, parts: count });
                let bytes = store.exclusive_bytes();
                if bytes > 0 {
                    store.emit(Event::LocalCopiesExclusive { subtask, checkpoint, bytes });
                }
                true
            }
            Err(reason) => {
                let subtask = store.name().to_string();
                store.emit(Event::LocalCopyFailed { subtask, checkpoint, reason: reason.clone() });
                store.remove(checkpoint, &reason).await;
                false
            }
        }
    }

    async fn finish_whole(&mut self) -> Result<(), String> {
        let parts = std::mem::take(&mut self.in_memory);
        if let (CopyFormat::Memory { limit_bytes }, false) = (self.store.format(), self.has_files) {
            return self.store.shelf().keep_in_memory(self.manifest.clone(), parts, limit_bytes);
        }
        let bytes = self.manifest.encode().map_err(|error| error.to_string())?;
        self.write(MANIFEST, bytes).await.map_err(|error| format!("manifest: {error}"))?;
        let disk = &self.store.platform().disk;
        disk.sync_dir(&self.directory()).await.map_err(|error| format!("directory: {error}"))?;
        disk.sync_dir(&self.store.home(&self.root)).await.map_err(|error| format!("directory: {error}"))?;
        self.store.shelf().add(&self.manifest);
        Ok(())
    }
}
