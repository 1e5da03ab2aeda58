//! The links of a chain. A stage takes a batch of records and hands what comes of it to the next stage, which it owns; the
//! last one encodes for the network or is a sink. One dynamic call per batch and stage.

use std::{any::Any, collections::BTreeMap};

use crate::{
    checkpoint::types::{OutputDigest, Times},
    dataflow::{
        chain::{ChainError, ChainSnapshot, NativeCall, NativeStage, RestoredState, SinkData, StateUpgrade, TimeMove},
        outputs::Outputs,
    },
    ids::{CheckpointId, OperatorUid},
    state::UserError,
};

/// What happens to an operator besides records. Most operators do nothing.
pub(super) trait Lifecycle {
    fn open(&mut self, _restored: &RestoredState) -> Result<(), ChainError> {
        Ok(())
    }

    fn completed(&mut self, _checkpoint: CheckpointId) {}

    fn native_calls(&mut self, _stage: NativeStage, _calls: &mut Vec<NativeCall>) {}

    fn natively_opened(&mut self) -> Result<(), ChainError> {
        Ok(())
    }

    /// What was encoded anew of the state that was restored.
    fn take_upgrades(&mut self, _upgrades: &mut Vec<StateUpgrade>) {}

    fn snapshot(&mut self, _snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        Ok(())
    }

    /// Sets the times and fires nothing.
    fn resume(&mut self, _times: Times) {}

    /// A time moves on; what comes of it goes to the operators that follow before the time moves on for them.
    fn advance(&mut self, _time: TimeMove, _out: &mut Outputs) -> Result<(), ChainError> {
        Ok(())
    }

    fn needs_processing_time(&self) -> bool {
        false
    }

    fn next_processing_timer(&self) -> Option<i64> {
        None
    }

    /// Records dropped for being late, since the last call.
    fn take_late_records(&mut self) -> u64 {
        0
    }

    fn set_muted(&mut self, _muted: bool) {}

    fn take_sink_data(&mut self, _flush: bool, _into: &mut Vec<SinkData>) {}

    fn take_sink_digests(&mut self, _into: &mut BTreeMap<OperatorUid, OutputDigest>) {}
}

/// What is done to each operator of a chain in turn.
pub(super) type Visit<'a> = dyn FnMut(&mut dyn Lifecycle) -> Result<(), ChainError> + 'a;

pub(super) trait Stage<T> {
    /// Takes all records out of the batch.
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError>;

    /// Takes copies of the records, for a stage that shares its input with others.
    fn collect_copies(&mut self, batch: &[T], out: &mut Outputs) -> Result<(), ChainError>
    where
        T: Clone,
    {
        self.collect(&mut batch.to_vec(), out)
    }

    /// Visits this operator and all that follow, first to last.
    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError>;
}

pub(super) type BoxStage<T> = Box<dyn Stage<T>>;

/// A [`BoxStage`] whose record type was forgotten, so that the builder can hold all of them. Whoever makes one and whoever
/// takes it apart are closures made by the same typed stream, so the type always fits.
pub(super) type AnyStage = Box<dyn Any>;

pub(super) fn erase<T: 'static>(stage: BoxStage<T>) -> AnyStage {
    Box::new(stage)
}

pub(super) fn typed<T: 'static>(stage: AnyStage) -> BoxStage<T> {
    *stage.downcast().expect("the builder joins stages of the same record type")
}

pub(super) fn user_error(operator: &OperatorUid, error: UserError) -> ChainError {
    ChainError { operator: operator.0.clone(), message: error.into_message() }
}

/// Several stages with the same input, or none.
struct FanOut<T>(Vec<BoxStage<T>>);

impl<T: Clone> Stage<T> for FanOut<T> {
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        match self.0.split_last_mut() {
            Some((last, others)) => {
                for stage in others {
                    stage.collect_copies(batch, out)?;
                }
                last.collect(batch, out)
            }
            None => {
                batch.clear();
                Ok(())
            }
        }
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        self.0.iter_mut().try_for_each(|stage| stage.each(visit))
    }
}

/// One stage out of all that consume the same stream.
pub(super) fn fan_out<T: Clone + 'static>(mut stages: Vec<AnyStage>) -> AnyStage {
    if stages.len() == 1
        && let Some(only) = stages.pop()
    {
        return only;
    }
    erase::<T>(Box::new(FanOut(stages.into_iter().map(typed::<T>).collect())))
}
