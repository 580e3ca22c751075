//! The gRPC service.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use weft_core::entry::Command;
use weft_core::ids::{ChunkId, GroupId, Incarnation, NodeId, PgId, ReplicaId, SpaceId};
use weft_core::limits::MAX_CHUNK;
use weft_core::machine::{self, ChunkState};
use weft_core::refusal::Refusal;
use weft_proto::convert::{self, Envelope};
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::fsck_server::{Fsck, FsckServer};
use weft_proto::{pb, status};

use super::records::{self, Pieces};
use super::verify::verify;
use crate::chunk::ChunkServer;
use crate::chunk::index::ChunkKey;
use crate::meta::{Group, Groups};

/// Long works at a time.
const WORKS: usize = 4;
/// Chunks in one question or answer.
const MAX_CHUNKS: usize = 4096;
/// What whoever comes too many is told.
const RETRY_AFTER_MS: u32 = 200;
/// How long is worked on a question where its caller does not say, and at the most.
const LIMIT: Duration = Duration::from_secs(5);
const LIMIT_MAX: Duration = Duration::from_secs(60);

/// Answers `weft fsck`.
#[derive(Clone)]
pub struct FsckService {
    own: ReplicaId,
    groups: Option<Arc<Groups>>,
    chunk: Option<Arc<ChunkServer>>,
    works: Arc<Semaphore>,
}

impl FsckService {
    /// Answers for the groups and the chunks of this node.
    pub fn new(own: ReplicaId, groups: Option<Arc<Groups>>, chunk: Option<Arc<ChunkServer>>) -> FsckService {
        FsckService { own, groups, chunk, works: Arc::new(Semaphore::new(WORKS)) }
    }

    /// The gRPC service, with the message limits of the fabric.
    pub fn server(self) -> FsckServer<FsckService> {
        FsckServer::new(self).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
    }

    fn group(&self, id: u32) -> Result<Arc<Group>, Refusal> {
        let group = self.groups.as_ref().and_then(|groups| groups.group(GroupId(id)));
        group.ok_or_else(|| Refusal::NotServed { what: format!("group {id}") })
    }

    fn begin(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let busy = Refusal::Busy { retry_after_ms: RETRY_AFTER_MS };
        self.works.clone().try_acquire_owned().map_err(|_| busy)
    }

    async fn start_audit(&self, request: pb::AuditRequest) -> Result<Pieces<pb::AuditPiece>, Refusal> {
        convert::parse_envelope(request.envelope)?;
        let permit = self.begin()?;
        let view = self.group(request.group)?.linear_view().await?;
        let spaces: Vec<_> = request.spaces.into_iter().map(SpaceId).collect();
        Ok(records::audit(permit, view, (!spaces.is_empty()).then_some(spaces)))
    }

    async fn named(&self, request: pb::NamedChunksRequest) -> Result<pb::NamedChunksReply, Refusal> {
        convert::parse_envelope(request.envelope)?;
        let after = request.after.map(|after| convert::parse_chunk_ref(Some(after))).transpose()?;
        let limit = match request.limit as usize {
            0 => MAX_CHUNKS,
            limit => limit.min(MAX_CHUNKS),
        };
        let group = self.group(request.group)?;
        let named = group.read(|view| machine::named_chunks(view, SpaceId(request.space), after, limit)).await?;
        let end = named.len() < limit;
        let chunks = named.into_iter().map(|named| pb::NamedChunk {
            chunk: Some(convert::chunk_ref(named.chunk)),
            pg: named.pg.0,
            len: named.len,
        });
        Ok(pb::NamedChunksReply { chunks: chunks.collect(), end })
    }

    async fn states(&self, request: pb::ChunkStatesRequest) -> Result<pb::ChunkStatesReply, Refusal> {
        convert::parse_envelope(request.envelope)?;
        let (space, chunks) = (SpaceId(request.space), parse_chunks(request.chunks)?);
        let group = self.group(request.group)?;
        let states = group.read(|view| {
            chunks.iter().map(|chunk| machine::chunk_state(view, space, *chunk)).collect::<Result<Vec<_>, _>>()
        });
        Ok(pb::ChunkStatesReply { chunks: states.await?.into_iter().map(standing).collect() })
    }

    async fn start_search(&self, request: pb::FilesOfRequest) -> Result<Pieces<pb::FilesOfPiece>, Refusal> {
        convert::parse_envelope(request.envelope)?;
        let wanted: BTreeSet<_> = parse_chunks(request.chunks)?.into_iter().collect();
        let permit = self.begin()?;
        let view = self.group(request.group)?.linear_view().await?;
        Ok(records::files_of(permit, view, SpaceId(request.space), wanted))
    }

    async fn set_mark(&self, request: pb::MarkRequest) -> Result<pb::MarkReply, Refusal> {
        let envelope = convert::parse_envelope(request.envelope)?;
        let group = self.group(request.group)?;
        group.propose_within(None, Command::Mark(request.mark), limit(&envelope)).await?;
        Ok(pb::MarkReply {})
    }

    async fn start_digest(&self, request: pb::ReplicaDigestRequest) -> Result<Pieces<pb::DigestPiece>, Refusal> {
        let envelope = convert::parse_envelope(request.envelope)?;
        let permit = self.begin()?;
        let group = self.group(request.group)?;
        match group.marked(request.mark, limit(&envelope)).await {
            Some(view) => Ok(records::digest(permit, view)),
            None => Err(Refusal::Unknown { why: "the replica did not come by the mark".into() }),
        }
    }

    async fn reread(&self, request: pb::VerifyRequest) -> Result<pb::VerifyReply, Refusal> {
        let envelope = convert::parse_envelope(request.envelope)?;
        let to = ReplicaId { node: NodeId(request.to_node), incarnation: Incarnation(request.to_incarnation) };
        if to != self.own {
            return Err(Refusal::WrongRecipient { why: format!("this is {}, not {to}", self.own) });
        }
        let Some(chunk) = &self.chunk else { return Err(Refusal::NotServed { what: "chunks".into() }) };
        if request.chunks.len() > MAX_CHUNKS {
            return Err(too_many(request.chunks.len()));
        }
        let pg = PgId(request.pg);
        let wanted = request.chunks.into_iter().map(|wanted| {
            let key = ChunkKey { pg, space: SpaceId(wanted.space), chunk: convert::parse_chunk_ref(wanted.chunk)? };
            match wanted.len {
                0 => Err(Refusal::Invalid { why: "a chunk without bytes".into() }),
                len if len > MAX_CHUNK => Err(Refusal::Invalid { why: format!("a chunk of {len} bytes") }),
                len => Ok((key, len)),
            }
        });
        let wanted: Vec<_> = wanted.collect::<Result<_, _>>()?;
        let _permit = self.begin()?;
        // The rest of the time is for the way back.
        let until = Instant::now() + limit(&envelope) / 2;
        Ok(pb::VerifyReply { chunks: verify(chunk.store(), &wanted, until).await })
    }
}

fn limit(envelope: &Envelope) -> Duration {
    match envelope.deadline_ms {
        0 => LIMIT,
        ms => Duration::from_millis(u64::from(ms)).min(LIMIT_MAX),
    }
}

fn too_many(size: usize) -> Refusal {
    Refusal::TooLarge { what: "list of chunks".into(), size: size as u64, limit: MAX_CHUNKS as u64 }
}

fn parse_chunks(chunks: Vec<pb::ChunkRef>) -> Result<Vec<ChunkId>, Refusal> {
    if chunks.len() > MAX_CHUNKS {
        return Err(too_many(chunks.len()));
    }
    chunks.into_iter().map(|chunk| convert::parse_chunk_ref(Some(chunk))).collect()
}

fn standing(state: ChunkState) -> pb::ChunkStanding {
    let (standing, place) = match state {
        ChunkState::Named { pg, len, .. } => (pb::Standing::Named, Some((pg, len))),
        ChunkState::Freed { pg, len } => (pb::Standing::Freed, Some((pg, len))),
        ChunkState::Open => (pb::Standing::Open, None),
        ChunkState::Abandoned => (pb::Standing::Abandoned, None),
        ChunkState::Unknown => (pb::Standing::Unknown, None),
    };
    let (pg, len) = place.map_or((0, 0), |(pg, len)| (pg.0, len));
    pb::ChunkStanding { standing: standing.into(), pg, len }
}

fn answer<T>(result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|refusal| status::to_status(&refusal))
}

#[tonic::async_trait]
impl Fsck for FsckService {
    type AuditStream = Pieces<pb::AuditPiece>;
    type FilesOfStream = Pieces<pb::FilesOfPiece>;
    type DigestStream = Pieces<pb::DigestPiece>;

    async fn audit(&self, request: Request<pb::AuditRequest>) -> Result<Response<Self::AuditStream>, Status> {
        answer(self.start_audit(request.into_inner()).await)
    }

    async fn named_chunks(
        &self,
        request: Request<pb::NamedChunksRequest>,
    ) -> Result<Response<pb::NamedChunksReply>, Status> {
        answer(self.named(request.into_inner()).await)
    }

    async fn chunk_states(
        &self,
        request: Request<pb::ChunkStatesRequest>,
    ) -> Result<Response<pb::ChunkStatesReply>, Status> {
        answer(self.states(request.into_inner()).await)
    }

    async fn files_of(&self, request: Request<pb::FilesOfRequest>) -> Result<Response<Self::FilesOfStream>, Status> {
        answer(self.start_search(request.into_inner()).await)
    }

    async fn mark(&self, request: Request<pb::MarkRequest>) -> Result<Response<pb::MarkReply>, Status> {
        answer(self.set_mark(request.into_inner()).await)
    }

    async fn digest(&self, request: Request<pb::ReplicaDigestRequest>) -> Result<Response<Self::DigestStream>, Status> {
        answer(self.start_digest(request.into_inner()).await)
    }

    async fn verify(&self, request: Request<pb::VerifyRequest>) -> Result<Response<pb::VerifyReply>, Status> {
        answer(self.reread(request.into_inner()).await)
    }
}
