//! Every name of an object in primary storage and of a file on a local disk, in one place. All are relative, so that a
//! root can be moved as a whole. No name is ever used twice: those of state and output carry the leader's epoch and the execution,
//! those of metadata a checkpoint's id.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AllocationId, AttemptId, CheckpointId, JobId, SubtaskId, VertexId},
    platform::{ObjectName, RelPath},
};

/// Names for one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub job: JobId,
}

fn object(name: String) -> ObjectName {
    ObjectName::new(name).expect("layout makes plain names")
}

impl Layout {
    /// `ha/`: the head logs of all jobs.
    pub fn heads_prefix() -> &'static str {
        "ha/"
    }

    /// `ha/<job>/`: the head log.
    pub fn head_prefix(&self) -> String {
        format!("ha/{}/", self.job)
    }

    pub fn head_entry(&self, sequence: u64) -> ObjectName {
        object(format!("ha/{}/{sequence:019}", self.job))
    }

    /// `checkpoints/<job>/`: everything a checkpoint may own.
    pub fn checkpoints_prefix(&self) -> String {
        format!("checkpoints/{}/", self.job)
    }

    pub fn checkpoint_prefix(&self, checkpoint: CheckpointId) -> String {
        format!("checkpoints/{}/chk-{checkpoint}/", self.job)
    }

    pub fn state_part(
        &self,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        subtask: SubtaskId,
        part: &str,
        nonce: u64,
    ) -> ObjectName {
        object(format!("checkpoints/{}/chk-{checkpoint}/{subtask}-{part}-{attempt}-{nonce:016x}", self.job))
    }

    /// `checkpoints/<job>/shared/`: what several checkpoints may refer to.
    pub fn shared_prefix(&self) -> String {
        format!("checkpoints/{}/shared/", self.job)
    }

    /// Whether more than one checkpoint may refer to an object of this name.
    pub fn is_shared(&self, object: &ObjectName) -> bool {
        object.as_str().starts_with(&self.shared_prefix())
    }

    /// A state part that later checkpoints may refer to.
    pub fn shared_part(
        &self,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        subtask: SubtaskId,
        part: &str,
        nonce: u64,
    ) -> ObjectName {
        object(format!("checkpoints/{}/shared/{checkpoint}-{subtask}-{part}-{attempt}-{nonce:016x}", self.job))
    }

    /// `chk-<n>/_metadata`: a plain name, as Flink's, and yet never used twice, because no id ever is.
    pub fn metadata(&self, checkpoint: CheckpointId) -> ObjectName {
        object(format!("checkpoints/{}/chk-{checkpoint}/_metadata", self.job))
    }

    /// The checkpoint whose metadata has this name.
    pub fn checkpoint_of_metadata(&self, name: &ObjectName) -> Option<CheckpointId> {
        let of_job = name.as_str().strip_prefix(&self.checkpoints_prefix())?;
        let checkpoint = CheckpointId(of_job.strip_prefix("chk-")?.strip_suffix("/_metadata")?.parse().ok()?);
        (*name == self.metadata(checkpoint)).then_some(checkpoint)
    }

    /// `output/<sink>/`.
    pub fn sink_prefix(&self, sink: &str) -> String {
        format!("output/{sink}/")
    }

    pub fn sink_data(
        &self,
        sink: &str,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        subtask_index: u32,
        nonce: u64,
    ) -> ObjectName {
        object(format!(
            "output/{sink}/data/{checkpoint:010}-{subtask_index}-{attempt}-{nonce:016x}",
            checkpoint = checkpoint.0
        ))
    }

    /// `output/<sink>/_committed/<epoch>`: commit manifest or void marker, whichever was created first.
    pub fn sink_commit(&self, sink: &str, checkpoint: CheckpointId) -> ObjectName {
        object(format!("output/{sink}/_committed/{:010}", checkpoint.0))
    }

    pub fn sink_commit_prefix(&self, sink: &str) -> String {
        format!("output/{sink}/_committed/")
    }

    pub fn sink_data_prefix(&self, sink: &str) -> String {
        format!("output/{sink}/data/")
    }
}

/// The directory of one savepoint: `<target>/savepoint-<first 6 hex digits of the job id>-<12 random hex digits>`, as Flink names it
/// (`FsCheckpointStorage.initializeLocationForSavepoint`). All that belongs to the savepoint lies directly in it, and nothing else
/// does: it can be moved, copied and removed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SavepointDirectory(ObjectName);

/// What begins with these is not for savepoints: the system deletes there.
const RESERVED: [&str; 3] = ["ha", "checkpoints", "output"];

impl SavepointDirectory {
    /// A directory of this name.
    pub fn at(name: ObjectName) -> SavepointDirectory {
        SavepointDirectory(name)
    }

    /// One below `target`; of `random` 48 bits count.
    pub fn below(target: &ObjectName, job: JobId, random: u64) -> SavepointDirectory {
        let job = job.to_string();
        let (job, random) = (job.get(..6).unwrap_or(&job), random & 0xffff_ffff_ffff);
        SavepointDirectory(object(format!("{target}/savepoint-{job}-{random:012x}")))
    }

    /// Why savepoints cannot lie below `target`; None if they can.
    pub fn refuses(target: &ObjectName) -> Option<String> {
        let first = target.as_str().split('/').next().unwrap_or_default();
        RESERVED.contains(&first).then(|| {
            format!(
                "{target} cannot be the target of savepoints: below {first}/ the system itself creates and deletes; choose another \
                 directory, such as `savepoints`"
            )
        })
    }

    pub fn name(&self) -> &ObjectName {
        &self.0
    }

    /// What the names of all its objects begin with.
    pub fn prefix(&self) -> String {
        format!("{}/", self.0)
    }

    pub fn metadata(&self) -> ObjectName {
        object(format!("{}/_metadata", self.0))
    }

    pub fn state_part(&self, attempt: AttemptId, subtask: SubtaskId, part: &str, nonce: u64) -> ObjectName {
        object(format!("{}/{subtask}-{part}-{attempt}-{nonce:016x}", self.0))
    }
}

impl std::fmt::Display for SavepointDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Names on a TaskManager's local disk (Flink `LocalRecoveryDirectoryProviderImpl`).
pub struct LocalLayout;

impl LocalLayout {
    /// Where the allocations' records are, and their copies unless other directories are configured.
    pub fn root() -> RelPath {
        RelPath::new("localState").expect("plain")
    }

    /// Where copies lie: `root-0/localState` and so on if so many directories are configured, else `localState`
    /// (`taskmanager.state.local.root-dirs`; Flink appends `localState` to each, too).
    pub fn roots(configured: u32) -> Vec<RelPath> {
        match configured {
            0 => vec![Self::root()],
            several => (0..several).map(|n| Self::mount(n).join("localState")).collect(),
        }
    }

    /// Where a configured root is mounted below the disk: `root-<n>`.
    pub fn mount(number: u32) -> RelPath {
        RelPath::new(format!("root-{number}")).expect("plain")
    }

    /// `aid_<allocation>`.
    pub fn allocation_name(allocation: AllocationId) -> String {
        format!("aid_{allocation}")
    }

    /// `jid_<job>`.
    pub fn job_name(job: JobId) -> String {
        format!("jid_{job}")
    }

    /// `localState/aid_<allocation>`.
    pub fn allocation(allocation: AllocationId) -> RelPath {
        Self::root().join(&Self::allocation_name(allocation))
    }

    /// `<root>/aid_<allocation>/jid_<job>/vtx_<vertex>_sti_<subtask>`.
    pub fn subtask_below(root: &RelPath, allocation: AllocationId, job: JobId, subtask: SubtaskId) -> RelPath {
        root.join(&Self::allocation_name(allocation))
            .join(&Self::job_name(job))
            .join(&format!("vtx_{}_sti_{}", subtask.vertex.0, subtask.index))
    }

    /// The subtask whose directory has this name.
    pub fn parse_subtask(name: &str) -> Option<SubtaskId> {
        let (vertex, index) = name.strip_prefix("vtx_")?.split_once("_sti_")?;
        let subtask = SubtaskId { vertex: VertexId(vertex.parse().ok()?), index: index.parse().ok()? };
        (name == format!("vtx_{}_sti_{}", subtask.vertex.0, subtask.index)).then_some(subtask)
    }

    /// `localState/aid_<allocation>/jid_<job>/vtx_<vertex>_sti_<subtask>`.
    pub fn subtask(allocation: AllocationId, job: JobId, subtask: SubtaskId) -> RelPath {
        Self::subtask_below(&Self::root(), allocation, job, subtask)
    }

    /// `…/chk_<checkpoint>`.
    pub fn checkpoint(allocation: AllocationId, job: JobId, subtask: SubtaskId, checkpoint: CheckpointId) -> RelPath {
        Self::subtask(allocation, job, subtask).join(&format!("chk_{checkpoint}"))
    }
}
