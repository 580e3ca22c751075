//! A whole copy in place of a damaged one.

use super::super::super::format::FIRST_RECORD;
use super::*;

async fn place(store: &Store, counter: u64) -> Place {
    store.lies(key(counter)).await.unwrap().unwrap().0
}

/// Flips a bit in the data of a chunk.
async fn hurt(mem: &MemDisk, store: &Store, counter: u64) -> Place {
    let place = place(store, counter).await;
    let path = segment::path(Path::new("chunks/segments"), place.segment);
    mem.rot(&path, place.offset as usize + head_len(place.len) + 7, 1);
    assert!(matches!(store.reread(key(counter)).await, Err(Refusal::BadSum { .. })));
    place
}

#[tokio::test]
async fn the_new_copy_is_read_at_once_and_after_any_start() {
    let (mem, disk) = mem();
    let root = tempfile::tempdir().unwrap();
    let indexes = SledIndexes::new(root.path(), 16 << 20);
    let store = open(&disk, &indexes).await.unwrap();
    for counter in 0..20 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    let damaged = hurt(&mem, &store, 4).await;
    assert_eq!(store.replace(damaged, chunk(4, 9000)).await, Ok(true));
    assert_eq!(read(&store, 4).await.unwrap(), bytes(4, 9000));
    assert_eq!(store.reread(key(4)).await, Ok(9000));
    assert_ne!(place(&store, 4).await, damaged);
    assert_eq!(store.replace(damaged, chunk(4, 9000)).await, Ok(false), "somebody else was faster");
    assert_eq!((store.facts().chunks, store.facts().chunk_bytes), (20, 20 * 9000), "one copy in two places is one");
    let now = place(&store, 4).await;
    store.shutdown().await;
    drop(store);

    for what in ["as it was left", "crashed", "without its index"] {
        if what == "without its index" {
            indexes.wipe(Path::new("chunks/index")).await.unwrap();
        }
        mem.crash(3);
        let store = open(&disk, &indexes).await.unwrap();
        assert_eq!(place(&store, 4).await, now, "{what}");
        assert_eq!(store.reread(key(4)).await, Ok(9000), "{what}");
        assert_eq!(store.facts().chunks, 20, "{what}");
        store.shutdown().await;
    }
    let store = open(&disk, &indexes).await.unwrap();
    assert_eq!(store.delete(key(4)).await, Ok(true));
    drop(store);
    indexes.wipe(Path::new("chunks/index")).await.unwrap();
    let store = open(&disk, &indexes).await.unwrap();
    assert!(!store.has(key(4)).unwrap(), "neither copy comes back");
    assert_eq!(store.facts().chunks, 19);
}

/// Whatever a crash leaves of the new copy, and however far back the index falls, the chunk is there: whole, or
/// damaged and to be healed again.
#[tokio::test(start_paused = true)]
async fn a_crash_in_between_leaves_one_of_the_two() {
    let (mut new, mut old) = (0, 0);
    for seed in 0..60 {
        let (mem, disk) = mem();
        let indexes = Forgetful::default();
        let store = Arc::new(open(&disk, &indexes).await.unwrap());
        for counter in 0..20 {
            store.put(chunk(counter, 9000)).await.unwrap();
        }
        let damaged = hurt(&mem, &store, 4).await;
        // Now and then it was answered, and only the index falls back.
        let answered = seed % 3 == 0;
        mem.hold(!answered);
        let healing = tokio::spawn({
            let store = store.clone();
            async move { store.replace(damaged, chunk(4, 9000)).await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(healing.is_finished(), answered);
        healing.abort();
        drop((healing, store));
        mem.crash(seed);
        mem.hold(false);
        indexes.crash(seed as usize);
        let store = open(&disk, &indexes).await.unwrap();
        if place(&store, 4).await == damaged {
            assert!(!answered, "what was answered is in force");
            old += 1;
            assert_eq!(store.replace(damaged, chunk(4, 9000)).await, Ok(true));
        } else {
            new += 1;
        }
        for counter in 0..20 {
            assert_eq!(store.reread(key(counter)).await, Ok(9000), "seed {seed}: {counter}");
        }
        assert_eq!(store.facts().chunks, 20);
    }
    assert!(new >= 20 && old > 0, "{new} {old}");
}

#[tokio::test]
async fn what_was_deleted_meanwhile_is_not_brought_back() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    store.put(chunk(1, 9000)).await.unwrap();
    let damaged = hurt(&mem, &store, 1).await;
    store.delete(key(1)).await.unwrap();
    assert_eq!(store.replace(damaged, chunk(1, 9000)).await, Ok(false));
    assert!(!store.has(key(1)).unwrap());
    store.put(chunk(2, 9000)).await.unwrap();
    let damaged = hurt(&mem, &store, 2).await;
    let short = store.replace(damaged, chunk(2, 8000)).await;
    assert!(matches!(short, Err(Refusal::Invalid { .. })), "{short:?}");
}

/// The segment of the damaged copy may go, that of the new one only after it: else a rebuild would bring the old back.
#[tokio::test]
async fn segments_are_given_up_in_order() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    // A chunk that stays keeps the damaged copy's segment.
    store.put(chunk(1, 9000)).await.unwrap();
    store.put(chunk(0, 9000)).await.unwrap();
    let damaged = hurt(&mem, &store, 1).await;
    for counter in 100..130 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    assert_eq!(store.replace(damaged, chunk(1, 9000)).await, Ok(true));
    for counter in 130..160 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    store.delete(key(1)).await.unwrap();
    for counter in 100..160 {
        store.delete(key(counter)).await.unwrap();
    }
    for counter in 200..230 {
        store.put(chunk(counter, 9000)).await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(store);
    // The index in memory is gone: everything comes from the segments.
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    assert!(!store.has(key(1)).unwrap());
    assert_eq!(store.facts().chunks, 31);
    assert_eq!(read(&store, 0).await.unwrap(), bytes(0, 9000));
}

/// A sealed segment whose table is damaged is read record by record and sealed anew, and the index agrees with it for
/// good.
#[tokio::test]
async fn a_damaged_table_is_written_again() {
    let (mem, disk) = mem();
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    for counter in 0..30 {
        store.put(chunk(counter, 9000)).await.unwrap();
    }
    tokio::task::yield_now().await;
    drop(store);
    let path = segment_paths(&mem).await.remove(0);
    let header = SegmentHeader::decode(&mem.bytes(&path)[..FIRST_RECORD as usize]);
    let Found::One(header) = header else { panic!("{header:?}") };
    let file = disk.open(&path, OpenMode::Read).await.unwrap();
    let (trailer, _) = tend::read_table(&*file, &header).await.unwrap().expect("sealed");
    mem.rot(&path, trailer.table_at as usize + 3, 1);
    assert_eq!(tend::read_table(&*file, &header).await.unwrap(), None);
    let store = open(&disk, &MemoryIndexes).await.unwrap();
    for counter in 0..30 {
        assert_eq!(read(&store, counter).await.unwrap(), bytes(counter, 9000));
    }
    tokio::task::yield_now().await;
    let file = disk.open(&path, OpenMode::Read).await.unwrap();
    assert!(tend::read_table(&*file, &header).await.unwrap().is_some());
}
