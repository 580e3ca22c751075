//! Reading: what this client wrote, over the committed map, over holes; sequential readers are fetched ahead of.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use weft_core::entry::Cred;
use weft_core::refusal::Refusal;
use weft_core::span::Span;

use super::dirty::{Source, gaps};
use super::state::{FileState, Inner};
use crate::chunks::{Cell, PIECE, Place};
use crate::error::{Error, Result};

/// Chunk reads of one call under way at once.
const AT_ONCE: usize = 8;
/// Questions about the map in one read; a file whose map changes faster than it can be asked for fails.
pub(super) const MOST_RELOADS: u32 = 64;
/// A read no further from the last one's end than this follows it: requests of one reader arrive out of order.
const NEAR: u64 = 256 << 10;
/// A first read of this length or more begins a sequential one.
const LONG: u64 = 16 << 10;

/// Where a handle's reader is, to see whether it goes on from there.
#[derive(Default)]
pub(super) struct Reader {
    expect: u64,
    follows: u32,
    window: u64,
}

impl Reader {
    /// A read of `span` in a file of `size` bytes: whether whole pieces should be fetched for it, and how far ahead.
    fn note(&mut self, span: Span, size: u64, most: u64) -> (bool, u64) {
        let near = NEAR.max(2 * span.len());
        if span.start > self.expect + near || span.start + near < self.expect {
            *self = Reader { expect: span.end, follows: 0, window: 0 };
            return (false, 0);
        }
        self.expect = self.expect.max(span.end);
        self.follows += 1;
        if self.follows == 1 {
            return (span.len() >= LONG || size <= u64::from(PIECE), 0);
        }
        self.window = (self.window * 2).max(u64::from(PIECE)).min(most);
        (true, self.window)
    }
}

/// Some of the bytes asked for.
enum Part {
    Here(Bytes),
    Zero(u64),
    Ahead(Arc<Cell>, Place, u32, u32),
    Fetch(Place, u32, u32),
}

impl Inner {
    /// Where the bytes of a span are, or from where on the map must be asked for.
    pub(super) fn sources(&self, span: Span) -> Result<Vec<(Span, Source)>, u64> {
        let mut all = self.dirty.sources(span);
        for gap in uncovered(span, &all) {
            all.extend(self.committing.sources(gap));
        }
        all.sort_by_key(|(part, _)| part.start);
        for gap in uncovered(span, &all) {
            all.extend(self.map.sources(gap)?);
        }
        all.sort_by_key(|(part, _)| part.start);
        Ok(all)
    }
}

fn uncovered(span: Span, sources: &[(Span, Source)]) -> Vec<Span> {
    let covered: Vec<Span> = sources.iter().map(|(part, _)| *part).collect();
    gaps(span, &covered)
}

impl FileState {
    /// Up to `len` bytes from `offset`; fewer only at the file's end.
    pub(super) async fn read(
        self: &Arc<Self>,
        cred: &Cred,
        reader: &Mutex<Reader>,
        offset: u64,
        len: u64,
    ) -> Result<Bytes> {
        self.session.check()?;
        self.revalidate(cred).await?;
        let mut patient = false;
        let mut noted = None;
        for _ in 0..MOST_RELOADS {
            let (span, size, planned) = {
                let inner = self.lock();
                let size = inner.size();
                let end = offset.saturating_add(len).min(size);
                if end <= offset {
                    return Ok(Bytes::new());
                }
                let span = Span { start: offset, end };
                (span, size, inner.sources(span))
            };
            let sources = match planned {
                Ok(sources) => sources,
                Err(from) => {
                    self.load_map(cred, from).await?;
                    continue;
                }
            };
            let (whole_pieces, ahead) =
                *noted.get_or_insert_with(|| reader.lock().note(span, size, self.shared.options.readahead_bytes));
            let parts = self.parts(sources, whole_pieces);
            self.fetch_ahead(span.end, ahead);
            match self.join(span.len(), parts, patient).await {
                Err(Error::Refused(Refusal::NoChunk)) if !patient => {
                    // The map was old: its chunk is gone. Under the new one the chunk must be there.
                    self.lock().map.forget();
                    patient = true;
                }
                result => return result,
            }
        }
        Err(Error::Refused(Refusal::Unknown { why: "the file's map changes too fast to be read".into() }))
    }

    /// Cuts sources where pieces fetched ahead begin and end.
    fn parts(self: &Arc<Self>, sources: Vec<(Span, Source)>, whole_pieces: bool) -> Vec<Part> {
        let mut parts = Vec::with_capacity(sources.len());
        for (span, source) in sources {
            let (place, at, lo, hi) = match source {
                Source::Bytes(bytes) => {
                    parts.push(Part::Here(bytes));
                    continue;
                }
                Source::Zero => {
                    parts.push(Part::Zero(span.len()));
                    continue;
                }
                Source::Chunk { place, at, lo, hi } => (place, at, lo, hi),
            };
            let (mut at, end) = (at, at + span.len() as u32);
            while at < end {
                let cell = match whole_pieces {
                    true => self.shared.piece(self.volume.space, place, (lo, hi), at),
                    false => self.shared.cache.find(place.chunk, at),
                };
                let Some(cell) = cell else {
                    parts.push(Part::Fetch(place, at, end - at));
                    break;
                };
                let to = end.min(cell.hi());
                parts.push(Part::Ahead(cell, place, at, to - at));
                at = to;
            }
        }
        parts
    }

    /// Begins to fetch what a sequential reader will ask for next.
    fn fetch_ahead(self: &Arc<Self>, from: u64, window: u64) {
        if window == 0 {
            return;
        }
        let sources = {
            let inner = self.lock();
            let end = (from + window).min(inner.size());
            if end <= from {
                return;
            }
            match inner.map.sources(Span { start: from, end }) {
                Ok(sources) => sources,
                // Asked for when the reader gets there.
                Err(_) => return,
            }
        };
        for (span, source) in sources {
            let Source::Chunk { place, at, lo, hi } = source else { continue };
            let (mut at, end) = (at, at + span.len() as u32);
            while at < end {
                match self.shared.piece(self.volume.space, place, (lo, hi), at) {
                    Some(cell) => at = cell.hi(),
                    None => return,
                }
            }
        }
    }

    async fn join(&self, len: u64, mut parts: Vec<Part>, patient: bool) -> Result<Bytes> {
        if parts.len() == 1 {
            // One stretch needs no copy.
            return self.bytes(parts.swap_remove(0), patient).await;
        }
        let mut all = BytesMut::with_capacity(len as usize);
        let fetched = stream::iter(parts.into_iter().map(|part| self.bytes(part, patient))).buffered(AT_ONCE);
        tokio::pin!(fetched);
        while let Some(bytes) = fetched.try_next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    async fn bytes(&self, part: Part, patient: bool) -> Result<Bytes> {
        let (place, at, len) = match part {
            Part::Here(bytes) => return Ok(bytes),
            Part::Zero(len) => return Ok(Bytes::from(vec![0; len as usize])),
            Part::Ahead(cell, place, at, len) => match cell.wait(at, len).await {
                Ok(bytes) => return Ok(bytes),
                // Whoever fetched ahead did not try as hard as this reader will.
                Err(_) => (place, at, len),
            },
            Part::Fetch(place, at, len) => (place, at, len),
        };
        self.shared.get_chunk(self.volume.space, place, at, len, patient).await
    }
}
