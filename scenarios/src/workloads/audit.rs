//! The audit job: the main workload of the chaos. Every output line tells which input it stands for and what the fold of its
//! key was, so that whatever goes wrong shows in the output and in the state.
//!
//! Source `audit` -> keyed fold `fold` -> (optional: stateless map, keyed fold `regroup` over groups of keys) -> output
//! `audit`. Line formats are those of [`crate::oracle::AuditOracle`].

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use runtime::{
    api::{GeneratorSource, JobBuilder, JobError, KeyedProcess},
    graph::Job,
    state::{KeyedContext, OpenContext, UserError, ValueState},
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{AuditInput, AuditRecord, UserFault, UserFaultKind, WorkloadParams};

pub const SINK: &str = "audit";
pub const FIRST: &str = "fold";
pub const SECOND: &str = "regroup";

/// The fold of a key: of all it has seen, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Fold {
    sequence: u64,
    count: u64,
    sum: i64,
    chain: u64,
}

impl Fold {
    fn add(&mut self, value: i64, words: [u64; 3]) {
        let mut hash = Xxh3::new();
        hash.update(&self.chain.to_le_bytes());
        for word in words {
            hash.update(&word.to_le_bytes());
        }
        self.sequence += 1;
        self.count += 1;
        self.sum = self.sum.wrapping_add(value);
        self.chain = hash.digest();
    }
}

/// What the first stage puts out.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Folded {
    record: AuditRecord,
    sequence: u64,
    sum: i64,
    chain: u64,
    /// What the second stage folds; set by the map between the stages.
    mapped: i64,
}

/// What the second stage puts out.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Regrouped {
    group: u32,
    sequence: u64,
    sum: i64,
    chain: u64,
    first: Folded,
}

/// The switch that makes user code fail: shared by all simulated processes, so that it fires a bounded number of times
/// however often the job restarts.
#[derive(Clone, Debug)]
pub struct Trap {
    pub fault: UserFault,
    pub left: Arc<AtomicU32>,
}

impl Trap {
    pub(super) fn touch(&self, record: &AuditRecord) -> Result<(), UserError> {
        if (record.split, record.offset) != (self.fault.split, self.fault.offset) {
            return Ok(());
        }
        let fires = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        match self.fault.kind {
            _ if !fires => Ok(()),
            UserFaultKind::Error => Err(UserError::new(format!("planned error at {record:?}"))),
            UserFaultKind::Panic => panic!("planned panic at {record:?}"),
        }
    }
}

struct First {
    fold: ValueState<Fold>,
    traps: Arc<[Trap]>,
}

impl KeyedProcess for First {
    type Key = u32;
    type In = AuditRecord;
    type Out = Folded;

    fn open(&mut self, ctx: &mut OpenContext<'_, u32>) -> Result<(), UserError> {
        self.fold = ctx.value_state("fold")?;
        Ok(())
    }

    fn process(
        &mut self,
        record: AuditRecord,
        ctx: &mut KeyedContext<'_, u32>,
        out: &mut Vec<Folded>,
    ) -> Result<(), UserError> {
        for trap in self.traps.iter() {
            trap.touch(&record)?;
        }
        let fold = self.fold.get_or_default_mut(ctx)?;
        fold.add(record.value, [u64::from(record.split), record.offset, record.value as u64]);
        out.push(Folded { record, sequence: fold.sequence, sum: fold.sum, chain: fold.chain, mapped: 0 });
        Ok(())
    }
}

#[derive(Default)]
struct Second {
    fold: ValueState<Fold>,
}

impl KeyedProcess for Second {
    type Key = u32;
    type In = Folded;
    type Out = Regrouped;

    fn open(&mut self, ctx: &mut OpenContext<'_, u32>) -> Result<(), UserError> {
        self.fold = ctx.value_state("fold")?;
        Ok(())
    }

    fn process(
        &mut self,
        first: Folded,
        ctx: &mut KeyedContext<'_, u32>,
        out: &mut Vec<Regrouped>,
    ) -> Result<(), UserError> {
        let group = *ctx.key();
        let fold = self.fold.get_or_default_mut(ctx)?;
        fold.add(first.mapped, [u64::from(first.record.key), first.sequence, first.mapped as u64]);
        out.push(Regrouped { group, sequence: fold.sequence, sum: fold.sum, chain: fold.chain, first });
        Ok(())
    }
}

fn write_first(folded: &Folded, line: &mut Vec<u8>) {
    let AuditRecord { split, offset, key, value } = folded.record;
    let Folded { sequence, sum, chain, .. } = folded;
    line.extend_from_slice(format!("{key}\t{sequence}\t{split}\t{offset}\t{value}\t{sum}\t{chain:x}").as_bytes());
}

fn write_second(regrouped: &Regrouped, line: &mut Vec<u8>) {
    let Regrouped { group, sequence, sum, chain, first } = regrouped;
    line.extend_from_slice(format!("{group}\t{sequence}\t{sum}\t{chain:x}\t").as_bytes());
    write_first(first, line);
}

/// Builds the job.
pub(super) fn job(params: &WorkloadParams, input: &AuditInput, traps: Vec<Trap>) -> Result<Job, JobError> {
    let mut builder = JobBuilder::new("audit").parallelism(params.parallelism);
    if let Some(max) = params.max_parallelism {
        builder = builder.max_parallelism(max);
    }
    let records = input.clone();
    let mut source = GeneratorSource::new("audit", input.splits.len() as u32, move |s, o| records.record(s, o));
    if let Some(rate) = params.records_per_second {
        source = source.records_per_second(rate);
    }
    let traps: Arc<[Trap]> = traps.into();
    let folded = builder
        .source("audit-source", source)
        .parallelism(params.source_parallelism)
        .key_by(|record: &AuditRecord| record.key)
        .process(FIRST, move || First { fold: ValueState::default(), traps: traps.clone() });
    match params.groups {
        None => drop(folded.sink(SINK, write_first)),
        Some(groups) => drop(
            folded
                .map(|mut folded: Folded| {
                    folded.mapped = folded.sum.wrapping_mul(3).wrapping_add(1);
                    folded
                })
                .key_by(move |folded: &Folded| folded.record.key % groups)
                .process(SECOND, Second::default)
                .sink(SINK, write_second),
        ),
    }
    builder.build()
}
