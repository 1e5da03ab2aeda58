//! From the plan to the execution graph: which operators share a vertex, which edges remain, and how the code of each vertex is
//! put together.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    builder::{Body, Exchange, Input, MakeStage, MakeTail, Node, Plan},
    stage::AnyStage,
    tails::TailTarget,
};
use crate::{
    graph::{ChainContext, ChainFactory, Edge, ExecutionGraph, Job, Partitioning, Rescale, Vertex},
    ids::{EdgeId, JobId, OperatorUid, VertexId},
    state::{MAX_MAX_PARALLELISM, default_max_parallelism},
};

/// Why a description is no job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error("the job has no name")]
    NoName,
    #[error("job {0}: there is no source")]
    NoSource(String),
    #[error("two operators have the uid {0:?}; name one of them differently")]
    DuplicateUid(String),
    #[error(
        "{0:?} cannot be a uid: it must be a plain name of at most 200 bytes, without `/`, `\\` or control characters"
    )]
    BadUid(String),
    #[error("operator {0}: parallelism 0; it must be at least 1")]
    ZeroParallelism(String),
    #[error("operator {uid}: parallelism {parallelism} exceeds its max parallelism {max_parallelism}")]
    ParallelismAboveMax { uid: String, parallelism: u32, max_parallelism: u16 },
    #[error("max parallelism {0} is not between 1 and {MAX_MAX_PARALLELISM}")]
    BadMaxParallelism(u16),
    #[error("source {0}: no splits; is there no input?")]
    NoSplits(String),
    #[error("source {uid}: two splits have the name {split:?}; is an input listed twice?")]
    DuplicateSplit { uid: String, split: String },
    #[error("source {uid}: a limit of {rate} records per second; it must be a number above 0")]
    BadRate { uid: String, rate: String },
    #[error("operators {first} and {second} have the co-location group {key:?}, but {why}")]
    CoLocation { key: String, first: String, second: String, why: &'static str },
    #[error("job parameters: {0}")]
    Parameters(String),
}

/// One operator with all that consumes its records.
struct Linked {
    uid: OperatorUid,
    node: Body,
    fan_out: fn(Vec<AnyStage>) -> AnyStage,
    consumers: Vec<Consumer>,
}

enum Consumer {
    Chained(Arc<Linked>),
    Edge { target: TailTarget, partitioning: Partitioning, tail: MakeTail },
}

impl Linked {
    /// What follows this operator in its chain.
    fn next(&self, context: &ChainContext) -> AnyStage {
        let consumers = self.consumers.iter().map(|consumer| match consumer {
            Consumer::Chained(linked) => linked.stage(context),
            Consumer::Edge { target, partitioning, tail } => {
                tail(TailTarget { index: context.subtask.index, ..target.clone() }, *partitioning)
            }
        });
        (self.fan_out)(consumers.collect())
    }

    fn stage(&self, context: &ChainContext) -> AnyStage {
        match &self.node {
            Body::Operator { make, .. } => self.make(make, context),
            Body::Source { .. } => unreachable!("a source has no input to be chained to"),
        }
    }

    fn make(&self, make: &MakeStage, context: &ChainContext) -> AnyStage {
        make(&self.uid, context, self.next(context))
    }
}

fn factory(head: Arc<Linked>, event_time: bool) -> ChainFactory {
    Arc::new(move |context| match &head.node {
        Body::Source { splits, make, .. } => make(&head.uid, context, splits, event_time, head.next(context)),
        Body::Operator { make, head: chain } => chain(&head.uid, head.make(make, context)),
    })
}

fn check(plan: &Plan) -> Result<(), JobError> {
    if plan.name.is_empty() {
        return Err(JobError::NoName);
    }
    let mut said = plan.max_parallelism.into_iter().chain(plan.nodes.iter().filter_map(|node| node.max_parallelism));
    if let Some(bad) = said.find(|max| !(1..=MAX_MAX_PARALLELISM).contains(max)) {
        return Err(JobError::BadMaxParallelism(bad));
    }
    let mut seen = BTreeSet::new();
    for node in &plan.nodes {
        let uid = &node.uid;
        let forbidden = |c: char| c.is_control() || matches!(c, '/' | '\\');
        if uid.is_empty() || uid.len() > 200 || uid == "." || uid == ".." || uid.contains(forbidden) {
            return Err(JobError::BadUid(uid.clone()));
        }
        if !seen.insert(uid) {
            return Err(JobError::DuplicateUid(uid.clone()));
        }
        let Body::Source { splits, records_per_second, .. } = &node.body else { continue };
        if let Some(rate) = records_per_second
            && !(rate.is_finite() && *rate > 0.0)
        {
            return Err(JobError::BadRate { uid: uid.clone(), rate: rate.to_string() });
        }
        if splits.is_empty() {
            return Err(JobError::NoSplits(uid.clone()));
        }
        if let Some(pair) = splits.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(JobError::DuplicateSplit { uid: uid.clone(), split: pair[0].0.0.clone() });
        }
    }
    if !plan.nodes.iter().any(|node| matches!(node.body, Body::Source { .. })) {
        return Err(JobError::NoSource(plan.name.clone()));
    }
    Ok(())
}

/// Parallelism and max parallelism of each operator. At another parallelism than the job says, the number of key groups stays what it
/// would have been, and an operator with a number of its own has at most that (in Flink's reactive mode such numbers are ignored).
fn parallelisms(plan: &Plan, scaled_to: Option<u32>) -> Result<Vec<(u32, u16)>, JobError> {
    let described = described_parallelisms(plan)?;
    let Some(scaled_to) = scaled_to else { return Ok(described) };
    let mut all: Vec<(u32, u16)> = Vec::with_capacity(described.len());
    for (node, (own, max_parallelism)) in plan.nodes.iter().zip(described) {
        let inherits = node.inputs.first().filter(|input| !node.keyed || input.exchange == Exchange::Direct);
        let parallelism = match (node.parallelism, inherits) {
            (Some(_), _) => own.min(scaled_to),
            (None, Some(input)) => all[input.from].0,
            (None, None) => scaled_to,
        };
        if parallelism == 0 {
            return Err(JobError::ZeroParallelism(node.uid.clone()));
        }
        all.push((parallelism.min(max_parallelism.into()), max_parallelism));
    }
    Ok(all)
}

/// The max parallelism that was said of each operator: its own, else that of the operator whose parallelism it takes over, to which
/// it may be chained.
fn said_max_parallelisms(plan: &Plan) -> Vec<Option<u16>> {
    let mut all: Vec<Option<u16>> = Vec::with_capacity(plan.nodes.len());
    for node in &plan.nodes {
        let takes_over =
            |input: &&Input| node.parallelism.is_none() && (!node.keyed || input.exchange == Exchange::Direct);
        let inherited = node.inputs.first().filter(takes_over).and_then(|input| all[input.from]);
        all.push(node.max_parallelism.or(inherited));
    }
    all
}

/// Operators without a number of their own: sources and keyed ones have the job's, others that of their first input.
fn described_parallelisms(plan: &Plan) -> Result<Vec<(u32, u16)>, JobError> {
    let mut all: Vec<(u32, u16)> = Vec::with_capacity(plan.nodes.len());
    for (node, said) in plan.nodes.iter().zip(said_max_parallelisms(plan)) {
        let inherited = match node.inputs.first() {
            Some(input) if !node.keyed || input.exchange == Exchange::Direct => all[input.from].0,
            _ => plan.parallelism,
        };
        let parallelism = node.parallelism.unwrap_or(inherited);
        if parallelism == 0 {
            return Err(JobError::ZeroParallelism(node.uid.clone()));
        }
        let said = said.or(plan.max_parallelism);
        let max_parallelism = said.unwrap_or_else(|| default_max_parallelism(parallelism));
        if parallelism > u32::from(max_parallelism) {
            return Err(JobError::ParallelismAboveMax { uid: node.uid.clone(), parallelism, max_parallelism });
        }
        all.push((parallelism, max_parallelism));
    }
    Ok(all)
}

/// The name of the slot sharing group of what says none.
const DEFAULT_GROUP: &str = "default";

/// The slot sharing group of each operator: its own, else that of all its inputs, else the default one.
fn slot_sharing_groups(plan: &Plan) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::with_capacity(plan.nodes.len());
    for node in &plan.nodes {
        let mut of_inputs = node.inputs.iter().map(|input| groups[input.from]);
        let first = of_inputs.next();
        let inherited = first.filter(|first| of_inputs.all(|other| other == *first));
        groups.push(node.slot_sharing_group.as_deref().or(inherited).unwrap_or(DEFAULT_GROUP));
    }
    groups
}

/// Subtask i of what is in one slot sharing group is in one slot. So operators are co-located if they are in one and have the same
/// number of subtasks.
fn check_co_location(plan: &Plan, groups: &[&str], parallelism: &[(u32, u16)]) -> Result<(), JobError> {
    for (second, node) in plan.nodes.iter().enumerate() {
        let Some(key) = &node.co_location_group else { continue };
        let others = plan.nodes.iter().take(second);
        let Some(first) = others.clone().position(|other| other.co_location_group.as_ref() == Some(key)) else {
            continue;
        };
        let why = if groups[first] != groups[second] {
            "they are in different slot sharing groups, which never share a slot"
        } else if parallelism[first].0 != parallelism[second].0 {
            "they have different parallelism, so not each subtask has one to share its slot with"
        } else {
            continue;
        };
        let (first, second) = (plan.nodes[first].uid.clone(), node.uid.clone());
        return Err(JobError::CoLocation { key: key.clone(), first, second, why });
    }
    Ok(())
}

/// The job that is described, or the same at another parallelism.
pub(super) fn build(plan: &Arc<Plan>, scaled_to: Option<u32>) -> Result<Job, JobError> {
    check(plan)?;
    let parallelism = parallelisms(plan, scaled_to)?;
    let groups = slot_sharing_groups(plan);
    check_co_location(plan, &groups, &parallelism)?;
    let mut group_numbers: Vec<&str> = Vec::new();
    let said = said_max_parallelisms(plan);
    let chained = |node: &Node, to: usize| match node.inputs.as_slice() {
        [only] => {
            // A vertex has one number of key groups.
            let is_said = said[only.from].is_some() || said[to].is_some();
            only.exchange == Exchange::Direct
                && parallelism[only.from].0 == parallelism[to].0
                && (!is_said || parallelism[only.from].1 == parallelism[to].1)
                && groups[only.from] == groups[to]
        }
        _ => false,
    };

    // Vertices, in the order of their first operators, which is a topological order.
    let mut vertices: Vec<Vertex> = Vec::new();
    let mut heads: Vec<usize> = Vec::new();
    let mut vertex_of: Vec<usize> = Vec::with_capacity(plan.nodes.len());
    for (position, node) in plan.nodes.iter().enumerate() {
        let uid = OperatorUid(node.uid.clone());
        let vertex = if chained(node, position) {
            vertex_of[node.inputs[0].from]
        } else {
            heads.push(position);
            let group = groups[position];
            let known = group_numbers.iter().position(|known| *known == group);
            let slot_sharing_group = known.unwrap_or_else(|| {
                group_numbers.push(group);
                group_numbers.len() - 1
            });
            vertices.push(Vertex {
                id: VertexId(count(vertices.len())),
                name: node.uid.clone(),
                parallelism: parallelism[position].0,
                max_parallelism: parallelism[position].1,
                operators: Vec::new(),
                keyed: Vec::new(),
                splits: match &node.body {
                    Body::Source { splits, .. } => Some(splits.iter().map(|(id, _)| id.clone()).collect()),
                    Body::Operator { .. } => None,
                },
                sinks: Vec::new(),
                slot_sharing_group: count(slot_sharing_group),
            });
            vertices.len() - 1
        };
        vertex_of.push(vertex);
        let vertex = &mut vertices[vertex];
        if node.keyed {
            vertex.keyed.push(uid.clone());
        }
        if node.sink {
            vertex.sinks.push(uid.clone());
        }
        vertex.operators.push(uid);
    }

    // Edges, in the order of the vertices they lead to; and for each operator what follows it.
    let mut edges: Vec<Edge> = Vec::new();
    let mut exits: Vec<Vec<Exit>> = plan.nodes.iter().map(|_| Vec::new()).collect();
    for (to, node) in plan.nodes.iter().enumerate() {
        if chained(node, to) {
            exits[node.inputs[0].from].push(Exit::Chained(to));
            continue;
        }
        for input in &node.inputs {
            let partitioning = match input.exchange {
                Exchange::Hash => Partitioning::Hash,
                Exchange::Broadcast => Partitioning::Broadcast,
                Exchange::Shuffle => Partitioning::Shuffle,
                Exchange::Direct if parallelism[input.from].0 == parallelism[to].0 => Partitioning::Forward,
                Exchange::Direct | Exchange::Rebalance => Partitioning::Rebalance,
            };
            let from = VertexId(count(vertex_of[input.from]));
            let target = TailTarget {
                from: OperatorUid(plan.nodes[input.from].uid.clone()),
                to: OperatorUid(node.uid.clone()),
                // Of which subtask it is, is known when its chain is made.
                index: 0,
                edge: edges.iter().filter(|edge| edge.from == from).count(),
                parallelism: parallelism[to].0,
                max_parallelism: parallelism[to].1,
            };
            exits[input.from].push(Exit::Edge { target, partitioning, tail: input.tail.clone() });
            let id = EdgeId(count(edges.len()));
            edges.push(Edge { id, from, to: VertexId(count(vertex_of[to])), partitioning });
        }
    }

    // From the last operator to the first, so that what follows an operator is there when it is linked.
    let mut linked: Vec<Option<Arc<Linked>>> = plan.nodes.iter().map(|_| None).collect();
    for (position, node) in plan.nodes.iter().enumerate().rev() {
        let consumers = std::mem::take(&mut exits[position]).into_iter().filter_map(|exit| match exit {
            Exit::Chained(next) => linked[next].clone().map(Consumer::Chained),
            Exit::Edge { target, partitioning, tail } => Some(Consumer::Edge { target, partitioning, tail }),
        });
        let consumers = consumers.collect();
        let uid = OperatorUid(node.uid.clone());
        linked[position] = Some(Arc::new(Linked { uid, node: node.body.clone(), fan_out: node.fan_out, consumers }));
    }
    let tells = |node: &Node| matches!(node.body, Body::Source { tells_event_time: true, .. });
    let event_time = plan.nodes.iter().any(tells);
    let chains = heads.iter().filter_map(|head| linked[*head].clone()).map(|head| factory(head, event_time)).collect();
    let described = Arc::clone(plan);
    let rescale: Rescale =
        Arc::new(move |parallelism| build(&described, Some(parallelism)).map_err(|error| error.to_string()));
    Ok(Job {
        id: plan.id.unwrap_or_else(|| JobId(xxhash_rust::xxh3::xxh3_128(plan.name.as_bytes()))),
        name: plan.name.clone(),
        graph: Arc::new(ExecutionGraph { vertices, edges }),
        chains,
        state: plan.state.clone(),
        rescale: Some(rescale),
    })
}

/// What follows an operator.
enum Exit {
    Chained(usize),
    Edge { target: TailTarget, partitioning: Partitioning, tail: MakeTail },
}

fn count(position: usize) -> u32 {
    u32::try_from(position).expect("a job has fewer than 2^32 operators")
}
