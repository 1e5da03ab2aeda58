//! A process's view of its machine's disk.

use std::{ops::Range, path::Path, rc::Rc, sync::Arc};

use bytes::Bytes;
use runtime::platform::{
    AdoptMethod, DeviceId, DiskError, DiskFile, Fut, Linked, LocalDisk, NativeDir, RelPath, is_table,
};

use crate::{
    disk::{Content, ContentId, Disk, DiskOperation, DiskState, Extent, NameChange},
    local::{Local, boxed},
    process::Incarnation,
};

pub(crate) struct SimLocalDisk(pub Local<Rc<Incarnation>>);

impl SimLocalDisk {
    fn disk(&self) -> &Rc<Disk> {
        &self.0.machine.disk
    }

    /// What errors about native directories name.
    fn scratch(&self) -> RelPath {
        RelPath::new("native").expect("a plain path")
    }

    fn operate<T: 'static>(
        &self,
        operation: DiskOperation,
        path: &RelPath,
        effect: impl FnOnce(&mut DiskState, Extent, &RelPath) -> Result<T, DiskError> + 'static,
    ) -> Fut<'_, Result<T, DiskError>> {
        let path = path.clone();
        boxed(async move {
            let subject = path.clone();
            self.disk()
                .operate(&self.0, operation, &path, 0, move |state, extent| effect(state, extent, &subject))
                .await
        })
    }
}

fn io(path: &RelPath, error: &std::io::Error) -> DiskError {
    DiskError::Io { path: path.clone(), detail: error.to_string() }
}

/// `path/component` for a component from outside.
fn below(path: &RelPath, component: &str) -> Result<RelPath, DiskError> {
    RelPath::new(format!("{path}/{component}"))
        .map_err(|e| DiskError::Io { path: path.clone(), detail: format!("bad file name: {e}") })
}

impl LocalDisk for SimLocalDisk {
    fn create_new(&self, path: &RelPath) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        let path = path.clone();
        boxed(async move {
            let subject = path.clone();
            let content = self
                .disk()
                .operate(&self.0, DiskOperation::Create, &path, 0, move |state, extent| {
                    state.check_free(&subject)?;
                    // Nobody gets the handle of a file that was being created when its process ended.
                    let open = u32::from(matches!(extent, Extent::Whole));
                    let content = state.new_content(Content { open, ..Content::default() });
                    state.change_names(vec![(subject.as_str().to_string(), Some(content))]);
                    Ok(content)
                })
                .await?;
            let file = OpenFile { owner: (*self.0).clone(), path, content };
            Ok(Box::new(SimFile(Local::new(file))) as Box<dyn DiskFile>)
        })
    }

    fn read(&self, path: &RelPath, range: Option<Range<u64>>) -> Fut<'_, Result<Bytes, DiskError>> {
        let path = path.clone();
        boxed(async move {
            let length = match &range {
                Some(range) => range.end.saturating_sub(range.start),
                None => self.disk().state.borrow().content_of(&path).map_or(0, |(_, c)| c.bytes.len() as u64),
            };
            let subject = path.clone();
            self.disk()
                .operate(&self.0, DiskOperation::Read, &path, length, move |state, _| {
                    let (_, content) = state.content_of(&subject)?;
                    let length = content.bytes.len() as u64;
                    let range = range.unwrap_or(0..length);
                    if range.start > range.end || range.end > length {
                        let detail = format!("the file has {length} bytes, {}..{} were wanted", range.start, range.end);
                        return Err(DiskError::Io { path: subject, detail });
                    }
                    Ok(Bytes::copy_from_slice(&content.bytes[range.start as usize..range.end as usize]))
                })
                .await
        })
    }

    fn length(&self, path: &RelPath) -> Fut<'_, Result<u64, DiskError>> {
        self.operate(DiskOperation::Length, path, |state, _, path| Ok(state.content_of(path)?.1.bytes.len() as u64))
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let to = to.clone();
        self.operate(DiskOperation::Rename, from, move |state, _, from| {
            let (content, _) = state.content_of(from)?;
            if state.device_of(from.as_str()) != state.device_of(to.as_str()) {
                return Err(DiskError::CrossDevice(to));
            }
            if !state.names.contains_key(to.as_str()) {
                state.check_free(&to)?;
            }
            if *from != to {
                state.change_names(vec![(from.as_str().into(), None), (to.as_str().into(), Some(content))]);
                state.collect();
            }
            Ok(())
        })
    }

    fn link(&self, from: &RelPath, to: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        let to = to.clone();
        self.operate(DiskOperation::Link, from, move |state, _, from| {
            let (content, _) = state.content_of(from)?;
            if state.device_of(from.as_str()) != state.device_of(to.as_str()) {
                return Err(DiskError::CrossDevice(to));
            }
            state.check_free(&to)?;
            state.change_names(vec![(to.as_str().into(), Some(content))]);
            Ok(())
        })
    }

    fn remove(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        self.operate(DiskOperation::Remove, path, |state, _, path| {
            state.content_of(path)?;
            state.change_names(vec![(path.as_str().into(), None)]);
            state.collect();
            Ok(())
        })
    }

    fn remove_tree(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        self.operate(DiskOperation::RemoveTree, path, |state, extent, path| {
            if state.names.contains_key(path.as_str()) {
                return Err(DiskError::Io { path: path.clone(), detail: "not a directory".to_string() });
            }
            let below = format!("{path}/");
            let mut names: Vec<String> = state
                .names
                .range(below.clone()..)
                .map(|(n, _)| n)
                .take_while(|n| n.starts_with(&below))
                .cloned()
                .collect();
            if let Extent::Torn(how_much) = extent {
                names.truncate((how_much % (names.len() as u64 + 1)) as usize);
            }
            // One name at a time, as the real thing does.
            for name in names {
                state.change_names(vec![(name, None)]);
                if let Some(last) = state.pending_names.last_mut() {
                    last.directories.extend(path.parent().map(|parent| parent.as_str().to_string()));
                }
            }
            state.collect();
            Ok(())
        })
    }

    fn sync_dir(&self, path: &RelPath) -> Fut<'_, Result<(), DiskError>> {
        self.operate(DiskOperation::SyncDir, path, |state, _, path| {
            let mut earlier: Vec<NameChange> = Vec::new();
            for change in std::mem::take(&mut state.pending_names) {
                if change.directories.contains(path.as_str()) {
                    // What was pending for these names before is overtaken.
                    for pending in &mut earlier {
                        pending.names.retain(|(name, _)| change.names.iter().all(|(synced, _)| synced != name));
                    }
                    state.make_durable(change);
                } else {
                    earlier.push(change);
                }
            }
            state.pending_names = earlier;
            state.collect();
            Ok(())
        })
    }

    fn list(&self, path: &RelPath) -> Fut<'_, Result<Vec<String>, DiskError>> {
        self.operate(DiskOperation::List, path, |state, _, path| {
            let below = format!("{path}/");
            let mut names: Vec<String> = Vec::new();
            for (name, _) in state.names.range(below.clone()..) {
                let Some(rest) = name.strip_prefix(&below) else { break };
                let component = rest.split('/').next().unwrap_or(rest);
                if names.last().is_none_or(|last| last != component) {
                    names.push(component.to_string());
                }
            }
            // "a/x" sorts after "a.b", "a" before it.
            names.sort();
            names.dedup();
            Ok(names)
        })
    }

    fn device_of(&self, path: &RelPath) -> Fut<'_, Result<DeviceId, DiskError>> {
        self.operate(DiskOperation::Length, path, |state, _, path| Ok(state.device_of(path.as_str())))
    }

    fn native_dir(&self) -> Fut<'_, Result<NativeDir, DiskError>> {
        boxed(async move {
            let path = self.scratch();
            self.disk().operate(&self.0, DiskOperation::NativeDir, &path, 0, |_, _| Ok(())).await?;
            // On the helper thread, because names of temporary directories are random and must not use the simulation's
            // randomness.
            let made = self.0.world.inner().helper.value(|| crate::scratch_directory("weir-sim-"));
            match made {
                Ok(Ok(directory)) => Ok(NativeDir(Arc::new(directory))),
                Ok(Err(error)) => Err(io(&path, &error)),
                Err(error) => Err(DiskError::Io { path, detail: error.to_string() }),
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
        let source = native_path(from, subdirectory);
        let (keep, files, to) = (from.clone(), files.to_vec(), to.clone());
        boxed(async move {
            self.0.alive_or_never().await;
            let mut contents = Vec::new();
            for name in files {
                let path = below(&to, &name)?;
                let bytes = std::fs::read(source.join(&name)).map_err(|error| io(&path, &error))?;
                contents.push((name, path, bytes));
            }
            drop(keep);
            let total = contents.iter().map(|(_, _, bytes)| bytes.len() as u64).sum();
            let subject = to.clone();
            // A link costs nothing by the byte. Native directories are on device 0.
            let is_linked = self.disk().state.borrow().device_of(to.as_str()).0 == 0;
            let copied = if is_linked { 0 } else { total };
            self.disk()
                .operate(&self.0, DiskOperation::Adopt, &to, copied, move |state, extent| {
                    let device = state.device_of(subject.as_str()).0;
                    for (_, path, _) in &contents {
                        state.check_free(path)?;
                    }
                    if state.used() + total > state.config.capacity_bytes {
                        return Err(DiskError::NoSpace(subject));
                    }
                    if let Extent::Torn(how_much) = extent {
                        contents.truncate((how_much % (contents.len() as u64 + 1)) as usize);
                    }
                    // Native directories are on device 0.
                    let method = if device == 0 { AdoptMethod::HardLink } else { AdoptMethod::Copy };
                    let mut linked = Vec::new();
                    for (name, path, bytes) in contents {
                        linked.push(Linked { name, length: bytes.len() as u64, method });
                        let content = state.new_content(Content { durable: bytes.len(), bytes, open: 0 });
                        state.names.insert(path.as_str().to_string(), content);
                        state.durable_names.insert(path.as_str().to_string(), content);
                    }
                    Ok(linked)
                })
                .await
        })
    }

    fn materialize(
        &self,
        from: &RelPath,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<AdoptMethod, DiskError>> {
        let (directory, from, keep) = (native_path(to, subdirectory), from.clone(), to.clone());
        let (target, is_table) = (directory.join(file), is_table(file));
        // As on a real disk: it must not lead out of the directory.
        let named = below(&self.scratch(), file);
        boxed(async move {
            named?;
            let (method, copied) = {
                let state = self.disk().state.borrow();
                // A link costs nothing by the byte. Native directories are on device 0.
                match is_table && state.device_of(from.as_str()).0 == 0 {
                    true => (AdoptMethod::HardLink, 0),
                    false => (AdoptMethod::Copy, state.content_of(&from).map_or(0, |(_, c)| c.bytes.len() as u64)),
                }
            };
            let subject = from.clone();
            let read = move |state: &mut DiskState, _| Ok(state.content_of(&subject)?.1.bytes.clone());
            let bytes = self.disk().operate(&self.0, DiskOperation::Materialize, &from, copied, read).await?;
            std::fs::create_dir_all(&directory).map_err(|error| io(&from, &error))?;
            // What has a link to an older one keeps it.
            match std::fs::remove_file(&target) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&from, &error)),
                _ => std::fs::write(&target, bytes).map_err(|error| io(&from, &error))?,
            }
            drop(keep);
            Ok(method)
        })
    }

    fn list_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<Vec<String>, DiskError>> {
        let (path, keep) = (native_path(from, subdirectory), from.clone());
        boxed(async move {
            self.0.alive_or_never().await;
            let name = self.scratch();
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&path).map_err(|error| io(&name, &error))? {
                let entry = entry.map_err(|error| io(&name, &error))?.file_name();
                names.push(entry.to_string_lossy().into_owned());
            }
            names.sort_unstable();
            drop(keep);
            Ok(names)
        })
    }

    fn native_length(&self, from: &NativeDir, subdirectory: &str, file: &str) -> Fut<'_, Result<u64, DiskError>> {
        let (path, keep) = (native_path(from, subdirectory).join(file), from.clone());
        boxed(async move {
            self.0.alive_or_never().await;
            let length = std::fs::metadata(&path).map_err(|error| io(&self.scratch(), &error))?.len();
            drop(keep);
            Ok(length)
        })
    }

    fn read_native(
        &self,
        from: &NativeDir,
        subdirectory: &str,
        file: &str,
        range: Range<u64>,
    ) -> Fut<'_, Result<Bytes, DiskError>> {
        let (path, keep) = (native_path(from, subdirectory).join(file), from.clone());
        boxed(async move {
            self.0.alive_or_never().await;
            let name = self.scratch();
            let bytes = Bytes::from(std::fs::read(&path).map_err(|error| io(&name, &error))?);
            drop(keep);
            let length = bytes.len() as u64;
            if range.start > range.end || range.end > length {
                let detail = format!("the file has {length} bytes, {}..{} were wanted", range.start, range.end);
                return Err(DiskError::Io { path: name, detail });
            }
            let wanted = bytes.slice(range.start as usize..range.end as usize);
            let total = wanted.len() as u64;
            self.disk().operate(&self.0, DiskOperation::NativeRead, &name, total, |_, _| Ok(wanted)).await
        })
    }

    fn create_native(
        &self,
        to: &NativeDir,
        subdirectory: &str,
        file: &str,
    ) -> Fut<'_, Result<Box<dyn DiskFile>, DiskError>> {
        let (directory, file, keep) = (native_path(to, subdirectory), file.to_string(), to.clone());
        boxed(async move {
            let name = self.scratch();
            self.disk().operate(&self.0, DiskOperation::NativeWrite, &name, 0, |_, _| Ok(())).await?;
            std::fs::create_dir_all(&directory).map_err(|error| io(&name, &error))?;
            let path = directory.join(&file);
            // What has a link to an older one keeps it.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&name, &error)),
                _ => {}
            }
            let open = std::fs::OpenOptions::new().append(true).create_new(true).open(&path);
            let file =
                NativeFile { owner: (*self.0).clone(), file: open.map_err(|error| io(&name, &error))?, _keep: keep };
            Ok(Box::new(SimNativeFile(Local::new(file))) as Box<dyn DiskFile>)
        })
    }

    fn remove_native(&self, from: &NativeDir, subdirectory: &str) -> Fut<'_, Result<(), DiskError>> {
        let (path, keep) = (native_path(from, subdirectory), from.clone());
        boxed(async move {
            self.0.alive_or_never().await;
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&self.scratch(), &error)),
                _ => {
                    drop(keep);
                    Ok(())
                }
            }
        })
    }
}

fn native_path(directory: &NativeDir, subdirectory: &str) -> std::path::PathBuf {
    if subdirectory.is_empty() { directory.path() } else { directory.path().join(Path::new(subdirectory)) }
}

struct OpenFile {
    owner: Rc<Incarnation>,
    path: RelPath,
    content: ContentId,
}

impl OpenFile {
    fn gone(path: &RelPath) -> DiskError {
        DiskError::Io { path: path.clone(), detail: "the disk was wiped under the open file".to_string() }
    }
}

/// A file of a native directory. It takes no room of the simulated disk, which holds what outlives a process, but nothing can be
/// added to it while that disk is full.
struct NativeFile {
    owner: Rc<Incarnation>,
    file: std::fs::File,
    _keep: NativeDir,
}

struct SimNativeFile(Local<NativeFile>);

impl DiskFile for SimNativeFile {
    fn append(&mut self, bytes: Bytes) -> Fut<'_, Result<(), DiskError>> {
        let file = &*self.0;
        boxed(async move {
            let name = RelPath::new("native").expect("a plain path");
            let (length, subject) = (bytes.len() as u64, name.clone());
            let disk = &file.owner.machine.disk;
            disk.operate(&file.owner, DiskOperation::NativeWrite, &name, length, move |state, _| {
                if state.used() + length > state.config.capacity_bytes {
                    Err(DiskError::NoSpace(subject))
                } else {
                    Ok(())
                }
            })
            .await?;
            std::io::Write::write_all(&mut &file.file, &bytes).map_err(|error| io(&name, &error))
        })
    }

    fn sync(&mut self) -> Fut<'_, Result<(), DiskError>> {
        boxed(std::future::ready(Ok(())))
    }
}

struct SimFile(Local<OpenFile>);

impl DiskFile for SimFile {
    fn append(&mut self, bytes: Bytes) -> Fut<'_, Result<(), DiskError>> {
        let file = &*self.0;
        let (path, content) = (file.path.clone(), file.content);
        boxed(async move {
            let length = bytes.len() as u64;
            file.owner
                .machine
                .disk
                .operate(&file.owner, DiskOperation::Append, &file.path, length, move |state, extent| {
                    let free = state.config.capacity_bytes.saturating_sub(state.used());
                    let target = state.contents.get_mut(&content).ok_or_else(|| OpenFile::gone(&path))?;
                    let written = match extent {
                        Extent::Whole => bytes.len(),
                        Extent::Torn(how_much) => (how_much % (bytes.len() as u64 + 1)) as usize,
                    };
                    let fits = written.min(usize::try_from(free).unwrap_or(usize::MAX));
                    target.bytes.extend_from_slice(&bytes[..fits]);
                    if fits < written { Err(DiskError::NoSpace(path)) } else { Ok(()) }
                })
                .await
        })
    }

    fn sync(&mut self) -> Fut<'_, Result<(), DiskError>> {
        let file = &*self.0;
        let (path, content) = (file.path.clone(), file.content);
        boxed(async move {
            let disk = &file.owner.machine.disk;
            disk.operate(&file.owner, DiskOperation::Sync, &file.path, 0, move |state, _| {
                let content = state.contents.get_mut(&content).ok_or_else(|| OpenFile::gone(&path))?;
                content.durable = content.bytes.len();
                Ok(())
            })
            .await
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let file = &*self.0;
        let mut state = file.owner.machine.disk.state.borrow_mut();
        if let Some(content) = state.contents.get_mut(&file.content) {
            content.open = content.open.saturating_sub(1);
            state.collect();
        }
    }
}
