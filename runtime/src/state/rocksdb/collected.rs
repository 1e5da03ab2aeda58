//! Entries on their way into the database, in one piece of memory: sorted by their keys and written in batches, which is cheaper
//! than each for itself, in its own order.

use rocksdb::{ColumnFamily, WriteBatch};

use super::front::Entry;

/// Bytes of a batch when they are written. RocksDB looks at the memory of a slot before each.
const BATCH_BYTES: usize = 32 << 10;

/// Keys with their values, as they were when they were added.
#[derive(Default)]
pub(super) struct Collected {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

struct Piece {
    /// Of the key: mostly enough to tell the order.
    beginning: u64,
    start: usize,
    key_length: u32,
    /// None: there is nothing under the key any more.
    value_length: Option<u32>,
}

impl Collected {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn add(&mut self, entry: &Entry) {
        let (start, key, value) = (self.bytes.len(), entry.key(), entry.value());
        #[allow(clippy::cast_possible_truncation)] // an entry's room is a u32
        let length = |bytes: &[u8]| bytes.len() as u32;
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let (key_length, value_length) = (length(key), value.map(length));
        self.pieces.push(Piece { beginning: beginning_of(key), start, key_length, value_length });
    }

    /// Takes over what others have collected.
    pub fn append(&mut self, other: &mut Collected) {
        let moved = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.pieces.extend(other.pieces.drain(..).map(|piece| Piece { start: piece.start + moved, ..piece }));
    }

    fn key(&self, piece: &Piece) -> &[u8] {
        &self.bytes[piece.start..][..piece.key_length as usize]
    }

    fn value(&self, piece: &Piece) -> Option<&[u8]> {
        piece.value_length.map(|length| &self.bytes[piece.start + piece.key_length as usize..][..length as usize])
    }

    #[cfg(test)]
    pub fn for_each(&self, mut each: impl FnMut(&[u8], Option<&[u8]>)) {
        self.pieces.iter().for_each(|piece| each(self.key(piece), self.value(piece)));
    }

    /// Gives all of it to `write`, in the order of the keys. It is still there afterwards: who failed can try again.
    ///
    /// # Errors
    /// What `write` says.
    pub fn write<E>(
        &mut self,
        family: &ColumnFamily,
        mut write: impl FnMut(WriteBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.sort_unstable_by(|a, b| a.beginning.cmp(&b.beginning).then_with(|| self.key(a).cmp(self.key(b))));
        self.pieces = pieces;
        let (mut batch, mut bytes) = (WriteBatch::default(), 0);
        for piece in &self.pieces {
            let (key, value) = (self.key(piece), self.value(piece));
            match value {
                Some(value) => batch.put_cf(family, key, value),
                None => batch.delete_cf(family, key),
            }
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            if bytes >= BATCH_BYTES {
                write(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        write(batch)
    }
}

/// The first bytes of a key as a number that is in the same order.
fn beginning_of(key: &[u8]) -> u64 {
    let mut beginning = [0; 8];
    let length = key.len().min(8);
    beginning[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(beginning)
}
