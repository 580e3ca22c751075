//! A disk in memory for tests: it forgets at a crash what was not flushed, tears what was being written, and can be
//! told to hold writes back, to fail them, and to rot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::within;
use crate::parts::{Disk, DiskFile, OpenMode, Space, WriteDone};

/// Unit in which a crash tears a write.
const SECTOR: usize = 512;

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub struct MemDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Rises with every crash; files opened before are dead.
    life: u64,
    files: BTreeMap<PathBuf, File>,
    folders: BTreeSet<PathBuf>,
    /// Files keep their contents when renamed while open, so handles name them by number.
    next: u64,
    held: Option<VecDeque<Held>>,
    fail: Option<io::ErrorKind>,
}

struct File {
    number: u64,
    /// What reads see.
    bytes: Vec<u8>,
    /// What a crash leaves for certain.
    flushed: Vec<u8>,
    /// Written since the last flush.
    pending: Vec<Range<usize>>,
}

struct Held {
    number: u64,
    offset: u64,
    parts: Vec<Bytes>,
    durable: bool,
    done: WriteDone,
}

impl Inner {
    fn file(&mut self, number: u64) -> io::Result<&mut File> {
        self.files.values_mut().find(|file| file.number == number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make(&mut self, path: PathBuf, bytes: Vec<u8>) {
        self.next += 1;
        let file = File { number: self.next, flushed: bytes.clone(), bytes, pending: Vec::new() };
        self.files.insert(path, file);
    }

    fn write(&mut self, number: u64, offset: u64, parts: &[Bytes], durable: bool) -> io::Result<()> {
        if let Some(kind) = self.fail {
            return Err(kind.into());
        }
        let file = self.file(number)?;
        let mut at = offset as usize;
        for part in parts {
            let end = at + part.len();
            if file.bytes.len() < end {
                file.bytes.resize(end, 0);
            }
            file.bytes[at..end].copy_from_slice(part);
            file.pending.push(at..end);
            at = end;
        }
        if durable {
            file.flush();
        }
        Ok(())
    }
}

impl File {
    fn flush(&mut self) {
        self.flushed.resize(self.bytes.len(), 0);
        for range in self.pending.drain(..) {
            self.flushed[range.clone()].copy_from_slice(&self.bytes[range]);
        }
    }
}

impl MemDisk {
    /// An empty disk that finishes each write before the call returns.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// From now on writes wait for [`MemDisk::release`] (`true`), or all waiting ones are done and further ones happen
    /// at once (`false`).
    pub fn hold(&self, hold: bool) {
        if hold {
            self.inner.lock().held.get_or_insert_default();
        } else {
            while self.release() {}
            self.inner.lock().held = None;
        }
    }

    /// Does the oldest waiting write; false if there is none.
    pub fn release(&self) -> bool {
        let mut inner = self.inner.lock();
        let Some(held) = inner.held.as_mut().and_then(VecDeque::pop_front) else { return false };
        let result = inner.write(held.number, held.offset, &held.parts, held.durable);
        drop(inner);
        (held.done)(result);
        true
    }

    /// Writes fail from now on, or work again.
    pub fn fail_writes(&self, kind: Option<io::ErrorKind>) {
        self.inner.lock().fail = kind;
    }

    /// Power goes: of every unflushed or waiting write each sector is there or not, as the dice of `seed` say. Open
    /// files are dead, waiting writes are never answered.
    pub fn crash(&self, seed: u64) {
        let mut inner = self.inner.lock();
        inner.life += 1;
        inner.fail = None;
        for held in inner.held.take().into_iter().flatten() {
            // Also what had not reached the disk's own queue in order may be partly there. The answer never comes.
            let _ = inner.write(held.number, held.offset, &held.parts, false);
        }
        let mut state = seed;
        for file in inner.files.values_mut() {
            let mut flushed = std::mem::take(&mut file.flushed);
            flushed.resize(file.bytes.len(), 0);
            for range in std::mem::take(&mut file.pending) {
                let mut at = range.start;
                while at < range.end {
                    let end = ((at / SECTOR + 1) * SECTOR).min(range.end);
                    if mix(&mut state).is_multiple_of(2) {
                        flushed[at..end].copy_from_slice(&file.bytes[at..end]);
                    }
                    at = end;
                }
            }
            file.bytes.clone_from(&flushed);
            file.flushed = flushed;
        }
    }

    /// Flips the bits of `mask` in one byte of a file, as rot at rest does.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn rot(&self, path: &Path, offset: usize, mask: u8) {
        let mut inner = self.inner.lock();
        let file = inner.files.get_mut(path).expect("the test names a file that is there");
        file.bytes[offset] ^= mask;
        file.flushed[offset] ^= mask;
    }

    /// A file's bytes as reads see them.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        self.inner.lock().files.get(path).expect("the test names a file that is there").bytes.clone()
    }
}

/// The next of a row of well mixed numbers (splitmix64).
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[async_trait::async_trait]
impl Disk for MemDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let path = within(Path::new(""), path)?;
        let mut inner = self.inner.lock();
        if let Some(len) = mode.makes() {
            match inner.files.get_mut(&path) {
                None => inner.make(path.clone(), vec![0; len as usize]),
                Some(file) if (file.bytes.len() as u64) < len => {
                    file.bytes.resize(len as usize, 0);
                    file.flush();
                }
                Some(_) => {}
            }
        }
        let life = inner.life;
        let file = inner.files.get(&path).ok_or(io::ErrorKind::NotFound)?;
        let number = file.number;
        Ok(Arc::new(MemFile { inner: self.inner.clone(), number, life, readonly: mode == OpenMode::Read }))
    }

    async fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner.lock();
        let mut names = BTreeSet::new();
        for path in inner.files.keys().chain(&inner.folders) {
            if let Ok(rest) = path.strip_prefix(folder)
                && let Some(name) = rest.iter().next()
            {
                names.insert(name.to_string_lossy().into_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    async fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.inner.lock().folders.insert(folder.to_path_buf());
        Ok(())
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let file = inner.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.lock().files.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn read_small(&self, path: &Path) -> io::Result<Bytes> {
        let path = within(Path::new(""), path)?;
        let inner = self.inner.lock();
        Ok(Bytes::from(inner.files.get(&path).ok_or(io::ErrorKind::NotFound)?.bytes.clone()))
    }

    async fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if let Some(kind) = inner.fail {
            return Err(kind.into());
        }
        inner.make(path.to_path_buf(), bytes.to_vec());
        Ok(())
    }

    async fn space(&self) -> io::Result<Space> {
        Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39 })
    }
}

/// An open file of a [`MemDisk`].
struct MemFile {
    inner: Arc<Mutex<Inner>>,
    number: u64,
    life: u64,
    readonly: bool,
}

impl MemFile {
    fn live(&self) -> io::Result<parking_lot::MutexGuard<'_, Inner>> {
        let inner = self.inner.lock();
        if inner.life == self.life { Ok(inner) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn queue(&self, offset: u64, parts: Vec<Bytes>, durable: bool, done: WriteDone) {
        let result = match self.live() {
            Err(_) => return,
            Ok(_) if self.readonly => Err(io::ErrorKind::PermissionDenied.into()),
            Ok(mut inner) => {
                if let Some(held) = &mut inner.held {
                    held.push_back(Held { number: self.number, offset, parts, durable, done });
                    return;
                }
                inner.write(self.number, offset, &parts, durable)
            }
        };
        done(result);
    }
}

#[async_trait::async_trait]
impl DiskFile for MemFile {
    fn len(&self) -> u64 {
        self.live().and_then(|mut inner| Ok(inner.file(self.number)?.bytes.len() as u64)).unwrap_or(0)
    }

    async fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut inner = self.live()?;
        let file = inner.file(self.number)?;
        let end = (offset as usize).checked_add(len);
        let bytes = end.and_then(|end| file.bytes.get(offset as usize..end));
        bytes.map(Bytes::copy_from_slice).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn write_durable(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone) {
        self.queue(offset, parts, true, done);
    }

    fn write(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone) {
        self.queue(offset, parts, false, done);
    }

    async fn sync(&self) -> io::Result<()> {
        let mut inner = self.live()?;
        if let Some(kind) = inner.fail {
            return Err(kind.into());
        }
        inner.file(self.number)?.flush();
        Ok(())
    }

    async fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut inner = self.live()?;
        let end = offset.saturating_add(len).min(inner.file(self.number)?.bytes.len() as u64);
        let zeroes = Bytes::from(vec![0; end.saturating_sub(offset) as usize]);
        inner.write(self.number, offset, &[zeroes], false)
    }
}
