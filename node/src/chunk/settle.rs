//! What landed on media goes into the index, many at a time, and is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use weft_core::refusal::Refusal;

use super::format::{Body, Entry, Life, Record, Voided};
use super::index::{ChunkKey, Covered, Place};
use super::recover;
use super::segment::Writing;
use super::store::{Inner, State, disk_failed};

/// A record whose write has ended.
pub(crate) struct Landed {
    pub(crate) life: Life,
    pub(crate) offset: u64,
    pub(crate) record: Record,
    pub(crate) result: io::Result<()>,
    pub(crate) answer: oneshot::Sender<Result<(), Refusal>>,
}

/// Records settled together at the most.
const BATCH: usize = 256;
/// The index is told how far it covers a segment each time so many bytes were added: at a start, at most about so much
/// is read again to be replayed. More often would double the writes to the index.
const COVER_EVERY: u64 = 16 << 20;

/// Settles until the store is gone.
pub(crate) async fn run(inner: Arc<Inner>, mut landings: mpsc::UnboundedReceiver<Landed>) {
    let mut batch = Vec::with_capacity(BATCH);
    while landings.recv_many(&mut batch, BATCH).await > 0 {
        settle(&inner, std::mem::take(&mut batch)).await;
    }
}

async fn settle(inner: &Inner, mut batch: Vec<Landed>) {
    // Puts of one chunk never overlap, so the order of the changes does not matter.
    batch.sort_by_key(|landed| (landed.life.segment, landed.offset));
    let mut changes = Vec::with_capacity(batch.len());
    let mut offsets: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for landed in &batch {
        offsets.entry(landed.life.segment).or_default().insert(landed.offset);
        if landed.result.is_ok() {
            change(landed, &mut changes);
        }
    }
    let covered = covered(&mut inner.state.lock(), &offsets, COVER_EVERY);
    let written = match inner.index.write(&changes, &covered) {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!(%error, "the chunk index failed; it will be rebuilt at the next start");
            let marked = inner.disk.write_small(&recover::marker(&inner.settings.folder), b"index failed").await;
            if let Err(error) = marked {
                tracing::error!(%error, "mark the chunk index as failed");
            }
            Err(Refusal::DiskFailed { why: error.to_string() })
        }
    };

    let mut answers = Vec::with_capacity(batch.len());
    let mut wake_tend = false;
    {
        let state = &mut *inner.state.lock();
        if let Err(refusal) = &written {
            state.failed = Some(refusal.to_string());
        }
        for landed in batch {
            let Landed { life, offset, record, result, answer } = landed;
            let outcome = match (result, &written) {
                (Ok(()), Ok(())) => {
                    wake_tend |= enter(state, inner, life, offset, &record);
                    Ok(())
                }
                (Ok(()), Err(refusal)) => Err(refusal.clone()),
                (Err(error), _) => Err(write_failed(state, life, &error)),
            };
            if let Some(writing) = writing(state, life.segment) {
                writing.landed(offset);
                wake_tend |= writing.pending.is_empty();
            }
            // Those who waited for it look again.
            state.flights.remove(&record.key);
            if let Body::DeleteMany(voided) = &record.body {
                voided.iter().for_each(|voided| {
                    state.flights.remove(&voided.key);
                });
            }
            answers.push((answer, outcome));
        }
    }
    for (answer, outcome) in answers {
        // Whoever no longer waits no longer needs the answer.
        let _ = answer.send(outcome);
    }
    if wake_tend {
        inner.work.notify_one();
    }
}

fn change(landed: &Landed, changes: &mut Vec<(ChunkKey, Option<Place>)>) {
    match &landed.record.body {
        Body::Put { len, .. } => {
            let place = Place { segment: landed.life.segment, offset: landed.offset, len: *len };
            changes.push((landed.record.key, Some(place)));
        }
        Body::Delete { .. } => changes.push((landed.record.key, None)),
        Body::DeleteMany(voided) => changes.extend(voided.iter().map(|voided| (voided.key, None))),
    }
}

/// Books one settled record. True if a segment may have become free.
fn enter(state: &mut State, inner: &Inner, life: Life, offset: u64, record: &Record) -> bool {
    let (key, put) = (record.key, |len: u32, voids| Entry { key: record.key, offset, len, put: true, voids });
    let void = |key, len, target| Entry { key, offset, len, put: false, voids: Some(target) };
    match &record.body {
        Body::Put { len, replaces, .. } => enter_one(state, inner, life, put(*len, *replaces)),
        Body::Delete { target, len } => enter_one(state, inner, life, void(key, *len, *target)),
        Body::DeleteMany(voided) => voided.iter().fold(false, |free, Voided { key, target, len }| {
            free | enter_one(state, inner, life, void(*key, *len, *target))
        }),
    }
}

fn enter_one(state: &mut State, inner: &Inner, life: Life, entry: Entry) -> bool {
    let Entry { key, offset, len, put, voids } = entry;
    if let Some(writing) = writing(state, life.segment) {
        writing.entries.push(entry);
    }
    if put {
        state.books.add(key, Place { segment: life.segment, offset, len });
    } else {
        inner.deleted.fetch_add(1, Ordering::Relaxed);
    }
    let Some(target) = voids else { return false };
    state.books.remove(key, Place { segment: target.life.segment, offset: target.offset, len });
    if let Some(known) = state.segments.get_mut(&life.segment) {
        known.voids_in.insert((target.life.segment, target.life.generation));
    }
    inner.heads.remove(key);
    state.books.live(target.life.segment) == 0
}

fn write_failed(state: &mut State, life: Life, error: &io::Error) -> Refusal {
    if error.kind() == io::ErrorKind::StorageFull {
        // What follows in this segment may still succeed; what is new goes elsewhere.
        state.full = true;
        if state.active.as_ref().is_some_and(|active| active.header.life == life) {
            let full = state.active.take();
            state.retired.extend(full);
        }
        return Refusal::NoSpace { why: "the chunk server's disk is full".into() };
    }
    tracing::error!(%error, segment = life.segment, "a write of chunks failed; no more are taken before a restart");
    state.failed = Some(format!("write segment {}: {error}", life.segment));
    disk_failed(&format!("write segment {}", life.segment), error)
}

fn writing(state: &mut State, segment: u64) -> Option<&mut Writing> {
    state.active.iter_mut().chain(&mut state.retired).find(|writing| writing.header.life.segment == segment)
}

/// How far the segments will be covered once the records at `offsets` are in the index; those that grew by less than
/// `every` since they were told last are left for later.
fn covered(state: &mut State, offsets: &BTreeMap<u64, BTreeSet<u64>>, every: u64) -> Vec<Covered> {
    let mut out = Vec::new();
    for (&segment, offsets) in offsets {
        if let Some(writing) = writing(state, segment)
            && writing.uncovered >= every
        {
            writing.uncovered = 0;
            let generation = writing.header.life.generation;
            out.push(Covered { segment, generation, offset: writing.settled_below(offsets) });
        }
    }
    out
}

/// Tells the index how far it covers everything, and saves it. The tasks are gone.
pub(crate) fn save(inner: &Inner) {
    let covered = {
        let state = &mut *inner.state.lock();
        if state.failed.is_some() {
            return;
        }
        let segments = state.active.iter().chain(&state.retired);
        let numbers: BTreeMap<u64, BTreeSet<u64>> =
            segments.map(|writing| (writing.header.life.segment, BTreeSet::new())).collect();
        covered(state, &numbers, 1)
    };
    if covered.is_empty() {
        return;
    }
    if let Err(error) = inner.index.write(&[], &covered).and_then(|()| inner.index.persist()) {
        tracing::warn!(%error, "save the chunk index");
    }
}
