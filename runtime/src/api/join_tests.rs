//! Two streams joined, written as authors write it: by what the interface has, without an operator for it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    driver::{Driver, JobSnapshot},
    *,
};
use crate::{
    connectors::GeneratorSource,
    dataflow::chain::TimeMove,
    graph::Job,
    state::{ListState, Timers},
};

/// A record of one stream goes with those of the other whose time is so near.
const WITHIN: i64 = 10;
const EACH: u64 = 60;

/// Time and number of a record, of either stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Side {
    Order(i64, u64),
    Payment(i64, u64),
}

fn order(number: u64) -> (u32, Side) {
    ((number % 5) as u32, Side::Order(number as i64 * 3, number))
}

fn payment(number: u64) -> (u32, Side) {
    ((number * 2 % 5) as u32, Side::Payment(number as i64 * 3 + 1, number))
}

/// An interval join. What no later record can go with is dropped when event time has passed it.
#[derive(Default)]
struct Join {
    orders: ListState<(i64, u64)>,
    payments: ListState<(i64, u64)>,
    timers: Timers,
}

impl KeyedProcess for Join {
    type Key = u32;
    type In = (u32, Side);
    type Out = String;

    fn open(&mut self, ctx: &mut OpenContext<'_, u32>) -> Result<(), UserError> {
        self.orders = ctx.list_state("orders")?;
        self.payments = ctx.list_state("payments")?;
        self.timers = ctx.event_timers()?;
        Ok(())
    }

    fn process(
        &mut self,
        (_, side): (u32, Side),
        ctx: &mut KeyedContext<'_, u32>,
        out: &mut Vec<String>,
    ) -> Result<(), UserError> {
        let time = match side {
            Side::Order(time, number) => {
                for (_, other) in self.payments.get(ctx)?.iter().filter(|(at, _)| (at - time).abs() <= WITHIN) {
                    out.push(format!("{number}+{other}"));
                }
                self.orders.push(ctx, (time, number))?;
                time
            }
            Side::Payment(time, number) => {
                for (_, other) in self.orders.get(ctx)?.iter().filter(|(at, _)| (at - time).abs() <= WITHIN) {
                    out.push(format!("{other}+{number}"));
                }
                self.payments.push(ctx, (time, number))?;
                time
            }
        };
        self.timers.register(ctx, time + WITHIN)?;
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        ctx: &mut KeyedContext<'_, u32>,
        out: &mut Vec<String>,
    ) -> Result<(), UserError> {
        let mut kept = 0;
        for side in [&self.orders, &self.payments] {
            let later: Vec<_> =
                side.get(ctx)?.iter().copied().filter(|(at, _)| at + WITHIN > timer.timestamp).collect();
            kept += later.len();
            side.update(ctx, later)?;
        }
        if timer.timestamp == (EACH as i64 - 1) * 3 + 1 + WITHIN {
            out.push(format!("{kept} left of {}", ctx.key()));
        }
        Ok(())
    }
}

fn joined(parallelism: u32) -> Job {
    let builder = JobBuilder::new("joined").parallelism(parallelism).max_parallelism(16);
    let orders = GeneratorSource::new("o", 1, |_, number| (number < EACH).then(|| order(number)));
    let payments = GeneratorSource::new("p", 1, |_, number| (number < EACH).then(|| payment(number)));
    let orders = builder.source("orders", orders);
    let both = orders.union(&builder.source("payments", payments));
    both.key_by(|(key, _)| *key)
        .process("join", Join::default)
        .sink("pairs", |line, out| out.extend_from_slice(line.as_bytes()));
    builder.build().unwrap()
}

/// R145: two streams joined within an interval, of union, keyed state and timers: each pair once, also over a restore at another
/// parallelism; and nothing is left of a record once event time is past all that it could go with.
#[test]
fn an_interval_join_finds_each_pair_once() {
    let mut first = Driver::open(&joined(2), &JobSnapshot::default()).unwrap();
    first.step(20).unwrap();
    // All that comes later has a later time.
    first.advance(TimeMove::Watermark(57)).unwrap();
    let later = joined(3);
    let mut restored = Driver::open(&later, &first.snapshot().unwrap().for_job(&later)).unwrap();
    restored.run(20).unwrap();
    restored.advance(TimeMove::Watermark(i64::MAX)).unwrap();
    let lines: Vec<String> = [first, restored].into_iter().flat_map(|driver| driver.lines["pairs"].clone()).collect();
    let (left, pairs): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.contains("left"));
    let mut expected = BTreeSet::new();
    for (number, other) in (0..EACH).flat_map(|number| (0..EACH).map(move |other| (number, other))) {
        let ((key, Side::Order(time, _)), (of, Side::Payment(at, _))) = (order(number), payment(other)) else {
            unreachable!("made so")
        };
        if key == of && (at - time).abs() <= WITHIN {
            expected.insert(format!("{number}+{other}"));
        }
    }
    assert_eq!(pairs.len(), expected.len(), "none twice");
    assert_eq!(pairs.into_iter().collect::<BTreeSet<_>>(), expected);
    assert!(expected.len() > 50, "{}", expected.len());
    // Of the key that had the very last timer.
    assert_eq!(left, ["0 left of 3"]);
}
