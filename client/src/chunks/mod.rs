//! Chunks: uploaded once to a placement group, read from whichever replica gives intact bytes first.

mod cache;
mod get;
mod naming;
mod put;

use weft_core::ids::{ChunkId, PgId};

pub(crate) use cache::{Cell, PIECE, ReadCache};
pub(crate) use naming::{Naming, Stored, Ticket};

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) chunk: ChunkId,
    pub(crate) pg: PgId,
    /// Its length in bytes.
    pub(crate) len: u32,
}
