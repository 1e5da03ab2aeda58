//! The real world: tokio for control, sockets and timers; threads for subtasks; files with fsync.
//!
//! Every handle works from any thread. Subtasks run on threads of their own that no tokio runtime knows of, so nothing here
//! may assume an ambient runtime: whatever needs tokio's reactor enters it by the handle kept in `Reactor`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this module is the seam to the real world; the law holds above it"
)]

mod clock;
mod disk;
mod entropy;
mod input;
mod probe;
mod reactor;
mod spawner;
mod store;
mod transport;
mod upload;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::reactor::Reactor;
pub use probe::{file_length, prepare_root, probe_input, read_configuration, read_file, write_file};

use super::{Platform, RelPath};
use crate::journal::{Journal, JournalListener};

/// What a process of the real world needs to know about its machine.
#[derive(Clone)]
pub struct RealConfig {
    /// The directory for this process's local disk and its native scratch. One process at a time: it is locked.
    pub disk_root: PathBuf,
    /// Where native databases work. Put it on the device of `disk_root`, or every adopted file is copied. Default:
    /// `<disk_root>/native`.
    pub native_root: Option<PathBuf>,
    /// Directories elsewhere, on whatever devices and each for this process alone, that appear on the disk under these names of
    /// one component.
    pub mounts: Vec<(RelPath, PathBuf)>,
    /// The directory that all processes share as primary storage.
    pub primary_root: PathBuf,
    /// The host others reach this process under, when it listens on all interfaces. Default: what it listens on.
    pub advertised_host: Option<String>,
    /// How many journal events are kept for a post-mortem.
    pub journal_capacity: usize,
    pub journal_listener: Option<Arc<dyn JournalListener>>,
}

impl RealConfig {
    /// Everything below `root`, so that several processes of one machine share a primary storage and have a disk each.
    pub fn below(root: &Path, process: &str) -> RealConfig {
        RealConfig {
            disk_root: root.join("disks").join(process),
            native_root: None,
            mounts: Vec::new(),
            primary_root: root.join("primary"),
            advertised_host: None,
            journal_capacity: 4096,
            journal_listener: None,
        }
    }
}

/// Why a process could not enter the real world.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    #[error("cannot use {path}: {error}")]
    Directory { path: PathBuf, error: io::Error },
    #[error("{0} is in use by another process; give each process a disk root of its own")]
    InUse(PathBuf),
    #[error("cannot start the control threads: {0}")]
    Threads(io::Error),
    #[error("cannot use {path} as primary storage: {detail}")]
    Primary { path: PathBuf, detail: String },
}

/// One process in the real world. Dropping it ends the control tasks at their next suspension point; subtask threads end by
/// themselves.
pub struct RealWorld {
    runtime: Option<tokio::runtime::Runtime>,
    platform: Platform,
}

/// Enough for heartbeats and coordination; user code and encoding run elsewhere.
const CONTROL_THREADS: usize = 2;

impl RealWorld {
    /// # Errors
    /// When a directory cannot be made, is held by another process, or threads cannot be started.
    pub fn new(process: &str, config: RealConfig) -> Result<RealWorld, RealError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name(format!("{process}-control"))
            .enable_all()
            .build()
            .map_err(RealError::Threads)?;
        let reactor = Reactor::new(runtime.handle().clone());
        let clock = clock::RealClock::new(reactor.clone());
        let disk = disk::RealDisk::open(
            reactor.clone(),
            &config.disk_root,
            config.native_root.clone().unwrap_or_else(|| config.disk_root.join("native")),
            &config.mounts,
        )?;
        let primary = store::FileStore::open(reactor.clone(), clock.clone(), &config.primary_root)?;
        let process: Arc<str> = process.into();
        let platform = Platform {
            process: process.clone(),
            spawner: Arc::new(spawner::RealSpawner::new(reactor.clone())),
            transport: Arc::new(transport::TcpTransport::new(reactor.clone(), clock.clone(), config.advertised_host)),
            disk: Arc::new(disk),
            primary: Arc::new(primary),
            inputs: Arc::new(input::RealInputs::new(reactor)),
            entropy: Arc::new(entropy::SystemEntropy),
            memory: Arc::new(crate::platform::MemoryMeter::default()),
            journal: Journal::new(process, config.journal_capacity, config.journal_listener),
            clock: Arc::new(clock),
        };
        Ok(RealWorld { runtime: Some(runtime), platform })
    }

    pub fn platform(&self) -> Platform {
        self.platform.clone()
    }

    /// Runs `main` on the calling thread until it is done.
    pub fn block_on<F: Future>(&self, main: F) -> F::Output {
        spawner::block_on(main)
    }
}

impl Drop for RealWorld {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A blocking call may never return (a hung file system); the process must be able to end all the same.
            runtime.shutdown_background();
        }
    }
}
