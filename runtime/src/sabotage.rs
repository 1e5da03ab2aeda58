//! Ways to break the runtime on purpose, for the negative tests that prove the invariants can fire. Without the cargo feature
//! `sabotage`, which no release build carries, every question here is answered "no" at compile time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// One deliberate fault of the runtime, each at one place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sabotage {
    /// A subtask snapshots at the first barrier it sees instead of aligning (breaks 1 and 8).
    SkipAlignment,
    /// A subtask acknowledges although a part was not written to primary (breaks 2).
    AckWithoutUpload,
    /// Restoring drops the state of one key group (breaks 3).
    RestoreDropsKeyGroup,
    /// Restoring trusts a local part without verifying length and checksum (breaks 3).
    TrustLocalPart,
    /// Recovery goes to the oldest retained checkpoint although the newest is whole (breaks 4).
    RestoreOldest,
    /// Output is not suppressed during a replay behind a commit (breaks 5 and 1).
    ReplayUnmuted,
    /// The replay behind a commit ends one epoch before the newest commit (breaks 5).
    ReplayTooShort,
    /// A replay takes the first two recorded runs of each epoch in the other order (breaks 5).
    ReplayOutOfOrder,
    /// What the sinks replayed is not compared with what they had committed; the next commit does not wait for it (breaks 5).
    ReplayUnverified,
    /// A completed checkpoint's files are deleted while it is retained (breaks 6).
    DeleteRetained,
    /// A restart hands out checkpoint ids that were used before (breaks 7).
    ReuseCheckpointIds,
    /// Slots are assigned without regard to previous allocations (breaks 10).
    ForgetAllocations,
    /// A consumer grants ever more credit (breaks 11).
    UnlimitedCredit,
    /// A new leader takes the epoch of the one before, and so fences nobody (breaks 12).
    ReuseLeaderEpoch,
    /// The sink's manifest is created before the checkpoint is durable (breaks 1).
    CommitEarly,
    /// The job does not restart after a failure (breaks 13).
    NeverRestart,
}

impl Sabotage {
    pub const ALL: &'static [Sabotage] = &[
        Sabotage::SkipAlignment,
        Sabotage::AckWithoutUpload,
        Sabotage::RestoreDropsKeyGroup,
        Sabotage::TrustLocalPart,
        Sabotage::RestoreOldest,
        Sabotage::ReplayUnmuted,
        Sabotage::ReplayTooShort,
        Sabotage::ReplayOutOfOrder,
        Sabotage::ReplayUnverified,
        Sabotage::DeleteRetained,
        Sabotage::ReuseCheckpointIds,
        Sabotage::ForgetAllocations,
        Sabotage::UnlimitedCredit,
        Sabotage::ReuseLeaderEpoch,
        Sabotage::CommitEarly,
        Sabotage::NeverRestart,
    ];
}

/// Which faults are active. Part of the settings, so that a plan can carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SabotageSet(pub BTreeSet<Sabotage>);

impl SabotageSet {
    #[inline]
    pub fn is(&self, what: Sabotage) -> bool {
        cfg!(feature = "sabotage") && self.0.contains(&what)
    }
}
