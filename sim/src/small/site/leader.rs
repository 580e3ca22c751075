//! The leader of the system group: elections, proposals, and what is applied.

use super::*;

impl World<'_> {
    pub(super) fn new_leader(&mut self) -> Result<(), Violation> {
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
    pub(super) fn depose(&mut self) -> Result<(), Violation> {
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

    pub(super) fn elect(&mut self, next: usize) {
        self.tally.count("elections");
        self.term += 1;
        self.leader = Some(next);
        self.processes[next].leads = Some(self.term);
    }

    pub(super) fn look(&mut self, at: usize) {
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
    pub(super) fn go_on(&mut self, at: usize) {
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
    pub(super) fn settle(&mut self, proposal: Proposal) -> Result<(), Violation> {
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
            Waiter::Duty(_) | Waiter::Join(_) | Waiter::Nobody => {}
        }
        Ok(())
    }

    pub(super) fn join(&mut self, at: usize) {
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
        let heard = |there: &site::Node| leading.beats.heard(leading.clock(self.now), there.replica());
        let free = there.is_none_or(|there| matches!(heard(there), Heard::Silent(_)));
        if free {
            self.tally.count("joins");
            self.next += 1;
            let (id, term, waiter) = (self.next, self.term, Waiter::Join(self.who(at)));
            self.proposals.push_back(Proposal { id, term, command: SiteCommand::Join(join), waiter });
        }
    }

    /// Applies a command to the system group. `None`: it was refused.
    pub(super) fn apply(&mut self, command: &SiteCommand) -> Result<Option<SiteOutcome>, Violation> {
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
}
