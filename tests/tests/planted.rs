//! Bugs that Apache Flink had, planted again: each is caught within the seeds named, in plans that know nothing of it, by an
//! invariant that is there for it. How soon over many seeds is measured by `./weir power` (`reports/power.toml`).

use runtime::sabotage::Sabotage;
use weir_tests::defects::is_caught;

macro_rules! planted {
    ($($(#[$doc:meta])* $test:ident: $sabotage:ident within $seeds:literal)*) => {
        $($(#[$doc])* #[test]
        fn $test() {
            let defect = Sabotage::$sabotage.defect();
            is_caught(Sabotage::$sabotage, defect.profile, $seeds, defect.expected);
        })*

        const TESTED: &[Sabotage] = &[$(Sabotage::$sabotage),*];
    };
}

planted! {
    a_late_acknowledgement_keeps_its_files: LateAckKeepsFiles within 120
    closing_deletes_what_was_acknowledged: CloseDeletesAcked within 10
    an_unclear_answer_counts_as_a_failure: AmbiguousIsFailure within 120
    the_own_entry_is_taken_for_foreign: OwnEntryIsForeign within 240
    a_subsumption_before_the_registration: SubsumesBeforeRegistering within 20
    a_subsumption_ignores_references: SubsumptionIgnoresReferences within 20
    a_snapshot_is_based_on_what_is_not_complete: BasedOnUnconfirmed within 40
    a_savepoint_is_deleted_like_a_checkpoint: SavepointIsDisposable within 20
    a_savepoint_is_not_what_the_job_goes_back_to: SavepointIsNoRestorePoint within 20
    ids_are_sorted_as_text: IdsSortedAsText within 20
    lost_metadata_blocks_recovery: LostMetadataBlocks within 40
    an_outage_deletes_a_checkpoint: OutageDeletesCheckpoint within 40
    fallback_without_a_replay: FallbackWithoutReplay within 20
    a_trigger_after_the_stop: TriggerAfterStop within 5
    records_during_the_snapshot: EmitDuringSnapshot within 60
    an_ended_source_ignores_triggers: EndedSourceIgnoresTrigger within 5
    parts_of_a_local_copy_overwrite_each_other: LocalPartsOverwrite within 20
    the_newest_local_copy_is_taken: NewestLocalCopy within 10
    a_confirmation_drops_its_own_copy: ConfirmDropsCopy within 20
    a_local_failure_declines: LocalFailureDeclines within 120
    a_local_copy_of_another_range_is_taken: LocalRangeIgnored within 24
    slots_of_others_are_taken: StealSlots within 10
    only_the_own_epoch_is_committed: CommitOnlyOwnEpoch within 20
    names_of_sink_objects_collide: CollidingSinkNames within 10
    what_is_committed_already_is_fatal: CommittedIsFatal within 20
    restoring_deletes_newer_output: RestoreDeletesNewerOutput within 20
    a_task_starts_elsewhere_without_its_state: RelocatedWithoutState within 5
    a_key_group_is_lost_between_two_ranges: KeyGroupOffByOne within 20
    a_new_subtask_gets_no_broadcast_state: BroadcastNotCopied within 60
    union_state_is_doubled: UnionDoubled within 20
    timers_are_not_restored: TimersNotRestored within 20
}

/// Every historical bug is here, and nothing else.
#[test]
fn every_historical_bug_has_its_test() {
    let historical: Vec<_> = Sabotage::ALL.iter().filter(|bug| !bug.defect().bug.is_empty()).collect();
    assert_eq!(historical, TESTED.iter().collect::<Vec<_>>());
}
