//! The questions of a check: each asked again for a while where its answer was lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};
use weft_core::entry::Cred;
use weft_core::ids::{ChunkId, GroupId, NodeId, PgId, ReplicaId, SpaceId};
use weft_core::machine::NamedChunk;
use weft_core::refusal::Refusal;
use weft_core::site::SiteMap;
use weft_proto::convert::{self, Envelope};
use weft_proto::link::{self, MESSAGE_LIMIT};
use weft_proto::pb;
use weft_proto::pb::chunk_client::ChunkClient;
use weft_proto::pb::fsck_client::FsckClient;
use weft_proto::status::from_status;

use super::cursor::{Key, Pages};
use crate::client::Shared;
use crate::error::{Error, Result};
use crate::trial::Trial;

/// How often a server is asked the same before it counts as not there.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a piece of a long answer, or an answer that needs much reading, may take.
pub(super) const LONG: Duration = Duration::from_secs(30);
/// How long finding a leader may take.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
/// Keys asked for at a time.
const PAGE: u32 = 2048;

/// Asks the nodes of a site.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) shared: Arc<Shared>,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Asker {
    pub(super) fn new(shared: Arc<Shared>) -> Asker {
        Asker { shared, channels: Arc::default() }
    }

    pub(super) fn map(&self) -> Arc<SiteMap> {
        self.shared.topology.map()
    }

    /// Asks for the newest map. What is held stays if nobody answers.
    pub(super) async fn refresh(&self) {
        if let Err(refusal) = self.shared.refresh().await {
            tracing::debug!(%refusal, "refresh the site map");
        }
    }

    fn channel(&self, addr: &str) -> Result<Channel, Refusal> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = link::channel(self.shared.parts.dial.clone(), addr)
            .map_err(|error| Refusal::Invalid { why: format!("address {addr}: {error}") })?;
        channels.insert(addr.to_string(), channel.clone());
        Ok(channel)
    }

    pub(super) fn fsck(&self, addr: &str) -> Result<FsckClient<Channel>, Refusal> {
        let client = FsckClient::new(self.channel(addr)?);
        Ok(client.max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT))
    }

    pub(super) fn envelope(&self, wait: Duration) -> Option<pb::Envelope> {
        let deadline_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        Some(Envelope { deadline_ms, cred: Cred::root(), ..Envelope::default() }.to_wire())
    }

    /// Where a server of the map answers; a later life of its node is another one.
    fn addr_of(&self, replica: ReplicaId) -> Result<String, Refusal> {
        let node = self.shared.topology.node(replica.node).filter(|node| node.replica() == replica);
        Ok(node.ok_or_else(|| Refusal::NotServed { what: format!("{replica}") })?.addr)
    }

    /// Whether a server is known to the site in this life.
    pub(super) fn is_there(&self, replica: ReplicaId) -> bool {
        self.addr_of(replica).is_ok()
    }

    /// Asks the leader of a group.
    pub(super) async fn leader<T, F>(
        &self,
        group: GroupId,
        ask: impl Fn(FsckClient<Channel>, Option<pb::Envelope>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.shared.options.deadline.min(LEADER_WITHIN);
        let mut trial = Trial::within(&self.shared.options, deadline);
        let attempt = |addr: String, wait: Duration| {
            let call = self.fsck(&addr).map(|client| ask(client, self.envelope(wait)));
            async move { answered(wait, call?).await }
        };
        self.shared.at_leader(group, &mut trial, attempt).await.map_err(Error::from)
    }

    /// Asks a chunk server, again and again for a while.
    async fn server<T, F>(&self, wait: Duration, ask: impl Fn() -> Result<F, Refusal>) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tries = 0;
        loop {
            let result = match ask() {
                Ok(call) => answered(wait, call).await,
                Err(refusal) => Err(refusal),
            };
            tries += 1;
            match result {
                Err(Refusal::Busy { .. } | Refusal::Unknown { .. } | Refusal::DiskFailed { .. }) if tries < TRIES => {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Named chunks of a space behind one of them, and whether that was the end.
    pub(super) async fn named(
        &self,
        group: GroupId,
        space: SpaceId,
        after: Option<ChunkId>,
    ) -> Result<(Vec<NamedChunk>, bool)> {
        let reply = self.leader(group, |mut client, envelope| {
            let after = after.map(convert::chunk_ref);
            let request = pb::NamedChunksRequest { envelope, group: group.0, space: space.0, after, limit: PAGE };
            async move { client.named_chunks(request).await }
        });
        let reply = reply.await?;
        let named = reply.chunks.into_iter().map(|named| {
            let chunk = convert::parse_chunk_ref(named.chunk)?;
            Ok(NamedChunk { chunk, pg: PgId(named.pg), len: named.len })
        });
        let named: Vec<_> = named.collect::<Result<_, Refusal>>()?;
        if named.is_empty() && !reply.end {
            return Err(Error::unexpected("a question about named chunks"));
        }
        Ok((named, reply.end))
    }

    /// What a group knows of chunks now, in their order.
    pub(super) async fn states(
        &self,
        group: GroupId,
        space: SpaceId,
        chunks: &[ChunkId],
    ) -> Result<Vec<pb::ChunkStanding>> {
        let reply = self.leader(group, |mut client, envelope| {
            let chunks = chunks.iter().copied().map(convert::chunk_ref).collect();
            let request = pb::ChunkStatesRequest { envelope, group: group.0, space: space.0, chunks };
            async move { client.chunk_states(request).await }
        });
        let reply = reply.await?;
        if reply.chunks.len() != chunks.len() {
            return Err(Error::unexpected("a question about chunks"));
        }
        Ok(reply.chunks)
    }

    /// Rereads chunks on a server; in their order, what it found.
    pub(super) async fn verify(
        &self,
        to: ReplicaId,
        pg: PgId,
        chunks: &[(Key, u32)],
    ) -> Result<Vec<pb::Verified>, Refusal> {
        let mut verified: Vec<pb::Verified> = Vec::with_capacity(chunks.len());
        while verified.len() < chunks.len() {
            let left = &chunks[verified.len()..];
            let request = pb::VerifyRequest {
                envelope: self.envelope(LONG),
                pg: pg.0,
                to_node: to.node.0,
                to_incarnation: to.incarnation.0,
                chunks: left
                    .iter()
                    .map(|((space, chunk), len)| pb::VerifyChunk {
                        space: space.0,
                        chunk: Some(convert::chunk_ref(*chunk)),
                        len: *len,
                    })
                    .collect(),
            };
            let ask = || {
                let (mut client, request) = (self.fsck(&self.addr_of(to)?)?, request.clone());
                Ok(async move { client.verify(request).await })
            };
            let reply = self.server(LONG, ask).await?;
            if reply.chunks.is_empty() || reply.chunks.len() > left.len() {
                return Err(Refusal::Invalid { why: "the server's answer is about other chunks".into() });
            }
            verified.extend(reply.chunks);
        }
        Ok(verified)
    }

    pub(super) fn node(&self, id: NodeId) -> Option<String> {
        self.shared.topology.node(id).map(|node| node.addr)
    }
}

/// One answer within its time.
pub(super) async fn answered<T>(
    wait: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(wait, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("no answer in {} ms", wait.as_millis()) }),
    }
}

/// The next piece of a long answer.
pub(super) async fn piece<T>(stream: &mut Streaming<T>) -> Result<T, Refusal> {
    match tokio::time::timeout(LONG, stream.message()).await {
        Ok(Ok(Some(piece))) => Ok(piece),
        Ok(Ok(None)) => Err(Refusal::Unknown { why: "the answer broke off".into() }),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("no answer in {} ms", LONG.as_millis()) }),
    }
}

/// What one server holds of one placement group.
pub(super) struct Listing {
    pub(super) asker: Asker,
    pub(super) pg: PgId,
    pub(super) of: ReplicaId,
}

#[async_trait::async_trait]
impl Pages for Listing {
    async fn after(&mut self, after: Option<Key>) -> Result<(Vec<(Key, u32)>, bool), Refusal> {
        let wait = self.asker.shared.options.attempt;
        let request = pb::ListRequest {
            envelope: self.asker.envelope(wait),
            pg: self.pg.0,
            after_space: after.map_or(0, |(space, _)| space.0),
            after: after.map(|(_, chunk)| convert::chunk_ref(chunk)),
            limit: PAGE,
            to_node: self.of.node.0,
            to_incarnation: self.of.incarnation.0,
        };
        let ask = || {
            let channel = self.asker.channel(&self.asker.addr_of(self.of)?)?;
            let mut client = ChunkClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
            let request = request.clone();
            Ok(async move { client.list(request).await })
        };
        let reply = self.asker.server(wait, ask).await?;
        let listed = reply.chunks.into_iter().map(|listed| {
            let chunk = convert::parse_chunk_ref(listed.chunk)?;
            Ok(((SpaceId(listed.space), chunk), listed.len))
        });
        Ok((listed.collect::<Result<_, Refusal>>()?, reply.end))
    }
}
