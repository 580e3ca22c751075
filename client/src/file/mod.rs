//! Open files.
//!
//! All opens of an inode in one client share a [`state::FileState`]: what is written lies in memory ([`dirty`]), goes
//! to chunk servers in the background ([`write`]), and becomes true for everyone in one commit ([`flush`]). Reads
//! ([`read`]) see it over the committed map ([`map`]). What always holds: the bytes a reader of this client sees are the
//! last written here, and a commit names only chunks that are durable.

mod dirty;
mod flush;
mod map;
mod plan;
mod read;
mod seek;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::ids::Ino;
use weft_core::name::Name;
use weft_core::namespace::inode::{Attr, Kind};
use weft_core::namespace::op::{Op, SetAttr};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;

use crate::error::{Error, Result};
use crate::meta::Failed;
use crate::session::{Session, is_end};
use crate::volume::Volume;
use map::Map;
use read::Reader;
pub(crate) use state::FileState;
pub(crate) use table::FileTable;

/// An open file. Cloning it shares the handle. All opens of one inode in one client share what is written and cached.
#[derive(Clone)]
pub struct File {
    handle: Arc<Handle>,
}

/// One open.
struct Handle {
    volume: Volume,
    state: Arc<FileState>,
    cred: Cred,
    read: bool,
    write: bool,
    reader: Mutex<Reader>,
    reported: Mutex<Reported>,
}

/// Which troubles of the state this handle's user has been told.
#[derive(Clone, Copy, Default)]
struct Reported {
    failures: u64,
    losses: u64,
}

impl File {
    pub(crate) async fn open(volume: &Volume, cred: &Cred, ino: Ino, read: bool, write: bool) -> Result<File> {
        let shared = &volume.client.shared;
        let session = shared.session(volume.info.space).await?;
        match File::open_in(&session, volume, cred, ino, read, write).await {
            Err(error) if is_end(&error) => {
                let session = shared.session(volume.info.space).await?;
                File::open_in(&session, volume, cred, ino, read, write).await
            }
            result => result,
        }
    }

    async fn open_in(
        session: &Arc<Session>,
        volume: &Volume,
        cred: &Cred,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> Result<File> {
        // Known as open before the question is asked, so that the inode is not reaped meanwhile.
        let state = FileState::of(&volume.client.shared, &volume.info, session, ino);
        let asked = Instant::now();
        match state.query(cred, &Query::Open { ino, read, write }).await? {
            Answer::Map { attr, extents, more_from } => match attr.kind {
                Kind::File => state.learn_page(asked, attr, 0, extents, more_from)?,
                Kind::Directory => return Err(Error::Refused(Refusal::IsDirectory { ino })),
                _ => return Err(Error::Refused(Refusal::Invalid { why: "not a regular file".into() })),
            },
            _ => return Err(Error::unexpected("open")),
        }
        Ok(File::new(volume, state, cred, read, write))
    }

    pub(crate) async fn create(
        volume: &Volume,
        cred: &Cred,
        parent: Ino,
        name: Name,
        mode: u16,
        exclusive: bool,
    ) -> Result<(File, Attr, bool)> {
        File::make(volume, cred, &Op::Create { parent, name, mode, exclusive }).await
    }

    pub(crate) async fn create_nameless(volume: &Volume, cred: &Cred, parent: Ino, mode: u16) -> Result<(File, Attr)> {
        File::make(volume, cred, &Op::Tmpfile { parent, mode }).await.map(|(file, attr, _)| (file, attr))
    }

    async fn make(volume: &Volume, cred: &Cred, op: &Op) -> Result<(File, Attr, bool)> {
        let shared = &volume.client.shared;
        let mut session = shared.session(volume.info.space).await?;
        let mut created = File::create_in(&session, volume, cred, op).await;
        if let Err(Failed { error, ambiguous: false }) = &created
            && is_end(error)
        {
            session = shared.session(volume.info.space).await?;
            created = File::create_in(&session, volume, cred, op).await;
        }
        let (state, attr, fresh) = created?;
        if fresh {
            let file = File::new(volume, state, cred, true, true);
            return Ok((file, attr, true));
        }
        // It was there: whether it may be read and written is decided as for any open.
        let file = File::open_in(&session, volume, cred, attr.ino, true, true).await?;
        let attr = file.handle.state.observe(attr);
        Ok((file, attr, false))
    }

    async fn create_in(
        session: &Arc<Session>,
        volume: &Volume,
        cred: &Cred,
        op: &Op,
    ) -> Result<(Arc<FileState>, Attr, bool), Failed> {
        let shared = &volume.client.shared;
        let _creating = session.creating();
        let asked = Instant::now();
        match shared.apply_in(session, cred, volume.info.id, op).await? {
            Outcome::Created { attr, fresh } => {
                let state = FileState::of(shared, &volume.info, session, attr.ino);
                if fresh {
                    state.change(|inner| {
                        if inner.attr.is_none() {
                            inner.attr = Some(attr.clone());
                            inner.map = Map::empty();
                            inner.checked = Some(asked);
                        }
                    });
                }
                Ok((state, attr, fresh))
            }
            _ => Err(Failed { error: Error::unexpected("create"), ambiguous: true }),
        }
    }

    fn new(volume: &Volume, state: Arc<FileState>, cred: &Cred, read: bool, write: bool) -> File {
        let reported = {
            let troubles = &state.lock().troubles;
            Reported { failures: troubles.failures, losses: troubles.losses }
        };
        File {
            handle: Arc::new(Handle {
                volume: volume.clone(),
                state,
                cred: cred.clone(),
                read,
                write,
                reader: Mutex::default(),
                reported: Mutex::new(reported),
            }),
        }
    }

    /// Its inode number.
    pub fn ino(&self) -> Ino {
        self.handle.state.key().1
    }

    /// Its volume.
    pub fn volume(&self) -> &Volume {
        &self.handle.volume
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the file. Includes what this client wrote and has not
    /// committed.
    ///
    /// # Errors
    /// EBADF if not opened for reading; EIO if no replica gives intact bytes within the deadline.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if !self.handle.read {
            return Err(Error::BadHandle { what: "reading" });
        }
        self.handle.state.read(&self.handle.cred, &self.handle.reader, offset, len as u64).await
    }

    /// Writes at `offset`. Returns once the bytes are held; they are durable after [`File::flush`]. Waits while too many
    /// bytes are held already.
    ///
    /// # Errors
    /// EBADF if not opened for writing, EFBIG, or what an earlier upload in the background failed with; then nothing of
    /// `data` is taken.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        self.writable()?;
        self.report_failures()?;
        self.handle.state.write(&self.handle.cred, Some(offset), data).await.map(drop)
    }

    /// Whoever writes next through the handle has no right to keep the file's set-user-id and set-group-id: the next
    /// commit clears them.
    pub fn forgo_privilege(&self) {
        self.handle.state.forgo_privilege();
    }

    /// Writes at the file's end as this client knows it; returns where that was.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub async fn append(&self, data: Bytes) -> Result<u64> {
        self.writable()?;
        self.report_failures()?;
        self.handle.state.revalidate(&self.handle.cred).await?;
        self.handle.state.write(&self.handle.cred, None, data).await
    }

    /// The first byte at or behind `offset` that is data; `None` if there is none. Reserved zeroes are no data.
    ///
    /// # Errors
    /// EIO if the map can't be had within the deadline.
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.handle.state.seek(&self.handle.cred, offset, false).await
    }

    /// The first byte at or behind `offset` that is in a hole, where the end of the file is one; `None` if `offset` is
    /// not in the file.
    ///
    /// # Errors
    /// As [`File::seek_data`].
    pub async fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.handle.state.seek(&self.handle.cred, offset, true).await
    }

    /// Sets the size. Durable when it returns, and everything written before with it.
    ///
    /// # Errors
    /// EBADF if not opened for writing, EFBIG, and those of writing.
    pub async fn truncate(&self, size: u64) -> Result<Attr> {
        self.truncate_with(&self.handle.cred, size, SetAttr::default()).await
    }

    /// Sets the size, and attributes with it, on behalf of `cred`.
    ///
    /// # Errors
    /// As [`File::truncate`] and [`File::setattr`].
    pub async fn truncate_with(&self, cred: &Cred, size: u64, set: SetAttr) -> Result<Attr> {
        self.writable()?;
        self.handle.state.truncate(cred, size, set, true).await
    }

    /// Sets attributes. With written data not committed yet they ride in its next commit.
    ///
    /// # Errors
    /// As POSIX says for chmod, chown and utimens.
    pub async fn setattr(&self, cred: &Cred, set: SetAttr) -> Result<Attr> {
        self.handle.state.setattr(cred, set).await
    }

    /// Makes everything written so far durable and visible to other clients: data to the chunk servers, then one
    /// commit.
    ///
    /// # Errors
    /// Of this flush, or that bytes written earlier were given up in the background (told once to each handle). What
    /// could not be written is kept and tried again by the next flush, unless the file or the session is gone.
    pub async fn flush(&self) -> Result<()> {
        self.flush_here().await?;
        let (volume, ino) = self.handle.state.key();
        self.handle.volume.client.shared.settle_file(volume, ino).await
    }

    /// Below a write lease, up to where the commit is held back.
    async fn flush_here(&self) -> Result<()> {
        let result = self.handle.state.flush().await;
        let troubles = self.handle.state.lock().troubles.clone();
        let mut reported = self.handle.reported.lock();
        let lost = troubles.losses > reported.losses;
        *reported = Reported { failures: troubles.failures, losses: troubles.losses };
        match (result, troubles.last) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(error)) if lost => Err(error),
            (Ok(()), _) => Ok(()),
        }
    }

    /// The same as [`File::flush`].
    ///
    /// # Errors
    /// As [`File::flush`].
    pub async fn sync(&self) -> Result<()> {
        self.flush().await
    }

    /// The file's attributes with the size and times of what this client has written and not committed.
    ///
    /// # Errors
    /// ESTALE if the file is gone.
    pub async fn attr(&self) -> Result<Attr> {
        let state = &self.handle.state;
        state.revalidate(&self.handle.cred).await?;
        let inner = state.lock();
        match inner.attr.clone() {
            Some(attr) => Ok(inner.show(attr)),
            None => Err(Error::Closed),
        }
    }

    /// The file's content version, and the version since which every change was made by this client: what was read of
    /// the file at or after that one and changed along with the writes made here is still right.
    pub fn versions(&self) -> (u64, u64) {
        let inner = self.handle.state.lock();
        (inner.attr.as_ref().map_or(0, |attr| attr.version), inner.ours_since)
    }

    /// Flushes, if the file was opened for writing; the handle should not be used afterwards. Below a write lease it
    /// returns before that: what was written is durable within a second. A handle dropped without it is flushed in the
    /// background, where nobody hears of errors.
    ///
    /// # Errors
    /// As [`File::flush`]; below a write lease, what failed before.
    pub async fn close(&self) -> Result<()> {
        let (volume, ino) = self.handle.state.key();
        if !self.handle.write {
            return Ok(());
        }
        let Some(uploading) = self.handle.volume.client.shared.begin_upload(volume, ino) else {
            return self.flush().await;
        };
        self.report_failures()?;
        match self.handle.state.flushes_at_once() {
            true => self.flush_here().await,
            false => {
                self.handle.state.flush_behind(Some(uploading));
                Ok(())
            }
        }
    }

    fn writable(&self) -> Result<()> {
        match self.handle.write {
            true => Ok(()),
            false => Err(Error::BadHandle { what: "writing" }),
        }
    }

    /// Tells what failed in the background since this handle last heard.
    fn report_failures(&self) -> Result<()> {
        let troubles = self.handle.state.lock().troubles.clone();
        let mut reported = self.handle.reported.lock();
        if troubles.failures > reported.failures
            && let Some(error) = troubles.last
        {
            *reported = Reported { failures: troubles.failures, losses: troubles.losses };
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.state.is_dirty() {
            self.state.flush_in_background();
        }
    }
}
