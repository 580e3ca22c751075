//! A volume: the calls of POSIX on inode numbers.

use std::sync::Arc;

use bytes::Bytes;
use weft_core::entry::Cred;
use weft_core::ids::{Ino, ViewId, VolumeId};
use weft_core::name::{Name, XattrName};
use weft_core::namespace::inode::{Attr, Kind, SlotRef};
use weft_core::namespace::op::{AllocateMode, Op, RenameMode, SetAttr, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Found, ListedEntry, Query, VolumeUse};
use weft_core::site;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::file::{File, FileState};

/// A volume of the site. Cloning it is cheap. Every method takes the credentials on whose behalf it is made and fails
/// with what POSIX says for the call ([`Error::errno`]).
#[derive(Clone)]
pub struct Volume {
    pub(crate) client: Client,
    pub(crate) info: Arc<site::Volume>,
}

/// A part of a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In name order. Go on after the last one's name.
    pub entries: Vec<ListedEntry>,
    /// Whether the directory ends here.
    pub end: bool,
    /// The directory itself.
    pub dir: Attr,
}

/// What a rename did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The inode that moved, after it.
    pub attr: Attr,
    /// What the new name stood for before, after losing it: `nlink` 0 if that was its last.
    pub replaced: Option<Attr>,
}

impl Volume {
    /// Its id.
    pub fn id(&self) -> VolumeId {
        self.info.id
    }

    /// The high 24 bits of its inode numbers on mounts.
    pub fn view(&self) -> ViewId {
        self.info.view
    }

    /// What the site knows of it.
    pub fn info(&self) -> &site::Volume {
        &self.info
    }

    /// The client it belongs to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    // -- questions --

    /// What a name in a directory stands for.
    pub async fn lookup(&self, cred: &Cred, parent: Ino, name: Name) -> Result<Found> {
        match self.query(cred, &Query::Lookup { parent, name }).await? {
            Answer::Found(Found::Inode(attr)) => Ok(Found::Inode(self.merged(attr))),
            Answer::Found(junction) => Ok(junction),
            _ => Err(Error::unexpected("lookup")),
        }
    }

    /// An inode's attributes, with the size and times of what this client has written and not committed yet.
    pub async fn getattr(&self, cred: &Cred, ino: Ino) -> Result<Attr> {
        match self.query(cred, &Query::Getattr { ino }).await? {
            Answer::Attr(attr) => Ok(self.merged(attr)),
            _ => Err(Error::unexpected("getattr")),
        }
    }

    /// Up to `limit` entries of a directory after a name, in name order.
    pub async fn readdir(
        &self,
        cred: &Cred,
        dir: Ino,
        after: Option<Name>,
        limit: u32,
        with_attrs: bool,
    ) -> Result<Listing> {
        match self.query(cred, &Query::Readdir { dir, after, limit, with_attrs }).await? {
            Answer::Entries { mut entries, end, dir } => {
                for entry in &mut entries {
                    entry.attr = entry.attr.take().map(|attr| self.merged(attr));
                }
                Ok(Listing { entries, end, dir })
            }
            _ => Err(Error::unexpected("readdir")),
        }
    }

    /// A symbolic link's target.
    pub async fn readlink(&self, cred: &Cred, ino: Ino) -> Result<Bytes> {
        match self.query(cred, &Query::Readlink { ino }).await? {
            Answer::Bytes(target) => Ok(target),
            _ => Err(Error::unexpected("readlink")),
        }
    }

    /// An extended attribute's value.
    pub async fn get_xattr(&self, cred: &Cred, ino: Ino, name: XattrName) -> Result<Bytes> {
        match self.query(cred, &Query::GetXattr { ino, name }).await? {
            Answer::Bytes(value) => Ok(value),
            _ => Err(Error::unexpected("getxattr")),
        }
    }

    /// Names of an inode's extended attributes.
    pub async fn list_xattr(&self, cred: &Cred, ino: Ino) -> Result<Vec<Bytes>> {
        match self.query(cred, &Query::ListXattr { ino }).await? {
            Answer::Names(names) => Ok(names),
            _ => Err(Error::unexpected("listxattr")),
        }
    }

    /// Use and limits of the volume.
    pub async fn statfs(&self, cred: &Cred) -> Result<VolumeUse> {
        match self.query(cred, &Query::Statfs).await? {
            Answer::Statfs(used) => Ok(used),
            _ => Err(Error::unexpected("statfs")),
        }
    }

    /// Whether `cred` may do what `mask` says: 4 read, 2 write, 1 execute. EACCES if not.
    pub async fn access(&self, cred: &Cred, ino: Ino, mask: u8) -> Result<()> {
        match self.query(cred, &Query::Access { ino, mask }).await? {
            Answer::Done => Ok(()),
            _ => Err(Error::unexpected("access")),
        }
    }

    /// Makes durable what this client was answered below write leases, and what it wrote to files of the volume.
    ///
    /// # Errors
    /// Some of it is lost (told once), or can't be made durable within the deadline.
    pub async fn sync(&self) -> Result<()> {
        for file in self.client.shared.files.dirty(self.info.id) {
            file.settle().await?;
        }
        self.client.shared.settle_leases(self.info.id).await
    }

    // -- changes of the tree --

    /// Makes a directory.
    pub async fn mkdir(&self, cred: &Cred, parent: Ino, name: Name, mode: u16) -> Result<Attr> {
        self.created(cred, Op::Mkdir { parent, name, mode }).await.map(|(attr, _)| attr)
    }

    /// Makes a regular file without opening it. Without `exclusive` an existing one is returned, `false` beside it.
    pub async fn create(
        &self,
        cred: &Cred,
        parent: Ino,
        name: Name,
        mode: u16,
        exclusive: bool,
    ) -> Result<(Attr, bool)> {
        self.created(cred, Op::Create { parent, name, mode, exclusive }).await
    }

    /// Makes a file of any kind but directory and symbolic link.
    pub async fn mknod(&self, cred: &Cred, parent: Ino, name: Name, kind: Kind, mode: u16, rdev: u32) -> Result<Attr> {
        self.created(cred, Op::Mknod { parent, name, kind, mode, rdev }).await.map(|(attr, _)| attr)
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, cred: &Cred, parent: Ino, name: Name, target: Bytes) -> Result<Attr> {
        self.created(cred, Op::Symlink { parent, name, target }).await.map(|(attr, _)| attr)
    }

    /// Makes another name of a file. What this client wrote to it is durable before the name is there.
    pub async fn link(&self, cred: &Cred, ino: Ino, parent: Ino, name: Name) -> Result<Attr> {
        self.settle(ino).await?;
        self.attr(cred, Op::Link { ino, parent, name }).await
    }

    /// Removes a name of anything but a directory. Returns the inode after it: `nlink` 0 if that was its last name.
    pub async fn unlink(&self, cred: &Cred, parent: Ino, name: Name) -> Result<Attr> {
        self.removed(cred, Op::Unlink { parent, name }).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, cred: &Cred, parent: Ino, name: Name) -> Result<Attr> {
        self.removed(cred, Op::Rmdir { parent, name }).await
    }

    /// Moves a name. What this client wrote to the file is durable before the new name is there.
    pub async fn rename(
        &self,
        cred: &Cred,
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    ) -> Result<Renamed> {
        if !self.client.shared.files.dirty(self.info.id).is_empty()
            && let Found::Inode(attr) = self.lookup(cred, parent, name.clone()).await?
        {
            self.settle(attr.ino).await?;
        }
        match self.apply(cred, Op::Rename { parent, name, new_parent, new_name, mode }).await? {
            Outcome::Renamed { attr, replaced } => {
                Ok(Renamed { attr: self.merged(attr), replaced: replaced.map(|attr| self.merged(*attr)) })
            }
            _ => Err(Error::unexpected("rename")),
        }
    }

    /// Makes a junction: a name that stands for the root of the volume in a slot. Superuser only.
    pub async fn make_junction(&self, cred: &Cred, parent: Ino, name: Name, slot: SlotRef) -> Result<()> {
        self.apply(cred, Op::MakeJunction { parent, name, slot }).await.map(drop)
    }

    /// Removes a junction; the volume stays. Superuser only.
    pub async fn remove_junction(&self, cred: &Cred, parent: Ino, name: Name) -> Result<()> {
        self.apply(cred, Op::RemoveJunction { parent, name }).await.map(drop)
    }

    /// The volume a junction leads to.
    pub async fn follow(&self, slot: SlotRef) -> Result<Volume> {
        self.client.follow(slot).await
    }

    // -- changes of an inode --

    /// Sets attributes. For a file with written data not committed yet, they ride in its next commit.
    pub async fn setattr(&self, cred: &Cred, ino: Ino, set: SetAttr) -> Result<Attr> {
        if let Some(state) = self.open_state(ino)
            && state.is_dirty()
        {
            return state.setattr(cred, set).await;
        }
        self.attr(cred, Op::Setattr { ino, set }).await
    }

    /// Sets the size, and attributes with it.
    pub async fn truncate(&self, cred: &Cred, ino: Ino, size: u64, set: SetAttr) -> Result<Attr> {
        if let Some(state) = self.open_state(ino) {
            return state.truncate(cred, size, set, false).await;
        }
        self.attr(cred, Op::Truncate { ino, size, set, opened: false }).await
    }

    /// Reserves, punches or zeroes a span.
    pub async fn allocate(&self, cred: &Cred, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<Attr> {
        self.settle(ino).await?;
        self.attr(cred, Op::Allocate { ino, mode, offset, len }).await
    }

    /// Shares the bytes of a span of `source` in this volume with `target` in `target_volume`, which must be of the
    /// same space (EXDEV otherwise). Returns how many bytes were shared, fewer than asked at the source's end or the
    /// bound of one command, and the target's attributes.
    #[allow(clippy::too_many_arguments)]
    pub async fn copy_range(
        &self,
        cred: &Cred,
        source: Ino,
        source_offset: u64,
        target_volume: &Volume,
        target: Ino,
        target_offset: u64,
        len: u64,
    ) -> Result<(u64, Attr)> {
        self.settle(source).await?;
        target_volume.settle(target).await?;
        if self.info.id != target_volume.info.id {
            // The group reads the source as it has it.
            self.client.shared.push_leases(self.info.id).await?;
        }
        let op = Op::CopyRange { source_volume: self.info.id, source, source_offset, target, target_offset, len };
        match target_volume.apply(cred, op).await? {
            Outcome::Copied { len, attr } => Ok((len, target_volume.merged(attr))),
            _ => Err(Error::unexpected("copy_range")),
        }
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(&self, cred: &Cred, ino: Ino, name: XattrName, value: Bytes, mode: XattrMode) -> Result<()> {
        self.apply(cred, Op::SetXattr { ino, name, value, mode }).await.map(drop)
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(&self, cred: &Cred, ino: Ino, name: XattrName) -> Result<()> {
        self.apply(cred, Op::RemoveXattr { ino, name }).await.map(drop)
    }

    // -- files --

    /// Opens a regular file. EACCES unless `cred` may read and write as asked; rights are decided now, not at each
    /// call.
    pub async fn open(&self, cred: &Cred, ino: Ino, read: bool, write: bool) -> Result<File> {
        File::open(self, cred, ino, read, write).await
    }

    /// Makes a regular file, or without `exclusive` opens the one that is there, for reading and writing. Returns
    /// whether it is new.
    pub async fn create_file(
        &self,
        cred: &Cred,
        parent: Ino,
        name: Name,
        mode: u16,
        exclusive: bool,
    ) -> Result<(File, Attr, bool)> {
        File::create(self, cred, parent, name, mode, exclusive).await
    }

    /// Makes a regular file that has no name yet, in the place of one in `parent`, and opens it. [`Volume::link`] gives
    /// it a name; without one it goes when it is closed.
    pub async fn create_nameless(&self, cred: &Cred, parent: Ino, mode: u16) -> Result<(File, Attr)> {
        File::create_nameless(self, cred, parent, mode).await
    }

    // -- below --

    async fn apply(&self, cred: &Cred, op: Op) -> Result<Outcome> {
        self.client.shared.apply(self.info.space, cred, self.info.id, &op).await
    }

    async fn query(&self, cred: &Cred, query: &Query) -> Result<Answer> {
        self.client.shared.query(self.info.space, cred, self.info.id, query).await
    }

    /// The state of an inode that is open in this client.
    fn open_state(&self, ino: Ino) -> Option<Arc<FileState>> {
        self.client.shared.files.find(self.info.id, ino)
    }

    /// Commits what this client wrote to an inode.
    async fn settle(&self, ino: Ino) -> Result<()> {
        match self.open_state(ino) {
            Some(state) => state.settle().await,
            None => Ok(()),
        }
    }

    async fn created(&self, cred: &Cred, op: Op) -> Result<(Attr, bool)> {
        match self.apply(cred, op).await? {
            Outcome::Created { attr, fresh } => Ok((attr, fresh)),
            _ => Err(Error::unexpected("a creation")),
        }
    }

    async fn attr(&self, cred: &Cred, op: Op) -> Result<Attr> {
        match self.apply(cred, op).await? {
            Outcome::Attr(attr) => Ok(self.merged(attr)),
            _ => Err(Error::unexpected("a change of attributes")),
        }
    }

    async fn removed(&self, cred: &Cred, op: Op) -> Result<Attr> {
        match self.apply(cred, op).await? {
            Outcome::Removed { attr } => Ok(self.merged(attr)),
            _ => Err(Error::unexpected("a removal")),
        }
    }

    /// With what this client wrote to the inode and has not committed.
    fn merged(&self, attr: Attr) -> Attr {
        match self.open_state(attr.ino) {
            Some(state) => state.observe(attr),
            None => attr,
        }
    }
}
