//! From a failing plan to the smallest plan that fails in the same way.
//!
//! [`search`], [`ddmin`] and [`numbers`] know nothing of plans; [`machine`] puts them in order for a plan, and [`run`] runs what
//! they ask for in worker processes. "In the same way" is the signature: invariant, kind, and the entity without its numbers. A
//! candidate that fails in another way is no smaller version of this failure; it is kept as a finding of its own.

pub mod baseline;
pub mod case;
pub mod ddmin;
pub mod machine;
pub mod numbers;
pub mod pool;
pub mod run;
pub mod search;
pub mod snap;
pub mod story;
#[cfg(test)]
mod tests;
pub mod words;

pub use case::Case;
pub use run::{Shrunk, shrink};
