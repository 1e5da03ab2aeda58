//! All declared points in one table, and from how many runs of a profile on each must have been passed.

use std::collections::BTreeSet;

use reports::DeclaredPoint;
use runtime::points::{Point, PointKind};

use super::watch;
use crate::plan::Profile;

/// Every point with its kind and meaning: the runtime's in the order of its table, then the harness's.
fn all() -> impl Iterator<Item = watch::Declared> {
    let of_runtime = Point::ALL.iter().map(|point| (point.name(), point.kind(), point.about()));
    of_runtime.chain(watch::DECLARED.iter().copied())
}

/// Passed in few runs of the default profile: not to be missed before so many runs. About ten times as many as it takes on
/// average, so that a miss is no accident.
const RARE: &[(&str, u64)] = &[
    ("savepoint-overtaken", 15_000),
    ("new-leader-finds-stop", 10_000),
    ("report-of-old-attempt", 10_000),
    ("stop-revoked", 4_000),
    ("local-dropped-while-written", 4_000),
    ("late-ack-of-stranger", 2_000),
    ("expired-without-ack", 2_000),
    ("last-checkpoint-retried", 2_000),
    ("replay-interrupted", 5_000),
    ("fallback-by-more", 4_000),
    ("replay-of-several-epochs", 2_000),
    ("leader-dies-in-recovery", 2_000),
    ("declined-during-alignment", 2_000),
    ("declined-with-acks", 2_000),
    ("placed-by-state", 1_200),
    ("restore-postponed", 1_000),
    ("create-given-up-in-doubt", 1_000),
    ("create-still-in-doubt", 1_000),
    ("zombie-speaks", 1_000),
    ("loss-heard-late", 750),
    ("local-of-others", 700),
    ("no-previous-slot", 500),
    ("local-part-missing", 500),
    ("stopped-while-writing-metadata", 400),
    ("head-fenced", 400),
    ("create-taken", 400),
    ("stepped-down-in-completion", 400),
    ("stopped-while-appending", 400),
    ("completed-while-stopped", 400),
    ("metadata-of-aborted", 400),
    ("local-manifest-wrong", 600),
    ("local-length-wrong", 400),
    ("local-checksum-wrong", 400),
    ("pending-subsumed", 400),
];

/// Not passed in a thousand runs of the default profile, and so not expected of it; shown, so that it is known. Some take a
/// coincidence that only a run placed on purpose brings about; `order-of-old-leader` and `deployment-cancelled` take messages
/// out of order on one connection; `fallback-to-beginning` takes the loss of every whole checkpoint, which the nemesis
/// withholds; `base-is-gone` takes a subtask that hears of no completion while as many complete as are retained;
/// `savepoint-at-the-end` takes a client whose request comes between the last record and the last checkpoint; `upload-given-up`
/// takes parts larger than a piece, which the profile `store` has; `local-file-linked` takes incremental snapshots of databases,
/// which the profile `rocksdb` has and this one in one run of ten thousand.
const NOT_DUE: &[&str] = &[
    "barrier-overtakes",
    "sink-uploads-full",
    "new-leader-finds-all-input",
    "order-of-old-leader",
    "deployment-cancelled",
    "fallback-to-beginning",
    "base-is-gone",
    "savepoint-at-the-end",
    "upload-given-up",
    "local-file-linked",
];

/// What every run must pass, with faults or without.
const QUIET: &[&str] = &[
    "completes-upwards",
    "acks-of-one-attempt",
    "ids-from-granted-block",
    "retains-as-configured",
    "commit-meets-no-void",
    "deploys-on-confirmed",
];

/// What the smaller profiles are for.
fn expected_of(profile: &str) -> &'static [&'static str] {
    match profile {
        "local-recovery" => &["local-exactly", "local-partly", "local-not", "slots-remembered"],
        "rescale" => &["local-of-others"],
        "fallback" => &["fallback-by-one", "replay-of-one-epoch", "replays-to-newest", "restores-retained"],
        "store" => &["create-repeated-as-ours", "metadata-retried", "restores-retained", "upload-given-up"],
        "rocksdb" => &["local-file-linked"],
        "network" => &["expired-with-acks", "all-previous-slots", "restores-retained"],
        _ => &[],
    }
}

/// All points, with what `profile` expects of them.
pub fn declared(profile: &Profile) -> Vec<DeclaredPoint> {
    let expected: BTreeSet<&str> = expected_of(profile.name).iter().chain(QUIET).copied().collect();
    let from = |name: &str| match RARE.iter().find(|(rare, _)| *rare == name) {
        _ if profile.name != "default" => expected.contains(name).then_some(profile.minimum_seeds),
        _ if NOT_DUE.contains(&name) => None,
        Some((_, runs)) => Some(profile.minimum_seeds.max(*runs)),
        None => Some(profile.minimum_seeds),
    };
    all()
        .map(|(name, kind, about)| DeclaredPoint {
            name: name.to_string(),
            kind: PointKind::name(kind).to_string(),
            about: about.to_string(),
            from_runs: from(name),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::profile;

    #[test]
    fn every_name_in_the_lists_is_a_declared_point() {
        let names: BTreeSet<&str> = all().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), all().count(), "names are unique");
        let rare = RARE.iter().map(|(name, _)| *name);
        let expected = profile::ALL.iter().flat_map(|profile| expected_of(profile.name)).copied();
        for name in rare.chain(expected).chain(QUIET.iter().chain(NOT_DUE).copied()) {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn the_default_profile_expects_nearly_every_point() {
        let declared = declared(&profile::DEFAULT);
        let due = declared.iter().filter(|point| point.from_runs.is_some()).count();
        assert!(due >= 60 && due + NOT_DUE.len() == declared.len(), "{due} of {}", declared.len());
    }
}
