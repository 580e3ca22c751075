//! Who a node is: written into its data folder when it joined a site, never changed after.

use weft_core::ids::{Incarnation, NodeId, ReplicaId, SiteId};

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The site.
    pub site: SiteId,
    /// What people call the site.
    pub site_name: String,
    /// The node.
    pub node: NodeId,
    /// The life of the data folder.
    pub incarnation: Incarnation,
}

impl Identity {
    /// The node as a member of Raft groups and placement groups.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId { node: self.node, incarnation: self.incarnation }
    }
}
