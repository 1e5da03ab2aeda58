//! Primary storage: the durable object store that all processes share. Create-only: no overwrite exists, so a name, once
//! seen, always means the same bytes.

use std::{fmt, ops::Range, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Fut, Mono, disk::is_plain};

/// The name of an object, relative to the store's root, `/`-separated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a plain relative object name: {0:?}")]
pub struct ObjectNameError(pub String);

impl ObjectName {
    /// # Errors
    /// [`ObjectNameError`] if empty, absolute, or with an empty, `.` or `..` component or a control character.
    pub fn new(name: impl Into<String>) -> Result<ObjectName, ObjectNameError> {
        let name = name.into();
        if is_plain(&name) { Ok(ObjectName(name)) } else { Err(ObjectNameError(name)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectName {
    type Error = ObjectNameError;
    fn try_from(s: String) -> Result<Self, ObjectNameError> {
        ObjectName::new(s)
    }
}

impl From<ObjectName> for String {
    fn from(n: ObjectName) -> String {
        n.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    pub name: ObjectName,
    pub length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object. Definite.
    #[error("no such object")]
    Absent,
    /// The name is taken, by an earlier attempt of ours or by somebody else: read it back to know. Definite.
    #[error("object exists already")]
    Exists,
    /// The operation may or may not have taken effect (timeout, connection lost after the request was sent).
    #[error("the outcome of the operation is unknown")]
    Ambiguous,
    #[error("throttled; retry after {0:?}")]
    Throttled(Duration),
    /// Definitely no effect; retrying may help.
    #[error("storage unavailable: {0}")]
    Unavailable(String),
    #[error("access denied")]
    Denied,
    /// Definitely no effect; retrying is useless.
    #[error("storage error: {0}")]
    Permanent(String),
    /// This process is dead; its handles do nothing any more.
    #[error("the process is dead")]
    Dead,
}

impl StoreError {
    /// Whether trying the same operation again may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Ambiguous | StoreError::Throttled(_) | StoreError::Unavailable(_))
    }
}

/// An object that is being written in pieces. Nobody sees anything of it before it is finished. Dropping it gives it up; what it
/// leaves behind is found by [`PrimaryStorage::unfinished`].
pub trait Upload: Send {
    /// Stores piece `number`, counted from 0, each in its turn. Storing the last one again, with bytes of the same length, replaces
    /// it: so an error that [is retryable](StoreError::is_retryable) is answered by trying the same piece again.
    fn put(&mut self, number: u32, piece: Bytes, by: Mono) -> Fut<'_, Result<(), StoreError>>;
    /// Makes the object of the pieces stored, durable on return. `Exists` if the name is taken: after an ambiguous attempt
    /// perhaps by this very upload.
    fn finish(&mut self, by: Mono) -> Fut<'_, Result<(), StoreError>>;
    /// Gives it up, and removes what is stored of it.
    fn abort(&mut self, by: Mono) -> Fut<'_, Result<(), StoreError>>;
}

pub trait PrimaryStorage: Send + Sync {
    /// Creates `name` with the concatenation of `parts`, durable on return; atomic: nobody ever sees a part of it.
    fn create(&self, name: &ObjectName, parts: Vec<Bytes>, by: Mono) -> Fut<'_, Result<(), StoreError>>;
    /// Begins an object that comes in pieces, for what is too large to be held in memory.
    fn upload<'a>(&'a self, name: &ObjectName, by: Mono) -> Fut<'a, Result<Box<dyn Upload + 'a>, StoreError>>;
    /// Names that start with `prefix` of objects that were begun and neither finished nor given up, sorted, each once. Whoever
    /// began them may still be at it.
    fn unfinished(&self, prefix: &str, by: Mono) -> Fut<'_, Result<Vec<ObjectName>, StoreError>>;
    /// Removes what is stored of all unfinished uploads of `name`, by whomever; they cannot be finished any more. Fine if there
    /// is none.
    fn discard_unfinished(&self, name: &ObjectName, by: Mono) -> Fut<'_, Result<(), StoreError>>;
    /// The bytes of `range` (all for None). The store may return fewer (short read); callers check lengths.
    fn read(&self, name: &ObjectName, range: Option<Range<u64>>, by: Mono) -> Fut<'_, Result<Bytes, StoreError>>;
    /// All objects whose name starts with `prefix` (a plain string prefix), sorted by name.
    fn list(&self, prefix: &str, by: Mono) -> Fut<'_, Result<Vec<ObjectMeta>, StoreError>>;
    /// Deletes; fine if there is none.
    fn delete(&self, name: &ObjectName, by: Mono) -> Fut<'_, Result<(), StoreError>>;

    /// The name of what a person means by `path`, a directory or an object: relative to the root here.
    ///
    /// # Errors
    /// Why this store has nothing under such a path.
    fn locate(&self, path: &str) -> Result<ObjectName, String> {
        let name = path.strip_suffix('/').unwrap_or(path);
        ObjectName::new(name).map_err(|error| error.to_string())
    }

    /// `name` as a person would write it; [`Self::locate`] understands it.
    fn describe(&self, name: &ObjectName) -> String {
        name.to_string()
    }
}

/// An upload for stores of tests that have no faults between pieces: keeps the pieces, and creates the object at the end.
#[cfg(test)]
pub(crate) struct KeptUpload<'a> {
    pub store: &'a dyn PrimaryStorage,
    pub name: ObjectName,
    pub pieces: Vec<Bytes>,
}

#[cfg(test)]
impl Upload for KeptUpload<'_> {
    fn put(&mut self, number: u32, piece: Bytes, _by: Mono) -> Fut<'_, Result<(), StoreError>> {
        self.pieces.truncate(number as usize);
        self.pieces.push(piece);
        Box::pin(std::future::ready(Ok(())))
    }
    fn finish(&mut self, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        self.store.create(&self.name, self.pieces.clone(), by)
    }
    fn abort(&mut self, _by: Mono) -> Fut<'_, Result<(), StoreError>> {
        self.pieces.clear();
        Box::pin(std::future::ready(Ok(())))
    }
}
