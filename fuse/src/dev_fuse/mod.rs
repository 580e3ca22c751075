//! FUSE through `/dev/fuse`, by the `fuser` crate: turns its calls into [`Request`]s and answers back. Alone knows
//! `fuser`, so that another transport can take its place.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow,
    WriteFlags,
};
use weft_core::namespace::inode::{Attr, Kind};
use weft_core::namespace::op::SetTime;
use weft_core::time::Timestamp;

use crate::request::{
    Attributes, Created, DirItem, Entry, Errno, HandleId, Handler, Invalidate, Listing, NodeId, Opened, Operation,
    Process, Reply, Request, SetAttributes, Statfs, Xattr,
};

/// Bytes of one read or write request: what the kernel's default of 256 pages allows.
pub(crate) const MAX_REQUEST: u32 = 1 << 20;
/// Requests that the kernel lets wait in the background (read-ahead, asynchronous direct I/O, releases).
const MAX_BACKGROUND: u16 = 128;
/// What `stat` says about the best size of a read or write.
const BLOCK_BYTES: u32 = 4096;
/// Blocks of `st_blocks` and of statfs.
const STAT_BLOCK: u64 = 512;
const NAME_BYTES: u32 = weft_core::limits::MAX_NAME as u32;
const GENERATION: Generation = Generation(0);

/// Hands the kernel's requests to a handler.
pub(crate) struct Adapter {
    handler: Arc<dyn Handler>,
}

impl Adapter {
    pub(crate) fn new(handler: Arc<dyn Handler>) -> Adapter {
        Adapter { handler }
    }

    fn pass(&self, request: &fuser::Request, node: INodeNo, operation: Operation) {
        let process = Process { uid: request.uid(), gid: request.gid(), pid: request.pid() };
        self.handler.handle(Request { process, node: NodeId(node.0), operation });
    }
}

/// What is asked of the kernel. Not asked for: `ATOMIC_O_TRUNC` (it truncates running programs), the writeback cache
/// (it ignores sizes that the server knows better), locks (kept by the kernel, for this mount alone),
/// `SETXATTR_EXT` (panics in fuser 0.18), `DONT_MASK` (the kernel applies the umask).
const WANTED: [InitFlags; 9] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // Without it each write costs a question for security.capability first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Pages are dropped by us, exactly when somebody else changed the file; on its own the kernel would drop them
    // after this mount's own writes too.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    // A symlink's target never changes and inode numbers are never reused.
    InitFlags::FUSE_CACHE_SYMLINKS,
];

impl Filesystem for Adapter {
    fn init(&mut self, _request: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not offer");
            }
        }
        let limits = [
            config.set_max_write(MAX_REQUEST).err(),
            config.set_max_background(MAX_BACKGROUND).err().map(u32::from),
            config.set_max_readahead(u32::MAX).err(),
        ];
        // The kernel's own read-ahead limit is the most that can be asked for at this point.
        if let Some(most) = limits[2] {
            let _ = config.set_max_readahead(most);
        }
        tracing::debug!(abi = ?config.kernel_abi(), ?limits, "mount settings agreed");
        Ok(())
    }

    fn lookup(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pass(request, parent, Operation::Lookup { name: owned(name), reply: entry(reply) });
    }

    fn forget(&self, request: &fuser::Request, node: INodeNo, lookups: u64) {
        self.pass(request, node, Operation::Forget { lookups });
    }

    fn getattr(&self, request: &fuser::Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        self.pass(request, node, Operation::Getattr { handle: handle.map(number), reply: attributes(reply) });
    }

    fn setattr(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttributes {
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: ctime.map(|time| SetTime::To(received_time(time))),
        };
        self.pass(request, node, Operation::Setattr { set, handle: handle.map(number), reply: attributes(reply) });
    }

    fn readlink(&self, request: &fuser::Request, node: INodeNo, reply: ReplyData) {
        self.pass(request, node, Operation::Readlink { reply: data(reply) });
    }

    fn mknod(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.pass(request, parent, Operation::Mknod { name: owned(name), mode, rdev, reply: entry(reply) });
    }

    fn mkdir(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.pass(request, parent, Operation::Mkdir { name: owned(name), mode, reply: entry(reply) });
    }

    fn unlink(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(request, parent, Operation::Unlink { name: owned(name), reply: empty(reply) });
    }

    fn rmdir(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(request, parent, Operation::Rmdir { name: owned(name), reply: empty(reply) });
    }

    fn symlink(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = owned(target.as_os_str());
        self.pass(request, parent, Operation::Symlink { name: owned(name), target, reply: entry(reply) });
    }

    fn rename(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let operation = Operation::Rename {
            name: owned(name),
            new_parent: NodeId(new_parent.0),
            new_name: owned(new_name),
            flags: flags.bits(),
            reply: empty(reply),
        };
        self.pass(request, parent, operation);
    }

    fn link(&self, request: &fuser::Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let operation = Operation::Link { parent: NodeId(parent.0), name: owned(name), reply: entry(reply) };
        self.pass(request, node, operation);
    }

    fn open(&self, request: &fuser::Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.pass(request, node, Operation::Open { flags: flags.0, reply: open(reply) });
    }

    fn create(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let reply = Reply::new(move |answer: Result<Created, Errno>| match answer {
            Ok(Created { entry, opened }) => {
                let attr = file_attr(&entry.attr, entry.node.0);
                reply.created(&entry.ttl, &attr, GENERATION, FileHandle(opened.handle.0), fopen_flags(opened));
            }
            Err(errno) => reply.error(refuse(errno)),
        });
        self.pass(request, parent, Operation::Create { name: owned(name), mode, flags, reply });
    }

    fn read(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let operation = Operation::Read { handle: number(handle), offset, len: size, reply: data(reply) };
        self.pass(request, node, operation);
    }

    fn write(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let operation = Operation::Write {
            handle: number(handle),
            offset,
            // The one copy: the loop's buffer is needed for the next request.
            data: Bytes::copy_from_slice(data),
            flags: flags.0,
            reply: written(reply),
        };
        self.pass(request, node, operation);
    }

    fn flush(&self, request: &fuser::Request, node: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.pass(request, node, Operation::Flush { handle: number(handle), reply: empty(reply) });
    }

    fn release(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.pass(request, node, Operation::Release { handle: number(handle), reply: empty(reply) });
    }

    fn fsync(&self, request: &fuser::Request, node: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.pass(request, node, Operation::Fsync { handle: number(handle), reply: empty(reply) });
    }

    fn opendir(&self, request: &fuser::Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.pass(request, node, Operation::Opendir { reply: open(reply) });
    }

    fn readdir(&self, request: &fuser::Request, node: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let listing = Box::new(PlainListing(reply));
        self.pass(request, node, Operation::Readdir { handle: number(handle), offset, plus: false, listing });
    }

    fn readdirplus(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let listing = Box::new(PlusListing(reply));
        self.pass(request, node, Operation::Readdir { handle: number(handle), offset, plus: true, listing });
    }

    fn releasedir(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.pass(request, node, Operation::Releasedir { handle: number(handle), reply: empty(reply) });
    }

    fn fsyncdir(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.pass(request, node, Operation::Fsyncdir { reply: empty(reply) });
    }

    fn statfs(&self, request: &fuser::Request, node: INodeNo, reply: ReplyStatfs) {
        let reply = Reply::new(move |answer: Result<Statfs, Errno>| match answer {
            Ok(Statfs { bytes, free_bytes, inodes, free_inodes }) => {
                let block = u64::from(BLOCK_BYTES);
                let free = free_bytes / block;
                reply.statfs(
                    bytes.div_ceil(block),
                    free,
                    free,
                    inodes,
                    free_inodes,
                    BLOCK_BYTES,
                    NAME_BYTES,
                    BLOCK_BYTES,
                );
            }
            Err(errno) => reply.error(refuse(errno)),
        });
        self.pass(request, node, Operation::Statfs { reply });
    }

    fn setxattr(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let operation =
            Operation::Setxattr { name: owned(name), value: Bytes::copy_from_slice(value), flags, reply: empty(reply) };
        self.pass(request, node, operation);
    }

    fn getxattr(&self, request: &fuser::Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.pass(request, node, Operation::Getxattr { name: owned(name), size, reply: xattr(reply) });
    }

    fn listxattr(&self, request: &fuser::Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.pass(request, node, Operation::Listxattr { size, reply: xattr(reply) });
    }

    fn removexattr(&self, request: &fuser::Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(request, node, Operation::Removexattr { name: owned(name), reply: empty(reply) });
    }

    fn access(&self, _request: &fuser::Request, _node: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        // The kernel decides by the mode bits (`default_permissions`) and stops asking after this answer.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let operation = Operation::Fallocate { handle: number(handle), offset, len: length, mode, reply: empty(reply) };
        self.pass(request, node, operation);
    }

    fn lseek(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(fuser::Errno::ENXIO);
        };
        let reply = Reply::new(move |answer: Result<u64, Errno>| match answer {
            Ok(offset) => match i64::try_from(offset) {
                Ok(offset) => reply.offset(offset),
                Err(_) => reply.error(fuser::Errno::EOVERFLOW),
            },
            Err(errno) => reply.error(refuse(errno)),
        });
        self.pass(request, node, Operation::Lseek { handle: number(handle), offset, whence, reply });
    }

    fn copy_file_range(
        &self,
        request: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        target: INodeNo,
        target_handle: FileHandle,
        target_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let operation = Operation::CopyRange {
            handle: number(handle),
            offset,
            target: NodeId(target.0),
            target_handle: number(target_handle),
            target_offset,
            len,
            reply: written(reply),
        };
        self.pass(request, node, operation);
    }

    fn ioctl(
        &self,
        _request: &fuser::Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &fuser::Request,
        _node: INodeNo,
        _handle: FileHandle,
        _notifier: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        // Files are always ready; the kernel stops asking after this answer.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn bmap(&self, _request: &fuser::Request, _node: INodeNo, _block: u32, _index: u64, reply: fuser::ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

#[derive(Debug)]
struct PlainListing(ReplyDirectory);

impl Listing for PlainListing {
    fn add(&mut self, item: &DirItem) -> bool {
        !self.0.add(INodeNo(item.st_ino), item.next, file_type(item.kind), OsStr::from_bytes(&item.name))
    }

    fn send(self: Box<Self>, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.0.ok(),
            Err(errno) => self.0.error(refuse(errno)),
        }
    }
}

#[derive(Debug)]
struct PlusListing(ReplyDirectoryPlus);

impl Listing for PlusListing {
    fn add(&mut self, item: &DirItem) -> bool {
        let (attr, ttl) = match &item.attr {
            Some((attr, ttl)) => (file_attr(attr, item.st_ino), *ttl),
            None => (bare_attr(item.kind, item.st_ino), Duration::ZERO),
        };
        let name = OsStr::from_bytes(&item.name);
        !self.0.add(INodeNo(item.st_ino), item.next, name, &ttl, &attr, GENERATION)
    }

    fn send(self: Box<Self>, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.0.ok(),
            Err(errno) => self.0.error(refuse(errno)),
        }
    }
}

/// Drops what the kernel has cached, through `fuser`'s notifier.
pub(crate) struct Notifier(pub(crate) fuser::Notifier);

impl Invalidate for Notifier {
    fn inode(&self, node: NodeId) -> io::Result<()> {
        // From byte 0, to the end.
        self.0.inval_inode(INodeNo(node.0), 0, 0)
    }

    fn attributes(&self, node: NodeId) -> io::Result<()> {
        // A negative offset leaves the pages alone.
        self.0.inval_inode(INodeNo(node.0), -1, 0)
    }
}

fn owned(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn number(handle: FileHandle) -> HandleId {
    HandleId(handle.0)
}

fn refuse(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

fn entry(reply: ReplyEntry) -> Reply<Entry> {
    Reply::new(move |answer: Result<Entry, Errno>| match answer {
        Ok(entry) => reply.entry(&entry.ttl, &file_attr(&entry.attr, entry.node.0), GENERATION),
        Err(errno) => reply.error(refuse(errno)),
    })
}

fn attributes(reply: ReplyAttr) -> Reply<Attributes> {
    Reply::new(move |answer: Result<Attributes, Errno>| match answer {
        Ok(found) => reply.attr(&found.ttl, &file_attr(&found.attr, found.st_ino)),
        Err(errno) => reply.error(refuse(errno)),
    })
}

fn data(reply: ReplyData) -> Reply<Bytes> {
    Reply::new(move |answer: Result<Bytes, Errno>| match answer {
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(refuse(errno)),
    })
}

fn empty(reply: ReplyEmpty) -> Reply<()> {
    Reply::new(move |answer: Result<(), Errno>| match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(refuse(errno)),
    })
}

fn written(reply: ReplyWrite) -> Reply<u32> {
    Reply::new(move |answer: Result<u32, Errno>| match answer {
        Ok(len) => reply.written(len),
        Err(errno) => reply.error(refuse(errno)),
    })
}

fn open(reply: ReplyOpen) -> Reply<Opened> {
    Reply::new(move |answer: Result<Opened, Errno>| match answer {
        Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen_flags(opened)),
        Err(errno) => reply.error(refuse(errno)),
    })
}

fn xattr(reply: ReplyXattr) -> Reply<Xattr> {
    Reply::new(move |answer: Result<Xattr, Errno>| match answer {
        Ok(Xattr::Bytes(bytes)) => reply.data(&bytes),
        Ok(Xattr::Len(len)) => reply.size(len),
        Err(errno) => reply.error(refuse(errno)),
    })
}

fn fopen_flags(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct);
    flags
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

fn file_attr(attr: &Attr, st_ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(st_ino),
        size: attr.size,
        blocks: attr.allocated.div_ceil(STAT_BLOCK),
        atime: sent_time(attr.atime),
        mtime: sent_time(attr.mtime),
        ctime: sent_time(attr.ctime),
        crtime: sent_time(attr.btime),
        kind: file_type(attr.kind),
        perm: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// For `.` and `..` in a listing: the kernel takes their number and kind and ignores the rest.
fn bare_attr(kind: Kind, st_ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(st_ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn sent_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let base = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(received_time(time)),
    }
}

/// The kernel's seconds and nanoseconds. For times before 1970 fuser 0.18 subtracts the nanoseconds that it should
/// add; taken apart the same way, both numbers come out as the kernel sent them.
fn received_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp { secs: (before.as_secs() as i64).wrapping_neg(), nanos: before.subsec_nanos() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for (secs, nanos) in [(0, 0), (1, 999_999_999), (1_700_000_000, 5), (-1, 0), (-1, 500_000_000), (-5, 1)] {
            let time = Timestamp { secs, nanos };
            let sent = sent_time(time);
            // What fuser writes for it: whole seconds rounded down, nanoseconds on top.
            let out = match sent.duration_since(UNIX_EPOCH) {
                Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
                Err(before) if before.duration().subsec_nanos() == 0 => (-(before.duration().as_secs() as i64), 0),
                Err(before) => {
                    let before = before.duration();
                    (-(before.as_secs() as i64) - 1, 1_000_000_000 - before.subsec_nanos())
                }
            };
            assert_eq!(out, (secs, nanos));
            // What fuser makes of the kernel's numbers.
            let parts = Duration::new(secs.unsigned_abs(), nanos);
            let got = if secs < 0 { UNIX_EPOCH - parts } else { UNIX_EPOCH + parts };
            assert_eq!(received_time(got), time);
        }
        assert!(sent_time(Timestamp { secs: i64::MAX, nanos: 999_999_999 }).duration_since(UNIX_EPOCH).is_ok());
    }
}
