//! From keys and values to settings: layers over each other, names of a key put together, values read, what belongs together
//! checked.

use std::fmt;

use super::{
    backend::{self, Registry, ResolvedState},
    job::JobState,
    key::{Applied, Key, Kind, Standing},
    keys,
    read::{Entry, Layer, Origin},
    settings::{RestartStrategy, Settings},
};
use crate::{cluster::config::ClusterConfig, recovery::local_shelf::CopyFormat};

/// A value that cannot be, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub origin: Option<Origin>,
    /// As it stands there.
    pub key: String,
    pub value: Option<String>,
    /// What would be accepted.
    pub accepted: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{}", self.key)?;
        if let Some(value) = &self.value {
            let short: String = value.chars().take(80).collect();
            write!(f, ": {short:?} is refused")?;
        }
        write!(f, "; accepted: {}", self.accepted)
    }
}

/// A configuration that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured {
    pub settings: Settings,
    /// What has to be said, each once.
    pub notices: Vec<String>,
    /// Lowest first: a later one wins.
    layers: Vec<Layer>,
}

/// Puts layers together, the lowest first, and reads what they say.
///
/// # Errors
/// All values that are refused.
pub fn configure(layers: Vec<Layer>) -> Result<Configured, Vec<Refusal>> {
    let mut configured = Configured { settings: Settings::default(), notices: Vec::new(), layers };
    let mut refused = Vec::new();
    for layer in &configured.layers {
        configured.notices.extend(layer.oddities.iter().cloned());
    }
    for key in keys::all() {
        let Some((name, entry)) = given(&configured.layers, key, &mut configured.notices) else { continue };
        match key.apply(&entry.text, &mut configured.settings) {
            Err(accepted) => refused.push(Refusal {
                origin: Some(entry.origin.clone()),
                key: name.to_string(),
                value: Some(entry.text.clone()),
                accepted: suggested(&accepted, &entry.text, key),
            }),
            Ok(applied) => {
                if let Applied::Noticed(what) = applied {
                    configured.notices.push(format!("{}: {name}: {}: {what}", entry.origin, entry.text));
                }
                match key.standing {
                    Standing::Works => {}
                    Standing::NotYet(instead) => configured
                        .notices
                        .push(format!("{}: {name} is known, but Weir cannot do it yet: {instead}", entry.origin)),
                    Standing::NoMeaning(why) => {
                        configured.notices.push(format!("{}: {name} has no meaning in Weir: {why}", entry.origin));
                    }
                }
            }
        }
    }
    say_unknown(&mut configured);
    together(&mut configured, &mut refused);
    if refused.is_empty() { Ok(configured) } else { Err(refused) }
}

/// What was given for a key, and by which of its names: of the highest layer that has any, the newest name.
fn given<'a>(layers: &'a [Layer], key: &Key, notices: &mut Vec<String>) -> Option<(&'static str, &'a Entry)> {
    for layer in layers.iter().rev() {
        let mut found = key.names().filter_map(|name| layer.entries.get(name).map(|entry| (name, entry)));
        let Some((name, entry)) = found.next() else { continue };
        for (other, differs) in found.filter(|(_, other)| other.text != entry.text) {
            notices.push(format!(
                "{}: {other} is an older name of {name}, which stands in {} with another value; {name} counts",
                differs.origin, entry.origin
            ));
        }
        return Some((name, entry));
    }
    None
}

/// With the value that was probably meant.
fn suggested(accepted: &str, text: &str, key: &Key) -> String {
    let Kind::Choice(choices) = &key.kind else { return accepted.to_string() };
    let near = choices.iter().find(|choice| {
        let distance = strsim::levenshtein(&choice.value.to_lowercase(), &text.trim().to_lowercase());
        distance > 0 && distance <= 2
    });
    near.map_or_else(|| accepted.to_string(), |choice| format!("{accepted}; did you mean {}?", choice.value))
}

/// Keys that no row of the table has: they are kept for the job and for factories, and said once. Flink passes over them in
/// silence, and so over every misspelt one.
fn say_unknown(configured: &mut Configured) {
    let mut said = std::collections::BTreeSet::new();
    for layer in &configured.layers {
        for (name, entry) in &layer.entries {
            if keys::all().any(|key| key.names().any(|known| known == name)) || !said.insert(name.clone()) {
                continue;
            }
            let origin = &entry.origin;
            if let Some(family) = keys::family_of(name) {
                configured.notices.push(format!("{origin}: {name} has no meaning in Weir: {}", family.why));
                continue;
            }
            let nearest = keys::all().flat_map(Key::names).min_by_key(|known| strsim::levenshtein(known, name));
            let near = nearest.filter(|known| strsim::levenshtein(known, name) <= 3);
            let meant = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            configured
                .notices
                .push(format!("{origin}: {name} is not known, and kept for the job and its factories{meant}"));
        }
    }
}

/// What several keys say together.
fn together(configured: &mut Configured, refused: &mut Vec<Refusal>) {
    let cluster = &mut configured.settings.cluster;
    if cluster.heartbeat_interval >= cluster.heartbeat_timeout {
        refused.push(Refusal {
            origin: None,
            key: "heartbeat.interval".to_string(),
            value: Some(super::syntax::show_duration(cluster.heartbeat_interval)),
            accepted: format!(
                "less than heartbeat.timeout, which is {}",
                super::syntax::show_duration(cluster.heartbeat_timeout)
            ),
        });
    }
    if cluster.checkpoint.interval < cluster.checkpoint.min_pause {
        cluster.checkpoint.interval = cluster.checkpoint.min_pause;
        configured.notices.push(format!(
            "execution.checkpointing.interval is raised to the minimum pause, {}",
            super::syntax::show_duration(cluster.checkpoint.min_pause)
        ));
    }
    let restart = &configured.settings.restart;
    cluster.restart_attempts = match restart.strategy {
        Some(RestartStrategy::None) => Some(0),
        Some(RestartStrategy::FixedDelay) => Some(restart.attempts.unwrap_or(1)),
        None => restart.attempts,
    };
    let retained = configured.given("execution.checkpointing.num-retained").map(|(_, entry)| entry.text.clone());
    if let Some(number) = retained.and_then(|text| super::syntax::integer(&text).ok())
        && number <= 0
    {
        configured.notices.push(format!("execution.checkpointing.num-retained is {number}; 1 checkpoint is kept"));
    }
}

impl Configured {
    /// What was given for a key of the table, under whichever name.
    pub fn given(&self, name: &str) -> Option<(&'static str, &Entry)> {
        let key = keys::all().find(|key| key.name == name)?;
        given(&self.layers, key, &mut Vec::new())
    }

    /// The text of any key, known or not, under exactly this name: for jobs and factories.
    pub fn value_of(&self, name: &str) -> Option<&str> {
        self.layers.iter().rev().find_map(|layer| layer.entries.get(name)).map(|entry| entry.text.as_str())
    }

    /// The cluster's settings as a job has them, and what else was decided about its state.
    ///
    /// # Errors
    /// What is refused.
    pub fn cluster(&self, job: &JobState, registry: &Registry) -> Result<(ClusterConfig, ResolvedState), Refusal> {
        let state = self.state(job, registry)?;
        let mut cluster = self.settings.cluster.clone();
        cluster.task.backend = state.backend.clone();
        cluster.task.local_recovery = state.local_recovery;
        if let Some(limit_bytes) = self.settings.state.local_memory {
            cluster.task.local_copies = CopyFormat::Memory { limit_bytes };
        }
        cluster.savepoint_directory.clone_from(&self.settings.state.savepoint_directory);
        Ok((cluster, state))
    }

    /// The state backend of a job.
    ///
    /// # Errors
    /// What is refused.
    pub fn state(&self, job: &JobState, registry: &Registry) -> Result<ResolvedState, Refusal> {
        let value_of = |name: &str| self.value_of(name).map(str::to_string);
        backend::resolve(&self.settings.state, job, registry, &value_of).map_err(|wrong| {
            let key = keys::all().find(|key| key.names().any(|name| name == wrong.key));
            let given = key.and_then(|key| self.given(key.name));
            Refusal {
                origin: given.map(|(_, entry)| entry.origin.clone()),
                key: given.map_or(wrong.key, |(name, _)| name).to_string(),
                value: wrong.value,
                accepted: wrong.accepted,
            }
        })
    }
}
