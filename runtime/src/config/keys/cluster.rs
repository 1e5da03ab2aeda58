//! Keys of the cluster: heartbeats, slots, restarts, network.

use std::time::Duration;

use crate::{
    cluster::elasticity::SchedulerMode,
    config::{
        key::{Choice, Key, Kind, Means, Standing},
        settings::RestartStrategy,
    },
};

const EACH: &str = "each_key_changes_what_it_says";
const A_MILLISECOND: Duration = Duration::from_millis(1);

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "heartbeat.interval",
        older: &[],
        default: Some("10 s"),
        meaning: "from one heartbeat to the next",
        kind: Kind::Duration {
            at_least: A_MILLISECOND,
            set: |settings, time| settings.cluster.heartbeat_interval = time,
        },
        standing: Standing::Works,
        test: "heartbeats_come_before_they_are_missed",
    },
    Key {
        name: "heartbeat.timeout",
        older: &[],
        default: Some("50 s"),
        meaning: "a peer that was silent for so long is given up",
        kind: Kind::Duration {
            at_least: A_MILLISECOND,
            set: |settings, time| settings.cluster.heartbeat_timeout = time,
        },
        standing: Standing::Works,
        test: "heartbeats_come_before_they_are_missed",
    },
    Key {
        name: "heartbeat.rpc-failure-threshold",
        older: &[],
        default: Some("2"),
        meaning: "failed calls in a row after which a peer is given up",
        kind: Kind::Integer { at_least: -1, at_most: 1 << 20, set: |_, _| {} },
        standing: Standing::NotYet("a broken connection or silence gives a peer up"),
        test: EACH,
    },
    Key {
        name: "slot.request.timeout",
        older: &[],
        default: Some("5 min"),
        meaning: "the job fails if it cannot get its slots within it",
        kind: Kind::Duration {
            at_least: A_MILLISECOND,
            set: |settings, time| settings.cluster.slot_request_timeout = time,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "cluster.evenly-spread-out-slots",
        older: &[],
        default: Some("false"),
        meaning: "tasks that have no slot from before go where the least part of the slots is in use; false: TaskManagers are filled \
                  one after the other",
        kind: Kind::Boolean(|settings, on| settings.cluster.evenly_spread_out_slots = on),
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "scheduler-mode",
        older: &[],
        default: None,
        meaning: "reactive: the job has as many subtasks as there are slots, up to its max parallelism, and is rescaled when \
                  TaskManagers join or leave",
        kind: Kind::Choice(&[Choice {
            value: "reactive",
            also: &[],
            means: Means::Sets(|settings| settings.cluster.elasticity.mode = SchedulerMode::Reactive),
        }]),
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "jobmanager.adaptive-scheduler.submission.resource-wait-timeout",
        older: &["jobmanager.adaptive-scheduler.resource-wait-timeout"],
        default: None,
        meaning: "a reactive job that finds no slot fails after it; without it it waits",
        kind: Kind::Duration {
            at_least: A_MILLISECOND,
            set: |settings, time| settings.cluster.elasticity.resource_wait_timeout = Some(time),
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "jobmanager.adaptive-scheduler.submission.resource-stabilization-timeout",
        older: &["jobmanager.adaptive-scheduler.resource-stabilization-timeout"],
        default: Some("0 ms"),
        meaning: "so long the slots must not have changed before a reactive job starts on fewer than it could use",
        kind: Kind::Duration {
            at_least: Duration::ZERO,
            set: |settings, time| settings.cluster.elasticity.resource_stabilization_timeout = time,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "jobmanager.adaptive-scheduler.executing.cooldown-after-rescaling",
        older: &["jobmanager.adaptive-scheduler.scaling-interval.min"],
        default: Some("30 s"),
        meaning: "a reactive job is not rescaled so soon after it was started",
        kind: Kind::Duration {
            at_least: Duration::ZERO,
            set: |settings, time| settings.cluster.elasticity.cooldown_after_rescaling = time,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "jobmanager.adaptive-scheduler.executing.resource-stabilization-timeout",
        older: &[],
        default: Some("0 ms"),
        meaning: "so long the slots must not have changed before a running reactive job is rescaled",
        kind: Kind::Duration {
            at_least: Duration::ZERO,
            set: |settings, time| settings.cluster.elasticity.executing_stabilization_timeout = time,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "jobmanager.adaptive-scheduler.min-parallelism-increase",
        older: &[],
        default: Some("1"),
        meaning: "a running reactive job is not rescaled for less than this",
        kind: Kind::Integer {
            at_least: 1,
            at_most: 1 << 15,
            set: |settings, number| {
                settings.cluster.elasticity.min_parallelism_increase = u32::try_from(number).unwrap_or(1);
            },
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "slot.idle.timeout",
        older: &[],
        default: Some("50 s"),
        meaning: "a slot that nobody uses is given back after it",
        kind: Kind::Duration { at_least: Duration::ZERO, set: |_, _| {} },
        standing: Standing::NoMeaning("slots stay with the job as long as it lives, so that tasks find them again"),
        test: EACH,
    },
    Key {
        name: "task.cancellation.timeout",
        older: &[],
        default: Some("3 min"),
        meaning: "tasks that do not stop within it cost their TaskManager its registration; 0: never",
        kind: Kind::Duration {
            at_least: Duration::ZERO,
            set: |settings, time| settings.cluster.cancellation_timeout = if time.is_zero() { NEVER } else { time },
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "task.cancellation.interval",
        older: &[],
        default: Some("30 s"),
        meaning: "from one interruption of a task's thread to the next",
        kind: Kind::Duration { at_least: Duration::ZERO, set: |_, _| {} },
        standing: Standing::NoMeaning("threads cannot be interrupted; a task looks whether it is cancelled"),
        test: EACH,
    },
    Key {
        name: "jobmanager.execution.failover-strategy",
        older: &[],
        default: Some("full"),
        meaning: "what is restarted when a task fails",
        kind: Kind::Choice(&[
            Choice { value: "full", also: &[], means: Means::Sets(|_| {}) },
            Choice {
                value: "region",
                also: &[],
                means: Means::Instead("a failure restarts the whole job, not only a region of it", |_| {}),
            },
            Choice {
                value: "individual",
                also: &[],
                means: Means::Refused("it does not restore state, and Flink has removed it"),
            },
        ]),
        standing: Standing::Works,
        test: "known_values_that_weir_cannot_do_are_said_or_refused",
    },
    Key {
        name: "restart-strategy.type",
        older: &["restart-strategy"],
        default: None,
        meaning: "whether a failed job is restarted; without it by fixed delay and without limit",
        kind: Kind::Choice(&[
            Choice {
                value: "none",
                also: &["off", "disable", "no-restart"],
                means: Means::Sets(|settings| settings.restart.strategy = Some(RestartStrategy::None)),
            },
            Choice {
                value: "fixed-delay",
                also: &["fixeddelay"],
                means: Means::Sets(|settings| settings.restart.strategy = Some(RestartStrategy::FixedDelay)),
            },
            Choice {
                value: "failure-rate",
                also: &["failurerate"],
                means: Means::Refused("Flink's; Weir cannot do it yet"),
            },
            Choice {
                value: "exponential-delay",
                also: &["exponentialdelay"],
                means: Means::Refused("Flink's; Weir cannot do it yet"),
            },
        ]),
        standing: Standing::Works,
        test: "restarts_are_counted_as_the_strategy_says",
    },
    Key {
        name: "restart-strategy.fixed-delay.attempts",
        older: &[],
        default: None,
        meaning: "restarts before the job fails; 1 if fixed-delay is chosen without it",
        kind: Kind::Integer {
            at_least: 0,
            at_most: u32::MAX as i64,
            set: |settings, number| settings.restart.attempts = u32::try_from(number).ok(),
        },
        standing: Standing::Works,
        test: "restarts_are_counted_as_the_strategy_says",
    },
    Key {
        name: "restart-strategy.fixed-delay.delay",
        older: &[],
        default: Some("0 ms"),
        meaning: "from the end of an execution to its restart",
        kind: Kind::Duration { at_least: Duration::ZERO, set: |settings, time| settings.cluster.restart_delay = time },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "parallelism.default",
        older: &[],
        default: None,
        meaning: "the parallelism of a job that does not say its own",
        kind: Kind::Integer {
            at_least: 1,
            at_most: 1 << 15,
            set: |settings, number| settings.job.parallelism = u32::try_from(number).ok(),
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "pipeline.max-parallelism",
        older: &[],
        default: None,
        meaning: "the number of key groups, and so the highest parallelism ever, of a job that does not say its own",
        kind: Kind::Integer {
            at_least: 1,
            at_most: 1 << 15,
            set: |settings, number| settings.job.max_parallelism = u16::try_from(number).ok(),
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "taskmanager.memory.segment-size",
        older: &[],
        default: Some("32 kb"),
        meaning: "a network buffer is sent when it holds so much",
        kind: Kind::Size {
            at_least: 1 << 10,
            at_most: 64 << 20,
            set: |settings, bytes| settings.cluster.task.buffer_bytes = u32::try_from(bytes).unwrap_or(u32::MAX),
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "execution.buffer-timeout.interval",
        older: &["execution.buffer-timeout"],
        default: Some("100 ms"),
        meaning: "a network buffer is sent when its first record has waited so long",
        kind: Kind::Duration {
            at_least: A_MILLISECOND,
            set: |settings, time| settings.cluster.task.buffer_timeout = time,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "taskmanager.numberOfTaskSlots",
        older: &[],
        default: None,
        meaning: "slots of a TaskManager",
        kind: Kind::Integer { at_least: 1, at_most: 1 << 15, set: |_, _| {} },
        standing: Standing::NotYet("weir run gives its TaskManagers the slots that the job needs"),
        test: EACH,
    },
];

/// Longer than any cluster lives.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
