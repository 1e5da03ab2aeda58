//! Files below a root directory, with real fsync.
//!
//! `<root>/lock` keeps a second process out, `<root>/files` is the disk, and native databases work in a directory that is
//! emptied at start, since whatever an earlier process left there is worthless.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    super::{
        AdoptMethod, DeviceId, DiskError, DiskFile, Fut, Linked, LocalDisk, NativeDir, RelPath,
        disk::{is_plain, is_table},
    },
    RealError,
    reactor::Reactor,
};

pub(super) struct RealDisk {
    reactor: Reactor,
    files: Arc<PathBuf>,
    /// Directories elsewhere, by the first component of the paths that lie in them.
    mounts: Arc<BTreeMap<String, PathBuf>>,
    native_root: PathBuf,
    /// Held as long as the disk is in use.
    _lock: File,
}

impl RealDisk {
    pub(super) fn open(
        reactor: Reactor,
        root: &Path,
        native_root: PathBuf,
        elsewhere: &[(RelPath, PathBuf)],
    ) -> Result<RealDisk, RealError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error| RealError::Directory { path, error }
        };
        let files = root.join("files");
        fs::create_dir_all(&files).map_err(at(&files))?;
        let lock_path = root.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RealError::InUse(root.to_path_buf())),
            Err(TryLockError::Error(error)) => return Err(RealError::Directory { path: lock_path, error }),
        }
        remove_all(&native_root).map_err(at(&native_root))?;
        fs::create_dir_all(&native_root).map_err(at(&native_root))?;
        let mut mounts = BTreeMap::new();
        for (name, directory) in elsewhere {
            fs::create_dir_all(directory).map_err(at(directory))?;
            mounts.insert(name.as_str().to_string(), directory.clone());
        }
        Ok(RealDisk { reactor, files: Arc::new(files), mounts: Arc::new(mounts), native_root, _lock: lock })
    }

    /// The directory that holds `path`, and where below it that is.
    fn place<'a>(&self, path: &'a RelPath) -> (&Path, &'a str) {
        let path = path.as_str();
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match self.mounts.get(first) {
            Some(directory) => (directory, rest),
            None => (&self.files, path),
        }
    }

    fn absolute(&self, path: &RelPath) -> PathBuf {
        let (directory, below) = self.place(path);
        if below.is_empty() { directory.to_path_buf() } else { directory.join(below) }
    }

    fn root_of(&self, path: &RelPath) -> PathBuf {
        self.place(path).0.to_path_buf()
    }

    /// Runs a blocking call; its error is reported for `path`.
    fn run<T: Send + 'static>(
        &self,
        path: &RelPath,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Fut<'static, Result<T, DiskError>> {
        let path = path.clone();
        let call = self.reactor.blocking(call);
        Box::pin(async move { call.await.map_err(|e| disk_error(&path, &e)) })
    }
}

fn disk_error(path: &RelPath, e: &io::Error) -> DiskError {
    let path = path.clone();
    match e.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound(path),
        io::ErrorKind::AlreadyExists => DiskError::Exists(path),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace(path),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => DiskError::Denied(path),
        io::ErrorKind::CrossesDevices => DiskError::CrossDevice(path),
        _ => DiskError::Io { path, detail: e.to_string() },
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn sync_one(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Syncs `dir` and everything above it up to `root`: a durable name in a directory that itself can vanish is worth nothing.
pub(super) fn sync_up_to(root: &Path, dir: &Path) -> io::Result<()> {
    for dir in dir.ancestors().take_while(|d| d.starts_with(root)) {
        sync_one(dir)?;
    }
    Ok(())
}

/// A hard link, or a durable copy where the device does not allow one.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<AdoptMethod> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(AdoptMethod::HardLink),
        // Some file systems know no hard links, some limit their number.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::CrossesDevices | io::ErrorKind::Unsupported | io::ErrorKind::TooManyLinks
            ) =>
        {
            copy(from, to)
        }
        Err(e) => Err(e),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<AdoptMethod> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).open(to)?;
    io::copy(&mut source, &mut target)?;
    Ok(AdoptMethod::Copy)
}

/// Where a file of a native directory is to be made, the directories made and a file of that name removed.
fn native_target(to: &NativeDir, subdirectory: &str, file: &str) -> io::Result<PathBuf> {
    check_names(subdirectory, &[file.to_string()])?;
    let directory = to.path().join(subdirectory);
    fs::create_dir_all(&directory)?;
    let target = directory.join(file);
    // Another one in its place: what has a link to the old one keeps it.
    match fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(target),
    }
}

/// Names that native code gave us: plain components only, or they could lead out of the directory.
fn check_names(subdirectory: &str, files: &[String]) -> io::Result<()> {
    let bad = files.iter().find(|f| !is_plain(f) || f.contains('/'));
    let bad = bad.map(String::as_str).or((!subdirectory.is_empty() && !is_plain(subdirectory)).then_some(subdirectory));
    bad.map_or(Ok(()), |name| {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a plain file name: {name:?}")))
    })
}

/// The directories that [`fs::create_dir_all`] would have to make for `dir`, outermost first.
fn missing_directories(dir: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> = dir.ancestors().take_while(|d| !d.exists()).map(Path::to_path_buf).collect();
    missing.reverse();
    missing
}

fn adopt(root: &Path, source: &Path, files: &[String], target: &Path) -> io::Result<Vec<Linked>> {
    let made = missing_directories(target);
    let mut created = Vec::new();
    let mut attempt = || {
        fs::create_dir_all(target)?;
        let mut linked = Vec::with_capacity(files.len());
        for name in files {
            let to = target.join(name);
            // Before the attempt: a copy that breaks off leaves a file. But what was there before is not ours.
            if to.exists() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            created.push(to.clone());
            let method = link_or_copy(&source.join(name), &to)?;
            let file = File::open(&to)?;
            file.sync_all()?;
            linked.push(Linked { name: name.clone(), length: file.metadata()?.len(), method });
        }
        sync_up_to(root, target)?;
        Ok(linked)
    };
    let result = attempt();
    if result.is_err() {
        // The first error is the one to report; a leftover would be found by the owner's next sweep.
        for path in &created {
            let _ = fs::remove_file(path);
        }
        for dir in made.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
    result
}

/// A file under construction. After an error, or an operation that was not awaited to its end, what it holds is unknown
/// (a failed fsync drops the pages it could not write), so it refuses everything else.
struct RealFile {
    reactor: Reactor,
    path: RelPath,
    file: Arc<File>,
    usable: bool,
}

impl RealFile {
    fn run<'a>(
        &'a mut self,
        call: impl FnOnce(&File) -> io::Result<()> + Send + 'static,
    ) -> Fut<'a, Result<(), DiskError>> {
        Box::pin(async move {
            if !self.usable {
                let detail = "an earlier operation on this file failed or was abandoned".to_string();
                return Err(DiskError::Io { path: self.path.clone(), detail });
            }
            self.usable = false;
            let file = self.file.clone();
            self.reactor.blocking(move || call(&file)).await.map_err(|e| disk_error(&self.path, &e))?;
            self.usable = true;
            Ok(())
        })
    }
}

impl DiskFile for RealFile {
    fn append(&mut self, bytes: Bytes) -> Fut<'_, Result<(), DiskError>> {
        self.run(move |mut file| file.write_all(&bytes))
    }

    fn sync(&mut self) -> Fut<'_, Result<(), DiskError>> {
        self.run(File::sync_all)
    }
}

fn read_range(path: &Path, range: Range<u64>) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if range.end > length {
        return Err(io::Error::other(format!("bytes {range:?} wanted, but the file ends at {length}")));
    }
    let mut buffer = vec![0; usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(Bytes::from(buffer))
}

/// Sorted; none if there is no such directory.
fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        names.push(name.into_string().map_err(|n| io::Error::other(format!("not a text name: {n:?}")))?);
    }
    names.sort_unstable();
    Ok(names)
}

/// What errors about native directories name.
fn native_name() -> RelPath {
    RelPath::new("native").expect("plain")
}

impl LocalDisk for RealDisk {
    fn create_new(&self, path: &RelPath) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        let absolute = self.absolute(path);
        let opened = self.run(path, move || {
            make_parent(&absolute)?;
            OpenOptions::new().append(true).create_new(true).open(&absolute)
        });
        let path = path.clone();
        Box::pin(async move {
            let file = Arc::new(opened.await?);
            Ok(Box::new(RealFile { reactor: self.reactor.clone(), path, file, usable: true }) as Box<dyn DiskFile>)
        })
    }

    fn read(&self, path: &RelPath, range: Option<Range<u64>>) -> Fut<'_, Result<Bytes, DiskError>> {
        let absolute = self.absolute(path);
        self.run(path, move || match range {
            None => fs::read(&absolute).map(Bytes::from),
            Some(range) => read_range(&absolute, range),
        })
    }

    fn length(&self, path: &RelPath) -> Fut<'_, Result<u64, DiskError>> {
        let absolute = self.absolute(path);
        self.run(path, move || Ok(fs::metadata(&absolute)?.len()))
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let (source, target) = (self.absolute(from), self.absolute(to));
        self.run(from, move || {
            fs::symlink_metadata(&source)?;
            make_parent(&target)?;
            fs::rename(&source, &target)
        })
    }

    fn link(&self, from: &RelPath, to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let (source, target) = (self.absolute(from), self.absolute(to));
        let call = self.reactor.blocking(move || {
            fs::symlink_metadata(&source)?;
            make_parent(&target)?;
            fs::hard_link(&source, &target)
        });
        let (from, to) = (from.clone(), to.clone());
        Box::pin(async move {
            call.await.map_err(|e| {
                let culprit = if e.kind() == io::ErrorKind::AlreadyExists { &to } else { &from };
                disk_error(culprit, &e)
            })
        })
    }

    fn remove(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let absolute = self.absolute(path);
        self.run(path, move || fs::remove_file(&absolute))
    }

    fn remove_tree(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let absolute = self.absolute(path);
        self.run(path, move || remove_all(&absolute))
    }

    fn sync_dir(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let (absolute, root) = (self.absolute(path), self.root_of(path));
        self.run(path, move || sync_up_to(&root, &absolute))
    }

    fn list(&self, path: &RelPath) -> Fut<'_, Result<Vec<String>, DiskError>> {
        let absolute = self.absolute(path);
        self.run(path, move || names_in(&absolute))
    }

    fn device_of(&self, path: &RelPath) -> Fut<'_, Result<DeviceId, DiskError>> {
        let absolute = self.absolute(path);
        self.run(path, move || {
            // What does not exist yet will be made on the device of its nearest existing parent.
            let existing = absolute.ancestors().find(|p| p.exists()).unwrap_or(&absolute);
            Ok(DeviceId(fs::metadata(existing)?.dev()))
        })
    }

    fn native_dir(&self) -> Fut<'_, Result<NativeDir, DiskError>> {
        let root = self.native_root.clone();
        let call = self.reactor.blocking(move || tempfile::Builder::new().prefix("db-").tempdir_in(root));
        Box::pin(async move {
            match call.await {
                Ok(dir) => Ok(NativeDir(Arc::new(dir))),
                Err(e) => Err(disk_error(&native_name(), &e)),
            }
        })
    }

    fn adopt(
        &self,
        from: &NativeDir,
        subdirectory: &str,
        files: &[String],
        to: &RelPath,
    ) -> Fut<'_, Result<Vec<Linked>, DiskError>> {
        let (from, subdirectory, files) = (from.clone(), subdirectory.to_string(), files.to_vec());
        let (root, target) = (self.root_of(to), self.absolute(to));
        self.run(to, move || {
            check_names(&subdirectory, &files)?;
            // `from` moves in: it must not vanish while its files are linked.
            adopt(&root, &from.path().join(&subdirectory), &files, &target)
        })
    }

    fn materialize(
        &self,
        from: &RelPath,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<AdoptMethod, DiskError>> {
        let source = self.absolute(from);
        let (to, subdirectory, file) = (to.clone(), subdirectory.to_string(), file.to_string());
        self.run(from, move || {
            let target = native_target(&to, &subdirectory, &file)?;
            // RocksDB never writes into a table file, but it appends to others of its files: those must not be shared.
            if is_table(&file) { link_or_copy(&source, &target) } else { copy(&source, &target) }
        })
    }

    fn list_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<Vec<String>, DiskError>> {
        let (from, subdirectory) = (from.clone(), subdirectory.to_string());
        self.run(&native_name(), move || {
            check_names(&subdirectory, &[])?;
            names_in(&from.path().join(&subdirectory))
        })
    }

    fn native_length(&self, from: &NativeDir, subdirectory: &str, file: &str) -> Fut<'_, Result<u64, DiskError>> {
        let (from, subdirectory, file) = (from.clone(), subdirectory.to_string(), file.to_string());
        self.run(&native_name(), move || {
            check_names(&subdirectory, std::slice::from_ref(&file))?;
            Ok(fs::metadata(from.path().join(&subdirectory).join(&file))?.len())
        })
    }

    fn read_native(
        &self,
        from: &NativeDir,
        subdirectory: &str,
        file: &str,
        range: Range<u64>,
    ) -> Fut<'_, Result<Bytes, DiskError>> {
        let (from, subdirectory, file) = (from.clone(), subdirectory.to_string(), file.to_string());
        self.run(&native_name(), move || {
            check_names(&subdirectory, std::slice::from_ref(&file))?;
            read_range(&from.path().join(&subdirectory).join(&file), range)
        })
    }

    fn create_native(
        &self,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        let (to, subdirectory, file) = (to.clone(), subdirectory.to_string(), file.to_string());
        let created = self.run(&native_name(), move || {
            let target = native_target(&to, &subdirectory, &file)?;
            OpenOptions::new().append(true).create_new(true).open(target)
        });
        Box::pin(async move {
            let file = Arc::new(created.await?);
            let path = native_name();
            Ok(Box::new(RealFile { reactor: self.reactor.clone(), path, file, usable: true }) as Box<dyn DiskFile>)
        })
    }

    fn remove_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<(), DiskError>> {
        let (from, subdirectory) = (from.clone(), subdirectory.to_string());
        self.run(&native_name(), move || {
            check_names(&subdirectory, &[])?;
            remove_all(&from.path().join(&subdirectory))
        })
    }
}
