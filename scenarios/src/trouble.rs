//! Why a command could do nothing, in one line: what was asked makes no sense, or the machine would not do it.

use std::path::Path;

use crate::exit::Exit;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Environment(String),
}

impl Trouble {
    pub fn exit(&self) -> Exit {
        match self {
            Trouble::Usage(_) => Exit::Usage,
            Trouble::Environment(_) => Exit::Environment,
        }
    }

    /// A file that could not be read or written.
    pub fn file(verb: &str, path: &Path, error: &std::io::Error) -> Trouble {
        Trouble::Environment(format!("cannot {verb} {}: {error}", path.display()))
    }

    /// A file that says what makes no sense.
    pub fn content(path: &Path, error: impl std::fmt::Display) -> Trouble {
        let text = format!("{}: {error}", path.display());
        Trouble::Usage(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl From<String> for Trouble {
    fn from(message: String) -> Trouble {
        Trouble::Environment(message)
    }
}
