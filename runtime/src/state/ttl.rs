//! Time to live: when state expires, and how it is forgotten. Pure.
//!
//! What has a time to live is stored with the processing time of its last access: each value, each element of a list, each
//! entry of a map. That time is in snapshots too, so the time that a job is down counts. What has expired is taken away when
//! it is met (on access), a few entries at a time (incremental cleanup), and it is left out of full snapshots.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{error::UserError, table::StateValue};

/// What counts as an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TtlUpdate {
    #[default]
    OnCreateAndWrite,
    OnReadAndWrite,
}

/// What a read gives of state that has expired and is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TtlVisibility {
    #[default]
    NeverReturnExpired,
    ReturnExpiredIfNotCleanedUp,
}

/// How long state lives without being accessed, in processing time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    millis: i64,
    update: TtlUpdate,
    visibility: TtlVisibility,
    cleanup_in_full_snapshot: bool,
    /// Entries looked at in a step.
    incremental: u32,
    per_record: bool,
    cleanup_in_compaction: bool,
}

impl Ttl {
    /// Lives for so long, at least a millisecond.
    pub fn new(time: Duration) -> Ttl {
        Ttl {
            millis: i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1),
            update: TtlUpdate::default(),
            visibility: TtlVisibility::default(),
            cleanup_in_full_snapshot: false,
            incremental: 0,
            per_record: false,
            cleanup_in_compaction: false,
        }
    }

    #[must_use]
    pub fn update(self, update: TtlUpdate) -> Ttl {
        Ttl { update, ..self }
    }

    #[must_use]
    pub fn visibility(self, visibility: TtlVisibility) -> Ttl {
        Ttl { visibility, ..self }
    }

    /// Full snapshots do not hold what has expired. Nothing is taken away from the working state by that.
    #[must_use]
    pub fn cleanup_in_full_snapshot(self) -> Ttl {
        Ttl { cleanup_in_full_snapshot: true, ..self }
    }

    /// RocksDB drops what has expired when it compacts files, if `state.backend.rocksdb.ttl.compaction.filter.enabled` is set
    /// (Flink `cleanupInRocksdbCompactFilter`).
    #[must_use]
    pub fn cleanup_in_rocksdb_compact_filter(self) -> Ttl {
        Ttl { cleanup_in_compaction: true, ..self }
    }

    /// Each access to the state, and with `per_record` each record, looks at so many entries of the heap and takes away
    /// those that have expired.
    #[must_use]
    pub fn cleanup_incrementally(self, entries: u32, per_record: bool) -> Ttl {
        Ttl { incremental: entries, per_record, ..self }
    }

    /// Whether something last accessed then has expired now.
    pub fn is_expired(&self, last_access: i64, now: i64) -> bool {
        last_access.saturating_add(self.millis) <= now
    }

    pub fn updates_on_read(&self) -> bool {
        self.update == TtlUpdate::OnReadAndWrite
    }

    pub fn returns_expired(&self) -> bool {
        self.visibility == TtlVisibility::ReturnExpiredIfNotCleanedUp
    }

    /// Entries to look at with each access.
    pub(super) fn incremental(&self) -> usize {
        self.incremental as usize
    }

    /// Entries to look at with each record.
    pub(super) fn per_record(&self) -> usize {
        if self.per_record { self.incremental() } else { 0 }
    }

    pub(super) fn filters_snapshots(&self) -> bool {
        self.cleanup_in_full_snapshot
    }

    pub(super) fn filters_compactions(&self) -> bool {
        self.cleanup_in_compaction
    }

    /// # Errors
    /// If expired state is to be returned and cleaned up in the background: what a read gives would depend on when cleanup
    /// came by, and a replayed epoch would not repeat.
    pub(super) fn check(&self) -> Result<(), UserError> {
        if self.returns_expired()
            && (self.cleanup_in_full_snapshot || self.cleanup_in_compaction || self.incremental > 0)
        {
            return Err(UserError::new(
                "a time to live that returns expired state cannot be cleaned up in snapshots, incrementally or by \
                 compaction: what is read would depend on when that happens. Never return expired state, or clean up on access alone",
            ));
        }
        Ok(())
    }
}

/// Something that lives for a time. The time stands first, so that it can be read without knowing the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiring<V> {
    /// Processing time, in milliseconds since 1970.
    pub last_access: i64,
    pub value: V,
}

/// What is left of a stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept<V> {
    Whole,
    Part(V),
    Nothing,
}

/// Takes away what has expired.
pub type Strip<V> = fn(&V, &Ttl, i64) -> Kept<V>;

pub(super) fn strip_value<V: StateValue>(value: &Expiring<V>, ttl: &Ttl, now: i64) -> Kept<Expiring<V>> {
    if ttl.is_expired(value.last_access, now) { Kept::Nothing } else { Kept::Whole }
}

#[expect(clippy::ptr_arg, reason = "a `Strip` of what the table holds")]
pub(super) fn strip_list<V: StateValue>(list: &Vec<Expiring<V>>, ttl: &Ttl, now: i64) -> Kept<Vec<Expiring<V>>> {
    let kept: Vec<_> = list.iter().filter(|element| !ttl.is_expired(element.last_access, now)).cloned().collect();
    match kept.len() {
        0 => Kept::Nothing,
        n if n == list.len() => Kept::Whole,
        _ => Kept::Part(kept),
    }
}

pub(super) fn strip_map<M: StateValue + Ord, V: StateValue>(
    map: &BTreeMap<M, Expiring<V>>,
    ttl: &Ttl,
    now: i64,
) -> Kept<BTreeMap<M, Expiring<V>>> {
    let alive = map.iter().filter(|(_, entry)| !ttl.is_expired(entry.last_access, now));
    let kept: BTreeMap<_, _> = alive.map(|(key, entry)| (key.clone(), entry.clone())).collect();
    match kept.len() {
        0 => Kept::Nothing,
        n if n == map.len() => Kept::Whole,
        _ => Kept::Part(kept),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::is_expired_encoded, *};

    fn ttl(millis: u64) -> Ttl {
        Ttl::new(Duration::from_millis(millis))
    }

    #[test]
    fn state_expires_when_its_time_is_over() {
        // R: A.12. Expired if last access + min(ttl, MAX - last access) <= now.
        assert!(!ttl(10).is_expired(100, 109));
        assert!(ttl(10).is_expired(100, 110));
        assert!(!ttl(10).is_expired(100, 5), "a clock that was set back expires nothing");
        assert!(!ttl(u64::MAX).is_expired(100, i64::MAX - 1));
        assert!(ttl(u64::MAX).is_expired(100, i64::MAX));
    }

    #[test]
    fn what_cannot_be_repeated_is_refused() {
        let lax = ttl(10).visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp);
        assert!(lax.check().is_ok());
        assert!(lax.cleanup_in_full_snapshot().check().is_err());
        assert!(lax.cleanup_incrementally(5, false).check().is_err());
        assert!(ttl(10).cleanup_in_full_snapshot().cleanup_incrementally(5, true).check().is_ok());
    }

    proptest! {
        #[test]
        fn exactly_what_has_expired_is_taken_away(
            accesses in proptest::collection::vec(0..100i64, 0..10),
            now in 0..150i64,
            millis in 1..60u64,
        ) {
            let ttl = ttl(millis);
            let element = |(n, at): (usize, &i64)| Expiring { last_access: *at, value: n };
            let list: Vec<Expiring<usize>> = accesses.iter().enumerate().map(element).collect();
            let alive: Vec<_> = list.iter().filter(|e| e.last_access + millis as i64 > now).cloned().collect();
            let left = match strip_list(&list, &ttl, now) {
                Kept::Whole => list.clone(),
                Kept::Part(part) => part,
                Kept::Nothing => Vec::new(),
            };
            prop_assert_eq!(&left, &alive);
            let map: BTreeMap<usize, Expiring<usize>> = list.iter().map(|e| (e.value, e.clone())).collect();
            let left = match strip_map(&map, &ttl, now) {
                Kept::Whole => map.clone(),
                Kept::Part(part) => part,
                Kept::Nothing => BTreeMap::new(),
            };
            prop_assert_eq!(left.into_values().collect::<Vec<_>>(), alive);
            for value in &list {
                let gone = strip_value(value, &ttl, now) == Kept::Nothing;
                prop_assert_eq!(gone, is_expired_encoded(&postcard::to_allocvec(value).unwrap(), &ttl, now));
            }
        }
    }
}
