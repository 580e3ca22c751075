//! The mount: kernel requests become calls of the client library, and its answers the kernel's.
//!
//! The way of a request: the kernel -> `dev_fuse` (the transport; alone knows how the kernel speaks) -> [`request`] (owned requests
//! and reply handles) -> `fs` (one file per kind of request) -> `weft-client`. What finishes without waiting, as writes
//! into the client's buffers and reads from its caches do, is answered on the transport's own threads; the rest moves
//! to the tokio runtime.
//!
//! # What always holds
//! - The kernel believes entries and attributes for at most one second, and never that a name does not exist.
//! - Closing or syncing a file makes what was written durable and visible elsewhere; who opens it after that sees it.
//! - Nothing that waits for a server or a lock runs on the transport's threads.
//! - A signal frees whoever waits for a site that hangs; what was begun goes on.
//! - Nothing is kept of an inode that the kernel has forgotten.

mod cred;
mod cursor;
mod detach;
mod dev_fuse;
mod fs;
mod handles;
mod inodes;
mod mount;
mod mountinfo;
mod notices;
pub mod request;
mod tasks;

pub use mount::{MountError, MountOptions, Mounted, mount};
