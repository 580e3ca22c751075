//! What a client asks of nodes, as calls on addresses: gRPC in programs, a machine in memory in tests. Each call is one
//! attempt at one node; whether and where to try again is decided above.

use std::time::Duration;

use bytes::Bytes;
use weft_core::entry::Cred;
use weft_core::ids::{ChunkId, ClientId, GroupId, Ino, NodeId, PgEpoch, PgId, ReplicaId, Seq, SpaceId, VolumeId};
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;
use weft_core::site::SiteMap;

use crate::status::NodeReport;

/// What rides along with every call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) client: ClientId,
    pub(crate) space: SpaceId,
    /// 0 for questions.
    pub(crate) seq: Seq,
    pub(crate) acked_below: Seq,
    pub(crate) cred: Cred,
    pub(crate) map_version: u64,
    /// The right to the chunks of the space, where the site wants one.
    pub(crate) capability: Bytes,
    /// How long this attempt waits.
    pub(crate) wait: Duration,
}

/// A chunk to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PutChunk {
    pub(crate) chunk: ChunkId,
    pub(crate) pg: PgId,
    pub(crate) epoch: PgEpoch,
    /// The member that is asked.
    pub(crate) to: ReplicaId,
    pub(crate) data: Bytes,
    pub(crate) sums: Vec<u32>,
}

/// Bytes of a chunk to fetch; `offset` lies on a block boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GetChunk {
    pub(crate) chunk: ChunkId,
    pub(crate) pg: PgId,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Whole blocks of a chunk with their sums, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u32,
    pub(crate) data: Bytes,
    pub(crate) sums: Vec<u32>,
}

/// A volume to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewVolume {
    pub(crate) name: String,
    pub(crate) replication: u8,
    pub(crate) token: u64,
}

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeOrder {
    /// It is to be emptied, or no longer.
    Drain { on: bool },
    /// The site forgets it.
    Remove { force: bool },
}

/// What became of write leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recalls {
    /// From the sending of the request, those not named here are held for so long.
    pub(crate) lease: Duration,
    /// Wanted back.
    pub(crate) recalled: Vec<(VolumeId, Ino)>,
    /// No longer held.
    pub(crate) lost: Vec<(VolumeId, Ino)>,
}

/// One attempt at the node of an address. A transport's failure or time-out is [`Refusal::Unknown`].
#[async_trait::async_trait]
pub(crate) trait Servers: Send + Sync + 'static {
    /// The site map, `None` if `have` is as new.
    async fn map(&self, addr: &str, call: Call, have: u64) -> Result<Option<SiteMap>, Refusal>;
    /// A new client id.
    async fn client_id(&self, addr: &str, call: Call) -> Result<ClientId, Refusal>;
    async fn create_volume(&self, addr: &str, call: Call, new: NewVolume) -> Result<VolumeId, Refusal>;
    /// Begins to delete a volume.
    async fn delete_volume(&self, addr: &str, call: Call, volume: VolumeId) -> Result<(), Refusal>;
    async fn node_status(&self, addr: &str, call: Call) -> Result<NodeReport, Refusal>;
    /// The site map with it done.
    async fn order_node(&self, addr: &str, call: Call, node: NodeId, order: NodeOrder) -> Result<SiteMap, Refusal>;
    async fn apply(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        volume: VolumeId,
        op: &Op,
    ) -> Result<Outcome, Refusal>;
    async fn query(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        volume: VolumeId,
        query: &Query,
    ) -> Result<Answer, Refusal>;
    /// How often to send a keep-alive, and the right to the chunks of the space.
    async fn open_session(&self, addr: &str, call: Call, group: GroupId) -> Result<(Duration, Bytes), Refusal>;
    async fn end_session(&self, addr: &str, call: Call, group: GroupId) -> Result<(), Refusal>;
    /// Takes the inodes that are not open here, of those asked about last time; returns those asked about now, and a
    /// fresh right to the chunks of the space. Chunks of the session below `named_below` will not be named for the first
    /// time any more.
    async fn keep_alive(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        not_open: Vec<(VolumeId, Ino)>,
        named_below: u64,
    ) -> Result<(Vec<(VolumeId, Ino)>, Bytes), Refusal>;
    /// Keeps the write leases on these directories; answered when one is wanted back, or after a while.
    async fn recalls(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        held: Vec<(VolumeId, Ino)>,
    ) -> Result<Recalls, Refusal>;
    /// Stores a chunk on all members; how many copies are on media.
    async fn put(&self, addr: &str, call: Call, put: PutChunk) -> Result<u32, Refusal>;
    /// Blocks that cover what was asked, in order.
    async fn get(&self, addr: &str, call: Call, get: GetChunk) -> Result<Vec<Piece>, Refusal>;
    /// Wrong bytes of a chunk came from there: the server is to read it again.
    async fn suspect(&self, addr: &str, call: Call, get: GetChunk) -> Result<(), Refusal>;
}
