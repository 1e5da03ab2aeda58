//! A job for the stories of the data plane, made of fake chains (two sources, two counters, one sink), and its deployment into
//! a small world.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    chain::*, event_time::EventTime, frame, outputs::Outputs, subtask::run_subtask, task::*, test_world::TestWorld,
};
use crate::{
    checkpoint::types::*, graph::*, ids::*, platform::*, recovery::local_store::LocalStateStore, state::BackendSettings,
};

pub const RECORDS_PER_SPLIT: u64 = 2000;
pub const SPLITS: u64 = 4;
pub const CHUNK: u64 = 256;

pub fn uid(name: &str) -> OperatorUid {
    OperatorUid(name.into())
}

/// What test chains are told to do wrong, or slowly.
#[derive(Clone, Default)]
pub struct Behaviour {
    pub rate: Option<f64>,
    /// The counter returns an error at this value.
    pub poison: Option<u64>,
    pub endless: bool,
    /// The first source subtask has read everything after so many records of each of its splits.
    pub first_ends_at: Option<u64>,
    /// Sources tell event time: how far they have read. Counters put out when it moves, and what they put out depends on it.
    pub event_time: bool,
    /// Counters ask for processing time, and put out when it moves.
    pub processing_time: bool,
}

/// Reads numbers of 8 bytes from the file `in`, a contiguous range per split.
pub struct SourceChain {
    index: u32,
    offsets: Vec<u64>,
    buffers: Vec<Bytes>,
    behaviour: Behaviour,
}

impl SourceChain {
    fn split(&self, position: usize) -> u64 {
        position as u64 * 2 + u64::from(self.index)
    }

    fn end(&self) -> u64 {
        self.behaviour.first_ends_at.filter(|_| self.index == 0).unwrap_or(RECORDS_PER_SPLIT)
    }
}

impl Chain for SourceChain {
    fn open(&mut self, restored: RestoredState) -> Result<(), ChainError> {
        if let Some(bytes) = restored.inline_of(&uid("source")).next() {
            self.offsets = postcard::from_bytes(bytes).unwrap();
        }
        Ok(())
    }
    fn poll_source(&mut self, split: u32, max_records: u32, out: &mut Outputs) -> Result<SourcePoll, ChainError> {
        let at = split as usize;
        if self.behaviour.endless {
            for _ in 0..max_records {
                let value = self.split(at) * 1_000_000 + self.offsets[at];
                out.push(0, (value % 2) as usize, &value).unwrap();
                self.offsets[at] += 1;
            }
            return Ok(SourcePoll::Records(max_records));
        }
        if self.offsets[at] >= self.end() {
            return Ok(SourcePoll::Exhausted);
        }
        if self.buffers[at].is_empty() {
            let start = (self.split(at) * RECORDS_PER_SPLIT + self.offsets[at]) * 8;
            let end = ((self.split(at) + 1) * RECORDS_PER_SPLIT * 8).min(start + CHUNK);
            return Ok(SourcePoll::NeedInput { path: "in".into(), range: start..end });
        }
        let mut records = 0;
        while records < max_records && !self.buffers[at].is_empty() {
            let value = u64::from_le_bytes(self.buffers[at].split_to(8)[..].try_into().unwrap());
            out.push(0, (value % 2) as usize, &value).unwrap();
            self.offsets[at] += 1;
            records += 1;
        }
        Ok(SourcePoll::Records(records))
    }
    fn feed(&mut self, split: u32, bytes: Bytes) -> Result<(), ChainError> {
        self.buffers[split as usize] = bytes;
        Ok(())
    }
    fn rate_limit(&self) -> Option<f64> {
        self.behaviour.rate
    }
    fn source_event_time(&mut self, _: Mono) -> Option<(EventTime, Option<Mono>)> {
        let behind = *self.offsets.iter().min().unwrap();
        let end = behind >= self.end();
        let time = if end { i64::MAX } else { behind as i64 };
        self.behaviour.event_time.then_some((EventTime::At(time), None))
    }
    fn process(&mut self, _: u32, _: &Bytes, _: u32, _: &mut Outputs) -> Result<Consumed, ChainError> {
        unreachable!("a source has no inputs")
    }
    fn snapshot(&mut self, _: CheckpointId, _: SnapshotFormat) -> Result<ChainSnapshot, ChainError> {
        let mut snapshot = ChainSnapshot::default();
        snapshot.inline.insert(uid("source"), postcard::to_stdvec(&self.offsets).unwrap());
        for (position, offset) in self.offsets.iter().enumerate() {
            snapshot.positions.insert(SplitId(format!("split-{}", self.split(position))), *offset);
        }
        Ok(snapshot)
    }
    fn set_muted(&mut self, _: bool) {}
    fn take_sink_data(&mut self, _: bool) -> Vec<SinkData> {
        Vec::new()
    }
    fn take_sink_digests(&mut self) -> BTreeMap<OperatorUid, OutputDigest> {
        BTreeMap::new()
    }
}

pub fn decode_batch<T: serde::de::DeserializeOwned>(payload: &Bytes, max_records: u32) -> (Vec<T>, Consumed) {
    let mut rest = &payload[..];
    let mut values = Vec::new();
    while !rest.is_empty() && (values.len() as u32) < max_records {
        let (value, tail) = postcard::take_from_bytes(rest).unwrap();
        values.push(value);
        rest = tail;
    }
    let consumed = Consumed { bytes: payload.len() - rest.len(), records: values.len() as u32 };
    (values, consumed)
}

/// Adds up what it sees and emits (value, sum), so that its output shows the order of its input. Its state is a part.
pub struct CounterChain {
    sum: u64,
    times: Times,
    behaviour: Behaviour,
}

impl Chain for CounterChain {
    fn open(&mut self, restored: RestoredState) -> Result<(), ChainError> {
        for RestoredPart { bytes, .. } in restored.parts {
            self.sum = postcard::from_bytes(&bytes).unwrap();
        }
        Ok(())
    }
    fn poll_source(&mut self, _: u32, _: u32, _: &mut Outputs) -> Result<SourcePoll, ChainError> {
        unreachable!("no source")
    }
    fn feed(&mut self, _: u32, _: Bytes) -> Result<(), ChainError> {
        unreachable!("no source")
    }
    fn process(&mut self, _: u32, payload: &Bytes, max: u32, out: &mut Outputs) -> Result<Consumed, ChainError> {
        let (values, consumed) = decode_batch::<u64>(payload, max);
        for value in values {
            if self.behaviour.poison == Some(value) {
                return Err(ChainError { operator: "counter".into(), message: format!("cannot bear {value}") });
            }
            let seen = value ^ self.times.watermark.cast_unsigned() ^ self.times.processing.cast_unsigned();
            self.sum = self.sum.wrapping_mul(31).wrapping_add(seen);
            out.push(0, 0, &(value, self.sum)).unwrap();
        }
        Ok(consumed)
    }
    fn resume(&mut self, times: Times) {
        self.times = times;
    }
    fn advance(&mut self, time: TimeMove, out: &mut Outputs) -> Result<(), ChainError> {
        match time {
            TimeMove::Watermark(watermark) => self.times.watermark = watermark,
            TimeMove::Processing(now) => self.times.processing = now,
        }
        self.sum = self.sum.wrapping_mul(37);
        out.push(0, 0, &(u64::MAX, self.sum)).unwrap();
        Ok(())
    }
    fn needs_processing_time(&mut self) -> bool {
        self.behaviour.processing_time
    }
    fn snapshot(&mut self, _: CheckpointId, _: SnapshotFormat) -> Result<ChainSnapshot, ChainError> {
        let bytes = Bytes::from(postcard::to_stdvec(&self.sum).unwrap());
        let key_groups = KeyGroupRange { first: KeyGroup(0), last: KeyGroup(127) };
        let part = PartSource {
            operator: uid("counter"),
            key_groups,
            name: "sum".into(),
            kind: PartKind::Keyed,
            backend: None,
            data: PartData::encode(move || bytes),
        };
        Ok(ChainSnapshot { parts: vec![part], ..ChainSnapshot::default() })
    }
    fn set_muted(&mut self, _: bool) {}
    fn take_sink_data(&mut self, _: bool) -> Vec<SinkData> {
        Vec::new()
    }
    fn take_sink_digests(&mut self) -> BTreeMap<OperatorUid, OutputDigest> {
        BTreeMap::new()
    }
}

#[derive(Default)]
pub struct SinkChain {
    muted: bool,
    buffer: Vec<u8>,
    digest: OutputDigest,
}

impl Chain for SinkChain {
    fn open(&mut self, _: RestoredState) -> Result<(), ChainError> {
        Ok(())
    }
    fn poll_source(&mut self, _: u32, _: u32, _: &mut Outputs) -> Result<SourcePoll, ChainError> {
        unreachable!("no source")
    }
    fn feed(&mut self, _: u32, _: Bytes) -> Result<(), ChainError> {
        unreachable!("no source")
    }
    fn process(&mut self, _: u32, payload: &Bytes, max: u32, _: &mut Outputs) -> Result<Consumed, ChainError> {
        let (values, consumed) = decode_batch::<(u64, u64)>(payload, max);
        for (value, sum) in values {
            let record = [value.to_le_bytes(), sum.to_le_bytes()].concat();
            self.digest.add_record(&record);
            if !self.muted {
                self.buffer.extend_from_slice(&record);
            }
        }
        Ok(consumed)
    }
    fn snapshot(&mut self, _: CheckpointId, _: SnapshotFormat) -> Result<ChainSnapshot, ChainError> {
        Ok(ChainSnapshot::default())
    }
    fn set_muted(&mut self, muted: bool) {
        self.muted = muted;
    }
    fn take_sink_data(&mut self, flush: bool) -> Vec<SinkData> {
        if self.buffer.is_empty() || (!flush && self.buffer.len() < 2048) {
            return Vec::new();
        }
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        vec![SinkData { sink: uid("out"), records: bytes.len() as u64 / 16, bytes }]
    }
    fn take_sink_digests(&mut self) -> BTreeMap<OperatorUid, OutputDigest> {
        BTreeMap::from([(uid("out"), std::mem::take(&mut self.digest))])
    }
}

pub fn job(behaviour: Behaviour) -> Arc<Job> {
    let vertex = |id: u32, name: &str, parallelism| Vertex {
        id: VertexId(id),
        name: name.into(),
        parallelism,
        max_parallelism: 128,
        operators: vec![uid(name)],
        keyed: Vec::new(),
        splits: None,
        slot_sharing_group: 0,
        sinks: Vec::new(),
    };
    let mut source = vertex(0, "read", 2);
    source.splits = Some((0..SPLITS).map(|s| SplitId(format!("split-{s}"))).collect());
    let mut sink = vertex(2, "sink", 1);
    sink.sinks = vec![uid("out")];
    let edge =
        |id, from, to, partitioning| Edge { id: EdgeId(id), from: VertexId(from), to: VertexId(to), partitioning };
    let graph = ExecutionGraph {
        vertices: vec![source, vertex(1, "count", 2), sink],
        edges: vec![edge(0, 0, 1, Partitioning::Hash), edge(1, 1, 2, Partitioning::Rebalance)],
    };
    let of_source = behaviour.clone();
    Arc::new(Job {
        id: JobId(7),
        name: "story".into(),
        graph: Arc::new(graph),
        chains: vec![
            Arc::new(move |context: &ChainContext| {
                let behaviour = of_source.clone();
                let (offsets, buffers) = (vec![0; 2], vec![Bytes::new(); 2]);
                Box::new(SourceChain { index: context.subtask.index, offsets, buffers, behaviour }) as Box<dyn Chain>
            }),
            Arc::new(move |_: &ChainContext| {
                Box::new(CounterChain { sum: 1, times: Times::default(), behaviour: behaviour.clone() })
                    as Box<dyn Chain>
            }),
            Arc::new(|_: &ChainContext| Box::<SinkChain>::default() as Box<dyn Chain>),
        ],
        rescale: None,
        state: Default::default(),
    })
}

pub struct Handle {
    pub commands: mpsc::UnboundedSender<SubtaskCommand>,
    pub reports: mpsc::UnboundedReceiver<SubtaskReport>,
}

/// All subtasks of one attempt, and what they reported.
pub struct Deployment {
    pub handles: BTreeMap<SubtaskKey, Handle>,
    pub inbound: BTreeMap<SubtaskKey, mpsc::UnboundedSender<InboundChannel>>,
    pub reports: BTreeMap<SubtaskKey, Vec<SubtaskReport>>,
}

pub type Restored = (CheckpointId, BTreeMap<SubtaskKey, SubtaskSnapshot>);

pub fn attempt(execution: u32) -> AttemptId {
    AttemptId { leader: LeaderEpoch(1), execution: Execution(execution) }
}

#[derive(Clone, Default)]
pub struct Plan {
    pub behaviour: Behaviour,
    pub settings: TaskSettings,
    pub restore: Option<Restored>,
    pub replay: BTreeMap<SubtaskKey, ReplayPlan>,
    /// Subtasks that are not started.
    pub without: BTreeSet<SubtaskKey>,
}

pub fn small_settings() -> TaskSettings {
    TaskSettings {
        buffer_bytes: 64,
        buffer_timeout: Duration::from_millis(5),
        channel_window_bytes: 256,
        source_batch_records: 16,
        watermark_interval: Duration::ZERO,
        // Files, so that there is something to lose.
        backend: BackendSettings { small_state_threshold: 0, ..BackendSettings::default() },
        ..TaskSettings::default()
    }
}

pub fn plan() -> Plan {
    Plan { settings: small_settings(), ..Plan::default() }
}

pub fn world() -> TestWorld {
    let world = TestWorld::new();
    let numbers: Vec<u8> = (0..SPLITS * RECORDS_PER_SPLIT).flat_map(u64::to_le_bytes).collect();
    world.inputs.files.lock().unwrap().insert("in".into(), Bytes::from(numbers));
    world
}

pub fn deploy(world: &mut TestWorld, execution: u32, plan: &Plan) -> Deployment {
    let job = job(plan.behaviour.clone());
    let address = Address("tm-1/data".into());
    let (accepted, mut accept) = mpsc::unbounded_channel::<Connection>();
    world.transport.listening.lock().unwrap().insert(address.clone(), accepted);
    let mut routes = BTreeMap::new();
    let mut handles = BTreeMap::new();
    for subtask in job.graph.subtasks().collect::<Vec<_>>() {
        let key = SubtaskKey::from(subtask);
        let (inbound, inbound_rx) = mpsc::unbounded_channel();
        routes.insert(key, inbound);
        let (commands, command_rx) = mpsc::unbounded_channel();
        let (report_tx, reports) = mpsc::unbounded_channel();
        handles.insert(key, Handle { commands, reports });
        if plan.without.contains(&key) {
            continue;
        }
        let target = |subtask: SubtaskId| ChannelTarget {
            subtask,
            name: job.graph.subtask_name(subtask),
            process: "tm-1".into(),
            address: address.clone(),
        };
        let spec = SubtaskSpec {
            job: job.id,
            subtask,
            attempt: attempt(execution),
            allocation: AllocationId(1),
            outputs: job
                .graph
                .outputs(subtask.vertex)
                .map(|e| job.graph.downstream(e, subtask).into_iter().map(target).collect())
                .collect(),
            restore: plan.restore.as_ref().map(|(checkpoint, snapshots)| {
                RestoreOrder::own(*checkpoint, subtask.index, snapshots.get(&key).cloned().unwrap_or_default())
            }),
            replay: plan.replay.get(&key).cloned().unwrap_or_default(),
            settings: plan.settings.clone(),
        };
        let name = job.graph.subtask_name(subtask);
        let local = Arc::new(LocalStateStore::new(&world.platform, spec.allocation, job.id, subtask, &name));
        let body = run_subtask(world.platform.clone(), job.clone(), spec, local, inbound_rx, command_rx, report_tx);
        world.spawn(body);
    }
    let inbound = routes.clone();
    world.spawn(async move {
        while let Some(mut connection) = accept.recv().await {
            let Ok(hello) = recv(connection.receiver.as_mut()).await else { continue };
            let hello = frame::decode_hello(&hello).expect("a hello");
            let _ = routes[&SubtaskKey::from(hello.to)].send(InboundChannel { hello, connection });
        }
    });
    let reports = handles.keys().map(|k| (*k, Vec::new())).collect();
    Deployment { handles, inbound, reports }
}

impl Deployment {
    pub fn collect(&mut self) {
        for (key, handle) in &mut self.handles {
            while let Ok(report) = handle.reports.try_recv() {
                self.reports.get_mut(key).unwrap().push(report);
            }
        }
    }
    pub fn send(&self, command: SubtaskCommand) {
        for handle in self.handles.values() {
            let _ = handle.commands.send(command.clone());
        }
    }
    pub fn trigger(&self, checkpoint: u64) {
        for (key, handle) in &self.handles {
            if key.0 == 0 {
                let _ = handle.commands.send(SubtaskCommand::TriggerCheckpoint(CheckpointId(checkpoint)));
            }
        }
    }
    pub fn count(&mut self, matches: impl Fn(&SubtaskReport) -> bool) -> usize {
        self.collect();
        self.reports.values().flatten().filter(|r| matches(r)).count()
    }
    pub fn acks(&mut self, checkpoint: u64) -> BTreeMap<SubtaskKey, CheckpointAck> {
        self.collect();
        let acks = self.reports.iter().flat_map(|(key, reports)| reports.iter().map(move |r| (*key, r)));
        acks.filter_map(|(key, r)| match r {
            SubtaskReport::Ack(ack) if ack.checkpoint.0 == checkpoint => Some((key, (**ack).clone())),
            _ => None,
        })
        .collect()
    }
    pub fn run_checkpoint(&mut self, world: &mut TestWorld, checkpoint: u64) -> BTreeMap<SubtaskKey, CheckpointAck> {
        self.trigger(checkpoint);
        world.run_until("all acknowledgements", || self.acks(checkpoint).len() == 5);
        self.acks(checkpoint)
    }
    pub fn run_to_running(&mut self, world: &mut TestWorld) {
        world.run_until("all running", || self.count(|r| matches!(r, SubtaskReport::Running(_))) == 5);
    }
    pub fn run_to_exhausted(&mut self, world: &mut TestWorld) {
        world.run_until("sources exhausted", || self.count(|r| *r == SubtaskReport::Exhausted) == 2);
    }
    pub fn failures(&mut self) -> Vec<(SubtaskKey, TaskFailure)> {
        self.collect();
        let all = self.reports.iter().flat_map(|(key, reports)| reports.iter().map(move |r| (*key, r)));
        all.filter_map(|(key, r)| match r {
            SubtaskReport::Failed(failure) => Some((key, failure.clone())),
            _ => None,
        })
        .collect()
    }
}
