//! Every bound in one place, with what happens when it is reached.

/// Bytes of file data in one chunk. Longer writes become several chunks.
pub const MAX_CHUNK: u32 = 4 << 20;
/// Bytes under one checksum.
pub const BLOCK: u32 = 4096;
/// Bytes of file data kept inside an extent record. More goes into a chunk.
pub const MAX_INLINE: u32 = 4096;
/// Length of one extent; longer stretches are several extents, so that any span touches few of them.
pub const MAX_EXTENT: u64 = MAX_CHUNK as u64;
/// Bytes of one name in a directory: `ENAMETOOLONG` beyond.
pub const MAX_NAME: usize = 255;
/// Bytes of a symbolic link's target: `ENAMETOOLONG` beyond.
pub const MAX_SYMLINK: usize = 4095;
/// Hard links of one file: `EMLINK` beyond.
pub const MAX_LINKS: u32 = 65_000;
/// Size of a file in bytes: `EFBIG` beyond.
pub const MAX_FILE: u64 = 1 << 50;
/// Depth of a directory tree, walked by the loop check of rename: `ELOOP` beyond.
pub const MAX_DEPTH: u32 = 4096;
/// Bytes of an extended attribute's name (Linux): `ERANGE` beyond.
pub const MAX_XATTR_NAME: usize = 255;
/// Bytes of an extended attribute's value (Linux): `E2BIG` beyond.
pub const MAX_XATTR_VALUE: usize = 65_536;
/// Bytes of all names that listxattr returns for one inode (Linux): `ENOSPC` when a set would exceed it.
pub const MAX_XATTR_LIST: usize = 65_536;
/// Entries of one POSIX access list: a longer one is refused as invalid.
pub const MAX_ACL: usize = 128;
/// Extents in one commit. The client cuts longer lists into several commits.
pub const MAX_COMMIT_EXTENTS: usize = 512;
/// Records one command changes at the most. What would exceed it is cut in one record and finished in steps.
pub const MAX_CHANGES: usize = 4096;
/// Extents of bytes in one file from which on they are compacted into chunks.
pub const COMPACT_FROM: u32 = 64;
/// Records one background step removes.
pub const STEP_RECORDS: usize = 1024;
/// Orphans that one background step looks at: few, since nothing else is applied meanwhile.
pub const STEP_ORPHANS: usize = 16;
/// Entries in one answer to a readdir.
pub const MAX_READDIR: u32 = 4096;
/// Extents in one answer to a map query.
pub const MAX_MAP: u32 = 4096;
/// Requests of one session in flight or unacknowledged. Beyond it the server answers `WindowFull`.
pub const MAX_WINDOW: u64 = 1024;
/// Supplementary groups in an envelope; further ones are refused.
pub const MAX_GIDS: usize = 1024;
/// Bytes of one encoded command: `TooLarge` beyond.
pub const MAX_COMMAND: usize = 4 << 20;
/// Bytes of one gRPC message: refused by the transport beyond.
pub const MAX_MESSAGE: usize = 8 << 20;
/// Seconds a leader's time may run ahead of its followers'.
pub const MAX_TIME_AHEAD_S: u64 = 5;
/// Largest replication factor.
pub const MAX_REPLICATION: u8 = 3;
/// Placement groups made for each replication factor at the least.
pub const PGS_PER_FACTOR: u32 = 16;
/// Placement groups of a factor for each chunk server, where that is more.
pub const PGS_PER_SERVER: u32 = 4;
/// Placement groups for which one chunk server copies at a time because the planner moved them there; others wait.
pub const MOVES_PER_NODE: usize = 4;
/// Members that are copying to become new members, in the whole site; others wait.
pub const MOVES_PER_SITE: usize = 16;
/// Placement groups that move at a time only so that servers hold equally many.
pub const SPREADS_AT_ONCE: usize = 4;
/// Voters of a meta group at the most; further meta nodes hold no replica of it.
pub const MAX_VOTERS: usize = 5;
/// Client ids handed out in one call at the most.
pub const MAX_CLIENT_IDS: u32 = 1024;
/// Placement groups of one replication factor at the most; more chunk servers share them.
pub const MAX_PGS_PER_FACTOR: u32 = 256;
/// Bytes that one fallocate reserves at the most: `ENOSPC` beyond.
pub const MAX_RESERVE: u64 = 256 << 30;
/// Extents of a file that a truncation removes at once; more are left to steps.
pub const MAX_CUT_NOW: usize = 512;
/// Pieces of the source's map that one copy-range shares; what is left is the caller's to ask for again.
pub const MAX_COPY_PIECES: usize = 512;
/// Extents of a file's map that come along with the answer to an open.
pub const OPEN_MAP: u32 = 256;
/// Write leases of one session at the most: asking for another is refused, and the client works without.
pub const MAX_LEASES: usize = 64;
/// For so long the holder of write leases goes on by itself, counted from the sending of the last request that was
/// answered with them still held, in milliseconds.
pub const LEASE_MS: u32 = 5_000;
/// Inode numbers given with one answer to a request for a write lease.
pub const MAX_LEASE_NUMBERS: u32 = 65_536;
/// Held-back changes in one entry.
pub const MAX_HELD: usize = 1024;
/// Records that one entry of held-back changes changes, as its client counted them; well below [`MAX_CHANGES`].
pub const MAX_HELD_WEIGHT: usize = 2048;
/// Orphans and cuts that one list of pending steps names.
pub const MAX_PENDING: usize = 8192;
