//! Which chunks nobody names and nobody ever will.
//!
//! A chunk that has no count may be named by its uploader alone, in a live session, and never while it is among the
//! freed, nor below the counter of which its client said that it names none below any more (`map.rs`). That is final, as
//! the end of a session is, and the freeing of a chunk: the record of it goes only once one of the two has come about
//! (`step/take.rs`). So both answers here stay true for ever, also if they are read from records that
//! are behind; what is *not* known (a session, a space of another group) says nothing and keeps its chunks.
//!
//! A space all of whose volumes were deleted is known still, and no volume comes into it again: nothing can name a chunk
//! of it any more, whatever its sessions do.

use std::ops::ControlFlow;

use crate::codec::{self, ChunkRef, Head};
use crate::ids::{ChunkId, ClientId, PgId, SpaceId};
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
    /// Whether nobody can name it any more, so that the record may go too: its uploader's session has ended, or the
    /// uploader said so, or its space is gone.
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
    let mut known: Option<((SpaceId, ClientId), u64)> = None;
    records::scan(view, (from, to), |key, value| {
        if found.len() >= limit {
            return Ok(ControlFlow::Break(()));
        }
        let (space, chunk) = keys::space_chunk(key).map_err(|err| damaged(key, &err))?;
        let ChunkRef { pg, .. } = codec::decode(value).map_err(|err| damaged(key, &err))?;
        let from = match known {
            Some((of, from)) if of == (space, chunk.client) => from,
            _ if is_gone(view, space)? => u64::MAX,
            _ => session::nameable_from(view, chunk.client, space)?.unwrap_or(0),
        };
        known = Some(((space, chunk.client), from));
        let ended = chunk.counter < from;
        found.push(Freed { space, chunk, pg, ended });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Of these chunks of a space, those whose replicas may go wherever they are: freed ones, and those that nothing names
/// and whose uploader's session is known and has ended, or whose space is gone.
///
/// # Errors
/// The store failed.
pub fn garbage(view: &dyn View, space: SpaceId, chunks: &[ChunkId]) -> Result<Vec<ChunkId>, ViewError> {
    let gone = is_gone(view, space)?;
    let mut found = Vec::new();
    for chunk in chunks {
        match chunk_state(view, space, *chunk)? {
            ChunkState::Freed { .. } | ChunkState::Abandoned => found.push(*chunk),
            ChunkState::Open | ChunkState::Unknown if gone => found.push(*chunk),
            ChunkState::Named { .. } | ChunkState::Open | ChunkState::Unknown => {}
        }
    }
    Ok(found)
}

/// Whether a space was here, and all of its volumes are deleted, with all that named chunks. Final: a volume that was
/// deleted is not made again, and a new one gets a space of its own.
pub(crate) fn is_gone(view: &dyn View, space: SpaceId) -> Result<bool, ViewError> {
    if records::get::<bool>(view, &keys::space(space))?.is_none() {
        return Ok(false);
    }
    let mut used = false;
    let mut see = |head: Option<Head>| {
        used |= head.is_some_and(|head| head.space == space);
        if used { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    records::scan(view, keys::heads(), |key, value| {
        Ok(see(Some(codec::decode(value).map_err(|err| damaged(key, &err))?)))
    })?;
    records::scan(view, keys::all_dropped(), |key, value| {
        Ok(see(codec::decode(value).map_err(|err| damaged(key, &err))?))
    })?;
    Ok(!used)
}
