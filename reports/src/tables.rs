//! A sweep's summary on a terminal.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::{
    coverage,
    summary::{Judgement, Summary},
};

pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Faults by protocol phase: how often a fault of a class took effect while the job was in a phase. `phases` gives the order of
/// the columns; a dot is an empty cell, so that what was never tried stands out.
pub fn fault_phase_table(summary: &Summary, phases: &[&str]) -> String {
    let mut faults: Vec<&str> = summary.expectation.faults.iter().map(String::as_str).collect();
    faults.extend(
        summary
            .fault_phase
            .keys()
            .map(String::as_str)
            .filter(|name| !summary.expectation.faults.iter().any(|declared| declared == name)),
    );
    if faults.is_empty() {
        return String::new();
    }
    let mut out = table();
    out.set_header(std::iter::once("fault \\ phase").chain(phases.iter().copied()).chain(std::iter::once("all")));
    for fault in faults {
        let cells = summary.fault_phase.get(fault);
        let count = |phase: &str| cells.and_then(|cells| cells.get(phase)).copied().unwrap_or(0);
        let shown = |n: u64| if n == 0 { "·".to_string() } else { n.to_string() };
        let total: u64 = cells.map_or(0, |cells| cells.values().sum());
        out.add_row(
            std::iter::once(fault.to_string())
                .chain(phases.iter().map(|phase| shown(count(phase))))
                .chain(std::iter::once(shown(total))),
        );
    }
    for column in out.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    out.to_string()
}

/// Everything a sweep has to say at its end.
pub fn summary_text(summary: &Summary, phases: &[&str]) -> String {
    let mut text = String::new();
    let faults = fault_phase_table(summary, phases);
    if !faults.is_empty() {
        writeln!(text, "{faults}").expect("strings take everything");
    }
    text.push_str(&coverage::lines(summary));
    for (class, reasons) in &summary.unfired {
        let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} ({count})")).collect();
        writeln!(text, "not fired  {class}: {}", reasons.join(", ")).expect("strings take everything");
    }
    let silent_faults = summary.silent_faults();
    let silent_phases = summary.silent_phases();
    if !silent_faults.is_empty() {
        writeln!(text, "declared, never fired:   {}", silent_faults.join(", ")).expect("strings take everything");
    }
    if !silent_phases.is_empty() {
        writeln!(text, "declared, never reached: {}", silent_phases.join(", ")).expect("strings take everything");
    }
    writeln!(
        text,
        "speed  {:.1} runs/s/core  ({} runs in {:.1} s on {} {}, {:.0} simulated s per second)",
        summary.speed(),
        summary.runs,
        summary.elapsed_ms as f64 / 1_000.0,
        summary.cores,
        if summary.cores == 1 { "core" } else { "cores" },
        summary.simulated_ms as f64 / summary.elapsed_ms.max(1) as f64,
    )
    .expect("strings take everything");
    let floor: Vec<String> = summary
        .floor_lines()
        .into_iter()
        .map(|(name, seen, floor)| format!("{name} {seen}/{floor}{}", if seen < floor { " BELOW" } else { "" }))
        .collect();
    writeln!(text, "floor  median/declared: {}", floor.join(" · ")).expect("strings take everything");
    if let Some((opened, judged)) = summary.databases() {
        writeln!(text, "databases  {opened} opened in a run, and {judged} by its invariants (medians)")
            .expect("strings take everything");
    }
    let verdicts: Vec<String> = summary.verdicts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    writeln!(text, "runs   {}", if verdicts.is_empty() { "none".to_string() } else { verdicts.join(", ") })
        .expect("strings take everything");
    for group in &summary.failures {
        let shown: Vec<String> = group.seeds.iter().take(8).map(u64::to_string).collect();
        let fastest = group.fastest.filter(|_| group.seeds.len() > 1);
        let fastest = fastest.map(|f| format!("; fastest {} ({} events)", f.seed, f.events)).unwrap_or_default();
        let more = if group.seeds.len() > shown.len() { ", …" } else { "" };
        writeln!(
            text,
            "  {} {} in {} of {} runs: seeds {}{more}{fastest}",
            group.verdict.name(),
            group.signature,
            group.seeds.len(),
            summary.runs,
            shown.join(", ")
        )
        .expect("strings take everything");
    }
    match summary.judgement() {
        Judgement::NotJudged => writeln!(
            text,
            "sight  not judged: {} runs, the profile {} is judged from {} on",
            summary.runs, summary.expectation.profile, summary.expectation.minimum_seeds
        ),
        Judgement::Seen => writeln!(text, "sight  every declared fault fired, every declared phase was reached"),
        Judgement::Blind(missing) => {
            writeln!(text, "sight  BLIND: {} of what the profile declares missing", missing.len())
        }
    }
    .expect("strings take everything");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{FiredFault, RunRecord, Verdict},
        summary::Expectation,
    };

    #[test]
    fn the_table_shows_what_was_declared_even_if_it_never_fired() {
        let mut summary = Summary::new(Expectation {
            profile: "p".into(),
            faults: vec!["crash".into(), "freeze".into()],
            ..Expectation::default()
        });
        let mut record = RunRecord::empty(1, "p", Verdict::Clean);
        record.coverage.fired.push(FiredFault {
            index: None,
            class: "crash".into(),
            target: "tm-1".into(),
            phase: "align".into(),
            at_ms: 3,
            event: 7,
            path: "none".into(),
        });
        summary.add(&record);
        let text = summary_text(&summary, &["trigger", "align"]);
        assert!(text.lines().any(|line| line.contains("crash") && line.contains('1')), "{text}");
        assert!(text.lines().any(|line| line.contains("freeze") && line.contains('·')), "{text}");
        assert!(text.contains("declared, never fired:   freeze"), "{text}");
        assert!(!text.contains("databases"), "{text}");
    }

    #[test]
    fn databases_are_counted_where_there_are_any() {
        let mut summary = Summary::new(Expectation::default());
        for (seed, opened) in [(1, 4), (2, 9), (3, 6)] {
            let mut record = RunRecord::empty(seed, "p", Verdict::Clean);
            (record.counters.opened_databases, record.counters.judged_databases) = (opened, 3 * opened);
            summary.add(&record);
        }
        let text = summary_text(&summary, &[]);
        assert!(text.contains("databases  6 opened in a run, and 18 by its invariants (medians)"), "{text}");
    }
}
