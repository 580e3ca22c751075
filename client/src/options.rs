//! Settings of a client: data, printable, each with its unit and default.

use std::time::Duration;

/// How a client connects and how much it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Addresses of some nodes of the site, `host:port`. One that answers is enough; the others are learned from it.
    pub addrs: Vec<String>,
    /// How long an operation is tried before it fails with [`crate::Error::Unknown`]. Default 60 s. Shorten it where an
    /// error is better than waiting; lengthen it to sit out longer outages.
    pub deadline: Duration,
    /// How long one attempt at one node may take before another node is tried. Default 3 s.
    pub attempt: Duration,
    /// Unwritten bytes of one file held before writers wait. Default 32 MiB.
    pub file_dirty_bytes: u64,
    /// Unwritten bytes of all files held before writers wait. Default 64 MiB.
    pub client_dirty_bytes: u64,
    /// Chunk uploads of one file under way at once. Default 4.
    pub uploads_per_file: usize,
    /// How far sequential reads are fetched ahead, in bytes; 0 turns it off. Default 16 MiB.
    pub readahead_bytes: u64,
    /// Bytes of fetched chunks kept for reading. Default 64 MiB.
    pub read_cache_bytes: u64,
    /// After how long without an answer a chunk is asked of a second replica as well. Default 300 ms.
    pub hedge_after: Duration,
    /// How long what was read of a file's map and attributes is trusted without asking again. Default 1 s.
    pub map_ttl: Duration,
    /// After how long without writes a file's written data is committed by itself. Default 1 s.
    pub flush_after: Duration,
    /// Connections for chunk data to each node. Default 2.
    pub data_connections: usize,
    /// Whether changes below directories that this client made may be answered under a write lease and sent later, in
    /// order and within a second: durable at [`crate::File::flush`], [`crate::Volume::sync`] and
    /// [`crate::Client::close`]. Default no: every answer is durable. Mounts turn it on.
    pub write_leases: bool,
}

impl ConnectOptions {
    /// Defaults, with the addresses of some nodes.
    pub fn new<A: Into<String>>(addrs: impl IntoIterator<Item = A>) -> ConnectOptions {
        ConnectOptions {
            addrs: addrs.into_iter().map(Into::into).collect(),
            deadline: Duration::from_secs(60),
            attempt: Duration::from_secs(3),
            file_dirty_bytes: 32 << 20,
            client_dirty_bytes: 64 << 20,
            uploads_per_file: 4,
            readahead_bytes: 16 << 20,
            read_cache_bytes: 64 << 20,
            hedge_after: Duration::from_millis(300),
            map_ttl: Duration::from_secs(1),
            flush_after: Duration::from_secs(1),
            data_connections: 2,
            write_leases: false,
        }
    }
}
