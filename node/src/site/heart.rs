//! Heartbeats: every so often the node tells the leader of the system group that it lives and how its disk is, and
//! gets a lease and the newest site map.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use weft_core::codec;
use weft_core::ids::{GroupId, VolumeId};
use weft_core::refusal::Refusal;
use weft_core::site::{Labels, MemberState, NodeStatus};
use weft_proto::convert::Envelope;
use weft_proto::pb;
use weft_proto::pb::site_server::Site;
use weft_proto::status;

use super::map::MapCell;
use super::service::SiteService;
use crate::chunk::{ChunkHealth, ChunkServer};
use crate::identity::{Folder, Identity};
use crate::meta::Groups;
use crate::metrics::{GroupLevels, Metrics, NodeLevels};
use crate::parts::Disk;
use crate::trust::desk::Desk;

/// How long one heartbeat may take; also the time after which another leader is looked for.
const BEAT: Duration = Duration::from_millis(2500);
/// The site map is written to the folder no more often than this.
const REMEMBER: Duration = Duration::from_secs(1);

/// What this node knows of itself.
pub struct Standing {
    /// Who it is.
    pub identity: Identity,
    /// Where it answers.
    pub addr: String,
    /// Where its machine stands.
    pub labels: Labels,
    /// Its meta groups.
    pub groups: Option<Arc<Groups>>,
    /// Its chunk server.
    pub chunk: Option<Arc<ChunkServer>>,
    /// The map it holds.
    pub map: MapCell,
    /// Its disk.
    pub disk: Arc<dyn Disk>,
    /// What it counted.
    pub metrics: Metrics,
    lease_until: Mutex<Option<Instant>>,
    attached: Mutex<Vec<VolumeId>>,
    dropped: Mutex<Vec<VolumeId>>,
    hurry: Notify,
    trust: OnceLock<Desk>,
}

impl Standing {
    /// No lease yet. It answers at the address, and its machine stands where the labels say.
    pub fn new(
        identity: Identity,
        (addr, labels): (String, Labels),
        groups: Option<Arc<Groups>>,
        chunk: Option<Arc<ChunkServer>>,
        map: MapCell,
        disk: Arc<dyn Disk>,
        metrics: Metrics,
    ) -> Standing {
        Standing {
            identity,
            addr,
            labels,
            groups,
            chunk,
            map,
            disk,
            metrics,
            lease_until: Mutex::new(None),
            attached: Mutex::default(),
            dropped: Mutex::default(),
            hurry: Notify::new(),
            trust: OnceLock::new(),
        }
    }

    /// What is counted about trust is shown from now on.
    pub(crate) fn shows_trust(&self, desk: Desk) {
        // Set once, at the start of the node.
        let _ = self.trust.set(desk);
    }

    /// How long the lease still runs.
    pub fn lease_left(&self) -> Duration {
        self.lease_until.lock().map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// The records of a volume are there: the next heartbeat says so, at once.
    pub fn attached(&self, volume: VolumeId) {
        let mut attached = self.attached.lock();
        if !attached.contains(&volume) {
            attached.push(volume);
            self.hurry.notify_one();
        }
    }

    /// Whether the records of a volume are known to be there.
    pub fn has_attached(&self, volume: VolumeId) -> bool {
        self.attached.lock().contains(&volume)
    }

    /// The records of a volume are gone: the next heartbeat says so, at once.
    pub fn dropped(&self, volume: VolumeId) {
        let mut dropped = self.dropped.lock();
        if !dropped.contains(&volume) {
            dropped.push(volume);
            self.hurry.notify_one();
        }
    }

    /// Whether the records of a volume are known to be gone.
    pub fn has_dropped(&self, volume: VolumeId) -> bool {
        self.dropped.lock().contains(&volume)
    }

    /// What `weft cluster status` shows of this node.
    pub async fn report(&self) -> pb::NodeStatusReply {
        let levels = self.levels().await;
        pb::NodeStatusReply {
            node: self.identity.node.0,
            incarnation: self.identity.incarnation.0,
            version: env!("CARGO_PKG_VERSION").into(),
            groups: self.groups.as_ref().map(|groups| groups.status()).unwrap_or_default(),
            total_bytes: levels.total_bytes,
            free_bytes: levels.free_bytes,
            chunk_bytes: levels.chunk_bytes,
            chunks: levels.chunks,
            lease_left_ms: u32::try_from(levels.lease_left_ms).unwrap_or(u32::MAX),
            map_version: levels.map_version,
            uptime_ms: self.metrics.uptime().as_millis() as u64,
            chunk_health: self.chunk.as_ref().map(|chunk| wire_health(&chunk.health())),
            lost_logs: levels.lost_logs,
            lost_records: levels.lost_records,
            certificate_until: 0,
        }
    }

    async fn levels(&self) -> NodeLevels {
        let map = self.map.get();
        let mut levels = NodeLevels {
            lease_left_ms: self.lease_left().as_millis() as u64,
            map_version: map.version,
            nodes_up: map.nodes.iter().filter(|node| node.status != NodeStatus::Away).count() as u64,
            pgs_degraded: map
                .pgs
                .iter()
                .filter(|pg| {
                    let serving = pg.members.iter().filter(|member| member.state == MemberState::Serving);
                    serving.count() < usize::from(pg.factor)
                })
                .count() as u64,
            ..NodeLevels::default()
        };
        if let Some(groups) = &self.groups {
            levels.lost_logs = groups.lost_logs();
            levels.lost_records = groups.records_thrown_away();
        }
        if let Some(chunk) = &self.chunk {
            let facts = chunk.heartbeat_facts();
            levels.chunk_bytes = facts.chunk_bytes;
            levels.chunks = facts.chunks;
            levels.full = facts.full;
            let asked = chunk.counters();
            levels.chunk_puts = asked.puts.load(Ordering::Relaxed);
            levels.chunk_put_bytes = asked.put_bytes.load(Ordering::Relaxed);
            levels.chunk_gets = asked.gets.load(Ordering::Relaxed);
            levels.chunk_get_bytes = asked.get_bytes.load(Ordering::Relaxed);
            levels.chunks_not_trusted = asked.not_trusted.load(Ordering::Relaxed);
            levels.chunks_fetched = asked.fetched.load(Ordering::Relaxed);
            levels.bad_sums = chunk.bad_sums();
            levels.chunks_orphaned = asked.orphans.load(Ordering::Relaxed) + asked.left.load(Ordering::Relaxed);
            (levels.chunks_deleted, levels.chunk_bytes_given_back) = chunk.store().given_back();
            levels.chunk_health = chunk.health();
        }
        if let Some(groups) = &self.groups {
            levels.extents_compacted = groups.compacted().extents.load(Ordering::Relaxed);
            levels.bytes_compacted = groups.compacted().bytes.load(Ordering::Relaxed);
        }
        if let Some(desk) = self.trust.get() {
            let tally = desk.audit.tally();
            (levels.trust_denied, levels.trust_refused) = (tally.denied, tally.refused);
            levels.trust_crowded = tally.crowded;
            let left = desk.keeper.as_ref().map_or(0, |keeper| keeper.until() - desk.clock.now().secs);
            levels.certificate_left_s = u64::try_from(left).unwrap_or(0);
        }
        match self.disk.space().await {
            Ok(space) => {
                levels.total_bytes = space.total_bytes;
                levels.free_bytes = space.free_bytes;
            }
            Err(error) => tracing::warn!(%error, "ask the disk for its space"),
        }
        levels
    }
}

fn wire_health(health: &ChunkHealth) -> pb::ChunkHealth {
    let catch_up = &health.catch_up;
    pb::ChunkHealth {
        reread: health.reread,
        reread_bytes: health.reread_bytes,
        damaged: health.damaged,
        missing: health.missing,
        healed: health.healed,
        waiting: health.waiting,
        unhealed: health.unhealed,
        catch_up_chunks: catch_up.chunks,
        catch_up_bytes: catch_up.bytes,
        caught_up_chunks: catch_up.done_chunks,
        caught_up_bytes: catch_up.done_bytes,
        catch_up_ms: catch_up.since.map_or(0, |since| since.elapsed().as_millis() as u64),
        catch_up_groups: catch_up.groups,
    }
}

impl crate::http::Pages for Standing {
    fn metrics(&self) -> futures::future::BoxFuture<'_, String> {
        Box::pin(async {
            let levels = self.levels().await;
            let groups = self.groups.as_ref().map(|groups| groups.status()).unwrap_or_default();
            let groups: Vec<GroupLevels> = groups
                .iter()
                .map(|group| GroupLevels {
                    group: group.group,
                    leader: group.leader,
                    term: group.term,
                    last_log: group.last_log,
                    committed: group.committed,
                    applied: group.applied,
                    purged: group.purged,
                    rebuilding: group.rebuilding,
                })
                .collect();
            self.metrics.page(levels, &groups)
        })
    }

    fn health(&self) -> Result<String, String> {
        if self.map.get().version == 0 {
            return Err("no site map yet: no other node has answered".into());
        }
        if self.chunk.is_some() && self.lease_left().is_zero() {
            return Err("no lease: the leader of the system group does not answer".into());
        }
        Ok("ok".into())
    }
}

/// Sends heartbeats until `stop` is true or its sender is gone.
pub async fn run(service: SiteService, every: Duration, mut stop: watch::Receiver<bool>) {
    let standing = service.standing.clone();
    let mut remembered = (0, Instant::now() - REMEMBER);
    let mut unwelcome = None;
    let mut renewal = None;
    loop {
        let sent = Instant::now();
        match tokio::time::timeout(BEAT, beat(&service, sent)).await {
            Ok(Ok(())) => unwelcome = None,
            // Nothing that this node does can change it: people must hear of it, once.
            Ok(Err(refusal @ Refusal::WrongRecipient { .. })) => {
                if unwelcome.as_ref() != Some(&refusal) {
                    tracing::error!(%refusal, "the site does not take this node's heartbeats");
                }
                unwelcome = Some(refusal);
            }
            Ok(Err(refusal)) => tracing::debug!(%refusal, "heartbeat"),
            Err(_) => tracing::debug!("heartbeat: no answer in time"),
        }
        crate::trust::renew::look(&service, &mut renewal).await;
        if remembered.1.elapsed() >= REMEMBER {
            remember(&standing, &mut remembered).await;
        }
        tokio::select! {
            biased;
            () = crate::node::stopped(&mut stop) => return remember(&standing, &mut remembered).await,
            () = standing.hurry.notified() => {}
            () = tokio::time::sleep_until(sent + every) => {}
        }
    }
}

/// Writes the site map to the folder if it is newer than the one written last.
async fn remember(standing: &Standing, last: &mut (u64, Instant)) {
    let map = standing.map.get();
    if map.version > last.0 {
        match Folder(&*standing.disk).set_last_map(&codec::encode_sitemap(&map)).await {
            Ok(()) => *last = (map.version, Instant::now()),
            Err(error) => tracing::warn!(%error, "remember the site map"),
        }
    }
}

async fn beat(service: &SiteService, sent: Instant) -> Result<(), Refusal> {
    let standing = &service.standing;
    let map = standing.map.get();
    standing
        .attached
        .lock()
        .retain(|volume| map.volumes.iter().any(|known| known.id == *volume && !known.ready) || map.version == 0);
    standing.dropped.lock().retain(|volume| map.volumes.iter().any(|known| known.id == *volume));
    let mut request = pb::HeartbeatRequest {
        envelope: Some(Envelope { deadline_ms: BEAT.as_millis() as u32, ..Envelope::default() }.to_wire()),
        node: standing.identity.node.0,
        incarnation: standing.identity.incarnation.0,
        addr: standing.addr.clone(),
        host: standing.labels.host.clone(),
        rack: standing.labels.rack.clone(),
        zone: standing.labels.zone.clone(),
        have_map: map.version,
        adopted_map: map.version,
        have_trust: service.keeper.as_ref().map_or(0, |keeper| keeper.news().version),
        attached: standing.attached.lock().iter().map(|volume| volume.0).collect(),
        dropped: standing.dropped.lock().iter().map(|volume| volume.0).collect(),
        lost_logs: standing.groups.as_ref().map_or(0, |groups| groups.lost_logs()),
        ..pb::HeartbeatRequest::default()
    };
    if let Some(chunk) = &standing.chunk {
        let facts = chunk.heartbeat_facts();
        request.total_bytes = facts.total_bytes;
        request.free_bytes = facts.free_bytes;
        request.chunk_bytes = facts.chunk_bytes;
        request.chunks = facts.chunks;
        request.full = facts.full;
        request.adopted_map = facts.adopted_map;
        for (pg, epoch) in facts.complete {
            request.complete.push(pg.0);
            request.complete_epochs.push(epoch.0);
        }
    }
    // The node asks itself as it would ask another: its own service finds the leader.
    let reply = service.heartbeat(tonic::Request::new(request)).await.map_err(|status| status::from_status(&status))?;
    let reply = reply.into_inner();
    if !reply.map.is_empty() {
        let newest = codec::decode_sitemap(&reply.map)
            .map_err(|error| Refusal::Invalid { why: format!("site map from the leader: {error}") })?;
        standing.map.offer(newest);
    }
    if let (Some(keeper), false) = (&service.keeper, reply.trust.is_empty()) {
        let news = codec::decode_trust(&reply.trust)
            .map_err(|error| Refusal::Invalid { why: format!("what the leader says of trust: {error}") })?;
        if let Err(error) = keeper.hear(news).await {
            tracing::error!(%error, "take up whom to trust");
        }
    }
    if reply.lease_ms > 0 {
        let until = sent + Duration::from_millis(u64::from(reply.lease_ms));
        *standing.lease_until.lock() = Some(until);
        if let Some(chunk) = &standing.chunk {
            chunk.grant(until, standing.map.get().version);
        }
    }
    Ok(())
}

/// Keeps the map as new as this node's replica of the system group, while it has one.
pub async fn follow_group(groups: Arc<Groups>, map: MapCell, mut stop: watch::Receiver<bool>) {
    loop {
        let Some(group) = groups.group(GroupId::SYSTEM) else {
            tokio::select! {
                biased;
                () = crate::node::stopped(&mut stop) => return,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            continue;
        };
        let mut applied = group.watch_applied();
        loop {
            applied.borrow_and_update();
            if let Err(refusal) = super::refresh(&group, &map) {
                tracing::warn!(%refusal, "read the site map");
            }
            tokio::select! {
                biased;
                () = crate::node::stopped(&mut stop) => return,
                changed = applied.changed() => {
                    if changed.is_err() {
                        // The group was closed here; it may be opened again.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        break;
                    }
                }
            }
        }
    }
}
