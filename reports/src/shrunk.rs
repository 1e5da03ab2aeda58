//! A failure that was shrunk and explained, on one screen.

use crate::failure::{SCREEN, cut};

/// What the screen says, in its order. Each line is one already; long ones are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShrunkScreen {
    /// `violation`, `crash`, ….
    pub verdict: String,
    pub invariant: String,
    pub command: String,
    pub signature: String,
    /// How often it was seen, and where.
    pub seen: String,
    /// What shrinking made of what.
    pub shrunk: Option<String>,
    /// The schedule in plain words, a line each.
    pub schedule: Vec<String>,
    /// What was found broken.
    pub broken: String,
    pub last: Vec<String>,
    /// Necessity and inevitability.
    pub why: Vec<String>,
    /// Where a run that ends well parts: how it differs, the failing event, the other one.
    pub parting: Vec<String>,
    pub files: Vec<String>,
}

/// At most 25 lines: verdict and invariant, the command, the signature with its counts, the schedule, the last events of those
/// involved, the causes, the files.
pub fn shrunk_screen(screen: &ShrunkScreen) -> String {
    let mut head = vec![
        format!("FAILED  {}  invariant {}", screen.verdict, screen.invariant),
        format!("repeat  {}", screen.command),
        cut(&format!("as      {}", screen.signature)),
        cut(&format!("seen    {}", screen.seen)),
    ];
    head.extend(screen.shrunk.iter().map(|shrunk| cut(&format!("shrunk  {shrunk}"))));
    head.extend(labelled("what", &screen.schedule));
    head.push(cut(&format!("broken  {}", screen.broken)));
    let mut tail = labelled("why", &screen.why);
    tail.extend(labelled("parts", &screen.parting));
    tail.extend(labelled("files", &screen.files));
    // What is cut, if anything is, are the events; then the causes.
    let room = SCREEN.saturating_sub(head.len() + tail.len());
    let first = screen.last.len().saturating_sub(room);
    head.extend(labelled("last", &screen.last[first..]));
    tail.drain(..(head.len() + tail.len()).saturating_sub(SCREEN).min(tail.len()));
    head.extend(tail);
    head.truncate(SCREEN);
    head.join("\n")
}

fn labelled(label: &str, lines: &[String]) -> Vec<String> {
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    labels.zip(lines).map(|(label, line)| cut(&format!("{label:<8}{line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> ShrunkScreen {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect();
        ShrunkScreen {
            verdict: "violation".into(),
            invariant: "restored-state".into(),
            command: "./weir replay --plan regressions/restored-state-mismatch-fold.toml".into(),
            signature: "restored-state/mismatch/fold[#]".into(),
            seen: "in 30 of 33 schedules; in 7 of 4000 runs of sweep".into(),
            shrunk: Some("9 faults to 2 in 21.4 s (203 runs); no fault can be left out".into()),
            schedule: lines(&[
                "job audit: 100 records over 4 keys and 1 split, parallelism 1, on 1 TaskManager with 1 slot",
                "inside the 3rd CheckpointCompleted: up to 1 files of the newest local copy on tm-1's disk rot",
                "20 ms after the 3rd CheckpointCompleted: tm-1 dies and comes back after 50 ms",
            ]),
            broken: "fold[0] (mismatch): restored 3 keys, snapshot has 4".into(),
            last: (0..6).map(|n| format!("[s{n} e{n}] tm-1 RestoreStarted")).collect(),
            why: lines(&[
                "fault 1 is necessary: without it 0 of 11 schedules fail",
                "became inevitable between e812 and e813 (P 0.05 -> 1.00, 20 futures each side at most)",
            ]),
            parting: lines(&[
                "after 813 events from the run without fault 1",
                "fails   [s4 e813]",
                "passes  [s4 e813]",
            ]),
            files: lines(&["regressions/restored-state-mismatch-fold.toml"]),
        }
    }

    #[test]
    fn it_reads_from_the_verdict_to_the_files() {
        insta::assert_snapshot!(shrunk_screen(&screen()));
    }

    #[test]
    fn it_fits_however_much_there_is_to_say() {
        let mut screen = screen();
        screen.last = vec!["x\n".repeat(200); 40];
        screen.why = vec!["fault is noise".repeat(40); 12];
        let text = shrunk_screen(&screen);
        assert_eq!(text.lines().count(), 25, "{text}");
        assert!(text.contains("FAILED") && text.contains("files   regressions/"), "{text}");
    }
}
