use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use weft_core::checksum::block_sums;

use super::*;
use crate::chunk::index::{Covered, IndexError, MemoryIndexes, SledIndexes, memory::MemoryIndex};
use crate::disk::MemDisk;

mod replace;

const SEGMENT: u64 = 128 << 10;

/// A row of numbers, different in each life of a store.
struct Row(AtomicU64);

impl Dice for Row {
    fn roll(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

fn settings() -> StoreSettings {
    StoreSettings { segment_bytes: SEGMENT, reserve_bytes: 0, ..StoreSettings::default() }
}

async fn open(disk: &Arc<dyn Disk>, indexes: &dyn ChunkIndexes) -> Result<Store, OpenError> {
    static LIVES: AtomicU64 = AtomicU64::new(1);
    let dice = Arc::new(Row(AtomicU64::new(LIVES.fetch_add(1 << 20, Ordering::Relaxed))));
    Store::open(disk.clone(), indexes, dice, settings()).await
}

fn mem() -> (MemDisk, Arc<dyn Disk>) {
    let disk = MemDisk::new();
    (disk.clone(), Arc::new(disk))
}

fn key(counter: u64) -> ChunkKey {
    let chunk = ChunkId { client: ClientId(7), counter };
    ChunkKey { pg: PgId((counter % 3) as u32), space: SpaceId(2), chunk }
}

/// The bytes of a chunk, a function of its number.
fn bytes(counter: u64, len: usize) -> Bytes {
    (0..len).map(|at| (at as u64 ^ counter.wrapping_mul(31)) as u8).collect::<Vec<_>>().into()
}

fn chunk(counter: u64, len: usize) -> NewChunk {
    let data = bytes(counter, len);
    let sums = block_sums(key(counter).chunk, 0, &data);
    NewChunk { key: key(counter), uploader: ClientId(70), data, sums }
}

async fn read(store: &Store, counter: u64) -> Result<Bytes, Refusal> {
    let reader = store.reader(key(counter)).await?;
    let blocks = reader.read(0, reader.chunk_len()).await?;
    assert_eq!(blocks.sums, block_sums(key(counter).chunk, 0, &blocks.data));
    Ok(blocks.data)
}

async fn segment_paths(disk: &MemDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new("chunks/segments")).await.unwrap();
    names.iter().map(|name| Path::new("chunks/segments").join(name)).collect()
}

#[tokio::test]
async fn chunks_come_back_whole_and_in_parts() {
    let (_, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    for (counter, len) in [(1, 1), (2, 4095), (3, 4096), (4, 4097), (5, 70_001)] {
        store.put(chunk(counter, len)).await.unwrap();
        assert_eq!(read(&store, counter).await.unwrap(), bytes(counter, len));
    }
    let reader = store.reader(key(5)).await.unwrap();
    assert_eq!((reader.chunk_len(), reader.uploader()), (70_001, ClientId(70)));
    let part = reader.read(5000, 9000).await.unwrap();
    assert_eq!((part.offset, &part.data[..]), (4096, &bytes(5, 70_001)[4096..12288]));
    let tail = reader.read(69_999, u32::MAX).await.unwrap();
    assert_eq!((tail.offset, &tail.data[..]), (69_632, &bytes(5, 70_001)[69_632..]));
    assert_eq!(reader.read(80_000, 90_000).await.unwrap().data, Bytes::new());
    assert_eq!(store.reader(key(6)).await.err(), Some(Refusal::NoChunk));
    let facts = store.facts();
    assert_eq!((facts.chunks, facts.chunk_bytes), (5, 1 + 4095 + 4096 + 4097 + 70_001));
}

#[tokio::test]
async fn the_same_again_is_fine_and_other_bytes_are_not() {
    let (_, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    let (a, b) = tokio::join!(store.put(chunk(1, 5000)), store.put(chunk(1, 5000)));
    assert_eq!((a, b), (Ok(()), Ok(())));
    store.put(chunk(1, 5000)).await.unwrap();
    assert_eq!(store.facts().chunks, 1);
    let mut other = chunk(1, 5000);
    other.data = bytes(2, 5000);
    other.sums = block_sums(key(1).chunk, 0, &other.data);
    assert!(matches!(store.put(other).await, Err(Refusal::Invalid { .. })));
    assert!(matches!(store.put(chunk(1, 4999)).await, Err(Refusal::Invalid { .. })));
    assert!(matches!(store.put(chunk(9, 0)).await, Err(Refusal::Invalid { .. })));
    let big = store.put(chunk(9, 200 << 10)).await;
    assert!(matches!(big, Err(Refusal::TooLarge { .. })), "{big:?}");
    assert_eq!(read(&store, 1).await.unwrap(), bytes(1, 5000));
}

#[tokio::test]
async fn lists_page_by_page_in_order() {
    let (_, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    for counter in (0..30).rev() {
        store.put(chunk(counter, 10 + counter as usize)).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(PgId(1), after, 4).unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some((last.space, last.chunk));
        seen.extend(page.iter().map(|(key, len)| (key.chunk.counter, *len)));
    }
    let expected: Vec<_> = (0..30).filter(|n| n % 3 == 1).map(|n| (n, 10 + n as u32)).collect();
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_the_media_and_a_crash_loses_only_the_unanswered() {
    let (mem, disk) = mem();
    let store = Arc::new(open(&disk, &MemoryIndexes).await.unwrap());
    store.put(chunk(1, 9000)).await.unwrap();
    mem.hold(true);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.put(chunk(2, 9000)).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished());
    assert!(!store.has(key(2)).unwrap(), "not to be seen before it is on media");
    waiting.abort();
    drop(store);
    for seed in 0..20 {
        mem.crash(seed);
        let store = open(&disk, &MemoryIndexes).await.unwrap();
        assert_eq!(read(&store, 1).await.unwrap(), bytes(1, 9000));
        match store.has(key(2)).unwrap() {
            // All its sectors happened to be written: then it is whole.
            true => assert_eq!(read(&store, 2).await.unwrap(), bytes(2, 9000)),
            false => assert_eq!(store.reader(key(2)).await.err(), Some(Refusal::NoChunk)),
        }
        store.put(chunk(2, 9000)).await.unwrap();
        assert_eq!(read(&store, 2).await.unwrap(), bytes(2, 9000));
        store.put(chunk(100 + seed, 9000)).await.unwrap();
    }
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    assert_eq!(store.facts().chunks, 22);
}

#[tokio::test]
async fn full_segments_are_sealed_and_an_index_is_rebuilt_from_their_tables() {
    let (mem, disk) = mem();
    let root = tempfile::tempdir().unwrap();
    let indexes = SledIndexes::new(root.path(), 16 << 20);
    let store = open(&disk, &indexes).await.unwrap();
    for counter in 0..60 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    assert!(segment_paths(&mem).await.len() >= 6);
    store.delete(key(3)).await.unwrap();
    let facts = store.facts();
    store.shutdown().await;
    drop(store);

    let check = async |what: &str| {
        let store = open(&disk, &indexes).await.unwrap();
        assert_eq!((store.facts().chunks, store.facts().chunk_bytes), (facts.chunks, facts.chunk_bytes), "{what}");
        for counter in (0..60).filter(|n| *n != 3) {
            assert_eq!(read(&store, counter).await.unwrap(), bytes(counter, 9000), "{what}: {counter}");
        }
        assert!(!store.has(key(3)).unwrap(), "{what}");
        store.shutdown().await;
    };
    check("as it was left").await;
    indexes.wipe(Path::new("chunks/index")).await.unwrap();
    check("missing").await;
    for entry in std::fs::read_dir(root.path().join("chunks/index")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(&path, b"garbage").unwrap();
        }
    }
    check("garbage").await;
    mem.crash(1);
    check("after a crash").await;
    disk.write_small(Path::new("chunks/index-untrusted"), b"").await.unwrap();
    check("its opening did not end").await;
}

/// An index that silently forgot some chunks and made up others is found out by its digest.
#[tokio::test]
async fn a_lying_index_is_rebuilt() {
    struct Liar(Arc<MemoryIndex>);
    #[async_trait::async_trait]
    impl ChunkIndexes for Liar {
        async fn open(&self, _: &Path) -> Result<Arc<dyn ChunkIndex>, IndexError> {
            Ok(self.0.clone())
        }
        async fn wipe(&self, _: &Path) -> Result<(), IndexError> {
            let mut changes = Vec::new();
            self.0.scan(&mut |key, _| changes.push((key, None)))?;
            self.0.write(&changes, &[])?;
            self.0.covered()?.iter().try_for_each(|covered| self.0.forget(covered.segment))
        }
    }
    let (_, disk) = mem();
    let liar = Liar(Arc::default());
    let store = open(&disk, &liar).await.unwrap();
    for counter in 0..40 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    store.shutdown().await;
    drop(store);
    let place = liar.0.get(key(9)).unwrap();
    liar.0.write(&[(key(5), None), (key(77), place)], &[]).unwrap();
    let store = open(&disk, &liar).await.unwrap();
    assert_eq!(read(&store, 5).await.unwrap(), bytes(5, 9000));
    assert!(!store.has(key(77)).unwrap());
    assert_eq!(store.facts().chunks, 40);
}

#[tokio::test]
async fn rot_is_noticed_where_it_is_and_nowhere_else() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    store.put(chunk(1, 20_000)).await.unwrap();
    store.put(chunk(2, 20_000)).await.unwrap();
    let path = &segment_paths(&mem).await[0];
    let data_at = super::super::format::FIRST_RECORD as usize + head_len(20_000);
    mem.rot(path, data_at + 5000, 1);
    let reader = store.reader(key(1)).await.unwrap();
    assert!(matches!(reader.read(4096, 8192).await, Err(Refusal::BadSum { .. })));
    assert_eq!(reader.read(8192, 20_000).await.unwrap().data, bytes(1, 20_000)[8192..]);
    assert_eq!(store.bad_sums(), 1);
    assert!(matches!(store.put(chunk(1, 20_000)).await, Err(Refusal::BadSum { .. })), "not said again of rot");
    assert_eq!(read(&store, 2).await.unwrap(), bytes(2, 20_000));

    // A damaged header in the middle hides no record behind it from the next start.
    mem.rot(path, super::super::format::FIRST_RECORD as usize + 30, 1);
    drop(store);
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    assert_eq!(store.reader(key(1)).await.err(), Some(Refusal::NoChunk));
    assert_eq!(read(&store, 2).await.unwrap(), bytes(2, 20_000));
    store.put(chunk(3, 20_000)).await.unwrap();
    assert_eq!(read(&store, 2).await.unwrap(), bytes(2, 20_000));
}

#[tokio::test]
async fn void_segments_are_used_again_and_their_old_records_stay_away() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    let mut most = 0;
    for round in 0..30u64 {
        for n in 0..12 {
            store.put(chunk(round * 100 + n, 9000)).await.unwrap();
        }
        for n in 0..12 {
            assert_eq!(store.delete(key(round * 100 + n)).await, Ok(true));
            assert_eq!(store.delete(key(round * 100 + n)).await, Ok(false));
        }
        store.put(chunk(1_000_000, 9000)).await.unwrap();
        tokio::task::yield_now().await;
        most = most.max(segment_paths(&mem).await.len());
    }
    assert!(most < 12, "{most} segments for one that would do");
    assert_eq!(store.facts().chunks, 1);
    drop(store);
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    assert_eq!(store.facts().chunks, 1);
    assert_eq!(read(&store, 1_000_000).await.unwrap(), bytes(1_000_000, 9000));
    assert_eq!(store.reader(key(2901)).await.err(), Some(Refusal::NoChunk));
}

/// A disk with a bounded number of bytes in segments.
struct Small {
    disk: MemDisk,
    free: AtomicU64,
}

#[async_trait::async_trait]
impl Disk for Small {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(len) = mode.makes() {
            let free = self.free.load(Ordering::Relaxed);
            if free < len {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.free.store(free - len, Ordering::Relaxed);
        }
        self.disk.open(path, mode).await
    }
    async fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.disk.list(folder).await
    }
    async fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.make_folder(folder).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path).await
    }
    async fn read_small(&self, path: &Path) -> io::Result<Bytes> {
        self.disk.read_small(path).await
    }
    async fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_small(path, bytes).await
    }
    async fn space(&self) -> io::Result<Space> {
        Ok(Space { total_bytes: 1 << 30, free_bytes: self.free.load(Ordering::Relaxed) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_puts_serves_reads_and_recovers() {
    let small = Arc::new(Small { disk: MemDisk::new(), free: AtomicU64::new(3 * SEGMENT + 100) });
    let disk: Arc<dyn Disk> = small.clone();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    assert!(!store.facts().full);
    let mut stored = 0;
    let refused = loop {
        match store.put(chunk(stored, 9000)).await {
            Ok(()) => stored += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refused, Refusal::NoSpace { .. }), "{refused:?}");
    assert!(stored >= 24, "{stored}");
    assert!(store.facts().full);
    for counter in 0..stored {
        assert_eq!(read(&store, counter).await.unwrap(), bytes(counter, 9000));
    }
    small.free.store(10 * SEGMENT, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!store.facts().full);
    store.put(chunk(1000, 9000)).await.unwrap();
    assert_eq!(store.facts().space.total_bytes, 1 << 30);
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_told_and_nothing_more_is_taken() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    store.put(chunk(1, 9000)).await.unwrap();
    mem.fail_writes(Some(io::ErrorKind::Other));
    assert!(matches!(store.put(chunk(2, 9000)).await, Err(Refusal::DiskFailed { .. })));
    mem.fail_writes(None);
    assert!(matches!(store.put(chunk(3, 9000)).await, Err(Refusal::DiskFailed { .. })), "not before a restart");
    assert!(store.facts().full && store.facts().failed.is_some());
    assert_eq!(read(&store, 1).await.unwrap(), bytes(1, 9000));
    drop(store);
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    store.put(chunk(3, 9000)).await.unwrap();
    assert_eq!(read(&store, 1).await.unwrap(), bytes(1, 9000));
}

#[tokio::test]
async fn a_segment_of_a_later_version_is_not_touched() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    store.put(chunk(1, 9000)).await.unwrap();
    store.shutdown().await;
    drop(store);
    let path = segment_paths(&mem).await.remove(0);
    let mut block = mem.bytes(&path)[..48].to_vec();
    block[5] = 9;
    let crc = crc32fast::hash(&block[..44]);
    block[44..].copy_from_slice(&crc.to_be_bytes());
    let file = disk.open(&path, OpenMode::Write).await.unwrap();
    crate::parts::write_durable(&*file, 0, vec![block.into()]).await.unwrap();
    let refused = open(&disk, &MemoryIndexes).await.err();
    assert!(matches!(refused, Some(OpenError::Newer { version: 9, .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_takes_deletions_and_then_chunks_again() {
    // Three segments for chunks and what is kept free.
    let small = Arc::new(Small { disk: MemDisk::new(), free: AtomicU64::new(4 * SEGMENT) });
    let disk: Arc<dyn Disk> = small.clone();
    let dice = Arc::new(Row(AtomicU64::new(3)));
    let reserving = StoreSettings { reserve_bytes: SEGMENT, ..settings() };
    let store = Store::open(disk, &MemoryIndexes, dice, reserving).await.unwrap();
    let mut stored = 0;
    // Until not the smallest chunk fits anywhere.
    for len in [9000, 1] {
        while store.put(chunk(stored, len)).await.is_ok() {
            stored += 1;
        }
    }
    assert!(matches!(store.put(chunk(5000, 1)).await, Err(Refusal::NoSpace { .. })));
    let keys: Vec<ChunkKey> = (0..stored).map(key).collect();
    assert_eq!(store.delete(keys[0]).await, Ok(true));
    assert!(matches!(store.put(chunk(5000, 1)).await, Err(Refusal::NoSpace { .. })), "that room is for deletions");
    assert_eq!(store.delete_many(&keys).await, Ok(stored - 1));
    assert_eq!(store.delete_many(&keys).await, Ok(0));
    small.free.store(3 * SEGMENT, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.put(chunk(6000, 9000)).await.unwrap();
    assert_eq!(store.facts().chunks, 1);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_store_keeps_one_spare_segment_and_what_is_live() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let at_first = segment_paths(&mem).await.len();
    for counter in 0..100 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    assert!(segment_paths(&mem).await.len() > 8);
    let keys: Vec<ChunkKey> = (0..100).map(key).collect();
    let before = store.given_back();
    assert_eq!(store.delete_many(&keys).await, Ok(100));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(segment_paths(&mem).await.len(), at_first);
    let (deleted, given) = store.given_back();
    assert_eq!(deleted - before.0, 100);
    assert!(given - before.1 >= 8 * SEGMENT, "{given}");
    // What little is live keeps its segments, and nothing else does.
    for counter in 200..300 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    let keys: Vec<ChunkKey> = (200..300).filter(|n| n % 10 != 0).map(key).collect();
    assert_eq!(store.delete_many(&keys).await, Ok(90));
    let before = store.given_back().1;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(store.given_back().1 - before >= 90 * 8192, "holes are punched though the disk is not full");
    drop(store);
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    for counter in (200..300).filter(|n| n % 10 == 0) {
        assert_eq!(read(&store, counter).await.unwrap(), bytes(counter, 9000));
    }
    assert_eq!(store.facts().chunks, 10);
}

#[tokio::test]
async fn many_deletions_cost_few_pages() {
    let (mem, disk) = mem();
    let store = Store::open(
        disk.clone(),
        &MemoryIndexes,
        Arc::new(Row(AtomicU64::new(9))),
        StoreSettings { segment_bytes: 16 << 20, ..settings() },
    );
    let store = store.await.unwrap();
    for counter in 0..1000 {
        store.put(chunk(counter, 10)).await.unwrap();
    }
    let used = |store: &Store| store.inner.state.lock().active.as_ref().map_or(0, |active| active.at);
    let before = used(&store);
    let keys: Vec<ChunkKey> = (0..1000).map(key).collect();
    assert_eq!(store.delete_many(&keys).await, Ok(1000));
    assert!(used(&store) - before <= 7 * 8192, "{} bytes for 1000 deletions", used(&store) - before);
    drop(store);
    mem.crash(5);
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    assert_eq!(store.facts().chunks, 0, "they survive a crash and the loss of the index");
}

/// A chunk is deleted, its segment recycled, and it is put again; then the index is thrown back to before all that, and
/// names a place that other records have taken.
#[tokio::test(start_paused = true)]
async fn an_index_from_before_a_recycling_loses_nothing() {
    let (mem, disk) = mem();
    let indexes = Forgetful::default();
    let store = open(&disk, &indexes).await.unwrap();
    for counter in 0..30 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    let old = indexes.batches.lock().len();
    let keys: Vec<ChunkKey> = (0..30).map(key).collect();
    store.delete_many(&keys).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for counter in (0..30).rev() {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    drop(store);
    mem.crash(3);
    indexes.batches.lock().truncate(old);
    for _ in 0..2 {
        let store = open(&disk, &indexes).await.unwrap();
        for counter in 0..30 {
            assert_eq!(read(&store, counter).await.unwrap(), bytes(counter, 9000), "{counter}");
        }
        store.shutdown().await;
    }
}

/// An index that a crash throws back to an earlier batch, as sled's is.
#[derive(Default)]
struct Forgetful {
    batches: Arc<Mutex<Vec<MemoryIndex>>>,
}

struct Remembering {
    now: MemoryIndex,
    batches: Arc<Mutex<Vec<MemoryIndex>>>,
}

impl Forgetful {
    fn crash(&self, keep: usize) {
        let batches = &mut *self.batches.lock();
        let keep = batches.len().saturating_sub(keep % 8);
        batches.truncate(keep);
    }
}

#[async_trait::async_trait]
impl ChunkIndexes for Forgetful {
    async fn open(&self, _: &Path) -> Result<Arc<dyn ChunkIndex>, IndexError> {
        let now = self.batches.lock().last().cloned().unwrap_or_default();
        Ok(Arc::new(Remembering { now, batches: self.batches.clone() }))
    }
    async fn wipe(&self, _: &Path) -> Result<(), IndexError> {
        self.batches.lock().clear();
        Ok(())
    }
}

impl ChunkIndex for Remembering {
    fn get(&self, key: ChunkKey) -> Result<Option<Place>, IndexError> {
        self.now.get(key)
    }
    fn write(&self, changes: &[(ChunkKey, Option<Place>)], covered: &[Covered]) -> Result<(), IndexError> {
        self.now.write(changes, covered)?;
        self.batches.lock().push(self.now.clone());
        Ok(())
    }
    fn forget(&self, segment: u64) -> Result<(), IndexError> {
        self.now.forget(segment)?;
        self.batches.lock().push(self.now.clone());
        Ok(())
    }
    fn covered(&self) -> Result<Vec<Covered>, IndexError> {
        self.now.covered()
    }
    fn list(
        &self,
        pg: PgId,
        after: Option<(SpaceId, ChunkId)>,
        limit: usize,
    ) -> Result<Vec<(ChunkKey, Place)>, IndexError> {
        self.now.list(pg, after, limit)
    }
    fn scan(&self, each: &mut dyn FnMut(ChunkKey, Place)) -> Result<(), IndexError> {
        self.now.scan(each)
    }
    fn persist(&self) -> Result<(), IndexError> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        counter: u64,
    },
    Delete {
        counter: u64,
    },
    DeleteMany {
        counters: Vec<u64>,
    },
    /// Time for segments to be sealed, punched, recycled.
    Quiet,
    Get {
        counter: u64,
    },
    Restart {
        clean: bool,
        seed: u64,
    },
    /// Some on their way when the power goes.
    CrashWithPuts {
        counters: Vec<u64>,
        land: usize,
        seed: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let counter = 0..40u64;
    let step = prop_oneof![
        8 => counter.clone().prop_map(|counter| Step::Put { counter }),
        3 => counter.clone().prop_map(|counter| Step::Delete { counter }),
        2 => proptest::collection::vec(counter.clone(), 1..30).prop_map(|counters| Step::DeleteMany { counters }),
        1 => Just(Step::Quiet),
        3 => counter.clone().prop_map(|counter| Step::Get { counter }),
        1 => (any::<bool>(), any::<u64>()).prop_map(|(clean, seed)| Step::Restart { clean, seed }),
        1 => (proptest::collection::vec(counter, 1..6), 0..6usize, any::<u64>())
            .prop_map(|(counters, land, seed)| Step::CrashWithPuts { counters, land, seed }),
    ];
    proptest::collection::vec(step, 1..80)
}

fn len_of(counter: u64) -> usize {
    1 + (counter as usize * 1777) % 30_000
}

async fn run(steps: Vec<Step>) {
    let (mem, disk) = mem();
    let indexes = Forgetful::default();
    let mut store = Arc::new(open(&disk, &indexes).await.unwrap());
    // True: here. Absent from the map: not here. False: put when the power went, so either.
    let mut model: BTreeMap<u64, bool> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put { counter } => {
                store.put(chunk(counter, len_of(counter))).await.unwrap();
                model.insert(counter, true);
            }
            Step::Delete { counter } => {
                let was = store.delete(key(counter)).await.unwrap();
                if let Some(known) = model.remove(&counter) {
                    assert!(was || !known);
                } else {
                    assert!(!was);
                }
            }
            Step::DeleteMany { counters } => {
                let keys: Vec<ChunkKey> = counters.iter().map(|counter| key(*counter)).collect();
                let was = store.delete_many(&keys).await.unwrap() as usize;
                let gone: BTreeMap<u64, bool> =
                    counters.iter().filter_map(|counter| model.remove_entry(counter)).collect();
                assert!((gone.values().filter(|known| **known).count()..=gone.len()).contains(&was));
            }
            Step::Quiet => tokio::time::sleep(Duration::from_secs(15)).await,
            Step::Get { counter } => check(&store, &mut model, counter).await,
            Step::Restart { clean, seed } => {
                if clean {
                    store.shutdown().await;
                }
                drop(store);
                if !clean {
                    mem.crash(seed);
                    indexes.crash(seed as usize);
                }
                store = Arc::new(open(&disk, &indexes).await.unwrap());
            }
            Step::CrashWithPuts { counters, land, seed } => {
                mem.hold(true);
                let mut puts = Vec::new();
                for counter in counters {
                    let store = store.clone();
                    let put = tokio::spawn(async move { store.put(chunk(counter, len_of(counter))).await });
                    puts.push((counter, put));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                for _ in 0..land {
                    mem.release();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                for (counter, put) in puts {
                    if put.is_finished() {
                        put.await.unwrap().unwrap();
                        model.insert(counter, true);
                    } else {
                        put.abort();
                        let _ = put.await;
                        model.entry(counter).or_insert(false);
                    }
                }
                drop(store);
                mem.crash(seed);
                indexes.crash(seed as usize >> 8);
                store = Arc::new(open(&disk, &indexes).await.unwrap());
            }
        }
    }
    for counter in 0..40 {
        check(&store, &mut model, counter).await;
    }
    assert_eq!(store.facts().chunks as usize, model.len());
    let mut listed = Vec::new();
    for pg in 0..3 {
        listed.extend(store.list(PgId(pg), None, 100).unwrap().into_iter().map(|(key, _)| key.chunk.counter));
    }
    listed.sort_unstable();
    assert_eq!(listed, model.keys().copied().collect::<Vec<_>>());

    // The index that a rebuild makes is the one that was kept.
    let kept: Vec<_> = (0..3).map(|pg| store.list(PgId(pg), None, 100).unwrap()).collect();
    store.shutdown().await;
    let rebuilt = open(&disk, &MemoryIndexes).await.unwrap();
    let again: Vec<_> = (0..3).map(|pg| rebuilt.list(PgId(pg), None, 100).unwrap()).collect();
    assert_eq!(kept, again);
}

async fn check(store: &Store, model: &mut BTreeMap<u64, bool>, counter: u64) {
    let found = read(store, counter).await;
    match (model.get(&counter), found) {
        (Some(_), Ok(data)) => {
            assert_eq!(data, bytes(counter, len_of(counter)));
            model.insert(counter, true);
        }
        (Some(false), Err(Refusal::NoChunk)) => {
            model.remove(&counter);
        }
        (None, Err(Refusal::NoChunk)) => {}
        (expected, found) => panic!("chunk {counter}: expected {expected:?}, found {:?}", found.map(|d| d.len())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_answered_chunks_are_there_and_no_others(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}
