//! What of a node outlives its crashes: the disk, and the stores that stand for databases on it.

use rand::Rng;
use rand::rngs::SmallRng;
use weft_node::chunk::index::memory::MemoryIndexes;
use weft_node::records::memory::MemoryRecords;

use crate::disk::{Habits, SimDisk};

/// Cloning shares it.
#[derive(Clone)]
pub struct NodeState {
    /// Its files.
    pub disk: SimDisk,
    /// Its record stores.
    pub records: MemoryRecords,
    /// Its chunk index.
    pub indexes: MemoryIndexes,
}

impl Default for NodeState {
    fn default() -> Self {
        let (records, indexes) = (MemoryRecords::new(), MemoryIndexes::default());
        NodeState { disk: SimDisk::new(0, Habits::default()), records, indexes }
    }
}

impl NodeState {
    /// Power is cut: unflushed writes are lost or torn, record stores fall back to some batch since their last
    /// persist, the chunk index is as it was or lost altogether. Call while the node is down.
    pub fn crash(&mut self, rng: &mut SmallRng) {
        self.disk.crash();
        self.records.crash(rng.random());
        if rng.random_bool(0.3) {
            self.indexes = MemoryIndexes::default();
        }
    }
}
