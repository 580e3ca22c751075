//! Records of a meta group.

use bytes::Bytes;

use super::wire::{code_enum, code_struct};
use crate::ids::{ClientId, Epoch, Ino, PgId, PrincipalId, Seq, SlotId, SpaceId};
use crate::namespace::inode::{Dirent, Inode};

/// The head of a volume: what its operations share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its space.
    pub(crate) space: SpaceId,
    /// The slot it was attached to.
    pub(crate) slot: SlotId,
    /// Its snapshot counter.
    pub(crate) epoch: Epoch,
    /// The number its next inode gets.
    pub(crate) next_ino: Ino,
    /// The sum of `allocated` over its inodes.
    pub(crate) bytes: u64,
    /// Its inodes, orphans among them.
    pub(crate) inodes: u64,
    /// 0: no limit.
    pub(crate) max_bytes: u64,
    /// 0: no limit.
    pub(crate) max_inodes: u64,
}

code_struct!(Head { space, slot, epoch, next_ino, bytes, inodes, max_bytes, max_inodes });

/// A session of a client in a space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Replies below are forgotten.
    pub(crate) acked_below: Seq,
    /// A tombstone: its requests are refused for ever.
    pub(crate) ended: bool,
    /// Who opened it, and alone may ask in it; 0: anybody, in a site in plain text.
    pub(crate) owner: PrincipalId,
}

code_struct!(Session { acked_below, ended, owner });

/// The reply to one request of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredReply {
    /// To which.
    pub(crate) seq: Seq,
    /// As [`super::encode_reply`] wrote it.
    pub(crate) reply: Bytes,
}

code_struct!(StoredReply { seq, reply });

/// A write lease on a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Who holds it.
    pub(crate) client: ClientId,
    /// The session's space.
    pub(crate) space: SpaceId,
}

code_struct!(Lease { client, space });

/// How often a chunk is named, and what whoever deletes it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkRef {
    /// Extent records of the space that name it; 0 in a record of the freed.
    pub(crate) count: u64,
    /// Where its replicas are.
    pub(crate) pg: PgId,
    /// Bytes of the whole chunk.
    pub(crate) len: u32,
}

code_struct!(ChunkRef { count, pg, len });

code_struct!(Inode {
    kind,
    mode,
    uid,
    gid,
    nlink,
    size,
    allocated,
    rdev,
    atime,
    mtime,
    ctime,
    btime,
    xattr_list,
    generation,
    cut_at,
    version,
    parent,
    target,
});
code_enum!(Dirent { 1 => Inode { ino, kind }, 2 => Junction(slot) });
