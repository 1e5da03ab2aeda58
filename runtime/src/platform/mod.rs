//! The seam: everything the runtime may ask of the world, as a handful of traits.
//!
//! The same compiled runtime runs in the real world (module `real`, behind the feature of that name, on tokio) and in
//! the simulated one (crate `sim`, on madsim). Nothing above this module touches time, threads, sockets, files or
//! randomness directly; clippy's disallowed types and methods enforce it.
//!
//! A [`Platform`] belongs to one *process* (one JobManager or one TaskManager). In the simulated world every handle of a
//! crashed process is fenced: it goes dead at the instant of the crash, also for code that runs inside `Drop`. So no
//! code above the seam may rely on an effect that happens while it is being torn down.

use std::sync::Arc;

use futures::future::BoxFuture;

mod clock;
mod disk;
mod entropy;
mod input;
mod memory;
#[cfg(feature = "real")]
pub mod real;
mod spawner;
mod store;
mod transport;

pub use clock::{Clock, Mono, TimedOut, Timer, Wall, timeout};
pub use disk::{
    AdoptMethod, DeviceId, DiskError, DiskFile, Linked, LocalDisk, NativeDir, PathError, RelPath, is_table,
};
pub use entropy::Entropy;
pub use input::InputFiles;
pub use memory::{Held, Memory, MemoryMeter};
pub use spawner::{NativeError, NativeOp, Spawner, Task, TaskBody, TaskEnd};
#[cfg(test)]
pub(crate) use store::KeptUpload;
pub use store::{ObjectMeta, ObjectName, ObjectNameError, PrimaryStorage, StoreError, Upload};
pub use transport::{
    Address, Connection, FrameReceiver, FrameSender, Listener, MAX_FRAME_BYTES, NetError, Transport, recv, send,
};

use crate::journal::Journal;

/// A boxed future, used at I/O and control granularity only, never per record.
pub type Fut<'a, T> = BoxFuture<'a, T>;

/// All handles of one process. Cheap to clone.
#[derive(Clone)]
pub struct Platform {
    /// The name of this process, unique in the cluster: `jobmanager`, `tm-1`, ….
    pub process: Arc<str>,
    pub clock: Arc<dyn Clock>,
    pub spawner: Arc<dyn Spawner>,
    pub transport: Arc<dyn Transport>,
    /// The disk of the machine this process runs on. It survives the process, not the machine.
    pub disk: Arc<dyn LocalDisk>,
    /// The durable store shared by all processes.
    pub primary: Arc<dyn PrimaryStorage>,
    pub inputs: Arc<dyn InputFiles>,
    pub entropy: Arc<dyn Entropy>,
    pub memory: Arc<dyn Memory>,
    pub journal: Journal,
}
