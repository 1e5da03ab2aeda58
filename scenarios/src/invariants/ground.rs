//! What is known for certain: a fold over effects on the store, kept by the suite itself. The invariants judge by it.
//!
//! Head entries are read from the store in sequence, each once, at the instant they appear. Every object's content is
//! hashed when it is created (the shadow), so that later loss or rot is seen without believing anybody.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use runtime::{
    checkpoint::types::{PartLocation, StatePart, SubtaskKey},
    ids::{AttemptId, CheckpointId, JobId, LeaderEpoch},
    layout::Layout,
    platform::ObjectName,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    formats::{Completion, Formats, HeadRecord, Manifest, Snapshots, StateEntry, local_file},
    output_truth::CommittedOutput,
    truth::{Effect, FaultNotice, Truth},
};
use crate::oracle::OutputOracle;

/// An object as it was created.
#[derive(Clone, Debug)]
pub struct Shadow {
    pub hash: u64,
    pub process: String,
    pub incarnation: u64,
}

/// A head entry with its place, time and author.
#[derive(Clone, Debug)]
pub struct HeadFact {
    pub sequence: u64,
    pub at: Duration,
    pub process: String,
    pub incarnation: u64,
    pub record: HeadRecord,
}

/// A checkpoint completed in the head log, with its metadata as it was in primary at that instant.
#[derive(Debug)]
pub struct CompletedFact {
    pub completion: Completion,
    /// Err: why the metadata could not be read when the checkpoint completed.
    pub snapshots: Result<Snapshots, String>,
}

impl CompletedFact {
    pub fn parts(&self) -> impl Iterator<Item = (SubtaskKey, &StatePart)> {
        self.snapshots.iter().flatten().flat_map(|(key, snapshot)| snapshot.parts.iter().map(|part| (*key, part)))
    }

    /// The part that `subtask` restores under this name (or object name), and who wrote it: itself, or, where the parallelism
    /// was another, one of the other subtasks of its vertex.
    pub fn part_for(&self, subtask: SubtaskKey, part: &str) -> Option<(SubtaskKey, &StatePart)> {
        let snapshots = self.snapshots.as_ref().ok()?;
        let own = snapshots.get_key_value(&subtask).into_iter();
        let of_vertex = snapshots.range((subtask.0, 0)..=(subtask.0, u32::MAX));
        own.chain(of_vertex)
            .flat_map(|(key, snapshot)| snapshot.parts.iter().map(|part| (*key, part)))
            .find(|(_, known)| known.name == part || known.object().is_some_and(|o| o.as_str() == part))
    }

    /// Every object in primary that a restore from this checkpoint needs.
    pub fn needed(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.completion.metadata.as_str())
            .chain(self.parts().filter_map(|(_, part)| Some(part.object()?.as_str())))
    }
}

/// The head log, folded by code of the suite's own.
#[derive(Debug, Default)]
pub struct HeadTruth {
    next: Option<u64>,
    pub leader: Option<LeaderEpoch>,
    /// Process and incarnation that claimed the leadership last.
    claimed_by: Option<(String, u64)>,
    pub completed: BTreeMap<CheckpointId, Rc<CompletedFact>>,
    pub retained: BTreeSet<CheckpointId>,
    pub attempt: Option<AttemptId>,
    /// What the current attempt was restored from, once there was a restore.
    pub restored: Option<Option<CheckpointId>>,
    pub restores: u32,
    /// An attempt began behind output that was visible already.
    pub behind_commit: bool,
    pub finished: bool,
}

impl HeadTruth {
    /// Whether this process leads, by the log. One that was replaced without knowing it goes on deciding for a while; it can
    /// record nothing of it, so nothing of it comes true.
    pub fn is_led_by(&self, process: &str, incarnation: u64) -> bool {
        self.claimed_by.as_ref().is_none_or(|(who, life)| (who.as_str(), *life) == (process, incarnation))
    }
}

/// What the nemesis hit, and when last.
#[derive(Debug, Default)]
pub struct Damage {
    pub objects: BTreeMap<String, Duration>,
    pub files: BTreeMap<(String, String), Duration>,
    pub disks: BTreeMap<String, Duration>,
    /// Processes whose native code may fail.
    pub native: BTreeSet<String>,
    pub processes: Vec<(Duration, String)>,
    /// Whose clock ran wrong, from when to when; None: still.
    pub clocks: Vec<(String, Duration, Option<Duration>)>,
    /// Objects of which a read gave wrong bytes.
    pub misread: BTreeSet<String>,
    /// The network (a channel by its name) or the store.
    pub environment: Vec<(Duration, String)>,
    pub healed: Option<Duration>,
}

impl Damage {
    pub fn note(&mut self, at: Duration, notice: &FaultNotice) {
        match notice {
            FaultNotice::Object { name } => {
                self.objects.insert(name.clone(), at);
            }
            FaultNotice::LocalFile { machine, path } => {
                self.files.insert((machine.clone(), path.clone()), at);
            }
            FaultNotice::Disk { machine } => {
                self.disks.insert(machine.clone(), at);
            }
            FaultNotice::NativeCode { process } => {
                self.native.insert(process.clone());
            }
            FaultNotice::Process { process } => self.processes.push((at, process.clone())),
            FaultNotice::Clock { process, wrong: true } => self.clocks.push((process.clone(), at, None)),
            FaultNotice::Clock { process, wrong: false } => {
                for (who, _, until) in &mut self.clocks {
                    if who == process {
                        until.get_or_insert(at);
                    }
                }
            }
            FaultNotice::Misread { name } => {
                self.misread.insert(name.clone());
            }
            FaultNotice::Environment { what } => self.environment.push((at, what.clone())),
            FaultNotice::Healed => self.healed = Some(at),
        }
    }

    /// Whether a local file was hit, and when last.
    pub fn file(&self, machine: &str, path: &str) -> Option<Duration> {
        let file = self.files.get(&(machine.to_string(), path.to_string())).copied();
        file.max(self.disks.get(machine).copied())
    }

    /// Whether anything but a channel was ever slow or unavailable: faults that wait for an operation take effect later.
    pub fn store_was_hit(&self) -> bool {
        self.environment.iter().any(|(_, what)| !what.contains("->"))
    }

    /// Whether anything that can stretch or stop time for `process` happened in `[from, to]`.
    pub fn disturbed(&self, process: &str, from: Duration, to: Duration) -> bool {
        self.processes.iter().any(|(at, who)| who == process && (from..=to).contains(at))
            || self.environment.iter().any(|(at, _)| (from..=to).contains(at))
            || self
                .clocks
                .iter()
                .any(|(who, since, until)| who == process && *since <= to && until.is_none_or(|until| until >= from))
    }

    /// Whether the plan made reads of an object fail, by what it did to it or to the answer.
    pub fn unreadable(&self, object: &str) -> bool {
        self.objects.contains_key(object) || self.misread.contains(object)
    }
}

/// Everything the suite knows for certain.
pub struct Ground {
    pub layout: Layout,
    pub job: String,
    pub sinks: Vec<String>,
    pub formats: Rc<dyn Formats>,
    pub head: HeadTruth,
    pub shadows: BTreeMap<String, Shadow>,
    pub manifests: BTreeMap<(String, CheckpointId), Manifest>,
    /// Every data object that a commit manifest names.
    pub committed_objects: BTreeSet<String>,
    pub output: CommittedOutput,
    pub damage: Damage,
    /// What databases hold, by the names and hashes of their files: opening one is dear, and a checkpoint is looked at often.
    pub databases: RefCell<BTreeMap<Vec<String>, Vec<StateEntry>>>,
}

impl Ground {
    pub fn new(layout: Layout, sinks: Vec<String>, formats: Rc<dyn Formats>, oracle: Box<dyn OutputOracle>) -> Ground {
        Ground {
            layout,
            job: layout.job.to_string(),
            sinks,
            formats,
            head: HeadTruth::default(),
            shadows: BTreeMap::new(),
            manifests: BTreeMap::new(),
            committed_objects: BTreeSet::new(),
            output: CommittedOutput { oracle, absorbed: BTreeSet::new(), quiet: false },
            damage: Damage::default(),
            databases: RefCell::default(),
        }
    }

    /// Remembers a new object's content.
    pub fn created(&mut self, truth: &dyn Truth, effect: &Effect<'_>) {
        let bytes = truth.object(effect.object).unwrap_or_default();
        self.shadows.insert(
            effect.object.to_string(),
            Shadow { hash: xxh3_64(&bytes), process: effect.process.to_string(), incarnation: effect.incarnation },
        );
    }

    /// Reads the next head entry, if there is one, and folds it in. Err: an entry that cannot be read.
    pub fn next_head_entry(&mut self, truth: &dyn Truth) -> Option<Result<HeadFact, (String, String)>> {
        let sequence = match self.head.next {
            Some(next) => next,
            None => {
                // Where the log starts is the runtime's choice: the lowest entry there is.
                let prefix = self.layout.head_prefix();
                truth.objects(&prefix).iter().find_map(|(name, _)| {
                    let rest = name.strip_prefix(&prefix)?;
                    (rest.len() == 19).then(|| rest.parse().ok()).flatten()
                })?
            }
        };
        let name = self.layout.head_entry(sequence).as_str().to_string();
        let bytes = truth.object(&name)?;
        self.head.next = Some(sequence + 1);
        let record = match self.formats.head(&bytes) {
            Ok(record) => record,
            Err(reason) => return Some(Err((name, reason))),
        };
        let (process, incarnation) =
            self.shadows.get(&name).map_or((String::new(), 0), |s| (s.process.clone(), s.incarnation));
        let fact = HeadFact { sequence, at: truth.now(), process, incarnation, record };
        self.fold(truth, &fact);
        Some(Ok(fact))
    }

    pub(super) fn fold(&mut self, truth: &dyn Truth, fact: &HeadFact) {
        match &fact.record {
            HeadRecord::Claimed { leader } => {
                self.head.leader = Some(*leader);
                // An author the store did not report is not known.
                self.head.claimed_by = (!fact.process.is_empty()).then(|| (fact.process.clone(), fact.incarnation));
            }
            HeadRecord::IdBlock { .. } | HeadRecord::Failed { .. } => {}
            HeadRecord::Completed(completion) => {
                let snapshots = self.snapshots(truth, &completion.metadata, completion.savepoint.as_deref());
                let completed = CompletedFact { completion: (**completion).clone(), snapshots };
                self.head.completed.insert(completion.checkpoint, Rc::new(completed));
                self.head.retained = completion.retained.iter().copied().collect();
            }
            HeadRecord::Restored { attempt, checkpoint, .. } => {
                // Told now: what the attempt itself commits is not behind it.
                self.head.behind_commit |= *checkpoint < self.newest_committed();
                self.head.attempt = Some(*attempt);
                self.head.restored = Some(*checkpoint);
                self.head.restores += 1;
            }
            // What was completed by the job before it stays known: its output is before what the new one writes.
            HeadRecord::Imported { checkpoint, .. } => self.head.retained = BTreeSet::from([*checkpoint]),
            HeadRecord::SavepointBegun { .. } | HeadRecord::SavepointOvertaken { .. } | HeadRecord::Stopped => {}
            HeadRecord::Finished => self.head.finished = true,
        }
    }

    /// What metadata says. That of a savepoint names its files from its directory; here they have their whole names.
    pub fn snapshots(&self, truth: &dyn Truth, metadata: &str, savepoint: Option<&str>) -> Result<Snapshots, String> {
        let bytes = truth.object(metadata).ok_or_else(|| "it is not in primary".to_string())?;
        let mut snapshots = self.formats.metadata(&bytes)?;
        if let Some(directory) = savepoint {
            for part in snapshots.values_mut().flat_map(|snapshot| &mut snapshot.parts) {
                if let PartLocation::Object(name) = &mut part.location {
                    let whole = format!("{directory}/{name}");
                    *name = ObjectName::new(whole).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(snapshots)
    }

    /// The job has ended with a savepoint; from now on the head log of `job` counts, which begins with it. The output goes on.
    pub fn resumed(&mut self, job: JobId) {
        self.layout = Layout { job };
        self.job = job.to_string();
        self.head.next = None;
        self.head.claimed_by = None;
    }

    /// The object as it was created, or why it is no longer (or never was) that.
    pub fn intact(&self, truth: &dyn Truth, object: &str) -> Result<Bytes, String> {
        let bytes = truth.object(object).ok_or_else(|| "not in primary".to_string())?;
        match self.shadows.get(object) {
            Some(shadow) if shadow.hash != xxh3_64(&bytes) => Err("its bytes have changed since it was created".into()),
            _ => Ok(bytes),
        }
    }

    /// The bytes of a part as they were written, or why they cannot be had any more. Inline ones share the fate of the
    /// metadata they lie in.
    pub fn part_intact(&self, truth: &dyn Truth, part: &StatePart) -> Result<Bytes, String> {
        match &part.location {
            PartLocation::Object(object) => self.intact(truth, object.as_str()),
            PartLocation::Inline(bytes) => Ok(bytes.clone()),
        }
    }

    /// The hash of a part's bytes as they were written; None if nobody saw that.
    pub fn part_hash(&self, part: &StatePart) -> Option<u64> {
        match &part.location {
            PartLocation::Object(object) => self.shadows.get(object.as_str()).map(|shadow| shadow.hash),
            PartLocation::Inline(bytes) => Some(xxh3_64(bytes)),
        }
    }

    /// Retained checkpoints, newest first.
    pub fn retained(&self) -> impl Iterator<Item = &Rc<CompletedFact>> {
        self.head.retained.iter().rev().filter_map(|id| self.head.completed.get(id))
    }

    /// Why nothing can be restored from `completed` any more; `None` if it is whole. A part lost in primary is made good
    /// by an unharmed local copy on any machine, if `with_local`.
    pub fn broken(&self, truth: &dyn Truth, completed: &CompletedFact, with_local: bool) -> Option<String> {
        let metadata = &completed.completion.metadata;
        if let Err(reason) = self.intact(truth, metadata) {
            return Some(format!("{metadata}: {reason}"));
        }
        if let Err(reason) = &completed.snapshots {
            return Some(format!("{metadata}: {reason}"));
        }
        completed.parts().find_map(|(subtask, part)| {
            let reason = self.part_intact(truth, part).err()?;
            let hash = self.part_hash(part);
            let local = self.local_copies(truth, completed.completion.checkpoint, subtask, &part.name);
            let saved = with_local && local.iter().any(|(_, _, bytes)| hash.is_some_and(|h| h == xxh3_64(bytes)));
            (!saved).then(|| format!("{}: {reason}", part.location))
        })
    }

    /// Copies of one part on local disks: machine, path, bytes. Only those of complete copies.
    pub fn local_copies(
        &self,
        truth: &dyn Truth,
        checkpoint: CheckpointId,
        subtask: SubtaskKey,
        part: &str,
    ) -> Vec<(String, String, Bytes)> {
        let mut found = Vec::new();
        for machine in truth.machines() {
            let files = truth.files(&machine);
            let complete = self.complete_directories(&files);
            for (path, _) in &files {
                let Some(name) = local_file(path, &self.job) else { continue };
                if name.checkpoint == checkpoint
                    && name.subtask == subtask
                    && name.file == part
                    && complete.contains(name.directory)
                    && let Some(bytes) = truth.file(&machine, path)
                {
                    found.push((machine.clone(), path.clone(), bytes));
                }
            }
        }
        found
    }

    /// Directories of local copies that hold the file which makes a copy complete.
    pub fn complete_directories<'a>(&self, files: &'a [(String, u64)]) -> BTreeSet<&'a str> {
        let names = files.iter().filter_map(|(path, _)| local_file(path, &self.job));
        names.filter(|name| self.formats.is_local_manifest(name.file)).map(|name| name.directory).collect()
    }

    /// Sink and epoch of a manifest's name.
    pub fn manifest_name(&self, object: &str) -> Option<(String, CheckpointId)> {
        self.sinks.iter().find_map(|sink| {
            let epoch = object.strip_prefix(&self.layout.sink_commit_prefix(sink))?;
            Some((sink.clone(), CheckpointId(epoch.parse().ok()?)))
        })
    }

    /// Whether the manifest of the local copy that `path` belongs to was hit.
    pub fn manifest_hit(&self, machine: &str, path: &str) -> bool {
        let Some((directory, _)) = path.rsplit_once('/') else { return false };
        self.damage.files.keys().any(|(at, hit)| {
            let file = hit.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/'));
            at == machine && file.is_some_and(|file| self.formats.is_local_manifest(file))
        })
    }

    /// The newest epoch with visible output.
    pub fn newest_committed(&self) -> Option<CheckpointId> {
        self.manifests.iter().filter(|(_, m)| m.commit).map(|((_, epoch), _)| *epoch).max()
    }
}
