//! The tables of keys, for people: in a terminal with current values, and as a page of the documentation.

use std::fmt::Write;

use super::{
    key::{Key, Kind, Means, Standing},
    keys::{FAMILIES, SECTIONS},
    resolve::Configured,
};

/// Every key with its meaning, its default and its current value; only those that were given, if `given_only`.
pub fn listing(configured: &Configured, given_only: bool) -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let shown: Vec<&Key> =
            section.keys.iter().filter(|key| !given_only || configured.given(key.name).is_some()).collect();
        if shown.is_empty() {
            continue;
        }
        let _ = writeln!(text, "# {}\n", section.title);
        for key in shown {
            let default = key.default.unwrap_or("(none)");
            let _ = match configured.given(key.name) {
                Some((name, entry)) if name == key.name => {
                    writeln!(text, "{}: {}  # {}; default {default}", key.name, entry.text, entry.origin)
                }
                Some((name, entry)) => {
                    writeln!(text, "{}: {}  # {} as {name}; default {default}", key.name, entry.text, entry.origin)
                }
                None => writeln!(text, "{}: {default}  # default", key.name),
            };
            if !key.older.is_empty() {
                let _ = writeln!(text, "    also {}", key.older.join(", "));
            }
            let _ = writeln!(text, "    {}", key.meaning);
            let _ = writeln!(text, "    accepted: {}", key.kind.accepted());
            match key.standing {
                Standing::Works => {}
                Standing::NotYet(instead) => {
                    let _ = writeln!(text, "    not yet: {instead}");
                }
                Standing::NoMeaning(why) => {
                    let _ = writeln!(text, "    no meaning in Weir: {why}");
                }
            }
        }
        text.push('\n');
    }
    text.trim_end().to_string()
}

/// A backend, or a way to choose one: what it is, and the tests behind it.
pub struct BackendRow {
    pub name: &'static str,
    pub is: &'static str,
    pub tests: &'static [&'static str],
}

pub const BACKENDS: &[BackendRow] = &[
    BackendRow {
        name: "`jobmanager` (default)",
        is: "working state on the heap; snapshots travel with the acknowledgement and lie in the metadata: at most 5 MiB per state, \
             and what a message can carry; for development, and for jobs with little state",
        tests: &[
            "an_empty_configuration_keeps_state_with_the_jobmanager",
            "the_memory_backend_writes_no_file",
            "the_memory_backend_refuses_large_state",
        ],
    },
    BackendRow {
        name: "`filesystem`",
        is: "working state on the heap; snapshots in files of primary storage, small pieces of state in the metadata; written while \
             the stream goes on, or not",
        tests: &["small_parts_travel_with_the_acknowledgement", "the_stream_waits_for_a_synchronous_snapshot_only"],
    },
    BackendRow {
        name: "`rocksdb`",
        is: "working state in a database per keyed operator and subtask, on the local disk; memory bounded per slot; for state \
             larger than memory; its full snapshots are those of the heap, and restore into any backend",
        tests: &[
            "a_full_snapshot_is_the_same_from_both_stores_and_goes_into_both",
            "databases_of_a_slot_share_their_memory",
            "databases_are_in_the_local_directories",
            "what_is_too_large_is_refused_when_it_is_written",
        ],
    },
    BackendRow {
        name: "`hashmap`",
        is: "today's name of the heap; the checkpoint storage says which of the first two",
        tests: &["hashmap_goes_where_the_storage_says"],
    },
    BackendRow {
        name: "the name of a factory",
        is: "a backend of your own, or Flink's class names; the factory sees the whole configuration",
        tests: &["a_registered_factory_is_chosen_by_its_name", "a_backend_is_chosen_by_any_of_its_names"],
    },
    BackendRow {
        name: "in the job's code",
        is: "`JobBuilder::state_backend`; wins over the configuration, each option for itself",
        tests: &[
            "a_jobs_own_backend_wins_over_the_configuration",
            "code_beats_configuration_and_the_factory_beats_predefined_options",
        ],
    },
];

/// The table of backends, for the page of the documentation and the README.
pub fn backends() -> String {
    let mut text = "| `state.backend` | what it is | tests |\n|---|---|---|\n".to_string();
    for row in BACKENDS {
        let tests: Vec<String> = row.tests.iter().map(|test| format!("`{test}`")).collect();
        let _ = writeln!(text, "| {} | {} | {} |", row.name, row.is, tests.join("<br>"));
    }
    text
}

/// The page `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = HEAD.to_string();
    text.push_str("\n## Backends\n\n");
    text.push_str(&backends());
    for section in SECTIONS {
        let _ = write!(text, "\n## {}\n\n| key | default | meaning | test |\n|---|---|---|---|\n", section.title);
        for key in section.keys {
            let older: String = key.older.iter().map(|name| format!("<br>also `{name}`")).collect();
            let default = key.default.map_or_else(|| "none".to_string(), |default| format!("`{default}`"));
            let mut meaning = format!("{}. Accepted: {}.", key.meaning, accepted(key));
            match key.standing {
                Standing::Works => {}
                Standing::NotYet(instead) => {
                    let _ = write!(meaning, " **Not yet**: {instead}.");
                }
                Standing::NoMeaning(why) => {
                    let _ = write!(meaning, " **No meaning in Weir**: {why}.");
                }
            }
            let _ = writeln!(text, "| `{}`{older} | {default} | {meaning} | `{}` |", key.name, key.test);
        }
    }
    text.push_str(FOREIGN);
    for family in FAMILIES {
        let _ = writeln!(
            text,
            "| `{}{}` | {} |",
            family.begins,
            if family.begins.ends_with('.') { "*" } else { "" },
            family.why
        );
    }
    text
}

/// What is accepted, and what is known and refused.
fn accepted(key: &Key) -> String {
    let mut text = key.kind.accepted();
    if let Kind::Choice(choices) = &key.kind {
        for choice in *choices {
            match choice.means {
                Means::Sets(_) => {}
                Means::Instead(what, _) => {
                    let _ = write!(text, "; {}: {what}", choice.value);
                }
                Means::Refused(why) => {
                    let _ = write!(text, "; {} is refused: {why}", choice.value);
                }
            }
        }
    }
    text
}

const HEAD: &str = "\
# Configuration

<!-- Written by `weir config --markdown`; a test compares. -->

`weir run JOB --config FILE` reads `flink-conf.yaml` (lines of `key: value`) or `config.yaml` (YAML, nested or flat); of a
directory it reads `config.yaml`, or `flink-conf.yaml` if there is no other. `-D key=value` wins over the file, and what a job
says in its own code wins over both, each option for itself. Without a file `weir run` keeps state in files, with local copies; with one,
what the file does not say is as Flink has it. `weir config` takes the same and shows every key with the value that counts.

Names are those of today's Flink; those that 1.8 used are accepted as well. If a key is given under two names, the newer name
counts, and it is said. Durations are written `10 s`, `500 ms`, `1 min` (a number alone: milliseconds), sizes `64 mb`, `10485760b` (a
number alone: bytes); words are read in any case. A value that cannot be is refused with its file and line, its key, and what would be
accepted. A key that Weir does not know is kept for the job and its factories and said once, since a misspelt key must not
go unnoticed (Flink says nothing). How the backends differ from Flink's: [differences](differences.md).
";

const FOREIGN: &str = "
## Keys of Flink without a meaning in Weir

They are accepted, and each that is used is said once.

| key | why |
|---|---|
";
