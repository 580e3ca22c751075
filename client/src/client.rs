//! A connected client: the site, its volumes, and what lives in one client alone.

use std::sync::Arc;

use weft_core::ids::{NodeId, VolumeId};
use weft_core::name::Name;
use weft_core::namespace::inode::{Attr, SlotRef};
use weft_core::site::{self, SiteMap};

use crate::error::{Error, Result};
use crate::options::ConnectOptions;
use crate::parts::ClientParts;
use crate::status::NodeReport;
use crate::volume::Volume;
use crate::{Cred, Ino};

/// A client of one site. Cloning it shares it; [`Client::close`] ends it.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones of a client share.
pub(crate) struct Shared {
    pub(crate) options: ConnectOptions,
    pub(crate) parts: ClientParts,
}

/// What a path leads to.
#[derive(Clone)]
pub struct Resolved {
    /// The volume it ends in: behind a junction, the volume there.
    pub volume: Volume,
    /// What it leads to there; behind a junction, that volume's root. A symbolic link at the end is not followed.
    pub found: Attr,
}

/// The directory of a path's last name.
#[derive(Clone)]
pub struct ResolvedParent {
    /// The directory's volume.
    pub volume: Volume,
    /// The directory.
    pub parent: Ino,
    /// The last name, which may or may not exist.
    pub name: Name,
}

fn not_yet<T>() -> Result<T> {
    Err(Error::Refused(weft_core::refusal::Refusal::Unsupported { what: "this call is still being built".into() }))
}

impl Client {
    /// Connects through any node that answers and gets a client id.
    ///
    /// # Errors
    /// None of the addresses answered within the deadline.
    pub async fn connect(options: ConnectOptions, parts: ClientParts) -> Result<Client> {
        Ok(Client { shared: Arc::new(Shared { options, parts }) })
    }

    /// The newest site map this client has seen.
    pub fn site_map(&self) -> Arc<SiteMap> {
        let _ = (&self.shared.options, &self.shared.parts);
        Arc::default()
    }

    /// Asks the site for its map now.
    ///
    /// # Errors
    /// No node answered within the deadline.
    pub async fn refresh_map(&self) -> Result<Arc<SiteMap>> {
        not_yet()
    }

    /// The volumes of the site, by id.
    ///
    /// # Errors
    /// No node answered within the deadline.
    pub async fn volumes(&self) -> Result<Vec<site::Volume>> {
        not_yet()
    }

    /// Makes a volume whose chunks have `replication` copies (1 to 3) and waits until it can be used. With `at` also a
    /// junction to it at that path, whose parent must exist.
    ///
    /// # Errors
    /// The name is taken, or the junction can't be made (then the volume exists without it).
    pub async fn create_volume(&self, name: &str, replication: u8, at: Option<&[u8]>) -> Result<Volume> {
        let _ = (name, replication, at);
        not_yet()
    }

    /// The volume of a name.
    ///
    /// # Errors
    /// There is none (ENOENT).
    pub async fn volume(&self, name: &str) -> Result<Volume> {
        let _ = name;
        not_yet()
    }

    /// The volume of an id.
    ///
    /// # Errors
    /// There is none (ENOENT).
    pub async fn volume_by_id(&self, id: VolumeId) -> Result<Volume> {
        let _ = id;
        not_yet()
    }

    /// The volume a junction leads to.
    ///
    /// # Errors
    /// There is no such slot (ENOENT).
    pub async fn follow(&self, slot: SlotRef) -> Result<Volume> {
        let _ = slot;
        not_yet()
    }

    /// Walks a path from the root volume's root through directories, junctions and symbolic links; a symbolic link at
    /// the end is not followed. Names are separated by `/`, `.` and `..` mean what they mean everywhere.
    ///
    /// # Errors
    /// As those of path lookup in POSIX: ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG.
    pub async fn resolve(&self, cred: &Cred, path: &[u8]) -> Result<Resolved> {
        let _ = (cred, path);
        not_yet()
    }

    /// The same, and a symbolic link at the end is followed.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn resolve_follow(&self, cred: &Cred, path: &[u8]) -> Result<Resolved> {
        let _ = (cred, path);
        not_yet()
    }

    /// Walks to the directory of a path's last name, which need not exist.
    ///
    /// # Errors
    /// As [`Client::resolve`]; EINVAL for a path without a last name, such as `/`.
    pub async fn resolve_parent(&self, cred: &Cred, path: &[u8]) -> Result<ResolvedParent> {
        let _ = (cred, path);
        not_yet()
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// The site has no such node, or it does not answer in one attempt.
    pub async fn node_status(&self, node: NodeId) -> Result<NodeReport> {
        let _ = node;
        not_yet()
    }

    /// Streams `source` into the file at `path`, made with `mode` if missing, cut to nothing if not; durable when it
    /// returns. `progress` is told how many bytes were taken so far. Returns the file's attributes.
    ///
    /// # Errors
    /// Of the path, the source or the writing; then the file may hold a part.
    pub async fn copy_in<R>(
        &self,
        cred: &Cred,
        source: &mut R,
        path: &[u8],
        mode: u16,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Attr>
    where
        R: tokio::io::AsyncRead + Unpin + Send,
    {
        let _ = (cred, source, path, mode, progress);
        not_yet()
    }

    /// Streams the file at `path` into `target`. `progress` is told how many bytes were written so far. Returns how
    /// many there were.
    ///
    /// # Errors
    /// Of the path, the reading or the target; then the target may have got a part.
    pub async fn copy_out<W>(
        &self,
        cred: &Cred,
        path: &[u8],
        target: &mut W,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<u64>
    where
        W: tokio::io::AsyncWrite + Unpin + Send,
    {
        let _ = (cred, path, target, progress);
        not_yet()
    }

    /// Flushes every file, ends the client's sessions, and stops its tasks. Later calls fail with [`Error::Closed`].
    ///
    /// # Errors
    /// Written data could not be made durable; the client is closed all the same.
    pub async fn close(&self) -> Result<()> {
        not_yet()
    }
}
