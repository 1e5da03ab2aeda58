//! Weir's stream runtime. It knows the world only through [`platform`], so that the same compiled code runs on a real
//! machine and under simulation.

pub mod api;
pub mod checkpoint;
#[cfg(feature = "real")]
pub mod cli;
pub mod cluster;
pub mod config;
pub mod connectors;
pub mod dataflow;
pub mod figure;
pub mod graph;
pub mod ids;
pub mod jobs;
pub mod journal;
pub mod layout;
pub mod platform;
pub mod points;
pub mod recovery;
pub mod sabotage;
pub mod state;

/// Compiles and runs the job that the README shows.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
