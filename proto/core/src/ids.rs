//! Identities, each a type of its own, so that one can't be passed for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// A cluster, one Raft domain. 24 random bits, fixed at init, never zero.
    SiteId(u32)
);
id!(
    /// One `weft node` process, numbered from 1 by the system group, never reused.
    NodeId(u32)
);
id!(
    /// One life of a data folder: 64 random bits, new whenever the folder is made afresh.
    Incarnation(u64)
);
id!(
    /// A Raft group of meta nodes. [`GroupId::SYSTEM`] holds nodes, volumes, placement; volumes live in 1..n.
    GroupId(u32)
);
id!(
    /// A subtree with inode numbers, policies and quota of its own. Unique in a site, never reused, from 1.
    VolumeId(u64)
);
id!(
    /// A family of volumes joined by cloning; chunks and sessions belong to one space. Never reused, from 1.
    SpaceId(u64)
);
id!(
    /// What a junction names; slot -> volume is one record in the group of the space.
    SlotId(u64)
);
id!(
    /// An inode number within a volume: 40 bits, never reused.
    Ino(u64)
);
id!(
    /// The high 24 bits of `st_ino`: which volume (or snapshot) of a site a file seen on a mount belongs to.
    ViewId(u32)
);
id!(
    /// A client process: site (24 bits) and a counter of the system group (40 bits). Never reused.
    ClientId(u64)
);
id!(
    /// A placement group: the set of chunk servers that hold the same chunks.
    PgId(u32)
);
id!(
    /// Version of a placement group's member list; rises with every change of it.
    PgEpoch(u64)
);
id!(
    /// A volume's snapshot counter; every record carries the epoch in which it was born.
    Epoch(u64)
);
id!(
    /// A client's request number within a session, from 1.
    Seq(u64)
);
id!(
    /// Who the credentials say is asking; 0 until certificates name principals.
    PrincipalId(u64)
);
id!(
    /// Whom a volume belongs to; 0 is the site's own tenant.
    TenantId(u32)
);

impl GroupId {
    /// The group that holds nodes, volumes, slots of spaces, placement and client ids.
    pub const SYSTEM: GroupId = GroupId(0);
}

impl Ino {
    /// The root directory of every volume.
    pub const ROOT: Ino = Ino(1);
    /// Inode numbers end here, so that a view and an inode fit into `st_ino`.
    pub const MAX: Ino = Ino((1 << 40) - 1);
}

impl ClientId {
    /// Joins a site and a number given out by its system group.
    pub fn new(site: SiteId, counter: u64) -> ClientId {
        assert!(site.0 < 1 << 24 && counter < 1 << 40, "site ids have 24 bits and client counters 40");
        ClientId((u64::from(site.0) << 40) | counter)
    }

    /// The site that gave the id out.
    pub fn site(self) -> SiteId {
        SiteId((self.0 >> 40) as u32)
    }
}

/// One member of a Raft group: a node and the life of its data folder. A node whose folder was wiped is another
/// replica, since it has forgotten its vote and its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// The node.
    pub node: NodeId,
    /// The life of its data folder.
    pub incarnation: Incarnation,
}

impl ReplicaId {
    /// The member of meta groups that a node is after it gave up so many damaged logs: one that has promised nothing.
    #[must_use]
    pub fn after_lost_logs(self, count: u32) -> ReplicaId {
        // In the half that is shown.
        let incarnation = Incarnation(self.incarnation.0.wrapping_add(u64::from(count) << 32));
        ReplicaId { incarnation, ..self }
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}.{:08x}", self.node, self.incarnation.0 >> 32)
    }
}

/// An immutable run of at most [`crate::limits::MAX_CHUNK`] file bytes. Unique over all sites, chosen by the client
/// that uploads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// Who uploaded it.
    pub client: ClientId,
    /// Its number among the chunks of that client.
    pub counter: u64,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.client.0, self.counter)
    }
}
