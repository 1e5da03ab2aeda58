//! Files of native checkpoints between a database's scratch directory and the two stores: taken, uploaded as far as the base does
//! not have them, linked into the local copy.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{
    local_writer::LocalWriter,
    snapshot_writing::{LOCAL_GRACE, SnapshotContext, not_uploaded, part_uploaded, piece_uploaded, upload_one},
};
use crate::{
    checkpoint::{
        increments::SharedFiles,
        primary::Primary,
        types::{PartKind, PartLocation, RestorePart, StatePart},
    },
    dataflow::{
        chain::{NativeSnapshot, RestoredNative, Scratch},
        task::{TaskFailure, TaskSettings},
    },
    ids::{BackendId, CheckpointId, OperatorUid},
    journal::Event,
    layout::Layout,
    platform::{
        AdoptMethod, DiskError, DiskFile, Fut, Held, NativeDir, NativeOp, Platform, RelPath, is_table, timeout,
    },
    points::Point,
    state::plain_name,
};

/// Why native checkpoints could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NativeFailure {
    /// There is no snapshot. The database works on.
    Snapshot(String),
    /// A flush or a compaction failed. RocksDB takes no more writes then, and its checkpoints would lack what was to be flushed.
    Database(String),
}

impl NativeFailure {
    fn reason(&self) -> &str {
        match self {
            NativeFailure::Snapshot(reason) | NativeFailure::Database(reason) => reason,
        }
    }
}

/// Takes native checkpoints and writes what is new of them. Gives the parts of all, and the local copy to go on with.
///
/// # Errors
/// Why a checkpoint could not be taken or a file is not durable in primary storage; the local copy is given up then.
pub async fn write_native(
    platform: &Platform,
    context: &SnapshotContext,
    settings: &TaskSettings,
    snapshots: Vec<NativeSnapshot>,
    mut local: Option<LocalWriter>,
) -> Result<(Vec<StatePart>, Option<LocalWriter>), NativeFailure> {
    let mut parts = Vec::new();
    for snapshot in snapshots {
        let (directory, subdirectory) = (snapshot.directory.clone(), snapshot.subdirectory.clone());
        let store = local.as_ref().map(|local| local.store().clone());
        let result = write_one(platform, context, settings, snapshot, &mut local).await;
        // In primary, and linked into the local copy: not needed any more. What cannot be removed goes with the database.
        let _ = platform.disk.remove_native(&directory, &subdirectory).await;
        match result {
            Ok(more) => parts.extend(more),
            Err(reason) => {
                if let Some(store) = store {
                    store.give_up(context.checkpoint, reason.reason());
                }
                return Err(reason);
            }
        }
    }
    Ok((parts, local))
}

async fn write_one(
    platform: &Platform,
    context: &SnapshotContext,
    settings: &TaskSettings,
    snapshot: NativeSnapshot,
    local: &mut Option<LocalWriter>,
) -> Result<Vec<StatePart>, NativeFailure> {
    let NativeSnapshot {
        operator,
        key_groups,
        backend,
        directory,
        subdirectory,
        flush,
        take,
        compact,
        base,
        increments,
    } = snapshot;
    let of_operator = |what: String| NativeFailure::Snapshot(format!("{operator}: {what}"));
    let broken = |what: String| NativeFailure::Database(format!("{operator}: its database is broken: {what}"));
    context.transfer.go_on().map_err(of_operator)?;
    run(platform, NativeOp::DatabaseFlush, flush).await.map_err(broken)?;
    run(platform, NativeOp::DatabaseCheckpoint, take).await.map_err(of_operator)?;
    platform.journal.emit(Event::NativeCheckpointTaken {
        subtask: context.name.clone(),
        checkpoint: context.checkpoint,
        operator: operator.0.clone(),
    });
    if let Some(compact) = compact {
        run(platform, NativeOp::DatabaseCompact, compact).await.map_err(broken)?;
    }
    let files = platform.disk.list_native(&directory, &subdirectory).await;
    let mut files = files.map_err(|error| of_operator(error.to_string()))?;
    files.retain(|file| is_needed(file));
    let started = platform.clock.now();
    let primary = Primary::new(platform, settings.store_operation_timeout, settings.store_total_timeout);
    let new_part = |file: &String| {
        let kind = if is_table(file) {
            PartKind::Shared { file: file.clone() }
        } else {
            PartKind::Private { file: file.clone() }
        };
        // With the key groups: where a subtask restores what several have written, names tell the parts apart.
        let name = format!("{}-{}-{}-{file}", plain_name(&operator), key_groups.first, key_groups.last);
        let nonce = platform.entropy.next_u64("object-nonce");
        let object = context.object(&name, is_table(file), nonce);
        StatePart {
            operator: operator.clone(),
            key_groups,
            name,
            kind,
            location: PartLocation::Object(object),
            length: 0,
            crc32c: 0,
            written_by: context.checkpoint,
            backend: Some(backend),
        }
    };
    // Boxed before they are streamed: what a closure makes inside a stream is not known to be `Send`.
    let uploads = files.iter().map(|file| {
        let upload: Fut<'_, Result<StatePart, String>> = match base.get(file) {
            Some(part) => Box::pin(std::future::ready(Ok(part.clone()))),
            None => {
                let part = new_part(file);
                let source = NativeFile { platform, directory: &directory, subdirectory: &subdirectory, file };
                Box::pin(upload(context, settings, &primary, part, source))
            }
        };
        upload
    });
    let uploads: Vec<_> = uploads.collect();
    let at_once = settings.backend.rocksdb.transfer_threads.max(1) as usize;
    let results: Vec<Result<StatePart, String>> = stream::iter(uploads).buffered(at_once).collect().await;
    let parts = results.into_iter().collect::<Result<Vec<StatePart>, String>>().map_err(of_operator)?;
    platform.journal.emit(Event::NativeCheckpointWritten {
        subtask: context.name.clone(),
        checkpoint: context.checkpoint,
        files: count(parts.len()),
        reused: count(parts.iter().filter(|part| part.written_by != context.checkpoint).count()),
    });
    if let Some(mut writer) = local.take() {
        let now = platform.clock.now();
        let grace = LOCAL_GRACE.max(now.since(started));
        // What is inline needs no copy: it comes with the order to restore it.
        let linked = files.into_iter().zip(&parts).filter(|(_, part)| part.object().is_some());
        let linked: Vec<(String, &StatePart)> = linked.collect();
        let store = writer.store().clone();
        let adopted = writer.adopt_native(&directory, &subdirectory, &linked);
        match timeout(platform.clock.as_ref(), now + grace, adopted).await {
            Ok(()) => *local = Some(writer),
            Err(_) => store.give_up(context.checkpoint, "too slow: primary was done long before"),
        }
    }
    let shared: SharedFiles = parts.iter().filter_map(|part| Some((shared_file(part)?, part.clone()))).collect();
    let mut increments = increments.lock().map_err(|_| of_operator("increments: a holder panicked".to_string()))?;
    increments.written(context.checkpoint, shared);
    Ok(parts)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The name of a shared part's file in its native checkpoint.
fn shared_file(part: &StatePart) -> Option<String> {
    match &part.kind {
        PartKind::Shared { file } => Some(file.clone()),
        _ => None,
    }
}

/// What makes up the database, and what says so. The rest is made anew when it is opened.
fn is_needed(file: &str) -> bool {
    is_table(file) || file.starts_with("MANIFEST-") || file == "CURRENT"
}

async fn run(
    platform: &Platform,
    op: NativeOp,
    call: Box<dyn FnOnce() -> Result<(), String> + Send>,
) -> Result<(), String> {
    platform.spawner.native_value(op, call).await.map_err(|error| error.to_string())?
}

/// A file of a native checkpoint.
#[derive(Clone, Copy)]
struct NativeFile<'a> {
    platform: &'a Platform,
    directory: &'a NativeDir,
    subdirectory: &'a str,
    file: &'a str,
}

impl<'a> NativeFile<'a> {
    fn of_file(self, error: &DiskError) -> String {
        format!("file {} of the native checkpoint: {error}", self.file)
    }

    async fn length(self) -> Result<u64, String> {
        let length = self.platform.disk.native_length(self.directory, self.subdirectory, self.file).await;
        length.map_err(|error| self.of_file(&error))
    }

    fn read(self, range: Range<u64>) -> Fut<'a, Result<Bytes, String>> {
        Box::pin(async move {
            let bytes = self.platform.disk.read_native(self.directory, self.subdirectory, self.file, range).await;
            bytes.map_err(|error| self.of_file(&error))
        })
    }
}

async fn upload(
    context: &SnapshotContext,
    settings: &TaskSettings,
    primary: &Primary,
    mut part: StatePart,
    source: NativeFile<'_>,
) -> Result<StatePart, String> {
    let platform = source.platform;
    let piece_bytes = settings.transfer_piece_bytes;
    context.transfer.go_on()?;
    part.length = source.length().await?;
    // A shared file stays a file, so that others can refer to it.
    let is_inline = matches!(part.kind, PartKind::Private { .. }) && settings.backend.is_inline(part.length);
    if is_inline || part.length <= piece_bytes {
        let bytes = source.read(0..part.length).await?;
        part.crc32c = crc32c::crc32c(&bytes);
        if is_inline {
            platform.journal.reached(Point::PartInline);
            part.location = PartLocation::Inline(bytes);
            return Ok(part);
        }
        let _held = Held::new(&platform.memory, part.length);
        upload_one(platform, context, settings, primary, &part, &bytes).await?;
        return Ok(part);
    }
    if let PartLocation::Object(object) = &part.location {
        context.transfer.begin(object)?;
        let read = |range| -> Fut<'_, Result<Bytes, String>> {
            match context.transfer.go_on() {
                Ok(()) => source.read(range),
                Err(reason) => Box::pin(std::future::ready(Err(reason))),
            }
        };
        let stored = |piece| piece_uploaded(platform, context, object, piece);
        let uploaded = primary.upload(object, part.length, piece_bytes, read, stored).await;
        part.crc32c = uploaded.map_err(|error| not_uploaded(&part, object, &error.to_string()))?;
        part_uploaded(platform, context, &part);
    }
    Ok(part)
}

/// Where a file of a native checkpoint is brought back to.
pub(super) struct Place {
    pub directory: NativeDir,
    pub subdirectory: String,
    pub file: String,
}

impl Place {
    /// Takes a file of a local copy as it is, if it never changes: no byte of it is written again. False: it cannot be had so, or
    /// the disk says nothing for longer than `patience`.
    pub(super) async fn take(&self, platform: &Platform, from: &RelPath, patience: Duration) -> bool {
        if !is_table(&self.file) {
            return false;
        }
        let by = platform.clock.now() + patience;
        let taking = platform.disk.materialize(from, &self.directory, &self.subdirectory, &self.file);
        let Ok(taken) = timeout(platform.clock.as_ref(), by, taking).await else { return false };
        platform.journal.sometimes(Point::LocalFileLinked, matches!(taken, Ok(AdoptMethod::HardLink)));
        taken.is_ok()
    }

    /// The file there, empty, whatever there was.
    pub(super) async fn create(&self, platform: &Platform) -> Result<Box<dyn DiskFile>, DiskError> {
        platform.disk.create_native(&self.directory, &self.subdirectory, &self.file).await
    }
}

/// Gives each file of a native checkpoint its place in the scratch directory of its operator's database: one subdirectory for
/// each database it comes from. None for other parts.
///
/// # Errors
/// If an operator has no database, or what the checkpoint says is no file name.
pub(super) fn places(
    layout: Layout,
    checkpoint: CheckpointId,
    parts: &[RestorePart],
    scratch: &mut BTreeMap<OperatorUid, Scratch>,
) -> Result<Vec<Option<Place>>, TaskFailure> {
    let mut known: BTreeMap<(&OperatorUid, u32, BackendId), usize> = BTreeMap::new();
    let mut places = Vec::with_capacity(parts.len());
    for RestorePart { from, part } in parts {
        let (PartKind::Shared { file } | PartKind::Private { file }) = &part.kind else {
            places.push(None);
            continue;
        };
        let (name, operator) = (&part.name, &part.operator);
        let Some(scratch) = scratch.get_mut(operator) else {
            return Err(TaskFailure::User(format!(
                "{operator}: checkpoint {checkpoint} holds files of a RocksDB database, which no other backend can restore: \
                 choose RocksDB, or take a full snapshot first"
            )));
        };
        let Some(backend) = part.backend.filter(|_| !file.contains('/') && RelPath::new(file.clone()).is_ok()) else {
            return Err(TaskFailure::User(format!(
                "{operator}: part {name} of checkpoint {checkpoint} does not say which file of which database it is"
            )));
        };
        let position = *known.entry((operator, *from, backend)).or_insert_with(|| {
            scratch.restored.push(RestoredNative {
                checkpoint,
                backend,
                key_groups: part.key_groups,
                subdirectory: format!("restored-{}", scratch.restored.len()),
                shared: SharedFiles::new(),
            });
            scratch.restored.len() - 1
        });
        let native = &mut scratch.restored[position];
        // Nothing is based on files of another job, which it may take away: the first checkpoint after them is whole (NO_CLAIM).
        if let Some(file) = shared_file(part).filter(|_| part.object().is_some_and(|o| layout.is_shared(o))) {
            native.shared.insert(file, part.clone());
        }
        let subdirectory = native.subdirectory.clone();
        places.push(Some(Place { directory: scratch.directory.clone(), subdirectory, file: file.clone() }));
    }
    Ok(places)
}
