//! A check of a site of three nodes in one process, and what it finds after somebody tampered with their stores.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weft_client::fsck::{DamagedChunk, FsckOptions, FsckReport, Verdict, WhatIsWrong};
use weft_client::{Client, ClientParts, ConnectOptions, Cred, Ino, Name};
use weft_core::ids::{GroupId, SpaceId};
use weft_core::view::Changes;
use weft_node::chunk::index::ChunkKey;
use weft_node::parts::Disk;

use common::{Machine, PATIENCE, machine, store_of};

async fn check(client: &Client, deep: bool) -> FsckReport {
    client.fsck(&FsckOptions { deep, ..FsckOptions::default() }, &|_| ()).await.expect("a check")
}

/// The first byte of a file's content, different for each, so that it is found in a segment.
fn content(name: &str) -> Bytes {
    let seed = name.bytes().map(u32::from).sum::<u32>();
    (0..100_000u32).map(|at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// The chunks of the first placement group with any, on a node.
fn held(machine: &Machine) -> Vec<(ChunkKey, u32)> {
    let store = machine.node.chunk().expect("a chunk server").store();
    let pgs = &machine.node.map().get().pgs;
    pgs.iter().flat_map(|pg| store.list(pg.id, None, 1000).expect("a list")).collect()
}

fn one(report: &FsckReport) -> &DamagedChunk {
    assert_eq!(report.verdict(), Verdict::Damaged, "{report:?}");
    assert_eq!(report.damage.len(), 1, "{report:?}");
    &report.damage[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_did_to_a_site_is_found_and_named() {
    let first = machine(None).await;
    let second = machine(Some(first.node.addr())).await;
    let third = machine(Some(first.node.addr())).await;
    let client = Client::connect(ConnectOptions::new([first.node.addr()]), ClientParts::real()).await.expect("connect");
    let since = Instant::now();
    let clean = loop {
        // Also that the site is whole: the check sees when it is not.
        let report = check(&client, true).await;
        let map = client.site_map();
        let whole = map.groups.iter().all(|group| group.replicas.len() == 3);
        if whole && report.verdict() == Verdict::Clean && map.volumes.iter().any(|volume| volume.ready) {
            break report;
        }
        assert!(since.elapsed() < PATIENCE, "{report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(clean.chunks, 0);

    let (volume, cred) = (client.volume("root").await.expect("the root volume"), Cred::root());
    let name = |text: &str| Name::parse(text.as_bytes().to_vec()).expect("a name");
    let since = Instant::now();
    let dir = loop {
        match volume.mkdir(&cred, Ino::ROOT, name("dir"), 0o755).await {
            Ok(dir) => break dir.ino,
            Err(error) => assert!(since.elapsed() < PATIENCE, "{error}"),
        }
    };
    for text in ["deleted", "flipped", "kept"] {
        let (file, _, _) = volume.create_file(&cred, dir, name(text), 0o644, true).await.expect("create");
        file.write_at(0, content(text)).await.expect("write");
        file.close().await.expect("close");
    }
    let since = Instant::now();
    let clean = loop {
        let report = check(&client, true).await;
        if report.verdict() == Verdict::Clean && report.copies == 9 {
            break report;
        }
        assert!(since.elapsed() < PATIENCE, "{report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!((clean.chunks, clean.bytes, clean.reread), (3, 300_000, 900_000));
    assert!(clean.digests.iter().all(|digest| digest.replicas.len() == 3), "{clean:?}");

    // A volume is deleted under an open file: everything of it goes, and what was counted stays right.
    let team = client.create_volume("team", 3, Some(b"/team")).await.expect("create a volume");
    let (open, _, _) = team.create_file(&cred, Ino::ROOT, name("file"), 0o644, true).await.expect("create");
    open.write_at(0, content("file")).await.expect("write");
    open.flush().await.expect("flush");
    let refused = client.delete_volume("root").await;
    assert!(refused.is_err(), "the root volume stays");
    client.delete_volume("team").await.expect("delete a volume");
    assert!(client.volume("team").await.is_err() && client.resolve(&cred, b"/team").await.is_err());
    let since = Instant::now();
    while client.volumes().await.expect("volumes").iter().any(|volume| volume.id == team.id()) {
        assert!(since.elapsed() < PATIENCE, "the volume is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    open.write_at(0, content("more")).await.expect("write");
    let refused = open.flush().await.expect_err("the file is no more");
    assert!(refused.refusal().is_some(), "{refused}");
    assert!(client.delete_volume("team").await.is_err(), "there is none");
    let report = check(&client, true).await;
    assert_eq!((report.verdict(), report.chunks), (Verdict::Clean, 3), "{report:?}");
    let extra = report.surplus;

    // Bytes rot on one disk: only who rereads sees it.
    let segments = Path::new("chunks/segments");
    let needle = &content("flipped")[50_000..50_032];
    for file in second.disk.list(segments).await.expect("a list") {
        let path = segments.join(file);
        let bytes = second.disk.bytes(&path);
        if let Some(at) = bytes.windows(needle.len()).position(|bytes| bytes == needle) {
            second.disk.rot(&path, at, 1);
        }
    }
    assert_eq!(check(&client, false).await.verdict(), Verdict::Clean);
    let report = check(&client, true).await;
    let rotten = one(&report);
    let node = second.node.identity().node;
    assert_eq!((rotten.what, rotten.node, rotten.whole_on.len()), (WhatIsWrong::Rotten, node, 2), "{rotten:?}");
    assert_eq!(rotten.files[0].paths, [b"/dir/flipped"], "{rotten:?}");

    // A chunk is deleted behind the site's back: the lists show it.
    let rotten = (rotten.space, rotten.chunk);
    let another = |key: &ChunkKey| key.space == rotten.0 && key.chunk != rotten.1;
    let (gone, _) = held(&third).into_iter().find(|(key, _)| another(key)).expect("another chunk");
    assert!(third.node.chunk().expect("a chunk server").store().delete(gone).await.expect("delete"));
    let report = check(&client, false).await;
    let missing = one(&report);
    assert_eq!(
        (missing.what, missing.chunk, missing.node),
        (WhatIsWrong::Missing, gone.chunk, third.node.identity().node)
    );
    assert!(missing.files[0].paths[0].starts_with(b"/dir/"), "{missing:?}");
    assert_eq!(check(&client, true).await.damage.len(), 2);

    // A chunk that nothing names is told and is no damage.
    let store = first.node.chunk().expect("a chunk server").store();
    let spare = ChunkKey { space: SpaceId(99), ..gone };
    let data = Bytes::from_static(b"spare");
    let sums = vec![weft_core::checksum::block_sum(spare.chunk, 0, &data)];
    let spare = weft_node::chunk::store::NewChunk { key: spare, uploader: spare.chunk.client, data, sums };
    store.put(spare).await.expect("put");
    let report = check(&client, false).await;
    assert_eq!((report.surplus.unknown, report.damage.len()), (extra.unknown + 1, 1), "{report:?}");

    // A record differs on one replica; then a count is lost on all of them.
    let group = volume.info().group;
    let stray = Changes::from([(Bytes::from_static(b"\x0astray"), Some(Bytes::from_static(b"x")))]);
    store_of(&second, group).write(&stray).expect("write");
    let report = check(&client, true).await;
    let differ: Vec<GroupId> =
        report.digests.iter().filter(|digest| !digest.agree()).map(|digest| digest.group).collect();
    assert_eq!(differ, [group], "{report:?}");
    let mut count = None;
    let found = |key: &[u8], _: &Bytes| {
        count = Some(Bytes::copy_from_slice(key));
        ControlFlow::Break(())
    };
    let mut found = found;
    store_of(&first, group).scan(b"\x09", b"\x0a", &mut found).expect("a scan");
    let lost = Changes::from([(count.expect("a counted chunk"), None)]);
    for machine in [&first, &second, &third] {
        store_of(machine, group).write(&lost).expect("write");
    }
    let report = check(&client, false).await;
    let wrong: Vec<&String> = report.audits.iter().flat_map(|audit| &audit.wrong).collect();
    assert!(matches!(wrong[..], [wrong] if wrong.ends_with("no count, 1 found")), "{wrong:?}");

    // A node goes: its copies are not looked at, which is not the same as clean.
    let third_node = third.node.identity().node;
    third.node.shutdown().await;
    let options = FsckOptions { volumes: vec!["root".into()], ..FsckOptions::default() };
    let report = client.fsck(&options, &|_| ()).await.expect("a check");
    let told = report.unseen.iter().any(|what| what.contains(&format!("node {third_node}")));
    assert!(told || report.degraded.iter().any(|pg| pg.lacking.contains(&third_node)), "{report:?}");
    assert!(client.close().await.is_err(), "what was written to a file that is no more");
    for machine in [first, second] {
        machine.node.shutdown().await;
    }
}
