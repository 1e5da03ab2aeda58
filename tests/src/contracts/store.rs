//! PrimaryStorage: create-only, one winner, exact bytes, sorted listings.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use runtime::platform::{Mono, ObjectMeta, ObjectName, Platform, PrimaryStorage, StoreError, Upload};

use super::Stage;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).expect("plain")
}

fn by(platform: &Platform) -> Mono {
    platform.clock.now() + Duration::from_secs(20)
}

async fn create(platform: &Platform, at: &str, content: &'static [u8]) -> Result<(), StoreError> {
    platform.primary.create(&name(at), vec![Bytes::from_static(content)], by(platform)).await
}

async fn read(platform: &Platform, at: &str) -> Result<Bytes, StoreError> {
    platform.primary.read(&name(at), None, by(platform)).await
}

pub async fn an_object_is_created_once(stage: Stage) {
    create(&stage.here, "once/a/b", b"first").await.expect("creates");
    assert_eq!(create(&stage.here, "once/a/b", b"second").await, Err(StoreError::Exists));
    assert_eq!(create(&stage.here, "once/a/b", b"first").await, Err(StoreError::Exists), "equal bytes or not");
    assert_eq!(read(&stage.here, "once/a/b").await, Ok(Bytes::from_static(b"first")));
}

pub async fn parts_are_concatenated(stage: Stage) {
    let store = &stage.here.primary;
    let parts: Vec<Bytes> = (0..40_u8).map(|n| Bytes::from(vec![n; 10_000 * usize::from(n % 4)])).collect();
    store.create(&name("parts/many"), parts.clone(), by(&stage.here)).await.expect("creates");
    assert_eq!(read(&stage.here, "parts/many").await.as_deref(), Ok(&parts.concat()[..]));
    store.create(&name("parts/none"), vec![], by(&stage.here)).await.expect("creates an empty object");
    assert_eq!(read(&stage.here, "parts/none").await, Ok(Bytes::new()));
}

pub async fn ranges_are_cut_off_at_the_end(stage: Stage) {
    create(&stage.here, "range/ten", b"0123456789").await.expect("creates");
    let deadline = by(&stage.here);
    let get = async |range| stage.here.primary.read(&name("range/ten"), Some(range), deadline).await;
    assert_eq!(get(0..10).await.as_deref(), Ok(&b"0123456789"[..]));
    assert_eq!(get(3..7).await.as_deref(), Ok(&b"3456"[..]));
    assert_eq!(get(7..100).await.as_deref(), Ok(&b"789"[..]));
    assert_eq!(get(10..20).await.as_deref(), Ok(&b""[..]));
    assert_eq!(get(15..20).await.as_deref(), Ok(&b""[..]));
    assert_eq!(get(4..4).await.as_deref(), Ok(&b""[..]));
}

pub async fn what_is_not_there_is_absent(stage: Stage) {
    create(&stage.here, "absent/there/object", b"").await.expect("creates");
    for missing in ["absent/not", "absent/there", "absent/there/object2", "absent/no/such/directory"] {
        assert_eq!(read(&stage.here, missing).await, Err(StoreError::Absent), "{missing}");
        let range = stage.here.primary.read(&name(missing), Some(0..4), by(&stage.here)).await;
        assert_eq!(range, Err(StoreError::Absent), "{missing}");
    }
}

async fn listed(store: &dyn PrimaryStorage, prefix: &str, by: Mono) -> Vec<(String, u64)> {
    let found = store.list(prefix, by).await.expect("lists");
    found.into_iter().map(|ObjectMeta { name, length }| (name.to_string(), length)).collect()
}

pub async fn listing_takes_a_string_prefix_and_sorts(stage: Stage) {
    for (object, content) in [
        ("list/chk-10/b", &b"12"[..]),
        ("list/chk-1/z", b"1"),
        ("list/chk-1/a/deep", b"123"),
        ("list/chk-1-x", b""),
        ("listed-elsewhere/c", b""),
    ] {
        create(&stage.here, object, content).await.expect("creates");
    }
    let (store, by) = (&*stage.there.primary, by(&stage.there));
    let names = async |prefix| listed(store, prefix, by).await.into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(
        listed(store, "list/", by).await,
        [
            ("list/chk-1-x".to_string(), 0),
            ("list/chk-1/a/deep".to_string(), 3),
            ("list/chk-1/z".to_string(), 1),
            ("list/chk-10/b".to_string(), 2)
        ]
    );
    assert_eq!(names("list/chk-1/").await, ["list/chk-1/a/deep", "list/chk-1/z"]);
    assert_eq!(names("list/chk-10").await, ["list/chk-10/b"]);
    assert_eq!(
        names("list").await,
        ["list/chk-1-x", "list/chk-1/a/deep", "list/chk-1/z", "list/chk-10/b", "listed-elsewhere/c"]
    );
    assert!(names("no/such/place/").await.is_empty());
}

pub async fn deleting_is_idempotent(stage: Stage) {
    let (store, by) = (&stage.here.primary, by(&stage.here));
    create(&stage.here, "delete/dir/one", b"1").await.expect("creates");
    create(&stage.here, "delete/dir/two", b"2").await.expect("creates");
    for _ in 0..2 {
        assert_eq!(store.delete(&name("delete/dir/one"), by).await, Ok(()));
    }
    assert_eq!(store.delete(&name("delete/never/was"), by).await, Ok(()));
    assert_eq!(read(&stage.here, "delete/dir/one").await, Err(StoreError::Absent));
    assert_eq!(listed(&**store, "delete/", by).await, [("delete/dir/two".to_string(), 1)]);
    assert_eq!(store.delete(&name("delete/dir/two"), by).await, Ok(()));
    // A place that was emptied can be used again.
    create(&stage.here, "delete/dir/three", b"3").await.expect("creates");
    assert_eq!(listed(&**store, "delete/", by).await, [("delete/dir/three".to_string(), 1)]);
}

pub async fn of_racing_creates_one_wins(stage: Stage) {
    for round in 0..10 {
        let object = format!("race/{round}/entry");
        let attempts = (0..8_u8).map(|n| {
            let platform = if n % 2 == 0 { &stage.here } else { &stage.there };
            let (object, content) = (name(&object), vec![Bytes::from(vec![n; 1_000])]);
            async move { (n, platform.primary.create(&object, content, by(platform)).await) }
        });
        let mut winners = Vec::new();
        for (n, outcome) in join_all(attempts).await {
            match outcome {
                Ok(()) => winners.push(n),
                Err(error) => assert_eq!(error, StoreError::Exists),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?} all won {object}");
        assert_eq!(read(&stage.here, &object).await, Ok(Bytes::from(vec![winners[0]; 1_000])), "the winner's bytes");
    }
}

pub async fn all_processes_see_one_store(stage: Stage) {
    create(&stage.here, "shared/object", b"from here").await.expect("creates");
    assert_eq!(read(&stage.there, "shared/object").await, Ok(Bytes::from_static(b"from here")));
    assert_eq!(create(&stage.there, "shared/object", b"from there").await, Err(StoreError::Exists));
}

async fn begin<'a>(platform: &'a Platform, at: &str) -> Box<dyn Upload + 'a> {
    platform.primary.upload(&name(at), by(platform)).await.expect("begins")
}

async fn unfinished(platform: &Platform, prefix: &str) -> Vec<String> {
    let found = platform.primary.unfinished(prefix, by(platform)).await.expect("looks");
    found.into_iter().map(|name| name.to_string()).collect()
}

/// Nobody sees anything of an upload in pieces before it is finished, and then all of it. A piece stored twice counts once.
pub async fn an_upload_in_pieces_appears_whole(stage: Stage) {
    let pieces: Vec<Bytes> = (0..5_u8).map(|n| Bytes::from(vec![n; 70_000 - usize::from(n) * 13_000])).collect();
    let mut upload = begin(&stage.here, "pieces/deep/whole").await;
    for (number, piece) in (0..).zip(&pieces) {
        upload.put(number, piece.clone(), by(&stage.here)).await.expect("stores");
        // What came in doubt is sent again.
        upload.put(number, piece.clone(), by(&stage.here)).await.expect("stores again");
        assert_eq!(read(&stage.there, "pieces/deep/whole").await, Err(StoreError::Absent));
        assert!(listed(&*stage.there.primary, "pieces/", by(&stage.there)).await.is_empty());
        assert_eq!(unfinished(&stage.there, "pieces/").await, ["pieces/deep/whole"]);
    }
    upload.finish(by(&stage.here)).await.expect("finishes");
    drop(upload);
    let whole = pieces.concat();
    assert_eq!(read(&stage.there, "pieces/deep/whole").await.as_deref(), Ok(&whole[..]));
    let length = whole.len() as u64;
    let seen = listed(&*stage.there.primary, "pieces/", by(&stage.there)).await;
    assert_eq!(seen, [("pieces/deep/whole".to_string(), length)]);
    assert!(unfinished(&stage.there, "pieces/").await.is_empty());

    // Without a piece it is an empty object.
    let mut upload = begin(&stage.here, "pieces/empty").await;
    upload.finish(by(&stage.here)).await.expect("finishes");
    assert_eq!(read(&stage.here, "pieces/empty").await, Ok(Bytes::new()));
    // A piece that comes before its turn has no place.
    let mut upload = begin(&stage.here, "pieces/gap").await;
    let early = upload.put(1, Bytes::from_static(b"second"), by(&stage.here)).await;
    assert!(matches!(early, Err(StoreError::Permanent(_))), "{early:?}");
    upload.abort(by(&stage.here)).await.expect("gives up");
}

/// An upload in pieces creates, and never overwrites: neither what was there, nor what came while it was under way; of two of one
/// name one wins. Finishing again says that the name is taken.
pub async fn an_upload_in_pieces_only_creates(stage: Stage) {
    create(&stage.here, "taken/before", b"first").await.expect("creates");
    for object in ["taken/before", "taken/meanwhile"] {
        let mut upload = begin(&stage.here, object).await;
        upload.put(0, Bytes::from_static(b"second"), by(&stage.here)).await.expect("stores");
        if object == "taken/meanwhile" {
            create(&stage.there, object, b"first").await.expect("creates");
        }
        assert_eq!(upload.finish(by(&stage.here)).await, Err(StoreError::Exists), "{object}");
        upload.abort(by(&stage.here)).await.expect("gives up");
        assert_eq!(read(&stage.here, object).await, Ok(Bytes::from_static(b"first")));
    }
    let (mut one, mut other) = (begin(&stage.here, "taken/race").await, begin(&stage.there, "taken/race").await);
    one.put(0, Bytes::from_static(b"one"), by(&stage.here)).await.expect("stores");
    other.put(0, Bytes::from_static(b"other"), by(&stage.there)).await.expect("stores");
    let (of_one, of_other) = futures::future::join(one.finish(by(&stage.here)), other.finish(by(&stage.there))).await;
    let winner: &[u8] = match (of_one, of_other) {
        (Ok(()), Err(StoreError::Exists)) => b"one",
        (Err(StoreError::Exists), Ok(())) => b"other",
        both => panic!("one wins: {both:?}"),
    };
    assert_eq!(read(&stage.here, "taken/race").await.as_deref(), Ok(winner));
    assert_eq!(one.finish(by(&stage.here)).await, Err(StoreError::Exists), "finished before, by whomever");
    one.abort(by(&stage.here)).await.expect("gives up");
    other.abort(by(&stage.there)).await.expect("gives up");
    assert!(unfinished(&stage.here, "taken/").await.is_empty());
}

/// What is left of an upload is found by its name, and can be removed by somebody else; it cannot be finished then.
pub async fn an_unfinished_upload_can_be_discarded(stage: Stage) {
    create(&stage.here, "left/chk-1/done", b"done").await.expect("creates");
    let mut given_up = begin(&stage.here, "left/chk-1/given-up").await;
    given_up.put(0, Bytes::from_static(b"piece"), by(&stage.here)).await.expect("stores");
    given_up.abort(by(&stage.here)).await.expect("gives up");
    let mut late = begin(&stage.here, "left/chk-2/late").await;
    late.put(0, Bytes::from_static(b"piece"), by(&stage.here)).await.expect("stores");
    let other = begin(&stage.here, "left/chk-10/other").await;
    assert_eq!(unfinished(&stage.there, "left/").await, ["left/chk-10/other", "left/chk-2/late"]);
    assert_eq!(unfinished(&stage.there, "left/chk-2/").await, ["left/chk-2/late"]);
    assert!(unfinished(&stage.there, "left/chk-1/").await.is_empty());
    for object in ["left/chk-2/late", "left/chk-2/late", "left/never/was"] {
        stage.there.primary.discard_unfinished(&name(object), by(&stage.there)).await.expect("discards");
    }
    assert_eq!(unfinished(&stage.there, "left/").await, ["left/chk-10/other"]);
    let finished = late.finish(by(&stage.here)).await;
    assert!(matches!(finished, Err(StoreError::Permanent(_))), "{finished:?}");
    assert_eq!(read(&stage.there, "left/chk-2/late").await, Err(StoreError::Absent));
    drop(other);
    stage.there.primary.discard_unfinished(&name("left/chk-10/other"), by(&stage.there)).await.expect("discards");
    assert!(unfinished(&stage.there, "left/").await.is_empty());
    assert_eq!(read(&stage.here, "left/chk-1/done").await, Ok(Bytes::from_static(b"done")));
}
