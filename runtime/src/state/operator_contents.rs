//! What operator states hold in memory, and how a snapshot shares it.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    operator_format::{EntryWriter, OperatorStateHeader, put_operator_entry},
    table::StateValue,
};

/// One state whatever its type.
pub(super) trait AnyState {
    fn header(&self) -> &OperatorStateHeader;
    /// Keeps the contents as they are now.
    fn share(&self) -> Box<dyn EntryWriter>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

pub(super) struct ListContents<V> {
    pub header: OperatorStateHeader,
    pub values: Arc<Vec<V>>,
}

pub(super) struct MapContents<M, V> {
    pub header: OperatorStateHeader,
    pub map: Arc<BTreeMap<M, V>>,
}

/// State in the snapshot that today's code does not declare: carried along.
pub(super) struct RawContents {
    pub header: OperatorStateHeader,
    pub entries: Arc<Vec<Bytes>>,
}

struct SharedList<V> {
    state: String,
    values: Arc<Vec<V>>,
}

struct SharedMap<M, V> {
    state: String,
    map: Arc<BTreeMap<M, V>>,
}

struct SharedRaw(Arc<Vec<Bytes>>);

/// Panics if user data does not encode: the part cannot be written then, and the native call reports the panic.
fn put_encoded<T: serde::Serialize>(state: &str, entry: &T, out: &mut Vec<u8>) {
    let encoded = postcard::to_allocvec(entry)
        .unwrap_or_else(|error| panic!("operator state {state}: an element does not encode: {error}"));
    put_operator_entry(&encoded, out);
}

fn count(entries: usize) -> u32 {
    u32::try_from(entries).expect("an operator state has fewer than 2^32 elements")
}

impl<V: StateValue> EntryWriter for SharedList<V> {
    fn write(&self, out: &mut Vec<u8>) -> u32 {
        self.values.iter().for_each(|value| put_encoded(&self.state, value, out));
        count(self.values.len())
    }
}

impl<M: StateValue + Ord, V: StateValue> EntryWriter for SharedMap<M, V> {
    fn write(&self, out: &mut Vec<u8>) -> u32 {
        self.map.iter().for_each(|entry| put_encoded(&self.state, &entry, out));
        count(self.map.len())
    }
}

impl EntryWriter for SharedRaw {
    fn write(&self, out: &mut Vec<u8>) -> u32 {
        self.0.iter().for_each(|entry| put_operator_entry(entry, out));
        count(self.0.len())
    }
}

macro_rules! any_state {
    ([$($generics:tt)*] $of:ty, |$this:ident| $share:expr) => {
        impl<$($generics)*> AnyState for $of {
            fn header(&self) -> &OperatorStateHeader {
                &self.header
            }
            fn share(&self) -> Box<dyn EntryWriter> {
                let $this = self;
                Box::new($share)
            }
            fn as_any(&self) -> &dyn Any {
                self
            }
            fn as_any_mut(&mut self) -> &mut dyn Any {
                self
            }
        }
    };
}

any_state!([V: StateValue] ListContents<V>, |this| SharedList {
    state: this.header.name.clone(),
    values: this.values.clone(),
});
any_state!([M: StateValue + Ord, V: StateValue] MapContents<M, V>, |this| SharedMap {
    state: this.header.name.clone(),
    map: this.map.clone(),
});
any_state!([] RawContents, |this| SharedRaw(this.entries.clone()));
