//! Ways to break the runtime on purpose: for the negative tests, which prove that the invariants can fire, and for the
//! scoreboard of `./weir power`, which measures how soon they do. Many are bugs that Apache Flink really had. Without the cargo
//! feature `sabotage`, which no release build carries, every question here is answered "no" at compile time.
//!
//! Each is one switch at one place of the code (one needs two: what a subtask does wrong the coordinator would refuse). Where the wrong code made a difference it leaves a marker in the journal
//! ([`Event::PlantedBugRan`]); so a bug that was never reached can be told from one that was reached and not seen.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::journal::{Event, Journal};

/// What is known of a deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    pub sabotage: Sabotage,
    /// Number in the project's list of historical bugs; empty for a fault of our own making.
    pub bug: &'static str,
    /// The issue of Apache Flink, if there was one.
    pub jira: &'static str,
    /// What the code does with it.
    pub does: &'static str,
    /// The invariants that are there to see it. With more than one, which comes first is up to the plan.
    pub expected: &'static [&'static str],
    /// The harness's profile in which it can show; `default` unless it needs what that one does not have.
    pub profile: &'static str,
}

macro_rules! profile {
    () => {
        "default"
    };
    ($profile:literal) => {
        $profile
    };
}

macro_rules! defects {
    ($($name:ident { $bug:literal, $jira:literal, $does:literal, [$($expected:literal),+] $(in $profile:literal)? })*) => {
        /// One deliberate fault of the runtime, each at one place in the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Sabotage { $(#[doc = $does] $name),* }

        impl Sabotage {
            pub const ALL: &'static [Sabotage] = &[$(Sabotage::$name),*];

            pub fn defect(self) -> &'static Defect {
                match self { $(Sabotage::$name => &Defect {
                    sabotage: Sabotage::$name,
                    bug: $bug,
                    jira: $jira,
                    does: $does,
                    expected: &[$($expected),+],
                    profile: profile!($($profile)?),
                }),* }
            }
        }
    };
}

defects! {
    // ---- of our own making, one at least for each invariant
    SkipAlignment { "", "", "A subtask snapshots at the first barrier it sees instead of aligning.", ["barrier-side"] }
    AckWithoutUpload { "", "", "A subtask acknowledges although a part was not written to primary.", ["primary-superset"] }
    RestoreDropsKeyGroup {
        "", "", "Restoring drops the state of one key group.", ["restored-state", "fallback-behind-commit"]
    }
    TrustLocalPart { "", "", "Restoring trusts a local part without verifying length and checksum.", ["restored-state"] }
    RestoreOldest {
        "", "", "Recovery goes to the oldest retained checkpoint although the newest is whole.", ["correct-fallback"]
    }
    ReplayUnmuted {
        "", "", "Output is not suppressed during a replay behind a commit.", ["exactly-once", "fallback-behind-commit"]
    }
    ReplayTooShort {
        "", "", "The replay behind a commit ends one epoch before the newest commit.", ["fallback-behind-commit"]
    }
    ReplayOutOfOrder {
        "", "", "A replay takes the first two recorded runs of each epoch in the other order.", ["fallback-behind-commit"]
    }
    ReplayUnverified {
        "", "", "What the sinks replayed is not compared with what they had committed; the next commit does not wait for it.",
        ["fallback-behind-commit"]
    }
    ReplayForgetsTimes {
        "", "", "A replay does not move the times that the epochs it repeats had moved.", ["fallback-behind-commit"]
        in "fallback"
    }
    EndWithoutWatermark {
        "", "", "The end of its splits is not the end of event time for a source.", ["exactly-once"] in "fallback"
    }
    DeleteRetained { "", "", "A completed checkpoint's files are deleted while it is retained.", ["file-lifetime"] }
    ReuseCheckpointIds { "", "", "A restart hands out checkpoint ids that were used before.", ["checkpoint-ids"] }
    ForgetAllocations { "", "", "Slots are assigned without regard to previous allocations.", ["previous-slot"] }
    UnlimitedCredit { "", "", "A consumer grants ever more credit.", ["bounded-in-flight"] }
    ReuseLeaderEpoch { "", "", "A new leader takes the epoch of the one before, and so fences nobody.", ["one-leader"] }
    CommitEarly { "", "", "The sink's manifest is created before the checkpoint is durable.", ["exactly-once"] }
    NeverRestart { "", "", "The job does not restart after a failure.", ["liveness"] }
    RetainsOneMore { "", "", "One completed checkpoint more than configured is retained.", ["retains-as-configured"] }

    // ---- acknowledgements, finalisation, durability
    LateAckKeepsFiles {
        "B01", "FLINK-5063", "What a late acknowledgement names is forgotten instead of deleted.", ["file-lifetime"]
    }
    CloseDeletesAcked {
        "B04", "FLINK-5667", "A task that closes deletes its newest snapshot, acknowledged or not.",
        ["file-lifetime"]
    }
    AmbiguousIsFailure {
        "B09", "FLINK-22494", "A head entry whose write gave no clear answer counts as not written; its checkpoint is discarded.",
        ["file-lifetime"]
    }
    OwnEntryIsForeign {
        "B10", "FLINK-28265", "The second attempt to write a head entry takes the first one's for somebody else's and cleans up.",
        ["file-lifetime"]
    }

    // ---- files that checkpoints share
    SubsumesBeforeRegistering {
        "B06", "FLINK-6633", "A completed checkpoint is registered after those that it subsumes are dropped.",
        ["file-lifetime"] in "incremental"
    }
    SubsumptionIgnoresReferences {
        "B21", "FLINK-6537", "The files of a subsumed checkpoint are deleted whether or not others refer to them.",
        ["file-lifetime"] in "incremental"
    }

    BasedOnUnconfirmed {
        "B26", "FLINK-24611",
        "A subtask bases its snapshots on the last one it has written, confirmed or not; the coordinator takes that on trust.",
        ["reuse"] in "incremental"
    }

    // ---- savepoints
    SavepointIsDisposable {
        "B44", "FLINK-7362", "A completed savepoint is registered like a checkpoint, and deleted like one when it is subsumed.",
        ["savepoints", "retains-as-configured"] in "rescale"
    }
    SavepointIsNoRestorePoint {
        "B42", "FLINK-6328", "A savepoint commits its output and is not recorded as what the job goes back to.",
        ["exactly-once", "one-leader"] in "rescale"
    }

    // ---- which checkpoint to restore
    IdsSortedAsText {
        "B36", "FLINK-6284", "Retained checkpoints are ordered by their ids as text: 9 comes after 10.", ["correct-fallback"]
    }
    LostMetadataBlocks {
        "B38", "FLINK-5940", "Lost metadata of the newest checkpoint is tried again for ever.", ["liveness"]
    }
    OutageDeletesCheckpoint {
        "B39", "FLINK-7783", "A checkpoint whose metadata cannot be read at the first attempt is deleted.",
        ["file-lifetime", "correct-fallback"]
    }
    FallbackWithoutReplay {
        "B40", "FLINK-22502", "If the newest checkpoint is lost, the job simply goes on from an older one.",
        ["fallback-behind-commit"]
    }

    // ---- when checkpoints are taken
    TriggerAfterStop {
        "B55", "FLINK-13969", "The periodic trigger is not stopped with the execution.", ["checkpoint-ids"]
    }

    // ---- barriers
    EmitDuringSnapshot {
        "B70", "FLINK-2098", "A source emits records between the snapshot of its offsets and the barrier.", ["barrier-side"]
    }
    EndedSourceIgnoresTrigger {
        "B74", "FLINK-1775", "A source that has read everything emits no barriers any more.", ["liveness"]
    }

    // ---- local copies and slots
    LocalPartsOverwrite {
        "B87", "FLINK-12296", "Each part of a local copy clears the directory that it shares with the others.", ["local-copy"]
    }
    NewestLocalCopy {
        "B92", "", "Restoring takes the newest local copy there is, whichever checkpoint it is of.", ["restored-state"]
    }
    ConfirmDropsCopy {
        "B94", "", "The confirmation of a checkpoint drops its own local copy with the older ones.", ["local-copy"]
    }
    LocalFailureDeclines {
        "B95", "", "A local copy that cannot be written fails the snapshot.", ["local-copy", "liveness"]
    }
    LocalRangeIgnored {
        "B93", "", "After a change of parallelism a local copy is taken for what others wrote, whatever its key groups.",
        ["restored-state", "liveness"] in "rescale"
    }
    PrimaryThoughLocal {
        "", "", "A restore reads from primary what it has found whole in a local copy.", ["needless-read"] in "local-recovery"
    }
    StealSlots {
        "B97", "FLINK-9635", "A task whose slot is gone takes the first slot there is, be it another's.", ["previous-slot"]
    }
    ReoffersForgotten {
        "", "FLINK-19142", "Slots that are offered again go to whoever asks first, whatever they hold.", ["previous-slot"]
        in "processes"
    }

    // ---- sinks
    CommitOnlyOwnEpoch {
        "B130", "", "A manifest lists only the output of its own checkpoint, not that of aborted ones before it.",
        ["barrier-side", "exactly-once"]
    }
    CollidingSinkNames {
        "B132", "FLINK-7978", "The data objects of a sink's subtasks share one name per checkpoint; who finds it taken goes on.",
        ["exactly-once", "barrier-side"]
    }
    CommittedIsFatal {
        "B133", "FLINK-8086", "A manifest that exists already fails the job.", ["liveness"]
    }
    RestoreDeletesNewerOutput {
        "B138", "FLINK-13941", "Restoring deletes all output newer than the restored checkpoint, committed or not.",
        ["file-lifetime"]
    }

    // ---- restarts
    RelocatedWithoutState {
        "B145", "FLINK-10712", "A task that comes to another slot than before starts without its state.",
        ["restored-state", "barrier-side", "exactly-once", "fallback-behind-commit"]
    }

    // ---- changes of parallelism
    PositionsStayBehind {
        "", "", "After a change of parallelism a source subtask knows only the positions that its own index had written.",
        ["exactly-once", "barrier-side", "restored-state"] in "rescale"
    }
    KeepsForeignKeyGroups {
        "", "", "After a change of parallelism a database keeps the key groups that are no longer the subtask's.",
        ["restored-state", "barrier-side", "exactly-once"] in "rescale"
    }
    KeyGroupOffByOne {
        "B108", "", "After a change of parallelism a subtask gives up the last key group of its range, and takes it for empty.",
        ["restored-state", "exactly-once", "barrier-side"] in "rescale"
    }
    BroadcastNotCopied {
        "B110", "FLINK-23475", "A subtask that is new after a change of parallelism gets no broadcast state.",
        ["restored-state"] in "rescale"
    }
    UnionDoubled {
        "B111", "", "Union state is there twice when it is restored.", ["restored-state"] in "fallback"
    }
    TimersNotRestored {
        "B125", "FLINK-21486", "The timers of a snapshot are ignored when it is restored.",
        ["restored-state", "exactly-once", "fallback-behind-commit"] in "fallback"
    }
}

impl Sabotage {
    /// As plans write it: `ids-sorted-as-text`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }

    pub fn named(name: &str) -> Option<Sabotage> {
        Sabotage::ALL.iter().copied().find(|sabotage| sabotage.name() == name)
    }

    /// The marker: the wrong code ran, and it made a difference.
    pub fn marker(self) -> Event {
        Event::PlantedBugRan { bug: self.name() }
    }
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

    /// [`Self::is`], to be asked where a yes makes a difference: then it is journalled.
    #[inline]
    pub fn runs(&self, what: Sabotage, journal: &Journal) -> bool {
        let on = self.is(what);
        if on {
            journal.emit(what.marker());
        }
        on
    }

    /// All of them but one.
    #[must_use]
    pub fn without(&self, what: Sabotage) -> SabotageSet {
        SabotageSet(self.0.iter().copied().filter(|other| *other != what).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_plans() {
        for sabotage in Sabotage::ALL {
            let name = sabotage.name();
            assert_eq!(serde_json::to_string(sabotage).unwrap(), format!("{name:?}"));
            assert_eq!(Sabotage::named(&name), Some(*sabotage));
            assert_eq!(sabotage.defect().sabotage, *sabotage);
        }
    }

    #[test]
    fn what_is_off_leaves_no_marker() {
        let journal = Journal::new("tm-1", 8, None);
        assert!(!SabotageSet::default().runs(Sabotage::NeverRestart, &journal));
        assert!(journal.recent().is_empty());
        let on = SabotageSet([Sabotage::NeverRestart].into());
        assert_eq!(on.runs(Sabotage::NeverRestart, &journal), cfg!(feature = "sabotage"));
        assert_eq!(journal.recent().len(), usize::from(cfg!(feature = "sabotage")));
    }
}
