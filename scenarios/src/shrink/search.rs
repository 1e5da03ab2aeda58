//! The search itself, without a clock, a process or a plan: candidates out, verdicts in.
//!
//! A pass gives rounds of candidates, the most wanted first. Of a round the first candidate that still fails is taken, and
//! "first" means in the order of the round: a candidate is taken only when every one before it is known to pass. So the result does
//! not depend on the order in which verdicts arrive, however many are under way at a time.

use std::collections::BTreeMap;

/// One way of making something smaller.
pub trait Pass<C> {
    /// The candidates of the next round, the most wanted first; None when there is nothing left to try.
    fn round(&mut self, current: &C) -> Option<Vec<C>>;
    /// The candidate of the last round that was taken, by its place in it; None if all of them pass.
    fn settled(&mut self, taken: Option<usize>);
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<C> {
    /// Find out whether this one fails, and say so by [`Search::tell`].
    Try(C),
    /// Nothing before another verdict arrives.
    Wait,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    UnderWay,
    Fails,
    Passes,
}

/// Runs passes over one subject. Verdicts are remembered over all of them.
pub struct Search<C> {
    current: C,
    round: Option<Vec<C>>,
    known: BTreeMap<C, Known>,
    /// How often a candidate was taken.
    taken: u64,
}

impl<C: Clone + Ord> Search<C> {
    /// `failing` is known to fail.
    pub fn new(failing: C) -> Search<C> {
        let known = BTreeMap::from([(failing.clone(), Known::Fails)]);
        Search { current: failing, round: None, known, taken: 0 }
    }

    /// The smallest so far that fails.
    pub fn current(&self) -> &C {
        &self.current
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The next candidate of a pass; [`Next::Done`] when the pass is at its end. One pass is finished before the next begins.
    pub fn next(&mut self, pass: &mut dyn Pass<C>) -> Next<C> {
        loop {
            let round = match &self.round {
                Some(round) => round,
                None => match pass.round(&self.current) {
                    Some(round) => self.round.insert(round),
                    None => return Next::Done,
                },
            };
            let mut settled = true;
            let mut fails = None;
            let mut fresh = None;
            for (place, candidate) in round.iter().enumerate() {
                match self.known.get(candidate) {
                    // Of what the round already is, nothing is taken: it would go on for ever.
                    Some(Known::Fails) if *candidate != self.current => {
                        fails = Some(place);
                        break;
                    }
                    Some(Known::Fails | Known::Passes) => {}
                    Some(Known::UnderWay) => settled = false,
                    None => {
                        settled = false;
                        fresh.get_or_insert(candidate);
                    }
                }
            }
            if let (false, Some(fresh)) = (settled, fresh) {
                let fresh = fresh.clone();
                self.known.insert(fresh.clone(), Known::UnderWay);
                return Next::Try(fresh);
            }
            if !settled {
                return Next::Wait;
            }
            if let (Some(place), Some(candidate)) = (fails, fails.and_then(|place| round.get(place))) {
                self.current = candidate.clone();
                self.taken += 1;
                pass.settled(Some(place));
            } else {
                pass.settled(None);
            }
            self.round = None;
        }
    }

    /// The verdict on a candidate, also on one that nobody waits for any more.
    pub fn tell(&mut self, candidate: &C, fails: bool) {
        self.known.insert(candidate.clone(), if fails { Known::Fails } else { Known::Passes });
    }
}

/// One round, whose first failing candidate is taken.
pub struct Once<C>(Option<Vec<C>>);

impl<C> Once<C> {
    pub fn of(candidates: Vec<C>) -> Once<C> {
        Once(Some(candidates))
    }
}

impl<C> Pass<C> for Once<C> {
    fn round(&mut self, _current: &C) -> Option<Vec<C>> {
        self.0.take()
    }

    fn settled(&mut self, _taken: Option<usize>) {}
}
