//! One chunk whole from another member: what healing and catching up are made of.
//!
//! Whoever holds it gives it, whatever its place in the group: a chunk never changes, and its sums, seeded with its id,
//! say whether it is whole.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::checksum::first_bad_block;
use weft_core::ids::{ChunkId, ClientId, ReplicaId};
use weft_core::limits::BLOCK;
use weft_core::refusal::Refusal;
use weft_core::site::{MemberState, Pg};
use weft_proto::status::from_status;
use weft_proto::{PROTOCOL, pb};

use super::forward::peer;
use super::index::ChunkKey;
use super::server::Shared;
use super::store::NewChunk;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What became of asking the others for a chunk.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// A whole copy.
    Whole(NewChunk),
    /// Every other serving member says that there is no such chunk, and nobody else has it.
    Gone,
    /// Nobody gave it whole. `all_answered`: no serving member was silent, so asking again soon is no use.
    Nowhere {
        /// Whether every other serving member gave a clear answer, and there is one.
        all_answered: bool,
        /// What the last one said.
        why: Refusal,
    },
}

/// What one member says of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Absent,
    Damaged,
    Nothing,
}

fn said(refusal: &Refusal) -> Said {
    match refusal {
        Refusal::NoChunk => Said::Absent,
        Refusal::BadSum { .. } | Refusal::Invalid { .. } => Said::Damaged,
        _ => Said::Nothing,
    }
}

/// Asks all other members of the group, those first that should have it, for a chunk of `len` bytes. A copy from a
/// member that does not serve counts like any other, but its absence there says nothing.
pub(crate) async fn fetch(shared: &Shared, pg: &Pg, key: ChunkKey, len: u32) -> Fetched {
    let mut serving = Vec::new();
    let mut why = Refusal::Unknown { why: format!("{} has no other member", pg.id) };
    for state in [MemberState::Serving, MemberState::Behind, MemberState::Away] {
        let others = pg.members.iter().filter(|m| m.state == state && m.replica != shared.replica);
        for source in others.map(|member| member.replica) {
            match fetch_from(shared, key, len, source).await {
                Ok(chunk) => return Fetched::Whole(chunk),
                Err(refusal) => {
                    if state == MemberState::Serving {
                        serving.push(said(&refusal));
                    }
                    if said(&why) == Said::Nothing || said(&refusal) == Said::Damaged {
                        why = refusal;
                    }
                }
            }
        }
    }
    if !serving.is_empty() && serving.iter().all(|said| *said == Said::Absent) && said(&why) != Said::Damaged {
        return Fetched::Gone;
    }
    let all_answered = !serving.is_empty() && !serving.contains(&Said::Nothing);
    Fetched::Nowhere { all_answered, why }
}

async fn fetch_from(shared: &Shared, key: ChunkKey, len: u32, source: ReplicaId) -> Result<NewChunk, Refusal> {
    shared.pace.wait(len.into()).await;
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
        None if data.len() == len as usize => {
            shared.counters.fetched.fetch_add(1, Ordering::Relaxed);
            Ok(NewChunk { key, uploader, data: data.freeze(), sums })
        }
        _ => Err(Refusal::BadSum { what: format!("chunk {} from {source}", key.chunk) }),
    }
}

/// Spreads bytes over time.
pub(crate) struct Pace {
    bytes_per_s: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many bytes per second; 0: no limit.
    pub(crate) fn new(bytes_per_s: u64) -> Pace {
        Pace { bytes_per_s, free_at: Mutex::new(None) }
    }

    /// Waits until so many bytes may be moved.
    pub(crate) async fn wait(&self, bytes: u64) {
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

/// A member's answer, if it comes in time.
pub(crate) async fn answered<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Refusal> {
    match tokio::time::timeout(ANSWER_WITHIN, call).await {
        Ok(answer) => answer.map_err(|status| from_status(&status)),
        Err(_) => Err(Refusal::Unknown { why: format!("no answer in {} ms", ANSWER_WITHIN.as_millis()) }),
    }
}

/// The envelope of a server's own requests.
pub(crate) fn envelope() -> pb::Envelope {
    let deadline_ms = ANSWER_WITHIN.as_millis() as u32;
    pb::Envelope { protocol: PROTOCOL, deadline_ms, ..pb::Envelope::default() }
}

/// A chunk's id on the wire.
pub(crate) fn chunk_ref(chunk: ChunkId) -> pb::ChunkRef {
    pb::ChunkRef { client: chunk.client.0, counter: chunk.counter }
}

/// A member said something that makes no sense.
pub(crate) fn garbled(what: &str) -> Refusal {
    Refusal::Invalid { why: format!("a member's answer: {what}") }
}
