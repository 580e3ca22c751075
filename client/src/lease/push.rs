//! Sends what was held back: one batch at a time, in order, until its outcome is known.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::ids::Ino;
use weft_core::limits::MAX_HELD_WEIGHT;
use weft_core::namespace::lease::Held;
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;

use super::{Inner, MOST_KNOWN, Queued, VolumeLeases};
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
                leases.inner.lock().lose_all();
                leases.changed.notify_waiters();
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
        let (items, give_up) = self.inner.lock().batch();
        let count = items.len();
        let mut made = Ok(Outcome::Held { refused: Vec::new() });
        if count > 0 || !give_up.is_empty() {
            let first = items.first().map(|item| item.op.clone());
            tracing::trace!(volume = %self.volume, count, ?give_up, ?first, "send what was held back");
            let op = Op::Held { items, give_up: give_up.clone() };
            let mut trial = Trial::within(&shared.options, TRY);
            made = shared.apply_in_trial(&self.session, &Cred::root(), self.volume, &op, &mut trial).await;
        }
        let mut inner = self.inner.lock();
        inner.stats.batches += u64::from(count > 0);
        inner.made_below += count as u64;
        match made {
            Ok(Outcome::Held { refused }) => {
                if let Some((_, refusal)) = refused.first() {
                    let lost = refused.len();
                    tracing::error!(volume = %self.volume, lost, %refusal, "changes held back under a write lease are lost");
                    inner.trouble = Some(Error::Refused(refusal.clone()));
                }
            }
            Ok(_) => inner.trouble = Some(Error::unexpected("held-back changes")),
            Err(Failed { error, .. }) => {
                tracing::error!(volume = %self.volume, lost = count, %error, "changes held back under a write lease are lost");
                inner.trouble = Some(error);
            }
        }
        for root in give_up {
            inner.local.give_up(root);
            inner.closing.remove(&root);
        }
        inner.shed();
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
    fn batch(&mut self) -> (Vec<Held>, Vec<Ino>) {
        let (mut items, mut weight, mut size) = (Vec::new(), 0, 0);
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
        (items, self.to_give_up())
    }

    /// The leases that nothing which waits comes under any more.
    fn to_give_up(&self) -> Vec<Ino> {
        let waiting: BTreeSet<Ino> = self.queue.iter().map(|queued| queued.item.root).collect();
        let ready = |root: &Ino| !waiting.contains(root) && !self.busy.contains(root) && self.taking != Some(*root);
        self.closing.iter().copied().filter(ready).collect()
    }

    /// Keeps what is known within bounds.
    fn shed(&mut self) {
        if self.local.bytes() > MOST_KNOWN {
            let held: BTreeSet<Ino> = self.queue.iter().filter_map(|queued| file_of(&queued.item.op)).collect();
            self.local.forget_maps(&held);
        }
        if self.local.bytes() > 2 * MOST_KNOWN {
            self.closing.extend(self.local.roots());
        }
    }

    /// The session or the client is no more.
    fn lose_all(&mut self) {
        if !self.queue.is_empty() {
            tracing::error!(lost = self.queue.len(), "changes held back under a write lease are lost with the session");
            self.trouble = Some(Error::Closed);
        }
        self.queue.clear();
        self.queued_bytes = 0;
        self.made_below = self.next;
        for root in self.local.roots() {
            self.local.give_up(root);
        }
        self.closing.clear();
    }
}

/// The file whose map an operation changes.
fn file_of(op: &Op) -> Option<Ino> {
    match op {
        Op::Commit(commit) => Some(commit.ino),
        Op::Truncate { ino, .. } => Some(*ino),
        _ => None,
    }
}
