//! Whether values of one structure can become values of another, and if not, why. Pure.

use std::fmt;

use super::{Named, Shape};

/// Which fields may be added to the end of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Those that may be absent.
    Optional,
    /// Those that have a zero: the author, who raised the version of the state, stands for what it means.
    Zero,
}

/// What becomes of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// They stay as they are, byte for byte.
    None,
    /// Some must be encoded anew.
    Grown,
}

/// The first difference that no value can be carried over, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// From the outside in.
    path: Vec<String>,
    what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.path {
            write!(f, "{step}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl Difference {
    fn new(what: String) -> Difference {
        Difference { path: Vec::new(), what }
    }

    fn within(mut self, step: impl FnOnce() -> String) -> Difference {
        self.path.insert(0, step());
        self
    }
}

/// As a noun.
struct Words<'a>(&'a Shape);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Shape::Unit => f.write_str("nothing"),
            Shape::Str => f.write_str("a string"),
            Shape::Char => f.write_str("a character"),
            Shape::Bytes => f.write_str("a string of bytes"),
            Shape::I8 | Shape::I16 | Shape::I32 | Shape::I64 | Shape::I128 => write!(f, "an {}", self.0),
            Shape::Option(_) => write!(f, "an option {}", self.0),
            Shape::Seq(_) => write!(f, "a list {}", self.0),
            Shape::Map(..) => write!(f, "a map {}", self.0),
            Shape::Tuple(_) => write!(f, "a tuple {}", self.0),
            Shape::Struct(_) => write!(f, "a struct {}", self.0),
            Shape::Enum(_) => write!(f, "an enum {}", self.0),
            simple => write!(f, "a {simple}"),
        }
    }
}

/// What becomes of values of `old` where values of `new` are wanted.
///
/// # Errors
/// The first difference.
pub fn compare(old: &Shape, new: &Shape, added: Added) -> Result<Change, Difference> {
    match (old, new) {
        (Shape::Option(old), Shape::Option(new)) => compare(old, new, added),
        (Shape::Seq(old), Shape::Seq(new)) => compare(old, new, added).map_err(|d| d.within(|| "an element".into())),
        (Shape::Map(old_key, old), Shape::Map(new_key, new)) => {
            // A key with more in it would be another key, perhaps in another order and with another hash.
            same(old_key, new_key).map_err(|d| d.within(|| "a key".into()))?;
            compare(old, new, added).map_err(|d| d.within(|| "a value".into()))
        }
        (Shape::Tuple(old), Shape::Tuple(new)) if old.len() == new.len() => {
            let each = old.iter().zip(new).zip(1..).map(|((old, new), number)| {
                compare(old, new, added).map_err(|d| d.within(|| format!("element {number}")))
            });
            most(each)
        }
        (Shape::Struct(old), Shape::Struct(new)) => {
            let change = most(common("field", old, new, added))?;
            if let Some(gone) = old.get(new.len()) {
                return Err(Difference::new(format!("field {} `{}` is gone", new.len() + 1, gone.name)));
            }
            for (number, field) in (1..).zip(new).skip(old.len()) {
                if !may_be_added(&field.shape, added) {
                    let (name, words) = (&field.name, Words(&field.shape));
                    return Err(Difference::new(format!(
                        "field {number} `{name}` was added and is {words}, which what was written before does not have"
                    )));
                }
            }
            // A field that takes no bytes changes none.
            let grew = new.iter().skip(old.len()).any(|field| takes_bytes(&field.shape));
            Ok(if grew { Change::Grown } else { change })
        }
        (Shape::Enum(old), Shape::Enum(new)) => {
            let change = most(common("variant", old, new, added))?;
            if let Some(gone) = old.get(new.len()) {
                return Err(Difference::new(format!("variant {} `{}` is gone", new.len() + 1, gone.name)));
            }
            Ok(change)
        }
        (old, new) if old == new => Ok(Change::None),
        (old, new) => Err(Difference::new(format!("was {} and is {}", Words(old), Words(new)))),
    }
}

/// As [`compare`], where nothing may have changed.
///
/// # Errors
/// The first difference.
pub fn same(old: &Shape, new: &Shape) -> Result<(), Difference> {
    if old == new {
        return Ok(());
    }
    compare(old, new, Added::Optional)?;
    Err(Difference::new(format!("was {} and is {}, and no key may change", Words(old), Words(new))))
}

fn most(each: impl Iterator<Item = Result<Change, Difference>>) -> Result<Change, Difference> {
    each.into_iter().try_fold(Change::None, |most, change| Ok(most.max(change?)))
}

/// What both have, by position.
fn common<'a>(
    what: &'a str,
    old: &'a [Named],
    new: &'a [Named],
    added: Added,
) -> impl Iterator<Item = Result<Change, Difference>> + 'a {
    old.iter().zip(new).zip(1..).map(move |((old, new), number)| {
        let (was, is) = (&old.name, &new.name);
        if was != is {
            return Err(Difference::new(format!(
                "{what} {number} was `{was}` and is `{is}` (if it only has another name now, say so with \
                 #[serde(rename = {was:?})])"
            )));
        }
        compare(&old.shape, &new.shape, added).map_err(|d| d.within(|| format!("{what} {number} `{was}`")))
    })
}

fn may_be_added(field: &Shape, added: Added) -> bool {
    match added {
        Added::Optional => matches!(field, Shape::Option(_)),
        Added::Zero => field.has_zero(),
    }
}

fn takes_bytes(shape: &Shape) -> bool {
    match shape {
        Shape::Unit => false,
        Shape::Tuple(elements) => elements.iter().any(takes_bytes),
        Shape::Struct(fields) => fields.iter().any(|field| takes_bytes(&field.shape)),
        _ => true,
    }
}
