//! Removes a name of anything but a directory.

use crate::access;
use crate::ids::Ino;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

pub(super) fn unlink(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> Result<Outcome, Fail> {
    let dir = tx.directory(parent)?;
    let (ino, inode) = tx.occupant(parent, &dir, name)?;
    access::may_remove(tx.cred, &dir, &inode)?;
    if inode.kind == Kind::Directory {
        return Err(Refusal::IsDirectory { ino }.into());
    }
    tx.remove_name(parent, name, Dirent::Inode { ino, kind: inode.kind })?;
    Ok(Outcome::Removed { attr: tx.drop_link(ino, inode) })
}
