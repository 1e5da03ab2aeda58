use std::collections::BTreeMap;

use runtime::{
    checkpoint::{
        metadata::{CheckpointMetadata, VertexShape},
        types::SubtaskSnapshot,
    },
    ids::{AttemptId, CheckpointId, JobId, OperatorUid},
    platform::Wall,
    recovery::local_manifest::MANIFEST,
};

use crate::invariants::{Formats, RuntimeFormats};

/// What the runtime writes is what the invariants see, and nothing of it may be missing.
#[test]
fn metadata_and_manifests_are_those_of_the_runtime() {
    let read = OperatorUid("read".into());
    let snapshot = SubtaskSnapshot { inline: [(read.clone(), vec![9, 8, 7])].into(), ..SubtaskSnapshot::default() };
    let metadata = CheckpointMetadata {
        job: JobId(7),
        job_name: "a job".into(),
        checkpoint: CheckpointId(5),
        attempt: AttemptId::default(),
        written_at: Wall::default(),
        vertices: vec![VertexShape { operators: vec![read], parallelism: 1, max_parallelism: 4 }],
        subtasks: BTreeMap::from([((0, 0), snapshot)]),
    };
    let bytes = metadata.encode().expect("it encodes");
    assert_eq!(RuntimeFormats.metadata(&bytes), Ok(metadata.subtasks));
    assert!(RuntimeFormats.metadata(&bytes[..bytes.len() - 1]).is_err());
    assert!(RuntimeFormats.is_local_manifest(MANIFEST) && !RuntimeFormats.is_local_manifest("part-0"));
}
