//! Taking steps. Each is proposed on what a leader saw, and asks again here whether it is still due.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::codec::ChunkRef;
use crate::ids::{ChunkId, Ino, SpaceId};
use crate::keys;
use crate::limits::{STEP_ORPHANS, STEP_RECORDS};
use crate::namespace::fail::Fail;
use crate::namespace::garbage;
use crate::namespace::inode::{Extent, Inode};
use crate::namespace::map;
use crate::namespace::outcome::Outcome;
use crate::namespace::records::{self, damaged};
use crate::namespace::session;
use crate::namespace::tx::Tx;
use crate::view::{Overlay, ViewError};

/// Removes some of what orphans have, and each orphan itself once nothing of that is left.
pub(crate) fn reap(tx: &mut Tx<'_>, inos: &[Ino]) -> Result<Outcome, Fail> {
    let mut room = STEP_RECORDS;
    for ino in inos.iter().take(STEP_ORPHANS) {
        if room == 0 || reap_one(tx, *ino, &mut room)? {
            return Ok(Outcome::Stepped { more: true });
        }
    }
    Ok(Outcome::Stepped { more: inos.len() > STEP_ORPHANS })
}

/// Says whether something of the orphan is left. Takes what it removes beside the orphan itself from `room`.
fn reap_one(tx: &mut Tx<'_>, ino: Ino, room: &mut usize) -> Result<bool, Fail> {
    let Some(mut inode) = records::inode_if(&tx.out, tx.volume, ino)?.filter(|inode| inode.nlink == 0) else {
        return Ok(false);
    };
    let (extents, more) = some_extents(tx, keys::file_extents(tx.volume, ino), *room)?;
    *room -= extents.len();
    drop_extents(tx, ino, &mut inode, &extents)?;
    let (mut xattrs, mut more_xattrs) = (Vec::new(), false);
    records::scan(&tx.out, keys::xattrs(tx.volume, ino), |key, _| {
        if xattrs.len() >= *room {
            more_xattrs = true;
            return Ok(ControlFlow::Break(()));
        }
        xattrs.push(Bytes::copy_from_slice(key));
        Ok(ControlFlow::Continue(()))
    })?;
    *room -= xattrs.len();
    for key in xattrs {
        tx.out.remove(key);
    }
    if more || more_xattrs {
        tx.put_inode(ino, &inode);
        // Parts of it are gone: no name may lead to the rest.
        tx.put_orphan(ino, true);
        return Ok(true);
    }
    tx.out.remove(keys::inode(tx.volume, ino));
    tx.out.remove(keys::orphan(tx.volume, ino));
    tx.out.remove(keys::cut(tx.volume, ino));
    tx.out.remove(keys::small(tx.volume, ino));
    tx.head.inodes -= 1;
    Ok(false)
}

/// Removes some of what a truncation cut off: extents of earlier generations first, then those beyond the cut.
pub(crate) fn finish_cut(tx: &mut Tx<'_>, ino: Ino) -> Result<Outcome, Fail> {
    let Some(mut inode) = records::inode_if(&tx.out, tx.volume, ino)? else {
        return Ok(Outcome::Stepped { more: false });
    };
    if records::get::<bool>(&tx.out, &keys::cut(tx.volume, ino))?.is_none() {
        return Ok(Outcome::Stepped { more: false });
    }
    let old = keys::old_extents(tx.volume, ino, inode.generation);
    let (mut extents, mut more) = some_extents(tx, old, STEP_RECORDS)?;
    if let Some(cut) = inode.cut_at
        && !more
    {
        let behind = keys::extents(tx.volume, ino, inode.generation, cut);
        let (rest, more_rest) = some_extents(tx, behind, STEP_RECORDS - extents.len())?;
        extents.extend(rest);
        more = more_rest;
    }
    drop_extents(tx, ino, &mut inode, &extents)?;
    if !more {
        inode.cut_at = None;
        tx.out.remove(keys::cut(tx.volume, ino));
    }
    tx.put_inode(ino, &inode);
    Ok(Outcome::Stepped { more })
}

type Found = Vec<(u32, Extent)>;

/// At most `most` extents between two keys, with their generations, and whether there are more.
fn some_extents(tx: &Tx<'_>, bounds: (Bytes, Bytes), most: usize) -> Result<(Found, bool), ViewError> {
    let (mut found, mut more) = (Found::new(), false);
    records::scan(&tx.out, bounds, |key, value| {
        if found.len() >= most {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        let (_, rest) = keys::ino_and_rest(key).map_err(|err| damaged(key, &err))?;
        let (generation, _) = keys::extent_rest(rest).map_err(|err| damaged(key, &err))?;
        found.push((generation, records::born(key, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((found, more))
}

fn drop_extents(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, extents: &[(u32, Extent)]) -> Result<(), Fail> {
    extents.iter().try_for_each(|(generation, extent)| map::remove(tx, ino, inode, *generation, extent))
}

/// Forgets freed chunks that nobody can name any more.
pub(crate) fn forget(out: &mut Overlay<'_>, space: SpaceId, chunks: &[ChunkId]) -> Result<Outcome, Fail> {
    let gone = garbage::is_gone(out, space)?;
    for chunk in chunks.iter().take(STEP_RECORDS) {
        let key = keys::freed(space, *chunk);
        if records::get::<ChunkRef>(out, &key)?.is_none() {
            continue;
        }
        // Only the uploader could name it: an ended session can't, nor one that said so, nor anybody in a space without
        // volumes.
        if gone || session::nameable_from(out, chunk.client, space)?.is_some_and(|from| chunk.counter < from) {
            out.remove(key);
        }
    }
    Ok(Outcome::Stepped { more: chunks.len() > STEP_RECORDS })
}
