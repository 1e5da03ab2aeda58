//! LocalDisk: files that are created once, read back as written, linked, renamed, listed and taken over from native code.

use bytes::Bytes;
use runtime::platform::{AdoptMethod, DiskError, LocalDisk, RelPath};

use super::Stage;

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("plain")
}

async fn put(disk: &dyn LocalDisk, at: &str, content: &[u8]) {
    let mut file = disk.create_new(&path(at)).await.expect("creates");
    file.append(Bytes::copy_from_slice(content)).await.expect("appends");
    file.sync().await.expect("syncs");
    if let Some(parent) = path(at).parent() {
        disk.sync_dir(&parent).await.expect("syncs the directory");
    }
}

async fn get(disk: &dyn LocalDisk, at: &str) -> Bytes {
    disk.read(&path(at), None).await.expect("reads")
}

pub async fn a_file_is_created_once(stage: Stage) {
    let disk = &*stage.here.disk;
    put(disk, "once/deep/down/file", b"first").await;
    let again = disk.create_new(&path("once/deep/down/file")).await.map(|_| ());
    assert_eq!(again, Err(DiskError::Exists(path("once/deep/down/file"))));
    assert_eq!(get(disk, "once/deep/down/file").await, "first");
}

pub async fn appended_bytes_are_read_back(stage: Stage) {
    let disk = &*stage.here.disk;
    let mut file = disk.create_new(&path("append/file")).await.expect("creates");
    assert_eq!(disk.length(&path("append/file")).await, Ok(0));
    let mut expected = Vec::new();
    for n in 0..50_u8 {
        let piece = vec![n; 1_000 * usize::from(n)];
        expected.extend_from_slice(&piece);
        file.append(piece.into()).await.expect("appends");
        if n % 10 == 0 {
            file.sync().await.expect("syncs");
        }
    }
    file.sync().await.expect("syncs");
    drop(file);
    let length = expected.len() as u64;
    assert_eq!(disk.length(&path("append/file")).await, Ok(length));
    assert_eq!(get(disk, "append/file").await, expected);
    let part = disk.read(&path("append/file"), Some(1_000..9_000)).await;
    assert_eq!(part.as_deref(), Ok(&expected[1_000..9_000]));
    assert_eq!(disk.read(&path("append/file"), Some(length..length)).await.as_deref(), Ok(&[][..]));
}

pub async fn reading_past_the_end_fails(stage: Stage) {
    let disk = &*stage.here.disk;
    put(disk, "short/file", b"1234").await;
    for range in [0..5, 4..5, 10..12] {
        let read = disk.read(&path("short/file"), Some(range.clone())).await;
        assert!(matches!(read, Err(DiskError::Io { .. })), "{range:?}: {read:?}");
    }
}

pub async fn missing_files_are_named(stage: Stage) {
    let disk = &*stage.here.disk;
    let missing = path("missing/file");
    let not_found = DiskError::NotFound(missing.clone());
    assert_eq!(disk.read(&missing, None).await, Err(not_found.clone()));
    assert_eq!(disk.length(&missing).await, Err(not_found.clone()));
    assert_eq!(disk.rename(&missing, &path("missing/other")).await, Err(not_found.clone()));
    assert_eq!(disk.link(&missing, &path("missing/other")).await, Err(not_found.clone()));
    assert_eq!(disk.remove(&missing).await, Err(not_found));
    assert_eq!(disk.list(&path("missing")).await, Ok(vec![]));
    assert_eq!(disk.remove_tree(&path("missing")).await, Ok(()));
}

pub async fn rename_replaces(stage: Stage) {
    let disk = &*stage.here.disk;
    put(disk, "rename/new", b"new").await;
    put(disk, "rename/old", b"old").await;
    disk.rename(&path("rename/new"), &path("rename/old")).await.expect("renames");
    assert_eq!(get(disk, "rename/old").await, "new");
    assert_eq!(disk.list(&path("rename")).await, Ok(vec!["old".to_string()]));
    disk.rename(&path("rename/old"), &path("rename/sub/there")).await.expect("renames into a new directory");
    assert_eq!(get(disk, "rename/sub/there").await, "new");
}

pub async fn a_link_shares_the_content(stage: Stage) {
    let disk = &*stage.here.disk;
    put(disk, "link/one", b"content").await;
    disk.link(&path("link/one"), &path("link/other/two")).await.expect("links");
    assert_eq!(disk.device_of(&path("link/one")).await, disk.device_of(&path("link/other/two")).await);
    let again = disk.link(&path("link/one"), &path("link/other/two")).await;
    assert_eq!(again, Err(DiskError::Exists(path("link/other/two"))));
    disk.remove(&path("link/one")).await.expect("removes");
    assert_eq!(get(disk, "link/other/two").await, "content", "the content lives as long as a name does");
}

pub async fn listing_is_sorted_and_shallow(stage: Stage) {
    let disk = &*stage.here.disk;
    for name in ["b", "a10", "a2", "sub/x", "sub/deeper/y", "c"] {
        put(disk, &format!("list/{name}"), b"").await;
    }
    let names = disk.list(&path("list")).await.expect("lists");
    assert_eq!(names, ["a10", "a2", "b", "c", "sub"]);
    assert_eq!(disk.list(&path("list/sub")).await.expect("lists"), ["deeper", "x"]);
}

pub async fn a_tree_is_removed_with_all_it_holds(stage: Stage) {
    let disk = &*stage.here.disk;
    put(disk, "tree/keep", b"kept").await;
    put(disk, "tree/sub/a", b"").await;
    put(disk, "tree/sub/deeper/b", b"").await;
    // Not below it, though its name starts alike.
    put(disk, "tree/sub2/c", b"kept").await;
    disk.remove_tree(&path("tree/sub")).await.expect("removes");
    assert_eq!(disk.list(&path("tree")).await.expect("lists"), ["keep", "sub2"]);
    assert_eq!(get(disk, "tree/sub2/c").await, "kept");
}

pub async fn machines_do_not_share_a_disk(stage: Stage) {
    put(&*stage.here.disk, "mine/file", b"here").await;
    let other = stage.there.disk.read(&path("mine/file"), None).await;
    assert_eq!(other, Err(DiskError::NotFound(path("mine/file"))));
}

pub async fn native_files_are_adopted_and_come_back(stage: Stage) {
    let disk = &*stage.here.disk;
    let native = disk.native_dir().await.expect("a native directory");
    let checkpoint = native.path().join("checkpoint");
    std::fs::create_dir(&checkpoint).expect("native code writes");
    let files = ["000007.sst".to_string(), "CURRENT".to_string()];
    std::fs::write(checkpoint.join(&files[0]), b"table").expect("native code writes");
    std::fs::write(checkpoint.join(&files[1]), b"manifest").expect("native code writes");

    let to = path("adopted/chk_1/db");
    let linked = disk.adopt(&native, "checkpoint", &files, &to).await.expect("adopts");
    let found: Vec<_> = linked.iter().map(|l| (l.name.as_str(), l.length)).collect();
    assert_eq!(found, [("000007.sst", 5), ("CURRENT", 8)]);
    let scratch = native.path();
    drop(native);
    assert!(!scratch.exists(), "scratch is gone with its last handle");
    assert_eq!(get(disk, "adopted/chk_1/db/000007.sst").await, "table");

    let fresh = disk.native_dir().await.expect("another native directory");
    for (file, name, method) in [
        ("000007.sst", "000009.sst", AdoptMethod::HardLink),
        ("CURRENT", "000009.sst", AdoptMethod::HardLink),
        ("000007.sst", "000009.sst", AdoptMethod::HardLink),
        ("CURRENT", "CURRENT", AdoptMethod::Copy),
    ] {
        let back = disk.materialize(&to.join(file), &fresh, "db", name).await;
        assert_eq!(back, Ok(method), "{file}, what is there is replaced");
    }
    assert_eq!(std::fs::read(fresh.path().join("db/000009.sst")).expect("there"), b"table");
    std::fs::write(fresh.path().join("db/CURRENT"), b"changed by the database").expect("native code writes");
    assert_eq!(get(disk, "adopted/chk_1/db/CURRENT").await, "manifest", "what was adopted does not change any more");
    let (absent, outside) = (to.join("000008.sst"), to.join("CURRENT"));
    let absent = disk.materialize(&absent, &fresh, "db", "000008.sst").await;
    assert!(matches!(absent, Err(DiskError::NotFound(_))), "{absent:?}");
    assert!(disk.materialize(&outside, &fresh, "db", "../CURRENT").await.is_err(), "a name that leads out is refused");
}

pub async fn a_failed_adoption_leaves_nothing(stage: Stage) {
    let disk = &*stage.here.disk;
    let native = disk.native_dir().await.expect("a native directory");
    std::fs::write(native.path().join("a"), b"there").expect("native code writes");
    let files = ["a".to_string(), "b".to_string()];
    let adopted = disk.adopt(&native, "", &files, &path("failed/chk_1")).await;
    assert!(adopted.is_err(), "{adopted:?}");
    assert_eq!(disk.list(&path("failed/chk_1")).await, Ok(vec![]));
    assert!(native.path().join("a").exists(), "the native side keeps its own");
    let outside = disk.adopt(&native, "", &["../a".to_string()], &path("failed/chk_2")).await;
    assert!(outside.is_err(), "a name that leads out of the directory is refused");
}

pub async fn native_files_are_read_and_written_in_pieces(stage: Stage) {
    let disk = &*stage.here.disk;
    let native = disk.native_dir().await.expect("a native directory");
    for again in [false, true] {
        let mut file = disk.create_native(&native, "restored-0", "000007.sst").await.expect("begins");
        file.append(Bytes::from_static(b"one ")).await.expect("appends");
        if again {
            file.append(Bytes::from_static(b"and two")).await.expect("appends");
        } else {
            // What has a link to it keeps it when another file takes its place.
            let of = |name| native.path().join("restored-0").join(name);
            std::fs::hard_link(of("000007.sst"), of("linked")).expect("native code links");
        }
    }
    let read = async |file, range| disk.read_native(&native, "restored-0", file, range).await;
    assert_eq!(disk.native_length(&native, "restored-0", "000007.sst").await, Ok(11));
    assert_eq!(read("000007.sst", 0..11).await.as_deref(), Ok(&b"one and two"[..]));
    assert_eq!(read("000007.sst", 4..7).await.as_deref(), Ok(&b"and"[..]));
    assert_eq!(read("000007.sst", 11..11).await.as_deref(), Ok(&b""[..]));
    assert!(read("000007.sst", 4..12).await.is_err(), "the file ends before");
    assert_eq!(read("linked", 0..4).await.as_deref(), Ok(&b"one "[..]));
    assert_eq!(disk.native_length(&native, "restored-0", "linked").await, Ok(4));
    assert!(disk.native_length(&native, "restored-0", "none").await.is_err());
    let names = disk.list_native(&native, "restored-0").await;
    assert_eq!(names, Ok(vec!["000007.sst".to_string(), "linked".to_string()]));
}
