//! The end of a sweep, of one run or of merged shards: what it says, what it leaves, and its exit status.

use std::{collections::BTreeMap, io::Write, path::Path};

use reports::{Judgement, RunRecord, Summary, Verdict, failure_screen, junit, markdown, tables};

use super::{Exit, closing::ProofRecord, directory::Directory};
use crate::{confirm::command, phase::Phase, trouble::Trouble, worker::What};

/// Where GitHub takes the text of a step's summary page from.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// Folds records: the summary, and one screen per signature, that of its lowest seed.
pub(super) struct Fold {
    pub(super) summary: Summary,
    screens: BTreeMap<(Verdict, String), (u64, String)>,
}

impl Fold {
    pub(super) fn new(summary: Summary) -> Fold {
        Fold { summary, screens: BTreeMap::new() }
    }

    /// `what` is how the run is asked for again. Gives whether the failure is a new one.
    pub(super) fn add(
        &mut self,
        record: &RunRecord,
        what: &What,
        directory: Option<&Directory>,
    ) -> Result<bool, Trouble> {
        self.summary.add(record);
        if !record.verdict.is_failure() {
            return Ok(false);
        }
        let key = (record.verdict, record.signature.clone().unwrap_or_else(|| record.verdict.name().to_string()));
        let known = self.screens.get(&key).map(|(seed, _)| *seed);
        if known.is_some_and(|seed| seed <= record.seed) {
            return Ok(false);
        }
        let plan = directory.map_or(Ok(None), |directory| directory.plan(record))?;
        let screen = failure_screen(record, &command(what, &record.profile, plan.as_deref()));
        self.screens.insert(key, (record.seed, screen));
        Ok(known.is_none())
    }
}

pub(super) fn say(out: &mut dyn Write, text: &str) -> Result<(), Trouble> {
    writeln!(out, "{text}").map_err(|error| Trouble::Environment(format!("cannot write to standard output: {error}")))
}

pub(super) struct Conclusion {
    pub(super) fold: Fold,
    pub(super) proofs: Vec<ProofRecord>,
    /// What else keeps the sweep from being believed.
    pub(super) complaints: Vec<String>,
}

impl Conclusion {
    fn blind(&self) -> Vec<String> {
        let proofs = self.proofs.iter().filter(|proof| proof.is_blind());
        let mut blind: Vec<String> = proofs.filter_map(|proof| proof.checked().wrong).collect();
        if let Judgement::Blind(missing) = self.fold.summary.judgement() {
            blind.extend(missing);
        }
        blind.extend(self.complaints.iter().cloned());
        let broken = self.fold.summary.count(Verdict::Harness);
        if broken > 0 {
            blind.push(format!("the harness itself broke in {broken} runs"));
        }
        blind
    }

    fn exit(&self) -> Exit {
        let summary = &self.fold.summary;
        let of_proofs = |wanted: Exit| {
            let whole = self.proofs.iter().filter(|proof| !proof.must_fail);
            whole.filter(|proof| Exit::of(proof.verdict) == wanted).count() > 0
        };
        let shaken = self.proofs.iter().any(|proof| proof.verdict == Verdict::Nondeterminism);
        let others = [Verdict::Nondeterminism, Verdict::Harness].into_iter().map(|verdict| summary.count(verdict));
        if of_proofs(Exit::Violation) || summary.failed_runs() > others.sum() {
            Exit::Violation
        } else if shaken || summary.count(Verdict::Nondeterminism) > 0 {
            Exit::Nondeterminism
        } else if self.blind().is_empty() {
            Exit::Clean
        } else {
            Exit::Blind
        }
    }

    /// Says everything, writes what is derived from the records into `directory`, and gives the exit status.
    pub(super) fn tell(&self, directory: Option<&Directory>, out: &mut dyn Write) -> Result<Exit, Trouble> {
        let Fold { summary, screens } = &self.fold;
        for (_, screen) in screens.values() {
            say(out, &format!("\n{screen}"))?;
        }
        let phases = Phase::names();
        say(out, &format!("\n{}", tables::summary_text(summary, &phases).trim_end()))?;
        let exit = self.exit();
        let checked: Vec<_> = self.proofs.iter().map(ProofRecord::checked).collect();
        if let Some(directory) = directory {
            let text =
                serde_json::to_string_pretty(summary).map_err(|error| Trouble::Environment(error.to_string()))?;
            directory.file("summary.json", &text)?;
            let screens = screens.iter().map(|((_, signature), (_, screen))| (signature.clone(), screen.clone()));
            let text = junit::junit(summary, &checked, &self.complaints, &screens.collect())?;
            directory.file("junit.xml", &text)?;
            say(out, &format!("wrote  {}", directory.path().display()))?;
        }
        if let Some(path) = std::env::var_os(STEP_SUMMARY).filter(|path| !path.is_empty()) {
            let text = markdown::step_summary(summary, exit.word(), &checked, &self.complaints, &phases);
            append(Path::new(&path), &text)?;
        }
        for reason in self.blind() {
            say(out, &format!("blind  {reason}"))?;
        }
        Ok(exit)
    }
}

fn append(path: &Path, text: &str) -> Result<(), Trouble> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options.append(true).create(true).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Trouble::Environment(format!("{STEP_SUMMARY}: cannot write {}: {error}", path.display())))
}
