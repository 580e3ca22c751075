//! A slow walk through all chunks of this server, for those that nobody asks it to delete: stored and never named, brought
//! back by a put that was long on its way, or left from a placement group of which this server is no member any more.
//!
//! A chunk goes only on a positive answer of the group that counts it: it is among the freed, or nothing names it and the
//! session of its uploader is known there and has ended, or all volumes of its space were deleted
//! (`weft_core::namespace::garbage`). Where the space or the group is not known, or nobody answers, it stays.
//!
//! A chunk of a placement group that this server has left goes once all members serve, by a map that a running lease
//! vouches for, and not at once: no put of the time before is on its way any more. While such chunks are deleted, nothing of
//! that group is fetched (`catchup.rs`), so that a server that becomes a member again counts none of them as here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ids::{ChunkId, ClientId, GroupId, NodeId, PgId, SpaceId};
use weft_core::refusal::Refusal;
use weft_core::site::MemberState;
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::meta_client::MetaClient;
use weft_proto::status::from_status;
use weft_proto::{PROTOCOL, pb};

use super::index::ChunkKey;
use super::server::Shared;

/// Chunks looked at together.
const PAGE: usize = 512;
/// Nodes asked about one page before it waits for the next walk.
const TRIES: usize = 4;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two pages at the least.
const SHORTEST_STEP: Duration = Duration::from_millis(20);
/// A placement group that was left for less is not touched.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// Walks until the server is gone, each time as slowly as the settings say.
pub(crate) async fn run(shared: Arc<Shared>, round: Duration) {
    let mut left = BTreeMap::new();
    loop {
        walk(&shared, round, &mut left, LEFT_FOR).await;
    }
}

/// One walk. `left`: since when this server is known to be no member of placement groups.
pub(super) async fn walk(shared: &Shared, round: Duration, left: &mut BTreeMap<PgId, Instant>, left_for: Duration) {
    let pgs: Vec<PgId> = shared.map.get().pgs.iter().map(|pg| pg.id).collect();
    let pages = shared.store.facts().chunks / PAGE as u64 + pgs.len() as u64 + 1;
    let step = (round / u32::try_from(pages).unwrap_or(u32::MAX)).max(SHORTEST_STEP);
    left.retain(|pg, _| pgs.contains(pg));
    tokio::time::sleep(step).await;
    for pg in pgs {
        match is_left(shared, pg) {
            true => drop(left.entry(pg).or_insert_with(Instant::now)),
            false => drop(left.remove(&pg)),
        }
        let mut after = None;
        loop {
            let page = match shared.store.list(pg, after, PAGE) {
                Ok(page) => page,
                Err(refusal) => {
                    tracing::warn!(%refusal, %pg, "walk through chunks");
                    break;
                }
            };
            let Some((last, _)) = page.last() else { break };
            after = Some((last.space, last.chunk));
            let keys: Vec<ChunkKey> = page.iter().map(|(key, _)| *key).collect();
            let drops = left.get(&pg).is_some_and(|since| since.elapsed() >= left_for);
            if let Err(refusal) = look_at(shared, pg, &keys, drops).await {
                tracing::info!(%pg, why = %refusal, "chunks are looked at again with the next walk");
            }
            tokio::time::sleep(step).await;
            if page.len() < PAGE {
                break;
            }
        }
    }
}

async fn look_at(shared: &Shared, pg: PgId, keys: &[ChunkKey], drops: bool) -> Result<(), Refusal> {
    if drops {
        return leave(shared, pg, keys).await;
    }
    let mut spaces: BTreeMap<SpaceId, Vec<ChunkId>> = BTreeMap::new();
    keys.iter().for_each(|key| spaces.entry(key.space).or_default().push(key.chunk));
    for (space, chunks) in spaces {
        let garbage = ask(shared, space, &chunks).await?;
        // Of those asked about only, whatever is answered.
        let garbage: Vec<ChunkKey> = garbage
            .into_iter()
            .filter(|chunk| chunks.contains(chunk))
            .map(|chunk| ChunkKey { pg, space, chunk })
            .collect();
        if !garbage.is_empty() {
            let deleted = shared.store.delete_many(&garbage).await?;
            shared.counters.orphans.fetch_add(deleted, Ordering::Relaxed);
            tracing::info!(%pg, %space, deleted, "chunks that nobody names are deleted");
        }
    }
    Ok(())
}

/// Asks the group of a space which of these chunks are garbage. A space that the map does not have may be one whose
/// volumes were deleted: then all groups are asked, and the one that had it knows. None if nobody knows the space.
async fn ask(shared: &Shared, space: SpaceId, chunks: &[ChunkId]) -> Result<Vec<ChunkId>, Refusal> {
    let map = shared.map.get();
    if let Some(volume) = map.volumes.iter().find(|volume| volume.space == space) {
        return ask_group(shared, volume.group, space, chunks).await;
    }
    let mut garbage = Vec::new();
    for group in map.groups.iter().filter(|group| group.id != GroupId::SYSTEM) {
        garbage.extend(ask_group(shared, group.id, space, chunks).await?);
    }
    Ok(garbage)
}

async fn ask_group(
    shared: &Shared,
    group: GroupId,
    space: SpaceId,
    chunks: &[ChunkId],
) -> Result<Vec<ChunkId>, Refusal> {
    let map = shared.map.get();
    let replicas = map.groups.iter().find(|known| known.id == group).map(|known| known.replicas.clone());
    let mut nodes = replicas.unwrap_or_default().into_iter().map(|replica| replica.node);
    let mut next: Option<NodeId> = nodes.next();
    let mut refused = Refusal::Unknown { why: format!("no replica of group {group} is known") };
    for _ in 0..TRIES {
        let Some(node) = next else { break };
        match ask_node(shared, node, group.0, space, chunks).await {
            Ok(garbage) => return Ok(garbage),
            Err(refusal) => {
                next = match &refusal {
                    Refusal::NotLeader { leader: Some(leader), .. } if *leader != node => Some(*leader),
                    _ => nodes.next(),
                };
                refused = refusal;
            }
        }
    }
    Err(refused)
}

async fn ask_node(
    shared: &Shared,
    node: NodeId,
    group: u32,
    space: SpaceId,
    chunks: &[ChunkId],
) -> Result<Vec<ChunkId>, Refusal> {
    let deadline_ms = ANSWER_WITHIN.as_millis() as u32;
    let chunk = |chunk: &ChunkId| pb::ChunkRef { client: chunk.client.0, counter: chunk.counter };
    let request = pb::GarbageRequest {
        envelope: Some(pb::Envelope { protocol: PROTOCOL, deadline_ms, ..pb::Envelope::default() }),
        group,
        space: space.0,
        chunks: chunks.iter().map(chunk).collect(),
    };
    let channel = shared.peers.node(node)?;
    let mut client = MetaClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
    match tokio::time::timeout(ANSWER_WITHIN, client.garbage(request)).await {
        Ok(Ok(reply)) => {
            let garbage = reply.into_inner().garbage;
            Ok(garbage.into_iter().map(|c| ChunkId { client: ClientId(c.client), counter: c.counter }).collect())
        }
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("node {node} did not answer in time") }),
    }
}

/// Whether this server is no member of a placement group that is whole without it.
fn is_left(shared: &Shared, pg: PgId) -> bool {
    let found = shared.map.pg(pg);
    shared.right.is_current()
        && found.is_some_and(|found| {
            !found.members.is_empty()
                && found.members.iter().all(|member| member.state == MemberState::Serving)
                && found.members.iter().all(|member| member.replica != shared.replica)
        })
}

/// Deletes chunks of a placement group that was left.
async fn leave(shared: &Shared, pg: PgId, keys: &[ChunkKey]) -> Result<(), Refusal> {
    let _leaving = Leaving::begin(shared, pg);
    // Looked at after the mark was set: who becomes a member later finds the mark.
    if !is_left(shared, pg) {
        return Ok(());
    }
    let deleted = shared.store.delete_many(keys).await?;
    shared.counters.left.fetch_add(deleted, Ordering::Relaxed);
    tracing::info!(%pg, deleted, "chunks of a placement group that was left are deleted");
    Ok(())
}

/// While it lives, nothing of the placement group is fetched.
struct Leaving<'a>(&'a Shared, PgId);

impl<'a> Leaving<'a> {
    fn begin(shared: &'a Shared, pg: PgId) -> Leaving<'a> {
        shared.leaving.lock().insert(pg);
        Leaving(shared, pg)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leaving.lock().remove(&self.1);
    }
}
