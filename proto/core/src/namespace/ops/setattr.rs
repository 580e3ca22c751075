//! Sets attributes, as chmod, chown and utimensat want them checked.

use crate::access::{self, SGID, SUID, WRITE};
use crate::entry::Cred;
use crate::ids::Ino;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Inode, Kind};
use crate::namespace::op::{SetAttr, SetTime};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;
use crate::time::Timestamp;

pub(super) fn setattr(tx: &mut Tx<'_>, ino: Ino, set: &SetAttr) -> Result<Outcome, Fail> {
    let mut inode = tx.inode(ino)?;
    change(tx.cred, tx.now, &mut inode, set, false)?;
    tx.put_inode(ino, &inode);
    Ok(Outcome::Attr(tx.attr(ino, &inode)))
}

/// Changes attributes of an inode, all or none. `writes`: the caller was found to be allowed to write, so the time of
/// now may be set, one or both.
pub(super) fn change(
    cred: &Cred,
    now: Timestamp,
    inode: &mut Inode,
    set: &SetAttr,
    writes: bool,
) -> Result<(), Refusal> {
    may_own(cred, inode, set)?;
    may_set_times(cred, inode, set, writes)?;
    if set.mode.is_some() && !access::owns(cred, inode.uid) {
        return Err(Refusal::NotPermitted);
    }
    let gid = set.gid.unwrap_or(inode.gid);
    let grouped = cred.uid == 0 || access::in_group(cred, gid);
    if (set.uid.is_some() || set.gid.is_some()) && inode.kind != Kind::Directory {
        // A new owner must not inherit what the old one let the file do.
        inode.mode &= !SUID;
        if inode.mode & 0o010 != 0 || !grouped {
            inode.mode &= !SGID;
        }
    }
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = gid;
    if let Some(mode) = set.mode {
        inode.mode = mode & 0o7777 & if grouped { !0 } else { !SGID };
        inode.acl = inode.acl.take().map(|acl| acl.with_mode(mode));
    }
    let time = |set: Option<SetTime>, old: Timestamp| match set {
        None => old,
        Some(SetTime::Now) => now,
        Some(SetTime::To(time)) => time,
    };
    inode.atime = time(set.atime, inode.atime);
    inode.mtime = time(set.mtime, inode.mtime);
    inode.ctime = time(set.ctime, now);
    Ok(())
}

/// Giving a file away is the superuser's; its owner may choose among the own groups.
fn may_own(cred: &Cred, inode: &Inode, set: &SetAttr) -> Result<(), Refusal> {
    let owner = cred.uid == inode.uid;
    let uid_fine = set.uid.is_none_or(|uid| owner && uid == inode.uid);
    let gid_fine = set.gid.is_none_or(|gid| owner && (gid == inode.gid || access::in_group(cred, gid)));
    if cred.uid == 0 || uid_fine && gid_fine { Ok(()) } else { Err(Refusal::NotPermitted) }
}

/// The owner sets any time; whoever may write sets both to now, as `touch` does.
fn may_set_times(cred: &Cred, inode: &Inode, set: &SetAttr, writes: bool) -> Result<(), Refusal> {
    let times = [set.atime, set.mtime, set.ctime];
    if times.iter().all(Option::is_none) || access::owns(cred, inode.uid) {
        return Ok(());
    }
    if times.iter().any(|time| matches!(time, Some(SetTime::To(_)))) {
        return Err(Refusal::NotPermitted);
    }
    if writes {
        return Ok(());
    }
    if set.atime.is_some() && set.mtime.is_some() {
        access::may(cred, inode, WRITE)
    } else {
        Err(Refusal::NotPermitted)
    }
}
