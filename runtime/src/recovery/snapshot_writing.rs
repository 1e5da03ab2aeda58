//! Writing a subtask's snapshot: the parts to primary storage and, beside it, to the local disk.
//!
//! Primary is the truth: a snapshot is written when primary has every part, and not before; the local copy may be missing,
//! partial or given up, and neither fails the snapshot nor delays it.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::Either, stream};

use super::{local_copy::NotLocal, local_writer::LocalWriter, transfer::Transfer};
use crate::{
    checkpoint::{
        primary::Primary,
        types::{PartLocation, StatePart},
    },
    dataflow::{
        chain::{PartData, PartSource},
        task::TaskSettings,
    },
    ids::{AttemptId, CheckpointId, JobId, OperatorUid, SubtaskId},
    journal::Event,
    layout::{Layout, SavepointDirectory},
    platform::{Fut, Held, NativeOp, ObjectName, Platform, timeout},
    points::Point,
    sabotage::Sabotage,
    state::BackendKind,
};

/// Parts of heap state of one subtask that are written, or read, at the same time.
const PARALLEL: usize = 4;

/// How many are; RocksDB's is configured, as in Flink.
pub(super) fn at_once(settings: &TaskSettings) -> usize {
    match settings.backend.kind {
        BackendKind::RocksDb => settings.backend.rocksdb.transfer_threads.max(1) as usize,
        BackendKind::Memory | BackendKind::Filesystem => PARALLEL,
    }
}

/// The local copy may lag behind primary by so much, or by as long as primary took, before it is given up.
pub(super) const LOCAL_GRACE: Duration = Duration::from_millis(100);

/// Whose snapshot it is.
#[derive(Clone, Debug)]
pub struct SnapshotContext {
    pub job: JobId,
    pub subtask: SubtaskId,
    /// `count[1]`.
    pub name: String,
    pub attempt: AttemptId,
    pub checkpoint: CheckpointId,
    /// It is a savepoint: everything it has lies in this directory.
    pub savepoint: Option<SavepointDirectory>,
    pub transfer: Transfer,
}

impl SnapshotContext {
    /// A name for a new object. `shared`: later checkpoints may refer to it; to what a savepoint has none does.
    pub fn object(&self, part: &str, shared: bool, nonce: u64) -> ObjectName {
        let layout = Layout { job: self.job };
        match &self.savepoint {
            Some(directory) => directory.state_part(self.attempt, self.subtask, part, nonce),
            None if shared => layout.shared_part(self.checkpoint, self.attempt, self.subtask, part, nonce),
            None => layout.state_part(self.checkpoint, self.attempt, self.subtask, part, nonce),
        }
    }
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
/// [`LocalStateStore::abort`](super::local_store::LocalStateStore::abort) after that.
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
    context.transfer.go_on()?;
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
    let nonce = platform.entropy.next_u64("object-nonce");
    part.location = PartLocation::Object(context.object(&part.name, may_be_shared, nonce));
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
        let upload: Fut<'_, _> = Box::pin(upload_one(platform, context, settings, &primary, part, bytes));
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
    settings: &TaskSettings,
    primary: &Primary,
    part: &StatePart,
    bytes: &Bytes,
) -> Result<(), String> {
    let Some(object) = part.object() else { return Ok(()) };
    context.transfer.begin(object)?;
    let piece_bytes = settings.transfer_piece_bytes;
    let result = if part.length <= piece_bytes {
        primary.create(object, vec![bytes.clone()]).await.map_err(|error| error.to_string())
    } else {
        let read = |range: Range<u64>| -> Fut<'_, Result<Bytes, String>> {
            // Of bytes that are in memory, so that their length fits.
            let piece = bytes.slice(range.start as usize..range.end as usize);
            Box::pin(std::future::ready(context.transfer.go_on().map(|()| piece)))
        };
        let stored = |piece| piece_uploaded(platform, context, object, piece);
        let uploaded = primary.upload(object, part.length, piece_bytes, read, stored).await;
        uploaded.map(drop).map_err(|error| error.to_string())
    };
    result.map_err(|error| not_uploaded(part, object, &error))?;
    part_uploaded(platform, context, part);
    Ok(())
}

pub(super) fn not_uploaded(part: &StatePart, object: &ObjectName, error: &str) -> String {
    format!("part {} could not be written to {object}: {error}", part.name)
}

pub(super) fn piece_uploaded(platform: &Platform, context: &SnapshotContext, object: &ObjectName, piece: u32) {
    platform.journal.emit(Event::PartPieceUploaded {
        subtask: context.name.clone(),
        checkpoint: context.checkpoint,
        object: object.to_string(),
        piece,
    });
}

pub(super) fn part_uploaded(platform: &Platform, context: &SnapshotContext, part: &StatePart) {
    platform.journal.emit(Event::PartUploaded {
        subtask: context.name.clone(),
        checkpoint: context.checkpoint,
        object: part.location.to_string(),
        bytes: part.length,
    });
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
                    None => Err(NotLocal::NoCopy),
                };
                writer.adopt(part, bytes).await;
            }
            (Piece::Reused(part), None) => writer.adopt(part, Err(NotLocal::NoCopy)).await,
        }
    }
    writer.finish().await
}
