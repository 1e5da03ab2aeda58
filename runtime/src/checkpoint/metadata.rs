//! The metadata object of a checkpoint: everything needed to restore it, in one object that is written last.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    frame::FrameError,
    metadata_format,
    primary::{BadReading, Primary, ReadError, Readings, damaged_on_the_way},
    types::{PartLocation, SubtaskKey, SubtaskSnapshot},
};
use crate::{
    graph::{ExecutionGraph, Vertex},
    ids::{AttemptId, CheckpointId, JobId, OperatorUid},
    layout::{Layout, SavepointDirectory},
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

    /// The directory that the names of its objects lead from, when it was written.
    fn written_for(&self) -> Option<String> {
        let layout = Layout { job: self.job };
        let below = |name: &ObjectName| name.as_str().starts_with(&layout.checkpoints_prefix());
        let is_checkpoint = self.subtasks.values().flat_map(SubtaskSnapshot::objects).any(below);
        is_checkpoint.then(|| directory_of(&layout.metadata(self.checkpoint)).to_string())
    }

    /// With the names that its objects have if the metadata itself is `object`: a checkpoint or savepoint can be moved and copied as
    /// a whole. The names in the metadata of a savepoint lead from its directory, those of a checkpoint's from the root.
    ///
    /// # Errors
    /// The name of an object that would lie outside of everything.
    pub fn placed_at(mut self, object: &ObjectName) -> Result<CheckpointMetadata, String> {
        let (from, to) = (self.written_for(), directory_of(object).to_string());
        if from.as_deref() == Some(to.as_str()) {
            return Ok(self);
        }
        for part in self.subtasks.values_mut().flat_map(|snapshot| &mut snapshot.parts) {
            if let PartLocation::Object(name) = &mut part.location {
                let moved = match &from {
                    None => join(&to, name.as_str()),
                    Some(from) => join(&to, &relative(from, name.as_str())),
                };
                *name = moved.ok_or_else(|| format!("{name}, seen from {object}, is no place"))?;
            }
        }
        Ok(self)
    }

    /// As it is written for a savepoint that lies in `directory`: with names that lead from there.
    fn for_savepoint(mut self, directory: &SavepointDirectory) -> Result<CheckpointMetadata, String> {
        for part in self.subtasks.values_mut().flat_map(|snapshot| &mut snapshot.parts) {
            if let PartLocation::Object(name) = &mut part.location {
                let own = name.as_str().strip_prefix(&directory.prefix()).and_then(|own| ObjectName::new(own).ok());
                *name = own.ok_or_else(|| format!("{name} does not lie in the savepoint {directory}"))?;
            }
        }
        Ok(self)
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

pub use super::metadata_format::operator_id as flink_operator_id;

/// Up to the last slash; empty: the root.
fn directory_of(object: &ObjectName) -> &str {
    object.as_str().rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The path of `name` from `directory`, both seen from the root.
fn relative(directory: &str, name: &str) -> String {
    let mut from: Vec<&str> = directory.split('/').filter(|c| !c.is_empty()).collect();
    let mut to: Vec<&str> = name.split('/').collect();
    while !from.is_empty() && to.len() > 1 && from[0] == to[0] {
        from.remove(0);
        to.remove(0);
    }
    [vec![".."; from.len()], to].concat().join("/")
}

/// What `path` leads to from `directory`; None if it leads out of the root.
fn join(directory: &str, path: &str) -> Option<ObjectName> {
    let mut place: Vec<&str> = directory.split('/').filter(|c| !c.is_empty()).collect();
    for component in path.split('/') {
        if component == ".." {
            place.pop()?;
        } else {
            place.push(component);
        }
    }
    ObjectName::new(place.join("/")).ok()
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

/// Writes the metadata object of a savepoint, which makes it one. All else in the directory must be durable.
///
/// # Errors
/// Why it could not be written, for people. The savepoint has failed then.
pub async fn write_savepoint(
    primary: &Primary,
    directory: &SavepointDirectory,
    metadata: CheckpointMetadata,
) -> Result<ObjectName, String> {
    let of = |what: String| format!("metadata of savepoint {directory}: {what}");
    let mut metadata = metadata.for_savepoint(directory).map_err(of)?;
    metadata.written_at = primary.platform().clock.wall();
    let bytes = metadata.encode().map_err(|error| of(error.to_string()))?;
    let object = directory.metadata();
    match primary.create(&object, vec![bytes]).await {
        Ok(()) => Ok(object),
        Err(error) => Err(format!("metadata {object} cannot be written: {error}")),
    }
}

/// Reads the metadata object of `checkpoint`. The names in it are those that its objects have, wherever it lies.
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
    let found = read_any(primary, object).await?;
    if found.checkpoint != checkpoint {
        return Err(lost(format!("it is of checkpoint {}, not {checkpoint}", found.checkpoint)));
    }
    // What lies among the job's checkpoints must be one of them. A savepoint elsewhere may be of another job.
    if found.job != layout.job && layout.checkpoint_of_metadata(object).is_some() {
        return Err(lost(format!("it is of job {}, not {}", found.job, layout.job)));
    }
    Ok(found)
}

/// Reads any metadata object, of whatever checkpoint or savepoint. The names in it are those that its objects have if it lies there.
///
/// # Errors
/// [`MetadataError`].
pub async fn read_any(primary: &Primary, object: &ObjectName) -> Result<CheckpointMetadata, MetadataError> {
    let lost = |reason: String| MetadataError::Lost { object: object.clone(), reason };
    let mut readings = Readings::new(2);
    loop {
        let (reason, meaning) = match primary.read_whole(object).await {
            Ok(bytes) => match CheckpointMetadata::decode(&bytes) {
                Ok(found) => return found.placed_at(object).map_err(lost),
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
