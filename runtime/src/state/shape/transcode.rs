//! From values of an older structure to values of a newer one, by walking both. Pure; [`super::compare`] has allowed it.

use super::{Named, Shape};

/// Elements of a list that take no bytes are made larger one by one; so many at most, for their number may be damaged.
const MOST_EMPTY_ELEMENTS: u64 = 1 << 16;

/// The value in `bytes`, and nothing else, encoded anew.
///
/// # Errors
/// If it is not a value of `old`.
pub fn transcode(old: &Shape, new: &Shape, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut reader = Reader { rest: bytes, out: &mut out };
    reader.value(old, new)?;
    match reader.rest.len() {
        0 => Ok(out),
        left => Err(format!("{left} bytes are left over")),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    out: &'a mut Vec<u8>,
}

fn cut_off() -> String {
    "it is cut off".to_string()
}

impl Reader<'_> {
    fn copy(&mut self, length: usize) -> Result<(), String> {
        let (copied, rest) = self.rest.split_at_checked(length).ok_or_else(cut_off)?;
        self.out.extend_from_slice(copied);
        self.rest = rest;
        Ok(())
    }

    /// A number of variable length, of so many bits.
    fn copy_number(&mut self, bits: usize) -> Result<(), String> {
        let most = bits.div_ceil(7);
        let last = self.rest.iter().take(most).position(|byte| byte & 0x80 == 0);
        match last {
            Some(last) => self.copy(last + 1),
            None if self.rest.len() < most => Err(cut_off()),
            None => Err("a number is too long".to_string()),
        }
    }

    fn count(&mut self) -> Result<u64, String> {
        let (count, rest) = postcard::take_from_bytes::<u64>(self.rest).map_err(|error| error.to_string())?;
        let length = self.rest.len() - rest.len();
        self.copy(length)?;
        Ok(count)
    }

    fn value(&mut self, old: &Shape, new: &Shape) -> Result<(), String> {
        match (old, new) {
            (Shape::Unit, _) => Ok(()),
            (Shape::Bool | Shape::I8 | Shape::U8, _) => self.copy(1),
            (Shape::I16 | Shape::U16, _) => self.copy_number(16),
            (Shape::I32 | Shape::U32, _) => self.copy_number(32),
            (Shape::I64 | Shape::U64, _) => self.copy_number(64),
            (Shape::I128 | Shape::U128, _) => self.copy_number(128),
            (Shape::F32, _) => self.copy(4),
            (Shape::F64, _) => self.copy(8),
            (Shape::Char | Shape::Str | Shape::Bytes, _) => {
                let length = self.count()?;
                self.copy(usize::try_from(length).map_err(|_| cut_off())?)
            }
            (Shape::Option(old), Shape::Option(new)) => match self.rest.first() {
                Some(0) => self.copy(1),
                Some(1) => {
                    self.copy(1)?;
                    self.value(old, new)
                }
                Some(tag) => Err(format!("an option begins with {tag}")),
                None => Err(cut_off()),
            },
            (Shape::Seq(old), Shape::Seq(new)) => self.each(|reader| reader.value(old, new)),
            (Shape::Map(old_key, old), Shape::Map(new_key, new)) => self.each(|reader| {
                reader.value(old_key, new_key)?;
                reader.value(old, new)
            }),
            (Shape::Tuple(old), Shape::Tuple(new)) => {
                old.iter().zip(new).try_for_each(|(old, new)| self.value(old, new))
            }
            (Shape::Struct(old), Shape::Struct(new)) => {
                old.iter().zip(new).try_for_each(|(old, new)| self.value(&old.shape, &new.shape))?;
                put_zeros(&new[old.len().min(new.len())..], self.out);
                Ok(())
            }
            (Shape::Enum(old), Shape::Enum(new)) => {
                let index = self.count()?;
                let variant = usize::try_from(index).ok().and_then(|index| old.get(index).zip(new.get(index)));
                let (old, new) = variant.ok_or_else(|| format!("there is no variant {index}"))?;
                self.value(&old.shape, &new.shape)
            }
            (old, new) => Err(format!("{old} cannot become {new}")),
        }
    }

    /// As many as the count says that comes first.
    fn each(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let count = self.count()?;
        for number in 0..count {
            let before = (self.rest.len(), self.out.len());
            each(self)?;
            if self.rest.len() < before.0 {
                continue;
            }
            // None of them takes any bytes.
            if self.out.len() == before.1 {
                return Ok(());
            }
            if number >= MOST_EMPTY_ELEMENTS {
                return Err(format!("a list has {count} elements without content"));
            }
        }
        Ok(())
    }
}

fn put_zeros(fields: &[Named], out: &mut Vec<u8>) {
    fields.iter().for_each(|field| put_zero(&field.shape, out));
}

/// Nothing, none, 0 or empty.
fn put_zero(shape: &Shape, out: &mut Vec<u8>) {
    match shape {
        Shape::Unit => {}
        Shape::F32 => out.extend_from_slice(&[0; 4]),
        Shape::F64 => out.extend_from_slice(&[0; 8]),
        Shape::Tuple(elements) => elements.iter().for_each(|element| put_zero(element, out)),
        Shape::Struct(fields) => put_zeros(fields, out),
        Shape::Enum(variants) => {
            out.push(0);
            if let Some(first) = variants.first() {
                put_zero(&first.shape, out);
            }
        }
        // A number, a truth, an absent option, an empty list, text or map.
        _ => out.push(0),
    }
}
