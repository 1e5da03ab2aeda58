//! The order in which a plan is made smaller: faults, configuration, sizes, the faults' own numbers, times; and all over again until a
//! whole turn changes nothing.

use super::{
    case::{Case, Deviations, Mishaps, fault_numbers, mishaps, sizes},
    ddmin::Ddmin,
    numbers::Numbers,
    search::{Next, Once, Pass, Search},
    snap::at_events,
    story::Moment,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Faults,
    Configuration,
    Sizes,
    FaultNumbers,
    /// The time of the fault of this place.
    Time(usize),
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Faults => "faults",
            Stage::Configuration => "configuration",
            Stage::Sizes => "workload",
            Stage::FaultNumbers => "details",
            Stage::Time(_) => "times",
        }
    }
}

/// What there is to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// Say by [`Shrink::tell`] whether this fails in the same way.
    Try(Case),
    /// Say by [`Shrink::told`] what happens in this run, which fails.
    Story(Case),
    Wait,
    Done,
}

/// The whole search for one failing plan.
pub struct Shrink {
    search: Search<Case>,
    stage: Stage,
    pass: Option<Box<dyn Pass<Case>>>,
    /// Taken when the turn began.
    taken_before: u64,
    guess: Vec<usize>,
    done: bool,
}

impl Shrink {
    /// `failing` fails; `fired` are those of its mishaps (by place) that took effect before it did.
    pub fn new(failing: Case, fired: Vec<usize>) -> Shrink {
        Shrink {
            search: Search::new(failing),
            stage: Stage::Faults,
            pass: None,
            taken_before: 0,
            guess: fired,
            done: false,
        }
    }

    /// The smallest so far that fails.
    pub fn current(&self) -> &Case {
        self.search.current()
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What to do next. `Try` may be asked for again before the verdict on the last one is there.
    pub fn step(&mut self) -> Step {
        while !self.done {
            let Some(pass) = &mut self.pass else {
                let current = self.search.current();
                self.pass = Some(match self.stage {
                    Stage::Faults => {
                        let guess = std::mem::take(&mut self.guess);
                        Box::new(Ddmin::new(Mishaps).guess(guess))
                    }
                    Stage::Configuration => Box::new(Ddmin::new(Deviations)),
                    Stage::Sizes => Box::new(Numbers::new(sizes())),
                    Stage::FaultNumbers => Box::new(Numbers::new(fault_numbers(&current.plan))),
                    Stage::Time(index) => {
                        if !is_timed(current, index) {
                            self.advance();
                            continue;
                        }
                        return Step::Story(current.clone());
                    }
                });
                continue;
            };
            match self.search.next(pass.as_mut()) {
                Next::Try(case) => return Step::Try(case),
                Next::Wait => return Step::Wait,
                Next::Done => self.advance(),
            }
        }
        Step::Done
    }

    fn advance(&mut self) {
        self.pass = None;
        let faults = self.search.current().plan.faults.len();
        self.stage = match self.stage {
            Stage::Faults => Stage::Configuration,
            Stage::Configuration => Stage::Sizes,
            Stage::Sizes => Stage::FaultNumbers,
            Stage::FaultNumbers => Stage::Time(0),
            Stage::Time(index) => Stage::Time(index + 1),
        };
        if let Stage::Time(index) = self.stage
            && index >= faults
        {
            let taken = self.search.taken();
            self.done = std::mem::replace(&mut self.taken_before, taken) == taken;
            self.stage = Stage::Faults;
        }
    }

    pub fn tell(&mut self, case: &Case, fails: bool) {
        self.search.tell(case, fails);
    }

    /// The answer to [`Step::Story`].
    pub fn told(&mut self, story: &[Moment]) {
        if let Stage::Time(index) = self.stage {
            self.pass = Some(Box::new(Once::of(at_events(self.search.current(), index, story))));
        }
    }

    /// Mishaps left.
    pub fn mishaps(&self) -> usize {
        mishaps(&self.current().plan).len()
    }
}

fn is_timed(case: &Case, index: usize) -> bool {
    matches!(case.plan.faults.get(index).map(|fault| &fault.trigger), Some(crate::plan::Trigger::AtMs(_)))
}
