//! Doors for tests that feed bytes to the messages, since nothing outside knows prost. Not part of the interface.

use prost::Message;

use crate::pb;

/// A message from its bytes, as tonic takes it.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

/// The bytes of a message.
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

/// A message as its receiver gets it.
pub fn through_bytes<M: Message + Default>(message: &M) -> M {
    decode(&encode(message)).expect("what was just encoded decodes")
}

/// Every message that a process of ours takes from another as which the bytes decode, with the bytes that it encodes
/// to.
pub fn again(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    macro_rules! each {
        ($($message:ident),* $(,)?) => {
            [$(decode::<pb::$message>(bytes).map(|message| (stringify!($message), encode(&message)))),*]
        };
    }
    let found = each![
        ApplyRequest,
        ApplyReply,
        QueryRequest,
        QueryReply,
        OpenSessionRequest,
        EndSessionRequest,
        KeepAliveRequest,
        KeepAliveReply,
        MapRequest,
        MapReply,
        JoinRequest,
        JoinReply,
        HeartbeatRequest,
        HeartbeatReply,
        CreateVolumeRequest,
        CreateVolumeReply,
        ClientIdsRequest,
        ClientIdsReply,
        NodeStatusRequest,
        NodeStatusReply,
        PutRequest,
        PutReply,
        GetRequest,
        GetPiece,
        ListRequest,
        ListReply,
        RaftMessage,
    ];
    found.into_iter().flatten().collect()
}
