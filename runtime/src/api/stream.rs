//! Typed streams, the author's view of the operators in a plan.

use std::{marker::PhantomData, sync::Arc};

use super::{
    builder::{Body, Exchange, Input, MakeStage, MakeTail, Node, SharedPlan, input_chain},
    keyed_operator::KeyedOperator,
    operators::{Filter, SinkStage, Transform},
    process::{ExtractKeys, KeyedProcess, ProcessStage},
    stage::{erase, fan_out, typed},
    tails::{AssignGroups, ForwardTail, HashTail, RebalanceTail, ShuffleTail},
};
use crate::{
    connectors::LineSink,
    graph::Partitioning,
    state::{Record, StateKey, UserError, key_group_of},
};

/// The records that come out of an operator. Can be consumed more than once.
pub struct Stream<T> {
    pub(super) plan: SharedPlan,
    pub(super) node: usize,
    /// How its records get to what comes next.
    pub(super) exchange: Exchange,
    pub(super) of: PhantomData<fn() -> T>,
}

impl<T> Clone for Stream<T> {
    fn clone(&self) -> Self {
        Stream { plan: self.plan.clone(), node: self.node, exchange: self.exchange, of: PhantomData }
    }
}

impl<T: Record> Stream<T> {
    /// How many subtasks the operator before this point has.
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> Self {
        self.plan.borrow_mut().nodes[self.node].parallelism = Some(parallelism);
        self
    }

    /// The number of key groups of the operator before this point, and so the most subtasks it can ever have; without it, the job's. It
    /// is that of what follows, too, as far as that has its parallelism. (Flink `setMaxParallelism`)
    #[must_use]
    pub fn max_parallelism(self, max_parallelism: u16) -> Self {
        self.plan.borrow_mut().nodes[self.node].max_parallelism = Some(max_parallelism);
        self
    }

    /// The slot sharing group of the operator before this point: subtasks of one group share slots, those of different groups never
    /// do. By default an operator has the group of its inputs, if that is one, else the group `default`. (Flink
    /// `slotSharingGroup`)
    #[must_use]
    pub fn slot_sharing_group(self, group: impl Into<String>) -> Self {
        self.plan.borrow_mut().nodes[self.node].slot_sharing_group = Some(group.into());
        self
    }

    /// Subtask i of every operator of one co-location group runs in the same slot, wherever that is. They must be in one slot sharing
    /// group and have the same parallelism. (Flink `setCoLocationGroupKey`)
    #[must_use]
    pub fn co_location_group(self, key: impl Into<String>) -> Self {
        self.plan.borrow_mut().nodes[self.node].co_location_group = Some(key.into());
        self
    }

    /// Names the operator before this point. Operators with state must have a name that stays.
    #[must_use]
    pub fn uid(self, uid: impl Into<String>) -> Self {
        self.plan.borrow_mut().nodes[self.node].uid = uid.into();
        self
    }

    /// Spreads the records evenly over the subtasks of the next operator, which is not chained then.
    #[must_use]
    pub fn rebalance(&self) -> Self {
        Stream { exchange: Exchange::Rebalance, ..self.clone() }
    }

    /// Gives each record to a subtask of the next operator at random, all alike; that operator is not chained then. The draws belong to
    /// the state, so that they can be repeated, and are the same in every run of the job.
    #[must_use]
    pub fn shuffle(&self) -> Self {
        Stream { exchange: Exchange::Shuffle, ..self.clone() }
    }

    pub fn map<U: Record>(&self, function: impl Fn(T) -> U + Send + Sync + 'static) -> Stream<U> {
        self.transform("map", move |record, made: &mut Vec<U>| {
            made.push(function(record));
            Ok(())
        })
    }

    pub fn try_map<U: Record>(
        &self,
        function: impl Fn(T) -> Result<U, UserError> + Send + Sync + 'static,
    ) -> Stream<U> {
        self.transform("map", move |record, made: &mut Vec<U>| {
            made.push(function(record)?);
            Ok(())
        })
    }

    pub fn flat_map<U: Record, I: IntoIterator<Item = U>>(
        &self,
        function: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> Stream<U> {
        self.transform("flat-map", move |record, made: &mut Vec<U>| {
            made.extend(function(record));
            Ok(())
        })
    }

    pub fn try_flat_map<U: Record, I: IntoIterator<Item = U>>(
        &self,
        function: impl Fn(T) -> Result<I, UserError> + Send + Sync + 'static,
    ) -> Stream<U> {
        self.transform("flat-map", move |record, made: &mut Vec<U>| {
            made.extend(function(record)?);
            Ok(())
        })
    }

    pub fn filter(&self, function: impl Fn(&T) -> bool + Send + Sync + 'static) -> Stream<T> {
        let function = Arc::new(function);
        let make: MakeStage =
            Arc::new(move |_, _, next| erase::<T>(Box::new(Filter { function: function.clone(), next: typed(next) })));
        self.next(self.free_uid("filter"), vec![self.input()], make)
    }

    fn transform<U: Record>(
        &self,
        kind: &str,
        function: impl Fn(T, &mut Vec<U>) -> Result<(), UserError> + Send + Sync + 'static,
    ) -> Stream<U> {
        let function = Arc::new(function);
        let make: MakeStage = Arc::new(move |uid, _, next| {
            erase::<T>(Box::new(Transform {
                uid: uid.clone(),
                function: function.clone(),
                made: Vec::new(),
                next: typed::<U>(next),
                of: PhantomData,
            }))
        });
        self.next(self.free_uid(kind), vec![self.input()], make)
    }

    /// The records of both streams, in any order. Both belong to the same builder.
    pub fn union(&self, other: &Stream<T>) -> Stream<T> {
        let make: MakeStage = Arc::new(|_, _, next| next);
        self.next(self.free_uid("union"), vec![self.input(), other.input()], make)
    }

    /// Groups the stream by a key. The function must give the same key whenever it is given the same record.
    pub fn key_by<K: StateKey>(&self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> KeyedStream<K, T> {
        let key = Arc::new(key);
        let extract: ExtractKeys<K, T> = {
            let key = key.clone();
            Arc::new(move |records, keys| keys.extend(records.iter().map(|record| key(record))))
        };
        let assign: AssignGroups<T> = Arc::new(move |records, max_parallelism, groups| {
            groups.extend(records.iter().map(|record| key_group_of(key(record).java_hash(), max_parallelism)));
        });
        KeyedStream { stream: self.clone(), extract, assign, exchange: Exchange::Hash }
    }

    /// Takes the stream as grouped by this key already, as it is behind an operator whose keys have the same hash: no record
    /// goes to another subtask, and the operator that follows is chained. A key of another subtask fails the attempt.
    pub fn reinterpret_as_keyed_by<K: StateKey>(
        &self,
        key: impl Fn(&T) -> K + Send + Sync + 'static,
    ) -> KeyedStream<K, T> {
        KeyedStream { exchange: Exchange::Direct, ..self.key_by(key) }
    }

    /// Writes each record as one line to the output of this name. The lines of a checkpoint become visible when it completes.
    pub fn sink(
        &self,
        uid: impl Into<String>,
        encode: impl Fn(&T, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> SinkHandle {
        self.sink_node(uid.into(), encode, false)
    }

    /// Counts and digests the records, and writes nothing.
    pub fn discard_sink(&self, uid: impl Into<String>) -> SinkHandle {
        let encode = |record: &T, line: &mut Vec<u8>| {
            *line = postcard::to_extend(record, std::mem::take(line))
                .unwrap_or_else(|error| panic!("a record does not encode: {error}"));
        };
        self.sink_node(uid.into(), encode, true)
    }

    fn sink_node(
        &self,
        uid: String,
        encode: impl Fn(&T, &mut Vec<u8>) + Send + Sync + 'static,
        discard: bool,
    ) -> SinkHandle {
        let encode = Arc::new(encode);
        let make: MakeStage = Arc::new(move |uid, _, _| {
            erase::<T>(Box::new(SinkStage { sink: LineSink::new(uid.clone(), discard), encode: encode.clone() }))
        });
        let stream: Stream<()> = self.next(uid, vec![self.input()], make);
        stream.plan.borrow_mut().nodes[stream.node].sink = true;
        SinkHandle { stream }
    }

    fn free_uid(&self, kind: &str) -> String {
        let plan = self.plan.borrow();
        plan.free_uid(format!("{}-{kind}", plan.nodes[self.node].uid))
    }

    /// This stream as the input of an operator without keys.
    pub(super) fn input(&self) -> Input {
        let tail: MakeTail = Arc::new(|target, partitioning| match partitioning {
            Partitioning::Rebalance => erase::<T>(Box::new(RebalanceTail { target, turn: 0 })),
            Partitioning::Shuffle => erase::<T>(Box::new(ShuffleTail { target, draws: 0 })),
            Partitioning::Forward | Partitioning::Hash | Partitioning::Broadcast => {
                erase::<T>(Box::new(ForwardTail { target }))
            }
        });
        Input { from: self.node, exchange: self.exchange, tail }
    }

    /// Adds an operator that takes records of this type.
    pub(super) fn next<U: Record>(&self, uid: String, inputs: Vec<Input>, make: MakeStage) -> Stream<U> {
        let mut plan = self.plan.borrow_mut();
        plan.nodes.push(Node {
            uid,
            parallelism: None,
            max_parallelism: None,
            inputs,
            body: Body::Operator { make, head: input_chain::<T> },
            fan_out: fan_out::<U>,
            keyed: false,
            sink: false,
            slot_sharing_group: None,
            co_location_group: None,
        });
        Stream { plan: self.plan.clone(), node: plan.nodes.len() - 1, exchange: Exchange::Direct, of: PhantomData }
    }
}

/// A stream grouped by key: what has the same key goes to the same subtask.
pub struct KeyedStream<K, T> {
    stream: Stream<T>,
    pub(super) extract: ExtractKeys<K, T>,
    assign: AssignGroups<T>,
    exchange: Exchange,
}

impl<K, T> Clone for KeyedStream<K, T> {
    fn clone(&self) -> Self {
        KeyedStream {
            stream: self.stream.clone(),
            extract: self.extract.clone(),
            assign: self.assign.clone(),
            exchange: self.exchange,
        }
    }
}

impl<K: StateKey, T: Record> KeyedStream<K, T> {
    /// An operator with state per key, kept under the uid. `make` makes one instance per subtask.
    pub fn process<P>(&self, uid: impl Into<String>, make: impl Fn() -> P + Send + Sync + 'static) -> Stream<P::Out>
    where
        P: KeyedProcess<Key = K, In = T>,
    {
        self.operate(uid.into(), make)
    }

    pub(super) fn operate<P>(&self, uid: String, make: impl Fn() -> P + Send + Sync + 'static) -> Stream<P::Out>
    where
        P: KeyedOperator<Key = K, In = T>,
    {
        let extract = self.extract.clone();
        let make: MakeStage = Arc::new(move |uid, context, next| {
            let stage = ProcessStage::new(uid.clone(), make(), context.clone(), extract.clone(), typed(next));
            erase::<T>(Box::new(stage))
        });
        let stream = self.stream.next(uid, vec![self.input()], make);
        stream.plan.borrow_mut().nodes[stream.node].keyed = true;
        stream
    }

    /// This stream as the input of an operator with keys.
    pub(super) fn input(&self) -> Input {
        if self.exchange == Exchange::Direct {
            return self.stream.input();
        }
        let assign = self.assign.clone();
        let tail: MakeTail = Arc::new(move |target, _| {
            erase::<T>(Box::new(HashTail { target, assign: assign.clone(), groups: Vec::new() }))
        });
        Input { from: self.stream.node, exchange: Exchange::Hash, tail }
    }
}

/// A sink, to set what belongs to it.
pub struct SinkHandle {
    stream: Stream<()>,
}

impl SinkHandle {
    /// How many subtasks the sink has.
    pub fn parallelism(self, parallelism: u32) {
        let _ = self.stream.parallelism(parallelism);
    }

    /// The slot sharing group of the sink; see [`Stream::slot_sharing_group`].
    #[must_use]
    pub fn slot_sharing_group(self, group: impl Into<String>) -> SinkHandle {
        SinkHandle { stream: self.stream.slot_sharing_group(group) }
    }
}
