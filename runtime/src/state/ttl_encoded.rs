//! Time to live of encoded state: for filters, which see bytes and know no types. Pure.

use super::{
    table::StateValue,
    ttl::{Kept, Ttl},
};

/// Takes away what has expired of an encoded list. None: it does not decode.
pub(super) type StripEncoded = fn(&[u8], &Ttl, i64) -> Option<Kept<Vec<u8>>>;

/// What lives for a time in a state: each value of the database for itself, or the elements of each.
#[derive(Clone, Copy)]
pub(super) enum Lives {
    /// A value, or an entry of a map.
    AsWhole,
    ByElement(StripEncoded),
}

/// The time to live of a state, and of what.
#[derive(Clone, Copy)]
pub(super) struct Expiry {
    pub ttl: Ttl,
    pub lives: Lives,
}

impl Expiry {
    /// What is left of an encoded value. What does not decode is left as it is: whoever reads it says so.
    pub(super) fn strip(&self, value: &[u8], now: i64) -> Kept<Vec<u8>> {
        match self.lives {
            Lives::AsWhole if is_expired_encoded(value, &self.ttl, now) => Kept::Nothing,
            Lives::AsWhole => Kept::Whole,
            Lives::ByElement(strip) => strip(value, &self.ttl, now).unwrap_or(Kept::Whole),
        }
    }
}

/// Whether an encoded [`Expiring`](super::ttl::Expiring) value, or entry of a map, has expired. What does not decode has not.
pub fn is_expired_encoded(value: &[u8], ttl: &Ttl, now: i64) -> bool {
    postcard::take_from_bytes::<i64>(value).is_ok_and(|(last_access, _)| ttl.is_expired(last_access, now))
}

/// What is left of an encoded list of [`Expiring`](super::ttl::Expiring) elements.
pub(super) fn strip_encoded_list<V: StateValue>(list: &[u8], ttl: &Ttl, now: i64) -> Option<Kept<Vec<u8>>> {
    let (count, elements) = postcard::take_from_bytes::<u64>(list).ok()?;
    let (mut left, mut alive, mut rest) = (0u64, Vec::new(), elements);
    for _ in 0..count {
        let (last_access, after_time) = postcard::take_from_bytes::<i64>(rest).ok()?;
        let (_, after) = postcard::take_from_bytes::<V>(after_time).ok()?;
        if !ttl.is_expired(last_access, now) {
            left += 1;
            alive.extend_from_slice(&rest[..rest.len() - after.len()]);
        }
        rest = after;
    }
    Some(match left {
        _ if !rest.is_empty() => return None,
        0 => Kept::Nothing,
        left if left == count => Kept::Whole,
        left => {
            let mut stripped = postcard::to_allocvec(&left).ok()?;
            stripped.append(&mut alive);
            Kept::Part(stripped)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::{
        super::ttl::{Expiring, strip_list, strip_map, strip_value},
        *,
    };

    const MILLIS: i64 = 100;

    fn ttl() -> Ttl {
        Ttl::new(Duration::from_millis(MILLIS as u64))
    }

    fn encoded<T: serde::Serialize>(kept: Kept<T>) -> Kept<Vec<u8>> {
        match kept {
            Kept::Whole => Kept::Whole,
            Kept::Nothing => Kept::Nothing,
            Kept::Part(part) => Kept::Part(postcard::to_allocvec(&part).unwrap()),
        }
    }

    fn elements() -> impl Strategy<Value = Vec<Expiring<String>>> {
        let element = (-200i64..400, "[a-z]{0,3}").prop_map(|(last_access, value)| Expiring { last_access, value });
        prop::collection::vec(element, 1..6)
    }

    proptest! {
        /// A filter that sees bytes takes away what a table that sees values does.
        #[test]
        fn bytes_expire_as_values_do(list in elements(), now in -100i64..500) {
            let bytes = postcard::to_allocvec(&list).unwrap();
            let by_element = Expiry { ttl: ttl(), lives: Lives::ByElement(strip_encoded_list::<String>) };
            prop_assert_eq!(by_element.strip(&bytes, now), encoded(strip_list(&list, &ttl(), now)));
            let as_whole = Expiry { ttl: ttl(), lives: Lives::AsWhole };
            let mut left = 0;
            for element in &list {
                let bytes = postcard::to_allocvec(element).unwrap();
                let kept = as_whole.strip(&bytes, now);
                left += usize::from(kept == Kept::Whole);
                prop_assert_eq!(kept, encoded(strip_value(element, &ttl(), now)));
            }
            let map: BTreeMap<usize, Expiring<String>> = list.iter().cloned().enumerate().collect();
            let of_map = match strip_map(&map, &ttl(), now) {
                Kept::Whole => map.len(),
                Kept::Part(map) => map.len(),
                Kept::Nothing => 0,
            };
            prop_assert_eq!(left, of_map);
        }

        /// What is no list, or no value, has not expired.
        #[test]
        fn any_bytes_are_stripped_or_left(bytes in prop::collection::vec(any::<u8>(), 0..30), now in any::<i64>()) {
            for lives in [Lives::AsWhole, Lives::ByElement(strip_encoded_list::<String>)] {
                let _ = Expiry { ttl: ttl(), lives }.strip(&bytes, now);
            }
            let mut cut = postcard::to_allocvec(&vec![Expiring { last_access: 0i64, value: "abc".to_string() }]).unwrap();
            cut.pop();
            let by_element = Expiry { ttl: ttl(), lives: Lives::ByElement(strip_encoded_list::<String>) };
            prop_assert_eq!(by_element.strip(&cut, i64::MAX), Kept::Whole);
        }
    }
}
