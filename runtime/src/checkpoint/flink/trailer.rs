//! What follows the body of a metadata file that Weir wrote: its length and checksum. Flink's reader of version 3 stops before it.
//!
//! ```text
//! u64 length of the body   u32 CRC-32C of body and length   "WEIR"
//! ```
//!
//! Big endian, as the rest. It is there whenever the master state of Weir is, so that a file that was cut or altered anywhere is
//! refused before anything in it is believed.

/// The master state in which Weir keeps what Flink's layout has no place for.
pub const WEIR_STATE: &str = "weir";

const MAGIC: &[u8; 4] = b"WEIR";
const LENGTH: usize = 16;

fn checksum(body: &[u8], length: [u8; 8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(body), &length).to_be_bytes()
}

/// Appends the trailer to a body.
pub(in crate::checkpoint) fn append(file: &mut Vec<u8>) {
    let length = (file.len() as u64).to_be_bytes();
    let checksum = checksum(file, length);
    file.extend_from_slice(&length);
    file.extend_from_slice(&checksum);
    file.extend_from_slice(MAGIC);
}

/// The body of a file with a trailer.
///
/// # Errors
/// What is wrong with the trailer, or that the body is not what it was.
pub(in crate::checkpoint) fn body(file: &[u8]) -> Result<&[u8], String> {
    let at = file.len().checked_sub(LENGTH).ok_or_else(|| format!("{} bytes are too short for it", file.len()))?;
    let (body, trailer) = file.split_at(at);
    let (length, rest) = trailer.split_at(8);
    let (found, magic) = rest.split_at(4);
    if magic != MAGIC {
        return Err(format!("it ends with {magic:02x?}, not {MAGIC:02x?}: it was cut off"));
    }
    let length = <[u8; 8]>::try_from(length).unwrap_or_default();
    let announced = u64::from_be_bytes(length);
    if announced != body.len() as u64 {
        return Err(format!("the body has {} bytes, {announced} were written", body.len()));
    }
    let computed = checksum(body, length);
    if found != computed {
        return Err("its checksum is wrong".to_string());
    }
    Ok(body)
}
