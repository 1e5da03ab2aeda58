//! What configurations mean.

mod backends;
mod table;

use super::*;

/// A configuration of one flat file.
fn file(text: &str) -> Result<Configured, Vec<String>> {
    configure(vec![flat("flink-conf.yaml", text)]).map_err(|refused| refused.iter().map(Refusal::to_string).collect())
}

fn good(text: &str) -> Configured {
    file(text).unwrap_or_else(|refused| panic!("{text}: {refused:?}"))
}

/// The one line that says why it is refused.
fn refused(text: &str) -> String {
    let mut lines = file(text).expect_err(text);
    assert_eq!(lines.len(), 1, "{text}: {lines:?}");
    let line = lines.remove(0);
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}
