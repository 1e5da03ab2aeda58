//! Allocations with local state on this machine's disk. A TaskManager that starts again on the same machine finds them and
//! offers their slots once more, so that tasks come back to their local state.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::frame,
    ids::{AllocationId, AttemptId, SharedSlot},
    layout::LocalLayout,
    platform::{DiskError, LocalDisk, RelPath},
};

const MAGIC: [u8; 4] = *b"WESL";
const VERSION: u16 = 2;
const SLOT: &str = "slot";
const NEW_SLOT: &str = "slot.new";

/// An allocation found on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoredAllocation {
    pub allocation: AllocationId,
    /// The TaskManager's slot it was made for.
    pub slot: u32,
    /// What it holds.
    pub shared: SharedSlot,
    /// The attempt in which that was last deployed into it.
    pub since: AttemptId,
}

/// What was found below the local state root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    pub allocations: Vec<StoredAllocation>,
    /// Directories that are no usable allocation, and why; to be removed.
    pub rejected: Vec<(RelPath, String)>,
}

/// Looks for allocations.
///
/// # Errors
/// [`DiskError`] if the root cannot be listed. What is wrong with single allocations is in [`Scan::rejected`].
pub async fn scan(disk: &dyn LocalDisk) -> Result<Scan, DiskError> {
    let mut scan = Scan::default();
    for name in disk.list(&LocalLayout::root()).await? {
        let Ok(directory) = RelPath::new(format!("{}/{name}", LocalLayout::root())) else { continue };
        match read_slot(disk, &directory, &name).await {
            Ok(found) => scan.allocations.push(found),
            Err(reason) => scan.rejected.push((directory, reason)),
        }
    }
    Ok(scan)
}

async fn read_slot(disk: &dyn LocalDisk, directory: &RelPath, name: &str) -> Result<StoredAllocation, String> {
    let id = name.strip_prefix("aid_").ok_or("not the directory of an allocation")?;
    let allocation = AllocationId::try_from(id.to_string())?;
    if LocalLayout::allocation(allocation) != *directory {
        return Err("not the directory of an allocation".to_string());
    }
    let bytes = disk.read(&directory.join(SLOT), None).await.map_err(|e| e.to_string())?;
    let found = decode(&bytes).map_err(|e| format!("slot file: {e}"))?;
    if found.allocation != allocation {
        return Err(format!("slot file is of allocation {}", found.allocation));
    }
    Ok(found)
}

/// Reads the record of a slot.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<StoredAllocation, String> {
    frame::decode_value(MAGIC, VERSION, bytes).map_err(|e| e.to_string())
}

/// Records which slot an allocation is of and what it holds. To be called when that changes.
///
/// # Errors
/// [`DiskError`]: the allocation will not be found after a restart; nothing else is lost.
pub async fn write_slot(disk: &dyn LocalDisk, slot: StoredAllocation) -> Result<(), DiskError> {
    let directory = LocalLayout::allocation(slot.allocation);
    let (temporary, path) = (directory.join(NEW_SLOT), directory.join(SLOT));
    let bytes = frame::encode_value(MAGIC, VERSION, &slot)
        .map_err(|e| DiskError::Io { path: path.clone(), detail: e.to_string() })?;
    match disk.remove(&temporary).await {
        Ok(()) | Err(DiskError::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    let mut file = disk.create_new(&temporary).await?;
    file.append(bytes).await?;
    file.sync().await?;
    drop(file);
    disk.rename(&temporary, &path).await?;
    disk.sync_dir(&directory).await?;
    disk.sync_dir(&LocalLayout::root()).await
}

/// The slot is no longer held for the allocation; its local state stays for now. A TaskManager that starts does not offer it.
///
/// # Errors
/// [`DiskError`]: the record may still be there; then the JobManager is offered the slot, and refuses it.
pub async fn forget_slot(disk: &dyn LocalDisk, allocation: AllocationId) -> Result<(), DiskError> {
    let directory = LocalLayout::allocation(allocation);
    match disk.remove(&directory.join(SLOT)).await {
        Ok(()) | Err(DiskError::NotFound(_)) => disk.sync_dir(&directory).await,
        Err(error) => Err(error),
    }
}

/// The slot was freed: all local state of the allocation goes, below all `roots`.
///
/// # Errors
/// [`DiskError`]: a directory may still be there; the next scan finds it.
pub async fn release(disk: &dyn LocalDisk, roots: &[RelPath], allocation: AllocationId) -> Result<(), DiskError> {
    let mut result = disk.remove_tree(&LocalLayout::allocation(allocation)).await;
    for root in roots.iter().filter(|root| **root != LocalLayout::root()) {
        let removed = disk.remove_tree(&root.join(&LocalLayout::allocation_name(allocation))).await;
        result = result.and(removed);
    }
    result
}
