//! A site's decisions: the planner, the leader's view of heartbeats, leases and the right to acknowledge, under nodes
//! that fall silent, stop and go on, lose their folders, come back and catch up, and under leaders that change in the
//! midst of it. Disks and networks are sets and delays here; what decides is the code that ships.
//!
//! Judged by: who serves a placement group has every chunk that was acknowledged for it; nobody acknowledges who is not
//! a member that counts; epochs rise one by one; and once nothing breaks any more, everybody serves again.

mod event;
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
use weft_core::site::plan::{Presence, Report, Seen, plan};
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
const CALM: u64 = 45_000;
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

    fn new_leader(&mut self) -> Result<(), Violation> {
        let able: Vec<usize> = (0..self.processes.len())
            .filter(|at| self.reachable(*at) && self.processes[*at].replica.node.0 > 0)
            .filter(|at| knows(&self.map, self.processes[*at].replica))
            .collect();
        let Some(next) = able.choose(&mut self.rng).copied() else { return Ok(()) };
        if self.leader == Some(next) {
            return Ok(());
        }
        let former = self.leader;
        self.depose()?;
        self.elect(next);
        if let Some(former) = former
            && !self.calm
            && self.rng.random_range(0..3u32) == 0
        {
            self.tally.count("back_at_once");
            let delay = self.rng.random_range(100..2_000);
            self.at(delay, Event::ElectAgain(former));
        }
        Ok(())
    }

    /// The leader is one no more. Of what it proposed the first part may have reached the next one.
    fn depose(&mut self) -> Result<(), Violation> {
        let kept = self.rng.random_range(0..=self.proposals.len());
        let kept: Vec<Proposal> = self.proposals.drain(..).take(kept).collect();
        for proposal in kept {
            self.apply(&proposal.command)?;
        }
        if let Some(former) = self.leader.take() {
            let delay = self.rng.random_range(1..3_000);
            let term = self.term;
            self.at(delay, Event::Deposed { process: former, term });
        }
        Ok(())
    }

    fn elect(&mut self, next: usize) {
        self.tally.count("elections");
        self.term += 1;
        self.leader = Some(next);
        self.processes[next].leads = Some(self.term);
    }

    fn look(&mut self, at: usize) {
        if self.processes[at].wiped {
            return;
        }
        let every = LOOK + self.rng.random_range(0..20);
        self.at(every, Event::Look(at));
        let now = self.processes[at].clock(self.now);
        let process = &mut self.processes[at];
        if !process.alive {
            return;
        }
        if let Some(duty) = &process.duty {
            match duty.waits {
                Some((_, limit)) if limit > self.now => return,
                _ => process.duty = None,
            }
        }
        process.beats.look(now, process.leads);
        if process.leads.is_none() {
            return;
        }
        if self.leader == Some(at) {
            // Its own replica may be a little behind.
            let back = self.rng.random_range(0..3usize).min(self.maps.len().saturating_sub(1));
            let map = self.maps[self.maps.len() - 1 - back].clone();
            self.processes[at].offer(&map);
        }
        let process = &mut self.processes[at];
        let map = process.map.clone();
        let seen = seen(process, &map, now);
        process.duty = Some(Duty { commands: plan(&map, &seen).into(), map, waits: None });
        self.go_on(at);
    }

    /// Proposes the next of what a leader has planned.
    fn go_on(&mut self, at: usize) {
        let (who, limit) = (self.who(at), self.now + PROPOSE_LIMIT);
        let process = &mut self.processes[at];
        let (now, Some(term), Some(duty)) = (process.clock(self.now), process.leads, &mut process.duty) else {
            return;
        };
        let mut command = None;
        while let Some(next) = duty.commands.pop_front() {
            if process.beats.condemn(now, &duty.map, &next) {
                command = Some(next);
                break;
            }
            self.tally.count("not_yet");
        }
        if command.is_none() && process.beats.is_unsettled() {
            command = Some(SiteCommand::NodeStatus { changes: Vec::new() });
        }
        let Some(command) = command else {
            process.duty = None;
            return;
        };
        self.next += 1;
        let id = self.next;
        duty.waits = Some((id, limit));
        // What a former leader proposes reaches nobody.
        if self.leader == Some(at) && self.term == term {
            self.proposals.push_back(Proposal { id, term, command, waiter: Waiter::Duty(who) });
        }
    }

    /// A proposal is on a majority and applied.
    fn settle(&mut self, proposal: Proposal) -> Result<(), Violation> {
        let Proposal { id, term, command, waiter } = proposal;
        let outcome = self.apply(&command)?;
        if term != self.term {
            return Ok(());
        }
        let map = self.map.clone();
        match waiter {
            Waiter::Duty(who) if self.is(who) => {
                let process = &mut self.processes[who.process];
                process.offer(&map);
                let waits = process.duty.as_ref().and_then(|duty| duty.waits);
                if waits.is_some_and(|(of, limit)| of == id && limit > self.now) {
                    match outcome {
                        Some(_) => {
                            process.beats.settle();
                            self.go_on(who.process);
                        }
                        None => process.duty = None,
                    }
                }
            }
            Waiter::Join(who) if self.is(who) && self.reachable(who.process) => {
                if let Some(SiteOutcome::Joined { node, .. }) = outcome {
                    let process = &mut self.processes[who.process];
                    process.replica.node = node;
                    process.offer(&map);
                }
            }
            Waiter::Duty(_) | Waiter::Join(_) => {}
        }
        Ok(())
    }

    fn join(&mut self, at: usize) {
        let process = &self.processes[at];
        if process.wiped || process.replica.node.0 > 0 {
            return;
        }
        self.at(600, Event::Join(at));
        let Some(leader) = self.leader.filter(|leader| self.reachable(*leader) && self.reachable(at)) else { return };
        let join = NodeJoin {
            incarnation: self.processes[at].replica.incarnation,
            addr: self.processes[at].addr.clone(),
            meta: true,
            chunk: true,
        };
        // Whoever joins at the address of a node takes that node's place: not while it lives.
        let leading = &self.processes[leader];
        let there =
            leading.map.nodes.iter().find(|node| node.addr == join.addr && node.incarnation != join.incarnation);
        let free =
            there.is_none_or(|there| leading.beats.heard(leading.clock(self.now), there.replica()) == Heard::Silent);
        if free {
            self.tally.count("joins");
            self.next += 1;
            let (id, term, waiter) = (self.next, self.term, Waiter::Join(self.who(at)));
            self.proposals.push_back(Proposal { id, term, command: SiteCommand::Join(join), waiter });
        }
    }

    /// Applies a command to the system group. `None`: it was refused.
    fn apply(&mut self, command: &SiteCommand) -> Result<Option<SiteOutcome>, Violation> {
        let time = Timestamp::from_nanos(self.now * 1_000_000);
        let entry = Entry { time, caller: None, command: Command::Site(command.clone()) };
        let damaged = |error: weft_core::view::ViewError| broken("records sound", error.to_string());
        let applied = machine::apply(&self.records, GroupId::SYSTEM, &entry).map_err(damaged)?;
        self.tally.fold(&codec::encode_reply(&applied.reply));
        write(&mut self.records, applied.changes);
        let map = Rc::new(site::map(&self.records).map_err(damaged)?);
        let before = std::mem::replace(&mut self.map, map);
        if self.map.version != before.version {
            self.tally.fold(&codec::encode_sitemap(&self.map));
            self.maps.push_back(self.map.clone());
            if self.maps.len() > 12 {
                self.maps.pop_front();
            }
            self.judge_map(&before)?;
        }
        Ok(match applied.reply {
            Ok(Outcome::Site(outcome)) => Some(outcome),
            _ => None,
        })
    }

    // ---- chunks ----

    fn put(&mut self) {
        let delay = self.rng.random_range(1..200);
        self.at(delay, Event::Put);
        // Clients hold maps of any age.
        let back = self.rng.random_range(0..self.maps.len().max(1));
        let Some(map) = self.maps.iter().rev().nth(back * usize::from(self.rng.random::<bool>())) else { return };
        let Some(pg) = map.pgs.choose(&mut self.rng).cloned() else { return };
        self.put_into(&pg);
    }

    fn put_into(&mut self, pg: &Pg) -> Option<u64> {
        let serving = pg.members.iter().find(|member| member.state == MemberState::Serving)?;
        let first = self.processes.iter().position(|process| process.replica == serving.replica)?;
        self.next += 1;
        let chunk = self.next;
        let put = Put {
            pg: pg.id,
            epoch: pg.epoch,
            first,
            others: BTreeSet::new(),
            begun: false,
            stored: false,
            until: self.now + PUT_LIMIT,
        };
        self.puts.insert(chunk, put);
        self.tally.count("puts");
        let delay = self.delay();
        self.at(delay, Event::PutAt { to: first, put: chunk, tries: 0 });
        Some(chunk)
    }

    fn put_at(&mut self, to: usize, chunk: u64, tries: u32) {
        let Some(put) = self.puts.get(&chunk) else { return };
        let (pg, epoch, first) = (put.pg, put.epoch, put.first);
        if !self.reachable(to) || put.until < self.now {
            self.puts.remove(&chunk);
            return;
        }
        let process = &self.processes[to];
        let known = process.map.pgs.iter().find(|known| known.id == pg).map_or(0, |known| known.epoch.0);
        if known < epoch.0 && tries < 10 {
            return self.at(100, Event::PutAt { to, put: chunk, tries: tries + 1 });
        }
        let Ok(found) = process.may_acknowledge(self.now, pg, epoch) else {
            self.puts.remove(&chunk);
            return;
        };
        let at = self.who(to);
        if to == first {
            let live: Vec<ReplicaId> = found
                .members
                .iter()
                .filter(|member| member.state != MemberState::Away && member.replica != process.replica)
                .map(|member| member.replica)
                .collect();
            if 1 + live.len() < usize::from(found.factor.min(2)) {
                self.tally.count("too_few");
                self.puts.remove(&chunk);
                return;
            }
            let others: Option<BTreeSet<usize>> =
                live.iter().map(|replica| self.processes.iter().position(|other| other.replica == *replica)).collect();
            let Some(others) = others else { return };
            for other in &others {
                let delay = self.delay();
                self.at(delay, Event::PutAt { to: *other, put: chunk, tries: 0 });
            }
            if let Some(put) = self.puts.get_mut(&chunk) {
                put.others = others;
                put.begun = true;
            }
        }
        let delay = self.rng.random_range(1..60);
        self.at(delay, Event::Stored { at, put: chunk });
    }

    fn stored(&mut self, at: Who, chunk: u64) -> Result<(), Violation> {
        let Some(put) = self.puts.get_mut(&chunk).filter(|_| self.processes[at.process].boot == at.boot) else {
            return Ok(());
        };
        let (pg, epoch, first) = (put.pg, put.epoch, put.first);
        let process = &mut self.processes[at.process];
        if !process.alive {
            return Ok(());
        }
        process.store.entry(pg).or_default().insert(chunk);
        if at.process == first {
            put.stored = true;
            return self.acknowledge(chunk);
        }
        if process.may_acknowledge(self.now, pg, epoch).is_err() {
            return Ok(());
        }
        self.must_count(at.process, pg)?;
        let (to, delay) = (self.who(first), self.delay());
        self.at(delay, Event::Forwarded { to, put: chunk, by: at.process });
        Ok(())
    }

    /// The first member answers its client once all have the chunk.
    fn acknowledge(&mut self, chunk: u64) -> Result<(), Violation> {
        let Some(put) = self.puts.get(&chunk) else { return Ok(()) };
        if !put.begun || !put.stored || !put.others.is_empty() || put.until < self.now {
            return Ok(());
        }
        let (pg, epoch, first) = (put.pg, put.epoch, put.first);
        self.puts.remove(&chunk);
        if self.processes[first].may_acknowledge(self.now, pg, epoch).is_err() {
            self.tally.count("refused_at_the_end");
            return Ok(());
        }
        self.tally.count("acknowledged");
        self.acked.entry(pg).or_default().insert(chunk);
        self.must_count(first, pg)?;
        self.judge_pg(pg)
    }

    fn catch_up(&mut self, at: usize) {
        if self.processes[at].wiped {
            return;
        }
        self.at(CATCH_UP, Event::CatchUp(at));
        if !self.reachable(at) {
            return;
        }
        let from = self.who(at);
        let map = self.processes[at].map.clone();
        for pg in &map.pgs {
            if self.processes[at].state(pg) != Some(MemberState::Behind) {
                continue;
            }
            let now = self.now;
            let fresh = Progress { epoch: pg.epoch, after: 0, complete: false, busy_until: 0 };
            let progress = self.processes[at].catch_up.entry(pg.id).or_insert(fresh);
            if progress.epoch != pg.epoch {
                *progress = fresh;
            }
            if progress.complete || progress.busy_until > now {
                continue;
            }
            progress.busy_until = now + 3_000;
            let after = progress.after;
            let me = self.processes[at].replica;
            let serving = |member: &&site::PgMember| member.state == MemberState::Serving && member.replica != me;
            let sources: Vec<ReplicaId> = pg.members.iter().filter(serving).map(|member| member.replica).collect();
            let Some(source) = sources.choose(&mut self.rng) else { continue };
            let Some(to) = self.processes.iter().position(|process| process.replica == *source) else { continue };
            let (version, delay) = (map.version, self.delay());
            self.at(delay, Event::List { from, to, pg: pg.id, epoch: pg.epoch, version, after });
        }
    }

    // ---- faults ----

    fn fault(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        let delay = self.rng.random_range(200..6_000);
        self.at(delay, Event::Fault);
        let there: Vec<usize> = (0..self.processes.len()).filter(|at| !self.processes[*at].wiped).collect();
        let at = *there.choose(&mut self.rng).expect("a wiped process has a successor");
        let until = match self.rng.random_range(0..3u32) {
            0 => self.rng.random_range(50..1_500),
            _ => self.rng.random_range(1_500..12_000),
        };
        match self.rng.random_range(0..20u32) {
            0..=4 => {
                self.tally.count("cut_off");
                self.processes[at].cut = true;
                let delay = self.rng.random_range(500..4_000);
                self.at(delay, Event::Missed);
            }
            5..=8 => {
                self.tally.count("crashes");
                self.processes[at].alive = false;
                self.no_leader(at)?;
            }
            9..=12 => {
                self.tally.count("pauses");
                self.processes[at].paused_until = self.now + until;
                return Ok(());
            }
            13 => self.processes[at].full ^= true,
            14 if there.len() < 7 => {
                self.new_process(None);
                return Ok(());
            }
            15 if self.others_stay(at) => {
                self.tally.count("wipes");
                self.wipe(at)?;
                return Ok(());
            }
            16 if self.others_stay(at) && self.processes[at].replica.node.0 > 0 => {
                // A new folder at the same address, while the old one is only cut off, and is back one day.
                self.tally.count("replaced");
                self.processes[at].cut = true;
                let addr = self.processes[at].addr.clone();
                self.new_process(Some(addr));
            }
            _ => {
                let (back, all) = (self.rng.random_range(0..self.maps.len().max(1)), self.maps.len());
                if let Some(map) = self.maps.get(all.saturating_sub(1 + back)).cloned() {
                    self.processes[at].offer(&map);
                }
                return Ok(());
            }
        }
        self.at(until, Event::Repair(at));
        Ok(())
    }

    /// A process that ends leads nothing when it is back.
    fn no_leader(&mut self, at: usize) -> Result<(), Violation> {
        let delay = self.rng.random_range(500..4_000);
        self.at(delay, Event::Missed);
        if self.leader == Some(at) { self.depose() } else { Ok(()) }
    }

    fn repair(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if process.wiped {
            return;
        }
        process.cut = false;
        if !process.alive {
            // The map in the folder is as old as its last writing.
            let back = self.rng.random_range(0..3usize);
            let map = self.maps.get(self.maps.len().saturating_sub(1 + back)).cloned().unwrap_or_default();
            let map = if map.version < process.map.version { map } else { process.map.clone() };
            process.restart(self.now, map);
        }
    }

    /// Whether the site goes on without this one: its group would be lost with the last members.
    fn others_stay(&self, at: usize) -> bool {
        let stays = |process: &&Process| {
            !process.wiped && process.addr != self.processes[at].addr && knows(&self.map, process.replica)
        };
        self.processes.iter().filter(stays).count() >= 2
    }

    /// The folder is lost; a new one takes its place at the same address.
    fn wipe(&mut self, at: usize) -> Result<(), Violation> {
        self.lose_folder(at)?;
        let addr = self.processes[at].addr.clone();
        self.new_process(Some(addr));
        Ok(())
    }

    fn lose_folder(&mut self, at: usize) -> Result<(), Violation> {
        let replica = self.processes[at].replica;
        // Who is behind may be about to serve: its report is on its way.
        let counts =
            |pg: &&Pg| pg.members.iter().any(|member| member.replica == replica && member.state != MemberState::Away);
        self.hurt.extend(self.map.pgs.iter().filter(counts).map(|pg| pg.id));
        let process = &mut self.processes[at];
        (process.wiped, process.alive, process.leads, process.duty) = (true, false, None, None);
        process.store.clear();
        self.no_leader(at)
    }

    fn calm_down(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.slow_until = 0;
        self.at(1_000, Event::Missed);
        for at in 0..self.processes.len() {
            self.processes[at].paused_until = 0;
            self.processes[at].full = false;
            self.repair(at);
        }
        // Of two processes at one address one stays, that which the site knows if it knows one; an operator has seen to
        // it.
        let there: Vec<usize> = (0..self.processes.len()).filter(|at| !self.processes[*at].wiped).collect();
        for at in &there {
            let Process { replica, addr, .. } = &self.processes[*at];
            let rival = there.iter().map(|other| (*other, &self.processes[*other])).find(|(other, process)| {
                let known = knows(&self.map, process.replica);
                other != at && process.addr == *addr && (known || (other > at && !knows(&self.map, *replica)))
            });
            if rival.is_some() && !self.processes[*at].wiped {
                self.lose_folder(*at)?;
            }
        }
        let gone = |waiter: &Waiter| matches!(waiter, Waiter::Join(who) if self.processes[who.process].wiped);
        self.proposals.retain(|proposal| !gone(&proposal.waiter));
        Ok(())
    }

    // ---- laws ----

    /// How the site stands, for whoever looks into a broken law.
    fn describe(&self) -> String {
        let mut text = format!("at {} ms map {} leader {:?}", self.now, self.map.version, self.leader);
        for (at, process) in self.processes.iter().enumerate().filter(|(_, process)| !process.wiped) {
            let Process { replica, addr, alive, cut, map, leads, .. } = process;
            text += &format!(
                "; process {at}: {replica} {addr} alive={alive} cut={cut} map={} leads={leads:?} lease={:?} duty={}",
                map.version,
                process.lease_left(self.now),
                process.duty.is_some()
            );
        }
        text
    }

    /// Who passes the check for the right to acknowledge is a member that counts, whatever it may know itself.
    fn must_count(&self, process: usize, pg: PgId) -> Result<(), Violation> {
        let replica = self.processes[process].replica;
        let pg = self.map.pgs.iter().find(|known| known.id == pg);
        let member = pg.and_then(|pg| pg.members.iter().find(|member| member.replica == replica));
        match member {
            Some(member) if member.state != MemberState::Away => Ok(()),
            found => {
                let what = format!("{replica} acknowledged at {} ms, and is {found:?} in {pg:?}", self.now);
                Err(broken("who was removed acknowledges nothing", what))
            }
        }
    }

    /// Who serves has everything that was acknowledged.
    fn judge_pg(&self, id: PgId) -> Result<(), Violation> {
        let Some(pg) = self.map.pgs.iter().find(|pg| pg.id == id) else { return Ok(()) };
        let Some(acked) = self.acked.get(&id) else { return Ok(()) };
        let mut serves = false;
        for member in pg.members.iter().filter(|member| member.state == MemberState::Serving) {
            let holder = self.processes.iter().find(|process| process.replica == member.replica && !process.wiped);
            let Some(holder) = holder else { continue };
            serves = true;
            if let Some(lost) = acked.iter().find(|chunk| !holder.holds(id, **chunk)) {
                let what = format!("{} serves {pg:?} without chunk {lost} at {} ms", member.replica, self.now);
                return Err(broken("who serves has what was acknowledged", what));
            }
        }
        if !serves && !self.hurt.contains(&id) {
            return Err(broken("somebody serves", format!("{pg:?} at {} ms", self.now)));
        }
        Ok(())
    }

    fn judge_map(&self, before: &SiteMap) -> Result<(), Violation> {
        if self.map.version <= before.version {
            return Err(broken("versions rise", format!("from {} to {}", before.version, self.map.version)));
        }
        for pg in &self.map.pgs {
            let was = before.pgs.iter().find(|was| was.id == pg.id);
            if was.is_some_and(|was| was == pg) {
                continue;
            }
            if pg.epoch.0 != was.map_or(0, |was| was.epoch.0) + 1 {
                return Err(broken("epochs rise one by one", format!("{was:?} became {pg:?}")));
            }
            self.judge_pg(pg.id)?;
        }
        Ok(())
    }

    /// Nothing has broken for a while: everybody serves, nothing is left to change, and every placement group that can
    /// take chunks does.
    fn finish(&mut self) -> Result<(), Violation> {
        let mut uploads = Vec::new();
        for pg in self.map.pgs.clone() {
            self.judge_pg(pg.id)?;
            let current = |replica: ReplicaId| {
                let alive = self.processes.iter().any(|process| process.replica == replica && process.alive);
                alive && knows(&self.map, replica)
            };
            let members = pg.members.iter();
            let serving = members.clone().filter(|member| member.state == MemberState::Serving);
            if !serving.clone().any(|member| current(member.replica)) {
                // Whoever had everything lost its folder: what is left of it waits for a decision of people.
                self.tally.count("lost_groups");
                continue;
            }
            let stuck = members.clone().find(|member| current(member.replica) && member.state != MemberState::Serving);
            if let Some(stuck) = stuck {
                let process = self.processes.iter().find(|process| process.replica == stuck.replica);
                let progress = process.and_then(|process| process.catch_up.get(&pg.id));
                let what = format!("{stuck:?} of {pg:?} does not serve, and is at {progress:?}");
                return Err(broken("everybody serves again", what));
            }
            let gone = members.clone().any(|member| !current(member.replica) && member.state != MemberState::Away);
            let live = members.filter(|member| member.state != MemberState::Away).count();
            if gone || live < usize::from(pg.factor.min(2)) {
                self.tally.count("short_groups");
                continue;
            }
            let chunk = self.put_into(&pg);
            uploads.extend(chunk.map(|chunk| (pg, chunk)));
        }
        self.until(self.now + 4_000)?;
        for (pg, chunk) in uploads {
            if !self.acked.get(&pg.id).is_some_and(|acked| acked.contains(&chunk)) {
                return Err(broken("every group takes chunks", format!("{pg:?} did not")));
            }
        }
        let waits = self.processes.iter().find(|process| !process.wiped && process.replica.node.0 == 0);
        if let Some(waits) = waits {
            return Err(broken("who asks may join", format!("{} at {}", waits.replica, waits.addr)));
        }
        let away = self.map.nodes.iter().find(|node| node.status != NodeStatus::Up);
        if let Some(away) = away {
            return Err(broken("everybody serves again", format!("{away:?}")));
        }
        let Some(leader) = self.leader else { return Err(broken("somebody leads", "nobody does")) };
        let leading = &self.processes[leader];
        let left = plan(&self.map, &seen(leading, &self.map, leading.clock(self.now)));
        if left.is_empty() { Ok(()) } else { Err(broken("a plan comes to rest", format!("{left:?} is left to do"))) }
    }
}

/// Whether the map lists this life of the node.
fn knows(map: &SiteMap, replica: ReplicaId) -> bool {
    map.nodes.iter().any(|node| node.replica() == replica)
}

/// What the planner needs to know of who was heard of.
fn seen(leader: &Process, map: &SiteMap, now: Instant) -> Seen {
    let presence = |replica: ReplicaId| match leader.beats.heard(now, replica) {
        Heard::Alive(beat) => Presence::Alive(Report { full: beat.full, complete: beat.complete }),
        Heard::Silent => Presence::Silent,
        Heard::Unsure => Presence::Unsure,
    };
    Seen { nodes: map.nodes.iter().map(|node| (node.id, presence(node.replica()))).collect() }
}
