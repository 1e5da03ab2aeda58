//! How the events of all processes come together: stamped, hashed, and shown to the harness inside the emit.

use std::{panic::AssertUnwindSafe, rc::Rc, sync::Arc};

use runtime::{
    journal::{Event, JournalListener},
    points::Point,
};

use crate::{local::Local, process::Incarnation, time::SimTime, world::World};

/// An event, with when and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// Counts all events of the run, from 0.
    pub sequence: u64,
    pub at: SimTime,
    pub process: Arc<str>,
    pub incarnation: u64,
    pub event: Event,
}

/// Sees every event synchronously, inside the emit. It may call any verb of the world, also on the emitting process.
/// A panic in it fails the run.
pub type Listener = Rc<dyn Fn(&World, &Stamped)>;

/// Listens to the journal of one incarnation.
pub(crate) struct SimJournal(pub Local<Rc<Incarnation>>);

impl JournalListener for SimJournal {
    fn on_event(&self, _process: &str, event: &Event) {
        let source = &*self.0;
        if !source.is_alive() {
            return;
        }
        let world = &source.world;
        let at = world.now();
        let sequence = world.inner().recorder.borrow_mut().record(at, &source.process, source.number, event);
        let listener = world.inner().listener.borrow().clone();
        if let Some(listener) = listener {
            let (process, incarnation) = (source.process.clone(), source.number);
            let stamped = Stamped { sequence, at, process, incarnation, event: event.clone() };
            // Caught here, because the task that emits would contain the panic and the run would go on.
            if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| listener(world, &stamped))) {
                world.fail_with_panic(panic.as_ref());
            }
        }
        // What the listener did belongs to the event.
        world.reseed_after(sequence);
    }

    fn on_point(&self, _process: &str, point: Point) {
        let source = &*self.0;
        if source.is_alive() {
            source.world.inner().points.borrow_mut()[point as usize] += 1;
        }
    }
}
