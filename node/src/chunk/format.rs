//! What lies in a segment file. All numbers are big-endian.
//!
//! ```text
//! block 0, 1   segment header, twice
//! from block 2 records, each from a block boundary, padded with zeroes to the next:
//!                put:    header (128 bytes), sums (4 bytes per 4 KiB of data, padded to 64), data
//!                replace: a put that names the record it makes void: a damaged one of the same chunk
//!                delete: header, naming the record it makes void
//!                delete many: header, and a list of the records it makes void (56 bytes each)
//! at the end   of a sealed segment: a table of its records, and a trailer in the last block
//! ```
//!
//! Segments are recycled, so everything in them is bound by its checksum to the segment's number, its place in it and
//! the segment's generation, a random number of each life: neither records of a former life, nor zeroes, nor a chunk
//! whose bytes happen to be a copy of some segment decode as records.

use bytes::{BufMut, Bytes};
use weft_core::ids::{ChunkId, ClientId, PgId, SpaceId};
use weft_core::limits::{BLOCK, MAX_CHUNK};

use super::index::ChunkKey;

/// What segments are divided into.
pub(crate) const PAGE: u64 = 4096;
/// Where the first record lies.
pub(crate) const FIRST_RECORD: u64 = 2 * PAGE;
/// Bytes of a record's header before its sums.
pub(crate) const HEADER: usize = 128;
/// Largest header with its sums.
pub(crate) const MAX_HEAD: usize = head_len(MAX_CHUNK);

const SEGMENT_MAGIC: u32 = u32::from_be_bytes(*b"WSEG");
const RECORD_MAGIC: u32 = u32::from_be_bytes(*b"WREC");
const TRAILER_MAGIC: u32 = u32::from_be_bytes(*b"WEND");
const VERSION: u16 = 1;
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_DELETE_MANY: u8 = 3;
const KIND_REPLACE: u8 = 4;
const SEGMENT_HEADER: usize = 48;
const TRAILER: usize = 72;
const ENTRY: usize = 72;
const VOIDED: usize = 56;
/// Chunks that one record makes void at the most: as many as fit into two pages, which is what a reader of records has
/// before it at every place.
pub(crate) const MAX_VOIDED: usize = (2 * PAGE as usize - HEADER) / VOIDED;

/// Blocks of a chunk that have a sum each.
pub(crate) const fn blocks(len: u32) -> u32 {
    len.div_ceil(BLOCK)
}

/// Bytes of a put's header with its sums: where its data begins.
pub(crate) const fn head_len(len: u32) -> usize {
    (HEADER + 4 * blocks(len) as usize).next_multiple_of(64)
}

/// Bytes of a put's whole record.
pub(crate) const fn record_len(len: u32) -> u64 {
    (head_len(len) as u64 + len as u64).next_multiple_of(PAGE)
}

/// Bytes a table with its trailer takes at the end of a segment.
pub(crate) const fn table_len(entries: usize) -> u64 {
    ((entries * ENTRY) as u64).next_multiple_of(PAGE) + PAGE
}

/// One life of a segment: what its checksums are salted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Segment number.
    pub(crate) segment: u64,
    /// Random number of this life.
    pub(crate) generation: u64,
}

/// A segment's first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Which life of which segment.
    pub(crate) life: Life,
    /// Rises with each segment taken into use: the order of their records.
    pub(crate) sequence: u64,
    /// Bytes of the segment.
    pub(crate) len: u64,
}

/// What a reader found where a header should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    /// It.
    One(T),
    /// Nothing of this life.
    Nothing,
    /// It is whole, but of a format that a later version wrote.
    Newer(u16),
}

impl SegmentHeader {
    /// Sequence number of a segment that holds nothing and may be taken into use.
    pub(crate) const FREE: u64 = 0;

    /// Both blocks.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(2 * PAGE as usize);
        out.put_u32(SEGMENT_MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u64(self.life.segment);
        out.put_u64(self.life.generation);
        out.put_u64(self.sequence);
        out.put_u64(self.len);
        out.put_u32(0);
        out.put_u32(crc32fast::hash(&out));
        out.resize(PAGE as usize, 0);
        let block = out.clone();
        out.extend_from_slice(&block);
        out.into()
    }

    /// From the first two blocks.
    pub(crate) fn decode(blocks: &[u8]) -> Found<SegmentHeader> {
        let (first, second) = blocks.split_at(blocks.len().min(PAGE as usize));
        match Self::decode_block(first) {
            Found::Nothing => Self::decode_block(second),
            found => found,
        }
    }

    fn decode_block(block: &[u8]) -> Found<SegmentHeader> {
        let Some(mut at) = checked(block, SEGMENT_HEADER, crc32fast::hash) else {
            return Found::Nothing;
        };
        if at.u32() != SEGMENT_MAGIC {
            return Found::Nothing;
        }
        let version = at.u16();
        if version != VERSION {
            return Found::Newer(version);
        }
        at.u16();
        let life = Life { segment: at.u64(), generation: at.u64() };
        Found::One(SegmentHeader { life, sequence: at.u64(), len: at.u64() })
    }
}

/// The record that a deletion or a replacement makes void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// In which life of which segment.
    pub(crate) life: Life,
    /// First byte of the record.
    pub(crate) offset: u64,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// A chunk, whose data follows.
    Put {
        /// Whose session uploaded it.
        uploader: ClientId,
        /// Bytes.
        len: u32,
        /// Sum of each block.
        sums: Vec<u32>,
        /// The damaged record of the same chunk in whose place it comes. One record does both, so no crash leaves the
        /// chunk without a copy, or with the damaged one in force beside a whole one.
        replaces: Option<Target>,
    },
    /// The chunk is void.
    Delete {
        /// Its record.
        target: Target,
        /// Its bytes.
        len: u32,
    },
    /// All these chunks are void: 1 to [`MAX_VOIDED`], the record's own key being the first.
    DeleteMany(Vec<Voided>),
}

/// One of many chunks that are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Voided {
    /// Which.
    pub(crate) key: ChunkKey,
    /// Its record.
    pub(crate) target: Target,
    /// Its bytes.
    pub(crate) len: u32,
}

impl Voided {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.key.pg.0);
        out.put_u32(self.len);
        out.put_u64(self.key.space.0);
        out.put_u64(self.key.chunk.client.0);
        out.put_u64(self.key.chunk.counter);
        out.put_u64(self.target.life.segment);
        out.put_u64(self.target.life.generation);
        out.put_u64(self.target.offset);
    }

    fn decode(bytes: &[u8; VOIDED]) -> Voided {
        let mut at = Reader(bytes);
        let (pg, len) = (PgId(at.u32()), at.u32());
        let space = SpaceId(at.u64());
        let chunk = ChunkId { client: ClientId(at.u64()), counter: at.u64() };
        let target = Target { life: Life { segment: at.u64(), generation: at.u64() }, offset: at.u64() };
        Voided { key: ChunkKey { pg, space, chunk }, target, len }
    }
}

/// A record without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Of which chunk.
    pub(crate) key: ChunkKey,
    /// What it says.
    pub(crate) body: Body,
}

impl Record {
    /// Bytes of the record with its data and padding.
    pub(crate) fn len(&self) -> u64 {
        match &self.body {
            Body::Put { len, .. } => record_len(*len),
            Body::Delete { .. } => PAGE,
            Body::DeleteMany(voided) => ((HEADER + VOIDED * voided.len()) as u64).next_multiple_of(PAGE),
        }
    }

    /// Chunks that it is about, and so entries in the table of its segment.
    pub(crate) fn entries(&self) -> usize {
        match &self.body {
            Body::Put { .. } | Body::Delete { .. } => 1,
            Body::DeleteMany(voided) => voided.len(),
        }
    }

    /// The header with its sums, as it lies at `offset`.
    pub(crate) fn encode(&self, life: Life, offset: u64) -> Bytes {
        let nobody = Target { life: Life { segment: 0, generation: 0 }, offset: 0 };
        let none = Vec::new();
        let (kind, uploader, len, stored, sums, target) = match &self.body {
            Body::Put { uploader, len, sums, replaces: None } => (KIND_PUT, *uploader, *len, *len, sums, nobody),
            Body::Put { uploader, len, sums, replaces: Some(target) } => {
                (KIND_REPLACE, *uploader, *len, *len, sums, *target)
            }
            Body::Delete { target, len } => (KIND_DELETE, ClientId(0), *len, 0, &none, *target),
            Body::DeleteMany(voided) => (KIND_DELETE_MANY, ClientId(0), voided.len() as u32, 0, &none, nobody),
        };
        let mut tail = Vec::new();
        sums.iter().for_each(|sum| tail.put_u32(*sum));
        if let Body::DeleteMany(voided) = &self.body {
            voided.iter().for_each(|voided| voided.encode(&mut tail));
        }
        let mut out = Vec::with_capacity((HEADER + tail.len()).next_multiple_of(64));
        out.put_u32(RECORD_MAGIC);
        out.put_u16(VERSION);
        out.put_u8(kind);
        out.put_u8(0); // codec: as it came
        out.put_u32(0); // key id: not encrypted
        out.put_u8(0); // scheme: replicas
        out.put_u8(0); // shard
        out.put_u16(0);
        out.put_u32(self.key.pg.0);
        out.put_u32(len);
        out.put_u64(self.key.space.0);
        out.put_u64(self.key.chunk.client.0);
        out.put_u64(self.key.chunk.counter);
        out.put_u64(uploader.0);
        out.put_u32(stored);
        out.put_u32((tail.len() / 4) as u32);
        out.put_u64(target.life.segment);
        out.put_u64(target.life.generation);
        out.put_u64(target.offset);
        out.resize(HEADER - 4, 0);
        let mut crc = salted(life, offset);
        crc.update(&out);
        let crc_at = out.len();
        out.put_u32(0);
        out.extend_from_slice(&tail);
        crc.update(&out[HEADER..]);
        let crc = crc.finalize();
        out[crc_at..HEADER].copy_from_slice(&crc.to_be_bytes());
        out.resize(out.len().next_multiple_of(64), 0);
        out.into()
    }

    /// From the bytes at `offset`: at least [`MAX_HEAD`] of them, or all up to the segment's end.
    pub(crate) fn decode(bytes: &[u8], life: Life, offset: u64) -> Found<Record> {
        let Some((header, rest)) = bytes.split_at_checked(HEADER) else { return Found::Nothing };
        let mut at = Reader(header);
        if at.u32() != RECORD_MAGIC {
            return Found::Nothing;
        }
        let version = at.u16();
        let kind = at.u8();
        let (codec, key_id, scheme) = (at.u8(), at.u32(), at.u8());
        at.u8();
        at.u16();
        let pg = PgId(at.u32());
        let len = at.u32();
        let space = SpaceId(at.u64());
        let chunk = ChunkId { client: ClientId(at.u64()), counter: at.u64() };
        let uploader = ClientId(at.u64());
        let stored = at.u32();
        let count = at.u32();
        let target = Target { life: Life { segment: at.u64(), generation: at.u64() }, offset: at.u64() };
        let Some(tail) = (count as usize).checked_mul(4).and_then(|len| rest.get(..len)) else {
            return Found::Nothing;
        };
        let mut crc = salted(life, offset);
        crc.update(&header[..HEADER - 4]);
        crc.update(tail);
        if header[HEADER - 4..] != crc.finalize().to_be_bytes() {
            return Found::Nothing;
        }
        let key = ChunkKey { pg, space, chunk };
        let plain = codec == 0 && key_id == 0 && scheme == 0;
        let body = match kind {
            KIND_PUT | KIND_REPLACE
                if version == VERSION && plain && stored == len && len <= MAX_CHUNK && count == blocks(len) =>
            {
                let sums = tail.as_chunks::<4>().0.iter().map(|sum| u32::from_be_bytes(*sum)).collect();
                Body::Put { uploader, len, sums, replaces: (kind == KIND_REPLACE).then_some(target) }
            }
            KIND_DELETE if version == VERSION && stored == 0 && count == 0 => Body::Delete { target, len },
            KIND_DELETE_MANY
                if version == VERSION && stored == 0 && tail.len() == VOIDED.saturating_mul(len as usize) =>
            {
                let voided: Vec<_> = tail.as_chunks::<VOIDED>().0.iter().map(Voided::decode).collect();
                if voided.is_empty() || voided.len() > MAX_VOIDED || voided[0].key != key {
                    return Found::Nothing;
                }
                Body::DeleteMany(voided)
            }
            _ => return Found::Newer(version),
        };
        Found::One(Record { key, body })
    }
}

/// One record in the table of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Of which chunk.
    pub(crate) key: ChunkKey,
    /// First byte of the record.
    pub(crate) offset: u64,
    /// Bytes of the chunk.
    pub(crate) len: u32,
    /// Whether it holds the chunk: not so a deletion.
    pub(crate) put: bool,
    /// What it makes void, if it is a deletion or a replacement.
    pub(crate) voids: Option<Target>,
}

/// What the last block of a sealed segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// First byte of the table.
    pub(crate) table_at: u64,
    /// Entries in it.
    pub(crate) entries: u32,
    /// Those of them that make others void.
    pub(crate) voiding: u32,
    /// Digest of the chunks put, as `books.rs` has it.
    pub(crate) digest: u64,
    /// Number of chunks put.
    pub(crate) chunks: u64,
    /// CRC of the table, salted.
    pub(crate) table_crc: u32,
}

impl Trailer {
    /// The last block, as it lies at `offset`.
    pub(crate) fn encode(&self, life: Life, offset: u64) -> Bytes {
        let mut out = Vec::with_capacity(PAGE as usize);
        out.put_u32(TRAILER_MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u64(self.table_at);
        out.put_u32(self.entries);
        out.put_u32(self.voiding);
        out.put_u64(self.digest);
        out.put_u64(self.chunks);
        out.put_u32(self.table_crc);
        out.resize(TRAILER - 4, 0);
        let mut crc = salted(life, offset);
        crc.update(&out);
        out.put_u32(crc.finalize());
        out.resize(PAGE as usize, 0);
        out.into()
    }

    /// From the last block at `offset`.
    pub(crate) fn decode(block: &[u8], life: Life, offset: u64) -> Found<Trailer> {
        let sum = |bytes: &[u8]| {
            let mut crc = salted(life, offset);
            crc.update(bytes);
            crc.finalize()
        };
        let Some(mut at) = checked(block, TRAILER, sum) else { return Found::Nothing };
        if at.u32() != TRAILER_MAGIC {
            return Found::Nothing;
        }
        let version = at.u16();
        if version != VERSION {
            return Found::Newer(version);
        }
        at.u16();
        Found::One(Trailer {
            table_at: at.u64(),
            entries: at.u32(),
            voiding: at.u32(),
            digest: at.u64(),
            chunks: at.u64(),
            table_crc: at.u32(),
        })
    }

    /// Bytes of the table without padding.
    pub(crate) fn table_bytes(&self) -> usize {
        self.entries as usize * ENTRY
    }
}

/// The table's bytes, padded to whole pages, and the salted CRC of them without the padding.
pub(crate) fn encode_table(entries: &[Entry], life: Life, offset: u64) -> (Bytes, u32) {
    let mut out = Vec::with_capacity(entries.len() * ENTRY);
    for entry in entries {
        let nobody = Target { life: Life { segment: 0, generation: 0 }, offset: 0 };
        let target = entry.voids.unwrap_or(nobody);
        let kind = match (entry.put, entry.voids) {
            (true, None) => KIND_PUT,
            (true, Some(_)) => KIND_REPLACE,
            (false, _) => KIND_DELETE,
        };
        out.put_u32(kind.into());
        out.put_u32(entry.key.pg.0);
        out.put_u64(entry.key.space.0);
        out.put_u64(entry.key.chunk.client.0);
        out.put_u64(entry.key.chunk.counter);
        out.put_u64(entry.offset);
        out.put_u32(entry.len);
        out.put_u32(0);
        out.put_u64(target.life.segment);
        out.put_u64(target.life.generation);
        out.put_u64(target.offset);
    }
    let mut crc = salted(life, offset);
    crc.update(&out);
    out.resize(out.len().next_multiple_of(PAGE as usize), 0);
    (out.into(), crc.finalize())
}

/// The table's entries; `None` if the bytes don't match the trailer's CRC.
pub(crate) fn decode_table(bytes: &[u8], life: Life, offset: u64, table_crc: u32) -> Option<Vec<Entry>> {
    let mut crc = salted(life, offset);
    crc.update(bytes);
    if crc.finalize() != table_crc {
        return None;
    }
    let parse = |entry: &[u8; ENTRY]| {
        let mut at = Reader(entry);
        let kind = at.u32();
        let pg = PgId(at.u32());
        let space = SpaceId(at.u64());
        let chunk = ChunkId { client: ClientId(at.u64()), counter: at.u64() };
        let (offset, len) = (at.u64(), at.u32());
        at.u32();
        let target = Target { life: Life { segment: at.u64(), generation: at.u64() }, offset: at.u64() };
        let put = kind != u32::from(KIND_DELETE);
        let voids = (kind != u32::from(KIND_PUT)).then_some(target);
        Entry { key: ChunkKey { pg, space, chunk }, offset, len, put, voids }
    };
    Some(bytes.as_chunks::<ENTRY>().0.iter().map(parse).collect())
}

pub(super) fn salted(life: Life, offset: u64) -> crc32fast::Hasher {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&life.segment.to_be_bytes());
    crc.update(&life.generation.to_be_bytes());
    crc.update(&offset.to_be_bytes());
    crc
}

/// The first `len` bytes of a block, if their last four are the sum of the others.
fn checked(block: &[u8], len: usize, sum: impl FnOnce(&[u8]) -> u32) -> Option<Reader<'_>> {
    let (fields, crc) = block.get(..len)?.split_at(len - 4);
    (*crc == sum(fields).to_be_bytes()).then_some(Reader(fields))
}

/// Reads fixed fields; the callers made sure that there are enough bytes, else zeroes come.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }
    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life { segment: 3, generation: 99 };

    fn key() -> ChunkKey {
        ChunkKey { pg: PgId(4), space: SpaceId(5), chunk: ChunkId { client: ClientId(6), counter: 7 } }
    }

    #[test]
    fn records_survive_the_trip_and_nothing_else_decodes() {
        let target = Target { life: Life { segment: 1, generation: 2 }, offset: 8192 };
        let put = |replaces| Record {
            key: key(),
            body: Body::Put { uploader: ClientId(8), len: 9000, sums: vec![1, 2, u32::MAX], replaces },
        };
        let delete = Record { key: key(), body: Body::Delete { target, len: 9000 } };
        let voided = |n: u64| Voided {
            key: ChunkKey { chunk: ChunkId { client: ClientId(6), counter: 7 + n }, ..key() },
            target: Target { offset: 8192 * n, ..target },
            len: n as u32,
        };
        let many = Record { key: key(), body: Body::DeleteMany((0..MAX_VOIDED as u64).map(voided).collect()) };
        assert_eq!(many.len(), 2 * PAGE);
        assert!(many.len() <= (MAX_HEAD as u64).next_multiple_of(PAGE), "a reader of records sees all of it");
        for record in [put(None), put(Some(target)), delete, many] {
            let bytes = record.encode(LIFE, 8192);
            assert_eq!(Record::decode(&bytes, LIFE, 8192), Found::One(record.clone()));
            let other = Life { generation: 98, ..LIFE };
            assert_eq!(Record::decode(&bytes, other, 8192), Found::Nothing, "a former life");
            assert_eq!(Record::decode(&bytes, LIFE, 12288), Found::Nothing, "another place");
            assert_eq!(Record::decode(&bytes[..100], LIFE, 8192), Found::Nothing, "cut off");
            for at in 0..HEADER {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 4;
                assert_eq!(Record::decode(&flipped, LIFE, 8192), Found::Nothing, "byte {at} flipped");
            }
        }
        assert_eq!(Record::decode(&[0; 8192], LIFE, 8192), Found::Nothing, "zeroes");
    }

    #[test]
    fn one_header_block_of_two_is_enough() {
        let header = SegmentHeader { life: LIFE, sequence: 12, len: 1 << 20 };
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, FIRST_RECORD);
        assert_eq!(SegmentHeader::decode(&bytes), Found::One(header));
        for at in [3, 4096 + 3] {
            let mut hurt = bytes.to_vec();
            hurt[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&hurt), Found::One(header));
        }
        assert_eq!(SegmentHeader::decode(&[0; 8192]), Found::Nothing);
        assert_eq!(SegmentHeader::decode(&[]), Found::Nothing);
    }

    #[test]
    fn tables_and_trailers_survive_the_trip() {
        let target = Target { life: Life { segment: 1, generation: 2 }, offset: 8192 };
        let put = Entry { key: key(), offset: 8192, len: 5, put: true, voids: None };
        let delete = Entry { put: false, voids: Some(target), offset: 12288, ..put };
        let entries = vec![put, delete, Entry { put: true, offset: 16384, ..delete }];
        let (bytes, table_crc) = encode_table(&entries, LIFE, 20480);
        assert_eq!(bytes.len() as u64 + PAGE, table_len(entries.len()));
        let trailer = Trailer { table_at: 20480, entries: 3, voiding: 2, digest: 5, chunks: 2, table_crc };
        let table = &bytes[..trailer.table_bytes()];
        assert_eq!(decode_table(table, LIFE, 20480, table_crc), Some(entries));
        assert_eq!(decode_table(table, Life { generation: 1, ..LIFE }, 20480, table_crc), None);
        let block = trailer.encode(LIFE, 61440);
        assert_eq!(Trailer::decode(&block, LIFE, 61440), Found::One(trailer));
        assert_eq!(Trailer::decode(&block, LIFE, 65536), Found::Nothing);
    }

    #[test]
    fn a_record_of_a_later_version_says_so() {
        let record =
            Record { key: key(), body: Body::Put { uploader: ClientId(8), len: 1, sums: vec![1], replaces: None } };
        let mut bytes = record.encode(LIFE, 8192).to_vec();
        bytes[5] = 2;
        let mut crc = salted(LIFE, 8192);
        crc.update(&bytes[..HEADER - 4]);
        crc.update(&bytes[HEADER..HEADER + 4]);
        let crc = crc.finalize();
        bytes[HEADER - 4..HEADER].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(Record::decode(&bytes, LIFE, 8192), Found::Newer(2));
    }

    /// The bytes of version 1, so that a change of the format is noticed.
    #[test]
    fn version_1_stays_as_it_is() {
        let record = Record {
            key: key(),
            body: Body::Put { uploader: ClientId(8), len: 4097, sums: vec![1, 2], replaces: None },
        };
        assert_eq!(crc32fast::hash(&record.encode(LIFE, 8192)), FIXED_RECORD);
        assert_eq!(record.len(), 8192);
        let header = SegmentHeader { life: LIFE, sequence: 12, len: 1 << 20 };
        assert_eq!(crc32fast::hash(&header.encode()), FIXED_HEADER);
    }
    const FIXED_RECORD: u32 = 0x946b_af6f;
    const FIXED_HEADER: u32 = 0x3a67_abb6;
}
