//! Savepoints as files: written last, found, checked, moved, begun with, disposed of, swept when they were never finished.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    fake::World,
    flink::MAGIC,
    head::{HeadEntry, HeadLog, HeadState},
    metadata::{self, CheckpointMetadata, VertexShape},
    primary::Primary,
    savepoint::{self, SavepointError},
    sweep::sweep,
    types::{PartKind, PartLocation, StatePart, SubtaskSnapshot},
};
use crate::{
    graph::{Edge, ExecutionGraph, Job, Partitioning, Vertex},
    ids::{
        AttemptId, CheckpointId, EdgeId, Execution, JobId, KeyGroup, KeyGroupRange, LeaderEpoch, OperatorUid,
        SubtaskId, VertexId,
    },
    layout::{Layout, SavepointDirectory},
    platform::ObjectName,
    recovery::import::{self, ImportError, Others, SavepointRestore},
};

const OLD: JobId = JobId(0xabcd_ef00_0000_0000_0000_0000_0000_0007);
const NEW: JobId = JobId(8);
const STATE: &str = "the state of four keys";

fn primary(world: &World) -> Primary {
    Primary::new(&world.platform("jobmanager"), Duration::from_secs(10), Duration::from_secs(60))
}

fn object(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

fn attempt() -> AttemptId {
    AttemptId { leader: LeaderEpoch(3), execution: Execution(1) }
}

fn directory() -> SavepointDirectory {
    SavepointDirectory::below(&object("savepoints"), OLD, 0xffff_0123_4567_89ab)
}

/// One subtask with one part; inline if there is no object.
fn content(location: PartLocation) -> CheckpointMetadata {
    let part = StatePart {
        operator: OperatorUid("count".into()),
        key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(127) },
        name: "count-0-127".into(),
        kind: PartKind::Keyed,
        location,
        length: STATE.len() as u64,
        crc32c: crc32c::crc32c(STATE.as_bytes()),
        written_by: CheckpointId(20),
        backend: None,
    };
    CheckpointMetadata {
        job: OLD,
        job_name: "old".into(),
        checkpoint: CheckpointId(20),
        attempt: attempt(),
        written_at: Default::default(),
        vertices: vec![VertexShape {
            operators: vec![OperatorUid("count".into())],
            parallelism: 1,
            max_parallelism: 128,
        }],
        subtasks: BTreeMap::from([((0, 0), SubtaskSnapshot { parts: vec![part], inline: BTreeMap::new() })]),
    }
}

fn part_name() -> ObjectName {
    directory().state_part(attempt(), SubtaskId { vertex: VertexId(0), index: 0 }, "count-0-127", 5)
}

async fn write(world: &World, p: &Primary) -> ObjectName {
    world.put_object(&part_name(), STATE);
    metadata::write_savepoint(p, &directory(), content(PartLocation::Object(part_name()))).await.unwrap()
}

/// A job with one keyed operator of this uid.
fn job(id: JobId, uid: &str) -> Job {
    let vertex = |id: u32, name: &str| Vertex {
        id: VertexId(id),
        name: name.to_string(),
        parallelism: 2,
        max_parallelism: 128,
        operators: vec![OperatorUid(name.into())],
        keyed: vec![OperatorUid(name.into())],
        splits: None,
        sinks: Vec::new(),
        slot_sharing_group: 0,
    };
    let graph = ExecutionGraph {
        vertices: vec![vertex(0, uid), vertex(1, "behind")],
        edges: vec![Edge { id: EdgeId(0), from: VertexId(0), to: VertexId(1), partitioning: Partitioning::Hash }],
    };
    Job { id, name: "job".into(), graph: graph.into(), chains: Vec::new(), state: Default::default(), rescale: None }
}

fn from(path: &str) -> SavepointRestore {
    SavepointRestore { path: path.to_string(), allow_non_restored_state: false }
}

async fn begin(p: &Primary, job: &Job, from: &SavepointRestore) -> Result<HeadLog, ImportError> {
    let head = HeadLog::open(p.clone(), Layout { job: job.id }).await.unwrap();
    let others = Others::look(p, job.id).await?;
    let checked = import::check(p, job, from, &others).await?;
    head.claim_above(others.leader, &Default::default()).await.unwrap();
    import::record(p, &head, job, checked).await.map(|()| head)
}

/// R44, R47, R48: the directory's name, below the target; the metadata's name in it.
#[test]
fn a_savepoint_has_the_name_that_flink_gives_it() {
    assert_eq!(directory().to_string(), "savepoints/savepoint-abcdef-0123456789ab");
    assert_eq!(directory().metadata().as_str(), "savepoints/savepoint-abcdef-0123456789ab/_metadata");
    for (target, refused) in
        [("savepoints", false), ("checkpoints/x", true), ("ha", true), ("output", true), ("outputs", false)]
    {
        assert_eq!(SavepointDirectory::refuses(&object(target)).is_some(), refused, "{target}");
    }
}

/// R22, R49, R74: no name in the metadata leads out of the savepoint; copied to anywhere it is whole there, also when the original is gone, and
/// not a byte of its metadata must be edited for that. R56: it is found by its directory, with or without a slash behind it, and by the file.
#[test]
fn a_savepoint_can_be_moved() {
    let world = World::default();
    let p = primary(&world);
    world.run(async {
        let name = write(&world, &p).await;
        let raw = CheckpointMetadata::decode(&world.objects()[&name]).unwrap();
        assert!(raw.objects().iter().all(|name| !name.as_str().contains('/')), "{:?}", raw.objects());
        assert_eq!(savepoint::open(&p, &name).await.unwrap().objects(), [part_name()]);
        for to in ["elsewhere", "deep/down/there", "@/mnt/backup"] {
            for (name, bytes) in world.objects().iter().filter(|(name, _)| name.as_str().starts_with("savepoints/")) {
                let (_, file) = name.as_str().rsplit_once('/').unwrap();
                world.put_object(&object(&format!("{to}/{file}")), bytes.clone());
            }
        }
        world.lose_object(&part_name());
        world.lose_object(&name);
        for to in ["elsewhere", "deep/down/there/", "@/mnt/backup/_metadata"] {
            let found = savepoint::find(&p, to).await.unwrap();
            let objects = savepoint::open(&p, &found).await.unwrap().objects();
            let (directory, _) = found.as_str().rsplit_once('/').unwrap();
            assert!(objects[0].as_str().starts_with(directory), "{objects:?}");
        }
    });
}

/// R50: with the memory backend one file is all, and can be moved alone.
#[test]
fn a_savepoint_in_one_file_is_self_contained() {
    let world = World::default();
    let p = primary(&world);
    world.run(async {
        let inline = PartLocation::Inline(Bytes::from_static(STATE.as_bytes()));
        let name = metadata::write_savepoint(&p, &directory(), content(inline.clone())).await.unwrap();
        world.put_object(&object("lone/_metadata"), world.objects()[&name].clone());
        world.lose_object(&name);
        let found = savepoint::open(&p, &object("lone/_metadata")).await.unwrap();
        assert_eq!(found.subtasks[&(0, 0)].parts[0].location, inline);
    });
}

/// R15: a retained checkpoint is a thing to begin with, too: where it is, and moved, with what it shares.
#[test]
fn the_names_of_a_checkpoint_lead_from_where_it_lies() {
    let world = World::default();
    let p = primary(&world);
    let layout = Layout { job: OLD };
    let shared = layout.shared_part(CheckpointId(18), attempt(), SubtaskId { vertex: VertexId(0), index: 0 }, "p", 1);
    world.run(async {
        let mut checkpoint = content(PartLocation::Object(shared.clone()));
        checkpoint.subtasks.get_mut(&(0, 0)).unwrap().parts[0].written_by = CheckpointId(18);
        let name = metadata::write(&p, layout, checkpoint).await.unwrap();
        world.put_object(&shared, STATE);
        assert_eq!(savepoint::open(&p, &name).await.unwrap().objects(), std::slice::from_ref(&shared));
        world.put_object(&object("moved/chk-20/_metadata"), world.objects()[&name].clone());
        let (_, file) = shared.as_str().rsplit_once('/').unwrap();
        let moved = object(&format!("moved/shared/{file}"));
        world.put_object(&moved, STATE);
        assert_eq!(savepoint::open(&p, &object("moved/chk-20/_metadata")).await.unwrap().objects(), [moved]);
    });
}

/// R16, R48: what is missing or has another size is named, all of it, before anything starts; nothing is written.
#[test]
fn what_is_not_whole_is_refused_by_name() {
    let world = World::default();
    let p = primary(&world);
    world.run(async {
        let name = write(&world, &p).await;
        let path = directory().to_string();
        let refused = |result: Result<HeadLog, ImportError>, says: &str| match result {
            Err(ImportError::Refused(reason)) => assert!(reason.contains(says), "{reason}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was taken"),
        };
        let job = job(NEW, "count");
        world.lose_object(&part_name());
        refused(begin(&p, &job, &from(&path)).await, &format!("{} is missing", part_name()));
        world.put_object(&part_name(), "short");
        refused(begin(&p, &job, &from(&path)).await, "has 5 bytes instead of 22");
        world.put_object(&part_name(), STATE);
        let whole = world.objects()[&name].clone();
        world.put_object(&name, whole.slice(..whole.len() - 1));
        refused(begin(&p, &job, &from(&path)).await, "_metadata");
        world.lose_object(&name);
        refused(begin(&p, &job, &from(&path)).await, "is no savepoint: there is no");
        let head = HeadLog::open(p.clone(), Layout { job: NEW }).await.unwrap();
        assert!(head.state().import.is_none() && head.state().is_fresh());
    });
}

/// R72: a job does not begin with what another version of Flink's metadata describes; of one before Flink 1.3 it is said which release
/// takes it over. What is no metadata at all is refused by name.
#[test]
fn metadata_of_another_version_is_refused() {
    let world = World::default();
    let p = primary(&world);
    let old = object("old/_metadata");
    world.run(async {
        for (magic, version, says) in [
            (MAGIC, 0, "version 0, this program reads 2 to 6: Flink before 1.3 wrote it; restore it with Flink 1.3"),
            (MAGIC, 1, "version 1, this program reads 2 to 6: Flink before 1.3 wrote it; restore it with Flink 1.3"),
            (MAGIC, 7, "unknown version 7, this program reads 2 to 6"),
            (MAGIC ^ 1, 3, "old/_metadata"),
        ] {
            let bytes = [magic.to_be_bytes().as_slice(), &u32::to_be_bytes(version), &[0; 24]].concat();
            world.put_object(&old, bytes);
            match begin(&p, &job(NEW, "count"), &from("old")).await {
                Err(ImportError::Refused(reason)) => assert!(reason.contains(says), "{version}: {reason}"),
                Err(other) => panic!("{version}: {other}"),
                Ok(_) => panic!("{version}: it was taken"),
            }
        }
        let head = HeadLog::open(p.clone(), Layout { job: NEW }).await.unwrap();
        assert!(head.state().import.is_none() && head.state().is_fresh());
    });
}

/// R42, R57, R65: state without an operator is refused, with its id, its uid and the flag; with the flag it is left behind and listed.
#[test]
fn state_that_nobody_takes_is_refused_unless_allowed() {
    let world = World::default();
    let p = primary(&world);
    world.run(async {
        write(&world, &p).await;
        let path = directory().to_string();
        let job = job(NEW, "renamed");
        let Err(ImportError::Refused(reason)) = begin(&p, &job, &from(&path)).await.map(|_| ()) else {
            panic!("taken")
        };
        let id = format!("{:032x}", metadata::flink_operator_id(&OperatorUid("count".into())));
        for said in ["operator count", id.as_str(), "--allowNonRestoredState"] {
            assert!(reason.contains(said), "{said}: {reason}");
        }
        let allowed = SavepointRestore { allow_non_restored_state: true, ..from(&path) };
        let head = begin(&p, &job, &allowed).await.unwrap_or_else(|e| panic!("{e}"));
        assert!(head.state().import.as_ref().is_some_and(|import| import.allow_non_restored_state));
        let left: Vec<_> =
            world.events().into_iter().filter(|e| e.to_string().starts_with("StateLeftBehind")).collect();
        assert_eq!(left.len(), 1, "{left:?}");
    });
}

/// R15, R19: new ids lie above those of every job with the same output, epochs too; one that still runs is in the way; what was decided
/// since counts more than the savepoint.
#[test]
fn a_job_that_begins_with_a_savepoint_meets_nobody() {
    let world = World::default();
    let p = primary(&world);
    world.run(async {
        write(&world, &p).await;
        let path = directory().to_string();
        let old = HeadLog::open(p.clone(), Layout { job: OLD }).await.unwrap();
        old.claim().await.unwrap();
        old.claim().await.unwrap();
        old.append(HeadEntry::IdBlock { from: CheckpointId(17), to: CheckpointId(40) }).await.unwrap();
        let job = job(NEW, "count");
        let Err(ImportError::Refused(reason)) = begin(&p, &job, &from(&path)).await.map(|_| ()) else {
            panic!("taken")
        };
        assert!(reason.contains(&OLD.to_string()) && reason.contains("has not ended"), "{reason}");
        old.append(HeadEntry::Stopped { savepoint: directory() }).await.unwrap();
        let head = begin(&p, &job, &from(&path)).await.unwrap_or_else(|e| panic!("{e}"));
        let state = head.state();
        assert_eq!((state.newest, state.granted), (Some(CheckpointId(20)), CheckpointId(40)));
        assert!(state.leader > LeaderEpoch(2) && !state.retained[&CheckpointId(20)].owned);
        let HeadEntry::IdBlock { from: first, .. } = state.next_id_block() else { panic!("no block") };
        assert_eq!(first, CheckpointId(41));
        // Those before were never this job's to void.
        assert_eq!(state.voidable(CheckpointId(43), state.newest), [CheckpointId(41), CheckpointId(42)]);
        let entries = state.next_sequence;
        let again = import::check(&p, &job, &from(&path), &Others::default()).await.unwrap();
        import::record(&p, &head, &job, again).await.unwrap();
        assert_eq!(head.state().next_sequence, entries, "a job that has begun does not begin anew");
    });
}

/// R65: a job that is refused has not begun: it leaves nothing that would keep another from beginning, nor does a probe that stayed behind.
#[test]
fn a_job_that_is_refused_is_in_nobodys_way() {
    let world = World::default();
    let p = primary(&world);
    world.run(async {
        let name = write(&world, &p).await;
        let refused = begin(&p, &job(OLD, "another"), &from(name.as_str())).await.map(|_| ());
        assert!(matches!(&refused, Err(ImportError::Refused(reason)) if reason.contains("count")), "{refused:?}");
        world.put_object(&object(&format!("ha/{OLD}/probe-0123")), "weir probe");
        let others = Others::look(&p, NEW).await.unwrap();
        assert_eq!((others.running, others.leader), (None, LeaderEpoch(0)));
        begin(&p, &job(NEW, "count"), &from(name.as_str())).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Others::look(&p, OLD).await.unwrap().running, Some(NEW));
    });
}

/// R58, R73: only what the savepoint names goes, its metadata last; a second time, or for something else, it is an error. R6: so it is for a
/// retained checkpoint, which no command removes.
#[test]
fn a_savepoint_is_disposed_of_alone() {
    let world = World::default();
    let p = primary(&world);
    world.run(async {
        let name = write(&world, &p).await;
        let sibling = object("savepoints/savepoint-abcdef-0123456789ac/_metadata");
        let note = object("savepoints/savepoint-abcdef-0123456789ab/notes-of-somebody");
        for other in [&sibling, &note] {
            world.put_object(other, "abc");
        }
        world.store_fault("delete", "/_metadata", super::fake::Kind::Before, 1000);
        assert!(matches!(
            savepoint::dispose(&p, directory().name().as_str()).await,
            Err(SavepointError::Unavailable(_))
        ));
        assert!(world.objects().contains_key(&name), "it can be disposed of again");
        world.heal();
        savepoint::dispose(&p, name.as_str()).await.unwrap();
        assert_eq!(world.objects().keys().cloned().collect::<Vec<_>>(), [note, sibling]);
        let second = savepoint::dispose(&p, directory().name().as_str()).await;
        assert!(
            matches!(&second, Err(SavepointError::Unusable(reason)) if reason.contains("is no savepoint")),
            "{second:?}"
        );
        let chk = Layout { job: OLD }.metadata(CheckpointId(20));
        world.put_object(&chk, "abc");
        assert!(matches!(savepoint::dispose(&p, chk.as_str()).await, Err(SavepointError::Unusable(_))));
        assert!(world.objects().contains_key(&chk));
    });
}

/// R44: what a leader that died left of a savepoint goes with the sweep; one that is complete is not even looked at.
#[test]
fn the_sweep_takes_what_was_never_finished() {
    let world = World::default();
    let p = primary(&world);
    let unfinished = SavepointDirectory::below(&object("savepoints"), OLD, 9);
    let mut head = HeadState::default();
    for (sequence, entry) in [
        HeadEntry::Claimed { leader: LeaderEpoch(3), process: "a".into(), nonce: 1 },
        HeadEntry::SavepointBegun { directory: directory() },
        HeadEntry::SavepointCompleted {
            attempt: attempt(),
            checkpoint: CheckpointId(20),
            directory: directory(),
            ledger: Default::default(),
            sinks: BTreeMap::new(),
            retained: vec![CheckpointId(20)],
            dropped: Vec::new(),
            stop: false,
        },
        HeadEntry::SavepointBegun { directory: unfinished.clone() },
    ]
    .iter()
    .enumerate()
    {
        head.apply(sequence as u64, entry);
    }
    world.run(async {
        write(&world, &p).await;
        let left = unfinished.state_part(attempt(), SubtaskId { vertex: VertexId(0), index: 0 }, "p", 1);
        world.put_object(&left, "half");
        world.put_object(&unfinished.metadata(), "of a leader that died");
        let report = sweep(&p, Layout { job: OLD }, &head, &[]).await.unwrap();
        assert_eq!(report.deleted.len(), 2);
        assert_eq!(world.objects().keys().filter(|name| name.as_str().starts_with("savepoints/")).count(), 2);
    });
}
