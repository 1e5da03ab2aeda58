//! The envelope of everything that is read back from a disk or a store: magic, version, length, checksum. Bytes that were
//! torn, cut, mixed up or altered are told apart from good ones before anything is decoded; they give an error that names
//! what is wrong, never a panic.
//!
//! Layout, little endian: 4 bytes magic, u16 version, u16 zero, u64 payload length, u32 CRC-32C of version and payload,
//! payload.

use bytes::Bytes;

const HEADER: usize = 20;

/// Why bytes are not the frame they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("cut off: {found} bytes where {expected} were expected")]
    Short { expected: u64, found: u64 },
    #[error("{extra} bytes too many")]
    TrailingBytes { extra: u64 },
    #[error("wrong magic {found:02x?}, expected {expected:02x?}")]
    Magic { expected: [u8; 4], found: [u8; 4] },
    #[error("unknown version {found}, this program reads {expected}")]
    Version { expected: u16, found: u16 },
    // Without the numbers: they say nothing, and what a database writes has others in every run.
    #[error("its checksum is wrong")]
    Checksum { expected: u32, found: u32 },
    #[error("undecodable content: {0}")]
    Content(String),
}

fn checksum(version: [u8; 2], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&version), payload)
}

/// Wraps `payload`.
pub fn encode(magic: [u8; 4], version: u16, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    let version = version.to_le_bytes();
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(&checksum(version, payload).to_le_bytes());
    out.extend_from_slice(payload);
    out.into()
}

/// Checks the envelope and gives the payload.
///
/// # Errors
/// [`FrameError`] for anything that is not exactly one frame of this magic and version.
pub fn decode(magic: [u8; 4], version: u16, bytes: &[u8]) -> Result<&[u8], FrameError> {
    let short = |expected: usize| FrameError::Short { expected: expected as u64, found: bytes.len() as u64 };
    let (header, payload) = bytes.split_at_checked(HEADER).ok_or_else(|| short(HEADER))?;
    let (m, v, z, l, c) = (&header[0..4], &header[4..6], &header[6..8], &header[8..16], &header[16..20]);
    let found = [m[0], m[1], m[2], m[3]];
    if found != magic {
        return Err(FrameError::Magic { expected: magic, found });
    }
    let found_version = u16::from_le_bytes([v[0], v[1]]);
    if found_version != version {
        return Err(FrameError::Version { expected: version, found: found_version });
    }
    if z != [0, 0] {
        return Err(FrameError::Content("reserved bytes are not zero".into()));
    }
    let length = u64::from_le_bytes([l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]]);
    let have = payload.len() as u64;
    if have < length {
        return Err(FrameError::Short { expected: length.saturating_add(HEADER as u64), found: bytes.len() as u64 });
    }
    if have > length {
        return Err(FrameError::TrailingBytes { extra: have - length });
    }
    let expected = u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
    let computed = checksum([v[0], v[1]], payload);
    if expected != computed {
        return Err(FrameError::Checksum { expected, found: computed });
    }
    Ok(payload)
}

/// Wraps a serialized value.
///
/// # Errors
/// [`FrameError::Content`] if the value cannot be serialized.
pub fn encode_value<T: serde::Serialize>(magic: [u8; 4], version: u16, value: &T) -> Result<Bytes, FrameError> {
    let payload = postcard::to_allocvec(value).map_err(|e| FrameError::Content(e.to_string()))?;
    Ok(encode(magic, version, &payload))
}

/// The value of a frame; the whole payload must be used.
///
/// # Errors
/// [`FrameError`], as [`decode`].
pub fn decode_value<T: serde::de::DeserializeOwned>(
    magic: [u8; 4],
    version: u16,
    bytes: &[u8],
) -> Result<T, FrameError> {
    let payload = decode(magic, version, bytes)?;
    let (value, rest) = postcard::take_from_bytes(payload).map_err(|e| FrameError::Content(e.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(FrameError::TrailingBytes { extra: rest.len() as u64 }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAGIC: [u8; 4] = *b"TEST";

    proptest! {
        /// Any change of one byte, any cut and any extension of a frame is noticed.
        #[test]
        fn damage_is_noticed(payload in proptest::collection::vec(any::<u8>(), 0..100), at in any::<usize>(),
                             flip in 1u8.., cut in any::<usize>()) {
            let good = encode(MAGIC, 3, &payload);
            prop_assert_eq!(decode(MAGIC, 3, &good).unwrap(), &payload[..]);
            let mut bad = good.to_vec();
            let at = at % bad.len();
            bad[at] ^= flip;
            prop_assert!(decode(MAGIC, 3, &bad).is_err());
            prop_assert!(decode(MAGIC, 3, &good[..cut % good.len()]).is_err());
            let mut long = good.to_vec();
            long.push(flip);
            prop_assert!(decode(MAGIC, 3, &long).is_err());
        }

        /// Bytes from anywhere give an error, never a panic.
        #[test]
        fn hostile_bytes_are_data(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(decode_value::<Vec<String>>(MAGIC, 3, &bytes).is_err());
        }
    }
}
