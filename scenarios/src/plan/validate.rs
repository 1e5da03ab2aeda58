//! Whether a plan makes sense. A plan comes from people too, so each rule names the field it is about.

use super::{
    faults::{Damage, DiskErrorKind, DiskOperation, EMITTER, ENTITY, FaultKind, FaultSpec, STORE, Trigger},
    model::{JOB_MANAGER, PLAN_VERSION, Plan, Span},
    profile::Profile,
};

/// What is wrong with a field: where it stands, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The table it stands in; empty for the top level.
    pub section: &'static str,
    /// For repeated tables, which of them, from 0.
    pub index: usize,
    pub field: &'static str,
    pub message: String,
}

/// A day. Nothing a plan says lasts longer; it keeps all sums of times far from overflow.
const LONGEST_MS: u64 = 86_400_000;
const MOST_TASK_MANAGERS: u32 = 64;
const MOST_RECORDS: u64 = 10_000_000;
const MOST_FAULTS: usize = 1_000;

fn complain<T>(section: &'static str, field: &'static str, message: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint { section, index: 0, field, message: message.into() })
}

fn within(section: &'static str, field: &'static str, value: u64, low: u64, high: u64) -> Result<(), Complaint> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        complain(section, field, format!("{value} is not within {low}..={high}"))
    }
}

fn span(section: &'static str, value: Span) -> Result<(), Complaint> {
    within(section, "latency", value.max_us, value.min_us, LONGEST_MS * 1_000)
}

impl Plan {
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), Complaint> {
        if self.version != PLAN_VERSION {
            return complain("", "version", format!("this build reads version {PLAN_VERSION}, not {}", self.version));
        }
        within("", "seed", self.seed, 0, i64::MAX.cast_unsigned())?;
        within("", "schedule_seed", self.schedule(), 0, i64::MAX.cast_unsigned())?;
        if let Some(reseed) = self.reseed {
            within("reseed", "after_event", reseed.after_event, 0, i64::MAX.cast_unsigned())?;
            within("reseed", "seed", reseed.seed, 0, i64::MAX.cast_unsigned())?;
        }
        if Profile::named(&self.profile).is_none() {
            return complain("", "profile", format!("no profile {:?}; there are {}", self.profile, Profile::names()));
        }
        within("", "time_limit_ms", self.time_limit_ms, 1, LONGEST_MS)?;
        within("", "healed_by_ms", self.healed_by_ms, 0, self.time_limit_ms)?;
        within("cluster", "task_managers", self.cluster.task_managers.into(), 1, MOST_TASK_MANAGERS.into())?;
        within("cluster", "slots", self.cluster.slots.into(), 1, 64)?;
        self.check_settings()?;
        span("network", self.network.latency)?;
        within("network", "jitter_us", self.network.jitter_us, 0, LONGEST_MS * 1_000)?;
        within("network", "bytes_per_second", self.network.bytes_per_second, 1, 1 << 50)?;
        within("network", "window_bytes", self.network.window_bytes, 1, 1 << 40)?;
        within("network", "dead_peer_timeout_ms", self.network.dead_peer_timeout_ms, 1, LONGEST_MS)?;
        span("disk", self.disk.latency)?;
        within("disk", "bytes_per_second", self.disk.bytes_per_second, 1, 1 << 50)?;
        span("store", self.store.latency)?;
        within("store", "bytes_per_second", self.store.bytes_per_second, 1, 1 << 50)?;
        if let Some(modelled) = self.modelled {
            within("modelled", "times", modelled.times, 1, 1 << 40)?;
            within("modelled", "link_bytes_per_second", modelled.link_bytes_per_second, 0, 1 << 50)?;
        }
        self.check_workload()?;
        if self.faults.len() > MOST_FAULTS {
            return complain("faults", "target", format!("more than {MOST_FAULTS} faults"));
        }
        self.faults.iter().enumerate().try_for_each(|(index, fault)| {
            self.check_fault(fault).map_err(|complaint| Complaint { section: "faults", index, ..complaint })
        })
    }

    fn check_settings(&self) -> Result<(), Complaint> {
        let s = &self.settings;
        for (field, value) in [
            ("checkpoint_interval_ms", s.checkpoint_interval_ms),
            ("checkpoint_timeout_ms", s.checkpoint_timeout_ms),
            ("heartbeat_interval_ms", s.heartbeat_interval_ms),
            ("heartbeat_timeout_ms", s.heartbeat_timeout_ms),
            ("store_operation_timeout_ms", s.store_operation_timeout_ms),
            ("store_total_timeout_ms", s.store_total_timeout_ms),
            ("connect_timeout_ms", s.connect_timeout_ms),
        ] {
            within("settings", field, value, 1, LONGEST_MS)?;
        }
        within("settings", "min_pause_ms", s.min_pause_ms, 0, LONGEST_MS)?;
        within("settings", "restart_delay_ms", s.restart_delay_ms, 0, LONGEST_MS)?;
        within("settings", "stabilization_ms", s.stabilization_ms, 0, LONGEST_MS)?;
        within("settings", "cooldown_ms", s.cooldown_ms, 0, LONGEST_MS)?;
        within("settings", "buffer_timeout_ms", s.buffer_timeout_ms, 0, LONGEST_MS)?;
        if s.heartbeat_interval_ms >= s.heartbeat_timeout_ms {
            let message = format!("{} must be longer than heartbeat_interval_ms", s.heartbeat_timeout_ms);
            return complain("settings", "heartbeat_timeout_ms", message);
        }
        within("settings", "max_concurrent", s.max_concurrent.into(), 1, 1_000)?;
        within("settings", "retained", s.retained.into(), 1, 1_000)?;
        within("settings", "parts_per_snapshot", s.parts_per_snapshot.into(), 1, 1_000)?;
        within("settings", "local_roots", s.local_roots.into(), 0, crate::world_verbs::MOST_LOCAL_ROOTS.into())?;
        within("settings", "local_memory_bytes", s.local_memory_bytes, 0, 1 << 50)?;
        within("settings", "buffer_bytes", s.buffer_bytes.into(), 1, 1 << 24)?;
        within("settings", "transfer_piece_bytes", s.transfer_piece_bytes, 0, 1 << 40)?;
        within("settings", "channel_window_bytes", s.channel_window_bytes.into(), 1, 1 << 30)?;
        within("settings", "source_batch_records", s.source_batch_records.into(), 1, 1 << 20)
    }

    fn check_workload(&self) -> Result<(), Complaint> {
        let w = &self.workload;
        within("workload", "records", w.records, 1, MOST_RECORDS)?;
        within("workload", "keys", w.keys, 1, MOST_RECORDS)?;
        within("workload", "splits", w.splits.into(), 1, 1_000)?;
        within("workload", "records_per_second", w.records_per_second, 1, 1 << 40)?;
        // TOML knows no larger number: the plan could not be written again.
        w.parameters.values().try_for_each(|v| within("workload", "parameters", *v, 0, i64::MAX.cast_unsigned()))?;
        let slots = u64::from(self.cluster.task_managers) * u64::from(self.cluster.slots);
        if w.parallelism == 0 || u64::from(w.parallelism) > slots {
            let message = format!("{} does not fit the {slots} slots of the cluster", w.parallelism);
            return complain("workload", "parallelism", message);
        }
        Ok(())
    }

    fn is_process(&self, name: &str) -> bool {
        self.cluster.process_names().any(|process| process == name)
    }

    fn other(&self, peer: &str, target: &str) -> Result<(), Complaint> {
        if self.is_process(peer) && peer != target {
            return Ok(());
        }
        complain("faults", "fault", format!("no other process is called {peer:?}"))
    }

    fn rack(&self, name: &str, members: &[String]) -> Result<(), Complaint> {
        if name.is_empty() || self.is_process(name) || [EMITTER, ENTITY, STORE].contains(&name) {
            let message = format!("a rack needs a name of its own, not {name:?}; its processes are its members");
            return complain("faults", "target", message);
        }
        if members.is_empty() {
            return complain("faults", "fault", format!("rack {name} has no members"));
        }
        match members.iter().find(|member| !self.is_process(member)) {
            Some(stranger) => complain("faults", "fault", format!("rack {name}: no process is called {stranger:?}")),
            None => Ok(()),
        }
    }

    fn check_fault(&self, fault: &FaultSpec) -> Result<(), Complaint> {
        let by_event = match &fault.trigger {
            Trigger::AtMs(at) => {
                within("faults", "trigger", *at, 0, self.healed_by_ms)?;
                false
            }
            Trigger::On { ordinal, delay_ms, .. } => {
                within("faults", "trigger", (*ordinal).into(), 1, u64::from(u32::MAX))?;
                within("faults", "trigger", *delay_ms, 0, LONGEST_MS)?;
                true
            }
        };
        within("faults", "duration_ms", fault.duration_ms, 0, LONGEST_MS)?;
        let target = fault.target.as_str();
        let process = |what: &str| {
            if self.is_process(target) || (target == EMITTER && by_event) {
                Ok(())
            } else {
                let names: Vec<String> = self.cluster.process_names().collect();
                let message = format!(
                    "{what} needs a process, not {target:?}; there are {}, and \"{EMITTER}\" with an event trigger",
                    names.join(", ")
                );
                complain("faults", "target", message)
            }
        };
        let restart = |after: &Option<u64>| within("faults", "fault", after.unwrap_or(0), 0, LONGEST_MS);
        match &fault.fault {
            FaultKind::Crash { restart_after_ms } => process("crash").and_then(|()| restart(restart_after_ms)),
            FaultKind::LoseMachine { restart_after_ms } => {
                process("lose-machine").and_then(|()| restart(restart_after_ms))
            }
            FaultKind::Freeze {} => process("freeze"),
            FaultKind::LocalFiles { .. } => process("local-files"),
            FaultKind::LocalFile { copy, file, .. } => {
                if [copy, file].into_iter().any(|name| name.is_empty() || name.contains('/')) {
                    return complain("faults", "fault", "local-file: copy and file are names of one component");
                }
                process("local-file")
            }
            FaultKind::LocalFileErrors { operation, error, .. } => {
                if *error == DiskErrorKind::Vanished && *operation != DiskOperation::Read {
                    return complain(
                        "faults",
                        "fault",
                        "local-file-errors: only what is read can vanish while it is read",
                    );
                }
                process("local-file-errors")
            }
            FaultKind::LocalTables { damage, .. } => {
                if !matches!(damage, Damage::Missing | Damage::Torn | Damage::Corrupt) {
                    return complain("faults", "fault", "local-tables: tables are missing, torn or corrupt");
                }
                process("local-tables")
            }
            FaultKind::DiskFull {} => process("disk-full"),
            FaultKind::DiskErrors { operation, error, .. } => {
                if *error == DiskErrorKind::Vanished && *operation != DiskOperation::Read {
                    return complain("faults", "fault", "disk-errors: only what is read can vanish while it is read");
                }
                process("disk-errors")
            }
            FaultKind::Partition { peer, .. } => {
                process("partition")?;
                if !self.is_process(peer) || peer == target {
                    return complain("faults", "fault", format!("partition: no other process is called {peer:?}"));
                }
                Ok(())
            }
            FaultKind::SlowChannel { extra_ms } => {
                within("faults", "fault", *extra_ms, 0, LONGEST_MS)?;
                channel(target, by_event)
            }
            FaultKind::HoldChannel {} => channel(target, by_event),
            FaultKind::PowerLoss { restart_after_ms } => process("power-loss").and_then(|()| restart(restart_after_ms)),
            FaultKind::SeparateDevice {} => process("separate-device"),
            FaultKind::StalledDisk {} => process("stalled-disk"),
            FaultKind::SlowDisk { factor } => {
                within("faults", "fault", (*factor).into(), 1, 1_000_000)?;
                process("slow-disk")
            }
            FaultKind::LateMessages {} => process("late-messages"),
            FaultKind::ResetConnections { peer } => {
                process("reset-connections").and_then(|()| self.other(peer, target))
            }
            FaultKind::HalfOpen { peer } => process("half-open").and_then(|()| self.other(peer, target)),
            FaultKind::JitterStorm { peer, up_to_ms } => {
                within("faults", "fault", *up_to_ms, 0, LONGEST_MS)?;
                process("jitter-storm").and_then(|()| self.other(peer, target))
            }
            FaultKind::BandwidthCollapse { peer, divided_by } => {
                within("faults", "fault", (*divided_by).into(), 1, u64::from(u32::MAX))?;
                process("bandwidth-collapse").and_then(|()| self.other(peer, target))
            }
            FaultKind::FlappingLink { peer, down_ms, up_ms } => {
                within("faults", "fault", *down_ms, 1, LONGEST_MS)?;
                within("faults", "fault", *up_ms, 1, LONGEST_MS)?;
                process("flapping-link").and_then(|()| self.other(peer, target))
            }
            FaultKind::DuplicateMessages { peer, delay_ms, .. } => {
                within("faults", "fault", *delay_ms, 0, LONGEST_MS)?;
                process("duplicate-messages").and_then(|()| self.other(peer, target))?;
                let one_leads = [peer.as_str(), target].contains(&JOB_MANAGER);
                if !one_leads && target != EMITTER {
                    let message = format!("duplicate-messages: one of target and peer is {JOB_MANAGER:?}");
                    return complain("faults", "fault", message);
                }
                Ok(())
            }
            FaultKind::JoinLate { after_ms } => {
                restart(after_ms)?;
                from_the_start(&fault.trigger)?;
                if target != JOB_MANAGER && self.is_process(target) {
                    return Ok(());
                }
                complain("faults", "target", format!("join-late needs a TaskManager, not {target:?}"))
            }
            FaultKind::SecondJobManager { takeover_after_ms, contend_ms, .. } => {
                within("faults", "fault", *takeover_after_ms, 0, LONGEST_MS)?;
                within("faults", "fault", *contend_ms, 0, LONGEST_MS)?;
                if target == JOB_MANAGER {
                    return Ok(());
                }
                let message = format!("second-job-manager has the target {JOB_MANAGER:?}, not {target:?}");
                complain("faults", "target", message)
            }
            FaultKind::Rescale { parallelism, restart_after_ms } => {
                restart(&Some(*restart_after_ms))?;
                if target != JOB_MANAGER {
                    let message = format!("rescale has the target {JOB_MANAGER:?}, not {target:?}");
                    return complain("faults", "target", message);
                }
                let slots = u64::from(self.cluster.task_managers) * u64::from(self.cluster.slots);
                if *parallelism == 0 || u64::from(*parallelism) > slots {
                    let message = format!("rescale: {parallelism} does not fit the {slots} slots of the cluster");
                    return complain("faults", "fault", message);
                }
                Ok(())
            }
            FaultKind::Savepoint {} | FaultKind::StopAndResume { .. } if target != JOB_MANAGER => {
                let message = format!("savepoints have the target {JOB_MANAGER:?}, not {target:?}");
                complain("faults", "target", message)
            }
            FaultKind::Savepoint {} => Ok(()),
            FaultKind::StopAndResume { parallelism, restart_after_ms, .. } => {
                restart(&Some(*restart_after_ms))?;
                let slots = u64::from(self.cluster.task_managers) * u64::from(self.cluster.slots);
                if *parallelism == 0 || u64::from(*parallelism) > slots {
                    let message =
                        format!("stop-and-resume: {parallelism} does not fit the {slots} slots of the cluster");
                    return complain("faults", "fault", message);
                }
                Ok(())
            }
            FaultKind::MemoryLimit { headroom_bytes, restart_after_ms } => {
                within("faults", "fault", *headroom_bytes, 0, 1 << 50)?;
                process("memory-limit").and_then(|()| restart(&Some(*restart_after_ms)))
            }
            FaultKind::LoseRack { members, restart_after_ms, .. } => {
                self.rack(target, members).and_then(|()| restart(restart_after_ms))
            }
            FaultKind::CutRack { members } => self.rack(target, members),
            FaultKind::ClockSkew { by_ms } => {
                from_the_start(&fault.trigger)?;
                within("faults", "fault", by_ms.unsigned_abs(), 0, 365 * LONGEST_MS)?;
                process("clock-skew")
            }
            FaultKind::ClockJump { by_ms } => {
                within("faults", "fault", by_ms.unsigned_abs(), 0, 365 * LONGEST_MS)?;
                process("clock-jump")
            }
            FaultKind::ClockDrift { parts_per_million } => {
                if !(-900_000..=9_000_000).contains(parts_per_million) {
                    let message = format!("{parts_per_million} is not within -900000..=9000000");
                    return complain("faults", "fault", message);
                }
                process("clock-drift")
            }
            FaultKind::StoreErrors { .. }
            | FaultKind::StoreThrottled { .. }
            | FaultKind::StoreSlow { .. }
            | FaultKind::StoreReads { .. }
            | FaultKind::LingeringDeletes { .. }
            | FaultKind::StoreOutage {}
            | FaultKind::LoseObject { .. }
            | FaultKind::CorruptObject { .. } => {
                if target == STORE {
                    Ok(())
                } else {
                    complain("faults", "target", format!("faults of the store have the target {STORE:?}"))
                }
            }
        }
    }
}

/// For what cannot begin later than the run.
fn from_the_start(trigger: &Trigger) -> Result<(), Complaint> {
    match trigger {
        Trigger::AtMs(0) => Ok(()),
        _ => complain("faults", "trigger", "this fault is there from the start: write at_ms = 0"),
    }
}

fn channel(target: &str, by_event: bool) -> Result<(), Complaint> {
    if target.contains("->") || (target == ENTITY && by_event) {
        Ok(())
    } else {
        let message = format!(
            "{target:?} is no channel; write it as read[0]->count[1], or {ENTITY:?} with an event trigger on one"
        );
        complain("faults", "target", message)
    }
}
