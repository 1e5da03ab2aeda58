//! The disk of the machine a process runs on: files that survive the process but not the machine.
//!
//! What is durable: a file's bytes up to its last successful [`DiskFile::sync`]; a name (created, renamed, linked,
//! removed) once [`LocalDisk::sync_dir`] of its directory succeeded. Everything else may be lost, torn or undone when the
//! machine or the process dies.

use std::{fmt, ops::Range, path::PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Fut;

/// A path below a process's disk root: components of visible characters joined by `/`, none of them `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a relative path of plain components: {0:?}")]
pub struct PathError(pub String);

impl RelPath {
    /// # Errors
    /// [`PathError`] if empty, absolute, or with an empty, `.` or `..` component or a control character or backslash.
    pub fn new(path: impl Into<String>) -> Result<RelPath, PathError> {
        let path = path.into();
        if is_plain(&path) { Ok(RelPath(path)) } else { Err(PathError(path)) }
    }

    /// `self/component`.
    ///
    /// # Panics
    /// If `component` is not a plain relative path: names are made by the program, never taken from outside.
    #[must_use]
    pub fn join(&self, component: &str) -> RelPath {
        assert!(is_plain(component), "not a plain path component: {component:?}");
        RelPath(format!("{}/{component}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    pub fn parent(&self) -> Option<RelPath> {
        self.0.rsplit_once('/').map(|(dir, _)| RelPath(dir.to_string()))
    }

    pub fn starts_with(&self, prefix: &RelPath) -> bool {
        self.0.strip_prefix(&prefix.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

pub(super) fn is_plain(path: &str) -> bool {
    let mut component = 0;
    let mut dots = 0;
    // Asked for every name that is made or received. All separators are single bytes, which no other character contains.
    for byte in path.bytes() {
        match byte {
            b'/' if component == 0 || (dots == component && dots <= 2) => return false,
            b'/' => (component, dots) = (0, 0),
            b'\\' | 0..0x20 | 0x7f => return false,
            // The first byte of the control characters beyond ASCII, and of others.
            0xc2 if path.contains(char::is_control) => return false,
            _ => {
                component += 1;
                dots += usize::from(byte == b'.');
            }
        }
    }
    component > 0 && !(dots == component && dots <= 2)
}

impl TryFrom<String> for RelPath {
    type Error = PathError;
    fn try_from(s: String) -> Result<Self, PathError> {
        RelPath::new(s)
    }
}

impl From<RelPath> for String {
    fn from(p: RelPath) -> String {
        p.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    #[error("{0}: no such file or directory")]
    NotFound(RelPath),
    #[error("{0}: exists already")]
    Exists(RelPath),
    #[error("{0}: no space left on device")]
    NoSpace(RelPath),
    #[error("{0}: permission denied")]
    Denied(RelPath),
    #[error("{0}: cross-device link")]
    CrossDevice(RelPath),
    #[error("{path}: input/output error: {detail}")]
    Io { path: RelPath, detail: String },
    /// This process is dead; its handles do nothing any more.
    #[error("the process is dead")]
    Dead,
}

/// Which device a path lives on; hard links do not cross devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u64);

/// A directory of the real file system in which native code (RocksDB) works. Scratch: worthless after a crash. Removed
/// when the last clone is dropped.
#[derive(Clone, Debug)]
#[allow(clippy::disallowed_types, reason = "native code needs a real directory; this handle is how it gets one")]
pub struct NativeDir(pub std::sync::Arc<tempfile::TempDir>);

impl NativeDir {
    /// The path for native code. Only the seam may touch it otherwise.
    pub fn path(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }
}

/// How a file of a native directory came under a [`LocalDisk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptMethod {
    HardLink,
    Copy,
}

/// One adopted file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    pub name: String,
    pub length: u64,
    pub method: AdoptMethod,
}

pub trait DiskFile: Send {
    /// Appends; on an error an unknown prefix was written and the file must be given up.
    fn append(&mut self, bytes: Bytes) -> Fut<'_, Result<(), DiskError>>;
    /// Makes everything appended so far durable.
    fn sync(&mut self) -> Fut<'_, Result<(), DiskError>>;
}

/// Whether a native file never changes once it is written: a table of RocksDB, or its large values.
pub fn is_table(file: &str) -> bool {
    file.ends_with(".sst") || file.ends_with(".blob")
}

pub trait LocalDisk: Send + Sync {
    /// Creates a file that must not exist, and its missing parent directories.
    fn create_new(&self, path: &RelPath) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>>;
    /// The bytes of `range` (all for None). Fails with `Io` if the file ends before `range.end`.
    fn read(&self, path: &RelPath, range: Option<Range<u64>>) -> Fut<'_, Result<Bytes, DiskError>>;
    fn length(&self, path: &RelPath) -> Fut<'_, Result<u64, DiskError>>;
    /// Atomically replaces `to`.
    fn rename(&self, from: &RelPath, to: &RelPath) -> Fut<'_, Result<(), DiskError>>;
    /// A second name for the same content. `CrossDevice` if the two are on different devices.
    fn link(&self, from: &RelPath, to: &RelPath) -> Fut<'_, Result<(), DiskError>>;
    fn remove(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>>;
    /// Removes a directory with all it holds; fine if there is none.
    fn remove_tree(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>>;
    /// Makes the names inside `path` durable.
    fn sync_dir(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>>;
    /// Names directly inside `path` (directories and files), sorted; empty if there is no such directory.
    fn list(&self, path: &RelPath) -> Fut<'_, Result<Vec<String>, DiskError>>;
    fn device_of(&self, path: &RelPath) -> Fut<'_, Result<DeviceId, DiskError>>;

    /// A new scratch directory for native code.
    fn native_dir(&self) -> Fut<'_, Result<NativeDir, DiskError>>;
    /// Takes `files` of a native directory under this disk below `to` and makes them durable: by hard link where the
    /// device allows, else by copy. All or nothing: on an error nothing is left below `to`.
    fn adopt(
        &self,
        from: &NativeDir,
        subdirectory: &str,
        files: &[String],
        to: &RelPath,
    ) -> Fut<'_, Result<Vec<Linked>, DiskError>>;
    /// The way back: gives native code the file `from` as `file` of a native directory, below `subdirectory`; one of that name is
    /// replaced. A table file, which native code never writes into, by hard link where the device allows, anything else by copy.
    fn materialize(
        &self,
        from: &RelPath,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<AdoptMethod, DiskError>>;
    /// Names of the files directly inside a subdirectory of a native directory, sorted.
    fn list_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<Vec<String>, DiskError>>;
    /// The length of a file of a native directory, below `subdirectory`.
    fn native_length(&self, from: &NativeDir, subdirectory: &str, file: &str) -> Fut<'_, Result<u64, DiskError>>;
    /// Bytes of a file of a native directory, below `subdirectory`. Fails with `Io` if the file ends before `range.end`.
    fn read_native(
        &self,
        from: &NativeDir,
        subdirectory: &str,
        file: &str,
        range: Range<u64>,
    ) -> Fut<'_, Result<Bytes, DiskError>>;
    /// Begins a file of a native directory, and the directories it is in; a file of that name is replaced. It need not be
    /// synced: nothing there outlives the process.
    fn create_native(
        &self,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>>;
    /// Removes a subdirectory of a native directory with all it holds; fine if there is none.
    fn remove_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<(), DiskError>>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the documentation of [`RelPath`] has it, word by word.
    fn plain_by_the_book(path: &str) -> bool {
        let component =
            |c: &str| !matches!(c, "" | "." | "..") && !c.contains(|ch: char| ch.is_control() || ch == '\\');
        !path.is_empty() && path.split('/').all(component)
    }

    proptest! {
        #[test]
        fn a_path_is_plain_if_every_component_is(path in "[a./\\\\\u{0}\u{7f}\u{85}\u{a0}é]{0,8}", any in "\\PC{0,6}") {
            prop_assert_eq!(is_plain(&path), plain_by_the_book(&path));
            prop_assert_eq!(is_plain(&any), plain_by_the_book(&any));
        }
    }
}
