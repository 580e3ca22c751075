//! What must hold, and the judgement at the end.

use super::*;

impl World<'_> {
    /// How the site stands, for whoever looks into a broken law.
    pub(super) fn describe(&self) -> String {
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
    pub(super) fn must_count(&self, process: usize, pg: PgId) -> Result<(), Violation> {
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
    pub(super) fn judge_pg(&self, id: PgId) -> Result<(), Violation> {
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

    pub(super) fn judge_map(&self, before: &SiteMap) -> Result<(), Violation> {
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

    /// Nodes that may hold placement groups.
    fn able(&self) -> Vec<ReplicaId> {
        let lives = |replica| self.processes.iter().any(|process| process.replica == replica && process.alive);
        let nodes = self.map.nodes.iter().filter(|node| !node.draining && lives(node.replica()));
        nodes.map(site::Node::replica).collect()
    }

    /// Nothing has broken for a while: everybody serves, nothing is left to change, and every placement group that can
    /// take chunks does.
    pub(super) fn finish(&mut self) -> Result<(), Violation> {
        let mut uploads = Vec::new();
        for pg in self.map.pgs.clone() {
            self.judge_pg(pg.id)?;
            let current = |replica: ReplicaId| {
                let alive = self.processes.iter().any(|process| process.replica == replica && process.alive);
                alive && knows(&self.map, replica)
            };
            let members = pg.members.iter();
            let able = self.able();
            let serving = members.clone().filter(|member| member.state == MemberState::Serving);
            if !serving.clone().any(|member| current(member.replica)) {
                // Whoever had everything lost its folder: what is left of it waits for a decision of people.
                self.tally.count("lost_groups");
                continue;
            }
            let goes = |replica: ReplicaId| !able.contains(&replica);
            let enough = able.len() >= usize::from(pg.factor);
            if enough && (members.len() != usize::from(pg.factor) || members.clone().any(|m| goes(m.replica))) {
                return Err(broken("placement heals", format!("{pg:?} with {able:?} to choose from")));
            }
            let stuck = members.clone().find(|member| !goes(member.replica) && member.state != MemberState::Serving);
            if let Some(stuck) = stuck {
                let process = self.processes.iter().find(|process| process.replica == stuck.replica);
                let progress = process.and_then(|process| process.catch_up.get(&pg.id));
                let what = format!("{stuck:?} of {pg:?} does not serve, and is at {progress:?}");
                return Err(broken("everybody serves again", what));
            }
            let gone = members.clone().any(|member| !current(member.replica) && member.state.is_live());
            let live = members.filter(|member| member.state.is_live()).count();
            if gone || live < site::fewest(pg.factor) {
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
        if !self.processes.iter().any(|process| process.alive && process.replica.node.0 != 0) {
            // Every node of the site died or lost its folder: there is nobody left to ask.
            self.tally.count("lost_sites");
            return Ok(());
        }
        let waits = self.processes.iter().find(|process| !process.wiped && process.replica.node.0 == 0);
        if let Some(waits) = waits {
            return Err(broken("who asks may join", format!("{} at {}", waits.replica, waits.addr)));
        }
        let dead = |node: ReplicaId| self.processes.iter().any(|process| process.replica == node && process.dead);
        let away = self.map.nodes.iter().find(|node| node.status != NodeStatus::Up && !dead(node.replica()));
        if let Some(away) = away {
            return Err(broken("everybody serves again", format!("{away:?}")));
        }
        let Some(leader) = self.leader else { return Err(broken("somebody leads", "nobody does")) };
        let leading = &self.processes[leader];
        let left = plan(&self.map, &seen(leading, &self.map, leading.clock(self.now)));
        if left.is_empty() { Ok(()) } else { Err(broken("a plan comes to rest", format!("{left:?} is left to do"))) }
    }
}
