//! Makes a regular file without a name. It goes when nobody holds it open, unless a link gives it one before.

use crate::access::{self, EXECUTE, WRITE};
use crate::ids::Ino;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Inode, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;

pub(super) fn tmpfile(tx: &mut Tx<'_>, parent: Ino, mode: u16) -> Result<Outcome, Fail> {
    let dir = tx.directory(parent)?;
    access::may(tx.cred, &dir, WRITE | EXECUTE)?;
    let (ino, inode) = tx.new_inode(parent, &dir, Kind::File, mode)?;
    let inode = Inode { nlink: 0, ..inode };
    tx.put_inode(ino, &inode);
    tx.put_orphan(ino, false);
    Ok(Outcome::Created { attr: tx.attr(ino, &inode), fresh: true })
}
