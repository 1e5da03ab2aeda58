//! What a database holds, as it says itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    database::{Database, FrozenDatabase, database_error},
    layout::group_length,
    scan::StateScan,
    tables::encode,
};
use crate::{
    ids::KeyGroupRange,
    state::{
        error::StateError,
        format::{PartHeader, SectionWriter, StateHeader, StateKind, UnstructuredHeader},
        ttl_encoded::Expiry,
    },
};

/// Where the database says what it holds.
const CONTENTS: &[u8] = b"contents-2";
/// Where it said so before there were structures of types.
const UNSTRUCTURED: &[u8] = b"contents";

/// What a database holds; kept in itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub header: PartHeader,
    /// By name: maps that are kept whole, because nobody has declared what they are of.
    pub whole: Vec<String>,
}

/// As it was before there were structures of types.
#[derive(Serialize, Deserialize)]
struct UnstructuredContents {
    header: UnstructuredHeader,
    whole: Vec<String>,
}

impl Contents {
    /// What a database says of itself.
    ///
    /// # Errors
    /// The outer one: it cannot be read. The inner one: what is wrong with it.
    pub fn read(database: &Database) -> Result<Result<Contents, String>, rocksdb::Error> {
        let unreadable = |error: postcard::Error| format!("does not say what it holds: {error}");
        if let Some(bytes) = database.rocksdb().get(CONTENTS)? {
            return Ok(postcard::from_bytes(&bytes).map_err(unreadable));
        }
        let Some(bytes) = database.rocksdb().get(UNSTRUCTURED)? else {
            return Ok(Err("does not say what it holds".to_string()));
        };
        let contents = postcard::from_bytes::<UnstructuredContents>(&bytes).map_err(unreadable);
        Ok(contents.map(|UnstructuredContents { header, whole }| Contents { header: header.into(), whole }))
    }

    /// The sections of a part, in the order of the states. `expired` says what is left out of a state, and at which time.
    pub fn sections(
        &self,
        frozen: &Arc<FrozenDatabase>,
        key_groups: KeyGroupRange,
        expired: impl Fn(&str) -> Option<(Expiry, i64)>,
    ) -> Vec<Box<dyn SectionWriter>> {
        let length = group_length(self.header.max_parallelism);
        let sections = self.header.states.iter().map(|state| {
            let (name, expired, split) = (state.name.clone(), expired(&state.name), self.is_split(state));
            let scan = StateScan::new(frozen.clone(), name, key_groups, length, split, expired);
            Box::new(scan) as Box<dyn SectionWriter>
        });
        sections.collect()
    }

    /// Whether the entries of this state's maps are entries of the database.
    fn is_split(&self, state: &StateHeader) -> bool {
        state.kind == StateKind::Map && !self.whole.contains(&state.name)
    }
}

pub(super) fn write_contents(database: &Database, contents: &Contents) -> Result<(), StateError> {
    let bytes = encode("", "description", contents, Vec::new())?;
    let put = database.rocksdb().put_opt(CONTENTS, bytes, database.writes());
    let written = put.and_then(|()| database.rocksdb().delete_opt(UNSTRUCTURED, database.writes()));
    written.map_err(|error| database_error("", &error))
}

/// Whether a program that knows no structures would find what it takes for a description.
#[cfg(test)]
pub(super) fn has_unstructured(database: &Database) -> bool {
    database.rocksdb().get(UNSTRUCTURED).expect("it is open").is_some()
}

/// As a program wrote it that knew no structures.
#[cfg(test)]
pub(super) fn write_unstructured(database: &Database, contents: &Contents) {
    let old = UnstructuredContents { header: (&contents.header).into(), whole: contents.whole.clone() };
    let bytes = postcard::to_allocvec(&old).expect("strings and numbers always encode");
    database.rocksdb().put_opt(UNSTRUCTURED, bytes, database.writes()).expect("it is open");
    database.rocksdb().delete_opt(CONTENTS, database.writes()).expect("it is open");
}
