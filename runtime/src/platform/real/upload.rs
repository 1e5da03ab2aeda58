//! Objects of the shared directory that come in pieces: a staged file beside the object, which a hard link gives its name.
//!
//! The staged file is called as `object_store` calls its own, `<object>#<number>`, which no listing shows. What a process
//! leaves behind when it dies is found by that name, whichever of the two made it.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    super::{Fut, Mono, StoreError, Upload, clock::timeout},
    clock::RealClock,
    disk::sync_up_to,
    reactor::Reactor,
};

fn store_error(error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::Exists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Denied,
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn staged(target: &Path, number: u32) -> PathBuf {
    let mut path = target.as_os_str().to_owned();
    path.push(format!("#{number}"));
    path.into()
}

/// The object that a staged file is for.
fn staged_for(path: &str) -> Option<&str> {
    let (object, number) = path.rsplit_once('#')?;
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    (is_number && !object.ends_with('/') && !object.is_empty()).then_some(object)
}

fn begin(target: &Path) -> io::Result<(File, PathBuf)> {
    let parent = target.parent().unwrap_or(target);
    let mut number = 1;
    loop {
        let path = staged(target, number);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            // Made here, or gone again with the last object in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(parent)?,
            Err(error) => return Err(error),
        }
    }
}

/// All staged files below `directory`, each with the name of its object.
fn find_staged(root: &Path, directory: &Path, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        // Never there, or gone meanwhile.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find_staged(root, &path, found)?;
        } else if let Some(relative) = path.strip_prefix(root).ok().and_then(Path::to_str)
            && let Some(object) = staged_for(relative)
        {
            found.push((object.to_string(), path.clone()));
        }
    }
    Ok(())
}

/// The directory of all names that begin with `prefix`.
fn directory_of(root: &Path, prefix: &str) -> PathBuf {
    prefix.rsplit_once('/').map_or_else(|| root.to_path_buf(), |(directory, _)| root.join(directory))
}

/// Names below `root` that start with `prefix` and have staged files.
pub(super) fn unfinished(root: &Path, prefix: &str) -> Result<BTreeSet<String>, StoreError> {
    let mut found = Vec::new();
    find_staged(root, &directory_of(root, prefix), &mut found).map_err(|error| store_error(&error))?;
    Ok(found.into_iter().map(|(object, _)| object).filter(|object| object.starts_with(prefix)).collect())
}

/// Removes the staged files of `name`. Gives the directory that they were in.
pub(super) fn discard_unfinished(root: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let directory = directory_of(root, name);
    let mut found = Vec::new();
    find_staged(root, &directory, &mut found).map_err(|error| store_error(&error))?;
    for (object, path) in found {
        if object == name {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(store_error(&error)),
                _ => {}
            }
        }
    }
    Ok(directory)
}

/// A directory goes with the last file in it. One that is not empty stays, and so does the root.
pub(super) fn remove_emptied(root: &Path, directory: &Path) {
    let mut empty = directory;
    while empty != root && empty.starts_with(root) && fs::remove_dir(empty).is_ok() {
        empty = empty.parent().unwrap_or(root);
    }
}

pub(super) struct FileUpload {
    reactor: Reactor,
    clock: RealClock,
    /// The directories between it and the object may be new.
    root: PathBuf,
    target: PathBuf,
    staged: PathBuf,
    file: Arc<File>,
    /// Where each piece begins, and where the next one will.
    begins: Vec<u64>,
}

impl FileUpload {
    pub(super) async fn begin(
        reactor: Reactor,
        clock: RealClock,
        root: PathBuf,
        target: PathBuf,
    ) -> Result<FileUpload, StoreError> {
        let wanted = target.clone();
        let (file, staged) = reactor.blocking(move || begin(&wanted)).await.map_err(|error| store_error(&error))?;
        Ok(FileUpload { reactor, clock, root, target, staged, file: Arc::new(file), begins: vec![0] })
    }

    fn bounded<'a, T: Send + 'a>(
        clock: &'a RealClock,
        by: Mono,
        call: Fut<'static, io::Result<T>>,
    ) -> Fut<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let late = || StoreError::Ambiguous;
            timeout(clock, by, call).await.map_err(|_| late())?.map_err(|error| store_error(&error))
        })
    }
}

impl Upload for FileUpload {
    fn put(&mut self, number: u32, piece: Bytes, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let at = number as usize;
        let Some(begin) = self.begins.get(at).copied() else {
            let problem = format!("piece {number} comes before piece {}", self.begins.len() - 1);
            return Box::pin(std::future::ready(Err(StoreError::Permanent(problem))));
        };
        self.begins.truncate(at + 1);
        self.begins.push(begin + piece.len() as u64);
        let file = self.file.clone();
        let call = self.reactor.blocking(move || file.write_all_at(&piece, begin));
        self.reactor.within(Self::bounded(&self.clock, by, call))
    }

    fn finish(&mut self, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let (file, staged, target, root) =
            (self.file.clone(), self.staged.clone(), self.target.clone(), self.root.clone());
        let length = self.begins.last().copied().unwrap_or_default();
        let call = self.reactor.blocking(move || {
            file.set_len(length)?;
            file.sync_all()?;
            Ok(finish(&root, &staged, &target))
        });
        let clock = &self.clock;
        self.reactor.within(async move { Self::bounded(clock, by, call).await? })
    }

    fn abort(&mut self, by: Mono) -> Fut<'_, Result<(), StoreError>> {
        let staged = self.staged.clone();
        let call = self.reactor.blocking(move || match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        self.reactor.within(Self::bounded(&self.clock, by, call))
    }
}

/// Gives the staged file its name, durably.
fn finish(root: &Path, staged: &Path, target: &Path) -> Result<(), StoreError> {
    let parent = target.parent().unwrap_or(root);
    let linked = fs::hard_link(staged, target);
    // Whoever finds the name taken reads it back and builds on it.
    let durable = || sync_up_to(root, parent).map_err(|_| StoreError::Ambiguous);
    match linked {
        Ok(()) => {
            durable()?;
            // What cannot be removed is found as an unfinished upload.
            let _ = fs::remove_file(staged);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            durable()?;
            Err(StoreError::Exists)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(target) {
            Ok(_) => {
                durable()?;
                Err(StoreError::Exists)
            }
            Err(_) => Err(StoreError::Permanent("the upload was discarded before it was finished".to_string())),
        },
        Err(error) => Err(store_error(&error)),
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        let staged = self.staged.clone();
        // Nobody waits for it; if it fails, the orphan sweep finds what is left.
        drop(self.reactor.blocking(move || fs::remove_file(staged)));
    }
}
