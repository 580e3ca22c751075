//! What the system group keeps: nodes, groups, volumes, spaces, placement, client ids.

mod apply;
pub mod plan;
pub(crate) mod records;
mod removal;
pub mod right;
pub mod trust;

pub(crate) use apply::apply;
pub use records::map;

use crate::ids::{
    GroupId, Incarnation, NodeId, PgEpoch, PgId, ReplicaId, SiteId, SlotId, SpaceId, TenantId, ViewId, VolumeId,
};
use crate::time::Timestamp;

/// A change of what the system group keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteCommand {
    /// The first entry of a site: its id, its first node, its groups (all on that node), the root volume (not ready).
    /// Repeating it changes nothing. `Joined`.
    Init {
        /// The site.
        site: SiteId,
        /// What people call it.
        name: String,
        /// How many meta groups for volumes, 1..=n.
        groups: u32,
        /// Copies of each chunk of the root volume, 1 to 3.
        replication: u8,
        /// Its first node, which gets id 1.
        first: NodeJoin,
    },
    /// A data folder asks in. The same incarnation gets the same id again. `Joined`.
    Join(NodeJoin),
    /// A node's address changed (it was restarted with another configuration), or it gave up a damaged log. `Done`.
    UpdateNode {
        /// Which life of which node.
        replica: ReplicaId,
        /// Its address now, `host:port`.
        addr: String,
        /// Where its machine stands now.
        labels: Labels,
        /// How many logs it gave up. A lower number than before changes nothing.
        lost_logs: u32,
    },
    /// Nodes came or went. `Done`.
    NodeStatus {
        /// New status of each.
        changes: Vec<(NodeId, NodeStatus)>,
    },
    /// Who should hold replicas of a group. `Done`.
    SetGroup {
        /// Which.
        group: GroupId,
        /// All of them.
        replicas: Vec<ReplicaId>,
    },
    /// New or changed placement groups. Each must have an epoch one above the record's (1 for a new one), else the
    /// whole command is refused. `Done`.
    SetPgs {
        /// The new records.
        pgs: Vec<Pg>,
    },
    /// Names a new volume. Its group makes its records next, then [`SiteCommand::VolumeReady`]. Repeating it with the
    /// same token gives the same volume. `Volume`.
    CreateVolume {
        /// Unique in the site.
        name: String,
        /// Copies of each chunk, 1 to 3.
        replication: u8,
        /// Random number of the asker.
        token: u64,
        /// Whose.
        tenant: TenantId,
    },
    /// Begins to delete a volume: its name is free, its group removes its records next, then
    /// [`SiteCommand::VolumeGone`]. Not the root volume. Repeating it changes nothing. `Done`.
    DeleteVolume {
        /// Which.
        volume: VolumeId,
    },
    /// The records of a volume that is being deleted are gone. `Done`.
    VolumeGone {
        /// Which.
        volume: VolumeId,
    },
    /// The volume's records are there. `Done`.
    VolumeReady {
        /// Which.
        volume: VolumeId,
    },
    /// Hands out client ids. `ClientIds`.
    ClientIds {
        /// How many.
        count: u32,
    },
    /// A node is to be emptied, or no longer. `Done`.
    DrainNode {
        /// Which.
        node: NodeId,
        /// Whether it is to be emptied.
        on: bool,
    },
    /// A node is gone for good: the site forgets it. Refused while it holds anything. `Done`.
    RemoveNode {
        /// Which.
        node: NodeId,
        /// Also where it is away and holds replicas, or placement groups with one copy: those are lost with it.
        force: bool,
    },
    /// A change of whom the site trusts. `Trust`.
    Trust(trust::TrustCommand),
}

/// What came of a [`SiteCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteOutcome {
    /// Done.
    Done,
    /// The node's id and the site's.
    Joined {
        /// The node.
        node: NodeId,
        /// The site.
        site: SiteId,
    },
    /// The volume as recorded.
    Volume(Volume),
    /// Counters `first..first + count` are the caller's.
    ClientIds {
        /// The site.
        site: SiteId,
        /// First counter.
        first: u64,
        /// How many.
        count: u32,
    },
    /// Of a change of trust.
    Trust(trust::TrustOutcome),
}

/// What a data folder says when it asks in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeJoin {
    /// The life of the folder.
    pub incarnation: Incarnation,
    /// Where its node answers, `host:port`.
    pub addr: String,
    /// Holds meta replicas.
    pub meta: bool,
    /// Holds chunks.
    pub chunk: bool,
}

/// Where a node's machine stands: what may fail together with others. An empty label says that it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The machine.
    pub host: String,
    /// The rack it is in.
    pub rack: String,
    /// The zone, room or building.
    pub zone: String,
}

/// A node of the site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The life of its data folder.
    pub incarnation: Incarnation,
    /// Where it answers, `host:port`.
    pub addr: String,
    /// Holds meta replicas.
    pub meta: bool,
    /// Holds chunks.
    pub chunk: bool,
    /// Whether it is there.
    pub status: NodeStatus,
    /// Where its machine stands.
    pub labels: Labels,
    /// Whether it is to be emptied: it gets nothing new, and what it holds moves away.
    pub draining: bool,
    /// How many damaged logs this life of its folder gave up, with all votes in them.
    pub lost_logs: u32,
}

impl Node {
    /// The node in its present life.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId { node: self.id, incarnation: self.incarnation }
    }

    /// The node as a member of meta groups: another one after each log that it gave up.
    pub fn meta_replica(&self) -> ReplicaId {
        self.replica().after_lost_logs(self.lost_logs)
    }
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeStatus {
    /// It sends heartbeats.
    #[default]
    Up,
    /// Its lease ran out without one.
    Away,
    /// It sends heartbeats but takes no new chunks: its disk is full.
    Full,
}

/// A meta group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Who should hold replicas of it. Membership of the Raft group follows.
    pub replicas: Vec<ReplicaId>,
}

/// A volume as the site knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its name, unique in the site.
    pub name: String,
    /// Its space.
    pub space: SpaceId,
    /// The group its space lives in.
    pub group: GroupId,
    /// The slot that holds it.
    pub slot: SlotId,
    /// The high bits of its inode numbers on mounts.
    pub view: ViewId,
    /// Copies of each chunk.
    pub replication: u8,
    /// Whose.
    pub tenant: TenantId,
    /// When it was named.
    pub created: Timestamp,
    /// Whether its records are there.
    pub ready: bool,
    /// The asker's random number.
    pub token: u64,
    /// It is being deleted: its name is free, its files are no more, its records are being removed.
    pub deleting: bool,
}

/// The root volume's name: what `weft mount` shows, with the other volumes at junctions in it.
pub const ROOT_VOLUME: &str = "root";

/// A placement group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pg {
    /// Its id.
    pub id: PgId,
    /// For volumes with this replication factor.
    pub factor: u8,
    /// Version of the member list.
    pub epoch: PgEpoch,
    /// Chunk servers that hold its chunks; in order, the first serving one is asked first.
    pub members: Vec<PgMember>,
}

/// One chunk server in a placement group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PgMember {
    /// The server.
    pub replica: ReplicaId,
    /// What it can be counted on for.
    pub state: MemberState,
}

/// What a member of a placement group can be counted on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Has every chunk of the group and takes new ones.
    Serving,
    /// Not there; writes go on without it.
    Away,
    /// Was away or is new: takes new chunks, but lacks some that were written before.
    Behind,
    /// Is to go: takes and acknowledges nothing at this epoch, and is no member any more once it has adopted the epoch.
    /// What was there before is still there to be read.
    Leaving,
}

impl MemberState {
    /// Whether a chunk is acknowledged only once this member has it too.
    pub fn is_live(self) -> bool {
        matches!(self, MemberState::Serving | MemberState::Behind)
    }
}

/// What the members of a placement group have seen: whoever plans needs it when all who served are lost. Kept by what
/// applies [`SiteCommand::SetPgs`], so it can't be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PgPast {
    /// Which.
    pub pg: PgId,
    /// The last epoch at which a chunk can have been acknowledged: there were enough live members.
    pub took: PgEpoch,
    /// Of each member that ever served, the last epoch at which it did. Everything acknowledged up to then is there.
    pub served: Vec<(ReplicaId, PgEpoch)>,
}

impl PgPast {
    /// The past with one more epoch.
    #[must_use]
    pub fn then(&self, pg: &Pg) -> PgPast {
        let live = pg.members.iter().filter(|member| member.state.is_live()).count();
        let served = pg.members.iter().filter_map(|member| match member.state {
            MemberState::Serving => Some((member.replica, pg.epoch)),
            _ => Some((member.replica, self.served(member.replica)?)),
        });
        PgPast {
            pg: pg.id,
            took: if live >= fewest(pg.factor) { pg.epoch } else { self.took },
            served: served.collect(),
        }
    }

    /// The last epoch at which a member served, if it ever did.
    pub fn served(&self, replica: ReplicaId) -> Option<PgEpoch> {
        self.served.iter().find(|(of, _)| *of == replica).map(|(_, epoch)| *epoch)
    }
}

/// Copies without which no chunk is acknowledged.
pub fn fewest(factor: u8) -> usize {
    usize::from(factor.min(2))
}

/// The whole of it, as nodes and clients hold it: a small site fits into one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteMap {
    /// Rises with every change; a larger one is newer.
    pub version: u64,
    /// The site.
    pub site: SiteId,
    /// What people call it.
    pub name: String,
    /// By id.
    pub nodes: Vec<Node>,
    /// By id.
    pub groups: Vec<Group>,
    /// By id.
    pub volumes: Vec<Volume>,
    /// By id.
    pub pgs: Vec<Pg>,
    /// By id of the placement group.
    pub pasts: Vec<PgPast>,
}
