//! Input files: given by the harness, read by every process, never at fault.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc, time::Duration};

use bytes::Bytes;
use runtime::platform::{Fut, InputFiles, StoreError};

use crate::{
    config::draw,
    local::{Local, boxed},
    process::Incarnation,
};

/// The input files of a world.
#[derive(Clone, Default)]
pub struct SimInputs(Rc<RefCell<BTreeMap<String, Bytes>>>);

impl SimInputs {
    /// Adds a file, or replaces it.
    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        self.0.borrow_mut().insert(path.to_string(), bytes.into());
    }

    pub fn get(&self, path: &str) -> Option<Bytes> {
        self.0.borrow().get(path).cloned()
    }
}

const LATENCY: Range<Duration> = Duration::from_micros(50)..Duration::from_micros(300);

pub(crate) struct SimInputFiles(pub Local<Rc<Incarnation>>);

impl SimInputFiles {
    async fn file(&self, path: &str) -> Result<Bytes, StoreError> {
        let reader = &*self.0;
        reader.alive_or_never().await;
        let cost = draw(&LATENCY, &mut *reader.input_rng.borrow_mut());
        reader.pause(cost).await;
        reader.alive_or_never().await;
        reader.world.inputs().get(path).ok_or(StoreError::Absent)
    }
}

impl InputFiles for SimInputFiles {
    fn length(&self, path: &str) -> Fut<'_, Result<u64, StoreError>> {
        let path = path.to_string();
        boxed(async move { Ok(self.file(&path).await?.len() as u64) })
    }

    fn read(&self, path: &str, range: Range<u64>) -> Fut<'_, Result<Bytes, StoreError>> {
        let path = path.to_string();
        boxed(async move {
            let bytes = self.file(&path).await?;
            let length = bytes.len() as u64;
            let (from, to) = (range.start.min(length), range.end.min(length));
            Ok(if from < to { bytes.slice(from as usize..to as usize) } else { Bytes::new() })
        })
    }
}
