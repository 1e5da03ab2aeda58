//! The states job: every kind of managed state, timers in both times, and windows, each with its effect in the output or in
//! the state, so that an oracle can judge it by content.
//!
//! Source `states-source` -> `tally` (split and union lists, chained to the source) -> by key, with the broadcast stream of
//! source `rules` -> `fold` (value, list, map, reducing, aggregating and broadcast state, event-time timers) -> chained, by
//! the same key as another type -> `echo` (value and map state, reducing state with a time to live, processing-time timers) -> output `states`. And from
//! `tally`, by a key of text -> `windows` (tumbling or sessions) -> output `windows`. What lines and states mean is told in
//! [`crate::oracle::StatesOracle`].

use std::{sync::Arc, time::Duration};

use runtime::{
    api::{
        FiredTimer, GeneratorSource, JobBuilder, JobError, KeyedBroadcastProcess, KeyedProcess, OperatorProcess,
        WatermarkStrategy, Windowed, Windows,
    },
    graph::Job,
    state::{
        Aggregate, AggregatingState, BroadcastState, KeyedContext, ListState, MapState, OpenContext, OperatorContext,
        OperatorListState, OperatorOpenContext, OperatorReadContext, ProcessingClock, ReadsOperatorState,
        ReducingState, StateValue, Timers, Ttl, TtlReducingState, UserError, ValueState,
    },
};
use serde::{Deserialize, Serialize};

use super::{AuditInput, AuditRecord, Trap, WorkloadParams};

pub const NAME: &str = "states";
pub const SINK: &str = "states";
pub const WINDOWS: &str = "windows";
pub const RULES: u64 = 12;

/// Event time between two records of a split.
pub const STEP_MILLIS: i64 = 20;
/// A record's time is off its place by up to so much; the source expects only half of that, so that some come late.
pub const JITTER_MILLIS: i64 = 64;
pub const WINDOW_MILLIS: i64 = 160;
pub const GAP_MILLIS: i64 = 40;
/// Timers are at multiples of this.
pub const TIMER_MILLIS: i64 = 100;

/// Whether windows are sessions in this run; else they are tumbling.
pub fn sessions(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

pub fn time_of(record: &AuditRecord) -> i64 {
    record.offset.cast_signed() * STEP_MILLIS + (record.value & (JITTER_MILLIS - 1))
}

/// When the timer is due that a record asks for.
pub fn timer_of(record: &AuditRecord) -> i64 {
    (time_of(record) / TIMER_MILLIS + 2) * TIMER_MILLIS
}

/// Every so many records of a split one is kept in the split list.
pub fn is_kept(record: &AuditRecord) -> bool {
    record.value % 11 == 0
}

pub fn window_key(record: &AuditRecord) -> String {
    format!("k{}", record.key % 7)
}

/// How many numbers of records a key remembers in its list.
pub const RECENT: usize = 3;

/// Counts and keeps without keys.
#[derive(Default)]
struct Tally {
    kept: OperatorListState<(u32, u64)>,
    /// Per subtask that ever was, how many records it saw.
    counts: OperatorListState<(u32, u64)>,
}

impl OperatorProcess for Tally {
    type In = AuditRecord;
    type Out = AuditRecord;

    fn open(&mut self, ctx: &mut OperatorOpenContext<'_>) -> Result<(), UserError> {
        self.kept = ctx.list_state("kept")?;
        self.counts = ctx.union_list_state("counts")?;
        // Everybody gets all counts; each goes on with those that fall to it, its own first of all.
        let here = ctx.subtask();
        let counts = self.counts.get(&ctx.states()).to_vec();
        let mine = counts.into_iter().filter(|(owner, _)| owner % here.parallelism == here.index).collect();
        self.counts.update(&mut ctx.states(), mine);
        Ok(())
    }

    fn process(
        &mut self,
        record: AuditRecord,
        ctx: &mut OperatorContext<'_>,
        out: &mut Vec<AuditRecord>,
    ) -> Result<(), UserError> {
        if is_kept(&record) {
            self.kept.push(ctx, (record.split, record.offset));
        }
        let index = ctx.subtask().index;
        let counts = self.counts.get_mut(ctx);
        match counts.iter_mut().find(|(owner, _)| *owner == index) {
            Some((_, count)) => *count += 1,
            None => counts.push((index, 1)),
        }
        out.push(record);
        Ok(())
    }
}

/// The smallest and the largest value, and how many there were.
struct Extremes;

impl Aggregate for Extremes {
    type In = i64;
    type Accumulator = (i64, i64, u32);
    type Out = (i64, i64, u32);

    fn create() -> Self::Accumulator {
        (i64::MAX, i64::MIN, 0)
    }
    fn add(accumulator: &mut Self::Accumulator, value: i64) {
        Self::merge(accumulator, (value, value, 1));
    }
    fn merge((least, most, count): &mut Self::Accumulator, other: Self::Accumulator) {
        *least = (*least).min(other.0);
        *most = (*most).max(other.1);
        *count += other.2;
    }
    fn result(accumulator: &Self::Accumulator) -> Self::Out {
        *accumulator
    }
}

/// What the keyed operators put out.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Folded {
    Record(Box<FoldedRecord>),
    EventTimer { key: u32, timestamp: i64 },
    ProcessingTimer { key: u32, timestamp: i64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FoldedRecord {
    record: AuditRecord,
    sequence: u64,
    sum: i64,
    recent: Vec<(u32, u64)>,
    of_split: u64,
    extremes: (i64, i64, u32),
    /// Rules known here: of no consequence, but different if the inputs are merged in another order.
    rules: u64,
    echo: u64,
    /// Records of the key in the last moments, in processing time.
    lately: u64,
}

#[derive(Default)]
struct Fold {
    sequence: ValueState<u64>,
    recent: ListState<(u32, u64)>,
    splits: MapState<u32, u64>,
    sum: ReducingState<i64>,
    extremes: AggregatingState<Extremes>,
    /// Timers ever asked for: each is asked for once, whatever has fired meanwhile.
    asked: MapState<i64, ()>,
    timers: Timers,
    rules: BroadcastState<u64, String>,
    traps: Arc<[Trap]>,
}

impl KeyedBroadcastProcess for Fold {
    type Key = u32;
    type In = AuditRecord;
    type Broadcast = u64;
    type Out = Folded;

    fn open(
        &mut self,
        keyed: &mut OpenContext<'_, u32>,
        operator: &mut OperatorOpenContext<'_>,
    ) -> Result<(), UserError> {
        self.sequence = keyed.value_state("sequence")?;
        self.recent = keyed.list_state("recent")?;
        self.splits = keyed.map_state("splits")?;
        self.sum = keyed.reducing_state("sum", |sum, value| *sum += value)?;
        self.extremes = keyed.aggregating_state("extremes")?;
        self.asked = keyed.map_state("asked")?;
        self.timers = keyed.event_timers()?;
        self.rules = operator.broadcast_state("rules")?;
        Ok(())
    }

    fn process(
        &mut self,
        record: AuditRecord,
        ctx: &mut KeyedContext<'_, u32>,
        operator: &OperatorReadContext<'_>,
        out: &mut Vec<Folded>,
    ) -> Result<(), UserError> {
        for trap in self.traps.iter() {
            trap.touch(&record)?;
        }
        let sequence = self.sequence.get_or_default_mut(ctx)?;
        *sequence += 1;
        let sequence = *sequence;
        self.recent.push(ctx, (record.split, record.offset))?;
        let recent = self.recent.get(ctx)?;
        if recent.len() > RECENT {
            let last = recent[recent.len() - RECENT..].to_vec();
            self.recent.update(ctx, last)?;
        }
        let of_split = self.splits.get(ctx, &record.split)?.copied().unwrap_or(0) + 1;
        self.splits.insert(ctx, record.split, of_split)?;
        self.sum.add(ctx, record.value)?;
        self.extremes.add(ctx, record.value)?;
        let timer = timer_of(&record);
        if !self.asked.contains(ctx, &timer)? {
            self.asked.insert(ctx, timer, ())?;
            self.timers.register(ctx, timer)?;
        }
        out.push(Folded::Record(Box::new(FoldedRecord {
            record,
            sequence,
            sum: self.sum.get(ctx)?.copied().unwrap_or(0),
            recent: self.recent.get(ctx)?.to_vec(),
            of_split,
            extremes: self.extremes.get(ctx)?.unwrap_or_else(Extremes::create),
            rules: self.rules.map(operator).len() as u64,
            echo: 0,
            lately: 0,
        })));
        Ok(())
    }

    fn process_broadcast(
        &mut self,
        rule: u64,
        operator: &mut OperatorContext<'_>,
        _out: &mut Vec<Folded>,
    ) -> Result<(), UserError> {
        self.rules.insert(operator, rule, format!("rule {rule}"));
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        ctx: &mut KeyedContext<'_, u32>,
        _operator: &OperatorReadContext<'_>,
        out: &mut Vec<Folded>,
    ) -> Result<(), UserError> {
        out.push(Folded::EventTimer { key: *ctx.key(), timestamp: timer.timestamp });
        Ok(())
    }
}

/// What a key notes when it asks to be woken: how many records it had seen. In the next version of the job there is more in it.
trait Note: StateValue {
    fn of(echo: u64) -> Self;
    /// Whether one of this or an earlier version can have written it.
    fn is_sound(&self) -> bool;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FirstNote {
    echo: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct NextNote {
    echo: u64,
    /// None: the first version wrote it.
    twice: Option<u64>,
}

impl Note for FirstNote {
    fn of(echo: u64) -> FirstNote {
        FirstNote { echo }
    }
    fn is_sound(&self) -> bool {
        self.echo % WAKE_EVERY == 1
    }
}

impl Note for NextNote {
    fn of(echo: u64) -> NextNote {
        NextNote { echo, twice: Some(2 * echo) }
    }
    fn is_sound(&self) -> bool {
        self.echo % WAKE_EVERY == 1 && self.twice.is_none_or(|twice| twice == 2 * self.echo)
    }
}

/// Counts what comes by, and after each few records asks to be woken in processing time.
struct Echo<N> {
    count: ValueState<u64>,
    asked: MapState<i64, N>,
    lately: TtlReducingState<u64>,
    timers: Timers,
    clock: ProcessingClock,
}

impl<N: Note> Default for Echo<N> {
    fn default() -> Echo<N> {
        let (count, asked, lately) = (ValueState::default(), MapState::default(), TtlReducingState::default());
        Echo { count, asked, lately, timers: Timers::default(), clock: ProcessingClock::default() }
    }
}

/// One of so many records asks.
const WAKE_EVERY: u64 = 4;
/// A key is woken so long after it asked.
const WAKE_MILLIS: i64 = 150;
/// What a key had is forgotten so long after its last record.
const LATELY_MILLIS: u64 = 250;

impl<N: Note> KeyedProcess for Echo<N> {
    type Key = u64;
    type In = Folded;
    type Out = Folded;

    fn open(&mut self, ctx: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.count = ctx.value_state("count")?;
        self.asked = ctx.map_state("asked")?;
        let ttl = Ttl::new(Duration::from_millis(LATELY_MILLIS))
            .cleanup_in_full_snapshot()
            .cleanup_in_rocksdb_compact_filter();
        let ttl = ttl.cleanup_incrementally(2, true);
        self.lately = ctx.ttl_reducing_state("lately", ttl, |sum, more| *sum += more)?;
        self.timers = ctx.processing_timers()?;
        self.clock = ctx.processing_clock();
        Ok(())
    }

    fn process(
        &mut self,
        mut folded: Folded,
        ctx: &mut KeyedContext<'_, u64>,
        out: &mut Vec<Folded>,
    ) -> Result<(), UserError> {
        if let Folded::Record(record) = &mut folded {
            let count = self.count.get_or_default_mut(ctx)?;
            *count += 1;
            record.echo = *count;
            self.lately.add(ctx, 1)?;
            record.lately = self.lately.get(ctx)?.unwrap_or(0);
            let wake = self.clock.now(ctx) + WAKE_MILLIS;
            if record.echo % WAKE_EVERY == 1 && !self.asked.contains(ctx, &wake)? {
                self.asked.insert(ctx, wake, N::of(record.echo))?;
                self.timers.register(ctx, wake)?;
            }
        }
        out.push(folded);
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        ctx: &mut KeyedContext<'_, u64>,
        out: &mut Vec<Folded>,
    ) -> Result<(), UserError> {
        let key = u32::try_from(*ctx.key()).map_err(|_| UserError::new("a key that no record had"))?;
        if !self.asked.get(ctx, &timer.timestamp)?.is_some_and(N::is_sound) {
            return Err(UserError::new(format!("key {key} was woken at {} and does not know why", timer.timestamp)));
        }
        out.push(Folded::ProcessingTimer { key, timestamp: timer.timestamp });
        Ok(())
    }
}

fn key_of(folded: &Folded) -> u64 {
    u64::from(match folded {
        Folded::Record(record) => record.record.key,
        Folded::EventTimer { key, .. } | Folded::ProcessingTimer { key, .. } => *key,
    })
}

fn pairs(pairs: &[(u32, u64)]) -> String {
    pairs.iter().map(|(split, offset)| format!("{split}/{offset}")).collect::<Vec<_>>().join(",")
}

fn write_folded(folded: &Folded, line: &mut Vec<u8>) {
    let text = match folded {
        Folded::Record(folded) => {
            let FoldedRecord { record, sequence, sum, recent, of_split, extremes, rules, echo, lately } = &**folded;
            let AuditRecord { split, offset, key, value } = record;
            let (least, most, count) = extremes;
            format!(
                "r\t{key}\t{sequence}\t{split}\t{offset}\t{value}\t{sum}\t{}\t{of_split}\t{least}\t{most}\t{count}\t{rules}\t{echo}\t{lately}",
                pairs(recent)
            )
        }
        Folded::EventTimer { key, timestamp } => format!("t\t{key}\t{timestamp}"),
        Folded::ProcessingTimer { key, timestamp } => format!("p\t{key}\t{timestamp}"),
    };
    line.extend_from_slice(text.as_bytes());
}

/// The records of a window.
struct Contents;

impl Aggregate for Contents {
    type In = AuditRecord;
    type Accumulator = Vec<(u32, u64)>;
    type Out = Vec<(u32, u64)>;

    fn create() -> Self::Accumulator {
        Vec::new()
    }
    fn add(accumulator: &mut Self::Accumulator, record: AuditRecord) {
        accumulator.push((record.split, record.offset));
    }
    fn merge(accumulator: &mut Self::Accumulator, other: Self::Accumulator) {
        accumulator.extend(other);
    }
    fn result(accumulator: &Self::Accumulator) -> Self::Out {
        accumulator.clone()
    }
}

fn write_windowed(windowed: &Windowed<String, AuditRecord, Vec<(u32, u64)>>, line: &mut Vec<u8>) {
    let text = match windowed {
        Windowed::Fired(fired) => {
            format!("w\t{}\t{}\t{}\t{}", fired.key, fired.window.start, fired.window.end, pairs(&fired.value))
        }
        Windowed::Late(record) => format!("l\t{}\t{}", record.split, record.offset),
    };
    line.extend_from_slice(text.as_bytes());
}

/// Builds the job.
pub(super) fn job(params: &WorkloadParams, input: &AuditInput, traps: &[Trap]) -> Result<Job, JobError> {
    let mut builder = JobBuilder::new(NAME).parallelism(params.parallelism);
    if let Some(max) = params.max_parallelism {
        builder = builder.max_parallelism(max);
    }
    let records = input.clone();
    let mut source = GeneratorSource::new(NAME, input.splits.len() as u32, move |s, o| records.record(s, o));
    let mut rules = GeneratorSource::new("rules", 1, |_, rule| (rule < RULES).then_some(rule));
    if let Some(rate) = params.records_per_second {
        source = source.records_per_second(rate);
        // The last rule comes when half of the records have been read.
        rules = rules.records_per_second(2.0 * rate * RULES as f64 / input.total().max(1) as f64);
    }
    let expected = Duration::from_millis(JITTER_MILLIS.unsigned_abs() / 2);
    let strategy =
        WatermarkStrategy::bounded_out_of_orderness(expected, time_of).idle_after(Duration::from_millis(700));
    // Rules come twice as fast as records in event time, too, so that these seldom wait for them.
    let longest = input.splits.iter().max().copied().unwrap_or(0).cast_signed() * STEP_MILLIS;
    let of_rule = move |rule: &u64| rule.cast_signed() * longest / RULES.cast_signed();
    let rules =
        builder.source_with_watermarks("rules-source", rules, WatermarkStrategy::monotonous(of_rule)).parallelism(1);
    let tallied = builder
        .source_with_watermarks("states-source", source, strategy)
        .parallelism(params.source_parallelism)
        .process("tally", Tally::default);
    let traps: Arc<[Trap]> = traps.to_vec().into();
    let folded = tallied
        .key_by(|record: &AuditRecord| record.key)
        .connect(&rules.broadcast(), "fold", move || Fold { traps: traps.clone(), ..Fold::default() })
        .reinterpret_as_keyed_by(key_of);
    let echoed = match params.next_version {
        false => folded.process("echo", Echo::<FirstNote>::default),
        true => folded.process("echo", Echo::<NextNote>::default),
    };
    echoed.sink(SINK, write_folded);
    let windows = match sessions(params.seed) {
        true => Windows::session(Duration::from_millis(GAP_MILLIS.unsigned_abs())),
        false => Windows::tumbling(Duration::from_millis(WINDOW_MILLIS.unsigned_abs())),
    };
    tallied
        .key_by(window_key)
        .window(windows, time_of)
        .aggregate_with_late::<Contents>("window")
        .sink(WINDOWS, write_windowed);
    builder.build()
}
