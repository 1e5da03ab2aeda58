use std::{collections::BTreeSet, rc::Rc};

use runtime::{
    ids::{CheckpointId, JobId},
    jobs::{InputFile, JobParams, wordcount},
    journal::Event,
    points::Point,
};

use crate::{
    invariants::{FallbackPolicy, FaultNotice, RuntimeFormats, SuiteConfig, testing::Story},
    oracle::LineJobOracle,
};

/// Causes are looked for before consequences, and the runtime's own word comes last.
#[test]
fn every_invariant_has_a_name_of_its_own() {
    let names = Story::begin().names();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert_eq!((names.first(), names.last()), (Some(&"one-leader"), Some(&"assertions")));
    assert!(names.contains(&"exactly-once") && names.iter().all(|name| !name.is_empty()));
}

/// Of one kind per invariant the first finding is kept: it says it all. Other kinds, and the same kind of another invariant, count.
#[test]
fn the_first_finding_of_each_kind_is_kept() {
    let mut story = Story::begin();
    for (epoch, text) in [(1, "nonsense"), (2, "nonsense"), (3, r#"{"kind": "void", "checkpoint": 4}"#)] {
        let name = story.layout().sink_commit("audit", CheckpointId(epoch));
        story.create(name.as_str(), text);
    }
    for assertion in [Point::CompletesUpwards, Point::IdsFromGrantedBlock] {
        let event = Event::AssertionBroken { assertion: assertion.name().into(), detail: String::new() };
        story.event("jobmanager", event.clone());
        story.event("tm-1", event);
    }
    let expected = [
        ("exactly-once", "manifest-unreadable", "audit epoch 1"),
        ("exactly-once", "manifest-misnamed", "audit epoch 3"),
        (Point::CompletesUpwards.name(), "broken", "jobmanager"),
        (Point::IdsFromGrantedBlock.name(), "broken", "jobmanager"),
    ];
    assert_eq!(story.found(), expected);
    assert_eq!(story.end(None), 5, "and that the job never ended");
}

/// Only what is committed counts.
#[test]
fn committed_records_are_counted() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 12]);
    assert_eq!(story.committed_records(), 0);
    story.commit(1).checkpoint(2, &[20, 20]).commit(2);
    assert_eq!(story.committed_records(), 40);
}

/// Output is written a second time. That is accepted where the configuration says so and a restore went back behind a commit, not
/// where there was no such restore, nor under another policy.
#[test]
fn duplicates_are_accepted_behind_a_commit_only() {
    let duplicate = |story: &Story| {
        story.found().iter().any(|(invariant, kind, _)| (*invariant, *kind) == ("exactly-once", "duplicate"))
    };
    for (policy, lost, accepted) in [
        (FallbackPolicy::Duplicate, true, true),
        (FallbackPolicy::Duplicate, false, false),
        (FallbackPolicy::Replay, true, false),
    ] {
        let mut story = Story::configured(|config| config.fallback = policy);
        story.checkpoint(1, &[10, 10]).commit(1);
        let before = story.model.clone();
        story.checkpoint(2, &[20, 20]).commit(2);
        if lost {
            story.lose_part(2);
            story.restore(Some(1), None);
        } else {
            story.restore(Some(2), Some(2));
        }
        story.model = before;
        story.checkpoint(3, &[20, 20]).commit(3);
        assert_eq!(duplicate(&story), !accepted, "{policy:?}, lost: {lost}: {:?}", story.found());
        if accepted {
            story.holds();
            assert_eq!(story.committed_records(), 40, "what is accepted is judged no more");
        }
    }
}

/// Once the output is wrong it stays so: what follows from it is not judged again.
#[test]
fn wrong_output_is_reported_once() {
    let mut story = Story::begin();
    story.checkpoint(1, &[10, 10]);
    let data = story.data_of(1);
    story.truth.rot(&data);
    story.fault(&FaultNotice::Object { name: data });
    story.commit(1).checkpoint(2, &[20, 20]).commit(2);
    story.end(Some(Ok(())));
    story.holds_but_unfinished();
    assert_eq!(story.committed_records(), 0);
}

/// What the harness takes where a plan says nothing else.
#[test]
fn a_job_tells_the_suite_what_to_expect() {
    let inputs = vec![InputFile { path: "words.txt".into(), length: 8 }];
    let job = wordcount::job(&JobParams { inputs, parallelism: 2, ..JobParams::default() }).expect("a job");
    let oracle = LineJobOracle::words("to be\nor", "words.txt", 2);
    let config = SuiteConfig::for_job(&job, Rc::new(RuntimeFormats), Box::new(oracle));
    assert_eq!((config.layout.job, config.subtasks.len()), (job.id, job.graph.subtasks().count()));
    assert!(!config.sinks.is_empty());
    assert_eq!((config.channel_window_bytes, config.buffer_bytes), (262_144, 32_768));
}

/// A job that goes on as another one is judged by the other one's log, and what held for the first still holds.
#[test]
fn a_job_that_goes_on_is_judged_on() {
    let mut story = Story::begin();
    story.checkpoint(5, &[10, 10]).commit(5);
    story.resumed(JobId(0xdef));
    story.claim(2);
    story.checkpoint(6, &[20, 20]).commit(6);
    story.holds();
    let before = story.committed_records();
    assert_eq!(before, 40);
    story.checkpoint(4, &[30, 30]);
    story.breaks("checkpoint-ids", "id-not-increasing");
}
