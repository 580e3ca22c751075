//! Some nodes in one process, each with a disk and records that survive its restarts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weft_core::entry::Command;
use weft_core::ids::{GroupId, Incarnation, NodeId, ReplicaId, SiteId, TenantId};
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;
use weft_core::site::{Node, NodeJoin, SiteCommand, SiteMap, SiteOutcome};
use weft_core::time::Timestamp;
use weft_core::view::{Changes, View, ViewError};
use weft_proto::link::{self, Listen, Tcp};

use crate::chunk::index::MemoryIndexes;
use crate::disk::MemDisk;
use crate::identity::Identity;
use crate::meta::{Group, Groups, MetaService, RaftService};
use crate::parts::{Clock, Dice, Parts};
use crate::real::Udp;
use crate::records::{RecordStore, RecordStores};
use crate::settings::{RaftSettings, Settings};
use crate::site::map::MapCell;
use crate::site::peers::Peers;

/// The group the tests are about.
pub(super) const GROUP: GroupId = GroupId(0);
/// Nothing here takes longer, even on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(30);

struct TestClock;

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp { secs: 1_700_000_000, nanos: 0 }
    }
}

struct TestDice(AtomicU64);

impl Dice for TestDice {
    fn roll(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

/// Records in memory that outlive the node, like those on a disk.
#[derive(Clone, Default)]
pub(super) struct TestStores {
    stores: Arc<Mutex<BTreeMap<GroupId, Arc<TestStore>>>>,
}

#[derive(Default)]
struct TestStore {
    records: RwLock<BTreeMap<Bytes, Bytes>>,
    rotten: AtomicBool,
}

impl TestStore {
    fn works(&self) -> Result<(), ViewError> {
        match self.rotten.load(Ordering::Relaxed) {
            true => Err(ViewError("a record is damaged".into())),
            false => Ok(()),
        }
    }
}

impl TestStores {
    /// Lets the records of a group rot: they can't be read any more.
    pub(super) fn garble(&self, group: GroupId) {
        let stores = self.stores.lock();
        stores.get(&group).expect("the test names a group that is there").rotten.store(true, Ordering::Relaxed);
    }

    /// Loses a group's records.
    pub(super) fn lose(&self, group: GroupId) {
        self.stores.lock().remove(&group);
    }

    /// All records of a group.
    pub(super) fn records(&self, group: GroupId) -> BTreeMap<Bytes, Bytes> {
        self.stores.lock().get(&group).map(|store| store.records.read().clone()).unwrap_or_default()
    }
}

impl View for TestStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.works()?;
        Ok(self.records.read().get(key).cloned())
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        self.works()?;
        self.records.read().scan(from, to, each)
    }
}

impl RecordStore for TestStore {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut records = self.records.write();
        for (key, change) in changes {
            match change {
                Some(value) => records.insert(key.clone(), value.clone()),
                None => records.remove(key),
            };
        }
        Ok(())
    }
    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        self.works()?;
        Ok(Arc::new(self.records.read().clone()))
    }
    fn persist_blocking(&self) -> Result<(), ViewError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl RecordStores for TestStores {
    async fn open(&self, _: &Path, group: GroupId) -> Result<Arc<dyn RecordStore>, ViewError> {
        let store = self.stores.lock().entry(group).or_default().clone();
        store.works()?;
        Ok(store)
    }
    async fn wipe(&self, _: &Path, group: GroupId) -> Result<(), ViewError> {
        self.stores.lock().remove(&group);
        Ok(())
    }
    async fn persist(&self, store: Arc<dyn RecordStore>) -> Result<(), ViewError> {
        store.persist_blocking()
    }
}

/// One node.
pub(super) struct TestNode {
    pub(super) identity: Identity,
    pub(super) stores: TestStores,
    pub(super) disk: MemDisk,
    addr: String,
    running: Option<Running>,
}

impl TestNode {
    /// Its parts, over what its disk and stores hold.
    pub(super) fn parts(&self) -> Parts {
        Parts {
            clock: Arc::new(TestClock),
            dice: Arc::new(TestDice(AtomicU64::new(u64::from(self.identity.node.0)))),
            disk: Arc::new(self.disk.clone()),
            dial: Arc::new(Tcp),
            listen: Arc::new(Tcp),
            datagrams: Arc::new(Udp),
            records: Arc::new(self.stores.clone()),
            indexes: Arc::new(MemoryIndexes),
        }
    }
}

struct Running {
    groups: Arc<Groups>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// Some nodes that know of each other.
pub(super) struct Cluster {
    pub(super) nodes: Vec<TestNode>,
    raft: RaftSettings,
    map: MapCell,
}

impl Cluster {
    /// So many nodes, none of which holds a group.
    pub(super) async fn new(count: u32, raft: RaftSettings) -> Cluster {
        let mut cluster = Cluster { nodes: Vec::new(), raft, map: MapCell::default() };
        for node in 1..=count {
            let identity = Identity {
                site: SiteId(1),
                site_name: "test".into(),
                node: NodeId(node),
                incarnation: Incarnation(u64::from(node) << 32),
            };
            cluster.nodes.push(TestNode {
                identity,
                stores: TestStores::default(),
                disk: MemDisk::new(),
                addr: "127.0.0.1:0".into(),
                running: None,
            });
        }
        for at in 0..cluster.nodes.len() {
            cluster.start(at).await;
        }
        cluster
    }

    /// Makes the first node the only member of the group, and the group's records those of a new site.
    pub(super) async fn begin(&self) {
        self.groups(0).bootstrap(GROUP).await.expect("one node alone leads at once");
        let first =
            NodeJoin { incarnation: self.nodes[0].identity.incarnation, addr: self.addr(0), meta: true, chunk: true };
        let command = SiteCommand::Init { site: SiteId(1), name: "test".into(), groups: 1, replication: 1, first };
        self.group(0).propose(None, Command::Site(command)).await.expect("a new site is begun");
    }

    /// Three nodes that are all members of the group.
    pub(super) async fn three(raft: RaftSettings) -> Cluster {
        let cluster = Cluster::new(3, raft).await;
        cluster.begin().await;
        cluster.members(&[0, 1, 2]).await;
        cluster
    }

    /// Starts a node that is stopped.
    pub(super) async fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        assert!(node.running.is_none());
        let accept = Tcp.listen(&node.addr).await.expect("the address is free");
        node.addr = accept.local_addr().expect("a bound address");
        let parts = node.parts();
        let settings = Settings { advertise: node.addr.clone(), raft: self.raft.clone(), ..Settings::default() };
        let peers = Peers::new(parts.dial.clone(), self.map.clone());
        let groups = Groups::open(&parts, &settings, &node.identity, self.map.clone(), peers)
            .await
            .expect("log and records open");
        let router = link::server()
            .add_service(RaftService::new(groups.clone()).server())
            .add_service(MetaService::new(groups.clone()).server());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            router.serve_with_incoming_shutdown(link::incoming(accept), stopped).await.expect("serves until the end");
        });
        node.running = Some(Running { groups, stop, server });
        self.tell_map();
    }

    /// Lets all nodes know how the others are.
    pub(super) fn tell_map(&self) {
        let nodes = self.nodes.iter().map(|node| Node {
            id: node.identity.node,
            incarnation: node.identity.incarnation,
            addr: node.addr.clone(),
            meta: true,
            chunk: false,
            lost_logs: node.running.as_ref().map_or(0, |running| running.groups.lost_logs()),
            ..Node::default()
        });
        let version = self.map.get().version + 1;
        self.map.offer(SiteMap { version, site: SiteId(1), nodes: nodes.collect(), ..SiteMap::default() });
    }

    /// Stops a node.
    pub(super) async fn stop(&mut self, at: usize) {
        let running = self.nodes[at].running.take().expect("the node runs");
        drop(running.stop);
        running.groups.shutdown().await;
        let closed = tokio::time::timeout(Duration::from_secs(5), running.server).await;
        closed.expect("no stream goes on without its group").expect("serves until the end");
    }

    /// Stops a node and makes its folder afresh: another life.
    pub(super) async fn wipe(&mut self, at: usize) {
        self.stop(at).await;
        let node = &mut self.nodes[at];
        node.disk = MemDisk::new();
        node.stores = TestStores::default();
        node.identity.incarnation.0 += 1;
    }

    pub(super) fn groups(&self, at: usize) -> &Arc<Groups> {
        &self.nodes[at].running.as_ref().expect("the node runs").groups
    }

    pub(super) fn group(&self, at: usize) -> Arc<Group> {
        self.groups(at).group(GROUP).expect("the node holds the group")
    }

    pub(super) fn replica(&self, at: usize) -> ReplicaId {
        self.groups(at).me()
    }

    pub(super) fn addr(&self, at: usize) -> String {
        self.nodes[at].addr.clone()
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].running.is_some())
    }

    /// Which node leads the group.
    pub(super) async fn leader(&self) -> usize {
        eventually("a leader", || async {
            self.running().find(|at| self.groups(*at).group(GROUP).is_some_and(|group| group.leading()))
        })
        .await
    }

    /// Changes the group's members until they are these.
    pub(super) async fn members(&self, wanted: &[usize]) {
        let wanted: Vec<ReplicaId> = wanted.iter().map(|at| self.replica(*at)).collect();
        eventually("the members to be in line", || async {
            let leader = self.leader().await;
            let settled = self.group(leader).reconcile_members(&wanted).await;
            settled.is_ok_and(|settled| settled).then_some(())
        })
        .await;
    }

    /// Takes `count` numbers from the group's counter, from whoever leads, until the answer is known.
    pub(super) async fn take(&self, count: u32) -> u64 {
        eventually("a proposal to be answered", || async {
            let group = self.group(self.leader().await);
            take(&group, count).await.ok()
        })
        .await
    }

    /// Makes a volume's record, from whoever leads, until the answer is known.
    pub(super) async fn create_volume(&self, name: &str, token: u64) {
        let command = SiteCommand::CreateVolume { name: name.into(), replication: 1, token, tenant: TenantId(0) };
        eventually("a volume to be made", || async {
            let group = self.group(self.leader().await);
            group.propose(None, Command::Site(command.clone())).await.ok()
        })
        .await;
    }

    /// Waits until all running nodes have applied the same entries, and compares their records.
    pub(super) async fn settle(&self) {
        eventually("all replicas to be equal", || async {
            let leader = self.group(self.leader().await);
            let last = leader.status().last_log;
            let all: Vec<usize> = self.running().collect();
            let applied = |at: &usize| self.groups(*at).group(GROUP).map(|group| group.status().applied);
            all.iter().all(|at| applied(at) == Some(last)).then_some(())
        })
        .await;
        let first = self.nodes[self.leader().await].stores.records(GROUP);
        for at in self.running() {
            assert_eq!(self.nodes[at].stores.records(GROUP), first, "node {} differs", at + 1);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            if let Some(running) = &node.running {
                running.server.abort();
            }
        }
    }
}

/// Takes numbers from a group's counter.
pub(super) async fn take(group: &Group, count: u32) -> Result<u64, Refusal> {
    match group.propose(None, Command::Site(SiteCommand::ClientIds { count })).await? {
        Outcome::Site(SiteOutcome::ClientIds { first, .. }) => Ok(first),
        other => panic!("not what was asked: {other:?}"),
    }
}

/// Tries again and again until there is an answer.
pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let work = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(LONG, work).await {
        Ok(found) => found,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Settings with which elections are quick.
pub(super) fn quick() -> RaftSettings {
    RaftSettings { heartbeat_ms: 60, election_min_ms: 300, election_max_ms: 600, ..RaftSettings::default() }
}
