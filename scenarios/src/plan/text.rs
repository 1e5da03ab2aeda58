//! Plans as TOML. Written with one line per field, so that a fault is four lines; read with errors that name line and field.

use std::fmt::Write as _;

use super::{model::Plan, validate::Complaint};

/// Why a text is no plan, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PlanError {
    /// From 1; None when the text as a whole lacks something.
    pub line: Option<usize>,
    pub field: String,
    pub message: String,
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl Plan {
    /// # Panics
    /// Never for a plan that passes [`Plan::check`]: all its numbers fit TOML's.
    pub fn to_toml(&self) -> String {
        let table = toml::Table::try_from(self).expect("every number of a checked plan fits TOML");
        let mut text =
            String::from("# A plan of the chaos harness. Edit it, and run it with: ./weir replay --plan <this file>\n");
        for (key, value) in &table {
            if !is_section(value) {
                writeln!(text, "{key} = {value}").expect("strings take everything");
            }
        }
        for (key, value) in &table {
            match value {
                toml::Value::Table(section) => {
                    writeln!(text, "\n[{key}]").expect("strings take everything");
                    write_fields(&mut text, section);
                }
                toml::Value::Array(sections) if is_section(value) => {
                    for section in sections.iter().filter_map(toml::Value::as_table) {
                        writeln!(text, "\n[[{key}]]").expect("strings take everything");
                        write_fields(&mut text, section);
                    }
                }
                _ => {}
            }
        }
        text
    }

    /// # Errors
    /// [`PlanError`] if the text is no plan, or a plan that makes no sense.
    pub fn from_toml(text: &str) -> Result<Plan, PlanError> {
        // A kept plan says in a section of its own why it is kept.
        let (text, _) = &apart(text, KEPT);
        let plan: Plan = toml::from_str(text).map_err(|error| toml_error(text, &error))?;
        plan.check().map_err(|complaint| {
            let field = match (complaint.section, complaint.index) {
                ("", _) => complaint.field.to_string(),
                ("faults", index) => format!("faults[{index}].{}", complaint.field),
                (section, _) => format!("{section}.{}", complaint.field),
            };
            PlanError { line: line_of_field(text, &complaint), field, message: complaint.message }
        })?;
        // What is read can be written again, whatever rule was forgotten above.
        toml::Table::try_from(&plan).map_err(|error| PlanError {
            line: None,
            field: String::new(),
            message: format!("cannot be written as TOML: {error}"),
        })?;
        Ok(plan)
    }
}

/// The section that a kept plan has besides its own.
pub(crate) const KEPT: &str = "kept";

/// The text without the section `[name]`, and that section alone. Both keep their line numbers.
pub(crate) fn apart(text: &str, name: &str) -> (String, String) {
    let (mut rest, mut section, mut inside) = (String::new(), String::new(), false);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') && trimmed.ends_with(']') {
            inside = trimmed.trim_start_matches('[').trim_end_matches(']').trim() == name;
        }
        let (here, there) = if inside { (&mut section, &mut rest) } else { (&mut rest, &mut section) };
        here.push_str(line);
        if line.ends_with('\n') {
            there.push('\n');
        }
    }
    (rest, section)
}

/// What is wrong with a text, by line and field.
pub(crate) fn toml_error(text: &str, error: &toml::de::Error) -> PlanError {
    let line = error.span().map(|span| line_of(text, span.start));
    let field = line.map(|line| field_at(text, line)).unwrap_or_default();
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    PlanError { line, field, message }
}

fn is_section(value: &toml::Value) -> bool {
    match value {
        toml::Value::Table(_) => true,
        toml::Value::Array(items) => items.first().is_some_and(toml::Value::is_table),
        _ => false,
    }
}

fn write_fields(text: &mut String, section: &toml::Table) {
    for (key, value) in section {
        // Tables inside a section are written inline.
        writeln!(text, "{key} = {value}").expect("strings take everything");
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The section and key on a line, as far as they can be seen.
fn field_at(text: &str, line: usize) -> String {
    let mut section = String::new();
    let mut key = String::new();
    for current in text.lines().take(line) {
        let current = current.trim();
        key.clear();
        if current.starts_with('[') {
            section = current.trim_matches(['[', ']', ' ']).to_string();
        } else if let Some((name, _)) = current.split_once('=') {
            key = name.trim().to_string();
        }
    }
    match (section.is_empty(), key.is_empty()) {
        (false, false) => format!("{section}.{key}"),
        (false, true) => section,
        (true, _) => key,
    }
}

fn line_of_field(text: &str, complaint: &Complaint) -> Option<usize> {
    let mut section = String::new();
    let mut index = 0;
    let mut header = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            let name = line.trim_matches(['[', ']', ' ']).to_string();
            index = if name == section { index + 1 } else { 0 };
            section = name;
        }
        if section == complaint.section && index == complaint.index {
            header.get_or_insert(number + 1);
            if line.split_once('=').is_some_and(|(name, _)| name.trim() == complaint.field) {
                return Some(number + 1);
            }
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{generate, profile};

    fn any_plan() -> impl Strategy<Value = Plan> {
        (0..profile::ALL.len(), 0..i64::MAX.cast_unsigned()).prop_map(|(p, seed)| generate(&profile::ALL[p], seed))
    }

    fn sample() -> String {
        generate(&profile::DEFAULT, 3).to_toml()
    }

    fn error(text: &str) -> String {
        let message = Plan::from_toml(text).expect_err("must be refused").to_string();
        assert_eq!(message.lines().count(), 1, "one line: {message:?}");
        message
    }

    fn edited(from: &str, to: &str) -> String {
        let text = sample();
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        text.replacen(from, to, 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_plan_survives_the_way_through_toml(plan in any_plan()) {
            prop_assert_eq!(Plan::from_toml(&plan.to_toml()), Ok(plan));
        }

        #[test]
        fn a_damaged_text_is_refused_and_never_panics(
            plan in any_plan(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
        ) {
            let mut bytes = plan.to_toml().into_bytes();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            let text = String::from_utf8_lossy(&bytes);
            if let Err(error) = Plan::from_toml(&text) {
                prop_assert!(!error.message.is_empty());
            }
        }

        #[test]
        fn lines_in_any_order_never_panic(plan in any_plan(), order in any::<u64>()) {
            let text = plan.to_toml();
            let mut lines: Vec<&str> = text.lines().collect();
            let count = lines.len() as u64;
            lines.swap((order % count) as usize, (order / count % count) as usize);
            let _ = Plan::from_toml(&lines.join("\n"));
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let message = error(&edited("task_managers =", "task_manager ="));
        assert!(message.starts_with("line ") && message.contains("task_manager"), "{message}");
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line_and_field() {
        let text = sample();
        let line = text.lines().position(|line| line.starts_with("retained")).expect("there") + 1;
        let broken = text.replacen("retained = ", "retained = \"x\" #", 1);
        let message = error(&broken);
        assert!(message.starts_with(&format!("line {line}: settings.retained: ")), "{message}");
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_line_and_field() {
        let text = sample();
        let line = text.lines().position(|line| line.starts_with("splits")).expect("there") + 1;
        let broken = text.replacen("splits = ", "splits = 9999 #", 1);
        assert_eq!(error(&broken), format!("line {line}: workload.splits: 9999 is not within 1..=1000"));
    }

    #[test]
    fn a_misspelt_event_gets_a_suggestion() {
        let fault = "\n[[faults]]\ntarget = \"emitter\"\ntrigger = { on = { event = \"CheckpointComplete\", ordinal = 1 } }\nfault = { crash = { } }\n";
        let message = error(&format!("{}{fault}", sample()));
        assert!(message.contains("did you mean \"CheckpointCompleted\"?"), "{message}");
    }

    #[test]
    fn a_target_that_does_not_exist_is_named() {
        let fault = "\n[[faults]]\ntarget = \"tm-99\"\ntrigger = { at_ms = 5 }\nfault = { freeze = { } }\n";
        let text = format!("{}{fault}", sample());
        let line = text.lines().position(|line| line.contains("tm-99")).expect("there") + 1;
        let message = error(&text);
        assert!(message.starts_with(&format!("line {line}: faults[")) && message.contains("tm-99"), "{message}");
    }

    #[test]
    fn a_section_is_taken_apart_and_lines_stay_where_they_are() {
        let (rest, section) = apart("a = 1\n[kept]\nb = 2\n[c]\nd = [\"[kept]\"]\n", "kept");
        assert_eq!(rest, "a = 1\n\n\n[c]\nd = [\"[kept]\"]\n");
        assert_eq!(section, "\n[kept]\nb = 2\n\n\n");
    }

    #[test]
    fn rubbish_is_refused_in_one_line() {
        for text in ["", "version = ", "\u{0}", "[[[[", "version = 1", "a = \"\n\""] {
            error(text);
        }
        error(&edited("version = 1", "version = 2"));
    }
}
