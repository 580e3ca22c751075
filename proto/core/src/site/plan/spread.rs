//! Placement groups for everybody: new ones where there are too few, and a few at a time that move from who holds most
//! to who holds least, or to where their members stand further apart.
//!
//! What always holds: nothing moves for this while any copy is missing. A move begins with one more member, and is an
//! improvement by the same measure by which [`super::choice`] then chooses who goes.

use std::collections::BTreeMap;

use super::Look;
use super::choice::{Loads, closeness, copying, stay};
use crate::ids::{NodeId, PgEpoch, PgId};
use crate::limits::{
    MAX_PGS_PER_FACTOR, MAX_REPLICATION, MOVES_PER_NODE, PGS_PER_FACTOR, PGS_PER_SERVER, SPREADS_AT_ONCE,
};
use crate::site::{MemberState, Node, Pg, PgMember};

/// Begins a few moves, if everything is whole.
pub(super) fn move_some(look: &Look<'_>, pgs: &mut [Pg], loads: &mut Loads) {
    if !pgs.iter().all(|pg| is_whole(look, pg)) {
        return;
    }
    let moving = pgs.iter().filter(|pg| copying(look, pg).next().is_some()).count();
    let room = SPREADS_AT_ONCE.saturating_sub(moving);
    for _ in 0..room {
        let Some((at, from, to)) = further_apart(look, pgs, loads).or_else(|| fairer(look, pgs, loads)) else { break };
        let Some(node) = look.node(to) else { break };
        let pg = &mut pgs[at];
        pg.members.push(PgMember { replica: node.replica(), state: MemberState::Behind });
        loads.drop(pg.factor, from);
        loads.add(pg.factor, to);
        *loads.coming.entry(to).or_default() += 1;
    }
}

/// Whether all copies are there. A group whose last servers are not there waits for them, and others don't wait for it.
fn is_whole(look: &Look<'_>, pg: &Pg) -> bool {
    let serves = |member: &&PgMember| member.state == MemberState::Serving;
    if pg.members.iter().filter(serves).all(|member| look.is_silent(member.replica)) {
        return true;
    }
    let there = pg.members.iter().filter(serves).filter(|member| look.is_alive(member.replica.node)).count();
    there >= usize::from(pg.factor) && pg.members.iter().all(|member| member.state != MemberState::Away)
}

/// Whether nothing changes in a group now.
fn is_settled(look: &Look<'_>, pg: &Pg) -> bool {
    pg.members.len() == usize::from(pg.factor)
        && pg.members.iter().all(|member| member.state == MemberState::Serving && !look.is_lost(member.replica))
}

fn ready<'a>(look: &'a Look<'_>, loads: &'a Loads) -> impl Iterator<Item = &'a Node> {
    look.servers().filter(|node| loads.coming.get(&node.id).is_none_or(|coming| *coming < MOVES_PER_NODE))
}

type Move = (usize, NodeId, NodeId);

/// A member whose place another server takes, so that fewer members stand close together.
fn further_apart(look: &Look<'_>, pgs: &[Pg], loads: &Loads) -> Option<Move> {
    let settled = pgs.iter().enumerate().filter(|(_, pg)| is_settled(look, pg));
    for (at, pg) in settled {
        let kept = stay(look, pg);
        let now = closeness(look, kept.iter().copied());
        if now == (0, 0, 0) || kept.len() != pg.members.len() {
            continue;
        }
        let swaps = ready(look, loads)
            .filter(|node| !kept.contains(&node.id))
            .flat_map(|node| kept.iter().map(move |from| (*from, node.id)))
            .map(|(from, to)| (closeness(look, swapped(&kept, from, to)), loads.share(pg.factor, to, 1), to, from));
        if let Some((close, _, to, from)) = swaps.min()
            && close < now
        {
            return Some((at, from, to));
        }
    }
    None
}

/// A member whose place a server takes that holds less, even with it.
fn fairer(look: &Look<'_>, pgs: &[Pg], loads: &Loads) -> Option<Move> {
    for factor in 1..=MAX_REPLICATION {
        let settled: Vec<(usize, Vec<NodeId>)> = pgs
            .iter()
            .enumerate()
            .filter(|(_, pg)| pg.factor == factor && is_settled(look, pg))
            .map(|(at, pg)| (at, stay(look, pg)))
            .filter(|(_, kept)| kept.len() == usize::from(factor))
            .collect();
        let mut targets: Vec<NodeId> = ready(look, loads).map(|node| node.id).collect();
        targets.sort_by_key(|node| (loads.share(factor, *node, 1), *node));
        let mut sources: Vec<NodeId> = look.nodes.iter().filter(|node| node.chunk).map(|node| node.id).collect();
        sources.sort_by_key(|node| (std::cmp::Reverse(loads.share(factor, *node, 0)), *node));
        for from in sources {
            for to in &targets {
                if loads.share(factor, *to, 1) >= loads.share(factor, from, 0) {
                    break;
                }
                let better = settled.iter().find(|(_, kept)| {
                    kept.contains(&from)
                        && !kept.contains(to)
                        && closeness(look, swapped(kept, from, *to)) <= closeness(look, kept.iter().copied())
                });
                if let Some((at, _)) = better {
                    return Some((*at, from, *to));
                }
            }
        }
    }
    None
}

fn swapped(kept: &[NodeId], from: NodeId, to: NodeId) -> impl Iterator<Item = NodeId> {
    kept.iter().copied().filter(move |node| *node != from).chain([to])
}

/// Placement groups for replication factors that have become possible, for sites that have grown, and in place of those
/// whose last server is lost.
pub(super) fn new_pgs(look: &Look<'_>, pgs: &[Pg], loads: &mut Loads) -> Vec<Pg> {
    let servers: Vec<&Node> = look.servers().collect();
    let wanted = (PGS_PER_SERVER * servers.len() as u32).clamp(PGS_PER_FACTOR, MAX_PGS_PER_FACTOR) as usize;
    let mut next = pgs.iter().map(|pg| pg.id.0).max().unwrap_or(0) + 1;
    let mut made = Vec::new();
    for factor in 1..=MAX_REPLICATION {
        if servers.len() < usize::from(factor) {
            break;
        }
        let usable = |pg: &&Pg| {
            let serves = |member: &PgMember| member.state == MemberState::Serving && !look.is_lost(member.replica);
            pg.factor == factor && pg.members.iter().any(serves)
        };
        let there: Vec<&Pg> = pgs.iter().filter(usable).collect();
        let mut habits = Habits::of(&there);
        for _ in there.len()..wanted {
            let mut nodes: Vec<NodeId> = Vec::new();
            while nodes.len() < usize::from(factor) {
                let best = servers.iter().map(|node| node.id).filter(|node| !nodes.contains(node)).min_by_key(|node| {
                    let close = closeness(look, nodes.iter().copied().chain([*node]));
                    (close, loads.share(factor, *node, 1), habits.together(&nodes, *node), *node)
                });
                let Some(best) = best else { break };
                loads.add(factor, best);
                nodes.push(best);
            }
            habits.note(&mut nodes);
            let members = nodes.iter().filter_map(|node| look.node(*node));
            let members = members.map(|node| PgMember { replica: node.replica(), state: MemberState::Serving });
            made.push(Pg { id: PgId(next), factor, epoch: PgEpoch(1), members: members.collect() });
            next += 1;
        }
    }
    made
}

/// Who is in groups with whom, and who is asked first: so that the load of a server that fails goes to all others, and
/// no server is asked first more often than others.
struct Habits {
    pairs: BTreeMap<(NodeId, NodeId), u32>,
    firsts: BTreeMap<NodeId, u32>,
}

impl Habits {
    fn of(pgs: &[&Pg]) -> Habits {
        let mut habits = Habits { pairs: BTreeMap::new(), firsts: BTreeMap::new() };
        for pg in pgs {
            let nodes: Vec<NodeId> = pg.members.iter().map(|member| member.replica.node).collect();
            habits.count(&nodes);
        }
        habits
    }

    fn together(&self, nodes: &[NodeId], node: NodeId) -> u32 {
        nodes.iter().map(|other| self.pairs.get(&pair(node, *other)).copied().unwrap_or(0)).sum()
    }

    /// Puts first whoever is first least often, and remembers the group.
    fn note(&mut self, nodes: &mut [NodeId]) {
        let first = (0..nodes.len()).min_by_key(|at| (self.firsts.get(&nodes[*at]).copied().unwrap_or(0), *at));
        nodes.rotate_left(first.unwrap_or(0));
        self.count(nodes);
    }

    fn count(&mut self, nodes: &[NodeId]) {
        if let Some(first) = nodes.first() {
            *self.firsts.entry(*first).or_default() += 1;
        }
        for (at, one) in nodes.iter().enumerate() {
            nodes[at + 1..].iter().for_each(|other| *self.pairs.entry(pair(*one, *other)).or_default() += 1);
        }
    }
}

fn pair(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    (one.min(other), one.max(other))
}
