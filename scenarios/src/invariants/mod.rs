//! The invariants: what must hold at every instant of a run, whatever the nemesis does.
//!
//! Events say *when* to look; what is true is read from the simulated disks, the store and the committed output
//! ([`Truth`]), hashed and decoded by code of this crate. One file per invariant; each says its rule, where it reads
//! the truth and what excuses it. The suite is fed by the harness from three sides (events, effects on the store, notices of
//! the nemesis) and keeps what it finds, first violation first.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use runtime::{
    checkpoint::types::SubtaskKey,
    graph::Job,
    ids::{CheckpointId, JobId},
    layout::Layout,
};

mod assertions;
mod barrier;
mod cadence;
mod deletion;
mod fallback;
mod formats;
mod ground;
mod leadership;
mod liveness;
mod local_copy;
mod memory;
mod needless_read;
mod output;
mod output_truth;
mod replay;
mod restored;
mod reuse;
mod runtime_formats;
mod savepoints;
mod slots;
mod superset;
#[cfg(test)]
mod telling;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod truth;
#[cfg(madsim)]
pub use formats::{Completion, Formats, HeadRecord, Manifest, ManifestObject, SlotRecord, Snapshots, StateEntry};
pub use runtime_formats::RuntimeFormats;
pub use truth::{Effect, EffectKind, FaultNotice, Seen, Truth};

use ground::{Ground, HeadFact};
use output_truth::OwnDigest;

use crate::{
    oracle::{OutputOracle, Wrong},
    violation::Violation,
};

/// What happens when a checkpoint is lost whose output is visible already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackPolicy {
    Replay,
    Fail,
    Duplicate,
}

/// The checkpoint settings of the run.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub interval: Duration,
    pub min_pause: Duration,
    pub timeout: Duration,
    pub max_concurrent: u32,
    /// How far a timing may be off without being wrong.
    pub tolerance: Duration,
}

/// What the suite must know of the run in advance.
pub struct SuiteConfig {
    pub layout: Layout,
    pub sinks: Vec<String>,
    /// Subtasks by name.
    pub subtasks: BTreeMap<String, SubtaskKey>,
    pub formats: Rc<dyn Formats>,
    pub oracle: Box<dyn OutputOracle>,
    pub local_recovery: bool,
    /// Local copies are objects in the memory of a process: there are no files to look at.
    pub local_in_memory: bool,
    pub fallback: FallbackPolicy,
    pub timing: Timing,
    pub channel_window_bytes: u64,
    pub buffer_bytes: u64,
    /// After healing (or the start, without faults) the job finishes within this.
    pub liveness_bound: Duration,
    /// Restarts after which the job is allowed to fail.
    pub restart_limit: Option<u32>,
}

impl SuiteConfig {
    /// The configuration for `job` with the harness's defaults; change the fields that the plan sets.
    pub fn for_job(job: &Job, formats: Rc<dyn Formats>, oracle: Box<dyn OutputOracle>) -> SuiteConfig {
        let graph = &job.graph;
        SuiteConfig {
            layout: Layout { job: job.id },
            sinks: graph.vertices.iter().flat_map(|v| v.sinks.iter().map(|uid| uid.0.clone())).collect(),
            subtasks: graph.subtasks().map(|id| (graph.subtask_name(id), id.into())).collect(),
            formats,
            oracle,
            local_recovery: true,
            local_in_memory: false,
            fallback: FallbackPolicy::Replay,
            timing: Timing {
                interval: Duration::from_secs(1),
                min_pause: Duration::ZERO,
                timeout: Duration::from_secs(600),
                max_concurrent: 1,
                tolerance: Duration::from_millis(50),
            },
            channel_window_bytes: 256 << 10,
            buffer_bytes: 32 << 10,
            liveness_bound: Duration::from_secs(600),
            restart_limit: None,
        }
    }
}

/// How the run ended.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// The job's own outcome: None while it never ended.
    pub outcome: Option<Result<(), String>>,
    /// Everything is quiet and the sweep of unreferenced files was done once.
    pub swept: bool,
}

/// What a check may look at.
struct Look<'a> {
    ground: &'a Ground,
    truth: &'a dyn Truth,
    config: &'a Settings,
}

/// The part of the configuration that checks read.
struct Settings {
    subtasks: BTreeMap<String, SubtaskKey>,
    local_recovery: bool,
    local_in_memory: bool,
    fallback: FallbackPolicy,
    timing: Timing,
    channel_window_bytes: u64,
    buffer_bytes: u64,
    liveness_bound: Duration,
    restart_limit: Option<u32>,
}

/// A manifest that has just come to be.
struct ManifestFact<'a> {
    sink: &'a str,
    epoch: CheckpointId,
    manifest: Result<&'a Manifest, String>,
    /// A commit's records as the oracle took them; None for a void marker or when the output is judged no more.
    absorbed: Option<Result<OwnDigest, Wrong>>,
}

/// Collects what one invariant finds.
struct Findings<'a> {
    invariant: &'static str,
    found: &'a mut Vec<Violation>,
}

impl Findings<'_> {
    fn report(&mut self, entity: impl Into<String>, kind: &str, message: impl Into<String>) {
        // One cause often shows many times; the first of a kind per invariant says it all.
        if self.found.iter().any(|v| v.invariant == self.invariant && v.kind == kind) {
            return;
        }
        self.found.push(Violation {
            invariant: self.invariant.to_string(),
            entity: entity.into(),
            kind: kind.to_string(),
            message: message.into(),
        });
    }

    fn wrong(&mut self, wrong: &Wrong) {
        self.report(&wrong.entity, wrong.kind, &wrong.message);
    }
}

/// One invariant.
trait Check {
    fn name(&self) -> &'static str;
    fn on_event(&mut self, _look: &Look<'_>, _seen: &Seen<'_>, _out: &mut Findings<'_>) {}
    /// A head entry has become durable; the ground has it already.
    fn on_head(&mut self, _look: &Look<'_>, _fact: &HeadFact, _out: &mut Findings<'_>) {}
    /// A manifest has come to be; the ground has it already.
    fn on_manifest(&mut self, _look: &Look<'_>, _fact: &ManifestFact<'_>, _out: &mut Findings<'_>) {}
    fn on_created(&mut self, _look: &Look<'_>, _effect: &Effect<'_>, _out: &mut Findings<'_>) {}
    fn on_deleted(&mut self, _look: &Look<'_>, _effect: &Effect<'_>, _out: &mut Findings<'_>) {}
    fn on_read(&mut self, _look: &Look<'_>, _effect: &Effect<'_>, _out: &mut Findings<'_>) {}
    fn at_end(&mut self, _look: &Look<'_>, _end: &End, _out: &mut Findings<'_>) {}
}

/// All invariants of one run.
pub struct InvariantSuite {
    ground: Ground,
    settings: Settings,
    checks: Vec<Box<dyn Check>>,
    found: Vec<Violation>,
}

impl InvariantSuite {
    pub fn new(config: SuiteConfig) -> InvariantSuite {
        InvariantSuite {
            ground: Ground::new(config.layout, config.sinks, config.formats, config.oracle),
            settings: Settings {
                subtasks: config.subtasks,
                local_recovery: config.local_recovery,
                local_in_memory: config.local_in_memory,
                fallback: config.fallback,
                timing: config.timing,
                channel_window_bytes: config.channel_window_bytes,
                buffer_bytes: config.buffer_bytes,
                liveness_bound: config.liveness_bound,
                restart_limit: config.restart_limit,
            },
            // The order decides whose finding is first when one instant shows several: causes before consequences.
            checks: vec![
                Box::new(leadership::Leadership::default()),
                Box::new(reuse::Reuse),
                Box::new(cadence::Cadence::default()),
                Box::new(superset::Superset),
                Box::new(restored::Restored::default()),
                Box::new(fallback::Fallback::default()),
                Box::new(barrier::Barrier::default()),
                Box::new(output::Output::default()),
                Box::new(replay::Replay::default()),
                Box::new(savepoints::Savepoints::default()),
                Box::new(deletion::Deletion::default()),
                Box::new(slots::Slots::default()),
                Box::new(local_copy::LocalCopies::default()),
                Box::new(needless_read::NeedlessReads::default()),
                Box::new(memory::Memory::default()),
                Box::new(liveness::Liveness::default()),
                // The runtime's word against itself comes after what the world shows.
                Box::new(assertions::Assertions),
            ],
            found: Vec::new(),
        }
    }

    /// Names of all invariants, for reports.
    pub fn names(&self) -> Vec<&'static str> {
        self.checks.iter().map(|check| check.name()).collect()
    }

    /// Everything found so far, first violation first.
    pub fn violations(&self) -> &[Violation] {
        &self.found
    }

    /// Databases that were opened to see what checkpoints hold.
    pub fn judged_databases(&self) -> u64 {
        self.ground.databases.borrow().len() as u64
    }

    /// Records in the committed output so far.
    pub fn committed_records(&self) -> u64 {
        self.ground.output.oracle.records()
    }

    /// An event of the runtime; to be called synchronously when it is emitted.
    pub fn on_event<'a>(&mut self, truth: &dyn Truth, seen: impl Into<Seen<'a>>) {
        let seen = seen.into();
        self.each(truth, |check, look, out| check.on_event(look, &seen, out));
    }

    /// An effect on the store; to be called synchronously when it has taken place, whoever caused it, the nemesis aside.
    pub fn on_store_effect<'a>(&mut self, truth: &dyn Truth, effect: impl Into<Effect<'a>>) {
        let effect = effect.into();
        match effect.kind {
            EffectKind::Created => {
                self.ground.created(truth, &effect);
                self.each(truth, |check, look, out| check.on_created(look, &effect, out));
                if effect.object.starts_with(&self.ground.layout.head_prefix()) {
                    self.read_head(truth);
                }
                if let Some((sink, epoch)) = self.ground.manifest_name(effect.object) {
                    self.read_manifest(truth, &sink, epoch, effect.object);
                }
            }
            EffectKind::Deleted => {
                self.each(truth, |check, look, out| check.on_deleted(look, &effect, out));
            }
            EffectKind::Read => self.each(truth, |check, look, out| check.on_read(look, &effect, out)),
        }
    }

    /// The job has ended with a savepoint, and is over. Another one, of this id, will begin with the savepoint.
    pub fn resumed(&mut self, job: JobId) {
        self.ground.resumed(job);
    }

    /// The nemesis has just hit something.
    pub fn on_fault(&mut self, truth: &dyn Truth, notice: &FaultNotice) {
        self.ground.damage.note(truth.now(), notice);
    }

    /// The run is over. Gives everything found.
    pub fn at_end(&mut self, truth: &dyn Truth, end: &End) -> Vec<Violation> {
        self.each(truth, |check, look, out| check.at_end(look, end, out));
        self.found.clone()
    }

    fn each(&mut self, truth: &dyn Truth, mut call: impl FnMut(&mut dyn Check, &Look<'_>, &mut Findings<'_>)) {
        let look = Look { ground: &self.ground, truth, config: &self.settings };
        for check in &mut self.checks {
            let mut out = Findings { invariant: check.name(), found: &mut self.found };
            call(check.as_mut(), &look, &mut out);
        }
    }

    fn read_head(&mut self, truth: &dyn Truth) {
        while let Some(entry) = self.ground.next_head_entry(truth) {
            match entry {
                Ok(fact) => self.each(truth, |check, look, out| check.on_head(look, &fact, out)),
                Err((object, reason)) => {
                    let mut out = Findings { invariant: leadership::NAME, found: &mut self.found };
                    out.report(object, "head-unreadable", reason);
                }
            }
        }
    }

    fn read_manifest(&mut self, truth: &dyn Truth, sink: &str, epoch: CheckpointId, object: &str) {
        let bytes = truth.object(object).unwrap_or_default();
        let parsed = Manifest::parse(&bytes);
        let mut absorbed = None;
        if let Ok(manifest) = &parsed {
            self.ground.manifests.insert((sink.to_string(), epoch), manifest.clone());
            if manifest.commit {
                self.ground.committed_objects.extend(manifest.objects.iter().map(|o| o.name.clone()));
                absorbed = self.absorb(truth, sink, epoch, manifest);
            }
        }
        let fact = ManifestFact { sink, epoch, manifest: parsed.as_ref().map_err(Clone::clone), absorbed };
        self.each(truth, |check, look, out| check.on_manifest(look, &fact, out));
    }

    fn absorb(
        &mut self,
        truth: &dyn Truth,
        sink: &str,
        epoch: CheckpointId,
        manifest: &Manifest,
    ) -> Option<Result<OwnDigest, Wrong>> {
        if self.settings.fallback == FallbackPolicy::Duplicate && self.ground.head.behind_commit {
            self.ground.output.quiet = true;
        }
        if self.ground.output.quiet {
            return None;
        }
        let named = manifest.objects.iter().map(|o| (o.name.as_str(), o.length, o.records));
        let records = match self.ground.output_records(truth, named) {
            Ok(records) => records,
            Err(wrong) => {
                self.ground.output.quiet = true;
                let excused = self.ground.damage.objects.contains_key(&wrong.entity);
                return (!excused).then_some(Err(wrong));
            }
        };
        let result = self.ground.output.oracle.absorb(sink, epoch, &records);
        self.ground.output.quiet = result.is_err();
        self.ground.output.absorbed.insert((sink.to_string(), epoch));
        Some(result.map(|()| OwnDigest::of(&records)))
    }
}
