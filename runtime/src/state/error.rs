//! What user code and the runtime agree on: records that can travel, and errors that fail the attempt.

use std::{error::Error, fmt};

use serde::{Serialize, de::DeserializeOwned};

/// Anything that can travel between operators.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Clone + Send + 'static> Record for T {}

/// An error of user code. Fails the attempt; the runtime adds the operator's uid.
///
/// It does not implement [`Error`] itself, so that `?` turns every error into it.
pub struct UserError {
    message: String,
}

impl UserError {
    pub fn new(message: impl Into<String>) -> UserError {
        UserError { message: message.into() }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn into_message(self) -> String {
        self.message
    }
}

/// State could not be read or written. Fails the attempt, unless user code thinks otherwise.
///
/// In a box, so that the result of a read is as small as a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state {:?}: {}", .0.state, .0.problem)]
pub struct StateError(Box<StateErrorDetail>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct StateErrorDetail {
    state: String,
    problem: StateProblem,
}

/// What was wrong with a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateProblem {
    #[error("a {what} of {bytes} bytes, the limit is {limit} bytes")]
    TooLarge { what: &'static str, bytes: u64, limit: u64 },
    #[error("a {what} does not encode: {detail}")]
    Encode { what: &'static str, detail: String },
    #[error("a {what} does not decode: {detail}")]
    Decode { what: &'static str, detail: String },
    #[error("the database failed: {0}")]
    Database(String),
}

impl StateError {
    pub fn new(state: impl Into<String>, problem: StateProblem) -> StateError {
        StateError(Box::new(StateErrorDetail { state: state.into(), problem }))
    }

    /// The name of the state.
    pub fn state(&self) -> &str {
        &self.0.state
    }

    pub fn problem(&self) -> &StateProblem {
        &self.0.problem
    }
}

impl<E: Error> From<E> for UserError {
    fn from(error: E) -> UserError {
        // The causes too: the outermost message alone often says little.
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            cause = inner.source();
        }
        UserError { message }
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserError({:?})", self.message)
    }
}
