//! State between a subtask and its two stores: writing the parts of a snapshot to primary storage and, beside it, to the local
//! disk; reading them back, each from where it can be had.
//!
//! Primary is the truth: a snapshot is written when primary has every part, and not before; the local copy may be missing,
//! partial or given up, and neither fails the snapshot nor delays it. A restore takes a part from the local copy only if it
//! is exactly the part asked for, else from primary; it never gives bytes whose length or checksum differ.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::Either, stream};

use super::{
    local_store::{LocalCopy, LocalStateStore, LocalWriter, WRONG_CHECKSUM},
    native_io::{Place, places},
};
use crate::{
    checkpoint::{
        primary::{BadReading, Primary, ReadError, Readings, damaged_on_the_way},
        types::{PartLocation, RestorePart, StatePart},
    },
    dataflow::{
        chain::{PartData, PartSource, RestoredPart, RestoredState, Scratch},
        task::{SubtaskSpec, TaskFailure, TaskSettings},
    },
    ids::{AttemptId, CheckpointId, JobId, OperatorUid, SubtaskId},
    journal::Event,
    layout::Layout,
    platform::{Fut, Held, NativeOp, Platform, StoreError, timeout},
    points::Point,
    sabotage::Sabotage,
    state::BackendKind,
};

/// Parts of heap state of one subtask that are written, or read, at the same time.
const PARALLEL: usize = 4;

/// How many are; RocksDB's is configured, as in Flink.
fn at_once(settings: &TaskSettings) -> usize {
    match settings.backend.kind {
        BackendKind::RocksDb => settings.backend.rocksdb.transfer_threads.max(1) as usize,
        BackendKind::Memory | BackendKind::Filesystem => PARALLEL,
    }
}
/// The local copy may lag behind primary by so much, or by as long as primary took, before it is given up.
pub(super) const LOCAL_GRACE: Duration = Duration::from_millis(100);

/// Whose snapshot it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotContext {
    pub job: JobId,
    pub subtask: SubtaskId,
    /// `count[1]`.
    pub name: String,
    pub attempt: AttemptId,
    pub checkpoint: CheckpointId,
}

/// A part on its way to the stores.
enum Piece {
    /// Encoded now, and uploaded.
    Written(StatePart, Bytes),
    /// Encoded now, and small enough to travel with the acknowledgement.
    Inline(StatePart),
    /// Written by the checkpoint that this one is based on, or before.
    Reused(StatePart),
}

impl Piece {
    fn part(&self) -> &StatePart {
        match self {
            Piece::Written(part, _) | Piece::Inline(part) | Piece::Reused(part) => part,
        }
    }
}

/// Writes a snapshot: encodes the parts, uploads them, and writes the local copy alongside. `base`: the checkpoint that reused
/// parts are of, whose local copy may have them.
///
/// # Errors
/// Why a part could not be encoded, is too large for its backend, or is not durable in primary storage; the checkpoint must be
/// declined. The local copy is given up then. Dropping the future gives up everything that is not written yet; call
/// [`LocalStateStore::abort`] after that.
pub async fn write_snapshot(
    platform: &Platform,
    context: &SnapshotContext,
    settings: &TaskSettings,
    parts: Vec<PartSource>,
    base: Option<CheckpointId>,
    local: Option<LocalWriter>,
) -> Result<Vec<StatePart>, String> {
    let mut pieces = Vec::with_capacity(parts.len());
    for part in parts {
        match encode(platform, context, settings, part).await {
            Ok(piece) => pieces.push(piece),
            Err(reason) => {
                if let Some(local) = local {
                    local.store().give_up(context.checkpoint, &reason);
                }
                return Err(reason);
            }
        }
    }
    if settings.backend.kind == BackendKind::Memory {
        fits_the_memory_backend(&pieces, settings)?;
    }
    let written = pieces.iter().filter(|piece| matches!(piece, Piece::Written(..)));
    // Until primary has it all.
    let _upload = Held::new(&platform.memory, written.map(|piece| piece.part().length).sum());
    transfer(platform, context, settings, &pieces, base, local).await?;
    Ok(pieces
        .into_iter()
        .map(|piece| match piece {
            Piece::Written(part, _) | Piece::Inline(part) | Piece::Reused(part) => part,
        })
        .collect())
}

async fn encode(
    platform: &Platform,
    context: &SnapshotContext,
    settings: &TaskSettings,
    part: PartSource,
) -> Result<Piece, String> {
    let PartSource { operator, key_groups, name, kind, backend, data } = part;
    let (encode, may_be_shared) = match data {
        PartData::Encode(encode) => (encode, false),
        PartData::EncodeUnlessKnown { encode, .. } => (encode, settings.backend.is_incremental()),
        PartData::Reuse(part) => {
            platform.journal.reached(Point::PartReused);
            return Ok(Piece::Reused(part));
        }
    };
    let bytes = platform.spawner.native_value(NativeOp::Encode, encode).await;
    let bytes = bytes.map_err(|error| format!("{operator}: part {name} could not be encoded: {error}"))?;
    let (length, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
    let (location, written_by) = (PartLocation::Inline(bytes.clone()), context.checkpoint);
    let mut part = StatePart { operator, key_groups, name, kind, location, length, crc32c, written_by, backend };
    if settings.backend.is_inline(length) {
        platform.journal.reached(Point::PartInline);
        return Ok(Piece::Inline(part));
    }
    let layout = Layout { job: context.job };
    let nonce = platform.entropy.next_u64("object-nonce");
    let (checkpoint, attempt, subtask) = (context.checkpoint, context.attempt, context.subtask);
    part.location = PartLocation::Object(if may_be_shared {
        layout.shared_part(checkpoint, attempt, subtask, &part.name, nonce)
    } else {
        layout.state_part(checkpoint, attempt, subtask, &part.name, nonce)
    });
    Ok(Piece::Written(part, bytes))
}

/// The limit of the memory backend is on the state of one operator in one subtask, as Flink's is, however many parts it is in.
fn fits_the_memory_backend(pieces: &[Piece], settings: &TaskSettings) -> Result<(), String> {
    let mut sizes: BTreeMap<(&OperatorUid, bool), u64> = BTreeMap::new();
    for part in pieces.iter().map(Piece::part) {
        *sizes.entry((&part.operator, part.is_keyed())).or_default() += part.length;
    }
    let limit = settings.backend.max_memory_state_size;
    match sizes.into_iter().find(|(_, size)| *size > limit) {
        None => Ok(()),
        Some(((operator, is_keyed), size)) => Err(format!(
            "the {} state of operator {operator} has {size} bytes, and the memory backend takes at most {limit}: raise its \
             maximum state size, or keep state in files (state.backend: filesystem)",
            if is_keyed { "keyed" } else { "operator" }
        )),
    }
}

/// Uploads the parts, and copies them to the local disk as far as that does not delay the upload.
async fn transfer(
    platform: &Platform,
    context: &SnapshotContext,
    settings: &TaskSettings,
    pieces: &[Piece],
    base: Option<CheckpointId>,
    local: Option<LocalWriter>,
) -> Result<(), String> {
    let started = platform.clock.now();
    let upload = upload_all(platform, context, settings, pieces);
    // What is inline needs no copy: it comes with the order to restore it.
    let copied = pieces.iter().any(|piece| !matches!(piece, Piece::Inline(_)));
    let Some(writer) = local.filter(|writer| copied || writer.has_parts()) else {
        return upload.await;
    };
    let store = writer.store().clone();
    let copy = write_local(writer, pieces, base);
    futures::pin_mut!(upload, copy);
    match futures::future::select(upload, copy).await {
        Either::Left((uploaded, copy)) => {
            if let Err(reason) = uploaded {
                store.give_up(context.checkpoint, &format!("primary failed: {reason}"));
                return Err(reason);
            }
            let now = platform.clock.now();
            let grace = LOCAL_GRACE.max(now.since(started));
            match timeout(platform.clock.as_ref(), now + grace, copy).await {
                Ok(stored) => local_failed(platform, context, settings, stored || store.is_dropped(context.checkpoint)),
                Err(_) => {
                    platform.journal.reached(Point::LocalTooSlow);
                    store.give_up(context.checkpoint, "too slow: primary was done long before");
                    Ok(())
                }
            }
        }
        Either::Right((stored, upload)) => {
            if let Err(reason) = upload.await {
                store.give_up(context.checkpoint, &format!("primary failed: {reason}"));
                return Err(reason);
            }
            local_failed(platform, context, settings, stored || store.is_dropped(context.checkpoint))
        }
    }
}

/// A planted bug makes more of a local copy that failed than it is.
fn local_failed(
    platform: &Platform,
    context: &SnapshotContext,
    settings: &TaskSettings,
    fine: bool,
) -> Result<(), String> {
    if !fine && settings.sabotage.runs(Sabotage::LocalFailureDeclines, &platform.journal) {
        return Err(format!("the local copy of checkpoint {} could not be stored", context.checkpoint));
    }
    Ok(())
}

async fn upload_all(
    platform: &Platform,
    context: &SnapshotContext,
    settings: &TaskSettings,
    pieces: &[Piece],
) -> Result<(), String> {
    let parts: Vec<_> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Written(part, bytes) => Some((part, bytes)),
            Piece::Inline(_) | Piece::Reused(_) => None,
        })
        .collect();
    let primary = Primary::new(platform, settings.store_operation_timeout, settings.store_total_timeout);
    let skipped =
        usize::from(!parts.is_empty() && settings.sabotage.runs(Sabotage::AckWithoutUpload, &platform.journal));
    // Boxed before they are streamed: what a closure makes inside a stream is not known to be `Send`.
    let uploads = parts.into_iter().skip(skipped).map(|(part, bytes)| {
        let upload: Fut<'_, _> = Box::pin(upload_one(platform, context, &primary, part, bytes));
        upload
    });
    let uploads: Vec<_> = uploads.collect();
    let mut uploads = stream::iter(uploads).buffer_unordered(at_once(settings));
    while let Some(result) = uploads.next().await {
        result?;
    }
    Ok(())
}

pub(super) async fn upload_one(
    platform: &Platform,
    context: &SnapshotContext,
    primary: &Primary,
    part: &StatePart,
    bytes: &Bytes,
) -> Result<(), String> {
    let Some(object) = part.object() else { return Ok(()) };
    primary
        .create(object, vec![bytes.clone()])
        .await
        .map_err(|error| format!("part {} could not be written to {object}: {error}", part.name))?;
    platform.journal.emit(Event::PartUploaded {
        subtask: context.name.clone(),
        checkpoint: context.checkpoint,
        object: object.to_string(),
        bytes: part.length,
    });
    Ok(())
}

/// Whether the copy is there, or part of it.
async fn write_local(mut writer: LocalWriter, pieces: &[Piece], base: Option<CheckpointId>) -> bool {
    let mut of_base = None;
    for piece in pieces {
        match (piece, base) {
            (Piece::Written(part, bytes), _) => writer.put(part, bytes.clone()).await,
            (Piece::Inline(_), _) => {}
            (Piece::Reused(part), Some(base)) => {
                if of_base.is_none() {
                    of_base = Some(writer.store().retrieve(base).await);
                }
                let bytes = match of_base.as_ref() {
                    Some(Ok(copy)) => copy.read(part, false).await,
                    Some(Err(reason)) => Err(reason.clone()),
                    None => Err("there is no base".to_string()),
                };
                writer.adopt(part, bytes).await;
            }
            (Piece::Reused(part), None) => writer.adopt(part, Err("there is no base".to_string())).await,
        }
    }
    writer.finish().await
}

/// Reads the state that `spec` tells to restore, each part from the local copy if it has exactly that part, else from primary.
/// Other local copies are removed. `scratch`: the operators with a database; files of native checkpoints go there. `name`: the subtask's, for the journal.
///
/// # Errors
/// [`TaskFailure::StateLost`]: a part is definitely gone or damaged in primary, and locally too.
/// [`TaskFailure::Environment`]: a part could not be read for as long as allowed.
pub async fn restore_parts(
    platform: &Platform,
    spec: &SubtaskSpec,
    name: &str,
    local: Option<&LocalStateStore>,
    mut scratch: BTreeMap<OperatorUid, Scratch>,
) -> Result<RestoredState, TaskFailure> {
    let wrong_copy = wrong_copy(spec, local).await;
    if let Some(store) = local {
        // A disk that does not answer must not keep the subtask from primary.
        let by = platform.clock.now() + spec.settings.store_operation_timeout;
        let keep = wrong_copy.or(spec.restore.as_ref().map(|order| order.checkpoint));
        let _ = timeout(platform.clock.as_ref(), by, store.prune(keep)).await;
    }
    let Some(order) = &spec.restore else { return Ok(RestoredState { scratch, ..RestoredState::default() }) };
    let (checkpoint, attempt) = (order.checkpoint, spec.attempt);
    let settings = &spec.settings;
    platform.journal.emit(Event::RestoreStarted { subtask: name.to_string(), checkpoint, attempt });
    let reader = PartReader {
        platform,
        primary: Primary::new(platform, settings.store_operation_timeout, settings.store_total_timeout),
        settings,
        checkpoint,
        name,
        wrong_copy: wrong_copy.is_some(),
        local: match local.filter(|_| settings.local_recovery) {
            None => None,
            // Of what others wrote there is no copy here.
            Some(_) if order.parts.iter().all(|part| part.from != spec.subtask.index) => None,
            Some(store) => Some(reader_copy(platform, settings, store, wrong_copy.unwrap_or(checkpoint)).await),
        },
    };
    let places = places(checkpoint, &order.parts, &mut scratch)?;
    // Boxed before they are streamed, as in `upload_all`.
    let reads = order.parts.iter().zip(&places).map(|(part, place)| {
        let reader = &reader;
        let read: Fut<'_, _> = Box::pin(async move {
            let (bytes, from_local) = reader.read(&part.part, part.from == spec.subtask.index).await?;
            let Some(Place { directory, subdirectory, file }) = place else { return Ok((Some(bytes), from_local)) };
            let written = platform.disk.write_native(directory, subdirectory, file, bytes).await;
            written.map_err(|error| TaskFailure::Environment(format!("part {}: {error}", part.part.name)))?;
            Ok((None, from_local))
        });
        read
    });
    let reads: Vec<_> = reads.collect();
    let results: Vec<_> = stream::iter(reads).buffered(at_once(settings)).collect().await;
    let mut restored = RestoredState {
        inline: order.inline.clone(),
        parallelism: order.parallelism.clone(),
        ..RestoredState::default()
    };
    let (mut local_parts, mut primary_parts) = (0, 0);
    let mut failure = None;
    for (RestorePart { from, part }, result) in order.parts.iter().zip(results) {
        match result {
            Ok((bytes, from_local)) => {
                *(if from_local { &mut local_parts } else { &mut primary_parts }) += 1;
                // What is none has found its place.
                restored.parts.extend(bytes.map(|bytes| RestoredPart {
                    operator: part.operator.clone(),
                    key_groups: part.key_groups,
                    kind: part.kind.clone(),
                    from: *from,
                    bytes,
                }));
            }
            // A definite loss says more than an outage.
            Err(lost @ TaskFailure::StateLost { .. }) if !matches!(failure, Some(TaskFailure::StateLost { .. })) => {
                failure = Some(lost);
            }
            Err(other) => failure = failure.or(Some(other)),
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    #[cfg(feature = "sabotage")]
    if settings.sabotage.is(Sabotage::RestoreDropsKeyGroup) {
        for part in &mut restored.parts {
            if let Ok(less) = crate::state::without_one_key_group(&part.bytes)
                && less != part.bytes
            {
                platform.journal.emit(Sabotage::RestoreDropsKeyGroup.marker());
                part.bytes = less;
            }
        }
    }
    #[cfg(feature = "sabotage")]
    super::planted_state::spoil(platform, spec, &mut restored);
    #[cfg(feature = "sabotage")]
    if settings.sabotage.is(Sabotage::KeyGroupOffByOne) {
        spoil_the_seam(platform, &mut restored);
    }
    if reader.local.is_some() {
        platform.journal.reached(match (local_parts, primary_parts) {
            (_, 0) => Point::LocalExactly,
            (0, _) => Point::LocalNot,
            _ => Point::LocalPartly,
        });
    }
    restored.scratch = scratch;
    let subtask = name.to_string();
    platform.journal.emit(Event::RestoreFinished { subtask, checkpoint, attempt, local_parts, primary_parts });
    Ok(restored)
}

/// A planted bug: where two old subtasks' ranges meet within a new one's, the last key group of the first is left out.
#[cfg(feature = "sabotage")]
fn spoil_the_seam(platform: &Platform, restored: &mut RestoredState) {
    for position in 1..restored.parts.len() {
        let (before, after) = (&restored.parts[position - 1], &restored.parts[position]);
        if before.operator == after.operator
            && before.from != after.from
            && let Ok(less) = crate::state::without_key_group(&before.bytes, before.key_groups.last)
            && less != before.bytes
        {
            platform.journal.emit(Sabotage::KeyGroupOffByOne.marker());
            restored.parts[position - 1].bytes = less;
        }
    }
}

/// A planted bug: the copy to restore from, if it is not the one asked for.
#[cfg(feature = "sabotage")]
async fn wrong_copy(spec: &SubtaskSpec, local: Option<&LocalStateStore>) -> Option<CheckpointId> {
    if !spec.settings.local_recovery || !spec.settings.sabotage.is(Sabotage::NewestLocalCopy) {
        return None;
    }
    let asked = spec.restore.as_ref()?.checkpoint;
    local?.newest().await.filter(|newest| *newest != asked)
}

#[cfg(not(feature = "sabotage"))]
#[expect(clippy::unused_async, reason = "as the other one")]
async fn wrong_copy(_spec: &SubtaskSpec, _local: Option<&LocalStateStore>) -> Option<CheckpointId> {
    None
}

async fn reader_copy(
    platform: &Platform,
    settings: &TaskSettings,
    store: &LocalStateStore,
    checkpoint: CheckpointId,
) -> Result<LocalCopy, String> {
    let by = platform.clock.now() + settings.store_operation_timeout;
    match timeout(platform.clock.as_ref(), by, store.retrieve(checkpoint)).await {
        Ok(copy) => copy,
        Err(_) => Err("the local disk does not answer".to_string()),
    }
}

struct PartReader<'a> {
    platform: &'a Platform,
    primary: Primary,
    settings: &'a TaskSettings,
    checkpoint: CheckpointId,
    name: &'a str,
    /// The local copy is of another checkpoint, and a planted bug believes it.
    wrong_copy: bool,
    /// None: local recovery is off.
    local: Option<Result<LocalCopy, String>>,
}

impl PartReader<'_> {
    /// The part's bytes, and whether they are local ones. `own`: this subtask wrote it, so that there may be a local copy.
    async fn read(&self, part: &StatePart, own: bool) -> Result<(Bytes, bool), TaskFailure> {
        let checkpoint = self.checkpoint;
        let journal = &self.platform.journal;
        let (subtask, name) = (self.name.to_string(), part.name.clone());
        let mut tried = String::new();
        let local = if own { self.read_local(part).await } else { None };
        match local {
            None => {}
            Some(Ok(bytes)) => {
                let length = bytes.len() as u64;
                journal.emit(Event::PartRestoredLocally { subtask, checkpoint, part: name, bytes: length });
                return Ok((bytes, true));
            }
            Some(Err(reason)) => {
                tried = format!("local: {reason}; ");
                let subtask = subtask.clone();
                journal.emit(Event::LocalPartRejected { subtask, checkpoint, part: name.clone(), reason });
            }
        }
        match self.read_primary(part).await {
            Ok(bytes) => {
                journal.emit(Event::PartRestoredFromPrimary { subtask, checkpoint, part: name, bytes: part.length });
                Ok((bytes, false))
            }
            Err(PrimaryFailure::Lost(reason)) => {
                let reason = format!("{tried}primary: {}: {reason}", part.location);
                let event = Event::RestorePartLost { subtask, checkpoint, part: name.clone(), reason: reason.clone() };
                journal.emit(event);
                Err(TaskFailure::StateLost { checkpoint, part: name, reason })
            }
            Err(PrimaryFailure::Unavailable(error)) => Err(TaskFailure::Environment(format!(
                "part {name} of checkpoint {checkpoint} cannot be read now: {tried}primary: {}: {error}",
                part.location
            ))),
        }
    }

    async fn read_local(&self, part: &StatePart) -> Option<Result<Bytes, String>> {
        let copy = match self.local.as_ref()? {
            Ok(copy) => copy,
            Err(reason) => return Some(Err(reason.clone())),
        };
        let by = self.platform.clock.now() + self.settings.store_operation_timeout;
        let sabotage = &self.settings.sabotage;
        let trust = self.wrong_copy || sabotage.is(Sabotage::TrustLocalPart);
        let Ok(result) = timeout(self.platform.clock.as_ref(), by, copy.read(part, trust)).await else {
            return Some(Err("the local disk does not answer".to_string()));
        };
        if trust
            && let Ok(bytes) = &result
            // Of another checkpoint it is the wrong copy, even where its bytes happen to be the same.
            && (self.wrong_copy || bytes.len() as u64 != part.length || crc32c::crc32c(bytes) != part.crc32c)
        {
            let bug = if self.wrong_copy { Sabotage::NewestLocalCopy } else { Sabotage::TrustLocalPart };
            self.platform.journal.emit(bug.marker());
        }
        Some(result)
    }

    async fn read_primary(&self, part: &StatePart) -> Result<Bytes, PrimaryFailure> {
        let object = match &part.location {
            PartLocation::Object(object) => object,
            PartLocation::Inline(bytes) => return inline_bytes(part, bytes),
        };
        let mut readings = Readings::new(2);
        loop {
            let (reason, meaning) = match self.primary.read_exact(object, part.length).await {
                Ok(bytes) => {
                    if crc32c::crc32c(&bytes) == part.crc32c {
                        return Ok(bytes);
                    }
                    (WRONG_CHECKSUM.to_string(), readings.bad(&bytes))
                }
                Err(error @ ReadError::Length { .. }) => (error.to_string(), readings.wrong_length(&error)),
                Err(ReadError::Store(StoreError::Absent)) => {
                    return Err(PrimaryFailure::Lost(StoreError::Absent.to_string()));
                }
                Err(ReadError::Store(error)) => return Err(PrimaryFailure::Unavailable(error)),
            };
            match meaning {
                BadReading::Again => {}
                BadReading::AtRest => return Err(PrimaryFailure::Lost(reason)),
                BadReading::OnTheWay => return Err(PrimaryFailure::Unavailable(damaged_on_the_way())),
            }
        }
    }
}

/// What came with the order to restore it, if it is what was written.
fn inline_bytes(part: &StatePart, bytes: &Bytes) -> Result<Bytes, PrimaryFailure> {
    let length = bytes.len() as u64;
    if length != part.length {
        return Err(PrimaryFailure::Lost(format!("{length} bytes, {} were expected", part.length)));
    }
    if crc32c::crc32c(bytes) != part.crc32c {
        return Err(PrimaryFailure::Lost(WRONG_CHECKSUM.to_string()));
    }
    Ok(bytes.clone())
}

enum PrimaryFailure {
    Lost(String),
    Unavailable(StoreError),
}
