//! Planted bugs of the head log: what comes of not asking what an unclear answer meant.

use super::{HeadError, HeadRecord};
use crate::{
    checkpoint::primary::Primary,
    layout::Layout,
    platform::StoreError,
    sabotage::{Sabotage, SabotageSet},
};

/// Tries to write `record` without looking at what is there. Gives the error that a bug makes of the answer: "not written",
/// although it may be. None: nothing went wrong, or nothing is planted; the write is then done, or done again, as it should be.
pub(super) async fn write_hastily(
    primary: &Primary,
    layout: Layout,
    record: &HeadRecord,
    sabotage: &SabotageSet,
) -> Option<HeadError> {
    let (failure, foreign) = (Sabotage::AmbiguousIsFailure, Sabotage::OwnEntryIsForeign);
    if !sabotage.is(failure) && !sabotage.is(foreign) {
        return None;
    }
    let object = layout.head_entry(record.sequence);
    let bytes = record.encode().ok()?;
    let journal = &primary.platform().journal;
    if primary.create_hastily(&object, bytes.clone()).await != Err(StoreError::Ambiguous) {
        return None;
    }
    if sabotage.runs(failure, journal) {
        return Some(HeadError::Unavailable(StoreError::Ambiguous));
    }
    match primary.create_hastily(&object, bytes).await {
        Err(StoreError::Exists) if sabotage.runs(foreign, journal) => Some(HeadError::Unavailable(StoreError::Exists)),
        _ => None,
    }
}
