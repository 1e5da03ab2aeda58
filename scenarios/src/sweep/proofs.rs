//! Runs that prove that a sweep can tell broken from whole, before anything is believed.

use runtime::{journal::EventKind, sabotage::Sabotage};

use super::SweepOptions;
use crate::{
    plan::{FaultKind, FaultSpec, Profile, Trigger, generate},
    record::CANARY_AT,
};

/// One of them.
pub(super) struct Proof {
    pub(super) name: &'static str,
    pub(super) must_fail: bool,
    pub(super) plan: String,
}

pub(super) fn proofs(options: &SweepOptions) -> Vec<Proof> {
    let quiet = Profile::named("quiet").unwrap_or(options.profile);
    let mut plan = generate(quiet, options.seeds.0);
    if let Some(job) = &options.job {
        plan.workload.name.clone_from(job);
    }
    let whole = plan.clone();
    let mut canary = plan.clone();
    canary.workload.parameters.insert(CANARY_AT.to_string(), 3);
    let mut proofs = vec![
        Proof { name: "fault-free run", must_fail: false, plan: whole.to_toml() },
        Proof { name: "canary", must_fail: true, plan: canary.to_toml() },
    ];
    if !options.is_rehearsal() {
        // A defect of the runtime itself, that only an invariant can notice.
        let mut sabotaged = plan;
        sabotaged.sabotage = vec![Sabotage::NeverRestart];
        sabotaged.faults = vec![FaultSpec {
            // Whoever takes a snapshot runs a task: its death must be followed by a restart, whatever the seed made of the cluster.
            target: "emitter".to_string(),
            trigger: Trigger::On { event: EventKind::SnapshotSyncDone, entity: None, ordinal: 5, delay_ms: 0 },
            duration_ms: 0,
            fault: FaultKind::Crash { restart_after_ms: Some(200) },
        }];
        proofs.push(Proof { name: "sabotaged run (never-restart)", must_fail: true, plan: sabotaged.to_toml() });
    }
    proofs
}
