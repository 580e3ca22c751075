//! Sets a file's size. Few extents go at once, many are left to steps: a cut to nothing raises the map's generation, a
//! cut in the middle is remembered in `cut_at`.

use std::ops::ControlFlow;

use super::setattr;
use crate::access::{self, WRITE};
use crate::codec;
use crate::ids::Ino;
use crate::keys;
use crate::limits::{MAX_CUT_NOW, MAX_FILE};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Extent, Inode};
use crate::namespace::map;
use crate::namespace::op::SetAttr;
use crate::namespace::outcome::Outcome;
use crate::namespace::records;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;
use crate::span::Span;

pub(super) fn truncate(tx: &mut Tx<'_>, ino: Ino, size: u64, set: &SetAttr, opened: bool) -> Result<Outcome, Fail> {
    let mut inode = tx.file(ino)?;
    if !opened {
        access::may(tx.cred, &inode, WRITE)?;
    }
    if size > MAX_FILE {
        return Err(Refusal::FileTooBig { size }.into());
    }
    if inode.cut_at.is_some_and(|cut| size > cut) {
        return Err(Refusal::CutPending { ino }.into());
    }
    if size == 0 {
        cut_all(tx, ino, &mut inode)?;
    } else {
        // Space reserved beyond the end goes too, as on other file systems.
        cut_behind(tx, ino, &mut inode, size)?;
    }
    inode.size = size;
    inode.version += 1;
    inode.mtime = tx.now;
    if tx.cred.uid != 0 {
        inode.mode = access::without_privilege(&inode);
    }
    setattr::change(tx.cred, tx.now, &mut inode, set, true)?;
    tx.put_inode(ino, &inode);
    Ok(Outcome::Attr(tx.attr(ino, &inode)))
}

fn cut_all(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode) -> Result<(), Fail> {
    let (first, more) = some_behind(tx, ino, inode, 0)?;
    inode.cut_at = None;
    if first.is_empty() {
        return Ok(());
    }
    if more {
        tx.out.put(keys::cut(tx.volume, ino), codec::encode(&true));
    } else {
        for extent in &first {
            map::remove(tx, ino, inode, inode.generation, extent)?;
        }
    }
    tx.head.bytes -= inode.allocated;
    inode.allocated = 0;
    inode.small = 0;
    inode.generation = inode
        .generation
        .checked_add(1)
        .ok_or_else(|| Refusal::NoSpace { why: "all map generations of the file are used up".into() })?;
    Ok(())
}

fn cut_behind(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, size: u64) -> Result<(), Fail> {
    let (first, more) = some_behind(tx, ino, inode, size)?;
    if !more {
        inode.cut_at = None;
        return match map::clear(tx, ino, inode, Span { start: size, end: MAX_FILE })? {
            map::Progress::Done => Ok(()),
            map::Progress::UpTo(_) => Err(Fail::Unfinished(Refusal::CutPending { ino })),
        };
    }
    // What lies across the new end is cut now, so that all beyond `cut_at` are whole extents.
    if let Some(across) = first.first().filter(|extent| extent.offset < size) {
        map::clear(tx, ino, inode, Span { start: size, end: across.span().end })?;
    }
    inode.cut_at = Some(size);
    tx.out.put(keys::cut(tx.volume, ino), codec::encode(&true));
    Ok(())
}

/// The first extents of the present map that end behind `offset`, and whether there are more of them.
fn some_behind(tx: &Tx<'_>, ino: Ino, inode: &Inode, offset: u64) -> Result<(Vec<Extent>, bool), Fail> {
    let (mut some, mut more) = (Vec::new(), false);
    records::extents(&tx.out, tx.volume, ino, inode.generation, offset, |extent| {
        if some.len() == MAX_CUT_NOW {
            more = true;
            return ControlFlow::Break(());
        }
        some.push(extent);
        ControlFlow::Continue(())
    })?;
    Ok((some, more))
}
