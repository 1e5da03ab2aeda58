//! Where in its protocol a job is, told from the last coordinator and job events. For coverage only: no invariant reads it.

use std::fmt;

use runtime::journal::Event;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No job runs yet.
    #[default]
    Start,
    /// Records flow, no checkpoint is on its way.
    Flow,
    /// The coordinator has triggered, no barrier has moved.
    Trigger,
    /// Barriers travel and are aligned.
    Align,
    Snapshot,
    Ack,
    /// All acknowledged; metadata and head entry are being written.
    Complete,
    /// Durable; sinks commit, subtasks are told.
    Commit,
    /// A failure was noticed, tasks are being cancelled and slots found.
    Failover,
    Restore,
    Replay,
    /// No leader.
    Takeover,
    /// The job has ended.
    End,
}

impl Phase {
    pub const ALL: &'static [Phase] = &[
        Phase::Start,
        Phase::Flow,
        Phase::Trigger,
        Phase::Align,
        Phase::Snapshot,
        Phase::Ack,
        Phase::Complete,
        Phase::Commit,
        Phase::Failover,
        Phase::Restore,
        Phase::Replay,
        Phase::Takeover,
        Phase::End,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Start => "start",
            Phase::Flow => "flow",
            Phase::Trigger => "trigger",
            Phase::Align => "align",
            Phase::Snapshot => "snapshot",
            Phase::Ack => "ack",
            Phase::Complete => "complete",
            Phase::Commit => "commit",
            Phase::Failover => "failover",
            Phase::Restore => "restore",
            Phase::Replay => "replay",
            Phase::Takeover => "takeover",
            Phase::End => "end",
        }
    }

    pub fn names() -> Vec<&'static str> {
        Phase::ALL.iter().map(|phase| phase.name()).collect()
    }

    /// The phase after `event`.
    #[must_use]
    pub fn after(self, event: &Event) -> Phase {
        // While the job restarts, stragglers of the old attempt's checkpoints say nothing about where the job is.
        let running = !matches!(
            self,
            Phase::Start | Phase::Failover | Phase::Restore | Phase::Replay | Phase::Takeover | Phase::End
        );
        match event {
            Event::JobStateChanged { to, .. } => match to.to_ascii_uppercase().as_str() {
                "RUNNING" => Phase::Flow,
                "FINISHED" | "FAILED" | "CANCELED" => Phase::End,
                "RESTARTING" | "FAILING" | "CANCELLING" => Phase::Failover,
                _ => self,
            },
            Event::LeaderSteppedDown { .. } | Event::JobManagerLost { .. } => Phase::Takeover,
            Event::TaskManagerLost { .. } => Phase::Failover,
            Event::LeaderElected { .. } if self == Phase::Takeover => Phase::Failover,
            Event::RestoreChosen { checkpoint: Some(_), .. } | Event::RestoreStarted { .. } => Phase::Restore,
            Event::ReplayMarkerEmitted { .. } | Event::ReplayEpochVerified { .. } => Phase::Replay,
            Event::ReplayFinished { .. } => Phase::Flow,
            Event::CheckpointTriggered { .. } => Phase::Trigger,
            Event::BarrierEmitted { .. }
            | Event::BarrierSent { .. }
            | Event::BarrierReceived { .. }
            | Event::AlignmentStarted { .. }
                if running =>
            {
                Phase::Align
            }
            Event::SnapshotSyncDone { .. }
            | Event::SnapshotAsyncStarted { .. }
            | Event::PartPieceUploaded { .. }
            | Event::PartUploaded { .. }
                if running =>
            {
                Phase::Snapshot
            }
            Event::CheckpointAcked { .. } if running => Phase::Ack,
            Event::MetadataWritten { .. } if running => Phase::Complete,
            Event::CheckpointCompleted { .. } if running => Phase::Commit,
            Event::CheckpointNotified { .. } | Event::CheckpointAborted { .. } | Event::CheckpointExpired { .. }
                if running =>
            {
                Phase::Flow
            }
            _ => self,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
