//! Jobs as authors write them, built, chained, and driven by hand.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{driver::Driver, driver::JobSnapshot, *};
use crate::{
    checkpoint::types::OutputDigest,
    dataflow::chain::{RestoredState, SnapshotFormat},
    dataflow::{chain::SourcePoll, outputs::Outputs},
    graph::{ChainContext, Job, Partitioning, Vertex},
    ids::{CheckpointId, OperatorUid, SubtaskId, VertexId},
    state::{BackendSettings, key_group_of},
};

/// Numbers, per split ascending, in the order (split, offset).
fn numbers(splits: u32, each: u64) -> GeneratorSource<u64> {
    GeneratorSource::new("numbers", splits, move |split, offset| {
        (offset < each).then_some(u64::from(split) * each + offset)
    })
}

fn write_number(n: &u64, line: &mut Vec<u8>) {
    line.extend_from_slice(n.to_string().as_bytes());
}

/// Running count and sum per key.
#[derive(Default)]
struct Sum {
    sum: ValueState<(u64, u64)>,
}

impl KeyedProcess for Sum {
    type Key = u64;
    type In = u64;
    type Out = String;

    fn open(&mut self, ctx: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.sum = ctx.value_state("sum")?;
        Ok(())
    }

    fn process(&mut self, value: u64, ctx: &mut KeyedContext<'_, u64>, out: &mut Vec<String>) -> Result<(), UserError> {
        let key = *ctx.key();
        let (count, sum) = self.sum.get_or_default_mut(ctx)?;
        *count += 1;
        *sum += value;
        out.push(format!("{key}:{count}:{sum}"));
        Ok(())
    }
}

fn sums(parallelism: u32, splits: u32, each: u64) -> Job {
    let builder = JobBuilder::new("sums").parallelism(parallelism).max_parallelism(64);
    builder
        .source("numbers", numbers(splits, each))
        .key_by(|n| n % 7)
        .process("sum", Sum::default)
        .sink("sums", |text, line| line.extend_from_slice(text.as_bytes()));
    builder.build().unwrap()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn operators_joined_by_forward_edges_share_a_vertex() {
    let builder = JobBuilder::new("shape").parallelism(2);
    let big = builder.source("numbers", numbers(4, 10)).map(|n| n + 1).filter(|n| *n > 5).uid("big");
    big.key_by(|n| n % 3).process("sum", Sum::default).map(|text| text.len() as u64).sink("lengths", write_number);
    big.rebalance().flat_map(|n| [n, n]).sink("all", write_number);
    big.sink("narrow", write_number).parallelism(1);
    let graph = builder.build().unwrap().graph;

    let uids = |uids: &[OperatorUid]| uids.iter().map(|uid| uid.0.clone()).collect::<Vec<_>>().join(" ");
    let vertices: Vec<(&str, u32, String)> =
        graph.vertices.iter().map(|v| (v.name.as_str(), v.parallelism, uids(&v.operators))).collect();
    assert_eq!(
        vertices,
        [
            ("numbers", 2, "numbers numbers-map big".to_string()),
            ("sum", 2, "sum sum-map lengths".to_string()),
            ("big-flat-map", 2, "big-flat-map all".to_string()),
            ("narrow", 1, "narrow".to_string()),
        ]
    );
    let edges: Vec<(u32, u32, Partitioning)> = graph.edges.iter().map(|e| (e.from.0, e.to.0, e.partitioning)).collect();
    assert_eq!(edges, [(0, 1, Partitioning::Hash), (0, 2, Partitioning::Rebalance), (0, 3, Partitioning::Rebalance)]);
    assert_eq!(uids(&graph.vertices[1].keyed), "sum");
    assert_eq!(uids(&graph.vertices[1].sinks), "lengths");
    assert_eq!(graph.vertices[0].splits.as_ref().unwrap().len(), 4);
    assert_eq!(graph.slots_needed(), 2);
    assert!(graph.vertices.iter().all(|v| v.max_parallelism == 128));
    assert_eq!(graph.subtask_name(SubtaskId { vertex: VertexId(1), index: 1 }), "sum[1]");
}

/// R173: the number of key groups is said of the job, or of an operator, which hands it on to what has its parallelism; what has another
/// is not chained. It holds at any parallelism, and is never less than that.
#[test]
fn max_parallelism_is_said_of_the_job_or_of_an_operator() {
    let job = |parallelism: u32, of_sum: u16| {
        let builder = JobBuilder::new("groups").parallelism(parallelism).max_parallelism(64);
        let sums = builder.source("numbers", numbers(2, 20)).key_by(|n| n % 7).process("sum", Sum::default);
        let lengths = sums.max_parallelism(of_sum).map(|text| text.len() as u64);
        lengths.map(|n| n).uid("wide").max_parallelism(32).sink("out", write_number);
        builder.build()
    };
    let (two, three) = (job(2, 16).unwrap(), job(3, 16).unwrap());
    for job in [&two, &three] {
        let shape = |v: &Vertex| (v.name.clone(), v.max_parallelism, v.operators.len());
        let vertices: Vec<_> = job.graph.vertices.iter().map(shape).collect();
        let named = |name: &str, groups: u16, operators: usize| (name.to_string(), groups, operators);
        assert_eq!(vertices, [named("numbers", 64, 1), named("sum", 16, 2), named("wide", 32, 2)]);
    }
    let mut first = Driver::open(&two, &JobSnapshot::default()).unwrap();
    first.step(5).unwrap();
    let mut rescaled = Driver::open(&three, &first.snapshot().unwrap().for_job(&three)).unwrap();
    rescaled.run(5).unwrap();
    assert_eq!(first.lines["out"].len() + rescaled.lines["out"].len(), 40);

    let (uid, parallelism, max_parallelism) = ("sum".to_string(), 3, 2);
    assert_eq!(job(3, 2).err(), Some(JobError::ParallelismAboveMax { uid, parallelism, max_parallelism }));
    for bad in [0, 32_769] {
        assert_eq!(job(2, bad).err(), Some(JobError::BadMaxParallelism(bad)));
    }
}

/// A slot sharing group is handed on to what follows, until somebody says another; operators of different groups are not chained,
/// whatever their parallelism, because they are not in one slot.
#[test]
fn slot_sharing_groups_are_handed_on() {
    let builder = JobBuilder::new("groups").parallelism(2);
    let mapped = builder.source("numbers", numbers(2, 1)).map(|n| n).slot_sharing_group("heavy").map(|n| n + 1);
    mapped.sink("out", write_number).slot_sharing_group("default").parallelism(1);
    let graph = builder.build().unwrap().graph;
    let groups: Vec<_> = graph.vertices.iter().map(|v| (v.name.as_str(), v.slot_sharing_group)).collect();
    assert_eq!(groups, [("numbers", 0), ("numbers-map", 1), ("out", 0)]);
    assert_eq!(graph.slots_needed(), 4);
}

/// Co-located operators need slots that they can share.
#[test]
fn co_location_needs_shared_slots() {
    let built = |group: Option<&str>, parallelism: u32| {
        let builder = JobBuilder::new("together").parallelism(2);
        let first = builder.source("numbers", numbers(2, 1)).co_location_group("pair");
        let mut second = first.rebalance().map(|n| n).uid("second").co_location_group("pair").parallelism(parallelism);
        if let Some(group) = group {
            second = second.slot_sharing_group(group);
        }
        second.sink("out", write_number).parallelism(1);
        builder.build().map(|job| job.graph.slots_needed())
    };
    assert_eq!(built(None, 2), Ok(2));
    for (refused, says) in [(built(Some("apart"), 2), "never share a slot"), (built(None, 1), "different parallelism")]
    {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(r#"numbers and second have the co-location group "pair""#), "{error}");
        assert!(error.contains(says), "{error}");
    }
}

/// The same job with more or fewer subtasks: the number of key groups stays, and with it the bound; what says its own parallelism
/// has at most that.
#[test]
fn a_job_is_built_again_at_another_parallelism() {
    let builder = JobBuilder::new("scaled").parallelism(2);
    let source = builder.source("numbers", numbers(4, 1));
    source.key_by(|n| n % 3).process("sum", Sum::default).sink("out", |_, _| ()).parallelism(2);
    let job = builder.build().unwrap();
    let shape = |parallelism: u32| {
        let graph = job.at_parallelism(parallelism).unwrap().graph;
        assert!(graph.vertices.iter().all(|vertex| vertex.max_parallelism == 128));
        graph.vertices.iter().map(|vertex| (vertex.name.clone(), vertex.parallelism)).collect::<Vec<_>>()
    };
    let named = |all: &[(&str, u32)]| all.iter().map(|(name, n)| ((*name).to_string(), *n)).collect::<Vec<_>>();
    assert_eq!(shape(1), named(&[("numbers", 1), ("sum", 1)]));
    assert_eq!(shape(2), named(&[("numbers", 2), ("sum", 2)]));
    assert_eq!(shape(5), named(&[("numbers", 5), ("sum", 5), ("out", 2)]));
    assert_eq!(shape(1_000)[1], ("sum".to_string(), 128));
    assert_eq!(job.at_parallelism(3).unwrap().at_parallelism(2).unwrap().graph, job.graph);
    assert!(job.at_parallelism(0).is_err());
}

/// R35: two operators with one uid among it.
#[test]
fn what_cannot_be_a_job_is_named() {
    let sink = |stream: Stream<u64>| drop(stream.sink("out", write_number));
    let error = |make: &dyn Fn(&JobBuilder)| {
        let builder = JobBuilder::new("job");
        make(&builder);
        builder.build().unwrap_err()
    };
    assert_eq!(error(&|_| ()), JobError::NoSource("job".into()));
    assert_eq!(error(&|b| sink(b.source("out", numbers(1, 1)))), JobError::DuplicateUid("out".into()));
    assert_eq!(error(&|b| sink(b.source("a/b", numbers(1, 1)))), JobError::BadUid("a/b".into()));
    assert_eq!(error(&|b| sink(b.source("in", numbers(0, 1)))), JobError::NoSplits("in".into()));
    assert_eq!(
        error(&|b| sink(b.source("in", numbers(1, 1)).map(|n| n).parallelism(0))),
        JobError::ZeroParallelism("in-map".into())
    );
    assert_eq!(
        error(&|b| sink(b.source("in", numbers(1, 1).records_per_second(f64::NAN)))),
        JobError::BadRate { uid: "in".into(), rate: "NaN".into() }
    );
    let twice = LineFileSource::with_lengths(&[("f", 1), ("f", 1)], 1, |_, _| Ok(Some(1u64)));
    let builder = JobBuilder::new("job");
    sink(builder.source("in", twice));
    let split = "f#0/1".to_string();
    assert_eq!(builder.build().unwrap_err(), JobError::DuplicateSplit { uid: "in".into(), split });
    let builder = JobBuilder::new("job").max_parallelism(0);
    assert_eq!(builder.build().unwrap_err(), JobError::BadMaxParallelism(0));
    let builder = JobBuilder::new("job").max_parallelism(2).parallelism(3);
    sink(builder.source("in", numbers(1, 1)));
    let (parallelism, max_parallelism) = (3, 2);
    let uid = "in".to_string();
    assert_eq!(builder.build().unwrap_err(), JobError::ParallelismAboveMax { uid, parallelism, max_parallelism });
}

#[test]
fn the_job_id_follows_from_the_name() {
    let id = |name: &str| {
        let builder = JobBuilder::new(name);
        builder.source("in", numbers(1, 1));
        builder.build().unwrap().id
    };
    assert_eq!(id("a"), id("a"));
    assert_ne!(id("a"), id("b"));
}

#[test]
fn every_record_takes_every_way() {
    for parallelism in [1, 2, 3] {
        let builder = JobBuilder::new("ways").parallelism(parallelism);
        let source = builder.source("numbers", numbers(2, 20));
        let even = source.filter(|n| n % 2 == 0);
        let odd = source.filter(|n| n % 2 == 1).try_map(|n| Ok(n * 10));
        even.union(&odd).sink("joined", write_number);
        source.rebalance().try_flat_map(|n| Ok((n < 2).then_some(n))).parallelism(2).sink("few", write_number);
        source.discard_sink("counted");
        let mut driver = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
        driver.run(3).unwrap();
        let expected = (0..40u64).map(|n| if n % 2 == 0 { n } else { n * 10 }.to_string()).collect();
        assert_eq!(sorted(driver.lines["joined"].clone()), sorted(expected));
        assert_eq!(sorted(driver.lines["few"].clone()), ["0", "1"]);
        assert!(!driver.lines.contains_key("counted"));
        assert_eq!(driver.digests[&OperatorUid("counted".into())].records, 40);
    }
}

/// R88: a job of functions that look at one record at a time has the positions of its source in a snapshot and nothing else, however
/// many records have come by. R63: operators without state need no uid, and have no entry.
#[test]
fn a_job_without_state_keeps_positions_only() {
    let builder = JobBuilder::new("stateless").parallelism(2);
    let all = builder.source("numbers", numbers(4, 2_000)).map(|n| n + 1);
    all.flat_map(|n| [n, n]).filter(|n| n % 3 == 0).sink("out", write_number);
    let mut driver = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
    driver.run(64).unwrap();
    assert_eq!(driver.lines["out"].len(), 2 * (8_000 / 3));
    let snapshot = driver.snapshot().unwrap();
    assert_eq!(snapshot.subtasks.len(), 2);
    for state in snapshot.subtasks.values() {
        assert!(state.parts.is_empty());
        let kept: Vec<&str> = state.inline.iter().map(|kept| kept.operator.0.as_str()).collect();
        assert_eq!(kept, ["numbers"]);
        assert!(state.inline[0].bytes.len() < 1_024, "{} bytes", state.inline[0].bytes.len());
    }
    assert_eq!(snapshot.positions.into_values().collect::<Vec<_>>(), [2_000; 4]);
}

#[test]
fn records_of_a_key_come_to_the_subtask_that_owns_it_in_order() {
    let mut driver = Driver::open(&sums(3, 1, 100), &JobSnapshot::default()).unwrap();
    driver.run(8).unwrap();
    let mut expected = Vec::new();
    let mut totals = BTreeMap::new();
    for n in 0..100u64 {
        let (count, sum): &mut (u64, u64) = totals.entry(n % 7).or_default();
        *count += 1;
        *sum += n;
        expected.push(format!("{}:{count}:{sum}", n % 7));
    }
    assert_eq!(sorted(driver.lines["sums"].clone()), sorted(expected));
}

proptest! {
    #[test]
    fn a_restored_job_goes_on_as_if_nothing_had_happened(
        parallelism in 1u32..4,
        later in 1u32..4,
        steps in 0u32..12,
        batch in 1u32..20,
    ) {
        // Undisturbed.
        let mut whole = Driver::open(&sums(parallelism, 3, 40), &JobSnapshot::default()).unwrap();
        for _ in 0..steps {
            whole.step(batch).unwrap();
        }
        let before = whole.lines.get("sums").cloned().unwrap_or_default();
        let snapshot = whole.snapshot().unwrap();
        whole.run(batch).unwrap();
        let undisturbed = sorted(whole.lines["sums"].clone());

        // Restored with the same parallelism: state, positions, and all that comes after.
        let mut restored = Driver::open(&sums(parallelism, 3, 40), &snapshot).unwrap();
        let again = restored.snapshot().unwrap();
        prop_assert_eq!(&again.positions, &snapshot.positions);
        for (id, state) in &snapshot.subtasks {
            let contents = |state: &RestoredState| -> Vec<_> {
                state.parts.iter().map(|part| (part.operator.clone(), part.key_groups, part.bytes.clone())).collect()
            };
            prop_assert_eq!(contents(&again.subtasks[id]), contents(state));
            prop_assert_eq!(&again.subtasks[id].inline, &state.inline);
        }
        restored.run(batch).unwrap();
        let after = restored.lines.remove("sums").unwrap_or_default();
        prop_assert_eq!(after.len() + before.len(), 120);
        prop_assert_eq!(&after[..], &whole.lines["sums"][before.len()..]);

        // Restored with another parallelism: the same last value of every key, nothing twice, nothing lost.
        let job = sums(later, 3, 40);
        let mut rescaled = Driver::open(&job, &snapshot.for_job(&job)).unwrap();
        rescaled.run(batch).unwrap();
        let after = rescaled.lines.remove("sums").unwrap_or_default();
        let counts = |lines: &[String]| -> Vec<String> {
            sorted(lines.iter().map(|l| l.rsplit_once(':').unwrap().0.to_string()).collect())
        };
        prop_assert_eq!(counts(&[before, after].concat()), counts(&undisturbed));
    }

    #[test]
    fn frames_of_any_bytes_are_an_error_at_worst(payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let builder = JobBuilder::new("frames");
        builder
            .source("in", GeneratorSource::new("none", 1, |_, _| None::<(String, Vec<u32>)>))
            .rebalance()
            .sink("out", |_, _| ());
        let mut driver = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
        let chain = driver.chains.values_mut().nth(1).unwrap();
        let payload = Bytes::from(payload);
        match chain.process(0, &payload, 10, &mut Outputs::new(&[])) {
            Ok(consumed) => prop_assert!(consumed.bytes <= payload.len() && consumed.records <= 10),
            Err(error) => prop_assert_eq!(error.operator, "out"),
        }
    }
}

#[test]
fn round_robin_goes_on_where_it_was() {
    let job = || {
        let builder = JobBuilder::new("spread");
        builder.source("numbers", numbers(1, 50)).rebalance().map(|n| n).parallelism(3).sink("out", write_number);
        builder.build().unwrap()
    };
    let mut driver = Driver::open(&job(), &JobSnapshot::default()).unwrap();
    driver.step(7).unwrap();
    let snapshot = driver.snapshot().unwrap();
    let mut restored = Driver::open(&job(), &snapshot).unwrap();
    driver.lines.clear();
    driver.step(10).unwrap();
    restored.step(10).unwrap();
    assert_eq!(driver.lines, restored.lines);
}

#[test]
fn a_muted_job_digests_the_output_that_it_does_not_give() {
    let mut loud = Driver::open(&sums(2, 2, 30), &JobSnapshot::default()).unwrap();
    let mut muted = Driver::open(&sums(2, 2, 30), &JobSnapshot::default()).unwrap();
    muted.chains.values_mut().for_each(|chain| chain.set_muted(true));
    loud.run(5).unwrap();
    muted.run(9).unwrap();
    assert!(muted.lines.is_empty());
    let sink = OperatorUid("sums".into());
    let mut expected = OutputDigest::default();
    loud.lines["sums"].iter().for_each(|line| expected.add_record(line.as_bytes()));
    assert_eq!(loud.digests[&sink], expected);
    assert_eq!(muted.digests[&sink].records, 60);
}

/// R36: a source is an operator with state: where it stands in its splits is in the snapshot, under its uid.
#[test]
fn a_snapshot_holds_the_positions_of_own_splits_only() {
    let job = sums(2, 5, 10);
    let mut driver = Driver::open(&job, &JobSnapshot::default()).unwrap();
    driver.step(4).unwrap();
    let first = SubtaskId { vertex: VertexId(0), index: 0 };
    let snapshot = driver.chains.get_mut(&first).unwrap().snapshot(CheckpointId(3), SnapshotFormat::OfBackend).unwrap();
    let expected: BTreeMap<_, _> = [0, 2, 4].map(|i| (crate::ids::SplitId(format!("numbers#{i}/5")), 4)).into();
    assert_eq!(snapshot.positions, expected);
    assert_eq!(snapshot.inline[&OperatorUid("numbers".into())], postcard::to_allocvec(&expected).unwrap());
}

#[test]
fn errors_name_the_operator() {
    let builder = JobBuilder::new("errors");
    let source = builder.source("numbers", numbers(1, 10));
    source
        .try_map(|n| if n == 3 { Err(UserError::new("three")) } else { Ok(n) })
        .uid("no-three")
        .sink("out", write_number);
    let mut driver = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
    assert_eq!(driver.run(10).unwrap_err().to_string(), "no-three: three");

    // A key that is not the same twice.
    let builder = JobBuilder::new("fickle").parallelism(2);
    let counter = std::sync::atomic::AtomicU64::new(0);
    builder
        .source("numbers", numbers(1, 100))
        .key_by(move |_| counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        .process("sum", Sum::default);
    let mut driver = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
    let error = driver.run(100).unwrap_err();
    assert!(error.operator == "sum" && error.message.contains("key function"), "{error}");

    // A snapshot of other splits.
    let snapshot = Driver::open(&sums(1, 3, 10), &JobSnapshot::default()).unwrap().snapshot().unwrap();
    let error = Driver::open(&sums(1, 2, 10), &snapshot).err().unwrap();
    assert!(error.operator == "numbers" && error.message.contains("numbers#0/3"), "{error}");
}

#[test]
fn calls_that_do_not_belong_to_a_chain_are_errors() {
    let mut driver = Driver::open(&sums(1, 1, 10), &JobSnapshot::default()).unwrap();
    let mut out = Outputs::new(&[1]);
    let source = driver.chains.get_mut(&SubtaskId { vertex: VertexId(0), index: 0 }).unwrap();
    assert!(source.process(0, &Bytes::new(), 1, &mut out).is_err());
    assert!(source.poll_source(7, 1, &mut out).is_err());
    assert!(source.feed(0, Bytes::new()).is_err());
    assert_eq!(source.poll_source(0, 4, &mut out).unwrap(), SourcePoll::Records(4));
    assert_eq!(out.edges[0][0].records, 4);
    let sum = driver.chains.get_mut(&SubtaskId { vertex: VertexId(1), index: 0 }).unwrap();
    assert!(sum.poll_source(0, 1, &mut out).is_err());
    assert!(sum.feed(0, Bytes::new()).is_err());

    // Nothing works before `open`.
    let job = sums(1, 1, 10);
    for (vertex, chain) in job.graph.vertices.iter().zip(&job.chains) {
        let subtask = SubtaskId { vertex: vertex.id, index: 0 };
        let mut chain =
            chain(&ChainContext { subtask, parallelism: 1, max_parallelism: 64, backend: BackendSettings::default() });
        assert!(chain.snapshot(CheckpointId(1), SnapshotFormat::OfBackend).is_err());
        assert!(chain.poll_source(0, 1, &mut out).is_err());
        assert!(chain.process(0, &Bytes::from_static(b"\x01"), 1, &mut out).is_err());
    }
}

#[test]
fn the_rate_is_shared_by_the_subtasks_according_to_their_splits() {
    let builder = JobBuilder::new("rate").parallelism(2);
    builder.source("in", numbers(3, 10).records_per_second(300.0));
    let driver = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
    let limits: Vec<Option<f64>> = driver.chains.values().map(|chain| chain.rate_limit()).collect();
    assert_eq!(limits, [Some(200.0), Some(100.0)]);
}

#[test]
fn records_are_sent_to_the_owner_of_their_key_group() {
    let mut driver = Driver::open(&sums(3, 1, 200), &JobSnapshot::default()).unwrap();
    let mut out = Outputs::new(&[3]);
    let source = driver.chains.get_mut(&SubtaskId { vertex: VertexId(0), index: 0 }).unwrap();
    assert_eq!(source.poll_source(0, 200, &mut out).unwrap(), SourcePoll::Records(200));
    for (channel, buffer) in out.edges[0].iter().enumerate() {
        let mut rest: &[u8] = &buffer.bytes;
        while !rest.is_empty() {
            let (n, after) = postcard::take_from_bytes::<u64>(rest).unwrap();
            let group = key_group_of((n % 7).java_hash(), 64);
            assert_eq!(u32::from(group.0) * 3 / 64, channel as u32);
            rest = after;
        }
    }
}
