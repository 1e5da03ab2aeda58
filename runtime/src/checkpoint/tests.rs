//! The shells around primary storage: patience, the head log under races and unknown outcomes, manifests, the sweep.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    commit::{self, CommitOutcome, Manifest},
    fake::{Kind, World},
    head::{HeadEntry, HeadError, HeadLog, HeadRecord, HeadState, probe},
    metadata::{self, CheckpointMetadata, MetadataError, VertexShape},
    primary::{Primary, ReadError},
    sweep::sweep,
    types::{LedgerEpoch, PrecommittedObject, SubtaskSnapshot},
};
use crate::{
    ids::{AttemptId, CheckpointId, Execution, JobId, LeaderEpoch, OperatorUid, SubtaskId, VertexId},
    layout::Layout,
    platform::{ObjectName, StoreError},
};

const LAYOUT: Layout = Layout { job: JobId(7) };

fn primary(world: &World, process: &str) -> Primary {
    Primary::new(&world.platform(process), Duration::from_secs(10), Duration::from_secs(60))
}

fn object(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

fn attempt(leader: u64, execution: u32) -> AttemptId {
    AttemptId { leader: LeaderEpoch(leader), execution: Execution(execution) }
}

#[test]
fn a_create_whose_answer_was_lost_is_recognised_as_done() {
    let world = World::default();
    let name = object("a/b");
    world.store_fault("create", "a/b", Kind::After, 1);
    world.store_fault("read", "a/b", Kind::Short, 1);
    let done = world.run(primary(&world, "p").create(&name, vec!["he".into(), "llo".into()]));
    assert_eq!(done, Ok(()));
    assert_eq!(world.objects()[&name], "hello");
}

#[test]
fn a_create_never_reports_success_over_other_bytes() {
    let world = World::default();
    let name = object("a/b");
    world.put_object(&name, "hallo");
    assert_eq!(world.run(primary(&world, "p").create(&name, vec!["hello".into()])), Err(StoreError::Exists));
}

#[test]
fn a_create_that_stays_unknown_says_so_and_one_that_never_went_out_says_that() {
    let world = World::default();
    let p = primary(&world, "p");
    world.store_fault("create", "x", Kind::Silent, 1);
    world.store_fault("create", "x", Kind::Before, 1000);
    assert_eq!(world.run(p.create(&object("x"), vec!["1".into()])), Err(StoreError::Ambiguous));
    assert!(world.now().since(Default::default()) <= Duration::from_secs(60));
    world.store_fault("create", "y", Kind::Before, 1000);
    assert!(matches!(world.run(p.create(&object("y"), vec!["1".into()])), Err(StoreError::Unavailable(_))));
}

#[test]
fn reads_go_on_after_short_answers_and_notice_a_wrong_length() {
    let world = World::default();
    let name = object("long");
    let bytes: Bytes = (0..=255u8).collect::<Vec<_>>().into();
    world.put_object(&name, bytes.clone());
    world.store_fault("read", "long", Kind::Short, 5);
    world.store_fault("read", "long", Kind::Before, 2);
    let p = primary(&world, "p");
    assert_eq!(world.run(p.read_exact(&name, 256)), Ok(bytes));
    assert_eq!(world.run(p.read_exact(&name, 300)), Err(ReadError::Length { expected: 300, found: 256 }));
    assert_eq!(world.run(p.read_exact(&object("none"), 1)), Err(ReadError::Store(StoreError::Absent)));
}

fn block(to: u64) -> HeadEntry {
    HeadEntry::IdBlock { from: CheckpointId(to), to: CheckpointId(to) }
}

#[test]
fn the_later_leader_fences_the_earlier_one() {
    let world = World::default();
    world.run(async {
        let first = HeadLog::open(primary(&world, "a"), LAYOUT).await.unwrap();
        assert_eq!(first.append(block(1)).await, Err(HeadError::NotLeader));
        assert_eq!(first.claim().await, Ok(LeaderEpoch(1)));
        assert_eq!(first.append(block(1)).await, Ok(1));
        let second = HeadLog::open(primary(&world, "b"), LAYOUT).await.unwrap();
        // Between reading and claiming the old leader decides once more; the claim comes behind it.
        assert_eq!(first.append(block(2)).await, Ok(2));
        assert_eq!(second.claim().await, Ok(LeaderEpoch(2)));
        assert_eq!(second.state().granted, CheckpointId(2));
        let fenced = Err(HeadError::Fenced { leader: LeaderEpoch(2), sequence: 3 });
        assert_eq!(first.append(block(9)).await, fenced);
        assert_eq!(first.append(block(9)).await, fenced);
        assert_eq!(second.append(block(3)).await, Ok(4));
        let reader = HeadLog::open(primary(&world, "c"), LAYOUT).await.unwrap();
        assert_eq!(reader.state(), second.state());
    });
}

#[test]
fn an_append_with_an_unknown_outcome_goes_on_until_it_is_known() {
    for kind in [Kind::Silent, Kind::After] {
        let world = World::default();
        world.run(async {
            let log = HeadLog::open(primary(&world, "a"), LAYOUT).await.unwrap();
            log.claim().await.unwrap();
            // Far longer than the total time of one operation: first unknown, then an outage.
            world.store_fault("create", "ha/", kind, 1);
            world.store_fault("create", "ha/", Kind::Before, 200);
            assert_eq!(log.append(block(1)).await, Ok(1));
            let reader = HeadLog::open(primary(&world, "b"), LAYOUT).await.unwrap();
            assert_eq!(reader.state(), log.state());
        });
        // An outage alone is a definite no, and leaves the log usable.
        world.heal();
        world.run(async {
            let log = HeadLog::open(primary(&world, "c"), LAYOUT).await.unwrap();
            log.claim().await.unwrap();
            world.store_fault("create", "ha/", Kind::Before, 200);
            assert!(matches!(log.append(block(2)).await, Err(HeadError::Unavailable(_))));
            world.heal();
            assert_eq!(log.append(block(3)).await, Ok(3));
        });
    }
}

#[test]
fn an_abandoned_append_makes_the_log_refuse() {
    let world = World::default();
    world.run(async {
        let log = HeadLog::open(primary(&world, "a"), LAYOUT).await.unwrap();
        log.claim().await.unwrap();
        world.store_fault("create", "ha/", Kind::Silent, 1);
        let mut append = Box::pin(log.append(block(1)));
        assert!(futures::poll!(append.as_mut()).is_pending());
        drop(append);
        assert_eq!(log.append(block(2)).await, Err(HeadError::Abandoned));
    });
}

#[test]
fn a_hole_or_a_damaged_entry_stops_everybody() {
    let world = World::default();
    world.run(async {
        let log = HeadLog::open(primary(&world, "a"), LAYOUT).await.unwrap();
        log.claim().await.unwrap();
        log.append(block(1)).await.unwrap();
        log.append(block(2)).await.unwrap();
    });
    // Damaged on the way, once: good at the second reading.
    world.store_fault("read", "0001", Kind::Flipped, 1);
    assert!(world.run(HeadLog::open(primary(&world, "b"), LAYOUT)).is_ok());
    let name = LAYOUT.head_entry(1);
    let good = world.objects()[&name].clone();
    world.lose_object(&name);
    assert!(matches!(world.run(HeadLog::open(primary(&world, "b"), LAYOUT)), Err(HeadError::Corrupt { .. })));
    world.put_object(&name, good.slice(..good.len() - 1));
    assert!(matches!(world.run(HeadLog::open(primary(&world, "b"), LAYOUT)), Err(HeadError::Corrupt { .. })));
    world.put_object(&name, world.objects()[&LAYOUT.head_entry(2)].clone());
    assert!(matches!(world.run(HeadLog::open(primary(&world, "b"), LAYOUT)), Err(HeadError::Corrupt { .. })));
}

#[test]
fn the_probe_accepts_a_store_that_lets_one_writer_win_and_cleans_up() {
    let world = World::default();
    assert_eq!(world.run(probe(&primary(&world, "a"), LAYOUT)), Ok(()));
    assert!(world.objects().is_empty());
    world.store_fault("create", "probe", Kind::After, 1);
    assert_eq!(world.run(probe(&primary(&world, "a"), LAYOUT)), Ok(()));
}

#[test]
fn the_probe_refuses_a_store_that_lets_both_writers_win() {
    let world = World::default();
    world.store_fault("create", "probe", Kind::Overwrites, 2);
    assert!(matches!(world.run(probe(&primary(&world, "a"), LAYOUT)), Err(HeadError::UnsafeStore(_))));
}

/// A bit that flipped on the way back says nothing about the store's creates: the JobManager tries again instead of giving the
/// job up for good.
#[test]
fn a_probe_read_back_damaged_is_no_proof_against_the_store() {
    let world = World::default();
    world.store_fault("read", "probe", Kind::Flipped, 1);
    let first = world.run(probe(&primary(&world, "a"), LAYOUT));
    assert!(matches!(first, Err(HeadError::Unavailable(_))), "{first:?}");
    assert_eq!(world.run(probe(&primary(&world, "a"), LAYOUT)), Ok(()));
}

/// A create whose answer was lost finds its own object; that the reading back was damaged once is no proof of another's.
#[test]
fn a_damaged_reading_back_is_not_taken_for_somebody_elses_object() {
    let world = World::default();
    let p = primary(&world, "a");
    world.store_fault("create", "x", Kind::After, 1);
    world.store_fault("read", "x", Kind::Flipped, 1);
    assert_eq!(world.run(p.create(&object("x"), vec![Bytes::from_static(b"0123")])), Ok(()));
    assert_eq!(world.run(p.create(&object("x"), vec![Bytes::from_static(b"4567")])), Err(StoreError::Exists));
}

fn precommitted(name: ObjectName, snapshot: u64) -> PrecommittedObject {
    PrecommittedObject { object: name, length: 3, records: 1, snapshot: CheckpointId(snapshot) }
}

#[test]
fn commit_and_void_race_for_one_name() {
    let world = World::default();
    let sink = OperatorUid("out".into());
    let p = primary(&world, "a");
    let objects = [precommitted(object("output/out/data/1"), 1)];
    world.run(async {
        world.store_fault("create", "_committed", Kind::After, 1);
        assert_eq!(commit::commit(&p, LAYOUT, &sink, CheckpointId(1), &objects).await, Ok(CommitOutcome::Done));
        assert_eq!(commit::commit(&p, LAYOUT, &sink, CheckpointId(1), &objects).await, Ok(CommitOutcome::Done));
        let committed = Manifest::commit(CheckpointId(1), &objects);
        let late_void = commit::void(&p, LAYOUT, &sink, CheckpointId(1)).await;
        assert_eq!(late_void, Ok(CommitOutcome::Other(committed.clone())));
        assert_eq!(commit::void(&p, LAYOUT, &sink, CheckpointId(2)).await, Ok(CommitOutcome::Done));
        let zombie = commit::commit(&p, LAYOUT, &sink, CheckpointId(2), &objects).await;
        assert_eq!(zombie, Ok(CommitOutcome::Other(Manifest::void(CheckpointId(2)))));
        assert_eq!(commit::read_committed(&p, LAYOUT, &sink).await, Ok(vec![committed]));
        assert_eq!(commit::read_manifests(&p, LAYOUT, &sink).await.unwrap().len(), 2);
    });
    // Readable without this program.
    let text = String::from_utf8(world.objects()[&LAYOUT.sink_commit("out", CheckpointId(1))].to_vec()).unwrap();
    let expected =
        r#"{"kind":"commit","checkpoint":1,"objects":[{"name":"output/out/data/1","length":3,"records":1}],"crc32c":"#;
    assert!(text.starts_with(expected), "{text}");
}

/// A flipped bit that leaves valid JSON, a digit that became another digit, must not pass for a manifest.
#[test]
fn a_manifest_with_a_changed_name_is_no_manifest() {
    let bytes = Manifest::commit(CheckpointId(1), &[precommitted(object("output/out/data/1"), 1)]).encode().unwrap();
    assert!(Manifest::decode(&bytes).is_ok());
    let text = String::from_utf8(bytes).unwrap();
    for (from, to) in
        [("data/1", "data/3"), ("\"records\":1", "\"records\":0"), ("\"checkpoint\":1", "\"checkpoint\":5")]
    {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        assert!(Manifest::decode(changed.as_bytes()).unwrap_err().contains("checksum"), "{changed}");
    }
}

/// The sweep reads the manifests to know what is output; one bad reading must not cost a committed object.
#[test]
fn a_manifest_read_badly_once_costs_nothing() {
    let world = World::default();
    let sink = OperatorUid("out".into());
    let p = primary(&world, "a");
    let data = object("output/out/data/0000000001-0-1.1-00000000000000aa");
    world.put_object(&data, "abc");
    world.run(async {
        commit::commit(&p, LAYOUT, &sink, CheckpointId(1), &[precommitted(data.clone(), 1)]).await.unwrap();
        world.store_fault("read", "_committed", Kind::Flipped, 1);
        let head = HeadState { leader: LeaderEpoch(1), ..HeadState::default() };
        let report = sweep(&p, LAYOUT, &head, std::slice::from_ref(&sink)).await.unwrap();
        assert_eq!((report.deleted, report.skipped_sinks), (vec![], vec![]));
    });
    assert!(world.objects().contains_key(&data));
}

fn some_metadata() -> CheckpointMetadata {
    let mut snapshot = SubtaskSnapshot::default();
    snapshot.inline.insert(OperatorUid("source".into()), vec![1, 2, 3]);
    CheckpointMetadata {
        job: LAYOUT.job,
        job_name: "job".into(),
        checkpoint: CheckpointId(4),
        attempt: attempt(1, 1),
        written_at: Default::default(),
        vertices: vec![VertexShape {
            operators: vec![OperatorUid("source".into())],
            parallelism: 1,
            max_parallelism: 128,
        }],
        subtasks: BTreeMap::from([((0, 0), snapshot)]),
    }
}

#[test]
fn metadata_comes_back_or_says_whether_it_is_lost_or_only_out_of_reach() {
    let world = World::default();
    let p = primary(&world, "a");
    world.run(async {
        let name = metadata::write(&p, LAYOUT, some_metadata()).await.unwrap();
        let found = metadata::read(&p, LAYOUT, CheckpointId(4), &name).await.unwrap();
        assert_eq!(found.subtasks, some_metadata().subtasks);
        assert_eq!(found.vertices, some_metadata().vertices);
        assert!(matches!(metadata::read(&p, LAYOUT, CheckpointId(5), &name).await, Err(MetadataError::Lost { .. })));
        world.store_fault("read", "_metadata", Kind::Before, 1000);
        assert!(matches!(
            metadata::read(&p, LAYOUT, CheckpointId(4), &name).await,
            Err(MetadataError::Unavailable { .. })
        ));
        world.heal();
        world.lose_object(&name);
        assert!(matches!(metadata::read(&p, LAYOUT, CheckpointId(4), &name).await, Err(MetadataError::Lost { .. })));
    });
}

proptest! {
    /// Whatever happens to the bytes of metadata or a head entry, decoding says so and never panics.
    #[test]
    fn damaged_metadata_and_entries_are_data(at in any::<usize>(), flip in 1u8.., hostile in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut bytes = some_metadata().encode().unwrap().to_vec();
        let position = at % bytes.len();
        bytes[position] ^= flip;
        prop_assert!(CheckpointMetadata::decode(&bytes).is_err());
        prop_assert!(CheckpointMetadata::decode(&hostile).is_err());
        let _ = HeadRecord::decode(&super::frame::encode(*b"WEHD", 1, &hostile));
        let _ = Manifest::decode(&hostile);
    }
}

fn completed(id: u64, previous: Option<u64>, retained: &[u64], dropped: &[u64]) -> HeadEntry {
    let ids = |ids: &[u64]| ids.iter().map(|id| CheckpointId(*id)).collect::<Vec<_>>();
    HeadEntry::Completed {
        attempt: attempt(1, 1),
        checkpoint: CheckpointId(id),
        metadata: LAYOUT.metadata(CheckpointId(id)),
        objects: vec![LAYOUT.state_part(
            CheckpointId(id),
            attempt(1, 1),
            SubtaskId { vertex: VertexId(0), index: 0 },
            "p",
            id,
        )],
        ledger: LedgerEpoch {
            checkpoint: CheckpointId(id),
            previous: previous.map(CheckpointId),
            ..Default::default()
        },
        sinks: BTreeMap::from([(
            OperatorUid("out".into()),
            vec![precommitted(LAYOUT.sink_data("out", CheckpointId(id), attempt(1, 1), 0, id), id)],
        )]),
        exhausted: false,
        retained: ids(retained),
        dropped: ids(dropped),
    }
}

#[test]
fn the_fold_keeps_what_can_be_restored_and_replayed() {
    let mut head = HeadState::default();
    head.apply(0, &HeadEntry::Claimed { leader: LeaderEpoch(1), process: "a".into(), nonce: 1 });
    let HeadEntry::IdBlock { from, to } = head.next_id_block() else { panic!("not a block") };
    assert_eq!((from, to), (CheckpointId(1), CheckpointId(8)));
    head.apply(1, &head.next_id_block());
    head.apply(2, &completed(2, None, &[2], &[]));
    head.apply(3, &completed(5, Some(2), &[2, 5], &[]));
    head.apply(4, &completed(6, Some(5), &[5, 6], &[2]));
    assert_eq!(head.newest, Some(CheckpointId(6)));
    assert_eq!(head.retained.keys().copied().collect::<Vec<_>>(), [CheckpointId(5), CheckpointId(6)]);
    assert_eq!(head.ledger.keys().copied().collect::<Vec<_>>(), [CheckpointId(5), CheckpointId(6)]);
    // 7 was handed out, 8 not: it stays usable.
    assert_eq!(head.voidable(CheckpointId(8), Some(CheckpointId(5))), [CheckpointId(7)]);
    // From nothing: ids begin at 1.
    assert_eq!(HeadState::default().voidable(CheckpointId(3), None), [CheckpointId(1), CheckpointId(2)]);
    let HeadEntry::IdBlock { from, .. } = head.next_id_block() else { panic!("not a block") };
    assert_eq!(from, CheckpointId(9));
    assert_eq!(head.next_sequence, 5);
}

#[test]
fn a_job_is_complete_when_its_newest_checkpoint_has_all_input() {
    let mut head = HeadState::default();
    assert!(!head.is_complete(), "nothing was read");
    head.apply(0, &completed(1, None, &[1], &[]));
    assert!(!head.is_complete());
    let mut last = completed(2, Some(1), &[1, 2], &[]);
    if let HeadEntry::Completed { exhausted, .. } = &mut last {
        *exhausted = true;
    }
    head.apply(1, &last);
    assert!(head.is_complete());
}

/// What was found lost stays condemned as long as it could be tried again: while it, or an older checkpoint, is retained.
#[test]
fn the_condemned_are_remembered_as_long_as_they_could_be_restored() {
    let mut head = HeadState::default();
    head.apply(0, &completed(1, None, &[1], &[]));
    head.apply(1, &completed(2, Some(1), &[1, 2], &[]));
    head.apply(2, &completed(3, Some(2), &[1, 2, 3], &[]));
    let condemned = BTreeMap::from([(CheckpointId(2), "a part is gone".to_string())]);
    let restored = HeadEntry::Restored { attempt: attempt(1, 2), checkpoint: Some(CheckpointId(1)), condemned };
    head.apply(3, &restored);
    assert_eq!(head.restored, Some((attempt(1, 2), Some(CheckpointId(1)))));
    head.apply(4, &completed(4, Some(1), &[2, 3, 4], &[1]));
    assert_eq!(head.condemned.keys().copied().collect::<Vec<_>>(), [CheckpointId(2)]);
    head.apply(5, &completed(5, Some(4), &[3, 4, 5], &[2]));
    assert!(head.condemned.is_empty(), "nobody can choose it any more");
}

#[test]
fn the_sweep_takes_orphans_and_leaves_what_is_referenced_or_of_a_later_leader() {
    let world = World::default();
    let p = primary(&world, "a");
    let sink = OperatorUid("out".into());
    let mut head = HeadState::default();
    head.apply(0, &HeadEntry::Claimed { leader: LeaderEpoch(2), process: "a".into(), nonce: 1 });
    head.apply(1, &head.next_id_block());
    head.apply(2, &completed(3, None, &[3], &[]));
    let subtask = SubtaskId { vertex: VertexId(1), index: 0 };
    let keep: Vec<_> = head.retained[&CheckpointId(3)].all_objects().cloned().collect();
    let newest_output = head.newest_sinks[&sink][0].object.clone();
    let old_output = LAYOUT.sink_data("out", CheckpointId(1), attempt(1, 1), 0, 77);
    let later = LAYOUT.state_part(CheckpointId(9), attempt(3, 1), subtask, "p", 1);
    // Ids up to 8 are granted.
    let later_metadata = LAYOUT.metadata(CheckpointId(9));
    let stranger = object("checkpoints/00000000000000000000000000000007/notes");
    let orphans = [
        LAYOUT.state_part(CheckpointId(4), attempt(2, 1), subtask, "some-part", 5),
        LAYOUT.metadata(CheckpointId(2)),
        LAYOUT.sink_data("out", CheckpointId(4), attempt(2, 1), 0, 78),
    ];
    for name in keep.iter().chain([&newest_output, &old_output, &later, &later_metadata, &stranger]).chain(&orphans) {
        world.put_object(name, "abc");
    }
    world.run(async {
        commit::commit(&p, LAYOUT, &sink, CheckpointId(1), &[precommitted(old_output.clone(), 1)]).await.unwrap();
        let report = sweep(&p, LAYOUT, &head, std::slice::from_ref(&sink)).await.unwrap();
        let mut expected = orphans.to_vec();
        expected.sort();
        assert_eq!(
            {
                let mut d = report.deleted;
                d.sort();
                d
            },
            expected
        );
        assert_eq!(report.left, [later_metadata.clone(), later.clone(), stranger.clone()]);
    });
    for name in keep.iter().chain([&newest_output, &old_output, &later, &later_metadata]) {
        assert!(world.objects().contains_key(name), "{name}");
    }
}
