//! The JobManager: leads one job from its first start to its end.
//!
//! An actor per term of leadership ([`leader::Leader`]): one control task owns all state and handles one event at a time;
//! connections, timers and durable steps run in tasks of their own and answer with events. What must survive is in the head
//! log and nowhere else; a JobManager that starts, or that was fenced, reads it and goes on from there.

mod durable;
mod execution;
mod leader;
mod peers;

use std::sync::Arc;

use futures::{FutureExt, StreamExt, channel::mpsc, select_biased};
use serde::{Deserialize, Serialize};

use self::leader::{Leader, Term};
use super::config::ClusterConfig;
use crate::{
    checkpoint::{
        head::{HeadError, HeadLog, probe},
        primary::Primary,
    },
    graph::Job,
    ids::LeaderEpoch,
    journal::Event,
    layout::Layout,
    platform::{Address, Connection, ObjectName, Platform, StoreError},
    recovery::import::{self, ImportError, Others, SavepointRestore},
    sabotage::SabotageSet,
};

/// What a JobManager needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobManagerConfig {
    pub rpc_address: Address,
    pub cluster: ClusterConfig,
    /// What the job begins with, if it is new; a job that has decided anything goes on from there.
    pub from_savepoint: Option<SavepointRestore>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOutcome {
    /// All input is processed and all output committed.
    Finished,
    Failed {
        reason: String,
    },
    /// With a savepoint, because somebody asked for it.
    Stopped {
        savepoint: ObjectName,
    },
}

/// Why a JobManager could not lead its job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobManagerError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: Address, reason: String },
    #[error("the head log of job {job} cannot be used: {reason}")]
    Head { job: String, reason: String },
    #[error("job {job} cannot go on from what is stored of it: {reason}")]
    DoesNotFit { job: String, reason: String },
    #[error("job {job} cannot start from {path}: {reason}")]
    Savepoint { job: String, path: String, reason: String },
}

/// Runs the job to its end, through as many terms of leadership as it takes.
///
/// # Errors
/// [`JobManagerError`] if it cannot lead at all: its port is taken, the head log is corrupt, the store is refused because
/// two creates of one name both succeed, or the job is another one than that whose checkpoints are there.
pub async fn run(platform: Platform, job: Job, config: JobManagerConfig) -> Result<JobOutcome, JobManagerError> {
    platform.journal.emit(Event::ProcessStarted { process: platform.process.to_string() });
    let mut listener = platform
        .transport
        .listen(&config.rpc_address)
        .await
        .map_err(|e| JobManagerError::Listen { address: config.rpc_address.clone(), reason: e.to_string() })?;
    let (accepted, mut connections) = mpsc::unbounded::<Connection>();
    let acceptor = platform.spawner.control(
        "rpc-listener",
        async move {
            // Ends with its process, or when nobody leads any more.
            while let Ok(connection) = listener.accept().await {
                if accepted.unbounded_send(connection).is_err() {
                    return;
                }
            }
        }
        .boxed(),
    );
    let outcome = lead_until_the_end(&platform, job, config, &mut connections).await;
    acceptor.abort();
    outcome
}

async fn lead_until_the_end(
    platform: &Platform,
    job: Job,
    config: JobManagerConfig,
    connections: &mut mpsc::UnboundedReceiver<Connection>,
) -> Result<JobOutcome, JobManagerError> {
    let layout = Layout { job: job.id };
    let (settings, from_savepoint) = (&config.cluster.task, config.from_savepoint);
    let primary = Primary::new(platform, settings.store_operation_timeout, settings.store_total_timeout);
    let job = Arc::new(job);
    let cluster = Arc::new(config.cluster);
    loop {
        let claimed = match claim(&primary, &job, from_savepoint.as_ref(), &cluster.task.sabotage).await {
            Err(ImportError::Refused(reason)) => {
                let path = from_savepoint.map(|from| from.path).unwrap_or_default();
                return Err(JobManagerError::Savepoint { job: job.name.clone(), path, reason });
            }
            Err(ImportError::Head(error)) => Err(error),
            Err(ImportError::Unavailable(reason)) => Err(HeadError::Unavailable(StoreError::Unavailable(reason))),
            Ok(claimed) => Ok(claimed),
        };
        let reason = match claimed {
            Ok((head, epoch)) => {
                let mut term = Leader::new(platform.clone(), Arc::clone(&job), Arc::clone(&cluster), head, epoch);
                match serve(&mut term, connections).await {
                    Term::Ended(outcome) => return Ok(outcome),
                    Term::Refused { reason } => {
                        return Err(JobManagerError::DoesNotFit { job: job.name.clone(), reason });
                    }
                    Term::SteppedDown { reason } => {
                        let process = platform.process.to_string();
                        platform.journal.emit(Event::LeaderSteppedDown {
                            process,
                            leader: epoch,
                            reason: reason.clone(),
                        });
                        reason
                    }
                }
            }
            Err(error @ (HeadError::Corrupt { .. } | HeadError::UnsafeStore(_))) => {
                return Err(JobManagerError::Head { job: job.name.clone(), reason: error.to_string() });
            }
            Err(error) => error.to_string(),
        };
        let object = layout.head_prefix();
        platform.journal.emit(Event::PrimaryRetried { object, operation: "lead".to_string(), error: reason });
        platform.clock.sleep(cluster.reconnect_delay).await;
    }
}

/// Becomes the leader, and records what the job begins with if it is new.
async fn claim(
    primary: &Primary,
    job: &Job,
    from: Option<&SavepointRestore>,
    sabotage: &SabotageSet,
) -> Result<(HeadLog, LeaderEpoch), ImportError> {
    let layout = Layout { job: job.id };
    probe(primary, layout).await?;
    let head = HeadLog::open(primary.clone(), layout).await?;
    let (others, checked) = match from {
        Some(from) if head.state().is_fresh() => {
            let others = Others::look(primary, job.id).await?;
            let checked = import::check(primary, job, from, &others).await?;
            (others, Some(checked))
        }
        _ => (Others::default(), None),
    };
    let epoch = head.claim_above(others.leader, sabotage).await?;
    if let Some(checked) = checked {
        import::record(primary, &head, job, checked).await?;
    }
    Ok((head, epoch))
}

/// Feeds one term of leadership until it ends.
async fn serve(term: &mut Leader, connections: &mut mpsc::UnboundedReceiver<Connection>) -> Term {
    let mut inbox = term.take_inbox();
    term.start();
    loop {
        if let Some(end) = term.take_end() {
            return end;
        }
        let mut timer = term.next_timer().fuse();
        select_biased! {
            event = inbox.next() => match event {
                Some(event) => term.handle(event),
                // The term holds a sender itself.
                None => return Term::SteppedDown { reason: "its event queue closed".to_string() },
            },
            connection = connections.next() => match connection {
                Some(connection) => term.accepted(connection),
                None => return Term::SteppedDown { reason: "its port broke".to_string() },
            },
            () = timer => term.tick(),
        }
    }
}
