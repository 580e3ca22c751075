//! Which chunks of this client may still be named by a commit for the first time. All below the lowest of them never will
//! be: the group is told so with each sign of life, and lets go of what it keeps to refuse them.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Place;

/// Counts the chunks of this process, whatever the client id.
#[derive(Default)]
pub(crate) struct Naming(Arc<Mutex<Counters>>);

#[derive(Default)]
struct Counters {
    last: u64,
    may: BTreeSet<u64>,
}

/// While it lives, its chunk may be named. An attempt to store it holds one, then the bytes that were stored, until they
/// are committed or overwritten.
pub(crate) struct Ticket {
    counters: Arc<Mutex<Counters>>,
    counter: u64,
}

/// A chunk that is durable, and perhaps not named yet.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) place: Place,
    pub(crate) ticket: Arc<Ticket>,
}

impl Naming {
    /// The number of a new chunk.
    pub(crate) fn begin(&self) -> Ticket {
        let mut counters = self.0.lock();
        counters.last += 1;
        let counter = counters.last;
        counters.may.insert(counter);
        Ticket { counters: self.0.clone(), counter }
    }

    /// No chunk with a lower number will be named for the first time.
    pub(crate) fn below(&self) -> u64 {
        let counters = self.0.lock();
        counters.may.first().copied().unwrap_or(counters.last + 1)
    }
}

impl Ticket {
    pub(crate) fn counter(&self) -> u64 {
        self.counter
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.counters.lock().may.remove(&self.counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_that_lives_holds_back_all_above() {
        let naming = Naming::default();
        assert_eq!(naming.below(), 1);
        let [one, two, three] = [naming.begin(), naming.begin(), naming.begin()];
        assert_eq!(([one.counter(), two.counter(), three.counter()], naming.below()), ([1, 2, 3], 1));
        drop(two);
        assert_eq!(naming.below(), 1);
        drop(one);
        assert_eq!(naming.below(), 3, "2 is no more, and 3 may be named");
        drop(three);
        assert_eq!(naming.below(), 4);
        let four = naming.begin();
        assert_eq!((four.counter(), naming.below()), (4, 4));
    }
}
