//! RocksDB under simulation: a database is opened in scratch, written, natively checkpointed, and lost; what the
//! simulated disk adopted of it brings everything back. And the run is the same in every process: C++ threads, real clocks
//! and random database ids must not reach the trace.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a harness starts processes and native code works in real directories"
)]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::channel::oneshot;
use rocksdb::{DB, IteratorMode, Options, WriteOptions, checkpoint::Checkpoint};
use runtime::{
    ids::CheckpointId,
    journal::Event,
    platform::{NativeDir, NativeOp, Platform, RelPath, TaskEnd},
};
use sim::WorldConfig;

const CHILD: &str = "WEIR_ROCKSDB_SPIKE_SEED";
const TEST: &str = "one_seed_is_one_execution_in_every_process";
const KEYS: u64 = 3_000;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// No work of its own accord: every flush and compaction happens where the program asks for it.
fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_disable_auto_compactions(true);
    options.set_max_background_jobs(2);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_avoid_unnecessary_blocking_io(true);
    options
}

async fn open(platform: &Platform, path: PathBuf) -> Arc<DB> {
    let opened = platform.spawner.native_value(NativeOp::DatabaseOpen, move || DB::open(&options(), path));
    Arc::new(opened.await.expect("the call ends").expect("the database opens"))
}

async fn flush(platform: &Platform, db: &Arc<DB>) {
    let db = db.clone();
    let flushed = platform.spawner.native_value(NativeOp::DatabaseFlush, move || db.flush());
    flushed.await.expect("the call ends").expect("flushes");
}

async fn close(platform: &Platform, db: Arc<DB>) {
    let closed = platform.spawner.native_value(NativeOp::DatabaseClose, move || drop(db));
    closed.await.expect("the call ends");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the checkpoint is there");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("a text name")).collect();
    names.sort_unstable();
    names
}

fn journal(platform: &Platform, step: &str, amount: u64) {
    platform.journal.emit(Event::LocalPartStored {
        subtask: "spike[0]".to_string(),
        checkpoint: CheckpointId(1),
        part: step.to_string(),
        bytes: amount,
    });
}

/// The life of one database; gives how many keys came back.
async fn life(platform: Platform) -> u64 {
    let disk = platform.disk.clone();
    let scratch: NativeDir = disk.native_dir().await.expect("scratch");
    let db = open(&platform, scratch.path().join("db")).await;
    journal(&platform, "opened", 0);

    let mut expected = Contents::new();
    let mut without_log = WriteOptions::default();
    without_log.disable_wal(true);
    for round in 0..3 {
        for n in 0..KEYS {
            let key = (n * 7 % (KEYS / 2 + round * 500)).to_be_bytes().to_vec();
            let value = platform.entropy.next_u128("values").to_be_bytes().repeat(1 + n as usize % 5);
            db.put_opt(&key, &value, &without_log).expect("puts");
            expected.insert(key, value);
        }
        flush(&platform, &db).await;
        journal(&platform, "flushed", round);
    }

    let (source, into) = (db.clone(), scratch.path().join("checkpoint"));
    let taken = platform
        .spawner
        .native_value(NativeOp::DatabaseCheckpoint, move || Checkpoint::new(&source)?.create_checkpoint(into));
    taken.await.expect("the call ends").expect("a native checkpoint");
    // What comes later is not in the checkpoint.
    db.put_opt(b"later", b"not there", &without_log).expect("puts");

    let files = names(&scratch.path().join("checkpoint"));
    let kept = RelPath::new("localState/chk_1/db").expect("plain");
    let adopted = disk.adopt(&scratch, "checkpoint", &files, &kept).await.expect("the disk takes the files");
    assert_eq!(adopted.iter().map(|l| &l.name).collect::<Vec<_>>(), files.iter().collect::<Vec<_>>());
    disk.sync_dir(&kept).await.expect("durable");
    journal(&platform, "adopted", 0);

    close(&platform, db).await;
    let lost = scratch.path();
    drop(scratch);
    assert!(!lost.exists(), "the working database is gone");

    let fresh = disk.native_dir().await.expect("new scratch");
    let files = disk.list(&kept).await.expect("lists");
    for file in &files {
        disk.materialize(&kept.join(file), &fresh, "db", file).await.expect("the file comes back");
    }
    let db = open(&platform, fresh.path().join("db")).await;
    let found: Contents = db
        .iterator(IteratorMode::Start)
        .map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).expect("reads"))
        .collect();
    assert!(found == expected, "{} keys came back, {} were written", found.len(), expected.len());
    // The restored database works, and does not touch what it was restored from.
    db.put_opt(b"after", b"the restore", &without_log).expect("puts");
    flush(&platform, &db).await;
    close(&platform, db).await;
    journal(&platform, "restored", found.len() as u64);
    found.len() as u64
}

/// One run: keys that came back, when it ended, its trace.
fn run(seed: u64) -> String {
    let config = WorldConfig { seed, time_limit: Duration::from_secs(600), ..WorldConfig::default() };
    let outcome = sim::run(config, |world| {
        Box::pin(async move {
            world.add_machine("machine");
            let (platform_in, platform) = oneshot::channel();
            let platform_in = Rc::new(RefCell::new(Some(platform_in)));
            let entry = move |platform| {
                if let Some(tell) = platform_in.borrow_mut().take() {
                    let _ = tell.send(platform);
                }
                Box::pin(std::future::pending()) as futures::future::BoxFuture<'static, ()>
            };
            world.add_process("tm-1", "machine", Rc::new(entry));
            world.start("tm-1");
            let platform: Platform = platform.await.expect("the process starts");
            let (keys_in, keys) = oneshot::channel();
            let inner = platform.clone();
            let worker = platform.spawner.worker(
                "spike[0]",
                Box::new(move || {
                    Box::pin(async move {
                        let _ = keys_in.send(life(inner).await);
                    })
                }),
            );
            assert_eq!(worker.await, TaskEnd::Done);
            keys.await.expect("a number")
        })
    });
    let keys = outcome.value.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(outcome.events > 0);
    format!("run: keys {keys} end {:?} trace {:016x}", outcome.end, outcome.trace.final_hash)
}

fn run_elsewhere(seed: u64) -> String {
    let itself = std::env::current_exe().expect("this test is a program");
    let output = Command::new(itself)
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, seed.to_string())
        .output()
        .expect("the test runs itself");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().find(|line| line.starts_with("run: ")).unwrap_or_else(|| panic!("no result in {said}")).to_string()
}

#[test]
fn one_seed_is_one_execution_in_every_process() {
    if let Ok(seed) = std::env::var(CHILD) {
        // On a line of its own, whatever the test runner has printed before.
        println!("\n{}", run(seed.parse().expect("a number")));
        return;
    }
    for seed in [1, 2, 3] {
        let first = run_elsewhere(seed);
        assert_eq!(first, run_elsewhere(seed), "two processes, seed {seed}");
        assert_eq!(first, run(seed), "and this one, seed {seed}");
    }
    assert_ne!(run(1), run(2), "another seed is another execution");
}
