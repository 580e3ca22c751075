//! Rereading of chunks on this server's disk.

use tokio::time::Instant;
use weft_core::refusal::Refusal;
use weft_proto::pb;

use crate::chunk::index::ChunkKey;
use crate::chunk::store::Store;

/// Bytes read at a time.
const PIECE: u32 = 1 << 20;

/// Rereads chunks of these lengths, in order, until the time is up.
pub(super) async fn verify(store: &Store, chunks: &[(ChunkKey, u32)], until: Instant) -> Vec<pb::Verified> {
    let mut verified = Vec::with_capacity(chunks.len());
    for (key, len) in chunks {
        if !verified.is_empty() && Instant::now() >= until {
            break;
        }
        verified.push(one(store, *key, *len).await);
    }
    verified
}

async fn one(store: &Store, key: ChunkKey, len: u32) -> pb::Verified {
    let (copy, why) = match reread(store, key, len).await {
        Ok(found) if found == len => (pb::Copy::Whole, String::new()),
        Ok(found) => (pb::Copy::OtherLength, format!("{found} bytes instead of {len}")),
        Err(Refusal::NoChunk) => (pb::Copy::Missing, String::new()),
        Err(refusal @ Refusal::BadSum { .. }) => (pb::Copy::Rotten, refusal.to_string()),
        Err(refusal) => (pb::Copy::Unread, refusal.to_string()),
    };
    pb::Verified { copy: copy.into(), why }
}

/// The length of the chunk, all of which is as it was written.
async fn reread(store: &Store, key: ChunkKey, len: u32) -> Result<u32, Refusal> {
    let reader = store.reader(key).await?;
    if reader.chunk_len() == len {
        for at in (0..len).step_by(PIECE as usize) {
            reader.read(at, len.min(at.saturating_add(PIECE))).await?;
        }
    }
    Ok(reader.chunk_len())
}
