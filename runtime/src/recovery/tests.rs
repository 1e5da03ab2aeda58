//! Writing and restoring state through both stores, with everything going wrong that may.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    allocations::{StoredAllocation, forget_slot, release, scan, write_slot},
    local_manifest::LocalManifest,
    local_store::LocalStateStore,
    snapshot_reading::restore_parts,
    snapshot_writing::{SnapshotContext, write_snapshot},
};
use crate::{
    checkpoint::{
        fake::{Kind, World},
        metadata::{CheckpointMetadata, VertexShape, write_savepoint},
        primary::Primary,
        types::{PartKind, PartLocation, ReplayPlan, RestoreOrder, StatePart, SubtaskSnapshot},
    },
    dataflow::{
        chain::{PartData, PartSource, RestoredState},
        task::{SubtaskSpec, TaskFailure, TaskSettings},
    },
    ids::*,
    journal::{Event, EventKind},
    layout::{LocalLayout, SavepointDirectory},
    platform::{LocalDisk, ObjectName, RelPath},
    state::{BackendKind, BackendSettings},
};

const JOB: JobId = JobId(7);
const ALLOCATION: AllocationId = AllocationId(9);
const SUBTASK: SubtaskId = SubtaskId { vertex: VertexId(1), index: 0 };
const PARTS: usize = 3;

fn attempt() -> AttemptId {
    AttemptId { leader: LeaderEpoch(1), execution: Execution(1) }
}

fn store(world: &World) -> LocalStateStore {
    LocalStateStore::new(&world.platform("tm-1"), ALLOCATION, JOB, SUBTASK, "count[0]")
}

fn settings() -> TaskSettings {
    let backend = BackendSettings { small_state_threshold: 0, ..BackendSettings::default() };
    TaskSettings { local_recovery: true, backend, ..TaskSettings::default() }
}

fn content(checkpoint: u64, part: usize) -> Bytes {
    format!("state of part {part} at {checkpoint}").into()
}

fn range(part: usize) -> KeyGroupRange {
    KeyGroupRange { first: KeyGroup(part as u16 * 10), last: KeyGroup(part as u16 * 10 + 9) }
}

fn sources(checkpoint: u64) -> Vec<PartSource> {
    let source = |part| PartSource {
        operator: OperatorUid("count".into()),
        key_groups: range(part),
        name: format!("part-{part}"),
        kind: PartKind::Keyed,
        backend: None,
        data: PartData::encode(move || content(checkpoint, part)),
    };
    (0..PARTS).map(source).collect()
}

fn context(checkpoint: u64) -> SnapshotContext {
    let name = "count[0]".to_string();
    let checkpoint = CheckpointId(checkpoint);
    SnapshotContext {
        job: JOB,
        subtask: SUBTASK,
        name,
        attempt: attempt(),
        checkpoint,
        savepoint: None,
        transfer: Default::default(),
    }
}

fn snapshot(world: &World, checkpoint: u64, local: &LocalStateStore) -> Result<Vec<StatePart>, String> {
    let writer = Some(local.begin(CheckpointId(checkpoint)));
    world.run(write_snapshot(
        &world.platform("tm-1"),
        &context(checkpoint),
        &settings(),
        sources(checkpoint),
        None,
        writer,
    ))
}

fn spec(checkpoint: u64, parts: &[StatePart]) -> SubtaskSpec {
    SubtaskSpec {
        job: JOB,
        subtask: SUBTASK,
        attempt: attempt(),
        allocation: ALLOCATION,
        outputs: Vec::new(),
        restore: Some(RestoreOrder::own(
            CheckpointId(checkpoint),
            SUBTASK.index,
            SubtaskSnapshot { parts: parts.to_vec(), inline: BTreeMap::new() },
        )),
        replay: ReplayPlan::default(),
        settings: settings(),
    }
}

/// Restores in a new process on the same machine; gives the state and how many parts were local ones.
fn restore(world: &World, checkpoint: u64, parts: &[StatePart]) -> Result<(RestoredState, usize), TaskFailure> {
    let before = count(world, EventKind::PartRestoredLocally);
    let local = store(world);
    let state = world.run(restore_parts(
        &world.platform("tm-1"),
        &spec(checkpoint, parts),
        "count[0]",
        Some(&local),
        BTreeMap::new(),
    ))?;
    Ok((state, count(world, EventKind::PartRestoredLocally) - before))
}

fn check_content(state: &RestoredState, checkpoint: u64) {
    assert_eq!(state.parts.len(), PARTS);
    for (part, restored) in state.parts.iter().enumerate() {
        assert_eq!((restored.key_groups, &restored.bytes), (range(part), &content(checkpoint, part)));
    }
}

fn count(world: &World, kind: EventKind) -> usize {
    world.events().iter().filter(|e| e.kind() == kind).count()
}

fn reads(world: &World) -> usize {
    world.operations().iter().filter(|o| o.starts_with("read")).count()
}

/// The futures run in control tasks, on any thread. That this compiles is the test.
const _: fn(&World, &LocalStateStore) = |world, local| {
    fn send<T: Send>(_: T) {}
    let platform = world.platform("x");
    send(write_snapshot(&platform, &context(1), &settings(), Vec::new(), None, None));
    send(restore_parts(&platform, &spec(1, &[]), "x", Some(local), BTreeMap::new()));
    send(local.confirm(CheckpointId(1)));
};

/// R186, R188, R192, R200: two copies of the same bytes; a task that comes back reads none of its state from primary.
#[test]
fn a_task_that_comes_back_restores_locally_without_touching_primary() {
    let world = World::default();
    let parts = snapshot(&world, 3, &store(&world)).unwrap();
    assert_eq!(world.objects().len(), PARTS);
    assert_eq!(world.files().len(), PARTS + 1);
    let (state, local) = restore(&world, 3, &parts).unwrap();
    check_content(&state, 3);
    assert_eq!((local, reads(&world)), (PARTS, 0));
}

/// R194, R201, R204: each damage costs exactly the damaged part, which comes from primary, and is reported.
#[test]
fn a_damaged_local_part_comes_from_primary_and_the_others_do_not() {
    type Damage = fn(&World);
    let damages: [Damage; 5] = [
        |w| w.remove_file("part-1"),
        |w| w.edit_file("part-1", Vec::clear),
        |w| w.edit_file("part-1", |b| b.truncate(5)),
        |w| w.edit_file("part-1", |b| b[3] ^= 1),
        |w| w.disk_fault("read", "part-1", Kind::Silent, 1),
    ];
    for damage in damages {
        let world = World::default();
        let parts = snapshot(&world, 3, &store(&world)).unwrap();
        damage(&world);
        let (state, local) = restore(&world, 3, &parts).unwrap();
        check_content(&state, 3);
        assert_eq!((local, reads(&world)), (PARTS - 1, 1));
        assert_eq!(count(&world, EventKind::LocalPartRejected), 1);
    }
}

/// R194, R201: a manifest that is damaged, gone or of something else makes the whole copy worthless, and nothing worse.
#[test]
fn a_damaged_or_foreign_manifest_makes_the_copy_worthless() {
    type Damage = fn(&World);
    let damages: [Damage; 4] = [
        |w| w.remove_file("_manifest"),
        |w| w.edit_file("_manifest", |b| b.truncate(25)),
        |w| w.edit_file("_manifest", |b| b[30] ^= 4),
        |w| {
            // A whole manifest, but of checkpoint 2.
            w.edit_file("_manifest", |b| {
                let mut manifest = LocalManifest::decode(b).unwrap();
                manifest.checkpoint = CheckpointId(2);
                *b = manifest.encode().unwrap().to_vec();
            });
        },
    ];
    for damage in damages {
        let world = World::default();
        let parts = snapshot(&world, 3, &store(&world)).unwrap();
        damage(&world);
        let (state, local) = restore(&world, 3, &parts).unwrap();
        check_content(&state, 3);
        assert_eq!((local, reads(&world)), (0, PARTS));
    }
}

/// R194: equal name, equal length, whole, but a copy of another object: primary wins.
#[test]
fn a_local_part_that_mirrors_another_object_is_not_used() {
    let world = World::default();
    let parts = snapshot(&world, 3, &store(&world)).unwrap();
    let mut other = parts.clone();
    let elsewhere = ObjectName::new("checkpoints/elsewhere").unwrap();
    other[0].location = PartLocation::Object(elsewhere.clone());
    world.put_object(&elsewhere, content(3, 0));
    let (state, local) = restore(&world, 3, &other).unwrap();
    check_content(&state, 3);
    assert_eq!(local, PARTS - 1);
}

/// R195: whatever the local disk does at whatever step, the snapshot succeeds.
#[test]
fn no_local_fault_fails_a_snapshot() {
    for operation in ["create", "append", "sync", "sync_dir", "remove_tree"] {
        for name in ["part-0", "part-2", "_manifest", "chk_3"] {
            for kind in [Kind::Before, Kind::Silent] {
                let world = World::default();
                world.disk_fault(operation, name, kind, 1);
                let parts = snapshot(&world, 3, &store(&world)).unwrap();
                assert_eq!((parts.len(), world.objects().len()), (PARTS, PARTS));
                let (state, _) = restore(&world, 3, &parts).unwrap();
                check_content(&state, 3);
            }
        }
    }
}

/// R195: a slow disk does not hold up the checkpoint; the copy is given up and leaves nothing behind.
#[test]
fn a_local_copy_that_lags_behind_is_given_up() {
    let world = World::default();
    world.set_latency(Duration::from_millis(20), Duration::from_secs(5));
    let parts = snapshot(&world, 3, &store(&world)).unwrap();
    let done =
        world.events().iter().any(|e| matches!(e, Event::LocalCopyFailed { reason, .. } if reason.contains("slow")));
    assert!(done && parts.len() == PARTS);
    assert!(world.files().is_empty());
}

/// R204: an error while one file is written costs that part only.
#[test]
fn a_partial_copy_serves_the_parts_it_has() {
    let world = World::default();
    world.disk_fault("append", "part-1", Kind::Before, 1);
    let parts = snapshot(&world, 3, &store(&world)).unwrap();
    let (state, local) = restore(&world, 3, &parts).unwrap();
    check_content(&state, 3);
    assert_eq!((local, reads(&world)), (PARTS - 1, 1));
}

/// R196: without primary there is no snapshot, and its local copy is gone.
#[test]
fn a_snapshot_that_primary_did_not_take_fails_and_its_local_copy_goes() {
    let world = World::default();
    world.store_fault("create", "part-1", Kind::Before, 1000);
    let local = store(&world);
    assert!(snapshot(&world, 3, &local).is_err());
    assert!(world.files().is_empty());
    assert!(world.run(local.retrieve(CheckpointId(3))).is_err());
}

/// R202: lost only if both are; then it is said of which checkpoint and what was tried. An outage is no loss.
#[test]
fn state_is_lost_only_if_it_is_lost_in_both_places() {
    let world = World::default();
    let parts = snapshot(&world, 3, &store(&world)).unwrap();
    world.lose_object(parts[1].object().unwrap());
    assert_eq!(restore(&world, 3, &parts).unwrap().1, PARTS);
    world.edit_file("part-1", |b| b[0] ^= 1);
    let Err(TaskFailure::StateLost { checkpoint, part, reason }) = restore(&world, 3, &parts) else { panic!() };
    assert_eq!((checkpoint, part.as_str()), (CheckpointId(3), "part-1"));
    assert!(reason.contains("local: its checksum") && reason.contains("no such object"), "{reason}");
    for bytes in [Bytes::from_static(b"short"), Bytes::from(vec![0; parts[1].length as usize])] {
        world.put_object(parts[1].object().unwrap(), bytes);
        assert!(matches!(restore(&world, 3, &parts), Err(TaskFailure::StateLost { .. })));
    }
    world.put_object(parts[1].object().unwrap(), content(3, 1));
    world.store_fault("read", "part-1", Kind::Flipped, 1);
    check_content(&restore(&world, 3, &parts).unwrap().0, 3);
    world.store_fault("read", "part-1", Kind::Before, 1000);
    assert!(matches!(restore(&world, 3, &parts), Err(TaskFailure::Environment(_))));
}

/// R199: locally only the last confirmed copy stays, and those in progress; an aborted one goes, also while it is written.
#[test]
fn confirmations_and_aborts_clear_the_local_store() {
    let world = World::default();
    let local = store(&world);
    for checkpoint in 1..=4 {
        snapshot(&world, checkpoint, &local).unwrap();
    }
    let copies = || {
        let home = RelPath::new(crate::layout::LocalLayout::subtask(ALLOCATION, JOB, SUBTASK).as_str()).unwrap();
        world.run(LocalDisk::list(&world, &home)).unwrap()
    };
    world.run(local.abort(CheckpointId(2)));
    assert_eq!(copies(), ["chk_1", "chk_3", "chk_4"]);
    world.run(local.confirm(CheckpointId(3)));
    assert_eq!(copies(), ["chk_3", "chk_4"]);
    let writer = local.begin(CheckpointId(5));
    world.run(local.abort(CheckpointId(5)));
    let platform = world.platform("tm-1");
    world.run(write_snapshot(&platform, &context(5), &settings(), sources(5), None, Some(writer))).unwrap();
    assert_eq!(copies(), ["chk_3", "chk_4"]);
    world.run(local.prune(Some(CheckpointId(3))));
    assert_eq!(copies(), ["chk_3"]);
    world.run(local.dispose());
    assert!(copies().is_empty() && world.run(local.retrieve(CheckpointId(3))).is_err());
}

#[test]
fn allocations_are_found_again_and_rubbish_is_named() {
    let world = World::default();
    let stored = |slot: u32| StoredAllocation {
        allocation: AllocationId(slot.into()),
        slot,
        shared: SharedSlot { group: 0, index: 2 - slot, parallelism: 3 },
        since: AttemptId::default(),
    };
    let slots: Vec<_> = (0..3).map(stored).collect();
    world.run(async {
        for slot in &slots {
            write_slot(&world, *slot).await.unwrap();
            write_slot(&world, *slot).await.unwrap();
        }
        release(&world, &[], AllocationId(1)).await.unwrap();
        let mut file = world.create_new(&RelPath::new("localState/aid_zz/slot").unwrap()).await.unwrap();
        file.append("x".into()).await.unwrap();
        let found = scan(&world).await.unwrap();
        assert_eq!(found.allocations, [slots[0], slots[2]]);
        assert_eq!(found.rejected.len(), 1);
    });
    world.edit_file("aid_00000000000000000000000000000002/slot", |b| b[22] ^= 1);
    let found = world.run(scan(&world)).unwrap();
    assert_eq!((found.allocations.len(), found.rejected.len()), (1, 2));
}

/// A slot that nothing runs in any more is not offered after a restart, but what lies in it can still be restored from; one that is
/// given back leaves nothing, whichever directories its copies lie in.
#[test]
fn a_forgotten_slot_keeps_its_copies_and_a_released_one_leaves_nothing() {
    let world = World::default();
    let roots = LocalLayout::roots(3);
    let stored = |slot: u32| StoredAllocation {
        allocation: AllocationId(slot.into()),
        slot,
        shared: SharedSlot { group: 0, index: slot, parallelism: 3 },
        since: AttemptId::default(),
    };
    let copies = |allocation: u32| {
        let directory = LocalLayout::allocation_name(AllocationId(allocation.into()));
        let there = roots.iter().filter(|root| {
            let names = world.run(LocalDisk::list(&world, &root.join(&directory))).unwrap();
            names.contains(&"copy".to_string())
        });
        there.count()
    };
    world.run(async {
        for slot in [1, 2] {
            write_slot(&world, stored(slot)).await.unwrap();
            for root in &roots {
                let directory = root.join(&LocalLayout::allocation_name(AllocationId(slot.into())));
                world.create_new(&directory.join("copy")).await.unwrap();
            }
        }
        forget_slot(&world, AllocationId(1)).await.unwrap();
        forget_slot(&world, AllocationId(1)).await.expect("it is forgotten already");
        assert_eq!(scan(&world).await.unwrap().allocations, [stored(2)]);
    });
    assert_eq!((copies(1), copies(2)), (roots.len(), roots.len()));
    world.run(release(&world, &roots, AllocationId(2))).unwrap();
    assert_eq!((copies(1), copies(2)), (roots.len(), 0));
}

proptest! {
    /// Whatever is in the place of a manifest, it is data.
    #[test]
    fn damaged_manifests_are_data(hostile in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(LocalManifest::decode(&hostile).is_err());
        let _ = LocalManifest::decode(&crate::checkpoint::frame::encode(*b"WELM", 2, &hostile));
    }

    /// Names from outside are never used as paths.
    #[test]
    fn hostile_part_names_are_rejected(name in ".{0,12}|\\.\\.|a/b|_manifest") {
        let world = World::default();
        let mut parts = snapshot(&world, 3, &store(&world)).unwrap();
        world.edit_file("_manifest", |b| {
            let mut manifest = LocalManifest::decode(b).unwrap();
            manifest.parts[0].name.clone_from(&name);
            *b = manifest.encode().unwrap().to_vec();
        });
        parts[0].name = name;
        check_content(&restore(&world, 3, &parts).unwrap().0, 3);
    }
}

/// The deliberate faults of this module do what they say, so that the invariants have something to find.
#[cfg(feature = "sabotage")]
#[test]
fn sabotage_breaks_what_it_says() {
    use crate::sabotage::{Sabotage, SabotageSet};
    let with = |what| TaskSettings { sabotage: SabotageSet([what].into()), ..settings() };
    let world = World::default();
    let local = store(&world);
    let (platform, writer) = (world.platform("tm-1"), Some(local.begin(CheckpointId(3))));
    let lying = with(Sabotage::AckWithoutUpload);
    let parts = world.run(write_snapshot(&platform, &context(3), &lying, sources(3), None, writer)).unwrap();
    assert_eq!((parts.len(), world.objects().len()), (PARTS, PARTS - 1));
    world.edit_file("part-0", |b| b[0] ^= 1);
    let trusting = SubtaskSpec { settings: with(Sabotage::TrustLocalPart), ..spec(3, &parts) };
    let state = world.run(restore_parts(&platform, &trusting, "count[0]", Some(&local), BTreeMap::new())).unwrap();
    assert_ne!(state.parts[0].bytes, content(3, 0));
}

/// Settings of a backend of this kind, with this threshold and limit.
fn with_backend(kind: BackendKind, small_state_threshold: u64, max_memory_state_size: u64) -> TaskSettings {
    let backend = BackendSettings { kind, small_state_threshold, max_memory_state_size, ..BackendSettings::default() };
    TaskSettings { backend, ..settings() }
}

/// Parts up to the threshold travel with the acknowledgement and are restored from the order; what is larger is a file. The
/// default is Flink's (`state.backend.fs.memory-threshold`).
#[test]
fn small_parts_travel_with_the_acknowledgement() {
    assert_eq!(BackendSettings::default().small_state_threshold, 1024);
    let length = content(1, 0).len() as u64;
    for (threshold, inline) in [(0, false), (length - 1, false), (length, true), (length + 1, true)] {
        let world = World::default();
        let (local, settings) = (store(&world), with_backend(BackendKind::Filesystem, threshold, 1));
        let (platform, writer) = (world.platform("tm-1"), Some(local.begin(CheckpointId(1))));
        let parts = world.run(write_snapshot(&platform, &context(1), &settings, sources(1), None, writer)).unwrap();
        assert_eq!(world.objects().len(), if inline { 0 } else { PARTS }, "threshold {threshold}");
        assert!(parts.iter().all(|part| part.object().is_none() == inline && part.length == length));
        let (state, from_local) = restore(&world, 1, &parts).unwrap();
        check_content(&state, 1);
        assert_eq!(from_local, if inline { 0 } else { PARTS });
    }
}

/// R21. The metadata of a savepoint grows with its parts, not with what is in them: with a thousand times the state it is as long as
/// before, but for the digits of lengths.
#[test]
fn metadata_of_a_savepoint_does_not_grow_with_its_state() {
    let of_size = |bytes: usize| {
        let world = World::default();
        let directory = SavepointDirectory::below(&ObjectName::new("savepoints").unwrap(), JOB, 1);
        let context = SnapshotContext { savepoint: Some(directory.clone()), ..context(1) };
        let sources = sources(1).into_iter().map(|source| {
            let data = PartData::encode(move || Bytes::from(vec![7; bytes]));
            PartSource { data, ..source }
        });
        // As by default, what is small is in the metadata.
        let settings = TaskSettings::default();
        let (platform, sources) = (world.platform("tm-1"), sources.collect());
        let parts = world.run(write_snapshot(&platform, &context, &settings, sources, None, None)).unwrap();
        let snapshot = SubtaskSnapshot { parts, inline: BTreeMap::new() };
        let metadata = CheckpointMetadata {
            job: JOB,
            job_name: "grown".into(),
            checkpoint: CheckpointId(1),
            attempt: attempt(),
            written_at: Default::default(),
            vertices: [OperatorUid("source".into()), OperatorUid("count".into())]
                .map(|operator| VertexShape { operators: vec![operator], parallelism: 1, max_parallelism: 128 })
                .to_vec(),
            subtasks: BTreeMap::from([((SUBTASK.vertex.0, SUBTASK.index), snapshot)]),
        };
        let p = Primary::new(&platform, Duration::from_secs(10), Duration::from_secs(60));
        let name = world.run(write_savepoint(&p, &directory, metadata)).unwrap();
        let mut objects = world.objects();
        let metadata = objects.remove(&name).unwrap().len();
        assert_eq!(objects.len(), PARTS, "{bytes} bytes each");
        (metadata, objects.values().map(Bytes::len).sum::<usize>())
    };
    let ((small, little), (large, much)) = (of_size(1_200), of_size(1_200_000));
    assert_eq!(much, 1_000 * little);
    assert!(large * 100 < small * 105, "{small} bytes of metadata became {large}");
    assert!(large * 1_000 < much, "{large} bytes of metadata, {much} of state");
    // Below the threshold it is the state itself that lies there.
    let world = World::default();
    let (platform, settings) = (world.platform("tm-1"), TaskSettings::default());
    let parts = world.run(write_snapshot(&platform, &context(1), &settings, sources(1), None, None)).unwrap();
    assert!(world.objects().is_empty() && parts.iter().all(|part| part.object().is_none()));
}

/// R115: with RocksDB as many transfers as configured are under way at once, never more, up and down.
#[test]
fn as_many_files_are_transferred_at_once_as_configured() {
    let latency = Duration::from_secs(1);
    for (threads, rounds) in [(1, 3), (2, 2), (3, 1), (64, 1)] {
        let world = World::default();
        world.set_latency(latency, Duration::ZERO);
        let mut settings = settings();
        settings.local_recovery = false;
        settings.backend.kind = BackendKind::RocksDb;
        settings.backend.rocksdb.transfer_threads = threads;
        let platform = world.platform("tm-1");
        let before = world.now();
        let written = world.run(write_snapshot(&platform, &context(1), &settings, sources(1), None, None));
        let parts = written.expect("nothing is wrong");
        assert_eq!(world.now().since(before), latency * rounds, "{threads} up");
        let spec = SubtaskSpec { settings, ..spec(1, &parts) };
        let before = world.now();
        let state = world.run(restore_parts(&platform, &spec, "count[0]", None, BTreeMap::new()));
        check_content(&state.expect("nothing is wrong"), 1);
        assert_eq!(world.now().since(before), latency * rounds, "{threads} down");
    }
}

/// R80. The memory backend writes no file, and no local copy.
#[test]
fn the_memory_backend_writes_no_file() {
    let world = World::default();
    let (local, settings) = (store(&world), with_backend(BackendKind::Memory, 0, 5 << 20));
    let (platform, writer) = (world.platform("tm-1"), Some(local.begin(CheckpointId(1))));
    let parts = world.run(write_snapshot(&platform, &context(1), &settings, sources(1), None, writer)).unwrap();
    assert!(world.objects().is_empty() && count(&world, EventKind::LocalCopyStored) == 0);
    check_content(&restore(&world, 1, &parts).unwrap().0, 1);
}

/// R84. One state may have 5 MiB, or what is set; a larger one is refused with operator, size and limit named.
#[test]
fn the_memory_backend_refuses_large_state() {
    assert_eq!(BackendSettings::default().max_memory_state_size, 5_242_880);
    let size: u64 = (0..PARTS).map(|part| content(1, part).len() as u64).sum();
    let write = |limit| {
        let world = World::default();
        let (platform, settings) = (world.platform("tm-1"), with_backend(BackendKind::Memory, 0, limit));
        world.run(write_snapshot(&platform, &context(1), &settings, sources(1), None, None))
    };
    assert!(write(size).is_ok() && write(size + 1).is_ok());
    let error = write(size - 1).unwrap_err();
    for named in ["keyed state of operator count", &size.to_string(), &(size - 1).to_string(), "filesystem"] {
        assert!(error.contains(named), "{error}");
    }
}

/// Inline bytes that are not what was written are no state.
#[test]
fn damaged_inline_state_is_lost() {
    let world = World::default();
    let (platform, settings) = (world.platform("tm-1"), with_backend(BackendKind::Memory, 0, 5 << 20));
    let parts = world.run(write_snapshot(&platform, &context(1), &settings, sources(1), None, None)).unwrap();
    let PartLocation::Inline(good) = parts[1].location.clone() else { panic!("not inline") };
    for at in 0..good.len() {
        let (mut bad, mut damaged) = (good.to_vec(), parts.clone());
        bad[at] ^= 1;
        damaged[1].location = PartLocation::Inline(bad.into());
        let failure = restore(&world, 1, &damaged).unwrap_err();
        assert!(matches!(&failure, TaskFailure::StateLost { part, .. } if part == "part-1"), "{failure:?}");
    }
}

/// A part that has not changed is not written again; the local copy of the new checkpoint has it all the same, from the one of
/// the base; where that is gone it is restored from primary.
#[test]
fn an_unchanged_part_is_taken_over() {
    for base_is_there in [true, false] {
        let world = World::default();
        let local = store(&world);
        let mut parts = snapshot(&world, 1, &local).unwrap();
        if !base_is_there {
            world.run(local.abort(CheckpointId(1)));
        }
        let mut sources = sources(2);
        for (source, part) in sources.iter_mut().zip(&parts).skip(1) {
            source.data = PartData::Reuse(part.clone());
        }
        let (platform, writer) = (world.platform("tm-1"), Some(local.begin(CheckpointId(2))));
        let base = Some(CheckpointId(1));
        let new = world.run(write_snapshot(&platform, &context(2), &settings(), sources, base, writer)).unwrap();
        assert_eq!(world.objects().len(), PARTS + 1);
        assert_eq!(new[1..], parts[1..]);
        assert_eq!(new[0].written_by, CheckpointId(2));
        let (state, from_local) = restore(&world, 2, &new).unwrap();
        assert_eq!(from_local, if base_is_there { PARTS } else { 1 });
        assert_eq!(state.parts[0].bytes, content(2, 0));
        assert_eq!(state.parts[1].bytes, content(1, 1));
        // Lost in primary, it is lost for both.
        world.run(local.prune(None));
        world.lose_object(new[1].object().unwrap());
        parts.truncate(0);
        assert!(matches!(restore(&world, 2, &new), Err(TaskFailure::StateLost { .. })));
    }
}
