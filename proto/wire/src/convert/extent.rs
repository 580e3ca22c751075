//! Extents: pieces of a file's map.

use weft_core::ids::PgId;
use weft_core::limits::{MAX_CHUNK, MAX_EXTENT, MAX_FILE, MAX_INLINE};
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::refusal::Refusal;

use super::ids::{chunk_ref, parse_chunk_ref};
use super::{invalid, need};
use crate::pb;

/// An extent as it is sent.
pub fn extent(extent: &Extent) -> pb::Extent {
    let body = match &extent.body {
        ExtentBody::Chunk { chunk, pg, at, chunk_len } => pb::extent::Body::Chunk(pb::ChunkPiece {
            chunk: Some(chunk_ref(*chunk)),
            pg: pg.0,
            at: *at,
            chunk_len: *chunk_len,
        }),
        ExtentBody::Inline(bytes) => pb::extent::Body::Inline(bytes.clone()),
        ExtentBody::Zero => pb::extent::Body::Zero(pb::Zero {}),
    };
    pb::Extent { offset: extent.offset, len: extent.len, body: Some(body) }
}

/// Checks and takes an extent.
///
/// # Errors
/// It has no bytes or too many, ends beyond the largest file, or its body has not as many bytes as it says.
pub fn parse_extent(wire: pb::Extent) -> Result<Extent, Refusal> {
    let pb::Extent { offset, len, body } = wire;
    if len == 0 {
        return Err(invalid("an extent without bytes"));
    }
    if u64::from(len) > MAX_EXTENT {
        return Err(Refusal::TooLarge { what: "extent".into(), size: len.into(), limit: MAX_EXTENT });
    }
    let end = offset.saturating_add(len.into());
    if end > MAX_FILE {
        return Err(Refusal::FileTooBig { size: end });
    }
    let body = match need(body, "an extent's body")? {
        pb::extent::Body::Chunk(piece) => {
            if piece.chunk_len > MAX_CHUNK {
                return Err(Refusal::TooLarge {
                    what: "chunk".into(),
                    size: piece.chunk_len.into(),
                    limit: MAX_CHUNK.into(),
                });
            }
            if u64::from(piece.at) + u64::from(len) > u64::from(piece.chunk_len) {
                return Err(invalid(format!(
                    "{len} bytes from {} reach beyond a chunk of {} bytes",
                    piece.at, piece.chunk_len
                )));
            }
            ExtentBody::Chunk {
                chunk: parse_chunk_ref(piece.chunk)?,
                pg: PgId(piece.pg),
                at: piece.at,
                chunk_len: piece.chunk_len,
            }
        }
        pb::extent::Body::Inline(bytes) => {
            if bytes.len() > MAX_INLINE as usize {
                return Err(Refusal::TooLarge {
                    what: "inline extent".into(),
                    size: bytes.len() as u64,
                    limit: MAX_INLINE.into(),
                });
            }
            if bytes.len() != len as usize {
                return Err(invalid(format!("an extent of {len} bytes came with {}", bytes.len())));
            }
            ExtentBody::Inline(bytes)
        }
        pb::extent::Body::Zero(pb::Zero {}) => ExtentBody::Zero,
    };
    Ok(Extent { offset, len, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inline(offset: u64, len: u32, bytes: &'static [u8]) -> pb::Extent {
        pb::Extent { offset, len, body: Some(pb::extent::Body::Inline(bytes.into())) }
    }

    fn piece(len: u32, at: u32, chunk_len: u32) -> pb::Extent {
        let chunk = Some(pb::ChunkRef { client: 1, counter: 2 });
        pb::Extent {
            offset: 0,
            len,
            body: Some(pb::extent::Body::Chunk(pb::ChunkPiece { chunk, pg: 1, at, chunk_len })),
        }
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        assert!(parse_extent(inline(0, 3, b"abc")).is_ok());
        assert!(matches!(parse_extent(inline(0, 0, b"")), Err(Refusal::Invalid { .. })));
        assert!(matches!(parse_extent(inline(0, 4, b"abc")), Err(Refusal::Invalid { .. })));
        assert!(matches!(parse_extent(inline(0, 4097, &[0; 4097])), Err(Refusal::TooLarge { limit: 4096, .. })));
        assert!(matches!(parse_extent(inline(MAX_FILE, 3, b"abc")), Err(Refusal::FileTooBig { .. })));
        assert!(matches!(parse_extent(inline(u64::MAX, 3, b"abc")), Err(Refusal::FileTooBig { .. })));

        assert!(parse_extent(piece(MAX_CHUNK, 0, MAX_CHUNK)).is_ok());
        assert!(matches!(parse_extent(piece(10, 1, 10)), Err(Refusal::Invalid { .. })));
        assert!(matches!(parse_extent(piece(10, u32::MAX, 10)), Err(Refusal::Invalid { .. })));
        assert!(matches!(parse_extent(piece(10, 0, MAX_CHUNK + 1)), Err(Refusal::TooLarge { .. })));
        assert!(matches!(parse_extent(piece(MAX_CHUNK + 1, 0, MAX_CHUNK)), Err(Refusal::TooLarge { .. })));

        let bare = pb::Extent { offset: 0, len: 1, body: None };
        assert!(matches!(parse_extent(bare), Err(Refusal::Invalid { .. })));
    }
}
