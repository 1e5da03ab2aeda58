//! What a subtask does before its loop: restore, open its chain, connect its outputs, collect its inputs. A cancel ends
//! each of these at once.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use futures::future::try_join_all;
use tokio::sync::mpsc;

use super::{
    channel::{Grants, InputChannel, OutputChannel},
    frame,
    task::{ChannelHello, ChannelTarget, InboundChannel, SubtaskCommand, SubtaskSpec, TaskFailure},
};
use crate::{
    graph::{ExecutionGraph, Job},
    ids::{EdgeId, SubtaskId},
    journal::Event,
    platform::{Connection, Platform, send, timeout},
    sabotage::Sabotage,
};

/// Why a subtask stops.
#[derive(Debug)]
pub enum Stop {
    Cancelled,
    Failed(TaskFailure),
}

impl From<TaskFailure> for Stop {
    fn from(failure: TaskFailure) -> Stop {
        Stop::Failed(failure)
    }
}

/// The commands of a subtask. What comes before the loop runs is kept for it, except a cancel.
pub struct Commands {
    receiver: mpsc::UnboundedReceiver<SubtaskCommand>,
    early: VecDeque<SubtaskCommand>,
}

impl Commands {
    pub fn new(receiver: mpsc::UnboundedReceiver<SubtaskCommand>) -> Commands {
        Commands { receiver, early: VecDeque::new() }
    }

    /// The next command; a closed channel means cancel.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<SubtaskCommand> {
        match self.early.pop_front() {
            Some(command) => Poll::Ready(command),
            None => self.receiver.poll_recv(cx).map(|c| c.unwrap_or(SubtaskCommand::Cancel)),
        }
    }

    /// Ready once the subtask was cancelled.
    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.receiver.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(SubtaskCommand::Cancel) | None) => return Poll::Ready(()),
                Poll::Ready(Some(other)) => self.early.push_back(other),
            }
        }
    }

    /// Runs `work` to its end, unless the subtask is cancelled before.
    ///
    /// # Errors
    /// [`Stop::Cancelled`], or the failure of `work`.
    pub async fn unless_cancelled<T>(&mut self, work: impl Future<Output = Result<T, TaskFailure>>) -> Result<T, Stop> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if self.poll_cancelled(cx).is_ready() {
                return Poll::Ready(Err(Stop::Cancelled));
            }
            work.as_mut().poll(cx).map_err(Stop::Failed)
        })
        .await
    }
}

/// Opens a channel to every downstream subtask and says hello; in the order of the spec.
///
/// # Errors
/// [`TaskFailure::Environment`] naming the channel that could not be connected.
pub async fn connect_outputs(
    platform: &Platform,
    job: &Job,
    spec: &SubtaskSpec,
    from: &str,
) -> Result<Vec<OutputChannel>, TaskFailure> {
    let edges: Vec<EdgeId> = job.graph.outputs(spec.subtask.vertex).map(|e| e.id).collect();
    if edges.len() != spec.outputs.len() {
        return Err(TaskFailure::User(format!(
            "{from} was deployed with {} output edges, but its job has {}; all processes must run the same job",
            spec.outputs.len(),
            edges.len()
        )));
    }
    let targets = edges.iter().zip(&spec.outputs).flat_map(|(e, targets)| targets.iter().map(move |t| (*e, t)));
    try_join_all(targets.map(|(edge, target)| connect_output(platform, spec, from, edge, target))).await
}

async fn connect_output(
    platform: &Platform,
    spec: &SubtaskSpec,
    from: &str,
    edge: EdgeId,
    target: &ChannelTarget,
) -> Result<OutputChannel, TaskFailure> {
    let name = format!("{from}->{}", target.name);
    let hello = ChannelHello { job: spec.job, attempt: spec.attempt, edge, from: spec.subtask, to: target.subtask };
    let failed = |error: String| TaskFailure::Environment(format!("connecting {name} to {}: {error}", target.address));
    let by = platform.clock.now() + spec.settings.connect_timeout;
    let connected = platform.transport.connect(&target.address, &name, by).await;
    let mut connection: Connection = connected.map_err(|e| failed(e.to_string()))?;
    let hello = frame::encode_hello(&hello).map_err(|e| failed(e.to_string()))?;
    timeout(platform.clock.as_ref(), by, send(connection.sender.as_mut(), hello))
        .await
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e| failed(e.to_string()))?;
    Ok(OutputChannel::new(name, target.process.clone(), connection, spec.settings.channel_window_bytes))
}

/// Input channels that a subtask waits for.
struct Expected {
    edge: EdgeId,
    position: u32,
    from: SubtaskId,
    channel: Option<InputChannel>,
}

/// Says of a channel that came in why it is none of this attempt's, and drops it.
pub fn refuse(platform: &Platform, spec: &SubtaskSpec, hello: &ChannelHello, why: &str) {
    platform.journal.emit(Event::StaleMessageIgnored {
        process: platform.process.to_string(),
        message: format!(
            "channel {}->{} over {} of attempt {} for attempt {}: {why}",
            hello.from, hello.to, hello.edge, hello.attempt, spec.attempt
        ),
    });
}

/// Waits until all input channels of this attempt have come in, in whatever order; gives them in the order of edges and
/// upstream subtasks. Has no deadline.
///
/// # Errors
/// None of its own.
pub async fn collect_inputs(
    platform: &Platform,
    graph: &ExecutionGraph,
    spec: &SubtaskSpec,
    inbound: &mut mpsc::UnboundedReceiver<InboundChannel>,
    to: &str,
) -> Result<Vec<InputChannel>, TaskFailure> {
    let mut expected: Vec<Expected> = Vec::new();
    for (position, edge) in (0..).zip(graph.inputs(spec.subtask.vertex)) {
        let upstream = graph.upstream(edge, spec.subtask).into_iter();
        expected.extend(upstream.map(|from| Expected { edge: edge.id, position, from, channel: None }));
    }
    let grants = Grants {
        window: spec.settings.channel_window_bytes,
        replaying: !spec.replay.epochs.is_empty(),
        unlimited: !expected.is_empty() && spec.settings.sabotage.runs(Sabotage::UnlimitedCredit, &platform.journal),
    };
    while expected.iter().any(|e| e.channel.is_none()) {
        let Some(InboundChannel { hello, connection }) = inbound.recv().await else {
            // Nobody accepts channels for this subtask any more; a cancel will follow.
            return std::future::pending().await;
        };
        if let Err(why) = check_hello(spec, &hello) {
            refuse(platform, spec, &hello, why);
            continue;
        }
        let Some(place) = expected.iter_mut().find(|e| e.edge == hello.edge && e.from == hello.from) else {
            refuse(platform, spec, &hello, "no such input");
            continue;
        };
        if place.channel.is_some() {
            refuse(platform, spec, &hello, "connected already");
            continue;
        }
        let name = format!("{}->{to}", graph.subtask_name(place.from));
        platform.journal.emit(Event::ChannelConnected { channel: name.clone(), attempt: spec.attempt });
        place.channel = Some(InputChannel::new(name, place.position, connection, grants));
    }
    Ok(expected.into_iter().filter_map(|e| e.channel).collect())
}

fn check_hello(spec: &SubtaskSpec, hello: &ChannelHello) -> Result<(), &'static str> {
    if hello.job != spec.job {
        Err("another job")
    } else if hello.attempt != spec.attempt {
        Err("another attempt")
    } else if hello.to != spec.subtask {
        Err("another subtask")
    } else {
        Ok(())
    }
}
