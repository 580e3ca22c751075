//! Attributes: showing and setting them.

use std::time::Duration;

use tokio::time::Instant;
use weft_client::{Attr, SetAttr};

use super::{Answer, State, TRIES};
use crate::request::{Attributes, HandleId, NodeId, Process, SetAttributes};

impl State {
    /// Asked of the server also for open files, since what the client knows of them may be a second old already. What is
    /// known of a directory is shown for the rest of its time: the kernel asks after each name made in it.
    pub(super) async fn getattr(&self, process: Process, node: NodeId) -> Answer<Attributes> {
        let place = self.place(node)?;
        if let Some((attr, since)) = self.inodes.dir(node)
            && let Some(left) = self.ttl.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
        {
            return Ok(self.attributes(&place, attr, left));
        }
        let cred = self.cred(process);
        let mut left = TRIES;
        loop {
            left -= 1;
            let (asked, at) = (self.inodes.now(), Instant::now());
            let attr = place.volume.getattr(&cred, place.ino).await?;
            let unchanged = self.inodes.unchanged_since(node, asked);
            if unchanged || left == 0 {
                let ttl = if unchanged { self.ttl } else { Duration::ZERO };
                self.settle(node, &attr).await;
                self.inodes.learn_dir(node, &attr, asked, at);
                return Ok(self.attributes(&place, attr, ttl));
            }
        }
    }

    pub(super) async fn setattr(
        &self,
        process: Process,
        node: NodeId,
        set: SetAttributes,
        handle: Option<HandleId>,
    ) -> Answer<Attributes> {
        let place = self.place(node)?;
        let cred = self.cred(process);
        let SetAttributes { mode, uid, gid, size, atime, mtime, ctime } = set;
        let set = SetAttr { mode, uid, gid, atime, mtime, ctime };
        let open = handle.and_then(|handle| self.handles.file(handle)).filter(|open| open.writable);
        let attr = match (size, open) {
            (Some(size), Some(open)) => open.file.truncate_with(&cred, size, set).await?,
            (Some(size), None) => place.volume.truncate(&cred, place.ino, size, set).await?,
            (None, _) => place.volume.setattr(&cred, place.ino, set).await?,
        };
        self.made(node, &attr);
        self.settle(node, &attr).await;
        Ok(self.attributes(&place, attr, self.ttl))
    }

    /// A change made through this mount left a file with these attributes.
    pub(super) fn made(&self, node: NodeId, attr: &Attr) {
        self.inodes.changed(node);
        self.claim_own_changes(node);
        self.inodes.own_changes(node, attr.version.saturating_sub(1), attr.version);
    }

    /// What was written through open handles, also by the client's own timer, is no news to the kernel.
    pub(super) fn claim_own_changes(&self, node: NodeId) {
        if let Some(place) = self.inodes.place(node) {
            self.inodes.distrust(place.volume.client().losses());
        }
        if let Some(open) = self.handles.of_node(node) {
            let (version, ours_since) = open.file.versions();
            self.inodes.own_changes(node, ours_since, version);
        }
    }
}
