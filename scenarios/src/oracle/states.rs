//! The oracle of the states job ([`crate::workloads`]): every kind of managed state, judged by content.
//!
//! Lines of output `states`, separated by tabs: `r` a record with what the states of its key were after it (key, sequence,
//! split, offset, value, sum, recent records, records of its split, smallest and largest value and their count, rules known,
//! count of the second operator, records that it had lately); `t` key, timestamp: an event-time timer fired; `p` the same in processing time. Of
//! output `windows`: `w` key, start, end, records of a window; `l` split, offset: a late record.
//!
//! What must hold. Each record has one `r` line, and the states of a key follow from its lines. Each timer that a key asked
//! for has fired or is pending, never both and never twice; when the job is done all have fired. Each record is in one
//! window that fired, or is late, or is in the contents of one window whose timer is pending. The union counts add up to
//! the records, the split list has exactly the records that belong there, every subtask has the same rules.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use runtime::ids::{CheckpointId, OperatorUid, SplitId};
use serde::de::DeserializeOwned;

use super::{OutputOracle, Wrong};
use crate::{
    invariants::StateEntry,
    workloads::{
        AuditInput, AuditRecord,
        states::{
            GAP_MILLIS, RECENT, RULES, SINK, WINDOW_MILLIS, WINDOWS, is_kept, sessions, time_of, timer_of, window_key,
        },
    },
};

/// A record by its place.
type Place = (u32, u64);

/// What a state holds, encoded: by key.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the lines of a key imply.
#[derive(Clone, Debug, Default)]
struct Key {
    sequence: u64,
    sum: i64,
    recent: Vec<Place>,
    splits: BTreeMap<u32, u64>,
    extremes: Option<(i64, i64)>,
    /// Per split the offset of the last record.
    last: BTreeMap<u32, u64>,
    /// Event-time timers that its records asked for, and those that fired.
    asked: BTreeSet<i64>,
    fired: BTreeSet<i64>,
    /// Processing-time timers that fired.
    woken: BTreeSet<i64>,
}

#[derive(Clone)]
pub struct StatesOracle {
    input: AuditInput,
    seen: BTreeSet<Place>,
    keys: BTreeMap<u32, Key>,
    /// Records that are in a window that fired, or were late.
    windowed: BTreeSet<Place>,
    lines: u64,
}

fn garbled(record: &[u8]) -> Wrong {
    Wrong::new("output", "garbled", format!("not a line of this job: {:?}", String::from_utf8_lossy(record)))
}

fn place(text: &str) -> Option<Place> {
    let (split, offset) = text.split_once('/')?;
    Some((split.parse().ok()?, offset.parse().ok()?))
}

fn places(text: &str) -> Option<Vec<Place>> {
    if text.is_empty() { Some(Vec::new()) } else { text.split(',').map(place).collect() }
}

struct Line {
    key: u32,
    sequence: u64,
    record: AuditRecord,
    sum: i64,
    recent: Vec<Place>,
    of_split: u64,
    extremes: (i64, i64, u64),
    rules: u64,
    echo: u64,
    lately: u64,
}

impl Line {
    fn parse(fields: &[&str]) -> Option<Line> {
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let signed = |at: usize| fields.get(at)?.parse::<i64>().ok();
        let key = u32::try_from(number(0)?).ok()?;
        let split = u32::try_from(number(2)?).ok()?;
        Some(Line {
            key,
            sequence: number(1)?,
            record: AuditRecord { split, offset: number(3)?, key, value: signed(4)? },
            sum: signed(5)?,
            recent: places(fields.get(6)?)?,
            of_split: number(7)?,
            extremes: (signed(8)?, signed(9)?, number(10)?),
            rules: number(11)?,
            echo: number(12)?,
            lately: number(13)?,
        })
    }
}

impl Key {
    fn add(&mut self, line: &Line) -> Result<(), String> {
        let AuditRecord { split, offset, value, .. } = line.record;
        if let Some(last) = self.last.insert(split, offset)
            && last >= offset
        {
            return Err(format!("split {split}: offset {offset} comes after {last}"));
        }
        self.sequence += 1;
        self.sum += value;
        self.recent.push((split, offset));
        if self.recent.len() > RECENT {
            self.recent.remove(0);
        }
        let of_split = self.splits.entry(split).or_default();
        *of_split += 1;
        let (least, most) = self.extremes.unwrap_or((value, value));
        self.extremes = Some((least.min(value), most.max(value)));
        self.asked.insert(timer_of(&line.record));
        let (least, most) = self.extremes.unwrap_or_default();
        let expected = (self.sum, &self.recent, *of_split, (least, most, self.sequence), self.sequence);
        if expected != (line.sum, &line.recent, line.of_split, line.extremes, line.echo) {
            let found = (line.sum, &line.recent, line.of_split, line.extremes, line.echo);
            return Err(format!("after sequence {}: expected {expected:?}, the output says {found:?}", self.sequence));
        }
        // How many of them were lately is for the clock to say.
        if line.lately == 0 || line.lately > self.sequence {
            return Err(format!("{} records lately, of {}", line.lately, self.sequence));
        }
        if line.rules > RULES {
            return Err(format!("{} rules are known, there are {RULES}", line.rules));
        }
        Ok(())
    }
}

impl StatesOracle {
    pub fn new(input: AuditInput) -> StatesOracle {
        StatesOracle { input, seen: BTreeSet::new(), keys: BTreeMap::new(), windowed: BTreeSet::new(), lines: 0 }
    }

    fn record(&self, (split, offset): Place) -> Result<AuditRecord, Wrong> {
        self.input.record(split, offset).ok_or_else(|| {
            Wrong::new(format!("input {split}/{offset}"), "invented", "the output names an input that does not exist")
        })
    }

    fn absorb_states(&mut self, records: &[Bytes]) -> Result<(), Wrong> {
        let (mut lines, mut timers) = (Vec::new(), Vec::new());
        for record in records {
            let text = String::from_utf8_lossy(record).into_owned();
            let fields: Vec<&str> = text.split('\t').collect();
            match fields[..] {
                ["r", ..] => lines.push(Line::parse(&fields[1..]).ok_or_else(|| garbled(record))?),
                [kind @ ("t" | "p"), key, timestamp] => {
                    let parsed = (|| Some((kind == "t", key.parse::<u32>().ok()?, timestamp.parse::<i64>().ok()?)))();
                    timers.push(parsed.ok_or_else(|| garbled(record))?);
                }
                _ => return Err(garbled(record)),
            }
        }
        for line in &lines {
            let place = (line.record.split, line.record.offset);
            let entity = format!("input {}/{}", place.0, place.1);
            if self.record(place)? != line.record {
                return Err(Wrong::new(entity, "garbled", format!("the output says {:?}", line.record)));
            }
            if !self.seen.insert(place) {
                return Err(Wrong::new(entity, "duplicate", "its effect is committed twice"));
            }
        }
        lines.sort_by_key(|line| (line.key, line.sequence));
        for line in &lines {
            let key = self.keys.entry(line.key).or_default();
            let entity = format!("key {}", line.key);
            if line.sequence != key.sequence + 1 {
                let kind = if line.sequence <= key.sequence { "duplicate" } else { "gap" };
                return Err(Wrong::new(entity, kind, format!("sequence {} follows {}", line.sequence, key.sequence)));
            }
            key.add(line).map_err(|message| Wrong::new(entity, "value", message))?;
        }
        for (event, key, timestamp) in timers {
            let entity = format!("timer {timestamp} of key {key}");
            let Some(of_key) = self.keys.get_mut(&key) else {
                return Err(Wrong::new(entity, "timer-invented", "the key has no records"));
            };
            if event && !of_key.asked.contains(&timestamp) {
                return Err(Wrong::new(entity, "timer-invented", "no record asked for it"));
            }
            let fired = if event { &mut of_key.fired } else { &mut of_key.woken };
            if !fired.insert(timestamp) {
                return Err(Wrong::new(entity, "timer-twice", "it fired before"));
            }
        }
        Ok(())
    }

    fn absorb_windows(&mut self, records: &[Bytes]) -> Result<(), Wrong> {
        for record in records {
            let text = String::from_utf8_lossy(record).into_owned();
            let fields: Vec<&str> = text.split('\t').collect();
            let members = match fields[..] {
                ["w", key, start, end, members] => {
                    let parsed = (|| Some((start.parse().ok()?, end.parse().ok()?, places(members)?)))();
                    let (start, end, members) = parsed.ok_or_else(|| garbled(record))?;
                    self.check_window(key, start, end, &members)?;
                    members
                }
                ["l", split, offset] => {
                    vec![place(&format!("{split}/{offset}")).ok_or_else(|| garbled(record))?]
                }
                _ => return Err(garbled(record)),
            };
            for place in members {
                self.record(place)?;
                if !self.windowed.insert(place) {
                    let entity = format!("input {}/{}", place.0, place.1);
                    return Err(Wrong::new(entity, "window-twice", format!("it was in a window before: {text}")));
                }
            }
        }
        Ok(())
    }

    /// Whether a window of a key can hold exactly these records.
    fn check_window(&self, key: &str, start: i64, end: i64, members: &[Place]) -> Result<(), Wrong> {
        let entity = format!("window {start}..{end} of {key}");
        let wrong = |message: String| Wrong::new(&entity, "window-contents", message);
        let mut times = Vec::new();
        for member in members {
            let record = self.record(*member)?;
            if window_key(&record) != key {
                return Err(wrong(format!("{member:?} is of key {}", window_key(&record))));
            }
            times.push(time_of(&record));
        }
        times.sort_unstable();
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return Err(wrong("it is empty".to_string()));
        };
        if sessions(self.input.seed) {
            let apart = times.windows(2).find(|pair| pair[1] - pair[0] > GAP_MILLIS);
            if let Some(pair) = apart {
                return Err(wrong(format!("{} and {} are further apart than the gap", pair[0], pair[1])));
            }
            if (start, end) != (*first, last + GAP_MILLIS) {
                return Err(wrong(format!("its records are from {first} to {last}")));
            }
        } else if start % WINDOW_MILLIS != 0 || end - start != WINDOW_MILLIS || *first < start || *last >= end {
            return Err(wrong(format!("its records are from {first} to {last}")));
        }
        Ok(())
    }

    fn key_states(&self, state: &States) -> Result<(), Wrong> {
        let mut expected: Vec<(&str, &str, Entries)> = Vec::new();
        let by_key = |value: &dyn Fn(&Key) -> Vec<u8>| -> BTreeMap<Vec<u8>, Vec<u8>> {
            self.keys.iter().map(|(key, of_key)| (encoded(key), value(of_key))).collect()
        };
        expected.push(("fold", "sequence", by_key(&|key| encoded(&key.sequence))));
        expected.push(("fold", "recent", by_key(&|key| encoded(&key.recent))));
        expected.push(("fold", "splits", by_key(&|key| encoded(&key.splits))));
        expected.push(("fold", "sum", by_key(&|key| encoded(&key.sum))));
        let extremes = |key: &Key| {
            let (least, most) = key.extremes.unwrap_or_default();
            encoded(&(least, most, key.sequence))
        };
        expected.push(("fold", "extremes", by_key(&extremes)));
        let echo = self.keys.iter().map(|(key, of_key)| (encoded(&u64::from(*key)), encoded(&of_key.sequence)));
        expected.push(("echo", "count", echo.collect()));
        for (operator, name, expected) in expected {
            let found = state.entries(operator, name);
            for (key, value) in &expected {
                match found.get(key) {
                    Some(found) if found == value => {}
                    found => {
                        let entity = format!("{operator} {name} key {key:?}");
                        let kind = if found.is_some() { "state-value" } else { "state-missing" };
                        let message = format!("the output implies {value:?}, the state has {found:?}");
                        return Err(Wrong::new(entity, kind, message));
                    }
                }
            }
            if let Some(extra) = found.keys().find(|key| !expected.contains_key(*key)) {
                let message = "the state has it, the output up to here has not";
                return Err(Wrong::new(format!("{operator} {name} key {extra:?}"), "state-extra", message));
            }
        }
        Ok(())
    }

    /// Timers as sets: what was asked for is what fired and what is pending.
    fn timers(&self, state: &States) -> Result<(), Wrong> {
        let mut asked: BTreeSet<(u64, i64)> = BTreeSet::new();
        let mut fired = BTreeSet::new();
        for (key, of_key) in &self.keys {
            asked.extend(of_key.asked.iter().map(|at| (u64::from(*key), *at)));
            fired.extend(of_key.fired.iter().map(|at| (u64::from(*key), *at)));
        }
        let mut known = BTreeSet::new();
        for (key, value) in state.entries("fold", "asked") {
            let key: u32 = decoded(key, "key of asked")?;
            known.extend(decoded::<BTreeMap<i64, ()>>(value, "asked")?.keys().map(|at| (u64::from(key), *at)));
        }
        same(&asked, &known, "state-value", "timer that a key knows it asked for")?;
        let pending = state.timers::<u32>("fold", "_timer_state/event_user")?;
        let pending = pending.into_iter().map(|(at, key)| (u64::from(key), at)).collect();
        partition(&asked, &fired, &pending, "timer")?;

        let woken = self.keys.iter().flat_map(|(key, k)| k.woken.iter().map(|at| (u64::from(*key), *at))).collect();
        let mut asked = BTreeSet::new();
        for (key, value) in state.entries("echo", "asked") {
            let key: u64 = decoded(key, "key of asked")?;
            // What the job notes with it, in either version: they differ in length.
            let first = decoded::<BTreeMap<i64, u64>>(&value, "asked").map(|asked| asked.into_keys().collect());
            let next = || decoded::<BTreeMap<i64, (u64, Option<u64>)>>(&value, "asked");
            let known: Vec<i64> = first.or_else(|_| next().map(|asked| asked.into_keys().collect()))?;
            asked.extend(known.into_iter().map(|at| (key, at)));
        }
        let pending = state.timers::<u64>("echo", "_timer_state/processing_user")?;
        let pending = pending.into_iter().map(|(at, key)| (key, at)).collect();
        partition(&asked, &woken, &pending, "processing-time timer")
    }

    /// Records are in windows that fired, late, or in contents, each of which has its timer.
    fn windows(&self, state: &States) -> Result<(), Wrong> {
        type Window = (String, (i64, i64));
        let mut inside = BTreeSet::new();
        let mut windows: BTreeSet<Window> = BTreeSet::new();
        for (key, value) in state.entries("window", "window-contents") {
            let window: Window = decoded(key, "key of a window")?;
            let members: Vec<Place> = decoded(value, "contents of a window")?;
            self.check_window(&window.0, window.1.0, window.1.1, &members)?;
            for member in members {
                if !inside.insert(member) {
                    let entity = format!("input {}/{}", member.0, member.1);
                    return Err(Wrong::new(entity, "window-twice", "it is twice in the contents of windows"));
                }
            }
            windows.insert(window);
        }
        partition(&self.seen, &self.windowed, &inside, "record in a window")?;
        let timers = state.timers::<Window>("window", "_timer_state/event_windows")?;
        let late = timers.iter().find(|(at, window)| *at != window.1.1 - 1);
        if let Some((at, window)) = late {
            return Err(Wrong::new(format!("{window:?}"), "timer-invented", format!("its timer is at {at}")));
        }
        let timed: BTreeSet<Window> = timers.into_iter().map(|(_, window)| window).collect();
        same(&windows, &timed, "timer-lost", "window with a timer")?;
        if sessions(self.input.seed) {
            let mut known = BTreeSet::new();
            for (key, value) in state.entries("window", "window-sessions") {
                let key: String = decoded(key, "key of sessions")?;
                let of_key: BTreeMap<(i64, i64), ()> = decoded(value, "sessions")?;
                known.extend(of_key.into_keys().map(|window| (key.clone(), window)));
            }
            same(&windows, &known, "state-value", "session")?;
        }
        Ok(())
    }

    fn operator_states(&self, state: &States) -> Result<(), Wrong> {
        let mut total = 0;
        let mut owners = BTreeSet::new();
        for value in state.entries("tally", "counts").values() {
            let (owner, count): (u32, u64) = decoded(value, "count")?;
            if !owners.insert(owner) {
                let message = "two subtasks have it";
                return Err(Wrong::new(format!("union count of {owner}"), "union-cardinality", message));
            }
            total += count;
        }
        if total != self.seen.len() as u64 {
            let message = format!("they add up to {total}, the output has {} records", self.seen.len());
            return Err(Wrong::new("union counts", "union-cardinality", message));
        }
        let mut kept = BTreeSet::new();
        for value in state.entries("tally", "kept").values() {
            let place: Place = decoded(value, "kept record")?;
            if !kept.insert(place) {
                let message = "it is there twice";
                return Err(Wrong::new(format!("kept record {}/{}", place.0, place.1), "split-cardinality", message));
            }
        }
        let mut expected = BTreeSet::new();
        for place in &self.seen {
            if is_kept(&self.record(*place)?) {
                expected.insert(*place);
            }
        }
        same(&expected, &kept, "split-cardinality", "kept record")?;

        let mut rules: BTreeMap<u32, BTreeMap<u64, String>> = BTreeMap::new();
        let mut parallelism = 0;
        for (key, value) in state.entries("fold", "rules") {
            let (index, of, _): (u32, u32, u64) = decoded(key, "place of a rule")?;
            let (rule, text): (u64, String) = decoded(value, "rule")?;
            parallelism = of;
            rules.entry(index).or_default().insert(rule, text);
        }
        let one = rules.values().next().cloned().unwrap_or_default();
        let whole = one.len() as u64 <= RULES
            && (0..).zip(&one).all(|(n, (rule, text))| n == *rule && *text == format!("rule {n}"));
        if !whole || rules.len() != parallelism as usize || rules.values().any(|of_subtask| *of_subtask != one) {
            let message = format!("not the same first rules in each of {parallelism} subtasks: {rules:?}");
            return Err(Wrong::new("rules", "broadcast-cardinality", message));
        }
        Ok(())
    }
}

/// The entries of a checkpoint by operator and state.
struct States(BTreeMap<(String, String), BTreeMap<Vec<u8>, Vec<u8>>>);

impl States {
    fn of(entries: &[StateEntry]) -> Result<States, Wrong> {
        let mut states: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for StateEntry { operator: OperatorUid(operator), state, key, value } in entries {
            let of_state = states.entry((operator.clone(), state.clone())).or_default();
            if of_state.insert(key.clone(), value.clone()).is_some() {
                let message = "two parts of the state have it";
                return Err(Wrong::new(format!("{operator} {state} key {key:?}"), "state-twice", message));
            }
        }
        Ok(States(states))
    }

    fn entries(&self, operator: &str, state: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.0.get(&(operator.to_string(), state.to_string())).cloned().unwrap_or_default()
    }

    /// The rows of a queue: timestamp, and key with namespace.
    fn timers<K: DeserializeOwned + Ord>(&self, operator: &str, queue: &str) -> Result<BTreeSet<(i64, K)>, Wrong> {
        let mut timers = BTreeSet::new();
        for row in self.entries(operator, queue).keys() {
            let garbled = || Wrong::new(queue, "state-garbled", format!("row {row:?}"));
            let (at, rest) = row.split_at_checked(8).ok_or_else(garbled)?;
            let at = u64::from_be_bytes(at.try_into().map_err(|_| garbled())?) ^ (1 << 63);
            timers.insert((at.cast_signed(), decoded(rest, "timer")?));
        }
        Ok(timers)
    }
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("numbers always encode")
}

fn decoded<T: DeserializeOwned>(bytes: impl AsRef<[u8]>, what: &str) -> Result<T, Wrong> {
    let bytes = bytes.as_ref();
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Wrong::new(what, "state-garbled", format!("{bytes:?}"))),
    }
}

fn same<T: Ord + std::fmt::Debug>(
    expected: &BTreeSet<T>,
    found: &BTreeSet<T>,
    kind: &'static str,
    what: &str,
) -> Result<(), Wrong> {
    if let Some(missing) = expected.difference(found).next() {
        return Err(Wrong::new(format!("{what} {missing:?}"), kind, "the state does not have it"));
    }
    match found.difference(expected).next() {
        Some(extra) => Err(Wrong::new(format!("{what} {extra:?}"), kind, "only the state has it")),
        None => Ok(()),
    }
}

/// Everything in `all` is in exactly one of `out` (seen in the output) and `pending` (in the state), and nothing else is.
fn partition<T: Ord + Clone + std::fmt::Debug>(
    all: &BTreeSet<T>,
    out: &BTreeSet<T>,
    pending: &BTreeSet<T>,
    what: &str,
) -> Result<(), Wrong> {
    if let Some(both) = out.intersection(pending).next() {
        return Err(Wrong::new(format!("{what} {both:?}"), "pending-twice", "it is in the output and still pending"));
    }
    let found: BTreeSet<T> = out.union(pending).cloned().collect();
    if let Some(lost) = all.difference(&found).next() {
        return Err(Wrong::new(format!("{what} {lost:?}"), "pending-lost", "it is neither in the output nor pending"));
    }
    match found.difference(all).next() {
        Some(extra) => Err(Wrong::new(format!("{what} {extra:?}"), "pending-extra", "nothing asked for it")),
        None => Ok(()),
    }
}

impl OutputOracle for StatesOracle {
    fn absorb(&mut self, sink: &str, _epoch: CheckpointId, records: &[Bytes]) -> Result<(), Wrong> {
        match sink {
            SINK => self.absorb_states(records)?,
            WINDOWS => self.absorb_windows(records)?,
            _ => return Err(Wrong::new(sink, "invented", "the job has no such output")),
        }
        self.lines += records.len() as u64;
        Ok(())
    }

    fn covers(&self, positions: &BTreeMap<SplitId, u64>) -> Result<(), Wrong> {
        let mut below = 0;
        for split in 0..self.input.splits.len() as u32 {
            let id = self.input.split_id(split);
            let Some(position) = positions.get(&id).copied() else {
                return Err(Wrong::new(id.0, "position", format!("no position of it among {positions:?}")));
            };
            below += position;
            if let Some(missing) = (0..position).find(|offset| !self.seen.contains(&(split, *offset))) {
                let message = format!("its effect is missing although the source stood at {position}");
                return Err(Wrong::new(format!("input {split}/{missing}"), "missing", message));
            }
        }
        if self.seen.len() as u64 != below {
            let message = format!("the output has {} records, the sources stood at {positions:?}", self.seen.len());
            return Err(Wrong::new("output", "early", message));
        }
        match self.windowed.difference(&self.seen).next() {
            Some((split, offset)) => {
                let message = "it is in a window although the source had not read it";
                Err(Wrong::new(format!("input {split}/{offset}"), "early", message))
            }
            None => Ok(()),
        }
    }

    fn complete(&self) -> Result<(), Wrong> {
        let lack = self.input.total() - self.seen.len() as u64;
        if lack > 0 {
            let message = format!("the job is done, {lack} inputs are not in the output");
            return Err(Wrong::new("output", "missing", message));
        }
        for (key, of_key) in &self.keys {
            if let Some(timer) = of_key.asked.difference(&of_key.fired).next() {
                let message = "the job is done, it has not fired";
                return Err(Wrong::new(format!("timer {timer} of key {key}"), "timer-lost", message));
            }
        }
        match self.seen.difference(&self.windowed).next() {
            Some((split, offset)) => {
                let message = "the job is done, it is in no window that fired, nor late";
                Err(Wrong::new(format!("input {split}/{offset}"), "missing", message))
            }
            None => Ok(()),
        }
    }

    fn state(&self, state: &[StateEntry]) -> Result<(), Wrong> {
        let state = States::of(state)?;
        self.key_states(&state)?;
        self.timers(&state)?;
        self.windows(&state)?;
        self.operator_states(&state)
    }

    fn continues(&self, before: &[StateEntry], after: &[StateEntry]) -> Result<(), Wrong> {
        // Sequences only rise. Timers and windows come and go.
        let sequences = |entries: &[StateEntry]| -> BTreeMap<Vec<u8>, u64> {
            let of_fold = entries.iter().filter(|entry| entry.operator.0 == "fold" && entry.state == "sequence");
            of_fold.filter_map(|entry| Some((entry.key.clone(), postcard::from_bytes(&entry.value).ok()?))).collect()
        };
        let after = sequences(after);
        for (key, sequence) in sequences(before) {
            if after.get(&key).is_none_or(|now| *now < sequence) {
                let message =
                    format!("the checkpoint restored had {sequence} records of it, the next one {:?}", after.get(&key));
                return Err(Wrong::new(format!("fold key {key:?}"), "state-gone", message));
            }
        }
        Ok(())
    }

    fn fork(&self) -> Box<dyn OutputOracle> {
        Box::new(self.clone())
    }

    fn records(&self) -> u64 {
        self.lines
    }
}
