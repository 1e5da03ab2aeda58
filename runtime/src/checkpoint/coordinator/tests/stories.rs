//! The coordinator's behaviour, told one situation at a time.

use super::*;
use crate::checkpoint::head::ID_BLOCK;

/// R182: complete only when every task has acknowledged; the head entry comes before the commit, the commit before the end.
#[test]
fn a_checkpoint_from_trigger_to_commit() {
    let mut cluster = running(config());
    assert_eq!(cluster.coordinator.next_deadline(), Some(Mono(0) + 100 * MS));
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    assert_eq!(one, CheckpointId(1));
    let [a, b, c, d] = subtasks()[..] else { panic!() };
    for subtask in [a, b, c] {
        assert_eq!(kinds(&cluster.ack(one, subtask, cluster.attempt())), ["CheckpointAcked"]);
    }
    assert_eq!(kinds(&cluster.ack(one, d, cluster.attempt())), ["CheckpointAcked", "WriteMetadata"]);
    assert!(!cluster.coordinator.is_finalizing());
    assert_eq!(kinds(&cluster.metadata(true)), ["MetadataWritten", "AppendCompleted"]);
    assert!(cluster.coordinator.is_finalizing());
    let done = kinds(&cluster.append(true));
    assert_eq!(done, ["CheckpointCompleted", "CommitSinks", "NotifyComplete", "CheckpointNotified"]);
    assert_eq!(kinds(&cluster.commit()), Vec::<String>::new());
    assert!(!cluster.coordinator.is_finalizing());
    cluster.wait(100 * MS);
    cluster.complete_one();
    // The first one was dropped, and only after the second was recorded.
    assert_eq!(cluster.written.values().sum::<u32>(), subtasks().len() as u32 + 1);
    cluster.check_nothing_leaks();
}

/// R199: the last n stay.
#[test]
fn as_many_checkpoints_stay_as_asked_for_and_lost_ones_do_not_count() {
    let mut cluster = running(CoordinatorConfig { retained: 3, ..config() });
    for _ in 0..5 {
        cluster.wait(100 * MS);
        cluster.complete_one();
    }
    let ids = |c: &Cluster| c.head.retained.keys().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(ids(&cluster), [3, 4, 5]);
    cluster.stop();
    cluster.execution += 1;
    let (attempt, continues) = (cluster.attempt(), cluster.head.newest);
    cluster.this_execution.clear();
    let condemned = BTreeSet::from([CheckpointId(5)]);
    cluster.coordinator.handle(Input::Started { attempt, continues, condemned }, cluster.now);
    cluster.now = cluster.now + 100 * MS;
    cluster.coordinator.handle(Input::Tick, cluster.now);
    let six = CheckpointId(6);
    cluster.this_execution.insert(six);
    for subtask in subtasks() {
        let ack = cluster.make_ack(six, subtask, attempt);
        cluster.coordinator.handle(Input::Ack(Box::new(ack)), cluster.now);
    }
    let metadata = ObjectName::new("meta-6").unwrap();
    let out = cluster.coordinator.handle(Input::MetadataWritten { checkpoint: six, result: Ok(metadata) }, cluster.now);
    let Some(Command::AppendCompleted { entry, .. }) = out.last() else { panic!("{out:?}") };
    let HeadEntry::Completed { retained, dropped, ledger, .. } = &**entry else { panic!() };
    assert_eq!(*retained, [3, 4, 6].map(CheckpointId));
    assert_eq!(*dropped, [CheckpointId(5)]);
    assert_eq!(ledger.previous, Some(CheckpointId(5)), "5 is lost, but its output is committed");
}

#[test]
fn an_expired_checkpoint_is_gone_and_its_late_acknowledgements_are_discarded() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    let [a, b, ..] = subtasks()[..] else { panic!() };
    cluster.ack(one, a, cluster.attempt());
    assert_eq!(cluster.coordinator.next_deadline(), Some(Mono(0) + 600 * MS));
    cluster.wait(500 * MS);
    assert!(cluster.aborted.contains(&one));
    // The next one takes its place at once.
    assert_eq!(cluster.only_open(), CheckpointId(2));
    assert_eq!(kinds(&cluster.ack(one, b, cluster.attempt())), ["LateAckDiscarded", "Discard", "CheckpointDiscarded"]);
    // A repetition changes nothing.
    for ack in cluster.acks.clone() {
        assert_eq!(cluster.send(Input::Ack(Box::new(ack))), []);
    }
    cluster.check_nothing_leaks();
}

#[test]
fn what_an_aborted_checkpoint_put_out_goes_into_the_next() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let reason = "disk".to_string();
    cluster.send(Input::Decline { subtask: subtasks()[1], checkpoint: CheckpointId(1), reason });
    cluster.wait(100 * MS);
    cluster.complete_one(); // check_entry compares the whole epoch
    assert_eq!(cluster.head.newest_sinks[&OperatorUid("out".into())].len(), 2 * SINKS as usize);
    cluster.check_nothing_leaks();
}

#[test]
fn a_failed_write_or_append_costs_that_checkpoint_only() {
    let mut cluster = running(CoordinatorConfig { tolerable_failures: Some(1), ..config() });
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(1));
    cluster.metadata(false);
    assert!(!cluster.failed);
    cluster.wait(100 * MS);
    cluster.complete_one();
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(3));
    cluster.metadata(true);
    cluster.append(false);
    assert!(!cluster.failed, "a success in between starts the count anew");
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(4));
    cluster.metadata(false);
    assert!(cluster.failed);
    cluster.check_nothing_leaks();
}

#[test]
fn an_append_under_way_when_the_execution_stops_still_counts() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(1));
    cluster.metadata(true);
    cluster.stop();
    assert!(cluster.coordinator.is_finalizing(), "the restore choice has to wait");
    let done = kinds(&cluster.append(true));
    assert_eq!(done, ["CheckpointCompleted", "CommitSinks"], "nobody is left to be notified");
    assert!(cluster.coordinator.is_finalizing());
    cluster.commit();
    assert!(!cluster.coordinator.is_finalizing());
    assert_eq!(cluster.head.newest, Some(CheckpointId(1)));
    cluster.check_nothing_leaks();
}

#[test]
fn metadata_under_way_when_the_execution_stops_is_thrown_away() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    cluster.ack_all(CheckpointId(1));
    cluster.stop();
    assert!(!cluster.coordinator.is_finalizing());
    assert_eq!(kinds(&cluster.metadata(true)), ["Discard", "CheckpointDiscarded"]);
    cluster.check_nothing_leaks();
}

#[test]
fn the_last_checkpoint_is_taken_at_once_and_again_until_it_completes() {
    let mut cluster = running(CoordinatorConfig { interval: 10_000 * MS, min_pause: 5_000 * MS, ..config() });
    cluster.exhausted = true;
    cluster.send(Input::AllSourcesExhausted);
    let one = cluster.only_open();
    cluster.send(Input::Decline { subtask: subtasks()[0], checkpoint: one, reason: "no".into() });
    assert!(cluster.open.is_empty());
    let again = cluster.coordinator.next_deadline().expect("it is tried again");
    cluster.wait(again - cluster.now);
    let two = cluster.only_open();
    cluster.ack_all(two);
    cluster.metadata(true);
    cluster.append(true);
    assert_eq!(cluster.finals, 0, "its output is not committed yet");
    assert_eq!(kinds(&cluster.commit()), ["FinalCompleted"]);
    assert_eq!(cluster.coordinator.next_deadline(), None);
}

#[test]
fn the_job_ends_once_even_if_two_last_checkpoints_are_under_way() {
    let mut cluster = running(CoordinatorConfig { max_concurrent: 2, ..config() });
    cluster.exhausted = true;
    cluster.send(Input::AllSourcesExhausted);
    cluster.requested = true;
    cluster.send(Input::TriggerNow);
    cluster.ack_all(CheckpointId(1));
    cluster.ack_all(CheckpointId(2));
    cluster.metadata(true);
    cluster.append(true);
    assert!(cluster.aborted.contains(&CheckpointId(2)));
    assert_eq!(kinds(&cluster.commit()), ["FinalCompleted"]);
    cluster.check_nothing_leaks();
}

#[test]
fn ids_go_on_above_every_block_ever_granted() {
    let mut head = HeadState::default();
    head.apply(0, &head.next_id_block());
    head.apply(1, &head.next_id_block());
    let mut cluster = Cluster::new(config(), head);
    assert_eq!(cluster.coordinator.first_unused_id(), CheckpointId(2 * ID_BLOCK + 1));
    cluster.start();
    cluster.grant();
    cluster.wait(100 * MS);
    assert_eq!(cluster.only_open(), CheckpointId(2 * ID_BLOCK + 1));
    assert_eq!(cluster.coordinator.first_unused_id(), CheckpointId(2 * ID_BLOCK + 2));
}

/// A job is scaled while it is stopped: in its next execution those who are left make a checkpoint whole, and who is gone is a
/// stranger.
#[test]
fn after_scaling_the_subtasks_of_now_count() {
    let mut cluster = running(config());
    cluster.stop();
    let mut participants = participants();
    let gone = *participants.subtasks.keys().last().unwrap();
    participants.subtasks.remove(&gone);
    cluster.coordinator.rescaled(participants);
    cluster.start();
    cluster.wait(100 * MS);
    let (one, attempt) = (cluster.only_open(), cluster.attempt());
    let mut acks = |subtask| {
        let ack = cluster.make_ack(one, subtask, attempt);
        kinds(&cluster.coordinator.handle(Input::Ack(Box::new(ack)), cluster.now))
    };
    assert_eq!(acks(gone), ["LateAckDiscarded", "Discard", "CheckpointDiscarded"]);
    let [a, b, c, _] = subtasks()[..] else { panic!() };
    assert_eq!(acks(a), ["CheckpointAcked"]);
    assert_eq!(acks(b), ["CheckpointAcked"]);
    assert_eq!(acks(c), ["CheckpointAcked", "WriteMetadata"]);
}

/// While the last checkpoint is under way, also when it is being made durable, there is no second one, though there would be room.
#[test]
fn there_is_one_last_checkpoint_at_a_time() {
    let mut cluster = running(CoordinatorConfig { max_concurrent: 2, ..config() });
    cluster.exhausted = true;
    cluster.send(Input::AllSourcesExhausted);
    let last = cluster.only_open();
    cluster.wait(200 * MS);
    assert_eq!(cluster.only_open(), last);
    cluster.ack_all(last);
    cluster.wait(200 * MS);
    assert_eq!(cluster.only_open(), last);
    cluster.metadata(true);
    cluster.append(true);
    assert_eq!(kinds(&cluster.commit()), ["FinalCompleted"]);
    cluster.check_nothing_leaks();
}

/// An answer to what was not asked yet, was answered already, or is of another checkpoint: nothing is completed or ended by it.
#[test]
fn an_answer_out_of_turn_changes_nothing() {
    let mut cluster = running(config());
    cluster.exhausted = true;
    cluster.send(Input::AllSourcesExhausted);
    let last = cluster.only_open();
    let another = CheckpointId(last.0 + 1);
    let appended = |checkpoint| Input::HeadAppended { checkpoint, result: Ok(77) };
    let committed = |checkpoint| Input::SinksCommitted { checkpoint };
    let ignores = |cluster: &mut Cluster, events: [CoordinatorEvent; 3]| {
        for event in events {
            assert_eq!(cluster.send(event.clone()), [], "{event:?}");
        }
    };
    cluster.ack_all(last);
    ignores(&mut cluster, [appended(last), committed(last), appended(another)]);
    cluster.metadata(true);
    ignores(&mut cluster, [committed(last), appended(another), committed(another)]);
    cluster.append(true);
    ignores(&mut cluster, [appended(last), appended(another), committed(another)]);
    assert_eq!(kinds(&cluster.commit()), ["FinalCompleted"]);
    ignores(&mut cluster, [appended(last), committed(last), committed(another)]);
    cluster.check_nothing_leaks();
}

/// A subtask that heard nothing of newer checkpoints builds on what is gone: that checkpoint is given up, with the reason, and is
/// nobody's failure; what was written for it goes, and the next one completes.
#[test]
fn a_base_that_is_gone_costs_that_checkpoint_only() {
    let mut cluster = running(CoordinatorConfig { tolerable_failures: Some(0), ..config() });
    for _ in 0..2 {
        cluster.wait(100 * MS);
        cluster.complete_one();
    }
    cluster.wait(100 * MS);
    let three = cluster.only_open();
    let (subtask, attempt) = (subtasks()[2], cluster.attempt());
    cluster.ack(three, subtasks()[0], attempt);
    let gone = cluster.acks[0].snapshot.parts[0].clone();
    assert_eq!(gone.written_by, CheckpointId(1));
    let mut ack = cluster.make_ack(three, subtask, attempt);
    ack.snapshot.parts.push(gone.clone());
    cluster.coordinator.take_points();
    let out = cluster.send(Input::Ack(Box::new(ack)));
    let expected = ["CheckpointAcked", "CheckpointAborted", "NotifyAborted", "Discard", "CheckpointDiscarded"];
    assert_eq!(kinds(&out), expected);
    let Command::NotifyAborted { reason, .. } = &out[2] else { panic!("{out:?}") };
    let object = gone.object().unwrap();
    let expected = format!("task{subtask}: part p refers to {object} of checkpoint 1, which is retained no more");
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(cluster.coordinator.take_points().passed().any(|point| point == Point::BaseIsGone));
    assert!(!cluster.failed);
    cluster.wait(100 * MS);
    assert_eq!(cluster.complete_one(), CheckpointId(4));
    cluster.check_nothing_leaks();
}

/// The model notices what it is there to notice.
#[cfg(feature = "sabotage")]
mod sabotage {
    use super::*;
    use crate::sabotage::Sabotage;

    fn two_executions_of_two_checkpoints(what: Sabotage) {
        let mut cluster = running(CoordinatorConfig { sabotage: SabotageSet([what].into()), ..config() });
        for _ in 0..2 {
            for _ in 0..2 {
                cluster.wait(100 * MS);
                cluster.complete_one();
            }
            cluster.stop();
            cluster.start();
        }
    }

    #[test]
    #[should_panic(expected = "2")]
    fn reused_ids() {
        two_executions_of_two_checkpoints(Sabotage::ReuseCheckpointIds);
    }

    #[test]
    #[should_panic(expected = "is retained")]
    fn deleted_files() {
        two_executions_of_two_checkpoints(Sabotage::DeleteRetained);
    }

    #[test]
    #[should_panic(expected = "completed.contains")]
    fn early_commits() {
        two_executions_of_two_checkpoints(Sabotage::CommitEarly);
    }
}

/// R86: state that travels with the acknowledgements has to fit into the JobManager's memory together; a checkpoint with which it does
/// not is declined with sum and budget, what was completed before stays, and the next one that fits completes.
#[test]
fn inline_state_beyond_the_budget_declines_the_checkpoint() {
    let mut cluster = running(CoordinatorConfig { inline_state_budget_bytes: 100, ..config() });
    cluster.wait(100 * MS);
    cluster.complete_one();
    cluster.wait(100 * MS);
    let all = subtasks();
    let acknowledge = |cluster: &mut Cluster, checkpoint, subtask, bytes| {
        let attempt = cluster.attempt();
        let mut ack = cluster.make_ack(checkpoint, subtask, attempt);
        ack.snapshot.inline.insert(OperatorUid("op".into()), vec![0; bytes]);
        cluster.acks.push(ack.clone());
        cluster.send(Input::Ack(Box::new(ack)))
    };
    let fits = acknowledge(&mut cluster, CheckpointId(2), all[0], 60);
    assert!(!aborts(&fits), "{fits:?}");
    let exactly = acknowledge(&mut cluster, CheckpointId(2), all[1], 40);
    assert!(!aborts(&exactly), "{exactly:?}");
    let beyond = acknowledge(&mut cluster, CheckpointId(2), all[2], 1);
    let reason = beyond.iter().find_map(|command| match command {
        CoordinatorCommand::Journal(Event::CheckpointDeclined { reason, .. }) => Some(reason.as_str()),
        _ => None,
    });
    let reason = reason.unwrap_or_else(|| panic!("{beyond:?}"));
    assert!(reason.contains("101 bytes") && reason.contains("at most 100"), "{reason}");
    assert!(aborts(&beyond));
    assert_eq!(cluster.head.newest, Some(CheckpointId(1)), "the one before stays");
    cluster.wait(100 * MS);
    cluster.complete_one();
    assert_eq!(cluster.head.newest, Some(CheckpointId(3)));
}

fn aborts(commands: &[CoordinatorCommand]) -> bool {
    commands.iter().any(|command| matches!(command, CoordinatorCommand::Journal(Event::CheckpointAborted { .. })))
}
