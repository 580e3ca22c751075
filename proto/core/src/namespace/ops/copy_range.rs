//! Shares the bytes of one file's span with another's of the same space: chunks are named once more, bytes in records
//! are copied, holes become holes.
//!
//! Mode bits are not asked: the check at open counts (see [`crate::access`]). What one command can't do is left to
//! the caller, who reads from the outcome how far it came.

use std::ops::ControlFlow;

use crate::access;
use crate::ids::{Ino, VolumeId};
use crate::limits::{MAX_COPY_PIECES, MAX_FILE};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Extent, Inode, Kind};
use crate::namespace::map::{self, Progress};
use crate::namespace::outcome::Outcome;
use crate::namespace::records;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;
use crate::span::Span;

/// Where bytes come from.
pub(super) struct From {
    pub(super) volume: VolumeId,
    pub(super) ino: Ino,
    pub(super) offset: u64,
}

pub(super) fn copy_range(
    tx: &mut Tx<'_>,
    from: From,
    target: Ino,
    target_offset: u64,
    len: u64,
) -> Result<Outcome, Fail> {
    let mut inode = tx.file(target)?;
    let source = source(tx, &from)?;
    let len = len.min(source.size.saturating_sub(from.offset));
    if len == 0 {
        return Ok(Outcome::Copied { len: 0, attr: tx.attr(target, &inode) });
    }
    let read = Span { start: from.offset, end: from.offset + len };
    let Some(written) = Span::new(target_offset, len).filter(|span| span.end <= MAX_FILE) else {
        return Err(Refusal::FileTooBig { size: target_offset.saturating_add(len) }.into());
    };
    if from.volume == tx.volume && from.ino == target && read.overlap(written).is_some() {
        return Err(Refusal::Invalid { why: "a file's span can't be copied over itself".into() }.into());
    }
    if inode.cut_at.is_some_and(|cut| written.end > cut) {
        return Err(Refusal::CutPending { ino: target }.into());
    }
    let (pieces, read_to) = pieces(tx, &from, &source, read)?;
    let to = |at: u64| at - read.start + written.start;
    // Holes and pieces in turn; `at` is how far the copy came, in the source.
    let mut at = read.start;
    for piece in pieces {
        let span = piece.span();
        if !advance(tx, target, &mut inode, &mut at, span.start, to, None)?
            || !advance(tx, target, &mut inode, &mut at, span.end, to, Some(&piece))?
        {
            return Ok(copied(tx, target, inode, at - read.start, to(at)));
        }
    }
    advance(tx, target, &mut inode, &mut at, read_to, to, None)?;
    Ok(copied(tx, target, inode, at - read.start, to(at)))
}

fn source(tx: &Tx<'_>, from: &From) -> Result<Inode, Fail> {
    if from.volume != tx.volume {
        let head = match records::head(&tx.out, from.volume) {
            Err(Fail::Refused(Refusal::NoVolume { .. })) => return Err(Refusal::CrossVolume.into()),
            head => head?,
        };
        // Chunks, and the counts of them, stay inside one space.
        if head.space != tx.head.space {
            return Err(Refusal::CrossVolume.into());
        }
    }
    let inode = records::inode(&tx.out, from.volume, from.ino)?;
    match inode.kind {
        Kind::File => Ok(inode),
        Kind::Directory => Err(Refusal::IsDirectory { ino: from.ino }.into()),
        _ => Err(Refusal::Invalid { why: "not a regular file".into() }.into()),
    }
}

/// The source's extents within `read`, and up to where they tell all.
fn pieces(tx: &Tx<'_>, from: &From, source: &Inode, read: Span) -> Result<(Vec<Extent>, u64), Fail> {
    let (mut pieces, mut read_to) = (Vec::<Extent>::new(), read.end);
    records::extents(&tx.out, from.volume, from.ino, source.generation, read.start, |extent| {
        if extent.offset >= read.end {
            return ControlFlow::Break(());
        }
        if pieces.len() == MAX_COPY_PIECES {
            read_to = pieces.last().map_or(read.start, |last| last.span().end);
            return ControlFlow::Break(());
        }
        pieces.push(extent.slice(read));
        ControlFlow::Continue(())
    })?;
    Ok((pieces, read_to))
}

/// Brings the target on from `at` to `end` (both in the source) and says whether it came that far.
fn advance(
    tx: &mut Tx<'_>,
    target: Ino,
    inode: &mut Inode,
    at: &mut u64,
    end: u64,
    to: impl Fn(u64) -> u64,
    piece: Option<&Extent>,
) -> Result<bool, Fail> {
    if *at >= end {
        return Ok(true);
    }
    let progress = match piece {
        Some(piece) => map::lay(tx, target, inode, &Extent { offset: to(piece.offset), ..piece.clone() })?,
        None => map::clear(tx, target, inode, Span { start: to(*at), end: to(end) })?,
    };
    match progress {
        Progress::Done => *at = end,
        Progress::UpTo(reached) => *at += reached - to(*at),
    }
    Ok(progress == Progress::Done)
}

fn copied(tx: &mut Tx<'_>, target: Ino, mut inode: Inode, len: u64, end: u64) -> Outcome {
    inode.size = inode.size.max(end);
    inode.version += 1;
    inode.mtime = tx.now;
    inode.ctime = tx.now;
    if tx.cred.uid != 0 {
        inode.mode = access::without_privilege(&inode);
    }
    tx.put_inode(target, &inode);
    Outcome::Copied { len, attr: tx.attr(target, &inode) }
}
