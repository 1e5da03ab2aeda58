//! Looking at what a person named on the command line before anything is started.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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

/// Writes a file that a person has asked for; one that is there is replaced.
///
/// # Errors
/// Why it cannot be written, for people.
pub fn write_file(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Makes sure that `path` is a directory that can be written to; says whether a run's state is in it already.
///
/// # Errors
/// Why it cannot be used, for people.
pub fn prepare_root(path: &Path) -> Result<bool, String> {
    fs::create_dir_all(path).map_err(|e| e.to_string())?;
    let probe = path.join(".weir-write-probe");
    fs::write(&probe, b"").map_err(|e| e.to_string())?;
    match fs::remove_file(&probe) {
        // Another process that starts at the same time has looked as well, and has removed it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    Ok(path.join("ha").is_dir())
}

/// The content of a file that is looked at as a whole, for example metadata; the file `name` in it if `path` is a directory.
///
/// # Errors
/// If it cannot be read, or is longer than `longest` bytes.
pub fn read_file(path: &Path, name: &str, longest: u64) -> io::Result<(PathBuf, Vec<u8>)> {
    let file = if path.is_dir() { path.join(name) } else { path.to_path_buf() };
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let length = file_length(&file).map_err(named)?;
    if length > longest {
        let message = format!("{}: it has {length} bytes, at most {longest} are read", file.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let bytes = fs::read(&file).map_err(named)?;
    Ok((file, bytes))
}

/// A configuration: the file itself, or the first of `names` that there is, if `path` is a directory.
///
/// # Errors
/// If there is none, it cannot be read, or is longer than `longest` bytes.
pub fn read_configuration(path: &Path, names: &[&str], longest: u64) -> io::Result<(PathBuf, Vec<u8>)> {
    if path.is_dir() {
        let there = names.iter().find(|name| path.join(name).is_file());
        let Some(name) = there else {
            let message = format!("{}: there is neither {} in it", path.display(), names.join(" nor "));
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        return read_file(path, name, longest);
    }
    read_file(path, "", longest)
}

/// The length of a file.
///
/// # Errors
/// If there is none, or it may not be looked at.
pub fn file_length(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(metadata.len()) }
}
