//! Keyed processing: user code with state per key.

use std::sync::Arc;

use bytes::Bytes;

use super::stage::{BoxStage, Lifecycle, Stage, Visit, user_error};
use crate::{
    checkpoint::types::PartKind,
    dataflow::{
        chain::{ChainError, ChainSnapshot, RestoredPart, RestoredState},
        outputs::Outputs,
    },
    graph::ChainContext,
    ids::{KeyGroupRange, OperatorUid},
    state::{KeyedBackend, KeyedContext, OpenContext, Record, StateKey, UserError, key_group_range},
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
}

/// The parts of an operator's keyed state.
pub(super) fn keyed_parts(restored: &RestoredState, uid: &OperatorUid) -> Vec<(KeyGroupRange, Bytes)> {
    let keyed = |part: &&RestoredPart| part.operator == *uid && !matches!(part.kind, PartKind::Operator { .. });
    restored.parts.iter().filter(keyed).map(|part| (part.key_groups, part.bytes.clone())).collect()
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

pub(super) struct ProcessStage<P: KeyedProcess> {
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

impl<P: KeyedProcess> ProcessStage<P> {
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

impl<P: KeyedProcess> Lifecycle for ProcessStage<P> {
    fn open(&mut self, restored: &RestoredState) -> Result<(), ChainError> {
        let ChainContext { subtask, parallelism, max_parallelism } = self.context;
        let range = key_group_range(subtask.index, parallelism, max_parallelism);
        let parts = keyed_parts(restored, &self.uid);
        let opened = KeyedBackend::restore(self.uid.clone(), range, max_parallelism, &parts).and_then(|mut state| {
            self.process.open(&mut state.open_context())?;
            state.opened();
            Ok(state)
        });
        self.state = Some(opened.map_err(|error| user_error(&self.uid, error))?);
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        let Some(state) = &mut self.state else { return Err(self.not_open()) };
        let parts = state.snapshot().map_err(|error| user_error(&self.uid, error.into()))?;
        snapshot.parts.extend(parts);
        Ok(())
    }
}

impl<P: KeyedProcess> Stage<P::In> for ProcessStage<P> {
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
        self.next.collect(&mut self.made, out)
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)?;
        self.next.each(visit)
    }
}
