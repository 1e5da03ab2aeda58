//! Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) as a pass: removes parts of a
//! list, halves first, until no single item can be removed any more.

use super::search::Pass;

/// Something that holds a list.
pub trait List<C> {
    fn len(&self, of: &C) -> usize;
    /// The same with these items of the list only (ascending); None if that makes no sense.
    fn keep(&self, of: &C, items: &[usize]) -> Option<C>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Guess,
    Part,
    Rest,
}

/// The pass. Its result is 1-minimal: without any single item of the list it does not fail.
pub struct Ddmin<L> {
    list: L,
    /// Items that are likely to be enough.
    guess: Option<Vec<usize>>,
    begun: bool,
    parts: usize,
    kept: Vec<Kept>,
    finest: bool,
    done: bool,
}

impl<L> Ddmin<L> {
    pub fn new(list: L) -> Ddmin<L> {
        Ddmin { list, guess: None, begun: false, parts: 2, kept: Vec::new(), finest: false, done: false }
    }

    /// These items are tried alone before anything is searched.
    #[must_use]
    pub fn guess(mut self, items: Vec<usize>) -> Ddmin<L> {
        self.guess = Some(items);
        self
    }
}

impl<C, L: List<C>> Pass<C> for Ddmin<L> {
    fn round(&mut self, current: &C) -> Option<Vec<C>> {
        let length = self.list.len(current);
        if self.done || length == 0 {
            return None;
        }
        let mut candidates = Vec::new();
        self.kept.clear();
        let mut add = |kept: Kept, items: &[usize]| {
            if items.len() < length
                && let Some(candidate) = self.list.keep(current, items)
            {
                candidates.push(candidate);
                self.kept.push(kept);
            }
        };
        if !self.begun {
            self.begun = true;
            add(Kept::Guess, &[]);
            if let Some(guess) = &self.guess {
                add(Kept::Guess, guess);
            }
            return Some(candidates);
        }
        let parts = self.parts.clamp(1, length);
        self.finest = parts == length;
        let bounds: Vec<(usize, usize)> =
            (0..parts).map(|part| (part * length / parts, (part + 1) * length / parts)).collect();
        // Of two parts, each is the rest of the other.
        if parts > 2 || length == 2 {
            for &(from, to) in &bounds {
                add(Kept::Part, &(from..to).collect::<Vec<_>>());
            }
        }
        for &(from, to) in &bounds {
            add(Kept::Rest, &(0..from).chain(to..length).collect::<Vec<_>>());
        }
        Some(candidates)
    }

    fn settled(&mut self, taken: Option<usize>) {
        match taken.map(|place| self.kept[place]) {
            Some(Kept::Guess | Kept::Part) => self.parts = 2,
            Some(Kept::Rest) => self.parts = (self.parts - 1).max(2),
            None if self.kept.first() == Some(&Kept::Guess) => {}
            None if self.finest => self.done = true,
            None => self.parts *= 2,
        }
    }
}
