//! What happens in the background: the next segment is made ready before it is needed, old ones are emptied and set
//! free, and when the log falls quiet a record says that all of it is durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use super::ledger::{Entry, Kept, Ledger, Waiting};
use super::record::{Kind, Position, RECORDS};
use super::segment::Name;
use super::{LogError, Shared};

/// Payload carried forward in one go.
const CARRY_BYTES: usize = 4 << 20;
/// Free files kept for reuse; more are removed.
const MAX_FREE: usize = 2;
/// Wait before a segment that could not be made is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Appends that wait this long for room because no segment can be made fail, and the log with them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the task; it ends when the log is dropped or broken.
pub(super) fn start(shared: &Arc<Shared>) {
    let (weak, work, quiet) = (Arc::downgrade(shared), shared.work.clone(), shared.settings.quiet);
    tokio::spawn(async move {
        let mut upkeep = Upkeep { log: weak, failing: None };
        loop {
            match upkeep.turn().await {
                Turn::Over => return,
                Turn::Again => {}
                Turn::Retry => sleep(RETRY).await,
                Turn::Idle { unmarked: true } => {
                    let until = Instant::now() + quiet;
                    tokio::select! {
                        biased;
                        () = work.notified() => {}
                        () = sleep_until(until) => upkeep.mark(),
                    }
                }
                Turn::Idle { unmarked: false } => work.notified().await,
            }
        }
    });
}

struct Upkeep {
    log: Weak<Shared>,
    /// Since when no segment can be made.
    failing: Option<Instant>,
}

enum Turn {
    /// Something was done; there may be more.
    Again,
    /// Something failed that may work later.
    Retry,
    Idle {
        unmarked: bool,
    },
    Over,
}

/// What the oldest segment needs before it is free.
enum Oldest {
    /// It stays.
    Stays,
    /// Nothing in it is needed.
    Empty { number: u32, next: u32 },
    /// A part of what is needed, to be carried forward.
    Carry(Vec<Carried>),
}

/// A record of the oldest segment.
struct Carried {
    kind: Kind,
    group: u32,
    index: u64,
    at: Position,
    /// If it is in memory.
    payload: Option<Bytes>,
}

impl Upkeep {
    /// Does the most urgent thing there is to do.
    async fn turn(&mut self) -> Turn {
        let Some(log) = self.log.upgrade() else { return Turn::Over };
        let (need_spare, oldest, surplus) = {
            let mut ledger = log.ledger.lock();
            if ledger.broken.is_some() {
                return Turn::Over;
            }
            let surplus = if ledger.free.len() > MAX_FREE { ledger.free.pop() } else { None };
            (ledger.spare.is_none(), oldest(&ledger), surplus)
        };
        if need_spare {
            return self.make_spare(&log).await;
        }
        if let Some(name) = surplus {
            if let Err(error) = log.disk.remove(&name.path(&log.folder)).await {
                tracing::warn!(%error, "remove a free log segment");
            }
            return Turn::Again;
        }
        let done = match oldest {
            Oldest::Stays => return Turn::Idle { unmarked: log.ledger.lock().unmarked },
            Oldest::Empty { number, next } => self.beside_spares(&log, set_free(&log, number, next)).await,
            Oldest::Carry(records) => self.beside_spares(&log, carry(&log, records)).await,
        };
        match done {
            Ok(()) => Turn::Again,
            Err(error) => {
                // Nothing is lost: the segment stays as it is, and appends go on.
                tracing::error!(%error, "set a log segment free");
                Turn::Retry
            }
        }
    }

    /// Waits for work that appends to the log. It may come to wait for room itself, which only this task makes.
    async fn beside_spares(&mut self, log: &Arc<Shared>, work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = log.work.notified() => {}
            }
            while log.ledger.lock().spare.is_none() {
                match self.make_spare(log).await {
                    Turn::Over => break,
                    Turn::Retry => sleep(RETRY).await,
                    _ => {}
                }
            }
        }
    }

    async fn make_spare(&mut self, log: &Arc<Shared>) -> Turn {
        match log.prepare_segment().await {
            Ok(segment) => {
                self.failing = None;
                let mut ledger = log.ledger.lock();
                ledger.spare = Some(segment);
                ledger.place_queued();
                drop(ledger);
                log.issue();
                Turn::Again
            }
            Err(error) => {
                let since = *self.failing.get_or_insert_with(Instant::now);
                let waiting = !log.ledger.lock().queue.is_empty();
                tracing::error!(%error, waiting, "make the next log segment");
                if waiting && since.elapsed() >= PATIENCE {
                    log.give_up(&error);
                    return Turn::Over;
                }
                Turn::Retry
            }
        }
    }

    /// Says that all is durable, if it is and nothing says so yet.
    fn mark(&self) {
        let Some(log) = self.log.upgrade() else { return };
        {
            let ledger = log.ledger.lock();
            if !ledger.unmarked || !ledger.flights.is_empty() || !ledger.queue.is_empty() {
                return;
            }
        }
        // Failing is noticed by the next append.
        log.submit(|_| Ok(vec![Waiting::mark(None)]), Box::new(|_| ()));
    }
}

/// What to do with the oldest segment. It goes when nothing in it is needed; what is needed is carried forward when it
/// is little, or when most of the disk space of the log holds nothing needed.
fn oldest(ledger: &Ledger) -> Oldest {
    let (Some(first), Some(second)) = (ledger.chain.front(), ledger.chain.get(1)) else { return Oldest::Stays };
    // While records wait for room, carrying would only queue behind them.
    if !ledger.queue.is_empty() {
        return Oldest::Stays;
    }
    let number = first.segment.number;
    if first.live == 0 {
        return Oldest::Empty { number, next: second.segment.number };
    }
    let (full, all) = (u64::from(ledger.segment_bytes - RECORDS), ledger.chain.len() as u64);
    let needed: u64 = ledger.chain.iter().map(|link| link.live).sum();
    let little = all > 2 && first.live <= full / 4;
    // Records packed anew fill segments to a half at the worst, so this comes to an end.
    let wasteful = all > 4 && needed * 3 < (all - 1) * full;
    if !little && !wasteful {
        return Oldest::Stays;
    }
    let mut records = Vec::new();
    let mut bytes = 0;
    for (id, group) in &ledger.groups {
        for (kind, kept) in [(Kind::Vote, &group.vote), (Kind::Purge, &group.purge)] {
            if let Some(Kept { index, payload, at: Some(at), .. }) = kept
                && at.segment() == number
            {
                bytes += payload.len();
                let payload = Some(payload.clone());
                records.push(Carried { kind, group: *id, index: *index, at: *at, payload });
            }
        }
        for (index, entry) in (group.first..).zip(&group.entries) {
            let Entry { at: Some(at), len, payload, .. } = entry else { continue };
            if at.segment() == number {
                bytes += *len as usize;
                records.push(Carried { kind: Kind::Carried, group: *id, index, at: *at, payload: payload.clone() });
            }
            if bytes > CARRY_BYTES {
                return Oldest::Carry(records);
            }
        }
    }
    Oldest::Carry(records)
}

/// Writes records again at the front of the log and waits until they are on media there.
async fn carry(log: &Arc<Shared>, records: Vec<Carried>) -> io::Result<()> {
    let mut payloads = BTreeMap::new();
    for Carried { group, index, at, payload, .. } in &records {
        if payload.is_none() {
            // One by one: few are needed, else the segment would stay.
            match log.read(*group, *index..*index + 1, usize::MAX).await {
                Ok(read) => {
                    if let Some((_, payload)) = read.into_iter().next() {
                        payloads.insert(*at, payload);
                    }
                }
                Err(error @ LogError::Damaged { .. }) => {
                    let error = io::Error::from(error);
                    log.give_up(&error);
                    return Err(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let (done, wait) = tokio::sync::oneshot::channel();
    log.submit(
        |ledger| {
            let mut again = Vec::new();
            for Carried { kind, group, index, at, payload } in records {
                if let Some(payload) = payload.or_else(|| payloads.remove(&at))
                    && let Some(ticket) = still_needed(ledger, kind, group, index, at)
                {
                    if kind == Kind::Carried {
                        ledger.cache(group, index, ticket, &payload);
                    }
                    again.push(Waiting { kind, group, index, payload, ticket, tail: None });
                }
            }
            Ok(again)
        },
        Box::new(move |result| {
            // The task may have ended.
            let _ = done.send(result);
        }),
    );
    wait.await.unwrap_or_else(|_| Err(io::Error::other("the disk was shut down")))
}

/// A new ticket for what lies at `at`, if it still does: the record now being written takes its place.
fn still_needed(ledger: &mut Ledger, kind: Kind, group: u32, index: u64, at: Position) -> Option<u64> {
    let ticket = ledger.ticket();
    let group = ledger.groups.get_mut(&group)?;
    let (held_at, held_ticket) = match kind {
        Kind::Vote => group.vote.as_mut().map(|kept| (kept.at, &mut kept.ticket))?,
        Kind::Purge => group.purge.as_mut().map(|kept| (kept.at, &mut kept.ticket))?,
        _ => group.entry_mut(index).map(|entry| (entry.at, &mut entry.ticket))?,
    };
    if held_at != Some(at) {
        return None;
    }
    *held_ticket = ticket;
    Some(ticket)
}

/// Takes the oldest segment out of the log: first a durable record says that it is not needed, then the file is free.
async fn set_free(log: &Arc<Shared>, number: u32, next: u32) -> io::Result<()> {
    log.durable(vec![Waiting::mark(Some(next))]).await?;
    let mut ledger = log.ledger.lock();
    let first = ledger.chain.front().map(|link| (link.segment.number, link.live));
    assert_eq!(first, Some((number, 0)), "the oldest segment changes only here, and nothing comes to need it again");
    ledger.chain.pop_front();
    ledger.free.push(Name::Segment(number));
    Ok(())
}
