//! Checkpoints in numbers, in whole simulated clusters: what the journal tells of them is what was planned.

use std::time::Duration;

use runtime::{
    checkpoint::statistics::CheckpointStatistics,
    ids::CheckpointId,
    journal::{Event, EventKind},
};
use scenarios::plan::{FaultKind, FaultSpec, Plan, StoreOperation};
use weir_tests::tales::{Tale, Told, calm, fault, lasting, of_kind, tell, when};

const STORE: &str = "store";

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The figures as they stood behind the first event that `last` says yes to.
fn statistics_until(tale: &Tale, last: impl Fn(&Told) -> bool) -> CheckpointStatistics {
    let mut statistics = CheckpointStatistics::default();
    for told in &tale.events {
        statistics.event(at(told.at_ms), &told.event);
        if last(told) {
            break;
        }
    }
    statistics
}

fn completes(checkpoint: u64) -> impl Fn(&Told) -> bool {
    move |told| matches!(&told.event, Event::CheckpointCompleted { checkpoint: of, .. } if of.0 == checkpoint)
}

fn told(faults: Vec<FaultSpec>) -> Tale {
    let tale = tell(&Plan { faults, ..calm() });
    tale.ends_well();
    tale
}

/// R127: a channel delivers nothing for 400 ms from the moment in which a barrier goes into it. So long the subtask behind it aligns, and
/// no other does.
/// R125: in every subtask the start delay is what synchronous and asynchronous part leave of the whole; the alignment is a part of it.
#[test]
fn a_late_barrier_shows_where_the_time_went() {
    let held = when(EventKind::BarrierSent, "audit-source[0]->fold[1]", 4);
    let tale = told(vec![lasting(400, "entity", held, FaultKind::HoldChannel {})]);
    let statistics = statistics_until(&tale, completes(4));
    let mut seen = 0;
    for (checkpoint, course) in statistics.courses() {
        for (subtask, times) in course.subtasks() {
            let parts = times.synchronous + times.asynchronous;
            assert_eq!(times.start_delay, times.end_to_end - parts, "{subtask} at {checkpoint}");
            assert!(times.alignment <= times.start_delay, "{subtask} at {checkpoint}: {times:?}");
            let is_late = checkpoint == CheckpointId(4) && subtask == "fold[1]";
            let bounds = if is_late { at(380)..at(440) } else { at(0)..at(50) };
            assert!(bounds.contains(&times.alignment), "{subtask} at {checkpoint}: {times:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 4 * 6, "three sources and three folds");
}

/// R128: with one input channel there is nothing to align, ever.
#[test]
fn one_channel_needs_no_alignment() {
    let mut plan = calm();
    plan.workload.parallelism = 1;
    let tale = tell(&plan);
    tale.ends_well();
    let statistics = statistics_until(&tale, completes(9));
    let folds = statistics.courses().filter_map(|(_, course)| course.subtasks().get("fold[0]").copied());
    let alignments: Vec<Duration> = folds.map(|times| times.alignment).collect();
    assert_eq!(alignments, [Duration::ZERO; 9]);
}

/// R121: the store refuses everything for a while. How many checkpoints succeeded and the longest time between two is measured, and soon
/// after the store is back one is complete.
/// R124: at every moment those that were triggered are in progress, completed or failed.
#[test]
fn checkpoints_complete_soon_after_an_outage() {
    let outage = 1_500;
    let begins = when(EventKind::CheckpointCompleted, "3", 1);
    let tale = told(vec![lasting(outage, STORE, begins, FaultKind::StoreOutage {})]);
    let mut statistics = CheckpointStatistics::default();
    for told in &tale.events {
        statistics.event(at(told.at_ms), &told.event);
        let ended = statistics.completed + statistics.failed;
        assert_eq!(statistics.triggered, statistics.in_progress() + ended, "{}", told.event);
    }
    let third = tale.first("checkpoint 3 is complete", &[EventKind::CheckpointCompleted], completes(3));
    let next = tale.first_after(third + 1, "another one is complete", &[], of_kind(EventKind::CheckpointCompleted));
    let gap = tale.events[next].at_ms - tale.events[third].at_ms;
    let bound = outage + tale.plan.settings.checkpoint_timeout_ms;
    assert!((outage..bound).contains(&gap), "{gap} ms");
    assert_eq!(statistics.longest_gap(), at(gap), "{statistics}");
    assert!(statistics.success_rate() > 0.8 && statistics.completed >= 10, "{statistics}");
    let calm = statistics_until(&told(vec![]), |_| false);
    assert!((calm.success_rate() - 1.0).abs() < 1e-9 && calm.longest_gap() < at(1_000), "{calm}");
}

/// R171: an external system is slow for a while, the one that the output goes to. Nothing fails, nothing restarts, no checkpoint expires;
/// they take longer as long as it lasts, and afterwards as long as ever.
#[test]
fn a_slow_sink_is_no_failure() {
    let (operation, name_contains) = (StoreOperation::Create, "output/".to_string());
    let slow = FaultKind::StoreSlow { operation, name_contains, delay_ms: 300, count: 20 };
    let tale = told(vec![fault(STORE, when(EventKind::CheckpointTriggered, "4", 1), slow)]);
    for kind in [EventKind::CheckpointExpired, EventKind::CheckpointAborted, EventKind::TaskManagerLost] {
        assert_eq!(tale.count(of_kind(kind)), 0, "{}", tale.lines(&[kind]));
    }
    assert_eq!(tale.count(of_kind(EventKind::RestoreChosen)), 1, "nothing restarts");
    let longest = |statistics: &CheckpointStatistics, from: u64| {
        let of_these = statistics.courses().filter(|(checkpoint, course)| checkpoint.0 >= from && course.completed);
        let took = of_these.filter_map(|(_, course)| Some(course.ended? - course.triggered));
        took.max().expect("there were some")
    };
    let during = longest(&statistics_until(&tale, completes(5)), 4);
    let afterwards = longest(&statistics_until(&tale, |_| false), 13);
    assert!(during >= at(300) && afterwards < at(200), "{during:?}, then {afterwards:?}");
}
