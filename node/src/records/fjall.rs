//! Records in fjall: one database per data folder, a keyspace per group. Its journal is flushed only by `persist`: the
//! Raft log is the durable record.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use parking_lot::Mutex;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, View, ViewError};

use super::cache::Hot;
use super::sums::{seal, unseal};
use super::{RecordStore, RecordStores, blocking, remove_folder, verify};

/// Bytes a group gathers in memory before they go to disk. Up to five times this per busy group, for a while.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Bytes of journal on disk before the oldest memtables are flushed.
const JOURNAL_BYTES: u64 = 128 << 20;
/// An earlier life of the same process may take a moment to close its files.
const LOCK_TRIES: usize = 40;
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// Opens fjall databases.
pub struct FjallRecords {
    cache_bytes: u64,
    hot_bytes: usize,
    open: Arc<Mutex<BTreeMap<PathBuf, Weak<Db>>>>,
}

/// A database, open as long as any group's store is.
struct Db(Database);

impl FjallRecords {
    /// Each database with a block cache of `cache_bytes`, and `hot_bytes` of records kept before each group's store.
    pub fn new(cache_bytes: u64, hot_bytes: usize) -> FjallRecords {
        FjallRecords { cache_bytes, hot_bytes, open: Arc::default() }
    }
}

fn error(doing: &str) -> impl FnOnce(fjall::Error) -> ViewError {
    move |error| ViewError(format!("{doing}: {error}"))
}

fn database(open: &Mutex<BTreeMap<PathBuf, Weak<Db>>>, path: &Path, cache_bytes: u64) -> Result<Arc<Db>, ViewError> {
    let mut open = open.lock();
    if let Some(db) = open.get(path).and_then(Weak::upgrade) {
        return Ok(db);
    }
    let mut tries = 0;
    let db = loop {
        let opened = super::guarded(|| {
            Database::builder(path)
                .cache_size(cache_bytes)
                .max_journaling_size(JOURNAL_BYTES)
                .manual_journal_persist(true)
                .worker_threads(2)
                .open()
        })?;
        match opened {
            Err(fjall::Error::Locked) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_WAIT);
            }
            opened => break opened.map_err(error("open the database"))?,
        }
    };
    let db = Arc::new(Db(db));
    open.insert(path.to_path_buf(), Arc::downgrade(&db));
    Ok(db)
}

fn keyspace(db: &Db, group: GroupId) -> Result<Keyspace, ViewError> {
    let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES).manual_journal_persist(true);
    super::guarded(|| db.0.keyspace(&format!("group-{group}"), options))?.map_err(error("open a keyspace"))
}

#[async_trait::async_trait]
impl RecordStores for FjallRecords {
    async fn open(&self, folder: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        let (path, open, cache_bytes) = (folder.to_path_buf(), self.open.clone(), self.cache_bytes);
        let store = blocking(move || {
            let db = database(&open, &path, cache_bytes)?;
            let keyspace = keyspace(&db, group)?;
            let store = FjallStore { keyspace, db };
            verify(&store)?;
            Ok(store)
        })
        .await?;
        Ok(Hot::before(Arc::new(store), self.hot_bytes))
    }

    async fn wipe(&self, folder: &Path, group: GroupId) -> Result<(), ViewError> {
        let (path, open, cache_bytes) = (folder.to_path_buf(), self.open.clone(), self.cache_bytes);
        blocking(move || {
            let wiped = database(&open, &path, cache_bytes).and_then(|db| {
                let keyspace = keyspace(&db, group)?;
                super::guarded(|| db.0.delete_keyspace(keyspace))?.map_err(error("delete a keyspace"))
            });
            let Err(error) = wiped else { return Ok(()) };
            // The database as a whole is bad. All groups' records go; each is rebuilt when it is opened.
            let mut open = open.lock();
            if open.get(&path).is_some_and(|db| db.strong_count() > 0) {
                return Err(error);
            }
            tracing::error!(%error, folder = %path.display(), "throw away the record database");
            open.remove(&path);
            remove_folder(&path)
        })
        .await
    }

    async fn persist(&self, store: Arc<dyn RecordStore>) -> Result<(), ViewError> {
        blocking(move || store.persist_blocking()).await
    }
}

struct FjallStore {
    // Before the database, so that it is closed first.
    keyspace: Keyspace,
    db: Arc<Db>,
}

/// Hands the records of an iteration on.
fn walk(
    records: impl Iterator<Item = Guard>,
    each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
) -> Result<(), ViewError> {
    for record in records {
        let (key, stored) = record.into_inner().map_err(error("scan"))?;
        if each(&key, &unseal(&key, &stored)?).is_break() {
            break;
        }
    }
    Ok(())
}

impl View for FjallStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let stored = self.keyspace.get(key).map_err(error("get"))?;
        stored.map(|stored| unseal(key, &stored)).transpose()
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        // An iteration over the keyspace itself may see part of a batch.
        if from >= to { Ok(()) } else { walk(self.db.0.snapshot().range(&self.keyspace, from..to), each) }
    }
}

impl RecordStore for FjallStore {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut batch = self.db.0.batch();
        for (key, change) in changes {
            match change {
                Some(value) => batch.insert(&self.keyspace, &key[..], seal(key, value)),
                None => batch.remove(&self.keyspace, &key[..]),
            }
        }
        batch.commit().map_err(error("write"))
    }

    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        let (snapshot, keyspace) = (self.db.0.snapshot(), self.keyspace.clone());
        Ok(Arc::new(FjallSnapshot { snapshot, keyspace, _db: self.db.clone() }))
    }

    fn persist_blocking(&self) -> Result<(), ViewError> {
        self.db.0.persist(PersistMode::SyncData).map_err(error("persist"))
    }
}

struct FjallSnapshot {
    snapshot: Snapshot,
    keyspace: Keyspace,
    _db: Arc<Db>,
}

impl View for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let stored = self.snapshot.get(&self.keyspace, key).map_err(error("get"))?;
        stored.map(|stored| unseal(key, &stored)).transpose()
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        if from >= to { Ok(()) } else { walk(self.snapshot.range(&self.keyspace, from..to), each) }
    }
}
