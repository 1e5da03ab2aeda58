//! How far a snapshot has come that may be given up while it is written, and what there is to take away then.
//!
//! Whoever writes looks between two requests whether it is still wanted: a checkpoint that was aborted must not take the store's
//! and the network's time from the next one, or under a slow store no checkpoint ever completes. What it has stored nobody knows
//! of, since only an acknowledgement names it; so it is for the subtask to delete. Flink: `AsyncCheckpointRunnable.close` and
//! `cleanup`, `SubtaskCheckpointCoordinatorImpl.notifyCheckpointAborted` (FLINK-8871); FLINK-30461.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::platform::ObjectName;

/// What the parts of one snapshot share. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Transfer(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    given_up: bool,
    stored: Vec<ObjectName>,
}

impl Transfer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("transfer of a snapshot: a holder panicked")
    }

    /// Nobody wants the snapshot any more.
    pub fn give_up(&self) {
        self.lock().given_up = true;
    }

    pub fn is_given_up(&self) -> bool {
        self.lock().given_up
    }

    /// # Errors
    /// That the snapshot was given up.
    pub fn go_on(&self) -> Result<(), String> {
        if self.is_given_up() { Err("the checkpoint was given up".to_string()) } else { Ok(()) }
    }

    /// `object` is about to be created. Whether it comes to exist may never be known.
    ///
    /// # Errors
    /// As of [`Self::go_on`]; it is not to be created then.
    pub fn begin(&self, object: &ObjectName) -> Result<(), String> {
        self.go_on()?;
        self.lock().stored.push(object.clone());
        Ok(())
    }

    /// Everything that was begun; it is for the caller to delete.
    pub fn take_back(&self) -> Vec<ObjectName> {
        std::mem::take(&mut self.lock().stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_taken_back_once_and_nothing_begins_after_the_end() {
        let transfer = Transfer::default();
        let [one, two] = ["a", "b"].map(|name| ObjectName::new(name).unwrap());
        transfer.begin(&one).unwrap();
        transfer.clone().give_up();
        assert!(transfer.begin(&two).unwrap_err().contains("given up") && transfer.go_on().is_err());
        assert_eq!(transfer.take_back(), [one]);
        assert!(transfer.take_back().is_empty() && transfer.is_given_up());
    }
}
