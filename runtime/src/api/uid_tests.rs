//! Names of operators: those that authors give, those that follow from the job's structure; and that state goes by them, whatever else
//! changes from one version of a job to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::{
    driver::{Driver, JobSnapshot},
    *,
};
use crate::{
    checkpoint::{
        flink,
        metadata::{CheckpointMetadata, VertexShape, flink_operator_id},
        types::{PartLocation, RestorePart, StatePart, SubtaskKey, SubtaskSnapshot},
    },
    dataflow::chain::{RestoredPart, RestoredState},
    graph::{Job, Partitioning},
    ids::{AttemptId, CheckpointId, OperatorUid, SubtaskId},
    recovery::assignment::{AssignmentError, assign},
    state::{
        Aggregate, BroadcastState, OperatorContext, OperatorListState, OperatorOpenContext, OperatorReadContext,
        ReadsOperatorState,
    },
};

const KEYS: u64 = 5;
const SPLITS: u32 = 2;
/// Of each split; every key has as many.
const RECORDS: u64 = 30;

/// A number, and what operators on its way have told it.
type Told = Vec<u64>;

fn numbers(splits: u32, each: u64) -> GeneratorSource<Told> {
    GeneratorSource::new("n", splits, move |split, offset| {
        (offset < each).then(|| vec![u64::from(split) * each + offset])
    })
}

fn write_told(record: &Told, line: &mut Vec<u8>) {
    let told: Vec<String> = record.iter().map(|number| number.to_string()).collect();
    line.extend_from_slice(told.join(",").as_bytes());
}

fn lines(driver: &Driver) -> Vec<Told> {
    let lines = driver.lines.values().flatten();
    lines.map(|line| line.split(',').map(|number| number.parse().unwrap()).collect()).collect()
}

/// Tells each number which of its key it is.
#[derive(Default)]
struct Count {
    count: ValueState<u64>,
}

impl KeyedProcess for Count {
    type Key = u64;
    type In = Told;
    type Out = Told;

    fn open(&mut self, ctx: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.count = ctx.value_state("count")?;
        Ok(())
    }

    fn process(
        &mut self,
        mut record: Told,
        ctx: &mut KeyedContext<'_, u64>,
        out: &mut Vec<Told>,
    ) -> Result<(), UserError> {
        let count = self.count.get_or_default_mut(ctx)?;
        *count += 1;
        record.push(*count);
        out.push(record);
        Ok(())
    }
}

/// Keeps each number, and tells it which subtask this is.
#[derive(Default)]
struct Keep {
    seen: OperatorListState<u64>,
}

impl OperatorProcess for Keep {
    type In = Told;
    type Out = Told;

    fn open(&mut self, ctx: &mut OperatorOpenContext<'_>) -> Result<(), UserError> {
        self.seen = ctx.list_state("seen")?;
        Ok(())
    }

    fn process(
        &mut self,
        mut record: Told,
        ctx: &mut OperatorContext<'_>,
        out: &mut Vec<Told>,
    ) -> Result<(), UserError> {
        self.seen.push(ctx, record[0]);
        record.push(ctx.subtask().index.into());
        out.push(record);
        Ok(())
    }
}

// ---- from one version of a job to the next

/// What a checkpoint would say of the snapshot.
fn metadata(snapshot: &JobSnapshot, job: &Job) -> CheckpointMetadata {
    let written = |(id, state): (&SubtaskId, &RestoredState)| {
        let part = |part: &RestoredPart| StatePart {
            operator: part.operator.clone(),
            key_groups: part.key_groups,
            name: format!("{}-{}", part.operator, part.key_groups),
            kind: part.kind.clone(),
            location: PartLocation::Inline(part.bytes.clone()),
            length: part.bytes.len() as u64,
            crc32c: crc32c::crc32c(&part.bytes),
            written_by: CheckpointId(1),
            backend: None,
        };
        let inline = state.inline.iter().map(|inline| (inline.operator.clone(), inline.bytes.clone()));
        let snapshot = SubtaskSnapshot { parts: state.parts.iter().map(part).collect(), inline: inline.collect() };
        (SubtaskKey::from(*id), snapshot)
    };
    CheckpointMetadata {
        job: job.id,
        job_name: job.name.clone(),
        checkpoint: CheckpointId(1),
        attempt: AttemptId::default(),
        written_at: Default::default(),
        vertices: VertexShape::all(&job.graph),
        subtasks: snapshot.subtasks.iter().map(written).collect(),
    }
}

/// What the subtasks of `now` restore of a snapshot of `then`.
fn taken_over(snapshot: &JobSnapshot, then: &Job, now: &Job) -> Result<JobSnapshot, AssignmentError> {
    let orders = assign(&metadata(snapshot, then), &now.graph)?;
    let subtasks = orders.into_iter().map(|(id, order)| {
        let part = |RestorePart { from, part }: RestorePart| {
            let PartLocation::Inline(bytes) = part.location else { panic!("all is inline") };
            RestoredPart { operator: part.operator, key_groups: part.key_groups, kind: part.kind, from, bytes }
        };
        let state = RestoredState {
            parts: order.parts.into_iter().map(part).collect(),
            inline: order.inline,
            parallelism: order.parallelism,
            ..RestoredState::default()
        };
        (id, state)
    });
    Ok(JobSnapshot { subtasks: subtasks.collect(), positions: snapshot.positions.clone() })
}

/// The names under which the snapshot has state.
fn entries(snapshot: &JobSnapshot) -> BTreeSet<String> {
    let of_subtask = |state: &RestoredState| -> Vec<String> {
        let parts = state.parts.iter().map(|part| part.operator.0.clone());
        parts.chain(state.inline.iter().map(|inline| inline.operator.0.clone())).collect()
    };
    snapshot.subtasks.values().flat_map(of_subtask).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_string()).collect()
}

/// Every number came out once, and so many operators counted those of each key from 1 without a gap.
fn assert_counted(told: &[Told], operators: usize) {
    let all = u64::from(SPLITS) * RECORDS;
    let numbers: BTreeSet<u64> = told.iter().map(|record| record[0]).collect();
    assert_eq!((numbers.len() as u64, told.len() as u64), (all, all));
    for operator in 1..=operators {
        let mut counts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for record in told {
            counts.entry(record[0] % KEYS).or_default().push(record[operator]);
        }
        for (key, mut counts) in counts {
            counts.sort_unstable();
            assert_eq!(counts, (1..=all / KEYS).collect::<Vec<_>>(), "operator {operator}, key {key}");
        }
    }
}

/// An operator that keeps nothing and changes nothing, and has no name of its own.
#[derive(Clone, Copy, Debug)]
enum Stateless {
    Map,
    Filter,
    FlatMap,
    Narrow,
    Rebalanced,
    Shuffled,
}

impl Stateless {
    fn behind(self, stream: &Stream<Told>) -> Stream<Told> {
        match self {
            Stateless::Map => stream.map(|record| record),
            Stateless::Filter => stream.filter(|_| true),
            Stateless::FlatMap => stream.flat_map(|record| [record]),
            Stateless::Narrow => stream.map(|record| record).parallelism(1),
            Stateless::Rebalanced => stream.rebalance().map(|record| record),
            Stateless::Shuffled => stream.shuffle().map(|record| record),
        }
    }
}

/// What stands before the first operator with state, between the two, and behind the second.
type Edits = [Vec<Stateless>; 3];

fn edits() -> impl Strategy<Value = Edits> {
    let all = vec![
        Stateless::Map,
        Stateless::Filter,
        Stateless::FlatMap,
        Stateless::Narrow,
        Stateless::Rebalanced,
        Stateless::Shuffled,
    ];
    prop::array::uniform3(prop::collection::vec(prop::sample::select(all), 0..4))
}

fn edited([before, between, behind]: &Edits) -> Job {
    let builder = JobBuilder::new("edited").parallelism(2);
    let add =
        |stream: Stream<Told>, edits: &[Stateless]| edits.iter().fold(stream, |stream, edit| edit.behind(&stream));
    let stream = add(builder.source("source", numbers(SPLITS, RECORDS)), before);
    let stream = add(stream.key_by(|record| record[0] % KEYS).process("first", Count::default), between);
    let stream = add(stream.key_by(|record| record[0] % KEYS).process("second", Count::default), behind);
    stream.sink("out", write_told);
    builder.build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// R29, R63, R69: operators without state are added, removed, put into another order and chained otherwise, none of them with a uid.
    /// They have no entry in the snapshot, and those with state and a uid go on with theirs as if nothing had been.
    #[test]
    fn edits_of_what_keeps_nothing_touch_no_state(then in edits(), now in edits(), steps in 1u32..8, batch in 1u32..6) {
        let (then, now) = (edited(&then), edited(&now));
        let mut first = Driver::open(&then, &JobSnapshot::default()).unwrap();
        for _ in 0..steps {
            first.step(batch).unwrap();
        }
        let snapshot = first.snapshot().unwrap();
        // Where an exchange stands belongs to a pair of operators.
        let operators: BTreeSet<String> = entries(&snapshot).into_iter().filter(|name| !name.contains('/')).collect();
        prop_assert_eq!(operators, set(&["source", "first", "second"]));
        let mut second = Driver::open(&now, &taken_over(&snapshot, &then, &now).unwrap()).unwrap();
        second.run(batch).unwrap();
        assert_counted(&[lines(&first), lines(&second)].concat(), 2);
    }

    /// R35: of operators with whatever uids a job is built if and only if no two have the same one, and it is said which one is.
    #[test]
    fn no_two_operators_have_one_uid(uids in prop::collection::vec("[a-f]", 1..6)) {
        let builder = JobBuilder::new("named");
        let source = builder.source("source", numbers(1, 1));
        let last = uids.iter().fold(source, |stream, uid| stream.map(|record| record).uid(uid));
        last.sink("out", write_told);
        let mut seen = BTreeSet::new();
        let doubled = uids.iter().find(|uid| !seen.insert(*uid));
        prop_assert_eq!(builder.build().err(), doubled.map(|uid| JobError::DuplicateUid(uid.clone())));
    }
}

/// R35, R68: two operators have exchanged their uids, by mistake. Where both call their state the same and it is of another type, the job is
/// refused, with both types; where they call it differently, neither reads what is the other's.
#[test]
fn state_of_another_kind_is_not_taken_for_ones_own() {
    /// Keeps a text for each key, and tells how long it is.
    struct Spell {
        state: &'static str,
        text: ValueState<String>,
    }

    impl KeyedProcess for Spell {
        type Key = u64;
        type In = Told;
        type Out = Told;

        fn open(&mut self, ctx: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
            self.text = ctx.value_state(self.state)?;
            Ok(())
        }

        fn process(
            &mut self,
            mut record: Told,
            ctx: &mut KeyedContext<'_, u64>,
            out: &mut Vec<Told>,
        ) -> Result<(), UserError> {
            let text = self.text.get_or_default_mut(ctx)?;
            text.push('x');
            record.push(text.len() as u64);
            out.push(record);
            Ok(())
        }
    }

    let job = |count: &str, spell: &str, state: &'static str| {
        let builder = JobBuilder::new("exchanged").parallelism(2);
        let counted = builder.source("source", numbers(SPLITS, RECORDS)).key_by(|record| record[0] % KEYS);
        let spelt = counted.process(count, Count::default).key_by(|record| record[0] % KEYS);
        spelt.process(spell, move || Spell { state, text: ValueState::default() }).sink("out", write_told);
        builder.build().unwrap()
    };
    for state in ["count", "text"] {
        let (then, now) = (job("a", "b", state), job("b", "a", state));
        let mut first = Driver::open(&then, &JobSnapshot::default()).unwrap();
        first.step(20).unwrap();
        let restored = taken_over(&first.snapshot().unwrap(), &then, &now).unwrap();
        match (state, Driver::open(&now, &restored)) {
            ("count", Err(error)) => {
                let says = error.to_string();
                assert!(says.contains("\"count\"") && says.contains("in the snapshot"), "{says}");
            }
            ("text", Ok(mut second)) => {
                second.run(20).unwrap();
                let told = lines(&second);
                assert_eq!(told.len() as u64, u64::from(SPLITS) * RECORDS - 40);
                for operator in [1, 2] {
                    let begins_anew = told.iter().filter(|record| record[operator] == 1).count();
                    assert_eq!(begins_anew as u64, KEYS, "operator {operator}: {told:?}");
                }
            }
            (_, Ok(_)) => panic!("state of another type was taken"),
            (_, Err(error)) => panic!("{error}"),
        }
    }
}

// ---- names

fn operators(job: &Job) -> BTreeSet<String> {
    job.graph.vertices.iter().flat_map(|vertex| &vertex.operators).map(|uid| uid.0.clone()).collect()
}

/// R34: every operator can be given a uid, and its id follows from that alone: the ids here are those that Flink gives, and are pinned.
#[test]
fn every_operator_can_be_named_and_its_id_is_pinned() {
    for (uid, id) in [
        ("source-id", "bd9c186e89cc37a76d776844dfa8ccba"),
        ("mapper-id", "c9cecfed5cae9d489451c50e442666e3"),
        ("by-route", "58811f603216678e538346f3f9a46c4b"),
        ("käse", "9e1a73a634899d908d8e08e46b409095"),
    ] {
        assert_eq!(format!("{:032x}", flink_operator_id(&OperatorUid(uid.into()))), id, "{uid}");
    }
    let builder = JobBuilder::new("named");
    let source = builder.source("s", numbers(1, 1)).uid("source");
    let all = source.map(|record| record).uid("map").filter(|_| true).uid("filter");
    let all = all.try_map(Ok).uid("try-map").flat_map(|record| [record]).uid("flat-map").union(&source).uid("union");
    let all = all.key_by(|record| record[0]).process("p", Count::default).uid("keyed").process("k", Keep::default);
    all.uid("kept").sink("out", write_told);
    source.discard_sink("discarded");
    let named = ["source", "map", "filter", "try-map", "flat-map", "union", "keyed", "kept", "out", "discarded"];
    assert_eq!(operators(&builder.build().unwrap()), set(&named));
}

/// R38, R39: who is given no name has one that follows from his input's and from what he does, and from nothing else: neither from the name
/// of the job, nor from its parallelism, nor from what else is in it. An edit before it changes it, unless a given name stands between.
#[test]
fn a_name_that_is_not_given_follows_from_the_structure() {
    #[derive(Clone, Copy)]
    enum Edit {
        None,
        FilterFirst,
        NamedMap,
        BothOfThem,
    }
    let job = |name: &str, parallelism: u32, another: bool, edit: Edit| {
        let builder = JobBuilder::new(name).parallelism(parallelism);
        if another {
            builder.source("other", numbers(1, 1)).map(|record| record).sink("elsewhere", write_told);
        }
        let mut stream = builder.source("numbers", numbers(1, 1));
        if matches!(edit, Edit::FilterFirst | Edit::BothOfThem) {
            stream = stream.filter(|_| true);
        }
        let mut mapped = stream.map(|record| record);
        if matches!(edit, Edit::NamedMap | Edit::BothOfThem) {
            mapped = mapped.uid("named");
        }
        mapped.filter(|_| true).union(&mapped.filter(|_| false)).sink("out", write_told);
        operators(&builder.build().unwrap())
    };
    let plain = set(&[
        "numbers",
        "numbers-map",
        "numbers-map-filter",
        "numbers-map-filter-2",
        "numbers-map-filter-union",
        "out",
    ]);
    assert_eq!(job("a", 1, false, Edit::None), plain);
    assert_eq!(job("a", 1, false, Edit::None), plain, "built again");
    assert_eq!(job("b", 4, false, Edit::None), plain);
    let others = set(&["other", "other-map", "elsewhere"]);
    assert_eq!(job("a", 1, true, Edit::None), plain.union(&others).cloned().collect::<BTreeSet<_>>());
    let behind_a_filter = set(&[
        "numbers",
        "numbers-filter",
        "numbers-filter-map",
        "numbers-filter-map-filter",
        "numbers-filter-map-filter-2",
        "numbers-filter-map-filter-union",
        "out",
    ]);
    assert_eq!(job("a", 1, false, Edit::FilterFirst), behind_a_filter);
    let named = set(&["numbers", "named", "named-filter", "named-filter-2", "named-filter-union", "out"]);
    assert_eq!(job("a", 1, false, Edit::NamedMap), named);
    let both = job("a", 1, false, Edit::BothOfThem);
    assert_eq!(both, named.union(&set(&["numbers-filter"])).cloned().collect::<BTreeSet<_>>());
}

/// The largest of the numbers.
struct Largest;

impl Aggregate for Largest {
    type In = Told;
    type Accumulator = u64;
    type Out = u64;

    fn create() -> u64 {
        0
    }

    fn add(accumulator: &mut u64, value: Told) {
        *accumulator = value[0].max(*accumulator);
    }

    fn merge(accumulator: &mut u64, other: u64) {
        *accumulator = other.max(*accumulator);
    }

    fn result(accumulator: &u64) -> u64 {
        *accumulator
    }
}

/// Keeps what is broadcast.
#[derive(Default)]
struct Rules {
    rules: BroadcastState<u64, u64>,
}

impl BroadcastProcess for Rules {
    type In = Told;
    type Broadcast = Told;
    type Out = Told;

    fn open(&mut self, ctx: &mut OperatorOpenContext<'_>) -> Result<(), UserError> {
        self.rules = ctx.broadcast_state("rules")?;
        Ok(())
    }

    fn process(&mut self, value: Told, _: &OperatorReadContext<'_>, out: &mut Vec<Told>) -> Result<(), UserError> {
        out.push(value);
        Ok(())
    }

    fn process_broadcast(
        &mut self,
        rule: Told,
        ctx: &mut OperatorContext<'_>,
        _: &mut Vec<Told>,
    ) -> Result<(), UserError> {
        self.rules.insert(ctx, rule[0], rule[0]);
        Ok(())
    }
}

/// R40, R62, R63: one of each kind of operator, with no more names than there must be. All that has an entry in the snapshot, built-in
/// operators among it, was named by the author, because it cannot be made without; so there is no name to warn about. What has a name that
/// follows from the structure keeps nothing.
#[test]
fn whatever_keeps_state_was_named_by_its_author() {
    let builder = JobBuilder::new("all").parallelism(2);
    let rules = builder.source("rules-read", numbers(1, 3)).map(|rule| rule);
    let kept = builder.source("read", numbers(SPLITS, RECORDS)).filter(|_| true).process("keep", Keep::default);
    let ruled = kept.map(|record| record).connect(&rules.broadcast(), "rules", Rules::default);
    let counted = ruled.key_by(|record| record[0] % KEYS).process("count", Count::default).flat_map(|record| [record]);
    let windows = counted.key_by(|record| record[0] % KEYS).window(Windows::tumbling(Duration::from_secs(1)), |_| 0);
    windows.aggregate::<Largest>("window").map(|result| vec![result.value]).sink("out", write_told);
    counted.discard_sink("counted");
    let job = builder.build().unwrap();
    let mut driver = Driver::open(&job, &JobSnapshot::default()).unwrap();
    driver.step(20).unwrap();
    let keeps = entries(&driver.snapshot().unwrap());
    assert_eq!(keeps, set(&["read", "rules-read", "keep", "rules", "count", "window"]));
    // Besides them, the sinks.
    let given: BTreeSet<String> = keeps.union(&set(&["out", "counted"])).cloned().collect();
    let generated: BTreeSet<String> = operators(&job).difference(&given).cloned().collect();
    let from_structure =
        ["read-filter", "keep-map", "rules-read-map", "count-flat-map", "window-flat-map", "window-flat-map-map"];
    assert_eq!(generated, set(&from_structure));
}

// ---- the example

/// A source with state, and behind a shuffle a mapper with state; what writes its output has none.
fn example(splits: u32, each: u64) -> Job {
    let builder = JobBuilder::new("example").parallelism(3);
    let source = builder.source("source-id", numbers(splits, each)).shuffle();
    source.process("mapper-id", Keep::default).sink("print", write_told);
    builder.build().unwrap()
}

/// The ids of the operators that have state in the snapshot, as the metadata has them.
fn ids(driver: &mut Driver) -> Vec<String> {
    let job = driver.job.clone();
    let encoded = metadata(&driver.snapshot().unwrap(), &job).encode().unwrap();
    let operators = flink::read(&encoded).unwrap().operators.into_iter();
    // Those without are listed as well, as in Flink, with no subtask that has any.
    let with_state = operators.filter(|operator| operator.subtasks.iter().any(|subtask| subtask.state.is_some()));
    with_state.map(|operator| operator.id).collect()
}

/// R41: a snapshot is a map of ids of operators to state. Of the example it has an entry for the source, one for the mapper, and one of a few
/// bytes for where the shuffle between them stands; with an exchange by keys, exactly two. What keeps nothing has none.
#[test]
fn a_snapshot_has_an_entry_for_each_operator_with_state() {
    let named = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{:032x}", flink_operator_id(&OperatorUid((*name).into())))).collect()
    };
    let mut shuffled = Driver::open(&example(2, 10), &JobSnapshot::default()).unwrap();
    shuffled.step(4).unwrap();
    assert_eq!(ids(&mut shuffled), named(&["source-id", "source-id/shuffle/mapper-id", "mapper-id"]));

    let builder = JobBuilder::new("by keys").parallelism(3);
    let source = builder.source("source-id", numbers(2, 10)).map(|record| record);
    source.key_by(|record| record[0]).process("mapper-id", Count::default).sink("print", write_told);
    let mut keyed = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
    keyed.step(4).unwrap();
    assert_eq!(ids(&mut keyed), named(&["source-id", "mapper-id"]));
}

/// R37: the example runs. A shuffle sends a record to any subtask, all alike, and not in turn; each subtask draws for itself. It is the same in
/// every run, in batches of any size, and goes on where it was when it is restored.
#[test]
fn a_shuffle_spreads_evenly_and_can_be_repeated() {
    const EACH: u64 = 1_000;
    let job = example(3, EACH);
    assert_eq!(job.graph.edges[0].partitioning, Partitioning::Shuffle);
    // To which subtask each number went.
    let routes = |mut told: Vec<Told>| -> Vec<u64> {
        told.sort_unstable();
        assert!(told.iter().enumerate().all(|(number, record)| record[0] == number as u64), "each number once");
        told.into_iter().map(|record| record[1]).collect()
    };
    let run = |batch: u32| {
        let mut driver = Driver::open(&job, &JobSnapshot::default()).unwrap();
        driver.run(batch).unwrap();
        routes(lines(&driver))
    };
    let all = run(64);
    // A third, give or take more than five standard deviations.
    let about_a_third = 850..1_150;
    for subtask in 0..3 {
        let count = all.iter().filter(|to| **to == subtask).count();
        assert!(about_a_third.contains(&count), "{count} went to subtask {subtask}");
    }
    let same_again = all.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(about_a_third.contains(&same_again), "{same_again} went where the one before went");
    let of_split = |split: usize| &all[split * EACH as usize..(split + 1) * EACH as usize];
    let alike = of_split(0).iter().zip(of_split(1)).filter(|(one, other)| one == other).count();
    assert!((250..420).contains(&alike), "two subtasks drew the same {alike} times of {EACH}");
    assert_eq!(run(7), all);

    let mut first = Driver::open(&job, &JobSnapshot::default()).unwrap();
    for _ in 0..5 {
        first.step(50).unwrap();
    }
    let restored = taken_over(&first.snapshot().unwrap(), &job, &job).unwrap();
    let mut second = Driver::open(&job, &restored).unwrap();
    second.run(50).unwrap();
    assert_eq!(routes([lines(&first), lines(&second)].concat()), all);
}
