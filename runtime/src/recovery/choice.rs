//! Which checkpoint to restore: pure.
//!
//! The newest retained checkpoint that is not known to be lost. If it is not the newest one ever completed, output was
//! committed past it; then the epochs behind it are replayed, muted, exactly as the commit ledger recorded them, before
//! new output may follow. A choice that would break exactly-once is no choice, unless the setting says so by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{
        head::HeadState,
        types::{LedgerEpoch, MergeStep, OutputDigest, ReplayEpoch, ReplayPlan, SubtaskKey},
    },
    ids::{CheckpointId, OperatorUid, SubtaskId},
    sabotage::{Sabotage, SabotageSet},
};

#[cfg(test)]
mod tests;

/// What to do when the checkpoint to restore lies behind committed output (`recovery.fallback-behind-commit`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FallbackBehindCommit {
    /// Repeat the epochs behind it to the letter, with output suppressed and verified. Exactly-once.
    #[default]
    Replay,
    /// Refuse: the job fails. Exactly-once.
    Fail,
    /// Go back without a replay: output committed behind the checkpoint is written a second time.
    Duplicate,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChoiceSettings {
    pub fallback: FallbackBehindCommit,
    /// The subtasks that the job has now: an epoch can be replayed by those that recorded it, and by no others. None: the
    /// same as ever.
    pub subtasks: Option<BTreeSet<SubtaskKey>>,
    pub sabotage: SabotageSet,
}

impl ChoiceSettings {
    fn can_replay(&self, epochs: &[LedgerEpoch]) -> bool {
        let same = |subtasks: &BTreeSet<SubtaskKey>| epochs.iter().all(|epoch| epoch.merges.keys().eq(subtasks));
        self.subtasks.as_ref().is_none_or(same)
    }
}

/// Where an execution starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreChoice {
    /// None: from nothing.
    pub checkpoint: Option<CheckpointId>,
    /// What to replay, muted, from there; oldest first.
    pub replay: Vec<LedgerEpoch>,
    /// The checkpoint whose state the execution has once everything is replayed: what its first own checkpoint continues
    /// from. To be handed to the coordinator with `Started`.
    pub continues: Option<CheckpointId>,
    /// The newest checkpoint ever completed.
    pub newest: Option<CheckpointId>,
    /// Output committed behind `checkpoint` will be written a second time (only under `Duplicate`).
    pub duplicates: bool,
}

impl RestoreChoice {
    pub fn replay_to(&self) -> Option<CheckpointId> {
        self.replay.last().map(|epoch| epoch.checkpoint)
    }
}

/// No checkpoint can be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Impossible {
    /// What was tried (None: starting from nothing), newest first, and why it is impossible.
    pub tried: Vec<(Option<CheckpointId>, String)>,
    /// One of them could be restored if the job had the parallelism that it had.
    pub at_other_parallelism: bool,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no checkpoint can be restored")?;
        for (position, (checkpoint, why)) in self.tried.iter().enumerate() {
            f.write_str(if position == 0 { ": " } else { "; " })?;
            match checkpoint {
                Some(id) => write!(f, "checkpoint {id}: {why}")?,
                None => write!(f, "start from nothing: {why}")?,
            }
        }
        Ok(())
    }
}

/// The ledger epochs between `from` (None: the beginning) and the newest completed checkpoint, oldest first.
fn epochs_behind(head: &HeadState, from: Option<CheckpointId>) -> Result<Vec<LedgerEpoch>, String> {
    let mut epochs = Vec::new();
    let mut at = head.newest;
    while let Some(id) = at
        && at > from
    {
        let Some(epoch) = head.ledger.get(&id) else {
            return Err(format!("epoch {id}, whose output is committed, is not in the ledger any more"));
        };
        if epoch.previous.is_some_and(|previous| previous >= id) {
            return Err(format!("the ledger is damaged: epoch {id} continues from {:?}", epoch.previous));
        }
        epochs.push(epoch.clone());
        at = epoch.previous;
    }
    if at != from {
        return Err("committed output does not descend from it".to_string());
    }
    epochs.reverse();
    Ok(epochs)
}

/// Chooses. `condemned`: checkpoints found to be lost for good, and why, beyond those `head` knows.
///
/// # Errors
/// [`Impossible`], with everything that was considered.
pub fn choose(
    head: &HeadState,
    condemned: &BTreeMap<CheckpointId, String>,
    settings: &ChoiceSettings,
) -> Result<RestoreChoice, Impossible> {
    let newest = head.newest;
    let fallback = match settings.sabotage.is(Sabotage::FallbackWithoutReplay) {
        true => FallbackBehindCommit::Duplicate,
        false => settings.fallback,
    };
    if newest.is_none() {
        return Ok(RestoreChoice { checkpoint: None, replay: Vec::new(), continues: None, newest, duplicates: false });
    }
    let mut tried = Vec::new();
    let mut at_other_parallelism = false;
    let oldest_first = settings.sabotage.is(Sabotage::RestoreOldest);
    let mut candidates: Vec<_> = head.retained.keys().copied().map(Some).collect();
    if !oldest_first {
        candidates.reverse();
    }
    if settings.sabotage.is(Sabotage::IdsSortedAsText) {
        candidates.sort_by_key(|id| std::cmp::Reverse(id.map(|id| id.to_string())));
    }
    candidates.push(None);
    for candidate in candidates {
        let lost = candidate.and_then(|id| condemned.get(&id).or_else(|| head.condemned.get(&id)));
        if let Some(why) = lost {
            tried.push((candidate, format!("lost: {why}")));
            continue;
        }
        if candidate == newest {
            let replay = Vec::new();
            return Ok(RestoreChoice {
                checkpoint: candidate,
                replay,
                continues: candidate,
                newest,
                duplicates: false,
            });
        }
        match fallback {
            FallbackBehindCommit::Fail => {
                let why = "output is committed behind it, and recovery.fallback-behind-commit is `fail`";
                tried.push((candidate, why.to_string()));
            }
            FallbackBehindCommit::Duplicate if candidate.is_some() => {
                let replay = Vec::new();
                return Ok(RestoreChoice {
                    checkpoint: candidate,
                    replay,
                    continues: candidate,
                    newest,
                    duplicates: true,
                });
            }
            FallbackBehindCommit::Replay | FallbackBehindCommit::Duplicate => match epochs_behind(head, candidate) {
                Ok(replay) if !settings.can_replay(&replay) => {
                    let why = "the epochs behind it, whose output is committed, were recorded at another parallelism, and \
                               only there can they be replayed: start the job at the parallelism that it had";
                    at_other_parallelism = true;
                    tried.push((candidate, why.to_string()));
                }
                Ok(mut replay) => {
                    if settings.sabotage.is(Sabotage::ReplayTooShort) {
                        replay.pop();
                    }
                    return Ok(RestoreChoice {
                        checkpoint: candidate,
                        replay,
                        continues: newest,
                        newest,
                        duplicates: false,
                    });
                }
                Err(why) => tried.push((candidate, why)),
            },
        }
    }
    Err(Impossible { tried, at_other_parallelism })
}

/// The planted bugs that made the choice what it is.
#[cfg(feature = "sabotage")]
pub fn planted_in(
    head: &HeadState,
    condemned: &BTreeMap<CheckpointId, String>,
    settings: &ChoiceSettings,
) -> Vec<Sabotage> {
    let chosen = choose(head, condemned, settings);
    let without = |bug| ChoiceSettings { sabotage: settings.sabotage.without(bug), ..settings.clone() };
    let differs = |bug: &Sabotage| choose(head, condemned, &without(*bug)) != chosen;
    settings.sabotage.0.iter().copied().filter(differs).collect()
}

/// What one subtask replays. With `sabotage`, perhaps in another order.
pub fn replay_plan(choice: &RestoreChoice, subtask: SubtaskId, sabotage: &SabotageSet) -> ReplayPlan {
    let key = SubtaskKey::from(subtask);
    let merges = |epoch: &LedgerEpoch| {
        let mut merges = epoch.merges.get(&key).cloned().unwrap_or_default();
        if sabotage.is(Sabotage::ReplayOutOfOrder) {
            let runs = merges.iter().enumerate().filter(|(_, step)| matches!(step, MergeStep::Run(_)));
            if let [first, second] = runs.map(|(at, _)| at).take(2).collect::<Vec<_>>()[..] {
                merges.swap(first, second);
            }
        }
        merges
    };
    ReplayPlan {
        epochs: choice.replay.iter().map(|e| ReplayEpoch { epoch: e.checkpoint, merges: merges(e) }).collect(),
    }
}

/// A replayed epoch gave other output than was committed: the job is not deterministic, and going on would break
/// exactly-once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "replay of epoch {epoch} gave other output for sink {sink} than was committed: {} records (digest {:032x}) instead of {} ({:032x})",
    found.records, found.sum, expected.records, expected.sum
)]
pub struct ReplayMismatch {
    pub epoch: CheckpointId,
    pub sink: OperatorUid,
    pub expected: OutputDigest,
    pub found: OutputDigest,
}

/// Compares what the sinks digested in a replayed epoch, all their subtasks together, with the ledger.
///
/// # Errors
/// [`ReplayMismatch`] for the first sink that differs.
pub fn verify_epoch(epoch: &LedgerEpoch, found: &BTreeMap<OperatorUid, OutputDigest>) -> Result<(), ReplayMismatch> {
    for sink in epoch.digests.keys().chain(found.keys()) {
        let expected = epoch.digests.get(sink).copied().unwrap_or_default();
        let found = found.get(sink).copied().unwrap_or_default();
        if expected != found {
            return Err(ReplayMismatch { epoch: epoch.checkpoint, sink: sink.clone(), expected, found });
        }
    }
    Ok(())
}

/// Collects the sinks' reports of replayed epochs until every epoch is verified.
#[derive(Clone, Debug)]
pub struct ReplayVerification {
    epochs: BTreeMap<CheckpointId, EpochVerification>,
}

#[derive(Clone, Debug)]
struct EpochVerification {
    expected: LedgerEpoch,
    /// Sink subtasks that have not reported yet.
    missing: BTreeSet<SubtaskId>,
    sums: BTreeMap<OperatorUid, OutputDigest>,
}

impl ReplayVerification {
    /// `sinks`: the subtasks that will report, those whose vertex has a sink.
    pub fn new(choice: &RestoreChoice, sinks: &BTreeSet<SubtaskId>) -> ReplayVerification {
        let open = |e: &LedgerEpoch| {
            (e.checkpoint, EpochVerification { expected: e.clone(), missing: sinks.clone(), sums: BTreeMap::new() })
        };
        ReplayVerification { epochs: choice.replay.iter().map(open).collect() }
    }

    /// Takes in one report. True: the epoch is complete now and as committed. Repetitions and unknown epochs are ignored.
    ///
    /// # Errors
    /// [`ReplayMismatch`], once the epoch is complete and differs.
    pub fn report(
        &mut self,
        subtask: SubtaskId,
        epoch: CheckpointId,
        digests: &BTreeMap<OperatorUid, OutputDigest>,
    ) -> Result<bool, ReplayMismatch> {
        let Some(EpochVerification { expected, missing, sums }) = self.epochs.get_mut(&epoch) else { return Ok(false) };
        if !missing.remove(&subtask) {
            return Ok(false);
        }
        for (sink, digest) in digests {
            sums.entry(sink.clone()).or_default().add(*digest);
        }
        if !missing.is_empty() {
            return Ok(false);
        }
        let verdict = verify_epoch(expected, sums);
        self.epochs.remove(&epoch);
        verdict.map(|()| true)
    }

    /// Whether all epochs were reported by all sinks and are as committed.
    pub fn is_done(&self) -> bool {
        self.epochs.values().all(|e| e.missing.is_empty())
    }
}
