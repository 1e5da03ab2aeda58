//! The orphan sweep: deletes what no retained checkpoint and no manifest refers to: files of checkpoints that never completed,
//! of tasks that died before they acknowledged, of deletions that failed; of savepoints that were begun and never completed. Of
//! a savepoint that is complete it does not even look at the files.
//!
//! It may run only while this leader has no execution running, and after the manifests of the newest checkpoint exist. It
//! touches nothing written under a later leader: a leader that was replaced without knowing can therefore do no harm.

use std::collections::BTreeSet;

use super::{
    commit::{self, CommitError},
    head::HeadState,
    primary::Primary,
};
use crate::{
    ids::{LeaderEpoch, OperatorUid},
    journal::Event,
    layout::Layout,
    platform::{ObjectName, StoreError},
};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub deleted: Vec<ObjectName>,
    /// Unreferenced, but could not be deleted now.
    pub failed: Vec<(ObjectName, StoreError)>,
    /// Left alone: written under a later leader, or the name is not one of ours.
    pub left: Vec<ObjectName>,
    /// Sinks that were not swept because their manifests could not be read, and why.
    pub skipped_sinks: Vec<(OperatorUid, CommitError)>,
}

/// Whether an object was certainly written under the leader of `head` or an earlier one. Metadata has no leader in its name; but
/// an id that the log has granted was granted to one of them.
fn is_not_newer(layout: Layout, head: &HeadState, name: &ObjectName) -> bool {
    match layout.checkpoint_of_metadata(name) {
        Some(checkpoint) => checkpoint <= head.granted,
        None => leader_of(name).is_some_and(|leader| leader <= head.leader),
    }
}

/// The leader under which an object was written: names end in `-<leader>.<execution>-<nonce>`.
fn leader_of(name: &ObjectName) -> Option<LeaderEpoch> {
    let mut fields = name.as_str().rsplit('-');
    let nonce = fields.next()?;
    let (leader, execution) = fields.next()?.split_once('.')?;
    u64::from_str_radix(nonce, 16).ok()?;
    execution.parse::<u32>().ok()?;
    leader.parse().ok().map(LeaderEpoch)
}

/// What `head` says must stay, whatever the manifests say.
fn referenced(head: &HeadState) -> BTreeSet<ObjectName> {
    let checkpoints = head.retained.values().flat_map(|c| c.all_objects().cloned());
    let output = head.newest_sinks.values().flatten().map(|o| o.object.clone());
    checkpoints.chain(output).collect()
}

/// Deletes all unreferenced objects of the job's checkpoints and of `sinks` that were written under the leader of `head` or
/// an earlier one.
///
/// # Errors
/// [`StoreError`] if the checkpoints' objects could not be listed; nothing was deleted then.
pub async fn sweep(
    primary: &Primary,
    layout: Layout,
    head: &HeadState,
    sinks: &[OperatorUid],
) -> Result<SweepReport, StoreError> {
    let mut report = SweepReport::default();
    let keep = referenced(head);
    let listed = primary.list(&layout.checkpoints_prefix()).await?;
    delete_unreferenced(primary, layout, head, listed.into_iter().map(|m| m.name), &keep, &mut report).await;
    discard_unfinished(primary, layout, head, &mut report).await;
    for directory in &head.unfinished_savepoints {
        // No other savepoint ever has the directory, and this one can never be completed.
        for found in primary.list(&directory.prefix()).await? {
            delete_orphan(primary, found.name, &mut report).await;
        }
    }
    for sink in sinks {
        // The listing comes first: what is committed after it was written after it, or is in the manifests read below.
        let listed = match primary.list(&layout.sink_data_prefix(&sink.0)).await {
            Ok(listed) => listed,
            Err(error) => {
                let object = layout.sink_commit(&sink.0, head.newest.unwrap_or_default());
                report.skipped_sinks.push((sink.clone(), CommitError::Store { object, error }));
                continue;
            }
        };
        let manifests = match commit::read_committed(primary, layout, sink).await {
            Ok(manifests) => manifests,
            Err(error) => {
                report.skipped_sinks.push((sink.clone(), error));
                continue;
            }
        };
        let mut keep = keep.clone();
        keep.extend(manifests.into_iter().flat_map(|m| m.objects).map(|o| o.name));
        delete_unreferenced(primary, layout, head, listed.into_iter().map(|m| m.name), &keep, &mut report).await;
    }
    Ok(report)
}

/// Removes what uploads in pieces have left that were never finished: of tasks that died in the middle.
async fn discard_unfinished(primary: &Primary, layout: Layout, head: &HeadState, report: &mut SweepReport) {
    // What cannot be listed now, the next sweep looks for again.
    for name in primary.unfinished(&layout.checkpoints_prefix()).await.unwrap_or_default() {
        if is_not_newer(layout, head, &name) {
            discard(primary, name, report).await;
        } else {
            report.left.push(name);
        }
    }
    for directory in &head.unfinished_savepoints {
        for name in primary.unfinished(&directory.prefix()).await.unwrap_or_default() {
            discard(primary, name, report).await;
        }
    }
}

async fn discard(primary: &Primary, name: ObjectName, report: &mut SweepReport) {
    if let Err(error) = primary.discard_unfinished(&name).await {
        report.failed.push((name, error));
    }
}

async fn delete_unreferenced(
    primary: &Primary,
    layout: Layout,
    head: &HeadState,
    found: impl Iterator<Item = ObjectName>,
    keep: &BTreeSet<ObjectName>,
    report: &mut SweepReport,
) {
    for name in found.filter(|name| !keep.contains(name)) {
        if !is_not_newer(layout, head, &name) {
            report.left.push(name);
            continue;
        }
        delete_orphan(primary, name, report).await;
    }
}

async fn delete_orphan(primary: &Primary, name: ObjectName, report: &mut SweepReport) {
    match primary.delete(&name).await {
        Ok(()) => {
            primary.platform().journal.emit(Event::OrphanSwept { object: name.to_string() });
            report.deleted.push(name);
        }
        Err(error) => report.failed.push((name, error)),
    }
}
