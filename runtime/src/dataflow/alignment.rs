//! Barrier alignment of one subtask: which channels must wait, and when the snapshot is due. Pure: events go in, commands
//! come out in the order in which they must be carried out.
//!
//! What it guarantees: all records that precede barrier n on their channel, and none that follow it, are processed before
//! snapshot n; and no channel stays blocked for a checkpoint that can no longer be aligned.
//! What it relies on: a blocked channel is not consumed, and barriers of one channel have increasing ids.

use std::collections::BTreeSet;

use crate::{
    ids::CheckpointId,
    points::{Point, Points},
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignmentEvent {
    /// A barrier was taken from a channel that was not blocked.
    Barrier { channel: usize, checkpoint: CheckpointId },
    /// The coordinator gave the checkpoint up.
    Aborted(CheckpointId),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignmentCommand {
    /// The first barrier of this checkpoint has come.
    Started(CheckpointId),
    Block {
        channel: usize,
    },
    UnblockAll,
    /// The alignment was abandoned; there will be no snapshot of this checkpoint here.
    Abandoned(CheckpointId),
    /// All barriers are in: take the snapshot and send the barrier on. Channels are unblocked by the command that follows.
    Snapshot(CheckpointId),
}

struct Current {
    checkpoint: CheckpointId,
    arrived: Vec<bool>,
    missing: usize,
}

/// The alignment state of one subtask.
pub struct Alignment {
    channels: usize,
    current: Option<Current>,
    /// Everything up to here was aligned, abandoned or overtaken; its barriers mean nothing any more.
    settled: CheckpointId,
    /// Aborted above `settled` before their first barrier came.
    aborted: BTreeSet<CheckpointId>,
    skip: bool,
    points: Points,
}

impl Alignment {
    /// For `channels` input channels; barriers up to `settled` (the restored checkpoint) are ignored. With `skip`, a
    /// deliberate fault, the snapshot is taken at the first barrier.
    pub fn new(channels: usize, settled: CheckpointId, skip: bool) -> Alignment {
        Alignment { channels, current: None, settled, aborted: BTreeSet::new(), skip, points: Points::default() }
    }

    /// The points passed since the last call.
    pub fn take_points(&mut self) -> Points {
        self.points.take()
    }

    /// The checkpoint being aligned.
    pub fn aligning(&self) -> Option<CheckpointId> {
        self.current.as_ref().map(|c| c.checkpoint)
    }

    pub fn handle(&mut self, event: AlignmentEvent) -> Vec<AlignmentCommand> {
        let mut commands = Vec::new();
        match event {
            AlignmentEvent::Barrier { channel, checkpoint } => self.barrier(channel, checkpoint, &mut commands),
            AlignmentEvent::Aborted(checkpoint) => self.abort(checkpoint, &mut commands),
        }
        commands
    }

    fn barrier(&mut self, channel: usize, checkpoint: CheckpointId, commands: &mut Vec<AlignmentCommand>) {
        if checkpoint <= self.settled || self.aborted.contains(&checkpoint) {
            self.points.reached(Point::BarrierOfAborted);
            return;
        }
        match &self.current {
            // Overtaken: the channel that brought the newer barrier will never bring this one.
            Some(current) if checkpoint < current.checkpoint => return,
            Some(current) if checkpoint > current.checkpoint => {
                self.points.reached(Point::BarrierOvertakes);
                let older = current.checkpoint;
                self.abandon(older, commands);
            }
            _ => {}
        }
        if self.current.is_none() {
            commands.push(AlignmentCommand::Started(checkpoint));
            if self.skip {
                commands.push(AlignmentCommand::Snapshot(checkpoint));
                self.settle(checkpoint);
                return;
            }
        }
        let channels = self.channels;
        let current = self.current.get_or_insert_with(|| Current {
            checkpoint,
            arrived: vec![false; channels],
            missing: channels,
        });
        if std::mem::replace(&mut current.arrived[channel], true) {
            return;
        }
        current.missing -= 1;
        commands.push(AlignmentCommand::Block { channel });
        if current.missing == 0 {
            self.current = None;
            commands.push(AlignmentCommand::Snapshot(checkpoint));
            commands.push(AlignmentCommand::UnblockAll);
            self.settle(checkpoint);
        }
    }

    fn abort(&mut self, checkpoint: CheckpointId, commands: &mut Vec<AlignmentCommand>) {
        if checkpoint <= self.settled {
            return;
        }
        if self.aligning() == Some(checkpoint) {
            self.points.reached(Point::AbortDuringAlignment);
            self.abandon(checkpoint, commands);
        } else {
            self.points.reached(Point::AbortBeforeBarrier);
            self.aborted.insert(checkpoint);
        }
    }

    fn abandon(&mut self, checkpoint: CheckpointId, commands: &mut Vec<AlignmentCommand>) {
        self.current = None;
        commands.push(AlignmentCommand::Abandoned(checkpoint));
        commands.push(AlignmentCommand::UnblockAll);
        self.settle(checkpoint);
    }

    fn settle(&mut self, checkpoint: CheckpointId) {
        self.settled = checkpoint;
        self.aborted = self.aborted.split_off(&checkpoint.next());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::{
        AlignmentCommand::{Abandoned, Block, Snapshot, Started, UnblockAll},
        *,
    };

    fn barrier(channel: usize, checkpoint: u64) -> AlignmentEvent {
        AlignmentEvent::Barrier { channel, checkpoint: CheckpointId(checkpoint) }
    }

    fn aborted(checkpoint: u64) -> AlignmentEvent {
        AlignmentEvent::Aborted(CheckpointId(checkpoint))
    }

    const ONE: CheckpointId = CheckpointId(1);
    const TWO: CheckpointId = CheckpointId(2);

    #[test]
    fn the_snapshot_waits_for_the_last_barrier() {
        let mut alignment = Alignment::new(2, CheckpointId(0), false);
        assert_eq!(alignment.handle(barrier(1, 1)), [Started(ONE), Block { channel: 1 }]);
        assert_eq!(alignment.handle(barrier(0, 1)), [Block { channel: 0 }, Snapshot(ONE), UnblockAll]);
    }

    #[test]
    fn a_newer_barrier_abandons_the_older_alignment() {
        let mut alignment = Alignment::new(2, CheckpointId(0), false);
        alignment.handle(barrier(0, 1));
        assert_eq!(alignment.handle(barrier(1, 2)), [Abandoned(ONE), UnblockAll, Started(TWO), Block { channel: 1 }]);
        assert_eq!(alignment.handle(barrier(0, 2)), [Block { channel: 0 }, Snapshot(TWO), UnblockAll]);
    }

    #[test]
    fn an_abort_unblocks_and_its_late_barriers_are_ignored() {
        let mut alignment = Alignment::new(2, CheckpointId(0), false);
        alignment.handle(barrier(0, 1));
        assert_eq!(alignment.handle(aborted(1)), [Abandoned(ONE), UnblockAll]);
        assert_eq!(alignment.handle(barrier(1, 1)), []);
        assert_eq!(alignment.handle(aborted(1)), []);
    }

    #[test]
    fn an_abort_may_come_before_any_barrier() {
        let mut alignment = Alignment::new(2, CheckpointId(0), false);
        assert_eq!(alignment.handle(aborted(2)), []);
        assert_eq!(alignment.handle(barrier(0, 1)), [Started(ONE), Block { channel: 0 }]);
        assert_eq!(alignment.handle(barrier(1, 2)), [], "the aborted newer barrier does not disturb the older one");
        assert_eq!(alignment.handle(barrier(1, 3)).first(), Some(&Abandoned(ONE)));
    }

    #[test]
    fn barriers_of_the_restored_checkpoint_mean_nothing() {
        let mut alignment = Alignment::new(1, TWO, false);
        assert_eq!(alignment.handle(barrier(0, 2)), []);
        assert_eq!(alignment.aligning(), None);
    }

    #[test]
    fn what_has_happened_is_noted_once() {
        let mut alignment = Alignment::new(2, CheckpointId(0), false);
        let mut noted = |event| {
            alignment.handle(event);
            alignment.take_points().passed().collect::<Vec<_>>()
        };
        assert_eq!(noted(barrier(0, 1)), []);
        assert_eq!(noted(barrier(1, 2)), [Point::BarrierOvertakes]);
        assert_eq!(noted(aborted(2)), [Point::AbortDuringAlignment]);
        assert_eq!(noted(barrier(0, 2)), [Point::BarrierOfAborted]);
        assert_eq!(noted(aborted(5)), [Point::AbortBeforeBarrier]);
        assert_eq!(noted(aborted(1)), [], "it was settled long before");
    }

    #[test]
    fn the_planted_fault_snapshots_at_the_first_barrier() {
        let mut alignment = Alignment::new(2, CheckpointId(0), true);
        assert_eq!(alignment.handle(barrier(0, 1)), [Started(ONE), Snapshot(ONE)]);
        assert_eq!(alignment.handle(barrier(1, 1)), []);
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Item {
        Record,
        Barrier(u64),
    }

    /// `barriers` barriers on each channel with records between them; a channel may miss some barriers (its upstream
    /// abandoned that checkpoint), but never the last one.
    fn channel(barriers: u64) -> impl Strategy<Value = Vec<Item>> {
        proptest::collection::vec((0..4usize, proptest::bool::weighted(0.85)), barriers as usize).prop_map(
            move |epochs| {
                let mut items = Vec::new();
                for (n, (records, kept)) in (1..).zip(epochs) {
                    items.extend(std::iter::repeat_n(Item::Record, records));
                    if kept || n == barriers {
                        items.push(Item::Barrier(n));
                    }
                }
                items.push(Item::Record);
                items
            },
        )
    }

    /// An abort or not, of which checkpoint, or a channel to consume from.
    type Step = (bool, u64, usize);

    fn story() -> impl Strategy<Value = (Vec<Vec<Item>>, Vec<Step>)> {
        (1..5usize, 1..6u64).prop_flat_map(|(channels, barriers)| {
            (
                proptest::collection::vec(channel(barriers), channels),
                proptest::collection::vec((proptest::bool::weighted(0.1), 1..=barriers, 0..channels), 0..200),
            )
        })
    }

    proptest! {
        #[test]
        fn snapshots_cut_every_channel_at_its_barrier((channels, steps) in story()) {
            let total = channels.len();
            let mut queues: Vec<VecDeque<Item>> = channels.iter().map(|c| c.iter().copied().collect()).collect();
            let mut blocked = vec![false; total];
            let mut consumed = vec![0usize; total];
            let mut alignment = Alignment::new(total, CheckpointId(0), false);
            let mut snapshots: Vec<u64> = Vec::new();
            let mut aborts = BTreeSet::new();
            let mut steps = steps.into_iter();
            loop {
                let ready: Vec<usize> = (0..total).filter(|c| !blocked[*c] && !queues[*c].is_empty()).collect();
                let events = match steps.next() {
                    Some((true, checkpoint, _)) => {
                        aborts.insert(checkpoint);
                        Some(aborted(checkpoint))
                    }
                    step => {
                        match alignment.aligning() {
                            // The upstream that abandoned a checkpoint did so because it was given up or overtaken; so
                            // the coordinator will tell this subtask, too.
                            Some(stuck) if ready.is_empty() => {
                                let brings_it = |c: &Vec<Item>| c.contains(&Item::Barrier(stuck.0));
                                prop_assert!(!channels.iter().all(brings_it), "{} could have been aligned", stuck);
                                aborts.insert(stuck.0);
                                Some(AlignmentEvent::Aborted(stuck))
                            }
                            _ if ready.is_empty() => break,
                            _ => {
                                let channel = ready[step.map_or(0, |s| s.2) % ready.len()];
                                consumed[channel] += 1;
                                match queues[channel].pop_front() {
                                    Some(Item::Barrier(n)) => Some(barrier(channel, n)),
                                    _ => None,
                                }
                            }
                        }
                    }
                };
                for command in events.map(|e| alignment.handle(e)).unwrap_or_default() {
                    match command {
                        Block { channel } => blocked[channel] = true,
                        UnblockAll => blocked.fill(false),
                        Snapshot(n) => {
                            snapshots.push(n.0);
                            for (channel, items) in channels.iter().enumerate() {
                                let cut = items.iter().position(|i| *i == Item::Barrier(n.0));
                                prop_assert_eq!(Some(consumed[channel]), cut.map(|at| at + 1));
                            }
                        }
                        Started(_) | Abandoned(_) => {}
                    }
                }
            }
            // No deadlock: everything was consumed.
            prop_assert!(queues.iter().all(VecDeque::is_empty), "left over: {:?}", queues);
            prop_assert!(snapshots.is_sorted_by(|a, b| a < b));
            // A checkpoint that was never aborted and whose barrier came on all channels is taken, unless overtaken.
            let last = channels.iter().flatten().filter_map(|i| match i { Item::Barrier(n) => Some(*n), Item::Record => None }).max();
            if let Some(last) = last && !aborts.contains(&last) {
                prop_assert_eq!(snapshots.last(), Some(&last));
            }
        }
    }
}
