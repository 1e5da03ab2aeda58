//! A structure as text, and back: what snapshots hold, and what messages show.
//!
//! ```text
//! ()  bool  i8 … i128  u8 … u128  f32  f64  char  str  bytes
//! ?T                    an option          [T]           a list
//! map<K,V>              a map              (A,B)  (A,)   a tuple
//! [T;3]                 a tuple of two or more that are alike, as an array is
//! {name:T,"odd name":U} a struct           enum{A,B:T}   an enum; variants without fields have their names alone
//! ```
//!
//! One structure has one text. Nothing about a text is believed when it is read: depth and size are bounded.

use std::fmt::{self, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{MOST_DEPTH, MOST_NODES, Named, Shape};

const SIMPLE: [(&str, Shape); 17] = [
    ("()", Shape::Unit),
    ("bool", Shape::Bool),
    ("i8", Shape::I8),
    ("i16", Shape::I16),
    ("i32", Shape::I32),
    ("i64", Shape::I64),
    ("i128", Shape::I128),
    ("u8", Shape::U8),
    ("u16", Shape::U16),
    ("u32", Shape::U32),
    ("u64", Shape::U64),
    ("u128", Shape::U128),
    ("f32", Shape::F32),
    ("f64", Shape::F64),
    ("char", Shape::Char),
    ("str", Shape::Str),
    ("bytes", Shape::Bytes),
];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Option(content) => write!(f, "?{content}"),
            Shape::Seq(content) => write!(f, "[{content}]"),
            Shape::Map(key, value) => write!(f, "map<{key},{value}>"),
            Shape::Tuple(elements) => match elements.as_slice() {
                [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|other| other == first) => {
                    write!(f, "[{first};{}]", elements.len())
                }
                [only] => write!(f, "({only},)"),
                // An empty tuple is not what takes no bytes and is asked for as such.
                [] => f.write_str("(,)"),
                _ => {
                    for (position, element) in elements.iter().enumerate() {
                        write!(f, "{}{element}", if position == 0 { '(' } else { ',' })?;
                    }
                    f.write_char(')')
                }
            },
            Shape::Struct(fields) => put_named(f, "{", fields, |_| true),
            Shape::Enum(variants) => put_named(f, "enum{", variants, |shape| *shape != Shape::Unit),
            simple => {
                let known = SIMPLE.iter().find(|(_, shape)| shape == simple);
                f.write_str(known.map_or("", |(name, _)| name))
            }
        }
    }
}

fn put_named(f: &mut fmt::Formatter<'_>, open: &str, all: &[Named], has_shape: impl Fn(&Shape) -> bool) -> fmt::Result {
    f.write_str(open)?;
    for (position, Named { name, shape }) in all.iter().enumerate() {
        if position > 0 {
            f.write_char(',')?;
        }
        if !name.is_empty() && name.chars().all(is_plain) {
            f.write_str(name)?;
        } else {
            f.write_char('"')?;
            for c in name.chars() {
                if matches!(c, '"' | '\\') {
                    f.write_char('\\')?;
                }
                f.write_char(c)?;
            }
            f.write_char('"')?;
        }
        if has_shape(shape) {
            write!(f, ":{shape}")?;
        }
    }
    f.write_char('}')
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A text is not that of a structure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no structure of a type, at byte {0}")]
pub struct ShapeError(usize);

impl std::str::FromStr for Shape {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Shape, ShapeError> {
        let mut reader = Reader { text, at: 0, nodes: 0 };
        let shape = reader.shape(0)?;
        if reader.at < text.len() { Err(ShapeError(reader.at)) } else { Ok(shape) }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn takes(&mut self, token: &str) -> bool {
        let takes = self.rest().starts_with(token);
        self.at += if takes { token.len() } else { 0 };
        takes
    }

    fn expect(&mut self, token: &str) -> Result<(), ShapeError> {
        if self.takes(token) { Ok(()) } else { Err(ShapeError(self.at)) }
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !is_plain(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn shape(&mut self, depth: usize) -> Result<Shape, ShapeError> {
        self.nodes += 1;
        if depth > 2 * MOST_DEPTH || self.nodes > MOST_NODES {
            return Err(ShapeError(self.at));
        }
        let inner = depth + 1;
        if self.takes("()") {
            return Ok(Shape::Unit);
        }
        if self.takes("?") {
            return Ok(Shape::Option(Box::new(self.shape(inner)?)));
        }
        if self.takes("[") {
            let before = self.nodes;
            let content = self.shape(inner)?;
            if self.takes("]") {
                return Ok(Shape::Seq(Box::new(content)));
            }
            self.expect(";")?;
            let at = self.at;
            let count: usize = self.word().parse().map_err(|_| ShapeError(at))?;
            let nodes = (self.nodes - before).saturating_mul(count);
            if count < 2 || nodes > MOST_NODES {
                return Err(ShapeError(at));
            }
            self.nodes = before + nodes;
            self.expect("]")?;
            return Ok(Shape::Tuple(vec![content; count]));
        }
        if self.takes("(") {
            let mut elements = Vec::new();
            loop {
                if self.takes(")") {
                    return Ok(Shape::Tuple(elements));
                }
                if !elements.is_empty() || self.rest().starts_with(',') {
                    self.expect(",")?;
                    if self.takes(")") {
                        return Ok(Shape::Tuple(elements));
                    }
                }
                elements.push(self.shape(inner)?);
            }
        }
        if self.takes("{") {
            return Ok(Shape::Struct(self.named(inner, false)?));
        }
        let at = self.at;
        match self.word() {
            "map" => {
                self.expect("<")?;
                let key = self.shape(inner)?;
                self.expect(",")?;
                let value = self.shape(inner)?;
                self.expect(">")?;
                Ok(Shape::Map(Box::new(key), Box::new(value)))
            }
            "enum" => {
                self.expect("{")?;
                Ok(Shape::Enum(self.named(inner, true)?))
            }
            word => {
                let known = SIMPLE.iter().find(|(name, _)| *name == word);
                known.map(|(_, shape)| shape.clone()).ok_or(ShapeError(at))
            }
        }
    }

    fn named(&mut self, depth: usize, may_be_bare: bool) -> Result<Vec<Named>, ShapeError> {
        let mut all = Vec::new();
        while !self.takes("}") {
            if !all.is_empty() {
                self.expect(",")?;
            }
            let name = self.name()?;
            let bare = may_be_bare && !self.rest().starts_with(':');
            let shape = if bare {
                self.nodes += 1;
                Shape::Unit
            } else {
                self.expect(":")?;
                self.shape(depth)?
            };
            all.push(Named { name, shape });
        }
        Ok(all)
    }

    fn name(&mut self) -> Result<String, ShapeError> {
        let at = self.at;
        if !self.takes("\"") {
            let word = self.word();
            return if word.is_empty() { Err(ShapeError(at)) } else { Ok(word.to_string()) };
        }
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((position, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += position + 1;
                    return Ok(name);
                }
                '\\' => name.push(chars.next().ok_or(ShapeError(at))?.1),
                c => name.push(c),
            }
        }
        Err(ShapeError(at))
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
