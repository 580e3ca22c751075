use std::path::Path;
use std::sync::Arc;

use weft_core::ids::{ChunkId, ClientId, PgId, SpaceId};

use super::*;

fn key(pg: u32, counter: u64) -> ChunkKey {
    ChunkKey { pg: PgId(pg), space: SpaceId(1), chunk: ChunkId { client: ClientId(5), counter } }
}

fn place(offset: u64) -> Place {
    Place { segment: 3, offset, len: 9 }
}

fn exercise(index: &Arc<dyn ChunkIndex>) {
    let covered = Covered { segment: 3, generation: 77, offset: 4096 };
    index.write(&[(key(1, 1), Some(place(0)))], &[]).unwrap();
    index
        .write(&[(key(1, 2), Some(place(1))), (key(2, 1), Some(place(2))), (key(1, 9), Some(place(3)))], &[covered])
        .unwrap();
    assert_eq!(index.get(key(1, 2)).unwrap(), Some(place(1)));
    assert_eq!(index.get(key(1, 3)).unwrap(), None);
    index.write(&[(key(1, 1), None), (key(1, 2), None)], &[]).unwrap();
    index.write(&[(key(1, 4), Some(place(4)))], &[]).unwrap();
    assert_eq!(index.get(key(1, 2)).unwrap(), None);
    assert_eq!(index.covered().unwrap(), vec![covered]);

    assert_eq!(index.list(PgId(1), None, 10).unwrap(), vec![(key(1, 4), place(4)), (key(1, 9), place(3))]);
    assert_eq!(index.list(PgId(1), None, 1).unwrap(), vec![(key(1, 4), place(4))]);
    let after = Some((SpaceId(1), key(1, 4).chunk));
    assert_eq!(index.list(PgId(1), after, 10).unwrap(), vec![(key(1, 9), place(3))]);
    let last = ChunkId { client: ClientId(u64::MAX), counter: u64::MAX };
    assert_eq!(index.list(PgId(1), Some((SpaceId(u64::MAX), last)), 10).unwrap(), vec![]);
    assert_eq!(index.list(PgId(7), None, 10).unwrap(), vec![]);

    let mut seen = Vec::new();
    index.scan(&mut |key, place| seen.push((key, place))).unwrap();
    assert_eq!(seen, vec![(key(1, 4), place(4)), (key(1, 9), place(3)), (key(2, 1), place(2))]);
    index.forget(3).unwrap();
    assert_eq!(index.covered().unwrap(), vec![]);
    index.persist().unwrap();
}

#[tokio::test]
async fn memory_keeps_the_promises() {
    exercise(&MemoryIndexes.open(Path::new("index")).await.unwrap());
}

#[tokio::test]
async fn sled_keeps_the_promises_and_its_content() {
    let root = tempfile::tempdir().unwrap();
    let indexes = SledIndexes::new(root.path(), 16 << 20);
    let index = indexes.open(Path::new("index")).await.unwrap();
    exercise(&index);
    drop(index);
    let index = indexes.open(Path::new("index")).await.unwrap();
    assert_eq!(index.get(key(2, 1)).unwrap(), Some(place(2)));
    drop(index);
    indexes.wipe(Path::new("index")).await.unwrap();
    indexes.wipe(Path::new("index")).await.unwrap();
    assert_eq!(indexes.open(Path::new("index")).await.unwrap().get(key(2, 1)).unwrap(), None);
}

#[tokio::test]
async fn sled_notices_a_garbled_value() {
    let root = tempfile::tempdir().unwrap();
    let indexes = SledIndexes::new(root.path(), 16 << 20);
    let index = indexes.open(Path::new("index")).await.unwrap();
    index.write(&[(key(1, 1), Some(place(7)))], &[]).unwrap();
    index.persist().unwrap();
    drop(index);
    let db = ::sled::open(root.path().join("index")).unwrap();
    let (found, mut value) = db.iter().find(|kv| kv.as_ref().unwrap().0.starts_with(b"c")).unwrap().unwrap();
    value[15] ^= 1;
    db.insert(found, value).unwrap();
    drop(db);
    let index = indexes.open(Path::new("index")).await.unwrap();
    assert!(index.get(key(1, 1)).is_err());
    assert!(index.scan(&mut |_, _| ()).is_err());
    assert!(index.list(PgId(1), None, 3).is_err());
}
