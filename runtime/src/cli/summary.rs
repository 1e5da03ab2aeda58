//! What a job put out, for a person: read back from the committed manifests, as any reader would.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

use crate::{
    checkpoint::{commit::read_committed, primary::Primary},
    graph::Job,
    ids::OperatorUid,
    layout::Layout,
};

/// Rows shown for each output.
const ROWS: usize = 16;

/// The committed lines of one output, in commit order.
///
/// # Errors
/// If a manifest or an object it lists cannot be read.
pub async fn committed_lines(primary: &Primary, layout: Layout, sink: &OperatorUid) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for manifest in read_committed(primary, layout, sink).await.map_err(|e| e.to_string())? {
        for object in &manifest.objects {
            let bytes =
                primary.read_exact(&object.name, object.length).await.map_err(|e| format!("{}: {e}", object.name))?;
            lines.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_string));
        }
    }
    Ok(lines)
}

/// A readable account of all outputs: for each its number of records and the final value of its biggest keys.
///
/// # Errors
/// As [`committed_lines`].
pub async fn summarise(primary: &Primary, layout: Layout, job: &Job) -> Result<String, String> {
    let mut text = String::new();
    let sinks = job.graph.vertices.iter().flat_map(|v| &v.sinks);
    for sink in sinks {
        let lines = committed_lines(primary, layout, sink).await?;
        let last = final_values(&lines);
        let _ = writeln!(text, "\n{sink}: {} records, {} keys", lines.len(), last.len());
        let mut rows: Vec<_> = last.into_iter().collect();
        rows.sort_by(|a, b| b.1.0.cmp(&a.1.0).then_with(|| a.0.cmp(&b.0)));
        for (key, (sequence, value)) in rows.iter().take(ROWS) {
            let _ = writeln!(text, "  {key:<14} {sequence:>8}{}", details(value));
        }
        if rows.len() > ROWS {
            let _ = writeln!(text, "  … and {} more", rows.len() - ROWS);
        }
    }
    Ok(text)
}

/// Per key the record with the highest sequence number.
fn final_values(lines: &[String]) -> BTreeMap<String, (u64, Value)> {
    let mut last: BTreeMap<String, (u64, Value)> = BTreeMap::new();
    for line in lines {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let key = ["key", "word"].iter().find_map(|name| value.get(name)?.as_str());
        let sequence = ["sequence", "count"].iter().find_map(|name| value.get(name)?.as_u64());
        let (Some(key), Some(sequence)) = (key.map(str::to_string), sequence) else { continue };
        if last.get(&key).is_none_or(|(known, _)| sequence > *known) {
            last.insert(key, (sequence, value));
        }
    }
    last
}

fn details(value: &Value) -> String {
    let mut text = String::new();
    if let Some(cancelled) = value.get("cancelled").and_then(Value::as_u64) {
        let _ = write!(text, "  cancelled {cancelled:>5}");
    }
    if let Some(mean) = value.get("mean_delay").and_then(Value::as_f64) {
        let _ = write!(text, "  mean delay {mean:>7.2} min");
    }
    text
}
