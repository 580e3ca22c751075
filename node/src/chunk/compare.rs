//! What other members have and this server has not.
//!
//! A page of the others' digests is held against what is here; where they differ the ids are listed. A serving member
//! does so with all others now and then, and at once after its start, since a damaged index or segment may have lost
//! chunks: what two looks found missing, some time apart and at one epoch with all members serving, is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ids::{ChunkId, ClientId, PgEpoch, ReplicaId, SpaceId};
use weft_core::limits::MAX_CHUNK;
use weft_core::refusal::Refusal;
use weft_core::site::{MemberState, Pg};
use weft_proto::pb;

use super::digest::{self, At};
use super::fetch::{answered, chunk_ref, envelope, garbled};
use super::forward::peer;
use super::index::ChunkKey;
use super::server::Shared;
use super::sick::Ill;

/// Ranges asked for at a time, and chunks in each.
const RANGES: u32 = 64;
const CHUNKS_EACH: u32 = 256;
/// Ids listed at a time where ranges differ.
const PAGE_OF_IDS: u32 = 512;
/// Missing chunks remembered between two looks.
const MAX_SEEN: usize = 16_384;
/// Before placement is whole there is nothing to compare.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// A stretch of a member's ids, compared.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// What is missing here, with lengths.
    pub(crate) missing: Vec<(ChunkKey, u32)>,
    /// The last id of the stretch.
    pub(crate) last: Option<At>,
    /// It is the last one.
    pub(crate) end: bool,
}

/// Compares the next stretch of a member's ids behind `after` with what is here. The member has adopted the site map of
/// `map_version` before it answers, so everything acknowledged before that is in it.
///
/// # Errors
/// The member does not answer, or what it says makes no sense.
pub(crate) async fn page(
    shared: &Shared,
    pg: &Pg,
    map_version: u64,
    source: ReplicaId,
    after: Option<At>,
) -> Result<Page, Refusal> {
    let request = pb::DigestRequest {
        envelope: Some(pb::Envelope { map_version, ..envelope() }),
        pg: pg.id.0,
        after_space: after.map_or(0, |(space, _)| space.0),
        after: after.map(|(_, chunk)| chunk_ref(chunk)),
        ranges: RANGES,
        chunks_each: CHUNKS_EACH,
        to_node: source.node.0,
        to_incarnation: source.incarnation.0,
    };
    let mut client = peer(&shared.peers, source)?;
    let reply = answered(client.digest(request)).await?.into_inner();
    let mut out = Page { last: after, end: reply.end, ..Page::default() };
    if reply.ranges.is_empty() && !reply.end {
        return Err(garbled("no ranges, and they are not the last"));
    }
    for range in reply.ranges.iter().take(RANGES as usize) {
        let last = at(range.last_space, &range.last)?;
        if Some(last) <= out.last {
            return Err(garbled("ranges out of order"));
        }
        let here = digest::range(&shared.store, pg.id, out.last, last).await?;
        if (here.chunks, here.digest) != (range.chunks, range.digest) {
            list(shared, pg, map_version, source, out.last, last, &mut out.missing).await?;
        }
        out.last = Some(last);
    }
    Ok(out)
}

/// Lists a member's ids behind `after` up to `last` and adds what is missing here.
async fn list(
    shared: &Shared,
    pg: &Pg,
    map_version: u64,
    source: ReplicaId,
    mut after: Option<At>,
    last: At,
    missing: &mut Vec<(ChunkKey, u32)>,
) -> Result<(), Refusal> {
    loop {
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
        if page.chunks.is_empty() && !page.end {
            return Err(garbled("an empty page that is not the last"));
        }
        for listed in page.chunks {
            let found = at(listed.space, &listed.chunk)?;
            if Some(found) <= after {
                return Err(garbled("ids out of order"));
            }
            if found > last {
                return Ok(());
            }
            if listed.len == 0 || listed.len > MAX_CHUNK {
                return Err(garbled("a listed chunk of an impossible length"));
            }
            after = Some(found);
            let key = ChunkKey { pg: pg.id, space: found.0, chunk: found.1 };
            if !shared.store.has(key)? {
                missing.push((key, listed.len));
            }
        }
        if page.end || after >= Some(last) {
            return Ok(());
        }
    }
}

fn at(space: u64, chunk: &Option<pb::ChunkRef>) -> Result<At, Refusal> {
    let chunk = chunk.as_ref().ok_or_else(|| garbled("a chunk without an id"))?;
    Ok((SpaceId(space), ChunkId { client: ClientId(chunk.client), counter: chunk.counter }))
}

/// What was missing at the last look, since when, and at which epoch of its group.
type Seen = BTreeMap<ChunkKey, (Instant, PgEpoch)>;

/// Compares until the server is gone. `every`: between two rounds, zero for only the first; `settle`: for how long a
/// chunk must be missing.
pub(crate) async fn run(shared: Arc<Shared>, every: Duration, settle: Duration) {
    let mut seen = Seen::new();
    let mut since: Option<Instant> = None;
    loop {
        let due = since.is_none_or(|since| !every.is_zero() && since.elapsed() >= every);
        let wait = if !due && seen.is_empty() {
            every.saturating_sub(since.map_or(Duration::ZERO, |since| since.elapsed()))
        } else if round(&shared, &mut seen, settle).await {
            since = Some(Instant::now());
            shared.healer.compared.fetch_add(1, Ordering::Relaxed);
            if seen.is_empty() { every } else { settle }
        } else {
            TRY_AGAIN
        };
        // A pause at the least, also where settings make it none.
        tokio::time::sleep(wait.max(TRY_AGAIN)).await;
    }
}

/// Looks at all groups of which every member serves. False if some are not whole or some member did not answer.
async fn round(shared: &Shared, seen: &mut Seen, settle: Duration) -> bool {
    let map = shared.map.get();
    let serves = |member: &weft_core::site::PgMember| member.state == MemberState::Serving;
    let ours = |pg: &&Pg| pg.members.iter().any(|member| member.replica == shared.replica);
    let mut all = map.version > 0;
    for pg in map.pgs.iter().filter(ours) {
        if !pg.members.iter().all(serves) {
            all = false;
            continue;
        }
        match look(shared, pg, map.version, seen, settle).await {
            Ok(()) => {}
            Err(refusal) => {
                tracing::debug!(pg = %pg.id, why = %refusal, "comparing goes on later");
                all = false;
            }
        }
    }
    all
}

/// Compares one group with each of its other members.
async fn look(shared: &Shared, pg: &Pg, map_version: u64, seen: &mut Seen, settle: Duration) -> Result<(), Refusal> {
    let others = pg.members.iter().map(|member| member.replica).filter(|replica| *replica != shared.replica);
    let mut missing = BTreeSet::new();
    for source in others {
        let mut after = None;
        loop {
            if shared.map.pg(pg.id).is_none_or(|now| now.epoch != pg.epoch) {
                return Err(Refusal::StalePlacement { pg: pg.id, epoch: pg.epoch });
            }
            let page = page(shared, pg, map_version, source, after).await?;
            missing.extend(page.missing);
            if page.end || missing.len() >= MAX_SEEN {
                break;
            }
            after = page.last;
        }
    }
    let now = Instant::now();
    let keys: BTreeSet<ChunkKey> = missing.iter().map(|(key, _)| *key).collect();
    seen.retain(|key, (_, epoch)| key.pg != pg.id || (keys.contains(key) && *epoch == pg.epoch));
    for (key, len) in missing {
        match seen.get(&key) {
            Some((first, _)) if now.duration_since(*first) >= settle => {
                seen.remove(&key);
                shared.healer.report(key, Ill::Missing { len });
            }
            Some(_) => {}
            None if seen.len() < MAX_SEEN => drop(seen.insert(key, (now, pg.epoch))),
            None => {}
        }
    }
    Ok(())
}
