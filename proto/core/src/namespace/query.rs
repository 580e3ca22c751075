//! Questions about a volume, answered from the records without changing them.

mod answer;

use bytes::Bytes;

pub(crate) use self::answer::answer;
use super::inode::{Attr, Dirent, Extent, SlotRef};
use crate::ids::{Ino, SlotId, SpaceId, VolumeId};
use crate::name::{Name, XattrName};

/// A question about one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// What a name stands for. `Found`. Needs search permission on the parent.
    Lookup { parent: Ino, name: Name },
    /// An inode's attributes. `Attr`.
    Getattr { ino: Ino },
    /// Attributes and the first part of the map, if the caller may read and/or write so. `Map`.
    Open { ino: Ino, read: bool, write: bool },
    /// Entries of a directory after a name, in name order. `Entries`. At most [`crate::limits::MAX_READDIR`].
    Readdir { dir: Ino, after: Option<Name>, limit: u32, with_attrs: bool },
    /// A symlink's target. `Bytes`.
    Readlink { ino: Ino },
    /// Extents that end after `offset`, in order, at most `limit` or [`crate::limits::MAX_MAP`]. `Map`.
    Map { ino: Ino, offset: u64, limit: u32 },
    /// An extended attribute's value. `Bytes`.
    GetXattr { ino: Ino, name: XattrName },
    /// Names of the extended attributes the caller may see. `Names`.
    ListXattr { ino: Ino },
    /// Use and limits of the volume. `Statfs`.
    Statfs,
    /// Whether the caller may do what `mask` says (4 read, 2 write, 1 execute). `Done`, or `Denied`.
    Access { ino: Ino, mask: u8 },
    /// Which volume a slot holds; asked of the group of the slot's space. `Slot`.
    Slot { space: SpaceId, slot: SlotId },
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Lookup`.
    Found(Found),
    /// To `Getattr`.
    Attr(Attr),
    /// To `Readdir`.
    Entries {
        /// In name order.
        entries: Vec<ListedEntry>,
        /// Whether the directory ends here.
        end: bool,
        /// The directory itself.
        dir: Attr,
    },
    /// To `Open` and `Map`.
    Map {
        /// The file.
        attr: Attr,
        /// In order of offset, without overlap; gaps are holes.
        extents: Vec<Extent>,
        /// Where to go on, if there are more.
        more_from: Option<u64>,
    },
    /// To `Readlink` and `GetXattr`.
    Bytes(Bytes),
    /// To `ListXattr`.
    Names(Vec<Bytes>),
    /// To `Statfs`.
    Statfs(VolumeUse),
    /// To `Slot`.
    Slot(VolumeId),
    /// To `Access`.
    Done,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An inode of the volume.
    Inode(Attr),
    /// A junction to another volume.
    Junction(SlotRef),
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its name; the cursor to go on from.
    pub name: Name,
    /// What it stands for.
    pub dirent: Dirent,
    /// Its attributes, if they were asked for and it is no junction.
    pub attr: Option<Attr>,
}

/// Use and limits of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUse {
    /// Bytes that extents hold.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Most bytes allowed; 0: no limit.
    pub max_bytes: u64,
    /// Most inodes allowed; 0: no limit.
    pub max_inodes: u64,
}
