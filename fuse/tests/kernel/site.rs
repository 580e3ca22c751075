//! A site in memory: the real machine of a meta group over an ordered map, and a chunk server that is another map,
//! behind the real protocol on a loopback port. What nodes add to these - replicas, disks - no mount can tell.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tonic::{Request, Response, Status};
use weft_client::{Client, ClientParts, ConnectOptions};
use weft_core::checksum::{block_sums, first_bad_block};
use weft_core::codec;
use weft_core::entry::{Caller, Command, Entry};
use weft_core::ids::*;
use weft_core::limits::BLOCK;
use weft_core::machine;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::namespace::step::Step;
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;
use weft_core::site::{self, MemberState, Pg, PgMember, SiteMap};
use weft_core::time::Timestamp;
use weft_proto::link::{Listen, MESSAGE_LIMIT, Tcp, incoming, server};
use weft_proto::pb::{self, chunk_server, meta_server, site_server};
use weft_proto::{convert, status};

const GROUP: GroupId = GroupId(1);
const SITE: SiteId = SiteId(77);

/// A running site.
pub(crate) struct Site {
    addr: String,
    shared: Arc<Shared>,
}

struct Shared {
    addr: String,
    records: Mutex<BTreeMap<Bytes, Bytes>>,
    chunks: Mutex<BTreeMap<(u64, u64), Bytes>>,
    clients: Mutex<u64>,
    /// Held while the site hangs.
    hung: tokio::sync::RwLock<()>,
    waiting: AtomicUsize,
}

#[derive(Clone)]
struct Node(Arc<Shared>);

impl Site {
    /// Starts one with the volumes `root` and `other`, each of a space of its own.
    pub(crate) async fn start() -> Site {
        let accept = Tcp.listen("127.0.0.1:0").await.expect("listen on a loopback port");
        let addr = accept.local_addr().expect("the port");
        let shared = Arc::new(Shared {
            addr: addr.clone(),
            records: Mutex::default(),
            chunks: Mutex::default(),
            clients: Mutex::new(1),
            hung: tokio::sync::RwLock::default(),
            waiting: AtomicUsize::new(0),
        });
        for volume in volumes() {
            let attach =
                AttachVolume { volume: volume.id, space: volume.space, slot: volume.slot, mode: 0o755, uid: 0, gid: 0 };
            shared.apply(None, Command::AttachVolume(attach)).expect("attach a volume");
        }
        let node = Node(shared.clone());
        let routes = server()
            .add_service(site_server::SiteServer::new(node.clone()))
            .add_service(meta_server::MetaServer::new(node.clone()).max_decoding_message_size(MESSAGE_LIMIT))
            .add_service(chunk_server::ChunkServer::new(node).max_decoding_message_size(MESSAGE_LIMIT));
        tokio::spawn(routes.serve_with_incoming(incoming(accept)));
        Site { addr, shared }
    }

    /// Where it answers.
    #[allow(dead_code)]
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> Client {
        let parts = ClientParts::real();
        Client::connect(ConnectOptions::new([self.addr.clone()]), parts).await.expect("connect")
    }

    /// The site answers no change and no question about volumes until what this returns is dropped.
    pub(crate) async fn hang(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.shared.hung.write().await
    }

    /// Changes and questions that wait for the site to wake.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Chunks that are stored.
    pub(crate) fn chunks(&self) -> usize {
        self.shared.chunks.lock().len()
    }
}

fn volumes() -> Vec<site::Volume> {
    ["root", "other"]
        .into_iter()
        .zip(1u64..)
        .map(|(name, id)| site::Volume {
            id: VolumeId(id),
            name: name.into(),
            space: SpaceId(id),
            group: GROUP,
            slot: SlotId(id),
            view: ViewId(id as u32),
            replication: 1,
            tenant: TenantId(0),
            created: Timestamp::default(),
            ready: true,
            token: id,
            deleting: false,
        })
        .collect()
}

impl Shared {
    async fn awake(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(self.hung.read().await);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    fn apply(&self, caller: Option<Caller>, command: Command) -> Result<Outcome, Refusal> {
        let now = weft_client::parts::Clock::now(&weft_client::parts::SystemClock);
        let mut records = self.records.lock();
        loop {
            let entry = Entry { time: now, caller: caller.clone(), command: command.clone() };
            match write(&mut records, &entry) {
                Err(Refusal::CutPending { ino }) => {
                    let Command::Op { volume, .. } = &command else { unreachable!("only operations wait for cuts") };
                    let step = Command::Step(Step::FinishCut { volume: *volume, ino });
                    let _ = write(&mut records, &Entry { time: now, caller: None, command: step });
                }
                reply => return reply,
            }
        }
    }

    fn query(&self, volume: VolumeId, cred: &weft_client::Cred, query: &Query) -> Result<Answer, Refusal> {
        machine::query(&*self.records.lock(), volume, ClientId(0), cred, query).expect("a map does not fail")
    }

    fn map(&self) -> SiteMap {
        let replica = ReplicaId { node: NodeId(1), incarnation: Incarnation(5) };
        let members = vec![PgMember { replica, state: MemberState::Serving }];
        SiteMap {
            version: 1,
            site: SITE,
            name: "memory".into(),
            nodes: vec![site::Node {
                id: NodeId(1),
                incarnation: Incarnation(5),
                addr: self.addr.clone(),
                meta: true,
                chunk: true,
                ..site::Node::default()
            }],
            groups: vec![site::Group { id: GROUP, replicas: vec![replica] }],
            volumes: volumes(),
            pgs: vec![Pg { id: PgId(1), factor: 1, epoch: PgEpoch(1), members }],
            pasts: vec![],
        }
    }
}

fn write(records: &mut BTreeMap<Bytes, Bytes>, entry: &Entry) -> Result<Outcome, Refusal> {
    let applied = machine::apply(records, GROUP, entry).expect("a map does not fail");
    for (key, change) in applied.changes {
        match change {
            Some(value) => records.insert(key, value),
            None => records.remove(&key),
        };
    }
    applied.reply
}

fn refuse(refusal: Refusal) -> Status {
    status::to_status(&refusal)
}

#[tonic::async_trait]
impl meta_server::Meta for Node {
    async fn garbage(&self, _: Request<pb::GarbageRequest>) -> Result<Response<pb::GarbageReply>, Status> {
        Err(Status::unimplemented("nobody looks for garbage here"))
    }

    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyReply>, Status> {
        self.0.awake().await;
        let parsed = convert::parse_apply(request.into_inner()).map_err(refuse)?;
        let command = Command::Op { volume: parsed.volume, op: parsed.op };
        let outcome = self.0.apply(Some(parsed.envelope.caller()), command).map_err(refuse)?;
        Ok(Response::new(convert::apply_reply(&outcome)))
    }

    async fn query(&self, request: Request<pb::QueryRequest>) -> Result<Response<pb::QueryReply>, Status> {
        self.0.awake().await;
        let parsed = convert::parse_query(request.into_inner()).map_err(refuse)?;
        let answer = self.0.query(parsed.volume, parsed.envelope.cred(), &parsed.query).map_err(refuse)?;
        Ok(Response::new(convert::query_reply(&answer)))
    }

    async fn open_session(
        &self,
        request: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionReply>, Status> {
        let envelope = convert::parse_envelope(request.into_inner().envelope).map_err(refuse)?;
        let command = Command::OpenSession { client: envelope.client, space: envelope.space };
        self.0.apply(None, command).map_err(refuse)?;
        Ok(Response::new(pb::OpenSessionReply { keepalive_ms: 200, ..pb::OpenSessionReply::default() }))
    }

    async fn end_session(
        &self,
        request: Request<pb::EndSessionRequest>,
    ) -> Result<Response<pb::EndSessionReply>, Status> {
        let envelope = convert::parse_envelope(request.into_inner().envelope).map_err(refuse)?;
        let command = Command::EndSession { client: envelope.client, space: envelope.space };
        self.0.apply(None, command).map_err(refuse)?;
        Ok(Response::new(pb::EndSessionReply {}))
    }

    /// Reaps what one client does not have open: enough while only one client unlinks what it has open.
    async fn keep_alive(&self, request: Request<pb::KeepAliveRequest>) -> Result<Response<pb::KeepAliveReply>, Status> {
        for inode in request.into_inner().not_open {
            let (volume, ino) = convert::parse_inode_ref(inode).map_err(refuse)?;
            let step = Command::Step(Step::ReapOrphans { volume, inos: vec![ino] });
            while let Ok(Outcome::Stepped { more: true }) = self.0.apply(None, step.clone()) {}
        }
        let pending = machine::pending_steps(&*self.0.records.lock()).map_err(|error| Status::internal(error.0))?;
        let asked = pending.orphans.into_iter().map(|(volume, ino)| convert::inode_ref(volume, ino)).collect();
        Ok(Response::new(pb::KeepAliveReply { asked, ..pb::KeepAliveReply::default() }))
    }

    async fn recalls(&self, _: Request<pb::RecallsRequest>) -> Result<Response<pb::RecallsReply>, Status> {
        Err(Status::unimplemented("nobody leases here"))
    }
}

#[tonic::async_trait]
impl site_server::Site for Node {
    async fn map(&self, request: Request<pb::MapRequest>) -> Result<Response<pb::MapReply>, Status> {
        let map = match request.into_inner().have_version {
            0 => codec::encode_sitemap(&self.0.map()),
            _ => Bytes::new(),
        };
        Ok(Response::new(pb::MapReply { map }))
    }

    async fn delete_volume(
        &self,
        _: Request<pb::DeleteVolumeRequest>,
    ) -> Result<Response<pb::DeleteVolumeReply>, Status> {
        Err(Status::unimplemented("volumes stay here"))
    }

    async fn client_ids(&self, request: Request<pb::ClientIdsRequest>) -> Result<Response<pb::ClientIdsReply>, Status> {
        let count = request.into_inner().count;
        let mut next = self.0.clients.lock();
        let first = *next;
        *next += u64::from(count);
        Ok(Response::new(pb::ClientIdsReply { site: SITE.0, first, count }))
    }

    async fn join(&self, _: Request<pb::JoinRequest>) -> Result<Response<pb::JoinReply>, Status> {
        Err(Status::unimplemented("no node joins this site"))
    }

    async fn heartbeat(&self, _: Request<pb::HeartbeatRequest>) -> Result<Response<pb::HeartbeatReply>, Status> {
        Err(Status::unimplemented("no node joins this site"))
    }

    async fn create_volume(
        &self,
        _: Request<pb::CreateVolumeRequest>,
    ) -> Result<Response<pb::CreateVolumeReply>, Status> {
        Err(Status::unimplemented("this site has its volumes"))
    }

    async fn drain_node(&self, _: Request<pb::DrainNodeRequest>) -> Result<Response<pb::DrainNodeReply>, Status> {
        Err(Status::unimplemented("this site keeps its node"))
    }

    async fn remove_node(&self, _: Request<pb::RemoveNodeRequest>) -> Result<Response<pb::RemoveNodeReply>, Status> {
        Err(Status::unimplemented("this site keeps its node"))
    }

    async fn node_status(&self, _: Request<pb::NodeStatusRequest>) -> Result<Response<pb::NodeStatusReply>, Status> {
        Ok(Response::new(pb::NodeStatusReply::default()))
    }

    async fn whoami(&self, _: Request<pb::WhoamiRequest>) -> Result<Response<pb::WhoamiReply>, Status> {
        Ok(Response::new(pb::WhoamiReply::default()))
    }

    async fn trust(&self, _: Request<pb::TrustRequest>) -> Result<Response<pb::TrustReply>, Status> {
        Err(Status::unimplemented("this site is in plain text"))
    }

    async fn renew(&self, _: Request<pb::RenewRequest>) -> Result<Response<pb::RenewReply>, Status> {
        Err(Status::unimplemented("this site is in plain text"))
    }
}

#[tonic::async_trait]
impl chunk_server::Chunk for Node {
    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutReply>, Status> {
        let put = request.into_inner();
        let chunk = convert::parse_chunk_ref(put.chunk).map_err(refuse)?;
        if let Some(block) = first_bad_block(chunk, 0, &put.data, &put.sums) {
            return Err(refuse(Refusal::BadSum { what: format!("block {block}") }));
        }
        self.0.chunks.lock().insert((chunk.client.0, chunk.counter), put.data);
        Ok(Response::new(pb::PutReply { copies: 1 }))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<pb::GetPiece, Status>> + Send>>;

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let get = request.into_inner();
        let chunk = convert::parse_chunk_ref(get.chunk).map_err(refuse)?;
        let found = self.0.chunks.lock().get(&(chunk.client.0, chunk.counter)).cloned();
        let data = found.ok_or_else(|| refuse(Refusal::NoChunk))?;
        let start = get.offset / BLOCK * BLOCK;
        let end = (get.offset + get.len).next_multiple_of(BLOCK).min(data.len() as u32);
        let part = data.slice(start as usize..end as usize);
        let piece = pb::GetPiece {
            offset: start,
            sums: block_sums(chunk, start / BLOCK, &part),
            data: part,
            chunk_len: data.len() as u32,
            uploader: chunk.client.0,
        };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(piece)]))))
    }

    async fn list(&self, _: Request<pb::ListRequest>) -> Result<Response<pb::ListReply>, Status> {
        Err(Status::unimplemented("nobody compares this server with another"))
    }
    async fn delete(&self, _: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteReply>, Status> {
        Err(Status::unimplemented("nothing is deleted here"))
    }

    async fn digest(&self, _: Request<pb::DigestRequest>) -> Result<Response<pb::DigestReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn suspect(&self, _: Request<pb::SuspectRequest>) -> Result<Response<pb::SuspectReply>, Status> {
        Ok(Response::new(pb::SuspectReply {}))
    }
}
