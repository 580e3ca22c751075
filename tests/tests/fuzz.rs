//! The bodies of the fuzzers on the stable toolchain: over a small corpus, real encodings, and seeded harm to both.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use weft_core::entry::{Command, Entry};
use weft_core::ids::{ChunkId, ClientId, GroupId, Ino, PgId, Seq, SpaceId, VolumeId};
use weft_core::name::{Name, XattrName};
use weft_core::namespace::inode::{Attr, Dirent, Extent, ExtentBody, Kind};
use weft_core::namespace::op::{AllocateMode, Commit, Op, RenameMode, SetAttr, SetTime, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, ListedEntry, Query};
use weft_core::time::Timestamp;
use weft_node::settings::Settings;
use weft_proto::convert::{Envelope, apply_reply, apply_request, query_reply, query_request};
use weft_proto::fuzzing::encode;
use weft_tests::fuzz::frugal::{Counting, most_used};
use weft_tests::fuzz::mutate::mutate;
use weft_tests::fuzz::{BODIES, Body, chunk, codec, log, machine, raft, settings, wire};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Harmed inputs per body, unless `WEFT_FUZZ_HARMED` asks for more.
const HARMED: u64 = 6000;

fn harmed() -> u64 {
    let asked = std::env::var("WEFT_FUZZ_HARMED").ok();
    asked.map_or(HARMED, |text| text.parse().expect("WEFT_FUZZ_HARMED is a number"))
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The committed inputs of a target, in the order of their names.
fn committed(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(target))
        .unwrap_or_else(|error| panic!("the corpus of {target}: {error}"))
        .map(|entry| entry.expect("an entry of the corpus").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a file of the corpus")).collect()
}

fn run(target: &str, body: Body) {
    let inputs = committed(target);
    assert!(inputs.len() >= 5, "{target} has {} inputs", inputs.len());
    for (nth, input) in inputs.iter().enumerate() {
        try_one(&format!("{target}, input {nth}"), body, input);
    }
    for seed in 0..harmed() {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut bytes = inputs.choose(&mut rng).expect("there are some").clone();
        let other = inputs.choose(&mut rng).expect("there are some");
        mutate(&mut rng, &mut bytes, other);
        try_one(&format!("{target}, seed {seed}"), body, &bytes);
    }
}

/// Runs a body; where it panics, says on which bytes, which then belong into the corpus.
fn try_one(what: &str, body: Body, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| body(bytes))).is_err() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{what}: {hex}");
    }
}

#[test]
fn the_codec_takes_any_bytes() {
    run("codec", codec::body);
}

#[test]
fn the_wire_takes_any_bytes() {
    run("wire", wire::body);
}

#[test]
fn the_machine_takes_any_request() {
    run("machine", machine::body);
}

#[test]
fn the_log_takes_any_bytes() {
    run("log", log::body);
}

#[test]
fn chunk_segments_take_any_bytes() {
    run("chunk", chunk::body);
}

#[test]
fn replicas_take_any_bytes() {
    run("raft", raft::body);
}

#[test]
fn settings_take_any_text() {
    run("settings", settings::body);
}

#[test]
fn every_body_has_a_target_and_a_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for (target, _) in BODIES {
        assert!(folder.join(format!("{target}.rs")).is_file(), "{target}");
        assert!(!committed(target).is_empty());
    }
}

#[test]
fn memory_is_counted() {
    let (value, used) = most_used(|| vec![0u8; 1 << 20].len());
    assert_eq!(value, 1 << 20);
    assert!(used >= 1 << 20);
}

/// Writes the corpus anew from real encodings: `cargo test -p weft-tests --test fuzz -- --ignored write_corpus`. Inputs
/// that found something have names of their own and stay.
#[test]
#[ignore = "writes into the source tree"]
fn write_corpus() {
    let write = |target: &str, name: String, bytes: &[u8]| {
        fs::create_dir_all(corpus(target)).expect("a folder");
        fs::write(corpus(target).join(name), bytes).expect("a file");
    };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/core/fixtures/v1");
    for (file, every) in [("entries.txt", 6), ("replies.txt", 8), ("records.txt", 2), ("site.txt", 1)] {
        let text = fs::read_to_string(fixtures.join(file)).expect("fixtures");
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        for (nth, pair) in lines.chunks(2).enumerate().step_by(every) {
            let hex = pair[0].as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).expect("hex digits"));
            let bytes: Vec<u8> = hex.map(|digits| u8::from_str_radix(digits, 16).expect("hex digits")).collect();
            write("codec", format!("{}-{nth:02}", file.trim_end_matches(".txt")), &bytes);
        }
    }
    let entry = Entry { time: Timestamp::default(), caller: None, command: Command::RaiseFeatureLevel(1) };
    write("codec", "raise".into(), &weft_core::codec::encode_entry(&entry));
    for (nth, message) in requests().iter().enumerate() {
        write("machine", format!("request-{nth:02}"), message);
        write("wire", format!("request-{nth:02}"), message);
    }
    for (nth, message) in replies().iter().enumerate() {
        write("wire", format!("reply-{nth}"), message);
    }
    for (nth, bytes) in weft_node::meta::raft_fuzzing::samples().iter().enumerate() {
        write("raft", format!("value-{nth:02}"), bytes);
    }
    for kind in 0..=8u8 {
        let mut bytes = vec![0; 40 + 4 * usize::from(kind)];
        (bytes[12], bytes[19], bytes[31]) = (kind, 7, 9);
        weft_node::meta::log::fuzzing::seal(log::SALT, log::POSITION, &mut bytes);
        write("log", format!("record-{kind}"), &bytes);
    }
    let mut header = b"weft-log".to_vec();
    header.extend([0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
    weft_node::meta::log::fuzzing::seal_header(&mut header);
    write("log", "header".into(), &header);
    for (nth, bytes) in chunk_samples().iter().enumerate() {
        write("chunk", format!("piece-{nth}"), bytes);
    }
    let texts = [
        "",
        "data = \"/var/lib/weft\"\nlisten = \"127.0.0.1:7400\"\n",
        "[raft]\nheartbeat_ms = 100\nelection_min_ms = 500\n",
        "listn = \"127.0.0.1:7400\"\n",
        "[chunks]\nsegment_mib = -1\n",
        "# \u{fc}\npeers = [\"a:1\", \"b:2\"]\nmeta = false",
    ];
    for (nth, text) in texts.iter().enumerate() {
        write("settings", format!("text-{nth}"), text.as_bytes());
    }
    write("settings", "documented".into(), Settings::default().documented_toml().as_bytes());
}

fn requests() -> Vec<Vec<u8>> {
    let name = |text: &'static str| Name::parse(text).expect("a good name");
    let xattr = || XattrName::parse("user.a").expect("a good name");
    let time = Timestamp { secs: 5, nanos: 7 };
    let set = SetAttr {
        mode: Some(0o640),
        uid: Some(1),
        gid: Some(2),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::To(time)),
        ctime: None,
    };
    let chunk = ChunkId { client: ClientId(1), counter: 9 };
    let extents = vec![
        Extent { offset: 0, len: 5, body: ExtentBody::Inline(Bytes::from_static(b"bytes")) },
        Extent { offset: 5, len: 9, body: ExtentBody::Chunk { chunk, pg: PgId(3), at: 1, chunk_len: 10 } },
        Extent { offset: 4096, len: 4 << 20, body: ExtentBody::Zero },
    ];
    let (root, dir, file) = (Ino::ROOT, Ino(2), Ino(3));
    let slot = weft_core::namespace::inode::SlotRef { space: SpaceId(1), slot: weft_core::ids::SlotId(4) };
    let ops = [
        Op::Mkdir { parent: root, name: name("new"), mode: 0o755 },
        Op::Create { parent: dir, name: name("f"), mode: 0o644, exclusive: false },
        Op::Mknod { parent: dir, name: name("p"), kind: Kind::Fifo, mode: 0o600, rdev: 0 },
        Op::Symlink { parent: root, name: name("l"), target: Bytes::from_static(b"a/f") },
        Op::Link { ino: file, parent: dir, name: name("g") },
        Op::Unlink { parent: root, name: name("b") },
        Op::Rmdir { parent: dir, name: name("d") },
        Op::Rename { parent: root, name: name("a"), new_parent: root, new_name: name("c"), mode: RenameMode::Exchange },
        Op::Setattr { ino: file, set: set.clone() },
        Op::Truncate { ino: file, size: 3, set, opened: true },
        Op::Commit(Commit {
            ino: file,
            extents,
            size_at_least: 1 << 20,
            mtime: Some(time),
            set: SetAttr::default(),
            clear_suid: true,
        }),
        Op::Allocate { ino: file, mode: AllocateMode::ZeroRange, offset: 2, len: 9000 },
        Op::CopyRange {
            source_volume: VolumeId(1),
            source: file,
            source_offset: 0,
            target: file,
            target_offset: 8192,
            len: 100,
        },
        Op::SetXattr { ino: file, name: xattr(), value: Bytes::from_static(b"value"), mode: XattrMode::Create },
        Op::RemoveXattr { ino: file, name: xattr() },
        Op::MakeJunction { parent: root, name: name("j"), slot },
        Op::RemoveJunction { parent: root, name: name("j") },
    ];
    let queries = [
        Query::Lookup { parent: root, name: name("a") },
        Query::Open { ino: file, read: true, write: true },
        Query::Readdir { dir: root, after: Some(name("a")), limit: 3, with_attrs: true },
        Query::Map { ino: file, offset: 4, limit: 2 },
        Query::GetXattr { ino: file, name: xattr() },
        Query::Access { ino: dir, mask: 7 },
    ];
    let envelope = || Envelope { client: ClientId(1), space: SpaceId(1), seq: Seq(7), ..Envelope::default() };
    let ops = ops.iter().map(|op| encode(&apply_request(envelope(), GroupId(1), VolumeId(1), op)));
    let queries = queries.iter().map(|query| encode(&query_request(envelope(), GroupId(1), VolumeId(1), query)));
    ops.chain(queries).collect()
}

fn replies() -> Vec<Vec<u8>> {
    let time = Timestamp { secs: -1, nanos: 999_999_999 };
    let attr = Attr {
        volume: VolumeId(1),
        ino: Ino(3),
        kind: Kind::File,
        mode: 0o644,
        uid: 1,
        gid: 2,
        nlink: 1,
        size: 5,
        allocated: 5,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        generation: 1,
        version: 2,
        parent: Ino(1),
        acl: None,
        default_acl: None,
    };
    let extents = vec![Extent { offset: 0, len: 5, body: ExtentBody::Zero }];
    let dirent = Dirent::Inode { ino: Ino(3), kind: Kind::File };
    let listed = ListedEntry { name: Name::parse("f").expect("a good name"), dirent, attr: Some(attr.clone()) };
    vec![
        encode(&apply_reply(&Outcome::Created { attr: attr.clone(), fresh: true })),
        encode(&apply_reply(&Outcome::Renamed { attr: attr.clone(), replaced: Some(Box::new(attr.clone())) })),
        encode(&query_reply(&Answer::Map { attr: attr.clone(), extents, more_from: Some(5) })),
        encode(&query_reply(&Answer::Entries { entries: vec![listed], end: true, dir: attr })),
        encode(&query_reply(&Answer::Names(vec![Bytes::from_static(b"user.a")]))),
    ]
}

/// The header of a segment, records with and without sums, a trailer and a table, all with zeroes for most fields.
fn chunk_samples() -> Vec<Vec<u8>> {
    use weft_node::chunk::fuzzing;
    let mut header = b"WSEG\0\x01\0\0".to_vec();
    header.resize(48, 0);
    fuzzing::seal_header(&mut header);
    let put = |len: u32| {
        let count = len.div_ceil(4096);
        let mut record = b"WREC\0\x01\x01\0".to_vec();
        record.resize(128 + 4 * count as usize, 0);
        record[20..24].copy_from_slice(&len.to_be_bytes());
        record[56..60].copy_from_slice(&len.to_be_bytes());
        record[60..64].copy_from_slice(&count.to_be_bytes());
        fuzzing::seal_record(&mut record, chunk::OFFSET);
        assert!(fuzzing::record_again(&record, chunk::OFFSET).is_some(), "the layout of records has changed");
        record
    };
    let mut delete = b"WREC\0\x01\x02\0".to_vec();
    delete.resize(128, 0);
    fuzzing::seal_record(&mut delete, chunk::OFFSET);
    let mut trailer = b"WEND\0\x01\0\0".to_vec();
    trailer.resize(72, 0);
    fuzzing::seal_trailer(&mut trailer, chunk::OFFSET);
    vec![header, put(5), put(9000), delete, trailer, vec![0; 144]]
}
