//! Where a received snapshot lies until it is whole: small files in a folder of the group. Only a whole one replaces
//! records, so that a sender that dies midway costs nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::raft::codec::{self, SnapshotEnd, SnapshotPiece};
use crate::parts::Disk;

/// A snapshot being received.
pub(crate) struct SpoolWriter {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    pieces: u64,
    records: u64,
    sum: crc32fast::Hasher,
}

impl SpoolWriter {
    /// An empty one in `folder`; what lay there before is removed.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) async fn begin(disk: Arc<dyn Disk>, folder: PathBuf) -> io::Result<SpoolWriter> {
        clear(&*disk, &folder).await?;
        disk.make_folder(&folder).await?;
        Ok(SpoolWriter { disk, folder, pieces: 0, records: 0, sum: crc32fast::Hasher::new() })
    }

    /// Takes the next piece's bytes.
    ///
    /// # Errors
    /// They are garbled, or the disk failed.
    pub(crate) async fn add(&mut self, body: Bytes) -> io::Result<()> {
        let piece: SnapshotPiece = codec::decode(body.clone())?;
        self.records += piece.records.len() as u64;
        self.sum.update(&body);
        self.disk.write_small(&piece_path(&self.folder, self.pieces), &body).await?;
        self.pieces += 1;
        Ok(())
    }

    /// The snapshot is whole, if it is what the sender says it is.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn finish(self, end: SnapshotEnd) -> io::Result<Spool> {
        if end.records != self.records || end.sum != self.sum.finalize() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is not what was sent"));
        }
        Ok(Spool { disk: self.disk, folder: self.folder, pieces: self.pieces })
    }
}

/// A whole snapshot that was received.
pub(crate) struct Spool {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    pieces: u64,
}

impl Spool {
    /// How many pieces it has.
    pub(crate) fn pieces(&self) -> u64 {
        self.pieces
    }

    /// The records of a piece.
    ///
    /// # Errors
    /// The disk failed, or damaged it.
    pub(crate) async fn read(&self, at: u64) -> io::Result<Vec<(Bytes, Bytes)>> {
        let body = self.disk.read_small(&piece_path(&self.folder, at)).await?;
        let piece: SnapshotPiece = codec::decode(body)?;
        Ok(piece.records)
    }

    /// Gives its space back.
    pub(crate) async fn remove(self) {
        if let Err(error) = clear(&*self.disk, &self.folder).await {
            tracing::warn!(%error, folder = %self.folder.display(), "remove an installed snapshot");
        }
    }
}

/// Removes what a crash left of a received snapshot.
///
/// # Errors
/// The disk failed.
pub(crate) async fn clear(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    for name in disk.list(folder).await? {
        disk.remove(&folder.join(name)).await?;
    }
    Ok(())
}

fn piece_path(folder: &Path, at: u64) -> PathBuf {
    folder.join(format!("{at:08}"))
}
