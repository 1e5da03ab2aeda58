//! Invariant 1: exactly-once output.
//!
//! Rule: at every instant the committed output is, per key, a prefix of what a perfect run would write; each input's
//! effect is in it once; a finished job's output is complete. A commit comes only after its checkpoint is completed in the
//! head log, with the objects listed there, and not before the commits of the epochs it continues.
//!
//! Truth: the manifests and the objects they name, read at the instant a manifest appears; the head log.
//!
//! Excuse: the plan destroyed committed data objects themselves (then the output is judged no more), or the
//! configuration `duplicate` gave the guarantee up and a fallback behind a commit took place.

use runtime::ids::OperatorUid;

use super::{Check, End, Findings, Look, ManifestFact, ManifestObject};

#[derive(Default)]
pub(super) struct Output {}

impl Check for Output {
    fn name(&self) -> &'static str {
        "exactly-once"
    }

    fn on_manifest(&mut self, look: &Look<'_>, fact: &ManifestFact<'_>, out: &mut Findings<'_>) {
        let entity = format!("{} epoch {}", fact.sink, fact.epoch);
        let manifest = match &fact.manifest {
            Ok(manifest) => manifest,
            Err(reason) => return out.report(entity, "manifest-unreadable", reason),
        };
        if manifest.checkpoint != fact.epoch {
            let message = format!("the manifest speaks of checkpoint {}", manifest.checkpoint);
            return out.report(entity, "manifest-misnamed", message);
        }
        if !manifest.commit {
            return;
        }
        let Some(completed) = look.ground.head.completed.get(&fact.epoch) else {
            return out.report(entity, "commit-before-completion", "the head log has no such completed checkpoint");
        };
        let listed = completed.completion.sinks.get(&OperatorUid(fact.sink.to_string()));
        let mut listed: Vec<ManifestObject> = listed
            .into_iter()
            .flatten()
            .map(|o| ManifestObject { name: o.object.as_str().to_string(), length: o.length, records: o.records })
            .collect();
        let mut named = manifest.objects.clone();
        listed.sort();
        named.sort();
        if listed != named {
            let message = format!("the manifest names {named:?}, the head log lists {listed:?}");
            return out.report(entity, "commit-differs", message);
        }
        let previous = completed.completion.ledger.previous;
        if let Some(previous) = previous
            && !look.ground.manifests.contains_key(&(fact.sink.to_string(), previous))
            && has_output(look, previous, fact.sink)
        {
            out.report(
                &entity,
                "commit-out-of-order",
                format!("epoch {previous}, which it continues, is not committed"),
            );
        }
        if let Some(Err(wrong)) = &fact.absorbed {
            out.report(&wrong.entity, wrong.kind, format!("{entity}: {}", wrong.message));
        }
    }

    fn at_end(&mut self, look: &Look<'_>, end: &End, out: &mut Findings<'_>) {
        if !look.ground.output.quiet
            && (look.ground.head.finished || matches!(end.outcome, Some(Ok(()))))
            && let Err(wrong) = look.ground.output.oracle.complete()
        {
            out.wrong(&wrong);
        }
    }
}

fn has_output(look: &Look<'_>, checkpoint: runtime::ids::CheckpointId, sink: &str) -> bool {
    let completed = look.ground.head.completed.get(&checkpoint);
    completed
        .and_then(|c| c.completion.sinks.get(&OperatorUid(sink.to_string())))
        .is_some_and(|objects| objects.iter().any(|o| o.records > 0))
}

#[cfg(test)]
mod tests {
    use runtime::ids::CheckpointId;

    use crate::invariants::{FaultNotice, testing::Story};

    /// Three checkpoints, each committed after it completed; the job reads everything and ends.
    #[test]
    fn a_quiet_run_passes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1).checkpoint(2, &[20, 20]).commit(2).checkpoint(3, &[30, 30]).commit(3);
        story.finish();
        story.holds();
    }

    /// The manifest is there before the head log has the checkpoint.
    #[test]
    fn an_early_commit_is_found() {
        let mut story = Story::begin();
        let prepared = story.prepare(1, &[10, 10]);
        story.commit_prepared(&prepared);
        story.breaks("exactly-once", "commit-before-completion");
    }

    /// A restart from checkpoint 1 writes again what checkpoint 2 had committed.
    #[test]
    fn output_written_again_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        let before = story.model.clone();
        story.checkpoint(2, &[20, 20]).commit(2);
        story.model = before;
        story.checkpoint(3, &[30, 30]).commit(3);
        story.breaks("exactly-once", "duplicate");
    }

    /// The second epoch's output is made visible before the first's.
    #[test]
    fn commits_out_of_order_are_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).checkpoint(2, &[20, 20]).commit(2);
        story.breaks("exactly-once", "commit-out-of-order");
    }

    /// The job says it is done and the last inputs are nowhere.
    #[test]
    fn a_finished_job_with_inputs_missing_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).commit(1);
        story.finish();
        story.breaks("exactly-once", "missing");
        assert!(story.truth.has(story.layout().sink_commit("audit", CheckpointId(1)).as_str()));
    }

    fn manifest(story: &mut Story, epoch: u64, text: String) {
        let name = story.layout().sink_commit("audit", CheckpointId(epoch));
        story.create(name.as_str(), text);
    }

    /// A manifest that is none, one under the name of another, and one that lists something else than was decided.
    #[test]
    fn manifests_that_are_wrong_are_found() {
        let text = |checkpoint: u64, objects: &str| {
            format!(r#"{{"kind": "commit", "checkpoint": {checkpoint}, "objects": [{objects}]}}"#)
        };
        let other = r#"{"name": "output/audit/data/other", "length": 1, "records": 1}"#;
        for (text, kind) in [
            ("nonsense".to_string(), "manifest-unreadable"),
            (text(2, ""), "manifest-misnamed"),
            (text(1, ""), "commit-differs"),
            (text(1, other), "commit-differs"),
        ] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]);
            manifest(&mut story, 1, text);
            story.breaks("exactly-once", kind);
        }
    }

    /// The committed object is not what was written. If the plan destroyed it, the output is judged no more.
    #[test]
    fn committed_output_that_changed_is_found() {
        for excused in [false, true] {
            let mut story = Story::begin();
            story.checkpoint(1, &[10, 10]);
            let name = story.data_of(1);
            story.truth.rot(&name);
            if excused {
                story.fault(&FaultNotice::Object { name });
            }
            story.commit(1);
            if excused { story.holds() } else { story.breaks("exactly-once", "unreadable") }
        }
    }

    /// A void marker commits nothing.
    #[test]
    fn a_void_marker_passes() {
        let mut story = Story::begin();
        manifest(&mut story, 1, r#"{"kind": "void", "checkpoint": 1, "objects": []}"#.to_string());
        story.checkpoint(2, &[20, 20]).commit(2);
        story.holds();
    }
}
