//! The control protocol between JobManager and TaskManagers: one connection per TaskManager, opened by the TaskManager,
//! messages both ways, no replies: every message is a fact or an order, and carries what fences it.
//!
//! A client connects to the same port, asks one thing and waits for the answer.
//!
//! A frame is one version byte and the postcard encoding of one message. Anything else closes the connection.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    dataflow::task::{SubtaskCommand, SubtaskReport, SubtaskSpec},
    ids::{AllocationId, AttemptId, JobId, LeaderEpoch, SharedSlot, SubtaskId},
    platform::Address,
    recovery::local_inventory::LocalInventory,
};

/// First byte of every frame; another one means a peer of another version, or no peer at all.
const PROTOCOL_VERSION: u8 = 1;

/// What a slot of a TaskManager is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSlot {
    pub allocation: AllocationId,
    pub shared: SharedSlot,
    /// The attempt in which it was last deployed here. Of two TaskManagers that claim the same, the one where it was deployed later
    /// is right: the other could not be had then.
    pub since: AttemptId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToJobManager {
    /// The first message on a connection.
    Register {
        task_manager: String,
        /// Distinguishes the runs of one TaskManager process.
        incarnation: u64,
        job: JobId,
        data_address: Address,
        /// The latest leader it has obeyed. One that leads no more, and does not know it, learns it here: an order of it would be
        /// ignored, and without slots it would never write to the head log, where it would meet its successor.
        obeyed: LeaderEpoch,
        /// By slot index.
        slots: Vec<Option<HeldSlot>>,
    },
    Heartbeat,
    Report {
        attempt: AttemptId,
        subtask: SubtaskId,
        report: SubtaskReport,
    },
    /// No task of this or an earlier attempt runs any more on this TaskManager.
    Cancelled {
        attempt: AttemptId,
        /// The local copies that it has now: somebody else's state may be among them.
        local: LocalInventory,
    },
    /// Not from a TaskManager. It is answered on the same connection, once, by a [`ClientResponse`].
    Client(ClientRequest),
}

/// What somebody who is no part of the cluster wants of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientRequest {
    Savepoint {
        /// None: whatever job it is.
        job: Option<JobId>,
        /// The directory below which it is to lie; None: `state.savepoints.dir`.
        target: Option<String>,
        /// The job ends with it.
        stop: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientResponse {
    /// The savepoint's path, or why there is none. If there is none, the job goes on as before.
    Savepoint(Result<String, String>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToTaskManager {
    /// Answers a registration.
    Welcome {
        leader: LeaderEpoch,
    },
    Heartbeat {
        leader: LeaderEpoch,
    },
    Deploy {
        leader: LeaderEpoch,
        slot: u32,
        /// The parallelism at which the job runs; None: as it is described.
        scaled_to: Option<u32>,
        shared: SharedSlot,
        spec: Box<SubtaskSpec>,
    },
    /// Stop every task of this and of earlier attempts, then say so.
    Cancel {
        leader: LeaderEpoch,
        attempt: AttemptId,
    },
    /// For the named subtasks of an attempt.
    Command {
        leader: LeaderEpoch,
        attempt: AttemptId,
        subtasks: Vec<SubtaskId>,
        command: SubtaskCommand,
    },
    /// The allocation is no longer wanted: free the slot.
    ReleaseSlot {
        leader: LeaderEpoch,
        slot: u32,
        allocation: AllocationId,
        /// Others may want its local state, to whom its key groups go now. Without: drop it.
        keep_copies: bool,
    },
}

impl ToTaskManager {
    pub fn leader(&self) -> LeaderEpoch {
        match self {
            ToTaskManager::Welcome { leader }
            | ToTaskManager::Heartbeat { leader }
            | ToTaskManager::Deploy { leader, .. }
            | ToTaskManager::Cancel { leader, .. }
            | ToTaskManager::Command { leader, .. }
            | ToTaskManager::ReleaseSlot { leader, .. } => *leader,
        }
    }
}

/// A frame that is no message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("empty frame")]
    Empty,
    #[error("protocol version {0}, expected {PROTOCOL_VERSION}")]
    Version(u8),
    #[error("malformed message: {0}")]
    Malformed(String),
}

pub fn encode<T: Serialize>(message: &T) -> Bytes {
    // Encoding into memory fails only for types that postcard cannot express, and the tests encode every one of ours.
    let bytes = postcard::to_extend(message, vec![PROTOCOL_VERSION]).expect("protocol messages are encodable");
    Bytes::from(bytes)
}

/// # Errors
/// [`DecodeError`] for anything that is not exactly one message.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, DecodeError> {
    let (version, body) = frame.split_first().ok_or(DecodeError::Empty)?;
    if *version != PROTOCOL_VERSION {
        return Err(DecodeError::Version(*version));
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::Malformed(format!("{} trailing bytes", rest.len()))) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{CheckpointId, Execution, VertexId};

    fn a_command() -> ToTaskManager {
        ToTaskManager::Command {
            leader: LeaderEpoch(3),
            attempt: AttemptId { leader: LeaderEpoch(3), execution: Execution(2) },
            subtasks: vec![SubtaskId { vertex: VertexId(1), index: 4 }],
            command: SubtaskCommand::NotifyComplete(CheckpointId(9)),
        }
    }

    #[test]
    fn a_message_survives_the_wire() {
        assert_eq!(decode::<ToTaskManager>(&encode(&a_command())), Ok(a_command()));
    }

    #[test]
    fn another_version_and_trailing_bytes_are_refused() {
        let mut frame = encode(&a_command()).to_vec();
        frame.push(0);
        assert!(matches!(decode::<ToTaskManager>(&frame), Err(DecodeError::Malformed(_))));
        frame[0] = 7;
        assert_eq!(decode::<ToTaskManager>(&frame), Err(DecodeError::Version(7)));
        assert_eq!(decode::<ToTaskManager>(&[]), Err(DecodeError::Empty));
    }

    proptest! {
        #[test]
        fn hostile_frames_are_errors_not_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<ToTaskManager>(&bytes);
            let _ = decode::<ToJobManager>(&bytes);
        }
    }
}
