//! From native checkpoints to a working database.
//!
//! The one checkpoint of exactly these key groups is opened as it is, and the database goes on under its name. Otherwise the
//! checkpoint with the best overlap becomes the database, what is not of these key groups is removed from it, and what is of
//! them in the others is copied into it (Flink `RocksDBIncrementalRestoreOperation`); it is a new database then, without a base.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::{
    contents::Contents,
    database::{Database, FrozenDatabase, WORKING, database_error},
    declared::Split,
    expiry::Expiring,
    layout::{group_length, group_start, put_tail},
    open::{BATCH_BYTES, OpenFailure},
};
use crate::{
    dataflow::chain::RestoredNative,
    ids::KeyGroupRange,
    platform::NativeDir,
    state::{
        error::{StateError, StateProblem},
        format::{PartHeader, encode_part},
        rocksdb_options::host::DatabaseHost,
        settings::RocksDbSettings,
    },
};

/// A database with what was restored into it.
pub(super) struct Restoring {
    pub database: Database,
    /// What it said of itself.
    pub before: Contents,
    /// The checkpoint it goes on from as it was.
    pub adopted: Option<RestoredNative>,
    /// Its keys were of a type of another name: of the same structure, but perhaps not with the same hashes.
    pub keys_renamed: bool,
}

fn environment(what: &str, error: &rocksdb::Error) -> OpenFailure {
    OpenFailure::Environment(format!("{what}: {error}"))
}

/// Opens the database with at least `families`. `header` says what for.
pub(super) fn restore_native(
    directory: NativeDir,
    settings: &RocksDbSettings,
    header: &PartHeader,
    families: Vec<String>,
    expiring: &Expiring,
    restored: &[RestoredNative],
    unclipped: bool,
) -> Result<Restoring, OpenFailure> {
    let does_not_open = |error| environment("its database does not open", &error);
    let Some(best) = best_overlap(header.key_groups, restored) else {
        let database = Database::open(directory, WORKING, settings, families, expiring).map_err(does_not_open)?;
        let before = Contents { header: header.clone(), whole: Vec::new() };
        return Ok(Restoring { database, before, adopted: None, keys_renamed: false });
    };
    let (mut families, mut known) = (families, Vec::new());
    for native in restored {
        let of_this = Database::families_of(&directory, &native.subdirectory, settings).map_err(does_not_open)?;
        families.extend(of_this.iter().cloned());
        known.push(of_this);
    }
    let initial = &restored[best];
    let database = Database::open(directory.clone(), &initial.subdirectory, settings, families, expiring)
        .map_err(does_not_open)?;
    let mut before = contents_of(&database, header)?;
    let mut keys_renamed = before.header.key_type != header.key_type;
    if let [only] = restored
        && only.key_groups == header.key_groups
    {
        return Ok(Restoring { database, before, adopted: Some(only.clone()), keys_renamed });
    }
    if !unclipped {
        clip(&database, header)?;
    }
    for (position, native) in restored.iter().enumerate().filter(|(position, _)| *position != best) {
        let families = std::mem::take(&mut known[position]);
        let other = Database::open_to_read(directory.clone(), &native.subdirectory, settings, families);
        let other = other.map_err(does_not_open)?;
        let of_other = contents_of(&other, header)?;
        keys_renamed |= of_other.header.key_type != header.key_type;
        merge_contents(&mut before, of_other)?;
        copy(&other, &database, header)?;
        database.note_longest_lists_of(&other)?;
    }
    Ok(Restoring { database, before, adopted: None, keys_renamed })
}

/// All that the files of a native checkpoint hold, as one part of a full snapshot. A native call.
///
/// # Errors
/// If they are not a database that says what it holds, or it holds what is of other key groups.
pub fn part_of_database(directory: NativeDir, subdirectory: &str) -> Result<Bytes, String> {
    let host = DatabaseHost { fleeting: true, ..DatabaseHost::default() };
    let settings = RocksDbSettings { auto_compaction: false, host, ..RocksDbSettings::default() };
    let failed = |error: rocksdb::Error| format!("the database does not open: {error}");
    let database = Arc::new(Database::open_all_to_read(directory, subdirectory, &settings).map_err(failed)?);
    let contents = Contents::read(&database).map_err(failed)?.map_err(|what| format!("the database {what}"))?;
    for (from, to) in outside(&contents.header) {
        for name in database.families().iter().filter(|name| *name != "default") {
            let mut foreign = 0;
            let scanned = database.scan_family(name, &from, Some(to.clone()), |_, _| {
                foreign += 1;
                Ok(true)
            });
            scanned.map_err(|error| error.to_string())?;
            if foreign > 0 {
                let own = contents.header.key_groups;
                return Err(format!("{foreign} entries of {name} are not of its key groups {own}"));
            }
        }
    }
    let frozen = Arc::new(FrozenDatabase::of(&database));
    let sections = contents.sections(&frozen, contents.header.key_groups, |_| None);
    Ok(encode_part(&contents.header, false, &sections))
}

fn overlap(wanted: KeyGroupRange, of: KeyGroupRange) -> u32 {
    let first = u32::from(wanted.first.0.max(of.first.0));
    let last = u32::from(wanted.last.0.min(of.last.0));
    (last + 1).saturating_sub(first)
}

/// The position of the checkpoint to begin with: the one of which most is wanted, in number and in part.
fn best_overlap(wanted: KeyGroupRange, restored: &[RestoredNative]) -> Option<usize> {
    // overlap * (overlap / count)^2, compared without fractions: the one with the largest is the first of equals.
    let score = |native: &RestoredNative| {
        let (overlap, count) = (u128::from(overlap(wanted, native.key_groups)), u128::from(native.key_groups.count()));
        (overlap.pow(3) << 32) / count.pow(2)
    };
    let scores: Vec<u128> = restored.iter().map(score).collect();
    let best = scores.iter().max()?;
    scores.iter().position(|score| score == best)
}

/// What a database says of itself, if it is of this operator.
fn contents_of(database: &Database, header: &PartHeader) -> Result<Contents, OpenFailure> {
    let bad = |what: String| OpenFailure::Data(format!("its database in the snapshot {what}"));
    let contents = Contents::read(database).map_err(|error| OpenFailure::from(database_error("", &error)))?;
    let contents = contents.map_err(bad)?;
    let found = &contents.header;
    if found.operator != header.operator {
        return Err(bad(format!("is of operator {}", found.operator)));
    }
    if found.max_parallelism != header.max_parallelism {
        return Err(bad(format!(
            "was written with max parallelism {}, the job has {}; it cannot be changed",
            found.max_parallelism, header.max_parallelism
        )));
    }
    found.has_keys_of(header).map_err(bad)?;
    Ok(contents)
}

fn merge_contents(into: &mut Contents, other: Contents) -> Result<(), OpenFailure> {
    for state in other.header.states {
        match into.header.states.iter().find(|known| known.name == state.name) {
            Some(known) => {
                if state != *known {
                    let name = &state.name;
                    let what =
                        format!("state {name:?} is a {state} in one database of the snapshot and a {known} in another");
                    return Err(OpenFailure::Data(what));
                }
                if into.whole.contains(&state.name) != other.whole.contains(&state.name) {
                    let what = format!("state {:?} lies in two ways in the databases of the snapshot", state.name);
                    return Err(OpenFailure::Data(what));
                }
            }
            None => {
                if other.whole.contains(&state.name) {
                    into.whole.push(state.name.clone());
                }
                into.header.states.push(state);
            }
        }
    }
    Ok(())
}

/// Where the keys of other key groups begin and end.
fn outside(header: &PartHeader) -> Vec<(Vec<u8>, Vec<u8>)> {
    let length = group_length(header.max_parallelism);
    let KeyGroupRange { first, last } = header.key_groups;
    let outside = [(0, u32::from(first.0)), (u32::from(last.0) + 1, u32::from(header.max_parallelism))];
    let outside = outside.into_iter().filter(|(from, to)| from < to);
    outside.map(|(from, to)| (group_start(from, length), group_start(to, length))).collect()
}

/// Removes what is not of the operator's key groups.
fn clip(database: &Database, header: &PartHeader) -> Result<(), OpenFailure> {
    let outside = outside(header);
    for name in database.families().iter().filter(|name| *name != "default") {
        let Some(family) = database.rocksdb().cf_handle(name) else { continue };
        for (from, to) in &outside {
            let removed = database.rocksdb().delete_range_cf_opt(family, from, to, database.writes());
            removed.map_err(|error| environment(name, &error))?;
        }
    }
    Ok(())
}

/// Copies what is of the operator's key groups.
fn copy(from: &Database, to: &Database, header: &PartHeader) -> Result<(), OpenFailure> {
    let length = group_length(header.max_parallelism);
    let start = group_start(u32::from(header.key_groups.first.0), length);
    let end = group_start(u32::from(header.key_groups.last.0) + 1, length);
    for name in from.families().iter().filter(|name| *name != "default") {
        let Some(target) = to.rocksdb().cf_handle(name) else { continue };
        let mut batch = WriteBatch::default();
        from.scan_family(name, &start, Some(end.clone()), |key, value| {
            batch.put_cf(target, key, value);
            if batch.size_in_bytes() > BATCH_BYTES {
                to.write(name, std::mem::take(&mut batch))?;
            }
            Ok(true)
        })?;
        to.write(name, batch)?;
    }
    Ok(())
}

/// Takes apart the maps that were kept whole, now that it is known what they are of.
pub(super) fn split_whole(
    database: &Database,
    state: &str,
    split: Split,
    group_length: usize,
) -> Result<(), StateError> {
    let mut entries = Vec::new();
    database.scan(state, &[], None, |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        Ok(true)
    })?;
    for (key, value) in entries {
        database.delete(state, &key)?;
        let taken = split(&value, &mut |map_key, value| {
            let mut entry = key.clone();
            entry.extend_from_slice(map_key);
            put_tail(key.len() - group_length, &mut entry);
            database.put(state, &entry, value)
        });
        taken.map_err(|detail| StateError::new(state, StateProblem::Decode { what: "value", detail }))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "native code works in real directories")]
mod tests {
    use super::*;
    use crate::{
        checkpoint::increments::SharedFiles,
        ids::{BackendId, CheckpointId, KeyGroup, OperatorUid},
        state::{
            format::{StateHeader, StateKind},
            rocksdb::{contents::write_contents, database::family_of},
            tests::directory,
        },
    };

    fn of(first: u16, last: u16) -> RestoredNative {
        RestoredNative {
            checkpoint: CheckpointId(1),
            backend: BackendId(1),
            key_groups: groups(first, last),
            subdirectory: "a".to_string(),
            shared: SharedFiles::new(),
        }
    }

    fn groups(first: u16, last: u16) -> KeyGroupRange {
        KeyGroupRange { first: KeyGroup(first), last: KeyGroup(last) }
    }

    #[test]
    fn the_checkpoint_of_which_most_is_wanted_comes_first() {
        assert_eq!(best_overlap(groups(0, 63), &[]), None);
        assert_eq!(best_overlap(groups(0, 63), &[of(0, 31), of(32, 63)]), Some(0));
        // All of a smaller one is worth more than half of a larger one.
        assert_eq!(best_overlap(groups(0, 63), &[of(48, 127), of(0, 31)]), Some(1));
        assert_eq!(best_overlap(groups(20, 39), &[of(0, 29), of(30, 59)]), Some(0));
        assert_eq!(overlap(groups(0, 3), groups(4, 7)), 0);
        assert_eq!(overlap(groups(2, 5), groups(4, 7)), 2);
    }

    const STATE: &str = "counts";

    /// The files of a database that has one entry, of one of its key groups.
    fn written() -> NativeDir {
        let host = DatabaseHost { fleeting: true, ..DatabaseHost::default() };
        let settings = RocksDbSettings { host, ..RocksDbSettings::default() };
        let (directory, families) = (directory(), vec![family_of(STATE)]);
        let database = Database::open(directory.clone(), WORKING, &settings, families, &Expiring::default()).unwrap();
        let mut header = PartHeader::of::<String>(&OperatorUid("count".into()), 128, groups(64, 127));
        header.states.push(StateHeader {
            name: STATE.to_string(),
            kind: StateKind::Value,
            value_type: "u64".to_string(),
            version: 0,
            structure: None,
        });
        write_contents(&database, &Contents { header, whole: Vec::new() }).unwrap();
        database.put(STATE, &[64, 1], &[7]).unwrap();
        for name in database.families() {
            database.rocksdb().flush_cf(database.rocksdb().cf_handle(name).unwrap()).unwrap();
        }
        directory
    }

    /// Files that are read anew are checked anew, however many whole copies of them were read before.
    #[test]
    fn a_flipped_byte_is_found_in_whichever_file_of_a_copy_it_is() {
        let directory = written();
        let whole = part_of_database(directory.clone(), WORKING).unwrap();
        let entries = std::fs::read_dir(directory.path().join(WORKING)).unwrap();
        let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        let tables: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
        assert_eq!(tables.len(), 2, "one of each column family: {files:?}");
        for (number, damaged) in tables.into_iter().enumerate() {
            let copy = format!("copy-{number}");
            std::fs::create_dir(directory.path().join(&copy)).unwrap();
            for path in &files {
                let mut bytes = std::fs::read(path).unwrap();
                if path == damaged {
                    bytes[10] ^= 1;
                }
                std::fs::write(directory.path().join(&copy).join(path.file_name().unwrap()), bytes).unwrap();
            }
            // By an error or a panic: who calls native code takes either for a failure.
            let read = || part_of_database(directory.clone(), &copy);
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
            assert!(!matches!(found, Ok(Ok(_))), "{damaged:?} was read");
            assert_eq!(part_of_database(directory.clone(), WORKING).unwrap(), whole);
        }
    }
}
