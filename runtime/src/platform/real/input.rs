//! Input files: any path this machine can read.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::PathBuf};

use bytes::Bytes;

use super::{
    super::{Fut, InputFiles, StoreError},
    reactor::Reactor,
};

pub(super) struct RealInputs {
    reactor: Reactor,
}

impl RealInputs {
    pub(super) fn new(reactor: Reactor) -> RealInputs {
        RealInputs { reactor }
    }
}

impl InputFiles for RealInputs {
    fn length(&self, path: &str) -> Fut<'_, Result<u64, StoreError>> {
        let path = PathBuf::from(path);
        let shown = path.display().to_string();
        let call = self.reactor.blocking(move || {
            let metadata = std::fs::metadata(&path)?;
            if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(metadata.len()) }
        });
        Box::pin(async move { call.await.map_err(|e| store_error(&shown, &e)) })
    }

    fn read(&self, path: &str, range: Range<u64>) -> Fut<'_, Result<Bytes, StoreError>> {
        let path = PathBuf::from(path);
        let shown = path.display().to_string();
        let call = self.reactor.blocking(move || {
            let file = File::open(&path)?;
            let end = range.end.min(file.metadata()?.len());
            let wanted = usize::try_from(end.saturating_sub(range.start)).map_err(io::Error::other)?;
            let mut buffer = vec![0; wanted];
            file.read_exact_at(&mut buffer, range.start)?;
            Ok(Bytes::from(buffer))
        });
        Box::pin(async move { call.await.map_err(|e| store_error(&shown, &e)) })
    }
}

fn store_error(path: &str, e: &io::Error) -> StoreError {
    match e.kind() {
        io::ErrorKind::NotFound => StoreError::Absent,
        io::ErrorKind::PermissionDenied => StoreError::Denied,
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
            StoreError::Permanent(format!("{path}: {e}"))
        }
        _ => StoreError::Unavailable(format!("{path}: {e}")),
    }
}
