//! Mounting and unmounting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use weft_client::{Client, Volume};

use crate::detach::{Detach, detach};
use crate::dev_fuse::{self, AttachOptions, Session};
use crate::fs::FileSystem;
use crate::mountinfo;
use crate::notices::{Notices, Waiting};
use crate::request::Handler;

/// Name of the file system in `/proc/mounts`, as source and behind `fuse.`.
const NAME: &str = "weft";
/// How long the kernel may believe entries and attributes at the most, as long as there are no leases.
const MAX_TTL: Duration = Duration::from_secs(1);
/// How long [`Mounted::unmount`] waits for the kernel after the mount is detached. Files still open keep it longer.
const GRACE: Duration = Duration::from_secs(5);

/// How to mount: data, each setting with its unit and default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// How long the kernel may answer by itself from what it was told: changes made through other mounts are seen after
    /// this time at the latest. Default and most 1 s.
    pub ttl: Duration,
    /// Whether other users than the one who mounts may use it. Default `None`: yes for the superuser, no for others.
    pub allow_other: Option<bool>,
    /// Nothing can be changed through it. Default no.
    pub read_only: bool,
    /// Threads that take requests from the kernel. Default 2; more help on large machines.
    pub loops: usize,
    /// Kibibytes that the kernel reads ahead. Default 4096; only the superuser can set it, others get the kernel's 128.
    pub read_ahead_kib: u32,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions { ttl: MAX_TTL, allow_other: None, read_only: false, loops: 2, read_ahead_kib: 4096 }
    }
}

/// Why a mount failed, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is nothing at the path.
    #[error("{path} does not exist: make the directory first, `mkdir -p {path}`")]
    Missing {
        /// The path.
        path: String,
    },
    /// The path is something else.
    #[error("{path} is not a directory: a mount needs an existing directory")]
    NotDirectory {
        /// The path.
        path: String,
    },
    /// A mount whose process is gone is in the way.
    #[error(
        "{path} holds a mount whose process is gone (`Transport endpoint is not connected`): remove it with `fusermount3 -u {path}`"
    )]
    Stale {
        /// The path.
        path: String,
    },
    /// Weft is mounted there.
    #[error(
        "a weft file system is mounted on {path} already: unmount it with `fusermount3 -u {path}`, or choose another directory"
    )]
    AlreadyMounted {
        /// The path.
        path: String,
    },
    /// The kernel offers no FUSE.
    #[error(
        "/dev/fuse can't be opened ({why}): load the module with `modprobe fuse`; in a container give it `--device /dev/fuse --cap-add SYS_ADMIN`"
    )]
    NoDevice {
        /// What the system said.
        why: String,
    },
    /// An ordinary user needs the helper.
    #[error(
        "fusermount3 is not installed, which ordinary users need to mount: install the package `fuse3`, or mount as root"
    )]
    NoHelper,
    /// Other users may not be let in.
    #[error(
        "only root may let other users in: mount as root, turn `allow_other` off, or put `user_allow_other` into /etc/fuse.conf"
    )]
    AllowOther,
    /// Anything else.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// With which path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// What was written could not be made durable at the end.
    #[error("write what was left at the end of the mount: {0}")]
    Unwritten(#[from] weft_client::Error),
}

/// A mounted file system. Dropping it unmounts, without waiting for anything: call [`Mounted::unmount`] or let
/// [`Mounted::wait`] return first.
pub struct Mounted {
    attached: Attached,
    fs: Arc<FileSystem>,
}

/// Mounts a volume on a directory. `client` is kept until the mount ends; requests run on `runtime`.
///
/// # Errors
/// [`MountError`] says what stands in the way and what to do about it.
pub fn mount(
    client: Client,
    volume: Volume,
    path: &Path,
    options: MountOptions,
    runtime: Handle,
) -> Result<Mounted, MountError> {
    let (notices, waiting) = Notices::new();
    let fs = Arc::new(FileSystem::new(volume, options.ttl.min(MAX_TTL), notices, runtime.clone()));
    let attached = Attached::new(fs.clone(), path, &options, waiting, Box::new(client), runtime)?;
    tracing::debug!(path = %attached.path.display(), ?options, "mounted");
    Ok(Mounted { attached, fs })
}

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.attached.path
    }

    /// Returns when it is unmounted, by [`Mounted::unmount`] or by anybody (`fusermount3 -u`), and everything that was
    /// written is durable.
    ///
    /// # Errors
    /// [`MountError::Unwritten`] if something written could not be made durable; [`MountError::Io`] if the mount broke.
    pub async fn wait(&self) -> Result<(), MountError> {
        let result = self.attached.ended().await;
        self.fs.finish().await?;
        result
    }

    /// Makes everything written durable and unmounts. Where files are still open the mount leaves the tree at once, and
    /// those who hold the files can use them until this process ends.
    ///
    /// # Errors
    /// As [`Mounted::wait`]; [`MountError::Io`] if the mount could not be taken away.
    pub async fn unmount(&self) -> Result<(), MountError> {
        self.fs.sync_all().await?;
        self.attached.detach().await?;
        match tokio::time::timeout(GRACE, self.wait()).await {
            Ok(result) => result,
            Err(_) => Ok(self.fs.sync_all().await?),
        }
    }
}

/// The kernel's side of a mount, with a handler behind it.
struct Attached {
    path: PathBuf,
    ended: watch::Receiver<Option<Result<(), String>>>,
}

impl Attached {
    /// Mounts on a directory. `kept` lives until the mount ends.
    fn new(
        handler: Arc<dyn Handler>,
        path: &Path,
        options: &MountOptions,
        waiting: Waiting,
        kept: Box<dyn Send>,
        runtime: Handle,
    ) -> Result<Attached, MountError> {
        let path = check_path(path)?;
        check_device()?;
        let root = is_root();
        if !root && !helper_installed() {
            return Err(MountError::NoHelper);
        }
        let config = config(options, root);
        let device = dev_fuse::attach(&path, &config, root).map_err(|error| explain(error, &path, &config))?;
        let session = match Session::new(device, handler, runtime) {
            Ok(session) => session,
            Err(error) => {
                if let Err(error) = crate::detach::detach_lazily(&path) {
                    tracing::debug!(path = %path.display(), %error, "unmount");
                }
                return Err(explain(error, &path, &config));
            }
        };
        let loops = options.loops.max(1);
        let io = |what| {
            let path = path.display().to_string();
            move |source| MountError::Io { what, path, source }
        };
        waiting.start(Arc::new(session.notifier())).map_err(io("start the notice thread of"))?;
        let (tell, ended) = watch::channel(None);
        std::thread::Builder::new()
            .name("weft-mount".into())
            .spawn(move || {
                let result = match session.run(loops) {
                    // Somebody took the connection away (a lazy or forced unmount): the mount ended all the same.
                    Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {
                        tracing::warn!(%error, "the mount was taken away");
                        Ok(())
                    }
                    other => other.map_err(|error| error.to_string()),
                };
                if let Err(error) = &result {
                    tracing::warn!(error, "the mount ended");
                }
                drop(kept);
                let _ = tell.send(Some(result));
            })
            .map_err(io("start the threads of"))?;
        if root {
            read_ahead(&path, options.read_ahead_kib);
        }
        Ok(Attached { path, ended })
    }

    /// Returns when the kernel has let go.
    async fn ended(&self) -> Result<(), MountError> {
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err("its thread is gone".into()),
        };
        result.map_err(|why| self.io("serve the mount on", io::Error::other(why)))
    }

    /// Takes the mount out of the tree, if it is still there.
    async fn detach(&self) -> Result<(), MountError> {
        if self.ended.borrow().is_some() {
            return Ok(());
        }
        let path = self.path.clone();
        // The kernel writes mapped pages out before it lets go, which this process must serve meanwhile.
        let detached = tokio::task::spawn_blocking(move || detach(&path)).await;
        match detached.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(Detach::Gone) => {}
            Ok(Detach::InUse) => tracing::warn!(
                path = %self.path.display(),
                "files are still open: the mount is gone from the tree, and ends with this process"
            ),
            Err(error) => return Err(self.io("unmount", error)),
        }
        Ok(())
    }

    fn io(&self, what: &'static str, source: io::Error) -> MountError {
        MountError::Io { what, path: self.path.display().to_string(), source }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.ended.borrow().is_none()
            && let Err(error) = crate::detach::detach_lazily(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "unmount");
        }
    }
}

/// The absolute path of a directory on which nothing of ours is mounted.
fn check_path(path: &Path) -> Result<PathBuf, MountError> {
    let shown = path.display().to_string();
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            return Err(match error.raw_os_error() {
                Some(libc::ENOENT) => MountError::Missing { path: shown },
                Some(libc::ENOTDIR) => MountError::NotDirectory { path: shown },
                Some(libc::ENOTCONN | libc::ECONNABORTED) => MountError::Stale { path: shown },
                _ => MountError::Io { what: "look at", path: shown, source: error },
            });
        }
    };
    if !found.is_dir() {
        return Err(MountError::NotDirectory { path: shown });
    }
    let absolute = path.canonicalize().map_err(|source| MountError::Io {
        what: "find the absolute path of",
        path: shown.clone(),
        source,
    })?;
    if mountinfo::read().iter().any(|mount| mount.path == absolute && mount.kind == format!("fuse.{NAME}")) {
        return Err(MountError::AlreadyMounted { path: shown });
    }
    Ok(absolute)
}

fn check_device() -> Result<(), MountError> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) => Err(MountError::NoDevice { why: error.to_string() }),
    }
}

fn helper_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/sbin", "/bin", "/usr/bin"].map(PathBuf::from));
    folders.into_iter().any(|folder| folder.join("fusermount3").exists() || folder.join("fusermount").exists())
}

fn is_root() -> bool {
    // SAFETY: takes nothing, touches no memory, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn config(options: &MountOptions, root: bool) -> AttachOptions {
    let allow_other = options.allow_other.unwrap_or(root);
    AttachOptions { name: NAME, allow_other, read_only: options.read_only }
}

fn explain(error: io::Error, path: &Path, config: &AttachOptions) -> MountError {
    let text = error.to_string();
    if config.allow_other && (text.contains("user_allow_other") || text.contains("allow_other")) {
        return MountError::AllowOther;
    }
    MountError::Io { what: "mount on", path: path.display().to_string(), source: error }
}

/// Lets the kernel read further ahead than its default, which a network needs.
fn read_ahead(path: &Path, kib: u32) {
    let mounts = mountinfo::read();
    // The last one is on top.
    let Some(mount) = mounts.iter().rev().find(|mount| mount.path == path) else { return };
    let file = format!("/sys/class/bdi/{}/read_ahead_kb", mount.device);
    if let Err(error) = std::fs::write(&file, kib.to_string()) {
        tracing::debug!(file, %error, "set the read-ahead of the mount");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weft_core::ids::{Ino, VolumeId};
    use weft_core::namespace::inode::{Attr, Kind};
    use weft_core::time::Timestamp;

    use super::*;
    use crate::request::{Attributes, DirItem, Errno, HandleId, Opened, Operation, Request, Statfs};

    #[test]
    fn a_path_that_cannot_be_mounted_on_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let told = check_path(&missing).unwrap_err().to_string();
        assert!(told.contains("mkdir -p"), "{told}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(check_path(&file), Err(MountError::NotDirectory { .. })));
        assert!(matches!(check_path(&file.join("below")), Err(MountError::NotDirectory { .. })));
        assert_eq!(check_path(folder.path()).unwrap(), folder.path().canonicalize().unwrap());
    }

    /// A root directory with nothing in it but `.` and `..`.
    struct Empty;

    impl Handler for Empty {
        fn handle(&self, request: Request) {
            let attr = Attr {
                volume: VolumeId(1),
                ino: Ino::ROOT,
                kind: Kind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                nlink: 2,
                size: 0,
                allocated: 0,
                rdev: 0,
                atime: Timestamp { secs: -3, nanos: 500_000_000 },
                mtime: Timestamp { secs: 5, nanos: 7 },
                ctime: Timestamp::default(),
                btime: Timestamp::default(),
                generation: 0,
                version: 1,
                parent: Ino::ROOT,
                acl: None,
                default_acl: None,
            };
            let dot = |name: &'static [u8], next| DirItem {
                name: Bytes::from_static(name),
                next,
                st_ino: 77,
                kind: Kind::Directory,
                attr: None,
            };
            let opened = Opened { handle: HandleId(4), keep_cache: false, no_flush: false, direct: false };
            match request.operation {
                Operation::Getattr { reply, .. } => {
                    reply.send(Ok(Attributes { st_ino: 77, attr, ttl: Duration::from_secs(1) }));
                }
                Operation::Opendir { reply } => reply.send(Ok(opened)),
                Operation::Readdir { offset, mut listing, .. } => {
                    let items = [dot(b".", 1), dot(b"..", 2)];
                    items.iter().skip(offset as usize).all(|item| listing.add(item));
                    listing.send(Ok(()));
                }
                Operation::Lookup { reply, .. } => reply.send(Err(Errno(libc::ENOENT))),
                Operation::Statfs { reply } => reply.send(Ok(Statfs { bytes: 1 << 40, ..Statfs::default() })),
                Operation::Releasedir { reply, .. } => reply.send(Ok(())),
                // Everything else is answered with EIO by dropping it.
                _ => {}
            }
        }
    }

    fn attach(path: &Path) -> Result<Attached, MountError> {
        let (_, waiting) = Notices::new();
        Attached::new(Arc::new(Empty), path, &MountOptions::default(), waiting, Box::new(()), Handle::current())
    }

    fn mountable() -> bool {
        is_root() && check_device().is_ok()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_kernel_is_served_and_lets_go() {
        if !mountable() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let attached = attach(folder.path()).unwrap();
        let found = std::fs::metadata(folder.path()).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((found.ino(), found.mode() & 0o7777), (77, 0o755));
        assert_eq!((found.atime(), found.atime_nsec(), found.mtime_nsec()), (-3, 500_000_000, 7));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(std::fs::read(folder.path().join("x")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let again = attach(folder.path()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(again.contains("already"), "{again}");
        let open = std::fs::File::open(folder.path()).unwrap();
        attached.detach().await.unwrap();
        assert_ne!(std::fs::metadata(folder.path()).unwrap().ino(), 77, "gone from the tree at once");
        drop(open);
        attached.ended().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_unmount_by_somebody_else_is_noticed() {
        if !mountable() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let attached = attach(folder.path()).unwrap();
        assert_eq!(detach(folder.path()).unwrap(), Detach::Gone);
        attached.ended().await.unwrap();
        attached.detach().await.unwrap();
        assert_eq!(detach(folder.path()).unwrap(), Detach::Gone, "what is not mounted is gone");
    }

    #[test]
    fn other_users_are_let_in_by_root_alone_unless_said() {
        let options = MountOptions::default();
        assert!(config(&options, true).allow_other);
        assert!(!config(&options, false).allow_other);
        let told = MountOptions { allow_other: Some(true), ..options };
        let config = config(&told, false);
        assert!(config.allow_other);
        let refused = io::Error::other("fusermount3: option allow_other only allowed if 'user_allow_other' is set");
        assert!(matches!(explain(refused, Path::new("/mnt"), &config), MountError::AllowOther));
    }
}
