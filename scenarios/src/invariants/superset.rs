//! Invariant 2: primary is a superset of local.
//!
//! Rule: from the instant a checkpoint is completed until its subsumption is durable, primary holds every part that its
//! metadata names, in full, and whatever a complete local copy of it holds on any disk, primary holds with equal content.
//! (A local copy is complete once its own manifest is there; files of an unfinished or given-up copy promise nothing.)
//!
//! Truth: metadata and parts in primary, files on all disks; looked at whenever a checkpoint completes, for all that
//! are retained, and whenever a local copy is stored later.
//!
//! Excuse: an object or a local file that the plan itself damaged, each for itself.

use runtime::{checkpoint::types::StatePart, ids::CheckpointId, journal::Event};

use super::{
    Check, Findings, Look, Seen,
    formats::{HeadRecord, local_file},
    ground::{CompletedFact, HeadFact},
};

pub(super) struct Superset;

/// The rule for parts in primary alone.
fn primary_holds_all(look: &Look<'_>, completed: &CompletedFact, out: &mut Findings<'_>) {
    let entity = format!("checkpoint {}", completed.completion.checkpoint);
    let damaged = |object: &str| look.ground.damage.objects.contains_key(object);
    if let Err(reason) = &completed.snapshots
        && !damaged(&completed.completion.metadata)
    {
        let message = format!("metadata {}: {reason}", completed.completion.metadata);
        out.report(&entity, "metadata-missing", message);
    }
    for (_, part) in completed.parts() {
        let object = &part.location;
        if part.object().is_some_and(|object| damaged(object.as_str())) {
            continue;
        }
        match look.ground.part_intact(look.truth, part) {
            Err(reason) => out.report(&entity, "part-missing", format!("{object}: {reason}")),
            Ok(bytes) if bytes.len() as u64 != part.length => {
                let message = format!("{object} has {} bytes, its metadata says {}", bytes.len(), part.length);
                out.report(&entity, "part-length", message);
            }
            Ok(_) => {}
        }
    }
}

/// The rule for local copies.
fn local_is_contained(look: &Look<'_>, only: Option<CheckpointId>, out: &mut Findings<'_>) {
    for machine in look.truth.machines() {
        let files = look.truth.files(&machine);
        let complete = look.ground.complete_directories(&files);
        for (path, _) in &files {
            let Some(name) = local_file(path, &look.ground.job) else { continue };
            let wanted = only.is_none_or(|checkpoint| checkpoint == name.checkpoint)
                && look.ground.head.retained.contains(&name.checkpoint)
                && complete.contains(name.directory)
                && !look.ground.formats.is_local_manifest(name.file)
                && look.ground.damage.file(&machine, path).is_none();
            let Some(completed) = look.ground.head.completed.get(&name.checkpoint).filter(|_| wanted) else { continue };
            let Ok(snapshots) = &completed.snapshots else { continue };
            let part = snapshots.get(&name.subtask).and_then(|s| s.parts.iter().find(|p| p.name == name.file));
            let entity = format!("{machine}:{path}");
            // What is inline has no object, and its local file nothing to be contained in.
            let Some(object) = part.and_then(StatePart::object) else {
                out.report(entity, "unknown-local-part", "the checkpoint's metadata in primary knows no such part");
                continue;
            };
            if look.ground.damage.objects.contains_key(object.as_str()) {
                continue;
            }
            let Some(local) = look.truth.file(&machine, path) else { continue };
            if look.truth.object(object.as_str()) != Some(local) {
                out.report(entity, "local-differs", format!("primary's {object} has other bytes or none"));
            }
        }
    }
}

impl Check for Superset {
    fn name(&self) -> &'static str {
        "primary-superset"
    }

    fn on_head(&mut self, look: &Look<'_>, fact: &HeadFact, out: &mut Findings<'_>) {
        if let HeadRecord::Completed(_) = &fact.record {
            for completed in look.ground.retained() {
                primary_holds_all(look, completed, out);
            }
            local_is_contained(look, None, out);
        }
    }

    fn on_event(&mut self, look: &Look<'_>, seen: &Seen<'_>, out: &mut Findings<'_>) {
        if let Event::LocalCopyStored { checkpoint, .. } = seen.event {
            local_is_contained(look, Some(*checkpoint), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::invariants::{FaultNotice, testing::Story};

    /// A local copy equal to primary, and one of a checkpoint that never completed.
    #[test]
    fn equal_copies_pass() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).local_copy("machine-1", 1);
        story.checkpoint(2, &[20, 20]);
        story.holds();
    }

    /// The checkpoint completed although a part never reached primary.
    #[test]
    fn an_acknowledgement_without_upload_is_found() {
        let mut story = Story::begin();
        let prepared = story.prepare(1, &[10, 10]);
        story.truth.remove(&prepared.parts[0]);
        story.complete_prepared(&prepared);
        story.breaks("primary-superset", "part-missing");
    }

    /// The same loss, but the plan did it: excused, for that object only.
    #[test]
    fn a_part_lost_by_the_plan_is_excused() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        story.lose_part(1);
        story.checkpoint(2, &[20, 20]);
        story.holds();
    }

    /// A local copy with other bytes than primary.
    #[test]
    fn a_local_copy_that_differs_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).local_copy("machine-1", 1);
        story.truth.write_local_part("machine-1", 1, b"something else");
        story.checkpoint(2, &[20, 20]);
        story.breaks("primary-superset", "local-differs");
    }

    /// The checkpoint completed, and nobody can say of what it consists.
    #[test]
    fn missing_metadata_is_found() {
        for excused in [false, true] {
            let mut story = Story::begin();
            let prepared = story.prepare(1, &[10, 10]);
            story.truth.remove(&prepared.metadata_name());
            if excused {
                story.fault(&FaultNotice::Object { name: prepared.metadata_name() });
            }
            story.complete_prepared(&prepared);
            if excused { story.holds() } else { story.breaks("primary-superset", "metadata-missing") }
        }
    }

    /// A complete local copy has a file that the checkpoint's metadata does not know.
    #[test]
    fn a_local_part_that_primary_does_not_know_is_found() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]).local_copy("machine-1", 1);
        story.truth.write_local("machine-1", 1, "part-1", b"more");
        story.checkpoint(2, &[20, 20]);
        story.breaks("primary-superset", "unknown-local-part");
    }

    /// Files of a copy without its manifest promise nothing.
    #[test]
    fn an_unfinished_copy_passes() {
        let mut story = Story::begin();
        story.checkpoint(1, &[10, 10]);
        story.truth.write_local("machine-1", 1, "part-0", b"half");
        story.checkpoint(2, &[20, 20]);
        story.holds();
    }
}
