//! Configurations as people write them: files on a real disk, typed commands, databases.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a harness prepares and inspects the real machine; the law holds for the runtime"
)]

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use runtime::config::{BACKENDS, keys};

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");

fn weir(arguments: &[&str]) -> Output {
    Command::new(WORKER).arg("weir").args(arguments).output().expect("the worker starts")
}

fn flights(arguments: &[&str]) -> Output {
    weir(&[&["run", "flights", "--quiet"][..], arguments].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it put out, without the line that says how long it took; its notices.
fn finished(output: &Output) -> (String, String) {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let all = text(&output.stdout);
    let results = all.split_once("\n\n").expect("a summary").1.to_string();
    (results, text(&output.stderr))
}

/// R9, R89, R107: each of the names, in either kind of file, says where primary storage is; the document's own sample works.
#[test]
fn a_configuration_file_says_where_checkpoints_go() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (usual, _) = finished(&flights(&["--output", scratch.path().join("usual").to_str().expect("text")]));
    let place = |name: &str| scratch.path().join(name).display().to_string();
    for (number, (file, line)) in [
        ("flink-conf.yaml", "state.backend: filesystem\nstate.checkpoints.dir: file://PLACE\n"),
        ("flink-conf.yaml", "state.backend.fs.checkpointdir: PLACE # old\nstate.backend: rocksdb\n"),
        (
            "config.yaml",
            "state:\n  backend:\n    type: rocksdb\nexecution:\n  checkpointing:\n    dir: 'file://PLACE'\n",
        ),
        ("config.yaml", "execution.checkpointing.dir: PLACE\nstate.backend.type: hashmap\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let (conf, data) = (scratch.path().join(format!("conf-{number}")), place(&format!("data-{number}")));
        std::fs::create_dir(&conf).expect("a directory");
        std::fs::write(conf.join(file), line.replace("PLACE", &data)).expect("a file");
        let (results, notices) = finished(&flights(&["--config", conf.to_str().expect("text")]));
        assert_eq!((results.as_str(), notices.as_str()), (usual.as_str(), ""), "{line}");
        for part in ["ha", "output"] {
            assert!(Path::new(&data).join(part).is_dir(), "{part} of {line}");
        }
    }
}

/// R77, R80, R87, R211: with a configuration that says nothing, state travels with the acknowledgements to the JobManager, and the
/// job says so at start; nothing but metadata lies in the checkpoint.
#[test]
fn an_empty_configuration_keeps_state_with_the_jobmanager() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = |name: &str| scratch.path().join(name).display().to_string();
    std::fs::write(scratch.path().join("config.yaml"), "# nothing\n").expect("a file");
    let run = flights(&["--output", &path("output"), "--config", scratch.path().to_str().expect("text")]);
    let (_, notices) = finished(&run);
    assert_eq!(notices, "weir: note: state.backend is not configured: the backend is jobmanager\n");
    let files = files_below(&scratch.path().join("output/checkpoints"));
    assert!(!files.is_empty() && files.iter().all(|name| name.contains("_metadata")), "{files:?}");
}

fn files_below(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("readable").path());
    let below = |path: std::path::PathBuf| match path.is_dir() {
        true => files_below(&path),
        false => vec![path.display().to_string()],
    };
    entries.flat_map(below).collect()
}

/// R111, R114: one line that names the place, the key, the value and what is accepted; nothing is started or written.
#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let scratch = tempfile::tempdir().expect("a directory");
    let conf = scratch.path().join("flink-conf.yaml");
    let name = conf.to_str().expect("text");
    let output = scratch.path().join("output");
    let output = output.to_str().expect("text");
    std::fs::write(&conf, "# mine\nstate.backend: rocksbd\n").expect("a file");
    let refused = |arguments: &[&str], status: i32| {
        let run = flights(&[arguments, &["--output", output]].concat());
        let line = text(&run.stderr);
        assert_eq!((run.status.code(), line.lines().count()), (Some(status), 1), "{arguments:?}: {line}");
        assert!(!Path::new(output).exists(), "{arguments:?}");
        line
    };
    let line = refused(&["--config", name], 64);
    assert_eq!(
        line.trim_end(),
        format!(
            "weir: {name}:2: state.backend: \"rocksbd\" is refused; accepted: jobmanager, filesystem, rocksdb, hashmap"
        )
    );
    assert!(refused(&["-D", "state.checkpoints.dir=hdfs://namenode:40010/x"], 64).contains("no store for hdfs://"));
    assert!(refused(&["-D", "heartbeat.interval"], 64).contains("write it as -D key=value"));
    assert!(refused(&["--config", "/nowhere"], 20).contains("/nowhere"));
    assert!(
        refused(&["--config", scratch.path().join("..").to_str().expect("text")], 20)
            .contains("neither config.yaml nor")
    );
    // The command line wins over the file.
    let (_, notices) = finished(&flights(&["--config", name, "-D", "state.backend=filesystem", "--output", output]));
    assert_eq!(notices, "");
}

/// R116: databases are where they were told to be, in turn; a directory that cannot be used is skipped with a warning.
#[test]
fn databases_are_in_the_local_directories() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = |name: &str| scratch.path().join(name).display().to_string();
    std::fs::write(path("a-file"), "").expect("a file");
    let directories = format!("state.backend.rocksdb.localdir={},{},{}", path("one"), path("a-file"), path("two"));
    let run = flights(&["--output", &path("output"), "-D", "state.backend=rocksdb", "-D", &directories, "--events"]);
    let (_, events) = finished(&run);
    assert!(events.contains(&format!("state.backend.rocksdb.localdir: {} is skipped", path("a-file"))), "{events}");
    assert!(events.contains("DatabaseOpened"), "the job's state is in databases");
    for directory in ["one", "two"] {
        let processes: BTreeSet<String> = std::fs::read_dir(path(directory))
            .expect("it was used")
            .flat_map(|cluster| std::fs::read_dir(cluster.expect("readable").path()).expect("a directory"))
            .map(|process| process.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        assert!(processes.iter().any(|process| process.starts_with("tm-")), "{directory}: {processes:?}");
    }
    let none =
        flights(&["--output", &path("none"), "-D", &format!("state.backend.rocksdb.localdir={}", path("a-file"))]);
    assert_eq!(none.status.code(), Some(20));
    assert!(text(&none.stderr).contains("none of"), "{}", text(&none.stderr));
}

/// R106: each metric that is on is reported for each state with each snapshot, none otherwise.
#[test]
fn native_metrics_are_reported_when_they_are_switched_on() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let run = |name: &str, more: &[&str]| {
        let common = ["--output", &path(name), "--events", "-D", "state.backend=rocksdb"].map(str::to_string);
        let common: Vec<&str> = common.iter().map(String::as_str).collect();
        finished(&flights(&[&common[..], more].concat())).1
    };
    assert!(!run("off", &[]).contains("DatabaseMetric"));
    let on = run("on", &["-D", "state.backend.rocksdb.metrics.estimate-num-keys=true"]);
    let reports: Vec<&str> = on.lines().filter(|line| line.contains("DatabaseMetric")).collect();
    assert!(!reports.is_empty() && reports.iter().all(|line| line.contains("estimate-num-keys")), "{reports:?}");
}

/// Behind each row of the table of keys is a test that exists.
#[test]
fn the_test_behind_each_key_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names = BTreeSet::new();
    for part in ["runtime/src", "tests/tests", "scenarios/src", "scenarios/tests"] {
        tests_below(&root.join(part), &mut names);
    }
    for key in keys::all() {
        assert!(names.contains(key.test), "{}: there is no test {}", key.name, key.test);
    }
    for (backend, test) in BACKENDS.iter().flat_map(|row| row.tests.iter().map(|test| (row.name, *test))) {
        assert!(names.contains(test), "{backend}: there is no test {test}");
    }
}

/// Names of functions below `#[test]`, or in `proptest!`, where that stands before each.
fn tests_below(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            tests_below(&path, names);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("a source file");
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[test]") {
            let name = pair[1].strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            names.extend(name.map(str::to_string));
        }
    }
}
