//! What a node says of itself.

use weft_core::ids::{GroupId, Incarnation, NodeId};

/// What a node knows of itself and of the groups it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// Its id.
    pub node: NodeId,
    /// The life of its data folder.
    pub incarnation: Incarnation,
    /// The version of its program.
    pub version: String,
    /// The meta groups of which it holds a replica.
    pub groups: Vec<GroupReport>,
    /// Bytes of the disk under its chunks.
    pub total_bytes: u64,
    /// Of these, free.
    pub free_bytes: u64,
    /// Bytes its chunks take.
    pub chunk_bytes: u64,
    /// How many chunks it holds.
    pub chunks: u64,
    /// For how long it may still acknowledge chunks without another heartbeat, in milliseconds.
    pub lease_left_ms: u32,
    /// The version of its site map.
    pub map_version: u64,
    /// How long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// Until when its certificate is good, in seconds since 1970; 0: its site is in plain text.
    pub certificate_until: i64,
    /// What its chunk server found damaged or missing.
    pub chunk_health: ChunkHealth,
    /// How many damaged Raft logs its data folder gave up since it was made.
    pub lost_logs: u32,
    /// How often records of a group were found damaged or lost since it was started.
    pub lost_records: u64,
}

/// What a chunk server found damaged or missing since its start, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkHealth {
    /// Chunks read again to find what rots.
    pub reread: u64,
    /// Their bytes.
    pub reread_bytes: u64,
    /// Chunks found damaged.
    pub damaged: u64,
    /// Chunks found missing.
    pub missing: u64,
    /// Of both, those healed.
    pub healed: u64,
    /// Of both, those not healed yet.
    pub waiting: u64,
    /// Of these, those that no member gave when they were last asked.
    pub unhealed: u64,
    /// Catching up after an absence.
    pub catch_up: CatchUp,
}

/// How far a server that was away has caught up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatchUp {
    /// Placement groups that are not complete yet.
    pub groups: u64,
    /// Chunks known to be lacking.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks fetched so far.
    pub done_chunks: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// How long ago it began, in milliseconds.
    pub ms: u64,
}

/// One replica of a meta group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// Whether this replica leads it.
    pub leader: bool,
    /// Who leads it as far as this node knows.
    pub leader_node: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Index of the last log entry here.
    pub last_log: u64,
    /// Index of the last entry known to be committed.
    pub committed: u64,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Voting nodes.
    pub voters: Vec<NodeId>,
    /// Learning nodes.
    pub learners: Vec<NodeId>,
    /// Last log index of the newest snapshot.
    pub snapshot: u64,
    /// Up to where the log was purged.
    pub purged: u64,
    /// Whether voters come or go, and it is not settled yet.
    pub changing: bool,
    /// Which lives of the voting nodes vote, in their order.
    pub voter_lives: Vec<Incarnation>,
    /// Whether its records were lost and are being rebuilt from those of the leader.
    pub rebuilding: bool,
}
