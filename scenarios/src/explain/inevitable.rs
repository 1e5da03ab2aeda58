//! From where on a failure could not be avoided: the run is kept up to an event, what comes after it is drawn anew, and the event is
//! searched at which the last future that ends well is gone.

/// The first event after which every other future fails, and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inevitable {
    /// Any future of the very first event fails.
    FromTheStart,
    /// After `open` some future still ends well, after the next event none.
    After { open: u64 },
}

/// Halves the events between the first and `broken`, at which the failure is a fact. `all_fail` says whether all other futures of
/// an event fail. What one event decides, a later one cannot undo, but only some futures are looked at: what is found is *a*
/// place where the answer changes.
///
/// # Errors
/// What `all_fail` says.
pub fn bisect<E>(broken: u64, mut all_fail: impl FnMut(u64) -> Result<bool, E>) -> Result<Inevitable, E> {
    if broken == 0 || all_fail(0)? {
        return Ok(Inevitable::FromTheStart);
    }
    let (mut open, mut closed) = (0, broken);
    while closed - open > 1 {
        let middle = open + (closed - open) / 2;
        if all_fail(middle)? {
            closed = middle;
        } else {
            open = middle;
        }
    }
    Ok(Inevitable::After { open })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_event_is_found_in_few_steps(broken in 1..10_000u64, at in 0..10_000u64) {
            prop_assume!(at <= broken);
            let mut asked = 0;
            let found = bisect(broken, |event| {
                asked += 1;
                Ok::<_, Infallible>(event >= at)
            });
            let expected = if at == 0 { Inevitable::FromTheStart } else { Inevitable::After { open: at - 1 } };
            prop_assert_eq!(found, Ok(expected));
            prop_assert!(asked <= 16, "{asked} questions");
        }
    }

    #[test]
    fn a_failure_at_the_first_event_was_always_there() {
        assert_eq!(bisect(0, |_| Ok::<_, Infallible>(false)), Ok(Inevitable::FromTheStart));
    }
}
