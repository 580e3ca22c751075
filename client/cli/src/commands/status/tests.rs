//! What counts as healthy, and what is said when it is not.

use weft_client::site::{Group, Node, Pg, PgMember, Volume};
use weft_client::{GroupId, GroupReport, SlotId, SpaceId, Timestamp, ViewId, VolumeId};
use weft_core::ids::{Incarnation, PgEpoch, PgId, ReplicaId, SiteId, TenantId};

use super::*;

fn replica(node: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: Incarnation(u64::from(node) << 40) }
}

/// Three nodes, two groups led by node 1, one placement group, the root volume.
fn site() -> (SiteMap, BTreeMap<NodeId, NodeReport>) {
    let nodes = (1..=3).map(|n| Node {
        id: NodeId(n),
        incarnation: replica(n).incarnation,
        addr: format!("127.0.0.1:{}", 7398 + 2 * n),
        meta: true,
        chunk: true,
        ..Node::default()
    });
    let groups = (0..2).map(|id| Group { id: GroupId(id), replicas: (1..=3).map(replica).collect() });
    let members = (1..=3).map(|n| PgMember { replica: replica(n), state: MemberState::Serving }).collect();
    let volume = Volume {
        id: VolumeId(1),
        name: "root".into(),
        space: SpaceId(1),
        group: GroupId(1),
        slot: SlotId(1),
        view: ViewId(1),
        replication: 3,
        tenant: TenantId(0),
        created: Timestamp::default(),
        ready: true,
        token: 0,
        deleting: false,
    };
    let map = SiteMap {
        version: 9,
        site: SiteId(0xabcdef),
        name: "lab".into(),
        nodes: nodes.collect(),
        groups: groups.collect(),
        volumes: vec![volume],
        pgs: vec![Pg { id: PgId(1), factor: 3, epoch: PgEpoch(1), members }],
        pasts: vec![],
    };
    let report = |n: u32| {
        let group = |id| GroupReport {
            group: GroupId(id),
            leader: n == 1,
            leader_node: Some(NodeId(1)),
            term: 2,
            committed: 1000,
            applied: if n == 3 { 10 } else { 1000 },
            voters: (1..=3).map(NodeId).collect(),
            ..GroupReport::default()
        };
        let groups = vec![group(0), group(1)];
        NodeReport { node: NodeId(n), version: "0.1.0".into(), groups, uptime_ms: 61_000, ..NodeReport::default() }
    };
    (map, (1..=3).map(|n| (NodeId(n), report(n))).collect())
}

#[test]
fn all_is_well() {
    let (map, reports) = site();
    let status = status(&map, &reports);
    assert!(status.healthy, "{:?}", status.problems);
    let text = text(&status);
    assert!(text.starts_with("site lab (abcdef): healthy\n"), "{text}");
    assert!(text.contains("   1  127.0.0.1:7400  meta, chunk  up       1m 1s  0.1.0 "), "{text}");
    assert!(text.contains("0 (system)       1  1 2 3        2       1000  3 by 990"), "{text}");
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["healthy"], true);
    assert_eq!(json["groups"][1]["leader"], 1);
    assert_eq!(json["nodes"][2]["status"], "up");
    assert_eq!(json["placement"][0]["members"][0]["state"], "serving");
}

#[test]
fn every_thing_that_is_wrong_is_said() {
    let problems = |change: fn(&mut SiteMap, &mut BTreeMap<NodeId, NodeReport>)| {
        let (mut map, mut reports) = site();
        change(&mut map, &mut reports);
        let status = status(&map, &reports);
        assert!(!status.healthy);
        status.problems.join("; ")
    };
    let said = problems(|map, _| map.nodes[1].status = NodeStatus::Away);
    assert_eq!(said, "node 2 at 127.0.0.1:7402 is away");
    let said = problems(|_, reports| drop(reports.remove(&NodeId(2))));
    assert_eq!(said, "node 2 at 127.0.0.1:7402 does not answer");
    let said = problems(|_, reports| reports.get_mut(&NodeId(2)).unwrap().groups.truncate(1));
    assert_eq!(said, "group 1: node 2 does not serve its replica");
    let said = problems(|_, reports| reports.values_mut().for_each(|report| report.groups[1].leader = false));
    assert_eq!(said, "group 1 has no leader");
    let said = problems(|map, _| map.groups[0].replicas.truncate(2));
    assert!(said.contains("group 0 has 2 of 3 replicas"), "{said}");
    let said = problems(|_, reports| reports.get_mut(&NodeId(1)).unwrap().groups[0].voters.truncate(2));
    assert_eq!(said, "group 0 is still taking in or letting go of members");
    let said = problems(|_, reports| reports.get_mut(&NodeId(1)).unwrap().groups[0].changing = true);
    assert_eq!(said, "group 0 is still taking in or letting go of members");
    // A former life of a node that lost its folder or gave up its log may still vote in the books of the leader.
    let said = problems(|_, reports| {
        let former = vec![replica(1).incarnation, Incarnation(7), replica(3).incarnation];
        reports.get_mut(&NodeId(1)).unwrap().groups[0].voter_lives = former;
    });
    assert_eq!(said, "group 0 is still taking in or letting go of members");
    let said = problems(|map, _| map.nodes[1].lost_logs = 1);
    assert!(said.contains("group 1: node 2 lost its replica and has no new one yet"), "{said}");
    let said = problems(|_, reports| reports.get_mut(&NodeId(3)).unwrap().groups[1].rebuilding = true);
    assert_eq!(said, "group 1: node 3 is rebuilding its records");
    let said = problems(|map, _| map.pgs[0].members[0].state = MemberState::Behind);
    assert_eq!(said, "1 of 1 placement groups for 3 copies are not whole");
    let said = problems(|map, _| {
        map.nodes[0].incarnation = Incarnation(99);
        map.pgs[0].members.truncate(1);
    });
    assert!(said.contains("placement group 1: the data of node 1, which had all of it, is lost"), "{said}");
    let said = problems(|_, reports| {
        reports.get_mut(&NodeId(3)).unwrap().chunk_health =
            ChunkHealth { waiting: 5, unhealed: 2, ..ChunkHealth::default() };
    });
    assert_eq!(said, "node 3: 5 damaged or missing chunks are not healed, 2 of them whole on no member that was asked");
    let said = problems(|_, reports| {
        let (groups, chunks, bytes, done_bytes) = (2, 7, 3 << 20, 1 << 20);
        let catch_up = CatchUp { groups, chunks, bytes, done_chunks: 3, done_bytes, ms: 2000 };
        reports.get_mut(&NodeId(2)).unwrap().chunk_health.catch_up = catch_up;
    });
    assert_eq!(said, "node 2 catches up: 7 chunks (3.0 MiB) to fetch, 25 % done, 512 KiB/s, 6s left");
    let said = problems(|map, _| map.pgs.clear());
    assert_eq!(said, "there is no placement yet for 3 copies");
    let said = problems(|map, _| map.volumes[0].ready = false);
    assert_eq!(said, "volume root is still being made");
}

#[test]
fn what_is_mended_is_healthy_and_noted() {
    let (map, mut reports) = site();
    let report = reports.get_mut(&NodeId(2)).unwrap();
    (report.lost_logs, report.lost_records) = (1, 2);
    let status = status(&map, &reports);
    assert!(status.healthy, "{:?}", status.problems);
    let text = text(&status);
    assert!(text.contains("(mended: node 2 gave up a damaged Raft log once since"), "{text}");
    assert!(text.contains("(mended: node 2 found records of a group damaged 2 times since its start)"), "{text}");
}

#[test]
fn what_moves_is_whole_and_a_drained_node_is_not_missed() {
    let (mut map, mut reports) = site();
    map.nodes.push(Node { id: NodeId(4), status: NodeStatus::Away, draining: true, ..map.nodes[0].clone() });
    reports.remove(&NodeId(4));
    map.pgs[0].members.push(PgMember { replica: replica(2), state: MemberState::Behind });
    let status = status(&map, &reports);
    assert!(status.healthy, "{:?}", status.problems);
    assert!(text(&status).contains("drained"), "{}", text(&status));
    assert!(status.placement[0].moving);
}

#[test]
fn of_two_leaders_the_newer_leads() {
    let (map, mut reports) = site();
    for group in &mut reports.get_mut(&NodeId(2)).unwrap().groups {
        group.leader = true;
        group.term = 3;
    }
    assert_eq!(status(&map, &reports).groups[0].leader, Some(2));
}

#[test]
fn a_certificate_that_was_not_renewed_is_a_problem() {
    let told = |until| {
        let mut problems = Vec::new();
        certificate_problem(3, until, 1_000_000_000, &mut problems);
        problems
    };
    assert!(told(0).is_empty(), "plain text");
    assert!(told(1_000_000_000 + 22 * 86_400).is_empty());
    assert_eq!(told(1_000_000_000 + 5 * 86_400).len(), 1);
}
