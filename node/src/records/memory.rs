//! Records in memory: for the simulator and tests. At a simulated crash a store falls back to some batch since its last
//! persist, as a store on disk may.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, View, ViewError};

use super::{RecordStore, RecordStores};

type Map = BTreeMap<Bytes, Bytes>;

/// The stores of one node. Cloning shares them; they outlive the node that uses them.
#[derive(Clone, Default)]
pub struct MemoryRecords(Arc<Mutex<BTreeMap<GroupId, Arc<MemoryStore>>>>);

impl MemoryRecords {
    /// None yet.
    pub fn new() -> MemoryRecords {
        MemoryRecords::default()
    }

    /// A group's store, if it was opened.
    pub fn group(&self, group: GroupId) -> Option<Arc<dyn RecordStore>> {
        self.0.lock().get(&group).map(|store| store.clone() as Arc<dyn RecordStore>)
    }

    /// Power is cut: each store falls back to a batch since its last persist, chosen by `roll`.
    pub fn crash(&self, roll: u64) {
        for store in self.0.lock().values() {
            store.0.lock().crash(roll);
        }
    }
}

/// One group's records.
#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Default)]
struct State {
    now: Arc<Map>,
    persisted: Arc<Map>,
    /// Batches since.
    since: Vec<Changes>,
}

fn lay(map: &mut Map, changes: &Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
}

impl State {
    fn crash(&mut self, roll: u64) {
        let keep = (roll % (self.since.len() as u64 + 1)) as usize;
        let mut map = (*self.persisted).clone();
        self.since.drain(..).take(keep).for_each(|changes| lay(&mut map, &changes));
        self.now = Arc::new(map);
        self.persisted = self.now.clone();
    }
}

impl View for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.lock().now.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        let now = self.0.lock().now.clone();
        now.scan(from, to, each)
    }
}

/// A consistent view: the map as it was, shared until somebody writes.
struct Frozen(Arc<Map>);

impl View for Frozen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        self.0.scan(from, to, each)
    }
}

impl RecordStore for MemoryStore {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut state = self.0.lock();
        lay(Arc::make_mut(&mut state.now), changes);
        state.since.push(changes.clone());
        Ok(())
    }

    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        Ok(Arc::new(Frozen(self.0.lock().now.clone())))
    }

    fn persist_blocking(&self) -> Result<(), ViewError> {
        let state = &mut *self.0.lock();
        let persisted = Arc::make_mut(&mut state.persisted);
        state.since.drain(..).for_each(|changes| lay(persisted, &changes));
        Ok(())
    }
}

#[async_trait::async_trait]
impl RecordStores for MemoryRecords {
    async fn open(&self, _: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        Ok(self.0.lock().entry(group).or_default().clone())
    }

    async fn wipe(&self, _: &Path, group: GroupId) -> Result<(), ViewError> {
        self.0.lock().remove(&group);
        Ok(())
    }

    async fn persist(&self, store: Arc<dyn RecordStore>) -> Result<(), ViewError> {
        store.persist_blocking()
    }
}
