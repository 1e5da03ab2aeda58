//! The order in which a subtask merged its inputs: recorded as it runs, kept until a completed checkpoint covers it, and
//! followed to the letter when an epoch is replayed. Pure.

use std::collections::BTreeMap;

use crate::{
    checkpoint::types::{MergeRun, ReplayPlan},
    ids::CheckpointId,
};

/// Records what is consumed, cut at each snapshot.
#[derive(Debug, Default)]
pub struct MergeRecorder {
    current: Vec<MergeRun>,
    kept: BTreeMap<CheckpointId, Vec<MergeRun>>,
}

impl MergeRecorder {
    /// `records` more were consumed from `input`.
    #[inline]
    pub fn record(&mut self, input: u32, records: u32) {
        if records == 0 {
            return;
        }
        if let Some(last) = self.current.last_mut()
            && last.input == input
            && let Some(sum) = last.records.checked_add(records)
        {
            last.records = sum;
            return;
        }
        self.current.push(MergeRun { input, records });
    }

    /// Snapshot `checkpoint` is taken: what was recorded since the one before belongs to it.
    pub fn cut(&mut self, checkpoint: CheckpointId) {
        self.kept.insert(checkpoint, std::mem::take(&mut self.current));
    }

    /// `checkpoint` has completed; nobody needs the order up to it from here.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        self.kept = self.kept.split_off(&checkpoint.next());
    }

    /// What the next acknowledgement carries.
    pub fn kept(&self) -> &BTreeMap<CheckpointId, Vec<MergeRun>> {
        &self.kept
    }
}

/// What a replaying subtask does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayStep {
    /// Consume up to so many records (at least one) from this input, and from no other.
    Take { input: u32, at_most: u32 },
    /// The records of this epoch are used up; [`ReplayCursor::end_epoch`] goes on.
    EndOf(CheckpointId),
    /// The plan is done.
    Finished,
}

/// A position in a [`ReplayPlan`].
#[derive(Debug)]
pub struct ReplayCursor {
    plan: ReplayPlan,
    epoch: usize,
    run: usize,
    taken: u32,
}

impl ReplayCursor {
    pub fn new(plan: ReplayPlan) -> ReplayCursor {
        let mut cursor = ReplayCursor { plan, epoch: 0, run: 0, taken: 0 };
        cursor.skip_empty_runs();
        cursor
    }

    pub fn step(&self) -> ReplayStep {
        match self.plan.epochs.get(self.epoch) {
            None => ReplayStep::Finished,
            Some(epoch) => match epoch.merges.get(self.run) {
                None => ReplayStep::EndOf(epoch.epoch),
                Some(run) => ReplayStep::Take { input: run.input, at_most: run.records - self.taken },
            },
        }
    }

    /// So many records, no more than [`ReplayStep::Take`] allowed, were consumed.
    pub fn took(&mut self, records: u32) {
        self.taken += records;
        let run = self.plan.epochs.get(self.epoch).and_then(|e| e.merges.get(self.run));
        if run.is_some_and(|run| self.taken >= run.records) {
            self.taken = 0;
            self.run += 1;
            self.skip_empty_runs();
        }
    }

    /// The end of the epoch was handled.
    pub fn end_epoch(&mut self) {
        self.epoch += 1;
        self.run = 0;
        self.taken = 0;
        self.skip_empty_runs();
    }

    fn skip_empty_runs(&mut self) {
        while self.plan.epochs.get(self.epoch).and_then(|e| e.merges.get(self.run)).is_some_and(|r| r.records == 0) {
            self.run += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::types::ReplayEpoch;

    #[test]
    fn runs_of_one_input_are_one_entry() {
        let mut log = MergeRecorder::default();
        log.record(0, 3);
        log.record(0, 0);
        log.record(0, 4);
        log.record(1, 1);
        log.cut(CheckpointId(5));
        log.record(1, 2);
        log.cut(CheckpointId(6));
        assert_eq!(
            log.kept().get(&CheckpointId(5)),
            Some(&vec![MergeRun { input: 0, records: 7 }, MergeRun { input: 1, records: 1 }])
        );
        log.completed(CheckpointId(5));
        assert_eq!(log.kept().keys().collect::<Vec<_>>(), [&CheckpointId(6)]);
    }

    #[test]
    fn a_run_longer_than_a_number_is_two_entries() {
        let mut log = MergeRecorder::default();
        log.record(2, u32::MAX);
        log.record(2, 1);
        log.cut(CheckpointId(1));
        assert_eq!(log.kept()[&CheckpointId(1)].len(), 2);
    }

    #[test]
    fn an_empty_plan_is_finished_at_once() {
        assert_eq!(ReplayCursor::new(ReplayPlan::default()).step(), ReplayStep::Finished);
    }

    proptest! {
        /// Each inner list is an epoch: (input, records) in the order consumed. Replayed with any batch size, and whatever
        /// zero-length runs a plan from outside may hold, the order of records is the same.
        #[test]
        fn a_replay_follows_the_recorded_order(
            epochs in proptest::collection::vec(proptest::collection::vec((0..4u32, 0..9u32), 0..20), 0..5),
            batch in 1..7u32,
        ) {
            let mut log = MergeRecorder::default();
            let mut original: Vec<Vec<u32>> = Vec::new();
            for (n, epoch) in (1..).zip(&epochs) {
                let mut order = Vec::new();
                for (input, records) in epoch {
                    log.record(*input, *records);
                    order.extend(std::iter::repeat_n(*input, *records as usize));
                }
                log.cut(CheckpointId(n));
                original.push(order);
            }
            let mut plan = ReplayPlan::default();
            for (epoch, merges) in log.kept() {
                let mut merges = merges.clone();
                merges.push(MergeRun { input: 3, records: 0 });
                plan.epochs.push(ReplayEpoch { epoch: *epoch, merges });
            }
            let mut cursor = ReplayCursor::new(plan);
            let mut replayed: Vec<Vec<u32>> = Vec::new();
            let mut order = Vec::new();
            loop {
                match cursor.step() {
                    ReplayStep::Take { input, at_most } => {
                        prop_assert!(at_most > 0);
                        let records = at_most.min(batch);
                        order.extend(std::iter::repeat_n(input, records as usize));
                        cursor.took(records);
                    }
                    ReplayStep::EndOf(epoch) => {
                        replayed.push(std::mem::take(&mut order));
                        prop_assert_eq!(epoch, CheckpointId(replayed.len() as u64));
                        cursor.end_epoch();
                    }
                    ReplayStep::Finished => break,
                }
            }
            prop_assert_eq!(replayed, original);
        }
    }
}
