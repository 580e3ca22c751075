//! What breaks, and how it is mended.

use super::*;

impl World<'_> {
    pub(super) fn fault(&mut self) -> Result<(), Violation> {
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
        match self.rng.random_range(0..24u32) {
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
            17..=18 => {
                self.drain(at);
                return Ok(());
            }
            19 if self.others_stay(at) && self.processes[at].replica.node.0 > 0 => {
                self.tally.count("deaths");
                self.lose_folder(at)?;
                self.processes[at].dead = true;
                return Ok(());
            }
            20 => {
                self.remove();
                return Ok(());
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

    /// An operator has a node emptied, or no longer.
    fn drain(&mut self, at: usize) {
        let node = self.processes[at].replica.node;
        let Some(known) = self.map.nodes.iter().find(|known| known.id == node) else { return };
        let on = !known.draining;
        self.tally.count(if on { "drains" } else { "undrains" });
        self.order(SiteCommand::DrainNode { node, on });
    }

    /// An operator has the site forget a node that is dead.
    fn remove(&mut self) {
        let dead = |node: ReplicaId| self.processes.iter().any(|process| process.replica == node && process.dead);
        let gone: Vec<NodeId> = self.map.nodes.iter().filter(|node| dead(node.replica())).map(|node| node.id).collect();
        let Some(node) = gone.choose(&mut self.rng).copied() else { return };
        let command = SiteCommand::RemoveNode { node, force: self.rng.random_range(0..3u32) > 0 };
        let Some(leader) = self.leader.filter(|leader| self.reachable(*leader)) else { return };
        let leading = &mut self.processes[leader];
        let (now, map) = (leading.clock(self.now), leading.map.clone());
        if leading.leads == Some(self.term) && leading.beats.condemn(now, &map, &command) {
            self.tally.count("removals");
            self.order(command);
        }
    }

    fn order(&mut self, command: SiteCommand) {
        if self.leader.is_none_or(|leader| !self.reachable(leader)) {
            return;
        }
        self.next += 1;
        self.proposals.push_back(Proposal { id: self.next, term: self.term, command, waiter: Waiter::Nobody });
    }

    /// A process that ends leads nothing when it is back.
    pub(super) fn no_leader(&mut self, at: usize) -> Result<(), Violation> {
        let delay = self.rng.random_range(500..4_000);
        self.at(delay, Event::Missed);
        if self.leader == Some(at) { self.depose() } else { Ok(()) }
    }

    pub(super) fn repair(&mut self, at: usize) {
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
    pub(super) fn others_stay(&self, at: usize) -> bool {
        let stays = |process: &&Process| {
            !process.wiped && process.addr != self.processes[at].addr && knows(&self.map, process.replica)
        };
        self.processes.iter().filter(stays).count() >= 2
    }

    /// The folder is lost; a new one takes its place at the same address.
    pub(super) fn wipe(&mut self, at: usize) -> Result<(), Violation> {
        self.lose_folder(at)?;
        let addr = self.processes[at].addr.clone();
        self.new_process(Some(addr));
        Ok(())
    }

    pub(super) fn lose_folder(&mut self, at: usize) -> Result<(), Violation> {
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

    pub(super) fn calm_down(&mut self) -> Result<(), Violation> {
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
}
