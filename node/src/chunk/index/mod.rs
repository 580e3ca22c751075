//! Where each chunk lies: an index that can always be rebuilt from the segments.

pub mod memory;
pub mod sled;

use std::path::Path;
use std::sync::Arc;

use weft_core::ids::{ChunkId, PgId, SpaceId};

pub use self::memory::MemoryIndexes;
pub use self::sled::SledIndexes;

/// Key of a chunk on a server. Ordered by placement group first, so that the chunks of a group lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkKey {
    /// Its placement group: a chunk never changes it.
    pub pg: PgId,
    /// The space it belongs to.
    pub space: SpaceId,
    /// The chunk.
    pub chunk: ChunkId,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Segment number.
    pub segment: u64,
    /// First byte of its record in the segment.
    pub offset: u64,
    /// Bytes of the chunk.
    pub len: u32,
}

/// How far the index covers a segment: everything in records below `offset` is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Segment number.
    pub segment: u64,
    /// The life of the segment that is meant.
    pub generation: u64,
    /// First byte that is not covered.
    pub offset: u64,
}

/// The index could not be read or written: it is thrown away and rebuilt from the segments at the next start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk index: {0}")]
pub struct IndexError(pub String);

/// An index of one chunk store. It need not be durable at once: it records how far each segment is covered, and the
/// rest is replayed from the segments at a start. What it loses in a crash must be whole batches, newest first.
pub trait ChunkIndex: Send + Sync + 'static {
    /// Where a chunk lies.
    ///
    /// # Errors
    /// The index is damaged.
    fn get(&self, key: ChunkKey) -> Result<Option<Place>, IndexError>;

    /// Sets and removes, and records how far the segments are covered, in one batch.
    ///
    /// # Errors
    /// The index is damaged or its disk failed.
    fn write(&self, changes: &[(ChunkKey, Option<Place>)], covered: &[Covered]) -> Result<(), IndexError>;

    /// Forgets how far a segment is covered: it was recycled or removed.
    ///
    /// # Errors
    /// The index is damaged or its disk failed.
    fn forget(&self, segment: u64) -> Result<(), IndexError>;

    /// How far each segment is covered.
    ///
    /// # Errors
    /// The index is damaged.
    fn covered(&self) -> Result<Vec<Covered>, IndexError>;

    /// Chunks of a placement group in key order after one of them, at most `limit`.
    ///
    /// # Errors
    /// The index is damaged.
    fn list(
        &self,
        pg: PgId,
        after: Option<(SpaceId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(ChunkKey, Place)>, IndexError>;

    /// Shows every chunk, checking every value.
    ///
    /// # Errors
    /// The index is damaged.
    fn scan(&self, each: &mut dyn FnMut(ChunkKey, Place)) -> Result<(), IndexError>;

    /// Everything written before survives a crash when it returns.
    ///
    /// # Errors
    /// The disk failed.
    fn persist(&self) -> Result<(), IndexError>;
}

/// Opens chunk indexes.
#[async_trait::async_trait]
pub trait ChunkIndexes: Send + Sync + 'static {
    /// Opens the index in `folder` (below the node's data folder), empty if it is new.
    ///
    /// # Errors
    /// It is damaged: wipe it.
    async fn open(&self, folder: &Path) -> Result<Arc<dyn ChunkIndex>, IndexError>;

    /// Throws it away. It must not be open.
    ///
    /// # Errors
    /// The disk failed.
    async fn wipe(&self, folder: &Path) -> Result<(), IndexError>;
}

#[cfg(test)]
mod tests;
