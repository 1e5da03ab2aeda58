//! A model of everything around the coordinator, which checks each command against what must hold.

use std::time::Duration;

use super::*;
use crate::{
    checkpoint::{
        head::HeadEntry,
        types::{
            MergeRun, MergeStep, OutputDigest, PartKind, PartLocation, SinkAck, StatePart, SubtaskKey, SubtaskSnapshot,
        },
    },
    ids::{Execution, JobId, KeyGroup, KeyGroupRange, LeaderEpoch, SplitId, VertexId},
    layout::SavepointDirectory,
    sabotage::SabotageSet,
};

mod details;
mod random;
mod rhythm;
mod savepoints;
mod stories;

const MS: Duration = Duration::from_millis(1);
const SOURCES: u32 = 2;
const SINKS: u32 = 2;

fn subtasks() -> Vec<SubtaskId> {
    let of = |vertex, n| (0..n).map(move |index| SubtaskId { vertex: VertexId(vertex), index });
    of(0, SOURCES).chain(of(1, SINKS)).collect()
}

fn participants() -> Participants {
    Participants {
        subtasks: subtasks().into_iter().map(|id| (id, format!("task{id}"))).collect(),
        sources: subtasks().into_iter().filter(|id| id.vertex.0 == 0).collect(),
        sinks: BTreeSet::from([OperatorUid("out".into())]),
        vertices: Vec::new(),
    }
}

fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        job: JobId(1),
        job_name: "job".into(),
        interval: 100 * MS,
        min_pause: 30 * MS,
        timeout: 500 * MS,
        max_concurrent: 1,
        retained: 1,
        tolerable_failures: None,
        inline_state_budget_bytes: 1 << 30,
        sabotage: SabotageSet::default(),
    }
}

/// Plays the rest of the cluster, and checks every command against what must hold.
struct Cluster {
    config: CoordinatorConfig,
    coordinator: Coordinator,
    now: Mono,
    head: HeadState,
    execution: u32,
    last_id: u64,
    last_trigger: Option<Mono>,
    last_completion: Option<Mono>,
    requested: bool,
    exhausted: bool,
    /// Triggered and open, with who acknowledged.
    open: BTreeMap<CheckpointId, BTreeSet<SubtaskId>>,
    /// Ids triggered in the current execution.
    this_execution: BTreeSet<CheckpointId>,
    aborted: BTreeSet<CheckpointId>,
    completed: BTreeSet<CheckpointId>,
    /// Every object that was ever written, and how often it was discarded.
    written: BTreeMap<ObjectName, u32>,
    acks: Vec<CheckpointAck>,
    ids_wanted: bool,
    metadata_wanted: Vec<CheckpointId>,
    append_wanted: Option<(CheckpointId, HeadEntry)>,
    commit_wanted: Option<CheckpointId>,
    finals: u32,
    failed: bool,
    /// Savepoints triggered, whatever became of them.
    savepoints: BTreeMap<CheckpointId, SavepointOrder>,
    /// Asked for, and how often answered.
    orders: BTreeMap<SavepointDirectory, u32>,
    /// Completed, in time or overtaken.
    durable_savepoints: BTreeSet<SavepointDirectory>,
    /// What lies in directories of savepoints.
    savepoint_files: BTreeSet<ObjectName>,
    stopped_at: Option<CheckpointId>,
    /// Subtasks reuse objects of the newest completed checkpoint.
    incremental: bool,
    nonce: u64,
}

impl Cluster {
    fn new(config: CoordinatorConfig, head: HeadState) -> Cluster {
        Cluster {
            coordinator: Coordinator::new(config.clone(), participants(), &head, Mono(0)),
            config,
            now: Mono(0),
            execution: 0,
            last_id: head.granted.0,
            head,
            last_trigger: None,
            last_completion: None,
            requested: false,
            exhausted: false,
            open: BTreeMap::new(),
            this_execution: BTreeSet::new(),
            aborted: BTreeSet::new(),
            completed: BTreeSet::new(),
            written: BTreeMap::new(),
            acks: Vec::new(),
            ids_wanted: false,
            metadata_wanted: Vec::new(),
            append_wanted: None,
            commit_wanted: None,
            finals: 0,
            failed: false,
            savepoints: BTreeMap::new(),
            orders: BTreeMap::new(),
            durable_savepoints: BTreeSet::new(),
            savepoint_files: BTreeSet::new(),
            stopped_at: None,
            incremental: false,
            nonce: 0,
        }
    }

    fn attempt(&self) -> AttemptId {
        AttemptId { leader: LeaderEpoch(1), execution: Execution(self.execution) }
    }

    fn object(&mut self, what: &str) -> ObjectName {
        self.nonce += 1;
        ObjectName::new(format!("{what}-{}", self.nonce)).unwrap()
    }

    fn send(&mut self, event: CoordinatorEvent) -> Vec<CoordinatorCommand> {
        let commands = self.coordinator.handle(event, self.now);
        for command in &commands {
            self.check(command);
        }
        let open: BTreeSet<_> = self.coordinator.pending().collect();
        assert_eq!(open, self.open.keys().copied().collect());
        assert!(self.coordinator.next_deadline().is_none_or(|at| at > self.now), "a tick would be lost");
        commands
    }

    fn check(&mut self, command: &CoordinatorCommand) {
        match command {
            Command::NeedIds => {
                assert!(!self.ids_wanted);
                self.ids_wanted = true;
            }
            Command::Trigger { checkpoint, attempt, sources } => {
                assert_eq!(*attempt, self.attempt());
                assert_eq!(sources.len(), SOURCES as usize);
                assert!(checkpoint.0 > self.last_id && *checkpoint <= self.head.granted, "{checkpoint}");
                if !self.requested && !self.exhausted {
                    assert!(self.last_trigger.is_none_or(|at| self.now >= at + self.config.interval));
                    assert!(self.last_completion.is_none_or(|at| self.now >= at + self.config.min_pause));
                }
                self.requested = false;
                self.last_trigger = Some(self.now);
                self.last_id = checkpoint.0;
                self.open.insert(*checkpoint, BTreeSet::new());
                self.this_execution.insert(*checkpoint);
                assert!(self.open.len() <= self.config.max_concurrent as usize);
                assert!(self.stopped_at.is_none(), "the job has ended with a savepoint");
            }
            Command::TriggerSavepoint { checkpoint, attempt, sources, directory } => {
                assert_eq!((*attempt, sources.len()), (self.attempt(), SOURCES as usize));
                assert!(checkpoint.0 > self.last_id && *checkpoint <= self.head.granted, "{checkpoint}");
                self.last_id = checkpoint.0;
                self.open.insert(*checkpoint, BTreeSet::new());
                self.this_execution.insert(*checkpoint);
                assert_eq!(self.orders.get(directory), Some(&0));
                let order = SavepointOrder { directory: directory.clone(), stop: false };
                assert!(self.savepoints.insert(*checkpoint, order).is_none());
            }
            Command::WriteSavepointMetadata { directory, metadata } => {
                assert_eq!(self.savepoints[&metadata.checkpoint].directory, *directory);
                assert_eq!(self.open[&metadata.checkpoint].len(), subtasks().len());
                assert!(metadata.objects().iter().all(|object| object.as_str().starts_with(&directory.prefix())));
                self.metadata_wanted.push(metadata.checkpoint);
            }
            Command::DiscardSavepoint { directory, .. } => {
                assert!(!self.durable_savepoints.contains(directory), "{directory} is complete");
                self.savepoint_files.retain(|file| !file.as_str().starts_with(&directory.prefix()));
            }
            Command::SavepointCompleted { checkpoint, order } => {
                assert!(self.durable_savepoints.contains(&order.directory));
                assert!(self.commit_wanted.is_none(), "it is answered when its output is committed");
                *self.orders.get_mut(&order.directory).expect("nobody asked") += 1;
                if order.stop {
                    assert_eq!(self.head.stop_at.as_ref(), Some(&order.directory));
                    // Other savepoints may be under way: they wait for nothing, and fail when the job has stopped.
                    assert!(self.open.keys().all(|id| self.savepoints.contains_key(id)), "{:?}", self.open);
                    self.stopped_at = Some(*checkpoint);
                }
            }
            Command::SavepointFailed { order, .. } => {
                assert!(!self.durable_savepoints.contains(&order.directory));
                *self.orders.get_mut(&order.directory).expect("nobody asked") += 1;
            }
            Command::WriteMetadata(metadata) => {
                assert!(!self.savepoints.contains_key(&metadata.checkpoint));
                assert_eq!(self.open[&metadata.checkpoint].len(), subtasks().len());
                assert_eq!(metadata.subtasks.len(), subtasks().len());
                self.metadata_wanted.push(metadata.checkpoint);
            }
            Command::AppendCompleted { checkpoint, entry } => {
                assert!(self.open.contains_key(checkpoint) && self.append_wanted.is_none());
                assert!(self.commit_wanted.is_none(), "the previous output is not committed yet");
                self.check_entry(*checkpoint, entry);
                self.append_wanted = Some((*checkpoint, (**entry).clone()));
            }
            Command::CommitSinks { checkpoint, sinks } => {
                assert!(self.completed.contains(checkpoint));
                assert_eq!(*sinks, self.head.newest_sinks);
                self.commit_wanted = Some(*checkpoint);
            }
            Command::NotifyComplete { checkpoint } => assert!(self.completed.contains(checkpoint)),
            Command::NotifyAborted { checkpoint, .. } => assert!(self.aborted.contains(checkpoint)),
            Command::Discard { objects, .. } => {
                let kept: BTreeSet<_> = self.head.retained.values().flat_map(|c| c.all_objects()).collect();
                let (savepoints, objects): (Vec<_>, Vec<_>) = objects.iter().partition(|o| is_of_savepoint(o));
                for object in savepoints {
                    let durable = self.durable_savepoints.iter().any(|d| object.as_str().starts_with(&d.prefix()));
                    assert!(!durable, "{object} is of a complete savepoint");
                    self.savepoint_files.remove(object);
                }
                for object in objects {
                    assert!(!kept.contains(object), "{object} is retained");
                    let count = self.written.get_mut(object).expect("never written");
                    *count += 1;
                    assert_eq!(*count, 1, "{object} is discarded twice");
                }
            }
            Command::FinalCompleted { checkpoint } => {
                assert!(self.completed.contains(checkpoint) && self.head.is_complete());
                assert!(self.commit_wanted.is_none());
                self.finals += 1;
                assert_eq!(self.finals, 1);
            }
            Command::FailJob { .. } => {
                assert!(self.config.tolerable_failures.is_some());
                self.failed = true;
            }
            Command::Journal(Event::CheckpointAborted { checkpoint, .. }) => {
                assert!(self.open.remove(checkpoint).is_some() && self.aborted.insert(*checkpoint));
                assert!(!self.completed.contains(checkpoint));
            }
            Command::Journal(Event::SavepointCompleted { checkpoint, overtaken, .. }) => {
                self.durable_savepoints.insert(self.savepoints[checkpoint].directory.clone());
                if *overtaken {
                    assert!(self.open.remove(checkpoint).is_some() && self.head.newest > Some(*checkpoint));
                }
            }
            Command::Journal(Event::CheckpointCompleted { checkpoint, .. }) => {
                let acked = self.open.remove(checkpoint).expect("not under way");
                assert_eq!(acked.len(), subtasks().len());
                assert!(!self.aborted.contains(checkpoint) && self.completed.insert(*checkpoint));
                self.last_completion = Some(self.now);
            }
            Command::Journal(_) => {}
        }
    }

    /// The entry says about the epoch exactly what the snapshots since the newest completed checkpoint say.
    fn check_entry(&self, checkpoint: CheckpointId, entry: &HeadEntry) {
        let (ledger, sinks, retained, dropped) = match entry {
            HeadEntry::Completed { ledger, sinks, retained, dropped, .. } => (ledger, sinks, retained, dropped),
            HeadEntry::SavepointCompleted { ledger, sinks, retained, dropped, directory, .. } => {
                assert_eq!(self.savepoints[&checkpoint].directory, *directory);
                (ledger, sinks, retained, dropped)
            }
            HeadEntry::SavepointOvertaken { directory, .. } => {
                assert_eq!(self.savepoints[&checkpoint].directory, *directory);
                assert!(self.head.newest > Some(checkpoint));
                return;
            }
            other => panic!("{other:?}"),
        };
        assert!(self.head.newest < Some(checkpoint));
        let newest = self.head.newest;
        let epoch: Vec<_> =
            self.this_execution.iter().copied().filter(|id| Some(*id) > newest && *id <= checkpoint).collect();
        let out = OperatorUid("out".into());
        assert_eq!((ledger.checkpoint, ledger.previous), (checkpoint, newest));
        assert_eq!(ledger.digests[&out].records, epoch.len() as u64 * u64::from(SINKS));
        let runs: Vec<_> = epoch.iter().map(|id| MergeStep::Run(MergeRun { input: id.0 as u32, records: 1 })).collect();
        for subtask in subtasks() {
            assert_eq!(ledger.merges[&SubtaskKey::from(subtask)], runs);
        }
        let snapshots: Vec<_> = sinks[&out].iter().map(|o| o.snapshot).collect();
        let expected: Vec<_> = epoch.iter().flat_map(|id| vec![*id; SINKS as usize]).collect();
        assert_eq!(snapshots, expected);
        assert_eq!(ledger.positions.len(), SOURCES as usize);
        assert_eq!(retained.last(), Some(&checkpoint));
        let (savepoints, checkpoints): (Vec<_>, Vec<_>) =
            retained.iter().copied().partition(|id| self.savepoints.contains_key(id));
        assert!(checkpoints.len() <= self.config.retained as usize && savepoints.len() <= 1);
        let all: BTreeSet<_> = retained.iter().chain(dropped).copied().collect();
        let before: BTreeSet<_> = self.head.retained.keys().copied().chain([checkpoint]).collect();
        assert_eq!(all, before);
        // Of each kind the oldest go.
        let older = |d: &CheckpointId| match self.savepoints.contains_key(d) {
            true => savepoints.iter().all(|r| d < r),
            false => checkpoints.iter().all(|r| d < r),
        };
        assert!(dropped.iter().all(older));
    }

    fn start(&mut self) -> Vec<CoordinatorCommand> {
        self.execution += 1;
        self.this_execution.clear();
        self.last_trigger = Some(self.now);
        let (attempt, continues) = (self.attempt(), self.head.newest);
        self.send(Input::Started { attempt, continues, condemned: BTreeSet::new() })
    }

    fn stop(&mut self) {
        self.exhausted = false;
        self.requested = false;
        self.send(Input::Stopped);
    }

    fn ack(&mut self, checkpoint: CheckpointId, subtask: SubtaskId, attempt: AttemptId) -> Vec<CoordinatorCommand> {
        let ack = self.make_ack(checkpoint, subtask, attempt);
        self.acks.push(ack.clone());
        if attempt == self.attempt()
            && let Some(acked) = self.open.get_mut(&checkpoint)
        {
            acked.insert(subtask);
        }
        self.send(Input::Ack(Box::new(ack)))
    }

    fn make_ack(&mut self, checkpoint: CheckpointId, subtask: SubtaskId, attempt: AttemptId) -> CheckpointAck {
        let job = self.config.job;
        let savepoint = self.savepoints.get(&checkpoint).map(|order| order.directory.clone());
        let object = match &savepoint {
            Some(directory) => self.object(&format!("{directory}/part")),
            None => self.object(&format!("checkpoints/{job}/shared/part")),
        };
        if savepoint.is_some() {
            self.savepoint_files.insert(object.clone());
        } else {
            self.written.insert(object.clone(), 0);
        }
        let range = KeyGroupRange { first: KeyGroup(0), last: KeyGroup(1) };
        let part = StatePart {
            operator: OperatorUid("op".into()),
            key_groups: range,
            name: "p".into(),
            kind: PartKind::Keyed,
            location: PartLocation::Object(object),
            length: 1,
            crc32c: 0,
            written_by: checkpoint,
            backend: None,
        };
        // Of the newest checkpoint that completed it takes over every other object.
        let base = self.head.newest.filter(|newest| self.incremental && *newest < checkpoint && savepoint.is_none());
        // A savepoint is nobody's base.
        let base = base.filter(|base| !self.savepoints.contains_key(base));
        let of_base = self.acks.iter().find(|a| Some(a.checkpoint) == base && a.subtask == subtask);
        let reused: Vec<_> =
            of_base.iter().flat_map(|a| &a.snapshot.parts).filter(|_| self.nonce.is_multiple_of(2)).cloned().collect();
        // The subtask knows of no completion: it sends everything since its execution began.
        let known: Vec<_> = self.this_execution.range(..=checkpoint).copied().collect();
        let mut ack = CheckpointAck {
            subtask,
            attempt,
            checkpoint,
            snapshot: SubtaskSnapshot { parts: [vec![part], reused].concat(), inline: BTreeMap::new() },
            positions: BTreeMap::new(),
            sinks: BTreeMap::new(),
            merges: known
                .iter()
                .map(|id| (*id, vec![MergeStep::Run(MergeRun { input: id.0 as u32, records: 1 })]))
                .collect(),
            exhausted: self.exhausted,
        };
        if subtask.vertex.0 == 0 {
            ack.positions.insert(SplitId(format!("s{}", subtask.index)), checkpoint.0);
        } else {
            let objects = known.iter().map(|id| PrecommittedObject {
                object: ObjectName::new(format!("out/{id}-{}", subtask.index)).unwrap(),
                length: 1,
                records: 1,
                snapshot: *id,
            });
            let digests = known.iter().map(|id| (*id, OutputDigest { sum: 1, records: 1 })).collect();
            ack.sinks.insert(OperatorUid("out".into()), SinkAck { objects: objects.collect(), digests });
        }
        ack
    }

    fn ack_all(&mut self, checkpoint: CheckpointId) {
        for subtask in subtasks() {
            self.ack(checkpoint, subtask, self.attempt());
        }
    }

    fn grant(&mut self) -> Vec<CoordinatorCommand> {
        assert!(std::mem::take(&mut self.ids_wanted), "nobody wants ids");
        let entry = self.head.next_id_block();
        self.head.apply(self.head.next_sequence, &entry);
        let HeadEntry::IdBlock { from, to } = entry else { panic!("not a block") };
        self.send(Input::IdsGranted { from, to })
    }

    fn metadata(&mut self, ok: bool) -> Vec<CoordinatorCommand> {
        if self.metadata_wanted.is_empty() {
            return Vec::new();
        }
        let checkpoint = self.metadata_wanted.remove(0);
        let object = match self.savepoints.get(&checkpoint) {
            Some(order) => order.directory.metadata(),
            None => self.object("meta"),
        };
        if ok && self.savepoints.contains_key(&checkpoint) {
            self.savepoint_files.insert(object.clone());
        } else if ok {
            self.written.insert(object.clone(), 0);
        }
        let result = if ok { Ok(object) } else { Err("store is down".to_string()) };
        self.send(Input::MetadataWritten { checkpoint, result })
    }

    fn append(&mut self, ok: bool) -> Vec<CoordinatorCommand> {
        let Some((checkpoint, entry)) = self.append_wanted.take() else { return Vec::new() };
        let sequence = self.head.next_sequence;
        if ok {
            self.head.apply(sequence, &entry);
        }
        let result = if ok { Ok(sequence) } else { Err("store is down".to_string()) };
        self.send(Input::HeadAppended { checkpoint, result })
    }

    fn commit(&mut self) -> Vec<CoordinatorCommand> {
        match self.commit_wanted.take() {
            Some(checkpoint) => self.send(Input::SinksCommitted { checkpoint }),
            None => Vec::new(),
        }
    }

    fn wait(&mut self, d: Duration) {
        self.now = self.now + d;
        self.send(Input::Tick);
    }

    fn only_open(&self) -> CheckpointId {
        assert_eq!(self.open.len(), 1);
        *self.open.keys().next().unwrap()
    }

    fn complete_one(&mut self) -> CheckpointId {
        let checkpoint = self.only_open();
        self.ack_all(checkpoint);
        self.metadata(true);
        self.append(true);
        self.commit();
        checkpoint
    }

    /// Everything written is either part of a retained checkpoint or discarded.
    fn check_nothing_leaks(&mut self) {
        self.stop();
        while !self.metadata_wanted.is_empty() || self.append_wanted.is_some() || self.commit_wanted.is_some() {
            self.metadata(true);
            self.append(true);
            self.commit();
        }
        assert!(!self.coordinator.is_finalizing());
        let kept: BTreeSet<_> = self.head.retained.values().flat_map(|c| c.all_objects()).collect();
        for (object, discarded) in &self.written {
            assert_eq!(u32::from(!kept.contains(object)), *discarded, "{object}");
        }
        for file in &self.savepoint_files {
            let durable = self.durable_savepoints.iter().any(|d| file.as_str().starts_with(&d.prefix()));
            assert!(durable, "{file} is of no complete savepoint");
        }
        assert!(self.orders.values().all(|answers| *answers == 1), "{:?}", self.orders);
        assert!(self.head.unfinished_savepoints.iter().all(|directory| !self.durable_savepoints.contains(directory)));
    }

    /// Somebody asks for a savepoint; that it begins is in the log.
    fn savepoint(&mut self, stop: bool) -> Vec<CoordinatorCommand> {
        self.nonce += 1;
        let target = ObjectName::new("savepoints").unwrap();
        let directory = SavepointDirectory::below(&target, self.config.job, self.nonce);
        let entry = HeadEntry::SavepointBegun { directory: directory.clone() };
        self.head.apply(self.head.next_sequence, &entry);
        self.orders.insert(directory.clone(), 0);
        self.send(Input::TriggerSavepoint(SavepointOrder { directory, stop }))
    }
}

fn is_of_savepoint(object: &ObjectName) -> bool {
    object.as_str().starts_with("savepoints/")
}

fn running(config: CoordinatorConfig) -> Cluster {
    let mut cluster = Cluster::new(config, HeadState::default());
    cluster.start();
    cluster.grant();
    cluster
}

fn kinds(commands: &[CoordinatorCommand]) -> Vec<String> {
    let kind = |c: &Command| match c {
        Command::Journal(event) => event.kind().name().to_string(),
        other => format!("{other:?}").split([' ', '(']).next().unwrap_or_default().to_string(),
    };
    commands.iter().map(kind).collect()
}
