//! State of an older version of a type.

use serde::{Deserialize, Serialize};

use super::{super::*, *};
use crate::state::format::{SectionWriter, StateSection, encode_part};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    count: u64,
    name: String,
}

/// What became of [`Before`] when its author added fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    count: u64,
    name: String,
    note: Option<String>,
    seen: Option<u64>,
}

struct Sections(Vec<StateSection>);

impl SectionWriter for Sections {
    fn write(&self, group: usize, out: &mut Vec<u8>) -> u32 {
        out.extend_from_slice(&self.0[group].bytes);
        self.0[group].entries
    }
}

/// The same parts under other names of types: what a program wrote in which the type was called as it is today.
fn renamed(parts: &Parts, version: u32) -> Parts {
    let rename = |(groups, bytes): &(KeyGroupRange, Bytes)| {
        let mut reader = PartReader::new(bytes).unwrap();
        reader.header.states[0].value_type = std::any::type_name::<After>().to_string();
        reader.header.states[0].version = version;
        let states: Vec<Box<dyn SectionWriter>> = vec![Box::new(Sections(reader.sections))];
        (*groups, encode_part(&reader.header, false, &states))
    };
    parts.iter().map(rename).collect()
}

fn written() -> Parts {
    let mut backend: KeyedBackend<String> = restore_range(&Parts::new(), all_groups()).unwrap();
    let state = backend.open_context().value_state::<Before>("count").unwrap();
    backend.opened();
    let key = "k".to_string();
    let mut context = backend.context(&key).unwrap().unwrap();
    state.update(&mut context, Before { count: 7, name: "seven".into() }).unwrap();
    encode(backend.snapshot().unwrap())
}

/// Fields that were added at the end, and may be absent, are absent in what an older version wrote.
#[test]
fn an_added_optional_field_is_absent_in_old_state() {
    let mut backend: KeyedBackend<String> = restore_range(&renamed(&written(), 1), all_groups()).unwrap();
    let state = backend.open_context().value_state_version::<After>("count", 2).unwrap();
    backend.opened();
    let key = "k".to_string();
    let context = backend.context(&key).unwrap().unwrap();
    let expected = After { count: 7, name: "seven".into(), note: None, seen: None };
    assert_eq!(state.get(&context).unwrap(), Some(&expected));
    // It is written in the new version, which the old program refuses.
    let parts = encode(backend.snapshot().unwrap());
    let mut older: KeyedBackend<String> = restore_range(&parts, all_groups()).unwrap();
    let error = older.open_context().value_state_version::<After>("count", 1).err().unwrap();
    assert!(error.message().contains("version 2") && error.message().contains("version 1"), "{error}");
}

/// Another type is refused, and so is a later version whose type has not only grown; both are named.
#[test]
fn other_types_are_refused_with_both_named() {
    let mut backend: KeyedBackend<String> = restore_range(&written(), all_groups()).unwrap();
    let error = backend.open_context().value_state_version::<After>("count", 2).err().unwrap();
    assert!(error.message().contains("Before") && error.message().contains("After"), "{error}");
    // The same name, as far as the snapshot tells, of a type that has lost a field.
    let parts = {
        let rename = |(groups, bytes): &(KeyGroupRange, Bytes)| {
            let mut reader = PartReader::new(bytes).unwrap();
            reader.header.states[0].value_type = "u64".to_string();
            let states: Vec<Box<dyn SectionWriter>> = vec![Box::new(Sections(reader.sections))];
            (*groups, encode_part(&reader.header, false, &states))
        };
        written().iter().map(rename).collect()
    };
    let mut shrunk: KeyedBackend<String> = restore_range(&parts, all_groups()).unwrap();
    let error = shrunk.open_context().value_state_version::<u64>("count", 2).err().unwrap();
    assert!(error.message().contains("left over") && error.message().contains("version 1"), "{error}");
}
