//! Checkpoint and savepoint metadata as Apache Flink writes it: the `_metadata` file, versions 2 (Flink 1.3 to 1.10) to 6 (2.1).
//!
//! The reader is for people who come from Flink: what a snapshot holds, how large it is, which files it needs. What only
//! Java can decode (the serialised properties after version 4's body, the contents of inline states) is measured and skipped, never interpreted.
//!
//! Weir's own checkpoints have this layout too, in version 3, with a master state and a [`trailer`] of their own.
//!
//! Input is hostile: no length is believed before that many bytes are there, nesting is bounded, and every error names the
//! byte at which the file stopped making sense. It must never panic, and never allocate more than a small multiple of the file.
//!
//! Source of the layout: `MetadataV2V3SerializerBase`, `MetadataV3Serializer` to `MetadataV6Serializer`, and
//! `ChannelStateHandleSerializerV1` and `V2` in Flink's package `runtime.checkpoint.metadata`.

mod cursor;
mod model;
mod read;
#[cfg(test)]
mod tests;
pub mod trailer;
mod write;

pub(super) use self::write::Writer;
pub use self::{
    cursor::MetadataError,
    model::{
        ChannelState, FileReference, FlinkMetadata, KeyGroupOffsets, KeyedState, MasterState, NamedStream,
        OperatorState, OperatorStateHandle, OperatorStateMode, OperatorStatePartition, Scope, SizesByKind, StateStream,
        Subtask, SubtaskState,
    },
    read::{of_another_version, read},
};

/// The first four bytes, big endian.
pub const MAGIC: u32 = 0x4960_672d;
/// The name of the file in the directory of a checkpoint or savepoint.
pub const FILE_NAME: &str = "_metadata";
