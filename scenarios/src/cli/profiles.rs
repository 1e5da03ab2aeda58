//! `profiles`: lists the profiles that plans are drawn from.

use super::print;
use crate::{plan::generate, rehearsal, sweep::Exit};

pub(super) fn run() -> Result<Exit, String> {
    let mut text = String::new();
    for profile in crate::plan::profile::ALL {
        let faults = generate(profile, 0).faults.len();
        text.push_str(&format!(
            "{:<15} {} ({} fault classes, {faults} faults under seed 0, judged from {} seeds on)\n",
            profile.name,
            profile.about,
            profile.faults.len(),
            profile.minimum_seeds
        ));
    }
    text.push_str(&format!("parameters of the job {}: {}", rehearsal::NAME, rehearsal::PARAMETERS.join(", ")));
    print(&text)
}
