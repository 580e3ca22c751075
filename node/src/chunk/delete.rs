//! Chunks that nobody names any more are deleted by every member of their placement group, on the word of the leader of
//! the meta group that counts them (`meta/garbage.rs`).
//!
//! As with a put, this server confirms only under its right to acknowledge, as a member at the named epoch, and looks at
//! it again after the deletion is on media: what was confirmed at an epoch was done before this server adopted the next.

use std::time::Duration;

use weft_core::ids::{ChunkId, PgEpoch, PgId, ReplicaId, SpaceId};
use weft_core::refusal::Refusal;
use weft_proto::status::from_status;
use weft_proto::{PROTOCOL, pb};

use super::forward::peer;
use super::index::ChunkKey;
use super::server::Shared;
use super::service::{chunk_key, envelope};
use crate::site::peers::Peers;

/// Chunks in one request at the most.
const MOST: usize = 1024;
/// How long one may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Deletes what a leader asks for. Returns how many of them were here.
pub(super) async fn delete(shared: &Shared, request: pb::DeleteRequest) -> Result<u64, Refusal> {
    envelope(&request.envelope)?;
    if request.to_node == 0 {
        return Err(Refusal::WrongRecipient { why: "a deletion must say for whom it is".into() });
    }
    shared.right.is_meant(request.to_node, request.to_incarnation)?;
    if request.chunks.len() > MOST {
        let (size, limit) = (request.chunks.len() as u64, MOST as u64);
        return Err(Refusal::TooLarge { what: "the list of chunks".into(), size, limit });
    }
    let keys: Vec<ChunkKey> = request
        .chunks
        .iter()
        .map(|chunk| chunk_key(request.pg, chunk.space, &chunk.chunk))
        .collect::<Result<_, _>>()?;
    let (pg, epoch) = (PgId(request.pg), PgEpoch(request.pg_epoch));
    shared.right.admit(pg, epoch).await?;
    let deleted = match tokio::time::timeout(WITHIN, shared.store.delete_many(&keys)).await {
        Ok(deleted) => deleted?,
        Err(_) => return Err(Refusal::Unknown { why: "the disk did not answer in time".into() }),
    };
    shared.right.check(pg, epoch)?;
    Ok(deleted)
}

/// Has a member delete chunks.
///
/// # Errors
/// It did not confirm it; it may have deleted some or all of them.
pub(crate) async fn ask(
    peers: &Peers,
    to: ReplicaId,
    pg: PgId,
    epoch: PgEpoch,
    chunks: &[(SpaceId, ChunkId)],
) -> Result<(), Refusal> {
    let deadline_ms = WITHIN.as_millis() as u32;
    let chunk = |(space, chunk): &(SpaceId, ChunkId)| pb::SpaceChunk {
        space: space.0,
        chunk: Some(pb::ChunkRef { client: chunk.client.0, counter: chunk.counter }),
    };
    let request = pb::DeleteRequest {
        envelope: Some(pb::Envelope { protocol: PROTOCOL, deadline_ms, ..pb::Envelope::default() }),
        pg: pg.0,
        pg_epoch: epoch.0,
        chunks: chunks.iter().map(chunk).collect(),
        to_node: to.node.0,
        to_incarnation: to.incarnation.0,
    };
    let mut client = peer(peers, to)?;
    match tokio::time::timeout(WITHIN, client.delete(request)).await {
        Ok(answer) => answer.map(drop).map_err(|status| from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("member {to} did not answer in {} s", WITHIN.as_secs()) }),
    }
}
