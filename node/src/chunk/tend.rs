//! Segments are made ready before they are needed, sealed when they are full, and given back when all they hold is
//! void: one task, beside the puts. What is given back of segments that hold others too: `give_back.rs`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::books::mark;
use super::format::{Entry, FIRST_RECORD, PAGE, SegmentHeader, Trailer, decode_table, encode_table};
use super::give_back::{self, Quiet};
use super::index::{Covered, Place};
use super::segment;
use super::store::{Inner, Known, Spare, State};
use crate::parts::{DiskFile, OpenMode, write_durable};

const EVERY: Duration = Duration::from_secs(1);
/// Free segments kept for the next use; further ones are removed.
const MAX_SPARES: usize = 2;
/// The first segments of a store are small, so that a small store takes little room.
const SMALL_SEGMENTS: usize = 4;
const SMALL_SEGMENT: u64 = 16 << 20;

/// Tends the segments until the store is gone.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut looked: Option<Instant> = None;
    let mut quiet = Quiet::default();
    loop {
        let look = looked.is_none_or(|looked| looked.elapsed() >= EVERY);
        if look {
            looked = Some(Instant::now());
            look_at_space(&inner).await;
            inner.state.lock().full_for_deletions = false;
        }
        if inner.state.lock().failed.is_none() {
            if look {
                quiet.look(&mut inner.state.lock(), Instant::now());
            }
            while seal_one(&inner).await || recycle_one(&inner).await {}
            if look && quiet.is_long() {
                give_back::spares(&inner).await;
            }
            make_ready(&inner).await;
            make_for_deletions(&inner).await;
            if look {
                give_back::void(&inner).await;
            }
        } else {
            inner.room.notify_waiters();
        }
        tokio::select! {
            biased;
            () = inner.work.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn look_at_space(inner: &Inner) {
    match inner.disk.space().await {
        Ok(space) => inner.state.lock().space = space,
        Err(error) => tracing::warn!(%error, "ask for the space of the chunks' disk"),
    }
}

/// Bytes of the next segment for chunks.
pub(crate) fn next_len(inner: &Inner, state: &State) -> u64 {
    let full = inner.settings.segment_bytes.next_multiple_of(PAGE);
    let quarter = full / 4;
    if state.segments.len() < SMALL_SEGMENTS && quarter >= SMALL_SEGMENT { quarter } else { full }
}

/// Makes the next segment ready, if it will be needed soon and the disk has room.
async fn make_ready(inner: &Inner) {
    let (number, len) = {
        let state = &mut *inner.state.lock();
        let len = next_len(inner, state);
        let soon = state.active.as_ref().is_none_or(|active| active.at >= active.header.len / 4);
        if !(soon || state.wanting) || state.spares.iter().any(|spare| spare.file.len() >= len) {
            return;
        }
        let number = state.next_number;
        state.next_number += 1;
        (number, len)
    };
    let made = make(inner, number, len).await;
    {
        let state = &mut *inner.state.lock();
        let was_full = state.full;
        state.full = made.is_err();
        match made {
            Ok(file) => {
                state.spares.push_back(Spare { number, file });
                state.wanting = false;
            }
            Err(error) if !was_full => tracing::warn!(%error, "no further segment for chunks can be made"),
            Err(_) => {}
        }
    }
    inner.room.notify_waiters();
}

/// Where deletions wait and the disk is full, makes a small segment for them out of what is kept free.
async fn make_for_deletions(inner: &Inner) {
    let len = inner.settings.for_deletions();
    let number = {
        let state = &mut *inner.state.lock();
        if !std::mem::take(&mut state.wanting_deletions) || state.spares.iter().any(|spare| spare.file.len() >= len) {
            return;
        }
        let number = state.next_number;
        state.next_number += 1;
        number
    };
    let made = reserve(inner, number, len).await;
    {
        let state = &mut *inner.state.lock();
        match made {
            Ok(file) => state.spares.push_back(Spare { number, file }),
            Err(error) => {
                tracing::warn!(%error, "no segment for deletions can be made");
                state.full_for_deletions = true;
            }
        }
    }
    inner.room.notify_waiters();
}

async fn make(inner: &Inner, number: u64, len: u64) -> io::Result<Arc<dyn DiskFile>> {
    let space = inner.disk.space().await?;
    inner.state.lock().space = space;
    if space.free_bytes < inner.settings.reserve_bytes.saturating_add(len) {
        let why = format!("{} bytes are free, {} are kept free", space.free_bytes, inner.settings.reserve_bytes);
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    reserve(inner, number, len).await
}

async fn reserve(inner: &Inner, number: u64, len: u64) -> io::Result<Arc<dyn DiskFile>> {
    let path = segment::path(&inner.segments, number);
    let made = inner.disk.open(&path, OpenMode::Reserve { len }).await;
    if made.is_err() {
        // A half-made file only takes room; if it can't be removed now, the next start does it.
        let _ = inner.disk.remove(&path).await;
    }
    made
}

/// Writes the table of one segment that took its last record. False if there is none.
async fn seal_one(inner: &Inner) -> bool {
    let (header, file, at, entries) = {
        let state = inner.state.lock();
        let Some(writing) = state.retired.iter().find(|writing| writing.pending.is_empty()) else { return false };
        (writing.header, writing.file.clone(), writing.at, writing.entries.clone())
    };
    let number = header.life.segment;
    let sealed = async {
        write_seal(&*file, &header, at, &entries).await?;
        let covered = Covered { segment: number, generation: header.life.generation, offset: header.len };
        inner.index.write(&[], &[covered]).map_err(io::Error::other)
    };
    let sealed = sealed.await;
    let state = &mut *inner.state.lock();
    match sealed {
        Ok(()) => {
            if let Some(known) = state.segments.get_mut(&number) {
                known.sealed = true;
            }
            state.retired.retain(|writing| writing.header.life != header.life);
            true
        }
        Err(error) => {
            tracing::error!(%error, segment = number, "seal a segment");
            state.failed = Some(format!("seal segment {number}: {error}"));
            false
        }
    }
}

async fn write_seal(file: &dyn DiskFile, header: &SegmentHeader, at: u64, entries: &[Entry]) -> io::Result<()> {
    let (table, table_crc) = encode_table(entries, header.life, at);
    let trailer_at = header.len - PAGE;
    assert!(at + table.len() as u64 <= trailer_at, "room for the table is kept at every put");
    let puts = entries.iter().filter(|entry| entry.put);
    let place = |entry: &Entry| Place { segment: header.life.segment, offset: entry.offset, len: entry.len };
    let trailer = Trailer {
        table_at: at,
        entries: entries.len() as u32,
        voiding: entries.iter().filter(|entry| entry.voids.is_some()).count() as u32,
        digest: puts.clone().fold(0, |sum, entry| sum.wrapping_add(mark(entry.key, place(entry)))),
        chunks: puts.count() as u64,
        table_crc,
    };
    // In the order of queueing: a trailer on media implies its table.
    file.write(at, vec![table], Box::new(|_| {}));
    write_durable(file, trailer_at, vec![trailer.encode(header.life, trailer_at)]).await
}

/// Whether nothing in a segment means anything any more: all its chunks are void, and what its deletions make void lies
/// in segments that are gone, else a rebuild of the index would bring it back.
pub(crate) fn is_meaningless(state: &State, known: &Known) -> bool {
    let own = known.header.life.segment;
    let gone = |&(segment, generation): &(u64, u64)| {
        segment == own || state.segments.get(&segment).is_none_or(|known| known.header.life.generation != generation)
    };
    state.books.live(own) == 0 && known.voids_in.iter().all(gone)
}

/// Frees one segment in which nothing means anything any more. False if there is none.
async fn recycle_one(inner: &Inner) -> bool {
    let (header, spare, rest) = {
        let state = inner.state.lock();
        let dead = state.segments.values().find(|known| known.sealed && is_meaningless(&state, known));
        let Some(known) = dead else { return false };
        let enough = state.spares.iter().filter(|spare| spare.file.len() >= known.header.len).count() >= MAX_SPARES;
        let spare = !known.punched && !enough && known.header.len >= next_len(inner, &state);
        (known.header, spare, known.header.len.saturating_sub(known.punched_bytes))
    };
    let number = header.life.segment;
    let path = segment::path(&inner.segments, number);
    let freed = async {
        inner.index.forget(number).map_err(io::Error::other)?;
        if !spare {
            inner.disk.remove(&path).await?;
            return Ok(None);
        }
        let file = inner.disk.open(&path, OpenMode::Write).await?;
        let free = SegmentHeader { sequence: SegmentHeader::FREE, ..header };
        write_durable(&*file, 0, vec![free.encode()]).await?;
        Ok::<_, io::Error>(Some(Spare { number, file }))
    };
    let freed = freed.await;
    inner.files.lock().remove(number);
    let state = &mut *inner.state.lock();
    match freed {
        Ok(spare) => {
            state.segments.remove(&number);
            if spare.is_none() {
                inner.given_back.fetch_add(rest, Ordering::Relaxed);
            }
            state.spares.extend(spare);
            state.full = false;
            true
        }
        Err(error) => {
            tracing::error!(%error, segment = number, "free a segment");
            state.failed = Some(format!("free segment {number}: {error}"));
            false
        }
    }
}

/// The trailer and the table of a sealed segment; `None` if either does not decode.
pub(crate) async fn read_table(
    file: &dyn DiskFile,
    header: &SegmentHeader,
) -> io::Result<Option<(Trailer, Vec<Entry>)>> {
    let Some(trailer) = read_trailer(file, header).await? else { return Ok(None) };
    let end = trailer.table_at.checked_add(trailer.table_bytes() as u64);
    if trailer.table_at < FIRST_RECORD || end.is_none_or(|end| end > header.len) {
        return Ok(None);
    }
    let table: Bytes = file.read(trailer.table_at, trailer.table_bytes()).await?;
    let entries = decode_table(&table, header.life, trailer.table_at, trailer.table_crc);
    Ok(entries.map(|entries| (trailer, entries)))
}

/// The trailer of a sealed segment; `None` if there is none.
pub(crate) async fn read_trailer(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<Option<Trailer>> {
    if header.len < FIRST_RECORD + PAGE || file.len() < header.len {
        return Ok(None);
    }
    let at = header.len - PAGE;
    let block = file.read(at, PAGE as usize).await?;
    match Trailer::decode(&block, header.life, at) {
        super::format::Found::One(trailer) => Ok(Some(trailer)),
        super::format::Found::Nothing => Ok(None),
        super::format::Found::Newer(version) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("trailer of format version {version}")))
        }
    }
}
