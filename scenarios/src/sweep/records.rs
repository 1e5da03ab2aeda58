//! `records.jsonl`: one record per line, read one at a time, however many there are.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use reports::{RunRecord, SCHEMA_VERSION};

use crate::trouble::Trouble;

pub const FILE: &str = "records.jsonl";
/// No record comes near this.
const LINE_BYTES: u64 = 64 << 20;

/// Where a record stands in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    /// Without the end of the line.
    pub bytes: u64,
}

/// Hands each record to `each`. Gives the length of the file up to the end of the last whole line: what comes after was torn
/// off when its writer was killed, and counts for nothing.
///
/// # Errors
/// [`Trouble::Usage`] names the first whole line that is no record.
pub fn read(path: &Path, each: &mut dyn FnMut(Place, RunRecord) -> Result<(), Trouble>) -> Result<u64, Trouble> {
    let file = File::open(path).map_err(|error| Trouble::file("read", path, &error))?;
    let mut reader = BufReader::new(file);
    let mut offset = 0;
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let mut limited = (&mut reader).take(LINE_BYTES);
        let read = limited.read_until(b'\n', &mut line).map_err(|error| Trouble::file("read", path, &error))? as u64;
        if line.last() != Some(&b'\n') {
            if read == LINE_BYTES {
                return Err(Trouble::content(path, format!("line {number} is longer than any record")));
            }
            break;
        }
        line.pop();
        let wrong = |what: String| Trouble::content(path, format!("line {number} is no record: {what}"));
        let record: RunRecord = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        if record.schema != SCHEMA_VERSION {
            return Err(wrong(format!("it has version {}, this program knows {SCHEMA_VERSION}", record.schema)));
        }
        each(Place { offset, bytes: read - 1 }, record)?;
        offset += read;
    }
    Ok(offset)
}
