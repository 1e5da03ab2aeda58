//! The last operator of a stream: each record becomes a line. Lines are collected here and carried away by the subtask loop,
//! which writes them ahead of the commit.

use bytes::Bytes;

use crate::{checkpoint::types::OutputDigest, dataflow::chain::SinkData, ids::OperatorUid, state::UserError};

/// So much output is handed over at once, without waiting for the barrier.
pub const ROLL_BYTES: usize = 4 << 20;

/// Collects and digests the lines of one sink in one subtask.
///
/// The digest is over each line's bytes without the newline.
pub struct LineSink {
    uid: OperatorUid,
    /// Digest and count only.
    discard: bool,
    muted: bool,
    /// The record being encoded.
    line: Vec<u8>,
    pending: Vec<u8>,
    pending_records: u64,
    rolled: Vec<SinkData>,
    digest: OutputDigest,
}

impl LineSink {
    pub fn new(uid: OperatorUid, discard: bool) -> LineSink {
        LineSink {
            uid,
            discard,
            muted: false,
            line: Vec::new(),
            pending: Vec::new(),
            pending_records: 0,
            rolled: Vec::new(),
            digest: OutputDigest::default(),
        }
    }

    /// Takes one record, encoded by `encode`.
    ///
    /// # Errors
    /// If the encoding has more than one line.
    #[inline]
    pub fn add(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), UserError> {
        self.line.clear();
        encode(&mut self.line);
        if !self.discard && memchr::memchr(b'\n', &self.line).is_some() {
            let line = String::from_utf8_lossy(&self.line);
            return Err(UserError::new(format!("a record was encoded with a newline in it: {line:?}")));
        }
        self.digest.add_record(&self.line);
        if self.muted || self.discard {
            return Ok(());
        }
        self.pending.extend_from_slice(&self.line);
        self.pending.push(b'\n');
        self.pending_records += 1;
        if self.pending.len() >= ROLL_BYTES {
            self.roll();
        }
        Ok(())
    }

    fn roll(&mut self) {
        let bytes = Bytes::from(std::mem::take(&mut self.pending));
        let records = std::mem::take(&mut self.pending_records);
        self.rolled.push(SinkData { sink: self.uid.clone(), bytes, records });
    }

    pub fn set_muted(&mut self, muted: bool) {
        self.muted = muted;
    }

    /// What is large enough to be written now; with `flush` all there is.
    pub fn take_data(&mut self, flush: bool, into: &mut Vec<SinkData>) {
        if flush && self.pending_records > 0 {
            self.roll();
        }
        into.append(&mut self.rolled);
    }

    /// The digest since the last call.
    pub fn take_digest(&mut self) -> OutputDigest {
        std::mem::take(&mut self.digest)
    }

    pub fn uid(&self) -> &OperatorUid {
        &self.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(sink: &mut LineSink, flush: bool) -> Vec<(String, u64)> {
        let mut data = Vec::new();
        sink.take_data(flush, &mut data);
        data.iter().map(|d| (String::from_utf8(d.bytes.to_vec()).unwrap(), d.records)).collect()
    }

    #[test]
    fn lines_wait_for_the_flush_and_are_handed_over_once() {
        let mut sink = LineSink::new(OperatorUid("out".into()), false);
        for word in ["a", "bc", ""] {
            sink.add(|line| line.extend_from_slice(word.as_bytes())).unwrap();
        }
        assert!(text(&mut sink, false).is_empty());
        assert_eq!(text(&mut sink, true), [("a\nbc\n\n".to_string(), 3)]);
        assert!(text(&mut sink, true).is_empty());
    }

    #[test]
    fn a_muted_sink_digests_and_gives_nothing() {
        let mut loud = LineSink::new(OperatorUid("out".into()), false);
        let mut muted = LineSink::new(OperatorUid("out".into()), false);
        let mut discard = LineSink::new(OperatorUid("out".into()), true);
        muted.set_muted(true);
        for sink in [&mut loud, &mut muted, &mut discard] {
            sink.add(|line| line.extend_from_slice(b"x")).unwrap();
            sink.add(|line| line.extend_from_slice(b"y")).unwrap();
        }
        let mut expected = OutputDigest::default();
        expected.add_record(b"y");
        expected.add_record(b"x");
        assert_eq!(loud.take_digest(), expected);
        assert_eq!(muted.take_digest(), expected);
        assert_eq!(discard.take_digest(), expected);
        assert_eq!(muted.take_digest(), OutputDigest::default());
        assert!(text(&mut muted, true).is_empty() && text(&mut discard, true).is_empty());
        // Unmuted, only what comes afterwards is output.
        muted.set_muted(false);
        muted.add(|line| line.extend_from_slice(b"z")).unwrap();
        assert_eq!(text(&mut muted, true), [("z\n".to_string(), 1)]);
    }

    #[test]
    fn output_rolls_when_it_is_large() {
        let mut sink = LineSink::new(OperatorUid("out".into()), false);
        let line = vec![b'x'; (1 << 20) - 1];
        for _ in 0..9 {
            sink.add(|out| out.extend_from_slice(&line)).unwrap();
        }
        let sizes: Vec<(usize, u64)> = text(&mut sink, false).iter().map(|(t, r)| (t.len(), *r)).collect();
        assert_eq!(sizes, [(ROLL_BYTES, 4), (ROLL_BYTES, 4)]);
        assert_eq!(text(&mut sink, true)[0].1, 1);
    }

    #[test]
    fn a_record_of_two_lines_is_refused() {
        let mut sink = LineSink::new(OperatorUid("out".into()), false);
        let error = sink.add(|line| line.extend_from_slice(b"a\nb")).unwrap_err();
        assert!(error.message().contains("newline"), "{error}");
    }
}
