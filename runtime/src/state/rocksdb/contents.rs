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
        format::{PartHeader, SectionWriter, StateHeader, StateKind},
        ttl_encoded::Expiry,
    },
};

/// Where the database says what it holds.
pub(super) const CONTENTS: &[u8] = b"contents";

/// What a database holds; kept in itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub header: PartHeader,
    /// By name: maps that are kept whole, because nobody has declared what they are of.
    pub whole: Vec<String>,
}

impl Contents {
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
    put.map_err(|error| database_error("", &error))
}
