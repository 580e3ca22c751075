//! Which chunks nobody names and nobody ever will.
//!
//! A chunk that has no count may be named by its uploader alone, in a live session, and never while it is among the
//! freed (`map.rs`). The end of a session is final, and so is the freeing of a chunk: the record of it goes only once the
//! session has ended (`step/take.rs`). So both answers here stay true for ever, also if they are read from records that
//! are behind; what is *not* known (a session, a space of another group) says nothing and keeps its chunks.

use std::ops::ControlFlow;

use crate::codec::{self, ChunkRef};
use crate::ids::{ChunkId, PgId, SpaceId};
use crate::keys;
use crate::machine::{ChunkState, chunk_state};
use crate::namespace::records::{self, damaged};
use crate::namespace::session;
use crate::view::{View, ViewError};

/// A chunk that was named, is no more, and whose replicas may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// Of which space.
    pub space: SpaceId,
    /// Which.
    pub chunk: ChunkId,
    /// Where its replicas are.
    pub pg: PgId,
    /// Whether its uploader's session has ended, so that the record may go too.
    pub ended: bool,
}

/// Freed chunks of all spaces behind `after`, at most `limit`.
///
/// # Errors
/// The store failed.
pub fn freed(view: &dyn View, after: Option<(SpaceId, ChunkId)>, limit: usize) -> Result<Vec<Freed>, ViewError> {
    let (mut from, to) = keys::all_freed();
    if let Some((space, chunk)) = after {
        from = [&keys::freed(space, chunk)[..], &[0]].concat().into();
    }
    let mut found: Vec<Freed> = Vec::new();
    records::scan(view, (from, to), |key, value| {
        if found.len() >= limit {
            return Ok(ControlFlow::Break(()));
        }
        let (space, chunk) = keys::space_chunk(key).map_err(|err| damaged(key, &err))?;
        let ChunkRef { pg, .. } = codec::decode(value).map_err(|err| damaged(key, &err))?;
        let last = found.last().filter(|last| (last.space, last.chunk.client) == (space, chunk.client));
        let ended = match last {
            Some(last) => last.ended,
            None => session::has_ended(view, chunk.client, space)?,
        };
        found.push(Freed { space, chunk, pg, ended });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Of these chunks of a space, those whose replicas may go wherever they are: freed ones, and those that nothing names
/// and whose uploader's session is known and has ended.
///
/// # Errors
/// The store failed.
pub fn garbage(view: &dyn View, space: SpaceId, chunks: &[ChunkId]) -> Result<Vec<ChunkId>, ViewError> {
    let mut found = Vec::new();
    for chunk in chunks {
        if matches!(chunk_state(view, space, *chunk)?, ChunkState::Freed { .. } | ChunkState::Abandoned) {
            found.push(*chunk);
        }
    }
    Ok(found)
}
