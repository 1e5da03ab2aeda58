//! Every name of an object in primary storage and of a file on a local disk, in one place. All are relative, so that a
//! root can be moved as a whole. No name is ever used twice: those of state and output carry the leader's epoch and the execution,
//! those of metadata a checkpoint's id.

use crate::{
    ids::{AllocationId, AttemptId, CheckpointId, JobId, SubtaskId},
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

/// Names on a TaskManager's local disk (Flink `LocalRecoveryDirectoryProviderImpl`).
pub struct LocalLayout;

impl LocalLayout {
    pub fn root() -> RelPath {
        RelPath::new("localState").expect("plain")
    }

    /// `localState/aid_<allocation>`.
    pub fn allocation(allocation: AllocationId) -> RelPath {
        Self::root().join(&format!("aid_{allocation}"))
    }

    /// `localState/aid_<allocation>/jid_<job>/vtx_<vertex>_sti_<subtask>`.
    pub fn subtask(allocation: AllocationId, job: JobId, subtask: SubtaskId) -> RelPath {
        Self::allocation(allocation)
            .join(&format!("jid_{job}"))
            .join(&format!("vtx_{}_sti_{}", subtask.vertex.0, subtask.index))
    }

    /// `…/chk_<checkpoint>`.
    pub fn checkpoint(allocation: AllocationId, job: JobId, subtask: SubtaskId, checkpoint: CheckpointId) -> RelPath {
        Self::subtask(allocation, job, subtask).join(&format!("chk_{checkpoint}"))
    }
}
