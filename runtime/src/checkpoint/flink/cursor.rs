//! Reads Java's `DataOutput` encoding from bytes that may be anything.

/// Where and why a file is no metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct MetadataError {
    /// Offset in the file.
    pub at: usize,
    pub what: String,
}

/// A position in the file. All numbers are big endian.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    pub fn error<T>(&self, what: impl Into<String>) -> Result<T, MetadataError> {
        Err(MetadataError { at: self.at, what: what.into() })
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    pub fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], MetadataError> {
        if count > self.left() {
            return self.error(format!("{what} needs {count} bytes, {} are left", self.left()));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], MetadataError> {
        let taken = self.take(N, what)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub fn u8(&mut self, what: &str) -> Result<u8, MetadataError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn bool(&mut self, what: &str) -> Result<bool, MetadataError> {
        Ok(self.u8(what)? != 0)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, MetadataError> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub fn i32(&mut self, what: &str) -> Result<i32, MetadataError> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    pub fn i64(&mut self, what: &str) -> Result<i64, MetadataError> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    pub fn identifier(&mut self, what: &str) -> Result<u128, MetadataError> {
        Ok(u128::from_be_bytes(self.array(what)?))
    }

    /// A number that cannot be negative.
    pub fn natural(&mut self, what: &str) -> Result<u32, MetadataError> {
        let before = self.at;
        let number = self.i32(what)?;
        u32::try_from(number).map_err(|_| MetadataError { at: before, what: format!("{what} is {number}") })
    }

    /// How many items follow, each of at least `least` bytes; so many fit into what is left.
    pub fn count(&mut self, least: usize, what: &str) -> Result<usize, MetadataError> {
        let before = self.at;
        let count = self.natural(what)? as usize;
        if count.saturating_mul(least) > self.left() {
            let what = format!("{what} is {count}, but only {} bytes are left", self.left());
            return Err(MetadataError { at: before, what });
        }
        Ok(count)
    }

    /// Bytes behind their length.
    pub fn block(&mut self, what: &str) -> Result<&'a [u8], MetadataError> {
        let length = self.count(1, what)?;
        self.take(length, what)
    }

    /// A string as Java's `writeUTF` writes it: in modified UTF-8, behind a length of two bytes.
    pub fn text(&mut self, what: &str) -> Result<String, MetadataError> {
        let before = self.at;
        let length = usize::from(u16::from_be_bytes(self.array(what)?));
        let bytes = self.take(length, what)?;
        simd_cesu8::mutf8::decode(bytes)
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| MetadataError { at: before, what: format!("{what} is no text in modified UTF-8") })
    }
}
