//! The two ends of a data channel: credit, queues, frames. A channel is one connection; the subtask loop polls it directly.
//!
//! Credit counts payload bytes. The consumer grants a window at the start and grants again what it has consumed, in pieces
//! of a quarter of the window, and whatever is left when it has nothing to do. The producer sends a data frame only with
//! credit for all of it (for the whole window, if the payload is larger than that); so what is in flight never exceeds the
//! window. Barriers and markers need no credit but keep their place among the data.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};

use super::{
    event_time::EventTime,
    frame::{self, Frame, FrameError, MAX_PAYLOAD_BYTES},
    outputs::PendingBuffer,
};
use crate::{
    ids::CheckpointId,
    journal::{Event, Journal},
    layout::SavepointDirectory,
    platform::{Connection, FrameReceiver, FrameSender, Mono, NetError},
    points::Point,
};

/// A consumer keeps no more frames than this in memory; the rest waits in the network. Bounds what frames that need no
/// credit, or many tiny ones, can occupy.
const MAX_RECEIVED_FRAMES: usize = 32;
/// The same in a replay, where the recorded order may ask for records behind a great many small frames; credit still
/// bounds their bytes.
const MAX_RECEIVED_FRAMES_IN_REPLAY: usize = 4096;

/// A channel that can no longer be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    #[error("channel {channel}: {source}")]
    Net { channel: String, source: NetError },
    #[error("channel {channel}: the peer sent {source}")]
    Frame { channel: String, source: FrameError },
    #[error("channel {channel}: the peer sent {what}")]
    Protocol { channel: String, what: String },
}

enum Waiting {
    Data {
        frame: Bytes,
        payload: usize,
    },
    Barrier {
        frame: Bytes,
        checkpoint: CheckpointId,
    },
    /// Needs no credit and is not told of: a replay's marker, or a word about event time.
    Plain {
        frame: Bytes,
    },
}

/// The producing end.
pub struct OutputChannel {
    /// `<from>-><to>`.
    pub name: String,
    /// The process of the consumer.
    pub to: String,
    /// When the oldest record still in the chain's buffer for this channel was seen there.
    pub buffered_since: Option<Mono>,
    sender: Box<dyn FrameSender>,
    receiver: Box<dyn FrameReceiver>,
    /// Frames in order, not yet handed to the transport for want of credit.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Frames that have their credit.
    sending: VecDeque<Bytes>,
    sending_bytes: usize,
    /// The transport still holds bytes it could not hand over.
    unflushed: bool,
    credit: i64,
    /// Something waits for credit, and that was noted.
    starved: bool,
    window: i64,
    inbox: VecDeque<Bytes>,
}

impl OutputChannel {
    pub fn new(name: String, to: String, connection: Connection, window: u32) -> OutputChannel {
        OutputChannel {
            name,
            to,
            buffered_since: None,
            sender: connection.sender,
            receiver: connection.receiver,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sending: VecDeque::new(),
            sending_bytes: 0,
            unflushed: false,
            credit: 0,
            starved: false,
            window: i64::from(window),
            inbox: VecDeque::new(),
        }
    }

    /// Takes the buffers of this channel that were cut.
    ///
    /// # Errors
    /// Says so if one of them is too large for a frame.
    pub fn take_buffers(&mut self, buffer: &mut PendingBuffer) -> Result<(), String> {
        while let Some((bytes, records)) = buffer.full.pop_front() {
            if bytes.len() > MAX_PAYLOAD_BYTES {
                return Err(format!(
                    "channel {}: a record makes a buffer of {} bytes; at most {MAX_PAYLOAD_BYTES} can be sent",
                    self.name,
                    bytes.len()
                ));
            }
            self.push_data(records, &bytes);
        }
        Ok(())
    }

    pub fn push_data(&mut self, records: u32, payload: &[u8]) {
        self.waiting_bytes += payload.len();
        self.waiting.push_back(Waiting::Data { frame: frame::encode_data(records, payload), payload: payload.len() });
    }

    pub fn push_barrier(&mut self, checkpoint: CheckpointId, savepoint: Option<&SavepointDirectory>) {
        let frame = match savepoint {
            Some(directory) => frame::encode_savepoint_barrier(checkpoint, directory),
            None => frame::encode_barrier(checkpoint),
        };
        self.waiting.push_back(Waiting::Barrier { frame, checkpoint });
    }

    pub fn push_marker(&mut self, epoch: CheckpointId) {
        self.waiting.push_back(Waiting::Plain { frame: frame::encode_replay_marker(epoch) });
    }

    pub fn push_event_time(&mut self, event_time: EventTime) {
        let frame = match event_time {
            EventTime::At(watermark) => frame::encode_watermark(watermark),
            EventTime::Idle => frame::encode_idle(),
        };
        self.waiting.push_back(Waiting::Plain { frame });
    }

    /// Payload bytes that the network did not take yet.
    pub fn unsent_bytes(&self) -> usize {
        self.waiting_bytes + self.sending_bytes
    }

    /// Whether [`OutputChannel::poll`] may get something done without having been woken.
    pub fn has_frames(&self) -> bool {
        !self.waiting.is_empty() || !self.sending.is_empty()
    }

    /// Takes in credit and sends what may be sent. The caller is woken when more can be done.
    ///
    /// # Errors
    /// [`ChannelError`] once the channel is lost.
    pub fn poll(&mut self, cx: &mut Context<'_>, journal: &Journal) -> Result<(), ChannelError> {
        loop {
            match self.receiver.poll_recv(cx, &mut self.inbox, MAX_RECEIVED_FRAMES) {
                Poll::Pending => break,
                Poll::Ready(Ok(_)) => self.take_credit()?,
                Poll::Ready(Err(source)) => return Err(self.lost(source)),
            }
        }
        self.release(journal);
        if !self.sending.is_empty() || self.unflushed {
            match self.sender.poll_send(cx, &mut self.sending) {
                Poll::Pending => self.unflushed = true,
                Poll::Ready(Ok(_)) => self.unflushed = false,
                Poll::Ready(Err(source)) => return Err(self.lost(source)),
            }
            self.sending_bytes = self.sending.iter().map(Bytes::len).sum();
        }
        Ok(())
    }

    fn take_credit(&mut self) -> Result<(), ChannelError> {
        while let Some(bytes) = self.inbox.pop_front() {
            match frame::decode(bytes) {
                Ok(Frame::Credit(granted)) => self.credit = self.credit.saturating_add(i64::from(granted)),
                Ok(other) => {
                    return Err(ChannelError::Protocol {
                        channel: self.name.clone(),
                        what: format!("{other:?} where only credit may come"),
                    });
                }
                Err(source) => return Err(ChannelError::Frame { channel: self.name.clone(), source }),
            }
        }
        Ok(())
    }

    /// Moves frames to the transport's queue as far as credit reaches.
    fn release(&mut self, journal: &Journal) {
        while let Some(next) = self.waiting.front() {
            if let Waiting::Data { payload, .. } = next {
                let payload = i64::try_from(*payload).unwrap_or(i64::MAX);
                if self.credit < payload.min(self.window) {
                    if !std::mem::replace(&mut self.starved, true) {
                        journal.reached(Point::CreditExhausted);
                    }
                    return;
                }
                self.starved = false;
                self.credit -= payload;
            }
            match self.waiting.pop_front() {
                Some(Waiting::Data { frame, payload }) => {
                    self.waiting_bytes -= payload;
                    self.sending_bytes += frame.len();
                    self.sending.push_back(frame);
                }
                Some(Waiting::Barrier { frame, checkpoint }) => {
                    self.sending.push_back(frame);
                    let event = Event::BarrierSent { channel: self.name.clone(), checkpoint, to: self.to.clone() };
                    journal.emit(event);
                }
                Some(Waiting::Plain { frame }) => self.sending.push_back(frame),
                None => return,
            }
        }
    }

    fn lost(&self, source: NetError) -> ChannelError {
        ChannelError::Net { channel: self.name.clone(), source }
    }
}

/// What an input channel has at its front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// So many records of a frame are left; see [`InputChannel::payload`].
    Data(u32),
    Barrier(CheckpointId),
    ReplayMarker(CheckpointId),
    EventTime(EventTime),
}

/// How a consumer grants credit.
#[derive(Clone, Copy, Debug)]
pub struct Grants {
    pub window: u32,
    /// The window is doubled until [`InputChannel::end_replay`].
    pub replaying: bool,
    /// A deliberate fault: grant far more, and ever more.
    pub unlimited: bool,
}

/// The consuming end.
pub struct InputChannel {
    /// `<from>-><to>`.
    pub name: String,
    /// By position among the inputs of the vertex.
    pub edge: u32,
    /// Waits for the other channels' barriers; not consumed.
    pub blocked: bool,
    sender: Box<dyn FrameSender>,
    receiver: Box<dyn FrameReceiver>,
    /// Frames as they came out of the connection; empty between polls.
    arriving: VecDeque<Bytes>,
    received: VecDeque<Frame>,
    current: Option<Frame>,
    grants: Grants,
    /// Totals of payload bytes, over the life of the channel.
    granted: u64,
    arrived: u64,
    /// Consumed and not granted again yet.
    consumed: u64,
    /// Still to be kept back after the doubled window of a replay.
    keep_back: u64,
    outbox: VecDeque<Bytes>,
    unflushed: bool,
}

impl InputChannel {
    pub fn new(name: String, edge: u32, connection: Connection, grants: Grants) -> InputChannel {
        let mut channel = InputChannel {
            name,
            edge,
            blocked: false,
            sender: connection.sender,
            receiver: connection.receiver,
            arriving: VecDeque::new(),
            received: VecDeque::new(),
            current: None,
            grants,
            granted: 0,
            arrived: 0,
            consumed: 0,
            keep_back: 0,
            outbox: VecDeque::new(),
            unflushed: false,
        };
        channel.grant(u64::from(grants.window) * if grants.replaying { 2 } else { 1 });
        channel
    }

    /// The replay is over: shrinks the window back to its normal size, by granting less.
    pub fn end_replay(&mut self) {
        if std::mem::take(&mut self.grants.replaying) {
            self.keep_back += u64::from(self.grants.window);
        }
    }

    /// Receives what has come and sends credit. The caller is woken when more comes, unless so much is here already that
    /// it must consume first.
    ///
    /// # Errors
    /// [`ChannelError`] once the channel is lost, or if the peer sent bytes that are no frame, a frame that it may not send,
    /// or more than its credit.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), ChannelError> {
        let most = if self.grants.replaying { MAX_RECEIVED_FRAMES_IN_REPLAY } else { MAX_RECEIVED_FRAMES };
        while self.received.len() < most {
            let room = most - self.received.len();
            match self.receiver.poll_recv(cx, &mut self.arriving, room) {
                Poll::Pending => break,
                Poll::Ready(Ok(_)) => self.admit_all()?,
                Poll::Ready(Err(source)) => return Err(ChannelError::Net { channel: self.name.clone(), source }),
            }
        }
        self.poll_credit(cx)
    }

    /// Sends the credit granted so far.
    ///
    /// # Errors
    /// [`ChannelError`] once the channel is lost.
    pub fn poll_credit(&mut self, cx: &mut Context<'_>) -> Result<(), ChannelError> {
        if !self.outbox.is_empty() || self.unflushed {
            match self.sender.poll_send(cx, &mut self.outbox) {
                Poll::Pending => self.unflushed = true,
                Poll::Ready(Ok(_)) => self.unflushed = false,
                Poll::Ready(Err(source)) => return Err(ChannelError::Net { channel: self.name.clone(), source }),
            }
        }
        Ok(())
    }

    /// Nothing is here.
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.received.is_empty()
    }

    /// Whether credit waits to be sent.
    pub fn has_credit_to_send(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// What comes next on this channel, if it is here.
    pub fn front(&mut self) -> Option<Front> {
        if self.current.is_none() {
            self.current = self.received.pop_front();
        }
        match self.current.as_ref()? {
            Frame::Data { records, .. } => Some(Front::Data(*records)),
            Frame::Barrier(checkpoint) | Frame::SavepointBarrier(checkpoint, _) => Some(Front::Barrier(*checkpoint)),
            Frame::ReplayMarker(epoch) => Some(Front::ReplayMarker(*epoch)),
            Frame::Watermark(watermark) => Some(Front::EventTime(EventTime::At(*watermark))),
            Frame::Idle => Some(Front::EventTime(EventTime::Idle)),
            Frame::Credit(_) => None,
        }
    }

    fn admit_all(&mut self) -> Result<(), ChannelError> {
        while let Some(bytes) = self.arriving.pop_front() {
            let frame =
                frame::decode(bytes).map_err(|source| ChannelError::Frame { channel: self.name.clone(), source })?;
            self.admit(&frame)?;
            self.received.push_back(frame);
        }
        Ok(())
    }

    fn admit(&mut self, frame: &Frame) -> Result<(), ChannelError> {
        let what = match frame {
            Frame::Data { payload, .. } => {
                let length = payload.len() as u64;
                let needed = length.min(u64::from(self.grants.window));
                let credit = self.granted.saturating_sub(self.arrived);
                self.arrived += length;
                if needed <= credit {
                    return Ok(());
                }
                format!("{length} bytes with a credit of {credit}")
            }
            Frame::Credit(_) => "credit, which only a consumer sends".to_string(),
            Frame::Barrier(_)
            | Frame::SavepointBarrier(..)
            | Frame::ReplayMarker(_)
            | Frame::Watermark(_)
            | Frame::Idle => return Ok(()),
        };
        Err(ChannelError::Protocol { channel: self.name.clone(), what })
    }

    /// Where the savepoint is to lie that the barrier at the front asks for; None for the barrier of a checkpoint.
    pub fn savepoint(&self) -> Option<SavepointDirectory> {
        match &self.current {
            Some(Frame::SavepointBarrier(_, directory)) => Some(directory.clone()),
            _ => None,
        }
    }

    /// What is left of the data frame at the front; empty if there is none.
    pub fn payload(&self) -> Bytes {
        match &self.current {
            Some(Frame::Data { payload, .. }) => payload.clone(),
            _ => Bytes::new(),
        }
    }

    /// So much of the data frame at the front was processed.
    ///
    /// # Errors
    /// Says what is inconsistent: no progress, more than there was, or bytes left over behind the last record.
    pub fn consume(&mut self, bytes: usize, records: u32) -> Result<(), String> {
        let Some(Frame::Data { records: left, payload }) = &mut self.current else {
            return Err("consumed data where there is none".to_string());
        };
        if records == 0 || records > *left || bytes > payload.len() {
            return Err(format!(
                "{records} records in {bytes} bytes were decoded from a frame with {left} records in {} bytes left",
                payload.len()
            ));
        }
        *left -= records;
        payload.advance(bytes);
        if *left == 0 {
            if !payload.is_empty() {
                return Err(format!("{} bytes are left over behind the last record of a frame", payload.len()));
            }
            self.current = None;
        }
        self.consumed += bytes as u64;
        if self.consumed * 4 >= u64::from(self.grants.window) {
            self.grant_consumed();
        }
        Ok(())
    }

    /// Takes the barrier, marker or word about event time at the front.
    pub fn pop_control(&mut self) {
        if !matches!(self.current, Some(Frame::Data { .. })) {
            self.current = None;
        }
    }

    /// There is nothing to do: grants the rest too, so that a frame as large as the window can come.
    pub fn grant_rest(&mut self) {
        if self.consumed > 0 && self.is_empty() {
            self.grant_consumed();
        }
    }

    fn grant_consumed(&mut self) {
        let consumed = std::mem::take(&mut self.consumed);
        let kept = consumed.min(self.keep_back);
        self.keep_back -= kept;
        self.grant(consumed - kept);
    }

    fn grant(&mut self, bytes: u64) {
        let bytes = if self.grants.unlimited { bytes + 64 * u64::from(self.grants.window) } else { bytes };
        if bytes == 0 {
            return;
        }
        let mut left = bytes;
        while left > 0 {
            let piece = u32::try_from(left).unwrap_or(u32::MAX);
            self.outbox.push_back(frame::encode_credit(piece));
            left -= u64::from(piece);
        }
        self.granted += bytes;
    }
}
