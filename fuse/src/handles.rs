//! Open files and directories, by the numbers under which the kernel has them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use weft_client::{Cred, File};

use crate::fs::DirState;
use crate::request::{HandleId, NodeId};

/// An open file.
pub(crate) struct OpenFile {
    pub(crate) node: NodeId,
    pub(crate) file: File,
    pub(crate) writable: bool,
}

/// An open directory.
pub(crate) struct OpenDir {
    pub(crate) node: NodeId,
    /// Who opened it: what is read through it is read on their behalf.
    pub(crate) cred: Cred,
    /// One reader at a time: a position is shared by all who hold the descriptor.
    pub(crate) state: tokio::sync::Mutex<DirState>,
}

/// All that is open.
#[derive(Default)]
pub(crate) struct Handles {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    files: BTreeMap<u64, Arc<OpenFile>>,
    /// Handles of each node's files.
    by_node: BTreeSet<(NodeId, u64)>,
    dirs: BTreeMap<u64, Arc<OpenDir>>,
}

impl Handles {
    pub(crate) fn open_file(&self, file: OpenFile) -> HandleId {
        let mut inner = self.inner.lock();
        inner.last += 1;
        let number = inner.last;
        inner.by_node.insert((file.node, number));
        inner.files.insert(number, Arc::new(file));
        HandleId(number)
    }

    pub(crate) fn file(&self, handle: HandleId) -> Option<Arc<OpenFile>> {
        self.inner.lock().files.get(&handle.0).cloned()
    }

    pub(crate) fn close_file(&self, handle: HandleId) -> Option<Arc<OpenFile>> {
        let mut inner = self.inner.lock();
        let closed = inner.files.remove(&handle.0)?;
        inner.by_node.remove(&(closed.node, handle.0));
        Some(closed)
    }

    /// An open file of a node, if there is one.
    pub(crate) fn of_node(&self, node: NodeId) -> Option<Arc<OpenFile>> {
        let inner = self.inner.lock();
        let (_, number) = inner.by_node.range((node, 0)..=(node, u64::MAX)).next()?;
        inner.files.get(number).cloned()
    }

    pub(crate) fn all_files(&self) -> Vec<Arc<OpenFile>> {
        self.inner.lock().files.values().cloned().collect()
    }

    pub(crate) fn open_dir(&self, dir: OpenDir) -> HandleId {
        let mut inner = self.inner.lock();
        inner.last += 1;
        let number = inner.last;
        inner.dirs.insert(number, Arc::new(dir));
        HandleId(number)
    }

    pub(crate) fn dir(&self, handle: HandleId) -> Option<Arc<OpenDir>> {
        self.inner.lock().dirs.get(&handle.0).cloned()
    }

    pub(crate) fn close_dir(&self, handle: HandleId) {
        self.inner.lock().dirs.remove(&handle.0);
    }

    /// Forgets everything, when the kernel is gone.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.files.clear();
        inner.by_node.clear();
        inner.dirs.clear();
    }
}
