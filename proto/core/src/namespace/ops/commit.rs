//! Puts written data into a file's map.
//!
//! Mode bits are not asked: the check at open counts (see [`crate::access`]). Attribute changes that ride along are
//! checked as ever; if they are refused, the whole commit is, and nothing of it has happened.

use super::setattr;
use crate::access;
use crate::limits::{MAX_COMMIT_EXTENTS, MAX_FILE};
use crate::namespace::fail::Fail;
use crate::namespace::map::{self, Progress};
use crate::namespace::op::Commit;
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

pub(super) fn commit(tx: &mut Tx<'_>, commit: &Commit) -> Result<Outcome, Fail> {
    let ino = commit.ino;
    let mut inode = tx.file(ino)?;
    if commit.extents.len() > MAX_COMMIT_EXTENTS {
        let (size, limit) = (commit.extents.len() as u64, MAX_COMMIT_EXTENTS as u64);
        return Err(Refusal::TooLarge { what: "the list of extents".into(), size, limit }.into());
    }
    commit.extents.iter().try_for_each(|extent| extent.check())?;
    if commit.size_at_least > MAX_FILE {
        return Err(Refusal::FileTooBig { size: commit.size_at_least }.into());
    }
    // Bytes beyond the end would come to light when the file grows, so data always lies within the size.
    let end = commit.extents.iter().map(|extent| extent.span().end).max().unwrap_or(0).max(commit.size_at_least);
    if inode.cut_at.is_some_and(|cut| end > cut) {
        return Err(Refusal::CutPending { ino }.into());
    }
    // Before the data, on a copy: what is refused must be refused before part of the data could stay.
    setattr::change(tx.cred, tx.now, &mut inode.clone(), &commit.set, true)?;
    let changes_content = !commit.extents.is_empty() || end > inode.size;
    for extent in map::flatten(&commit.extents) {
        let progress = map::lay(tx, ino, &mut inode, &extent)?;
        let Progress::UpTo(reached) = progress else {
            inode.size = inode.size.max(extent.span().end);
            continue;
        };
        inode.size = inode.size.max(if reached > extent.offset { reached } else { 0 });
        inode.version += 1;
        tx.put_inode(ino, &inode);
        return Err(Fail::Unfinished(Refusal::CutPending { ino }));
    }
    inode.size = inode.size.max(end);
    if changes_content {
        inode.version += 1;
        inode.mtime = commit.mtime.unwrap_or(tx.now);
    } else if let Some(mtime) = commit.mtime {
        inode.mtime = mtime;
    }
    if commit.clear_suid {
        inode.mode = access::without_privilege(&inode);
    }
    setattr::change(tx.cred, tx.now, &mut inode, &commit.set, true)?;
    tx.put_inode(ino, &inode);
    Ok(Outcome::Attr(tx.attr(ino, &inode)))
}
