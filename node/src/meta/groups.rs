//! All meta groups of a node: opened from what the shared log holds, and watched while they run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use weft_core::ids::{GroupId, ReplicaId};
use weft_core::refusal::Refusal;
use weft_proto::pb;

use super::compact::Compacted;
use super::duties;
use super::forsake::{self, Opened};
use super::garbage;
use super::group::Group;
use super::log::SegmentLog;
use super::machine::Machine;
use super::raft::{Consensus, Network};
use super::spool;
use crate::identity::Identity;
use crate::parts::{Dice, Parts};
use crate::settings::{RaftSettings, Settings};
use crate::site::map::MapCell;
use crate::site::peers::Peers;

/// The folder of the record stores, in the data folder.
const RECORDS_FOLDER: &str = "records";
/// The folder of snapshots being received, in the data folder.
const SPOOL_FOLDER: &str = "incoming";
/// First and longest pause before a replica that stopped by itself is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(30);

/// All meta groups of a node.
pub struct Groups {
    parts: Parts,
    settings: RaftSettings,
    keep_freed: Duration,
    compacted: Compacted,
    identity: Identity,
    addr: String,
    records: PathBuf,
    map: MapCell,
    /// Channels of their own, so that heartbeats don't queue behind chunks.
    peers: Peers,
    log: RwLock<Arc<SegmentLog>>,
    /// How many damaged logs were given up before this one.
    lost_logs: AtomicU32,
    /// How often records were found damaged and rebuilt, since the start.
    rebuilt: AtomicU64,
    open: Mutex<BTreeMap<GroupId, Arc<Group>>>,
    /// Held while a group is opened or closed.
    opening: tokio::sync::Mutex<bool>,
    /// Groups that are receiving a snapshot.
    receiving: Mutex<BTreeSet<GroupId>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Groups {
    /// Opens every group that the node's log knows.
    ///
    /// # Errors
    /// The log or a record store can't be opened.
    pub async fn open(
        parts: &Parts,
        settings: &Settings,
        identity: &Identity,
        map: MapCell,
        _peers: Peers,
    ) -> io::Result<Arc<Groups>> {
        let records = settings.data.join(RECORDS_FOLDER);
        let opened = forsake::open(parts, &settings.raft, &records, identity.node, &map.get()).await?;
        let Opened { log, groups: recovered, lost } = opened;
        let addr = if settings.advertise.is_empty() { &settings.listen } else { &settings.advertise };
        let groups = Arc::new(Groups {
            parts: parts.clone(),
            settings: settings.raft.clone(),
            keep_freed: Duration::from_secs(settings.chunks.keep_freed_s),
            compacted: Compacted::default(),
            identity: identity.clone(),
            addr: addr.clone(),
            records,
            peers: Peers::new(parts.dial.clone(), map.clone()),
            map,
            log: RwLock::new(log),
            lost_logs: AtomicU32::new(lost),
            rebuilt: AtomicU64::new(0),
            open: Mutex::default(),
            opening: tokio::sync::Mutex::new(true),
            receiving: Mutex::default(),
            tasks: Mutex::default(),
        });
        for id in recovered.into_keys() {
            groups.clone().open_group(id).await?;
        }
        let weak = Arc::downgrade(&groups);
        groups.in_background(duties::persist(weak.clone()));
        groups.in_background(duties::lead(weak.clone()));
        groups.in_background(garbage::run(weak));
        Ok(groups)
    }

    /// A group, if this node holds a replica of it.
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.open.lock().get(&id).cloned()
    }

    /// All groups of which this node holds a replica, by id.
    pub fn all(&self) -> Vec<Arc<Group>> {
        self.open.lock().values().cloned().collect()
    }

    /// Makes this node the only member of a new group. Repeating it changes nothing.
    ///
    /// # Errors
    /// The group can't be opened, or is not led after a while.
    pub async fn bootstrap(self: &Arc<Self>, id: GroupId) -> Result<(), Refusal> {
        let group = self.ensure(id).await?;
        if !group.consensus().initialized().await {
            group.consensus().initialize(&self.addr).await?;
        }
        group.consensus().elect_if_alone().await;
        let mut leading = group.watch_leading();
        match tokio::time::timeout(Duration::from_secs(10), leading.wait_for(|leading| *leading)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::Unknown { why: format!("group {id} has no leader yet") }),
        }
    }

    /// What this node knows of its groups, as `weft cluster status` shows it.
    pub fn status(&self) -> Vec<pb::GroupStatus> {
        let status = |group: Arc<Group>| {
            let status = group.status();
            pb::GroupStatus {
                group: group.id().0,
                leader: status.leading,
                leader_node: status.leader.map_or(0, |leader| leader.node.0),
                term: status.term,
                last_log: status.last_log,
                committed: status.committed,
                applied: status.applied,
                voters: status.voters.iter().map(|id| id.node.0).collect(),
                learners: status.learners.iter().map(|id| id.node.0).collect(),
                snapshot: status.snapshot,
                purged: status.purged,
                changing: status.changing,
                rebuilding: status.rebuilding,
                voter_incarnations: status.voters.iter().map(|id| id.incarnation.0).collect(),
            }
        };
        self.all().into_iter().map(status).collect()
    }

    /// Stops all groups and makes their records durable, so that the next start has little to replay.
    pub async fn shutdown(&self) {
        *self.opening.lock().await = false;
        self.tasks.lock().abort_all();
        let open = std::mem::take(&mut *self.open.lock());
        for group in open.values() {
            group.close().await;
        }
        for group in open.values() {
            if let Err(error) = group.machine().persist_if_dirty().await {
                tracing::warn!(group = %group.id(), %error, "make records durable");
            }
        }
        let log = self.log.read().clone();
        if let Err(error) = log.flush().await {
            tracing::warn!(%error, "flush the log");
        }
    }

    /// The group, opened as an empty replica if it is not here yet.
    ///
    /// # Errors
    /// It can't be opened, or the node is being stopped.
    pub(crate) async fn ensure(self: &Arc<Self>, id: GroupId) -> Result<Arc<Group>, Refusal> {
        if let Some(group) = self.group(id) {
            return Ok(group);
        }
        self.clone().open_group(id).await.map_err(|error| Refusal::NotServed { what: format!("group {id}: {error}") })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Who this node is in its meta groups.
    pub(crate) fn me(&self) -> ReplicaId {
        self.identity.replica().after_lost_logs(self.lost_logs())
    }

    /// How many damaged logs this node gave up.
    pub fn lost_logs(&self) -> u32 {
        self.lost_logs.load(Ordering::Acquire)
    }

    /// How often records of a group were found damaged or lost and were thrown away, since the start.
    pub fn records_thrown_away(&self) -> u64 {
        self.rebuilt.load(Ordering::Relaxed)
    }

    /// For how long a chunk that is named no more stays at least.
    pub(crate) fn keep_freed(&self) -> Duration {
        self.keep_freed
    }

    /// What was moved from records into chunks since the start.
    pub(crate) fn compacted(&self) -> &Compacted {
        &self.compacted
    }

    /// Extent records whose bytes this node moved into chunks since its start.
    pub fn compacted_extents(&self) -> u64 {
        self.compacted.extents.load(Ordering::Relaxed)
    }

    pub(crate) fn dice(&self) -> &dyn Dice {
        &*self.parts.dice
    }

    pub(crate) fn map(&self) -> &MapCell {
        &self.map
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn settings(&self) -> &RaftSettings {
        &self.settings
    }

    /// Where a snapshot of a group is received, if none is being received already.
    pub(crate) fn receive(self: &Arc<Self>, id: GroupId) -> Option<Receiving> {
        self.receiving.lock().insert(id).then(|| Receiving { groups: self.clone(), id })
    }

    /// Runs something that ends with the node.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    async fn open_group(self: Arc<Self>, id: GroupId) -> io::Result<Arc<Group>> {
        let opening = self.opening.lock().await;
        if !*opening {
            return Err(io::Error::other("the node is being stopped"));
        }
        self.mend_log().await?;
        match self.group(id) {
            Some(group) => Ok(group),
            None => self.open_locked(id).await,
        }
    }

    /// A log that failed takes nothing more, and what it knows may not be on media: no replica may start on it. All groups
    /// are opened again, on the log as it is on media. While nobody else opens or closes one.
    async fn mend_log(self: &Arc<Self>) -> io::Result<()> {
        if !self.log.read().status().broken {
            return Ok(());
        }
        let all = std::mem::take(&mut *self.open.lock());
        for group in all.values() {
            group.close().await;
        }
        drop(all);
        let map = self.map.get();
        let opened = forsake::open(&self.parts, &self.settings, &self.records, self.identity.node, &map).await?;
        let Opened { log, groups: recovered, lost } = opened;
        *self.log.write() = log;
        self.lost_logs.store(lost, Ordering::Release);
        for id in recovered.into_keys() {
            self.open_locked(id).await?;
        }
        Ok(())
    }

    /// Opens a group that is not open, while nobody else opens or closes one.
    async fn open_locked(self: &Arc<Self>, id: GroupId) -> io::Result<Arc<Group>> {
        spool::clear(&*self.parts.disk, &spool_folder(id)).await?;
        let (machine, position) = Machine::open(id, self.parts.records.clone(), self.records.clone()).await?;
        let network = Network {
            site: self.identity.site,
            group: id,
            me: self.me(),
            map: self.map.clone(),
            peers: self.peers.clone(),
        };
        let log = self.log.read().group(id);
        let consensus = Consensus::start(&self.settings, network, log, machine.clone(), position).await?;
        if machine.were_lost() {
            self.rebuilt.fetch_add(1, Ordering::Relaxed);
        }
        let group = Arc::new(Group::new(id, consensus, machine, self.parts.clock.clone(), self.map.clone()));
        self.open.lock().insert(id, group.clone());
        self.in_background(watch_over(Arc::downgrade(self), group.clone()));
        group.consensus().elect_if_alone().await;
        Ok(group)
    }

    /// Opens a group again whose replica stopped by itself.
    async fn reopen(self: &Arc<Self>, stopped: &Arc<Group>) -> io::Result<()> {
        let opening = self.opening.lock().await;
        let id = stopped.id();
        let open = self.group(id);
        if !*opening || open.as_ref().is_some_and(|open| !Arc::ptr_eq(open, stopped)) {
            return Ok(());
        }
        self.open.lock().remove(&id);
        stopped.close().await;
        self.mend_log().await?;
        match self.group(id) {
            Some(_) => Ok(()),
            None => self.open_locked(id).await.map(drop),
        }
    }
}

/// Follows a replica; where it stops by itself (its disk failed, say), opens it again from what is on media.
fn watch_over(node: Weak<Groups>, group: Arc<Group>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let why = group.follow().await;
        let mut pause = REOPEN_AFTER;
        loop {
            tracing::error!(group = %group.id(), why, ?pause, "the replica stopped: opening it again");
            tokio::time::sleep(pause).await;
            let Some(groups) = node.upgrade() else { return };
            match groups.reopen(&group).await {
                Ok(()) => return,
                Err(error) => tracing::error!(group = %group.id(), %error, "open the replica again"),
            }
            pause = (pause * 2).min(REOPEN_AFTER_MAX);
        }
    })
}

/// The right to receive a snapshot of a group, held by one at a time.
pub(crate) struct Receiving {
    groups: Arc<Groups>,
    id: GroupId,
}

impl Receiving {
    /// An empty spool.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) async fn begin(&self) -> io::Result<spool::SpoolWriter> {
        spool::SpoolWriter::begin(self.groups.parts.disk.clone(), spool_folder(self.id)).await
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.groups.receiving.lock().remove(&self.id);
    }
}

fn spool_folder(id: GroupId) -> PathBuf {
    Path::new(SPOOL_FOLDER).join(format!("group-{id}"))
}
