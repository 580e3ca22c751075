//! A simulated disk: the node's folder tree in memory, kept by the harness over the node's crashes.
//!
//! Writes are seen by reads at once, and survive a crash for sure only after a flush of their file. At a crash each
//! unflushed write may be kept, lost, or torn into sectors of 512 bytes of which any subset is kept. Small files,
//! renames and removals are atomic and durable when they return, as the seam promises.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_node::parts::{Disk, DiskFile, OpenMode, Space, WriteDone};

const PAGE: u64 = 4096;
const SECTOR: usize = 512;

/// Bytes of a file, all zero where nothing was written.
#[derive(Default, Clone)]
struct Sparse(BTreeMap<u64, Box<[u8; PAGE as usize]>>);

impl Sparse {
    fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let at = (offset % PAGE) as usize;
            let n = data.len().min(PAGE as usize - at);
            let page = self.0.entry(offset / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[at..at + n].copy_from_slice(&data[..n]);
            offset += n as u64;
            data = &data[n..];
        }
    }

    fn read(&self, mut offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = (offset % PAGE) as usize;
            let n = (out.len() - done).min(PAGE as usize - at);
            match self.0.get(&(offset / PAGE)) {
                Some(page) => out[done..done + n].copy_from_slice(&page[at..at + n]),
                None => out[done..done + n].fill(0),
            }
            offset += n as u64;
            done += n;
        }
    }
}

#[derive(Default)]
struct File {
    len: u64,
    /// What a crash leaves.
    durable: Sparse,
    /// What reads see.
    current: Sparse,
    /// Written since, in order.
    unflushed: VecDeque<(u64, Bytes)>,
}

impl File {
    fn write(&mut self, mut offset: u64, parts: Vec<Bytes>) {
        for part in parts {
            self.len = self.len.max(offset + part.len() as u64);
            self.current.write(offset, &part);
            let len = part.len() as u64;
            self.unflushed.push_back((offset, part));
            offset += len;
        }
    }

    /// Another handle may have flushed some of them already; flushing later ones early is a disk's right.
    fn flush(&mut self, writes: usize) {
        for (offset, data) in self.unflushed.drain(..writes.min(self.unflushed.len())) {
            self.durable.write(offset, &data);
        }
    }

    /// Returns how many unflushed writes were lost or torn.
    fn crash(&mut self, rng: &mut SmallRng) -> u64 {
        let keep: f64 = [0.0, 0.5, 0.9][rng.random_range(0..3)];
        let tear = rng.random_bool(0.5);
        let mut hurt = 0;
        for (offset, data) in std::mem::take(&mut self.unflushed) {
            if !tear {
                if rng.random_bool(keep) {
                    self.durable.write(offset, &data);
                } else {
                    hurt += 1;
                }
                continue;
            }
            let mut whole = true;
            let mut at = 0;
            while at < data.len() {
                // Sectors of the disk, not of the write.
                let n = (SECTOR - (offset as usize + at) % SECTOR).min(data.len() - at);
                if rng.random_bool(keep) {
                    self.durable.write(offset + at as u64, &data[at..at + n]);
                } else {
                    whole = false;
                }
                at += n;
            }
            hurt += u64::from(!whole);
        }
        self.current = self.durable.clone();
        hurt
    }
}

/// What a disk does wrong, changeable while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Shortest time of a flush.
    pub flush_min: Duration,
    /// Longest time of a flush.
    pub flush_max: Duration,
    /// Flushes are acknowledged but not done: to check that the laws notice.
    pub lies: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Habits { flush_min: Duration::from_micros(50), flush_max: Duration::from_millis(3), lies: false }
    }
}

struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<File>>>,
    rng: SmallRng,
    habits: Habits,
    hurt: u64,
}

/// One node's disk. Cloning shares it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64, habits: Habits) -> SimDisk {
        let rng = SmallRng::seed_from_u64(seed);
        SimDisk(Arc::new(Mutex::new(State { files: BTreeMap::new(), rng, habits, hurt: 0 })))
    }

    /// Power is cut: call while the node is down.
    pub fn crash(&self) {
        let state = &mut *locked(&self.0);
        for file in state.files.values() {
            state.hurt += locked(file).crash(&mut state.rng);
        }
    }

    /// Unflushed writes lost or torn by crashes so far.
    pub fn hurt(&self) -> u64 {
        locked(&self.0).hurt
    }

    /// Changes its habits.
    pub fn behave(&self, habits: Habits) {
        locked(&self.0).habits = habits;
    }

    fn delay(&self) -> Duration {
        let state = &mut *locked(&self.0);
        let (min, max) = (state.habits.flush_min, state.habits.flush_max);
        state.rng.random_range(min..=max)
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

#[async_trait::async_trait]
impl Disk for SimDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = locked(&self.0);
        let file = match (state.files.get(path), mode) {
            (Some(file), _) => file.clone(),
            (None, OpenMode::Create { .. } | OpenMode::Reserve { .. }) => {
                let file = Arc::<Mutex<File>>::default();
                state.files.insert(path.to_path_buf(), file.clone());
                file
            }
            (None, _) => return Err(missing(path)),
        };
        if let Some(len) = mode.makes() {
            let mut file = locked(&file);
            file.len = file.len.max(len);
        }
        Ok(Arc::new(SimFile { disk: self.clone(), file, queue: Arc::default() }))
    }

    async fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = locked(&self.0);
        let mut names: Vec<String> = state
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(folder).ok()?.components().next())
            .map(|first| first.as_os_str().to_string_lossy().into_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    async fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = locked(&self.0);
        let file = state.files.remove(from).ok_or_else(|| missing(from))?;
        state.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        locked(&self.0).files.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    async fn read_small(&self, path: &Path) -> io::Result<Bytes> {
        let file = locked(&self.0).files.get(path).cloned().ok_or_else(|| missing(path))?;
        let file = locked(&file);
        let mut out = vec![0; file.len as usize];
        file.current.read(0, &mut out);
        Ok(out.into())
    }

    async fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        tokio::time::sleep(self.delay()).await;
        let mut file = File { len: bytes.len() as u64, ..File::default() };
        file.durable.write(0, bytes);
        file.current = file.durable.clone();
        locked(&self.0).files.insert(path.to_path_buf(), Arc::new(Mutex::new(file)));
        Ok(())
    }

    async fn space(&self) -> io::Result<Space> {
        Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39 })
    }
}

/// Durable writes that wait: how many unflushed writes each stands behind, and whom to tell.
type Waiting = VecDeque<WriteDone>;

struct SimFile {
    disk: SimDisk,
    file: Arc<Mutex<File>>,
    queue: Arc<Mutex<Waiting>>,
}

impl SimFile {
    /// Queues `done`; the first in an empty queue starts the flusher, which serves all that queue meanwhile together.
    fn flush_later(&self, done: WriteDone) {
        let mut queue = locked(&self.queue);
        queue.push_back(done);
        if queue.len() > 1 {
            return;
        }
        let (disk, file, queue) = (self.disk.clone(), self.file.clone(), self.queue.clone());
        tokio::spawn(async move {
            loop {
                let (served, writes) = (locked(&queue).len(), locked(&file).unflushed.len());
                tokio::time::sleep(disk.delay()).await;
                if !locked(&disk.0).habits.lies {
                    locked(&file).flush(writes);
                }
                // They stay queued until told, so that a newcomer does not start a second flusher.
                for at in 0..served {
                    let done = std::mem::replace(&mut locked(&queue)[at], Box::new(|_| ()));
                    done(Ok(()));
                }
                let mut queue = locked(&queue);
                queue.drain(..served);
                if queue.is_empty() {
                    return;
                }
            }
        });
    }
}

#[async_trait::async_trait]
impl DiskFile for SimFile {
    fn len(&self) -> u64 {
        locked(&self.file).len
    }

    async fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let file = locked(&self.file);
        if offset.checked_add(len as u64).is_none_or(|end| end > file.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut out = vec![0; len];
        file.current.read(offset, &mut out);
        Ok(out.into())
    }

    fn write_durable(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone) {
        locked(&self.file).write(offset, parts);
        self.flush_later(done);
    }

    fn write(&self, offset: u64, parts: Vec<Bytes>, done: WriteDone) {
        locked(&self.file).write(offset, parts);
        done(Ok(()));
    }

    async fn sync(&self) -> io::Result<()> {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.flush_later(Box::new(move |result| {
            // Whoever no longer waits no longer needs the answer.
            let _ = done.send(result);
        }));
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the disk was shut down")))
    }

    async fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeroes = Bytes::from(vec![0; len as usize]);
        locked(&self.file).write(offset, vec![zeroes]);
        Ok(())
    }
}
