//! How a job begins with what another one left: a savepoint, or a retained checkpoint, that is named when it is started.
//!
//! Everything is checked before any task is started: that the metadata can be read, that the files it names are there with their
//! sizes, that the job takes over all state. Then one head entry records it, and from there on it is a restore like any other (Flink
//! `CheckpointCoordinator.restoreSavepoint`): until the first checkpoint of its own the job goes back to it. It never changes or
//! deletes what it began with, and no checkpoint of its own refers to that (claim mode NO_CLAIM).
//!
//! The ids of the job's checkpoints, and the epochs of its leaders, begin above those that any job with the same output may have used, so that their manifests never
//! meet. Such a job must have ended: after its end nothing can commit for it any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::assignment::{assign_as_allowed, left_behind};
use crate::{
    checkpoint::{
        head::{HeadEntry, HeadError, HeadLog},
        primary::Primary,
        savepoint::{self, SavepointError},
    },
    graph::Job,
    ids::{CheckpointId, JobId, LeaderEpoch, OperatorUid},
    journal::Event,
    layout::Layout,
    platform::ObjectName,
};

/// What a job is to begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavepointRestore {
    /// Of the directory or of the `_metadata` file in it, as people write paths.
    pub path: String,
    /// State of operators that the job does not have is left behind (Flink `--allowNonRestoredState`).
    pub allow_non_restored_state: bool,
}

/// Why a job cannot begin with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It does not fit, or is not whole, or may not be used here. Nothing was recorded and nothing started.
    #[error("{0}")]
    Refused(String),
    /// Try again later.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Head(#[from] HeadError),
}

impl From<SavepointError> for ImportError {
    fn from(error: SavepointError) -> ImportError {
        match error {
            SavepointError::Unusable(reason) => ImportError::Refused(reason),
            SavepointError::Unavailable(reason) => ImportError::Unavailable(reason),
        }
    }
}

/// A savepoint that a job may begin with.
#[derive(Clone, Debug)]
pub struct Checked {
    metadata: ObjectName,
    checkpoint: CheckpointId,
    granted: CheckpointId,
    left_behind: Vec<OperatorUid>,
    allow_non_restored_state: bool,
}

/// Whether the job may begin with the savepoint. Nothing is recorded: a job that is refused has not begun, and is in nobody's way, so this
/// comes before the claim of its first leader.
///
/// # Errors
/// [`ImportError`].
pub async fn check(
    primary: &Primary,
    job: &Job,
    from: &SavepointRestore,
    others: &Others,
) -> Result<Checked, ImportError> {
    if let Some(running) = others.running {
        return Err(ImportError::Refused(format!(
            "job {running}, whose output is in the same storage, has not ended: stop it first (weir stop), or give this job an \
             --output of its own"
        )));
    }
    let object = savepoint::find(primary, &from.path).await?;
    let metadata = savepoint::open(primary, &object).await?;
    let refused = |reason: String| ImportError::Refused(reason);
    assign_as_allowed(&metadata, &job.graph, from.allow_non_restored_state).map_err(|e| refused(e.to_string()))?;
    let checkpoint = metadata.checkpoint;
    Ok(Checked {
        metadata: object,
        checkpoint,
        granted: others.granted.max(checkpoint),
        left_behind: left_behind(&metadata, &job.graph).map_err(|e| refused(e.to_string()))?,
        allow_non_restored_state: from.allow_non_restored_state,
    })
}

/// Records that the job begins with a savepoint, once: what the job has decided since counts more (a new leader goes on from there).
///
/// # Errors
/// [`ImportError`].
pub async fn record(primary: &Primary, head: &HeadLog, job: &Job, checked: Checked) -> Result<(), ImportError> {
    if !head.state().is_fresh() {
        return Ok(());
    }
    let Checked { metadata, checkpoint, granted, left_behind, allow_non_restored_state } = checked;
    let journal = &primary.platform().journal;
    for operator in left_behind {
        journal.emit(Event::StateLeftBehind { operator: operator.0, checkpoint });
    }
    journal.emit(Event::StateImported { job: job.name.clone(), checkpoint, metadata: metadata.to_string() });
    head.append(HeadEntry::Imported { checkpoint, metadata, granted, allow_non_restored_state }).await?;
    Ok(())
}

/// What other jobs in the same storage have used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// The highest checkpoint id that one of them may have used.
    pub granted: CheckpointId,
    /// The last leader of any.
    pub leader: LeaderEpoch,
    /// One that has not ended.
    pub running: Option<JobId>,
}

impl Others {
    /// Looks at the head logs in the storage of job `own`, except for its own.
    ///
    /// # Errors
    /// [`ImportError`]: a log is damaged, or cannot be read now.
    pub async fn look(primary: &Primary, own: JobId) -> Result<Others, ImportError> {
        let prefix = Layout::heads_prefix();
        let listed = primary.list(prefix).await;
        let listed = listed.map_err(|error| ImportError::Unavailable(format!("{prefix}: {error}")))?;
        let jobs = listed.iter().filter_map(|meta| {
            let job = meta.name.as_str().strip_prefix(prefix)?.split('/').next()?;
            JobId::try_from(job.to_string()).ok()
        });
        let jobs: BTreeSet<JobId> = jobs.filter(|job| *job != own).collect();
        let mut others = Others::default();
        for job in jobs {
            let head = HeadLog::open(primary.clone(), Layout { job }).await.map_err(|error| match error {
                HeadError::Unavailable(_) => ImportError::Unavailable(format!("the head log of job {job}: {error}")),
                _ => ImportError::Refused(format!(
                    "the head log of job {job}, whose output is here, is damaged: {error}"
                )),
            })?;
            let state = head.state();
            others.granted = others.granted.max(state.granted);
            others.leader = others.leader.max(state.leader);
            // Without a leader there is no job, only what a probe has left behind.
            let runs = state.end.is_none() && state.leader > LeaderEpoch(0);
            others.running = others.running.or(runs.then_some(job));
        }
        Ok(others)
    }
}
