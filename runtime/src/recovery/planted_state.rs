//! Planted bugs that change what a subtask restores of timers and of state without keys.

use bytes::Bytes;

use crate::{
    checkpoint::types::PartKind,
    dataflow::{chain::RestoredState, task::SubtaskSpec},
    platform::Platform,
    sabotage::Sabotage,
    state::{FormatError, OperatorStateMode, with_entries_changed, without_timers},
};

/// Changes the parts as the bugs that are on would.
pub(super) fn spoil(platform: &Platform, spec: &SubtaskSpec, restored: &mut RestoredState) {
    let on = |bug: Sabotage| spec.settings.sabotage.is(bug);
    let RestoredState { parts, parallelism, .. } = restored;
    for part in parts {
        let is_new = parallelism.get(&part.operator).is_some_and(|before| *before <= spec.subtask.index);
        let (bug, changed): (Sabotage, Result<Bytes, FormatError>) = match part.kind {
            PartKind::Keyed if on(Sabotage::TimersNotRestored) => {
                (Sabotage::TimersNotRestored, without_timers(&part.bytes))
            }
            PartKind::Operator { union: true } if on(Sabotage::UnionDoubled) => (
                Sabotage::UnionDoubled,
                with_entries_changed(&part.bytes, |_, entries| [entries.clone(), entries].concat()),
            ),
            PartKind::Operator { union: false } if on(Sabotage::BroadcastNotCopied) && is_new => {
                let emptied = |mode, entries| match mode {
                    OperatorStateMode::Broadcast => Vec::new(),
                    OperatorStateMode::Split | OperatorStateMode::Union => entries,
                };
                (Sabotage::BroadcastNotCopied, with_entries_changed(&part.bytes, emptied))
            }
            _ => continue,
        };
        if let Ok(changed) = changed
            && changed != part.bytes
        {
            platform.journal.emit(bug.marker());
            part.bytes = changed;
        }
    }
}
