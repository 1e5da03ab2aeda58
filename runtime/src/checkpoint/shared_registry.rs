//! Which objects of primary storage are still needed: a plain state machine over the checkpoints that are retained, those
//! under way and what each of them refers to (Flink `SharedStateRegistry`).
//!
//! A checkpoint may refer to objects that an earlier one wrote. So an object goes when the last retained checkpoint that refers
//! to it is dropped, and not even then while a checkpoint is under way that was triggered before: its subtasks may have based
//! their snapshots on the one that is dropped, and some acknowledgements may be still to come. One that comes later and refers
//! to what is gone, because its subtask heard nothing of newer checkpoints for long, is refused: the checkpoint is
//! aborted, and the next one has a newer base.
//!
//! Savepoints are restore points, and nothing more is known of them here: they refer to nothing of others, nothing refers to them,
//! and their files are never named for deletion.
//!
//! It must never: name an object for deletion that a retained checkpoint, or one under way, may need; name one twice; forget one
//! that nobody needs any more. After a change of leader it is built from the head log, which lists all that a retained
//! checkpoint refers to; what was held for checkpoints of the leader before, which can never complete, goes with the orphan sweep.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    head::HeadState,
    types::{StatePart, SubtaskSnapshot},
};
use crate::{ids::CheckpointId, layout::Layout, platform::ObjectName};

/// An acknowledgement refers to an object that may not be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("part {part} refers to {object} of checkpoint {written_by}, {problem}")]
pub struct BadReference {
    pub part: String,
    pub object: ObjectName,
    pub written_by: CheckpointId,
    pub problem: &'static str,
}

/// What a retained checkpoint consists of.
#[derive(Clone, Debug)]
struct Retained {
    metadata: ObjectName,
    /// State objects, written by it or by others. Of what is not `owned` none are known.
    objects: BTreeSet<ObjectName>,
    /// False of savepoints: they can be restored, and are nobody's to delete.
    owned: bool,
}

#[derive(Clone, Debug)]
pub struct SharedRegistry {
    layout: Layout,
    retained: BTreeMap<CheckpointId, Retained>,
    /// How many retained checkpoints refer to each object.
    references: BTreeMap<ObjectName, u32>,
    /// Under way: what each has written itself, as far as its acknowledgements say.
    pending: BTreeMap<CheckpointId, BTreeSet<ObjectName>>,
    /// No retained checkpoint refers to them any more, but these under way may.
    held: BTreeMap<ObjectName, BTreeSet<CheckpointId>>,
}

impl SharedRegistry {
    /// What the head log says: all that retained checkpoints refer to.
    pub fn rebuilt(layout: Layout, head: &HeadState) -> SharedRegistry {
        let mut registry = SharedRegistry {
            layout,
            retained: BTreeMap::new(),
            references: BTreeMap::new(),
            pending: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        for (checkpoint, retained) in &head.retained {
            let objects = retained.objects.iter().cloned();
            registry.retain(*checkpoint, retained.metadata.clone(), objects, retained.owned);
        }
        registry
    }

    /// Retained checkpoints, oldest first.
    pub fn retained(&self) -> impl Iterator<Item = CheckpointId> {
        self.retained.keys().copied()
    }

    /// Whether the files of a retained checkpoint are the system's to delete: not those of a savepoint.
    pub fn is_owned(&self, checkpoint: CheckpointId) -> bool {
        self.retained.get(&checkpoint).is_none_or(|retained| retained.owned)
    }

    /// Everything a retained checkpoint consists of, metadata first; nothing of another.
    pub fn objects_of(&self, checkpoint: CheckpointId) -> impl Iterator<Item = &ObjectName> {
        self.retained.get(&checkpoint).into_iter().flat_map(|c| std::iter::once(&c.metadata).chain(&c.objects))
    }

    /// A checkpoint is under way. From now on nothing it may refer to goes.
    pub fn triggered(&mut self, checkpoint: CheckpointId) {
        self.pending.entry(checkpoint).or_default();
    }

    /// A subtask acknowledged a checkpoint that is under way. What it wrote is known from now on, also after an error.
    ///
    /// # Errors
    /// If it refers to an object that is gone, or that is not for others to refer to.
    pub fn acknowledged(&mut self, checkpoint: CheckpointId, snapshot: &SubtaskSnapshot) -> Result<(), BadReference> {
        if let Some(own) = self.pending.get_mut(&checkpoint) {
            own.extend(snapshot.own_objects(checkpoint).cloned());
        }
        for part in snapshot.parts.iter().filter(|part| part.written_by != checkpoint) {
            let Some(object) = part.object() else { continue };
            let problem = self.why_not(checkpoint, part, object);
            if let Some(by) = self.held.get_mut(object).filter(|_| problem.is_none()) {
                by.insert(checkpoint);
            }
            if let Some(problem) = problem {
                let (part, written_by) = (part.name.clone(), part.written_by);
                return Err(BadReference { part, object: object.clone(), written_by, problem });
            }
        }
        Ok(())
    }

    fn why_not(&self, checkpoint: CheckpointId, part: &StatePart, object: &ObjectName) -> Option<&'static str> {
        if part.written_by > checkpoint {
            return Some("which is a later one");
        }
        if !self.layout.is_shared(object) {
            return Some("whose files belong to it alone");
        }
        let is_there = self.held.contains_key(object) || self.references.contains_key(object);
        (!is_there).then_some("which is retained no more: nothing may be based on it")
    }

    /// The checkpoint is complete, and retained. What it refers to stays; what was held for it alone and it does not need goes:
    /// that is returned.
    #[must_use]
    pub fn completed(
        &mut self,
        checkpoint: CheckpointId,
        metadata: ObjectName,
        objects: impl IntoIterator<Item = ObjectName>,
    ) -> Vec<ObjectName> {
        let own = self.pending.remove(&checkpoint).unwrap_or_default();
        self.retain(checkpoint, metadata, objects, true);
        let mut gone: Vec<_> = own.into_iter().filter(|object| !self.references.contains_key(object)).collect();
        gone.extend(self.release(checkpoint));
        gone
    }

    /// A savepoint is complete, and a restore point. It shares nothing with anybody.
    pub fn savepoint_completed(&mut self, checkpoint: CheckpointId, metadata: ObjectName) {
        self.retain(checkpoint, metadata, [], false);
    }

    /// The checkpoint will never complete. What it wrote goes, and what was held for it alone: that is returned.
    #[must_use]
    pub fn aborted(&mut self, checkpoint: CheckpointId) -> Vec<ObjectName> {
        let own = self.pending.remove(&checkpoint).unwrap_or_default();
        let mut gone: Vec<_> = own.into_iter().filter(|object| !self.references.contains_key(object)).collect();
        gone.extend(self.release(checkpoint));
        gone
    }

    /// A checkpoint is retained no more, and that is durable. Returns what nobody needs now; what one under way may need is
    /// kept until that is settled.
    #[must_use]
    pub fn dropped(&mut self, checkpoint: CheckpointId) -> Vec<ObjectName> {
        let Some(retained) = self.retained.remove(&checkpoint) else { return Vec::new() };
        if !retained.owned {
            return Vec::new();
        }
        let mut gone = vec![retained.metadata];
        for object in retained.objects {
            let Some(count) = self.references.get_mut(&object) else { continue };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.references.remove(&object);
            if self.layout.is_shared(&object) && !self.pending.is_empty() {
                self.held.insert(object, self.pending.keys().copied().collect());
            } else {
                gone.push(object);
            }
        }
        gone
    }

    /// Of an acknowledgement that counts for nothing: the objects it wrote that nobody needs.
    pub fn unneeded<'a>(
        &'a self,
        checkpoint: CheckpointId,
        snapshot: &'a SubtaskSnapshot,
    ) -> impl Iterator<Item = &'a ObjectName> {
        snapshot.own_objects(checkpoint).filter(|object| !self.is_needed(object))
    }

    /// Whether a retained checkpoint refers to it, or one under way does or may.
    pub fn is_needed(&self, object: &ObjectName) -> bool {
        self.references.contains_key(object)
            || self.held.contains_key(object)
            || self.retained.values().any(|c| c.metadata == *object)
            || self.pending.values().any(|own| own.contains(object))
    }

    fn retain(
        &mut self,
        checkpoint: CheckpointId,
        metadata: ObjectName,
        objects: impl IntoIterator<Item = ObjectName>,
        owned: bool,
    ) {
        let objects: BTreeSet<_> = objects.into_iter().collect();
        for object in &objects {
            *self.references.entry(object.clone()).or_default() += 1;
        }
        self.retained.insert(checkpoint, Retained { metadata, objects, owned });
    }

    /// Nothing is held for the checkpoint any more. Returns what is held for nobody else and referred to by nobody.
    fn release(&mut self, checkpoint: CheckpointId) -> Vec<ObjectName> {
        for by in self.held.values_mut() {
            by.remove(&checkpoint);
        }
        let references = &self.references;
        let mut gone = Vec::new();
        self.held.retain(|object, by| {
            let referenced = references.contains_key(object);
            if by.is_empty() && !referenced {
                gone.push(object.clone());
            }
            !by.is_empty() && !referenced
        });
        gone
    }
}

#[cfg(test)]
mod tests;
