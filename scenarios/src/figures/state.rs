//! What keyed state costs: reads and updates per second for each backend and kind of state, and snapshots of growing state, full
//! and incremental: the part for which the stream stands still, the part beside it, bytes written, and the time to restore.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use runtime::{
    checkpoint::{
        increments::SharedFiles,
        types::{PartKind, PartLocation, StatePart},
    },
    dataflow::chain::{NativeSnapshot, NativeStage, RestoredNative, Scratch},
    ids::{BackendId, CheckpointId, KeyGroup, KeyGroupRange, OperatorUid},
    platform::NativeDir,
    state::{BackendKind, BackendSettings, KeyedBackend, ListState, MapState, ValueState},
};

use super::{Rounds, usage::load};

const MAX_PARALLELISM: u16 = 128;
const ALL_GROUPS: KeyGroupRange = KeyGroupRange { first: KeyGroup(0), last: KeyGroup(MAX_PARALLELISM - 1) };

#[derive(Args)]
pub struct Options {
    /// Operations of each kind in a round.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    operations: u64,
    /// Keys that the operations are spread over.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Snapshots of state with 10,000 keys, and of ten times as many each time, up to so many.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    most_keys: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// An operator's state outside of any cluster.
struct Operator {
    backend: KeyedBackend<u64>,
    value: ValueState<(u64, u64)>,
    list: ListState<u64>,
    map: MapState<u8, u64>,
}

/// A key is made so that neighbours are far apart.
fn key(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn scratch() -> Result<Scratch, String> {
    let directory = tempfile::tempdir().map_err(|error| format!("cannot make a directory: {error}"))?;
    let directory = NativeDir(Arc::new(directory));
    Ok(Scratch { directory, backend: BackendId(1), restored: Vec::new(), unclipped: false })
}

impl Operator {
    fn open(
        settings: &BackendSettings,
        parts: &[(KeyGroupRange, Bytes)],
        scratch: Option<Scratch>,
    ) -> Result<Operator, String> {
        let uid = OperatorUid("figures".to_string());
        let mut backend = KeyedBackend::restore(uid, ALL_GROUPS, MAX_PARALLELISM, parts, scratch, settings)
            .map_err(|error| error.to_string())?;
        let mut ctx = backend.open_context();
        let value = ctx.value_state("value").map_err(|error| error.to_string())?;
        let list = ctx.list_state("list").map_err(|error| error.to_string())?;
        let map = ctx.map_state("map").map_err(|error| error.to_string())?;
        backend.opened();
        if let Some(call) = backend.native_calls(NativeStage::Open) {
            (call.run)().map_err(|failure| failure.to_string())?;
        }
        Ok(Operator { backend, value, list, map })
    }

    fn fresh(settings: &BackendSettings) -> Result<Operator, String> {
        let scratch = if settings.kind == BackendKind::RocksDb { Some(scratch()?) } else { None };
        Operator::open(settings, &[], scratch)
    }

    /// Reads and updates a value.
    fn count(&mut self, key: u64) -> Result<(), String> {
        let ctx = self.backend.context(&key).map_err(|error| error.to_string())?;
        let mut ctx = ctx.ok_or("every key group is here")?;
        let (count, sum) = self.value.get_or_default_mut(&mut ctx).map_err(|error| error.to_string())?;
        *count += 1;
        *sum = sum.wrapping_add(key);
        Ok(())
    }

    fn read(&mut self, key: u64) -> Result<(), String> {
        let ctx = self.backend.context(&key).map_err(|error| error.to_string())?.ok_or("every key group is here")?;
        self.value.get(&ctx).map(drop).map_err(|error| error.to_string())
    }

    fn push(&mut self, key: u64) -> Result<(), String> {
        let ctx = self.backend.context(&key).map_err(|error| error.to_string())?;
        let mut ctx = ctx.ok_or("every key group is here")?;
        self.list.push(&mut ctx, key).map_err(|error| error.to_string())
    }

    fn insert(&mut self, key: u64) -> Result<(), String> {
        let ctx = self.backend.context(&key).map_err(|error| error.to_string())?;
        let mut ctx = ctx.ok_or("every key group is here")?;
        let at = (key >> 60) as u8;
        let known = self.map.get(&ctx, &at).map_err(|error| error.to_string())?.copied().unwrap_or(0);
        self.map.insert(&mut ctx, at, known + 1).map_err(|error| error.to_string())
    }
}

fn backends() -> [(&'static str, BackendSettings); 2] {
    let of = |kind| BackendSettings { kind, ..BackendSettings::default() };
    [("heap", of(BackendKind::Filesystem)), ("rocksdb", of(BackendKind::RocksDb))]
}

type Operation = fn(&mut Operator, u64) -> Result<(), String>;

fn operations(options: &Options) -> Result<(), String> {
    let kinds: [(&str, Operation); 4] = [
        ("value, read and updated", Operator::count),
        ("value, read", Operator::read),
        ("list, appended to", Operator::push),
        ("map, read and inserted into", Operator::insert),
    ];
    println!("state  operations/s, {} keys, {}", options.keys, load());
    for (name, settings) in backends() {
        for (what, operation) in kinds {
            let mut rounds = Rounds::default();
            for _ in 0..options.rounds {
                let mut operator = Operator::fresh(&settings)?;
                for n in 0..options.keys {
                    operator.count(key(n))?;
                }
                let started = Instant::now();
                for n in 0..options.operations {
                    operation(&mut operator, key(n.wrapping_mul(7919) % options.keys))?;
                }
                operator.backend.settle().map_err(|error| error.to_string())?;
                rounds.add(options.operations as f64 / started.elapsed().as_secs_f64());
            }
            println!("  {name:<8} {what:<28} {rounds}");
        }
    }
    Ok(())
}

/// What a snapshot cost.
#[derive(Default)]
struct Cost {
    sync: Duration,
    beside: Duration,
    written: u64,
    restore: Duration,
}

fn show(keys: u64, what: &str, cost: &Cost) {
    let ms = |d: Duration| d.as_secs_f64() * 1_000.0;
    println!(
        "  {keys:>9} keys  {what:<22} sync {:>9.3} ms, beside the stream {:>9.1} ms, {:>11} bytes, restored in {:>8.1} ms",
        ms(cost.sync),
        ms(cost.beside),
        cost.written,
        ms(cost.restore)
    );
}

fn full(settings: &BackendSettings, keys: u64) -> Result<Cost, String> {
    let mut operator = Operator::fresh(settings)?;
    for n in 0..keys {
        operator.count(key(n))?;
    }
    let started = Instant::now();
    let sources = operator.backend.snapshot().map_err(|error| error.to_string())?;
    let sync = started.elapsed();
    let started = Instant::now();
    let mut parts = Vec::new();
    for source in sources {
        parts.push((source.key_groups, source.data.encoded().ok_or("nothing is reused here")?));
    }
    let beside = started.elapsed();
    drop(operator);
    let scratch = if settings.kind == BackendKind::RocksDb { Some(scratch()?) } else { None };
    let started = Instant::now();
    Operator::open(settings, &parts, scratch)?;
    let written = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    Ok(Cost { sync, beside, written, restore: started.elapsed() })
}

/// Takes a native checkpoint; gives its files.
fn take(native: NativeSnapshot) -> Result<BTreeMap<String, Bytes>, String> {
    (native.take)()?;
    let directory = native.directory.path().join(&native.subdirectory);
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&directory).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.starts_with("OPTIONS") {
            files.insert(name, Bytes::from(std::fs::read(&path).map_err(|error| error.to_string())?));
        }
    }
    Ok(files)
}

fn shared(files: &BTreeMap<String, Bytes>) -> SharedFiles {
    let part = |file: &String| StatePart {
        operator: OperatorUid("figures".to_string()),
        key_groups: ALL_GROUPS,
        name: file.clone(),
        kind: PartKind::Shared { file: file.clone() },
        location: PartLocation::Inline(Bytes::new()),
        length: 0,
        crc32c: 0,
        written_by: CheckpointId(1),
        backend: None,
    };
    files.keys().filter(|file| file.ends_with(".sst")).map(|file| (file.clone(), part(file))).collect()
}

/// The first incremental checkpoint, and one after a hundredth of the keys has changed.
fn incremental(keys: u64) -> Result<(Cost, Cost), String> {
    let settings = BackendSettings { kind: BackendKind::RocksDb, incremental: true, ..BackendSettings::default() };
    let mut operator = Operator::fresh(&settings)?;
    for n in 0..keys {
        operator.count(key(n))?;
    }
    let mut costs = Vec::new();
    let mut base = SharedFiles::new();
    for checkpoint in 1..=2 {
        let started = Instant::now();
        let native = operator.backend.native_snapshot(CheckpointId(checkpoint)).map_err(|error| error.to_string())?;
        let sync = started.elapsed();
        let native = native.ok_or("checkpoints are incremental")?;
        let started = Instant::now();
        let files = take(native)?;
        let beside = started.elapsed();
        let new = files.iter().filter(|(name, _)| !base.contains_key(*name));
        let written = new.map(|(_, bytes)| bytes.len() as u64).sum();
        base = shared(&files);
        let mut scratch = scratch()?;
        let directory = scratch.directory.path().join("restored-0");
        std::fs::create_dir(&directory).map_err(|error| error.to_string())?;
        for (name, bytes) in &files {
            std::fs::write(directory.join(name), bytes).map_err(|error| error.to_string())?;
        }
        scratch.restored.push(RestoredNative {
            checkpoint: CheckpointId(checkpoint),
            backend: BackendId(1),
            key_groups: ALL_GROUPS,
            subdirectory: "restored-0".to_string(),
            shared: base.clone(),
        });
        let started = Instant::now();
        Operator::open(&settings, &[], Some(scratch))?;
        costs.push(Cost { sync, beside, written, restore: started.elapsed() });
        for n in 0..keys / 100 {
            operator.count(key(n * 100))?;
        }
    }
    let (Some(second), Some(first)) = (costs.pop(), costs.pop()) else { return Err("two were taken".to_string()) };
    Ok((first, second))
}

pub fn measure(options: &Options) -> Result<(), String> {
    operations(options)?;
    println!("state  snapshots, {}", load());
    let mut keys = 10_000;
    while keys <= options.most_keys {
        for (name, settings) in backends() {
            show(keys, &format!("{name}, full"), &full(&settings, keys)?);
        }
        let (first, second) = incremental(keys)?;
        show(keys, "rocksdb, first", &first);
        show(keys, "rocksdb, 1 % changed", &second);
        keys *= 10;
    }
    Ok(())
}
