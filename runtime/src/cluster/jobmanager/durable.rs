//! The steps of a leader that touch primary storage. Each runs in a task of its own and answers with an event; none of them
//! decides anything.

use std::{collections::BTreeMap, sync::Arc};

use super::leader::BeginError;
use crate::{
    checkpoint::{
        commit::{self, CommitOutcome},
        head::{HeadEntry, HeadError, HeadLog},
        metadata::{self, CheckpointMetadata, MetadataError},
        primary::Primary,
        sweep,
        types::PrecommittedObject,
    },
    ids::{AttemptId, CheckpointId, OperatorUid},
    journal::{Event, Journal},
    layout::{Layout, SavepointDirectory},
    platform::ObjectName,
    points::Point,
    recovery::choice::{ChoiceSettings, Impossible, RestoreChoice, choose},
    sabotage::{Sabotage, SabotageSet},
};

/// So many names are tried for the directory of a savepoint, as in Flink.
const FRESH_DIRECTORIES: u32 = 10;

/// What durable steps work with. Cheap to clone.
#[derive(Clone)]
pub struct Durable {
    pub primary: Primary,
    pub layout: Layout,
    pub head: HeadLog,
    pub sinks: Arc<Vec<OperatorUid>>,
    pub sabotage: SabotageSet,
}

/// A restore that is ready to be deployed.
#[derive(Debug)]
pub struct Prepared {
    pub attempt: AttemptId,
    pub choice: RestoreChoice,
    pub metadata: Option<CheckpointMetadata>,
    /// Checkpoints found lost on the way.
    pub condemned: BTreeMap<CheckpointId, String>,
}

#[derive(Debug)]
pub enum PrepareError {
    Impossible(Impossible),
    Head(HeadError),
    /// The store cannot be used now.
    Unavailable(String),
    /// A committed manifest is not what this job committed.
    Manifest(String),
}

impl Durable {
    /// Makes the output of a completed checkpoint visible; goes on until it is.
    ///
    /// # Errors
    /// If a manifest of another content stands where this one belongs.
    pub async fn commit_sinks(
        &self,
        checkpoint: CheckpointId,
        sinks: &BTreeMap<OperatorUid, Vec<PrecommittedObject>>,
    ) -> Result<(), String> {
        for (sink, objects) in sinks {
            if self.sabotage.is(Sabotage::CommittedIsFatal) {
                let name = self.layout.sink_commit(&sink.0, checkpoint);
                if matches!(self.primary.length(&name).await, Ok(Some(_))) {
                    self.primary.platform().journal.emit(Sabotage::CommittedIsFatal.marker());
                    return Err(format!("sink {sink}: checkpoint {checkpoint} is committed already"));
                }
            }
            loop {
                match commit::commit(&self.primary, self.layout, sink, checkpoint, objects).await {
                    Ok(CommitOutcome::Done) => {
                        self.journal().reached(Point::CommitMeetsNoVoid);
                        break;
                    }
                    Ok(CommitOutcome::Other(manifest)) => {
                        let detail = || format!("sink {sink}: checkpoint {checkpoint} is a {:?}", manifest.kind);
                        self.journal().always(Point::CommitMeetsNoVoid, false, detail);
                        return Err(format!(
                            "sink {sink}: checkpoint {checkpoint} completed, but its manifest is a {:?} of {} objects",
                            manifest.kind,
                            manifest.objects.len()
                        ));
                    }
                    Err(error) if error.is_retryable() => self.pause().await,
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn journal(&self) -> &Journal {
        &self.primary.platform().journal
    }

    async fn pause(&self) {
        self.primary.platform().clock.sleep(std::time::Duration::from_millis(200)).await;
    }

    /// Chooses what to restore, reads its metadata, fences the checkpoints that will never complete, and records it all.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn prepare_restore(
        &self,
        attempt: AttemptId,
        first_unused: CheckpointId,
        mut condemned: BTreeMap<CheckpointId, String>,
        settings: &ChoiceSettings,
    ) -> Result<Prepared, PrepareError> {
        let state = self.head.state();
        let journal = self.journal();
        let (choice, metadata) = loop {
            #[cfg(feature = "sabotage")]
            for bug in crate::recovery::choice::planted_in(&state, &condemned, settings) {
                journal.emit(bug.marker());
            }
            let choice = choose(&state, &condemned, settings).map_err(PrepareError::Impossible)?;
            let Some(checkpoint) = choice.checkpoint else { break (choice, None) };
            // `choose` picks from the retained checkpoints of the same state.
            let Some(retained) = state.retained.get(&checkpoint) else { break (choice, None) };
            #[cfg(feature = "sabotage")]
            if settings.sabotage.is(Sabotage::OutageDeletesCheckpoint)
                && let Err(error) = self.primary.read_hastily(&retained.metadata).await
            {
                journal.emit(Sabotage::OutageDeletesCheckpoint.marker());
                condemned.insert(checkpoint, error.to_string());
                self.discard(checkpoint, &retained.all_objects().cloned().collect::<Vec<_>>()).await;
                continue;
            }
            match metadata::read(&self.primary, self.layout, checkpoint, &retained.metadata).await {
                Ok(metadata) => break (choice, Some(metadata)),
                Err(error @ MetadataError::Lost { .. })
                    if settings.sabotage.runs(Sabotage::LostMetadataBlocks, journal) =>
                {
                    return Err(PrepareError::Unavailable(error.to_string()));
                }
                Err(error @ MetadataError::Lost { .. }) => {
                    let reason = error.to_string();
                    journal.reached(Point::MetadataLost);
                    journal.emit(Event::CheckpointCondemned { checkpoint, reason: reason.clone() });
                    condemned.insert(checkpoint, reason);
                }
                Err(error @ MetadataError::Unavailable { .. }) => {
                    return Err(PrepareError::Unavailable(error.to_string()));
                }
            }
        };
        for checkpoint in state.voidable(first_unused, choice.checkpoint) {
            for sink in self.sinks.iter() {
                match commit::void(&self.primary, self.layout, sink, checkpoint).await {
                    Ok(CommitOutcome::Done) => journal.reached(Point::VoidMeetsNoCommit),
                    Ok(CommitOutcome::Other(_)) => {
                        let detail = || format!("sink {sink}: checkpoint {checkpoint}");
                        journal.always(Point::VoidMeetsNoCommit, false, detail);
                        return Err(PrepareError::Manifest(format!(
                            "sink {sink}: checkpoint {checkpoint} is committed although it never completed"
                        )));
                    }
                    Err(error) => return Err(PrepareError::Unavailable(error.to_string())),
                }
            }
        }
        #[cfg(feature = "sabotage")]
        if settings.sabotage.is(Sabotage::RestoreDeletesNewerOutput) {
            self.delete_output_behind(choice.checkpoint, state.newest).await;
        }
        let entry = HeadEntry::Restored { attempt, checkpoint: choice.checkpoint, condemned: condemned.clone() };
        self.head.append(entry).await.map_err(PrepareError::Head)?;
        Ok(Prepared { attempt, choice, metadata, condemned })
    }

    /// A planted bug: deletes all output that was begun behind `restored`, whether it is committed or not.
    #[cfg(feature = "sabotage")]
    async fn delete_output_behind(&self, restored: Option<CheckpointId>, newest: Option<CheckpointId>) {
        for sink in self.sinks.iter() {
            let prefix = self.layout.sink_data_prefix(&sink.0);
            for found in self.primary.list(&prefix).await.unwrap_or_default() {
                let number = found.name.as_str().strip_prefix(&prefix).and_then(|rest| rest.get(..10)?.parse().ok());
                let Some(number) = number.map(CheckpointId).filter(|number| Some(*number) > restored) else { continue };
                // A replaced leader knows an old log: what is committed beyond it only the store can say.
                let manifest = self.layout.sink_commit(&sink.0, number);
                if Some(number) <= newest || matches!(self.primary.length(&manifest).await, Ok(Some(_))) {
                    self.primary.platform().journal.emit(Sabotage::RestoreDeletesNewerOutput.marker());
                }
                let _ = self.primary.delete(&found.name).await;
            }
        }
    }

    /// Finds a directory below `target` that nothing was ever written to, and records that a savepoint begins there.
    ///
    /// # Errors
    /// [`BeginError`]; nothing begins then.
    pub async fn begin_savepoint(&self, target: &ObjectName) -> Result<SavepointDirectory, BeginError> {
        let unusable = |what: String| {
            let store = &self.primary.platform().primary;
            BeginError::Target(format!("{}: {what}", store.describe(target)))
        };
        for _ in 0..FRESH_DIRECTORIES {
            let random = self.primary.platform().entropy.next_u64("savepoint-directory");
            let directory = SavepointDirectory::below(target, self.layout.job, random);
            let found = self.primary.list(&directory.prefix()).await.map_err(|error| unusable(error.to_string()))?;
            if found.is_empty() {
                self.head.append(HeadEntry::SavepointBegun { directory: directory.clone() }).await?;
                return Ok(directory);
            }
        }
        Err(unusable(format!("no name for a new directory after {FRESH_DIRECTORIES} attempts")))
    }

    /// Deletes everything in the directory of a savepoint that failed; what cannot be deleted now is left to the orphan sweep.
    pub async fn discard_savepoint(&self, checkpoint: CheckpointId, directory: &SavepointDirectory) {
        // The orphan sweep takes what this leaves.
        let objects = self.primary.delete_below(&directory.prefix()).await.unwrap_or_default();
        self.primary.platform().journal.emit(Event::CheckpointDiscarded { checkpoint, objects });
    }

    /// Deletes; what cannot be deleted now is left to the orphan sweep.
    pub async fn discard(&self, checkpoint: CheckpointId, objects: &[ObjectName]) {
        // The orphan sweep takes what this leaves.
        let _ = self.primary.delete_all(objects).await;
        let objects = objects.len() as u64;
        self.primary.platform().journal.emit(Event::CheckpointDiscarded { checkpoint, objects });
    }

    /// The last steps of a job whose tasks have stopped: its end is recorded, then everything unreferenced is removed.
    ///
    /// # Errors
    /// If the end could not be recorded.
    pub async fn end(&self, entry: HeadEntry) -> Result<(), HeadError> {
        if self.head.state().end.is_none() {
            self.head.append(entry).await?;
        }
        let state = self.head.state();
        // A sweep that could not be finished costs space, not correctness.
        let _ = sweep::sweep(&self.primary, self.layout, &state, &self.sinks).await;
        Ok(())
    }
}
