//! An index in memory: gone with the process, so every start rebuilds it from the segments. For the simulator and tests.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use weft_core::ids::{ChunkId, ClientId, PgId, SpaceId};

use super::{ChunkIndex, ChunkIndexes, ChunkKey, Covered, IndexError, Place};

/// Opens indexes in memory, empty each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryIndexes;

#[async_trait::async_trait]
impl ChunkIndexes for MemoryIndexes {
    async fn open(&self, _: &Path) -> Result<Arc<dyn ChunkIndex>, IndexError> {
        Ok(Arc::new(MemoryIndex::default()))
    }

    async fn wipe(&self, _: &Path) -> Result<(), IndexError> {
        Ok(())
    }
}

/// One index in memory. Cloning copies it.
#[derive(Default)]
pub struct MemoryIndex(RwLock<Content>);

#[derive(Clone, Default)]
struct Content {
    places: BTreeMap<ChunkKey, Place>,
    covered: BTreeMap<u64, (u64, u64)>,
}

impl Clone for MemoryIndex {
    fn clone(&self) -> Self {
        MemoryIndex(RwLock::new(self.0.read().clone()))
    }
}

impl ChunkIndex for MemoryIndex {
    fn get(&self, key: ChunkKey) -> Result<Option<Place>, IndexError> {
        Ok(self.0.read().places.get(&key).copied())
    }

    fn write(&self, changes: &[(ChunkKey, Option<Place>)], covered: &[Covered]) -> Result<(), IndexError> {
        let content = &mut *self.0.write();
        for (key, place) in changes {
            match place {
                Some(place) => content.places.insert(*key, *place),
                None => content.places.remove(key),
            };
        }
        for covered in covered {
            content.covered.insert(covered.segment, (covered.generation, covered.offset));
        }
        Ok(())
    }

    fn forget(&self, segment: u64) -> Result<(), IndexError> {
        self.0.write().covered.remove(&segment);
        Ok(())
    }

    fn covered(&self) -> Result<Vec<Covered>, IndexError> {
        let content = self.0.read();
        let covered = content.covered.iter();
        Ok(covered.map(|(&segment, &(generation, offset))| Covered { segment, generation, offset }).collect())
    }

    fn list(
        &self,
        pg: PgId,
        after: Option<(SpaceId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(ChunkKey, Place)>, IndexError> {
        let from = match after {
            Some((space, chunk)) => Bound::Excluded(ChunkKey { pg, space, chunk }),
            None => Bound::Included(ChunkKey { pg, space: SpaceId(0), chunk: ChunkId::default() }),
        };
        let last = ChunkId { client: ClientId(u64::MAX), counter: u64::MAX };
        let to = Bound::Included(ChunkKey { pg, space: SpaceId(u64::MAX), chunk: last });
        if let Bound::Excluded(key) = from
            && Bound::Included(key) == to
        {
            return Ok(Vec::new());
        }
        Ok(self.0.read().places.range((from, to)).take(limit).map(|(key, place)| (*key, *place)).collect())
    }

    fn scan(&self, each: &mut dyn FnMut(ChunkKey, Place)) -> Result<(), IndexError> {
        self.0.read().places.iter().for_each(|(key, place)| each(*key, *place));
        Ok(())
    }

    fn persist(&self) -> Result<(), IndexError> {
        Ok(())
    }
}
