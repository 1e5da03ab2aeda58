//! What RocksDB's options do: one load of values under each of the predefined options and under one changed key at a time.
//!
//! A rotating disk is not at hand everywhere, so the calls by which files are read are counted, and what they would cost on one is
//! computed: a seek for each, and the transfer of its bytes. The kernel counts them, whatever its own cache has.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use clap::Args;
use runtime::{
    dataflow::chain::NativeStage,
    ids::{CheckpointId, OperatorUid},
    state::{
        BackendKind, BackendSettings, KeyedBackend, RocksDbSettings, SlotMemory, ValueState,
        rocksdb_options::{
            host::DatabaseHost, memory::MemoryBudget, options::CompactionStyle, options::RocksDbOptions,
            predefined::PredefinedOptions,
        },
    },
};

use super::{
    state::{ALL_GROUPS, MAX_PARALLELISM, key, scratch},
    usage::load,
};

#[derive(Args)]
pub struct Options {
    /// Values that are written, and read.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(100..))]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(8..))]
    value_bytes: u32,
    /// As a table in Markdown.
    #[arg(long)]
    markdown: bool,
}

/// Of a disk with 7,200 revolutions a minute: a seek of 4.2 ms and half a revolution.
const SEEK: Duration = Duration::from_micros(8_400);
/// Of the same.
const BYTES_PER_SECOND: f64 = 150e6;

/// What is measured, under its name in a configuration.
struct Variant {
    name: String,
    settings: RocksDbSettings,
}

/// As Flink 1.8 has it: every column family with a cache of its own, without a bound.
fn unbounded(options: RocksDbOptions) -> RocksDbSettings {
    RocksDbSettings {
        options,
        memory: MemoryBudget { per_slot: None, ..MemoryBudget::default() },
        ..RocksDbSettings::default()
    }
}

fn variants() -> Vec<Variant> {
    let mut variants: Vec<Variant> = PredefinedOptions::ALL
        .iter()
        .map(|predefined| Variant { name: predefined.name().to_string(), settings: unbounded(predefined.options()) })
        .collect();
    let mut changed = |name: &str, change: fn(&mut RocksDbOptions)| {
        let mut options = RocksDbOptions::default();
        change(&mut options);
        variants.push(Variant { name: name.to_string(), settings: unbounded(options) });
    };
    fn blocks(options: &mut RocksDbOptions) -> &mut runtime::state::rocksdb_options::options::BlockBasedTable {
        options.column_family.blocks().expect("the default format has blocks")
    }
    changed("writebuffer.size: 4 mb", |o| o.column_family.write_buffer_size = Some(4 << 20));
    changed("writebuffer.count: 4, number-to-merge: 3", |o| {
        (o.column_family.max_write_buffer_number, o.column_family.min_write_buffer_number_to_merge) =
            (Some(4), Some(3));
    });
    changed("block.blocksize: 32 kb", |o| blocks(o).block_size = Some(32 << 10));
    changed("block.cache-size: 256 mb", |o| blocks(o).block_cache_size = Some(256 << 20));
    changed("bloom filter, 10 bits (by a factory)", |o| blocks(o).bloom_filter_bits = Some(10.0));
    changed("compaction.style: UNIVERSAL", |o| o.column_family.compaction_style = Some(CompactionStyle::Universal));
    changed("compaction.level.use-dynamic-size: false", |o| {
        o.column_family.level_compaction_dynamic_level_bytes = Some(false);
    });
    changed("compaction.level.target-file-size-base: 4 mb", |o| o.column_family.target_file_size_base = Some(4 << 20));
    changed("compaction.level.max-size-level-base: 16 mb", |o| {
        o.column_family.max_bytes_for_level_base = Some(16 << 20)
    });
    changed("thread.num: 4", |o| o.database.parallelism = Some(4));
    changed("files.open: 16", |o| o.database.max_open_files = Some(16));
    for per_slot in [256 << 20, 32 << 20] {
        let memory = MemoryBudget { per_slot: Some(per_slot), ..MemoryBudget::default() };
        let host = DatabaseHost { memory: SlotMemory::new(&memory), ..DatabaseHost::default() };
        let settings = RocksDbSettings { memory, host, ..RocksDbSettings::default() };
        variants.push(Variant { name: format!("memory.fixed-per-slot: {} mb", per_slot >> 20), settings });
    }
    variants
}

/// What one of them did.
#[derive(Debug)]
struct Row {
    name: String,
    updates_per_second: f64,
    reads_per_second: f64,
    absent_per_second: f64,
    /// Per thousand reads of values that are there.
    read_calls: f64,
    read_kib: f64,
    /// Bytes that were written to files, for each byte of a value.
    written_again: f64,
    barrier: Duration,
    disk_mib: f64,
}

impl Row {
    /// Milliseconds that a read would take on a rotating disk whose cache is cold.
    fn rotating_ms(&self) -> f64 {
        let seeks = self.read_calls / 1_000.0 * SEEK.as_secs_f64();
        let transfer = self.read_kib / 1_000.0 * 1_024.0 / BYTES_PER_SECOND;
        (seeks + transfer) * 1_000.0
    }
}

/// Calls that read, bytes read, bytes written, by this process so far; zero where the kernel does not count.
#[derive(Clone, Copy, Default)]
struct Calls {
    reads: u64,
    read_bytes: u64,
    written_bytes: u64,
}

fn calls() -> Calls {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0);
    Calls { reads: field("syscr:"), read_bytes: field("rchar:"), written_bytes: field("wchar:") }
}

fn bytes_below(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
}

fn measure_one(variant: Variant, keys: u64, value_bytes: u32) -> Result<Row, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let settings = BackendSettings {
        kind: BackendKind::RocksDb,
        incremental: true,
        rocksdb: variant.settings,
        ..BackendSettings::default()
    };
    let (uid, scratch) = (OperatorUid("figures".to_string()), scratch()?);
    let directory = scratch.directory.path();
    let restored = KeyedBackend::<u64>::restore(uid, ALL_GROUPS, MAX_PARALLELISM, &[], Some(scratch), &settings);
    let mut backend = restored.map_err(|error| text(&error))?;
    let values: ValueState<Vec<u8>> = backend.open_context().value_state("values").map_err(|error| text(&error))?;
    backend.opened();
    if let Some(call) = backend.native_calls(NativeStage::Open) {
        (call.run)().map_err(|failure| text(&failure))?;
    }
    backend.natively_opened().map_err(|error| text(&error))?;

    // Half of it changes from value to value: RocksDB compresses.
    let mut value = vec![7u8; value_bytes as usize];
    let mut update = |backend: &mut KeyedBackend<u64>, n: u64| -> Result<(), String> {
        let half = value.len() / 2;
        value[..half].chunks_mut(8).enumerate().for_each(|(i, chunk)| {
            let noise = key(n + i as u64).to_le_bytes();
            chunk.copy_from_slice(&noise[..chunk.len()]);
        });
        let at = key(n);
        let mut ctx = backend.context(&at).map_err(|error| text(&error))?.ok_or("every key group is here")?;
        values.update(&mut ctx, value.clone()).map_err(|error| text(&error))
    };
    let read = |backend: &mut KeyedBackend<u64>, n: u64| -> Result<bool, String> {
        let at = key(n);
        let ctx = backend.context(&at).map_err(|error| text(&error))?.ok_or("every key group is here")?;
        values.get(&ctx).map(|found| found.is_some()).map_err(|error| text(&error))
    };
    let scattered = |n: u64| n.wrapping_mul(7_919) % keys;

    let (before, started) = (calls(), Instant::now());
    for n in 0..keys {
        update(&mut backend, n)?;
    }
    for n in 0..keys {
        update(&mut backend, scattered(n))?;
    }
    let updates_per_second = 2.0 * keys as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    let native = backend.native_snapshot(CheckpointId(1)).map_err(|error| text(&error))?;
    let native = native.ok_or("checkpoints are incremental")?;
    (native.take)()?;
    let barrier = started.elapsed();
    let written = calls().written_bytes - before.written_bytes;
    let written_again = written as f64 / (2 * keys * u64::from(value_bytes)) as f64;
    let disk_mib = bytes_below(&directory.join(&native.subdirectory)) as f64 / f64::from(1 << 20);

    // In the order of no file.
    let (before, started) = (calls(), Instant::now());
    for n in 0..keys {
        if !read(&mut backend, scattered(n))? {
            return Err(format!("{}: a value that was written is not there", variant.name));
        }
    }
    let reads_per_second = keys as f64 / started.elapsed().as_secs_f64();
    let after = calls();
    let per_thousand = |count: u64| count as f64 * 1_000.0 / keys as f64;
    let (read_calls, read_kib) =
        (per_thousand(after.reads - before.reads), per_thousand(after.read_bytes - before.read_bytes) / 1_024.0);
    let started = Instant::now();
    for n in 0..keys {
        if read(&mut backend, keys + n)? {
            return Err(format!("{}: a value is there that was never written", variant.name));
        }
    }
    let absent_per_second = keys as f64 / started.elapsed().as_secs_f64();
    Ok(Row {
        name: variant.name,
        updates_per_second,
        reads_per_second,
        absent_per_second,
        read_calls,
        read_kib,
        written_again,
        barrier,
        disk_mib,
    })
}

fn table(rows: &[Row], markdown: bool) -> String {
    let header = [
        "options",
        "updates/s",
        "reads/s",
        "reads of absent/s",
        "read calls per 1,000 reads",
        "KiB per 1,000 reads",
        "ms per read, rotating",
        "bytes written per byte",
        "first checkpoint, ms",
        "files, MiB",
    ];
    let line = |cells: &[String]| match markdown {
        true => format!("| {} |\n", cells.join(" | ")),
        false => {
            let (name, rest) = cells.split_first().expect("a row has a name");
            let rest: Vec<String> = rest.iter().map(|cell| format!("{cell:>27}")).collect();
            format!("  {name:<46}{}\n", rest.join(""))
        }
    };
    let mut text = line(&header.map(str::to_string));
    if markdown {
        text += &format!("|---|{}\n", "---:|".repeat(header.len() - 1));
    }
    for row in rows {
        let whole = |number: f64| format!("{number:.0}");
        let cells = [
            row.name.clone(),
            whole(row.updates_per_second),
            whole(row.reads_per_second),
            whole(row.absent_per_second),
            whole(row.read_calls),
            whole(row.read_kib),
            format!("{:.2}", row.rotating_ms()),
            format!("{:.2}", row.written_again),
            whole(row.barrier.as_secs_f64() * 1_000.0),
            format!("{:.1}", row.disk_mib),
        ];
        text += &line(&cells);
    }
    text
}

fn rows(keys: u64, value_bytes: u32) -> Result<Vec<Row>, String> {
    variants().into_iter().map(|variant| measure_one(variant, keys, value_bytes)).collect()
}

pub fn measure(options: &Options) -> Result<(), String> {
    let mut text = format!("options  {} values of {} bytes, {}\n", options.keys, options.value_bytes, load());
    // Writing to a String does not fail.
    let _ = write!(text, "{}", table(&rows(options.keys, options.value_bytes)?, options.markdown));
    print!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R149, R150: the figure is made on a small load: every predefined set of options and each changed key has its row, and the sum for a
    /// rotating disk follows from what was counted.
    #[test]
    fn each_option_has_its_row() {
        let rows = rows(2_000, 64).expect("measured");
        let text = table(&rows, true);
        for predefined in PredefinedOptions::ALL {
            assert!(text.contains(&format!("| {} |", predefined.name())), "{text}");
        }
        for key in ["writebuffer.size", "block.blocksize", "compaction.style", "memory.fixed-per-slot"] {
            assert!(text.contains(key), "{text}");
        }
        assert_eq!(text.lines().count(), rows.len() + 2);
        assert!(
            rows.iter().all(|row| row.updates_per_second > 0.0 && row.disk_mib > 0.0 && row.written_again > 0.0),
            "{text}"
        );
        let row =
            Row { read_calls: 2_000.0, read_kib: 0.0, ..measure_one(variants().remove(0), 500, 64).expect("measured") };
        assert!((row.rotating_ms() - 16.8).abs() < 0.001, "{}", row.rotating_ms());
    }
}
