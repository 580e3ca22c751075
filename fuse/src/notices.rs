//! What the kernel must drop from its caches because somebody else changed it. The kernel may keep a notice waiting
//! until reads and writes of the pages are over, so notices are sent by a thread of their own, which nothing that they
//! could wait for depends on.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::request::{Invalidate, NodeId};

/// The way to the notice thread.
pub(crate) struct Notices {
    queue: Mutex<Option<Sender<Notice>>>,
}

/// The notices that wait, for the thread that sends them.
pub(crate) struct Waiting(Receiver<Notice>);

struct Notice {
    node: NodeId,
    what: What,
    done: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Attributes,
    Everything,
}

impl Notices {
    pub(crate) fn new() -> (Notices, Waiting) {
        let (send, wait) = channel();
        (Notices { queue: Mutex::new(Some(send)) }, Waiting(wait))
    }

    /// The kernel asks for the attributes again before it uses them. Returns when it knows.
    pub(crate) async fn drop_attributes(&self, node: NodeId) {
        self.send(node, What::Attributes).await;
    }

    /// The kernel drops attributes and pages. Returns when it has. Must not be waited for by an answer to a read or
    /// write of the inode, whose pages are locked until then.
    pub(crate) async fn drop_pages(&self, node: NodeId) {
        self.send(node, What::Everything).await;
    }

    /// Ends the thread once what waits is sent.
    pub(crate) fn close(&self) {
        self.queue.lock().take();
    }

    async fn send(&self, node: NodeId, what: What) {
        // After the end of the mount there are no caches left to speak to.
        let Some(queue) = self.queue.lock().clone() else { return };
        let (done, wait) = oneshot::channel();
        if queue.send(Notice { node, what, done }).is_ok() {
            let _ = wait.await;
        }
    }
}

impl Waiting {
    /// Starts the thread.
    pub(crate) fn start(self, kernel: Arc<dyn Invalidate>) -> io::Result<()> {
        std::thread::Builder::new().name("weft-notices".into()).spawn(move || self.send(&*kernel)).map(drop)
    }

    fn send(self, kernel: &dyn Invalidate) {
        for Notice { node, what, done } in self.0 {
            let result = match what {
                What::Attributes => kernel.attributes(node),
                What::Everything => kernel.inode(node),
            };
            if let Err(error) = result {
                tracing::debug!(node = node.0, ?what, %error, "tell the kernel to drop what it cached");
            }
            // Whoever asked may have been cancelled.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<(u64, bool)>>);

    impl Invalidate for Told {
        fn inode(&self, node: NodeId) -> io::Result<()> {
            self.0.lock().push((node.0, true));
            Ok(())
        }
        fn attributes(&self, node: NodeId) -> io::Result<()> {
            self.0.lock().push((node.0, false));
            Ok(())
        }
    }

    #[tokio::test]
    async fn notices_are_sent_before_they_are_waited_out() {
        let (notices, waiting) = Notices::new();
        let told = Arc::new(Told::default());
        waiting.start(told.clone()).unwrap();
        notices.drop_attributes(NodeId(5)).await;
        notices.drop_pages(NodeId(6)).await;
        assert_eq!(*told.0.lock(), [(5, false), (6, true)]);
    }

    #[tokio::test]
    async fn after_the_end_nobody_waits() {
        let (notices, waiting) = Notices::new();
        notices.close();
        notices.drop_pages(NodeId(6)).await;
        let (open, gone) = Notices::new();
        drop(gone);
        open.drop_pages(NodeId(6)).await;
        drop(waiting);
    }
}
