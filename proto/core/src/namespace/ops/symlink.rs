//! Makes a symbolic link.

use bytes::Bytes;

use crate::ids::Ino;
use crate::limits::MAX_SYMLINK;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Inode, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

pub(super) fn symlink(tx: &mut Tx<'_>, parent: Ino, name: &Name, target: &Bytes) -> Result<Outcome, Fail> {
    if target.is_empty() {
        return Err(Refusal::NoEntry.into());
    }
    if target.len() > MAX_SYMLINK {
        return Err(Refusal::NameTooLong { len: target.len() as u64 }.into());
    }
    if target.contains(&0) {
        return Err(Refusal::Invalid { why: "a link's target holds a NUL".into() }.into());
    }
    let dir = tx.vacancy(parent, name)?;
    let (ino, inode) = tx.new_inode(parent, &dir, Kind::Symlink, 0o777)?;
    let inode = Inode { size: target.len() as u64, target: target.clone(), ..inode };
    tx.put_inode(ino, &inode);
    tx.add_name(parent, name, Dirent::Inode { ino, kind: Kind::Symlink })?;
    Ok(Outcome::Created { attr: tx.attr(ino, &inode), fresh: true })
}
