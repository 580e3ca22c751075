//! Makes a directory.

use crate::ids::Ino;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;

pub(super) fn mkdir(tx: &mut Tx<'_>, parent: Ino, name: &Name, mode: u16) -> Result<Outcome, Fail> {
    let dir = tx.vacancy(parent, name)?;
    // The set-id bits of a new directory come from its parent alone.
    let (ino, inode) = tx.new_inode(parent, &dir, Kind::Directory, mode & 0o1777)?;
    tx.put_inode(ino, &inode);
    tx.add_name(parent, name, Dirent::Inode { ino, kind: Kind::Directory })?;
    Ok(Outcome::Created { attr: tx.attr(ino, &inode), fresh: true })
}
