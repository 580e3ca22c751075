//! What of a node outlives its crashes: the disk, and the stores that stand for databases on it.

use rand::Rng;
use rand::rngs::SmallRng;
use weft_node::records::memory::MemoryRecords;

use crate::disk::{Habits, SimDisk};

/// Cloning shares it.
#[derive(Clone)]
pub struct NodeState {
    /// Its files.
    pub disk: SimDisk,
    /// Its record stores.
    pub records: MemoryRecords,
}

impl Default for NodeState {
    fn default() -> Self {
        NodeState { disk: SimDisk::new(0, Habits::default()), records: MemoryRecords::new() }
    }
}

impl NodeState {
    /// Power is cut: unflushed writes are lost or torn, record stores fall back to some batch since their last
    /// persist. (The chunk index is in memory, so every start rebuilds it.) Call while the node is down.
    pub fn crash(&self, rng: &mut SmallRng) {
        self.disk.crash();
        self.records.crash(rng.random());
    }
}
