//! The head log in primary storage.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::lock::Mutex as AsyncMutex;

use super::{HeadEntry, HeadRecord, HeadState};
use crate::{
    checkpoint::primary::{BadReading, Primary, ReadError, Readings, damaged_on_the_way},
    ids::LeaderEpoch,
    journal::Event,
    layout::Layout,
    platform::{ObjectName, StoreError},
    points::Point,
    sabotage::{Sabotage, SabotageSet},
};

/// Why the head log could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Another leader has written since: step down, without any further effect. The entry was not written.
    #[error("another leader took over: leader {leader} wrote entry {sequence}")]
    Fenced { leader: LeaderEpoch, sequence: u64 },
    /// The store cannot be used now. The entry was definitely not written.
    #[error("head log unavailable: {0}")]
    Unavailable(StoreError),
    /// The log itself is damaged; nobody may lead this job until a person has looked at it.
    #[error("head log damaged: {object}: {reason}")]
    Corrupt { object: String, reason: String },
    /// The store does not keep the one promise everything rests on.
    #[error("this store lets two writers create the same object; it cannot be used: {0}")]
    UnsafeStore(String),
    /// An earlier append of this handle was dropped before its outcome was known: step down.
    #[error("an append was abandoned before its outcome was known")]
    Abandoned,
    /// Only a leader may append.
    #[error("this process has not claimed leadership")]
    NotLeader,
}

struct Writer {
    leader: Option<LeaderEpoch>,
    sabotage: SabotageSet,
    fenced: Option<(LeaderEpoch, u64)>,
    /// Set while an append is under way.
    in_doubt: bool,
}

/// A process's view of the head log of one job. Cheap to clone; appends of all clones are done one after the other.
///
/// The future of [`HeadLog::append`] must be awaited to its end: if it is dropped while the outcome is unknown, this handle
/// refuses all further appends, because it no longer knows what the job's state is.
#[derive(Clone)]
pub struct HeadLog {
    primary: Primary,
    layout: Layout,
    state: Arc<Mutex<Arc<HeadState>>>,
    writer: Arc<AsyncMutex<Writer>>,
}

impl HeadLog {
    /// Reads all entries.
    ///
    /// # Errors
    /// [`HeadError`]: unavailable, or corrupt (an entry that is missing, damaged or in the wrong place).
    pub async fn open(primary: Primary, layout: Layout) -> Result<HeadLog, HeadError> {
        let log = HeadLog {
            primary,
            layout,
            state: Arc::default(),
            writer: Arc::new(AsyncMutex::new(Writer {
                leader: None,
                sabotage: SabotageSet::default(),
                fenced: None,
                in_doubt: false,
            })),
        };
        let prefix = layout.head_prefix();
        let listed = log.primary.list(&prefix).await.map_err(HeadError::Unavailable)?;
        // Only entries are named by a number; a left-over probe is not one.
        let listed = listed.iter().filter_map(|m| m.name.as_str().strip_prefix(&prefix)?.parse::<u64>().ok()).max();
        loop {
            let next = log.state().next_sequence;
            if log.read_entry(next).await?.is_none() {
                // What the listing has, is there: a hole below it is damage.
                return match listed {
                    Some(last) if next <= last => Err(HeadError::Corrupt {
                        object: layout.head_entry(next).to_string(),
                        reason: format!("missing, although entry {last} exists"),
                    }),
                    _ => Ok(log),
                };
            }
        }
    }

    /// What the log says, as far as this process has read and written it.
    pub fn state(&self) -> Arc<HeadState> {
        self.state.lock().expect("head state: a holder panicked").clone()
    }

    fn apply(&self, record: &HeadRecord) {
        let mut state = self.state.lock().expect("head state: a holder panicked");
        Arc::make_mut(&mut state).apply(record.sequence, &record.entry);
    }

    /// Reads the entry at `sequence`, and takes it in if it is the next one.
    async fn read_entry(&self, sequence: u64) -> Result<Option<HeadRecord>, HeadError> {
        let object = self.layout.head_entry(sequence);
        let corrupt = |reason: String| HeadError::Corrupt { object: object.to_string(), reason };
        let mut readings = Readings::new(3);
        loop {
            let (reason, meaning) = match self.primary.read_whole(&object).await {
                Ok(bytes) => match HeadRecord::decode(&bytes) {
                    Ok(record) if record.sequence == sequence => {
                        if self.state().next_sequence == sequence {
                            self.apply(&record);
                        }
                        return Ok(Some(record));
                    }
                    Ok(record) => return Err(corrupt(format!("holds entry {}", record.sequence))),
                    Err(error) => (error.to_string(), readings.bad(&bytes)),
                },
                Err(ReadError::Store(StoreError::Absent)) => return Ok(None),
                Err(ReadError::Store(error)) => return Err(HeadError::Unavailable(error)),
                Err(error @ ReadError::Length { .. }) => (error.to_string(), readings.wrong_length(&error)),
            };
            match meaning {
                BadReading::Again => {}
                BadReading::AtRest => return Err(corrupt(reason)),
                BadReading::OnTheWay => return Err(HeadError::Unavailable(damaged_on_the_way())),
            }
        }
    }

    /// Becomes the leader: appends a claim at the end of the log, however often somebody else is faster.
    ///
    /// # Errors
    /// [`HeadError`]: unavailable or corrupt.
    pub async fn claim(&self) -> Result<LeaderEpoch, HeadError> {
        self.claim_with(&SabotageSet::default()).await
    }

    /// [`Self::claim`], with deliberate faults.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn claim_with(&self, sabotage: &SabotageSet) -> Result<LeaderEpoch, HeadError> {
        self.claim_above(LeaderEpoch(0), sabotage).await
    }

    /// [`Self::claim_with`], with an epoch above `floor`: that of the last leader of a job whose output goes on here, so that names
    /// of objects tell the two apart.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn claim_above(&self, floor: LeaderEpoch, sabotage: &SabotageSet) -> Result<LeaderEpoch, HeadError> {
        let mut writer = self.writer.lock().await;
        if writer.in_doubt {
            return Err(HeadError::Abandoned);
        }
        loop {
            let state = self.state();
            let platform = self.primary.platform();
            let leader = match state.leader {
                before if before > LeaderEpoch(0) && sabotage.runs(Sabotage::ReuseLeaderEpoch, &platform.journal) => {
                    before
                }
                before => before.max(floor).next(),
            };
            let nonce = platform.entropy.next_u128("head-nonce");
            let entry = HeadEntry::Claimed { leader, process: platform.process.to_string(), nonce };
            let record = HeadRecord { sequence: state.next_sequence, leader, nonce, entry };
            writer.in_doubt = true;
            let written = self.write(&record).await;
            writer.in_doubt = false;
            match written {
                Ok(()) => {
                    writer.leader = Some(leader);
                    writer.sabotage = sabotage.clone();
                    writer.fenced = None;
                    let event = Event::LeaderElected {
                        process: platform.process.to_string(),
                        leader,
                        entries: record.sequence + 1,
                    };
                    platform.journal.emit(event);
                    return Ok(leader);
                }
                // Somebody else wrote there; that entry is taken in already. Read on to the end and claim behind it.
                Err(HeadError::Fenced { .. }) => while self.read_entry(self.state().next_sequence).await?.is_some() {},
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends a decision of this leader and gives its sequence number. Goes on as long as the outcome is unknown, so its
    /// answer is always definite: written, or not.
    ///
    /// # Errors
    /// [`HeadError`]; in every case the entry is not in the log and never will be (except `Abandoned`, which is about an
    /// earlier one, and a dead process, which does not care).
    pub async fn append(&self, entry: HeadEntry) -> Result<u64, HeadError> {
        let mut writer = self.writer.lock().await;
        if writer.in_doubt {
            return Err(HeadError::Abandoned);
        }
        if let Some((leader, sequence)) = writer.fenced {
            return Err(HeadError::Fenced { leader, sequence });
        }
        let Some(leader) = writer.leader else { return Err(HeadError::NotLeader) };
        let nonce = self.primary.platform().entropy.next_u128("head-nonce");
        let record = HeadRecord { sequence: self.state().next_sequence, leader, nonce, entry };
        writer.in_doubt = true;
        #[cfg(feature = "sabotage")]
        if let Some(error) = super::planted::write_hastily(&self.primary, self.layout, &record, &writer.sabotage).await
        {
            writer.in_doubt = false;
            return Err(error);
        }
        let written = self.write(&record).await;
        writer.in_doubt = false;
        if let Err(HeadError::Fenced { leader, sequence }) = written {
            writer.fenced = Some((leader, sequence));
        }
        written.map(|()| record.sequence)
    }

    /// Writes `record` at its place and takes it in; or finds somebody else's entry there and takes that in: `Fenced`.
    async fn write(&self, record: &HeadRecord) -> Result<(), HeadError> {
        let object = self.layout.head_entry(record.sequence);
        let bytes = record.encode().map_err(|e| HeadError::Corrupt {
            object: object.to_string(),
            reason: format!("cannot be encoded: {e}"),
        })?;
        let mut in_doubt = false;
        loop {
            match self.primary.create(&object, vec![bytes.clone()]).await {
                Ok(()) => {
                    self.apply(record);
                    let event = Event::HeadEntryAppended { sequence: record.sequence, entry: record.entry.summary() };
                    self.primary.platform().journal.emit(event);
                    return Ok(());
                }
                // The name is taken by other bytes than ours: definite, also for attempts still on their way.
                Err(StoreError::Exists) => loop {
                    match self.read_entry(record.sequence).await {
                        Ok(Some(found)) => {
                            self.primary.platform().journal.reached(Point::HeadFenced);
                            return Err(HeadError::Fenced { leader: found.leader, sequence: found.sequence });
                        }
                        Ok(None) => {
                            let reason = "exists, but cannot be found".to_string();
                            return Err(HeadError::Corrupt { object: object.to_string(), reason });
                        }
                        Err(HeadError::Unavailable(StoreError::Dead)) => {
                            return Err(HeadError::Unavailable(StoreError::Dead));
                        }
                        Err(HeadError::Unavailable(_)) => self.pause().await,
                        Err(error) => return Err(error),
                    }
                },
                Err(StoreError::Dead) => return Err(HeadError::Unavailable(StoreError::Dead)),
                // An attempt may still take effect: only success or somebody else's entry ends the doubt.
                Err(StoreError::Ambiguous) => in_doubt = true,
                Err(error) if !in_doubt => return Err(HeadError::Unavailable(error)),
                Err(_) => self.pause().await,
            }
        }
    }

    async fn pause(&self) {
        self.primary.platform().clock.sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// Races two creates of one name and refuses a store in which both win. To be called once before a claim.
///
/// # Errors
/// [`HeadError::UnsafeStore`], or [`HeadError::Unavailable`] if the store gave no definite answer.
pub async fn probe(primary: &Primary, layout: Layout) -> Result<(), HeadError> {
    let nonce = primary.platform().entropy.next_u128("head-nonce");
    let name = ObjectName::new(format!("{}probe-{nonce:032x}", layout.head_prefix()))
        .map_err(|e| HeadError::Corrupt { object: e.0, reason: "not an object name".into() })?;
    let contents = ["first", "second"].map(|who| Bytes::from(format!("weir probe {nonce:032x} {who}")));
    let [first, second] = contents.clone().map(|bytes| primary.create(&name, vec![bytes]));
    let results = futures::future::join(first, second).await;
    let (winner, loser) = match results {
        (Ok(()), Err(StoreError::Exists)) => (&contents[0], &contents[1]),
        (Err(StoreError::Exists), Ok(())) => (&contents[1], &contents[0]),
        (Ok(()), Ok(())) => return Err(HeadError::UnsafeStore("both creates of one name succeeded".into())),
        (Err(StoreError::Exists), Err(StoreError::Exists)) => {
            return Err(HeadError::UnsafeStore("a fresh name existed already".into()));
        }
        (Err(StoreError::Exists) | Ok(()), Err(error)) | (Err(error), _) => return Err(HeadError::Unavailable(error)),
    };
    let found = match primary.read_whole(&name).await {
        Ok(found) => found,
        Err(ReadError::Store(error)) => return Err(HeadError::Unavailable(error)),
        Err(error @ ReadError::Length { .. }) => return Err(HeadError::UnsafeStore(error.to_string())),
    };
    if found == *loser {
        return Err(HeadError::UnsafeStore("the object does not hold the bytes of the create that succeeded".into()));
    }
    if found != *winner {
        // The bytes of neither: damaged on the way, which says nothing about creates. The next term probes again.
        return Err(HeadError::Unavailable(StoreError::Unavailable("the probe was read back damaged".into())));
    }
    // A probe that stays behind does no harm.
    let _ = primary.delete(&name).await;
    Ok(())
}
