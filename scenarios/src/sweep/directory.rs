//! The directory that a sweep leaves, and that it is resumed and merged from:
//!
//! * `sweep.json`: what was asked. Written first.
//! * `records.jsonl`: a record per run, in the order in which the runs ended. Only ever appended to.
//! * `closing.jsonl`: a closing record per shard. Written last; as long as it is missing, the sweep has not ended.
//! * `summary.json`, `junit.xml`, `failed-<profile>-<seed>.toml`: derived from the records.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use reports::RunRecord;

use super::{
    closing::Closing,
    records::{self, Place},
    stored::Stored,
};
use crate::trouble::Trouble;

const OPTIONS: &str = "sweep.json";
const CLOSING: &str = "closing.jsonl";

/// A directory that is being written. No other process writes it meanwhile.
pub(super) struct Directory {
    path: PathBuf,
    records: BufWriter<File>,
}

/// By rename, so that there is never half of it.
fn write_whole(path: &Path, text: &str) -> Result<(), Trouble> {
    let next = path.with_extension("next");
    let written = File::create(&next).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&next, path)).map_err(|error| Trouble::file("write", path, &error))
}

fn lock(file: &File, path: &Path) -> Result<(), Trouble> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Trouble::Usage(format!("{} is being written by another sweep", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(Trouble::file("lock", path, &error)),
    }
}

/// Whether a sweep was begun in `path`.
pub(super) fn holds_a_sweep(path: &Path) -> bool {
    let records = std::fs::metadata(path.join(records::FILE)).map_or(0, |metadata| metadata.len());
    records > 0 || path.join(OPTIONS).exists()
}

/// What was asked of the sweep in `path`.
///
/// # Errors
/// If there is none, or if it makes no sense.
pub(super) fn stored(path: &Path) -> Result<Stored, Trouble> {
    let file = path.join(OPTIONS);
    if !file.exists() {
        return Err(Trouble::Usage(format!("{} holds no sweep: {OPTIONS} is missing", path.display())));
    }
    let bytes = std::fs::read(&file).map_err(|error| Trouble::file("read", &file, &error))?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| Trouble::content(&file, error))?;
    stored.check().map_err(|error| Trouble::content(&file, error))?;
    Ok(stored)
}

/// The closing records in `path`; none if the sweep has not ended.
///
/// # Errors
/// If one makes no sense.
pub(super) fn closings(path: &Path) -> Result<Vec<Closing>, Trouble> {
    let file = path.join(CLOSING);
    if !file.exists() {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(&file).map_err(|error| Trouble::file("read", &file, &error))?;
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .enumerate()
        .map(|(at, line)| {
            let wrong = |error: String| Trouble::content(&file, format!("line {}: {error}", at + 1));
            let closing: Closing = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
            closing.options.check().map_err(wrong)?;
            Ok(closing)
        })
        .collect()
}

/// Hands each record of the sweep in `path` to `each`, and gives the length of what is whole.
///
/// # Errors
/// If a record makes no sense, or does not belong to the sweep.
pub(super) fn records_of(
    path: &Path,
    stored: &Stored,
    each: &mut dyn FnMut(Place, RunRecord) -> Result<(), Trouble>,
) -> Result<u64, Trouble> {
    let file = path.join(records::FILE);
    if !file.exists() {
        return Ok(0);
    }
    records::read(&file, &mut |place, record| {
        if record.profile != stored.profile || !stored.holds(record.seed) {
            let what = format!("seed {} of profile {:?} is no part of this sweep", record.seed, record.profile);
            return Err(Trouble::content(&file, what));
        }
        each(place, record)
    })
}

impl Directory {
    /// Begins a sweep.
    ///
    /// # Errors
    /// [`Trouble::Usage`] if one was begun there before.
    pub(super) fn create(path: &Path, stored: &Stored) -> Result<Directory, Trouble> {
        let cannot =
            |error: std::io::Error| Trouble::Environment(format!("--out: cannot write {}: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(cannot)?;
        let refused = || {
            Trouble::Usage(format!(
                "--out: {} holds a sweep already; choose another directory, or go on with --resume {0}",
                path.display()
            ))
        };
        if holds_a_sweep(path) {
            return Err(refused());
        }
        let file = path.join(records::FILE);
        let records = OpenOptions::new().append(true).create(true).open(&file).map_err(cannot)?;
        lock(&records, &file)?;
        // Looked at again under the lock: another may have been faster.
        if holds_a_sweep(path) {
            return Err(refused());
        }
        let text = serde_json::to_string_pretty(stored).map_err(|error| Trouble::Environment(error.to_string()))?;
        write_whole(&path.join(OPTIONS), &text)?;
        Ok(Directory { path: path.to_path_buf(), records: BufWriter::new(records) })
    }

    /// Goes on with the sweep in `path`; hands each record that is there to `each`. A torn last line is dropped.
    ///
    /// # Errors
    /// If a record makes no sense.
    pub(super) fn resume(
        path: &Path,
        stored: &Stored,
        each: &mut dyn FnMut(RunRecord) -> Result<(), Trouble>,
    ) -> Result<Directory, Trouble> {
        let file = path.join(records::FILE);
        let records = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&file)
            .map_err(|error| Trouble::file("write", &file, &error))?;
        lock(&records, &file)?;
        let whole = records_of(path, stored, &mut |_, record| each(record))?;
        records.set_len(whole).map_err(|error| Trouble::file("write", &file, &error))?;
        let closing = path.join(CLOSING);
        if closing.exists() {
            std::fs::remove_file(&closing).map_err(|error| Trouble::file("remove", &closing, &error))?;
        }
        Ok(Directory { path: path.to_path_buf(), records: BufWriter::new(records) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record. Once this returns, a killed process does not lose it.
    pub(super) fn add(&mut self, record: &RunRecord) -> Result<(), Trouble> {
        let mut text = serde_json::to_vec(record).map_err(|error| Trouble::Environment(error.to_string()))?;
        text.push(b'\n');
        self.add_line(&text)
    }

    /// Appends a record that is a line already, with its end.
    pub(super) fn add_line(&mut self, line: &[u8]) -> Result<(), Trouble> {
        let written = self.records.write_all(line).and_then(|()| self.records.flush());
        written.map_err(|error| Trouble::file("write", &self.path.join(records::FILE), &error))
    }

    /// Keeps the plan of a failed run. Gives the name of its file.
    pub(super) fn plan(&self, record: &RunRecord) -> Result<Option<String>, Trouble> {
        let Some(plan) = &record.plan else { return Ok(None) };
        let path = self.path.join(format!("failed-{}-{}.toml", record.profile, record.seed));
        write_whole(&path, plan)?;
        Ok(Some(path.display().to_string()))
    }

    pub(super) fn file(&self, name: &str, text: &str) -> Result<(), Trouble> {
        write_whole(&self.path.join(name), text)
    }

    /// Says that the sweep has ended. The last thing that is written.
    pub(super) fn close(&self, closings: &[Closing]) -> Result<(), Trouble> {
        let synced = self.records.get_ref().sync_all();
        synced.map_err(|error| Trouble::file("write", &self.path.join(records::FILE), &error))?;
        let mut text = String::new();
        for closing in closings {
            text.push_str(&serde_json::to_string(closing).map_err(|error| Trouble::Environment(error.to_string()))?);
            text.push('\n');
        }
        self.file(CLOSING, &text)
    }
}
