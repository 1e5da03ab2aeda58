//! The stages without state: map, filter, flat map; and the sink.

use std::{collections::BTreeMap, sync::Arc};

use super::stage::{BoxStage, Lifecycle, Stage, Visit, user_error};
use crate::{
    checkpoint::types::OutputDigest,
    connectors::LineSink,
    dataflow::{
        chain::{ChainError, SinkData},
        outputs::Outputs,
    },
    ids::OperatorUid,
    state::UserError,
};

/// Turns each record into any number of records, appended to the vector. Map and flat map are both made of it.
pub(super) struct Transform<T, U, F> {
    pub uid: OperatorUid,
    pub function: Arc<F>,
    pub made: Vec<U>,
    pub next: BoxStage<U>,
    pub of: std::marker::PhantomData<fn(T)>,
}

impl<T, U, F> Lifecycle for Transform<T, U, F> {}

impl<T, U, F> Stage<T> for Transform<T, U, F>
where
    F: Fn(T, &mut Vec<U>) -> Result<(), UserError>,
{
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        for record in batch.drain(..) {
            (self.function)(record, &mut self.made).map_err(|error| user_error(&self.uid, error))?;
        }
        self.next.collect(&mut self.made, out)
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)?;
        self.next.each(visit)
    }
}

pub(super) struct Filter<T, F> {
    pub function: Arc<F>,
    pub next: BoxStage<T>,
}

impl<T, F> Lifecycle for Filter<T, F> {}

impl<T, F: Fn(&T) -> bool> Stage<T> for Filter<T, F> {
    fn collect(&mut self, batch: &mut Vec<T>, out: &mut Outputs) -> Result<(), ChainError> {
        batch.retain(|record| (self.function)(record));
        self.next.collect(batch, out)
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)?;
        self.next.each(visit)
    }
}

pub(super) struct SinkStage<F> {
    pub sink: LineSink,
    pub encode: Arc<F>,
}

impl<F> Lifecycle for SinkStage<F> {
    fn set_muted(&mut self, muted: bool) {
        self.sink.set_muted(muted);
    }

    fn take_sink_data(&mut self, flush: bool, into: &mut Vec<SinkData>) {
        self.sink.take_data(flush, into);
    }

    fn take_sink_digests(&mut self, into: &mut BTreeMap<OperatorUid, OutputDigest>) {
        into.insert(self.sink.uid().clone(), self.sink.take_digest());
    }
}

impl<T, F: Fn(&T, &mut Vec<u8>)> Stage<T> for SinkStage<F> {
    fn collect(&mut self, batch: &mut Vec<T>, _out: &mut Outputs) -> Result<(), ChainError> {
        for record in batch.drain(..) {
            let encoded = self.sink.add(|line| (self.encode)(&record, line));
            encoded.map_err(|error| user_error(self.sink.uid(), error))?;
        }
        Ok(())
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)
    }
}
