//! What a running subtask does about checkpoints: triggers, barriers, snapshots, notifications.

use super::{
    alignment::{AlignmentCommand, AlignmentEvent},
    chain::SnapshotFormat,
    snapshotting::SnapshotParts,
    source_driver::{SourceDriver, SourceTurn},
    subtask::{Subtask, user},
    task::{SubtaskCommand, SubtaskReport, TaskFailure},
};
use crate::{ids::CheckpointId, journal::Event, layout::SavepointDirectory, points::Point, sabotage::Sabotage};

impl Subtask {
    /// Carries out a command other than cancel.
    pub(super) fn obey(&mut self, command: SubtaskCommand) -> Result<(), TaskFailure> {
        match command {
            SubtaskCommand::Cancel => {}
            SubtaskCommand::TriggerCheckpoint(checkpoint) => self.triggered(checkpoint, None)?,
            SubtaskCommand::TriggerSavepoint { checkpoint, directory } => {
                self.triggered(checkpoint, Some(directory))?;
            }
            SubtaskCommand::NotifyComplete(checkpoint) => {
                self.merges.completed(checkpoint);
                self.sinks.completed(checkpoint);
                self.chain.completed(checkpoint);
                let subtask = self.name.clone();
                self.platform.journal.emit(Event::TaskNotifiedComplete { subtask, checkpoint });
                self.snapshotter.completed(checkpoint);
            }
            SubtaskCommand::NotifyAborted(checkpoint) => {
                let subtask = self.name.clone();
                self.platform.journal.emit(Event::TaskNotifiedAborted { subtask, checkpoint });
                let commands = self.alignment.handle(AlignmentEvent::Aborted(checkpoint));
                self.align(commands)?;
                self.savepoints.remove(&checkpoint);
                self.snapshotter.aborted(checkpoint);
            }
        }
        Ok(())
    }

    fn triggered(
        &mut self,
        checkpoint: CheckpointId,
        savepoint: Option<SavepointDirectory>,
    ) -> Result<(), TaskFailure> {
        if checkpoint <= self.last_triggered {
            return Ok(());
        }
        let refused = match (&self.source, &self.replay) {
            (None, _) => Some("only sources are triggered"),
            (Some(_), Some(_)) => Some("an epoch is being replayed"),
            (Some(_), None) => None,
        };
        if let Some(reason) = refused {
            self.report(SubtaskReport::Decline { checkpoint, reason: format!("{}: {reason}", self.name) });
            return Ok(());
        }
        if self.source.as_ref().is_some_and(SourceDriver::is_exhausted)
            && self.spec.settings.sabotage.runs(Sabotage::EndedSourceIgnoresTrigger, &self.platform.journal)
        {
            return Ok(());
        }
        self.last_triggered = checkpoint;
        self.savepoints.extend(savepoint.map(|directory| (checkpoint, directory)));
        self.snapshot(checkpoint)
    }

    /// A barrier was taken from an input channel.
    pub(super) fn barrier_received(
        &mut self,
        position: usize,
        checkpoint: CheckpointId,
        savepoint: Option<SavepointDirectory>,
    ) -> Result<(), TaskFailure> {
        let channel = self.inputs[position].name.clone();
        self.savepoints.extend(savepoint.map(|directory| (checkpoint, directory)));
        self.platform.journal.emit(Event::BarrierReceived { channel, checkpoint });
        let commands = self.alignment.handle(AlignmentEvent::Barrier { channel: position, checkpoint });
        self.align(commands)
    }

    fn align(&mut self, commands: Vec<AlignmentCommand>) -> Result<(), TaskFailure> {
        let journal = self.platform.journal.clone();
        journal.points(&self.alignment.take_points());
        for command in commands {
            let subtask = self.name.clone();
            match command {
                AlignmentCommand::Started(checkpoint) => {
                    journal.emit(Event::AlignmentStarted { subtask, checkpoint });
                }
                AlignmentCommand::Block { channel } => self.inputs[channel].blocked = true,
                AlignmentCommand::UnblockAll => self.inputs.iter_mut().for_each(|i| i.blocked = false),
                AlignmentCommand::Abandoned(checkpoint) => {
                    journal.emit(Event::AlignmentAborted { subtask, checkpoint });
                }
                AlignmentCommand::Snapshot(checkpoint) => {
                    if self.inputs.len() > 1 {
                        self.spec.settings.sabotage.runs(Sabotage::SkipAlignment, &journal);
                    }
                    let waits = self.inputs.iter().any(|input| input.blocked && !input.is_empty());
                    journal.sometimes(Point::AlignedWithBufferedData, waits);
                    journal.emit(Event::AlignmentEnded { subtask, checkpoint });
                    self.snapshot(checkpoint)?;
                }
            }
        }
        Ok(())
    }

    /// A planted bug: records that the snapshot does not have come before its barrier.
    fn emit_behind_the_snapshot(&mut self) -> Result<(), TaskFailure> {
        let Some(source) = &mut self.source else { return Ok(()) };
        for split in 0..source.splits() {
            let turn = source.turn_of(split, 1, self.chain.as_mut(), &mut self.outputs)?;
            if let SourceTurn::Read { split, records } = turn {
                self.merges.record(split, records);
                self.platform.journal.emit(Sabotage::EmitDuringSnapshot.marker());
                break;
            }
        }
        Ok(())
    }

    /// The synchronous part of a snapshot, the barrier to all outputs, and the start of the asynchronous part.
    fn snapshot(&mut self, checkpoint: CheckpointId) -> Result<(), TaskFailure> {
        let savepoint = self.savepoints.remove(&checkpoint);
        // Barriers come in order: what was announced before is overtaken, or given up.
        self.savepoints = self.savepoints.split_off(&checkpoint);
        let format = if savepoint.is_some() { SnapshotFormat::Canonical } else { SnapshotFormat::OfBackend };
        let chain = self.chain.snapshot(checkpoint, format).map_err(user)?;
        if self.spec.settings.sabotage.is(Sabotage::EmitDuringSnapshot) {
            self.emit_behind_the_snapshot()?;
        }
        self.flush_outputs()?;
        let data = self.chain.take_sink_data(true);
        self.sinks.add(data);
        let sinks = self.sinks.cut(checkpoint, self.chain.take_sink_digests());
        self.merges.cut(checkpoint, self.times);
        let journal = &self.platform.journal;
        let late = self.chain.take_late_records();
        if late > 0 {
            journal.emit(Event::LateRecordsDropped { subtask: self.name.clone(), checkpoint, records: late });
        }
        journal.emit(Event::SnapshotSyncDone { subtask: self.name.clone(), checkpoint });
        if self.source.is_some() {
            let subtask = self.name.clone();
            journal.emit(Event::BarrierEmitted { subtask, checkpoint, attempt: self.spec.attempt });
        }
        for channel in &mut self.channels {
            channel.push_barrier(checkpoint, savepoint.as_ref());
        }
        self.snapshotter.start(SnapshotParts {
            checkpoint,
            savepoint,
            chain,
            merges: self.merges.kept().clone(),
            sinks,
            exhausted: self.source.as_ref().is_some_and(SourceDriver::is_exhausted),
        });
        Ok(())
    }
}
