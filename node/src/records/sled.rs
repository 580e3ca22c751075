//! Records in sled 0.34: one database per data folder, a tree per group. Batches are atomic; iteration is not
//! consistent, and garbled files may open silently wrong or panic: so views come from `versions`, sums from `sums`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, ViewError};

use super::cache::Hot;
use super::sums::{seal, unseal};
use super::versions::{Plain, Versions};
use super::{RecordStore, RecordStores, blocking, guarded, remove_folder, verify};

/// How often sled writes what it holds to disk by itself. Without it no space is ever reused.
const FLUSH_EVERY_MS: u64 = 500;
/// An earlier life of the same process may take a moment to close its files.
const LOCK_TRIES: usize = 40;
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// Opens sled databases.
pub struct SledRecords {
    cache_bytes: u64,
    hot_bytes: usize,
    open: Arc<Mutex<BTreeMap<PathBuf, Weak<Db>>>>,
}

/// A database, open as long as any group's store is.
struct Db(::sled::Db);

impl SledRecords {
    /// Each database with a page cache of `cache_bytes` (64 to 256 MiB), and `hot_bytes` of records kept before each
    /// group's store.
    pub fn new(cache_bytes: u64, hot_bytes: usize) -> SledRecords {
        SledRecords { cache_bytes, hot_bytes, open: Arc::default() }
    }
}

/// Runs a call of sled, whose panics are errors too.
fn call<T>(doing: &str, work: impl FnOnce() -> ::sled::Result<T>) -> Result<T, ViewError> {
    guarded(work)?.map_err(|error| ViewError(format!("{doing}: {error}")))
}

fn database(open: &Mutex<BTreeMap<PathBuf, Weak<Db>>>, path: &Path, cache_bytes: u64) -> Result<Arc<Db>, ViewError> {
    let mut open = open.lock();
    if let Some(db) = open.get(path).and_then(Weak::upgrade) {
        return Ok(db);
    }
    let mut tries = 0;
    let db = loop {
        let config = ::sled::Config::new().path(path).cache_capacity(cache_bytes);
        let opened = call("open the database", || config.flush_every_ms(Some(FLUSH_EVERY_MS)).open());
        match opened {
            Err(ViewError(why)) if tries < LOCK_TRIES && why.contains("could not acquire lock") => {
                tries += 1;
                std::thread::sleep(LOCK_WAIT);
            }
            opened => break opened?,
        }
    };
    let db = Arc::new(Db(db));
    open.insert(path.to_path_buf(), Arc::downgrade(&db));
    Ok(db)
}

fn name(group: GroupId) -> String {
    format!("group-{group}")
}

#[async_trait::async_trait]
impl RecordStores for SledRecords {
    async fn open(&self, folder: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        let (path, open, cache_bytes) = (folder.to_path_buf(), self.open.clone(), self.cache_bytes);
        let store = blocking(move || {
            let db = database(&open, &path, cache_bytes)?;
            let tree = call("open a tree", || db.0.open_tree(name(group)))?;
            let store = Versions::new(SledStore { tree, _db: db });
            verify(&store)?;
            Ok(store)
        })
        .await?;
        Ok(Hot::before(Arc::new(store), self.hot_bytes))
    }

    async fn wipe(&self, folder: &Path, group: GroupId) -> Result<(), ViewError> {
        let (path, open, cache_bytes) = (folder.to_path_buf(), self.open.clone(), self.cache_bytes);
        blocking(move || {
            let wiped = database(&open, &path, cache_bytes)
                .and_then(|db| call("drop a tree", || db.0.drop_tree(name(group))).map(|_| ()));
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

struct SledStore {
    // Before the database, so that it is closed first.
    tree: ::sled::Tree,
    _db: Arc<Db>,
}

impl Plain for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let stored = call("get", || self.tree.get(key))?;
        stored.map(|stored| unseal(key, &stored)).transpose()
    }

    fn stretch(&self, from: Bound<&[u8]>, to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
        let records = call("scan", || {
            let range = self.tree.range::<&[u8], _>((from, Bound::Excluded(to)));
            range.take(limit).collect::<::sled::Result<Vec<_>>>()
        })?;
        records.into_iter().map(|(key, stored)| Ok((Bytes::copy_from_slice(&key), unseal(&key, &stored)?))).collect()
    }

    fn apply(&self, changes: &Changes) -> Result<(), ViewError> {
        // A batch of one holds sled's process-wide lock and outruns its log.
        if changes.len() == 1
            && let Some((key, change)) = changes.first_key_value()
        {
            return call("write", || {
                match change {
                    Some(value) => self.tree.insert(&key[..], seal(key, value))?,
                    None => self.tree.remove(&key[..])?,
                };
                Ok(())
            });
        }
        let mut batch = ::sled::Batch::default();
        for (key, change) in changes {
            match change {
                Some(value) => batch.insert(&key[..], seal(key, value)),
                None => batch.remove(&key[..]),
            }
        }
        call("write", || self.tree.apply_batch(batch))
    }

    fn persist(&self) -> Result<(), ViewError> {
        call("persist", || self.tree.flush().map(|_| ()))
    }
}

/// The store over a tree that a test spoils.
#[cfg(test)]
pub(super) fn over(db: ::sled::Db, tree: ::sled::Tree) -> impl RecordStore {
    Versions::new(SledStore { tree, _db: Arc::new(Db(db)) })
}
