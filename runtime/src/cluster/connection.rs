//! A control connection as an actor sees it: messages out through a queue, messages in through a callback.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, channel::mpsc, future::AbortHandle};
use serde::{Serialize, de::DeserializeOwned};

use super::rpc;
use crate::platform::{Connection, Platform, recv, send};

/// The sending side. Dropping it closes the connection and ends its tasks.
pub struct Outbox {
    queue: mpsc::UnboundedSender<Bytes>,
    aborts: [AbortHandle; 2],
}

impl Outbox {
    /// Queues a message. A connection that broke says so through the reader; nothing is lost silently on a live one.
    pub fn send<T: Serialize>(&self, message: &T) {
        let _ = self.queue.unbounded_send(rpc::encode(message));
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        for abort in &self.aborts {
            abort.abort();
        }
    }
}

/// Starts a connection's reader and writer tasks. `on_message` gets each message; `on_down` is called once, when the
/// connection broke, with the reason (not when the [`Outbox`] was dropped).
pub fn start<In: DeserializeOwned + Send + 'static>(
    platform: &Platform,
    peer: &str,
    connection: Connection,
    on_message: impl Fn(In) + Send + Sync + 'static,
    on_down: impl Fn(String) + Send + Sync + 'static,
) -> Outbox {
    let Connection { mut sender, mut receiver } = connection;
    let (queue, mut outgoing) = mpsc::unbounded::<Bytes>();
    let on_down = Arc::new(on_down);
    let down = Arc::clone(&on_down);
    let writer = async move {
        while let Some(frame) = outgoing.next().await {
            if let Err(error) = send(sender.as_mut(), frame).await {
                down(format!("sending: {error}"));
                return;
            }
        }
    };
    let reader = async move {
        loop {
            let frame = match recv(receiver.as_mut()).await {
                Ok(frame) => frame,
                Err(error) => return on_down(error.to_string()),
            };
            match rpc::decode(&frame) {
                Ok(message) => on_message(message),
                Err(error) => return on_down(format!("a frame that is no message: {error}")),
            }
        }
    };
    let writer = platform.spawner.control(&format!("rpc-writer-{peer}"), writer.boxed());
    let reader = platform.spawner.control(&format!("rpc-reader-{peer}"), reader.boxed());
    Outbox { queue, aborts: [writer.abort_handle(), reader.abort_handle()] }
}
