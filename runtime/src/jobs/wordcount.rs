//! Counts the words of text files. A word is a run of letters and digits, whatever the script, in lower case.

use serde::{Deserialize, Serialize};

use super::{JobParams, Origin, json_line};
use crate::{
    api::{JobError, KeyedProcess},
    graph::Job,
    state::{KeyedContext, OpenContext, UserError, ValueState},
};

pub type WordCountParams = JobParams;

/// A word as it stands in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    pub word: String,
    pub origin: Origin,
    /// Position among the words of the line.
    pub position: u32,
}

/// A line of output: the word was seen for the `count`th time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordCount {
    pub word: String,
    /// Also the sequence number of the output per word.
    pub count: u64,
    pub split: u32,
    pub offset: u64,
    pub position: u32,
}

/// The words of a line.
pub fn words(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Source `lines`, operator `count`, output `words`.
///
/// # Errors
/// If the parameters make no job.
pub fn job(params: &WordCountParams) -> Result<Job, JobError> {
    let builder = params.builder("wordcount")?;
    params
        .lines(&builder, false, |at, line| Ok(Some((Origin::from(at), line.to_string()))))
        .flat_map(|(origin, line): (Origin, String)| {
            let words = words(&line).zip(0..).map(|(word, position)| Word { word, origin, position });
            words.collect::<Vec<_>>()
        })
        .key_by(|word| word.word.clone())
        .process("count", Count::default)
        .sink("words", json_line);
    builder.build()
}

#[derive(Default)]
struct Count {
    count: ValueState<u64>,
}

impl KeyedProcess for Count {
    type Key = String;
    type In = Word;
    type Out = WordCount;

    fn open(&mut self, ctx: &mut OpenContext<'_, String>) -> Result<(), UserError> {
        self.count = ctx.value_state("count")?;
        Ok(())
    }

    fn process(
        &mut self,
        value: Word,
        ctx: &mut KeyedContext<'_, String>,
        out: &mut Vec<WordCount>,
    ) -> Result<(), UserError> {
        let count = self.count.get_or_default_mut(ctx)?;
        *count += 1;
        let Word { word, origin: Origin { split, offset }, position } = value;
        out.push(WordCount { word, count: *count, split, offset, position });
        Ok(())
    }
}
