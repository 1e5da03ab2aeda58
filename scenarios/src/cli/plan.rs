//! `plan`: prints the plan of a seed as TOML.

use super::{arguments::Chosen, print, usage_error};
use crate::sweep::Exit;

pub(super) fn run(chosen: &Chosen) -> Result<Exit, String> {
    let plan = chosen.workload.of_seed(chosen.seed, chosen.profile).plan()?;
    if let Err(error) = chosen.workload.check(&plan) {
        return usage_error(&error);
    }
    print(plan.to_toml().trim_end())
}
