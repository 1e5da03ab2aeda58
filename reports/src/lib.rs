//! What a run left behind, and how it is shown: records, the summary of a sweep, and their tables.
//!
//! Knows nothing of plans, faults or worlds: names are text here, so that records of older builds can still be shown.

pub mod coverage;
pub mod failure;
pub mod findability;
pub mod junit;
pub mod markdown;
pub mod record;
pub mod shrunk;
pub mod summary;
pub mod tables;

pub use coverage::coverage_text;
pub use failure::failure_screen;
pub use record::{
    Counters, Coverage, FailureClass, FiredFault, RunRecord, SCHEMA_VERSION, Timings, TraceHash, Unfired, Verdict,
    ViolationRecord,
};
pub use shrunk::{ShrunkScreen, shrunk_screen};
pub use summary::{DeclaredPoint, Expectation, FloorExpectation, Judgement, PointCount, Steered, Summary};
