//! How written stretches are stored at a flush: which become chunks, which share one, which ride in the commit.

use weft_core::limits::{MAX_CHUNK, MAX_COMMIT_EXTENTS, MAX_INLINE};
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::span::Span;

/// More small bytes than this in one flush share chunks instead of riding in commits.
pub(super) const MOST_INLINE: u64 = 128 << 10;
/// Bytes in the extents of one commit at the most; well below the bound of a command.
const COMMIT_BYTES: usize = 1 << 20;

/// What to do with the stretches held at a flush.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FlushPlan {
    /// Each a chunk, of one or several stretches.
    pub(super) chunks: Vec<Vec<Span>>,
    /// These ride in the commit.
    pub(super) inline: Vec<Span>,
}

/// `runs` are in order and none is longer than a chunk.
pub(super) fn at_flush(runs: &[Span]) -> FlushPlan {
    let is_small = |run: &&Span| run.len() <= u64::from(MAX_INLINE);
    let small: Vec<Span> = runs.iter().filter(is_small).copied().collect();
    let mut plan = FlushPlan::default();
    plan.chunks.extend(runs.iter().filter(|run| !is_small(run)).map(|run| vec![*run]));
    if small.iter().map(|run| run.len()).sum::<u64>() <= MOST_INLINE {
        plan.inline = small;
    } else {
        plan.chunks.extend(packed(&small));
    }
    plan
}

/// Stretches packed into as few chunks as hold them in order.
pub(super) fn packed(runs: &[Span]) -> Vec<Vec<Span>> {
    let mut chunks: Vec<Vec<Span>> = Vec::new();
    let mut room = 0;
    for run in runs {
        match chunks.last_mut() {
            Some(last) if run.len() <= room => last.push(*run),
            _ => {
                chunks.push(vec![*run]);
                room = u64::from(MAX_CHUNK);
            }
        }
        room -= run.len();
    }
    chunks
}

/// Extents in as few commits as hold them, in order.
pub(super) fn commits(extents: Vec<Extent>) -> Vec<Vec<Extent>> {
    let mut commits: Vec<Vec<Extent>> = vec![Vec::new()];
    let mut bytes = 0;
    for extent in extents {
        let len = match &extent.body {
            ExtentBody::Inline(data) => data.len(),
            ExtentBody::Chunk { .. } | ExtentBody::Zero => 0,
        };
        let last = commits.len() - 1;
        if commits[last].len() == MAX_COMMIT_EXTENTS || (bytes + len > COMMIT_BYTES && !commits[last].is_empty()) {
            commits.push(vec![extent]);
            bytes = len;
        } else {
            commits[last].push(extent);
            bytes += len;
        }
    }
    commits
}
