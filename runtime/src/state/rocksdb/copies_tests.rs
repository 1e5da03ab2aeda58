//! A program that changes what it has read, and sometimes writes it back.

use proptest::prelude::*;

use super::tests::{incremental, rocksdb};
use crate::state::{
    BackendSettings, UserError,
    tests::{Operator, Parts, all_groups, encode},
};

/// What the program does with a number of its input, for a key.
#[derive(Clone, Copy, Debug)]
struct Input {
    key: u8,
    number: u64,
    writes_back: bool,
}

impl Operator {
    /// Changes copies of what it reads, writes them back or not, and puts out what the state is then.
    fn run(&mut self, input: Input, out: &mut Vec<String>) -> Result<(), UserError> {
        let Input { number, writes_back, .. } = input;
        let key = format!("k{}", input.key);
        let mut ctx = self.backend.context(&key)?.ok_or_else(|| UserError::new("every key group is here"))?;
        let mut value = self.value.get(&ctx)?.copied().unwrap_or(0);
        value += number;
        let mut list = self.list.get(&ctx)?.to_vec();
        list.push(i32::try_from(number)?);
        let at = (number % 4) as u8;
        let mut text = self.map.get(&ctx, &at)?.cloned().unwrap_or_default();
        text.push('x');
        let mut entries = self.map.entries(&ctx)?;
        entries.iter_mut().for_each(|(_, text)| text.push('!'));
        if writes_back {
            self.value.update(&mut ctx, value)?;
            self.list.update(&mut ctx, list)?;
            self.map.insert(&mut ctx, at, text)?;
        }
        // In place: this is how to change without writing back.
        if number % 5 == 0 {
            *self.value.get_or_default_mut(&mut ctx)? += 1_000;
        }
        out.push(format!("{key} {:?} {:?} {:?}", self.value.get(&ctx)?, self.list.get(&ctx)?, self.map.entries(&ctx)?));
        Ok(())
    }
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = (0u8..4, 0u64..100, any::<bool>());
    prop::collection::vec(input.prop_map(|(key, number, writes_back)| Input { key, number, writes_back }), 1..60)
}

/// The lines of the program, and its state at its end, with a snapshot and a restore after so many inputs.
fn lines(settings: &BackendSettings, inputs: &[Input], restored_after: usize) -> (Vec<String>, Parts) {
    let mut operator = Operator::open_in(settings, &Parts::new(), all_groups()).unwrap();
    let mut out = Vec::new();
    for (position, input) in inputs.iter().enumerate() {
        if position == restored_after {
            let parts = encode(operator.backend.snapshot().unwrap());
            operator = Operator::open_in(settings, &parts, all_groups()).unwrap();
        }
        operator.run(*input, &mut out).unwrap();
    }
    let parts = operator.snapshot();
    (out, parts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// R104: a value that was read and changed, but not written back, has no effect; the same program puts out the same on the heap, where
    /// nothing is decoded, and in RocksDB, where everything is.
    #[test]
    fn what_is_not_written_back_has_no_effect_anywhere(inputs in inputs(), restored_after in 0usize..60) {
        let expected = lines(&BackendSettings::default(), &inputs, restored_after);
        prop_assert_eq!(&lines(&rocksdb(), &inputs, restored_after), &expected);
        prop_assert_eq!(&lines(&incremental(), &inputs, restored_after), &expected);
        // What is left when nothing is written back is what was changed in place.
        let silent: Vec<Input> = inputs.iter().map(|input| Input { writes_back: false, ..*input }).collect();
        for settings in [BackendSettings::default(), rocksdb()] {
            for line in lines(&settings, &silent, restored_after).0 {
                prop_assert!(line.ends_with("[] []") && (line.contains("None") || line.contains("000)")), "{}", line);
            }
        }
    }
}
