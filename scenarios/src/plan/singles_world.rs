//! How the faults that change the world for a while, or hit several machines, are placed alone.

use super::{
    faults::{DiskErrorKind, DiskOperation, FaultClass, FaultKind, ReadDamage, StoreOperation},
    model::{JOB_MANAGER, Plan},
    singles::{COMEBACK_MS, SingleFault, Sites, Strike, Victim, Witness},
};

/// Those of one class; of the others nothing.
pub(super) fn of_class(class: FaultClass, plan: &Plan) -> Vec<SingleFault> {
    let heartbeat_ms = plan.settings.heartbeat_timeout_ms;
    let past_heartbeat_ms = heartbeat_ms + 1_000;
    let restart_after_ms = Some(COMEBACK_MS);
    let of = |variant: &str, sites, victim, duration_ms, kind| SingleFault {
        class,
        variant: variant.to_string(),
        sites,
        victim,
        duration_ms,
        strike: Strike::World(kind),
        witness: None,
    };
    // The peer is put in where it is placed.
    let peer = || JOB_MANAGER.to_string();
    let linked = |duration_ms, kind| vec![of("", Sites::AnyKind, Victim::EmitterAndPeer, duration_ms, kind)];
    let on_disk = |duration_ms, kind| vec![of("", Sites::DiskUse, Victim::Emitter, duration_ms, kind)];
    let stored = |kind: &dyn Fn(StoreOperation, String) -> FaultKind| {
        let operations = [
            ("create", StoreOperation::Create),
            ("read", StoreOperation::Read),
            ("list", StoreOperation::List),
            ("delete", StoreOperation::Delete),
        ];
        operations
            .map(|(name, operation)| of(name, Sites::StoreUse, Victim::Store, 0, kind(operation, String::new())))
            .to_vec()
    };
    let read = |damage, count| SingleFault {
        witness: Some(Witness::OtherTaskManager),
        ..of(
            "",
            Sites::Completion,
            Victim::Store,
            0,
            FaultKind::StoreReads { damage, name_contains: String::new(), count },
        )
    };
    let members = |of_all: u32| -> Vec<String> {
        plan.cluster.task_manager_names().take((of_all.div_ceil(2)).max(1) as usize).collect()
    };
    let rack = members(plan.cluster.task_managers);
    match class {
        FaultClass::StoreThrottled => stored(&|operation, name_contains| FaultKind::StoreThrottled {
            operation,
            name_contains,
            retry_after_ms: 400,
            count: 1,
        }),
        FaultClass::StoreSlow => {
            let delay_ms = plan.settings.store_operation_timeout_ms + 300;
            stored(&|operation, name_contains| FaultKind::StoreSlow { operation, name_contains, delay_ms, count: 1 })
        }
        FaultClass::StoreShortRead => vec![read(ReadDamage::Short, 5)],
        FaultClass::StoreCorruptRead => vec![read(ReadDamage::Corrupt, 1)],
        FaultClass::StoreLingeringDelete => {
            let fault = FaultKind::LingeringDeletes { linger_ms: 1_500 };
            vec![of("", Sites::StoreUse, Victim::Store, 3_000, fault)]
        }
        FaultClass::DiskDenied => {
            let operations = [
                ("create", DiskOperation::Create),
                ("write", DiskOperation::Write),
                ("sync", DiskOperation::Sync),
                ("read", DiskOperation::Read),
                ("rename", DiskOperation::Rename),
                ("remove", DiskOperation::Remove),
                ("list", DiskOperation::List),
                ("sync directory", DiskOperation::SyncDirectory),
            ];
            let denied = |(name, operation)| {
                let fault = FaultKind::DiskErrors { operation, error: DiskErrorKind::Denied, count: 1 };
                of(name, Sites::DiskUse, Victim::Emitter, 0, fault)
            };
            operations.map(denied).to_vec()
        }
        FaultClass::DiskVanished => {
            let (operation, error) = (DiskOperation::Read, DiskErrorKind::Vanished);
            let fault = FaultKind::DiskErrors { operation, error, count: 1 };
            vec![SingleFault {
                witness: Some(Witness::OtherTaskManager),
                ..of("", Sites::Completion, Victim::EachTaskManager, 0, fault)
            }]
        }
        FaultClass::DiskSlow => on_disk(2_000, FaultKind::SlowDisk { factor: 200 }),
        FaultClass::DiskStall => on_disk(1_500, FaultKind::StalledDisk {}),
        FaultClass::SeparateDevice => {
            vec![of("", Sites::Beginning, Victim::EachTaskManager, 0, FaultKind::SeparateDevice {})]
        }
        FaultClass::PowerLoss => {
            vec![of("", Sites::TaskManagerStep, Victim::Emitter, 0, FaultKind::PowerLoss { restart_after_ms })]
        }
        FaultClass::ConnectionReset => linked(0, FaultKind::ResetConnections { peer: peer() }),
        FaultClass::HalfOpen => linked(past_heartbeat_ms, FaultKind::HalfOpen { peer: peer() }),
        FaultClass::JitterStorm => linked(2_000, FaultKind::JitterStorm { peer: peer(), up_to_ms: 400 }),
        FaultClass::BandwidthCollapse => {
            let divided_by = u32::try_from(plan.network.bytes_per_second / 2_000).unwrap_or(u32::MAX).max(2);
            linked(2_000, FaultKind::BandwidthCollapse { peer: peer(), divided_by })
        }
        FaultClass::FlappingLink => linked(2_000, FaultKind::FlappingLink { peer: peer(), down_ms: 300, up_ms: 200 }),
        FaultClass::DuplicateMessage => {
            linked(0, FaultKind::DuplicateMessages { peer: peer(), count: 2, delay_ms: 500 })
        }
        FaultClass::LateMessage => {
            vec![of("", Sites::TaskManagerStep, Victim::Emitter, heartbeat_ms / 2, FaultKind::LateMessages {})]
        }
        FaultClass::ClockJump => [("forwards", 3_600_000), ("backwards", -3_600_000)]
            .map(|(name, by_ms)| of(name, Sites::AnyKind, Victim::Emitter, 2_000, FaultKind::ClockJump { by_ms }))
            .to_vec(),
        FaultClass::ClockSkew => {
            let fault = FaultKind::ClockSkew { by_ms: 3_600_000 };
            vec![of("", Sites::Beginning, Victim::EachTaskManager, plan.healed_by_ms, fault)]
        }
        FaultClass::ClockDrift => [("fast", 1_000_000), ("slow", -300_000)]
            .map(|(name, parts_per_million)| {
                let fault = FaultKind::ClockDrift { parts_per_million };
                of(name, Sites::AnyKind, Victim::Emitter, 3_000, fault)
            })
            .to_vec(),
        FaultClass::FreezeJobManager => {
            vec![of("", Sites::AnyStep, Victim::JobManager, past_heartbeat_ms, FaultKind::Freeze {})]
        }
        FaultClass::JoinLate => {
            let fault = FaultKind::JoinLate { after_ms: Some(2_000) };
            vec![of("", Sites::Beginning, Victim::EachTaskManager, 0, fault)]
        }
        FaultClass::LoseRack => [("disks kept", true), ("disks lost", false)]
            .map(|(name, keep_disks)| {
                let fault = FaultKind::LoseRack { members: rack.clone(), keep_disks, restart_after_ms };
                of(name, Sites::AnyKind, Victim::Rack, 0, fault)
            })
            .to_vec(),
        FaultClass::CutRack => {
            vec![of("", Sites::AnyKind, Victim::Rack, past_heartbeat_ms, FaultKind::CutRack { members: rack })]
        }
        FaultClass::TwoLeaders => [("frozen", false), ("isolated", true)]
            .map(|(name, isolated)| {
                let fault = FaultKind::SecondJobManager { isolated, takeover_after_ms: 300, contend_ms: 1_500 };
                of(name, Sites::AnyKind, Victim::JobManager, past_heartbeat_ms, fault)
            })
            .to_vec(),
        FaultClass::OutOfMemory => {
            let fault = FaultKind::MemoryLimit { headroom_bytes: 300, restart_after_ms: COMEBACK_MS };
            vec![of("", Sites::TaskManagerStep, Victim::Emitter, 2_000, fault)]
        }
        FaultClass::Savepoint => vec![of("", Sites::AnyKind, Victim::JobManager, 0, FaultKind::Savepoint {})],
        FaultClass::StopAndResume => {
            let most = plan.cluster.task_managers * plan.cluster.slots;
            [("to one", 1), ("by one up", (plan.workload.parallelism + 1).min(most))]
                .map(|(name, parallelism)| {
                    let fault = FaultKind::StopAndResume {
                        parallelism,
                        backend: None,
                        next_version: false,
                        restart_after_ms: 200,
                    };
                    of(name, Sites::AnyKind, Victim::JobManager, 0, fault)
                })
                .to_vec()
        }
        FaultClass::Rescale => {
            let most = plan.cluster.task_managers * plan.cluster.slots;
            [("to one", 1), ("by one up", (plan.workload.parallelism + 1).min(most))]
                .map(|(name, parallelism)| {
                    let fault = FaultKind::Rescale { parallelism, restart_after_ms: 200 };
                    of(name, Sites::AnyKind, Victim::JobManager, 0, fault)
                })
                .to_vec()
        }
        _ => Vec::new(),
    }
}
