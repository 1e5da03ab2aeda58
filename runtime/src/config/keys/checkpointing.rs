//! Keys of checkpoints and recovery (Flink `ExecutionCheckpointingOptions`, `CheckpointingOptions`, `StateRecoveryOptions`; in 1.8
//! most of them were methods of `CheckpointConfig`).

use std::time::Duration;

use crate::{
    config::key::{Choice, Key, Kind, Means, Standing},
    recovery::choice::FallbackBehindCommit,
};

const EACH: &str = "each_key_changes_what_it_says";
const TEN_MILLISECONDS: Duration = Duration::from_millis(10);

/// In range by the table.
fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

macro_rules! not_yet {
    ($name:literal, $default:expr, $meaning:literal, $kind:expr, $instead:literal) => {
        Key {
            name: $name,
            older: &[],
            default: $default,
            meaning: $meaning,
            kind: $kind,
            standing: Standing::NotYet($instead),
            test: EACH,
        }
    };
}

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "execution.checkpointing.interval",
        older: &[],
        default: Some("10 s"),
        meaning: "from one checkpoint to the next; raised to the minimum pause",
        kind: Kind::Duration {
            at_least: TEN_MILLISECONDS,
            set: |settings, time| settings.cluster.checkpoint.interval = time,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "execution.checkpointing.mode",
        older: &[],
        default: Some("EXACTLY_ONCE"),
        meaning: "what a record counts for after a failure",
        kind: Kind::Choice(&[
            Choice { value: "EXACTLY_ONCE", also: &[], means: Means::Sets(|_| {}) },
            Choice {
                value: "AT_LEAST_ONCE",
                also: &[],
                means: Means::Instead(
                    "barriers are aligned all the same, and every record counts exactly once",
                    |_| {},
                ),
            },
        ]),
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "execution.checkpointing.timeout",
        older: &[],
        default: Some("10 min"),
        meaning: "a checkpoint that takes longer is given up",
        kind: Kind::Duration {
            at_least: TEN_MILLISECONDS,
            set: |settings, time| settings.cluster.checkpoint.timeout = time,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "execution.checkpointing.min-pause",
        older: &[],
        default: Some("0 ms"),
        meaning: "from the end of the last successful checkpoint to the start of the next, at least",
        kind: Kind::Duration {
            at_least: Duration::ZERO,
            set: |settings, time| settings.cluster.checkpoint.min_pause = time,
        },
        standing: Standing::Works,
        test: "a_minimum_pause_raises_the_interval",
    },
    Key {
        name: "execution.checkpointing.max-concurrent-checkpoints",
        older: &[],
        default: Some("1"),
        meaning: "checkpoints that may be in progress at once",
        kind: Kind::Integer {
            at_least: 1,
            at_most: 1 << 20,
            set: |settings, number| settings.cluster.checkpoint.max_concurrent = count(number),
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "execution.checkpointing.num-retained",
        older: &["state.checkpoints.num-retained"],
        default: Some("1"),
        meaning: "completed checkpoints that are kept; there is no limit of time; 0 and less mean 1, with a warning",
        kind: Kind::Integer {
            at_least: i64::MIN,
            at_most: i64::MAX,
            set: |settings, number| settings.cluster.checkpoint.retained = count(number.max(1)),
        },
        standing: Standing::Works,
        test: "no_retained_checkpoint_means_one",
    },
    Key {
        name: "execution.checkpointing.tolerable-failed-checkpoints",
        older: &[],
        default: None,
        meaning: "failed checkpoints in a row before the job fails; without it any number",
        kind: Kind::Integer {
            at_least: 0,
            at_most: u32::MAX as i64,
            set: |settings, number| settings.cluster.checkpoint.tolerable_failures = Some(count(number)),
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "recovery.fallback-behind-commit",
        older: &[],
        default: Some("replay"),
        meaning: "Weir's own: what to do if state is lost and the checkpoint before it is behind committed output. replay: \
                  repeat what lies between with its output muted; fail; duplicate: write it again",
        kind: Kind::Choice(&[
            Choice {
                value: "replay",
                also: &[],
                means: Means::Sets(|settings| settings.cluster.fallback_behind_commit = FallbackBehindCommit::Replay),
            },
            Choice {
                value: "fail",
                also: &[],
                means: Means::Sets(|settings| settings.cluster.fallback_behind_commit = FallbackBehindCommit::Fail),
            },
            Choice {
                value: "duplicate",
                also: &[],
                means: Means::Instead(
                    "after a loss of state, output that is committed already is written a second time",
                    |settings| settings.cluster.fallback_behind_commit = FallbackBehindCommit::Duplicate,
                ),
            },
        ]),
        standing: Standing::Works,
        test: EACH,
    },
    not_yet!(
        "execution.checkpointing.externalized-checkpoint-retention",
        Some("NO_EXTERNALIZED_CHECKPOINTS"),
        "what becomes of the last checkpoints when the job ends",
        Kind::Choice(&[
            Choice { value: "NO_EXTERNALIZED_CHECKPOINTS", also: &[], means: Means::Sets(|_| {}) },
            Choice { value: "DELETE_ON_CANCELLATION", also: &[], means: Means::Sets(|_| {}) },
            Choice { value: "RETAIN_ON_CANCELLATION", also: &[], means: Means::Sets(|_| {}) },
        ]),
        "the last checkpoints stay when the job ends"
    ),
    not_yet!(
        "execution.checkpointing.unaligned.enabled",
        Some("false"),
        "barriers overtake records",
        Kind::Boolean(|_, _| {}),
        "checkpoints are aligned"
    ),
    not_yet!(
        "execution.checkpointing.aligned-checkpoint-timeout",
        Some("0 ms"),
        "when an aligned checkpoint becomes an unaligned one",
        Kind::Duration { at_least: Duration::ZERO, set: |_, _| {} },
        "checkpoints stay aligned"
    ),
    not_yet!(
        "execution.checkpointing.interval-during-backlog",
        None,
        "the interval while a source works off a backlog",
        Kind::Duration { at_least: Duration::ZERO, set: |_, _| {} },
        "the interval is always the same"
    ),
    not_yet!(
        "execution.checkpointing.checkpoints-after-tasks-finish",
        Some("true"),
        "go on taking checkpoints when some tasks have finished",
        Kind::Boolean(|_, _| {}),
        "checkpoints go on until the whole job ends, with a last one"
    ),
    not_yet!(
        "execution.state-recovery.path",
        None,
        "the savepoint or checkpoint a job starts from",
        Kind::Place(|_, _| {}),
        "a job goes on from its own last checkpoint (weir run --resume)"
    ),
    not_yet!(
        "execution.state-recovery.ignore-unclaimed-state",
        Some("false"),
        "leave state behind that no operator asks for",
        Kind::Boolean(|_, _| {}),
        "such state is refused"
    ),
    not_yet!(
        "execution.state-recovery.claim-mode",
        Some("NO_CLAIM"),
        "who owns the snapshot that a job starts from",
        Kind::Choice(&[
            Choice { value: "NO_CLAIM", also: &[], means: Means::Sets(|_| {}) },
            Choice { value: "CLAIM", also: &[], means: Means::Sets(|_| {}) },
            Choice { value: "LEGACY", also: &[], means: Means::Refused("removed from Flink as well") },
        ]),
        "a job goes on from checkpoints of its own"
    ),
    not_yet!(
        "web.checkpoints.history",
        Some("10"),
        "checkpoints whose figures are remembered",
        Kind::Integer { at_least: 0, at_most: 1 << 20, set: |_, _| {} },
        "there is no web page yet"
    ),
    Key {
        name: "task.checkpoint.alignment.max-size",
        older: &[],
        default: Some("-1"),
        meaning: "bytes that an alignment may buffer; -1: any number",
        kind: Kind::Integer { at_least: -1, at_most: i64::MAX, set: |_, _| {} },
        standing: Standing::NoMeaning("an alignment buffers nothing: it stops the senders"),
        test: EACH,
    },
];
