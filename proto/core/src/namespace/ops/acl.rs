//! Sets and removes access lists, which show as extended attributes and lie in the inode.

use bytes::Bytes;

use crate::access::{self, Acl, SGID};
use crate::ids::Ino;
use crate::name::XattrName;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Inode, Kind};
use crate::namespace::op::XattrMode;
use crate::namespace::outcome::Outcome;
use crate::namespace::tx::Tx;
use crate::refusal::Refusal;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
/// Bytes of a value that has a version and no entries: it stands for no list.
const NO_ENTRIES: usize = 4;

/// Which list of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Access,
    Default,
}

/// The list under an attribute's name, if it is one.
pub(crate) fn which(name: &XattrName) -> Option<List> {
    match name.as_bytes() {
        ACCESS => Some(List::Access),
        DEFAULT => Some(List::Default),
        _ => None,
    }
}

/// The value of a list; everybody may read it, as they may the mode.
pub(crate) fn value(inode: &Inode, list: List) -> Option<Bytes> {
    let acl = match list {
        List::Access => &inode.acl,
        List::Default => &inode.default_acl,
    };
    acl.as_ref().map(Acl::to_value)
}

/// The attribute names of the lists that an inode has.
pub(crate) fn names(inode: &Inode) -> Vec<Bytes> {
    let access = inode.acl.is_some().then_some(ACCESS);
    let default = inode.default_acl.is_some().then_some(DEFAULT);
    access.into_iter().chain(default).map(Bytes::from_static).collect()
}

pub(super) fn set(tx: &mut Tx<'_>, ino: Ino, list: List, value: &Bytes, mode: XattrMode) -> Result<Outcome, Fail> {
    if value.len() <= NO_ENTRIES {
        return remove(tx, ino, list);
    }
    let mut inode = owned(tx, ino)?;
    let acl = Acl::parse(value).ok_or_else(|| Refusal::Invalid { why: "not an access list".into() })?;
    match (self::value(&inode, list).is_some(), mode) {
        (true, XattrMode::Create) => return Err(Refusal::XattrExists.into()),
        (false, XattrMode::Replace) => return Err(Refusal::NoXattr.into()),
        _ => {}
    }
    match list {
        List::Access => {
            inode.mode = inode.mode & !0o777 | acl.mode();
            if tx.cred.uid != 0 && !access::in_group(tx.cred, inode.gid) {
                inode.mode &= !SGID;
            }
            inode.acl = (!acl.is_mode()).then_some(acl);
        }
        List::Default if inode.kind != Kind::Directory => return Err(Refusal::Denied.into()),
        List::Default => inode.default_acl = Some(acl),
    }
    put(tx, ino, inode)
}

/// What is not there is gone already.
pub(super) fn remove(tx: &mut Tx<'_>, ino: Ino, list: List) -> Result<Outcome, Fail> {
    let mut inode = owned(tx, ino)?;
    match list {
        List::Access => inode.acl = None,
        List::Default => inode.default_acl = None,
    }
    put(tx, ino, inode)
}

fn owned(tx: &Tx<'_>, ino: Ino) -> Result<Inode, Fail> {
    let inode = tx.inode(ino)?;
    if inode.kind == Kind::Symlink {
        return Err(Refusal::Unsupported { what: "an access list of a symbolic link".into() }.into());
    }
    if access::owns(tx.cred, inode.uid) { Ok(inode) } else { Err(Refusal::NotPermitted.into()) }
}

fn put(tx: &mut Tx<'_>, ino: Ino, mut inode: Inode) -> Result<Outcome, Fail> {
    inode.ctime = tx.now;
    tx.put_inode(ino, &inode);
    Ok(Outcome::Done)
}
