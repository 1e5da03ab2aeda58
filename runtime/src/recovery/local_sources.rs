//! Which local copies a restore can draw on: the subtask's own, and those of whoever else was on this TaskManager, as far as
//! they have parts that it needs. After a change of parallelism, or of slots, these are most of them.

use bytes::Bytes;

use super::{
    local_copy::{LocalCopy, NotLocal},
    local_store::LocalStateStore,
};
use crate::{
    checkpoint::types::{RestoreOrder, StatePart},
    dataflow::task::TaskSettings,
    ids::CheckpointId,
    platform::{Platform, RelPath, timeout},
    points::Point,
    sabotage::Sabotage,
};

pub(super) struct LocalSources<'a> {
    platform: &'a Platform,
    settings: &'a TaskSettings,
    own: Result<LocalCopy, NotLocal>,
    others: Vec<LocalCopy>,
    /// The own copy is of another checkpoint, and a planted bug believes it.
    wrong_copy: bool,
}

/// Bytes of a local part.
pub(super) struct FoundLocally {
    pub bytes: Bytes,
    /// They are of the subtask's own copy.
    pub own: bool,
    /// Where they lie, if that is a file.
    pub file: Option<RelPath>,
}

impl<'a> LocalSources<'a> {
    /// Opens the copies that may have something of `order`. `index`: the subtask's own. `wrong_copy`: what a planted bug
    /// restores from instead.
    pub async fn open(
        platform: &'a Platform,
        settings: &'a TaskSettings,
        store: &LocalStateStore,
        order: &RestoreOrder,
        index: u32,
        wrong_copy: Option<CheckpointId>,
    ) -> LocalSources<'a> {
        let stored = || order.parts.iter().filter(|restored| restored.part.object().is_some());
        let mut sources = LocalSources {
            platform,
            settings,
            own: Err(NotLocal::NoCopy),
            others: Vec::new(),
            wrong_copy: wrong_copy.is_some(),
        };
        // Of what others wrote there is nothing in the own copy.
        if stored().any(|restored| restored.from == index) {
            sources.own = sources.open_one(store, wrong_copy.unwrap_or(order.checkpoint)).await;
        }
        let missing: Vec<&StatePart> =
            stored().map(|restored| &restored.part).filter(|part| !sources.own_has(part)).collect();
        for (allocation, subtask) in store.shelf().others_with(order.checkpoint, &missing, store.owner()) {
            let other =
                store.shelf().store(allocation, subtask, store.name(), store.format(), store.sabotage().clone());
            if let Ok(copy) = sources.open_one(&other, order.checkpoint).await {
                sources.others.push(copy);
            }
        }
        platform.journal.sometimes(Point::LocalOfOthers, !sources.others.is_empty());
        sources
    }

    async fn open_one(&self, store: &LocalStateStore, checkpoint: CheckpointId) -> Result<LocalCopy, NotLocal> {
        // A disk that does not answer must not keep the subtask from primary.
        let by = self.platform.clock.now() + self.settings.store_operation_timeout;
        timeout(self.platform.clock.as_ref(), by, store.retrieve(checkpoint)).await.unwrap_or(Err(NotLocal::NoAnswer))
    }

    fn own_has(&self, part: &StatePart) -> bool {
        self.own.as_ref().is_ok_and(|copy| copy.mirrors(part))
    }

    /// Whether there was reason to expect `part` here: the subtask wrote it itself, or some copy says that it has it.
    pub fn expects(&self, part: &StatePart, own: bool) -> bool {
        own || self.others.iter().any(|copy| copy.mirrors(part))
    }

    /// The bytes of `part`, if some copy here has exactly it. `own`: this subtask wrote it.
    ///
    /// # Errors
    /// Why not.
    pub async fn read(&self, part: &StatePart, own: bool) -> Result<FoundLocally, NotLocal> {
        #[cfg(feature = "sabotage")]
        if let Some(bytes) = self.of_a_wrong_range(part, own).await {
            return Ok(FoundLocally { bytes, own: true, file: None });
        }
        let mut reason = None;
        if own {
            match &self.own {
                Ok(copy) => match self.read_own(copy, part).await {
                    Ok(bytes) => return Ok(FoundLocally { bytes, own: true, file: copy.file(part) }),
                    Err(why) => reason = Some(why),
                },
                Err(why) => reason = Some(why.clone()),
            }
        }
        for copy in self.others.iter().filter(|copy| copy.mirrors(part)) {
            match self.in_time(copy.read(part, false)).await {
                Ok(bytes) => return Ok(FoundLocally { bytes, own: false, file: copy.file(part) }),
                Err(why) => reason = reason.or(Some(why)),
            }
        }
        Err(reason.unwrap_or(NotLocal::NoCopy))
    }

    async fn in_time(&self, read: impl Future<Output = Result<Bytes, NotLocal>>) -> Result<Bytes, NotLocal> {
        let by = self.platform.clock.now() + self.settings.store_operation_timeout;
        timeout(self.platform.clock.as_ref(), by, read).await.unwrap_or(Err(NotLocal::NoAnswer))
    }

    async fn read_own(&self, copy: &LocalCopy, part: &StatePart) -> Result<Bytes, NotLocal> {
        let sabotage = &self.settings.sabotage;
        let trust = self.wrong_copy || sabotage.is(Sabotage::TrustLocalPart);
        let result = self.in_time(copy.read(part, trust)).await;
        if trust
            && let Ok(bytes) = &result
            // Of another checkpoint it is the wrong copy, even where its bytes happen to be the same.
            && (self.wrong_copy || bytes.len() as u64 != part.length || crc32c::crc32c(bytes) != part.crc32c)
        {
            let bug = if self.wrong_copy { Sabotage::NewestLocalCopy } else { Sabotage::TrustLocalPart };
            self.platform.journal.emit(bug.marker());
        }
        result
    }

    /// A planted bug: after a change of parallelism any copy here is taken for what others wrote, whatever its range.
    #[cfg(feature = "sabotage")]
    async fn of_a_wrong_range(&self, part: &StatePart, own: bool) -> Option<Bytes> {
        if own || !self.settings.sabotage.is(Sabotage::LocalRangeIgnored) {
            return None;
        }
        let copies = self.own.as_ref().ok().into_iter().chain(&self.others);
        let (copy, taken) =
            copies.flat_map(|copy| copy.manifest().parts.iter().map(move |held| (copy, held))).find(|(_, held)| {
                held.operator == part.operator && held.key_groups != part.key_groups && held.object.contains("/chk-")
            })?;
        let other = StatePart { name: taken.name.clone(), ..part.clone() };
        let bytes = copy.read(&other, true).await.ok()?;
        self.platform.journal.emit(Sabotage::LocalRangeIgnored.marker());
        Some(bytes)
    }
}
