//! The disk of the machine: a folder of an ordinary file system.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ring::{self, Ring};
use super::writer::{Job, Writer};
use super::{sys, within};
use crate::parts::{Disk, DiskFile, OpenMode, Space, WriteDone};

/// Ends the name of a file that is being made; left over only by a crash, and never listed.
const UNFINISHED: &str = ".weft-tmp";
/// Zeroes written between two flushes while a file is made, so that other files' flushes don't wait long behind it.
const FILL: usize = 4 << 20;

/// A folder of the machine's file system.
pub struct RealDisk {
    root: PathBuf,
    /// One small file is replaced at a time, since they share names while unfinished.
    replacing: Arc<Mutex<()>>,
    /// Opened by the first read that waits for the disk; `None` where there is no such thing.
    ring: Arc<OnceLock<Option<Ring>>>,
}

impl RealDisk {
    /// Makes the folder if needed. Blocks: called once at the start. Keeping other processes out is the caller's part.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn open(root: &Path) -> io::Result<RealDisk> {
        make_folders(root)?;
        let root = root.canonicalize().map_err(|error| named(root, error))?;
        Ok(RealDisk { root, replacing: Arc::default(), ring: Arc::default() })
    }

    /// The folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

#[async_trait::async_trait]
impl Disk for RealDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let path = within(&self.root, path)?;
        let ring = self.ring.clone();
        blocking(move || {
            let file = match mode {
                OpenMode::Read => OpenOptions::new().read(true).open(&path),
                OpenMode::Write => OpenOptions::new().read(true).write(true).open(&path),
                OpenMode::Create { len } => create(&path, len, fill_zeroes),
                OpenMode::Reserve { len } => create(&path, len, reserve),
            };
            let file = Arc::new(file.map_err(|error| named(&path, error))?);
            let len = Arc::new(AtomicU64::new(file.metadata()?.len()));
            let name = path.display().to_string();
            let writer = Writer::new(file.clone(), name, len.clone());
            let readonly = mode == OpenMode::Read;
            Ok(Arc::new(RealFile { file, len, writer, ring, readonly, cached_reads: AtomicBool::new(true) })
                as Arc<dyn DiskFile>)
        })
        .await
    }

    async fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let folder = within(&self.root, folder)?;
        blocking(move || {
            let mut names = Vec::new();
            let entries = match std::fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
                entries => entries.map_err(|error| named(&folder, error))?,
            };
            for entry in entries {
                // Names that are not UTF-8 are none of ours.
                if let Ok(name) = entry?.file_name().into_string()
                    && !name.ends_with(UNFINISHED)
                {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    async fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = within(&self.root, folder)?;
        blocking(move || make_folders(&folder)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (within(&self.root, from)?, within(&self.root, to)?);
        blocking(move || {
            std::fs::rename(&from, &to).map_err(|error| named(&from, error))?;
            sync_parent(&to)?;
            if from.parent() == to.parent() { Ok(()) } else { sync_parent(&from) }
        })
        .await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = within(&self.root, path)?;
        blocking(move || {
            std::fs::remove_file(&path).map_err(|error| named(&path, error))?;
            sync_parent(&path)
        })
        .await
    }

    async fn read_small(&self, path: &Path) -> io::Result<Bytes> {
        let path = within(&self.root, path)?;
        blocking(move || std::fs::read(&path).map(Bytes::from).map_err(|error| named(&path, error))).await
    }

    async fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let path = within(&self.root, path)?;
        let (bytes, replacing) = (bytes.to_vec(), self.replacing.clone());
        blocking(move || {
            let _one = replacing.lock();
            finish(&path, |file| file.write_all(&bytes))?;
            Ok(())
        })
        .await
    }

    async fn space(&self) -> io::Result<Space> {
        let root = self.root.clone();
        blocking(move || sys::space(&root)).await
    }
}

/// Runs a blocking call on tokio's pool for such.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(format!("disk call ended early: {error}"))))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a folder and its parents, each durable in the one above.
fn make_folders(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Ok(()) => sync_parent(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = folder.parent() else { return Err(named(folder, error)) };
            make_folders(parent)?;
            match std::fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(named(folder, error)),
                _ => sync_parent(folder),
            }
        }
        Err(error) => Err(named(folder, error)),
    }
}

/// Makes the names in the folder above durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| named(parent, error))
}

/// Makes or replaces a file: filled and flushed under another name, then renamed, so that after a crash there is the
/// old one (or none) or the whole new one.
fn finish(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let mut unfinished = path.as_os_str().to_os_string();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let filled = (|| {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
        fill(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        Ok(file)
    })();
    match filled {
        Ok(file) => {
            sync_parent(path)?;
            Ok(file)
        }
        Err(error) => {
            // What is left takes space but is never read; the next attempt overwrites it.
            let _ = std::fs::remove_file(&unfinished);
            Err(named(path, error))
        }
    }
}

/// Opens a file, made with `len` bytes by `fill` if missing and filled up by it if shorter.
fn create(path: &Path, len: u64, fill: impl Fn(&File, u64, u64) -> io::Result<()>) -> io::Result<File> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => {
            let have = file.metadata()?.len();
            if have < len {
                fill(&file, have, len)?;
                file.sync_all()?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => finish(path, |file| fill(file, 0, len)),
        Err(error) => Err(error),
    }
}

fn reserve(file: &File, at: u64, end: u64) -> io::Result<()> {
    match sys::reserve(file, at, end - at) {
        // Not every file system can; zeroes take the room as well.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => fill_zeroes(file, at, end),
        result => result,
    }
}

fn fill_zeroes(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    let zeroes = vec![0; FILL.min((end - at) as usize)];
    while at < end {
        let len = zeroes.len().min((end - at) as usize);
        file.write_all_at(&zeroes[..len], at)?;
        file.sync_data()?;
        at += len as u64;
    }
    Ok(())
}

/// An open file of a [`RealDisk`].
struct RealFile {
    file: Arc<File>,
    len: Arc<AtomicU64>,
    writer: Arc<Writer>,
    ring: Arc<OnceLock<Option<Ring>>>,
    readonly: bool,
    /// Whether the file system can answer from the page cache alone.
    cached_reads: AtomicBool,
}

impl RealFile {
    fn submit(&self, job: Job) {
        self.writer.submit(job);
    }

    fn refuse(done: WriteDone) {
        done(Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened for reading only")));
    }

    async fn wait(&self, job: impl FnOnce(WriteDone) -> Job) -> io::Result<()> {
        if self.readonly {
            return Ok(());
        }
        let (done, wait) = oneshot::channel();
        self.submit(job(Box::new(move |result| {
            // Whoever no longer waits no longer needs the answer.
            let _ = done.send(result);
        })));
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the disk was shut down")))
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        self.writer.close();
    }
}

#[async_trait::async_trait]
impl DiskFile for RealFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    async fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = BytesMut::with_capacity(len);
        if self.cached_reads.load(Ordering::Relaxed) {
            match fill(&mut buffer, len, |rest, at| sys::read_cached(&self.file, rest, offset + at)) {
                Ok(()) => return Ok(buffer.freeze()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => {
                    self.cached_reads.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        if len - buffer.len() <= ring::LONGEST
            && let Some(ring) = self.ring.get_or_init(Ring::open)
        {
            let (at, rest) = (offset + buffer.len() as u64, len - buffer.len());
            let result;
            (buffer, result) = ring.read(&self.file, buffer, at, rest).await;
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if buffer.len() == len => return Ok(buffer.freeze()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // It has no room where the ring kept the buffer.
            buffer.reserve(len - buffer.len());
        }
        let file = self.file.clone();
        blocking(move || {
            fill(&mut buffer, len, |rest, at| sys::read_once(&file, rest, offset + at))?;
            Ok(buffer.freeze())
        })
        .await
    }

    fn will_read(&self, offset: u64, len: u64) {
        let file = self.file.clone();
        // It waits for memory at times. Nobody waits for it.
        tokio::task::spawn_blocking(move || sys::will_read(&file, offset, len));
    }

    fn write_durable(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone) {
        if self.readonly {
            return RealFile::refuse(done);
        }
        self.submit(Job::Write { offset, parts, durable: true, done });
    }

    fn write(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone) {
        if self.readonly {
            return RealFile::refuse(done);
        }
        self.submit(Job::Write { offset, parts, durable: false, done });
    }

    async fn sync(&self) -> io::Result<()> {
        self.wait(|done| Job::Sync { done }).await
    }

    async fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.readonly {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.wait(|done| Job::Punch { offset, len, done }).await
    }
}

/// Reads on until the buffer holds `len` bytes; what it holds already stays.
fn fill(
    buffer: &mut BytesMut,
    len: usize,
    read: impl Fn(&mut [std::mem::MaybeUninit<u8>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while buffer.len() < len {
        let have = buffer.len();
        match read(&mut buffer.spare_capacity_mut()[..len - have], have as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // SAFETY: the call filled that many bytes behind those already there.
            Ok(count) => unsafe { buffer.set_len(have + count) },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
