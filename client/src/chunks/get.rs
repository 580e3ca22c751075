//! Reading a chunk: replicas in a good order, the next one on error, on wrong bytes, or when the first is slow.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use weft_core::checksum::first_bad_block;
use weft_core::ids::{NodeId, SpaceId};
use weft_core::limits::BLOCK;
use weft_core::refusal::Refusal;
use weft_core::site::MemberState;

use super::Place;
use crate::client::Shared;
use crate::error::{Error, Result};
use crate::servers::{GetChunk, Piece};
use crate::trial::Trial;

/// Rounds over all replicas that give wrong bytes before the bytes count as lost.
const BAD_ROUNDS: u32 = 3;

impl Shared {
    /// Bytes `at..at + len` of a chunk, checked. With `patient` a chunk that no replica has is asked for until the
    /// deadline, since its file's map says that it is there.
    ///
    /// # Errors
    /// [`Refusal::NoChunk`] if a replica says so and none gives it; [`Refusal::BadSum`] if all give wrong bytes.
    pub(crate) async fn get_chunk(
        &self,
        space: SpaceId,
        place: Place,
        at: u32,
        len: u32,
        patient: bool,
    ) -> Result<Bytes> {
        if len == 0 || at.checked_add(len).is_none_or(|end| end > place.len) {
            let why = format!("bytes {at}+{len} of chunk {} with {} bytes", place.chunk, place.len);
            return Err(Error::Refused(Refusal::Invalid { why }));
        }
        let start = at / BLOCK * BLOCK;
        let end = (at + len).next_multiple_of(BLOCK).min(place.len);
        let get = GetChunk { chunk: place.chunk, pg: place.pg, offset: start, len: end - start };
        let mut trial = Trial::new(&self.options);
        let mut bad_rounds = 0;
        loop {
            self.open()?;
            let refusal = match self.get_round(space, get, &trial).await {
                Ok(bytes) => return Ok(bytes.slice((at - start) as usize..(at - start + len) as usize)),
                Err(refusal) => refusal,
            };
            match &refusal {
                Refusal::NoChunk if !patient => return Err(Error::Refused(refusal)),
                Refusal::BadSum { .. } => {
                    bad_rounds += 1;
                    if bad_rounds == BAD_ROUNDS {
                        return Err(Error::Refused(refusal));
                    }
                }
                Refusal::Denied | Refusal::NotPermitted | Refusal::WrongVersion { .. } => {
                    return Err(Error::Refused(refusal));
                }
                _ => {}
            }
            trial.pause(&*self.parts.dice, Duration::ZERO, &refusal.to_string()).await?;
            if let Err(refusal) = self.refresh().await {
                tracing::debug!(%refusal, "refresh the site map");
            }
        }
    }

    /// Asks one replica after another until one gives intact bytes.
    async fn get_round(&self, space: SpaceId, get: GetChunk, trial: &Trial) -> Result<Bytes, Refusal> {
        let mut replicas = self.replicas_to_read(&get).into_iter();
        let mut asked = FuturesUnordered::new();
        let mut worst = Refusal::Unknown { why: format!("no server of placement group {} is known", get.pg) };
        let Some(first) = replicas.next() else { return Err(worst) };
        asked.push(self.get_once(space, get, first, trial));
        loop {
            let hedge = tokio::time::sleep(self.options.hedge_after);
            tokio::select! {
                biased;
                answer = asked.next() => match answer {
                    Some(Ok(bytes)) => return Ok(bytes),
                    Some(Err(refusal)) => {
                        worst = worse(worst, refusal);
                        match replicas.next() {
                            Some(next) => asked.push(self.get_once(space, get, next, trial)),
                            None if asked.is_empty() => return Err(worst),
                            None => {}
                        }
                    }
                    None => return Err(worst),
                },
                () = hedge, if replicas.len() > 0 => {
                    if let Some(next) = replicas.next() {
                        asked.push(self.get_once(space, get, next, trial));
                    }
                }
            }
        }
    }

    async fn get_once(
        &self,
        space: SpaceId,
        get: GetChunk,
        (node, addr): (NodeId, String),
        trial: &Trial,
    ) -> Result<Bytes, Refusal> {
        let wait = trial.long_wait();
        let call = self.chunk_call(space, wait);
        let answer = match tokio::time::timeout(wait, self.servers.get(&addr, call, get)).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::Unknown { why: format!("node {node} did not give a chunk in time") }),
        };
        let answer = answer.and_then(|pieces| {
            checked(get, pieces).inspect_err(|_| {
                // The server did not see it: it should read the chunk again. Whether it hears of it changes nothing here.
                let (servers, addr) = (self.servers.clone(), addr.clone());
                let call = self.chunk_call(space, wait);
                tokio::spawn(async move {
                    if let Err(refusal) = servers.suspect(&addr, call, get).await {
                        tracing::debug!(%refusal, chunk = %get.chunk, "say that a replica gave wrong bytes");
                    }
                });
            })
        });
        match answer {
            Ok(bytes) => {
                self.topology.unshun(node);
                Ok(bytes)
            }
            Err(refusal) => {
                if matches!(refusal, Refusal::Unknown { .. }) {
                    self.topology.shun(node);
                }
                if matches!(refusal, Refusal::BadSum { .. }) {
                    tracing::warn!(chunk = %get.chunk, pg = %get.pg, %node, %refusal, "a replica gave wrong bytes");
                }
                Err(refusal)
            }
        }
    }

    /// Servers that should hold the chunk: complete ones that look up first, each chunk from another of them, so that
    /// load spreads; incomplete and missing ones last, since they may still have it.
    fn replicas_to_read(&self, get: &GetChunk) -> Vec<(NodeId, String)> {
        let Some(pg) = self.topology.pg(get.pg) else { return Vec::new() };
        let map = self.topology.map();
        let mut found: Vec<(u8, NodeId, String)> = pg
            .members
            .iter()
            .filter_map(|member| {
                let node = map.nodes.iter().find(|node| node.id == member.replica.node)?;
                let rank = match (member.state, self.topology.looks_up(node)) {
                    (MemberState::Serving, true) => 0,
                    (MemberState::Serving, false) => 1,
                    (MemberState::Behind | MemberState::Leaving, _) => 2,
                    (MemberState::Away, _) => 3,
                };
                Some((rank, node.id, node.addr.clone()))
            })
            .collect();
        if !found.is_empty() {
            let by = (get.chunk.counter % found.len() as u64) as usize;
            found.rotate_left(by);
        }
        found.sort_by_key(|(rank, ..)| *rank);
        found.into_iter().map(|(_, node, addr)| (node, addr)).collect()
    }
}

/// Of several servers' refusals the one that says most: wrong bytes, then absence, then silence.
fn worse(a: Refusal, b: Refusal) -> Refusal {
    let rank = |refusal: &Refusal| match refusal {
        Refusal::BadSum { .. } => 2,
        Refusal::NoChunk => 1,
        _ => 0,
    };
    if rank(&b) >= rank(&a) { b } else { a }
}

/// The bytes of pieces that cover exactly what was asked and match their sums.
fn checked(get: GetChunk, pieces: Vec<Piece>) -> Result<Bytes, Refusal> {
    let mut expected = get.offset;
    for piece in &pieces {
        if piece.offset != expected || piece.offset % BLOCK != 0 || piece.data.is_empty() {
            return Err(Refusal::BadSum { what: format!("a piece at {} instead of {expected}", piece.offset) });
        }
        if let Some(block) = first_bad_block(get.chunk, piece.offset / BLOCK, &piece.data, &piece.sums) {
            return Err(Refusal::BadSum { what: format!("block {block} of chunk {}", get.chunk) });
        }
        expected = match u32::try_from(piece.data.len()).ok().and_then(|len| expected.checked_add(len)) {
            Some(next) if next <= get.offset + get.len => next,
            _ => return Err(Refusal::BadSum { what: "more bytes than asked for".into() }),
        };
    }
    if expected != get.offset + get.len {
        return Err(Refusal::BadSum { what: format!("{} bytes of {}", expected - get.offset, get.len) });
    }
    let mut pieces = pieces;
    if pieces.len() == 1 {
        return Ok(pieces.remove(0).data);
    }
    let mut all = BytesMut::with_capacity(get.len as usize);
    for piece in pieces {
        all.extend_from_slice(&piece.data);
    }
    Ok(all.freeze())
}
