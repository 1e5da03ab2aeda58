//! The order in which a subtask merged its inputs, and where in it the times moved on: recorded as it runs, kept until a
//! completed checkpoint covers it, and followed to the letter when an epoch is replayed. Pure.

use std::collections::BTreeMap;

use crate::{
    checkpoint::types::{MergeRun, MergeStep, ReplayPlan, Times},
    ids::CheckpointId,
};

/// Records what is consumed, cut at each snapshot.
#[derive(Debug, Default)]
pub struct MergeRecorder {
    current: Vec<MergeStep>,
    kept: BTreeMap<CheckpointId, Vec<MergeStep>>,
}

impl MergeRecorder {
    /// `records` more were consumed from `input`.
    #[inline]
    pub fn record(&mut self, input: u32, records: u32) {
        if records == 0 {
            return;
        }
        if let Some(MergeStep::Run(last)) = self.current.last_mut()
            && last.input == input
            && let Some(sum) = last.records.checked_add(records)
        {
            last.records = sum;
            return;
        }
        self.current.push(MergeStep::Run(MergeRun { input, records }));
    }

    /// A time moved on.
    pub fn time(&mut self, step: MergeStep) {
        self.current.push(step);
    }

    /// What is recorded from here on begins at these times.
    pub fn resume(&mut self, times: Times) {
        if times != Times::default() {
            self.current.push(MergeStep::Resume(times));
        }
    }

    /// Snapshot `checkpoint` is taken, at these times: what was recorded since the one before belongs to it.
    pub fn cut(&mut self, checkpoint: CheckpointId, times: Times) {
        self.kept.insert(checkpoint, std::mem::take(&mut self.current));
        self.resume(times);
    }

    /// `checkpoint` has completed; nobody needs the order up to it from here.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        self.kept = self.kept.split_off(&checkpoint.next());
    }

    /// What the next acknowledgement carries.
    pub fn kept(&self) -> &BTreeMap<CheckpointId, Vec<MergeStep>> {
        &self.kept
    }
}

/// What a replaying subtask does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayStep {
    /// Consume up to so many records (at least one) from this input, and from no other.
    Take { input: u32, at_most: u32 },
    /// Set the times, fire nothing; [`ReplayCursor::passed`] goes on.
    Resume(Times),
    /// Move event time on; [`ReplayCursor::passed`] goes on.
    Watermark(i64),
    /// Move processing time on; [`ReplayCursor::passed`] goes on.
    ProcessingTime(i64),
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
                Some(MergeStep::Run(run)) => ReplayStep::Take { input: run.input, at_most: run.records - self.taken },
                Some(MergeStep::Resume(times)) => ReplayStep::Resume(*times),
                Some(MergeStep::Watermark(watermark)) => ReplayStep::Watermark(*watermark),
                Some(MergeStep::ProcessingTime(now)) => ReplayStep::ProcessingTime(*now),
            },
        }
    }

    /// So many records, no more than [`ReplayStep::Take`] allowed, were consumed.
    pub fn took(&mut self, records: u32) {
        self.taken += records;
        let step = self.plan.epochs.get(self.epoch).and_then(|e| e.merges.get(self.run));
        if matches!(step, Some(MergeStep::Run(run)) if self.taken >= run.records) {
            self.passed();
        }
    }

    /// A step about the times was carried out.
    pub fn passed(&mut self) {
        self.taken = 0;
        self.run += 1;
        self.skip_empty_runs();
    }

    /// The end of the epoch was handled.
    pub fn end_epoch(&mut self) {
        self.epoch += 1;
        self.run = 0;
        self.taken = 0;
        self.skip_empty_runs();
    }

    fn skip_empty_runs(&mut self) {
        let step = |run: usize| self.plan.epochs.get(self.epoch).and_then(|e| e.merges.get(run));
        while matches!(step(self.run), Some(MergeStep::Run(MergeRun { records: 0, .. }))) {
            self.run += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::types::ReplayEpoch;

    fn run(input: u32, records: u32) -> MergeStep {
        MergeStep::Run(MergeRun { input, records })
    }

    #[test]
    fn runs_of_one_input_are_one_entry() {
        let mut log = MergeRecorder::default();
        log.record(0, 3);
        log.record(0, 0);
        log.record(0, 4);
        log.record(1, 1);
        log.cut(CheckpointId(5), Times::default());
        log.record(1, 2);
        log.cut(CheckpointId(6), Times::default());
        assert_eq!(log.kept().get(&CheckpointId(5)), Some(&vec![run(0, 7), run(1, 1)]));
        log.completed(CheckpointId(5));
        assert_eq!(log.kept().keys().collect::<Vec<_>>(), [&CheckpointId(6)]);
    }

    #[test]
    fn a_run_longer_than_a_number_is_two_entries() {
        let mut log = MergeRecorder::default();
        log.record(2, u32::MAX);
        log.record(2, 1);
        log.cut(CheckpointId(1), Times::default());
        assert_eq!(log.kept()[&CheckpointId(1)].len(), 2);
    }

    #[test]
    fn times_stand_between_the_runs_and_at_the_beginning_of_what_follows_a_cut() {
        let mut log = MergeRecorder::default();
        log.record(0, 1);
        log.time(MergeStep::Watermark(10));
        log.record(0, 2);
        let times = Times { watermark: 10, ..Times::default() };
        log.cut(CheckpointId(1), times);
        log.record(0, 3);
        log.cut(CheckpointId(2), times);
        assert_eq!(log.kept()[&CheckpointId(1)], [run(0, 1), MergeStep::Watermark(10), run(0, 2)]);
        assert_eq!(log.kept()[&CheckpointId(2)], [MergeStep::Resume(times), run(0, 3)]);
    }

    #[test]
    fn an_empty_plan_is_finished_at_once() {
        assert_eq!(ReplayCursor::new(ReplayPlan::default()).step(), ReplayStep::Finished);
    }

    /// What happened, one record or one move of a time each.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Happened {
        Record(u32),
        Time(MergeStep),
    }

    proptest! {
        /// Each inner list is an epoch: (input, records, or for input 4 a watermark, 5 a processing time) in order. Replayed
        /// with any batch size, and whatever zero-length runs a plan from outside may hold, the order is the same.
        #[test]
        fn a_replay_follows_the_recorded_order(
            epochs in proptest::collection::vec(proptest::collection::vec((0..6u32, 0..9u32), 0..20), 0..5),
            batch in 1..7u32,
        ) {
            let mut log = MergeRecorder::default();
            let mut original: Vec<Vec<Happened>> = Vec::new();
            let mut times = Times::default();
            for (n, epoch) in (1..).zip(&epochs) {
                let mut order = Vec::new();
                if times != Times::default() {
                    order.push(Happened::Time(MergeStep::Resume(times)));
                }
                for (input, records) in epoch {
                    let step = match input {
                        4 => {
                            times.watermark = i64::from(*records);
                            MergeStep::Watermark(times.watermark)
                        }
                        5 => {
                            times.processing = i64::from(*records);
                            MergeStep::ProcessingTime(times.processing)
                        }
                        _ => {
                            log.record(*input, *records);
                            order.extend(std::iter::repeat_n(Happened::Record(*input), *records as usize));
                            continue;
                        }
                    };
                    log.time(step);
                    order.push(Happened::Time(step));
                }
                log.cut(CheckpointId(n), times);
                original.push(order);
            }
            let mut plan = ReplayPlan::default();
            for (epoch, merges) in log.kept() {
                let mut merges = merges.clone();
                merges.push(run(3, 0));
                plan.epochs.push(ReplayEpoch { epoch: *epoch, merges });
            }
            let mut cursor = ReplayCursor::new(plan);
            let mut replayed: Vec<Vec<Happened>> = Vec::new();
            let mut order = Vec::new();
            loop {
                let time = match cursor.step() {
                    ReplayStep::Take { input, at_most } => {
                        prop_assert!(at_most > 0);
                        let records = at_most.min(batch);
                        order.extend(std::iter::repeat_n(Happened::Record(input), records as usize));
                        cursor.took(records);
                        continue;
                    }
                    ReplayStep::EndOf(epoch) => {
                        replayed.push(std::mem::take(&mut order));
                        prop_assert_eq!(epoch, CheckpointId(replayed.len() as u64));
                        cursor.end_epoch();
                        continue;
                    }
                    ReplayStep::Finished => break,
                    ReplayStep::Resume(times) => MergeStep::Resume(times),
                    ReplayStep::Watermark(watermark) => MergeStep::Watermark(watermark),
                    ReplayStep::ProcessingTime(now) => MergeStep::ProcessingTime(now),
                };
                order.push(Happened::Time(time));
                cursor.passed();
            }
            prop_assert_eq!(replayed, original);
        }
    }
}
