//! Stories of whole subtasks in a small world.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    task::*,
    test_job::*,
    test_world::{TestWorld, pipe},
};
use crate::{
    checkpoint::types::*,
    ids::*,
    journal::{Event, EventKind},
    platform::*,
    sabotage::{Sabotage, SabotageSet},
    state::BackendKind,
};

fn sink_objects(acks: &BTreeMap<SubtaskKey, CheckpointAck>) -> &SinkAck {
    &acks[&(2, 0)].sinks[&uid("out")]
}

/// The input values in the objects of an acknowledgement, without the sums between them.
fn written(world: &TestWorld, objects: &[PrecommittedObject]) -> Vec<u64> {
    let store = world.store.objects.lock().unwrap();
    let bytes: Vec<u8> = objects.iter().flat_map(|o| store[&o.object].to_vec()).collect();
    bytes.chunks(16).map(|pair| u64::from_le_bytes(pair[..8].try_into().unwrap())).collect()
}

fn values_before(acks: &BTreeMap<SubtaskKey, CheckpointAck>) -> Vec<u64> {
    let positions = acks.values().flat_map(|a| &a.positions);
    let mut values: Vec<u64> = positions
        .flat_map(|(split, offset)| {
            let split: u64 = split.0.strip_prefix("split-").unwrap().parse().unwrap();
            (0..*offset).map(move |n| split * RECORDS_PER_SPLIT + n)
        })
        .collect();
    values.sort_unstable();
    values
}

/// Both hold the same values equally often; shows only what differs.
fn assert_same(mut found: Vec<u64>, expected: Vec<u64>) {
    found.sort_unstable();
    let all: BTreeSet<u64> = found.iter().chain(&expected).copied().collect();
    let count = |values: &[u64], value| values.iter().filter(|v| **v == value).count();
    let differing = all.into_iter().map(|v| (v, count(&found, v), count(&expected, v))).filter(|(_, f, e)| f != e);
    let differing: Vec<_> = differing.take(10).collect();
    assert!(differing.is_empty(), "(value, times found, times expected): {differing:?}");
}

#[test]
fn a_checkpoint_cuts_the_stream_exactly_and_the_end_is_exhausted() {
    let mut world = world();
    let mut job = deploy(&mut world, 1, &plan());
    job.run_to_running(&mut world);
    world.run_steps(60);
    let first = job.run_checkpoint(&mut world, 1);
    assert!(first.values().all(|a| !a.exhausted));
    let found = written(&world, &sink_objects(&first).objects);
    assert!(!found.is_empty());
    assert_same(found, values_before(&first));

    job.run_to_exhausted(&mut world);
    let second = job.run_checkpoint(&mut world, 2);
    assert!(second[&(0, 0)].exhausted && second[&(0, 1)].exhausted);
    // The first was never said to be completed: the second carries everything since the start.
    let sink = sink_objects(&second);
    assert_eq!(sink.digests.keys().map(|c| c.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(second[&(1, 0)].merges.len(), 2);
    let found = written(&world, &sink.objects);
    assert_same(found, (0..SPLITS * RECORDS_PER_SPLIT).collect());
    assert_eq!(sink.digests.values().map(|d| d.records).sum::<u64>(), SPLITS * RECORDS_PER_SPLIT);

    job.send(SubtaskCommand::NotifyComplete(CheckpointId(2)));
    let third = job.run_checkpoint(&mut world, 3);
    assert!(sink_objects(&third).objects.is_empty());
    assert_eq!(third[&(1, 0)].merges.keys().map(|c| c.0).collect::<Vec<_>>(), [3]);

    job.send(SubtaskCommand::Cancel);
    world.run_until("all stopped", || job.count(|r| *r == SubtaskReport::Stopped) == 5);
    assert!(job.failures().len() <= 4, "a cancelled neighbour may be seen before the own cancel");
}

/// R141: no channel of a job has more bytes in flight than its window, however fast the sources are.
#[test]
fn what_is_in_flight_stays_within_the_window() {
    let mut world = world();
    let mut job = deploy(&mut world, 1, &plan());
    job.run_to_exhausted(&mut world);
    job.run_checkpoint(&mut world, 1);
    assert!(world.peak_in_flight() > 0 && world.peak_in_flight() <= 256, "{}", world.peak_in_flight());
}

#[test]
fn restored_from_a_checkpoint_the_rest_follows_without_gap_or_repetition() {
    let mut world = world();
    let mut job = deploy(&mut world, 1, &plan());
    job.run_to_running(&mut world);
    world.run_steps(80);
    let first = job.run_checkpoint(&mut world, 1);
    world.run_steps(100);
    job.send(SubtaskCommand::Cancel);
    world.run_until("all stopped", || job.count(|r| *r == SubtaskReport::Stopped) == 5);

    let snapshots = first.iter().map(|(k, a)| (*k, a.snapshot.clone())).collect();
    let restored = Plan { restore: Some((CheckpointId(1), snapshots)), ..plan() };
    let mut job = deploy(&mut world, 2, &restored);
    job.run_to_exhausted(&mut world);
    let second = job.run_checkpoint(&mut world, 2);
    let mut found = written(&world, &sink_objects(&first).objects);
    found.extend(written(&world, &sink_objects(&second).objects));
    assert_same(found, (0..SPLITS * RECORDS_PER_SPLIT).collect());
}

/// Epochs 1 to 3 run; the job goes back to checkpoint 1 and replays 2 and 3.
fn replayed(sabotage: &[Sabotage]) -> (TestWorld, Deployment, BTreeMap<SubtaskKey, CheckpointAck>) {
    replayed_with(plan(), sabotage)
}

fn replayed_with(plan: Plan, sabotage: &[Sabotage]) -> (TestWorld, Deployment, BTreeMap<SubtaskKey, CheckpointAck>) {
    let mut world = world();
    let mut job = deploy(&mut world, 1, &plan);
    job.run_to_running(&mut world);
    let mut acks = Vec::new();
    for checkpoint in 1..=3 {
        world.run_steps(70);
        acks.push(job.run_checkpoint(&mut world, checkpoint));
    }
    job.send(SubtaskCommand::Cancel);
    world.run_until("all stopped", || job.count(|r| *r == SubtaskReport::Stopped) == 5);

    let mut plan = plan;
    plan.settings.sabotage = SabotageSet(sabotage.iter().copied().collect());
    plan.restore = Some((CheckpointId(1), acks[0].iter().map(|(k, a)| (*k, a.snapshot.clone())).collect()));
    let last = acks.pop().unwrap();
    for (key, ack) in &last {
        let epochs = ack.merges.range(CheckpointId(2)..);
        let epochs = epochs.map(|(epoch, merges)| ReplayEpoch { epoch: *epoch, merges: merges.clone() });
        plan.replay.insert(*key, ReplayPlan { epochs: epochs.collect() });
    }
    // Another speed, so that nothing but the plan can make the order the same.
    plan.settings.source_batch_records = 7;
    plan.settings.buffer_bytes = 40;
    let job = deploy(&mut world, 2, &plan);
    (world, job, last)
}

#[test]
fn a_replay_gives_the_same_output_muted_and_then_goes_on() {
    let (mut world, mut job, third) = replayed(&[]);
    let objects_before = world.store.objects.lock().unwrap().len();
    world.run_until("the replay", || job.count(|r| *r == SubtaskReport::ReplayFinished) == 5);
    assert_eq!(world.store.objects.lock().unwrap().len(), objects_before, "muted");
    let expected = &sink_objects(&third).digests;
    let digests = job.reports[&(2, 0)].iter().filter_map(|r| match r {
        SubtaskReport::ReplayedEpoch { epoch, digests } => Some((*epoch, digests[&uid("out")])),
        _ => None,
    });
    let digests: Vec<_> = digests.collect();
    assert_eq!(digests, expected.range(CheckpointId(2)..).map(|(e, d)| (*e, *d)).collect::<Vec<_>>());
    assert!(digests.iter().all(|(_, d)| d.records > 0));

    job.run_to_exhausted(&mut world);
    let fourth = job.run_checkpoint(&mut world, 4);
    assert_eq!(sink_objects(&fourth).digests.keys().map(|c| c.0).collect::<Vec<_>>(), [4]);
    let mut found = written(&world, &sink_objects(&third).objects);
    found.extend(written(&world, &sink_objects(&fourth).objects));
    assert_same(found, (0..SPLITS * RECORDS_PER_SPLIT).collect());
}

/// What the sink put out in epochs 2 and 3, as acknowledged and as replayed.
fn digests_of_a_replay(plan: Plan) -> [Vec<(CheckpointId, OutputDigest)>; 2] {
    let (mut world, mut job, third) = replayed_with(plan, &[]);
    world.run_until("the replay", || job.count(|r| *r == SubtaskReport::ReplayFinished) == 5);
    let digests = job.reports[&(2, 0)].iter().filter_map(|r| match r {
        SubtaskReport::ReplayedEpoch { epoch, digests } => Some((*epoch, digests[&uid("out")])),
        _ => None,
    });
    let acknowledged = sink_objects(&third).digests.range(CheckpointId(2)..).map(|(e, d)| (*e, *d)).collect();
    // The log has times in the middle and at the beginning.
    let steps: Vec<MergeStep> = third[&(1, 0)].merges.range(CheckpointId(2)..).flat_map(|(_, m)| m.clone()).collect();
    assert!(steps.iter().any(|step| matches!(step, MergeStep::Resume(_))), "{steps:?}");
    assert!(
        steps.iter().any(|step| matches!(step, MergeStep::Watermark(_) | MergeStep::ProcessingTime(_))),
        "{steps:?}"
    );
    let digests = [acknowledged, digests.collect()];
    // What follows the replay goes on in time to the end.
    job.run_to_exhausted(&mut world);
    job.run_checkpoint(&mut world, 4);
    assert!(job.failures().is_empty());
    digests
}

#[test]
fn a_replay_moves_event_time_where_it_moved() {
    let behaviour = Behaviour { event_time: true, ..Behaviour::default() };
    let [acknowledged, replayed] = digests_of_a_replay(Plan { behaviour, ..plan() });
    assert_eq!(acknowledged, replayed);
}

#[test]
fn what_had_ended_before_the_replayed_epochs_holds_nothing_back_after_them() {
    let behaviour = Behaviour { event_time: true, first_ends_at: Some(32), ..Behaviour::default() };
    let (mut world, mut job, third) = replayed_with(Plan { behaviour, ..plan() }, &[]);
    let ended = |step: &MergeStep| matches!(step, MergeStep::Resume(Times { watermark: i64::MAX, .. }));
    assert!(ended(&third[&(0, 0)].merges[&CheckpointId(2)][0]), "the first source had ended before epoch 2");
    job.run_to_exhausted(&mut world);
    let fourth = job.run_checkpoint(&mut world, 4);
    for key in [(1, 0), (1, 1)] {
        let steps: Vec<MergeStep> = fourth[&key].merges.values().flatten().copied().collect();
        assert!(steps.contains(&MergeStep::Watermark(i64::MAX)), "{key:?}: {steps:?}");
    }
}

#[test]
fn a_replay_takes_processing_time_from_the_log() {
    // So slowly that time passes between the batches.
    let behaviour = Behaviour { processing_time: true, rate: Some(1_000.0), ..Behaviour::default() };
    let [acknowledged, replayed] = digests_of_a_replay(Plan { behaviour, ..plan() });
    assert_eq!(acknowledged, replayed);
}

#[test]
fn event_time_comes_to_its_end_behind_the_last_record_and_before_the_last_barrier() {
    let mut world = world();
    let behaviour = Behaviour { event_time: true, ..Behaviour::default() };
    let mut job = deploy(&mut world, 1, &Plan { behaviour, ..plan() });
    job.run_to_exhausted(&mut world);
    let acks = job.run_checkpoint(&mut world, 1);
    for key in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let times: Vec<i64> = acks[&key].merges[&CheckpointId(1)]
            .iter()
            .filter_map(|step| if let MergeStep::Watermark(watermark) = step { Some(*watermark) } else { None })
            .collect();
        assert!(times.is_sorted_by(|a, b| a < b) && times.last() == Some(&i64::MAX), "{key:?}: {times:?}");
        assert!(times.len() > 2, "{key:?}: {times:?}");
    }
    let reached = |event: &&Event| matches!(event, Event::WatermarkReached { watermark: i64::MAX, .. });
    assert_eq!(world.events().iter().filter(reached).count(), 5);
}

#[test]
fn a_channel_that_breaks_fails_its_subtasks_once() {
    let mut world = world();
    let mut job = deploy(&mut world, 1, &plan());
    job.run_to_running(&mut world);
    world.transport.wires.lock().unwrap().iter().find(|(l, _)| l == "read[1]->count[0]").unwrap().1.reset();
    world.run_until("all have failed", || job.count(|r| matches!(r, SubtaskReport::Failed(_))) == 5);
    world.run_steps(1000);
    let failures = job.failures();
    assert_eq!(failures.len(), 5, "each once: {failures:?}");
    assert!(failures.iter().all(|(_, f)| matches!(f, TaskFailure::Environment(_))));
}

#[test]
fn an_error_of_user_code_says_whose() {
    let mut world = world();
    let behaviour = Behaviour { poison: Some(123), ..Behaviour::default() };
    let mut job = deploy(&mut world, 1, &Plan { behaviour, ..plan() });
    world.run_until("the counter fails", || !job.failures().is_empty());
    world.run_steps(1000);
    let failures: BTreeMap<_, _> = job.failures().into_iter().collect();
    assert_eq!(failures[&(1, 1)], TaskFailure::User("counter: cannot bear 123".into()));
}

#[test]
fn a_subtask_can_be_cancelled_while_it_waits_for_its_inputs() {
    let mut world = world();
    let without = BTreeSet::from([(0, 1)]);
    let mut job = deploy(&mut world, 1, &Plan { without, ..plan() });
    world.run_steps(2000);
    assert_eq!(job.count(|r| matches!(r, SubtaskReport::Running(_))), 2, "one source and the sink have all they need");
    job.send(SubtaskCommand::Cancel);
    world.run_steps(2000);
    job.collect();
    assert_eq!(job.reports[&(1, 0)], [SubtaskReport::Stopped]);
    assert_eq!(job.reports[&(1, 1)], [SubtaskReport::Stopped]);
}

#[test]
fn channels_of_another_attempt_are_refused() {
    let mut world = world();
    let without = BTreeSet::from([(0, 0), (0, 1)]);
    let mut job = deploy(&mut world, 2, &Plan { without, ..plan() });
    let subtask = |vertex, index| SubtaskId { vertex: VertexId(vertex), index };
    let hello = |execution, from| ChannelHello {
        job: JobId(7),
        attempt: attempt(execution),
        edge: EdgeId(0),
        from,
        to: subtask(1, 0),
    };
    let kept: Rc<RefCell<Vec<Connection>>> = Rc::default();
    for hello in [hello(1, subtask(0, 0)), hello(2, subtask(0, 5)), hello(2, subtask(0, 0)), hello(2, subtask(0, 0))] {
        let (near, far, _) = pipe();
        kept.borrow_mut().push(near);
        assert!(job.inbound[&(1, 0)].send(InboundChannel { hello, connection: far }).is_ok());
    }
    world.run_steps(100);
    let refused: Vec<String> = world
        .events()
        .into_iter()
        .filter_map(|e| match e {
            Event::StaleMessageIgnored { message, .. } => message.rsplit(": ").next().map(str::to_string),
            _ => None,
        })
        .collect();
    assert_eq!(refused, ["another attempt", "no such input", "connected already"]);
    assert_eq!(
        job.count(|r| matches!(r, SubtaskReport::Running(_))),
        1,
        "the sink's counters are connected, the counter waits"
    );
}

#[test]
fn hostile_bytes_on_a_channel_fail_the_subtask_and_name_it() {
    for hostile in [&b"\x2a"[..], b"\x00\x00\x00\x00\x00", b"\x03\x01\x00\x00\x00"] {
        let mut world = world();
        let without = BTreeSet::from([(0, 0), (0, 1)]);
        let mut job = deploy(&mut world, 1, &Plan { without, ..plan() });
        let mut ends = Vec::new();
        for index in 0..2 {
            let (near, far, _) = pipe();
            ends.push(near);
            let from = SubtaskId { vertex: VertexId(0), index };
            let to = SubtaskId { vertex: VertexId(1), index: 0 };
            let hello = ChannelHello { job: JobId(7), attempt: attempt(1), edge: EdgeId(0), from, to };
            assert!(job.inbound[&(1, 0)].send(InboundChannel { hello, connection: far }).is_ok());
        }
        let mut sender = ends.remove(1);
        world.spawn(async move {
            send(sender.sender.as_mut(), Bytes::copy_from_slice(hostile)).await.unwrap();
            std::future::pending::<()>().await;
            drop(sender);
        });
        world.run_until("the failure", || !job.failures().is_empty());
        let failures: BTreeMap<_, _> = job.failures().into_iter().collect();
        let TaskFailure::Environment(message) = &failures[&(1, 0)] else { panic!("{failures:?}") };
        assert!(message.starts_with("channel read[1]->count[0]: the peer sent "), "{message}");
    }
}

#[test]
fn a_failed_upload_declines_one_checkpoint_and_the_data_is_in_the_next() {
    let mut world = world();
    // Slow, so that nothing is uploaded ahead of the first barrier.
    let behaviour = Behaviour { rate: Some(1000.0), ..Behaviour::default() };
    let mut job = deploy(&mut world, 1, &Plan { behaviour, ..plan() });
    job.run_to_running(&mut world);
    world.run_steps(60);
    *world.store.failing.lock().unwrap() = Some(("output/".into(), 1));
    job.trigger(1);
    world.run_until("a decline", || job.count(|r| matches!(r, SubtaskReport::Decline { .. })) == 1);
    job.send(SubtaskCommand::NotifyAborted(CheckpointId(1)));
    job.run_to_exhausted(&mut world);
    let second = job.run_checkpoint(&mut world, 2);
    let found = written(&world, &sink_objects(&second).objects);
    assert_same(found, (0..SPLITS * RECORDS_PER_SPLIT).collect());
}

/// R82, R93, R94: while an asynchronous snapshot is being written the stream goes on; while a synchronous one is, no record passes.
/// R134: so one snapshot right after the other costs the stream nothing where they are asynchronous, and all of their time where they are
/// not.
#[test]
fn the_stream_waits_for_a_synchronous_snapshot_only() {
    for asynchronous in [true, false] {
        let mut world = world();
        let behaviour = Behaviour { endless: true, ..Behaviour::default() };
        let mut settings = small_settings();
        settings.backend.async_snapshots = asynchronous;
        let mut job = deploy(&mut world, 1, &Plan { behaviour, settings, ..plan() });
        job.run_to_running(&mut world);
        let of_count = |event: &Event, kind: EventKind, id: u64| {
            event.kind() == kind
                && event.entity().starts_with("count")
                && format!("{event:?}").contains(&format!("CheckpointId({id})"))
        };
        let seen =
            |world: &TestWorld, kind, id| world.events().iter().filter(|event| of_count(event, kind, id)).count();
        world.store.hold(Some("/chk-1/"));
        job.trigger(1);
        // Not until the upload is given up.
        world.run_at_this_time(20_000);
        assert_eq!(seen(&world, EventKind::SnapshotAsyncStarted, 1), 2);
        job.trigger(2);
        world.run_at_this_time(20_000);
        assert_eq!(seen(&world, EventKind::SnapshotAsyncDone, 1), 0, "the store takes its time");
        let passed = seen(&world, EventKind::SnapshotSyncDone, 2);
        assert_eq!(passed, if asynchronous { 2 } else { 0 }, "the next barrier, and what is before it");
        world.store.hold(None);
        world.run_until("all acknowledgements", || job.acks(1).len() == 5 && job.acks(2).len() == 5);
    }
}

/// One run with state in the acknowledgements and messages of at most so many bytes: who acknowledged, and why the others declined. Then
/// the job goes on to the end of its input.
fn acknowledged_in_frames_of(frame_bytes: u64) -> (BTreeMap<SubtaskKey, CheckpointAck>, Vec<String>) {
    let mut world = world();
    let mut settings = small_settings();
    settings.backend.kind = BackendKind::Memory;
    settings.frame_bytes = frame_bytes;
    let mut job = deploy(&mut world, 1, &Plan { settings, ..plan() });
    job.run_to_running(&mut world);
    world.run_steps(80);
    job.trigger(1);
    world.run_until("all have answered", || {
        let declined = job.count(|report| matches!(report, SubtaskReport::Decline { .. }));
        job.acks(1).len() + declined == 5
    });
    let acks = job.acks(1);
    let reasons = job.reports.values().flatten().filter_map(|report| match report {
        SubtaskReport::Decline { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let reasons = reasons.collect();
    job.send(SubtaskCommand::NotifyAborted(CheckpointId(1)));
    job.run_to_exhausted(&mut world);
    assert!(job.failures().is_empty(), "no connection is cut, nobody fails: {:?}", job.failures());
    (acks, reasons)
}

/// R85: an acknowledgement that is longer than a message may be (`akka.framesize`) is not sent: its sender declines the checkpoint, and
/// names the key and the sizes. It is so to the byte, and the stream goes on.
#[test]
fn an_acknowledgement_that_no_message_can_carry_is_declined() {
    let (all, reasons) = acknowledged_in_frames_of(TaskSettings::default().frame_bytes);
    assert_eq!((all.len(), reasons.len()), (5, 0), "{reasons:?}");
    let length = |ack: &CheckpointAck| postcard::experimental::serialized_size(ack).unwrap() as u64;
    let longest = all.values().map(length).max().unwrap();
    let of_that_length = all.values().filter(|ack| length(ack) == longest).count();
    // What a message has beside the acknowledgement.
    let fits = longest + 64;
    for frame_bytes in [fits, fits + 1] {
        let (acks, reasons) = acknowledged_in_frames_of(frame_bytes);
        assert_eq!((acks.len(), reasons.len()), (5, 0), "{frame_bytes}: {reasons:?}");
    }
    let (acks, reasons) = acknowledged_in_frames_of(fits - 1);
    assert_eq!((acks.len(), reasons.len()), (5 - of_that_length, of_that_length), "{reasons:?}");
    for reason in reasons {
        for said in ["akka.framesize", &longest.to_string(), &(fits - 1).to_string(), "state.backend"] {
            assert!(reason.contains(said), "{said}: {reason}");
        }
    }
    let (acks, reasons) = acknowledged_in_frames_of(65);
    assert_eq!((acks.len(), reasons.len()), (0, 5), "{reasons:?}");
}

#[test]
fn an_endless_source_starves_nobody() {
    let mut world = world();
    let behaviour = Behaviour { endless: true, ..Behaviour::default() };
    let mut job = deploy(&mut world, 1, &Plan { behaviour, ..plan() });
    job.run_to_running(&mut world);
    for checkpoint in 1..5 {
        let acks = job.run_checkpoint(&mut world, checkpoint);
        // Both splits of both sources move.
        assert!(acks.values().flat_map(|a| a.positions.values()).all(|p| *p > 0));
        job.send(SubtaskCommand::NotifyComplete(CheckpointId(checkpoint)));
    }
    job.send(SubtaskCommand::Cancel);
    world.run_until("all stopped", || {
        job.count(|r| matches!(r, SubtaskReport::Stopped | SubtaskReport::Failed(_))) == 5
    });
}

#[test]
fn a_rate_limited_source_takes_its_time() {
    let mut world = world();
    let behaviour = Behaviour { rate: Some(RECORDS_PER_SPLIT as f64 * 2.0), ..Behaviour::default() };
    let mut job = deploy(&mut world, 1, &Plan { behaviour, ..plan() });
    job.run_to_exhausted(&mut world);
    let took = world.now().since(Mono(0));
    assert!(took > Duration::from_millis(900) && took < Duration::from_millis(1300), "{took:?}");
}

#[test]
fn a_very_slow_source_still_reads() {
    let mut world = world();
    let behaviour = Behaviour { rate: Some(0.5), ..Behaviour::default() };
    let mut job = deploy(&mut world, 1, &Plan { behaviour, ..plan() });
    job.run_to_running(&mut world);
    world.run_steps(400);
    let acks = job.run_checkpoint(&mut world, 1);
    assert!(acks.values().flat_map(|a| a.positions.values()).any(|p| *p > 0));
}

#[test]
fn inputs_that_fail_for_a_while_are_read_again() {
    let mut world = world();
    world.inputs.failing.store(5, std::sync::atomic::Ordering::SeqCst);
    let mut job = deploy(&mut world, 1, &plan());
    job.run_to_exhausted(&mut world);
    assert!(job.failures().is_empty());
}

#[test]
fn an_aborted_alignment_lets_the_stream_go_on() {
    let mut world = world();
    let mut job = deploy(&mut world, 1, &plan());
    job.run_to_running(&mut world);
    // Only one of the two sources is triggered, so nobody downstream can align.
    let _ = job.handles[&(0, 0)].commands.send(SubtaskCommand::TriggerCheckpoint(CheckpointId(1)));
    world.run_steps(5000);
    assert_eq!(job.acks(1).len(), 1);
    let started = world.events().iter().filter(|e| e.kind() == EventKind::AlignmentStarted).count();
    assert_eq!(started, 2);
    job.send(SubtaskCommand::NotifyAborted(CheckpointId(1)));
    job.run_to_exhausted(&mut world);
    let second = job.run_checkpoint(&mut world, 2);
    let found = written(&world, &sink_objects(&second).objects);
    assert_same(found, (0..SPLITS * RECORDS_PER_SPLIT).collect());
}

#[test]
fn two_runs_of_one_story_are_the_same() {
    let run = || {
        let mut world = world();
        let mut job = deploy(&mut world, 1, &plan());
        job.run_to_running(&mut world);
        world.run_steps(100);
        job.run_checkpoint(&mut world, 1);
        job.run_to_exhausted(&mut world);
        job.run_checkpoint(&mut world, 2);
        (format!("{:?}", world.events()), world.now())
    };
    assert_eq!(run(), run());
}

#[cfg(feature = "sabotage")]
mod sabotaged {
    use super::*;

    fn run_with(sabotage: Sabotage) -> (TestWorld, BTreeMap<SubtaskKey, CheckpointAck>) {
        let mut world = world();
        let mut plan = plan();
        plan.settings.sabotage = SabotageSet(BTreeSet::from([sabotage]));
        let mut job = deploy(&mut world, 1, &plan);
        job.run_to_running(&mut world);
        world.run_steps(60);
        // The second source's barrier comes much later than the first's.
        let _ = job.handles[&(0, 0)].commands.send(SubtaskCommand::TriggerCheckpoint(CheckpointId(1)));
        world.run_steps(300);
        let acks = job.run_checkpoint(&mut world, 1);
        (world, acks)
    }

    #[test]
    fn without_alignment_the_cut_is_wrong() {
        let (world, acks) = run_with(Sabotage::SkipAlignment);
        let found = written(&world, &sink_objects(&acks).objects);
        assert!(found != values_before(&acks));
    }

    #[test]
    fn without_a_credit_limit_the_window_is_exceeded() {
        let (world, _) = run_with(Sabotage::UnlimitedCredit);
        assert!(world.peak_in_flight() > 256, "{}", world.peak_in_flight());
    }

    #[test]
    fn an_unmuted_replay_writes_again() {
        let (mut world, mut job, _) = replayed(&[Sabotage::ReplayUnmuted]);
        let objects_before = world.store.objects.lock().unwrap().len();
        world.run_until("the replay", || job.count(|r| *r == SubtaskReport::ReplayFinished) == 5);
        world.run_steps(1000);
        assert!(world.store.objects.lock().unwrap().len() > objects_before);
    }
}
