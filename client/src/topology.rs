//! The site map this client holds, who leads which group, and which nodes failed lately.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::ids::{ClientId, GroupId, NodeId, PgId, SpaceId};
use weft_core::refusal::Refusal;
use weft_core::site::{Node, NodeStatus, Pg, SiteMap};

use crate::client::Shared;
use crate::error::{Error, Result};
use crate::servers::Call;
use crate::trial::Trial;

/// How long a node that failed is asked last.
const SHUN: Duration = Duration::from_secs(5);

/// What is known of the site. All of it may be out of date; servers say so.
#[derive(Default)]
pub(crate) struct Topology {
    map: Mutex<Arc<SiteMap>>,
    leaders: Mutex<BTreeMap<GroupId, NodeId>>,
    failed: Mutex<BTreeMap<NodeId, Instant>>,
    refreshing: tokio::sync::Mutex<()>,
    turn: AtomicU64,
    rounds: AtomicU64,
}

impl Topology {
    pub(crate) fn map(&self) -> Arc<SiteMap> {
        self.map.lock().clone()
    }

    /// Takes a map if it is newer than the one held.
    pub(crate) fn offer(&self, map: SiteMap) {
        let mut held = self.map.lock();
        if map.version > held.version {
            *held = Arc::new(map);
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<Node> {
        self.map().nodes.iter().find(|node| node.id == id).cloned()
    }

    pub(crate) fn pg(&self, id: PgId) -> Option<Pg> {
        self.map().pgs.iter().find(|pg| pg.id == id).cloned()
    }

    /// The group in which a space lives.
    pub(crate) fn group_of(&self, space: SpaceId) -> Option<GroupId> {
        self.map().volumes.iter().find(|volume| volume.space == space).map(|volume| volume.group)
    }

    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.lock().get(&group).copied()
    }

    pub(crate) fn set_leader(&self, group: GroupId, node: NodeId) {
        self.leaders.lock().insert(group, node);
    }

    /// Forgets a leader that turned out to be none.
    pub(crate) fn drop_leader(&self, group: GroupId, node: NodeId) {
        let mut leaders = self.leaders.lock();
        if leaders.get(&group) == Some(&node) {
            leaders.remove(&group);
        }
    }

    /// A node did not answer: for a while others are asked first.
    pub(crate) fn shun(&self, node: NodeId) {
        self.failed.lock().insert(node, Instant::now());
    }

    pub(crate) fn unshun(&self, node: NodeId) {
        self.failed.lock().remove(&node);
    }

    /// Whether a node is there as far as is known.
    pub(crate) fn looks_up(&self, node: &Node) -> bool {
        node.status != NodeStatus::Away && !self.shunned(node.id)
    }

    pub(crate) fn shunned(&self, node: NodeId) -> bool {
        self.failed.lock().get(&node).is_some_and(|at| at.elapsed() < SHUN)
    }

    /// Who should hold replicas of a group.
    pub(crate) fn replicas(&self, group: GroupId) -> Vec<NodeId> {
        let map = self.map();
        let group = map.groups.iter().find(|known| known.id == group);
        group.map(|group| group.replicas.iter().map(|replica| replica.node).collect()).unwrap_or_default()
    }

    /// Addresses of the site in the order to try them: those that look up first, the given ones last, each time from
    /// another start.
    pub(crate) fn addrs(&self, given: &[String]) -> Vec<String> {
        let map = self.map();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let mut nodes: Vec<&Node> = map.nodes.iter().collect();
        if !nodes.is_empty() {
            let by = turn % nodes.len();
            nodes.rotate_left(by);
        }
        nodes.sort_by_key(|node| !self.looks_up(node));
        let mut addrs: Vec<String> = nodes.into_iter().map(|node| node.addr.clone()).collect();
        for at in 0..given.len() {
            let addr = &given[(at + turn) % given.len()];
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        addrs
    }
}

impl Shared {
    /// What rides along with a call outside sessions.
    pub(crate) fn plain_call(&self, wait: Duration) -> Call {
        Call {
            client: ClientId(self.client_id.load(Ordering::Relaxed)),
            cred: Cred::root(),
            map_version: self.topology.map().version,
            wait,
            ..Call::default()
        }
    }

    /// Asks one node after another for a newer map until one answers. Callers at the same time share one round.
    pub(crate) async fn refresh(&self) -> Result<(), Refusal> {
        let round = self.topology.rounds.load(Ordering::Relaxed);
        let _alone = self.topology.refreshing.lock().await;
        if self.topology.rounds.load(Ordering::Relaxed) != round {
            return Ok(());
        }
        let mut last = Refusal::Unknown { why: "no address to ask".into() };
        for addr in self.topology.addrs(&self.options.addrs) {
            let have = self.topology.map().version;
            match self.servers.map(&addr, self.plain_call(self.options.attempt), have).await {
                Ok(map) => {
                    if let Some(map) = map {
                        self.topology.offer(map);
                    }
                    self.topology.rounds.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(refusal) => last = refusal,
            }
        }
        Err(last)
    }

    /// The same until one answers or the deadline has passed.
    pub(crate) async fn refresh_surely(&self) -> Result<()> {
        let mut trial = Trial::new(&self.options);
        loop {
            self.open()?;
            match self.refresh().await {
                Ok(()) => return Ok(()),
                Err(refusal @ (Refusal::WrongVersion { .. } | Refusal::NotTrusted { .. })) => {
                    return Err(Error::Refused(refusal));
                }
                Err(refusal) => trial.pause(&*self.parts.dice, Duration::ZERO, &refusal.to_string()).await?,
            }
        }
    }
}
