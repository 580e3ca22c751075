//! The chunk role of a node.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId, ReplicaId};
use weft_core::site::{MemberState, Pg};
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::chunk_server::ChunkServer as Grpc;

use super::catchup::{self, CatchUp};
use super::orphans;
use super::right::Right;
use super::service::{ChunkService, Counters};
use super::store::{OpenError, Store, StoreSettings};
use crate::identity::Identity;
use crate::parts::Parts;
use crate::settings::ChunkSettings;
use crate::site::map::MapCell;
use crate::site::peers::Peers;

/// Keeps chunks, answers for them, and fetches what it missed.
pub struct ChunkServer {
    pub(super) shared: Arc<Shared>,
    catch_up: Mutex<Option<JoinHandle<()>>>,
    walk: Mutex<Option<JoinHandle<()>>>,
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
            catch_up: CatchUp::new(settings.catch_up_mib_s << 20),
            leaving: Mutex::default(),
        });
        let catch_up = Mutex::new(Some(tokio::spawn(catchup::run(shared.clone()))));
        let round = Duration::from_secs(settings.walk_s);
        let walk = Mutex::new(Some(tokio::spawn(orphans::run(shared.clone(), round))));
        Ok(Arc::new(ChunkServer { shared, catch_up, walk }))
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

    /// The store below, for tools and tests.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Takes no more chunks, waits for those on their way, saves the index. Idempotent.
    pub async fn shutdown(&self) {
        let tasks = [self.catch_up.lock().take(), self.walk.lock().take()];
        for task in tasks.into_iter().flatten() {
            task.abort();
            // Aborted or finished: it holds nothing any more.
            let _ = task.await;
        }
        self.shared.store.shutdown().await;
    }
}

impl Drop for ChunkServer {
    fn drop(&mut self) {
        let tasks = [self.catch_up.lock().take(), self.walk.lock().take()];
        tasks.into_iter().flatten().for_each(|task| task.abort());
    }
}
