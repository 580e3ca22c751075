//! Pieces of chunks fetched ahead of readers. Chunks never change, so neither does what is kept here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use weft_core::ids::{ChunkId, SpaceId};

use super::Place;
use crate::client::Shared;
use crate::error::{Error, Result};

/// Length of one piece; pieces begin at multiples of it in their chunk.
pub(crate) const PIECE: u32 = 1 << 20;

/// A piece nobody used for so long may make room for others.
const IDLE: Duration = Duration::from_secs(2);

/// One piece, there or on its way.
pub(crate) struct Cell {
    lo: u32,
    hi: u32,
    made: Instant,
    /// Read to its end by someone: the first to go.
    used: AtomicBool,
    bytes: watch::Receiver<Option<Result<Bytes>>>,
    task: AbortHandle,
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cell {
    /// Bytes `at..at + len` of the chunk, which lie in the piece, once they are there.
    pub(crate) async fn wait(&self, at: u32, len: u32) -> Result<Bytes> {
        let mut bytes = self.bytes.clone();
        let whole = match bytes.wait_for(Option::is_some).await {
            Ok(whole) => whole.clone(),
            Err(_) => None,
        };
        let whole = whole.unwrap_or(Err(Error::Closed))?;
        if at + len == self.hi {
            self.used.store(true, Ordering::Relaxed);
        }
        Ok(whole.slice((at - self.lo) as usize..(at + len - self.lo) as usize))
    }

    /// One past its last byte in the chunk.
    pub(crate) fn hi(&self) -> u32 {
        self.hi
    }
}

/// The pieces of all files, bounded in bytes.
pub(crate) struct ReadCache {
    limit: u64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    cells: BTreeMap<(ChunkId, u32), Arc<Cell>>,
    order: VecDeque<(ChunkId, u32)>,
    bytes: u64,
}

impl Held {
    fn find(&self, chunk: ChunkId, at: u32) -> Option<Arc<Cell>> {
        let (_, cell) = self.cells.range((chunk, 0)..=(chunk, at)).next_back()?;
        (at < cell.hi).then(|| cell.clone())
    }

    fn remove(&mut self, key: (ChunkId, u32)) {
        if let Some(cell) = self.cells.remove(&key) {
            self.bytes -= u64::from(cell.hi - cell.lo);
        }
    }

    /// Lets go of what was used or lies idle until `len` more bytes fit; says whether they do.
    fn make_room(&mut self, len: u64, limit: u64) -> bool {
        let mut at = 0;
        while self.bytes + len > limit && at < self.order.len() {
            let key = self.order[at];
            let goes = match self.cells.get(&key) {
                Some(cell) => cell.used.load(Ordering::Relaxed) || cell.made.elapsed() > IDLE,
                None => true,
            };
            match goes {
                true => {
                    self.remove(key);
                    self.order.remove(at);
                }
                false => at += 1,
            }
        }
        self.bytes + len <= limit
    }
}

impl ReadCache {
    pub(crate) fn new(limit: u64) -> ReadCache {
        ReadCache { limit, held: Mutex::default() }
    }

    /// The piece that holds byte `at` of the chunk, if it is there or on its way.
    pub(crate) fn find(&self, chunk: ChunkId, at: u32) -> Option<Arc<Cell>> {
        self.held.lock().find(chunk, at)
    }

    pub(crate) fn clear(&self) {
        let mut held = self.held.lock();
        *held = Held::default();
    }
}

impl Shared {
    /// The piece that holds byte `at` of the chunk, fetched if it is not there; it stays within `lo..hi`, the part of the
    /// chunk that the file uses. `None` if there is no room.
    pub(crate) fn piece(
        self: &Arc<Self>,
        space: SpaceId,
        place: Place,
        (lo, hi): (u32, u32),
        at: u32,
    ) -> Option<Arc<Cell>> {
        let mut held = self.cache.held.lock();
        if let Some(cell) = held.find(place.chunk, at) {
            return Some(cell);
        }
        let mut start = (at / PIECE * PIECE).max(lo);
        // Another file's piece may hold some of it.
        if let Some((_, before)) = held.cells.range((place.chunk, 0)..=(place.chunk, at)).next_back() {
            start = start.max(before.hi);
        }
        let mut end = (at / PIECE * PIECE).saturating_add(PIECE).min(hi);
        if let Some(((_, next), _)) = held.cells.range((place.chunk, at + 1)..=(place.chunk, u32::MAX)).next() {
            end = end.min(*next);
        }
        let len = end - start;
        if !held.make_room(u64::from(len), self.cache.limit) {
            return None;
        }
        let (done, bytes) = watch::channel(None);
        // The task must not keep a client alive that everybody let go.
        let shared = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            let Some(shared) = shared.upgrade() else { return };
            let fetched = shared.get_chunk(space, place, start, len, false).await;
            if fetched.is_err() {
                let mut held = shared.cache.held.lock();
                held.remove((place.chunk, start));
            }
            // Nobody waiting is fine.
            let _ = done.send(Some(fetched));
        });
        let cell = Arc::new(Cell {
            lo: start,
            hi: end,
            made: Instant::now(),
            used: AtomicBool::new(false),
            bytes,
            task: task.abort_handle(),
        });
        held.cells.insert((place.chunk, start), cell.clone());
        held.order.push_back((place.chunk, start));
        held.bytes += u64::from(len);
        Some(cell)
    }
}
