//! Timers and windows in whole jobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    driver::{Driver, JobSnapshot},
    *,
};
use crate::{
    connectors::GeneratorSource,
    dataflow::chain::TimeMove,
    graph::Job,
    state::{Aggregate, AggregatingState, ProcessingClock, ReducingState, TimeDomain, Timers},
};

/// Registers what its records say, and puts out what fires.
#[derive(Default)]
struct Alarms {
    event: Timers,
    processing: Timers,
    clock: ProcessingClock,
    fired: ReducingState<u64>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Ask {
    Event(i64),
    DeleteEvent(i64),
    Processing(i64),
}

impl KeyedProcess for Alarms {
    type Key = u32;
    type In = (u32, Ask);
    type Out = String;

    fn open(&mut self, ctx: &mut OpenContext<'_, u32>) -> Result<(), UserError> {
        self.event = ctx.event_timers()?;
        self.processing = ctx.processing_timers()?;
        self.clock = ctx.processing_clock();
        self.fired = ctx.reducing_state("fired", |sum, more| *sum += more)?;
        Ok(())
    }

    fn process(
        &mut self,
        (_, ask): (u32, Ask),
        ctx: &mut KeyedContext<'_, u32>,
        _out: &mut Vec<String>,
    ) -> Result<(), UserError> {
        match ask {
            Ask::Event(time) => self.event.register(ctx, time)?,
            Ask::DeleteEvent(time) => self.event.delete(ctx, time)?,
            Ask::Processing(time) => self.processing.register(ctx, time)?,
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: FiredTimer,
        ctx: &mut KeyedContext<'_, u32>,
        out: &mut Vec<String>,
    ) -> Result<(), UserError> {
        self.fired.add(ctx, 1)?;
        let nth = *self.fired.get(ctx)?.unwrap();
        let now = match timer.domain {
            TimeDomain::Event => ctx.watermark(),
            TimeDomain::Processing => self.clock.now(ctx),
        };
        out.push(format!("{}:{}@{now}#{nth}", ctx.key(), timer.timestamp));
        if timer.domain == TimeDomain::Event && timer.timestamp == 30 {
            // Due already: fires in the same move of time.
            self.event.register(ctx, 31)?;
        }
        Ok(())
    }
}

fn alarms(parallelism: u32, asks: Vec<(u32, Ask)>) -> Job {
    let builder = JobBuilder::new("alarms").parallelism(parallelism).max_parallelism(32);
    let source = GeneratorSource::new("asks", 1, move |_, offset| asks.get(offset as usize).copied());
    builder
        .source("asks", source)
        .key_by(|(key, _)| *key)
        .process("alarms", Alarms::default)
        .sink("fired", |line, out| out.extend_from_slice(line.as_bytes()));
    builder.build().unwrap()
}

fn fired(driver: &mut Driver) -> Vec<String> {
    let mut lines = driver.lines.remove("fired").unwrap_or_default();
    lines.sort();
    lines
}

#[test]
fn timers_fire_once_each_when_their_time_has_come() {
    let asks = [(1, 10), (1, 20), (1, 10), (2, 20), (2, 30), (3, 40)].map(|(k, t)| (k, Ask::Event(t)));
    let mut asks = asks.to_vec();
    asks.push((1, Ask::DeleteEvent(20)));
    asks.push((3, Ask::Processing(500)));
    let mut driver = Driver::open(&alarms(2, asks.clone()), &JobSnapshot::default()).unwrap();
    driver.run(3).unwrap();
    driver.advance(TimeMove::Watermark(9)).unwrap();
    assert_eq!(fired(&mut driver), Vec::<String>::new());
    driver.advance(TimeMove::Watermark(35)).unwrap();
    assert_eq!(fired(&mut driver), ["1:10@35#1", "2:20@35#1", "2:30@35#2", "2:31@35#3"]);
    driver.advance(TimeMove::Watermark(36)).unwrap();
    assert_eq!(fired(&mut driver), Vec::<String>::new());

    // What has not fired survives a restore at another parallelism; what has passed meanwhile fires at once.
    let later = alarms(3, asks);
    let mut restored = Driver::open(&later, &driver.snapshot().unwrap().for_job(&later)).unwrap();
    let next: Vec<i64> = restored.chains.values_mut().filter_map(|chain| chain.next_processing_timer()).collect();
    assert_eq!(next, [500]);
    let needing: usize = restored.chains.values_mut().map(|chain| usize::from(chain.needs_processing_time())).sum();
    assert_eq!(needing, 3);
    restored.advance(TimeMove::Processing(900)).unwrap();
    assert_eq!(fired(&mut restored), ["3:500@900#1"]);
    restored.advance(TimeMove::Watermark(i64::MAX)).unwrap();
    assert_eq!(fired(&mut restored), [format!("3:40@{}#2", i64::MAX)]);
}

/// The numbers of the records in a window.
struct Collect;

impl Aggregate for Collect {
    type In = Event;
    type Accumulator = Vec<u64>;
    type Out = Vec<u64>;

    fn create() -> Vec<u64> {
        Vec::new()
    }
    fn add(accumulator: &mut Vec<u64>, event: Event) {
        accumulator.push(event.number);
    }
    fn merge(accumulator: &mut Vec<u64>, other: Vec<u64>) {
        accumulator.extend(other);
    }
    fn result(accumulator: &Vec<u64>) -> Vec<u64> {
        let mut numbers = accumulator.clone();
        numbers.sort_unstable();
        numbers
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Event {
    number: u64,
    key: u32,
    time: i64,
}

type Out = Windowed<u32, Event, Vec<u64>>;

fn windowed(parallelism: u32, windows: Windows, lateness: i64, events: &Arc<Vec<Event>>) -> Job {
    let events = events.clone();
    let builder = JobBuilder::new("windowed").parallelism(parallelism).max_parallelism(16);
    builder
        .source("events", GeneratorSource::new("e", 1, move |_, offset| events.get(offset as usize).copied()))
        .key_by(|event| event.key)
        .window(windows, |event| event.time)
        .allowed_lateness(Duration::from_millis(lateness as u64))
        .aggregate_with_late::<Collect>("windows")
        .sink("out", |out, line| line.extend_from_slice(serde_json::to_string(out).unwrap().as_bytes()));
    builder.build().unwrap()
}

fn outputs(driver: &Driver) -> Vec<Out> {
    driver.lines.get("out").into_iter().flatten().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How the story goes: so many records, then a move of event time by so much, then perhaps a restore at this parallelism.
type Act = (usize, i64, Option<u32>);

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let restore = proptest::option::weighted(0.25, 1..4u32);
    proptest::collection::vec((0..6usize, 0..25i64, restore), 1..12)
}

fn events() -> impl Strategy<Value = Arc<Vec<Event>>> {
    let numbered = |times: Vec<(u32, i64)>| {
        let event = |(number, (key, time)): (u64, (u32, i64))| Event { number, key, time };
        Arc::new((0..).zip(times).map(event).collect::<Vec<_>>())
    };
    proptest::collection::vec((0..4u32, -20..120i64), 0..60).prop_map(numbered)
}

/// Runs the story; gives what came out, and the watermark at which each record was processed.
fn play(windows: Windows, lateness: i64, events: &Arc<Vec<Event>>, acts: &[Act]) -> (Vec<Out>, BTreeMap<u64, i64>) {
    let mut driver = Driver::open(&windowed(2, windows, lateness, events), &JobSnapshot::default()).unwrap();
    let (mut out, mut seen_at) = (Vec::new(), BTreeMap::new());
    let (mut watermark, mut next, mut highest) = (i64::MIN, 0u64, -20);
    for (records, ahead, restore) in acts {
        for _ in 0..*records {
            if driver.step(1).unwrap() {
                seen_at.insert(next, watermark);
                next += 1;
            }
        }
        highest += ahead;
        if highest > watermark {
            watermark = highest;
            driver.advance(TimeMove::Watermark(watermark)).unwrap();
        }
        if let Some(parallelism) = restore {
            out.extend(outputs(&driver));
            let later = windowed(*parallelism, windows, lateness, events);
            driver = Driver::open(&later, &driver.snapshot().unwrap().for_job(&later)).unwrap();
            // Event time begins anew.
            watermark = i64::MIN;
        }
    }
    while driver.step(1).unwrap() {
        seen_at.insert(next, watermark);
        next += 1;
    }
    driver.advance(TimeMove::Watermark(i64::MAX)).unwrap();
    out.extend(outputs(&driver));
    (out, seen_at)
}

fn late(out: &[Out]) -> BTreeSet<u64> {
    out.iter().filter_map(|o| if let Windowed::Late(event) = o { Some(event.number) } else { None }).collect()
}

proptest! {
    /// R79: the contents of windows and their timers are managed state: restored in the middle, at any parallelism, they go on. The last
    /// result of each window holds exactly the records that came while the window was there; a record is late if and only if all its
    /// windows had gone.
    #[test]
    fn fixed_windows_hold_what_came_in_time(
        events in events(),
        acts in acts(),
        size in 1..30i64,
        slide in proptest::option::of(1..30i64),
        lateness in 0..30i64,
    ) {
        let windows = match slide {
            None => Windows::Tumbling { size, offset: 0 },
            Some(slide) => Windows::Sliding { size, slide, offset: 0 },
        };
        let (out, seen_at) = play(windows, lateness, &events, &acts);
        let mut expected: BTreeMap<(u32, TimeWindow), Vec<u64>> = BTreeMap::new();
        let mut expected_late = BTreeSet::new();
        for event in events.iter() {
            let assigned = windows.assign(event.time);
            let alive: Vec<_> = assigned.iter().filter(|w| w.max_timestamp() + lateness > seen_at[&event.number]).collect();
            if alive.is_empty() && !assigned.is_empty() {
                expected_late.insert(event.number);
            }
            for window in alive {
                expected.entry((event.key, *window)).or_default().push(event.number);
            }
        }
        // Each result has what the one before had, and more; or nothing of it: the window had gone, and came again with
        // records that a restored job saw before its event time moved.
        let mut previous: BTreeMap<(u32, TimeWindow), Vec<u64>> = BTreeMap::new();
        let mut all: BTreeMap<(u32, TimeWindow), Vec<u64>> = BTreeMap::new();
        for fired in out.iter().filter_map(|o| if let Windowed::Fired(result) = o { Some(result) } else { None }) {
            let place = (fired.key, fired.window);
            prop_assert!(fired.value.windows(2).all(|pair| pair[0] < pair[1]), "a record twice in {:?}", fired);
            let before = previous.insert(place, fired.value.clone()).unwrap_or_default();
            let kept = before.iter().filter(|n| fired.value.contains(n)).count();
            prop_assert!(kept == before.len() || kept == 0, "{:?} after {:?}", fired, before);
            let all = all.entry(place).or_default();
            all.extend(&fired.value);
            all.sort_unstable();
            all.dedup();
        }
        let last = all;
        prop_assert_eq!(late(&out), expected_late);
        prop_assert_eq!(last, expected);
    }

    /// R79: so are the windows that a key has, if they merge. Each record in time is in one session, which spans exactly its records, none
    /// further than the gap from the next.
    #[test]
    fn sessions_merge(events in events(), acts in acts(), gap in 1..30i64) {
        let windows = Windows::Session { gap };
        let (out, _) = play(windows, 0, &events, &acts);
        let mut found = late(&out);
        for fired in out.iter().filter_map(|o| if let Windowed::Fired(result) = o { Some(result) } else { None }) {
            let mut times: Vec<i64> = fired.value.iter().map(|n| events[*n as usize].time).collect();
            times.sort_unstable();
            prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= gap), "{:?} of {:?}", fired, times);
            let span = TimeWindow { start: times[0], end: times[times.len() - 1] + gap };
            prop_assert_eq!(fired.window, span);
            for number in &fired.value {
                prop_assert_eq!(events[*number as usize].key, fired.key);
                prop_assert!(found.insert(*number), "record {} is in two sessions, or late too", number);
            }
        }
        prop_assert_eq!(found.len(), events.len());
    }
}

#[test]
fn a_late_record_within_the_allowed_lateness_fires_again_and_others_are_counted() {
    let event = |number, time| Event { number, key: 1, time };
    let events = Arc::new(vec![event(0, 5), event(1, 7), event(2, 3), event(3, 2)]);
    let windows = Windows::Tumbling { size: 10, offset: 0 };
    let mut driver = Driver::open(&windowed(1, windows, 5, &events), &JobSnapshot::default()).unwrap();
    driver.step(2).unwrap();
    driver.advance(TimeMove::Watermark(10)).unwrap();
    driver.step(1).unwrap();
    driver.advance(TimeMove::Watermark(14)).unwrap();
    driver.step(1).unwrap();
    let result = |value: &[u64]| {
        let window = TimeWindow { start: 0, end: 10 };
        Windowed::Fired(WindowResult { key: 1, window, value: value.to_vec() })
    };
    let out = outputs(&driver);
    assert_eq!(out.len(), 3);
    assert!(matches!(&out[0], Windowed::Fired(r) if Windowed::<u32, (), _>::Fired(r.clone()) == result(&[0, 1])));
    assert!(matches!(&out[1], Windowed::Fired(r) if Windowed::<u32, (), _>::Fired(r.clone()) == result(&[0, 1, 2])));
    assert!(matches!(&out[2], Windowed::Late(event) if event.number == 3));
    let late: u64 = driver.chains.values_mut().map(|chain| chain.take_late_records()).sum();
    assert_eq!(late, 1);
}

/// Mean of what a key had.
struct Mean;

impl Aggregate for Mean {
    type In = i64;
    type Accumulator = (i64, i64);
    type Out = i64;

    fn create() -> (i64, i64) {
        (0, 0)
    }
    fn add((sum, count): &mut (i64, i64), value: i64) {
        *sum += value;
        *count += 1;
    }
    fn merge((sum, count): &mut (i64, i64), other: (i64, i64)) {
        *sum += other.0;
        *count += other.1;
    }
    fn result((sum, count): &(i64, i64)) -> i64 {
        sum / count
    }
}

#[derive(Default)]
struct Means {
    mean: AggregatingState<Mean>,
}

impl KeyedProcess for Means {
    type Key = u32;
    type In = (u32, i64);
    type Out = i64;

    fn open(&mut self, ctx: &mut OpenContext<'_, u32>) -> Result<(), UserError> {
        self.mean = ctx.aggregating_state("mean")?;
        Ok(())
    }

    fn process(
        &mut self,
        (_, value): (u32, i64),
        ctx: &mut KeyedContext<'_, u32>,
        out: &mut Vec<i64>,
    ) -> Result<(), UserError> {
        if value < 0 {
            self.mean.clear(ctx)?;
        } else {
            self.mean.add(ctx, value)?;
        }
        out.push(self.mean.get(ctx)?.unwrap_or(-1));
        Ok(())
    }
}

#[test]
fn aggregating_state_combines_what_is_added() {
    let values = [(1, 10), (1, 20), (2, 7), (1, 60), (1, -1), (1, 5)];
    let builder = JobBuilder::new("means");
    builder
        .source("values", GeneratorSource::new("v", 1, move |_, offset| values.get(offset as usize).copied()))
        .key_by(|(key, _)| *key)
        .process("means", Means::default)
        .sink("out", |mean, line| line.extend_from_slice(mean.to_string().as_bytes()));
    let mut driver = Driver::open(&builder.build().unwrap(), &JobSnapshot::default()).unwrap();
    driver.run(4).unwrap();
    assert_eq!(driver.lines["out"], ["10", "15", "7", "30", "-1", "5"]);
}
