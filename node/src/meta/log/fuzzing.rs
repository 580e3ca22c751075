//! Doors for tests that feed bytes to the log's format. Not part of the interface; see `weft_core::fuzzing`.

use bytes::{Bytes, BytesMut};

use super::record::{self, Header, Position};

/// The record at the start of the bytes, encoded again, and how many of them it is without its padding.
pub fn again(salt: u64, position: u64, bytes: &Bytes) -> Option<(Bytes, usize)> {
    let (head, payload) = record::decode(salt, Position(position), bytes)?;
    let mut out = BytesMut::new();
    record::encode(&mut out, salt, Position(position), &head, &payload);
    Some((out.freeze(), record::HEAD as usize + payload.len()))
}

/// Makes bytes into a record as far as stamp, length and sum go, so that what is behind these checks is reached.
pub fn seal(salt: u64, position: u64, bytes: &mut [u8]) {
    let head = record::HEAD as usize;
    if bytes.len() < head {
        return;
    }
    let len = (bytes.len() - head) as u32;
    bytes[..4].copy_from_slice(&record::stamp(salt));
    bytes[8..12].copy_from_slice(&len.to_be_bytes());
    let sum = record::sum(salt, Position(position), [&bytes[8..head], &bytes[head..]]);
    bytes[4..8].copy_from_slice(&sum.to_be_bytes());
}

/// The header of a segment, encoded again.
pub fn header_again(bytes: &[u8]) -> Option<Bytes> {
    Header::decode(bytes).map(Header::encode)
}

/// Makes bytes into a header as far as the sum goes.
pub fn seal_header(bytes: &mut [u8]) {
    if bytes.len() >= 28 {
        let sum = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&sum.to_be_bytes());
    }
}
