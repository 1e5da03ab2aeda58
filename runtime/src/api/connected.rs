//! Two inputs of different types into one operator: the stream, and what is broadcast.

use super::{
    chains::{Decoder, InputChain},
    stage::{AnyStage, Lifecycle, Stage, Visit, typed},
    tails::TailTarget,
};
use crate::{
    dataflow::{
        chain::{Chain, ChainError},
        outputs::Outputs,
    },
    ids::OperatorUid,
    state::Record,
};

/// A record of one of the two inputs.
#[derive(Clone, Debug)]
pub(super) enum Connected<A, B> {
    Main(A),
    Broadcast(B),
}

/// The first input edge of the operator is the stream, the second what is broadcast.
pub(super) struct TwoInputs;

impl<A: Record, B: Record> Decoder<Connected<A, B>> for TwoInputs {
    fn take(edge: u32, bytes: &[u8]) -> postcard::Result<(Connected<A, B>, &[u8])> {
        if edge == 0 {
            postcard::take_from_bytes(bytes).map(|(record, rest)| (Connected::Main(record), rest))
        } else {
            postcard::take_from_bytes(bytes).map(|(record, rest)| (Connected::Broadcast(record), rest))
        }
    }
}

pub(super) fn connected_chain<A: Record, B: Record>(uid: &OperatorUid, head: AnyStage) -> Box<dyn Chain> {
    Box::new(InputChain::<Connected<A, B>, TwoInputs>::new(uid.clone(), typed(head)))
}

/// Every record to every subtask.
pub(super) struct BroadcastTail {
    pub target: TailTarget,
}

impl Lifecycle for BroadcastTail {}

impl<T: Record> Stage<T> for BroadcastTail {
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        self.collect_copies(batch, out)?;
        batch.clear();
        Ok(())
    }

    fn collect_copies(&mut self, batch: &[T], out: &mut Outputs) -> Result<(), ChainError> {
        for record in batch {
            for channel in 0..self.target.parallelism as usize {
                self.target.push(channel, record, out)?;
            }
        }
        Ok(())
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)
    }
}
