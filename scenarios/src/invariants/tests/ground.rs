use std::{rc::Rc, time::Duration};

use runtime::{
    checkpoint::types::{PartKind, PartLocation, StatePart, SubtaskSnapshot},
    ids::{AllocationId, CheckpointId, JobId, KeyGroup, KeyGroupRange, LeaderEpoch, OperatorUid, SubtaskId, VertexId},
    layout::{Layout, LocalLayout},
    platform::ObjectName,
};

use crate::{
    invariants::{
        Completion, FaultNotice, HeadRecord,
        ground::{CompletedFact, Damage, Ground, HeadFact, HeadTruth},
        testing::{JsonFormats, MemoryTruth},
    },
    oracle::AuditOracle,
    workloads::AuditInput,
};

const LAYOUT: Layout = Layout { job: JobId(7) };

fn seconds(at: u64) -> Duration {
    Duration::from_secs(at)
}

fn damage(notices: &[(u64, FaultNotice)]) -> Damage {
    let mut damage = Damage::default();
    notices.iter().for_each(|(at, notice)| damage.note(seconds(*at), notice));
    damage
}

/// Whether anything disturbed `process` in these seconds.
fn disturbed(damage: &Damage, process: &str, from: u64, to: u64) -> bool {
    damage.disturbed(process, seconds(from), seconds(to))
}

/// A crash excuses what that process did around it, and nobody else.
#[test]
fn a_fault_on_a_process_disturbs_it_alone() {
    let damage = damage(&[(10, FaultNotice::Process { process: "tm-1".into() })]);
    for (process, from, to, yes) in [
        ("tm-1", 5, 15, true),
        ("tm-1", 10, 15, true),
        ("tm-1", 5, 10, true),
        ("tm-1", 11, 15, false),
        ("tm-1", 5, 9, false),
        ("tm-2", 5, 15, false),
    ] {
        assert_eq!(disturbed(&damage, process, from, to), yes, "{process} {from}..={to}");
    }
}

/// A slow network disturbs everybody, while it is slow.
#[test]
fn a_fault_of_the_environment_disturbs_everybody() {
    let damage = damage(&[(10, FaultNotice::Environment { what: "store".into() })]);
    assert!(disturbed(&damage, "tm-1", 5, 15) && disturbed(&damage, "tm-2", 10, 10));
    assert!(!disturbed(&damage, "tm-1", 11, 15) && !disturbed(&damage, "tm-1", 5, 9));
}

/// A clock that runs wrong disturbs its process as long as it does; that another one is right again changes nothing.
#[test]
fn a_wrong_clock_disturbs_until_it_is_right() {
    let clock = |process: &str, wrong| FaultNotice::Clock { process: process.into(), wrong };
    let damage = damage(&[
        (10, clock("tm-1", true)),
        (10, clock("tm-2", true)),
        (20, clock("tm-1", false)),
        (40, clock("tm-1", false)),
    ]);
    for (process, from, to, yes) in [
        ("tm-1", 5, 9, false),
        ("tm-1", 5, 10, true),
        ("tm-1", 14, 15, true),
        ("tm-1", 20, 30, true),
        ("tm-1", 21, 30, false),
        ("tm-2", 21, 30, true),
        ("tm-2", 5, 9, false),
        ("tm-3", 5, 30, false),
    ] {
        assert_eq!(disturbed(&damage, process, from, to), yes, "{process} {from}..={to}");
    }
}

/// A file is as old as the last fault on it or on its whole disk.
#[test]
fn a_file_was_hit_with_its_disk() {
    let file = |machine: &str| FaultNotice::LocalFile { machine: machine.into(), path: "a".into() };
    let disk = |machine: &str| FaultNotice::Disk { machine: machine.into() };
    let damage = damage(&[(1, file("one")), (2, disk("one")), (3, disk("two")), (4, file("two")), (5, file("three"))]);
    assert_eq!(damage.file("one", "a"), Some(seconds(2)));
    assert_eq!(damage.file("two", "a"), Some(seconds(4)));
    assert_eq!(damage.file("two", "b"), Some(seconds(3)));
    assert_eq!((damage.file("three", "b"), damage.file("four", "a")), (None, None));
}

/// A fault on a channel is none of the store's; what was read wrong is unreadable, though whole.
#[test]
fn the_store_is_hit_by_what_is_its_own() {
    let environment = |what: &str| FaultNotice::Environment { what: what.into() };
    assert!(!damage(&[]).store_was_hit());
    assert!(!damage(&[(1, environment("read[0]->fold[1]"))]).store_was_hit());
    assert!(damage(&[(1, environment("read[0]->fold[1]")), (2, environment("store"))]).store_was_hit());
    let damage = damage(&[
        (1, FaultNotice::Object { name: "lost".into() }),
        (1, FaultNotice::Misread { name: "misread".into() }),
    ]);
    assert_eq!(["lost", "misread", "whole"].map(|object| damage.unreadable(object)), [true, true, false]);
}

fn ground() -> Ground {
    let input = AuditInput::new(11, 2, 60, 4, 1.0);
    let oracle = AuditOracle::new(input, "audit", vec!["fold".into()], None);
    Ground::new(LAYOUT, vec!["audit".into(), "other".into()], Rc::new(JsonFormats), Box::new(oracle))
}

fn entry(truth: &MemoryTruth, sequence: u64, record: &HeadRecord) {
    truth.put(LAYOUT.head_entry(sequence).as_str(), &serde_json::to_vec(record).expect("encodes"));
}

/// The log begins wherever its lowest entry is, whatever else lies beside it; each entry is read once, in order, and one that
/// nobody can read hides none behind it.
#[test]
fn the_head_log_is_read_from_its_lowest_entry() {
    let (truth, mut ground) = (MemoryTruth::default(), ground());
    assert!(ground.next_head_entry(&truth).is_none(), "no log yet");
    truth.put(&format!("{}+probe", LAYOUT.head_prefix()), b"no entry");
    truth.put(&format!("{}00000000000000000070", LAYOUT.head_prefix()), b"no entry either: a digit too many");
    assert!(ground.next_head_entry(&truth).is_none(), "still no log");
    entry(&truth, 7, &HeadRecord::Claimed { leader: LeaderEpoch(3) });
    truth.put(LAYOUT.head_entry(8).as_str(), b"nonsense");
    entry(&truth, 9, &HeadRecord::Finished);
    entry(&truth, 11, &HeadRecord::Claimed { leader: LeaderEpoch(4) });
    let mut read = Vec::new();
    while let Some(entry) = ground.next_head_entry(&truth) {
        read.push(entry.map_or_else(|(object, _)| Err(object), |fact| Ok(fact.sequence)));
    }
    assert_eq!(read, [Ok(7), Err(LAYOUT.head_entry(8).as_str().to_string()), Ok(9)]);
    assert!(ground.head.finished && ground.head.leader == Some(LeaderEpoch(3)));
}

/// Who claimed last leads; where the store did not see who claimed, anybody may.
#[test]
fn who_claimed_last_leads() {
    let (truth, mut ground) = (MemoryTruth::default(), ground());
    assert!(HeadTruth::default().is_led_by("anybody", 0));
    let mut claim = |process: &str, incarnation| {
        let record = HeadRecord::Claimed { leader: LeaderEpoch(1) };
        let fact = HeadFact { sequence: 0, at: Duration::ZERO, process: process.into(), incarnation, record };
        ground.fold(&truth, &fact);
        [("jm-1", 1), ("jm-1", 2), ("jm-2", 1)].map(|(who, life)| ground.head.is_led_by(who, life))
    };
    assert_eq!(claim("jm-1", 1), [true, false, false]);
    assert_eq!(claim("jm-1", 2), [false, true, false]);
    assert_eq!(claim("", 0), [true, true, true]);
}

const SUBTASK: SubtaskId = SubtaskId { vertex: VertexId(1), index: 4 };

/// Only a complete copy counts, and of it only the file of that part, of that subtask, of that checkpoint.
#[test]
fn local_copies_are_those_of_exactly_this_part() {
    let (truth, ground) = (MemoryTruth::default(), ground());
    let directory = |allocation, subtask, checkpoint| {
        let at = LocalLayout::checkpoint(AllocationId(allocation), LAYOUT.job, subtask, CheckpointId(checkpoint));
        at.as_str().to_string()
    };
    let other = SubtaskId { vertex: VertexId(1), index: 5 };
    let (mine, unfinished) = (directory(5, SUBTASK, 2), directory(6, SUBTASK, 2));
    for at in [&mine, &directory(5, other, 2), &directory(5, SUBTASK, 3)] {
        truth.put_file("machine-1", &format!("{at}/manifest"), b"");
        truth.put_file("machine-1", &format!("{at}/part-0"), b"state");
    }
    truth.put_file("machine-1", &format!("{mine}/part-1"), b"state");
    truth.put_file("machine-1", &format!("{unfinished}/part-0"), b"state");
    truth.put_file("machine-2", &format!("{unfinished}/part-0"), b"state");
    truth.put_file("machine-2", "elsewhere/part-0", b"state");
    let found = ground.local_copies(&truth, CheckpointId(2), (1, 4), "part-0");
    assert_eq!(found, [("machine-1".to_string(), format!("{mine}/part-0"), b"state"[..].into())]);
}

fn part(name: &str, location: PartLocation) -> StatePart {
    StatePart {
        operator: OperatorUid("fold".into()),
        key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(127) },
        name: name.into(),
        kind: PartKind::Keyed,
        location,
        length: 5,
        crc32c: 0,
        written_by: CheckpointId(1),
        backend: None,
    }
}

fn snapshot(parts: Vec<StatePart>) -> SubtaskSnapshot {
    SubtaskSnapshot { parts, ..SubtaskSnapshot::default() }
}

fn object(name: &str) -> PartLocation {
    PartLocation::Object(ObjectName::new(name).expect("a plain name"))
}

/// A subtask finds its own part first, by its name or its object's, then those of its vertex; never another vertex's.
#[test]
fn a_part_is_found_among_those_of_the_vertex() {
    let completion = Completion {
        leader: LeaderEpoch(1),
        checkpoint: CheckpointId(1),
        metadata: "metadata".into(),
        ledger: Default::default(),
        sinks: Default::default(),
        exhausted: false,
        retained: vec![CheckpointId(1)],
        savepoint: None,
    };
    let snapshots = [
        ((0, 0), snapshot(vec![part("read-0", object("read-0-of-0"))])),
        ((1, 0), snapshot(vec![part("part-0", object("part-0-of-0"))])),
        (
            (1, 1),
            snapshot(vec![part("part-0", object("part-0-of-1")), part("more", PartLocation::Inline(b"x"[..].into()))]),
        ),
        ((2, 0), snapshot(vec![part("next-0", object("next-0-of-0"))])),
    ];
    let fact = CompletedFact { completion, snapshots: Ok(snapshots.into()) };
    let find = |subtask, part| fact.part_for(subtask, part).map(|(by, part)| (by, part.location.to_string()));
    let found = |by, object: &str| Some((by, object.to_string()));
    assert_eq!(find((1, 1), "part-0"), found((1, 1), "part-0-of-1"));
    assert_eq!(find((1, 1), "part-0-of-0"), found((1, 0), "part-0-of-0"));
    assert_eq!(find((1, 7), "part-0"), found((1, 0), "part-0-of-0"), "a subtask that is new");
    assert_eq!(find((1, 0), "more").map(|(by, _)| by), Some((1, 1)), "without an object");
    assert_eq!((find((1, 1), "read-0"), find((1, 1), "next-0"), find((1, 1), "part-7")), (None, None, None));
    assert_eq!(
        fact.needed().collect::<Vec<_>>(),
        ["metadata", "read-0-of-0", "part-0-of-0", "part-0-of-1", "next-0-of-0"]
    );
}

/// State that lies in the metadata itself is as whole as that.
#[test]
fn an_inline_part_is_always_there() {
    let (truth, ground) = (MemoryTruth::default(), ground());
    let inline = part("part-0", PartLocation::Inline(b"state"[..].into()));
    assert_eq!(ground.part_intact(&truth, &inline).as_deref(), Ok(&b"state"[..]));
    assert_eq!(ground.part_hash(&inline), Some(xxhash_rust::xxh3::xxh3_64(b"state")));
    let unseen = part("part-0", object("unseen"));
    assert_eq!(ground.part_hash(&unseen), None);
    assert_eq!(ground.part_intact(&truth, &unseen).unwrap_err(), "not in primary");
    truth.put("unseen", b"state");
    assert_eq!(ground.part_intact(&truth, &unseen).as_deref(), Ok(&b"state"[..]));
}

/// Sink and epoch are read from the names that the layout makes, for any of the sinks; other names are none.
#[test]
fn manifests_are_known_by_their_names() {
    let ground = ground();
    let name = |sink: &str| ground.manifest_name(LAYOUT.sink_commit(sink, CheckpointId(12)).as_str());
    assert_eq!(name("audit"), Some(("audit".to_string(), CheckpointId(12))));
    assert_eq!(name("other"), Some(("other".to_string(), CheckpointId(12))));
    assert_eq!((name("unknown"), ground.manifest_name("output/audit/_committed/x")), (None, None));
}

/// A copy is in doubt if its own manifest was hit: that file, in that directory, on that machine.
#[test]
fn the_manifest_of_a_copy_is_in_its_directory() {
    let mut ground = ground();
    let mut hit = |machine: &str, path: &str| {
        ground.damage = Damage::default();
        ground.damage.note(seconds(1), &FaultNotice::LocalFile { machine: machine.into(), path: path.into() });
        ground.manifest_hit("machine-1", "copies/chk_1/part-0")
    };
    assert!(hit("machine-1", "copies/chk_1/manifest"));
    assert!(!hit("machine-1", "copies/chk_1/part-0"));
    assert!(!hit("machine-1", "copies/chk_12/manifest"));
    assert!(!hit("machine-2", "copies/chk_1/manifest"));
    assert!(!ground.manifest_hit("machine-2", "manifest"), "a path without a directory is no copy's");
}
