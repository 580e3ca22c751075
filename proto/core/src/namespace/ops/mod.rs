//! The operations of clients, one file each, and the door to them.

pub(crate) mod acl;
mod allocate;
mod commit;
mod copy_range;
mod create;
mod junction;
mod lease;
mod link;
mod mkdir;
mod mknod;
mod rename;
mod rmdir;
mod setattr;
mod symlink;
mod tmpfile;
mod truncate;
mod unlink;
pub(crate) mod xattr;

use crate::namespace::fail::Fail;
use crate::namespace::op::Op;
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;

/// Does what a client asks. Changes pile up in `tx`.
pub(crate) fn run(tx: &mut Tx<'_>, op: &Op) -> Result<Outcome, Fail> {
    match op {
        Op::Mkdir { parent, name, mode } => mkdir::mkdir(tx, *parent, name, *mode),
        Op::Create { parent, name, mode, exclusive } => create::create(tx, *parent, name, *mode, *exclusive),
        Op::Tmpfile { parent, mode } => tmpfile::tmpfile(tx, *parent, *mode),
        Op::Mknod { parent, name, kind, mode, rdev } => mknod::mknod(tx, *parent, name, *kind, *mode, *rdev),
        Op::Symlink { parent, name, target } => symlink::symlink(tx, *parent, name, target),
        Op::Link { ino, parent, name } => link::link(tx, *ino, *parent, name),
        Op::Unlink { parent, name } => unlink::unlink(tx, *parent, name),
        Op::Rmdir { parent, name } => rmdir::rmdir(tx, *parent, name),
        Op::Rename { parent, name, new_parent, new_name, mode } => {
            rename::rename(tx, (*parent, name), (*new_parent, new_name), *mode)
        }
        Op::Setattr { ino, set } => setattr::setattr(tx, *ino, set),
        Op::Truncate { ino, size, set, opened } => truncate::truncate(tx, *ino, *size, set, *opened),
        Op::Commit(commit) => commit::commit(tx, commit),
        Op::Allocate { ino, mode, offset, len } => allocate::allocate(tx, *ino, *mode, *offset, *len),
        Op::CopyRange { source_volume, source, source_offset, target, target_offset, len } => {
            let from = copy_range::From { volume: *source_volume, ino: *source, offset: *source_offset };
            copy_range::copy_range(tx, from, *target, *target_offset, *len)
        }
        Op::SetXattr { ino, name, value, mode } => xattr::set(tx, *ino, name, value, *mode),
        Op::RemoveXattr { ino, name } => xattr::remove(tx, *ino, name),
        Op::MakeJunction { parent, name, slot } => junction::make(tx, *parent, name, *slot),
        Op::RemoveJunction { parent, name } => junction::remove(tx, *parent, name),
        Op::Lease { dir, numbers } => lease::take(tx, *dir, *numbers),
        Op::Held { items, give_up } => lease::make(tx, items, give_up),
    }
}
