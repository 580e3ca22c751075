//! What clients and other chunk servers ask of a chunk server.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use futures::stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status};
use weft_core::access::capability::{READ, WRITE};
use weft_core::checksum::first_bad_block;
use weft_core::ids::{ChunkId, ClientId, PgEpoch, PgId, SpaceId};
use weft_core::limits::{BLOCK, MAX_CHUNK};
use weft_core::refusal::Refusal;
use weft_core::site::fewest;
use weft_proto::status::to_status;
use weft_proto::trust::Who;
use weft_proto::{PROTOCOL, pb};

use super::delete::delete;
use super::digest;
use super::forward::forward;
use super::index::ChunkKey;
use super::right;
use super::server::Shared;
use super::sick::Ill;
use super::store::{ChunkReader, NewChunk};
use crate::trust::gate;

/// Bytes of one piece of an answer to a Get.
pub(crate) const PIECE: u32 = 1 << 20;
/// Pieces read ahead of the network.
const AHEAD: usize = 2;
/// Chunks in one answer to a List at the most.
const MAX_LIST: usize = 4096;
/// Ranges in one answer to a Digest at the most.
const MAX_RANGES: usize = 64;
/// How long a put waits for the other members, if its caller does not wait less.
const LONGEST_PUT: Duration = Duration::from_secs(8);

/// What was asked of a chunk server since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Chunks stored here on request.
    pub puts: AtomicU64,
    /// Their bytes.
    pub put_bytes: AtomicU64,
    /// Reads answered.
    pub gets: AtomicU64,
    /// Bytes sent in answer.
    pub get_bytes: AtomicU64,
    /// Chunks copied here from other members.
    pub fetched: AtomicU64,
    /// Chunks deleted here because nobody names them, though nobody asked for it.
    pub orphans: AtomicU64,
    /// Requests refused for want of a capability.
    pub not_trusted: AtomicU64,
    /// Chunks deleted here because this server left their placement group.
    pub left: AtomicU64,
}

/// The gRPC service.
#[derive(Clone)]
pub struct ChunkService(pub(crate) Arc<Shared>);

type Pieces = Pin<Box<dyn Stream<Item = Result<pb::GetPiece, Status>> + Send>>;

#[tonic::async_trait]
impl pb::chunk_server::Chunk for ChunkService {
    type GetStream = Pieces;

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutReply>, Status> {
        let who = gate::who(&request);
        let request = request.into_inner();
        may(&self.0, &who, &request.envelope, request.space, WRITE, request.forward)
            .map_err(|refusal| to_status(&refusal))?;
        let copies = put(&self.0, request).await.map_err(|refusal| to_status(&refusal))?;
        Ok(Response::new(pb::PutReply { copies }))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<Pieces>, Status> {
        let who = gate::who(&request);
        let request = request.into_inner();
        may(&self.0, &who, &request.envelope, request.space, READ, true).map_err(|refusal| to_status(&refusal))?;
        let pieces = get(&self.0, request).await.map_err(|refusal| to_status(&refusal))?;
        Ok(Response::new(pieces))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListReply>, Status> {
        let reply = list(&self.0, request.into_inner()).await.map_err(|refusal| to_status(&refusal))?;
        Ok(Response::new(reply))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteReply>, Status> {
        let deleted = delete(&self.0, request.into_inner()).await.map_err(|refusal| to_status(&refusal))?;
        Ok(Response::new(pb::DeleteReply { deleted }))
    }

    async fn digest(&self, request: Request<pb::DigestRequest>) -> Result<Response<pb::DigestReply>, Status> {
        let reply = digest(&self.0, request.into_inner()).await.map_err(|refusal| to_status(&refusal))?;
        Ok(Response::new(reply))
    }

    async fn suspect(&self, request: Request<pb::SuspectRequest>) -> Result<Response<pb::SuspectReply>, Status> {
        let who = gate::who(&request);
        let request = request.into_inner();
        may(&self.0, &who, &request.envelope, request.space, READ, true).map_err(|refusal| to_status(&refusal))?;
        let reply = suspect(&self.0, request).map_err(|refusal| to_status(&refusal))?;
        Ok(Response::new(reply))
    }
}

/// Whether a user may do this with the chunks of a space: before anything is looked up, so that nothing can be learned.
/// Nodes may, and in plain text everybody. `whole`: asked as clients ask.
fn may(
    shared: &Shared,
    who: &Who,
    envelope: &Option<pb::Envelope>,
    space: u64,
    right: u8,
    whole: bool,
) -> Result<(), Refusal> {
    let (Some(keeper), Some(_)) = (shared.keeper.get(), who.user()) else { return Ok(()) };
    let envelope = self::envelope(envelope)?;
    let checked = match whole {
        true => keeper.check_capability(&envelope.capability, ClientId(envelope.client), SpaceId(space), right),
        false => Err(Refusal::NotTrusted { why: "only nodes store single copies".into() }),
    };
    checked.inspect_err(|refusal| {
        if matches!(refusal, Refusal::NotTrusted { .. }) {
            shared.counters.not_trusted.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%refusal, space, "a request for chunks is refused");
        }
    })
}

pub(super) fn envelope(envelope: &Option<pb::Envelope>) -> Result<&pb::Envelope, Refusal> {
    let envelope = envelope.as_ref().ok_or_else(|| Refusal::Invalid { why: "no envelope".into() })?;
    match envelope.protocol {
        PROTOCOL => Ok(envelope),
        theirs => Err(Refusal::WrongVersion { theirs, ours: PROTOCOL }),
    }
}

pub(super) fn chunk_key(pg: u32, space: u64, chunk: &Option<pb::ChunkRef>) -> Result<ChunkKey, Refusal> {
    let chunk = chunk.as_ref().ok_or_else(|| Refusal::Invalid { why: "no chunk is named".into() })?;
    let chunk = ChunkId { client: ClientId(chunk.client), counter: chunk.counter };
    Ok(ChunkKey { pg: PgId(pg), space: SpaceId(space), chunk })
}

/// Returns the number of copies on media.
async fn put(shared: &Shared, mut request: pb::PutRequest) -> Result<u32, Refusal> {
    let (uploader, deadline_ms) = {
        let envelope = envelope(&request.envelope)?;
        (ClientId(envelope.client), envelope.deadline_ms)
    };
    shared.right.is_meant(request.to_node, request.to_incarnation)?;
    let len = request.data.len();
    if len > MAX_CHUNK as usize {
        return Err(Refusal::TooLarge { what: "chunk".into(), size: len as u64, limit: MAX_CHUNK.into() });
    }
    if len == 0 {
        return Err(Refusal::Invalid { why: "a chunk without bytes".into() });
    }
    let key = chunk_key(request.pg, request.space, &request.chunk)?;
    let Ok(_permit) = shared.puts.try_acquire() else { return Err(Refusal::Busy { retry_after_ms: 20 }) };
    if let Some(block) = first_bad_block(key.chunk, 0, &request.data, &request.sums) {
        return Err(Refusal::BadSum { what: format!("chunk {} as it arrived: block {block}", key.chunk) });
    }
    let epoch = PgEpoch(request.pg_epoch);
    let pg = shared.right.admit(key.pg, epoch).await?;
    let others: Vec<_> = match request.forward {
        true => right::live(&pg).map(|member| member.replica).filter(|replica| *replica != shared.replica).collect(),
        false => Vec::new(),
    };
    let copies = 1 + others.len() as u32;
    let fewest = fewest(pg.factor);
    if request.forward && (copies as usize) < fewest {
        let why = format!("placement group {} has {copies} live member, {fewest} are needed", key.pg);
        return Err(Refusal::MayNotAcknowledge { why });
    }

    let within = match deadline_ms {
        0 => LONGEST_PUT,
        ms => LONGEST_PUT.min(Duration::from_millis(ms.into())),
    };
    let sums = if request.forward { request.sums.clone() } else { std::mem::take(&mut request.sums) };
    let chunk = NewChunk { key, uploader, data: request.data.clone(), sums };
    let here = async {
        let stored = tokio::time::timeout(within, shared.store.put(chunk)).await;
        stored.unwrap_or_else(|_| Err(Refusal::Unknown { why: "the disk did not answer in time".into() }))
    };
    let there = try_join_all(others.iter().map(|other| forward(&shared.peers, *other, &request, within)));
    if let Err(refusal) = try_join(here, there).await {
        if matches!(refusal, Refusal::BadSum { .. }) && matches!(shared.store.has(key), Ok(true)) {
            // It was here already, and here or at another member it is damaged.
            shared.healer.report(key, Ill::Suspected);
        }
        return Err(refusal);
    }
    shared.right.check(key.pg, epoch)?;
    shared.counters.puts.fetch_add(1, Ordering::Relaxed);
    shared.counters.put_bytes.fetch_add(len as u64, Ordering::Relaxed);
    Ok(copies)
}

async fn get(shared: &Arc<Shared>, request: pb::GetRequest) -> Result<Pieces, Refusal> {
    envelope(&request.envelope)?;
    let key = chunk_key(request.pg, request.space, &request.chunk)?;
    let reader = shared.store.reader(key).await.inspect_err(|refusal| shared.healer.heard(key, refusal))?;
    let reader = Arc::new(reader);
    let (start, end) = match request.offset.checked_add(request.len) {
        Some(end) if request.len > 0 && end <= reader.chunk_len() => (request.offset / BLOCK * BLOCK, end),
        _ => {
            let (offset, len) = (request.offset, request.len);
            let why = format!("{len} bytes from {offset} of a chunk of {}", reader.chunk_len());
            return Err(Refusal::Invalid { why });
        }
    };
    shared.counters.gets.fetch_add(1, Ordering::Relaxed);
    if end - start > PIECE {
        // So that the disk works on the rest while the first pieces are checked and sent.
        reader.will_read(start, end);
    }
    // The first piece is read before the answer begins, so that most refusals are the call's own.
    let first = piece(shared.clone(), reader.clone(), start, end).await?;
    let next = start.saturating_add(PIECE);
    if next >= end {
        return Ok(Box::pin(stream::once(std::future::ready(Ok(first)))));
    }
    let shared = shared.clone();
    let rest = (next..end).step_by(PIECE as usize);
    let rest = stream::iter(rest).map(move |at| {
        let (shared, reader) = (shared.clone(), reader.clone());
        async move { piece(shared, reader, at, end).await.map_err(|refusal| to_status(&refusal)) }
    });
    Ok(Box::pin(stream::once(std::future::ready(Ok(first))).chain(rest.buffered(AHEAD))))
}

async fn piece(shared: Arc<Shared>, reader: Arc<ChunkReader>, at: u32, end: u32) -> Result<pb::GetPiece, Refusal> {
    let blocks = reader.read(at, end.min(at.saturating_add(PIECE))).await;
    // What a read finds is healed at once; this reader asks another member.
    let blocks = blocks.inspect_err(|refusal| shared.healer.heard(reader.key(), refusal))?;
    shared.counters.get_bytes.fetch_add(blocks.data.len() as u64, Ordering::Relaxed);
    Ok(pb::GetPiece {
        offset: blocks.offset,
        data: blocks.data,
        sums: blocks.sums,
        chunk_len: reader.chunk_len(),
        uploader: reader.uploader().0,
    })
}

async fn list(shared: &Shared, request: pb::ListRequest) -> Result<pb::ListReply, Refusal> {
    let map_version = envelope(&request.envelope)?.map_version;
    shared.right.is_meant(request.to_node, request.to_incarnation)?;
    // With the caller's map adopted here, nothing older is acknowledged any more: the listing misses nothing.
    shared.right.adopted(map_version).await?;
    let after = request.after.map(|after| {
        let chunk = ChunkId { client: ClientId(after.client), counter: after.counter };
        (SpaceId(request.after_space), chunk)
    });
    let limit = match request.limit as usize {
        0 => MAX_LIST,
        limit => limit.min(MAX_LIST),
    };
    let found = shared.store.list(PgId(request.pg), after, limit)?;
    let end = found.len() < limit;
    let chunks = found.into_iter().map(|(key, len)| pb::ListedChunk {
        space: key.space.0,
        chunk: Some(pb::ChunkRef { client: key.chunk.client.0, counter: key.chunk.counter }),
        len,
    });
    Ok(pb::ListReply { chunks: chunks.collect(), end })
}

async fn digest(shared: &Shared, request: pb::DigestRequest) -> Result<pb::DigestReply, Refusal> {
    let map_version = envelope(&request.envelope)?.map_version;
    shared.right.is_meant(request.to_node, request.to_incarnation)?;
    // As for a listing.
    shared.right.adopted(map_version).await?;
    let after = request.after.map(|after| {
        let chunk = ChunkId { client: ClientId(after.client), counter: after.counter };
        (SpaceId(request.after_space), chunk)
    });
    let ranges = (request.ranges as usize).clamp(1, MAX_RANGES);
    let each = (request.chunks_each as usize).clamp(1, MAX_LIST);
    let (ranges, end) = digest::ranges(&shared.store, PgId(request.pg), after, ranges, each).await?;
    let ranges = ranges.into_iter().map(|range| pb::RangeDigest {
        last_space: range.last.0.0,
        last: Some(pb::ChunkRef { client: range.last.1.client.0, counter: range.last.1.counter }),
        chunks: range.chunks,
        digest: range.digest,
    });
    Ok(pb::DigestReply { ranges: ranges.collect(), end })
}

/// Nothing is believed: the chunk is read again.
fn suspect(shared: &Shared, request: pb::SuspectRequest) -> Result<pb::SuspectReply, Refusal> {
    envelope(&request.envelope)?;
    let key = chunk_key(request.pg, request.space, &request.chunk)?;
    if !shared.store.has(key)? {
        return Err(Refusal::NoChunk);
    }
    shared.healer.report(key, Ill::Suspected);
    Ok(pb::SuspectReply {})
}
