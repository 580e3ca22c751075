//! Makes a pipe, a socket, a device or an ordinary file.

use crate::ids::Ino;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Inode, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

pub(super) fn mknod(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: &Name,
    kind: Kind,
    mode: u16,
    rdev: u32,
) -> Result<Outcome, Fail> {
    let dir = tx.vacancy(parent, name)?;
    let rdev = match kind {
        Kind::File | Kind::Fifo | Kind::Socket => 0,
        Kind::CharDevice | Kind::BlockDevice if tx.cred.uid != 0 => return Err(Refusal::NotPermitted.into()),
        Kind::CharDevice | Kind::BlockDevice => rdev,
        Kind::Directory | Kind::Symlink => {
            return Err(Refusal::Invalid { why: "directories and symbolic links are not made by mknod".into() }.into());
        }
    };
    let (ino, inode) = tx.new_inode(parent, &dir, kind, mode)?;
    let inode = Inode { rdev, ..inode };
    tx.put_inode(ino, &inode);
    tx.add_name(parent, name, Dirent::Inode { ino, kind })?;
    Ok(Outcome::Created { attr: tx.attr(ino, &inode), fresh: true })
}
