//! The wire format of a data channel. Byte 0 says what a frame is; numbers are little endian. What arrives may be anything:
//! decoding gives an error for bytes that are no frame and never panics.
//!
//! | kind | then | direction |
//! |---|---|---|
//! | 0 data | u32 record count, records back to back (postcard) | producer to consumer |
//! | 1 barrier | u64 checkpoint | producer to consumer |
//! | 2 replay marker | u64 epoch | producer to consumer |
//! | 3 credit | u32 bytes newly granted | consumer to producer |
//! | 4 watermark | i64 milliseconds since 1970 | producer to consumer |
//! | 5 idle | nothing | producer to consumer |
//! | 6 savepoint barrier | u64 checkpoint, the savepoint's directory (UTF-8) | producer to consumer |

use bytes::{Buf, Bytes};

use super::task::ChannelHello;
use crate::{
    ids::CheckpointId,
    layout::SavepointDirectory,
    platform::{MAX_FRAME_BYTES, ObjectName},
};

const DATA: u8 = 0;
const BARRIER: u8 = 1;
const REPLAY_MARKER: u8 = 2;
const CREDIT: u8 = 3;
const WATERMARK: u8 = 4;
const IDLE: u8 = 5;
const SAVEPOINT_BARRIER: u8 = 6;

const DATA_HEADER: usize = 5;

/// The longest payload a data frame can carry.
pub const MAX_PAYLOAD_BYTES: usize = MAX_FRAME_BYTES - DATA_HEADER;

/// One frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// At least one record. Records may be empty, so the payload may be.
    Data {
        records: u32,
        payload: Bytes,
    },
    Barrier(CheckpointId),
    /// A barrier that asks for a savepoint, and says where: every subtask learns it with the barrier itself, as in Flink
    /// (`CheckpointOptions`).
    SavepointBarrier(CheckpointId, SavepointDirectory),
    ReplayMarker(CheckpointId),
    /// So many payload bytes more may be sent.
    Credit(u32),
    /// No record before this event time follows, unless it is late.
    Watermark(i64),
    /// Until the next watermark this channel holds back no event time.
    Idle,
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("an empty frame")]
    Empty,
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("{kind} frame of {length} bytes, {expected} expected")]
    Length { kind: &'static str, length: usize, expected: &'static str },
    #[error("a savepoint barrier without the name of a directory")]
    Directory,
    #[error("a data frame that announces no records")]
    NoRecords,
    #[error("no channel hello: {0}")]
    Hello(String),
}

/// A data frame. The payload is copied behind its header, once.
pub fn encode_data(records: u32, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(DATA_HEADER + payload.len());
    frame.push(DATA);
    frame.extend_from_slice(&records.to_le_bytes());
    frame.extend_from_slice(payload);
    Bytes::from(frame)
}

pub fn encode_barrier(checkpoint: CheckpointId) -> Bytes {
    numbered(BARRIER, checkpoint.0)
}

pub fn encode_savepoint_barrier(checkpoint: CheckpointId, directory: &SavepointDirectory) -> Bytes {
    let name = directory.name().as_str();
    let mut frame = Vec::with_capacity(9 + name.len());
    frame.push(SAVEPOINT_BARRIER);
    frame.extend_from_slice(&checkpoint.0.to_le_bytes());
    frame.extend_from_slice(name.as_bytes());
    Bytes::from(frame)
}

pub fn encode_replay_marker(epoch: CheckpointId) -> Bytes {
    numbered(REPLAY_MARKER, epoch.0)
}

pub fn encode_credit(bytes: u32) -> Bytes {
    let mut frame = [0; 5];
    frame[0] = CREDIT;
    frame[1..].copy_from_slice(&bytes.to_le_bytes());
    Bytes::copy_from_slice(&frame)
}

pub fn encode_watermark(watermark: i64) -> Bytes {
    numbered(WATERMARK, watermark.cast_unsigned())
}

pub fn encode_idle() -> Bytes {
    Bytes::from_static(&[IDLE])
}

fn numbered(kind: u8, number: u64) -> Bytes {
    let mut frame = [0; 9];
    frame[0] = kind;
    frame[1..].copy_from_slice(&number.to_le_bytes());
    Bytes::copy_from_slice(&frame)
}

/// Decodes one frame; the payload stays a slice of it.
///
/// # Errors
/// [`FrameError`] naming what is wrong with the bytes.
pub fn decode(mut frame: Bytes) -> Result<Frame, FrameError> {
    let length = frame.len();
    let Some(kind) = frame.first().copied() else { return Err(FrameError::Empty) };
    frame.advance(1);
    match kind {
        DATA => {
            let records = frame.try_get_u32_le().map_err(|_| FrameError::Length {
                kind: "a data",
                length,
                expected: "at least 5",
            })?;
            if records == 0 {
                return Err(FrameError::NoRecords);
            }
            Ok(Frame::Data { records, payload: frame })
        }
        BARRIER => number("a barrier", length, frame).map(|n| Frame::Barrier(CheckpointId(n))),
        REPLAY_MARKER => number("a replay marker", length, frame).map(|n| Frame::ReplayMarker(CheckpointId(n))),
        CREDIT if frame.len() == 4 => Ok(Frame::Credit(frame.get_u32_le())),
        CREDIT => Err(FrameError::Length { kind: "a credit", length, expected: "5" }),
        WATERMARK => number("a watermark", length, frame).map(|n| Frame::Watermark(n.cast_signed())),
        SAVEPOINT_BARRIER => {
            let expected = "more than 9";
            let checkpoint = frame.try_get_u64_le();
            let checkpoint =
                checkpoint.map_err(|_| FrameError::Length { kind: "a savepoint barrier", length, expected })?;
            let name = std::str::from_utf8(&frame).ok().and_then(|name| ObjectName::new(name).ok());
            let directory = SavepointDirectory::at(name.ok_or(FrameError::Directory)?);
            Ok(Frame::SavepointBarrier(CheckpointId(checkpoint), directory))
        }
        IDLE if frame.is_empty() => Ok(Frame::Idle),
        IDLE => Err(FrameError::Length { kind: "an idle", length, expected: "1" }),
        unknown => Err(FrameError::UnknownKind(unknown)),
    }
}

fn number(kind: &'static str, length: usize, mut rest: Bytes) -> Result<u64, FrameError> {
    if rest.len() == 8 { Ok(rest.get_u64_le()) } else { Err(FrameError::Length { kind, length, expected: "9" }) }
}

/// The first frame of a channel.
///
/// # Errors
/// Never for a hello of this program; the serializer's signature asks for it.
pub fn encode_hello(hello: &ChannelHello) -> Result<Bytes, FrameError> {
    postcard::to_stdvec(hello).map(Bytes::from).map_err(|e| FrameError::Hello(e.to_string()))
}

/// Reads the first frame of a channel.
///
/// # Errors
/// [`FrameError::Hello`] if the bytes are none, or more than one.
pub fn decode_hello(frame: &[u8]) -> Result<ChannelHello, FrameError> {
    match postcard::take_from_bytes(frame) {
        Ok((hello, [])) => Ok(hello),
        Ok((_, rest)) => Err(FrameError::Hello(format!("{} bytes too many", rest.len()))),
        Err(e) => Err(FrameError::Hello(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{AttemptId, EdgeId, Execution, JobId, LeaderEpoch, SubtaskId, VertexId};

    #[test]
    fn what_was_encoded_comes_back() {
        let payload = Bytes::from_static(b"records");
        assert_eq!(decode(encode_data(3, &payload)), Ok(Frame::Data { records: 3, payload }));
        assert_eq!(decode(encode_barrier(CheckpointId(7))), Ok(Frame::Barrier(CheckpointId(7))));
        let directory = SavepointDirectory::at(ObjectName::new("savepoints/savepoint-000000-0123456789ab").unwrap());
        let barrier = encode_savepoint_barrier(CheckpointId(9), &directory);
        assert_eq!(decode(barrier), Ok(Frame::SavepointBarrier(CheckpointId(9), directory)));
        assert_eq!(decode(encode_replay_marker(CheckpointId(8))), Ok(Frame::ReplayMarker(CheckpointId(8))));
        assert_eq!(decode(encode_credit(u32::MAX)), Ok(Frame::Credit(u32::MAX)));
        assert_eq!(decode(encode_watermark(i64::MIN)), Ok(Frame::Watermark(i64::MIN)));
        assert_eq!(decode(encode_idle()), Ok(Frame::Idle));
    }

    #[test]
    fn each_malformed_frame_is_named() {
        let bad = |bytes: &'static [u8]| decode(Bytes::from_static(bytes)).expect_err("malformed").to_string();
        assert_eq!(bad(b""), "an empty frame");
        assert_eq!(bad(b"\x09rest"), "a frame of unknown kind 9");
        assert_eq!(bad(b"\x00\x01\x00"), "a data frame of 3 bytes, at least 5 expected");
        assert_eq!(bad(b"\x00\x00\x00\x00\x00"), "a data frame that announces no records");
        assert_eq!(bad(b"\x01\x00"), "a barrier frame of 2 bytes, 9 expected");
        assert_eq!(bad(b"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00"), "a replay marker frame of 10 bytes, 9 expected");
        assert_eq!(bad(b"\x04\x00"), "a watermark frame of 2 bytes, 9 expected");
        assert_eq!(bad(b"\x06\x00"), "a savepoint barrier frame of 2 bytes, more than 9 expected");
        for nowhere in [&b"\x06\x00\x00\x00\x00\x00\x00\x00\x00"[..], b"\x06\x00\x00\x00\x00\x00\x00\x00\x00../ha"] {
            assert_eq!(bad(nowhere), "a savepoint barrier without the name of a directory");
        }
        assert_eq!(bad(b"\x05\x00"), "an idle frame of 2 bytes, 1 expected");
        assert_eq!(bad(b"\x03\x00\x00\x00\x00\x00"), "a credit frame of 6 bytes, 5 expected");
    }

    #[test]
    fn a_hello_with_anything_behind_it_is_refused() {
        let subtask = |vertex| SubtaskId { vertex: VertexId(vertex), index: 1 };
        let hello = ChannelHello {
            job: JobId(5),
            attempt: AttemptId { leader: LeaderEpoch(1), execution: Execution(2) },
            edge: EdgeId(0),
            from: subtask(0),
            to: subtask(1),
        };
        let bytes = encode_hello(&hello).expect("a hello");
        assert_eq!(decode_hello(&bytes), Ok(hello));
        let longer = [bytes.as_ref(), b"x"].concat();
        assert!(decode_hello(&longer).is_err());
        assert!(decode_hello(&bytes[..bytes.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_never_change_meaning(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_hello(&bytes);
            if let Ok(frame) = decode(Bytes::from(bytes.clone())) {
                let again = match frame {
                    Frame::Data { records, payload } => encode_data(records, &payload),
                    Frame::Barrier(n) => encode_barrier(n),
                    Frame::SavepointBarrier(n, directory) => encode_savepoint_barrier(n, &directory),
                    Frame::ReplayMarker(n) => encode_replay_marker(n),
                    Frame::Credit(n) => encode_credit(n),
                    Frame::Watermark(n) => encode_watermark(n),
                    Frame::Idle => encode_idle(),
                };
                prop_assert_eq!(again.as_ref(), bytes.as_slice());
            }
        }
    }
}
