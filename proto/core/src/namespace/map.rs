//! A file's map: extents without overlap, and the counts of the chunks they name.
//!
//! [`replace`] is the only way the map of a present generation changes. It cuts just what lies under a span, keeps the
//! pieces left and right of it, and counts: one reference per extent record.
//!
//! A span may hold more extents than one command may touch. Then [`replace`] does the front part and says how far it
//! came; the operation ends as [`Fail::Unfinished`], its leader tries it again, and what is laid already is recognised
//! and passed over. A reader in between sees new bytes in front and old ones behind, as it may of any long write that
//! has not returned.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::broken::{self, Variant};
use crate::codec::{self, ChunkRef};
use crate::ids::{ChunkId, Ino, PgId};
use crate::keys;
use crate::limits::{MAX_CHUNK, MAX_EXTENT, MAX_FILE, MAX_INLINE};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Extent, ExtentBody, Inode};
use crate::namespace::tx::Tx;
use crate::namespace::{compact, records, session};
use crate::refusal::Refusal;
use crate::span::Span;

/// Records that taking away one extent changes at the most: itself, its chunk's count, its chunk among the freed.
const CHANGES_PER_OLD: usize = 3;
/// Records that laying one extent changes besides: itself, its chunk's count, the two pieces left beside it, that the
/// file waits for compaction.
const CHANGES_PER_NEW: usize = 5;

/// How far a change of the map came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of it.
    Done,
    /// Up to this byte; no room for more in this command.
    UpTo(u64),
}

impl Extent {
    /// The bytes of the file that it covers.
    pub fn span(&self) -> Span {
        Span { start: self.offset, end: self.offset + u64::from(self.len) }
    }

    /// The part of it within `span`, which it must overlap.
    pub fn slice(&self, span: Span) -> Extent {
        let part = self.span().overlap(span).expect("callers slice only what overlaps");
        let skip = (part.start - self.offset) as u32;
        let len = part.len() as u32;
        let body = match &self.body {
            ExtentBody::Chunk { chunk, pg, at, chunk_len } => {
                ExtentBody::Chunk { chunk: *chunk, pg: *pg, at: at + skip, chunk_len: *chunk_len }
            }
            ExtentBody::Inline(bytes) => ExtentBody::Inline(bytes.slice(skip as usize..(skip + len) as usize)),
            ExtentBody::Zero => ExtentBody::Zero,
        };
        Extent { offset: part.start, len, body }
    }

    /// Checks what no honest client sends.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let wrong = |why: &str| Err(Refusal::Invalid { why: why.to_owned() });
        let end = self.offset.saturating_add(u64::from(self.len));
        if self.len == 0 || u64::from(self.len) > MAX_EXTENT {
            return wrong("an extent has 1 byte to 4 MiB");
        }
        if end > MAX_FILE {
            return Err(Refusal::FileTooBig { size: end });
        }
        match &self.body {
            ExtentBody::Chunk { at, chunk_len, .. } => {
                let fits = at.checked_add(self.len).is_some_and(|end| end <= *chunk_len);
                if fits && *chunk_len <= MAX_CHUNK { Ok(()) } else { wrong("an extent ends beyond its chunk") }
            }
            ExtentBody::Inline(bytes) => {
                let fits = bytes.len() == self.len as usize && self.len <= MAX_INLINE;
                if fits { Ok(()) } else { wrong("an extent's bytes are not as many as it says, or above 4 KiB") }
            }
            ExtentBody::Zero => Ok(()),
        }
    }
}

/// The same bytes without overlap: later extents of the list lie over earlier ones. In order of offset.
pub(crate) fn flatten(list: &[Extent]) -> Vec<Extent> {
    // By end offset, as in the records.
    let mut flat: BTreeMap<u64, Extent> = BTreeMap::new();
    for extent in list {
        let span = extent.span();
        let under: Vec<u64> =
            flat.range(span.start + 1..).take_while(|(_, old)| old.offset < span.end).map(|(end, _)| *end).collect();
        for end in under {
            let Some(old) = flat.remove(&end) else { continue };
            for piece in beside(&old, span) {
                flat.insert(piece.span().end, piece);
            }
        }
        flat.insert(span.end, extent.clone());
    }
    flat.into_values().collect()
}

/// What is left of `old` when `span` is taken out of it.
fn beside(old: &Extent, span: Span) -> impl Iterator<Item = Extent> {
    let whole = old.span();
    let left = (whole.start < span.start).then(|| old.slice(Span { start: whole.start, end: span.start }));
    let right = (span.end < whole.end).then(|| old.slice(Span { start: span.end, end: whole.end }));
    left.into_iter().chain(right)
}

/// Lays an extent over whatever is there.
pub(crate) fn lay(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, extent: &Extent) -> Result<Progress, Fail> {
    replace(tx, ino, inode, extent.span(), Some(extent))
}

/// Makes a span a hole.
pub(crate) fn clear(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, span: Span) -> Result<Progress, Fail> {
    replace(tx, ino, inode, span, None)
}

fn replace(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, span: Span, laid: Option<&Extent>) -> Result<Progress, Fail> {
    let bound = tx.room().saturating_sub(CHANGES_PER_NEW) / CHANGES_PER_OLD;
    if bound == 0 {
        return Ok(Progress::UpTo(span.start));
    }
    let mut olds: Vec<Extent> = Vec::new();
    let (mut start, mut end, mut full) = (span.start, span.end, false);
    records::extents(&tx.out, tx.volume, ino, inode.generation, span.start, |old| {
        if old.offset >= span.end {
            return ControlFlow::Break(());
        }
        if olds.is_empty() && old.offset <= start && laid.is_some_and(|laid| same(&old, laid)) {
            start = old.span().end;
            return if start < span.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        }
        if olds.len() == bound {
            full = true;
            return ControlFlow::Break(());
        }
        olds.push(old);
        ControlFlow::Continue(())
    })?;
    if full {
        end = olds.last().expect("the bound is at least one").span().end;
    }
    if start >= span.end {
        return Ok(Progress::Done);
    }
    let span = Span { start, end };
    if let Some(laid) = laid {
        // Counted before the old ones are cut, so that a chunk laid over itself is never free in between.
        name_chunk(tx, laid)?;
    }
    for old in &olds {
        let whole = old.span();
        tx.out.remove(keys::extent(tx.volume, ino, inode.generation, whole.end));
        let mut pieces = 0;
        for piece in beside(old, span) {
            put(tx, ino, inode.generation, &piece);
            pieces += 1;
        }
        match pieces {
            0 => release(tx, old)?,
            1 => {}
            _ if broken::is(Variant::SplitUncounted) => {}
            _ => name_again(tx, old)?,
        }
        if is_small(old) {
            // Under a write lease a holder does not know how many there are.
            inode.small = (inode.small + pieces).saturating_sub(1);
        }
        let gone = whole.overlap(span).map_or(0, Span::len);
        inode.allocated -= gone;
        tx.head.bytes -= gone;
    }
    if let Some(laid) = laid {
        put(tx, ino, inode.generation, &laid.slice(span));
        inode.allocated += span.len();
        tx.head.bytes += span.len();
        if is_small(laid) {
            inode.small += 1;
            compact::note(tx, ino, inode)?;
        }
    }
    Ok(if full { Progress::UpTo(end) } else { Progress::Done })
}

/// Whether its bytes are in the record.
pub(crate) fn is_small(extent: &Extent) -> bool {
    matches!(extent.body, ExtentBody::Inline(_))
}

/// Whether `old` holds the very bytes that `laid` would put where the two overlap.
fn same(old: &Extent, laid: &Extent) -> bool {
    let Some(both) = old.span().overlap(laid.span()) else { return false };
    old.slice(both).body == laid.slice(both).body
}

fn put(tx: &mut Tx<'_>, ino: Ino, generation: u32, extent: &Extent) {
    let key = keys::extent(tx.volume, ino, generation, extent.span().end);
    tx.out.put(key, codec::encode_born(tx.head.epoch, extent));
}

/// Takes one whole extent record away, whatever its generation. `counted`: it is of the present generation.
pub(crate) fn remove(
    tx: &mut Tx<'_>,
    ino: Ino,
    inode: &mut Inode,
    generation: u32,
    extent: &Extent,
) -> Result<(), Fail> {
    tx.out.remove(keys::extent(tx.volume, ino, generation, extent.span().end));
    release(tx, extent)?;
    if generation == inode.generation {
        inode.allocated -= u64::from(extent.len);
        tx.head.bytes -= u64::from(extent.len);
        inode.small = inode.small.saturating_sub(u32::from(is_small(extent)));
    }
    Ok(())
}

/// A new extent record names its chunk: one that is named already, or one of the caller's own that never was.
fn name_chunk(tx: &mut Tx<'_>, extent: &Extent) -> Result<(), Fail> {
    let ExtentBody::Chunk { chunk, pg, chunk_len, .. } = extent.body else { return Ok(()) };
    let space = tx.head.space;
    let not_yours = |why: &str| Err(Refusal::ChunkNotYours { why: format!("{chunk}: {why}") }.into());
    let count = match records::chunk_ref(&tx.out, space, chunk)? {
        Some(known) if known.pg != pg || known.len != chunk_len => {
            return not_yours("it is of another placement group or length");
        }
        Some(known) => known.count + 1,
        None if tx.client != Some(chunk.client) => return not_yours("another client uploaded it"),
        None if records::get::<ChunkRef>(&tx.out, &keys::freed(space, chunk))?.is_some() => {
            return not_yours("it was given up");
        }
        None if session::nameable_from(&tx.out, chunk.client, space)?.is_some_and(|from| chunk.counter < from) => {
            return not_yours("its client said that it would not name it any more");
        }
        None => 1,
    };
    put_ref(tx, chunk, count, pg, chunk_len);
    Ok(())
}

fn name_again(tx: &mut Tx<'_>, extent: &Extent) -> Result<(), Fail> {
    if let Some((chunk, known)) = known_ref(tx, extent)? {
        put_ref(tx, chunk, known.count + 1, known.pg, known.len);
    }
    Ok(())
}

/// An extent record is gone; a chunk that no other names moves to the freed.
fn release(tx: &mut Tx<'_>, extent: &Extent) -> Result<(), Fail> {
    let Some((chunk, known)) = known_ref(tx, extent)? else { return Ok(()) };
    if known.count > 1 {
        put_ref(tx, chunk, known.count - 1, known.pg, known.len);
    } else {
        tx.out.remove(keys::chunk(tx.head.space, chunk));
        tx.out.put(keys::freed(tx.head.space, chunk), codec::encode(&ChunkRef { count: 0, ..known }));
    }
    Ok(())
}

/// The count of the chunk that a present extent record names.
fn known_ref(tx: &Tx<'_>, extent: &Extent) -> Result<Option<(ChunkId, ChunkRef)>, Fail> {
    let ExtentBody::Chunk { chunk, .. } = extent.body else { return Ok(None) };
    let space = tx.head.space;
    match records::chunk_ref(&tx.out, space, chunk)? {
        Some(known) => Ok(Some((chunk, known))),
        None => Err(Fail::View(crate::view::ViewError(format!("space {space} lost the count of chunk {chunk}")))),
    }
}

fn put_ref(tx: &mut Tx<'_>, chunk: ChunkId, count: u64, pg: PgId, len: u32) {
    tx.out.put(keys::chunk(tx.head.space, chunk), codec::encode(&ChunkRef { count, pg, len }));
}
