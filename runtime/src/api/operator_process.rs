//! Processing without keys, with operator state; and a stream connected to a broadcast stream.

use std::{marker::PhantomData, sync::Arc};

use super::{
    builder::{Body, Exchange, Input, MakeStage, MakeTail, Node},
    connected::{BroadcastTail, Connected, connected_chain},
    keyed_operator::{FIRED_AT_ONCE, FiredTimer, domain_of, fire_due, moved},
    process::ExtractKeys,
    stage::{BoxStage, Lifecycle, Stage, Visit, erase, fan_out, typed, user_error},
    stream::{KeyedStream, Stream},
};
use crate::{
    checkpoint::types::{PartKind, Times},
    dataflow::{
        chain::{ChainError, ChainSnapshot, NativeCall, NativeStage, RestoredState, StateUpgrade, TimeMove},
        outputs::Outputs,
    },
    graph::ChainContext,
    ids::{CheckpointId, OperatorUid},
    state::{
        KeyedBackend, KeyedContext, OpenContext, OperatorBackend, OperatorContext, OperatorOpenContext,
        OperatorReadContext, Record, StateKey, SubtaskPlace, TimeDomain, UserError,
    },
};

/// An operator on a stream without keys. One instance per subtask; what must survive a restart is kept in the operator
/// states declared in [`Self::open`].
pub trait OperatorProcess: 'static {
    type In: Record;
    type Out: Record;

    /// Called once before any record: declare states here.
    ///
    /// # Errors
    /// Whatever makes it impossible to start; fails the attempt.
    fn open(&mut self, ctx: &mut OperatorOpenContext<'_>) -> Result<(), UserError>;

    /// One record. What comes of it is appended to `out`.
    ///
    /// # Errors
    /// Fails the attempt.
    fn process(
        &mut self,
        value: Self::In,
        ctx: &mut OperatorContext<'_>,
        out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError>;
}

/// An operator on a stream and a broadcast stream. Every subtask gets every broadcast record, and only what comes of those
/// may write the operator's states; so they are the same in all subtasks, if user code does the same everywhere.
pub trait BroadcastProcess: 'static {
    type In: Record;
    type Broadcast: Record;
    type Out: Record;

    /// Called once before any record: declare states here.
    ///
    /// # Errors
    /// Whatever makes it impossible to start; fails the attempt.
    fn open(&mut self, ctx: &mut OperatorOpenContext<'_>) -> Result<(), UserError>;

    /// One record of the stream.
    ///
    /// # Errors
    /// Fails the attempt.
    fn process(
        &mut self,
        value: Self::In,
        ctx: &OperatorReadContext<'_>,
        out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError>;

    /// One record of the broadcast stream.
    ///
    /// # Errors
    /// Fails the attempt.
    fn process_broadcast(
        &mut self,
        value: Self::Broadcast,
        ctx: &mut OperatorContext<'_>,
        out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError>;
}

/// As [`BroadcastProcess`], on a keyed stream and with state per key beside the operator's.
pub trait KeyedBroadcastProcess: 'static {
    type Key: StateKey;
    type In: Record;
    type Broadcast: Record;
    type Out: Record;

    /// Called once before any record: declare states here, those per key and those of the operator.
    ///
    /// # Errors
    /// Whatever makes it impossible to start; fails the attempt.
    fn open(
        &mut self,
        keyed: &mut OpenContext<'_, Self::Key>,
        operator: &mut OperatorOpenContext<'_>,
    ) -> Result<(), UserError>;

    /// One record of the stream.
    ///
    /// # Errors
    /// Fails the attempt.
    fn process(
        &mut self,
        value: Self::In,
        keyed: &mut KeyedContext<'_, Self::Key>,
        operator: &OperatorReadContext<'_>,
        out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError>;

    /// One record of the broadcast stream. It belongs to no key.
    ///
    /// # Errors
    /// Fails the attempt.
    fn process_broadcast(
        &mut self,
        value: Self::Broadcast,
        operator: &mut OperatorContext<'_>,
        out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError>;

    /// A timer of this key is due: of those declared in [`Self::open`].
    ///
    /// # Errors
    /// Fails the attempt.
    fn on_timer(
        &mut self,
        _timer: FiredTimer,
        _keyed: &mut KeyedContext<'_, Self::Key>,
        _operator: &OperatorReadContext<'_>,
        _out: &mut Vec<Self::Out>,
    ) -> Result<(), UserError> {
        Ok(())
    }
}

/// What an operator is made for, and what it has of operator state once it is open.
struct Own {
    uid: OperatorUid,
    context: ChainContext,
    state: Option<OperatorBackend>,
}

impl Own {
    fn new(uid: &OperatorUid, context: &ChainContext) -> Own {
        Own { uid: uid.clone(), context: context.clone(), state: None }
    }

    fn restore(&self, restored: &RestoredState) -> Result<OperatorBackend, UserError> {
        let of_this = |kind: &PartKind| matches!(kind, PartKind::Operator { .. });
        let parts = restored.parts.iter().filter(|part| part.operator == self.uid && of_this(&part.kind));
        let parts: Vec<_> = parts.map(|part| (part.from, part.bytes.clone())).collect();
        let place = SubtaskPlace { index: self.context.subtask.index, parallelism: self.context.parallelism };
        OperatorBackend::restore(self.uid.clone(), place, &parts)
    }

    fn error(&self, error: UserError) -> ChainError {
        user_error(&self.uid, error)
    }

    fn open(
        &mut self,
        restored: &RestoredState,
        open: impl FnOnce(&mut OperatorOpenContext<'_>) -> Result<(), UserError>,
    ) -> Result<(), ChainError> {
        let opened = self.restore(restored).and_then(|mut state| {
            open(&mut state.open_context())?;
            state.opened();
            Ok(state)
        });
        self.state = Some(opened.map_err(|error| self.error(error))?);
        Ok(())
    }

    fn state(&mut self) -> Result<&mut OperatorBackend, ChainError> {
        self.state.as_mut().ok_or_else(|| not_open(&self.uid))
    }
}

fn not_open(uid: &OperatorUid) -> ChainError {
    ChainError { operator: uid.0.clone(), message: "used before it was opened".to_string() }
}

struct OperatorStage<P: OperatorProcess> {
    own: Own,
    process: P,
    made: Vec<P::Out>,
    next: BoxStage<P::Out>,
}

impl<P: OperatorProcess> Lifecycle for OperatorStage<P> {
    fn open(&mut self, restored: &RestoredState) -> Result<(), ChainError> {
        self.own.open(restored, |ctx| self.process.open(ctx))
    }

    fn take_upgrades(&mut self, upgrades: &mut Vec<StateUpgrade>) {
        upgrades.extend(self.own.state.iter_mut().flat_map(OperatorBackend::take_upgrades));
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        snapshot.parts.extend(self.own.state()?.snapshot());
        Ok(())
    }
}

impl<P: OperatorProcess> Stage<P::In> for OperatorStage<P> {
    fn collect(&mut self, batch: &mut Vec<P::In>, out: &mut Outputs) -> Result<(), ChainError> {
        let uid = self.own.uid.clone();
        let mut context = self.own.state()?.context();
        for record in batch.drain(..) {
            let processed = self.process.process(record, &mut context, &mut self.made);
            processed.map_err(|error| user_error(&uid, error))?;
        }
        self.next.collect(&mut self.made, out)
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)?;
        self.next.each(visit)
    }
}

struct BroadcastStage<P: BroadcastProcess> {
    own: Own,
    process: P,
    made: Vec<P::Out>,
    next: BoxStage<P::Out>,
}

impl<P: BroadcastProcess> Lifecycle for BroadcastStage<P> {
    fn open(&mut self, restored: &RestoredState) -> Result<(), ChainError> {
        self.own.open(restored, |ctx| self.process.open(ctx))
    }

    fn take_upgrades(&mut self, upgrades: &mut Vec<StateUpgrade>) {
        upgrades.extend(self.own.state.iter_mut().flat_map(OperatorBackend::take_upgrades));
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        snapshot.parts.extend(self.own.state()?.snapshot());
        Ok(())
    }
}

impl<P: BroadcastProcess> Stage<Connected<P::In, P::Broadcast>> for BroadcastStage<P> {
    fn collect(
        &mut self,
        batch: &mut Vec<Connected<P::In, P::Broadcast>>,
        out: &mut Outputs,
    ) -> Result<(), ChainError> {
        let uid = self.own.uid.clone();
        let state = self.own.state()?;
        for record in batch.drain(..) {
            let processed = match record {
                Connected::Main(value) => self.process.process(value, &state.read_context(), &mut self.made),
                Connected::Broadcast(value) => {
                    self.process.process_broadcast(value, &mut state.context(), &mut self.made)
                }
            };
            processed.map_err(|error| user_error(&uid, error))?;
        }
        self.next.collect(&mut self.made, out)
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)?;
        self.next.each(visit)
    }
}

struct KeyedBroadcastStage<P: KeyedBroadcastProcess> {
    own: Own,
    process: P,
    /// From `open` on.
    keyed: Option<KeyedBackend<P::Key>>,
    extract: ExtractKeys<P::Key, P::In>,
    made: Vec<P::Out>,
    next: BoxStage<P::Out>,
}

impl<P: KeyedBroadcastProcess> Lifecycle for KeyedBroadcastStage<P> {
    fn open(&mut self, restored: &RestoredState) -> Result<(), ChainError> {
        let keyed = super::process::keyed_backend(&self.own.uid, &self.own.context, restored);
        let mut keyed = keyed.map_err(|e| self.own.error(e))?;
        self.own.open(restored, |operator| self.process.open(&mut keyed.open_context(), operator))?;
        keyed.opened();
        self.keyed = Some(keyed);
        Ok(())
    }

    fn take_upgrades(&mut self, upgrades: &mut Vec<StateUpgrade>) {
        upgrades.extend(self.keyed.iter_mut().flat_map(KeyedBackend::take_upgrades));
        upgrades.extend(self.own.state.iter_mut().flat_map(OperatorBackend::take_upgrades));
    }

    fn resume(&mut self, times: Times) {
        if let Some(keyed) = &mut self.keyed {
            keyed.set_times(times);
        }
    }

    fn advance(&mut self, time: TimeMove, out: &mut Outputs) -> Result<(), ChainError> {
        let uid = self.own.uid.clone();
        let state = self.own.state()?;
        let Some(keyed) = &mut self.keyed else { return Err(not_open(&uid)) };
        keyed.set_times(moved(keyed.times(), time));
        let (domain, now) = domain_of(time);
        let Some(service) = keyed.user_timers(domain) else { return Ok(()) };
        loop {
            let more = fire_due(keyed, service, now, FIRED_AT_ONCE, |timer, ctx| {
                let fired = FiredTimer { timestamp: timer.timestamp, domain };
                self.process.on_timer(fired, ctx, &state.read_context(), &mut self.made)
            });
            let more = more.and_then(|more| Ok(keyed.settle().map(|()| more)?));
            let more = more.map_err(|error| user_error(&uid, error))?;
            self.next.collect(&mut self.made, out)?;
            if !more {
                return Ok(());
            }
        }
    }

    fn needs_processing_time(&self) -> bool {
        self.keyed.as_ref().is_some_and(KeyedBackend::needs_processing_time)
    }

    fn next_processing_timer(&self) -> Option<i64> {
        self.keyed.as_ref()?.next_timer(TimeDomain::Processing)
    }

    fn completed(&mut self, checkpoint: CheckpointId) {
        if let Some(keyed) = &mut self.keyed {
            keyed.completed(checkpoint);
        }
    }

    fn native_calls(&mut self, stage: NativeStage, calls: &mut Vec<NativeCall>) {
        calls.extend(self.keyed.as_mut().and_then(|keyed| keyed.native_calls(stage)));
    }

    fn natively_opened(&mut self) -> Result<(), ChainError> {
        let opened = self.keyed.as_mut().map_or(Ok(()), KeyedBackend::natively_opened);
        opened.map_err(|error| self.own.error(error.into()))
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), ChainError> {
        let Some(keyed) = &mut self.keyed else { return Err(not_open(&self.own.uid)) };
        keyed.add_to(snapshot).map_err(|error| self.own.error(error.into()))?;
        snapshot.parts.extend(self.own.state()?.snapshot());
        Ok(())
    }
}

impl<P: KeyedBroadcastProcess> Stage<Connected<P::In, P::Broadcast>> for KeyedBroadcastStage<P> {
    fn collect(
        &mut self,
        batch: &mut Vec<Connected<P::In, P::Broadcast>>,
        out: &mut Outputs,
    ) -> Result<(), ChainError> {
        let uid = self.own.uid.clone();
        let index = self.own.context.subtask.index;
        let state = self.own.state()?;
        let Some(keyed) = &mut self.keyed else { return Err(not_open(&uid)) };
        let mut keys = Vec::with_capacity(1);
        for record in batch.drain(..) {
            let processed = match record {
                Connected::Main(value) => {
                    keys.clear();
                    (self.extract)(std::slice::from_ref(&value), &mut keys);
                    let range = keyed.key_groups();
                    let context = keys.first().map(|key| keyed.context(key)).transpose();
                    let context = context.map_err(|error| user_error(&uid, error.into()))?.flatten();
                    let mut context = context.ok_or_else(|| super::process::foreign_key(&uid, index, range))?;
                    self.process.process(value, &mut context, &state.read_context(), &mut self.made)
                }
                Connected::Broadcast(value) => {
                    self.process.process_broadcast(value, &mut state.context(), &mut self.made)
                }
            };
            processed.map_err(|error| user_error(&uid, error))?;
        }
        keyed.settle().map_err(|error| user_error(&uid, error.into()))?;
        self.next.collect(&mut self.made, out)
    }

    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), ChainError> {
        visit(self)?;
        self.next.each(visit)
    }
}

/// A stream of which every subtask of the next operator gets every record.
pub struct BroadcastStream<B> {
    stream: Stream<B>,
}

impl<T: Record> Stream<T> {
    /// An operator without keys, with operator state kept under the uid. `make` makes one instance per subtask.
    pub fn process<P>(&self, uid: impl Into<String>, make: impl Fn() -> P + Send + Sync + 'static) -> Stream<P::Out>
    where
        P: OperatorProcess<In = T>,
    {
        let make: MakeStage = Arc::new(move |uid, context, next| {
            let own = Own::new(uid, context);
            erase::<T>(Box::new(OperatorStage { own, process: make(), made: Vec::new(), next: typed(next) }))
        });
        self.next(uid.into(), vec![self.input()], make)
    }

    /// The stream as one that all subtasks of an operator hear.
    pub fn broadcast(&self) -> BroadcastStream<T> {
        BroadcastStream { stream: self.clone() }
    }

    /// An operator on this stream and a broadcast one.
    pub fn connect<P>(
        &self,
        broadcast: &BroadcastStream<P::Broadcast>,
        uid: impl Into<String>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Stream<P::Out>
    where
        P: BroadcastProcess<In = T>,
    {
        let make: MakeStage = Arc::new(move |uid, context, next| {
            let own = Own::new(uid, context);
            let stage = BroadcastStage { own, process: make(), made: Vec::new(), next: typed(next) };
            erase::<Connected<T, P::Broadcast>>(Box::new(stage))
        });
        connected::<T, P::Broadcast, P::Out>(self.input(), broadcast, uid.into(), make, false)
    }
}

impl<K: StateKey, T: Record> KeyedStream<K, T> {
    /// An operator with state per key on this stream, and a broadcast one.
    pub fn connect<P>(
        &self,
        broadcast: &BroadcastStream<P::Broadcast>,
        uid: impl Into<String>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Stream<P::Out>
    where
        P: KeyedBroadcastProcess<Key = K, In = T>,
    {
        let extract = self.extract.clone();
        let make: MakeStage = Arc::new(move |uid, context, next| {
            let (own, extract) = (Own::new(uid, context), extract.clone());
            let (made, next) = (Vec::new(), typed(next));
            let stage = KeyedBroadcastStage { own, process: make(), keyed: None, extract, made, next };
            erase::<Connected<T, P::Broadcast>>(Box::new(stage))
        });
        connected::<T, P::Broadcast, P::Out>(self.input(), broadcast, uid.into(), make, true)
    }
}

/// Adds an operator with a stream and a broadcast stream as inputs, in this order.
fn connected<T: Record, B: Record, U: Record>(
    main: Input,
    broadcast: &BroadcastStream<B>,
    uid: String,
    make: MakeStage,
    keyed: bool,
) -> Stream<U> {
    let tail: MakeTail = Arc::new(|target, _| erase::<B>(Box::new(BroadcastTail { target })));
    let heard = Input { from: broadcast.stream.node, exchange: Exchange::Broadcast, tail };
    let plan = broadcast.stream.plan.clone();
    let mut nodes = plan.borrow_mut();
    nodes.nodes.push(Node {
        uid,
        parallelism: None,
        max_parallelism: None,
        inputs: vec![main, heard],
        body: Body::Operator { make, head: connected_chain::<T, B> },
        fan_out: fan_out::<U>,
        keyed,
        sink: false,
        slot_sharing_group: None,
        co_location_group: None,
    });
    let node = nodes.nodes.len() - 1;
    drop(nodes);
    Stream { plan, node, exchange: Exchange::Direct, of: PhantomData }
}
