//! A progress bar for long transfers, only where somebody watches.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// Progress of a transfer of several files. Shared by all that take part.
pub(crate) struct Progress {
    bar: ProgressBar,
    totals: Mutex<Totals>,
}

/// What was transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Totals {
    /// Files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Directories.
    pub(crate) directories: u64,
    /// Symbolic links.
    pub(crate) symlinks: u64,
}

impl Progress {
    /// A bar on standard error that shows itself once there is something to see; none if nobody watches or `quiet`.
    pub(crate) fn new(quiet: bool) -> Progress {
        let target = if quiet || !output::watched() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(8)
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress { bar, totals: Mutex::default() }
    }

    /// A file of so many bytes begins.
    pub(crate) fn begin(&self, name: &str, bytes: u64) {
        self.bar.inc_length(bytes);
        self.bar.set_message(name.to_string());
    }

    /// So many more bytes are there.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Counts something done.
    pub(crate) fn count(&self, add: impl FnOnce(&mut Totals)) {
        add(&mut self.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// What was done so far.
    pub(crate) fn totals(&self) -> Totals {
        *self.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs `say` while the bar is out of the way.
    pub(crate) fn aside(&self, say: impl FnOnce()) {
        self.bar.suspend(say);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
