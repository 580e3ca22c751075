//! Open files: written data gathered and uploaded, maps cached, reads assembled and fetched ahead.

use bytes::Bytes;
use weft_core::entry::Cred;
use weft_core::ids::Ino;
use weft_core::name::Name;
use weft_core::namespace::inode::Attr;
use weft_core::namespace::op::{Op, SetAttr};
use weft_core::namespace::outcome::Outcome;

use crate::error::{Error, Result};
use crate::volume::Volume;

/// An open file. Cloning it shares the handle. All opens of one inode in one client share what is written and cached.
#[derive(Clone)]
pub struct File {
    volume: Volume,
    ino: Ino,
}

impl File {
    pub(crate) async fn open(volume: &Volume, cred: &Cred, ino: Ino, read: bool, write: bool) -> Result<File> {
        let _ = (cred, read, write);
        Ok(File { volume: volume.clone(), ino })
    }

    pub(crate) async fn create(
        volume: &Volume,
        cred: &Cred,
        parent: Ino,
        name: Name,
        mode: u16,
        exclusive: bool,
    ) -> Result<(File, Attr, bool)> {
        match volume.apply(cred, Op::Create { parent, name, mode, exclusive }).await? {
            Outcome::Created { attr, fresh } => Ok((File { volume: volume.clone(), ino: attr.ino }, attr, fresh)),
            _ => Err(Error::unexpected("create")),
        }
    }

    /// Its inode number.
    pub fn ino(&self) -> Ino {
        self.ino
    }

    /// Its volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the file. Includes what this client wrote and has not
    /// committed.
    ///
    /// # Errors
    /// EBADF if not opened for reading; EIO if no replica gives intact bytes within the deadline.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let _ = (offset, len);
        Err(Error::Closed)
    }

    /// Writes at `offset`. Returns once the bytes are held; they are durable after [`File::flush`].
    ///
    /// # Errors
    /// EBADF if not opened for writing, EFBIG, or what an earlier upload in the background failed with.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        let _ = (offset, data);
        Err(Error::Closed)
    }

    /// Writes at the file's end as this client knows it; returns where that was.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub async fn append(&self, data: Bytes) -> Result<u64> {
        let _ = data;
        Err(Error::Closed)
    }

    /// Sets the size. Durable when it returns, and everything written before with it.
    ///
    /// # Errors
    /// EBADF if not opened for writing, EFBIG, and those of writing.
    pub async fn truncate(&self, size: u64) -> Result<Attr> {
        let _ = size;
        Err(Error::Closed)
    }

    /// Sets attributes. With written data not committed yet they ride in its next commit.
    ///
    /// # Errors
    /// As POSIX says for chmod, chown and utimens.
    pub async fn setattr(&self, cred: &Cred, set: SetAttr) -> Result<Attr> {
        let _ = (cred, set);
        Err(Error::Closed)
    }

    /// Makes everything written so far durable and visible to other clients: data to the chunk servers, then one
    /// commit.
    ///
    /// # Errors
    /// Of this or of an earlier upload in the background. What could not be written is kept and tried again by the next
    /// flush, unless the file or the session is gone.
    pub async fn flush(&self) -> Result<()> {
        Err(Error::Closed)
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
        Err(Error::Closed)
    }

    /// Flushes; the handle should not be used afterwards. A handle dropped without it is flushed in the background,
    /// where nobody hears of errors.
    ///
    /// # Errors
    /// As [`File::flush`].
    pub async fn close(&self) -> Result<()> {
        self.flush().await
    }
}
