//! Drives a whole job by hand, in one thread and without a network, for the tests of this crate: every chain is called as
//! a subtask would call it, with frames of any size.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    checkpoint::types::{InlineState, OutputDigest},
    dataflow::{
        chain::{Chain, ChainError, PartSource, RestoredPart, RestoredState, SnapshotFormat, SourcePoll, TimeMove},
        outputs::Outputs,
    },
    graph::{ChainContext, Job, Vertex},
    ids::{CheckpointId, OperatorUid, SplitId, SubtaskId},
    state::BackendSettings,
};

/// All state of a job at one instant.
#[derive(Clone, Debug, Default)]
pub struct JobSnapshot {
    pub subtasks: BTreeMap<SubtaskId, RestoredState>,
    pub positions: BTreeMap<SplitId, u64>,
}

impl JobSnapshot {
    /// The same for another parallelism: every subtask gets everything its vertex has.
    pub fn for_job(&self, job: &Job) -> JobSnapshot {
        let all = |id: SubtaskId| {
            let mut state = RestoredState::default();
            for (_, other) in self.subtasks.iter().filter(|(other, _)| other.vertex == id.vertex) {
                state.parts.extend(other.parts.iter().cloned());
                state.inline.extend(other.inline.iter().cloned());
            }
            (id, state)
        };
        JobSnapshot { subtasks: job.graph.subtasks().map(all).collect(), positions: self.positions.clone() }
    }
}

pub struct Driver {
    pub job: Job,
    pub chains: BTreeMap<SubtaskId, Box<dyn Chain>>,
    outputs: BTreeMap<SubtaskId, Outputs>,
    files: BTreeMap<String, Bytes>,
    /// By sink, in the order of arrival.
    pub lines: BTreeMap<String, Vec<String>>,
    pub digests: BTreeMap<OperatorUid, OutputDigest>,
}

impl Driver {
    pub fn open(job: &Job, restored: &JobSnapshot) -> Result<Driver, ChainError> {
        let mut driver = Driver {
            job: job.clone(),
            chains: BTreeMap::new(),
            outputs: BTreeMap::new(),
            files: BTreeMap::new(),
            lines: BTreeMap::new(),
            digests: BTreeMap::new(),
        };
        for id in job.graph.subtasks() {
            let vertex = job.graph.vertex(id.vertex);
            let context = ChainContext {
                subtask: id,
                parallelism: vertex.parallelism,
                max_parallelism: vertex.max_parallelism,
                backend: BackendSettings::default(),
            };
            let mut chain = job.chains[id.vertex.0 as usize](&context);
            chain.open(restored.subtasks.get(&id).cloned().unwrap_or_default())?;
            driver.chains.insert(id, chain);
            let channels: Vec<usize> =
                job.graph.outputs(id.vertex).map(|edge| job.graph.downstream(edge, id).len()).collect();
            driver.outputs.insert(id, Outputs::new(&channels));
        }
        Ok(driver)
    }

    pub fn file(mut self, path: &str, content: impl Into<Bytes>) -> Driver {
        self.files.insert(path.to_string(), content.into());
        self
    }

    fn own_splits(vertex: &Vertex, index: u32) -> u32 {
        let splits = vertex.splits.as_ref().map_or(0, Vec::len) as u32;
        splits.saturating_sub(index).div_ceil(vertex.parallelism)
    }

    /// One look at every split, then everything flows to the end. False once all splits have ended.
    pub fn step(&mut self, max_records: u32) -> Result<bool, ChainError> {
        let mut progress = false;
        let graph = self.job.graph.clone();
        for id in graph.subtasks() {
            for split in 0..Driver::own_splits(graph.vertex(id.vertex), id.index) {
                progress |= self.poll(id, split, max_records)?;
            }
        }
        self.flow(max_records)?;
        Ok(progress)
    }

    fn poll(&mut self, id: SubtaskId, split: u32, max_records: u32) -> Result<bool, ChainError> {
        let chain = self.chains.get_mut(&id).unwrap();
        loop {
            match chain.poll_source(split, max_records, self.outputs.get_mut(&id).unwrap())? {
                SourcePoll::Records(count) => {
                    assert!(count > 0 && count <= max_records);
                    return Ok(true);
                }
                SourcePoll::Exhausted => return Ok(false),
                SourcePoll::NeedInput { path, range } => {
                    let file = &self.files[&path];
                    let end = range.end.min(file.len() as u64) as usize;
                    chain.feed(split, file.slice(range.start as usize..end))?;
                }
            }
        }
    }

    fn flow(&mut self, max_records: u32) -> Result<(), ChainError> {
        let graph = self.job.graph.clone();
        for id in graph.subtasks() {
            for (position, edge) in graph.outputs(id.vertex).enumerate() {
                let input = graph.inputs(edge.to).position(|e| e.id == edge.id).unwrap() as u32;
                for (channel, to) in graph.downstream(edge, id).into_iter().enumerate() {
                    let buffer = std::mem::take(&mut self.outputs.get_mut(&id).unwrap().edges[position][channel]);
                    let mut payload = Bytes::from(buffer.bytes);
                    let mut records = 0;
                    while !payload.is_empty() {
                        let out = self.outputs.get_mut(&to).unwrap();
                        let chain = self.chains.get_mut(&to).unwrap();
                        let consumed = chain.process(input, &payload, max_records, out)?;
                        assert!(consumed.records > 0 && consumed.records <= max_records);
                        payload = payload.slice(consumed.bytes..);
                        records += consumed.records;
                    }
                    assert_eq!(records, buffer.records);
                }
            }
            let chain = self.chains.get_mut(&id).unwrap();
            for data in chain.take_sink_data(true) {
                let text = String::from_utf8(data.bytes.to_vec()).unwrap();
                assert_eq!(text.lines().count() as u64, data.records);
                self.lines.entry(data.sink.0).or_default().extend(text.lines().map(str::to_string));
            }
            for (sink, digest) in chain.take_sink_digests() {
                self.digests.entry(sink).or_default().add(digest);
            }
        }
        Ok(())
    }

    /// Moves a time on, in every subtask; what comes of it flows to the end, ahead of the time.
    pub fn advance(&mut self, time: TimeMove) -> Result<(), ChainError> {
        let graph = self.job.graph.clone();
        for vertex in &graph.vertices {
            for index in 0..vertex.parallelism {
                let id = SubtaskId { vertex: vertex.id, index };
                self.chains.get_mut(&id).unwrap().advance(time, self.outputs.get_mut(&id).unwrap())?;
            }
            self.flow(64)?;
        }
        Ok(())
    }

    pub fn run(&mut self, max_records: u32) -> Result<(), ChainError> {
        while self.step(max_records)? {}
        Ok(())
    }

    /// Between two steps nothing is in flight, so that all subtasks together are one consistent cut.
    pub fn snapshot(&mut self) -> Result<JobSnapshot, ChainError> {
        let mut all = JobSnapshot::default();
        for (id, chain) in &mut self.chains {
            let snapshot = chain.snapshot(CheckpointId(1), SnapshotFormat::OfBackend)?;
            let part = |p: PartSource| RestoredPart {
                operator: p.operator,
                key_groups: p.key_groups,
                kind: p.kind,
                from: id.index,
                bytes: p.data.encoded().expect("state is written anew"),
            };
            let inline = |(operator, bytes)| InlineState { operator, from: id.index, bytes };
            let state = RestoredState {
                parts: snapshot.parts.into_iter().map(part).collect(),
                inline: snapshot.inline.into_iter().map(inline).collect(),
                ..RestoredState::default()
            };
            all.subtasks.insert(*id, state);
            all.positions.extend(snapshot.positions);
        }
        Ok(all)
    }
}
