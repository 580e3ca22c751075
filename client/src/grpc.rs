//! The nodes of a site over gRPC.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic::{Response, Status};
use weft_core::codec;
use weft_core::ids::{ClientId, GroupId, Incarnation, Ino, NodeId, SiteId, VolumeId};
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;
use weft_core::site::SiteMap;
use weft_proto::convert::{self, Envelope};
use weft_proto::link::{self, Dial, MESSAGE_LIMIT};
use weft_proto::pb;
use weft_proto::pb::chunk_client::ChunkClient;
use weft_proto::pb::meta_client::MetaClient;
use weft_proto::pb::site_client::SiteClient;
use weft_proto::status::from_status;

use crate::servers::{Call, GetChunk, NewVolume, NodeOrder, Piece, PutChunk, Recalls, Servers};
use crate::status::{CatchUp, ChunkHealth, GroupReport, NodeReport};

/// Channels to nodes: one for small calls, some for chunk data, so that a chunk under way delays no small call.
pub(crate) struct Grpc {
    dial: Arc<dyn Dial>,
    data_connections: usize,
    nodes: Mutex<BTreeMap<String, Arc<NodeChannels>>>,
}

struct NodeChannels {
    calls: Channel,
    data: Vec<Channel>,
    turn: AtomicUsize,
}

impl Grpc {
    pub(crate) fn new(dial: Arc<dyn Dial>, data_connections: usize) -> Grpc {
        Grpc { dial, data_connections: data_connections.max(1), nodes: Mutex::default() }
    }

    fn node(&self, addr: &str) -> Result<Arc<NodeChannels>, Refusal> {
        let mut nodes = self.nodes.lock();
        if let Some(channels) = nodes.get(addr) {
            return Ok(channels.clone());
        }
        let open = || {
            link::channel(self.dial.clone(), addr)
                .map_err(|error| Refusal::Invalid { why: format!("address {addr}: {error}") })
        };
        let data = (0..self.data_connections).map(|_| open()).collect::<Result<_, _>>()?;
        let channels = Arc::new(NodeChannels { calls: open()?, data, turn: AtomicUsize::new(0) });
        nodes.insert(addr.to_string(), channels.clone());
        Ok(channels)
    }

    fn site(&self, addr: &str) -> Result<SiteClient<Channel>, Refusal> {
        Ok(SiteClient::new(self.node(addr)?.calls.clone()).max_decoding_message_size(MESSAGE_LIMIT))
    }

    fn meta(&self, addr: &str) -> Result<MetaClient<Channel>, Refusal> {
        Ok(MetaClient::new(self.node(addr)?.calls.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT))
    }

    fn chunk(&self, addr: &str) -> Result<ChunkClient<Channel>, Refusal> {
        let node = self.node(addr)?;
        let channel = node.data[node.turn.fetch_add(1, Ordering::Relaxed) % node.data.len()].clone();
        Ok(ChunkClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT))
    }
}

/// One answer within the attempt's time.
async fn answer<T>(
    addr: &str,
    wait: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(wait, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("{addr} did not answer in {} ms", wait.as_millis()) }),
    }
}

fn envelope(call: Call) -> Envelope {
    Envelope {
        client: call.client,
        space: call.space,
        seq: call.seq,
        acked_below: call.acked_below,
        deadline_ms: call.wait.as_millis().min(u128::from(u32::MAX)) as u32,
        cred: call.cred,
        map_version: call.map_version,
        capability: call.capability,
        ..Envelope::default()
    }
}

#[async_trait::async_trait]
impl Servers for Grpc {
    async fn map(&self, addr: &str, call: Call, have: u64) -> Result<Option<SiteMap>, Refusal> {
        let wait = call.wait;
        let request = pb::MapRequest { envelope: Some(envelope(call).to_wire()), have_version: have };
        let reply = answer(addr, wait, self.site(addr)?.map(request)).await?;
        match reply.map.is_empty() {
            true => Ok(None),
            false => parse_map(&reply.map).map(Some),
        }
    }

    async fn client_id(&self, addr: &str, call: Call) -> Result<ClientId, Refusal> {
        let wait = call.wait;
        let request = pb::ClientIdsRequest { envelope: Some(envelope(call).to_wire()), count: 1 };
        let reply = answer(addr, wait, self.site(addr)?.client_ids(request)).await?;
        if reply.count == 0 || reply.site >= 1 << 24 || reply.first >= 1 << 40 {
            return Err(Refusal::Unknown { why: "the answer holds no client id".into() });
        }
        Ok(ClientId::new(SiteId(reply.site), reply.first))
    }

    async fn create_volume(&self, addr: &str, call: Call, new: NewVolume) -> Result<VolumeId, Refusal> {
        let wait = call.wait;
        let request = pb::CreateVolumeRequest {
            envelope: Some(envelope(call).to_wire()),
            name: new.name,
            replication: u32::from(new.replication),
            token: new.token,
        };
        let reply = answer(addr, wait, self.site(addr)?.create_volume(request)).await?;
        Ok(VolumeId(reply.volume))
    }

    async fn delete_volume(&self, addr: &str, call: Call, volume: VolumeId) -> Result<(), Refusal> {
        let wait = call.wait;
        let request = pb::DeleteVolumeRequest { envelope: Some(envelope(call).to_wire()), volume: volume.0 };
        answer(addr, wait, self.site(addr)?.delete_volume(request)).await.map(drop)
    }

    async fn node_status(&self, addr: &str, call: Call) -> Result<NodeReport, Refusal> {
        let wait = call.wait;
        let request = pb::NodeStatusRequest { envelope: Some(envelope(call).to_wire()) };
        Ok(report(answer(addr, wait, self.site(addr)?.node_status(request)).await?))
    }

    async fn order_node(&self, addr: &str, call: Call, node: NodeId, order: NodeOrder) -> Result<SiteMap, Refusal> {
        let (wait, envelope, node) = (call.wait, Some(envelope(call).to_wire()), node.0);
        let mut site = self.site(addr)?;
        let map = match order {
            NodeOrder::Drain { on } => {
                answer(addr, wait, site.drain_node(pb::DrainNodeRequest { envelope, node, on })).await?.map
            }
            NodeOrder::Remove { force } => {
                answer(addr, wait, site.remove_node(pb::RemoveNodeRequest { envelope, node, force })).await?.map
            }
        };
        parse_map(&map)
    }

    async fn apply(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        volume: VolumeId,
        op: &Op,
    ) -> Result<Outcome, Refusal> {
        let wait = call.wait;
        let request = convert::apply_request(envelope(call), group, volume, op);
        convert::parse_apply_reply(answer(addr, wait, self.meta(addr)?.apply(request)).await?)
    }

    async fn query(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        volume: VolumeId,
        query: &Query,
    ) -> Result<Answer, Refusal> {
        let wait = call.wait;
        let request = convert::query_request(envelope(call), group, volume, query);
        convert::parse_query_reply(answer(addr, wait, self.meta(addr)?.query(request)).await?)
    }

    async fn open_session(&self, addr: &str, call: Call, group: GroupId) -> Result<(Duration, Bytes), Refusal> {
        let wait = call.wait;
        let request = pb::OpenSessionRequest { envelope: Some(envelope(call).to_wire()), group: group.0 };
        let reply = answer(addr, wait, self.meta(addr)?.open_session(request)).await?;
        Ok((Duration::from_millis(u64::from(reply.keepalive_ms)), reply.capability))
    }

    async fn end_session(&self, addr: &str, call: Call, group: GroupId) -> Result<(), Refusal> {
        let wait = call.wait;
        let request = pb::EndSessionRequest { envelope: Some(envelope(call).to_wire()), group: group.0 };
        answer(addr, wait, self.meta(addr)?.end_session(request)).await.map(drop)
    }

    async fn keep_alive(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        not_open: Vec<(VolumeId, Ino)>,
        named_below: u64,
    ) -> Result<(Vec<(VolumeId, Ino)>, Bytes), Refusal> {
        let wait = call.wait;
        let request = pb::KeepAliveRequest {
            envelope: Some(envelope(call).to_wire()),
            group: group.0,
            not_open: not_open.into_iter().map(|(volume, ino)| convert::inode_ref(volume, ino)).collect(),
            named_below,
        };
        let reply = answer(addr, wait, self.meta(addr)?.keep_alive(request)).await?;
        let asked = reply.asked.into_iter().map(convert::parse_inode_ref).collect::<Result<_, _>>()?;
        Ok((asked, reply.capability))
    }

    async fn recalls(
        &self,
        addr: &str,
        call: Call,
        group: GroupId,
        held: Vec<(VolumeId, Ino)>,
    ) -> Result<Recalls, Refusal> {
        let wait = call.wait;
        let request = pb::RecallsRequest {
            envelope: Some(envelope(call).to_wire()),
            group: group.0,
            held: held.into_iter().map(|(volume, ino)| convert::inode_ref(volume, ino)).collect(),
        };
        let reply = answer(addr, wait, self.meta(addr)?.recalls(request)).await?;
        let refs = |list: Vec<pb::InodeRef>| -> Result<Vec<_>, Refusal> {
            list.into_iter().map(convert::parse_inode_ref).collect()
        };
        let lease = Duration::from_millis(u64::from(reply.lease_ms));
        Ok(Recalls { lease, recalled: refs(reply.recalled)?, lost: refs(reply.lost)? })
    }

    async fn put(&self, addr: &str, call: Call, put: PutChunk) -> Result<u32, Refusal> {
        let wait = call.wait;
        let request = pb::PutRequest {
            space: call.space.0,
            envelope: Some(envelope(call).to_wire()),
            chunk: Some(convert::chunk_ref(put.chunk)),
            pg: put.pg.0,
            pg_epoch: put.epoch.0,
            data: put.data,
            sums: put.sums,
            forward: true,
            to_node: put.to.node.0,
            to_incarnation: put.to.incarnation.0,
        };
        Ok(answer(addr, wait, self.chunk(addr)?.put(request)).await?.copies)
    }

    async fn get(&self, addr: &str, call: Call, get: GetChunk) -> Result<Vec<Piece>, Refusal> {
        let wait = call.wait;
        let request = pb::GetRequest {
            space: call.space.0,
            envelope: Some(envelope(call).to_wire()),
            chunk: Some(convert::chunk_ref(get.chunk)),
            pg: get.pg.0,
            offset: get.offset,
            len: get.len,
        };
        let mut client = self.chunk(addr)?;
        let all = async {
            let mut stream = client.get(request).await.map_err(|status| from_status(&status))?.into_inner();
            let (mut pieces, mut bytes) = (Vec::new(), 0usize);
            while let Some(piece) = stream.message().await.map_err(|status| from_status(&status))? {
                bytes += piece.data.len();
                pieces.push(Piece { offset: piece.offset, data: piece.data, sums: piece.sums });
                if bytes > get.len as usize {
                    return Err(Refusal::BadSum { what: "more bytes than asked for".into() });
                }
            }
            Ok(pieces)
        };
        match tokio::time::timeout(wait, all).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::Unknown { why: format!("{addr} did not answer in {} ms", wait.as_millis()) }),
        }
    }

    async fn suspect(&self, addr: &str, call: Call, get: GetChunk) -> Result<(), Refusal> {
        let wait = call.wait;
        let request = pb::SuspectRequest {
            space: call.space.0,
            envelope: Some(envelope(call).to_wire()),
            chunk: Some(convert::chunk_ref(get.chunk)),
            pg: get.pg.0,
        };
        answer(addr, wait, self.chunk(addr)?.suspect(request)).await.map(drop)
    }
}

fn parse_map(bytes: &[u8]) -> Result<SiteMap, Refusal> {
    codec::decode_sitemap(bytes)
        .map_err(|error| Refusal::Unknown { why: format!("the site map can't be read: {error}") })
}

fn report(wire: pb::NodeStatusReply) -> NodeReport {
    let nodes = |ids: Vec<u32>| ids.into_iter().map(NodeId).collect();
    NodeReport {
        node: NodeId(wire.node),
        incarnation: Incarnation(wire.incarnation),
        version: wire.version,
        groups: wire
            .groups
            .into_iter()
            .map(|group| GroupReport {
                group: GroupId(group.group),
                leader: group.leader,
                leader_node: (group.leader_node != 0).then_some(NodeId(group.leader_node)),
                term: group.term,
                last_log: group.last_log,
                committed: group.committed,
                applied: group.applied,
                voters: nodes(group.voters),
                learners: nodes(group.learners),
                snapshot: group.snapshot,
                purged: group.purged,
                changing: group.changing,
                voter_lives: group.voter_incarnations.into_iter().map(Incarnation).collect(),
                rebuilding: group.rebuilding,
            })
            .collect(),
        total_bytes: wire.total_bytes,
        free_bytes: wire.free_bytes,
        chunk_bytes: wire.chunk_bytes,
        chunks: wire.chunks,
        lease_left_ms: wire.lease_left_ms,
        map_version: wire.map_version,
        uptime_ms: wire.uptime_ms,
        certificate_until: wire.certificate_until,
        chunk_health: wire.chunk_health.map(chunk_health).unwrap_or_default(),
        lost_logs: wire.lost_logs,
        lost_records: wire.lost_records,
    }
}

fn chunk_health(wire: pb::ChunkHealth) -> ChunkHealth {
    ChunkHealth {
        reread: wire.reread,
        reread_bytes: wire.reread_bytes,
        damaged: wire.damaged,
        missing: wire.missing,
        healed: wire.healed,
        waiting: wire.waiting,
        unhealed: wire.unhealed,
        catch_up: CatchUp {
            groups: wire.catch_up_groups,
            chunks: wire.catch_up_chunks,
            bytes: wire.catch_up_bytes,
            done_chunks: wire.caught_up_chunks,
            done_bytes: wire.caught_up_bytes,
            ms: wire.catch_up_ms,
        },
    }
}
