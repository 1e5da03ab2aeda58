//! Where a chain puts its records: one growing buffer per output channel, emptied by the subtask loop.

use serde::Serialize;

/// Encoded records of one channel that were not handed to the network yet.
#[derive(Debug, Default)]
pub struct PendingBuffer {
    pub bytes: Vec<u8>,
    pub records: u32,
}

/// All output channels of a subtask: by output edge, then by downstream subtask.
#[derive(Debug, Default)]
pub struct Outputs {
    pub edges: Vec<Vec<PendingBuffer>>,
}

impl Outputs {
    /// `channels[e]` downstream channels on edge e.
    pub fn new(channels: &[usize]) -> Outputs {
        Outputs { edges: channels.iter().map(|n| (0..*n).map(|_| PendingBuffer::default()).collect()).collect() }
    }

    pub fn channels(&self, edge: usize) -> usize {
        self.edges[edge].len()
    }

    /// Encodes `record` at the end of a channel's buffer.
    #[inline]
    pub fn push<T: Serialize>(&mut self, edge: usize, channel: usize, record: &T) -> Result<(), postcard::Error> {
        let buffer = &mut self.edges[edge][channel];
        // postcard extends the vector in place: no intermediate allocation per record.
        buffer.bytes = postcard::to_extend(record, std::mem::take(&mut buffer.bytes))?;
        buffer.records += 1;
        Ok(())
    }

    /// Bytes waiting in all channels.
    pub fn pending_bytes(&self) -> usize {
        self.edges.iter().flatten().map(|b| b.bytes.len()).sum()
    }
}
