//! What waited in front of a database at a barrier, on its way into it, while the stream goes on.
//!
//! At the barrier the stream only says what is handed over. Whoever writes the snapshot collects it, writes it, and does then
//! what makes the snapshot: it closes the memtables for a native checkpoint, or takes a snapshot of the database. Until that is
//! done nothing of after the barrier may get into the database. What is written after it waits in front, as ever; who has to
//! write to the database itself does before what is still to be done for the barrier, and waits if somebody is at it.
//!
//! What cannot be written stays, and fails whoever needs it next: the snapshot, or the next write.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use super::{
    collected::Collected,
    database::{Database, database_error},
    front::SharedFront,
};
use crate::state::error::StateError;

/// What makes the snapshot once the database has all of before the barrier.
pub(super) type Then = Box<dyn FnMut(&Database) -> Result<(), rocksdb::Error> + Send>;

/// What a database is to be given before anything else is written to it.
#[derive(Default)]
pub(super) struct Handover {
    pending: AtomicBool,
    work: Mutex<Option<Work>>,
}

struct Work {
    parts: Vec<Part>,
    then: Then,
}

/// Of one state.
struct Part {
    state: String,
    front: SharedFront,
    collected: Collected,
}

impl Handover {
    /// Something is handed over, and not in the database yet.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().expect("handover: a holder panicked")
    }
}

impl Database {
    /// A barrier: what waits in front of these states, and what is to be done when the database has it. Takes no time.
    ///
    /// # Errors
    /// If what was handed over at the barrier before cannot be written.
    pub(super) fn hand_over<'a>(
        &self,
        fronts: impl IntoIterator<Item = (&'a str, &'a SharedFront)>,
        then: Then,
    ) -> Result<(), StateError> {
        self.settle()?;
        let waiting = fronts.into_iter().filter(|(_, front)| front.lock().hand_over());
        let parts = waiting.map(|(state, front)| Part {
            state: state.to_string(),
            front: front.clone(),
            collected: Collected::default(),
        });
        *self.handover().work() = Some(Work { parts: parts.collect(), then });
        self.handover().pending.store(true, Ordering::Release);
        Ok(())
    }

    /// Does what is still to be done for the last barrier, or waits until whoever is at it has done it. Who calls it holds none
    /// of the fronts.
    ///
    /// # Errors
    /// If it cannot be written. It is tried again the next time.
    pub(super) fn settle(&self) -> Result<(), StateError> {
        if !self.handover().is_pending() {
            return Ok(());
        }
        let mut work = self.handover().work();
        let Some(Work { parts, then }) = &mut *work else { return Ok(()) };
        for Part { state, front, collected } in &mut *parts {
            front.collect(collected);
            collected.write(self.family(state)?, |batch| self.write_of_before_the_barrier(state, batch))?;
        }
        then(self).map_err(|error| database_error("", &error))?;
        for part in parts {
            part.front.lock().settled();
        }
        *work = None;
        self.handover().pending.store(false, Ordering::Release);
        Ok(())
    }
}
