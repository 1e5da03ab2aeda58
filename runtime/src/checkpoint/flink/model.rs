//! What a metadata file says.

use serde::Serialize;

/// A checkpoint's or savepoint's metadata. Operators and subtasks stand in the order of the file, which is that of a hash map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlinkMetadata {
    /// Of the format.
    pub version: u32,
    pub checkpoint_id: u64,
    pub master_states: Vec<MasterState>,
    pub operators: Vec<OperatorState>,
    /// Bytes of the Java object that follows from version 4 on.
    pub properties_bytes: u64,
}

/// State of a hook of the coordinator. Its content is its author's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MasterState {
    pub name: String,
    pub version: i32,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorState {
    /// As Flink prints it: 32 hexadecimal digits.
    pub id: String,
    /// From version 5 on, where the job gave one.
    pub name: Option<String>,
    pub uid: Option<String>,
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// State of the operator's coordinator, as sources have one.
    pub coordinator: Option<StateStream>,
    /// All subtasks had finished; then none is listed.
    pub finished: bool,
    pub subtasks: Vec<Subtask>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subtask {
    pub index: u32,
    /// None if the subtask had finished.
    pub state: Option<SubtaskState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SubtaskState {
    pub managed_operator: Option<OperatorStateHandle>,
    pub raw_operator: Option<OperatorStateHandle>,
    pub managed_keyed: Option<KeyedState>,
    pub raw_keyed: Option<KeyedState>,
    /// In-flight data of unaligned checkpoints.
    pub input_channels: Vec<ChannelState>,
    pub result_subpartitions: Vec<ChannelState>,
}

/// List and broadcast state of an operator: where each element begins in the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorStateHandle {
    pub states: Vec<OperatorStatePartition>,
    /// None for a segment of a merged file that turned out empty.
    pub stream: Option<StateStream>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorStatePartition {
    pub name: String,
    pub mode: OperatorStateMode,
    pub offsets: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorStateMode {
    Split,
    Union,
    Broadcast,
}

/// Where each key group of a range begins in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyGroupOffsets {
    pub first: u32,
    pub offsets: Vec<i64>,
    pub stream: Option<StateStream>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyedState {
    KeyGroups {
        groups: KeyGroupOffsets,
        /// In the canonical format, which every backend reads.
        canonical: bool,
        /// The handle's own identity, from Flink 1.15 on.
        handle: Option<String>,
    },
    /// RocksDB's files, of which some are shared with other checkpoints.
    Incremental {
        checkpoint_id: i64,
        backend: String,
        first: u32,
        count: u32,
        /// Bytes that this checkpoint itself uploaded, where the version says so.
        checkpointed_size: Option<i64>,
        meta: Option<StateStream>,
        shared: Vec<NamedStream>,
        private: Vec<NamedStream>,
        handle: Option<String>,
    },
    /// A materialised state and the changes since.
    Changelog { first: u32, count: u32, materialised: Vec<KeyedState>, changes: Vec<KeyedState>, handle: String },
    /// Changes held in the metadata itself.
    ChangelogInline { first: u32, count: u32, changes: u32, bytes: u64, handle: String },
    /// Changes in files.
    ChangelogFiles { first: u32, count: u32, files: Vec<StateStream>, handle: String },
}

/// A file of a database, by its name there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedStream {
    pub name: String,
    pub stream: Option<StateStream>,
}

/// Data that was on its way between two subtasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelState {
    pub subtask: Option<u32>,
    /// Gate and channel, or partition and subpartition; none for merged ones.
    pub channel: Option<(u32, u32)>,
    pub offsets: Vec<i64>,
    pub size: i64,
    pub stream: Option<StateStream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    Exclusive,
    Shared,
}

/// Where bytes of state are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateStream {
    /// In the metadata itself.
    Inline {
        name: String,
        bytes: u64,
    },
    /// In a file, by its whole path.
    File {
        path: String,
        size: i64,
    },
    /// In a file beside the metadata.
    Relative {
        path: String,
        size: i64,
    },
    KeyGroups(Box<KeyGroupOffsets>),
    /// In a part of a file that several states share.
    Segment {
        start: i64,
        size: i64,
        scope: Scope,
        path: String,
        logical_file: String,
    },
    EmptySegment,
}

/// A file that a snapshot needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FileReference {
    pub path: String,
    /// The path leads from the directory of the metadata.
    pub relative: bool,
    /// The least that the file must hold; none if the metadata does not know.
    pub size: Option<u64>,
    /// The file is exactly so long, not only at least.
    pub whole: bool,
}

impl FlinkMetadata {
    /// Every file referred to, in the order of the metadata, as often as it is.
    pub fn files(&self) -> Vec<FileReference> {
        let mut streams = Vec::new();
        for operator in &self.operators {
            streams.extend(&operator.coordinator);
            operator
                .subtasks
                .iter()
                .filter_map(|subtask| subtask.state.as_ref())
                .for_each(|state| state.streams(&mut streams));
        }
        streams.into_iter().filter_map(StateStream::file).collect()
    }

    /// Bytes of state by what the handles say: in files and segments, and inline.
    pub fn sizes(&self) -> (u64, u64) {
        let mut streams = Vec::new();
        for operator in &self.operators {
            operator.streams(&mut streams);
        }
        sum(&streams)
    }
}

/// Bytes of an operator's state, in files and inline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizesByKind {
    pub keyed: u64,
    pub operator: u64,
}

impl OperatorState {
    /// Its state without that of its coordinator, and without data in flight.
    pub fn sizes_by_kind(&self) -> SizesByKind {
        let (mut keyed, mut operator) = (Vec::new(), Vec::new());
        for state in self.subtasks.iter().filter_map(|subtask| subtask.state.as_ref()) {
            state.operator_streams(&mut operator);
            state.keyed_streams(&mut keyed);
        }
        let whole = |streams: &[&StateStream]| {
            let (files, inline) = sum(streams);
            files.saturating_add(inline)
        };
        SizesByKind { keyed: whole(&keyed), operator: whole(&operator) }
    }

    fn streams<'a>(&'a self, into: &mut Vec<&'a StateStream>) {
        into.extend(&self.coordinator);
        for state in self.subtasks.iter().filter_map(|subtask| subtask.state.as_ref()) {
            state.streams(into);
        }
    }

    /// As [`FlinkMetadata::sizes`].
    pub fn sizes(&self) -> (u64, u64) {
        let mut streams = Vec::new();
        self.streams(&mut streams);
        sum(&streams)
    }
}

fn sum(streams: &[&StateStream]) -> (u64, u64) {
    streams.iter().fold((0, 0), |(files, inline), stream| match stream {
        StateStream::Inline { bytes, .. } => (files, inline + bytes),
        StateStream::File { size, .. } | StateStream::Relative { size, .. } | StateStream::Segment { size, .. } => {
            (files.saturating_add(u64::try_from(*size).unwrap_or(0)), inline)
        }
        StateStream::KeyGroups(_) | StateStream::EmptySegment => (files, inline),
    })
}

impl SubtaskState {
    fn operator_streams<'a>(&'a self, into: &mut Vec<&'a StateStream>) {
        for handle in [&self.managed_operator, &self.raw_operator].into_iter().flatten() {
            push(&handle.stream, into);
        }
    }

    fn keyed_streams<'a>(&'a self, into: &mut Vec<&'a StateStream>) {
        for keyed in [&self.managed_keyed, &self.raw_keyed].into_iter().flatten() {
            keyed.streams(into);
        }
    }

    fn streams<'a>(&'a self, into: &mut Vec<&'a StateStream>) {
        self.operator_streams(into);
        self.keyed_streams(into);
        for channel in self.input_channels.iter().chain(&self.result_subpartitions) {
            push(&channel.stream, into);
        }
    }
}

/// A stream, and those inside it.
fn push<'a>(stream: &'a Option<StateStream>, into: &mut Vec<&'a StateStream>) {
    let mut next = stream.as_ref();
    while let Some(stream) = next {
        into.push(stream);
        next = match stream {
            StateStream::KeyGroups(groups) => groups.stream.as_ref(),
            _ => None,
        };
    }
}

impl KeyedState {
    /// The first key group and how many there are.
    pub fn range(&self) -> (u32, u32) {
        match self {
            KeyedState::KeyGroups { groups, .. } => {
                (groups.first, u32::try_from(groups.offsets.len()).unwrap_or(u32::MAX))
            }
            KeyedState::Incremental { first, count, .. }
            | KeyedState::Changelog { first, count, .. }
            | KeyedState::ChangelogInline { first, count, .. }
            | KeyedState::ChangelogFiles { first, count, .. } => (*first, *count),
        }
    }

    fn streams<'a>(&'a self, into: &mut Vec<&'a StateStream>) {
        match self {
            KeyedState::KeyGroups { groups, .. } => push(&groups.stream, into),
            KeyedState::Incremental { meta, shared, private, .. } => {
                push(meta, into);
                for file in shared.iter().chain(private) {
                    push(&file.stream, into);
                }
            }
            KeyedState::Changelog { materialised, changes, .. } => {
                for keyed in materialised.iter().chain(changes) {
                    keyed.streams(into);
                }
            }
            KeyedState::ChangelogInline { .. } => {}
            KeyedState::ChangelogFiles { files, .. } => into.extend(files),
        }
    }
}

impl StateStream {
    fn file(&self) -> Option<FileReference> {
        let (path, relative, size, whole) = match self {
            StateStream::File { path, size } => (path, false, *size, true),
            StateStream::Relative { path, size } => (path, true, *size, true),
            // The file goes on behind the segment.
            StateStream::Segment { path, start, size, .. } => (path, false, start.saturating_add(*size), false),
            StateStream::Inline { .. } | StateStream::KeyGroups(_) | StateStream::EmptySegment => return None,
        };
        Some(FileReference { path: path.clone(), relative, size: u64::try_from(size).ok(), whole })
    }
}
