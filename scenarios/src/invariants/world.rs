//! The simulated world as the invariants see it.

use std::time::Duration;

use bytes::Bytes;
use runtime::platform::{ObjectName, RelPath};
use sim::{Stamped, StoreEffect, World};

use super::{
    InvariantSuite,
    truth::{Effect, EffectKind, FaultNotice, Seen, Truth},
};

impl Truth for World {
    fn now(&self) -> Duration {
        World::now(self).elapsed()
    }

    fn objects(&self, prefix: &str) -> Vec<(String, u64)> {
        self.store().list(prefix).into_iter().map(|meta| (meta.name.into(), meta.length)).collect()
    }

    fn unfinished(&self, prefix: &str) -> Vec<String> {
        self.store().unfinished(prefix).into_iter().map(String::from).collect()
    }

    fn object(&self, name: &str) -> Option<Bytes> {
        self.store().peek(&ObjectName::new(name).ok()?)
    }

    fn machines(&self) -> Vec<String> {
        World::machines(self)
    }

    fn files(&self, machine: &str) -> Vec<(String, u64)> {
        self.disk(machine).list_all().into_iter().map(|(path, length)| (path.as_str().to_string(), length)).collect()
    }

    fn file(&self, machine: &str, path: &str) -> Option<Bytes> {
        self.disk(machine).peek(&RelPath::new(path).ok()?)
    }

    fn machine_of(&self, process: &str) -> Option<String> {
        // Asking the world for a process that it does not know is an error there, and an answer here.
        self.processes().iter().any(|known| known == process).then(|| World::machine_of(self, process))
    }

    fn is_alive(&self, process: &str) -> bool {
        self.processes().iter().any(|known| known == process) && World::is_alive(self, process)
    }

    fn channels(&self) -> Vec<(String, u64)> {
        self.channel_stats().into_iter().collect()
    }
}

impl<'a> From<&'a Stamped> for Seen<'a> {
    fn from(stamped: &'a Stamped) -> Seen<'a> {
        Seen {
            at: stamped.at.elapsed(),
            process: &stamped.process,
            incarnation: stamped.incarnation,
            event: &stamped.event,
        }
    }
}

impl InvariantSuite {
    /// Whatever the store's log says; to be called by its subscriber. What the harness itself did to objects there becomes
    /// a notice, so that the nemesis need not tell.
    pub fn on_store(&mut self, truth: &dyn Truth, effect: &StoreEffect) {
        let kind = match effect.effect {
            sim::Effect::Created => EffectKind::Created,
            sim::Effect::Deleted => EffectKind::Deleted,
            sim::Effect::Read => EffectKind::Read,
            sim::Effect::Lost | sim::Effect::Corrupted => {
                let name = effect.name.as_str().to_string();
                return self.on_fault(truth, &FaultNotice::Object { name });
            }
            sim::Effect::Misread => {
                let name = effect.name.as_str().to_string();
                return self.on_fault(truth, &FaultNotice::Misread { name });
            }
            sim::Effect::Refused | sim::Effect::NothingToDelete | sim::Effect::Faded => return,
        };
        let (object, process) = (effect.name.as_str(), &*effect.process);
        let incarnation = effect.incarnation;
        self.on_store_effect(truth, Effect { at: effect.at.elapsed(), kind, object, process, incarnation });
    }
}
