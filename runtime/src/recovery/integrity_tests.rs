//! Bit rot is found, never restored: every file of real checkpoints is walked, and every byte of every file altered.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    assignment::assign,
    local_store::LocalStateStore,
    snapshot_reading::restore_parts,
    snapshot_writing::{SnapshotContext, write_snapshot},
};
use crate::{
    checkpoint::{
        fake::World,
        metadata::{self, CheckpointMetadata, VertexShape},
        primary::Primary,
        types::{PartKind, PartLocation, ReplayPlan, StatePart, SubtaskSnapshot},
    },
    dataflow::{
        chain::{PartData, RestoredState},
        task::{SubtaskSpec, TaskSettings},
    },
    graph::{ExecutionGraph, Vertex},
    ids::*,
    layout::Layout,
    platform::{ObjectName, Wall},
    state::{BackendKind, BackendSettings, KeyedBackend},
};

const JOB: JobId = JobId(7);
const LAYOUT: Layout = Layout { job: JOB };
const SUBTASK: SubtaskId = SubtaskId { vertex: VertexId(0), index: 0 };
const MAX_PARALLELISM: u16 = 8;

fn groups() -> KeyGroupRange {
    KeyGroupRange { first: KeyGroup(0), last: KeyGroup(MAX_PARALLELISM - 1) }
}

fn uid() -> OperatorUid {
    OperatorUid("count".into())
}

fn settings(backend: BackendSettings) -> TaskSettings {
    TaskSettings { local_recovery: true, backend, ..TaskSettings::default() }
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
        slot_sharing_group: 0,
        sinks: Vec::new(),
    };
    ExecutionGraph { vertices: vec![vertex], edges: Vec::new() }
}

/// A world with checkpoints of one subtask in it.
struct Checkpoints {
    world: World,
    settings: TaskSettings,
    local: LocalStateStore,
    state: KeyedBackend<String>,
    newest: Option<(CheckpointId, ObjectName)>,
    base: BTreeMap<String, StatePart>,
}

impl Checkpoints {
    fn new(backend: BackendSettings) -> Checkpoints {
        let world = World::default();
        let local = LocalStateStore::new(&world.platform("tm-1"), AllocationId(9), JOB, SUBTASK, "count[0]");
        let settings = settings(backend);
        let mut state = KeyedBackend::restore(uid(), groups(), MAX_PARALLELISM, &[], None, &settings.backend).unwrap();
        state.open_context().value_state::<u64>("value").unwrap();
        state.open_context().list_state::<String>("list").unwrap();
        state.opened();
        Checkpoints { world, settings, local, state, newest: None, base: BTreeMap::new() }
    }

    /// Takes a checkpoint. `unchanged`: names of parts that are those of the one before.
    fn take(&mut self, id: u64, unchanged: impl Fn(&str) -> bool) {
        let platform = self.world.platform("tm-1");
        let checkpoint = CheckpointId(id);
        let attempt = AttemptId { leader: LeaderEpoch(1), execution: Execution(1) };
        let name = "count[0]".to_string();
        let context = SnapshotContext {
            job: JOB,
            subtask: SUBTASK,
            name,
            attempt,
            checkpoint,
            savepoint: None,
            transfer: Default::default(),
        };
        let mut sources = self.state.snapshot().unwrap();
        for source in &mut sources {
            if let Some(part) = self.base.get(&source.name).filter(|part| unchanged(&part.name)) {
                source.data = PartData::Reuse(part.clone());
            }
        }
        let base = (id > 1).then(|| CheckpointId(id - 1));
        let local = Some(self.local.begin(checkpoint));
        let parts = self.world.run(write_snapshot(&platform, &context, &self.settings, sources, base, local)).unwrap();
        self.base = parts.iter().map(|part| (part.name.clone(), part.clone())).collect();
        let mut snapshot = SubtaskSnapshot { parts, ..SubtaskSnapshot::default() };
        snapshot.inline.insert(uid(), vec![1, 2, 3]);
        let metadata = CheckpointMetadata {
            job: JOB,
            job_name: "job".into(),
            checkpoint,
            attempt,
            written_at: Wall::default(),
            vertices: VertexShape::all(&graph()),
            subtasks: BTreeMap::from([(SUBTASK.into(), snapshot)]),
        };
        let primary = self.primary();
        let object = self.world.run(metadata::write(&primary, LAYOUT, metadata)).unwrap();
        self.newest = Some((checkpoint, object));
    }

    fn primary(&self) -> Primary {
        let settings = &self.settings;
        Primary::new(&self.world.platform("jobmanager"), settings.store_operation_timeout, settings.store_total_timeout)
    }

    /// Restores the newest checkpoint from nothing but its name.
    fn restore(&self, with_local: bool) -> Result<RestoredState, String> {
        let (checkpoint, object) = self.newest.clone().expect("one was taken");
        let metadata = self
            .world
            .run(metadata::read(&self.primary(), LAYOUT, checkpoint, &object))
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
            settings: self.settings.clone(),
        };
        let local = with_local.then_some(&self.local);
        let platform = self.world.platform("tm-1");
        let restored = restore_parts(&platform, &spec, "count[0]", local, BTreeMap::new());
        self.world.run(restored).map_err(|error| format!("{error:?}"))
    }

    /// Alters every byte of every object of primary, and cuts metadata at every length: each time the restore is refused.
    /// Gives how many bytes there were.
    fn walk_primary(&self) -> usize {
        let good = contents(&self.restore(false).unwrap());
        let mut bytes = 0;
        for (name, content) in self.world.objects() {
            for at in 0..content.len() {
                let mut bad = content.to_vec();
                bad[at] ^= 1 << (at % 8);
                self.world.put_object(&name, bad);
                assert!(self.restore(false).is_err(), "byte {at} of {name}");
                if name.as_str().ends_with("_metadata") {
                    self.world.put_object(&name, content.slice(..at));
                    assert!(self.restore(false).is_err(), "{name} cut at {at}");
                }
            }
            bytes += content.len();
            self.world.put_object(&name, content);
        }
        assert_eq!(contents(&self.restore(false).unwrap()), good);
        bytes
    }

    /// Alters every byte of every file of the local copy: each time the state comes from primary, and is right.
    fn walk_local(&self) -> usize {
        let good = contents(&self.restore(false).unwrap());
        let mut bytes = 0;
        for (path, content) in self.world.files() {
            for at in 0..content.len() {
                self.world.edit_file(path.as_str(), |file| file[at] ^= 1 << (at % 8));
                assert_eq!(contents(&self.restore(true).unwrap()), good, "byte {at} of {path}");
                self.world.edit_file(path.as_str(), |file| file[at] ^= 1 << (at % 8));
            }
            bytes += content.len();
        }
        bytes
    }
}

fn contents(state: &RestoredState) -> Vec<(KeyGroupRange, Bytes)> {
    state.parts.iter().map(|part| (part.key_groups, part.bytes.clone())).collect()
}

fn fill(checkpoints: &mut Checkpoints, keys: std::ops::Range<u32>) {
    let mut fresh = checkpoints.state.open_context();
    let (value, list) = (fresh.value_state::<u64>("value").unwrap(), fresh.list_state::<String>("list").unwrap());
    for n in keys {
        let key = format!("key {n}");
        let mut context = checkpoints.state.context(&key).unwrap().expect("all key groups are here");
        value.update(&mut context, u64::from(n)).unwrap();
        list.push(&mut context, format!("an element of the list of {n}")).unwrap();
    }
}

/// Every file of plain, compressed, inline and incremental checkpoints of heap state.
#[test]
fn every_altered_byte_of_every_file_is_found() {
    let plain = BackendSettings { small_state_threshold: 0, ..BackendSettings::default() };
    let compressed = BackendSettings { compression: true, ..plain.clone() };
    let threshold = BackendSettings { small_state_threshold: 500, ..plain.clone() };
    let memory = BackendSettings { kind: BackendKind::Memory, ..plain.clone() };
    let incremental = BackendSettings { incremental: true, ..plain.clone() };
    for (what, backend) in [
        ("plain", plain),
        ("compressed", compressed),
        ("small state", threshold),
        ("memory", memory.clone()),
        ("incremental", incremental),
    ] {
        let is_incremental = backend.incremental;
        let is_memory = backend.kind == BackendKind::Memory;
        let mut checkpoints = Checkpoints::new(backend);
        fill(&mut checkpoints, 0..12);
        checkpoints.take(1, |_| false);
        if is_incremental {
            let first = checkpoints.base.clone();
            checkpoints.take(2, |name| !name.ends_with("-0-1"));
            let of_first =
                checkpoints.base.values().filter(|part| first.values().any(|before| before == *part)).count();
            assert_eq!(of_first, checkpoints.base.len() - 1, "all but one part are those of the first checkpoint");
            // What only the first refers to is no file of the second.
            let needed: Vec<_> = checkpoints.base.values().filter_map(StatePart::object).cloned().collect();
            let newest = checkpoints.newest.clone().unwrap().1;
            for name in checkpoints.world.objects().into_keys().filter(|name| !needed.contains(name) && *name != newest)
            {
                checkpoints.world.lose_object(&name);
            }
            checkpoints.world.run(checkpoints.local.confirm(CheckpointId(2)));
        }
        let parts = checkpoints.base.values();
        let inline = parts.filter(|part| matches!(part.location, PartLocation::Inline(_))).count();
        assert!(checkpoints.base.values().all(|part| part.kind == PartKind::Keyed));
        match what {
            "memory" => assert_eq!(inline, checkpoints.base.len()),
            "small state" => assert!(inline > 0, "no part is small"),
            _ => assert_eq!(inline, 0),
        }
        let (files, bytes) = (checkpoints.world.objects().len(), checkpoints.walk_primary());
        let local = checkpoints.walk_local();
        assert_eq!(local == 0, is_memory || inline == checkpoints.base.len());
        println!("{what}: {files} files, {bytes} bytes in primary, {local} in the local copy");
    }
}

/// R91: of a checkpoint the JobManager has metadata, which is as large as there are files, and not as what is in them: with a thousand
/// times as many keys it stays the same, but for some longer numbers.
#[test]
fn metadata_does_not_grow_with_state() {
    let sizes = [20, 20_000].map(|keys| {
        let files_only = BackendSettings { small_state_threshold: 0, ..BackendSettings::default() };
        let mut checkpoints = Checkpoints::new(files_only);
        fill(&mut checkpoints, 0..keys);
        checkpoints.take(1, |_| false);
        let objects = checkpoints.world.objects();
        let bytes = |of_metadata: bool| {
            let is_of_it = |name: &ObjectName| name.as_str().ends_with("_metadata") == of_metadata;
            objects.iter().filter(|(name, _)| is_of_it(name)).map(|(_, content)| content.len()).sum::<usize>()
        };
        (objects.len(), bytes(false), bytes(true))
    });
    let [(few_files, small, before), (many_files, large, after)] = sizes;
    assert!(large > 100 * small, "{small} and {large} bytes of state");
    assert_eq!(few_files, many_files);
    assert!(before > 0 && after * 100 <= before * 105, "{before} and {after} bytes of metadata");
}
