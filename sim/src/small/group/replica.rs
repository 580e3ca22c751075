//! A replica of the group's records: applies the log in batches of its own, falls back when it crashes.

use std::collections::BTreeMap;

use bytes::Bytes;
use weft_core::codec;
use weft_core::ids::GroupId;
use weft_core::machine;
use weft_core::view::{Changes, Overlay, ViewError};

use super::sessions::Reply;
use crate::run::Violation;
use crate::small::broken;

pub(in crate::small) type Records = BTreeMap<Bytes, Bytes>;

pub(super) const GROUP: GroupId = GroupId(1);

/// An entry of the log, and what came of it where it was applied first.
pub(super) struct Logged {
    pub(super) bytes: Bytes,
    pub(super) print: u32,
}

/// What an entry came to, in short.
pub(super) fn print(reply: &Reply, changes: &Changes) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&codec::encode_reply(reply));
    for (key, value) in changes {
        hasher.update(key);
        hasher.update(&[u8::from(value.is_some())]);
        hasher.update(value.as_deref().unwrap_or_default());
    }
    hasher.finalize()
}

pub(in crate::small) fn write(records: &mut Records, changes: Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(records.insert(key, value)),
            None => drop(records.remove(&key)),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Replica {
    pub(super) records: Records,
    /// Entries applied.
    pub(super) applied: usize,
    /// What a crash leaves.
    saved: (Records, usize),
}

impl Replica {
    /// Applies the next entries, at most `most`, in one batch.
    pub(super) fn advance(&mut self, log: &[Logged], most: usize) -> Result<u64, Violation> {
        let end = log.len().min(self.applied.saturating_add(most));
        let mut overlay = Overlay::new(&self.records);
        for (at, logged) in log.iter().enumerate().take(end).skip(self.applied) {
            let entry = codec::decode_entry(&logged.bytes).map_err(|error| broken("codec", error.to_string()))?;
            let applied = machine::apply(&overlay, GROUP, &entry).map_err(|error| damaged(&error))?;
            if print(&applied.reply, &applied.changes) != logged.print {
                let what = format!("entry {at} came to something else on another replica: {:?}", applied.reply);
                return Err(broken("replicas equal", what));
            }
            overlay.absorb(applied.changes);
        }
        let changes = overlay.into_changes();
        write(&mut self.records, changes);
        let count = end - self.applied;
        self.applied = end;
        Ok(count as u64)
    }

    /// What there is now survives a crash.
    pub(super) fn save(&mut self) {
        self.saved = (self.records.clone(), self.applied);
    }

    pub(super) fn crash(&mut self) {
        (self.records, self.applied) = self.saved.clone();
    }

    /// Takes another replica's records, as from a snapshot.
    pub(super) fn install(&mut self, from: &Replica) {
        *self = Replica { records: from.records.clone(), applied: from.applied, saved: Default::default() };
        self.save();
    }
}

pub(super) fn damaged(error: &ViewError) -> Violation {
    broken("records sound", error.to_string())
}
