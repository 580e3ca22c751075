//! Where each chunk lies: an index that can always be rebuilt from the segments.

use std::path::Path;
use std::sync::Arc;

use weft_core::ids::{ChunkId, PgId, SpaceId};

/// Key of a chunk on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkKey {
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
    /// First byte of its header in the segment.
    pub offset: u64,
    /// Bytes of the chunk.
    pub len: u32,
    /// Its placement group.
    pub pg: PgId,
}

/// The index could not be read or written: it is thrown away and rebuilt from the segments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk index: {0}")]
pub struct IndexError(pub String);

/// An index of one chunk store. Need not be durable at once: it records how far each segment is covered, and the rest
/// is replayed from the segments at a start.
pub trait ChunkIndex: Send + Sync + 'static {
    /// Where a chunk lies.
    fn get(&self, key: ChunkKey) -> Result<Option<Place>, IndexError>;
    /// Sets and removes, and records how far the segments are covered (segment, generation, offset), in one batch.
    fn write(&self, changes: &[(ChunkKey, Option<Place>)], covered: &[(u64, u64, u64)]) -> Result<(), IndexError>;
    /// How far each segment is covered: (segment, generation, offset).
    fn covered(&self) -> Result<Vec<(u64, u64, u64)>, IndexError>;
    /// Chunks of a placement group in key order after a key, at most `limit`.
    fn list(&self, pg: PgId, after: Option<ChunkKey>, limit: usize) -> Result<Vec<(ChunkKey, Place)>, IndexError>;
    /// Number of chunks and of their bytes.
    fn totals(&self) -> Result<(u64, u64), IndexError>;
}

/// Opens chunk indexes.
#[async_trait::async_trait]
pub trait ChunkIndexes: Send + Sync + 'static {
    /// Opens the index in `folder`, empty if it is new.
    async fn open(&self, folder: &Path) -> Result<Arc<dyn ChunkIndex>, IndexError>;
    /// Throws it away.
    async fn wipe(&self, folder: &Path) -> Result<(), IndexError>;
}
