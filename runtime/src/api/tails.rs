//! The stages that end a chain towards the network: they encode records into the channels of one output edge.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::stage::{Lifecycle, Stage, Visit};
use crate::{
    dataflow::{
        chain::{ChainError, ChainSnapshot, RestoredState},
        outputs::Outputs,
    },
    ids::{KeyGroup, OperatorUid},
    state::{Record, subtask_of},
};

/// Where a tail puts its records.
#[derive(Clone, Debug)]
pub(super) struct TailTarget {
    /// The operator whose records these are.
    pub from: OperatorUid,
    /// The operator they go to.
    pub to: OperatorUid,
    /// Of the subtask whose chain this ends.
    pub index: u32,
    /// Position among the vertex's output edges.
    pub edge: usize,
    pub parallelism: u32,
    pub max_parallelism: u16,
}

impl TailTarget {
    #[inline]
    pub(super) fn push<T: Record>(&self, channel: usize, record: &T, out: &mut Outputs) -> Result<(), ChainError> {
        out.push(self.edge, channel, record).map_err(|error| ChainError {
            operator: self.from.0.clone(),
            message: format!("a record does not encode: {error}"),
        })
    }
}

/// Appends the key group of each record.
pub(super) type AssignGroups<T> = Arc<dyn Fn(&[T], u16, &mut Vec<KeyGroup>) + Send + Sync>;

/// To the subtask that owns the record's key group.
pub(super) struct HashTail<T> {
    pub target: TailTarget,
    pub assign: AssignGroups<T>,
    pub groups: Vec<KeyGroup>,
}

impl<T> Lifecycle for HashTail<T> {}

impl<T: Record> Stage<T> for HashTail<T> {
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        self.collect_copies(batch, out)?;
        batch.clear();
        Ok(())
    }

    fn collect_copies(&mut self, batch: &[T], out: &mut Outputs) -> Result<(), ChainError> {
        if self.target.parallelism == 1 {
            // Every key group has the same owner.
            return batch.iter().try_for_each(|record| self.target.push(0, record, out));
        }
        self.groups.clear();
        (self.assign)(batch, self.target.max_parallelism, &mut self.groups);
        for (record, group) in batch.iter().zip(&self.groups) {
            let channel = subtask_of(*group, self.target.parallelism, self.target.max_parallelism);
            self.target.push(channel as usize, record, out)?;
        }
        Ok(())
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)
    }
}

/// To the subtask with the same index, which is the edge's only channel.
pub(super) struct ForwardTail {
    pub target: TailTarget,
}

impl Lifecycle for ForwardTail {}

impl<T: Record> Stage<T> for ForwardTail {
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        self.collect_copies(batch, out)?;
        batch.clear();
        Ok(())
    }

    fn collect_copies(&mut self, batch: &[T], out: &mut Outputs) -> Result<(), ChainError> {
        batch.iter().try_for_each(|record| self.target.push(0, record, out))
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)
    }
}

/// Round robin. Whose turn it is belongs to the state: a replay must send every record the way it went.
pub(super) struct RebalanceTail {
    pub target: TailTarget,
    pub turn: u32,
}

impl RebalanceTail {
    fn state_name(&self) -> OperatorUid {
        OperatorUid(format!("{}/rebalance/{}", self.target.from, self.target.to))
    }
}

impl Lifecycle for RebalanceTail {
    fn open(&mut self, restored: &RestoredState) -> Result<(), ChainError> {
        let name = self.state_name();
        if let Some(bytes) = restored.inline_of(&name).next() {
            let turn: u32 = postcard::from_bytes(bytes).map_err(|error| ChainError {
                operator: name.0.clone(),
                message: format!("inline state does not decode: {error}"),
            })?;
            self.turn = turn % self.target.parallelism;
        }
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        let encoded = postcard::to_allocvec(&self.turn).expect("a number always encodes");
        snapshot.inline.insert(self.state_name(), encoded);
        Ok(())
    }
}

impl<T: Record> Stage<T> for RebalanceTail {
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        self.collect_copies(batch, out)?;
        batch.clear();
        Ok(())
    }

    fn collect_copies(&mut self, batch: &[T], out: &mut Outputs) -> Result<(), ChainError> {
        for record in batch {
            self.target.push(self.turn as usize, record, out)?;
            self.turn += 1;
            if self.turn == self.target.parallelism {
                self.turn = 0;
            }
        }
        Ok(())
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)
    }
}

/// To any subtask, all alike. Each draw is a hash of how many there were before it, which belongs to the state: a replay must send every
/// record the way it went.
pub(super) struct ShuffleTail {
    pub target: TailTarget,
    pub draws: u64,
}

impl ShuffleTail {
    fn state_name(&self) -> OperatorUid {
        OperatorUid(format!("{}/shuffle/{}", self.target.from, self.target.to))
    }

    fn draw(&mut self) -> usize {
        self.draws += 1;
        // Subtasks that drew the same would all send to one at a time.
        let hash = xxh3_64_with_seed(&self.draws.to_le_bytes(), self.target.index.into());
        (hash % u64::from(self.target.parallelism)) as usize
    }
}

impl Lifecycle for ShuffleTail {
    fn open(&mut self, restored: &RestoredState) -> Result<(), ChainError> {
        let name = self.state_name();
        if let Some(bytes) = restored.inline_of(&name).next() {
            self.draws = postcard::from_bytes(bytes).map_err(|error| ChainError {
                operator: name.0.clone(),
                message: format!("inline state does not decode: {error}"),
            })?;
        }
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        let encoded = postcard::to_allocvec(&self.draws).expect("a number always encodes");
        snapshot.inline.insert(self.state_name(), encoded);
        Ok(())
    }
}

impl<T: Record> Stage<T> for ShuffleTail {
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        self.collect_copies(batch, out)?;
        batch.clear();
        Ok(())
    }

    fn collect_copies(&mut self, batch: &[T], out: &mut Outputs) -> Result<(), ChainError> {
        for record in batch {
            let channel = self.draw();
            self.target.push(channel, record, out)?;
        }
        Ok(())
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)
    }
}
