//! What all opens of one inode in one client share.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::ids::{Ino, VolumeId};
use weft_core::limits::MAX_MAP;
use weft_core::namespace::inode::{Attr, Extent};
use weft_core::namespace::op::{SetAttr, SetTime};
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;
use weft_core::site;
use weft_core::span::Span;
use weft_core::time::Timestamp;

use super::dirty::Dirty;
use super::map::Map;
use crate::client::Shared;
use crate::error::{Error, Result};
use crate::session::Session;

/// Changed by every open of the inode; bound to the session in which it was opened.
pub(crate) struct FileState {
    pub(super) shared: Arc<Shared>,
    pub(super) volume: Arc<site::Volume>,
    pub(super) session: Arc<Session>,
    pub(super) ino: Ino,
    inner: Mutex<Inner>,
    /// One commit, truncation or change of attributes at a time, in order.
    pub(super) commit: tokio::sync::Mutex<()>,
    pub(super) uploads: Arc<Semaphore>,
    pub(super) changed: Notify,
    revalidating: tokio::sync::Mutex<()>,
}

pub(super) struct Inner {
    /// As committed, as far as is known; `None` while the first open is under way.
    pub(super) attr: Option<Attr>,
    /// Every change of content after this version was made by this client.
    pub(super) ours_since: u64,
    /// When `attr` and `map` were last known to be right.
    pub(super) checked: Option<Instant>,
    pub(super) map: Map,
    /// Written, over `committing`, over `map`.
    pub(super) dirty: Dirty,
    /// In a commit that is under way.
    pub(super) committing: Dirty,
    pub(super) pending: Pending,
    pub(super) committing_pending: Pending,
    /// On whose behalf the last write was made.
    pub(super) writer: Cred,
    pub(super) dirty_since: Option<Instant>,
    pub(super) last_write: Option<Instant>,
    pub(super) troubles: Troubles,
    /// What of it the client's budget knows.
    accounted: u64,
}

/// Changes of attributes that ride in the next commit.
#[derive(Clone, Default)]
pub(super) struct Pending {
    pub(super) mtime: Option<Timestamp>,
    pub(super) set: SetAttr,
    pub(super) clear_suid: bool,
}

/// What went wrong in the background. Handles compare the counts with those they have reported.
#[derive(Clone, Default)]
pub(super) struct Troubles {
    /// How many times something failed.
    pub(super) failures: u64,
    /// How many times written bytes were given up.
    pub(super) losses: u64,
    /// The last of them.
    pub(super) last: Option<Error>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.mtime.is_none() && !self.clear_suid && self.set == SetAttr::default()
    }

    /// Lays `newer` over this.
    pub(super) fn absorb(&mut self, newer: Pending) {
        if newer.mtime.is_some() {
            self.mtime = newer.mtime;
            self.set.mtime = None;
        }
        if newer.clear_suid {
            self.clear_suid = true;
        }
        self.set = over(std::mem::take(&mut self.set), newer.set);
    }

    fn show(&self, attr: &mut Attr) {
        if let Some(mtime) = self.mtime {
            attr.mtime = mtime;
            attr.ctime = attr.ctime.max(mtime);
        }
        if self.clear_suid || self.set.uid.is_some() || self.set.gid.is_some() {
            attr.mode = without_suid(attr.mode);
        }
        attr.mode = self.set.mode.unwrap_or(attr.mode);
        attr.uid = self.set.uid.unwrap_or(attr.uid);
        attr.gid = self.set.gid.unwrap_or(attr.gid);
        if let Some(SetTime::To(time)) = self.set.atime {
            attr.atime = time;
        }
        if let Some(SetTime::To(time)) = self.set.mtime {
            attr.mtime = time;
        }
    }
}

/// `newer` where it says something, else `older`: what one change then the other leave of a regular file.
pub(super) fn over(older: SetAttr, newer: SetAttr) -> SetAttr {
    // A new owner must not inherit what the old one let the file do.
    let given_away = newer.uid.is_some() || newer.gid.is_some();
    let older_mode = if given_away { older.mode.map(without_suid) } else { older.mode };
    SetAttr {
        mode: newer.mode.or(older_mode),
        uid: newer.uid.or(older.uid),
        gid: newer.gid.or(older.gid),
        atime: newer.atime.or(older.atime),
        mtime: newer.mtime.or(older.mtime),
        ctime: newer.ctime.or(older.ctime),
    }
}

/// What a plain user's write, or a new owner, leaves of a mode.
pub(super) fn without_suid(mode: u16) -> u16 {
    let sgid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | sgid)
}

impl Inner {
    /// Nothing of this client's is uncommitted.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.committing.is_empty() && self.pending.is_empty()
    }

    /// One past the last byte for readers of this client.
    pub(super) fn size(&self) -> u64 {
        let committed = self.attr.as_ref().map_or(0, |attr| attr.size);
        committed.max(self.dirty.end()).max(self.committing.end())
    }

    /// With what this client wrote.
    pub(super) fn show(&self, mut attr: Attr) -> Attr {
        attr.size = attr.size.max(self.dirty.end()).max(self.committing.end());
        // So that a file never looks like one hole to those who go by its blocks.
        attr.allocated += self.dirty.held() + self.committing.held();
        self.committing_pending.show(&mut attr);
        self.pending.show(&mut attr);
        attr
    }

    /// Takes attributes answered by the server, and with them perhaps what part of the map is. What was known of
    /// another version is forgotten; an answer older than what is known is ignored.
    pub(super) fn adopt(&mut self, attr: Attr, page: Option<(Span, Vec<Extent>)>) {
        if let Some(known) = &self.attr {
            if attr.version < known.version {
                return;
            }
            if attr.version != known.version || attr.generation != known.generation {
                self.map.forget();
                self.ours_since = attr.version;
            } else if attr.ctime < known.ctime {
                // Of the same content, but before a change of attributes that is known already.
                if let Some((span, extents)) = page {
                    self.map.learn(span, extents);
                }
                return;
            }
        } else {
            self.ours_since = attr.version;
        }
        self.attr = Some(attr);
        if let Some((span, extents)) = page {
            self.map.learn(span, extents);
        }
    }

    pub(super) fn fail(&mut self, error: Error) {
        self.troubles.failures += 1;
        self.troubles.last = Some(error);
    }

    /// Gives up everything that is not committed.
    pub(super) fn lose(&mut self, error: Error) {
        self.dirty.clear_all();
        self.committing.clear_all();
        self.pending = Pending::default();
        self.committing_pending = Pending::default();
        self.map.forget();
        self.troubles.losses += 1;
        self.fail(error);
    }
}

impl FileState {
    /// The state of an inode, shared with its other opens.
    pub(super) fn of(
        shared: &Arc<Shared>,
        volume: &Arc<site::Volume>,
        session: &Arc<Session>,
        ino: Ino,
    ) -> Arc<FileState> {
        shared.files.find_or_make(volume.id, ino, || {
            Arc::new(FileState {
                shared: shared.clone(),
                volume: volume.clone(),
                session: session.clone(),
                ino,
                inner: Mutex::new(Inner {
                    attr: None,
                    ours_since: 0,
                    checked: None,
                    map: Map::default(),
                    dirty: Dirty::default(),
                    committing: Dirty::default(),
                    pending: Pending::default(),
                    committing_pending: Pending::default(),
                    writer: Cred::root(),
                    dirty_since: None,
                    last_write: None,
                    troubles: Troubles::default(),
                    accounted: 0,
                }),
                commit: tokio::sync::Mutex::new(()),
                uploads: Arc::new(Semaphore::new(shared.options.uploads_per_file.max(1))),
                changed: Notify::new(),
                revalidating: tokio::sync::Mutex::new(()),
            })
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Changes what is held and tells the budget.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = change(&mut inner);
        let held = inner.dirty.held() + inner.committing.held();
        if inner.dirty.is_empty() && inner.committing.is_empty() {
            inner.dirty_since = None;
        }
        self.shared.budget.changed(inner.accounted, held);
        inner.accounted = held;
        result
    }

    pub(crate) fn ended(&self) -> bool {
        self.session.ended()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.lock().is_clean()
    }

    /// The attributes with what this client wrote, after taking a server's newer ones. Where the server answered before
    /// a commit of this client that is known already, those that the commit left: what it wrote is not held here any more.
    pub(crate) fn observe(&self, attr: Attr) -> Attr {
        let mut inner = self.lock();
        if inner.attr.is_some() {
            inner.adopt(attr.clone(), None);
        }
        let newest = match &inner.attr {
            Some(known) if (attr.version, attr.ctime) < (known.version, known.ctime) => known.clone(),
            _ => attr,
        };
        inner.show(newest)
    }

    /// Asks a question about the file in its session.
    pub(super) async fn query(&self, cred: &Cred, query: &Query) -> Result<Answer> {
        self.session.check()?;
        self.shared.query_in(&self.session, cred, self.volume.id, query).await
    }

    /// Makes sure that what is known of a file that this client is not writing is no older than the settings allow.
    pub(super) async fn revalidate(&self, cred: &Cred) -> Result<()> {
        let current = |inner: &Inner| {
            !inner.is_clean() || inner.checked.is_some_and(|at| at.elapsed() <= self.shared.options.map_ttl)
        };
        if current(&self.lock()) {
            return Ok(());
        }
        let _alone = self.revalidating.lock().await;
        if current(&self.lock()) {
            return Ok(());
        }
        let asked = Instant::now();
        match self.query(cred, &Query::Getattr { ino: self.ino }).await? {
            Answer::Attr(attr) => {
                let mut inner = self.lock();
                inner.adopt(attr, None);
                inner.checked = inner.checked.max(Some(asked));
                Ok(())
            }
            _ => Err(Error::unexpected("getattr")),
        }
    }

    /// Learns the part of the map that begins at `offset`.
    pub(super) async fn load_map(&self, cred: &Cred, offset: u64) -> Result<()> {
        let asked = Instant::now();
        let query = Query::Map { ino: self.ino, offset, limit: MAX_MAP };
        match self.query(cred, &query).await? {
            Answer::Map { attr, extents, more_from } => self.learn_page(asked, attr, offset, extents, more_from),
            _ => Err(Error::unexpected("a question about a map")),
        }
    }

    /// Takes the answer to a question about the map from `offset` on.
    pub(super) fn learn_page(
        &self,
        asked: Instant,
        attr: Attr,
        offset: u64,
        extents: Vec<Extent>,
        more_from: Option<u64>,
    ) -> Result<()> {
        let end = more_from.unwrap_or(u64::MAX);
        if end <= offset {
            let why = format!("the server's map of inode {} does not go on", self.ino);
            return Err(Error::Refused(Refusal::Invalid { why }));
        }
        let mut inner = self.lock();
        inner.adopt(attr, Some((Span { start: offset, end }, extents)));
        inner.checked = inner.checked.max(Some(asked));
        Ok(())
    }

    /// What is known of the file is not so: an answer about it was lost, and the versions it gave are given to others.
    pub(crate) fn distrust(&self) {
        let mut inner = self.lock();
        inner.map.forget();
        inner.checked = None;
        inner.ours_since = u64::MAX;
        if let Some(attr) = &mut inner.attr {
            // Older than whatever the server says.
            attr.version = 0;
            attr.ctime = Timestamp::default();
        }
    }

    pub(super) fn key(&self) -> (VolumeId, Ino) {
        (self.volume.id, self.ino)
    }
}

impl Drop for FileState {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        if !inner.dirty.is_empty() || !inner.committing.is_empty() {
            tracing::warn!(volume = %self.volume.id, ino = %self.ino, "written bytes were given up with the file");
        }
        self.shared.budget.changed(inner.accounted, 0);
        self.shared.files.gone(self.volume.id, self.ino);
    }
}
