//! The one helper thread, outside of the simulation, on which native code runs.
//!
//! It is started before the simulation, has no simulated clock and no simulated randomness, and the simulation's thread
//! waits for it without a timeout. So simulated time stands still during a native call and the order of everything is
//! kept, while C++ sees a world it understands.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

use runtime::platform::NativeError;

use crate::run::panic_message;

type Job = Box<dyn FnOnce() + Send>;
type Reply = Sender<Result<(), NativeError>>;

pub(crate) struct Helper {
    jobs: Sender<(Job, Reply)>,
}

impl Helper {
    /// Starts the thread; it ends once the helper is dropped.
    pub fn start() -> std::io::Result<(Helper, JoinHandle<()>)> {
        let (jobs, inbox): (_, Receiver<(Job, Reply)>) = channel();
        let thread = std::thread::Builder::new().name("sim-native".to_string()).spawn(move || {
            for (job, reply) in inbox {
                let result = catch_unwind(AssertUnwindSafe(job));
                // The other side waits for it, unless the whole run is being torn down.
                let _ = reply.send(result.map_err(|panic| NativeError::Panicked(panic_message(panic.as_ref()))));
            }
        })?;
        Ok((Helper { jobs }, thread))
    }

    /// Runs `job` there and waits for it.
    pub fn run(&self, job: Job) -> Result<(), NativeError> {
        let (reply, result) = channel();
        if self.jobs.send((job, reply)).is_err() {
            return Err(NativeError::Dead);
        }
        result.recv().unwrap_or(Err(NativeError::Dead))
    }

    /// Runs `job` there and gives its result.
    pub fn value<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, NativeError> {
        let (sender, receiver) = channel();
        self.run(Box::new(move || {
            // The receiver lives until this function returns.
            let _ = sender.send(job());
        }))?;
        receiver.recv().map_err(|_| NativeError::Dead)
    }
}
