//! The bytes of segments: a header, and records one behind the other.
//!
//! A segment's salt is drawn anew at each reuse and goes into every sum, so that neither the records of a former life
//! nor zeroes decode. A record's position goes in too: one that got to another place does not decode there.

use bytes::{BufMut, Bytes, BytesMut};
use weft_core::broken::{self, Variant};

/// Where a byte of the log is: segment number above, offset in the file below. Later bytes have larger positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(pub(super) u64);

impl Position {
    pub(super) fn new(segment: u32, offset: u32) -> Position {
        Position(u64::from(segment) << 32 | u64::from(offset))
    }

    pub(super) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn offset(self) -> u32 {
        self.0 as u32
    }

    /// So many bytes further in the same segment.
    pub(super) fn plus(self, bytes: u32) -> Position {
        Position(self.0 + u64::from(bytes))
    }
}

/// What a record says about its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// First of a segment; payload: position where the log went on from, 0 for none.
    Start,
    /// Says only what each record says: how far the log is durable and which segment is its oldest.
    Mark,
    /// The vote.
    Vote,
    /// An entry; entries of the group with this or a higher index are gone.
    Entry,
    /// An entry written again because its segment is to be reused. Removes nothing.
    Carried,
    /// Entries with this or a higher index are gone.
    Truncate,
    /// Entries up to and with this index are gone; payload: what the group wants to know about the last of them.
    Purge,
    /// The group has nothing any more.
    Erase,
}

impl Kind {
    const ALL: [Kind; 8] =
        [Kind::Start, Kind::Mark, Kind::Vote, Kind::Entry, Kind::Carried, Kind::Truncate, Kind::Purge, Kind::Erase];

    fn code(self) -> u8 {
        match self {
            Kind::Start => 1,
            Kind::Mark => 2,
            Kind::Vote => 3,
            Kind::Entry => 4,
            Kind::Carried => 5,
            Kind::Truncate => 6,
            Kind::Purge => 7,
            Kind::Erase => 8,
        }
    }

    fn parse(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) group: u32,
    pub(super) index: u64,
    /// Bytes of the payload.
    pub(super) len: u32,
    /// Everything before this position was durable when the record was written.
    pub(super) mark: Position,
    /// The oldest segment that the log still needed when the record was written.
    pub(super) tail: u32,
}

/// Bytes of a record before its payload.
pub(super) const HEAD: u32 = 40;

/// Bytes of a record with a payload of `len`, padding included.
pub(super) fn size(len: usize) -> Option<u32> {
    let padded = len.checked_next_multiple_of(8)?;
    u32::try_from(padded).ok()?.checked_add(HEAD)
}

/// The sum over a record's bytes behind the sum itself.
pub(super) fn sum(salt: u64, position: Position, parts: [&[u8]; 2]) -> u32 {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&salt.to_be_bytes());
    let place = if broken::is(Variant::SegmentUnsalted) { u64::from(position.offset()) } else { position.0 };
    seed[8..].copy_from_slice(&place.to_be_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(crc32fast::hash(&seed));
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// What every record of a segment begins with, so that they can be found again behind damage.
pub(super) fn stamp(salt: u64) -> [u8; 4] {
    (salt as u32).to_be_bytes()
}

/// Appends a record, padding included.
pub(super) fn encode(out: &mut BytesMut, salt: u64, position: Position, head: &Head, payload: &[u8]) {
    let start = out.len();
    out.put_slice(&stamp(salt));
    out.put_u32(0);
    out.put_u32(head.len);
    out.put_u8(head.kind.code());
    out.put_bytes(0, 3);
    out.put_u32(head.group);
    out.put_u32(head.tail);
    out.put_u64(head.index);
    out.put_u64(head.mark.0);
    let sum = sum(salt, position, [&out[start + 8..], payload]);
    out[start + 4..start + 8].copy_from_slice(&sum.to_be_bytes());
    out.put_slice(payload);
    out.put_bytes(0, payload.len().next_multiple_of(8) - payload.len());
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The length that a record's first [`HEAD`] bytes name, if they look like those of this segment at all.
pub(super) fn peek_len(salt: u64, head: &[u8]) -> Option<u32> {
    if head.get(..4)? == stamp(salt) { be32(head, 8) } else { None }
}

/// Reads the record at the start of `bytes`; `None` if there is none whose sum is right.
pub(super) fn decode(salt: u64, position: Position, bytes: &Bytes) -> Option<(Head, Bytes)> {
    let len = peek_len(salt, bytes)?;
    let end = (HEAD as usize).checked_add(len as usize)?;
    let payload = bytes.get(HEAD as usize..end)?;
    let whole = be32(bytes, 4)? == sum(salt, position, [&bytes[8..HEAD as usize], payload]);
    if !whole && !broken::is(Variant::TornTail) {
        return None;
    }
    let head = Head {
        kind: Kind::parse(bytes[12])?,
        group: be32(bytes, 16)?,
        index: be64(bytes, 24)?,
        len,
        mark: Position(be64(bytes, 32)?),
        tail: be32(bytes, 20)?,
    };
    Some((head, bytes.slice(HEAD as usize..end)))
}

/// Where a segment's records begin.
pub(super) const RECORDS: u32 = 4096;
/// Bytes of a segment's header: one sector, which a crash does not tear.
pub(super) const HEADER: usize = 512;
const MAGIC: [u8; 8] = *b"weft-log";
const VERSION: u32 = 1;

/// What a segment's first sector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) segment: u32,
    pub(super) salt: u64,
}

impl Header {
    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER);
        out.put_slice(&MAGIC);
        out.put_u32(VERSION);
        out.put_u32(self.segment);
        out.put_u64(self.salt);
        let sum = crc32fast::hash(&out);
        out.put_u32(sum);
        out.resize(HEADER, 0);
        out.freeze()
    }

    /// `None` if these are not the bytes of a header of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        if bytes.get(..8)? != MAGIC || be32(bytes, 8)? != VERSION || be32(bytes, 24)? != crc32fast::hash(&bytes[..24]) {
            return None;
        }
        Some(Header { segment: be32(bytes, 12)?, salt: be64(bytes, 16)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_decodes_only_where_and_when_it_was_written() {
        let head = Head { kind: Kind::Entry, group: 7, index: 9, len: 5, mark: Position::new(3, 4096), tail: 2 };
        let mut out = BytesMut::new();
        encode(&mut out, 0xabcd_1234_5678, Position::new(3, 8192), &head, b"hello");
        assert_eq!(out.len() as u32, size(5).unwrap());
        let bytes = out.freeze();
        let decoded = decode(0xabcd_1234_5678, Position::new(3, 8192), &bytes);
        assert_eq!(decoded, Some((head, Bytes::from_static(b"hello"))));
        assert_eq!(decode(0xabcd_1234_5678, Position::new(3, 8200), &bytes), None);
        assert_eq!(decode(0xabce_1234_5678, Position::new(3, 8192), &bytes), None);
        assert_eq!(decode(0xabcd_1234_5678, Position::new(3, 8192), &bytes.slice(..44)), None);
        assert_eq!(decode(1, Position::new(3, 8192), &Bytes::from(vec![0; 64])), None);
        for bit in 0..45 * 8 {
            let mut flipped = BytesMut::from(&bytes[..]);
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(0xabcd_1234_5678, Position::new(3, 8192), &flipped.freeze()), None, "bit {bit}");
        }
    }

    #[test]
    fn the_format_stays_as_it_is() {
        let head = Head { kind: Kind::Purge, group: 1, index: 2, len: 1, mark: Position(3), tail: 4 };
        let mut out = BytesMut::new();
        encode(&mut out, 5, Position::new(6, 4096), &head, &[0xaa]);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        insta_free_eq(
            &hex,
            "00000005SUM_____00000001070000000000000100000004000000000000000200000000000000\
             03aa00000000000000",
        );
        let header = Header { segment: 7, salt: 8 };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(Header::decode(&[0; HEADER]), None);
    }

    /// Equal but for the sum, which the other test checks.
    fn insta_free_eq(found: &str, expected: &str) {
        assert_eq!(found.len(), expected.len());
        assert_eq!((&found[..8], &found[16..]), (&expected[..8], &expected[16..]));
    }
}
