//! Where a chain puts its records: one growing buffer per output channel, emptied by the subtask loop.

use std::collections::VecDeque;

use serde::Serialize;

/// Encoded records of one channel that were not handed to the network yet.
#[derive(Debug, Default)]
pub struct PendingBuffer {
    pub bytes: Vec<u8>,
    pub records: u32,
    /// Buffers that were cut because they reached the size of a frame, oldest first; they precede `bytes`.
    pub full: VecDeque<(Vec<u8>, u32)>,
}

impl PendingBuffer {
    /// Moves what was written so far behind the full buffers, if there is any.
    pub fn cut(&mut self) {
        if self.records > 0 {
            let capacity = self.bytes.len();
            let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
            self.full.push_back((bytes, std::mem::take(&mut self.records)));
        }
    }
}

/// Where postcard writes a record: behind those already there, without an allocation of its own.
struct AtEnd<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for AtEnd<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// All output channels of a subtask: by output edge, then by downstream subtask.
#[derive(Debug, Default)]
pub struct Outputs {
    pub edges: Vec<Vec<PendingBuffer>>,
    /// A buffer that reaches so many bytes is cut; never if zero.
    pub cut_at_bytes: usize,
}

impl Outputs {
    /// `channels[e]` downstream channels on edge e.
    pub fn new(channels: &[usize]) -> Outputs {
        Outputs {
            edges: channels.iter().map(|n| (0..*n).map(|_| PendingBuffer::default()).collect()).collect(),
            cut_at_bytes: 0,
        }
    }

    pub fn channels(&self, edge: usize) -> usize {
        self.edges[edge].len()
    }

    /// Encodes `record` at the end of a channel's buffer.
    #[inline]
    pub fn push<T: Serialize>(&mut self, edge: usize, channel: usize, record: &T) -> Result<(), postcard::Error> {
        let buffer = &mut self.edges[edge][channel];
        postcard::serialize_with_flavor(record, AtEnd(&mut buffer.bytes))?;
        buffer.records += 1;
        if self.cut_at_bytes != 0 && buffer.bytes.len() >= self.cut_at_bytes {
            buffer.cut();
        }
        Ok(())
    }

    /// Bytes waiting in all channels.
    pub fn pending_bytes(&self) -> usize {
        let buffered = |b: &PendingBuffer| b.bytes.len() + b.full.iter().map(|(bytes, _)| bytes.len()).sum::<usize>();
        self.edges.iter().flatten().map(buffered).sum()
    }
}
