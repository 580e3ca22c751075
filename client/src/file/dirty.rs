//! What was written to a file and is not in its committed map yet, by offset: held in memory, on its way to a chunk
//! server, or placed there. Later writes cut what they cover. A value: no I/O, no locks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use weft_core::limits::{MAX_CHUNK, MAX_INLINE};
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::span::Span;

use crate::chunks::{Place, Stored, Ticket};

/// Writes up to this length are appended to the bytes before them, so that many small ones become one stretch.
const MERGE: usize = 64 << 10;
/// Merged bytes grow no longer than this.
const MERGED: usize = 1 << 20;

/// Numbers the uploads of one file.
pub(super) type UploadId = u64;

/// See the module. Segments never overlap.
#[derive(Default)]
pub(super) struct Dirty {
    segments: BTreeMap<u64, Segment>,
    /// Bytes that segments keep in memory.
    held: u64,
    uploads: BTreeMap<UploadId, Vec<Span>>,
    next_upload: UploadId,
}

struct Segment {
    len: u64,
    body: Body,
}

enum Body {
    /// In memory. `sealed`: the next commit takes it as it is.
    Held { data: Data, sealed: bool },
    /// In memory and being stored as bytes `at..` of a chunk.
    Uploading { upload: UploadId, at: u32, data: Bytes },
    /// Durable in a chunk.
    Placed { place: Place, at: u32, ticket: Arc<Ticket> },
}

enum Data {
    Shared(Bytes),
    Growing(BytesMut),
}

/// Where bytes of a span are, for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Here.
    Bytes(Bytes),
    /// Nowhere: they are zero.
    Zero,
    /// From byte `at` of a chunk, of which the extent uses `lo..hi`.
    Chunk { place: Place, at: u32, lo: u32, hi: u32 },
}

/// Bytes to store as one chunk.
pub(super) struct Upload {
    pub(super) id: UploadId,
    pub(super) data: Bytes,
}

impl Data {
    fn slice(&self, from: usize, to: usize) -> Bytes {
        match self {
            Data::Shared(bytes) => bytes.slice(from..to),
            Data::Growing(bytes) => Bytes::copy_from_slice(&bytes[from..to]),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Data::Shared(bytes) => bytes,
            Data::Growing(bytes) => bytes,
        }
    }
}

impl Body {
    /// Takes what lies at and beyond `at` off.
    fn split(&mut self, at: u64) -> Body {
        match self {
            Body::Held { data, sealed } => {
                let rest = match data {
                    Data::Shared(bytes) => Data::Shared(bytes.split_off(at as usize)),
                    Data::Growing(bytes) => Data::Growing(bytes.split_off(at as usize)),
                };
                Body::Held { data: rest, sealed: *sealed }
            }
            Body::Uploading { upload, at: begin, data } => {
                Body::Uploading { upload: *upload, at: *begin + at as u32, data: data.split_off(at as usize) }
            }
            Body::Placed { place, at: begin, ticket } => {
                Body::Placed { place: *place, at: *begin + at as u32, ticket: ticket.clone() }
            }
        }
    }

    /// Bytes `from..to` of it, unsealed.
    fn part(&self, from: usize, to: usize) -> Body {
        match self {
            Body::Held { data, .. } => Body::Held { data: Data::Shared(data.slice(from, to)), sealed: false },
            Body::Uploading { upload, at, data } => {
                Body::Uploading { upload: *upload, at: at + from as u32, data: data.slice(from..to) }
            }
            Body::Placed { place, at, ticket } => {
                Body::Placed { place: *place, at: at + from as u32, ticket: ticket.clone() }
            }
        }
    }

    fn in_memory(&self) -> bool {
        matches!(self, Body::Held { .. } | Body::Uploading { .. })
    }
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes kept in memory.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// The same, counted.
    #[cfg(test)]
    pub(super) fn in_memory(&self) -> u64 {
        self.segments.values().filter(|segment| segment.body.in_memory()).map(|segment| segment.len).sum()
    }

    /// Number of segments.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// One past the last byte, 0 if there is none.
    pub(super) fn end(&self) -> u64 {
        self.segments.last_key_value().map_or(0, |(start, segment)| start + segment.len)
    }

    /// Lays bytes over what is there. No segment reaches over a multiple of `MAX_CHUNK` of the file.
    pub(super) fn write(&mut self, mut offset: u64, mut data: Bytes) {
        while !data.is_empty() {
            let to_boundary = u64::from(MAX_CHUNK) - offset % u64::from(MAX_CHUNK);
            let part = data.split_to(data.len().min(to_boundary as usize));
            let len = part.len() as u64;
            self.write_part(offset, part);
            offset += len;
        }
    }

    fn write_part(&mut self, offset: u64, data: Bytes) {
        let len = data.len() as u64;
        self.drop_span(Span { start: offset, end: offset + len });
        self.held += len;
        if data.len() <= MERGE
            && !offset.is_multiple_of(u64::from(MAX_CHUNK))
            && let Some((start, before)) = self.segments.range_mut(..offset).next_back()
            && start + before.len == offset
            && let Body::Held { data: kept, sealed: false } = &mut before.body
            && before.len as usize + data.len() <= MERGED
        {
            match kept {
                Data::Growing(bytes) => {
                    bytes.extend_from_slice(&data);
                    before.len += len;
                    return;
                }
                Data::Shared(bytes) if bytes.len() <= MERGE => {
                    let mut grown = BytesMut::with_capacity((bytes.len() + data.len()) * 2);
                    grown.extend_from_slice(bytes);
                    grown.extend_from_slice(&data);
                    *kept = Data::Growing(grown);
                    before.len += len;
                    return;
                }
                Data::Shared(_) => {}
            }
        }
        let body = Body::Held { data: Data::Shared(data), sealed: false };
        self.segments.insert(offset, Segment { len, body });
    }

    /// Removes what lies at and beyond `size`.
    pub(super) fn cut(&mut self, size: u64) {
        let end = self.end();
        if end > size {
            self.drop_span(Span { start: size, end });
        }
    }

    /// Removes everything.
    pub(super) fn clear_all(&mut self) {
        self.segments.clear();
        self.uploads.clear();
        self.held = 0;
    }

    /// Makes `at` a boundary of segments.
    fn split(&mut self, at: u64) {
        if let Some((start, segment)) = self.segments.range_mut(..at).next_back()
            && start + segment.len > at
        {
            let head = at - start;
            let rest = Segment { len: segment.len - head, body: segment.body.split(head) };
            segment.len = head;
            self.segments.insert(at, rest);
        }
    }

    /// Removes what lies in a span.
    pub(super) fn drop_span(&mut self, span: Span) {
        self.split(span.start);
        self.split(span.end);
        while let Some(start) = self.segments.range(span.start..span.end).next().map(|(start, _)| *start) {
            if let Some(segment) = self.segments.remove(&start)
                && segment.body.in_memory()
            {
                self.held -= segment.len;
            }
        }
    }

    /// Parts of a span that are here, in order.
    pub(super) fn sources(&self, span: Span) -> Vec<(Span, Source)> {
        let before = self.segments.range(..span.start).next_back();
        let within = self.segments.range(span.start..span.end);
        before
            .into_iter()
            .chain(within)
            .filter_map(|(start, segment)| {
                let whole = Span { start: *start, end: start + segment.len };
                let part = whole.overlap(span)?;
                let (from, to) = (part.start - start, part.end - start);
                let source = match &segment.body {
                    Body::Held { data, .. } => Source::Bytes(data.slice(from as usize, to as usize)),
                    Body::Uploading { data, .. } => Source::Bytes(data.slice(from as usize..to as usize)),
                    Body::Placed { place, at, .. } => {
                        Source::Chunk { place: *place, at: at + from as u32, lo: *at, hi: at + segment.len as u32 }
                    }
                };
                Some((part, source))
            })
            .collect()
    }

    /// Stretches of bytes held and not sealed, each within one `MAX_CHUNK`-aligned part of the file.
    pub(super) fn runs(&self) -> Vec<Span> {
        let mut runs: Vec<Span> = Vec::new();
        for (start, segment) in &self.segments {
            if !matches!(segment.body, Body::Held { sealed: false, .. }) {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == *start && !start.is_multiple_of(u64::from(MAX_CHUNK)) => {
                    last.end = start + segment.len;
                }
                _ => runs.push(Span { start: *start, end: start + segment.len }),
            }
        }
        runs
    }

    /// The stretch of held, unsealed bytes that ends at `end` within its aligned part of the file, if there is one.
    pub(super) fn run_ending_at(&self, end: u64) -> Option<Span> {
        let floor = end.checked_sub(1)? / u64::from(MAX_CHUNK) * u64::from(MAX_CHUNK);
        let mut start = end;
        for (at, segment) in self.segments.range(floor..end).rev() {
            if at + segment.len != start || !matches!(segment.body, Body::Held { sealed: false, .. }) {
                break;
            }
            start = *at;
        }
        (start < end).then_some(Span { start, end })
    }

    /// Gathers stretches of held bytes into one upload, one behind the other.
    pub(super) fn upload(&mut self, spans: &[Span]) -> Upload {
        let len: u64 = spans.iter().map(|span| span.len()).sum();
        assert!(len > 0 && len <= u64::from(MAX_CHUNK), "an upload is one chunk");
        self.next_upload += 1;
        let id = self.next_upload;
        let data = self.gather(spans, len);
        let mut at = 0u32;
        for span in spans {
            let held = self.held;
            self.drop_span(*span);
            self.held = held;
            let part = data.slice(at as usize..at as usize + span.len() as usize);
            self.segments
                .insert(span.start, Segment { len: span.len(), body: Body::Uploading { upload: id, at, data: part } });
            at += span.len() as u32;
        }
        self.uploads.insert(id, spans.to_vec());
        Upload { id, data }
    }

    fn gather(&self, spans: &[Span], len: u64) -> Bytes {
        if let [span] = spans
            && let Some(Segment { len: whole, body: Body::Held { data: Data::Shared(bytes), .. } }) =
                self.segments.get(&span.start)
            && *whole == len
        {
            return bytes.clone();
        }
        let mut all = BytesMut::with_capacity(len as usize);
        for span in spans {
            let mut at = span.start;
            while at < span.end {
                let (start, segment) =
                    self.segments.range(..=at).next_back().expect("a run is held from its start to its end");
                let Body::Held { data, .. } = &segment.body else { panic!("a run is held from its start to its end") };
                let stop = span.end.min(start + segment.len);
                all.extend_from_slice(&data.as_slice()[(at - start) as usize..(stop - start) as usize]);
                at = stop;
            }
        }
        all.freeze()
    }

    /// An upload ended: what no later write covered is placed, or without a place held again.
    pub(super) fn uploaded(&mut self, id: UploadId, stored: Option<Stored>) {
        for span in self.uploads.remove(&id).unwrap_or_default() {
            for (_, segment) in self.segments.range_mut(span.start..span.end) {
                let Body::Uploading { upload, at, data } = &segment.body else { continue };
                if *upload != id {
                    continue;
                }
                segment.body = match &stored {
                    Some(Stored { place, ticket }) => {
                        self.held -= segment.len;
                        Body::Placed { place: *place, at: *at, ticket: ticket.clone() }
                    }
                    None => Body::Held { data: Data::Shared(data.clone()), sealed: false },
                };
            }
        }
    }

    /// Whether an upload with this number or a lower one is under way.
    pub(super) fn uploading_up_to(&self, id: UploadId) -> bool {
        self.uploads.first_key_value().is_some_and(|(first, _)| *first <= id)
    }

    /// The newest upload's number.
    pub(super) fn last_upload(&self) -> UploadId {
        self.next_upload
    }

    /// Seals stretches of held bytes: the next commit takes them, and later writes are not merged into them.
    pub(super) fn seal(&mut self, spans: &[Span]) {
        for span in spans {
            self.split(span.start);
            self.split(span.end);
            for (_, segment) in self.segments.range_mut(span.start..span.end) {
                if let Body::Held { sealed, .. } = &mut segment.body {
                    *sealed = true;
                }
            }
        }
    }

    /// Takes out what can be committed: what is placed or sealed.
    pub(super) fn take_ready(&mut self) -> Dirty {
        let mut ready = Dirty::default();
        let starts: Vec<u64> = self
            .segments
            .iter()
            .filter(|(_, segment)| matches!(segment.body, Body::Placed { .. } | Body::Held { sealed: true, .. }))
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            if let Some(segment) = self.segments.remove(&start) {
                if segment.body.in_memory() {
                    self.held -= segment.len;
                    ready.held += segment.len;
                }
                ready.segments.insert(start, segment);
            }
        }
        ready
    }

    /// Puts what could not be committed back below what was written since.
    pub(super) fn restore(&mut self, taken: Dirty) {
        for (start, segment) in taken.segments {
            let whole = Span { start, end: start + segment.len };
            for gap in gaps(whole, &self.spans(whole)) {
                let body = segment.body.part((gap.start - start) as usize, (gap.end - start) as usize);
                if body.in_memory() {
                    self.held += gap.len();
                }
                self.segments.insert(gap.start, Segment { len: gap.len(), body });
            }
        }
    }

    fn spans(&self, span: Span) -> Vec<Span> {
        let before = self.segments.range(..span.start).next_back();
        before
            .into_iter()
            .chain(self.segments.range(span.start..span.end))
            .filter_map(|(start, segment)| Span { start: *start, end: start + segment.len }.overlap(span))
            .collect()
    }

    /// What was taken to be committed, as extents: neighbouring small bytes together, nothing longer than an extent may
    /// be.
    pub(super) fn extents(&self) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for (start, segment) in &self.segments {
            match &segment.body {
                Body::Placed { place, at, .. } => extents.push(Extent {
                    offset: *start,
                    len: segment.len as u32,
                    body: ExtentBody::Chunk { chunk: place.chunk, pg: place.pg, at: *at, chunk_len: place.len },
                }),
                Body::Held { data, .. } => {
                    let mut from = 0;
                    while from < segment.len {
                        let offset = start + from;
                        // Whole blocks of the file, so that overwriting one cuts no other.
                        let inline = u64::from(MAX_INLINE);
                        let block_end = ((offset / inline + 1) * inline - start).min(segment.len);
                        let to = if segment.len <= inline { segment.len } else { block_end };
                        push_inline(&mut extents, offset, data.slice(from as usize, to as usize));
                        from = to;
                    }
                }
                Body::Uploading { .. } => unreachable!("only placed and sealed segments are taken"),
            }
        }
        extents
    }
}

/// Adds bytes, to the extent before them if both fit into one.
fn push_inline(extents: &mut Vec<Extent>, offset: u64, bytes: Bytes) {
    if let Some(last) = extents.last_mut()
        && last.offset + u64::from(last.len) == offset
        && let ExtentBody::Inline(before) = &mut last.body
        && before.len() + bytes.len() <= MAX_INLINE as usize
    {
        let mut both = BytesMut::with_capacity(before.len() + bytes.len());
        both.extend_from_slice(before);
        both.extend_from_slice(&bytes);
        last.len += bytes.len() as u32;
        *before = both.freeze();
        return;
    }
    extents.push(Extent { offset, len: bytes.len() as u32, body: ExtentBody::Inline(bytes) });
}

/// What of `whole` lies in none of `covered`, which are in order and within it.
pub(super) fn gaps(whole: Span, covered: &[Span]) -> Vec<Span> {
    let mut gaps = Vec::new();
    let mut at = whole.start;
    for span in covered {
        if span.start > at {
            gaps.push(Span { start: at, end: span.start });
        }
        at = at.max(span.end);
    }
    if at < whole.end {
        gaps.push(Span { start: at, end: whole.end });
    }
    gaps
}
