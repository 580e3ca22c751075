//! Consistent views over a store that has none of its own: before a write, what it replaces is put aside for every view
//! that is still held. A view reads what was put aside, else the store. It costs what changes while it is held, and
//! nothing to make.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use weft_core::view::{Changes, View, ViewError};

use super::RecordStore;

/// Records read by one look into the store during a scan.
const STRETCH: usize = 256;

/// Key and value.
type Record = (Bytes, Bytes);

/// A store that knows only its latest state. Writes are never concurrent with anything.
pub(super) trait Plain: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;
    /// The first records of a stretch of keys, at most `limit`.
    fn stretch(&self, from: Bound<&[u8]>, to: &[u8], limit: usize) -> Result<Vec<Record>, ViewError>;
    /// All or, at a crash, nothing.
    fn apply(&self, changes: &Changes) -> Result<(), ViewError>;
    fn persist(&self) -> Result<(), ViewError>;
}

/// What was replaced since a view was made: key -> value before.
type Replaced = Mutex<BTreeMap<Bytes, Option<Bytes>>>;

/// A [`Plain`] store with consistent views. Clones share it.
pub(super) struct Versions<P> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    plain: P,
    /// Held for reading by every look into the store, for writing by a write.
    gate: RwLock<Held>,
}

#[derive(Default)]
struct Held {
    views: Vec<Weak<Replaced>>,
    /// What views made since the last write share.
    latest: Weak<Replaced>,
}

impl<P: Plain> Versions<P> {
    pub(super) fn new(plain: P) -> Versions<P> {
        Versions { shared: Arc::new(Shared { plain, gate: RwLock::default() }) }
    }

    fn view(&self) -> Version<P> {
        {
            let held = self.shared.gate.read();
            if let Some(replaced) = held.latest.upgrade() {
                return Version { shared: self.shared.clone(), replaced };
            }
        }
        let mut held = self.shared.gate.write();
        let replaced = held.latest.upgrade().unwrap_or_else(|| {
            let replaced = Arc::new(Replaced::default());
            held.latest = Arc::downgrade(&replaced);
            let latest = held.latest.clone();
            held.views.push(latest);
            replaced
        });
        Version { shared: self.shared.clone(), replaced }
    }
}

impl<P: Plain> View for Versions<P> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let _read = self.shared.gate.read();
        self.shared.plain.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        self.view().scan(from, to, each)
    }
}

impl<P: Plain> RecordStore for Versions<P> {
    fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut held = self.shared.gate.write();
        held.latest = Weak::new();
        held.views.retain(|view| view.strong_count() > 0);
        let views: Vec<_> = held.views.iter().filter_map(Weak::upgrade).collect();
        if !views.is_empty() {
            for key in changes.keys() {
                let before = self.shared.plain.get(key)?;
                for view in &views {
                    view.lock().entry(key.clone()).or_insert_with(|| before.clone());
                }
            }
        }
        self.shared.plain.apply(changes)
    }

    fn snapshot(&self) -> Result<Arc<dyn View + Send + Sync>, ViewError> {
        Ok(Arc::new(self.view()))
    }

    fn persist_blocking(&self) -> Result<(), ViewError> {
        self.shared.plain.persist()
    }
}

/// The store as of one moment.
struct Version<P> {
    shared: Arc<Shared<P>>,
    replaced: Arc<Replaced>,
}

impl<P: Plain> Version<P> {
    /// The first records of a stretch as of the view's moment, and the key behind which there may be more.
    fn stretch(&self, from: Bound<&[u8]>, to: &[u8]) -> Result<(Vec<Record>, Option<Bytes>), ViewError> {
        let _read = self.shared.gate.read();
        let now = self.shared.plain.stretch(from, to, STRETCH)?;
        let more = if now.len() == STRETCH { now.last().map(|(key, _)| key.clone()) } else { None };
        // What was put aside counts only as far as this look into the store reached.
        let end = match &more {
            Some(last) => Bound::Included(&last[..]),
            None => Bound::Excluded(to),
        };
        let replaced = self.replaced.lock();
        let mut before = replaced.range::<[u8], _>((from, end)).peekable();
        if before.peek().is_none() {
            return Ok((now, more));
        }
        let mut merged = BTreeMap::from_iter(now);
        for (key, value) in before {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok((merged.into_iter().collect(), more))
    }
}

impl<P: Plain> View for Version<P> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let _read = self.shared.gate.read();
        if let Some(before) = self.replaced.lock().get(key) {
            return Ok(before.clone());
        }
        self.shared.plain.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        let mut after = None;
        loop {
            let start = after.as_ref().map_or(Bound::Included(from), |after: &Bytes| Bound::Excluded(&after[..]));
            let empty = match start {
                Bound::Included(start) | Bound::Excluded(start) => start >= to,
                Bound::Unbounded => false,
            };
            if empty {
                return Ok(());
            }
            let (records, more) = self.stretch(start, to)?;
            for (key, value) in &records {
                if each(key, value).is_break() {
                    return Ok(());
                }
            }
            match more {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }
}
