//! Reading a subtask's state back: each part from the local copy only if it is exactly the part asked for, else from primary;
//! never bytes whose length or checksum differ.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{
    local_copy::NotLocal,
    local_sources::{FoundLocally, LocalSources},
    local_store::LocalStateStore,
    native_io::{Place, places},
    restore_report::{PartOrigin, PartReport, RestoreReport},
    snapshot_writing::at_once,
};
use crate::{
    checkpoint::{
        primary::{BadReading, PiecesError, Primary, ReadError, Readings, damaged_on_the_way},
        types::{PartLocation, RestorePart, StatePart},
    },
    dataflow::{
        chain::{RestoredPart, RestoredState, Scratch},
        task::{SubtaskSpec, TaskFailure, TaskSettings},
    },
    ids::{CheckpointId, OperatorUid},
    journal::Event,
    layout::Layout,
    platform::{DiskError, Fut, ObjectName, Platform, StoreError, timeout},
    points::Point,
    sabotage::Sabotage,
};

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
        local: match local.filter(|_| settings.local_recovery) {
            None => None,
            Some(store) => {
                Some(LocalSources::open(platform, settings, store, order, spec.subtask.index, wrong_copy).await)
            }
        },
    };
    let places = places(Layout { job: spec.job }, checkpoint, &order.parts, &mut scratch)?;
    // Boxed before they are streamed, as in the upload.
    let reads = order.parts.iter().zip(&places).map(|(part, place)| {
        let reader = &reader;
        let read: Fut<'_, _> = Box::pin(async move {
            let own = part.from == spec.subtask.index;
            let (found, origin) = reader.read(&part.part, own, place.as_ref()).await?;
            let (Some(place), Some(bytes)) = (place, &found) else { return Ok((found, origin)) };
            // Small, or from a local copy that could not be taken as it is.
            let written = async { place.create(platform).await?.append(bytes.clone()).await };
            written.await.map_err(|error| TaskFailure::Environment(format!("part {}: {error}", part.part.name)))?;
            Ok((None, origin))
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
    let mut report = RestoreReport { checkpoint: Some(checkpoint), ..RestoreReport::default() };
    let (mut local_parts, mut primary_parts) = (0, 0);
    let mut failure = None;
    for (RestorePart { from, part }, result) in order.parts.iter().zip(results) {
        match result {
            Ok((bytes, origin)) => {
                let is_local = matches!(origin, PartOrigin::OwnCopy | PartOrigin::OtherCopy);
                *(if is_local { &mut local_parts } else { &mut primary_parts }) += 1;
                report.parts.push(PartReport { part: part.name.clone(), bytes: part.length, origin });
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
    restored.report = report;
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

struct PartReader<'a> {
    platform: &'a Platform,
    primary: Primary,
    settings: &'a TaskSettings,
    checkpoint: CheckpointId,
    name: &'a str,
    /// None: local recovery is off.
    local: Option<LocalSources<'a>>,
}

impl PartReader<'_> {
    /// The part's bytes, and where they are from. None if they are in `place` already. `own`: this subtask wrote it.
    async fn read(
        &self,
        part: &StatePart,
        own: bool,
        place: Option<&Place>,
    ) -> Result<(Option<Bytes>, PartOrigin), TaskFailure> {
        let checkpoint = self.checkpoint;
        let journal = &self.platform.journal;
        let (subtask, name) = (self.name.to_string(), part.name.clone());
        let mut tried = String::new();
        let not_local = match self.read_local(part, own).await {
            Ok(FoundLocally { bytes, own, file }) => {
                let length = bytes.len() as u64;
                journal.emit(Event::PartRestoredLocally { subtask, checkpoint, part: name, bytes: length });
                let origin = if own { PartOrigin::OwnCopy } else { PartOrigin::OtherCopy };
                // What was read has been verified: the file may be taken as it is.
                let is_taken = match (place, file) {
                    (Some(place), Some(file)) => {
                        place.take(self.platform, &file, self.settings.store_operation_timeout).await
                    }
                    _ => false,
                };
                return Ok(((!is_taken).then_some(bytes), origin));
            }
            Err(reason) => reason,
        };
        if part.object().is_some() && self.local.as_ref().is_some_and(|local| local.expects(part, own)) {
            tried = format!("local: {not_local}; ");
            let (subtask, reason) = (subtask.clone(), not_local.to_string());
            journal.emit(Event::LocalPartRejected { subtask, checkpoint, part: name.clone(), reason });
        }
        let in_pieces = place.filter(|_| part.length > self.settings.transfer_piece_bytes);
        let read = match (part.object(), in_pieces) {
            (Some(object), Some(place)) => self.fetch(part, object, place).await.map(|()| None),
            _ => self.read_primary(part).await.map(Some),
        };
        match read {
            Ok(bytes) => {
                journal.emit(Event::PartRestoredFromPrimary { subtask, checkpoint, part: name, bytes: part.length });
                let origin = if part.object().is_some() { PartOrigin::Primary(not_local) } else { PartOrigin::Inline };
                Ok((bytes, origin))
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
            Err(PrimaryFailure::Disk(error)) => Err(TaskFailure::Environment(format!("part {name}: {error}"))),
        }
    }

    async fn read_local(&self, part: &StatePart, own: bool) -> Result<FoundLocally, NotLocal> {
        let local = self.local.as_ref().ok_or(NotLocal::Off)?;
        let found = local.read(part, own).await?;
        if self.settings.sabotage.runs(Sabotage::PrimaryThoughLocal, &self.platform.journal) {
            return Err(NotLocal::NoCopy);
        }
        Ok(found)
    }

    /// Brings a part from primary to its place, a piece at a time.
    async fn fetch(&self, part: &StatePart, object: &ObjectName, place: &Place) -> Result<(), PrimaryFailure> {
        let mut readings = Readings::new(2);
        loop {
            // Anew after each bad reading: nothing of that one may stay.
            let mut file = place.create(self.platform).await.map_err(PrimaryFailure::Disk)?;
            let piece_bytes = self.settings.transfer_piece_bytes;
            let read = self.primary.read_into(object, part.length, piece_bytes, Some(file.as_mut())).await;
            let (reason, meaning) = match read {
                Ok(crc32c) if crc32c == part.crc32c => return Ok(()),
                Ok(crc32c) => (NotLocal::Checksum.to_string(), readings.bad_checksum(crc32c, part.length)),
                Err(PiecesError::Read(error @ ReadError::Length { .. })) => {
                    (error.to_string(), readings.wrong_length(&error))
                }
                Err(PiecesError::Read(ReadError::Store(StoreError::Absent))) => {
                    return Err(PrimaryFailure::Lost(StoreError::Absent.to_string()));
                }
                Err(PiecesError::Read(ReadError::Store(error))) => return Err(PrimaryFailure::Unavailable(error)),
                Err(PiecesError::Disk(error)) => return Err(PrimaryFailure::Disk(error)),
            };
            match meaning {
                BadReading::Again => {}
                BadReading::AtRest => return Err(PrimaryFailure::Lost(reason)),
                BadReading::OnTheWay => return Err(PrimaryFailure::Unavailable(damaged_on_the_way())),
            }
        }
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
                    (NotLocal::Checksum.to_string(), readings.bad(&bytes))
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
        return Err(PrimaryFailure::Lost(NotLocal::Checksum.to_string()));
    }
    Ok(bytes.clone())
}

enum PrimaryFailure {
    Lost(String),
    Unavailable(StoreError),
    /// What was read could not be kept.
    Disk(DiskError),
}
