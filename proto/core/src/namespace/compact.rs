//! Compaction: bytes that lie in extent records (of small writes) move into a chunk, a few steps at a time.
//!
//! Whoever leads the group reads some of a file's bytes ([`gather`]), stores them as one chunk, and once that is durable
//! proposes a [`Step::Compact`](super::step::Step::Compact) with the sum of each stretch. A stretch is swapped only if the
//! records still hold exactly these bytes when the step is applied; one that was written, cut or punched meanwhile is left
//! as it is. So the bytes of a file are the same before and after, its attributes and its version stay, and maps that
//! clients know from before stay right.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use crate::codec;
use crate::ids::{ChunkId, Ino, PgId, VolumeId};
use crate::keys;
use crate::limits::{COMPACT_FROM, MAX_CHUNK, STEP_RECORDS};
use crate::machine;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Extent, ExtentBody, Inode, Kind};
use crate::namespace::map::{self, Progress};
use crate::namespace::outcome::Outcome;
use crate::namespace::records::{self, damaged};
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;
use crate::span::Span;
use crate::view::{View, ViewError};

/// Extents of a file that one [`gather`] reads.
const MAX_LOOKED_AT: usize = 4 * STEP_RECORDS;

/// A stretch of a file whose bytes lie in records, without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u32,
    /// XXH3 of them. Guards against change under way, not against a writer's malice, who could harm but his own file.
    pub sum: u64,
}

impl Piece {
    fn span(&self) -> Span {
        Span { start: self.offset, end: self.offset + u64::from(self.len) }
    }
}

/// What lies in a file's records and can move into one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// In order, apart from each other.
    pub pieces: Vec<Piece>,
    /// Their bytes, one behind the other: the chunk.
    pub bytes: Bytes,
    /// How many extent records that is.
    pub extents: usize,
    /// Where to go on, if this is not all of the file.
    pub more_from: Option<u64>,
}

/// Files behind `after` with so many extents of bytes that they should be compacted, at most `limit`.
///
/// # Errors
/// The store failed.
pub fn waiting(
    view: &dyn View,
    after: Option<(VolumeId, Ino)>,
    limit: usize,
) -> Result<Vec<(VolumeId, Ino)>, ViewError> {
    let (mut from, to) = keys::all_small();
    if let Some((volume, ino)) = after {
        from = [&keys::small(volume, ino)[..], &[0]].concat().into();
    }
    let mut found = Vec::new();
    records::scan(view, (from, to), |key, _| {
        if found.len() >= limit {
            return Ok(ControlFlow::Break(()));
        }
        let (volume, ino) = keys::two_ids(key).map_err(|err| damaged(key, &err))?;
        found.push((VolumeId(volume), Ino(ino)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Bytes of a file's records from `offset` on, as many as one step swaps and one chunk holds. `None` if it is no file.
///
/// # Errors
/// The store failed.
pub fn gather(view: &dyn View, volume: VolumeId, ino: Ino, offset: u64) -> Result<Option<Gathered>, ViewError> {
    let Some(inode) = file(view, volume, ino)? else { return Ok(None) };
    let until = end_of(&inode);
    let mut all = BytesMut::new();
    let mut sums: Vec<(Piece, Xxh3)> = Vec::new();
    let (mut looked_at, mut extents, mut more_from) = (0, 0, None);
    records::extents(view, volume, ino, inode.generation, offset, |extent| {
        if extent.offset >= until {
            return ControlFlow::Break(());
        }
        looked_at += 1;
        let ExtentBody::Inline(bytes) = &extent.body else {
            if looked_at >= MAX_LOOKED_AT {
                more_from = Some(extent.span().end);
                return ControlFlow::Break(());
            }
            return ControlFlow::Continue(());
        };
        if extents == STEP_RECORDS || looked_at > MAX_LOOKED_AT || all.len() + bytes.len() > MAX_CHUNK as usize {
            more_from = Some(extent.offset);
            return ControlFlow::Break(());
        }
        extents += 1;
        all.extend_from_slice(bytes);
        match sums.last_mut() {
            Some((piece, sum)) if piece.span().end == extent.offset => {
                piece.len += extent.len;
                sum.update(bytes);
            }
            _ => {
                let mut sum = Xxh3::new();
                sum.update(bytes);
                sums.push((Piece { offset: extent.offset, len: extent.len, sum: 0 }, sum));
            }
        }
        ControlFlow::Continue(())
    })?;
    let pieces = sums.into_iter().map(|(piece, sum)| Piece { sum: sum.digest(), ..piece }).collect();
    Ok(Some(Gathered { pieces, bytes: all.freeze(), extents, more_from }))
}

/// Swaps what is still as it was gathered. Without pieces it only looks whether the file still waits.
pub(crate) fn swap(tx: &mut Tx<'_>, ino: Ino, chunk: ChunkId, pg: PgId, pieces: &[Piece]) -> Result<Outcome, Fail> {
    let Some(mut inode) = file(&tx.out, tx.volume, ino)? else {
        tx.out.remove(keys::small(tx.volume, ino));
        return Ok(Outcome::Stepped { more: false });
    };
    let chunk_len = whole(pieces)?;
    if !pieces.is_empty() {
        machine::session(&tx.out, chunk.client, tx.head.space)??;
        // Its uploader, who alone may name it first.
        tx.client = Some(chunk.client);
    }
    let (mut at, mut swapped) = (0, false);
    for piece in pieces {
        let body = ExtentBody::Chunk { chunk, pg, at, chunk_len };
        at += piece.len;
        if !is_unchanged(tx, ino, &inode, piece)? {
            continue;
        }
        let extent = Extent { offset: piece.offset, len: piece.len, body };
        extent.check()?;
        let progress = map::lay(tx, ino, &mut inode, &extent)?;
        swapped = true;
        if progress != Progress::Done {
            // No more room: the rest is gathered anew.
            break;
        }
    }
    let more = inode.small >= COMPACT_FROM;
    if !more {
        tx.out.remove(keys::small(tx.volume, ino));
    }
    if swapped {
        tx.put_inode(ino, &inode);
    }
    Ok(Outcome::Stepped { more })
}

/// A file has one more extent of bytes: with many it waits for compaction.
pub(crate) fn note(tx: &mut Tx<'_>, ino: Ino, inode: &Inode) -> Result<(), Fail> {
    if inode.small >= COMPACT_FROM && records::get::<bool>(&tx.out, &keys::small(tx.volume, ino))?.is_none() {
        tx.out.put(keys::small(tx.volume, ino), codec::encode(&true));
    }
    Ok(())
}

fn file(view: &dyn View, volume: VolumeId, ino: Ino) -> Result<Option<Inode>, ViewError> {
    Ok(records::inode_if(view, volume, ino)?.filter(|inode| inode.kind == Kind::File))
}

/// What lies at and beyond it is gone, or goes with the next step.
fn end_of(inode: &Inode) -> u64 {
    inode.cut_at.unwrap_or(u64::MAX)
}

/// Bytes of a chunk of these pieces.
fn whole(pieces: &[Piece]) -> Result<u32, Fail> {
    let wrong = |why: &str| Err(Refusal::Invalid { why: why.to_owned() }.into());
    if pieces.len() > STEP_RECORDS {
        return wrong("more stretches than a step may swap");
    }
    let mut len = 0u32;
    for piece in pieces {
        match len.checked_add(piece.len).filter(|len| *len <= MAX_CHUNK && piece.len > 0) {
            Some(more) if piece.offset.checked_add(u64::from(piece.len)).is_some() => len = more,
            _ => return wrong("the stretches are no chunk"),
        }
    }
    Ok(len)
}

/// Whether records of bytes cover a stretch without a gap and hold what was gathered.
fn is_unchanged(tx: &Tx<'_>, ino: Ino, inode: &Inode, piece: &Piece) -> Result<bool, ViewError> {
    let span = piece.span();
    if span.end > end_of(inode) {
        return Ok(false);
    }
    let (mut at, mut sum) = (span.start, Xxh3::new());
    records::extents(&tx.out, tx.volume, ino, inode.generation, span.start, |extent| {
        let Some(part) = extent.span().overlap(span).filter(|part| part.start == at) else {
            return ControlFlow::Break(());
        };
        let ExtentBody::Inline(bytes) = extent.slice(part).body else { return ControlFlow::Break(()) };
        sum.update(&bytes);
        at = part.end;
        ControlFlow::Continue(())
    })?;
    Ok(at == span.end && sum.digest() == piece.sum)
}
