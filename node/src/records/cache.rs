//! Hot records kept before a store, since a read of the store costs some microseconds: sessions, parents, volume heads.
//!
//! Writes go through it. What a reader found in the store is kept only if no write came between. A snapshot uses it as
//! long as nothing was written since it was taken.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use weft_core::view::{Changes, View, ViewError};

use super::RecordStore;

/// Bytes a kept record costs besides key and value.
const COST: usize = 128;

/// A store with a bounded cache before it.
pub(super) struct Hot {
    store: Arc<dyn RecordStore>,
    cache: Arc<Mutex<Cache>>,
    /// One write at a time.
    writing: Mutex<()>,
}

impl Hot {
    /// Puts a cache of about `bytes` before a store.
    pub(super) fn before(store: Arc<dyn RecordStore>, bytes: usize) -> Arc<dyn RecordStore> {
        Arc::new(Hot { store, cache: Arc::new(Mutex::new(Cache::new(bytes))), writing: Mutex::new(()) })
    }
}

fn look_through(cache: &Mutex<Cache>, below: &dyn View, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
    let version = {
        let mut cache = cache.lock();
        if let Some(found) = cache.get(key) {
            return Ok(found);
        }
        cache.version
    };
    let found = below.get(key)?;
    let mut cache = cache.lock();
    if cache.version == version {
        cache.put(Bytes::copy_from_slice(key), found.clone());
    }
    Ok(found)
}

impl View for Hot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        look_through(&self.cache, &*self.store, key)
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

impl RecordStore for Hot {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let _one = self.writing.lock();
        // Odd while a write is under way: what readers find meanwhile may be of before or after.
        self.cache.lock().version += 1;
        let result = self.store.write(changes);
        let mut cache = self.cache.lock();
        cache.version += 1;
        match &result {
            Ok(()) => changes.iter().for_each(|(key, change)| cache.put(key.clone(), change.clone())),
            Err(_) => cache.clear(),
        }
        result
    }

    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        let version = self.cache.lock().version;
        let view = self.store.snapshot()?;
        let same = self.cache.lock().version == version && version.is_multiple_of(2);
        if same { Ok(Arc::new(HotView { view, cache: self.cache.clone(), version })) } else { Ok(view) }
    }

    fn persist_blocking(&self) -> Result<(), ViewError> {
        self.store.persist_blocking()
    }
}

/// A snapshot of the store, which agrees with the cache while that has `version`.
struct HotView {
    view: Arc<dyn View + Send + Sync>,
    cache: Arc<Mutex<Cache>>,
    version: u64,
}

impl View for HotView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        {
            let mut cache = self.cache.lock();
            if cache.version == self.version
                && let Some(found) = cache.get(key)
            {
                return Ok(found);
            }
        }
        let found = self.view.get(key)?;
        let mut cache = self.cache.lock();
        if cache.version == self.version {
            cache.put(Bytes::copy_from_slice(key), found.clone());
        }
        Ok(found)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        self.view.scan(from, to, each)
    }
}

/// Records, present or known to be absent, within a bound of bytes. Which one goes is found by a hand that runs round
/// and spares once what was used since it last came by (clock).
struct Cache {
    version: u64,
    limit: usize,
    used: usize,
    slots: Vec<Slot>,
    by_key: HashMap<Bytes, usize>,
    hand: usize,
}

struct Slot {
    key: Bytes,
    value: Option<Bytes>,
    touched: bool,
}

impl Slot {
    fn cost(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len) + COST
    }
}

impl Cache {
    fn new(limit: usize) -> Cache {
        Cache { version: 0, limit, used: 0, slots: Vec::new(), by_key: HashMap::new(), hand: 0 }
    }

    fn get(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        let slot = &mut self.slots[*self.by_key.get(key)?];
        slot.touched = true;
        Some(slot.value.clone())
    }

    fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        match self.by_key.get(&key) {
            Some(at) => {
                let slot = &mut self.slots[*at];
                self.used -= slot.cost();
                slot.value = value;
                self.used += slot.cost();
            }
            None => {
                let slot = Slot { key: key.clone(), value, touched: false };
                self.used += slot.cost();
                self.by_key.insert(key, self.slots.len());
                self.slots.push(slot);
            }
        }
        while self.used > self.limit && !self.slots.is_empty() {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = &mut self.slots[self.hand];
            if std::mem::take(&mut slot.touched) {
                self.hand += 1;
                continue;
            }
            self.remove(self.hand);
            // The last slot came to this place: it is looked at when the hand comes round again.
            self.hand += 1;
        }
    }

    fn remove(&mut self, at: usize) {
        let slot = self.slots.swap_remove(at);
        self.used -= slot.cost();
        self.by_key.remove(&slot.key);
        if let Some(moved) = self.slots.get(at) {
            self.by_key.insert(moved.key.clone(), at);
        }
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.by_key.clear();
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_within_its_bound_and_keeps_what_is_used() {
        let mut cache = Cache::new(100 * (COST + 8 + 8));
        let key = |n: u64| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..10_000 {
            cache.put(key(n), Some(key(n)));
            assert_eq!(cache.get(&key(0)), Some(Some(key(0))), "used all the time, after {n}");
            assert!(cache.used <= cache.limit && cache.slots.len() <= 100);
            assert_eq!(cache.slots.len(), cache.by_key.len());
        }
        for slot in 0..cache.slots.len() {
            assert_eq!(cache.by_key[&cache.slots[slot].key], slot);
        }
        cache.put(key(0), None);
        assert_eq!(cache.get(&key(0)), Some(None));
        let used: usize = cache.slots.iter().map(Slot::cost).sum();
        assert_eq!(used, cache.used);
        cache.put(key(1), Some(Bytes::from(vec![0; 1 << 20])));
        assert!(cache.used <= cache.limit, "one too large for all goes at once");
    }
}
