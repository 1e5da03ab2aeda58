//! From text to keys and values, without a meaning yet: `flink-conf.yaml`, `config.yaml`, `-D key=value`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Said by the program itself, here a part of it.
    Program(&'static str),
    File {
        name: String,
        /// From 1; None: not known.
        line: Option<u64>,
    },
    /// `-D`.
    Define,
    /// An option of the command line that has the same meaning.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Program(what) => f.write_str(what),
            Origin::File { name, line: Some(line) } => write!(f, "{name}:{line}"),
            Origin::File { name, line: None } => f.write_str(name),
            Origin::Define => f.write_str("-D"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub text: String,
    pub origin: Origin,
}

/// What one place says: a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub entries: BTreeMap<String, Entry>,
    /// Lines that say nothing, and what was said twice.
    pub oddities: Vec<String>,
}

impl Layer {
    /// A value of the program itself, or of an option that means the same.
    pub fn set(&mut self, key: &str, text: impl Into<String>, origin: Origin) {
        self.entries.insert(key.to_string(), Entry { text: text.into(), origin });
    }

    fn add(&mut self, key: String, text: String, origin: Origin) {
        let entry = Entry { text, origin };
        if let Some(earlier) = self.entries.get(&key)
            && earlier.text != entry.text
        {
            self.oddities
                .push(format!("{}: {key} stands in {} already; this one counts", entry.origin, earlier.origin));
        }
        self.entries.insert(key, entry);
    }
}

/// Text that is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// `flink-conf.yaml`, which is no YAML: a line is `key: value`, a `#` begins a comment anywhere, what has no `: ` is skipped
/// and said (`FC/configuration/GlobalConfiguration.loadYAMLResource` of 1.8).
pub fn flat(name: &str, text: &str) -> Layer {
    let mut layer = Layer::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start_matches('\u{feff}');
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() || content == "---" {
            continue;
        }
        let origin = Origin::File { name: name.to_string(), line: Some(number) };
        match content.split_once(": ").map(|(key, value)| (key.trim(), value.trim())) {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                layer.add(key.to_string(), value.to_string(), origin)
            }
            _ => layer
                .oddities
                .push(format!("{origin}: not a line of the form key: value, skipped: {}", shortened(content))),
        }
    }
    layer
}

/// `config.yaml`: YAML 1.2, nested or flat or both; a list is joined by semicolons, as Flink writes lists.
///
/// # Errors
/// If it is no YAML, not a map, or larger than a configuration can be; with the line.
pub fn nested(name: &str, text: &str) -> Result<Layer, Unreadable> {
    let mut layer = Layer::default();
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "---") {
        return Ok(layer);
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            max_nodes: 20_000,
            max_documents: 1,
        },
    };
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map(|at| format!(":{}", at.line())).unwrap_or_default();
        let says = error.without_snippet().to_string();
        Unreadable(format!("{name}{at}: {}", shortened(says.lines().next().unwrap_or_default())))
    })?;
    match root.value {
        Node::Map(map) => {
            for (key, value) in map {
                flatten(name, key, value, &mut layer)?;
            }
            Ok(layer)
        }
        Node::Text(None) => Ok(layer),
        _ => Err(Unreadable(format!("{name}: not a map of keys to values"))),
    }
}

/// Levels of nesting; the longest key of Flink has seven.
const DEEPEST: usize = 32;

fn flatten(name: &str, key: String, node: Spanned<Node>, layer: &mut Layer) -> Result<(), Unreadable> {
    let line = Some(node.referenced.line()).filter(|line| *line > 0);
    let origin = Origin::File { name: name.to_string(), line };
    match node.value {
        Node::Map(map) => {
            for (inner, value) in map {
                flatten(name, format!("{key}.{inner}"), value, layer)?;
            }
        }
        Node::List(items) => {
            let mut texts = Vec::new();
            for item in items {
                match item.value {
                    Node::Text(text) => texts.extend(text),
                    _ => return Err(Unreadable(format!("{origin}: {key}: a list within a list, or a map within one"))),
                }
            }
            layer.add(key, texts.join(";"), origin);
        }
        Node::Text(Some(text)) => layer.add(key, text, origin),
        Node::Text(None) => layer.oddities.push(format!("{origin}: {key} has no value, skipped")),
    }
    Ok(())
}

/// `key=value` after `-D`.
///
/// # Errors
/// Without a key or `=`.
pub fn define(text: &str) -> Result<(String, Entry), Unreadable> {
    match text.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
        Some((key, value)) if !key.is_empty() => {
            Ok((key.to_string(), Entry { text: value.to_string(), origin: Origin::Define }))
        }
        _ => Err(Unreadable(format!("-D {}: write it as -D key=value", shortened(text)))),
    }
}

/// A part that fits into a line.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(120).is_some() {
        short.push('…');
    }
    short
}

/// YAML without its types: they follow from the key.
enum Node {
    /// None: nothing stands there.
    Text(Option<String>),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Text(Some(value.to_string())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(Some(value.trim().to_string())))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Text(None))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Text(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(layer: &Layer) -> Vec<(&str, &str)> {
        layer.entries.iter().map(|(key, entry)| (key.as_str(), entry.text.as_str())).collect()
    }

    /// R114: the document's samples are read as they stand.
    #[test]
    fn the_documents_samples_are_read_as_they_stand() {
        let text = "# The backend that will be used to store operator state checkpoints\nstate.backend: filesystem\n\n\n\
                    # Directory for storing checkpoints\nstate.checkpoints.dir: hdfs://namenode:40010/flink/checkpoints\n";
        let layer = flat("flink-conf.yaml", text);
        let expected =
            [("state.backend", "filesystem"), ("state.checkpoints.dir", "hdfs://namenode:40010/flink/checkpoints")];
        assert_eq!(texts(&layer), expected);
        assert_eq!(layer.entries["state.checkpoints.dir"].origin.to_string(), "flink-conf.yaml:6");
        assert!(layer.oddities.is_empty());
        // The same text is YAML, too.
        assert_eq!(texts(&nested("config.yaml", text).expect("YAML")), expected);
    }

    #[test]
    fn odd_lines_of_the_flat_form_are_skipped_and_said() {
        let layer = flat("f", "a: 1 # one\nb\n: c\nd:\n  e:f\na: 2\r\ng: x: y\n");
        assert_eq!(texts(&layer), [("a", "2"), ("g", "x: y")]);
        assert_eq!(
            layer.oddities,
            [
                "f:2: not a line of the form key: value, skipped: b",
                "f:3: not a line of the form key: value, skipped: : c",
                "f:4: not a line of the form key: value, skipped: d:",
                "f:5: not a line of the form key: value, skipped: e:f",
                "f:6: a stands in f:1 already; this one counts",
            ]
        );
    }

    #[test]
    fn the_nested_form_is_flattened_with_its_lines() {
        let text = "state:\n  backend:\n    type: rocksdb\n    rocksdb:\n      localdir: [/a, /b]\n      thread.num: 4\n\
                    execution.checkpointing.interval: 10 s\nparallelism:\n  default: 2\nratio: 0.5\nempty:\nyes: true\n";
        let layer = nested("config.yaml", text).expect("YAML");
        assert_eq!(
            texts(&layer),
            [
                ("execution.checkpointing.interval", "10 s"),
                ("parallelism.default", "2"),
                ("ratio", "0.5"),
                ("state.backend.rocksdb.localdir", "/a;/b"),
                ("state.backend.rocksdb.thread.num", "4"),
                ("state.backend.type", "rocksdb"),
                ("yes", "true"),
            ]
        );
        assert_eq!(layer.entries["state.backend.type"].origin.to_string(), "config.yaml:3");
        assert_eq!(layer.oddities, ["config.yaml:11: empty has no value, skipped"]);
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_line() {
        for (text, says) in [
            ("a: 1\nb: [", "c.yaml:"),
            ("- a\n- b\n", "c.yaml: not a map"),
            ("a: 1\na: 2\n", "c.yaml:2: "),
            ("a: [[1]]\n", "a list within a list"),
            ("a: &x [*x]\n", "c.yaml"),
        ] {
            let refused = nested("c.yaml", text).expect_err(text).to_string();
            assert!(refused.contains(says) && refused.lines().count() == 1, "{text:?}: {refused}");
        }
        for empty in ["", "# nothing\n", "---\n", "\n\n"] {
            assert_eq!(nested("c.yaml", empty), Ok(Layer::default()), "{empty:?}");
        }
    }

    /// A small file that stands for a huge one costs little and is refused.
    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(nested("c.yaml", &text).is_err());
        let deep = format!("a: {}", "[".repeat(100_000));
        assert!(nested("c.yaml", &deep).is_err());
    }

    #[test]
    fn definitions_need_a_key_and_an_equals_sign() {
        let (key, entry) = define("state.checkpoints.dir = file:///x=y").expect("key=value");
        assert_eq!((key.as_str(), entry.text.as_str()), ("state.checkpoints.dir", "file:///x=y"));
        for text in ["", "=", "= x", "state.backend"] {
            assert!(define(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,200}", yaml in "[a-z:&*!#|>{}\\[\\],\"' \n-]{0,200}") {
            for text in [&text, &yaml] {
                let _ = (flat("f", text), nested("f", text), define(text));
            }
        }

        #[test]
        fn what_is_written_flat_is_read_back(
            entries in proptest::collection::btree_map("[a-z]{1,8}(\\.[a-z]{1,8}){0,3}", "[A-Za-z0-9/:_.-]{1,12}", 0..8)
        ) {
            let text: String = entries.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
            let layer = flat("f", &text);
            let read: std::collections::BTreeMap<_, _> =
                layer.entries.iter().map(|(key, entry)| (key.clone(), entry.text.clone())).collect();
            prop_assert_eq!(read, entries);
        }
    }
}
