//! Finds the structure of a type: a deserializer that reads nothing, gives made-up values and notes what it was asked for.
//!
//! One pass shows one variant of each enum, so passes go on until everything was seen: each goes into what is not complete, and
//! gives none of an option and nothing of a list that is. Cost: passes as there are variants, each as dear as decoding one value.

use std::fmt;

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
        value::U32Deserializer,
    },
};

use super::{MOST_DEPTH, MOST_NODES, Named, Shape};

/// Values that are made up. Some types refuse 0, some 1; what reads different things for different values has no structure.
#[derive(Clone, Copy)]
struct MadeUp {
    number: u8,
    truth: bool,
    text: &'static str,
}

const SOME: MadeUp = MadeUp { number: 1, truth: false, text: "" };
const OTHER: MadeUp = MadeUp { number: 0, truth: true, text: "a" };

pub(super) fn trace<T: DeserializeOwned>() -> Option<Shape> {
    match (trace_with::<T>(SOME), trace_with::<T>(OTHER)) {
        (Ok(shape), Ok(other)) => (shape == other).then_some(shape),
        (Ok(shape), Err(_)) | (Err(_), Ok(shape)) => Some(shape),
        (Err(_), Err(_)) => None,
    }
}

fn trace_with<T: DeserializeOwned>(values: MadeUp) -> Result<Shape, Untraceable> {
    let (mut root, mut found) = (Node::Unknown, 0);
    loop {
        let before = found;
        T::deserialize(Tracer { node: &mut root, found: &mut found, values, depth: 0 })?;
        if let Some(shape) = root.complete() {
            return Ok(shape);
        }
        if found == before {
            return Err(Untraceable("it does not read all of what it asks for"));
        }
    }
}

/// What is known of a structure.
enum Node {
    Unknown,
    Leaf(Shape),
    Option(Box<Node>),
    Seq(Box<Node>),
    Map(Box<(Node, Node)>),
    Tuple(Vec<Node>),
    Struct(Vec<(&'static str, Node)>),
    Enum(Vec<(&'static str, Node)>),
}

impl Node {
    fn is_complete(&self) -> bool {
        match self {
            Node::Unknown => false,
            Node::Leaf(_) => true,
            Node::Option(content) | Node::Seq(content) => content.is_complete(),
            Node::Map(entry) => entry.0.is_complete() && entry.1.is_complete(),
            Node::Tuple(elements) => elements.iter().all(Node::is_complete),
            Node::Struct(named) | Node::Enum(named) => named.iter().all(|(_, node)| node.is_complete()),
        }
    }

    fn complete(&self) -> Option<Shape> {
        let named = |named: &[(&'static str, Node)]| {
            let each = |(name, node): &(&str, Node)| Some(Named { name: (*name).to_string(), shape: node.complete()? });
            named.iter().map(each).collect::<Option<Vec<Named>>>()
        };
        Some(match self {
            Node::Unknown => return None,
            Node::Leaf(shape) => shape.clone(),
            Node::Option(content) => Shape::Option(Box::new(content.complete()?)),
            Node::Seq(content) => Shape::Seq(Box::new(content.complete()?)),
            Node::Map(entry) => Shape::Map(Box::new(entry.0.complete()?), Box::new(entry.1.complete()?)),
            Node::Tuple(elements) => Shape::Tuple(elements.iter().map(Node::complete).collect::<Option<_>>()?),
            Node::Struct(fields) => Shape::Struct(named(fields)?),
            Node::Enum(variants) => Shape::Enum(named(variants)?),
        })
    }
}

/// Why a type has no structure that could be found. Nobody is told: its name stands for it.
#[derive(Debug)]
struct Untraceable(#[expect(dead_code, reason = "for whoever debugs this")] &'static str);

impl fmt::Display for Untraceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its structure cannot be found")
    }
}

impl std::error::Error for Untraceable {}

impl de::Error for Untraceable {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Untraceable("it refuses a made-up value")
    }
}

struct Tracer<'a> {
    node: &'a mut Node,
    /// Nodes that were found, over all passes.
    found: &'a mut usize,
    values: MadeUp,
    depth: usize,
}

const CHANGED: Untraceable = Untraceable("it reads different things at one place");

/// Enters a node of this kind, making it if nothing is known.
macro_rules! entered {
    ($tracer:expr, $kind:path, $make:expr, $same:expr) => {{
        if matches!($tracer.node, Node::Unknown) {
            $tracer.find($make)?;
        }
        match $tracer.node {
            $kind(content) if $same(content) => content,
            _ => return Err(CHANGED),
        }
    }};
}

impl<'a> Tracer<'a> {
    fn find(&mut self, node: Node) -> Result<(), Untraceable> {
        *self.node = node;
        *self.found += 1;
        if *self.found > MOST_NODES || self.depth > MOST_DEPTH {
            return Err(Untraceable("it is too large, or contains itself"));
        }
        Ok(())
    }

    fn leaf(&mut self, shape: Shape) -> Result<(), Untraceable> {
        match self.node {
            Node::Unknown => self.find(Node::Leaf(shape)),
            Node::Leaf(known) if *known == shape => Ok(()),
            _ => Err(CHANGED),
        }
    }
}

macro_rules! leaves {
    ($($method:ident $shape:ident $visit:ident $value:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
            self.leaf(Shape::$shape)?;
            let value: fn(MadeUp) -> _ = $value;
            visitor.$visit(value(self.values))
        }
    )*};
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Untraceable;

    leaves! {
        deserialize_bool Bool visit_bool |v| v.truth;
        deserialize_i8 I8 visit_i8 |v| v.number.cast_signed();
        deserialize_i16 I16 visit_i16 |v| i16::from(v.number);
        deserialize_i32 I32 visit_i32 |v| i32::from(v.number);
        deserialize_i64 I64 visit_i64 |v| i64::from(v.number);
        deserialize_i128 I128 visit_i128 |v| i128::from(v.number);
        deserialize_u8 U8 visit_u8 |v| v.number;
        deserialize_u16 U16 visit_u16 |v| u16::from(v.number);
        deserialize_u32 U32 visit_u32 |v| u32::from(v.number);
        deserialize_u64 U64 visit_u64 |v| u64::from(v.number);
        deserialize_u128 U128 visit_u128 |v| u128::from(v.number);
        deserialize_f32 F32 visit_f32 |v| f32::from(v.number);
        deserialize_f64 F64 visit_f64 |v| f64::from(v.number);
        deserialize_char Char visit_char |_| 'a';
        deserialize_str Str visit_borrowed_str |v| v.text;
        deserialize_string Str visit_borrowed_str |v| v.text;
        deserialize_bytes Bytes visit_borrowed_bytes |v| v.text.as_bytes();
        deserialize_byte_buf Bytes visit_borrowed_bytes |v| v.text.as_bytes();
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
        self.leaf(Shape::Unit)?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.deserialize_unit(visitor)
    }

    /// Takes no bytes of its own.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        if self.depth > MOST_DEPTH {
            return Err(Untraceable("it contains itself"));
        }
        visitor.visit_newtype_struct(Tracer { depth: self.depth + 1, ..self })
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
        let content = entered!(self, Node::Option, Node::Option(Box::new(Node::Unknown)), |_: &_| true);
        if content.is_complete() {
            return visitor.visit_none();
        }
        visitor.visit_some(Tracer { node: content, found: self.found, values: self.values, depth: self.depth + 1 })
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
        let content = entered!(self, Node::Seq, Node::Seq(Box::new(Node::Unknown)), |_: &_| true);
        let nodes = if content.is_complete() { Vec::new() } else { vec![&mut **content] };
        visitor.visit_seq(Elements {
            nodes: nodes.into_iter(),
            found: self.found,
            values: self.values,
            depth: self.depth,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Untraceable> {
        let unknown = Node::Map(Box::new((Node::Unknown, Node::Unknown)));
        let entry = entered!(self, Node::Map, unknown, |_: &_| true);
        let complete = entry.0.is_complete() && entry.1.is_complete();
        let nodes = if complete { Vec::new() } else { vec![&mut entry.0, &mut entry.1] };
        visitor.visit_map(Elements {
            nodes: nodes.into_iter(),
            found: self.found,
            values: self.values,
            depth: self.depth,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, length: usize, visitor: V) -> Result<V::Value, Untraceable> {
        if length > MOST_NODES {
            return Err(Untraceable("it is too large"));
        }
        let unknown = || Node::Tuple((0..length).map(|_| Node::Unknown).collect());
        let elements = entered!(self, Node::Tuple, unknown(), |known: &Vec<_>| known.len() == length);
        let nodes: Vec<&mut Node> = elements.iter_mut().collect();
        visitor.visit_seq(Elements {
            nodes: nodes.into_iter(),
            found: self.found,
            values: self.values,
            depth: self.depth,
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        let unknown = || Node::Struct(names.iter().map(|name| (*name, Node::Unknown)).collect());
        let fields = entered!(self, Node::Struct, unknown(), |known: &Vec<(&'static str, Node)>| are(known, names));
        let nodes: Vec<&mut Node> = fields.iter_mut().map(|(_, node)| node).collect();
        visitor.visit_seq(Elements {
            nodes: nodes.into_iter(),
            found: self.found,
            values: self.values,
            depth: self.depth,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        let unknown = || Node::Enum(names.iter().map(|name| (*name, Node::Unknown)).collect());
        let variants = entered!(self, Node::Enum, unknown(), |known: &Vec<(&'static str, Node)>| are(known, names));
        let next = variants.iter().position(|(_, node)| !node.is_complete()).unwrap_or(0);
        let Some((_, node)) = variants.get_mut(next) else { return Err(Untraceable("an enum without variants")) };
        let index = u32::try_from(next).map_err(|_| Untraceable("too many variants"))?;
        let tracer = Tracer { node, found: self.found, values: self.values, depth: self.depth + 1 };
        visitor.visit_enum(Variant { index, tracer })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Untraceable> {
        Err(Untraceable("it asks what is there"))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Untraceable> {
        Err(Untraceable("it asks for names"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Untraceable> {
        Err(Untraceable("it asks what is there"))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

fn are(known: &[(&'static str, Node)], names: &[&str]) -> bool {
    known.iter().map(|(name, _)| *name).eq(names.iter().copied())
}

/// What is in a container.
struct Elements<'a> {
    nodes: std::vec::IntoIter<&'a mut Node>,
    found: &'a mut usize,
    values: MadeUp,
    depth: usize,
}

impl Elements<'_> {
    fn next<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Untraceable> {
        let Some(node) = self.nodes.next() else { return Ok(None) };
        let tracer = Tracer { node, found: self.found, values: self.values, depth: self.depth + 1 };
        seed.deserialize(tracer).map(Some)
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Untraceable;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Untraceable> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len())
    }
}

impl<'de> MapAccess<'de> for Elements<'_> {
    type Error = Untraceable;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Untraceable> {
        self.next(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Untraceable> {
        self.next(seed)?.ok_or(Untraceable("it asks for a value without its key"))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len() / 2)
    }
}

struct Variant<'a> {
    index: u32,
    tracer: Tracer<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Untraceable;
    type Variant = Tracer<'a>;

    /// By index, as postcard has it.
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Tracer<'a>), Untraceable> {
        let variant = seed.deserialize(U32Deserializer::new(self.index))?;
        Ok((variant, self.tracer))
    }
}

impl<'de> VariantAccess<'de> for Tracer<'_> {
    type Error = Untraceable;

    fn unit_variant(mut self) -> Result<(), Untraceable> {
        self.leaf(Shape::Unit)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Untraceable> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Untraceable> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Untraceable> {
        self.deserialize_struct("", fields, visitor)
    }
}
