//! What an invariant says when it does not hold, and the signature by which equal failures of different seeds are recognised.
//!
//! A signature must be the same for the same defect under every seed, and differ between defects: it is built from the
//! invariant, the kind of the violation and the entity with its numbers taken out, never from the free text.

use serde::{Deserialize, Serialize};

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Violation {
    /// The invariant's short name: `exactly-once`, `primary-superset`, `liveness`, ….
    pub invariant: String,
    /// What it was broken for: `count[1]`, `checkpoint 7`, `job`, an object's name, ….
    pub entity: String,
    /// In which way, from a small fixed set per invariant: `lost`, `duplicated`, `mismatch`, `stalled`, ….
    pub kind: String,
    /// For people: what was expected, what was found, where.
    pub message: String,
}

impl Violation {
    pub fn new(
        invariant: impl Into<String>,
        entity: impl Into<String>,
        kind: impl Into<String>,
        message: impl Into<String>,
    ) -> Violation {
        Violation { invariant: invariant.into(), entity: entity.into(), kind: kind.into(), message: message.into() }
    }

    /// `invariant/kind/entity` with every run of digits (and of long hexadecimal identifiers) in the entity written as `#`.
    pub fn signature(&self) -> String {
        format!("{}/{}/{}", self.invariant, self.kind, normalise(&self.entity))
    }
}

/// `text` with what differs from seed to seed taken out: runs of digits, and of at least eight hexadecimal digits.
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hexadecimal = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let inside_word = out.chars().next_back().is_some_and(char::is_alphabetic);
        let taken = if hexadecimal >= 8 && !inside_word { hexadecimal } else { digits };
        if taken > 0 {
            out.push('#');
            rest = &rest[taken..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_defect_has_one_signature_under_every_seed() {
        let one = Violation::new("exactly-once", "count[1] key 17", "lost", "record 5 of split a");
        let other = Violation::new("exactly-once", "count[0] key 3", "lost", "record 99 of split b");
        assert_eq!(one.signature(), other.signature());
        assert_eq!(one.signature(), "exactly-once/lost/count[#] key #");
    }

    #[test]
    fn different_kinds_differ() {
        let one = Violation::new("exactly-once", "out", "lost", "");
        let other = Violation::new("exactly-once", "out", "duplicated", "");
        assert_ne!(one.signature(), other.signature());
    }

    #[test]
    fn identifiers_are_normalised_and_words_are_not() {
        assert_eq!(normalise("checkpoints/00ab34ff9912/chk-12/v1[0]-part"), "checkpoints/#/chk-#/v#[#]-part");
        assert_eq!(normalise("defaced facade"), "defaced facade");
        assert_eq!(normalise(""), "");
        assert_eq!(normalise("größe 7"), "größe #");
    }
}
