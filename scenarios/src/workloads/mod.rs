//! The jobs that are put through the chaos, with their inputs and their oracles.

mod audit_input;
#[cfg(test)]
pub(crate) mod testing;

pub use audit_input::{AuditInput, AuditRecord};
