//! The loops that read requests from `/dev/fuse`, and the agreement with the kernel before them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::BufMut;
use tokio::runtime::Handle;

use super::abi::{self, init, opcode};
use super::calls::{Calls, send};
use super::fields::Header;
use super::serve::serve;
use crate::request::{Handler, Invalidate, NodeId};

/// Bytes of one read or write request: what the kernel's default of 256 pages allows.
pub(crate) const MAX_REQUEST: u32 = 1 << 20;
/// Requests that the kernel lets wait in the background (read-ahead, asynchronous direct I/O, releases).
const MAX_BACKGROUND: u16 = 128;
const PAGE: u32 = 4096;
/// Room for the longest request: header and fields of a write, or names and values, beside its data.
const BUFFER: usize = MAX_REQUEST as usize + 128 * 1024;

/// What is asked of the kernel. Not asked for: `ATOMIC_O_TRUNC` (it truncates running programs), the writeback cache
/// (it ignores sizes that the server knows better), locks (kept by the kernel, for this mount alone), `SETXATTR_EXT`
/// (its one flag says what the servers decide by the same rule: whose access lists clear set-group-id).
const WANTED: [(u64, &str); 12] = [
    (init::ASYNC_READ, "ASYNC_READ"),
    (init::BIG_WRITES, "BIG_WRITES"),
    (init::ASYNC_DIO, "ASYNC_DIO"),
    (init::MAX_PAGES, "MAX_PAGES"),
    (init::PARALLEL_DIROPS, "PARALLEL_DIROPS"),
    (init::DO_READDIRPLUS, "DO_READDIRPLUS"),
    (init::READDIRPLUS_AUTO, "READDIRPLUS_AUTO"),
    // Without it each write costs a question for security.capability first.
    (init::HANDLE_KILLPRIV_V2, "HANDLE_KILLPRIV_V2"),
    // Pages are dropped by us, exactly when somebody else changed the file; on its own the kernel would drop them
    // after this mount's own writes too.
    (init::EXPLICIT_INVAL_DATA, "EXPLICIT_INVAL_DATA"),
    // A symlink's target never changes and inode numbers are never reused.
    (init::CACHE_SYMLINKS, "CACHE_SYMLINKS"),
    // Access lists are honoured, which then decide whether the umask counts: the servers apply it.
    (init::POSIX_ACL, "POSIX_ACL"),
    (init::DONT_MASK, "DONT_MASK"),
];

/// A mounted `/dev/fuse`, agreed with the kernel.
pub(crate) struct Session {
    device: Arc<File>,
    handler: Arc<dyn Handler>,
    calls: Arc<Calls>,
}

impl Session {
    /// Agrees with the kernel on how they speak.
    pub(crate) fn new(device: File, handler: Arc<dyn Handler>, runtime: Handle) -> io::Result<Session> {
        let device = Arc::new(device);
        let mut buffer = vec![0; BUFFER];
        loop {
            let Some(len) = read(&device, &mut buffer)? else {
                return Err(io::Error::other("the kernel took the mount away before it began"));
            };
            if agree(&device, &buffer[..len])? {
                return Ok(Session { device, handler, calls: Calls::new(runtime) });
            }
        }
    }

    /// What tells the kernel to drop what it caches.
    pub(crate) fn notifier(&self) -> Notifier {
        Notifier(self.device.clone())
    }

    /// Serves the kernel by so many loops until the mount ends.
    pub(crate) fn run(self, loops: usize) -> io::Result<()> {
        let mut devices = vec![self.device.clone()];
        for _ in 1..loops {
            devices.push(Arc::new(another(&self.device)?));
        }
        let threads: Vec<_> = devices
            .into_iter()
            .enumerate()
            .map(|(number, device)| {
                let (handler, calls) = (self.handler.clone(), self.calls.clone());
                let work = move || run_loop(&device, &handler, &calls);
                std::thread::Builder::new().name(format!("weft-fuse-{number}")).spawn(work)
            })
            .collect::<io::Result<_>>()?;
        let mut result = Ok(());
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the mount panicked")));
            result = result.and(ended);
        }
        result
    }
}

fn run_loop(device: &Arc<File>, handler: &Arc<dyn Handler>, calls: &Arc<Calls>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while let Some(len) = read(device, &mut buffer)? {
        let Ok((header, fields)) = Header::parse(&buffer[..len]) else {
            return Err(io::Error::other(format!("the kernel sent a request of {len} bytes")));
        };
        match header.opcode {
            opcode::INTERRUPT => match { fields }.u64() {
                Ok(unique) => calls.interrupt(unique),
                Err(_) => tracing::warn!("an interrupt names no request"),
            },
            opcode::DESTROY => {
                calls.begin(header.unique, device).answer(&[]);
                return Ok(());
            }
            _ => serve(header, fields, &calls.begin(header.unique, device), handler),
        }
    }
    Ok(())
}

/// Reads one request; `None`: the mount is gone.
fn read(device: &File, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut device = device;
    loop {
        match device.read(buffer) {
            Ok(len) => return Ok(Some(len)),
            Err(error) => match error.raw_os_error() {
                // ENOENT: a signal made the kernel give up the request that was to be read.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => {}
                Some(libc::ENODEV) => return Ok(None),
                _ => return Err(error),
            },
        }
    }
}

/// Answers INIT; `false`: the kernel is newer and asks again.
fn agree(device: &File, request: &[u8]) -> io::Result<bool> {
    let short = |_| io::Error::other("the kernel's first request is too short");
    let (header, mut fields) = Header::parse(request).map_err(short)?;
    if header.opcode != opcode::INIT {
        return Err(io::Error::other(format!("the kernel's first request is of kind {}", header.opcode)));
    }
    let (major, minor) = (fields.u32().map_err(short)?, fields.u32().map_err(short)?);
    let mut out = Vec::with_capacity(64);
    if major > abi::MAJOR {
        out.put_u32_ne(abi::MAJOR);
        out.put_u32_ne(abi::MINOR);
        out.put_bytes(0, 56);
        send(device, 0, header.unique, &[&out])?;
        return Ok(false);
    }
    if (major, minor) < (abi::MAJOR, abi::OLDEST_MINOR) {
        send(device, -libc::EPROTO, header.unique, &[])?;
        return Err(io::Error::other(format!(
            "the kernel speaks FUSE {major}.{minor}; {}.{} or newer is needed (Linux 4.20)",
            abi::MAJOR,
            abi::OLDEST_MINOR
        )));
    }
    let (read_ahead, low) = (fields.u32().map_err(short)?, u64::from(fields.u32().map_err(short)?));
    // Older kernels send nothing here.
    let high = if low & init::INIT_EXT != 0 { u64::from(fields.u32().unwrap_or(0)) << 32 } else { 0 };
    let offered = low | high;
    let wanted = WANTED.iter().fold(init::INIT_EXT, |all, (flag, _)| all | flag);
    for (_, missing) in WANTED.iter().filter(|(flag, _)| offered & flag == 0) {
        tracing::debug!(flag = missing, "the kernel does not offer");
    }
    let agreed = offered & wanted;
    for word in [abi::MAJOR, abi::MINOR, read_ahead, agreed as u32] {
        out.put_u32_ne(word);
    }
    out.put_u16_ne(MAX_BACKGROUND);
    out.put_u16_ne(MAX_BACKGROUND / 4 * 3);
    out.put_u32_ne(MAX_REQUEST);
    // Times are kept to the nanosecond.
    out.put_u32_ne(1);
    out.put_u16_ne((MAX_REQUEST / PAGE) as u16);
    out.put_u16_ne(0);
    out.put_u32_ne((agreed >> 32) as u32);
    out.put_bytes(0, 28);
    send(device, 0, header.unique, &[&out])?;
    tracing::debug!(major, minor, read_ahead, agreed, "mount settings agreed");
    Ok(true)
}

/// Another descriptor of the same mount, which takes requests of its own.
fn another(device: &File) -> io::Result<File> {
    /// `FUSE_DEV_IOC_CLONE`, `_IOR(229, 0, uint32_t)`.
    const CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
    let new = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let source = device.as_raw_fd() as u32;
    // SAFETY: the call reads the four bytes of `source`, which live through it, and both descriptors are open.
    if unsafe { libc::ioctl(new.as_raw_fd(), CLONE, &source) } == 0 { Ok(new) } else { Err(io::Error::last_os_error()) }
}

/// Drops what the kernel has cached.
pub(crate) struct Notifier(Arc<File>);

impl Notifier {
    fn drop_cached(&self, node: NodeId, offset: i64) -> io::Result<()> {
        let mut out = Vec::with_capacity(24);
        out.put_u64_ne(node.0);
        out.put_i64_ne(offset);
        // To the end.
        out.put_i64_ne(0);
        match send(&self.0, abi::NOTIFY_INVAL_INODE, 0, &[&out]) {
            // The kernel holds nothing of the inode.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

impl Invalidate for Notifier {
    fn inode(&self, node: NodeId) -> io::Result<()> {
        self.drop_cached(node, 0)
    }

    fn attributes(&self, node: NodeId) -> io::Result<()> {
        // A negative offset leaves the pages alone.
        self.drop_cached(node, -1)
    }
}
