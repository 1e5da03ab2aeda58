//! The directory that a sweep leaves.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use reports::RunRecord;

/// Where the records go.
pub(super) struct Output {
    pub(super) directory: PathBuf,
    records: BufWriter<File>,
}

impl Output {
    pub(super) fn create(directory: &Path) -> Result<Output, String> {
        let cannot = |what: &Path, error: std::io::Error| format!("--out: cannot write {}: {error}", what.display());
        std::fs::create_dir_all(directory).map_err(|error| cannot(directory, error))?;
        let records = directory.join("records.jsonl");
        let file = File::create(&records).map_err(|error| cannot(&records, error))?;
        Ok(Output { directory: directory.to_path_buf(), records: BufWriter::new(file) })
    }

    pub(super) fn add(&mut self, record: &RunRecord) -> Result<(), String> {
        let text = serde_json::to_string(record).map_err(|error| format!("--out: {error}"))?;
        writeln!(self.records, "{text}")
            .and_then(|()| self.records.flush())
            .map_err(|error| format!("--out: cannot write records.jsonl: {error}"))
    }

    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.directory.join(name);
        std::fs::write(&path, text).map_err(|error| format!("--out: cannot write {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Keeps the plan of a failed run. Gives the name of its file.
    pub(super) fn plan(&self, record: &RunRecord) -> Result<Option<String>, String> {
        let Some(plan) = &record.plan else { return Ok(None) };
        let path = self.file(&format!("failed-{}-{}.toml", record.profile, record.seed), plan)?;
        Ok(Some(path.display().to_string()))
    }
}
