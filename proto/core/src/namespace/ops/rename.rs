//! Moves a name, in the order of checks that Linux has.

use crate::access::{self, EXECUTE, WRITE};
use crate::ids::Ino;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Attr, Dirent, Inode, Kind};
use crate::namespace::op::RenameMode;
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::{Tx, exists, junction_busy};
use crate::refusal::Refusal;

pub(super) fn rename(
    tx: &mut Tx<'_>,
    source: (Ino, &Name),
    target: (Ino, &Name),
    mode: RenameMode,
) -> Result<Outcome, Fail> {
    let source_dir = tx.directory(source.0)?;
    let target_dir = tx.directory(target.0)?;
    let (ino, inode) = tx.occupant(source.0, &source_dir, source.1)?;
    let replaced = match (tx.look(target.0, &target_dir, target.1)?, mode) {
        (Some(taken), RenameMode::NoReplace) => return Err(exists(taken).into()),
        (Some(Dirent::Junction(_)), _) => return Err(junction_busy().into()),
        (Some(Dirent::Inode { ino, .. }), _) => Some((ino, tx.inode(ino)?)),
        (None, RenameMode::Exchange) => return Err(Refusal::NoEntry.into()),
        (None, _) => None,
    };
    let exchange = mode == RenameMode::Exchange;
    let other = replaced.as_ref().map(|(other, _)| *other);
    if inode.kind == Kind::Directory && other != Some(ino) && tx.is_above(ino, target.0)? {
        return Err(Refusal::Loop { ino }.into());
    }
    if let Some((other, there)) = &replaced
        && there.kind == Kind::Directory
        && *other != ino
        && tx.is_above(*other, source.0)?
    {
        let other = *other;
        return Err(if exchange { Refusal::Loop { ino: other } } else { Refusal::NotEmpty { ino: other } }.into());
    }
    // Two names of one file: nothing to do, whoever asks.
    if other == Some(ino) {
        return Ok(Outcome::Renamed { attr: tx.attr(ino, &inode), replaced: None });
    }
    access::may_remove(tx.cred, &source_dir, &inode)?;
    match &replaced {
        None => access::may(tx.cred, &target_dir, WRITE | EXECUTE)?,
        Some((other, there)) => {
            access::may_remove(tx.cred, &target_dir, there)?;
            if !exchange {
                may_replace(&inode, *other, there)?;
            }
        }
    }
    // A directory that changes its parent has its own `..` rewritten.
    if source.0 != target.0 {
        let moved = std::iter::once(&inode).chain(replaced.iter().filter(|_| exchange).map(|(_, there)| there));
        for moved in moved.filter(|moved| moved.kind == Kind::Directory) {
            access::may(tx.cred, moved, WRITE)?;
        }
    }
    let entry = |ino: Ino, inode: &Inode| Dirent::Inode { ino, kind: inode.kind };
    tx.remove_name(source.0, source.1, entry(ino, &inode))?;
    if let Some((other, there)) = &replaced {
        tx.remove_name(target.0, target.1, entry(*other, there))?;
    }
    tx.add_name(target.0, target.1, entry(ino, &inode))?;
    let attr = moved_to(tx, ino, inode, target.0);
    let replaced = match replaced {
        Some((other, there)) if exchange => {
            tx.add_name(source.0, source.1, entry(other, &there))?;
            moved_to(tx, other, there, source.0);
            None
        }
        Some((other, there)) => Some(Box::new(tx.drop_link(other, there))),
        None => None,
    };
    Ok(Outcome::Renamed { attr, replaced })
}

fn may_replace(inode: &Inode, other: Ino, there: &Inode) -> Result<(), Refusal> {
    match (inode.kind == Kind::Directory, there.kind == Kind::Directory) {
        (true, false) => Err(Refusal::NotDirectory { ino: other }),
        (false, true) => Err(Refusal::IsDirectory { ino: other }),
        (true, true) if there.size != 0 => Err(Refusal::NotEmpty { ino: other }),
        _ => Ok(()),
    }
}

/// The inode itself after its move. The directories on the way were written before, and none of them is this one.
fn moved_to(tx: &mut Tx<'_>, ino: Ino, mut inode: Inode, parent: Ino) -> Attr {
    inode.ctime = tx.now;
    if inode.kind == Kind::Directory {
        inode.parent = parent;
    }
    tx.put_inode(ino, &inode);
    tx.attr(ino, &inode)
}
