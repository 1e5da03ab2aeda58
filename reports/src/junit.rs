//! A sweep as JUnit XML, for what shows test results: a suite for the proofs, one for the runs, one for what was to be seen.
//!
//! There is no test case per seed: a long sweep has a hundred thousand. A signature is a test case that failed, with its seeds.

use std::collections::BTreeMap;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::summary::{FailureGroup, Judgement, Summary};

/// One thing that a sweep had to show, and whether it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub name: String,
    /// What is wrong; None if it held.
    pub wrong: Option<String>,
}

/// Seeds named per signature.
const SEEDS: usize = 20;

fn case(name: &str, wrong: Option<(&str, String, String)>) -> TestCase {
    let status = match wrong {
        None => TestCaseStatus::success(),
        Some((kind, message, text)) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type(kind).set_message(message).set_description(text);
            status
        }
    };
    TestCase::new(name, status)
}

fn seeds(group: &FailureGroup) -> String {
    let named: Vec<String> = group.seeds.iter().take(SEEDS).map(u64::to_string).collect();
    let more = if group.seeds.len() > SEEDS { ", …" } else { "" };
    format!("seeds {}{more}", named.join(", "))
}

/// `proofs` and `complaints` are what the sweep says of itself; `screens` holds the failure screen of a signature.
///
/// # Errors
/// If the XML cannot be written.
pub fn junit(
    summary: &Summary,
    proofs: &[Checked],
    complaints: &[String],
    screens: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut report = Report::new(format!("weir chaos, profile {}", summary.expectation.profile));
    let mut suite = TestSuite::new("proofs");
    for proof in proofs {
        let wrong = proof.wrong.clone().map(|wrong| ("blind", wrong, String::new()));
        suite.add_test_case(case(&proof.name, wrong));
    }
    report.add_test_suite(suite);
    let mut suite = TestSuite::new("runs");
    let failed = summary.failed_runs();
    suite.add_test_case(case(&format!("{} runs without a failure", summary.runs - failed), None));
    for group in &summary.failures {
        let kind = group.class.map_or(group.verdict.name(), |class| class.name());
        let message = format!("in {} of {} runs: {}", group.seeds.len(), summary.runs, seeds(group));
        let screen = screens.get(&group.signature).cloned().unwrap_or_default();
        suite.add_test_case(case(&group.signature, Some((kind, message, screen))));
    }
    report.add_test_suite(suite);
    let mut suite = TestSuite::new("sight");
    if let Judgement::Blind(missing) = summary.judgement() {
        for what in missing {
            suite.add_test_case(case(&what, Some(("blind", what.clone(), String::new()))));
        }
    } else {
        suite.add_test_case(case("what the profile declares was seen", None));
    }
    for complaint in complaints {
        suite.add_test_case(case(complaint, Some(("blind", complaint.clone(), String::new()))));
    }
    report.add_test_suite(suite);
    report.to_string().map_err(|error| format!("cannot write JUnit XML: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{RunRecord, Verdict},
        summary::Expectation,
    };

    #[test]
    fn a_signature_is_a_failed_case_and_what_a_run_says_cannot_break_the_xml() {
        let mut summary = Summary::new(Expectation { profile: "p".into(), ..Expectation::default() });
        for seed in 0..30 {
            let mut record = RunRecord::empty(seed, "p", Verdict::Crash);
            record.signature = Some("crash/<&\"]]>\u{1}".into());
            summary.add(&record);
        }
        let proofs = [Checked { name: "canary".into(), wrong: Some("NOT SEEN".into()) }];
        let screens = BTreeMap::from([("crash/<&\"]]>\u{1}".to_string(), "FAILED\n]]> & \u{0}".to_string())]);
        let text = junit(&summary, &proofs, &["shard 1/2: missing".to_string()], &screens).expect("written");
        let read = Report::deserialize_from_str(&text).expect("it is XML");
        let cases = read.test_suites.iter().map(|suite| suite.test_cases.len()).collect::<Vec<_>>();
        assert_eq!(cases, [1, 2, 2], "{text}");
        assert!(text.contains("in 30 of 30 runs: seeds 0, 1, 2"), "{text}");
    }
}
