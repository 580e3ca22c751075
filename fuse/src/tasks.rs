//! Work under way, so that an unmount can wait for the last of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Runs work at once where it needs no waiting, on the runtime where it does.
pub(crate) struct Tasks {
    runtime: Handle,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    running: AtomicUsize,
    idle: Notify,
}

struct Running(Arc<Counted>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Tasks {
    pub(crate) fn new(runtime: Handle) -> Tasks {
        Tasks { runtime, counted: Arc::default() }
    }

    /// Starts work on the calling thread. What finishes without waiting, as answers from caches and writes into a
    /// buffer do, costs no wake-up of another thread; the rest moves to the runtime.
    pub(crate) fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _context = self.runtime.enter();
        let mut work = Box::pin(work);
        if poll_once(work.as_mut()).is_pending() {
            self.counted.running.fetch_add(1, Ordering::AcqRel);
            let running = Running(self.counted.clone());
            self.runtime.spawn(async move {
                work.await;
                drop(running);
            });
        }
    }

    /// Returns when no work is under way. Work that starts meanwhile is waited for too.
    pub(crate) async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.counted.idle.notified());
            idle.as_mut().enable();
            if self.counted.running.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// The runtime polls again with a waker of its own, so that nothing is lost by this one.
fn poll_once(work: Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
    work.poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[tokio::test]
    async fn work_without_waiting_is_done_at_once() {
        let tasks = Tasks::new(Handle::current());
        let done = Arc::new(AtomicBool::new(false));
        let set = done.clone();
        tasks.run(async move { set.store(true, Ordering::Relaxed) });
        assert!(done.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn the_last_work_is_waited_for() {
        let tasks = Tasks::new(Handle::current());
        let done = Arc::new(AtomicBool::new(false));
        let set = done.clone();
        tasks.run(async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            set.store(true, Ordering::Relaxed);
        });
        assert!(!done.load(Ordering::Relaxed));
        tasks.idle().await;
        assert!(done.load(Ordering::Relaxed));
    }
}
