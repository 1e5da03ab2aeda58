//! Primary storage in a shared directory, through `object_store`'s local file system: an object appears whole, by a hard
//! link to a synced file, or not at all; two creates of one name cannot both win.
//!
//! Names that begin with `@/` are places outside of that directory, by their path on the machine: savepoints that people keep
//! elsewhere. They mean the same to all processes only if all of them see the same files there.
//!
//! `object_store` syncs the file and its directory. It does not sync a directory that another, still unfinished create has
//! just made, so all directories up to the root are synced here before a create is reported.

use std::{
    error::Error as _,
    future::Future,
    io,
    ops::Range,
    path::{Path as FilePath, PathBuf},
};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Error, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, local::LocalFileSystem, path::Path,
};

use super::{
    super::{Fut, Mono, ObjectMeta, ObjectName, PrimaryStorage, StoreError, Upload, clock::timeout},
    RealError,
    clock::RealClock,
    disk::sync_up_to,
    reactor::Reactor,
    upload::{self, FileUpload},
};

pub(super) struct FileStore {
    reactor: Reactor,
    clock: RealClock,
    root: PathBuf,
    store: LocalFileSystem,
    /// The whole file system, for what lies elsewhere.
    machine: LocalFileSystem,
}

/// Begins the names of objects outside of the root.
const ELSEWHERE: &str = "@/";
/// The directory of an object outside of the root may be new, and those above it: so many are synced.
const NEW_DIRECTORIES: usize = 4;

impl FileStore {
    pub(super) fn open(reactor: Reactor, clock: RealClock, root: &FilePath) -> Result<FileStore, RealError> {
        let failed = |detail: String| RealError::Primary { path: root.to_path_buf(), detail };
        std::fs::create_dir_all(root).map_err(|e| failed(e.to_string()))?;
        let canonical = root.canonicalize().map_err(|e| failed(e.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(&canonical)
            .map_err(|e| failed(e.to_string()))?
            .with_fsync(true)
            // A directory goes with its last object; a create that races with that makes it anew.
            .with_automatic_cleanup(true);
        // Directories above belong to others: only that of a savepoint goes with its last object.
        let machine = LocalFileSystem::new().with_fsync(true);
        Ok(FileStore { reactor, clock, root: canonical, store, machine })
    }

    /// The file system that has the object, and its path there.
    fn place(&self, name: &str) -> Result<(&LocalFileSystem, Path), StoreError> {
        let (store, path) = match name.strip_prefix(ELSEWHERE) {
            Some(path) => (&self.machine, path),
            None => (&self.store, name),
        };
        let path = Path::parse(path).map_err(|e| StoreError::Permanent(format!("{name}: {e}")))?;
        Ok((store, path))
    }

    /// The directory that names are relative to, and `name` relative to it.
    fn root_of<'a>(&self, name: &'a str) -> (PathBuf, &'a str) {
        match name.strip_prefix(ELSEWHERE) {
            Some(name) => (PathBuf::from("/"), name),
            None => (self.root.clone(), name),
        }
    }

    /// The directory below which directories of the object may be new.
    fn known_above(&self, absolute: &FilePath) -> PathBuf {
        match absolute.starts_with(&self.root) {
            true => self.root.clone(),
            false => absolute.ancestors().take(NEW_DIRECTORIES).last().unwrap_or(absolute).to_path_buf(),
        }
    }

    /// Runs `operation` until `by`.
    fn bounded<'a, T: Send + 'a>(
        &'a self,
        by: Mono,
        late: StoreError,
        operation: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> Fut<'a, Result<T, StoreError>> {
        self.reactor.within(async move { timeout(&self.clock, by, operation).await.unwrap_or(Err(late)) })
    }

    async fn create_object(&self, name: &ObjectName, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let (store, path) = self.place(name.as_str())?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload: PutPayload = parts.into_iter().collect();
        let failure = match store.put_opts(&path, payload, options).await {
            Ok(_) => return self.make_names_durable(store, &path).await,
            Err(failure) => failure,
        };
        match store_error(&failure) {
            StoreError::Exists => {
                // Whoever reads it back will build on it.
                self.make_names_durable(store, &path).await?;
                Err(StoreError::Exists)
            }
            error @ StoreError::Permanent(_) => Err(error),
            // It may have failed before the object appeared or while making it durable: look.
            error => match store.head(&path).await {
                Err(Error::NotFound { .. }) => Err(error),
                _ => Err(StoreError::Ambiguous),
            },
        }
    }

    async fn make_names_durable(&self, store: &LocalFileSystem, path: &Path) -> Result<(), StoreError> {
        let absolute = store.path_to_filesystem(path).map_err(|e| StoreError::Permanent(e.to_string()))?;
        let root = self.known_above(&absolute);
        let synced = self.reactor.blocking(move || match absolute.parent() {
            Some(parent) => sync_up_to(&root, parent),
            None => Ok(()),
        });
        // The object is there, only perhaps not for good.
        synced.await.map_err(|_| StoreError::Ambiguous)
    }

    async fn read_object(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let (store, path) = self.place(name.as_str())?;
        let Some(range) = range else {
            let found = store.get(&path).await.map_err(|e| store_error(&e))?;
            return found.bytes().await.map_err(|e| store_error(&e));
        };
        // The library refuses ranges that are empty or begin behind the end; a short read is no error here.
        let length = store.head(&path).await.map_err(|e| store_error(&e))?.size;
        let range = range.start..range.end.min(length);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = object_store::GetOptions { range: Some(GetRange::Bounded(range)), ..Default::default() };
        let found = store.get_opts(&path, options).await.map_err(|e| store_error(&e))?;
        found.bytes().await.map_err(|e| store_error(&e))
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        // The library lists whole directories only.
        let (store, directory) = match prefix.rsplit_once('/') {
            Some((directory, _)) => self.place(directory).map(|(store, path)| (store, Some(path)))?,
            None => (&self.store, None),
        };
        let elsewhere = if prefix.starts_with(ELSEWHERE) { ELSEWHERE } else { "" };
        let found: Vec<_> = store.list(directory.as_ref()).try_collect().await.map_err(|e| store_error(&e))?;
        let mut objects = Vec::new();
        for object in found {
            let name = format!("{elsewhere}{}", object.location);
            if name.starts_with(prefix) {
                let name = ObjectName::new(name).map_err(|e| StoreError::Permanent(e.to_string()))?;
                objects.push(ObjectMeta { name, length: object.size });
            }
        }
        objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }
}

/// The path as the file system has it, as far as it exists.
fn canonical(path: &FilePath) -> PathBuf {
    let known = path.ancestors().find_map(|known| Some((known, known.canonicalize().ok()?)));
    match known {
        // Joined with nothing it would end with a slash.
        Some((known, canonical)) => match path.strip_prefix(known) {
            Ok(rest) if !rest.as_os_str().is_empty() => canonical.join(rest),
            _ => canonical,
        },
        None => path.to_path_buf(),
    }
}

/// Removes the directory of a savepoint, if nothing is in it any more. Others belong to others.
fn remove_savepoint_directory(directory: &FilePath) {
    if directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("savepoint-")) {
        // It fails as long as something is in it.
        let _ = std::fs::remove_dir(directory);
    }
}

fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = current.source();
    }
    None
}

fn store_error(error: &Error) -> StoreError {
    match error {
        Error::NotFound { .. } => StoreError::Absent,
        Error::AlreadyExists { .. } => StoreError::Exists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied,
        Error::InvalidPath { .. } | Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            StoreError::Permanent(error.to_string())
        }
        _ => match io_kind(error) {
            Some(io::ErrorKind::PermissionDenied) => StoreError::Denied,
            Some(io::ErrorKind::NotFound) => StoreError::Absent,
            _ => StoreError::Unavailable(error.to_string()),
        },
    }
}

impl PrimaryStorage for FileStore {
    fn create(&self, name: &ObjectName, parts: Vec<Bytes>, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let name = name.clone();
        self.bounded(by, StoreError::Ambiguous, async move { self.create_object(&name, parts).await })
    }

    fn upload<'a>(&'a self, name: &ObjectName, by: Mono) -> Fut<'a, Result<Box<dyn Upload + 'a>, StoreError>> {
        let name = name.clone();
        self.bounded(by, StoreError::Ambiguous, async move {
            let (store, path) = self.place(name.as_str())?;
            let target = store.path_to_filesystem(&path).map_err(|e| StoreError::Permanent(e.to_string()))?;
            let (reactor, clock) = (self.reactor.clone(), self.clock.clone());
            let upload = FileUpload::begin(reactor, clock, self.known_above(&target), target).await?;
            Ok(Box::new(upload) as Box<dyn Upload + 'a>)
        })
    }

    fn unfinished(&self, prefix: &str, by: Mono) -> Fut<'_, Result<Vec<ObjectName>, StoreError>> {
        let elsewhere = if prefix.starts_with(ELSEWHERE) { ELSEWHERE } else { "" };
        let (root, prefix) = self.root_of(prefix);
        let prefix = prefix.to_string();
        let late = StoreError::Unavailable(format!("looking for unfinished uploads below {prefix} took too long"));
        self.bounded(by, late, async move {
            let call = self.reactor.blocking(move || Ok(upload::unfinished(&root, &prefix)));
            let found = call.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
            Ok(found.into_iter().filter_map(|name| ObjectName::new(format!("{elsewhere}{name}")).ok()).collect())
        })
    }

    fn discard_unfinished(&self, name: &ObjectName, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let is_elsewhere = name.as_str().starts_with(ELSEWHERE);
        let (root, name) = self.root_of(name.as_str());
        let name = name.to_string();
        self.bounded(by, StoreError::Ambiguous, async move {
            let call = self.reactor.blocking(move || {
                Ok(upload::discard_unfinished(&root, &name).map(|directory| match is_elsewhere {
                    true => remove_savepoint_directory(&directory),
                    false => upload::remove_emptied(&root, &directory),
                }))
            });
            call.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
        })
    }

    fn read(&self, name: &ObjectName, range: Option<Range<u64>>, by: Mono) -> Fut<'_, Result<Bytes, StoreError>> {
        let name = name.clone();
        let late = StoreError::Unavailable(format!("reading {name} took too long"));
        self.bounded(by, late, async move { self.read_object(&name, range).await })
    }

    fn list(&self, prefix: &str, by: Mono) -> Fut<'_, Result<Vec<ObjectMeta>, StoreError>> {
        let prefix = prefix.to_string();
        let late = StoreError::Unavailable(format!("listing {prefix} took too long"));
        self.bounded(by, late, async move { self.list_objects(&prefix).await })
    }

    fn delete(&self, name: &ObjectName, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let name = name.clone();
        self.bounded(by, StoreError::Ambiguous, async move {
            // A name that cannot be an object's is not there.
            let Ok((store, path)) = self.place(name.as_str()) else { return Ok(()) };
            match store.delete(&path).await.map_err(|e| store_error(&e)) {
                Ok(()) => {}
                Err(StoreError::Absent) => return Ok(()),
                Err(error) => return Err(error),
            }
            let emptied =
                store.path_to_filesystem(&path).ok().and_then(|path| path.parent().map(FilePath::to_path_buf));
            if let Some(directory) = emptied.filter(|_| name.as_str().starts_with(ELSEWHERE)) {
                let removed = self.reactor.blocking(move || {
                    remove_savepoint_directory(&directory);
                    Ok(())
                });
                let _ = removed.await;
            }
            Ok(())
        })
    }

    fn locate(&self, path: &str) -> Result<ObjectName, String> {
        let plain = path.strip_prefix("file://").or_else(|| path.strip_prefix("file:")).unwrap_or(path);
        if let Some((scheme, _)) = plain.split_once("://") {
            return Err(format!("of the schemes only `file` is built in, not `{scheme}`"));
        }
        let plain = plain.trim_end_matches('/');
        let name = match plain.strip_prefix('/') {
            None => plain.to_string(),
            Some(_) => {
                let place = canonical(FilePath::new(plain));
                let text = |path: &FilePath| path.to_str().map(str::to_string).ok_or("not UTF-8".to_string());
                match place.strip_prefix(&self.root) {
                    Ok(below) => text(below)?,
                    Err(_) => format!("@{}", text(&place)?),
                }
            }
        };
        ObjectName::new(name).map_err(|error| error.to_string())
    }

    fn describe(&self, name: &ObjectName) -> String {
        match name.as_str().strip_prefix(ELSEWHERE) {
            Some(path) => format!("/{path}"),
            None => self.root.join(name.as_str()).display().to_string(),
        }
    }
}
