//! Hot records in memory before a store whose reads cost microseconds: sessions, parents, volume heads.
//!
//! Two generations: what is asked for moves to the young one; when that is full it becomes the old one, and what the
//! old one held is forgotten. Also remembers that a key is absent.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use weft_core::view::{Changes, View, ViewError};

use super::RecordStore;

/// A store with its hot records in memory.
pub struct CachedStore {
    store: Arc<dyn RecordStore>,
    hot: Mutex<Hot>,
    /// Bytes of one generation.
    generation_bytes: usize,
}

/// Looked up by key only, never walked.
#[derive(Default)]
struct Hot {
    young: HashMap<Bytes, Option<Bytes>>,
    old: HashMap<Bytes, Option<Bytes>>,
    young_bytes: usize,
    /// Counts writes: what was read from the store before one may be stale after it.
    writes: u64,
}

/// Memory of an entry beside its key and value.
const ENTRY_BYTES: usize = 96;

impl Hot {
    fn get(&mut self, key: &[u8], limit: usize) -> Option<Option<Bytes>> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, value.clone(), limit);
        Some(value)
    }

    fn put(&mut self, key: Bytes, value: Option<Bytes>, limit: usize) {
        self.young_bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
        self.young.insert(key, value);
        if self.young_bytes > limit {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

impl CachedStore {
    /// Keeps at most about so many bytes.
    pub fn new(store: Arc<dyn RecordStore>, bytes: usize) -> CachedStore {
        CachedStore { store, hot: Mutex::default(), generation_bytes: bytes / 2 }
    }
}

impl View for CachedStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let writes = {
            let mut hot = self.hot.lock();
            if let Some(value) = hot.get(key, self.generation_bytes) {
                return Ok(value);
            }
            hot.writes
        };
        let value = self.store.get(key)?;
        let mut hot = self.hot.lock();
        if hot.writes == writes {
            hot.put(Bytes::copy_from_slice(key), value.clone(), self.generation_bytes);
        }
        Ok(value)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        self.store.scan(from, to, each)
    }
}

impl RecordStore for CachedStore {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        {
            let mut hot = self.hot.lock();
            hot.writes += 1;
            for (key, value) in changes {
                hot.old.remove(key);
                hot.put(key.clone(), value.clone(), self.generation_bytes);
            }
        }
        // Readers may see the new values a moment before the store has them. Only the applier writes, and it answers
        // nobody before this returned; a crash forgets the cache with the rest.
        let written = self.store.write(changes);
        self.hot.lock().writes += 1;
        written
    }

    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        self.store.snapshot()
    }

    fn persist_blocking(&self) -> Result<(), ViewError> {
        self.store.persist_blocking()
    }
}
