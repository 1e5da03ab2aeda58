//! How the faults of databases, of their files, of shared objects, and of uploads in pieces are placed alone.

use super::{
    faults::{
        Damage, DiskErrorKind, DiskOperation, FaultClass, FaultKind, ObjectChoice, StoreErrorKind, StoreOperation,
    },
    singles::{PARTS, SingleFault, Sites, Strike, Victim, Witness},
};

/// More errors than an uploader has patience for.
const MANY: u32 = 60;

/// Those of one class; of the others nothing.
pub(super) fn of_class(class: FaultClass) -> Vec<SingleFault> {
    let of = |variant: String, sites, victim, kind, witness| SingleFault {
        class,
        variant,
        sites,
        victim,
        duration_ms: 0,
        strike: Strike::World(kind),
        witness,
    };
    let on_disk = |variant: &str, operation, error| {
        let fault = FaultKind::DiskErrors { operation, error, count: 1 };
        of(variant.to_string(), Sites::DiskUse, Victim::Emitter, fault, None)
    };
    let databases = [
        ("open", DiskOperation::DatabaseOpen),
        ("flush", DiskOperation::DatabaseFlush),
        ("compaction", DiskOperation::DatabaseCompact),
        ("native checkpoint", DiskOperation::DatabaseCheckpoint),
    ];
    match class {
        FaultClass::UploadError => [
            ("before", StoreErrorKind::ErrorBefore, 1),
            ("after", StoreErrorKind::ErrorAfter, 1),
            ("timeout", StoreErrorKind::TimeoutBefore, 1),
            ("for good", StoreErrorKind::ErrorBefore, MANY),
        ]
        .map(|(variant, error, count)| {
            let (operation, name_contains) = (StoreOperation::Upload, String::new());
            let fault = FaultKind::StoreErrors { operation, name_contains, error, count };
            of(variant.to_string(), Sites::DiskUse, Victim::Store, fault, None)
        })
        .to_vec(),
        FaultClass::LostShared | FaultClass::CorruptShared => (0..PARTS)
            .map(|index| {
                let object = ObjectChoice::Shared;
                let fault = match class {
                    FaultClass::LostShared => FaultKind::LoseObject { object, index },
                    _ => FaultKind::CorruptObject { object, index },
                };
                let witness = Some(Witness::OtherTaskManager);
                of(format!("object {index}"), Sites::Completion, Victim::Store, fault, witness)
            })
            .collect(),
        FaultClass::DatabaseError => {
            databases.map(|(name, operation)| on_disk(name, operation, DiskErrorKind::InputOutput)).to_vec()
        }
        FaultClass::DatabaseFull => {
            databases.map(|(name, operation)| on_disk(name, operation, DiskErrorKind::NoSpace)).to_vec()
        }
        FaultClass::NativeFileError => vec![
            on_disk("read", DiskOperation::NativeRead, DiskErrorKind::InputOutput),
            on_disk("write", DiskOperation::NativeWrite, DiskErrorKind::InputOutput),
            on_disk("write, no space", DiskOperation::NativeWrite, DiskErrorKind::NoSpace),
            on_disk("adopt", DiskOperation::Adopt, DiskErrorKind::InputOutput),
        ],
        FaultClass::LocalTable => [("missing", Damage::Missing), ("torn", Damage::Torn), ("corrupt", Damage::Corrupt)]
            .map(|(variant, damage)| {
                let fault = FaultKind::LocalTables { damage, files: 1 };
                let witness = Some(Witness::OtherTaskManager);
                of(variant.to_string(), Sites::Completion, Victim::EachTaskManager, fault, witness)
            })
            .to_vec(),
        _ => Vec::new(),
    }
}
