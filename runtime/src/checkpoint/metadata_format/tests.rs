//! The layout of the metadata file: what it says to Flink's reader, and that no byte of it can be altered.

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::{
        flink::{self, KeyedState, OperatorStateMode, SizesByKind, StateStream},
        metadata::VertexShape,
    },
    ids::{AttemptId, Execution, JobId, KeyGroup, LeaderEpoch, SubtaskId, VertexId},
    platform::Wall,
};

const LAYOUT: Layout = Layout { job: JobId(7) };

fn uid(name: &str) -> OperatorUid {
    OperatorUid(name.into())
}

fn attempt() -> AttemptId {
    AttemptId { leader: LeaderEpoch(2), execution: Execution(3) }
}

fn groups(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange { first: KeyGroup(first), last: KeyGroup(last) }
}

fn part(name: &str, kind: PartKind, location: PartLocation, written_by: u64) -> StatePart {
    let bytes = match &location {
        PartLocation::Inline(bytes) => bytes.clone(),
        PartLocation::Object(_) => Bytes::from_static(b"elsewhere"),
    };
    StatePart {
        operator: uid("count"),
        key_groups: groups(0, 3),
        name: name.into(),
        kind,
        location,
        length: bytes.len() as u64,
        crc32c: crc32c::crc32c(&bytes),
        written_by: CheckpointId(written_by),
        backend: None,
    }
}

fn own(name: &str) -> PartLocation {
    let subtask = SubtaskId { vertex: VertexId(1), index: 0 };
    PartLocation::Object(LAYOUT.state_part(CheckpointId(5), attempt(), subtask, name, 0xab))
}

fn shared(name: &str, checkpoint: u64) -> PartLocation {
    let subtask = SubtaskId { vertex: VertexId(1), index: 0 };
    PartLocation::Object(LAYOUT.shared_part(CheckpointId(checkpoint), attempt(), subtask, name, 0xcd))
}

fn inline(bytes: &'static [u8]) -> PartLocation {
    PartLocation::Inline(Bytes::from_static(bytes))
}

/// A checkpoint of a source and a keyed operator with these parts.
fn metadata(parts: Vec<StatePart>) -> CheckpointMetadata {
    let shape = |operator: &str| VertexShape { operators: vec![uid(operator)], parallelism: 1, max_parallelism: 4 };
    let mut source = SubtaskSnapshot::default();
    source.inline.insert(uid("read"), vec![9, 8, 7]);
    source.inline.insert(uid("read/rebalance/count"), vec![1]);
    CheckpointMetadata {
        job: LAYOUT.job,
        job_name: "a job".into(),
        checkpoint: CheckpointId(5),
        attempt: attempt(),
        written_at: Wall::default(),
        vertices: vec![shape("read"), shape("count")],
        subtasks: BTreeMap::from([((0, 0), source), ((1, 0), SubtaskSnapshot { parts, inline: BTreeMap::new() })]),
    }
}

/// One of every kind of part and of every place.
fn everything() -> CheckpointMetadata {
    let native = |name: &str, kind: PartKind, location: PartLocation, by: u64| StatePart {
        backend: Some(BackendId(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00)),
        ..part(name, kind, location, by)
    };
    metadata(vec![
        part("count-0-1", PartKind::Keyed, own("count-0-1"), 5),
        part("count-2-3", PartKind::Keyed, inline(b"some state"), 5),
        native("sst", PartKind::Shared { file: "000012.sst".into() }, shared("sst", 3), 3),
        native("manifest", PartKind::Private { file: "MANIFEST-000004".into() }, own("manifest"), 5),
        part("split", PartKind::Operator { union: false }, own("split"), 5),
        part("union", PartKind::Operator { union: true }, inline(b"everybody's"), 5),
    ])
}

/// R8, R173. The reader for Flink's files reads it: operators by their ids with their parallelism and its maximum, handles of every kind,
/// paths from the file's directory.
#[test]
fn flinks_reader_reads_it() {
    let metadata = everything();
    let bytes = metadata.encode().unwrap();
    let read = flink::read(&bytes).unwrap();
    assert_eq!((read.version, read.checkpoint_id), (3, 5));
    assert_eq!(read.master_states.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["weir"]);
    let ids: Vec<_> = read.operators.iter().map(|operator| operator.id.clone()).collect();
    let expected = ["read", "read/rebalance/count", "count"].map(|name| format!("{:032x}", operator_id(&uid(name))));
    assert_eq!(ids, expected);
    // R34: an id follows from the uid alone.
    assert_eq!(
        format!("{:032x}", operator_id(&uid("hello"))),
        "029bbd41b3a7d8cb191dae486a901e5b",
        "as Guava prints it"
    );
    assert_eq!((read.operators[2].parallelism, read.operators[2].max_parallelism), (1, 4));
    let position = &read.operators[0].subtasks[0].state.as_ref().unwrap().managed_operator.as_ref().unwrap();
    assert!(matches!(position.stream, Some(StateStream::Inline { bytes: 3, .. })));
    let state = read.operators[2].subtasks[0].state.as_ref().unwrap();
    let modes = [&state.managed_operator, &state.raw_operator].map(|handle| handle.as_ref().unwrap().states[0].mode);
    assert_eq!(modes, [OperatorStateMode::Split, OperatorStateMode::Union]);
    let Some(KeyedState::Changelog { first: 0, count: 4, materialised, changes, .. }) = &state.managed_keyed else {
        panic!("{:?}", state.managed_keyed)
    };
    assert!(changes.is_empty());
    assert!(
        matches!(&materialised[0], KeyedState::KeyGroups { groups, canonical: false, .. } if groups.offsets.len() == 4)
    );
    let KeyedState::Incremental { backend, shared, private, .. } = &materialised[2] else { panic!("not incremental") };
    assert_eq!(backend, "11223344-5566-7788-99aa-bbccddeeff00");
    assert_eq!((shared[0].name.as_str(), private[0].name.as_str()), ("000012.sst", "MANIFEST-000004"));
    let files: Vec<_> = read.files().into_iter().map(|file| (file.path, file.relative, file.size)).collect();
    let name = |path: &str| (path.to_string(), true, Some(9));
    assert_eq!(
        files,
        [
            name("v1[0]-split-2.3-00000000000000ab"),
            name("v1[0]-count-0-1-2.3-00000000000000ab"),
            name("../shared/3-v1[0]-sst-2.3-00000000000000cd"),
            name("v1[0]-manifest-2.3-00000000000000ab"),
        ]
    );
}

/// R147: keyed and operator state are counted apart, whatever lies in files and what inline, and together they are all there is.
#[test]
fn state_is_counted_by_kind() {
    let metadata = everything();
    let read = flink::read(&metadata.encode().unwrap()).unwrap();
    let by_kind = |operator: usize| read.operators[operator].sizes_by_kind();
    let SizesByKind { keyed, operator } = by_kind(2);
    let parts = &metadata.subtasks[&(1, 0)].parts;
    let of =
        |is_keyed: bool| parts.iter().filter(|part| part.is_keyed() == is_keyed).map(|part| part.length).sum::<u64>();
    assert_eq!((keyed, operator), (of(true), of(false)));
    assert!(keyed > operator && operator > 0);
    let (files, inline) = read.operators[2].sizes();
    assert_eq!(keyed + operator, files + inline);
    // Positions of a source, and whose turn it is.
    assert_eq!([by_kind(0), by_kind(1)], [3, 1].map(|operator| SizesByKind { keyed: 0, operator }));
}

/// A single keyed part is a plain key-group handle, or a plain incremental one.
#[test]
fn a_single_handle_is_not_wrapped() {
    let keyed = |kind: PartKind| {
        let bytes = metadata(vec![part("p", kind, own("p"), 5)]).encode().unwrap();
        flink::read(&bytes).unwrap().operators[2].subtasks[0].state.clone().unwrap().managed_keyed.unwrap()
    };
    assert!(matches!(keyed(PartKind::Keyed), KeyedState::KeyGroups { .. }));
    assert!(matches!(keyed(PartKind::Shared { file: "1.sst".into() }), KeyedState::Incremental { .. }));
}

#[test]
fn what_is_written_is_read() {
    for metadata in [everything(), metadata(Vec::new())] {
        assert_eq!(CheckpointMetadata::decode(&metadata.encode().unwrap()).unwrap(), metadata);
    }
}

/// Metadata with whatever there may be in it.
fn any_metadata() -> impl Strategy<Value = CheckpointMetadata> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let keyed = proptest::collection::vec((0u8..4, bytes(), 1u64..6), 0..6);
    let operator = || proptest::option::of(bytes());
    (keyed, operator(), operator(), bytes()).prop_map(|(keyed, split, union, position)| {
        let backend = Some(BackendId(7));
        let keyed = keyed.into_iter().enumerate().map(|(number, (place, bytes, by))| {
            let (name, file) = (format!("part-{number}"), format!("{number}.sst"));
            match place {
                0 => part(&name, PartKind::Keyed, PartLocation::Inline(bytes.into()), by),
                1 => part(&name, PartKind::Keyed, own(&name), by),
                2 => StatePart { backend, ..part(&name, PartKind::Shared { file }, shared(&name, by), by) },
                _ => StatePart { backend, ..part(&name, PartKind::Private { file }, own(&name), by) },
            }
        });
        let operator = [(split, false), (union, true)].into_iter().filter_map(|(bytes, union)| {
            let location = PartLocation::Inline(bytes?.into());
            Some(part(if union { "union" } else { "split" }, PartKind::Operator { union }, location, 5))
        });
        let mut made = metadata(keyed.chain(operator).collect());
        if let Some(source) = made.subtasks.get_mut(&(0, 0)) {
            source.inline.insert(uid("read"), position);
        }
        made
    })
}

proptest! {
    /// R75: metadata can be read, edited and written by whoever has the library: without an edit the bytes are the same, and of an edit
    /// nothing is lost.
    #[test]
    fn metadata_is_read_edited_and_written(metadata in any_metadata(), name in "[a-z]{0,12}") {
        let bytes = metadata.encode().unwrap();
        let mut read = CheckpointMetadata::decode(&bytes).unwrap();
        prop_assert_eq!(&read, &metadata);
        prop_assert_eq!(read.encode().unwrap(), bytes);
        read.job_name = name;
        for snapshot in read.subtasks.values_mut() {
            snapshot.parts.pop();
        }
        let edited = CheckpointMetadata::decode(&read.encode().unwrap()).unwrap();
        prop_assert_eq!(edited, read);
    }
}

/// No byte can be altered, none can be missing, none can be too many: for Weir's reader and for Flink's.
#[test]
fn every_flip_and_every_cut_is_refused() {
    let good = everything().encode().unwrap().to_vec();
    for at in 0..good.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            assert!(CheckpointMetadata::decode(&bad).is_err(), "byte {at} ^ {flip}");
            assert!(flink::read(&bad).is_err(), "byte {at} ^ {flip}");
        }
        assert!(CheckpointMetadata::decode(&good[..at]).is_err(), "cut at {at}");
        assert!(flink::read(&good[..at]).is_err(), "cut at {at}");
    }
    let long = [good.as_slice(), &[0]].concat();
    assert!(CheckpointMetadata::decode(&long).is_err() && flink::read(&long).is_err());
}

/// With a trailer that fits, the two descriptions must still agree: each byte of the handles is compared.
#[test]
fn handles_that_disagree_with_the_master_state_are_refused() {
    let metadata = everything();
    let good = metadata.encode().unwrap();
    let body = trailer::body(&good).unwrap();
    let section = section_of(body).unwrap();
    let handles = 34 + 4 + 4 + section.len();
    for at in handles..body.len() {
        let mut bad = body.to_vec();
        bad[at] ^= 1;
        trailer::append(&mut bad);
        match CheckpointMetadata::decode(&bad) {
            Err(_) => {}
            // Only bytes of inline state are said once; their checksum in the master state sees to them.
            Ok(found) => {
                let parts = &found.subtasks[&(1, 0)].parts;
                let damaged = parts.iter().any(|part| match &part.location {
                    PartLocation::Inline(bytes) => crc32c::crc32c(bytes) != part.crc32c,
                    PartLocation::Object(_) => false,
                });
                assert!(damaged, "byte {at} of {}", body.len());
            }
        }
    }
}

/// The bytes are pinned: what one version of Weir writes, the next ones read.
#[test]
fn the_bytes_are_pinned() {
    let hex: Vec<String> = everything()
        .encode()
        .unwrap()
        .chunks(32)
        .map(|line| line.iter().map(|b| format!("{b:02x}")).collect())
        .collect();
    insta::assert_snapshot!("metadata", hex.join("\n"));
}
