//! Makes an [`Operation`] of each request of the kernel.
//!
//! Where a signal freed the caller before the answer came, the answer still counted something on our side: a lookup of
//! a node, an open handle. The kernel knows nothing of it, so it is given back here.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use weft_core::namespace::op::SetTime;
use weft_core::time::Timestamp;

use super::abi::{self, opcode, setattr};
use super::answers;
use super::calls::Call;
use super::fields::{Fields, Header, TooShort};
use crate::request::{
    Attributes, Created, DirItem, Entry, Errno, HandleId, Handler, Listing, NodeId, Opened, Operation, Process, Reply,
    Request, SetAttributes, Xattr,
};

/// Hands one request to the handler, or answers what needs none.
pub(super) fn serve(header: Header, fields: Fields<'_>, call: &Arc<Call>, handler: &Arc<dyn Handler>) {
    let process = Process { uid: header.uid, gid: header.gid, pid: header.pid };
    let answer = Answer { call: call.clone(), handler: handler.clone() };
    match operation(header, fields, answer) {
        Ok(Some((node, operation))) => {
            handler.handle(Request { process, node: NodeId(node), operation });
            if header.opcode != opcode::FORGET {
                call.handed_on();
            }
        }
        Ok(None) if header.opcode == opcode::BATCH_FORGET => forget(process, fields, handler),
        // Files know no calls of their own.
        Ok(None) if header.opcode == opcode::IOCTL => {
            call.refuse(libc::ENOTTY);
        }
        Ok(None) => {
            call.refuse(libc::ENOSYS);
        }
        Err(TooShort) => {
            tracing::warn!(opcode = header.opcode, "the kernel sent a request that is too short");
            call.refuse(libc::EINVAL);
        }
    }
}

/// Many lookups forgotten at a time; it has no answer.
fn forget(process: Process, mut fields: Fields<'_>, handler: &Arc<dyn Handler>) {
    let count = fields.u32().unwrap_or(0);
    let _ = fields.skip(1);
    for _ in 0..count {
        let (Ok(node), Ok(lookups)) = (fields.u64(), fields.u64()) else {
            return tracing::warn!("the kernel forgets fewer nodes than it says");
        };
        handler.handle(Request { process, node: NodeId(node), operation: Operation::Forget { lookups } });
    }
}

/// What is asked, and of which node; `None`: nothing that is known here.
fn operation(header: Header, mut fields: Fields<'_>, answer: Answer) -> Result<Option<(u64, Operation)>, TooShort> {
    let f = &mut fields;
    let mut node = header.node;
    let operation = match header.opcode {
        opcode::LOOKUP => Operation::Lookup { name: f.name()?, reply: answer.entry() },
        opcode::FORGET => Operation::Forget { lookups: f.u64()? },
        opcode::GETATTR | opcode::STATX => {
            let flags = f.u32()?;
            f.skip(1)?;
            let handle = (flags & abi::GETATTR_HANDLE != 0).then_some(HandleId(f.u64()?));
            let statx = header.opcode == opcode::STATX;
            let show = if statx { answers::statx } else { answers::attributes };
            Operation::Getattr { handle, reply: answer.shown(move |found: &Attributes| show(found)) }
        }
        opcode::SETATTR => {
            let (set, handle) = set_attributes(f)?;
            Operation::Setattr { set, handle, reply: answer.shown(answers::attributes) }
        }
        opcode::READLINK => Operation::Readlink { reply: answer.bytes() },
        opcode::SYMLINK => Operation::Symlink { name: f.name()?, target: f.name()?, reply: answer.entry() },
        opcode::MKNOD => {
            let (mode, rdev, umask) = (f.u32()?, f.u32()?, f.u32()?);
            f.skip(1)?;
            Operation::Mknod { name: f.name()?, mode, umask: mask(umask), rdev, reply: answer.entry() }
        }
        opcode::MKDIR => {
            let (mode, umask) = (f.u32()?, f.u32()?);
            Operation::Mkdir { name: f.name()?, mode, umask: mask(umask), reply: answer.entry() }
        }
        opcode::UNLINK => Operation::Unlink { name: f.name()?, reply: answer.empty() },
        opcode::RMDIR => Operation::Rmdir { name: f.name()?, reply: answer.empty() },
        opcode::RENAME | opcode::RENAME2 => {
            let new_parent = NodeId(f.u64()?);
            let mut flags = 0;
            if header.opcode == opcode::RENAME2 {
                flags = f.u32()?;
                f.skip(1)?;
            }
            Operation::Rename { name: f.name()?, new_parent, new_name: f.name()?, flags, reply: answer.empty() }
        }
        opcode::LINK => {
            node = f.u64()?;
            Operation::Link { parent: NodeId(header.node), name: f.name()?, reply: answer.entry() }
        }
        opcode::OPEN => Operation::Open { flags: f.i32()?, reply: answer.opened(false) },
        opcode::CREATE | opcode::TMPFILE => {
            let (flags, mode, umask) = (f.i32()?, f.u32()?, mask(f.u32()?));
            f.skip(1)?;
            let (name, reply) = (f.name()?, answer.created());
            match header.opcode {
                opcode::CREATE => Operation::Create { name, mode, umask, flags, reply },
                _ => Operation::Tmpfile { mode, umask, flags, reply },
            }
        }
        opcode::READ => {
            let (handle, offset, len) = (handle(f)?, f.u64()?, f.u32()?);
            Operation::Read { handle, offset, len, reply: answer.bytes() }
        }
        opcode::WRITE => {
            let (handle, offset, len, how) = (handle(f)?, f.u64()?, f.u32()?, f.u32()?);
            f.skip(2)?;
            let flags = f.i32()?;
            f.skip(1)?;
            let kill_suid = how & abi::WRITE_KILL_SUIDGID != 0;
            let data = f.data(len as usize)?;
            Operation::Write { handle, offset, data, flags, kill_suid, reply: answer.written() }
        }
        opcode::STATFS => Operation::Statfs { reply: answer.shown(answers::statfs) },
        opcode::FLUSH => Operation::Flush { handle: handle(f)?, reply: answer.empty() },
        opcode::RELEASE => Operation::Release { handle: handle(f)?, reply: answer.empty() },
        opcode::FSYNC => Operation::Fsync { handle: handle(f)?, reply: answer.empty() },
        opcode::OPENDIR => Operation::Opendir { reply: answer.opened(true) },
        opcode::READDIR | opcode::READDIRPLUS => {
            let plus = header.opcode == opcode::READDIRPLUS;
            let (handle, offset, room) = (handle(f)?, f.u64()?, f.u32()? as usize);
            let listing = Box::new(Items { answer, room, plus, out: Vec::new(), counted: Vec::new() });
            Operation::Readdir { handle, offset, plus, listing }
        }
        opcode::RELEASEDIR => Operation::Releasedir { handle: handle(f)?, reply: answer.empty() },
        opcode::FSYNCDIR => Operation::Fsyncdir { reply: answer.empty() },
        opcode::SETXATTR => {
            let (len, flags) = (f.u32()?, f.i32()?);
            let (name, value) = (f.name()?, f.data(len as usize)?);
            Operation::Setxattr { name, value, flags, reply: answer.empty() }
        }
        opcode::GETXATTR => {
            let size = f.u32()?;
            f.skip(1)?;
            Operation::Getxattr { name: f.name()?, size, reply: answer.xattr() }
        }
        opcode::LISTXATTR => Operation::Listxattr { size: f.u32()?, reply: answer.xattr() },
        opcode::REMOVEXATTR => Operation::Removexattr { name: f.name()?, reply: answer.empty() },
        opcode::FALLOCATE => {
            let (handle, offset, len, mode) = (handle(f)?, f.u64()?, f.u64()?, f.i32()?);
            Operation::Fallocate { handle, offset, len, mode, reply: answer.empty() }
        }
        opcode::LSEEK => {
            let (handle, offset, whence) = (handle(f)?, f.i64()?, f.i32()?);
            Operation::Lseek { handle, offset, whence, reply: answer.number() }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            let (handle, offset) = (self::handle(f)?, f.u64()?);
            let (target, target_handle, target_offset) = (NodeId(f.u64()?), self::handle(f)?, f.u64()?);
            let len = f.u64()?;
            let wide = header.opcode == opcode::COPY_FILE_RANGE_64;
            let reply = if wide { answer.number() } else { answer.counted() };
            Operation::CopyRange { handle, offset, target, target_handle, target_offset, len, reply }
        }
        // ACCESS among them: the kernel decides by mode bits and access lists (`default_permissions`) and stops asking
        // after this answer. POLL: files are always ready. BMAP: there are no blocks. SYNCFS: never sent to us.
        _ => return Ok(None),
    };
    Ok(Some((node, operation)))
}

fn handle(fields: &mut Fields<'_>) -> Result<HandleId, TooShort> {
    fields.u64().map(HandleId)
}

fn mask(umask: u32) -> u16 {
    (umask & 0o777) as u16
}

fn set_attributes(f: &mut Fields<'_>) -> Result<(SetAttributes, Option<HandleId>), TooShort> {
    let valid = f.u32()?;
    f.skip(1)?;
    let (handle, size) = (f.u64()?, f.u64()?);
    f.skip(2)?;
    let secs = [f.i64()?, f.i64()?, f.i64()?];
    let nanos = [f.u32()?, f.u32()?, f.u32()?];
    let mode = f.u32()?;
    f.skip(1)?;
    let (uid, gid) = (f.u32()?, f.u32()?);
    let has = |flag: u32| valid & flag != 0;
    let time = |at: usize, set: u32, now: u32| match (has(set), has(now)) {
        (_, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::To(Timestamp { secs: secs[at], nanos: nanos[at] })),
        (false, false) => None,
    };
    let set = SetAttributes {
        mode: has(setattr::MODE).then_some((mode & 0o7777) as u16),
        uid: has(setattr::UID).then_some(uid),
        gid: has(setattr::GID).then_some(gid),
        size: has(setattr::SIZE).then_some(size),
        atime: time(0, setattr::ATIME, setattr::ATIME_NOW),
        mtime: time(1, setattr::MTIME, setattr::MTIME_NOW),
        ctime: time(2, setattr::CTIME, 0),
    };
    Ok((set, has(setattr::HANDLE).then_some(HandleId(handle))))
}

/// Makes the handle for a request's answer.
#[derive(Clone)]
struct Answer {
    call: Arc<Call>,
    handler: Arc<dyn Handler>,
}

impl Answer {
    /// Sends what `show` makes of the answer; where the caller is gone, `undo` says what to give back.
    fn reply<T: 'static>(
        self,
        show: impl FnOnce(&T) -> Vec<u8> + Send + 'static,
        undo: impl FnOnce(&Answer, &T) + Send + 'static,
    ) -> Reply<T> {
        Reply::new(move |answer: Result<T, Errno>| match answer {
            Ok(found) => {
                if !self.call.answer(&[&show(&found)]) {
                    undo(&self, &found);
                }
            }
            Err(errno) => {
                self.call.refuse(errno.0);
            }
        })
    }

    fn shown<T: 'static>(self, show: impl FnOnce(&T) -> Vec<u8> + Send + 'static) -> Reply<T> {
        self.reply(show, |_, _| {})
    }

    fn entry(self) -> Reply<Entry> {
        self.reply(answers::entry, |answer, entry: &Entry| answer.forget(entry.node))
    }

    fn opened(self, dir: bool) -> Reply<Opened> {
        self.reply(answers::opened, move |answer, opened: &Opened| answer.release(opened.handle, dir))
    }

    fn created(self) -> Reply<Created> {
        self.reply(answers::created, |answer, created: &Created| {
            answer.release(created.opened.handle, false);
            answer.forget(created.entry.node);
        })
    }

    fn empty(self) -> Reply<()> {
        self.shown(|()| Vec::new())
    }

    fn number(self) -> Reply<u64> {
        self.shown(|number: &u64| number.to_ne_bytes().to_vec())
    }

    /// A number of bytes, in 32 bits and as many of padding.
    fn counted(self) -> Reply<u64> {
        self.shown(|len: &u64| padded(u32::try_from(*len).unwrap_or(u32::MAX)))
    }

    fn written(self) -> Reply<u32> {
        self.shown(|len: &u32| padded(*len))
    }

    fn bytes(self) -> Reply<Bytes> {
        Reply::new(move |answer: Result<Bytes, Errno>| match answer {
            Ok(bytes) => {
                self.call.answer(&[&bytes]);
            }
            Err(errno) => {
                self.call.refuse(errno.0);
            }
        })
    }

    fn xattr(self) -> Reply<Xattr> {
        self.shown(|found: &Xattr| match found {
            Xattr::Bytes(bytes) => bytes.to_vec(),
            Xattr::Len(len) => padded(*len),
        })
    }

    fn forget(&self, node: NodeId) {
        self.give_back(node, Operation::Forget { lookups: 1 });
    }

    fn release(&self, handle: HandleId, dir: bool) {
        let reply = Reply::new(|_| {});
        let operation =
            if dir { Operation::Releasedir { handle, reply } } else { Operation::Release { handle, reply } };
        self.give_back(NodeId(0), operation);
    }

    fn give_back(&self, node: NodeId, operation: Operation) {
        self.handler.handle(Request { process: Process::default(), node, operation });
    }
}

fn padded(word: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    out.put_u32_ne(word);
    out.put_u32_ne(0);
    out
}

/// A piece of a directory's listing.
struct Items {
    answer: Answer,
    room: usize,
    plus: bool,
    out: Vec<u8>,
    /// Nodes of which the listing counts a lookup.
    counted: Vec<u64>,
}

impl std::fmt::Debug for Items {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Items")
    }
}

impl Listing for Items {
    fn add(&mut self, item: &DirItem) -> bool {
        let taken = answers::add_item(&mut self.out, self.room, item, self.plus);
        if taken && self.plus && item.attr.is_some() {
            self.counted.push(item.st_ino);
        }
        taken
    }

    fn send(mut self: Box<Self>, result: Result<(), Errno>) {
        let sent = match result {
            Ok(()) => self.answer.call.answer(&[&self.out]),
            Err(errno) => {
                self.answer.call.refuse(errno.0);
                false
            }
        };
        if sent {
            self.counted.clear();
        }
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.answer.call.refuse(libc::EIO);
        // The kernel was told of none of them.
        for node in self.counted.drain(..) {
            self.answer.forget(NodeId(node));
        }
    }
}
