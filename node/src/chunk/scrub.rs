//! Rereading: every chunk is read from the disk again and again, slowly, so that rot is found while another copy is
//! whole.
//!
//! It goes through the placement groups in order, remembers now and then how far it came, and goes on there after a
//! restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut};
use tokio::time::Instant;
use weft_core::ids::{ChunkId, ClientId, PgId, SpaceId};
use weft_core::refusal::Refusal;

use super::digest::At;
use super::fetch::Pace;
use super::server::Shared;
use crate::parts::Disk;

/// Chunks taken from the index at a time.
const PAGE: usize = 64;
/// How often its place is written down at the most.
const REMEMBER: Duration = Duration::from_secs(60);
/// Before the site map is here there is nothing to read; after a failed listing it does not try at once.
const TRY_AGAIN: Duration = Duration::from_secs(2);
const VERSION: u8 = 1;

/// What was reread since the start.
#[derive(Debug, Default)]
pub(crate) struct Reread {
    /// Chunks.
    pub(crate) chunks: AtomicU64,
    /// Their bytes.
    pub(crate) bytes: AtomicU64,
}

/// How far a round has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    pg: PgId,
    after: Option<At>,
}

impl Place {
    fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_u32(self.pg.0);
        out.put_u8(u8::from(self.after.is_some()));
        let (space, chunk) = self.after.unwrap_or_default();
        out.put_u64(space.0);
        out.put_u64(chunk.client.0);
        out.put_u64(chunk.counter);
        out.put_u32(crc32fast::hash(&out));
        out
    }

    /// `None` for anything but what `encode` makes: the round begins anew, and nothing is lost by it.
    fn decode(bytes: &[u8]) -> Option<Place> {
        let (mut fields, crc) = bytes.split_at_checked(30)?;
        if crc != crc32fast::hash(fields).to_be_bytes() || fields.get_u8() != VERSION {
            return None;
        }
        let (pg, some) = (PgId(fields.get_u32()), fields.get_u8() != 0);
        let space = SpaceId(fields.get_u64());
        let chunk = ChunkId { client: ClientId(fields.get_u64()), counter: fields.get_u64() };
        Some(Place { pg, after: some.then_some((space, chunk)) })
    }
}

fn file() -> PathBuf {
    PathBuf::from("chunks").join("reread")
}

/// Rereads until the server is gone. `bytes_per_s` is not zero.
pub(crate) async fn run(shared: Arc<Shared>, disk: Arc<dyn Disk>, bytes_per_s: u64, pause: Duration) {
    let pace = Pace::new(bytes_per_s);
    let mut place = match disk.read_small(&file()).await {
        Ok(bytes) => Place::decode(&bytes).unwrap_or_default(),
        Err(_) => Place::default(),
    };
    let mut remembered = Instant::now();
    loop {
        let wait = match page(&shared, &pace, &mut place).await {
            Ok(true) => None,
            Ok(false) if shared.map.get().version > 0 => {
                place = Place::default();
                remember(&*disk, place).await;
                Some(pause)
            }
            Ok(false) => Some(TRY_AGAIN),
            Err(refusal) => {
                tracing::warn!(why = %refusal, "rereading goes on later");
                Some(TRY_AGAIN)
            }
        };
        if remembered.elapsed() >= REMEMBER {
            remembered = Instant::now();
            remember(&*disk, place).await;
        }
        if let Some(wait) = wait {
            // A pause at the least, also where the settings make it none.
            tokio::time::sleep(wait.max(TRY_AGAIN)).await;
        }
    }
}

async fn remember(disk: &dyn Disk, place: Place) {
    if let Err(error) = disk.write_small(&file(), &place.encode()).await {
        tracing::debug!(%error, "write down how far rereading came");
    }
}

/// Rereads some chunks behind `place`. False if there are none: the round is over.
async fn page(shared: &Shared, pace: &Pace, place: &mut Place) -> Result<bool, Refusal> {
    let map = shared.map.get();
    let ours = map.pgs.iter().filter(|pg| pg.members.iter().any(|member| member.replica == shared.replica));
    let Some(pg) = ours.map(|pg| pg.id).filter(|pg| *pg >= place.pg).min() else { return Ok(false) };
    if pg != place.pg {
        *place = Place { pg, after: None };
    }
    let page = shared.store.list(pg, place.after, PAGE)?;
    if page.is_empty() {
        *place = Place { pg: PgId(pg.0.saturating_add(1)), after: None };
        return Ok(pg.0 < u32::MAX);
    }
    for (key, len) in page {
        pace.wait(len.into()).await;
        match shared.store.reread(key).await {
            Ok(_) => {}
            Err(refusal) => shared.healer.heard(key, &refusal),
        }
        shared.reread.chunks.fetch_add(1, Ordering::Relaxed);
        shared.reread.bytes.fetch_add(len.into(), Ordering::Relaxed);
        place.after = Some((key.space, key.chunk));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_trip_and_damage_begins_anew() {
        let chunk = ChunkId { client: ClientId(7), counter: u64::MAX };
        for place in [Place::default(), Place { pg: PgId(9), after: Some((SpaceId(3), chunk)) }] {
            let bytes = place.encode();
            assert_eq!(Place::decode(&bytes), Some(place));
            for at in 0..bytes.len() {
                let mut hurt = bytes.clone();
                hurt[at] ^= 8;
                assert_eq!(Place::decode(&hurt), None, "byte {at}");
                assert_eq!(Place::decode(&bytes[..at]), None, "cut at {at}");
            }
        }
    }
}
