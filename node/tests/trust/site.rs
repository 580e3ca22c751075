//! A site with certificates: how nodes get in, what users may, what nobody may.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_client::{Client, ClientParts, ConnectOptions, Cred, Credential, Error, Ino, Name, NewUser, Refusal, Whoami};
use weft_core::access::principal::{IdRanges, NOBODY};
use weft_core::ids::{ClientId, SpaceId};
use weft_node::chunk::index::MemoryIndexes;
use weft_node::disk::MemDisk;
use weft_node::node::Node;
use weft_node::parts::{Disk, Parts};
use weft_node::real::{OsDice, RealClock, Udp};
use weft_node::records::memory::MemoryRecords;
use weft_node::settings::Settings;
use weft_node::site::setup;
use weft_node::trust::token::JoinToken;
use weft_proto::convert::Envelope;
use weft_proto::link::{self, Tcp};
use weft_proto::pb::chunk_client::ChunkClient;
use weft_proto::pb::meta_client::MetaClient;
use weft_proto::pb::raft_client::RaftClient;
use weft_proto::pb::site_client::SiteClient;
use weft_proto::{pb, status};

const PATIENCE: Duration = Duration::from_secs(60);

/// A node's machine: what survives a stop of its process.
struct Machine {
    settings: Settings,
    parts: Parts,
}

impl Machine {
    fn new() -> Machine {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let mut settings = Settings {
            listen: format!("127.0.0.1:{port}"),
            http: String::new(),
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

    async fn start(&self) -> Node {
        Node::start(self.settings.clone(), self.parts.clone()).await.expect("start the node")
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !done().await {
        assert!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(node: &Node, credential: &Credential) -> Result<Client, Error> {
    let mut options = ConnectOptions::new([node.addr()]);
    options.deadline = Duration::from_secs(5);
    Client::connect(options, ClientParts::with_credential(credential).expect("a good credential")).await
}

fn not_trusted<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(Refusal::NotTrusted { why })) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

fn envelope() -> Option<pb::Envelope> {
    Some(Envelope { deadline_ms: 2000, ..Envelope::default() }.to_wire())
}

fn user(name: &str, uids: &str) -> NewUser {
    let ids: IdRanges = uids.parse().expect("ids");
    NewUser { name: name.into(), uids: ids.clone(), gids: ids, ..NewUser::default() }
}

/// A site of two nodes, with the administrator's credential.
async fn two() -> ([Machine; 2], [Node; 2], Client, Credential) {
    let machines = [Machine::new(), Machine::new()];
    let (_, admin) = setup::found(&machines[0].settings, "test", 1, 2, &machines[0].parts).await.expect("found");
    let first = machines[0].start().await;
    let client = connect(&first, &admin).await.expect("connect");
    let token: JoinToken = client.join_token(60).await.expect("a token").parse().expect("a token");
    setup::join_with(&machines[1].settings, first.addr(), Some(&token), &machines[1].parts).await.expect("join");
    let second = machines[1].start().await;
    until("two nodes with chunks", async || {
        client.refresh_map().await.is_ok_and(|map| {
            let full = |factor| map.pgs.iter().any(|pg| pg.factor == factor && pg.members.len() == 2);
            map.nodes.len() == 2 && full(2) && map.volumes.iter().any(|volume| volume.ready)
        })
    })
    .await;
    (machines, [first, second], client, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_in_by_a_token_of_the_site_and_once() {
    let (_machines, nodes, client, _) = two().await;
    let peer = nodes[1].addr();
    let third = Machine::new();
    let join = async |token: Option<&JoinToken>| {
        let joined = setup::join_with(&third.settings, peer, token, &third.parts).await;
        joined.map(|identity| identity.node.0).map_err(|error| error.to_string())
    };
    let token: JoinToken = client.join_token(60).await.unwrap().parse().unwrap();
    let mut forged = token.clone();
    forged.secret[0] ^= 1;
    assert!(join(Some(&forged)).await.unwrap_err().contains("not of this site"));
    let mut misled = token.clone();
    misled.authority.0[0] ^= 1;
    let said = join(Some(&misled)).await.unwrap_err();
    assert!(said.contains("another authority"), "{said}");
    assert_eq!(join(Some(&token)).await, Ok(3));
    // The token came to somebody else, too.
    let fourth = Machine::new();
    let again = setup::join_with(&fourth.settings, peer, Some(&token), &fourth.parts).await.unwrap_err().to_string();
    assert!(again.contains("used already"), "{again}");
    assert!(client.join_token(0).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_act_as_whom_their_credential_lists_and_change_nothing_of_the_site() {
    let (_machines, nodes, admin, _) = two().await;
    let root = admin.volume("root").await.unwrap();
    let name = |name: &str| Name::parse(name.as_bytes().to_vec()).unwrap();
    root.mkdir(&Cred::root(), Ino::ROOT, name("open"), 0o777).await.unwrap();

    let (made, credential) = admin.add_user(user("anna", "1000")).await.unwrap();
    let anna = connect(&nodes[1], &credential).await.unwrap();
    assert_eq!(anna.whoami().await.unwrap(), Whoami::User(made.principal.clone()));
    let theirs = anna.volume("root").await.unwrap();
    let as_uid = |uid| Cred { uid, gid: uid, ..Cred::default() };
    let parent = match theirs.lookup(&as_uid(1000), Ino::ROOT, name("open")).await.unwrap() {
        weft_client::Found::Inode(attr) => attr.ino,
        other => panic!("{other:?}"),
    };
    let owner = async |cred: Cred, at: &str| {
        theirs.mkdir(&cred, parent, name(at), 0o755).await.map(|attr| (attr.uid, attr.gid))
    };
    assert_eq!(owner(as_uid(1000), "own").await.unwrap(), (1000, 1000));
    assert_eq!(owner(Cred { uid: 1000, gid: 27, ..Cred::default() }, "group").await.unwrap(), (1000, NOBODY));
    assert_eq!(owner(Cred::root(), "root").await.unwrap(), (NOBODY, NOBODY), "root of a client is nobody");
    let denied = owner(as_uid(1001), "other").await.unwrap_err();
    assert!(matches!(denied, Error::Refused(Refusal::Denied)), "{denied}");

    for why in [
        not_trusted(anna.add_user(user("bert", "0")).await),
        not_trusted(anna.join_token(60).await),
        not_trusted(anna.users().await),
        not_trusted(anna.create_volume("mine", 1, None).await),
        not_trusted(anna.drain_node(weft_client::NodeId(1), true).await),
    ] {
        assert!(why.contains("role admin"), "{why}");
    }

    // On a connection that stands already.
    admin.revoke_user("anna").await.unwrap();
    until("anna to be refused everywhere", async || {
        matches!(anna.whoami().await, Err(Error::Refused(Refusal::NotTrusted { .. })))
    })
    .await;
    until("anna to be refused anew", async || {
        matches!(connect(&nodes[0], &credential).await, Err(Error::Refused(Refusal::NotTrusted { why })) if why.contains("revoked"))
    })
    .await;
    assert!(admin.users().await.unwrap().iter().any(|user| user.principal.name == "anna" && user.revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_certificate_is_not_a_nodes_and_plain_text_is_nobodys() {
    let (machines, nodes, admin, _) = two().await;
    let (_, credential) = admin.add_user(user("anna", "1000")).await.unwrap();
    let parts = ClientParts::with_credential(&credential).unwrap();
    let channel = || link::channel(parts.dial.clone(), nodes[0].addr()).unwrap();
    let refused = |status: tonic::Status| match status::from_status(&status) {
        Refusal::NotTrusted { why } => why,
        other => panic!("{other}"),
    };
    let vote = RaftClient::new(channel()).call(pb::RaftMessage::default()).await.map(drop);
    assert!(refused(vote.unwrap_err()).contains("between nodes"));
    let beat = pb::HeartbeatRequest { envelope: envelope(), node: 2, ..pb::HeartbeatRequest::default() };
    let beat = SiteClient::new(channel()).heartbeat(beat).await.map(drop);
    assert!(refused(beat.unwrap_err()).contains("between nodes"));
    let renew = pb::RenewRequest { envelope: envelope(), node: 2, ..pb::RenewRequest::default() };
    assert!(refused(SiteClient::new(channel()).renew(renew).await.map(drop).unwrap_err()).contains("between nodes"));

    let mut options = ConnectOptions::new([nodes[0].addr()]);
    options.deadline = Duration::from_secs(1);
    assert!(Client::connect(options, ClientParts::real()).await.is_err(), "plain text");

    // A node of another site with its own authority neither believes these nor is believed.
    let alien = Machine::new();
    let (_, theirs) = setup::found(&alien.settings, "alien", 1, 1, &alien.parts).await.unwrap();
    let mut options = ConnectOptions::new([nodes[0].addr()]);
    options.deadline = Duration::from_secs(1);
    assert!(Client::connect(options, ClientParts::with_credential(&theirs).unwrap()).await.is_err());

    // What was written down says who was refused what, and holds no secret.
    let disk = &machines[0].parts.disk;
    until("lines of the audit", async || {
        let text = audit(&**disk).await;
        text.contains("user anna") && text.contains("Raft/Call") && text.contains("refused")
    })
    .await;
    let secret = credential.print();
    let key = secret.split("PRIVATE KEY-----\n").nth(1).unwrap().lines().next().unwrap();
    assert!(key.len() > 20 && !audit(&**disk).await.contains(key));
}

async fn audit(disk: &dyn Disk) -> String {
    let bytes = disk.read_small(std::path::Path::new("audit/log")).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_for_those_who_have_a_capability_of_their_space() {
    let (_machines, nodes, admin, _) = two().await;
    let (_, credential) = admin.add_user(user("anna", "1000")).await.unwrap();
    let parts = ClientParts::with_credential(&credential).unwrap();
    let channel = || link::channel(parts.dial.clone(), nodes[0].addr()).unwrap();
    let space = admin.volume("root").await.unwrap().info().space;
    let map = admin.site_map();
    let pg = map.pgs.iter().find(|pg| pg.factor == 2).unwrap().id.0;

    let get = async |envelope: Envelope, space: SpaceId| {
        let request = pb::GetRequest {
            envelope: Some(envelope.to_wire()),
            space: space.0,
            chunk: Some(pb::ChunkRef { client: 1, counter: 1 }),
            pg,
            offset: 0,
            len: 1,
        };
        let answer = ChunkClient::new(channel()).get(request).await.map(drop);
        status::from_status(&answer.unwrap_err())
    };
    let client = SiteClient::new(channel())
        .client_ids(pb::ClientIdsRequest { envelope: envelope(), count: 1 })
        .await
        .unwrap()
        .into_inner();
    let client = ClientId::new(weft_core::ids::SiteId(client.site), client.first);
    let mine = Envelope { client, space, deadline_ms: 2000, ..Envelope::default() };
    assert!(matches!(get(mine.clone(), space).await, Refusal::NotTrusted { why } if why.contains("no capability")));

    let volume = map.volumes.iter().find(|volume| volume.space == space).unwrap().group.0;
    let mut capability = bytes::Bytes::new();
    until("a session", async || {
        let open = pb::OpenSessionRequest { envelope: Some(mine.clone().to_wire()), group: volume };
        for node in &nodes {
            let channel = link::channel(parts.dial.clone(), node.addr()).unwrap();
            if let Ok(reply) = MetaClient::new(channel).open_session(open.clone()).await {
                capability = reply.into_inner().capability;
                return !capability.is_empty();
            }
        }
        false
    })
    .await;
    let with = |client, capability: &[u8]| Envelope {
        client,
        capability: bytes::Bytes::copy_from_slice(capability),
        ..mine.clone()
    };
    assert_eq!(get(with(client, &capability), space).await, Refusal::NoChunk, "it may ask, and there is none");
    let another = SpaceId(space.0 + 1);
    for (envelope, space, expected) in [
        (with(client, &capability), another, "another space"),
        (with(ClientId(client.0 + 1), &capability), space, "another client"),
        (with(client, &capability[..10]), space, "no capability"),
        (
            with(client, &[&capability[..capability.len() - 1], &[capability[capability.len() - 1] ^ 1]].concat()),
            space,
            "forged",
        ),
    ] {
        let said = get(envelope, space).await.to_string();
        assert!(said.contains(expected), "{said} should say {expected}");
    }
    // Two keys are good; after a third the first is not.
    admin.rotate_keys().await.unwrap();
    admin.rotate_keys().await.unwrap();
    until("the first key to be forgotten", async || {
        get(with(client, &capability), space).await.to_string().contains("not good any more")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_takes_over_without_a_break() {
    let (_machines, nodes, admin, _) = two().await;
    let (_, credential) = admin.add_user(user("anna", "1000")).await.unwrap();
    let anna = connect(&nodes[0], &credential).await.unwrap();
    admin.rotate_authority().await.unwrap();
    // Old credentials go on, also on new connections, and so do the nodes with each other.
    for _ in 0..20 {
        anna.refresh_map().await.expect("no error while the authority changes");
        connect(&nodes[1], &credential).await.expect("no error").close().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, renewed) = admin.renew_user("anna", 0).await.unwrap();
    let (_, boss) = admin.renew_user("admin", 0).await.unwrap();
    assert_ne!(renewed.held.certificate, credential.held.certificate);
    until("both nodes to have heard", async || {
        let mut both = true;
        for node in &nodes {
            both &= connect(node, &renewed).await.is_ok();
        }
        both
    })
    .await;
    let boss = connect(&nodes[0], &boss).await.unwrap();
    boss.drop_authorities().await.unwrap();
    until("what the former authority signed to be refused", async || {
        matches!(connect(&nodes[0], &credential).await, Err(Error::Refused(Refusal::NotTrusted { why })) if why.contains("another authority"))
            || ClientParts::with_credential(&credential).is_err()
    })
    .await;
    connect(&nodes[1], &renewed).await.expect("what the new one signed is good").whoami().await.unwrap();
}
