//! One subtask: restore, connect, then a loop of commands, inputs, processing and output until it is cancelled or fails.
//!
//! The loop owns all connections of the subtask and polls them itself, in a fixed order, so that it runs the same in every
//! world. It works in rounds of one batch each; commands are looked at every few rounds, so that neither input nor commands
//! can starve the other. It takes no lock, reads the clock once a round, and never waits inside a round.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    alignment::Alignment,
    chain::{Chain, ChainError, NativeCall, NativeStage, Scratch, StateUpgrade},
    channel::{ChannelError, InputChannel, OutputChannel},
    event_time::InputEventTimes,
    intake::{Replay, Work},
    merge_log::MergeRecorder,
    outputs::Outputs,
    setup::{Commands, Stop, collect_inputs, connect_outputs, refuse},
    sink_log::SinkLog,
    snapshotting::Snapshotter,
    source_driver::SourceDriver,
    task::{InboundChannel, SubtaskCommand, SubtaskReport, SubtaskSpec, TaskFailure, TaskSettings},
};
use crate::{
    checkpoint::types::Times,
    graph::{ChainContext, Job},
    ids::{BackendId, CheckpointId, OperatorUid},
    journal::Event,
    layout::SavepointDirectory,
    platform::{Clock, Mono, Platform, Timer},
    points::Point,
    recovery::{local_store::LocalStateStore, restore_report::RestoreReport, snapshot_reading::restore_parts},
    sabotage::Sabotage,
    state::{BackendKind, key_group_range},
};

/// Rounds between two looks at commands.
const ROUNDS_PER_LOOK: u32 = 4;
/// Rounds until the subtask lets others on its thread run.
const ROUNDS_PER_TURN: u32 = 16;

/// Runs one subtask to its end: until it is cancelled (reports `Stopped`) or fails (reports `Failed`, once). Whatever it
/// started has ended and its connections are closed when it reports the one or the other, which is its last report.
///
/// A panic of user code passes through; the caller sees it as the end of the task that runs this.
pub async fn run_subtask(
    platform: Platform,
    job: Arc<Job>,
    spec: SubtaskSpec,
    local: Arc<LocalStateStore>,
    inbound: mpsc::UnboundedReceiver<InboundChannel>,
    commands: mpsc::UnboundedReceiver<SubtaskCommand>,
    reports: mpsc::UnboundedSender<SubtaskReport>,
) {
    let mut commands = Commands::new(commands);
    let stop = match start(platform, &job, Arc::new(spec), local, inbound, &mut commands, &reports).await {
        Err(stop) => stop,
        Ok((mut subtask, restored)) => {
            subtask.say_restored(&restored);
            // The TaskManager may be gone; then the cancel that follows from it ends the loop.
            let _ = reports.send(SubtaskReport::Running(Box::new(restored)));
            let stop = match poll_fn(|cx| subtask.poll_run(cx, &mut commands)).await {
                Ok(()) => Stop::Cancelled,
                Err(failure) => Stop::Failed(failure),
            };
            subtask.snapshotter.stop().await;
            subtask.sinks.stop().await;
            for call in subtask.chain.native_calls(NativeStage::Close) {
                // What does not close in order is closed when it is dropped, and worthless either way.
                let _ = run_native(&subtask.platform, call).await;
            }
            stop
        }
    };
    let _ = reports.send(match stop {
        Stop::Cancelled => SubtaskReport::Stopped,
        Stop::Failed(failure) => SubtaskReport::Failed(failure),
    });
}

/// Everything before the first record.
async fn start(
    platform: Platform,
    job: &Job,
    spec: Arc<SubtaskSpec>,
    local: Arc<LocalStateStore>,
    mut inbound: mpsc::UnboundedReceiver<InboundChannel>,
    commands: &mut Commands,
    reports: &mpsc::UnboundedSender<SubtaskReport>,
) -> Result<(Subtask, RestoreReport), Stop> {
    let settings = &spec.settings;
    let begun = platform.clock.now();
    let vertex = job.graph.vertex(spec.subtask.vertex);
    let name = job.graph.subtask_name(spec.subtask);
    let mut chain = job.chains[spec.subtask.vertex.0 as usize](&ChainContext {
        subtask: spec.subtask,
        parallelism: vertex.parallelism,
        max_parallelism: vertex.max_parallelism,
        backend: settings.backend.clone(),
    });
    let scratch = commands.unless_cancelled(scratch(&platform, settings, &vertex.keyed)).await?;
    let mut restored = commands.unless_cancelled(restore_parts(&platform, &spec, &name, Some(&local), scratch)).await?;
    let mut report = std::mem::take(&mut restored.report);
    let read = platform.clock.now();
    report.read = read.since(begun);
    if settings.sabotage.is(Sabotage::KeepsForeignKeyGroups) {
        let own = key_group_range(spec.subtask.index, vertex.parallelism, vertex.max_parallelism);
        let mut native = restored.scratch.values().flat_map(|scratch| &scratch.restored);
        if native.any(|native| native.key_groups != own) {
            platform.journal.emit(Sabotage::KeepsForeignKeyGroups.marker());
        }
    }
    chain.open(restored).map_err(user)?;
    for call in chain.native_calls(NativeStage::Open) {
        let operator = call.operator.clone();
        commands.unless_cancelled(run_native(&platform, call)).await?;
        let (subtask, attempt) = (name.clone(), spec.attempt);
        platform.journal.emit(Event::DatabaseOpened { subtask, operator: operator.0, attempt });
    }
    chain.natively_opened().map_err(user)?;
    for StateUpgrade { operator, state, values } in chain.take_upgrades() {
        platform.journal.emit(Event::StateUpgraded { subtask: name.clone(), operator: operator.0, state, values });
    }
    let opened = platform.clock.now();
    report.open = opened.since(read);
    let needs_processing_time = chain.needs_processing_time();
    let replaying = !spec.replay.epochs.is_empty();
    chain.set_muted(replaying && !settings.sabotage.runs(Sabotage::ReplayUnmuted, &platform.journal));

    let channels = connect_outputs(&platform, job, &spec, &name);
    let inputs = collect_inputs(&platform, &job.graph, &spec, &mut inbound, &name);
    let (channels, inputs) = commands.unless_cancelled(futures::future::try_join(channels, inputs)).await?;

    report.connect = platform.clock.now().since(opened);

    // The newest checkpoint that this subtask's state contains: restored, or replayed.
    let restored = spec.restore.as_ref().map_or(CheckpointId(0), |r| r.checkpoint);
    let from = spec.replay.epochs.last().map_or(restored, |e| e.epoch.max(restored));
    let mut outputs = Outputs::new(&spec.outputs.iter().map(Vec::len).collect::<Vec<_>>());
    outputs.cut_at_bytes = settings.buffer_bytes.max(1) as usize;
    let source = vertex.splits.as_ref().map(|splits| {
        let own =
            (0..splits.len()).filter(|i| *i as u64 % u64::from(vertex.parallelism) == u64::from(spec.subtask.index));
        SourceDriver::new(platform.clone(), settings.clone(), own.count(), chain.rate_limit())
    });
    let subtask = Subtask {
        alignment: Alignment::new(inputs.len(), from, settings.sabotage.is(Sabotage::SkipAlignment)),
        replay: replaying.then(|| Replay::new(spec.replay.clone(), inputs.len())),
        sinks: SinkLog::new(platform.clone(), Arc::clone(&spec), &vertex.sinks, from),
        snapshotter: Snapshotter::new(platform.clone(), Arc::clone(&spec), name.clone(), local, reports.clone()),
        merges: MergeRecorder::default(),
        reports: reports.clone(),
        inbound: Some(inbound),
        last_triggered: from,
        savepoints: BTreeMap::new(),
        exhausted_reported: false,
        next_input: 0,
        input_times: InputEventTimes::new(inputs.len()),
        times: Times::default(),
        said_idle: false,
        needs_processing_time,
        next_watermark: Mono::default(),
        alarm: Alarm::default(),
        platform,
        name,
        chain,
        outputs,
        channels,
        inputs,
        source,
        spec,
    };
    Ok((subtask, report))
}

/// What the databases of keyed operators need, if there are any.
async fn scratch(
    platform: &Platform,
    settings: &TaskSettings,
    keyed: &[OperatorUid],
) -> Result<BTreeMap<OperatorUid, Scratch>, TaskFailure> {
    let mut scratch = BTreeMap::new();
    let unclipped = settings.sabotage.is(Sabotage::KeepsForeignKeyGroups);
    if settings.backend.kind == BackendKind::RocksDb {
        for operator in keyed {
            let directory = platform.disk.native_dir().await.map_err(|error| {
                TaskFailure::Environment(format!("{operator}: no directory for its database: {error}"))
            })?;
            let backend = BackendId(platform.entropy.next_u128("backend-id"));
            let own = Scratch { directory, backend, restored: Vec::new(), unclipped };
            scratch.insert(operator.clone(), own);
        }
    }
    Ok(scratch)
}

async fn run_native(platform: &Platform, call: NativeCall) -> Result<(), TaskFailure> {
    match platform.spawner.native_value(call.op, call.run).await {
        Ok(result) => result,
        Err(error) => Err(TaskFailure::Environment(format!("{:?}: {error}", call.op))),
    }
}

/// A running subtask. Its parts: `intake` takes records in, `barriers` does what checkpoints ask, this file the rest.
pub(super) struct Subtask {
    pub(super) platform: Platform,
    pub(super) spec: Arc<SubtaskSpec>,
    pub(super) name: String,
    pub(super) chain: Box<dyn Chain>,
    pub(super) outputs: Outputs,
    /// All output channels, in the order of `outputs`.
    pub(super) channels: Vec<OutputChannel>,
    pub(super) inputs: Vec<InputChannel>,
    pub(super) next_input: usize,
    pub(super) source: Option<SourceDriver>,
    pub(super) alignment: Alignment,
    pub(super) merges: MergeRecorder,
    /// As long as epochs are replayed.
    pub(super) replay: Option<Replay>,
    pub(super) sinks: SinkLog,
    pub(super) snapshotter: Snapshotter,
    pub(super) reports: mpsc::UnboundedSender<SubtaskReport>,
    pub(super) last_triggered: CheckpointId,
    /// Of the barriers that are being aligned: those that ask for a savepoint, and where it is to lie.
    pub(super) savepoints: BTreeMap<CheckpointId, SavepointDirectory>,
    pub(super) exhausted_reported: bool,
    /// What the input channels say of event time.
    pub(super) input_times: InputEventTimes,
    /// What the operators see.
    pub(super) times: Times,
    /// Those downstream do not wait for this subtask's event time.
    pub(super) said_idle: bool,
    /// An operator asks for it.
    pub(super) needs_processing_time: bool,
    /// A source's next watermark, at the earliest.
    pub(super) next_watermark: Mono,
    inbound: Option<mpsc::UnboundedReceiver<InboundChannel>>,
    alarm: Alarm,
}

impl Subtask {
    /// Runs until nothing can be done without being woken. Ready(Ok) on cancel.
    fn poll_run(&mut self, cx: &mut Context<'_>, commands: &mut Commands) -> Poll<Result<(), TaskFailure>> {
        match self.turn(cx, commands) {
            Ok(Turn::Cancelled) => Poll::Ready(Ok(())),
            Ok(Turn::Idle) => Poll::Pending,
            Ok(Turn::MoreToDo) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(failure) => Poll::Ready(Err(failure)),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, commands: &mut Commands) -> Result<Turn, TaskFailure> {
        for round in 0..ROUNDS_PER_TURN {
            if round % ROUNDS_PER_LOOK == 0 {
                while let Poll::Ready(command) = commands.poll_next(cx) {
                    if command == SubtaskCommand::Cancel {
                        return Ok(Turn::Cancelled);
                    }
                    self.obey(command)?;
                }
                if let Some(failure) = self.snapshotter.poll_failure(cx) {
                    return Err(failure);
                }
                self.refuse_late_channels(cx);
                self.sinks.poll(cx);
            }
            let now = self.platform.clock.now();
            // What woke the subtask is not known: the first round looks at everything, later ones at what has run dry.
            for input in &mut self.inputs {
                if round == 0 || input.is_empty() || input.has_credit_to_send() {
                    input.poll(cx).map_err(lost)?;
                }
            }
            if round == 0 {
                self.poll_channels(cx, true)?;
            }
            let mut progress = match &mut self.source {
                Some(source) => source.poll_fetches(cx, self.chain.as_mut())?,
                None => false,
            };
            let stalled = self.is_stalled(cx);
            let mut wake_at = None;
            if !stalled {
                match self.work(now)? {
                    Work::Done => progress = true,
                    Work::Nothing => {}
                    Work::NotBefore(then) => wake_at = Some(then),
                }
                if self.sinks.has_sinks() {
                    let data = self.chain.take_sink_data(false);
                    if self.sinks.add(data) {
                        self.platform.journal.reached(Point::SinkUploadsFull);
                    }
                }
            }
            let flush_at = self.drain_outputs(now)?;
            self.poll_channels(cx, false)?;
            self.sinks.poll(cx);
            if progress || (stalled && !self.is_stalled(cx)) {
                continue;
            }
            for input in &mut self.inputs {
                input.grant_rest();
                input.poll_credit(cx).map_err(lost)?;
            }
            let wake_at = wake_at.into_iter().chain(flush_at).min();
            if !self.alarm.rings(self.platform.clock.as_ref(), wake_at, cx) {
                return Ok(Turn::Idle);
            }
        }
        Ok(Turn::MoreToDo)
    }

    /// So much output waits to be sent or uploaded that nothing should be consumed; or a synchronous snapshot is being written.
    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        if self.snapshotter.holds_the_stream(cx) {
            return true;
        }
        // A replay must take in what the recorded order asks for, even if outputs are less even than they were then.
        let factor = if self.replay.is_some() { 8 } else { 2 };
        let limit = factor * self.spec.settings.buffer_bytes as usize;
        self.sinks.is_full() || self.channels.iter().any(|c| c.unsent_bytes() > limit)
    }

    fn poll_channels(&mut self, cx: &mut Context<'_>, all: bool) -> Result<(), TaskFailure> {
        for channel in &mut self.channels {
            if all || channel.has_frames() {
                channel.poll(cx, &self.platform.journal).map_err(lost)?;
            }
        }
        Ok(())
    }

    /// Moves buffers that are full or old enough to their channels. Says when the next will be old enough.
    fn drain_outputs(&mut self, now: Mono) -> Result<Option<Mono>, TaskFailure> {
        let timeout = self.spec.settings.buffer_timeout;
        let mut next = None;
        for (buffer, channel) in self.outputs.edges.iter_mut().flatten().zip(&mut self.channels) {
            if !buffer.full.is_empty() {
                channel.buffered_since = None;
            }
            if buffer.records > 0 {
                let due = *channel.buffered_since.get_or_insert(now) + timeout;
                if due <= now || buffer.bytes.len() >= self.spec.settings.buffer_bytes as usize {
                    buffer.cut();
                } else {
                    next = Some(next.map_or(due, |n: Mono| n.min(due)));
                }
            }
            if buffer.records == 0 {
                channel.buffered_since = None;
            }
            channel.take_buffers(buffer).map_err(TaskFailure::User)?;
        }
        Ok(next)
    }

    /// Moves all output to the channels, whatever its age.
    pub(super) fn flush_outputs(&mut self) -> Result<(), TaskFailure> {
        for (buffer, channel) in self.outputs.edges.iter_mut().flatten().zip(&mut self.channels) {
            buffer.cut();
            channel.buffered_since = None;
            channel.take_buffers(buffer).map_err(TaskFailure::User)?;
        }
        Ok(())
    }

    /// All channels are connected: what comes in now belongs to somebody else.
    fn refuse_late_channels(&mut self, cx: &mut Context<'_>) {
        while let Some(inbound) = &mut self.inbound {
            match inbound.poll_recv(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.inbound = None,
                Poll::Ready(Some(channel)) => {
                    refuse(&self.platform, &self.spec, &channel.hello, "all inputs are connected");
                }
            }
        }
    }

    /// What the restore took, for the journal.
    fn say_restored(&self, report: &RestoreReport) {
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.platform.journal.emit(Event::SubtaskRestored {
            subtask: self.name.clone(),
            attempt: self.spec.attempt,
            local_bytes: report.local_bytes(),
            primary_bytes: report.primary_bytes(),
            inline_bytes: report.inline_bytes(),
            read_us: us(report.read),
            open_us: us(report.open),
            connect_us: us(report.connect),
        });
    }

    pub(super) fn report(&self, report: SubtaskReport) {
        // A TaskManager that does not listen any more cancels.
        let _ = self.reports.send(report);
    }
}

enum Turn {
    Cancelled,
    Idle,
    MoreToDo,
}

pub(super) fn user(error: ChainError) -> TaskFailure {
    TaskFailure::User(error.to_string())
}

pub(super) fn lost(error: ChannelError) -> TaskFailure {
    TaskFailure::Environment(error.to_string())
}

/// The one timer of the loop. Kept while it is early enough, since an extra look costs less than a new timer.
#[derive(Default)]
struct Alarm {
    timer: Option<(Mono, Timer)>,
}

impl Alarm {
    /// Whether `at` has come; if not, wakes the task then.
    fn rings(&mut self, clock: &dyn Clock, at: Option<Mono>, cx: &mut Context<'_>) -> bool {
        let Some(at) = at else {
            self.timer = None;
            return false;
        };
        if self.timer.as_ref().is_none_or(|(set_for, _)| *set_for > at) {
            self.timer = Some((at, clock.sleep_until(at)));
        }
        let rings = self.timer.as_mut().is_some_and(|(_, timer)| Pin::new(timer).poll(cx).is_ready());
        if rings {
            self.timer = None;
        }
        rings
    }
}
