//! Records of a meta group.

use bytes::Bytes;

use super::wire::{Code, CodecError, Reader, Writer, code_enum, code_struct};
use crate::access::Acl;
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
    /// Chunks of the session with a lower counter are never named for the first time any more.
    pub(crate) named_below: u64,
    /// Who opened it, and alone may ask in it; 0: anybody, in a site in plain text.
    pub(crate) owner: PrincipalId,
}

code_struct!(Session { acked_below, ended, named_below, owner });

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
    small,
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
    acl,
    default_acl,
});
code_enum!(Dirent { 1 => Inode { ino, kind }, 2 => Junction(slot) });

/// As the extended attribute has it, with its entries in order.
impl Code for Acl {
    fn put(&self, out: &mut Writer) {
        self.to_value().put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let value = Bytes::take(from)?;
        // What is tolerated from programs, as entries in another order, is never written here.
        Acl::parse(&value).filter(|acl| acl.to_value() == value).ok_or(CodecError::Invalid("access list"))
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, id) in [(1u16, u32::MAX), (2, 1000), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)] {
            value.extend(tag.to_le_bytes());
            value.extend((dice.below(8) as u16).to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        Acl::parse(&value).expect("a good list")
    }
}
