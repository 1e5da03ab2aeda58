//! Reading a local copy: a part is given only if manifest, length and checksum say that it is exactly the part asked for.
//! Everything else is a reason not to use it, and never an error of the restore.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    local_manifest::{LocalManifest, is_file_name},
    local_store::LocalStateStore,
};
use crate::{
    checkpoint::types::{StatePart, SubtaskKey},
    ids::{AllocationId, CheckpointId, JobId},
    platform::{DiskError, RelPath},
    points::Point,
};

/// Why a part was not taken from a local copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotLocal {
    /// By configuration, or the subtask has no local state at all.
    #[error("local recovery is off")]
    Off,
    #[error("there is no local copy")]
    NoCopy,
    /// Aborted, subsumed, or of a slot that was given up.
    #[error("the local copy was discarded")]
    Discarded,
    /// The copy was finished without it.
    #[error("not in the local copy")]
    NotInCopy,
    /// Torn, altered, or of another version of the format.
    #[error("local manifest: {0}")]
    Manifest(String),
    #[error(
        "local manifest is of checkpoint {checkpoint} of subtask v{}[{}], job {job}, allocation {allocation}",
        subtask.0, subtask.1
    )]
    OfSomethingElse { checkpoint: CheckpointId, subtask: SubtaskKey, job: JobId, allocation: AllocationId },
    /// Written by another program: short cuts are taken only by the one that made them.
    #[error("the local copy was written by another program")]
    OtherProgram,
    #[error("mirrors {object} ({bytes} bytes), not {wanted}")]
    MirrorsAnother { object: String, bytes: u64, wanted: String },
    #[error("{0:?} is not a file name")]
    Name(String),
    #[error("has {found} bytes, {expected} were expected")]
    Length { expected: u64, found: u64 },
    // Without numbers, which say nothing, and differ from run to run where a database has written the file.
    #[error("its checksum is wrong")]
    Checksum,
    /// The file is gone, may not be read, or cannot be.
    #[error("{0}")]
    Disk(String),
    #[error("the local disk does not answer")]
    NoAnswer,
}

/// Where a copy's bytes are.
pub(super) enum Shelved {
    Files,
    /// By the names of parts.
    Memory(std::sync::Arc<std::collections::BTreeMap<String, Bytes>>),
}

/// A copy whose manifest was read and is of the right checkpoint. Its parts are verified as they are read.
pub struct LocalCopy {
    pub(super) store: LocalStateStore,
    pub(super) directory: RelPath,
    pub(super) manifest: LocalManifest,
    pub(super) shelved: Shelved,
}

impl LocalCopy {
    pub fn manifest(&self) -> &LocalManifest {
        &self.manifest
    }

    /// Whether the copy says that it has exactly this part.
    pub fn mirrors(&self, part: &StatePart) -> bool {
        self.manifest.parts.iter().any(|held| held.name == part.name && held.mirrors(part))
    }

    /// The file in which the bytes of `part` lie, if they lie in one.
    pub(super) fn file(&self, part: &StatePart) -> Option<RelPath> {
        matches!(self.shelved, Shelved::Files).then(|| self.directory.join(&part.name))
    }

    /// The bytes of `part`, if the copy has exactly it. `trust` skips all verification and is only for a sabotaged run.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn read(&self, part: &StatePart, trust: bool) -> Result<Bytes, NotLocal> {
        let found = self.manifest.parts.iter().find(|held| held.name == part.name).ok_or(NotLocal::NotInCopy)?;
        if !found.mirrors(part) && !trust {
            let (object, wanted) = (found.object.clone(), part.location.to_string());
            return Err(NotLocal::MirrorsAnother { object, bytes: found.length, wanted });
        }
        if !is_file_name(&part.name) {
            return Err(NotLocal::Name(part.name.clone()));
        }
        let platform = self.store.platform();
        let bytes = match &self.shelved {
            Shelved::Memory(parts) => parts.get(&part.name).cloned().ok_or(NotLocal::NotInCopy)?,
            Shelved::Files => {
                let read = platform.disk.read(&self.directory.join(&part.name), None).await;
                read.map_err(|error| {
                    platform.journal.sometimes(Point::LocalPartMissing, matches!(error, DiskError::NotFound(_)));
                    NotLocal::Disk(error.to_string())
                })?
            }
        };
        if trust {
            return Ok(bytes);
        }
        let found = bytes.len() as u64;
        if found != part.length {
            platform.journal.reached(Point::LocalLengthWrong);
            return Err(NotLocal::Length { expected: part.length, found });
        }
        if crc32c::crc32c(&bytes) != part.crc32c {
            platform.journal.reached(Point::LocalChecksumWrong);
            return Err(NotLocal::Checksum);
        }
        Ok(bytes)
    }
}
