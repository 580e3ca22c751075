//! Records in memory, for the simulator and tests. A crash takes away some of what was written since the last persist,
//! whole batches from the end, as a store on disk may.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, ViewError};

use super::cache::Hot;
use super::versions::{Plain, Versions};
use super::{RecordStore, RecordStores};

/// Batches remembered since the last persist; older ones can't be taken back any more.
const MAX_BATCHES: usize = 10_000;
/// Small, so that the cache before the store is tried too.
const HOT_BYTES: usize = 64 << 10;

/// Stores of one node in memory. Clones share them: keep one to open the same stores again after a crash.
#[derive(Clone, Default)]
pub struct MemoryRecords {
    stores: Arc<Mutex<BTreeMap<GroupId, Arc<Mutex<Content>>>>>,
}

#[derive(Default)]
struct Content {
    records: BTreeMap<Bytes, Bytes>,
    /// What each batch since the last persist replaced, oldest first.
    batches: Vec<BTreeMap<Bytes, Option<Bytes>>>,
}

impl MemoryRecords {
    /// No records.
    pub fn new() -> MemoryRecords {
        MemoryRecords::default()
    }

    /// A group's store, if it was opened.
    pub fn group(&self, group: GroupId) -> Option<Arc<dyn RecordStore>> {
        let content = self.stores.lock().get(&group)?.clone();
        Some(Arc::new(Versions::new(Memory(content))))
    }

    /// Takes all stores away, as if their folder were lost. Those opened before must not be used any more.
    pub fn clear(&self) {
        self.stores.lock().clear();
    }

    /// Takes away, per store, some of the batches written since the last persist, as `roll` says. Stores opened before
    /// must not be used any more.
    pub fn crash(&self, mut roll: u64) {
        for (group, content) in self.stores.lock().iter_mut() {
            let mut old = content.lock();
            let keep = (roll % (old.batches.len() as u64 + 1)) as usize;
            roll = roll.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let Content { mut records, mut batches } = std::mem::take(&mut *old);
            drop(old);
            tracing::debug!(%group, keep, of = batches.len(), "records crash");
            for replaced in batches.drain(keep..).rev() {
                for (key, before) in replaced {
                    match before {
                        Some(value) => records.insert(key, value),
                        None => records.remove(&key),
                    };
                }
            }
            // What is there after a crash is durable.
            *content = Arc::new(Mutex::new(Content { records, batches: Vec::new() }));
        }
    }
}

#[async_trait::async_trait]
impl RecordStores for MemoryRecords {
    async fn open(&self, _: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        let content = self.stores.lock().entry(group).or_default().clone();
        Ok(Hot::before(Arc::new(Versions::new(Memory(content))), HOT_BYTES))
    }

    async fn wipe(&self, _: &Path, group: GroupId) -> Result<(), ViewError> {
        self.stores.lock().remove(&group);
        Ok(())
    }

    async fn persist(&self, store: Arc<dyn RecordStore>) -> Result<(), ViewError> {
        store.persist_blocking()
    }
}

struct Memory(Arc<Mutex<Content>>);

impl Plain for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.lock().records.get(key).cloned())
    }

    fn stretch(&self, from: Bound<&[u8]>, to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
        let content = self.0.lock();
        let range = content.records.range::<[u8], _>((from, Bound::Excluded(to)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut content = self.0.lock();
        let mut replaced = BTreeMap::new();
        for (key, change) in changes {
            let before = match change {
                Some(value) => content.records.insert(key.clone(), value.clone()),
                None => content.records.remove(key),
            };
            replaced.insert(key.clone(), before);
        }
        content.batches.push(replaced);
        if content.batches.len() > MAX_BATCHES {
            content.batches.drain(..MAX_BATCHES / 2);
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), ViewError> {
        self.0.lock().batches.clear();
        Ok(())
    }
}
