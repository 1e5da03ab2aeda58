//! The structure of a type as postcard encodes it: a fingerprint that can be compared, not only found to be another.
//!
//! [`Shape::of`] finds it by deserializing the type from a deserializer that makes values up and notes what it is asked for
//! ([`trace`]). So nothing is asked of a job's author, no derive and no registration, and a renamed or moved type keeps its
//! structure. Snapshots hold it as text ([`text`]). [`compare`] says whether values of one structure can become values of
//! another, [`transcode()`] makes them so.
//!
//! What an author may do between two versions of a job:
//!
//! - rename or move a type, put it into an `Rc`, `Box` or newtype: not seen here;
//! - add fields to the end of a struct, each an `Option`, at any depth but in keys; they are absent in what was written before.
//!   With a raised version of the state they may be of any type that has a zero: an empty list or text, 0, `false`;
//! - add variants to the end of an enum.
//!
//! All else is refused: a field that has gone, came in between or changed its type; and a field or variant under another name.
//! Encodings are by position, so two fields of one type that change places, or one that takes the place of another, would be
//! misread without a sign. Who only renames a field says so to serde, as for any other format: `#[serde(rename = "old")]`.
//!
//! A type whose structure cannot be found is compared by its Rust name and the author's version alone. Those are types that
//! - refuse the values made up here (a deserializer of its own that checks them);
//! - contain themselves, or are deeper or larger than any sensible state;
//! - ask what is in the input (`deserialize_any`: untagged, flattened), which postcard cannot tell either;
//! - read different things for different values (a tag of their own making), as far as two sets of values tell.
//!
//! `serde-reflection` traces types, too, and does not fit: it knows containers by their unqualified names, so that `Pair<u64>`
//! beside `Pair<String>` is an error and two enums of one name become one; an enum inside an option, list or map stays incomplete
//! unless its type is named; and an enum whose first variant contains itself overflows the stack.

mod compare;
#[cfg(test)]
mod tests;
mod text;
mod trace;
mod transcode;

pub(super) use compare::{Added, Change, compare, same};
pub use text::ShapeError;
pub(super) use transcode::transcode;

/// How values of a type are encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Takes no bytes.
    Unit,
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Str,
    Bytes,
    Option(Box<Shape>),
    Seq(Box<Shape>),
    Map(Box<Shape>, Box<Shape>),
    /// A tuple, an array, or a struct without names of fields.
    Tuple(Vec<Shape>),
    Struct(Vec<Named>),
    /// By index. A variant without fields is a [`Shape::Unit`].
    Enum(Vec<Named>),
}

/// A field of a struct, or a variant of an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub shape: Shape,
}

/// No type that is deeper is traced, and no text that is deeper is read: neither may use up the stack.
const MOST_DEPTH: usize = 64;
/// Of one structure.
const MOST_NODES: usize = 4_096;

impl Shape {
    /// The structure of a type; None if it cannot be found.
    pub fn of<T: serde::de::DeserializeOwned>() -> Option<Shape> {
        trace::trace::<T>()
    }

    /// Whether it has a value that is written as zeros: nothing, none, 0, empty.
    fn has_zero(&self) -> bool {
        match self {
            // A character is written as the text of it, which is not empty.
            Shape::Char => false,
            Shape::Tuple(elements) => elements.iter().all(Shape::has_zero),
            Shape::Struct(fields) => fields.iter().all(|field| field.shape.has_zero()),
            Shape::Enum(variants) => variants.first().is_some_and(|variant| variant.shape.has_zero()),
            _ => true,
        }
    }
}
