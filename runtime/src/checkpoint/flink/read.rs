//! From bytes to [`FlinkMetadata`].

use super::{
    MAGIC, MetadataError,
    cursor::Cursor,
    model::{
        ChannelState, FlinkMetadata, KeyGroupOffsets, KeyedState, MasterState, NamedStream, OperatorState,
        OperatorStateHandle, OperatorStateMode, OperatorStatePartition, Scope, StateStream, Subtask, SubtaskState,
    },
    trailer,
};

/// Before each master state.
const MASTER_STATE_MAGIC: u32 = 0xc96b_1696;
/// How Java's serialisation begins.
const JAVA_OBJECT: [u8; 4] = [0xac, 0xed, 0x00, 0x05];
/// Handles inside handles; Flink itself writes two levels.
const DEEPEST: u32 = 16;

/// The versions that are read: those of Flink 1.3 to 2.1.
const READ: std::ops::RangeInclusive<u32> = 2..=6;

/// Version 0 is of Flink 1.1, version 1 of Flink 1.2. The last release that takes both over, and writes what is read here, is 1.3.
fn not_read(version: u32) -> String {
    let unknown = format!("unknown version {version}, this program reads 2 to 6");
    match version {
        0 | 1 => format!("{unknown}: Flink before 1.3 wrote it; restore it with Flink 1.3, and take a savepoint there"),
        _ => unknown,
    }
}

/// What to say of a file that begins as metadata, but of a version that is not read; None for any other file.
pub fn of_another_version(bytes: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(bytes);
    let magic = cursor.u32("the magic number").ok()?;
    let version = cursor.u32("the version").ok()?;
    (magic == MAGIC && !READ.contains(&version)).then(|| not_read(version))
}

/// Reads a whole metadata file.
///
/// # Errors
/// [`MetadataError`] for anything that is not exactly one file of version 2 to 6.
pub fn read(bytes: &[u8]) -> Result<FlinkMetadata, MetadataError> {
    match read_with(bytes, ChannelLayout::WithSubtask) {
        // Flink 1.11 wrote in-flight data without the subtask's index, and called it version 3 as its successors do (FLINK-19533).
        Err(error) if bytes.get(4..8) == Some(&[0, 0, 0, 3]) => {
            read_with(bytes, ChannelLayout::WithoutSubtask).map_err(|_| error)
        }
        result => result,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChannelLayout {
    WithSubtask,
    WithoutSubtask,
}

fn read_with(bytes: &[u8], channels: ChannelLayout) -> Result<FlinkMetadata, MetadataError> {
    let mut cursor = Cursor::new(bytes);
    let magic = cursor.u32("the magic number")?;
    if magic != MAGIC {
        let what = format!("no checkpoint metadata: it begins with {magic:08x}, not {MAGIC:08x}");
        return Err(MetadataError { at: 0, what });
    }
    let version = cursor.u32("the version")?;
    if !READ.contains(&version) {
        return Err(MetadataError { at: 4, what: not_read(version) });
    }
    let mut reader = Reader { cursor, version, channels };
    let metadata = reader.body()?;
    let rest = reader.cursor.rest();
    let at = bytes.len() - rest.len();
    if metadata.master_states.iter().any(|state| state.name == trailer::WEIR_STATE) {
        let body = trailer::body(bytes).map_err(|problem| MetadataError {
            at,
            what: format!("the trailer behind the state of Weir: {problem}"),
        })?;
        if body.len() != at {
            let what = format!("the trailer is behind {} bytes, the body has {at}", body.len());
            return Err(MetadataError { at, what });
        }
        return Ok(metadata);
    }
    let fits = if version < 4 { rest.is_empty() } else { rest.starts_with(&JAVA_OBJECT) };
    if !fits {
        let what = if version < 4 {
            format!("{} bytes too many", rest.len())
        } else {
            "the serialised properties are missing at the end".to_string()
        };
        return Err(MetadataError { at, what });
    }
    Ok(FlinkMetadata { properties_bytes: rest.len() as u64, ..metadata })
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    version: u32,
    channels: ChannelLayout,
}

impl Reader<'_> {
    fn body(&mut self) -> Result<FlinkMetadata, MetadataError> {
        let checkpoint_id = self.cursor.i64("the checkpoint's number")?;
        let Ok(checkpoint_id) = u64::try_from(checkpoint_id) else {
            return self.cursor.error(format!("the checkpoint's number is {checkpoint_id}"));
        };
        let count = self.cursor.count(8, "the number of master states")?;
        let master_states = (0..count).map(|_| self.master_state()).collect::<Result<_, _>>()?;
        let count = self.cursor.count(28, "the number of operators")?;
        let operators = (0..count).map(|_| self.operator()).collect::<Result<_, _>>()?;
        Ok(FlinkMetadata { version: self.version, checkpoint_id, master_states, operators, properties_bytes: 0 })
    }

    fn master_state(&mut self) -> Result<MasterState, MetadataError> {
        let magic = self.cursor.u32("a master state")?;
        if magic != MASTER_STATE_MAGIC {
            return self.cursor.error(format!("a master state begins with {magic:08x}, not {MASTER_STATE_MAGIC:08x}"));
        }
        let length = self.cursor.natural("the length of a master state")? as usize;
        let before = self.cursor.left();
        let version = self.cursor.i32("the version of a master state")?;
        let name = self.cursor.text("the name of a master state")?;
        let bytes = self.cursor.block("a master state")?.len() as u64;
        let used = before - self.cursor.left();
        if used != length {
            return self.cursor.error(format!("master state {name:?} is {used} bytes long, {length} were announced"));
        }
        Ok(MasterState { name, version, bytes })
    }

    fn operator(&mut self) -> Result<OperatorState, MetadataError> {
        let (mut name, mut uid) = (None, None);
        if self.version >= 5 {
            let given = |text: String| (!text.is_empty()).then_some(text);
            name = given(self.cursor.text("an operator's name")?);
            uid = given(self.cursor.text("an operator's uid")?);
        }
        let id = format!("{:032x}", self.cursor.identifier("an operator's id")?);
        let parallelism = self.cursor.natural("the parallelism")?;
        let max_parallelism = self.cursor.natural("the maximum parallelism")?;
        let mut operator = OperatorState {
            id,
            name,
            uid,
            parallelism,
            max_parallelism,
            coordinator: None,
            finished: false,
            subtasks: Vec::new(),
        };
        if self.version == 2 {
            // Always 1; it once was the length of a chain.
            self.cursor.i32("the length of the chain")?;
            let count = self.cursor.count(4, "the number of subtasks")?;
            for _ in 0..count {
                let index = self.cursor.natural("a subtask's index")?;
                let state = Some(self.subtask_state()?);
                operator.subtasks.push(Subtask { index, state });
            }
            return Ok(operator);
        }
        operator.coordinator = self.stream(0)?;
        if !matches!(operator.coordinator, None | Some(StateStream::Inline { .. })) {
            return self.cursor.error("a coordinator's state is not inline");
        }
        let count = self.cursor.i32("the number of subtasks")?;
        if count == -1 {
            operator.finished = true;
            return Ok(operator);
        }
        let Ok(count) = usize::try_from(count) else {
            return self.cursor.error(format!("the number of subtasks is {count}"));
        };
        if count.saturating_mul(4) > self.cursor.left() {
            return self.cursor.error(format!("{count} subtasks in {} bytes", self.cursor.left()));
        }
        for _ in 0..count {
            let index = self.cursor.i32("a subtask's index")?;
            // A finished one is written as the complement of its index.
            let state = if index < 0 { None } else { Some(self.subtask_state()?) };
            let index = (if index < 0 { !index } else { index }).unsigned_abs();
            operator.subtasks.push(Subtask { index, state });
        }
        Ok(operator)
    }

    fn subtask_state(&mut self) -> Result<SubtaskState, MetadataError> {
        if self.version == 2 {
            self.cursor.i64("the duration")?;
            let legacy = self.cursor.i32("the number of states of before Flink 1.3")?;
            if legacy != 0 {
                return self.cursor.error(format!("{legacy} states of before Flink 1.3, which nothing reads any more"));
            }
        }
        let mut state = SubtaskState::default();
        if self.cursor.i32("whether there is managed operator state")? != 0 {
            state.managed_operator = self.operator_handle()?;
        }
        if self.cursor.i32("whether there is raw operator state")? != 0 {
            state.raw_operator = self.operator_handle()?;
        }
        state.managed_keyed = self.keyed(0)?;
        state.raw_keyed = self.keyed(0)?;
        if self.version >= 3 {
            state.input_channels = self.channel_states()?;
            state.result_subpartitions = self.channel_states()?;
        }
        Ok(state)
    }

    fn operator_handle(&mut self) -> Result<Option<OperatorStateHandle>, MetadataError> {
        let kind = self.cursor.u8("the kind of an operator state handle")?;
        match kind {
            0 => return Ok(None),
            4 | 17 => {}
            _ => return self.cursor.error(format!("no operator state handle has the kind {kind}")),
        }
        let count = self.cursor.count(7, "the number of operator states")?;
        let mut states = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.cursor.text("the name of an operator state")?;
            let mode = match self.cursor.u8("the mode of an operator state")? {
                0 => OperatorStateMode::Split,
                1 => OperatorStateMode::Union,
                2 => OperatorStateMode::Broadcast,
                mode => return self.cursor.error(format!("operator state {name:?} has the unknown mode {mode}")),
            };
            states.push(OperatorStatePartition { name, mode, offsets: self.offsets()? });
        }
        if kind == 17 {
            // Directories of merged files, and whether nothing was written.
            self.cursor.text("the directory of task-owned files")?;
            self.cursor.text("the directory of shared files")?;
            self.cursor.bool("whether the segment is empty")?;
        }
        Ok(Some(OperatorStateHandle { states, stream: self.stream(0)? }))
    }

    fn offsets(&mut self) -> Result<Vec<i64>, MetadataError> {
        let count = self.cursor.count(8, "the number of offsets")?;
        (0..count).map(|_| self.cursor.i64("an offset")).collect()
    }

    fn deeper(&self, depth: u32) -> Result<u32, MetadataError> {
        if depth == DEEPEST { self.cursor.error("handles nest too deeply") } else { Ok(depth + 1) }
    }

    fn key_groups(&mut self, depth: u32) -> Result<KeyGroupOffsets, MetadataError> {
        let first = self.cursor.natural("the first key group")?;
        let offsets = self.offsets()?;
        let stream = self.stream(self.deeper(depth)?)?;
        Ok(KeyGroupOffsets { first, offsets, stream })
    }

    fn range(&mut self) -> Result<(u32, u32), MetadataError> {
        Ok((self.cursor.natural("the first key group")?, self.cursor.natural("the number of key groups")?))
    }

    fn files(&mut self, depth: u32) -> Result<Vec<NamedStream>, MetadataError> {
        let count = self.cursor.count(3, "the number of files")?;
        let mut files = Vec::with_capacity(count);
        for _ in 0..count {
            files.push(NamedStream { name: self.cursor.text("a file's name")?, stream: self.stream(depth)? });
        }
        Ok(files)
    }

    fn several(&mut self, depth: u32) -> Result<Vec<KeyedState>, MetadataError> {
        let count = self.cursor.count(1, "the number of handles")?;
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.extend(self.keyed(depth)?);
        }
        Ok(all)
    }

    fn keyed(&mut self, depth: u32) -> Result<Option<KeyedState>, MetadataError> {
        let depth = self.deeper(depth)?;
        let kind = self.cursor.u8("the kind of a keyed state handle")?;
        let handle = "a handle's id";
        Ok(Some(match kind {
            0 => return Ok(None),
            3 | 7 | 12 => {
                let groups = self.key_groups(depth)?;
                let handle = if kind == 12 { Some(self.cursor.text(handle)?) } else { None };
                KeyedState::KeyGroups { groups, canonical: kind == 7, handle }
            }
            5 | 11 => {
                let checkpoint_id = self.cursor.i64("the checkpoint's number")?;
                let backend = self.cursor.text("the backend's id")?;
                let (first, count) = self.range()?;
                let checkpointed_size = if kind == 11 { Some(self.cursor.i64("the checkpointed size")?) } else { None };
                let meta = self.stream(depth)?;
                let shared = self.files(depth)?;
                let private = self.files(depth)?;
                let handle = if kind == 11 { Some(self.cursor.text(handle)?) } else { None };
                KeyedState::Incremental {
                    checkpoint_id,
                    backend,
                    first,
                    count,
                    checkpointed_size,
                    meta,
                    shared,
                    private,
                    handle,
                }
            }
            8 | 14 => {
                let (first, count) = self.range()?;
                self.cursor.i64("the checkpointed size")?;
                let materialised = self.several(depth)?;
                let changes = self.several(depth)?;
                self.cursor.i64("the materialisation's number")?;
                if kind == 14 {
                    self.cursor.i64("the checkpoint's number")?;
                }
                let handle = self.cursor.text(handle)?;
                KeyedState::Changelog { first, count, materialised, changes, handle }
            }
            9 => {
                let (first, count) = self.range()?;
                self.cursor.i64("the first change")?;
                self.cursor.i64("the last change")?;
                let changes = self.cursor.count(8, "the number of changes")?;
                let mut bytes = 0;
                for _ in 0..changes {
                    self.cursor.natural("a change's key group")?;
                    bytes += self.cursor.block("a change")?.len() as u64;
                }
                let handle = self.cursor.text(handle)?;
                // Counted in bytes that are there, so it fits.
                KeyedState::ChangelogInline {
                    first,
                    count,
                    changes: u32::try_from(changes).unwrap_or(u32::MAX),
                    bytes,
                    handle,
                }
            }
            10 | 13 => {
                let (first, count) = self.range()?;
                let number = self.cursor.count(9, "the number of files")?;
                let mut files = Vec::with_capacity(number);
                for _ in 0..number {
                    self.cursor.i64("an offset")?;
                    files.extend(self.stream(depth)?);
                }
                self.cursor.i64("the size")?;
                self.cursor.i64("the checkpointed size")?;
                let handle = self.cursor.text(handle)?;
                if kind == 13 {
                    self.cursor.text("the storage's id")?;
                }
                KeyedState::ChangelogFiles { first, count, files, handle }
            }
            _ => return self.cursor.error(format!("no keyed state handle has the kind {kind}")),
        }))
    }

    fn stream(&mut self, depth: u32) -> Result<Option<StateStream>, MetadataError> {
        let kind = self.cursor.u8("the kind of a stream handle")?;
        Ok(Some(match kind {
            0 => return Ok(None),
            1 => {
                let name = self.cursor.text("a handle's name")?;
                StateStream::Inline { name, bytes: self.cursor.block("inline state")?.len() as u64 }
            }
            2 => {
                let size = self.cursor.i64("a file's size")?;
                StateStream::File { path: self.cursor.text("a file's path")?, size }
            }
            3 => StateStream::KeyGroups(Box::new(self.key_groups(depth)?)),
            6 if self.version >= 3 => {
                let path = self.cursor.text("a file's path")?;
                StateStream::Relative { path, size: self.cursor.i64("a file's size")? }
            }
            15 => {
                let start = self.cursor.i64("a segment's start")?;
                let size = self.cursor.i64("a segment's size")?;
                let scope = match self.cursor.i32("a segment's scope")? {
                    0 => Scope::Exclusive,
                    1 => Scope::Shared,
                    scope => return self.cursor.error(format!("no segment has the scope {scope}")),
                };
                let path = self.cursor.text("a segment's file")?;
                let logical_file = self.cursor.text("a segment's id")?;
                StateStream::Segment { start, size, scope, path, logical_file }
            }
            16 => StateStream::EmptySegment,
            _ => return self.cursor.error(format!("no stream handle has the kind {kind}")),
        }))
    }

    fn channel_states(&mut self) -> Result<Vec<ChannelState>, MetadataError> {
        let count = self.cursor.count(9, "the number of channel states")?;
        (0..count).map(|_| self.channel_state()).collect()
    }

    fn channel_state(&mut self) -> Result<ChannelState, MetadataError> {
        if self.version >= 6 {
            let kind = self.cursor.u8("the kind of a channel state")?;
            match kind {
                1 | 2 => {}
                3 | 4 => {
                    let subtask = Some(self.cursor.natural("a channel state's subtask")?);
                    let size = self.cursor.i64("a channel state's size")?;
                    let stream = self.stream(0)?;
                    self.cursor.block("serialised offsets")?;
                    return Ok(ChannelState { subtask, channel: None, offsets: Vec::new(), size, stream });
                }
                _ => return self.cursor.error(format!("no channel state has the kind {kind}")),
            }
        }
        let subtask = match self.channels {
            ChannelLayout::WithSubtask => Some(self.cursor.natural("a channel state's subtask")?),
            ChannelLayout::WithoutSubtask => None,
        };
        let one = self.cursor.natural("a gate or partition")?;
        let other = self.cursor.natural("a channel or subpartition")?;
        let offsets = self.offsets()?;
        let size = self.cursor.i64("a channel state's size")?;
        Ok(ChannelState { subtask, channel: Some((one, other)), offsets, size, stream: self.stream(0)? })
    }
}
