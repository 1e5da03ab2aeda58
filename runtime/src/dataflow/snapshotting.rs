//! The asynchronous part of a subtask's snapshots: state parts to primary storage and to the local copy, sink objects, the
//! acknowledgement. Runs in control tasks while the stream goes on.
//!
//! An acknowledgement is sent only when everything it names is durable in primary storage; any failure declines this
//! checkpoint and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::{FutureExt, channel::oneshot};
use tokio::sync::mpsc;

use super::{
    bases::{Bases, Contents},
    chain::ChainSnapshot,
    sink_log::SinkSnapshot,
    task::{SubtaskReport, SubtaskSpec, TaskFailure},
    task_set::TaskSet,
};
use crate::{
    checkpoint::{
        primary::Primary,
        types::{CheckpointAck, MergeStep, SubtaskSnapshot},
    },
    ids::CheckpointId,
    journal::Event,
    layout::SavepointDirectory,
    platform::{Held, MAX_FRAME_BYTES, Platform},
    recovery::{
        local_store::LocalStateStore,
        native_io::{NativeFailure, write_native},
        snapshot_writing::{SnapshotContext, write_snapshot},
        transfer::Transfer,
    },
    sabotage::Sabotage,
    state::BackendKind,
};

/// What the synchronous part leaves to be written.
pub struct SnapshotParts {
    pub checkpoint: CheckpointId,
    /// It is a savepoint, and is to lie there.
    pub savepoint: Option<SavepointDirectory>,
    pub chain: ChainSnapshot,
    pub merges: BTreeMap<CheckpointId, Vec<MergeStep>>,
    pub sinks: SinkSnapshot,
    pub exhausted: bool,
}

/// Runs the asynchronous parts of one subtask.
pub struct Snapshotter {
    shared: Arc<Shared>,
    tasks: TaskSet,
    /// Of the snapshots that nothing was heard of yet: those that are savepoints. No checkpoint is based on one (FLINK-23949), and no
    /// local copies are made of them, as little as in Flink of RocksDB's.
    savepoints: BTreeSet<CheckpointId>,
    /// Of the snapshots that nothing was heard of yet.
    transfers: BTreeMap<CheckpointId, Transfer>,
    /// Synchronous snapshots that are being written: the stream waits for them.
    awaited: Vec<oneshot::Receiver<()>>,
    /// What an asynchronous part found that the subtask cannot live with.
    failures: mpsc::UnboundedReceiver<TaskFailure>,
}

struct Shared {
    platform: Platform,
    spec: Arc<SubtaskSpec>,
    name: String,
    local: Arc<LocalStateStore>,
    reports: mpsc::UnboundedSender<SubtaskReport>,
    failures: mpsc::UnboundedSender<TaskFailure>,
    /// The subtask's state, as large as its last snapshot was.
    state: Mutex<Held>,
    /// What the next snapshot may be based on, if checkpoints are incremental.
    bases: Mutex<Bases>,
    /// What was acknowledged and not heard of since: for a planted bug.
    #[cfg(feature = "sabotage")]
    unconfirmed: std::sync::Mutex<BTreeMap<CheckpointId, Vec<crate::platform::ObjectName>>>,
}

impl Snapshotter {
    pub fn new(
        platform: Platform,
        spec: Arc<SubtaskSpec>,
        name: String,
        local: Arc<LocalStateStore>,
        reports: mpsc::UnboundedSender<SubtaskReport>,
    ) -> Snapshotter {
        let state = Mutex::new(Held::new(&platform.memory, 0));
        let (failed, failures) = mpsc::unbounded_channel();
        let shared = Shared {
            platform,
            spec,
            name,
            local,
            reports,
            failures: failed,
            state,
            bases: Mutex::default(),
            #[cfg(feature = "sabotage")]
            unconfirmed: std::sync::Mutex::default(),
        };
        Snapshotter {
            shared: Arc::new(shared),
            tasks: TaskSet::default(),
            savepoints: BTreeSet::new(),
            transfers: BTreeMap::new(),
            awaited: Vec::new(),
            failures,
        }
    }

    /// Why the subtask cannot go on, if an asynchronous part has found that; else the subtask is woken when one does.
    pub fn poll_failure(&mut self, cx: &mut Context<'_>) -> Option<TaskFailure> {
        match self.failures.poll_recv(cx) {
            Poll::Ready(failure) => failure,
            Poll::Pending => None,
        }
    }

    /// Starts the asynchronous part; it ends with Ack or Decline.
    pub fn start(&mut self, parts: SnapshotParts) {
        if parts.savepoint.is_some() {
            self.savepoints.insert(parts.checkpoint);
        }
        let transfer = Transfer::default();
        self.transfers.insert(parts.checkpoint, transfer.clone());
        let shared = Arc::clone(&self.shared);
        let name = format!("snapshot {} of {}", parts.checkpoint, shared.name);
        let backend = &shared.spec.settings.backend;
        // RocksDB's are always asynchronous, as in Flink.
        let written = (!backend.async_snapshots && backend.kind != BackendKind::RocksDb).then(|| {
            let (written, awaited) = oneshot::channel();
            self.awaited.push(awaited);
            written
        });
        self.run(&name, async move {
            shared.run(parts, transfer).await;
            // However it ended, the stream goes on.
            drop(written);
        });
    }

    /// Whether the stream has to wait for a snapshot; if so, the subtask is woken when it is written.
    pub fn holds_the_stream(&mut self, cx: &mut Context<'_>) -> bool {
        self.awaited.retain_mut(|awaited| awaited.poll_unpin(cx).is_pending());
        !self.awaited.is_empty()
    }

    /// The checkpoint has completed: older local copies can go.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        #[cfg(feature = "sabotage")]
        self.shared.forget_unconfirmed(checkpoint);
        self.transfers = self.transfers.split_off(&checkpoint.next());
        let is_savepoint = self.savepoints.remove(&checkpoint);
        self.savepoints = self.savepoints.split_off(&checkpoint);
        if is_savepoint {
            return;
        }
        self.shared.bases(|bases| bases.completed(checkpoint));
        if self.shared.spec.settings.local_recovery {
            let local = Arc::clone(&self.shared.local);
            let name = format!("confirm local copy {checkpoint} of {}", self.shared.name);
            self.run(&name, async move { local.confirm(checkpoint).await });
        }
    }

    /// The checkpoint was given up, and with it its local copy and its asynchronous part, if that still runs. Where it has just
    /// ended, the late acknowledgement names the objects that the coordinator then deletes.
    pub fn aborted(&mut self, checkpoint: CheckpointId) {
        if let Some(transfer) = self.transfers.remove(&checkpoint) {
            transfer.give_up();
        }
        if self.savepoints.remove(&checkpoint) {
            return;
        }
        self.shared.bases(|bases| bases.aborted(checkpoint));
        if self.shared.spec.settings.local_recovery {
            let local = Arc::clone(&self.shared.local);
            let name = format!("drop local copy {checkpoint} of {}", self.shared.name);
            self.run(&name, async move { local.abort(checkpoint).await });
        }
    }

    fn run(&mut self, name: &str, body: impl Future<Output = ()> + Send + 'static) {
        self.tasks.add(self.shared.platform.spawner.control(name, Box::pin(body)));
    }

    /// Ends all asynchronous parts and waits until none runs any more.
    pub async fn stop(&mut self) {
        self.tasks.stop().await;
        #[cfg(feature = "sabotage")]
        self.shared.delete_unconfirmed().await;
    }
}

impl Shared {
    async fn run(&self, parts: SnapshotParts, transfer: Transfer) {
        let checkpoint = parts.checkpoint;
        let subtask = || self.name.clone();
        let journal = &self.platform.journal;
        journal.emit(Event::SnapshotAsyncStarted { subtask: subtask(), checkpoint });
        let report = match self.write(parts, transfer.clone()).await {
            Ok(ack) => {
                journal.emit(Event::SnapshotAsyncDone { subtask: subtask(), checkpoint });
                #[cfg(feature = "sabotage")]
                self.remember_unconfirmed(&ack);
                SubtaskReport::Ack(Box::new(ack))
            }
            Err(NativeFailure::Snapshot(_)) if transfer.is_given_up() => {
                journal.emit(Event::SnapshotGivenUp { subtask: subtask(), checkpoint });
                return self.take_back(&transfer).await;
            }
            Err(failure) => {
                let (NativeFailure::Snapshot(reason) | NativeFailure::Database(reason)) = &failure;
                journal.emit(Event::SnapshotFailed { subtask: subtask(), checkpoint, reason: reason.clone() });
                if let NativeFailure::Database(reason) = &failure {
                    journal.emit(Event::DatabaseBroken { subtask: subtask(), reason: reason.clone() });
                    // The subtask may have ended meanwhile.
                    let _ = self.failures.send(TaskFailure::Environment(reason.clone()));
                }
                SubtaskReport::Decline { checkpoint, reason: reason.clone() }
            }
        };
        let is_declined = matches!(report, SubtaskReport::Decline { .. });
        // Nobody listens once the TaskManager has given the subtask up.
        let _ = self.reports.send(report);
        if is_declined {
            self.take_back(&transfer).await;
        }
    }

    /// Deletes what a snapshot has stored that nobody will ever refer to. What cannot be deleted is found by the orphan sweep.
    async fn take_back(&self, transfer: &Transfer) {
        let objects = transfer.take_back();
        if !objects.is_empty() {
            let settings = &self.spec.settings;
            let (operation, total) = (settings.store_operation_timeout, settings.store_total_timeout);
            let _ = Primary::new(&self.platform, operation, total).delete_all(&objects).await;
        }
    }

    async fn write(&self, parts: SnapshotParts, transfer: Transfer) -> Result<CheckpointAck, NativeFailure> {
        let SnapshotParts { checkpoint, savepoint, chain, merges, sinks, exhausted } = parts;
        let is_checkpoint = savepoint.is_none();
        let context = SnapshotContext {
            job: self.spec.job,
            subtask: self.spec.subtask,
            name: self.name.clone(),
            attempt: self.spec.attempt,
            checkpoint,
            savepoint,
            transfer,
        };
        let settings = &self.spec.settings;
        let local = (settings.local_recovery && is_checkpoint).then(|| self.local.begin(checkpoint));
        let mut parts = chain.parts;
        let is_base = is_checkpoint && settings.backend.is_incremental();
        let (base, contents) = match is_base {
            true => self.bases(|bases| (bases.base(), bases.resolve(&mut parts))),
            false => (None, Contents::default()),
        };
        let state = async {
            let (mut state, local) = write_native(&self.platform, &context, settings, chain.native, local).await?;
            let written = write_snapshot(&self.platform, &context, settings, parts, base, local).await;
            state.extend(written.map_err(NativeFailure::Snapshot)?);
            Ok::<_, NativeFailure>(state)
        };
        let (state, sinks) = futures::future::join(state, sinks.complete()).await;
        let (state, sinks) = (state?, sinks.map_err(NativeFailure::Snapshot)?);
        if is_base {
            self.bases(|bases| {
                bases.wrote(checkpoint, &contents, &state);
                if settings.sabotage.is(Sabotage::BasedOnUnconfirmed) {
                    bases.completed(checkpoint);
                }
            });
        }
        if let Ok(mut held) = self.state.lock() {
            held.resize(state.iter().map(|part| part.length).sum());
        }
        if !sinks.is_empty() {
            let of_this = || sinks.values().flat_map(|s| &s.objects).filter(|o| o.snapshot == checkpoint);
            self.platform.journal.emit(Event::SinkPrecommitted {
                subtask: self.name.clone(),
                checkpoint,
                objects: u32::try_from(of_this().count()).unwrap_or(u32::MAX),
                records: of_this().map(|o| o.records).sum(),
            });
        }
        let ack = CheckpointAck {
            subtask: self.spec.subtask,
            attempt: self.spec.attempt,
            checkpoint,
            snapshot: SubtaskSnapshot { parts: state, inline: chain.inline },
            positions: chain.positions,
            sinks,
            merges,
            exhausted,
        };
        fits_a_message(&ack, settings.frame_bytes).map_err(NativeFailure::Snapshot)?;
        Ok(ack)
    }

    fn bases<T>(&self, with: impl FnOnce(&mut Bases) -> T) -> T {
        with(&mut self.bases.lock().expect("bases of snapshots: a holder panicked"))
    }
}

/// What a message has besides the acknowledgement itself.
const ENVELOPE_BYTES: u64 = 64;

/// An acknowledgement that no message can carry must not be tried: the connection would not survive it.
///
/// # Errors
/// Which sizes do not fit together, and what to do.
fn fits_a_message(ack: &CheckpointAck, frame_bytes: u64) -> Result<(), String> {
    let frame_bytes = frame_bytes.min(MAX_FRAME_BYTES as u64);
    let whole = postcard::experimental::serialized_size(ack).map_err(|e| format!("the acknowledgement: {e}"))? as u64;
    if whole + ENVELOPE_BYTES <= frame_bytes {
        return Ok(());
    }
    let inline = ack.snapshot.inline_bytes();
    Err(format!(
        "the acknowledgement has {whole} bytes, {inline} of them state, and a message at most {frame_bytes} \
         (akka.framesize): raise that, or keep state in files (state.backend: filesystem, or a lower \
         state.backend.fs.memory-threshold)"
    ))
}

/// A planted bug: the closing of a task and its asynchronous part do not ask each other who owns the files.
#[cfg(feature = "sabotage")]
impl Shared {
    fn unconfirmed<T>(
        &self,
        with: impl FnOnce(&mut BTreeMap<CheckpointId, Vec<crate::platform::ObjectName>>) -> T,
    ) -> T {
        with(&mut self.unconfirmed.lock().expect("unconfirmed snapshots: a holder panicked"))
    }

    fn remember_unconfirmed(&self, ack: &CheckpointAck) {
        let objects = ack.snapshot.own_objects(ack.checkpoint).cloned().collect();
        self.unconfirmed(|u| u.insert(ack.checkpoint, objects));
    }

    fn forget_unconfirmed(&self, completed: CheckpointId) {
        self.unconfirmed(|u| *u = u.split_off(&completed.next()));
    }

    async fn delete_unconfirmed(&self) {
        let settings = &self.spec.settings;
        let objects: Vec<_> = self.unconfirmed(std::mem::take).into_values().flatten().collect();
        if !objects.is_empty() && settings.sabotage.runs(Sabotage::CloseDeletesAcked, &self.platform.journal) {
            let (operation, total) = (settings.store_operation_timeout, settings.store_total_timeout);
            let primary = Primary::new(&self.platform, operation, total);
            let _ = primary.delete_all(&objects).await;
        }
    }
}
