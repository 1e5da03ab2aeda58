//! From a seed to a plan. One stream per section and feature: a draw added to one shifts no other.

use std::collections::BTreeMap;

use runtime::state::BackendKind;

use super::{
    backend::DrawnBackend,
    draw::Draw,
    faults::{FaultClass, FaultSpec},
    generate_faults,
    model::{
        ClusterShape, DiskSettings, FallbackBehindCommit, LinkSettings, PLAN_VERSION, Plan, Settings, Span,
        StoreSettings, USER_ERROR_AT, USER_PANIC_AT, WorkloadPlan,
    },
    profile::{Profile, Switch},
};

use crate::workloads::{GROUPS, MAX_PARALLELISM, STATES};

/// The profile whose jobs take what slots there are.
pub const REACTIVE: &str = "reactive";

/// The workload of generated plans.
pub const DEFAULT_WORKLOAD: &str = "audit";

/// Of the runs of most profiles, those with the job that has every kind of state.
const STATES_PERCENT: u64 = 15;

/// About what one record of the input is in the output.
const BYTES_PER_RECORD: u64 = 64;

/// What the swarm has turned on for one seed.
pub struct Swarm {
    pub classes: Vec<FaultClass>,
    /// What the job's owner does, drawn beside the faults.
    pub of_the_owner: Vec<FaultClass>,
    pub local_recovery: bool,
}

impl Swarm {
    fn of(profile: &Profile, seed: u64) -> Swarm {
        let is_on = |class: &FaultClass| {
            // Each class has its own stream: a class added to a profile leaves the others of that seed alone.
            let percent = profile.percent(*class);
            Draw::new(seed, &format!("swarm/{}", class.name())).chance(percent)
        };
        let (of_the_owner, faults): (Vec<FaultClass>, Vec<FaultClass>) =
            profile.faults.iter().copied().partition(|class| class.is_of_the_owner());
        let of_the_owner = of_the_owner.into_iter().filter(is_on).collect();
        let mut classes: Vec<FaultClass> = faults.iter().copied().filter(is_on).collect();
        if classes.is_empty() && !faults.is_empty() {
            classes.push(*Draw::new(seed, "swarm/only").pick(&faults));
        }
        let mut draw = Draw::new(seed, "swarm/local-recovery");
        let wanted = draw.chance(55);
        let yields = draw.chance(70);
        let loses_objects =
            classes.iter().any(|class| matches!(class, FaultClass::LostObject | FaultClass::CorruptObject));
        let local_recovery = match profile.local_recovery {
            Switch::On => true,
            Switch::Off => false,
            // A lost object is only missed where no local copy stands in for it.
            Switch::Drawn => wanted && !(loses_objects && yields),
        };
        Swarm { classes, of_the_owner, local_recovery }
    }
}

/// The plan of `seed`.
pub fn generate(profile: &Profile, seed: u64) -> Plan {
    let swarm = Swarm::of(profile, seed);
    let (cluster, parallelism) = cluster(seed);
    let workload_ms = Draw::new(seed, "workload/duration").within(7_000, 13_000);
    let workload = workload(profile.name, seed, parallelism, cluster.task_managers * cluster.slots, workload_ms);
    let mut plan = Plan {
        version: PLAN_VERSION,
        seed,
        schedule_seed: None,
        profile: profile.name.to_string(),
        healed_by_ms: 0,
        time_limit_ms: 0,
        sabotage: Vec::new(),
        reseed: None,
        cluster,
        settings: settings(profile.name, seed, &swarm),
        network: network(seed),
        disk: disk(seed),
        store: store(seed),
        modelled: None,
        workload,
        faults: Vec::new(),
    };
    // A store that cannot take the whole output within the time of a request would prove only that such a job is hopeless.
    let most_bytes = plan.workload.records * BYTES_PER_RECORD * 1_000 / plan.settings.store_operation_timeout_ms;
    plan.store.bytes_per_second = plan.store.bytes_per_second.max(2 * most_bytes);
    with_every_state(&mut plan, profile, seed);
    if Draw::new(seed, "settings/rocksdb").chance(profile.rocksdb_percent()) {
        with_rocksdb(&mut plan, seed);
    }
    plan.faults = generate_faults::faults(&plan, &swarm, workload_ms);
    for (class, parameter) in [(FaultClass::UserPanic, USER_PANIC_AT), (FaultClass::UserError, USER_ERROR_AT)] {
        let record = Draw::new(seed, parameter).within(plan.workload.records / 5, plan.workload.records * 4 / 5);
        if swarm.classes.contains(&class) {
            plan.workload.parameters.insert(parameter.to_string(), record);
        }
    }
    // The last fault begins within the time of the input and has some seconds to show its effect.
    let last_end = plan.faults.iter().map(fault_end).max().unwrap_or(0).max(workload_ms);
    plan.healed_by_ms = last_end + 2_000;
    plan.time_limit_ms = plan.healed_by_ms + 60_000;
    plan
}

fn fault_end(fault: &FaultSpec) -> u64 {
    match &fault.trigger {
        super::faults::Trigger::AtMs(at) => at + fault.duration_ms,
        super::faults::Trigger::On { delay_ms, .. } => delay_ms + fault.duration_ms,
    }
}

fn cluster(seed: u64) -> (ClusterShape, u32) {
    let mut draw = Draw::new(seed, "cluster");
    let parallelism = *draw.weighted(&[(25, 2u32), (50, 3), (25, 4)]);
    let slots = *draw.weighted(&[(45, 1u32), (45, 2), (10, 3)]);
    let spare = *draw.weighted(&[(35, 0u32), (45, 1), (20, 2)]);
    let fewest = *draw.weighted(&[(30, 2u32), (70, 3)]);
    let task_managers = (parallelism.div_ceil(slots) + spare).max(fewest);
    (ClusterShape { task_managers, slots }, parallelism)
}

fn settings(profile: &str, seed: u64, swarm: &Swarm) -> Settings {
    let mut draw = Draw::new(seed, "settings/checkpoints");
    let checkpoint_interval_ms = draw.within(300, 800);
    let checkpoint_timeout_ms = draw.within(1_200, 4_000);
    let min_pause_ms = if draw.chance(50) { 0 } else { draw.within(10, checkpoint_interval_ms / 2) };
    let max_concurrent = *draw.weighted(&[(65, 1u32), (25, 2), (10, 3)]);
    let retained = *draw.weighted(&[(10, 1u32), (30, 2), (40, 3), (20, 4)]);
    let mut draw = Draw::new(seed, "settings/cluster");
    let heartbeat_interval_ms = draw.within(200, 500);
    let heartbeat_timeout_ms = draw.within(1_000, 3_000).max(heartbeat_interval_ms * 3);
    let restart_delay_ms = *draw.pick(&[0, 10, 50, 200, 500]);
    let connect_timeout_ms = draw.within(500, 2_000);
    let mut draw = Draw::new(seed, "settings/data");
    let buffer_bytes = *draw.pick(&[64u32, 128, 256, 512, 1_024, 4_096]);
    let channel_window_bytes = buffer_bytes * *draw.pick(&[1u32, 2, 4, 8]);
    let buffer_timeout_ms = *draw.pick(&[1, 5, 20, 50, 100]);
    let source_batch_records = *draw.pick(&[1u32, 4, 16, 64]);
    let parts_per_snapshot = *draw.weighted(&[(15, 1u32), (25, 2), (60, 4)]);
    let mut draw = Draw::new(seed, "settings/store");
    let store_operation_timeout_ms = draw.within(300, 1_000);
    let patient_ms = draw.within(3_000, 8_000);
    // Seldom so little patience that a snapshot is declined, or a restore postponed, before anything else gives up.
    let mut draw = Draw::new(seed, "settings/store-patience");
    let (is_impatient, more_ms) = (draw.chance(12), draw.within(100, 700));
    let store_total_timeout_ms = if is_impatient { store_operation_timeout_ms + more_ms } else { patient_ms };
    let spread_out_slots = Draw::new(seed, "settings/spread-out-slots").chance(50);
    let reactive = profile == REACTIVE;
    let mut draw = Draw::new(seed, "settings/elasticity");
    let (stabilization_ms, cooldown_ms) = (*draw.pick(&[0, 100, 500, 1_500]), *draw.pick(&[0, 300, 1_000, 3_000]));
    let backend = DrawnBackend::of(profile, seed, &swarm.classes);
    let local = LocalShape::of(profile, seed);
    Settings {
        checkpoint_interval_ms,
        checkpoint_timeout_ms,
        min_pause_ms,
        max_concurrent,
        retained,
        tolerable_failures: None,
        heartbeat_interval_ms,
        heartbeat_timeout_ms,
        restart_delay_ms,
        restart_attempts: None,
        fallback_behind_commit: FallbackBehindCommit::Replay,
        local_recovery: swarm.local_recovery,
        local_roots: local.roots,
        local_memory_bytes: local.memory_bytes,
        parts_per_snapshot,
        buffer_bytes,
        buffer_timeout_ms,
        channel_window_bytes,
        source_batch_records,
        store_operation_timeout_ms,
        store_total_timeout_ms,
        connect_timeout_ms,
        backend: backend.kind,
        incremental: backend.incremental,
        small_state_threshold_bytes: backend.small_state_threshold_bytes,
        transfer_piece_bytes: transfer_piece_bytes(profile, seed),
        compression: backend.compression,
        spread_out_slots,
        reactive,
        stabilization_ms: if reactive { stabilization_ms } else { 0 },
        cooldown_ms: if reactive { cooldown_ms } else { 0 },
        timers_in_rocksdb: false,
        ttl_compaction_filter: false,
    }
}

/// How local copies are kept.
struct LocalShape {
    roots: u32,
    memory_bytes: u64,
}

impl LocalShape {
    /// As files in one directory, but in some runs of the profile that is about them.
    fn of(profile: &str, seed: u64) -> LocalShape {
        let mut draw = Draw::new(seed, "settings/local-roots");
        let (several, roots) = (draw.chance(25), *draw.pick(&[2, 3]));
        let mut draw = Draw::new(seed, "settings/local-memory");
        // Sometimes so few bytes that the oldest copies go.
        let (in_memory, memory_bytes) = (draw.chance(12), *draw.pick(&[2_000, 20_000, 1 << 20]));
        let is_about_them = profile == "local-recovery";
        LocalShape {
            roots: if is_about_them && several { roots } else { 0 },
            memory_bytes: if is_about_them && in_memory { memory_bytes } else { 0 },
        }
    }
}

/// Where the store is what goes wrong, or its objects are what counts, most parts of a snapshot are larger than a piece.
fn transfer_piece_bytes(profile: &str, seed: u64) -> u64 {
    let mut draw = Draw::new(seed, "settings/transfer-pieces");
    match profile {
        "store" | "incremental" => *draw.weighted(&[(40, 0u64), (25, 60), (20, 150), (15, 500)]),
        "rocksdb" => *draw.weighted(&[(30, 0u64), (35, 600), (20, 1_500), (15, 5_000)]),
        _ => 0,
    }
}

/// A database is dear to open: few subtasks have one, and few faults restart them.
fn with_rocksdb(plan: &mut Plan, seed: u64) {
    plan.settings.backend = BackendKind::RocksDb;
    plan.settings.incremental = Draw::new(seed, "settings/incremental-rocksdb").chance(70);
    plan.settings.timers_in_rocksdb = Draw::new(seed, "settings/timers-in-rocksdb").chance(50);
    plan.settings.ttl_compaction_filter = Draw::new(seed, "settings/ttl-compaction-filter").chance(50);
    plan.workload.parallelism = plan.workload.parallelism.min(2);
    // A database is many small files, each of them some requests: a checkpoint is given the time that the store takes for those.
    let middle_us = |span: Span| (span.min_us + span.max_us) / 2;
    let latency_us = middle_us(plan.store.latency) + middle_us(plan.disk.latency);
    let least_ms = requests_in_a_row(plan.settings.transfer_piece_bytes) * latency_us / 1_000;
    plan.settings.checkpoint_timeout_ms = plan.settings.checkpoint_timeout_ms.max(least_ms);
    if Draw::new(seed, "workload/second-database").chance(60) {
        plan.workload.parameters.remove(GROUPS);
    }
}

/// How many requests wait for each other in the snapshot of a chain with two databases, of which one file is transferred at a time:
/// some files of state that are new, the longer one that lists them, and half as much again for what else is under way.
fn requests_in_a_row(piece_bytes: u64) -> u64 {
    const FILES: u64 = 14;
    const FILE_BYTES: u64 = 3_000;
    const MANIFEST_BYTES: u64 = 9_000;
    let requests_for = |bytes: u64| match piece_bytes {
        0 => 1,
        _ if bytes <= piece_bytes => 1,
        _ => 2 + bytes.div_ceil(piece_bytes),
    };
    2 * (FILES * requests_for(FILE_BYTES) + requests_for(MANIFEST_BYTES)) * 3 / 2
}

fn span(draw: &mut Draw, min: (u64, u64), up_to_times: u64) -> Span {
    let min_us = draw.within(min.0, min.1);
    Span { min_us, max_us: min_us * draw.within(1, up_to_times) }
}

fn network(seed: u64) -> LinkSettings {
    let mut draw = Draw::new(seed, "network");
    LinkSettings {
        latency: span(&mut draw, (50, 1_500), 8),
        jitter_us: *draw.pick(&[0, 20, 200, 2_000]),
        bytes_per_second: *draw.pick(&[200_000, 2_000_000, 100_000_000]),
        window_bytes: *draw.pick(&[4_096, 65_536, 1_048_576]),
        dead_peer_timeout_ms: draw.within(3_000, 8_000),
    }
}

fn disk(seed: u64) -> DiskSettings {
    let mut draw = Draw::new(seed, "disk");
    DiskSettings {
        latency: span(&mut draw, (20, 2_000), 6),
        bytes_per_second: *draw.pick(&[1_000_000, 20_000_000, 500_000_000]),
        capacity_bytes: 1 << 30,
    }
}

fn store(seed: u64) -> StoreSettings {
    let mut draw = Draw::new(seed, "store");
    StoreSettings {
        latency: span(&mut draw, (500, 15_000), 5),
        bytes_per_second: *draw.pick(&[500_000, 5_000_000, 100_000_000]),
    }
}

/// Incremental runs have few keys: some parts of the state then stay as they are for a while.
fn workload(profile: &str, seed: u64, parallelism: u32, most_subtasks: u32, duration_ms: u64) -> WorkloadPlan {
    let mut draw = Draw::new(seed, "workload");
    let records = draw.within(700, 1_800) * pressure(seed);
    WorkloadPlan {
        name: DEFAULT_WORKLOAD.to_string(),
        records,
        keys: if profile == "incremental" { draw.within(2, 16) } else { draw.within(4, 60) },
        splits: *draw.pick(&[2u32, 3, 4, 6]),
        parallelism,
        records_per_second: (records * 1_000).div_ceil(duration_ms),
        parameters: BTreeMap::from_iter(two_stages(seed).into_iter().chain(key_groups(seed, most_subtasks))),
    }
}

/// In some runs the job that has every kind of managed state, in place of the one that is audited by its folds. More often
/// where epochs are replayed, which its timers and windows make harder.
fn with_every_state(plan: &mut Plan, profile: &Profile, seed: u64) {
    let percent = if profile.name == "fallback" { 40 } else { STATES_PERCENT };
    if Draw::new(seed, "workload/states").chance(percent) {
        plan.workload.name = STATES.to_string();
        plan.workload.parameters.remove(GROUPS);
    }
}

/// In some runs so many times the records come in the same time: whatever holds up a consumer then fills what is in front of it.
fn pressure(seed: u64) -> u64 {
    let mut draw = Draw::new(seed, "workload/pressure");
    let (wanted, times) = (draw.chance(10), draw.within(6, 12));
    if wanted { times } else { 1 }
}

/// In some runs another number of key groups than the usual one, down to as many as there may ever be subtasks.
fn key_groups(seed: u64, most_subtasks: u32) -> Option<(String, u64)> {
    let mut draw = Draw::new(seed, "workload/key-groups");
    let (wanted, fewest) = (draw.chance(40), u64::from(most_subtasks));
    let max_parallelism = *draw.pick(&[fewest, fewest + 1, fewest * 2 + 3, 97, 300]);
    wanted.then(|| (MAX_PARALLELISM.to_string(), max_parallelism.max(fewest)))
}

/// A second keyed exchange, in most runs.
fn two_stages(seed: u64) -> BTreeMap<String, u64> {
    let mut draw = Draw::new(seed, "workload/stages");
    let (wanted, groups) = (draw.chance(75), draw.within(2, 9));
    wanted.then(|| (GROUPS.to_string(), groups)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::profile::{ALL, DEFAULT};

    #[test]
    fn every_generated_plan_is_valid() {
        for profile in ALL {
            for seed in 0..300 {
                let plan = generate(profile, seed);
                assert_eq!(plan.check(), Ok(()), "{} seed {seed}", profile.name);
            }
        }
    }

    #[test]
    fn the_swarm_turns_every_class_on_and_off() {
        for class in DEFAULT.faults {
            let swarms = (0..200).map(|seed| Swarm::of(&DEFAULT, seed));
            let on = swarms.filter(|s| s.classes.contains(class) || s.of_the_owner.contains(class)).count();
            assert!((6..180).contains(&on), "{class:?} is on in {on} of 200 seeds");
        }
    }

    #[test]
    fn the_default_profile_keeps_its_floor_in_what_the_plan_decides() {
        let mut task_managers = Vec::new();
        let mut records = Vec::new();
        let mut checkpoints = Vec::new();
        let mut faults = Vec::new();
        for seed in 0..301 {
            let plan = generate(&DEFAULT, seed);
            task_managers.push(u64::from(plan.cluster.task_managers));
            records.push(plan.workload.records);
            faults.push(plan.faults.len() as u64);
            let run_ms = plan.workload.records * 1_000 / plan.workload.records_per_second;
            checkpoints.push(run_ms / (plan.settings.checkpoint_interval_ms + 50));
        }
        let median = |mut values: Vec<u64>| {
            values.sort_unstable();
            values[values.len() / 2]
        };
        assert!(median(task_managers) >= 3);
        assert!(median(records) >= 1_000);
        assert!(median(checkpoints) >= 10);
        assert!(median(faults) >= 3);
    }

    #[test]
    fn the_quiet_profile_is_quiet() {
        let quiet = Profile::named("quiet").expect("declared");
        for seed in 0..50 {
            let plan = generate(quiet, seed);
            assert!(plan.faults.is_empty() && plan.sabotage.is_empty());
            let switches = &plan.workload.parameters;
            assert!(!switches.contains_key(USER_PANIC_AT) && !switches.contains_key(USER_ERROR_AT));
        }
    }
}
