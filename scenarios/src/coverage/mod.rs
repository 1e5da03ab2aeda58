//! What a sweep has covered: the recovery that followed each fault, the points that were passed, and what was expected of both.
//! None of it judges a run; it judges whether the runs were worth anything.

pub mod paths;
pub mod points;
pub mod report;
pub mod steer;
pub mod steered_plan;
pub mod watch;

pub use paths::{Path, PathFold};
pub use watch::Watch;
