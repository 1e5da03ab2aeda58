//! What a subtask says of its restore: how many bytes came from where, why a local copy was not used, and how long each step
//! took. And what the JobManager makes of it: the phases of one recovery, end to end, so that they sum to the whole.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::local_copy::NotLocal;
use crate::{
    ids::{AttemptId, CheckpointId},
    journal::Event,
    platform::Mono,
};

/// Where the bytes of a part were taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartOrigin {
    /// The local copy of the subtask itself.
    OwnCopy,
    /// The local copy of another subtask, or of another slot, of this TaskManager.
    OtherCopy,
    /// Primary storage, and why no local copy.
    Primary(NotLocal),
    /// It came with the order to restore it.
    Inline,
}

/// One part of a restored state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    pub part: String,
    pub bytes: u64,
    pub origin: PartOrigin,
}

/// The restore of one subtask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// None: it began without state.
    pub checkpoint: Option<CheckpointId>,
    pub parts: Vec<PartReport>,
    /// From the deployment until all parts were there: "download".
    pub read: Duration,
    /// Until the operators had taken them in.
    pub open: Duration,
    /// Until all channels were connected.
    pub connect: Duration,
}

impl RestoreReport {
    fn sum(&self, of: impl Fn(&PartOrigin) -> bool) -> u64 {
        self.parts.iter().filter(|part| of(&part.origin)).map(|part| part.bytes).sum()
    }

    pub fn local_bytes(&self) -> u64 {
        self.sum(|origin| matches!(origin, PartOrigin::OwnCopy | PartOrigin::OtherCopy))
    }

    pub fn primary_bytes(&self) -> u64 {
        self.sum(|origin| matches!(origin, PartOrigin::Primary(_)))
    }

    /// Bytes that travelled with the deployment.
    pub fn inline_bytes(&self) -> u64 {
        self.sum(|origin| matches!(origin, PartOrigin::Inline))
    }

    /// Why parts were read from primary, with their bytes.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for part in &self.parts {
            if let PartOrigin::Primary(reason) = &part.origin {
                *reasons.entry(reason.to_string()).or_default() += part.bytes;
            }
        }
        reasons
    }
}

/// A step of a recovery. In their order, each begins where the one before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecoveryPhase {
    /// From the last sign of life of what failed until the JobManager noticed its silence; nothing, where the failure was told or a
    /// connection broke.
    Detect,
    /// Until no task of the old execution ran any more.
    Cancel,
    /// The restart strategy's delay.
    Delay,
    /// Until it was decided which checkpoint to restore.
    Choose,
    /// Until there were slots, and the tasks were deployed.
    Schedule,
    /// Until the last subtask had its state: "download".
    Read,
    /// Until it had taken it in.
    Open,
    /// Until all subtasks were connected and ran.
    Connect,
    /// Until the new execution had completed a checkpoint, and what was lost was made good.
    CatchUp,
}

impl RecoveryPhase {
    pub const ALL: [RecoveryPhase; 9] = [
        RecoveryPhase::Detect,
        RecoveryPhase::Cancel,
        RecoveryPhase::Delay,
        RecoveryPhase::Choose,
        RecoveryPhase::Schedule,
        RecoveryPhase::Read,
        RecoveryPhase::Open,
        RecoveryPhase::Connect,
        RecoveryPhase::CatchUp,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RecoveryPhase::Detect => "detect",
            RecoveryPhase::Cancel => "cancel",
            RecoveryPhase::Delay => "delay",
            RecoveryPhase::Choose => "choose",
            RecoveryPhase::Schedule => "schedule",
            RecoveryPhase::Read => "read",
            RecoveryPhase::Open => "open",
            RecoveryPhase::Connect => "connect",
            RecoveryPhase::CatchUp => "catch up",
        }
    }
}

/// One recovery of a job: from a failure to the first checkpoint of the execution that made it good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryReport {
    pub attempt: AttemptId,
    /// What was restored; None: the job began anew.
    pub checkpoint: Option<CheckpointId>,
    /// What failed.
    pub cause: String,
    /// Executions that failed on the way.
    pub failed_attempts: u32,
    pub subtasks: u32,
    pub local_bytes: u64,
    pub primary_bytes: u64,
    pub inline_bytes: u64,
    /// Why bytes were read from primary.
    pub reasons: BTreeMap<String, u64>,
    /// Microseconds of each phase, in the order of [`RecoveryPhase::ALL`].
    pub phases_us: [u64; 9],
}

impl RecoveryReport {
    /// From the last sign of life of what failed to the end of the recovery.
    pub fn whole(&self) -> Duration {
        Duration::from_micros(self.phases_us.iter().sum())
    }

    pub fn phase(&self, phase: RecoveryPhase) -> Duration {
        Duration::from_micros(self.phases_us[phase as usize])
    }

    /// For the journal.
    pub fn event(self, job: &str) -> Event {
        let whole_us = u64::try_from(self.whole().as_micros()).unwrap_or(u64::MAX);
        let [detect_us, cancel_us, delay_us, choose_us, schedule_us, read_us, open_us, connect_us, catch_up_us] =
            self.phases_us;
        Event::RecoveryFinished {
            job: job.to_string(),
            attempt: self.attempt,
            checkpoint: self.checkpoint,
            cause: self.cause,
            failed_attempts: self.failed_attempts,
            subtasks: self.subtasks,
            local_bytes: self.local_bytes,
            primary_bytes: self.primary_bytes,
            inline_bytes: self.inline_bytes,
            not_local: self.reasons.into_iter().collect(),
            whole_us,
            detect_us,
            cancel_us,
            delay_us,
            choose_us,
            schedule_us,
            read_us,
            open_us,
            connect_us,
            catch_up_us,
        }
    }

    /// From the journal; None for other events.
    pub fn of_event(event: &Event) -> Option<RecoveryReport> {
        let Event::RecoveryFinished {
            job: _,
            attempt,
            checkpoint,
            cause,
            failed_attempts,
            subtasks,
            local_bytes,
            primary_bytes,
            inline_bytes,
            not_local,
            whole_us: _,
            detect_us,
            cancel_us,
            delay_us,
            choose_us,
            schedule_us,
            read_us,
            open_us,
            connect_us,
            catch_up_us,
        } = event
        else {
            return None;
        };
        let phases_us = [
            *detect_us,
            *cancel_us,
            *delay_us,
            *choose_us,
            *schedule_us,
            *read_us,
            *open_us,
            *connect_us,
            *catch_up_us,
        ];
        Some(RecoveryReport {
            attempt: *attempt,
            checkpoint: *checkpoint,
            cause: cause.clone(),
            failed_attempts: *failed_attempts,
            subtasks: *subtasks,
            local_bytes: *local_bytes,
            primary_bytes: *primary_bytes,
            inline_bytes: *inline_bytes,
            reasons: not_local.iter().cloned().collect(),
            phases_us,
        })
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_micros() as f64 / 1000.0;
        match self.checkpoint {
            Some(checkpoint) => write!(f, "recovered from checkpoint {checkpoint}")?,
            None => f.write_str("recovered from nothing")?,
        }
        write!(
            f,
            " in {:.1} ms: {} bytes from local copies, {} from primary storage",
            ms(self.whole()),
            self.local_bytes,
            self.primary_bytes
        )?;
        let phases = RecoveryPhase::ALL.iter().filter(|phase| self.phase(**phase) > Duration::ZERO);
        let shown: Vec<String> = phases.map(|p| format!("{} {:.1}", p.name(), ms(self.phase(*p)))).collect();
        write!(f, " ({})", shown.join(", "))?;
        for (reason, bytes) in &self.reasons {
            write!(f, "; {bytes} bytes not local: {reason}")?;
        }
        Ok(())
    }
}

/// Takes the time of one recovery as it goes. Pure: it is told the time.
#[derive(Clone, Debug)]
pub struct RecoveryWatch {
    report: RecoveryReport,
    /// Up to here the phases are settled.
    at: Mono,
    deployed: Option<Mono>,
}

impl RecoveryWatch {
    /// A failure was noticed at `now`; `heard`: the last sign of life before it, of whatever failed.
    pub fn begin(cause: &str, heard: Mono, now: Mono) -> RecoveryWatch {
        let report = RecoveryReport { cause: cause.to_string(), ..RecoveryReport::default() };
        let mut watch = RecoveryWatch { report, at: heard.min(now), deployed: None };
        watch.ends(RecoveryPhase::Detect, now);
        watch
    }

    /// What is between the last phase and `now` belongs to `phase`.
    pub fn ends(&mut self, phase: RecoveryPhase, now: Mono) {
        let passed = now.since(self.at).as_micros();
        self.report.phases_us[phase as usize] += u64::try_from(passed).unwrap_or(u64::MAX);
        self.at = self.at.max(now);
    }

    /// The execution that was to make it good has failed too. What it took counts for the phases it was in.
    pub fn failed_again(&mut self, now: Mono) {
        let phase = if self.deployed.take().is_some() { RecoveryPhase::Read } else { RecoveryPhase::Schedule };
        self.ends(phase, now);
        self.report.failed_attempts += 1;
    }

    /// The tasks of `attempt` are deployed.
    pub fn deployed(&mut self, attempt: AttemptId, checkpoint: Option<CheckpointId>, now: Mono) {
        self.ends(RecoveryPhase::Schedule, now);
        self.deployed = Some(now);
        let RecoveryReport { cause, failed_attempts, phases_us, .. } = std::mem::take(&mut self.report);
        self.report =
            RecoveryReport { attempt, checkpoint, cause, failed_attempts, phases_us, ..RecoveryReport::default() };
    }

    /// A subtask runs.
    pub fn subtask(&mut self, restored: &RestoreReport) {
        let report = &mut self.report;
        report.subtasks += 1;
        report.local_bytes += restored.local_bytes();
        report.primary_bytes += restored.primary_bytes();
        report.inline_bytes += restored.inline_bytes();
        for (reason, bytes) in restored.reasons() {
            *report.reasons.entry(reason).or_default() += bytes;
        }
    }

    /// All subtasks run; `last`: the restore of the one that was awaited longest, whose steps are those of the recovery.
    pub fn all_run(&mut self, last: &RestoreReport, now: Mono) {
        let Some(deployed) = self.deployed else { return };
        let whole = now.since(deployed);
        // The report's clock is another machine's: its steps are cut to what is there, and the rest is the way.
        let connect = last.connect.min(whole);
        let open = last.open.min(whole - connect);
        let read = whole - connect - open;
        self.ends(RecoveryPhase::Read, deployed + read);
        self.ends(RecoveryPhase::Open, deployed + read + open);
        self.ends(RecoveryPhase::Connect, now);
    }

    /// The execution has completed a checkpoint.
    pub fn finish(mut self, now: Mono) -> RecoveryReport {
        self.ends(RecoveryPhase::CatchUp, now);
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::default() + Duration::from_millis(ms)
    }

    fn restored(local: u64, primary: u64, steps_ms: [u64; 3]) -> RestoreReport {
        let part = |bytes, origin| PartReport { part: "p".into(), bytes, origin };
        let [read, open, connect] = steps_ms.map(Duration::from_millis);
        RestoreReport {
            checkpoint: Some(CheckpointId(4)),
            parts: vec![
                part(local, PartOrigin::OwnCopy),
                part(primary, PartOrigin::Primary(NotLocal::Checksum)),
                part(3, PartOrigin::Inline),
            ],
            read,
            open,
            connect,
        }
    }

    /// R25: the phases of a recovery sum to the whole, also where a part of it had to be done twice.
    #[test]
    fn the_phases_sum_to_the_whole() {
        let mut watch = RecoveryWatch::begin("tm-1 lost", at(1_000), at(6_000));
        watch.ends(RecoveryPhase::Cancel, at(6_100));
        watch.ends(RecoveryPhase::Delay, at(7_100));
        watch.ends(RecoveryPhase::Choose, at(7_150));
        watch.deployed(AttemptId::default(), Some(CheckpointId(4)), at(7_200));
        watch.subtask(&restored(1, 1, [1, 1, 1]));
        watch.failed_again(at(7_300));
        watch.ends(RecoveryPhase::Cancel, at(7_310));
        watch.deployed(AttemptId::default(), Some(CheckpointId(4)), at(7_400));
        watch.subtask(&restored(100, 20, [50, 10, 30]));
        watch.subtask(&restored(50, 0, [70, 20, 5]));
        watch.all_run(&restored(50, 0, [70, 20, 5]), at(7_500));
        let report = watch.finish(at(9_000));
        assert_eq!(report.whole(), Duration::from_millis(8_000));
        assert_eq!(report.phase(RecoveryPhase::Detect), Duration::from_millis(5_000));
        assert_eq!(report.phase(RecoveryPhase::Cancel), Duration::from_millis(110));
        assert_eq!(report.phase(RecoveryPhase::Read), Duration::from_millis(100 + 75));
        assert_eq!(report.phase(RecoveryPhase::Open), Duration::from_millis(20));
        assert_eq!(report.phase(RecoveryPhase::CatchUp), Duration::from_millis(1_500));
        assert_eq!((report.local_bytes, report.primary_bytes, report.inline_bytes), (150, 20, 6));
        assert_eq!((report.subtasks, report.failed_attempts), (2, 1));
        assert_eq!(report.reasons, BTreeMap::from([("its checksum is wrong".to_string(), 20)]));
        assert_eq!(RecoveryReport::of_event(&report.clone().event("job")).as_ref(), Some(&report));
        let text = report.to_string();
        assert!(text.contains("checkpoint 4 in 8000.0 ms") && text.contains("its checksum is wrong"), "{text}");
    }

    /// A step that another clock measured longer than all of it was cannot make a phase negative, nor the sum wrong.
    #[test]
    fn steps_of_a_fast_clock_are_cut() {
        let mut watch = RecoveryWatch::begin("x", at(10), at(10));
        watch.deployed(AttemptId::default(), None, at(20));
        watch.all_run(&restored(0, 0, [500, 500, 40]), at(70));
        let report = watch.finish(at(80));
        assert_eq!(report.whole(), Duration::from_millis(70));
        assert_eq!(report.phase(RecoveryPhase::Connect), Duration::from_millis(40));
        assert_eq!(report.phase(RecoveryPhase::Open), Duration::from_millis(10));
    }
}
