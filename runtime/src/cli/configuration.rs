//! `--config`, `-D` and `weir config`: the layers of a configuration, read and put over each other.

use std::path::{Path, PathBuf};

use clap::Args;

use super::run::{JobArguments, RunError, build_job};
use crate::{
    cluster::config::ClusterConfig,
    config::{self, Configured, Layer, Origin, Registry},
    graph::Job,
    ids::JobId,
    layout::LocalLayout,
    platform::{
        RelPath,
        real::{prepare_root, read_configuration},
    },
    recovery::import::SavepointRestore,
};

/// A configuration is smaller; what is longer is something else.
const LONGEST_BYTES: u64 = 4 << 20;
/// Today's comes first.
const FILE_NAMES: [&str; 2] = ["config.yaml", "flink-conf.yaml"];

/// What suits a cluster in one process, for one job, with somebody waiting for it.
pub const RUN_DEFAULTS: &[(&str, &str)] = &[
    ("execution.checkpointing.interval", "200 ms"),
    ("execution.checkpointing.num-retained", "2"),
    ("heartbeat.interval", "1 s"),
    ("heartbeat.timeout", "10 s"),
    ("parallelism.default", "2"),
    ("restart-strategy.type", "fixed-delay"),
    ("restart-strategy.fixed-delay.attempts", "10"),
    ("restart-strategy.fixed-delay.delay", "100 ms"),
    ("slot.request.timeout", "30 s"),
    ("task.cancellation.timeout", "30 s"),
];

/// What suits a cluster of processes. All of one cluster must be configured alike.
pub const PROCESS_DEFAULTS: &[(&str, &str)] =
    &[("execution.checkpointing.interval", "1 s"), ("parallelism.default", "2")];

/// How state is kept if there is no configuration file. If there is one, what it does not say is as Flink has it.
const STATE_DEFAULTS: &[(&str, &str)] = &[
    ("state.backend.type", "filesystem"),
    ("execution.checkpointing.local-backup.enabled", "true"),
    ("execution.state-recovery.from-local", "true"),
];

#[derive(Args, Debug, Default)]
pub struct ConfigurationArguments {
    /// A flink-conf.yaml (flat) or config.yaml (nested), or a directory with one of them.
    #[arg(long = "config", value_name = "FILE|DIR")]
    pub file: Option<PathBuf>,
    /// One key; wins over the file. May be given several times.
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    pub define: Vec<String>,
}

#[derive(Args)]
pub struct ListArguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// Only keys that were given a value.
    #[arg(long)]
    given: bool,
    /// The page of the documentation.
    #[arg(long, conflicts_with = "given")]
    markdown: bool,
}

/// What `weir config` prints.
///
/// # Errors
/// [`RunError`].
pub fn list(arguments: &ListArguments) -> Result<String, RunError> {
    if arguments.markdown {
        return Ok(config::markdown().trim_end().to_string());
    }
    let configured = configured(&arguments.configuration, RUN_DEFAULTS, Vec::new())?;
    for notice in &configured.notices {
        eprintln!("weir: note: {notice}");
    }
    Ok(config::listing(&configured, arguments.given))
}

/// A job and the cluster it is to run on, as they are configured.
pub struct Prepared {
    pub job: Job,
    pub cluster: ClusterConfig,
    /// Primary storage.
    pub output: PathBuf,
    /// For databases; empty: the process's own disk.
    pub local_directories: Vec<String>,
    /// For local copies of state; empty: the process's own disk.
    pub local_roots: Vec<String>,
    /// What the job begins with.
    pub from_savepoint: Option<SavepointRestore>,
}

/// Reads the configuration, builds the job, decides about its state. Prints what has to be said.
///
/// # Errors
/// [`RunError`].
pub fn prepare(
    arguments: &JobArguments,
    defaults: &[(&str, &str)],
    mut flags: Vec<(&'static str, String, Origin)>,
) -> Result<Prepared, RunError> {
    if let Some(parallelism) = arguments.parallelism {
        flags.push(("parallelism.default", parallelism.to_string(), Origin::Flag("--parallelism")));
    }
    let configured = configured(&arguments.configuration, defaults, flags)?;
    let mut job = build_job(arguments, &configured)?;
    let from_savepoint = arguments.restore()?;
    if let Some(from) = &from_savepoint {
        // Another job than that which wrote it, and the same in all processes and after a restart.
        job.id = JobId(xxhash_rust::xxh3::xxh3_128(format!("{} from {}", job.name, from.path).as_bytes()));
    }
    let (mut cluster, state) =
        configured.cluster(&job.state, &Registry::default()).map_err(|refusal| RunError::Usage(refusal.to_string()))?;
    let output = output(arguments.output.as_deref(), state.directory.as_deref())?;
    let (local_directories, skipped) = local_directories(&configured)?;
    let (local_roots, no_roots) = local_roots(&configured)?;
    cluster.task.local_roots = u32::try_from(local_roots.len()).unwrap_or(u32::MAX);
    for notice in configured.notices.iter().chain(&state.notices).chain(&skipped).chain(&no_roots) {
        eprintln!("weir: note: {notice}");
    }
    Ok(Prepared { job, cluster, output, local_directories, local_roots, from_savepoint })
}

/// Primary storage is one directory: checkpoints, the head log and the output lie side by side in it.
fn output(asked: Option<&Path>, configured: Option<&str>) -> Result<PathBuf, RunError> {
    match (asked, configured) {
        (Some(asked), None) => Ok(asked.to_path_buf()),
        (None, Some(configured)) => Ok(PathBuf::from(configured)),
        (Some(asked), Some(configured))
            if std::path::absolute(asked).is_ok_and(|path| path == Path::new(configured)) =>
        {
            Ok(asked.to_path_buf())
        }
        (Some(asked), Some(configured)) => Err(RunError::Usage(format!(
            "--output is {}, and the configured directory of checkpoints {configured}; both are primary storage: give one, or the same",
            asked.display()
        ))),
        (None, None) => Err(RunError::Usage(
            "say where checkpoints and output go: --output DIR, or state.checkpoints.dir".to_string(),
        )),
    }
}

/// Everything that was said, from the lowest to the highest: what suits the command, the file, `-D`, options of the command line.
///
/// # Errors
/// [`RunError`]: the first thing that is wrong, and how many others there are.
pub fn configured(
    arguments: &ConfigurationArguments,
    defaults: &[(&str, &str)],
    flags: Vec<(&str, String, Origin)>,
) -> Result<Configured, RunError> {
    let usage = |error: &dyn std::fmt::Display| RunError::Usage(error.to_string());
    let mut layers = vec![Layer::default()];
    let of_state = if arguments.file.is_none() { STATE_DEFAULTS } else { &[] };
    for (key, value) in defaults.iter().chain(of_state) {
        layers[0].set(key, *value, Origin::Program("weir"));
    }
    if let Some(path) = &arguments.file {
        layers.push(read(path)?);
    }
    let mut defined = Layer::default();
    for text in &arguments.define {
        let (key, entry) = config::define(text).map_err(|error| usage(&error))?;
        defined.entries.insert(key, entry);
    }
    layers.push(defined);
    let mut last = Layer::default();
    for (key, value, origin) in flags {
        last.set(key, value, origin);
    }
    layers.push(last);
    config::configure(layers).map_err(|refused| match refused.as_slice() {
        [only] => usage(only),
        [first, others @ ..] => RunError::Usage(format!("{first} (and {} more)", others.len())),
        [] => RunError::Usage("the configuration is refused".to_string()),
    })
}

fn read(path: &Path) -> Result<Layer, RunError> {
    let (file, bytes) = read_configuration(path, &FILE_NAMES, LONGEST_BYTES)
        .map_err(|error| RunError::Environment(format!("cannot read the configuration {error}")))?;
    let name = file.display().to_string();
    let text = String::from_utf8(bytes).map_err(|_| RunError::Usage(format!("{name}: not UTF-8")))?;
    let flat = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("flink-conf"));
    if flat {
        return Ok(config::flat(&name, &text));
    }
    config::nested(&name, &text).map_err(|error| RunError::Usage(error.to_string()))
}

/// The directories for databases that can be used, in order, and what has to be said of the others.
///
/// # Errors
/// If some are configured and none can be used.
pub fn local_directories(configured: &Configured) -> Result<(Vec<String>, Vec<String>), RunError> {
    let probe = |path: &str| prepare_root(Path::new(path)).map(|_| ());
    let asked = &configured.settings.state.rocksdb.local_directories;
    usable("state.backend.rocksdb.localdir", asked, probe).map_err(RunError::Environment)
}

/// The directories for local copies of state that can be used, in order, and what has to be said of the others.
///
/// # Errors
/// If some are configured and none can be used.
fn local_roots(configured: &Configured) -> Result<(Vec<String>, Vec<String>), RunError> {
    let probe = |path: &str| prepare_root(Path::new(path)).map(|_| ());
    let asked = &configured.settings.state.local_roots;
    usable("execution.checkpointing.local-backup.dirs", asked, probe).map_err(RunError::Environment)
}

fn usable(
    key: &str,
    asked: &[String],
    probe: impl Fn(&str) -> Result<(), String>,
) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut good, mut skipped) = (Vec::new(), Vec::new());
    for path in asked {
        match probe(path) {
            Ok(()) => good.push(path.clone()),
            Err(error) => skipped.push(format!("{key}: {path} is skipped: {error}")),
        }
    }
    if good.is_empty() && !skipped.is_empty() {
        return Err(format!("{key}: none of {} can be used; {}", asked.join(", "), skipped.join("; ")));
    }
    Ok((good, skipped))
}

/// Where the databases of a process are: the directories are used in turn. Below them a directory for each primary storage, so
/// that two clusters of one machine do not meet. None: on the process's own disk.
pub fn native_root(directories: &[String], primary: &Path, process: &str, number: usize) -> Option<PathBuf> {
    let directory = directories.get(number.checked_rem(directories.len())?)?;
    Some(own_directory(directory, primary, process))
}

/// Directories for local copies of state, each process's own part of them, with their names on its disk.
pub fn mounts(directories: &[String], primary: &Path, process: &str) -> Vec<(RelPath, PathBuf)> {
    let named = (0..).zip(directories);
    named.map(|(n, directory)| (LocalLayout::mount(n), own_directory(directory, primary, process))).collect()
}

/// What a process has for itself of a directory that others use too.
fn own_directory(directory: &str, primary: &Path, process: &str) -> PathBuf {
    let absolute = std::path::absolute(primary).unwrap_or_else(|_| primary.to_path_buf());
    let cluster = xxhash_rust::xxh3::xxh3_64(absolute.as_os_str().as_encoded_bytes());
    Path::new(directory).join(format!("weir-{cluster:016x}")).join(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R116.
    #[test]
    fn local_directories_are_used_in_turn_and_bad_ones_skipped() {
        let asked = ["/a", "/full", "/b"].map(str::to_string);
        let probe = |path: &str| if path == "/full" { Err("no space left".to_string()) } else { Ok(()) };
        let key = "state.backend.rocksdb.localdir";
        let (good, skipped) = usable(key, &asked, probe).expect("two are left");
        assert_eq!(good, ["/a", "/b"]);
        assert_eq!(skipped, ["state.backend.rocksdb.localdir: /full is skipped: no space left"]);
        let primary = Path::new("/primary");
        let of = |number| native_root(&good, primary, "tm", number).expect("configured");
        assert!(of(0).starts_with("/a") && of(1).starts_with("/b") && of(2) == of(0));
        assert_ne!(native_root(&good, Path::new("/other"), "tm", 0), Some(of(0)));
        assert_eq!(native_root(&[], primary, "tm", 3), None);
        let none = usable(key, &asked[1..2], probe).expect_err("none is left");
        assert!(none.contains("none of /full can be used"), "{none}");
        assert_eq!(usable(key, &[], probe), Ok((Vec::new(), Vec::new())));
    }

    #[test]
    fn what_suits_a_command_is_allowed_and_gives_way() {
        for defaults in [RUN_DEFAULTS, PROCESS_DEFAULTS] {
            let usual = configured(&ConfigurationArguments::default(), defaults, Vec::new()).expect("allowed");
            assert_eq!(usual.notices, Vec::<String>::new());
        }
        let usual = configured(&ConfigurationArguments::default(), RUN_DEFAULTS, Vec::new()).expect("allowed");
        assert_eq!(usual.settings.cluster.restart_attempts, Some(10));
        let define = vec!["restart-strategy=none".to_string(), "parallelism.default=3".to_string()];
        let flags = vec![("parallelism.default", "5".to_string(), Origin::Flag("--parallelism"))];
        let arguments = ConfigurationArguments { file: None, define };
        let said = configured(&arguments, RUN_DEFAULTS, flags).expect("allowed");
        assert_eq!((said.settings.cluster.restart_attempts, said.settings.job.parallelism), (Some(0), Some(5)));
    }
}
