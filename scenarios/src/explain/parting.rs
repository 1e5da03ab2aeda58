//! Where a failing run and one that ends well part.

use crate::shrink::story::Moment;

/// The first events in which two runs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// How the run that ends well differs in its plan.
    pub how: String,
    /// Events that both have.
    pub common: usize,
    pub failing: String,
    pub passing: String,
}

const ENDED: &str = "(it ended here)";

/// None if they are the same.
pub fn part(how: String, failing: &[Moment], passing: &[Moment]) -> Option<Parting> {
    let common = failing.iter().zip(passing).take_while(|(left, right)| left.text == right.text).count();
    let text = |story: &[Moment]| story.get(common).map_or_else(|| ENDED.to_string(), |moment| moment.text.clone());
    (common < failing.len().max(passing.len())).then(|| Parting {
        how,
        common,
        failing: text(failing),
        passing: text(passing),
    })
}
