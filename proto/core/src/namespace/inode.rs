//! What the records of a volume hold.

use bytes::Bytes;

use crate::access::Acl;
use crate::ids::{ChunkId, Ino, PgId, SlotId, SpaceId, VolumeId};
use crate::time::Timestamp;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// An inode's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky, `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Names of it; for a directory 2 and one for each directory in it. 0: an orphan.
    pub nlink: u32,
    /// Bytes to its end; for a symlink the target's length; for a directory the number of its entries.
    pub size: u64,
    /// Bytes that extent records of the present generation hold, with those beyond a cut until a step removes them.
    pub allocated: u64,
    /// Extent records of bytes among those of the present generation ([`crate::namespace::compact`]).
    pub small: u32,
    /// Device number of a device, as `makedev` packs it.
    pub rdev: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Bytes that listxattr would return to the superuser, a NUL after each name.
    pub xattr_list: u32,
    /// Map generation: extents of another one are gone. Rises when a file is cut to nothing.
    pub generation: u32,
    /// Extents of the present generation beyond this byte are gone, though a step has yet to remove them.
    pub cut_at: Option<u64>,
    /// Rises with every change of content, so that caches can tell whether theirs is current.
    pub version: u64,
    /// A directory's parent (the root's is itself), for the loop check and `..`; unused otherwise.
    pub parent: Ino,
    /// A symlink's target; empty otherwise.
    pub target: Bytes,
    /// The access list, where the mode does not say all.
    pub acl: Option<Acl>,
    /// A directory's default list.
    pub default_acl: Option<Acl>,
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dirent {
    /// An inode of the same volume.
    Inode {
        /// Which.
        ino: Ino,
        /// What it is, so that listings need not look.
        kind: Kind,
    },
    /// A junction: the root of whatever volume the slot holds.
    Junction(SlotRef),
}

/// A slot, and the space whose group keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotRef {
    /// The space.
    pub space: SpaceId,
    /// The slot.
    pub slot: SlotId,
}

/// Bytes `offset..offset + len` of a file. Never longer than [`crate::limits::MAX_EXTENT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes, at least 1.
    pub len: u32,
    /// Where they are.
    pub body: ExtentBody,
}

/// Where an extent's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtentBody {
    /// A piece of a chunk.
    Chunk {
        /// Which.
        chunk: ChunkId,
        /// Where its replicas are.
        pg: PgId,
        /// First byte of the piece in the chunk.
        at: u32,
        /// Bytes of the whole chunk.
        chunk_len: u32,
    },
    /// In the record itself; exactly `len` of them, at most [`crate::limits::MAX_INLINE`].
    Inline(Bytes),
    /// Zeroes that count as allocated (fallocate).
    Zero,
}

/// What stat shows, and what caches need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Of which volume.
    pub volume: VolumeId,
    /// Its number there.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Names of it.
    pub nlink: u32,
    /// As in [`Inode::size`].
    pub size: u64,
    /// As in [`Inode::allocated`].
    pub allocated: u64,
    /// As in [`Inode::rdev`].
    pub rdev: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// As in [`Inode::generation`].
    pub generation: u32,
    /// As in [`Inode::version`].
    pub version: u64,
    /// As in [`Inode::parent`].
    pub parent: Ino,
    /// As in [`Inode::acl`].
    pub acl: Option<Acl>,
    /// As in [`Inode::default_acl`].
    pub default_acl: Option<Acl>,
}
