//! Makes a regular file, or finds the one that is there.

use crate::access::{self, EXECUTE, WRITE};
use crate::ids::Ino;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::{Tx, exists};
use crate::refusal::Refusal;

/// Whether an existing file may be opened is not asked here: that is the caller's next question.
pub(super) fn create(tx: &mut Tx<'_>, parent: Ino, name: &Name, mode: u16, exclusive: bool) -> Result<Outcome, Fail> {
    let dir = tx.directory(parent)?;
    if let Some(taken) = tx.look(parent, &dir, name)? {
        return match taken {
            Dirent::Inode { ino, kind: Kind::File } if !exclusive => {
                let inode = tx.inode(ino)?;
                Ok(Outcome::Created { attr: tx.attr(ino, &inode), fresh: false })
            }
            Dirent::Inode { ino, kind: Kind::Directory } if !exclusive => Err(Refusal::IsDirectory { ino }.into()),
            taken => Err(exists(taken).into()),
        };
    }
    access::may(tx.cred, &dir, WRITE | EXECUTE)?;
    let (ino, inode) = tx.new_inode(parent, &dir, Kind::File, mode)?;
    tx.put_inode(ino, &inode);
    tx.add_name(parent, name, Dirent::Inode { ino, kind: Kind::File })?;
    Ok(Outcome::Created { attr: tx.attr(ino, &inode), fresh: true })
}
