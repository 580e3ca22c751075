//! What breaks, and when: decided by the seed alone. Each seed draws the kinds of faults it has, so that some runs are
//! full of one kind and some have them all.

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use turmoil::Sim;
use weft_core::ids::{GroupId, Incarnation, NodeId};
use weft_core::site::{MemberState, Node, NodeStatus, SiteMap};

use crate::disk::Habits;
use crate::index::Damage;
use crate::run::Faults;
use crate::site::{FIRST, GROUPS, Site, host};
use crate::state::{NodeState, Order};
use crate::world;

/// Folder of the chunks on a node's disk.
const CHUNKS: &str = "chunks";
/// Folder of its Raft log.
const LOG: &str = "raft";
/// After so long everything that a log held when it rotted is marked as durable.
const MARKED: Duration = Duration::from_millis(300);

/// A kind of fault, which a seed has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A link is cut both ways.
    Partition,
    /// A link is cut one way.
    OneWay,
    /// A node is cut off all others.
    Isolate,
    /// A client is cut off a node, or off all of them and then for longer than a lease lasts unheard.
    CutClient,
    /// A link is slow.
    SlowLink,
    /// Connections are torn down.
    Reset,
    /// Power is cut.
    Crash,
    /// A node stands still.
    Suspend,
    /// A disk is slow.
    SlowDisk,
    /// A disk fails everything.
    FailingDisk,
    /// A disk is full.
    FullDisk,
    /// A bit flips in a chunk.
    Rot,
    /// Bits flip in a Raft log, and its node crashes after a while.
    RotLog,
    /// A folder is lost.
    Wipe,
    /// A node goes, and is not back before all else is mended.
    Die,
    /// A node is to be emptied, or no longer.
    Drain,
    /// A leader hands over.
    HandOver,
    /// A clock jumps.
    Clock,
}

const KINDS: [Kind; 18] = [
    Kind::Partition,
    Kind::OneWay,
    Kind::Isolate,
    Kind::CutClient,
    Kind::SlowLink,
    Kind::Reset,
    Kind::Crash,
    Kind::Suspend,
    Kind::SlowDisk,
    Kind::FailingDisk,
    Kind::FullDisk,
    Kind::Rot,
    Kind::RotLog,
    Kind::Wipe,
    Kind::Die,
    Kind::Drain,
    Kind::HandOver,
    Kind::Clock,
];

/// What is wrong with a node now, and until when.
#[derive(Clone, Copy, Debug, Default)]
struct Ails {
    down: Option<Duration>,
    suspended: Option<Duration>,
    disk: Option<Duration>,
    /// Its disk failed since it was started: it may take no more chunks until it is started again.
    tainted: bool,
    /// When it crashes while it may still be starting.
    again: Option<Duration>,
}

/// A node on whose disk bits flipped, and when all of them are healed.
#[derive(Clone, Copy, Debug)]
struct Rotten {
    node: usize,
    /// Set at the first look after the last flip.
    goal: Option<Goal>,
}

/// A node in whose log bits flipped.
#[derive(Clone, Copy, Debug)]
struct RottenLog {
    node: usize,
    /// When it crashes.
    crash: Duration,
    crashed: bool,
}

/// What the node must have done in this life.
#[derive(Clone, Copy, Debug)]
struct Goal {
    /// Chunks reread when it was looked at last.
    seen: u64,
    reread: u64,
    compared: u64,
}

/// Breaks things until its time is over, then mends everything.
pub struct Nemesis {
    rng: SmallRng,
    faults_wanted: bool,
    site: Rc<Site>,
    nodes: Vec<NodeState>,
    clients: Vec<String>,
    kinds: Vec<Kind>,
    /// The one node with bits flipped that may not be healed yet, so that no chunk is damaged on all its servers.
    rotten: Option<Rotten>,
    /// The one node that has, or may have, given up its log and is not yet a member like the others again.
    rotten_log: Option<RottenLog>,
    ails: Vec<Ails>,
    /// Who lost its folder last, and which life of it is gone.
    wiped: Option<(usize, Incarnation)>,
    /// Whether nodes may be cut off the others: then no folder is lost.
    cut_off: bool,
    late: Option<Duration>,
    next: Duration,
    until: Duration,
    mended: bool,
    faults: Faults,
}

impl Nemesis {
    /// Begins at once or after a quiet start, and mends at `until`. `only` are the kinds of faults, if the seed is not to
    /// draw them. If no faults are wanted, it only starts who joins late.
    pub fn new(
        mut rng: SmallRng,
        (faults_wanted, only): (bool, &[Kind]),
        site: Rc<Site>,
        nodes: Vec<NodeState>,
        clients: Vec<String>,
        until: Duration,
    ) -> Nemesis {
        let most = rng.random_bool(0.3);
        let mut kinds: Vec<Kind> =
            KINDS.into_iter().filter(|_| rng.random_bool(if most { 0.9 } else { 0.4 })).collect();
        if !only.is_empty() {
            kinds = only.to_vec();
        }
        if !site.heals {
            kinds.retain(|kind| *kind != Kind::Rot);
        }
        if kinds.is_empty() {
            kinds.push(Kind::Crash);
        }
        let next = Duration::from_millis(if rng.random_bool(0.3) { 50 } else { 4000 });
        tracing::info!(?kinds, "nemesis: faults of this seed");
        Nemesis {
            rng,
            faults_wanted,
            late: site.late,
            ails: vec![Ails::default(); nodes.len()],
            site,
            nodes,
            clients,
            kinds,
            rotten: None,
            rotten_log: None,
            wiped: None,
            cut_off: false,
            next,
            until,
            mended: false,
            faults: Faults::default(),
        }
    }

    /// Called before the first step: skews the clocks, keeps out who joins late.
    pub fn before(&mut self, sim: &mut Sim<'_>) {
        if self.late.is_some() {
            sim.crash(host(self.nodes.len() - 1));
        }
        if self.faults_wanted && self.kinds.contains(&Kind::Clock) {
            for node in &self.nodes {
                node.clock.set_ahead(self.rng.random_range(-3_000_000_000..3_000_000_000));
            }
        }
    }

    /// Adds what it did, and what that did to the nodes.
    pub fn count(&self, faults: &mut Faults) {
        faults.add(&self.faults);
        faults.lost_logs += self.map().nodes.iter().map(|node| u64::from(node.lost_logs)).sum::<u64>();
        for node in &self.nodes {
            let hurt = node.disk.hurt();
            faults.hurt_writes += hurt.writes;
            faults.disk_errors += hurt.failed;
            faults.no_room += hurt.full;
            faults.stalls += hurt.stalled;
            faults.flipped_bits += hurt.flipped;
            faults.handed_over += node.handed_over.load(Ordering::Relaxed);
            faults.drains += node.drains.load(Ordering::Relaxed);
            faults.restarts += node.restarts.load(Ordering::Relaxed);
        }
    }

    /// Called before each step of the simulation.
    pub fn turn(&mut self, sim: &mut Sim<'_>) {
        if self.mended {
            return;
        }
        let now = sim.elapsed();
        let over = now >= self.until;
        let due = |at: Option<Duration>| at.is_some_and(|at| over || now >= at);
        if due(self.late) {
            let node = self.nodes.len() - 1;
            tracing::info!(node, "nemesis: a node joins late");
            self.faults.late_joins += 1;
            self.late = None;
            sim.bounce(host(node));
        }
        if let Some(rotten) = self.rotten_log.filter(|rotten| !rotten.crashed && now >= rotten.crash) {
            self.rotten_log = Some(RottenLog { crashed: true, ..rotten });
            self.crash_now(sim, rotten.node);
            self.ails[rotten.node].down = Some(now + Duration::from_millis(self.rng.random_range(20..3000)));
        }
        for node in 0..self.nodes.len() {
            if due(self.ails[node].suspended) {
                self.resume(sim, node);
            }
            if due(self.ails[node].disk) {
                self.heal_disk(now, node);
            }
            if due(self.ails[node].down) {
                self.boot(sim, node, now);
            }
            if due(self.ails[node].again) {
                self.ails[node].again = None;
                if !over && self.ails[node].down.is_none() {
                    self.faults.start_crashes += 1;
                    self.crash_now(sim, node);
                    self.ails[node].down = Some(now + Duration::from_millis(self.rng.random_range(20..2000)));
                }
            }
        }
        if over {
            self.mend_links(sim);
            for node in 0..self.nodes.len() {
                if self.ails[node].tainted {
                    self.crash_now(sim, node);
                    self.boot(sim, node, now);
                }
            }
            self.mended = true;
        } else if self.faults_wanted && now >= self.next {
            self.next = now + Duration::from_millis(self.rng.random_range(50..1500));
            self.act(sim, now);
        }
    }

    fn is_here(&self, node: usize) -> bool {
        self.late.is_none() || node + 1 < self.nodes.len()
    }

    fn act(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let count = self.nodes.len();
        let a = self.rng.random_range(0..count);
        let b = (a + self.rng.random_range(1..count)) % count;
        if self.rng.random_bool(0.3) {
            return self.mend_links(sim);
        }
        if !self.is_here(a) || !self.is_here(b) {
            return;
        }
        let kind = self.kinds[self.rng.random_range(0..self.kinds.len())];
        let a = if kind == Kind::Isolate { self.isolated(now, a) } else { a };
        // Until what rotted is marked, it can't be told from what a crash tore.
        let fresh = |rotten: &RottenLog| rotten.node == a && !rotten.crashed;
        if self.rotten_log.as_ref().is_some_and(fresh) && !matches!(kind, Kind::HandOver | Kind::Drain | Kind::Clock) {
            return;
        }
        match kind {
            Kind::CutClient if self.rng.random_bool(0.3) => self.silence(sim, now),
            Kind::Partition | Kind::OneWay | Kind::Isolate | Kind::CutClient | Kind::SlowLink | Kind::Reset => {
                self.act_on_links(sim, kind, a, b);
            }
            Kind::Crash => self.crash(sim, now, a),
            Kind::Suspend => self.suspend(sim, now, a),
            Kind::SlowDisk | Kind::FailingDisk | Kind::FullDisk => self.act_on_disk(now, kind, a),
            Kind::Rot => self.rot(a),
            Kind::RotLog => self.rot_log(now, a),
            Kind::Wipe => self.wipe(sim, now, a),
            Kind::Die => self.die(sim, a),
            Kind::Drain => self.drain(a),
            Kind::HandOver => {
                let group = GroupId(self.rng.random_range(0..=GROUPS));
                let order = Order::HandOver { group, to: NodeId(self.rng.random_range(1..=FIRST as u32)) };
                tracing::info!(?order, "nemesis: hand over");
                self.nodes.iter().filter(|node| node.group(group).is_some_and(|group| group.leading)).for_each(
                    |node| {
                        node.order(order);
                    },
                );
            }
            Kind::Clock => {
                let (nodes, far) = (&self.nodes, self.rng.random_bool(0.2));
                let most: i64 = if far { 600_000_000_000 } else { 3_000_000_000 };
                let ahead = self.rng.random_range(-most..most);
                tracing::info!(node = a, ahead, "nemesis: a clock jumps");
                self.faults.clock_jumps += 1;
                nodes[a].clock.set_ahead(ahead);
            }
        }
    }

    /// Whom to cut off, in place of any node `a`: often a leader, and then mostly for so long that another is elected and
    /// clients find it.
    fn isolated(&mut self, now: Duration, a: usize) -> usize {
        let group = GroupId(self.rng.random_range(0..=GROUPS));
        let leads = |node: &NodeState| node.group(group).is_some_and(|group| group.leading);
        if self.rng.random_bool(0.7) {
            self.next = now + Duration::from_millis(self.rng.random_range(1000..8000));
        }
        if self.rng.random_bool(0.3) { a } else { self.nodes.iter().position(leads).unwrap_or(a) }
    }

    /// Cuts a client off all nodes and lets nothing else happen until its leases can have been taken away.
    fn silence(&mut self, sim: &mut Sim<'_>, now: Duration) {
        if self.clients.is_empty() || self.ails.iter().any(|ails| ails.suspended.is_some()) {
            return;
        }
        let client = self.clients[self.rng.random_range(0..self.clients.len())].clone();
        self.next = now + Duration::from_millis(self.rng.random_range(5000..12_000));
        tracing::info!(client, until = ?self.next, "nemesis: cut a client off all nodes");
        self.faults.silenced_clients += 1;
        (0..self.nodes.len()).for_each(|node| sim.partition(host(node), client.as_str()));
    }

    fn act_on_links(&mut self, sim: &mut Sim<'_>, kind: Kind, a: usize, b: usize) {
        let others: Vec<String> = (0..self.nodes.len()).filter(|other| *other != a).map(host).collect();
        let client = self.clients.get(self.rng.random_range(0..self.clients.len().max(1))).cloned();
        match kind {
            Kind::Reset => {
                let peers: Vec<String> = others.into_iter().chain(self.clients.iter().cloned()).collect();
                let peer = &peers[self.rng.random_range(0..peers.len())];
                let ends = world::net().reset(sim.lookup(host(a)), sim.lookup(peer.as_str()));
                tracing::info!(a, peer, ends, "nemesis: connections are reset");
                self.faults.resets += ends;
            }
            // The links of a suspended node hold everything: no other state of theirs would outlast that.
            _ if self.ails[a].suspended.is_some() || self.ails[b].suspended.is_some() => {}
            Kind::Partition => {
                tracing::info!(a, b, "nemesis: partition");
                self.faults.partitions += 1;
                sim.partition(host(a), host(b));
            }
            Kind::OneWay => {
                tracing::info!(a, b, "nemesis: one-way partition");
                self.faults.one_way += 1;
                sim.partition_oneway(host(a), host(b));
            }
            Kind::Isolate if self.ails.iter().all(|ails| ails.suspended.is_none()) => {
                tracing::info!(a, "nemesis: isolate");
                self.faults.isolations += 1;
                self.cut_off = true;
                for other in others {
                    sim.partition(host(a), other);
                }
            }
            Kind::CutClient => {
                let Some(client) = client else { return };
                tracing::info!(a, client, "nemesis: cut a client off a node");
                self.faults.partitions += 1;
                sim.partition(host(a), client.as_str());
            }
            Kind::SlowLink => {
                let slow = Duration::from_millis(self.rng.random_range(10..200)).max(self.site.latency.1);
                tracing::info!(a, b, ?slow, "nemesis: slow link");
                self.faults.slow_links += 1;
                sim.set_link_max_message_latency(host(a), host(b), slow);
            }
            _ => {}
        }
    }

    /// Mostly one node at a time; now and then several, each for itself.
    fn crash(&mut self, sim: &mut Sim<'_>, now: Duration, node: usize) {
        let others_down = self.ails.iter().filter(|ails| ails.down.is_some()).count();
        if self.ails[node].down.is_some() || (others_down > 0 && !self.rng.random_bool(0.3)) {
            return;
        }
        let back = now + Duration::from_millis(self.rng.random_range(20..5000));
        self.crash_now(sim, node);
        self.ails[node].down = Some(back);
    }

    fn crash_now(&mut self, sim: &mut Sim<'_>, node: usize) {
        if self.ails[node].suspended.is_some() {
            self.resume(sim, node);
        }
        tracing::info!(node, "nemesis: crash");
        self.faults.crashes += 1;
        sim.crash(host(node));
        match self.nodes[node].crash(&mut self.rng) {
            Damage::None => {}
            Damage::Stale => self.faults.stale_indexes += 1,
            Damage::Holed | Damage::Empty => self.faults.lost_indexes += 1,
        }
    }

    /// Starts a node; now and then it crashes again while it does.
    fn boot(&mut self, sim: &mut Sim<'_>, node: usize, now: Duration) {
        tracing::info!(node, "nemesis: boot");
        sim.bounce(host(node));
        self.ails[node].down = None;
        let habits = self.nodes[node].disk.habits();
        self.ails[node].tainted = habits.fails || habits.full;
        if self.rng.random_bool(0.2) {
            self.ails[node].again = Some(now + Duration::from_millis(self.rng.random_range(5..400)));
        }
    }

    /// The node's process goes on, but nothing it sends leaves, nothing sent to it arrives, and its disk stands still:
    /// what others see of a machine that is stopped.
    fn suspend(&mut self, sim: &mut Sim<'_>, now: Duration, node: usize) {
        if self.ails.iter().any(|ails| ails.suspended.is_some()) || self.ails[node].down.is_some() {
            return;
        }
        let back = now + Duration::from_millis(self.rng.random_range(100..8000));
        tracing::info!(node, ?back, "nemesis: suspend");
        self.faults.suspensions += 1;
        self.ails[node].suspended = Some(back);
        self.peers(node).iter().for_each(|peer| sim.hold(host(node), peer.as_str()));
        let disk = &self.nodes[node].disk;
        disk.behave(Habits { still: true, ..disk.habits() });
    }

    fn resume(&mut self, sim: &mut Sim<'_>, node: usize) {
        tracing::info!(node, "nemesis: resume");
        self.ails[node].suspended = None;
        self.peers(node).iter().for_each(|peer| sim.release(host(node), peer.as_str()));
        let disk = &self.nodes[node].disk;
        disk.behave(Habits { still: false, ..disk.habits() });
    }

    fn peers(&self, node: usize) -> Vec<String> {
        let nodes = (0..self.nodes.len()).filter(|other| *other != node).map(host);
        nodes.chain(self.clients.iter().cloned()).collect()
    }

    /// One sick disk at a time, or none of the promises holds.
    fn act_on_disk(&mut self, now: Duration, kind: Kind, node: usize) {
        if self.ails.iter().any(|ails| ails.disk.is_some()) || self.ails[node].suspended.is_some() {
            return;
        }
        let disk = &self.nodes[node].disk;
        let habits = disk.habits();
        let (habits, longest) = match kind {
            Kind::FailingDisk => (Habits { fails: true, ..habits }, 3000),
            Kind::FullDisk => (Habits { full: true, ..habits }, 8000),
            _ => {
                let slow = Duration::from_millis(self.rng.random_range(3..60));
                let stall_max = Duration::from_millis(self.rng.random_range(50..1500));
                (Habits { flush_max: slow, stalls: self.rng.random_range(1..100), stall_max, ..habits }, 10_000)
            }
        };
        tracing::info!(node, ?kind, "nemesis: a disk falls sick");
        self.faults.sick_disks += 1;
        self.ails[node].tainted |= kind != Kind::SlowDisk;
        self.ails[node].disk = Some(now + Duration::from_millis(self.rng.random_range(50..longest)));
        disk.behave(habits);
    }

    fn heal_disk(&mut self, now: Duration, node: usize) {
        tracing::info!(node, "nemesis: a disk is well again");
        self.ails[node].disk = None;
        let disk = &self.nodes[node].disk;
        let Habits { still, lies, .. } = disk.habits();
        disk.behave(Habits { still, lies, ..Habits::default() });
        // Whoever looks after the machine may see that the node needs a new start; at the end, all do.
        if self.ails[node].tainted && self.rng.random_bool(0.5) {
            self.ails[node].again = Some(now + Duration::from_millis(self.rng.random_range(100..3000)));
        }
    }

    /// A node loses its folder: only when everything is whole, so that all it held is held elsewhere.
    fn wipe(&mut self, sim: &mut Sim<'_>, now: Duration, node: usize) {
        let all_well = self.ails.iter().all(|ails| ails.down.is_none() && ails.suspended.is_none() && !ails.tainted);
        if !all_well || self.cut_off || self.late.is_some() || !self.is_healed() || !self.log_is_whole() {
            return;
        }
        if let Some(why) = self.not_whole() {
            tracing::debug!(why, "nemesis: no folder is lost now");
            return;
        }
        let map = self.map();
        let Some(known) = map.nodes.iter().find(|known| is_at(known, node)) else { return };
        self.wiped = Some((node, known.incarnation));
        let back = now + Duration::from_millis(self.rng.random_range(20..5000));
        tracing::info!(node, ?back, "nemesis: a folder is lost");
        self.faults.wipes += 1;
        sim.crash(host(node));
        self.nodes[node].wipe();
        self.ails[node].down = Some(back);
    }

    /// A node goes for so long that others must take its place: when everything is whole, and enough others are left.
    fn die(&mut self, sim: &mut Sim<'_>, node: usize) {
        let all_well = self.ails.iter().all(|ails| ails.down.is_none() && ails.suspended.is_none() && !ails.tainted);
        if !all_well || self.cut_off || self.late.is_some() || self.not_whole().is_some() || !self.log_is_whole() {
            return;
        }
        tracing::info!(node, "nemesis: a node dies");
        self.faults.deaths += 1;
        self.crash_now(sim, node);
        self.ails[node].down = Some(self.until);
    }

    /// One node at a time is emptied; what was ordered last stays so. Not before there is placement, which could not be
    /// made without the node where there are too few.
    fn drain(&mut self, node: usize) {
        let map = self.map();
        if !map.pgs.iter().any(|pg| pg.factor == self.site.replication) {
            return;
        }
        let order = match map.nodes.iter().find(|known| known.draining) {
            Some(known) => Order::Drain { node: known.id, on: false },
            None => match map.nodes.iter().find(|known| is_at(known, node)) {
                Some(known) => Order::Drain { node: known.id, on: true },
                None => return,
            },
        };
        tracing::info!(?order, "nemesis: a node is to be emptied, or no longer");
        self.nodes.iter().for_each(|node| {
            // Those that do not run hear of nothing.
            node.order(order);
        });
    }

    /// A bit flips on the node that has some already, or, when these are healed and everything is whole, on another.
    fn rot(&mut self, node: usize) {
        self.is_healed();
        let node = match self.rotten {
            Some(rotten) => rotten.node,
            None if !self.site.is_chunk(node) || self.not_whole().is_some() => return,
            None => node,
        };
        if self.ails[node].down.is_none() && self.nodes[node].disk.rot(Path::new(CHUNKS)) {
            tracing::info!(node, "nemesis: a bit flips");
            self.rotten = Some(Rotten { node, goal: None });
        }
    }

    /// Bits flip in the log of a node, which crashes some time later, when what they hit is marked as durable: then it must
    /// not go on as if nothing were lost. One node at a time, when all groups have all their members.
    fn rot_log(&mut self, now: Duration, node: usize) {
        let ails = self.ails[node];
        let well = ails.down.is_none() && ails.suspended.is_none() && ails.disk.is_none() && !ails.tainted;
        if !well || ails.again.is_some() || self.late.is_some() || !self.log_is_whole() || self.not_whole().is_some() {
            return;
        }
        let flips = self.rng.random_range(1..8);
        let flipped = (0..flips).filter(|_| self.nodes[node].disk.rot(Path::new(LOG))).count();
        if flipped == 0 {
            return;
        }
        let crash = now + MARKED + Duration::from_millis(self.rng.random_range(0..3000));
        tracing::info!(node, flipped, ?crash, "nemesis: a log rots");
        self.faults.rotten_logs += 1;
        self.rotten_log = Some(RottenLog { node, crash, crashed: false });
    }

    /// Whether no node may still be about to give up its log, or to be taken in again after it did.
    fn log_is_whole(&mut self) -> bool {
        let Some(rotten) = self.rotten_log else { return true };
        let up = rotten.crashed && self.ails[rotten.node].down.is_none() && self.ails[rotten.node].again.is_none();
        if up && self.not_whole().is_none() {
            self.rotten_log = None;
        }
        self.rotten_log.is_none()
    }

    /// Whether every bit that flipped must have been found and healed: since the last one the node has read everything
    /// again and compared itself with the others, more than once, in one life.
    fn is_healed(&mut self) -> bool {
        let Some(rotten) = &mut self.rotten else { return true };
        let Some(server) = self.nodes[rotten.node].chunks() else {
            rotten.goal = None;
            return false;
        };
        let health = server.health();
        let goal = match rotten.goal {
            // A life with lower counts is another one.
            Some(goal) if health.reread >= goal.seen => goal,
            _ => Goal {
                seen: health.reread,
                reread: health.reread + 2 * server.store().facts().chunks + 1,
                compared: health.compared + 3,
            },
        };
        rotten.goal = Some(Goal { seen: health.reread, ..goal });
        let healed = health.reread >= goal.reread && health.compared >= goal.compared && health.waiting == 0;
        if healed {
            self.rotten = None;
        }
        healed
    }

    /// The site as whoever is ahead has it.
    fn map(&self) -> SiteMap {
        self.nodes.iter().map(NodeState::map).max_by_key(|map| map.version).unwrap_or_default()
    }

    /// Why a folder must not be lost now; `None` if all that any node holds is held by the others too.
    fn not_whole(&self) -> Option<String> {
        let map = self.map();
        if let Some((node, incarnation)) = self.wiped
            && map.nodes.iter().any(|known| is_at(known, node) && known.incarnation == incarnation)
        {
            return Some(format!("node {node} has not come back from its last loss"));
        }
        if map.nodes.len() != self.nodes.len() {
            return Some(format!("{} nodes have joined", map.nodes.len()));
        }
        if let Some(node) = map.nodes.iter().find(|node| node.status != NodeStatus::Up) {
            return Some(format!("node {} is {:?}", node.id, node.status));
        }
        let here = |replica| map.nodes.iter().any(|node| node.replica() == replica);
        for pg in &map.pgs {
            let bad = pg.members.iter().find(|m| m.state != MemberState::Serving || !here(m.replica));
            if let Some(member) = bad {
                return Some(format!("placement group {}: {member:?}", pg.id));
            }
        }
        map.groups.iter().find_map(|group| self.group_is_not_whole(&map, group.id))
    }

    fn group_is_not_whole(&self, map: &SiteMap, group: GroupId) -> Option<String> {
        let statuses: Vec<_> = self.nodes.iter().filter_map(|node| node.group(group)).collect();
        let Some(leader) = statuses.iter().filter(|status| status.leading).max_by_key(|status| status.term) else {
            return Some(format!("group {group} has no leader"));
        };
        let wanted = map.groups.iter().find(|record| record.id == group).map(|record| record.replicas.clone());
        let mut wanted = wanted.unwrap_or_default();
        wanted.sort_unstable();
        let (mut voters, learners) = (leader.voters.clone(), &leader.learners);
        voters.sort_unstable();
        if wanted.len() < FIRST || voters != wanted || !learners.is_empty() || leader.changing {
            let changing = if leader.changing { "not settled yet" } else { "settled" };
            return Some(format!(
                "group {group} should have {wanted:?}, has {voters:?}, {changing}, learners {learners:?}"
            ));
        }
        let there = statuses.iter().filter(|status| status.applied >= leader.committed && !status.rebuilding).count();
        (there < wanted.len()).then(|| format!("group {group}: {there} replicas have all entries"))
    }

    fn mend_links(&mut self, sim: &mut Sim<'_>) {
        tracing::info!("nemesis: mend all links");
        self.cut_off = false;
        for a in (0..self.nodes.len()).filter(|node| self.ails[*node].suspended.is_none()) {
            for b in (0..a).filter(|node| self.ails[*node].suspended.is_none()) {
                sim.repair(host(a), host(b));
                sim.set_link_max_message_latency(host(a), host(b), self.site.latency.1);
            }
            for client in &self.clients {
                sim.repair(host(a), client.as_str());
            }
        }
    }
}

/// Whether a node of the site map is the harness's node of that number.
fn is_at(known: &Node, node: usize) -> bool {
    known.addr.strip_prefix(&host(node)).is_some_and(|rest| rest.starts_with(':'))
}
