//! What a client may ask to change in a volume. One file per operation under `ops/` says what each does.

use bytes::Bytes;

use super::inode::{Extent, Kind, SlotRef};
pub use super::lease::Held;
use crate::ids::{Ino, VolumeId};
use crate::name::{Name, XattrName};
use crate::time::Timestamp;

/// A change of one volume. Outcomes are named at each; refusals are those of POSIX for the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a directory. `Created`.
    Mkdir { parent: Ino, name: Name, mode: u16 },
    /// Makes a regular file. Without `exclusive` an existing regular file is the outcome, `fresh: false`. `Created`.
    Create { parent: Ino, name: Name, mode: u16, exclusive: bool },
    /// Makes a regular file without a name, owned as one in `parent` would be. `Created`.
    Tmpfile { parent: Ino, mode: u16 },
    /// Makes a file of any kind but directory and symlink. `Created`.
    Mknod { parent: Ino, name: Name, kind: Kind, mode: u16, rdev: u32 },
    /// Makes a symbolic link. `Created`.
    Symlink { parent: Ino, name: Name, target: Bytes },
    /// Makes another name of a file. `Attr`.
    Link { ino: Ino, parent: Ino, name: Name },
    /// Removes a name of anything but a directory. `Removed`.
    Unlink { parent: Ino, name: Name },
    /// Removes an empty directory. `Removed`.
    Rmdir { parent: Ino, name: Name },
    /// Moves a name; what it replaces loses that name. `Renamed`.
    Rename { parent: Ino, name: Name, new_parent: Ino, new_name: Name, mode: RenameMode },
    /// Sets attributes. `Attr`.
    Setattr { ino: Ino, set: SetAttr },
    /// Sets the size, and attributes with it. `opened`: the caller holds the file open for writing (ftruncate, or an
    /// open with `O_TRUNC`), so the check was made at open and mode bits are not asked again. `Attr`.
    Truncate { ino: Ino, size: u64, set: SetAttr, opened: bool },
    /// Puts written data into a file's map: later extents of the list lie over earlier ones. `Attr`.
    Commit(Commit),
    /// Reserves, punches or zeroes a span. `Attr`.
    Allocate { ino: Ino, mode: AllocateMode, offset: u64, len: u64 },
    /// Shares the bytes of one file's span with another's, of the same space. May copy less than asked. `Copied`.
    CopyRange { source_volume: VolumeId, source: Ino, source_offset: u64, target: Ino, target_offset: u64, len: u64 },
    /// Sets an extended attribute. `Done`.
    SetXattr { ino: Ino, name: XattrName, value: Bytes, mode: XattrMode },
    /// Removes an extended attribute. `Done`.
    RemoveXattr { ino: Ino, name: XattrName },
    /// Makes a junction: a name that stands for the root of the volume in a slot. Superuser only. `Done`.
    MakeJunction { parent: Ino, name: Name, slot: SlotRef },
    /// Removes a junction; the volume stays. Superuser only. `Done`.
    RemoveJunction { parent: Ino, name: Name },
    /// Takes a write lease on an empty directory, and inode numbers for what will be made under it; asked again by the
    /// holder, more numbers. `Leased`.
    Lease { dir: Ino, numbers: u32 },
    /// Changes made under write leases and held back, in order; then these leases are given up. `Held`.
    Held { items: Vec<Held>, give_up: Vec<Ino> },
}

/// How a rename treats its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// An existing target is replaced.
    Replace,
    /// An existing target refuses (`RENAME_NOREPLACE`).
    NoReplace,
    /// The two change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// `0o7777`.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Owning group.
    pub gid: Option<u32>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of anything (the kernel sends it with writeback caching only).
    pub ctime: Option<SetTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The entry's own time. Allowed to whoever may write.
    Now,
    /// This one. Allowed to the owner.
    To(Timestamp),
}

/// What a file's writer commits in one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The file.
    pub ino: Ino,
    /// At most [`crate::limits::MAX_COMMIT_EXTENTS`]. Chunks must be durable on their PG before this is sent.
    pub extents: Vec<Extent>,
    /// The size is raised to this if below. Never lowers it.
    pub size_at_least: u64,
    /// When the last byte was written, by the writer's clock; `None` takes the entry's time.
    pub mtime: Option<Timestamp>,
    /// Attribute changes made while writing, decided after the data.
    pub set: SetAttr,
    /// Clear set-user-id and set-group-id as a write by a plain user does.
    pub clear_suid: bool,
}

/// What fallocate does with a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateMode {
    /// Holes become zeroes that count; the size grows if needed.
    Reserve,
    /// The same, the size stays.
    ReserveKeepSize,
    /// The span becomes a hole; the size stays.
    PunchHole,
    /// The span becomes zeroes that count; the size grows if needed.
    ZeroRange,
    /// The same, the size stays.
    ZeroRangeKeepSize,
}

/// Whether an extended attribute may or must exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Either.
    Set,
    /// It must not (`XATTR_CREATE`).
    Create,
    /// It must (`XATTR_REPLACE`).
    Replace,
}
