//! The chunk index as a database on disk would leave it after a crash: as it was some batches ago, with holes, or gone.
//! The product must see that and rebuild what is missing from the segments.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use rand::rngs::SmallRng;
use weft_core::ids::{ChunkId, PgId, SpaceId};
use weft_node::chunk::index::memory::MemoryIndex;
use weft_node::chunk::index::{ChunkIndex, ChunkIndexes, ChunkKey, Covered, IndexError, Place};

/// Batches remembered since the last persist; older ones are taken for durable.
const MAX_BATCHES: usize = 10_000;

/// The index of one node. Clones share it: keep one over the node's crashes.
#[derive(Clone, Default)]
pub struct SimIndexes(Arc<Mutex<Arc<SimIndex>>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a crash made of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing was taken away.
    None,
    /// The last batches are gone.
    Stale,
    /// Some chunks are missing from it.
    Holed,
    /// All of it is gone.
    Empty,
}

impl SimIndexes {
    /// Power is cut: call while the node is down.
    pub fn crash(&self, rng: &mut SmallRng) -> Damage {
        let old = locked(&self.0).clone();
        let undo = std::mem::take(&mut *locked(&old.undo));
        let keep = rng.random_range(0..=undo.len());
        let mut damage = if keep == undo.len() { Damage::None } else { Damage::Stale };
        for step in undo.into_iter().skip(keep).rev() {
            step.take_back(&old.now);
        }
        let mut left = old.now.clone();
        match rng.random_range(0..10) {
            0 => (left, damage) = (MemoryIndex::default(), Damage::Empty),
            1 => {
                let mut lost = Vec::new();
                let each = &mut |key, _| {
                    if rng.random_bool(0.1) {
                        lost.push((key, None));
                    }
                };
                if left.scan(each).is_ok() && !lost.is_empty() && left.write(&lost, &[]).is_ok() {
                    damage = Damage::Holed;
                }
            }
            _ => {}
        }
        *locked(&self.0) = Arc::new(SimIndex { now: left, undo: Mutex::default() });
        damage
    }

    /// A new disk in its place: call while the node is down.
    pub fn clear(&self) {
        *locked(&self.0) = Arc::default();
    }
}

#[async_trait::async_trait]
impl ChunkIndexes for SimIndexes {
    async fn open(&self, _: &Path) -> Result<Arc<dyn ChunkIndex>, IndexError> {
        Ok(locked(&self.0).clone())
    }

    async fn wipe(&self, _: &Path) -> Result<(), IndexError> {
        self.clear();
        Ok(())
    }
}

#[derive(Default)]
struct SimIndex {
    now: MemoryIndex,
    /// What takes back each batch since the last persist, oldest first.
    undo: Mutex<Vec<Undo>>,
}

/// What a batch replaced.
struct Undo {
    places: Vec<(ChunkKey, Option<Place>)>,
    covered: Vec<Covered>,
    uncovered: Vec<u64>,
}

impl Undo {
    fn take_back(self, index: &MemoryIndex) {
        let written = index.write(&self.places, &self.covered);
        let forgotten = self.uncovered.into_iter().try_for_each(|segment| index.forget(segment));
        assert!(written.is_ok() && forgotten.is_ok(), "an index in memory does not fail");
    }
}

impl SimIndex {
    fn remember(&self, undo: Undo) {
        let mut steps = locked(&self.undo);
        steps.push(undo);
        if steps.len() > MAX_BATCHES {
            steps.drain(..MAX_BATCHES / 2);
        }
    }

    /// How far a segment is covered now, sorted into what to write back and what to forget again.
    fn coverage(&self, segments: impl Iterator<Item = u64>, undo: &mut Undo) -> Result<(), IndexError> {
        let known = self.now.covered()?;
        for segment in segments {
            match known.iter().find(|covered| covered.segment == segment) {
                Some(covered) => undo.covered.push(*covered),
                None => undo.uncovered.push(segment),
            }
        }
        Ok(())
    }
}

impl ChunkIndex for SimIndex {
    fn get(&self, key: ChunkKey) -> Result<Option<Place>, IndexError> {
        self.now.get(key)
    }

    fn write(&self, changes: &[(ChunkKey, Option<Place>)], covered: &[Covered]) -> Result<(), IndexError> {
        let mut undo = Undo { places: Vec::new(), covered: Vec::new(), uncovered: Vec::new() };
        for (key, _) in changes {
            undo.places.push((*key, self.now.get(*key)?));
        }
        self.coverage(covered.iter().map(|covered| covered.segment), &mut undo)?;
        self.remember(undo);
        self.now.write(changes, covered)
    }

    fn forget(&self, segment: u64) -> Result<(), IndexError> {
        let mut undo = Undo { places: Vec::new(), covered: Vec::new(), uncovered: Vec::new() };
        self.coverage(std::iter::once(segment), &mut undo)?;
        self.remember(undo);
        self.now.forget(segment)
    }

    fn covered(&self) -> Result<Vec<Covered>, IndexError> {
        self.now.covered()
    }

    fn list(
        &self,
        pg: PgId,
        after: Option<(SpaceId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(ChunkKey, Place)>, IndexError> {
        self.now.list(pg, after, limit)
    }

    fn scan(&self, each: &mut dyn FnMut(ChunkKey, Place)) -> Result<(), IndexError> {
        self.now.scan(each)
    }

    fn persist(&self) -> Result<(), IndexError> {
        locked(&self.undo).clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use weft_core::ids::ClientId;

    use super::*;

    fn key(counter: u64) -> ChunkKey {
        ChunkKey { pg: PgId(1), space: SpaceId(1), chunk: ChunkId { client: ClientId(1), counter } }
    }

    #[tokio::test]
    async fn a_crash_leaves_whole_batches_or_holes_or_nothing() {
        let mut seen = Vec::new();
        for seed in 0..64 {
            let indexes = SimIndexes::default();
            let index = indexes.open(Path::new("")).await.unwrap();
            let place = |offset| Place { segment: 1, offset, len: 9 };
            for batch in 0..100 {
                if batch == 50 {
                    index.persist().unwrap();
                }
                let covered = Covered { segment: 1, generation: 1, offset: batch + 1 };
                index.write(&[(key(batch), Some(place(batch))), (key(1000), Some(place(batch)))], &[covered]).unwrap();
            }
            let damage = indexes.crash(&mut SmallRng::seed_from_u64(seed));
            let left = indexes.open(Path::new("")).await.unwrap();
            let listed = left.list(PgId(1), None, 1000).unwrap().len();
            match damage {
                Damage::Empty => assert_eq!((listed, left.covered().unwrap()), (0, Vec::new())),
                Damage::None => assert_eq!(listed, 101),
                Damage::Holed => assert!(listed < 101),
                Damage::Stale => {
                    let batches = left.covered().unwrap()[0].offset;
                    assert!((50..100).contains(&batches) && listed as u64 == batches + 1);
                    assert_eq!(left.get(key(1000)).unwrap(), Some(place(batches - 1)));
                }
            }
            if !seen.contains(&damage) {
                seen.push(damage);
            }
        }
        assert!([Damage::Stale, Damage::Holed, Damage::Empty].iter().all(|damage| seen.contains(damage)), "{seen:?}");
    }
}
