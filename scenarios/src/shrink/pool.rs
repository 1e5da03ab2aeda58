//! Runs plans in worker processes, several at a time.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use reports::{RunRecord, Verdict};

use crate::{
    confirm::Runner,
    worker::{Request, What},
};

/// Runs per worker process.
const BATCH: u32 = 32;

/// Worker processes, as long as it lives. Dropped, it lets what is under way run to its end unheard.
pub struct Pool {
    jobs: usize,
    requests: Sender<(usize, Request)>,
    answers: Receiver<(usize, Result<RunRecord, String>)>,
    under_way: usize,
}

impl Pool {
    /// `limit` is how long a run may take in real time.
    pub fn start(jobs: u32, limit: Duration) -> Pool {
        let (requests, inbox) = channel::<(usize, Request)>();
        let (outbox, answers) = channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let jobs = jobs.max(1) as usize;
        for _ in 0..jobs {
            let (inbox, outbox) = (inbox.clone(), outbox.clone());
            std::thread::spawn(move || {
                let mut runner = Runner::new(BATCH, limit);
                loop {
                    let request = inbox.lock().ok().and_then(|inbox| inbox.recv().ok());
                    let Some((number, request)) = request else { break };
                    let result = runner.once(&request).map(|answer| answer.record);
                    if outbox.send((number, result)).is_err() {
                        break;
                    }
                }
            });
        }
        Pool { jobs, requests, answers, under_way: 0 }
    }

    /// Whether another request would wait.
    pub fn is_full(&self) -> bool {
        self.under_way >= self.jobs
    }

    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Hands a plan out, under a number of the caller's.
    ///
    /// # Errors
    /// If no worker is left.
    pub fn give(&mut self, number: usize, plan: &str) -> Result<(), String> {
        let request = Request { what: What::Plan(plan.to_string()), segment: None };
        self.requests.send((number, request)).map_err(|_| "no worker is left".to_string())?;
        self.under_way += 1;
        Ok(())
    }

    /// Waits for a result, None if it does not come within `patience`. What cannot be run at all counts as a run that says so
    /// ([`Verdict::Environment`]).
    ///
    /// # Errors
    /// If no worker can be started, or none is left.
    pub fn take(&mut self, patience: Duration) -> Result<Option<(usize, RunRecord)>, String> {
        match self.answers.recv_timeout(patience) {
            Ok((number, result)) => {
                self.under_way -= 1;
                result.map(|record| Some((number, record)))
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err("no worker is left".to_string()),
        }
    }

    /// Runs all plans and gives the records in the order of the plans. `seen` is called for each as it comes. Nothing else may
    /// be under way.
    ///
    /// # Errors
    /// As [`Pool::take`].
    pub fn all(&mut self, plans: &[String], seen: &mut dyn FnMut()) -> Result<Vec<RunRecord>, String> {
        let mut records: Vec<Option<RunRecord>> = vec![None; plans.len()];
        let mut next = 0;
        let mut missing = plans.len();
        while missing > 0 {
            while !self.is_full() && next < plans.len() {
                self.give(next, &plans[next])?;
                next += 1;
            }
            if let Some((number, record)) = self.take(Duration::from_secs(3_600))? {
                records[number] = Some(record);
                missing -= 1;
                seen();
            }
        }
        Ok(records.into_iter().flatten().collect())
    }
}

/// The signature of a failed run; None for one that did not fail.
pub fn signature(record: &RunRecord) -> Option<&str> {
    let failed = record.verdict.is_failure() && record.verdict != Verdict::Environment;
    failed.then(|| record.signature.as_deref().unwrap_or(record.verdict.name()))
}
