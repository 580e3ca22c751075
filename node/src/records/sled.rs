//! Records in sled: one database for all groups of a node, a tree for each. Selectable by `record_store = "sled"`.
//!
//! sled's iteration is not consistent under writes, so a snapshot is a copy made while no batch is applied.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sled::{Db, Tree};
use weft_core::ids::GroupId;
use weft_core::view::{Changes, View, ViewError};

use super::cache::CachedStore;
use super::{RecordStore, RecordStores, off_thread, sum, verify};

/// The sled database of one node.
pub struct SledRecords {
    database: Mutex<Option<Db>>,
    cache_bytes: u64,
    hot_bytes: usize,
}

impl SledRecords {
    /// With so many bytes for its page cache, and for hot records of each group before it.
    pub fn new(cache_bytes: u64, hot_bytes: usize) -> SledRecords {
        SledRecords { database: Mutex::new(None), cache_bytes, hot_bytes }
    }

    fn database(&self, folder: &Path) -> Result<Db, ViewError> {
        let mut held = self.database.lock();
        if let Some(database) = &*held {
            return Ok(database.clone());
        }
        let database = sled::Config::new()
            .path(folder)
            .cache_capacity(self.cache_bytes)
            .flush_every_ms(Some(500))
            .open()
            .map_err(|error| failed("open", &error))?;
        *held = Some(database.clone());
        Ok(database)
    }
}

fn failed(what: &str, error: &sled::Error) -> ViewError {
    ViewError(format!("sled: {what}: {error}"))
}

fn name(group: GroupId) -> String {
    format!("group-{group}")
}

struct SledStore {
    tree: Tree,
    /// Held while a batch is applied, and shared by whoever copies.
    applying: RwLock<()>,
}

impl View for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let value = self.tree.get(key).map_err(|error| failed("get", &error))?;
        value.map(|value| sum::open(key, &value)).transpose()
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        if from >= to {
            return Ok(());
        }
        for record in self.tree.range::<&[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            let (key, value) = record.map_err(|error| failed("scan", &error))?;
            if each(&key, &sum::open(&key, &value)?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl RecordStore for SledStore {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&key[..], sum::seal(key, value)),
                None => batch.remove(&key[..]),
            }
        }
        let _applying = self.applying.write();
        self.tree.apply_batch(batch).map_err(|error| failed("write", &error))
    }

    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        let _applying = self.applying.read();
        let all: BTreeMap<Bytes, Bytes> = super::collect(self, &[], usize::MAX)?.into_iter().collect();
        Ok(Arc::new(all))
    }

    fn persist_blocking(&self) -> Result<(), ViewError> {
        self.tree.flush().map(drop).map_err(|error| failed("persist", &error))
    }
}

#[async_trait::async_trait]
impl RecordStores for SledRecords {
    async fn open(&self, folder: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        let tree = self.database(folder)?.open_tree(name(group)).map_err(|error| failed("open a tree", &error))?;
        let store: Arc<dyn RecordStore> = Arc::new(SledStore { tree, applying: RwLock::new(()) });
        verify(store.clone()).await?;
        Ok(Arc::new(CachedStore::new(store, self.hot_bytes)))
    }

    async fn wipe(&self, folder: &Path, group: GroupId) -> Result<(), ViewError> {
        match self.database(folder) {
            Ok(database) => database.drop_tree(name(group)).map(drop).map_err(|error| failed("drop a tree", &error)),
            // The database as a whole is beyond opening: every group begins anew.
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "the record store is thrown away");
                std::fs::remove_dir_all(folder).map_err(|error| ViewError(format!("remove the record store: {error}")))
            }
        }
    }

    async fn persist(&self, store: Arc<dyn RecordStore>) -> Result<(), ViewError> {
        off_thread(move || store.persist_blocking()).await
    }
}
