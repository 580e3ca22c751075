//! Makes another name of a file.

use crate::ids::Ino;
use crate::keys;
use crate::limits::MAX_LINKS;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

pub(super) fn link(tx: &mut Tx<'_>, ino: Ino, parent: Ino, name: &Name) -> Result<Outcome, Fail> {
    let mut inode = tx.inode(ino)?;
    tx.vacancy(parent, name)?;
    if inode.kind == Kind::Directory {
        return Err(Refusal::NotPermitted.into());
    }
    // A file that lost its name is on its way out: a new one could come after its bytes went.
    if inode.nlink == 0 && !tx.never_named(ino)? {
        return Err(Refusal::NoEntry.into());
    }
    if inode.nlink == 0 {
        tx.out.remove(keys::orphan(tx.volume, ino));
    }
    if inode.nlink >= MAX_LINKS {
        return Err(Refusal::TooManyLinks { ino }.into());
    }
    inode.nlink += 1;
    inode.ctime = tx.now;
    tx.put_inode(ino, &inode);
    tx.add_name(parent, name, Dirent::Inode { ino, kind: inode.kind })?;
    Ok(Outcome::Attr(tx.attr(ino, &inode)))
}
