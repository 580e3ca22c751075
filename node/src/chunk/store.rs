//! Chunks on one disk: put, read, list, delete.
//!
//! A put goes to the end of the segment in use, together with whatever else is on its way there, and is answered when
//! it is on media and in the index. What is answered therefore survives a crash, is found by `get` and `list`, and
//! lies below everything answered later in the same segment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use weft_core::broken::{self, Variant};
use weft_core::checksum::first_bad_block;
use weft_core::ids::{ChunkId, ClientId, PgId, SpaceId};
use weft_core::limits::{BLOCK, MAX_CHUNK};
use weft_core::refusal::Refusal;

use super::books::Books;
use super::format::{
    Body, Found, Life, MAX_HEAD, MAX_VOIDED, PAGE, Record, SegmentHeader, Target, Voided, head_len, record_len,
};
use super::heads::{Head, Heads};
use super::index::{ChunkIndex, ChunkIndexes, ChunkKey, Place};
use super::recover;
use super::segment::{self, Writing};
use super::settle::{self, Landed};
use super::tend;
use crate::parts::{Dice, Disk, DiskFile, OpenMode, Space, WriteDone};

/// What a store needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Its folder on the disk.
    pub folder: PathBuf,
    /// Bytes of a new segment; rounded up to whole pages.
    pub segment_bytes: u64,
    /// Bytes left free on the disk: no new segment is made below it.
    pub reserve_bytes: u64,
    /// Bytes of memory for the headers of chunks read lately.
    pub head_cache_bytes: usize,
}

impl Default for StoreSettings {
    fn default() -> Self {
        StoreSettings {
            folder: PathBuf::from("chunks"),
            segment_bytes: 256 << 20,
            reserve_bytes: 512 << 20,
            head_cache_bytes: 16 << 20,
        }
    }
}

/// Bytes of a segment that is made for deletions alone, out of what is kept free, when the disk is full.
const FOR_DELETIONS: u64 = 1 << 20;

impl StoreSettings {
    /// Segments up to this length take deletions only.
    pub(crate) fn for_deletions(&self) -> u64 {
        (self.segment_bytes / 2).min(FOR_DELETIONS).next_multiple_of(PAGE)
    }
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("open chunk store: {what}: {error}")]
    Disk {
        /// While doing what.
        what: String,
        /// How.
        error: std::io::Error,
    },
    /// The index can't even be rebuilt.
    #[error("open chunk store: {0}")]
    Index(#[from] super::index::IndexError),
    /// A later version wrote it.
    #[error("open chunk store: {what} has format version {version}, which this version does not know")]
    Newer {
        /// Which file.
        what: String,
        /// Its version.
        version: u16,
    },
}

/// A chunk to be stored.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// Which.
    pub key: ChunkKey,
    /// Whose session uploads it.
    pub uploader: ClientId,
    /// Its bytes, 1 to [`MAX_CHUNK`] of them.
    pub data: Bytes,
    /// The sum of each block; the caller has checked them.
    pub sums: Vec<u32>,
}

/// What a store holds and whether it takes more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    /// The file system below.
    pub space: Space,
    /// Chunks.
    pub chunks: u64,
    /// Their bytes.
    pub chunk_bytes: u64,
    /// It takes no or hardly any more chunks: the disk is full or has failed.
    pub full: bool,
    /// The disk's failure, after which no chunk is taken before a restart.
    pub failed: Option<String>,
}

/// The chunks of one disk.
pub struct Store {
    inner: Arc<Inner>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the store shares with its two tasks: `settle` (index and answers) and `tend` (segments).
pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dice: Arc<dyn Dice>,
    pub(crate) settings: StoreSettings,
    pub(crate) segments: PathBuf,
    pub(crate) index: Arc<dyn ChunkIndex>,
    pub(crate) state: Mutex<State>,
    pub(crate) files: Mutex<Files>,
    pub(crate) heads: Heads,
    pub(crate) landed: mpsc::UnboundedSender<Landed>,
    /// Wakes puts that wait for a segment.
    pub(crate) room: Notify,
    /// Wakes `tend`.
    pub(crate) work: Notify,
    pub(crate) bad_sums: AtomicU64,
    /// Chunks made void.
    pub(crate) deleted: AtomicU64,
    /// Bytes given back to the file system: holes punched, segments removed.
    pub(crate) given_back: AtomicU64,
    pub(crate) closed: AtomicBool,
}

#[derive(Default)]
pub(crate) struct State {
    /// Takes the next record.
    pub(crate) active: Option<Writing>,
    /// Took its last record; waits for the last one to settle and for its table.
    pub(crate) retired: Vec<Writing>,
    /// Files ready to be taken into use.
    pub(crate) spares: VecDeque<Spare>,
    /// All segments that hold records.
    pub(crate) segments: BTreeMap<u64, Known>,
    /// Chunks on their way, with those who wait for the same ones.
    pub(crate) flights: BTreeMap<ChunkKey, Vec<oneshot::Sender<()>>>,
    pub(crate) books: Books,
    pub(crate) next_number: u64,
    pub(crate) next_sequence: u64,
    pub(crate) space: Space,
    /// A put waits for a segment.
    pub(crate) wanting: bool,
    /// No further segment can be made.
    pub(crate) full: bool,
    /// A deletion waits for a segment though no further one can be made for chunks.
    pub(crate) wanting_deletions: bool,
    /// Not even a small one could be made; looked at again in a moment.
    pub(crate) full_for_deletions: bool,
    /// The disk failed: nothing is taken any more.
    pub(crate) failed: Option<String>,
}

/// A file that waits to become a segment.
pub(crate) struct Spare {
    pub(crate) number: u64,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// What is kept in memory of a segment.
pub(crate) struct Known {
    pub(crate) header: SegmentHeader,
    pub(crate) sealed: bool,
    /// Segments (and their generations) in which its deletions and replacements make records void.
    pub(crate) voids_in: BTreeSet<(u64, u64)>,
    /// It has, or may have, holes.
    pub(crate) punched: bool,
    /// How much of it was void when holes were last punched.
    pub(crate) punched_at: u64,
    /// Bytes of the holes.
    pub(crate) punched_bytes: u64,
}

impl Known {
    pub(crate) fn new(header: SegmentHeader) -> Known {
        Known { header, sealed: false, voids_in: BTreeSet::new(), punched: false, punched_at: 0, punched_bytes: 0 }
    }
}

/// Open files of segments, the least lately used closed beyond a bound.
#[derive(Default)]
pub(crate) struct Files {
    open: BTreeMap<u64, (Arc<dyn DiskFile>, u64)>,
    used: u64,
}

const MAX_OPEN_FILES: usize = 256;
/// Bytes read at a time where nobody waits for them.
const REREAD: u32 = 1 << 20;

impl Files {
    fn get(&mut self, number: u64) -> Option<Arc<dyn DiskFile>> {
        self.used += 1;
        let (file, used) = self.open.get_mut(&number)?;
        *used = self.used;
        Some(file.clone())
    }

    pub(crate) fn insert(&mut self, number: u64, file: Arc<dyn DiskFile>) {
        self.used += 1;
        self.open.insert(number, (file, self.used));
        if self.open.len() > MAX_OPEN_FILES {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            oldest.map(|number| self.open.remove(&number));
        }
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.open.remove(&number);
    }
}

impl Store {
    /// Opens the store in a folder of a disk. Returns when the index covers everything that was ever acknowledged.
    ///
    /// # Errors
    /// The disk fails, or a later version wrote the folder.
    pub async fn open(
        disk: Arc<dyn Disk>,
        indexes: &dyn ChunkIndexes,
        dice: Arc<dyn Dice>,
        settings: StoreSettings,
    ) -> Result<Store, OpenError> {
        let segments = settings.folder.join("segments");
        let recovered = recover::recover(&*disk, indexes, &settings.folder, &segments).await?;
        let (landed, landings) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            disk,
            dice,
            heads: Heads::new(settings.head_cache_bytes),
            settings,
            segments,
            index: recovered.index,
            state: Mutex::new(recovered.state),
            files: Mutex::default(),
            landed,
            room: Notify::new(),
            work: Notify::new(),
            bad_sums: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            given_back: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let tasks = vec![tokio::spawn(settle::run(inner.clone(), landings)), tokio::spawn(tend::run(inner.clone()))];
        Ok(Store { inner, tasks: Mutex::new(tasks) })
    }

    /// Stores a chunk. It is on media and in the index when this returns. Storing the same bytes under the same id
    /// again is answered the same.
    ///
    /// # Errors
    /// Other bytes are stored under this id, the disk is full or failed.
    pub async fn put(&self, chunk: NewChunk) -> Result<(), Refusal> {
        let len = chunk.data.len() as u64;
        if len == 0 || len > u64::from(MAX_CHUNK) || chunk.sums.len() as u64 != len.div_ceil(u64::from(BLOCK)) {
            return Err(Refusal::Invalid { why: format!("a chunk of {len} bytes with {} sums", chunk.sums.len()) });
        }
        let flight = self.board(chunk.key).await;
        if let Some(place) = self.inner.find(chunk.key)? {
            let head = self.inner.head(chunk.key, place).await?;
            if u64::from(place.len) == len && head.sums == chunk.sums {
                // Said again only of what is still whole.
                let file = self.inner.file(place.segment).await?;
                let reader = ChunkReader { inner: self.inner.clone(), key: chunk.key, head, file };
                return reader.read(0, place.len).await.map(drop);
            }
            return Err(Refusal::Invalid { why: format!("chunk {} is stored with other bytes", chunk.key.chunk) });
        }
        let body = Body::Put { uploader: chunk.uploader, len: len as u32, sums: chunk.sums, replaces: None };
        self.append(vec![flight], Record { key: chunk.key, body }, Some(chunk.data)).await
    }

    /// Puts a whole copy of a chunk in place of the damaged one at `damaged`; false if that is no longer where the chunk
    /// lies: it was deleted or replaced meanwhile, and nothing is brought back.
    ///
    /// The new copy and what makes the old one void are one record. A start after a crash finds it whole, and takes the
    /// new copy, or not at all, and the damaged one is found and healed again. The old record's segment is given up
    /// before the one with this record, so the damaged copy never comes back into force.
    ///
    /// # Errors
    /// The copy is not of the same length, the disk is full or failed.
    pub async fn replace(&self, damaged: Place, chunk: NewChunk) -> Result<bool, Refusal> {
        let flight = self.board(chunk.key).await;
        if self.inner.find(chunk.key)? != Some(damaged) {
            return Ok(false);
        }
        let len = chunk.data.len() as u64;
        if len != u64::from(damaged.len) || chunk.sums.len() as u64 != len.div_ceil(u64::from(BLOCK)) {
            let why = format!("{len} bytes in place of a chunk of {}", damaged.len);
            return Err(Refusal::Invalid { why });
        }
        let replaces = Some(self.target(damaged)?);
        let body = Body::Put { uploader: chunk.uploader, len: damaged.len, sums: chunk.sums, replaces };
        self.append(vec![flight], Record { key: chunk.key, body }, Some(chunk.data)).await?;
        Ok(true)
    }

    /// Reads a whole chunk from the disk, past what is cached of it.
    ///
    /// # Errors
    /// It is not here, it is damaged, or the disk fails.
    pub async fn reread(&self, key: ChunkKey) -> Result<u32, Refusal> {
        self.inner.heads.remove(key);
        let reader = self.reader(key).await?;
        let len = reader.chunk_len();
        let mut at = 0;
        while at < len {
            let end = at.saturating_add(REREAD).min(len);
            reader.read(at, end).await?;
            at = end;
        }
        Ok(len)
    }

    /// Where a chunk lies, and the sums that its header gives; `None` for them if the header is damaged.
    ///
    /// # Errors
    /// The index is damaged.
    pub(crate) async fn lies(&self, key: ChunkKey) -> Result<Option<(Place, Option<Vec<u32>>)>, Refusal> {
        let Some(place) = self.inner.find(key)? else { return Ok(None) };
        let head = self.inner.head(key, place).await.ok();
        Ok(Some((place, head.map(|head| head.sums.clone()))))
    }

    /// The record at a place, as another one names it.
    fn target(&self, place: Place) -> Result<Target, Refusal> {
        let generation = {
            let state = self.inner.state.lock();
            state.segments.get(&place.segment).map(|known| known.header.life.generation)
        };
        let Some(generation) = generation else {
            return Err(Refusal::DiskFailed { why: format!("segment {} of a chunk is missing", place.segment) });
        };
        Ok(Target { life: Life { segment: place.segment, generation }, offset: place.offset })
    }

    /// Makes a chunk void; false if it is not here. Its space is given back in time.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub async fn delete(&self, key: ChunkKey) -> Result<bool, Refusal> {
        let flight = self.board(key).await;
        let Some(Voided { target, len, .. }) = self.inner.voided(key)? else { return Ok(false) };
        self.append(vec![flight], Record { key, body: Body::Delete { target, len } }, None).await?;
        Ok(true)
    }

    /// Makes many chunks void, [`MAX_VOIDED`] with one record; those that are not here are passed over. Returns how many
    /// were here. Their space is given back in time.
    ///
    /// # Errors
    /// The disk is full or failed; some of them may be void already.
    pub async fn delete_many(&self, keys: &[ChunkKey]) -> Result<u64, Refusal> {
        let mut deleted = 0;
        // In order and each once: two such calls wait for each other at one chunk, never in a circle.
        let keys: BTreeSet<ChunkKey> = keys.iter().copied().collect();
        let keys: Vec<ChunkKey> = keys.into_iter().collect();
        for part in keys.chunks(MAX_VOIDED) {
            let mut flights = Vec::with_capacity(part.len());
            let mut voided = Vec::with_capacity(part.len());
            for key in part {
                let flight = self.board(*key).await;
                if let Some(found) = self.inner.voided(*key)? {
                    flights.push(flight);
                    voided.push(found);
                }
            }
            let record = match voided[..] {
                [] => continue,
                [Voided { key, target, len }] => Record { key, body: Body::Delete { target, len } },
                [Voided { key, .. }, ..] => Record { key, body: Body::DeleteMany(voided) },
            };
            deleted += flights.len() as u64;
            self.append(flights, record, None).await?;
        }
        Ok(deleted)
    }

    /// Finds a chunk for reading.
    ///
    /// # Errors
    /// It is not here, or its header is damaged.
    pub async fn reader(&self, key: ChunkKey) -> Result<ChunkReader, Refusal> {
        let head = match self.inner.heads.get(key) {
            Some(head) => head,
            None => {
                let place = self.inner.find(key)?.ok_or(Refusal::NoChunk)?;
                self.inner.head(key, place).await?
            }
        };
        let file = self.inner.file(head.place.segment).await?;
        Ok(ChunkReader { inner: self.inner.clone(), key, head, file })
    }

    /// Chunks of a placement group in key order after one of them, at most `limit`, with their lengths.
    ///
    /// # Errors
    /// The index is damaged.
    pub fn list(
        &self,
        pg: PgId,
        after: Option<(SpaceId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(ChunkKey, u32)>, Refusal> {
        let found = self.inner.index.list(pg, after, limit).map_err(broken_index)?;
        Ok(found.into_iter().map(|(key, place)| (key, place.len)).collect())
    }

    /// Whether a chunk is here.
    ///
    /// # Errors
    /// The index is damaged.
    pub fn has(&self, key: ChunkKey) -> Result<bool, Refusal> {
        Ok(self.inner.find(key)?.is_some())
    }

    /// What it holds and whether it takes more.
    pub fn facts(&self) -> StoreFacts {
        let state = self.inner.state.lock();
        // What is kept for deletions is no room for chunks.
        let for_chunks = |segment: u64| segment > self.inner.settings.for_deletions();
        let active = state.active.as_ref().filter(|active| for_chunks(active.header.len));
        let room = active.map_or(0, Writing::room);
        let spare = state.spares.iter().any(|spare| for_chunks(spare.file.len()));
        let nearly = room < record_len(MAX_CHUNK).max(self.inner.settings.segment_bytes / 8);
        StoreFacts {
            space: state.space,
            chunks: state.books.chunks,
            chunk_bytes: state.books.bytes,
            full: state.failed.is_some() || (state.full && !spare && nearly),
            failed: state.failed.clone(),
        }
    }

    /// Blocks that did not match their sums, since the start.
    pub fn bad_sums(&self) -> u64 {
        self.inner.bad_sums.load(Ordering::Relaxed)
    }

    /// Chunks made void and bytes given back to the file system, since the start.
    pub fn given_back(&self) -> (u64, u64) {
        (self.inner.deleted.load(Ordering::Relaxed), self.inner.given_back.load(Ordering::Relaxed))
    }

    /// Takes no more chunks, waits for those on their way and saves the index. Idempotent.
    pub async fn shutdown(&self) {
        const LONGEST: Duration = Duration::from_secs(10);
        self.inner.closed.store(true, Ordering::Release);
        self.inner.room.notify_waiters();
        let deadline = tokio::time::Instant::now() + LONGEST;
        while !self.inner.state.lock().flights.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            // Aborted or finished: it holds nothing any more.
            let _ = task.await;
        }
        settle::save(&self.inner);
    }

    /// Waits until nobody else is bringing or removing this chunk, and lets others wait in turn.
    async fn board(&self, key: ChunkKey) -> Flight {
        loop {
            let wait = {
                let flights = &mut self.inner.state.lock().flights;
                match flights.get_mut(&key) {
                    Some(waiting) => {
                        let (done, wait) = oneshot::channel();
                        waiting.push(done);
                        wait
                    }
                    None => {
                        flights.insert(key, Vec::new());
                        return Flight { inner: self.inner.clone(), key: Some(key) };
                    }
                }
            };
            // Whether it landed or was given up, look again.
            let _ = wait.await;
        }
    }

    /// Queues a record behind the others and waits until it is settled. Nothing is awaited between the queueing and
    /// the hand-over of the flight, so a caller that goes away leaves no flight behind.
    async fn append(&self, flights: Vec<Flight>, record: Record, data: Option<Bytes>) -> Result<(), Refusal> {
        let answer = loop {
            let room = self.inner.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.inner.take_room(&record)? {
                Some(taken) => break self.inner.queue(flights, record, data, taken),
                None => self.inner.work.notify_one(),
            }
            room.await;
        };
        let closed = || Refusal::Unknown { why: "the chunk store was shut down".into() };
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.tasks.lock().iter().for_each(JoinHandle::abort);
    }
}

/// The right to bring or remove one chunk; given back when dropped, or by `settle` after the hand-over.
struct Flight {
    inner: Arc<Inner>,
    key: Option<ChunkKey>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.inner.state.lock().flights.remove(&key);
        }
    }
}

/// Room taken for a record; the state's lock is held until its write is queued, so that writes are queued in order.
struct Taken<'a> {
    state: parking_lot::MutexGuard<'a, State>,
    offset: u64,
}

impl Inner {
    /// What a deletion says of a chunk that is here.
    fn voided(&self, key: ChunkKey) -> Result<Option<Voided>, Refusal> {
        let Some(place) = self.find(key)? else { return Ok(None) };
        let state = self.state.lock();
        let Some(known) = state.segments.get(&place.segment) else {
            return Err(Refusal::DiskFailed { why: format!("segment {} of a chunk is missing", place.segment) });
        };
        let target = Target { life: known.header.life, offset: place.offset };
        Ok(Some(Voided { key, target, len: place.len }))
    }

    pub(crate) fn find(&self, key: ChunkKey) -> Result<Option<Place>, Refusal> {
        self.index.get(key).map_err(broken_index)
    }

    /// `None`: wait for `room`.
    fn take_room(&self, record: &Record) -> Result<Option<Taken<'_>>, Refusal> {
        let (len, entries) = (record.len(), record.entries());
        let is_put = matches!(record.body, Body::Put { .. });
        let for_deletions = self.settings.for_deletions();
        // What is kept for deletions takes no puts.
        let takes = |segment: u64| !is_put || segment > for_deletions;
        let mut guard = self.state.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(Refusal::NotServed { what: "chunks: it is shutting down".into() });
        }
        let state = &mut *guard;
        if let Some(why) = &state.failed {
            return Err(Refusal::DiskFailed { why: why.clone() });
        }
        let fits = |active: &Writing| takes(active.header.len) && active.fits(len, entries);
        if !state.active.as_ref().is_some_and(fits) {
            let fits = |spare: &Spare| {
                let room = spare.file.len();
                takes(room) && len <= segment::largest_record(room, entries)
            };
            let Some(at) = state.spares.iter().position(fits) else {
                let largest = segment::largest_record(self.settings.segment_bytes, entries);
                if len > largest {
                    return Err(Refusal::TooLarge { what: "chunk record".into(), size: len, limit: largest });
                }
                if state.full && !is_put && !state.full_for_deletions {
                    state.wanting_deletions = true;
                    return Ok(None);
                }
                if state.full {
                    return Err(Refusal::NoSpace { why: "the chunk server's disk is full".into() });
                }
                state.wanting = true;
                return Ok(None);
            };
            if let Some(spare) = state.spares.remove(at) {
                self.take_into_use(state, spare);
            }
        }
        let Some(active) = state.active.as_mut() else { return Ok(None) };
        let used_before = active.at;
        let offset = active.take(len, entries);
        // The next segment is made ready when this one is a quarter full.
        let quarter = active.header.len / 4;
        if used_before < quarter && active.at >= quarter {
            self.work.notify_one();
        }
        Ok(Some(Taken { state: guard, offset }))
    }

    /// Makes a spare the segment in use. Its header is queued before any record, so a record on media implies it.
    fn take_into_use(&self, state: &mut State, spare: Spare) {
        let generation = loop {
            match self.dice.roll() {
                0 => {}
                generation => break generation,
            }
        };
        let life = Life { segment: spare.number, generation };
        let len = spare.file.len() / PAGE * PAGE;
        let header = SegmentHeader { life, sequence: state.next_sequence, len };
        state.next_sequence += 1;
        spare.file.write(0, vec![header.encode()], Box::new(|_| {}));
        self.files.lock().insert(spare.number, spare.file.clone());
        state.segments.insert(spare.number, Known::new(header));
        if let Some(full) = state.active.replace(Writing::new(header, spare.file)) {
            state.retired.push(full);
        }
        self.work.notify_one();
    }

    fn queue(
        &self,
        mut flights: Vec<Flight>,
        record: Record,
        data: Option<Bytes>,
        taken: Taken<'_>,
    ) -> oneshot::Receiver<Result<(), Refusal>> {
        const ZEROES: &[u8] = &[0; PAGE as usize];
        let (answer, wait) = oneshot::channel();
        let Some(active) = taken.state.active.as_ref() else { return wait };
        let (life, offset) = (active.header.life, taken.offset);
        let head = record.encode(life, offset);
        let filled = head.len() + data.as_ref().map_or(0, Bytes::len);
        let padding = filled.next_multiple_of(PAGE as usize) - filled;
        let parts = [Some(head), data, (padding > 0).then(|| Bytes::from_static(&ZEROES[..padding]))];
        let landed = self.landed.clone();
        flights.iter_mut().for_each(|flight| flight.key = None);
        let parts = parts.into_iter().flatten().collect();
        let done: WriteDone = Box::new(move |result| {
            // Nobody listens after a shutdown.
            let _ = landed.send(Landed { life, offset, record, result, answer });
        });
        match broken::is(Variant::ChunkUnflushed) {
            false => active.file.write_durable(offset, parts, done),
            true => active.file.write(offset, parts, done),
        }
        wait
    }

    /// The file of a segment.
    pub(crate) async fn file(&self, number: u64) -> Result<Arc<dyn DiskFile>, Refusal> {
        if let Some(file) = self.files.lock().get(number) {
            return Ok(file);
        }
        let file = self.disk.open(&segment::path(&self.segments, number), OpenMode::Read).await;
        let file = file.map_err(|error| disk_failed(&format!("open segment {number}"), &error))?;
        self.files.lock().insert(number, file.clone());
        Ok(file)
    }

    /// The header of a chunk, from the cache or the disk.
    async fn head(&self, key: ChunkKey, place: Place) -> Result<Arc<Head>, Refusal> {
        if let Some(head) = self.heads.get(key).filter(|head| head.place == place) {
            return Ok(head);
        }
        let generation = self.state.lock().segments.get(&place.segment).map(|known| known.header.life.generation);
        let file = self.file(place.segment).await?;
        let bytes = file.read(place.offset, head_len(place.len).min(MAX_HEAD)).await;
        let bytes = bytes.map_err(|error| disk_failed(&format!("read segment {}", place.segment), &error))?;
        let life = Life { segment: place.segment, generation: generation.unwrap_or(0) };
        match Record::decode(&bytes, life, place.offset) {
            Found::One(Record { key: found, body: Body::Put { uploader, len, sums, .. } })
                if found == key && len == place.len =>
            {
                let head = Arc::new(Head { place, uploader, sums });
                self.heads.insert(key, head.clone());
                Ok(head)
            }
            _ => Err(self.rot(key, place, "its header")),
        }
    }

    /// What does not match its sums is rot, unless the chunk was deleted while it was read.
    fn rot(&self, key: ChunkKey, place: Place, what: &str) -> Refusal {
        self.heads.remove(key);
        match self.find(key) {
            Ok(None) => return Refusal::NoChunk,
            Ok(Some(found)) if found != place => return Refusal::Busy { retry_after_ms: 1 },
            Ok(Some(_)) => {}
            Err(refusal) => return refusal,
        }
        self.bad_sums.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(chunk = %key.chunk, space = %key.space, segment = place.segment, offset = place.offset, what,
            "a chunk is damaged on the disk");
        Refusal::BadSum { what: format!("chunk {}: {what}", key.chunk) }
    }
}

/// An open chunk.
pub struct ChunkReader {
    inner: Arc<Inner>,
    key: ChunkKey,
    head: Arc<Head>,
    file: Arc<dyn DiskFile>,
}

/// Whole blocks of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// First byte within the chunk.
    pub offset: u32,
    /// The bytes.
    pub data: Bytes,
    /// Sum of each block.
    pub sums: Vec<u32>,
}

impl ChunkReader {
    /// Bytes of the chunk.
    pub fn chunk_len(&self) -> u32 {
        self.head.place.len
    }

    /// Which chunk.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// Whose session uploaded it.
    pub fn uploader(&self) -> ClientId {
        self.head.uploader
    }

    /// Says that bytes `start..end` will be read, piece by piece.
    pub fn will_read(&self, start: u32, end: u32) {
        let at = self.head.place.offset + head_len(self.head.place.len) as u64 + u64::from(start);
        self.file.will_read(at, u64::from(end.saturating_sub(start)));
    }

    /// The whole blocks that hold bytes `start..end` of the chunk, checked against their sums. The end is cut to the
    /// chunk's.
    ///
    /// # Errors
    /// The bytes are damaged, or the disk fails.
    pub async fn read(&self, start: u32, end: u32) -> Result<Blocks, Refusal> {
        let place = self.head.place;
        let end = end.min(place.len);
        if start >= end {
            return Ok(Blocks { offset: start.min(place.len), data: Bytes::new(), sums: Vec::new() });
        }
        let (first, last) = (start / BLOCK, end.div_ceil(BLOCK));
        let (offset, end) = (first * BLOCK, (last * BLOCK).min(place.len));
        let at = place.offset + head_len(place.len) as u64 + u64::from(offset);
        let data = self.file.read(at, (end - offset) as usize).await;
        let data = data.map_err(|error| disk_failed(&format!("read segment {}", place.segment), &error))?;
        let sums = self.head.sums.get(first as usize..last as usize).unwrap_or_default().to_vec();
        match first_bad_block(self.key.chunk, first, &data, &sums) {
            Some(block) => Err(self.inner.rot(self.key, place, &format!("block {block}"))),
            None => Ok(Blocks { offset, data, sums }),
        }
    }
}

pub(crate) fn disk_failed(what: &str, error: &std::io::Error) -> Refusal {
    Refusal::DiskFailed { why: format!("{what}: {error}") }
}

fn broken_index(error: super::index::IndexError) -> Refusal {
    Refusal::DiskFailed { why: error.to_string() }
}

/// The folder of the index.
pub(crate) fn index_folder(folder: &Path) -> PathBuf {
    folder.join("index")
}

#[cfg(test)]
mod tests;
