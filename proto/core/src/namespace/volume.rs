//! A volume in its group.

use crate::codec::{self, Head};
use crate::ids::{Epoch, Ino, SlotId, SpaceId, VolumeId};
use crate::keys;
use crate::namespace::fail::Fail;
use crate::namespace::garbage;
use crate::namespace::inode::{Inode, Kind};
use crate::namespace::outcome::Outcome;
use crate::namespace::records;
use crate::namespace::tx::blank;
use crate::refusal::Refusal;
use crate::time::Timestamp;
use crate::view::Overlay;

/// Makes the records of a volume in its group: head, root directory, slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its space, which lives in this group.
    pub space: SpaceId,
    /// The slot that holds it.
    pub slot: SlotId,
    /// Mode of the root directory.
    pub mode: u16,
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
}

/// Makes the records; a volume that is there stays as it is, and one that was deleted stays deleted.
pub(crate) fn attach(out: &mut Overlay<'_>, now: Timestamp, attach: &AttachVolume) -> Result<Outcome, Fail> {
    if records::get::<Head>(out, &keys::head(attach.volume))?.is_some() {
        return Ok(Outcome::Done);
    }
    if records::get::<Option<Head>>(out, &keys::dropped(attach.volume))?.is_some() {
        return Err(Refusal::NoVolume { what: attach.volume.to_string() }.into());
    }
    // What its chunks were may be deleted by now.
    if garbage::is_gone(out, attach.space)? {
        return Err(Refusal::NoVolume { what: format!("of space {}, which is gone", attach.space) }.into());
    }
    let head = Head {
        space: attach.space,
        slot: attach.slot,
        epoch: Epoch(1),
        next_ino: Ino(Ino::ROOT.0 + 1),
        bytes: 0,
        inodes: 1,
        max_bytes: 0,
        max_inodes: 0,
    };
    let root = Inode {
        mode: attach.mode & 0o7777,
        uid: attach.uid,
        gid: attach.gid,
        nlink: 2,
        parent: Ino::ROOT,
        ..blank(Kind::Directory, now)
    };
    out.put(keys::inode(attach.volume, Ino::ROOT), codec::encode_born(head.epoch, &root));
    out.put(keys::head(attach.volume), codec::encode(&head));
    out.put(keys::slot(attach.space, attach.slot), codec::encode(&attach.volume));
    out.put(keys::space(attach.space), codec::encode(&true));
    Ok(Outcome::Done)
}

/// Sets a volume's limits.
pub(crate) fn set_quota(
    out: &mut Overlay<'_>,
    volume: VolumeId,
    max_bytes: u64,
    max_inodes: u64,
) -> Result<Outcome, Fail> {
    let head = records::head(out, volume)?;
    out.put(keys::head(volume), codec::encode(&Head { max_bytes, max_inodes, ..head }));
    Ok(Outcome::Done)
}
