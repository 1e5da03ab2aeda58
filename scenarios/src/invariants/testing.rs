//! Worlds in memory and the stories told in them, for the tests of the invariants: a perfect audit job with one reader of
//! two splits and one fold, whose every object is written here by hand.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use runtime::{
    checkpoint::types::{LedgerEpoch, PartKind, PartLocation, PrecommittedObject, StatePart, SubtaskSnapshot},
    ids::{
        AllocationId, AttemptId, CheckpointId, Execution, JobId, KeyGroup, KeyGroupRange, LeaderEpoch, OperatorUid,
        SubtaskId, VertexId,
    },
    journal::Event,
    layout::{Layout, LocalLayout, SavepointDirectory},
    platform::ObjectName,
};

use super::{
    Completion, Effect, EffectKind, End, FallbackPolicy, FaultNotice, Formats, HeadRecord, InvariantSuite, Seen,
    SlotRecord, Snapshots, StateEntry, SuiteConfig, Timing, Truth, formats::ReadNative, output_truth::OwnDigest,
};
use crate::{
    oracle::AuditOracle,
    workloads::{AuditInput, testing::Model},
};

/// Everything as JSON.
pub struct JsonFormats;

impl Formats for JsonFormats {
    fn head(&self, bytes: &[u8]) -> Result<HeadRecord, String> {
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }

    fn metadata(&self, bytes: &[u8]) -> Result<Snapshots, String> {
        let list: Vec<((u32, u32), SubtaskSnapshot)> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        Ok(list.into_iter().collect())
    }

    fn slot(&self, bytes: &[u8]) -> Result<SlotRecord, String> {
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }

    fn is_local_manifest(&self, file: &str) -> bool {
        file == "manifest"
    }

    fn state(&self, operator: &OperatorUid, bytes: &[u8]) -> Result<Vec<StateEntry>, String> {
        let list: Vec<(Vec<u8>, Vec<u8>)> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let entry = |(key, value)| StateEntry { operator: operator.clone(), state: "fold".into(), key, value };
        Ok(list.into_iter().map(entry).collect())
    }

    /// A database is one file of state.
    fn native_state(&self) -> Option<ReadNative> {
        Some(|operator, files| match files {
            [(_, bytes)] => JsonFormats.state(operator, bytes),
            _ => Err(format!("{} files", files.len())),
        })
    }
}

/// A world in memory.
#[derive(Default)]
pub struct MemoryTruth {
    now: Cell<Duration>,
    objects: RefCell<BTreeMap<String, Bytes>>,
    files: RefCell<BTreeMap<(String, String), Bytes>>,
    channels: RefCell<BTreeMap<String, u64>>,
    unfinished: RefCell<Vec<String>>,
    dead: RefCell<BTreeSet<String>>,
}

impl MemoryTruth {
    pub fn begin_upload(&self, object: &str) {
        self.unfinished.borrow_mut().push(object.to_string());
    }

    pub fn kill(&self, process: &str) {
        self.dead.borrow_mut().insert(process.to_string());
    }

    pub fn set_now(&self, now: Duration) {
        self.now.set(now);
    }

    pub fn has(&self, object: &str) -> bool {
        self.objects.borrow().contains_key(object)
    }

    pub fn rot(&self, object: &str) {
        self.objects.borrow_mut().insert(object.to_string(), Bytes::from_static(b"rot"));
    }

    pub fn remove(&self, object: &str) {
        self.objects.borrow_mut().remove(object);
    }

    /// It is there, and nobody saw how it came.
    pub fn put(&self, object: &str, bytes: &[u8]) {
        self.objects.borrow_mut().insert(object.to_string(), Bytes::copy_from_slice(bytes));
    }

    pub fn put_file(&self, machine: &str, path: &str, bytes: &[u8]) {
        self.files.borrow_mut().insert((machine.into(), path.into()), Bytes::copy_from_slice(bytes));
    }

    pub fn set_channel(&self, channel: &str, bytes: u64) {
        self.channels.borrow_mut().insert(channel.to_string(), bytes);
    }

    pub fn write_local_part(&self, machine: &str, checkpoint: u64, bytes: &[u8]) {
        self.write_local(machine, checkpoint, "part-0", bytes);
    }

    pub fn write_local(&self, machine: &str, checkpoint: u64, file: &str, bytes: &[u8]) {
        let path = local_directory(checkpoint) + "/" + file;
        self.files.borrow_mut().insert((machine.into(), path), Bytes::copy_from_slice(bytes));
    }
}

impl Truth for MemoryTruth {
    fn now(&self) -> Duration {
        self.now.get()
    }

    fn objects(&self, prefix: &str) -> Vec<(String, u64)> {
        let objects = self.objects.borrow();
        objects.iter().filter(|(n, _)| n.starts_with(prefix)).map(|(n, b)| (n.clone(), b.len() as u64)).collect()
    }

    fn unfinished(&self, prefix: &str) -> Vec<String> {
        self.unfinished.borrow().iter().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    fn object(&self, name: &str) -> Option<Bytes> {
        self.objects.borrow().get(name).cloned()
    }

    fn machines(&self) -> Vec<String> {
        vec!["machine-1".into(), "machine-2".into()]
    }

    fn files(&self, machine: &str) -> Vec<(String, u64)> {
        let files = self.files.borrow();
        files.iter().filter(|((m, _), _)| m == machine).map(|((_, p), b)| (p.clone(), b.len() as u64)).collect()
    }

    fn file(&self, machine: &str, path: &str) -> Option<Bytes> {
        self.files.borrow().get(&(machine.to_string(), path.to_string())).cloned()
    }

    fn machine_of(&self, process: &str) -> Option<String> {
        process.strip_prefix("tm-").map(|number| format!("machine-{number}"))
    }

    fn is_alive(&self, process: &str) -> bool {
        !self.dead.borrow().contains(process)
    }

    fn channels(&self) -> Vec<(String, u64)> {
        self.channels.borrow().iter().map(|(c, b)| (c.clone(), *b)).collect()
    }
}

const JOB: JobId = JobId(0xabc);
const ALLOCATION: AllocationId = AllocationId(5);
const FOLD: SubtaskId = SubtaskId { vertex: VertexId(1), index: 0 };

fn local_directory(checkpoint: u64) -> String {
    LocalLayout::checkpoint(ALLOCATION, JOB, FOLD, CheckpointId(checkpoint)).as_str().to_string()
}

/// A checkpoint whose files are written and that is not completed yet. Tests may bend it.
#[derive(Clone)]
pub struct Prepared {
    pub checkpoint: u64,
    pub positions: Vec<u64>,
    pub parts: Vec<String>,
    pub digest: OwnDigest,
    /// The data objects that it will commit.
    pub objects: Vec<PrecommittedObject>,
    metadata: ObjectName,
}

impl Prepared {
    pub fn metadata_name(&self) -> String {
        self.metadata.as_str().to_string()
    }

    /// Has the metadata of another one.
    pub fn metadata_of(&mut self, other: &Prepared) {
        self.metadata = other.metadata.clone();
    }
}

/// A run told step by step. Every step does what a right runtime would do, unless the test bends it.
pub struct Story {
    /// The part that the next checkpoint refers to instead of writing one.
    reuse: Option<ObjectName>,
    /// What is prepared next is a savepoint there.
    savepoint: Option<SavepointDirectory>,
    pub truth: MemoryTruth,
    pub model: Model,
    pub attempt: AttemptId,
    pub incarnation: u64,
    /// Completed checkpoints that stay retained.
    pub retain: usize,
    suite: InvariantSuite,
    job: JobId,
    sequence: u64,
    nonce: u64,
    done: Vec<Prepared>,
    models: BTreeMap<u64, Model>,
}

impl Story {
    /// A leader has claimed the job, its first attempt runs.
    pub fn begin() -> Story {
        Story::configured(|_| {})
    }

    /// [`Self::begin`], under another configuration.
    pub fn configured(change: impl FnOnce(&mut SuiteConfig)) -> Story {
        let mut story = Story::unclaimed_with(change);
        story.claim(1);
        let allocation = ALLOCATION;
        let (subtask, task_manager) = ("fold[0]".to_string(), "tm-1".to_string());
        let attempt = story.attempt;
        story.event("jobmanager", Event::TaskDeployed { subtask, attempt, task_manager, slot: 0, allocation });
        story
    }

    /// Nobody has claimed the job yet.
    pub fn unclaimed() -> Story {
        Story::unclaimed_with(|_| {})
    }

    fn unclaimed_with(change: impl FnOnce(&mut SuiteConfig)) -> Story {
        let input = AuditInput::new(11, 2, 60, 4, 1.0);
        let mut config = SuiteConfig {
            layout: Layout { job: JOB },
            sinks: vec!["audit".into()],
            subtasks: [("fold[0]".to_string(), FOLD.into())].into(),
            formats: Rc::new(JsonFormats),
            oracle: Box::new(AuditOracle::new(input.clone(), "audit", vec!["fold".into()], None)),
            local_recovery: true,
            local_in_memory: false,
            fallback: FallbackPolicy::Replay,
            timing: Timing {
                interval: Duration::from_secs(1),
                min_pause: Duration::from_millis(500),
                timeout: Duration::from_secs(10),
                max_concurrent: 1,
                tolerance: Duration::from_millis(10),
            },
            channel_window_bytes: 256 << 10,
            buffer_bytes: 32 << 10,
            liveness_bound: Duration::from_secs(60),
            restart_limit: None,
        };
        change(&mut config);
        let suite = InvariantSuite::new(config);
        Story {
            reuse: None,
            savepoint: None,
            truth: MemoryTruth::default(),
            model: Model::new(&input, None),
            attempt: AttemptId { leader: LeaderEpoch(1), execution: Execution(1) },
            incarnation: 0,
            retain: 3,
            suite,
            job: JOB,
            sequence: 0,
            nonce: 0,
            done: Vec::new(),
            models: [(0, Model::new(&input, None))].into(),
        }
    }

    /// The job has ended, and goes on as another one with a log of its own.
    pub fn resumed(&mut self, job: JobId) {
        (self.job, self.sequence) = (job, 0);
        self.suite.resumed(job);
    }

    /// What a TaskManager says on its disk of one of its slots.
    pub fn slot_record(&mut self, machine: &str, allocation: AllocationId, record: &SlotRecord) {
        let bytes = serde_json::to_vec(record).expect("a record is JSON");
        let path = format!("localState/aid_{allocation}/slot");
        self.truth.files.borrow_mut().insert((machine.to_string(), path), bytes.into());
    }

    pub fn layout(&self) -> Layout {
        Layout { job: self.job }
    }

    pub fn event(&mut self, process: &str, event: Event) {
        let seen = Seen { at: self.truth.now(), process, incarnation: self.incarnation, event: &event };
        self.suite.on_event(&self.truth, seen);
    }

    pub fn fault(&mut self, notice: &FaultNotice) {
        self.suite.on_fault(&self.truth, notice);
    }

    pub fn create(&mut self, object: &str, bytes: impl Into<Bytes>) {
        self.truth.objects.borrow_mut().insert(object.to_string(), bytes.into());
        let effect = Effect {
            at: self.truth.now(),
            kind: EffectKind::Created,
            object,
            process: "jobmanager",
            incarnation: self.incarnation,
        };
        self.suite.on_store_effect(&self.truth, effect);
    }

    pub fn delete(&mut self, object: &str) {
        self.truth.remove(object);
        let effect = Effect {
            at: self.truth.now(),
            kind: EffectKind::Deleted,
            object,
            process: "jobmanager",
            incarnation: self.incarnation,
        };
        self.suite.on_store_effect(&self.truth, effect);
    }

    /// A process reads the part of a checkpoint from primary.
    pub fn reads(&mut self, process: &str, checkpoint: u64) {
        let prepared = self.done.iter().find(|p| p.checkpoint == checkpoint).expect("completed before");
        let (object, at) = (prepared.parts[0].clone(), self.truth.now());
        let (kind, incarnation) = (EffectKind::Read, self.incarnation);
        let effect = Effect { at, kind, object: &object, process, incarnation };
        self.suite.on_store_effect(&self.truth, effect);
    }

    pub fn head(&mut self, record: &HeadRecord) {
        let name = self.layout().head_entry(self.sequence);
        self.sequence += 1;
        self.create(name.as_str(), serde_json::to_vec(record).expect("encodes"));
    }

    /// The metadata is written otherwise than a right runtime would.
    pub fn bend(&mut self, prepared: &Prepared, change: impl FnOnce(&mut Vec<((u32, u32), SubtaskSnapshot)>)) {
        let name = prepared.metadata_name();
        let bytes = self.truth.object(&name).expect("it is there");
        let mut list = serde_json::from_slice(&bytes).expect("was written here");
        change(&mut list);
        self.create(&name, serde_json::to_vec(&list).expect("encodes"));
    }

    /// A new JobManager leads.
    pub fn claim(&mut self, leader: u64) {
        self.incarnation += 1;
        self.attempt = AttemptId { leader: LeaderEpoch(leader), execution: Execution(1) };
        self.head(&HeadRecord::Claimed { leader: LeaderEpoch(leader) });
    }

    /// Reads up to `positions` and writes the files of checkpoint `id`.
    pub fn prepare(&mut self, id: u64, positions: &[u64]) -> Prepared {
        let layout = self.layout();
        let checkpoint = CheckpointId(id);
        let mut lines = Vec::new();
        while self.model.positions != positions {
            for split in 0..2 {
                if self.model.positions[split as usize] < positions[split as usize] {
                    lines.extend(self.model.read(split));
                }
            }
        }
        self.nonce += 1;
        let state: Vec<(Vec<u8>, Vec<u8>)> = self
            .model
            .keys
            .iter()
            .map(|(k, v)| (postcard::to_stdvec(k).expect("encodes"), postcard::to_stdvec(v).expect("encodes")))
            .collect();
        let state = serde_json::to_vec(&state).expect("encodes");
        let savepoint = self.savepoint.clone();
        let own = match &savepoint {
            Some(directory) => directory.state_part(self.attempt, FOLD, "part-0", self.nonce),
            None => layout.state_part(checkpoint, self.attempt, FOLD, "part-0", self.nonce),
        };
        let reused = self.reuse.take();
        let part = reused.clone().unwrap_or(own);
        // The metadata of a savepoint names its files from its directory.
        let named = savepoint.as_ref().and_then(|directory| part.as_str().strip_prefix(&directory.prefix()));
        let named = named.map_or_else(|| part.clone(), |name| ObjectName::new(name).expect("plain"));
        let snapshot = SubtaskSnapshot {
            parts: vec![StatePart {
                operator: OperatorUid("fold".into()),
                key_groups: KeyGroupRange { first: KeyGroup(0), last: KeyGroup(127) },
                name: "part-0".into(),
                kind: PartKind::Keyed,
                location: PartLocation::Object(named),
                length: state.len() as u64,
                crc32c: 0,
                written_by: checkpoint,
                backend: None,
            }],
            inline: BTreeMap::new(),
        };
        if reused.is_none() {
            self.create(part.as_str(), state);
        }
        let data = layout.sink_data("audit", checkpoint, self.attempt, 0, self.nonce);
        let bytes: Vec<u8> = lines.iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect();
        let object = PrecommittedObject {
            object: data.clone(),
            length: bytes.len() as u64,
            records: lines.len() as u64,
            snapshot: checkpoint,
        };
        self.create(data.as_str(), bytes);
        let metadata = savepoint.map_or_else(|| layout.metadata(checkpoint), |directory| directory.metadata());
        let list = vec![((1u32, 0u32), snapshot)];
        self.create(metadata.as_str(), serde_json::to_vec(&list).expect("encodes"));
        self.models.insert(id, self.model.clone());
        Prepared {
            checkpoint: id,
            positions: positions.to_vec(),
            parts: vec![part.as_str().to_string()],
            digest: OwnDigest::of(&lines),
            metadata,
            objects: vec![object],
        }
    }

    /// The head log says that the checkpoint is completed.
    pub fn complete_prepared(&mut self, prepared: &Prepared) {
        let checkpoint = CheckpointId(prepared.checkpoint);
        let mut retained: Vec<_> = self.done.iter().map(|p| CheckpointId(p.checkpoint)).collect();
        retained.push(checkpoint);
        let retained = retained.split_off(retained.len().saturating_sub(self.retain));
        let splits = (0u32..).map(|split| self.model.input.split_id(split));
        let sink = OperatorUid("audit".into());
        let mut ledger = LedgerEpoch {
            checkpoint,
            previous: self.done.last().map(|p| CheckpointId(p.checkpoint)),
            positions: splits.zip(prepared.positions.iter().copied()).collect(),
            ..LedgerEpoch::default()
        };
        let digest = ledger.digests.entry(sink.clone()).or_default();
        (digest.sum, digest.records) = (prepared.digest.sum, prepared.digest.records);
        let completion = Completion {
            leader: self.attempt.leader,
            checkpoint,
            metadata: prepared.metadata.as_str().to_string(),
            ledger,
            sinks: [(sink, prepared.objects.clone())].into(),
            exhausted: false,
            retained,
            savepoint: self.savepoint.as_ref().map(ToString::to_string),
        };
        self.done.push(prepared.clone());
        self.head(&HeadRecord::Completed(Box::new(completion)));
    }

    /// A whole checkpoint.
    pub fn checkpoint(&mut self, id: u64, positions: &[u64]) -> &mut Story {
        let prepared = self.prepare(id, positions);
        self.complete_prepared(&prepared);
        self
    }

    /// A whole savepoint.
    pub fn savepoint(&mut self, id: u64, positions: &[u64], directory: &str) -> &mut Story {
        self.savepoint = Some(SavepointDirectory::at(ObjectName::new(directory).expect("plain")));
        self.checkpoint(id, positions);
        self.savepoint = None;
        self
    }

    /// A savepoint behind which a later checkpoint has completed, with the same state.
    pub fn overtaken_savepoint(&mut self, id: u64, positions: &[u64], directory: &str) -> &mut Story {
        self.savepoint = Some(SavepointDirectory::at(ObjectName::new(directory).expect("plain")));
        self.prepare(id, positions);
        self.savepoint = None;
        self.head(&HeadRecord::SavepointOvertaken { checkpoint: CheckpointId(id), directory: directory.to_string() });
        self
    }

    pub fn files_of_savepoint(&self, directory: &str) -> Vec<String> {
        self.truth.objects(&format!("{directory}/")).into_iter().map(|(name, _)| name).collect()
    }

    /// Checkpoint `id`, with the state that was written for another, where nothing has been read since.
    pub fn reusing(&mut self, id: u64, written_for: &Prepared) -> Prepared {
        let prepared = self.reused(id, written_for);
        self.complete_prepared(&prepared);
        prepared
    }

    /// [`Self::reusing`], not completed yet.
    pub fn reused(&mut self, id: u64, written_for: &Prepared) -> Prepared {
        self.reuse = Some(ObjectName::new(written_for.parts[0].clone()).expect("made by the layout"));
        self.prepare(id, &written_for.positions)
    }

    pub fn commit_prepared(&mut self, prepared: &Prepared) {
        let objects: Vec<_> = prepared
            .objects
            .iter()
            .map(|o| serde_json::json!({"name": o.object.as_str(), "length": o.length, "records": o.records}))
            .collect();
        let manifest = serde_json::json!({"kind": "commit", "checkpoint": prepared.checkpoint, "objects": objects});
        let name = self.layout().sink_commit("audit", CheckpointId(prepared.checkpoint));
        self.create(name.as_str(), manifest.to_string());
    }

    pub fn commit(&mut self, id: u64) -> &mut Story {
        let prepared = self.done.iter().find(|p| p.checkpoint == id).expect("completed before").clone();
        self.commit_prepared(&prepared);
        self
    }

    pub fn next_attempt(&self) -> AttemptId {
        AttemptId { leader: self.attempt.leader, execution: self.attempt.execution.next() }
    }

    /// A new attempt starts from `checkpoint`; what is visible above it is replayed, so that the job stands at `newest`
    /// if that was committed.
    pub fn restore(&mut self, checkpoint: Option<u64>, newest: Option<u64>) {
        self.attempt = self.next_attempt();
        let committed =
            newest.filter(|id| self.truth.has(self.layout().sink_commit("audit", CheckpointId(*id)).as_str()));
        let stands_at = checkpoint.max(committed);
        self.model = self.models[&stands_at.unwrap_or_default()].clone();
        let attempt = self.attempt;
        let checkpoint = checkpoint.map(CheckpointId);
        let replay_to = committed.map(CheckpointId).filter(|c| Some(*c) > checkpoint);
        let (job, newest) = ("job".to_string(), newest.map(CheckpointId));
        self.head(&HeadRecord::Restored { attempt, checkpoint, condemned: Vec::new() });
        self.event("jobmanager", Event::RestoreChosen { job, checkpoint, newest, replay_to, attempt });
    }

    pub fn event_restore_started(&mut self, process: &str, checkpoint: u64) {
        let (subtask, checkpoint, attempt) = ("fold[0]".to_string(), CheckpointId(checkpoint), self.attempt);
        self.truth.set_now(self.truth.now() + Duration::from_millis(1));
        self.event(process, Event::RestoreStarted { subtask, checkpoint, attempt });
    }

    pub fn part_lost(&mut self, process: &str, checkpoint: u64) {
        let (subtask, part) = ("fold[0]".to_string(), "part-0".to_string());
        let reason = "told so".to_string();
        self.event(process, Event::RestorePartLost { subtask, checkpoint: CheckpointId(checkpoint), part, reason });
    }

    /// The plan destroys the state of checkpoint `id` in primary.
    pub fn lose_part(&mut self, id: u64) {
        let part = self.done.iter().find(|p| p.checkpoint == id).expect("completed before").parts[0].clone();
        self.truth.remove(&part);
        self.fault(&FaultNotice::Object { name: part });
    }

    /// The TaskManager on `machine` keeps a complete local copy of checkpoint `id`.
    pub fn local_copy(&mut self, machine: &str, id: u64) -> &mut Story {
        let part = self.done.iter().find(|p| p.checkpoint == id).expect("completed before").parts[0].clone();
        let bytes = self.truth.object(&part).expect("it is there");
        self.truth.write_local_part(machine, id, &bytes);
        let manifest = local_directory(id) + "/manifest";
        self.truth.files.borrow_mut().insert((machine.into(), manifest), Bytes::new());
        self
    }

    /// The local copy of checkpoint `id` goes.
    pub fn drop_local(&mut self, machine: &str, id: u64) {
        let directory = local_directory(id) + "/";
        self.truth.files.borrow_mut().retain(|(at, path), _| at != machine || !path.starts_with(&directory));
    }

    /// The plan changes the local copy.
    pub fn rot_local(&mut self, machine: &str, id: u64) {
        self.truth.write_local_part(machine, id, b"rot");
        let path = local_directory(id) + "/part-0";
        self.fault(&FaultNotice::LocalFile { machine: machine.into(), path });
    }

    /// The data object of a completed checkpoint.
    pub fn data_of(&self, id: u64) -> String {
        let prepared = self.done.iter().find(|p| p.checkpoint == id).expect("completed before");
        prepared.objects[0].object.as_str().to_string()
    }

    pub fn delete_checkpoint(&mut self, id: u64) {
        let prepared = self.done.iter().find(|p| p.checkpoint == id).expect("completed before").clone();
        for object in prepared.parts.iter().map(String::as_str).chain([prepared.metadata.as_str()]) {
            self.delete(object);
        }
    }

    /// The job is finished, says the head log.
    pub fn finish(&mut self) {
        self.head(&HeadRecord::Finished);
        self.end(Some(Ok(())));
    }

    /// Gives how many violations there are.
    pub fn end(&mut self, outcome: Option<Result<(), String>>) -> usize {
        self.suite.at_end(&self.truth, &End { outcome, swept: false }).len()
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.suite.names()
    }

    pub fn committed_records(&self) -> u64 {
        self.suite.committed_records()
    }

    /// Quiet at last, swept once; the job's own end is not the matter.
    pub fn sweep_and_end(&mut self) {
        self.checkpoint(90, &[30, 30]).commit(90);
        for id in
            self.done.iter().rev().skip(self.retain).map(|p| p.checkpoint).filter(|id| *id > 1).collect::<Vec<_>>()
        {
            self.delete_checkpoint(id);
        }
        self.head(&HeadRecord::Finished);
        self.suite.at_end(&self.truth, &End { outcome: Some(Ok(())), swept: true });
    }

    /// No invariant has anything to say.
    pub fn holds(&self) {
        assert!(self.suite.violations().is_empty(), "{:#?}", self.suite.violations());
    }

    /// Nothing but that the job never ended.
    pub fn holds_but_unfinished(&self) {
        let other = self.suite.violations().iter().find(|v| v.invariant != "liveness");
        assert!(other.is_none(), "{other:#?}");
    }

    /// Everything found: invariant, kind, entity.
    pub fn found(&self) -> Vec<(&str, &str, &str)> {
        self.suite.violations().iter().map(|v| (&*v.invariant, &*v.kind, &*v.entity)).collect()
    }

    /// What was found says this.
    pub fn says(&self, text: &str) {
        let said = self.suite.violations().iter().any(|v| v.message.contains(text));
        assert!(said, "{text:?} is not in {:#?}", self.suite.violations());
    }

    /// The first violation is this one.
    pub fn breaks(&self, invariant: &str, kind: &str) {
        let first = self.suite.violations().first();
        let found = first.map(|v| (v.invariant.as_str(), v.kind.as_str()));
        assert_eq!(found, Some((invariant, kind)), "{:#?}", self.suite.violations());
    }
}
