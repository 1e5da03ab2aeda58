//! Connections that carry frames.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    task::{Context, Poll},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Fut, Mono};

/// The longest frame either side may send. A longer length on the wire is hostile or corrupt and closes the connection.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// Where a process listens. Real world: `host:port` (port 0 asks for any). Simulated world: `process/service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address(pub String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    #[error("connection refused")]
    Refused,
    #[error("connection timed out")]
    TimedOut,
    #[error("connection reset by peer")]
    Reset,
    /// The peer closed its sending side in order; nothing was lost.
    #[error("connection closed by peer")]
    Closed,
    #[error("address already in use")]
    AddressInUse,
    /// Bytes that are no frame: a length beyond [`MAX_FRAME_BYTES`], or the stream ended inside a frame.
    #[error("malformed frame: {0}")]
    Malformed(String),
    #[error("network error: {0}")]
    Io(String),
    /// This process is dead; its handles do nothing any more.
    #[error("the process is dead")]
    Dead,
}

pub trait Transport: Send + Sync {
    fn listen(&self, at: &Address) -> Fut<'_, Result<Box<dyn Listener>, NetError>>;

    /// Connects, giving up at `by`. `label` names the connection for journals and for faults aimed at it (for example
    /// `read[0]->count[1]`); it does not travel.
    fn connect(&self, to: &Address, label: &str, by: Mono) -> Fut<'_, Result<Connection, NetError>>;
}

pub trait Listener: Send {
    fn accept(&mut self) -> Fut<'_, Result<Connection, NetError>>;
    /// Where others reach this listener (with the real port when port 0 was asked for).
    fn address(&self) -> Address;
}

/// Both directions of a connection. Dropping a half closes that direction; dropping both closes the connection.
pub struct Connection {
    pub sender: Box<dyn FrameSender>,
    pub receiver: Box<dyn FrameReceiver>,
}

pub trait FrameSender: Send {
    /// Hands frames from the front of `queue` to the network, in order. Ready: everything, also what an earlier call took,
    /// has been handed over, and the result counts the frames taken by this call. Pending: the window is full; `queue`
    /// holds what was not taken yet, and the task is woken when there is room again.
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut VecDeque<Bytes>) -> Poll<Result<usize, NetError>>;
}

pub trait FrameReceiver: Send {
    /// Appends up to `max` (at least 1) received frames to `out` and says how many. Never Ready(Ok(0)).
    /// [`NetError::Closed`] once everything the peer sent before an orderly close was delivered.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut VecDeque<Bytes>,
        max: usize,
    ) -> Poll<Result<usize, NetError>>;
}

/// Sends one frame, waiting for room.
///
/// # Errors
/// As [`FrameSender::poll_send`].
pub async fn send(sender: &mut dyn FrameSender, frame: Bytes) -> Result<(), NetError> {
    let mut queue = VecDeque::from([frame]);
    poll_fn(|cx| sender.poll_send(cx, &mut queue)).await.map(|_| ())
}

/// Receives one frame.
///
/// # Errors
/// As [`FrameReceiver::poll_recv`].
pub async fn recv(receiver: &mut dyn FrameReceiver) -> Result<Bytes, NetError> {
    let mut out = VecDeque::with_capacity(1);
    poll_fn(|cx| receiver.poll_recv(cx, &mut out, 1)).await?;
    out.pop_front().ok_or(NetError::Closed)
}
