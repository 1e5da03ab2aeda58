//! The plan of a run: everything that decides what happens, as data. Drawn from a seed before the run starts, printed as TOML,
//! edited by hand, replayed.

mod backend;
pub mod draw;
pub mod faults;
pub mod generate;
mod generate_faults;
mod generate_native;
mod generate_world;
pub mod model;
pub mod profile;
pub mod singles;
mod singles_native;
mod singles_world;
pub mod text;
mod validate;

pub use faults::{
    Damage, DiskErrorKind, DiskOperation, FaultClass, FaultKind, FaultSpec, ObjectChoice, ReadDamage, Side,
    StoreErrorKind, StoreOperation, Trigger,
};
pub use generate::generate;
pub use model::{
    ClusterShape, DiskSettings, FallbackBehindCommit, LinkSettings, ModelledState, Plan, Reseed, Settings, Span,
    StoreSettings, WorkloadPlan,
};
pub use profile::Profile;
pub use text::PlanError;
