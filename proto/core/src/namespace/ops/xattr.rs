//! Sets and removes extended attributes.

use bytes::Bytes;

use super::acl;
use crate::access::{self, READ, STICKY, WRITE};
use crate::codec;
use crate::entry::Cred;
use crate::ids::Ino;
use crate::keys;
use crate::limits::{MAX_XATTR_LIST, MAX_XATTR_VALUE};
use crate::name::XattrName;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Inode, Kind};
use crate::namespace::op::XattrMode;
use crate::namespace::outcome::Outcome;
use crate::namespace::records;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

pub(super) fn set(
    tx: &mut Tx<'_>,
    ino: Ino,
    name: &XattrName,
    value: &Bytes,
    mode: XattrMode,
) -> Result<Outcome, Fail> {
    if let Some(list) = acl::which(name) {
        return acl::set(tx, ino, list, value, mode);
    }
    let mut inode = tx.inode(ino)?;
    may_write(tx.cred, &inode, name)?;
    if value.len() > MAX_XATTR_VALUE {
        return Err(Refusal::XattrTooBig { len: value.len() as u64 }.into());
    }
    let there = records::xattr(&tx.out, tx.volume, ino, name)?.is_some();
    match (there, mode) {
        (true, XattrMode::Create) => return Err(Refusal::XattrExists.into()),
        (false, XattrMode::Replace) => return Err(Refusal::NoXattr.into()),
        (true, _) => {}
        (false, _) => {
            inode.xattr_list += listed(name);
            if inode.xattr_list as usize > MAX_XATTR_LIST {
                return Err(Refusal::TooManyXattrs { ino }.into());
            }
        }
    }
    inode.ctime = tx.now;
    tx.put_inode(ino, &inode);
    tx.out.put(keys::xattr(tx.volume, ino, name), codec::encode_born(tx.head.epoch, value));
    Ok(Outcome::Done)
}

pub(super) fn remove(tx: &mut Tx<'_>, ino: Ino, name: &XattrName) -> Result<Outcome, Fail> {
    if let Some(list) = acl::which(name) {
        return acl::remove(tx, ino, list);
    }
    let mut inode = tx.inode(ino)?;
    may_write(tx.cred, &inode, name)?;
    if records::xattr(&tx.out, tx.volume, ino, name)?.is_none() {
        return Err(Refusal::NoXattr.into());
    }
    inode.xattr_list -= listed(name);
    inode.ctime = tx.now;
    tx.put_inode(ino, &inode);
    tx.out.remove(keys::xattr(tx.volume, ino, name));
    Ok(Outcome::Done)
}

/// Bytes of a name in listxattr's answer.
pub(crate) fn listed(name: &XattrName) -> u32 {
    name.as_bytes().len() as u32 + 1
}

/// What the part of a name before the first dot says about who may.
enum Space {
    User,
    Trusted,
    Security,
    Other,
}

fn space(name: &[u8]) -> Space {
    match name.split(|byte| *byte == b'.').next() {
        Some(b"user") => Space::User,
        Some(b"trusted") => Space::Trusted,
        Some(b"security") => Space::Security,
        _ => Space::Other,
    }
}

fn may_write(cred: &Cred, inode: &Inode, name: &XattrName) -> Result<(), Refusal> {
    match space(name.as_bytes()) {
        Space::User => {
            let sticky = inode.kind == Kind::Directory && inode.mode & STICKY != 0;
            if !matches!(inode.kind, Kind::File | Kind::Directory) || sticky && !access::owns(cred, inode.uid) {
                return Err(Refusal::NotPermitted);
            }
            access::may(cred, inode, WRITE)
        }
        Space::Trusted | Space::Security if cred.uid == 0 => Ok(()),
        Space::Trusted | Space::Security => Err(Refusal::NotPermitted),
        Space::Other => Err(unsupported(name)),
    }
}

/// Whether the caller may read an attribute.
pub(crate) fn may_read(cred: &Cred, inode: &Inode, name: &XattrName) -> Result<(), Refusal> {
    match space(name.as_bytes()) {
        Space::User if matches!(inode.kind, Kind::File | Kind::Directory) => access::may(cred, inode, READ),
        Space::User => Err(Refusal::NoXattr),
        Space::Trusted if cred.uid != 0 => Err(Refusal::NoXattr),
        Space::Trusted | Space::Security => Ok(()),
        Space::Other => Err(unsupported(name)),
    }
}

/// Whether listxattr shows an attribute's name to the caller.
pub(crate) fn is_listed(cred: &Cred, name: &[u8]) -> bool {
    match space(name) {
        Space::User | Space::Security => true,
        Space::Trusted => cred.uid == 0,
        Space::Other => false,
    }
}

fn unsupported(name: &XattrName) -> Refusal {
    Refusal::Unsupported { what: format!("attribute {}", String::from_utf8_lossy(name.as_bytes())) }
}
