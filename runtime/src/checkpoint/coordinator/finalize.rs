//! From the last acknowledgement to the completed checkpoint: metadata, head entry, sinks, and what is dropped for it.

use std::collections::BTreeMap;

use super::{Command, Coordinator, Finalizing, Pending, Settled, Stage};
use crate::{
    checkpoint::{
        head::HeadEntry,
        metadata::CheckpointMetadata,
        types::{LedgerEpoch, MergeStep, PrecommittedObject, SubtaskKey},
    },
    ids::{CheckpointId, OperatorUid},
    journal::Event,
    platform::{Mono, ObjectName, Wall},
    points::Point,
    sabotage::Sabotage,
};

impl Coordinator {
    /// Starts to finalise the oldest checkpoint that has all acknowledgements, unless another one is being finalised.
    pub(super) fn finalize_next(&mut self, _now: Mono, out: &mut Vec<Command>) {
        let all = self.participants.subtasks.len();
        if self.finalizing.is_some() {
            return;
        }
        let Some(checkpoint) = self.pending.iter().find(|(_, p)| p.acks.len() == all).map(|(id, _)| *id) else {
            return;
        };
        let Some(pending) = self.pending.remove(&checkpoint) else { return };
        let of_one = pending.acks.values().all(|ack| ack.attempt == pending.attempt && ack.checkpoint == checkpoint);
        self.points.always(Point::AcksOfOneAttempt, of_one, || format!("checkpoint {checkpoint}"));
        let subtasks = pending.acks.values().map(|a| (a.subtask.into(), a.snapshot.clone())).collect();
        let metadata = CheckpointMetadata {
            job: self.config.job,
            job_name: self.config.job_name.clone(),
            checkpoint,
            attempt: pending.attempt,
            written_at: Wall::default(),
            vertices: self.participants.vertices.clone(),
            subtasks,
        };
        let mut sinks = self.manifests(checkpoint, &pending);
        if self.config.sabotage.is(Sabotage::CommitOnlyOwnEpoch)
            && sinks.values().flatten().any(|o| o.snapshot != checkpoint)
        {
            out.push(Command::Journal(Sabotage::CommitOnlyOwnEpoch.marker()));
            sinks.values_mut().for_each(|objects| objects.retain(|o| o.snapshot == checkpoint));
        }
        if self.config.sabotage.is(Sabotage::CommitEarly) {
            out.push(Command::Journal(Sabotage::CommitEarly.marker()));
            out.push(Command::CommitSinks { checkpoint, sinks: sinks.clone() });
        }
        self.finalizing = Some(Finalizing {
            checkpoint,
            stage: Stage::Metadata,
            exhausted: self.participants.sources.iter().all(|s| pending.acks.get(s).is_some_and(|a| a.exhausted)),
            metadata: None,
            objects: metadata.objects(),
            pending,
            sinks,
            retained: Vec::new(),
            dropped: Vec::new(),
        });
        out.push(Command::WriteMetadata(Box::new(metadata)));
    }

    /// Whether a snapshot belongs to the epoch that ends with `checkpoint`: it was taken after the one completed before.
    fn in_epoch(&self, snapshot: CheckpointId, checkpoint: CheckpointId) -> bool {
        self.newest.is_none_or(|newest| snapshot > newest) && snapshot <= checkpoint
    }

    /// What the manifest of each sink lists: all its objects of the epoch, in the order of snapshots and subtasks.
    fn manifests(&self, checkpoint: CheckpointId, pending: &Pending) -> BTreeMap<OperatorUid, Vec<PrecommittedObject>> {
        let mut manifests: BTreeMap<_, Vec<_>> =
            self.participants.sinks.iter().map(|sink| (sink.clone(), Vec::new())).collect();
        for (sink, ack) in pending.acks.values().flat_map(|a| &a.sinks) {
            let objects = ack.objects.iter().filter(|o| self.in_epoch(o.snapshot, checkpoint)).cloned();
            manifests.entry(sink.clone()).or_default().extend(objects);
        }
        for objects in manifests.values_mut() {
            objects.sort_by_key(|o| o.snapshot); // stable: subtasks stay in order
        }
        manifests
    }

    /// What the commit ledger must hold to replay the epoch.
    fn ledger(&self, checkpoint: CheckpointId, pending: &Pending) -> LedgerEpoch {
        let mut ledger = LedgerEpoch { checkpoint, previous: self.continues, ..LedgerEpoch::default() };
        for sink in &self.participants.sinks {
            ledger.digests.entry(sink.clone()).or_default();
        }
        for ack in pending.acks.values() {
            ledger.positions.extend(ack.positions.iter().map(|(split, offset)| (split.clone(), *offset)));
            for (sink, sink_ack) in &ack.sinks {
                let digest = ledger.digests.entry(sink.clone()).or_default();
                for (_, part) in sink_ack.digests.iter().filter(|(id, _)| self.in_epoch(**id, checkpoint)) {
                    digest.add(*part);
                }
            }
            let merges = ack.merges.iter().filter(|(id, _)| self.in_epoch(**id, checkpoint));
            let merges: Vec<MergeStep> = merges.flat_map(|(_, runs)| runs.iter().copied()).collect();
            ledger.merges.insert(SubtaskKey::from(ack.subtask), merges);
        }
        ledger
    }

    /// Which checkpoints stay when `checkpoint` is completed, and which go: the newest stay, lost ones do not count.
    fn retention(&self, checkpoint: CheckpointId) -> (Vec<CheckpointId>, Vec<CheckpointId>) {
        let (lost, whole): (Vec<_>, Vec<_>) =
            self.registry.retained().filter(|id| *id != checkpoint).partition(|id| self.condemned.contains(id));
        let keep = (self.config.retained.max(1) as usize).saturating_sub(1).min(whole.len());
        let (drop, stay) = whole.split_at(whole.len() - keep);
        let mut dropped = [drop, &lost].concat();
        dropped.sort_unstable();
        let mut retained = stay.to_vec();
        retained.push(checkpoint);
        (retained, dropped)
    }

    pub(super) fn metadata_written(
        &mut self,
        checkpoint: CheckpointId,
        result: Result<ObjectName, String>,
        now: Mono,
        out: &mut Vec<Command>,
    ) {
        let waiting = |f: &Finalizing| f.checkpoint == checkpoint && matches!(f.stage, Stage::Metadata);
        let Some(mut finalizing) = self.finalizing.take_if(|f| waiting(f)) else {
            // The checkpoint was aborted in the meantime; its metadata belongs to nothing.
            self.points.reached(Point::MetadataOfAborted);
            if let Ok(object) = result
                && !self.registry.is_needed(&object)
            {
                self.discard(checkpoint, vec![object], out);
            }
            return;
        };
        match result {
            Ok(metadata) => {
                let event = Event::MetadataWritten { checkpoint, object: metadata.to_string() };
                out.push(Command::Journal(event));
                let (retained, dropped) = self.retention(checkpoint);
                let entry = HeadEntry::Completed {
                    attempt: finalizing.pending.attempt,
                    checkpoint,
                    metadata: metadata.clone(),
                    objects: finalizing.objects.clone(),
                    ledger: self.ledger(checkpoint, &finalizing.pending),
                    sinks: finalizing.sinks.clone(),
                    exhausted: finalizing.exhausted,
                    retained: retained.clone(),
                    dropped: dropped.clone(),
                };
                finalizing.metadata = Some(metadata);
                finalizing.stage = Stage::Append;
                finalizing.retained = retained;
                finalizing.dropped = dropped;
                self.finalizing = Some(finalizing);
                out.push(Command::AppendCompleted { checkpoint, entry: Box::new(entry) });
            }
            Err(reason) => {
                self.aborted(checkpoint, finalizing.pending, &reason, true, now, out);
            }
        }
    }

    pub(super) fn head_appended(
        &mut self,
        checkpoint: CheckpointId,
        result: Result<u64, String>,
        now: Mono,
        out: &mut Vec<Command>,
    ) {
        let waiting = |f: &Finalizing| f.checkpoint == checkpoint && matches!(f.stage, Stage::Append);
        let Some(mut finalizing) = self.finalizing.take_if(|f| waiting(f)) else { return };
        match result {
            Ok(sequence) => {
                out.push(Command::Journal(Event::CheckpointCompleted { checkpoint, sequence }));
                let newest = self.newest;
                self.points.always(Point::CompletesUpwards, newest.is_none_or(|newest| newest < checkpoint), || {
                    format!("checkpoint {checkpoint} after {newest:?}")
                });
                self.points.sometimes(Point::CompletedWhileStopped, self.running.is_none());
                finalizing.stage = Stage::Commit;
                let retained = finalizing.retained.clone();
                let dropped = finalizing.dropped.clone();
                let sinks = finalizing.sinks.clone();
                self.finished |= finalizing.exhausted;
                let freed = self.register(checkpoint, &finalizing, out);
                self.finalizing = Some(finalizing);
                self.newest = Some(checkpoint);
                self.continues = Some(checkpoint);
                self.last_completion = Some(now);
                self.failures = 0;
                self.settled.insert(checkpoint, Settled::Completed);
                self.forget_old();
                out.push(Command::CommitSinks { checkpoint, sinks });
                // Barriers keep their order: what has not completed by now was overtaken. After the last one nothing follows.
                for other in self.pending.keys().copied().collect::<Vec<_>>() {
                    if other < checkpoint || self.finished {
                        self.points.reached(Point::PendingSubsumed);
                        self.abort(other, &format!("subsumed by checkpoint {checkpoint}"), false, now, out);
                    }
                }
                if self.running.is_some() {
                    out.push(Command::NotifyComplete { checkpoint });
                    out.push(Command::Journal(Event::CheckpointNotified { checkpoint }));
                }
                self.discard(checkpoint, freed, out);
                self.drop_subsumed(&retained, &dropped, out);
                let (kept, most) = (self.registry.retained().count(), self.config.retained.max(1) as usize);
                self.points.always(Point::RetainsAsConfigured, kept <= most, || format!("{kept} of at most {most}"));
                if self.config.sabotage.is(Sabotage::DeleteRetained)
                    && let Some(object) = self.registry.objects_of(checkpoint).nth(1).cloned()
                {
                    out.push(Command::Journal(Sabotage::DeleteRetained.marker()));
                    self.discard(checkpoint, vec![object], out);
                }
            }
            Err(reason) => {
                let reason = format!("it cannot be recorded: {reason}");
                let metadata = finalizing.metadata.into_iter().collect();
                self.aborted(checkpoint, finalizing.pending, &reason, true, now, out);
                self.discard(checkpoint, metadata, out);
            }
        }
    }

    /// The checkpoint is complete: what it refers to is needed from now on. Gives what nobody needs any more for that.
    fn register(
        &mut self,
        checkpoint: CheckpointId,
        finalizing: &Finalizing,
        out: &mut Vec<Command>,
    ) -> Vec<ObjectName> {
        let mut freed = Vec::new();
        if self.config.sabotage.is(Sabotage::SubsumesBeforeRegistering) {
            let reused = |id| self.registry.objects_of(id).any(|object| finalizing.objects.contains(object));
            let early: Vec<_> = finalizing.dropped.iter().copied().filter(|id| reused(*id)).collect();
            if !early.is_empty() {
                out.push(Command::Journal(Sabotage::SubsumesBeforeRegistering.marker()));
            }
            freed.extend(self.registry.aborted(checkpoint).into_iter().filter(|o| !finalizing.objects.contains(o)));
            freed.extend(early.into_iter().flat_map(|id| self.registry.dropped(id)));
        }
        if let Some(metadata) = finalizing.metadata.clone() {
            freed.extend(self.registry.completed(checkpoint, metadata, finalizing.objects.iter().cloned()));
        }
        freed
    }

    /// The entry that drops them is durable: their files go.
    fn drop_subsumed(&mut self, retained: &[CheckpointId], dropped: &[CheckpointId], out: &mut Vec<Command>) {
        for id in dropped.iter().filter(|id| !retained.contains(id)) {
            if self.registry.retained().any(|retained| retained == *id) {
                let was_lost = self.condemned.remove(id);
                self.points.sometimes(Point::LostCheckpointDropped, was_lost);
                out.push(Command::Journal(Event::CheckpointSubsumed { checkpoint: *id }));
                let all: Vec<_> = self.registry.objects_of(*id).cloned().collect();
                let mut gone = self.registry.dropped(*id);
                let kept = all.iter().any(|object| self.registry.is_needed(object));
                self.points.sometimes(Point::SharedOutlivesOwner, kept);
                if kept && self.config.sabotage.is(Sabotage::SubsumptionIgnoresReferences) {
                    out.push(Command::Journal(Sabotage::SubsumptionIgnoresReferences.marker()));
                    gone = all;
                }
                self.discard(*id, gone, out);
            }
        }
    }

    pub(super) fn sinks_committed(&mut self, checkpoint: CheckpointId, out: &mut Vec<Command>) {
        let waiting = |f: &Finalizing| f.checkpoint == checkpoint && matches!(f.stage, Stage::Commit);
        if let Some(finalizing) = self.finalizing.take_if(|f| waiting(f))
            && finalizing.exhausted
        {
            out.push(Command::FinalCompleted { checkpoint });
        }
    }
}
