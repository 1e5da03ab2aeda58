//! When checkpoints begin, to the millisecond: interval, pause, room, and savepoints in between.

use super::*;
use crate::checkpoint::statistics::CheckpointStatistics;

const LAST: u64 = 600;

/// Begins a checkpoint when the coordinator says so, completes each so long after its trigger, and gives what the journal told of it.
fn played(config: CoordinatorConfig, takes: Duration) -> CheckpointStatistics {
    let mut cluster = running(config);
    let mut statistics = CheckpointStatistics::default();
    let mut begun: BTreeMap<CheckpointId, Mono> = BTreeMap::new();
    for ms in 1..LAST {
        cluster.now = Mono(0) + Duration::from_millis(ms);
        let mut told = cluster.send(Input::Tick);
        if cluster.ids_wanted {
            told.extend(cluster.grant());
        }
        let due = begun.iter().find(|(id, at)| cluster.open.contains_key(*id) && cluster.now >= **at + takes);
        if let Some(id) = due.map(|(id, _)| *id) {
            cluster.ack_all(id);
            told.extend(cluster.metadata(true));
            told.extend(cluster.append(true));
            told.extend(cluster.commit());
        }
        for command in told {
            if let Command::Trigger { checkpoint, .. } = &command {
                begun.insert(*checkpoint, cluster.now);
            }
            if let Command::Journal(event) = &command {
                statistics.event(Duration::from_millis(ms), event);
            }
        }
    }
    cluster.check_nothing_leaks();
    statistics
}

/// From and to, in milliseconds.
fn spans(statistics: &CheckpointStatistics) -> Vec<(u128, Option<u128>)> {
    statistics.courses().map(|(_, c)| (c.triggered.as_millis(), c.ended.map(|ended| ended.as_millis()))).collect()
}

/// R137: the figure 'checkpoint_tuning', drawn from three runs, a sign for each 20 ms.
/// R130, R131, R132: triggered at the interval, to the millisecond. Who takes longer lets the next one wait, which then starts at once, and
/// only then: never are two under way. A minimum pause puts it off.
/// R133: the share of time with a checkpoint under way comes near to all of it, and it is said what to do; in no other case.
#[test]
fn the_figure_of_checkpoint_tuning() {
    let without_pause = CoordinatorConfig { min_pause: Duration::ZERO, ..config() };
    let with_pause = CoordinatorConfig { min_pause: 60 * MS, ..config() };
    let regular = played(without_pause.clone(), 40 * MS);
    let degraded = played(without_pause, 130 * MS);
    let guaranteed = played(with_pause, 130 * MS);
    let ended = |spans: &[(u128, u128)]| spans.iter().map(|(from, to)| (*from, Some(*to))).collect::<Vec<_>>();
    assert_eq!(spans(&regular), ended(&[(100, 140), (200, 240), (300, 340), (400, 440), (500, 540)]));
    assert_eq!(spans(&degraded), [ended(&[(100, 230), (230, 360), (360, 490)]), vec![(490, None)]].concat());
    assert_eq!(spans(&guaranteed), [ended(&[(100, 230), (290, 420)]), vec![(480, None)]].concat());
    let figure = [&regular, &degraded, &guaranteed].map(|s| s.time_line(20 * MS, Duration::from_millis(LAST)));
    assert_eq!(
        figure,
        [".....##...##...##...##...##...", ".....#########################", ".....#######..#######...######"]
    );
    let [calm, busy, pausing] = [&regular, &degraded, &guaranteed].map(CheckpointStatistics::busy_share);
    // Time is counted from the first trigger to the last word.
    assert!(calm < 0.5 && busy > 0.99 && pausing < 0.8, "{calm}, {busy}, {pausing}");
    assert!(regular.advice().is_none() && guaranteed.advice().is_none());
    let advice = degraded.advice().expect("it keeps taking too long");
    assert!(advice.contains("execution.checkpointing.min-pause"), "{advice}");
    assert_eq!(degraded.to_string().matches(advice).count(), 1);
}

/// R136: the pause counts from what has succeeded last, a savepoint included. What has failed begins none.
#[test]
fn only_a_success_begins_the_pause() {
    let mut cluster = running(CoordinatorConfig { min_pause: 80 * MS, ..config() });
    let next_at = |cluster: &mut Cluster, ms: u64| {
        let until = Mono(0) + Duration::from_millis(ms - 1);
        cluster.wait(until - cluster.now);
        assert!(cluster.open.is_empty(), "before {ms} ms: {:?}", cluster.open);
        cluster.wait(MS);
        cluster.only_open()
    };
    next_at(&mut cluster, 100);
    cluster.wait(70 * MS);
    cluster.complete_one();
    let declined = next_at(&mut cluster, 170 + 80);
    cluster.wait(70 * MS);
    cluster.send(Input::Decline { subtask: subtasks()[0], checkpoint: declined, reason: "no".into() });
    // The interval is all there is to wait for.
    next_at(&mut cluster, 350);
    cluster.wait(10 * MS);
    cluster.complete_one();
    cluster.wait(70 * MS);
    cluster.savepoint(false);
    cluster.complete_one();
    next_at(&mut cluster, 430 + 80);
    cluster.check_nothing_leaks();
}

/// R138: as many as configured are under way at once, and never more, however slow they are; when one ends, the next begins at once.
#[test]
fn as_many_are_under_way_as_configured() {
    for max_concurrent in [1, 2, 5] {
        let timeout = Duration::from_secs(60);
        let mut cluster = running(CoordinatorConfig { max_concurrent, min_pause: Duration::ZERO, timeout, ..config() });
        for due in 1..=7_usize {
            cluster.wait(100 * MS);
            assert_eq!(cluster.open.len(), due.min(max_concurrent as usize));
        }
        let oldest = *cluster.open.keys().next().expect("under way");
        cluster.ack_all(oldest);
        assert_eq!(cluster.open.len(), max_concurrent as usize, "it is under way until it is durable");
        cluster.metadata(true);
        cluster.append(true);
        assert!(cluster.completed.contains(&oldest));
        assert_eq!(cluster.open.len(), max_concurrent as usize, "the next one took its place");
        cluster.commit();
        cluster.check_nothing_leaks();
    }
}

/// R140: a savepoint is asked for at each step of a checkpoint, and a checkpoint becomes due at each step of a savepoint: both complete.
#[test]
fn a_savepoint_and_a_checkpoint_cross_at_every_step() {
    /// The steps from `from` on, up to `to`.
    fn advance(cluster: &mut Cluster, id: CheckpointId, steps: std::ops::Range<u32>) {
        for step in steps {
            match step {
                0 => drop(cluster.ack(id, subtasks()[0], cluster.attempt())),
                1 => {
                    for subtask in &subtasks()[1..] {
                        cluster.ack(id, *subtask, cluster.attempt());
                    }
                }
                2 => drop(cluster.metadata(true)),
                3 => drop(cluster.append(true)),
                _ => drop(cluster.commit()),
            }
        }
    }
    for savepoint_first in [true, false] {
        for step in 0..=5 {
            let mut cluster = running(CoordinatorConfig { max_concurrent: 2, retained: 2, ..config() });
            let savepoint: &dyn Fn(&mut Cluster) = &|cluster| drop(cluster.savepoint(false));
            let checkpoint: &dyn Fn(&mut Cluster) = &|cluster| cluster.wait(100 * MS);
            let (first, second) = if savepoint_first { (savepoint, checkpoint) } else { (checkpoint, savepoint) };
            first(&mut cluster);
            advance(&mut cluster, CheckpointId(1), 0..step);
            second(&mut cluster);
            assert!(cluster.open.contains_key(&CheckpointId(2)), "step {step}: {:?}", cluster.open);
            advance(&mut cluster, CheckpointId(1), step..5);
            advance(&mut cluster, CheckpointId(2), 0..5);
            assert!(cluster.aborted.is_empty(), "step {step}: {:?}", cluster.aborted);
            assert_eq!(cluster.completed, BTreeSet::from([CheckpointId(1), CheckpointId(2)]), "step {step}");
            assert_eq!((cluster.durable_savepoints.len(), cluster.head.retained.len()), (1, 2), "step {step}");
            cluster.check_nothing_leaks();
        }
    }
}
