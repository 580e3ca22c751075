//! The right to acknowledge: a chunk server says "stored" only while its lease from the system group runs, only as a
//! member of the placement group that is not called away, and only at the epoch that the caller named.
//!
//! It is looked at again after the chunk is on media. So a chunk that was acknowledged at an epoch lay on every live
//! member of that epoch before any of them adopted the next one, and a listing asked of a member that has adopted an
//! epoch has all chunks acknowledged before it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId, ReplicaId};
use weft_core::refusal::Refusal;
use weft_core::site::right::{Held, may_acknowledge};
use weft_core::site::{Pg, PgMember};

use crate::site::map::MapCell;

/// How long a request waits for a site map that its sender has and this node has not.
const MAP_PATIENCE: Duration = Duration::from_secs(1);

/// One server's right to acknowledge.
pub(crate) struct Right {
    map: MapCell,
    replica: ReplicaId,
    lease: Mutex<Lease>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    until: Option<Instant>,
    map_version: u64,
}

impl Right {
    /// None yet.
    pub(crate) fn new(map: MapCell, replica: ReplicaId) -> Right {
        Right { map, replica, lease: Mutex::default() }
    }

    /// The lease runs until then, for a holder of at least this map.
    pub(crate) fn grant(&self, until: Instant, map_version: u64) {
        let lease = &mut *self.lease.lock();
        lease.until = lease.until.max(Some(until));
        lease.map_version = lease.map_version.max(map_version);
    }

    /// How long the lease still runs.
    pub(crate) fn lease_left(&self) -> Duration {
        let until = self.lease.lock().until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// The placement group at the named epoch, if this server may acknowledge for it. Waits a moment for a newer map
    /// where the caller has one.
    pub(crate) async fn admit(&self, pg: PgId, epoch: PgEpoch) -> Result<Pg, Refusal> {
        let newer = self
            .map
            .watch_until(MAP_PATIENCE, |map| map.pgs.iter().any(|known| known.id == pg && known.epoch >= epoch));
        newer.await;
        self.check(pg, epoch)
    }

    /// As `admit`, at once.
    pub(crate) fn check(&self, pg: PgId, epoch: PgEpoch) -> Result<Pg, Refusal> {
        let map = self.map.get();
        let Lease { until, map_version } = *self.lease.lock();
        let held = Held { runs: until.is_some_and(|until| until > Instant::now()), map_version };
        may_acknowledge(&map, self.replica, held, pg, epoch).cloned()
    }

    /// Whether the map held here is vouched for: a lease runs, and it was given for this map or an older one.
    pub(crate) fn is_current(&self) -> bool {
        let Lease { until, map_version } = *self.lease.lock();
        until.is_some_and(|until| until > Instant::now()) && self.map.get().version >= map_version
    }

    /// Waits a moment for a site map of at least this version.
    pub(crate) async fn adopted(&self, version: u64) -> Result<(), Refusal> {
        match self.map.watch_until(MAP_PATIENCE, |map| map.version >= version).await {
            true => Ok(()),
            false => Err(Refusal::Busy { retry_after_ms: 500 }),
        }
    }

    /// Whether a request is for this server. 0: for whoever gets it.
    pub(crate) fn is_meant(&self, node: u32, incarnation: u64) -> Result<(), Refusal> {
        let ours = self.replica;
        if (node == 0 && incarnation == 0) || (node == ours.node.0 && incarnation == ours.incarnation.0) {
            return Ok(());
        }
        Err(Refusal::WrongRecipient { why: format!("it is for node {node}, this is {ours}") })
    }
}

/// Members that a chunk goes to.
pub(crate) fn live(pg: &Pg) -> impl Iterator<Item = &PgMember> {
    pg.members.iter().filter(|member| member.state.is_live())
}
