//! Attributes, kinds, modes and times.

use weft_core::access::Acl;
use weft_core::ids::{SlotId, SpaceId, VolumeId};
use weft_core::namespace::inode::{Attr, Kind, SlotRef};
use weft_core::namespace::op::{SetAttr, SetTime};
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use super::ids::parse_ino;
use super::{invalid, need};
use crate::pb;

/// An inode's attributes as they are sent.
pub fn attr(attr: &Attr) -> pb::Attr {
    pb::Attr {
        volume: attr.volume.0,
        ino: attr.ino.0,
        kind: kind(attr.kind).into(),
        mode: attr.mode.into(),
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        allocated: attr.allocated,
        rdev: attr.rdev,
        atime: Some(time(attr.atime)),
        mtime: Some(time(attr.mtime)),
        ctime: Some(time(attr.ctime)),
        btime: Some(time(attr.btime)),
        generation: attr.generation,
        version: attr.version,
        parent: attr.parent.0,
        acl: attr.acl.as_ref().map(Acl::to_value),
        default_acl: attr.default_acl.as_ref().map(Acl::to_value),
    }
}

/// Checks and takes attributes.
///
/// # Errors
/// A field is missing or out of its range.
pub fn parse_attr(wire: Option<pb::Attr>) -> Result<Attr, Refusal> {
    let wire = need(wire, "attributes")?;
    Ok(Attr {
        volume: VolumeId(wire.volume),
        ino: parse_ino(wire.ino)?,
        kind: parse_kind(wire.kind)?,
        mode: parse_mode(wire.mode)?,
        uid: wire.uid,
        gid: wire.gid,
        nlink: wire.nlink,
        size: wire.size,
        allocated: wire.allocated,
        rdev: wire.rdev,
        atime: parse_time(need(wire.atime, "atime")?)?,
        mtime: parse_time(need(wire.mtime, "mtime")?)?,
        ctime: parse_time(need(wire.ctime, "ctime")?)?,
        btime: parse_time(need(wire.btime, "btime")?)?,
        generation: wire.generation,
        version: wire.version,
        parent: parse_ino(wire.parent)?,
        acl: wire.acl.map(parse_acl).transpose()?,
        default_acl: wire.default_acl.map(parse_acl).transpose()?,
    })
}

fn parse_acl(wire: bytes::Bytes) -> Result<Acl, Refusal> {
    Acl::parse(&wire).ok_or_else(|| invalid("not an access list"))
}

/// A time as it is sent.
pub fn time(time: Timestamp) -> pb::Time {
    pb::Time { secs: time.secs, nanos: time.nanos }
}

/// Checks and takes a time.
///
/// # Errors
/// A billion nanoseconds or more.
pub fn parse_time(wire: pb::Time) -> Result<Timestamp, Refusal> {
    if wire.nanos >= 1_000_000_000 {
        return Err(invalid(format!("{} nanoseconds are more than a second", wire.nanos)));
    }
    Ok(Timestamp { secs: wire.secs, nanos: wire.nanos })
}

pub(super) fn kind(kind: Kind) -> pb::Kind {
    match kind {
        Kind::File => pb::Kind::File,
        Kind::Directory => pb::Kind::Directory,
        Kind::Symlink => pb::Kind::Symlink,
        Kind::Fifo => pb::Kind::Fifo,
        Kind::Socket => pb::Kind::Socket,
        Kind::CharDevice => pb::Kind::CharDevice,
        Kind::BlockDevice => pb::Kind::BlockDevice,
    }
}

pub(super) fn parse_kind(wire: i32) -> Result<Kind, Refusal> {
    match pb::Kind::try_from(wire) {
        Ok(pb::Kind::File) => Ok(Kind::File),
        Ok(pb::Kind::Directory) => Ok(Kind::Directory),
        Ok(pb::Kind::Symlink) => Ok(Kind::Symlink),
        Ok(pb::Kind::Fifo) => Ok(Kind::Fifo),
        Ok(pb::Kind::Socket) => Ok(Kind::Socket),
        Ok(pb::Kind::CharDevice) => Ok(Kind::CharDevice),
        Ok(pb::Kind::BlockDevice) => Ok(Kind::BlockDevice),
        Ok(pb::Kind::Unspecified) | Err(_) => Err(invalid(format!("{wire} is no kind of file"))),
    }
}

pub(super) fn parse_mode(mode: u32) -> Result<u16, Refusal> {
    match u16::try_from(mode) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(invalid(format!("mode {mode:o} has other bits than permissions"))),
    }
}

pub(super) fn slot_ref(slot: SlotRef) -> pb::SlotRef {
    pb::SlotRef { space: slot.space.0, slot: slot.slot.0 }
}

pub(super) fn parse_slot_ref(wire: Option<pb::SlotRef>) -> Result<SlotRef, Refusal> {
    let wire = need(wire, "a slot")?;
    Ok(SlotRef { space: SpaceId(wire.space), slot: SlotId(wire.slot) })
}

/// `None` where nothing is set: most commits set nothing.
pub(super) fn set_attr(set: &SetAttr) -> Option<pb::SetAttr> {
    (*set != SetAttr::default()).then(|| pb::SetAttr {
        mode: set.mode.map(u32::from),
        uid: set.uid,
        gid: set.gid,
        atime: set.atime.map(set_time),
        mtime: set.mtime.map(set_time),
        ctime: set.ctime.map(set_time),
    })
}

pub(super) fn parse_set_attr(wire: Option<pb::SetAttr>) -> Result<SetAttr, Refusal> {
    let Some(wire) = wire else { return Ok(SetAttr::default()) };
    Ok(SetAttr {
        mode: wire.mode.map(parse_mode).transpose()?,
        uid: wire.uid,
        gid: wire.gid,
        atime: wire.atime.map(parse_set_time).transpose()?,
        mtime: wire.mtime.map(parse_set_time).transpose()?,
        ctime: wire.ctime.map(parse_set_time).transpose()?,
    })
}

fn set_time(set: SetTime) -> pb::SetTime {
    let to = match set {
        SetTime::Now => pb::set_time::Time::Now(pb::Now {}),
        SetTime::To(at) => pb::set_time::Time::To(time(at)),
    };
    pb::SetTime { time: Some(to) }
}

fn parse_set_time(wire: pb::SetTime) -> Result<SetTime, Refusal> {
    match need(wire.time, "which time to set")? {
        pb::set_time::Time::Now(pb::Now {}) => Ok(SetTime::Now),
        pb::set_time::Time::To(at) => Ok(SetTime::To(parse_time(at)?)),
    }
}
