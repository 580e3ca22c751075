//! Which files are open in this client: one state for all opens of an inode.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use weft_core::ids::{Ino, VolumeId};

use super::state::FileState;

/// Open files by volume and inode.
#[derive(Default)]
pub(crate) struct FileTable {
    states: Mutex<BTreeMap<(VolumeId, Ino), Weak<FileState>>>,
}

impl FileTable {
    /// Whether somebody has the inode open here.
    pub(crate) fn is_open(&self, volume: VolumeId, ino: Ino) -> bool {
        self.states.lock().get(&(volume, ino)).is_some_and(|state| state.strong_count() > 0)
    }

    /// The inode's state, if it is open here in a session that lives.
    pub(crate) fn find(&self, volume: VolumeId, ino: Ino) -> Option<Arc<FileState>> {
        let state = self.states.lock().get(&(volume, ino)).and_then(Weak::upgrade);
        state.filter(|state| !state.ended())
    }

    /// The same, or what `make` makes. `make` must not touch the table.
    pub(super) fn find_or_make(
        &self,
        volume: VolumeId,
        ino: Ino,
        make: impl FnOnce() -> Arc<FileState>,
    ) -> Arc<FileState> {
        let mut states = self.states.lock();
        let found = states.get(&(volume, ino)).and_then(Weak::upgrade);
        let (state, replaced) = match found {
            Some(found) if !found.ended() => (found, None),
            replaced => {
                let made = make();
                states.insert((volume, ino), Arc::downgrade(&made));
                (made, replaced)
            }
        };
        drop(states);
        // Perhaps the last holder: its end takes the lock.
        drop(replaced);
        state
    }

    /// Forgets an inode whose state is gone.
    pub(super) fn gone(&self, volume: VolumeId, ino: Ino) {
        let mut states = self.states.lock();
        if states.get(&(volume, ino)).is_some_and(|state| state.strong_count() == 0) {
            states.remove(&(volume, ino));
        }
    }

    /// All open files.
    pub(crate) fn all(&self) -> Vec<Arc<FileState>> {
        self.states.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Open files of a volume with writes that are not committed.
    pub(crate) fn dirty(&self, volume: VolumeId) -> Vec<Arc<FileState>> {
        let range = (volume, Ino(0))..=(volume, Ino(u64::MAX));
        let open: Vec<_> = self.states.lock().range(range).filter_map(|(_, state)| state.upgrade()).collect();
        open.into_iter().filter(|state| state.is_dirty()).collect()
    }
}
