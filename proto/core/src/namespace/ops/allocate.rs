//! Reserves, punches or zeroes a span of a file.
//!
//! Mode bits are not asked: the check at open counts (see [`crate::access`]).

use std::ops::ControlFlow;

use crate::access;
use crate::ids::Ino;
use crate::limits::{MAX_EXTENT, MAX_FILE, MAX_RESERVE};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Extent, ExtentBody, Inode};
use crate::namespace::map::{self, Progress};
use crate::namespace::op::AllocateMode;
use crate::namespace::outcome::Outcome;
use crate::namespace::records;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;
use crate::span::Span;

pub(super) fn allocate(tx: &mut Tx<'_>, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<Outcome, Fail> {
    let mut inode = tx.file(ino)?;
    if len == 0 {
        return Err(Refusal::Invalid { why: "nothing to allocate".into() }.into());
    }
    let Some(mut span) = Span::new(offset, len).filter(|span| span.end <= MAX_FILE) else {
        return Err(Refusal::FileTooBig { size: offset.saturating_add(len) }.into());
    };
    if mode == AllocateMode::PunchHole {
        // Whatever a cut took needs no hole.
        span.end = span.end.min(inode.cut_at.unwrap_or(span.end)).max(span.start);
    } else if inode.cut_at.is_some_and(|cut| span.end > cut) {
        return Err(Refusal::CutPending { ino }.into());
    } else if len > MAX_RESERVE {
        return Err(Refusal::NoSpace { why: format!("{len} bytes are too many to reserve at once") }.into());
    }
    let progress = match mode {
        AllocateMode::PunchHole if span.is_empty() => Progress::Done,
        AllocateMode::PunchHole => map::clear(tx, ino, &mut inode, span)?,
        AllocateMode::Reserve | AllocateMode::ReserveKeepSize => fill_holes(tx, ino, &mut inode, span)?,
        AllocateMode::ZeroRange | AllocateMode::ZeroRangeKeepSize => zero(tx, ino, &mut inode, span)?,
    };
    inode.version += 1;
    if progress != Progress::Done {
        tx.put_inode(ino, &inode);
        return Err(Fail::Unfinished(Refusal::CutPending { ino }));
    }
    if matches!(mode, AllocateMode::Reserve | AllocateMode::ZeroRange) {
        inode.size = inode.size.max(span.end);
    }
    inode.mtime = tx.now;
    inode.ctime = tx.now;
    if tx.cred.uid != 0 {
        inode.mode = access::without_privilege(&inode);
    }
    tx.put_inode(ino, &inode);
    Ok(Outcome::Attr(tx.attr(ino, &inode)))
}

/// Zeroes over whatever is there, an extent of at most 4 MiB at a time.
fn zero(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, span: Span) -> Result<Progress, Fail> {
    let mut start = span.start;
    while start < span.end {
        let len = (span.end - start).min(MAX_EXTENT);
        let extent = Extent { offset: start, len: len as u32, body: ExtentBody::Zero };
        if let Progress::UpTo(reached) = map::lay(tx, ino, inode, &extent)? {
            return Ok(Progress::UpTo(reached));
        }
        start += len;
    }
    Ok(Progress::Done)
}

fn fill_holes(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, span: Span) -> Result<Progress, Fail> {
    // More holes than one command can fill need not be looked for.
    let most = tx.room();
    let (mut holes, mut at) = (Vec::new(), span.start);
    records::extents(&tx.out, tx.volume, ino, inode.generation, span.start, |extent| {
        let there = extent.span();
        if there.start > at {
            holes.push(Span { start: at, end: there.start.min(span.end) });
        }
        at = there.end;
        if at < span.end && holes.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if at < span.end && holes.len() < most {
        holes.push(Span { start: at, end: span.end });
    }
    let cut_short = holes.len() >= most;
    for hole in holes {
        if let Progress::UpTo(reached) = zero(tx, ino, inode, hole)? {
            return Ok(Progress::UpTo(reached));
        }
    }
    Ok(if cut_short { Progress::UpTo(at) } else { Progress::Done })
}
