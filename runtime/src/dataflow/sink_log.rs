//! What the sinks of a subtask have written and nobody has committed yet: data objects, being uploaded or uploaded, and
//! digests, each kept until a completed checkpoint covers it.
//!
//! An upload that fails is tried again for as long as the subtask lives, because the data exists nowhere else; the snapshots
//! that waited for it meanwhile are declined.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{chain::SinkData, task::SubtaskSpec, task_set::TaskSet};
use crate::{
    checkpoint::{
        primary::Primary,
        types::{OutputDigest, PrecommittedObject, SinkAck},
    },
    ids::{CheckpointId, OperatorUid},
    layout::Layout,
    platform::{ObjectName, Platform, StoreError},
    sabotage::Sabotage,
};

/// More uploads than this, and the subtask stops consuming.
const MAX_IN_FLIGHT: usize = 4;

/// After an upload was given up.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct UploadState {
    object: Option<ObjectName>,
    failures: u32,
    last_error: String,
    waiting: Vec<Waker>,
}

/// One data object on its way.
#[derive(Clone)]
struct Upload {
    state: Arc<Mutex<UploadState>>,
    length: u64,
    records: u64,
}

impl Upload {
    fn lock(&self) -> MutexGuard<'_, UploadState> {
        self.state.lock().expect("upload state: a holder panicked")
    }

    fn settle(&self, outcome: Result<ObjectName, String>) {
        let mut state = self.lock();
        match outcome {
            Ok(object) => state.object = Some(object),
            Err(error) => {
                state.failures += 1;
                state.last_error = error;
            }
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting {
            waker.wake();
        }
    }

    /// Until the object is durable, or an attempt fails that had not failed before `failures` were counted.
    async fn durable(&self, failures: u32) -> Result<ObjectName, String> {
        poll_fn(|cx| {
            let mut state = self.lock();
            if let Some(object) = &state.object {
                return Poll::Ready(Ok(object.clone()));
            }
            if state.failures > failures {
                return Poll::Ready(Err(state.last_error.clone()));
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

#[derive(Default)]
struct SinkState {
    /// With the snapshot each was cut for; None for those since the last barrier.
    uploads: Vec<(Option<CheckpointId>, Upload)>,
    digests: BTreeMap<CheckpointId, OutputDigest>,
}

/// The sinks' part of a snapshot, to be awaited by its asynchronous part.
pub struct SinkSnapshot {
    sinks: Vec<SinkCut>,
}

struct SinkCut {
    sink: OperatorUid,
    /// With the snapshot each was cut for, and how often it had failed at the barrier.
    uploads: Vec<(CheckpointId, Upload, u32)>,
    digests: BTreeMap<CheckpointId, OutputDigest>,
}

impl SinkSnapshot {
    /// Waits until all objects are durable.
    ///
    /// # Errors
    /// Why one of them is not.
    pub async fn complete(self) -> Result<BTreeMap<OperatorUid, SinkAck>, String> {
        let mut acks = BTreeMap::new();
        for SinkCut { sink, uploads, digests } in self.sinks {
            let mut objects = Vec::with_capacity(uploads.len());
            for (snapshot, upload, failures) in uploads {
                let object = upload.durable(failures).await.map_err(|e| format!("output of sink {sink}: {e}"))?;
                objects.push(PrecommittedObject { object, length: upload.length, records: upload.records, snapshot });
            }
            acks.insert(sink, SinkAck { objects, digests });
        }
        Ok(acks)
    }
}

/// The output of a subtask's sinks that is not known to be committed.
pub struct SinkLog {
    platform: Platform,
    spec: Arc<SubtaskSpec>,
    sinks: BTreeMap<OperatorUid, SinkState>,
    in_flight: usize,
    done: mpsc::UnboundedReceiver<()>,
    on_done: mpsc::UnboundedSender<()>,
    tasks: TaskSet,
    last_snapshot: CheckpointId,
}

impl SinkLog {
    /// For the sinks named, going on from checkpoint `from`.
    pub fn new(platform: Platform, spec: Arc<SubtaskSpec>, sinks: &[OperatorUid], from: CheckpointId) -> SinkLog {
        let (on_done, done) = mpsc::unbounded_channel();
        SinkLog {
            platform,
            spec,
            sinks: sinks.iter().map(|s| (s.clone(), SinkState::default())).collect(),
            in_flight: 0,
            done,
            on_done,
            tasks: TaskSet::default(),
            last_snapshot: from,
        }
    }

    pub fn has_sinks(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// So much is being uploaded that nothing should be consumed.
    pub fn is_full(&self) -> bool {
        self.in_flight >= MAX_IN_FLIGHT
    }

    /// Notices finished uploads; wakes the caller at the next.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(())) = self.done.poll_recv(cx) {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// Starts uploading `data`. Says whether that made it full.
    pub fn add(&mut self, data: Vec<SinkData>) -> bool {
        let was_full = self.is_full();
        for SinkData { sink, bytes, records } in data {
            let upload = Upload { state: Arc::default(), length: bytes.len() as u64, records };
            self.sinks.entry(sink.clone()).or_default().uploads.push((None, upload.clone()));
            self.in_flight += 1;
            let platform = self.platform.clone();
            let spec = Arc::clone(&self.spec);
            let settings = &spec.settings;
            let primary = Primary::new(&platform, settings.store_operation_timeout, settings.store_total_timeout);
            let done = self.on_done.clone();
            // The checkpoint that the data belongs to is known at its barrier only; the name says which it is likely to be.
            let checkpoint = self.last_snapshot.next();
            let name = format!("upload of {sink}");
            self.tasks.add(self.platform.spawner.control(
                &name,
                Box::pin(async move {
                    let collide = spec.settings.sabotage.is(Sabotage::CollidingSinkNames);
                    loop {
                        let (index, nonce) = match collide {
                            true => (0, 0),
                            false => (spec.subtask.index, platform.entropy.next_u64("sink-object")),
                        };
                        let object =
                            Layout { job: spec.job }.sink_data(&sink.0, checkpoint, spec.attempt, index, nonce);
                        let mut created = primary.create(&object, vec![bytes.clone()]).await;
                        if collide && created == Err(StoreError::Exists) {
                            platform.journal.emit(Sabotage::CollidingSinkNames.marker());
                            created = Ok(());
                        }
                        let durable = created.is_ok();
                        upload.settle(created.map_err(|e| format!("{object}: {e}")).map(|()| object));
                        if durable {
                            // Nobody counts any more once the subtask has stopped.
                            let _ = done.send(());
                            return;
                        }
                        platform.clock.sleep(RETRY_PAUSE).await;
                    }
                }),
            ));
        }
        !was_full && self.is_full()
    }

    /// Cuts at the barrier of `checkpoint`, when all data up to it was added, with the digests since the barrier before.
    pub fn cut(&mut self, checkpoint: CheckpointId, digests: BTreeMap<OperatorUid, OutputDigest>) -> SinkSnapshot {
        self.last_snapshot = checkpoint;
        for (sink, digest) in digests {
            self.sinks.entry(sink).or_default().digests.insert(checkpoint, digest);
        }
        let sinks = self.sinks.iter_mut().map(|(sink, state)| {
            state.digests.entry(checkpoint).or_default();
            let uploads = state.uploads.iter_mut().map(|(snapshot, upload)| {
                let snapshot = *snapshot.get_or_insert(checkpoint);
                let failures = upload.lock().failures;
                (snapshot, upload.clone(), failures)
            });
            SinkCut { sink: sink.clone(), uploads: uploads.collect(), digests: state.digests.clone() }
        });
        SinkSnapshot { sinks: sinks.collect() }
    }

    /// `checkpoint` has completed, and with it everything up to it.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        for state in self.sinks.values_mut() {
            state.uploads.retain(|(snapshot, _)| snapshot.is_none_or(|s| s > checkpoint));
            state.digests = state.digests.split_off(&checkpoint.next());
        }
    }

    pub async fn stop(&mut self) {
        self.tasks.stop().await;
    }
}
