//! What the kernel asks of a mount, as owned values: the narrow door between a transport (FUSE through `/dev/fuse`
//! today) and the file system behind it. A request can be moved to another thread and answered whenever its answer
//! is known; a reply handle that is dropped unanswered says `EIO`, so that no caller ever waits for nothing.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use weft_core::namespace::inode::{Attr, Kind};
use weft_core::namespace::op::SetTime;

/// Number by which the kernel knows an inode of this mount; [`NodeId::ROOT`] is the mount's root, every other one is
/// also the inode's `st_ino`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount.
    pub const ROOT: NodeId = NodeId(1);
}

/// Number of an open file or directory, given by the file system at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(pub u64);

/// A positive errno value of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// The process that made the system call, as the kernel says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Thread id; 0 for what the kernel does on its own (write-back of mapped pages) and for other pid namespaces.
    pub pid: u32,
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// On whose behalf.
    pub process: Process,
    /// The inode, or for operations on a name its directory.
    pub node: NodeId,
    /// What to do.
    pub operation: Operation,
}

/// Takes requests. Called from the transport's loops: must not block, and answers later what needs waiting.
pub trait Handler: Send + Sync + 'static {
    /// Takes one request.
    fn handle(&self, request: Request);
}

/// Tells the kernel to drop what it has cached of an inode. May block for as long as pages of the inode are being
/// read or written, so it is called from a thread of its own and never from [`Handler::handle`].
pub trait Invalidate: Send + Sync + 'static {
    /// Drops attributes and all cached pages.
    fn inode(&self, node: NodeId) -> std::io::Result<()>;
    /// Drops attributes alone.
    fn attributes(&self, node: NodeId) -> std::io::Result<()>;
}

/// What to do, with the handle for the answer.
#[derive(Debug)]
pub enum Operation {
    /// What a name stands for. Counts one lookup of the node.
    Lookup { name: Bytes, reply: Reply<Entry> },
    /// So many lookups of the node are forgotten.
    Forget { lookups: u64 },
    /// Attributes.
    Getattr { handle: Option<HandleId>, reply: Reply<Attributes> },
    /// Changes attributes.
    Setattr { set: SetAttributes, handle: Option<HandleId>, reply: Reply<Attributes> },
    /// A symlink's target.
    Readlink { reply: Reply<Bytes> },
    /// Makes a file of any kind but directory and symlink; `mode` carries the kind (`S_IFMT`). Neither here nor below has
    /// the umask been applied: where the directory has a default access list, it does not count.
    Mknod { name: Bytes, mode: u32, umask: u16, rdev: u32, reply: Reply<Entry> },
    /// Makes a directory.
    Mkdir { name: Bytes, mode: u32, umask: u16, reply: Reply<Entry> },
    /// Makes a symlink.
    Symlink { name: Bytes, target: Bytes, reply: Reply<Entry> },
    /// Makes another name of `node` in another directory.
    Link { parent: NodeId, name: Bytes, reply: Reply<Entry> },
    /// Removes a name.
    Unlink { name: Bytes, reply: Reply<()> },
    /// Removes an empty directory.
    Rmdir { name: Bytes, reply: Reply<()> },
    /// Moves a name; `flags` as of `renameat2`.
    Rename { name: Bytes, new_parent: NodeId, new_name: Bytes, flags: u32, reply: Reply<()> },
    /// Opens a file; `flags` as of `open`.
    Open { flags: i32, reply: Reply<Opened> },
    /// Makes and opens a file.
    Create { name: Bytes, mode: u32, umask: u16, flags: i32, reply: Reply<Created> },
    /// Makes and opens a file without a name, in the volume of the directory (`O_TMPFILE`).
    Tmpfile { mode: u32, umask: u16, flags: i32, reply: Reply<Created> },
    /// Reads.
    Read { handle: HandleId, offset: u64, len: u32, reply: Reply<Bytes> },
    /// Writes. `kill_suid`: whoever writes has no right to keep set-user-id and set-group-id.
    Write { handle: HandleId, offset: u64, data: Bytes, flags: i32, kill_suid: bool, reply: Reply<u32> },
    /// A descriptor of the file was closed.
    Flush { handle: HandleId, reply: Reply<()> },
    /// Makes what was written durable.
    Fsync { handle: HandleId, reply: Reply<()> },
    /// The last descriptor and mapping of an open is gone.
    Release { handle: HandleId, reply: Reply<()> },
    /// Reserves, punches or zeroes; `mode` as of `fallocate`.
    Fallocate { handle: HandleId, offset: u64, len: u64, mode: i32, reply: Reply<()> },
    /// Finds data or a hole; `whence` as of `lseek`.
    Lseek { handle: HandleId, offset: i64, whence: i32, reply: Reply<u64> },
    /// Copies within the mount from `node`.
    CopyRange {
        handle: HandleId,
        offset: u64,
        target: NodeId,
        target_handle: HandleId,
        target_offset: u64,
        len: u64,
        reply: Reply<u64>,
    },
    /// Opens a directory.
    Opendir { reply: Reply<Opened> },
    /// Entries behind an offset, as many as the listing takes. With `plus` each taken entry but `.` and `..` counts
    /// one lookup of its node.
    Readdir { handle: HandleId, offset: u64, plus: bool, listing: Box<dyn Listing> },
    /// Makes changes of a directory durable.
    Fsyncdir { reply: Reply<()> },
    /// A directory's last descriptor is gone.
    Releasedir { handle: HandleId, reply: Reply<()> },
    /// Use of the volume.
    Statfs { reply: Reply<Statfs> },
    /// Sets an extended attribute; `flags` as of `setxattr`.
    Setxattr { name: Bytes, value: Bytes, flags: i32, reply: Reply<()> },
    /// An extended attribute's value.
    Getxattr { name: Bytes, size: u32, reply: Reply<Xattr> },
    /// All names, each ended by NUL.
    Listxattr { size: u32, reply: Reply<Xattr> },
    /// Removes an extended attribute.
    Removexattr { name: Bytes, reply: Reply<()> },
}

/// What a mount shows of an inode, and for how long the kernel may believe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its `st_ino`.
    pub st_ino: u64,
    /// The rest.
    pub attr: Attr,
    /// How long the kernel may answer by itself.
    pub ttl: Duration,
}

/// An inode found under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node, whose lookups it counts.
    pub node: NodeId,
    /// What it is.
    pub attr: Attr,
    /// How long the kernel may believe name and attributes.
    pub ttl: Duration,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub handle: HandleId,
    /// Pages cached before are still right.
    pub keep_cache: bool,
    /// Closing needs no `Flush`: nothing can be written through it.
    pub no_flush: bool,
    /// Reads and writes go past the kernel's pages.
    pub direct: bool,
}

/// A file made and opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// What was made.
    pub entry: Entry,
    /// How it is open.
    pub opened: Opened,
}

/// Attributes to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// `0o7777`.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of anything.
    pub ctime: Option<SetTime>,
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// Its name.
    pub name: Bytes,
    /// Where to go on behind it.
    pub next: u64,
    /// Its `st_ino`.
    pub st_ino: u64,
    /// What it is.
    pub kind: Kind,
    /// With `plus`: its attributes and how long to believe them.
    pub attr: Option<(Attr, Duration)>,
}

/// What `statfs` shows, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// All bytes.
    pub bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// All inodes.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

/// Bytes, or how many there are when the asker gave no room for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xattr {
    /// They.
    Bytes(Bytes),
    /// How many.
    Len(u32),
}

type SendAnswer<T> = Box<dyn FnOnce(Result<T, Errno>) + Send>;

/// The right and the duty to answer a request once.
pub struct Reply<T>(Option<SendAnswer<T>>);

impl<T> Reply<T> {
    /// A handle that gives the answer to `send`.
    pub fn new(send: impl FnOnce(Result<T, Errno>) + Send + 'static) -> Reply<T> {
        Reply(Some(Box::new(send)))
    }

    /// Answers.
    pub fn send(mut self, answer: Result<T, Errno>) {
        if let Some(send) = self.0.take() {
            send(answer);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(send) = self.0.take() {
            send(Err(Errno(libc::EIO)));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Takes entries of a directory until it is full, then is sent. Dropped unsent it says `EIO`.
pub trait Listing: Send + fmt::Debug {
    /// Takes an entry; `false`: there is no room for it, nor for any further one.
    fn add(&mut self, item: &DirItem) -> bool;
    /// Sends what was taken, or an error. Nothing taken means that the directory ends here.
    fn send(self: Box<Self>, result: Result<(), Errno>);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_reply_is_sent_once_and_never_lost() {
        let (sent, got) = channel();
        let answer = sent.clone();
        Reply::new(move |result: Result<u32, Errno>| answer.send(result).unwrap()).send(Ok(7));
        drop(Reply::new(move |result: Result<u32, Errno>| sent.send(result).unwrap()));
        assert_eq!(got.iter().collect::<Vec<_>>(), [Ok(7), Err(Errno(libc::EIO))]);
    }
}
