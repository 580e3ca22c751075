//! A group's state: applies committed entries to the group's records, one atomic write per batch.
//!
//! What entries do is decided by `weft_core::machine`; this drives it. How far the records have come is a record among
//! them, written in the same batch, so that a crash loses a tail of batches and never a part of one. It knows nothing
//! of openraft: positions are bytes here.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;
use weft_core::broken::{self, Variant};
use weft_core::codec;
use weft_core::entry::Command;
use weft_core::ids::GroupId;
use weft_core::keys;
use weft_core::machine;
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;
use weft_core::view::{Changes, Overlay, View, ViewError};

use super::marks::Marks;
use super::spool::Spool;
use crate::records::{RecordStore, RecordStores};

/// The record that says how far the others have come; `weft_core::keys` leaves its first byte to us.
pub(crate) const POSITION: &[u8] = b"\x00position";

/// Changed records after which a batch is written, so that it stays small in memory.
const BATCH_CHANGES: usize = 16 << 10;

/// What came of an entry; `None` for those that carry no command.
pub(crate) type Reply = Option<Result<Outcome, Refusal>>;

/// The records of one group and how entries change them.
pub(crate) struct Machine {
    group: GroupId,
    stores: Arc<dyn RecordStores>,
    folder: PathBuf,
    store: RwLock<Arc<dyn RecordStore>>,
    /// Whether something was written since the last persist began.
    dirty: AtomicBool,
    /// Index of the last entry applied.
    applied: watch::Sender<u64>,
    marks: Marks,
    /// Whether records were found damaged or lost and were thrown away.
    lost: AtomicBool,
}

impl Machine {
    /// Opens a group's records, and says how far they have come. Records that can't be read are thrown away.
    ///
    /// # Errors
    /// The store can't be opened even when empty.
    pub(crate) async fn open(
        group: GroupId,
        stores: Arc<dyn RecordStores>,
        folder: PathBuf,
    ) -> io::Result<(Arc<Machine>, Option<Bytes>)> {
        let opened = match stores.open(&folder, group).await {
            Ok(store) => store.get(POSITION).map(|position| (store, position)),
            Err(error) => Err(error),
        };
        let mut lost = false;
        let (store, position) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                lost = true;
                tracing::error!(%group, %error, "the record store is damaged: rebuilding it");
                stores.wipe(&folder, group).await.map_err(failed)?;
                (stores.open(&folder, group).await.map_err(failed)?, None)
            }
        };
        let machine = Machine {
            group,
            stores,
            folder,
            store: RwLock::new(store),
            dirty: AtomicBool::new(false),
            applied: watch::Sender::new(0),
            marks: Marks::default(),
            lost: AtomicBool::new(lost),
        };
        Ok((Arc::new(machine), position))
    }

    /// Throws all records away.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn wipe(&self) -> io::Result<()> {
        self.stores.wipe(&self.folder, self.group).await.map_err(failed)?;
        let fresh = self.stores.open(&self.folder, self.group).await.map_err(failed)?;
        *self.store.write() = fresh;
        Ok(())
    }

    /// [`Machine::wipe`] of records that are damaged or lack something.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn throw_away(&self) -> io::Result<()> {
        self.lost.store(true, Ordering::Relaxed);
        self.wipe().await
    }

    /// Whether records were found damaged or lost, and were thrown away, when this was opened.
    pub(crate) fn were_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Applies entries in order, each seeing what those before it changed, and answers each. `position_after(n)` is
    /// the log index of the n-th of these and the bytes that say "so many are applied"; it is asked with rising numbers,
    /// the last being all.
    ///
    /// # Errors
    /// The store failed or an entry can't be read: the replica must stop.
    pub(crate) fn apply(
        &self,
        entries: Vec<Option<Bytes>>,
        mut position_after: impl FnMut(usize) -> (u64, Bytes),
    ) -> io::Result<Vec<Reply>> {
        let store = self.live();
        let base: &dyn View = &*store;
        let mut overlay = Overlay::new(base);
        let mut replies = Vec::with_capacity(entries.len());
        let count = entries.len();
        for (at, entry) in entries.into_iter().enumerate() {
            let mut marked = None;
            replies.push(match entry {
                None => None,
                Some(bytes) => {
                    let entry = codec::decode_entry(&bytes).map_err(|error| {
                        io::Error::other(format!("group {}: an entry of the log: {error}", self.group))
                    })?;
                    let applied = machine::apply(&overlay, self.group, &entry).map_err(failed)?;
                    overlay.absorb(applied.changes);
                    if let Command::Mark(mark) = entry.command {
                        marked = Some(mark);
                    }
                    Some(applied.reply)
                }
            });
            if at + 1 == count || overlay.changed() >= BATCH_CHANGES || marked.is_some() {
                let (index, position) = position_after(at + 1);
                overlay.put(Bytes::from_static(POSITION), position);
                if broken::is(Variant::PositionFirst)
                    && let Some(position) = overlay.get(POSITION).map_err(failed)?
                {
                    let first = Changes::from([(Bytes::from_static(POSITION), Some(position))]);
                    self.store.write().write(&first).map_err(failed)?;
                }
                let changes = std::mem::replace(&mut overlay, Overlay::new(base)).into_changes();
                // Those who read are shut out for the moment of the write, so that they see whole batches.
                self.store.write().write(&changes).map_err(failed)?;
                self.dirty.store(true, Ordering::Release);
                if let Some(mark) = marked {
                    // Before it is told that the entry was applied.
                    self.marks.keep(mark, self.snapshot()?);
                }
                self.applied.send_replace(index);
            }
        }
        Ok(replies)
    }

    /// Sees the index of the last entry applied, at every change of it. It may be 0 until the first after a start.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Reads the records; nothing is written meanwhile.
    pub(crate) fn read<T>(&self, ask: impl FnOnce(&dyn View) -> T) -> T {
        let store = self.store.read();
        ask(&**store)
    }

    /// How the records stood at marks.
    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    fn live(&self) -> Arc<dyn RecordStore> {
        self.store.read().clone()
    }

    /// The records as of now. Some stores copy them all.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn snapshot(&self) -> io::Result<Arc<dyn View + Send + Sync>> {
        self.store.read().snapshot().map_err(failed)
    }

    /// What is written survives a crash once this returns.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn persist(&self) -> io::Result<()> {
        self.dirty.store(false, Ordering::Release);
        let store = self.live();
        self.stores.persist(store).await.map_err(failed)
    }

    /// [`Machine::persist`] if anything was written since the last time.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn persist_if_dirty(&self) -> io::Result<()> {
        if self.dirty.load(Ordering::Acquire) { self.persist().await } else { Ok(()) }
    }

    /// Replaces all records by those of a received snapshot. A crash midway leaves records without a position, which
    /// are thrown away when they are opened.
    ///
    /// # Errors
    /// The store or the spool failed; the records are of no use any more.
    pub(crate) async fn install(&self, spool: Spool, index: u64, position: Bytes) -> io::Result<()> {
        self.wipe().await?;
        let store = self.live();
        for at in 0..spool.pieces() {
            let changes: Changes = spool
                .read(at)
                .await?
                .into_iter()
                .filter(|(key, _)| &key[..] != POSITION)
                .filter(|(key, _)| !(broken::is(Variant::RepliesForgotten) && keys::is_reply(key)))
                .map(|(key, value)| (key, Some(value)))
                .collect();
            store.write(&changes).map_err(failed)?;
        }
        store.write(&Changes::from([(Bytes::from_static(POSITION), Some(position))])).map_err(failed)?;
        self.persist().await?;
        self.applied.send_replace(index);
        spool.remove().await;
        Ok(())
    }
}

fn failed(error: ViewError) -> io::Error {
    io::Error::other(error)
}
