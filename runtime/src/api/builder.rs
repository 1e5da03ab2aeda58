//! Where a job's operators are collected while it is being described: type-erased nodes, in the order of their making.

use std::{cell::RefCell, marker::PhantomData, rc::Rc, sync::Arc};

use super::{
    build::{self, JobError},
    chains::{InputChain, OneInput, SourceChain, SplitPlan},
    stage::{AnyStage, fan_out, typed},
    stream::Stream,
    tails::TailTarget,
    watermarks::WatermarkStrategy,
};
use crate::{
    config::{JobState, StateBackend},
    connectors::Source,
    dataflow::chain::Chain,
    graph::{ChainContext, Job, Partitioning},
    ids::{JobId, OperatorUid, SplitId},
    state::Record,
};

/// Describes a job. Streams made by it refer to it; [`Self::build`] turns what was described into a [`Job`].
pub struct JobBuilder {
    plan: SharedPlan,
}

pub(super) type SharedPlan = Rc<RefCell<Plan>>;

#[derive(Clone)]
pub(super) struct Plan {
    pub name: String,
    pub id: Option<JobId>,
    pub parallelism: u32,
    pub max_parallelism: Option<u16>,
    pub state: JobState,
    /// A node's inputs come before it.
    pub nodes: Vec<Node>,
}

#[derive(Clone)]
pub(super) struct Node {
    pub uid: String,
    pub parallelism: Option<u32>,
    pub max_parallelism: Option<u16>,
    pub inputs: Vec<Input>,
    pub body: Body,
    /// Joins the stages of all who consume this node's records.
    pub fan_out: fn(Vec<AnyStage>) -> AnyStage,
    pub keyed: bool,
    pub sink: bool,
    /// None: that of its inputs, if they have the same, else the default one.
    pub slot_sharing_group: Option<String>,
    pub co_location_group: Option<String>,
}

#[derive(Clone)]
pub(super) struct Input {
    pub from: usize,
    pub exchange: Exchange,
    pub tail: MakeTail,
}

/// How records get from one operator to the next, as far as the author said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// Chained if possible, spread evenly if parallelism differs.
    Direct,
    Rebalance,
    Shuffle,
    Hash,
    Broadcast,
}

/// Ends a chain towards this input.
pub(super) type MakeTail = Arc<dyn Fn(TailTarget, Partitioning) -> AnyStage + Send + Sync>;
/// Puts an operator before the stage that follows it.
pub(super) type MakeStage = Arc<dyn Fn(&OperatorUid, &ChainContext, AnyStage) -> AnyStage + Send + Sync>;
/// Puts a source before the stage that follows it; the splits are sorted, each with its position in the source. The flag:
/// whether the job has event time.
pub(super) type MakeSource =
    Arc<dyn Fn(&OperatorUid, &ChainContext, &SortedSplits, bool, AnyStage) -> Box<dyn Chain> + Send + Sync>;
pub(super) type SortedSplits = Arc<Vec<(SplitId, usize)>>;
/// Makes a chain of the operator that begins it.
pub(super) type MakeHead = fn(&OperatorUid, AnyStage) -> Box<dyn Chain>;

#[derive(Clone)]
pub(super) enum Body {
    Source { splits: SortedSplits, records_per_second: Option<f64>, tells_event_time: bool, make: MakeSource },
    Operator { make: MakeStage, head: MakeHead },
}

pub(super) fn input_chain<T: Record>(uid: &OperatorUid, head: AnyStage) -> Box<dyn Chain> {
    Box::new(InputChain::<T, OneInput>::new(uid.clone(), typed(head)))
}

impl Plan {
    /// `<base>`, or `<base>-2`, … if that is taken.
    pub(super) fn free_uid(&self, base: String) -> String {
        let taken = |uid: &str| self.nodes.iter().any(|node| node.uid == uid);
        if !taken(&base) {
            return base;
        }
        (2u32..).map(|n| format!("{base}-{n}")).find(|uid| !taken(uid)).unwrap_or(base)
    }
}

impl JobBuilder {
    pub fn new(name: impl Into<String>) -> JobBuilder {
        let plan = Plan {
            name: name.into(),
            id: None,
            parallelism: 1,
            max_parallelism: None,
            state: JobState::default(),
            nodes: Vec::new(),
        };
        JobBuilder { plan: Rc::new(RefCell::new(plan)) }
    }

    /// The job's identity; without it, it follows from the name.
    #[must_use]
    pub fn id(self, id: JobId) -> JobBuilder {
        self.plan.borrow_mut().id = Some(id);
        self
    }

    /// Parallelism of sources and keyed operators that do not say their own. 1 if not called.
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> JobBuilder {
        self.plan.borrow_mut().parallelism = parallelism;
        self
    }

    /// The number of key groups of keyed operators that do not say their own, and so the highest parallelism the job can ever be
    /// given. It cannot be changed once there are snapshots. By default it follows from the parallelism, as in Flink. Many cost
    /// little: each is 2 bytes of a full snapshot, and 12 more for each of the operator's states.
    #[must_use]
    pub fn max_parallelism(self, max_parallelism: u16) -> JobBuilder {
        self.plan.borrow_mut().max_parallelism = Some(max_parallelism);
        self
    }

    /// Where the job's state lives and how it is written. It wins over the cluster's configuration, each option for itself.
    #[must_use]
    pub fn state_backend(self, backend: StateBackend) -> JobBuilder {
        self.plan.borrow_mut().state.backend = Some(backend);
        self
    }

    /// Whether full snapshots are compressed. By default the cluster's configuration says it.
    #[must_use]
    pub fn snapshot_compression(self, on: bool) -> JobBuilder {
        self.plan.borrow_mut().state.compression = Some(on);
        self
    }

    /// A source. Positions in its splits are kept under the uid.
    pub fn source<S: Source>(&self, uid: impl Into<String>, source: S) -> Stream<S::Out> {
        self.add_source(uid.into(), source, None)
    }

    /// A source that tells event time. If any source of a job does, the job has event time: the others hold it back
    /// until they have ended.
    pub fn source_with_watermarks<S: Source>(
        &self,
        uid: impl Into<String>,
        source: S,
        strategy: WatermarkStrategy<S::Out>,
    ) -> Stream<S::Out> {
        self.add_source(uid.into(), source, Some(strategy))
    }

    fn add_source<S: Source>(
        &self,
        uid: String,
        source: S,
        strategy: Option<WatermarkStrategy<S::Out>>,
    ) -> Stream<S::Out> {
        // In the order of their ids, whatever order the source has: positions and merge orders count them so.
        let mut splits: Vec<(SplitId, usize)> =
            source.splits().into_iter().enumerate().map(|(position, id)| (id, position)).collect();
        splits.sort();
        let records_per_second = source.records_per_second();
        let source = Arc::new(source);
        let tells_event_time = strategy.is_some();
        let make: MakeSource = Arc::new(move |uid, context, splits, event_time, next| {
            let plan = SplitPlan { source: source.clone(), splits: splits.clone() };
            let (index, parallelism) = (context.subtask.index, context.parallelism);
            let strategy = strategy.clone().or_else(|| event_time.then(WatermarkStrategy::none));
            Box::new(SourceChain::new(uid.clone(), plan, index, parallelism, strategy, typed(next)))
        });
        let node = Node {
            uid,
            parallelism: None,
            max_parallelism: None,
            inputs: Vec::new(),
            body: Body::Source { splits: Arc::new(splits), records_per_second, tells_event_time, make },
            fan_out: fan_out::<S::Out>,
            keyed: false,
            sink: false,
            slot_sharing_group: None,
            co_location_group: None,
        };
        let mut plan = self.plan.borrow_mut();
        plan.nodes.push(node);
        Stream { plan: self.plan.clone(), node: plan.nodes.len() - 1, exchange: Exchange::Direct, of: PhantomData }
    }

    /// The job. Can be called again; every call gives the same job.
    ///
    /// # Errors
    /// [`JobError`] names what cannot be.
    pub fn build(&self) -> Result<Job, JobError> {
        build::build(&Arc::new(self.plan.borrow().clone()), None)
    }
}
