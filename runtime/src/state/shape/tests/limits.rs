//! To where structures are found and texts are read, to the last node; and types that ask the tracer for unusual things.

use std::{fmt, marker::PhantomData, net::Ipv4Addr};

use serde::{
    Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

use super::*;

type Options<T> = Option<Option<Option<Option<T>>>>;
type Lists<T> = Vec<Vec<Vec<Vec<T>>>>;
type Results<T> = Result<Result<Result<Result<T, ()>, ()>, ()>, ()>;

/// Sixteen times four, once more around something.
macro_rules! sixty_four {
    ($four:ident, $inner:ty) => { sixty_four!(@ $four, sixty_four!(@ $four, $inner)) };
    (@ $four:ident, $inner:ty) => { $four<$four<$four<$four<$four<$four<$four<$four<$inner>>>>>>>> };
}

/// Values lie at most so deep, whatever they lie in.
#[test]
fn types_are_traced_to_a_depth() {
    assert_eq!(text::<sixty_four!(Options, u8)>(), "?".repeat(64) + "u8");
    assert_eq!(text::<sixty_four!(Options, Option<u8>)>(), "none");
    assert_eq!(text::<sixty_four!(Lists, u8)>(), "[".repeat(64) + "u8" + &"]".repeat(64));
    assert_eq!(text::<sixty_four!(Lists, Vec<u8>)>(), "none");
    assert_eq!(text::<sixty_four!(Results, u8)>(), "enum{Ok:".repeat(64) + "u8" + &",Err}".repeat(64));
    assert_eq!(text::<sixty_four!(Results, Result<u8, ()>)>(), "none");
    #[derive(Serialize, Deserialize)]
    struct Endless(Box<Endless>);
    assert_eq!(text::<Endless>(), "none");
}

/// A structure has at most so many nodes: three times 1057, 900, 24, and what holds them.
#[test]
fn types_are_traced_to_a_size() {
    type Square = [[u64; 32]; 32];
    type Most = (Square, Square, Square, [[u8; 30]; 29], [u8; 23]);
    assert_ne!(text::<Most>(), "none");
    type More = (Square, Square, Square, [[u8; 30]; 29], [u8; 24]);
    assert_eq!(text::<More>(), "none");
}

#[test]
fn texts_are_read_to_a_depth_and_a_size() {
    let is_read = |text: String| text.parse::<Shape>().is_ok();
    assert!(is_read("?".repeat(128) + "u8") && !is_read("?".repeat(129) + "u8"));
    assert!(is_read(format!("({})", "u8,".repeat(4_095))) && !is_read(format!("({})", "u8,".repeat(4_096))));
    assert!(is_read("[u8;4096]".into()) && !is_read("[u8;4097]".into()));
    assert!(is_read("([u8;2000],[u8;2000],u8)".into()) && !is_read("([u8;2000],[u8;2100],u8)".into()));
    let variants = |many: usize| format!("enum{{{}B:u8}}", "A,".repeat(many));
    assert!(is_read(variants(4_094)) && !is_read(variants(4_095)));
    let left_over = "u8)".parse::<Shape>().unwrap_err();
    assert_eq!(left_over.to_string(), "no structure of a type, at byte 2");
}

/// What is in a map is found to the end, in whatever it lies itself.
#[test]
fn entries_of_maps_are_found_whole() {
    let inner = "enum{Left,Right:[enum{A:bool,B:char}]}";
    assert_eq!(text::<BTreeMap<u8, Inner>>(), format!("map<u8,{inner}>"));
    assert_eq!(text::<Option<BTreeMap<u8, Inner>>>(), format!("?map<u8,{inner}>"));
    assert_eq!(text::<(u8, Inner)>(), format!("(u8,{inner})"));
}

/// As postcard has it: no format for people.
#[test]
fn types_are_traced_as_they_are_stored() {
    assert_eq!(text::<Ipv4Addr>(), "[u8;4]");
}

#[derive(Deserialize)]
enum Side {
    Left,
    Right,
}

/// Reads one thing or another, as a variant says.
struct Either<A, B>(PhantomData<(A, B)>);

impl<'de, A: Deserialize<'de>, B: Deserialize<'de>> Deserialize<'de> for Either<A, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both<A, B>(PhantomData<(A, B)>);
        impl<'de, A: Deserialize<'de>, B: Deserialize<'de>> Visitor<'de> for Both<A, B> {
            type Value = Either<A, B>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a side, and what is there")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Either<A, B>, S::Error> {
                match seq.next_element()? {
                    Some(Side::Left) => drop(seq.next_element::<A>()?),
                    Some(Side::Right) => drop(seq.next_element::<B>()?),
                    None => return Err(S::Error::custom("no side")),
                }
                Ok(Either(PhantomData))
            }
        }
        deserializer.deserialize_tuple(2, Both(PhantomData))
    }
}

/// What follows depends on a value: there is no structure that all values have, be it only that a field has another name.
#[test]
fn what_is_not_always_the_same_has_no_structure() {
    #[derive(Serialize, Deserialize)]
    struct Width {
        width: u8,
    }
    #[derive(Serialize, Deserialize)]
    struct Height {
        height: u8,
    }
    assert_eq!(text::<Either<u8, u8>>(), "(enum{Left,Right},u8)");
    assert_eq!(text::<Either<u8, u64>>(), "none");
    assert_eq!(text::<Either<Width, Width>>(), "(enum{Left,Right},{width:u8})");
    assert_eq!(text::<Either<Width, Height>>(), "none");
}

/// Reads as many as it is told there are, or refuses.
struct Told;

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Told, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Told;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("so many")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Told, S::Error> {
                for _ in 0..seq.size_hint().ok_or(S::Error::custom("how many?"))? {
                    seq.next_element::<u8>()?.ok_or(S::Error::custom("fewer"))?;
                }
                Ok(Told)
            }
        }
        deserializer.deserialize_seq(All)
    }
}

/// As [`Told`], of a map.
struct ToldOfEntries;

impl<'de> Deserialize<'de> for ToldOfEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ToldOfEntries, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = ToldOfEntries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("so many entries")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ToldOfEntries, M::Error> {
                for _ in 0..map.size_hint().ok_or(M::Error::custom("how many?"))? {
                    map.next_entry::<u8, bool>()?.ok_or(M::Error::custom("fewer"))?;
                }
                Ok(ToldOfEntries)
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// The tracer says how many elements it has, as postcard does. The variants behind them take several passes.
#[test]
fn how_much_there_is_is_said() {
    assert_eq!(text::<(Told, Side)>(), "([u8],enum{Left,Right})");
    assert_eq!(text::<(ToldOfEntries, Side)>(), "(map<u8,bool>,enum{Left,Right})");
}

/// Asks for a tuple that no memory would hold.
struct Immense;

impl<'de> Deserialize<'de> for Immense {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Immense, D::Error> {
        struct Nobody;
        impl Visitor<'_> for Nobody {
            type Value = Immense;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("nothing")
            }
        }
        deserializer.deserialize_tuple(usize::MAX, Nobody)
    }
}

#[test]
fn an_immense_tuple_costs_nothing() {
    assert_eq!(text::<Immense>(), "none");
}

#[test]
fn zeros_and_bytes_are_looked_for_within() {
    let zero = |new: &str| change("{a:u8}", new, Added::Zero);
    assert_eq!(zero("{a:u8,b:(u8,char)}"), None, "no character is empty");
    assert_eq!(zero("{a:u8,b:{c:char}}"), None);
    assert_eq!(zero("{a:u8,b:(u8,u16)}"), Some(Change::Grown));
    assert_eq!(zero("{a:u8,b:((),{c:()})}"), Some(Change::None), "nothing is written for it");
    assert_eq!(zero("{a:u8,b:{c:u8}}"), Some(Change::Grown));
}

/// A number that ends too soon, and one that does not end where numbers of its size must.
#[test]
fn damaged_numbers_are_told_apart() {
    let shape = |text: &str| text.parse::<Shape>().unwrap();
    let error = |bytes: &[u8]| transcode(&shape("u16"), &shape("u16"), bytes).unwrap_err();
    assert_eq!(error(&[]), "it is cut off");
    assert_eq!(error(&[0x80, 0x80]), "it is cut off");
    assert_eq!(error(&[0x80, 0x80, 0x80]), "a number is too long");
    assert_eq!(error(&[0x80, 0x80, 0x80, 0x00]), "a number is too long");
}

fn shape(text: &str) -> Shape {
    text.parse().expect("a structure")
}

/// A field that is added reads as nothing of its kind, whatever that is, and takes as many bytes as the type reads.
#[test]
fn what_is_added_reads_as_nothing() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Grown<T> {
        a: u8,
        added: T,
    }
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Point {
        x: f32,
        y: f64,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Choice {
        Some(f32, Point),
        Other,
    }
    fn grow<T: DeserializeOwned + Serialize + fmt::Debug + PartialEq>(nothing: T) {
        let new = Shape::of::<Grown<T>>().expect("it has a structure");
        let grown = transcode(&shape("{a:u8}"), &new, &[7]).expect("a field is added");
        let (read, rest) = postcard::take_from_bytes::<Grown<T>>(&grown).expect("it is one");
        assert_eq!((read, rest), (Grown { a: 7, added: nothing }, &[][..]), "{new}");
    }
    grow(());
    grow(0_f32);
    grow(0_f64);
    grow((0_u8, 0_f32, String::new()));
    grow(Point::default());
    grow(Choice::Some(0.0, Point::default()));
    grow([None::<u64>; 3]);
}

/// Elements that take bytes may be as many as there are bytes.
#[test]
fn long_lists_grow() {
    let many: u32 = 70_000;
    let list = postcard::to_allocvec(&vec![7_u8; many as usize]).unwrap();
    let grown = transcode(&shape("[{a:u8}]"), &shape("[{a:u8,b:?u8}]"), &list).unwrap();
    let expected: Vec<(u8, Option<u8>)> = vec![(7, None); many as usize];
    assert_eq!(postcard::from_bytes::<Vec<(u8, Option<u8>)>>(&grown), Ok(expected));
}
