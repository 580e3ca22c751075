//! Entries and every command in them.

use super::wire::{Code, CodecError, Reader, Writer, code_enum, code_new, code_struct};
use crate::entry::{Caller, Command, Cred, Entry};
use crate::ids::{
    ChunkId, ClientId, Epoch, GroupId, Incarnation, Ino, NodeId, PgEpoch, PgId, PrincipalId, ReplicaId, Seq, SiteId,
    SlotId, SpaceId, TenantId, ViewId, VolumeId,
};
use crate::name::{Name, XattrName};
use crate::namespace::compact::Piece;
use crate::namespace::inode::{Extent, ExtentBody, Kind, SlotRef};
use crate::namespace::op::{AllocateMode, Commit, Held, Op, RenameMode, SetAttr, SetTime, XattrMode};
use crate::namespace::step::Step;
use crate::namespace::volume::AttachVolume;
use crate::time::Timestamp;

code_new!(
    SiteId,
    NodeId,
    Incarnation,
    GroupId,
    VolumeId,
    SpaceId,
    SlotId,
    Ino,
    ViewId,
    ClientId,
    PgId,
    PgEpoch,
    Epoch,
    Seq,
    PrincipalId,
    TenantId,
);
code_struct!(ReplicaId { node, incarnation });
code_struct!(ChunkId { client, counter });
code_struct!(SlotRef { space, slot });

impl Code for Timestamp {
    fn put(&self, out: &mut Writer) {
        self.secs.put(out);
        self.nanos.put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let time = Timestamp { secs: Code::take(from)?, nanos: Code::take(from)? };
        if time.nanos < 1_000_000_000 { Ok(time) } else { Err(CodecError::Invalid("time")) }
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        Timestamp { secs: dice.number() as i64, nanos: dice.below(1_000_000_000) as u32 }
    }
}

impl Code for Name {
    fn put(&self, out: &mut Writer) {
        self.to_bytes().put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Name::parse(bytes::Bytes::take(from)?).map_err(|_| CodecError::Invalid("name"))
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        Name::parse(format!("name {}", dice.below(100)).into_bytes()).expect("a good name")
    }
}

impl Code for XattrName {
    fn put(&self, out: &mut Writer) {
        self.to_bytes().put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        XattrName::parse(bytes::Bytes::take(from)?).map_err(|_| CodecError::Invalid("attribute name"))
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        XattrName::parse(format!("user.{}", dice.below(100)).into_bytes()).expect("a good name")
    }
}

code_struct!(Entry { time, caller, command });
code_struct!(Caller { client, space, seq, acked_below, cred });
code_struct!(Cred { uid, gid, gids, pid, umask, principal, tenant });
code_enum!(Command {
    1 => Site(command),
    2 => OpenSession { client, space },
    3 => EndSession { client, space },
    4 => AttachVolume(attach),
    5 => Op { volume, op },
    6 => Step(step),
    7 => RaiseFeatureLevel(level),
    8 => SetQuota { volume, max_bytes, max_inodes },
    9 => Revoke { volume, dir, client },
    50 => Mark(mark),
    70 => NameNoneBelow { client, space, counter },
    80 => OwnSession { client, space, owner },
});
code_struct!(AttachVolume { volume, space, slot, mode, uid, gid });
code_enum!(Step {
    1 => ReapOrphans { volume, inos },
    2 => FinishCut { volume, ino },
    3 => ForgetFreed { space, chunks },
    50 => DropVolume { volume },
    70 => Compact { volume, ino, chunk, pg, pieces },
});
code_struct!(Piece { offset, len, sum });

code_enum!(Op {
    1 => Mkdir { parent, name, mode },
    2 => Create { parent, name, mode, exclusive },
    3 => Mknod { parent, name, kind, mode, rdev },
    4 => Symlink { parent, name, target },
    5 => Link { ino, parent, name },
    6 => Unlink { parent, name },
    7 => Rmdir { parent, name },
    8 => Rename { parent, name, new_parent, new_name, mode },
    9 => Setattr { ino, set },
    10 => Truncate { ino, size, set, opened },
    11 => Commit(commit),
    12 => Allocate { ino, mode, offset, len },
    13 => CopyRange { source_volume, source, source_offset, target, target_offset, len },
    14 => SetXattr { ino, name, value, mode },
    15 => RemoveXattr { ino, name },
    16 => MakeJunction { parent, name, slot },
    17 => RemoveJunction { parent, name },
    18 => Lease { dir, numbers },
    19 => Held { items, give_up },
    90 => Tmpfile { parent, mode },
});
impl Code for Held {
    fn put(&self, out: &mut Writer) {
        let Held { root, new_ino, time, cred, op } = self;
        root.put(out);
        new_ino.put(out);
        time.put(out);
        cred.put(out);
        op.put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (root, new_ino) = Code::take(from)?;
        let (time, cred) = Code::take(from)?;
        // Before it is taken: lists in lists could be deeper than the stack.
        if from.peek().is_some_and(|tag| tag >= LEASE_TAG) {
            return Err(CodecError::Invalid("held-back change"));
        }
        Ok(Held { root, new_ino, time, cred, op: Code::take(from)? })
    }

    #[cfg(test)]
    fn any(dice: &mut super::tests::Dice) -> Self {
        let op = Op::Unlink { parent: Code::any(dice), name: Code::any(dice) };
        Held { root: Code::any(dice), new_ino: Code::any(dice), time: Code::any(dice), cred: Code::any(dice), op }
    }
}

/// Operations from this tag on are about leases and are not held back themselves.
const LEASE_TAG: u8 = 18;

code_enum!(RenameMode { 1 => Replace, 2 => NoReplace, 3 => Exchange });
code_struct!(SetAttr { mode, uid, gid, atime, mtime, ctime });
code_enum!(SetTime { 1 => Now, 2 => To(time) });
code_struct!(Commit { ino, extents, size_at_least, mtime, set, clear_suid });
code_enum!(AllocateMode { 1 => Reserve, 2 => ReserveKeepSize, 3 => PunchHole, 4 => ZeroRange, 5 => ZeroRangeKeepSize });
code_enum!(XattrMode { 1 => Set, 2 => Create, 3 => Replace });

code_enum!(Kind { 1 => File, 2 => Directory, 3 => Symlink, 4 => Fifo, 5 => Socket, 6 => CharDevice, 7 => BlockDevice });
code_struct!(Extent { offset, len, body });
code_enum!(ExtentBody { 1 => Chunk { chunk, pg, at, chunk_len }, 2 => Inline(bytes), 3 => Zero });
