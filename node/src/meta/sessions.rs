//! Soft state of a group's leader: which sessions live, and which of them still hold nameless inodes open.
//!
//! Nothing of it survives a change of leader. The new one waits until every session it knows from the records has spoken
//! again or lapsed, before it lets an inode go. It decides with the time it is given and touches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::ids::{ClientId, Ino, SpaceId, VolumeId};

/// A session of a group.
pub(crate) type SessionKey = (ClientId, SpaceId);
/// An inode of a group.
pub(crate) type InodeKey = (VolumeId, Ino);

/// A session that was silent for so long no longer keeps an inode from going.
pub(crate) const LAPSE: Duration = Duration::from_secs(60);
/// A session that was silent for so long is ended.
pub(crate) const END: Duration = Duration::from_secs(3600);
/// Inodes asked about in one answer to a keep-alive.
pub(crate) const ASK_AT_ONCE: usize = 8192;

/// What a leader knows of its group's sessions.
#[derive(Default)]
pub(crate) struct SessionTable {
    /// Since when this replica leads without a break.
    since: Option<Instant>,
    sessions: BTreeMap<SessionKey, Session>,
    /// The leader's own: they hold nothing open and never fall silent.
    own: BTreeSet<SessionKey>,
    orphans: BTreeSet<InodeKey>,
}

#[derive(Default)]
struct Session {
    seen: Option<Instant>,
    asked: BTreeSet<InodeKey>,
    not_open: BTreeSet<InodeKey>,
    /// It said that it names no chunk below this one any more for the first time.
    named_below: u64,
}

/// What should be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Nameless inodes that nobody holds.
    pub(crate) reap: Vec<InodeKey>,
    /// Sessions that were silent for too long.
    pub(crate) end: Vec<SessionKey>,
}

impl SessionTable {
    /// This replica leads from `now`, or, with `None`, no longer.
    pub(crate) fn lead(&mut self, now: Option<Instant>) {
        *self = SessionTable { since: now, ..SessionTable::default() };
    }

    /// A session spoke.
    pub(crate) fn seen(&mut self, key: SessionKey, now: Instant) {
        if self.since.is_some() {
            self.sessions.entry(key).or_default().seen = Some(now);
        }
    }

    /// A session said that it names no chunk below this one for the first time any more.
    pub(crate) fn named_below(&mut self, key: SessionKey, counter: u64) {
        if self.since.is_some() {
            let session = self.sessions.entry(key).or_default();
            session.named_below = session.named_below.max(counter);
        }
    }

    /// What it said of that; 0 if nothing.
    pub(crate) fn names_none_below(&self, key: SessionKey) -> u64 {
        self.sessions.get(&key).map_or(0, |session| session.named_below)
    }

    /// A session is this leader's own.
    pub(crate) fn own(&mut self, key: SessionKey) {
        if self.since.is_some() {
            self.own.insert(key);
        }
    }

    /// A session spoke, and said which of the inodes it was asked about are not open there. The answer is what to ask
    /// next.
    pub(crate) fn keep_alive(&mut self, key: SessionKey, now: Instant, not_open: &[InodeKey]) -> Vec<InodeKey> {
        if self.since.is_none() {
            return Vec::new();
        }
        let session = self.sessions.entry(key).or_default();
        session.seen = Some(now);
        for inode in not_open {
            // What was not asked is no answer: it may be about a time before the inode lost its name.
            if session.asked.contains(inode) && self.orphans.contains(inode) {
                session.not_open.insert(*inode);
            }
        }
        session.asked = self.orphans.difference(&session.not_open).take(ASK_AT_ONCE).copied().collect();
        session.asked.iter().copied().collect()
    }

    /// Compares what is known with the sessions and nameless inodes of the records.
    pub(crate) fn due(&mut self, now: Instant, sessions: &[SessionKey], orphans: &[InodeKey]) -> Due {
        let Some(since) = self.since else { return Due::default() };
        self.orphans = orphans.iter().copied().collect();
        self.own.retain(|key| sessions.contains(key));
        let open: BTreeSet<SessionKey> = sessions.iter().filter(|key| !self.own.contains(key)).copied().collect();
        self.sessions.retain(|key, _| open.contains(key) || self.own.contains(key));
        let mut due = Due::default();
        let mut holders: Vec<Option<&BTreeSet<InodeKey>>> = Vec::new();
        for key in &open {
            let session = self.sessions.entry(*key).or_default();
            session.not_open.retain(|inode| self.orphans.contains(inode));
        }
        for key in &open {
            let session = self.sessions.get(key);
            let silent = now.saturating_duration_since(session.and_then(|session| session.seen).unwrap_or(since));
            if silent >= END {
                due.end.push(*key);
            }
            if silent < LAPSE {
                holders.push(session.map(|session| &session.not_open));
            }
        }
        due.reap = self
            .orphans
            .iter()
            .filter(|inode| holders.iter().all(|not_open| not_open.is_some_and(|not_open| not_open.contains(inode))))
            .copied()
            .collect();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionKey = (ClientId(1), SpaceId(1));
    const B: SessionKey = (ClientId(2), SpaceId(1));
    const FILE: InodeKey = (VolumeId(1), Ino(7));

    fn after(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn an_inode_goes_when_every_session_says_it_is_not_open() {
        let start = Instant::now();
        let mut table = SessionTable::default();
        table.lead(Some(start));
        assert_eq!(table.keep_alive(A, start, &[]), []);
        assert_eq!(table.due(start, &[A, B], &[FILE]), Due::default());
        assert_eq!(table.keep_alive(A, after(start, 1), &[FILE]), [FILE], "an answer to what was not asked is none");
        assert_eq!(table.keep_alive(B, after(start, 1), &[]), [FILE]);
        assert_eq!(table.keep_alive(A, after(start, 2), &[FILE]), []);
        assert_eq!(table.due(after(start, 2), &[A, B], &[FILE]), Due::default(), "B holds it");
        assert_eq!(table.keep_alive(B, after(start, 3), &[]), [FILE], "and is asked again");
        assert_eq!(table.keep_alive(B, after(start, 4), &[FILE]), []);
        assert_eq!(table.due(after(start, 4), &[A, B], &[FILE]).reap, [FILE]);
        assert_eq!(table.due(after(start, 5), &[A, B], &[]), Due::default());
    }

    #[test]
    fn a_new_leader_waits_for_sessions_it_has_not_heard() {
        let start = Instant::now();
        let mut table = SessionTable::default();
        table.lead(Some(start));
        assert_eq!(table.due(after(start, 59), &[A], &[FILE]), Due::default());
        assert_eq!(table.due(after(start, 60), &[A], &[FILE]).reap, [FILE], "A lapsed");
        assert_eq!(table.due(after(start, 3599), &[A], &[]), Due::default());
        assert_eq!(table.due(after(start, 3600), &[A], &[]).end, [A]);
        table.seen(A, after(start, 3600));
        assert_eq!(table.due(after(start, 3601), &[A], &[]), Due::default());
    }

    #[test]
    fn a_leaders_own_session_keeps_nothing_from_going_and_does_not_lapse() {
        let start = Instant::now();
        let mut table = SessionTable::default();
        table.lead(Some(start));
        assert_eq!(table.due(start, &[A], &[FILE]), Due::default());
        table.own(A);
        assert_eq!(table.due(start, &[A], &[FILE]).reap, [FILE]);
        assert_eq!(table.due(after(start, 10_000), &[A], &[]), Due::default());
        table.lead(None);
        table.own(A);
        table.lead(Some(after(start, 20_000)));
        assert_eq!(table.due(after(start, 20_000), &[A], &[FILE]), Due::default(), "said again by who leads again");
    }

    #[test]
    fn who_does_not_lead_decides_nothing() {
        let start = Instant::now();
        let mut table = SessionTable::default();
        table.lead(Some(start));
        table.lead(None);
        assert_eq!(table.due(after(start, 10_000), &[A], &[FILE]), Due::default());
        assert_eq!(table.keep_alive(A, start, &[FILE]), []);
    }

    #[test]
    fn without_sessions_an_inode_goes_at_once() {
        let start = Instant::now();
        let mut table = SessionTable::default();
        table.lead(Some(start));
        assert_eq!(table.due(start, &[], &[FILE]).reap, [FILE]);
    }
}
