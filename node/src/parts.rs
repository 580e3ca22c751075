//! The seams: everything a node does to the outside goes through these traits. The release binary passes the real
//! parts, the simulator its own, and the code between is the same.
//!
//! What may block has no seam of its own: it lies behind the seam of what it waits for. Files are written by threads
//! behind [`Disk`]; the databases' calls that wait for a disk (opening, wiping, persisting) are handed to tokio's blocking threads
//! inside the real [`RecordStores`] and [`ChunkIndexes`]. So no code between the seams starts a thread or hands work to
//! one, and in the simulator everything runs where it is called.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use weft_core::time::Timestamp;
use weft_proto::link::{Dial, Listen};

use crate::chunk::index::ChunkIndexes;
use crate::records::RecordStores;

/// All parts of one node.
#[derive(Clone)]
pub struct Parts {
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub dice: Arc<dyn Dice>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Outgoing connections.
    pub dial: Arc<dyn Dial>,
    /// Incoming connections.
    pub listen: Arc<dyn Listen>,
    /// Datagrams.
    pub datagrams: Arc<dyn Datagrams>,
    /// Where meta groups keep their records.
    pub records: Arc<dyn RecordStores>,
    /// Where the chunk server keeps its index.
    pub indexes: Arc<dyn ChunkIndexes>,
}

/// The wall clock. Durations are measured with tokio's time, never with this.
pub trait Clock: Send + Sync + 'static {
    /// Now. May jump, also backwards.
    fn now(&self) -> Timestamp;
}

/// Randomness.
pub trait Dice: Send + Sync + 'static {
    /// 64 random bits.
    fn roll(&self) -> u64;
}

/// Opens sockets for datagrams.
#[async_trait::async_trait]
pub trait Datagrams: Send + Sync + 'static {
    /// Opens a socket at `addr`, `host:port`; port 0 takes any.
    async fn bind(&self, addr: &str) -> io::Result<Arc<dyn DatagramSocket>>;
}

/// A socket for datagrams, in the shape in which QUIC takes sockets: it never blocks, and says when to try again.
///
/// A datagram that was sent may be lost, doubled, or overtaken by later ones. It arrives whole or not at all; who it is
/// from may be a lie.
pub trait DatagramSocket: Send + Sync + Debug + 'static {
    /// Where it is bound, with the real port.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// Hands a datagram to the network. `WouldBlock`: wait for [`DatagramSocket::poll_send_ready`] and try again.
    fn try_send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()>;
    /// Ready when sending is worth another try; it may still be refused then. Wakes the last task that asked.
    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// The next datagram's length and sender; what of it does not fit into `buf` is lost. Wakes the last task that
    /// asked.
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>>;
}

/// Called once when a durable write is on media or has failed; may run on any thread and must not block.
pub type WriteDone = Box<dyn FnOnce(io::Result<()>) + Send + 'static>;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist; only reads.
    Read,
    /// It must exist; reads and writes.
    Write,
    /// Made if missing, with this many zero bytes really written (not only allocated), and durable as such, so that
    /// later durable writes within it change no file-system metadata. Reads and writes.
    Create {
        /// Its length.
        len: u64,
    },
    /// Made if missing, with room for this many bytes taken from the disk but not written; they read as zeroes. Costs
    /// no writing now, and a little more at the first write of each place. Reads and writes.
    Reserve {
        /// Its length.
        len: u64,
    },
}

impl OpenMode {
    /// The length at least of a file that is made if it is missing.
    pub fn makes(self) -> Option<u64> {
        match self {
            OpenMode::Read | OpenMode::Write => None,
            OpenMode::Create { len } | OpenMode::Reserve { len } => Some(len),
        }
    }
}

/// A disk: one folder tree of a node. Paths are relative to its root.
#[async_trait::async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Names in a folder, sorted; empty if the folder is missing.
    async fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Makes a folder and its parents, durably.
    async fn make_folder(&self, folder: &Path) -> io::Result<()>;
    /// Renames a file over another, durably.
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, durably.
    async fn remove(&self, path: &Path) -> io::Result<()>;
    /// A small file's bytes; `NotFound` if missing.
    async fn read_small(&self, path: &Path) -> io::Result<Bytes>;
    /// Replaces a small file: after a crash either the old or the new bytes are there. Durable when it returns.
    async fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Size and free bytes of the file system below.
    async fn space(&self) -> io::Result<Space>;
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All.
    pub total_bytes: u64,
    /// Free to an ordinary user.
    pub free_bytes: u64,
}

/// An open file.
///
/// What `write` wrote may be lost, torn at 512 bytes or reordered by a crash until a later `write_durable` or `sync` on
/// the same file has completed.
#[async_trait::async_trait]
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> u64;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Exactly `len` bytes from `offset`; `UnexpectedEof` beyond the end.
    async fn read(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// Says that a span will be read soon; the disk may begin to fetch it. Never blocks and never fails.
    fn will_read(&self, _offset: u64, _len: u64) {}
    /// Queues a write of the parts one behind the other from `offset`, calls `done` once it and everything queued on
    /// this file before it is on media. Never blocks. Writes queued while another is under way share one flush (group
    /// commit). Writes to the file take effect in the order they were queued.
    fn write_durable(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone);
    /// Queues a write without waiting for media.
    fn write(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone);
    /// Everything queued before is on media when it returns.
    async fn sync(&self) -> io::Result<()>;
    /// Gives a span's space back to the file system; it reads as zeroes.
    async fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// [`DiskFile::write_durable`] as a future.
pub async fn write_durable(file: &dyn DiskFile, offset: u64, parts: Vec<Bytes>) -> io::Result<()> {
    let (done, wait) = tokio::sync::oneshot::channel();
    file.write_durable(
        offset,
        parts,
        Box::new(move |result| {
            // Whoever no longer waits no longer needs the answer.
            let _ = done.send(result);
        }),
    );
    wait.await.unwrap_or_else(|_| Err(io::Error::other("the disk was shut down")))
}
