//! Headers of recently read chunks: with one at hand a random read of 4 KiB reads 4 KiB from the disk and asks no index.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use weft_core::ids::ClientId;

use super::index::{ChunkKey, Place};

/// What a reader of a chunk needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Where it lies.
    pub(crate) place: Place,
    /// Whose session uploaded it.
    pub(crate) uploader: ClientId,
    /// Sum of each block.
    pub(crate) sums: Vec<u32>,
}

/// A cache of heads, bounded by bytes. When the young half is full it becomes the old half, and what was not asked for
/// since is dropped.
pub(crate) struct Heads(Mutex<Halves>, usize);

#[derive(Default)]
struct Halves {
    young: BTreeMap<ChunkKey, Arc<Head>>,
    young_bytes: usize,
    old: BTreeMap<ChunkKey, Arc<Head>>,
}

impl Heads {
    /// Empty, for about `bytes` of heads.
    pub(crate) fn new(bytes: usize) -> Heads {
        Heads(Mutex::default(), bytes / 2)
    }

    /// A head, if it is here.
    pub(crate) fn get(&self, key: ChunkKey) -> Option<Arc<Head>> {
        let halves = &mut *self.0.lock();
        if let Some(head) = halves.young.get(&key) {
            return Some(head.clone());
        }
        let head = halves.old.remove(&key)?;
        halves.insert(key, head.clone(), self.1);
        Some(head)
    }

    /// Keeps a head.
    pub(crate) fn insert(&self, key: ChunkKey, head: Arc<Head>) {
        self.0.lock().insert(key, head, self.1);
    }

    /// Drops a head.
    pub(crate) fn remove(&self, key: ChunkKey) {
        let halves = &mut *self.0.lock();
        halves.young.remove(&key);
        halves.old.remove(&key);
    }
}

impl Halves {
    fn insert(&mut self, key: ChunkKey, head: Arc<Head>, limit: usize) {
        self.young_bytes += 200 + 4 * head.sums.len();
        self.young.insert(key, head);
        if self.young_bytes > limit {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}
