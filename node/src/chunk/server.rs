//! The chunk role of a node.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId, ReplicaId};
use weft_core::site::{MemberState, Pg};
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::chunk_server::ChunkServer as Grpc;

use super::catchup::{self, CatchUp, Tally};
use super::compare;
use super::fetch::Pace;
use super::heal::{self, Healer};
use super::orphans;
use super::right::Right;
use super::scrub::{self, Reread};
use super::service::{ChunkService, Counters};
use super::store::{OpenError, Store, StoreSettings};
use crate::identity::Identity;
use crate::parts::Parts;
use crate::settings::ChunkSettings;
use crate::site::map::MapCell;
use crate::site::peers::Peers;
use crate::trust::Keeper;

/// Keeps chunks, answers for them, fetches what it missed, and heals what rots.
pub struct ChunkServer {
    pub(super) shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the parts of a chunk server share.
pub(crate) struct Shared {
    pub(crate) replica: ReplicaId,
    pub(crate) map: MapCell,
    pub(crate) peers: Peers,
    pub(crate) store: Store,
    pub(crate) right: Right,
    pub(crate) puts: Semaphore,
    pub(crate) counters: Counters,
    pub(crate) catch_up: CatchUp,
    /// Placement groups that were left and whose chunks are being deleted.
    pub(crate) leaving: Mutex<BTreeSet<PgId>>,
    pub(crate) healer: Healer,
    pub(crate) reread: Reread,
    /// Of all copying from other members.
    pub(crate) pace: Pace,
    /// Checks the capabilities of users; unset in a site in plain text.
    pub(crate) keeper: OnceLock<Arc<Keeper>>,
}

/// What was found damaged or missing since the start, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkHealth {
    /// Chunks read again.
    pub reread: u64,
    /// Their bytes.
    pub reread_bytes: u64,
    /// Times that all was compared with what the other members have.
    pub compared: u64,
    /// Chunks found damaged.
    pub damaged: u64,
    /// Chunks found missing.
    pub missing: u64,
    /// Of both, those healed.
    pub healed: u64,
    /// Of both, those not healed yet.
    pub waiting: u64,
    /// Of these, those that no member gave when they were last asked.
    pub unhealed: u64,
    /// What is still to be fetched after an absence.
    pub catch_up: Tally,
}

/// What a heartbeat says of the chunk server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatFacts {
    /// Bytes of the disk under the chunks.
    pub total_bytes: u64,
    /// Bytes free on it.
    pub free_bytes: u64,
    /// Bytes of chunks.
    pub chunk_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// It takes no new chunks: the disk is full or failed.
    pub full: bool,
    /// Placement groups for which this server, listed as behind at this epoch, now has every chunk, or is listed as
    /// leaving.
    pub complete: Vec<(PgId, PgEpoch)>,
    /// The map version whose placement epochs this server has adopted.
    pub adopted_map: u64,
}

impl ChunkServer {
    /// Opens the chunk store in the node's data folder (`chunks/`) and begins to fetch what it missed. It acknowledges
    /// nothing before the first [`grant`](ChunkServer::grant).
    ///
    /// # Errors
    /// The disk fails, or a later version wrote the folder.
    pub async fn open(
        parts: &Parts,
        settings: &ChunkSettings,
        identity: &Identity,
        map: MapCell,
        peers: Peers,
    ) -> Result<Arc<ChunkServer>, OpenError> {
        let store = StoreSettings {
            folder: PathBuf::from("chunks"),
            segment_bytes: settings.segment_mib << 20,
            reserve_bytes: settings.reserve_mib << 20,
            ..StoreSettings::default()
        };
        let store = Store::open(parts.disk.clone(), &*parts.indexes, parts.dice.clone(), store).await?;
        let shared = Arc::new(Shared {
            replica: identity.replica(),
            right: Right::new(map.clone(), identity.replica()),
            map,
            peers,
            store,
            puts: Semaphore::new(settings.max_puts),
            counters: Counters::default(),
            catch_up: CatchUp::default(),
            leaving: Mutex::default(),
            healer: Healer::new(),
            reread: Reread::default(),
            pace: Pace::new(settings.catch_up_mib_s << 20),
            keeper: OnceLock::new(),
        });
        let seconds = Duration::from_secs;
        let compare = compare::run(shared.clone(), seconds(settings.compare_s), seconds(settings.missing_s));
        let mut tasks = vec![
            tokio::spawn(catchup::run(shared.clone())),
            tokio::spawn(heal::run(shared.clone())),
            tokio::spawn(compare),
            tokio::spawn(orphans::run(shared.clone(), seconds(settings.walk_s))),
        ];
        if settings.scrub_mib_s > 0 {
            let (rate, pause) = (settings.scrub_mib_s << 20, seconds(settings.scrub_pause_s));
            tasks.push(tokio::spawn(scrub::run(shared.clone(), parts.disk.clone(), rate, pause)));
        }
        Ok(Arc::new(ChunkServer { shared, tasks: Mutex::new(tasks) }))
    }

    /// From now on users need capabilities for what they ask.
    pub fn guard(&self, keeper: Arc<Keeper>) {
        // Set once, at the start of the node.
        let _ = self.shared.keeper.set(keeper);
    }

    /// The gRPC service.
    pub fn service(&self) -> Grpc<ChunkService> {
        Grpc::new(ChunkService(self.shared.clone()))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// The system group lets this server acknowledge until then, given that it holds at least this site map. `until`
    /// counts from the sending of the heartbeat that was answered.
    pub fn grant(&self, until: Instant, map_version: u64) {
        self.shared.right.grant(until, map_version);
    }

    /// How long the lease still runs.
    pub fn lease_left(&self) -> Duration {
        self.shared.right.lease_left()
    }

    /// What the next heartbeat should say.
    pub fn heartbeat_facts(&self) -> HeartbeatFacts {
        let store = self.shared.store.facts();
        // Read after it: a newer map must not be claimed for older facts.
        let map = self.shared.map.get();
        let done = |pg: &&Pg| {
            let ours = pg.members.iter().find(|member| member.replica == self.shared.replica);
            match ours.map(|member| member.state) {
                Some(MemberState::Behind) => self.shared.catch_up.is_complete(pg.id, pg.epoch),
                // The epoch is adopted: from this map on nothing is acknowledged for the group.
                Some(MemberState::Leaving) => true,
                _ => false,
            }
        };
        let complete = map.pgs.iter().filter(done);
        HeartbeatFacts {
            total_bytes: store.space.total_bytes,
            free_bytes: store.space.free_bytes,
            chunk_bytes: store.chunk_bytes,
            chunks: store.chunks,
            full: store.full,
            complete: complete.map(|pg| (pg.id, pg.epoch)).collect(),
            adopted_map: map.version,
        }
    }

    /// What was asked of it since its start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Blocks found damaged on the disk since its start.
    pub fn bad_sums(&self) -> u64 {
        self.shared.store.bad_sums()
    }

    /// What was found damaged or missing since its start, and what became of it.
    pub fn health(&self) -> ChunkHealth {
        let Shared { healer, reread, catch_up, .. } = &*self.shared;
        let (waiting, unhealed) = healer.counts();
        ChunkHealth {
            reread: reread.chunks.load(Ordering::Relaxed),
            reread_bytes: reread.bytes.load(Ordering::Relaxed),
            compared: healer.compared.load(Ordering::Relaxed),
            damaged: healer.damaged.load(Ordering::Relaxed),
            missing: healer.missing.load(Ordering::Relaxed),
            healed: healer.healed.load(Ordering::Relaxed),
            waiting,
            unhealed,
            catch_up: catch_up.tally(),
        }
    }

    /// The store below, for tools and tests.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Takes no more chunks, waits for those on their way, saves the index. Idempotent.
    pub async fn shutdown(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            // Aborted or finished: it holds nothing any more.
            let _ = task.await;
        }
        self.shared.store.shutdown().await;
    }
}

impl Drop for ChunkServer {
    fn drop(&mut self) {
        self.tasks.lock().iter().for_each(JoinHandle::abort);
    }
}
