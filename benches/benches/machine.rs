//! What a created file costs the machine of a group: one entry after the other, held back and made in batches, and at the
//! holder of a write lease. Records lie in memory, so it is the machine alone. `cargo bench -p weft-benches`.

use std::collections::BTreeMap;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weft_core::entry::{Caller, Command, Cred, Entry};
use weft_core::ids::{ClientId, GroupId, Ino, Seq, SlotId, SpaceId, VolumeId};
use weft_core::machine;
use weft_core::name::Name;
use weft_core::namespace::inode::{Extent, ExtentBody};
use weft_core::namespace::lease::{Held, Local, Tried};
use weft_core::namespace::op::{Commit, Op, SetAttr};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::volume::AttachVolume;
use weft_core::time::Timestamp;

const GROUP: GroupId = GroupId(1);
const VOLUME: VolumeId = VolumeId(1);
const SPACE: SpaceId = SpaceId(1);
const CLIENT: ClientId = ClientId(77);
/// Files at a time.
const FILES: u64 = 200;

#[derive(Clone)]
struct Group {
    records: BTreeMap<Bytes, Bytes>,
    seq: u64,
}

impl Group {
    fn apply(&mut self, caller: Option<Caller>, command: Command) -> Outcome {
        let entry = Entry { time: Timestamp::from_nanos(1_000_000 + self.seq), caller, command };
        let applied = machine::apply(&self.records, GROUP, &entry).expect("a map does not fail");
        for (key, change) in applied.changes {
            match change {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
        applied.reply.expect("not refused")
    }

    fn ask(&mut self, op: Op) -> Outcome {
        self.seq += 1;
        let (seq, acked_below) = (Seq(self.seq), Seq(self.seq));
        let caller = Caller { client: CLIENT, space: SPACE, seq, acked_below, cred: Cred::root() };
        self.apply(Some(caller), Command::Op { volume: VOLUME, op })
    }
}

fn create(dir: Ino, nth: u64) -> Op {
    Op::Create { parent: dir, name: Name::parse(format!("file {nth}")).expect("a name"), mode: 0o644, exclusive: true }
}

fn write(ino: Ino) -> Op {
    let body = ExtentBody::Inline(Bytes::from(vec![7; 4096]));
    let extents = vec![Extent { offset: 0, len: 4096, body }];
    Op::Commit(Commit { ino, extents, size_at_least: 0, mtime: None, set: SetAttr::default(), clear_suid: false })
}

/// A group with a directory that is leased, and what its holder knows.
fn leased() -> (Group, Local, Ino) {
    let mut group = Group { records: BTreeMap::new(), seq: 0 };
    let attach = AttachVolume { volume: VOLUME, space: SPACE, slot: SlotId(1), mode: 0o755, uid: 0, gid: 0 };
    group.apply(None, Command::AttachVolume(attach));
    group.apply(None, Command::OpenSession { client: CLIENT, space: SPACE });
    let mkdir = Op::Mkdir { parent: Ino::ROOT, name: Name::parse("dir").expect("a name"), mode: 0o755 };
    let Outcome::Created { attr, .. } = group.ask(mkdir) else { panic!("a directory") };
    let numbers = 2 * FILES as u32;
    let Outcome::Leased { first, dir, .. } = group.ask(Op::Lease { dir: attr.ino, numbers }) else { panic!("a lease") };
    let mut local = Local::new(VOLUME, CLIENT, SPACE);
    local.lease(&dir, first, numbers);
    (group, local, dir.ino)
}

/// Makes and writes files at the holder: what it would send.
fn hold(local: &mut Local, dir: Ino) -> Vec<Held> {
    let mut items = Vec::new();
    for nth in 0..FILES {
        let mut ino = None;
        for op in [Some(create(dir, nth)), None] {
            let op = op.or_else(|| ino.map(write)).expect("created before it is written");
            match local.apply(dir, Timestamp::from_nanos(1_000), &Cred::root(), &op) {
                Tried::Done(outcome, item, _) => {
                    if let Outcome::Created { attr, .. } = outcome {
                        ino = Some(attr.ino);
                    }
                    items.push(*item);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    items
}

fn files(bench: &mut Criterion) {
    let mut bench = bench.benchmark_group("create and write 4 KiB");
    bench.throughput(Throughput::Elements(FILES));
    let (group, local, dir) = leased();
    bench.bench_function("two entries each", |b| {
        b.iter_batched(
            || group.clone(),
            |mut group| {
                // At the root: nothing below the leased directory is changed past what is held back.
                for nth in 0..FILES {
                    let Outcome::Created { attr, .. } = group.ask(create(Ino::ROOT, nth)) else { panic!("a file") };
                    group.ask(write(attr.ino));
                }
                group
            },
            BatchSize::SmallInput,
        );
    });
    bench.bench_function("at the holder of a lease", |b| {
        b.iter_batched(|| leased().1, |mut local| hold(&mut local, dir), BatchSize::SmallInput);
    });
    let items = hold(&mut { local }, dir);
    bench.bench_function("held back, in one entry", |b| {
        b.iter_batched(
            || (group.clone(), items.clone()),
            |(mut group, items)| {
                let made = group.ask(Op::Held { items, give_up: Vec::new() });
                assert_eq!(made, Outcome::Held { refused: Vec::new() });
                group
            },
            BatchSize::SmallInput,
        );
    });
    bench.finish();
}

criterion_group!(benches, files);
criterion_main!(benches);
