//! Who holds replicas of the metadata groups.
//!
//! What always holds: a group changes one replica at a time, and never has fewer than it had unless that many can't be
//! better than fewer. Raft lets a replica go only once the others vote. Replicas move to where fewer are only while every
//! group has all of its own, one group at a look.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Look;
use crate::ids::{NodeId, ReplicaId};
use crate::limits::MAX_VOTERS;
use crate::site::{Group, Node, SiteCommand};

/// Replicas below which a group does not shrink for the sake of a node that is to be emptied.
const FEWEST: usize = 3;

/// How many replicas a group should have: an odd number, since an even one tolerates no more failures; two where there
/// are no more than two.
fn voters(meta_nodes: usize) -> usize {
    match meta_nodes.min(MAX_VOTERS) {
        few @ 0..=2 => few,
        many => many - (many + 1) % 2,
    }
}

/// Groups whose replicas should change. Those that hold a group keep it, also while they are away, unless their data
/// folder was made afresh or they gave up a damaged log: what they held is gone. Who is to be emptied or was given up is
/// replaced where another node can take its place.
pub(super) fn plan(look: &Look<'_>) -> Vec<SiteCommand> {
    let meta: Vec<&Node> = look.nodes.iter().filter(|node| node.meta).collect();
    let staying = meta.iter().filter(|node| !node.draining).count();
    let wanted = if staying >= FEWEST { voters(staying) } else { voters(meta.len()).min(FEWEST) };
    let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
    let all = look.map.groups.iter().flat_map(|group| &group.replicas);
    all.for_each(|replica| *held.entry(replica.node).or_default() += 1);
    let mut commands = Vec::new();
    for Group { id, replicas: before } in &look.map.groups {
        let mut replicas: Vec<ReplicaId> =
            before.iter().filter(|replica| !look.is_lost_meta(**replica)).copied().collect();
        // Of those that must go, who can't come back goes first.
        let goes = replicas.iter().copied().filter(|replica| look.must_go_meta(*replica));
        let goes = goes.min_by_key(|replica| (look.is_alive(replica.node), *replica));
        let mut next = |replicas: &[ReplicaId]| {
            let free = |node: &&&Node| {
                look.is_alive(node.id) && !node.draining && !replicas.iter().any(|held| held.node == node.id)
            };
            let next = meta.iter().filter(free).min_by_key(|node| (held.get(&node.id).copied().unwrap_or(0), node.id));
            let next = next?.meta_replica();
            *held.entry(next.node).or_default() += 1;
            Some(next)
        };
        if replicas.len() < wanted {
            while replicas.len() < wanted
                && let Some(next) = next(&replicas)
            {
                replicas.push(next);
            }
        } else if let Some(goes) = goes {
            let next = next(&replicas);
            // Where nobody can take the place, it is given up only if enough are left without it.
            if next.is_some() || replicas.len() > wanted {
                replicas.retain(|replica| *replica != goes);
                replicas.extend(next.filter(|_| replicas.len() < wanted));
            }
        }
        if !replicas.is_empty() && replicas != *before {
            commands.push(SiteCommand::SetGroup { group: *id, replicas });
        }
    }
    if commands.is_empty() {
        commands.extend(spread(look, &meta, wanted, &held));
    }
    commands
}

/// One replica that moves from a node that holds more to one that holds fewer, even with it. The system group moves last:
/// everybody asks it.
fn spread(look: &Look<'_>, meta: &[&Node], wanted: usize, held: &BTreeMap<NodeId, usize>) -> Option<SiteCommand> {
    let groups = &look.map.groups;
    let is_there = |replica: &ReplicaId| {
        look.is_alive(replica.node) && !look.is_lost_meta(*replica) && !look.must_go_meta(*replica)
    };
    if groups.iter().any(|group| group.replicas.len() != wanted || !group.replicas.iter().all(is_there)) {
        return None;
    }
    let count = |node: NodeId| held.get(&node).copied().unwrap_or(0);
    let mut sources: Vec<NodeId> = meta.iter().map(|node| node.id).collect();
    sources.sort_by_key(|node| (Reverse(count(*node)), *node));
    let mut targets: Vec<&Node> =
        meta.iter().copied().filter(|node| look.is_alive(node.id) && !node.draining).collect();
    targets.sort_by_key(|node| (count(node.id), node.id));
    for from in sources {
        for to in targets.iter().take_while(|to| count(to.id) + 1 < count(from)) {
            let holds = |group: &Group, node: NodeId| group.replicas.iter().any(|replica| replica.node == node);
            let movable = groups.iter().rev().find(|group| holds(group, from) && !holds(group, to.id));
            if let Some(Group { id, replicas }) = movable {
                let stay = replicas.iter().copied().filter(|replica| replica.node != from);
                return Some(SiteCommand::SetGroup { group: *id, replicas: stay.chain([to.meta_replica()]).collect() });
            }
        }
    }
    None
}
