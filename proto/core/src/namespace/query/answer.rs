//! Answering questions.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Answer, Found, ListedEntry, Query, VolumeUse};
use crate::access::{self, EXECUTE, READ, WRITE};
use crate::entry::Cred;
use crate::ids::{ClientId, Ino, VolumeId};
use crate::keys;
use crate::limits::{MAX_MAP, MAX_READDIR, OPEN_MAP};
use crate::name::{Name, XattrName};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Dirent, Inode, Kind};
use crate::namespace::lease;
use crate::namespace::ops::{acl, xattr};
use crate::namespace::records::{self, attr};
use crate::refusal::Refusal;
use crate::span::Span;
use crate::view::{View, ViewError};

/// Answers one question about a volume.
pub(crate) fn answer(
    view: &dyn View,
    volume: VolumeId,
    client: ClientId,
    cred: &Cred,
    query: &Query,
) -> Result<Answer, Fail> {
    if let Query::Slot { space, slot } = query {
        let held = records::get(view, &keys::slot(*space, *slot))?;
        return held.map(Answer::Slot).ok_or_else(|| Refusal::NoSlot { slot: *slot }.into());
    }
    let head = records::head(view, volume)?;
    let ask = Ask { view, volume, client, cred };
    match query {
        Query::Lookup { parent, name } => ask.lookup(*parent, name),
        Query::Getattr { ino } => Ok(Answer::Attr(attr(volume, *ino, &ask.inode(*ino)?))),
        Query::Open { ino, read, write } => ask.open(*ino, *read, *write),
        Query::Readdir { dir, after, limit, with_attrs } => ask.readdir(*dir, after.as_ref(), *limit, *with_attrs),
        Query::Readlink { ino } => ask.readlink(*ino),
        // The map tells where bytes are; whether they may be read was asked at open.
        Query::Map { ino, offset, limit } => ask.map(*ino, &ask.inode(*ino)?, *offset, *limit),
        Query::GetXattr { ino, name } => ask.get_xattr(*ino, name),
        Query::ListXattr { ino } => ask.list_xattr(*ino),
        Query::Statfs => Ok(Answer::Statfs(VolumeUse {
            bytes: head.bytes,
            inodes: head.inodes,
            max_bytes: head.max_bytes,
            max_inodes: head.max_inodes,
        })),
        Query::Access { ino, mask } => {
            access::may(cred, &ask.inode(*ino)?, *mask)?;
            Ok(Answer::Done)
        }
        Query::Slot { slot, .. } => Err(Refusal::NoSlot { slot: *slot }.into()),
    }
}

struct Ask<'a> {
    view: &'a dyn View,
    volume: VolumeId,
    client: ClientId,
    cred: &'a Cred,
}

impl Ask<'_> {
    fn inode(&self, ino: Ino) -> Result<Inode, Fail> {
        let inode = records::inode(self.view, self.volume, ino)?;
        self.guard(ino, &inode)?;
        Ok(inode)
    }

    fn named_inode(&self, ino: Ino) -> Result<Inode, Fail> {
        let inode = records::named_inode(self.view, self.volume, ino)?;
        self.guard(ino, &inode)?;
        Ok(inode)
    }

    /// Of a directory that another client has leased, only that client knows the state.
    fn guard(&self, ino: Ino, inode: &Inode) -> Result<(), Fail> {
        match self.client {
            ClientId(0) => Ok(()),
            client => lease::guard(self.view, self.volume, ino, inode, Some(client)),
        }
    }

    fn directory(&self, ino: Ino) -> Result<Inode, Fail> {
        let inode = self.inode(ino)?;
        if inode.kind == Kind::Directory { Ok(inode) } else { Err(Refusal::NotDirectory { ino }.into()) }
    }

    fn lookup(&self, parent: Ino, name: &Name) -> Result<Answer, Fail> {
        let dir = self.directory(parent)?;
        access::may(self.cred, &dir, EXECUTE)?;
        match records::dirent(self.view, self.volume, parent, name)? {
            None => Err(Refusal::NoEntry.into()),
            Some(Dirent::Junction(slot)) => Ok(Answer::Found(Found::Junction(slot))),
            Some(Dirent::Inode { ino, .. }) => {
                let inode = self.named_inode(ino)?;
                Ok(Answer::Found(Found::Inode(attr(self.volume, ino, &inode))))
            }
        }
    }

    fn open(&self, ino: Ino, read: bool, write: bool) -> Result<Answer, Fail> {
        let inode = self.inode(ino)?;
        access::may(self.cred, &inode, if read { READ } else { 0 } | if write { WRITE } else { 0 })?;
        if inode.kind == Kind::Directory && write {
            return Err(Refusal::IsDirectory { ino }.into());
        }
        self.map(ino, &inode, 0, OPEN_MAP)
    }

    /// Extents up to the file's end. Those beyond a cut lie behind it, since no file is longer than its cut.
    fn map(&self, ino: Ino, inode: &Inode, offset: u64, limit: u32) -> Result<Answer, Fail> {
        let limit = limit.clamp(1, MAX_MAP) as usize;
        let whole = Span { start: 0, end: inode.size };
        let (mut extents, mut more_from) = (Vec::new(), None);
        if inode.kind == Kind::File && offset < inode.size {
            records::extents(self.view, self.volume, ino, inode.generation, offset, |extent| {
                if extent.offset >= whole.end {
                    return ControlFlow::Break(());
                }
                if extents.len() == limit {
                    more_from = Some(extent.offset.max(offset));
                    return ControlFlow::Break(());
                }
                extents.push(extent.slice(whole));
                ControlFlow::Continue(())
            })?;
        }
        Ok(Answer::Map { attr: attr(self.volume, ino, inode), extents, more_from })
    }

    fn readdir(&self, ino: Ino, after: Option<&Name>, limit: u32, with_attrs: bool) -> Result<Answer, Fail> {
        let dir = self.directory(ino)?;
        access::may(self.cred, &dir, READ)?;
        let limit = limit.clamp(1, MAX_READDIR) as usize;
        let (mut entries, mut end) = (Vec::new(), true);
        records::scan(self.view, keys::dirents(self.volume, ino, after), |key, value| {
            if entries.len() == limit {
                end = false;
                return Ok(ControlFlow::Break(()));
            }
            let dirent = records::born(key, value)?;
            let (_, rest) = keys::ino_and_rest(key).map_err(|err| records::damaged(key, &err))?;
            let name = keys::name_rest(rest).map_err(|err| records::damaged(key, &err))?;
            let name = Name::parse(Bytes::copy_from_slice(name))
                .map_err(|err| ViewError(format!("record {key:02x?}: {err}")))?;
            entries.push(ListedEntry { name, dirent, attr: None });
            Ok(ControlFlow::Continue(()))
        })?;
        // Names may be read by whoever may read the directory, what they stand for by whoever may search it.
        if with_attrs && access::verdict(self.cred, (&dir).into(), EXECUTE).is_allowed() {
            for entry in &mut entries {
                if let Dirent::Inode { ino, .. } = entry.dirent {
                    let inode = self.named_inode(ino)?;
                    entry.attr = Some(attr(self.volume, ino, &inode));
                }
            }
        }
        Ok(Answer::Entries { entries, end, dir: attr(self.volume, ino, &dir) })
    }

    fn readlink(&self, ino: Ino) -> Result<Answer, Fail> {
        let inode = self.inode(ino)?;
        if inode.kind != Kind::Symlink {
            return Err(Refusal::Invalid { why: "not a symbolic link".into() }.into());
        }
        Ok(Answer::Bytes(inode.target))
    }

    fn get_xattr(&self, ino: Ino, name: &XattrName) -> Result<Answer, Fail> {
        let inode = self.inode(ino)?;
        if let Some(list) = acl::which(name) {
            return acl::value(&inode, list).map(Answer::Bytes).ok_or_else(|| Refusal::NoXattr.into());
        }
        xattr::may_read(self.cred, &inode, name)?;
        // Most inodes have none, and the kernel asks for `security.capability` all the time.
        if inode.xattr_list == 0 {
            return Err(Refusal::NoXattr.into());
        }
        let value = records::xattr(self.view, self.volume, ino, name)?;
        value.map(Answer::Bytes).ok_or_else(|| Refusal::NoXattr.into())
    }

    fn list_xattr(&self, ino: Ino) -> Result<Answer, Fail> {
        let inode = self.inode(ino)?;
        let mut names = acl::names(&inode);
        if inode.xattr_list > 0 {
            records::scan(self.view, keys::xattrs(self.volume, ino), |key, _| {
                let (_, rest) = keys::ino_and_rest(key).map_err(|err| records::damaged(key, &err))?;
                let name = keys::name_rest(rest).map_err(|err| records::damaged(key, &err))?;
                if xattr::is_listed(self.cred, name) {
                    names.push(Bytes::copy_from_slice(name));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(Answer::Names(names))
    }
}
