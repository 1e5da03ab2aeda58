//! Primary storage with patience: every operation is tried again, with a growing and jittered pause, until it succeeded, is
//! definitely refused, or its total time is over; an outcome that is unknown is resolved by reading back.
//!
//! It must never report an object as created that holds other bytes, nor report "definitely not created" after an attempt
//! whose outcome stayed unknown.

mod pieces;

use std::{future::Future, ops::Range, time::Duration};

use bytes::{Bytes, BytesMut};

pub use pieces::{PiecesError, UploadError};

use crate::{
    journal::Event,
    platform::{Fut, Mono, ObjectMeta, ObjectName, Platform, StoreError, timeout},
    points::Point,
};

/// The first pause between two attempts; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long after its own deadline an operation may still be silent before it is given up.
const GRACE: Duration = Duration::from_millis(500);

/// Why an object's bytes could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The object is there, but not of the expected length. Definite.
    #[error("the object has {found} bytes, {expected} were expected")]
    Length { expected: u64, found: u64 },
}

impl ReadError {
    /// The object cannot be read now nor later: it is gone, or it is not what was written.
    pub fn is_lost(&self) -> bool {
        matches!(self, ReadError::Store(StoreError::Absent) | ReadError::Length { .. })
    }
}

/// Tells an object that is damaged from readings that were damaged on the way: what is wrong in the store is wrong in the
/// same way each time.
pub struct Readings {
    /// So many bad readings in a row must agree before the object itself is taken for damaged.
    agreeing: u32,
    last: Option<u64>,
    same: u32,
    all: u32,
}

/// What a bad reading means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadReading {
    /// Read again.
    Again,
    /// The object is damaged: definite.
    AtRest,
    /// Bad in ever new ways: the object may be whole; try again later.
    OnTheWay,
}

/// Bad readings in a row that disagree before the reader gives up for now.
const MOST_READINGS: u32 = 8;

impl Readings {
    pub fn new(agreeing: u32) -> Readings {
        Readings { agreeing, last: None, same: 0, all: 0 }
    }

    /// Takes in the bytes of a bad reading.
    pub fn bad(&mut self, bytes: &[u8]) -> BadReading {
        self.bad_checksum(crc32c::crc32c(bytes), bytes.len() as u64)
    }

    /// The same for bytes that are not at hand any more.
    pub fn bad_checksum(&mut self, crc32c: u32, length: u64) -> BadReading {
        self.note(u64::from(crc32c) << 32 | (length & 0xffff_ffff))
    }

    /// Takes in that the object has not the length it should have.
    pub fn wrong_length(&mut self, error: &ReadError) -> BadReading {
        self.note(u64::from(crc32c::crc32c(error.to_string().as_bytes())))
    }

    fn note(&mut self, reading: u64) -> BadReading {
        self.all += 1;
        self.same = if self.last.replace(reading) == Some(reading) { self.same + 1 } else { 1 };
        if self.same >= self.agreeing {
            BadReading::AtRest
        } else if self.all >= MOST_READINGS {
            BadReading::OnTheWay
        } else {
            BadReading::Again
        }
    }
}

/// What [`BadReading::OnTheWay`] is to whoever asked for the object.
pub fn damaged_on_the_way() -> StoreError {
    StoreError::Unavailable("every reading is damaged in another way".to_string())
}

/// A process's patient access to primary storage. Cheap to clone.
#[derive(Clone)]
pub struct Primary {
    platform: Platform,
    operation_timeout: Duration,
    total_timeout: Duration,
}

fn is_concatenation(bytes: &[u8], parts: &[Bytes]) -> bool {
    let mut rest = bytes;
    for part in parts {
        match rest.strip_prefix(&part[..]) {
            Some(tail) => rest = tail,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Counts the attempts of one operation and waits between them.
struct Attempts<'a> {
    primary: &'a Primary,
    object: &'a str,
    operation: &'static str,
    deadline: Mono,
    pause: Duration,
}

impl Attempts<'_> {
    /// Waits before the next attempt; false when the total time is over.
    async fn again(&mut self, error: &StoreError) -> bool {
        let platform = &self.primary.platform;
        let half = self.pause / 2;
        let jitter = platform.entropy.next_u64("primary-backoff") % (half.as_nanos() as u64 + 1);
        let mut pause = half + Duration::from_nanos(jitter);
        if let StoreError::Throttled(asked) = error {
            pause = pause.max(*asked);
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let now = platform.clock.now();
        if now + pause >= self.deadline {
            return false;
        }
        if self.operation == "create" {
            let retried = [
                ("/_metadata", Point::MetadataRetried),
                ("/_committed/", Point::ManifestRetried),
                ("ha/", Point::HeadEntryRetried),
            ];
            for (part, point) in retried {
                platform.journal.sometimes(point, self.object.contains(part));
            }
        }
        platform.journal.emit(Event::PrimaryRetried {
            object: self.object.to_string(),
            operation: self.operation.to_string(),
            error: error.to_string(),
        });
        platform.clock.sleep(pause).await;
        true
    }
}

/// What is known of an object that is being created, over all attempts.
struct Creation<'a> {
    name: &'a ObjectName,
    bytes: u64,
    attempts: Attempts<'a>,
    /// An attempt went out of which we do not know whether it took, or will take, effect.
    in_doubt: bool,
}

impl Creation<'_> {
    /// Takes in how an attempt went. `is_ours`, asked only if the name is taken: whether it holds what was to be created, which
    /// an earlier attempt of ours did, or somebody else who said the same. None: after a pause, for another attempt.
    async fn settle(
        &mut self,
        result: Result<(), StoreError>,
        is_ours: impl Future<Output = Result<bool, StoreError>>,
    ) -> Option<Result<(), StoreError>> {
        let journal = &self.attempts.primary.platform.journal;
        let created = || journal.emit(Event::ObjectCreated { object: self.name.to_string(), bytes: self.bytes });
        let error = match result {
            Ok(()) => {
                created();
                return Some(Ok(()));
            }
            Err(StoreError::Exists) => match is_ours.await {
                Ok(true) => {
                    if self.in_doubt {
                        journal.reached(Point::CreateRepeatedAsOurs);
                        created();
                    }
                    return Some(Ok(()));
                }
                Ok(false) => {
                    // The probe of a store meets itself on purpose.
                    journal.sometimes(Point::CreateTaken, !self.name.as_str().contains("/probe-"));
                    return Some(Err(StoreError::Exists));
                }
                Err(StoreError::Dead) => return Some(Err(StoreError::Dead)),
                // It exists, ours or not: unknown until it can be read.
                Err(_) => {
                    journal.reached(Point::CreateStillInDoubt);
                    self.in_doubt = true;
                    StoreError::Ambiguous
                }
            },
            Err(StoreError::Dead) => return Some(Err(StoreError::Dead)),
            Err(error) => {
                self.in_doubt |= error == StoreError::Ambiguous;
                error
            }
        };
        if !error.is_retryable() || !self.attempts.again(&error).await {
            journal.sometimes(Point::CreateGivenUpInDoubt, self.in_doubt);
            return Some(Err(if self.in_doubt { StoreError::Ambiguous } else { error }));
        }
        None
    }
}

impl Primary {
    pub fn new(platform: &Platform, operation_timeout: Duration, total_timeout: Duration) -> Primary {
        Primary { platform: platform.clone(), operation_timeout, total_timeout }
    }

    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    fn attempts<'a>(&'a self, object: &'a str, operation: &'static str) -> Attempts<'a> {
        let deadline = self.platform.clock.now() + self.total_timeout;
        Attempts { primary: self, object, operation, deadline, pause: FIRST_PAUSE }
    }

    fn creation<'a>(&'a self, name: &'a ObjectName, bytes: u64) -> Creation<'a> {
        Creation { name, bytes, attempts: self.attempts(name.as_str(), "create"), in_doubt: false }
    }

    /// When the next attempt must be done by.
    fn by(&self) -> Mono {
        self.platform.clock.now() + self.operation_timeout
    }

    /// One attempt, with a guard against a store that does not keep its deadline.
    async fn attempt<T>(&self, by: Mono, operation: Fut<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
        match timeout(self.platform.clock.as_ref(), by + GRACE, operation).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Ambiguous),
        }
    }

    /// Tries until success, a definite refusal, or the end of the total time.
    async fn retried<'a, T, F>(
        &'a self,
        object: &'a str,
        operation: &'static str,
        mut run: impl FnMut(Mono) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempts = self.attempts(object, operation);
        loop {
            match run(self.by()).await {
                Err(error) if error.is_retryable() => {
                    if !attempts.again(&error).await {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Creates `name` with the concatenation of `parts`. Succeeds as well if the object exists with exactly these bytes: an
    /// earlier attempt of ours, or the same thing said by somebody else.
    ///
    /// # Errors
    /// [`StoreError::Exists`]: the name holds other bytes, definitely. [`StoreError::Ambiguous`]: the outcome stayed
    /// unknown for the whole total time. Every other error: definitely not created by this call.
    pub async fn create(&self, name: &ObjectName, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let bytes = parts.iter().map(|p| p.len() as u64).sum();
        let mut creation = self.creation(name, bytes);
        loop {
            let by = self.by();
            let result = self.attempt(by, self.platform.primary.create(name, parts.clone(), by)).await;
            if let Some(outcome) = creation.settle(result, self.holds(name, &parts)).await {
                return outcome;
            }
        }
    }

    /// One attempt of a create, without a look at what is there: what planted bugs are made of.
    #[cfg(feature = "sabotage")]
    pub(crate) async fn create_hastily(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        let by = self.by();
        self.attempt(by, self.platform.primary.create(name, vec![bytes], by)).await
    }

    /// One attempt of a read. Err: it may do better the next time.
    #[cfg(feature = "sabotage")]
    pub(crate) async fn read_hastily(&self, name: &ObjectName) -> Result<(), StoreError> {
        let by = self.by();
        let length = match self.length_once(name, by).await {
            Ok(length) => length.unwrap_or_default(),
            Err(error) => return Err(error),
        };
        match self.read_once(name, 0..length, length).await {
            Err(ReadError::Store(error)) if error.is_retryable() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether `name` holds exactly the concatenation of `parts`. That it holds other bytes is believed only if two readings
    /// agree on them: one alone may have been damaged on the way.
    async fn holds(&self, name: &ObjectName, parts: &[Bytes]) -> Result<bool, StoreError> {
        let by = self.by();
        let Some(length) = self.length_once(name, by).await? else {
            return Err(StoreError::Absent);
        };
        if length != parts.iter().map(|p| p.len() as u64).sum::<u64>() {
            return Ok(false);
        }
        let mut other: Option<Bytes> = None;
        loop {
            let found = match self.read_once(name, 0..length, length).await {
                Ok(found) => found,
                Err(ReadError::Store(error)) => return Err(error),
                Err(ReadError::Length { .. }) => return Err(StoreError::Ambiguous),
            };
            if is_concatenation(&found, parts) {
                return Ok(true);
            }
            match other.replace(found.clone()) {
                None => {}
                Some(before) if before == found => return Ok(false),
                Some(_) => return Err(StoreError::Ambiguous),
            }
        }
    }

    async fn length_once(&self, name: &ObjectName, by: Mono) -> Result<Option<u64>, StoreError> {
        let found = self.attempt(by, self.platform.primary.list(name.as_str(), by)).await?;
        Ok(found.into_iter().find(|m| m.name == *name).map(|m| m.length))
    }

    /// Exactly the bytes of `range` of an object of so many bytes, continuing after short reads.
    async fn read_once(&self, name: &ObjectName, range: Range<u64>, length: u64) -> Result<Bytes, ReadError> {
        let wanted = range.end.saturating_sub(range.start);
        let mut collected = BytesMut::new();
        loop {
            let have = collected.len() as u64;
            let by = self.by();
            if have < wanted {
                let read = self.platform.primary.read(name, Some(range.start + have..range.end), by);
                match self.attempt(by, read).await {
                    Ok(bytes) if !bytes.is_empty() => {
                        let room = usize::try_from(wanted - have).unwrap_or(usize::MAX);
                        if have == 0 && bytes.len() == room {
                            return Ok(bytes);
                        }
                        collected.extend_from_slice(&bytes[..bytes.len().min(room)]);
                        continue;
                    }
                    // Nothing more, or the store does not like the range: what is the object's length in truth?
                    Ok(_) | Err(StoreError::Permanent(_)) => {
                        return Err(match self.length_once(name, by).await? {
                            None => StoreError::Absent.into(),
                            Some(found) if found != length => ReadError::Length { expected: length, found },
                            Some(_) => StoreError::Unavailable("read gave no bytes".into()).into(),
                        });
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if wanted == 0 && self.length_once(name, by).await?.is_none() {
                return Err(StoreError::Absent.into());
            }
            return Ok(collected.freeze());
        }
    }

    /// Reads exactly `length` bytes.
    ///
    /// # Errors
    /// [`ReadError`]; lost ones ([`ReadError::is_lost`]) are definite, retryable ones persisted for the whole total time.
    pub async fn read_exact(&self, name: &ObjectName, length: u64) -> Result<Bytes, ReadError> {
        self.read_range(name, 0..length, length).await
    }

    /// Reads exactly the bytes of `range` of an object of so many bytes.
    ///
    /// # Errors
    /// As [`Self::read_exact`].
    pub async fn read_range(&self, name: &ObjectName, range: Range<u64>, length: u64) -> Result<Bytes, ReadError> {
        let mut attempts = self.attempts(name.as_str(), "read");
        loop {
            match self.read_once(name, range.clone(), length).await {
                Err(ReadError::Store(error)) if error.is_retryable() => {
                    if !attempts.again(&error).await {
                        return Err(error.into());
                    }
                }
                other => return other,
            }
        }
    }

    /// Reads the whole object, whatever its length.
    ///
    /// # Errors
    /// As [`Self::read_exact`].
    pub async fn read_whole(&self, name: &ObjectName) -> Result<Bytes, ReadError> {
        let length = self.length(name).await?.ok_or(StoreError::Absent)?;
        self.read_exact(name, length).await
    }

    /// The length of an object; None if there is none.
    ///
    /// # Errors
    /// [`StoreError`] that persisted for the whole total time.
    pub async fn length(&self, name: &ObjectName) -> Result<Option<u64>, StoreError> {
        self.retried(name.as_str(), "list", |by| self.length_once(name, by)).await
    }

    /// All objects whose name starts with `prefix`, sorted.
    ///
    /// # Errors
    /// [`StoreError`] that persisted for the whole total time.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.retried(prefix, "list", |by| self.attempt(by, self.platform.primary.list(prefix, by))).await
    }

    /// Names that start with `prefix` of objects whose upload in pieces was begun and neither finished nor given up.
    ///
    /// # Errors
    /// [`StoreError`] that persisted for the whole total time.
    pub async fn unfinished(&self, prefix: &str) -> Result<Vec<ObjectName>, StoreError> {
        self.retried(prefix, "list", |by| self.attempt(by, self.platform.primary.unfinished(prefix, by))).await
    }

    /// Removes what is stored of unfinished uploads of `name`; fine if there is none.
    ///
    /// # Errors
    /// [`StoreError`] that persisted for the whole total time.
    pub async fn discard_unfinished(&self, name: &ObjectName) -> Result<(), StoreError> {
        let discard = |by| self.attempt(by, self.platform.primary.discard_unfinished(name, by));
        self.retried(name.as_str(), "delete", discard).await?;
        self.platform.journal.emit(Event::UploadDiscarded { object: name.to_string() });
        Ok(())
    }

    /// Deletes; fine if there is none.
    ///
    /// # Errors
    /// [`StoreError`] that persisted for the whole total time; the object may be there or not.
    pub async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.retried(name.as_str(), "delete", |by| self.attempt(by, self.platform.primary.delete(name, by))).await?;
        self.platform.journal.emit(Event::ObjectDeleted { object: name.to_string() });
        Ok(())
    }

    /// Deletes everything whose name starts with `prefix`, going on after errors. How many there were, if they could be listed.
    ///
    /// # Errors
    /// As [`Self::list`]; and the last error of [`Self::delete_all`].
    pub async fn delete_below(&self, prefix: &str) -> Result<u64, StoreError> {
        let found: Vec<_> = self.list(prefix).await?.into_iter().map(|meta| meta.name).collect();
        self.delete_all(&found).await.map_err(|(_, error)| error)?;
        Ok(found.len() as u64)
    }

    /// Deletes all, going on after errors; says how many could not be deleted and the last error. What stays is found by
    /// the orphan sweep.
    pub async fn delete_all(&self, names: &[ObjectName]) -> Result<(), (usize, StoreError)> {
        let mut failed = None;
        for name in names {
            if let Err(error) = self.delete(name).await {
                let count = failed.map_or(1, |(n, _)| n + 1);
                failed = Some((count, error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
