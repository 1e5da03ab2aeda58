//! What was found out about a failure, put on its screen.

use reports::{RunRecord, ShrunkScreen};

use crate::{
    explain::{Explanation, why_lines},
    plan::Plan,
    shrink::words::schedule_lines,
};

/// Lines of the schedule.
const SCHEDULE: usize = 6;

/// A failing run and why it fails.
pub struct Told<'a> {
    pub plan: &'a Plan,
    pub record: &'a RunRecord,
    pub explanation: &'a Explanation,
}

/// `text` as people want it: identifiers without the names of their types, long hexadecimal numbers by their beginning.
fn short(text: &str) -> String {
    let mut text = text.to_string();
    for (open, close) in [("Some(", ")"), ("CheckpointId(", ")"), ("LeaderEpoch(", ")"), ("Execution(", ")")] {
        while let Some(at) = text.find(open) {
            let inside = at + open.len();
            // Of nested brackets, the one that closes this one.
            let mut depth = 1;
            let end = text[inside..].find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let Some(end) = end.map(|end| inside + end) else { break };
            text.replace_range(end..end + close.len(), "");
            text.replace_range(at..inside, "");
        }
    }
    while let Some(at) = text.find("AttemptId { leader: ") {
        let Some(end) = text[at..].find(" }").map(|end| at + end) else { break };
        let inner = text[at + "AttemptId { leader: ".len()..end].replace(", execution: ", ".");
        text.replace_range(at..end + 2, &inner);
    }
    let (mut out, mut run) = (String::new(), String::new());
    for c in text.chars().map(Some).chain(std::iter::once(None)) {
        match c {
            Some(c) if c.is_ascii_hexdigit() => run.push(c),
            _ => {
                if run.len() >= 24 {
                    out.push_str(&run[..6]);
                    out.push('…');
                } else {
                    out.push_str(&run);
                }
                run.clear();
                out.extend(c);
            }
        }
    }
    out
}

/// The screen, without what only shrinking knows.
pub fn screen(told: &Told<'_>, command: String) -> ShrunkScreen {
    let Told { plan, record, explanation } = told;
    let verdict = record.verdict.name();
    let broken = match record.violations.first() {
        Some(violation) => format!("{} ({}): {}", violation.entity, violation.kind, short(&violation.message)),
        None => record.message.clone().unwrap_or_else(|| verdict.to_string()),
    };
    let parting = explanation.parting.iter().flat_map(|parting| {
        [
            format!("after {} equal events from {}", parting.common, parting.how),
            format!("fails   {}", short(&parting.failing)),
            format!("passes  {}", short(&parting.passing)),
        ]
    });
    ShrunkScreen {
        verdict: verdict.to_string(),
        invariant: record.invariant.clone().unwrap_or_else(|| "-".to_string()),
        command,
        signature: record.signature.clone().unwrap_or_else(|| verdict.to_string()),
        seen: format!("in {} schedules of this plan", explanation.with),
        shrunk: None,
        schedule: schedule_lines(plan, SCHEDULE),
        broken,
        last: explanation.last.iter().map(|event| short(event)).collect(),
        why: why_lines(explanation),
        parting: parting.collect(),
        files: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_short_enough_to_be_read() {
        let event = "[s4 e5] jobmanager RestoreChosen job=\"audit\" checkpoint=Some(CheckpointId(7)) newest=None \
                     attempt=AttemptId { leader: LeaderEpoch(1), execution: Execution(3) } of 4a8d1e6ada3bf95e92f06bcf61cec4e7 f95d25ddd4c563ae";
        assert_eq!(
            short(event),
            "[s4 e5] jobmanager RestoreChosen job=\"audit\" checkpoint=7 newest=None attempt=1.3 of 4a8d1e… f95d25ddd4c563ae"
        );
        for broken in ["Some(", "CheckpointId(Some(", "AttemptId { leader: ", "Some(CheckpointId(7)"] {
            short(broken);
        }
    }
}
