//! Sends what was held back: one batch at a time, in order, until its outcome is known.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::ids::{ClientId, Ino};
use weft_core::limits::MAX_HELD_WEIGHT;
use weft_core::namespace::lease::Held;
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;

use super::{Inner, MOST_KNOWN, Queued, VolumeLeases, file_of, lowest_chunk};
use crate::client::Shared;
use crate::error::Error;
use crate::meta::Failed;
use crate::trial::Trial;

/// How long changes are gathered where nobody waits for them.
const GATHER: Duration = Duration::from_millis(100);
/// Changes and bytes that are sent at once.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// How long one batch is tried: as long as a silent session lives.
const TRY: Duration = Duration::from_secs(3600);
/// How often to look whether the client is still there.
const LOOK: Duration = Duration::from_secs(5);

/// Runs until the session or the client ends.
pub(super) async fn run(shared: Weak<Shared>, leases: Arc<VolumeLeases>) {
    loop {
        let due = leases.inner.lock().due(Instant::now());
        match due {
            Due::Now => {
                let Some(shared) = shared.upgrade() else { return };
                leases.send(&shared).await;
            }
            Due::In(wait) => {
                let _ = tokio::time::timeout(wait, leases.work.notified()).await;
            }
        }
        match shared.upgrade() {
            Some(shared) if shared.open().is_ok() && !leases.session.ended() => {}
            _ => {
                leases.lose_all();
                return;
            }
        }
    }
}

enum Due {
    Now,
    In(Duration),
}

impl VolumeLeases {
    async fn send(&self, shared: &Arc<Shared>) {
        let (items, give_up) = self.inner.lock().batch(self.session.client);
        let count = items.len();
        let files: Vec<Option<Ino>> = items.iter().map(file_of).collect();
        let roots: Vec<Ino> = items.iter().map(|item| item.root).collect();
        let mut made = Ok(Outcome::Held { refused: Vec::new() });
        if count > 0 || !give_up.is_empty() {
            tracing::trace!(volume = %self.volume, count, ?give_up, "send what was held back");
            let op = Op::Held { items, give_up: give_up.clone() };
            let mut trial = Trial::within(&shared.options, TRY);
            made = shared.apply_in_trial(&self.session, &Cred::root(), self.volume, &op, &mut trial).await;
        }
        let mut inner = self.inner.lock();
        inner.stats.batches += u64::from(count > 0);
        let all = |inner: &mut Inner, error: Error| {
            inner.closing.extend(&roots);
            files.iter().map(|file| (*file, error.clone())).collect()
        };
        let lost: Vec<(Option<Ino>, Error)> = match made {
            Ok(Outcome::Held { refused }) => {
                let of = |at: u32| files.get(at as usize).copied().flatten();
                // Below a lease of which something was refused, what is known here is not so.
                inner.closing.extend(refused.iter().filter_map(|(at, _)| roots.get(*at as usize)));
                refused.into_iter().map(|(at, refusal)| (of(at), Error::Refused(refusal))).collect()
            }
            Ok(_) => all(&mut inner, Error::unexpected("held-back changes")),
            Err(Failed { error, .. }) => all(&mut inner, error),
        };
        if let Some((_, error)) = lost.first() {
            tracing::error!(volume = %self.volume, lost = lost.len(), %error, "changes held back under a write lease are lost");
            let mut noted = self.lost.lock();
            lost.iter().for_each(|(file, error)| noted.note(*file, error));
        }
        let distrusted: Vec<Ino> = lost.iter().filter_map(|(file, _)| *file).collect();
        // Only now: whoever waits for it looks at what was lost next.
        inner.in_flight.clear();
        inner.in_flight_chunk = None;
        inner.made_below += count as u64;
        for root in give_up {
            inner.local.give_up(root);
            inner.closing.remove(&root);
            inner.leaving.remove(&root);
            inner.held_until.remove(&root);
        }
        inner.shed();
        drop(inner);
        if !lost.is_empty() {
            shared.distrust(self.volume, &distrusted);
        }
        self.changed.notify_waiters();
    }

    /// The session or the client is no more, and with it what was not known to be made.
    pub(super) fn lose_all(&self) {
        let mut inner = self.inner.lock();
        if !inner.queue.is_empty() || !inner.in_flight.is_empty() {
            let count = inner.queue.len();
            tracing::error!(volume = %self.volume, count, "changes held back under a write lease are lost with the session");
            let error = self.session.end_error();
            let queued = inner.queue.iter().filter_map(|queued| file_of(&queued.item));
            self.lost.lock().note(queued.chain(inner.in_flight.iter().copied()), &error);
        }
        inner.made_below += inner.queue.len() as u64;
        inner.queue.clear();
        inner.queued_bytes = 0;
        for root in inner.local.roots() {
            inner.local.give_up(root);
        }
        inner.closing.clear();
        inner.held_until.clear();
        drop(inner);
        self.changed.notify_waiters();
    }
}

impl Inner {
    fn due(&self, now: Instant) -> Due {
        let Some(oldest) = self.queue.front() else {
            return if self.to_give_up().is_empty() { Due::In(LOOK) } else { Due::Now };
        };
        let gathered = now.saturating_duration_since(oldest.since);
        let urgent = self.wanted_below > self.made_below || !self.closing.is_empty();
        let many = self.queue.len() >= BATCH || self.queued_bytes >= BATCH_BYTES;
        if urgent || many || gathered >= GATHER { Due::Now } else { Due::In(GATHER - gathered) }
    }

    /// The next changes in order, and the leases that end behind them.
    fn batch(&mut self, client: ClientId) -> (Vec<Held>, Vec<Ino>) {
        let (mut items, mut weight, mut size): (Vec<Held>, usize, usize) = (Vec::new(), 0, 0);
        while let Some(next) = self.queue.front() {
            let full =
                items.len() >= BATCH || weight + next.weight > MAX_HELD_WEIGHT || size + next.bytes > BATCH_BYTES;
            if full && !items.is_empty() {
                break;
            }
            let Some(Queued { item, weight: more, bytes, .. }) = self.queue.pop_front() else { break };
            weight += more;
            size += bytes;
            self.queued_bytes -= bytes;
            items.push(item);
        }
        self.in_flight = items.iter().filter_map(file_of).collect();
        self.in_flight_chunk = items.iter().filter_map(|item| lowest_chunk(item, client)).min();
        let give_up = self.to_give_up();
        self.leaving.extend(&give_up);
        (items, give_up)
    }

    /// The leases that nothing which waits comes under any more.
    fn to_give_up(&self) -> Vec<Ino> {
        let waiting: BTreeSet<Ino> = self.queue.iter().map(|queued| queued.item.root).collect();
        let waits = |root: &Ino| {
            waiting.contains(root)
                || self.busy.contains(root)
                || self.taking == Some(*root)
                // Where the lease is lost, what uploads comes too late.
                || self.uploading.contains_key(root) && self.is_held(*root, Instant::now())
        };
        self.closing.iter().copied().filter(|root| !waits(root)).collect()
    }

    /// Keeps what is known within bounds.
    fn shed(&mut self) {
        if self.local.bytes() > MOST_KNOWN {
            let held: BTreeSet<Ino> = self.queue.iter().filter_map(|queued| file_of(&queued.item)).collect();
            self.local.forget_maps(&held);
        }
        if self.local.bytes() > 2 * MOST_KNOWN {
            self.closing.extend(self.local.roots());
        }
    }
}
