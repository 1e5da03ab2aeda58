//! What a job author writes: sources, transformations, keyed processing and sinks, put together by [`JobBuilder`] into a
//! [`Job`](crate::graph::Job).
//!
//! ```
//! use runtime::{api::JobBuilder, connectors::GeneratorSource};
//!
//! let builder = JobBuilder::new("squares");
//! builder
//!     .source("numbers", GeneratorSource::new("numbers", 2, |_, offset| (offset < 10).then_some(offset)))
//!     .map(|n: u64| n * n)
//!     .sink("squares", |n, line| line.extend_from_slice(n.to_string().as_bytes()));
//! let job = builder.build().unwrap();
//! assert_eq!(job.graph.vertices.len(), 1);
//! ```
//!
//! Operators joined by a forward edge are chained: they share a subtask, and batches of records pass between them by one
//! call per batch. Functions of user code are plain synchronous code; an error or a panic fails the attempt, and the job
//! restarts from its last checkpoint.

mod build;
mod builder;
mod chains;
mod connected;
mod keyed_operator;
mod operator_process;
mod operators;
mod process;
mod stage;
mod stream;
mod tails;
mod watermarks;
mod window_assigner;
mod windows;

pub use build::JobError;
pub use builder::JobBuilder;
pub use keyed_operator::FiredTimer;
pub use operator_process::{BroadcastProcess, BroadcastStream, KeyedBroadcastProcess, OperatorProcess};
pub use process::KeyedProcess;
pub use stream::{KeyedStream, SinkHandle, Stream};
pub use watermarks::WatermarkStrategy;
pub use window_assigner::{TimeWindow, Windows};
pub use windows::{WindowResult, Windowed, WindowedStream};

pub use crate::{
    connectors::{GeneratorSource, LineAt, LineFileSource, Source},
    state::{KeyedContext, ListState, MapState, OpenContext, Record, StateError, StateKey, UserError, ValueState},
};

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod time_tests;
#[cfg(test)]
mod uid_tests;
