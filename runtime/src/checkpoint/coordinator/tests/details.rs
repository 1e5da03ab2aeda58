//! Small print: who is listened to, what is remembered and for how long, and what people are told.

use super::*;
use crate::{checkpoint::coordinator::REMEMBERED, points::Points};

fn passed(points: &Points) -> Vec<Point> {
    points.passed().collect()
}

fn decline(cluster: &mut Cluster, checkpoint: CheckpointId) -> Vec<CoordinatorCommand> {
    cluster.send(Input::Decline { subtask: subtasks()[1], checkpoint, reason: "disk full".into() })
}

#[test]
fn the_execution_that_is_checkpointed_is_known() {
    let mut cluster = Cluster::new(config(), HeadState::default());
    assert_eq!(cluster.coordinator.running(), None);
    cluster.start();
    assert_eq!(cluster.coordinator.running(), Some(cluster.attempt()));
    cluster.stop();
    assert_eq!(cluster.coordinator.running(), None);
}

#[test]
fn a_decline_is_told_by_name_and_passes_the_points_that_fit_it() {
    let told = |acks: usize| {
        let mut cluster = running(config());
        cluster.wait(100 * MS);
        let one = cluster.only_open();
        for subtask in subtasks().into_iter().rev().take(acks) {
            cluster.ack(one, subtask, cluster.attempt());
        }
        cluster.coordinator.take_points();
        let out = decline(&mut cluster, one);
        (out, passed(&cluster.coordinator.take_points()))
    };
    let (out, points) = told(0);
    let name = format!("task{}", subtasks()[1]);
    let event = Event::CheckpointDeclined { subtask: name, checkpoint: CheckpointId(1), reason: "disk full".into() };
    assert_eq!(out[0], Command::Journal(event));
    assert_eq!(points, [Point::DeclinedDuringAlignment]);
    assert_eq!(told(1).1, [Point::DeclinedWithAcks, Point::DeclinedDuringAlignment]);
    // All others have acknowledged: nobody aligns any more.
    assert_eq!(told(subtasks().len() - 1).1, [Point::DeclinedWithAcks]);
    // Points are given once.
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    decline(&mut cluster, CheckpointId(1));
    assert!(!cluster.coordinator.take_points().is_empty());
    assert!(cluster.coordinator.take_points().is_empty());
}

#[test]
fn a_wish_that_cannot_be_met_is_answered() {
    let mut cluster = Cluster::new(config(), HeadState::default());
    let skipped =
        |reason: &str| Command::Journal(Event::CheckpointSkipped { job: "job".into(), reason: reason.into() });
    assert_eq!(cluster.send(Input::TriggerNow), [skipped("not all subtasks run")]);
    cluster.start();
    assert!(cluster.ids_wanted);
    cluster.ids_wanted = false;
    assert_eq!(
        cluster.send(Input::IdsUnavailable { reason: "store is down".into() }),
        [skipped("no checkpoint ids: store is down")]
    );
    // It asks again, but not at once.
    cluster.now = cluster.now + (RETRY_PAUSE - MS);
    cluster.coordinator.handle(Input::Tick, cluster.now);
    assert!(!cluster.ids_wanted);
    cluster.wait(MS);
    assert!(cluster.ids_wanted);
}

#[test]
fn a_block_of_ids_that_repeats_used_ones_is_ignored() {
    let mut cluster = running(config());
    let first = cluster.coordinator.first_unused_id();
    for (from, to) in [(1, 500), (first.0, 3), (4_000, 3_999)] {
        let (from, to) = (CheckpointId(from), CheckpointId(to));
        cluster.coordinator.handle(Input::IdsGranted { from, to }, cluster.now);
        assert_eq!(cluster.coordinator.first_unused_id(), first, "{from} to {to}");
    }
    // One that goes on where the last ended, and one of a single id, are taken.
    let next = cluster.head.granted.next();
    cluster.coordinator.handle(Input::IdsGranted { from: next, to: next }, cluster.now);
    assert_eq!(cluster.coordinator.first_unused_id(), next);
}

/// While ids are asked for a tick is of no use. When there are none, it is of use when one may ask again and a checkpoint is due,
/// whichever comes later.
#[test]
fn without_ids_one_waits_until_they_can_be_had() {
    for (interval, expected) in [(100, 140), (400, 400)] {
        let mut cluster = Cluster::new(CoordinatorConfig { interval: interval * MS, ..config() }, HeadState::default());
        cluster.start();
        assert!(std::mem::take(&mut cluster.ids_wanted));
        assert_eq!(cluster.coordinator.next_deadline(), None);
        cluster.now = cluster.now + 40 * MS;
        cluster.send(Input::IdsUnavailable { reason: "store is down".into() });
        assert_eq!(cluster.coordinator.next_deadline(), Some(Mono(0) + expected * MS), "every {interval} ms");
    }
}

/// That there is no room is said once for each checkpoint that is put off.
#[test]
fn a_checkpoint_that_is_put_off_is_mentioned_once() {
    let mut cluster = running(config());
    let ticks = |cluster: &mut Cluster, milliseconds: u32| {
        cluster.now = cluster.now + milliseconds * MS;
        kinds(&cluster.send(Input::Tick))
    };
    cluster.wait(100 * MS);
    assert_eq!(ticks(&mut cluster, 100), ["CheckpointSkipped"]);
    assert_eq!(ticks(&mut cluster, 100), Vec::<String>::new());
    cluster.complete_one();
    cluster.wait(30 * MS);
    assert_eq!(cluster.only_open(), CheckpointId(2), "it is made up for");
    assert_eq!(ticks(&mut cluster, 100), ["CheckpointSkipped"]);
}

/// A block is used to its last id; the next one is asked for then, and not before.
#[test]
fn a_block_of_ids_is_used_to_its_end() {
    let timeout = Duration::from_secs(60);
    let mut cluster =
        running(CoordinatorConfig { max_concurrent: 100, min_pause: Duration::ZERO, timeout, ..config() });
    let (first, last) = (cluster.coordinator.first_unused_id(), cluster.head.granted);
    assert!(first < last);
    for id in first.0..=last.0 {
        assert!(!cluster.ids_wanted, "{id} is not used");
        cluster.wait(100 * MS);
        assert!(cluster.open.contains_key(&CheckpointId(id)), "{id}");
    }
    assert!(cluster.ids_wanted);
}

/// Acknowledgements of another execution and of strangers are not counted: what they bring is removed.
#[test]
fn nobody_else_can_complete_a_checkpoint() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    let stranger = SubtaskId { vertex: VertexId(9), index: 0 };
    let other = AttemptId { execution: Execution(7), ..cluster.attempt() };
    let discarded = ["LateAckDiscarded", "Discard", "CheckpointDiscarded"];
    let offer = |cluster: &mut Cluster, subtask, attempt| {
        let ack = cluster.make_ack(one, subtask, attempt);
        kinds(&cluster.send(Input::Ack(Box::new(ack))))
    };
    let attempt = cluster.attempt();
    assert_eq!(offer(&mut cluster, stranger, attempt), discarded);
    assert_eq!(offer(&mut cluster, subtasks()[0], other), discarded);
    for subtask in subtasks() {
        cluster.ack(one, subtask, attempt);
    }
    // The same while it is being made durable; and a repetition of one that was counted does nothing at all.
    assert_eq!(offer(&mut cluster, stranger, other), discarded);
    assert_eq!(offer(&mut cluster, subtasks()[1], other), discarded);
    let counted = cluster.acks[0].clone();
    assert_eq!(cluster.send(Input::Ack(Box::new(counted))), []);
    cluster.metadata(true);
    cluster.append(true);
    cluster.commit();
    assert_eq!(cluster.head.newest, Some(one));
    cluster.check_nothing_leaks();
}

/// A late acknowledgement may name what others consist of: that stays, whoever they are.
#[test]
fn a_late_acknowledgement_takes_nothing_from_others() {
    let late = |cluster: &mut Cluster, of: &CheckpointAck| {
        let attempt = AttemptId { execution: Execution(9), ..cluster.attempt() };
        let ack = CheckpointAck { attempt, ..of.clone() };
        kinds(&cluster.send(Input::Ack(Box::new(ack))))
    };
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    let (first, attempt) = (subtasks()[0], cluster.attempt());
    // Pending, …
    cluster.ack(one, first, attempt);
    let acked = cluster.acks[0].clone();
    assert_eq!(late(&mut cluster, &acked), ["LateAckDiscarded"]);
    // … being made durable, …
    for subtask in &subtasks()[1..] {
        cluster.ack(one, *subtask, attempt);
    }
    let second = cluster.acks[1].clone();
    assert_eq!(late(&mut cluster, &second), ["LateAckDiscarded"]);
    cluster.metadata(true);
    cluster.append(true);
    cluster.commit();
    // … and retained, claimed by a checkpoint that nobody knows.
    let foreign = CheckpointAck { checkpoint: CheckpointId(77), ..acked };
    assert_eq!(late(&mut cluster, &foreign), ["LateAckDiscarded"]);
    cluster.check_nothing_leaks();
}

/// So many outcomes are remembered, to the last: a repetition of an older one is taken for a stranger's.
#[test]
fn outcomes_are_remembered_for_a_while() {
    let mut cluster = running(config());
    let stranger = SubtaskId { vertex: VertexId(9), index: 0 };
    let attempt = cluster.attempt();
    let hear = |cluster: &mut Cluster, checkpoint: u64| {
        let ack = cluster.make_ack(CheckpointId(checkpoint), stranger, attempt);
        let out = cluster.coordinator.handle(Input::Ack(Box::new(ack)), cluster.now);
        !out.is_empty()
    };
    let base = 10_000;
    let many = REMEMBERED as u64;
    for number in 0..many {
        assert!(hear(&mut cluster, base + number), "it is new");
    }
    assert!(!hear(&mut cluster, base), "the oldest is still known");
    assert!(hear(&mut cluster, base + many), "it is new, and pushes the oldest out");
    assert!(!hear(&mut cluster, base + 1), "the second oldest is still known");
    assert!(hear(&mut cluster, base), "the oldest is not");
}

/// A checkpoint that has all acknowledgements and waits for its turn does not expire any more; one that has not says who is
/// to blame.
#[test]
fn only_who_is_missing_lets_a_checkpoint_expire() {
    let mut cluster = running(CoordinatorConfig { max_concurrent: 2, min_pause: Duration::ZERO, ..config() });
    cluster.wait(100 * MS);
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(1));
    cluster.metadata(true);
    cluster.ack_all(CheckpointId(2));
    cluster.wait(600 * MS);
    assert!(cluster.aborted.is_empty(), "{:?}", cluster.aborted);
    cluster.append(true);
    cluster.commit();
    cluster.metadata(true);
    cluster.append(true);
    cluster.commit();
    assert_eq!(cluster.head.newest, Some(CheckpointId(2)));

    let mut cluster = running(config());
    cluster.wait(100 * MS);
    for subtask in &subtasks()[1..] {
        cluster.ack(CheckpointId(1), *subtask, cluster.attempt());
    }
    cluster.now = cluster.now + 500 * MS;
    let out = cluster.send(Input::Tick);
    let reason = out.iter().find_map(|command| match command {
        Command::Journal(Event::CheckpointAborted { reason, .. }) => Some(reason.clone()),
        _ => None,
    });
    let expected = format!("expired: 1 of 4 acknowledgements missing, from task{}", subtasks()[0]);
    assert_eq!(reason, Some(expected));
}
