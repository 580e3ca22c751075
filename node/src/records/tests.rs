//! What every record store promises, tried on each.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use weft_core::ids::GroupId;
use weft_core::view::{Changes, View};

use super::{FjallRecords, MemoryRecords, RecordStore, RecordStores, SledRecords, collect};

/// How many places are garbled, one by one.
const ROUNDS: usize = 4;
const GROUP: GroupId = GroupId(1);

/// Opens the stores of one folder again and again.
struct Kind {
    name: &'static str,
    again: Box<dyn Fn() -> Arc<dyn RecordStores>>,
    folder: tempfile::TempDir,
}

fn kinds() -> Vec<Kind> {
    let memory = MemoryRecords::new();
    let folder = || tempfile::tempdir().unwrap();
    // Hot caches too small for the tests' records, so that both ways are gone.
    vec![
        Kind { name: "memory", again: Box::new(move || Arc::new(memory.clone())), folder: folder() },
        Kind { name: "fjall", again: Box::new(|| Arc::new(FjallRecords::new(8 << 20, 8 << 10))), folder: folder() },
        Kind { name: "sled", again: Box::new(|| Arc::new(SledRecords::new(64 << 20, 8 << 10))), folder: folder() },
    ]
}

/// A node's stores, as its process opens them after each start.
struct Stores {
    stores: Arc<dyn RecordStores>,
    folder: std::path::PathBuf,
}

impl Kind {
    fn start(&self) -> Stores {
        Stores { stores: (self.again)(), folder: self.folder.path().join("meta/records") }
    }
}

impl Stores {
    async fn open(&self, group: GroupId) -> Arc<dyn RecordStore> {
        self.stores.open(&self.folder, group).await.unwrap()
    }

    async fn persist(&self, store: &Arc<dyn RecordStore>) {
        self.stores.persist(store.clone()).await.unwrap();
    }

    async fn wipe(&self, group: GroupId) {
        self.stores.wipe(&self.folder, group).await.unwrap();
    }
}

fn changes<const N: usize>(of: [(&str, Option<&str>); N]) -> Changes {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    of.into_iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect()
}

fn all(view: &dyn View) -> Vec<(String, String)> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    collect(view, b"", usize::MAX).unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn pairs<const N: usize>(of: [(&str, &str); N]) -> Vec<(String, String)> {
    of.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[tokio::test]
async fn records_are_read_in_order_and_are_there_when_opened_again() {
    for kind in kinds() {
        let stores = kind.start();
        let store = stores.open(GROUP).await;
        assert_eq!(store.get(b"a").unwrap(), None, "{}", kind.name);
        store.write(&changes([("b", Some("2")), ("a", Some("1")), ("c\0", Some("")), ("d", Some("4"))])).unwrap();
        store.write(&changes([("d", None)])).unwrap();
        store.write(&changes([("a", Some("one")), ("e", Some("5")), ("missing", None)])).unwrap();
        store.write(&Changes::new()).unwrap();
        let expected = pairs([("a", "one"), ("b", "2"), ("c\0", ""), ("e", "5")]);
        assert_eq!(all(&*store), expected, "{}", kind.name);
        assert_eq!(store.get(b"c\0").unwrap(), Some(Bytes::new()));
        assert_eq!(store.get(b"d").unwrap(), None);
        // Another group of the same database sees nothing of it.
        let other = stores.open(GroupId(2)).await;
        assert_eq!(all(&*other), []);
        other.write(&changes([("a", Some("other"))])).unwrap();
        stores.persist(&store).await;
        drop((store, other, stores));
        let stores = kind.start();
        let store = stores.open(GROUP).await;
        assert_eq!(all(&*store), expected, "{}", kind.name);
        assert_eq!(all(&*stores.open(GroupId(2)).await), pairs([("a", "other")]));
    }
}

#[tokio::test]
async fn a_scan_keeps_its_bounds_and_stops_when_told() {
    for kind in kinds() {
        let store = kind.start().open(GROUP).await;
        let many: Changes =
            (0..2000u32).map(|n| (Bytes::from(n.to_be_bytes().to_vec()), Some(Bytes::from("v")))).collect();
        store.write(&many).unwrap();
        let keys = |from: u32, to: u32, limit: usize| {
            let mut found = Vec::new();
            let mut each = |key: &[u8], _: &Bytes| {
                found.push(u32::from_be_bytes(key.try_into().unwrap()));
                if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            store.scan(&from.to_be_bytes(), &to.to_be_bytes(), &mut each).unwrap();
            found
        };
        assert_eq!(keys(0, 2000, usize::MAX), (0..2000).collect::<Vec<_>>(), "{}", kind.name);
        assert_eq!(keys(255, 1300, usize::MAX), (255..1300).collect::<Vec<_>>());
        assert_eq!(keys(700, 1300, 3), [700, 701, 702]);
        assert_eq!(keys(5, 5, usize::MAX), Vec::<u32>::new());
        assert_eq!(keys(6, 5, usize::MAX), Vec::<u32>::new());
        // A reader may ask the store from within a scan.
        let mut inner = 0;
        store
            .scan(&[0; 4], &10u32.to_be_bytes(), &mut |key, _| {
                inner += usize::from(store.get(key).unwrap().is_some());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(inner, 10);
    }
}

#[tokio::test]
async fn a_snapshot_stays_as_it_was() {
    for kind in kinds() {
        let store = kind.start().open(GROUP).await;
        store.write(&changes([("a", Some("1")), ("b", Some("1")), ("c", Some("1"))])).unwrap();
        let first = store.snapshot().unwrap();
        let same = store.snapshot().unwrap();
        assert_eq!(first.get(b"a").unwrap(), Some(Bytes::from("1")));
        store.write(&changes([("a", Some("2")), ("b", None), ("d", Some("2"))])).unwrap();
        let second = store.snapshot().unwrap();
        store.write(&changes([("a", None), ("b", Some("3")), ("d", None), ("0", Some("3"))])).unwrap();
        for view in [&first, &same] {
            assert_eq!(all(&**view), pairs([("a", "1"), ("b", "1"), ("c", "1")]), "{}", kind.name);
            assert_eq!(view.get(b"d").unwrap(), None);
            assert_eq!(view.get(b"b").unwrap(), Some(Bytes::from("1")));
        }
        assert_eq!(all(&*second), pairs([("a", "2"), ("c", "1"), ("d", "2")]), "{}", kind.name);
        assert_eq!(second.get(b"0").unwrap(), None);
        assert_eq!(all(&*store), pairs([("0", "3"), ("b", "3"), ("c", "1")]));
    }
}

#[tokio::test]
async fn a_wiped_group_is_empty_and_others_keep_theirs() {
    for kind in kinds() {
        let stores = kind.start();
        let (store, other) = (stores.open(GROUP).await, stores.open(GroupId(2)).await);
        store.write(&changes([("a", Some("1"))])).unwrap();
        other.write(&changes([("a", Some("2"))])).unwrap();
        stores.persist(&store).await;
        drop(store);
        stores.wipe(GROUP).await;
        let store = stores.open(GROUP).await;
        assert_eq!(all(&*store), [], "{}", kind.name);
        store.write(&changes([("b", Some("new"))])).unwrap();
        stores.persist(&store).await;
        drop((store, other, stores));
        let stores = kind.start();
        assert_eq!(all(&*stores.open(GROUP).await), pairs([("b", "new")]), "{}", kind.name);
        assert_eq!(all(&*stores.open(GroupId(2)).await), pairs([("a", "2")]));
        stores.wipe(GroupId(77)).await;
    }
}

/// Flips one bit in each of many places of a folder's files, one after the other, and says what became of the store:
/// how often it was read as before, and how often it was an error.
async fn garble(kind: &Kind) -> (usize, usize) {
    let expected: Vec<(String, String)> = (0..300).map(|n| (format!("key {n:05}"), "x".repeat(300))).collect();
    {
        let stores = kind.start();
        let store = stores.open(GROUP).await;
        for chunk in expected.chunks(50) {
            let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
            store.write(&chunk.iter().map(|(key, value)| (bytes(key), Some(bytes(value)))).collect()).unwrap();
        }
        stores.persist(&store).await;
    }
    let pristine = tempfile::tempdir().unwrap();
    copy_folder(kind.folder.path(), pristine.path());
    let mut files = Vec::new();
    list_files(kind.folder.path(), &mut files);
    // The places that hold values, which nothing but their sums guards.
    let (mut good, mut bad) = (0, 0);
    for round in 0..ROUNDS {
        std::fs::remove_dir_all(kind.folder.path()).unwrap();
        copy_folder(pristine.path(), kind.folder.path());
        for file in &files {
            let mut bytes = std::fs::read(file).unwrap();
            let places: Vec<usize> =
                bytes.windows(8).enumerate().filter(|(_, w)| *w == b"xxxxxxxx").map(|(at, _)| at).collect();
            if let Some(at) = places.get(places.len() * round / ROUNDS) {
                bytes[at + 3] ^= 0x20;
                std::fs::write(file, bytes).unwrap();
            }
        }
        let stores = kind.start();
        let read = match stores.stores.open(&stores.folder, GROUP).await {
            Ok(store) => collect(&*store, b"", usize::MAX),
            Err(error) => Err(error),
        };
        match read {
            Ok(found) => {
                // An older state is what a crash leaves too; wrong bytes are never answered.
                for ((key, value), expected) in found.iter().zip(&expected) {
                    assert_eq!((&key[..], &value[..]), (expected.0.as_bytes(), expected.1.as_bytes()), "{}", kind.name);
                }
                good += 1;
            }
            Err(_) => bad += 1,
        }
        // Whatever it was, a wipe makes it usable again.
        stores.wipe(GROUP).await;
        let store = stores.open(GROUP).await;
        assert_eq!(all(&*store), [], "{}", kind.name);
        store.write(&changes([("a", Some("1"))])).unwrap();
        assert_eq!(all(&*store), pairs([("a", "1")]));
    }
    (good, bad)
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn list_files(folder: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() { list_files(&entry.path(), out) } else { out.push(entry.path()) }
    }
}

#[tokio::test]
async fn garbled_files_give_errors_or_older_records_and_never_wrong_ones() {
    for kind in kinds().into_iter().filter(|kind| kind.name != "memory") {
        let (good, bad) = garble(&kind).await;
        // Both databases mostly notice by themselves and come up with older records, which the log then makes good.
        assert_eq!(good + bad, ROUNDS, "{}", kind.name);
    }
}

/// How many places are garbled where any byte may be.
const PLACES: usize = 24;

#[tokio::test]
async fn a_byte_flipped_anywhere_gives_an_error_or_the_records_of_an_earlier_batch() {
    use rand::{Rng, SeedableRng};
    let kind = kinds().into_iter().find(|kind| kind.name == "fjall").unwrap();
    let value = |batch: u32, n: u32| Bytes::from(format!("{batch} {n} ").repeat(300));
    let key = |n: u32| Bytes::from(format!("key {:08x}", n.wrapping_mul(0x9e37_79b1)));
    // Every batch writes new keys, writes some anew, removes one, and says which batch it was.
    let batch = |batch: u32| {
        let mut changes: Changes = (0..40).map(|n| (key(batch * 40 + n), Some(value(batch, n)))).collect();
        changes.extend((0..batch.min(10)).map(|n| (key((batch - n - 1) * 40 + n), Some(value(batch, 99)))));
        changes.insert(key(batch * 40 + 39), None);
        changes.insert(key(batch.saturating_sub(1) * 40 + 30), None);
        changes.insert(Bytes::from("batch"), Some(Bytes::from(batch.to_string())));
        changes
    };
    const BATCHES: u32 = 160;
    {
        let stores = kind.start();
        let store = stores.open(GROUP).await;
        for n in 0..BATCHES {
            store.write(&batch(n)).unwrap();
        }
        stores.persist(&store).await;
    }
    let pristine = tempfile::tempdir().unwrap();
    copy_folder(kind.folder.path(), pristine.path());
    let mut files = Vec::new();
    list_files(kind.folder.path(), &mut files);
    let mut models: Vec<BTreeMap<Bytes, Bytes>> = vec![BTreeMap::new()];
    for n in 0..BATCHES {
        let mut model = models.last().unwrap().clone();
        for (key, change) in batch(n) {
            match change {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
        }
        models.push(model);
    }
    let mut rng = rand::rngs::SmallRng::seed_from_u64(11);
    let mut noticed = 0;
    for place in 0..PLACES {
        std::fs::remove_dir_all(kind.folder.path()).unwrap();
        copy_folder(pristine.path(), kind.folder.path());
        // Each file in turn, the small ones too; not where nothing was ever written.
        let file = &files[place % files.len()];
        let mut bytes = std::fs::read(file).unwrap();
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { continue };
        let at = rng.random_range(0..=last);
        bytes[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(file, bytes).unwrap();
        let stores = kind.start();
        let Ok(store) = stores.stores.open(&stores.folder, GROUP).await else {
            noticed += 1;
            stores.wipe(GROUP).await;
            assert_eq!(all(&*stores.open(GROUP).await), []);
            continue;
        };
        let place = format!("{} at {at}", file.display());
        let number = store.get(b"batch").unwrap().map(|text| String::from_utf8(text.to_vec()).unwrap());
        let model = number.map_or(&models[0], |number| &models[number.parse::<usize>().unwrap() + 1]);
        let found: BTreeMap<Bytes, Bytes> = collect(&*store, b"", usize::MAX).unwrap().into_iter().collect();
        assert!(found == *model, "{place}: not the records of any batch");
        for n in 0..BATCHES * 40 {
            assert_eq!(store.get(&key(n)).unwrap().as_ref(), model.get(&key(n)), "{place}: one by one");
        }
    }
    assert!(noticed > 0);
}

#[tokio::test]
async fn rot_in_a_value_that_the_database_does_not_notice_is_an_error() {
    // Written behind the store's back, as a database does that hands out the wrong page.
    let folder = tempfile::tempdir().unwrap();
    let stores = FjallRecords::new(8 << 20, 1 << 20);
    let store = stores.open(folder.path(), GROUP).await.unwrap();
    store.write(&changes([("d", Some("good"))])).unwrap();
    stores.persist(store.clone()).await.unwrap();
    drop(store);
    {
        let db = fjall::Database::builder(folder.path()).open().unwrap();
        let keyspace = db.keyspace("group-1", fjall::KeyspaceCreateOptions::default).unwrap();
        keyspace.insert("b", super::sums::seal(b"c", b"of another key")).unwrap();
    }
    let error = stores.open(folder.path(), GROUP).await.err().unwrap();
    assert!(error.to_string().contains("the record of key b is damaged"), "{error}");
}

#[tokio::test]
async fn rot_in_an_open_store_is_an_error_when_read() {
    let folder = tempfile::tempdir().unwrap();
    let db = ::sled::Config::new().path(folder.path()).open().unwrap();
    let tree = db.open_tree("group-1").unwrap();
    let store = super::sled::over(db, tree.clone());
    store.write(&changes([("a", Some("1")), ("d", Some("good"))])).unwrap();
    tree.insert("a", "no sum at all").unwrap();
    tree.insert("b", super::sums::seal(b"c", b"of another key")).unwrap();
    assert!(store.get(b"a").is_err());
    assert!(store.get(b"b").is_err());
    assert_eq!(store.get(b"d").unwrap(), Some(Bytes::from("good")));
    assert!(collect(&store, b"", 10).is_err());
    assert!(store.snapshot().unwrap().get(b"a").is_err());
}

#[tokio::test]
async fn a_crash_of_the_memory_store_takes_whole_batches_from_the_end() {
    let mut kept = std::collections::BTreeSet::new();
    for roll in 0..50 {
        let records = MemoryRecords::new();
        let stores = Stores { stores: Arc::new(records.clone()), folder: "".into() };
        let store = stores.open(GROUP).await;
        let write = |n: u32| {
            let value = n.to_string();
            store
                .write(&changes([("a", Some(&value)), ("b", if n.is_multiple_of(2) { None } else { Some(&value) })]))
                .unwrap();
        };
        (0..3).for_each(write);
        stores.persist(&store).await;
        (3..8).for_each(write);
        drop(store);
        records.crash(roll);
        let store = stores.open(GROUP).await;
        let n: u32 = all(&*store)[0].1.parse().unwrap();
        let text = n.to_string();
        assert!((2..8).contains(&n));
        let expected = if n.is_multiple_of(2) { pairs([("a", &text)]) } else { pairs([("a", &text), ("b", &text)]) };
        assert_eq!(all(&*store), expected);
        kept.insert(n);
        records.crash(roll);
        assert_eq!(all(&*stores.open(GROUP).await), expected, "what one crash left the next one keeps");
    }
    assert_eq!(kept.len(), 6, "every batch is the last one at times");
}

#[derive(Clone, Debug)]
enum Act {
    Write(BTreeMap<u8, Option<u16>>),
    Snapshot,
    Forget(usize),
    Get(u8),
    Reopen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let write = prop::collection::btree_map(0..40u8, prop::option::weighted(0.7, any::<u16>()), 1..12);
    let act = prop_oneof![
        6 => write.prop_map(Act::Write),
        2 => Just(Act::Snapshot),
        1 => any::<usize>().prop_map(Act::Forget),
        4 => (0..40u8).prop_map(Act::Get),
        1 => Just(Act::Reopen),
    ];
    prop::collection::vec(act, 1..60)
}

type Model = BTreeMap<Bytes, Bytes>;

fn agrees(view: &dyn View, model: &Model, name: &str) {
    let found: Model = collect(view, b"", usize::MAX).unwrap().into_iter().collect();
    assert_eq!(found, *model, "{name}");
    for key in 0..40u8 {
        assert_eq!(view.get(&[key]).unwrap().as_ref(), model.get(&[key][..]), "{name}: {key}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_store_and_its_snapshots_agree_with_an_ordered_map(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for kind in kinds() {
            runtime.block_on(async {
                let mut stores = kind.start();
                let mut store = stores.open(GROUP).await;
                let mut model = Model::new();
                let mut views: Vec<(Arc<dyn View + Send + Sync>, Model)> = Vec::new();
                for act in &acts {
                    match act {
                        Act::Write(batch) => {
                            let batch: Changes = batch
                                .iter()
                                .map(|(key, value)| {
                                    let value = value.map(|value| Bytes::from(vec![value as u8; usize::from(value) % 300]));
                                    (Bytes::from(vec![*key]), value)
                                })
                                .collect();
                            store.write(&batch).unwrap();
                            for (key, value) in batch {
                                match value {
                                    Some(value) => model.insert(key, value),
                                    None => model.remove(&key),
                                };
                            }
                        }
                        Act::Snapshot => views.push((store.snapshot().unwrap(), model.clone())),
                        Act::Forget(n) => {
                            if !views.is_empty() {
                                views.swap_remove(n % views.len());
                            }
                        }
                        Act::Get(key) => assert_eq!(store.get(&[*key]).unwrap().as_ref(), model.get(&[*key][..])),
                        Act::Reopen => {
                            for (view, model) in views.drain(..) {
                                agrees(&*view, &model, kind.name);
                            }
                            stores.persist(&store).await;
                            drop((store, stores));
                            stores = kind.start();
                            store = stores.open(GROUP).await;
                        }
                    }
                }
                agrees(&*store, &model, kind.name);
                for (view, model) in &views {
                    agrees(&**view, model, kind.name);
                }
            });
        }
    }
}
