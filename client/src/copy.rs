//! Streaming files in and out.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_core::entry::Cred;
use weft_core::namespace::inode::{Attr, Kind};
use weft_core::namespace::op::SetAttr;
use weft_core::refusal::Refusal;

use crate::client::Client;
use crate::error::{Error, Result};

/// Bytes moved at a time.
const STEP: usize = 1 << 20;

impl Client {
    /// Streams `source` into the file at `path`, made with `mode` if missing, cut to nothing if not; durable when it
    /// returns. `progress` is told how many bytes were taken so far. Returns the file's attributes.
    ///
    /// # Errors
    /// Of the path, the source or the writing; then the file may hold a part.
    pub async fn copy_in<R>(
        &self,
        cred: &Cred,
        source: &mut R,
        path: &[u8],
        mode: u16,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Attr>
    where
        R: tokio::io::AsyncRead + Unpin + Send,
    {
        let to = self.resolve_parent(cred, path).await?;
        let (file, attr, fresh) = to.volume.create_file(cred, to.parent, to.name, mode, false).await?;
        if !fresh && attr.size > 0 {
            file.truncate_with(cred, 0, SetAttr::default()).await?;
        }
        let mut at = 0u64;
        loop {
            let mut step = BytesMut::with_capacity(STEP);
            while step.len() < STEP {
                let room = STEP - step.len();
                let read = (&mut *source).take(room as u64).read_buf(&mut step).await;
                if read.map_err(|error| local("read the source", &error))? == 0 {
                    break;
                }
            }
            if step.is_empty() {
                break;
            }
            let len = step.len() as u64;
            file.write_at(at, step.freeze()).await?;
            at += len;
            progress(at);
        }
        file.close().await?;
        file.attr().await
    }

    /// Streams the file at `path` into `target`. `progress` is told how many bytes were written so far. Returns how
    /// many there were.
    ///
    /// # Errors
    /// Of the path, the reading or the target; then the target may have got a part.
    pub async fn copy_out<W>(
        &self,
        cred: &Cred,
        path: &[u8],
        target: &mut W,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<u64>
    where
        W: tokio::io::AsyncWrite + Unpin + Send,
    {
        let from = self.resolve_follow(cred, path).await?;
        if from.found.kind == Kind::Directory {
            return Err(Error::Refused(Refusal::IsDirectory { ino: from.found.ino }));
        }
        let file = from.volume.open(cred, from.found.ino, true, false).await?;
        let mut at = 0u64;
        loop {
            let bytes = file.read_at(at, STEP).await?;
            if bytes.is_empty() {
                break;
            }
            target.write_all(&bytes).await.map_err(|error| local("write the target", &error))?;
            at += bytes.len() as u64;
            progress(at);
        }
        target.flush().await.map_err(|error| local("write the target", &error))?;
        file.close().await?;
        Ok(at)
    }
}

fn local(what: &'static str, error: &std::io::Error) -> Error {
    Error::Local { what, why: error.to_string() }
}
