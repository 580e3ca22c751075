//! Removes an empty directory.

use crate::access;
use crate::ids::Ino;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

pub(super) fn rmdir(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> Result<Outcome, Fail> {
    let dir = tx.directory(parent)?;
    let (ino, inode) = tx.occupant(parent, &dir, name)?;
    access::may_remove(tx.cred, &dir, &inode)?;
    if inode.kind != Kind::Directory {
        return Err(Refusal::NotDirectory { ino }.into());
    }
    if inode.size != 0 {
        return Err(Refusal::NotEmpty { ino }.into());
    }
    tx.remove_name(parent, name, Dirent::Inode { ino, kind: Kind::Directory })?;
    Ok(Outcome::Removed { attr: tx.drop_link(ino, inode) })
}
