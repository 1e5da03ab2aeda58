//! The coordinator alone: stories, then random sequences of events against a model of what must hold.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::{
        head::{HeadEntry, ID_BLOCK},
        types::{MergeRun, OutputDigest, SinkAck, StatePart, SubtaskKey, SubtaskSnapshot},
    },
    ids::{Execution, JobId, KeyGroup, KeyGroupRange, LeaderEpoch, SplitId, VertexId},
};

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
        sabotage: SabotageSet::default(),
    }
}

use crate::sabotage::SabotageSet;

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
            }
            Command::WriteMetadata(metadata) => {
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
        let HeadEntry::Completed { ledger, sinks, retained, dropped, .. } = entry else { panic!("not Completed") };
        let newest = self.head.newest;
        let epoch: Vec<_> =
            self.this_execution.iter().copied().filter(|id| Some(*id) > newest && *id <= checkpoint).collect();
        let out = OperatorUid("out".into());
        assert_eq!(ledger.previous, newest);
        assert_eq!(ledger.digests[&out].records, epoch.len() as u64 * u64::from(SINKS));
        let runs: Vec<_> = epoch.iter().map(|id| MergeRun { input: id.0 as u32, records: 1 }).collect();
        for subtask in subtasks() {
            assert_eq!(ledger.merges[&SubtaskKey::from(subtask)], runs);
        }
        let snapshots: Vec<_> = sinks[&out].iter().map(|o| o.snapshot).collect();
        let expected: Vec<_> = epoch.iter().flat_map(|id| vec![*id; SINKS as usize]).collect();
        assert_eq!(snapshots, expected);
        assert_eq!(ledger.positions.len(), SOURCES as usize);
        assert!(retained.len() <= self.config.retained as usize && retained.last() == Some(&checkpoint));
        let all: BTreeSet<_> = retained.iter().chain(dropped).copied().collect();
        let before: BTreeSet<_> = self.head.retained.keys().copied().chain([checkpoint]).collect();
        assert_eq!(all, before);
        assert!(dropped.iter().all(|d| retained.iter().all(|r| d < r)));
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
        let object = self.object("part");
        self.written.insert(object.clone(), 0);
        let range = KeyGroupRange { first: KeyGroup(0), last: KeyGroup(1) };
        let part = StatePart {
            operator: OperatorUid("op".into()),
            key_groups: range,
            name: "p".into(),
            object,
            length: 1,
            crc32c: 0,
        };
        // The subtask knows of no completion: it sends everything since its execution began.
        let known: Vec<_> = self.this_execution.range(..=checkpoint).copied().collect();
        let mut ack = CheckpointAck {
            subtask,
            attempt,
            checkpoint,
            snapshot: SubtaskSnapshot { parts: vec![part], inline: BTreeMap::new() },
            positions: BTreeMap::new(),
            sinks: BTreeMap::new(),
            merges: known.iter().map(|id| (*id, vec![MergeRun { input: id.0 as u32, records: 1 }])).collect(),
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
        let object = self.object("meta");
        if ok {
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
    }
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

/// R182: complete only when every task has acknowledged; the head entry comes before the commit, the commit before the end.
#[test]
fn a_checkpoint_from_trigger_to_commit() {
    let mut cluster = running(config());
    assert_eq!(cluster.coordinator.next_deadline(), Some(Mono(0) + 100 * MS));
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    assert_eq!(one, CheckpointId(1));
    let [a, b, c, d] = subtasks()[..] else { panic!() };
    for subtask in [a, b, c] {
        assert_eq!(kinds(&cluster.ack(one, subtask, cluster.attempt())), ["CheckpointAcked"]);
    }
    assert_eq!(kinds(&cluster.ack(one, d, cluster.attempt())), ["CheckpointAcked", "WriteMetadata"]);
    assert!(!cluster.coordinator.is_finalizing());
    assert_eq!(kinds(&cluster.metadata(true)), ["MetadataWritten", "AppendCompleted"]);
    assert!(cluster.coordinator.is_finalizing());
    let done = kinds(&cluster.append(true));
    assert_eq!(done, ["CheckpointCompleted", "CommitSinks", "NotifyComplete", "CheckpointNotified"]);
    assert_eq!(kinds(&cluster.commit()), Vec::<String>::new());
    assert!(!cluster.coordinator.is_finalizing());
    cluster.wait(100 * MS);
    cluster.complete_one();
    // The first one was dropped, and only after the second was recorded.
    assert_eq!(cluster.written.values().sum::<u32>(), subtasks().len() as u32 + 1);
    cluster.check_nothing_leaks();
}

/// R199: the last n stay.
#[test]
fn as_many_checkpoints_stay_as_asked_for_and_lost_ones_do_not_count() {
    let mut cluster = running(CoordinatorConfig { retained: 3, ..config() });
    for _ in 0..5 {
        cluster.wait(100 * MS);
        cluster.complete_one();
    }
    let ids = |c: &Cluster| c.head.retained.keys().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(ids(&cluster), [3, 4, 5]);
    cluster.stop();
    cluster.execution += 1;
    let (attempt, continues) = (cluster.attempt(), cluster.head.newest);
    cluster.this_execution.clear();
    let condemned = BTreeSet::from([CheckpointId(5)]);
    cluster.coordinator.handle(Input::Started { attempt, continues, condemned }, cluster.now);
    cluster.now = cluster.now + 100 * MS;
    cluster.coordinator.handle(Input::Tick, cluster.now);
    let six = CheckpointId(6);
    cluster.this_execution.insert(six);
    for subtask in subtasks() {
        let ack = cluster.make_ack(six, subtask, attempt);
        cluster.coordinator.handle(Input::Ack(Box::new(ack)), cluster.now);
    }
    let metadata = ObjectName::new("meta-6").unwrap();
    let out = cluster.coordinator.handle(Input::MetadataWritten { checkpoint: six, result: Ok(metadata) }, cluster.now);
    let Some(Command::AppendCompleted { entry, .. }) = out.last() else { panic!("{out:?}") };
    let HeadEntry::Completed { retained, dropped, ledger, .. } = &**entry else { panic!() };
    assert_eq!(*retained, [3, 4, 6].map(CheckpointId));
    assert_eq!(*dropped, [CheckpointId(5)]);
    assert_eq!(ledger.previous, Some(CheckpointId(5)), "5 is lost, but its output is committed");
}

#[test]
fn an_expired_checkpoint_is_gone_and_its_late_acknowledgements_are_discarded() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    let [a, b, ..] = subtasks()[..] else { panic!() };
    cluster.ack(one, a, cluster.attempt());
    assert_eq!(cluster.coordinator.next_deadline(), Some(Mono(0) + 600 * MS));
    cluster.wait(500 * MS);
    assert!(cluster.aborted.contains(&one));
    // The next one takes its place at once.
    assert_eq!(cluster.only_open(), CheckpointId(2));
    assert_eq!(kinds(&cluster.ack(one, b, cluster.attempt())), ["LateAckDiscarded", "Discard", "CheckpointDiscarded"]);
    // A repetition changes nothing.
    for ack in cluster.acks.clone() {
        assert_eq!(cluster.send(Input::Ack(Box::new(ack))), []);
    }
    cluster.check_nothing_leaks();
}

#[test]
fn what_an_aborted_checkpoint_put_out_goes_into_the_next() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let reason = "disk".to_string();
    cluster.send(Input::Decline { subtask: subtasks()[1], checkpoint: CheckpointId(1), reason });
    cluster.wait(100 * MS);
    cluster.complete_one(); // check_entry compares the whole epoch
    assert_eq!(cluster.head.newest_sinks[&OperatorUid("out".into())].len(), 2 * SINKS as usize);
    cluster.check_nothing_leaks();
}

#[test]
fn a_failed_write_or_append_costs_that_checkpoint_only() {
    let mut cluster = running(CoordinatorConfig { tolerable_failures: Some(1), ..config() });
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(1));
    cluster.metadata(false);
    assert!(!cluster.failed);
    cluster.wait(100 * MS);
    cluster.complete_one();
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(3));
    cluster.metadata(true);
    cluster.append(false);
    assert!(!cluster.failed, "a success in between starts the count anew");
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(4));
    cluster.metadata(false);
    assert!(cluster.failed);
    cluster.check_nothing_leaks();
}

#[test]
fn an_append_under_way_when_the_execution_stops_still_counts() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(1));
    cluster.metadata(true);
    cluster.stop();
    assert!(cluster.coordinator.is_finalizing(), "the restore choice has to wait");
    let done = kinds(&cluster.append(true));
    assert_eq!(done, ["CheckpointCompleted", "CommitSinks"], "nobody is left to be notified");
    assert!(cluster.coordinator.is_finalizing());
    cluster.commit();
    assert!(!cluster.coordinator.is_finalizing());
    assert_eq!(cluster.head.newest, Some(CheckpointId(1)));
    cluster.check_nothing_leaks();
}

#[test]
fn metadata_under_way_when_the_execution_stops_is_thrown_away() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(1));
    cluster.stop();
    assert!(!cluster.coordinator.is_finalizing());
    assert_eq!(kinds(&cluster.metadata(true)), ["Discard", "CheckpointDiscarded"]);
    cluster.check_nothing_leaks();
}

#[test]
fn the_last_checkpoint_is_taken_at_once_and_again_until_it_completes() {
    let mut cluster = running(CoordinatorConfig { interval: 10_000 * MS, min_pause: 5_000 * MS, ..config() });
    cluster.exhausted = true;
    cluster.send(Input::AllSourcesExhausted);
    let one = cluster.only_open();
    cluster.send(Input::Decline { subtask: subtasks()[0], checkpoint: one, reason: "no".into() });
    assert!(cluster.open.is_empty());
    let again = cluster.coordinator.next_deadline().expect("it is tried again");
    cluster.wait(again - cluster.now);
    let two = cluster.only_open();
    cluster.ack_all(two);
    cluster.metadata(true);
    cluster.append(true);
    assert_eq!(cluster.finals, 0, "its output is not committed yet");
    assert_eq!(kinds(&cluster.commit()), ["FinalCompleted"]);
    assert_eq!(cluster.coordinator.next_deadline(), None);
}

#[test]
fn the_job_ends_once_even_if_two_last_checkpoints_are_under_way() {
    let mut cluster = running(CoordinatorConfig { max_concurrent: 2, ..config() });
    cluster.exhausted = true;
    cluster.send(Input::AllSourcesExhausted);
    cluster.requested = true;
    cluster.send(Input::TriggerNow);
    cluster.ack_all(CheckpointId(1));
    cluster.ack_all(CheckpointId(2));
    cluster.metadata(true);
    cluster.append(true);
    assert!(cluster.aborted.contains(&CheckpointId(2)));
    assert_eq!(kinds(&cluster.commit()), ["FinalCompleted"]);
    cluster.check_nothing_leaks();
}

#[test]
fn ids_go_on_above_every_block_ever_granted() {
    let mut head = HeadState::default();
    head.apply(0, &head.next_id_block());
    head.apply(1, &head.next_id_block());
    let mut cluster = Cluster::new(config(), head);
    assert_eq!(cluster.coordinator.first_unused_id(), CheckpointId(2 * ID_BLOCK + 1));
    cluster.start();
    cluster.grant();
    cluster.wait(100 * MS);
    assert_eq!(cluster.only_open(), CheckpointId(2 * ID_BLOCK + 1));
    assert_eq!(cluster.coordinator.first_unused_id(), CheckpointId(2 * ID_BLOCK + 2));
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u16),
    Ack { checkpoint: u8, subtask: u8 },
    AckAll(u8),
    StrayAck { id: u8, subtask: u8, older: bool },
    RepeatAck(u8),
    Decline(u8),
    Metadata(bool),
    Append(bool),
    Commit,
    Ids(bool),
    Exhausted,
    TriggerNow,
    Restart,
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1u16..300).prop_map(Step::Wait),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(checkpoint, subtask)| Step::Ack { checkpoint, subtask }),
        6 => any::<u8>().prop_map(Step::AckAll),
        1 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(id, subtask, older)| Step::StrayAck { id, subtask, older }),
        1 => any::<u8>().prop_map(Step::RepeatAck),
        1 => any::<u8>().prop_map(Step::Decline),
        6 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Metadata),
        6 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Append),
        6 => Just(Step::Commit),
        5 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Ids),
        1 => Just(Step::Exhausted),
        1 => Just(Step::TriggerNow),
        1 => Just(Step::Restart),
        1 => Just(Step::Stop),
    ];
    proptest::collection::vec(step, 1..200)
}

impl Cluster {
    fn nth_open(&self, n: u8) -> Option<CheckpointId> {
        let waiting: Vec<_> = self.open.iter().filter(|(_, a)| a.len() < subtasks().len()).map(|(id, _)| *id).collect();
        (!waiting.is_empty()).then(|| waiting[n as usize % waiting.len()])
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(ms) => self.wait(u32::from(*ms) * MS),
            Step::Ack { checkpoint, subtask } => {
                let subtask = subtasks()[*subtask as usize % subtasks().len()];
                if let Some(id) = self.nth_open(*checkpoint)
                    && !self.open[&id].contains(&subtask)
                {
                    self.ack(id, subtask, self.attempt());
                }
            }
            Step::AckAll(n) => {
                if let Some(id) = self.nth_open(*n) {
                    for subtask in subtasks() {
                        if self.open.get(&id).is_some_and(|acked| !acked.contains(&subtask)) {
                            self.ack(id, subtask, self.attempt());
                        }
                    }
                }
            }
            Step::StrayAck { id, subtask, older } => {
                // From a subtask that never acknowledged this one, or of an older execution.
                let (id, subtask) = (CheckpointId(u64::from(*id) % 20 + 1), subtasks()[*subtask as usize % subtasks().len()]);
                let execution = Execution(if *older { self.execution.saturating_sub(1) } else { self.execution });
                let attempt = AttemptId { leader: LeaderEpoch(1), execution };
                let known = self.acks.iter().any(|a| (a.checkpoint, a.subtask, a.attempt) == (id, subtask, attempt));
                if !known && !self.open.contains_key(&id) && !self.completed.contains(&id) && id.0 <= self.last_id {
                    self.ack(id, subtask, attempt);
                }
            }
            Step::RepeatAck(n) => {
                if !self.acks.is_empty() {
                    let ack = self.acks[*n as usize % self.acks.len()].clone();
                    self.send(Input::Ack(Box::new(ack)));
                }
            }
            Step::Decline(n) => {
                if let Some(checkpoint) = self.nth_open(*n) {
                    self.send(Input::Decline { subtask: subtasks()[0], checkpoint, reason: "no".into() });
                }
            }
            Step::Metadata(ok) => drop(self.metadata(*ok)),
            Step::Append(ok) => drop(self.append(*ok)),
            Step::Commit => drop(self.commit()),
            Step::Ids(ok) if self.ids_wanted => {
                if *ok {
                    self.grant();
                } else {
                    self.ids_wanted = false;
                    self.send(Input::IdsUnavailable { reason: "store is down".into() });
                }
            }
            Step::Ids(_) => {}
            Step::Exhausted if self.coordinator.running().is_some() => {
                self.exhausted = true;
                self.send(Input::AllSourcesExhausted);
            }
            Step::Exhausted => {}
            Step::TriggerNow => {
                self.requested |= self.coordinator.running().is_some();
                self.send(Input::TriggerNow);
            }
            Step::Restart => {
                self.stop();
                if !self.coordinator.is_finalizing() {
                    self.start();
                }
            }
            Step::Stop => self.stop(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// R182. Whatever happens in whatever order: ids strictly increase; nothing completes twice, or aborted, or without an
    /// acknowledgement; concurrency, interval and pause are kept; every object is discarded once or retained; an entry
    /// says exactly what its epoch put out.
    #[test]
    fn nothing_that_must_hold_is_broken(steps in steps(), max_concurrent in 1u32..4, retained in 1u32..4,
                                        tolerable in proptest::option::of(0u32..3)) {
        let config = CoordinatorConfig { max_concurrent, retained, tolerable_failures: tolerable, ..config() };
        let mut cluster = running(config);
        for step in &steps {
            cluster.step(step);
        }
        cluster.check_nothing_leaks();
    }
}
