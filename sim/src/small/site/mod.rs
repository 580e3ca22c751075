//! A site's decisions: the planner, the leader's view of heartbeats, leases and the right to acknowledge, under nodes
//! that fall silent, stop and go on, lose their folders, come back and catch up, die for good, are emptied and
//! forgotten, and under leaders that change in the midst of it. Disks and networks are sets and delays here; what decides is the code that ships.
//!
//! Judged by: who serves a placement group has every chunk that was acknowledged for it; nobody acknowledges who is not
//! a member that counts; epochs rise one by one; and once nothing breaks any more, everybody serves again.

mod chunks;
mod event;
mod faults;
mod laws;
mod leader;
mod process;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use weft_core::codec;
use weft_core::entry::{Command, Entry};
use weft_core::ids::{GroupId, Incarnation, NodeId, PgEpoch, PgId, ReplicaId, SiteId};
use weft_core::machine;
use weft_core::namespace::outcome::Outcome;
use weft_core::site::plan::{Seen, plan};
use weft_core::site::{self, MemberState, NodeJoin, NodeStatus, Pg, SiteCommand, SiteMap, SiteOutcome};
use weft_core::time::Timestamp;
use weft_node::site::beats::Heard;

use self::event::{Event, Who};
use self::process::{Duty, LEASE, Process, Progress};
use super::group::{Records, write};
use super::{Tally, broken};
use crate::run::Violation;

/// Simulated milliseconds with faults, and without any after them.
const BUSY: u64 = 60_000;
const CALM: u64 = 600_000;
/// Silence after which others take a node's place.
const REPAIR_AFTER: u64 = 6_000;
/// Times between two of the same kind, in milliseconds.
const BEAT: u64 = 700;
const LOOK: u64 = 200;
const CATCH_UP: u64 = 400;
/// How long an answer to a heartbeat, a proposal and an upload is waited for.
const BEAT_LIMIT: u64 = 2_500;
const PROPOSE_LIMIT: u64 = 3_000;
const PUT_LIMIT: u64 = 8_000;
/// Ids in one answer.
const PAGE: usize = 3;

struct Put {
    pg: PgId,
    epoch: PgEpoch,
    first: usize,
    /// Members whose answers are waited for; empty before the first one has begun.
    others: BTreeSet<usize>,
    begun: bool,
    stored: bool,
    until: u64,
}

/// Who waits for a proposal.
enum Waiter {
    Duty(Who),
    Join(Who),
    /// An operator, who sees for himself.
    Nobody,
}

struct Proposal {
    id: u64,
    term: u64,
    command: SiteCommand,
    waiter: Waiter,
}

struct World<'a> {
    rng: SmallRng,
    tally: &'a mut Tally,
    now: u64,
    base: Instant,
    events: BTreeMap<(u64, u64), Event>,
    next: u64,
    /// The system group as its majority has it.
    records: Records,
    map: Rc<SiteMap>,
    /// The maps of late, which somebody may still hold.
    maps: VecDeque<Rc<SiteMap>>,
    leader: Option<usize>,
    term: u64,
    /// How long a leader leads at the most: some things need a change, others a long term.
    terms: u64,
    proposals: VecDeque<Proposal>,
    /// Disks are so slow that nothing is written to the log until then, though everybody is there.
    slow_until: u64,
    processes: Vec<Process>,
    puts: BTreeMap<u64, Put>,
    acked: BTreeMap<PgId, BTreeSet<u64>>,
    /// Placement groups of which a member that counts lost its folder: what it alone had is gone.
    hurt: BTreeSet<PgId>,
    calm: bool,
}

/// Runs one seed.
pub(super) fn run(seed: u64, tally: &mut Tally) -> Result<(), Violation> {
    let mut world = World::new(seed, tally);
    world.begin()?;
    world.until(BUSY)?;
    world.calm_down()?;
    world.until(BUSY + CALM)?;
    world.finish().map_err(|Violation { law, what }| Violation { law, what: format!("{what}; {}", world.describe()) })
}

impl World<'_> {
    fn new(seed: u64, tally: &mut Tally) -> World<'_> {
        World {
            rng: SmallRng::seed_from_u64(seed ^ 0x5173),
            tally,
            now: 0,
            base: Instant::now(),
            events: BTreeMap::new(),
            next: 0,
            records: Records::new(),
            map: Rc::default(),
            maps: VecDeque::new(),
            leader: None,
            term: 0,
            terms: if seed.is_multiple_of(2) { 8_000 } else { 40_000 },
            proposals: VecDeque::new(),
            slow_until: 0,
            processes: Vec::new(),
            puts: BTreeMap::new(),
            acked: BTreeMap::new(),
            hurt: BTreeSet::new(),
            calm: false,
        }
    }

    fn begin(&mut self) -> Result<(), Violation> {
        let count = self.rng.random_range(2..6);
        for _ in 0..count {
            self.new_process(None);
        }
        let Process { replica, addr, .. } = &self.processes[0];
        let first = NodeJoin { incarnation: replica.incarnation, addr: addr.clone(), meta: true, chunk: true };
        let init = SiteCommand::Init { site: SiteId(7), name: "here".into(), groups: 2, replication: 2, first };
        self.apply(&init)?;
        self.processes[0].replica.node = NodeId(1);
        self.processes[0].map = self.map.clone();
        self.elect(0);
        for _ in 0..3 {
            self.at(500, Event::Put);
        }
        self.at(1_000, Event::Commit);
        self.at(4_000, Event::Fault);
        self.at(6_000, Event::Elect);
        Ok(())
    }

    fn until(&mut self, end: u64) -> Result<(), Violation> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                // Those that repeat themselves go on in the next part.
                self.events.insert((at, self.next), event);
                self.next += 1;
                break;
            }
            self.now = at;
            self.tally.steps += 1;
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.events.insert((self.now + delay, self.next), event);
        self.next += 1;
    }

    fn delay(&mut self) -> u64 {
        match self.rng.random_range(0..40u32) {
            0 if !self.calm => self.rng.random_range(100..2_500),
            _ => self.rng.random_range(1..40),
        }
    }

    fn who(&self, process: usize) -> Who {
        Who { process, boot: self.processes[process].boot }
    }

    /// Whether this life of the process is still there and can do something now.
    fn is(&self, who: Who) -> bool {
        let process = &self.processes[who.process];
        process.alive && process.boot == who.boot
    }

    fn reachable(&self, process: usize) -> bool {
        let process = &self.processes[process];
        process.alive && !process.cut
    }

    /// A process on a folder of its own, at an address of its own unless it takes another's place.
    fn new_process(&mut self, addr: Option<String>) -> usize {
        let at = self.processes.len();
        let addr = addr.unwrap_or_else(|| format!("n{at}:7400"));
        let replica = ReplicaId { node: NodeId(0), incarnation: Incarnation(self.rng.random()) };
        // Clocks differ by less than the tenth that leases leave.
        let rate = self.rng.random_range(960..=1040);
        self.processes.push(Process::new(replica, addr, rate, self.base));
        let start = self.rng.random_range(0..BEAT);
        self.at(start, Event::Beat(at));
        self.at(start, Event::Look(at));
        self.at(start, Event::CatchUp(at));
        if at > 0 {
            self.at(start, Event::Join(at));
        }
        at
    }

    /// The process that an event is about, for those that wait while it is stopped.
    fn stopped(&self, event: &Event) -> Option<u64> {
        let process = match event {
            Event::Beat(process) | Event::Look(process) | Event::CatchUp(process) | Event::Join(process) => *process,
            Event::BeatAt { to, .. } | Event::PutAt { to, .. } | Event::List { to, .. } => *to,
            Event::Confirmed { by: who, .. }
            | Event::Granted { to: who, .. }
            | Event::Stored { at: who, .. }
            | Event::Forwarded { to: who, .. }
            | Event::Listed { to: who, .. }
            | Event::Fetched { at: who, .. } => who.process,
            Event::Deposed { process, .. } => *process,
            Event::Commit
            | Event::Elect
            | Event::Missed
            | Event::ElectAgain(_)
            | Event::Put
            | Event::Fault
            | Event::Repair(_) => {
                return None;
            }
        };
        let until = self.processes[process].paused_until;
        (until > self.now).then(|| until - self.now)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        if let Some(wait) = self.stopped(&event) {
            self.at(wait, event);
            return Ok(());
        }
        match event {
            Event::Beat(process) => self.beat(process),
            Event::BeatAt { from, to, sent, beat } => {
                let (replica, reachable) = (self.replica(from), self.reachable(to));
                let by = &mut self.processes[to];
                if !reachable || by.leads.is_none() || !knows(&by.map, replica) {
                    return Ok(());
                }
                by.beats.note(by.clock(self.now), replica, beat);
                let (by, delay) = (self.who(to), self.delay());
                self.at(delay, Event::Confirmed { from, by, sent });
            }
            Event::Confirmed { from, by, sent } => {
                if !self.is(by) || !self.reachable(by.process) || self.leader != Some(by.process) {
                    return Ok(());
                }
                let lease = self.processes[by.process].beats.may_grant(self.replica(from));
                let map = self.map.clone();
                self.processes[by.process].offer(&map);
                let delay = self.delay();
                self.at(delay, Event::Granted { to: from, sent, lease, map });
            }
            Event::Granted { to, sent, lease, map } => {
                if !self.is(to) || !self.reachable(to.process) {
                    return Ok(());
                }
                let process = &mut self.processes[to.process];
                let late = process.clock(self.now).duration_since(sent) > Duration::from_millis(BEAT_LIMIT);
                if !late {
                    process.offer(&map);
                    if lease {
                        process.grant(sent + LEASE);
                    }
                }
            }
            Event::Look(process) => self.look(process),
            Event::Join(process) => self.join(process),
            Event::Commit => {
                let delay = self.rng.random_range(5..60);
                self.at(delay, Event::Commit);
                let Some(leader) = self.leader.filter(|leader| self.reachable(*leader)) else { return Ok(()) };
                let waits = self.processes[leader].paused_until.max(self.slow_until) > self.now;
                if !waits && !self.proposals.is_empty() && !self.calm && self.rng.random_range(0..20u32) == 0 {
                    self.tally.count("slow_disks");
                    self.slow_until = self.now + self.rng.random_range(1_000..8_000);
                } else if !waits && let Some(proposal) = self.proposals.pop_front() {
                    self.settle(proposal)?;
                }
            }
            Event::Deposed { process, term } => {
                if !self.reachable(process) {
                    self.at(500, Event::Deposed { process, term });
                } else if self.processes[process].leads == Some(term) {
                    self.processes[process].leads = None;
                }
            }
            Event::Elect => {
                if !self.calm || self.leader.is_none_or(|leader| !self.reachable(leader)) {
                    self.new_leader()?;
                }
                let delay = if self.calm { 2_000 } else { self.rng.random_range(500..self.terms) };
                self.at(delay, Event::Elect);
            }
            Event::Missed => {
                if self.leader.is_none_or(|leader| !self.reachable(leader)) {
                    self.new_leader()?;
                    if self.leader.is_none_or(|leader| !self.reachable(leader)) {
                        self.at(1_000, Event::Missed);
                    }
                }
            }
            Event::ElectAgain(process) => {
                if self.reachable(process) && self.leader != Some(process) {
                    self.depose()?;
                    self.elect(process);
                }
            }
            Event::Put => self.put(),
            Event::PutAt { to, put, tries } => self.put_at(to, put, tries),
            Event::Stored { at, put } => return self.stored(at, put),
            Event::Forwarded { to, put, by } => {
                if self.is(to)
                    && self.reachable(to.process)
                    && let Some(known) = self.puts.get_mut(&put)
                {
                    known.others.remove(&by);
                    return self.acknowledge(put);
                }
            }
            Event::CatchUp(process) => self.catch_up(process),
            Event::List { from, to, pg, epoch, version, after } => {
                let source = &self.processes[to];
                if !self.reachable(to) || source.map.version < version {
                    return Ok(());
                }
                let chunks = source.store.get(&pg);
                let page: Vec<u64> =
                    chunks.into_iter().flat_map(|chunks| chunks.range(after + 1..)).take(PAGE).copied().collect();
                let (end, delay) = (page.len() < PAGE, self.delay());
                self.at(delay, Event::Listed { to: from, source: to, pg, epoch, page, end });
            }
            Event::Listed { to, source, pg, epoch, page, end } => {
                if self.is(to) && self.reachable(to.process) {
                    let (source, delay) = (self.who(source), self.delay());
                    self.at(delay, Event::Fetched { at: to, source, pg, epoch, page, end });
                }
            }
            Event::Fetched { at, source, pg, epoch, page, end } => {
                if !self.is(at) || !self.is(source) || !self.reachable(source.process) {
                    return Ok(());
                }
                self.tally.count("pages_fetched");
                let process = &mut self.processes[at.process];
                process.store.entry(pg).or_default().extend(&page);
                if let Some(progress) = process.catch_up.get_mut(&pg).filter(|progress| progress.epoch == epoch) {
                    progress.after = page.last().copied().unwrap_or(progress.after);
                    progress.complete = end;
                    progress.busy_until = 0;
                }
            }
            Event::Fault => return self.fault(),
            Event::Repair(process) => self.repair(process),
        }
        Ok(())
    }

    fn replica(&self, who: Who) -> ReplicaId {
        self.processes[who.process].replica
    }

    fn beat(&mut self, process: usize) {
        if self.processes[process].wiped {
            return;
        }
        let every = BEAT * 1000 / self.rng.random_range(960..1040);
        self.at(every, Event::Beat(process));
        let sender = &self.processes[process];
        if !self.reachable(process) || sender.replica.node.0 == 0 {
            return;
        }
        let (sent, beat, from) = (sender.clock(self.now), sender.beat(), self.who(process));
        // Whoever is thought to lead; now and then that is wrong.
        let to = match self.leader {
            Some(leader) if self.calm || self.rng.random_range(0..8u32) > 0 => leader,
            _ => self.rng.random_range(0..self.processes.len()),
        };
        let delay = self.delay();
        self.at(delay, Event::BeatAt { from, to, sent, beat });
    }

    // ---- the leader ----
}

/// Whether the map lists this life of the node.
fn knows(map: &SiteMap, replica: ReplicaId) -> bool {
    map.nodes.iter().any(|node| node.replica() == replica)
}

/// What the planner needs to know of who was heard of.
fn seen(leader: &Process, map: &SiteMap, now: Instant) -> Seen {
    let presence = |replica: ReplicaId| leader.beats.heard(now, replica).presence();
    let nodes = map.nodes.iter().map(|node| (node.id, presence(node.replica()))).collect();
    Seen { nodes, repair_after_ms: REPAIR_AFTER }
}
