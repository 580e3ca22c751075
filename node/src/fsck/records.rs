//! Long work on a group's records: an audit, a search, a digest, each a stream of pieces until it ends.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weft_core::ids::{ChunkId, SpaceId};
use weft_core::namespace::audit::{Audit, WINDOW};
use weft_core::namespace::search::Search;
use weft_core::refusal::Refusal;
use weft_core::view::{View, ViewError};
use weft_proto::{convert, pb, status};

/// Records read at a time.
const PIECE: usize = 2048;
/// Pieces of work between two pieces of the answer, if there is nothing to tell.
const TELL_EVERY: u32 = 16;
/// Pieces of an answer that wait for the network.
const AHEAD: usize = 2;
/// How long a piece may wait for its reader, before the work is given up.
const READER_WITHIN: Duration = Duration::from_secs(60);
/// Files in one piece of an answer.
const FILES: usize = 256;

pub(super) type Pieces<T> = ReceiverStream<Result<T, Status>>;
type Frozen = Arc<dyn View + Send + Sync>;

/// The reader has gone, or the store failed.
struct Ended;

struct Out<T>(Sender<Result<T, Status>>);

impl<T> Out<T> {
    async fn tell(&self, piece: T) -> Result<(), Ended> {
        match self.0.send_timeout(Ok(piece), READER_WITHIN).await {
            Ok(()) => Ok(()),
            // Whoever no longer reads needs no answer.
            Err(_) => Err(Ended),
        }
    }

    /// What a store says, or the end of the answer.
    async fn sure<V>(&self, result: Result<V, ViewError>) -> Result<V, Ended> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                tracing::error!(%error, "read the records for a check");
                let refusal = Refusal::DiskFailed { why: error.to_string() };
                let _ = self.0.send_timeout(Err(status::to_status(&refusal)), READER_WITHIN).await;
                Err(Ended)
            }
        }
    }
}

/// Lets `work` write the pieces of an answer. The permit is held while it does.
fn stream<T: Send + 'static, F>(permit: OwnedSemaphorePermit, work: impl FnOnce(Out<T>) -> F) -> Pieces<T>
where
    F: Future<Output = Result<(), Ended>> + Send + 'static,
{
    let (out, pieces) = channel(AHEAD);
    let work = work(Out(out));
    tokio::spawn(async move {
        // Ended early or not, the reader has been told what there was to tell.
        let _ = work.await;
        drop(permit);
    });
    ReceiverStream::new(pieces)
}

/// Recounts.
pub(super) fn audit(
    permit: OwnedSemaphorePermit,
    view: Frozen,
    spaces: Option<Vec<SpaceId>>,
) -> Pieces<pb::AuditPiece> {
    stream(permit, |out| async move {
        let mut audit = out.sure(Audit::new(&*view, spaces, WINDOW)).await?;
        let mut quiet = 0;
        loop {
            let more = out.sure(audit.step(&*view, PIECE)).await?;
            let wrong = audit.take_wrong();
            quiet += 1;
            if !wrong.is_empty() || !more || quiet >= TELL_EVERY {
                quiet = 0;
                out.tell(pb::AuditPiece { records: audit.records(), wrong, end: !more }).await?;
            }
            if !more {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    })
}

/// Looks for the files that name chunks.
pub(super) fn files_of(
    permit: OwnedSemaphorePermit,
    view: Frozen,
    space: SpaceId,
    wanted: BTreeSet<ChunkId>,
) -> Pieces<pb::FilesOfPiece> {
    stream(permit, |out| async move {
        let mut search = out.sure(Search::new(&*view, space, wanted)).await?;
        let mut quiet = 0;
        while out.sure(search.step(&*view, PIECE)).await? {
            quiet += 1;
            if quiet >= TELL_EVERY {
                quiet = 0;
                out.tell(pb::FilesOfPiece::default()).await?;
            }
            tokio::task::yield_now().await;
        }
        let (found, more) = search.into_found();
        for found in found.chunks(FILES) {
            let file = |file: &weft_core::namespace::search::FoundFile| pb::FileOf {
                volume: file.volume.0,
                ino: file.ino.0,
                chunks: file.chunks.iter().copied().map(convert::chunk_ref).collect(),
                paths: file.paths.iter().map(|path| Bytes::copy_from_slice(path)).collect(),
            };
            let files = found.iter().map(file).collect();
            out.tell(pb::FilesOfPiece { files, more: false, end: false }).await?;
        }
        out.tell(pb::FilesOfPiece { files: Vec::new(), more, end: true }).await
    })
}

/// Sums up all records.
pub(super) fn digest(permit: OwnedSemaphorePermit, view: Frozen) -> Pieces<pb::DigestPiece> {
    stream(permit, |out| async move {
        let mut digest = Digest::default();
        let mut quiet = 0;
        while out.sure(digest.step(&*view, PIECE)).await? {
            quiet += 1;
            if quiet >= TELL_EVERY {
                quiet = 0;
                out.tell(pb::DigestPiece { records: digest.records, ..Default::default() }).await?;
            }
            tokio::task::yield_now().await;
        }
        let Digest { records, bytes, sum, .. } = digest;
        out.tell(pb::DigestPiece { records, end: true, bytes, sum: sum.finalize() }).await
    })
}

/// The sum of records in order; equal for equal records only.
#[derive(Default)]
struct Digest {
    cursor: Vec<u8>,
    records: u64,
    bytes: u64,
    sum: crc32fast::Hasher,
}

impl Digest {
    /// Takes in the next records. False once there are no more.
    fn step(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let from = std::mem::take(&mut self.cursor);
        let mut left = limit;
        view.scan(&from, &[0xff; 64], &mut |key, value| {
            if left == 0 {
                self.cursor = key.to_vec();
                return ControlFlow::Break(());
            }
            left -= 1;
            self.records += 1;
            self.bytes += (key.len() + value.len()) as u64;
            for part in [key, &value[..]] {
                self.sum.update(&(part.len() as u64).to_be_bytes());
                self.sum.update(part);
            }
            ControlFlow::Continue(())
        })?;
        Ok(left == 0 && !self.cursor.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn digest(records: &[(&'static str, &'static str)], piece: usize) -> (u64, u64, u32) {
        let view: BTreeMap<Bytes, Bytes> = records
            .iter()
            .map(|(key, value)| (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes())))
            .collect();
        let mut digest = Digest::default();
        while digest.step(&view, piece).expect("a map in memory does not fail") {}
        (digest.records, digest.bytes, digest.sum.finalize())
    }

    #[test]
    fn a_digest_tells_records_apart_and_not_the_pieces_it_was_made_in() {
        let records = [("a", "1"), ("b", "22"), ("c", "")];
        let whole = digest(&records, 100);
        assert_eq!((whole.0, whole.1), (3, 6));
        for piece in 1..5 {
            assert_eq!(digest(&records, piece), whole);
        }
        for other in [
            &[("a", "1"), ("b", "23"), ("c", "")][..],
            &[("a", "1b"), ("b", "22")],
            &[("ab", "1"), ("b", "2"), ("c", "")],
        ] {
            assert_ne!(digest(other, 2), whole, "{other:?}");
        }
        assert_eq!(digest(&[], 1).0, 0);
    }
}
