//! Changes and what came of them.

use bytes::Bytes;
use weft_core::codec;
use weft_core::ids::{GroupId, VolumeId};
use weft_core::limits::{MAX_COMMIT_EXTENTS, MAX_FILE, MAX_SYMLINK, MAX_XATTR_VALUE};
use weft_core::name::{Name, XattrName};
use weft_core::namespace::op::{AllocateMode, Commit, Op, RenameMode, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;

use super::attr::{
    attr, kind, parse_attr, parse_kind, parse_mode, parse_set_attr, parse_slot_ref, parse_time, set_attr, slot_ref,
    time,
};
use super::envelope::{Envelope, parse_envelope};
use super::extent::{extent, parse_extent};
use super::ids::parse_ino;
use super::{garbled, invalid, need};
use crate::pb::{self, apply_reply::Outcome as WireOutcome, apply_request::Op as WireOp};

/// A change as its server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedApply {
    /// Who asks, and in which session.
    pub envelope: Envelope,
    /// The group that should lead here.
    pub group: GroupId,
    /// The volume to change.
    pub volume: VolumeId,
    /// The change.
    pub op: Op,
}

/// A change as it is sent.
pub fn apply_request(envelope: Envelope, group: GroupId, volume: VolumeId, op: &Op) -> pb::ApplyRequest {
    pb::ApplyRequest { envelope: Some(envelope.to_wire()), group: group.0, volume: volume.0, op: Some(wire_op(op)) }
}

/// Checks and takes a change.
///
/// # Errors
/// Whatever is wrong with it: see [`super::parse_envelope`], [`Name::parse`], the limits.
pub fn parse_apply(wire: pb::ApplyRequest) -> Result<ParsedApply, Refusal> {
    Ok(ParsedApply {
        envelope: parse_envelope(wire.envelope)?,
        group: GroupId(wire.group),
        volume: VolumeId(wire.volume),
        op: parse_op(need(wire.op, "an operation known here")?)?,
    })
}

/// What came of a change, as it is sent. The outcomes of background steps and of the system group are not for clients
/// and have no form here: they give an empty reply, which [`parse_apply_reply`] refuses.
pub fn apply_reply(outcome: &Outcome) -> pb::ApplyReply {
    let outcome = match outcome {
        Outcome::Done => Some(WireOutcome::Done(pb::Done {})),
        Outcome::Created { attr: made, fresh } => {
            Some(WireOutcome::Created(pb::Created { attr: Some(attr(made)), fresh: *fresh }))
        }
        Outcome::Attr(after) => Some(WireOutcome::Attr(attr(after))),
        Outcome::Removed { attr: after } => Some(WireOutcome::Removed(pb::Removed { attr: Some(attr(after)) })),
        Outcome::Renamed { attr: moved, replaced } => {
            Some(WireOutcome::Renamed(pb::Renamed { attr: Some(attr(moved)), replaced: replaced.as_deref().map(attr) }))
        }
        Outcome::Copied { len, attr: after } => {
            Some(WireOutcome::Copied(pb::Copied { len: *len, attr: Some(attr(after)) }))
        }
        Outcome::Leased { first, dir, now } => {
            Some(WireOutcome::Leased(pb::Leased { first: first.0, dir: Some(attr(dir)), now: Some(time(*now)) }))
        }
        Outcome::Held { refused } => Some(WireOutcome::Held(pb::HeldMade { refused: codec::encode_refused(refused) })),
        Outcome::Stepped { .. } | Outcome::Site(_) => None,
    };
    pb::ApplyReply { outcome }
}

/// Checks and takes what came of a change.
///
/// # Errors
/// [`Refusal::Unknown`] if it can't be understood.
pub fn parse_apply_reply(wire: pb::ApplyReply) -> Result<Outcome, Refusal> {
    parse_outcome(wire).map_err(garbled)
}

fn parse_outcome(wire: pb::ApplyReply) -> Result<Outcome, Refusal> {
    Ok(match need(wire.outcome, "an outcome known here")? {
        WireOutcome::Done(pb::Done {}) => Outcome::Done,
        WireOutcome::Created(made) => Outcome::Created { attr: parse_attr(made.attr)?, fresh: made.fresh },
        WireOutcome::Attr(after) => Outcome::Attr(parse_attr(Some(after))?),
        WireOutcome::Removed(removed) => Outcome::Removed { attr: parse_attr(removed.attr)? },
        WireOutcome::Renamed(renamed) => Outcome::Renamed {
            attr: parse_attr(renamed.attr)?,
            replaced: renamed.replaced.map(|replaced| parse_attr(Some(replaced)).map(Box::new)).transpose()?,
        },
        WireOutcome::Copied(copied) => Outcome::Copied { len: copied.len, attr: parse_attr(copied.attr)? },
        WireOutcome::Leased(leased) => Outcome::Leased {
            first: parse_ino(leased.first)?,
            dir: parse_attr(leased.dir)?,
            now: parse_time(need(leased.now, "a time")?)?,
        },
        WireOutcome::Held(made) => Outcome::Held {
            refused: codec::decode_refused(&made.refused)
                .map_err(|error| invalid(format!("the list of refused changes: {error}")))?,
        },
    })
}

fn wire_op(op: &Op) -> WireOp {
    match op {
        Op::Mkdir { parent, name, mode } => {
            WireOp::Mkdir(pb::Mkdir { parent: parent.0, name: name.to_bytes(), mode: (*mode).into() })
        }
        Op::Tmpfile { parent, mode } => WireOp::Tmpfile(pb::Tmpfile { parent: parent.0, mode: u32::from(*mode) }),
        Op::Create { parent, name, mode, exclusive } => WireOp::Create(pb::Create {
            parent: parent.0,
            name: name.to_bytes(),
            mode: (*mode).into(),
            exclusive: *exclusive,
        }),
        Op::Mknod { parent, name, kind: of, mode, rdev } => WireOp::Mknod(pb::Mknod {
            parent: parent.0,
            name: name.to_bytes(),
            kind: kind(*of).into(),
            mode: (*mode).into(),
            rdev: *rdev,
        }),
        Op::Symlink { parent, name, target } => {
            WireOp::Symlink(pb::Symlink { parent: parent.0, name: name.to_bytes(), target: target.clone() })
        }
        Op::Link { ino, parent, name } => {
            WireOp::Link(pb::Link { ino: ino.0, parent: parent.0, name: name.to_bytes() })
        }
        Op::Unlink { parent, name } => WireOp::Unlink(pb::Unlink { parent: parent.0, name: name.to_bytes() }),
        Op::Rmdir { parent, name } => WireOp::Rmdir(pb::Rmdir { parent: parent.0, name: name.to_bytes() }),
        Op::Rename { parent, name, new_parent, new_name, mode } => WireOp::Rename(pb::Rename {
            parent: parent.0,
            name: name.to_bytes(),
            new_parent: new_parent.0,
            new_name: new_name.to_bytes(),
            mode: rename_mode(*mode).into(),
        }),
        Op::Setattr { ino, set } => WireOp::Setattr(pb::Setattr { ino: ino.0, set: set_attr(set) }),
        Op::Truncate { ino, size, set, opened } => {
            WireOp::Truncate(pb::Truncate { ino: ino.0, size: *size, set: set_attr(set), opened: *opened })
        }
        Op::Commit(commit) => WireOp::Commit(pb::Commit {
            ino: commit.ino.0,
            extents: commit.extents.iter().map(extent).collect(),
            size_at_least: commit.size_at_least,
            mtime: commit.mtime.map(time),
            set: set_attr(&commit.set),
            clear_suid: commit.clear_suid,
        }),
        Op::Allocate { ino, mode, offset, len } => {
            WireOp::Allocate(pb::Allocate { ino: ino.0, mode: allocate_mode(*mode).into(), offset: *offset, len: *len })
        }
        Op::CopyRange { source_volume, source, source_offset, target, target_offset, len } => {
            WireOp::CopyRange(pb::CopyRange {
                source_volume: source_volume.0,
                source: source.0,
                source_offset: *source_offset,
                target: target.0,
                target_offset: *target_offset,
                len: *len,
            })
        }
        Op::SetXattr { ino, name, value, mode } => WireOp::SetXattr(pb::SetXattr {
            ino: ino.0,
            name: name.to_bytes(),
            value: value.clone(),
            mode: xattr_mode(*mode).into(),
        }),
        Op::RemoveXattr { ino, name } => WireOp::RemoveXattr(pb::RemoveXattr { ino: ino.0, name: name.to_bytes() }),
        Op::MakeJunction { parent, name, slot } => WireOp::MakeJunction(pb::MakeJunction {
            parent: parent.0,
            name: name.to_bytes(),
            slot: Some(slot_ref(*slot)),
        }),
        Op::RemoveJunction { parent, name } => {
            WireOp::RemoveJunction(pb::RemoveJunction { parent: parent.0, name: name.to_bytes() })
        }
        Op::Lease { dir, numbers } => WireOp::Lease(pb::Lease { dir: dir.0, numbers: *numbers }),
        Op::Held { items, give_up } => WireOp::Held(pb::Held {
            items: codec::encode_held(items),
            give_up: give_up.iter().map(|dir| dir.0).collect(),
        }),
    }
}

fn parse_op(wire: WireOp) -> Result<Op, Refusal> {
    Ok(match wire {
        WireOp::Mkdir(pb::Mkdir { parent, name, mode }) => {
            Op::Mkdir { parent: parse_ino(parent)?, name: Name::parse(name)?, mode: parse_mode(mode)? }
        }
        WireOp::Tmpfile(pb::Tmpfile { parent, mode }) => {
            Op::Tmpfile { parent: parse_ino(parent)?, mode: parse_mode(mode)? }
        }
        WireOp::Create(pb::Create { parent, name, mode, exclusive }) => {
            Op::Create { parent: parse_ino(parent)?, name: Name::parse(name)?, mode: parse_mode(mode)?, exclusive }
        }
        WireOp::Mknod(pb::Mknod { parent, name, kind, mode, rdev }) => Op::Mknod {
            parent: parse_ino(parent)?,
            name: Name::parse(name)?,
            kind: parse_kind(kind)?,
            mode: parse_mode(mode)?,
            rdev,
        },
        WireOp::Symlink(pb::Symlink { parent, name, target }) => {
            Op::Symlink { parent: parse_ino(parent)?, name: Name::parse(name)?, target: parse_target(target)? }
        }
        WireOp::Link(pb::Link { ino, parent, name }) => {
            Op::Link { ino: parse_ino(ino)?, parent: parse_ino(parent)?, name: Name::parse(name)? }
        }
        WireOp::Unlink(pb::Unlink { parent, name }) => {
            Op::Unlink { parent: parse_ino(parent)?, name: Name::parse(name)? }
        }
        WireOp::Rmdir(pb::Rmdir { parent, name }) => Op::Rmdir { parent: parse_ino(parent)?, name: Name::parse(name)? },
        WireOp::Rename(pb::Rename { parent, name, new_parent, new_name, mode }) => Op::Rename {
            parent: parse_ino(parent)?,
            name: Name::parse(name)?,
            new_parent: parse_ino(new_parent)?,
            new_name: Name::parse(new_name)?,
            mode: parse_rename_mode(mode)?,
        },
        WireOp::Setattr(pb::Setattr { ino, set }) => Op::Setattr { ino: parse_ino(ino)?, set: parse_set_attr(set)? },
        WireOp::Truncate(pb::Truncate { ino, size, set, opened }) => {
            Op::Truncate { ino: parse_ino(ino)?, size: parse_size(size)?, set: parse_set_attr(set)?, opened }
        }
        WireOp::Commit(commit) => Op::Commit(parse_commit(commit)?),
        WireOp::Allocate(pb::Allocate { ino, mode, offset, len }) => {
            Op::Allocate { ino: parse_ino(ino)?, mode: parse_allocate_mode(mode)?, offset, len }
        }
        WireOp::CopyRange(pb::CopyRange { source_volume, source, source_offset, target, target_offset, len }) => {
            Op::CopyRange {
                source_volume: VolumeId(source_volume),
                source: parse_ino(source)?,
                source_offset,
                target: parse_ino(target)?,
                target_offset,
                len,
            }
        }
        WireOp::SetXattr(pb::SetXattr { ino, name, value, mode }) => {
            let (ino, name) = (parse_ino(ino)?, XattrName::parse(name)?);
            if value.len() > MAX_XATTR_VALUE {
                return Err(Refusal::XattrTooBig { len: value.len() as u64 });
            }
            Op::SetXattr { ino, name, value, mode: parse_xattr_mode(mode)? }
        }
        WireOp::RemoveXattr(pb::RemoveXattr { ino, name }) => {
            Op::RemoveXattr { ino: parse_ino(ino)?, name: XattrName::parse(name)? }
        }
        WireOp::MakeJunction(pb::MakeJunction { parent, name, slot }) => {
            Op::MakeJunction { parent: parse_ino(parent)?, name: Name::parse(name)?, slot: parse_slot_ref(slot)? }
        }
        WireOp::RemoveJunction(pb::RemoveJunction { parent, name }) => {
            Op::RemoveJunction { parent: parse_ino(parent)?, name: Name::parse(name)? }
        }
        WireOp::Lease(pb::Lease { dir, numbers }) => Op::Lease { dir: parse_ino(dir)?, numbers },
        WireOp::Held(pb::Held { items, give_up }) => Op::Held {
            items: codec::decode_held(&items).map_err(|error| invalid(format!("held-back changes: {error}")))?,
            give_up: give_up.into_iter().map(parse_ino).collect::<Result<_, _>>()?,
        },
    })
}

fn parse_commit(wire: pb::Commit) -> Result<Commit, Refusal> {
    if wire.extents.len() > MAX_COMMIT_EXTENTS {
        return Err(Refusal::TooLarge {
            what: "list of extents in a commit".into(),
            size: wire.extents.len() as u64,
            limit: MAX_COMMIT_EXTENTS as u64,
        });
    }
    Ok(Commit {
        ino: parse_ino(wire.ino)?,
        extents: wire.extents.into_iter().map(parse_extent).collect::<Result<_, _>>()?,
        size_at_least: parse_size(wire.size_at_least)?,
        mtime: wire.mtime.map(parse_time).transpose()?,
        set: parse_set_attr(wire.set)?,
        clear_suid: wire.clear_suid,
    })
}

fn parse_size(size: u64) -> Result<u64, Refusal> {
    if size > MAX_FILE { Err(Refusal::FileTooBig { size }) } else { Ok(size) }
}

fn parse_target(target: Bytes) -> Result<Bytes, Refusal> {
    if target.is_empty() || target.contains(&0) {
        return Err(invalid("a symbolic link's target must not be empty or hold NUL"));
    }
    if target.len() > MAX_SYMLINK {
        return Err(Refusal::NameTooLong { len: target.len() as u64 });
    }
    Ok(target)
}

fn rename_mode(mode: RenameMode) -> pb::RenameMode {
    match mode {
        RenameMode::Replace => pb::RenameMode::Replace,
        RenameMode::NoReplace => pb::RenameMode::NoReplace,
        RenameMode::Exchange => pb::RenameMode::Exchange,
    }
}

fn parse_rename_mode(wire: i32) -> Result<RenameMode, Refusal> {
    match pb::RenameMode::try_from(wire) {
        Ok(pb::RenameMode::Replace) => Ok(RenameMode::Replace),
        Ok(pb::RenameMode::NoReplace) => Ok(RenameMode::NoReplace),
        Ok(pb::RenameMode::Exchange) => Ok(RenameMode::Exchange),
        Err(_) => Err(invalid(format!("{wire} is no way to rename"))),
    }
}

fn allocate_mode(mode: AllocateMode) -> pb::AllocateMode {
    match mode {
        AllocateMode::Reserve => pb::AllocateMode::Reserve,
        AllocateMode::ReserveKeepSize => pb::AllocateMode::ReserveKeepSize,
        AllocateMode::PunchHole => pb::AllocateMode::PunchHole,
        AllocateMode::ZeroRange => pb::AllocateMode::ZeroRange,
        AllocateMode::ZeroRangeKeepSize => pb::AllocateMode::ZeroRangeKeepSize,
    }
}

fn parse_allocate_mode(wire: i32) -> Result<AllocateMode, Refusal> {
    match pb::AllocateMode::try_from(wire) {
        Ok(pb::AllocateMode::Reserve) => Ok(AllocateMode::Reserve),
        Ok(pb::AllocateMode::ReserveKeepSize) => Ok(AllocateMode::ReserveKeepSize),
        Ok(pb::AllocateMode::PunchHole) => Ok(AllocateMode::PunchHole),
        Ok(pb::AllocateMode::ZeroRange) => Ok(AllocateMode::ZeroRange),
        Ok(pb::AllocateMode::ZeroRangeKeepSize) => Ok(AllocateMode::ZeroRangeKeepSize),
        Err(_) => Err(invalid(format!("{wire} is no way to allocate"))),
    }
}

fn xattr_mode(mode: XattrMode) -> pb::XattrMode {
    match mode {
        XattrMode::Set => pb::XattrMode::Set,
        XattrMode::Create => pb::XattrMode::Create,
        XattrMode::Replace => pb::XattrMode::Replace,
    }
}

fn parse_xattr_mode(wire: i32) -> Result<XattrMode, Refusal> {
    match pb::XattrMode::try_from(wire) {
        Ok(pb::XattrMode::Set) => Ok(XattrMode::Set),
        Ok(pb::XattrMode::Create) => Ok(XattrMode::Create),
        Ok(pb::XattrMode::Replace) => Ok(XattrMode::Replace),
        Err(_) => Err(invalid(format!("{wire} is no way to set an attribute"))),
    }
}
