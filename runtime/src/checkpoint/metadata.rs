//! The metadata object of a checkpoint: everything needed to restore it, in one object that is written last.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    frame::FrameError,
    metadata_format,
    primary::{BadReading, Primary, ReadError, Readings, damaged_on_the_way},
    types::{SubtaskKey, SubtaskSnapshot},
};
use crate::{
    graph::{ExecutionGraph, Vertex},
    ids::{AttemptId, CheckpointId, JobId, OperatorUid},
    layout::Layout,
    platform::{ObjectName, StoreError, Wall},
};

/// What a checkpoint consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointMetadata {
    pub job: JobId,
    pub job_name: String,
    pub checkpoint: CheckpointId,
    /// The execution it is a checkpoint of.
    pub attempt: AttemptId,
    /// When it was written down; for people.
    pub written_at: Wall,
    /// The vertices that its subtasks were of; vertex i has id i.
    pub vertices: Vec<VertexShape>,
    pub subtasks: BTreeMap<SubtaskKey, SubtaskSnapshot>,
}

/// A vertex as it was when the checkpoint was taken: what must be known to give its state to other subtasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VertexShape {
    /// Operators of the chain, first to last.
    pub operators: Vec<OperatorUid>,
    pub parallelism: u32,
    pub max_parallelism: u16,
}

impl VertexShape {
    pub fn all(graph: &ExecutionGraph) -> Vec<VertexShape> {
        let shape = |vertex: &Vertex| VertexShape {
            operators: vertex.operators.clone(),
            parallelism: vertex.parallelism,
            max_parallelism: vertex.max_parallelism,
        };
        graph.vertices.iter().map(shape).collect()
    }
}

impl CheckpointMetadata {
    /// # Errors
    /// [`FrameError::Content`] if it cannot be serialized.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        metadata_format::encode(self)
    }

    /// # Errors
    /// [`FrameError`] for bytes that are not exactly one metadata object of a version that this program reads.
    pub fn decode(bytes: &[u8]) -> Result<CheckpointMetadata, FrameError> {
        metadata_format::decode(bytes)
    }

    /// All state objects it refers to, in a fixed order.
    pub fn objects(&self) -> Vec<ObjectName> {
        self.subtasks.values().flat_map(SubtaskSnapshot::objects).cloned().collect()
    }

    /// Those of them that this checkpoint wrote itself.
    pub fn own_objects(&self) -> Vec<ObjectName> {
        self.subtasks.values().flat_map(|s| s.own_objects(self.checkpoint)).cloned().collect()
    }
}

/// Why a checkpoint's metadata could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Gone or damaged: the checkpoint cannot be restored, now or later. Condemn it and choose again.
    #[error("metadata {object} is lost: {reason}")]
    Lost { object: ObjectName, reason: String },
    /// The store cannot be used now; try again later.
    #[error("metadata {object} cannot be read now: {error}")]
    Unavailable { object: ObjectName, error: StoreError },
}

/// Writes the metadata object. Its name is the checkpoint's, whose id no other ever has. On a failure tries to remove what may have been written; what cannot
/// be removed is left to the orphan sweep.
///
/// # Errors
/// Why it could not be written, for people. The checkpoint must then be aborted.
pub async fn write(primary: &Primary, layout: Layout, mut metadata: CheckpointMetadata) -> Result<ObjectName, String> {
    let platform = primary.platform();
    metadata.written_at = platform.clock.wall();
    let object = layout.metadata(metadata.checkpoint);
    let bytes = metadata.encode().map_err(|e| format!("metadata of checkpoint {}: {e}", metadata.checkpoint))?;
    match primary.create(&object, vec![bytes]).await {
        Ok(()) => Ok(object),
        Err(error) => {
            if error == StoreError::Ambiguous {
                // The outcome of the removal does not matter: nobody refers to the name, and nobody will.
                let _ = primary.delete(&object).await;
            }
            Err(format!("metadata {object} cannot be written: {error}"))
        }
    }
}

/// Reads the metadata object of `checkpoint`.
///
/// # Errors
/// [`MetadataError`].
pub async fn read(
    primary: &Primary,
    layout: Layout,
    checkpoint: CheckpointId,
    object: &ObjectName,
) -> Result<CheckpointMetadata, MetadataError> {
    let lost = |reason: String| MetadataError::Lost { object: object.clone(), reason };
    let mut readings = Readings::new(2);
    loop {
        let (reason, meaning) = match primary.read_whole(object).await {
            Ok(bytes) => match CheckpointMetadata::decode(&bytes) {
                Ok(found) if found.checkpoint != checkpoint => {
                    return Err(lost(format!("it is of checkpoint {}, not {checkpoint}", found.checkpoint)));
                }
                Ok(found) if found.job != layout.job => {
                    return Err(lost(format!("it is of job {}, not {}", found.job, layout.job)));
                }
                Ok(found) => return Ok(found),
                Err(error) => (error.to_string(), readings.bad(&bytes)),
            },
            Err(ReadError::Store(StoreError::Absent)) => return Err(lost(StoreError::Absent.to_string())),
            Err(ReadError::Store(error)) => return Err(MetadataError::Unavailable { object: object.clone(), error }),
            Err(error @ ReadError::Length { .. }) => (error.to_string(), readings.wrong_length(&error)),
        };
        match meaning {
            BadReading::Again => {}
            BadReading::AtRest => return Err(lost(reason)),
            BadReading::OnTheWay => {
                let error = damaged_on_the_way();
                return Err(MetadataError::Unavailable { object: object.clone(), error });
            }
        }
    }
}
