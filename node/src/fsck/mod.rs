//! What this node answers to `weft fsck`: recounts and digests of the records it holds, and rereading of its chunks.
//!
//! Nothing here changes anything. Long work runs in pieces, each short enough that nobody waits for it, on views that
//! stay as they are; so many at a time, the next is told to come back.

mod records;
mod service;
mod verify;

pub use service::FsckService;
