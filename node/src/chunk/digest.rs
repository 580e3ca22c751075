//! Digests over ranges of ids: two servers compare what they hold without listing it.
//!
//! The answering server cuts its ids into ranges of so many each; the asking one makes the digests of the same ranges
//! over what it holds. Where two differ, and only there, ids are listed. A digest is a sum of well mixed numbers, one for
//! each chunk, so it does not depend on the order and two sets that differ have the same one by chance once in 2^64.

use weft_core::ids::{ChunkId, PgId, SpaceId};
use weft_core::refusal::Refusal;

use super::books;
use super::index::{ChunkKey, Place};
use super::store::Store;

/// What orders the chunks of a placement group.
pub(crate) type At = (SpaceId, ChunkId);

/// Chunks read from the index at a time; others have their turn in between.
const PAGE: usize = 512;

/// The chunks of one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The last one; the range begins behind the last one of the range before.
    pub(crate) last: At,
    /// How many.
    pub(crate) chunks: u64,
    /// Sum of their marks.
    pub(crate) digest: u64,
}

/// A number for a chunk, the same on all servers.
fn mark(key: ChunkKey, len: u32) -> u64 {
    books::mark(key, Place { segment: 0, offset: 0, len })
}

/// At most `ranges` ranges of `each` chunks behind `after`, and whether the last of them ends with the last chunk.
///
/// # Errors
/// The index is damaged.
pub(crate) async fn ranges(
    store: &Store,
    pg: PgId,
    mut after: Option<At>,
    ranges: usize,
    each: usize,
) -> Result<(Vec<Range>, bool), Refusal> {
    let mut out: Vec<Range> = Vec::new();
    loop {
        let page = store.list(pg, after, PAGE)?;
        let end = page.len() < PAGE;
        for (key, len) in page {
            let at = (key.space, key.chunk);
            if out.last().is_none_or(|range| range.chunks == each as u64) {
                if out.len() == ranges {
                    return Ok((out, false));
                }
                out.push(Range { last: at, chunks: 0, digest: 0 });
            }
            if let Some(range) = out.last_mut() {
                add(range, key, len);
            }
            after = Some(at);
        }
        if end {
            return Ok((out, true));
        }
        tokio::task::yield_now().await;
    }
}

/// The chunks behind `after` up to `last`, as one range.
///
/// # Errors
/// The index is damaged.
pub(crate) async fn range(store: &Store, pg: PgId, mut after: Option<At>, last: At) -> Result<Range, Refusal> {
    let mut out = Range { last, chunks: 0, digest: 0 };
    loop {
        let page = store.list(pg, after, PAGE)?;
        let end = page.len() < PAGE;
        for (key, len) in page {
            let at = (key.space, key.chunk);
            if at > last {
                return Ok(Range { last, ..out });
            }
            add(&mut out, key, len);
            after = Some(at);
        }
        if end {
            return Ok(Range { last, ..out });
        }
        tokio::task::yield_now().await;
    }
}

fn add(range: &mut Range, key: ChunkKey, len: u32) {
    range.last = (key.space, key.chunk);
    range.chunks += 1;
    range.digest = range.digest.wrapping_add(mark(key, len));
}
