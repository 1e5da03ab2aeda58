//! Every fault that can be placed alone, class by class, with where it is worth placing.
//!
//! The match over the classes has no wildcard: a new class of fault breaks the build here until somebody says how it is placed.

use super::{
    faults::{
        Damage, DiskErrorKind, DiskOperation, EMITTER, ENTITY, FaultClass, FaultKind, FaultSpec, ObjectChoice, STORE,
        Side, StoreErrorKind, StoreOperation, Trigger,
    },
    model::{JOB_MANAGER, Plan, USER_ERROR_AT, USER_PANIC_AT},
    singles_native, singles_world,
};

/// At which steps of a run a fault is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sites {
    /// At every step of every process, per kind of event and role.
    AnyStep,
    /// At every step of a TaskManager, per kind of event and role.
    TaskManagerStep,
    /// At every kind of event, whatever the role: what it hits is not where it is placed.
    AnyKind,
    /// At the steps of a data channel.
    Channel,
    /// Before a TaskManager uses its disk.
    DiskUse,
    /// Before a process uses primary storage.
    StoreUse,
    /// When a checkpoint completes.
    Completion,
    /// At a record that user code processes.
    Record,
    /// From the beginning of the run on.
    Beginning,
}

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Whoever emits the event.
    Emitter,
    JobManager,
    /// The channel of the event.
    Channel,
    Store,
    /// Each TaskManager in turn.
    EachTaskManager,
    /// Emitter and JobManager hear each other no more; of the JobManager's own events, it and the first TaskManager.
    EmitterAndJobManager(Side),
    /// As before, for faults of the link between the two that have no side.
    EmitterAndPeer,
    /// The machines that the fault names.
    Rack,
    /// The process at the other end of the event's channel and the emitter.
    EmitterAndOtherEnd(Side),
}

/// A fault that can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SingleFault {
    pub class: FaultClass,
    /// Tells it from the other faults of its class.
    pub variant: String,
    pub sites: Sites,
    pub victim: Victim,
    pub duration_ms: u64,
    pub strike: Strike,
    /// Nobody would notice it without a restore: this process crashes shortly after, so that somebody looks.
    pub witness: Option<Witness>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strike {
    World(FaultKind),
    /// A parameter of the workload, set to the number of a record.
    Parameter(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A TaskManager other than the victim.
    OtherTaskManager,
    JobManager,
}

/// A witness crashes so much later.
pub const WITNESS_AFTER_MS: u64 = 20;
/// Whoever crashes comes back after this.
pub(super) const COMEBACK_MS: u64 = 300;

impl SingleFault {
    /// `crash-task-manager`, or `store-timeout (create ha/, after)`.
    pub fn name(&self) -> String {
        if self.variant.is_empty() {
            self.class.name().to_string()
        } else {
            format!("{} ({})", self.class.name(), self.variant)
        }
    }

    /// The fault and its witness at `trigger`. `victim`: the process or channel hit, where [`Self::victim`] leaves it open;
    /// `peer`: the other end of a partition. None for faults that are parameters of the workload.
    pub fn specs(&self, plan: &Plan, trigger: &Trigger, victim: &str, peer: &str) -> Option<Vec<FaultSpec>> {
        let Strike::World(kind) = &self.strike else { return None };
        let target = match self.victim {
            Victim::Emitter | Victim::EmitterAndOtherEnd(_) => EMITTER,
            Victim::Channel if victim.is_empty() => ENTITY,
            Victim::JobManager => JOB_MANAGER,
            Victim::Store => STORE,
            Victim::Rack => "rack-1",
            Victim::Channel | Victim::EachTaskManager | Victim::EmitterAndJobManager(_) | Victim::EmitterAndPeer => {
                victim
            }
        };
        let fault = match self.victim {
            Victim::EmitterAndJobManager(side) | Victim::EmitterAndOtherEnd(side) => {
                FaultKind::Partition { peer: peer.to_string(), side }
            }
            _ => with_peer(kind.clone(), peer),
        };
        let mut specs = vec![FaultSpec {
            target: target.to_string(),
            trigger: trigger.clone(),
            duration_ms: self.duration_ms,
            fault,
        }];
        if let Some(witness) = self.witness {
            let target = match witness {
                Witness::JobManager => JOB_MANAGER.to_string(),
                Witness::OtherTaskManager => {
                    plan.cluster.task_manager_names().find(|name| name != victim).unwrap_or_else(|| victim.to_string())
                }
            };
            specs.push(FaultSpec {
                target,
                trigger: later(trigger, WITNESS_AFTER_MS),
                duration_ms: 0,
                fault: FaultKind::Crash { restart_after_ms: Some(COMEBACK_MS) },
            });
        }
        Some(specs)
    }
}

/// Puts the other end into a fault of a link.
fn with_peer(mut kind: FaultKind, other: &str) -> FaultKind {
    match &mut kind {
        FaultKind::ResetConnections { peer }
        | FaultKind::HalfOpen { peer }
        | FaultKind::JitterStorm { peer, .. }
        | FaultKind::BandwidthCollapse { peer, .. }
        | FaultKind::FlappingLink { peer, .. }
        | FaultKind::DuplicateMessages { peer, .. } => *peer = other.to_string(),
        _ => {}
    }
    kind
}

/// The same trigger, so much later.
pub fn later(trigger: &Trigger, by_ms: u64) -> Trigger {
    match trigger {
        Trigger::AtMs(at) => Trigger::AtMs(at + by_ms),
        Trigger::On { event, entity, ordinal, delay_ms } => {
            Trigger::On { event: *event, entity: entity.clone(), ordinal: *ordinal, delay_ms: delay_ms + by_ms }
        }
    }
}

/// Names of objects by what they are for, as a store error picks them: head log, metadata, manifests, sink data, state parts.
const OBJECT_CLASSES: &[&str] = &["ha/", "/_metadata", "/_committed/", "/data/", "/chk-"];

impl FaultKind {
    /// Every fault that can be placed alone in `plan`, of all classes.
    pub fn single_faults(plan: &Plan) -> Vec<SingleFault> {
        FaultClass::ALL.iter().flat_map(|class| of_class(*class, plan)).collect()
    }
}

/// Those of one class.
pub fn of_class(class: FaultClass, plan: &Plan) -> Vec<SingleFault> {
    let settings = &plan.settings;
    let single = |variant: &str, sites, victim, duration_ms, kind: FaultKind| SingleFault {
        class,
        variant: variant.to_string(),
        sites,
        victim,
        duration_ms,
        strike: Strike::World(kind),
        witness: None,
    };
    let restart_after_ms = Some(COMEBACK_MS);
    // Long enough to be taken for dead, and to come back as a zombie.
    let past_heartbeat_ms = settings.heartbeat_timeout_ms + 1_000;
    let past_checkpoint_ms = settings.checkpoint_timeout_ms + 500;
    match class {
        FaultClass::CrashTaskManager => {
            vec![single("", Sites::TaskManagerStep, Victim::Emitter, 0, FaultKind::Crash { restart_after_ms })]
        }
        FaultClass::CrashJobManager => {
            vec![single("", Sites::AnyStep, Victim::JobManager, 0, FaultKind::Crash { restart_after_ms })]
        }
        FaultClass::LoseMachine => {
            let fault = FaultKind::LoseMachine { restart_after_ms };
            vec![single("", Sites::TaskManagerStep, Victim::Emitter, 0, fault)]
        }
        FaultClass::Freeze => vec![
            single("past the heartbeat", Sites::AnyStep, Victim::Emitter, past_heartbeat_ms, FaultKind::Freeze {}),
            single("short", Sites::AnyKind, Victim::Emitter, settings.heartbeat_timeout_ms / 2, FaultKind::Freeze {}),
        ],
        FaultClass::PartitionBoth => partitions(class, past_heartbeat_ms, &[Side::Both]),
        FaultClass::PartitionOneWay => partitions(class, past_heartbeat_ms, &[Side::TargetToPeer, Side::PeerToTarget]),
        FaultClass::HoldChannel => {
            vec![single("", Sites::Channel, Victim::Channel, past_checkpoint_ms, FaultKind::HoldChannel {})]
        }
        FaultClass::SlowChannel => {
            let fault = FaultKind::SlowChannel { extra_ms: 400 };
            vec![single("", Sites::Channel, Victim::Channel, past_checkpoint_ms, fault)]
        }
        FaultClass::LocalMissing => local(class, Damage::Missing),
        FaultClass::LocalTorn => local(class, Damage::Torn),
        FaultClass::LocalCorrupt => local(class, Damage::Corrupt),
        FaultClass::DiskFull => {
            vec![single("", Sites::DiskUse, Victim::Emitter, 1_500, FaultKind::DiskFull {})]
        }
        FaultClass::DiskError => {
            let operations = [
                ("create", DiskOperation::Create, DiskErrorKind::InputOutput),
                ("write", DiskOperation::Write, DiskErrorKind::InputOutput),
                ("write, no space", DiskOperation::Write, DiskErrorKind::NoSpace),
                ("sync", DiskOperation::Sync, DiskErrorKind::InputOutput),
                ("read", DiskOperation::Read, DiskErrorKind::InputOutput),
            ];
            let of = |(variant, operation, error)| {
                let fault = FaultKind::DiskErrors { operation, error, count: 1 };
                single(variant, Sites::DiskUse, Victim::Emitter, 0, fault)
            };
            operations.into_iter().map(of).collect()
        }
        FaultClass::StoreErrorBefore => store_errors(class, &[("", StoreErrorKind::ErrorBefore)]),
        FaultClass::StoreErrorAfter => store_errors(class, &[("", StoreErrorKind::ErrorAfter)]),
        FaultClass::StoreTimeout => store_errors(
            class,
            &[(", before", StoreErrorKind::TimeoutBefore), (", after", StoreErrorKind::TimeoutAfter)],
        ),
        FaultClass::StoreOutage => {
            vec![single("", Sites::AnyKind, Victim::Store, 1_500, FaultKind::StoreOutage {})]
        }
        FaultClass::LostObject => destroyed(class, |object, index| FaultKind::LoseObject { object, index }),
        FaultClass::CorruptObject => destroyed(class, |object, index| FaultKind::CorruptObject { object, index }),
        FaultClass::LocalStale => local(class, Damage::Stale),
        FaultClass::LocalForeign => local(class, Damage::Foreign),
        FaultClass::StoreThrottled
        | FaultClass::StoreSlow
        | FaultClass::StoreShortRead
        | FaultClass::StoreCorruptRead
        | FaultClass::StoreLingeringDelete
        | FaultClass::DiskDenied
        | FaultClass::DiskVanished
        | FaultClass::DiskSlow
        | FaultClass::DiskStall
        | FaultClass::SeparateDevice
        | FaultClass::PowerLoss
        | FaultClass::ConnectionReset
        | FaultClass::HalfOpen
        | FaultClass::JitterStorm
        | FaultClass::BandwidthCollapse
        | FaultClass::FlappingLink
        | FaultClass::DuplicateMessage
        | FaultClass::LateMessage
        | FaultClass::ClockJump
        | FaultClass::ClockSkew
        | FaultClass::ClockDrift
        | FaultClass::FreezeJobManager
        | FaultClass::JoinLate
        | FaultClass::LoseRack
        | FaultClass::CutRack
        | FaultClass::TwoLeaders
        | FaultClass::OutOfMemory
        | FaultClass::Savepoint
        | FaultClass::StopAndResume
        | FaultClass::Rescale => singles_world::of_class(class, plan),
        FaultClass::UploadError
        | FaultClass::LostShared
        | FaultClass::CorruptShared
        | FaultClass::DatabaseError
        | FaultClass::DatabaseFull
        | FaultClass::NativeFileError
        | FaultClass::LocalTable => singles_native::of_class(class),
        FaultClass::UserPanic => vec![user(class, USER_PANIC_AT)],
        FaultClass::UserError => vec![user(class, USER_ERROR_AT)],
    }
}

fn partitions(class: FaultClass, duration_ms: u64, sides: &[Side]) -> Vec<SingleFault> {
    let of = |side: &Side, victim: fn(Side) -> Victim, sites, what: &str| SingleFault {
        class,
        variant: match side {
            Side::Both => what.to_string(),
            Side::TargetToPeer => format!("{what}, outwards"),
            Side::PeerToTarget => format!("{what}, inwards"),
        },
        sites,
        victim: victim(*side),
        duration_ms,
        // The peer is put in where it is placed.
        strike: Strike::World(FaultKind::Partition { peer: JOB_MANAGER.to_string(), side: *side }),
        witness: None,
    };
    sides
        .iter()
        .flat_map(|side| {
            [
                of(side, Victim::EmitterAndJobManager, Sites::AnyKind, "from the JobManager"),
                of(side, Victim::EmitterAndOtherEnd, Sites::Channel, "from a TaskManager"),
            ]
        })
        .collect()
}

fn local(class: FaultClass, damage: Damage) -> Vec<SingleFault> {
    [("one file", 1), ("all files", 1_000)]
        .into_iter()
        .map(|(variant, files)| SingleFault {
            class,
            variant: variant.to_string(),
            sites: Sites::Completion,
            victim: Victim::EachTaskManager,
            duration_ms: 0,
            strike: Strike::World(FaultKind::LocalFiles { damage, files, newest_only: true }),
            witness: Some(Witness::OtherTaskManager),
        })
        .collect()
}

fn store_errors(class: FaultClass, errors: &[(&str, StoreErrorKind)]) -> Vec<SingleFault> {
    let creates = OBJECT_CLASSES.iter().map(|name| (StoreOperation::Create, *name));
    let others = [StoreOperation::Read, StoreOperation::List, StoreOperation::Delete].map(|operation| (operation, ""));
    let operations: Vec<_> = creates.chain(others).collect();
    let mut singles = Vec::new();
    for (suffix, error) in errors {
        for (operation, name_contains) in &operations {
            let what = match operation {
                StoreOperation::Create => format!("create {name_contains}"),
                StoreOperation::Upload => "upload".to_string(),
                StoreOperation::Read => "read".to_string(),
                StoreOperation::List => "list".to_string(),
                StoreOperation::Delete => "delete".to_string(),
            };
            singles.push(SingleFault {
                class,
                variant: format!("{what}{suffix}"),
                sites: Sites::StoreUse,
                victim: Victim::Store,
                duration_ms: 0,
                strike: Strike::World(FaultKind::StoreErrors {
                    operation: *operation,
                    name_contains: (*name_contains).to_string(),
                    error: *error,
                    count: 1,
                }),
                witness: None,
            });
        }
    }
    singles
}

/// How many parts of a checkpoint are destroyed in turn.
pub(super) const PARTS: u32 = 8;

fn destroyed(class: FaultClass, fault: impl Fn(ObjectChoice, u32) -> FaultKind) -> Vec<SingleFault> {
    let single = |variant: String, object, index, witness| SingleFault {
        class,
        variant,
        sites: Sites::Completion,
        victim: Victim::Store,
        duration_ms: 0,
        strike: Strike::World(fault(object, index)),
        witness: Some(witness),
    };
    let parts = (0..PARTS).map(|n| single(format!("part {n}"), ObjectChoice::Part, n, Witness::OtherTaskManager));
    // Metadata is read by a restore of any kind.
    let metadata = [("task manager dies", Witness::OtherTaskManager), ("job manager dies", Witness::JobManager)];
    let metadata =
        metadata.map(|(who, witness)| single(format!("metadata, {who}"), ObjectChoice::Metadata, 0, witness));
    parts.chain(metadata).collect()
}

fn user(class: FaultClass, parameter: &'static str) -> SingleFault {
    SingleFault {
        class,
        variant: String::new(),
        sites: Sites::Record,
        victim: Victim::Emitter,
        duration_ms: 0,
        strike: Strike::Parameter(parameter),
        witness: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use runtime::journal::EventKind;

    use super::*;
    use crate::plan::{generate, profile::DEFAULT};

    #[test]
    fn every_class_can_be_placed_and_counts_as_itself() {
        let plan = generate(&DEFAULT, 7);
        let singles = FaultKind::single_faults(&plan);
        let classes: BTreeSet<_> = singles.iter().map(|single| single.class).collect();
        assert_eq!(classes, FaultClass::ALL.iter().copied().collect());
        let names: BTreeSet<_> = singles.iter().map(SingleFault::name).collect();
        assert_eq!(names.len(), singles.len(), "names tell them apart");
        let trigger = Trigger::On { event: EventKind::BarrierSent, entity: None, ordinal: 3, delay_ms: 0 };
        for single in &singles {
            let Some(specs) = single.specs(&plan, &trigger, "tm-1", "tm-2") else { continue };
            let mut placed = plan.clone();
            let beginning = Trigger::AtMs(0);
            let trigger = if single.sites == Sites::Beginning { &beginning } else { &trigger };
            let peer = if single.victim == Victim::EmitterAndPeer { JOB_MANAGER } else { "tm-2" };
            let specs = single.specs(&plan, trigger, "tm-1", peer).unwrap_or(specs);
            if single.sites == Sites::Channel && single.victim == Victim::Channel {
                // A channel of the event's own.
                placed.faults = single.specs(&plan, trigger, "", "").expect("a fault of the world");
            } else {
                placed.faults.clone_from(&specs);
            }
            assert_eq!(placed.check(), Ok(()), "{}", single.name());
            assert_eq!(specs[0].class(), single.class, "{}", single.name());
        }
    }

    #[test]
    fn what_only_a_restore_shows_has_a_witness() {
        let plan = generate(&DEFAULT, 7);
        for single in FaultKind::single_faults(&plan) {
            let hidden = single.sites == Sites::Completion;
            assert_eq!(single.witness.is_some(), hidden, "{}", single.name());
        }
    }
}
