//! Records of sweeps that were, read back.

use std::path::{Path, PathBuf};

use reports::RunRecord;

use crate::{sweep::read_records, trouble::Trouble};

/// The records of a file, or of all files `*.jsonl` of a directory.
///
/// # Errors
/// [`Trouble`] names the file, and the line in it, that cannot be read.
pub fn records(path: &Path) -> Result<Vec<RunRecord>, Trouble> {
    let mut files = Vec::new();
    if path.is_dir() {
        let cannot = |error: std::io::Error| Trouble::file("read", path, &error);
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let found: PathBuf = entry.map_err(cannot)?.path();
            if found.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(found);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(Trouble::Usage(format!("--records: there is no file *.jsonl in {}", path.display())));
        }
    } else {
        files.push(path.to_path_buf());
    }
    let mut records = Vec::new();
    for file in files {
        read_records(&file, &mut |_, record| {
            records.push(record);
            Ok(())
        })?;
    }
    Ok(records)
}
