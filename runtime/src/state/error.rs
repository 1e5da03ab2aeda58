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
