//! Which chunks are damaged or missing here, and when to try to heal each: a list of bounded length that decides and
//! does nothing.
//!
//! A chunk is on it once, however often it is reported. It leaves it when it is whole, deleted, or was never ill. One
//! that nobody has whole stays, is tried ever more seldom, and is spoken of once.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_core::ids::PgId;

use super::index::ChunkKey;

/// Chunks on the list. What is reported beyond is dropped: rereading and comparing find it again.
const MAX_SICK: usize = 16_384;
/// Between two tries while a member was silent.
const SOON: Duration = Duration::from_millis(500);
const SOON_AT_MOST: Duration = Duration::from_secs(30);
/// Between two tries when all members have answered.
const SELDOM: Duration = Duration::from_secs(30);
const SELDOM_AT_MOST: Duration = Duration::from_secs(1800);

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ill {
    /// Somebody says so: it is to be read again.
    Suspected,
    /// Read and found so.
    Damaged,
    /// Other members have it, so many bytes of it.
    Missing {
        /// Its bytes.
        len: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Case {
    ill: Ill,
    tries: u32,
    /// When to try again; `None` while it is being tried.
    due: Option<Duration>,
    /// Nobody had it whole when all were asked.
    hopeless: bool,
    told: bool,
}

/// The list. Times are since any fixed moment.
#[derive(Debug, Default)]
pub(crate) struct SickList {
    cases: BTreeMap<ChunkKey, Case>,
}

impl SickList {
    /// Puts a chunk on the list, to be tried at once. True if it was not known to be that ill.
    pub(crate) fn report(&mut self, key: ChunkKey, ill: Ill, now: Duration) -> bool {
        if let Some(case) = self.cases.get_mut(&key) {
            let news = case.ill == Ill::Suspected && ill != Ill::Suspected;
            if news {
                case.ill = ill;
            }
            return news;
        }
        if self.cases.len() >= MAX_SICK {
            return false;
        }
        self.cases.insert(key, Case { ill, tries: 0, due: Some(now), hopeless: false, told: false });
        true
    }

    /// Puts a missing chunk on the list that nobody had whole just now; false if there is no room.
    pub(crate) fn report_lost(&mut self, key: ChunkKey, len: u32, now: Duration) -> bool {
        self.report(key, Ill::Missing { len }, now);
        if !self.cases.contains_key(&key) {
            return false;
        }
        self.failed(key, true, now);
        true
    }

    /// The chunks that are due, the longest due first, at most `most`; each is tried by whoever took it until it is
    /// `done` or has `failed`.
    pub(crate) fn take_due(&mut self, most: usize, now: Duration) -> Vec<(ChunkKey, Ill)> {
        let mut due: Vec<(Duration, ChunkKey)> =
            self.cases.iter().filter_map(|(key, case)| Some((case.due.filter(|due| *due <= now)?, *key))).collect();
        due.sort_unstable();
        let taken = due.into_iter().take(most);
        taken.filter_map(|(_, key)| self.cases.get_mut(&key).map(|case| (key, take(case)))).collect()
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.cases.values().filter_map(|case| case.due).min()
    }

    /// It is whole now, or gone.
    pub(crate) fn done(&mut self, key: ChunkKey) {
        self.cases.remove(&key);
    }

    /// It turned out to be damaged. True if that was not known.
    pub(crate) fn confirmed(&mut self, key: ChunkKey) -> bool {
        let Some(case) = self.cases.get_mut(&key).filter(|case| case.ill == Ill::Suspected) else { return false };
        case.ill = Ill::Damaged;
        true
    }

    /// It could not be healed. True if an operator should hear of it: once for each chunk.
    pub(crate) fn failed(&mut self, key: ChunkKey, hopeless: bool, now: Duration) -> bool {
        let Some(case) = self.cases.get_mut(&key) else { return false };
        let (first, longest) = if hopeless { (SELDOM, SELDOM_AT_MOST) } else { (SOON, SOON_AT_MOST) };
        let wait = first.saturating_mul(1 << case.tries.min(10)).min(longest);
        case.tries = case.tries.saturating_add(1);
        case.due = Some(now + wait);
        case.hopeless = hopeless;
        hopeless && !std::mem::replace(&mut case.told, true)
    }

    /// The members of a group changed: whoever has its chunks may be there now.
    pub(crate) fn hurry(&mut self, pg: PgId, now: Duration) {
        for (_, case) in self.cases.iter_mut().filter(|(key, _)| key.pg == pg) {
            case.tries = 0;
            if case.due.is_some() {
                case.due = Some(now);
            }
        }
    }

    /// Chunks known to be ill and not healed yet, and those of them that nobody had whole.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let ill = self.cases.values().filter(|case| case.ill != Ill::Suspected);
        let hopeless = ill.clone().filter(|case| case.hopeless);
        (ill.count() as u64, hopeless.count() as u64)
    }
}

fn take(case: &mut Case) -> Ill {
    case.due = None;
    case.ill
}

#[cfg(test)]
mod tests {
    use weft_core::ids::{ChunkId, ClientId, SpaceId};

    use super::*;

    fn key(counter: u64) -> ChunkKey {
        ChunkKey { pg: PgId(1), space: SpaceId(1), chunk: ChunkId { client: ClientId(1), counter } }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_chunk_is_tried_once_at_a_time_and_then_ever_more_seldom() {
        let mut list = SickList::default();
        assert!(list.report(key(1), Ill::Suspected, s(0)));
        assert!(!list.report(key(1), Ill::Suspected, s(0)));
        assert_eq!(list.counts(), (0, 0), "nobody knows yet");
        assert_eq!(list.take_due(9, s(0)), vec![(key(1), Ill::Suspected)]);
        assert_eq!((list.take_due(9, s(99)), list.next_due()), (vec![], None), "it is being tried");
        assert!(list.confirmed(key(1)) && !list.confirmed(key(1)));
        assert!(!list.failed(key(1), false, s(1)), "somebody was silent: nothing to speak of");
        assert_eq!((list.counts(), list.next_due()), ((1, 0), Some(s(1) + SOON)));
        assert_eq!(list.take_due(9, s(2)), vec![(key(1), Ill::Damaged)]);
        assert!(list.failed(key(1), true, s(2)), "said once");
        let (mut now, mut waits) = (s(2), Vec::new());
        for _ in 0..8 {
            let due = list.next_due().unwrap();
            waits.push(due - now);
            now = due;
            assert_eq!(list.take_due(9, now).len(), 1);
            assert!(!list.failed(key(1), true, now), "and never again");
        }
        assert!(waits.is_sorted() && waits[7] == SELDOM_AT_MOST, "{waits:?}");
        assert_eq!(list.counts(), (1, 1));
        list.hurry(PgId(2), now);
        assert!(list.take_due(9, now).is_empty());
        list.hurry(PgId(1), now);
        assert_eq!(list.take_due(9, now).len(), 1);
        list.done(key(1));
        assert_eq!((list.counts(), list.next_due()), ((0, 0), None));
    }

    #[test]
    fn the_list_is_bounded_and_the_longest_due_comes_first() {
        let mut list = SickList::default();
        for n in 0..MAX_SICK as u64 {
            assert!(list.report(key(n), Ill::Damaged, s(100 - n % 100)));
        }
        assert!(!list.report(key(MAX_SICK as u64), Ill::Damaged, s(0)));
        assert!(!list.report_lost(key(MAX_SICK as u64), 5, s(0)));
        let taken = list.take_due(3, s(200));
        assert_eq!(taken.iter().map(|(key, _)| key.chunk.counter).collect::<Vec<_>>(), vec![99, 199, 299]);
        assert!(list.report_lost(key(99), 5, s(0)), "it is on it already");
    }
}
