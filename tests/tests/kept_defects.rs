//! Planted bugs as they were found by a sweep, shrunk, and kept (`regressions/planted`, an entry each): with the bug the plan still
//! fails in the same way, without it it is clean under all its schedules, and what it needs still happens.

use runtime::sabotage::Sabotage;
use weir_tests::kept::{corpus, entry, holds, names, run};

/// Faults that a shrunk plan may hold.
const MOST_FAULTS: usize = 3;

fn fails_with_the_bug_alone(name: &str) {
    let kept = entry(&corpus().join("planted"), name);
    let bugs: Vec<String> = kept.plan.sabotage.iter().copied().map(Sabotage::name).collect();
    assert_eq!(bugs, [name], "the entry is named after its bug");
    let user = kept.plan.workload.parameters.keys().filter(|name| name.starts_with("user_")).count();
    assert!(kept.plan.faults.len() + user <= MOST_FAULTS, "{name}: it was not shrunk");
    let broken = run(&kept.plan);
    assert_eq!(broken.signature, kept.kept.signature, "{name}: {:?}", broken.message);
    let mut mended = kept;
    mended.plan.sabotage.clear();
    if let Err(message) = holds(&mended) {
        panic!("{name}, without the bug: {message}");
    }
}

macro_rules! kept {
    ($($test:ident: $name:literal)*) => {
        $(#[test]
        fn $test() {
            fails_with_the_bug_alone($name);
        })*

        const TESTED: &[&str] = &[$($name),*];
    };
}

kept! {
    commit_early: "commit-early"
    commit_only_own_epoch: "commit-only-own-epoch"
    committed_is_fatal: "committed-is-fatal"
    fallback_without_replay: "fallback-without-replay"
    forget_allocations: "forget-allocations"
    lost_metadata_blocks: "lost-metadata-blocks"
    never_restart: "never-restart"
    newest_local_copy: "newest-local-copy"
    relocated_without_state: "relocated-without-state"
    replay_unmuted: "replay-unmuted"
    restore_drops_key_group: "restore-drops-key-group"
    restore_oldest: "restore-oldest"
    reuse_checkpoint_ids: "reuse-checkpoint-ids"
    skip_alignment: "skip-alignment"
    trust_local_part: "trust-local-part"
}

#[test]
fn every_entry_has_its_test() {
    let mut tested = TESTED.to_vec();
    tested.sort_unstable();
    assert_eq!(names(&corpus().join("planted")), tested);
    assert!(tested.len() >= 10);
}
