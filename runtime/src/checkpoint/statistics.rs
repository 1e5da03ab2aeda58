//! What the journal tells of a job's checkpoints, in numbers: how many, how long, how far apart, and for each subtask where the time of
//! one went. Flink shows these on the checkpoint page of its web interface.
//!
//! Events go in, in order, each with the time at which it was told; where that comes from is the caller's business. Savepoints are
//! checkpoints here. A checkpoint that was under way when its leader died is settled when the next one chooses what to restore.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::{self, Display},
    time::Duration,
};

use super::coordinator::NO_ROOM;
use crate::{ids::CheckpointId, journal::Event};

/// So many checkpoints that have ended are remembered one by one: Flink's `web.checkpoints.history`.
pub const HISTORY: usize = 10;
/// Put off so many times in a row, checkpoints are said to take too long. Once or twice is a hiccup.
const KEEPS_OUTLASTING: u32 = 3;

/// Where the time of one checkpoint went in one subtask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubtaskTimes {
    /// From the trigger until the snapshot began: barriers travel, and wait for each other. A source says nothing before the
    /// synchronous part of its snapshot is done, which counts to its delay.
    pub start_delay: Duration,
    /// The part of the delay in which barriers waited for each other.
    pub alignment: Duration,
    pub synchronous: Duration,
    pub asynchronous: Duration,
    /// From the trigger to the end of the asynchronous part.
    pub end_to_end: Duration,
}

/// When a subtask said what, as far as it did.
#[derive(Clone, Debug, Default)]
struct Said {
    aligning: Option<Duration>,
    aligned: Option<Duration>,
    synchronous: Option<Duration>,
    asynchronous: Option<Duration>,
}

impl Said {
    /// None: it has not come to its end.
    fn times(&self, triggered: Duration) -> Option<SubtaskTimes> {
        let (synchronous, asynchronous) = (self.synchronous?, self.asynchronous?);
        let begun = self.aligned.unwrap_or(synchronous);
        Some(SubtaskTimes {
            start_delay: begun.saturating_sub(triggered),
            alignment: self.aligning.map_or(Duration::ZERO, |aligning| begun.saturating_sub(aligning)),
            synchronous: synchronous.saturating_sub(begun),
            asynchronous: asynchronous.saturating_sub(synchronous),
            end_to_end: asynchronous.saturating_sub(triggered),
        })
    }
}

/// One checkpoint, from its trigger on.
#[derive(Clone, Debug, Default)]
pub struct Course {
    pub triggered: Duration,
    /// None: it is under way.
    pub ended: Option<Duration>,
    pub completed: bool,
    said: BTreeMap<String, Said>,
}

impl Course {
    /// Of the subtasks that have made their snapshot, by name.
    pub fn subtasks(&self) -> BTreeMap<&str, SubtaskTimes> {
        let times = self.said.iter().map(|(name, said)| (name.as_str(), said.times(self.triggered)));
        times.filter_map(|(name, times)| Some((name, times?))).collect()
    }
}

/// The figures of one job.
#[derive(Clone, Debug, Default)]
pub struct CheckpointStatistics {
    under_way: BTreeMap<CheckpointId, Course>,
    history: VecDeque<(CheckpointId, Course)>,
    pub triggered: u64,
    pub completed: u64,
    pub failed: u64,
    /// Executions that began with a checkpoint.
    pub restored: u64,
    /// Of completed ones: the shortest, the longest, and all together.
    shortest: Option<Duration>,
    longest: Duration,
    sum: Duration,
    begun: Option<Duration>,
    now: Duration,
    busy: Duration,
    last_completion: Option<Duration>,
    longest_gap: Duration,
    put_off: u32,
    keeps_outlasting: bool,
}

impl CheckpointStatistics {
    /// Takes note of an event that was told at `at`, counted from wherever the caller likes.
    pub fn event(&mut self, at: Duration, event: &Event) {
        self.moves_to(at);
        match event {
            Event::CheckpointTriggered { checkpoint, .. } => {
                self.triggered += 1;
                self.under_way.insert(*checkpoint, Course { triggered: self.now, ..Course::default() });
            }
            // A checkpoint is due that has no room; told once for each.
            Event::CheckpointSkipped { reason, .. } if reason == NO_ROOM => {
                self.put_off += 1;
                self.keeps_outlasting |= self.put_off >= KEEPS_OUTLASTING;
            }
            Event::CheckpointCompleted { checkpoint, .. }
            | Event::SavepointCompleted { checkpoint, overtaken: true, .. } => self.ends(*checkpoint, true),
            Event::CheckpointAborted { checkpoint, .. } => self.ends(*checkpoint, false),
            Event::RestoreChosen { checkpoint: chosen, .. } => {
                self.restored += u64::from(chosen.is_some());
                let left: Vec<_> = self.under_way.keys().copied().collect();
                // What is restored has completed, also if its leader died before it could say so.
                left.into_iter().for_each(|checkpoint| self.ends(checkpoint, Some(checkpoint) == *chosen));
            }
            Event::AlignmentStarted { subtask, checkpoint } => {
                self.says(subtask, *checkpoint, |said, now| said.aligning = Some(now));
            }
            Event::AlignmentEnded { subtask, checkpoint } => {
                self.says(subtask, *checkpoint, |said, now| said.aligned = Some(now));
            }
            Event::SnapshotSyncDone { subtask, checkpoint } => {
                self.says(subtask, *checkpoint, |said, now| said.synchronous = Some(now));
            }
            Event::SnapshotAsyncDone { subtask, checkpoint } => {
                self.says(subtask, *checkpoint, |said, now| said.asynchronous = Some(now));
            }
            _ => {}
        }
    }

    fn moves_to(&mut self, at: Duration) {
        // Threads that tell at the same time may come in the wrong order.
        let now = at.max(self.now);
        self.begun.get_or_insert(now);
        if !self.under_way.is_empty() {
            self.busy += now - self.now;
        }
        self.now = now;
    }

    fn says(&mut self, subtask: &str, checkpoint: CheckpointId, what: impl FnOnce(&mut Said, Duration)) {
        let now = self.now;
        if let Some(course) = self.under_way.get_mut(&checkpoint) {
            what(course.said.entry(subtask.to_string()).or_default(), now);
        }
    }

    fn ends(&mut self, checkpoint: CheckpointId, completed: bool) {
        let Some(mut course) = self.under_way.remove(&checkpoint) else { return };
        course.ended = Some(self.now);
        course.completed = completed;
        if completed {
            self.completed += 1;
            let took = self.now.saturating_sub(course.triggered);
            self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
            self.longest = self.longest.max(took);
            self.sum += took;
            if let Some(last) = self.last_completion.replace(self.now) {
                self.longest_gap = self.longest_gap.max(self.now.saturating_sub(last));
            }
        } else {
            self.failed += 1;
        }
        // One that went by with its time to spare ends the row.
        if self.put_off > 0 && self.history.back().is_some_and(|(_, before)| before.ended < Some(course.triggered)) {
            self.put_off = 0;
        }
        self.history.push_back((checkpoint, course));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// Checkpoints that are under way.
    pub fn in_progress(&self) -> u64 {
        self.under_way.len() as u64
    }

    /// The last that have ended, and those that are under way.
    pub fn courses(&self) -> impl Iterator<Item = (CheckpointId, &Course)> {
        let ended = self.history.iter().map(|(checkpoint, course)| (*checkpoint, course));
        ended.chain(self.under_way.iter().map(|(checkpoint, course)| (*checkpoint, course)))
    }

    /// Of the checkpoints that have ended, the part that completed; all, if none has ended.
    pub fn success_rate(&self) -> f64 {
        match self.completed + self.failed {
            0 => 1.0,
            ended => self.completed as f64 / ended as f64,
        }
    }

    /// The longest time from one completion to the next.
    pub fn longest_gap(&self) -> Duration {
        self.longest_gap
    }

    /// The shortest, the mean and the longest of the completed ones.
    pub fn durations(&self) -> Option<[Duration; 3]> {
        let mean = self.sum.checked_div(u32::try_from(self.completed).unwrap_or(u32::MAX))?;
        Some([self.shortest?, mean, self.longest])
    }

    /// The share of the time since the first event in which a checkpoint was under way.
    pub fn busy_share(&self) -> f64 {
        let whole = self.now.saturating_sub(self.begun.unwrap_or_default());
        if whole.is_zero() { 0.0 } else { self.busy.as_secs_f64() / whole.as_secs_f64() }
    }

    /// What to do about checkpoints that keep taking longer than the interval, if they do.
    pub fn advice(&self) -> Option<&'static str> {
        self.keeps_outlasting.then_some(
            "checkpoints keep taking longer than the interval: there is hardly a time without one; set \
             execution.checkpointing.min-pause or a longer execution.checkpointing.interval, or write less \
             (execution.checkpointing.incremental)",
        )
    }

    /// The time until `until` as a line of signs, one for each `step`: `#` where a checkpoint was under way.
    pub fn time_line(&self, step: Duration, until: Duration) -> String {
        let mut line = String::new();
        let mut from = Duration::ZERO;
        while from < until && !step.is_zero() {
            let to = from + step;
            let is_busy = |course: &Course| course.triggered < to && course.ended.is_none_or(|ended| ended > from);
            line.push(if self.courses().any(|(_, course)| is_busy(course)) { '#' } else { '.' });
            from = to;
        }
        line
    }
}

impl Display for CheckpointStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (triggered, in_progress, completed, failed) =
            (self.triggered, self.in_progress(), self.completed, self.failed);
        write!(
            f,
            "checkpoints: {triggered} triggered, {in_progress} in progress, {completed} completed, {failed} failed"
        )?;
        if let Some(durations) = self.durations() {
            let [shortest, mean, longest] = durations.map(|duration| duration.as_secs_f64() * 1e3);
            write!(f, "; {shortest:.1} / {mean:.1} / {longest:.1} ms (shortest, mean, longest)")?;
        }
        if self.completed > 1 {
            write!(f, "; {:.1} s between two at most", self.longest_gap.as_secs_f64())?;
        }
        write!(f, "; under way {:.0} % of the time", 100.0 * self.busy_share())?;
        self.advice().map_or(Ok(()), |advice| write!(f, "\n{advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AttemptId, Execution, LeaderEpoch};

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn triggered(id: u64) -> Event {
        let attempt = AttemptId { leader: LeaderEpoch(1), execution: Execution(1) };
        Event::CheckpointTriggered { checkpoint: CheckpointId(id), attempt }
    }

    fn completed(id: u64) -> Event {
        Event::CheckpointCompleted { checkpoint: CheckpointId(id), sequence: id }
    }

    fn aborted(id: u64) -> Event {
        Event::CheckpointAborted { checkpoint: CheckpointId(id), reason: "declined".into() }
    }

    fn chosen(id: Option<u64>) -> Event {
        let (job, attempt) = ("job".to_string(), AttemptId { leader: LeaderEpoch(2), execution: Execution(1) });
        Event::RestoreChosen { job, checkpoint: id.map(CheckpointId), newest: None, replay_to: None, attempt }
    }

    /// R124: every checkpoint that was triggered is in progress, completed or failed, at every moment, also over a change of leaders that
    /// nobody announced; the last ten are remembered. R121: the part that succeeded, and the longest time between two that did.
    #[test]
    fn checkpoints_are_counted() {
        let mut statistics = CheckpointStatistics::default();
        let story = [
            (0, chosen(None)),
            (100, triggered(1)),
            (140, completed(1)),
            (200, triggered(2)),
            (210, triggered(3)),
            (220, aborted(2)),
            (300, completed(3)),
            (400, triggered(4)),
            (410, triggered(5)),
            // The leader of 4 and 5 dies; 5 was in the log by then.
            (900, chosen(Some(5))),
            (1_000, triggered(6)),
        ];
        for (ms, event) in story {
            statistics.event(at(ms), &event);
            let CheckpointStatistics { triggered, completed, failed, .. } = statistics;
            assert_eq!(triggered, statistics.in_progress() + completed + failed, "at {ms} ms");
        }
        let CheckpointStatistics { triggered: all, completed: good, failed, restored, .. } = statistics;
        assert_eq!((all, statistics.in_progress(), good, failed, restored), (6, 1, 3, 2, 1));
        assert!((statistics.success_rate() - 0.6).abs() < 1e-9);
        assert_eq!(statistics.longest_gap(), at(600));
        assert_eq!(
            statistics.durations(),
            Some([at(40), at((40 + 90 + 490) / 3) + Duration::from_nanos(666_666), at(490)])
        );
        // 40, 100 and 500 ms of a second.
        assert!((statistics.busy_share() - 0.64).abs() < 1e-9, "{}", statistics.busy_share());
        for id in 7..30 {
            statistics.event(at(1_000 * id), &triggered(id));
            statistics.event(at(1_000 * id + 1), &completed(id));
        }
        let remembered: Vec<_> = statistics.courses().map(|(id, _)| id.0).collect();
        assert_eq!(remembered, (20..30).chain([6]).collect::<Vec<u64>>());
        let text = statistics.to_string();
        assert!(text.starts_with("checkpoints: 29 triggered, 1 in progress, 26 completed, 2 failed; 1.0 / "), "{text}");
    }

    /// R125: what passed before a subtask's snapshot began is its end-to-end time without the synchronous and the asynchronous part; the
    /// part of it that is alignment is told apart. A source has no barrier to wait for.
    #[test]
    fn the_start_delay_is_what_the_two_parts_leave() {
        let mut statistics = CheckpointStatistics::default();
        let (one, fold, read) = (CheckpointId(1), || "fold[0]".to_string(), || "read[0]".to_string());
        let story = [
            (100, triggered(1)),
            (103, Event::SnapshotSyncDone { subtask: read(), checkpoint: one }),
            (110, Event::AlignmentStarted { subtask: fold(), checkpoint: one }),
            (111, Event::SnapshotAsyncDone { subtask: read(), checkpoint: one }),
            (150, Event::AlignmentEnded { subtask: fold(), checkpoint: one }),
            (157, Event::SnapshotSyncDone { subtask: fold(), checkpoint: one }),
            (190, Event::SnapshotAsyncDone { subtask: fold(), checkpoint: one }),
            (192, completed(1)),
        ];
        for (ms, event) in story {
            statistics.event(at(ms), &event);
        }
        let (_, course) = statistics.courses().next().expect("remembered");
        assert_eq!((course.triggered, course.ended, course.completed), (at(100), Some(at(192)), true));
        let times = course.subtasks();
        assert_eq!(times.keys().copied().collect::<Vec<_>>(), ["fold[0]", "read[0]"]);
        let expected = |delay, alignment, synchronous, asynchronous, whole| {
            let [start_delay, alignment, synchronous, asynchronous, end_to_end] =
                [delay, alignment, synchronous, asynchronous, whole].map(at);
            SubtaskTimes { start_delay, alignment, synchronous, asynchronous, end_to_end }
        };
        assert_eq!(times["fold[0]"], expected(50, 40, 7, 33, 90));
        assert_eq!(times["read[0]"], expected(3, 0, 0, 8, 11));
        for SubtaskTimes { start_delay, synchronous, asynchronous, end_to_end, .. } in times.into_values() {
            assert_eq!(start_delay, end_to_end - synchronous - asynchronous);
        }
    }
}
