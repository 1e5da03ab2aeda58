//! The two kinds of chains: those that read a source, and those that decode what comes over the network.

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc};

use bytes::Bytes;

use super::{
    stage::{BoxStage, user_error},
    watermarks::{SourceTimes, WatermarkStrategy},
};
use crate::{
    checkpoint::types::{OutputDigest, Times},
    connectors::{Source, SplitPoll, SplitReader},
    dataflow::{
        chain::{
            Chain, ChainError, ChainSnapshot, Consumed, NativeCall, NativeStage, RestoredState, SinkData,
            SnapshotFormat, SourcePoll, StateUpgrade, TimeMove,
        },
        event_time::EventTime,
        outputs::Outputs,
    },
    ids::{CheckpointId, OperatorUid, SplitId},
    platform::Mono,
    state::Record,
};

/// What both kinds do alike: go through the operators.
fn open_all<T>(head: &mut BoxStage<T>, restored: &RestoredState) -> Result<(), ChainError> {
    head.each(&mut |operator| operator.open(restored))
}

fn snapshot_all<T>(
    head: &mut BoxStage<T>,
    checkpoint: CheckpointId,
    format: SnapshotFormat,
) -> Result<ChainSnapshot, ChainError> {
    let mut snapshot = ChainSnapshot { checkpoint, format, ..ChainSnapshot::default() };
    head.each(&mut |operator| operator.snapshot(&mut snapshot))?;
    Ok(snapshot)
}

/// What both kinds do alike, too: visits that cannot fail, and times.
macro_rules! visiting_methods {
    () => {
        fn resume(&mut self, times: Times) {
            let _ = self.head.each(&mut |operator| {
                operator.resume(times);
                Ok(())
            });
        }

        fn advance(&mut self, time: TimeMove, out: &mut Outputs) -> Result<(), ChainError> {
            self.head.each(&mut |operator| operator.advance(time, out))
        }

        fn needs_processing_time(&mut self) -> bool {
            let mut needs = false;
            let _ = self.head.each(&mut |operator| {
                needs |= operator.needs_processing_time();
                Ok(())
            });
            needs
        }

        fn take_late_records(&mut self) -> u64 {
            let mut late = 0;
            let _ = self.head.each(&mut |operator| {
                late += operator.take_late_records();
                Ok(())
            });
            late
        }

        fn next_processing_timer(&mut self) -> Option<i64> {
            let mut next: Option<i64> = None;
            let _ = self.head.each(&mut |operator| {
                next = next.into_iter().chain(operator.next_processing_timer()).min();
                Ok(())
            });
            next
        }

        fn set_muted(&mut self, muted: bool) {
            let _ = self.head.each(&mut |operator| {
                operator.set_muted(muted);
                Ok(())
            });
        }

        fn completed(&mut self, checkpoint: CheckpointId) {
            let _ = self.head.each(&mut |operator| {
                operator.completed(checkpoint);
                Ok(())
            });
        }

        fn native_calls(&mut self, stage: NativeStage) -> Vec<NativeCall> {
            let mut calls = Vec::new();
            let _ = self.head.each(&mut |operator| {
                operator.native_calls(stage, &mut calls);
                Ok(())
            });
            calls
        }

        fn natively_opened(&mut self) -> Result<(), ChainError> {
            self.head.each(&mut |operator| operator.natively_opened())
        }

        fn take_upgrades(&mut self) -> Vec<StateUpgrade> {
            let mut upgrades = Vec::new();
            let _ = self.head.each(&mut |operator| {
                operator.take_upgrades(&mut upgrades);
                Ok(())
            });
            upgrades
        }

        fn take_sink_data(&mut self, flush: bool) -> Vec<SinkData> {
            let mut data = Vec::new();
            let _ = self.head.each(&mut |operator| {
                operator.take_sink_data(flush, &mut data);
                Ok(())
            });
            data
        }

        fn take_sink_digests(&mut self) -> BTreeMap<OperatorUid, OutputDigest> {
            let mut digests = BTreeMap::new();
            let _ = self.head.each(&mut |operator| {
                operator.take_sink_digests(&mut digests);
                Ok(())
            });
            digests
        }
    };
}

/// Takes one record off the bytes of a frame.
pub(super) trait Decoder<T> {
    fn take(edge: u32, bytes: &[u8]) -> postcard::Result<(T, &[u8])>;
}

/// All input edges bring the same.
pub(super) struct OneInput;

impl<T: Record> Decoder<T> for OneInput {
    #[inline]
    fn take(_edge: u32, bytes: &[u8]) -> postcard::Result<(T, &[u8])> {
        postcard::take_from_bytes(bytes)
    }
}

/// Decodes frames and feeds the chain.
pub(super) struct InputChain<T, D> {
    uid: OperatorUid,
    head: BoxStage<T>,
    batch: Vec<T>,
    of: PhantomData<D>,
}

impl<T, D> InputChain<T, D> {
    pub(super) fn new(uid: OperatorUid, head: BoxStage<T>) -> InputChain<T, D> {
        InputChain { uid, head, batch: Vec::new(), of: PhantomData }
    }

    fn refuse<R>(&self, what: &str) -> Result<R, ChainError> {
        Err(ChainError { operator: self.uid.0.clone(), message: what.to_string() })
    }
}

impl<T, D: Decoder<T>> Chain for InputChain<T, D> {
    fn open(&mut self, restored: RestoredState) -> Result<(), ChainError> {
        open_all(&mut self.head, &restored)
    }

    fn poll_source(&mut self, _split: u32, _max_records: u32, _out: &mut Outputs) -> Result<SourcePoll, ChainError> {
        self.refuse("is not a source")
    }

    fn feed(&mut self, _split: u32, _bytes: Bytes) -> Result<(), ChainError> {
        self.refuse("is not a source")
    }

    fn process(
        &mut self,
        edge: u32,
        payload: &Bytes,
        max_records: u32,
        out: &mut Outputs,
    ) -> Result<Consumed, ChainError> {
        let mut rest: &[u8] = payload;
        let mut records = 0;
        self.batch.clear();
        while records < max_records && !rest.is_empty() {
            let (record, after) = D::take(edge, rest).map_err(|error| ChainError {
                operator: self.uid.0.clone(),
                message: format!(
                    "a record of input {edge} does not decode, at byte {} of a frame of {}: {error}",
                    payload.len() - rest.len(),
                    payload.len()
                ),
            })?;
            if after.len() == rest.len() {
                // A record of no bytes: how many of them came cannot be told.
                return self.refuse("records of a type without content cannot be exchanged");
            }
            self.batch.push(record);
            rest = after;
            records += 1;
        }
        self.head.collect(&mut self.batch, out)?;
        Ok(Consumed { bytes: payload.len() - rest.len(), records })
    }

    fn snapshot(&mut self, checkpoint: CheckpointId, format: SnapshotFormat) -> Result<ChainSnapshot, ChainError> {
        snapshot_all(&mut self.head, checkpoint, format)
    }

    visiting_methods!();
}

/// The splits of a source in the order of the graph.
pub(super) struct SplitPlan<S> {
    pub source: Arc<S>,
    /// Sorted by id; each with its position in the source.
    pub splits: Arc<Vec<(SplitId, usize)>>,
}

struct OwnSplit<T> {
    id: SplitId,
    position: usize,
    /// From `open` on.
    reader: Option<Box<dyn SplitReader<T>>>,
}

/// Reads a source and feeds the chain.
pub(super) struct SourceChain<S: Source> {
    uid: OperatorUid,
    plan: SplitPlan<S>,
    /// Of this subtask, in the order of their ids.
    own: Vec<OwnSplit<S::Out>>,
    rate_limit: Option<f64>,
    /// None: the job has no event time.
    times: Option<SourceTimes<S::Out>>,
    head: BoxStage<S::Out>,
    batch: Vec<S::Out>,
    of: PhantomData<S>,
}

impl<S: Source> SourceChain<S> {
    pub(super) fn new(
        uid: OperatorUid,
        plan: SplitPlan<S>,
        index: u32,
        parallelism: u32,
        strategy: Option<WatermarkStrategy<S::Out>>,
        head: BoxStage<S::Out>,
    ) -> SourceChain<S> {
        let own: Vec<_> = plan
            .splits
            .iter()
            .skip(index as usize)
            .step_by(parallelism as usize)
            .map(|(id, position)| OwnSplit { id: id.clone(), position: *position, reader: None })
            .collect();
        // Each subtask has the share of its splits.
        #[allow(clippy::cast_precision_loss)]
        let share = own.len() as f64 / plan.splits.len().max(1) as f64;
        let rate_limit = plan.source.records_per_second().map(|rate| rate * share);
        let times = strategy.map(|strategy| SourceTimes::new(strategy, own.len()));
        SourceChain { uid, plan, own, rate_limit, times, head, batch: Vec::new(), of: PhantomData }
    }

    fn error(&self, message: String) -> ChainError {
        ChainError { operator: self.uid.0.clone(), message }
    }

    fn reader(&mut self, split: u32) -> Result<&mut Box<dyn SplitReader<S::Out>>, ChainError> {
        let count = self.own.len();
        let uid = &self.uid;
        self.own.get_mut(split as usize).and_then(|split| split.reader.as_mut()).ok_or_else(|| ChainError {
            operator: uid.0.clone(),
            message: format!("asked for split {split} of {count}, or before it was opened"),
        })
    }
}

impl<S: Source> Chain for SourceChain<S> {
    fn open(&mut self, restored: RestoredState) -> Result<(), ChainError> {
        let mut offsets: BTreeMap<SplitId, u64> = BTreeMap::new();
        // Of all subtasks that the source had: a split may have been another's before.
        for bytes in restored.inline_of(&self.uid) {
            let of_one: BTreeMap<SplitId, u64> = postcard::from_bytes(bytes)
                .map_err(|error| self.error(format!("positions in the snapshot do not decode: {error}")))?;
            for (split, offset) in of_one {
                if offsets.insert(split.clone(), offset).is_some() {
                    return Err(self.error(format!("two subtasks have a position in split {split} in the snapshot")));
                }
            }
        }
        let known = &self.plan.splits;
        if let Some(unknown) = offsets.keys().find(|id| known.binary_search_by(|(k, _)| k.cmp(id)).is_err()) {
            return Err(self.error(format!(
                "the snapshot has a position in split {unknown}, which the job does not have: paths and numbers of splits \
                 must stay as they were"
            )));
        }
        for split in &mut self.own {
            // A split that the snapshot does not know is new: it is read from its start.
            let offset = offsets.get(&split.id).copied().unwrap_or(0);
            split.reader = Some(self.plan.source.open(split.position, offset));
        }
        open_all(&mut self.head, &restored)
    }

    fn poll_source(&mut self, split: u32, max_records: u32, out: &mut Outputs) -> Result<SourcePoll, ChainError> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let polled = self.reader(split)?.poll(max_records.max(1), &mut batch);
        let result = match polled {
            Ok(SplitPoll::Records(records)) => {
                if let Some(times) = &mut self.times {
                    times.read(split as usize, &batch);
                }
                self.head.collect(&mut batch, out).map(|()| SourcePoll::Records(records))
            }
            Ok(SplitPoll::NeedInput { path, range }) => Ok(SourcePoll::NeedInput { path, range }),
            Ok(SplitPoll::Exhausted) => {
                if let Some(times) = &mut self.times {
                    times.ended(split as usize);
                }
                Ok(SourcePoll::Exhausted)
            }
            Err(error) => Err(user_error(&self.uid, error)),
        };
        self.batch = batch;
        result
    }

    fn feed(&mut self, split: u32, bytes: Bytes) -> Result<(), ChainError> {
        let fed = self.reader(split)?.feed(bytes);
        fed.map_err(|error| user_error(&self.uid, error))
    }

    fn rate_limit(&self) -> Option<f64> {
        self.rate_limit
    }

    fn source_event_time(&mut self, now: Mono) -> Option<(EventTime, Option<Mono>)> {
        Some(self.times.as_mut()?.look(now))
    }

    fn process(
        &mut self,
        edge: u32,
        _payload: &Bytes,
        _max_records: u32,
        _out: &mut Outputs,
    ) -> Result<Consumed, ChainError> {
        Err(self.error(format!("is a source and has no input {edge}")))
    }

    fn snapshot(&mut self, checkpoint: CheckpointId, format: SnapshotFormat) -> Result<ChainSnapshot, ChainError> {
        let mut snapshot = snapshot_all(&mut self.head, checkpoint, format)?;
        for split in &self.own {
            let Some(reader) = &split.reader else {
                return Err(self.error("snapshot before it was opened".to_string()));
            };
            snapshot.positions.insert(split.id.clone(), reader.offset());
        }
        let encoded = postcard::to_allocvec(&snapshot.positions).expect("names and numbers always encode");
        snapshot.inline.insert(self.uid.clone(), encoded);
        Ok(snapshot)
    }

    visiting_methods!();
}
