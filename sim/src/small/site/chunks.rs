//! Clients that put chunks, and servers that fetch what they missed.

use super::*;

impl World<'_> {
    pub(super) fn put(&mut self) {
        let delay = self.rng.random_range(1..200);
        self.at(delay, Event::Put);
        // Clients hold maps of any age.
        let back = self.rng.random_range(0..self.maps.len().max(1));
        let Some(map) = self.maps.iter().rev().nth(back * usize::from(self.rng.random::<bool>())) else { return };
        let Some(pg) = map.pgs.choose(&mut self.rng).cloned() else { return };
        self.put_into(&pg);
    }

    pub(super) fn put_into(&mut self, pg: &Pg) -> Option<u64> {
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

    pub(super) fn put_at(&mut self, to: usize, chunk: u64, tries: u32) {
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
                .filter(|member| member.state.is_live() && member.replica != process.replica)
                .map(|member| member.replica)
                .collect();
            if 1 + live.len() < site::fewest(found.factor) {
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

    pub(super) fn stored(&mut self, at: Who, chunk: u64) -> Result<(), Violation> {
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
    pub(super) fn acknowledge(&mut self, chunk: u64) -> Result<(), Violation> {
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

    pub(super) fn catch_up(&mut self, at: usize) {
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
}
