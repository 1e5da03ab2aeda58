//! What a configuration key is: one row of the tables in [`super::keys`].

use std::time::Duration;

use super::{settings::Settings, syntax};

/// One key.
pub struct Key {
    /// Its name in today's Flink, or Weir's own.
    pub name: &'static str,
    /// Names it had, newest first; 1.8's among them. All are accepted.
    pub older: &'static [&'static str],
    /// How the default is written, in Flink's syntax. None: there is none.
    pub default: Option<&'static str>,
    /// One line.
    pub meaning: &'static str,
    pub kind: Kind,
    pub standing: Standing,
    /// The name of the test that shows that it does what it says.
    pub test: &'static str,
}

/// Whether Weir does what the key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Works,
    /// Weir knows it and cannot do it yet; what Weir does instead.
    NotYet(&'static str),
    /// What it sets does not exist in Weir, and why.
    NoMeaning(&'static str),
}

pub type Set<T> = fn(&mut Settings, T);

/// The type of a value, what is allowed, and what it sets.
pub enum Kind {
    Boolean(Set<bool>),
    Integer {
        at_least: i64,
        at_most: i64,
        set: Set<i64>,
    },
    Fraction(Set<f64>),
    /// In bytes.
    Size {
        at_least: u64,
        at_most: u64,
        set: Set<u64>,
    },
    Duration {
        at_least: Duration,
        set: Set<Duration>,
    },
    Choice(&'static [Choice]),
    /// Where a checkpoint store is: a path, or a URL with scheme `file`.
    Place(Set<String>),
    Directories(Set<Vec<String>>),
    /// Anything; what is allowed depends on other things and is checked when all keys are known.
    Text {
        of: &'static str,
        set: Set<String>,
    },
}

/// One allowed value.
pub struct Choice {
    pub value: &'static str,
    /// Other spellings, class names of Flink among them.
    pub also: &'static [&'static str],
    pub means: Means,
}

pub enum Means {
    Sets(fn(&mut Settings)),
    /// Accepted; what Weir does instead is said in a notice.
    Instead(&'static str, fn(&mut Settings)),
    /// Known to Flink and refused: doing something else would be wrong.
    Refused(&'static str),
}

/// What a value did.
pub enum Applied {
    Done,
    /// It is accepted, and this has to be said about it.
    Noticed(String),
}

impl Key {
    /// Its names, the one of today first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.older.iter().copied())
    }

    /// Reads the value and sets what it sets.
    ///
    /// # Errors
    /// What would be accepted.
    pub fn apply(&self, text: &str, settings: &mut Settings) -> Result<Applied, String> {
        match &self.kind {
            Kind::Boolean(set) => set(settings, syntax::boolean(text)?),
            Kind::Fraction(set) => set(settings, syntax::fraction(text)?),
            Kind::Integer { at_least, at_most, set } => {
                let number = syntax::integer(text).ok().filter(|n| (at_least..=at_most).contains(&n));
                set(settings, number.ok_or_else(|| self.kind.accepted())?);
            }
            Kind::Size { at_least, at_most, set } => {
                let bytes = syntax::size(text)?;
                let bytes = Some(bytes).filter(|b| (at_least..=at_most).contains(&b));
                set(settings, bytes.ok_or_else(|| self.kind.accepted())?);
            }
            Kind::Duration { at_least, set } => {
                let time = Some(syntax::duration(text)?).filter(|t| t >= at_least);
                set(settings, time.ok_or_else(|| self.kind.accepted())?);
            }
            Kind::Place(set) => set(settings, place(text)?),
            Kind::Directories(set) => {
                let directories =
                    syntax::directories(text).iter().map(|path| place(path)).collect::<Result<Vec<_>, _>>()?;
                let some = Some(directories).filter(|found| !found.is_empty());
                set(settings, some.ok_or_else(|| self.kind.accepted())?);
            }
            Kind::Text { set, .. } => set(settings, text.to_string()),
            Kind::Choice(choices) => {
                let wanted = text.trim();
                let named = |choice: &&Choice| {
                    let mut spellings = std::iter::once(choice.value).chain(choice.also.iter().copied());
                    spellings.any(|spelling| spelling.eq_ignore_ascii_case(wanted))
                };
                match choices.iter().find(named).map(|choice| &choice.means) {
                    None => return Err(self.kind.accepted()),
                    Some(Means::Refused(why)) => return Err(format!("{} ({wanted}: {why})", self.kind.accepted())),
                    Some(Means::Sets(set)) => set(settings),
                    Some(Means::Instead(what, set)) => {
                        set(settings);
                        return Ok(Applied::Noticed((*what).to_string()));
                    }
                }
            }
        }
        Ok(Applied::Done)
    }
}

impl Kind {
    /// What is accepted, for people.
    pub fn accepted(&self) -> String {
        match self {
            Kind::Boolean(_) => "true or false".to_string(),
            Kind::Fraction(_) => "a number from 0 to 1".to_string(),
            Kind::Integer { at_least, at_most: i64::MAX, .. } => format!("a whole number, at least {at_least}"),
            Kind::Integer { at_least, at_most, .. } => format!("a whole number from {at_least} to {at_most}"),
            Kind::Size { at_least: 0, at_most: u64::MAX, .. } => "a size, such as 64 mb".to_string(),
            Kind::Size { at_least, at_most: u64::MAX, .. } => {
                format!("a size such as 64 mb, at least {}", syntax::show_size(*at_least))
            }
            Kind::Size { at_least, at_most, .. } => {
                format!("a size from {} to {}", syntax::show_size(*at_least), syntax::show_size(*at_most))
            }
            Kind::Duration { at_least, .. } if at_least.is_zero() => "a duration, such as 10 s".to_string(),
            Kind::Duration { at_least, .. } => {
                format!("a duration such as 10 s, at least {}", syntax::show_duration(*at_least))
            }
            Kind::Choice(choices) => {
                let accepted = choices.iter().filter(|choice| !matches!(choice.means, Means::Refused(_)));
                accepted.map(|choice| choice.value).collect::<Vec<_>>().join(", ")
            }
            Kind::Place(_) => {
                "an absolute path or a URL with scheme file, such as file:///data/checkpoints".to_string()
            }
            Kind::Directories(_) => "absolute paths, separated by commas or colons".to_string(),
            Kind::Text { of, .. } => (*of).to_string(),
        }
    }
}

/// The path of a place. What is neither a path nor built in is refused here, and never taken for a local path.
///
/// # Errors
/// What is accepted.
pub fn place(text: &str) -> Result<String, String> {
    let text = text.trim();
    let path = match text.split_once("://") {
        None => text.strip_prefix("file:").unwrap_or(text),
        Some(("file", rest)) => match rest.strip_prefix("localhost") {
            Some(path) if path.starts_with('/') => path,
            _ => rest,
        },
        Some((scheme, _)) if syntax::is_scheme(scheme) => {
            return Err(format!("an absolute path or a URL with scheme file; no store for {scheme}:// is built in"));
        }
        Some(_) => text,
    };
    let trimmed = path.trim_end_matches('/');
    if !path.starts_with('/') || trimmed.is_empty() {
        return Err(
            "an absolute path or a URL with scheme file and a path, such as file:///data/checkpoints".to_string()
        );
    }
    Ok(trimmed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R89: a URL of scheme, authority and path; no path, no place. R11: a store that is not built in is refused by the name
    /// of its scheme and never taken for a local path.
    #[test]
    fn places_are_paths_or_urls_of_a_known_scheme() {
        for (text, path) in [
            ("file:///data/flink/checkpoints", "/data/flink/checkpoints"),
            ("file:/data/flink/", "/data/flink"),
            ("file://localhost/data", "/data"),
            ("/data/x", "/data/x"),
        ] {
            assert_eq!(place(text).as_deref(), Ok(path), "{text}");
        }
        for (text, says) in [
            ("hdfs://namenode:40010/flink/checkpoints", "no store for hdfs:// is built in"),
            ("hdfs:///checkpoints", "no store for hdfs:// is built in"),
            ("s3://bucket/path", "no store for s3:// is built in"),
            ("file://", "and a path"),
            ("file:///", "and a path"),
            ("relative/path", "and a path"),
            ("://x", "and a path"),
            ("", "and a path"),
        ] {
            let refused = place(text).expect_err(text);
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }
}
