//! Types of a declared state, as far as filling its column family needs them.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::layout::take_count;
use crate::{
    ids::KeyGroup,
    state::{
        error::StateError,
        key::StateKey,
        key_group::key_group_of,
        restored::pad,
        table::{StateNamespace, StateValue, encode_plain},
        timer_rows::TIMESTAMP_BYTES,
    },
};

/// Checks of what a full snapshot holds, and the way from a whole map to its entries.
#[derive(Clone, Copy)]
pub(in crate::state) struct Declared {
    pub(super) check_key: CheckKey,
    pub(super) check_value: fn(&[u8]) -> Result<(), String>,
    pub(super) split: Option<Split>,
    /// Reads a value of an older version of a type whose structure is not known, and encodes it anew.
    pub(super) pad: fn(&[u8]) -> Result<Vec<u8>, String>,
}

/// Whether a key is in a key group, of so many.
pub(super) type CheckKey = fn(&[u8], KeyGroup, u16) -> Result<(), String>;

/// Takes a whole map apart.
pub(super) type Split = fn(&[u8], &mut EachEntry<'_>) -> Result<(), String>;
pub(super) type EachEntry<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StateError> + 'a;

fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

fn check_key<K: StateKey, N: StateNamespace>(
    bytes: &[u8],
    group: KeyGroup,
    max_parallelism: u16,
) -> Result<(), String> {
    let (key, _): (K, N) = whole(bytes)?;
    if key_group_of(key.java_hash(), max_parallelism) == group {
        Ok(())
    } else {
        Err(format!("a key in key group {group} is not of it"))
    }
}

/// As [`CheckKey`], of the key of the stream that something begins with.
pub(super) fn check_key_alone<K: StateKey>(bytes: &[u8], group: KeyGroup, max_parallelism: u16) -> Result<(), String> {
    let (key, _) = postcard::take_from_bytes::<K>(bytes).map_err(|error| error.to_string())?;
    if key_group_of(key.java_hash(), max_parallelism) == group {
        Ok(())
    } else {
        Err(format!("a key in key group {group} is not of it: {} has another hash", std::any::type_name::<K>()))
    }
}

pub(super) fn check_timer<K: StateKey, N: StateNamespace>(
    row: &[u8],
    group: KeyGroup,
    max_parallelism: u16,
) -> Result<(), String> {
    let key = row.get(TIMESTAMP_BYTES..).ok_or("it is too short for a timestamp")?;
    check_key::<K, N>(key, group, max_parallelism)
}

fn check_empty(value: &[u8]) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { Err("a timer has no value".to_string()) }
}

/// Of a kind of state whose version nobody can raise.
fn never(_value: &[u8]) -> Result<Vec<u8>, String> {
    Err("its structure is not known".to_string())
}

fn split_map<M: DeserializeOwned, V: DeserializeOwned>(bytes: &[u8], each: &mut EachEntry<'_>) -> Result<(), String> {
    let (count, mut rest) = take_count(bytes).ok_or("the number of its entries is cut off")?;
    for _ in 0..count {
        let (_, after_key) = postcard::take_from_bytes::<M>(rest).map_err(|error| error.to_string())?;
        let (_, after) = postcard::take_from_bytes::<V>(after_key).map_err(|error| error.to_string())?;
        let key = &rest[..rest.len() - after_key.len()];
        let value = &after_key[..after_key.len() - after.len()];
        each(key, value).map_err(|error| error.to_string())?;
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", rest.len())) }
}

impl Declared {
    pub(in crate::state) fn plain<K: StateKey, N: StateNamespace, V: StateValue>() -> Declared {
        let check_value = |bytes: &[u8]| whole::<V>(bytes).map(drop);
        let pad = |bytes: &[u8]| pad::<V>(bytes, encode_plain::<V>);
        Declared { check_key: check_key::<K, N>, check_value, split: None, pad }
    }

    /// A queue of timers.
    pub(in crate::state) fn timers<K: StateKey, N: StateNamespace>() -> Declared {
        Declared { check_key: check_timer::<K, N>, check_value: check_empty, split: None, pad: never }
    }

    pub(in crate::state) fn map<K: StateKey, N: StateNamespace, M: StateValue + Ord, V: StateValue>() -> Declared {
        let check_value = |bytes: &[u8]| whole::<BTreeMap<M, V>>(bytes).map(drop);
        Declared { check_key: check_key::<K, N>, check_value, split: Some(split_map::<M, V>), pad: never }
    }
}
