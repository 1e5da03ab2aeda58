use bytes::Bytes;
use runtime::{
    checkpoint::types::{PartKind, PartLocation},
    ids::CheckpointId,
    platform::ObjectName,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::invariants::{
    Truth,
    output_truth::OwnDigest,
    testing::{Prepared, Story},
};

/// The sum of the records' hashes, in any order, and how many they are.
#[test]
fn a_digest_knows_no_order() {
    let [a, b] = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let sum = xxh3_128(&a).wrapping_add(xxh3_128(&b));
    assert_eq!(OwnDigest::of(&[a.clone(), b.clone()]), OwnDigest { sum, records: 2 });
    assert_eq!(OwnDigest::of(&[b, a.clone()]), OwnDigest { sum, records: 2 });
    assert_eq!(OwnDigest::of(std::slice::from_ref(&a)), OwnDigest { sum: xxh3_128(&a), records: 1 });
    assert_eq!(OwnDigest::of(&[]), OwnDigest::default());
}

/// The checkpoint's state is the file of a database, shared by checkpoints or not.
fn in_a_database(story: &mut Story, prepared: &Prepared, shared: bool) {
    story.bend(prepared, |list| {
        let file = "000007.sst".to_string();
        list[0].1.parts[0].kind = if shared { PartKind::Shared { file } } else { PartKind::Private { file } };
    });
}

/// State is judged wherever it lies: a key lost shows in a database as it does in a format of the runtime's own.
#[test]
fn state_in_databases_is_judged() {
    for shared in [true, false] {
        let mut story = Story::begin();
        let first = story.prepare(1, &[10, 10]);
        in_a_database(&mut story, &first, shared);
        story.complete_prepared(&first);
        // The same file again is read from what is known of it.
        let second = story.reused(2, &first);
        in_a_database(&mut story, &second, shared);
        story.complete_prepared(&second);
        story.holds();
        story.model.keys.remove(&0);
        let third = story.prepare(3, &[10, 10]);
        in_a_database(&mut story, &third, shared);
        story.complete_prepared(&third);
        story.breaks("barrier-side", "state-missing");
    }
}

/// A file of the same name has other content in a later checkpoint: it is another database.
#[test]
fn a_database_is_known_by_its_content() {
    let mut story = Story::begin();
    for (id, position) in [(1, 10), (2, 20)] {
        let prepared = story.prepare(id, &[position, position]);
        in_a_database(&mut story, &prepared, false);
        story.complete_prepared(&prepared);
        story.commit(id);
    }
    story.holds();
}

/// A database that cannot be read, and state that is none.
#[test]
fn state_that_cannot_be_read_is_found() {
    for database in [true, false] {
        let mut story = Story::begin();
        let prepared = story.prepare(1, &[10, 10]);
        story.create(&prepared.parts[0].clone(), "nonsense");
        story.bend(&prepared, |list| list[0].1.parts[0].length = 8);
        if database {
            in_a_database(&mut story, &prepared, true);
        }
        story.complete_prepared(&prepared);
        story.breaks("barrier-side", "state-garbled");
    }
}

/// State that is damaged or gone is not judged here: other invariants do that. Neither is a state of which some lies in a database
/// and is gone.
#[test]
fn state_that_is_gone_is_not_judged() {
    for database in [true, false] {
        let mut story = Story::begin();
        let prepared = story.prepare(1, &[10, 10]);
        if database {
            in_a_database(&mut story, &prepared, true);
        }
        story.truth.rot(&prepared.parts[0]);
        story.complete_prepared(&prepared);
        assert_eq!(story.found().iter().map(|(invariant, ..)| *invariant).collect::<Vec<_>>(), ["primary-superset"]);
    }
}

/// The state of one subtask lies in two parts, which together hold it.
#[test]
fn all_parts_of_the_state_count() {
    let mut story = Story::begin();
    let prepared = story.prepare(1, &[10, 10]);
    let bytes = story.truth.object(&prepared.parts[0]).expect("it is there");
    let entries: Vec<(Vec<u8>, Vec<u8>)> = serde_json::from_slice(&bytes).expect("was written here");
    let (first, rest) = entries.split_at(1);
    let halves = [first, rest].map(|half| serde_json::to_vec(half).expect("encodes"));
    let names = [0, 1].map(|half| format!("{}{half}", prepared.parts[0]));
    names.iter().zip(&halves).for_each(|(name, half)| story.create(name, half.clone()));
    story.bend(&prepared, |list| {
        let parts = &mut list[0].1.parts;
        parts.push(parts[0].clone());
        for (part, (name, half)) in parts.iter_mut().zip(names.iter().zip(&halves)) {
            part.location = PartLocation::Object(ObjectName::new(name.clone()).expect("a plain name"));
            part.length = half.len() as u64;
        }
    });
    story.complete_prepared(&prepared);
    story.holds();
}

/// Output that was only prepared is looked at when its checkpoint completes, before anybody makes it visible, and so is that of
/// all checkpoints before it.
#[test]
fn prepared_output_is_judged_with_what_came_before() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]).checkpoint(2, &[15, 15]).checkpoint(3, &[20, 20]);
    story.commit(1).checkpoint(4, &[25, 25]).commit(2).commit(3);
    story.holds();
    let mut fifth = story.prepare(5, &[30, 30]);
    fifth.positions[0] = 29;
    story.complete_prepared(&fifth);
    story.breaks("barrier-side", "early");
    assert_eq!(story.committed_records(), 40);
    assert!(!story.truth.has(story.layout().sink_commit("audit", CheckpointId(4)).as_str()));
}
