//! Keys of the state backends (Flink `CheckpointingOptions`, `StateBackendOptions`, `ExecutionOptions`).

use crate::config::{
    backend::Storage,
    key::{Choice, Key, Kind, Means, Standing},
};

const EACH: &str = "each_key_changes_what_it_says";

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "state.backend.type",
        older: &["state.backend"],
        default: Some("jobmanager"),
        meaning: "where working state lives and its snapshots go: jobmanager (heap; inside the acknowledgement), filesystem \
                  (heap; files), rocksdb (databases; files), hashmap (heap; as the checkpoint storage says), or the name \
                  of a registered factory",
        kind: Kind::Text {
            of: "jobmanager, filesystem, rocksdb, hashmap, or the name of a registered factory",
            set: |settings, name| settings.state.backend = Some(name),
        },
        standing: Standing::Works,
        test: "a_backend_is_chosen_by_any_of_its_names",
    },
    Key {
        name: "execution.checkpointing.storage",
        older: &["state.checkpoint-storage"],
        default: None,
        meaning: "where hashmap puts its snapshots; without it filesystem if a checkpoint directory is configured, else jobmanager",
        kind: Kind::Choice(&[
            Choice {
                value: "jobmanager",
                also: &["org.apache.flink.runtime.state.storage.JobManagerCheckpointStorageFactory"],
                means: Means::Sets(|settings| settings.state.storage = Some(Storage::JobManager)),
            },
            Choice {
                value: "filesystem",
                also: &["org.apache.flink.runtime.state.storage.FileSystemCheckpointStorageFactory"],
                means: Means::Sets(|settings| settings.state.storage = Some(Storage::Filesystem)),
            },
        ]),
        standing: Standing::Works,
        test: "hashmap_goes_where_the_storage_says",
    },
    Key {
        name: "execution.checkpointing.dir",
        older: &["state.checkpoints.dir", "state.backend.fs.checkpointdir"],
        default: None,
        meaning: "the directory of primary storage: data and metadata of checkpoints are below it; kept by count and by \
                  policy, never deleted for their age",
        kind: Kind::Place(|settings, path| settings.state.checkpoint_directory = Some(path)),
        standing: Standing::Works,
        test: "the_directory_of_checkpoints_has_three_names",
    },
    Key {
        name: "execution.checkpointing.savepoint-dir",
        older: &["state.savepoints.dir", "savepoints.state.backend.fs.dir"],
        default: None,
        meaning: "where savepoints go that do not name a target",
        kind: Kind::Place(|settings, path| settings.state.savepoint_directory = Some(path)),
        standing: Standing::Works,
        test: "savepoints_go_where_the_trigger_or_the_key_says",
    },
    Key {
        name: "state.backend.async",
        older: &[],
        default: Some("true"),
        meaning: "encode and write snapshots of heap state while the stream goes on; false is for debugging, and RocksDB \
                  ignores it",
        kind: Kind::Boolean(|settings, on| settings.state.async_snapshots = on),
        standing: Standing::Works,
        test: "synchronous_snapshots_are_for_debugging_and_not_for_rocksdb",
    },
    Key {
        name: "execution.checkpointing.incremental",
        older: &["state.backend.incremental"],
        default: Some("false"),
        meaning: "RocksDB: write only files that the last confirmed checkpoint does not have; other backends ignore it",
        kind: Kind::Boolean(|settings, on| settings.state.incremental = on),
        standing: Standing::Works,
        test: "incremental_is_rocksdbs_alone_and_code_wins",
    },
    Key {
        name: "execution.checkpointing.data-inline-threshold",
        older: &["state.storage.fs.memory-threshold", "state.backend.fs.memory-threshold"],
        default: Some("1 kb"),
        meaning: "a piece of state of at most this size lies in the metadata instead of a file of its own",
        kind: Kind::Size {
            at_least: 0,
            at_most: 1 << 20,
            set: |settings, bytes| settings.state.small_state_threshold = bytes,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "execution.checkpointing.write-buffer-size",
        older: &["state.storage.fs.write-buffer-size", "state.backend.fs.write-buffer-size"],
        default: Some("4 kb"),
        meaning: "buffer of a stream of state",
        kind: Kind::Size { at_least: 1, at_most: u64::MAX, set: |_, _| {} },
        standing: Standing::NoMeaning("state is uploaded in pieces of 8 mb"),
        test: EACH,
    },
    Key {
        name: "pekko.framesize",
        older: &["akka.framesize"],
        default: Some("10 mb"),
        meaning: "the longest message between JobManager and TaskManager, and so the most that jobmanager state may have",
        kind: Kind::Size {
            at_least: 1 << 10,
            at_most: 1 << 30,
            set: |settings, bytes| settings.cluster.task.frame_bytes = bytes,
        },
        standing: Standing::Works,
        test: EACH,
    },
    Key {
        name: "state.backend.jobmanager.max-total-size",
        older: &[],
        default: Some("1 gb"),
        meaning: "Weir's own: so much state may travel with the acknowledgements of all checkpoints under way together, and lie in the \
                  JobManager's memory; a checkpoint with which it is more is declined",
        kind: Kind::Size {
            at_least: 1,
            at_most: u64::MAX,
            set: |settings, bytes| settings.cluster.checkpoint.inline_state_budget_bytes = bytes,
        },
        standing: Standing::Works,
        test: "inline_state_beyond_the_budget_declines_the_checkpoint",
    },
    Key {
        name: "execution.checkpointing.snapshot-compression",
        older: &[],
        default: Some("false"),
        meaning: "compress full snapshots with Snappy, each key group by itself; RocksDB's files always are",
        kind: Kind::Boolean(|settings, on| settings.state.compression = on),
        standing: Standing::Works,
        test: "compressed_parts_are_restored",
    },
    Key {
        name: "execution.checkpointing.local-backup.enabled",
        older: &["state.backend.local-recovery"],
        default: Some("false"),
        meaning: "keep a copy of each snapshot on the TaskManager's disk; jobmanager state ignores it",
        kind: Kind::Boolean(|settings, on| settings.state.local_backup = on),
        standing: Standing::Works,
        test: "local_recovery_is_one_old_key_or_two_new_ones",
    },
    Key {
        name: "execution.state-recovery.from-local",
        older: &["state.backend.local-recovery"],
        default: Some("false"),
        meaning: "restore from the local copy where there is one, and go back to the slots a task had",
        kind: Kind::Boolean(|settings, on| settings.state.restore_from_local = on),
        standing: Standing::Works,
        test: "local_recovery_is_one_old_key_or_two_new_ones",
    },
    Key {
        name: "execution.checkpointing.local-backup.dirs",
        older: &["taskmanager.state.local.root-dirs"],
        default: None,
        meaning: "where local copies lie, by turns of the checkpoint's id; without: in localState on the TaskManager's own disk",
        kind: Kind::Directories(|settings, roots| settings.state.local_roots = roots),
        standing: Standing::Works,
        test: "several_directories_are_used_by_turns",
    },
    Key {
        name: "execution.checkpointing.local-backup.memory",
        older: &[],
        default: None,
        meaning: "Weir's own: keep local copies as objects in memory, so many bytes at most on each TaskManager, and not as files; \
                  files of RocksDB stay files",
        kind: Kind::Size {
            at_least: 1,
            at_most: u64::MAX,
            set: |settings, bytes| settings.state.local_memory = Some(bytes),
        },
        standing: Standing::Works,
        test: "copies_in_memory_survive_the_task_and_not_the_process",
    },
];
