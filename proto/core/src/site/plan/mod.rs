//! What should change in a site, given how it is and who is there. The leader of the system group asks this several
//! times a second and proposes what comes out; where nothing should change, nothing does.
//!
//! What always holds: a placement group keeps at least one serving member. When all of them are silent, their copies
//! are still the ones that count, so none is called away; nothing can have been acknowledged without them. No serving
//! member is told to leave before as many others serve as the group should have copies.
//!
//! `groups` plans for the metadata. For chunks, `members` plans what becomes of those who are members, `repair` adds who
//! is missing, `spread` sees to it that all hold their share; `choice` is how they choose. `drain` tells people what is
//! still in the way of a node's end.

mod choice;
pub mod drain;
mod groups;
mod members;
mod repair;
mod spread;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::choice::Loads;
pub(super) use self::members::lacks_nothing;
use super::{MemberState, Node, NodeStatus, Pg, PgMember, SiteCommand, SiteMap};
use crate::ids::{NodeId, PgEpoch, PgId, ReplicaId};

/// Placement groups in one command, to stay far below the bound of changes of one entry.
const PGS_IN_ONE: usize = 256;

/// What the leader of the system group knows of the nodes: heartbeats, never records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of each node; one that is missing is unsure.
    pub nodes: BTreeMap<NodeId, Presence>,
    /// Milliseconds of silence after which others take a node's place.
    pub repair_after_ms: u64,
}

/// Whether a node is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was heard of within its lease.
    Alive(Report),
    /// Its lease has run out.
    Silent {
        /// Milliseconds since it was heard of, as far as this leader knows.
        for_ms: u64,
    },
    /// It may hold a lease from an earlier leader.
    Unsure,
}

/// What an alive node said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its disk is full.
    pub full: bool,
    /// Placement groups with the epoch of which this is true: it was behind and has everything now, or it is leaving and
    /// has adopted the epoch.
    pub complete: Vec<(PgId, PgEpoch)>,
    /// Bytes of the disk under its chunks; 0 if it did not say.
    pub total_bytes: u64,
    /// Bytes free on it.
    pub free_bytes: u64,
}

/// The commands to propose, in order.
pub fn plan(map: &SiteMap, seen: &Seen) -> Vec<SiteCommand> {
    let nodes: Vec<Node> = map.nodes.iter().map(|node| Node { status: status(node, seen), ..node.clone() }).collect();
    let changes: Vec<_> = nodes
        .iter()
        .zip(&map.nodes)
        .filter(|(now, was)| now.status != was.status)
        .map(|(now, _)| (now.id, now.status))
        .collect();
    let mut commands = Vec::new();
    if !changes.is_empty() {
        commands.push(SiteCommand::NodeStatus { changes });
    }
    let look = Look { map, nodes, seen };
    commands.extend(groups::plan(&look));
    commands.extend(placement(&look).chunks(PGS_IN_ONE).map(|pgs| SiteCommand::SetPgs { pgs: pgs.to_vec() }));
    commands
}

/// Placement groups that change, each with its next epoch.
fn placement(look: &Look<'_>) -> Vec<Pg> {
    let mut pgs = look.map.pgs.clone();
    let mut loads = Loads::new(look, &pgs);
    // Groups that nobody serves may stay as they are for ever, with members too many. Those are off the loads before anybody
    // else is judged by them: else a server seems to hold much when it is chosen who goes, and little when it is chosen
    // who comes, and the same move is made and undone without end.
    let served = |pg: &Pg| {
        pg.members.iter().any(|member| member.state == MemberState::Serving && !look.is_silent(member.replica))
    };
    let (waiting, others): (Vec<usize>, Vec<usize>) = (0..pgs.len()).partition(|at| !served(&pgs[*at]));
    for at in waiting.into_iter().chain(others) {
        let kept = loads.choose(look, &pgs[at]);
        members::step(look, &mut pgs[at], &kept);
    }
    repair::add_members(look, &mut pgs, &mut loads);
    spread::move_some(look, &mut pgs, &mut loads);
    let made = spread::new_pgs(look, &pgs, &mut loads);
    let changed = pgs.into_iter().zip(&look.map.pgs).filter(|(now, was)| now.members != was.members);
    changed.map(|(now, was)| Pg { epoch: PgEpoch(was.epoch.0 + 1), ..now }).chain(made).collect()
}

fn status(node: &Node, seen: &Seen) -> NodeStatus {
    match seen.nodes.get(&node.id) {
        Some(Presence::Alive(report)) if report.full && node.chunk => NodeStatus::Full,
        Some(Presence::Alive(_)) => NodeStatus::Up,
        Some(Presence::Silent { .. }) => NodeStatus::Away,
        Some(Presence::Unsure) | None => node.status,
    }
}

/// The site at one look, with the status of each node as it is now.
struct Look<'a> {
    map: &'a SiteMap,
    nodes: Vec<Node>,
    seen: &'a Seen,
}

impl Look<'_> {
    fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    fn report(&self, id: NodeId) -> Option<&Report> {
        match self.seen.nodes.get(&id) {
            Some(Presence::Alive(report)) => Some(report),
            _ => None,
        }
    }

    /// Only who was heard of gets new duties: a node that joined may not have been started yet.
    fn is_alive(&self, id: NodeId) -> bool {
        self.report(id).is_some()
    }

    /// Whether the site knows the replica's node in another life, or no more: what it held is gone.
    fn is_lost(&self, replica: ReplicaId) -> bool {
        !self.nodes.iter().any(|node| node.replica() == replica)
    }

    /// [`Look::is_lost`] of a replica of a meta group: its node may also have given up the log that it voted in.
    fn is_lost_meta(&self, replica: ReplicaId) -> bool {
        !self.nodes.iter().any(|node| node.meta_replica() == replica)
    }

    fn is_silent(&self, replica: ReplicaId) -> bool {
        self.is_lost(replica) || matches!(self.seen.nodes.get(&replica.node), Some(Presence::Silent { .. }))
    }

    /// Whether a replica's place is to be taken by another: it is gone, or has been away for too long, or is to be
    /// emptied.
    fn must_go(&self, replica: ReplicaId) -> bool {
        self.is_lost(replica) || self.must_go_meta(replica)
    }

    /// [`Look::must_go`] of a replica of a meta group that is not lost.
    fn must_go_meta(&self, replica: ReplicaId) -> bool {
        let given_up = match self.seen.nodes.get(&replica.node) {
            Some(Presence::Silent { for_ms }) => *for_ms >= self.seen.repair_after_ms,
            _ => false,
        };
        given_up || self.node(replica.node).is_some_and(|node| node.draining)
    }

    /// Whether a node may get placement groups.
    fn takes(&self, node: &Node) -> bool {
        node.chunk && node.status == NodeStatus::Up && !node.draining && self.is_alive(node.id)
    }

    fn servers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| self.takes(node))
    }

    /// Whether a member has ever served its placement group.
    fn ever_served(&self, pg: PgId, member: &PgMember) -> bool {
        let past = self.map.pasts.iter().find(|past| past.pg == pg);
        past.is_some_and(|past| past.served(member.replica).is_some())
    }
}
