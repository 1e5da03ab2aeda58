//! Puts the directories of several shards together. What comes out is what one run over all of them would have left, whatever
//! their order, and however often one of them is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use reports::{RunRecord, Summary, Verdict};

use super::{
    Exit, Shard,
    closing::Closing,
    conclusion::{Conclusion, Fold, say},
    directory::{self, Directory},
    options::expectation_of,
    records::{self, Place},
    stored::Stored,
};
use crate::{confirm::conflict, trouble::Trouble, worker::What};

/// Stands for the program where the shards were run by different ones.
const SEVERAL: &str = "several";

struct Source {
    path: PathBuf,
    records: Option<File>,
}

/// # Errors
/// If a directory cannot be read or makes no sense, if the directories hold different sweeps, or if `out` holds one already.
pub fn merge(directories: &[PathBuf], out: &Path, say_to: &mut dyn Write) -> Result<Exit, Trouble> {
    let mut complaints = Vec::new();
    let mut closings: BTreeMap<Option<Shard>, Closing> = BTreeMap::new();
    let mut places: BTreeMap<u64, Vec<(usize, Place)>> = BTreeMap::new();
    let mut sources = Vec::new();
    let mut merged: Option<(PathBuf, Stored)> = None;
    for path in directories {
        let stored = directory::stored(path)?;
        merged = Some(match merged {
            None => (path.clone(), Stored { shard: None, ..stored.clone() }),
            Some((first, known)) => {
                let comparable = Stored { shard: None, build: known.build.clone(), ..stored.clone() };
                if let Some(difference) = known.difference(&comparable) {
                    return Err(Trouble::Usage(format!(
                        "{} and {} hold different sweeps: {}",
                        first.display(),
                        path.display(),
                        difference.replace(" there", " in the first").replace(" here", " in the second")
                    )));
                }
                let build = if known.build == stored.build { known.build } else { SEVERAL.to_string() };
                (first, Stored { build, ..known })
            }
        });
        let index = sources.len();
        let mut runs = 0;
        directory::records_of(path, &stored, &mut |place, record| {
            runs += 1;
            places.entry(record.seed).or_default().push((index, place));
            Ok(())
        })?;
        let records = path.join(records::FILE);
        let records = match File::open(&records) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Trouble::file("read", &records, &error)),
        };
        sources.push(Source { path: path.clone(), records });
        let mut ended = directory::closings(path)?;
        if ended.is_empty() {
            ended.push(Closing::missing(stored.clone(), runs));
        }
        let told: u64 = ended.iter().fold(0, |sum, closing| sum.saturating_add(closing.runs));
        if told > runs && ended.iter().all(|closing| closing.ended) {
            complaints.push(format!("{}: its closing says {told} runs, its records are {runs}", path.display()));
        }
        for closing in ended {
            let entry = closings.entry(closing.options.shard);
            // The one that says more; it does not matter which directory was named first.
            entry.and_modify(|known| *known = known.clone().max(closing.clone())).or_insert(closing);
        }
    }
    let Some((_, options)) = merged else { return Err(Trouble::Usage("say which directories".to_string())) };
    let total = total_of(&closings)?;
    complaints.extend(missing(&closings, total));

    let mut summary = Summary::new(expectation_of(&options));
    let work = |closing: &Closing| u128::from(closing.elapsed_ms) * u128::from(closing.jobs);
    let worked: u128 = closings.values().map(work).sum();
    summary.cores = closings.values().fold(0, |sum: u64, closing| sum.saturating_add(closing.jobs)).max(1);
    summary.elapsed_ms = u64::try_from(worked / u128::from(summary.cores)).unwrap_or(u64::MAX).max(1);
    let mut fold = Fold::new(summary);
    let mut out = Directory::create(out, &options)?;
    for (seed, places) in places {
        let mut lines = BTreeSet::new();
        for (source, place) in places {
            lines.insert(line_at(&mut sources[source], place)?);
        }
        let (line, record) = one_of(seed, &lines)?;
        let what = What::Seed {
            seed,
            profile: options.profile.clone(),
            job: options.job.clone(),
            parameters: options.parameters.clone(),
        };
        fold.add(&record, &what, Some(&out))?;
        out.add_line(&line)?;
    }
    let shards: Vec<Closing> = closings.into_values().collect();
    for closing in shards.iter().filter(|closing| closing.ended && !closing.complete) {
        let shard = closing.options.shard.map_or_else(String::new, |shard| format!(" of shard {shard}"));
        let (runs, seeds) = (closing.runs, closing.options.seeds());
        say(say_to, &format!("budget  {runs} of {seeds} seeds{shard} were run"))?;
    }
    if options.build == SEVERAL {
        say(say_to, "note   the shards were run by different builds of the program")?;
    }
    let proofs: BTreeSet<_> = shards.iter().flat_map(|closing| closing.proofs.iter().cloned()).collect();
    let conclusion = Conclusion { fold, proofs: proofs.into_iter().collect(), complaints };
    let exit = conclusion.tell(Some(&out), say_to)?;
    out.close(&shards)?;
    Ok(exit)
}

/// # Errors
/// If the shards are not of one division.
fn total_of(closings: &BTreeMap<Option<Shard>, Closing>) -> Result<Option<u64>, Trouble> {
    let totals: BTreeSet<u64> = closings.keys().flatten().map(|shard| shard.total).collect();
    let shown: Vec<String> = totals.iter().map(u64::to_string).collect();
    if totals.len() > 1 {
        return Err(Trouble::Usage(format!("the shards are of different divisions: of {}", shown.join(" and of "))));
    }
    Ok(totals.first().copied())
}

/// Shards that nobody has closed, by name.
fn missing(closings: &BTreeMap<Option<Shard>, Closing>, total: Option<u64>) -> Vec<String> {
    let mut missing = Vec::new();
    for (shard, closing) in closings.iter().filter(|(_, closing)| !closing.ended) {
        let shard = shard.map_or("the sweep".to_string(), |shard| format!("shard {shard}"));
        missing
            .push(format!("{shard} has no closing record: it was killed after {} runs, or still runs", closing.runs));
    }
    if closings.get(&None).is_some_and(|closing| closing.ended) {
        return missing;
    }
    // Not one by one: a broken file may say that there are billions.
    let total = total.unwrap_or(0);
    let absent = (0..total).filter(|index| !closings.contains_key(&Some(Shard { index: *index, total })));
    let named: Vec<String> = absent.take(8).map(|index| format!("{index}/{total}")).collect();
    let present = closings.keys().flatten().count() as u64;
    if !named.is_empty() {
        let all = total - present;
        let more =
            if all > named.len() as u64 { format!(" and {} more", all - named.len() as u64) } else { String::new() };
        missing.push(format!("no records of shard {}{more}", named.join(", ")));
    }
    missing
}

fn line_at(source: &mut Source, place: Place) -> Result<Vec<u8>, Trouble> {
    let path = source.path.join(records::FILE);
    let Some(file) = &mut source.records else {
        return Err(Trouble::Environment(format!("{} has vanished", path.display())));
    };
    let mut line = vec![0; usize::try_from(place.bytes).unwrap_or(usize::MAX)];
    file.seek(SeekFrom::Start(place.offset))
        .and_then(|_| file.read_exact(&mut line))
        .map_err(|error| Trouble::file("read", &path, &error))?;
    line.push(b'\n');
    Ok(line)
}

/// What all that was said about one seed amounts to. `lines` are in order, so that it does not depend on who was asked first.
fn one_of(seed: u64, lines: &BTreeSet<Vec<u8>>) -> Result<(Vec<u8>, RunRecord), Trouble> {
    let read = |line: &[u8]| {
        serde_json::from_slice::<RunRecord>(line)
            .map_err(|error| Trouble::Environment(format!("the record of seed {seed} has changed: {error}")))
    };
    let mut lines = lines.iter();
    let Some(first) = lines.next() else {
        return Err(Trouble::Environment(format!("the record of seed {seed} has vanished")));
    };
    let (mut line, mut record) = (first.clone(), read(first)?);
    for other_line in lines {
        let other = read(other_line)?;
        if record.verdict == Verdict::Nondeterminism || record.is_same_run(&other) {
            // The same run took another time on another machine; or it is known already that two runs differ.
        } else if other.verdict == Verdict::Nondeterminism {
            (line, record) = (other_line.clone(), other);
        } else {
            record = conflict(record, other);
            line = serde_json::to_vec(&record).map_err(|error| Trouble::Environment(error.to_string()))?;
            line.push(b'\n');
        }
    }
    Ok((line, record))
}
