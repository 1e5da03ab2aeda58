//! A sweep as Markdown, for the summary page of a GitHub step.

use std::fmt::Write as _;

use crate::{
    junit::Checked,
    summary::{Judgement, Summary},
};

/// Seeds named per signature.
const SEEDS: usize = 5;

fn code(text: &str) -> String {
    // What a run says must break neither the table nor the page.
    let text: String = text.chars().map(|c| if c == '|' || c == '`' || c.is_control() { ' ' } else { c }).collect();
    format!("`{}`", text.trim())
}

/// `verdict` is the word for the sweep as a whole; `phases` gives the order of the columns.
pub fn step_summary(
    summary: &Summary,
    verdict: &str,
    proofs: &[Checked],
    complaints: &[String],
    phases: &[&str],
) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("strings take everything");
    line(format!("## Chaos, profile {}: {verdict}\n", summary.expectation.profile));
    let verdicts: Vec<String> = summary.verdicts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    line(format!(
        "{} runs: {}. {:.1} runs/s/core.\n",
        summary.runs,
        if verdicts.is_empty() { "none".to_string() } else { verdicts.join(", ") },
        summary.speed()
    ));
    for proof in proofs {
        if let Some(wrong) = &proof.wrong {
            line(format!("- **blind**: the proof {} failed: {}", code(&proof.name), code(wrong)));
        }
    }
    for complaint in complaints {
        line(format!("- **blind**: {}", code(complaint)));
    }
    match summary.judgement() {
        Judgement::NotJudged => {
            line(format!("Sight not judged: fewer than {} runs.\n", summary.expectation.minimum_seeds));
        }
        Judgement::Seen => line("Every declared fault fired, every declared phase was reached.\n".to_string()),
        Judgement::Blind(missing) => {
            for what in missing {
                line(format!("- **blind**: {}", code(&what)));
            }
            line(String::new());
        }
    }
    if !summary.failures.is_empty() {
        line("| class | signature | runs | seeds |\n|---|---|---:|---|".to_string());
        for group in &summary.failures {
            let seeds: Vec<String> = group.seeds.iter().take(SEEDS).map(u64::to_string).collect();
            line(format!(
                "| {} | {} | {} | {}{} |",
                group.class.map_or(group.verdict.name(), |class| class.name()),
                code(&group.signature),
                group.seeds.len(),
                seeds.join(", "),
                if group.seeds.len() > SEEDS { ", …" } else { "" }
            ));
        }
        line(String::new());
    }
    line("<details><summary>Faults by phase of the protocol</summary>\n".to_string());
    line(format!("| fault | {} | all |\n|---|{}---:|", phases.join(" | "), "---:|".repeat(phases.len())));
    let undeclared = summary.fault_phase.keys().filter(|name| !summary.expectation.faults.contains(*name));
    for fault in summary.expectation.faults.iter().chain(undeclared) {
        let cells = summary.fault_phase.get(fault);
        let count = |phase: &str| cells.and_then(|cells| cells.get(phase)).map_or(String::new(), u64::to_string);
        let counts: Vec<String> = phases.iter().map(|phase| count(phase)).collect();
        let all: u64 = cells.map_or(0, |cells| cells.values().sum());
        line(format!("| {fault} | {} | {all} |", counts.join(" | ")));
    }
    line("\n</details>".to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{RunRecord, Verdict},
        summary::Expectation,
    };

    #[test]
    fn a_signature_is_a_row_whatever_it_holds() {
        let mut summary = Summary::new(Expectation { profile: "p".into(), ..Expectation::default() });
        let mut record = RunRecord::empty(7, "p", Verdict::Violation);
        record.invariant = Some("liveness".into());
        record.signature = Some("a|b`\nc".into());
        summary.add(&record);
        let text = step_summary(&summary, "violation", &[], &["shard 1/2 is missing".into()], &["align"]);
        assert!(text.contains("| liveness | `a b  c` | 1 | 7 |"), "{text}");
        assert!(text.contains("shard 1/2 is missing"), "{text}");
    }
}
