//! The execution graph: chains of operators as vertices, their exchanges as edges. Plain data; the code behind a vertex is
//! made by its [`ChainFactory`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    config::JobState,
    dataflow::chain::Chain,
    ids::{EdgeId, JobId, OperatorUid, SharedSlot, SplitId, SubtaskId, VertexId},
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
    /// Each record to any of them, at random.
    Shuffle,
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
    /// Subtask i of every vertex of one group runs in one slot. Groups are numbered from 0 in the order in which vertices name them.
    pub slot_sharing_group: u32,
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

    /// `<vertex name>[<index>]`; of a vertex that is not here, because the job was another one then, its number.
    pub fn subtask_name(&self, id: SubtaskId) -> String {
        match self.vertices.get(id.vertex.0 as usize) {
            Some(vertex) => format!("{}[{}]", vertex.name, id.index),
            None => id.to_string(),
        }
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

    /// How many slots each slot sharing group needs: as many as the most parallel of its vertices has subtasks.
    fn group_parallelism(&self) -> BTreeMap<u32, u32> {
        let mut groups: BTreeMap<u32, u32> = BTreeMap::new();
        for vertex in &self.vertices {
            let most = groups.entry(vertex.slot_sharing_group).or_default();
            *most = vertex.parallelism.max(*most);
        }
        groups
    }

    /// Slots needed with slot sharing: one slot holds subtask i of every vertex of a slot sharing group.
    pub fn slots_needed(&self) -> u32 {
        self.group_parallelism().values().sum()
    }

    /// What the slots hold, in order.
    pub fn shared_slots(&self) -> Vec<SharedSlot> {
        let groups = self.group_parallelism().into_iter();
        groups
            .flat_map(|(group, parallelism)| {
                (0..parallelism).map(move |index| SharedSlot { group, index, parallelism })
            })
            .collect()
    }

    /// The slot that a subtask shares.
    pub fn shared_slot(&self, subtask: SubtaskId) -> SharedSlot {
        let group = self.vertex(subtask.vertex).slot_sharing_group;
        let of_group = self.vertices.iter().filter(|v| v.slot_sharing_group == group);
        let parallelism = of_group.map(|v| v.parallelism).max().unwrap_or(0);
        SharedSlot { group, index: subtask.index, parallelism }
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

/// Makes a job at another parallelism.
pub type Rescale = Arc<dyn Fn(u32) -> Result<Job, String> + Send + Sync>;

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
    /// None: it has one parallelism and no other.
    pub rescale: Option<Rescale>,
}

impl Job {
    /// The same job with as many subtasks of each operator that does not say its own number: at most its max parallelism, and what
    /// says its own number at most that.
    ///
    /// # Errors
    /// If it cannot be scaled, and why.
    pub fn at_parallelism(&self, parallelism: u32) -> Result<Job, String> {
        match &self.rescale {
            Some(rescale) => rescale(parallelism),
            None => Err(format!("job {} was not made by a builder and cannot be scaled", self.name)),
        }
    }
}

/// Which program a job is, as far as short cuts between two attempts ask for it: they assume that the code has not changed.
/// Equal for the same operators under the same names in the same version of the runtime, whatever the parallelism.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProgramId(pub u64);

impl Job {
    /// What tells this program from another one.
    pub fn program(&self) -> ProgramId {
        let mut text = format!("{}\n{}\n", env!("CARGO_PKG_VERSION"), self.name);
        for vertex in &self.graph.vertices {
            text += &format!("{} {}", vertex.name, vertex.max_parallelism);
            for operator in &vertex.operators {
                text += &format!(" {operator}{}", if vertex.keyed.contains(operator) { "*" } else { "" });
            }
            text.push('\n');
        }
        ProgramId(xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}
