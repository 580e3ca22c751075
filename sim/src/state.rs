//! What of a node outlives its crashes: the disk, the stores that stand for databases on it, and the machine's clock.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use weft_core::ids::{GroupId, NodeId};
use weft_core::site::SiteMap;
use weft_core::time::Timestamp;
use weft_node::chunk::ChunkServer;
use weft_node::meta::{GroupStatus, Groups};
use weft_node::node::Node;
use weft_node::parts::Clock;
use weft_node::records::memory::MemoryRecords;

use crate::det;
use crate::disk::{Habits, SimDisk};
use crate::index::{Damage, SimIndexes};
use crate::world;

/// Cloning shares it.
#[derive(Clone)]
pub struct NodeState {
    /// Its files.
    pub disk: SimDisk,
    /// Its record stores.
    pub records: MemoryRecords,
    /// Its chunk index.
    pub indexes: SimIndexes,
    /// Its wall clock.
    pub clock: SimClock,
    /// Whether the data folder was lost once: then the node joins, also where it began the site.
    pub joins: Arc<AtomicBool>,
    /// How often the node ended by itself and was started again.
    pub restarts: Arc<AtomicU64>,
    /// How often it handed the lead of a group to another node.
    pub handed_over: Arc<AtomicU64>,
    /// How often, leading the system group, it was told to have a node emptied, or no longer.
    pub drains: Arc<AtomicU64>,
    running: Arc<Mutex<Option<Running>>>,
}

/// What the harness has of a running node.
struct Running {
    orders: mpsc::UnboundedSender<Order>,
    groups: Weak<Groups>,
    chunks: Weak<ChunkServer>,
}

/// What the harness asks of a running node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// If it leads the group: let another node do it.
    HandOver {
        /// Of which group.
        group: GroupId,
        /// To whom.
        to: NodeId,
    },
    /// If it leads the system group: have a node emptied, or no longer.
    Drain {
        /// Which.
        node: NodeId,
        /// Whether it is to be emptied.
        on: bool,
    },
}

impl Default for NodeState {
    fn default() -> Self {
        NodeState::new(SimDisk::new(0, Habits::default()))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NodeState {
    /// A machine with this disk, on which nothing was ever started.
    pub fn new(disk: SimDisk) -> NodeState {
        NodeState {
            disk,
            records: MemoryRecords::new(),
            indexes: SimIndexes::default(),
            clock: SimClock::default(),
            joins: Arc::default(),
            restarts: Arc::default(),
            handed_over: Arc::default(),
            drains: Arc::default(),
            running: Arc::default(),
        }
    }

    /// Power is cut: unflushed writes are lost or torn, record stores fall back to some batch since their last
    /// persist, the chunk index too, or it is damaged. Call while the node is down.
    pub fn crash(&self, rng: &mut SmallRng) -> Damage {
        self.disk.crash();
        self.records.crash(rng.random());
        self.indexes.crash(rng)
    }

    /// The data folder is lost: the node will come back empty. Call while it is down.
    pub fn wipe(&self) {
        self.disk.wipe();
        self.records.clear();
        self.indexes.clear();
        self.joins.store(true, Ordering::Relaxed);
    }

    /// Where a node that has started hears orders.
    pub fn listen(&self, node: &Node) -> mpsc::UnboundedReceiver<Order> {
        let (orders, heard) = mpsc::unbounded_channel();
        let groups = node.groups().map(Arc::downgrade).unwrap_or_default();
        let chunks = node.chunk().map(Arc::downgrade).unwrap_or_default();
        *locked(&self.running) = Some(Running { orders, groups, chunks });
        heard
    }

    /// Asks something of the node. False if it does not run.
    pub fn order(&self, order: Order) -> bool {
        locked(&self.running).as_ref().is_some_and(|running| running.orders.send(order).is_ok())
    }

    /// What the node knows of a group, if it runs and holds a replica.
    pub fn group(&self, group: GroupId) -> Option<GroupStatus> {
        let groups = locked(&self.running).as_ref()?.groups.upgrade()?;
        Some(groups.group(group)?.status())
    }

    /// The node's chunk server, if it runs and has one.
    pub fn chunks(&self) -> Option<Arc<ChunkServer>> {
        locked(&self.running).as_ref()?.chunks.upgrade()
    }

    /// The site as the node's records have it; empty if it holds none.
    pub fn map(&self) -> SiteMap {
        let store = self.records.group(GroupId::SYSTEM);
        store.and_then(|store| weft_core::site::map(&*store).ok()).unwrap_or_default()
    }
}

/// The wall clock of a simulated machine: simulated time and an offset, which may jump. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<AtomicI64>);

impl SimClock {
    /// Sets by how many nanoseconds it is ahead.
    pub fn set_ahead(&self, nanos: i64) {
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let nanos = det::EPOCH_S * 1_000_000_000 + world::now().as_nanos() as u64;
        Timestamp::from_nanos(nanos.saturating_add_signed(self.0.load(Ordering::Relaxed)))
    }
}

impl weft_client::parts::Clock for SimClock {
    fn now(&self) -> Timestamp {
        Clock::now(self)
    }
}
