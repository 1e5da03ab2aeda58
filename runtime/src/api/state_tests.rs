//! Operator state and broadcast streams in whole jobs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    driver::{Driver, JobSnapshot},
    *,
};
use crate::{
    connectors::GeneratorSource,
    graph::{Job, Partitioning},
    state::{
        BroadcastState, OperatorContext, OperatorListState, OperatorOpenContext, OperatorReadContext,
        ReadsOperatorState,
    },
};

fn numbers(name: &str, splits: u32, each: u64) -> GeneratorSource<u64> {
    GeneratorSource::new(name, splits, move |split, offset| (offset < each).then_some(u64::from(split) * each + offset))
}

fn write_number(n: &u64, line: &mut Vec<u8>) {
    line.extend_from_slice(n.to_string().as_bytes());
}

/// Keeps what it saw in a split list, and how much in a union list with one entry per subtask that ever was.
#[derive(Default)]
struct Keep {
    seen: OperatorListState<u64>,
    counts: OperatorListState<(u32, u64)>,
}

impl OperatorProcess for Keep {
    type In = u64;
    type Out = u64;

    fn open(&mut self, ctx: &mut OperatorOpenContext<'_>) -> Result<(), UserError> {
        self.seen = ctx.list_state("seen")?;
        self.counts = ctx.union_list_state("counts")?;
        // Everybody has all counts; each takes those that fall to it.
        let here = ctx.subtask();
        let mine = |(owner, _): &&(u32, u64)| owner % here.parallelism == here.index;
        let counts: Vec<_> = self.counts.get(&ctx.states()).iter().filter(mine).copied().collect();
        self.counts.update(&mut ctx.states(), counts);
        Ok(())
    }

    fn process(&mut self, value: u64, ctx: &mut OperatorContext<'_>, out: &mut Vec<u64>) -> Result<(), UserError> {
        self.seen.push(ctx, value);
        let index = ctx.subtask().index;
        let counts = self.counts.get_mut(ctx);
        match counts.iter_mut().find(|(owner, _)| *owner == index) {
            Some((_, count)) => *count += 1,
            None => counts.push((index, 1)),
        }
        out.push(value);
        Ok(())
    }
}

fn kept(parallelism: u32) -> Job {
    let builder = JobBuilder::new("kept").parallelism(parallelism);
    builder.source("numbers", numbers("n", 2, 30)).rebalance().process("keep", Keep::default).sink("out", write_number);
    builder.build().unwrap()
}

/// What the operator keeps, over all subtasks, and by subtask.
fn kept_state(job: &Job, snapshot: &JobSnapshot) -> (Vec<u64>, BTreeMap<u32, u64>, Vec<usize>) {
    let vertex = job.graph.vertices.iter().find(|v| v.name == "keep").unwrap();
    let (mut seen, mut counts, mut sizes) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (_, state) in snapshot.subtasks.iter().filter(|(id, _)| id.vertex == vertex.id) {
        for part in &state.parts {
            let part = crate::state::OperatorPart::read(&part.bytes).unwrap();
            for (header, entries) in part.header.states.iter().zip(part.states) {
                if header.name == "seen" {
                    sizes.push(entries.len());
                    seen.extend(entries.iter().map(|e| postcard::from_bytes::<u64>(e).unwrap()));
                } else {
                    for entry in entries {
                        let (owner, count): (u32, u64) = postcard::from_bytes(&entry).unwrap();
                        assert!(counts.insert(owner, count).is_none(), "two subtasks have the count of {owner}");
                    }
                }
            }
        }
    }
    seen.sort_unstable();
    (seen, counts, sizes)
}

proptest! {
    #[test]
    fn lists_are_dealt_anew_at_another_parallelism(before in 1..5u32, after in 1..5u32, steps in 0..6u32) {
        let job = kept(before);
        let mut driver = Driver::open(&job, &JobSnapshot::default()).unwrap();
        for _ in 0..steps {
            driver.step(4).unwrap();
        }
        let (seen, counts, _) = kept_state(&job, &driver.snapshot().unwrap());
        prop_assert_eq!(seen.len() as u64, counts.values().sum::<u64>());

        let later = kept(after);
        let snapshot = driver.snapshot().unwrap().for_job(&later);
        let mut restored = Driver::open(&later, &snapshot).unwrap();
        let (seen_again, counts_again, sizes) = kept_state(&later, &restored.snapshot().unwrap());
        prop_assert_eq!(&seen_again, &seen);
        prop_assert_eq!(counts_again, counts);
        prop_assert!(before == after || sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);

        restored.run(7).unwrap();
        let (all, counts, _) = kept_state(&later, &restored.snapshot().unwrap());
        prop_assert_eq!(all, (0..60).collect::<Vec<_>>());
        prop_assert_eq!(counts.values().sum::<u64>(), 60);
    }
}

/// Multiplies by the factor that was broadcast for the residue, and puts that out once per broadcast record, too.
#[derive(Default)]
struct Factors {
    factors: BroadcastState<u64, u64>,
}

impl BroadcastProcess for Factors {
    type In = u64;
    type Broadcast = (u64, u64);
    type Out = u64;

    fn open(&mut self, ctx: &mut OperatorOpenContext<'_>) -> Result<(), UserError> {
        self.factors = ctx.broadcast_state("factors")?;
        Ok(())
    }

    fn process(&mut self, value: u64, ctx: &OperatorReadContext<'_>, out: &mut Vec<u64>) -> Result<(), UserError> {
        out.push(value * self.factors.get(ctx, &(value % 3)).copied().unwrap_or(1));
        Ok(())
    }

    fn process_broadcast(
        &mut self,
        (residue, factor): (u64, u64),
        ctx: &mut OperatorContext<'_>,
        out: &mut Vec<u64>,
    ) -> Result<(), UserError> {
        self.factors.insert(ctx, residue, factor);
        out.push(1_000_000 + residue);
        Ok(())
    }
}

fn scaled(parallelism: u32) -> Job {
    let builder = JobBuilder::new("scaled").parallelism(parallelism);
    let rules =
        builder.source("rules", GeneratorSource::new("r", 1, |_, n| (n < 3).then_some((n, n + 10)))).parallelism(1);
    builder
        .source("numbers", numbers("n", 2, 30))
        .rebalance()
        .connect(&rules.broadcast(), "scale", Factors::default)
        .sink("out", write_number);
    builder.build().unwrap()
}

#[test]
fn every_subtask_hears_what_is_broadcast_and_keeps_it_at_any_parallelism() {
    let job = scaled(2);
    let edges: Vec<Partitioning> = job.graph.edges.iter().map(|edge| edge.partitioning).collect();
    assert_eq!(edges, [Partitioning::Rebalance, Partitioning::Broadcast]);
    let mut driver = Driver::open(&job, &JobSnapshot::default()).unwrap();
    driver.step(5).unwrap();
    let announced = driver.lines["out"].iter().filter(|line| line.starts_with("100000")).count();
    assert_eq!(announced, 3 * 2, "each of three rules once per subtask");
    for parallelism in [1, 2, 3, 5] {
        let later = scaled(parallelism);
        let mut restored = Driver::open(&later, &driver.snapshot().unwrap().for_job(&later)).unwrap();
        restored.run(9).unwrap();
        let mut lines: Vec<u64> = restored.lines["out"].iter().map(|line| line.parse().unwrap()).collect();
        lines.sort_unstable();
        let rest = (0..60u64).filter(|n| n % 30 >= 5);
        let mut expected: Vec<u64> = rest.map(|n| n * (n % 3 + 10)).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected, "at parallelism {parallelism}");
    }
}

/// Counts per key the records that are above the broadcast threshold.
#[derive(Default)]
struct Above {
    count: ValueState<u64>,
    threshold: BroadcastState<(), u64>,
}

impl KeyedBroadcastProcess for Above {
    type Key = u64;
    type In = u64;
    type Broadcast = u64;
    type Out = (u64, u64);

    fn open(
        &mut self,
        keyed: &mut OpenContext<'_, u64>,
        operator: &mut OperatorOpenContext<'_>,
    ) -> Result<(), UserError> {
        self.count = keyed.value_state("count")?;
        self.threshold = operator.broadcast_state("threshold")?;
        Ok(())
    }

    fn process(
        &mut self,
        value: u64,
        keyed: &mut KeyedContext<'_, u64>,
        operator: &OperatorReadContext<'_>,
        out: &mut Vec<(u64, u64)>,
    ) -> Result<(), UserError> {
        if self.threshold.get(operator, &()).is_none_or(|threshold| value > *threshold) {
            let key = *keyed.key();
            let count = self.count.get_or_default_mut(keyed)?;
            *count += 1;
            out.push((key, *count));
        }
        Ok(())
    }

    fn process_broadcast(
        &mut self,
        value: u64,
        operator: &mut OperatorContext<'_>,
        _out: &mut Vec<(u64, u64)>,
    ) -> Result<(), UserError> {
        self.threshold.insert(operator, (), value);
        Ok(())
    }
}

/// R145: an operator with two inputs, one by key and one that every subtask hears, and with state of both kinds.
#[test]
fn keyed_and_broadcast_state_live_in_one_operator() {
    let job = |parallelism| {
        let builder = JobBuilder::new("above").parallelism(parallelism).max_parallelism(16);
        let threshold =
            builder.source("threshold", GeneratorSource::new("t", 1, |_, n| (n == 0).then_some(44u64))).parallelism(1);
        builder
            .source("numbers", numbers("n", 1, 60))
            .key_by(|n| n % 4)
            .connect(&threshold.broadcast(), "above", Above::default)
            .sink("out", |(key, count), line| line.extend_from_slice(format!("{key}:{count}").as_bytes()));
        builder.build().unwrap()
    };
    let mut driver = Driver::open(&job(2), &JobSnapshot::default()).unwrap();
    // The threshold flows before the numbers; 0 to 49 come before the restore, 45 to 49 of them count.
    driver.step(50).unwrap();
    let later = job(3);
    let mut restored = Driver::open(&later, &driver.snapshot().unwrap().for_job(&later)).unwrap();
    restored.run(50).unwrap();
    let mut last = BTreeMap::new();
    for line in driver.lines["out"].iter().chain(&restored.lines["out"]) {
        let (key, count) = line.split_once(':').unwrap();
        last.insert(key.to_string(), count.parse::<u64>().unwrap());
    }
    let expected = (0..4u64).map(|key| {
        let counted = (0..60).filter(|n| n % 4 == key && *n > 44).count() as u64;
        (key.to_string(), counted)
    });
    assert_eq!(last, expected.collect());
}
