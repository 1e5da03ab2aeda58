//! Keyed processing: user code with state per key.

use std::sync::Arc;

use bytes::Bytes;

use super::keyed_operator::{FIRED_AT_ONCE, FiredTimer, KeyedOperator, moved};
use super::stage::{BoxStage, Lifecycle, Stage, Visit, user_error};
use crate::{
    checkpoint::types::{PartKind, Times},
    dataflow::{
        chain::{
            ChainError, ChainSnapshot, NativeCall, NativeStage, RestoredPart, RestoredState, StateUpgrade, TimeMove,
        },
        outputs::Outputs,
    },
    graph::ChainContext,
    ids::{CheckpointId, KeyGroupRange, OperatorUid},
    state::{KeyedBackend, KeyedContext, OpenContext, Record, StateKey, TimeDomain, UserError, key_group_range},
};

/// An operator on a keyed stream. One instance per subtask serves all keys of the subtask; what belongs to a key is kept in
/// the states declared in [`Self::open`], anything else is lost at a restart.
pub trait KeyedProcess: 'static {
    type Key: StateKey;
    type In: Record;
    type Out: Record;

    /// Called once before any record: declare states here.
    ///
    /// # Errors
    /// Whatever makes it impossible to start; fails the attempt.
    fn open(&mut self, ctx: &mut OpenContext<'_, Self::Key>) -> Result<(), UserError>;

    /// One record. What comes of it is appended to `out`.
    ///
    /// # Errors
    /// Fails the attempt.
    fn process(
        &mut self,
        value: Self::In,
        ctx: &mut KeyedContext<'_, Self::Key>,
        out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError>;

    /// A timer of this key is due: of the `timers` declared in [`Self::open`].
    ///
    /// # Errors
    /// Fails the attempt.
    fn on_timer(
        &mut self,
        _timer: FiredTimer,
        _ctx: &mut KeyedContext<'_, Self::Key>,
        _out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError> {
        Ok(())
    }
}

/// The keyed state of an operator, with what is restored of it.
pub(super) fn keyed_backend<K: StateKey>(
    uid: &OperatorUid,
    context: &ChainContext,
    restored: &RestoredState,
) -> Result<KeyedBackend<K>, UserError> {
    let range = key_group_range(context.subtask.index, context.parallelism, context.max_parallelism);
    let keyed = |part: &&RestoredPart| part.operator == *uid && part.kind == PartKind::Keyed;
    let parts = restored.parts.iter().filter(keyed).map(|part| (part.key_groups, part.bytes.clone()));
    let parts: Vec<(KeyGroupRange, Bytes)> = parts.collect();
    let scratch = restored.scratch.get(uid).cloned();
    KeyedBackend::restore(uid.clone(), range, context.max_parallelism, &parts, scratch, &context.backend)
}

pub(super) fn foreign_key(uid: &OperatorUid, index: u32, range: KeyGroupRange) -> ChainError {
    ChainError {
        operator: uid.0.clone(),
        message: format!(
            "a record came to subtask {index} whose key is not in its key groups {range}: the key function does not always \
             give the same key for the same record"
        ),
    }
}

/// Appends the key of each record.
pub(super) type ExtractKeys<K, T> = Arc<dyn Fn(&[T], &mut Vec<K>) + Send + Sync>;

pub(super) struct ProcessStage<P: KeyedOperator> {
    uid: OperatorUid,
    process: P,
    context: ChainContext,
    /// From `open` on.
    state: Option<KeyedBackend<P::Key>>,
    extract: ExtractKeys<P::Key, P::In>,
    keys: Vec<P::Key>,
    made: Vec<P::Out>,
    next: BoxStage<P::Out>,
}

impl<P: KeyedOperator> ProcessStage<P> {
    pub(super) fn new(
        uid: OperatorUid,
        process: P,
        context: ChainContext,
        extract: ExtractKeys<P::Key, P::In>,
        next: BoxStage<P::Out>,
    ) -> ProcessStage<P> {
        ProcessStage { uid, process, context, state: None, extract, keys: Vec::new(), made: Vec::new(), next }
    }

    fn not_open(&self) -> ChainError {
        ChainError { operator: self.uid.0.clone(), message: "used before it was opened".to_string() }
    }
}

impl<P: KeyedOperator> Lifecycle for ProcessStage<P> {
    fn open(&mut self, restored: &RestoredState) -> Result<(), ChainError> {
        let opened = keyed_backend(&self.uid, &self.context, restored).and_then(|mut state| {
            self.process.open(&mut state.open_context())?;
            state.opened();
            Ok(state)
        });
        self.state = Some(opened.map_err(|error| user_error(&self.uid, error))?);
        Ok(())
    }

    fn completed(&mut self, checkpoint: CheckpointId) {
        if let Some(state) = &mut self.state {
            state.completed(checkpoint);
        }
    }

    fn native_calls(&mut self, stage: NativeStage, calls: &mut Vec<NativeCall>) {
        calls.extend(self.state.as_mut().and_then(|state| state.native_calls(stage)));
    }

    fn natively_opened(&mut self) -> Result<(), ChainError> {
        let opened = self.state.as_mut().map_or(Ok(()), KeyedBackend::natively_opened);
        opened.map_err(|error| user_error(&self.uid, error.into()))
    }

    fn take_upgrades(&mut self, upgrades: &mut Vec<StateUpgrade>) {
        upgrades.extend(self.state.iter_mut().flat_map(KeyedBackend::take_upgrades));
    }

    fn resume(&mut self, times: Times) {
        if let Some(state) = &mut self.state {
            state.set_times(times);
        }
    }

    fn advance(&mut self, time: TimeMove, out: &mut Outputs) -> Result<(), ChainError> {
        let Some(state) = &mut self.state else { return Err(self.not_open()) };
        state.set_times(moved(state.times(), time));
        loop {
            let fired = self.process.fire(state, time, FIRED_AT_ONCE, &mut self.made);
            let more = fired.map_err(|error| user_error(&self.uid, error))?;
            state.settle().map_err(|error| user_error(&self.uid, error.into()))?;
            self.next.collect(&mut self.made, out)?;
            if !more {
                return Ok(());
            }
        }
    }

    fn take_late_records(&mut self) -> u64 {
        self.process.take_late_records()
    }

    fn needs_processing_time(&self) -> bool {
        self.state.as_ref().is_some_and(KeyedBackend::needs_processing_time)
    }

    fn next_processing_timer(&self) -> Option<i64> {
        self.state.as_ref()?.next_timer(TimeDomain::Processing)
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        let Some(state) = &mut self.state else { return Err(self.not_open()) };
        state.add_to(snapshot).map_err(|error| user_error(&self.uid, error.into()))
    }
}

impl<P: KeyedOperator> Stage<P::In> for ProcessStage<P> {
    fn collect(&mut self, batch: &mut Vec<P::In>, out: &mut Outputs) -> Result<(), ChainError> {
        let Some(state) = &mut self.state else { return Err(self.not_open()) };
        self.keys.clear();
        (self.extract)(batch, &mut self.keys);
        for (record, key) in batch.drain(..).zip(&self.keys) {
            let range = state.key_groups();
            let context = state.context(key).map_err(|error| user_error(&self.uid, error.into()))?;
            let Some(mut context) = context else {
                return Err(foreign_key(&self.uid, self.context.subtask.index, range));
            };
            self.process.process(record, &mut context, &mut self.made).map_err(|error| user_error(&self.uid, error))?;
        }
        state.settle().map_err(|error| user_error(&self.uid, error.into()))?;
        self.next.collect(&mut self.made, out)
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)?;
        self.next.each(visit)
    }
}
