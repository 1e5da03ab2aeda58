//! Reads the splits of a source subtask: in fair turns, with input bytes fetched ahead, within a rate limit.
//!
//! The chain decides what it reads; the driver decides which split is next and fetches the bytes that a split asks for. A
//! split that waits for bytes holds up no other.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::{
    chain::{Chain, ChainError, SourcePoll},
    outputs::Outputs,
    task::{TaskFailure, TaskSettings},
};
use crate::platform::{Fut, Mono, Platform, StoreError, TimedOut, timeout};

/// What a turn gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceTurn {
    /// So many records of this split (by position among the subtask's splits) were read.
    Read { split: u32, records: u32 },
    /// Bytes were asked for or handed over, or a split has ended; another turn may give more.
    Progress,
    /// No split can go on before its bytes have come.
    Waiting,
    /// The rate limit allows the next record then.
    NotBefore(Mono),
    /// All splits have ended.
    Exhausted,
}

/// A range of an input file.
type Piece = (String, Range<u64>);

struct Fetch {
    piece: Piece,
    bytes: Fut<'static, Result<Bytes, TaskFailure>>,
}

enum SplitState {
    Ready,
    Waiting(Piece),
    Ended,
}

struct Split {
    state: SplitState,
    fetch: Option<Fetch>,
    /// Fetched and not asked for yet.
    ahead: Option<(Piece, Bytes)>,
    /// The piece handed over last: the next one continuing it shows that the split is read in sequence.
    last: Option<Piece>,
}

/// Records per second, by the clock.
struct RateLimit {
    nanos_per_record: u64,
    /// Up to where the allowance is used up. Never further back than `burst_nanos` from now.
    used_until: Mono,
    /// Records read at once, at least.
    quantum: u64,
    burst_nanos: u64,
}

/// Unused allowance is forgotten after this.
const BURST: Duration = Duration::from_millis(100);
/// High rates are read in batches of at least so much time.
const QUANTUM: Duration = Duration::from_millis(10);

impl RateLimit {
    fn new(records_per_second: f64, now: Mono) -> Option<RateLimit> {
        if !records_per_second.is_finite() || records_per_second <= 0.0 {
            return None;
        }
        // From one record in about 30 years to one per nanosecond.
        let nanos_per_record = (1e9 / records_per_second).clamp(1.0, 1e18) as u64;
        let quantum = (QUANTUM.as_nanos() as u64 / nanos_per_record).max(1);
        // One quantum must always fit, else a slow source would never read.
        let burst_nanos = (BURST.as_nanos() as u64).max(nanos_per_record.saturating_mul(quantum));
        Some(RateLimit { nanos_per_record, used_until: now, quantum, burst_nanos })
    }

    /// How many records may be read now, or when to ask again.
    fn allowance(&mut self, now: Mono) -> Result<u32, Mono> {
        let earliest = Mono(now.0.saturating_sub(self.burst_nanos).max(self.used_until.0));
        self.used_until = earliest;
        let records = now.0.saturating_sub(earliest.0) / self.nanos_per_record;
        if records >= self.quantum {
            Ok(u32::try_from(records).unwrap_or(u32::MAX))
        } else {
            Err(Mono(earliest.0.saturating_add(self.nanos_per_record.saturating_mul(self.quantum))))
        }
    }

    fn used(&mut self, records: u32) {
        let nanos = self.nanos_per_record.saturating_mul(u64::from(records));
        self.used_until = Mono(self.used_until.0.saturating_add(nanos));
    }
}

/// The reading side of a source subtask.
pub struct SourceDriver {
    platform: Platform,
    settings: TaskSettings,
    splits: Vec<Split>,
    next: usize,
    rate: Option<RateLimit>,
}

impl SourceDriver {
    /// For a chain that reads so many splits, at most at `rate_limit` records a second.
    pub fn new(platform: Platform, settings: TaskSettings, splits: usize, rate_limit: Option<f64>) -> SourceDriver {
        let now = platform.clock.now();
        let splits =
            (0..splits).map(|_| Split { state: SplitState::Ready, fetch: None, ahead: None, last: None }).collect();
        SourceDriver { platform, settings, splits, next: 0, rate: rate_limit.and_then(|r| RateLimit::new(r, now)) }
    }

    /// How many splits the subtask has.
    pub fn splits(&self) -> u32 {
        u32::try_from(self.splits.len()).unwrap_or(u32::MAX)
    }

    /// Whether every split has been read to its end.
    pub fn is_exhausted(&self) -> bool {
        self.splits.iter().all(|s| matches!(s.state, SplitState::Ended))
    }

    /// Hands bytes that have come to the chain. True if there were any.
    ///
    /// # Errors
    /// [`TaskFailure`] if an input cannot be read or the chain refuses it.
    pub fn poll_fetches(&mut self, cx: &mut Context<'_>, chain: &mut dyn Chain) -> Result<bool, TaskFailure> {
        let mut any = false;
        for position in 0..self.splits.len() {
            let split = &mut self.splits[position];
            let Some(fetch) = &mut split.fetch else { continue };
            let Poll::Ready(bytes) = Pin::new(&mut fetch.bytes).poll(cx) else { continue };
            let Some(Fetch { piece, .. }) = split.fetch.take() else { continue };
            split.ahead = Some((piece, bytes?));
            any = true;
            self.supply(position, chain)?;
        }
        Ok(any)
    }

    /// Reads up to `batch` records of the split whose turn it is.
    ///
    /// # Errors
    /// [`TaskFailure`] from the chain.
    pub fn turn(
        &mut self,
        batch: u32,
        now: Mono,
        chain: &mut dyn Chain,
        out: &mut Outputs,
    ) -> Result<SourceTurn, TaskFailure> {
        let mut waiting = false;
        for _ in 0..self.splits.len() {
            let position = self.next;
            match self.splits[position].state {
                SplitState::Ended => {}
                SplitState::Waiting(_) => waiting = true,
                SplitState::Ready => {
                    let batch = match self.rate.as_mut().map(|r| r.allowance(now)) {
                        None => batch,
                        Some(Ok(allowed)) => batch.min(allowed),
                        Some(Err(then)) => return Ok(SourceTurn::NotBefore(then)),
                    };
                    self.advance();
                    let turn = self.read(position, batch, chain, out)?;
                    if let (SourceTurn::Read { records, .. }, Some(rate)) = (turn, &mut self.rate) {
                        rate.used(records);
                    }
                    return Ok(turn);
                }
            }
            self.advance();
        }
        Ok(if waiting { SourceTurn::Waiting } else { SourceTurn::Exhausted })
    }

    /// Reads from one split only, as a replay asks for; no rate limit.
    ///
    /// # Errors
    /// [`TaskFailure`] from the chain, or because there is no such split.
    pub fn turn_of(
        &mut self,
        split: u32,
        batch: u32,
        chain: &mut dyn Chain,
        out: &mut Outputs,
    ) -> Result<SourceTurn, TaskFailure> {
        match self.splits.get(split as usize).map(|s| &s.state) {
            None => Err(TaskFailure::User(format!(
                "the replay asks for split {split} of a source subtask that has {}; the job's splits were changed",
                self.splits.len()
            ))),
            Some(SplitState::Ended) => Ok(SourceTurn::Exhausted),
            Some(SplitState::Waiting(_)) => Ok(SourceTurn::Waiting),
            Some(SplitState::Ready) => self.read(split as usize, batch, chain, out),
        }
    }

    fn advance(&mut self) {
        self.next = (self.next + 1) % self.splits.len();
    }

    fn read(
        &mut self,
        position: usize,
        batch: u32,
        chain: &mut dyn Chain,
        out: &mut Outputs,
    ) -> Result<SourceTurn, TaskFailure> {
        let split = position as u32;
        match chain.poll_source(split, batch, out).map_err(user)? {
            SourcePoll::Records(0) => Err(TaskFailure::User(format!(
                "the source returned zero records from its split {split}; it must return some, ask for input, or end"
            ))),
            SourcePoll::Records(records) => Ok(SourceTurn::Read { split, records }),
            SourcePoll::Exhausted => {
                let ended = &mut self.splits[position];
                ended.state = SplitState::Ended;
                ended.fetch = None;
                ended.ahead = None;
                Ok(SourceTurn::Progress)
            }
            SourcePoll::NeedInput { path, range } => {
                self.splits[position].state = SplitState::Waiting((path, range));
                self.supply(position, chain)?;
                Ok(SourceTurn::Progress)
            }
        }
    }

    /// Feeds a waiting split from what is here, or asks for it; asks ahead for a split that is read in sequence.
    fn supply(&mut self, position: usize, chain: &mut dyn Chain) -> Result<(), TaskFailure> {
        let split = &mut self.splits[position];
        let SplitState::Waiting(wanted) = &split.state else { return Ok(()) };
        match split.ahead.take() {
            Some((piece, bytes)) if piece == *wanted => {
                let in_sequence =
                    split.last.as_ref().is_some_and(|(path, r)| *path == piece.0 && r.end == piece.1.start);
                let whole = bytes.len() as u64 == piece.1.end.saturating_sub(piece.1.start) && !bytes.is_empty();
                split.state = SplitState::Ready;
                split.last = Some(piece.clone());
                chain.feed(position as u32, bytes).map_err(user)?;
                if in_sequence && whole {
                    let (path, range) = piece;
                    let next = (path, range.end..range.end.saturating_add(range.end - range.start));
                    self.splits[position].fetch = Some(self.fetch(next));
                }
            }
            _ => {
                if split.fetch.as_ref().is_none_or(|f| f.piece != *wanted) {
                    let wanted = wanted.clone();
                    self.splits[position].fetch = Some(self.fetch(wanted));
                }
            }
        }
        Ok(())
    }

    fn fetch(&self, piece: Piece) -> Fetch {
        let (path, range) = piece.clone();
        Fetch { piece, bytes: Box::pin(read_input(self.platform.clone(), self.settings.clone(), path, range)) }
    }
}

fn user(error: ChainError) -> TaskFailure {
    TaskFailure::User(error.to_string())
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Reads a range of an input file, trying again what may pass.
async fn read_input(
    platform: Platform,
    settings: TaskSettings,
    path: String,
    range: Range<u64>,
) -> Result<Bytes, TaskFailure> {
    let clock = platform.clock.as_ref();
    let give_up = clock.now() + settings.store_total_timeout;
    let mut pause = FIRST_PAUSE;
    loop {
        let by = give_up.min(clock.now() + settings.store_operation_timeout);
        let problem = match timeout(clock, by, platform.inputs.read(&path, range.clone())).await {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(error)) if !error.is_retryable() => {
                return Err(TaskFailure::Environment(format!("reading input {path}, bytes {range:?}: {error}")));
            }
            Ok(Err(StoreError::Throttled(wait))) => {
                pause = pause.max(wait);
                StoreError::Throttled(wait).to_string()
            }
            Ok(Err(error)) => error.to_string(),
            Err(TimedOut) => "timed out".to_string(),
        };
        if clock.now() + pause >= give_up {
            return Err(TaskFailure::Environment(format!(
                "reading input {path}, bytes {range:?}: {problem}; given up after {:?}",
                settings.store_total_timeout
            )));
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
