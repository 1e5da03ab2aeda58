//! The bytes of one part of operator state: what one subtask had of an operator's union states, or of its others.
//!
//! ```text
//! "WOST"  version u16  header length u32  header (postcard OperatorPartHeader)
//! per state, in the header's order:    entries u32  length u64  entries
//!     per entry:   length u32  bytes
//! ```
//!
//! Version 2 has the structure of the elements in the header. Version 1 is read, and no longer written.
//!
//! Integers are little-endian. Nothing about the bytes is believed when they are read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{format::FormatError, shape::Shape};

const MAGIC: &[u8; 4] = b"WOST";
const VERSION: u16 = 2;
/// Without structures of types.
const UNSTRUCTURED: u16 = 1;

/// How the elements of a state are given to the subtasks of a restored operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OperatorStateMode {
    /// Each element to one of them.
    Split,
    /// All elements to each.
    Union,
    /// A map that was the same everywhere.
    Broadcast,
}

/// One named state of an operator without keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorStateHeader {
    pub name: String,
    pub mode: OperatorStateMode,
    /// The Rust type of an element (of a broadcast state: of key and value) as the compiler names it: for messages, and in place
    /// of the structure if that is not known.
    pub value_type: String,
    /// How an element is encoded. None: its type does not let itself be traced, or it was written before there were structures.
    pub structure: Option<Shape>,
}

impl std::fmt::Display for OperatorStateHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} state of {}", self.mode, self.value_type)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorPartHeader {
    pub operator: String,
    /// Of the subtask that wrote it, and how many there were.
    pub index: u32,
    pub parallelism: u32,
    /// Holds the union states, and no others; or the others.
    pub union: bool,
    /// Sorted by name.
    pub states: Vec<OperatorStateHeader>,
}

/// A header as it was before there were structures.
#[derive(Serialize, Deserialize)]
struct UnstructuredHeader {
    operator: String,
    index: u32,
    parallelism: u32,
    union: bool,
    states: Vec<UnstructuredState>,
}

#[derive(Serialize, Deserialize)]
struct UnstructuredState {
    name: String,
    mode: OperatorStateMode,
    value_type: String,
}

impl From<UnstructuredHeader> for OperatorPartHeader {
    fn from(header: UnstructuredHeader) -> OperatorPartHeader {
        let UnstructuredHeader { operator, index, parallelism, union, states } = header;
        let structured = |UnstructuredState { name, mode, value_type }| OperatorStateHeader {
            name,
            mode,
            value_type,
            structure: None,
        };
        let states = states.into_iter().map(structured).collect();
        OperatorPartHeader { operator, index, parallelism, union, states }
    }
}

/// Appends the entries of one state, each by [`put_operator_entry`]; says how many.
pub(super) trait EntryWriter: Send {
    fn write(&self, out: &mut Vec<u8>) -> u32;
}

pub(super) fn put_operator_entry(entry: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(entry.len()).expect("an element of operator state is smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(entry);
}

pub(super) fn encode_operator_part(header: &OperatorPartHeader, states: &[Box<dyn EntryWriter>]) -> Bytes {
    let encoded = postcard::to_allocvec(header).expect("strings and numbers always encode");
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::try_from(encoded.len()).expect("a header is small").to_le_bytes());
    out.extend_from_slice(&encoded);
    for state in states {
        // The frame's length is known only afterwards.
        let frame = out.len();
        out.extend_from_slice(&[0; 12]);
        let entries = state.write(&mut out);
        let length = (out.len() - frame - 12) as u64;
        out[frame..frame + 4].copy_from_slice(&entries.to_le_bytes());
        out[frame + 4..frame + 12].copy_from_slice(&length.to_le_bytes());
    }
    Bytes::from(out)
}

/// A part that was read, with its entries by state.
#[derive(Clone, Debug)]
pub struct OperatorPart {
    pub header: OperatorPartHeader,
    pub states: Vec<Vec<Bytes>>,
}

fn bad<T>(what: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError(what.into()))
}

impl OperatorPart {
    /// # Errors
    /// [`FormatError`] if the bytes are not exactly one part.
    pub fn read(bytes: &Bytes) -> Result<OperatorPart, FormatError> {
        let mut rest = bytes.clone();
        if take(&mut rest, 4, "magic")?[..] != MAGIC[..] {
            return bad("it does not begin with WOST");
        }
        let version = u16::from_le_bytes(take_array(&mut rest, "version")?);
        if version != VERSION && version != UNSTRUCTURED {
            return bad(format!("format version {version}, this program reads versions {UNSTRUCTURED} and {VERSION}"));
        }
        let length = u32::from_le_bytes(take_array(&mut rest, "header length")?);
        let encoded = take(&mut rest, u64::from(length), "header")?;
        let header = if version == VERSION {
            postcard::take_from_bytes::<OperatorPartHeader>(&encoded)
        } else {
            postcard::take_from_bytes::<UnstructuredHeader>(&encoded).map(|(header, left)| (header.into(), left))
        };
        let header = match header {
            Ok((header, [])) => header,
            Ok((_, left)) => return bad(format!("{} bytes too many in the header", left.len())),
            Err(error) => return bad(format!("header does not decode: {error}")),
        };
        if header.index >= header.parallelism {
            return bad(format!("it is of subtask {} of {}", header.index, header.parallelism));
        }
        if !header.states.windows(2).all(|pair| pair[0].name < pair[1].name) {
            return bad("states are not sorted by name");
        }
        if header.states.iter().any(|state| (state.mode == OperatorStateMode::Union) != header.union) {
            return bad("union states and others in one part");
        }
        let mut states = Vec::with_capacity(header.states.len());
        for state in &header.states {
            let count = u32::from_le_bytes(take_array(&mut rest, "entry count")?);
            let length = u64::from_le_bytes(take_array(&mut rest, "section length")?);
            let mut section = take(&mut rest, length, "section")?;
            let mut entries = Vec::new();
            for _ in 0..count {
                let length = u32::from_le_bytes(take_array(&mut section, "entry length")?);
                entries.push(take(&mut section, u64::from(length), "entry")?);
            }
            if !section.is_empty() {
                return bad(format!("{} bytes too many in state {}", section.len(), state.name));
            }
            states.push(entries);
        }
        if !rest.is_empty() {
            return bad(format!("{} bytes too many at the end", rest.len()));
        }
        Ok(OperatorPart { header, states })
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

/// The same part with the entries of each state changed. For negative tests.
///
/// # Errors
/// [`FormatError`] if the bytes are not exactly one part.
#[cfg(feature = "sabotage")]
pub fn with_entries_changed(
    part: &Bytes,
    change: impl Fn(OperatorStateMode, Vec<Bytes>) -> Vec<Bytes>,
) -> Result<Bytes, FormatError> {
    struct Entries(Vec<Bytes>);
    impl EntryWriter for Entries {
        fn write(&self, out: &mut Vec<u8>) -> u32 {
            self.0.iter().for_each(|entry| put_operator_entry(entry, out));
            u32::try_from(self.0.len()).unwrap_or(u32::MAX)
        }
    }
    let OperatorPart { header, states } = OperatorPart::read(part)?;
    let changed = header.states.iter().zip(states).map(|(state, entries)| {
        let entries: Box<dyn EntryWriter> = Box::new(Entries(change(state.mode, entries)));
        entries
    });
    let changed: Vec<_> = changed.collect();
    Ok(encode_operator_part(&header, &changed))
}
