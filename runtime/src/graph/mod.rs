//! The execution graph: chains of operators as vertices, their exchanges as edges. Plain data; the code behind a vertex is
//! made by its [`ChainFactory`].

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    config::JobState,
    dataflow::chain::Chain,
    ids::{EdgeId, JobId, OperatorUid, SplitId, SubtaskId, VertexId},
    state::BackendSettings,
};

/// How records are spread over the subtasks of the next vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Partitioning {
    /// Subtask i to subtask i; both sides have the same parallelism.
    Forward,
    /// By the key group of the record's key.
    Hash,
    /// Round robin.
    Rebalance,
    /// Each record to all of them.
    Broadcast,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vertex {
    pub id: VertexId,
    pub name: String,
    pub parallelism: u32,
    pub max_parallelism: u16,
    /// Operators of the chain, first to last.
    pub operators: Vec<OperatorUid>,
    /// Those of them that hold keyed state.
    pub keyed: Vec<OperatorUid>,
    /// The splits read by this vertex, if it is a source, in the order of their ids. Split i belongs to subtask
    /// `i % parallelism`.
    pub splits: Option<Vec<SplitId>>,
    /// Sink operators in the chain, by uid, which is also the name of the output.
    pub sinks: Vec<OperatorUid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub id: EdgeId,
    pub from: VertexId,
    pub to: VertexId,
    pub partitioning: Partitioning,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionGraph {
    /// In topological order; position i has id i.
    pub vertices: Vec<Vertex>,
    pub edges: Vec<Edge>,
}

impl ExecutionGraph {
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0 as usize]
    }

    pub fn inputs(&self, vertex: VertexId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |e| e.to == vertex)
    }

    pub fn outputs(&self, vertex: VertexId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |e| e.from == vertex)
    }

    pub fn subtasks(&self) -> impl Iterator<Item = SubtaskId> {
        self.vertices.iter().flat_map(|v| (0..v.parallelism).map(|index| SubtaskId { vertex: v.id, index }))
    }

    /// `<vertex name>[<index>]`.
    pub fn subtask_name(&self, id: SubtaskId) -> String {
        format!("{}[{}]", self.vertex(id.vertex).name, id.index)
    }

    /// Upstream subtasks that feed `subtask` over `edge`, in order.
    pub fn upstream(&self, edge: &Edge, subtask: SubtaskId) -> Vec<SubtaskId> {
        match edge.partitioning {
            Partitioning::Forward => vec![SubtaskId { vertex: edge.from, index: subtask.index }],
            _ => (0..self.vertex(edge.from).parallelism).map(|index| SubtaskId { vertex: edge.from, index }).collect(),
        }
    }

    /// Downstream subtasks that `subtask` feeds over `edge`, in order.
    pub fn downstream(&self, edge: &Edge, subtask: SubtaskId) -> Vec<SubtaskId> {
        match edge.partitioning {
            Partitioning::Forward => vec![SubtaskId { vertex: edge.to, index: subtask.index }],
            _ => (0..self.vertex(edge.to).parallelism).map(|index| SubtaskId { vertex: edge.to, index }).collect(),
        }
    }

    /// Slots needed with slot sharing: one slot holds subtask i of every vertex.
    pub fn slots_needed(&self) -> u32 {
        self.vertices.iter().map(|v| v.parallelism).max().unwrap_or(0)
    }
}

/// What a chain is made for.
#[derive(Clone, Debug)]
pub struct ChainContext {
    pub subtask: SubtaskId,
    pub parallelism: u32,
    pub max_parallelism: u16,
    pub backend: BackendSettings,
}

/// Makes the operators of one subtask, on the subtask's own thread.
pub type ChainFactory = Arc<dyn Fn(&ChainContext) -> Box<dyn Chain> + Send + Sync>;

/// A job: its graph and the code behind each vertex. Every process of a cluster builds the same job from the same code.
#[derive(Clone)]
pub struct Job {
    pub id: JobId,
    pub name: String,
    pub graph: Arc<ExecutionGraph>,
    /// By vertex.
    pub chains: Vec<ChainFactory>,
    /// What it says of its state; it wins over the cluster's configuration.
    pub state: JobState,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}
