//! Who may do what: one verdict, asked for every request. Mode bits and POSIX access lists as Linux reads them;
//! expressions come later and will narrow what these allow.
//!
//! The trust boundary: reading a file's map, committing data and truncating through an open file are not asked again
//! here, since POSIX lets the check at open count and only the mount knows what is open. Whoever holds a session of a
//! space is trusted that far, until capabilities name single files.

mod acl;

pub use acl::{Acl, Who};
pub mod capability;
pub mod door;
pub mod principal;

use crate::entry::Cred;
use crate::namespace::inode::{Inode, Kind};
use crate::refusal::Refusal;

/// To read a file or list a directory.
pub const READ: u8 = 4;
/// To write a file or change a directory's names.
pub const WRITE: u8 = 2;
/// To run a file or search a directory.
pub const EXECUTE: u8 = 1;

/// Set-user-id.
pub const SUID: u16 = 0o4000;
/// Set-group-id.
pub const SGID: u16 = 0o2000;
/// Only owners remove names.
pub const STICKY: u16 = 0o1000;

/// What a verdict looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// What it is.
    pub kind: Kind,
    /// `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// The access list, where the mode does not say all.
    pub acl: Option<&'a Acl>,
}

impl<'a> From<&'a Inode> for Object<'a> {
    fn from(inode: &'a Inode) -> Object<'a> {
        let acl = inode.acl.as_ref();
        Object { kind: inode.kind, mode: inode.mode, uid: inode.uid, gid: inode.gid, acl }
    }
}

/// The answer, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The superuser may.
    AllowedSuperuser,
    /// Mode bits of this class (6 owner, 3 group, 0 others: how far they are shifted), or an access list, allow it.
    Allowed {
        /// Which class.
        shift: u8,
    },
    /// Mode bits of this class do not.
    Denied {
        /// Which class.
        shift: u8,
        /// The rights asked for that it lacks.
        missing: u8,
    },
}

impl Verdict {
    /// Whether it is a yes.
    pub fn is_allowed(self) -> bool {
        !matches!(self, Verdict::Denied { .. })
    }
}

/// Whether `cred` has all rights of `mask` ([`READ`], [`WRITE`], [`EXECUTE`]) on `object`.
pub fn verdict(cred: &Cred, object: Object<'_>, mask: u8) -> Verdict {
    let shift = if cred.uid == object.uid {
        6
    } else if in_group(cred, object.gid) {
        3
    } else {
        0
    };
    let missing = match object.acl {
        Some(acl) if shift != 6 => acl.missing(cred, object.gid, mask),
        _ => mask & !((object.mode >> shift) as u8 & 7),
    };
    // Nobody runs a file without a single execute bit, not even the superuser.
    let runnable = object.kind == Kind::Directory || mask & EXECUTE == 0 || object.mode & 0o111 != 0;
    if cred.uid == 0 && runnable {
        Verdict::AllowedSuperuser
    } else if missing == 0 {
        Verdict::Allowed { shift }
    } else {
        Verdict::Denied { shift, missing }
    }
}

/// [`verdict`] as a refusal.
///
/// # Errors
/// [`Refusal::Denied`].
pub(crate) fn may(cred: &Cred, inode: &Inode, mask: u8) -> Result<(), Refusal> {
    if verdict(cred, inode.into(), mask).is_allowed() { Ok(()) } else { Err(Refusal::Denied) }
}

/// Whether `gid` is the caller's own group or one of the supplementary ones.
pub fn in_group(cred: &Cred, gid: u32) -> bool {
    cred.gid == gid || cred.gids.contains(&gid)
}

/// Whether the caller may do what only the owner may.
pub fn owns(cred: &Cred, uid: u32) -> bool {
    cred.uid == 0 || cred.uid == uid
}

/// Whether the caller may remove or move the name of `victim` in `dir`.
///
/// # Errors
/// [`Refusal::Denied`] by the mode bits, [`Refusal::NotPermitted`] by a sticky directory.
pub(crate) fn may_remove(cred: &Cred, dir: &Inode, victim: &Inode) -> Result<(), Refusal> {
    may(cred, dir, WRITE | EXECUTE)?;
    if dir.mode & STICKY != 0 && !owns(cred, victim.uid) && !owns(cred, dir.uid) {
        return Err(Refusal::NotPermitted);
    }
    Ok(())
}

/// The mode a file is left with when somebody without privilege changes its bytes.
pub(crate) fn without_privilege(inode: &Inode) -> u16 {
    if inode.kind != Kind::File {
        return inode.mode;
    }
    let group_runs = inode.mode & 0o010 != 0;
    inode.mode & !SUID & if group_runs { !SGID } else { !0 }
}
