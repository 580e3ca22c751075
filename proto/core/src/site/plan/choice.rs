//! How members of placement groups are chosen: apart from each other first, then so that all servers hold their share.
//!
//! What always holds: whoever is chosen to go makes the group stand no closer together than before, and of those choices
//! it is one whose server holds most. So what was added because it is better is never what is dropped next, and every
//! plan ends: each move brings members further apart, or else takes from a server that holds more than the other will.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Look;
use crate::ids::NodeId;
use crate::limits::MOVES_PER_NODE;
use crate::site::{Labels, MemberState, Node, Pg, PgMember};

/// Pairs of members that may fail together: on one host, in one rack, in one zone.
pub(super) type Close = (usize, usize, usize);

/// How full a server is of placement groups, against its size.
pub(super) type Share = u64;

/// Of disks that differ by more than this, the larger ones get more.
const MUCH: u64 = 2;

/// Members of placement groups on each server, for each replication factor.
pub(super) struct Loads {
    held: BTreeMap<(u8, NodeId), u64>,
    weights: BTreeMap<NodeId, u64>,
    /// Placement groups that a server copies now.
    pub(super) coming: BTreeMap<NodeId, usize>,
}

impl Loads {
    pub(super) fn new(look: &Look<'_>, pgs: &[Pg]) -> Loads {
        let mut loads = Loads { held: BTreeMap::new(), weights: weights(look), coming: BTreeMap::new() };
        for pg in pgs {
            stay(look, pg).iter().for_each(|node| loads.add(pg.factor, *node));
            copying(look, pg).for_each(|member| *loads.coming.entry(member.replica.node).or_default() += 1);
        }
        loads
    }

    pub(super) fn add(&mut self, factor: u8, node: NodeId) {
        *self.held.entry((factor, node)).or_default() += 1;
    }

    pub(super) fn drop(&mut self, factor: u8, node: NodeId) {
        let held = self.held.entry((factor, node)).or_default();
        *held = held.saturating_sub(1);
    }

    /// The share of a server with so many members more.
    pub(super) fn share(&self, factor: u8, node: NodeId, more: u64) -> Share {
        let held = self.held.get(&(factor, node)).copied().unwrap_or_default() + more;
        let weight = self.weights.get(&node).copied().unwrap_or(1);
        held.saturating_mul(1 << 32) / weight
    }

    /// Who of the members should stay: no more than the group should have copies.
    pub(super) fn choose(&mut self, look: &Look<'_>, pg: &Pg) -> Vec<NodeId> {
        let mut kept = stay(look, pg);
        let state = |node: NodeId| pg.members.iter().find(|member| member.replica.node == node).map(|m| m.state);
        while kept.len() > usize::from(pg.factor) {
            let without = |node: NodeId| closeness(look, kept.iter().copied().filter(|other| *other != node));
            let worst = kept.iter().copied().min_by_key(|node| {
                let (away, serves) = (Some(MemberState::Away), Some(MemberState::Serving));
                let share = Reverse(self.share(pg.factor, *node, 0));
                (state(*node) != away, without(*node), share, state(*node) == serves, Reverse(*node))
            });
            let Some(worst) = worst else { break };
            kept.retain(|node| *node != worst);
            self.drop(pg.factor, worst);
        }
        kept
    }

    /// The best server that can join these members, if any can.
    pub(super) fn candidate(&self, look: &Look<'_>, pg: &Pg, kept: &[NodeId]) -> Option<NodeId> {
        let is_member = |node: &Node| pg.members.iter().any(|member| member.replica.node == node.id);
        let busy = |node: &Node| self.coming.get(&node.id).is_some_and(|coming| *coming >= MOVES_PER_NODE);
        let free = |node: NodeId| look.report(node).map_or(0, |report| report.free_bytes);
        let able = look.servers().filter(|node| !is_member(node));
        let best = able.min_by_key(|node| {
            let close = closeness(look, kept.iter().copied().chain([node.id]));
            // Among equals who can begin at once; a better place is worth waiting for.
            (close, busy(node), self.share(pg.factor, node.id, 1), Reverse(free(node.id)), node.id)
        });
        best.filter(|node| !busy(node)).map(|node| node.id)
    }
}

/// Members that may stay: neither told to leave nor to be replaced, and of use.
pub(super) fn stay(look: &Look<'_>, pg: &Pg) -> Vec<NodeId> {
    let staying = pg.members.iter().filter(|member| match member.state {
        MemberState::Leaving => false,
        // Another life of the node takes the place that it had.
        _ if look.is_lost(member.replica) => look.node(member.replica.node).is_some_and(|node| !node.draining),
        MemberState::Away if look.is_silent(member.replica) => {
            !look.must_go(member.replica) && look.ever_served(pg.id, member)
        }
        _ => !look.must_go(member.replica),
    });
    staying.map(|member| member.replica.node).collect()
}

/// How close together servers stand. A label that is not known is shared with nobody.
pub(super) fn closeness(look: &Look<'_>, nodes: impl Iterator<Item = NodeId>) -> Close {
    let labels: Vec<&Labels> = nodes.filter_map(|node| look.node(node)).map(|node| &node.labels).collect();
    let mut close = (0, 0, 0);
    for (at, one) in labels.iter().enumerate() {
        for other in &labels[at + 1..] {
            let same = |label: fn(&Labels) -> &String| !label(one).is_empty() && label(one) == label(other);
            close.0 += usize::from(same(|labels| &labels.host));
            close.1 += usize::from(same(|labels| &labels.rack));
            close.2 += usize::from(same(|labels| &labels.zone));
        }
    }
    close
}

/// Equal, unless the disks differ much.
fn weights(look: &Look<'_>) -> BTreeMap<NodeId, u64> {
    let servers = look.nodes.iter().filter(|node| node.chunk);
    let sizes: BTreeMap<NodeId, u64> =
        servers.filter_map(|node| Some((node.id, look.report(node.id)?.total_bytes >> 30))).collect();
    let (least, most) = (sizes.values().min().copied().unwrap_or(0), sizes.values().max().copied().unwrap_or(0));
    if least == 0 || most <= MUCH * least { BTreeMap::new() } else { sizes }
}

/// Members that are to become serving ones for the first time.
pub(super) fn moving(look: &Look<'_>, pgs: &[Pg]) -> usize {
    pgs.iter().map(|pg| copying(look, pg).filter(|member| !look.ever_served(pg.id, member)).count()).sum()
}

/// Members that copy what they lack: those of groups that nobody serves now have nothing to copy from, and nobody should
/// wait for them.
pub(super) fn copying<'a>(look: &'a Look<'_>, pg: &'a Pg) -> impl Iterator<Item = &'a PgMember> {
    let serves = |member: &PgMember| member.state == MemberState::Serving && !look.is_silent(member.replica);
    let source = pg.members.iter().any(serves);
    pg.members.iter().filter(move |member| source && member.state == MemberState::Behind)
}
