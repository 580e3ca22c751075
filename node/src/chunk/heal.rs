//! What is damaged or missing here is fetched from the other members and put in its place.
//!
//! Damage is reported by reads, by clients that got wrong bytes, by rereading; absence by comparing with the others and
//! by catching up. Here it is looked at again: a copy that is whole after all needs nothing, one that was deleted stays
//! deleted. The good copy is on media before the damaged one is void (`Store::replace`), and a damaged one is kept for as
//! long as nobody has a better one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId};
use weft_core::refusal::Refusal;

use super::fetch::{Fetched, fetch};
use super::index::ChunkKey;
use super::server::Shared;
use super::sick::{Ill, SickList};

/// Chunks healed at a time.
const AT_A_TIME: usize = 4;
/// The longest it sleeps without looking.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The list of what is to be healed, and what became of it since the start.
pub(crate) struct Healer {
    list: Mutex<SickList>,
    began: Instant,
    work: Notify,
    pub(crate) damaged: AtomicU64,
    pub(crate) missing: AtomicU64,
    pub(crate) healed: AtomicU64,
    /// Rounds of comparing with all other members.
    pub(crate) compared: AtomicU64,
}

impl Healer {
    /// Nothing is ill yet.
    pub(crate) fn new() -> Healer {
        Healer {
            list: Mutex::default(),
            began: Instant::now(),
            work: Notify::new(),
            damaged: AtomicU64::new(0),
            missing: AtomicU64::new(0),
            healed: AtomicU64::new(0),
            compared: AtomicU64::new(0),
        }
    }

    /// A chunk is to be looked at and healed.
    pub(crate) fn report(&self, key: ChunkKey, ill: Ill) {
        if self.list.lock().report(key, ill, self.now()) {
            self.count(key, ill);
            self.work.notify_one();
        }
    }

    /// A read was refused: if that means damage, the chunk is to be healed.
    pub(crate) fn heard(&self, key: ChunkKey, refusal: &Refusal) {
        match refusal {
            Refusal::BadSum { .. } => self.report(key, Ill::Damaged),
            // The disk may be ill as a whole, or only here: reading it again tells.
            Refusal::DiskFailed { .. } => self.report(key, Ill::Suspected),
            _ => {}
        }
    }

    /// A chunk is missing and nobody had it whole just now. False if the list is full.
    pub(crate) fn report_lost(&self, key: ChunkKey, len: u32) -> bool {
        let listed = self.list.lock().report_lost(key, len, self.now());
        if listed {
            self.count(key, Ill::Missing { len });
            tracing::error!(chunk = %key.chunk, space = %key.space, pg = %key.pg,
                "no member has this chunk whole: it can't be fetched");
        }
        listed
    }

    /// Chunks not healed yet, and those of them that nobody had whole.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.list.lock().counts()
    }

    fn count(&self, key: ChunkKey, ill: Ill) {
        match ill {
            Ill::Suspected => {}
            Ill::Damaged => {
                tracing::warn!(chunk = %key.chunk, space = %key.space, pg = %key.pg, "a chunk is damaged on the disk");
                self.damaged.fetch_add(1, Ordering::Relaxed);
            }
            Ill::Missing { .. } => {
                tracing::warn!(chunk = %key.chunk, space = %key.space, pg = %key.pg, "a chunk is missing");
                self.missing.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What became of one try.
enum Outcome {
    Healed,
    /// It is whole, deleted, or no business of this server.
    Well,
    Failed {
        hopeless: bool,
        why: Refusal,
    },
}

/// Heals until the server is gone.
pub(crate) async fn run(shared: Arc<Shared>) {
    let healer = &shared.healer;
    let mut maps = shared.map.watch();
    let mut epochs: BTreeMap<PgId, PgEpoch> = BTreeMap::new();
    loop {
        for pg in &maps.borrow_and_update().clone().pgs {
            if epochs.insert(pg.id, pg.epoch) != Some(pg.epoch) {
                healer.list.lock().hurry(pg.id, healer.now());
            }
        }
        let due = healer.list.lock().take_due(AT_A_TIME, healer.now());
        if !due.is_empty() {
            join_all(due.into_iter().map(|(key, ill)| try_one(&shared, key, ill))).await;
            continue;
        }
        let next = healer.list.lock().next_due();
        let wait = next.map_or(LOOK_AGAIN, |due| due.saturating_sub(healer.now())).min(LOOK_AGAIN);
        tokio::select! {
            biased;
            changed = maps.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = healer.work.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn try_one(shared: &Shared, key: ChunkKey, ill: Ill) {
    let healer = &shared.healer;
    let outcome = match ill {
        Ill::Suspected | Ill::Damaged => mend(shared, key).await,
        Ill::Missing { len } => bring(shared, key, len).await,
    };
    match outcome.unwrap_or_else(|why| Outcome::Failed { hopeless: false, why }) {
        Outcome::Healed => {
            healer.healed.fetch_add(1, Ordering::Relaxed);
            healer.list.lock().done(key);
            tracing::info!(chunk = %key.chunk, space = %key.space, pg = %key.pg, "a chunk is healed");
        }
        Outcome::Well => healer.list.lock().done(key),
        Outcome::Failed { hopeless, why } => {
            let tell = healer.list.lock().failed(key, hopeless, healer.now());
            if tell {
                tracing::error!(chunk = %key.chunk, space = %key.space, pg = %key.pg, %why,
                    "no member has this chunk whole: what is left of it is kept");
            } else {
                tracing::debug!(chunk = %key.chunk, space = %key.space, pg = %key.pg, %why, "healing goes on later");
            }
        }
    }
}

/// Reads a chunk again, and replaces it if it is damaged.
async fn mend(shared: &Shared, key: ChunkKey) -> Result<Outcome, Refusal> {
    match shared.store.reread(key).await {
        Ok(_) | Err(Refusal::NoChunk) => return Ok(Outcome::Well),
        Err(Refusal::BadSum { .. } | Refusal::DiskFailed { .. }) => {}
        Err(why) => return Err(why),
    }
    if shared.healer.list.lock().confirmed(key) {
        shared.healer.count(key, Ill::Damaged);
    }
    let Some((place, sums)) = shared.store.lies(key).await? else { return Ok(Outcome::Well) };
    let Some(pg) = shared.map.pg(key.pg) else {
        let why = Refusal::Unknown { why: format!("{} is not in the site map", key.pg) };
        return Ok(Outcome::Failed { hopeless: true, why });
    };
    match fetch(shared, &pg, key, place.len).await {
        Fetched::Whole(chunk) if sums.is_some_and(|sums| sums != chunk.sums) => {
            let why = format!("another member holds other bytes as chunk {}", key.chunk);
            Ok(Outcome::Failed { hopeless: true, why: Refusal::BadSum { what: why } })
        }
        Fetched::Whole(chunk) => match shared.store.replace(place, chunk).await? {
            true => Ok(Outcome::Healed),
            // Somebody was faster, or it was deleted: the next look tells.
            false => Err(Refusal::Busy { retry_after_ms: 1 }),
        },
        // Whether it was deleted is not for this server to decide: it keeps what it has.
        Fetched::Gone => Ok(Outcome::Failed { hopeless: true, why: Refusal::NoChunk }),
        Fetched::Nowhere { all_answered, why } => Ok(Outcome::Failed { hopeless: all_answered, why }),
    }
}

/// Fetches a chunk that is missing here.
async fn bring(shared: &Shared, key: ChunkKey, len: u32) -> Result<Outcome, Refusal> {
    if shared.store.has(key)? {
        return Ok(Outcome::Well);
    }
    let member = |pg: &weft_core::site::Pg| pg.members.iter().any(|member| member.replica == shared.replica);
    let Some(pg) = shared.map.pg(key.pg).filter(member) else { return Ok(Outcome::Well) };
    match fetch(shared, &pg, key, len).await {
        Fetched::Whole(chunk) => shared.store.put(chunk).await.map(|()| Outcome::Healed),
        Fetched::Gone => Ok(Outcome::Well),
        Fetched::Nowhere { all_answered, why } => Ok(Outcome::Failed { hopeless: all_answered, why }),
    }
}
