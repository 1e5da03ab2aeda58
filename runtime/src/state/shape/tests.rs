//! Structures of types, their texts, and the way from one to another.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroU32,
    time::Duration,
};

use proptest::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::*;

mod limits;

fn text<T: DeserializeOwned>() -> String {
    let Some(shape) = Shape::of::<T>() else { return "none".to_string() };
    let text = shape.to_string();
    assert_eq!(text.parse::<Shape>().unwrap(), shape, "{text}");
    text
}

#[derive(Serialize, Deserialize)]
struct Counted {
    count: u64,
    name: String,
    note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Pair<T>(T, T);

#[derive(Serialize, Deserialize)]
struct Id(u64);

#[derive(Serialize, Deserialize)]
struct Nothing;

#[derive(Serialize, Deserialize)]
struct Odd {
    #[serde(rename = "a \"quoted\" \\ name")]
    odd: u8,
    #[serde(default)]
    defaulted: i32,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    Empty,
    One(u8),
    Two(u8, String),
    Named { inner: Inner, at: Option<i64> },
}

#[derive(Serialize, Deserialize)]
enum Inner {
    Left,
    Right(Vec<Kind2>),
}

/// Seen only inside a list inside an enum inside an enum.
#[derive(Serialize, Deserialize)]
enum Kind2 {
    A(bool),
    B(char),
}

/// R20. The structure is that of the encoding, whatever the types are called and wherever they are.
#[test]
fn structures_of_types() {
    assert_eq!(text::<u64>(), "u64");
    assert_eq!(text::<()>(), "()");
    assert_eq!(text::<Nothing>(), "()");
    assert_eq!(text::<String>(), "str");
    assert_eq!(text::<(i8, i16, i32, i64, i128)>(), "(i8,i16,i32,i64,i128)");
    assert_eq!(text::<(u8, u16, u32, u128, f32, f64, bool, char)>(), "(u8,u16,u32,u128,f32,f64,bool,char)");
    assert_eq!(text::<[u8; 4]>(), "[u8;4]");
    assert_eq!(text::<(u64,)>(), "(u64,)");
    assert_eq!(text::<Option<Option<Vec<String>>>>(), "??[str]");
    assert_eq!(text::<BTreeMap<u8, BTreeSet<String>>>(), "map<u8,[str]>");
    assert_eq!(text::<Box<VecDeque<Id>>>(), "[u64]");
    assert_eq!(text::<std::sync::Arc<str>>(), "str");
    assert_eq!(text::<NonZeroU32>(), "u32");
    assert_eq!(text::<Duration>(), "{secs:u64,nanos:u32}");
    assert_eq!(text::<Counted>(), "{count:u64,name:str,note:?str}");
    // One name, several structures.
    assert_eq!(text::<(Pair<u8>, Pair<String>, Pair<Pair<u8>>)>(), "([u8;2],[str;2],[[u8;2];2])");
    assert_eq!(text::<Odd>(), r#"{"a \"quoted\" \\ name":u8,defaulted:i32}"#);
    let kind = "enum{Empty,One:u8,Two:(u8,str),Named:{inner:enum{Left,Right:[enum{A:bool,B:char}]},at:?i64}}";
    assert_eq!(text::<Kind>(), kind);
    assert_eq!(text::<Vec<Option<Kind>>>(), format!("[?{kind}]"));
    assert_eq!(text::<Result<u8, String>>(), "enum{Ok:u8,Err:str}");
}

#[derive(Serialize, Deserialize)]
struct Tree {
    value: u8,
    children: Vec<Tree>,
}

#[derive(Serialize, Deserialize)]
enum Expression {
    Sum(Box<Expression>, Box<Expression>),
    Number(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
}

#[derive(Serialize, Deserialize)]
#[serde(try_from = "u64")]
struct Even(u64);

impl TryFrom<u64> for Even {
    type Error = String;

    fn try_from(number: u64) -> Result<Even, String> {
        if number == 42 { Ok(Even(number)) } else { Err("it is not the answer".to_string()) }
    }
}

/// Reads a flag, and what follows depends on it.
#[derive(Serialize)]
struct Tagged(bool, u64);

impl<'de> Deserialize<'de> for Tagged {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Tagged, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Tagged;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a flag and a number")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Tagged, A::Error> {
                let wide = seq.next_element::<bool>()?.unwrap_or_default();
                let number = match wide {
                    true => seq.next_element::<u64>()?,
                    false => seq.next_element::<u8>()?.map(u64::from),
                };
                Ok(Tagged(wide, number.unwrap_or_default()))
            }
        }
        deserializer.deserialize_tuple(2, Visitor)
    }
}

#[test]
fn types_that_do_not_let_themselves_be_traced_have_no_structure_and_do_no_harm() {
    assert_eq!(text::<Tree>(), "none");
    assert_eq!(text::<Expression>(), "none");
    assert_eq!(text::<Vec<Untagged>>(), "none");
    assert_eq!(text::<Even>(), "none");
    assert_eq!(text::<(u8, Even)>(), "none");
    assert_eq!(text::<Tagged>(), "none");
    assert_eq!(text::<[[u64; 32]; 32]>().len(), "[[u64;32];32]".len());
    type Large = Vec<[[u64; 32]; 32]>;
    assert_eq!(text::<(Large, Large, Large, Large)>(), "none", "too large");
}

fn refused(old: &str, new: &str) -> String {
    let (old, new): (Shape, Shape) = (old.parse().unwrap(), new.parse().unwrap());
    compare(&old, &new, Added::Optional).unwrap_err().to_string()
}

fn change(old: &str, new: &str, added: Added) -> Option<Change> {
    compare(&old.parse().unwrap(), &new.parse().unwrap(), added).ok()
}

/// R20. The first difference is named, in words.
#[test]
fn what_cannot_be_carried_over_is_said() {
    assert_eq!(refused("u64", "i64"), "was a u64 and is an i64");
    assert_eq!(refused("{count:u64,name:str}", "{count:u64,name:u64}"), "field 2 `name`: was a string and is a u64");
    assert_eq!(refused("{a:u8,b:u8}", "{a:u8}"), "field 2 `b` is gone");
    assert_eq!(
        refused("[{a:u8}]", "[{a:u8,b:str}]"),
        "an element: field 2 `b` was added and is a string, which what was written before does not have"
    );
    // Two fields of one type that change places would be misread without a sign.
    assert_eq!(
        refused("{width:u8,height:u8}", "{height:u8,width:u8}"),
        "field 1 was `width` and is `height` (if it only has another name now, say so with #[serde(rename = \"width\")])"
    );
    assert_eq!(
        refused("enum{A,B}", "enum{A,C,B}"),
        "variant 2 was `B` and is `C` (if it only has another name now, say so with #[serde(rename = \"B\")])"
    );
    assert_eq!(refused("enum{A,B}", "enum{A}"), "variant 2 `B` is gone");
    assert_eq!(
        refused("map<u8,{x:str}>", "map<u8,{x:?str}>"),
        "a value: field 1 `x`: was a string and is an option ?str"
    );
    assert_eq!(
        refused("map<{x:u8},u8>", "map<{x:u8,y:?u8},u8>"),
        "a key: was a struct {x:u8} and is a struct {x:u8,y:?u8}, and no key may change"
    );
    assert_eq!(refused("(u8,u16)", "(u8,u16,?u8)"), "was a tuple (u8,u16) and is a tuple (u8,u16,?u8)");
    assert_eq!(refused("enum{A:(u8,str)}", "enum{A:(u8,u8)}"), "variant 1 `A`: element 2: was a string and is a u8");
}

#[test]
fn what_may_be_added() {
    use Added::{Optional, Zero};
    assert_eq!(change("{a:u8}", "{a:u8,b:?str}", Optional), Some(Change::Grown));
    assert_eq!(change("[?{x:{a:u8}}]", "[?{x:{a:u8,b:?str}}]", Optional), Some(Change::Grown));
    assert_eq!(change("{a:u8}", "{b:?str,a:u8}", Optional), None, "not in between");
    // Nothing is encoded anew for a variant, or for a field without content.
    assert_eq!(change("enum{A}", "enum{A,B:u64}", Optional), Some(Change::None));
    assert_eq!(change("{a:u8}", "{a:u8,b:()}", Zero), Some(Change::None));
    assert_eq!(change("{a:u8}", "{a:u8,b:[str],c:f64,d:bool}", Optional), None);
    assert_eq!(change("{a:u8}", "{a:u8,b:[str],c:f64,d:bool}", Zero), Some(Change::Grown));
    assert_eq!(change("{a:u8}", "{a:u8,b:char}", Zero), None, "no character is empty");
    assert_eq!(change("{a:u8}", "{a:u8,b:enum{A:char,B}}", Zero), None);
}

/// A value of some structure.
#[derive(Clone, Debug)]
enum Value {
    Unit,
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    I128(i128),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    U128(u128),
    F32(f32),
    F64(f64),
    Char(char),
    Str(String),
    Option(Option<Box<Value>>),
    Seq(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Fields(Vec<Value>),
    Variant(u32, Box<Value>),
}

/// As serde's derive has it; that postcard then encodes it is what structures are measured against.
impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{SerializeMap, SerializeTuple};
        match self {
            Value::Unit => s.serialize_unit(),
            Value::Bool(v) => s.serialize_bool(*v),
            Value::I8(v) => s.serialize_i8(*v),
            Value::I16(v) => s.serialize_i16(*v),
            Value::I32(v) => s.serialize_i32(*v),
            Value::I64(v) => s.serialize_i64(*v),
            Value::I128(v) => s.serialize_i128(*v),
            Value::U8(v) => s.serialize_u8(*v),
            Value::U16(v) => s.serialize_u16(*v),
            Value::U32(v) => s.serialize_u32(*v),
            Value::U64(v) => s.serialize_u64(*v),
            Value::U128(v) => s.serialize_u128(*v),
            Value::F32(v) => s.serialize_f32(*v),
            Value::F64(v) => s.serialize_f64(*v),
            Value::Char(v) => s.serialize_char(*v),
            Value::Str(v) => s.serialize_str(v),
            Value::Option(None) => s.serialize_none(),
            Value::Option(Some(v)) => s.serialize_some(v),
            Value::Seq(all) => all.serialize(s),
            Value::Map(all) => {
                let mut map = s.serialize_map(Some(all.len()))?;
                all.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
            Value::Fields(all) => {
                let mut tuple = s.serialize_tuple(all.len())?;
                all.iter().try_for_each(|field| tuple.serialize_element(field))?;
                tuple.end()
            }
            Value::Variant(index, content) => s.serialize_newtype_variant("", *index, "", content),
        }
    }
}

/// Two structures, the second grown from the first, and a value of each: the same, as far as both have it.
#[derive(Clone, Debug)]
struct Grown {
    old: Shape,
    new: Shape,
    values: (Value, Value),
}

fn leaf() -> BoxedStrategy<(Shape, Value)> {
    prop_oneof![
        Just((Shape::Unit, Value::Unit)),
        any::<bool>().prop_map(|v| (Shape::Bool, Value::Bool(v))),
        any::<i8>().prop_map(|v| (Shape::I8, Value::I8(v))),
        any::<i16>().prop_map(|v| (Shape::I16, Value::I16(v))),
        any::<i32>().prop_map(|v| (Shape::I32, Value::I32(v))),
        any::<i64>().prop_map(|v| (Shape::I64, Value::I64(v))),
        any::<i128>().prop_map(|v| (Shape::I128, Value::I128(v))),
        any::<u8>().prop_map(|v| (Shape::U8, Value::U8(v))),
        any::<u16>().prop_map(|v| (Shape::U16, Value::U16(v))),
        any::<u32>().prop_map(|v| (Shape::U32, Value::U32(v))),
        any::<u64>().prop_map(|v| (Shape::U64, Value::U64(v))),
        any::<u128>().prop_map(|v| (Shape::U128, Value::U128(v))),
        any::<f32>().prop_map(|v| (Shape::F32, Value::F32(v))),
        any::<f64>().prop_map(|v| (Shape::F64, Value::F64(v))),
        any::<char>().prop_map(|v| (Shape::Char, Value::Char(v))),
        ".{0,4}".prop_map(|v| (Shape::Str, Value::Str(v))),
    ]
    .boxed()
}

fn named(position: usize, shape: Shape) -> Named {
    let name = ["count", "a name", "\"", "x_1", ""][position % 5];
    Named { name: format!("{name}{position}"), shape }
}

/// Fields that are added, by position: what they are.
fn added(from: usize, many: usize) -> (Vec<Named>, Vec<Value>) {
    let all = (from..from + many).map(|position| {
        let (shape, zero) = match position % 4 {
            0 => (Shape::Option(Box::new(Shape::Str)), Value::Option(None)),
            1 => (Shape::F64, Value::F64(0.0)),
            2 => (Shape::Seq(Box::new(Shape::U8)), Value::Seq(Vec::new())),
            _ => {
                (Shape::Tuple(vec![Shape::U128, Shape::Bool]), Value::Fields(vec![Value::U128(0), Value::Bool(false)]))
            }
        };
        (named(position, shape), zero)
    });
    all.unzip()
}

fn grown() -> impl Strategy<Value = Grown> {
    let same =
        |(shape, value): (Shape, Value)| Grown { old: shape.clone(), new: shape, values: (value.clone(), value) };
    leaf().prop_map(same).prop_recursive(4, 40, 4, |inner| {
        let fields = prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            // A struct, with fields added to its end.
            (fields.clone(), 0usize..3).prop_map(|(fields, many)| {
                let name = |shape: fn(&Grown) -> &Shape| {
                    fields.iter().enumerate().map(|(n, f)| named(n, shape(f).clone())).collect::<Vec<_>>()
                };
                let (more, zeros) = added(fields.len(), many);
                let old = fields.iter().map(|f| f.values.0.clone()).collect();
                let new = fields.iter().map(|f| f.values.1.clone()).chain(zeros).collect();
                Grown {
                    old: Shape::Struct(name(|f| &f.old)),
                    new: Shape::Struct([name(|f| &f.new), more].concat()),
                    values: (Value::Fields(old), Value::Fields(new)),
                }
            }),
            fields.clone().prop_map(|fields| Grown {
                old: Shape::Tuple(fields.iter().map(|f| f.old.clone()).collect()),
                new: Shape::Tuple(fields.iter().map(|f| f.new.clone()).collect()),
                values: (
                    Value::Fields(fields.iter().map(|f| f.values.0.clone()).collect()),
                    Value::Fields(fields.iter().map(|f| f.values.1.clone()).collect()),
                ),
            }),
            (inner.clone(), any::<bool>()).prop_map(|(f, some)| Grown {
                old: Shape::Option(Box::new(f.old)),
                new: Shape::Option(Box::new(f.new)),
                values: (
                    Value::Option(some.then(|| Box::new(f.values.0))),
                    Value::Option(some.then(|| Box::new(f.values.1))),
                ),
            }),
            (inner.clone(), 0usize..4).prop_map(|(f, many)| Grown {
                old: Shape::Seq(Box::new(f.old)),
                new: Shape::Seq(Box::new(f.new)),
                values: (Value::Seq(vec![f.values.0; many]), Value::Seq(vec![f.values.1; many])),
            }),
            (inner.clone(), leaf(), 0usize..4).prop_map(|(f, (key, k), many)| Grown {
                old: Shape::Map(Box::new(key.clone()), Box::new(f.old)),
                new: Shape::Map(Box::new(key), Box::new(f.new)),
                values: (Value::Map(vec![(k.clone(), f.values.0); many]), Value::Map(vec![(k, f.values.1); many]),),
            }),
            // An enum, with variants added to its end.
            (prop::collection::vec(inner, 1..4), any::<prop::sample::Index>(), 0usize..2).prop_map(
                |(variants, which, many)| {
                    let which = which.index(variants.len());
                    let name = |shape: fn(&Grown) -> &Shape| {
                        variants.iter().enumerate().map(|(n, v)| named(n, shape(v).clone())).collect::<Vec<_>>()
                    };
                    let values = variants[which].values.clone();
                    let (more, _) = added(variants.len(), many);
                    Grown {
                        old: Shape::Enum(name(|v| &v.old)),
                        new: Shape::Enum([name(|v| &v.new), more].concat()),
                        values: (
                            Value::Variant(which as u32, Box::new(values.0)),
                            Value::Variant(which as u32, Box::new(values.1)),
                        ),
                    }
                }
            ),
        ]
    })
}

proptest! {
    /// Whatever postcard wrote of a value of the old structure becomes, byte for byte, what postcard writes of the same value
    /// of the new one.
    #[test]
    fn values_grow_with_their_structure(Grown { old, new, values } in grown()) {
        let written = postcard::to_allocvec(&values.0).unwrap();
        let change = compare(&old, &new, Added::Zero).unwrap();
        prop_assert_eq!(transcode(&old, &old, &written).unwrap(), &written[..]);
        let grown = transcode(&old, &new, &written).unwrap();
        prop_assert_eq!(&grown, &postcard::to_allocvec(&values.1).unwrap());
        prop_assert!(change == Change::Grown || grown == written);
        if old != new {
            // Back again it does not go, but for what nobody can see.
            prop_assert!(compare(&new, &old, Added::Zero).is_err());
        }
    }

    #[test]
    fn a_structure_is_what_its_text_says(Grown { old, new, .. } in grown()) {
        for shape in [&old, &new] {
            prop_assert_eq!(&shape.to_string().parse::<Shape>().unwrap(), shape);
            let encoded = postcard::to_allocvec(shape).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Shape>(&encoded).unwrap(), shape);
        }
        prop_assert_eq!(old == new, old.to_string() == new.to_string());
    }

    #[test]
    fn any_text_is_read_or_refused(text in r#"[\[\](){}<>,:;?"\\a-z0-9]{0,40}|(u8|map<|enum\{|\{|a:|,|\[|;|9|\?|\)|\]|\}|>){0,12}"#) {
        if let Ok(shape) = text.parse::<Shape>() {
            prop_assert_eq!(shape.to_string().parse::<Shape>().unwrap(), shape);
        }
    }

    #[test]
    fn damaged_values_are_refused_or_become_something(
        Grown { old, new, values } in grown(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = postcard::to_allocvec(&values.0).unwrap();
        if bytes.is_empty() {
            bytes.push(byte);
            prop_assert!(transcode(&old, &new, &bytes).is_err());
        } else if cut {
            bytes.truncate(at.index(bytes.len()));
            prop_assert!(transcode(&old, &new, &bytes).is_err());
        } else {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = transcode(&old, &new, &bytes);
        }
    }
}

#[test]
fn damage_costs_neither_stack_nor_memory() {
    for text in ["[".repeat(100_000), "?".repeat(1_000), "[[[[u8;4000];4000];4000];4000]".to_string()] {
        assert!(text.parse::<Shape>().is_err());
    }
    let shape = |text: &str| text.parse::<Shape>().unwrap();
    let endless = postcard::to_allocvec(&u64::MAX).unwrap();
    assert_eq!(transcode(&shape("[()]"), &shape("[()]"), &endless), Ok(endless.clone()));
    let error = transcode(&shape("[{}]"), &shape("[{a:?u8}]"), &endless).unwrap_err();
    assert!(error.contains("without content"), "{error}");
}
