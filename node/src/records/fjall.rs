//! Records in fjall: one database for all groups of a node, a keyspace for each. The default.
//!
//! Its journal is written out by `persist` only: a crash loses the newest batches, never part of one, and the Raft log
//! has them.

use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use parking_lot::Mutex;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, View, ViewError};

use super::cache::CachedStore;
use super::{RecordStore, RecordStores, off_thread, sum, verify};

/// Bytes of one group's records in memory before they are written to a table.
const MEMTABLE: u64 = 8 << 20;
/// Bytes of the journal before tables are written to let it shrink.
const JOURNAL: u64 = 128 << 20;

/// The fjall database of one node.
pub struct FjallRecords {
    database: Mutex<Option<Database>>,
    cache_bytes: u64,
    hot_bytes: usize,
}

impl FjallRecords {
    /// With so many bytes for blocks of tables, and for hot records of each group before them.
    pub fn new(cache_bytes: u64, hot_bytes: usize) -> FjallRecords {
        FjallRecords { database: Mutex::new(None), cache_bytes, hot_bytes }
    }

    fn database(&self, folder: &Path) -> Result<Database, ViewError> {
        let mut held = self.database.lock();
        if let Some(database) = &*held {
            return Ok(database.clone());
        }
        let database = Database::builder(folder)
            .cache_size(self.cache_bytes)
            .max_journaling_size(JOURNAL)
            .worker_threads(2)
            .open()
            .map_err(|error| failed("open", &error))?;
        *held = Some(database.clone());
        Ok(database)
    }
}

fn failed(what: &str, error: &fjall::Error) -> ViewError {
    ViewError(format!("fjall: {what}: {error}"))
}

fn name(group: GroupId) -> String {
    format!("group-{group}")
}

struct FjallStore {
    database: Database,
    keyspace: Keyspace,
}

impl FjallStore {
    fn open(database: Database, group: GroupId) -> Result<FjallStore, ViewError> {
        let options = || KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(MEMTABLE);
        let keyspace = database.keyspace(&name(group), options).map_err(|error| failed("open a keyspace", &error))?;
        Ok(FjallStore { database, keyspace })
    }
}

fn walk(iter: fjall::Iter, each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>) -> Result<(), ViewError> {
    for guard in iter {
        let (key, value) = guard.into_inner().map_err(|error| failed("scan", &error))?;
        if each(&key, &sum::open(&key, &value)?).is_break() {
            break;
        }
    }
    Ok(())
}

impl View for FjallStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let value = self.keyspace.get(key).map_err(|error| failed("get", &error))?;
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
        walk(self.keyspace.range::<&[u8], _>((Bound::Included(from), Bound::Excluded(to))), each)
    }
}

struct Frozen {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

impl View for Frozen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let value = self.snapshot.get(&self.keyspace, key).map_err(|error| failed("get", &error))?;
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
        walk(self.snapshot.range::<&[u8], _>(&self.keyspace, (Bound::Included(from), Bound::Excluded(to))), each)
    }
}

impl RecordStore for FjallStore {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut batch = self.database.batch();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.keyspace, &key[..], sum::seal(key, value)),
                None => batch.remove(&self.keyspace, &key[..]),
            }
        }
        batch.commit().map_err(|error| failed("write", &error))
    }

    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        Ok(Arc::new(Frozen { snapshot: self.database.snapshot(), keyspace: self.keyspace.clone() }))
    }

    fn persist_blocking(&self) -> Result<(), ViewError> {
        self.database.persist(PersistMode::SyncData).map_err(|error| failed("persist", &error))
    }
}

#[async_trait::async_trait]
impl RecordStores for FjallRecords {
    async fn open(&self, folder: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        let store: Arc<dyn RecordStore> = Arc::new(FjallStore::open(self.database(folder)?, group)?);
        verify(store.clone()).await?;
        Ok(Arc::new(CachedStore::new(store, self.hot_bytes)))
    }

    async fn wipe(&self, folder: &Path, group: GroupId) -> Result<(), ViewError> {
        match self.database(folder) {
            Ok(database) => {
                let keyspace = FjallStore::open(database.clone(), group)?.keyspace;
                database.delete_keyspace(keyspace).map_err(|error| failed("delete a keyspace", &error))
            }
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
