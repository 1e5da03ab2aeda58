//! The exactly-once sink's manifests. What a sink wrote is output once a manifest lists it, and never otherwise.
//!
//! Per sink and checkpoint there is one name; commit and void marker race for it, and whoever comes second accepts what is
//! there. A commit may only follow the checkpoint's `Completed` entry in the head log and lists exactly what that entry
//! says, so that any leader may repeat it. A manifest is one line of JSON, readable without this program. It carries a
//! checksum of itself: whoever sweeps deletes what no manifest lists, and must not take a damaged name for another one.

use serde::{Deserialize, Serialize};

use super::{
    primary::{BadReading, Primary, ReadError, Readings, damaged_on_the_way},
    types::PrecommittedObject,
};
use crate::{
    ids::{CheckpointId, OperatorUid},
    journal::Event,
    layout::Layout,
    platform::{ObjectName, StoreError},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManifestKind {
    /// The objects listed are output.
    Commit,
    /// Nothing of this checkpoint is output, now or ever.
    Void,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestObject {
    pub name: ObjectName,
    pub length: u64,
    pub records: u64,
}

/// The content of `_committed/<checkpoint>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub kind: ManifestKind,
    pub checkpoint: CheckpointId,
    pub objects: Vec<ManifestObject>,
}

/// A manifest as it is written.
#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(flatten)]
    manifest: Manifest,
    crc32c: u32,
}

impl Manifest {
    pub fn commit(checkpoint: CheckpointId, objects: &[PrecommittedObject]) -> Manifest {
        let objects = objects
            .iter()
            .map(|o| ManifestObject { name: o.object.clone(), length: o.length, records: o.records })
            .collect();
        Manifest { kind: ManifestKind::Commit, checkpoint, objects }
    }

    pub fn void(checkpoint: CheckpointId) -> Manifest {
        Manifest { kind: ManifestKind::Void, checkpoint, objects: Vec::new() }
    }

    /// Of the manifest's JSON without the checksum.
    fn checksum(&self) -> Result<u32, String> {
        serde_json::to_vec(self).map(|bytes| crc32c::crc32c(&bytes)).map_err(|e| e.to_string())
    }

    /// # Errors
    /// Why it cannot be serialized.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let sealed = Sealed { manifest: self.clone(), crc32c: self.checksum()? };
        let mut bytes = serde_json::to_vec(&sealed).map_err(|e| e.to_string())?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, String> {
        let Sealed { manifest, crc32c } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let found = manifest.checksum()?;
        if found != crc32c {
            return Err(format!("checksum {found:08x}, {crc32c:08x} was expected"));
        }
        if manifest.kind == ManifestKind::Void && !manifest.objects.is_empty() {
            return Err("a void marker lists objects".to_string());
        }
        Ok(manifest)
    }
}

/// What is under the name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// What was asked for (by this call or an earlier one).
    Done,
    /// Somebody else was first, with something else. It stands.
    Other(Manifest),
}

/// Why a manifest could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Try again: until it succeeded the output of a completed checkpoint is not visible.
    #[error("manifest {object}: {error}")]
    Store { object: ObjectName, error: StoreError },
    /// Readers cannot trust this sink any more.
    #[error("manifest {object} is damaged: {reason}")]
    Damaged { object: ObjectName, reason: String },
}

impl CommitError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, CommitError::Store { error, .. } if error.is_retryable())
    }
}

async fn put(primary: &Primary, object: &ObjectName, manifest: &Manifest) -> Result<CommitOutcome, CommitError> {
    let damaged = |reason| CommitError::Damaged { object: object.clone(), reason };
    let bytes = manifest.encode().map_err(damaged)?;
    match primary.create(object, vec![bytes.into()]).await {
        Ok(()) => Ok(CommitOutcome::Done),
        Err(StoreError::Exists) => {
            let found = get(primary, object, None).await?;
            Ok(if found == *manifest { CommitOutcome::Done } else { CommitOutcome::Other(found) })
        }
        Err(error) => Err(CommitError::Store { object: object.clone(), error }),
    }
}

async fn get(primary: &Primary, object: &ObjectName, length: Option<u64>) -> Result<Manifest, CommitError> {
    let mut readings = Readings::new(3);
    loop {
        let read = match length {
            Some(length) => primary.read_exact(object, length).await,
            None => primary.read_whole(object).await,
        };
        let (reason, meaning) = match read {
            Ok(bytes) => match Manifest::decode(&bytes) {
                Ok(manifest) => return Ok(manifest),
                Err(reason) => (reason, readings.bad(&bytes)),
            },
            Err(ReadError::Store(error)) => return Err(CommitError::Store { object: object.clone(), error }),
            Err(error @ ReadError::Length { .. }) => (error.to_string(), readings.wrong_length(&error)),
        };
        match meaning {
            BadReading::Again => {}
            BadReading::AtRest => return Err(CommitError::Damaged { object: object.clone(), reason }),
            BadReading::OnTheWay => {
                return Err(CommitError::Store { object: object.clone(), error: damaged_on_the_way() });
            }
        }
    }
}

/// Makes `objects` output of `sink`. To be repeated until it succeeds once the checkpoint's `Completed` entry is durable.
///
/// # Errors
/// [`CommitError`].
pub async fn commit(
    primary: &Primary,
    layout: Layout,
    sink: &OperatorUid,
    checkpoint: CheckpointId,
    objects: &[PrecommittedObject],
) -> Result<CommitOutcome, CommitError> {
    let name = layout.sink_commit(&sink.0, checkpoint);
    let outcome = put(primary, &name, &Manifest::commit(checkpoint, objects)).await?;
    if outcome == CommitOutcome::Done {
        let objects = u32::try_from(objects.len()).unwrap_or(u32::MAX);
        primary.platform().journal.emit(Event::SinkCommitted { sink: sink.0.clone(), checkpoint, objects });
    }
    Ok(outcome)
}

/// Makes sure that `checkpoint` is never committed for `sink`. If it is committed already, that stands and is returned.
///
/// # Errors
/// [`CommitError`].
pub async fn void(
    primary: &Primary,
    layout: Layout,
    sink: &OperatorUid,
    checkpoint: CheckpointId,
) -> Result<CommitOutcome, CommitError> {
    let name = layout.sink_commit(&sink.0, checkpoint);
    let outcome = put(primary, &name, &Manifest::void(checkpoint)).await?;
    if outcome == CommitOutcome::Done {
        primary.platform().journal.emit(Event::SinkVoided { sink: sink.0.clone(), checkpoint });
    }
    Ok(outcome)
}

/// All manifests of `sink`, commits and void markers, by checkpoint.
///
/// # Errors
/// [`CommitError`].
pub async fn read_manifests(
    primary: &Primary,
    layout: Layout,
    sink: &OperatorUid,
) -> Result<Vec<Manifest>, CommitError> {
    let prefix = layout.sink_commit_prefix(&sink.0);
    let listed = match primary.list(&prefix).await {
        Ok(listed) => listed,
        Err(error) => {
            let object = layout.sink_commit(&sink.0, CheckpointId(0));
            return Err(CommitError::Store { object, error });
        }
    };
    let mut manifests = Vec::with_capacity(listed.len());
    for meta in listed {
        let manifest = get(primary, &meta.name, Some(meta.length)).await?;
        if layout.sink_commit(&sink.0, manifest.checkpoint) != meta.name {
            let reason = format!("it is of checkpoint {}", manifest.checkpoint);
            return Err(CommitError::Damaged { object: meta.name, reason });
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

/// The output of `sink`: its committed manifests, by checkpoint.
///
/// # Errors
/// [`CommitError`].
pub async fn read_committed(
    primary: &Primary,
    layout: Layout,
    sink: &OperatorUid,
) -> Result<Vec<Manifest>, CommitError> {
    let mut manifests = read_manifests(primary, layout, sink).await?;
    manifests.retain(|m| m.kind == ManifestKind::Commit);
    Ok(manifests)
}
