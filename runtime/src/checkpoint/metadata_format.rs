//! A checkpoint's metadata as Flink's `_metadata` file, version 3: every operator with its handles, and in a master state of its own
//! what Flink's layout has no place for. Behind the body lies a trailer ([`super::flink`]).
//!
//! The master state describes everything but the bytes of inline state, which lie in the handles alone. So the file says most things
//! twice; on reading the whole file is written anew from the master state and must come out the same, byte for byte.
//!
//! How a subtask's state of one operator is told to Flink:
//! * Keyed parts are key-group handles, files of native checkpoints one incremental handle per working store. Flink has one place for
//!   keyed state per subtask; where there are several handles, they are the materialised part of a changelog handle without changes.
//!   Offsets of key groups are -1: a part's own index has them.
//! * Operator state is one stream with one pseudo-state, split in the managed place and union in the raw one. What an operator keeps
//!   inline in a subtask's snapshot (positions of a source) is an inline stream in the managed place, or in the raw one if that is
//!   taken.
//! * Paths lead from the directory of the file.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    flink::{MAGIC, Writer, of_another_version, trailer},
    frame::FrameError,
    metadata::CheckpointMetadata,
    types::{PartKind, PartLocation, StatePart, SubtaskKey, SubtaskSnapshot},
};
use crate::{
    ids::{BackendId, CheckpointId, KeyGroupRange, OperatorUid},
    layout::Layout,
    platform::ObjectName,
};

/// The version of Flink's layout that is written.
const FLINK_VERSION: u32 = 3;
const MASTER_STATE_MAGIC: u32 = 0xc96b_1696;
/// The version of Weir's master state that this program writes and reads.
pub const VERSION: u32 = 1;
/// The name of the only state in an operator handle: what is in the stream is Weir's own format.
const PSEUDO_STATE: &str = "_default_";

/// Kinds of handles.
mod handle {
    pub const NULL: u8 = 0;
    pub const INLINE: u8 = 1;
    pub const KEY_GROUPS: u8 = 3;
    pub const OPERATOR: u8 = 4;
    pub const INCREMENTAL: u8 = 5;
    pub const RELATIVE_FILE: u8 = 6;
    pub const CHANGELOG: u8 = 8;
}

/// # Errors
/// [`FrameError::Content`] if it cannot be said in this layout.
pub fn encode(metadata: &CheckpointMetadata) -> Result<Bytes, FrameError> {
    let section = postcard::to_allocvec(&without_inline(metadata)).map_err(|e| FrameError::Content(e.to_string()))?;
    Ok(File::write(metadata, &section)?.out.bytes.into())
}

/// # Errors
/// [`FrameError`] for bytes that are not exactly what [`encode`] gives for something.
pub fn decode(bytes: &[u8]) -> Result<CheckpointMetadata, FrameError> {
    let body = trailer::body(bytes).map_err(|problem| {
        // Who comes with the savepoint of an old Flink hears what to do with it.
        FrameError::Content(of_another_version(bytes).unwrap_or_else(|| format!("trailer: {problem}")))
    })?;
    let section = section_of(body)?;
    let (mut metadata, rest): (CheckpointMetadata, &[u8]) =
        postcard::take_from_bytes(section).map_err(|e| FrameError::Content(format!("master state: {e}")))?;
    if !rest.is_empty() {
        return Err(FrameError::TrailingBytes { extra: rest.len() as u64 });
    }
    // Where the bytes of inline state must be is known once the file is written without them.
    let mut room = bytes.len() as u64;
    for part in metadata.subtasks.values_mut().flat_map(|snapshot| &mut snapshot.parts) {
        if part.object().is_none() {
            room = room.checked_sub(part.length).ok_or_else(|| too_short(part, bytes.len()))?;
            let length = usize::try_from(part.length).map_err(|_| too_short(part, bytes.len()))?;
            part.location = PartLocation::Inline(vec![0; length].into());
        }
    }
    let blank = File::write(&metadata, section)?;
    let places: BTreeMap<_, _> = blank.inline.into_iter().collect();
    for (subtask, snapshot) in &mut metadata.subtasks {
        for (number, part) in snapshot.parts.iter_mut().enumerate() {
            if let (PartLocation::Inline(inline), Some(at)) = (&mut part.location, places.get(&(*subtask, number))) {
                let found = bytes.get(*at..*at + inline.len());
                *inline = Bytes::copy_from_slice(found.ok_or_else(|| too_short_at(bytes.len()))?);
            }
        }
    }
    if File::write(&metadata, section)?.out.bytes != bytes {
        return Err(FrameError::Content("the handles and the master state describe different checkpoints".to_string()));
    }
    Ok(metadata)
}

fn too_short(part: &StatePart, found: usize) -> FrameError {
    FrameError::Content(format!("part {} has {} bytes inline, the file has {found}", part.name, part.length))
}

fn too_short_at(found: usize) -> FrameError {
    FrameError::Content(format!("inline state lies behind the end of {found} bytes"))
}

fn without_inline(metadata: &CheckpointMetadata) -> CheckpointMetadata {
    let mut section = metadata.clone();
    for part in section.subtasks.values_mut().flat_map(|snapshot| &mut snapshot.parts) {
        if let PartLocation::Inline(bytes) = &mut part.location {
            *bytes = Bytes::new();
        }
    }
    section
}

/// The content of Weir's master state, which is the first and only one.
fn section_of(body: &[u8]) -> Result<&[u8], FrameError> {
    let no_file = |what: &str| FrameError::Content(format!("no metadata of Weir: {what}"));
    let number = |at: usize| {
        let four = body.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok());
        four.map(u32::from_be_bytes).ok_or_else(|| no_file("it ends within the head"))
    };
    for (at, expected, what) in [
        (0, MAGIC, "another magic number"),
        (4, FLINK_VERSION, "another version of Flink's layout"),
        (16, 1, "not one master state"),
        (20, MASTER_STATE_MAGIC, "the master state begins otherwise"),
    ] {
        if number(at)? != expected {
            return Err(no_file(what));
        }
    }
    let found = number(28)?;
    if found != VERSION {
        let narrow = |version: u32| u16::try_from(version).unwrap_or(u16::MAX);
        return Err(FrameError::Version { expected: narrow(VERSION), found: narrow(found) });
    }
    let name = trailer::WEIR_STATE.as_bytes();
    let at = 32 + 2 + name.len();
    if body.get(34..at) != Some(name) {
        return Err(no_file("the master state is not Weir's"));
    }
    let length = number(at)? as usize;
    body.get(at + 4..(at + 4).saturating_add(length)).ok_or_else(|| no_file("its master state is cut off"))
}

/// Flink's id of an operator with this uid (`StreamGraphHasherV2`).
pub fn operator_id(uid: &OperatorUid) -> u128 {
    fastmurmur3::murmur3_x64_128(uid.0.as_bytes(), 0).swap_bytes()
}

/// The text of a UUID.
fn backend_text(backend: Option<BackendId>) -> String {
    let hex = format!("{:032x}", backend.map_or(0, |backend| backend.0));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A part with its place among the subtask's parts.
type Placed<'a> = (usize, &'a StatePart);

/// What one subtask has of one operator.
#[derive(Default)]
struct Pieces<'a> {
    keyed: Vec<Placed<'a>>,
    native: BTreeMap<(Option<BackendId>, KeyGroupRange), Vec<Placed<'a>>>,
    split: Option<Placed<'a>>,
    union: Option<Placed<'a>>,
    inline: Option<&'a [u8]>,
}

impl<'a> Pieces<'a> {
    fn of(snapshot: &'a SubtaskSnapshot, operator: &OperatorUid) -> Result<Pieces<'a>, FrameError> {
        let mut pieces = Pieces { inline: snapshot.inline.get(operator).map(Vec::as_slice), ..Pieces::default() };
        for part in snapshot.parts.iter().enumerate().filter(|(_, part)| part.operator == *operator) {
            let second = match &part.1.kind {
                PartKind::Keyed => {
                    pieces.keyed.push(part);
                    None
                }
                PartKind::Shared { .. } | PartKind::Private { .. } => {
                    pieces.native.entry((part.1.backend, part.1.key_groups)).or_default().push(part);
                    None
                }
                PartKind::Operator { union: true } => pieces.union.replace(part),
                PartKind::Operator { union: false } => pieces.split.replace(part),
            };
            if second.is_some() {
                let what = format!("operator {operator} has operator state of one kind in two parts");
                return Err(FrameError::Content(what));
            }
        }
        Ok(pieces)
    }

    fn is_empty(&self) -> bool {
        self.keyed.is_empty()
            && self.native.is_empty()
            && self.split.is_none()
            && self.union.is_none()
            && self.inline.is_none()
    }
}

/// A stream of an operator handle.
enum Stream<'a> {
    Part(usize, &'a StatePart),
    Inline(&'a [u8]),
}

struct File {
    out: Writer,
    layout: Layout,
    checkpoint: CheckpointId,
    /// The subtask being written.
    subtask: SubtaskKey,
    /// Where the bytes of inline parts begin.
    inline: Vec<((SubtaskKey, usize), usize)>,
}

impl File {
    fn write(metadata: &CheckpointMetadata, section: &[u8]) -> Result<File, FrameError> {
        let mut file = File {
            out: Writer::default(),
            layout: Layout { job: metadata.job },
            checkpoint: metadata.checkpoint,
            subtask: (0, 0),
            inline: Vec::new(),
        };
        file.out.u32(MAGIC);
        file.out.u32(FLINK_VERSION);
        file.out.u64(metadata.checkpoint.0);
        file.master_state(section)?;
        file.operators(metadata)?;
        trailer::append(&mut file.out.bytes);
        Ok(file)
    }

    fn master_state(&mut self, section: &[u8]) -> Result<(), FrameError> {
        let mut state = Writer::default();
        state.u32(VERSION);
        state.text(trailer::WEIR_STATE)?;
        state.block(section, "bytes of master state")?;
        self.out.u32(1);
        self.out.u32(MASTER_STATE_MAGIC);
        self.out.block(&state.bytes, "bytes of master state")?;
        Ok(())
    }

    fn operators(&mut self, metadata: &CheckpointMetadata) -> Result<(), FrameError> {
        let mut vertices: BTreeSet<u32> = metadata.subtasks.keys().map(|(vertex, _)| *vertex).collect();
        vertices.extend((0..).take(metadata.vertices.len()));
        let mut operators = Vec::new();
        for vertex in vertices {
            let subtasks: Vec<_> = metadata.subtasks.range((vertex, 0)..=(vertex, u32::MAX)).collect();
            let shape = metadata.vertices.get(vertex as usize);
            let mut uids: Vec<&OperatorUid> = shape.iter().flat_map(|shape| &shape.operators).collect();
            // Exchanges keep state under names of their own.
            let with_state: BTreeSet<&OperatorUid> = subtasks
                .iter()
                .flat_map(|(_, s)| s.inline.keys().chain(s.parts.iter().map(|part| &part.operator)))
                .filter(|uid| !uids.contains(uid))
                .collect();
            uids.extend(with_state);
            operators.extend(uids.into_iter().map(|uid| (uid, shape, subtasks.clone())));
        }
        self.out.count(operators.len(), "operators")?;
        for (uid, shape, subtasks) in operators {
            self.out.identifier(operator_id(uid));
            let parallelism = shape.map_or(subtasks.len(), |shape| shape.parallelism as usize);
            self.out.count(parallelism, "subtasks")?;
            self.out.u32(shape.map_or(0, |shape| u32::from(shape.max_parallelism)));
            // No state of a coordinator.
            self.out.u8(handle::NULL);
            let mut with_state = Vec::new();
            for (key, snapshot) in subtasks {
                let pieces = Pieces::of(snapshot, uid)?;
                if !pieces.is_empty() {
                    with_state.push((*key, pieces));
                }
            }
            self.out.count(with_state.len(), "subtasks")?;
            for (key, pieces) in with_state {
                self.subtask = key;
                self.out.u32(key.1);
                self.subtask_state(uid, &pieces)?;
            }
        }
        Ok(())
    }

    fn subtask_state(&mut self, uid: &OperatorUid, pieces: &Pieces<'_>) -> Result<(), FrameError> {
        let mut inline = pieces.inline.map(Stream::Inline);
        for (part, mode) in [(pieces.split, 0), (pieces.union, 1)] {
            let stream = part.map(|(number, part)| Stream::Part(number, part)).or_else(|| inline.take());
            self.out.u32(u32::from(stream.is_some()));
            let Some(stream) = stream else { continue };
            self.out.u8(handle::OPERATOR);
            self.out.u32(1);
            self.out.text(PSEUDO_STATE)?;
            self.out.u8(mode);
            self.out.u32(1);
            self.out.u64(0);
            match stream {
                Stream::Part(number, part) => self.part(number, part)?,
                Stream::Inline(bytes) => {
                    self.out.u8(handle::INLINE);
                    self.out.text(&uid.0)?;
                    self.out.block(bytes, "bytes of inline state")?;
                }
            }
        }
        self.keyed(uid, pieces)?;
        // No raw keyed state, and no data in flight.
        self.out.u8(handle::NULL);
        self.out.u32(0);
        self.out.u32(0);
        Ok(())
    }

    fn keyed(&mut self, uid: &OperatorUid, pieces: &Pieces<'_>) -> Result<(), FrameError> {
        let handles = pieces.keyed.len() + pieces.native.len();
        if handles == 0 {
            self.out.u8(handle::NULL);
            return Ok(());
        }
        let ranges = || {
            let keyed = pieces.keyed.iter().map(|(_, part)| part.key_groups);
            keyed.chain(pieces.native.keys().map(|(_, range)| *range))
        };
        let wrapped = handles > 1;
        if wrapped {
            let first = ranges().map(|range| range.first).min().unwrap_or_default();
            let last = ranges().map(|range| range.last).max().unwrap_or_default();
            self.out.u8(handle::CHANGELOG);
            self.range(KeyGroupRange { first, last });
            let own = pieces.keyed.iter().chain(pieces.native.values().flatten()).map(|(_, part)| part);
            self.out.u64(own.filter(|part| part.written_by == self.checkpoint).map(|part| part.length).sum());
            self.out.count(handles, "handles")?;
        }
        for (number, part) in &pieces.keyed {
            self.out.u8(handle::KEY_GROUPS);
            self.range(part.key_groups);
            for _ in part.key_groups.iter() {
                self.out.u64(u64::MAX);
            }
            self.part(*number, part)?;
        }
        for ((backend, range), files) in &pieces.native {
            self.out.u8(handle::INCREMENTAL);
            self.out.u64(self.checkpoint.0);
            self.out.text(&backend_text(*backend))?;
            self.range(*range);
            self.out.u8(handle::NULL);
            for shared in [true, false] {
                let of_kind = |part: &StatePart| matches!(part.kind, PartKind::Shared { .. }) == shared;
                let files: Vec<_> = files.iter().filter(|(_, part)| of_kind(part)).collect();
                self.out.count(files.len(), "files")?;
                for (number, part) in files {
                    if let PartKind::Shared { file } | PartKind::Private { file } = &part.kind {
                        self.out.text(file)?;
                    }
                    self.part(*number, part)?;
                }
            }
        }
        if wrapped {
            // No changes since.
            self.out.u32(0);
            self.out.u64(0);
            self.out.text(&format!("{uid}-{}", self.subtask.1))?;
        }
        Ok(())
    }

    fn range(&mut self, range: KeyGroupRange) {
        self.out.u32(u32::from(range.first.0));
        self.out.u32(range.count());
    }

    fn part(&mut self, number: usize, part: &StatePart) -> Result<(), FrameError> {
        match &part.location {
            PartLocation::Inline(bytes) => {
                self.out.u8(handle::INLINE);
                self.out.text(&part.name)?;
                let at = self.out.block(bytes, "bytes of inline state")?;
                self.inline.push(((self.subtask, number), at));
            }
            PartLocation::Object(object) => {
                self.out.u8(handle::RELATIVE_FILE);
                let path = self.relative(object);
                self.out.text(&path)?;
                self.out.u64(part.length);
            }
        }
        Ok(())
    }

    /// The path of an object from the directory of the metadata.
    fn relative(&self, object: &ObjectName) -> String {
        let name = object.as_str();
        if let Some(own) = name.strip_prefix(&self.layout.checkpoint_prefix(self.checkpoint)) {
            return own.to_string();
        }
        match name.strip_prefix(&self.layout.checkpoints_prefix()) {
            Some(of_job) => format!("../{of_job}"),
            // All that a savepoint has lies beside its metadata, and is named so.
            None if !name.contains('/') => name.to_string(),
            // `checkpoints/<job>/chk-<n>/` is three deep.
            None => format!("../../../{name}"),
        }
    }
}

#[cfg(test)]
mod tests;
