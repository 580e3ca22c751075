//! Three chunk servers on loopback.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use weft_core::checksum::{block_sums, first_bad_block};
use weft_core::ids::{ChunkId, ClientId, GroupId, Incarnation, NodeId, PgEpoch, PgId, ReplicaId, SiteId, SpaceId};
use weft_core::refusal::Refusal;
use weft_core::site::MemberState::{Away, Behind, Serving};
use weft_core::site::{MemberState, Node, Pg, PgMember, SiteMap};
use weft_core::time::Timestamp;
use weft_core::view::ViewError;
use weft_proto::link::{self, Listen, MESSAGE_LIMIT, Tcp};
use weft_proto::pb::chunk_client::ChunkClient;
use weft_proto::status::from_status;
use weft_proto::{PROTOCOL, pb};

use super::index::{ChunkKey, MemoryIndexes};
use super::server::ChunkServer;
use crate::disk::MemDisk;
use crate::identity::Identity;
use crate::parts::{Clock, Dice, Parts};
use crate::real::Udp;
use crate::records::{RecordStore, RecordStores};
use crate::settings::ChunkSettings;
use crate::site::map::MapCell;
use crate::site::peers::Peers;

mod heal;

const PG: PgId = PgId(4);
const SPACE: SpaceId = SpaceId(9);

struct Still;
impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }
}
struct Row(AtomicU64);
impl Dice for Row {
    fn roll(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

/// A chunk server has no use for records.
struct NoRecords;
#[async_trait::async_trait]
impl RecordStores for NoRecords {
    async fn open(&self, _: &Path, _: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        Err(ViewError("none".into()))
    }
    async fn wipe(&self, _: &Path, _: GroupId) -> Result<(), ViewError> {
        Err(ViewError("none".into()))
    }
    async fn persist(&self, _: Arc<dyn RecordStore>) -> Result<(), ViewError> {
        Err(ViewError("none".into()))
    }
}

fn replica(node: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: Incarnation(u64::from(node) * 1000) }
}

struct One {
    server: Arc<ChunkServer>,
    map: MapCell,
    disk: MemDisk,
    client: ChunkClient<tonic::transport::Channel>,
    serving: JoinHandle<()>,
}

struct Three {
    nodes: Vec<One>,
    addrs: Vec<String>,
    version: u64,
    epoch: u64,
}

impl Three {
    async fn start() -> Three {
        Three::start_with(ChunkSettings { segment_mib: 8, reserve_mib: 0, ..ChunkSettings::default() }).await
    }

    async fn start_with(settings: ChunkSettings) -> Three {
        let three = Three::without_leases(settings).await;
        three.grant(Duration::from_secs(600));
        three
    }

    async fn without_leases(settings: ChunkSettings) -> Three {
        let mut nodes = Vec::new();
        let mut addrs = Vec::new();
        for node in 1..=3u32 {
            let (tcp, map, disk) = (Arc::new(Tcp), MapCell::default(), MemDisk::new());
            let parts = Parts {
                clock: Arc::new(Still),
                dice: Arc::new(Row(AtomicU64::new(node.into()))),
                disk: Arc::new(disk.clone()),
                dial: tcp.clone(),
                listen: tcp.clone(),
                datagrams: Arc::new(Udp),
                records: Arc::new(NoRecords),
                indexes: Arc::new(MemoryIndexes),
            };
            let identity = Identity {
                site: SiteId(1),
                site_name: "here".into(),
                node: NodeId(node),
                incarnation: replica(node).incarnation,
            };
            let peers = Peers::new(tcp.clone(), map.clone());
            let server = ChunkServer::open(&parts, &settings, &identity, map.clone(), peers).await.unwrap();
            let accept = tcp.listen("127.0.0.1:0").await.unwrap();
            let addr = accept.local_addr().unwrap();
            let service = server.service();
            let serving = tokio::spawn(async move {
                link::server().add_service(service).serve_with_incoming(link::incoming(accept)).await.unwrap();
            });
            let client = ChunkClient::new(link::channel(tcp, &addr).unwrap())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT);
            addrs.push(addr);
            nodes.push(One { server, map, disk, client, serving });
        }
        let mut three = Three { nodes, addrs, version: 0, epoch: 0 };
        three.members([Serving; 3]);
        three
    }

    fn map(&self, states: [MemberState; 3]) -> SiteMap {
        let node = |(n, addr): (u32, &String)| Node {
            id: NodeId(n),
            incarnation: replica(n).incarnation,
            addr: addr.clone(),
            meta: true,
            chunk: true,
            ..Node::default()
        };
        let members = states.iter().zip(1..).map(|(state, n)| PgMember { replica: replica(n), state: *state });
        let pg = Pg { id: PG, factor: 3, epoch: PgEpoch(self.epoch), members: members.collect() };
        let nodes = (1..).zip(&self.addrs).map(node).collect();
        SiteMap { version: self.version, site: SiteId(1), nodes, pgs: vec![pg], ..SiteMap::default() }
    }

    /// A new epoch, which all three hear of.
    fn members(&mut self, states: [MemberState; 3]) {
        self.next();
        (0..3).for_each(|n| self.nodes[n].map.offer(self.map(states)));
    }

    fn next(&mut self) {
        self.version += 1;
        self.epoch += 1;
    }

    fn grant(&self, lease: Duration) {
        self.nodes.iter().for_each(|node| node.server.grant(Instant::now() + lease, self.version));
    }

    fn put(&self, counter: u64, len: usize) -> pb::PutRequest {
        let chunk = ChunkId { client: ClientId(7), counter };
        let data = bytes(counter, len);
        pb::PutRequest {
            envelope: Some(envelope()),
            space: SPACE.0,
            chunk: Some(pb::ChunkRef { client: 7, counter }),
            pg: PG.0,
            pg_epoch: self.epoch,
            sums: block_sums(chunk, 0, &data),
            data,
            forward: true,
            to_node: 0,
            to_incarnation: 0,
        }
    }

    async fn send(&self, to: usize, request: pb::PutRequest) -> Result<u32, Refusal> {
        let reply = self.nodes[to].client.clone().put(request).await;
        reply.map(|reply| reply.into_inner().copies).map_err(|status| from_status(&status))
    }

    async fn get(&self, from: usize, counter: u64, offset: u32, len: u32) -> Result<(u32, Bytes), Refusal> {
        let request = pb::GetRequest {
            envelope: Some(envelope()),
            space: SPACE.0,
            chunk: Some(pb::ChunkRef { client: 7, counter }),
            pg: PG.0,
            offset,
            len,
        };
        let pieces = self.nodes[from].client.clone().get(request).await;
        let mut pieces = pieces.map_err(|status| from_status(&status))?.into_inner();
        let (mut start, mut data, mut sums) = (None, BytesMut::new(), Vec::new());
        while let Some(piece) = pieces.message().await.map_err(|status| from_status(&status))? {
            assert!(piece.data.len() <= 1 << 20);
            start.get_or_insert(piece.offset);
            data.extend_from_slice(&piece.data);
            sums.extend(piece.sums);
        }
        let start = start.unwrap();
        let chunk = ChunkId { client: ClientId(7), counter };
        assert_eq!(first_bad_block(chunk, start / 4096, &data, &sums), None);
        Ok((start, data.freeze()))
    }

    fn has(&self, at: usize, counter: u64) -> bool {
        let chunk = ChunkId { client: ClientId(7), counter };
        self.nodes[at].server.store().has(ChunkKey { pg: PG, space: SPACE, chunk }).unwrap()
    }
}

fn bytes(counter: u64, len: usize) -> Bytes {
    (0..len).map(|at| (at as u64).wrapping_mul(counter | 1) as u8).collect::<Vec<_>>().into()
}

fn envelope() -> pb::Envelope {
    pb::Envelope { protocol: PROTOCOL, client: 7, deadline_ms: 5000, ..pb::Envelope::default() }
}

#[tokio::test]
async fn a_put_lies_on_all_members_and_is_read_from_any() {
    let three = Three::start().await;
    let len = (4 << 20) - 1000;
    assert_eq!(three.send(1, three.put(1, len)).await, Ok(3));
    assert_eq!(three.send(2, three.put(1, len)).await, Ok(3), "repeated at another member");
    for node in 0..3 {
        assert_eq!(three.get(node, 1, 0, len as u32).await, Ok((0, bytes(1, len))));
    }
    let (start, part) = three.get(0, 1, 5_000, 2_000_000).await.unwrap();
    assert_eq!((start, &part[..]), (4096, &bytes(1, len)[4096..2_007_040]));
    assert!(matches!(three.get(0, 1, 10, len as u32).await, Err(Refusal::Invalid { .. })));
    assert!(matches!(three.get(0, 1, u32::MAX, 5).await, Err(Refusal::Invalid { .. })));
    assert_eq!(three.get(0, 2, 0, 5).await, Err(Refusal::NoChunk));
    let facts = three.nodes[0].server.heartbeat_facts();
    assert_eq!((facts.chunks, facts.chunk_bytes, facts.adopted_map), (1, len as u64, three.version));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let three = Three::start().await;
    let mut wrong = three.put(1, 5000);
    wrong.sums[1] ^= 1;
    assert!(matches!(three.send(0, wrong).await, Err(Refusal::BadSum { .. })));
    let mut wrong = three.put(1, 5000);
    wrong.sums.pop();
    assert!(matches!(three.send(0, wrong).await, Err(Refusal::BadSum { .. })));
    let mut wrong = three.put(1, 5000);
    wrong.envelope = None;
    assert!(matches!(three.send(0, wrong).await, Err(Refusal::Invalid { .. })));
    let mut wrong = three.put(1, 5000);
    wrong.envelope.as_mut().unwrap().protocol = 99;
    assert!(matches!(three.send(0, wrong).await, Err(Refusal::WrongVersion { theirs: 99, .. })));
    assert!(matches!(three.send(0, three.put(1, 0)).await, Err(Refusal::Invalid { .. })));
    assert!(matches!(three.send(0, three.put(1, (4 << 20) + 1)).await, Err(Refusal::TooLarge { .. })));
    let mut wrong = three.put(1, 10);
    wrong.chunk = None;
    assert!(matches!(three.send(0, wrong).await, Err(Refusal::Invalid { .. })));
    let mut wrong = three.put(1, 10);
    (wrong.to_node, wrong.to_incarnation) = (1, 77);
    assert!(matches!(three.send(0, wrong).await, Err(Refusal::WrongRecipient { .. })));
    assert_eq!(three.send(0, three.put(1, 10)).await, Ok(3));
    let other = pb::PutRequest { data: bytes(2, 10), ..three.put(1, 10) };
    let chunk = ChunkId { client: ClientId(7), counter: 1 };
    let other = pb::PutRequest { sums: block_sums(chunk, 0, &other.data), ..other };
    assert!(matches!(three.send(0, other).await, Err(Refusal::Invalid { .. })), "other bytes under the same id");
}

#[tokio::test]
async fn only_the_named_epoch_counts() {
    let mut three = Three::start().await;
    let old = three.put(1, 100);
    three.members([Serving, Serving, Away]);
    let refused = three.send(0, old).await;
    assert_eq!(refused, Err(Refusal::StalePlacement { pg: PG, epoch: PgEpoch(2) }));
    assert!(!three.has(0, 1));
    assert_eq!(three.send(0, three.put(1, 100)).await, Ok(2), "without the one that is away");
    assert!(!three.has(2, 1));
    let refused = three.send(2, three.put(2, 100)).await;
    assert!(matches!(refused, Err(Refusal::MayNotAcknowledge { .. })), "{refused:?}");

    // A map that only one has heard of: the other gets a moment to hear of it too, but does not act on the old one.
    three.next();
    three.nodes[0].map.offer(three.map([Serving; 3]));
    let refused = three.send(0, three.put(3, 100)).await;
    assert!(matches!(refused, Err(Refusal::StalePlacement { .. })), "{refused:?}");
    three.nodes[1].map.offer(three.map([Serving; 3]));
    let (sent, ()) = tokio::join!(three.send(0, three.put(4, 100)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        three.nodes[2].map.offer(three.map([Serving; 3]));
    });
    assert_eq!(sent, Ok(3));
    let mut other = three.put(5, 100);
    other.pg = 99;
    assert!(matches!(three.send(0, other).await, Err(Refusal::StalePlacement { .. })));
}

#[tokio::test]
async fn nothing_is_acknowledged_without_a_lease() {
    let three = Three::without_leases(ChunkSettings { segment_mib: 8, ..ChunkSettings::default() }).await;
    let refused = async |what: &str| {
        let refused = three.send(0, three.put(1, 100)).await;
        assert!(matches!(refused, Err(Refusal::MayNotAcknowledge { .. })), "{what}: {refused:?}");
    };
    refused("none yet").await;
    three.nodes[0].server.grant(Instant::now() + Duration::from_secs(60), three.version);
    three.nodes[1].server.grant(Instant::now() + Duration::from_secs(60), three.version);
    refused("another member has none").await;
    three.nodes[2].server.grant(Instant::now() + Duration::from_millis(30), three.version);
    tokio::time::sleep(Duration::from_millis(40)).await;
    refused("another member's ran out").await;
    three.nodes[2].server.grant(Instant::now() + Duration::from_secs(60), three.version + 1);
    refused("another member's is for a map it has not").await;
    assert_eq!(three.nodes[2].map.get().version, three.version);
    let mut newer = three.map([Serving; 3]);
    newer.version += 1;
    three.nodes[2].map.offer(newer);
    assert_eq!(three.send(0, three.put(1, 100)).await, Ok(3));
}

#[tokio::test]
async fn fewer_than_two_are_not_enough() {
    let mut three = Three::start().await;
    three.members([Serving, Away, Away]);
    let refused = three.send(0, three.put(1, 100)).await;
    assert!(matches!(refused, Err(Refusal::MayNotAcknowledge { .. })), "{refused:?}");
    assert!(!three.has(0, 1));
}

#[tokio::test]
async fn a_member_that_does_not_answer_refuses_the_put() {
    let three = Three::start().await;
    three.nodes[2].serving.abort();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut request = three.put(1, 100);
    request.envelope.as_mut().unwrap().deadline_ms = 1000;
    let refused = three.send(0, request).await;
    assert!(matches!(refused, Err(Refusal::MayNotAcknowledge { .. })), "{refused:?}");
}

#[tokio::test]
async fn one_that_was_away_catches_up() {
    let mut three = Three::start().await;
    assert_eq!(three.send(0, three.put(1, 5000)).await, Ok(3));
    three.members([Serving, Serving, Away]);
    for counter in 2..700 {
        assert_eq!(three.send(0, three.put(counter, 100 + counter as usize)).await, Ok(2));
    }
    assert_eq!(three.send(0, three.put(700, 3 << 20)).await, Ok(2));
    three.members([Serving, Serving, Behind]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while three.nodes[2].server.heartbeat_facts().complete.is_empty() {
        assert!(Instant::now() < deadline, "does not catch up");
        assert_eq!(three.send(0, three.put(1000, 10)).await, Ok(3), "new ones come to it meanwhile");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(three.nodes[2].server.heartbeat_facts().complete, vec![(PG, PgEpoch(three.epoch))]);
    assert_eq!(three.nodes[0].server.heartbeat_facts().complete, vec![]);
    for counter in 1..=700 {
        assert!(three.has(2, counter), "{counter}");
    }
    assert_eq!(three.get(2, 700, 0, 3 << 20).await.unwrap().1, bytes(700, 3 << 20));
    assert_eq!(three.nodes[2].server.counters().fetched.load(Ordering::Relaxed), 699);
    three.members([Serving; 3]);
    assert_eq!(three.nodes[2].server.heartbeat_facts().complete, vec![]);
    for node in &three.nodes {
        node.server.shutdown().await;
    }
    let refused = three.send(0, three.put(2000, 10)).await;
    assert!(matches!(refused, Err(Refusal::NotServed { .. } | Refusal::MayNotAcknowledge { .. })), "{refused:?}");
}

#[tokio::test]
async fn listing_goes_page_by_page_and_only_with_the_callers_map() {
    let three = Three::start().await;
    for counter in 0..5 {
        three.send(0, three.put(counter, 10)).await.unwrap();
    }
    let list = |after: Option<u64>, map_version| pb::ListRequest {
        envelope: Some(pb::Envelope { map_version, ..envelope() }),
        pg: PG.0,
        after_space: SPACE.0,
        after: after.map(|counter| pb::ChunkRef { client: 7, counter }),
        limit: 3,
        to_node: 0,
        to_incarnation: 0,
    };
    let mut client = three.nodes[1].client.clone();
    let page = client.list(list(None, three.version)).await.unwrap().into_inner();
    assert_eq!((page.chunks.len(), page.end), (3, false));
    let page = client.list(list(Some(2), three.version)).await.unwrap().into_inner();
    assert_eq!((page.chunks.len(), page.end), (2, true));
    let refused = client.list(list(None, three.version + 1)).await.map_err(|status| from_status(&status));
    assert!(matches!(refused, Err(Refusal::Busy { .. })), "{refused:?}");
}

impl Three {
    fn deletion(&self, of: usize, counters: std::ops::Range<u64>) -> pb::DeleteRequest {
        let replica = replica(of as u32 + 1);
        let chunk = |counter| pb::SpaceChunk { space: SPACE.0, chunk: Some(pb::ChunkRef { client: 7, counter }) };
        pb::DeleteRequest {
            envelope: Some(envelope()),
            pg: PG.0,
            pg_epoch: self.epoch,
            chunks: counters.map(chunk).collect(),
            to_node: replica.node.0,
            to_incarnation: replica.incarnation.0,
        }
    }

    async fn delete(&self, at: usize, request: pb::DeleteRequest) -> Result<u64, Refusal> {
        let reply = self.nodes[at].client.clone().delete(request).await;
        reply.map(|reply| reply.into_inner().deleted).map_err(|status| from_status(&status))
    }
}

#[tokio::test]
async fn a_deletion_is_confirmed_only_by_a_member_at_the_named_epoch() {
    let mut three = Three::start().await;
    for counter in 0..300 {
        three.send(0, three.put(counter, 10)).await.unwrap();
    }
    let old = three.deletion(1, 0..200);
    assert_eq!(three.delete(1, old.clone()).await, Ok(200));
    assert_eq!(three.delete(1, old.clone()).await, Ok(0), "again");
    assert!(three.has(0, 0) && !three.has(1, 0) && three.has(1, 200));
    let refused = three.delete(0, old.clone()).await;
    assert!(matches!(refused, Err(Refusal::WrongRecipient { .. })), "{refused:?}");
    let nobody = pb::DeleteRequest { to_node: 0, to_incarnation: 0, ..old.clone() };
    assert!(matches!(three.delete(0, nobody).await, Err(Refusal::WrongRecipient { .. })));
    three.members([Serving, Serving, Away]);
    let refused = three.delete(1, pb::DeleteRequest { chunks: three.deletion(1, 200..300).chunks, ..old }).await;
    assert_eq!(refused, Err(Refusal::StalePlacement { pg: PG, epoch: PgEpoch(2) }));
    let refused = three.delete(2, three.deletion(2, 0..300)).await;
    assert!(matches!(refused, Err(Refusal::MayNotAcknowledge { .. })), "{refused:?}");
    assert!(three.has(1, 200) && three.has(2, 0), "nothing is deleted where nothing may be confirmed");
    let many = three.deletion(0, 0..2000);
    assert!(matches!(three.delete(0, many).await, Err(Refusal::TooLarge { .. })));
}

#[tokio::test]
async fn chunks_of_a_group_that_was_left_go_once_the_others_are_whole() {
    let mut three = Three::start().await;
    for counter in 0..20 {
        three.send(0, three.put(counter, 10)).await.unwrap();
    }
    let left = &mut std::collections::BTreeMap::new();
    let without_third = |three: &Three, second: MemberState| {
        let mut map = three.map([Serving, second, Serving]);
        map.pgs[0].members.pop();
        map
    };
    let server = three.nodes[2].server.clone();
    three.next();
    three.nodes.iter().for_each(|node| node.map.offer(without_third(&three, Behind)));
    three.grant(Duration::from_secs(60));
    super::orphans::walk(&server.shared, Duration::ZERO, left, Duration::ZERO).await;
    assert!(three.has(2, 0), "another member has not everything yet");
    three.next();
    three.nodes.iter().for_each(|node| node.map.offer(without_third(&three, Serving)));
    three.version += 1;
    three.grant(Duration::from_secs(60));
    super::orphans::walk(&server.shared, Duration::ZERO, left, Duration::ZERO).await;
    assert!(three.has(2, 0), "the lease is for a map that this server does not have");
    three.nodes.iter().for_each(|node| node.map.offer(without_third(&three, Serving)));
    super::orphans::walk(&server.shared, Duration::ZERO, left, Duration::from_secs(600)).await;
    assert!(three.has(2, 0), "left just now");
    super::orphans::walk(&server.shared, Duration::ZERO, left, Duration::ZERO).await;
    assert!((0..20).all(|counter| !three.has(2, counter) && three.has(0, counter)));
}
