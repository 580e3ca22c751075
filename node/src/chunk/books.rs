//! What a store holds, counted: for operators, for giving space back, and to compare the index with the segments.

use std::collections::BTreeMap;

use super::format::record_len;
use super::index::{ChunkKey, Place};

/// Counts over the chunks in the index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    /// Chunks.
    pub(crate) chunks: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Sum of the marks of all chunks: the same for the same set of chunks in the same places.
    pub(crate) digest: u64,
    /// Chunks of each segment, and the bytes of their records.
    live: BTreeMap<u64, (u64, u64)>,
}

impl Books {
    /// A chunk was set.
    pub(crate) fn add(&mut self, key: ChunkKey, place: Place) {
        self.chunks += 1;
        self.bytes += u64::from(place.len);
        self.digest = self.digest.wrapping_add(mark(key, place));
        let (chunks, bytes) = self.live.entry(place.segment).or_default();
        *chunks += 1;
        *bytes += record_len(place.len);
    }

    /// A chunk was removed.
    pub(crate) fn remove(&mut self, key: ChunkKey, place: Place) {
        self.chunks = self.chunks.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u64::from(place.len));
        self.digest = self.digest.wrapping_sub(mark(key, place));
        if let Some((chunks, bytes)) = self.live.get_mut(&place.segment) {
            *chunks = chunks.saturating_sub(1);
            *bytes = bytes.saturating_sub(record_len(place.len));
            if *chunks == 0 {
                self.live.remove(&place.segment);
            }
        }
    }

    /// How many chunks of a segment are live.
    pub(crate) fn live(&self, segment: u64) -> u64 {
        self.live.get(&segment).map_or(0, |(chunks, _)| *chunks)
    }

    /// Bytes that the records of its live chunks take.
    pub(crate) fn live_bytes(&self, segment: u64) -> u64 {
        self.live.get(&segment).map_or(0, |(_, bytes)| *bytes)
    }
}

/// A number for one chunk in one place, well mixed, so that their sum tells sets apart.
pub(crate) fn mark(key: ChunkKey, place: Place) -> u64 {
    let fields = [
        u64::from(key.pg.0),
        key.space.0,
        key.chunk.client.0,
        key.chunk.counter,
        place.segment,
        place.offset,
        u64::from(place.len),
    ];
    fields.iter().fold(0x9e37_79b9_7f4a_7c15, |sum, field| mix(sum ^ mix(field.wrapping_add(0x9e37_79b9_7f4a_7c15))))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
