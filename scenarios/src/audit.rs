//! Is one plan one run? Each request runs in two processes; where their segment hashes part, the segment is run again on
//! both sides with its events, and the first pair that differs is shown.

use reports::{RunRecord, TraceHash, Verdict};

use crate::{
    confirm::{Limits, Runner, conflict},
    worker::Request,
};

/// How often a divergence is looked for: the rerun of a nondeterministic run need not part at the same place.
const ATTEMPTS: u32 = 8;

/// The first place at which two runs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    pub segment: u64,
    pub last_equal: Option<String>,
    pub left: String,
    pub right: String,
}

/// The first segment whose hashes differ, or that one side lacks.
pub fn first_diverging_segment(left: &TraceHash, right: &TraceHash) -> Option<u64> {
    let longest = left.segments.len().max(right.segments.len());
    (0..longest).find(|index| left.segments.get(*index) != right.segments.get(*index)).map(|index| index as u64)
}

/// The first line at which two dumps of a segment differ.
pub fn first_divergence(segment: u64, left: &[String], right: &[String]) -> Option<Divergence> {
    let longest = left.len().max(right.len());
    let at = (0..longest).find(|index| left.get(*index) != right.get(*index))?;
    let side = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(the run ended here)".to_string());
    Some(Divergence {
        segment,
        last_equal: at.checked_sub(1).and_then(|before| left.get(before)).cloned(),
        left: side(left),
        right: side(right),
    })
}

/// Runs `request` in two fresh processes. A difference becomes a nondeterminism record, with the first diverging event if it
/// could be caught.
///
/// # Errors
/// A line that says why nothing could be run.
pub fn audited(request: &Request, limits: impl Into<Limits>) -> Result<(RunRecord, Option<Divergence>), String> {
    let mut runner = Runner::new(1, limits);
    let first = runner.once(request)?.record;
    if first.verdict == Verdict::Environment {
        return Ok((first, None));
    }
    let again = runner.once(request)?.record;
    if first.is_same_run(&again) {
        return Ok((first, None));
    }
    let mut segment = first_diverging_segment(&first.trace, &again.trace);
    let mut record = conflict(first, again);
    if record.verdict != Verdict::Nondeterminism {
        return Ok((record, None));
    }
    for _ in 0..ATTEMPTS {
        let Some(wanted) = segment else { break };
        let dumping = Request { segment: Some(wanted), ..request.clone() };
        let left = runner.once(&dumping)?;
        let right = runner.once(&dumping)?;
        if let Some(divergence) = first_divergence(wanted, &left.segment, &right.segment) {
            record.message = Some(format!("two processes ran the same plan; first difference in segment {wanted}"));
            // In place of the end of one run: both sides of the first difference.
            record.last_events = divergence.last_equal.iter().map(|event| format!("both  {event}")).collect();
            record.last_events.push(format!("one   {}", divergence.left));
            record.last_events.push(format!("other {}", divergence.right));
            return Ok((record, Some(divergence)));
        }
        // This pair parted elsewhere, or not at all.
        segment = first_diverging_segment(&left.record.trace, &right.record.trace).or(segment);
    }
    Ok((record, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(segments: &[&str]) -> TraceHash {
        TraceHash { segments: segments.iter().map(ToString::to_string).collect(), last: String::new() }
    }

    #[test]
    fn the_first_differing_segment_is_found() {
        assert_eq!(first_diverging_segment(&hash(&["a", "b"]), &hash(&["a", "b"])), None);
        assert_eq!(first_diverging_segment(&hash(&["a", "b", "c"]), &hash(&["a", "x", "y"])), Some(1));
        assert_eq!(first_diverging_segment(&hash(&["a"]), &hash(&["a", "b"])), Some(1));
    }

    #[test]
    fn the_first_differing_event_is_shown_with_what_came_before() {
        let lines = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let found = first_divergence(3, &lines("a b c d"), &lines("a b x d")).expect("they differ");
        assert_eq!(found, Divergence { segment: 3, last_equal: Some("b".into()), left: "c".into(), right: "x".into() });
        let shorter = first_divergence(0, &lines("a b"), &lines("a")).expect("they differ");
        assert_eq!(shorter.right, "(the run ended here)");
        assert_eq!(first_divergence(0, &lines("a"), &lines("a")), None);
    }
}
