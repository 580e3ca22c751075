//! What was written while this server was away is fetched from the members that were there.
//!
//! From the epoch at which the site lists this server as behind, new chunks come to it like to the others. So one
//! comparison with a serving member that has adopted the same map (`compare::page`: digests first, ids only where they
//! differ), with everything fetched that is missing here, makes it complete for that epoch.
//!
//! A chunk that can't be fetched stops nothing: it stays on the list of what is lacking and is asked for again, of all
//! members. One that every serving member answers for and none has whole is lost as far as they know. Then this server
//! is complete without it, and the chunk goes to the healer, which goes on asking and says so: the others serve though
//! they lack it too, so no read fails that would not fail anyway, while a server that never served again would leave
//! every other chunk of the group with a copy less.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::ids::{PgEpoch, PgId, ReplicaId};
use weft_core::refusal::Refusal;
use weft_core::site::{MemberState, Pg};

use super::compare;
use super::digest::At;
use super::fetch::{Fetched, fetch};
use super::index::ChunkKey;
use super::server::Shared;

/// Chunks fetched at a time.
const AT_A_TIME: usize = 4;
/// Missing chunks remembered; when there are more, these are fetched before the comparison goes on.
const MAX_LACKING: usize = 65_536;
const TRY_AGAIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How far this server has caught up.
#[derive(Default)]
pub(crate) struct CatchUp {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<PgId, Progress>,
    tally: Tally,
}

#[derive(Clone, Debug)]
struct Progress {
    epoch: PgEpoch,
    /// Up to this one everything was compared.
    after: Option<At>,
    /// Everything was.
    compared: bool,
    /// Found missing and not fetched yet, with lengths.
    lacking: BTreeMap<ChunkKey, u32>,
    complete: bool,
}

/// What is shown of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Placement groups that are not complete yet.
    pub groups: u64,
    /// Chunks known to be lacking.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks fetched since this catching up began.
    pub done_chunks: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// When it began.
    pub since: Option<Instant>,
}

impl CatchUp {
    /// Whether every chunk of the group is here, as of this epoch.
    pub(crate) fn is_complete(&self, pg: PgId, epoch: PgEpoch) -> bool {
        self.state.lock().groups.get(&pg).is_some_and(|progress| progress.complete && progress.epoch == epoch)
    }

    /// What is done and what is known to be left.
    pub(crate) fn tally(&self) -> Tally {
        let state = self.state.lock();
        let left = state.groups.values().filter(|progress| !progress.complete);
        let lacking = left.clone().flat_map(|progress| progress.lacking.values());
        Tally {
            groups: left.count() as u64,
            chunks: lacking.clone().count() as u64,
            bytes: lacking.map(|len| u64::from(*len)).sum(),
            ..state.tally
        }
    }

    /// The groups for which this server is behind now; of others nothing is kept.
    fn begin(&self, behind: &[&Pg]) {
        let state = &mut *self.state.lock();
        state.groups.retain(|id, _| behind.iter().any(|pg| pg.id == *id));
        for pg in behind {
            let new =
                Progress { epoch: pg.epoch, after: None, compared: false, lacking: BTreeMap::new(), complete: false };
            let known = state.groups.entry(pg.id).or_insert_with(|| new.clone());
            // From the start at a new epoch, since this server may have been away between the two.
            if known.epoch != pg.epoch {
                *known = new;
            }
        }
        if state.groups.values().all(|progress| progress.complete) {
            state.tally = Tally::default();
        } else if state.tally.since.is_none() {
            state.tally = Tally { since: Some(Instant::now()), ..Tally::default() };
        }
    }

    /// What is known of a group at this epoch.
    fn look<T>(&self, pg: &Pg, look: impl FnOnce(&mut Progress) -> T) -> Option<T> {
        let state = &mut *self.state.lock();
        state.groups.get_mut(&pg.id).filter(|progress| progress.epoch == pg.epoch).map(look)
    }

    fn fetched(&self, pg: &Pg, key: ChunkKey, bytes: Option<u32>) {
        self.look(pg, |progress| progress.lacking.remove(&key));
        if let Some(bytes) = bytes {
            let tally = &mut self.state.lock().tally;
            tally.done_chunks += 1;
            tally.done_bytes += u64::from(bytes);
        }
    }
}

/// Catches up whenever the site lists this server as behind, until the server is gone.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut maps = shared.map.watch();
    loop {
        let map = maps.borrow_and_update().clone();
        let state = |pg: &Pg| pg.members.iter().find(|member| member.replica == shared.replica).map(|m| m.state);
        let behind: Vec<&Pg> = map.pgs.iter().filter(|pg| state(pg) == Some(MemberState::Behind)).collect();
        shared.catch_up.begin(&behind);
        let mut all_complete = true;
        for pg in behind {
            match catch_up(&shared, pg, map.version).await {
                Ok(complete) => all_complete &= complete,
                Err(refusal) => {
                    tracing::info!(pg = %pg.id, epoch = %pg.epoch, why = %refusal, "catching up goes on later");
                    all_complete = false;
                }
            }
        }
        let again = if all_complete { LOOK_AGAIN } else { TRY_AGAIN };
        tokio::select! {
            biased;
            changed = maps.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(again) => {}
        }
    }
}

/// True if everything of the group is here that anybody can give; false if nobody is there to tell, or the map has moved
/// on.
async fn catch_up(shared: &Shared, pg: &Pg, map_version: u64) -> Result<bool, Refusal> {
    if shared.leaving.lock().contains(&pg.id) {
        return Ok(false);
    }
    loop {
        let Some(Progress { compared, complete, .. }) = shared.catch_up.look(pg, |progress| progress.clone()) else {
            return Ok(false);
        };
        if complete {
            return Ok(true);
        }
        let result = if compared { Ok(()) } else { compare_all(shared, pg, map_version).await };
        if shared.map.pg(pg.id).is_none_or(|now| now.epoch != pg.epoch) {
            return Ok(false);
        }
        // Also what was found before nobody answered any more.
        let left = fetch_lacking(shared, pg).await?;
        result?;
        let complete = shared.catch_up.look(pg, |progress| {
            progress.complete = progress.compared && progress.lacking.is_empty();
            progress.complete
        });
        match complete {
            Some(true) => tracing::info!(pg = %pg.id, epoch = %pg.epoch, "caught up"),
            Some(false) if left == 0 => {}
            Some(false) => return Ok(false),
            None => return Ok(false),
        }
    }
}

/// Compares with one serving member after another until all ids were, or enough is missing.
async fn compare_all(shared: &Shared, pg: &Pg, map_version: u64) -> Result<(), Refusal> {
    let serving = pg.members.iter().filter(|member| member.state == MemberState::Serving);
    let sources: Vec<ReplicaId> =
        serving.map(|member| member.replica).filter(|source| *source != shared.replica).collect();
    let mut last = Refusal::Unknown { why: format!("no other member of {} serves", pg.id) };
    for source in sources {
        loop {
            let now = shared
                .catch_up
                .look(pg, |progress| (progress.after, progress.compared || progress.lacking.len() >= MAX_LACKING));
            let Some((after, false)) = now else { return Ok(()) };
            match compare::page(shared, pg, map_version, source, after).await {
                Ok(page) => {
                    shared.catch_up.look(pg, |progress| {
                        progress.lacking.extend(page.missing);
                        progress.after = page.last;
                        progress.compared = page.end;
                    });
                }
                Err(refusal) => {
                    last = refusal;
                    break;
                }
            }
        }
    }
    Err(last)
}

/// Fetches what is lacking; how much still is.
///
/// # Errors
/// This server's own disk takes nothing.
async fn fetch_lacking(shared: &Shared, pg: &Pg) -> Result<usize, Refusal> {
    let lacking = shared.catch_up.look(pg, |progress| progress.lacking.clone()).unwrap_or_default();
    let current = || shared.map.pg(pg.id).is_some_and(|now| now.epoch == pg.epoch);
    let fetches = lacking.into_iter().map(|(key, len)| async move {
        if !current() {
            return Ok(1);
        }
        match fetch(shared, pg, key, len).await {
            Fetched::Whole(chunk) => {
                shared.store.put(chunk).await?;
                shared.catch_up.fetched(pg, key, Some(len));
            }
            // Deleted between the listing and the fetching.
            Fetched::Gone => shared.catch_up.fetched(pg, key, None),
            Fetched::Nowhere { all_answered: true, .. } if shared.healer.report_lost(key, len) => {
                shared.catch_up.fetched(pg, key, None);
            }
            Fetched::Nowhere { why, .. } => {
                tracing::debug!(chunk = %key.chunk, pg = %pg.id, %why, "a chunk is not to be had now");
                return Ok(1);
            }
        }
        Ok(0)
    });
    let mut fetches = stream::iter(fetches).buffer_unordered(AT_A_TIME);
    let (mut left, mut failed) = (0, None);
    while let Some(fetched) = fetches.next().await {
        match fetched {
            Ok(lacking) => left += lacking,
            Err(refusal) => {
                left += 1;
                failed = Some(refusal);
            }
        }
    }
    failed.map_or(Ok(left), Err)
}
