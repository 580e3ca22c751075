//! A simulated disk: the node's folder tree in memory, kept by the harness over the node's crashes.
//!
//! Writes are seen by reads at once, and survive a crash for sure only after a flush of their file. At a crash each
//! unflushed write may be kept, lost, or torn into sectors of 512 bytes of which any subset is kept; that a later write
//! is kept and an earlier one is not is the reordering the seam allows. Small files, renames and removals are atomic and
//! durable when they return, as the seam promises.
//!
//! While it runs, a disk can be told to be slow, to fail everything for a while, to be full, to lie about flushes, or
//! to stand still; and bits of what it holds can be flipped.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_node::parts::{Disk, DiskFile, OpenMode, Space, WriteDone};

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const TOTAL: u64 = 1 << 40;
/// How often a disk that stands still looks whether it may go on.
const STILL: Duration = Duration::from_millis(5);

type Page = Box<[u8; PAGE]>;

/// Bytes of a file, all zero where there is no page.
#[derive(Default)]
struct Sparse(BTreeMap<u64, Page>);

impl Sparse {
    fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, at, piece) in pieces(offset, data) {
            self.page(page)[at..at + piece.len()].copy_from_slice(piece);
        }
    }

    fn page(&mut self, page: u64) -> &mut Page {
        self.0.entry(page).or_insert_with(|| Box::new([0; PAGE]))
    }

    fn read(&self, mut offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = offset as usize % PAGE;
            let n = (out.len() - done).min(PAGE - at);
            match self.0.get(&(offset / PAGE as u64)) {
                Some(page) => out[done..done + n].copy_from_slice(&page[at..at + n]),
                None => out[done..done + n].fill(0),
            }
            offset += n as u64;
            done += n;
        }
    }
}

/// A write by pages: the page, where in it, and the bytes.
fn pieces(mut offset: u64, mut data: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    std::iter::from_fn(move || {
        let at = offset as usize % PAGE;
        let n = data.len().min(PAGE - at);
        let (piece, rest) = data.split_at(n);
        let page = offset / PAGE as u64;
        (offset, data) = (offset + n as u64, rest);
        (n > 0).then_some((page, at, piece))
    })
}

#[derive(Default)]
struct File {
    len: u64,
    /// What reads see.
    current: Sparse,
    /// What is on media of the pages that unflushed writes touched; `None` all zero. The others are as reads see them.
    media: BTreeMap<u64, Option<Page>>,
    /// Written since, in order.
    unflushed: VecDeque<(u64, Bytes)>,
}

impl File {
    fn write(&mut self, mut offset: u64, parts: Vec<Bytes>) {
        for part in parts {
            self.len = self.len.max(offset + part.len() as u64);
            for (page, at, piece) in pieces(offset, &part) {
                let Sparse(current) = &self.current;
                self.media.entry(page).or_insert_with(|| current.get(&page).cloned());
                self.current.page(page)[at..at + piece.len()].copy_from_slice(piece);
            }
            let len = part.len() as u64;
            self.unflushed.push_back((offset, part));
            offset += len;
        }
    }

    /// Another handle may have flushed some of them already; flushing later ones early is a disk's right.
    fn flush(&mut self, writes: usize) {
        let writes = writes.min(self.unflushed.len());
        if writes == self.unflushed.len() {
            self.unflushed.clear();
            self.media.clear();
            return;
        }
        for (offset, data) in self.unflushed.drain(..writes) {
            reach(&mut self.media, offset, &data);
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
                    reach(&mut self.media, offset, &data);
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
                    reach(&mut self.media, offset + at as u64, &data[at..at + n]);
                } else {
                    whole = false;
                }
                at += n;
            }
            hurt += u64::from(!whole);
        }
        for (page, on_media) in std::mem::take(&mut self.media) {
            match on_media {
                Some(bytes) => self.current.0.insert(page, bytes),
                None => self.current.0.remove(&page),
            };
        }
        hurt
    }

    /// Flips one bit of a page of which nothing is on its way. False if there is none, or it is all zero.
    fn rot(&mut self, rng: &mut SmallRng) -> bool {
        let Some(&last) = self.current.0.keys().next_back() else { return false };
        let from = rng.random_range(0..=last);
        let Some((page, bytes)) = self.current.0.range_mut(from..).next() else { return false };
        if self.media.contains_key(page) || bytes.iter().all(|byte| *byte == 0) {
            return false;
        }
        let bit = rng.random_range(0..PAGE * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        true
    }
}

/// Bytes come to media, in pages that are listed there already.
fn reach(media: &mut BTreeMap<u64, Option<Page>>, offset: u64, data: &[u8]) {
    for (page, at, piece) in pieces(offset, data) {
        let bytes = media.entry(page).or_default().get_or_insert_with(|| Box::new([0; PAGE]));
        bytes[at..at + piece.len()].copy_from_slice(piece);
    }
}

/// How a disk behaves, changeable while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Shortest time of a flush.
    pub flush_min: Duration,
    /// Longest time of a flush.
    pub flush_max: Duration,
    /// Of a thousand flushes and reads, so many take up to [`Habits::stall_max`].
    pub stalls: u32,
    /// How long a stall takes at the most.
    pub stall_max: Duration,
    /// Everything fails with EIO.
    pub fails: bool,
    /// Nothing that needs room can be written: ENOSPC.
    pub full: bool,
    /// Nothing comes to an end, until it goes on.
    pub still: bool,
    /// Flushes are acknowledged but not done: to check that the laws notice.
    pub lies: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Habits {
            flush_min: Duration::from_micros(50),
            flush_max: Duration::from_millis(3),
            stalls: 0,
            stall_max: Duration::ZERO,
            fails: false,
            full: false,
            still: false,
            lies: false,
        }
    }
}

/// What a disk did to its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hurt {
    /// Unflushed writes lost or torn by crashes.
    pub writes: u64,
    /// Reads, writes and flushes that failed with EIO.
    pub failed: u64,
    /// Calls that found no room.
    pub full: u64,
    /// Reads and flushes that stalled.
    pub stalled: u64,
    /// Bits flipped at rest.
    pub flipped: u64,
}

struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<File>>>,
    rng: SmallRng,
    habits: Habits,
    hurt: Hurt,
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
        SimDisk(Arc::new(Mutex::new(State { files: BTreeMap::new(), rng, habits, hurt: Hurt::default() })))
    }

    /// Power is cut: call while the node is down.
    pub fn crash(&self) {
        let state = &mut *locked(&self.0);
        for file in state.files.values() {
            state.hurt.writes += locked(file).crash(&mut state.rng);
        }
    }

    /// A new, empty disk in its place: call while the node is down.
    pub fn wipe(&self) {
        locked(&self.0).files.clear();
    }

    /// What it did to its node so far.
    pub fn hurt(&self) -> Hurt {
        locked(&self.0).hurt
    }

    /// How it behaves.
    pub fn habits(&self) -> Habits {
        locked(&self.0).habits
    }

    /// Changes how it behaves.
    pub fn behave(&self, habits: Habits) {
        locked(&self.0).habits = habits;
    }

    /// Flips a bit of some file below a folder, if there is one that holds anything.
    pub fn rot(&self, folder: &Path) -> bool {
        let state = &mut *locked(&self.0);
        let files: Vec<_> = state.files.iter().filter(|(path, _)| path.starts_with(folder)).collect();
        if files.is_empty() {
            return false;
        }
        let (_, file) = files[state.rng.random_range(0..files.len())];
        let flipped = locked(file).rot(&mut state.rng);
        state.hurt.flipped += u64::from(flipped);
        flipped
    }

    /// Waits while the disk stands still, then for `(min, max)` or a stall; then it may fail.
    async fn turn(&self, (min, max): (Duration, Duration)) -> io::Result<()> {
        while locked(&self.0).habits.still {
            tokio::time::sleep(STILL).await;
        }
        let wait = {
            let state = &mut *locked(&self.0);
            let habits = state.habits;
            match habits.stalls > 0 && state.rng.random_ratio(habits.stalls.min(1000), 1000) {
                true => {
                    state.hurt.stalled += 1;
                    state.rng.random_range(min..=habits.stall_max.max(min))
                }
                false if max.is_zero() => Duration::ZERO,
                false => state.rng.random_range(min..=max),
            }
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.works()
    }

    fn flushes(&self) -> (Duration, Duration) {
        let habits = self.habits();
        (habits.flush_min, habits.flush_max)
    }

    fn works(&self) -> io::Result<()> {
        let state = &mut *locked(&self.0);
        if state.habits.fails {
            state.hurt.failed += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn has_room(&self) -> io::Result<()> {
        let state = &mut *locked(&self.0);
        if state.habits.full {
            state.hurt.full += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }
}

const AT_ONCE: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

#[async_trait::async_trait]
impl Disk for SimDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.turn(AT_ONCE).await?;
        let known = locked(&self.0).files.get(path).cloned();
        let file = match (known, mode) {
            (Some(file), _) => file,
            (None, OpenMode::Create { .. } | OpenMode::Reserve { .. }) => {
                self.has_room()?;
                let file = Arc::<Mutex<File>>::default();
                locked(&self.0).files.insert(path.to_path_buf(), file.clone());
                file
            }
            (None, _) => return Err(missing(path)),
        };
        if let Some(len) = mode.makes()
            && locked(&file).len < len
        {
            self.has_room()?;
            locked(&file).len = len;
        }
        Ok(Arc::new(SimFile { disk: self.clone(), file, queue: Arc::default() }))
    }

    async fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.works()?;
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
        self.works()
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.turn(AT_ONCE).await?;
        let mut state = locked(&self.0);
        let file = state.files.remove(from).ok_or_else(|| missing(from))?;
        state.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.turn(AT_ONCE).await?;
        locked(&self.0).files.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    async fn read_small(&self, path: &Path) -> io::Result<Bytes> {
        self.turn(AT_ONCE).await?;
        let file = locked(&self.0).files.get(path).cloned().ok_or_else(|| missing(path))?;
        let file = locked(&file);
        let mut out = vec![0; file.len as usize];
        file.current.read(0, &mut out);
        Ok(out.into())
    }

    async fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.turn(self.flushes()).await?;
        self.has_room()?;
        let mut file = File { len: bytes.len() as u64, ..File::default() };
        file.current.write(0, bytes);
        locked(&self.0).files.insert(path.to_path_buf(), Arc::new(Mutex::new(file)));
        Ok(())
    }

    async fn space(&self) -> io::Result<Space> {
        self.works()?;
        Ok(Space { total_bytes: TOTAL, free_bytes: if self.habits().full { 0 } else { TOTAL / 2 } })
    }
}

/// Durable writes that wait, to be told in order.
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
                // What a failed flush did not bring to media stays in the file, as any crash may take it.
                let flushed = disk.turn(disk.flushes()).await;
                if flushed.is_ok() && !disk.habits().lies {
                    locked(&file).flush(writes);
                }
                // They stay queued until told, so that a newcomer does not start a second flusher.
                for at in 0..served {
                    let done = std::mem::replace(&mut locked(&queue)[at], Box::new(|_| ()));
                    done(match &flushed {
                        Ok(()) => Ok(()),
                        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                    });
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
        self.disk.turn(AT_ONCE).await?;
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
        if let Err(error) = self.disk.works() {
            return done(Err(error));
        }
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
        self.disk.turn(AT_ONCE).await?;
        let zeroes = Bytes::from(vec![0; len as usize]);
        locked(&self.file).write(offset, vec![zeroes]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "raft/segment";

    async fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
        disk.open(Path::new(PATH), OpenMode::Create { len: 1 << 16 }).await.unwrap()
    }

    fn filled(byte: u8, len: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![byte; len])]
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_takes_any_subset_of_sectors_but_nothing_that_was_flushed() {
        let (mut mixed, mut reordered) = (0, 0);
        for seed in 0..64 {
            let disk = SimDisk::new(seed, Habits::default());
            let open = file(&disk).await;
            weft_node::parts::write_durable(&*open, 100, filled(1, 5000)).await.unwrap();
            open.write(100, filled(2, 5000), Box::new(|done| done.unwrap()));
            open.write(20_000, filled(3, 700), Box::new(|done| done.unwrap()));
            assert_eq!(open.read(100, 5000).await.unwrap(), vec![2; 5000], "reads see it at once");
            disk.crash();
            let left = file(&disk).await.read(0, 1 << 16).await.unwrap();
            let old = left[100..5100].iter().filter(|byte| **byte == 1).count();
            let new = left[100..5100].iter().filter(|byte| **byte == 2).count();
            assert_eq!((old + new, left[99], left[5100]), (5000, 0, 0));
            for sector in left[512..5100 / 512 * 512].chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is old or new");
            }
            mixed += usize::from(old > 0 && new > 0);
            reordered += usize::from(new == 0 && left[20_000..20_700].contains(&3));
            assert!(disk.hurt().writes <= 2);
        }
        assert!(mixed > 5, "{mixed} of 64 are torn");
        assert!(reordered > 0, "a later write stays without an earlier one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_that_failed_promises_nothing_and_one_after_it_everything() {
        let disk = SimDisk::new(1, Habits::default());
        let open = file(&disk).await;
        disk.behave(Habits { fails: true, ..Habits::default() });
        let failed = weft_node::parts::write_durable(&*open, 0, filled(7, 4096)).await;
        assert_eq!(failed.unwrap_err().to_string(), io::Error::from_raw_os_error(libc::EIO).to_string());
        assert!(open.read(0, 1).await.is_err() && disk.space().await.is_err());
        disk.behave(Habits::default());
        open.sync().await.unwrap();
        disk.crash();
        assert_eq!(file(&disk).await.read(0, 4096).await.unwrap(), vec![7; 4096]);
        assert_eq!(disk.hurt().failed, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_takes_what_needs_no_room() {
        let disk = SimDisk::new(1, Habits::default());
        let open = file(&disk).await;
        disk.behave(Habits { full: true, ..Habits::default() });
        let refused = disk.open(Path::new("chunks/1"), OpenMode::Create { len: 4096 }).await.err();
        assert_eq!(refused.and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
        assert!(disk.write_small(Path::new("map"), b"x").await.is_err());
        assert_eq!(disk.space().await.unwrap().free_bytes, 0);
        weft_node::parts::write_durable(&*open, 0, filled(7, 4096)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_stands_still_goes_on_later() {
        let disk = SimDisk::new(1, Habits::default());
        let open = file(&disk).await;
        disk.behave(Habits { still: true, ..Habits::default() });
        let write = weft_node::parts::write_durable(&*open, 0, filled(7, 4096));
        tokio::pin!(write);
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut write).await.is_err());
        disk.behave(Habits::default());
        write.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn rot_flips_one_bit_of_what_is_on_media() {
        let disk = SimDisk::new(1, Habits::default());
        let open = file(&disk).await;
        assert!(!disk.rot(Path::new("raft")), "there is nothing yet");
        open.write(0, filled(7, 4096), Box::new(|done| done.unwrap()));
        assert!(!disk.rot(Path::new("raft")), "it is on its way");
        open.sync().await.unwrap();
        assert!(!disk.rot(Path::new("chunks")) && disk.rot(Path::new("raft")));
        let left = open.read(0, 4096).await.unwrap();
        assert_eq!(left.iter().map(|byte| (byte ^ 7).count_ones()).sum::<u32>(), 1);
        assert_eq!(disk.hurt().flipped, 1);
    }
}
