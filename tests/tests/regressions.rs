//! Plans that once found something: a defect of the runtime, or an invariant that judged too hard. Each must be clean now, and
//! what made it interesting must still happen in it; if that does not, the plan is stale and says nothing any more.

use runtime::journal::EventKind;
use scenarios::plan::Plan;
use weir_tests::tales::tell;

fn stays_clean(name: &str, plan: &str, needed: &[EventKind]) {
    let plan = Plan::from_toml(plan).unwrap_or_else(|error| panic!("{name}: {error}"));
    let told = tell(&plan);
    assert_eq!(told.record.verdict, reports::Verdict::Clean, "{name}: {:?}", told.record.signature);
    for kind in needed {
        assert!(!told.lines(&[*kind]).is_empty(), "{name} is stale: no {} happens in it any more", kind.name());
    }
}

macro_rules! regression {
    ($(#[$doc:meta])* $name:ident, $file:literal, $($kind:ident),+) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            stays_clean($file, include_str!(concat!("../regressions/", $file, ".toml")), &[$(EventKind::$kind),+]);
        }
    };
}

regression!(
    /// The task that finds its state lost is heard after its neighbours, which failed because of it. The JobManager did not
    /// listen any more, and restored the same lost checkpoint for ever.
    state_lost_is_heard_even_when_heard_last, "state-lost-heard-last", RestorePartLost, CheckpointCondemned
);
regression!(
    /// A thawed TaskManager obeys a deployment that was given up long ago: no fault of the JobManager's.
    a_straggler_may_obey_an_old_order, "late-deployment-of-a-straggler", TaskManagerLost, TaskDeployed
);
regression!(
    /// A thawed TaskManager goes on with the restore of a checkpoint whose files are rightly gone.
    a_straggler_may_restore_what_is_gone, "straggler-restores-deleted-files", CheckpointCondemned, RestorePartLost
);
regression!(
    /// The manifest of a local copy is torn: the whole copy is in doubt, however good its files look.
    a_torn_manifest_spoils_the_copy, "torn-local-manifest", LocalPartRejected, RestorePartLost
);
regression!(
    /// One bit flipped on the way back when a starting JobManager read its probe of the store. It took the store for one that
    /// lets two writers create the same object, and gave the job up for good.
    a_damaged_probe_condemns_no_store, "probe-read-back-damaged", PrimaryRetried, RestoreChosen
);
regression!(
    /// A JobManager was replaced while it stood still, and came back when its successor had gone. The TaskManagers ignored its
    /// orders, which were of an older term than they had obeyed; without them it had nothing to write and never met the
    /// entry that would have told it. The job stood still for ever.
    a_replaced_leader_hears_of_it_from_the_task_managers,
    "replaced-leader-never-hears-of-it",
    LeaderSteppedDown,
    SinkCommitted
);
regression!(
    /// A replaced JobManager judges by the log as it knows it: that nothing can be restored any more is true of that log.
    a_replaced_leader_judges_by_an_old_log, "replaced-leader-judges-by-an-old-log", LeaderSteppedDown
);
regression!(
    /// A replaced JobManager says that the job fails over while its successor has dealt out the slots already.
    a_replaced_leader_deals_out_no_slots, "replaced-leader-says-it-deals-out-slots", LeaderSteppedDown
);
