//! Jobs that come with Weir. Every process of a cluster builds the same job from the same [`JobParams`].

use serde::{Deserialize, Serialize};

use crate::{
    api::{JobBuilder, JobError, Record, Stream},
    connectors::{LineAt, LineFileSource},
    graph::Job,
    state::UserError,
};

pub mod flights;
pub mod wordcount;

/// A file that a job reads. It must not change while the job lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    pub path: String,
    /// In bytes.
    pub length: u64,
}

/// What the jobs of this module can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobParams {
    /// The job's name, and with it its identity. None: the name it is registered by.
    pub name: Option<String>,
    pub inputs: Vec<InputFile>,
    /// Each file is read in so many splits.
    pub splits_per_file: u32,
    pub parallelism: u32,
    /// None: follows from the parallelism.
    pub max_parallelism: Option<u16>,
    /// Limits the source, all splits together.
    pub records_per_second: Option<f64>,
}

impl Default for JobParams {
    fn default() -> JobParams {
        JobParams {
            name: None,
            inputs: Vec::new(),
            splits_per_file: 2,
            parallelism: 1,
            max_parallelism: None,
            records_per_second: None,
        }
    }
}

impl JobParams {
    fn builder(&self, registered: &str) -> Result<JobBuilder, JobError> {
        if self.splits_per_file == 0 {
            return Err(JobError::Parameters("splits_per_file is 0; it must be at least 1".to_string()));
        }
        let name = self.name.as_deref().unwrap_or(registered);
        let builder = JobBuilder::new(name).parallelism(self.parallelism);
        Ok(match self.max_parallelism {
            Some(max) => builder.max_parallelism(max),
            None => builder,
        })
    }

    fn lines<T: Record>(
        &self,
        builder: &JobBuilder,
        has_header: bool,
        parse: impl Fn(LineAt<'_>, &str) -> Result<Option<T>, UserError> + Send + Sync + 'static,
    ) -> Stream<T> {
        let files: Vec<(&str, u64)> = self.inputs.iter().map(|file| (file.path.as_str(), file.length)).collect();
        let mut source = LineFileSource::with_lengths(&files, self.splits_per_file, parse);
        if has_header {
            source = source.skip_header();
        }
        if let Some(rate) = self.records_per_second {
            source = source.records_per_second(rate);
        }
        builder.source("lines", source)
    }
}

/// Where an output record comes from, so that an observer can tell which inputs the output stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Position of the split in the order of files and ranges, `file * splits_per_file + range`.
    pub split: u32,
    /// Of the line's first byte in its file.
    pub offset: u64,
}

impl From<LineAt<'_>> for Origin {
    fn from(line: LineAt<'_>) -> Origin {
        Origin { split: line.split_index, offset: line.offset }
    }
}

/// A job that can be asked for by name.
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    pub name: &'static str,
    /// One line.
    pub description: &'static str,
    pub job: fn(&JobParams) -> Result<Job, JobError>,
}

/// All jobs, by name.
pub const ALL: &[Registered] = &[
    Registered {
        name: "flights",
        description: "departures of the nycflights13 CSV: running counts, delays, cancellations per carrier and route",
        job: flights::job,
    },
    Registered { name: "wordcount", description: "running count of every word of any text files", job: wordcount::job },
];

pub fn by_name(name: &str) -> Option<&'static Registered> {
    ALL.iter().find(|job| job.name == name)
}

/// A record as a line of JSON.
fn json_line<T: Serialize>(record: &T, line: &mut Vec<u8>) {
    // Structs of strings and numbers always encode, and a vector takes everything.
    serde_json::to_writer(line, record).expect("plain records are JSON");
}

#[cfg(test)]
mod tests;
