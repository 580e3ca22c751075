use super::*;
use crate::ids::{GroupId, Incarnation};
use crate::limits::{PGS_PER_FACTOR, SPREADS_AT_ONCE};
use crate::site::{Group, MemberState, PgPast};

fn node(id: u32) -> Node {
    Node {
        id: NodeId(id),
        incarnation: Incarnation(u64::from(id) * 7),
        addr: format!("n{id}:7400"),
        meta: true,
        chunk: true,
        ..Node::default()
    }
}

fn site(nodes: u32) -> SiteMap {
    let groups = (0..=2).map(|id| Group { id: GroupId(id), replicas: vec![node(1).replica()] }).collect();
    SiteMap { version: 1, nodes: (1..=nodes).map(node).collect(), groups, ..SiteMap::default() }
}

fn seen(nodes: &[(u32, Presence)]) -> Seen {
    let nodes = nodes.iter().map(|(id, presence)| (NodeId(*id), presence.clone())).collect();
    Seen { nodes, repair_after_ms: 1000 }
}

fn all_alive(nodes: u32) -> Seen {
    seen(&(1..=nodes).map(|id| (id, alive())).collect::<Vec<_>>())
}

fn alive() -> Presence {
    Presence::Alive(Report::default())
}

fn silent(for_ms: u64) -> Presence {
    Presence::Silent { for_ms }
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
            SiteCommand::SetPgs { pgs } => pgs.into_iter().for_each(|pg| set_pg(map, pg)),
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn set_pg(map: &mut SiteMap, pg: Pg) {
    let none = PgPast { pg: pg.id, ..PgPast::default() };
    let past = map.pasts.iter().find(|past| past.pg == pg.id).unwrap_or(&none).then(&pg);
    map.pasts.retain(|past| past.pg != pg.id);
    map.pasts.push(past);
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

/// Every alive server has done what its state asks for.
fn done(map: &SiteMap, seen: &Seen) -> Seen {
    let complete: Vec<_> = map.pgs.iter().map(|pg| (pg.id, pg.epoch)).collect();
    let mut seen = seen.clone();
    for presence in seen.nodes.values_mut() {
        if let Presence::Alive(report) = presence {
            report.complete = complete.clone();
        }
    }
    seen
}

/// Plans and carries out until nothing is left to do, with servers that have done nothing yet.
fn settle(map: &mut SiteMap, seen: &Seen) {
    for _ in 0..4 {
        let commands = plan(map, seen);
        carry_out(map, commands);
    }
    assert_eq!(plan(map, seen), vec![], "a plan carried out leaves nothing to plan");
}

/// The same with servers that copy and let go at once.
fn come_to_rest(map: &mut SiteMap, seen: &Seen) {
    for _ in 0..200 {
        let commands = plan(map, &done(map, seen));
        if commands.is_empty() {
            return;
        }
        carry_out(map, commands);
    }
    panic!("the plan does not end: {:?}", plan(map, &done(map, seen)));
}

fn states(map: &SiteMap, factor: u8, node: u32) -> Vec<MemberState> {
    let of = |pg: &&Pg| pg.factor == factor;
    let members = map.pgs.iter().filter(of).flat_map(|pg| &pg.members);
    members.filter(|member| member.replica.node == NodeId(node)).map(|member| member.state).collect()
}

fn held(map: &SiteMap, node: u32) -> usize {
    (1..=3).map(|factor| states(map, factor, node).len()).sum()
}

#[test]
fn groups_get_an_odd_number_of_voters_and_factors_their_placement_groups() {
    for (nodes, voters, factors) in [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 3, 3), (7, 5, 3)] {
        let mut map = site(nodes);
        settle(&mut map, &all_alive(nodes));
        assert!(map.groups.iter().all(|group| group.replicas.len() == voters), "{nodes} nodes: {:?}", map.groups);
        assert_eq!(map.pgs.iter().map(|pg| pg.factor).max(), Some(factors));
        for pg in &map.pgs {
            let mut members: Vec<_> = pg.members.iter().map(|member| member.replica).collect();
            members.sort();
            members.dedup();
            assert_eq!(members.len(), usize::from(pg.factor), "{pg:?}");
        }
        for factor in 1..=factors {
            let held: Vec<usize> = (1..=nodes).map(|node| states(&map, factor, node).len()).collect();
            let (least, most) = (held.iter().min().copied(), held.iter().max().copied());
            assert!(least.zip(most).is_some_and(|(least, most)| most <= least + 1), "{nodes} nodes: {held:?}");
        }
    }
}

#[test]
fn a_node_that_joins_gets_its_share_a_few_at_a_time() {
    let mut map = site(3);
    settle(&mut map, &all_alive(3));
    map.nodes.push(node(4));
    let first = plan(&map, &all_alive(4));
    carry_out(&mut map, first);
    assert_eq!(held(&map, 4), SPREADS_AT_ONCE);
    come_to_rest(&mut map, &all_alive(4));
    for factor in 1..=3 {
        let share = PGS_PER_FACTOR as usize * usize::from(factor) / 4;
        assert!((1..=4).all(|node| states(&map, factor, node).len() == share), "factor {factor}: {:?}", map.pgs);
    }
}

#[test]
fn a_silent_member_goes_away_comes_back_behind_and_serves_when_complete() {
    let mut map = site(3);
    settle(&mut map, &all_alive(3));
    settle(&mut map, &seen(&[(1, alive()), (2, alive()), (3, silent(10))]));
    assert_eq!(map.nodes[2].status, NodeStatus::Away);
    assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Away));
    assert!(states(&map, 1, 3).iter().all(|state| *state == MemberState::Serving), "the only copy still counts");
    settle(&mut map, &all_alive(3));
    assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Behind));
    let complete = |map: &SiteMap, back: u64| {
        let complete = map.pgs.iter().map(|pg| (pg.id, PgEpoch(pg.epoch.0 - back))).collect();
        Presence::Alive(Report { complete, ..Report::default() })
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
    settle(&mut map, &all_alive(3));
    map.nodes[2].incarnation = Incarnation(99);
    let anew = map.nodes[2].replica();
    settle(&mut map, &all_alive(3));
    assert!(map.groups.iter().all(|group| group.replicas.len() == 3 && group.replicas.contains(&anew)));
    assert!(states(&map, 3, 3).iter().all(|state| *state == MemberState::Behind), "{:?}", states(&map, 3, 3));
    for pg in map.pgs.iter().filter(|pg| pg.factor > 1) {
        assert!(pg.members.iter().all(|member| member.replica.node != NodeId(3) || member.replica == anew), "{pg:?}");
    }
    let new = map.pgs.iter().filter(|pg| pg.factor == 1 && pg.members[0].replica == anew).count();
    assert!(new > 0, "what it held alone is lost, and it takes new chunks in new placement groups");
}

#[test]
fn the_last_serving_members_are_never_called_away() {
    let mut map = site(3);
    settle(&mut map, &all_alive(3));
    settle(&mut map, &seen(&[(1, silent(10)), (2, silent(10)), (3, Presence::Unsure)]));
    settle(&mut map, &seen(&[(1, silent(5000)), (2, silent(5000)), (3, silent(5000))]));
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

#[test]
fn who_is_away_for_long_is_replaced_and_not_missed_when_it_comes_back() {
    let mut map = site(4);
    settle(&mut map, &all_alive(4));
    let without = |for_ms| seen(&[(1, alive()), (2, alive()), (3, silent(for_ms)), (4, alive())]);
    settle(&mut map, &without(999));
    assert!(!states(&map, 3, 3).is_empty() && states(&map, 3, 3).iter().all(|state| *state == MemberState::Away));
    come_to_rest(&mut map, &without(1000));
    assert!(states(&map, 2, 3).is_empty() && states(&map, 3, 3).is_empty(), "others have taken its place");
    assert!(map.groups.iter().all(|group| group.replicas.len() == 3 && group.replicas != [node(3).replica()]));
    assert!(map.groups.iter().all(|group| group.replicas.iter().all(|replica| replica.node != NodeId(3))));
    come_to_rest(&mut map, &all_alive(4));
    assert!(states(&map, 3, 3).len() >= PGS_PER_FACTOR as usize / 2, "it gets its share like a new one");
}

#[test]
fn a_drained_node_leaves_only_when_others_serve_and_has_adopted_it() {
    let mut map = site(4);
    settle(&mut map, &all_alive(4));
    map.nodes[3].draining = true;
    let held_before = held(&map, 4);
    settle(&mut map, &all_alive(4));
    assert_eq!(held(&map, 4), held_before, "nobody has copied anything yet");
    assert!(states(&map, 3, 4).iter().all(|state| *state == MemberState::Serving));
    // The others copy, and node 4 says nothing: it is told to leave, and stays a member.
    for _ in 0..100 {
        let mut said = done(&map, &all_alive(4));
        said.nodes.insert(NodeId(4), alive());
        let commands = plan(&map, &said);
        carry_out(&mut map, commands);
    }
    assert_eq!(held(&map, 4), held_before);
    assert!((1..=3).all(|factor| states(&map, factor, 4).iter().all(|state| *state == MemberState::Leaving)));
    assert!(!drain::remaining(&map, NodeId(4)).is_none());
    come_to_rest(&mut map, &all_alive(4));
    assert_eq!((held(&map, 4), drain::remaining(&map, NodeId(4)).is_none()), (0, true));
    assert!(map.groups.iter().all(|group| group.replicas.iter().all(|replica| replica.node != NodeId(4))));
}

#[test]
fn a_drain_that_leads_nowhere_says_why() {
    let mut map = site(3);
    settle(&mut map, &all_alive(3));
    map.nodes[2].draining = true;
    come_to_rest(&mut map, &all_alive(3));
    let left = drain::remaining(&map, NodeId(3));
    assert_eq!((left.pgs, left.groups.len()), (PGS_PER_FACTOR as usize, 3), "only what keeps 3 copies is left");
    let [chunks, meta] = &left.stalls[..] else { panic!("{left:?}") };
    assert!(chunks.contains("3 other chunk nodes with room are needed, there are 2"), "{chunks}");
    assert!(meta.contains("3 other meta nodes are needed, there are 2"), "{meta}");
}

#[test]
fn members_stand_apart_where_they_can() {
    let mut map = site(4);
    for (node, rack) in map.nodes.iter_mut().zip(["r1", "r1", "r2", "r2"]) {
        node.labels.rack = rack.into();
    }
    settle(&mut map, &all_alive(4));
    let rack = |map: &SiteMap, member: &PgMember| map.nodes[member.replica.node.0 as usize - 1].labels.rack.clone();
    for pg in map.pgs.iter().filter(|pg| pg.factor == 2) {
        assert_ne!(rack(&map, &pg.members[0]), rack(&map, &pg.members[1]), "{pg:?}");
    }
    // A rack's label was wrong: what now stands together moves apart.
    map.nodes[1].labels.rack = "r2".into();
    come_to_rest(&mut map, &all_alive(4));
    for pg in map.pgs.iter().filter(|pg| pg.factor == 2) {
        assert_ne!(rack(&map, &pg.members[0]), rack(&map, &pg.members[1]), "{pg:?}");
    }
}

#[test]
fn much_larger_disks_hold_more() {
    let mut map = site(4);
    let mut seen = all_alive(4);
    for (node, size) in [(1, 100), (2, 100), (3, 100), (4, 300)] {
        let report = Report { total_bytes: size << 30, ..Report::default() };
        seen.nodes.insert(NodeId(node), Presence::Alive(report));
    }
    come_to_rest(&mut map, &seen);
    let held = |node| states(&map, 1, node).len();
    assert!((7..=9).contains(&held(4)) && (1..=3).all(|node| (2..=4).contains(&held(node))), "{:?}", map.pgs);
}

/// A group of two copies on nodes 1 and 2, of a site with nodes 1 to 3.
fn pair() -> SiteMap {
    let mut map = site(3);
    settle(&mut map, &all_alive(3));
    let members = [1, 2].map(|id| PgMember { replica: node(id).replica(), state: MemberState::Serving });
    map.pgs.truncate(0);
    map.pasts.truncate(0);
    set_pg(&mut map, Pg { id: PgId(1), factor: 2, epoch: PgEpoch(1), members: members.into() });
    map
}

#[test]
fn who_served_when_the_last_chunk_was_taken_serves_again_when_all_others_are_lost() {
    let mut map = pair();
    let [first, second] = [node(1).replica(), node(2).replica()];
    // Node 2 goes away: with one copy left nothing is acknowledged. Then node 1 loses its folder.
    let away = |replica, state| PgMember { replica, state };
    let members = vec![away(first, MemberState::Serving), away(second, MemberState::Away)];
    let pg = Pg { epoch: PgEpoch(2), members, ..map.pgs[0].clone() };
    set_pg(&mut map, pg);
    map.nodes[0].incarnation = Incarnation(99);
    let commands = plan(&map, &all_alive(3));
    carry_out(&mut map, commands);
    assert!(map.pgs[0].members.contains(&away(second, MemberState::Serving)), "{:?}", map.pgs[0]);
    come_to_rest(&mut map, &all_alive(3));
    assert!(map.pgs[0].members.iter().all(|member| member.state == MemberState::Serving));
}

#[test]
fn who_may_lack_something_does_not_serve_though_all_others_are_lost() {
    let mut map = pair();
    let [first, second, third] = [1, 2, 3].map(|id| node(id).replica());
    let member = |replica, state| PgMember { replica, state };
    // Node 2 goes away, and node 3 copies from node 1 and takes what is new: node 2 lacks that, node 3 what is old.
    let members = vec![
        member(first, MemberState::Serving),
        member(second, MemberState::Away),
        member(third, MemberState::Behind),
    ];
    let pg = Pg { epoch: PgEpoch(2), members, ..map.pgs[0].clone() };
    set_pg(&mut map, pg);
    map.nodes[0].incarnation = Incarnation(99);
    for _ in 0..5 {
        let commands = plan(&map, &all_alive(3));
        carry_out(&mut map, commands);
    }
    let served = map.pgs[0].members.iter().filter(|member| member.state == MemberState::Serving);
    assert_eq!(served.map(|member| member.replica).collect::<Vec<_>>(), [first], "{:?}", map.pgs[0]);
}

#[test]
fn groups_that_nobody_serves_do_not_make_others_move_to_and_fro() {
    let (mut map, seen) = (site(3), all_alive(3));
    let serving = |replica| PgMember { replica, state: MemberState::Serving };
    // Node 3 holds all groups of one copy, so that some should move to nodes 1 and 2.
    for id in 1..=PGS_PER_FACTOR {
        set_pg(&mut map, Pg { id: PgId(id), factor: 1, epoch: PgEpoch(1), members: vec![serving(node(3).replica())] });
    }
    // Behind them are groups that were just moving from node 1 to node 2 when both lost their folders. Nobody serves
    // them, so nobody can be told to go: they keep a member too many, in the name of two nodes that are there.
    let earlier = |id| ReplicaId { incarnation: Incarnation(1), ..node(id).replica() };
    for id in PGS_PER_FACTOR + 1..=2 * PGS_PER_FACTOR {
        let members = vec![serving(earlier(1)), serving(earlier(2))];
        set_pg(&mut map, Pg { id: PgId(id), factor: 1, epoch: PgEpoch(1), members });
    }
    come_to_rest(&mut map, &seen);
    let waiting = map.pgs.iter().filter(|pg| pg.members.len() == 2 && pg.factor == 1).count();
    assert_eq!(waiting, PGS_PER_FACTOR as usize, "they wait for those who served them");
}

#[test]
fn a_meta_node_that_joins_gets_its_share_of_replicas_one_group_at_a_time() {
    let mut map = site(3);
    map.groups = (0..=7).map(|id| Group { id: GroupId(id), replicas: vec![node(1).replica()] }).collect();
    settle(&mut map, &all_alive(3));
    let held = |map: &SiteMap| -> Vec<usize> {
        let replicas = || map.groups.iter().flat_map(|group| &group.replicas);
        (1..=4).map(|id| replicas().filter(|replica| replica.node == NodeId(id)).count()).collect()
    };
    assert_eq!(held(&map), [8, 8, 8, 0]);
    // It gave up a log before: in the groups it is the one that it is now.
    map.nodes.push(Node { lost_logs: 1, ..node(4) });
    // Nothing moves while a node is away, or does not take part yet.
    let without = |id| seen(&(1..=4).filter(|other| *other != id).map(|id| (id, alive())).collect::<Vec<_>>());
    for id in 1..=4 {
        assert!(!plan(&map, &without(id)).iter().any(|command| matches!(command, SiteCommand::SetGroup { .. })));
    }
    let mut before = held(&map);
    for _ in 0..20 {
        let commands = plan(&map, &done(&map, &all_alive(4)));
        let moves = commands.iter().filter(|command| matches!(command, SiteCommand::SetGroup { .. })).count();
        carry_out(&mut map, commands);
        let now = held(&map);
        assert!(moves <= 1 && now[3] <= before[3] + 1, "{before:?} then {now:?}");
        assert!(map.groups.iter().all(|group| group.replicas.len() == 3));
        before = now;
    }
    assert_eq!(before, [6, 6, 6, 6]);
    let known = |replica: &ReplicaId| map.nodes.iter().any(|node| node.meta_replica() == *replica);
    assert!(map.groups.iter().all(|group| group.replicas.iter().all(known)));
    come_to_rest(&mut map, &all_alive(4));
    assert_eq!(held(&map), before, "and stays so");
    map.nodes[3].draining = true;
    come_to_rest(&mut map, &all_alive(4));
    assert_eq!(held(&map), [8, 8, 8, 0]);
}
