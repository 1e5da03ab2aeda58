//! Draws the faults of databases, of their files, of shared objects, and of uploads in pieces.

use runtime::journal::EventKind;

use super::{
    draw::Draw,
    faults::{
        Damage, DiskErrorKind, DiskOperation, EMITTER, FaultClass, FaultKind, ObjectChoice, STORE, StoreErrorKind,
        StoreOperation, Trigger,
    },
    generate_faults::{Maker, on},
};

/// The steps of a native checkpoint, of its upload and of its restore, with how often one comes per checkpoint or restart.
const NATIVE_STEPS: &[(EventKind, u64)] = &[
    (EventKind::SnapshotAsyncStarted, 6),
    (EventKind::NativeCheckpointTaken, 2),
    (EventKind::PartPieceUploaded, 8),
    (EventKind::PartUploaded, 8),
    (EventKind::NativeCheckpointWritten, 2),
    (EventKind::PartRestoredFromPrimary, 2),
    (EventKind::DatabaseOpened, 1),
];

impl Maker<'_> {
    pub(super) fn add_native(&mut self, class: FaultClass, draw: &mut Draw) {
        match class {
            FaultClass::UploadError => {
                let at = Trigger::AtMs(self.time(draw));
                let between_pieces = on(EventKind::PartPieceUploaded, draw.within(1, 60));
                let trigger = if draw.chance(70) { between_pieces } else { at };
                let error = *draw.pick(&[
                    StoreErrorKind::ErrorBefore,
                    StoreErrorKind::ErrorAfter,
                    StoreErrorKind::TimeoutBefore,
                    StoreErrorKind::TimeoutAfter,
                ]);
                // The many outlast the patience of the uploader.
                let count = u32::try_from(*draw.weighted(&[(45, 1u64), (25, 3), (30, 60)])).expect("small");
                let (operation, name_contains) = (StoreOperation::Upload, String::new());
                self.push(STORE, trigger, 0, FaultKind::StoreErrors { operation, name_contains, error, count });
            }
            FaultClass::LostShared | FaultClass::CorruptShared => {
                let index = u32::try_from(draw.within(0, 31)).expect("small");
                let checkpoint = draw.within(3, 9);
                let delay_ms = *draw.pick(&[0, 0, 20, 100]);
                let victim = self.task_manager(draw);
                let restart = draw.within(0, 1_000);
                let object = ObjectChoice::Shared;
                let fault = match class {
                    FaultClass::LostShared => FaultKind::LoseObject { object, index },
                    _ => FaultKind::CorruptObject { object, index },
                };
                self.push(STORE, on(EventKind::CheckpointCompleted, checkpoint), 0, fault);
                let ordinal = u32::try_from(checkpoint).expect("small");
                let event = EventKind::CheckpointCompleted;
                let trigger = Trigger::On { event, entity: None, ordinal, delay_ms };
                self.push(victim, trigger, 0, FaultKind::Crash { restart_after_ms: Some(restart) });
            }
            FaultClass::DatabaseError | FaultClass::DatabaseFull => {
                let (target, trigger) = self.native_moment(draw);
                let operation = *draw.weighted(&[
                    (35, DiskOperation::DatabaseFlush),
                    (35, DiskOperation::DatabaseCheckpoint),
                    (20, DiskOperation::DatabaseCompact),
                    (10, DiskOperation::DatabaseOpen),
                ]);
                let error = match class {
                    FaultClass::DatabaseFull => DiskErrorKind::NoSpace,
                    _ => DiskErrorKind::InputOutput,
                };
                let count = u32::try_from(draw.within(1, 3)).expect("small");
                self.push(target, trigger, 0, FaultKind::DiskErrors { operation, error, count });
            }
            FaultClass::NativeFileError => {
                let (target, trigger) = self.native_moment(draw);
                let (operation, error) = *draw.pick(&[
                    (DiskOperation::NativeRead, DiskErrorKind::InputOutput),
                    (DiskOperation::NativeWrite, DiskErrorKind::InputOutput),
                    (DiskOperation::NativeWrite, DiskErrorKind::NoSpace),
                    (DiskOperation::Adopt, DiskErrorKind::InputOutput),
                    (DiskOperation::Adopt, DiskErrorKind::NoSpace),
                ]);
                let count = u32::try_from(draw.within(1, 4)).expect("small");
                self.push(target, trigger, 0, FaultKind::DiskErrors { operation, error, count });
            }
            // Damages tables in local copies, and then makes the job restore, so that somebody looks at them.
            FaultClass::LocalTable => {
                let damage = *draw.pick(&[Damage::Missing, Damage::Torn, Damage::Corrupt]);
                let files = u32::try_from(*draw.weighted(&[(70, 1u64), (30, 100)])).expect("small");
                let completed = on(EventKind::CheckpointCompleted, draw.within(2, 8));
                let (target, victim) = (self.task_manager(draw), self.task_manager(draw));
                self.push(target, completed.clone(), 0, FaultKind::LocalTables { damage, files });
                let restart_after_ms = Some(draw.within(0, 500));
                self.push(victim, completed, 0, FaultKind::Crash { restart_after_ms });
            }
            _ => {}
        }
    }

    /// A TaskManager and a moment at which its databases or their files are being used, or any.
    fn native_moment(&self, draw: &mut Draw) -> (String, Trigger) {
        let (name, at) = (self.task_manager(draw), self.time(draw));
        let by_event = draw.chance(60);
        let (event, per_checkpoint) = *draw.pick(NATIVE_STEPS);
        let ordinal = draw.within(1, per_checkpoint * 6);
        if by_event { (EMITTER.to_string(), on(event, ordinal)) } else { (name, Trigger::AtMs(at)) }
    }

    /// A process dies between two steps of a native checkpoint, an upload or a restore.
    pub(super) fn add_kill_between_native_steps(&mut self) {
        let mut draw = Draw::new(self.plan.seed, "faults/native-steps");
        let wanted = draw.chance(35);
        let (event, per_checkpoint) = *draw.pick(NATIVE_STEPS);
        let ordinal = draw.within(1, per_checkpoint * 8);
        let restart_after_ms = Some(*draw.pick(&[0, 50, 300, 1_000]));
        if wanted {
            self.push(EMITTER, on(event, ordinal), 0, FaultKind::Crash { restart_after_ms });
        }
    }
}
