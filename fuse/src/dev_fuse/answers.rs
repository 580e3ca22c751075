//! Answers, laid out as the kernel reads them.

use std::time::Duration;

use bytes::BufMut;
use weft_core::namespace::inode::{Attr, Kind};
use weft_core::time::Timestamp;

use super::abi::{self, fopen};
use crate::request::{Attributes, Created, DirItem, Entry, Opened, Statfs};

/// What `stat` says about the best size of a read or write.
const BLOCK_BYTES: u32 = 4096;
/// Blocks of `st_blocks`.
const STAT_BLOCK: u64 = 512;
const NAME_BYTES: u32 = weft_core::limits::MAX_NAME as u32;
/// Bytes of a directory entry before its name.
const DIRENT: usize = 24;
/// Bytes of what a lookup answers.
const ENTRY: usize = 128;

/// The answer to a lookup, and to whatever makes a name.
pub(super) fn entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENTRY);
    put_entry(&mut out, entry.node.0, entry.ttl, |out| put_attr(out, &entry.attr, entry.node.0));
    out
}

/// The answer to an open.
pub(super) fn opened(opened: &Opened) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_opened(&mut out, opened);
    out
}

/// The answer to a create.
pub(super) fn created(created: &Created) -> Vec<u8> {
    let mut out = entry(&created.entry);
    put_opened(&mut out, &created.opened);
    out
}

/// The answer to a GETATTR or SETATTR.
pub(super) fn attributes(found: &Attributes) -> Vec<u8> {
    let mut out = Vec::with_capacity(104);
    out.put_u64_ne(found.ttl.as_secs());
    out.put_u32_ne(found.ttl.subsec_nanos());
    out.put_u32_ne(0);
    put_attr(&mut out, &found.attr, found.st_ino);
    out
}

/// The answer to a STATX.
pub(super) fn statx(found: &Attributes) -> Vec<u8> {
    let Attributes { st_ino, attr, ttl } = found;
    let mut out = Vec::with_capacity(288);
    out.put_u64_ne(ttl.as_secs());
    out.put_u32_ne(ttl.subsec_nanos());
    out.put_bytes(0, 4 + 2 * 8);
    out.put_u32_ne(abi::STATX_ANSWERED);
    out.put_u32_ne(BLOCK_BYTES);
    out.put_u64_ne(0);
    for word in [attr.nlink, attr.uid, attr.gid] {
        out.put_u32_ne(word);
    }
    out.put_u16_ne(mode(attr) as u16);
    out.put_u16_ne(0);
    for number in [*st_ino, attr.size, attr.allocated.div_ceil(STAT_BLOCK), 0] {
        out.put_u64_ne(number);
    }
    for time in [attr.atime, attr.btime, attr.ctime, attr.mtime] {
        out.put_i64_ne(time.secs);
        out.put_u32_ne(time.nanos);
        out.put_u32_ne(0);
    }
    out.put_u32_ne(libc::major(u64::from(attr.rdev)));
    out.put_u32_ne(libc::minor(u64::from(attr.rdev)));
    // The device of the mount, which the kernel knows, and spare room.
    out.put_bytes(0, 2 * 4 + 14 * 8);
    out
}

/// The answer to a STATFS.
pub(super) fn statfs(found: &Statfs) -> Vec<u8> {
    let block = u64::from(BLOCK_BYTES);
    let free = found.free_bytes / block;
    let mut out = Vec::with_capacity(80);
    for number in [found.bytes.div_ceil(block), free, free, found.inodes, found.free_inodes] {
        out.put_u64_ne(number);
    }
    for word in [BLOCK_BYTES, NAME_BYTES, BLOCK_BYTES] {
        out.put_u32_ne(word);
    }
    out.put_bytes(0, 7 * 4);
    out
}

/// Adds an entry of a directory to an answer of at most `room` bytes; `false`: it does not fit.
pub(super) fn add_item(out: &mut Vec<u8>, room: usize, item: &DirItem, plus: bool) -> bool {
    let head = DIRENT + if plus { ENTRY } else { 0 };
    let len = (head + item.name.len()).next_multiple_of(8);
    if out.len() + len > room {
        return false;
    }
    let end = out.len() + len;
    if plus {
        match &item.attr {
            Some((attr, ttl)) => put_entry(out, item.st_ino, *ttl, |out| put_attr(out, attr, item.st_ino)),
            // For `.` and `..`: the kernel takes their number and kind and ignores the rest, a node of 0 above all.
            None => put_entry(out, 0, Duration::ZERO, |out| out.put_bytes(0, 88)),
        }
    }
    out.put_u64_ne(item.st_ino);
    out.put_u64_ne(item.next);
    out.put_u32_ne(item.name.len() as u32);
    out.put_u32_ne(kind(item.kind) >> 12);
    out.put_slice(&item.name);
    out.resize(end, 0);
    true
}

fn put_entry(out: &mut Vec<u8>, node: u64, ttl: Duration, attr: impl FnOnce(&mut Vec<u8>)) {
    // The generation: inode numbers are never used again.
    for number in [node, 0, ttl.as_secs(), ttl.as_secs()] {
        out.put_u64_ne(number);
    }
    out.put_u32_ne(ttl.subsec_nanos());
    out.put_u32_ne(ttl.subsec_nanos());
    attr(out);
}

fn put_opened(out: &mut Vec<u8>, opened: &Opened) {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    out.put_u64_ne(opened.handle.0);
    out.put_u32_ne(
        flag(opened.keep_cache, fopen::KEEP_CACHE)
            | flag(opened.no_flush, fopen::NOFLUSH)
            | flag(opened.direct, fopen::DIRECT_IO),
    );
    out.put_u32_ne(0);
}

fn put_attr(out: &mut Vec<u8>, attr: &Attr, st_ino: u64) {
    for number in [st_ino, attr.size, attr.allocated.div_ceil(STAT_BLOCK)] {
        out.put_u64_ne(number);
    }
    let times: [Timestamp; 3] = [attr.atime, attr.mtime, attr.ctime];
    for time in times {
        out.put_i64_ne(time.secs);
    }
    for time in times {
        out.put_u32_ne(time.nanos);
    }
    for word in [mode(attr), attr.nlink, attr.uid, attr.gid, attr.rdev, BLOCK_BYTES, 0] {
        out.put_u32_ne(word);
    }
}

fn mode(attr: &Attr) -> u32 {
    kind(attr.kind) | u32::from(attr.mode & 0o7777)
}

fn kind(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weft_core::ids::{Ino, VolumeId};

    use super::*;
    use crate::request::{HandleId, NodeId};

    fn attr() -> Attr {
        Attr {
            volume: VolumeId(1),
            ino: Ino(5),
            kind: Kind::File,
            mode: 0o644,
            uid: 7,
            gid: 8,
            nlink: 1,
            size: 1000,
            allocated: 513,
            rdev: 0,
            atime: Timestamp { secs: -1, nanos: 500_000_000 },
            mtime: Timestamp { secs: 2, nanos: 3 },
            ctime: Timestamp { secs: 4, nanos: 5 },
            btime: Timestamp { secs: 6, nanos: 7 },
            generation: 0,
            version: 1,
            parent: Ino(0),
            acl: None,
            default_acl: None,
        }
    }

    #[test]
    fn answers_are_as_long_as_the_kernel_wants_them() {
        let ttl = Duration::from_millis(1500);
        let found = Attributes { st_ino: 5, attr: attr(), ttl };
        let node = Entry { node: NodeId(5), attr: attr(), ttl };
        let open = Opened { handle: HandleId(3), keep_cache: true, no_flush: true, direct: false };
        assert_eq!(attributes(&found).len(), 104);
        assert_eq!(statx(&found).len(), 288);
        assert_eq!(entry(&node).len(), 128);
        assert_eq!(opened(&open), [3, 0, 0, 0, 0, 0, 0, 0, 34, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(created(&Created { entry: node, opened: open }).len(), 144);
        assert_eq!(statfs(&Statfs::default()).len(), 80);
    }

    #[test]
    fn a_listing_takes_what_fits_and_keeps_entries_aligned() {
        let item = DirItem { name: Bytes::from_static(b"nine char"), next: 3, st_ino: 5, kind: Kind::File, attr: None };
        let mut out = Vec::new();
        assert!(add_item(&mut out, 80, &item, false));
        assert_eq!(out.len(), 40);
        assert!(add_item(&mut out, 80, &item, false));
        assert!(!add_item(&mut out, 80, &item, false), "no room is left");
        let mut plus = Vec::new();
        assert!(add_item(&mut plus, 168, &item, true));
        assert_eq!(plus.len(), 168);
        assert_eq!(plus[..8], [0; 8], "nothing to forget of what has no attributes");
    }
}
