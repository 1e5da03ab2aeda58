//! The plans of a few seeds, pinned: a seed means something only while it gives the same plan. A change here is a new
//! generator version and makes old seeds mean something else.

use scenarios::plan::{Profile, generate};
use xxhash_rust::xxh3::xxh3_64;

#[test]
fn seeds_keep_their_plans() {
    let plans: Vec<String> =
        ["default", "quiet", "local-recovery", "fallback", "store", "network", "clocks", "processes"]
            .iter()
            .flat_map(|name| [0u64, 1, 17, 4_242].map(|seed| (*name, seed)))
            .map(|(name, seed)| {
                let profile = Profile::named(name).expect("declared");
                let plan = generate(profile, seed);
                format!("{name} {seed}: {} faults, {:016x}", plan.faults.len(), xxh3_64(plan.to_toml().as_bytes()))
            })
            .collect();
    insta::assert_snapshot!("plans", plans.join("\n"));
    let network = Profile::named("network").expect("declared");
    insta::assert_snapshot!("network-17", generate(network, 17).to_toml());
}
