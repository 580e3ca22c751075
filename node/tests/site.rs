//! A site of three nodes in one process: real gRPC over loopback, disks and record stores in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use weft_core::ids::NodeId;
use weft_core::site::{MemberState, NodeStatus, Pg, SiteMap};
use weft_node::chunk::index::MemoryIndexes;
use weft_node::disk::MemDisk;
use weft_node::node::{Node, StartError};
use weft_node::parts::Parts;
use weft_node::real::{OsDice, RealClock, Udp};
use weft_node::records::memory::MemoryRecords;
use weft_node::settings::Settings;
use weft_node::site::setup;
use weft_proto::convert::Envelope;
use weft_proto::link::{self, Tcp};
use weft_proto::pb;
use weft_proto::pb::site_client::SiteClient;
use weft_proto::status;

const PATIENCE: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// A node's machine: what survives a stop of its process.
struct Machine {
    settings: Settings,
    parts: Parts,
}

impl Machine {
    fn new() -> Machine {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let mut settings = Settings {
            listen: format!("127.0.0.1:{}", free_port()),
            http: "127.0.0.1:0".into(),
            heartbeat_ms: 150,
            lease_ms: 1500,
            ..Settings::default()
        };
        settings.chunks.reserve_mib = 0;
        settings.chunks.segment_mib = 8;
        let parts = Parts {
            clock: Arc::new(RealClock),
            dice: Arc::new(OsDice),
            disk: Arc::new(MemDisk::new()),
            dial: Arc::new(Tcp),
            listen: Arc::new(Tcp),
            datagrams: Arc::new(Udp),
            records: Arc::new(MemoryRecords::default()),
            indexes: Arc::new(MemoryIndexes),
        };
        Machine { settings, parts }
    }

    /// Starts the node.
    async fn start(&self) -> Node {
        Node::start(self.settings.clone(), self.parts.clone()).await.expect("start the node")
    }
}

/// The map in few lines.
fn summary(map: &SiteMap) -> String {
    let nodes: Vec<_> = map.nodes.iter().map(|node| (node.id.0, &node.addr, node.status)).collect();
    let groups: Vec<_> = map.groups.iter().map(|group| (group.id.0, group.replicas.len())).collect();
    let volumes: Vec<_> = map.volumes.iter().map(|volume| (&volume.name, volume.ready, volume.replication)).collect();
    let members = |pg: &Pg| pg.members.iter().map(|member| (member.replica.node.0, member.state)).collect::<Vec<_>>();
    let pgs: Vec<_> = map.pgs.iter().map(|pg| (pg.factor, pg.epoch.0, members(pg))).collect();
    format!("version {} nodes {nodes:?} groups {groups:?} volumes {volumes:?} placement groups {pgs:?}", map.version)
}

async fn wait_for(what: &str, node: &Node, mut done: impl FnMut(&SiteMap) -> bool) {
    let mut maps = node.map().watch();
    let seen = tokio::time::timeout(PATIENCE, maps.wait_for(|map| done(map))).await;
    assert!(seen.is_ok(), "waited {PATIENCE:?} for {what}; the map is {}", summary(&node.map().get()));
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !done().await {
        assert!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn client(addr: &str) -> SiteClient<tonic::transport::Channel> {
    SiteClient::new(link::channel(Arc::new(Tcp), addr).expect("an address"))
}

async fn status_of(node: &Node) -> pb::NodeStatusReply {
    let mut client = client(node.addr());
    let request = pb::NodeStatusRequest { envelope: Some(Envelope::default().to_wire()) };
    client.node_status(request).await.expect("node status").into_inner()
}

async fn page(addr: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("receive");
    text
}

fn factor(map: &SiteMap, factor: u8) -> Vec<&Pg> {
    map.pgs.iter().filter(|pg| pg.factor == factor).collect()
}

fn states(map: &SiteMap, pgs: u8, node: NodeId) -> Vec<MemberState> {
    let members = factor(map, pgs).into_iter().flat_map(|pg| &pg.members);
    members.filter(|member| member.replica.node == node).map(|member| member.state).collect()
}

/// Makes a site of three nodes and waits until it is whole.
async fn three(machines: &[Machine; 3]) -> [Node; 3] {
    setup::init(&machines[0].settings, "test", 2, 3, &machines[0].parts).await.expect("init");
    let first = machines[0].start().await;
    setup::join(&machines[1].settings, first.addr(), &machines[1].parts).await.expect("join");
    let second = machines[1].start().await;
    // Asked of a node that does not lead: it passes the question on.
    setup::join(&machines[2].settings, second.addr(), &machines[2].parts).await.expect("join");
    let third = machines[2].start().await;
    let nodes = [first, second, third];
    for node in &nodes {
        wait_for("three replicas, all placement groups and the root volume", node, |map| {
            map.groups.len() == 3
                && map.groups.iter().all(|group| group.replicas.len() == 3)
                && (1..=3).all(|copies| !factor(map, copies).is_empty())
                && map.volumes.iter().any(|volume| volume.name == "root" && volume.ready && volume.replication == 3)
        })
        .await;
        until("three voters in every group", async || {
            let status = status_of(node).await;
            status.groups.len() == 3 && status.groups.iter().all(|group| group.voters.len() == 3)
        })
        .await;
    }
    nodes
}

async fn stop(nodes: impl IntoIterator<Item = Node>) {
    futures::future::join_all(nodes.into_iter().map(Node::shutdown)).await;
}

#[tokio::test]
async fn a_site_grows_to_three_nodes_and_outlives_one() {
    let machines = [Machine::new(), Machine::new(), Machine::new()];
    let [first, second, third] = three(&machines).await;

    // A volume, asked of the last node.
    let mut client = client(third.addr());
    let request = pb::CreateVolumeRequest {
        envelope: Some(Envelope { deadline_ms: 20_000, ..Envelope::default() }.to_wire()),
        name: "projects".into(),
        replication: 2,
        token: 99,
    };
    let made = client.create_volume(request.clone()).await.expect("create a volume").into_inner();
    let again = client.create_volume(request.clone()).await.expect("the same again").into_inner();
    assert_eq!(made, again);
    let other = pb::CreateVolumeRequest { token: 100, ..request };
    let refused = client.create_volume(other).await.map_err(|error| status::from_status(&error));
    assert!(matches!(refused, Err(weft_core::refusal::Refusal::VolumeExists { .. })), "{refused:?}");
    wait_for("the volume", &first, |map| map.volumes.iter().any(|volume| volume.id.0 == made.volume && volume.ready))
        .await;
    let ids = pb::ClientIdsRequest { envelope: Some(Envelope::default().to_wire()), count: 5 };
    let one = client.client_ids(ids.clone()).await.expect("client ids").into_inner();
    let two = client.client_ids(ids).await.expect("client ids").into_inner();
    assert!(two.first >= one.first + u64::from(one.count), "{one:?} {two:?}");
    drop(client);

    // What an operator sees.
    let http = second.http_addr().expect("an HTTP port");
    until("health", async || page(http, "/healthz").await.starts_with("HTTP/1.1 200")).await;
    let metrics = page(http, "/metrics").await;
    assert!(metrics.contains("weft_raft_applied{group=\"0\"}") && metrics.contains("weft_lease_left_ms"), "{metrics}");

    // Nobody takes the place of a node that lives.
    let mut twin = Machine::new();
    twin.settings.listen = machines[1].settings.listen.clone();
    let refused = setup::join(&twin.settings, first.addr(), &twin.parts).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("node 2 of site test runs at"), "{refused}");

    // One goes.
    let gone = third.identity().node;
    stop([third]).await;
    wait_for("the third node to be called away", &first, |map| {
        map.nodes.iter().any(|node| node.id == gone && node.status == NodeStatus::Away)
            && states(map, 3, gone).iter().all(|state| *state == MemberState::Away)
            && factor(map, 3).iter().all(|pg| pg.epoch.0 > 1)
    })
    .await;

    // It comes back, catches up and counts again.
    let third = machines[2].start().await;
    wait_for("the third node to serve again", &first, |map| {
        map.nodes.iter().any(|node| node.id == gone && node.status == NodeStatus::Up)
            && states(map, 3, gone).iter().all(|state| *state == MemberState::Serving)
    })
    .await;
    stop([first, second, third]).await;
}

#[tokio::test]
async fn a_site_that_was_stopped_as_a_whole_goes_on() {
    let machines = [Machine::new(), Machine::new(), Machine::new()];
    let nodes = three(&machines).await;
    let before = nodes[0].map().get();
    stop(nodes).await;
    let mut nodes = Vec::new();
    for machine in &machines {
        nodes.push(machine.start().await);
    }
    for node in &nodes {
        wait_for("everybody to be there", node, |map| {
            map.version >= before.version
                && map.nodes.iter().all(|node| node.status == NodeStatus::Up)
                && map.pgs.iter().all(|pg| pg.members.iter().all(|member| member.state == MemberState::Serving))
        })
        .await;
        let now = node.map().get();
        assert_eq!((now.site, &now.volumes, &now.groups), (before.site, &before.volumes, &before.groups));
    }
    // The leader of the system group is stopped: the others go on.
    let mut leader = None;
    until("a leader of the system group", async || {
        let status = status_of(&nodes[0]).await;
        let system = status.groups.iter().find(|group| group.group == 0).map_or(0, |group| group.leader_node);
        leader = nodes.iter().position(|node| node.identity().node.0 == system);
        leader.is_some()
    })
    .await;
    let leader = leader.expect("found above");
    stop([nodes.remove(leader)]).await;
    let mut client = client(nodes[0].addr());
    until("another leader", async || {
        let ids = pb::ClientIdsRequest { envelope: Some(Envelope::default().to_wire()), count: 1 };
        client.client_ids(ids).await.is_ok()
    })
    .await;
    stop(nodes).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_at_the_start() {
    let machine = Machine::new();
    let start = async || Node::start(machine.settings.clone(), machine.parts.clone()).await.map(|_| ());
    let fresh = start().await.unwrap_err();
    assert!(fresh.to_string().contains("weft cluster join"), "{fresh}");
    setup::init(&machine.settings, "test", 1, 1, &machine.parts).await.expect("init");
    let again = setup::init(&machine.settings, "test", 1, 1, &machine.parts).await.unwrap_err();
    assert!(again.to_string().contains("already belongs to node 1 of site test"), "{again}");
    let mut wrong = machine.settings.clone();
    wrong.lease_ms = 1;
    let refused = Node::start(wrong, machine.parts.clone()).await.map(|_| ());
    assert!(matches!(refused, Err(StartError::Settings(_))), "{refused:?}");
}
