//! A node's process as far as the site's decisions go: what it stores, what it knows, what it was granted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId, ReplicaId};
use weft_core::refusal::Refusal;
use weft_core::site::right::{Held, may_acknowledge};
use weft_core::site::{MemberState, Pg, SiteCommand, SiteMap};
use weft_node::site::beats::{Beat, Beats};

pub(super) const LEASE: Duration = Duration::from_millis(3000);

/// How far a process has caught up with a placement group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) epoch: PgEpoch,
    pub(super) after: u64,
    pub(super) complete: bool,
    /// An answer is waited for until then.
    pub(super) busy_until: u64,
}

/// What a leader of the system group is about to propose.
pub(super) struct Duty {
    pub(super) map: Rc<SiteMap>,
    pub(super) commands: VecDeque<SiteCommand>,
    /// The proposal under way, and when it is given up.
    pub(super) waits: Option<(u64, u64)>,
}

pub(super) struct Process {
    /// Node 0 before it has joined.
    pub(super) replica: ReplicaId,
    pub(super) addr: String,
    /// Its folder is gone, and it will not be back.
    pub(super) wiped: bool,
    pub(super) alive: bool,
    /// Rises at every start: what was under way before is nobody's any more.
    pub(super) boot: u64,
    /// Nobody reaches it, and it nobody.
    pub(super) cut: bool,
    pub(super) paused_until: u64,
    pub(super) full: bool,
    /// Its clock against the true one, in thousandths.
    rate: u64,
    base: Instant,
    pub(super) map: Rc<SiteMap>,
    lease: (Option<Instant>, u64),
    pub(super) store: BTreeMap<PgId, BTreeSet<u64>>,
    pub(super) catch_up: BTreeMap<PgId, Progress>,
    pub(super) beats: Beats,
    /// The term in which it believes to lead.
    pub(super) leads: Option<u64>,
    pub(super) duty: Option<Duty>,
}

impl Process {
    pub(super) fn new(replica: ReplicaId, addr: String, rate: u64, base: Instant) -> Process {
        Process {
            replica,
            addr,
            wiped: false,
            alive: true,
            boot: 0,
            cut: false,
            paused_until: 0,
            full: false,
            rate,
            base,
            map: Rc::default(),
            lease: (None, 0),
            store: BTreeMap::new(),
            catch_up: BTreeMap::new(),
            beats: Beats::new(LEASE, base),
            leads: None,
            duty: None,
        }
    }

    /// Its clock.
    pub(super) fn clock(&self, now: u64) -> Instant {
        self.base + Duration::from_millis(now * self.rate / 1000)
    }

    /// Memory is lost, the disk is not; the map may be an older one.
    pub(super) fn restart(&mut self, now: u64, map: Rc<SiteMap>) {
        self.boot += 1;
        self.alive = true;
        self.map = map;
        self.lease = (None, 0);
        self.catch_up.clear();
        self.beats = Beats::new(LEASE, self.clock(now));
        self.leads = None;
        self.duty = None;
    }

    pub(super) fn offer(&mut self, map: &Rc<SiteMap>) {
        if map.version > self.map.version {
            self.map = map.clone();
        }
    }

    pub(super) fn grant(&mut self, until: Instant) {
        self.lease.0 = self.lease.0.max(Some(until));
        self.lease.1 = self.lease.1.max(self.map.version);
    }

    pub(super) fn lease_left(&self, now: u64) -> Duration {
        self.lease.0.map_or(Duration::ZERO, |until| until.saturating_duration_since(self.clock(now)))
    }

    pub(super) fn may_acknowledge(&self, now: u64, pg: PgId, epoch: PgEpoch) -> Result<&Pg, Refusal> {
        let runs = self.lease.0.is_some_and(|until| until > self.clock(now));
        may_acknowledge(&self.map, self.replica, Held { runs, map_version: self.lease.1 }, pg, epoch)
    }

    /// Its state in a placement group, as far as it knows.
    pub(super) fn state(&self, pg: &Pg) -> Option<MemberState> {
        pg.members.iter().find(|member| member.replica == self.replica).map(|member| member.state)
    }

    pub(super) fn beat(&self) -> Beat {
        let complete = |pg: &&Pg| self.catch_up.get(&pg.id).is_some_and(|p| p.complete && p.epoch == pg.epoch);
        let behind = self.map.pgs.iter().filter(|pg| self.state(pg) == Some(MemberState::Behind));
        Beat {
            addr: self.addr.clone(),
            full: self.full,
            complete: behind.filter(complete).map(|pg| (pg.id, pg.epoch)).collect(),
            attached: Vec::new(),
            dropped: Vec::new(),
            adopted: self.map.version,
        }
    }

    pub(super) fn holds(&self, pg: PgId, chunk: u64) -> bool {
        self.store.get(&pg).is_some_and(|chunks| chunks.contains(&chunk))
    }
}
