//! What a person sees while a job runs: one line that moves, fed by the journals.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    checkpoint::statistics::CheckpointStatistics,
    figure::LocalRecoveryFigure,
    journal::{Event, JournalListener},
    recovery::restore_report::RecoveryReport,
};

/// Counts what the journals of all processes say.
pub struct Progress {
    bar: ProgressBar,
    checkpoints: AtomicU64,
    output_records: AtomicU64,
    restarts: AtomicU64,
    recoveries: Mutex<Vec<RecoveryReport>>,
    figure: Mutex<LocalRecoveryFigure>,
    statistics: Mutex<CheckpointStatistics>,
    /// Print every event.
    events: bool,
}

impl Progress {
    /// A spinner on the terminal; nothing where there is none, or if `quiet`.
    pub fn new(quiet: bool, events: bool) -> Progress {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        // A template of our own is always valid.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress {
            bar,
            checkpoints: AtomicU64::new(0),
            output_records: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            recoveries: Mutex::default(),
            figure: Mutex::default(),
            statistics: Mutex::default(),
            events,
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    pub fn elapsed(&self) -> Duration {
        self.bar.elapsed()
    }

    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Relaxed)
    }

    /// A line for each recovery: where the state came from, and how long each step took.
    pub fn recoveries(&self) -> String {
        let recoveries = self.recoveries.lock().map(|recoveries| recoveries.clone()).unwrap_or_default();
        recoveries.iter().map(|report| format!("{report}\n")).collect()
    }

    /// Who wrote what where, as far as the journals of these processes told.
    pub fn figure(&self) -> LocalRecoveryFigure {
        self.figure.lock().map(|figure| figure.clone()).unwrap_or_default()
    }

    /// The checkpoints in numbers, as far as the journals of these processes told.
    pub fn statistics(&self) -> CheckpointStatistics {
        self.statistics.lock().map(|statistics| statistics.clone()).unwrap_or_default()
    }

    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
}

impl JournalListener for Progress {
    fn on_event(&self, process: &str, event: &Event) {
        if self.events {
            eprintln!("{process:<10} {event}");
        }
        if let Some(report) = RecoveryReport::of_event(event)
            && let Ok(mut recoveries) = self.recoveries.lock()
        {
            recoveries.push(report);
        }
        if let Ok(mut figure) = self.figure.lock() {
            figure.event(process, event);
        }
        if let Ok(mut statistics) = self.statistics.lock() {
            statistics.event(self.bar.elapsed(), event);
        }
        let counter = match event {
            Event::CheckpointCompleted { .. } => &self.checkpoints,
            Event::SinkPrecommitted { records, .. } => {
                self.output_records.fetch_add(*records, Ordering::Relaxed);
                return;
            }
            Event::JobStateChanged { to, .. } if to == "FAILING" => &self.restarts,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.bar.set_message(format!(
            "{} checkpoints, {} output records",
            self.checkpoints(),
            self.output_records.load(Ordering::Relaxed),
        ));
    }
}
