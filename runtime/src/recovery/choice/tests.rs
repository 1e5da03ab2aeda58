//! The restore choice and the verification of replays.

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::{
        head::HeadEntry,
        types::{MergeRun, MergeStep},
    },
    ids::{AttemptId, VertexId},
    platform::ObjectName,
};

fn head(ids: &[u64], retained: usize) -> HeadState {
    let mut head = HeadState::default();
    for (position, id) in ids.iter().enumerate() {
        let kept = &ids[(position + 1).saturating_sub(retained)..=position];
        let merges = BTreeMap::from([((1, 0), vec![MergeRun { input: 0, records: *id as u32 }.into()])]);
        let entry = HeadEntry::Completed {
            attempt: AttemptId::default(),
            checkpoint: CheckpointId(*id),
            metadata: ObjectName::new(format!("metadata-{id}")).unwrap(),
            objects: Vec::new(),
            ledger: LedgerEpoch {
                checkpoint: CheckpointId(*id),
                previous: position.checked_sub(1).map(|p| CheckpointId(ids[p])),
                merges,
                ..LedgerEpoch::default()
            },
            sinks: BTreeMap::new(),
            exhausted: false,
            retained: kept.iter().map(|id| CheckpointId(*id)).collect(),
            dropped: Vec::new(),
        };
        head.apply(head.next_sequence, &entry);
    }
    head
}

fn condemned(ids: &[u64]) -> BTreeMap<CheckpointId, String> {
    ids.iter().map(|id| (CheckpointId(*id), "part-1 is gone".to_string())).collect()
}

fn replayed(choice: &RestoreChoice) -> Vec<u64> {
    choice.replay.iter().map(|e| e.checkpoint.0).collect()
}

#[test]
fn nothing_completed_means_a_fresh_start_and_the_newest_is_restored_otherwise() {
    let fresh = choose(&HeadState::default(), &condemned(&[]), &ChoiceSettings::default()).unwrap();
    assert_eq!((fresh.checkpoint, fresh.continues), (None, None));
    let newest = choose(&head(&[1, 2, 5], 2), &condemned(&[]), &ChoiceSettings::default()).unwrap();
    assert_eq!((newest.checkpoint, newest.continues), (Some(CheckpointId(5)), Some(CheckpointId(5))));
    assert!(newest.replay.is_empty());
}

/// R203: the next older whole checkpoint, with a replay of what was committed behind it.
#[test]
fn a_lost_checkpoint_is_skipped_and_its_epoch_replayed() {
    let head = head(&[1, 2, 5, 6], 3);
    let choice = choose(&head, &condemned(&[6, 5]), &ChoiceSettings::default()).unwrap();
    assert_eq!(choice.checkpoint, Some(CheckpointId(2)));
    assert_eq!(replayed(&choice), [5, 6]);
    assert_eq!((choice.continues, choice.replay_to()), (Some(CheckpointId(6)), Some(CheckpointId(6))));
    let plan = replay_plan(&choice, SubtaskId { vertex: VertexId(1), index: 0 }, &SabotageSet::default());
    assert_eq!(
        plan.epochs.iter().map(|e| e.merges[0]).collect::<Vec<_>>(),
        [5, 6].map(|records| MergeStep::Run(MergeRun { input: 0, records }))
    );
    let fail = ChoiceSettings { fallback: FallbackBehindCommit::Fail, ..ChoiceSettings::default() };
    assert_eq!(choose(&head, &condemned(&[6]), &fail).unwrap_err().tried.len(), 4);
    let duplicate = ChoiceSettings { fallback: FallbackBehindCommit::Duplicate, ..ChoiceSettings::default() };
    let choice = choose(&head, &condemned(&[6]), &duplicate).unwrap();
    assert!(choice.duplicates && choice.replay.is_empty());
    assert_eq!((choice.checkpoint, choice.continues), (Some(CheckpointId(5)), Some(CheckpointId(5))));
}

/// R202, R203: if none is whole, it is named what was tried and why each is impossible.
#[test]
fn with_everything_lost_only_a_whole_ledger_helps() {
    let all = choose(&head(&[1, 2, 5], 3), &condemned(&[1, 2, 5]), &ChoiceSettings::default()).unwrap();
    assert_eq!((all.checkpoint, replayed(&all)), (None, vec![1, 2, 5]));
    let error = choose(&head(&[1, 2, 5], 2), &condemned(&[2, 5]), &ChoiceSettings::default()).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.tried.len(), 3);
    assert!(text.contains("checkpoint 5: lost: part-1 is gone") && text.contains("epoch 1"), "{text}");
}

#[test]
fn an_epoch_missing_in_the_ledger_makes_the_choices_behind_it_impossible() {
    let mut head = head(&[1, 2, 3, 4], 4);
    head.ledger.remove(&CheckpointId(3));
    let choice = choose(&head, &condemned(&[4]), &ChoiceSettings::default()).unwrap();
    assert_eq!((choice.checkpoint, replayed(&choice)), (Some(CheckpointId(3)), vec![4]));
    assert_eq!(choose(&head, &condemned(&[4, 3]), &ChoiceSettings::default()).unwrap_err().tried.len(), 5);
}

proptest! {
    /// The choice is the newest whole checkpoint, and the replay leads exactly from it to the newest committed one.
    #[test]
    fn the_choice_is_the_newest_whole_one(gaps in proptest::collection::vec(1u64..4, 1..10), retained in 1usize..5, lost in any::<u16>()) {
        let ids: Vec<u64> = gaps.iter().scan(0, |id, gap| { *id += gap; Some(*id) }).collect();
        let head = head(&ids, retained);
        let gone: Vec<u64> = ids.iter().copied().filter(|id| lost >> (id % 16) & 1 == 1).collect();
        let whole = head.retained.keys().rev().find(|id| !gone.contains(&id.0)).copied();
        match choose(&head, &condemned(&gone), &ChoiceSettings::default()) {
            Ok(choice) => {
                prop_assert_eq!(choice.checkpoint, whole);
                prop_assert_eq!(choice.continues, head.newest);
                let from = whole.unwrap_or_default().0;
                let expected: Vec<u64> = ids.iter().copied().filter(|id| *id > from).collect();
                prop_assert_eq!(replayed(&choice), expected);
            }
            Err(impossible) => {
                prop_assert!(whole.is_none() && ids.len() > retained);
                prop_assert_eq!(impossible.tried.len(), head.retained.len() + 1);
            }
        }
    }
}

#[test]
fn a_replay_must_give_the_committed_digests() {
    let out = OperatorUid("out".into());
    let digest = |n: u64| BTreeMap::from([(out.clone(), OutputDigest { sum: n.into(), records: n })]);
    let mut head = head(&[1, 2], 2);
    for epoch in head.ledger.values_mut() {
        epoch.digests = digest(5);
    }
    let choice = choose(&head, &condemned(&[2]), &ChoiceSettings::default()).unwrap();
    let sinks: BTreeSet<_> = (0..2).map(|index| SubtaskId { vertex: VertexId(2), index }).collect();
    let [a, b] = sinks.iter().copied().collect::<Vec<_>>()[..] else { panic!() };
    let epoch = CheckpointId(2);
    let mut good = ReplayVerification::new(&choice, &sinks);
    assert_eq!(good.report(a, epoch, &digest(3)), Ok(false));
    assert_eq!(good.report(a, epoch, &digest(3)), Ok(false), "a repetition");
    assert!(!good.is_done());
    assert_eq!(good.report(b, epoch, &digest(2)), Ok(true));
    assert!(good.is_done());
    let mut bad = ReplayVerification::new(&choice, &sinks);
    bad.report(a, epoch, &digest(3)).unwrap();
    assert_eq!(bad.report(b, epoch, &digest(3)).unwrap_err().sink, out);
}

#[cfg(feature = "sabotage")]
#[test]
fn sabotaged_it_takes_the_oldest() {
    let settings = ChoiceSettings { sabotage: SabotageSet([Sabotage::RestoreOldest].into()), ..Default::default() };
    assert_eq!(choose(&head(&[1, 2, 3], 2), &condemned(&[]), &settings).unwrap().checkpoint, Some(CheckpointId(2)));
}

#[cfg(feature = "sabotage")]
#[test]
fn sabotaged_the_replay_is_too_short_or_out_of_order() {
    let with = |what| SabotageSet([what].into());
    let settings = ChoiceSettings { sabotage: with(Sabotage::ReplayTooShort), ..Default::default() };
    let choice = choose(&head(&[1, 2, 3], 3), &condemned(&[2, 3]), &settings).unwrap();
    assert_eq!((choice.checkpoint, replayed(&choice)), (Some(CheckpointId(1)), vec![2]));
    let mut head = head(&[1, 2], 2);
    let subtask = SubtaskId { vertex: VertexId(1), index: 0 };
    let times = MergeStep::Watermark(7);
    let runs = [times, MergeRun { input: 0, records: 3 }.into(), MergeRun { input: 1, records: 4 }.into()];
    for epoch in head.ledger.values_mut() {
        epoch.merges.insert(subtask.into(), runs.to_vec());
    }
    let choice = choose(&head, &condemned(&[2]), &ChoiceSettings::default()).unwrap();
    let plan = replay_plan(&choice, subtask, &with(Sabotage::ReplayOutOfOrder));
    assert_eq!(plan.epochs[0].merges, [runs[0], runs[2], runs[1]]);
    assert_eq!(replay_plan(&choice, subtask, &SabotageSet::default()).epochs[0].merges, runs);
}

/// The newest checkpoint is restored at any parallelism; one behind committed output only at the parallelism of what must be
/// replayed, and the refusal says so.
#[test]
fn a_replay_needs_the_parallelism_that_recorded_it() {
    let head = head(&[1, 2], 2);
    let at = |subtasks: &[SubtaskKey]| ChoiceSettings {
        subtasks: Some(subtasks.iter().copied().collect()),
        ..ChoiceSettings::default()
    };
    let (same, other) = (at(&[(1, 0)]), at(&[(1, 0), (1, 1)]));
    assert_eq!(choose(&head, &condemned(&[]), &other).unwrap().checkpoint, Some(CheckpointId(2)));
    assert_eq!(choose(&head, &condemned(&[2]), &same).unwrap().checkpoint, Some(CheckpointId(1)));
    let refused = choose(&head, &condemned(&[2]), &other).unwrap_err();
    assert!(refused.at_other_parallelism);
    insta::assert_snapshot!(refused, @"no checkpoint can be restored: checkpoint 2: lost: part-1 is gone; checkpoint 1: the epochs behind it, whose output is committed, were recorded at another parallelism, and only there can they be replayed: start the job at the parallelism that it had; start from nothing: the epochs behind it, whose output is committed, were recorded at another parallelism, and only there can they be replayed: start the job at the parallelism that it had");
    assert!(!choose(&head, &condemned(&[1, 2]), &at(&[])).unwrap_err().tried.is_empty());
}

/// A ledger whose epochs continue from themselves or from later ones is no way back: the choice is refused, and does not go round
/// for ever.
#[test]
fn a_ledger_that_leads_nowhere_is_damaged() {
    for previous in [3, 4, 9] {
        let mut head = head(&[1, 3, 4], 3);
        head.ledger.get_mut(&CheckpointId(3)).unwrap().previous = Some(CheckpointId(previous));
        let refused = choose(&head, &condemned(&[4, 3]), &ChoiceSettings::default()).unwrap_err();
        let damaged = format!("the ledger is damaged: epoch 3 continues from Some(CheckpointId({previous}))");
        assert_eq!(refused.tried[2], (Some(CheckpointId(1)), damaged));
    }
}

/// Output was committed on another way than over the checkpoint, which a later one may skip: it cannot be replayed from there.
#[test]
fn output_must_descend_from_what_is_restored() {
    let mut head = head(&[1, 2, 3, 4], 4);
    head.ledger.get_mut(&CheckpointId(4)).unwrap().previous = Some(CheckpointId(2));
    let choice = choose(&head, &condemned(&[4]), &ChoiceSettings::default()).unwrap();
    assert_eq!((choice.checkpoint, replayed(&choice)), (Some(CheckpointId(2)), vec![4]));
    head.ledger.get_mut(&CheckpointId(4)).unwrap().previous = None;
    let choice = choose(&head, &condemned(&[4]), &ChoiceSettings::default()).unwrap();
    assert_eq!(
        (choice.checkpoint, replayed(&choice)),
        (None, vec![4]),
        "everything but a start from nothing is beside it"
    );
}

/// The way back leads past a checkpoint: that is why it is of no use, and not what the ledger has forgotten below it.
#[test]
fn what_the_way_back_leads_past_is_not_on_it() {
    let mut head = head(&[1, 2, 3, 4], 4);
    head.ledger.get_mut(&CheckpointId(4)).unwrap().previous = Some(CheckpointId(2));
    head.ledger.remove(&CheckpointId(2));
    let refused = choose(&head, &condemned(&[4, 2]), &ChoiceSettings::default()).unwrap_err();
    let tried = |position: usize| (refused.tried[position].0, refused.tried[position].1.as_str());
    assert_eq!(tried(1), (Some(CheckpointId(3)), "committed output does not descend from it"));
    let forgotten = "epoch 2, whose output is committed, is not in the ledger any more";
    assert_eq!(tried(3), (Some(CheckpointId(1)), forgotten));
}

/// What the head log knows to be lost need not be found again.
#[test]
fn what_was_condemned_before_is_not_tried_again() {
    let mut head = head(&[1, 2, 3], 3);
    head.condemned.insert(CheckpointId(3), "metadata is gone".to_string());
    let choice = choose(&head, &condemned(&[2]), &ChoiceSettings::default()).unwrap();
    assert_eq!((choice.checkpoint, replayed(&choice)), (Some(CheckpointId(1)), vec![2, 3]));
}

/// Under `duplicate` a start from nothing is a replay all the same, for nothing stands for what was committed.
#[test]
fn duplicates_are_accepted_from_a_checkpoint_only() {
    let duplicate = ChoiceSettings { fallback: FallbackBehindCommit::Duplicate, ..ChoiceSettings::default() };
    let choice = choose(&head(&[1, 2], 2), &condemned(&[1, 2]), &duplicate).unwrap();
    assert_eq!((choice.checkpoint, replayed(&choice), choice.duplicates), (None, vec![1, 2], false));
}

/// A replayed epoch has output for a sink that had committed none, or none for one that had.
#[test]
fn each_sink_is_compared() {
    let digest = |n: u64| OutputDigest { sum: n.into(), records: n };
    let [a, b] = ["a", "b"].map(|sink| OperatorUid(sink.into()));
    let epoch = LedgerEpoch { digests: [(a.clone(), digest(3))].into(), ..LedgerEpoch::default() };
    assert_eq!(verify_epoch(&epoch, &[(a.clone(), digest(3))].into()), Ok(()));
    assert_eq!(verify_epoch(&epoch, &[(a.clone(), digest(3)), (b.clone(), digest(0))].into()), Ok(()));
    assert_eq!(verify_epoch(&epoch, &BTreeMap::new()).unwrap_err().sink, a);
    assert_eq!(verify_epoch(&epoch, &[(a, digest(3)), (b.clone(), digest(1))].into()).unwrap_err().sink, b);
}

/// An epoch that is not replayed, or a subtask that has no sink, is nobody's to wait for; nothing to replay is done from the start.
#[test]
fn reports_of_nobody_are_ignored() {
    let head = head(&[1, 2, 3], 3);
    let subtask = |index| SubtaskId { vertex: VertexId(2), index };
    let sinks = BTreeSet::from([subtask(0)]);
    let none = choose(&head, &condemned(&[]), &ChoiceSettings::default()).unwrap();
    assert!(ReplayVerification::new(&none, &sinks).is_done());
    let choice = choose(&head, &condemned(&[3, 2]), &ChoiceSettings::default()).unwrap();
    let mut verification = ReplayVerification::new(&choice, &sinks);
    let nothing = BTreeMap::new();
    assert_eq!(verification.report(subtask(0), CheckpointId(1), &nothing), Ok(false));
    assert_eq!(verification.report(subtask(1), CheckpointId(2), &nothing), Ok(false));
    assert_eq!(verification.report(subtask(0), CheckpointId(2), &nothing), Ok(true));
    assert!(!verification.is_done(), "epoch 3 is open");
    assert_eq!(verification.report(subtask(0), CheckpointId(3), &nothing), Ok(true));
    assert!(verification.is_done());
}
