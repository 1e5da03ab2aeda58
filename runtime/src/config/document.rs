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

/// The page `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = HEAD.to_string();
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
says in its own code wins over both, each option for itself. `weir config` takes the same and shows every key with the value that counts.

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
