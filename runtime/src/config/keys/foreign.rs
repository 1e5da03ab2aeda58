//! Keys of Flink that Weir takes and does nothing with, by the beginning of their names. They stand in many configurations, so they
//! are no errors; each that is used is said once.

/// Keys that begin alike.
pub struct Family {
    /// The whole name, or its beginning with the dot that follows.
    pub begins: &'static str,
    /// Why nothing comes of it.
    pub why: &'static str,
}

const JVM: &str = "there is no JVM";
const RPC: &str = "Weir's calls are not Akka's";
const MEMORY: &str = "memory is not divided beforehand";
const DEPLOYMENT: &str = "Weir does not start its own processes";
const NETWORK: &str = "every channel has a window of its own";
const HIGH_AVAILABILITY: &str = "the head log in primary storage is always there, without ZooKeeper";
const WEB: &str = "there is no web page yet";
const RESTART: &str = "Weir restarts by fixed delay";
const PROGRAM: &str = "it is for programs in Java, SQL or Python";
const LIMITS: &str = "there is no such service in Weir yet";

macro_rules! families {
    ($($why:ident: $($begins:literal)+;)+) => {
        &[$($(Family { begins: $begins, why: $why },)+)+]
    };
}

pub const FAMILIES: &[Family] = families! {
    JVM: "env." "classloader." "jmx.";
    RPC: "akka." "pekko.";
    MEMORY: "jobmanager.memory." "jobmanager.heap." "taskmanager.heap." "taskmanager.memory.";
    NETWORK: "taskmanager.network." "taskmanager.net.";
    HIGH_AVAILABILITY: "high-availability" "high-availability." "zookeeper.";
    WEB: "web." "rest." "historyserver." "metrics.";
    RESTART: "restart-strategy.failure-rate." "restart-strategy.exponential-delay.";
    DEPLOYMENT: "yarn." "kubernetes." "mesos." "jobmanager." "taskmanager." "containerized." "resourcemanager." "external-resource.";
    PROGRAM: "pipeline." "table." "sql-" "python." "execution.runtime-mode" "execution.attached"
        "execution.shutdown-on-attached-exit" "execution.target" "$internal.";
    LIMITS: "security." "blob." "fs." "s3." "hadoop." "io." "cluster." "queryable-state." "slotmanager." "jobstore."
        "execution.checkpointing.file-merging." "execution.checkpointing.cleaner." "execution.checkpointing.unaligned."
        "execution.checkpointing.create-subdir" "execution.state-recovery.without-channel-state." "state.backend.changelog."
        "state.changelog." "dstl." "state.backend.forst." "state.backend.rocksdb.log." "state.backend.latency-track."
        "state.latency-track." "task.cancellation." "slot.";
};

/// The family that a key belongs to; the longest beginning counts.
pub fn family_of(key: &str) -> Option<&'static Family> {
    let belongs = |family: &&Family| {
        key == family.begins
            || (family.begins.ends_with(['.', '-'])
                && key.len() > family.begins.len()
                && key.starts_with(family.begins))
    };
    FAMILIES.iter().filter(belongs).max_by_key(|family| family.begins.len())
}
