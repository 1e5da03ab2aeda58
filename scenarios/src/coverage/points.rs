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

/// Passed in few runs of the default profile: not to be missed before so many runs. Ten times as many as it takes on average.
const RARE: &[(&str, u64)] = &[];

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
        "local-recovery" => {
            &["local-exactly", "local-partly", "local-not", "local-checksum-wrong", "local-length-wrong"]
        }
        "fallback" => &["fallback-by-one", "replay-of-one-epoch", "replays-to-newest", "restores-retained"],
        "store" => &["create-repeated-as-ours", "metadata-retried", "restores-retained"],
        "network" => &["zombie-speaks", "expired-with-acks", "restores-retained"],
        _ => &[],
    }
}

/// All points, with what `profile` expects of them.
pub fn declared(profile: &Profile) -> Vec<DeclaredPoint> {
    let expected: BTreeSet<&str> = expected_of(profile.name).iter().chain(QUIET).copied().collect();
    let from = |name: &str| match RARE.iter().find(|(rare, _)| *rare == name) {
        _ if profile.name != "default" => expected.contains(name).then_some(profile.minimum_seeds),
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
        for name in rare.chain(expected).chain(QUIET.iter().copied()) {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn the_default_profile_expects_every_point() {
        let declared = declared(&profile::DEFAULT);
        assert!(declared.len() >= 25);
        assert!(declared.iter().all(|point| point.from_runs.is_some()));
    }
}
