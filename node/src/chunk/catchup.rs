//! What was written while this server was away is fetched from the members that were there.
//!
//! From the epoch at which the site lists this server as behind, new chunks come to it like to the others. So one walk
//! through the ids of a serving member that has adopted the same map, with everything fetched that is missing here,
//! makes it complete for that epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::checksum::first_bad_block;
use weft_core::ids::{ChunkId, ClientId, PgEpoch, PgId, ReplicaId, SpaceId};
use weft_core::limits::{BLOCK, MAX_CHUNK};
use weft_core::refusal::Refusal;
use weft_core::site::{MemberState, Pg};
use weft_proto::status::from_status;
use weft_proto::{PROTOCOL, pb};

use super::forward::peer;
use super::index::ChunkKey;
use super::server::Shared;
use super::store::NewChunk;

/// Chunks fetched at a time.
const AT_A_TIME: usize = 4;
/// Ids asked for at a time.
const PAGE_OF_IDS: u32 = 512;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const TRY_AGAIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How far this server has caught up.
pub(crate) struct CatchUp {
    progress: Mutex<BTreeMap<PgId, Progress>>,
    pace: Pace,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    epoch: PgEpoch,
    /// All chunks up to this one are here.
    after: Option<(SpaceId, ChunkId)>,
    complete: bool,
}

impl CatchUp {
    /// Nothing yet. `bytes_per_s` bounds the copying; 0 does not.
    pub(crate) fn new(bytes_per_s: u64) -> CatchUp {
        CatchUp { progress: Mutex::default(), pace: Pace { bytes_per_s, free_at: Mutex::new(None) } }
    }

    /// Whether every chunk of the group is here, as of this epoch.
    pub(crate) fn is_complete(&self, pg: PgId, epoch: PgEpoch) -> bool {
        self.progress.lock().get(&pg).is_some_and(|progress| progress.complete && progress.epoch == epoch)
    }

    /// Where to go on; from the start at a new epoch, since this server may have been away between the two.
    fn begin(&self, pg: PgId, epoch: PgEpoch) -> Progress {
        let progress = &mut *self.progress.lock();
        let new = Progress { epoch, after: None, complete: false };
        let known = progress.entry(pg).or_insert(new);
        if known.epoch != epoch {
            *known = new;
        }
        *known
    }

    fn advance(&self, pg: PgId, progress: Progress) {
        self.progress.lock().insert(pg, progress);
    }
}

/// Spreads bytes over time.
struct Pace {
    bytes_per_s: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Waits until so many bytes may be moved.
    async fn wait(&self, bytes: u64) {
        if self.bytes_per_s == 0 {
            return;
        }
        let begin = {
            let mut free_at = self.free_at.lock();
            let begin = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            *free_at = Some(begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64));
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

/// Catches up whenever the site lists this server as behind, until the server is gone.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut maps = shared.map.watch();
    loop {
        let map = maps.borrow_and_update().clone();
        let state = |pg: &Pg| pg.members.iter().find(|member| member.replica == shared.replica).map(|m| m.state);
        let mut all_complete = true;
        for pg in map.pgs.iter().filter(|pg| state(pg) == Some(MemberState::Behind)) {
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

/// True if everything of the group is here; false if nobody is there to tell, or the map has moved on.
async fn catch_up(shared: &Shared, pg: &Pg, map_version: u64) -> Result<bool, Refusal> {
    if shared.leaving.lock().contains(&pg.id) {
        return Ok(false);
    }
    let mut progress = shared.catch_up.begin(pg.id, pg.epoch);
    let serving = pg.members.iter().filter(|member| member.state == MemberState::Serving);
    let sources: Vec<ReplicaId> =
        serving.map(|member| member.replica).filter(|source| *source != shared.replica).collect();
    let mut last = None;
    for &source in &sources {
        while !progress.complete {
            if shared.map.pg(pg.id).is_none_or(|now| now.epoch != pg.epoch) {
                return Ok(false);
            }
            match one_page(shared, pg, map_version, source, &sources, progress.after).await {
                Ok((after, end)) => {
                    progress.after = after.or(progress.after);
                    progress.complete = end;
                    shared.catch_up.advance(pg.id, progress);
                    if end {
                        tracing::info!(pg = %pg.id, epoch = %pg.epoch, "caught up");
                    }
                }
                Err(refusal) => {
                    last = Some(refusal);
                    break;
                }
            }
        }
    }
    match last {
        Some(refusal) if !progress.complete => Err(refusal),
        _ => Ok(progress.complete),
    }
}

/// Fetches what is missing of the next page of ids. Returns the last id and whether it was the last page.
async fn one_page(
    shared: &Shared,
    pg: &Pg,
    map_version: u64,
    source: ReplicaId,
    sources: &[ReplicaId],
    after: Option<(SpaceId, ChunkId)>,
) -> Result<(Option<(SpaceId, ChunkId)>, bool), Refusal> {
    let request = pb::ListRequest {
        envelope: Some(pb::Envelope { map_version, ..envelope() }),
        pg: pg.id.0,
        after_space: after.map_or(0, |(space, _)| space.0),
        after: after.map(|(_, chunk)| chunk_ref(chunk)),
        limit: PAGE_OF_IDS,
        to_node: source.node.0,
        to_incarnation: source.incarnation.0,
    };
    let mut client = peer(&shared.peers, source)?;
    let page = answered(client.list(request)).await?.into_inner();
    let mut missing = Vec::new();
    let mut last = None;
    for listed in &page.chunks {
        let Some(chunk) = &listed.chunk else { return Err(garbled("a listed chunk without an id")) };
        let (space, chunk) =
            (SpaceId(listed.space), ChunkId { client: ClientId(chunk.client), counter: chunk.counter });
        if Some((space, chunk)) <= last.or(after) {
            return Err(garbled("ids out of order"));
        }
        last = Some((space, chunk));
        let key = ChunkKey { pg: pg.id, space, chunk };
        if listed.len == 0 || listed.len > MAX_CHUNK {
            return Err(garbled("a listed chunk of an impossible length"));
        }
        if !shared.store.has(key)? {
            missing.push((key, listed.len));
        }
    }
    if last.is_none() && !page.end {
        return Err(garbled("an empty page that is not the last"));
    }
    let fetches = missing.into_iter().map(|(key, len)| async move {
        shared.catch_up.pace.wait(len.into()).await;
        fetch(shared, key, len, source, sources).await
    });
    let mut fetches = stream::iter(fetches).buffer_unordered(AT_A_TIME);
    while let Some(fetched) = fetches.next().await {
        fetched?;
    }
    Ok((last, page.end))
}

/// Copies one chunk here, from the first of the sources that has it whole.
async fn fetch(
    shared: &Shared,
    key: ChunkKey,
    len: u32,
    first: ReplicaId,
    sources: &[ReplicaId],
) -> Result<(), Refusal> {
    let mut refused = Refusal::NoChunk;
    let mut gone = true;
    for source in std::iter::once(first).chain(sources.iter().copied().filter(|source| *source != first)) {
        match fetch_from(shared, key, len, source).await {
            Ok((data, sums, uploader)) => {
                shared.store.put(NewChunk { key, uploader, data, sums }).await?;
                shared.counters.fetched.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(refusal) => {
                gone &= refusal == Refusal::NoChunk;
                refused = refusal;
            }
        }
    }
    // Deleted between the listing and the fetching.
    if gone { Ok(()) } else { Err(refused) }
}

async fn fetch_from(
    shared: &Shared,
    key: ChunkKey,
    len: u32,
    source: ReplicaId,
) -> Result<(Bytes, Vec<u32>, ClientId), Refusal> {
    let request = pb::GetRequest {
        envelope: Some(envelope()),
        space: key.space.0,
        chunk: Some(chunk_ref(key.chunk)),
        pg: key.pg.0,
        offset: 0,
        len,
    };
    let mut client = peer(&shared.peers, source)?;
    let mut pieces = answered(client.get(request)).await?.into_inner();
    let mut data = BytesMut::with_capacity(len as usize);
    let mut sums = Vec::with_capacity(len.div_ceil(BLOCK) as usize);
    let mut uploader = key.chunk.client;
    while let Some(piece) = answered(pieces.message()).await? {
        if piece.offset as usize != data.len() || piece.chunk_len != len || piece.data.is_empty() {
            return Err(garbled("pieces of a chunk do not follow each other"));
        }
        if data.len() + piece.data.len() > len as usize {
            return Err(garbled("a chunk is longer than it was listed"));
        }
        if piece.uploader != 0 {
            uploader = ClientId(piece.uploader);
        }
        data.extend_from_slice(&piece.data);
        sums.extend_from_slice(&piece.sums);
    }
    match first_bad_block(key.chunk, 0, &data, &sums) {
        None if data.len() == len as usize => Ok((data.freeze(), sums, uploader)),
        _ => Err(Refusal::BadSum { what: format!("chunk {} from {source}", key.chunk) }),
    }
}

async fn answered<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Refusal> {
    match tokio::time::timeout(ANSWER_WITHIN, call).await {
        Ok(answer) => answer.map_err(|status| from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("no answer in {} ms", ANSWER_WITHIN.as_millis()) }),
    }
}

fn envelope() -> pb::Envelope {
    let deadline_ms = ANSWER_WITHIN.as_millis() as u32;
    pb::Envelope { protocol: PROTOCOL, deadline_ms, ..pb::Envelope::default() }
}

fn chunk_ref(chunk: ChunkId) -> pb::ChunkRef {
    pb::ChunkRef { client: chunk.client.0, counter: chunk.counter }
}

fn garbled(what: &str) -> Refusal {
    Refusal::Invalid { why: format!("a member's answer: {what}") }
}
