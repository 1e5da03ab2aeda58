//! Bit rot is found in native checkpoints, too: every byte of every file of RocksDB is altered, each file is cut, left out and
//! exchanged for another, in primary and in the local copy.

#![allow(clippy::disallowed_methods, reason = "native code works in real directories")]

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    assignment::assign,
    local_store::LocalStateStore,
    native_io::write_native,
    snapshot_reading::restore_parts,
    snapshot_writing::{SnapshotContext, write_snapshot},
};
use crate::{
    checkpoint::{
        fake::{Kind, World},
        metadata::{self, CheckpointMetadata, VertexShape},
        primary::Primary,
        types::{PartKind, ReplayPlan, StatePart, SubtaskSnapshot},
    },
    dataflow::{
        chain::{NativeStage, RestoredState, Scratch},
        task::{SubtaskSpec, TaskSettings},
    },
    graph::{ExecutionGraph, Vertex},
    ids::*,
    layout::Layout,
    platform::{ObjectName, Platform, Wall},
    state::{BackendKind, BackendSettings, KeyedBackend},
};

const JOB: JobId = JobId(7);
const LAYOUT: Layout = Layout { job: JOB };
const SUBTASK: SubtaskId = SubtaskId { vertex: VertexId(0), index: 0 };
const MAX_PARALLELISM: u16 = 8;
const CHECKPOINT: CheckpointId = CheckpointId(2);
/// Smaller than most files, so that they travel in pieces.
const PIECE_BYTES: u64 = 400;

fn uid() -> OperatorUid {
    OperatorUid("count".into())
}

fn groups() -> KeyGroupRange {
    KeyGroupRange { first: KeyGroup(0), last: KeyGroup(MAX_PARALLELISM - 1) }
}

fn attempt() -> AttemptId {
    AttemptId { leader: LeaderEpoch(1), execution: Execution(1) }
}

fn settings() -> TaskSettings {
    let backend = BackendSettings {
        kind: BackendKind::RocksDb,
        incremental: true,
        small_state_threshold: 0,
        ..BackendSettings::default()
    };
    TaskSettings { local_recovery: true, transfer_piece_bytes: PIECE_BYTES, backend, ..TaskSettings::default() }
}

fn graph() -> ExecutionGraph {
    let vertex = Vertex {
        id: SUBTASK.vertex,
        name: "count".into(),
        parallelism: 1,
        max_parallelism: MAX_PARALLELISM,
        operators: vec![uid()],
        keyed: vec![uid()],
        splits: None,
        sinks: Vec::new(),
        slot_sharing_group: 0,
    };
    ExecutionGraph { vertices: vec![vertex], edges: Vec::new() }
}

fn scratch(world: &World, platform: &Platform) -> Scratch {
    let directory = world.run(platform.disk.native_dir()).unwrap();
    Scratch { directory, backend: BackendId(7), restored: Vec::new(), unclipped: false }
}

fn open(scratch: Scratch) -> KeyedBackend<String> {
    let backend = settings().backend;
    let mut state = KeyedBackend::restore(uid(), groups(), MAX_PARALLELISM, &[], Some(scratch), &backend).unwrap();
    state.open_context().value_state::<u64>("value").unwrap();
    state.open_context().list_state::<String>("list").unwrap();
    state.opened();
    let call = state.native_calls(NativeStage::Open).expect("a database is opened");
    (call.run)().unwrap();
    state
}

fn fill(state: &mut KeyedBackend<String>, keys: std::ops::Range<u32>) {
    let mut fresh = state.open_context();
    let (value, list) = (fresh.value_state::<u64>("value").unwrap(), fresh.list_state::<String>("list").unwrap());
    for n in keys {
        let key = format!("key {n}");
        let mut context = state.context(&key).unwrap().expect("all key groups are here");
        value.update(&mut context, u64::from(n)).unwrap();
        list.push(&mut context, format!("an element of {n}")).unwrap();
    }
}

/// Two native checkpoints of one database, the second of which refers to files of the first, in primary and in a local copy.
struct Checkpoints {
    world: World,
    local: LocalStateStore,
    newest: ObjectName,
    parts: Vec<StatePart>,
}

impl Checkpoints {
    fn take() -> Checkpoints {
        let world = World::default();
        let platform = world.platform("tm-1");
        let local = LocalStateStore::new(&platform, AllocationId(9), JOB, SUBTASK, "count[0]");
        let mut state = open(scratch(&world, &platform));
        let (mut parts, mut newest) = (Vec::new(), None);
        for id in 1..=CHECKPOINT.0 {
            let from = id as u32 * 10;
            fill(&mut state, from..from + 10);
            let (checkpoint, name) = (CheckpointId(id), "count[0]".to_string());
            let context = SnapshotContext {
                job: JOB,
                subtask: SUBTASK,
                name,
                attempt: attempt(),
                checkpoint,
                savepoint: None,
                transfer: Default::default(),
            };
            let native = vec![state.native_snapshot(checkpoint).unwrap().expect("checkpoints are incremental")];
            let writer = Some(local.begin(checkpoint));
            let (written, writer) = world.run(write_native(&platform, &context, &settings(), native, writer)).unwrap();
            parts = written;
            // Nothing but native files; this makes the local copy whole.
            world.run(write_snapshot(&platform, &context, &settings(), Vec::new(), None, writer)).unwrap();
            state.completed(checkpoint);
            world.run(local.confirm(checkpoint));
            let snapshot = SubtaskSnapshot { parts: parts.clone(), ..SubtaskSnapshot::default() };
            let metadata = CheckpointMetadata {
                job: JOB,
                job_name: "job".into(),
                checkpoint,
                attempt: attempt(),
                written_at: Wall::default(),
                vertices: VertexShape::all(&graph()),
                subtasks: BTreeMap::from([(SUBTASK.into(), snapshot)]),
            };
            newest = Some(world.run(metadata::write(&Self::primary(&world), LAYOUT, metadata)).unwrap());
        }
        let newest = newest.expect("two were taken");
        // What only the first refers to is no file of the second.
        for name in world.objects().into_keys() {
            if name != newest && !parts.iter().any(|part| part.object() == Some(&name)) {
                world.lose_object(&name);
            }
        }
        Checkpoints { world, local, newest, parts }
    }

    fn primary(world: &World) -> Primary {
        let settings = settings();
        let platform = world.platform("jobmanager");
        Primary::new(&platform, settings.store_operation_timeout, settings.store_total_timeout)
    }

    /// Restores the newest checkpoint from nothing but its name.
    fn restore(&self, with_local: bool) -> Result<RestoredState, String> {
        let metadata = self
            .world
            .run(metadata::read(&Self::primary(&self.world), LAYOUT, CHECKPOINT, &self.newest))
            .map_err(|error| error.to_string())?;
        let mut orders = assign(&metadata, &graph()).map_err(|error| error.to_string())?;
        let spec = SubtaskSpec {
            job: JOB,
            subtask: SUBTASK,
            attempt: metadata.attempt,
            allocation: AllocationId(9),
            outputs: Vec::new(),
            restore: orders.remove(&SUBTASK),
            replay: ReplayPlan::default(),
            settings: settings(),
        };
        let local = with_local.then_some(&self.local);
        let platform = self.world.platform("tm-1");
        let scratch = BTreeMap::from([(uid(), scratch(&self.world, &platform))]);
        let restored = restore_parts(&platform, &spec, "count[0]", local, scratch);
        self.world.run(restored).map_err(|error| format!("{error:?}"))
    }

    /// With `name` altered in primary, nothing is restored.
    fn refused(&self, name: &ObjectName, bytes: impl Into<Bytes>, what: &str) {
        self.world.put_object(name, bytes);
        assert!(self.restore(false).is_err(), "{name}: {what}");
    }

    /// With a local file altered, the state comes from primary where it must, and is right.
    fn made_good(&self, path: &str, good: &Files, what: &str, alter: impl FnOnce(&mut Vec<u8>)) {
        let before = self.world.files().into_iter().find(|(file, _)| file.as_str() == path).expect("it is there").1;
        self.world.edit_file(path, alter);
        let restored = self.restore(true).unwrap_or_else(|error| panic!("{path}: {what}: {error}"));
        assert!(files_of(&restored) == *good, "{path}: {what}");
        self.world.edit_file(path, |file| *file = before);
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// The files that were brought back for the database.
fn files_of(restored: &RestoredState) -> Files {
    let scratch = &restored.scratch[&uid()];
    let mut files = Files::new();
    for native in &scratch.restored {
        for entry in std::fs::read_dir(scratch.directory.path().join(&native.subdirectory)).unwrap() {
            let entry = entry.unwrap();
            files.insert(entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// Where a file is cut.
fn lengths(whole: usize) -> impl Iterator<Item = usize> {
    [0, 1, whole / 2, whole.saturating_sub(1)].into_iter().filter(move |cut| *cut < whole)
}

#[test]
fn every_altered_byte_of_every_native_file_is_found() {
    let checkpoints = Checkpoints::take();
    let files: Vec<String> = checkpoints
        .parts
        .iter()
        .map(|part| match &part.kind {
            PartKind::Shared { file } | PartKind::Private { file } => file.clone(),
            other => panic!("{other:?} is none of a native checkpoint"),
        })
        .collect();
    let of = |what: fn(&str) -> bool| files.iter().filter(|file| what(file)).count();
    let tables = of(|file| file.ends_with(".sst"));
    assert!(tables >= 2 && of(|file| file == "CURRENT") == 1 && of(|file| file.starts_with("MANIFEST-")) == 1);
    assert!(checkpoints.parts.iter().any(|part| part.written_by < CHECKPOINT), "a table of the first is used again");
    assert!(checkpoints.parts.iter().any(|part| part.length > 2 * PIECE_BYTES), "one travels in pieces");

    let restored = checkpoints.restore(false).unwrap();
    let good = files_of(&restored);
    assert_eq!(good.len(), files.len());
    let objects = checkpoints.world.objects();
    let mut bytes = 0;
    for (name, content) in &objects {
        for at in 0..content.len() {
            let mut bad = content.to_vec();
            bad[at] ^= 1 << (at % 8);
            checkpoints.refused(name, bad, &format!("byte {at}"));
        }
        for cut in lengths(content.len()) {
            checkpoints.refused(name, content.slice(..cut), &format!("cut at {cut}"));
        }
        // Of a file that has grown the bytes that were written are read, and no others; metadata that has grown is refused.
        checkpoints.world.put_object(name, [&content[..], b"x"].concat());
        match checkpoints.restore(false) {
            Ok(restored) => assert!(*name != checkpoints.newest && files_of(&restored) == good, "{name}"),
            Err(error) => assert!(*name == checkpoints.newest, "{name}: {error}"),
        }
        checkpoints.world.lose_object(name);
        assert!(checkpoints.restore(false).is_err(), "{name} is missing");
        checkpoints.world.put_object(name, content.clone());
        bytes += content.len();
    }
    let names: Vec<&ObjectName> = objects.keys().collect();
    let mut pairs = 0;
    for (one, first) in names.iter().enumerate() {
        for second in &names[one + 1..] {
            checkpoints.world.put_object(first, objects[*second].clone());
            checkpoints.refused(second, objects[*first].clone(), &format!("exchanged for {first}"));
            for name in [first, second] {
                checkpoints.world.put_object(name, objects[*name].clone());
            }
            pairs += 1;
        }
    }

    let local: Vec<_> = checkpoints.world.files().into_iter().collect();
    let mut local_bytes = 0;
    for (path, content) in &local {
        let path = path.as_str();
        for at in 0..content.len() {
            checkpoints.made_good(path, &good, &format!("byte {at}"), |file| file[at] ^= 1 << (at % 8));
        }
        for cut in lengths(content.len()) {
            checkpoints.made_good(path, &good, &format!("cut at {cut}"), |file| file.truncate(cut));
        }
        local_bytes += content.len();
    }
    for pair in local.windows(2) {
        let (first, second) = (pair[0].0.as_str(), &pair[1].1);
        checkpoints.made_good(first, &good, "holds the next file", |file| file.clone_from(second));
    }
    for (path, content) in &local {
        checkpoints.world.remove_file(path.as_str());
        assert!(files_of(&checkpoints.restore(true).unwrap()) == good, "{path} is missing");
        let mut file = checkpoints.world.run(checkpoints.world.platform("tm-1").disk.create_new(path)).unwrap();
        checkpoints.world.run(file.append(content.clone().into())).unwrap();
    }

    // And what is whole is the state.
    let mut restored = restored;
    let mut state = open(restored.scratch.remove(&uid()).expect("there is a database"));
    let value = state.open_context().value_state::<u64>("value").unwrap();
    for n in 10..30_u32 {
        let key = format!("key {n}");
        let context = state.context(&key).unwrap().expect("all key groups are here");
        assert_eq!(value.get(&context).unwrap().copied(), Some(u64::from(n)));
    }
    println!(
        "{} files ({tables} tables), {bytes} bytes in primary, {local_bytes} in the local copy, {pairs} pairs exchanged",
        objects.len()
    );
}

/// A table of the local copy becomes one of the database as it is; if the disk refuses that, or says nothing, it is written from what
/// was read. Either way nothing comes from primary.
#[test]
fn a_table_that_cannot_be_taken_is_written() {
    let checkpoints = Checkpoints::take();
    let good = files_of(&checkpoints.restore(false).unwrap());
    assert!(good.keys().any(|file| file.ends_with(".sst")));
    for kind in [None, Some(Kind::Before), Some(Kind::Silent)] {
        if let Some(kind) = kind {
            checkpoints.world.disk_fault("materialize", "", kind, u32::MAX);
        }
        let restored = checkpoints.restore(true).unwrap();
        assert!(files_of(&restored) == good, "{kind:?}");
        assert_eq!(restored.report.primary_bytes(), 0, "{kind:?}");
        checkpoints.world.heal();
    }
}
