//! Chunk servers ask the group that counts their chunks which of them are garbage.

use std::sync::Arc;
use std::time::Duration;

use weft_core::ids::{ChunkId, SpaceId};
use weft_core::namespace::garbage;
use weft_core::refusal::Refusal;
use weft_proto::convert;
use weft_proto::pb;

use super::group::Group;

/// Chunks in one question at the most.
pub(crate) const MOST: usize = 1024;
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Of the chunks asked about those that may be deleted, by records that have in them everything answered before.
pub(super) async fn answer(group: Arc<Group>, wire: pb::GarbageRequest) -> Result<pb::GarbageReply, Refusal> {
    convert::parse_envelope(wire.envelope)?;
    if wire.chunks.len() > MOST {
        let (size, limit) = (wire.chunks.len() as u64, MOST as u64);
        return Err(Refusal::TooLarge { what: "the list of chunks".into(), size, limit });
    }
    let chunks: Vec<ChunkId> =
        wire.chunks.into_iter().map(|chunk| convert::parse_chunk_ref(Some(chunk))).collect::<Result<_, _>>()?;
    let ask = group.read(|view| garbage::garbage(view, SpaceId(wire.space), &chunks));
    let found = match tokio::time::timeout(WITHIN, ask).await {
        Ok(found) => found?,
        Err(_) => return Err(Refusal::Unknown { why: "the question was not answered in time".into() }),
    };
    let garbage = found.iter().map(|chunk| pb::ChunkRef { client: chunk.client.0, counter: chunk.counter });
    Ok(pb::GarbageReply { garbage: garbage.collect() })
}
