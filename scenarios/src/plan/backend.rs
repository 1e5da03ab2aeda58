//! Where the state of a run is kept and how it is written.

use runtime::state::BackendKind;

use super::{draw::Draw, faults::FaultClass};

/// What is drawn of the state backend.
pub(super) struct DrawnBackend {
    pub kind: BackendKind,
    pub incremental: bool,
    pub small_state_threshold_bytes: u64,
    pub compression: bool,
}

impl DrawnBackend {
    /// For a run of a profile. Where objects of checkpoints are to be lost, each checkpoint has files of its own: one that is
    /// shared would take all later checkpoints with it.
    pub(super) fn of(profile: &str, seed: u64, classes: &[FaultClass]) -> DrawnBackend {
        let mut draw = Draw::new(seed, "settings/backend");
        let (memory, incremental) = (draw.chance(6), draw.chance(30));
        let small = *draw.weighted(&[(75, 0u64), (10, 200), (10, 1_024), (5, 1 << 20)]);
        let mut drawn = DrawnBackend {
            kind: BackendKind::Filesystem,
            incremental: false,
            small_state_threshold_bytes: 0,
            compression: draw.chance(20),
        };
        let loses_objects =
            classes.iter().any(|class| matches!(class, FaultClass::LostObject | FaultClass::CorruptObject));
        match profile {
            "incremental" => drawn.incremental = true,
            _ if loses_objects => {}
            "local-recovery" => drawn.incremental = incremental,
            _ if memory => drawn.kind = BackendKind::Memory,
            _ => (drawn.incremental, drawn.small_state_threshold_bytes) = (incremental, small),
        }
        drawn
    }
}
