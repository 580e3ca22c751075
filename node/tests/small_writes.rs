//! A file of many small writes in a site of three nodes: its bytes leave the records, and nobody who reads it notices.

mod common;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weft_client::fsck::{FsckOptions, Verdict};
use weft_client::{Client, ClientParts, ConnectOptions, Cred, File, Ino, Name, Volume};
use weft_core::ids::ClientId;
use weft_core::machine;
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::namespace::query::{Answer, Query};

use common::{Machine, PATIENCE, machine_with, store_of};

const LINES: usize = 300;

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !done().await {
        assert!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn node(peer: Option<&str>) -> Machine {
    machine_with(peer, |settings| settings.chunks.keep_freed_s = 1).await
}

async fn connect(to: &Machine) -> Client {
    Client::connect(ConnectOptions::new([to.node.addr()]), ClientParts::real()).await.expect("connect")
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes().to_vec()).expect("a name")
}

/// The file's map as one replica has it.
fn map(machine: &Machine, volume: &Volume, ino: Ino) -> Vec<Extent> {
    let store = store_of(machine, volume.info().group);
    let query = Query::Map { ino, offset: 0, limit: 4096 };
    match machine::query(&*store, volume.id(), ClientId(0), &Cred::root(), &query).expect("whole records") {
        Ok(Answer::Map { extents, .. }) => extents,
        other => panic!("{other:?}"),
    }
}

fn in_records(extents: &[Extent]) -> usize {
    extents.iter().filter(|extent| matches!(extent.body, ExtentBody::Inline(_))).count()
}

async fn read(file: &File) -> Bytes {
    file.read_at(0, 1 << 20).await.expect("read")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_many_small_writes_move_into_chunks() {
    let first = node(None).await;
    let second = node(Some(first.node.addr())).await;
    let third = node(Some(first.node.addr())).await;
    let (writer, reader) = (connect(&first).await, connect(&second).await);
    let cred = Cred::root();
    until("a volume on three nodes", async || {
        let map = writer.site_map();
        let whole = map.groups.iter().all(|group| group.replicas.len() == 3);
        let factors = map.pgs.iter().any(|pg| pg.factor == 3);
        writer.refresh_map().await.is_ok() && whole && factors && map.volumes.iter().any(|volume| volume.ready)
    })
    .await;
    let volume = writer.volume("root").await.expect("the root volume");
    let (file, attr, _) = volume.create_file(&cred, Ino::ROOT, name("journal"), 0o644, true).await.expect("create");
    let mut expected = Vec::new();
    for line in 0..LINES {
        let line = format!("line {line} of a journal that is made durable line by line\n");
        file.write_at(expected.len() as u64, Bytes::from(line.clone())).await.expect("write");
        expected.extend_from_slice(line.as_bytes());
        file.flush().await.expect("flush");
    }
    // Another client has the map as it was, of bytes in records or of chunks.
    let theirs = reader.volume("root").await.expect("the root volume");
    let before = theirs.open(&cred, attr.ino, true, false).await.expect("open");
    assert!(read(&before).await == expected);
    until("the bytes in chunks on every replica", async || {
        [&first, &second, &third].iter().all(|machine| {
            let map = map(machine, &volume, attr.ino);
            in_records(&map) < 64 && map.len() < LINES / 3
        })
    })
    .await;
    let compacted = |machine: &Machine| machine.node.groups().expect("meta groups").compacted_extents();
    let moved: u64 = [&first, &second, &third].into_iter().map(compacted).sum();
    assert!(moved >= (LINES - 64) as u64, "{moved}");
    let now = theirs.getattr(&cred, attr.ino).await.expect("attributes");
    assert_eq!((now.size, now.allocated), (expected.len() as u64, expected.len() as u64));
    assert!(read(&before).await == expected, "with the map of before");
    assert!(read(&file).await == expected, "by who wrote it");
    let after = connect(&third).await;
    let anew = after.volume("root").await.expect("the root volume");
    let anew = anew.open(&cred, attr.ino, true, false).await.expect("open");
    assert!(read(&anew).await == expected, "from chunks");
    let report = after.fsck(&FsckOptions { deep: true, ..FsckOptions::default() }, &|_| ()).await.expect("a check");
    assert_eq!(report.verdict(), Verdict::Clean, "{report:?}");
    assert!(report.chunks > 0);

    // And it goes on: written over, read, removed, and nothing of it is left.
    file.write_at(100, Bytes::from_static(b"LATER")).await.expect("write");
    file.flush().await.expect("flush");
    expected[100..105].copy_from_slice(b"LATER");
    assert!(read(&file).await == expected);
    for file in [&file, &before, &anew] {
        file.close().await.expect("close");
    }
    drop((file, before, anew));
    volume.unlink(&cred, Ino::ROOT, name("journal")).await.expect("unlink");
    until("the chunks to go", async || {
        let held = |machine: &Machine| machine.node.chunk().map_or(0, |chunk| chunk.heartbeat_facts().chunks);
        [&first, &second, &third].into_iter().map(held).sum::<u64>() == 0
    })
    .await;
    for client in [writer, reader, after] {
        client.close().await.expect("close");
    }
    for machine in [first, second, third] {
        machine.node.shutdown().await;
    }
}
