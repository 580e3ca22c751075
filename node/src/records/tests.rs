//! One suite for all stores.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, View};

use super::fjall::FjallRecords;
use super::memory::MemoryRecords;
use super::sled::SledRecords;
use super::{RecordStore, RecordStores, collect};

const CACHE: u64 = 16 << 20;
const GROUP: GroupId = GroupId(3);

type Make = Box<dyn Fn() -> Arc<dyn RecordStores>>;

/// Each store: how to make a handle to the same records anew, as after a restart.
fn all() -> Vec<(&'static str, Make)> {
    let memory = MemoryRecords::new();
    vec![
        ("memory", Box::new(move || Arc::new(memory.clone()))),
        ("fjall", Box::new(|| Arc::new(FjallRecords::new(CACHE, 4096)))),
        ("sled", Box::new(|| Arc::new(SledRecords::new(CACHE, 4096)))),
    ]
}

fn run(test: impl AsyncFn(&str, Make, &Path)) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for (name, make) in all() {
        let folder = tempfile::tempdir().expect("a folder");
        runtime.block_on(test(name, make, &folder.path().join("records")));
    }
}

fn changes(list: &[(&str, Option<&str>)]) -> Changes {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    list.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect()
}

fn content(view: &dyn View) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    collect(view, &[], usize::MAX).expect("scan").iter().map(|(key, value)| (text(key), text(value))).collect()
}

#[test]
fn writes_are_read_in_key_order_and_removed() {
    run(async |name, make, folder| {
        let store = make().open(folder, GROUP).await.expect(name);
        store.write(&changes(&[("b", Some("2")), ("a", Some("1")), ("c\0x", Some("3"))])).expect(name);
        assert_eq!(store.get(b"a").expect(name).as_deref(), Some(&b"1"[..]));
        assert_eq!(store.get(b"x").expect(name), None);
        store.write(&changes(&[("a", None), ("b", Some("22")), ("x", Some("4"))])).expect(name);
        assert_eq!(store.get(b"a").expect(name), None);
        assert_eq!(store.get(b"x").expect(name).as_deref(), Some(&b"4"[..]));
        let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
        assert_eq!(content(&*store), [pair("b", "22"), pair("c\0x", "3"), pair("x", "4")], "{name}");
        let mut seen = Vec::new();
        let scan = store.scan(b"b", b"x", &mut |key, _| {
            seen.push(key.to_vec());
            if seen.len() == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        scan.expect(name);
        assert_eq!(seen, [b"b".to_vec()], "{name}");
        store.scan(b"x", b"b", &mut |_, _| panic!("nothing lies between")).expect(name);
    });
}

#[test]
fn a_snapshot_does_not_see_later_writes() {
    run(async |name, make, folder| {
        let store = make().open(folder, GROUP).await.expect(name);
        store.write(&changes(&[("a", Some("1")), ("b", Some("1"))])).expect(name);
        let snapshot = store.snapshot().expect(name);
        for n in 0..1000 {
            store.write(&changes(&[("a", Some("2")), ("b", None), (&format!("n{n}"), Some("x"))])).expect(name);
        }
        assert_eq!(content(&*snapshot).len(), 2, "{name}");
        assert_eq!(snapshot.get(b"a").expect(name).as_deref(), Some(&b"1"[..]), "{name}");
        assert_eq!(content(&*store).len(), 1001, "{name}");
    });
}

#[test]
fn groups_are_apart_persisted_records_are_there_again_and_wiped_ones_gone() {
    run(async |name, make, folder| {
        {
            let stores = make();
            let (one, two) = (stores.open(folder, GROUP).await.expect(name), stores.open(folder, GroupId(4)).await);
            let two = two.expect(name);
            one.write(&changes(&[("k", Some("one"))])).expect(name);
            two.write(&changes(&[("k", Some("two"))])).expect(name);
            stores.persist(one).await.expect(name);
            stores.persist(two).await.expect(name);
        }
        let stores = make();
        let one = stores.open(folder, GROUP).await.expect(name);
        assert_eq!(one.get(b"k").expect(name).as_deref(), Some(&b"one"[..]), "{name}");
        drop(one);
        stores.wipe(folder, GROUP).await.expect(name);
        let one = stores.open(folder, GROUP).await.expect(name);
        assert_eq!(content(&*one), [], "{name}");
        let two = stores.open(folder, GroupId(4)).await.expect(name);
        assert_eq!(two.get(b"k").expect(name).as_deref(), Some(&b"two"[..]), "{name}");
    });
}

/// What is cached must be what the store says, whatever the cache forgets.
#[test]
fn a_small_cache_never_lies() {
    run(async |name, make, folder| {
        let store = make().open(folder, GROUP).await.expect(name);
        let mut model = std::collections::BTreeMap::new();
        let mut state = 7u32;
        for n in 0..3000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = format!("k{}", (state >> 16) % 200);
            if state.is_multiple_of(3) {
                model.remove(&key);
                store.write(&changes(&[(&key, None)])).expect(name);
            } else if state % 3 == 1 {
                model.insert(key.clone(), n.to_string());
                store.write(&changes(&[(&key, Some(&n.to_string()))])).expect(name);
            }
            let found = store.get(key.as_bytes()).expect(name);
            assert_eq!(found.as_deref(), model.get(&key).map(|value| value.as_bytes()), "{name}");
        }
        let expected: Vec<_> = model.into_iter().collect();
        assert_eq!(content(&*store), expected, "{name}");
    });
}

/// A value under another's key, or with a flipped bit, is found at the next start.
#[test]
fn damage_is_found_at_the_start() {
    let value = super::sum::seal(b"key", b"value");
    assert!(super::sum::open(b"key", &value).is_ok());
    assert!(super::sum::open(b"kez", &value).is_err());
    for bit in 0..value.len() * 8 {
        let mut flipped = value.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(super::sum::open(b"key", &flipped).is_err());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let database = sled::open(folder.path()).expect("sled");
        database.open_tree("group-3").and_then(|tree| tree.insert(b"key", &b"no sum"[..])).expect("insert");
        drop(database);
        assert!(SledRecords::new(CACHE, 4096).open(folder.path(), GROUP).await.is_err());
        let folder = tempfile::tempdir().expect("a folder");
        {
            let database = ::fjall::Database::builder(folder.path()).open().expect("fjall");
            let keyspace = database.keyspace("group-3", ::fjall::KeyspaceCreateOptions::default).expect("keyspace");
            keyspace.insert("key", "no sum").expect("insert");
            database.persist(::fjall::PersistMode::SyncAll).expect("persist");
        }
        let records = FjallRecords::new(CACHE, 4096);
        assert!(records.open(folder.path(), GROUP).await.is_err());
        records.wipe(folder.path(), GROUP).await.expect("wipe");
        assert!(records.open(folder.path(), GROUP).await.is_ok());
    });
}

#[test]
fn a_crashed_memory_store_falls_back_to_a_batch_since_its_persist() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for roll in 0..6 {
            let stores = MemoryRecords::new();
            let store = stores.open(Path::new(""), GROUP).await.expect("open");
            for n in 0..10 {
                store.write(&changes(&[("n", Some(&n.to_string()))])).expect("write");
                if n == 6 {
                    store.persist_blocking().expect("persist");
                }
            }
            stores.crash(roll);
            let found = store.get(b"n").expect("get").expect("there");
            assert_eq!(found, (6 + roll % 4).to_string().as_bytes());
        }
    });
}
