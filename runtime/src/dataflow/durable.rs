//! The one place where the data plane reaches durable state: snapshot parts, sink objects, the local copy.
use bytes::Bytes;

use super::{
    chain::{PartSource, RestoredState},
    task::{SubtaskSpec, TaskFailure, TaskSettings},
};
use crate::{
    checkpoint::types::StatePart,
    ids::CheckpointId,
    layout::Layout,
    platform::{NativeOp, ObjectName, Platform},
};

pub struct LocalStateStore;

pub async fn create(
    platform: &Platform,
    settings: &TaskSettings,
    object: &ObjectName,
    bytes: Bytes,
) -> Result<(), String> {
    let by = platform.clock.now() + settings.store_operation_timeout;
    platform.primary.create(object, vec![bytes], by).await.map_err(|e| e.to_string())
}

pub async fn write_snapshot(
    platform: &Platform,
    spec: &SubtaskSpec,
    checkpoint: CheckpointId,
    parts: Vec<PartSource>,
) -> Result<Vec<StatePart>, String> {
    let mut done = Vec::new();
    for part in parts {
        let bytes = platform.spawner.native_value(NativeOp::Encode, part.encode).await.map_err(|e| e.to_string())?;
        let nonce = platform.entropy.next_u64("part");
        let object = Layout { job: spec.job }.state_part(checkpoint, spec.attempt, spec.subtask, &part.name, nonce);
        create(platform, &spec.settings, &object, bytes.clone()).await?;
        done.push(StatePart {
            operator: part.operator,
            key_groups: part.key_groups,
            name: part.name,
            object,
            length: bytes.len() as u64,
            crc32c: crc32c::crc32c(&bytes),
        });
    }
    Ok(done)
}

pub async fn restore_parts(platform: &Platform, spec: &SubtaskSpec) -> Result<RestoredState, TaskFailure> {
    let mut restored = RestoredState::default();
    if let Some(order) = &spec.restore {
        restored.inline = order.snapshot.inline.clone();
        for part in &order.snapshot.parts {
            let by = platform.clock.now() + spec.settings.store_operation_timeout;
            let bytes = platform.primary.read(&part.object, None, by).await.map_err(|e| TaskFailure::StateLost {
                checkpoint: order.checkpoint,
                part: part.name.clone(),
                reason: e.to_string(),
            })?;
            restored.parts.push((part.operator.clone(), part.key_groups, bytes));
        }
    }
    Ok(restored)
}
