//! One operation at work: the records as it sees and changes them, and what most operations do with them.

use crate::access::{self, EXECUTE, SGID, WRITE};
use crate::codec::{self, Head};
use crate::entry::Cred;
use crate::ids::{ClientId, Ino, VolumeId};
use crate::keys;
use crate::limits::MAX_CHANGES;
use crate::name::Name;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Attr, Dirent, Inode, Kind};
use crate::namespace::{lease, records};
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::view::Overlay;

/// Changes kept free for what every operation writes at its end: inodes, head, session, reply, clock.
const CHANGES_AT_END: usize = 16;

/// One operation on one volume.
pub(crate) struct Tx<'a> {
    /// Records with this operation's changes laid over them.
    pub(crate) out: Overlay<'a>,
    /// The entry's time.
    pub(crate) now: Timestamp,
    /// On whose behalf.
    pub(crate) cred: &'a Cred,
    /// Whose session; `None` for what the leader itself proposes.
    pub(crate) client: Option<ClientId>,
    /// The volume.
    pub(crate) volume: VolumeId,
    /// Its head, written back at the end if it changed.
    pub(crate) head: Head,
    /// For a change that was made under a write lease and held back.
    pub(crate) held: Option<HeldTx>,
}

/// What differs for a held-back change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeldTx {
    /// The number that a new inode has already.
    pub(crate) new_ino: Option<Ino>,
    /// Records that the changes before it in the same entry change.
    pub(crate) used: usize,
}

impl Tx<'_> {
    /// How many more records this command may change.
    pub(crate) fn room(&self) -> usize {
        let used = self.held.map_or(0, |held| held.used);
        MAX_CHANGES.saturating_sub(CHANGES_AT_END + used + self.out.changed())
    }

    /// An inode that may be changed: no directory that somebody holds a write lease on.
    pub(crate) fn inode(&self, ino: Ino) -> Result<Inode, Fail> {
        let inode = records::inode(&self.out, self.volume, ino)?;
        self.guard(ino, &inode)?;
        Ok(inode)
    }

    /// Refuses a leased directory. Its holder too, unless the change was held back under the lease: what it knows of
    /// the directory would no longer be right.
    pub(crate) fn guard(&self, ino: Ino, inode: &Inode) -> Result<(), Fail> {
        match self.client {
            Some(client) => lease::guard(&self.out, self.volume, ino, inode, self.held.map(|_| client)),
            None => Ok(()),
        }
    }

    pub(crate) fn put_inode(&mut self, ino: Ino, inode: &Inode) {
        self.out.put(keys::inode(self.volume, ino), codec::encode_born(self.head.epoch, inode));
    }

    pub(crate) fn attr(&self, ino: Ino, inode: &Inode) -> Attr {
        records::attr(self.volume, ino, inode)
    }

    /// A directory that still has a name.
    pub(crate) fn directory(&self, ino: Ino) -> Result<Inode, Fail> {
        let inode = self.inode(ino)?;
        if inode.kind != Kind::Directory {
            return Err(Refusal::NotDirectory { ino }.into());
        }
        if inode.nlink == 0 {
            return Err(Refusal::NoEntry.into());
        }
        Ok(inode)
    }

    /// A regular file, named or not.
    pub(crate) fn file(&self, ino: Ino) -> Result<Inode, Fail> {
        let inode = self.inode(ino)?;
        match inode.kind {
            Kind::File => Ok(inode),
            Kind::Directory => Err(Refusal::IsDirectory { ino }.into()),
            _ => Err(Refusal::Invalid { why: "not a regular file".into() }.into()),
        }
    }

    /// What a name in a directory stands for, for whoever may search it.
    pub(crate) fn look(&self, dir: Ino, inode: &Inode, name: &Name) -> Result<Option<Dirent>, Fail> {
        access::may(self.cred, inode, EXECUTE)?;
        Ok(records::dirent(&self.out, self.volume, dir, name)?)
    }

    /// The directory in which a new name may be made, the name being free.
    pub(crate) fn vacancy(&self, parent: Ino, name: &Name) -> Result<Inode, Fail> {
        let dir = self.directory(parent)?;
        if let Some(taken) = self.look(parent, &dir, name)? {
            return Err(exists(taken).into());
        }
        access::may(self.cred, &dir, WRITE | EXECUTE)?;
        Ok(dir)
    }

    /// What `name` stands for, an inode, and that inode. Junctions are busy.
    pub(crate) fn occupant(&self, parent: Ino, dir: &Inode, name: &Name) -> Result<(Ino, Inode), Fail> {
        match self.look(parent, dir, name)? {
            None => Err(Refusal::NoEntry.into()),
            Some(Dirent::Junction(_)) => Err(junction_busy().into()),
            Some(Dirent::Inode { ino, .. }) => {
                let inode = records::named_inode(&self.out, self.volume, ino)?;
                self.guard(ino, &inode)?;
                Ok((ino, inode))
            }
        }
    }

    /// A new inode as `kind` and `mode` say, owned as its directory wants it, with one name (two for a directory).
    pub(crate) fn new_inode(&mut self, parent: Ino, dir: &Inode, kind: Kind, mode: u16) -> Result<(Ino, Inode), Fail> {
        let ino = match self.held {
            None => lease::take_numbers(&mut self.head, 1)?,
            Some(held) => lease::reserved(&self.out, self.volume, &self.head, held.new_ino)?,
        };
        self.head.inodes += 1;
        let inherits = dir.mode & SGID != 0;
        let gid = if inherits { dir.gid } else { self.cred.gid };
        // A symlink has no rights of its own.
        let (mut mode, acl) = match &dir.default_acl {
            _ if kind == Kind::Symlink => (mode & 0o7777, None),
            Some(default) => default.inherited(mode & 0o7777),
            None => (mode & 0o7777 & !self.cred.umask, None),
        };
        if inherits && kind == Kind::Directory {
            mode |= SGID;
        } else if inherits
            && mode & (SGID | 0o010) == SGID | 0o010
            && self.cred.uid != 0
            && !access::in_group(self.cred, gid)
        {
            mode &= !SGID;
        }
        let directory = kind == Kind::Directory;
        let inode = Inode {
            mode,
            uid: self.cred.uid,
            gid,
            nlink: if directory { 2 } else { 1 },
            parent: if directory { parent } else { Ino(0) },
            acl,
            default_acl: dir.default_acl.clone().filter(|_| directory),
            ..blank(kind, self.now)
        };
        Ok((ino, inode))
    }

    /// Puts a name into a directory.
    pub(crate) fn add_name(&mut self, parent: Ino, name: &Name, dirent: Dirent) -> Result<(), Fail> {
        self.out.put(keys::dirent(self.volume, parent, name), codec::encode_born(self.head.epoch, &dirent));
        self.change_directory(parent, |dir| {
            dir.size += 1;
            dir.nlink += u32::from(is_directory(dirent));
        })
    }

    /// Takes a name, which is there, out of a directory.
    pub(crate) fn remove_name(&mut self, parent: Ino, name: &Name, dirent: Dirent) -> Result<(), Fail> {
        self.out.remove(keys::dirent(self.volume, parent, name));
        self.change_directory(parent, |dir| {
            dir.size -= 1;
            dir.nlink -= u32::from(is_directory(dirent));
        })
    }

    fn change_directory(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) -> Result<(), Fail> {
        // Whoever adds or removes a name has asked for the directory before.
        let mut dir = records::inode(&self.out, self.volume, ino)?;
        change(&mut dir);
        dir.version += 1;
        dir.mtime = self.now;
        dir.ctime = self.now;
        self.put_inode(ino, &dir);
        Ok(())
    }

    /// An inode loses a name (a directory its only one). Without any it becomes an orphan.
    pub(crate) fn drop_link(&mut self, ino: Ino, mut inode: Inode) -> Attr {
        inode.nlink = if inode.kind == Kind::Directory { 0 } else { inode.nlink - 1 };
        inode.ctime = self.now;
        if inode.nlink == 0 {
            self.put_orphan(ino, true);
        }
        self.put_inode(ino, &inode);
        self.attr(ino, &inode)
    }

    /// An inode without a name: it had one (`named`), or may be given its first yet.
    pub(crate) fn put_orphan(&mut self, ino: Ino, named: bool) {
        self.out.put(keys::orphan(self.volume, ino), codec::encode(&named));
    }

    /// Whether a nameless inode never had a name, nor lost any of its bytes.
    pub(crate) fn never_named(&self, ino: Ino) -> Result<bool, Fail> {
        let named: Option<bool> = records::get(&self.out, &keys::orphan(self.volume, ino))?;
        Ok(named == Some(false))
    }

    /// Whether `ancestor` is `dir` or above it.
    pub(crate) fn is_above(&self, ancestor: Ino, mut dir: Ino) -> Result<bool, Fail> {
        for _ in 0..crate::limits::MAX_DEPTH {
            if dir == ancestor {
                return Ok(true);
            }
            if dir == Ino::ROOT {
                return Ok(false);
            }
            dir = records::named_inode(&self.out, self.volume, dir)?.parent;
        }
        Err(Refusal::TooDeep.into())
    }

    /// Checks the quota against `before`, the head as it was, and writes the head back if it changed.
    pub(crate) fn settle(&mut self, before: &Head) -> Result<(), Refusal> {
        let head = &self.head;
        within_quota(before, head)?;
        if head != before {
            self.out.put(keys::head(self.volume), codec::encode(head));
        }
        Ok(())
    }
}

/// Whether a change that left this head stays within the volume's limits, or at least does not add to what is above.
pub(crate) fn within_quota(before: &Head, head: &Head) -> Result<(), Refusal> {
    let over = |now: u64, was: u64, max: u64| max != 0 && now > was && now > max;
    if over(head.bytes, before.bytes, head.max_bytes) || over(head.inodes, before.inodes, head.max_inodes) {
        return Err(Refusal::QuotaExceeded);
    }
    Ok(())
}

/// An inode of a kind with nothing in it.
pub(crate) fn blank(kind: Kind, now: Timestamp) -> Inode {
    Inode {
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 0,
        size: 0,
        allocated: 0,
        small: 0,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        xattr_list: 0,
        generation: 0,
        cut_at: None,
        version: 1,
        parent: Ino(0),
        target: bytes::Bytes::new(),
        acl: None,
        default_acl: None,
    }
}

/// Whether a name shows as a directory, so that its parent counts it as a link.
pub(crate) fn is_directory(dirent: Dirent) -> bool {
    matches!(dirent, Dirent::Inode { kind: Kind::Directory, .. } | Dirent::Junction(_))
}

/// The refusal of a name that is taken; a junction has no inode of this volume.
pub(crate) fn exists(taken: Dirent) -> Refusal {
    match taken {
        Dirent::Inode { ino, .. } => Refusal::Exists { ino },
        Dirent::Junction(_) => Refusal::Exists { ino: Ino(0) },
    }
}

pub(crate) fn junction_busy() -> Refusal {
    Refusal::InUse { why: "a junction to another volume".into() }
}
