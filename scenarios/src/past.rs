//! Records of sweeps that were, read back.

use std::path::Path;

use reports::RunRecord;

use crate::{
    sweep::{RECORDS, read_records},
    trouble::Trouble,
};

/// The records of a file, or of the sweep in a directory.
///
/// # Errors
/// [`Trouble`] names the file, and the line in it, that cannot be read.
pub fn records(path: &Path) -> Result<Vec<RunRecord>, Trouble> {
    let file = if path.is_dir() { path.join(RECORDS) } else { path.to_path_buf() };
    let mut records = Vec::new();
    read_records(&file, &mut |_, record| {
        records.push(record);
        Ok(())
    })?;
    Ok(records)
}
