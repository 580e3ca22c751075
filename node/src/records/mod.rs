//! Where meta groups keep their records: an ordered, atomic key-value store per group, behind one small trait.
//!
//! The Raft log is the durable record; a store need only be crash-consistent. What it holds after a crash is the state
//! as of some earlier batch, whose applied log id is in it; the log is replayed from there.

mod cache;
pub mod fjall;
pub mod memory;
pub mod sled;
mod sums;
#[cfg(test)]
mod tests;
mod versions;

pub use self::fjall::FjallRecords;
pub use self::memory::MemoryRecords;
pub use self::sled::SledRecords;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, View, ViewError};

/// One group's records.
///
/// As a view it shows the latest batch. Each call by itself is consistent, but between two calls a batch may come; and
/// a single `get` during a `write` may already see it. Whoever needs several reads to agree takes a snapshot, which is
/// cheap with every store, or keeps writes off.
pub trait RecordStore: View + Send + Sync + 'static {
    /// Applies all changes or, at a crash, none.
    ///
    /// # Errors
    /// The store failed and must not be used any more.
    fn write(&self, changes: &Changes) -> Result<(), ViewError>;
    /// A consistent view as of now, unaffected by later writes.
    ///
    /// # Errors
    /// The store failed.
    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError>;
    /// Everything written before this call survives a crash when it returns. May block for long: called on the
    /// store's own thread through [`RecordStores::persist`].
    ///
    /// # Errors
    /// The store failed.
    fn persist_blocking(&self) -> Result<(), ViewError>;
}

/// All groups' stores of one node: one database for all of them.
#[async_trait::async_trait]
pub trait RecordStores: Send + Sync + 'static {
    /// Opens a group's store, empty if it is new. The folder is that of the whole database. A store that can't be
    /// opened or fails its checksums is an error; the caller then calls `wipe` and rebuilds it from a snapshot of the
    /// group.
    async fn open(&self, folder: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError>;
    /// Throws a group's records away.
    async fn wipe(&self, folder: &Path, group: GroupId) -> Result<(), ViewError>;
    /// Makes everything written to the store before this call durable, off the caller's thread.
    async fn persist(&self, store: Arc<dyn RecordStore>) -> Result<(), ViewError>;
}

/// All records of a store in key order, at most `limit`, for tests, digests and snapshots.
pub fn collect(view: &dyn View, from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    view.scan(from, &[0xff; 64], &mut |key, value| {
        found.push((Bytes::copy_from_slice(key), value.clone()));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

/// Reads every record once, so that damage is found at a start and not in the middle of an operation.
fn verify(store: &dyn View) -> Result<(), ViewError> {
    store.scan(&[], &[0xff; 64], &mut |_, _| ControlFlow::Continue(()))
}

/// Runs a blocking call off the caller's thread.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ViewError> + Send + 'static,
) -> Result<T, ViewError> {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|error| Err(ViewError(format!("a call of the store ended early: {error}"))))
}

/// Runs a call of a library that answers some damage with a panic.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, ViewError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|_| ViewError("the database panicked".into()))
}

fn remove_folder(path: &Path) -> Result<(), ViewError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ViewError(format!("remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}
