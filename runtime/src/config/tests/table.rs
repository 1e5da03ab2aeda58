//! The table itself, and what single keys mean.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::{super::*, file, good, refused};
use crate::config::key::Means;

/// What a configuration changes in the settings, part by part.
fn changes(text: &str) -> String {
    fn part(usual: &impl std::fmt::Debug, changed: &impl std::fmt::Debug, found: &mut Vec<String>) {
        let lines = |text: String| text.lines().map(|line| line.trim().to_string()).collect::<Vec<_>>();
        let (usual, changed) = (lines(format!("{usual:#?}")), lines(format!("{changed:#?}")));
        let begin = usual.iter().zip(&changed).take_while(|(a, b)| a == b).count();
        let end = usual[begin..].iter().rev().zip(changed[begin..].iter().rev()).take_while(|(a, b)| a == b).count();
        found.extend_from_slice(&changed[begin..changed.len() - end]);
    }
    let (usual, changed) = (Settings::default(), good(text).settings);
    let mut found = Vec::new();
    part(&usual.cluster, &changed.cluster, &mut found);
    part(&usual.state, &changed.state, &mut found);
    part(&usual.job, &changed.job, &mut found);
    part(&usual.restart, &changed.restart, &mut found);
    if found.is_empty() { "nothing".to_string() } else { found.join(" ") }
}

/// Values to try: other than the default where that is possible.
fn samples(key: &Key) -> Vec<String> {
    match &key.kind {
        Kind::Boolean(_) => vec![if key.default == Some("true") { "false" } else { "true" }.to_string()],
        Kind::Fraction(_) => vec!["0.25".to_string()],
        Kind::Integer { at_least, at_most, .. } => vec![7.clamp(*at_least, *at_most).to_string()],
        Kind::Size { at_least, at_most, .. } => vec![format!("{}b", 12_345.clamp(*at_least, *at_most))],
        Kind::Duration { .. } => vec!["17 s".to_string()],
        Kind::Place(_) => vec!["file:///some/place".to_string()],
        Kind::Directories(_) => vec!["/a,/b".to_string()],
        Kind::Text { .. } => vec!["some-name".to_string()],
        Kind::Choice(choices) => {
            let allowed = choices.iter().filter(|choice| !matches!(choice.means, Means::Refused(_)));
            allowed.map(|choice| choice.value.to_string()).collect()
        }
    }
}

/// R161 (each key), R135: what each key sets, and nothing else; under each of its names.
#[test]
fn each_key_changes_what_it_says() {
    let mut text = String::new();
    for key in keys::all() {
        for value in samples(key) {
            let line = |name: &str| changes(&format!("{name}: {value}\n"));
            let changed = line(key.name);
            text.push_str(&format!("{}: {value} -> {changed}\n", key.name));
            for older in key.older.iter().filter(|name| **name != "state.backend.local-recovery") {
                assert_eq!(line(older), changed, "{older} means what {} means", key.name);
            }
            if matches!(key.standing, Standing::NoMeaning(_)) {
                assert_eq!(changed, "nothing", "{}", key.name);
            }
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_default_that_is_said_changes_nothing() {
    for key in keys::all() {
        let Some(default) = key.default else { continue };
        if matches!(key.name, "state.backend.type" | "state.backend.rocksdb.options-factory") {
            // Kept as said; what it means is the same, see `a_backend_is_chosen_by_any_of_its_names`.
            continue;
        }
        let said = good(&format!("{}: {default}\n", key.name));
        let mut expected = Settings::default();
        if key.name == "state.backend.rocksdb.memory.fixed-per-slot" {
            expected.state.rocksdb.memory_per_slot =
                Some(crate::state::rocksdb_options::memory::MemoryBudget::DEFAULT_PER_SLOT);
        }
        assert_eq!(said.settings, expected, "{}: {default}", key.name);
    }
}

#[test]
fn no_two_keys_have_a_name_in_common() {
    let mut names = BTreeMap::<&str, u32>::new();
    for name in keys::all().flat_map(Key::names) {
        *names.entry(name).or_default() += 1;
    }
    names.retain(|_, times| *times > 1);
    // One key of 1.8 became two.
    assert_eq!(names, BTreeMap::from([("state.backend.local-recovery", 2)]));
}

/// What is beyond every allowed value of a key, each way.
fn bad_values(key: &Key) -> Vec<String> {
    let mut bad = match &key.kind {
        Kind::Boolean(_) => vec!["yes".to_string(), "1".to_string()],
        Kind::Fraction(_) => vec!["1.5".to_string(), "-0.5".to_string()],
        Kind::Integer { at_least, at_most, .. } => {
            let outside = [at_least.checked_sub(1), at_most.checked_add(1)];
            outside
                .into_iter()
                .flatten()
                .map(|n| n.to_string())
                .chain(["many".to_string(), "1.5".to_string()])
                .collect()
        }
        Kind::Size { at_least, at_most, .. } => {
            let outside = [at_least.checked_sub(1), at_most.checked_add(1)];
            outside
                .into_iter()
                .flatten()
                .map(|n| format!("{n}b"))
                .chain(["-1".to_string(), "1 furlong".to_string()])
                .collect()
        }
        Kind::Duration { at_least, .. } => {
            let below = at_least.checked_sub(Duration::from_nanos(1)).map(|d| format!("{} ns", d.as_nanos()));
            below
                .into_iter()
                .chain(["-1 s".to_string(), "1 fortnight".to_string(), "999999999 d".to_string()])
                .collect()
        }
        Kind::Place(_) => vec!["hdfs:///x".to_string(), "a/b".to_string()],
        Kind::Directories(_) => vec!["a/b".to_string(), ",".to_string(), "/a,hdfs:///b".to_string()],
        Kind::Text { .. } => Vec::new(),
        Kind::Choice(choices) => {
            let refused = choices.iter().filter(|choice| matches!(choice.means, Means::Refused(_)));
            refused.map(|choice| choice.value.to_string()).chain(["nonsense".to_string()]).collect()
        }
    };
    bad.dedup();
    bad
}

/// R111, R161: every key refuses what it cannot mean, and names itself, its place, the value, and what it accepts.
#[test]
fn each_key_refuses_what_it_cannot_mean() {
    for key in keys::all() {
        for value in bad_values(key) {
            for name in key.names().filter(|name| *name != "state.backend.local-recovery") {
                let line = refused(&format!("# a comment\n{name}: {value}\n"));
                let begin = format!("flink-conf.yaml:2: {name}: {value:?} is refused; accepted: ");
                let after = line.strip_prefix(&begin).unwrap_or_else(|| panic!("{line}"));
                assert!(!after.is_empty(), "{line}");
            }
        }
    }
}

/// R157: both spellings of the document, in any case.
#[test]
fn words_are_read_in_any_case() {
    for word in ["heap", "HEAP", "Heap"] {
        assert!(
            !good(&format!("state.backend.rocksdb.timer-service.factory: {word}\n"))
                .settings
                .state
                .rocksdb
                .timers_in_rocksdb
        );
    }
    for word in ["rocksdb", "ROCKSDB", "RocksDB"] {
        assert!(
            good(&format!("state.backend.rocksdb.timer-service.factory: {word}\n"))
                .settings
                .state
                .rocksdb
                .timers_in_rocksdb
        );
    }
}

#[test]
fn a_misspelt_word_is_answered_with_the_one_that_was_meant() {
    insta::assert_snapshot!(
        refused("state.backend.rocksdb.timer-service.factory: rocskdb\n"),
        @r#"flink-conf.yaml:1: state.backend.rocksdb.timer-service.factory: "rocskdb" is refused; accepted: HEAP, ROCKSDB; did you mean ROCKSDB?"#
    );
}

/// R114: unknown keys are kept and said once, Flink's without a meaning are said with the reason.
#[test]
fn unknown_keys_are_kept_and_said_once() {
    let configured = good(
        "my.custom.rocksdb.block.cache.size: 1 mb\nstate.backnd: rocksdb\nenv.java.opts: -XX:+UseG1GC\ntaskmanager.heap.size: 1024m\n",
    );
    assert_eq!(configured.value_of("my.custom.rocksdb.block.cache.size"), Some("1 mb"));
    assert_eq!(
        configured.notices,
        [
            "flink-conf.yaml:3: env.java.opts has no meaning in Weir: there is no JVM",
            "flink-conf.yaml:1: my.custom.rocksdb.block.cache.size is not known, and kept for the job and its factories",
            "flink-conf.yaml:2: state.backnd is not known, and kept for the job and its factories; did you mean state.backend?",
            "flink-conf.yaml:4: taskmanager.heap.size has no meaning in Weir: memory is not divided beforehand",
        ]
    );
}

#[test]
fn keys_that_weir_cannot_do_yet_are_said_by_name() {
    let configured = good("web.checkpoints.history: 5\nexecution.checkpointing.unaligned.enabled: true\n");
    assert_eq!(
        configured.notices,
        [
            "flink-conf.yaml:2: execution.checkpointing.unaligned.enabled is known, but Weir cannot do it yet: checkpoints are aligned",
            "flink-conf.yaml:1: web.checkpoints.history is known, but Weir cannot do it yet: there is no web page yet",
        ]
    );
}

/// R143: the keys of Flink's pool of network buffers are accepted under their names and have no meaning here, which is said of each; the
/// size of a buffer has one.
#[test]
fn keys_of_network_memory_are_said_to_mean_nothing() {
    let names = ["memory.fraction", "memory.min", "memory.max", "memory.buffers-per-channel", "numberOfBuffers"];
    for name in names.map(|name| format!("taskmanager.network.{name}")) {
        let configured = good(&format!("{name}: 2\n"));
        assert_eq!(configured.settings, Settings::default(), "{name}");
        let said = format!("flink-conf.yaml:1: {name} has no meaning in Weir: every channel has a window of its own");
        assert_eq!(configured.notices, [said]);
    }
    let buffer = good("taskmanager.memory.segment-size: 64 kb\n");
    assert_eq!((buffer.settings.cluster.task.buffer_bytes, buffer.notices.len()), (64 << 10, 0));
    assert_eq!(Settings::default().cluster.task.buffer_bytes, 32 << 10, "as in Flink");
}

#[test]
fn known_values_that_weir_cannot_do_are_said_or_refused() {
    let configured = good("jobmanager.execution.failover-strategy: region\n");
    assert_eq!(
        configured.notices,
        [
            "flink-conf.yaml:1: jobmanager.execution.failover-strategy: region: a failure restarts the whole job, not only a region of it"
        ]
    );
    insta::assert_snapshot!(
        refused("restart-strategy: failure-rate\n"),
        @r#"flink-conf.yaml:1: restart-strategy: "failure-rate" is refused; accepted: none, fixed-delay (failure-rate: Flink's; Weir cannot do it yet)"#
    );
}

/// R9: the names mean the same; a conflict is said, and today's counts.
#[test]
fn the_directory_of_checkpoints_has_three_names() {
    let directory = |configured: &Configured| configured.settings.state.checkpoint_directory.clone();
    for name in ["execution.checkpointing.dir", "state.checkpoints.dir", "state.backend.fs.checkpointdir"] {
        assert_eq!(directory(&good(&format!("{name}: file:///data\n"))).as_deref(), Some("/data"));
    }
    let both = good("state.checkpoints.dir: /old\nexecution.checkpointing.dir: /new\n");
    assert_eq!(directory(&both).as_deref(), Some("/new"));
    assert_eq!(
        both.notices,
        ["flink-conf.yaml:1: state.checkpoints.dir is an older name of execution.checkpointing.dir, which stands in \
          flink-conf.yaml:2 with another value; execution.checkpointing.dir counts"]
    );
    let same = good("state.checkpoints.dir: /x\nexecution.checkpointing.dir: /x\n");
    assert!(same.notices.is_empty());
}

/// R11
#[test]
fn a_scheme_without_a_store_is_refused_by_its_name() {
    insta::assert_snapshot!(
        refused("state.checkpoints.dir: hdfs://namenode:40010/flink/checkpoints\n"),
        @r#"flink-conf.yaml:1: state.checkpoints.dir: "hdfs://namenode:40010/flink/checkpoints" is refused; accepted: an absolute path or a URL with scheme file; no store for hdfs:// is built in"#
    );
}

/// The command line wins over the file, whatever name either uses.
#[test]
fn a_later_layer_wins_under_any_name() {
    let mut defined = Layer::default();
    for text in ["state.checkpoints.num-retained=3", "heartbeat.interval=2 s"] {
        let (key, entry) = define(text).expect("key=value");
        defined.entries.insert(key, entry);
    }
    let below = flat("f", "execution.checkpointing.num-retained: 7\nheartbeat.interval: 1 s\nheartbeat.timeout: 9 s\n");
    let configured = configure(vec![below, defined]).expect("accepted");
    let cluster = &configured.settings.cluster;
    assert_eq!(cluster.checkpoint.retained, 3);
    assert_eq!(
        (cluster.heartbeat_interval, cluster.heartbeat_timeout),
        (Duration::from_secs(2), Duration::from_secs(9))
    );
    let (name, entry) = configured.given("execution.checkpointing.num-retained").expect("given");
    assert_eq!((name, entry.origin.to_string().as_str()), ("state.checkpoints.num-retained", "-D"));
}

/// R4: bounded by count, never by age; 0 and less are a warning, and 1.
#[test]
fn no_retained_checkpoint_means_one() {
    for (text, kept, said) in [("0", 1, true), ("-3", 1, true), ("1", 1, false), ("2", 2, false)] {
        let configured = good(&format!("state.checkpoints.num-retained: {text}\n"));
        assert_eq!(configured.settings.cluster.checkpoint.retained, kept);
        assert_eq!(configured.notices.iter().any(|n| n.ends_with("1 checkpoint is kept")), said, "{text}");
    }
    let key = keys::all().find(|key| key.name == "execution.checkpointing.num-retained").expect("in the table");
    assert!(key.meaning.contains("there is no limit of time"));
}

/// R135
#[test]
fn a_minimum_pause_raises_the_interval() {
    for (pause, interval) in [("0 ms", 10), ("10 s", 10), ("11 s", 11)] {
        let configured = good(&format!("execution.checkpointing.min-pause: {pause}\n"));
        assert_eq!(configured.settings.cluster.checkpoint.interval, Duration::from_secs(interval));
        assert_eq!(configured.notices.len(), usize::from(interval > 10), "{pause}");
    }
}

#[test]
fn heartbeats_come_before_they_are_missed() {
    assert_eq!(
        refused("heartbeat.interval: 50 s\n"),
        "heartbeat.interval: \"50 s\" is refused; accepted: less than heartbeat.timeout, which is 50 s"
    );
    let configured = good("heartbeat.interval: 49999\nheartbeat.timeout: 50000\n");
    assert_eq!(configured.settings.cluster.heartbeat_interval, Duration::from_millis(49_999));
}

#[test]
fn restarts_are_counted_as_the_strategy_says() {
    for (text, attempts) in [
        ("", None),
        ("restart-strategy: none\n", Some(0)),
        ("restart-strategy: off\nrestart-strategy.fixed-delay.attempts: 5\n", Some(0)),
        ("restart-strategy: fixed-delay\n", Some(1)),
        ("restart-strategy: fixeddelay\nrestart-strategy.fixed-delay.attempts: 5\n", Some(5)),
        ("restart-strategy.fixed-delay.attempts: 5\n", Some(5)),
    ] {
        assert_eq!(good(text).settings.cluster.restart_attempts, attempts, "{text}");
    }
}

/// R112, R114: an unmodified configuration of Flink 1.8, and one of 2.x, are read without an error.
#[test]
fn stock_configurations_of_flink_are_read() {
    let old = good(include_str!("stock-flink-1.8.yaml"));
    assert_eq!(old.settings.job.parallelism, Some(1));
    assert!(old.notices.iter().any(|notice| notice.contains("jobmanager.heap.size has no meaning")));
    let text = include_str!("stock-flink-2.x.yaml");
    let new = configure(vec![nested("config.yaml", text).expect("YAML")]).expect("accepted");
    assert_eq!(new.settings.job.parallelism, Some(1));
    assert_eq!(new.notices.iter().filter(|notice| notice.contains("not known")).count(), 0, "{:?}", new.notices);
}

#[test]
fn the_list_shows_defaults_and_what_was_given() {
    let configured =
        good("state.backend: rocksdb\nstate.backend.rocksdb.thread.num: 4\nexecution.checkpointing.interval: 3 s\n");
    insta::assert_snapshot!(listing(&configured, true));
    let all = listing(&configured, false);
    for key in keys::all() {
        assert!(all.contains(&format!("{}: ", key.name)) && all.contains(key.meaning), "{}", key.name);
    }
}

proptest! {
    #[test]
    fn a_hostile_value_is_refused_or_taken_and_never_panics(
        which in 0..keys::all().count(),
        value in prop_oneof!["\\PC{1,60}", "[0-9]{1,30} ?[a-z]{0,3}", "-?[0-9.e]{1,20}", "[a-z]{1,6}:/{0,3}[a-z/,:;]{0,20}"],
    ) {
        let key = keys::all().nth(which).expect("in range");
        if let Ok(configured) = file(&format!("{}: {value}\n", key.name)) {
            let _ = listing(&configured, false);
            let _ = configured.state(&JobState::default(), &Registry::default());
        }
    }

    #[test]
    fn a_hostile_file_never_panics(text in "[a-z.: \\n\\-#\\[\\]{}&*]{0,200}") {
        let _ = file(&text);
        let _ = nested("c", &text).map(|layer| configure(vec![layer]));
    }
}

/// The page of the documentation is what the table says. `weir config --markdown > docs/configuration.md` writes it anew.
#[test]
fn the_documentation_shows_the_table() {
    let page = include_str!("../../../../docs/configuration.md");
    assert!(page == markdown(), "docs/configuration.md is stale; write it anew by: weir config --markdown");
    let readme = include_str!("../../../../README.md");
    assert!(readme.contains(&backends()), "the README does not show the table of backends as it is:\n{}", backends());
}
