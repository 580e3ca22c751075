//! What the stores below a node do: the machine over a fjall store, appends to the Raft log, chunks put and read, in
//! process and over gRPC. Everything on the disk under `TMPDIR`: compare with its own `fdatasync`, measured beside.
//! `cargo bench -p weft-benches --bench stores`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::{join_all, try_join_all};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use weft_core::checksum::block_sums;
use weft_core::entry::{Caller, Command, Cred, Entry};
use weft_core::ids::{ChunkId, ClientId, GroupId, Ino, PgId, Seq, SlotId, SpaceId, VolumeId};
use weft_core::machine;
use weft_core::name::Name;
use weft_core::namespace::op::Op;
use weft_core::namespace::volume::AttachVolume;
use weft_core::time::Timestamp;
use weft_core::view::{Overlay, View};
use weft_node::chunk::index::{ChunkKey, SledIndexes};
use weft_node::chunk::store::{NewChunk, Store, StoreSettings};
use weft_node::disk::RealDisk;
use weft_node::meta::log::{GroupLog, SegmentLog};
use weft_node::node::Node;
use weft_node::real::{self, OsDice};
use weft_node::records::{FjallRecords, RecordStore, RecordStores};
use weft_node::settings::Settings;
use weft_node::site::setup;
use weft_proto::convert::Envelope;
use weft_proto::link::{self, MESSAGE_LIMIT, Tcp};
use weft_proto::pb;
use weft_proto::pb::chunk_client::ChunkClient;

const GROUP: GroupId = GroupId(1);
const VOLUME: VolumeId = VolumeId(1);
const SPACE: SpaceId = SpaceId(1);
const CLIENT: ClientId = ClientId(77);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("weft-bench-").tempdir().expect("a folder")
}

/// What the disk itself takes for 4 KiB made durable: the others are to be read beside it.
fn disk(bench: &mut Criterion) {
    let folder = folder();
    let file = File::create(folder.path().join("file")).expect("a file");
    file.set_len(64 << 20).expect("a length");
    file.write_all_at(&vec![1; 64 << 20], 0).expect("filled");
    file.sync_all().expect("synced");
    let mut at = 0;
    bench.bench_function("the disk: 4 KiB and fdatasync", |b| {
        b.iter(|| {
            at = (at + 4096) % (64 << 20);
            file.write_all_at(&[2; 4096], at).expect("written");
            file.sync_data().expect("synced");
        });
    });
}

/// Applies one entry the way a replica does.
fn apply(store: &dyn RecordStore, batch: &[Entry]) {
    let base: &dyn View = store;
    let mut overlay = Overlay::new(base);
    for entry in batch {
        let applied = machine::apply(&overlay, GROUP, entry).expect("the store does not fail");
        applied.reply.expect("not refused");
        overlay.absorb(applied.changes);
    }
    store.write(&overlay.into_changes()).expect("written");
}

fn namespace(bench: &mut Criterion) {
    let (runtime, folder) = (runtime(), folder());
    let stores = FjallRecords::new(64 << 20, 16 << 20);
    let store = runtime.block_on(stores.open(folder.path(), GROUP)).expect("a store");
    let entry = |seq: u64, caller: bool, command: Command| Entry {
        time: Timestamp::from_nanos(1_000_000 + seq),
        caller: caller.then(|| Caller {
            client: CLIENT,
            space: SPACE,
            seq: Seq(seq),
            acked_below: Seq(seq),
            cred: Cred::root(),
        }),
        command,
    };
    let attach = AttachVolume { volume: VOLUME, space: SPACE, slot: SlotId(1), mode: 0o755, uid: 0, gid: 0 };
    apply(
        &*store,
        &[
            entry(0, false, Command::AttachVolume(attach)),
            entry(0, false, Command::OpenSession { client: CLIENT, space: SPACE }),
        ],
    );
    let mut seq = 0;
    let mut create = || {
        seq += 1;
        let name = Name::parse(format!("file {seq}")).expect("a name");
        let op = Op::Create { parent: Ino::ROOT, name, mode: 0o644, exclusive: true };
        entry(seq, true, Command::Op { volume: VOLUME, op })
    };
    let mut group = bench.benchmark_group("create in a directory, machine over fjall");
    for batch in [1, 64] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} to a batch"), |b| {
            b.iter_batched(
                || (0..batch).map(|_| create()).collect::<Vec<_>>(),
                |entries| apply(&*store, &entries),
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

async fn append(log: &GroupLog, index: u64) {
    let (done, wait) = oneshot::channel();
    let told = Box::new(move |result| drop(done.send(result)));
    log.append(vec![(index, Bytes::from_static(&[3; 256]))], told);
    wait.await.expect("answered").expect("on media");
}

fn log(bench: &mut Criterion) {
    let (runtime, folder) = (runtime(), folder());
    let disk = Arc::new(RealDisk::open(folder.path()).expect("a disk"));
    let opened = runtime.block_on(SegmentLog::open(disk, Path::new("raft"), Arc::new(OsDice)));
    let (log, _) = opened.expect("a log");
    let mut group = bench.benchmark_group("append 256 bytes to the log");
    for appenders in [1u32, 64] {
        // A group each, as many replicas of one node append.
        let logs: Vec<(GroupLog, AtomicU64)> =
            (0..appenders).map(|n| (log.group(GroupId(100 * appenders + n)), AtomicU64::new(1))).collect();
        group.throughput(Throughput::Elements(u64::from(appenders)));
        group.bench_function(format!("{appenders} at a time"), |b| {
            b.iter(|| {
                runtime.block_on(join_all(logs.iter().map(|(log, index)| async {
                    let index = index.fetch_add(1, Ordering::Relaxed);
                    append(log, index).await;
                    if index % 1024 == 0 {
                        // Given back, as a group does whose records are durable.
                        let (done, wait) = oneshot::channel();
                        log.purge_upto(index, Bytes::new(), Box::new(move |result| drop(done.send(result))));
                        wait.await.expect("answered").expect("purged");
                    }
                })));
            });
        });
    }
    group.finish();
}

fn chunk(counter: u64, len: usize) -> NewChunk {
    let chunk = ChunkId { client: CLIENT, counter };
    let data = Bytes::from(vec![counter as u8; len]);
    let sums = block_sums(chunk, 0, &data);
    NewChunk { key: ChunkKey { pg: PgId(1), space: SPACE, chunk }, uploader: CLIENT, data, sums }
}

fn chunks(bench: &mut Criterion) {
    let (runtime, folder) = (runtime(), folder());
    let disk = Arc::new(RealDisk::open(folder.path()).expect("a disk"));
    let indexes = SledIndexes::new(disk.root(), 64 << 20);
    let settings = StoreSettings { reserve_bytes: 0, ..StoreSettings::default() };
    let store = runtime.block_on(Store::open(disk, &indexes, Arc::new(OsDice), settings)).expect("a store");
    let mut counter = 0;
    let mut group = bench.benchmark_group("chunk store");
    for (len, at_once) in [(4 << 10, 16), (64 << 10, 16), (4 << 20, 2)] {
        group.throughput(Throughput::Bytes(len as u64 * at_once));
        group.bench_function(format!("put {} KiB, {at_once} at a time", len >> 10), |b| {
            b.iter_batched(
                || {
                    counter += at_once;
                    (0..at_once).map(|n| chunk(counter + n, len)).collect::<Vec<_>>()
                },
                |new| {
                    let keys: Vec<ChunkKey> = new.iter().map(|chunk| chunk.key).collect();
                    runtime.block_on(try_join_all(new.into_iter().map(|chunk| store.put(chunk)))).expect("stored");
                    // So that the disk does not fill up.
                    runtime.block_on(try_join_all(keys.into_iter().map(|key| store.delete(key)))).expect("deleted");
                },
                criterion::BatchSize::PerIteration,
            );
        });
        let kept = chunk(1 << 40 | len as u64, len);
        let key = kept.key;
        runtime.block_on(store.put(kept)).expect("stored");
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("get {} KiB", len >> 10), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    store.reader(key).await.expect("there").read(0, len as u32).await.expect("whole")
                })
            });
        });
    }
    group.finish();
    runtime.block_on(store.shutdown());
}

/// A site of one node in this process, on the disk.
async fn site(data: PathBuf) -> Node {
    let settings = Settings { data, listen: "127.0.0.1:0".into(), http: "127.0.0.1:0".into(), ..Settings::default() };
    let (parts, lock) = real::open(&settings).expect("the folder");
    setup::init(&settings, "bench", 1, 1, &parts).await.expect("init");
    // Kept as long as the process: the node is never opened twice.
    std::mem::forget(lock);
    let node = Node::start(settings, parts).await.expect("start the node");
    let mut maps = node.map().watch();
    let ready = maps.wait_for(|map| map.pgs.iter().any(|pg| pg.factor == 1));
    drop(tokio::time::timeout(Duration::from_secs(30), ready).await.expect("placement in time").expect("a map"));
    node
}

fn grpc(bench: &mut Criterion) {
    let (runtime, folder) = (runtime(), folder());
    let node = runtime.block_on(site(folder.path().join("data")));
    let pg = node.map().get().pgs.iter().find(|pg| pg.factor == 1).cloned().expect("a placement group");
    let channel = runtime.block_on(async { link::channel(Arc::new(Tcp), node.addr()) }).expect("an address");
    let client =
        ChunkClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT);
    let envelope = || Some(Envelope { client: CLIENT, deadline_ms: 10_000, ..Envelope::default() }.to_wire());
    let mut counter = 1;
    let mut group = bench.benchmark_group("chunk server over gRPC, one copy");
    for len in [4 << 10, 4 << 20] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut last = None;
        group.bench_function(format!("put {} KiB", len >> 10), |b| {
            b.iter_batched(
                || {
                    counter += 1;
                    let NewChunk { key, data, sums, .. } = chunk(counter, len);
                    let named = pb::ChunkRef { client: key.chunk.client.0, counter: key.chunk.counter };
                    last = Some(named);
                    pb::PutRequest {
                        envelope: envelope(),
                        space: SPACE.0,
                        chunk: Some(named),
                        pg: pg.id.0,
                        pg_epoch: pg.epoch.0,
                        data,
                        sums,
                        forward: true,
                        ..pb::PutRequest::default()
                    }
                },
                |request| runtime.block_on(client.clone().put(request)).expect("stored"),
                criterion::BatchSize::PerIteration,
            );
        });
        group.bench_function(format!("get {} KiB", len >> 10), |b| {
            b.iter(|| {
                let request = pb::GetRequest {
                    envelope: envelope(),
                    space: SPACE.0,
                    chunk: last,
                    pg: pg.id.0,
                    offset: 0,
                    len: len as u32,
                };
                runtime.block_on(async {
                    let mut pieces = client.clone().get(request).await.expect("there").into_inner();
                    let mut got = 0;
                    while let Some(piece) = pieces.message().await.expect("a piece") {
                        got += piece.data.len();
                    }
                    assert_eq!(got, len);
                });
            });
        });
    }
    group.finish();
    runtime.block_on(node.shutdown());
}

criterion_group! {
    name = benches;
    // Beside a disk that stalls now and then, long runs of few samples say no more than short ones.
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(4));
    targets = disk, namespace, log, chunks, grpc
}
criterion_main!(benches);
