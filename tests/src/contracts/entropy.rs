//! Entropy: numbers that do not repeat, neither in a stream nor between processes.

use std::collections::BTreeSet;

use super::Stage;

pub async fn draws_differ(stage: Stage) {
    let mut seen = BTreeSet::new();
    for platform in [&stage.here, &stage.there] {
        for stream in ["contract-one", "contract-two"] {
            for _ in 0..100 {
                assert!(seen.insert(platform.entropy.next_u64(stream)), "a number came twice");
            }
            assert_ne!(platform.entropy.next_u128(stream) >> 64, 0);
        }
    }
    // Every bit is used: over 400 draws each is sometimes set and sometimes not.
    let (any, all) = seen.iter().fold((0, u64::MAX), |(any, all), n| (any | n, all & n));
    assert_eq!((any, all), (u64::MAX, 0));
}
