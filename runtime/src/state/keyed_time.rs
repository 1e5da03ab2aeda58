//! Time in keyed state: the times that an operator sees, its timers, and what user code declares and calls for both.

use std::marker::PhantomData;

use super::{
    backend::{KeyedBackend, Store},
    context::KeyedContext,
    declare::OpenContext,
    error::{StateError, UserError},
    format::{SectionWriter, StateHeader},
    heap::foreign_handle,
    key::StateKey,
    key_group::key_group_of,
    restored::Restored,
    settings::{BackendKind, BackendSettings, TimersPlace},
    table::StateNamespace,
    timer_rows::{HeapRows, TimerRows},
    timers::{AnyTimers, TimeDomain, Timer, TimerQueue, load, queue_header},
};
use crate::checkpoint::types::Times;

/// The service under which the timers of a [`KeyedProcess`](crate::api::KeyedProcess) are kept.
const USER_SERVICE: &str = "user";

/// Times and timers of the keyed state of one operator in one subtask.
pub(super) struct KeyedTime<K> {
    times: Times,
    queues: Vec<Box<dyn AnyTimers<K>>>,
    domains: Vec<TimeDomain>,
    needs_processing_time: bool,
    /// Timers are in the database.
    in_database: bool,
}

impl<K: StateKey> KeyedTime<K> {
    pub(super) fn new(settings: &BackendSettings) -> KeyedTime<K> {
        let in_database = settings.kind == BackendKind::RocksDb && settings.timers == TimersPlace::RocksDb;
        KeyedTime {
            in_database,
            times: Times::default(),
            queues: Vec::new(),
            domains: Vec::new(),
            needs_processing_time: false,
        }
    }

    pub(super) fn times(&self) -> Times {
        self.times
    }

    /// Something will ask for processing time.
    pub(super) fn need_processing_time(&mut self) {
        self.needs_processing_time = true;
    }

    /// Adds the queues on the heap to what a store has of states, by name: first their headers.
    pub(super) fn add_headers(&self, mut states: Vec<StateHeader>) -> Vec<StateHeader> {
        if !self.in_database {
            states.extend(self.queues.iter().map(|queue| queue.header().clone()));
        }
        states.sort_by(|a, b| a.name.cmp(&b.name));
        states
    }

    /// Whether any timers of these groups were added or taken out since they were shared.
    pub(super) fn has_changed(&self, groups: &std::ops::Range<usize>) -> bool {
        self.queues.iter().any(|queue| queue.has_changed(groups.clone()))
    }

    /// Then, in the same order, their timers: `sections` are those of `states`, a store's own.
    pub(super) fn add_sections(
        &mut self,
        states: &[StateHeader],
        sections: Vec<Box<dyn SectionWriter>>,
        groups: &std::ops::Range<usize>,
    ) -> Vec<Box<dyn SectionWriter>> {
        let of_states = states.iter().map(|header| header.name.clone()).zip(sections);
        let mut all: Vec<(String, Box<dyn SectionWriter>)> = of_states.collect();
        all.extend(self.queues.iter_mut().filter_map(|queue| {
            let section = queue.share(groups.clone())?;
            Some((queue.header().name.clone(), section))
        }));
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.into_iter().map(|(_, section)| section).collect()
    }

    /// Nothing is asked of the queues any more.
    #[cfg(feature = "rocksdb")]
    pub(super) fn close_queues(&mut self) {
        self.queues.clear();
    }

    fn queue<N: StateNamespace>(&mut self, position: usize) -> &mut TimerQueue<K, N> {
        let queue = self.queues.get_mut(position).map(|queue| queue.as_any_mut());
        queue.and_then(|queue| queue.downcast_mut()).unwrap_or_else(|| foreign_handle())
    }

    fn next(&self, domain: TimeDomain) -> Option<i64> {
        let of_domain = self.queues.iter().zip(&self.domains).filter(|(_, of)| **of == domain);
        of_domain.filter_map(|(queue, _)| queue.next()).min()
    }
}

impl<K: StateKey> KeyedBackend<K> {
    /// Sets what operators see.
    pub fn set_times(&mut self, times: Times) {
        self.time.times = times;
        #[cfg(feature = "rocksdb")]
        if let Store::RocksDb(rocks) = &mut self.store {
            rocks.set_processing_time(times.processing);
        }
    }

    pub fn times(&self) -> Times {
        self.time.times
    }

    /// Whether something asks for processing time at all.
    pub fn needs_processing_time(&self) -> bool {
        self.time.needs_processing_time
    }

    /// When the first timer of this domain is due.
    pub fn next_timer(&self, domain: TimeDomain) -> Option<i64> {
        self.time.next(domain)
    }

    /// Timers of all queues. Those in a database are counted one by one.
    ///
    /// # Errors
    /// If they cannot be counted.
    pub fn timers(&self) -> Result<u64, StateError> {
        self.time.queues.iter().map(|queue| queue.count()).sum()
    }

    /// Bytes of the timers that are in memory: of all if they are on the heap, of a bounded number in each key group if they are in the
    /// database. Without what it costs to find them, which is about as much again. Counted by looking at each.
    pub fn timer_bytes_in_memory(&self) -> u64 {
        self.time.queues.iter().map(|queue| queue.bytes_in_memory()).sum()
    }

    /// Takes out the first timer of a service, if its time has come.
    ///
    /// # Errors
    /// If it does not decode, or cannot be taken out.
    pub(crate) fn pop_due<N: StateNamespace>(
        &mut self,
        service: TimerService<N>,
        now: i64,
    ) -> Result<Option<Timer<K, N>>, StateError> {
        self.time.queue::<N>(service.position).pop_due(now)
    }

    /// Takes out the first of these timers, if its time has come; says whether it had.
    ///
    /// # Errors
    /// If it does not decode, or cannot be taken out.
    pub fn fire_due(&mut self, timers: Timers, now: i64) -> Result<bool, StateError> {
        self.pop_due(timers, now).map(|timer| timer.is_some())
    }

    /// The timers that user code has declared in this domain, if it has.
    pub(crate) fn user_timers(&self, domain: TimeDomain) -> Option<TimerService<()>> {
        let header = queue_header::<()>(domain, USER_SERVICE);
        let position = self.time.queues.iter().position(|queue| *queue.header() == header)?;
        Some(TimerService::at(position))
    }

    fn declare_timers<N: StateNamespace>(
        &mut self,
        domain: TimeDomain,
        service: &str,
    ) -> Result<TimerService<N>, UserError> {
        let header = queue_header::<N>(domain, service);
        if let Some(position) = self.time.queues.iter().position(|queue| queue.header().name == header.name) {
            let other = self.time.queues[position].header();
            if *other != header {
                let name = &header.name;
                return Err(UserError::new(format!("timers {name:?} are declared twice, as {other} and as {header}")));
            }
            return Ok(TimerService::at(position));
        }
        let restored = self.take_timers(&header)?;
        let rows = match &mut self.store {
            #[cfg(feature = "rocksdb")]
            Store::RocksDb(rocks) if self.time.in_database => {
                rocks.declare_timers::<K, N>(&header, self.range, restored)
            }
            store => {
                #[cfg(feature = "rocksdb")]
                if let Store::RocksDb(rocks) = store {
                    rocks.timers_on_heap::<K, N>(&header);
                }
                let _ = store;
                self.heap_rows::<N>(&header, restored)?
            }
        };
        self.time.queues.push(Box::new(TimerQueue::<K, N>::new(header, rows)));
        self.time.domains.push(domain);
        self.time.needs_processing_time |= domain == TimeDomain::Processing;
        Ok(TimerService::at(self.time.queues.len() - 1))
    }

    fn heap_rows<N: StateNamespace>(
        &self,
        header: &StateHeader,
        restored: Option<Restored>,
    ) -> Result<Box<dyn TimerRows>, UserError> {
        let mut rows = HeapRows::new(self.range.count() as usize);
        let (first, max_parallelism) = (self.range.first, self.max_parallelism);
        for (group, section) in restored.iter().flat_map(|restored| &restored.sections) {
            load::<K, N>(&mut rows, &header.name, usize::from(group.0 - first.0), section, |key| {
                key_group_of(key.java_hash(), max_parallelism) == *group
            })?;
        }
        Ok(Box::new(rows))
    }

    /// The database is open, if there is one: the queues take what it has of their timers.
    pub(super) fn open_queues(&mut self) -> Result<(), StateError> {
        for queue in &mut self.time.queues {
            queue.opened()?;
            #[cfg(feature = "rocksdb")]
            if let Store::RocksDb(rocks) = &self.store {
                queue.add(rocks.moved_timers(&queue.header().name, self.range)?)?;
            }
        }
        Ok(())
    }
}

/// The timers of one kind of an operator: a handle, made in `open`.
///
/// The default handle belongs to no timers; using it panics.
pub struct TimerService<N> {
    position: usize,
    of: PhantomData<fn() -> N>,
}

impl<N> TimerService<N> {
    fn at(position: usize) -> Self {
        TimerService { position, of: PhantomData }
    }
}

impl<N> Default for TimerService<N> {
    fn default() -> Self {
        Self::at(usize::MAX)
    }
}

impl<N> Clone for TimerService<N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for TimerService<N> {}

/// Timers of a key.
pub type Timers = TimerService<()>;

impl Timers {
    /// `on_timer` will be called for this key when that time has come. A timer that is registered already stays one; one
    /// whose time has passed fires when time moves on next.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn register<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, timestamp: i64) -> Result<(), StateError> {
        self.register_in(ctx, timestamp, &())
    }

    /// Takes a timer back; nothing if there is none.
    ///
    /// # Errors
    /// If it cannot be taken out.
    pub fn delete<K: StateKey>(&self, ctx: &mut KeyedContext<'_, K>, timestamp: i64) -> Result<(), StateError> {
        self.delete_in(ctx, timestamp, &())
    }
}

impl<N: StateNamespace> TimerService<N> {
    /// # Errors
    /// If it cannot be kept.
    pub(crate) fn register_in<K: StateKey>(
        &self,
        ctx: &mut KeyedContext<'_, K>,
        timestamp: i64,
        namespace: &N,
    ) -> Result<(), StateError> {
        ctx.backend.time.queue::<N>(self.position).register(ctx.group, timestamp, ctx.key, namespace)
    }

    /// # Errors
    /// If it cannot be taken out.
    pub(crate) fn delete_in<K: StateKey>(
        &self,
        ctx: &mut KeyedContext<'_, K>,
        timestamp: i64,
        namespace: &N,
    ) -> Result<(), StateError> {
        ctx.backend.time.queue::<N>(self.position).delete(ctx.group, timestamp, ctx.key, namespace)
    }
}

/// Processing time, for user code that has asked for it in `open`: milliseconds since 1970. It moves between batches of
/// records and when a timer is due; a replay repeats it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessingClock {
    is_asked_for: bool,
}

impl ProcessingClock {
    /// Panics if it was not made in `open`.
    pub fn now<K: StateKey>(&self, ctx: &KeyedContext<'_, K>) -> i64 {
        if !self.is_asked_for {
            foreign_handle();
        }
        ctx.backend.time.times.processing
    }
}

impl<K: StateKey> OpenContext<'_, K> {
    /// Timers in event time.
    ///
    /// # Errors
    /// If the snapshot does not fit.
    pub fn event_timers(&mut self) -> Result<Timers, UserError> {
        self.timer_service(TimeDomain::Event, USER_SERVICE)
    }

    /// Timers in processing time. Those whose time passed while the job was down fire at once after a restore.
    ///
    /// # Errors
    /// If the snapshot does not fit.
    pub fn processing_timers(&mut self) -> Result<Timers, UserError> {
        self.timer_service(TimeDomain::Processing, USER_SERVICE)
    }

    /// Timers of an operator's own, each for a key and a namespace.
    ///
    /// # Errors
    /// If the snapshot does not fit.
    pub(crate) fn timer_service<N: StateNamespace>(
        &mut self,
        domain: TimeDomain,
        service: &str,
    ) -> Result<TimerService<N>, UserError> {
        self.backend.declare_timers(domain, service)
    }

    pub fn processing_clock(&mut self) -> ProcessingClock {
        self.backend.time.need_processing_time();
        ProcessingClock { is_asked_for: true }
    }
}

impl<K: StateKey> KeyedContext<'_, K> {
    /// Event time: no record before it is expected any more. `i64::MIN` before the first watermark.
    pub fn watermark(&self) -> i64 {
        self.backend.time.times.watermark
    }
}
