//! How the machine reads records, and how its changes pile up before they are written.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

/// The record store could not answer: the replica must stop using it. Never a refusal to a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record store: {0}")]
pub struct ViewError(pub String);

/// Records in key order, as of one moment.
pub trait View {
    /// The value of a key.
    ///
    /// # Errors
    /// The store failed or found damage.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// Calls `each` for the records with `from <= key < to`, in key order, until it breaks or none is left.
    ///
    /// # Errors
    /// The store failed or found damage.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError>;
}

/// What commands change: key -> new value, or `None` for a removal.
pub type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// A view with changes laid over it, which later reads see.
pub struct Overlay<'a> {
    base: &'a dyn View,
    changes: Changes,
}

impl<'a> Overlay<'a> {
    /// Nothing changed yet.
    pub fn new(base: &'a dyn View) -> Overlay<'a> {
        Overlay { base, changes: Changes::new() }
    }

    /// These changes laid over `base`.
    pub fn with(base: &'a dyn View, changes: Changes) -> Overlay<'a> {
        Overlay { base, changes }
    }

    /// Sets a record.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.insert(key.into(), Some(value.into()));
    }

    /// Removes a record.
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.changes.insert(key.into(), None);
    }

    /// Lays further changes over these.
    pub fn absorb(&mut self, changes: Changes) {
        self.changes.extend(changes);
    }

    /// How many records are changed.
    pub fn changed(&self) -> usize {
        self.changes.len()
    }

    /// What was changed.
    pub fn into_changes(self) -> Changes {
        self.changes
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        if from >= to {
            return Ok(());
        }
        let mut laid = self.changes.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        let mut stopped = false;
        self.base.scan(from, to, &mut |key, value| {
            while let Some((at, change)) = laid.next_if(|(at, _)| &at[..] < key) {
                if let Some(change) = change
                    && each(at, change).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match laid.next_if(|(at, _)| &at[..] == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((at, Some(change))) => each(at, change),
                None => each(key, value),
            };
            stopped = flow.is_break();
            flow
        })?;
        if stopped {
            return Ok(());
        }
        for (at, change) in laid {
            if let Some(change) = change
                && each(at, change).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

/// The obvious view: an ordered map. For tests and small tools.
impl View for BTreeMap<Bytes, Bytes> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        if from >= to {
            return Ok(());
        }
        for (key, value) in self.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
