//! A site in memory: the real machine on an ordered map, chunks in another, and as much trouble on the way as a test
//! asks for. Three nodes; one group with a leader that may change; every volume's chunks on all three.

mod chunks;
mod meta;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use weft_core::ids::{
    ChunkId, GroupId, Incarnation, Ino, NodeId, PgEpoch, PgId, ReplicaId, SiteId, SlotId, SpaceId, TenantId, ViewId,
    VolumeId,
};
use weft_core::site::{Group, MemberState, Node, Pg, PgMember, SiteMap, Volume};
use weft_core::time::Timestamp;

use crate::parts::{ClientParts, Clock, Dice, Tcp};
use crate::{Client, ConnectOptions};
pub(crate) use trouble::Trouble;

pub(crate) const GROUP: GroupId = GroupId(1);
const NODES: u32 = 3;

/// See the module. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

struct State {
    trouble: Trouble,
    dice: u64,
    map: SiteMap,
    leader: u32,
    records: BTreeMap<Bytes, Bytes>,
    /// By node.
    chunks: BTreeMap<(u32, ChunkId), Bytes>,
    next_client: u64,
    time: u64,
    /// What the next keep-alive asks about, and what was answered.
    ask: Vec<(VolumeId, Ino)>,
    not_open: Vec<(VolumeId, Ino)>,
    /// Leases that somebody wants back.
    recalled: BTreeSet<(VolumeId, Ino)>,
    full: bool,
    /// A node that gives wrong bytes, late.
    bad_node: Option<u32>,
    counts: Counts,
}

/// How often what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) applies: u64,
    pub(crate) commits: u64,
    pub(crate) queries: u64,
    pub(crate) puts: u64,
    pub(crate) gets: u64,
    pub(crate) got_bytes: u64,
}

struct FakeClock(AtomicU64);

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(1_700_000_000_000_000_000 + self.0.fetch_add(1_000_000, Ordering::Relaxed))
    }
}

struct FakeDice(AtomicU64);

impl Dice for FakeDice {
    fn roll(&self) -> u64 {
        mix(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// splitmix64.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl State {
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(1);
        mix(self.dice)
    }

    /// True as many times of a thousand as the test asks for.
    fn happens(&mut self, per_mille: impl Fn(&Trouble) -> u32) -> bool {
        self.roll() % 1000 < u64::from(per_mille(&self.trouble))
    }
}

impl Fake {
    pub(crate) fn new(seed: u64) -> Fake {
        let replica = |node: u32| ReplicaId { node: NodeId(node), incarnation: Incarnation(u64::from(node)) };
        let nodes = (1..=NODES).map(|id| Node {
            id: NodeId(id),
            incarnation: replica(id).incarnation,
            addr: format!("node{id}:1"),
            meta: true,
            chunk: true,
            ..Node::default()
        });
        let pgs = (1..=3u8).flat_map(|factor| {
            (0..4u32).map(move |n| Pg {
                id: PgId(u32::from(factor) * 100 + n),
                factor,
                epoch: PgEpoch(1),
                members: (0..u32::from(factor))
                    .map(|at| PgMember { replica: replica((n + at) % NODES + 1), state: MemberState::Serving })
                    .collect(),
            })
        });
        let map = SiteMap {
            version: 1,
            site: SiteId(77),
            name: "fake".into(),
            nodes: nodes.collect(),
            groups: vec![Group { id: GROUP, replicas: (1..=NODES).map(replica).collect() }],
            volumes: Vec::new(),
            pgs: pgs.collect(),
            pasts: Vec::new(),
        };
        let fake = Fake {
            state: Arc::new(Mutex::new(State {
                trouble: Trouble::default(),
                dice: seed.wrapping_mul(1_000_003),
                map,
                leader: 1,
                records: BTreeMap::new(),
                chunks: BTreeMap::new(),
                next_client: 1,
                time: 0,
                ask: Vec::new(),
                not_open: Vec::new(),
                recalled: BTreeSet::new(),
                full: false,
                bad_node: None,
                counts: Counts::default(),
            })),
        };
        fake.add_volume("root", 2);
        fake
    }

    /// A client of it, with small bounds so that tests reach them.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(|_| {}).await
    }

    pub(crate) async fn client_with(&self, change: impl FnOnce(&mut ConnectOptions)) -> Client {
        let mut options = ConnectOptions::new(["node1:1", "node2:1", "node3:1"]);
        options.file_dirty_bytes = 8 << 20;
        options.client_dirty_bytes = 12 << 20;
        options.read_cache_bytes = 6 << 20;
        options.readahead_bytes = 4 << 20;
        change(&mut options);
        let seed = self.state.lock().roll();
        let parts = ClientParts {
            dial: Arc::new(Tcp),
            clock: Arc::new(FakeClock(AtomicU64::new(0))),
            dice: Arc::new(FakeDice(AtomicU64::new(seed))),
        };
        Client::connect_to(options, parts, Arc::new(self.clone())).await.expect("the fake answers in the end")
    }

    pub(crate) fn trouble(&self, trouble: Trouble) {
        self.state.lock().trouble = trouble;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// What keep-alives ask about from now on.
    pub(crate) fn ask(&self, inodes: Vec<(VolumeId, Ino)>) {
        self.state.lock().ask = inodes;
    }

    /// What was answered.
    pub(crate) fn not_open(&self) -> Vec<(VolumeId, Ino)> {
        self.state.lock().not_open.clone()
    }

    /// Whether all disks are full.
    pub(crate) fn full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// A node gives wrong bytes and takes two seconds for it.
    pub(crate) fn bad_node(&self, node: u32, bad: bool) {
        self.state.lock().bad_node = bad.then_some(node);
    }

    fn volume_record(state: &State, name: &str, replication: u8, token: u64) -> Volume {
        let id = state.map.volumes.len() as u64 + 1;
        Volume {
            id: VolumeId(id),
            name: name.to_string(),
            space: SpaceId(id),
            group: GROUP,
            slot: SlotId(id),
            view: ViewId(id as u32),
            replication,
            tenant: TenantId(0),
            created: Timestamp::default(),
            ready: true,
            token,
        }
    }
}
