//! The engine of a sweep: takes requests from a source, runs them in worker processes, and hands each record to a sink.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    time::{Duration, Instant},
};

use reports::RunRecord;

use crate::{
    audit,
    confirm::{Limits, Runner},
    trouble::Trouble,
    worker::Request,
};

pub struct Engine {
    /// Worker processes at a time.
    pub jobs: u32,
    /// Runs per worker process.
    pub batch: u32,
    /// What a run may use of the machine.
    pub limits: Limits,
    /// Begin no run after this time.
    pub budget: Option<Duration>,
    /// Run each request in two processes and compare them.
    pub audit: bool,
}

impl Engine {
    /// Runs what `source` gives until it gives nothing more, the budget is spent, or `sink` refuses a record. `source` is
    /// asked in order, by several threads, one at a time; a source that wants to learn from what has been seen shares its
    /// state with the sink. The sink is called in this thread, in the order in which the runs end.
    ///
    /// # Errors
    /// What the sink said, or a line that says why nothing could be run.
    pub fn run(
        &self,
        source: &mut (dyn Iterator<Item = Request> + Send),
        sink: &mut dyn FnMut(&Request, RunRecord) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let started = Instant::now();
        let source = Mutex::new(source);
        let stop = AtomicBool::new(false);
        // Bounded: where records are taken more slowly than they come, the workers wait.
        let (send, results) = sync_channel(self.jobs.max(1) as usize * 2);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                let send = send.clone();
                let (source, stop) = (&source, &stop);
                scope.spawn(move || {
                    let mut runner = Runner::new(self.batch, self.limits);
                    loop {
                        let over = self.budget.is_some_and(|budget| started.elapsed() >= budget);
                        if over || stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let next = source.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(request) = next else { break };
                        let result = if self.audit {
                            audit::audited(&request, self.limits).map(|(record, _)| record)
                        } else {
                            runner.confirmed(&request)
                        };
                        let failed = result.is_err();
                        if send.send((request, result)).is_err() || failed {
                            break;
                        }
                    }
                });
            }
            // Only the workers hold the sending side now: the loop below ends with the last of them.
            drop(send);
            let mut outcome = Ok(());
            for (request, result) in results {
                if let Err(error) = result.map_err(Trouble::from).and_then(|record| sink(&request, record)) {
                    stop.store(true, Ordering::Relaxed);
                    outcome = outcome.and(Err(error));
                }
            }
            outcome
        })
    }
}
