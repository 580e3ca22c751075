//! Room goes back to the disk: holes are punched into segments of which a good part is void, and a store that is left
//! alone keeps little more than what its chunks take.
//!
//! A hole is punched only where a deletion is on media and in the index, so it never takes what a crash could bring
//! back. The first page of every record stays, and with it the segment readable record by record. After everything is
//! deleted and a while of quiet, one segment ready for use is all that is left, of the length that an empty store has.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::format::{FIRST_RECORD, Life, PAGE, SegmentHeader, record_len};
use super::index::Place;
use super::segment;
use super::store::{Inner, Known, State};
use super::tend::{is_meaningless, next_len, read_table};
use crate::parts::OpenMode;

/// A store to which nothing was written for so long is quiet.
const QUIET: Duration = Duration::from_secs(10);
/// Segments punched at one look, where the disk is not full.
const AT_ONCE: usize = 4;
/// Where the disk is full, holes are punched for so little.
const LITTLE: u64 = 64 << 10;

/// Since when nothing has been written.
#[derive(Default)]
pub(crate) struct Quiet {
    seen: Option<(Option<(Life, u64)>, Instant)>,
    long: bool,
}

impl Quiet {
    /// Looks at the store, now and then. After a while of quiet, retires a segment in use of which little is live: sealed,
    /// it can be given back. Where its deletions still mean something it must be worth a file of its own.
    pub(crate) fn look(&mut self, state: &mut State, now: Instant) {
        let at = state.active.as_ref().map(|active| (active.header.life, active.at));
        let since = match self.seen {
            Some((seen, since)) if seen == at => since,
            _ => now,
        };
        self.seen = Some((at, since));
        self.long = now.saturating_duration_since(since) >= QUIET;
        if self.long && state.active.as_ref().is_some_and(|active| active.pending.is_empty()) && is_worth_little(state)
        {
            let active = state.active.take();
            state.retired.extend(active);
        }
    }

    /// Whether it has been quiet for a while.
    pub(crate) fn is_long(&self) -> bool {
        self.long
    }
}

fn is_worth_little(state: &State) -> bool {
    let Some(active) = &state.active else { return false };
    let Some(known) = state.segments.get(&active.header.life.segment) else { return false };
    let live = state.books.live_bytes(active.header.life.segment);
    active.at > FIRST_RECORD
        && (is_meaningless(state, known) || (active.at >= active.header.len / 8 && live * 2 <= active.at))
}

/// Removes free segments beyond one of the length that would be made next.
pub(crate) async fn spares(inner: &Inner) {
    loop {
        let found = {
            let state = &mut *inner.state.lock();
            let len = next_len(inner, state);
            let keep = state.spares.iter().position(|spare| spare.file.len() == len);
            let surplus = (0..state.spares.len()).find(|at| Some(*at) != keep);
            surplus.and_then(|at| state.spares.remove(at))
        };
        let Some(spare) = found else { return };
        let bytes = spare.file.len();
        drop(spare.file);
        inner.files.lock().remove(spare.number);
        match inner.disk.remove(&segment::path(&inner.segments, spare.number)).await {
            Ok(()) => inner.given_back.fetch_add(bytes, Ordering::Relaxed),
            // The next start finds it free.
            Err(error) => return tracing::warn!(%error, segment = spare.number, "remove a free segment"),
        };
    }
}

/// Punches holes into the segments of which most is void that was not when they last were punched: a quarter of the
/// segment at least, or almost anything where the disk is full.
pub(crate) async fn void(inner: &Inner) {
    for round in 0.. {
        let (header, void) = {
            let state = inner.state.lock();
            if round >= AT_ONCE && !state.full {
                return;
            }
            let grown = |known: &Known| void_bytes(&state, known).saturating_sub(known.punched_at);
            let wanted = |known: &&Known| {
                let least = if state.full { LITTLE } else { known.header.len / 4 };
                known.sealed && grown(known) >= least.max(PAGE) && !is_meaningless(&state, known)
            };
            let Some(known) = state.segments.values().filter(wanted).max_by_key(|known| grown(known)) else { return };
            (known.header, void_bytes(&state, known))
        };
        let number = header.life.segment;
        let punched = punch(inner, &header).await;
        if let Err(error) = &punched {
            tracing::warn!(%error, segment = number, "give back the room of void chunks");
        }
        let state = &mut *inner.state.lock();
        if let Some(known) = state.segments.get_mut(&number) {
            known.punched = true;
            // After a failure too: not again and again.
            known.punched_at = void;
            if let Ok(bytes) = punched {
                let more = bytes.saturating_sub(known.punched_bytes);
                known.punched_bytes += more;
                inner.given_back.fetch_add(more, Ordering::Relaxed);
            }
        }
    }
}

/// Bytes of a segment that live chunks do not take.
fn void_bytes(state: &State, known: &Known) -> u64 {
    known.header.len.saturating_sub(state.books.live_bytes(known.header.life.segment))
}

/// Punches holes where void chunks lie and where nothing was written. Returns the bytes of all of them.
async fn punch(inner: &Inner, header: &SegmentHeader) -> io::Result<u64> {
    let number = header.life.segment;
    let file = inner.disk.open(&segment::path(&inner.segments, number), OpenMode::Write).await?;
    let Some((trailer, entries)) = read_table(&*file, header).await? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its table is damaged"));
    };
    let mut bytes = 0;
    for entry in entries.iter().filter(|entry| entry.put) {
        let place = Place { segment: number, offset: entry.offset, len: entry.len };
        let live = inner.index.get(entry.key).map_err(io::Error::other)? == Some(place);
        let span = record_len(entry.len) - PAGE;
        if !live && span > 0 {
            file.punch(entry.offset + PAGE, span).await?;
            bytes += span;
        }
    }
    let unused = (trailer.table_at + trailer.table_bytes() as u64).next_multiple_of(PAGE);
    let span = (header.len - PAGE).saturating_sub(unused);
    if span > 0 {
        file.punch(unused, span).await?;
        bytes += span;
    }
    Ok(bytes)
}
