//! The bytes of one part of keyed state. They can be read without the job's code, as far as keys and values are opaque.
//!
//! ```text
//! "WKST"  version u16  header length u32  header (postcard PartHeader)
//! per key group of the range, ascending:   group u16
//!     per state, in the header's order:    entries u32  length u64  entries
//!         per entry, ascending by key bytes:   key length varint, key, value length varint, value
//! ```
//!
//! Versions 2 and 4 are compressed, a key group at a time, so that one can be read without the others:
//!
//! ```text
//! per key group:   group u16  length u64  Snappy frames of what the others have for the key group behind its number
//! ```
//!
//! Versions 3 and 4 are the same, plain and compressed, with the structure of keys, values and namespaces in the header beside the
//! names of their types. Versions 1 and 2 are read, and no longer written.
//!
//! Integers are little-endian. Equal contents have equal bytes. Nothing about the bytes is believed when they are read: every
//! length is checked against what is there before anything is allocated.

use std::io::{Read, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    key::StateKey,
    shape::{Shape, same},
};
use crate::ids::{KeyGroup, KeyGroupRange, OperatorUid};

const MAGIC: &[u8; 4] = b"WKST";
/// Of parts that are not compressed.
const PLAIN: u16 = 3;
const COMPRESSED: u16 = 4;
/// Of parts that do not have structures of types.
const PLAIN_UNSTRUCTURED: u16 = 1;
const COMPRESSED_UNSTRUCTURED: u16 = 2;
/// No Snappy frame holds more than so many times its own length; what would be longer is no part of ours.
const MOST_EXPANSION: u64 = 64;

/// The bytes are not a part of keyed state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad keyed state: {0}")]
pub struct FormatError(pub String);

fn bad<T>(what: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError(what.into()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateKind {
    Value,
    List,
    Map,
    /// One value per key, combined of all that was added.
    Reducing,
    /// One accumulator per key.
    Aggregating,
    /// No values: each entry is a timer.
    Timers,
}

/// How values of a state are encoded, and the namespaces that tell them apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateStructure {
    /// Of a list state the whole list, of a map state the whole map; of timers nothing.
    pub value: Shape,
    /// Nothing: there are none.
    pub namespace: Shape,
}

/// One named state of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHeader {
    pub name: String,
    pub kind: StateKind,
    /// The Rust type as the compiler names it: for messages, and in place of the structure if that is not known.
    pub value_type: String,
    /// Raised by the author of the job.
    pub version: u32,
    /// None: the types do not let themselves be traced, or the state was written before there were structures.
    pub structure: Option<StateStructure>,
}

impl std::fmt::Display for StateHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} state of {} (version {})", self.kind, self.value_type, self.version)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHeader {
    pub operator: String,
    /// The Rust type as the compiler names it.
    pub key_type: String,
    /// None: see [`StateHeader::structure`].
    pub key_structure: Option<Shape>,
    pub max_parallelism: u16,
    pub key_groups: KeyGroupRange,
    /// Sorted by name.
    pub states: Vec<StateHeader>,
}

impl PartHeader {
    /// Of an operator whose states are added.
    pub(super) fn of<K: StateKey>(operator: &OperatorUid, max_parallelism: u16, key_groups: KeyGroupRange) -> Self {
        let key_type = std::any::type_name::<K>().to_string();
        let (operator, key_structure) = (operator.0.clone(), Shape::of::<K>());
        PartHeader { operator, key_type, key_structure, max_parallelism, key_groups, states: Vec::new() }
    }

    /// Whether keys of this snapshot are keys of the operator that `declared` describes: of one structure, or of one name if one
    /// of the structures is not known.
    ///
    /// # Errors
    /// Names both types, and the first difference.
    pub(super) fn has_keys_of(&self, declared: &PartHeader) -> Result<(), String> {
        let both =
            || format!("has keys of type {}, the operator has keys of type {}", self.key_type, declared.key_type);
        match (&self.key_structure, &declared.key_structure) {
            (Some(then), Some(now)) => same(then, now).map_err(|difference| format!("{}: {difference}", both())),
            _ if self.key_type == declared.key_type => Ok(()),
            _ => Err(both()),
        }
    }
}

/// A header as it was before there were structures.
#[derive(Serialize, Deserialize)]
pub(super) struct UnstructuredHeader {
    operator: String,
    key_type: String,
    max_parallelism: u16,
    key_groups: KeyGroupRange,
    states: Vec<UnstructuredState>,
}

#[derive(Serialize, Deserialize)]
struct UnstructuredState {
    name: String,
    kind: StateKind,
    value_type: String,
    version: u32,
}

impl From<UnstructuredHeader> for PartHeader {
    fn from(header: UnstructuredHeader) -> PartHeader {
        let states = header.states.into_iter().map(|UnstructuredState { name, kind, value_type, version }| {
            StateHeader { name, kind, value_type, version, structure: None }
        });
        PartHeader {
            operator: header.operator,
            key_type: header.key_type,
            key_structure: None,
            max_parallelism: header.max_parallelism,
            key_groups: header.key_groups,
            states: states.collect(),
        }
    }
}

#[cfg(test)]
impl From<&PartHeader> for UnstructuredHeader {
    fn from(header: &PartHeader) -> UnstructuredHeader {
        let states = header.states.iter().cloned().map(|StateHeader { name, kind, value_type, version, .. }| {
            UnstructuredState { name, kind, value_type, version }
        });
        UnstructuredHeader {
            operator: header.operator.clone(),
            key_type: header.key_type.clone(),
            max_parallelism: header.max_parallelism,
            key_groups: header.key_groups,
            states: states.collect(),
        }
    }
}

/// The entries of one state in one key group.
#[derive(Clone, Debug)]
pub struct StateSection {
    pub group: KeyGroup,
    /// Position among the header's states.
    pub state: usize,
    pub entries: u32,
    pub bytes: Bytes,
}

/// One entry, still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Writes the entries of one state in one key group; says how many.
pub(super) trait SectionWriter: Send {
    /// `group` counts from the first key group of the part.
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32;
}

/// The whole part. `compressed`: each key group is.
pub(super) fn encode_part(header: &PartHeader, compressed: bool, states: &[Box<dyn SectionWriter>]) -> Bytes {
    let encoded = postcard::to_allocvec(header).expect("strings and numbers always encode");
    let mut out = Vec::with_capacity(64 << 10);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&if compressed { COMPRESSED } else { PLAIN }.to_le_bytes());
    out.extend_from_slice(&u32::try_from(encoded.len()).expect("a header is small").to_le_bytes());
    out.extend_from_slice(&encoded);
    let mut plain = Vec::new();
    for (position, group) in header.key_groups.iter().enumerate() {
        out.extend_from_slice(&group.0.to_le_bytes());
        if compressed {
            plain.clear();
            write_states(position, states, &mut plain);
            let frames = compress(&plain);
            out.extend_from_slice(&(frames.len() as u64).to_le_bytes());
            out.extend_from_slice(&frames);
        } else {
            write_states(position, states, &mut out);
        }
    }
    Bytes::from(out)
}

/// What one key group has of all states.
fn write_states(position: usize, states: &[Box<dyn SectionWriter>], out: &mut Vec<u8>) {
    for state in states {
        // The frame's length is known only afterwards.
        let frame = out.len();
        out.extend_from_slice(&[0; 12]);
        let entries = state.write(position, out);
        let length = (out.len() - frame - 12) as u64;
        out[frame..frame + 4].copy_from_slice(&entries.to_le_bytes());
        out[frame + 4..frame + 12].copy_from_slice(&length.to_le_bytes());
    }
}

fn compress(plain: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(plain).expect("memory takes everything");
    encoder.into_inner().expect("memory takes everything")
}

fn decompress(frames: &[u8], group: KeyGroup) -> Result<Bytes, FormatError> {
    let most = (frames.len() as u64).saturating_mul(MOST_EXPANSION);
    let mut plain = Vec::new();
    snap::read::FrameDecoder::new(frames)
        .take(most + 1)
        .read_to_end(&mut plain)
        .map_err(|error| FormatError(format!("key group {group} does not decompress: {error}")))?;
    if plain.len() as u64 > most {
        return bad(format!("key group {group} of {} bytes is more than {most} when it is decompressed", frames.len()));
    }
    Ok(plain.into())
}

/// Appends one entry.
pub(super) fn put_entry(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for bytes in [key, value] {
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
    }
}

/// A part that was read and whose frames fit. Entries are checked as they are read.
#[derive(Clone, Debug)]
pub struct PartReader {
    pub header: PartHeader,
    pub sections: Vec<StateSection>,
}

impl PartReader {
    /// # Errors
    /// [`FormatError`] if the bytes are not exactly one part.
    pub fn new(bytes: &Bytes) -> Result<PartReader, FormatError> {
        PartReader::with_groups(bytes, |_| true)
    }

    /// Only what belongs to the key groups that are wanted: others are not decompressed, and nothing is known of their content.
    ///
    /// # Errors
    /// As [`Self::new`], as far as it is looked at.
    pub(super) fn with_groups(bytes: &Bytes, is_wanted: impl Fn(KeyGroup) -> bool) -> Result<PartReader, FormatError> {
        let mut rest = bytes.clone();
        if take(&mut rest, 4, "magic")?[..] != MAGIC[..] {
            return bad("it does not begin with WKST");
        }
        let version = take_u16(&mut rest, "version")?;
        if !(PLAIN_UNSTRUCTURED..=COMPRESSED).contains(&version) {
            let known = format!("{PLAIN_UNSTRUCTURED} to {COMPRESSED}");
            return bad(format!("format version {version}, this program reads versions {known}"));
        }
        let is_structured = version == PLAIN || version == COMPRESSED;
        let is_compressed = version == COMPRESSED || version == COMPRESSED_UNSTRUCTURED;
        let header_length = take_u32(&mut rest, "header length")?;
        let header_bytes = take(&mut rest, u64::from(header_length), "header")?;
        let header = if is_structured {
            postcard::take_from_bytes::<PartHeader>(&header_bytes)
        } else {
            postcard::take_from_bytes::<UnstructuredHeader>(&header_bytes).map(|(header, left)| (header.into(), left))
        };
        let (header, left) = header.map_err(|e| FormatError(format!("header does not decode: {e}")))?;
        if !left.is_empty() {
            return bad(format!("{} bytes too many in the header", left.len()));
        }
        if header.key_groups.first > header.key_groups.last || header.key_groups.last.0 >= header.max_parallelism {
            return bad(format!("key groups {} of {}", header.key_groups, header.max_parallelism));
        }
        if !header.states.windows(2).all(|pair| pair[0].name < pair[1].name) {
            return bad("states are not sorted by name");
        }
        let mut sections = Vec::new();
        for expected in header.key_groups.iter() {
            let group = KeyGroup(take_u16(&mut rest, "key group")?);
            if group != expected {
                return bad(format!("key group {group} where {expected} is expected"));
            }
            let mut unpacked = None;
            if is_compressed {
                let length = take_u64(&mut rest, "length of a key group")?;
                let frames = take(&mut rest, length, "key group")?;
                if !is_wanted(group) {
                    continue;
                }
                unpacked = Some(decompress(&frames, group)?);
            }
            let of_group = unpacked.as_mut().unwrap_or(&mut rest);
            for state in 0..header.states.len() {
                let entries = take_u32(of_group, "entry count")?;
                let length = take_u64(of_group, "section length")?;
                let section = take(of_group, length, "section")?;
                if is_wanted(group) {
                    sections.push(StateSection { group, state, entries, bytes: section });
                }
            }
            if let Some(left) = unpacked.filter(|left| !left.is_empty()) {
                return bad(format!("{} bytes too many in key group {group}", left.len()));
            }
        }
        if !rest.is_empty() {
            return bad(format!("{} bytes too many at the end", rest.len()));
        }
        Ok(PartReader { header, sections })
    }
}

impl StateSection {
    /// Calls `each` for every entry, in order.
    ///
    /// # Errors
    /// [`FormatError`] if the entries are not exactly the section, or not in ascending order; or what `each` says.
    pub fn for_each<'a>(
        &'a self,
        mut each: impl FnMut(EntryRef<'a>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let mut rest: &[u8] = &self.bytes;
        let mut previous: Option<&[u8]> = None;
        for _ in 0..self.entries {
            let key = take_framed(&mut rest, "key")?;
            let value = take_framed(&mut rest, "value")?;
            if previous.is_some_and(|previous| previous >= key) {
                return bad(format!("keys of key group {} are not in ascending order", self.group));
            }
            previous = Some(key);
            each(EntryRef { key, value })?;
        }
        if !rest.is_empty() {
            return bad(format!("{} bytes too many in key group {}", rest.len(), self.group));
        }
        Ok(())
    }
}

fn take(rest: &mut Bytes, length: u64, what: &str) -> Result<Bytes, FormatError> {
    match usize::try_from(length) {
        Ok(length) if length <= rest.len() => Ok(rest.split_to(length)),
        _ => bad(format!("{what} of {length} bytes, only {} left", rest.len())),
    }
}

fn take_array<const N: usize>(rest: &mut Bytes, what: &str) -> Result<[u8; N], FormatError> {
    let bytes = take(rest, N as u64, what)?;
    bytes[..].try_into().map_err(|_| FormatError(format!("{what} is cut off")))
}

fn take_u16(rest: &mut Bytes, what: &str) -> Result<u16, FormatError> {
    take_array(rest, what).map(u16::from_le_bytes)
}

fn take_u32(rest: &mut Bytes, what: &str) -> Result<u32, FormatError> {
    take_array(rest, what).map(u32::from_le_bytes)
}

fn take_u64(rest: &mut Bytes, what: &str) -> Result<u64, FormatError> {
    take_array(rest, what).map(u64::from_le_bytes)
}

fn take_framed<'a>(rest: &mut &'a [u8], what: &str) -> Result<&'a [u8], FormatError> {
    let mut length = 0u64;
    for shift in (0..63).step_by(7) {
        let Some((byte, after)) = rest.split_first() else {
            return bad(format!("length of a {what} is cut off"));
        };
        *rest = after;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return match usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)) {
                Some((bytes, after)) => {
                    *rest = after;
                    Ok(bytes)
                }
                None => bad(format!("a {what} of {length} bytes, only {} left", rest.len())),
            };
        }
    }
    bad(format!("length of a {what} is no number"))
}

/// The same part without the entries of its first key group that has any. For negative tests.
#[cfg(feature = "sabotage")]
pub fn without_one_key_group(part: &Bytes) -> Result<Bytes, FormatError> {
    let reader = PartReader::new(part)?;
    let victim = reader.sections.iter().find(|section| section.entries > 0).map(|section| section.group);
    victim.map_or_else(|| Ok(part.clone()), |victim| without_key_group(part, victim))
}

/// The same part without the entries of one key group. For negative tests.
#[cfg(feature = "sabotage")]
pub fn without_key_group(part: &Bytes, victim: KeyGroup) -> Result<Bytes, FormatError> {
    without(part, |section, _| section.group == victim)
}

/// The same part without its timers. For negative tests.
#[cfg(feature = "sabotage")]
pub fn without_timers(part: &Bytes) -> Result<Bytes, FormatError> {
    without(part, |_, state| state.kind == StateKind::Timers)
}

#[cfg(feature = "sabotage")]
fn without(part: &Bytes, goes: impl Fn(&StateSection, &StateHeader) -> bool) -> Result<Bytes, FormatError> {
    struct Sections(Vec<StateSection>);
    impl SectionWriter for Sections {
        fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
            out.extend_from_slice(&self.0[group].bytes);
            self.0[group].entries
        }
    }
    let mut reader = PartReader::new(part)?;
    let mut states: Vec<Vec<StateSection>> = reader.header.states.iter().map(|_| Vec::new()).collect();
    for mut section in reader.sections.drain(..) {
        if goes(&section, &reader.header.states[section.state]) {
            (section.entries, section.bytes) = (0, Bytes::new());
        }
        states[section.state].push(section);
    }
    let states: Vec<Box<dyn SectionWriter>> =
        states.into_iter().map(|sections| Box::new(Sections(sections)) as Box<dyn SectionWriter>).collect();
    Ok(encode_part(&reader.header, false, &states))
}
