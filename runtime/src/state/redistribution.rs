//! Who gets which elements of operator state when an operator is restored: pure, as Flink's
//! `RoundRobinOperatorStateRepartitioner`.

use std::ops::Range;

/// What subtask `index` of `parallelism` gets of a split state of `total` elements, which are numbered through all old
/// subtasks in their order; and where the next state (by name) begins to deal.
///
/// Each subtask gets an equal share, and the remainder goes one by one to the subtasks from `start` on. The next state
/// begins where the remainder ended, so that the odd elements of many states do not all go to the first subtasks.
/// Requires `index < parallelism` and `start < parallelism`.
pub fn split_share(total: usize, parallelism: u32, index: u32, start: u32) -> (Range<usize>, u32) {
    let subtasks = parallelism as usize;
    let (base, remainder) = (total / subtasks, total % subtasks);
    // How many subtasks come before this one in the order of dealing.
    let before = (index as usize + subtasks - start as usize) % subtasks;
    let first = before * base + before.min(remainder);
    let count = base + usize::from(before < remainder);
    #[allow(clippy::cast_possible_truncation)] // less than the parallelism
    let next = ((start as usize + remainder) % subtasks) as u32;
    (first..first + count, next)
}

/// Whose copy of a broadcast state subtask `index` gets, of the `copies` that there are: each takes one, in turn.
pub fn broadcast_copy(copies: usize, index: u32) -> Option<usize> {
    (copies > 0).then(|| index as usize % copies)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Flink's loop, as it is written there: for each state the elements that each subtask gets.
    fn as_flink_deals(totals: &[usize], parallelism: usize) -> Vec<Vec<Vec<usize>>> {
        let mut start = 0;
        let mut all = Vec::new();
        for total in totals {
            let base = total / parallelism;
            let mut remainder = (total % parallelism) as i64;
            let mut dealt = vec![Vec::new(); parallelism];
            let mut element = 0;
            let mut new_start = start;
            for i in 0..parallelism {
                let subtask = (i + start) % parallelism;
                let mut count = base;
                if remainder > 0 {
                    count += 1;
                    remainder -= 1;
                } else if remainder == 0 {
                    new_start = subtask;
                    remainder -= 1;
                }
                for _ in 0..count {
                    dealt[subtask].push(element);
                    element += 1;
                }
            }
            start = new_start;
            all.push(dealt);
        }
        all
    }

    #[test]
    fn the_remainder_goes_on_where_the_state_before_ended() {
        // R: A.10.3. Seven elements over three subtasks, then four more of another state.
        let shares = |total, start| [0, 1, 2].map(|index| split_share(total, 3, index, start));
        assert_eq!(shares(7, 0), [(0..3, 1), (3..5, 1), (5..7, 1)]);
        assert_eq!(shares(4, 1), [(3..4, 2), (0..2, 2), (2..3, 2)]);
        assert_eq!(shares(0, 2), [(0..0, 2), (0..0, 2), (0..0, 2)]);
    }

    proptest! {
        #[test]
        fn elements_are_dealt_as_flink_deals_them(
            totals in proptest::collection::vec(0..30usize, 0..6),
            parallelism in 1..8u32,
        ) {
            let expected = as_flink_deals(&totals, parallelism as usize);
            let mut start = 0;
            for (total, expected) in totals.iter().zip(&expected) {
                let mut next = start;
                for index in 0..parallelism {
                    let (share, then) = split_share(*total, parallelism, index, start);
                    prop_assert_eq!(&share.collect::<Vec<_>>(), &expected[index as usize]);
                    next = then;
                }
                start = next;
            }
        }

        #[test]
        fn a_broadcast_copy_is_one_of_those_there_are(copies in 0..9usize, index in 0..20u32) {
            match broadcast_copy(copies, index) {
                Some(copy) => prop_assert!(copy < copies && copy == index as usize % copies),
                None => prop_assert_eq!(copies, 0),
            }
        }
    }
}
