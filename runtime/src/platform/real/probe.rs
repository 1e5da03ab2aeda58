//! Looking at what a person named on the command line before anything is started.

use std::{fs, path::Path};

/// The absolute path and the length of a readable regular file.
///
/// # Errors
/// Why it cannot be read, for people.
pub fn probe_input(path: &Path) -> Result<(String, u64), String> {
    let metadata = fs::metadata(path).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".to_string());
    }
    fs::File::open(path).map_err(|e| e.to_string())?;
    let absolute = fs::canonicalize(path).map_err(|e| e.to_string())?;
    let text = absolute.to_str().ok_or("its path is not UTF-8")?;
    Ok((text.to_string(), metadata.len()))
}

/// Makes sure that `path` is a directory that can be written to; says whether a run's state is in it already.
///
/// # Errors
/// Why it cannot be used, for people.
pub fn prepare_root(path: &Path) -> Result<bool, String> {
    fs::create_dir_all(path).map_err(|e| e.to_string())?;
    let probe = path.join(".weir-write-probe");
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(|e| e.to_string())?;
    Ok(path.join("ha").is_dir())
}
