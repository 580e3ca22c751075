//! How many written bytes a client holds that are not stored yet.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts bytes of all files.
#[derive(Default)]
pub(crate) struct Budget {
    held: AtomicU64,
    shrunk: Notify,
}

impl Budget {
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// A file holds `now` bytes where it held `before`.
    pub(crate) fn changed(&self, before: u64, now: u64) {
        if now > before {
            self.held.fetch_add(now - before, Ordering::AcqRel);
        } else if now < before {
            self.held.fetch_sub(before - now, Ordering::AcqRel);
            self.shrunk.notify_waiters();
        }
    }

    /// Woken whenever some file holds less than before.
    pub(crate) fn shrunk(&self) -> &Notify {
        &self.shrunk
    }
}
