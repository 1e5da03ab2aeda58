//! How stored bytes become facts. The facts are types of this module, so that the invariants do not move when the
//! runtime's do; the framing is the runtime's own.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::{
    checkpoint::types::{LedgerEpoch, PrecommittedObject, SubtaskKey, SubtaskSnapshot},
    ids::{AttemptId, CheckpointId, Execution, LeaderEpoch, OperatorUid, SharedSlot},
};
use serde::{Deserialize, Serialize};

/// One durable decision of the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HeadRecord {
    Claimed {
        leader: LeaderEpoch,
    },
    IdBlock {
        from: CheckpointId,
        to: CheckpointId,
    },
    Completed(Box<Completion>),
    Restored {
        attempt: AttemptId,
        checkpoint: Option<CheckpointId>,
        condemned: Vec<CheckpointId>,
    },
    Finished,
    Failed {
        reason: String,
    },
    SavepointBegun {
        directory: String,
    },
    /// Complete, but behind a later checkpoint: no restore point of its job.
    SavepointOvertaken {
        checkpoint: CheckpointId,
        directory: String,
    },
    /// The job begins with a savepoint of another one.
    Imported {
        checkpoint: CheckpointId,
        metadata: String,
    },
    Stopped,
}

/// A completed checkpoint as the head log has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub leader: LeaderEpoch,
    pub checkpoint: CheckpointId,
    pub metadata: String,
    pub ledger: LedgerEpoch,
    pub sinks: BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
    pub exhausted: bool,
    pub retained: Vec<CheckpointId>,
    /// Of a savepoint: where it lies.
    pub savepoint: Option<String>,
}

/// What a checkpoint's metadata says about each subtask.
pub type Snapshots = BTreeMap<SubtaskKey, SubtaskSnapshot>;

/// One entry of state, still encoded by the job's own types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    pub operator: OperatorUid,
    pub state: String,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// What a TaskManager recorded of one of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    pub slot: u32,
    /// What it holds, and since which attempt.
    pub shared: SharedSlot,
    pub since: AttemptId,
}

/// Takes stored bytes apart. Hostile bytes give an error that says what was wrong.
pub trait Formats {
    fn head(&self, bytes: &[u8]) -> Result<HeadRecord, String>;
    fn metadata(&self, bytes: &[u8]) -> Result<Snapshots, String>;
    fn slot(&self, bytes: &[u8]) -> Result<SlotRecord, String>;
    /// Whether this file of a local copy's directory is the one that makes the copy complete.
    fn is_local_manifest(&self, file: &str) -> bool;
    /// The entries of one part of `operator`'s state. Those of state without keys have as key, by postcard, the index of the
    /// subtask, the parallelism, and the position.
    fn state(&self, operator: &OperatorUid, bytes: &[u8]) -> Result<Vec<StateEntry>, String>;
    /// Reads the entries of a native checkpoint, from its files. None: there are none in this format.
    fn native_state(&self) -> Option<ReadNative> {
        None
    }
}

/// From the operator and the files of a native checkpoint, by their names, to its entries. Native code: it is not run on the
/// simulation's thread.
pub type ReadNative = fn(&OperatorUid, &[(String, Bytes)]) -> Result<Vec<StateEntry>, String>;

/// A sink's manifest, by this module's own reading of `{"kind":"commit"|"void","checkpoint":n,"objects":[…]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub commit: bool,
    pub checkpoint: CheckpointId,
    pub objects: Vec<ManifestObject>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestObject {
    pub name: String,
    pub length: u64,
    pub records: u64,
}

impl Manifest {
    pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
        let number = |v: &serde_json::Value, field: &str| {
            v.get(field).and_then(serde_json::Value::as_u64).ok_or_else(|| format!("no number {field:?}"))
        };
        let text = |v: &serde_json::Value, field: &str| {
            let found = v.get(field).and_then(serde_json::Value::as_str);
            found.map(str::to_string).ok_or_else(|| format!("no text {field:?}"))
        };
        let commit = match text(&value, "kind")?.as_str() {
            "commit" => true,
            "void" => false,
            other => return Err(format!("unknown kind {other:?}")),
        };
        let mut objects = Vec::new();
        for object in value.get("objects").and_then(serde_json::Value::as_array).map_or(&[][..], Vec::as_slice) {
            objects.push(ManifestObject {
                name: text(object, "name")?,
                length: number(object, "length")?,
                records: number(object, "records")?,
            });
        }
        Ok(Manifest { commit, checkpoint: CheckpointId(number(&value, "checkpoint")?), objects })
    }
}

/// The attempt in an object's name: `…-<leader>.<execution>-<nonce>`.
pub fn attempt_in_name(object: &str) -> Option<AttemptId> {
    let mut from_end = object.rsplit('/').next()?.rsplit('-');
    let _nonce = from_end.next()?;
    let (leader, execution) = from_end.next()?.split_once('.')?;
    Some(AttemptId { leader: LeaderEpoch(leader.parse().ok()?), execution: Execution(execution.parse().ok()?) })
}

/// The checkpoint in an object's name below `checkpoints/<job>/`: `chk-<n>/…` or `shared/<n>-…`.
pub fn checkpoint_in_name(below_prefix: &str) -> Option<CheckpointId> {
    let (directory, name) = below_prefix.split_once('/')?;
    let id = match directory {
        "shared" => name.split_once('-')?.0,
        own => own.strip_prefix("chk-")?,
    };
    id.parse().ok().map(CheckpointId)
}

/// A file of a local copy, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFileName<'a> {
    pub directory: &'a str,
    pub allocation: &'a str,
    pub subtask: SubtaskKey,
    pub checkpoint: CheckpointId,
    pub file: &'a str,
}

/// Reads `localState/aid_<allocation>/jid_<job>/vtx_<vertex>_sti_<index>/chk_<n>/<file>`, perhaps below `root-<n>/`; `None` for any other path.
pub fn local_file<'a>(path: &'a str, job: &str) -> Option<LocalFileName<'a>> {
    let (directory, file) = path.rsplit_once('/')?;
    let mut components = directory.split('/');
    let root = match components.next()? {
        "localState" => "localState",
        // One of several directories.
        mount => {
            mount.strip_prefix("root-")?.parse::<u32>().ok()?;
            components.next()?
        }
    };
    if root != "localState" {
        return None;
    }
    let allocation = components.next()?.strip_prefix("aid_")?;
    if components.next()?.strip_prefix("jid_")? != job {
        return None;
    }
    let (vertex, index) = components.next()?.strip_prefix("vtx_")?.split_once("_sti_")?;
    let checkpoint = components.next()?.strip_prefix("chk_")?;
    if components.next().is_some() {
        return None;
    }
    Some(LocalFileName {
        directory,
        allocation,
        subtask: (vertex.parse().ok()?, index.parse().ok()?),
        checkpoint: CheckpointId(checkpoint.parse().ok()?),
        file,
    })
}

#[cfg(test)]
mod tests {
    use runtime::{
        ids::{AllocationId, JobId, SubtaskId, VertexId},
        layout::{Layout, LocalLayout},
    };

    use super::*;

    /// Names made by the layout are read back by the invariants' own parsers.
    #[test]
    fn names_of_the_layout_are_understood() {
        let layout = Layout { job: JobId(7) };
        let attempt = AttemptId { leader: LeaderEpoch(3), execution: Execution(12) };
        let subtask = SubtaskId { vertex: VertexId(1), index: 4 };
        let part = layout.state_part(CheckpointId(9), attempt, subtask, "count-0", 0xabc);
        assert_eq!(attempt_in_name(part.as_str()), Some(attempt));
        let below = part.as_str().strip_prefix(&layout.checkpoints_prefix()).expect("below the prefix");
        assert_eq!(checkpoint_in_name(below), Some(CheckpointId(9)));
        let shared = layout.shared_part(CheckpointId(9), attempt, subtask, "count-0", 0xabc);
        let below = shared.as_str().strip_prefix(&layout.checkpoints_prefix()).expect("below the prefix");
        assert_eq!(checkpoint_in_name(below), Some(CheckpointId(9)));
        assert_eq!(attempt_in_name(shared.as_str()), Some(attempt));
        let metadata = layout.metadata(CheckpointId(9));
        let below = metadata.as_str().strip_prefix(&layout.checkpoints_prefix()).expect("below the prefix");
        assert_eq!((checkpoint_in_name(below), attempt_in_name(below)), (Some(CheckpointId(9)), None));
        assert_eq!(attempt_in_name(layout.sink_data("out", CheckpointId(9), attempt, 0, 1).as_str()), Some(attempt));
        let local = LocalLayout::checkpoint(AllocationId(5), JobId(7), subtask, CheckpointId(9)).join("part-0");
        let name = local_file(local.as_str(), &JobId(7).to_string()).expect("a local file");
        assert_eq!((name.subtask, name.checkpoint, name.file), ((1, 4), CheckpointId(9), "part-0"));
        assert!(local_file(local.as_str(), &JobId(8).to_string()).is_none(), "another job's");
        for root in LocalLayout::roots(0).into_iter().chain(LocalLayout::roots(3)) {
            let below =
                LocalLayout::subtask_below(&root, AllocationId(5), JobId(7), subtask).join("chk_9").join("part-0");
            let name = local_file(below.as_str(), &JobId(7).to_string()).expect("a local file");
            assert_eq!((name.subtask, name.checkpoint, name.file), ((1, 4), CheckpointId(9), "part-0"));
        }
    }

    /// A manifest is read field by field; anything else is refused with a reason.
    #[test]
    fn manifests_are_read_with_care() {
        let good = br#"{"kind":"commit","checkpoint":4,"objects":[{"name":"a","length":3,"records":1}]}"#;
        let manifest = Manifest::parse(good).expect("a manifest");
        assert!(manifest.commit && manifest.objects.len() == 1);
        assert!(!Manifest::parse(br#"{"kind":"void","checkpoint":4,"objects":[]}"#).expect("void").commit);
        assert!(Manifest::parse(br#"{"kind":"perhaps","checkpoint":4}"#).is_err());
        assert!(Manifest::parse(b"").is_err());
    }
}
