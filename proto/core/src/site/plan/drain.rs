//! What is still in the way of a node's end, told from the site's records alone: whoever holds a map can say it.

use crate::ids::{GroupId, NodeId};
use crate::site::{MemberState, Node, NodeStatus, Pg, PgMember, SiteMap};

/// What a node holds yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Placement groups of which it is a member.
    pub pgs: usize,
    /// Of these, those that another server is copying, or that it is leaving.
    pub moving: usize,
    /// Groups of the metadata of which it should hold a replica.
    pub groups: Vec<GroupId>,
    /// Why some of it can't move.
    pub stalls: Vec<String>,
}

impl Remaining {
    /// Whether the site's records give the node nothing any more.
    pub fn is_none(&self) -> bool {
        self.pgs == 0 && self.groups.is_empty()
    }
}

/// What a node holds yet, and why it is not moving where it is not.
pub fn remaining(map: &SiteMap, id: NodeId) -> Remaining {
    let held: Vec<&Pg> = map.pgs.iter().filter(|pg| pg.members.iter().any(|m| m.replica.node == id)).collect();
    let groups = map.groups.iter().filter(|group| group.replicas.iter().any(|replica| replica.node == id));
    let groups: Vec<GroupId> = groups.map(|group| group.id).collect();
    let moves = |pg: &&&Pg| {
        let state = |of: &dyn Fn(&PgMember) -> bool| pg.members.iter().any(of);
        state(&|member| member.replica.node == id && member.state == MemberState::Leaving)
            || state(&|member| member.replica.node != id && member.state == MemberState::Behind)
    };
    let mut stalls = Vec::new();
    let others: Vec<&Node> = map.nodes.iter().filter(|node| node.id != id).collect();
    let able = |node: &&&Node| node.chunk && !node.draining && node.status == NodeStatus::Up;
    let servers = others.iter().filter(able).count();
    for factor in 1..=crate::limits::MAX_REPLICATION {
        let waiting = held.iter().filter(|pg| pg.factor == factor && !moves(pg)).count();
        if waiting > 0 && servers < usize::from(factor) {
            let why = format!(
                "{waiting} placement groups keep {factor} copies: {factor} other chunk nodes with room are needed, {}",
                there_are(servers, &others)
            );
            stalls.push(why);
        }
    }
    let serves = |pg: &Pg| pg.members.iter().any(|member| member.state == MemberState::Serving);
    let unserved = held.iter().filter(|pg| !serves(pg)).count();
    if unserved > 0 {
        stalls.push(format!("{unserved} placement groups are served by nobody"));
    }
    let meta = others.iter().filter(|node| node.meta && !node.draining && node.status != NodeStatus::Away).count();
    let most = map.groups.iter().map(|group| group.replicas.len()).max().unwrap_or(0).min(3);
    if !groups.is_empty() && meta < most {
        stalls.push(format!(
            "{} metadata groups keep {most} replicas: {most} other meta nodes are needed, there are {meta}",
            groups.len()
        ));
    }
    Remaining { pgs: held.len(), moving: held.iter().filter(moves).count(), groups, stalls }
}

fn there_are(servers: usize, others: &[&Node]) -> String {
    let mut text = format!("there are {servers}");
    for node in others.iter().filter(|node| node.chunk) {
        let why = match node.status {
            _ if node.draining => "is being drained",
            NodeStatus::Away => "is away",
            NodeStatus::Full => "is full",
            NodeStatus::Up => continue,
        };
        text += &format!(", node {} {why}", node.id);
    }
    text
}
