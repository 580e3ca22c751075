//! Ctrl-C and SIGTERM: what is under way is dropped, what it left behind is removed.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Doing, Failure};

/// Both signals that ask a process to end.
pub(crate) struct Interrupts {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Takes them over from the system's default, which is sudden death.
    pub(crate) fn take() -> Result<Interrupts, Failure> {
        let take = |kind| signal(kind).doing("take over signals");
        Ok(Interrupts { ctrl_c: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())? })
    }

    /// Waits for the next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.ctrl_c.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs a command until it ends or is interrupted. Its future is dropped then.
pub(crate) async fn until_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut interrupts = Interrupts::take()?;
    tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::interrupted()),
        result = work => result,
    }
}

/// Set when something failed that did not end the command, so that it ends with code 1.
#[derive(Default)]
pub(crate) struct Troubles(AtomicBool);

impl Troubles {
    /// Tells of one.
    pub(crate) fn tell(&self, failure: &Failure) {
        crate::output::warning(failure);
        self.0.store(true, Ordering::Relaxed);
    }

    /// A failure if there were any.
    pub(crate) fn outcome(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) { Err(Failure::told()) } else { Ok(()) }
    }
}
