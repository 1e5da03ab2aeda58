//! Of a long story the last events that concern what broke.

use std::collections::BTreeSet;

use reports::RunRecord;
use runtime::journal::EventKind;

use crate::shrink::story::Moment;

/// The last `most` events up to the failure about what the violation names (a subtask, a process, a checkpoint, …); what its
/// message names, where its entity names nothing that events are about.
pub fn last_events(story: &[Moment], record: &RunRecord, most: usize) -> Vec<String> {
    let end = record.broken_at.map_or(story.len(), |at| usize::try_from(at).unwrap_or(usize::MAX).saturating_add(1));
    // What only a planted bug tells says nothing about what broke.
    let told = story[..end.min(story.len())].iter().filter(|moment| moment.kind != EventKind::PlantedBugRan);
    let story: Vec<Moment> = told.cloned().collect();
    let story = story.as_slice();
    let violation = record.violations.first();
    let entity = violation.map(|violation| violation.entity.as_str()).unwrap_or_default();
    let message = violation.map(|violation| violation.message.as_str()).unwrap_or_default();
    for text in [entity, message] {
        let involved = Involved::by(text, story);
        let found: Vec<&Moment> = story.iter().filter(|moment| involved.concerns(moment)).collect();
        if found.len() >= 2 {
            return texts(&found, most);
        }
    }
    texts(&story.iter().collect::<Vec<_>>(), most)
}

fn texts(moments: &[&Moment], most: usize) -> Vec<String> {
    moments[moments.len().saturating_sub(most)..].iter().map(|moment| moment.text.clone()).collect()
}

struct Involved<'a> {
    names: BTreeSet<&'a str>,
    checkpoints: BTreeSet<String>,
}

impl<'a> Involved<'a> {
    fn by(text: &str, story: &'a [Moment]) -> Involved<'a> {
        let names = story.iter().flat_map(|moment| [moment.entity.as_str(), moment.process.as_str()]);
        let names = names.filter(|name| is_word_of(name, text)).collect();
        let numbers = text.match_indices("checkpoint ").filter_map(|(at, found)| {
            let number: String = text[at + found.len()..].chars().take_while(char::is_ascii_digit).collect();
            (!number.is_empty()).then_some(number)
        });
        Involved { names, checkpoints: numbers.map(|number| format!("CheckpointId({number})")).collect() }
    }

    fn concerns(&self, moment: &Moment) -> bool {
        self.names.contains(moment.entity.as_str())
            || self.names.contains(moment.process.as_str())
            || self.checkpoints.iter().any(|checkpoint| moment.text.contains(checkpoint.as_str()))
    }
}

/// Whether `name` stands in `text` by itself: `tm-1` does not stand in `tm-12`.
fn is_word_of(name: &str, text: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    name.len() > 1
        && text.match_indices(name).any(|(at, found)| {
            let before = text[..at].chars().next_back();
            let after = text[at + found.len()..].chars().next();
            !before.is_some_and(part) && !after.is_some_and(part)
        })
}

#[cfg(test)]
mod tests {
    use reports::{Verdict, ViolationRecord};

    use super::*;

    fn moment(process: &str, entity: &str, text: &str) -> Moment {
        let kind = EventKind::TaskDeployed;
        Moment { at_ms: 1, kind, process: process.into(), entity: entity.into(), text: text.into() }
    }

    fn broken(entity: &str, message: &str, at: u64) -> RunRecord {
        let mut record = RunRecord::empty(1, "default", Verdict::Violation);
        record.broken_at = Some(at);
        record.violations.push(ViolationRecord {
            invariant: "i".into(),
            entity: entity.into(),
            kind: "k".into(),
            message: message.into(),
            signature: "s".into(),
        });
        record
    }

    #[test]
    fn only_what_concerns_the_entity_is_told_and_nothing_after_the_failure() {
        let story = [
            moment("tm-1", "count[1]", "a"),
            moment("tm-12", "count[12]", "b"),
            moment("jobmanager", "CheckpointId(7)", "c CheckpointId(7)"),
            moment("tm-1", "count[1]", "d"),
            moment("tm-1", "count[1]", "after"),
        ];
        assert_eq!(last_events(&story, &broken("count[1] key 3", "", 3), 5), ["a", "d"]);
        assert_eq!(last_events(&story, &broken("nothing known", "by tm-1", 4), 2), ["d", "after"]);
        let two = [story[2].clone(), story[2].clone(), story[1].clone()];
        assert_eq!(last_events(&two, &broken("checkpoint 7", "", 9), 5).len(), 2);
        assert_eq!(last_events(&story, &broken("?", "?", 9), 2), ["d", "after"]);
    }

    #[test]
    fn a_name_is_found_only_by_itself() {
        assert!(is_word_of("tm-1", "of tm-1: x") && is_word_of("count[1]", "count[1] key 3"));
        assert!(!is_word_of("tm-1", "tm-12") && !is_word_of("tm-1", "atm-1"));
    }
}
