//! Each real job and its oracle agree: the job's own chains are driven here by hand, without a cluster, up to a cut and then to
//! their end; at the cut output, positions and state belong together, as at a checkpoint.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use runtime::{
    dataflow::{
        chain::{Chain, NativeStage, RestoredState, Scratch, SnapshotFormat, SourcePoll, TimeMove},
        outputs::Outputs,
    },
    graph::{ChainContext, Partitioning},
    ids::{BackendId, CheckpointId, SplitId, SubtaskId},
    platform::NativeDir,
    state::{BackendKind, BackendSettings},
};

use super::*;
use crate::invariants::{Formats, RuntimeFormats, StateEntry};

struct Subtask {
    id: SubtaskId,
    chain: Box<dyn Chain>,
    out: Outputs,
}

struct Driver {
    workload: Workload,
    subtasks: Vec<Subtask>,
}

impl Driver {
    fn new(params: &WorkloadParams, kind: BackendKind) -> Driver {
        let workload = params.build().expect("sound parameters");
        let graph = workload.job.graph.clone();
        let mut subtasks = Vec::new();
        for id in graph.subtasks() {
            let vertex = graph.vertex(id.vertex);
            let context = ChainContext {
                subtask: id,
                parallelism: vertex.parallelism,
                max_parallelism: vertex.max_parallelism,
                backend: BackendSettings { kind, incremental: true, ..BackendSettings::default() },
            };
            let mut chain = workload.job.chains[id.vertex.0 as usize](&context);
            let mut restored = RestoredState::default();
            if kind == BackendKind::RocksDb {
                let scratch = || Scratch {
                    directory: NativeDir(Arc::new(sim::scratch_directory("weir-agreement-").expect("a directory"))),
                    backend: BackendId(1),
                    restored: Vec::new(),
                    unclipped: false,
                };
                restored.scratch.extend(vertex.keyed.iter().map(|operator| (operator.clone(), scratch())));
            }
            chain.open(restored).expect("opens empty");
            for call in chain.native_calls(NativeStage::Open) {
                (call.run)().expect("the database opens");
            }
            chain.natively_opened().expect("opens empty");
            let channels: Vec<usize> = graph.outputs(id.vertex).map(|edge| graph.downstream(edge, id).len()).collect();
            subtasks.push(Subtask { id, chain, out: Outputs::new(&channels) });
        }
        Driver { workload, subtasks }
    }

    /// Reads up to `records` of every split, then lets everything flow to the sinks.
    fn read(&mut self, records: u32) {
        let graph = self.workload.job.graph.clone();
        for at in 0..self.subtasks.len() {
            let subtask = &mut self.subtasks[at];
            let vertex = graph.vertex(subtask.id.vertex);
            let Some(splits) = &vertex.splits else { continue };
            let own = (0..splits.len() as u32).filter(|i| i % vertex.parallelism == subtask.id.index).count();
            for split in 0..own as u32 {
                let mut left = records;
                while left > 0 {
                    match subtask.chain.poll_source(split, left, &mut subtask.out).expect("reads") {
                        SourcePoll::Records(n) => left -= n.min(left),
                        SourcePoll::Exhausted => break,
                        SourcePoll::NeedInput { path, range } => {
                            let file =
                                self.workload.inputs.iter().find(|(p, _)| *p == path).expect("an input").1.clone();
                            let bytes = file.slice(range.start as usize..(range.end as usize).min(file.len()));
                            subtask.chain.feed(split, bytes).expect("feeds");
                        }
                    }
                }
            }
        }
        self.flow(0..self.subtasks.len());
    }

    /// Moves a time on, in one subtask after the other; what comes of it flows ahead.
    fn advance(&mut self, time: TimeMove) {
        for at in 0..self.subtasks.len() {
            let subtask = &mut self.subtasks[at];
            subtask.chain.advance(time, &mut subtask.out).expect("time moves on");
            self.flow(at..at + 1);
        }
    }

    /// Hands on what these subtasks have put out.
    fn flow(&mut self, from: std::ops::Range<usize>) {
        let graph = self.workload.job.graph.clone();
        // Vertices are in topological order, and so are the subtasks.
        for at in from {
            let id = self.subtasks[at].id;
            let edges: Vec<_> = graph.outputs(id.vertex).cloned().collect();
            for (position, edge) in edges.iter().enumerate() {
                for (channel, target) in graph.downstream(edge, id).into_iter().enumerate() {
                    let buffer = std::mem::take(&mut self.subtasks[at].out.edges[position][channel]);
                    let input = graph.inputs(edge.to).position(|e| e.id == edge.id).expect("its own edge");
                    assert!(edge.partitioning != Partitioning::Forward || target.index == id.index);
                    let to = self.subtasks.iter().position(|s| s.id == target).expect("a subtask");
                    let mut payload = Bytes::from(buffer.bytes);
                    let Subtask { chain, out, .. } = &mut self.subtasks[to];
                    while !payload.is_empty() {
                        let consumed = chain.process(input as u32, &payload, u32::MAX, out).expect("processes");
                        payload = payload.slice(consumed.bytes..);
                    }
                }
            }
        }
    }

    /// A checkpoint by hand: what the sinks have goes to the oracle, positions and state are compared with it.
    fn checkpoint(&mut self, id: u64) {
        let mut output: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
        let mut positions: BTreeMap<SplitId, u64> = BTreeMap::new();
        let mut state: Vec<StateEntry> = Vec::new();
        for subtask in &mut self.subtasks {
            let snapshot = subtask.chain.snapshot(CheckpointId(id), SnapshotFormat::OfBackend).expect("snapshots");
            positions.extend(snapshot.positions);
            for part in snapshot.parts {
                let bytes = part.data.encoded().expect("state is written anew");
                state.extend(RuntimeFormats.state(&part.operator, &bytes).expect("own state is readable"));
            }
            for native in snapshot.native {
                (native.flush)().expect("the database flushes");
                (native.take)().expect("files are made");
                let files = files_of(&native.directory.path().join(&native.subdirectory));
                let read = RuntimeFormats.native_state().expect("databases can be read");
                state.extend(read(&native.operator, &files).expect("own files are readable"));
            }
            for data in subtask.chain.take_sink_data(true) {
                let lines = crate::oracle::lines(&data.bytes).expect("whole lines");
                output.entry(data.sink.0).or_default().extend(lines);
            }
        }
        let oracle = &mut self.workload.oracle;
        for (sink, records) in output {
            oracle.absorb(&sink, CheckpointId(id), &records).expect("an exactly-once prefix");
        }
        oracle.covers(&positions).expect("output and positions belong together");
        oracle.state(&state).expect("output and state belong together");
    }
}

#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "native code works in real directories")]
fn files_of(directory: &Path) -> Vec<(String, Bytes)> {
    let entries = std::fs::read_dir(directory).expect("files were made").map(|entry| entry.expect("an entry"));
    let file = |entry: std::fs::DirEntry| {
        let bytes = std::fs::read(entry.path()).expect("it is readable");
        (entry.file_name().into_string().expect("a plain name"), Bytes::from(bytes))
    };
    entries.map(file).collect()
}

/// Cut in the middle, then read to the end: at both points the job is as its oracle says, whatever its state is kept in and read from.
#[test]
fn jobs_and_oracles_agree() {
    let kinds = [WorkloadKind::Audit, WorkloadKind::Flights, WorkloadKind::WordCount, WorkloadKind::States];
    for (kind, backend) in
        kinds.into_iter().flat_map(|kind| [(kind, BackendKind::Filesystem), (kind, BackendKind::RocksDb)])
    {
        for (seed, groups) in [(1, None), (2, Some(3))] {
            let params = WorkloadParams { kind, seed, groups, splits: 3, parallelism: 3, ..WorkloadParams::default() };
            let mut driver = Driver::new(&params, backend);
            driver.advance(TimeMove::Processing(1_000));
            driver.read(40);
            driver.advance(TimeMove::Watermark(400));
            driver.checkpoint(1);
            assert!(driver.workload.oracle.records() > 0, "{kind:?}");
            assert!(driver.workload.oracle.complete().is_err(), "{kind:?}: the cut is not the end");
            driver.advance(TimeMove::Processing(2_000));
            driver.read(u32::MAX);
            driver.advance(TimeMove::Watermark(i64::MAX));
            driver.checkpoint(2);
            driver.workload.oracle.complete().expect("everything was read");
        }
    }
}

/// The planned user fault fires as often as planned, and then no more.
#[test]
fn a_user_fault_fires_a_bounded_number_of_times() {
    let fault = UserFault { kind: UserFaultKind::Error, split: 0, offset: 5, times: 2 };
    let params = WorkloadParams { user_faults: vec![fault], ..WorkloadParams::default() };
    let workload = params.build().expect("sound parameters");
    let left = workload.user_faults[0].left.clone();
    let trap = &workload.user_faults[0];
    let record = AuditInput::new(params.seed, params.splits, params.records, params.keys, params.skew).record(0, 5);
    let record = record.expect("there is such a record");
    assert!(trap.touch(&record).is_err() && trap.touch(&record).is_err());
    assert!(trap.touch(&record).is_ok(), "used up");
    assert_eq!(left.load(std::sync::atomic::Ordering::SeqCst), 0);
}
