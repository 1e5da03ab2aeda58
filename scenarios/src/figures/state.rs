//! What keyed state costs: reads and updates per second for each backend and kind of state, and snapshots of growing state, full
//! and incremental: the part for which the stream stands still, the part beside it, bytes written, and the time to restore.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use runtime::{
    checkpoint::{
        increments::SharedFiles,
        types::{PartKind, PartLocation, StatePart},
    },
    dataflow::chain::{NativeSnapshot, NativeStage, RestoredNative, Scratch},
    ids::{BackendId, CheckpointId, KeyGroup, KeyGroupRange, OperatorUid},
    platform::NativeDir,
    state::{
        BackendKind, BackendSettings, KeyedBackend, ListState, MAX_MAX_PARALLELISM, MapState, Timers, TimersPlace,
        ValueState,
    },
};

use super::{Rounds, usage::load};

pub(super) const MAX_PARALLELISM: u16 = 128;
pub(super) const ALL_GROUPS: KeyGroupRange = KeyGroupRange { first: KeyGroup(0), last: KeyGroup(MAX_PARALLELISM - 1) };

#[derive(Args)]
pub struct Options {
    /// Operations of each kind in a round.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    operations: u64,
    /// Keys that the operations are spread over.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Keys of the state that snapshots are taken of, one after the other, such as 10000,100000,1000000,10000000.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000", value_parser = clap::value_parser!(u64).range(100..))]
    sizes: Vec<u64>,
    /// Timers that are registered and fired in a round, one number after the other, such as 1000,10000,100000,1000000.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000", value_parser = clap::value_parser!(u64).range(1..))]
    timers: Vec<u64>,
    /// What is measured; all of it, if nothing is said.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// A part of the figures.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Operations,
    Timers,
    Snapshots,
    KeyGroups,
}

/// An operator's state outside of any cluster.
struct Operator {
    backend: KeyedBackend<u64>,
    timers: Timers,
    value: ValueState<(u64, u64)>,
    list: ListState<u64>,
    map: MapState<u8, u64>,
}

/// A key is made so that neighbours are far apart.
pub(super) fn key(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(super) fn scratch() -> Result<Scratch, String> {
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
        Operator::open_with(settings, MAX_PARALLELISM, parts, scratch)
    }

    /// With so many key groups, and all of them.
    fn open_with(
        settings: &BackendSettings,
        key_groups: u16,
        parts: &[(KeyGroupRange, Bytes)],
        scratch: Option<Scratch>,
    ) -> Result<Operator, String> {
        let uid = OperatorUid("figures".to_string());
        let all = KeyGroupRange { first: KeyGroup(0), last: KeyGroup(key_groups - 1) };
        let mut backend =
            KeyedBackend::restore(uid, all, key_groups, parts, scratch, settings).map_err(|error| error.to_string())?;
        let mut ctx = backend.open_context();
        let value = ctx.value_state("value").map_err(|error| error.to_string())?;
        let list = ctx.list_state("list").map_err(|error| error.to_string())?;
        let map = ctx.map_state("map").map_err(|error| error.to_string())?;
        let timers = ctx.event_timers().map_err(|error| error.to_string())?;
        backend.opened();
        if let Some(call) = backend.native_calls(NativeStage::Open) {
            (call.run)().map_err(|failure| failure.to_string())?;
        }
        backend.natively_opened().map_err(|error| error.to_string())?;
        Ok(Operator { backend, timers, value, list, map })
    }

    fn fresh(settings: &BackendSettings) -> Result<Operator, String> {
        Operator::fresh_with(settings, MAX_PARALLELISM)
    }

    fn fresh_with(settings: &BackendSettings, key_groups: u16) -> Result<Operator, String> {
        let scratch = if settings.kind == BackendKind::RocksDb { Some(scratch()?) } else { None };
        Operator::open_with(settings, key_groups, &[], scratch)
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

const KINDS: [(&str, Operation); 4] = [
    ("value, read and updated", Operator::count),
    ("value, read", Operator::read),
    ("list, appended to", Operator::push),
    ("map, read and inserted into", Operator::insert),
];

/// Operations per second of one kind, in each backend by turns, so that a busy machine is busy for both.
fn operations_of(options: &Options, operation: Operation) -> Result<[Rounds; 2], String> {
    let mut rates = [Rounds::default(), Rounds::default()];
    for _ in 0..options.rounds {
        for ((_, settings), rate) in backends().iter().zip(&mut rates) {
            let mut operator = Operator::fresh(settings)?;
            for n in 0..options.keys {
                operator.count(key(n))?;
            }
            let started = Instant::now();
            for n in 0..options.operations {
                operation(&mut operator, key(n.wrapping_mul(7919) % options.keys))?;
            }
            operator.backend.settle().map_err(|error| error.to_string())?;
            rate.add(options.operations as f64 / started.elapsed().as_secs_f64());
        }
    }
    Ok(rates)
}

fn operations(options: &Options) -> Result<String, String> {
    let mut text = format!("state  operations/s, {} keys, {}\n", options.keys, load());
    for (what, operation) in KINDS {
        let rates = operations_of(options, operation)?;
        for ((name, _), rate) in backends().iter().zip(&rates) {
            text += &format!("  {name:<8} {what:<28} {rate}\n");
        }
        let [heap, rocksdb] = rates;
        text += &format!("  {:<8} {what:<28} rocksdb is {:.1} times slower\n", "", heap.median() / rocksdb.median());
    }
    Ok(text)
}

/// Timers of keys in no order, each for an instant of its own, registered and then fired one by one.
fn timers_of(settings: &BackendSettings, count: u64, rounds: u32) -> Result<(Rounds, Rounds, u64), String> {
    let (mut registered, mut fired, mut in_memory) = (Rounds::default(), Rounds::default(), 0);
    for _ in 0..rounds {
        let mut operator = Operator::fresh(settings)?;
        let started = Instant::now();
        for n in 0..count {
            let (key, instant) = (key(n), (key(n) >> 2).cast_signed());
            let ctx = operator.backend.context(&key).map_err(|error| error.to_string())?;
            let mut ctx = ctx.ok_or("every key group is here")?;
            operator.timers.register(&mut ctx, instant).map_err(|error| error.to_string())?;
        }
        registered.add(count as f64 / started.elapsed().as_secs_f64());
        in_memory = operator.backend.timer_bytes_in_memory();
        let started = Instant::now();
        let mut due = 0;
        while operator.backend.fire_due(operator.timers, i64::MAX).map_err(|error| error.to_string())? {
            due += 1;
        }
        if due != count {
            return Err(format!("{due} timers fired, {count} were registered"));
        }
        fired.add(count as f64 / started.elapsed().as_secs_f64());
    }
    Ok((registered, fired, in_memory))
}

fn timers(options: &Options) -> Result<String, String> {
    let mut text = format!("state  timers/s, {}\n", load());
    let in_database =
        BackendSettings { kind: BackendKind::RocksDb, timers: TimersPlace::RocksDb, ..BackendSettings::default() };
    for &count in &options.timers {
        for (name, settings) in [("heap", BackendSettings::default()), ("rocksdb", in_database.clone())] {
            let (registered, fired, in_memory) = timers_of(&settings, count, options.rounds)?;
            text += &format!("  {count:>9} timers  {name:<8} registered  {registered}\n");
            text += &format!("  {count:>9} timers  {name:<8} fired       {fired}\n");
            text += &format!("  {count:>9} timers  {name:<8} in memory   {in_memory} bytes\n");
        }
    }
    Ok(text)
}

/// What a snapshot cost.
#[derive(Default)]
struct Cost {
    sync: Duration,
    beside: Duration,
    written: u64,
    restore: Duration,
}

fn row(keys: u64, what: &str, cost: &Cost) -> String {
    let ms = |d: Duration| d.as_secs_f64() * 1_000.0;
    format!(
        "  {keys:>9} keys  {what:<22} sync {:>9.3} ms, beside the stream {:>9.1} ms, {:>11} bytes, restored in {:>8.1} ms",
        ms(cost.sync),
        ms(cost.beside),
        cost.written,
        ms(cost.restore)
    )
}

fn full(settings: &BackendSettings, keys: u64) -> Result<Cost, String> {
    let mut operator = Operator::fresh(settings)?;
    for n in 0..keys {
        operator.count(key(n))?;
    }
    full_of(settings, operator, MAX_PARALLELISM)
}

/// A full snapshot of an operator that has so many key groups.
fn full_of(settings: &BackendSettings, mut operator: Operator, key_groups: u16) -> Result<Cost, String> {
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
    Operator::open_with(settings, key_groups, &parts, scratch)?;
    let written = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    Ok(Cost { sync, beside, written, restore: started.elapsed() })
}

const KEY_GROUPS: [u16; 2] = [MAX_PARALLELISM, MAX_MAX_PARALLELISM];

/// The same state in few key groups and in as many as there can be, by turns: updates per second, and the last full snapshot.
fn key_groups_of(options: &Options, settings: &BackendSettings) -> Result<[(Rounds, Cost); 2], String> {
    let mut figures: [(Rounds, Cost); 2] = Default::default();
    for _ in 0..options.rounds {
        for (key_groups, (updates, cost)) in KEY_GROUPS.into_iter().zip(&mut figures) {
            let mut operator = Operator::fresh_with(settings, key_groups)?;
            for n in 0..options.keys {
                operator.count(key(n))?;
            }
            let started = Instant::now();
            for n in 0..options.operations {
                operator.count(key(n.wrapping_mul(7919) % options.keys))?;
            }
            operator.backend.settle().map_err(|error| error.to_string())?;
            updates.add(options.operations as f64 / started.elapsed().as_secs_f64());
            *cost = full_of(settings, operator, key_groups)?;
        }
    }
    Ok(figures)
}

fn key_groups(options: &Options) -> Result<(), String> {
    println!("state  key groups, updates/s, {} keys, {}", options.keys, load());
    for (name, settings) in backends() {
        let figures = key_groups_of(options, &settings)?;
        for (key_groups, (updates, cost)) in KEY_GROUPS.into_iter().zip(&figures) {
            println!("  {name:<8} {key_groups:>5} key groups  {updates}");
            println!("{}", row(options.keys, &format!("{name}, full, {key_groups}"), cost));
        }
    }
    Ok(())
}

/// Takes a native checkpoint; gives its files, with their lengths.
fn take(native: NativeSnapshot) -> Result<BTreeMap<String, u64>, String> {
    let directory = native.directory.path().join(&native.subdirectory);
    (native.take)()?;
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&directory).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("OPTIONS") {
            files.insert(name, entry.metadata().map_err(|error| error.to_string())?.len());
        }
    }
    Ok(files)
}

fn shared(files: &BTreeMap<String, u64>) -> SharedFiles {
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
        let checkpoint_directory = native.directory.path().join(&native.subdirectory);
        let started = Instant::now();
        let files = take(native)?;
        let beside = started.elapsed();
        let new = files.iter().filter(|(name, _)| !base.contains_key(*name));
        let written = new.map(|(_, length)| length).sum();
        base = shared(&files);
        let mut scratch = scratch()?;
        let directory = scratch.directory.path().join("restored-0");
        std::fs::create_dir(&directory).map_err(|error| error.to_string())?;
        for name in files.keys() {
            // Not in memory: there may be much of them.
            let copied = std::fs::copy(checkpoint_directory.join(name), directory.join(name));
            copied.map_err(|error| format!("cannot copy {name}: {error}"))?;
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
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    if wanted(Part::Operations) {
        print!("{}", operations(options)?);
    }
    if wanted(Part::Timers) {
        print!("{}", timers(options)?);
    }
    if wanted(Part::KeyGroups) {
        key_groups(options)?;
    }
    if !wanted(Part::Snapshots) {
        return Ok(());
    }
    println!("state  snapshots, {}", load());
    for &keys in &options.sizes {
        for (name, settings) in backends() {
            println!("{}", row(keys, &format!("{name}, full"), &full(&settings, keys)?));
        }
        let (first, second) = incremental(keys)?;
        println!("{}", row(keys, "rocksdb, first", &first));
        println!("{}", row(keys, "rocksdb, 1 % changed", &second));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Options {
        Options {
            operations: 400,
            keys: 100,
            sizes: vec![100],
            timers: vec![1_000, 20_000],
            only: Vec::new(),
            rounds: 1,
        }
    }

    /// R95, R103: one run has every kind of state on both backends, and how much slower RocksDB is: what the guide to the backends goes by.
    #[test]
    fn operations_of_both_backends_are_in_one_table() {
        let text = operations(&small()).expect("measured");
        for (what, _) in KINDS {
            // Padded: one kind's name is the beginning of another's.
            let column = format!(" {what:<28} ");
            let lines = text.lines().filter(|line| line.contains(&column));
            assert_eq!(lines.count(), 3, "{text}");
        }
        assert_eq!(text.matches("times slower").count(), KINDS.len(), "{text}");
    }

    /// R176: the same state in 128 and in 32768 key groups; each costs a full snapshot 2 bytes, and 12 for each state, on either backend.
    #[test]
    fn few_and_many_key_groups_are_compared() {
        for (name, settings) in backends() {
            let [(few_updates, few), (many_updates, many)] = key_groups_of(&small(), &settings).expect("measured");
            assert!(few_updates.median() > 0.0 && many_updates.median() > 0.0);
            // A value, a list, a map and timers; the numbers in the heads are longer, too.
            let (more, expected) = (many.written - few.written, (32_768 - 128) * (2 + 4 * 12));
            assert!((expected..expected + 64).contains(&more), "{name}: {more}, not {expected}");
        }
    }

    /// R24, R144: a row has the part for which the stream stands still, that beside it, and bytes. What a checkpoint writes when little has
    /// changed is a fraction of a full snapshot of the same state, which is what a savepoint is.
    #[test]
    fn an_increment_costs_a_fraction_of_a_full_snapshot() {
        let keys = 10_000;
        let [(_, heap), (_, rocksdb)] = backends();
        let (first, changed) = incremental(keys).expect("measured");
        for settings in [heap, rocksdb] {
            let whole = full(&settings, keys).expect("measured");
            assert!(changed.written * 5 < whole.written, "{} of {} bytes", changed.written, whole.written);
            let text = row(keys, "full", &whole);
            for column in ["sync ", "beside the stream", " bytes", "restored in"] {
                assert!(text.contains(column), "{column}: {text}");
            }
        }
        assert!(changed.written < first.written, "{} after {} bytes", changed.written, first.written);
    }

    /// R156: timers of each number on the heap and in RocksDB; only on the heap does their memory grow as they do.
    #[test]
    fn timers_of_both_places_are_in_one_table() {
        let text = timers(&small()).expect("measured");
        let in_memory: Vec<u64> = text
            .lines()
            .filter(|line| line.contains("in memory"))
            .map(|line| line.split_whitespace().rev().nth(1).expect("a number").parse().expect("a number"))
            .collect();
        let [heap_few, database_few, heap_many, database_many] = in_memory[..] else { panic!("{text}") };
        // An instant takes a byte more or less.
        assert!(heap_many.abs_diff(heap_few * 20) * 100 < heap_many, "{text}");
        assert!(database_few <= heap_few && database_many < heap_many, "{text}");
        assert_eq!(text.lines().count(), 1 + 2 * 2 * 3, "{text}");
    }
}
