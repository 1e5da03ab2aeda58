//! Points: the places where the protocol branches, declared in one table, so that what a test never reached is known.
//!
//! A point is passed through the journal of its process, or through a [`Points`] by a pure state machine, whose caller hands it
//! on. It changes nothing of a run and is no event: no trace, no trigger and no invariant depends on one being passed. Only
//! an `always` that does not hold becomes an event, [`Event::AssertionBroken`](crate::journal::Event::AssertionBroken).
//! Without a listener passing one is a comparison; none lies on the way of a record.

use serde::{Deserialize, Serialize};

/// What is claimed of a point. Each kind also claims that the point is passed at all, once enough runs were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    /// Its condition holds each time it is passed.
    Always,
    /// Its condition holds at least once in enough runs. Counted when it holds.
    Sometimes,
    /// It is passed at least once in enough runs.
    Reachable,
}

impl PointKind {
    pub fn name(self) -> &'static str {
        match self {
            PointKind::Always => "always",
            PointKind::Sometimes => "sometimes",
            PointKind::Reachable => "reachable",
        }
    }
}

macro_rules! points {
    ($($(#[$doc:meta])* $kind:ident $point:ident = $name:literal : $about:literal,)*) => {
        /// A declared point.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point { $($(#[$doc])* $point),* }

        impl Point {
            pub const ALL: &'static [Point] = &[$(Point::$point),*];
            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name),* }
            }
            pub fn kind(self) -> PointKind {
                match self { $(Point::$point => PointKind::$kind),* }
            }
            /// What it means that it was passed, in a few words.
            pub fn about(self) -> &'static str {
                match self { $(Point::$point => $about),* }
            }
        }
    };
}

points! {
    // ---- the coordinator
    Sometimes LateAckAfterAbort = "late-ack-after-abort": "an acknowledgement of a checkpoint that was aborted",
    Reachable LateAckOfStranger = "late-ack-of-stranger": "an acknowledgement of a checkpoint that this leader never triggered",
    Sometimes DeclinedWithAcks = "declined-with-acks": "a decline after others had acknowledged",
    Sometimes DeclinedDuringAlignment = "declined-during-alignment": "a decline while others had not acknowledged yet",
    Sometimes ExpiredWithAcks = "expired-with-acks": "a checkpoint expired while acknowledgements were arriving",
    Sometimes ExpiredWithoutAck = "expired-without-ack": "a checkpoint expired before any acknowledgement",
    Reachable PendingSubsumed = "pending-subsumed": "a pending checkpoint overtaken by the completion of a later one",
    Reachable StoppedWhileWritingMetadata = "stopped-while-writing-metadata": "a failover aborted a checkpoint that had all acknowledgements",
    Reachable StoppedWhileAppending = "stopped-while-appending": "a failover while the head entry of a checkpoint was on its way",
    Reachable StoppedWhileCommitting = "stopped-while-committing": "a failover while sinks were being committed",
    Reachable CompletedWhileStopped = "completed-while-stopped": "a checkpoint completed after its execution had been stopped",
    Reachable MetadataOfAborted = "metadata-of-aborted": "metadata arrived for a checkpoint that was aborted meanwhile",
    Reachable NoRoomForTrigger = "no-room-for-trigger": "a checkpoint was due while as many as allowed were under way",
    Reachable LastCheckpointRetried = "last-checkpoint-retried": "the checkpoint after the end of the input was aborted and is tried again",
    Sometimes ExhaustedWhilePending = "exhausted-while-pending": "the sources ran dry before a checkpoint under way was complete",
    Sometimes LostCheckpointDropped = "lost-checkpoint-dropped": "a completion dropped a checkpoint that was known to be lost",
    Sometimes SavepointBesideCheckpoint = "savepoint-beside-checkpoint": "a savepoint was triggered while a checkpoint was under way",
    Sometimes SavepointAtTheEnd = "savepoint-at-the-end": "a savepoint was triggered after all sources had run dry",
    Reachable SavepointRefused = "savepoint-refused": "a savepoint was asked for when none could be taken",
    Reachable SavepointOvertaken = "savepoint-overtaken": "a savepoint completed behind a later checkpoint",
    Reachable NewLeaderFindsStop = "new-leader-finds-stop": "a new leader found that the job was to end with its newest savepoint",
    Reachable StopRevoked = "stop-revoked": "the savepoint with which the job was to end failed, and the job goes on",
    Reachable PartInline = "part-inline": "a part of a snapshot travelled with the acknowledgement",
    Reachable PartReused = "part-reused": "a snapshot referred to a part of an earlier one",
    Reachable BaseIsGone = "base-is-gone": "an acknowledgement referred to what no retained checkpoint needs any more",
    Sometimes SharedOutlivesOwner = "shared-outlives-owner": "a dropped checkpoint left objects that others still refer to",
    Always CompletesUpwards = "completes-upwards": "a completed checkpoint is newer than every one completed before",
    Always AcksOfOneAttempt = "acks-of-one-attempt": "the acknowledgements of a checkpoint are all of one execution",
    Always IdsFromGrantedBlock = "ids-from-granted-block": "a checkpoint id handed out lies in the block that was granted last",
    Always RetainsAsConfigured = "retains-as-configured": "no more checkpoints are retained than configured",
    // ---- barriers and channels
    Reachable BarrierOvertakes = "barrier-overtakes": "a barrier ended the alignment of an older checkpoint",
    Reachable BarrierOfAborted = "barrier-of-aborted": "a barrier came for a checkpoint that was given up here",
    Reachable AbortBeforeBarrier = "abort-before-barrier": "a checkpoint was given up before its first barrier came",
    Reachable AbortDuringAlignment = "abort-during-alignment": "a checkpoint was given up during its alignment",
    Sometimes AlignedWithBufferedData = "aligned-with-buffered-data": "records waited behind a barrier when the alignment ended",
    Reachable CreditExhausted = "credit-exhausted": "a channel had data to send and no credit",
    Reachable SinkUploadsFull = "sink-uploads-full": "a subtask stopped consuming because too much output was being uploaded",
    // ---- primary storage
    Reachable CreateRepeatedAsOurs = "create-repeated-as-ours": "a create in doubt turned out to have taken effect",
    Sometimes CreateTaken = "create-taken": "a create found its name taken by other bytes",
    Reachable CreateStillInDoubt = "create-still-in-doubt": "a create's name exists and could not be read to see whose it is",
    Reachable CreateGivenUpInDoubt = "create-given-up-in-doubt": "a create was given up without its outcome being known",
    Reachable UploadGivenUp = "upload-given-up": "an upload in pieces was given up in the middle",
    Sometimes MetadataRetried = "metadata-retried": "writing a checkpoint's metadata was tried again",
    Sometimes ManifestRetried = "manifest-retried": "writing a sink's manifest was tried again",
    Sometimes HeadEntryRetried = "head-entry-retried": "writing a head entry was tried again",
    // ---- leadership and commit
    Reachable HeadFenced = "head-fenced": "an append found the entry of another leader at its place",
    Reachable SteppedDownInCompletion = "stepped-down-in-completion": "a leader stepped down while a checkpoint was being made durable",
    Sometimes NewLeaderCommits = "new-leader-commits": "a new leader found a completed checkpoint whose sinks it made sure of",
    Reachable NewLeaderFindsAllInput = "new-leader-finds-all-input": "a new leader found that the last checkpoint was complete",
    Always VoidMeetsNoCommit = "void-meets-no-commit": "a checkpoint that never completed is not committed for any sink",
    Always CommitMeetsNoVoid = "commit-meets-no-void": "a completed checkpoint is not voided for any sink",
    // ---- failover and slots
    Sometimes RestartDuringRestart = "restart-during-restart": "an execution failed before all of its subtasks ran",
    Reachable DeployedToTheDead = "deployed-to-the-dead": "an execution failed because a TaskManager was gone before it was deployed to",
    Sometimes ReplayInterrupted = "replay-interrupted": "an execution failed while it was replaying",
    Reachable FailoverWaitsForAppend = "failover-waits-for-append": "all tasks had stopped and the outcome of an append was awaited",
    Reachable RegisteredAgain = "registered-again": "a TaskManager registered while its former connection still counted",
    Reachable ReportOfOldAttempt = "report-of-old-attempt": "a report of an older execution was ignored",
    Reachable LossHeardLate = "loss-heard-late": "a subtask told of lost state after the failover had begun",
    Sometimes PreviousSlotsAwaited = "previous-slots-awaited": "there were slots enough, and the previous ones were waited for",
    Sometimes AllPreviousSlots = "all-previous-slots": "a restart found every previous allocation",
    Sometimes SomePreviousSlots = "some-previous-slots": "a restart found some previous allocations and made others anew",
    Sometimes NoPreviousSlot = "no-previous-slot": "a restart found no previous allocation",
    Sometimes LocalFileLinked = "local-file-linked": "a file of a local copy became one of a restored database by a link",
    Sometimes PlacedByState = "placed-by-state": "a slot was given to somebody else than before because local copies of its state lie there",
    Sometimes PreviousSlotLeftAlone = "previous-slot-left-alone": "a slot of a previous allocation whose group runs elsewhere was released",
    Always DeploysOnConfirmed = "deploys-on-confirmed": "every TaskManager deployed to has confirmed that older attempts stopped",
    Reachable OrderOfOldLeader = "order-of-old-leader": "a TaskManager ignored an order of an older leader",
    Reachable DeploymentCancelled = "deployment-cancelled": "a deployment came for an attempt that was cancelled already",
    Reachable ChannelBeforeSubtask = "channel-before-subtask": "a data channel came before the subtask it belongs to",
    Sometimes SlotsRemembered = "slots-remembered": "a TaskManager that came back offered slots that its disk remembered",
    // ---- the restore
    Reachable RestoreBeforeCheckpoint = "restore-before-checkpoint": "a job restarted before its first checkpoint had completed",
    Sometimes FallbackByOne = "fallback-by-one": "one retained checkpoint was passed over for an older one",
    Sometimes FallbackByMore = "fallback-by-more": "several retained checkpoints were passed over for an older one",
    Sometimes FallbackToBeginning = "fallback-to-beginning": "the job was replayed from its very beginning",
    Sometimes ReplayOfOneEpoch = "replay-of-one-epoch": "one epoch was replayed",
    Sometimes ReplayOfSeveralEpochs = "replay-of-several-epochs": "several epochs were replayed",
    Reachable MetadataLost = "metadata-lost": "a checkpoint was passed over because its metadata was lost",
    Reachable RestorePostponed = "restore-postponed": "a restore could not be prepared because the store was unavailable",
    Always RestoresRetained = "restores-retained": "the checkpoint to restore is retained and not known to be lost",
    Always ReplaysToNewest = "replays-to-newest": "a replay ends at the newest completed checkpoint",
    // ---- local copies
    Sometimes LocalExactly = "local-exactly": "a subtask was restored from its local copy alone",
    Sometimes LocalPartly = "local-partly": "a subtask was restored partly from its local copy",
    Sometimes LocalNot = "local-not": "a subtask with local recovery was restored from primary alone",
    Reachable LocalOfOthers = "local-of-others": "a subtask restored from the local copy of another subtask, or of another slot",
    Reachable LocalChecksumWrong = "local-checksum-wrong": "a local part was rejected by its checksum",
    Reachable LocalLengthWrong = "local-length-wrong": "a local part was rejected by its length",
    Reachable LocalPartMissing = "local-part-missing": "a file that the local manifest lists could not be read",
    Reachable LocalManifestWrong = "local-manifest-wrong": "the manifest of a local copy was damaged",
    Reachable LocalTooSlow = "local-too-slow": "a local copy was given up because it lagged behind primary",
    Reachable LocalDroppedWhileWritten = "local-dropped-while-written": "a local copy was aborted or subsumed while it was written",
    Sometimes LocalStoredPartly = "local-stored-partly": "a local copy was finished without the parts that could not be stored",
}

/// Points passed by a pure state machine since they were last taken. Each is counted once, however often it was passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Points {
    passed: u128,
    broken: Vec<(Point, String)>,
}

const _: () = assert!(Point::ALL.len() <= 128, "a set of points is 128 bits");

impl Points {
    pub fn reached(&mut self, point: Point) {
        self.passed |= 1 << point as u32;
    }

    pub fn sometimes(&mut self, point: Point, holds: bool) {
        if holds {
            self.reached(point);
        }
    }

    /// `detail` is asked for only if it does not hold.
    pub fn always(&mut self, point: Point, holds: bool, detail: impl FnOnce() -> String) {
        self.reached(point);
        if !holds {
            self.broken.push((point, detail()));
        }
    }

    /// What was passed, in the order of the table.
    pub fn passed(&self) -> impl Iterator<Item = Point> + '_ {
        Point::ALL.iter().copied().filter(|point| self.passed & (1 << *point as u32) != 0)
    }

    /// Conditions that had to hold always and did not, with what was wrong.
    pub fn broken(&self) -> &[(Point, String)] {
        &self.broken
    }

    /// Hands out everything and begins anew.
    #[must_use]
    pub fn take(&mut self) -> Points {
        std::mem::take(self)
    }

    pub fn is_empty(&self) -> bool {
        self.passed == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_can_be_typed() {
        let names: BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-')));
    }

    #[test]
    fn a_set_keeps_what_was_passed_and_what_did_not_hold() {
        let mut points = Points::default();
        points.sometimes(Point::FallbackByOne, false);
        assert!(points.is_empty());
        points.sometimes(Point::FallbackByOne, true);
        points.reached(Point::LocalStoredPartly);
        points.always(Point::RestoresRetained, true, || unreachable!("it holds"));
        points.always(Point::ReplaysToNewest, false, || "ends at 3".to_string());
        let taken = points.take();
        assert_eq!(
            taken.passed().collect::<Vec<_>>(),
            [Point::FallbackByOne, Point::RestoresRetained, Point::ReplaysToNewest, Point::LocalStoredPartly]
        );
        assert_eq!(taken.broken(), [(Point::ReplaysToNewest, "ends at 3".to_string())]);
        assert!(points.is_empty());
    }
}
