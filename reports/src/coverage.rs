//! What a sweep has covered, on a terminal: points of the protocol, and faults by phase and by the path of recovery.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::CellAlignment;

use crate::{
    summary::{PointCount, Summary},
    tables::table,
};

/// Of so many cells that could not be reached for one reason the names are shown; `summary.json` has them all.
const UNREACHED: usize = 6;
/// So many of the rarest points are named.
const RAREST: usize = 4;

fn count_of(summary: &Summary, point: &str) -> PointCount {
    summary.points.get(point).copied().unwrap_or_default()
}

/// A few lines for the summary of a sweep: totals per path, points reached, what is missing, and what was nearly missed.
pub(crate) fn lines(summary: &Summary) -> String {
    let mut text = String::new();
    let mut paths: BTreeMap<&str, u64> = BTreeMap::new();
    for (path, count) in summary.fault_path().values().flatten() {
        *paths.entry(path).or_default() += count;
    }
    let mut paths: Vec<_> = paths.into_iter().filter(|(path, _)| !path.is_empty()).collect();
    paths.sort_by_key(|(path, count)| (std::cmp::Reverse(*count), *path));
    if !paths.is_empty() {
        let shown: Vec<String> = paths.iter().map(|(path, count)| format!("{path} {count}")).collect();
        writeln!(text, "paths  {}", shown.join(" · ")).expect("strings take everything");
    }
    if let Some(steered) = &summary.steered {
        writeln!(
            text,
            "steer  {} runs in {} rounds: of {} empty cells (fault by phase, fault by path) {} were reached",
            steered.runs, steered.rounds, steered.empty_before, steered.reached
        )
        .expect("strings take everything");
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (cell, why) in &steered.unreached {
            by_reason.entry(why).or_default().push(cell);
        }
        let mut reasons: Vec<_> = by_reason.into_iter().collect();
        reasons.sort_by_key(|(why, cells)| (std::cmp::Reverse(cells.len()), *why));
        for (why, cells) in reasons {
            let shown = cells.iter().take(UNREACHED).copied().collect::<Vec<_>>().join(", ");
            let more =
                if cells.len() > UNREACHED { format!(" and {} more", cells.len() - UNREACHED) } else { String::new() };
            writeln!(text, "empty  {shown}{more}: {why}").expect("strings take everything");
        }
    }
    let points = &summary.expectation.points;
    if points.is_empty() {
        return text;
    }
    let mut reached: Vec<(u64, &str)> = points
        .iter()
        .map(|p| (count_of(summary, &p.name).runs, p.name.as_str()))
        .filter(|(runs, _)| *runs > 0)
        .collect();
    reached.sort_unstable();
    let rarest: Vec<String> = reached.iter().take(RAREST).map(|(runs, name)| format!("{name} in {runs}")).collect();
    writeln!(text, "points {} of {} passed; the rarest: {}", reached.len(), points.len(), rarest.join(", "))
        .expect("strings take everything");
    for point in summary.missed_points() {
        writeln!(text, "MISS   {} {}: {}", point.kind, point.name, point.about).expect("strings take everything");
    }
    let due_later: Vec<String> = points
        .iter()
        .filter(|p| count_of(summary, &p.name).runs == 0)
        .filter_map(|p| p.from_runs.filter(|from| *from > summary.runs).map(|from| format!("{} ({from})", p.name)))
        .collect();
    if !due_later.is_empty() && summary.runs >= summary.expectation.minimum_seeds {
        writeln!(text, "later  not passed, and not due before so many runs: {}", due_later.join(", "))
            .expect("strings take everything");
    }
    text
}

/// Every declared point: kind, name, runs, how often, and whether it is missing.
pub fn point_table(summary: &Summary) -> String {
    let mut out = table();
    out.set_header(["", "point", "kind", "runs", "%", "passed", "due from", "meaning"]);
    for point in &summary.expectation.points {
        let PointCount { runs, passed } = count_of(summary, &point.name);
        let mark = match (runs, point.from_runs) {
            (0, Some(from)) if from <= summary.runs => "MISS",
            (0, _) => "-",
            _ => "pass",
        };
        let percent = runs as f64 * 100.0 / summary.runs.max(1) as f64;
        out.add_row([
            mark.to_string(),
            point.name.clone(),
            point.kind.clone(),
            runs.to_string(),
            format!("{percent:.1}"),
            passed.to_string(),
            point.from_runs.map_or_else(|| "never".to_string(), |from| from.to_string()),
            point.about.clone(),
        ]);
    }
    for column in 3..7 {
        if let Some(column) = out.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    out.to_string()
}

fn shown(count: u64) -> String {
    if count == 0 { "·".to_string() } else { count.to_string() }
}

/// Faults by the path of recovery, over all phases.
pub fn fault_path_table(summary: &Summary, paths: &[&str]) -> String {
    let counts = summary.fault_path();
    let mut out = table();
    out.set_header(std::iter::once("fault \\ path").chain(paths.iter().copied()));
    for (fault, of_fault) in &counts {
        let cells = paths.iter().map(|path| shown(of_fault.get(path).copied().unwrap_or(0)));
        out.add_row(std::iter::once((*fault).to_string()).chain(cells));
    }
    for column in out.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    out.to_string()
}

/// The whole cube: one row for each fault and phase that was hit, one column for each path.
pub fn cube_table(summary: &Summary, phases: &[&str], paths: &[&str]) -> String {
    let mut out = table();
    out.set_header(["fault", "phase"].into_iter().chain(paths.iter().copied()));
    for (fault, of_fault) in &summary.fault_phase_path {
        for phase in phases {
            let Some(of_phase) = of_fault.get(*phase) else { continue };
            let cells = paths.iter().map(|path| shown(of_phase.get(*path).copied().unwrap_or(0)));
            out.add_row([fault.clone(), (*phase).to_string()].into_iter().chain(cells));
        }
    }
    for column in out.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    out.to_string()
}

/// Everything that is known of what the runs covered.
pub fn coverage_text(summary: &Summary, phases: &[&str], paths: &[&str]) -> String {
    let mut text = String::new();
    for part in [
        point_table(summary),
        crate::tables::fault_phase_table(summary, phases),
        fault_path_table(summary, paths),
        cube_table(summary, phases, paths),
    ] {
        writeln!(text, "{part}\n").expect("strings take everything");
    }
    write!(text, "{} runs, profile {}\n{}", summary.runs, summary.expectation.profile, lines(summary))
        .expect("strings take everything");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{FiredFault, RunRecord, Verdict},
        summary::{DeclaredPoint, Expectation},
    };

    fn summary() -> Summary {
        let point = |name: &str, from_runs| DeclaredPoint {
            name: name.into(),
            kind: "reachable".into(),
            about: format!("{name} happens"),
            from_runs,
        };
        let mut summary = Summary::new(Expectation {
            profile: "p".into(),
            points: vec![
                point("seen", Some(1)),
                point("missed", Some(1)),
                point("later", Some(100)),
                point("optional", None),
            ],
            ..Expectation::default()
        });
        let mut record = RunRecord::empty(1, "p", Verdict::Clean);
        record.coverage.points.insert("seen".into(), 3);
        for path in ["primary", "primary", "none"] {
            record.coverage.fired.push(FiredFault {
                index: None,
                class: "crash".into(),
                target: "tm-1".into(),
                phase: "align".into(),
                at_ms: 3,
                event: 7,
                path: path.into(),
            });
        }
        summary.add(&record);
        summary
    }

    #[test]
    fn a_missed_point_is_marked_and_one_that_is_not_due_is_not() {
        insta::assert_snapshot!(lines(&summary()), @r"
        paths  primary 2 · none 1
        points 1 of 4 passed; the rarest: seen in 1
        MISS   reachable missed: missed happens
        later  not passed, and not due before so many runs: later (100)
        ");
    }

    #[test]
    fn the_full_text_has_points_tables_and_cube() {
        insta::assert_snapshot!(coverage_text(&summary(), &["trigger", "align"], &["none", "primary", "replay"]));
    }
}
