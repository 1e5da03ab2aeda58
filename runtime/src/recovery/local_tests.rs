//! All local copies of a TaskManager together: whose they are, what of them a restore uses, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    allocations::{StoredAllocation, write_slot},
    local_copy::NotLocal,
    local_manifest::LocalManifest,
    local_shelf::{CopyFormat, LocalShelf},
    local_store::LocalStateStore,
    restore_report::{PartOrigin, RestoreReport},
    snapshot_reading::restore_parts,
    snapshot_writing::{SnapshotContext, write_snapshot},
};
use crate::{
    checkpoint::{
        fake::{Kind, World},
        types::{PartKind, ReplayPlan, RestoreOrder, RestorePart, StatePart},
    },
    dataflow::{
        chain::{PartData, PartSource, RestoredState},
        task::{SubtaskSpec, TaskSettings},
    },
    graph::ProgramId,
    ids::*,
    journal::{Event, EventKind},
    platform::Platform,
    sabotage::SabotageSet,
    state::BackendSettings,
};

const JOB: JobId = JobId(7);
const PROGRAM: ProgramId = ProgramId(11);
const PARTS: u16 = 3;
/// Of each part.
const BYTES: usize = 50;

fn attempt() -> AttemptId {
    AttemptId { leader: LeaderEpoch(1), execution: Execution(1) }
}

fn subtask(index: u32) -> SubtaskId {
    SubtaskId { vertex: VertexId(1), index }
}

fn allocation(number: u32) -> AllocationId {
    AllocationId(100 + u128::from(number))
}

fn settings() -> TaskSettings {
    let backend = BackendSettings { small_state_threshold: 0, ..BackendSettings::default() };
    TaskSettings { local_recovery: true, backend, ..TaskSettings::default() }
}

/// Part `part` of subtask `index`; subtask i has the key groups from 30 i on, ten each part.
fn content(index: u32, part: u16) -> Bytes {
    let mut text = format!("state of part {part} of subtask {index} ").into_bytes();
    text.resize(BYTES, b'.');
    text.into()
}

fn sources(index: u32) -> Vec<PartSource> {
    let source = |part: u16| {
        let first = 30 * index as u16 + 10 * part;
        PartSource {
            operator: OperatorUid("count".into()),
            key_groups: KeyGroupRange { first: KeyGroup(first), last: KeyGroup(first + 9) },
            name: format!("count-{first}-{}", first + 9),
            kind: PartKind::Keyed,
            backend: None,
            data: PartData::encode(move || content(index, part)),
        }
    };
    (0..PARTS).map(source).collect()
}

fn shelf_on(platform: &Platform, roots: u32) -> LocalShelf {
    LocalShelf::new(platform, JOB, PROGRAM, roots)
}

/// Subtask `index` in the slot of the same number.
fn store(shelf: &LocalShelf, index: u32, format: CopyFormat) -> LocalStateStore {
    shelf.store(allocation(index), subtask(index), &format!("count[{index}]"), format, SabotageSet::default())
}

fn snapshot(
    world: &World,
    platform: &Platform,
    local: &LocalStateStore,
    index: u32,
    checkpoint: u64,
) -> Vec<StatePart> {
    let checkpoint = CheckpointId(checkpoint);
    let name = format!("count[{index}]");
    let context = SnapshotContext {
        job: JOB,
        subtask: subtask(index),
        name,
        attempt: attempt(),
        checkpoint,
        savepoint: None,
        transfer: Default::default(),
    };
    let writer = Some(local.begin(checkpoint));
    world.run(write_snapshot(platform, &context, &settings(), sources(index), None, writer)).expect("it is written")
}

/// Restores `parts`, of the subtasks that wrote them, as subtask `index`; gives what came of it.
fn restore(
    world: &World,
    platform: &Platform,
    local: &LocalStateStore,
    index: u32,
    checkpoint: u64,
    parts: &[(u32, StatePart)],
) -> (RestoredState, RestoreReport) {
    let parts = parts.iter().map(|(from, part)| RestorePart { from: *from, part: part.clone() }).collect();
    let spec = SubtaskSpec {
        job: JOB,
        subtask: subtask(index),
        attempt: attempt(),
        allocation: allocation(index),
        outputs: Vec::new(),
        restore: Some(RestoreOrder { checkpoint: CheckpointId(checkpoint), parts, ..RestoreOrder::default() }),
        replay: ReplayPlan::default(),
        settings: settings(),
    };
    let name = format!("count[{index}]");
    let restored = restore_parts(platform, &spec, &name, Some(local), BTreeMap::new());
    let mut restored = world.run(restored).expect("it is restored");
    let report = std::mem::take(&mut restored.report);
    (restored, report)
}

fn own(index: u32, parts: &[StatePart]) -> Vec<(u32, StatePart)> {
    parts.iter().map(|part| (index, part.clone())).collect()
}

fn reads(world: &World) -> usize {
    world.operations().iter().filter(|operation| operation.starts_with("read")).count()
}

fn count(world: &World, kind: EventKind) -> usize {
    world.events().iter().filter(|event| event.kind() == kind).count()
}

/// R183, R204. Two subtasks have become three, on one TaskManager: each takes from the copies of the two what overlaps with its
/// key groups, and reads nothing from primary. The report says whose copies they were.
#[test]
fn after_a_change_of_parallelism_the_copies_of_others_are_used() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let shelf = shelf_on(&platform, 0);
    let written: Vec<Vec<StatePart>> =
        (0..2).map(|index| snapshot(&world, &platform, &store(&shelf, index, CopyFormat::Files), index, 4)).collect();
    // Key groups 0..60 over three subtasks, 20 each.
    let wanted: [&[(u32, usize)]; 3] = [&[(0, 0), (0, 1)], &[(0, 2), (1, 0)], &[(1, 1), (1, 2)]];
    for (index, wanted) in (0..).zip(wanted) {
        let parts: Vec<(u32, StatePart)> =
            wanted.iter().map(|(from, part)| (*from, written[*from as usize][*part].clone())).collect();
        let local = store(&shelf, index, CopyFormat::Files);
        let (restored, report) = restore(&world, &platform, &local, index, 4, &parts);
        for (part, (from, number)) in restored.parts.iter().zip(wanted) {
            assert_eq!(part.bytes, content(*from, *number as u16));
        }
        let of_others = wanted.iter().filter(|(from, _)| *from != index).count();
        let origins: Vec<_> = report.parts.iter().filter(|part| part.origin == PartOrigin::OtherCopy).collect();
        assert_eq!(origins.len(), of_others, "subtask {index}");
        assert_eq!((report.local_bytes(), report.primary_bytes()), (2 * BYTES as u64, 0));
    }
    assert_eq!(reads(&world), 0);
}

/// R194, R201. The copy of another subtask is believed no more than the own one: whatever is wrong with it, the bytes come from
/// primary.
#[test]
fn a_damaged_copy_of_another_is_not_believed() {
    type Damage = fn(&World);
    let damages: [(Damage, u64); 6] = [
        (|w| w.remove_file("count-30-39"), 1),
        (|w| w.edit_file("count-30-39", Vec::clear), 1),
        (|w| w.edit_file("count-30-39", |bytes| bytes[7] ^= 4), 1),
        (|w| w.edit_file("_manifest", |bytes| bytes[30] ^= 4), 3),
        (|w| w.remove_file("_manifest"), 3),
        (
            |w| {
                w.edit_file("_manifest", |bytes| {
                    let manifest = LocalManifest::decode(bytes).unwrap();
                    *bytes = LocalManifest { subtask: (1, 5), ..manifest }.encode().unwrap().to_vec();
                });
            },
            3,
        ),
    ];
    for (number, (damage, from_primary)) in damages.into_iter().enumerate() {
        let world = World::default();
        let platform = world.platform("tm-1");
        let shelf = shelf_on(&platform, 0);
        let written = snapshot(&world, &platform, &store(&shelf, 1, CopyFormat::Files), 1, 4);
        damage(&world);
        let local = store(&shelf, 0, CopyFormat::Files);
        let (restored, report) = restore(&world, &platform, &local, 0, 4, &own(1, &written));
        for (part, restored) in (0..).zip(&restored.parts) {
            assert_eq!(restored.bytes, content(1, part), "damage {number}");
        }
        assert_eq!(report.primary_bytes(), from_primary * BYTES as u64, "damage {number}");
        assert_eq!(reads(&world) as u64, from_primary, "damage {number}");
    }
}

/// R204. Whatever subset of the parts is there: exactly the missing ones are read from primary, and the report says why.
#[test]
fn exactly_what_is_missing_is_read_from_primary() {
    for missing in 0_u16..8 {
        let world = World::default();
        let platform = world.platform("tm-1");
        let shelf = shelf_on(&platform, 0);
        let local = store(&shelf, 0, CopyFormat::Files);
        let written = snapshot(&world, &platform, &local, 0, 4);
        for part in (0..PARTS).filter(|part| missing & (1 << part) != 0) {
            world.remove_file(&format!("count-{}-", 10 * part));
        }
        let (restored, report) = restore(&world, &platform, &local, 0, 4, &own(0, &written));
        for (part, restored) in (0..).zip(&restored.parts) {
            assert_eq!(restored.bytes, content(0, part));
        }
        let gone = u64::from(missing.count_ones());
        assert_eq!(report.primary_bytes(), gone * BYTES as u64);
        assert_eq!(report.local_bytes(), (u64::from(PARTS) - gone) * BYTES as u64);
        assert_eq!(reads(&world) as u64, gone);
        let because = |origin: &PartOrigin| matches!(origin, PartOrigin::Primary(NotLocal::Disk(_)));
        assert_eq!(report.parts.iter().filter(|part| because(&part.origin)).count() as u64, gone);
    }
}

/// R26. What another program has left is not used, and is removed at start with a reason; so is what has another version.
#[test]
fn copies_of_another_program_are_dropped() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let shelf = shelf_on(&platform, 0);
    let written = snapshot(&world, &platform, &store(&shelf, 0, CopyFormat::Files), 0, 4);
    let other = LocalShelf::new(&platform, JOB, ProgramId(12), 0);
    let local = store(&other, 0, CopyFormat::Files);
    let (_, report) = restore(&world, &platform, &local, 0, 4, &own(0, &written));
    assert!(report.parts.iter().all(|part| part.origin == PartOrigin::Primary(NotLocal::OtherProgram)));
    world.run(other.adopt_left_overs(&BTreeSet::from([allocation(0)])));
    assert!(world.files().is_empty() && other.inventory().copies.is_empty());
    let why = |event: &Event| matches!(event, Event::LocalCopyDiscarded { reason, .. } if reason.contains("program"));
    assert_eq!(world.events().iter().filter(|event| why(event)).count(), 1);
}

/// The record of a slot with its number.
fn stored(slot: u32) -> StoredAllocation {
    let shared = SharedSlot { group: 0, index: slot, parallelism: 4 };
    StoredAllocation { allocation: allocation(slot), slot, shared, since: AttemptId::default() }
}

/// R208. A process that starts on a disk with copies of its earlier life uses those that are whole and of slots it still has, and
/// removes what was never finished, is damaged, is another job's, or belongs to no slot.
#[test]
fn left_overs_are_adopted_or_removed() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let before = shelf_on(&platform, 0);
    for index in 0..4 {
        let record = stored(index);
        world.run(write_slot(&world, record)).unwrap();
        snapshot(&world, &platform, &store(&before, index, CopyFormat::Files), index, 4);
    }
    let of = |index: u32| format!("aid_{}/jid_{JOB}/vtx_1_sti_{index}/chk_4", allocation(index));
    world.remove_file(&(of(1) + "/_manifest"));
    world.edit_file(&(of(2) + "/_manifest"), |bytes| bytes.truncate(30));
    // Slot 3 was given up; and a stranger's job.
    let strange = LocalShelf::new(&platform, JobId(8), PROGRAM, 0);
    let stranger = strange.store(allocation(0), subtask(0), "x[0]", CopyFormat::Files, SabotageSet::default());
    snapshot(&world, &platform, &stranger, 0, 4);
    let now = shelf_on(&platform, 0);
    let held: BTreeSet<_> = (0..3).map(allocation).collect();
    world.run(now.adopt_left_overs(&held));
    let left: BTreeSet<String> =
        world.files().keys().filter(|path| path.name() != "slot").map(ToString::to_string).collect();
    assert!(left.iter().all(|path| path.contains(&of(0))) && left.len() == usize::from(PARTS) + 1, "{left:?}");
    assert_eq!(count(&world, EventKind::LocalCopyDiscarded), 3);
    let copies = now.inventory().copies;
    assert_eq!((copies.len(), copies[0].subtask, copies[0].checkpoint), (1, (1, 0), CheckpointId(4)));
    assert_eq!(copies[0].state.iter().map(|state| state.bytes).sum::<u64>(), u64::from(PARTS) * BYTES as u64);
}

/// R206, R207, R214. A copy in memory is no file. A task that restarts uses it; after a restart of the process it is gone. Together they
/// have no more bytes than they may, the oldest goes first, and no checkpoint suffers.
#[test]
fn copies_in_memory_survive_the_task_and_not_the_process() {
    let bytes = u64::from(PARTS) * BYTES as u64;
    let world = World::default();
    let platform = world.platform("tm-1");
    let shelf = shelf_on(&platform, 0);
    let format = CopyFormat::Memory { limit_bytes: 2 * bytes };
    let written = snapshot(&world, &platform, &store(&shelf, 0, format), 0, 4);
    assert!(world.files().is_empty());
    assert_eq!(shelf.memory_bytes(), bytes);
    // Another task of the same process.
    let (restored, report) = restore(&world, &platform, &store(&shelf, 0, format), 0, 4, &own(0, &written));
    assert_eq!((restored.parts[1].bytes.clone(), report.local_bytes(), reads(&world)), (content(0, 1), bytes, 0));
    // Another process.
    let (_, report) = restore(&world, &platform, &store(&shelf_on(&platform, 0), 0, format), 0, 4, &own(0, &written));
    assert_eq!(report.primary_bytes(), bytes);
    assert!(report.parts.iter().all(|part| part.origin == PartOrigin::Primary(NotLocal::NoCopy)));
    // The limit.
    for checkpoint in 5..=6 {
        snapshot(&world, &platform, &store(&shelf, 0, format), 0, checkpoint);
    }
    assert_eq!(shelf.memory_bytes(), 2 * bytes);
    let kept: Vec<_> = shelf.inventory().copies.iter().map(|copy| copy.checkpoint).collect();
    assert_eq!(kept, [CheckpointId(5), CheckpointId(6)]);
    assert_eq!(count(&world, EventKind::LocalCopyDiscarded), 1);
    // One that is larger than all may be together.
    let none = CopyFormat::Memory { limit_bytes: bytes - 1 };
    let small = shelf_on(&platform, 0);
    snapshot(&world, &platform, &store(&small, 0, none), 0, 7);
    assert_eq!((small.memory_bytes(), count(&world, EventKind::LocalCopyFailed)), (0, 1));
    // Confirmed, aborted and disposed of as files are.
    let local = store(&shelf, 0, format);
    world.run(local.confirm(CheckpointId(6)));
    assert_eq!(shelf.memory_bytes(), bytes);
    world.run(local.abort(CheckpointId(6)));
    assert_eq!(shelf.memory_bytes(), 0);
}

/// R218. With several directories copies lie in them by turns of the checkpoint's id. One that fails costs the copies whose turn it
/// is there, and nothing else.
#[test]
fn several_directories_are_used_by_turns() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let shelf = shelf_on(&platform, 3);
    let local = store(&shelf, 0, CopyFormat::Files);
    world.disk_fault("create", "root-1/", Kind::Before, 1_000);
    for checkpoint in 3..=8_u64 {
        let written = snapshot(&world, &platform, &local, 0, checkpoint);
        let directory = format!("root-{}/localState/", checkpoint % 3);
        let copy = format!("/chk_{checkpoint}/");
        let there: Vec<String> =
            world.files().keys().map(ToString::to_string).filter(|path| path.contains(&copy)).collect();
        let fails = checkpoint % 3 == 1;
        assert_eq!(there.len(), if fails { 0 } else { usize::from(PARTS) + 1 }, "{there:?}");
        assert!(there.iter().all(|path| path.starts_with(&directory)), "{there:?}");
        let (_, report) = restore(&world, &platform, &local, 0, checkpoint, &own(0, &written));
        assert_eq!(report.primary_bytes() > 0, fails, "checkpoint {checkpoint}");
    }
    world.run(local.confirm(CheckpointId(8)));
    assert!(world.files().keys().all(|path| path.as_str().contains("/chk_8/")));
    world.run(shelf.release(allocation(0)));
    assert!(world.files().is_empty());
}

/// R220. Files of a native checkpoint go where they can be linked, as far as there is such a directory; others by turns as ever.
#[test]
fn native_files_go_where_links_work() {
    let world = World::default();
    let shelf = shelf_on(&world.platform("tm-1"), 3);
    let root = |checkpoint: u64| shelf.native_root_for(CheckpointId(checkpoint)).to_string();
    assert_eq!(
        (0..4).map(root).collect::<Vec<_>>(),
        ["root-0", "root-1", "root-2", "root-0"].map(|r| format!("{r}/localState"))
    );
    let copying = shelf.native_root_for(CheckpointId(1));
    assert!(shelf.copied_into(&copying), "the first time is said");
    assert!(!shelf.copied_into(&copying), "the second is not");
    assert!((0..9).all(|checkpoint| root(checkpoint) != "root-1/localState"));
    for other in [0, 2] {
        shelf.copied_into(&shelf.roots()[other].clone());
    }
    assert_eq!(root(1), "root-1/localState", "where none can, they are copied by turns");
}

/// R197, R198. What is acknowledged is the same with and without a local copy. Neither's end is the other's: primary may lose the
/// checkpoint and the copy is there; the copy may go and primary has everything.
#[test]
fn primary_and_local_copies_live_apart() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let local = store(&shelf_on(&platform, 0), 0, CopyFormat::Files);
    let with = snapshot(&world, &platform, &local, 0, 4);
    let bare = World::default();
    let context = SnapshotContext {
        job: JOB,
        subtask: subtask(0),
        name: "count[0]".into(),
        attempt: attempt(),
        checkpoint: CheckpointId(4),
        savepoint: None,
        transfer: Default::default(),
    };
    let without = bare.run(write_snapshot(&bare.platform("tm-1"), &context, &settings(), sources(0), None, None));
    // But for the nonces in the names of the objects.
    let said = |parts: &[StatePart]| -> Vec<_> {
        parts.iter().map(|part| (part.name.clone(), part.key_groups, part.length, part.crc32c)).collect()
    };
    assert_eq!(said(&with), said(&without.expect("it is written")));
    for part in &with {
        world.lose_object(part.object().expect("a file"));
    }
    let (_, report) = restore(&world, &platform, &local, 0, 4, &own(0, &with));
    assert_eq!(report.primary_bytes(), 0);
    let again = snapshot(&world, &platform, &local, 0, 5);
    let objects = world.objects();
    world.run(local.dispose());
    assert!(world.files().is_empty() && world.objects() == objects);
    let (_, report) =
        restore(&world, &platform, &store(&shelf_on(&platform, 0), 0, CopyFormat::Files), 0, 5, &own(0, &again));
    assert_eq!(report.local_bytes(), 0);
}

/// R217. What links keep alive although the newest copy does not have it is counted, and goes with the confirmation.
#[test]
fn exclusive_bytes_are_counted_and_bounded() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let shelf = shelf_on(&platform, 0);
    let local = store(&shelf, 0, CopyFormat::Files);
    for checkpoint in 1..=3 {
        snapshot(&world, &platform, &local, 0, checkpoint);
    }
    let bytes = u64::from(PARTS) * BYTES as u64;
    let said: Vec<u64> = world
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::LocalCopiesExclusive { bytes, .. } => Some(*bytes),
            _ => None,
        })
        .collect();
    assert_eq!(said, [bytes, 2 * bytes]);
    world.run(local.confirm(CheckpointId(3)));
    assert_eq!(local.exclusive_bytes(), 0);
}

/// The copies of a slot that was given up are there for whoever restores next, and go when that execution has a checkpoint.
#[test]
fn copies_of_a_retired_slot_are_used_once_more() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let shelf = shelf_on(&platform, 0);
    let record = stored(1);
    world.run(write_slot(&world, record)).unwrap();
    let written = snapshot(&world, &platform, &store(&shelf, 1, CopyFormat::Files), 1, 4);
    world.run(shelf.retire(allocation(1), attempt()));
    assert!(world.files().keys().all(|path| path.name() != "slot"), "it is not offered again");
    let local = store(&shelf, 0, CopyFormat::Files);
    let (_, report) = restore(&world, &platform, &local, 0, 4, &own(1, &written));
    assert_eq!((report.primary_bytes(), reads(&world)), (0, 0));
    assert!(!shelf.has_retired(attempt()), "an execution that ran when it was given up says nothing");
    let next = AttemptId { execution: Execution(2), ..attempt() };
    assert!(shelf.has_retired(next));
    world.run(shelf.clear_retired(next));
    assert!(world.files().is_empty() && shelf.inventory().copies.is_empty());
}

/// R200. A later checkpoint subsumed the copy, whose files could not be removed in time, and then was lost itself: what is there is
/// restored from.
#[test]
fn a_subsumed_copy_that_is_still_there_serves_a_fallback() {
    let world = World::default();
    let platform = world.platform("tm-1");
    let local = store(&shelf_on(&platform, 0), 0, CopyFormat::Files);
    let parts: Vec<_> = snapshot(&world, &platform, &local, 0, 1).into_iter().map(|part| (0, part)).collect();
    snapshot(&world, &platform, &local, 0, 2);
    world.disk_fault("remove_tree", "chk_1", Kind::Before, 1);
    world.run(local.confirm(CheckpointId(2)));
    assert!(local.is_dropped(CheckpointId(1)));
    let (_, report) = restore(&world, &platform, &local, 0, 1, &parts);
    assert!(report.local_bytes() > 0 && report.primary_bytes() == 0, "{report:?}");
    assert!(world.files().keys().all(|file| !file.to_string().contains("chk_2")), "{:?}", world.files().keys());
}
