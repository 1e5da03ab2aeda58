//! What a run has left in primary storage, whichever world it ran in: the lines that were committed, and the newest state.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test reads what a run has left on the real machine"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use runtime::{
    checkpoint::types::{PartKind, PartLocation, StatePart},
    ids::OperatorUid,
};
use scenarios::{
    cluster_runner::{Jobs, start_cluster, world_config},
    invariants::{Formats, Manifest, RuntimeFormats},
    plan::Plan,
    workloads::WorkloadParams,
};
use sim::World;

/// By name.
pub type Objects = BTreeMap<String, Bytes>;

/// One entry of state: operator, state, key, value.
pub type Entry = (String, String, Vec<u8>, Vec<u8>);

/// All files below a directory that real processes share as primary storage.
///
/// # Panics
/// If they cannot be read.
pub fn of_directory(root: &Path) -> Objects {
    fn walk(root: &Path, directory: &Path, into: &mut Objects) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(root, &path, into);
            } else {
                let name = path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
                into.insert(name, std::fs::read(&path).expect("a file").into());
            }
        }
    }
    let mut objects = Objects::new();
    walk(root, root, &mut objects);
    objects
}

/// Runs the plan's job to its end in the simulated world, without faults, and gives what is left in the store. `prepare` may look at the
/// world before the processes start.
///
/// # Panics
/// If the job or the world does not end well.
pub fn of_simulated(plan: &Plan, prepare: impl FnOnce(&World) + Send + 'static) -> Objects {
    let params = WorkloadParams::of_plan(&plan.workload, plan.seed).expect("a workload");
    let (config, plan) = (world_config(plan), plan.clone());
    let outcome = sim::run(config, move |world| {
        let job = async move {
            let workload = params.build().expect("a job");
            for (path, bytes) in &workload.inputs {
                world.inputs().put(path, bytes.clone());
            }
            let jobs = Jobs::of(&plan, &params, &workload.job).expect("one job");
            prepare(&world);
            let end = start_cluster(&world, &plan, &jobs);
            while end.lock().expect("nobody panics with it").is_none() {
                world.sleep(Duration::from_millis(50)).await;
            }
            let outcome = end.lock().expect("nobody panics with it").take();
            assert_eq!(outcome.map(|o| format!("{o:?}")).as_deref(), Some("Ok(Finished)"));
            // Whatever is closed is closed by now.
            world.sleep(Duration::from_millis(500)).await;
            let store = world.store();
            let content = |name| store.peek(name).expect("it was listed");
            store.list("").iter().map(|meta| (meta.name.to_string(), content(&meta.name))).collect::<Objects>()
        };
        Box::pin(job)
    });
    outcome.value.expect("the world ended well")
}

/// The lines that were committed, by output, sorted.
///
/// # Panics
/// If a manifest does not parse, or an object that it names is not there.
pub fn committed_lines(objects: &Objects) -> BTreeMap<String, Vec<String>> {
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, bytes) in objects {
        let Some((output, manifest)) = name.strip_prefix("output/").and_then(|n| n.split_once("/_committed/")) else {
            continue;
        };
        // A writer that was killed may have left a file beside it.
        if !manifest.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let manifest = Manifest::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        for object in manifest.objects.iter().filter(|_| manifest.commit) {
            let text = String::from_utf8_lossy(&objects[&object.name]).into_owned();
            lines.entry(output.to_string()).or_default().extend(text.lines().map(str::to_string));
        }
    }
    lines.values_mut().for_each(|lines| lines.sort_unstable());
    lines
}

/// Where an object of a checkpoint lies: it is the `metadata` in a `<job>/chk-N`, `exclusive` beside that, or `shared` in `<job>/shared`. None
/// for what is of no checkpoint.
///
/// # Panics
/// If it lies elsewhere below `checkpoints/`.
pub fn place_in_checkpoints(name: &str) -> Option<&'static str> {
    let below = name.strip_prefix("checkpoints/")?;
    let [job, directory, file] = below.split('/').collect::<Vec<_>>()[..] else { panic!("{name}: not in a directory") };
    assert!(job.len() == 32 && job.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}: {job} is no job");
    let is_of_one = directory.strip_prefix("chk-").is_some_and(|number| number.parse::<u64>().is_ok());
    match (directory, file) {
        (_, "_metadata") if is_of_one => Some("metadata"),
        _ if is_of_one => Some("exclusive"),
        ("shared", _) => Some("shared"),
        _ => panic!("{name}: {directory} is no directory of checkpoints"),
    }
}

/// The entries of state of the newest checkpoint, decoded, whatever form they are stored in.
///
/// # Panics
/// If there is no checkpoint, or it does not decode.
pub fn newest_state(objects: &Objects) -> BTreeSet<Entry> {
    let number = |name: &str| -> Option<u64> {
        let (before, _) = name.strip_prefix("checkpoints/")?.split_once("/_metadata")?;
        before.rsplit_once("/chk-")?.1.parse().ok()
    };
    let newest = objects.keys().filter_map(|name| Some((number(name)?, name))).max().expect("a checkpoint is left");
    state_of(objects, newest.1)
}

/// The entries of state of the checkpoint or savepoint with this metadata.
///
/// # Panics
/// As [`newest_state`].
pub fn state_of(objects: &Objects, metadata: &str) -> BTreeSet<Entry> {
    let formats = RuntimeFormats;
    let snapshots = formats.metadata(&objects[metadata]).expect("its metadata decodes");
    let bytes_of = |part: &StatePart| match &part.location {
        // Those of a savepoint are named from where it lies.
        PartLocation::Object(name) => {
            let beside = metadata.rsplit_once('/').map(|(directory, _)| format!("{directory}/{name}"));
            let found = objects.get(name.as_str()).or_else(|| objects.get(&beside?));
            found.unwrap_or_else(|| panic!("{metadata} refers to {name}, which is not there")).clone()
        }
        PartLocation::Inline(bytes) => bytes.clone(),
    };
    let mut found = BTreeSet::new();
    for (subtask, snapshot) in &snapshots {
        let mut native: BTreeMap<OperatorUid, Vec<(String, Bytes)>> = BTreeMap::new();
        let mut take = |entries: Vec<scenarios::invariants::StateEntry>| {
            for entry in entries {
                let entry = (entry.operator.to_string(), entry.state, entry.key, entry.value);
                assert!(found.insert(entry.clone()), "{entry:?} is there twice");
            }
        };
        for part in &snapshot.parts {
            match &part.kind {
                PartKind::Shared { file } | PartKind::Private { file } => {
                    native.entry(part.operator.clone()).or_default().push((file.clone(), bytes_of(part)));
                }
                PartKind::Keyed | PartKind::Operator { .. } => {
                    take(formats.state(&part.operator, &bytes_of(part)).expect("a part decodes"));
                }
            }
        }
        let read = formats.native_state().expect("the runtime has databases");
        for (operator, files) in native {
            take(read(&operator, &files).expect("a database opens"));
        }
        for (operator, bytes) in &snapshot.inline {
            found.insert((operator.to_string(), format!("inline {subtask:?}"), Vec::new(), bytes.clone()));
        }
    }
    found
}
