//! One failed run on one screen: what broke, for whom, what happened last, and the command that repeats it.

use crate::record::{RunRecord, Verdict};

/// Lines that a failure may take.
pub(crate) const SCREEN: usize = 25;
/// Characters of a line; longer ones are cut.
const WIDTH: usize = 180;

pub(crate) fn cut(text: &str) -> String {
    // A line of what the run said must stay one line; the column of the label stays as it is.
    let one_line = text.replace(['\n', '\r', '\t'], " ");
    if one_line.chars().count() <= WIDTH {
        return one_line;
    }
    one_line.chars().take(WIDTH - 1).chain(std::iter::once('…')).collect()
}

/// At most 25 lines.
pub fn failure_screen(record: &RunRecord, command: &str) -> String {
    let mut lines = Vec::new();
    let invariant = record.invariant.as_deref().unwrap_or("-");
    let class = record.failure_class().map_or("none", |class| class.name());
    lines.push(format!("FAILED  {}  invariant {invariant}  class {class}", record.verdict.name()));
    lines.push(format!("repeat  {command}"));
    if let Some(signature) = &record.signature {
        lines.push(cut(&format!("as      {signature}")));
    }
    lines.push(format!(
        "run     seed {}, profile {}, stopped at {} ms simulated, {} events",
        record.seed, record.profile, record.timings.simulated_ms, record.counters.events
    ));
    for violation in record.violations.iter().take(3) {
        lines.push(cut(&format!("broken  {} ({}): {}", violation.entity, violation.kind, violation.message)));
    }
    if record.violations.len() > 3 {
        lines.push(format!("        and {} more", record.violations.len() - 3));
    }
    if record.violations.is_empty() || record.verdict == Verdict::Nondeterminism {
        lines.extend(record.message.iter().map(|message| cut(&format!("because {message}"))));
    }
    let faults = &record.coverage.fired;
    let first = faults.len().saturating_sub(5);
    if first > 0 {
        lines.push(format!("fault   {first} earlier"));
    }
    for fault in &faults[first..] {
        let stamp = format!("[s{} e{}]", fault.at_ms, fault.event);
        lines.push(cut(&format!("fault   {stamp} {} on {} during {}", fault.class, fault.target, fault.phase)));
    }
    if let Some(tail) = &record.stderr_tail {
        let kept: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
        let first = kept.len().saturating_sub(4);
        lines.extend(kept[first..].iter().map(|line| cut(&format!("stderr  {line}"))));
    }
    // The last events fill what is left.
    let room = SCREEN.saturating_sub(lines.len());
    let first = record.last_events.len().saturating_sub(room);
    lines.extend(record.last_events[first..].iter().map(|event| cut(&format!("last    {event}"))));
    lines.truncate(SCREEN);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FiredFault, ViolationRecord};

    #[test]
    fn a_failure_fits_on_a_screen_however_much_there_is_to_say() {
        let mut record = RunRecord::empty(17, "default", Verdict::Violation);
        record.invariant = Some("exactly-once".into());
        record.signature = Some("exactly-once/lost/out".into());
        for n in 0..40 {
            record.violations.push(ViolationRecord {
                invariant: "exactly-once".into(),
                entity: format!("out {n}"),
                kind: "lost".into(),
                message: "x\ny".repeat(200),
                signature: "s".into(),
            });
            record.coverage.fired.push(FiredFault {
                index: Some(n),
                class: "crash".into(),
                target: "tm-1".into(),
                phase: "align".into(),
                at_ms: 1,
                event: 2,
                path: String::new(),
            });
            record.last_events.push(format!("[s{n} e{n}] tm-1 BarrierReceived"));
        }
        record.stderr_tail = Some("line\n".repeat(50));
        let screen = failure_screen(&record, "./weir replay --seed 17 --profile default");
        assert!(screen.lines().count() <= 25);
        assert!(screen.lines().all(|line| line.chars().count() <= WIDTH));
        for needed in ["exactly-once", "out 0", "./weir replay --seed 17", "last    [s39 e39]"] {
            assert!(screen.contains(needed), "{needed:?} is missing in\n{screen}");
        }
    }
}
