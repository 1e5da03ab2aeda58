//! From the last acknowledgement to the completed checkpoint: metadata, head entry, sinks, and what is dropped for it.

use std::collections::BTreeMap;

use super::{Command, Coordinator, ENDS, Finalizing, Pending, SavepointOrder, Settled, Stage};
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
        let overtaken = pending.is_savepoint() && self.newest.is_some_and(|newest| newest > checkpoint);
        let mut sinks = match overtaken {
            true => BTreeMap::new(),
            false => self.manifests(checkpoint, &pending),
        };
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
        let order = pending.savepoint.clone();
        self.finalizing = Some(Finalizing {
            checkpoint,
            stage: Stage::Metadata,
            overtaken,
            // A savepoint is not what the job ends with by itself: its last checkpoint is the system's.
            exhausted: !pending.is_savepoint()
                && self.participants.sources.iter().all(|s| pending.acks.get(s).is_some_and(|a| a.exhausted)),
            metadata: None,
            objects: if pending.is_savepoint() { Vec::new() } else { metadata.objects() },
            pending,
            sinks,
            retained: Vec::new(),
            dropped: Vec::new(),
        });
        let metadata = Box::new(metadata);
        out.push(match order {
            Some(SavepointOrder { directory, .. }) => Command::WriteSavepointMetadata { directory, metadata },
            None => Command::WriteMetadata(metadata),
        });
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

    /// Which checkpoints stay restore points when `checkpoint` is completed, and which go: the newest stay, lost ones do not count.
    ///
    /// Savepoints do not take the places of checkpoints: their owner may take them away at any time, and then the job needs its own.
    /// The newest of them stays beside the checkpoints, unless it is older than all that were to be kept.
    fn retention(&self, checkpoint: CheckpointId, is_savepoint: bool) -> (Vec<CheckpointId>, Vec<CheckpointId>) {
        let most = self.config.retained.max(1) as usize;
        let (lost, whole): (Vec<_>, Vec<_>) =
            self.registry.retained().filter(|id| *id != checkpoint).partition(|id| self.condemned.contains(id));
        let of_system = |id: &CheckpointId| if *id == checkpoint { !is_savepoint } else { self.registry.is_owned(*id) };
        let (checkpoints, savepoints): (Vec<_>, Vec<_>) = whole.into_iter().chain([checkpoint]).partition(of_system);
        let more = usize::from(self.config.sabotage.is(Sabotage::RetainsOneMore));
        let (drop, stay) = checkpoints.split_at(checkpoints.len().saturating_sub(most + more));
        let oldest = stay.first().copied().filter(|_| stay.len() >= most);
        let newest_savepoint = savepoints.last().copied().filter(|id| oldest.is_none_or(|oldest| *id > oldest));
        let forgotten = savepoints.iter().copied().filter(|id| Some(*id) != newest_savepoint);
        let mut dropped: Vec<_> = drop.iter().copied().chain(forgotten).chain(lost).collect();
        dropped.sort_unstable();
        let mut retained: Vec<_> = stay.iter().copied().chain(newest_savepoint).collect();
        retained.sort_unstable();
        (retained, dropped)
    }

    /// A planted bug.
    fn forgets_savepoints(&self) -> bool {
        self.config.sabotage.is(Sabotage::SavepointIsNoRestorePoint)
    }

    /// The entry that makes it complete.
    fn completion(&self, checkpoint: CheckpointId, finalizing: &Finalizing, metadata: &ObjectName) -> HeadEntry {
        let attempt = finalizing.pending.attempt;
        let (retained, dropped) = (finalizing.retained.clone(), finalizing.dropped.clone());
        match &finalizing.pending.savepoint {
            Some(SavepointOrder { directory, .. }) if finalizing.overtaken || self.forgets_savepoints() => {
                HeadEntry::SavepointOvertaken { checkpoint, directory: directory.clone() }
            }
            Some(SavepointOrder { directory, stop }) => HeadEntry::SavepointCompleted {
                stop: *stop,
                attempt,
                checkpoint,
                directory: directory.clone(),
                ledger: self.ledger(checkpoint, &finalizing.pending),
                sinks: finalizing.sinks.clone(),
                retained,
                dropped,
            },
            None => HeadEntry::Completed {
                attempt,
                checkpoint,
                metadata: metadata.clone(),
                objects: finalizing.objects.clone(),
                ledger: self.ledger(checkpoint, &finalizing.pending),
                sinks: finalizing.sinks.clone(),
                exhausted: finalizing.exhausted,
                retained,
                dropped,
            },
        }
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
                if !finalizing.overtaken {
                    let (retained, dropped) = self.retention(checkpoint, finalizing.pending.is_savepoint());
                    if self.config.sabotage.is(Sabotage::RetainsOneMore)
                        && retained.len() > self.config.retained.max(1) as usize
                    {
                        out.push(Command::Journal(Sabotage::RetainsOneMore.marker()));
                    }
                    finalizing.retained = retained;
                    finalizing.dropped = dropped;
                }
                let entry = self.completion(checkpoint, &finalizing, &metadata);
                if finalizing.pending.is_savepoint() && !finalizing.overtaken && self.forgets_savepoints() {
                    out.push(Command::Journal(Sabotage::SavepointIsNoRestorePoint.marker()));
                }
                finalizing.metadata = Some(metadata);
                finalizing.stage = Stage::Append;
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
                if let Some(order) = &finalizing.pending.savepoint {
                    let directory = order.directory.to_string();
                    let overtaken = finalizing.overtaken;
                    out.push(Command::Journal(Event::SavepointCompleted { checkpoint, directory, overtaken }));
                }
                if finalizing.overtaken {
                    self.points.reached(Point::SavepointOvertaken);
                    return self.overtaken_completed(checkpoint, finalizing, out);
                }
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
                let is_savepoint = finalizing.pending.is_savepoint();
                let freed = self.register(checkpoint, &finalizing, out);
                self.finalizing = Some(finalizing);
                self.newest = Some(checkpoint);
                self.continues = Some(checkpoint);
                self.last_completion = Some(now);
                if !is_savepoint {
                    self.failures = 0;
                }
                self.settled.insert(checkpoint, Settled::Completed);
                self.forget_old();
                out.push(Command::CommitSinks { checkpoint, sinks });
                // Barriers keep their order: what has not completed by now was overtaken. After the last one nothing follows.
                let all: Vec<_> = self.pending.iter().map(|(id, pending)| (*id, pending.is_savepoint())).collect();
                for (other, never_subsumed) in all {
                    if self.finished && never_subsumed {
                        self.abort(other, ENDS, false, now, out);
                    } else if other < checkpoint && !never_subsumed || self.finished {
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
                let kept = self.registry.retained().filter(|id| self.registry.is_owned(*id)).count();
                let most = self.config.retained.max(1) as usize;
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
                // That of a savepoint goes with its directory.
                let is_savepoint = finalizing.pending.is_savepoint();
                let metadata = finalizing.metadata.into_iter().filter(|_| !is_savepoint).collect();
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
        if let Some(order) = &finalizing.pending.savepoint {
            let metadata = order.directory.metadata();
            if self.config.sabotage.is(Sabotage::SavepointIsDisposable) {
                out.push(Command::Journal(Sabotage::SavepointIsDisposable.marker()));
                let objects = finalizing.pending.acks.values().flat_map(|ack| ack.snapshot.objects().cloned());
                freed.extend(self.registry.completed(checkpoint, metadata, objects));
            } else {
                self.registry.savepoint_completed(checkpoint, metadata);
            }
        } else if let Some(metadata) = finalizing.metadata.clone() {
            freed.extend(self.registry.completed(checkpoint, metadata, finalizing.objects.iter().cloned()));
        }
        freed
    }

    /// The entry that drops them is durable: their files go.
    fn drop_subsumed(&mut self, retained: &[CheckpointId], dropped: &[CheckpointId], out: &mut Vec<Command>) {
        for id in dropped.iter().filter(|id| !retained.contains(id)) {
            if self.registry.retained().any(|retained| retained == *id) {
                let was_lost = self.condemned.remove(id);
                if !self.registry.is_owned(*id) {
                    // It stays where it is; only this job will not go back to it.
                    let _ = self.registry.dropped(*id);
                    out.push(Command::Journal(Event::SavepointReleased { checkpoint: *id }));
                    continue;
                }
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
        let Some(finalizing) = self.finalizing.take_if(|f| waiting(f)) else { return };
        if finalizing.exhausted {
            out.push(Command::FinalCompleted { checkpoint });
        }
        if let Some(order) = finalizing.pending.savepoint {
            out.push(Command::SavepointCompleted { checkpoint, order });
        }
    }

    /// A savepoint that a later checkpoint has overtaken is complete: that one committed its output, and has nothing to tell the
    /// subtasks that they have not heard.
    fn overtaken_completed(&mut self, checkpoint: CheckpointId, finalizing: Finalizing, out: &mut Vec<Command>) {
        self.settled.insert(checkpoint, Settled::Completed);
        self.forget_old();
        if let Some(order) = finalizing.pending.savepoint {
            out.push(Command::SavepointCompleted { checkpoint, order });
        }
    }
}
