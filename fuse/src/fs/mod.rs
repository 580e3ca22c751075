//! The file system behind the mount: each kernel request becomes calls of the client library.
//!
//! One file per kind of request. Rights are decided by the kernel from mode bits and access lists
//! (`default_permissions`) and again by the servers. Nothing here is kept beyond what the kernel holds: inodes it has looked up, handles it has open.

mod attrs;
mod capacity;
mod dirs;
mod files;
mod names;
mod xattrs;

pub(crate) use dirs::DirState;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use weft_client::{Cred, Name, Volume};
use weft_core::namespace::inode::Attr;

use self::capacity::Capacity;
use self::xattrs::PlainNodes;
use crate::cred::Creds;
use crate::handles::Handles;
use crate::inodes::{InodeTable, Place, st_ino};
use crate::notices::Notices;
use crate::request::{Attributes, Entry, Errno, Handler, NodeId, Operation, Process, Reply, Request};
use crate::tasks::Tasks;

/// Answers whose inode changed meanwhile are asked for again so often, then shown without being believed for any time.
const TRIES: usize = 4;

type Answer<T> = Result<T, Errno>;

/// The file system of one mount.
pub(crate) struct FileSystem {
    state: Arc<State>,
}

/// What all requests share.
struct State {
    inodes: InodeTable<Volume>,
    handles: Handles,
    creds: Creds,
    capacity: Capacity,
    notices: Notices,
    plain: PlainNodes,
    ttl: Duration,
    tasks: Tasks,
}

impl FileSystem {
    /// A file system whose root is the root of `volume`. The kernel may believe what it is told for `ttl`.
    pub(crate) fn new(volume: Volume, ttl: Duration, notices: Notices, runtime: Handle) -> FileSystem {
        let view = volume.view();
        FileSystem {
            state: Arc::new(State {
                inodes: InodeTable::new(volume, view),
                handles: Handles::default(),
                creds: Creds::default(),
                capacity: Capacity::default(),
                notices,
                plain: PlainNodes::default(),
                ttl,
                tasks: Tasks::new(runtime),
            }),
        }
    }

    /// Makes what was written through open files durable. Returns the first error.
    pub(crate) async fn sync_all(&self) -> Result<(), weft_client::Error> {
        let mut first = Ok(());
        for open in self.state.handles.all_files() {
            if open.writable {
                let result = open.file.flush().await;
                if let Err(error) = &result {
                    tracing::warn!(ino = %open.file.ino(), %error, "write a file at the end of the mount");
                }
                first = first.and(result);
            }
        }
        first
    }

    /// Returns when no request is under way.
    pub(crate) async fn idle(&self) {
        self.state.tasks.idle().await;
    }

    /// After the last request: closes what the kernel left open and ends the notices.
    pub(crate) async fn finish(&self) -> Result<(), weft_client::Error> {
        self.state.notices.close();
        self.idle().await;
        let result = self.sync_all().await;
        self.state.handles.clear();
        result
    }

    fn run<T, F>(&self, reply: Reply<T>, work: F)
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        self.state.tasks.run(async move { reply.send(work.await) });
    }
}

impl Handler for FileSystem {
    fn handle(&self, request: Request) {
        let Request { process, node, operation } = request;
        tracing::trace!(?process, node = node.0, ?operation, "request");
        let fs = self.state.clone();
        match operation {
            Operation::Forget { lookups } => fs.inodes.forget(node, lookups),
            Operation::Lookup { name, reply } => {
                self.run(reply, async move { fs.lookup(&fs.cred(process), node, name).await });
            }
            Operation::Getattr { reply, .. } => {
                self.run(reply, async move { fs.getattr(process, node).await });
            }
            Operation::Setattr { set, handle, reply } => {
                self.run(reply, async move { fs.setattr(process, node, set, handle).await });
            }
            Operation::Readlink { reply } => {
                self.run(reply, async move { fs.readlink(process, node).await });
            }
            Operation::Mknod { name, mode, umask, rdev, reply } => {
                self.run(reply, async move { fs.mknod(process, node, name, (mode, umask), rdev).await });
            }
            Operation::Mkdir { name, mode, umask, reply } => {
                self.run(reply, async move { fs.mkdir(process, node, name, (mode, umask)).await });
            }
            Operation::Symlink { name, target, reply } => {
                self.run(reply, async move { fs.symlink(process, node, name, target).await });
            }
            Operation::Link { parent, name, reply } => {
                self.run(reply, async move { fs.link(process, node, parent, name).await });
            }
            Operation::Unlink { name, reply } => {
                self.run(reply, async move { fs.unlink(process, node, name).await });
            }
            Operation::Rmdir { name, reply } => {
                self.run(reply, async move { fs.rmdir(process, node, name).await });
            }
            Operation::Rename { name, new_parent, new_name, flags, reply } => {
                self.run(reply, async move { fs.rename(process, (node, name), (new_parent, new_name), flags).await });
            }
            Operation::Open { flags, reply } => {
                self.run(reply, async move { fs.open(process, node, flags).await });
            }
            Operation::Create { name, mode, umask, flags, reply } => {
                self.run(reply, async move { fs.create(process, node, name, (mode, umask), flags).await });
            }
            Operation::Tmpfile { mode, umask, flags, reply } => {
                self.run(reply, async move { fs.tmpfile(process, node, (mode, umask), flags).await });
            }
            Operation::Read { handle, offset, len, reply } => {
                self.run(reply, async move { fs.read(handle, offset, len).await });
            }
            Operation::Write { handle, offset, data, flags, kill_suid, reply } => {
                self.run(reply, async move { fs.write(node, handle, offset, data, (flags, kill_suid)).await });
            }
            Operation::Flush { handle, reply } => {
                self.run(reply, async move { fs.closed(node, handle).await });
            }
            Operation::Fsync { handle, reply } => {
                self.run(reply, async move { fs.flush(node, handle).await });
            }
            Operation::Release { handle, reply } => {
                // Nobody waits for it, so it need not wait for what it closes.
                reply.send(Ok(()));
                self.state.tasks.run(async move { fs.release(node, handle).await });
            }
            Operation::Fallocate { handle, offset, len, mode, reply } => {
                self.run(reply, async move { fs.fallocate(process, node, handle, offset, len, mode).await });
            }
            Operation::Lseek { handle, offset, whence, reply } => {
                self.run(reply, async move { fs.lseek(handle, offset, whence).await });
            }
            Operation::CopyRange { handle, offset, target, target_handle, target_offset, len, reply } => {
                let source = files::Spot { handle, offset };
                let target = (target, files::Spot { handle: target_handle, offset: target_offset });
                self.run(reply, async move { fs.copy_range(process, source, target, len).await });
            }
            Operation::Opendir { reply } => reply.send(fs.opendir(process, node)),
            Operation::Readdir { handle, offset, plus, mut listing } => {
                self.state.tasks.run(async move {
                    let result = fs.readdir(handle, offset, plus, &mut *listing).await;
                    listing.send(result);
                });
            }
            Operation::Fsyncdir { reply } => {
                self.run(reply, async move { Ok(fs.place(node)?.volume.sync().await?) });
            }
            Operation::Releasedir { handle, reply } => {
                fs.handles.close_dir(handle);
                reply.send(Ok(()));
            }
            Operation::Statfs { reply } => {
                self.run(reply, async move { fs.statfs(process, node).await });
            }
            Operation::Setxattr { name, value, flags, reply } => {
                self.run(reply, async move { fs.set_xattr(process, node, name, value, flags).await });
            }
            Operation::Getxattr { name, size, reply } => {
                self.run(reply, async move { fs.get_xattr(process, node, name, size).await });
            }
            Operation::Listxattr { size, reply } => {
                self.run(reply, async move { fs.list_xattr(process, node, size).await });
            }
            Operation::Removexattr { name, reply } => {
                self.run(reply, async move { fs.remove_xattr(process, node, name).await });
            }
        }
    }
}

impl State {
    fn cred(&self, process: Process) -> Cred {
        self.creds.of(process)
    }

    fn place(&self, node: NodeId) -> Answer<Place<Volume>> {
        self.inodes.place(node).ok_or(Errno(libc::ESTALE))
    }

    /// The node of an inode in the same volume as `place`.
    fn sibling(&self, place: &Place<Volume>, ino: weft_client::Ino) -> NodeId {
        self.inodes.node(place.volume.view(), ino)
    }

    /// The `st_ino` of a node.
    fn shown_ino(&self, node: NodeId) -> u64 {
        match self.inodes.place(node) {
            Some(place) => st_ino(place.volume.view(), place.ino),
            None => node.0,
        }
    }

    /// Tells the kernel of an inode under a name: counts the lookup.
    async fn entry(&self, volume: &Volume, attr: Attr, above: Option<NodeId>) -> Answer<Entry> {
        let node = self.inodes.node(volume.view(), attr.ino);
        if node == NodeId::ROOT {
            // The mount's own root behind a junction: a directory can't be seen in two places.
            return Err(Errno(libc::ELOOP));
        }
        let place = Place { volume: volume.clone(), ino: attr.ino };
        self.inodes.looked_up(node, &place, above);
        self.settle(node, &attr).await;
        Ok(Entry { node, attr, ttl: self.ttl })
    }

    fn attributes(&self, place: &Place<Volume>, attr: Attr, ttl: Duration) -> Attributes {
        Attributes { st_ino: st_ino(place.volume.view(), place.ino), attr, ttl }
    }

    /// Before the kernel is told attributes: pages that it holds of another version are dropped, so that nobody sees
    /// the new size with the old bytes.
    async fn settle(&self, node: NodeId, attr: &Attr) {
        self.claim_own_changes(node);
        if !self.inodes.known(node, attr.version).pages {
            self.notices.drop_pages(node).await;
            self.inodes.cached(node, attr.version);
        }
        self.inodes.told(node, attr.version);
        self.plain.told(node, attr);
    }
}

impl From<weft_client::Error> for Errno {
    fn from(error: weft_client::Error) -> Errno {
        let errno = error.errno();
        if errno == libc::EIO {
            tracing::warn!(%error, "a request failed");
        } else {
            tracing::debug!(%error, errno, "a request was refused");
        }
        Errno(errno)
    }
}

fn parse_name(name: bytes::Bytes) -> Answer<Name> {
    Name::parse(name).map_err(|refusal| Errno(refusal.errno()))
}
