//! What makes a local copy whole: its manifest, written last. It says of what the copy is one, by which program it was
//! written, and which object of primary storage each of its parts mirrors.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        frame::{self, FrameError},
        types::{StatePart, SubtaskKey},
    },
    graph::ProgramId,
    ids::{AllocationId, CheckpointId, JobId, KeyGroupRange, OperatorUid},
    platform::RelPath,
};

const MAGIC: [u8; 4] = *b"WELM";
/// Another version's copies are not read but dropped: a copy is a cache.
pub(super) const VERSION: u16 = 2;
/// The file of a copy that makes it whole.
pub const MANIFEST: &str = "_manifest";
/// Where adopted files come in, before they get the names of their parts.
pub(super) const ENTRANCE: &str = "_entrance";

/// One part in a local copy, and which object of primary storage it mirrors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPart {
    pub operator: OperatorUid,
    pub key_groups: KeyGroupRange,
    pub name: String,
    pub object: String,
    pub length: u64,
    /// Of one length, as in [`StatePart`].
    #[serde(with = "postcard::fixint::le")]
    pub crc32c: u32,
}

impl LocalPart {
    pub(super) fn of(part: &StatePart) -> LocalPart {
        LocalPart {
            operator: part.operator.clone(),
            key_groups: part.key_groups,
            name: part.name.clone(),
            object: part.location.to_string(),
            length: part.length,
            crc32c: part.crc32c,
        }
    }

    /// Whether it is said to be a copy of exactly `part`.
    pub(super) fn mirrors(&self, part: &StatePart) -> bool {
        self.operator == part.operator
            && self.key_groups == part.key_groups
            && part.object().is_some_and(|object| self.object == object.as_str())
            && (self.length, self.crc32c) == (part.length, part.crc32c)
    }
}

/// What a local copy is a copy of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalManifest {
    pub job: JobId,
    /// A copy is a short cut, and short cuts are for the program that made them (Flink's local recovery assumes it, and
    /// does not look).
    pub program: ProgramId,
    pub allocation: AllocationId,
    pub subtask: SubtaskKey,
    pub checkpoint: CheckpointId,
    /// The parts that were written whole; perhaps not all of the snapshot.
    pub parts: Vec<LocalPart>,
}

impl LocalManifest {
    /// # Errors
    /// [`FrameError::Content`] if it cannot be serialized.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        frame::encode_value(MAGIC, VERSION, self)
    }

    /// # Errors
    /// [`FrameError`] for bytes that are not exactly one manifest of this version.
    pub fn decode(bytes: &[u8]) -> Result<LocalManifest, FrameError> {
        frame::decode_value(MAGIC, VERSION, bytes)
    }

    /// Bytes of all its parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.length).sum()
    }
}

/// A name that can be a file in a copy's directory: names come back from disks and stores.
pub(super) fn is_file_name(name: &str) -> bool {
    !name.contains('/') && name != MANIFEST && name != ENTRANCE && RelPath::new(name).is_ok()
}

/// `chk_<n>`.
pub(super) fn parse_copy(name: &str) -> Option<CheckpointId> {
    let id = CheckpointId(name.strip_prefix("chk_")?.parse().ok()?);
    (name == format!("chk_{id}")).then_some(id)
}
