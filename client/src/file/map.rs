//! What is known of a file's committed map: which extents, and which parts of the file they were asked for. A value.

use std::collections::BTreeMap;

use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::span::Span;

use super::dirty::Source;
use crate::chunks::Place;

/// More extents than this are not kept: the file's map is asked for again in pieces.
const MOST_EXTENTS: usize = 64 << 10;

/// The part of a committed map that is known.
#[derive(Default)]
pub(super) struct Map {
    extents: BTreeMap<u64, Extent>,
    /// Parts of the file for which `extents` says all: start -> end, apart from each other.
    known: BTreeMap<u64, u64>,
}

impl Map {
    /// A map known to be empty everywhere.
    pub(super) fn empty() -> Map {
        Map { extents: BTreeMap::new(), known: BTreeMap::from([(0, u64::MAX)]) }
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        *self = Map::default();
    }

    /// Learns that `span` holds exactly these extents.
    pub(super) fn learn(&mut self, span: Span, extents: Vec<Extent>) {
        if self.extents.len() > MOST_EXTENTS {
            self.forget();
        }
        self.clear(span);
        self.know(span);
        for extent in extents {
            let whole = Span { start: extent.offset, end: extent.offset + u64::from(extent.len) };
            if let Some(part) = whole.overlap(span) {
                self.extents.insert(part.start, clip(&extent, part));
            }
        }
    }

    /// An extent was committed over what was there.
    pub(super) fn overlay(&mut self, extent: Extent) {
        let span = Span { start: extent.offset, end: extent.offset + u64::from(extent.len) };
        self.clear(span);
        self.know(span);
        self.extents.insert(span.start, extent);
    }

    /// The file was cut: nothing is at and beyond `size`.
    pub(super) fn cut(&mut self, size: u64) {
        let beyond = Span { start: size, end: u64::MAX };
        self.clear(beyond);
        self.know(beyond);
    }

    /// Where the bytes of a span are, in order and without gaps; or the first byte of which it is not known.
    pub(super) fn sources(&self, span: Span) -> Result<Vec<(Span, Source)>, u64> {
        let known = self.known.range(..=span.start).next_back().map_or(0, |(_, end)| *end);
        if known <= span.start {
            return Err(span.start);
        }
        if known < span.end {
            return Err(known);
        }
        let mut sources = Vec::new();
        let mut at = span.start;
        let before = self.extents.range(..span.start).next_back();
        for (start, extent) in before.into_iter().chain(self.extents.range(span.start..span.end)) {
            let Some(part) = Span { start: *start, end: start + u64::from(extent.len) }.overlap(span) else { continue };
            if part.start > at {
                sources.push((Span { start: at, end: part.start }, Source::Zero));
            }
            sources.push((part, source(extent, part)));
            at = part.end;
        }
        if at < span.end {
            sources.push((Span { start: at, end: span.end }, Source::Zero));
        }
        Ok(sources)
    }

    fn split(&mut self, at: u64) {
        if let Some((start, extent)) = self.extents.range(..at).next_back() {
            let whole = Span { start: *start, end: start + u64::from(extent.len) };
            if whole.end > at {
                let head = clip(extent, Span { start: whole.start, end: at });
                let tail = clip(extent, Span { start: at, end: whole.end });
                self.extents.insert(whole.start, head);
                self.extents.insert(at, tail);
            }
        }
    }

    fn clear(&mut self, span: Span) {
        self.split(span.start);
        self.split(span.end);
        while let Some(start) = self.extents.range(span.start..span.end).next().map(|(start, _)| *start) {
            self.extents.remove(&start);
        }
    }

    fn know(&mut self, span: Span) {
        let (mut start, mut end) = (span.start, span.end);
        while let Some((from, to)) = self.known.range(..=end).next_back().map(|(from, to)| (*from, *to)) {
            if to < start {
                break;
            }
            start = start.min(from);
            end = end.max(to);
            self.known.remove(&from);
        }
        self.known.insert(start, end);
    }
}

/// The part of an extent within `part`, which lies in it.
fn clip(extent: &Extent, part: Span) -> Extent {
    let from = (part.start - extent.offset) as u32;
    let len = part.len() as u32;
    let body = match &extent.body {
        ExtentBody::Chunk { chunk, pg, at, chunk_len } => {
            ExtentBody::Chunk { chunk: *chunk, pg: *pg, at: at + from, chunk_len: *chunk_len }
        }
        ExtentBody::Inline(bytes) => ExtentBody::Inline(bytes.slice(from as usize..(from + len) as usize)),
        ExtentBody::Zero => ExtentBody::Zero,
    };
    Extent { offset: part.start, len, body }
}

fn source(extent: &Extent, part: Span) -> Source {
    let from = (part.start - extent.offset) as u32;
    match &extent.body {
        ExtentBody::Chunk { chunk, pg, at, chunk_len } => Source::Chunk {
            place: Place { chunk: *chunk, pg: *pg, len: *chunk_len },
            at: at + from,
            lo: *at,
            hi: at + extent.len,
        },
        ExtentBody::Inline(bytes) => Source::Bytes(bytes.slice(from as usize..from as usize + part.len() as usize)),
        ExtentBody::Zero => Source::Zero,
    }
}
