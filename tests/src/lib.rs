//! What Weir's tests share.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a harness prepares and inspects the real machine; the law holds for the runtime"
)]

pub mod cluster;
pub mod contracts;
pub mod defects;
pub mod kept;
pub mod objects;
pub mod processes;
pub mod real_cluster;
pub mod tales;
