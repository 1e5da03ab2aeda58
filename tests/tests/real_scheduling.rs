//! Who returns where, with real processes: TaskManagers and JobManagers are killed (SIGKILL), and the journal of the JobManager tells
//! which slots are dealt out then. The same in the simulated world: `scheduling.rs`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test prepares and inspects the real machine; the law holds for the runtime"
)]

use std::{collections::BTreeSet, path::Path};

use weir_tests::cluster::{Cluster, Deal, Shape};

const WORKER: &str = env!("CARGO_BIN_EXE_weir-test-worker");

/// More than the failures of a test can last; each reads on until its cluster is killed.
const RECORDS_PER_SECOND: &str = "150";

fn cluster(directory: &Path, task_managers: u32, slots: u32, parallelism: &str, more: &[&str]) -> Cluster {
    // State in files, however small it is: what travels with messages has no local copies.
    let mut job = vec!["flights", "--parallelism", parallelism, "--records-per-second", RECORDS_PER_SECOND];
    job.extend(["-D", "state.backend=filesystem", "-D", "state.storage.fs.memory-threshold=0"]);
    job.extend(more);
    Cluster::start(&Shape {
        program: Path::new(WORKER),
        job: job.into_iter().map(str::to_string).collect(),
        output: directory.join("run"),
        task_managers,
        slots,
    })
}

/// The TaskManagers on which something runs, by name.
fn used(deal: &Deal) -> Vec<String> {
    let names: BTreeSet<&String> = deal.values().map(|place| &place.task_manager).collect();
    names.into_iter().cloned().collect()
}

/// Who was on one of `lost` has another slot now; everybody else has the slot and the allocation that he had.
#[track_caller]
fn only_these_moved(before: &Deal, after: &Deal, lost: &[&str]) {
    assert!(before.keys().eq(after.keys()), "{before:?}\n{after:?}");
    for (shared, place) in before {
        let now = &after[shared];
        if lost.contains(&place.task_manager.as_str()) {
            assert!(!lost.contains(&now.task_manager.as_str()), "{shared}: {place:?}, now {now:?}");
            assert_ne!(now.allocation, place.allocation, "{shared} has a new allocation");
        } else {
            let (had, has) = (
                (&place.task_manager, &place.slot, &place.allocation),
                (&now.task_manager, &now.slot, &now.allocation),
            );
            assert_eq!(had, has, "{shared} did not have to move: before {before:?}\nafter {after:?}");
        }
    }
}

/// One of three TaskManagers is killed, and there are spare slots: exactly its tasks move, whichever it is. (R224)
#[test]
fn one_of_three_processes_is_killed() {
    for victim in 0..2 {
        let directory = tempfile::tempdir().expect("a directory");
        // Three of the six slots are spare: whoever is lost, the others have room.
        let mut cluster = cluster(directory.path(), 3, 2, "3", &[]);
        let before = cluster.wait_until_it_runs();
        cluster.wait_for_checkpoints();
        let victim = &used(&before)[victim];
        cluster.kill(victim);
        let after = cluster.wait_until_it_runs();
        only_these_moved(&before, &after, &[victim]);
    }
}

/// A TaskManager is killed and started again on its machine while the job waits to restart, which takes long; and, the second time, the
/// JobManager is killed meanwhile, and another one goes on with the job. All tasks get the slots that they had. (R225)
///
/// Whether they read local copies there is not asked: a machine that is busy with other tests may have been too slow to write them.
#[test]
fn slots_are_kept_through_a_long_restart_delay_and_another_job_manager() {
    for replaced in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let delay = ["-D", "restart-strategy.fixed-delay.delay=3 s"];
        let mut cluster = cluster(directory.path(), 4, 1, "3", &delay);
        let before = cluster.wait_until_it_runs();
        cluster.wait_for_checkpoints();
        let victim = &used(&before)[1];
        cluster.kill(victim);
        cluster.wait_for("TaskManagerLost");
        cluster.start_task_manager(victim);
        if replaced {
            cluster.wait("the delay begins", |line| {
                line.contains(" JobStateChanged ") && line.contains("to=\"RESTARTING\"")
            });
            cluster.replace_job_manager();
        }
        let after = cluster.wait_until_it_runs();
        only_these_moved(&before, &after, &[]);
        assert!(after.values().all(|place| place.previous), "{after:?}");
    }
}

/// Two TaskManagers are killed shortly after each other: before the first loss is noticed, when it has just been, and when its task
/// has just been dealt another slot. In the end the tasks of both have moved, and nobody else. (R226)
#[test]
fn two_processes_are_killed_shortly_after_each_other() {
    for moment in ["", "TaskManagerLost", "SlotAllocated"] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut cluster = cluster(directory.path(), 5, 1, "3", &[]);
        let before = cluster.wait_until_it_runs();
        cluster.wait_for_checkpoints();
        let [first, second, _] = &used(&before)[..] else { panic!("three slots on three TaskManagers: {before:?}") };
        cluster.kill(first);
        if !moment.is_empty() {
            cluster.wait_for(moment);
        }
        cluster.kill(second);
        // It may have run in between, without the second one's loss being noticed yet.
        let mut after = cluster.wait_until_it_runs();
        while used(&after).contains(second) {
            after = cluster.wait_until_it_runs();
        }
        only_these_moved(&before, &after, &[first, second]);
    }
}
