//! Writes as Java's `DataOutput` does.

use crate::checkpoint::frame::FrameError;

#[derive(Default)]
pub(in crate::checkpoint) struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn identifier(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// How many items follow.
    ///
    /// # Errors
    /// If Java could not count them.
    pub fn count(&mut self, count: usize, what: &str) -> Result<(), FrameError> {
        let number = i32::try_from(count).map_err(|_| FrameError::Content(format!("{count} are too many {what}")))?;
        self.u32(number.cast_unsigned());
        Ok(())
    }

    /// Bytes behind their length; gives where they begin.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn block(&mut self, bytes: &[u8], what: &str) -> Result<usize, FrameError> {
        self.count(bytes.len(), what)?;
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(at)
    }

    /// As Java's `writeUTF`: modified UTF-8 behind a length of two bytes.
    ///
    /// # Errors
    /// If it is longer than such a length can say.
    pub fn text(&mut self, text: &str) -> Result<(), FrameError> {
        let encoded = simd_cesu8::mutf8::encode(text);
        let length = u16::try_from(encoded.len())
            .map_err(|_| FrameError::Content(format!("a name of {} bytes is too long", encoded.len())))?;
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&encoded);
        Ok(())
    }
}
