//! Clients over gRPC: each change once, over changes of leader; sessions; files that nobody holds any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use weft_core::entry::{Command, Cred};
use weft_core::ids::{ClientId, Ino, Seq, SiteId, SlotId, SpaceId, VolumeId};
use weft_core::name::Name;
use weft_core::namespace::inode::{Attr, Extent, ExtentBody};
use weft_core::namespace::op::{Commit, Op, SetAttr};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;
use weft_proto::convert::{self, Envelope};
use weft_proto::link::{self, Tcp};
use weft_proto::pb::meta_client::MetaClient;
use weft_proto::{pb, status};

use super::cluster::{Cluster, GROUP, LONG, eventually, quick};

const VOLUME: VolumeId = VolumeId(1);
const SPACE: SpaceId = SpaceId(1);

/// A client that asks every node in turn until it knows, under the same number.
struct TestClient {
    addrs: Vec<String>,
    dial: Arc<Tcp>,
    client: ClientId,
    seq: AtomicU64,
}

impl TestClient {
    async fn open(cluster: &Cluster, counter: u64) -> TestClient {
        let addrs = (0..cluster.nodes.len()).map(|at| cluster.addr(at)).collect();
        let client = ClientId::new(SiteId(1), counter);
        let client = TestClient { addrs, dial: Arc::new(Tcp), client, seq: AtomicU64::new(1) };
        let request = || pb::OpenSessionRequest { envelope: Some(client.envelope(0)), group: GROUP.0 };
        let opened = client.until_known(|mut at| async move { at.open_session(request()).await }).await;
        assert!(opened.expect("a session opens").keepalive_ms > 0);
        client
    }

    fn envelope(&self, seq: u64) -> pb::Envelope {
        Envelope {
            client: self.client,
            space: SPACE,
            seq: Seq(seq),
            acked_below: Seq(seq),
            deadline_ms: 2000,
            cred: Cred::root(),
            ..Envelope::default()
        }
        .to_wire()
    }

    async fn until_known<T, F>(&self, ask: impl Fn(MetaClient<tonic::transport::Channel>) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let work = async {
            loop {
                for addr in &self.addrs {
                    let channel = link::channel(self.dial.clone(), addr).expect("an address");
                    match ask(MetaClient::new(channel)).await.map_err(|status| status::from_status(&status)) {
                        Ok(reply) => return Ok(reply.into_inner()),
                        Err(
                            Refusal::Unknown { .. }
                            | Refusal::Busy { .. }
                            | Refusal::NotLeader { .. }
                            | Refusal::NotServed { .. },
                        ) => {}
                        Err(refusal) => return Err(refusal),
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, work).await.expect("an answer comes")
    }

    async fn apply(&self, op: Op) -> Result<Outcome, Refusal> {
        self.apply_as(self.seq.fetch_add(1, Ordering::Relaxed), op).await
    }

    async fn apply_as(&self, seq: u64, op: Op) -> Result<Outcome, Refusal> {
        let wire = convert::apply_request(Envelope::default(), GROUP, VOLUME, &op);
        let wire = pb::ApplyRequest { envelope: Some(self.envelope(seq)), ..wire };
        let reply = self
            .until_known(|mut at| {
                let wire = wire.clone();
                async move { at.apply(wire).await }
            })
            .await?;
        convert::parse_apply_reply(reply)
    }

    async fn query(&self, query: Query) -> Result<Answer, Refusal> {
        let wire = convert::query_request(Envelope::default(), GROUP, VOLUME, &query);
        let wire = pb::QueryRequest { envelope: Some(self.envelope(0)), ..wire };
        let reply = self
            .until_known(|mut at| {
                let wire = wire.clone();
                async move { at.query(wire).await }
            })
            .await?;
        convert::parse_query_reply(reply)
    }

    async fn keep_alive(&self, not_open: &[pb::InodeRef]) -> Result<Vec<pb::InodeRef>, Refusal> {
        let wire = pb::KeepAliveRequest {
            envelope: Some(self.envelope(0)),
            group: GROUP.0,
            not_open: not_open.to_vec(),
            named_below: 0,
        };
        let reply = self
            .until_known(|mut at| {
                let wire = wire.clone();
                async move { at.keep_alive(wire).await }
            })
            .await?;
        Ok(reply.asked)
    }

    async fn create(&self, name: &str) -> Result<Attr, Refusal> {
        match self.apply(create(name)).await? {
            Outcome::Created { attr, fresh: true } => Ok(attr),
            other => panic!("not a new file: {other:?}"),
        }
    }
}

fn create(name: &str) -> Op {
    Op::Create { parent: Ino::ROOT, name: this(name), mode: 0o644, exclusive: true }
}

fn this(name: &str) -> Name {
    Name::parse(name.as_bytes().to_vec()).expect("a name")
}

async fn with_volume() -> Cluster {
    let cluster = Cluster::three(quick()).await;
    let attach = AttachVolume { volume: VOLUME, space: SPACE, slot: SlotId(1), mode: 0o755, uid: 0, gid: 0 };
    let leader = cluster.group(cluster.leader().await);
    leader.propose(None, Command::AttachVolume(attach)).await.expect("the volume's records are made");
    cluster
}

async fn names(client: &TestClient) -> Vec<String> {
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let query = Query::Readdir { dir: Ino::ROOT, after: after.clone(), limit: 100, with_attrs: true };
        let Answer::Entries { entries, end, .. } = client.query(query).await.expect("the root is listed") else {
            panic!("not a listing");
        };
        after = entries.last().map(|entry| entry.name.clone());
        names.extend(entries.iter().map(|entry| String::from_utf8_lossy(entry.name.as_bytes()).into_owned()));
        if end {
            return names;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_made_once_over_changes_of_leader() {
    let mut cluster = with_volume().await;
    let mut clients = Vec::new();
    for counter in 1..=6 {
        clients.push(TestClient::open(&cluster, counter).await);
    }
    let clients = Arc::new(clients);
    let work: Vec<_> = (0..clients.len())
        .map(|at| {
            let clients = clients.clone();
            tokio::spawn(async move {
                for file in 0..40 {
                    // An exclusive create that were made twice would refuse the second time.
                    clients[at].create(&format!("{at}-{file:03}")).await.expect("nobody else makes this name");
                }
            })
        })
        .collect();
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
        cluster.take(1).await;
        cluster.start(leader).await;
    }
    for work in work {
        work.await.expect("no client fails");
    }
    let mut expected: Vec<String> =
        (0..clients.len()).flat_map(|at| (0..40).map(move |file| format!("{at}-{file:03}"))).collect();
    expected.sort();
    assert_eq!(names(&clients[0]).await, expected);
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_gets_the_first_answer_from_a_new_leader() {
    let mut cluster = with_volume().await;
    let client = TestClient::open(&cluster, 1).await;
    let first = client.apply_as(1, create("a")).await.expect("a new file");
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let again = client.apply_as(1, create("a")).await.expect("the same answer");
    assert_eq!(first, again);
    assert!(matches!(client.apply_as(2, create("a")).await, Err(Refusal::Exists { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nameless_file_goes_once_nobody_holds_it() {
    let cluster = with_volume().await;
    let holder = TestClient::open(&cluster, 1).await;
    let other = TestClient::open(&cluster, 2).await;
    let file = holder.create("held").await.expect("a new file");
    holder.apply(Op::Unlink { parent: Ino::ROOT, name: this("held") }).await.expect("its name goes");
    let asked = pb::InodeRef { volume: VOLUME.0, ino: file.ino.0 };
    for round in 0..30 {
        let questions = other.keep_alive(&[asked]).await.expect("the session lives");
        let held = holder.keep_alive(&[]).await.expect("the session lives");
        assert!(round < 20 || held == [asked], "{questions:?} {held:?}");
        holder.query(Query::Getattr { ino: file.ino }).await.expect("it is still open there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eventually("the file to go", || async {
        holder.keep_alive(&[asked]).await.expect("the session lives");
        let gone = holder.query(Query::Getattr { ino: file.ino }).await;
        matches!(gone, Err(Refusal::NoInode { .. })).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_session_is_refused() {
    let cluster = with_volume().await;
    let client = TestClient::open(&cluster, 1).await;
    client.create("a").await.expect("a new file");
    let end = || pb::EndSessionRequest { envelope: Some(client.envelope(0)), group: GROUP.0 };
    client.until_known(|mut at| async move { at.end_session(end()).await }).await.expect("it ends");
    assert!(matches!(client.create("b").await, Err(Refusal::SessionEnded { .. })));
    assert!(matches!(client.keep_alive(&[]).await, Err(Refusal::SessionEnded { .. })));
    let stranger = TestClient { client: ClientId::new(SiteId(1), 77), seq: AtomicU64::new(1), ..client };
    assert!(matches!(stranger.create("b").await, Err(Refusal::NoSession { .. })));
    assert!(matches!(stranger.keep_alive(&[]).await, Err(Refusal::NoSession { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_cut_is_finished_for_whoever_waits() {
    let cluster = with_volume().await;
    let client = TestClient::open(&cluster, 1).await;
    let file = client.create("long").await.expect("a new file");
    // Thousands of small extents with holes between them.
    for part in 0..12_u64 {
        let extents = (0..500)
            .map(|at| Extent {
                offset: (part * 500 + at) * 100,
                len: 1,
                body: ExtentBody::Inline(Bytes::from_static(b"x")),
            })
            .collect();
        let commit = Commit {
            ino: file.ino,
            extents,
            size_at_least: (part + 1) * 50_000,
            mtime: None,
            set: SetAttr::default(),
            clear_suid: false,
        };
        client.apply(Op::Commit(commit)).await.expect("written");
    }
    let cut = |size| Op::Truncate { ino: file.ino, size, set: SetAttr::default(), opened: true };
    for size in [150, 5_000_000, 50, 1_000_000] {
        match client.apply(cut(size)).await {
            Ok(Outcome::Attr(attr)) => assert_eq!(attr.size, size),
            other => panic!("{other:?}"),
        }
    }
    let map = client.query(Query::Map { ino: file.ino, offset: 0, limit: 10 }).await.expect("its map");
    let Answer::Map { extents, more_from: None, .. } = map else { panic!("{map:?}") };
    assert_eq!(extents.iter().map(|extent| extent.offset).collect::<Vec<_>>(), [0]);
    cluster.settle().await;
}
