//! Savepoints, told one situation at a time.

use super::*;

fn order_of(cluster: &Cluster, id: CheckpointId) -> SavepointOrder {
    cluster.savepoints[&id].clone()
}

fn finish(cluster: &mut Cluster, id: CheckpointId) -> Vec<String> {
    cluster.ack_all(id);
    cluster.metadata(true);
    let mut done = kinds(&cluster.append(true));
    done.extend(kinds(&cluster.commit()));
    done
}

/// R44, R52: the head entry comes before the commit, the commit before the answer; the savepoint is what the job goes back to.
#[test]
fn a_savepoint_from_trigger_to_answer() {
    let mut cluster = running(config());
    let triggered = kinds(&cluster.savepoint(false));
    assert_eq!(triggered, ["SavepointTriggered", "CheckpointTriggered", "TriggerSavepoint"]);
    let one = cluster.only_open();
    let done = finish(&mut cluster, one);
    assert_eq!(
        done,
        [
            "SavepointCompleted",
            "CheckpointCompleted",
            "CommitSinks",
            "NotifyComplete",
            "CheckpointNotified",
            "SavepointCompleted"
        ]
    );
    let head = &cluster.head;
    assert_eq!((head.newest, head.retained.keys().copied().collect::<Vec<_>>()), (Some(one), vec![one]));
    assert!(!head.retained[&one].owned && head.unfinished_savepoints.is_empty());
    assert!(head.ledger.contains_key(&one), "what was committed can be replayed");
    cluster.check_nothing_leaks();
}

/// R27, R59: savepoints take nobody's place and are never deleted; the newest stays a restore point as long as it is newer than the
/// oldest checkpoint that is kept.
#[test]
fn savepoints_stay_beside_the_checkpoints() {
    let mut cluster = running(CoordinatorConfig { retained: 2, ..config() });
    let ids = |c: &Cluster| c.head.retained.keys().map(|id| id.0).collect::<Vec<_>>();
    cluster.wait(100 * MS);
    cluster.complete_one();
    for _ in 0..2 {
        cluster.savepoint(false);
        let id = cluster.only_open();
        finish(&mut cluster, id);
    }
    assert_eq!(ids(&cluster), [1, 3], "one checkpoint, and the newest savepoint");
    cluster.wait(200 * MS);
    cluster.complete_one();
    assert_eq!(ids(&cluster), [1, 3, 4]);
    cluster.wait(100 * MS);
    let five = cluster.only_open();
    cluster.ack_all(five);
    cluster.metadata(true);
    let done = kinds(&cluster.append(true));
    assert!(
        done.contains(&"SavepointReleased".to_string()) && done.contains(&"CheckpointSubsumed".to_string()),
        "{done:?}"
    );
    cluster.commit();
    assert_eq!(ids(&cluster), [4, 5]);
    assert_eq!(cluster.savepoint_files.len(), 2 * (subtasks().len() + 1), "both savepoints are whole");
    cluster.check_nothing_leaks();
}

/// FLINK-4322, FLINK-13904: neither pause nor room holds a savepoint up, and it does not put off the next checkpoint.
#[test]
fn a_savepoint_waits_for_nothing_and_delays_nobody() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    // As many as allowed are under way.
    assert!(kinds(&cluster.savepoint(false)).contains(&"TriggerSavepoint".to_string()));
    cluster.ack_all(one);
    cluster.metadata(true);
    cluster.append(true);
    cluster.commit();
    let two = cluster.only_open();
    finish(&mut cluster, two);
    // Within the pause after that.
    assert!(kinds(&cluster.savepoint(false)).contains(&"TriggerSavepoint".to_string()));
    let three = cluster.only_open();
    finish(&mut cluster, three);
    cluster.wait(99 * MS);
    assert!(cluster.open.is_empty());
    cluster.wait(MS);
    assert_eq!(cluster.only_open(), CheckpointId(4), "when it was due");
    cluster.check_nothing_leaks();
}

/// Never subsumed: a checkpoint that is faster takes over the output, and the savepoint completes behind it, no restore point any more.
#[test]
fn an_overtaken_savepoint_completes_all_the_same() {
    let mut cluster = running(CoordinatorConfig { max_concurrent: 2, ..config() });
    cluster.savepoint(false);
    let one = cluster.only_open();
    cluster.wait(100 * MS);
    let two = CheckpointId(2);
    let done = finish(&mut cluster, two);
    assert!(!done.contains(&"CheckpointAborted".to_string()), "{done:?}");
    assert_eq!(cluster.only_open(), one);
    assert_eq!(finish(&mut cluster, one), ["SavepointCompleted", "SavepointCompleted"], "nothing is committed");
    assert_eq!((cluster.head.newest, cluster.head.retained.len()), (Some(two), 1));
    assert!(cluster.head.unfinished_savepoints.is_empty());
    cluster.check_nothing_leaks();
}

/// R44, R53: declined, expired, with metadata that cannot be written, with an entry that cannot be recorded, or in a failover: whoever
/// asked hears of it, nothing is left, and no failure is counted.
#[test]
fn a_savepoint_that_fails_harms_nobody() {
    type Blow = fn(&mut Cluster);
    let fail: [(&str, Blow); 5] = [
        ("declined", |c| {
            let one = c.only_open();
            c.ack(one, subtasks()[0], c.attempt());
            c.send(Input::Decline { subtask: subtasks()[1], checkpoint: one, reason: "target is read-only".into() });
        }),
        ("expired", |c| {
            let one = c.only_open();
            c.ack(one, subtasks()[2], c.attempt());
            c.now = c.now + c.config.timeout;
            c.last_trigger = None;
            c.send(Input::Tick);
        }),
        ("metadata", |c| {
            let one = c.only_open();
            c.ack_all(one);
            c.metadata(false);
        }),
        ("append", |c| {
            let one = c.only_open();
            c.ack_all(one);
            c.metadata(true);
            c.append(false);
        }),
        ("failover", |c| {
            let one = c.only_open();
            c.ack_all(one);
            c.stop();
            c.metadata(true);
        }),
    ];
    for (what, fail) in fail {
        let mut cluster = running(CoordinatorConfig { tolerable_failures: Some(0), ..config() });
        cluster.savepoint(false);
        fail(&mut cluster);
        assert!(!cluster.failed, "{what}: the job failed");
        assert_eq!(cluster.orders.values().copied().collect::<Vec<_>>(), [1], "{what}");
        assert!(cluster.durable_savepoints.is_empty() && cluster.head.newest.is_none(), "{what}");
        let left: Vec<_> = cluster.savepoint_files.iter().filter(|f| !f.as_str().ends_with("_metadata")).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// R53: when nothing runs, or the job ends anyway, there is no savepoint, and that is said at once.
#[test]
fn a_savepoint_of_a_job_that_does_not_run_is_refused() {
    let mut cluster = running(config());
    cluster.stop();
    assert_eq!(kinds(&cluster.savepoint(false)), ["SavepointFailed"]);
    cluster.start();
    cluster.savepoint(true);
    assert_eq!(kinds(&cluster.savepoint(false)), ["SavepointFailed"], "the job is about to end");
}

/// R18, R55: no checkpoint completes between the savepoint and the end; what is under way is given up for it, and nothing is
/// triggered any more.
#[test]
fn a_job_is_stopped_with_a_savepoint() {
    let mut cluster = running(config());
    cluster.wait(100 * MS);
    let one = cluster.only_open();
    let out = kinds(&cluster.savepoint(true));
    assert!(out.contains(&"CheckpointAborted".to_string()) && out.contains(&"TriggerSavepoint".to_string()), "{out:?}");
    assert!(cluster.aborted.contains(&one));
    let two = cluster.only_open();
    cluster.wait(200 * MS);
    assert_eq!(cluster.only_open(), two);
    finish(&mut cluster, two);
    assert_eq!(cluster.head.stop_at, Some(order_of(&cluster, two).directory));
    cluster.wait(200 * MS);
    assert!(cluster.open.is_empty());
    cluster.check_nothing_leaks();
}

/// R55: if the savepoint fails, the job runs on and periodic checkpoints resume.
#[test]
fn a_job_whose_last_savepoint_fails_goes_on() {
    let mut cluster = running(config());
    cluster.savepoint(true);
    let one = cluster.only_open();
    cluster.send(Input::Decline { subtask: subtasks()[3], checkpoint: one, reason: "no".into() });
    assert!(cluster.head.stop_at.is_none());
    cluster.wait(100 * MS);
    let two = cluster.complete_one();
    assert_eq!(cluster.head.newest, Some(two));
    cluster.check_nothing_leaks();
}

/// A leader that lost its memory of a savepoint hears a straggler acknowledge it: the file may belong to one that is complete.
#[test]
fn a_stranger_deletes_nothing_of_a_savepoint() {
    let mut cluster = running(config());
    cluster.savepoint(false);
    let one = cluster.only_open();
    finish(&mut cluster, one);
    cluster.coordinator.settled.clear();
    let ack = cluster.acks.iter().find(|ack| ack.checkpoint == one).cloned().expect("acknowledged");
    let out = kinds(&cluster.send(Input::Ack(Box::new(ack))));
    assert!(!out.contains(&"Discard".to_string()), "{out:?}");
}

/// It waits for ids when the last checkpoint completes, and none will be asked for any more.
#[test]
fn a_savepoint_that_waits_for_ids_at_the_end_is_refused() {
    let mut cluster = running(config());
    cluster.exhausted = true;
    cluster.send(Input::AllSourcesExhausted);
    let last = cluster.only_open();
    while !cluster.ids_wanted {
        cluster.savepoint(false);
    }
    assert!(cluster.savepoint(false).is_empty(), "it waits");
    cluster.ack_all(last);
    cluster.metadata(true);
    cluster.append(true);
    cluster.commit();
    assert!(cluster.orders.values().all(|answers| *answers == 1) && cluster.finals == 1);
    assert_eq!(cluster.coordinator.next_deadline(), None);
    cluster.check_nothing_leaks();
}
