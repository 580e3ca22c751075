//! A chunk to the other members of its placement group.

use std::time::Duration;

use weft_core::ids::ReplicaId;
use weft_core::refusal::Refusal;
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb;
use weft_proto::pb::chunk_client::ChunkClient;
use weft_proto::status::from_status;

use crate::site::peers::Peers;

/// A client of another node's chunk server.
pub(crate) fn peer(peers: &Peers, to: ReplicaId) -> Result<ChunkClient<tonic::transport::Channel>, Refusal> {
    let client = ChunkClient::new(peers.node(to.node)?);
    Ok(client.max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT))
}

/// Has a member store a chunk. Bytes are shared with the request, not copied.
///
/// # Errors
/// What tells the caller what to do about it: `StalePlacement` and `Busy` as the member said; anything else, silence
/// above all, means that this group can't take the chunk now.
pub(crate) async fn forward(
    peers: &Peers,
    to: ReplicaId,
    request: &pb::PutRequest,
    within: Duration,
) -> Result<(), Refusal> {
    let mut client = peer(peers, to)?;
    let mut request = request.clone();
    request.forward = false;
    request.to_node = to.node.0;
    request.to_incarnation = to.incarnation.0;
    let why = match tokio::time::timeout(within, client.put(request)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(status)) => match from_status(&status) {
            refusal @ (Refusal::StalePlacement { .. } | Refusal::Busy { .. } | Refusal::BadSum { .. }) => {
                return Err(refusal);
            }
            refusal => refusal.to_string(),
        },
        Err(_) => format!("no answer in {} ms", within.as_millis()),
    };
    Err(Refusal::MayNotAcknowledge { why: format!("member {to} did not store it: {why}") })
}
