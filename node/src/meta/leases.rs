//! Soft state of a group's leader about write leases: who was heard of, and which leases are wanted back.
//!
//! The leases themselves are records ([`weft_core::namespace::lease`]), so a new leader knows them all; what it does not
//! know is when their holders were last heard, and it counts from the moment it came to lead. It decides with the time
//! it is given and touches nothing but the bell that wakes whoever listens for a session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use weft_core::limits::LEASE_MS;

use super::sessions::{InodeKey, SessionKey};

/// A holder that was silent for so long loses what is wanted back: its term, and a tenth more for clocks of different
/// speed.
const SILENT: Duration = Duration::from_millis(LEASE_MS as u64 / 10 * 11);
/// How long a listener waits for a recall before it is answered without.
pub(crate) const LISTEN: Duration = Duration::from_secs(1);

/// What a leader knows of the holders of write leases.
#[derive(Default)]
pub(crate) struct LeaseTable {
    /// Since when this replica leads without a break.
    since: Option<Instant>,
    holders: BTreeMap<SessionKey, Holder>,
}

#[derive(Default)]
struct Holder {
    heard: Option<Instant>,
    recalled: BTreeSet<InodeKey>,
    /// Those of them that are being taken away.
    taken: BTreeSet<InodeKey>,
    bell: Arc<Notify>,
}

/// What is wanted back from a session.
pub(crate) struct Wanted {
    /// All of it.
    pub(crate) recalled: Vec<InodeKey>,
    /// What is no longer its own.
    pub(crate) taken: Vec<InodeKey>,
    /// Rings when that changes, and when the lead ends.
    pub(crate) bell: Arc<Notify>,
}

impl LeaseTable {
    /// This replica leads from `now`, or, with `None`, no longer.
    pub(crate) fn lead(&mut self, now: Option<Instant>) {
        for holder in self.holders.values() {
            holder.bell.notify_waiters();
        }
        *self = LeaseTable { since: now, ..LeaseTable::default() };
    }

    /// A request of a session came at `at` and was answered while this replica led.
    pub(crate) fn heard(&mut self, key: SessionKey, at: Instant) {
        if self.since.is_some() {
            let holder = self.holders.entry(key).or_default();
            holder.heard = holder.heard.max(Some(at));
        }
    }

    /// A lease is wanted back. `Err` says when to ask again; `Ok`: the holder was silent for too long, and from now on
    /// is told that it lost the lease, which must be taken.
    pub(crate) fn recall(&mut self, key: SessionKey, dir: InodeKey, now: Instant) -> Result<(), Instant> {
        let since = self.since.unwrap_or(now);
        let holder = self.holders.entry(key).or_default();
        if holder.recalled.insert(dir) {
            holder.bell.notify_waiters();
        }
        let silent_at = holder.heard.unwrap_or(since).max(since) + SILENT;
        if now < silent_at && !holder.taken.contains(&dir) {
            return Err(silent_at);
        }
        holder.taken.insert(dir);
        Ok(())
    }

    /// A lease is no more.
    pub(crate) fn gone(&mut self, key: SessionKey, dir: InodeKey) {
        if let Some(holder) = self.holders.get_mut(&key) {
            holder.recalled.remove(&dir);
            holder.taken.remove(&dir);
        }
    }

    /// What is wanted back from a session.
    pub(crate) fn wanted(&mut self, key: SessionKey) -> Wanted {
        let holder = self.holders.entry(key).or_default();
        let list = |set: &BTreeSet<InodeKey>| set.iter().copied().collect();
        Wanted { recalled: list(&holder.recalled), taken: list(&holder.taken), bell: holder.bell.clone() }
    }

    /// Forgets sessions that are not open any more.
    pub(crate) fn retain(&mut self, open: &[SessionKey]) {
        let open: BTreeSet<SessionKey> = open.iter().copied().collect();
        self.holders.retain(|key, _| open.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use weft_core::ids::{ClientId, Ino, SpaceId, VolumeId};

    use super::*;

    const A: SessionKey = (ClientId(1), SpaceId(1));
    const DIR: InodeKey = (VolumeId(1), Ino(7));

    #[test]
    fn a_lease_may_be_taken_when_its_holder_was_silent_for_its_term_and_a_tenth() {
        let start = Instant::now();
        let mut table = LeaseTable::default();
        table.lead(Some(start));
        table.heard(A, start + Duration::from_secs(2));
        let heard_late = start + Duration::from_secs(1);
        table.heard(A, heard_late);
        let silent_at = start + Duration::from_secs(2) + SILENT;
        assert_eq!(table.recall(A, DIR, start + Duration::from_secs(3)), Err(silent_at));
        assert_eq!((table.wanted(A).recalled, table.wanted(A).taken), (vec![DIR], vec![]));
        assert_eq!(table.recall(A, DIR, silent_at), Ok(()));
        assert_eq!(table.wanted(A).taken, [DIR], "whoever listens now is told");
        table.heard(A, silent_at);
        assert_eq!(table.recall(A, DIR, silent_at), Ok(()), "it is being taken already");
        table.gone(A, DIR);
        assert!(table.wanted(A).recalled.is_empty() && table.wanted(A).taken.is_empty());
    }

    #[test]
    fn a_new_leader_counts_from_its_first_moment() {
        let start = Instant::now();
        let mut table = LeaseTable::default();
        table.lead(Some(start));
        table.heard(A, start);
        let later = start + Duration::from_secs(60);
        table.lead(Some(later));
        assert_eq!(table.recall(A, DIR, later), Err(later + SILENT), "it does not know whom the last leader heard");
    }

    #[tokio::test]
    async fn whoever_listens_hears_a_recall_once_and_the_end_of_the_lead() {
        let start = Instant::now();
        let mut table = LeaseTable::default();
        table.lead(Some(start));
        let Wanted { recalled, bell, .. } = table.wanted(A);
        assert!(recalled.is_empty());
        let rings = bell.notified();
        tokio::pin!(rings);
        rings.as_mut().enable();
        assert!(table.recall(A, DIR, start).is_err());
        rings.await;
        let again = bell.notified();
        tokio::pin!(again);
        again.as_mut().enable();
        assert!(table.recall(A, DIR, start).is_err());
        assert!(futures::FutureExt::now_or_never(again.as_mut()).is_none(), "it is known already");
        table.lead(None);
        again.await;
    }
}
