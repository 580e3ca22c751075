//! Placement that heals: random sites, in which nodes join, die, come back, lose their folders, are drained and moved to
//! other racks, while chunks are written. What the planner wants is applied by the machine that applies it in a node.
//!
//! At every step: who serves has every chunk that was acknowledged, and the planner tells nobody to go whose copy is
//! needed. In the end the plan ends, and everything is whole, apart, and fairly spread, as far as the nodes allow.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use weft_core::entry::{Command, Entry};
use weft_core::ids::{GroupId, Incarnation, NodeId, PgId, ReplicaId, SiteId};
use weft_core::limits::MAX_REPLICATION;
use weft_core::machine;
use weft_core::site::plan::{Presence, Report, Seen, plan};
use weft_core::site::{self, Labels, MemberState, Node, NodeJoin, Pg, PgMember, SiteCommand, SiteMap, fewest};
use weft_core::time::Timestamp;

const REPAIR_AFTER_MS: u64 = 1000;
/// Looks within which every plan must end.
const LOOKS: usize = 600;

#[derive(Clone, Debug)]
enum Event {
    Join,
    /// A node falls silent, for long enough to be replaced or not.
    Die(usize, bool),
    Return(usize),
    /// A silent node's folder is lost, and a new one takes its place.
    Wipe(usize),
    Drain(usize, bool),
    Move(usize, u8),
    /// Another leader that has heard of nobody yet.
    Elect,
    Look(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Join),
        3 => (0..9usize, any::<bool>()).prop_map(|(node, long)| Event::Die(node, long)),
        2 => (0..9usize).prop_map(Event::Return),
        1 => (0..9usize).prop_map(Event::Wipe),
        2 => (0..9usize, any::<bool>()).prop_map(|(node, on)| Event::Drain(node, on)),
        1 => (0..9usize, 0..4u8).prop_map(|(node, rack)| Event::Move(node, rack)),
        1 => Just(Event::Elect),
        6 => (1..12u8).prop_map(Event::Look),
    ]
}

/// A node as it is, whatever the site thinks.
#[derive(Clone, Debug)]
struct Server {
    replica: ReplicaId,
    silent_ms: Option<u64>,
    held: BTreeMap<PgId, BTreeSet<u64>>,
}

struct World {
    records: BTreeMap<Bytes, Bytes>,
    servers: Vec<Server>,
    acked: BTreeMap<PgId, BTreeSet<u64>>,
    unsure: bool,
    racks: u8,
    next: u64,
}

impl World {
    fn new(nodes: usize, racks: u8) -> World {
        let mut world = World {
            records: BTreeMap::new(),
            servers: Vec::new(),
            acked: BTreeMap::new(),
            unsure: false,
            racks,
            next: 0,
        };
        for _ in 0..nodes {
            world.join();
        }
        world
    }

    fn ask(&mut self, command: SiteCommand) {
        let entry = Entry { time: Timestamp::from_nanos(5), caller: None, command: Command::Site(command.clone()) };
        let applied = machine::apply(&self.records, GroupId::SYSTEM, &entry).expect("a map in memory does not fail");
        assert!(applied.reply.is_ok(), "{command:?}: {:?}", applied.reply);
        for (key, change) in applied.changes {
            match change {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
    }

    fn map(&self) -> SiteMap {
        site::map(&self.records).expect("a map in memory does not fail")
    }

    fn join(&mut self) {
        let number = self.servers.len() as u32 + 1;
        self.next += 1;
        let replica = ReplicaId { node: NodeId(number), incarnation: Incarnation(1000 + self.next) };
        let addr = format!("n{number}:7400");
        let first = NodeJoin { incarnation: replica.incarnation, addr, meta: true, chunk: true };
        self.ask(match number {
            1 => SiteCommand::Init { site: SiteId(7), name: "here".into(), groups: 2, replication: 3, first },
            _ => SiteCommand::Join(first),
        });
        self.servers.push(Server { replica, silent_ms: None, held: BTreeMap::new() });
        let rack = number as u8 % self.racks.max(1);
        self.rack(number as usize - 1, rack);
    }

    fn rack(&mut self, at: usize, rack: u8) {
        if self.racks == 0 {
            return;
        }
        let replica = self.servers[at].replica;
        let labels = Labels { host: format!("h{at}"), rack: format!("r{rack}"), zone: format!("z{}", rack / 2) };
        self.ask(SiteCommand::UpdateNode { replica, addr: format!("n{}:7400", at + 1), labels, lost_logs: 0 });
    }

    fn happen(&mut self, event: &Event) {
        let at = |node: &usize| node % self.servers.len();
        match event {
            Event::Join if self.servers.len() < 9 => self.join(),
            Event::Join => {}
            Event::Die(node, long) => {
                let at = at(node);
                self.servers[at].silent_ms = Some(if *long { REPAIR_AFTER_MS } else { 1 });
            }
            Event::Return(node) => {
                let at = at(node);
                self.servers[at].silent_ms = None;
            }
            Event::Wipe(node) => {
                let at = at(node);
                // While any copy is missing, a lost folder may be the last one: that is no planner's fault.
                if self.servers[at].silent_ms.is_some() {
                    self.next += 1;
                    let incarnation = Incarnation(1000 + self.next);
                    let addr = format!("n{}:7400", at + 1);
                    self.ask(SiteCommand::Join(NodeJoin { incarnation, addr, meta: true, chunk: true }));
                    let replica = ReplicaId { incarnation, ..self.servers[at].replica };
                    self.servers[at] = Server { replica, silent_ms: None, held: BTreeMap::new() };
                }
            }
            Event::Drain(node, on) => {
                let node = self.servers[at(node)].replica.node;
                self.ask(SiteCommand::DrainNode { node, on: *on });
            }
            Event::Move(node, rack) => self.rack(at(node), *rack),
            Event::Elect => self.unsure = true,
            Event::Look(times) => {
                for _ in 0..*times {
                    self.write();
                    self.copy();
                    self.look();
                }
            }
        }
    }

    fn server(&mut self, replica: ReplicaId) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| server.replica == replica && server.silent_ms.is_none())
    }

    /// A chunk for every group that takes one.
    fn write(&mut self) {
        for pg in self.map().pgs {
            let live: Vec<ReplicaId> =
                pg.members.iter().filter(|member| member.state.is_live()).map(|member| member.replica).collect();
            if live.len() >= fewest(pg.factor) && live.iter().all(|replica| self.server(*replica).is_some()) {
                self.next += 1;
                let chunk = self.next;
                for replica in live {
                    if let Some(server) = self.server(replica) {
                        server.held.entry(pg.id).or_default().insert(chunk);
                    }
                }
                self.acked.entry(pg.id).or_default().insert(chunk);
            }
        }
    }

    /// Who is behind copies all there is, where somebody serves.
    fn copy(&mut self) {
        for pg in self.map().pgs {
            let serving = pg.members.iter().filter(|member| member.state == MemberState::Serving);
            let source = serving.map(|member| member.replica).find(|replica| self.server(*replica).is_some());
            let Some(source) = source else { continue };
            let all = self.server(source).and_then(|server| server.held.get(&pg.id).cloned()).unwrap_or_default();
            for member in pg.members.iter().filter(|member| member.state == MemberState::Behind) {
                if let Some(server) = self.server(member.replica) {
                    server.held.entry(pg.id).or_default().extend(&all);
                }
            }
        }
    }

    fn seen(&mut self) -> Seen {
        let map = self.map();
        let unsure = std::mem::take(&mut self.unsure);
        let presence = |server: &Server| match server.silent_ms {
            _ if unsure => Presence::Unsure,
            Some(for_ms) => Presence::Silent { for_ms },
            None => {
                let served = |pg: &&Pg| {
                    let there = |member: &PgMember| {
                        let source = self.servers.iter().find(|server| server.replica == member.replica);
                        source.is_some_and(|source| source.silent_ms.is_none())
                    };
                    let mut state = pg.members.iter().filter(|member| member.replica == server.replica);
                    state.any(|member| member.state == MemberState::Leaving)
                        || pg.members.iter().any(|m| m.state == MemberState::Serving && there(m))
                };
                let complete = map.pgs.iter().filter(served).map(|pg| (pg.id, pg.epoch)).collect();
                Presence::Alive(Report { complete, ..Report::default() })
            }
        };
        let nodes = self.servers.iter().map(|server| (server.replica.node, presence(server))).collect();
        Seen { nodes, repair_after_ms: REPAIR_AFTER_MS }
    }

    /// One look of the leader. Says whether anything was to be done.
    fn look(&mut self) -> bool {
        let (before, seen) = (self.map(), self.seen());
        let commands = plan(&before, &seen);
        let idle = commands.is_empty();
        for command in commands {
            self.ask(command);
        }
        let map = self.map();
        for pg in &map.pgs {
            self.judge(pg);
            let Some(was) = before.pgs.iter().find(|was| was.id == pg.id) else { continue };
            let (was_serving, serving) = (self.serving(was), self.serving(pg));
            assert!(
                serving.len() >= was_serving.len().min(usize::from(pg.factor)),
                "{} of {} served on: {was:?} became {pg:?}",
                serving.len(),
                was_serving.len()
            );
        }
        !idle
    }

    fn serving(&self, pg: &Pg) -> Vec<&Server> {
        let serving = pg.members.iter().filter(|member| member.state == MemberState::Serving);
        let server = |member: &PgMember| {
            self.servers.iter().find(|server| server.replica == member.replica && server.silent_ms.is_none())
        };
        serving.filter_map(server).collect()
    }

    /// Who serves has everything.
    fn judge(&self, pg: &Pg) {
        let Some(acked) = self.acked.get(&pg.id) else { return };
        for member in pg.members.iter().filter(|member| member.state == MemberState::Serving) {
            let Some(server) = self.servers.iter().find(|server| server.replica == member.replica) else { continue };
            let held = server.held.get(&pg.id);
            let lacks = acked.iter().find(|chunk| !held.is_some_and(|held| held.contains(chunk)));
            assert_eq!(lacks, None, "{} serves {pg:?} without it", member.replica);
        }
    }

    /// Everything is as it should be once the plan has ended.
    fn judge_rest(&self) {
        let map = self.map();
        let there = |node: &Node| {
            let server = self.servers.iter().find(|server| server.replica == node.replica());
            server.is_some_and(|server| server.silent_ms.is_none()) && !node.draining
        };
        let able: Vec<&Node> = map.nodes.iter().filter(|node| there(node)).collect();
        let mut held: BTreeMap<(u8, NodeId), usize> = BTreeMap::new();
        for pg in &map.pgs {
            pg.members.iter().for_each(|m| *held.entry((pg.factor, m.replica.node)).or_default() += 1);
            if self.serving(pg).is_empty() || able.len() < usize::from(pg.factor) {
                continue;
            }
            assert_eq!(pg.members.len(), usize::from(pg.factor), "{pg:?}");
            for member in &pg.members {
                assert_eq!(member.state, MemberState::Serving, "{pg:?}");
                assert!(able.iter().any(|node| node.replica() == member.replica), "{pg:?} is on a node that must go");
            }
            let nodes: Vec<NodeId> = pg.members.iter().map(|member| member.replica.node).collect();
            for from in &nodes {
                for to in able.iter().filter(|node| !nodes.contains(&node.id)) {
                    let swapped: Vec<NodeId> =
                        nodes.iter().copied().filter(|node| node != from).chain([to.id]).collect();
                    assert!(close(&map, &swapped) >= close(&map, &nodes), "{} for {from} in {pg:?}", to.id);
                }
            }
        }
        // Nothing moves for fairness while copies are missing.
        let nobodys = map.pgs.iter().any(|pg| self.serving(pg).is_empty());
        for factor in 1..=MAX_REPLICATION {
            let of = |node: &&Node| held.get(&(factor, node.id)).copied().unwrap_or(0);
            let (least, most) = (able.iter().map(of).min().unwrap_or(0), able.iter().map(of).max().unwrap_or(0));
            if self.racks == 0 && able.len() >= usize::from(MAX_REPLICATION) && !nobodys {
                assert!(most <= least + 1, "factor {factor}: from {least} to {most}");
            }
        }
    }
}

fn close(map: &SiteMap, nodes: &[NodeId]) -> [usize; 3] {
    let labels: Vec<&Labels> =
        map.nodes.iter().filter(|node| nodes.contains(&node.id)).map(|node| &node.labels).collect();
    let same = |label: fn(&Labels) -> &String| {
        let pairs =
            labels.iter().enumerate().flat_map(|(at, one)| labels[at + 1..].iter().map(move |other| (one, other)));
        pairs.filter(|(one, other)| !label(one).is_empty() && label(one) == label(other)).count()
    };
    [same(|labels| &labels.host), same(|labels| &labels.rack), same(|labels| &labels.zone)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_site_heals_and_comes_to_rest(
        nodes in 3..7usize,
        racks in 0..4u8,
        events in prop::collection::vec(event(), 1..25),
    ) {
        let mut world = World::new(nodes, racks);
        for event in &events {
            world.happen(event);
        }
        world.unsure = false;
        // Who is silent now stays so for good.
        for server in &mut world.servers {
            server.silent_ms = server.silent_ms.map(|_| REPAIR_AFTER_MS);
        }
        let mut looks = 0;
        loop {
            world.copy();
            if !world.look() {
                break;
            }
            looks += 1;
            prop_assert!(looks < LOOKS, "the plan does not end");
        }
        world.judge_rest();
    }
}
