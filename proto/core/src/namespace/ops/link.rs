//! Makes another name of a file.

use crate::ids::Ino;
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
    // A file without a name is on its way out: a new name could come after its bytes went.
    if inode.nlink == 0 {
        return Err(Refusal::NoEntry.into());
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
