//! Doors for tests that feed bytes to the format of segments. Not part of the interface; see `weft_core::fuzzing`.

use super::format::{self, Found, HEADER, Life, Record, SegmentHeader, Trailer};

/// Which life of which segment the bytes are taken for.
const LIFE: Life = Life { segment: 3, generation: 99 };

/// A segment's header, encoded again.
pub fn header_again(bytes: &[u8]) -> Option<Vec<u8>> {
    match SegmentHeader::decode(bytes) {
        Found::One(header) => Some(header.encode().to_vec()),
        Found::Nothing | Found::Newer(_) => None,
    }
}

/// Makes the first block into a header as far as the sum goes.
pub fn seal_header(bytes: &mut [u8]) {
    if bytes.len() >= 48 {
        let sum = crc32fast::hash(&bytes[..44]);
        bytes[44..48].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A record at an offset, encoded again, and the bytes it takes with its data.
pub fn record_again(bytes: &[u8], offset: u64) -> Option<(Vec<u8>, u64)> {
    match Record::decode(bytes, LIFE, offset) {
        Found::One(record) => Some((record.encode(LIFE, offset).to_vec(), record.len())),
        Found::Nothing | Found::Newer(_) => None,
    }
}

/// Makes bytes into a record as far as the sum goes.
pub fn seal_record(bytes: &mut [u8], offset: u64) {
    if bytes.len() < HEADER {
        return;
    }
    let count = u32::from_be_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]) as usize;
    let Some(end) = count.checked_mul(4).and_then(|len| len.checked_add(HEADER)).filter(|end| *end <= bytes.len())
    else {
        return;
    };
    let mut sum = format::salted(LIFE, offset);
    sum.update(&bytes[..HEADER - 4]);
    sum.update(&bytes[HEADER..end]);
    let sum = sum.finalize();
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_be_bytes());
}

/// A trailer, encoded again, and the bytes that it says its table has.
pub fn trailer_again(bytes: &[u8], offset: u64) -> Option<(Vec<u8>, usize)> {
    match Trailer::decode(bytes, LIFE, offset) {
        Found::One(trailer) => Some((trailer.encode(LIFE, offset).to_vec(), trailer.table_bytes())),
        Found::Nothing | Found::Newer(_) => None,
    }
}

/// Makes bytes into a trailer as far as the sum goes.
pub fn seal_trailer(bytes: &mut [u8], offset: u64) {
    if bytes.len() >= 72 {
        let mut sum = format::salted(LIFE, offset);
        sum.update(&bytes[..68]);
        let sum = sum.finalize();
        bytes[68..72].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A table whose sum is right, encoded again, with the number of its entries.
pub fn table_again(bytes: &[u8], offset: u64) -> Option<(Vec<u8>, usize)> {
    let mut sum = format::salted(LIFE, offset);
    sum.update(bytes);
    let entries = format::decode_table(bytes, LIFE, offset, sum.finalize())?;
    Some((format::encode_table(&entries, LIFE, offset).0.to_vec(), entries.len()))
}
