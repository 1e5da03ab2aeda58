//! One run told to a person: its plan, its story line by line, and one screen if it failed.

use std::{
    fmt,
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
};

use reports::{RunRecord, failure_screen};
use runtime::{figure::LocalRecoveryFigure, platform::real::write_file, recovery::restore_report::RecoveryReport};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{
    blame,
    confirm::command,
    plan::Plan,
    record::{Observer, Story},
    run::run_plan,
    sweep::Exit,
    worker::What,
};

/// `[s<simulated ms> e<event>] process  Event facts`, dimmed stamp, coloured where something broke.
struct StoryFormat;

#[derive(Default)]
struct Fields {
    at_ms: u64,
    sequence: u64,
    process: String,
    message: String,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "at_ms" => self.at_ms = value,
            "sequence" => self.sequence = value,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "process" {
            self.process = value.to_string();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

impl<S, N> FormatEvent<S, N> for StoryFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let stamp = format!("[s{} e{}]", fields.at_ms, fields.sequence);
        let (before, after) = match (writer.has_ansi_escapes(), *event.metadata().level()) {
            (false, _) => ("", ""),
            (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
            (true, _) => ("", ""),
        };
        writeln!(writer, "{stamp:<16} {:<12} {before}{}{after}", fields.process, fields.message)
    }
}

/// How a run is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// Neither the plan nor the story, only how it ended.
    pub quiet: bool,
    pub colour: bool,
    /// The file that gets the figure of who wrote what where, if somebody wants it.
    pub local_recovery_figure: Option<&'a Path>,
}

/// Tells each event through `tracing`, and keeps what was said of recoveries and of who wrote what where.
#[derive(Clone, Default)]
struct Teller {
    recoveries: Arc<Mutex<Vec<(u64, RecoveryReport)>>>,
    figure: Arc<Mutex<LocalRecoveryFigure>>,
}

impl Observer for Teller {
    fn event(&mut self, story: &Story<'_>) {
        if let Some(report) = RecoveryReport::of_event(story.event)
            && let Ok(mut recoveries) = self.recoveries.lock()
        {
            recoveries.push((story.at_ms, report));
        }
        if let Ok(mut figure) = self.figure.lock() {
            figure.event(story.process, story.event);
        }
        let process = if story.incarnation > 1 {
            format!("{}#{}", story.process, story.incarnation)
        } else {
            story.process.to_string()
        };
        let (at_ms, sequence, process) = (story.at_ms, story.sequence, process.as_str());
        let name = story.event.kind().name();
        let is_trouble = ["Lost", "Failed", "Aborted", "Expired", "Declined", "Condemned", "Impossible", "Mismatch"]
            .iter()
            .any(|ending| name.ends_with(ending) || name.contains(ending));
        if is_trouble {
            tracing::warn!(target: "story", at_ms, sequence, process, "{}", story.event);
        } else {
            tracing::info!(target: "story", at_ms, sequence, process, "{}", story.event);
        }
    }
}

/// Runs `plan` in this process and tells it.
///
/// # Errors
/// A line that says what of the environment failed.
pub fn replay(plan: &Plan, what: &What, plan_file: Option<&str>, told: &Told<'_>) -> Result<Exit, String> {
    let write = |text: &str| match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    };
    if !told.quiet {
        write(&plan.to_toml())?;
        tracing_subscriber::fmt()
            .with_ansi(told.colour)
            // Somebody who has read enough closes the pipe.
            .log_internal_errors(false)
            .event_format(StoryFormat)
            .with_writer(std::io::stdout)
            .try_init()
            .map_err(|error| format!("cannot tell the story: {error}"))?;
    }
    blame::watch();
    let teller = Teller::default();
    let record = run_plan(plan, Box::new(teller.clone())).map_err(|error| error.to_string())?;
    if let Ok(recoveries) = teller.recoveries.lock() {
        for (at_ms, report) in recoveries.iter() {
            write(&format!("recovery [s{at_ms}] after {}: {report}", report.cause))?;
        }
    }
    if let Some(path) = told.local_recovery_figure {
        let figure = teller.figure.lock().map(|figure| figure.to_svg()).unwrap_or_default();
        write_file(path, &figure)?;
    }
    write(&closing(&record, &command(what, &plan.profile, plan_file)))?;
    Ok(Exit::of(record.verdict))
}

fn closing(record: &RunRecord, command: &str) -> String {
    if record.verdict.is_failure() {
        return format!("\n{}", failure_screen(record, command));
    }
    let counters = &record.counters;
    let mut text = format!(
        "\n{}: {} checkpoints completed, {} faults fired, {} restores ({} from an older checkpoint), {} events, {} ms simulated, trace {}",
        record.verdict.name(),
        counters.completed_checkpoints,
        counters.fired_faults,
        counters.restores,
        counters.older_restores,
        counters.events,
        record.timings.simulated_ms,
        record.trace.last,
    );
    for unfired in &record.coverage.unfired {
        text.push_str(&format!("\nnot fired: {}: {}", unfired.class, unfired.reason));
    }
    text
}
