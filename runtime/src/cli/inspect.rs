//! `weir inspect`: what a checkpoint or savepoint of Apache Flink, or of Weir, holds, and whether the files it needs are there.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    checkpoint::{
        flink::{self, FileReference, FlinkMetadata, KeyedState, OperatorState, SizesByKind},
        metadata::CheckpointMetadata,
        types::PartKind,
    },
    platform::real::{file_length, read_file},
};

/// More than any metadata file; what is longer is something else.
const LONGEST_BYTES: u64 = 1 << 30;

/// So much operator state is worth a word.
const LARGE_OPERATOR_STATE_BYTES: u64 = 1 << 20;

#[derive(Args)]
pub struct InspectArguments {
    /// A metadata file, or the directory of a checkpoint or savepoint.
    path: PathBuf,
    /// Everything, as JSON.
    #[arg(long)]
    json: bool,
    /// Fail if a file that it refers to is missing or too short.
    #[arg(long)]
    check: bool,
}

pub enum InspectError {
    /// It cannot be read.
    Environment(String),
    /// It can be read, and is not whole.
    Broken(String),
}

/// What there is to say about the snapshot.
///
/// # Errors
/// [`InspectError`], in one line.
pub fn inspect(arguments: &InspectArguments) -> Result<String, InspectError> {
    let (file, bytes) = read_file(&arguments.path, flink::FILE_NAME, LONGEST_BYTES)
        .map_err(|error| InspectError::Environment(format!("cannot read {error}")))?;
    let metadata = flink::read(&bytes).map_err(|error| InspectError::Broken(format!("{}: {error}", file.display())))?;
    let directory = file.parent().unwrap_or(Path::new("."));
    if arguments.check {
        let missing = missing(&metadata, directory);
        if let Some((reference, reason)) = missing.first() {
            let others = missing.len() - 1;
            let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
            return Err(InspectError::Broken(format!("{}: {}: {reason}{more}", file.display(), reference.path)));
        }
    }
    if arguments.json {
        return serde_json::to_string_pretty(&metadata)
            .map_err(|error| InspectError::Environment(format!("cannot write JSON: {error}")));
    }
    let mut text = describe(&metadata, bytes.len());
    if metadata.master_states.iter().any(|state| state.name == flink::trailer::WEIR_STATE) {
        let own = CheckpointMetadata::decode(&bytes)
            .map_err(|error| InspectError::Broken(format!("{}: {error}", file.display())))?;
        describe_weir(&own, &mut text);
    }
    if arguments.check {
        text.push_str("files: all there, none too short\n");
    }
    Ok(text.trim_end().to_string())
}

/// Files that are not as the metadata says, each once. Paths of other machines and stores cannot be looked at and count as missing.
fn missing(metadata: &FlinkMetadata, directory: &Path) -> Vec<(FileReference, String)> {
    let references: std::collections::BTreeSet<FileReference> = metadata.files().into_iter().collect();
    let mut missing = Vec::new();
    for reference in references {
        let path = if reference.relative {
            directory.join(&reference.path)
        } else {
            PathBuf::from(reference.path.strip_prefix("file:").unwrap_or(&reference.path))
        };
        let reason = match file_length(&path) {
            Err(error) => Some(error.to_string()),
            Ok(found) => match reference.size {
                Some(size) if found < size => Some(format!("{found} bytes, {size} are needed")),
                Some(size) if reference.whole && found != size => Some(format!("{found} bytes, {size} were written")),
                _ => None,
            },
        };
        missing.extend(reason.map(|reason| (reference, reason)));
    }
    missing
}

fn describe(metadata: &FlinkMetadata, bytes: usize) -> String {
    let mut text = String::new();
    let (files, inline) = metadata.sizes();
    let _ = writeln!(
        text,
        "checkpoint {} in format {} of Flink, {bytes} bytes of metadata, {} operators, {files} bytes in files, {inline} inline",
        metadata.checkpoint_id,
        metadata.version,
        metadata.operators.len()
    );
    for master in &metadata.master_states {
        let _ = writeln!(text, "master state {:?}: version {}, {} bytes", master.name, master.version, master.bytes);
    }
    for operator in &metadata.operators {
        describe_operator(operator, &mut text);
    }
    let references = metadata.files();
    let distinct: std::collections::BTreeSet<&FileReference> = references.iter().collect();
    let _ = writeln!(text, "refers to {} files, {} times", distinct.len(), references.len());
    text
}

/// What Flink's layout has no place for.
fn describe_weir(metadata: &CheckpointMetadata, text: &mut String) {
    let _ = writeln!(
        text,
        "written by Weir: job {:?} ({}), execution {}",
        metadata.job_name, metadata.job, metadata.attempt
    );
    for ((vertex, index), snapshot) in &metadata.subtasks {
        let _ = writeln!(text, "  subtask v{vertex}[{index}]: {} parts", snapshot.parts.len());
        for part in &snapshot.parts {
            let reused = if part.written_by == metadata.checkpoint {
                String::new()
            } else {
                format!(", written by checkpoint {}", part.written_by)
            };
            let _ = writeln!(
                text,
                "    {} of {}, {}, key groups {}: {} bytes, checksum {:08x}, {}{reused}",
                part.name,
                part.operator,
                format_of(&part.kind),
                part.key_groups,
                part.length,
                part.crc32c,
                part.location
            );
        }
    }
}

/// Whether any backend reads it, or it is a database's own.
fn format_of(part: &PartKind) -> &'static str {
    match part {
        PartKind::Keyed => "canonical",
        PartKind::Operator { .. } => "operator state",
        PartKind::Shared { .. } | PartKind::Private { .. } => "file of a database",
    }
}

fn describe_operator(operator: &OperatorState, text: &mut String) {
    let (files, inline) = operator.sizes();
    let called = operator.name.as_ref().or(operator.uid.as_ref()).map(|name| format!(" {name:?}")).unwrap_or_default();
    let _ = writeln!(
        text,
        "operator {}{called}: parallelism {} of {}{}, {files} bytes in files, {inline} inline",
        operator.id,
        operator.parallelism,
        operator.max_parallelism,
        if operator.finished { ", finished" } else { "" },
    );
    let mut states = BTreeMap::<&str, (String, usize)>::new();
    let mut keyed = BTreeMap::<&str, usize>::new();
    for state in operator.subtasks.iter().filter_map(|subtask| subtask.state.as_ref()) {
        for handle in [&state.managed_operator, &state.raw_operator].into_iter().flatten() {
            for partition in &handle.states {
                let entry = states.entry(&partition.name).or_insert_with(|| (format!("{:?}", partition.mode), 0));
                entry.1 += partition.offsets.len();
            }
        }
        for handle in [&state.managed_keyed, &state.raw_keyed].into_iter().flatten() {
            *keyed.entry(kind(handle)).or_default() += 1;
        }
    }
    for (name, (mode, elements)) in states {
        let _ = writeln!(text, "  operator state {name:?}: {}, {elements} elements", mode.to_lowercase());
    }
    for (kind, subtasks) in keyed {
        let _ = writeln!(text, "  keyed state: {kind}, {subtasks} subtasks");
    }
    let SizesByKind { keyed, operator } = operator.sizes_by_kind();
    let _ = writeln!(text, "  {keyed} bytes of keyed state, {operator} bytes of operator state");
    if operator > LARGE_OPERATOR_STATE_BYTES {
        text.push_str(
            "  note: operator state is always on the heap, and is read whole by every subtask after a change of parallelism; \
             large state belongs under keys\n",
        );
    }
}

fn kind(keyed: &KeyedState) -> &'static str {
    match keyed {
        KeyedState::KeyGroups { canonical: true, .. } => "canonical key groups",
        KeyedState::KeyGroups { .. } => "key groups",
        KeyedState::Incremental { .. } => "incremental",
        KeyedState::Changelog { .. } => "changelog",
        KeyedState::ChangelogInline { .. } | KeyedState::ChangelogFiles { .. } => "changes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::flink::{
        KeyGroupOffsets, OperatorStateHandle, OperatorStateMode, OperatorStatePartition, StateStream, Subtask,
        SubtaskState,
    };

    /// R147: keyed and operator state of an operator are shown apart; much of the latter gives a hint.
    #[test]
    fn much_operator_state_gives_a_hint() {
        let file = |size: u64| Some(StateStream::Relative { path: "a-file".to_string(), size: size.cast_signed() });
        let shown = |bytes: u64| {
            let (name, mode) = ("rules".to_string(), OperatorStateMode::Split);
            let states = vec![OperatorStatePartition { name, mode, offsets: vec![0, 1] }];
            let groups = KeyGroupOffsets { first: 0, offsets: vec![0; 4], stream: file(5 << 20) };
            let state = SubtaskState {
                managed_operator: Some(OperatorStateHandle { states, stream: file(bytes) }),
                managed_keyed: Some(KeyedState::KeyGroups { groups, canonical: true, handle: None }),
                ..SubtaskState::default()
            };
            let operator = OperatorState {
                id: "00".repeat(16),
                name: None,
                uid: None,
                parallelism: 1,
                max_parallelism: 4,
                coordinator: None,
                finished: false,
                subtasks: vec![Subtask { index: 0, state: Some(state) }],
            };
            let mut text = String::new();
            describe_operator(&operator, &mut text);
            text
        };
        let (little, much) = (shown(LARGE_OPERATOR_STATE_BYTES), shown(LARGE_OPERATOR_STATE_BYTES + 1));
        assert!(little.contains("  5242880 bytes of keyed state, 1048576 bytes of operator state\n"), "{little}");
        assert!(!little.contains("note: "), "however much keyed state there is: {little}");
        assert!(much.contains("note: ") && much.contains("under keys"), "{much}");
    }
}
