//! A savepoint as a thing that lies somewhere: found by the path that a person gives, checked, read, and disposed of.
//!
//! A retained checkpoint that a job is to start from is the same thing here: a directory with a `_metadata` file. Nothing here
//! changes one; only [`dispose`] deletes, and only what the savepoint's own metadata names in its own directory.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    metadata::{self, CheckpointMetadata, MetadataError},
    primary::Primary,
    types::{StatePart, SubtaskSnapshot},
};
use crate::{
    layout::SavepointDirectory,
    platform::{ObjectName, StoreError},
};

/// Why there is nothing to start from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SavepointError {
    /// Definite: what is named there is no savepoint, or not a whole one.
    #[error("{0}")]
    Unusable(String),
    /// Try again later.
    #[error("{0}")]
    Unavailable(String),
}

/// Files that are missing or have another size are named up to this number.
const NAMED: usize = 8;

/// The metadata object of the savepoint at `path`, which is its directory or its `_metadata` file.
///
/// # Errors
/// [`SavepointError`]: nothing is there, or the path is none.
pub async fn find(primary: &Primary, path: &str) -> Result<ObjectName, SavepointError> {
    let store = &primary.platform().primary;
    let name = store.locate(path).map_err(SavepointError::Unusable)?;
    let metadata = if name.as_str().rsplit('/').next() == Some("_metadata") {
        name
    } else {
        SavepointDirectory::at(name).metadata()
    };
    match primary.length(&metadata).await {
        Ok(Some(_)) => Ok(metadata),
        Ok(None) => Err(SavepointError::Unusable(format!(
            "{path} is no savepoint: there is no {} (a savepoint is named by its directory or by the _metadata file in it)",
            store.describe(&metadata)
        ))),
        Err(error) => Err(SavepointError::Unavailable(format!("{path} cannot be looked at now: {error}"))),
    }
}

/// Reads the metadata and looks whether every file that it names is there with the size that it should have.
///
/// # Errors
/// [`SavepointError`]; one message names all files that are missing or of another size.
pub async fn open(primary: &Primary, object: &ObjectName) -> Result<CheckpointMetadata, SavepointError> {
    let metadata = metadata::read_any(primary, object).await.map_err(|error| match error {
        MetadataError::Lost { .. } => SavepointError::Unusable(error.to_string()),
        MetadataError::Unavailable { .. } => SavepointError::Unavailable(error.to_string()),
    })?;
    let expected: BTreeMap<&ObjectName, u64> = parts(&metadata).filter_map(|p| Some((p.object()?, p.length))).collect();
    let directories: BTreeSet<&str> =
        expected.keys().map(|name| name.as_str().rsplit_once('/').map_or("", |(directory, _)| directory)).collect();
    let mut found = BTreeMap::new();
    for directory in directories {
        let listed = primary.list(&format!("{directory}/")).await;
        let listed = listed.map_err(|error| SavepointError::Unavailable(format!("{directory}: {error}")))?;
        found.extend(listed.into_iter().map(|meta| (meta.name, meta.length)));
    }
    let wrong: Vec<String> = expected
        .into_iter()
        .filter_map(|(name, length)| match found.get(name) {
            None => Some(format!("{name} is missing")),
            Some(found) if *found != length => Some(format!("{name} has {found} bytes instead of {length}")),
            Some(_) => None,
        })
        .collect();
    if wrong.is_empty() {
        return Ok(metadata);
    }
    let more = wrong.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let named = wrong.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    Err(SavepointError::Unusable(format!("{object} is not whole: {named}{more}")))
}

fn parts(metadata: &CheckpointMetadata) -> impl Iterator<Item = &StatePart> {
    metadata.subtasks.values().flat_map(|snapshot: &SubtaskSnapshot| &snapshot.parts)
}

/// Deletes the savepoint at `path`: the files that its metadata names in its own directory, then the metadata. If something fails in
/// between, the savepoint can be disposed of again.
///
/// # Errors
/// [`SavepointError`]: nothing is there, it is a checkpoint of a job (which deletes its own), or the store fails.
pub async fn dispose(primary: &Primary, path: &str) -> Result<(), SavepointError> {
    let object = find(primary, path).await?;
    let directory = object.as_str().rsplit_once('/').map_or("", |(directory, _)| directory);
    let directory =
        ObjectName::new(directory).map_err(|_| SavepointError::Unusable(format!("{path} is no directory")))?;
    let last = directory.as_str().rsplit('/').next().unwrap_or_default();
    if last.starts_with("chk-") || SavepointDirectory::refuses(&directory).is_some() {
        let reason =
            "is a checkpoint, whose files others may refer to: its job deletes it, or a person who knows what he does";
        return Err(SavepointError::Unusable(format!("{path} {reason}")));
    }
    let metadata = metadata::read_any(primary, &object).await.map_err(|error| match error {
        MetadataError::Lost { .. } => SavepointError::Unusable(error.to_string()),
        MetadataError::Unavailable { .. } => SavepointError::Unavailable(error.to_string()),
    })?;
    let prefix = SavepointDirectory::at(directory).prefix();
    let own = metadata.objects().into_iter().filter(|name| name.as_str().starts_with(&prefix));
    let own: Vec<_> = own.chain([object]).collect();
    let deleted: Result<(), (usize, StoreError)> = primary.delete_all(&own[..own.len() - 1]).await;
    let deleted = match deleted {
        Ok(()) => primary.delete_all(&own[own.len() - 1..]).await,
        failed => failed,
    };
    deleted.map_err(|(count, error)| {
        SavepointError::Unavailable(format!("{count} files of {path} could not be deleted; the last: {error}"))
    })
}
