//! What should change in a site, given how it is and who is there. The leader of the system group asks this several
//! times a second and proposes what comes out; where nothing should change, nothing does.
//!
//! What always holds: a placement group keeps at least one serving member. When all of them are silent, their copies
//! are still the ones that count, so none is called away; nothing can have been acknowledged without them.

use std::collections::BTreeMap;

use super::{Group, MemberState, Node, NodeStatus, Pg, PgMember, SiteCommand, SiteMap};
use crate::ids::{NodeId, PgEpoch, PgId, ReplicaId};
use crate::limits::{MAX_REPLICATION, MAX_VOTERS, PGS_PER_FACTOR};

/// What the leader of the system group knows of the nodes: heartbeats, never records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of each node; one that is missing is unsure.
    pub nodes: BTreeMap<NodeId, Presence>,
}

/// Whether a node is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was heard of within its lease.
    Alive(Report),
    /// Its lease has run out.
    Silent,
    /// It may hold a lease from an earlier leader.
    Unsure,
}

/// What an alive node said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its disk is full.
    pub full: bool,
    /// Placement groups in which it was behind and has everything now, with the epoch of which this is true.
    pub complete: Vec<(PgId, PgEpoch)>,
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
    commands.extend(groups(map, &nodes, seen));
    let mut pgs: Vec<Pg> = map.pgs.iter().filter_map(|pg| member_states(pg, &nodes, seen)).collect();
    pgs.extend(new_pgs(map, &pgs, &nodes, seen));
    // One command per so many, to stay far below the bound of changes of one entry.
    commands.extend(pgs.chunks(256).map(|pgs| SiteCommand::SetPgs { pgs: pgs.to_vec() }));
    commands
}

fn status(node: &Node, seen: &Seen) -> NodeStatus {
    match seen.nodes.get(&node.id) {
        Some(Presence::Alive(report)) if report.full && node.chunk => NodeStatus::Full,
        Some(Presence::Alive(_)) => NodeStatus::Up,
        Some(Presence::Silent) => NodeStatus::Away,
        Some(Presence::Unsure) | None => node.status,
    }
}

/// Only who was heard of gets new duties: a node that joined may not have been started yet.
fn is_alive(node: &Node, seen: &Seen) -> bool {
    matches!(seen.nodes.get(&node.id), Some(Presence::Alive(_)))
}

/// How many replicas a group should have: an odd number, since an even one tolerates no more failures; two where there
/// are no more than two.
fn voters(meta_nodes: usize) -> usize {
    match meta_nodes.min(MAX_VOTERS) {
        few @ 0..=2 => few,
        many => many - (many + 1) % 2,
    }
}

/// Groups whose replicas should change. Those that hold a group keep it, also while they are away, unless their data
/// folder was made afresh: what they held is gone.
fn groups(map: &SiteMap, nodes: &[Node], seen: &Seen) -> Vec<SiteCommand> {
    let meta: Vec<&Node> = nodes.iter().filter(|node| node.meta).collect();
    let wanted = voters(meta.len());
    let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
    map.groups.iter().flat_map(|group| &group.replicas).for_each(|held_by| *held.entry(held_by.node).or_default() += 1);
    let mut commands = Vec::new();
    for Group { id, replicas } in &map.groups {
        let before = replicas;
        let mut replicas: Vec<ReplicaId> =
            replicas.iter().filter(|replica| !is_lost(**replica, nodes)).copied().collect();
        while replicas.len() < wanted {
            let next = meta
                .iter()
                .filter(|node| is_alive(node, seen) && !replicas.contains(&node.replica()))
                .min_by_key(|node| (held.get(&node.id).copied().unwrap_or_default(), node.id));
            let Some(next) = next else { break };
            *held.entry(next.id).or_default() += 1;
            replicas.push(next.replica());
        }
        if !replicas.is_empty() && replicas != *before {
            commands.push(SiteCommand::SetGroup { group: *id, replicas });
        }
    }
    commands
}

/// Whether the site knows the replica's node in another life, or no more.
fn is_lost(replica: ReplicaId, nodes: &[Node]) -> bool {
    !nodes.iter().any(|node| node.replica() == replica)
}

/// The group with its members' states as they should be, if that is a change.
fn member_states(pg: &Pg, nodes: &[Node], seen: &Seen) -> Option<Pg> {
    let presence = |member: &PgMember| seen.nodes.get(&member.replica.node);
    let lost = |member: &PgMember| is_lost(member.replica, nodes);
    let silent = |member: &PgMember| lost(member) || matches!(presence(member), Some(Presence::Silent));
    let serves = |member: &PgMember| member.state == MemberState::Serving;
    let some_serve_on = pg.members.iter().any(|member| serves(member) && !silent(member));
    let members: Vec<PgMember> = pg
        .members
        .iter()
        .map(|member| {
            if lost(member) {
                // Its data folder was made afresh: it begins with nothing, where others have what it had.
                let anew = nodes.iter().find(|node| node.id == member.replica.node).filter(|_| some_serve_on);
                return match anew {
                    Some(node) => PgMember { replica: node.replica(), state: MemberState::Away },
                    None => *member,
                };
            }
            let state = match (member.state, presence(member)) {
                (MemberState::Serving, Some(Presence::Silent)) if some_serve_on => MemberState::Away,
                (MemberState::Behind, Some(Presence::Silent)) => MemberState::Away,
                (MemberState::Away, Some(Presence::Alive(_))) => MemberState::Behind,
                (MemberState::Behind, Some(Presence::Alive(report)))
                    if report.complete.contains(&(pg.id, pg.epoch)) =>
                {
                    MemberState::Serving
                }
                (same, _) => same,
            };
            PgMember { state, ..*member }
        })
        .collect();
    (members != pg.members).then(|| Pg { epoch: PgEpoch(pg.epoch.0 + 1), members, ..pg.clone() })
}

/// Placement groups for replication factors that have become possible, and for chunk servers that hold none yet.
fn new_pgs(map: &SiteMap, changed: &[Pg], nodes: &[Node], seen: &Seen) -> Vec<Pg> {
    let servers: Vec<&Node> =
        nodes.iter().filter(|node| node.chunk && node.status == NodeStatus::Up && is_alive(node, seen)).collect();
    let mut next = map.pgs.iter().map(|pg| pg.id.0).max().unwrap_or(0) + 1;
    let mut made = Vec::new();
    for factor in 1..=MAX_REPLICATION {
        let copies = usize::from(factor);
        if servers.len() < copies {
            break;
        }
        let of_factor = || map.pgs.iter().chain(changed).filter(|pg| pg.factor == factor);
        let in_use =
            |node: &Node| of_factor().any(|pg| pg.members.iter().any(|member| member.replica == node.replica()));
        // Where each new group begins: round and round over the servers that have none of this factor yet.
        let firsts: Vec<usize> = (0..servers.len()).filter(|at| !in_use(servers[*at])).collect();
        if firsts.is_empty() {
            continue;
        }
        let count = PGS_PER_FACTOR as usize * firsts.len() / servers.len();
        for turn in 0..count.max(firsts.len()) {
            let first = firsts[turn % firsts.len()];
            // Each round of beginnings takes its other members from further away, so that a server's load goes to all
            // the others when it fails.
            let stride = 1 + turn / firsts.len() % (servers.len() - 1).max(1);
            let mut members = vec![first];
            let mut at = first;
            while members.len() < copies {
                at = (at + stride) % servers.len();
                while members.contains(&at) {
                    at = (at + 1) % servers.len();
                }
                members.push(at);
            }
            let members = members
                .into_iter()
                .map(|at| PgMember { replica: servers[at].replica(), state: MemberState::Serving })
                .collect();
            made.push(Pg { id: PgId(next), factor, epoch: PgEpoch(1), members });
            next += 1;
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, Incarnation};

    fn node(id: u32) -> Node {
        Node {
            id: NodeId(id),
            incarnation: Incarnation(u64::from(id) * 7),
            addr: format!("n{id}:7400"),
            meta: true,
            chunk: true,
            status: NodeStatus::Up,
        }
    }

    fn site(nodes: u32) -> SiteMap {
        let groups = (0..=2).map(|id| Group { id: GroupId(id), replicas: vec![node(1).replica()] }).collect();
        SiteMap { version: 1, nodes: (1..=nodes).map(node).collect(), groups, ..SiteMap::default() }
    }

    fn seen(nodes: &[(u32, Presence)]) -> Seen {
        Seen { nodes: nodes.iter().map(|(id, presence)| (NodeId(*id), presence.clone())).collect() }
    }

    fn alive() -> Presence {
        Presence::Alive(Report::default())
    }

    /// What applying the commands makes of the map, for what the planner needs of it.
    fn carry_out(map: &mut SiteMap, commands: Vec<SiteCommand>) {
        for command in commands {
            match command {
                SiteCommand::NodeStatus { changes } => changes.into_iter().for_each(|(id, status)| {
                    map.nodes.iter_mut().filter(|node| node.id == id).for_each(|node| node.status = status);
                }),
                SiteCommand::SetGroup { group, replicas } => {
                    map.groups
                        .iter_mut()
                        .filter(|known| known.id == group)
                        .for_each(|known| known.replicas = replicas.clone());
                }
                SiteCommand::SetPgs { pgs } => {
                    for pg in pgs {
                        match map.pgs.iter_mut().find(|known| known.id == pg.id) {
                            Some(known) => {
                                assert_eq!(pg.epoch.0, known.epoch.0 + 1);
                                *known = pg;
                            }
                            None => {
                                assert_eq!(pg.epoch, PgEpoch(1));
                                map.pgs.push(pg);
                            }
                        }
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Plans and carries out until nothing is left to do.
    fn settle(map: &mut SiteMap, seen: &Seen) {
        for _ in 0..3 {
            let commands = plan(map, seen);
            carry_out(map, commands);
        }
        assert_eq!(plan(map, seen), vec![], "a plan carried out leaves nothing to plan");
    }

    fn states(map: &SiteMap, factor: u8, node: u32) -> Vec<MemberState> {
        let of = |pg: &&Pg| pg.factor == factor;
        let members = map.pgs.iter().filter(of).flat_map(|pg| &pg.members);
        members.filter(|member| member.replica.node == NodeId(node)).map(|member| member.state).collect()
    }

    #[test]
    fn groups_get_an_odd_number_of_voters_and_factors_their_placement_groups() {
        for (nodes, voters, factors) in [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 3, 3), (7, 5, 3)] {
            let mut map = site(nodes);
            let there: Vec<_> = (1..=nodes).map(|id| (id, alive())).collect();
            settle(&mut map, &seen(&there));
            assert!(map.groups.iter().all(|group| group.replicas.len() == voters), "{nodes} nodes: {:?}", map.groups);
            assert_eq!(map.pgs.iter().map(|pg| pg.factor).max(), Some(factors));
            for pg in &map.pgs {
                let mut members: Vec<_> = pg.members.iter().map(|member| member.replica).collect();
                members.sort();
                members.dedup();
                assert_eq!(members.len(), usize::from(pg.factor), "{pg:?}");
            }
            for factor in 1..=factors {
                assert!((1..=nodes).all(|id| !states(&map, factor, id).is_empty()), "{nodes} nodes, factor {factor}");
            }
        }
    }

    #[test]
    fn a_site_that_grows_gets_placement_groups_on_what_is_new() {
        let mut map = site(1);
        settle(&mut map, &seen(&[(1, alive())]));
        assert_eq!(map.pgs.len(), PGS_PER_FACTOR as usize);
        map.nodes.push(node(2));
        settle(&mut map, &seen(&[(1, alive()), (2, alive())]));
        assert_eq!(states(&map, 1, 2).len(), PGS_PER_FACTOR as usize / 2);
        assert_eq!(states(&map, 2, 2).len(), PGS_PER_FACTOR as usize);
    }

    #[test]
    fn a_silent_member_goes_away_comes_back_behind_and_serves_when_complete() {
        let mut map = site(3);
        settle(&mut map, &seen(&[(1, alive()), (2, alive()), (3, alive())]));
        settle(&mut map, &seen(&[(1, alive()), (2, alive()), (3, Presence::Silent)]));
        assert_eq!(map.nodes[2].status, NodeStatus::Away);
        assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Away));
        assert!(states(&map, 1, 3).iter().all(|state| *state == MemberState::Serving), "the only copy still counts");
        settle(&mut map, &seen(&[(1, alive()), (2, alive()), (3, alive())]));
        assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Behind));
        let complete = |map: &SiteMap, back: u64| {
            let complete = map.pgs.iter().map(|pg| (pg.id, PgEpoch(pg.epoch.0 - back))).collect();
            Presence::Alive(Report { complete, full: false })
        };
        let late = seen(&[(1, alive()), (2, alive()), (3, complete(&map, 1))]);
        assert_eq!(plan(&map, &late), vec![], "complete at an earlier epoch says nothing");
        let now = seen(&[(1, alive()), (2, alive()), (3, complete(&map, 0))]);
        settle(&mut map, &now);
        assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Serving));
        assert!(map.pgs.iter().filter(|pg| pg.factor == 3).all(|pg| pg.epoch == PgEpoch(4)));
    }

    #[test]
    fn a_node_whose_folder_was_made_afresh_begins_with_nothing() {
        let mut map = site(3);
        let all = seen(&[(1, alive()), (2, alive()), (3, alive())]);
        settle(&mut map, &all);
        map.nodes[2].incarnation = Incarnation(99);
        let anew = map.nodes[2].replica();
        settle(&mut map, &all);
        assert!(map.groups.iter().all(|group| group.replicas.len() == 3 && group.replicas.contains(&anew)));
        assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Behind), "{:?}", states(&map, 3, 3));
        for pg in map.pgs.iter().filter(|pg| pg.factor > 1) {
            assert!(
                pg.members.iter().all(|member| member.replica.node != NodeId(3) || member.replica == anew),
                "{pg:?}"
            );
        }
        let new = map.pgs.iter().filter(|pg| pg.factor == 1 && pg.members[0].replica == anew).count();
        assert!(new > 0, "what it held alone is lost, and it takes new chunks in new placement groups");
    }

    #[test]
    fn the_last_serving_members_are_never_called_away() {
        let mut map = site(3);
        settle(&mut map, &seen(&[(1, alive()), (2, alive()), (3, alive())]));
        settle(&mut map, &seen(&[(1, Presence::Silent), (2, Presence::Silent), (3, Presence::Unsure)]));
        settle(&mut map, &seen(&[(1, Presence::Silent), (2, Presence::Silent), (3, Presence::Silent)]));
        for pg in &map.pgs {
            assert!(pg.members.iter().any(|member| member.state == MemberState::Serving), "{pg:?}");
        }
        assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Serving));
    }

    #[test]
    fn who_is_unsure_keeps_its_status_and_who_is_full_gets_no_new_groups() {
        let mut map = site(2);
        map.nodes[1].status = NodeStatus::Away;
        let full = Presence::Alive(Report { full: true, ..Report::default() });
        settle(&mut map, &seen(&[(1, full)]));
        assert_eq!([map.nodes[0].status, map.nodes[1].status], [NodeStatus::Full, NodeStatus::Away]);
        assert!(map.pgs.is_empty());
        assert!(map.groups.iter().all(|group| group.replicas.len() == 1), "an away node gets no replicas");
    }
}
